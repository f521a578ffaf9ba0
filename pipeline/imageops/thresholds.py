"""Foreground by a threshold: given, from the histogram of the whole image, or local."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import JobError, SegmenterError, nearest
from pipeline.imageops.filters import gaussian_radius, local_mean, local_mean_and_deviation, smooth
from pipeline.imageops.histograms import FINDERS, Histogram, levels, threshold

MULTIOTSU = "multiotsu"
GLOBAL = (*FINDERS, MULTIOTSU)
LOCAL = ("sauvola", "niblack", "local_mean", "local_gaussian")
METHODS = (*GLOBAL, *LOCAL)
WINDOW = 51
WEIGHT = 0.2
"""Defaults of local methods for ``window`` and ``k``."""


@dataclass(frozen=True, slots=True)
class Foreground:
    """Pixels above a threshold or in an interval, the inverse, or classes between thresholds.

    It is shared by the segmenters, which document the options.
    """

    value: float | None = None
    """The threshold: pixels above it are foreground."""

    interval: tuple[float, float] | None = None
    """The lowest and the highest value of the foreground, both included."""

    levels: tuple[float, ...] | None = None
    """Ascending thresholds; a pixel's class is the number of those that it exceeds."""

    method: str | None = None
    """The method that finds thresholds, one of METHODS."""

    classes: int | None = None
    """For ``multiotsu``: the number of classes, background included."""

    weak: float | None = None
    """The lower threshold of a hysteresis; foreground is what is above it."""

    dark: bool = False
    """Invert the foreground."""

    window: int | None = None
    """For local methods: the width of the window in pixels, an odd number; None: 51."""

    k: float | None = None
    """For ``sauvola`` and ``niblack``: the weight of the deviation; None: 0.2."""

    offset: float | None = None
    """For ``local_mean`` and ``local_gaussian``: a value subtracted from the mean; None: 0."""

    spread: float | None = None
    """For ``sauvola``: the largest possible deviation; None: half the range of the image's values.
    """

    def __post_init__(self) -> None:
        given = [
            name
            for name in ("value", "interval", "levels", "method")
            if getattr(self, name) is not None
        ]
        if len(given) != 1:
            raise JobError(
                f"{' and '.join(given) or 'no threshold'} given; allowed: one of value, "
                f"interval, levels, method"
            )
        if self.method is not None and self.method not in METHODS:
            raise JobError(
                f"the threshold method {self.method!r} is not known; "
                f"{nearest(self.method, METHODS)}"
            )
        if self.interval is not None and not (
            len(self.interval) == 2 and self.interval[0] <= self.interval[1]
        ):
            raise JobError(f"interval: {self.interval!r}; allowed: two numbers, the lower first")
        if self.levels is not None and not (
            self.levels and all(a < b for a, b in zip(self.levels, self.levels[1:], strict=False))
        ):
            raise JobError(f"levels: {self.levels!r}; allowed: numbers that ascend")
        self._refuse_idle_options()
        if self.method == MULTIOTSU and not 2 <= (self.classes or 0) <= 5:
            raise JobError(f"classes: {self.classes!r}; allowed with {MULTIOTSU}: 2 to 5")
        if self.window is not None and (self.window < 3 or self.window % 2 == 0):
            raise JobError(f"window: {self.window}; allowed: an odd number of pixels, from 3")
        if self.spread is not None and not self.spread > 0:
            raise JobError(f"spread: {self.spread}; allowed: more than 0")
        if (
            self.weak is not None
            and self.value is not None
            and (self.weak < self.value if self.dark else self.weak > self.value)
        ):
            raise JobError(
                f"weak: {self.weak}; allowed: {'at least' if self.dark else 'at most'} the "
                f"threshold, {self.value}"
            )

    def _refuse_idle_options(self) -> None:
        """Raise JobError for options without an effect."""
        for name, methods in (
            ("classes", (MULTIOTSU,)),
            ("window", LOCAL),
            ("k", ("sauvola", "niblack")),
            ("offset", ("local_mean", "local_gaussian")),
            ("spread", ("sauvola",)),
            ("weak", tuple(FINDERS)),
        ):
            plain = name == "weak" and self.value is not None
            if getattr(self, name) is not None and self.method not in methods and not plain:
                raise JobError(
                    f"{name} is given, and has no effect here; it goes with {', '.join(methods)}"
                )

    @property
    def reach(self) -> int:
        """The radius of a local method, in pixels."""
        if self.method not in LOCAL:
            return 0
        return gaussian_radius(self._sigma) if self.method == "local_gaussian" else self._width // 2

    @property
    def unfitted(self) -> bool:
        """Whether the image's histogram is needed first."""
        return self.method in GLOBAL or (self.method == "sauvola" and self.spread is None)

    def fit(self, histogram: Histogram) -> Foreground:
        """Return a copy with what the method finds.

        An image of a single value has no foreground.

        Parameters
        ----------
        histogram : Histogram
            The histogram of the feature over the whole image.

        Returns
        -------
        Foreground
            A fitted copy.

        Raises
        ------
        SegmenterError
            The image has no valid pixel.
        """
        if not self.unfitted:
            return self
        present = np.flatnonzero(histogram.counts)
        if present.size == 0:
            raise SegmenterError("no threshold can be fitted: the image has no valid pixel")
        if self.method == "sauvola":
            return replace(
                self,
                spread=max(float(np.ptp(histogram.centers)) / 2, float(np.finfo(np.float64).tiny)),
            )
        if present.size == 1:
            return replace(
                self,
                value=-math.inf if self.dark else math.inf,
                method=None,
                classes=None,
                weak=None,
            )
        if self.method == MULTIOTSU:
            return replace(
                self, levels=levels(histogram, self.classes or 0), method=None, classes=None
            )
        value = threshold(histogram, str(self.method))
        weak = self.weak if self.weak is None else (max if self.dark else min)(self.weak, value)
        return replace(self, value=value, weak=weak, method=None)

    def __call__(self, feature: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
        """Compute the foreground of a feature.

        Parameters
        ----------
        feature : ndarray
            The feature.
        valid : bool ndarray of the shape of ``feature``
            True where a pixel was measured.

        Returns
        -------
        bool or uint8 ndarray of the shape of ``feature``
            The foreground, or the classes between several levels; 0 where NaN or not valid.
        """
        if self.levels is not None:
            above = np.zeros(valid.shape, np.uint8)
            for level in self.levels:
                above += feature > level
            measured = valid & ~np.isnan(feature) if feature.dtype.kind == "f" else valid
            return np.where(measured, len(self.levels) - above if self.dark else above, 0).astype(
                np.uint8
            )
        if self.interval is not None:
            return self._turned(
                (feature >= self.interval[0]) & (feature <= self.interval[1]), feature, valid
            )
        return self._turned(
            feature > (self._local(feature, valid) if self.weak is None else self.weak),
            feature,
            valid,
        )

    def strong(
        self, feature: npt.NDArray[Any], valid: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.bool_] | None:
        """Where the foreground is above ``value`` too; None without a weak threshold."""
        return None if self.weak is None else self._turned(feature > self.value, feature, valid)

    def _turned(
        self, inside: npt.NDArray[np.bool_], feature: npt.NDArray[Any], valid: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.bool_]:
        if self.dark:
            inside = ~inside & ~np.isnan(feature) if feature.dtype.kind == "f" else ~inside
        return np.asarray(inside & valid)

    def _local(
        self, feature: npt.NDArray[Any], valid: npt.NDArray[np.bool_]
    ) -> float | npt.NDArray[np.float64]:
        """The threshold: one number, or one for each pixel."""
        if self.value is not None:
            return self.value
        if self.unfitted:
            raise SegmenterError(
                f"the threshold by {self.method} is not fitted; call fit() with the image's "
                f"histogram first"
            )
        if self.method == "local_mean":
            return local_mean(feature, valid, self._width) - (self.offset or 0.0)
        if self.method == "local_gaussian":
            return smooth(feature, valid, self._sigma) - (self.offset or 0.0)
        k = WEIGHT if self.k is None else self.k
        mean, deviation = local_mean_and_deviation(feature, valid, self._width)
        return (
            mean - k * deviation
            if self.spread is None
            else mean * (1 + k * (deviation / self.spread - 1))
        )

    @property
    def _width(self) -> int:
        return self.window or WINDOW

    @property
    def _sigma(self) -> float:
        return (self._width - 1) / 6
