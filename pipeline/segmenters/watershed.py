"""Separate touching objects: a seeded watershed within a foreground.

An object is exact under tiling if its connected component of the foreground (its support) lies
wholly inside the tile's window. Every decision is made within one component: distances end at its
border, markers compete only with markers of the same component, and flooding stays inside. Pixels
outside the component have no influence.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from pipeline.annotations.seeds import given_in
from pipeline.errors import JobError, nearest
from pipeline.image.frame import valid_or_all
from pipeline.imageops.components import pieces
from pipeline.imageops.features import Feature
from pipeline.imageops.filters import derivatives
from pipeline.imageops.histograms import Histogram
from pipeline.imageops.markers import levelled, summits, without_ties
from pipeline.imageops.thresholds import METHODS, MULTIOTSU, Foreground
from pipeline.segmenters import Flags, Footprint, Identity, Origin, fitted_to


@dataclass(frozen=True, slots=True)
class Watershed(Feature):
    """Roundish objects, separated where they touch.

    Use it for nuclei, grains or tree crowns that touch. It splits objects of other shapes into too
    many parts.

    Notes
    -----
    Labels are ``proved`` equal to those of the untiled image where the connected piece of
    foreground around an object fits in a tile's window; windows are enlarged up to ``max_halo`` for
    that.

    References
    ----------
    .. [1] F. Meyer (1994), "Topographic distance and watershed lines", Signal Processing 38,
       113-125. The implementation is that of scikit-image.

    Examples
    --------
    >>> import numpy as np
    >>> Watershed(threshold=0, min_distance=1)(np.array([[[9, 9, 9, 0, 9], [9, 9, 9, 0, 9]]])).max()
    np.int32(2)
    """

    threshold: float | str | None = "otsu"
    """The threshold of the foreground, in units of the feature, or the method that finds it: any
    method of ``threshold`` but multiotsu. None: the whole image is foreground; then only an image
    that fits in one window can be proved.
    """

    dark: bool = False
    """Whether objects are darker than the threshold."""

    window: int | None = None
    """For local methods: the width of the window in pixels, an odd number; None: 51."""

    markers: Literal["distance", "intensity"] = "distance"
    """Where markers lie: at the maxima of the distance to the background, or at the maxima of the
    intensity (minima with ``dark``).
    """

    seeds: Any = None
    """Given markers, in place of ``markers``: points, a raster of marker numbers or a vector file,
    as for ``region_growing``.
    """

    surface: Literal["distance", "intensity", "gradient"] | None = None
    """The surface that is flooded: the inverted distance to the background, the inverted intensity,
    or the magnitude of the gradient, which puts borders where the feature is steepest. None: the
    same as ``markers``.
    """

    compactness: float = 0.0
    """The weight of the distance to the marker, 0 or more; higher values give rounder objects."""

    min_distance: int = 5
    """Two markers in one piece of foreground are more than this many pixels apart; of two that are
    closer, the higher stays.
    """

    min_depth: float | None = None
    """The least height of a marker above the pass to a higher one (h-maxima), in pixels for
    distances or in units of the feature for intensities. It merges the several maxima along the
    ridge of a long object. None: 0.75 for distances, 0 for intensities.
    """

    spread: float | None = None
    """For sauvola: the largest possible standard deviation (R in the paper); None: half the range
    of the image's values.
    """

    min_area: int = 0
    """Objects of fewer pixels are removed."""

    max_hole: int = 0
    """Holes in the foreground of up to this many pixels are filled first. The reach grows by the
    same number, because a window must show whether a hole is larger.
    """

    identity: ClassVar[Identity] = "object"
    portable: ClassVar[bool] = True
    footprint: ClassVar[Footprint] = Footprint(68.0, 1.0)
    companions: ClassVar[tuple[str, ...]] = ("seeds",)

    def __post_init__(self) -> None:
        Feature.__post_init__(self)  # super() does not work in a class with slots
        if self.markers not in ("distance", "intensity"):
            raise JobError(f"markers: {self.markers!r}; allowed: 'distance' or 'intensity'")
        if self.surface not in (None, "distance", "intensity", "gradient"):
            raise JobError(
                f"surface: {self.surface!r}; allowed: 'distance', 'intensity' or 'gradient'"
            )
        if not self.compactness >= 0:
            raise JobError(f"compactness: {self.compactness!r}; allowed: 0 or more")
        if (
            isinstance(self.min_distance, bool)
            or not isinstance(self.min_distance, int)
            or self.min_distance < 1
        ):
            raise JobError(
                f"min_distance: {self.min_distance!r}; allowed: a whole number of pixels, from 1"
            )
        if self.min_depth is not None and not self.min_depth >= 0:
            raise JobError(f"min_depth: {self.min_depth!r}; allowed: 0 or more")
        if (
            isinstance(self.max_hole, bool)
            or not isinstance(self.max_hole, int)
            or self.max_hole < 0
        ):
            raise JobError(
                f"max_hole: {self.max_hole!r}; allowed: a whole number of pixels, 0 for none"
            )
        if self.threshold == MULTIOTSU:
            raise JobError(
                f"threshold: {MULTIOTSU!r} finds several; "
                f"{nearest('', [m for m in METHODS if m != MULTIOTSU])}"
            )
        self._foreground  # noqa: B018  refuses what cannot be

    @property
    def reach(self) -> int:
        """The radius of smoothing and local method, plus the largest hole, in pixels."""
        return self.radius + self._foreground.reach + self.max_hole + (self._flooded == "gradient")

    @property
    def partial(self) -> bool:
        """Whether pieces of foreground without a marker stay empty."""
        return self.seeds is not None

    @property
    def unfitted(self) -> bool:
        """Whether the image's histogram is needed first."""
        return self._foreground.unfitted

    def fit(self, histogram: Histogram) -> Watershed:
        """Return a copy with the threshold found in a histogram.

        Parameters
        ----------
        histogram : Histogram
            The histogram of the feature over the whole image.

        Returns
        -------
        Watershed
            A fitted copy.
        """
        found = self._foreground.fit(histogram)
        return replace(
            self,
            threshold=self.threshold if found.value is None else found.value,
            spread=found.spread,
        )

    def foreground(
        self, block: npt.NDArray[Any], valid: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.bool_]:
        """Compute the support: the thresholded pixels with small holes filled.

        Parameters
        ----------
        block : ndarray, (band, row, column) or (band, plane, row, column)
            The pixels of one window.
        valid : bool ndarray of the shape ``block.shape[1:]``
            True where a pixel was measured.

        Returns
        -------
        bool ndarray of the shape of ``valid``
            True for foreground.
        """
        return self._support(self.feature(block, valid), valid)

    def __call__(
        self,
        block: npt.NDArray[Any],
        valid: npt.NDArray[np.bool_] | None = None,
        origin: Origin = None,
        part: Flags | None = None,
    ) -> npt.NDArray[np.int32]:
        """Label one block as if it were the whole image.

        ``min_area`` is not applied, because it is decided on whole objects.

        Parameters
        ----------
        block : ndarray, (band, row, column) or (band, plane, row, column)
            The pixels of one window.
        valid : bool ndarray of the shape ``block.shape[1:]``, optional
            True where a pixel was measured; None: everywhere.
        origin : tuple of int, optional
            The position in the image of the block's first pixel; None: 0 along every axis.
        part : bool ndarray of the shape of ``valid``, optional
            The pieces of foreground to label; the others stay 0. None: all.

        Returns
        -------
        int32 ndarray of the shape ``block.shape[1:]``
            Labels from 1; 0 is background.
        """
        from skimage.segmentation import watershed

        block = np.asarray(block)
        valid = valid_or_all(valid, block)
        feature = self.feature(block, valid)
        # it is this class's own
        support = fitted_to(self, block, valid)._support(feature, valid)  # noqa: SLF001
        support = support if part is None else support & part
        piece = pieces(support)[0]
        if self.seeds is None:
            height = self._height(feature, valid, support, self.markers)
            height = levelled(height, support, self._depth)
            markers = _marked(height, support, piece, self.min_distance)
        else:
            seeds = np.where(support, given_in(self.seeds, valid.shape, origin), 0)
            markers = _numbered(seeds, piece)
        if self.seeds is not None or self._flooded != self.markers:
            height = self._height(feature, valid, support, self._flooded)
        surface = without_ties(-height, np.flatnonzero(markers), piece)
        flooded = watershed(
            surface, markers, mask=support, connectivity=support.ndim, compactness=self.compactness
        )
        return np.asarray(flooded, np.int32)

    @property
    def _flooded(self) -> str:
        return self.surface or self.markers

    @property
    def _foreground(self) -> Foreground:
        if isinstance(self.threshold, str):
            return Foreground(
                method=self.threshold, dark=self.dark, window=self.window, spread=self.spread
            )
        if self.threshold is None:
            return Foreground(value=np.inf if self.dark else -np.inf, dark=self.dark)
        return Foreground(
            value=self.threshold, dark=self.dark, window=self.window, spread=self.spread
        )

    @property
    def _depth(self) -> float:
        return self.min_depth if self.min_depth is not None else 0.75 * (self.markers == "distance")

    def _support(
        self, feature: npt.NDArray[Any], valid: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.bool_]:
        mask = self._foreground(feature, valid)
        if not self.max_hole:
            return mask
        ground, _ = pieces(~mask, 2 * mask.ndim)
        small = np.bincount(ground.ravel()) <= self.max_hole
        return np.asarray((mask | small[ground]) & valid)

    def _height(
        self,
        feature: npt.NDArray[Any],
        valid: npt.NDArray[np.bool_],
        support: npt.NDArray[np.bool_],
        kind: str,
    ) -> npt.NDArray[np.float64]:
        """The surface with maxima at the markers (``kind``: distance, intensity or gradient)."""
        from scipy import ndimage

        if kind == "gradient":
            return np.asarray(-np.sqrt((derivatives(feature, valid) ** 2).sum(axis=0)))
        if kind == "intensity":
            bright = -feature.astype(np.float64) if self.dark else feature.astype(np.float64)
            return np.where(support & np.isfinite(bright), bright, -np.inf)
        # without background there is no distance to it; the padding is one pixel beyond the block
        if support.all():
            return np.asarray(ndimage.distance_transform_edt(np.pad(support, 1)))[
                (slice(1, -1),) * support.ndim
            ]
        return np.asarray(ndimage.distance_transform_edt(support))


def _marked(
    height: npt.NDArray[np.float64],
    support: npt.NDArray[np.bool_],
    piece: npt.NDArray[np.int32],
    min_distance: int,
) -> npt.NDArray[np.int32]:
    """Number the maxima of a height from 1; the arguments are those of `summits`."""
    markers = np.zeros(support.shape, np.int32)
    tops = summits(height, support, piece, min_distance)
    markers.ravel()[tops] = np.arange(1, len(tops) + 1)
    return markers


def _numbered(seeds: npt.NDArray[np.int64], piece: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Number the markers from 1: one marker for each seed number in each piece of support."""
    given = seeds > 0
    markers = np.zeros(seeds.shape, np.int32)
    pairs = np.stack([piece[given].astype(np.int64), seeds[given]], axis=1)
    markers[given] = np.unique(pairs, axis=0, return_inverse=True)[1].ravel() + 1
    return markers
