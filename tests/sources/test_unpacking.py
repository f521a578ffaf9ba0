"""A chunk of Zarr takes no more memory than a chunk may, whatever its bytes ask for; whatever Zarr
reads is read as before.
"""

from __future__ import annotations

import itertools
import json
import re
import warnings
from pathlib import Path

import numcodecs
import numpy as np
import pytest
import zarr
import zarr.codecs.numcodecs as more
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec, TransposeCodec, ZstdCodec

from pipeline.errors import SourceError
from pipeline.image.grid import Box
from pipeline.sources import open_source
from pipeline.sources.bounded_codecs import UNPACKERS, Room, bounded
from tests.sources.files import under_a_limit, whole

PACKERS = {
    "zstd": numcodecs.Zstd(level=3),
    "gzip": numcodecs.GZip(level=9),
    "zlib": numcodecs.Zlib(level=9),
    "bz2": numcodecs.BZ2(),
    "lzma": numcodecs.LZMA(preset=0),
    "blosc": numcodecs.Blosc(cname="lz4"),
    "lz4": numcodecs.LZ4(),
}
BOMB = 1 << 29
"""Bytes that a bomb becomes."""
MEMORY = 1 << 28
"""Bytes that a process may take to read them, besides what it has before."""
SUM = numcodecs.CRC32C(location="end")
SILENT = bytes.fromhex(
    "28b52ffd0058"
)  # a frame of Zstandard that does not say its size, with a window of 2 MiB


@given(
    name=st.sampled_from(sorted(PACKERS)),
    size=st.integers(1, 100_000),
    seed=st.integers(0, 9),
    data=st.data(),
)
def test_what_fits_comes_out(name, size, seed, data):
    """Of any bytes that a packer has packed, in exactly their room or in more; in less there is an
    error.
    """
    numbers = np.random.default_rng(seed).integers(0, 1 + seed, size).astype(np.uint8).tobytes()
    packed, how = memoryview(PACKERS[name].encode(numbers)), PACKERS[name].get_config()
    for room in (Room(size, exact=True), Room(size + data.draw(st.integers(0, 1000)), exact=False)):
        assert bytes(UNPACKERS[name](packed, room, how)) == numbers
    for exact in (False, True):
        with pytest.raises((ValueError, RuntimeError)):
            UNPACKERS[name](packed, Room(data.draw(st.integers(0, size - 1)), exact=exact), how)


@given(
    name=st.sampled_from(["zstd", "gzip", "bz2", "lzma"]),
    sizes=st.lists(st.integers(1, 5000), min_size=1, max_size=4),
)
def test_several_streams_come_out(name, sizes):
    """What was packed in several parts, one after the other, is their sum, and has to be as much as
    was said.
    """
    parts = [np.arange(size).astype(np.uint8).tobytes() for size in sizes]
    packed = memoryview(b"".join(bytes(PACKERS[name].encode(part)) for part in parts))
    assert bytes(UNPACKERS[name](packed, Room(sum(sizes), exact=True), {})) == b"".join(parts)
    with pytest.raises((ValueError, RuntimeError)):
        UNPACKERS[name](packed, Room(sum(sizes) - 1, exact=True), {})


def silent(size: int) -> bytes:
    """Zstandard that does not say how much it becomes: blocks of one byte that is repeated."""
    blocks = [1 << 17] * (size >> 17) + [size % (1 << 17)] * (size % (1 << 17) > 0)
    return SILENT + b"".join(
        (n << 3 | 2 | (k == len(blocks) - 1)).to_bytes(3, "little") + b"\7"
        for k, n in enumerate(blocks)
    )


@given(size=st.integers(1, 1 << 19))
@settings(max_examples=20)
def test_zstandard_that_does_not_say_its_size(size):
    """It is read where the array says its size, and refused where it does not."""
    packed = memoryview(silent(size))
    assert bytes(numcodecs.Zstd().decode(packed)) == b"\7" * size
    assert bytes(UNPACKERS["zstd"](packed, Room(size, exact=True), {})) == b"\7" * size
    for room in (
        Room(size - 1, exact=True),
        Room(size + 1, exact=True),
        Room(2 * size, exact=False),
    ):
        with pytest.raises((ValueError, RuntimeError)):
            UNPACKERS["zstd"](packed, room, {})


VERSION_2 = [None, *PACKERS.values()]
FILTERS = [
    None,
    [numcodecs.Delta("<i2", "<i4")],
    [numcodecs.Zlib(), numcodecs.Shuffle(1)],
    [numcodecs.FixedScaleOffset(0, 1, "<i2", "<i4")],
]


@pytest.mark.parametrize(("compressor", "filters"), list(itertools.product(VERSION_2, FILTERS)))
def test_what_zarr_reads_in_version_2(tmp_path, compressor, filters):
    """Any compressor below any filters gives what Zarr gives."""
    image = np.random.default_rng(1).integers(0, 9, (50, 70)).astype("<i2")
    array = zarr.create_array(
        tmp_path,
        shape=image.shape,
        chunks=(32, 16),
        dtype="<i2",
        zarr_format=2,
        compressors=compressor,
        filters=filters,
    )
    array[:] = image
    np.testing.assert_array_equal(bounded(array)[:], array[:])
    np.testing.assert_array_equal(whole(open_source(tmp_path))[0], image)


def version_3() -> list[list[object]]:
    """Codecs, one after the other."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        others = [
            more.Zstd(),
            more.GZip(),
            more.Zlib(),
            more.BZ2(),
            more.LZMA(preset=0),
            more.Blosc(),
            more.LZ4(),
        ]
    alone: list[list[object]] = [
        [each]
        for each in (ZstdCodec(), ZstdCodec(checksum=True), GzipCodec(), BloscCodec(), *others)
    ]
    return [
        [],
        [Crc32cCodec()],
        *alone,
        *[[*each, Crc32cCodec()] for each in alone],
        [Crc32cCodec(), ZstdCodec()],
        [ZstdCodec(), GzipCodec()],
    ]


@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in")
@pytest.mark.parametrize("shards", [None, (64, 64)])
@pytest.mark.parametrize(
    "codecs",
    version_3(),
    ids=lambda codecs: "-".join(type(each).__name__ for each in codecs) or "none",
)
def test_what_zarr_reads_in_version_3(tmp_path, codecs, shards):
    """Any chain of codecs, in shards or not, gives what Zarr gives."""
    image = np.random.default_rng(1).integers(0, 9, (50, 70)).astype("<i2")
    how = {
        "chunks": (32, 16),
        "shards": shards,
        "compressors": codecs,
        "filters": [TransposeCodec(order=(1, 0))],
    }
    array = zarr.create_array(tmp_path, data=image, **how)
    np.testing.assert_array_equal(bounded(array)[:], image)
    np.testing.assert_array_equal(whole(open_source(tmp_path))[0], image)
    assert bounded(array).metadata.to_dict() == array.metadata.to_dict()


def bombs(folder: Path) -> list[str]:
    """Arrays whose second chunk, which should become 512 kB, becomes half a gigabyte."""
    part, all_of_it = b"\0" * (BOMB >> 4), b"\0" * BOMB
    packed = {
        name: bytes(PACKERS[name].encode(part)) * 16 for name in ("zstd", "gzip", "bz2", "lzma")
    }
    packed |= {name: bytes(PACKERS[name].encode(all_of_it)) for name in ("zlib", "blosc", "lz4")}
    packed |= {"zstd silent": silent(BOMB), "zstd one": bytes(PACKERS["zstd"].encode(all_of_it))}
    packed |= {
        "gzip lying": bytes(PACKERS["gzip"].encode(all_of_it))[:-4] + (4096).to_bytes(4, "little")
    }
    new, found = {"zstd": ZstdCodec(), "gzip": GzipCodec(), "blosc": BloscCodec()}, []
    for (name, bomb), (version, summed, shards) in itertools.product(
        packed.items(),
        [(2, False, None), (3, False, None), (3, True, None), (3, True, (1024, 512))],
    ):
        packer, path = name.split()[0], folder / f"{name} {version} {summed} {shards}.zarr"
        if version == 3 and packer not in new:
            continue
        compressors = (
            [PACKERS[packer]]
            if version == 2
            else [new[packer], *([Crc32cCodec()] if summed else [])]
        )
        how = {
            "chunks": (1024, 512),
            "shards": shards,
            "zarr_format": version,
            "compressors": compressors,
        }
        array = zarr.create_array(path, data=np.full((2048, 512), 5, np.uint8), **how)
        chunk = bytes(SUM.encode(bomb)) if summed else bomb
        index = (
            bytes(SUM.encode(np.array([0, len(chunk)], "<u8").tobytes())) if shards else b""
        )  # of the one chunk in the shard
        (path / array.metadata.encode_chunk_key((1, 0))).write_bytes(chunk + index)
        found.append(str(path))
    return found


def test_bombs(tmp_path):
    """A chunk that becomes half a gigabyte is an error that says so, in a process that may not take
    so much; other chunks are read.
    """
    paths = bombs(tmp_path)
    for path, errors in under_a_limit(paths, Box((0, 0), (1024, 512)), MEMORY).items():
        for one in errors:
            assert re.search(
                r"a chunk becomes \d+ bytes or more, and 524288 are allowed|cannot be unpacked "
                r"into 524288 bytes",
                one,
            ), path


def test_a_file_that_is_too_large(tmp_path):
    """A chunk's file that no chunk can have made is not read."""
    array = zarr.create_array(
        tmp_path, data=np.ones((64, 64), np.uint8), chunks=(64, 64), compressors=None
    )
    with (tmp_path / array.metadata.encode_chunk_key((0, 0))).open("r+b") as file:
        file.truncate(1 << 40)
    for read in (open_source(tmp_path).read, lambda box: open_source(tmp_path).glance(box, 3)):
        with pytest.raises(
            SourceError,
            match="0 has 1099511627776 bytes, and a file of this array has at most 65600",
        ):
            read(Box((0, 0), (64, 64)))


def test_shards_of_too_many_chunks(tmp_path):
    """Metadata that claim shards of a thousand million chunks, whose index would take 16 GiB, are
    refused before any of it is read.
    """
    zarr.create_array(tmp_path, shape=(64, 64), chunks=(1, 1), shards=(64, 64), dtype="u1")
    known = json.loads((tmp_path / "zarr.json").read_text())
    known["shape"] = known["chunk_grid"]["configuration"]["chunk_shape"] = [1 << 15, 1 << 15]
    (tmp_path / "zarr.json").write_text(json.dumps(known))
    with pytest.raises(
        SourceError,
        match="is stored in shards of 1073741824 chunks; allowed: up to 4194304; write it anew",
    ):
        open_source(tmp_path).frame  # noqa: B018


@pytest.mark.parametrize(
    "how", [{"filters": [numcodecs.Pickle()]}, {"compressors": numcodecs.Pickle()}]
)
def test_pickles(tmp_path, how):
    """What would run what the file says is refused before any of it is read."""
    zarr.create_array(tmp_path, shape=(4, 4), chunks=(4, 4), dtype="u1", zarr_format=2, **how)
    with pytest.raises(SourceError, match=r"cannot be opened as Zarr: .*pickle"):
        open_source(tmp_path).frame  # noqa: B018
