"""Decompress chunks of Zarr arrays within a bound. The size of the output is set by the compressed
bytes, so a damaged or hostile file could exhaust the memory.

Zarr's own codecs allocate whatever the bytes ask for: a file of a megabyte may ask for a terabyte.
If the array gives the size (a single compressor directly on the numbers, the usual case), exactly
that much is accepted. With filters or a second compressor, up to `ROOM` times as much is accepted.
The same bound holds for files that are read whole.
"""

from __future__ import annotations

import asyncio
import bz2
import lzma
import math
import operator
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import zarr
from numcodecs import LZ4, Blosc, Zstd, get_codec
from numcodecs.abc import Codec as Numcodec
from zarr.abc.codec import ArrayArrayCodec, BytesBytesCodec, Codec
from zarr.abc.store import RangeByteRequest
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec
from zarr.storage import LocalStore, ObjectStore, StorePath

ROOM = 8
"""If the array does not give the exact size, a codec may return this many times a chunk's bytes:
filters may have widened the numbers.
"""
LITTLE = 1 << 16
"""The bytes that any such codec may return, for very small chunks."""
BESIDE = 64
"""The bytes that a file may hold for each chunk besides its numbers."""
DICTIONARY = 1 << 27
"""The bytes of memory that LZMA may use besides its output; its strongest setting needs half of
that.
"""
PATIENCE = 60
"""How long to wait, in seconds, for reads that have started."""
ZSTD = b"\x28\xb5\x2f\xfd"
Unpacker = Callable[[Any, "Room", Mapping[str, Any]], Any]


@dataclass(frozen=True)
class Room:
    """A bound on the size of an output in bytes."""

    most: int
    exact: bool
    """Whether the output must have exactly this size."""

    @classmethod
    def about(cls, chunk: int) -> Room:
        """The bound if filters may have changed the size of a chunk."""
        return cls(max(ROOM * chunk, LITTLE), exact=False)

    def check(self, said: int) -> None:
        """Raise ValueError if the output has more bytes than allowed, or declares more."""
        if said > self.most:
            raise ValueError(f"a chunk becomes {said} bytes or more, and {self.most} are allowed")


def bounded(array: zarr.Array[Any]) -> zarr.Array[Any]:
    """The same array with codecs that raise ValueError if a chunk exceeds its bound."""
    known: Any = array.metadata
    if known.zarr_format == 3:
        changed = replace(known, codecs=_chain(known.codecs))
    else:
        chunk = math.prod(array.chunks) * array.dtype.itemsize
        last = Room.about(chunk) if known.filters else Room(chunk, exact=True)
        filters = [Numbers(each, Room.about(chunk)) for each in known.filters or ()]
        changed = replace(
            known,
            compressor=known.compressor and Numbers(known.compressor, last),
            filters=filters or None,
        )
    where = array.store_path
    if isinstance(where.store, ObjectStore):
        where = StorePath(Limited(where.store.store, FileRoom.of(array)), where.path)
    elif isinstance(where.store, LocalStore):
        where = StorePath(Files(where.store.root, read_only=True), where.path)
    return zarr.Array(zarr.AsyncArray(changed, where, array.config))


def chunks_in_file(array: zarr.Array[Any]) -> int:
    """How many chunks one file of an array holds: one, or all those of a shard."""
    return math.prod(map(operator.floordiv, array.shards or array.chunks, array.chunks))


@dataclass(frozen=True)
class FileRoom:
    """A bound on the size in bytes of a file with one chunk or one shard."""

    most: int

    @classmethod
    def of(cls, array: zarr.Array[Any]) -> FileRoom:
        """The bound that follows from the array's metadata."""
        numbers = math.prod(array.shards or array.chunks)
        return cls(Room.about(numbers * array.dtype.itemsize).most + BESIDE * chunks_in_file(array))

    def check(self, name: str, size: int) -> None:
        """Raise ValueError if a file is larger."""
        if size > self.most:
            raise ValueError(
                f"{name} has {size} bytes, and a file of this array has at most {self.most}"
            )


def settle(array: zarr.Array[Any]) -> None:
    """Wait until no read of a `bounded` array is in progress.

    When one chunk fails, Zarr leaves the reads of the others running, and a process that exits then
    logs an error for each of them.
    """
    store = array.store_path.store
    if isinstance(store, Files | Limited) and store.loop is not None:
        asyncio.run_coroutine_threadsafe(_others(), store.loop).result()


async def _others() -> None:
    if others := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(others, timeout=PATIENCE)


class Files(LocalStore):
    """Local files. Keeps the event loop in which Zarr reads them, for `settle`."""

    loop: asyncio.AbstractEventLoop | None = None

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
        """A file or a part of it; None if it does not exist."""
        self.loop = asyncio.get_running_loop()
        return await super().get(key, prototype, byte_range)


class Limited(ObjectStore[Any]):
    """Files at an address. A file that is too large raises ValueError before its bytes are
    fetched.
    """

    loop: asyncio.AbstractEventLoop | None = None

    def __init__(self, store: Any, room: FileRoom) -> None:
        super().__init__(store, read_only=True)
        self.room = room

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        """A file or a part of it; None if it does not exist."""
        self.loop = asyncio.get_running_loop()
        if byte_range is not None:
            if isinstance(byte_range, RangeByteRequest):  # as the index of a shard gives it
                self.room.check(f"a part of {key}", byte_range.end - byte_range.start)
            return await super().get(key, prototype, byte_range)
        try:
            answer = await self.store.get_async(key)
        except FileNotFoundError:
            return None
        self.room.check(key, answer.meta["size"])
        return prototype.buffer.from_bytes(await answer.bytes_async())


def _chain(codecs: Iterable[Codec]) -> list[Codec]:
    """The codecs of Zarr version 3, also inside shards, with every decompressor bounded."""
    found: list[Codec] = []
    for codec in codecs:
        inside = [each for each in found if not isinstance(each, ArrayArrayCodec)]
        if isinstance(codec, ShardingCodec):
            found.append(replace(codec, codecs=tuple(_chain(codec.codecs))))
        elif isinstance(codec, BytesBytesCodec) and _name(codec) in UNPACKERS:
            summed = sum(isinstance(each, Crc32cCodec) for each in inside)
            found.append(
                Bytes(
                    codec,
                    4 * summed
                    if all(isinstance(each, BytesCodec | Crc32cCodec) for each in inside)
                    else None,
                )
            )
        else:
            found.append(codec)
    return found


def _name(codec: Codec) -> str:
    return str(codec.to_dict()["name"]).removeprefix("numcodecs.")


@dataclass(frozen=True)
class Bytes(BytesBytesCodec):
    """A compressor of Zarr version 3 with a bound on its output."""

    codec: BytesBytesCodec
    more: int | None
    """Bytes of checksums after the chunk's; None if the array does not give the size of the
    output.
    """

    is_fixed_size = False

    async def _decode_single(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
        chunk = math.prod(chunk_spec.shape) * chunk_spec.dtype.to_native_dtype().itemsize
        room = Room.about(chunk) if self.more is None else Room(chunk + self.more, exact=True)
        found = self.codec.to_dict()
        how: Any = found.get("configuration", {})
        data = await asyncio.to_thread(
            UNPACKERS[_name(self.codec)], memoryview(chunk_bytes.as_numpy_array()), room, how
        )
        return chunk_spec.prototype.buffer.from_bytes(data)

    def to_dict(self) -> dict[str, Any]:
        """The same as for the codec itself."""
        return self.codec.to_dict()

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: Any) -> int:
        """The same as for the codec itself."""
        return self.codec.compute_encoded_size(input_byte_length, chunk_spec)


class Numbers(Numcodec):  # type: ignore[misc]
    """A codec of Zarr version 2 with a bound on its output."""

    codec_id = "bounded"

    def __init__(self, codec: Any, room: Room) -> None:
        self.codec = codec
        self.room = room

    def decode(self, buf: Any, out: Any = None) -> Any:
        """Decode; ValueError if the output exceeds the bound."""
        unpacker = UNPACKERS.get(self.codec.codec_id)
        return (
            unpacker(memoryview(buf), self.room, self.get_config())
            if unpacker
            else self.codec.decode(buf, out)
        )

    def encode(self, buf: Any) -> Any:
        """Encode with the codec itself."""
        return self.codec.encode(buf)

    def get_config(self) -> Any:
        """The configuration of the codec itself."""
        return self.codec.get_config()

    @classmethod
    def from_config(cls, config: Any) -> Any:
        """The codec itself, unbounded."""
        return get_codec(config)


def _zstd(data: memoryview, room: Room, _how: Mapping[str, Any]) -> Any:
    """Decompress Zstandard. Its frames may declare the size of their output (RFC 8878, 3.1.1.1),
    but need not.
    """
    said = _first_frame(data)
    codec = Zstd()
    room.check(said or 0)
    if said is None and not room.exact:
        raise ValueError(
            "a chunk does not say how much it becomes, and neither does the array, for it has "
            "filters or several compressors"
        )
    whole = np.empty(room.most, np.uint8)
    try:
        codec.decode(data, out=whole)  # stops at the end of the output, however many frames follow
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"a chunk cannot be unpacked into {room.most} bytes: {error}") from error
    return whole if said in (None, room.most) else codec.decode(data)


def _first_frame(data: memoryview) -> int | None:
    """The size that the first frame declares for its output; None if it does not."""
    if data[:4] != ZSTD or len(data) < 6:
        return None
    flags = data[4]
    single = flags >> 5 & 1
    width = (single, 2, 4, 8)[flags >> 6]
    at = 6 - single + (0, 1, 2, 4)[flags & 3]
    return int.from_bytes(data[at : at + width], "little") + 256 * (width == 2) if width else None


def _blosc(data: memoryview, room: Room, _how: Mapping[str, Any]) -> Any:
    """Decompress Blosc 1. The header declares the sizes of output and input
    (README_CHUNK_FORMAT.rst); the library trusts both, so they are checked first.
    """
    room.check(int.from_bytes(data[4:8], "little"))
    if len(data) < 16 or int.from_bytes(data[12:16], "little") != len(data):
        raise ValueError(f"a chunk of Blosc has {len(data)} bytes, and says otherwise")
    return Blosc().decode(data)


def _lz4(data: memoryview, room: Room, _how: Mapping[str, Any]) -> Any:
    """Decompress LZ4 as numcodecs writes it: the first four bytes declare the size of the
    output.
    """
    room.check(int.from_bytes(data[:4], "little"))
    return LZ4().decode(data)


def _streams(start: Callable[[Mapping[str, Any]], Any]) -> Unpacker:
    """A decompressor for formats that do not declare a size: decodes one stream after another until
    the bound.
    """

    def unpacked(data: memoryview | bytes, room: Room, how: Mapping[str, Any]) -> bytearray:
        found = bytearray()
        while data:
            stream = start(how)
            try:
                found += stream.decompress(data, room.most + 1 - len(found))
            except (zlib.error, lzma.LZMAError) as error:
                raise ValueError(
                    f"a chunk cannot be unpacked into {room.most} bytes: {error}"
                ) from error
            room.check(len(found))
            if not stream.eof:
                raise ValueError("a chunk ends before it should")
            data = stream.unused_data.lstrip(b"\0")
        return found

    return unpacked


def _lzma(how: Mapping[str, Any]) -> Any:
    form = how.get("format", lzma.FORMAT_XZ)
    return lzma.LZMADecompressor(
        form, None if form == lzma.FORMAT_RAW else DICTIONARY, how.get("filters")
    )


UNPACKERS: dict[str, Unpacker] = {
    "zstd": _zstd,
    "blosc": _blosc,
    "lz4": _lz4,
    "gzip": _streams(lambda _: zlib.decompressobj(31)),
    "zlib": _streams(lambda _: zlib.decompressobj()),
    "bz2": _streams(lambda _: bz2.BZ2Decompressor()),
    "lzma": _streams(_lzma),
}
