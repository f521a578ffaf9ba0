"""Bright roundish objects of varying size and brightness, by a component tree.

Every threshold divides a piece of foreground into connected components. The components of all
thresholds form a tree. Of all sets of nodes that do not overlap, the one is chosen that covers most
pixels with shapes close to an ellipse. Everything is decided within one connected piece of
foreground and on integers, so an object is exact where that piece lies wholly in the window.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numba
import numpy as np
import numpy.typing as npt

from pipeline.errors import JobError
from pipeline.image.frame import valid_or_all
from pipeline.imageops.components import pieces
from pipeline.imageops.features import Feature
from pipeline.imageops.filters import gaussian_radius, smooth
from pipeline.imageops.histograms import FINDERS, Histogram, threshold
from pipeline.imageops.markers import levelled, summits, without_ties
from pipeline.numerics.elementary import logarithm
from pipeline.segmenters import Footprint, Identity, fitted_to

Pixels = npt.NDArray[Any]
Flags = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int32]
STEPS = 40
"""Thresholds per factor of e in brightness."""
PREFERENCE = 1.2
"""Children replace their parent node only if they cover this many times as much."""
FINE = 1024
"""Units per pixel in which coverage is counted: sums of integers do not depend on their order."""
PEAK = 0.9
"""The quantile of an object's values that counts as its brightness."""
MOST = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Blobs(Feature):
    """Bright, roundish or long objects of varying size and brightness.

    Use it for nuclei, cells, grains or spots where one threshold does not fit all: dim objects
    beside bright ones, or objects on a bright background. Objects that touch and are equally bright
    are separated by their shape, as ``watershed`` does. Images have two dimensions.

    Notes
    -----
    Labels are ``proved`` equal to those of the untiled image where the connected piece of
    foreground around an object fits in a tile's window; windows are enlarged up to ``max_halo`` for
    that.

    References
    ----------
    .. [1] L. Najman, M. Couprie (2006), "Building the component tree in quasi-linear time", IEEE
       Trans. IP 15(11), 3531-3539. The implementation is that of scikit-image.
    .. [2] C. Arteta et al. (2012), "Learning to detect cells using non-overlapping extremal
       regions", MICCAI, LNCS 7510, 348-356, for the choice of nodes that do not overlap.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.zeros((1, 20, 40))
    >>> image[0, 5:15, 5:15] = 50
    >>> image[0, 5:15, 20:30] = 250
    >>> Blobs(sigma=0, min_size=10, local=0)(image).max()
    np.int32(2)
    """

    sigma: float = 1.0
    """Standard deviation of the Gaussian smoothing, in pixels; 0: no smoothing."""

    threshold: float | str = "li"
    """The threshold of the foreground, in units of the feature, or the method that finds it in the
    image's histogram: otsu, li, yen, triangle, isodata, minimum or mean.
    """

    share: float = 0.7
    """If a method finds the threshold: it is lowered to this fraction (0 to 1) of its height above
    the background, so that dim objects are kept.
    """

    ground: float | None = None
    """Brightness of the background, in units of the feature; None: the median of the pixels below
    the threshold.
    """

    min_size: int = 30
    """The least size of an object in pixels, before it is grown to its border."""

    max_size: int = 20_000
    """The largest size of an object in pixels, before it is grown to its border; up to 100000."""

    roundness: float = 0.8
    """Nodes that fill a smaller fraction of their ellipse than this are rejected; 0 to 1, where 1
    is a perfect ellipse.
    """

    height: float = 0.35
    """An object ends where brightness falls below this fraction (0 to 1) of its own, measured above
    the background.
    """

    local: float = 20.0
    """Objects do not grow where brightness is below its local Gaussian mean; this is the standard
    deviation of that mean in pixels, below 250. 0: no such limit.
    """

    min_distance: int = 5
    """Objects that touch and are equally bright are separated if their centres are more than this
    many pixels apart, 1 or more, and ``min_depth`` holds too.
    """

    min_depth: float = 0.6
    """Objects that touch and are equally bright are separated if both are wider than the neck
    between them by this many pixels, 0 or more.
    """

    min_area: int = 0
    """Objects of fewer pixels are removed."""

    identity: ClassVar[Identity] = "object"
    portable: ClassVar[bool] = True
    footprint: ClassVar[Footprint] = Footprint(120.0, 1.0)
    partial: ClassVar[bool] = True

    def __post_init__(self) -> None:
        Feature.__post_init__(self)  # super() does not work in a class with slots
        if isinstance(self.threshold, str) and self.threshold not in FINDERS:
            raise JobError(
                f"threshold: {self.threshold!r}; allowed: a value, or {', '.join(FINDERS)}"
            )
        if not 0 < self.min_size < self.max_size <= MOST:
            raise JobError(
                f"min_size and max_size: {self.min_size!r} and {self.max_size!r}; allowed: 1 to "
                f"{MOST}, ascending"
            )
        for name in ("share", "roundness", "height"):
            if not 0 <= getattr(self, name) <= 1:
                raise JobError(f"{name}: {getattr(self, name)!r}; allowed: 0 to 1")
        if not 0 <= self.local < 250:
            raise JobError(f"local: {self.local!r}; allowed: 0 to 250 pixels")
        if self.min_distance < 1 or not self.min_depth >= 0:
            raise JobError(
                f"min_distance and min_depth: {self.min_distance!r} and {self.min_depth!r}; "
                f"allowed: from 1, and from 0"
            )

    @property
    def reach(self) -> int:
        """The radii of the smoothing and of the local mean, plus one pixel, in pixels."""
        return self.radius + gaussian_radius(self.local) + 1

    @property
    def unfitted(self) -> bool:
        """Whether the threshold or the background must still be found in the image."""
        return isinstance(self.threshold, str) or self.ground is None

    def fit(self, histogram: Histogram) -> Blobs:
        """Return a copy with the threshold and the background found in a histogram.

        In an image of a single value, nothing is foreground.

        Parameters
        ----------
        histogram : Histogram
            The histogram of the feature over the whole image.

        Returns
        -------
        Blobs
            A fitted copy.
        """
        if np.count_nonzero(histogram.counts) < 2:
            return replace(self, threshold=float("inf"), ground=0.0)
        found = (
            threshold(histogram, self.threshold)
            if isinstance(self.threshold, str)
            else self.threshold
        )
        below = np.cumsum(np.where(histogram.centers <= found, histogram.counts, 0))
        ground = (
            self.ground
            if self.ground is not None
            else float(histogram.centers[int(np.searchsorted(below, below[-1] / 2))])
        )
        return replace(
            self,
            threshold=ground + self.share * (found - ground)
            if isinstance(self.threshold, str)
            else found,
            ground=ground,
        )

    def foreground(self, block: Pixels, valid: Flags) -> Flags:
        """Compute the support: the pixels above the threshold.

        Parameters
        ----------
        block : ndarray, (band, row, column)
            The pixels of one window.
        valid : bool ndarray of the shape ``block.shape[1:]``
            True where a pixel was measured.

        Returns
        -------
        bool ndarray, (row, column)
            True for foreground.
        """
        if valid.ndim != 2:
            raise JobError("blobs in a volume; allowed: images of two dimensions")
        value = self.feature(block, valid)
        return np.asarray(valid & (value > float(self.threshold)))  # false for NaN

    def __call__(self, block: Pixels, valid: Flags | None = None) -> Labels:
        """Label one block as if it were the whole image.

        ``min_area`` is not applied, because it is decided on whole objects.

        Parameters
        ----------
        block : ndarray, (band, row, column)
            The pixels of one window.
        valid : bool ndarray of the shape ``block.shape[1:]``, optional
            True where a pixel was measured; None: everywhere.

        Returns
        -------
        int32 ndarray of the shape ``block.shape[1:]``
            Labels from 1; 0 is background.
        """
        block = np.asarray(block)
        valid = valid_or_all(valid, block)
        fitted = fitted_to(self, block, valid)
        support = fitted.foreground(block, valid)
        if not support.any():
            return np.zeros(support.shape, np.int32)
        value = self.feature(block, valid).astype(np.float64)
        above = np.where(support, value - fitted.ground, 0.0)
        piece = pieces(support)[0]
        labels = _grown(
            self._nodes(above, support, float(fitted.threshold) - fitted.ground),
            above,
            self._room(value, valid, support),
            piece,
        )
        return self._parted(_cut(labels, above, self.height), piece)

    def _nodes(self, above: Floats, support: Flags, base: float) -> Labels:
        """Label the chosen nodes of the component tree.

        Parameters
        ----------
        above : float64 ndarray, (row, column)
            Brightness above the background.
        support : bool ndarray, (row, column)
            The foreground.
        base : float
            The threshold above the background.

        Returns
        -------
        int32 ndarray, (row, column)
            Labels of the chosen nodes.
        """
        from skimage.morphology import max_tree

        steps = np.floor(logarithm(np.where(support, above, base) / base) * STEPS)
        # scikit-image fails on images one pixel wide
        level = np.pad(np.where(support, 1 + steps, 0).astype(np.uint16), 1)
        parent, order = max_tree(level, connectivity=1)
        found = _chosen(
            parent.ravel(),
            order.ravel(),
            level.ravel(),
            level.shape[1],
            self.min_size,
            self.max_size,
            self.roundness,
        )
        return np.asarray(found.reshape(level.shape)[1:-1, 1:-1])

    def _room(self, value: Floats, valid: Flags, support: Flags) -> Flags:
        """Where objects may grow: in the support, and above the local mean."""
        return support & (value > smooth(value, valid, self.local)) if self.local else support

    def _parted(self, labels: Labels, piece: Labels) -> Labels:
        """Split objects at their necks."""
        from scipy import ndimage
        from skimage.segmentation import watershed

        inside = labels > 0
        for axis in (0, 1):
            first = [slice(None)] * 2
            first[axis] = slice(0, -1)
            inside[tuple(first)] &= np.diff(labels, axis=axis) == 0
        width = np.asarray(ndimage.distance_transform_edt(np.pad(inside, 1)))[1:-1, 1:-1]
        own = pieces(inside)[0]
        height = levelled(width, inside, self.min_depth)
        middles = np.zeros(labels.shape, np.int32)
        tops = summits(height, inside, own, self.min_distance)
        middles.ravel()[tops] = np.arange(1, len(tops) + 1)
        parts = watershed(without_ties(-height, tops, own), middles, mask=inside, connectivity=2)
        return np.asarray(
            watershed(
                without_ties(-width, np.flatnonzero(parts), piece),
                parts,
                mask=labels > 0,
                connectivity=2,
            ),
            np.int32,
        )


def _grown(nodes: Labels, above: Floats, room: Flags, piece: Labels) -> Labels:
    """Grow the nodes downhill within ``room``."""
    from skimage.segmentation import watershed

    surface = without_ties(-above, np.flatnonzero(nodes), piece)
    return np.asarray(watershed(surface, nodes, mask=room | (nodes > 0)), np.int32)


def _cut(labels: Labels, above: Floats, height: float) -> Labels:
    """Clear the pixels of objects that are dimmer than a fraction of the object's brightness."""
    flat = labels.ravel()
    value = above.ravel()
    where = np.flatnonzero(flat)
    order = where[np.lexsort((value[where], flat[where]))]
    number = np.bincount(flat[where], minlength=int(flat.max(initial=0)) + 1)
    first = np.cumsum(number) - number
    peak = np.zeros(len(number))
    some = number > 0
    peak[some] = value[order[first[some] + (PEAK * (number[some] - 1)).astype(np.int64)]]
    return np.where(above > height * peak[labels], labels, 0).astype(np.int32)


@numba.njit(cache=True, nogil=True)
def _chosen(parent, order, level, columns, least, most, roundness):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Label the nodes that cover most with ellipses.

    Sums are integers, so the order of the tree does not matter.
    """
    number = len(parent)
    sums = np.ones((number, 6), np.int64)  # pixels, x, y, xx, yy, xy
    for i in range(number):
        y = i // columns
        x = i % columns
        sums[i, 1] = x
        sums[i, 2] = y
        sums[i, 3] = x * x
        sums[i, 4] = y * y
        sums[i, 5] = x * y
    for k in range(number - 1, 0, -1):
        sums[parent[order[k]]] += sums[order[k]]
    cover = np.zeros(number, np.int64)
    taken = np.zeros(number, np.bool_)
    for k in range(number - 1, 0, -1):
        i = order[k]
        if level[i] != level[parent[i]]:  # the pixel that stands for its node
            if least <= sums[i, 0] <= most:
                own = _cover(sums[i], roundness)
                if own > 0 and own * PREFERENCE >= cover[i]:
                    cover[i] = own
                    taken[i] = True
            cover[parent[i]] += cover[i]
    labels = np.zeros(number, np.int32)
    count = 0
    for k in range(1, number):
        i = order[k]
        if labels[parent[i]] > 0:
            labels[i] = labels[parent[i]]
        elif taken[i]:
            count += 1
            labels[i] = count
    return labels


@numba.njit(cache=True, nogil=True)
def _cover(sums, roundness):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Pixels covered by a node, in units of 1/FINE: more the better its pixels fill the ellipse of
    their moments.
    """
    area, x, y, xx, yy, xy = sums
    square = float(area) * float(area)
    along = (area * xx - x * x) / square + 1 / 12
    across = (area * yy - y * y) / square + 1 / 12
    both = (area * xy - x * y) / square
    filled = area / (4 * np.pi * np.sqrt(max(along * across - both * both, 1e-9)))
    return (
        int(area * FINE * min(max((filled - roundness) / (1 - roundness), 0.0), 1.0))
        if roundness < 1
        else 0
    )
