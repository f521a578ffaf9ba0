"""Edges: Canny's, or plain slopes; as curves, as lines along them, or as the regions that they
enclose.

Which pixels may be edges is decided within a few pixels. Which of them are kept (hysteresis) is
decided when all parts of a curve are known: a weak edge that crosses ten tiles and is strong in one
is an edge in all ten. Regions are what lies between the edges that are kept, so they wait for the
same decision. All are exact at any size.
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
"""How often lines are thinned; each pass takes a pixel off either side of a curve, and looks two
pixels away.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edges(Feature):
    """Curves along which brightness changes steeply, or the regions between them.

    Use ``edges`` to find outlines; ``lines`` for a vector file of them; ``regions`` to part fields,
    roofs or cells that have sharp borders and are even inside. An outline with a gap does not part
    anything: ``gaps`` closes small ones; where most outlines have gaps, ``watershed`` on the
    gradient serves better. Beside pixels that are not valid nothing is known of slopes: those count
    as edges when regions are wanted.

    Examples
    --------
    >>> import numpy as np
    >>> Edges(sigma=0, high=1)(np.array([[[0, 0, 0, 9, 9, 9]] * 3]))[1]
    array([0, 0, 1, 1, 0, 0], dtype=int32)

    References
    ----------
    J. Canny (1986), "A computational approach to edge detection", IEEE Trans. PAMI 8(6), 679-698.
    H. Scharr (2000), "Optimal operators in digital image processing", thesis, Heidelberg.
    """

    sigma: float = 1.0
    """The standard deviation of Gaussian smoothing, in pixels."""

    method: Literal["canny", "sobel", "scharr"] = "canny"
    """``canny``: only where the slope is highest across the edge, one or two pixels wide.
    ``sobel``, ``scharr``: wherever it is high.
    """

    high: float | str = "otsu"
    """An edge needs a pixel with at least this slope, in units of the feature per pixel; or the
    method that finds it in the image's slopes: otsu, li, yen, triangle, isodata, minimum, mean.
    """

    low: float | None = None
    """And goes on as far as slopes are at least this. None: half of ``high``."""

    gaps: int = 0
    """Gaps of up to twice as many pixels are closed before it is decided how far an edge goes on.
    """

    form: Literal["edges", "lines", "regions"] = "edges"
    """What objects are: connected edges; those thinned to a pixel (where they are no wider than
    seventeen), which are also written as lines; or connected pixels between edges.
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
        """The smoothing's radius, a pixel for the slope, one for its neighbours', the gaps' and the
        thinning's.
        """
        return self.radius + 2 + 2 * self.gaps + 2 * PASSES * self.lines

    @property
    def lines(self) -> bool:
        """Whether objects are curves that are written as lines."""
        return self.form == "lines"

    @property
    def seeded(self) -> bool:
        """Whether an object needs a pixel that is strong: edges do, regions do not."""
        return self.form != "regions"

    @property
    def between(self) -> bool:
        """Whether objects are what lies between edges."""
        return self.form == "regions"

    @property
    def connectivity(self) -> int:
        """Edges go on across corners, and so regions do not."""
        return 4 if self.form == "regions" else 8

    @property
    def unfitted(self) -> bool:
        """Whether the slopes of the whole image are needed first."""
        return isinstance(self.high, str)

    def feature(self, block: Pixels, valid: Flags) -> npt.NDArray[np.float64]:
        """The slope at each pixel, of the shape of ``valid``, in units of the feature per pixel."""
        return _length(*self._slopes(block, valid)[0])

    def fit(self, histogram: Histogram) -> Edges:
        """The same with the slope that the method finds."""
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
        """Where edges may be, and where they are strong."""
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
            weak, strong = weak | unknown, strong | unknown
        return (
            Classes(*_thinned(weak & valid, strong))
            if self.lines
            else Classes(weak & valid, strong)
        )

    def __call__(self, block: Pixels, valid: Flags | None = None) -> npt.NDArray[np.int32]:
        """Label one block as if it were the whole image: int32, in raster order; without
        ``min_area``.
        """
        return label(self, block, valid)

    def _slopes(self, block: Pixels, valid: Flags) -> tuple[npt.NDArray[np.float64], Flags]:
        """(2, row, column) slopes along rows' and columns' axes; and where the feature is known."""
        if block.ndim != 3:
            raise JobError("edges in a volume; allowed: images of two dimensions")
        value = Feature.feature(self, block, valid)
        return derivatives(value, valid, scharr=self.method == "scharr"), usable(value, valid)


def _length(
    down: npt.NDArray[np.float64], across: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """The hypotenuse, in steps that round alike on every processor."""
    return np.asarray(np.sqrt(down * down + across * across))


def _closed(mask: Flags, gap: int) -> Flags:
    """With gaps of up to twice as many pixels closed."""
    from scipy import ndimage

    wide = ndimage.maximum_filter(mask, size=2 * gap + 1, mode="nearest")
    return np.asarray(ndimage.minimum_filter(wide, size=2 * gap + 1, mode="nearest"))


def _thinned(mask: Flags, strong: Flags) -> tuple[Flags, Flags]:
    """Curves thinned, none of them parted, and what is left of each strong where it was.

    A pixel that is taken away has a neighbour that stays, at each half of a pass. So a strong pixel
    has one that is left within as many steps along the curve as there were halves.

    References
    ----------
    Z. Guo, R. W. Hall (1989), "Parallel thinning with two-subiteration algorithms", Comm. ACM
    32(3), 359-373.
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
    """Where no slope is higher beside a pixel, on either side along the direction of its slope
    (between two neighbours on each).
    """
    rows, columns = steep.shape
    crest = np.zeros(steep.shape, np.bool_)
    for r in range(rows):
        for c in range(columns):
            here, y, x = steep[r, c], down[r, c], across[r, c]
            if here == 0.0:
                continue
            upright = abs(y) >= abs(x)
            share = abs(x) / abs(y) if upright else abs(y) / abs(x)
            dy, dx = (1 if y > 0 else -1), (1 if x > 0 else -1)
            kept = True
            for side in (-1, 1):
                far_r, far_c = (
                    min(max(r + side * dy, 0), rows - 1),
                    min(max(c + side * dx, 0), columns - 1),
                )
                straight = steep[far_r, c] if upright else steep[r, far_c]
                kept = kept and share * steep[far_r, far_c] + (1.0 - share) * straight <= here
            crest[r, c] = kept
    return crest
