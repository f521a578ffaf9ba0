"""Objects grown from markers: the watershed within a foreground.

Exact under tiling where the foreground's piece (the support) of an object lies whole in the tile's
window. Everything here is decided within one piece of support: distances end at its border, markers
compete only with markers of the same piece, and the flooding does not leave it. So what lies
elsewhere in the window changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from pipeline.annotations.seeds import given_in
from pipeline.errors import JobError, nearest
from pipeline.imageops.components import pieces
from pipeline.imageops.features import Feature
from pipeline.imageops.filters import derivatives
from pipeline.imageops.histograms import Histogram
from pipeline.imageops.markers import levelled, summits, without_ties
from pipeline.imageops.thresholds import METHODS, MULTIOTSU, Foreground
from pipeline.segmenters import Flags, Footprint, Identity, Origin, fitted_to


@dataclass(frozen=True, slots=True)
class Watershed(Feature):
    """Objects that touch are parted along the valleys between their markers.

    Use it for roundish objects that touch: nuclei, grains, crowns. For objects of any other form it
    draws too many borders.

    Examples
    --------
    >>> import numpy as np
    >>> Watershed(threshold=0, min_distance=1)(np.array([[[9, 9, 9, 0, 9], [9, 9, 9, 0, 9]]])).max()
    np.int32(2)

    References
    ----------
    F. Meyer (1994), "Topographic distance and watershed lines", Signal Processing 38, 113-125; the
    flooding is scikit-image's.
    """

    threshold: float | str | None = "otsu"
    """The foreground is above this value, or above what this method finds: any of ``threshold``'s
    but multiotsu. None: it is all of the image; then nothing can be proved unless the whole image
    fits in a window.
    """

    dark: bool = False
    """Objects are darker than the threshold, in place of brighter."""

    window: int | None = None
    """For local methods: the extent in pixels of the surroundings, an odd number; None: 51."""

    markers: Literal["distance", "intensity"] = "distance"
    """Where objects have their middle: far from the background, or brightest (darkest, if
    ``dark``).
    """

    seeds: Any = None
    """Markers that are given, in place of ``markers``: points, a raster of markers' numbers or a
    vector file, as for ``region_growing``.
    """

    surface: Literal["distance", "intensity", "gradient"] | None = None
    """What is flooded: towards the background's distance, along brightness, or up the slopes, so
    that borders lie where the feature is steepest. None: what ``markers`` says.
    """

    compactness: float = 0.0
    """How much the distance from the marker counts beside the surface; the higher, the rounder the
    objects.
    """

    min_distance: int = 5
    """Markers of one piece of foreground are further apart than this, in pixels; of two that are
    not, the higher one stays.
    """

    min_depth: float | None = None
    """A marker rises at least this far above the pass to a higher one, in pixels of distance or in
    units of the feature: the ridge of a long object has many summits, which this takes for one.
    None: 0.75 for distances, 0 for intensities.
    """

    spread: float | None = None
    """For sauvola: the largest deviation that there may be; None: half the range of the image's
    values.
    """

    min_area: int = 0
    """Objects of fewer pixels are removed."""

    max_hole: int = 0
    """Holes of the foreground of up to this many pixels are filled first. It adds as much to the
    reach: whether a piece of background is larger must be seen inside the window. (A hole of any
    size may be the whole tile, and nothing in it could be proved.)
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
        """The smoothing's radius and the extent of the largest hole to be filled, in pixels."""
        return self.radius + self._foreground.reach + self.max_hole + (self._flooded == "gradient")

    @property
    def partial(self) -> bool:
        """Whether pieces of foreground without a marker stay empty."""
        return self.seeds is not None

    @property
    def unfitted(self) -> bool:
        """Whether the threshold is still to be found."""
        return self._foreground.unfitted

    def fit(self, histogram: Histogram) -> Watershed:
        """The same with what the method finds."""
        found = self._foreground.fit(histogram)
        return replace(
            self,
            threshold=self.threshold if found.value is None else found.value,
            spread=found.spread,
        )

    def foreground(
        self, block: npt.NDArray[Any], valid: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.bool_]:
        """The support: the thresholded pixels, small holes filled; of the shape of ``valid``."""
        return self._support(self.feature(block, valid), valid)

    def __call__(
        self,
        block: npt.NDArray[Any],
        valid: npt.NDArray[np.bool_] | None = None,
        origin: Origin = None,
        part: Flags | None = None,
    ) -> npt.NDArray[np.int32]:
        """Label one block as if it were the whole image: int32; without ``min_area``, which is
        decided on whole objects.

        ``part``: the pieces of foreground that are asked for; the others stay empty.
        """
        from skimage.segmentation import watershed

        block = np.asarray(block)
        valid = np.ones(block.shape[1:], bool) if valid is None else valid
        feature = self.feature(block, valid)
        # it is this class's own
        support = fitted_to(self, block, valid)._support(feature, valid)  # noqa: SLF001
        support = support if part is None else support & part
        piece = pieces(support)[0]
        if self.seeds is None:
            height = levelled(
                self._height(feature, valid, support, self.markers), support, self._depth
            )
            markers = np.zeros(support.shape, np.int32)
            tops = summits(height, support, piece, self.min_distance)
            markers.ravel()[tops] = np.arange(1, len(tops) + 1)
        else:
            markers = _numbered(
                np.where(support, given_in(self.seeds, valid.shape, origin), 0), piece
            )
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
        """What markers are the summits of, and what is flooded from its summits down."""
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


def _numbered(seeds: npt.NDArray[np.int64], piece: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Markers from 1: seeds of one number in one piece of support are one."""
    given = seeds > 0
    markers = np.zeros(seeds.shape, np.int32)
    pairs = np.stack([piece[given].astype(np.int64), seeds[given]], axis=1)
    markers[given] = np.unique(pairs, axis=0, return_inverse=True)[1].ravel() + 1
    return markers
