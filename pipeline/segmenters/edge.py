"""Edges by Canny or by a threshold on the gradient: as curves, lines or enclosed regions.

Which pixels can be edges depends on a few pixels around them. Which edges are kept (hysteresis) is
decided after the parts of a curve are joined: a weak edge that crosses ten tiles and is strong in
one is an edge in all ten. Regions are the areas between the kept edges, so they wait for the same
decision. All are exact at any size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numba
import numpy as np
import numpy.typing as npt

from pipeline.config.extras import require
from pipeline.errors import JobError, nearest
from pipeline.imageops.features import Feature
from pipeline.imageops.filters import derivatives, usable
from pipeline.imageops.histograms import FINDERS, Histogram, threshold
from pipeline.segmenters import Classes, Footprint, Identity, label

Pixels = npt.NDArray[Any]
Flags = npt.NDArray[np.bool_]
FORMS = ("edges", "lines", "regions")
PASSES = 8
"""How often lines are thinned. Each pass removes one pixel on either side of a curve, and depends
on pixels up to two away.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edges(Feature):
    """Curves of steep brightness change, or the regions between them.

    Use ``edges`` for outlines, ``lines`` for a vector file of outlines, and ``regions`` to separate
    fields, roofs or cells that have sharp borders and an even inside. An outline with a gap
    separates nothing: ``gaps`` closes small ones, and ``watershed`` on the gradient is better where
    most outlines have gaps. Next to pixels that were not measured the gradient is unknown; when
    regions are wanted, those pixels count as edges.

    Notes
    -----
    Labels equal those of the untiled image for objects of any size, so their certificate is
    ``proved``.

    References
    ----------
    .. [1] J. Canny (1986), "A computational approach to edge detection", IEEE Trans. PAMI 8(6),
       679-698.
    .. [2] H. Scharr (2000), "Optimal operators in digital image processing", thesis, Heidelberg.

    Examples
    --------
    >>> import numpy as np
    >>> Edges(sigma=0, high=1)(np.array([[[0, 0, 0, 9, 9, 9]] * 3]))[1]
    array([0, 0, 1, 1, 0, 0], dtype=int32)
    """

    sigma: float = 1.0
    """Standard deviation of the Gaussian smoothing, in pixels; 0: no smoothing."""

    method: Literal["canny", "sobel", "scharr"] = "canny"
    """``canny``: pixels where the gradient is highest across the edge, one or two pixels wide.
    ``sobel``, ``scharr``: all pixels with a high gradient.
    """

    high: float | str = "otsu"
    """The high threshold of the hysteresis: an edge has a pixel with at least this gradient, in
    units of the feature per pixel, more than 0; or the method that finds it in the image's
    gradients: otsu, li, yen, triangle, isodata, minimum, mean.
    """

    low: float | None = None
    """The low threshold of the hysteresis: an edge continues while the gradient is at least this;
    more than 0, at most ``high``. None: half of ``high``.
    """

    gaps: int = 0
    """Gaps in edges of up to twice this many pixels are closed before the hysteresis, 0 or more."""

    form: Literal["edges", "lines", "regions"] = "edges"
    """What objects are. ``edges``: connected edges. ``lines``: edges thinned to one pixel (if they
    are at most seventeen wide), also written as lines. ``regions``: connected pixels between edges.
    """

    min_area: int = 0
    """Objects of fewer pixels are removed."""

    identity: ClassVar[Identity] = "connected"
    portable: ClassVar[bool] = True
    footprint: ClassVar[Footprint] = Footprint(46.0, 0.5)
    bins: ClassVar[int] = 4096

    def __post_init__(self) -> None:
        Feature.__post_init__(self)  # super() does not work in a class with slots
        for name, allowed in (("method", ("canny", "sobel", "scharr")), ("form", FORMS)):
            if getattr(self, name) not in allowed:
                raise JobError(
                    f"{name}: {getattr(self, name)!r}; {nearest(str(getattr(self, name)), allowed)}"
                )
        if isinstance(self.high, str) and self.high not in FINDERS:
            raise JobError(f"high: {self.high!r}; a slope, or {nearest(self.high, FINDERS)}")
        if not isinstance(self.high, str) and not self.high > 0:
            raise JobError(f"high: {self.high!r}; allowed: more than 0")
        if self.low is not None and not 0 < self.low <= (
            np.inf if isinstance(self.high, str) else self.high
        ):
            raise JobError(f"low: {self.low!r}; allowed: more than 0 and no more than high")
        if self.lines:
            require("pyogrio", "form: lines")
            require("shapely", "form: lines")
        if self.gaps < 0:
            raise JobError(f"gaps: {self.gaps!r}; allowed: a number of pixels, 0 for none")

    @property
    def reach(self) -> int:
        """The radius of smoothing, gradient, gaps and thinning together, in pixels."""
        return self.radius + 2 + 2 * self.gaps + 2 * PASSES * self.lines

    @property
    def lines(self) -> bool:
        """Whether objects are curves that are also written as lines."""
        return self.form == "lines"

    @property
    def seeded(self) -> bool:
        """Whether an object needs a strong pixel: edges do, regions do not."""
        return self.form != "regions"

    @property
    def between(self) -> bool:
        """Whether objects are the regions between edges."""
        return self.form == "regions"

    @property
    def connectivity(self) -> int:
        """Number of neighbours: 8 for edges, which continue across corners; 4 for regions."""
        return 4 if self.form == "regions" else 8

    @property
    def unfitted(self) -> bool:
        """Whether the gradients of the whole image are needed first."""
        return isinstance(self.high, str)

    def feature(self, block: Pixels, valid: Flags) -> npt.NDArray[np.float64]:
        """Compute the gradient magnitude.

        Parameters
        ----------
        block : ndarray, (band, row, column)
            The pixels of one window.
        valid : bool ndarray of the shape ``block.shape[1:]``
            True where a pixel was measured.

        Returns
        -------
        float64 ndarray, (row, column)
            The magnitude, in units of the feature per pixel.
        """
        return _length(*self._slopes(block, valid)[0])

    def fit(self, histogram: Histogram) -> Edges:
        """Return a copy with the high threshold found in the gradients.

        Parameters
        ----------
        histogram : Histogram
            The histogram of gradient magnitudes over the whole image.

        Returns
        -------
        Edges
            A fitted copy.
        """
        found = (
            threshold(histogram, str(self.high))
            if np.count_nonzero(histogram.counts) > 1
            else np.inf
        )
        return replace(
            self,
            high=max(found, np.finfo(float).tiny) if self.low is None else max(found, self.low),
        )

    def classify(self, block: Pixels, valid: Flags) -> Classes:
        """Find the candidates for edges.

        Parameters
        ----------
        block : ndarray, (band, row, column)
            The pixels of one window.
        valid : bool ndarray of the shape ``block.shape[1:]``
            True where a pixel was measured.

        Returns
        -------
        Classes
            Pixels above the low threshold, and those above the high one.
        """
        high = float(self.high)
        low = high / 2 if self.low is None else self.low
        slopes, good = self._slopes(block, valid)
        steep = _length(*slopes)
        weak = steep >= low
        if self.method == "canny":
            weak &= _crests(slopes[0], slopes[1], steep)
        strong = weak & (steep >= high)
        if self.gaps:
            weak = _closed(weak, self.gaps)
        if self.form == "regions" and not good.all():
            unknown = valid & ~_eroded(good)
            weak = weak | unknown
            strong = strong | unknown
        return (
            Classes(*_thinned(weak & valid, strong))
            if self.lines
            else Classes(weak & valid, strong)
        )

    def __call__(self, block: Pixels, valid: Flags | None = None) -> npt.NDArray[np.int32]:
        """Label one block as if it were the whole image.

        Labels are numbered in raster order. ``min_area`` is not applied.

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
        return label(self, block, valid)

    def _slopes(self, block: Pixels, valid: Flags) -> tuple[npt.NDArray[np.float64], Flags]:
        """Gradients along rows and columns, (2, row, column), and where the feature is known."""
        if block.ndim != 3:
            raise JobError("edges in a volume; allowed: images of two dimensions")
        value = Feature.feature(self, block, valid)
        return derivatives(value, valid, scharr=self.method == "scharr"), usable(value, valid)


def _length(
    down: npt.NDArray[np.float64], across: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """The hypotenuse, in operations that round alike on every processor."""
    return np.asarray(np.sqrt(down * down + across * across))


def _closed(mask: Flags, gap: int) -> Flags:
    """Close gaps of up to twice ``gap`` pixels."""
    from scipy import ndimage

    wide = ndimage.maximum_filter(mask, size=2 * gap + 1, mode="nearest")
    return np.asarray(ndimage.minimum_filter(wide, size=2 * gap + 1, mode="nearest"))


def _thinned(mask: Flags, strong: Flags) -> tuple[Flags, Flags]:
    """Thin curves without breaking any; mark what is left near a strong pixel as strong.

    Each half of a pass keeps a neighbour of every pixel that it removes. So from a strong pixel, a
    kept one lies within as many steps along the curve as there were halves.

    References
    ----------
    .. [1] Z. Guo, R. W. Hall (1989), "Parallel thinning with two-subiteration algorithms", Comm.
       ACM 32(3), 359-373.
    """
    from scipy import ndimage
    from skimage.morphology import thin

    thinned = np.asarray(thin(mask, PASSES))
    near = ndimage.binary_dilation(
        strong & mask, np.ones((3, 3), bool), iterations=2 * PASSES, mask=mask
    )
    return thinned, near & thinned


def _eroded(mask: Flags) -> Flags:
    from scipy import ndimage

    return np.asarray(ndimage.minimum_filter(mask, size=3, mode="nearest"))


@numba.njit(cache=True, nogil=True)
def _crests(down, across, steep):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Where the gradient is a local maximum along its own direction (interpolated between two
    pixels).
    """
    rows, columns = steep.shape
    crest = np.zeros(steep.shape, np.bool_)
    for r in range(rows):
        for c in range(columns):
            here = steep[r, c]
            y = down[r, c]
            x = across[r, c]
            if here == 0.0:
                continue
            upright = abs(y) >= abs(x)
            share = abs(x) / abs(y) if upright else abs(y) / abs(x)
            dy = 1 if y > 0 else -1
            dx = 1 if x > 0 else -1
            kept = True
            for side in (-1, 1):
                far_r = min(max(r + side * dy, 0), rows - 1)
                far_c = min(max(c + side * dx, 0), columns - 1)
                straight = steep[far_r, c] if upright else steep[r, far_c]
                kept = kept and share * steep[far_r, far_c] + (1.0 - share) * straight <= here
            crest[r, c] = kept
    return crest
