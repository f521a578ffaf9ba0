"""Steps before segmenting: each makes another image from the image, band by band.

A step is a callable from a block (band, row, column) or (band, plane, row, column) and the mask of
its valid pixels to a block of the same extent. It states its ``reach`` in pixels, and may be fitted
to the whole image as a segmenter may. What is made of pixels that are not valid does not matter.
Those that are ``bandwise`` make each band of the same band alone, and take a mask for each band.
One that makes other bands says what they are called: ``named(names) -> names``; ``of_bands`` is as
for a segmenter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from pipeline.errors import JobError, SegmenterError
from pipeline.image.bands import indices, unlike
from pipeline.imageops.features import Feature
from pipeline.imageops.filters import gaussian_radius, local_median, opening, smooth
from pipeline.imageops.histograms import MOST_BINS, Histogram

Pixels = npt.NDArray[Any]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Smooth:
    """A Gaussian mean of the valid pixels."""

    sigma: float = 1.0
    """The standard deviation in pixels."""

    portable: ClassVar[bool] = True
    bandwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.sigma < 1000:
            raise JobError(f"sigma: {self.sigma!r}; allowed: more than 0, less than 1000 pixels")

    @property
    def reach(self) -> int:
        """The Gaussian's radius in pixels."""
        return gaussian_radius(self.sigma)

    def __call__(self, block: Pixels, valid: Flags) -> Pixels:
        """float64."""
        return np.stack([smooth(band, good, self.sigma) for band, good in _bands(block, valid)])


@dataclass(frozen=True, slots=True)
class Denoise:
    """The median of the valid pixels in a square (a cube): takes away specks and keeps edges."""

    radius: int = 1
    """How far the square goes beyond its middle, in pixels."""

    portable: ClassVar[bool] = True
    bandwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _refuse_radius(self.radius)

    @property
    def reach(self) -> int:
        """The radius."""
        return self.radius

    def __call__(self, block: Pixels, valid: Flags) -> Pixels:
        """float64."""
        return np.stack(
            [local_median(band, good, self.radius) for band, good in _bands(block, valid)]
        )


@dataclass(frozen=True, slots=True)
class Background:
    """The image less its background: what is left of it when everything smaller than a square, or
    than a Gaussian, is gone.
    """

    radius: int = 50
    """In pixels: half the square's extent, or twice the Gaussian's standard deviation. Larger than
    the objects.
    """

    method: Literal["opening", "gaussian"] = "opening"
    """``opening``: bright objects on a darker ground (white top-hat). ``gaussian``: either, on a
    ground that changes slowly.
    """

    portable: ClassVar[bool] = True
    bandwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _refuse_radius(self.radius)
        if self.method not in ("opening", "gaussian"):
            raise JobError(f"method: {self.method!r}; allowed: 'opening' or 'gaussian'")

    @property
    def reach(self) -> int:
        """Twice the radius, in pixels."""
        return 2 * self.radius

    def __call__(self, block: Pixels, valid: Flags) -> Pixels:
        """float64."""
        if self.method == "gaussian":
            return np.stack(
                [band - smooth(band, good, self.radius / 2) for band, good in _bands(block, valid)]
            )
        return np.stack(
            [band - opening(band, good, self.radius) for band, good in _bands(block, valid)]
        )


@dataclass(frozen=True, slots=True)
class Stretch:
    """Each band so that one percentile of its values over the whole image becomes 0 and another 1;
    what lies beyond is cut off.
    """

    low: float = 1.0
    """Per cent of the pixels that become 0."""

    high: float = 99.0
    """Per cent of the pixels below those that become 1."""

    limits: tuple[tuple[float, float], ...] | None = None
    """For each band the values that become 0 and 1; None: they are found in the image's histogram.
    """

    portable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 100:
            raise JobError(
                f"low, high: {self.low!r}, {self.high!r}; allowed: percentiles from 0 to 100, "
                f"the lower first"
            )
        if self.limits is not None and not all(
            len(pair) == 2 and pair[0] <= pair[1] for pair in self.limits
        ):
            raise JobError(
                f"limits: {self.limits!r}; allowed: two numbers for each band, the lower first"
            )

    reach = 0
    bandwise: ClassVar[bool] = True
    bins = MOST_BINS

    @property
    def unfitted(self) -> bool:
        """Whether the limits are still to be found."""
        return self.limits is None

    def feature(self, block: Pixels) -> Pixels:
        """Every band."""
        return block

    def fit(self, histograms: list[Histogram]) -> Stretch:
        """The same with the limits found. SegmenterError for an image without valid pixels."""
        if not all(histogram.counts.size for histogram in histograms):
            raise SegmenterError("no percentiles can be found: the image has no valid pixel")
        return replace(
            self,
            limits=tuple((h.percentile(self.low), h.percentile(self.high)) for h in histograms),
        )

    def __call__(self, block: Pixels) -> Pixels:
        """float64, from 0 to 1; 0 where a band has one value only. JobError where the bands are not
        as many as the limits.
        """
        limits = self.limits or ()
        if len(limits) != len(block):
            raise JobError(
                f"limits: {len(limits)} for an image of {len(block)} bands; allowed: two numbers "
                f"for each"
            )
        return np.stack(
            [
                ((b - low) / ((high - low) or 1.0)).clip(0, 1)
                for b, (low, high) in zip(block, limits, strict=True)
            ]
        )


@dataclass(frozen=True, slots=True)
class Scale:
    """Every value times a factor and plus an offset: digital numbers to reflectance, say."""

    factor: float = 1.0
    """What values are multiplied by: 0.0001 for reflectance of Sentinel-2."""

    offset: float = 0.0
    """What is added after that: -0.1 for Sentinel-2 since processing baseline 04.00."""

    portable: ClassVar[bool] = True
    reach = 0
    bandwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not (np.isfinite([self.factor, self.offset]).all() and self.factor != 0):
            raise JobError(
                f"factor and offset: {self.factor!r} and {self.offset!r}; allowed: finite "
                f"numbers, and a factor that is not 0"
            )

    def __call__(self, block: Pixels) -> Pixels:
        """float64."""
        return np.asarray(block * np.float64(self.factor) + np.float64(self.offset))


@dataclass(frozen=True, slots=True)
class Index:
    """A normalised difference of two bands, (a - b) / (a + b), in place of the bands or as one
    more; NaN where a + b is 0.
    """

    bands: tuple[int | str, int | str]
    """(a, b), by number from 1 or by name: of near infrared and red it is the NDVI, of green and
    near infrared the NDWI.
    """

    append: bool = False
    """Whether the image keeps its bands, and has this as its last."""

    name: str | None = None
    """What the band is called; None: index_A_B, of the names of the two, such as index_nir_red, or
    index_4_3 where they have none.
    """

    portable: ClassVar[bool] = True
    reach = 0
    of_bands: ClassVar[tuple[str, ...]] = ("bands",)

    def __post_init__(self) -> None:
        try:
            Feature(index=self.bands)
        except JobError as error:
            raise JobError(str(error).replace("index:", "bands:", 1)) from error
        if self.name == "":
            raise JobError("name: ''; allowed: what the band is called, or nothing for index_A_B")

    def named(self, names: Sequence[str]) -> tuple[str, ...]:
        """What the bands are called after it, by what they are called before, once its own are
        numbers.
        """
        a, b = (names[int(band) - 1] for band in self.bands)
        name = self.name or f"index_{a}_{b}"
        return (*names, unlike(name, names)) if self.append else (name,)

    def reads(self, number: int) -> tuple[int, ...]:
        """The indices, from 0, of the two bands."""
        return indices(self.bands, number)

    def measured(self, measured: Flags) -> Flags:
        """Where the index was measured: where both bands were; as the last of the bands, where
        these are kept.
        """
        both = np.asarray(
            measured[[min(k, len(measured) - 1) for k in self.reads(len(measured))]].all(axis=0)
        )[None]
        return np.concatenate([measured, both]) if self.append else both

    def __call__(self, block: Pixels, valid: Flags) -> Pixels:
        """float64. JobError if a band is missing."""
        index = Feature(index=self.bands).feature(block, valid)[None]
        return np.concatenate([block.astype(np.float64), index]) if self.append else index


def _bands(block: Pixels, valid: Flags) -> Iterator[tuple[Pixels, Flags]]:
    """Each band, and where it was measured: ``valid`` is of the block's shape, or of one band for
    all.
    """
    return zip(block, np.broadcast_to(valid, block.shape), strict=True)


def _refuse_radius(radius: object) -> None:
    if isinstance(radius, bool) or not isinstance(radius, int) or not 1 <= radius < 1000:
        raise JobError(f"radius: {radius!r}; allowed: a whole number of pixels, from 1 to 999")
