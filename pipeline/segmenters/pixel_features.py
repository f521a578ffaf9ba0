"""The features of a pixel by which it is called like another: bands, indices, channels, texture and
place.

Each looks no further than the smoothing and the texture's window, so that they are the same in
every window that has these around a pixel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from pipeline.errors import JobError, nearest
from pipeline.image.bands import indices
from pipeline.imageops.colours import CHANNELS, COLOURS, channel
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
"""Levels of grey between which entropy tells."""
LAB = ("lightness", "a", "b")
CONTRAST = 100.0
"""The contrast of an image: between what a hundredth of its pixels lies below and what a hundredth
lies above, in the band that spreads most.
"""
AXES = 3
"""Places count as plane, row and column, in two dimensions too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """The numbers of a pixel by which it is called alike: bands, and what is asked for besides."""

    bands: tuple[int | str, ...] | None = None
    """Bands, by number from 1 or by name; None: all."""

    indices: tuple[tuple[int | str, int | str], ...] = ()
    """Pairs of bands (a, b), of each the normalised difference (a - b) / (a + b)."""

    channels: tuple[str, ...] = ()
    """Channels of the colour: hue, saturation, value; lightness, a, b; haematoxylin, eosin, dab."""

    texture: tuple[str, ...] = ()
    """Of the mean of all bands around a pixel: mean, deviation, entropy, gabor."""

    window: int = 15
    """The extent in pixels of what mean, deviation and entropy look at, an odd number."""

    wavelength: float = 8.0
    """Of the pattern that gabor looks for, in pixels."""

    position: float = 0.0
    """How much the place of a pixel counts beside its other features; 0: not at all."""

    sigma: float = 0.0
    """Gaussian smoothing of all features, in pixels."""

    greys: tuple[float, ...] | None = None
    """The limits between the levels of grey for entropy; None: they are found in the image."""

    connectivity: int | None = None
    """Which neighbours touch, where objects are wanted: 4 or 8 in two dimensions, 6 or 26 in three;
    None: 4 or 6.
    """

    min_area: int = 0
    """Pieces of a class of fewer pixels are taken away."""

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
        """How far away features look, in pixels."""
        local = [self.window // 2] if set(self.texture) - {"gabor"} else [0]
        return gaussian_radius(self.sigma) + max(
            local + [gabor_reach(self.wavelength)] * ("gabor" in self.texture)
        )

    def reads(self, number: int) -> tuple[int, ...]:
        """The indices, from 0, of those of ``number`` bands that features are made of."""
        if self.texture or self.bands is None:
            return tuple(range(number))
        pairs = (band for pair in self.indices for band in pair)
        return tuple(
            dict.fromkeys(
                [*indices((*self.bands, *pairs), number), *(COLOURS if self.channels else ())]
            )
        )

    def features(self, block: Pixels, valid: Flags, origin: tuple[int, ...]) -> Floats:
        """(feature, row, column) or (feature, plane, row, column); NaN where one is not known.
        JobError if a band is missing.
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
        """Label the connected pieces of classes of one block as if it were the whole image: int32,
        in raster order.
        """
        return label(self, block, valid)

    @property
    def greys_missing(self) -> bool:
        """Whether the levels of grey are still to be found, before anything else."""
        return "entropy" in self.texture and self.greys is None

    def with_greys(self, rows: Floats) -> Any:
        """The same with levels of grey that hold equally many pixels of the sample."""
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
        """What each feature is multiplied by, so that all spread alike and places count as asked
        for; 0 where it has one value only.
        """
        spread = rows.std(axis=0)
        weights = np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 0)
        if self.position:
            weights[-AXES:] *= self.position
        return np.array([rounded(weight) for weight in weights.tolist()])


def rounded(number: float) -> float:
    """To nine digits, below which machines differ."""
    return float(f"{number:.9g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """Bands in a common scale, in which the contrast of the whole image is 100."""

    bands: tuple[int | str, ...] | None = None
    """Bands, by number from 1 or by name; None: all."""

    lab: bool = False
    """Whether an image of red, green and blue is looked at in CIELAB."""

    sigma: float = 0.0
    """The standard deviation of Gaussian smoothing, in pixels; 0: none."""

    gain: float | None = None
    """What features are multiplied by; None: as much as makes their contrast 100."""

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
        """How many pixels away the smoothing looks."""
        return gaussian_radius(self.sigma)

    @property
    def unfitted(self) -> bool:
        """Whether the contrast of the image is still to be found."""
        return self.gain is None

    def reads(self, number: int) -> tuple[int, ...]:
        """The indices, from 0, of those of ``number`` bands that make pixels alike."""
        return COLOURS if self.lab else indices(self.bands or range(1, number + 1), number)

    def feature(self, block: Pixels, valid: Flags) -> Pixels:
        """(band, …): what makes pixels alike, smoothed."""
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
        """The same with the gain that the histograms of the bands show."""
        known = [h for h in histograms if len(h.centers)]
        widest = max((h.percentile(99) - h.percentile(1) for h in known), default=0.0)
        widest = widest or max((float(np.ptp(h.centers)) for h in known), default=0.0)
        return replace(self, gain=CONTRAST / widest if widest > 0 else 1.0)

    def scaled(self, block: Pixels, valid: Flags) -> Floats:
        """(band, …): features in their common scale; NaN where one is not known."""
        return np.ascontiguousarray(
            self.feature(block, valid).astype(np.float64) * (self.gain or 1.0)
        )
