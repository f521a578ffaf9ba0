"""Augmentation: random variations of a crop's values and geometry.

All are drawn from a given generator, so that a seed determines them. Values are scaled already,
mostly from 0 to 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.errors import JobError

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Augment:
    """Strength of the variations, drawn anew for each crop."""

    flips: bool = True
    """Whether rows and columns may be reversed."""

    turns: bool = True
    """Whether rows and columns may be swapped; with ``flips``, all quarter turns."""

    zoom: float = 1.3
    """The largest factor of enlarging or shrinking; 1: no zoom."""

    brightness: float = 0.1
    """The largest value added to all values."""

    contrast: float = 0.2
    """The largest relative change of the distance of values from their mean."""

    gamma: float = 0.3
    """The largest logarithm of the exponent that values are raised to."""

    noise: float = 0.03
    """The largest standard deviation of normal noise."""

    blur: float = 1.0
    """The largest standard deviation in pixels of a Gaussian; every other crop stays sharp."""

    colour: float = 0.0
    """The largest share by which bands are mixed, and each is scaled: variations of stain and hue.
    """

    shade: float = 1.0
    """Each object is dimmed by a factor of its own, from this to 1, in every other crop."""

    def __post_init__(self) -> None:
        for name, low, high in (("zoom", 1, 8), ("shade", 0, 1)):
            if not low <= getattr(self, name) <= high:
                raise JobError(
                    f"{name}: {getattr(self, name)!r}; allowed: a factor from {low} to {high}"
                )
        for name in ("brightness", "contrast", "gamma", "noise", "blur", "colour"):
            if not 0 <= getattr(self, name) < np.inf:
                raise JobError(f"{name}: {getattr(self, name)!r}; allowed: 0 or more")


def varied(image: Floats, objects: Labels, augment: Augment, rng: np.random.Generator) -> Floats:
    """Vary the values of a crop.

    Parameters
    ----------
    image : float ndarray, (band, row, column)
        The crop.
    objects : int ndarray, (row, column)
        Objects to shade, from 1.
    augment : Augment
        The strength of the variations.
    rng : numpy.random.Generator
        The source of randomness.

    Returns
    -------
    float ndarray, (band, row, column)
        The varied crop.
    """
    from scipy import ndimage

    image = _shaded(image, objects, augment.shade, rng) if rng.random() < 0.5 else image
    low = min(0.0, float(image.min()))  # powers of negative numbers are undefined
    image = (image - low) ** np.exp(rng.uniform(-augment.gamma, augment.gamma)) + low
    mean = image.mean(axis=(1, 2), keepdims=True)
    image = (image - mean) * (1 + rng.uniform(-augment.contrast, augment.contrast)) + mean
    image = image + rng.uniform(-augment.brightness, augment.brightness)
    mixing = np.eye(len(image)) + rng.uniform(-augment.colour, augment.colour, (len(image),) * 2)
    image = np.einsum("ab,brc->arc", mixing, image)
    sigma = rng.uniform(0, augment.blur)
    if rng.random() < 0.5:
        image = ndimage.gaussian_filter(image, (0, sigma, sigma))
    return np.asarray(image + rng.normal(0, rng.uniform(0, augment.noise), image.shape), np.float32)


def _shaded(image: Floats, objects: Labels, least: float, rng: np.random.Generator) -> Floats:
    """Dim each object towards the background's median by a factor of its own, with soft borders."""
    from scipy import ndimage

    if least >= 1 or not (objects > 0).any() or not (objects <= 0).any():
        return image
    names, where = np.unique(np.maximum(objects, 0), return_inverse=True)
    factor = np.where(names > 0, rng.uniform(least, 1, len(names)), 1)[where].reshape(objects.shape)
    ground = np.median(image[:, objects <= 0], axis=1)[:, None, None]
    return np.asarray(ground + (image - ground) * ndimage.gaussian_filter(factor, 1.0), np.float32)


@dataclass(frozen=True, slots=True)
class Place:
    """Layers, all (…, row, column) of one extent, and the position of a crop in them."""

    layers: tuple[npt.NDArray[np.generic], ...]
    start: tuple[int, int]
    """The crop's first row and column; it may lie outside."""

    def turned(self, size: int, augment: Augment, rng: np.random.Generator) -> Place:
        """Flip and turn the layers, so that a crop of ``size`` rows and columns stays the same."""
        place = self
        if augment.turns and rng.random() < 0.5:
            place = Place(
                tuple(np.swapaxes(layer, -1, -2) for layer in place.layers), place.start[::-1]
            )
        for axis in (0, 1):
            if augment.flips and rng.random() < 0.5:
                extent = place.layers[0].shape[axis - 2]
                start = list(place.start)
                start[axis] = extent - start[axis] - size
                place = Place(
                    tuple(np.flip(layer, axis - 2) for layer in place.layers), (start[0], start[1])
                )
        return place
