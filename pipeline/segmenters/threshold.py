"""Objects are connected pixels above (or below, or between) thresholds.

Exact under tiling at any object size: the class of a pixel depends on at most the smoothing's and
the local method's radius around it and on statistics of the whole image, and connected pieces are
joined across seams by the pixels that two tiles share. Whether an object has a strong pixel
(``weak``) is decided when its pieces are joined.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from pipeline.errors import JobError
from pipeline.imageops.features import Feature
from pipeline.imageops.histograms import Histogram
from pipeline.imageops.thresholds import Foreground
from pipeline.segmenters import Classes, Footprint, Identity, label

_FOUND = ("value", "levels", "method", "classes", "weak", "spread")


@dataclass(frozen=True, slots=True)
class Threshold(Feature):
    """Connected pixels whose feature is above a threshold.

    Use it for what differs from its surroundings by value alone (water, land, stained tissue,
    bright particles), where objects that touch are one object. To keep touching objects apart, use
    ``watershed``. Exactly one of ``value``, ``interval``, ``levels`` and ``method`` is given; none
    means ``method="otsu"``. Under uneven light, use a local method.

    Examples
    --------
    >>> import numpy as np
    >>> Threshold(value=5)(np.array([[[9, 0, 8], [9, 0, 0]]]))
    array([[1, 0, 2],
           [1, 0, 0]], dtype=int32)

    References
    ----------
    For the methods that find a threshold in a histogram see `histograms`. J. Sauvola, M.
    Pietikäinen (2000), "Adaptive document image binarization", Pattern Recognition 33(2), 225-236.
    W. Niblack (1986), "An introduction to digital image processing", 115-116.
    """

    value: float | None = None
    """Pixels above this are foreground."""

    interval: tuple[float, float] | None = None
    """Pixels from the first to the second, both included, are foreground."""

    levels: tuple[float, ...] | None = None
    """Several thresholds that ascend: a pixel's class is the number of those that it is above.
    Objects are of one class.
    """

    method: str | None = None
    """How thresholds are found. In the image's histogram: otsu, li, yen, triangle, isodata,
    minimum, mean; multiotsu for several ``classes``. Around each pixel: sauvola, niblack,
    local_mean, local_gaussian.
    """

    classes: int | None = None
    """For ``multiotsu``: how many classes there are, 2 to 5, the background included."""

    weak: float | None = None
    """A second, weaker threshold (hysteresis): pixels above it are foreground too where their
    object has a pixel above the first.
    """

    dark: bool = False
    """Objects are what is not above the threshold (or not in the interval), in place of what is."""

    window: int | None = None
    """For local methods: the extent in pixels of the surroundings, an odd number; None: 51."""

    k: float | None = None
    """For sauvola and niblack: how much the deviation counts; None: 0.2."""

    offset: float | None = None
    """For local_mean and local_gaussian: what is taken off the mean; None: nothing."""

    spread: float | None = None
    """For sauvola: the largest deviation that there may be; None: half the range of the image's
    values.
    """

    connectivity: int | None = None
    """4 or 8 in two dimensions, 6 or 26 in three; None: 4 or 6."""

    min_area: int = 0
    """Objects of fewer pixels are removed, after holes are filled."""

    fill_holes: bool = False
    """Background that does not reach the image's edge (nor a pixel that is not valid) joins the
    object around it. Before ``weak`` and ``min_area`` are looked at.
    """

    identity: ClassVar[Identity] = "connected"
    portable: ClassVar[bool] = True

    @property
    def footprint(self) -> Footprint:
        """A mask, a smoothed image, an index in floats, or local means and deviations."""
        return Footprint(
            75.0
            if self.window
            else 34.0
            if self.index
            else 26.0
            if self.sigma or self.weights
            else 13.0,
            0.5,
        )

    def __post_init__(self) -> None:
        Feature.__post_init__(self)  # super() does not work in a class with slots
        if not any(
            getattr(self, name) is not None for name in ("value", "interval", "levels", "method")
        ):
            object.__setattr__(self, "method", "otsu")
        self._foreground  # noqa: B018  refuses what cannot be
        if self.fill_holes and (self.levels or self.classes):
            raise JobError(
                "fill_holes: true; allowed with one threshold: between several, every pixel has "
                "a class"
            )

    @property
    def reach(self) -> int:
        """The smoothing's and the local method's radius in pixels."""
        return self.radius + self._foreground.reach

    @property
    def seeded(self) -> bool:
        """Whether an object needs a strong pixel."""
        return self.weak is not None

    @property
    def unfitted(self) -> bool:
        """Whether the image's histogram is needed first."""
        return self._foreground.unfitted

    def fit(self, histogram: Histogram) -> Threshold:
        """The same with what the method finds."""
        found = self._foreground.fit(histogram)
        return replace(self, **{name: getattr(found, name) for name in _FOUND})

    def classify(self, block: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> Classes:
        """The foreground, bool or classes, of the shape of ``valid``, and its strong pixels."""
        feature = self.feature(block, valid)
        return Classes(self._foreground(feature, valid), self._foreground.strong(feature, valid))

    def __call__(
        self, block: npt.NDArray[Any], valid: npt.NDArray[np.bool_] | None = None
    ) -> npt.NDArray[np.int32]:
        """Label one block as if it were the whole image: int32, in raster order; without
        ``min_area`` and ``fill_holes``.
        """
        return label(self, block, valid)

    @property
    def _foreground(self) -> Foreground:
        return Foreground(**{name: getattr(self, name) for name in Foreground.__dataclass_fields__})
