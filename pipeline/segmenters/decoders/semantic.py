"""The decoder to classes, pixel by pixel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from pipeline.errors import JobError, SegmenterError
from pipeline.segmenters import Identity, label
from pipeline.segmenters.decoders.channels import (
    Channels,
    Flags,
    Labels,
    Targets,
    check_probability,
    check_whole,
    checked,
    logit,
    softmax,
    truth,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Semantic:
    """The class of each pixel by itself: land cover, tissue types, water.

    References
    ----------
    .. [1] J. Long, E. Shelhamer, T. Darrell (2015), "Fully convolutional networks for semantic
       segmentation", CVPR, 3431-3440.

    Examples
    --------
    >>> import numpy as np
    >>> logits = np.array([[[2.0, 0.0, 0.0]], [[1.0, 3.0, 0.0]], [[0.0, 0.0, 5.0]]])
    >>> Semantic().classify(logits, np.ones((1, 3), bool))
    array([[0, 1, 2]], dtype=uint8)
    """

    threshold: float | None = None
    """For a network of one channel: a pixel is of class 1 if its probability is above this; above
    0, below 1. None: 0.5.
    """

    thresholds: tuple[float, ...] | None = None
    """For several channels, one for each, the background's included: the least probability, 0 to 1,
    at which a channel is eligible. The most probable eligible channel wins; without any, the pixel
    is background. None: the most probable channel wins.
    """

    background: int | None = 0
    """For several channels: the channel of the background, from 0, which becomes class 0; the
    others are numbered from 1 in their order. None: each channel is a class. Not used for one
    channel.
    """

    channels: ClassVar[int | None] = None
    identity: ClassVar[Identity] = "connected"
    reach: ClassVar[int] = 0

    def __post_init__(self) -> None:
        if self.threshold is not None:
            check_probability("threshold", self.threshold)
        for number, threshold in enumerate(self.thresholds or ()):
            if not 0 <= threshold <= 1:
                raise JobError(
                    f"thresholds[{number}]: {threshold!r}; allowed: a probability, from 0 to 1"
                )
        if self.thresholds is not None and len(self.thresholds) < 2:
            raise JobError(
                f"thresholds: {self.thresholds!r}; allowed: one for each of two channels or "
                f"more; for one channel, threshold"
            )
        if self.threshold is not None and self.thresholds is not None:
            raise JobError(
                "threshold: it is for one channel, and thresholds for several; allowed: one of "
                "the two"
            )
        check_whole("background", self.background or 0, 0, "a channel's number, from 0, or none")

    def classify(self, channels: Channels, valid: Flags) -> npt.NDArray[np.unsignedinteger[Any]]:
        """Classify each pixel.

        Parameters
        ----------
        channels : float ndarray, (channel, row, column) or (channel, plane, row, column)
            The network's answer.
        valid : bool ndarray of the shape ``channels.shape[1:]``
            True where a pixel was measured.

        Returns
        -------
        unsigned ndarray of the shape of ``valid``
            Classes in the smallest dtype that holds them; 0 for background and where a logit is
            NaN.

        Raises
        ------
        SegmenterError
            The number of channels does not fit the options.
        """
        logits = checked(self, channels, valid)
        number = len(logits)
        if number == 1:
            self._refuse(self.thresholds is not None, number)
            return np.asarray(
                (logits[0] > logit(0.5 if self.threshold is None else self.threshold)) & valid,
                np.uint8,
            )
        self._refuse(
            self.threshold is not None
            or len(self.thresholds or logits) != number
            or (self.background or 0) >= number,
            number,
        )
        known = ~np.isnan(logits.max(axis=0)) & valid
        if self.thresholds is None:
            return np.where(known, self._kinds(number)[logits.argmax(axis=0)], 0)
        best, eligible = _most_probable(logits, self.thresholds)
        return np.where(known & eligible, self._kinds(number)[best], 0)

    def __call__(self, channels: Channels, valid: Flags) -> npt.NDArray[np.int32]:
        """Label the connected pieces of classes of one block as if it were the whole image.

        Parameters
        ----------
        channels : float ndarray, (channel, row, column) or (channel, plane, row, column)
            The network's answer.
        valid : bool ndarray of the shape ``channels.shape[1:]``
            True where a pixel was measured.

        Returns
        -------
        int32 ndarray of the shape of ``valid``
            Labels in raster order; 0 is background.
        """
        return label(self, channels, valid)

    def targets(self, labels: Labels) -> Targets:
        """Compute the channel that a network should give for classes.

        Parameters
        ----------
        labels : int ndarray, (row, column)
            Classes; -1 where the truth is unknown.

        Returns
        -------
        float32 ndarray, (1, row, column)
            The number of the channel that should be greatest; or, for one channel, the probability.
        """
        labels = truth(labels)
        ground = -1 if self.background is None else self.background
        channel = np.where(labels == 0, ground, labels - (labels <= ground) - (ground < 0))
        return np.where((labels < 0) | (channel < 0), np.nan, channel).astype(np.float32)[None]

    def _kinds(self, number: int) -> npt.NDArray[np.unsignedinteger[Any]]:
        """The class of each channel."""
        kinds = np.arange(1, number + 1)
        if self.background is not None:
            kinds[self.background :] -= 1
            kinds[self.background] = 0
        return kinds.astype(np.min_scalar_type(number))

    def _refuse(self, wrong: bool, number: int) -> None:
        if wrong:
            raise SegmenterError(
                f"the network gives {number} channels, which do not go with {self}; one "
                f"threshold is for one channel"
            )


def _most_probable(
    logits: Channels, thresholds: tuple[float, ...]
) -> tuple[npt.NDArray[np.intp], Flags]:
    """The most probable channel that reaches its threshold, and where there is one."""
    best = np.zeros(logits.shape[1:], np.intp)
    most = np.full(logits.shape[1:], -1.0)
    for channel, (probable, threshold) in enumerate(zip(softmax(logits), thresholds, strict=True)):
        better = (probable >= threshold) & (probable > most)
        best[better] = channel
        most[better] = probable[better]
    return best, most >= 0
