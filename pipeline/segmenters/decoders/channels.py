"""A network's channels: checked, compared with probabilities, and built for training."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from pipeline.errors import JobError, SegmenterError

Channels: TypeAlias = npt.NDArray[Any]
Flags: TypeAlias = npt.NDArray[np.bool_]
Floats: TypeAlias = npt.NDArray[np.float64]
Labels: TypeAlias = npt.NDArray[np.integer[Any]]
Targets: TypeAlias = npt.NDArray[np.float32]


def with_gaps(labels: Labels, *channels: npt.NDArray[Any]) -> Targets:
    """Stack channels as float32, with NaN where the labels are unknown (below 0)."""
    return np.where(labels < 0, np.nan, np.stack(channels)).astype(np.float32)


def softmax(logits: Channels) -> Iterator[Floats]:
    """Yield the probability of one channel after the other, to save memory.

    Channels are added in their order, so that sums round alike in every window.
    """
    top = logits.max(axis=0)
    total = sum(_raised(channel, top) for channel in logits)
    for channel in logits:
        yield _raised(channel, top) / total


def _raised(channel: Channels, top: Channels) -> Floats:
    return np.asarray(np.exp(np.ascontiguousarray(channel - top, np.float64)))


def logit(probability: float) -> float:
    """The logit of a probability: comparing logits avoids rounding in a sigmoid."""
    return math.log(probability / (1 - probability))


def above(logits: Channels, probability: float, valid: Flags) -> Flags:
    """Where the probability of a logit is above a threshold, and the pixel is valid."""
    return np.asarray((logits > logit(probability)) & valid)


def checked(
    decoder: Any, channels: Channels, valid: Flags, dimensions: int | None = None
) -> Channels:
    """Check the number and the shape of channels.

    Parameters
    ----------
    decoder : Decoder
        It says how many channels it wants.
    channels : float ndarray, (channel, …)
        The network's answer.
    valid : bool ndarray of the shape ``channels.shape[1:]``
        True where a pixel was measured.
    dimensions : int, optional
        2 or 3; None: either.

    Returns
    -------
    float ndarray
        The channels as given.

    Raises
    ------
    SegmenterError
        The number of channels or dimensions is wrong.
    """
    name = type(decoder).__name__
    wanted = decoder.channels
    if channels.shape[1:] != valid.shape or valid.ndim not in (
        (2, 3) if dimensions is None else (dimensions,)
    ):
        raise SegmenterError(
            f"{name}: channels of {channels.shape} for pixels of {valid.shape}; allowed: "
            f"(channel, {_axes(dimensions)})"
        )
    if len(channels) != wanted and (wanted is not None or not len(channels)):
        raise SegmenterError(
            f"{name}: the network gives {len(channels)} channels; allowed: {wanted or '1 or more'}"
        )
    return channels


def truth(labels: Labels, dimensions: int | None = None) -> Labels:
    """The labels as signed integers; JobError if they are not integers of the right dimensions."""
    given = np.asarray(labels)
    if given.dtype.kind not in "biu" or given.ndim not in (
        (2, 3) if dimensions is None else (dimensions,)
    ):
        raise JobError(
            f"labels: {given.dtype} of {given.shape}; allowed: integers, ({_axes(dimensions)})"
        )
    return given.astype(np.int64)


def _axes(dimensions: int | None) -> str:
    return {2: "row, column", 3: "plane, row, column"}.get(
        dimensions or 0, "row, column) or (…, plane, row, column"
    )


def check_probability(name: str, value: float) -> None:
    """Raise JobError unless a value is above 0 and below 1."""
    if not 0 < value < 1:
        raise JobError(f"{name}: {value!r}; allowed: a probability above 0 and below 1")


def check_whole(name: str, value: int, least: int, allowed: str) -> None:
    """Raise JobError, with ``allowed`` in its text, unless a value is a whole number from
    ``least``.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise JobError(f"{name}: {value!r}; allowed: {allowed}")
