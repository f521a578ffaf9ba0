"""Zarr arrays that many processes write, one task per chunk or shard, with checksums.

Format 3 compresses chunks with Zstandard and appends a CRC-32C. Format 2 has no checksum codec that
all readers know, but all verify the Adler-32 of zlib; so it compresses with zlib, which takes about
twice as long.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline.errors import OutputError, ScratchError
from pipeline.image.grid import Box, Grid
from pipeline.storage.atomic_files import commit

if TYPE_CHECKING:
    import zarr
    from zarr.storage import LocalStore


GLANCE = 64
"""Every so many rows, one is checked first to find whether a chunk holds anything."""


@dataclass(frozen=True, slots=True)
class Array:
    """A Zarr array with one owner and a checksum per chunk."""

    path: str
    """The location of the array."""

    shape: tuple[int, ...]
    """Length of each axis."""

    chunk: tuple[int, ...]
    """Length of a chunk along each axis."""

    dtype: str
    """NumPy's name of the dtype."""

    fill: int = 0
    """The value of chunks that are not written."""

    shard: tuple[int, ...] | None = None
    """Length along each axis of a shard, which packs whole chunks into a file; None: each chunk is
    a file. Only in format 3.
    """

    zarr_format: Literal[2, 3] = 3
    """Zarr's format, 2 or 3."""

    @property
    def unit(self) -> tuple[int, ...]:
        """Shape of a shard, or of a chunk without shards."""
        return self.chunk if self.shard is None else self.shard

    def create(
        self, attributes: dict[str, Any] | None = None, names: Sequence[str] | None = None
    ) -> None:
        """Write the array's metadata; an existing array keeps its chunks.

        Parameters
        ----------
        attributes : mapping, optional
            JSON values.
        names : sequence of str, optional
            The name of each dimension.

        Raises
        ------
        OutputError
            The path holds an array with another shape, dtype, chunks or attributes.
        """
        import zarr
        from zarr.errors import ContainsArrayError

        chunks = tuple(map(min, self.chunk, self.shape))
        shards = (
            None
            if self.shard is None
            else tuple(
                min(s, -(-n // c) * c)
                for s, n, c in zip(self.shard, self.shape, chunks, strict=True)
            )
        )
        options: dict[str, Any] = {
            "shape": self.shape,
            "chunks": chunks,
            "shards": shards,
            "dtype": self.dtype,
            "fill_value": self.fill,
        }
        how = _format_3(names) if self.zarr_format == 3 else _format_2()
        # What names dimensions in format 3, xarray looks for among the attributes in format 2.
        known = (attributes or {}) | (
            {"_ARRAY_DIMENSIONS": list(names)} if names and self.zarr_format == 2 else {}
        )
        try:
            zarr.create_array(
                self.path, zarr_format=self.zarr_format, attributes=known, **options, **how
            )
        except ContainsArrayError:
            there = zarr.open_array(self.path, mode="r", zarr_format=self.zarr_format)
            if (there.shape, there.chunks, there.shards, str(there.dtype), dict(there.attrs)) != (
                self.shape,
                chunks,
                shards,
                self.dtype,
                known,
            ):
                raise OutputError(
                    f"{self.path} holds another array, {there}; give another path, or remove it"
                ) from None

    def write(self, box: Box, values: npt.NDArray[Any]) -> None:
        """Write whole chunks, or whole shards.

        Parameters
        ----------
        box : Box
            It starts and ends on borders of chunks (shards), or at the array's end.
        values : ndarray of the box's shape
            Values that the array's dtype represents exactly.

        Raises
        ------
        ValueError
            The box cuts a chunk (shard) or leaves the array, or ``values`` do not fit.
        """
        edges = zip(box.start, box.stop, self.unit, self.shape, strict=True)
        if box not in Box.whole(self.shape) or any(
            a % c or (b % c and b != n) for a, b, c, n in edges
        ):
            what = "chunks" if self.shard is None else "shards"
            raise ValueError(
                f"{self.path}: {box} does not cover whole {what} of {self.unit} in {self.shape}; "
                f"each has one owner"
            )
        if values.shape != box.shape or not np.can_cast(values.dtype, self.dtype, "safe"):
            raise ValueError(
                f"{self.path}: {values.dtype} of shape {values.shape} cannot fill {box}; "
                f"allowed: {self.dtype} of {box.shape}"
            )
        # Zarr would read the old chunks, to keep their pixels outside the box: there are none
        for file in self._shards(box):
            file.unlink(missing_ok=True)
        _open(self, checked=self._has_empty_chunk(values))[box.slices] = values

    def read(self, box: Box, step: Sequence[int] | None = None) -> npt.NDArray[Any]:
        """Read the values in a box, every ``step``-th along each axis.

        Raises
        ------
        ScratchError
            A chunk is damaged.
        ValueError
            The box leaves the array.
        """
        strides = step or (1,) * len(self.shape)
        places = zip(box.within(Box.whole(self.shape)), strides, strict=True)
        array = _open(self, checked=True)
        # Zarr would take an empty file for a missing chunk
        if empty := next(
            (file for file in self._shards(box) if file.exists() and not file.stat().st_size), None
        ):
            raise ScratchError(
                f"{self.path}: {empty} in {box} is damaged (it is empty); write it again"
            )
        try:
            return np.asarray(
                array[tuple(slice(at.start, at.stop, stride) for at, stride in places)]
            )
        except (ValueError, RuntimeError, zlib.error) as error:
            raise ScratchError(
                f"{self.path}: a chunk in {box} is damaged ({error}); write it again"
            ) from error

    def _shards(self, box: Box) -> Iterator[Path]:
        """The files of the shards that a box meets."""
        if self.shard is not None:
            spans = [
                range(a // s, -(-b // s))
                for a, b, s in zip(box.start, box.stop, self.shard, strict=True)
            ]
            yield from (
                Path(self.path, "c", *map(str, place)) for place in itertools.product(*spans)
            )

    def _has_empty_chunk(self, values: npt.NDArray[Any]) -> bool:
        grid = Grid(values.shape, self.chunk)
        chunks = (values[grid.core(chunk).slices] for chunk in range(len(grid)))
        return not all(
            (chunk[..., ::GLANCE, :] != self.fill).any() or (chunk != self.fill).any()
            for chunk in chunks
        )


@functools.lru_cache(maxsize=64)
def _open(array: Array, *, checked: bool) -> zarr.Array[Any]:
    """Open the array, once per process though each task writes only one tile.

    ``checked``: chunks of nothing but the fill value are not stored. Zarr's own check takes as long
    as compression, so it is skipped where it is known to be useless.
    """
    import zarr

    with zarr.config.set({"array.write_empty_chunks": not checked}):
        return zarr.open_array(
            _folder_store()(array.path), mode="r+", zarr_format=array.zarr_format
        )


@functools.cache
def _folder_store() -> type[LocalStore]:
    """Zarr's store for a folder, which refuses to recreate the folder after its removal."""
    from zarr.storage import LocalStore

    class FolderStore(LocalStore):
        async def _open(self, **_: Any) -> None:
            if not self.root.is_dir():
                raise OutputError(
                    f"{self.root} is not there: its run has ended, or was started anew"
                )
            # skips LocalStore's own, which creates the folder
            await super(LocalStore, self)._open()

        async def set(self, key: str, value: Any) -> None:
            await asyncio.to_thread(self.set_sync, key, value)

        def set_sync(self, key: str, value: Any) -> None:
            commit(self.root / key, value.as_buffer_like(), root=self.root)

    return FolderStore


def _format_3(names: Sequence[str] | None) -> dict[str, Any]:
    from zarr.codecs import Crc32cCodec, ZstdCodec

    return {"compressors": [ZstdCodec(level=3), Crc32cCodec()], "dimension_names": names}


def _format_2() -> dict[str, Any]:
    from numcodecs import Zlib

    return {
        "compressors": Zlib(level=1),
        "filters": None,
        "chunk_key_encoding": {"name": "v2", "separator": "/"},
    }


@dataclass(frozen=True, slots=True)
class Mask(Array):
    """Valid pixels, stored beside the labels while a result is written.

    ``create``, ``write`` and ``read`` are those of an array of bool; chunks that are not written
    are False.
    """

    dtype: str = field(default="bool", init=False)
    """Always bool."""
