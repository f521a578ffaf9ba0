"""Features of a pixel for clustering and comparing: bands, indices, channels, texture, position.

Features depend only on pixels within the smoothing and the texture window, so they are the same in
every window that contains these.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from pipeline.errors import JobError, nearest
from pipeline.image.bands import indices
from pipeline.imageops.colours import CHANNELS, COLOURS, SPELT, channel
from pipeline.imageops.features import Feature
from pipeline.imageops.filters import (
    gabor_reach,
    gaussian_radius,
    local_entropy,
    local_gabor,
    local_mean_and_deviation,
    smooth,
)
from pipeline.imageops.histograms import Histogram
from pipeline.segmenters import Identity, label

Pixels = npt.NDArray[Any]
Flags = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
TEXTURES = ("mean", "deviation", "entropy", "gabor")
GREYS = 16
"""Grey levels for the entropy."""
LAB = ("lightness", "a", "b")
CONTRAST = 100.0
"""The contrast of an image after scaling: the difference between the 1st and the 99th percentile,
in the band where it is largest.
"""
AXES = 3
"""Positions are plane, row and column, also in two dimensions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """Features of a pixel for clustering: bands, indices, channels, texture and position."""

    bands: tuple[int | str, ...] | None = None
    """The bands to use, by number from 1 or by name; None: all."""

    indices: tuple[tuple[int | str, int | str], ...] = ()
    """Pairs of bands (a, b), by number from 1 or by name; each adds the normalised difference (a -
    b) / (a + b).
    """

    channels: tuple[str, ...] = ()
    """Colour channels to use: hue, saturation, value; lightness, a, b; haematoxylin (or
    hematoxylin), eosin, dab.
    """

    texture: tuple[str, ...] = ()
    """Texture measures of the mean of all bands around a pixel: mean, deviation, entropy, gabor."""

    window: int = 15
    """Width of the window for mean, deviation and entropy in pixels, an odd number from 3."""

    wavelength: float = 8.0
    """Wavelength of the Gabor filter in pixels, 2 to 200."""

    position: float = 0.0
    """Weight of a pixel's position against its other features, 0 or more; 0: position is not used.
    """

    sigma: float = 0.0
    """Standard deviation of the Gaussian smoothing of all features, in pixels; 0: no smoothing."""

    greys: tuple[float, ...] | None = None
    """The limits between grey levels for the entropy; None: they are found in the image."""

    connectivity: int | None = None
    """Number of neighbours of a pixel where objects are wanted: 4 or 8 in two dimensions, 6 or 26
    in three; None: 4 or 6.
    """

    min_area: int = 0
    """Connected pieces of a class of fewer pixels are removed."""

    identity: ClassVar[Identity] = "connected"
    result: ClassVar[str] = "semantic"
    of_bands: ClassVar[tuple[str, ...]] = ("bands", "indices")

    def __post_init__(self) -> None:
        for band in self.bands or ():
            Feature(band=band)  # refuses what cannot be
        for pair in self.indices:
            Feature(index=pair)
        Feature(sigma=self.sigma)
        if self.bands == () and not (self.indices or self.channels or self.texture):
            raise JobError("bands: none, and nothing else; allowed: at least one feature")
        object.__setattr__(self, "channels", tuple(SPELT.get(c, c) for c in self.channels))
        for name, given, allowed in (
            ("channels", self.channels, CHANNELS),
            ("texture", self.texture, TEXTURES),
        ):
            for word in given:
                if word not in allowed:
                    raise JobError(f"{name}: {word!r}; {nearest(word, allowed)}")
        if self.window < 3 or self.window % 2 == 0:
            raise JobError(f"window: {self.window!r}; allowed: an odd number of pixels, from 3")
        if not 2 <= self.wavelength <= 200:
            raise JobError(f"wavelength: {self.wavelength!r}; allowed: 2 to 200 pixels")
        if not self.position >= 0:
            raise JobError(f"position: {self.position!r}; allowed: 0 or more")

    @property
    def reach(self) -> int:
        """The radius of the smoothing plus that of the texture window or filter, in pixels."""
        local = [self.window // 2] if set(self.texture) - {"gabor"} else [0]
        return gaussian_radius(self.sigma) + max(
            local + [gabor_reach(self.wavelength)] * ("gabor" in self.texture)
        )

    def reads(self, number: int) -> tuple[int, ...]:
        """List the bands that the features use.

        Parameters
        ----------
        number : int
            How many bands the image has.

        Returns
        -------
        tuple of int
            Indices of bands, from 0.
        """
        if self.texture or self.bands is None:
            return tuple(range(number))
        pairs = (band for pair in self.indices for band in pair)
        return tuple(
            dict.fromkeys(
                [*indices((*self.bands, *pairs), number), *(COLOURS if self.channels else ())]
            )
        )

    def features(self, block: Pixels, valid: Flags, origin: tuple[int, ...]) -> Floats:
        """Compute the features of each pixel.

        Parameters
        ----------
        block : ndarray, (band, row, column) or (band, plane, row, column)
            The pixels of one window.
        valid : bool ndarray of the shape ``block.shape[1:]``
            True where a pixel was measured.
        origin : tuple of int
            The position in the image of the block's first pixel.

        Returns
        -------
        float64 ndarray, (feature, row, column) or (feature, plane, row, column)
            Features; NaN where a feature is unknown.

        Raises
        ------
        JobError
            The image lacks a band.
        """
        grey: Floats = block.mean(axis=0, dtype=np.float64) if self.texture else np.zeros(0)
        if self.greys_missing:
            return grey[None]
        looks = [*self._spectral(block, valid), *self._textures(grey, valid)]
        found = np.zeros((len(looks) + AXES * (self.position > 0), *valid.shape))
        for number, value in enumerate(looks):
            found[number] = smooth(value, valid, self.sigma) if self.sigma else value
        if self.position:
            for axis, place in enumerate(
                np.ix_(*(np.arange(n) + o for n, o in zip(valid.shape, origin, strict=True)))
            ):
                found[axis - valid.ndim] = place
        return found

    def __call__(self, block: Pixels, valid: Flags | None = None) -> npt.NDArray[np.int32]:
        """Label one block as if it were the whole image.

        Labels are numbered in raster order. ``min_area`` is not applied.

        Parameters
        ----------
        block : ndarray, (band, row, column) or (band, plane, row, column)
            The pixels of one window.
        valid : bool ndarray of the shape ``block.shape[1:]``, optional
            True where a pixel was measured; None: everywhere.

        Returns
        -------
        int32 ndarray of the shape ``block.shape[1:]``
            Labels from 1; 0 is background.
        """
        return label(self, block, valid)

    @property
    def greys_missing(self) -> bool:
        """Whether the grey levels must be found before anything else."""
        return "entropy" in self.texture and self.greys is None

    def with_greys(self, rows: Floats) -> Any:
        """Return a copy with grey levels that hold equally many pixels of a sample.

        Parameters
        ----------
        rows : float64 ndarray, (pixel, 1)
            The grey values of the sample.

        Returns
        -------
        Features
            A copy with grey levels.
        """
        limits = np.unique(
            np.quantile(rows[:, 0], np.arange(1, GREYS) / GREYS, method="inverted_cdf")
        )
        return replace(self, greys=tuple(limits.tolist()))

    def _spectral(self, block: Pixels, valid: Flags) -> list[Pixels]:
        bands = range(1, len(block) + 1) if self.bands is None else self.bands
        found = [Feature(band=band).feature(block, valid) for band in bands]
        found += [Feature(index=pair).feature(block, valid) for pair in self.indices]
        return found + [channel(block, name) for name in self.channels]

    def _textures(self, grey: Floats, valid: Flags) -> list[Floats]:
        made = {}
        if {"mean", "deviation"} & set(self.texture):
            made["mean"], made["deviation"] = local_mean_and_deviation(grey, valid, self.window)
        if "entropy" in self.texture:
            made["entropy"] = local_entropy(grey, valid, self.window, self.greys or ())
        if "gabor" in self.texture:
            made["gabor"] = local_gabor(grey, valid, self.wavelength)
        return [made[name] for name in self.texture]

    def weigh(self, rows: Floats) -> Floats:
        """Compute weights that give all features the same spread.

        Parameters
        ----------
        rows : float64 ndarray, (pixel, feature)
            The sample.

        Returns
        -------
        float64 ndarray, (feature,)
            Factors, with ``position`` applied; 0 for a feature of a single value.
        """
        spread = rows.std(axis=0)
        weights = np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 0)
        if self.position:
            weights[-AXES:] *= self.position
        return np.array([rounded(weight) for weight in weights.tolist()])


def rounded(number: float) -> float:
    """Round to nine digits, below which processors differ.

    Parameters
    ----------
    number : float
        A number.

    Returns
    -------
    float
        The rounded number.
    """
    return float(f"{number:.9g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """Bands in a common scale, in which the contrast of the whole image is 100."""

    bands: tuple[int | str, ...] | None = None
    """The bands to use, by number from 1 or by name; None: all."""

    lab: bool = False
    """Whether red, green and blue are converted to CIELAB first."""

    sigma: float = 0.0
    """Standard deviation of the Gaussian smoothing, in pixels; 0: no smoothing."""

    gain: float | None = None
    """Factor for all bands; None: the factor that makes the contrast of the image 100."""

    of_bands: ClassVar[tuple[str, ...]] = ("bands",)

    def __post_init__(self) -> None:
        if self.bands == ():
            raise JobError("bands: none; allowed: at least one, or nothing for all")
        if self.lab and self.bands is not None:
            raise JobError("lab and bands are both given; allowed: one of them")
        for band in self.bands or (1,):
            Feature(band=band, sigma=self.sigma)  # refuses what cannot be

    @property
    def radius(self) -> int:
        """The radius of the smoothing, in pixels."""
        return gaussian_radius(self.sigma)

    @property
    def unfitted(self) -> bool:
        """Whether the contrast of the image must still be found."""
        return self.gain is None

    def reads(self, number: int) -> tuple[int, ...]:
        """List the bands that are used.

        Parameters
        ----------
        number : int
            How many bands the image has.

        Returns
        -------
        tuple of int
            Indices of bands, from 0.
        """
        return COLOURS if self.lab else indices(self.bands or range(1, number + 1), number)

    def feature(self, block: Pixels, valid: Flags) -> Pixels:
        """Select, convert and smooth the bands.

        Parameters
        ----------
        block : ndarray, (band, row, column) or (band, plane, row, column)
            The pixels of one window.
        valid : bool ndarray of the shape ``block.shape[1:]``
            True where a pixel was measured.

        Returns
        -------
        ndarray, (band, row, column) or (band, plane, row, column)
            The bands in their own scale.
        """
        if self.lab:
            found = [channel(block, name) for name in LAB]
        else:
            found = [
                Feature(band=band).feature(block, valid)
                for band in self.bands or range(1, len(block) + 1)
            ]
        return np.stack(
            [smooth(value, valid, self.sigma) for value in found] if self.sigma else found
        )

    def fit(self, histograms: list[Histogram]) -> Any:
        """Return a copy with the gain that the contrast of the image gives.

        Parameters
        ----------
        histograms : list of Histogram
            One for each band that is read, over the whole image.

        Returns
        -------
        Contrast
            A fitted copy.
        """
        known = [h for h in histograms if len(h.centers)]
        widest = max((h.percentile(99) - h.percentile(1) for h in known), default=0.0)
        widest = widest or max((float(np.ptp(h.centers)) for h in known), default=0.0)
        return replace(self, gain=CONTRAST / widest if widest > 0 else 1.0)

    def scaled(self, block: Pixels, valid: Flags) -> Floats:
        """Compute the features in the common scale.

        Parameters
        ----------
        block : ndarray, (band, row, column) or (band, plane, row, column)
            The pixels of one window.
        valid : bool ndarray of the shape ``block.shape[1:]``
            True where a pixel was measured.

        Returns
        -------
        float64 ndarray, (band, row, column) or (band, plane, row, column)
            Scaled features; NaN where unknown.
        """
        return np.ascontiguousarray(
            self.feature(block, valid).astype(np.float64) * (self.gain or 1.0)
        )
