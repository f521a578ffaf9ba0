"""A picture in a tile that says it is larger than the tile is refused before it is decoded."""

from __future__ import annotations

import functools
import io
import re
import struct

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.image.grid import Box
from pipeline.sources import open_source
from pipeline.sources.bounded_pictures import extent
from tests.sources.files import declared, under_a_limit, whole

imagecodecs = pytest.importorskip("imagecodecs", reason="needs imagecodecs: the extra `slides`")


WAYS = {
    "j2k": functools.partial(imagecodecs.jpeg2k_encode, codecformat="j2k"),
    "jp2": functools.partial(imagecodecs.jpeg2k_encode, codecformat="jp2"),
    "jpeg xl": functools.partial(imagecodecs.jpegxl_encode, effort=1),
    "jpeg xl in boxes": functools.partial(imagecodecs.jpegxl_encode, effort=1, usecontainer=True),
    "jpeg xr": imagecodecs.jpegxr_encode,
    "png": imagecodecs.png_encode,
    "lerc": lambda image: imagecodecs.lerc_encode(image[..., 0]),
    "webp": imagecodecs.webp_encode,
    "lossy webp": functools.partial(imagecodecs.webp_encode, lossless=False, level=50),
    "webp with alpha": lambda image: imagecodecs.webp_encode(
        np.dstack([image, image[..., :1]]), lossless=False, level=50
    ),
}


@given(
    rows=st.integers(1, 70),
    columns=st.integers(1, 70),
    way=st.sampled_from(["jpeg", "progressive", "exif", *WAYS]),
)
def test_sizes_are_those_that_decoders_find(rows, columns, way):
    """Of pictures written by Pillow and by the libraries of each format."""
    image = np.random.default_rng(rows).integers(0, 255, (rows, columns, 3)).astype(np.uint8)
    if way in WAYS:
        data = bytes(WAYS[way](image))
    else:
        file = io.BytesIO()
        more = (
            {"exif": b"Exif\0\0" + bytes(300)}
            if way == "exif"
            else {"progressive": way == "progressive"}
        )
        Image.fromarray(image).save(file, "jpeg", **more)
        data = file.getvalue()
    assert extent(data) == (rows, columns)
    if way not in ("png", "lerc") and "webp" not in way:  # whose decoders refuse what ends early
        assert extent(data[: len(data) // 8]) in (None, (rows, columns))


@given(
    st.binary(max_size=200),
    st.sampled_from(
        [
            b"",
            b"\xff\xd8",
            b"\xff\xd8\xff\xff",
            b"\xff\x4f\xff\x51",
            b"RIFF1234WEBP",
            b"Lerc2 ",
            b"\xff\x0a",
            b"1234JXL ",
            b"II\xbc1WMPHOTO\0",
        ]
    ),
)
def test_anything_else_has_no_size(data, head):
    """Any bytes are looked through to their end, and no further."""
    found = extent(head + data)
    assert found is None or len(found) == 2


def lie(data: bytearray, kind: str, at: int, length: int) -> None:
    """Make a tile say that it is 60,000 pixels on each side."""
    tile = bytes(data[at : at + length])
    if kind == "jpeg":
        frame = next(
            k for k in range(length - 1) if tile[k] == 0xFF and tile[k + 1] in (0xC0, 0xC1, 0xC2)
        )
        data[at + frame + 5 : at + frame + 9] = struct.pack(">HH", 60_000, 60_000)
    else:
        size = tile.index(b"\xff\x51")
        for first in (6, 22):
            data[at + size + first : at + size + first + 8] = struct.pack(">II", 60_000, 60_000)


@pytest.mark.parametrize("compression", [None, "packbits"])
@pytest.mark.parametrize(
    "head",
    [
        b"\xff\x4f\xff\x51",
        b"\xff\xd8\xff\xc0",
        b"\xff\x0a",
        b"II\xbcWMPHOTO\0",
        b"1234jP  \xff\x4f\xff\x51",
    ],
)
def test_numbers_that_look_like_a_picture(tmp_path, compression, head):
    """A tile of anything else may hold the bytes that a picture begins with, and they are numbers
    like others.
    """
    path, image = (
        tmp_path / "a.ome.tif",
        np.random.default_rng(0).integers(1, 255, (64, 64)).astype(np.uint8),
    )
    image.flat[: len(head)] = np.frombuffer(head, np.uint8)
    tifffile.imwrite(path, image, tile=(64, 64), compression=compression)
    np.testing.assert_array_equal(whole(open_source(path))[0], image)


@pytest.mark.parametrize("kind", ["jpeg", "jpeg2000"])
@pytest.mark.parametrize("tiled", [True, False], ids=["tiles", "strips"])
def test_a_bomb_in_a_tile(tmp_path, kind, tiled):
    """A tile or a strip that says it is of ten gigabytes is an error that names the file, for the
    price of a tile; others are read.
    """
    path, image = (
        tmp_path / "a.ome.tif",
        np.random.default_rng(0).integers(0, 255, (256, 256, 3)).astype(np.uint8),
    )
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
    for error in under_a_limit([str(path)], Box((0, 0), (64, 64)), 1 << 27)[str(path)]:
        assert re.search(r"a\.ome\.tif: .* holds a picture that says it is 60000 x 60000", error)
    np.testing.assert_array_equal(open_source(path).read(Box((0, 0), (64, 64))), sound[:, :64, :64])


@pytest.mark.parametrize(
    ("code", "encode"),
    [
        (50002, imagecodecs.jpegxl_encode),
        (34934, imagecodecs.jpegxr_encode),
        (34933, imagecodecs.png_encode),
        (34887, imagecodecs.lerc_encode),
        (50001, lambda n: imagecodecs.webp_encode(np.dstack([n, n, n]))),
    ],
    ids=["jpeg xl", "jpeg xr", "png", "lerc", "webp"],
)
def test_a_larger_picture_in_a_tile(tmp_path, code, encode):
    """A tile of 64 x 64 pixels that holds a sound picture of 8,192 x 8,192 is an error that says
    so, before that is decoded.
    """
    tile, bomb = (bytes(encode(np.zeros((size, size), np.uint8))) for size in (64, 8192))
    places = {324: (400, 400 + len(tile)), 325: (len(tile), len(bomb))}
    colours = {258: (8, 8, 8), 262: 2, 277: 3} if code == 50001 else {258: 8, 262: 1, 277: 1}
    path = declared(
        tmp_path / "a.ome.tif",
        {256: 128, 257: 64, 259: code, 322: 64, 323: 64, **colours, **places},
    )
    path.write_bytes(path.read_bytes().ljust(400, b"\0") + tile + bomb)
    for error in under_a_limit([str(path)], Box((0, 0), (64, 64)), 1 << 25)[str(path)]:
        assert "a tile of 64 x 64 pixels holds a picture that says it is 8192 x 8192" in error
