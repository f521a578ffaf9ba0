"""Regions grown from seeds by similar value, and zones without steep steps.

A region is a connected set of pixels whose value is within a tolerance of a seed's value. The class
of a pixel depends on the pixel alone, and whether a region has a seed is decided after its pieces
are joined. So both methods are exact under tiling for regions of any size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from pipeline.annotations.seeds import any_given_in, given_in
from pipeline.errors import JobError, SegmenterError
from pipeline.image.bands import indices
from pipeline.image.grid import Box
from pipeline.imageops.components import looked_up
from pipeline.imageops.features import Feature
from pipeline.imageops.filters import local_mean
from pipeline.imageops.histograms import Histogram
from pipeline.segmenters import Classes, Footprint, Identity, Origin, label

Pixels = npt.NDArray[Any]
Flags = npt.NDArray[np.bool_]
SEEDS = 1_000_000
"""The most seed pixels from which values are taken; of more, a sample of this size is used."""
SHARE = 16
"""The default tolerance is the range of the image's values divided by this."""
PEAKS = 254
SMALL = 2
"""Bytes per value up to which a lookup table is used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionGrowing(Feature):
    """Connected pixels with a value near that of a seed.

    Use it for objects of even brightness that somebody can point at: a lake, an organ, a field. If
    brightness drifts within the object, use ``quasi_flat``. Without given seeds, the values are the
    peaks of the image's histogram, and the seeds are pixels in even surroundings.

    Notes
    -----
    Each pixel belongs to the nearest seed value (the lower of two that are equally near), if that
    is within the tolerance. Seed values do not change while regions grow, because the result would
    then depend on the order of growing. Labels equal those of the untiled image for regions of any
    size, so their certificate is ``proved``.

    References
    ----------
    .. [1] R. Adams, L. Bischof (1994), "Seeded region growing", IEEE Trans. PAMI 16(6), 641-647.

    Examples
    --------
    >>> import numpy as np
    >>> RegionGrowing(seeds=[[0, 0]], tolerance=2)(np.array([[[9, 8, 0, 9], [9, 7, 0, 9]]]))
    array([[1, 1, 0, 0],
           [1, 1, 0, 0]], dtype=int32)
    """

    seeds: Any = None
    """Points [row, column] or [row, column, class] in pixels; the path of a raster of classes on
    the image's grid, or of a vector file; or a mapping {points: [[x, y], …], crs: …} or {path: …,
    attribute: …, layer: …}. None: seeds are found in the image.
    """

    tolerance: float | None = None
    """The largest difference between a pixel's value and the seed's, in units of the feature, 0 or
    more; None: a sixteenth of the range of the image's values.
    """

    around: int = 0
    """Radius in pixels of the window around a seed over which its value is averaged; 0: the value
    of the seed pixel.
    """

    number: int = 8
    """Without given seeds: the largest number of values to find, 1 to 254."""

    connectivity: int | None = None
    """Number of neighbours of a pixel: 4 or 8 in two dimensions, 6 or 26 in three; None: 4 or 6."""

    min_area: int = 0
    """Regions of fewer pixels are removed."""

    values: tuple[tuple[int, float], ...] | None = None
    """Pairs of a class and its value; None: they are computed from the seeds."""

    identity: ClassVar[Identity] = "connected"
    portable: ClassVar[bool] = True
    footprint: ClassVar[Footprint] = Footprint(38.0, 3.0)
    seeded: ClassVar[bool] = True
    companions: ClassVar[tuple[str, ...]] = ("seeds",)

    def __post_init__(self) -> None:
        Feature.__post_init__(self)  # super() does not work in a class with slots
        if self.tolerance is not None and not self.tolerance >= 0:
            raise JobError(f"tolerance: {self.tolerance!r}; allowed: 0 or more")
        if self.around < 0:
            raise JobError(
                f"around: {self.around!r}; allowed: a number of pixels, 0 for the seed's own value"
            )
        if not 1 <= self.number <= PEAKS:
            raise JobError(f"number: {self.number!r}; allowed: 1 to {PEAKS}")

    @property
    def reach(self) -> int:
        """The radius of the smoothing plus that of the window around a seed, in pixels."""
        return self.radius + (max(self.around, 1) if self.unfitted or self.seeds is None else 0)

    @property
    def unfitted(self) -> bool:
        """Whether values or the tolerance must still be found in the image."""
        return self.tolerance is None or self.values is None

    @property
    def sample(self) -> int:
        """The number of seed pixels to sample; 0 while the histogram is needed first."""
        return 0 if self.tolerance is None or self.seeds is None else SEEDS

    def absent(self, box: Box) -> bool:
        """Tell whether a box of the image holds no seed.

        Parameters
        ----------
        box : Box
            A part of the image.

        Returns
        -------
        bool
            True if seeds are given and none lies in the box.
        """
        return self.seeds is not None and not any_given_in(self.seeds, box.shape, box.start)

    def features(
        self, block: Pixels, valid: Flags, origin: Origin = None
    ) -> npt.NDArray[np.float64]:
        """Give the class and the value of the seeds in a block.

        Parameters
        ----------
        block : ndarray, (band, row, column) or (band, plane, row, column)
            The pixels of one window.
        valid : bool ndarray of the shape ``block.shape[1:]``
            True where a pixel was measured.
        origin : tuple of int, optional
            The position in the image of the block's first pixel; None: 0 along every axis.

        Returns
        -------
        float64 ndarray, (2, row, column) or (2, plane, row, column)
            Class and value at seeds; NaN elsewhere.
        """
        # most windows have no seed
        if self.seeds is None or not any_given_in(self.seeds, valid.shape, origin):
            return np.full((2, *valid.shape), np.nan)
        kinds = given_in(self.seeds, valid.shape, origin)
        value = self.feature(block, valid).astype(np.float64)
        if self.around:
            value = local_mean(value, valid, 2 * self.around + 1)
        return np.where(
            (kinds > 0) & np.isfinite(value), np.stack([kinds.astype(np.float64), value]), np.nan
        )

    def fit(self, found: Any) -> RegionGrowing:
        """Return a copy with the seeds' values, or with what a histogram gives.

        Parameters
        ----------
        found : Histogram or float64 ndarray, (seed, 2)
            The histogram of the feature over the whole image; or the class and the value of each
            seed.

        Returns
        -------
        RegionGrowing
            A fitted copy.
        """
        if isinstance(found, Histogram):
            return self._with_histogram(found)
        if not len(found):
            raise SegmenterError("no seed lies on a valid pixel")
        kinds, where = np.unique(found[:, 0].astype(np.int64), return_inverse=True)
        # The mean of sorted values does not depend on where in the image they were.
        means = [float(np.mean(np.sort(found[where == k, 1]))) for k in range(len(kinds))]
        return replace(self, values=tuple(zip(kinds.tolist(), means, strict=True)))

    def classify(self, block: Pixels, valid: Flags, origin: Origin = None) -> Classes:
        """Classify the pixels of a block.

        Parameters
        ----------
        block : ndarray, (band, row, column) or (band, plane, row, column)
            The pixels of one window.
        valid : bool ndarray of the shape ``block.shape[1:]``
            True where a pixel was measured.
        origin : tuple of int, optional
            The position in the image of the block's first pixel; None: 0 along every axis.

        Returns
        -------
        Classes
            The class of each pixel, 0 where no value is within the tolerance; and the seed pixels.
        """
        if self.values is None or self.tolerance is None:
            raise SegmenterError("the values of seeds are not fitted; call fit() first")
        value = self.feature(block, valid)
        kind, level = _distinct(self.values)
        kinds = _grown(value, valid, kind, level, self.tolerance)
        if self.seeds is None:
            return Classes(
                kinds, (kinds > 0) & _even(value.astype(np.float64), valid, self.tolerance)
            )
        if not any_given_in(self.seeds, valid.shape, origin):  # most windows have no seed
            return Classes(kinds, np.zeros(valid.shape, bool))
        seeds = given_in(self.seeds, valid.shape, origin)
        asked = [k for k, _ in self.values]
        own = np.zeros(max(int(seeds.max(initial=0)), *asked) + 1, np.int64)
        own[asked] = kind[np.searchsorted(level, [v for _, v in self.values])]
        return Classes(kinds, (seeds > 0) & (own[seeds] == kinds))

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

    def _with_histogram(self, histogram: Histogram) -> RegionGrowing:
        span = float(np.ptp(histogram.centers)) if len(histogram.centers) else 0.0
        tolerance = span / SHARE if self.tolerance is None else self.tolerance
        if self.seeds is not None:
            return replace(self, tolerance=tolerance)
        return replace(self, tolerance=tolerance, values=_peaks(histogram, tolerance, self.number))


@dataclass(frozen=True, slots=True, kw_only=True)
class QuasiFlat:
    """Zones without a step from pixel to pixel above a tolerance.

    Use it to divide an image into even zones of any brightness: fields, flat colours, cartoons. The
    steps of all bands count. One weak spot in a border joins two zones, so smooth noisy images
    first (``sigma``).

    Notes
    -----
    Labels equal those of the untiled image for zones of any size, so their certificate is
    ``proved``.

    References
    ----------
    .. [1] P. Soille (2008), "Constrained connectivity for hierarchical image partitioning and
       simplification", IEEE Trans. PAMI 30(7), 1132-1145. The zones are its alpha-connected
       components.

    Examples
    --------
    >>> import numpy as np
    >>> QuasiFlat(tolerance=1)(np.array([[[1, 2, 3, 9, 8, 7]]]))
    array([[1, 1, 1, 2, 2, 2]], dtype=int32)
    """

    tolerance: float | None = None
    """The largest step between neighbours within a zone, in the image's values, 0 or more; None:
    the range of the values of all bands divided by 64.
    """

    bands: tuple[int | str, ...] | None = None
    """The bands to use, by number from 1 or by name; None: all."""

    sigma: float = 0.0
    """Standard deviation of the Gaussian smoothing, in pixels; 0: no smoothing."""

    connectivity: int | None = None
    """Number of neighbours of a pixel: 4 or 8 in two dimensions, 6 or 26 in three; None: 4 or 6."""

    min_area: int = 0
    """Zones of fewer pixels are removed."""

    identity: ClassVar[Identity] = "connected"
    portable: ClassVar[bool] = True
    footprint: ClassVar[Footprint] = Footprint(14.0, 13.5)
    of_bands: ClassVar[tuple[str, ...]] = ("bands",)

    def __post_init__(self) -> None:
        if self.tolerance is not None and not self.tolerance >= 0:
            raise JobError(f"tolerance: {self.tolerance!r}; allowed: 0 or more")
        if self.bands == ():
            raise JobError("bands: none; allowed: at least one, or nothing for all")
        for band in self.bands or (1,):
            Feature(band=band, sigma=self.sigma)  # refuses what cannot be

    @property
    def reach(self) -> int:
        """The radius of the smoothing, in pixels."""
        return Feature(sigma=self.sigma).radius

    @property
    def unfitted(self) -> bool:
        """Whether the tolerance must still be found in the image."""
        return self.tolerance is None

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
        return indices(self.bands or range(1, number + 1), number)

    def feature(self, block: Pixels, valid: Flags) -> Pixels:
        """Select and smooth the bands.

        Parameters
        ----------
        block : ndarray, (band, row, column) or (band, plane, row, column)
            The pixels of one window.
        valid : bool ndarray of the shape ``block.shape[1:]``
            True where a pixel was measured.

        Returns
        -------
        ndarray, (band, row, column) or (band, plane, row, column)
            The bands in use, smoothed.
        """
        bands = range(1, len(block) + 1) if self.bands is None else self.bands
        return np.stack(
            [Feature(band=band, sigma=self.sigma).feature(block, valid) for band in bands]
        )

    def fit(self, histograms: list[Histogram]) -> QuasiFlat:
        """Return a copy with the tolerance derived from the range of the values.

        Parameters
        ----------
        histograms : list of Histogram
            One for each band that is read, over the whole image.

        Returns
        -------
        QuasiFlat
            A fitted copy.
        """
        known = [np.ptp(h.centers) for h in histograms if len(h.centers)]
        return replace(self, tolerance=float(max(known, default=0.0)) / 64)

    def classify(self, block: Pixels, valid: Flags) -> Classes:
        """Classify the pixels of a block.

        Parameters
        ----------
        block : ndarray, (band, row, column) or (band, plane, row, column)
            The pixels of one window.
        valid : bool ndarray of the shape ``block.shape[1:]``
            True where a pixel was measured.

        Returns
        -------
        Classes
            One class for all pixels with a finite value, and the surface and step that separate
            zones.
        """
        surface = self.feature(block, valid).astype(np.float64)
        return Classes(
            valid & np.isfinite(surface).all(axis=0), surface=surface, step=self.tolerance or 0.0
        )

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


def _distinct(
    values: tuple[tuple[int, float], ...],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Classes and their distinct values, ascending; of classes with one value, the lowest."""
    kind = np.array([k for k, _ in values])
    level = np.array([v for _, v in values])
    order = np.lexsort((kind, level))
    first = order[np.diff(level[order], prepend=-np.inf) > 0]
    return kind[first], level[first]


def _grown(
    value: Pixels,
    valid: Flags,
    kind: npt.NDArray[np.int64],
    level: npt.NDArray[np.float64],
    tolerance: float,
) -> npt.NDArray[Any]:
    """Assign each pixel to the nearest seed value.

    Parameters
    ----------
    value : ndarray
        The feature.
    valid : bool ndarray of the shape of ``value``
        True where a pixel was measured.
    kind : int64 ndarray
        The class of each seed value.
    level : float64 ndarray
        The seed values, ascending.
    tolerance : float
        The largest difference allowed.

    Returns
    -------
    ndarray of the shape of ``value``
        Class numbers; 0 where no seed value is within the tolerance.
    """
    # few values: compute once per value, then look up
    if value.dtype.kind in "bu" and value.dtype.itemsize <= SMALL:
        every = np.arange(1 << 8 * value.dtype.itemsize, dtype=np.float64)
        kinds = _grown(every, np.ones(len(every), bool), kind, level, tolerance)
        small = kinds.astype(np.min_scalar_type(int(kinds.max())))
        found = looked_up(small, value.view(np.uint8) if value.dtype == bool else value)
        return found if valid.all() else np.where(valid, found, small.dtype.type(0))
    real = value.astype(np.float64)
    nearest = np.searchsorted((level[:-1] + level[1:]) / 2, real)
    # comparisons with NaN are false, so it becomes 0
    return np.where(valid & (np.abs(real - level[nearest]) <= tolerance), kind[nearest], 0)


def _even(value: npt.NDArray[np.float64], valid: Flags, tolerance: float) -> Flags:
    """Where all neighbours, corners included, are valid and differ by at most the tolerance."""
    from scipy import ndimage

    high = ndimage.maximum_filter(np.where(valid, value, np.inf), size=3, mode="nearest")
    low = ndimage.minimum_filter(np.where(valid, value, -np.inf), size=3, mode="nearest")
    return np.asarray(high - low <= tolerance)


def _peaks(histogram: Histogram, tolerance: float, most: int) -> tuple[tuple[int, float], ...]:
    """The most frequent values that are more than twice the tolerance apart, with class numbers by
    ascending value.
    """
    if not len(histogram.centers):
        raise SegmenterError("the image has no valid pixel")
    coarse = histogram.coarse()
    chosen: list[float] = []
    for k in np.argsort(-coarse.counts, kind="stable").tolist():
        if (
            coarse.counts[k]
            and len(chosen) < most
            and all(abs(coarse.centers[k] - other) > 2 * tolerance for other in chosen)
        ):
            chosen.append(float(coarse.centers[k]))
    return tuple(enumerate(sorted(chosen), start=1))
