"""Segment by value: objects are connected pixels above, below or between thresholds.

The result is exact under tiling for objects of any size. The class of a pixel depends on the pixels
within the radii of the smoothing and the local method, and on statistics of the whole image.
Connected pieces are joined across seams by the pixels that two tiles share. Hysteresis (``weak``)
is decided after the pieces of an object are joined.
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
    """Connected pixels above a threshold.

    Use it for objects that differ from their surroundings by value alone, such as water, land,
    stained tissue or bright particles. Objects that touch become one object; ``watershed``
    separates them. Give exactly one of ``value``, ``interval``, ``levels`` and ``method``; without
    any of them, the method is ``otsu``. Under uneven illumination, use a local method.

    Notes
    -----
    Labels equal those of the untiled image for objects of any size, so their certificate is
    ``proved``.

    References
    ----------
    .. [1] N. Otsu (1979), "A threshold selection method from gray-level histograms", IEEE Trans.
       SMC 9(1), 62-66. The other methods that use the histogram are cited in
       `pipeline.imageops.histograms`.
    .. [2] J. Sauvola, M. Pietikäinen (2000), "Adaptive document image binarization", Pattern
       Recognition 33(2), 225-236.
    .. [3] W. Niblack (1986), "An introduction to digital image processing", 115-116.

    Examples
    --------
    >>> import numpy as np
    >>> Threshold(value=5)(np.array([[[9, 0, 8], [9, 0, 0]]]))
    array([[1, 0, 2],
           [1, 0, 0]], dtype=int32)
    """

    value: float | None = None
    """The threshold, in units of the feature: pixels above it are foreground."""

    interval: tuple[float, float] | None = None
    """The lowest and the highest value of the foreground, both included, in units of the feature.
    """

    levels: tuple[float, ...] | None = None
    """Ascending thresholds. The class of a pixel is the number of thresholds that it exceeds, and
    all pixels of an object have one class.
    """

    method: str | None = None
    """The method that finds the threshold. From the image's histogram: otsu, li, yen, triangle,
    isodata, minimum, mean, and multiotsu for several ``classes``. From the pixels in a window
    around each pixel: sauvola, niblack, local_mean, local_gaussian.
    """

    classes: int | None = None
    """For multiotsu: the number of classes including the background, 2 to 5."""

    weak: float | None = None
    """The lower threshold of a hysteresis: pixels above it are foreground if they are connected to
    a pixel above the first threshold.
    """

    dark: bool = False
    """Invert the foreground: objects are the pixels that are not above the threshold, or outside
    the interval.
    """

    window: int | None = None
    """For local methods: the width of the window in pixels, an odd number; None: 51."""

    k: float | None = None
    """For sauvola and niblack: the weight of the standard deviation; None: 0.2."""

    offset: float | None = None
    """For local_mean and local_gaussian: a value subtracted from the local mean; None: 0."""

    spread: float | None = None
    """For sauvola: the largest possible standard deviation (R in the paper); None: half the range
    of the image's values.
    """

    connectivity: int | None = None
    """Number of neighbours of a pixel: 4 or 8 in two dimensions, 6 or 26 in three; None: 4 or 6."""

    min_area: int = 0
    """Objects of fewer pixels are removed, after holes are filled."""

    fill_holes: bool = False
    """Fill the holes of objects: background that touches neither the image's edge nor a pixel that
    was not measured. This comes before ``weak`` and ``min_area``.
    """

    identity: ClassVar[Identity] = "connected"
    portable: ClassVar[bool] = True

    @property
    def footprint(self) -> Footprint:
        """Memory per pixel: a mask, a smoothed band, an index or local statistics."""
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
        """The radius of the smoothing plus that of the local method, in pixels."""
        return self.radius + self._foreground.reach

    @property
    def seeded(self) -> bool:
        """Whether only objects with a pixel above the first threshold are kept."""
        return self.weak is not None

    @property
    def unfitted(self) -> bool:
        """Whether the image's histogram is needed first."""
        return self._foreground.unfitted

    def fit(self, histogram: Histogram) -> Threshold:
        """Return a copy with the threshold found in a histogram.

        Parameters
        ----------
        histogram : Histogram
            The histogram of the feature over the whole image.

        Returns
        -------
        Threshold
            A fitted copy.
        """
        found = self._foreground.fit(histogram)
        return replace(self, **{name: getattr(found, name) for name in _FOUND})

    def classify(self, block: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> Classes:
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
            The foreground, bool or class numbers, and the pixels above the first threshold where
            ``weak`` is given.
        """
        feature = self.feature(block, valid)
        return Classes(self._foreground(feature, valid), self._foreground.strong(feature, valid))

    def __call__(
        self, block: npt.NDArray[Any], valid: npt.NDArray[np.bool_] | None = None
    ) -> npt.NDArray[np.int32]:
        """Label one block as if it were the whole image.

        Labels are numbered in raster order. ``min_area`` and ``fill_holes`` are not applied.

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

    @property
    def _foreground(self) -> Foreground:
        return Foreground(**{name: getattr(self, name) for name in Foreground.__dataclass_fields__})
