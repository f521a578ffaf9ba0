"""A picture in a tile that says it is larger than the tile is refused before it is decoded."""

from __future__ import annotations

import io
import struct
import tracemalloc

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.errors import SourceError
from pipeline.grid import Box
from pipeline.sources import open_source
from pipeline.sources.codestreams import extent
from tests.sources.files import whole

imagecodecs = pytest.importorskip("imagecodecs", reason="needs imagecodecs: the extra `slides`")


@given(rows=st.integers(1, 70), columns=st.integers(1, 70), way=st.sampled_from(["jpeg", "progressive", "exif", "j2k", "jp2"]))
def test_sizes_are_those_that_decoders_find(rows, columns, way):
    """Of pictures written by Pillow and by OpenJPEG."""
    image = np.zeros((rows, columns, 3), np.uint8)
    if way in ("j2k", "jp2"):
        data = imagecodecs.jpeg2k_encode(image, codecformat=way)
    else:
        file = io.BytesIO()
        more = {"exif": b"Exif\0\0" + bytes(300)} if way == "exif" else {"progressive": way == "progressive"}
        Image.fromarray(image).save(file, "jpeg", **more)
        data = file.getvalue()
    assert extent(data) == (rows, columns)
    assert extent(data[: len(data) // 8]) in (None, (rows, columns))


@given(st.binary(max_size=200), st.sampled_from([b"", b"\xff\xd8", b"\xff\xd8\xff\xff", b"\xff\x4f\xff\x51"]))
def test_anything_else_has_no_size(data, head):
    """Any bytes are looked through to their end, and no further."""
    found = extent(head + data)
    assert found is None or len(found) == 2


def lie(data: bytearray, kind: str, at: int, length: int) -> None:
    """Make a tile say that it is 60,000 pixels on each side."""
    tile = bytes(data[at : at + length])
    if kind == "jpeg":
        frame = next(k for k in range(length - 1) if tile[k] == 0xFF and tile[k + 1] in (0xC0, 0xC1, 0xC2))
        data[at + frame + 5 : at + frame + 9] = struct.pack(">HH", 60_000, 60_000)
    else:
        size = tile.index(b"\xff\x51")
        for first in (6, 22):
            data[at + size + first : at + size + first + 8] = struct.pack(">II", 60_000, 60_000)


@pytest.mark.parametrize("kind", ["jpeg", "jpeg2000"])
@pytest.mark.parametrize("tiled", [True, False], ids=["tiles", "strips"])
def test_a_bomb_in_a_tile(tmp_path, kind, tiled):
    """A tile or a strip that says it is of ten gigabytes is an error that names the file, for the price of a tile; others are read."""
    path, image = tmp_path / "a.ome.tif", np.random.default_rng(0).integers(0, 255, (256, 256, 3)).astype(np.uint8)
    cut = {"tile": (64, 64)} if tiled else {"rowsperstrip": 64}
    tifffile.imwrite(path, image, photometric="rgb", compression=kind, **cut)
    sound = whole(open_source(path))
    np.testing.assert_array_equal(sound, np.moveaxis(tifffile.imread(path), -1, 0))
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        at, length = page.dataoffsets[-1], page.databytecounts[-1]
    data = bytearray(path.read_bytes())
    lie(data, kind, at, length)
    path.write_bytes(data)
    source = open_source(path)
    tracemalloc.start()
    with pytest.raises(SourceError, match=r"a\.ome\.tif: .* holds a picture that says it is 60000 x 60000"):
        whole(source)
    assert tracemalloc.get_traced_memory()[1] < 1 << 24
    tracemalloc.stop()
    np.testing.assert_array_equal(source.read(Box((0, 0), (64, 64))), sound[:, :64, :64])
