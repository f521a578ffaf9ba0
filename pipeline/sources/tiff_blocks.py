"""Blocks of a TIFF's image (tiles, strips, whole pages): which of them have been written, and
samples of channels as channels in a row.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

MOST = 1 << 26
"""Blocks of one level, each of which is looked up."""
Index = tuple[int | slice, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Written:
    """Whether each element of an image lies in a block that was written; it is indexed by numbers
    and slices as the image itself.
    """

    shape: tuple[int, ...]
    """Of the image."""

    chunks: tuple[int, ...]
    """Of a block."""

    blocks: npt.NDArray[np.bool_]
    """By block, along each axis."""

    def __getitem__(self, index: Index) -> npt.NDArray[np.bool_]:
        """Bool, of the shape of what the image would give."""
        whole = [i if isinstance(i, slice) else slice(i, i + 1) for i in index]
        places = [
            np.arange(n)[i] // size
            for i, n, size in zip(whole, self.shape, self.chunks, strict=True)
        ]
        return self.blocks[np.ix_(*places)][
            tuple(slice(None) if isinstance(i, slice) else 0 for i in index)
        ]


def written(series: Any, shape: tuple[int, ...], chunks: tuple[int, ...]) -> Written:
    """Which blocks of a series that tifffile found have been written: those of a page that is
    there, whose place and length are not 0.
    """
    grid = tuple(-(-n // size) for n, size in zip(shape, chunks, strict=True))
    if (series.dataoffset or 0) > 0 and all(series.keyframe.databytecounts):
        return Written(
            shape, chunks, np.broadcast_to(np.True_, grid)
        )  # one piece, of which the first page may tell alone
    if math.prod(grid) > MOST:
        raise ValueError(f"it declares {math.prod(grid)} blocks; allowed: up to {MOST}")
    pages = list(series)
    many = math.prod(grid) // len(pages)
    flags = np.concatenate([_of_page(page, many) for page in pages])
    return Written(shape, chunks, flags.reshape(grid))


def _of_page(page: Any, many: int) -> npt.NDArray[np.bool_]:
    found = np.zeros(many, bool)
    if page is not None:
        known = min(
            many, len(page.dataoffsets), len(page.databytecounts)
        )  # some writers leave the last rows out
        found[:known] = (np.array(page.dataoffsets[:known]) > 0) & (
            np.array(page.databytecounts[:known]) > 0
        )
    return found


@dataclass(frozen=True, eq=False, slots=True)
class Merged:
    """An array whose channels have several samples each, as one whose channels are all of these in
    a row, on the channels' axis.
    """

    array: Any
    channel: int
    """The axis of channels."""
    sample: int
    """The axis of samples."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Without the axis of samples."""
        return self._one(self.array.shape)

    @property
    def chunks(self) -> tuple[int, ...]:
        """Of a block."""
        return self._one(self.array.chunks)

    @property
    def dtype(self) -> Any:
        """Of the pixels."""
        return self.array.dtype

    def __getitem__(self, index: Index) -> npt.NDArray[Any]:
        """What lies there; of the channels' axis always a span."""
        many = self.array.shape[self.sample]
        at = self.channel - (self.sample < self.channel)
        span = index[at]
        if not isinstance(span, slice):
            raise TypeError("channels are read as a span")
        first = span.start // many
        inner: list[int | slice] = list(index)
        inner.insert(self.sample, slice(None))
        inner[self.channel] = slice(first, -(-span.stop // many))
        block = np.asarray(self.array[tuple(inner)])
        left = [axis for axis, each in enumerate(inner) if isinstance(each, slice)]
        here = [axis for axis in left if axis != self.sample].index(self.channel)
        last = np.moveaxis(block, left.index(self.sample), -1)
        beside = np.moveaxis(last, -1, here + 1)
        flat = beside.reshape(*beside.shape[:here], -1, *beside.shape[here + 2 :])
        return flat[
            (slice(None),) * here + (slice(span.start - first * many, span.stop - first * many),)
        ]

    def _one(self, extents: Iterable[int]) -> tuple[int, ...]:
        found = list(extents)
        found[self.channel] *= found[self.sample]
        del found[self.sample]
        return tuple(found)


def merged(array: Any, axes: str) -> Any:
    """An array with tifffile's axes, the samples of channels (C and S) merged where it has both."""
    found = axes.lower()
    return Merged(array, found.index("c"), found.index("s")) if {"c", "s"} <= set(found) else array
