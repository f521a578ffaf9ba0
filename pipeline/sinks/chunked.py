"""Zarr arrays that many processes write, each chunk by one task, with a checksum."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import OutputError, ScratchError
from pipeline.grid import Box, Grid

if TYPE_CHECKING:
    import zarr


GLANCE = 64
"""Of so many rows one is looked at first, where all that is asked is whether a chunk holds anything."""


@dataclass(frozen=True, slots=True)
class Array:
    """One Zarr array in which every chunk has one owner and a checksum."""

    path: str
    """Where the array lies, or will lie."""

    shape: tuple[int, ...]
    """The extent along each axis."""

    chunk: tuple[int, ...]
    """The extent of a chunk along each axis."""

    dtype: str
    """NumPy's name of the values' type."""

    fill: int = 0
    """What a chunk that nobody wrote holds."""

    def create(self, attributes: dict[str, Any] | None = None, names: Sequence[str] | None = None) -> None:
        """Write the array's metadata; an array that is there already keeps its chunks.

        Parameters
        ----------
        attributes
            What JSON can hold.
        names
            The name of each dimension.

        Raises
        ------
        OutputError
            Where the path holds an array of another shape, type, chunking or other attributes.
        """
        import zarr
        from zarr.codecs import Crc32cCodec, ZstdCodec
        from zarr.errors import ContainsArrayError

        shape, chunks = self.shape, tuple(map(min, self.chunk, self.shape))
        options: dict[str, Any] = {
            "compressors": [ZstdCodec(level=3), Crc32cCodec()],
            "attributes": attributes or {},
            "fill_value": self.fill,
        }
        try:
            zarr.create_array(self.path, shape=shape, dtype=self.dtype, chunks=chunks, zarr_format=3, dimension_names=names, **options)
        except ContainsArrayError:
            there = zarr.open_array(self.path, mode="r", zarr_format=3)
            if (there.shape, there.chunks, str(there.dtype), dict(there.attrs)) != (shape, chunks, self.dtype, options["attributes"]):
                raise OutputError(f"{self.path} holds another array, {there}; give another path, or remove it") from None

    def write(self, box: Box, values: npt.NDArray[Any]) -> None:
        """Write whole chunks.

        Parameters
        ----------
        box
            Where; it starts and ends on chunks' borders, or at the array's end.
        values
            Of the box's shape, of a type that the array's holds without loss.

        Raises
        ------
        ValueError
            Where the box cuts a chunk or leaves the array, and where ``values`` do not fit it.
        """
        edges = zip(box.start, box.stop, self.chunk, self.shape, strict=True)
        if box not in Box.whole(self.shape) or any(a % c or (b % c and b != n) for a, b, c, n in edges):
            raise ValueError(f"{self.path}: {box} does not cover whole chunks of {self.chunk} in {self.shape}; a chunk has one owner")
        if values.shape != box.shape or not np.can_cast(values.dtype, self.dtype, "safe"):
            raise ValueError(f"{self.path}: {values.dtype} of shape {values.shape} cannot fill {box}; allowed: {self.dtype} of {box.shape}")
        _open(self, checked=self._has_empty_chunk(values))[box.slices] = values

    def read(self, box: Box, step: Sequence[int] | None = None) -> npt.NDArray[Any]:
        """The values in a box, each ``step``-th along each axis.

        Raises
        ------
        ScratchError
            Where a chunk's bytes are not those that were written.
        ValueError
            Where the box leaves the array.
        """
        strides = step or (1,) * len(self.shape)
        places = zip(box.within(Box.whole(self.shape)), strides, strict=True)
        array = _open(self, checked=True)
        try:
            return np.asarray(array[tuple(slice(at.start, at.stop, stride) for at, stride in places)])
        except (ValueError, RuntimeError) as error:
            raise ScratchError(f"{self.path}: a chunk in {box} is damaged ({error}); write it again") from error

    def _has_empty_chunk(self, values: npt.NDArray[Any]) -> bool:
        grid = Grid(values.shape, self.chunk)
        chunks = (values[grid.core(chunk).slices] for chunk in range(len(grid)))
        return not all((chunk[..., ::GLANCE, :] != self.fill).any() or (chunk != self.fill).any() for chunk in chunks)


@functools.lru_cache(maxsize=64)
def _open(array: Array, *, checked: bool) -> zarr.Array[Any]:
    """The array, opened once per process, though each task writes but one tile of it.

    ``checked``: chunks that hold nothing but the fill value are not stored. Zarr's own look at that takes as long as packing them, so where
    it is known that there is none, it need not look.
    """
    import zarr

    with zarr.config.set({"array.write_empty_chunks": not checked}):
        return zarr.open_array(array.path, mode="r+", zarr_format=3)


@dataclass(frozen=True, slots=True)
class Mask(Array):
    """Which pixels are valid, stored beside the labels while a result is made.

    ``create``, ``write`` and ``read`` are those of an array of bool; a chunk that nobody wrote is False.
    """

    dtype: str = field(default="bool", init=False)
    """Always bool."""
