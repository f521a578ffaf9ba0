"""Foreground by a threshold, given or found from the histogram of the whole image. Below the segmenters, which share it.

The bins of a histogram are fixed for the whole image, so that the counts of tiles add up to those of the untiled image.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import JobError, SegmenterError, nearest
from pipeline.features import Feature, measured

METHODS = ("otsu",)
MOST_BINS = 65536


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of a feature over the whole image."""

    counts: npt.NDArray[np.int64]
    """Pixels in each bin."""

    centers: npt.NDArray[np.float64]
    """The middle of each bin."""


@dataclass(frozen=True, slots=True)
class Bins:
    """Bins of equal width over the range of a feature, the same for every tile of an image.

    Integers whose range is below 65,536 have a bin for each value, other integers 65,536 bins; floats have 256, as in scikit-image's
    ``threshold_otsu``, with which the result then agrees.
    """

    low: float
    """The smallest value in the image."""

    high: float
    """The largest value in the image."""

    dtype: str
    """The feature's type."""

    @property
    def whole(self) -> bool:
        """Whether each bin is one integer."""
        return np.dtype(self.dtype).kind in "iub" and self.high - self.low < MOST_BINS

    @property
    def number(self) -> int:
        """How many there are."""
        if self.whole:
            return int(self.high - self.low) + 1
        return 256 if np.dtype(self.dtype).kind == "f" else MOST_BINS

    def count(self, values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """How many of the values, one-dimensional and none of them NaN, lie in each bin."""
        if self.whole:
            return np.bincount(values.astype(np.int64) - int(self.low), minlength=self.number)
        kind = np.dtype(self.dtype).type
        return np.histogram(values, self.number, (kind(self.low), kind(self.high)))[0].astype(np.int64)

    def histogram(self, counts: npt.NDArray[np.int64]) -> Histogram:
        """The counts of all tiles, added up, with the bins' centres."""
        if self.whole:
            return Histogram(counts, np.arange(int(self.low), int(self.high) + 1, dtype=np.float64))
        edges = np.histogram_bin_edges(np.empty(0, self.dtype), self.number, (self.low, self.high))
        return Histogram(counts, (edges[1:] + edges[:-1]) / 2)


def histogram(feature: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> Histogram:
    """The histogram of a feature that is at hand whole."""
    values = measured(feature, valid)
    if values.size == 0:
        return Histogram(np.zeros(0, np.int64), np.zeros(0))
    bins = Bins(values.min().item(), values.max().item(), str(values.dtype))
    return bins.histogram(bins.count(values))


def otsu(histogram: Histogram) -> float:
    """The threshold that parts a histogram into the two classes of the least variance within them.

    A histogram of one value has no such threshold; nothing lies above the number returned. SegmenterError where it is empty.

    References
    ----------
    N. Otsu (1979), "A threshold selection method from gray-level histograms", IEEE Trans. SMC 9(1), 62-66.
    """
    from skimage.filters import threshold_otsu

    present = np.flatnonzero(histogram.counts)
    if present.size == 0:
        raise SegmenterError("no threshold can be fitted: the image has no valid pixel")
    if present.size == 1:
        return float(histogram.centers[-1])
    return float(threshold_otsu(hist=(histogram.counts, histogram.centers)))


@dataclass(frozen=True, slots=True)
class Foreground:
    """The pixels whose feature is above a threshold or in an interval, or those for which it is not."""

    feature: Feature = field(default_factory=Feature)
    """What is compared."""

    value: float | None = None
    """Foreground is above this."""

    interval: tuple[float, float] | None = None
    """Foreground is from the first to the second, both included."""

    method: str | None = None
    """How ``value`` is found: one of METHODS."""

    dark: bool = False
    """Foreground is what is not above the threshold (not in the interval), in place of what is."""

    def __post_init__(self) -> None:
        given = [name for name in ("value", "interval", "method") if getattr(self, name) is not None]
        if len(given) != 1:
            raise JobError(f"{' and '.join(given) or 'no threshold'} given; allowed: one of value, interval, method")
        if self.method is not None and self.method not in METHODS:
            raise JobError(f"the threshold method {self.method!r} is not known; {nearest(self.method, METHODS)}")
        if self.interval is not None and not (len(self.interval) == 2 and self.interval[0] <= self.interval[1]):
            raise JobError(f"interval: {self.interval!r}; allowed: two numbers, the lower first")

    def fit(self, histogram: Histogram) -> Foreground:
        """The same with the value that the method finds."""
        return self if self.method is None else replace(self, value=otsu(histogram), method=None)

    def __call__(self, feature: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Where the feature, already made, is foreground; never where it is NaN or not valid."""
        if self.interval is not None:
            inside = (feature >= self.interval[0]) & (feature <= self.interval[1])
        elif self.value is not None:
            inside = feature > self.value
        else:
            raise SegmenterError(f"the threshold by {self.method} is not fitted; call fit() with the image's histogram first")
        if self.dark:
            inside = ~inside & ~np.isnan(feature) if feature.dtype.kind == "f" else ~inside
        return np.asarray(inside & valid)
