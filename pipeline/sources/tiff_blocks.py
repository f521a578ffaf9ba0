"""Blocks of a TIFF's image (tiles, strips or whole pages): which were written, and how samples of
channels become a single axis.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

MOST = 1 << 26
"""The most blocks of a level, since each is looked up."""
Index = tuple[int | slice, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Written:
    """Whether each element of an image lies in a block that was written. It is indexed by integers
    and slices, as the image itself.
    """

    shape: tuple[int, ...]
    """The image's shape."""

    chunks: tuple[int, ...]
    """The shape of a block."""

    blocks: npt.NDArray[np.bool_]
    """Whether each block was written, along each axis."""

    def __getitem__(self, index: Index) -> npt.NDArray[np.bool_]:
        """A bool array with the shape that the image would give."""
        whole = [i if isinstance(i, slice) else slice(i, i + 1) for i in index]
        places = [
            np.arange(n)[i] // size
            for i, n, size in zip(whole, self.shape, self.chunks, strict=True)
        ]
        return self.blocks[np.ix_(*places)][
            tuple(slice(None) if isinstance(i, slice) else 0 for i in index)
        ]


def written(series: Any, shape: tuple[int, ...], chunks: tuple[int, ...]) -> Written:
    """Find the blocks of one of tifffile's series that were written: their page exists, and their
    offset and byte count are not 0.
    """
    grid = tuple(-(-n // size) for n, size in zip(shape, chunks, strict=True))
    if (series.dataoffset or 0) > 0 and all(series.keyframe.databytecounts):
        # stored in one piece, which the first page may describe alone
        return Written(shape, chunks, np.broadcast_to(np.True_, grid))
    if math.prod(grid) > MOST:
        raise ValueError(f"it declares {math.prod(grid)} blocks; allowed: up to {MOST}")
    pages = list(series)
    many = math.prod(grid) // len(pages)
    flags = np.concatenate([_of_page(page, many) for page in pages])
    return Written(shape, chunks, flags.reshape(grid))


def _of_page(page: Any, many: int) -> npt.NDArray[np.bool_]:
    found = np.zeros(many, bool)
    if page is not None:
        # some writers leave the last rows out
        known = min(many, len(page.dataoffsets), len(page.databytecounts))
        found[:known] = (np.array(page.dataoffsets[:known]) > 0) & (
            np.array(page.databytecounts[:known]) > 0
        )
    return found


@dataclass(frozen=True, eq=False, slots=True)
class Merged:
    """An array with channels of several samples each, seen as one with all samples along the
    channels' axis.
    """

    array: Any
    channel: int
    """The axis of channels."""
    sample: int
    """The axis of samples."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape without the axis of samples."""
        return self._one(self.array.shape)

    @property
    def chunks(self) -> tuple[int, ...]:
        """The shape of a block without the axis of samples."""
        return self._one(self.array.chunks)

    @property
    def dtype(self) -> Any:
        """The dtype of the pixels."""
        return self.array.dtype

    def __getitem__(self, index: Index) -> npt.NDArray[Any]:
        """The elements at an index; along the channels' axis it must be a slice."""
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
    """An array with tifffile's axes, with channels (C) and samples (S) merged if it has both."""
    found = axes.lower()
    return Merged(array, found.index("c"), found.index("s")) if {"c", "s"} <= set(found) else array
