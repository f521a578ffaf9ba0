"""Zarr arrays that many processes write, each chunk or shard by one task, with a checksum.

Format 3 packs chunks with Zstandard and ends each in a CRC-32C. Format 2 has no codec for checksums
that all readers know, but the Adler-32 that ends what zlib packs is checked by all of them: so
chunks are packed with that there, which takes about twice as long.
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
"""Of so many rows one is looked at first, where all that is asked is whether a chunk holds
anything.
"""


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

    shard: tuple[int, ...] | None = None
    """The extent of a shard along each axis, whole chunks that lie in one file; None: each chunk is
    a file. Only in format 3.
    """

    zarr_format: Literal[2, 3] = 3
    """Zarr's."""

    @property
    def unit(self) -> tuple[int, ...]:
        """The extent of what has one owner: a shard, or a chunk."""
        return self.chunk if self.shard is None else self.shard

    def create(
        self, attributes: dict[str, Any] | None = None, names: Sequence[str] | None = None
    ) -> None:
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
        box
            Where; it starts and ends on borders of chunks, or of shards, or at the array's end.
        values
            Of the box's shape, of a type that the array's holds without loss.

        Raises
        ------
        ValueError
            Where the box cuts a chunk or a shard or leaves the array, and where ``values`` do not
            fit it.
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
        for file in self._shards(
            box
        ):  # Zarr would read them, to keep what the box leaves of them: nothing
            file.unlink(missing_ok=True)
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
        if empty := next(
            (file for file in self._shards(box) if file.exists() and not file.stat().st_size), None
        ):  # Zarr takes it for none
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
    """The array, opened once per process, though each task writes but one tile of it.

    ``checked``: chunks that hold nothing but the fill value are not stored. Zarr's own look at that
    takes as long as packing them, so where it is known that there is none, it need not look.
    """
    import zarr

    with zarr.config.set({"array.write_empty_chunks": not checked}):
        return zarr.open_array(
            _folder_store()(array.path), mode="r+", zarr_format=array.zarr_format
        )


@functools.cache
def _folder_store() -> type[LocalStore]:
    """Zarr's store of a folder, but that it writes nothing where that is gone: Zarr would make it
    anew.
    """
    from zarr.storage import LocalStore

    class FolderStore(LocalStore):
        async def _open(self, **_: Any) -> None:
            if not self.root.is_dir():
                raise OutputError(
                    f"{self.root} is not there: its run has ended, or was started anew"
                )
            await super(
                LocalStore, self
            )._open()  # without LocalStore's own, which makes the folder

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
    """Which pixels are valid, stored beside the labels while a result is made.

    ``create``, ``write`` and ``read`` are those of an array of bool; a chunk that nobody wrote is
    False.
    """

    dtype: str = field(default="bool", init=False)
    """Always bool."""
