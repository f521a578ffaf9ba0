"""Objects are connected pixels above (or below, or between) thresholds.

Exact under tiling at any object size: the class of a pixel depends on at most the smoothing's radius around it and on one threshold
for the whole image, and connected pieces are joined across seams by the pixels that two tiles share.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from pipeline.features import Feature
from pipeline.segmenters import Contract, Identity
from pipeline.thresholds import Foreground, Histogram, histogram


@dataclass(frozen=True, slots=True)
class Threshold:
    """Connected pixels whose feature is above a threshold.

    Use it for what differs from its surroundings by value alone (water, land, stained tissue, bright particles), where objects that
    touch are one object. To keep touching objects apart, use ``watershed``. Exactly one of ``value``, ``interval`` and ``method``
    is given; none means ``method="otsu"``.

    Examples
    --------
    >>> import numpy as np
    >>> Threshold(value=5)(np.array([[[9, 0, 8], [9, 0, 0]]]))
    array([[1, 0, 2],
           [1, 0, 0]], dtype=int32)
    """

    value: float | None = None
    """Pixels above this are foreground."""

    interval: tuple[float, float] | None = None
    """Pixels from the first to the second, both included, are foreground."""

    method: str | None = None
    """How the threshold is found from the image's histogram: ``otsu``."""

    dark: bool = False
    """Objects are what is not above the threshold (or not in the interval), in place of what is."""

    band: int | str = 1
    """The band, counted from 1, or ``mean`` of all bands."""

    index: tuple[int, int] | None = None
    """Bands (a, b), counted from 1, whose (a - b) / (a + b) is thresholded, in place of ``band``."""

    weights: tuple[float, ...] | None = None
    """One number for each band: their sum, so weighted, is used in place of ``band``."""

    sigma: float = 0.0
    """Gaussian smoothing before the threshold, in pixels."""

    connectivity: int | None = None
    """4 or 8 in two dimensions, 6 or 26 in three; None: 4 or 6."""

    min_area: int = 0
    """Objects of fewer pixels are removed, after holes are filled."""

    fill_holes: bool = False
    """Background that does not reach the image's edge (nor a pixel that is not valid) joins the object around it."""

    identity: ClassVar[Identity] = "connected"

    def __post_init__(self) -> None:
        if self.value is None and self.interval is None and self.method is None:
            object.__setattr__(self, "method", "otsu")
        self._foreground  # noqa: B018  refuses what cannot be

    @property
    def reach(self) -> int:
        """The smoothing's radius in pixels."""
        return self._foreground.feature.reach

    @property
    def unfitted(self) -> bool:
        """Whether the threshold is still to be found."""
        return self.method is not None

    def feature(self, block: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
        """What is thresholded, of the shape of ``valid``."""
        return self._foreground.feature(block, valid)

    def fit(self, histogram: Histogram) -> Threshold:
        """The same with the value that the method finds."""
        return replace(self, value=self._foreground.fit(histogram).value, method=None)

    def classify(self, block: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """The foreground, of the shape of ``valid``."""
        return self._foreground(self.feature(block, valid), valid)

    def __call__(self, block: npt.NDArray[Any], valid: npt.NDArray[np.bool_] | None = None) -> npt.NDArray[np.int32]:
        """Label one block as if it were the whole image: int32, in raster order; without ``min_area`` and ``fill_holes``."""
        from scipy import ndimage

        block = np.asarray(block)
        valid = np.ones(block.shape[1:], bool) if valid is None else valid
        fitted = self.fit(histogram(self.feature(block, valid), valid)) if self.unfitted else self
        faces = Contract.of(self).neighbours(valid.ndim) == 2 * valid.ndim
        structure = ndimage.generate_binary_structure(valid.ndim, 1 if faces else valid.ndim)
        return np.asarray(ndimage.label(fitted.classify(block, valid), structure)[0])

    @property
    def _foreground(self) -> Foreground:
        return Foreground(Feature(self.band, self.index, self.weights, self.sigma), self.value, self.interval, self.method, self.dark)
