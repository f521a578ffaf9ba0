"""The channels of a network: checked, compared with probabilities, and made of what is to be
learned.
"""

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
    """The channels, not known where the labels are not."""
    return np.where(labels < 0, np.nan, np.stack(channels)).astype(np.float32)


def softmax(logits: Channels) -> Iterator[Floats]:
    """The probability of one channel after the other, which takes less memory than all at once.

    Channels are added in their order, so that sums are rounded alike in every window.
    """
    top = logits.max(axis=0)
    total = sum(_raised(channel, top) for channel in logits)
    for channel in logits:
        yield _raised(channel, top) / total


def _raised(channel: Channels, top: Channels) -> Floats:
    return np.asarray(np.exp(np.ascontiguousarray(channel - top, np.float64)))


def logit(probability: float) -> float:
    """The logit above which a sigmoid is above a probability: comparing logits rounds nothing."""
    return math.log(probability / (1 - probability))


def above(logits: Channels, probability: float, valid: Flags) -> Flags:
    """Where a logit's probability is above another, and the pixel is valid."""
    return np.asarray((logits > logit(probability)) & valid)


def checked(
    decoder: Any, channels: Channels, valid: Flags, dimensions: int | None = None
) -> Channels:
    """The channels; SegmenterError if they are not as many, or not of as many dimensions, as the
    decoder wants.
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
    """The labels as integers with a sign; JobError if they cannot be."""
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
    """Refuse an option that is no probability, or one that every pixel is above, or none."""
    if not 0 < value < 1:
        raise JobError(f"{name}: {value!r}; allowed: a probability above 0 and below 1")


def check_whole(name: str, value: int, least: int, allowed: str) -> None:
    """Refuse an option that is no whole number from ``least``; ``allowed`` says so in words."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise JobError(f"{name}: {value!r}; allowed: {allowed}")
