"""Histograms of whole images, and thresholds found from them.

The bins are fixed for the whole image, so the counts of tiles add up to those of the untiled image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from pipeline.errors import SegmenterError
from pipeline.imageops.features import measured
from pipeline.numerics.elementary import logarithm

MOST_BINS = 65536
FLOAT_BINS = 256


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of a feature over the whole image; the first and the last bin are not empty."""

    counts: npt.NDArray[np.int64]
    """(bin,) pixels in each bin."""

    centers: npt.NDArray[np.float64]
    """(bin,) the centre of each bin."""

    def percentile(self, share: float) -> float:
        """The centre of the first bin at which at least ``share`` per cent of the pixels are
        reached.
        """
        total = np.cumsum(self.counts)
        return float(self.centers[int(np.searchsorted(total, share / 100 * total[-1]))])

    def span(self, low: float, high: float) -> tuple[float, float]:
        """Two percentiles; the second is one above the first if they are equal; 0 and 1 without
        pixels.
        """
        if not len(self.centers):
            return 0.0, 1.0
        least = self.percentile(low)
        most = self.percentile(high)
        return least, most if most > least else least + 1.0

    def coarse(self) -> Histogram:
        """A copy with at most 256 bins, each a whole number of these."""
        width = -(-len(self.counts) // FLOAT_BINS)
        if width <= 1:
            return self
        starts = np.arange(0, len(self.counts), width)
        number = np.diff(np.append(starts, len(self.counts)))
        return Histogram(
            np.add.reduceat(self.counts, starts), np.add.reduceat(self.centers, starts) / number
        )


@dataclass(frozen=True, slots=True)
class Bins:
    """Bins of equal width over the range of a feature, the same for every tile of an image.

    Integers with a range below 65,536 have one bin per value, other integers 65,536 bins. Floats
    have 256, like scikit-image's ``threshold_otsu``, so that the results agree.
    """

    low: float
    """The smallest value in the image."""

    high: float
    """The largest value in the image."""

    dtype: str
    """The feature's dtype."""

    floats: int = FLOAT_BINS
    """The number of bins for floats."""

    @property
    def whole(self) -> bool:
        """Whether each bin is one integer."""
        return np.dtype(self.dtype).kind in "iub" and self.high - self.low < MOST_BINS

    @property
    def number(self) -> int:
        """The number of bins."""
        if self.whole:
            return int(self.high - self.low) + 1
        return self.floats if np.dtype(self.dtype).kind == "f" else MOST_BINS

    def count(self, values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """Count the values, one-dimensional without NaN, in each bin."""
        if self.whole:
            return np.bincount(values.astype(np.int64) - int(self.low), minlength=self.number)
        kind = np.dtype(self.dtype).type
        if values.dtype.name == "float64" and self.dtype == "float64" and self.low < self.high:
            edges = np.linspace(self.low, self.high, self.number + 1)
            return np.asarray(_counted(np.ascontiguousarray(values), edges))
        return np.histogram(values, self.number, (kind(self.low), kind(self.high)))[0].astype(
            np.int64
        )

    def histogram(self, counts: npt.NDArray[np.int64]) -> Histogram:
        """Combine the summed counts of all tiles with the bins' centres."""
        if self.whole:
            return Histogram(counts, np.arange(int(self.low), int(self.high) + 1, dtype=np.float64))
        edges = np.histogram_bin_edges(np.empty(0, self.dtype), self.number, (self.low, self.high))
        return Histogram(counts, (edges[1:] + edges[:-1]) / 2)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _counted(values, edges):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Equals `numpy.histogram`, value for value, in a third of its time: one pass, no temporary
    arrays.
    """
    number = len(edges) - 1
    low = edges[0]
    span = edges[-1] - edges[0]
    count = np.zeros(number, np.int64)
    for value in values:
        if low <= value <= edges[-1]:
            at = min(int((value - low) / span * number), number - 1)
            if value < edges[at]:  # NumPy too mends what division rounded
                at -= 1
            elif value >= edges[at + 1] and at != number - 1:
                at += 1
            count[at] += 1
    return count


def histogram(
    feature: npt.NDArray[Any], valid: npt.NDArray[np.bool_], floats: int = FLOAT_BINS
) -> Histogram:
    """Compute the histogram of a feature that is whole in memory.

    Parameters
    ----------
    feature : ndarray
        The feature.
    valid : bool ndarray of the shape of ``feature``
        True where a pixel was measured.
    floats : int, optional
        The number of bins for floats.

    Returns
    -------
    Histogram
        Without bins if no pixel is valid.
    """
    values = measured(feature, valid)
    if values.size == 0:
        return Histogram(np.zeros(0, np.int64), np.zeros(0))
    bins = Bins(values.min().item(), values.max().item(), str(values.dtype), floats)
    return bins.histogram(bins.count(values))


def threshold(histogram: Histogram, method: str) -> float:
    """Find a threshold in a histogram of at least two values.

    It uses scikit-image's implementation where that takes a histogram. ``minimum`` is found in at
    most 256 bins.

    Parameters
    ----------
    histogram : Histogram
        The histogram of the whole image.
    method : str
        One of FINDERS.

    Returns
    -------
    float
        The threshold.

    Raises
    ------
    SegmenterError
        The method finds none: ``minimum`` needs two peaks.

    References
    ----------
    .. [1] N. Otsu (1979), "A threshold selection method from gray-level histograms", IEEE Trans.
       SMC 9(1), 62-66.
    .. [2] C. H. Li, P. K. S. Tam (1998), "An iterative algorithm for minimum cross entropy
       thresholding", Pattern Recognition Letters 18, 771-776.
    .. [3] J.-C. Yen, F.-J. Chang, S. Chang (1995), "A new criterion for automatic multilevel
       thresholding", IEEE Trans. IP 4(3), 370-378.
    .. [4] G. W. Zack, W. E. Rogers, S. A. Latt (1977), "Automatic measurement of sister chromatid
       exchange frequency", J. Histochem. 25, 741-753, for ``triangle``.
    .. [5] T. W. Ridler, S. Calvard (1978), "Picture thresholding using an iterative selection
       method", IEEE Trans. SMC 8, 630-632, for ``isodata``.
    .. [6] J. M. S. Prewitt, M. L. Mendelsohn (1966), "The analysis of cell images", Ann. N. Y.
       Academy of Sciences 128, 1035-1053, for ``minimum``.
    """
    try:
        return float(FINDERS[method](histogram))
    except (RuntimeError, IndexError) as error:
        raise SegmenterError(
            f"the threshold by {method} cannot be found in the image's histogram; try otsu"
        ) from error


def levels(histogram: Histogram, classes: int) -> tuple[float, ...]:
    """Find the thresholds between classes of least variance within them (multi-Otsu).

    They are found in at most 256 bins, by scikit-image.

    Parameters
    ----------
    histogram : Histogram
        The histogram of the whole image.
    classes : int
        The number of classes.

    Returns
    -------
    tuple of float
        Ascending thresholds; fewer if the image has fewer values than classes.

    References
    ----------
    .. [1] P.-S. Liao, T.-S. Chen, P.-C. Chung (2001), "A fast algorithm for multilevel
       thresholding", J. Information Science and Engineering 17(5), 713-727.
    """
    from skimage.filters import threshold_multiotsu

    coarse = histogram.coarse()
    present = np.flatnonzero(coarse.counts)
    if len(present) <= classes:
        return tuple(coarse.centers[present[:-1]].tolist())
    return tuple(
        threshold_multiotsu(hist=(coarse.counts, coarse.centers), classes=classes).tolist()
    )


def _otsu(histogram: Histogram) -> float:
    from skimage.filters import threshold_otsu

    return float(threshold_otsu(hist=(histogram.counts, histogram.centers)))


def _yen(histogram: Histogram) -> float:
    """The level with the greatest correlation on both sides.

    scikit-image compares logarithms, which processors round differently.
    """
    share = histogram.counts / histogram.counts.sum()
    below = np.cumsum(share)[:-1]
    square = np.cumsum(share * share)[:-1]
    rest = np.cumsum((share * share)[::-1])[::-1][1:]
    between = below * (1.0 - below)
    return float(histogram.centers[int(np.argmax(between * between / (square * rest)))])


def _isodata(histogram: Histogram) -> float:
    """The lowest level midway between the means of the values up to it and above it, to a bin.

    scikit-image compares in the centres' precision, and finds no such level in some histograms of
    float32; here the nearest is taken.
    """
    counts = histogram.counts.astype(np.float64)
    centers = histogram.centers.astype(np.float64)
    below = np.cumsum(counts)[:-1]
    sums = np.cumsum(counts * centers)
    above = counts.sum() - below
    rest = sums[-1] - sums[:-1]
    parts = (below > 0) & (above > 0)
    levels = centers[:-1][parts]
    distance = (sums[:-1][parts] / below[parts] + rest[parts] / above[parts]) / 2 - levels
    fixed = np.flatnonzero((distance >= 0) & (distance < centers[1] - centers[0]))
    return float(levels[fixed[0] if len(fixed) else np.argmin(np.abs(distance))])


def _minimum(histogram: Histogram) -> float:
    from skimage.filters import threshold_minimum

    coarse = histogram.coarse()
    return float(threshold_minimum(hist=(coarse.counts, coarse.centers)))


def _mean(histogram: Histogram) -> float:
    return float(np.average(histogram.centers, weights=histogram.counts))


def _li(histogram: Histogram) -> float:
    """Iterate from the mean until a step is less than half a bin."""
    low = histogram.centers[0]
    width = np.diff(histogram.centers[:2])[0]
    values = histogram.centers - low
    before = -np.inf
    now = float(np.average(values, weights=histogram.counts))
    while abs(now - before) > width / 2:
        above = values > now
        fore, back = (
            float(np.average(values[part], weights=histogram.counts[part]))
            for part in (above, ~above)
        )
        if back == 0:
            break
        before = now
        now = (back - fore) / float(logarithm(back) - logarithm(fore))
    return float(now + low)


def _triangle(histogram: Histogram) -> float:
    """The level furthest below the line from the peak to the end of the longer tail."""
    counts = histogram.counts.astype(np.float64)
    last = len(histogram.counts) - 1
    peak = int(np.argmax(counts))
    mirrored = peak < last - peak
    if mirrored:
        counts = counts[::-1]
        peak = last - peak
    depth = counts[peak] * np.arange(peak) - peak * counts[:peak]
    level = int(np.argmax(depth))
    return float(histogram.centers[last - level if mirrored else level])


FINDERS: dict[str, Callable[[Histogram], float]] = {
    "otsu": _otsu,
    "li": _li,
    "yen": _yen,
    "triangle": _triangle,
    "isodata": _isodata,
    "minimum": _minimum,
    "mean": _mean,
}
