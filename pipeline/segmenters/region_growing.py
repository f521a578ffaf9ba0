"""Regions grown from seeds by likeness of value, and zones within which values change little from
pixel to pixel.

A region is a connected piece of the pixels whose value is near enough to that of a seed. Which
value a pixel is nearest to depends on the pixel alone, and whether a piece has a seed is decided
when all its parts are known: so both are exact at any size.
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
"""Pixels of seeds that values are taken from; of more, a sample."""
SHARE = 16
"""The tolerance is this part of the range of the image's values where it is not given."""
PEAKS = 254
SMALL = 2
"""Bytes of values that are looked up in a table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionGrowing(Feature):
    """Connected pixels whose value is near that of a seed among them.

    Use it for things of even brightness that can be pointed at: a lake, an organ, a field. Where
    brightness drifts within the thing, ``quasi_flat`` follows it. Where no seeds are given, values
    are the peaks of the image's histogram, and seeds are pixels in even surroundings.

    Each pixel belongs to the nearest of the seeds' values (of equally near ones the lower), if that
    is within the tolerance; a value does not change as its region grows, since then the result
    would depend on the order of growing.

    Examples
    --------
    >>> import numpy as np
    >>> RegionGrowing(seeds=[[0, 0]], tolerance=2)(np.array([[[9, 8, 0, 9], [9, 7, 0, 9]]]))
    array([[1, 1, 0, 0],
           [1, 1, 0, 0]], dtype=int32)

    References
    ----------
    R. Adams, L. Bischof (1994), "Seeded region growing", IEEE Trans. PAMI 16(6), 641-647.
    """

    seeds: Any = None
    """Points [row, column] or [row, column, class] in pixels; the path of a raster of classes on
    the image's grid or of a vector file; a mapping {points: [[x, y], …], crs: …} or {path: …,
    attribute: …, layer: …}. None: they are found.
    """

    tolerance: float | None = None
    """How far a pixel's value may be from the seed's; None: a sixteenth of the range of the image's
    values.
    """

    around: int = 0
    """A seed's value is the mean of the pixels up to so far away, the region's and not the seed's
    alone; 0: its own.
    """

    number: int = 8
    """How many values are found at most, where no seeds are given."""

    connectivity: int | None = None
    """4 or 8 in two dimensions, 6 or 26 in three; None: 4 or 6."""

    min_area: int = 0
    """Regions of fewer pixels are removed."""

    values: tuple[tuple[int, float], ...] | None = None
    """By class, the value that the tolerance is from; None: those of the seeds."""

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
        """The smoothing's radius, and the surroundings of a seed."""
        return self.radius + (max(self.around, 1) if self.unfitted or self.seeds is None else 0)

    @property
    def unfitted(self) -> bool:
        """Whether values or the tolerance are still to be found in the image."""
        return self.tolerance is None or self.values is None

    @property
    def sample(self) -> int:
        """Seeds are looked up once the histogram is known, or where it is not needed."""
        return 0 if self.tolerance is None or self.seeds is None else SEEDS

    def absent(self, box: Box) -> bool:
        """Whether a box of the image holds no seed."""
        return self.seeds is not None and not any_given_in(self.seeds, box.shape, box.start)

    def features(
        self, block: Pixels, valid: Flags, origin: Origin = None
    ) -> npt.NDArray[np.float64]:
        """(2, …): at seeds, their class and their value; NaN elsewhere, and everywhere where no
        seeds are given.
        """
        if self.seeds is None or not any_given_in(
            self.seeds, valid.shape, origin
        ):  # as in most windows
            return np.full((2, *valid.shape), np.nan)
        kinds = given_in(self.seeds, valid.shape, origin)
        value = self.feature(block, valid).astype(np.float64)
        if self.around:
            value = local_mean(value, valid, 2 * self.around + 1)
        return np.where(
            (kinds > 0) & np.isfinite(value), np.stack([kinds.astype(np.float64), value]), np.nan
        )

    def fit(self, found: Any) -> RegionGrowing:
        """The same with the values of seeds, (seed, (class, value)), or with what a histogram
        shows.
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
        """The class of each pixel, 0 where no value is within the tolerance, and the seeds."""
        if self.values is None or self.tolerance is None:
            raise SegmenterError("the values of seeds are not fitted; call fit() first")
        value = self.feature(block, valid)
        kind, level = np.array([k for k, _ in self.values]), np.array([v for _, v in self.values])
        order = np.lexsort((kind, level))
        first = order[np.diff(level[order], prepend=-np.inf) > 0]
        kind, level = kind[first], level[first]
        kinds = _grown(value, valid, kind, level, self.tolerance)
        if self.seeds is None:
            return Classes(
                kinds, (kinds > 0) & _even(value.astype(np.float64), valid, self.tolerance)
            )
        if not any_given_in(self.seeds, valid.shape, origin):  # as in most windows
            return Classes(kinds, np.zeros(valid.shape, bool))
        seeds = given_in(self.seeds, valid.shape, origin)
        own = np.zeros(max(int(seeds.max(initial=0)), *(k for k, _ in self.values)) + 1, np.int64)
        own[[k for k, _ in self.values]] = kind[np.searchsorted(level, [v for _, v in self.values])]
        return Classes(kinds, (seeds > 0) & (own[seeds] == kinds))

    def __call__(self, block: Pixels, valid: Flags | None = None) -> npt.NDArray[np.int32]:
        """Label one block as if it were the whole image: int32, in raster order; without
        ``min_area``.
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
    """Zones in which no step from a pixel to the next is greater than a tolerance, in any band.

    Use it to part an image into even patches, whatever their brightness: fields, flat colour,
    cartoons. One weak spot in a border joins two zones, so noise is to be smoothed first
    (``sigma``).

    Examples
    --------
    >>> import numpy as np
    >>> QuasiFlat(tolerance=1)(np.array([[[1, 2, 3, 9, 8, 7]]]))
    array([[1, 1, 1, 2, 2, 2]], dtype=int32)

    References
    ----------
    P. Soille (2008), "Constrained connectivity for hierarchical image partitioning and
    simplification", IEEE Trans. PAMI 30(7), 1132-1145: alpha-connected components.
    """

    tolerance: float | None = None
    """The greatest step; None: a sixty-fourth of the range of the image's values, over all bands.
    """

    bands: tuple[int | str, ...] | None = None
    """Bands, by number from 1 or by name; None: all."""

    sigma: float = 0.0
    """The standard deviation of Gaussian smoothing, in pixels; 0: none."""

    connectivity: int | None = None
    """4 or 8 in two dimensions, 6 or 26 in three; None: 4 or 6."""

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
        """The smoothing's radius."""
        return Feature(sigma=self.sigma).radius

    @property
    def unfitted(self) -> bool:
        """Whether the tolerance is still to be found."""
        return self.tolerance is None

    def reads(self, number: int) -> tuple[int, ...]:
        """The indices, from 0, of those of ``number`` bands that are looked at."""
        return indices(self.bands or range(1, number + 1), number)

    def feature(self, block: Pixels, valid: Flags) -> Pixels:
        """(band, …): the bands that are looked at, smoothed."""
        bands = range(1, len(block) + 1) if self.bands is None else self.bands
        return np.stack(
            [Feature(band=band, sigma=self.sigma).feature(block, valid) for band in bands]
        )

    def fit(self, histograms: list[Histogram]) -> QuasiFlat:
        """The same with the tolerance that the range of the values gives."""
        known = [np.ptp(h.centers) for h in histograms if len(h.centers)]
        return replace(self, tolerance=float(max(known, default=0.0)) / 64)

    def classify(self, block: Pixels, valid: Flags) -> Classes:
        """One class for all pixels that have a value."""
        surface = self.feature(block, valid).astype(np.float64)
        return Classes(
            valid & np.isfinite(surface).all(axis=0), surface=surface, step=self.tolerance or 0.0
        )

    def __call__(self, block: Pixels, valid: Flags | None = None) -> npt.NDArray[np.int32]:
        """Label one block as if it were the whole image: int32, in raster order; without
        ``min_area``.
        """
        return label(self, block, valid)


def _grown(
    value: Pixels,
    valid: Flags,
    kind: npt.NDArray[np.int64],
    level: npt.NDArray[np.float64],
    tolerance: float,
) -> npt.NDArray[Any]:
    """The class of the nearest of the ascending levels where a pixel is within the tolerance of it;
    0 elsewhere.
    """
    if (
        value.dtype.kind in "bu" and value.dtype.itemsize <= SMALL
    ):  # what is found for each value holds for each pixel of it
        every = np.arange(1 << 8 * value.dtype.itemsize, dtype=np.float64)
        kinds = _grown(every, np.ones(len(every), bool), kind, level, tolerance)
        small = kinds.astype(np.min_scalar_type(int(kinds.max())))
        found = looked_up(small, value.view(np.uint8) if value.dtype == bool else value)
        return found if valid.all() else np.where(valid, found, small.dtype.type(0))
    real = value.astype(np.float64)
    nearest = np.searchsorted((level[:-1] + level[1:]) / 2, real)
    return np.where(
        valid & (np.abs(real - level[nearest]) <= tolerance), kind[nearest], 0
    )  # 0 for NaN


def _even(value: npt.NDArray[np.float64], valid: Flags, tolerance: float) -> Flags:
    """Where all neighbours, corners included, are valid and differ by no more than the tolerance
    from each other.
    """
    from scipy import ndimage

    high = ndimage.maximum_filter(np.where(valid, value, np.inf), size=3, mode="nearest")
    low = ndimage.minimum_filter(np.where(valid, value, -np.inf), size=3, mode="nearest")
    return np.asarray(high - low <= tolerance)


def _peaks(histogram: Histogram, tolerance: float, most: int) -> tuple[tuple[int, float], ...]:
    """The most frequent values that lie further apart than twice the tolerance, numbered
    by value.
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
