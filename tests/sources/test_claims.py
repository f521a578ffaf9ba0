"""A chunk that says it becomes much more than a chunk is refused before it is unpacked."""

from __future__ import annotations

import tracemalloc

import numcodecs
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec, ZstdCodec

from pipeline.errors import SourceError
from pipeline.grid import Box
from pipeline.sources import open_source
from pipeline.sources.claims import _said
from tests.sources.files import whole

PACKERS = {
    "zstd": numcodecs.Zstd(level=3),
    "zstdcodec": numcodecs.Zstd(level=-1),
    "gzip": numcodecs.GZip(level=1),
    "blosc": numcodecs.Blosc(cname="lz4"),
    "lz4": numcodecs.LZ4(),
}
BOMB = 1 << 28
"""Bytes that a bomb becomes."""


@given(name=st.sampled_from(sorted(PACKERS)), size=st.integers(0, 100_000), seed=st.integers(0, 9))
def test_what_is_said_is_what_comes_out(name, size, seed):
    """Of any bytes that a packer has packed, their number, or nothing."""
    data = np.random.default_rng(seed).integers(0, 1 + seed, size).astype(np.uint8).tobytes()
    packed = bytes(PACKERS[name].encode(data))
    said = _said(name, packed[:18], packed[-4:])
    assert said == len(data) or (said == 0 and name.startswith("zstd"))  # which need not say


CASES = [(2, packer, False) for packer in ("zstd", "gzip", "blosc", "lz4")]
CASES += [(3, packer, summed) for packer in ("zstd", "gzip", "blosc") for summed in (False, True)]


@pytest.mark.parametrize(("version", "packer", "summed"), CASES)
def test_a_bomb_in_a_chunk(tmp_path, version, packer, summed):
    """A chunk of a quarter of a gigabyte where there should be 4 kB is an error for the price of a chunk; the others are read."""
    path, image = tmp_path / "a.zarr", np.arange(128 * 64, dtype=np.uint8).reshape(128, 64)
    codecs = {"zstd": ZstdCodec(), "gzip": GzipCodec(), "blosc": BloscCodec()}
    compressors = [PACKERS[packer]] if version == 2 else [codecs[packer], *([Crc32cCodec()] if summed else [])]
    array = zarr.create_array(path, data=image, chunks=(64, 64), zarr_format=version, compressors=compressors)
    np.testing.assert_array_equal(whole(open_source(path))[0], image)
    bomb = bytes(PACKERS[packer].encode(bytes(BOMB)))
    if summed:
        import google_crc32c

        bomb += google_crc32c.value(bomb).to_bytes(4, "little")
    (path / array.metadata.encode_chunk_key((1, 0))).write_bytes(bomb)
    source = open_source(path)
    tracemalloc.start()
    for read in (lambda: whole(source), lambda: source.glance(Box.whole((128, 64)), 3)):
        with pytest.raises(SourceError, match=rf"a\.zarr: .* says that it becomes {BOMB} bytes, and a chunk has 4096"):
            read()
    assert tracemalloc.get_traced_memory()[1] < 1 << 23
    tracemalloc.stop()
    np.testing.assert_array_equal(source.read(Box((0, 0), (64, 64)))[0], image[:64])
