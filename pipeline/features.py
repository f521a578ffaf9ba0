"""What is segmented: one number per pixel, made from bands and smoothed.

Below the segmenters (a floor that DESIGN does not draw), because every family of them begins with it.

Smoothing leaves out pixels that are not valid, yet gives to the last bit what plain smoothing gives where no such pixel is near:
which of the two is used is decided per pixel, by what lies within reach, and never per window. So it does not depend on the tiling.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import JobError


@dataclass(frozen=True, slots=True)
class Feature:
    """One number per pixel of a block: a band, the mean or a weighted sum of all, or a normalised difference; smoothed if asked."""

    band: int | str = 1
    """Which band, counted from 1 in the order in which the source gives them; ``mean``: the mean of all."""

    index: tuple[int, int] | None = None
    """Two bands (a, b), counted from 1: (a - b) / (a + b), in place of ``band``. NaN where a + b is 0."""

    weights: tuple[float, ...] | None = None
    """One number for each band: the sum of the bands times these, in place of ``band``."""

    sigma: float = 0.0
    """The standard deviation, in pixels, of a Gaussian cut off at four of them; 0: no smoothing."""

    def __post_init__(self) -> None:
        if self.band != "mean" and not _is_band(self.band):
            raise JobError(f"band: {self.band!r}; allowed: a band's number, from 1, or 'mean'")
        if self.index is not None and not (len(self.index) == 2 and all(map(_is_band, self.index))):
            raise JobError(f"index: {self.index!r}; allowed: two bands' numbers, from 1, such as [4, 3]")
        if self.weights is not None and not (self.weights and np.isfinite(self.weights).all()):
            raise JobError(f"weights: {self.weights!r}; allowed: one finite number for each band, such as [0.3, 0.6, 0.1]")
        if self.index is not None and self.weights is not None:
            raise JobError("index and weights are both given; allowed: one of them")
        if not 0 <= self.sigma < 1000:
            raise JobError(f"sigma: {self.sigma!r}; allowed: 0 to 1000 pixels")

    @property
    def reach(self) -> int:
        """The Gaussian's radius in pixels."""
        return int(4 * self.sigma + 0.5)

    def __call__(self, block: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
        """The feature, of the shape of ``valid``: the band's own type, or float64 where it is computed; JobError if a band is missing."""
        value = self._value(block)
        return smooth(value, valid, self.sigma) if self.sigma else value

    def _value(self, block: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if self.weights is not None:
            if len(self.weights) != len(block):
                raise JobError(f"weights: {len(self.weights)} numbers for an image of {len(block)} bands; allowed: one for each")
            # Band after band, since a matrix product may add in another order for another size of window.
            return np.asarray(sum(weight * band.astype(np.float64) for weight, band in zip(self.weights, block, strict=True)))
        if self.index is None and self.band == "mean":
            return np.asarray(block.mean(axis=0, dtype=np.float64))
        wanted = self.index or (int(self.band),)
        if max(wanted) > len(block):
            raise JobError(f"band {max(wanted)} is asked for, and the image has {len(block)}; allowed: 1 to {len(block)}")
        bands = [block[number - 1] for number in wanted]
        return _normalised_difference(*bands) if self.index else bands[0]


def measured(feature: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
    """The feature's values at valid pixels, one-dimensional, without those that are no finite number."""
    values = feature[valid]
    return values[np.isfinite(values)] if values.dtype.kind == "f" else values


def smooth(value: npt.NDArray[Any], valid: npt.NDArray[np.bool_], sigma: float) -> npt.NDArray[np.float64]:
    """A Gaussian mean of the valid pixels, float64; NaN where none is within reach. Beyond the image its edge pixels go on."""
    from scipy import ndimage

    usable = valid & np.isfinite(value) if value.dtype.kind == "f" else valid
    filled = value.astype(np.float64) if usable.all() else np.where(usable, value, 0).astype(np.float64)
    plain = ndimage.gaussian_filter(filled, sigma, mode="nearest", truncate=4.0)
    if usable.all():
        return np.asarray(plain)
    complete = ndimage.minimum_filter(usable, size=2 * int(4 * sigma + 0.5) + 1, mode="nearest")
    weight = ndimage.gaussian_filter(usable.astype(np.float64), sigma, mode="nearest", truncate=4.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(complete, plain, np.where(weight > 0, plain / weight, np.nan))


def _normalised_difference(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    first, second = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(first + second == 0, np.nan, (first - second) / (first + second)))


def _is_band(band: object) -> bool:
    return isinstance(band, int) and not isinstance(band, bool) and band >= 1
