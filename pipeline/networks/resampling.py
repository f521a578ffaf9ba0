"""Resample an image to the pixel size of a network, and the answer back to the image's grid.

Both grids start at the image's upper left corner. A value is the same sum of the same pixels in the
same order in every window, so resampling does not depend on the tiling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Zoom:
    """The ratio of two grids."""

    factor: float
    """Pixels of the image per pixel of the network, along an axis."""

    def reach(self, network: int) -> int:
        """The reach, there and back, in the image's pixels of a network that reaches ``network``
        pixels.
        """
        return int(np.ceil((network + 2) * self.factor)) + 2

    def cover(
        self, origin: Sequence[int], shape: Sequence[int]
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The network's pixels that cover a window of the image: first index and number by axis."""
        first = tuple(int(np.floor(o / self.factor)) for o in origin)
        last = tuple(
            int(np.ceil((o + n) / self.factor)) for o, n in zip(origin, shape, strict=True)
        )
        return first, tuple(b - a for a, b in zip(first, last, strict=True))

    def shrink(self, block: Floats, origin: Sequence[int]) -> Floats:
        """Resample a block to the network's pixels, (band, row, column).

        Area means, or bilinear interpolation where the network's pixels are smaller.
        """
        first, number = self.cover(origin, block.shape[1:])
        for axis in (0, 1):
            block = _apply(
                block,
                axis + 1,
                *_means(
                    self.factor, first[axis], number[axis], origin[axis], block.shape[axis + 1]
                ),
            )
        return block

    def grow(self, answer: Floats, origin: Sequence[int], shape: Sequence[int]) -> Floats:
        """Interpolate an answer linearly at the pixels of a window of the image, (channel, row,
        column).
        """
        first, _ = self.cover(origin, shape)
        for axis in (0, 1):
            places = (
                (np.arange(origin[axis], origin[axis] + shape[axis]) + 0.5) / self.factor
                - 0.5
                - first[axis]
            )
            answer = _apply(answer, axis + 1, *_between(places, answer.shape[axis + 1]))
        return answer


def _means(
    factor: float, first: int, number: int, origin: int, extent: int
) -> tuple[npt.NDArray[np.intp], Floats]:
    """Indices and weights of the image's pixels in each of the network's pixels, along an axis."""
    starts = np.arange(first, first + number) * factor
    if factor < 1:
        return _between(starts + factor / 2 - 0.5 - origin, extent)
    taps = int(np.ceil(factor)) + 1
    places = np.floor(starts).astype(np.intp)[:, None] + np.arange(taps)
    weights = np.minimum(places + 1, (starts + factor)[:, None]) - np.maximum(
        places, starts[:, None]
    )
    return (places - origin).clip(0, extent - 1), (np.maximum(weights, 0) / factor).astype(
        np.float32
    )


def _between(
    places: npt.NDArray[np.floating[Any]], extent: int
) -> tuple[npt.NDArray[np.intp], Floats]:
    """Per position, the two pixels around it and their weights."""
    low = np.floor(places).astype(np.intp)
    share = (places - low).astype(np.float32)
    return np.stack([low, low + 1], axis=1).clip(0, extent - 1), np.stack(
        [1 - share, share], axis=1
    )


def _apply(block: Floats, axis: int, places: npt.NDArray[np.intp], weights: Floats) -> Floats:
    """Weighted sums along an axis, tap after tap."""
    total: Floats | None = None
    for tap in range(places.shape[1]):
        weight = weights[:, tap].reshape([-1 if a == axis else 1 for a in range(block.ndim)])
        part = np.take(block, places[:, tap], axis) * weight
        total = part if total is None else total + part
    assert total is not None  # noqa: S101  there are two taps at least
    return total
