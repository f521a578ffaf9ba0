"""Chunks of Zarr that are unpacked into as much room as a chunk may take, and no more: how much
they become, their bytes decide.

Zarr's own codecs take what the bytes ask for, and a file of a megabyte may ask for a terabyte.
Where the size follows from the array (one compressor right on the numbers, which is the rule) so
much is unpacked; below filters or a second compressor, up to `ROOM` times as much. So may a file
have, which is read whole.
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
"""So many times a chunk's bytes may a step become whose size the array does not say: filters may
have widened its numbers.
"""
LITTLE = 1 << 16
"""Bytes that any such step may become."""
BESIDE = 64
"""Bytes that a file may hold for each chunk besides its numbers."""
DICTIONARY = 1 << 27
"""Bytes that LZMA may take besides; at its strongest it takes half."""
PATIENCE = 60
"""Seconds within which reads that were begun end."""
ZSTD = b"\x28\xb5\x2f\xfd"
Unpacker = Callable[[Any, "Room", Mapping[str, Any]], Any]


@dataclass(frozen=True)
class Room:
    """How many bytes something may become."""

    most: int
    exact: bool
    """Whether it has to become so many."""

    @classmethod
    def about(cls, chunk: int) -> Room:
        """For something that a chunk of so many bytes was made of."""
        return cls(max(ROOM * chunk, LITTLE), exact=False)

    def check(self, said: int) -> None:
        """ValueError where something becomes, or says that it becomes, more."""
        if said > self.most:
            raise ValueError(f"a chunk becomes {said} bytes or more, and {self.most} are allowed")


def bounded(array: zarr.Array[Any]) -> zarr.Array[Any]:
    """The same array, read with codecs that raise ValueError where a chunk becomes more than it
    may.
    """
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
    """How many chunks one file of an array holds: one, or those of a shard."""
    return math.prod(map(operator.floordiv, array.shards or array.chunks, array.chunks))


@dataclass(frozen=True)
class FileRoom:
    """How many bytes a file of an array, which holds a chunk or a shard, can have."""

    most: int

    @classmethod
    def of(cls, array: zarr.Array[Any]) -> FileRoom:
        """By what the array says of itself."""
        numbers = math.prod(array.shards or array.chunks)
        return cls(Room.about(numbers * array.dtype.itemsize).most + BESIDE * chunks_in_file(array))

    def check(self, name: str, size: int) -> None:
        """ValueError where a file has more."""
        if size > self.most:
            raise ValueError(
                f"{name} has {size} bytes, and a file of this array has at most {self.most}"
            )


def settle(array: zarr.Array[Any]) -> None:
    """Return when nothing is being read of a `bounded` array any more: where one chunk fails, Zarr
    leaves those that were asked for with it under way, and a process that ends meanwhile complains
    of each.
    """
    store = array.store_path.store
    if isinstance(store, Files | Limited) and store.loop is not None:
        asyncio.run_coroutine_threadsafe(_others(), store.loop).result()


async def _others() -> None:
    if others := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(others, timeout=PATIENCE)


class Files(LocalStore):
    """Files of this machine; it knows in which event loop Zarr reads them."""

    loop: asyncio.AbstractEventLoop | None = None

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
        """A file or a part of it; None where there is none."""
        self.loop = asyncio.get_running_loop()
        return await super().get(key, prototype, byte_range)


class Limited(ObjectStore[Any]):
    """Files at an address, of which none is fetched that is too large: ValueError before its bytes
    come.
    """

    loop: asyncio.AbstractEventLoop | None = None

    def __init__(self, store: Any, room: FileRoom) -> None:
        super().__init__(store, read_only=True)
        self.room = room

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        """A file or a part of it; None where there is none."""
        self.loop = asyncio.get_running_loop()
        if byte_range is not None:
            if isinstance(byte_range, RangeByteRequest):  # which the index of a shard says
                self.room.check(f"a part of {key}", byte_range.end - byte_range.start)
            return await super().get(key, prototype, byte_range)
        try:
            answer = await self.store.get_async(key)
        except FileNotFoundError:
            return None
        self.room.check(key, answer.meta["size"])
        return prototype.buffer.from_bytes(await answer.bytes_async())


def _chain(codecs: Iterable[Codec]) -> list[Codec]:
    """The codecs of version 3, in shards too, with those that unpack replaced."""
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
    """A codec of version 3 that unpacks what a chunk may become."""

    codec: BytesBytesCodec
    more: int | None
    """Bytes of checksums beside the chunk's; None where the array does not say how much it becomes.
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
        """As the codec itself."""
        return self.codec.to_dict()

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: Any) -> int:
        """As the codec itself."""
        return self.codec.compute_encoded_size(input_byte_length, chunk_spec)


class Numbers(Numcodec):  # type: ignore[misc]
    """A codec of version 2 that unpacks what a chunk may become."""

    codec_id = "bounded"

    def __init__(self, codec: Any, room: Room) -> None:
        self.codec = codec
        self.room = room

    def decode(self, buf: Any, out: Any = None) -> Any:
        """What the codec itself gives; ValueError where that is too much."""
        unpacker = UNPACKERS.get(self.codec.codec_id)
        return (
            unpacker(memoryview(buf), self.room, self.get_config())
            if unpacker
            else self.codec.decode(buf, out)
        )

    def encode(self, buf: Any) -> Any:
        """As the codec itself."""
        return self.codec.encode(buf)

    def get_config(self) -> Any:
        """As the codec itself."""
        return self.codec.get_config()

    @classmethod
    def from_config(cls, config: Any) -> Any:
        """The codec itself."""
        return get_codec(config)


def _zstd(data: memoryview, room: Room, _how: Mapping[str, Any]) -> Any:
    """Zstandard, whose frames may say how much they become (RFC 8878, 3.1.1.1), and need not."""
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
        codec.decode(data, out=whole)  # no more than is there, of however many frames
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"a chunk cannot be unpacked into {room.most} bytes: {error}") from error
    return whole if said in (None, room.most) else codec.decode(data)


def _first_frame(data: memoryview) -> int | None:
    """The bytes that the first frame says that it becomes."""
    if data[:4] != ZSTD or len(data) < 6:
        return None
    flags = data[4]
    single = flags >> 5 & 1
    width = (single, 2, 4, 8)[flags >> 6]
    at = 6 - single + (0, 1, 2, 4)[flags & 3]
    return int.from_bytes(data[at : at + width], "little") + 256 * (width == 2) if width else None


def _blosc(data: memoryview, room: Room, _how: Mapping[str, Any]) -> Any:
    """Blosc 1, whose header says all (README_CHUNK_FORMAT.rst); the library believes it, also of
    how much there is to read.
    """
    room.check(int.from_bytes(data[4:8], "little"))
    if len(data) < 16 or int.from_bytes(data[12:16], "little") != len(data):
        raise ValueError(f"a chunk of Blosc has {len(data)} bytes, and says otherwise")
    return Blosc().decode(data)


def _lz4(data: memoryview, room: Room, _how: Mapping[str, Any]) -> Any:
    """LZ4 as numcodecs writes it, after four bytes that say how much it becomes."""
    room.check(int.from_bytes(data[:4], "little"))
    return LZ4().decode(data)


def _streams(start: Callable[[Mapping[str, Any]], Any]) -> Unpacker:
    """Of codecs that say nothing: one stream after another, as far as there is room."""

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
