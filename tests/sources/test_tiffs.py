"""Stacks, OME-TIFF, SVS and pyramids: what is read is what tifffile reads whole."""

from __future__ import annotations

import builtins
import pickle
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.windows import Window

from pipeline import local, segment
from pipeline.errors import JobError, SourceError, TilewiseError
from pipeline.image.grid import Box
from pipeline.sources import Source, open_source, where_measured
from tests.sources.files import declared, under_a_limit, whole
from tests.sources.test_limits import LIES, mutations

codecs = pytest.mark.skipif(
    not __import__("importlib.util").util.find_spec("imagecodecs"),
    reason="needs imagecodecs: the extra slides",
)
DRAW = np.random.default_rng(0)


def smooth(shape: tuple[int, ...]) -> np.ndarray:
    """Something that lossy codecs keep nearly."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return np.stack([(rows + columns * (k + 1)) % 200 for k in range(shape[2])], axis=-1).astype(
        np.uint8
    )


def pyramid(path: Path, levels: list[np.ndarray], **options: object) -> Path:
    """An OME-TIFF whose levels lie in SubIFDs."""
    with tifffile.TiffWriter(path, ome=True) as file:
        about = {"axes": "YXS", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.5}
        file.write(
            levels[0],
            subifds=len(levels) - 1,
            metadata=about,
            tile=(64, 64),
            photometric="rgb",
            **options,
        )
        for level in levels[1:]:
            file.write(level, subfiletype=1, tile=(64, 64), photometric="rgb", **options)
    return path


@pytest.fixture
def slide(tmp_path) -> tuple[Path, list[np.ndarray]]:
    """A pyramid of three levels, the lower ones odd in size."""
    fine = DRAW.integers(0, 255, (301, 405, 3), np.uint8)
    levels = [fine, fine[:300:2, :404:2], fine[:300:4, :404:4]]
    return pyramid(tmp_path / "a.ome.tif", levels), levels


def test_levels(slide):
    """Each level of a pyramid is read as tifffile reads it, with its own size of a pixel; a level
    that is not there is refused.
    """
    path, levels = slide
    for k, pixels in enumerate(levels):
        source = open_source(path, level=k)
        np.testing.assert_array_equal(whole(source), np.moveaxis(pixels, -1, 0))
        np.testing.assert_allclose(
            source.frame.pixel_size, (0.5 * 301 / pixels.shape[0], 0.25 * 405 / pixels.shape[1])
        )
        assert (source.frame.unit, source.frame.chunks, source.frame.crs) == (
            "micrometer",
            (64, 64),
            None,
        )
    with pytest.raises(JobError, match=r"level: 3; image 0 of .*a\.ome\.tif has levels 0 to 2"):
        open_source(path, level=3)
    with pytest.raises(JobError, match=r"series: 1; .*a\.ome\.tif has images 0 to 0"):
        open_source(path, series=1)


@settings(max_examples=40)
@given(data=st.data())
def test_any_box(data, tmp_path_factory):
    """Any box of some channels, and any glance at it, is that part of the whole, to the nearest
    pixel of a level.
    """
    rows, columns = np.mgrid[:170, :230]
    fine = np.stack([rows, columns, rows // 2], axis=-1).astype(np.uint8)
    path = tmp_path_factory.getbasetemp() / "boxes.ome.tif"
    if not path.exists():
        pyramid(path, [fine, fine[::2, ::2], fine[::4, ::4]])
    bands = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    start = tuple(data.draw(st.integers(0, n - 1)) for n in (170, 230))
    stop = tuple(data.draw(st.integers(a + 1, n)) for a, n in zip(start, (170, 230), strict=True))
    source, box, step = (
        open_source(path, bands=bands),
        Box(start, stop),
        data.draw(st.integers(1, 20)),
    )
    expected = np.moveaxis(fine, -1, 0)[[band - 1 for band in bands]][(slice(None), *box.slices)]
    np.testing.assert_array_equal(source.read(box), expected)
    seen = source.glance(box, step)
    assert seen.shape == expected[:, ::step, ::step].shape
    assert (
        np.abs(seen.astype(int) - expected[:, ::step, ::step]).max() <= 4
    )  # a pixel of the coarsest level


@codecs
@pytest.mark.parametrize("codec", ["jpeg", "jpeg2000", "lzw", "zstd", "webp", "jpegxl"])
def test_codecs(codec, tmp_path):
    """Tiles in the codecs of scanners are decoded as tifffile decodes the whole."""
    pixels = smooth((200, 300, 3))
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, pixels, tile=(64, 64), photometric="rgb", compression=codec, ome=True)
    np.testing.assert_array_equal(
        whole(open_source(path)), np.moveaxis(tifffile.imread(path), -1, 0)
    )
    assert np.abs(whole(open_source(path)).astype(int) - np.moveaxis(pixels, -1, 0)).mean() < 8


@codecs
def test_real_slide(shared):
    """A real SVS: its JPEG tiles, its microns per pixel, and its other images, as tifffile reads
    them.
    """
    path = shared / "wsi" / "cmu-1-small-region.svs"
    source = open_source(path)
    expected = tifffile.imread(path)
    box = Box((100, 200), (1500, 1600))
    np.testing.assert_array_equal(
        source.read(box), np.moveaxis(expected, -1, 0)[(slice(None), *box.slices)]
    )
    with tifffile.TiffFile(path) as file:
        assert "MPP = 0.4990" in file.pages[0].description
        assert open_source(path, series=1).frame.shape == file.series[1].shape[:2]
    assert (source.frame.shape, source.frame.pixel_size, source.frame.unit) == (
        (2967, 2220),
        (0.499, 0.499),
        "micrometer",
    )


@codecs
def test_real_stack(shared):
    """A real stack of a .tif is read as a volume, plane by plane as tifffile reads it; its first
    page alone is a geotiff's.
    """
    path = shared / "volume-3d" / "stardist_img3d.tif"
    expected = tifffile.imread(path)
    np.testing.assert_array_equal(whole(open_source(path))[0], expected)
    np.testing.assert_array_equal(whole(open_source(path, planes=7))[0], expected[7])
    np.testing.assert_array_equal(
        open_source(path).glance(Box((2, 3, 4), (20, 50, 51)), 3)[0],
        expected[2:20:3, 3:50:3, 4:51:3],
    )
    np.testing.assert_array_equal(whole(open_source(path, kind="geotiff"))[0], expected[0])
    channels = shared / "nuclei-fluo" / "instanseg_Fluorescence_example.tif"
    np.testing.assert_array_equal(whole(open_source(channels)), tifffile.imread(channels))


@pytest.mark.parametrize(
    ("axes", "shape", "options", "expected"),
    [
        ("YX", (30, 40), {}, lambda p: p[None]),
        ("ZYX", (4, 30, 40), {}, lambda p: p[None]),
        ("CYX", (4, 30, 40), {}, lambda p: p),
        ("TCZYX", (2, 3, 4, 30, 40), {"time": 1}, lambda p: p[1]),
        (
            "TCZYX",
            (2, 3, 4, 30, 40),
            {"time": 0, "planes": 2, "channels": [3, 1]},
            lambda p: p[0, [2, 0], 2],
        ),
        ("ZCYX", (4, 2, 30, 40), {"bands": ["b"]}, lambda p: p[:, 1][None]),
        ("ZYX", (4, 30, 40), {"axes": "cyx"}, lambda p: p),
    ],
)
def test_axes(axes, shape, options, expected, tmp_path):
    """Planes, times and channels of an OME-TIFF lie where its metadata say, and channels have their
    names.
    """
    pixels = DRAW.integers(0, 60000, shape).astype(np.uint16)
    channels = {"Channel": {"Name": list("abcd")[: shape[axes.index("C")]]}} if "C" in axes else {}
    tifffile.imwrite(
        tmp_path / "a.ome.tif",
        pixels,
        metadata={"axes": axes, **channels},
        photometric="minisblack",
    )
    source = open_source(tmp_path / "a.ome.tif", **options)
    np.testing.assert_array_equal(whole(source), expected(pixels))
    if channels and not options.get("bands"):
        assert set(source.frame.bands) <= set("abcd")


@codecs
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize(("nodata", "kind"), [(None, "uint8"), (7, "int16"), (np.nan, "float32")])
def test_tiles_without_bytes(nodata, kind, tmp_path):
    """Tiles that a sparse file leaves out hold its nodata, or zeros, as GDAL has it, and were not
    measured unless they shall count.
    """
    path = tmp_path / "a.tif"
    how = {
        "count": 1,
        "height": 128,
        "width": 128,
        "dtype": kind,
        "tiled": True,
        "blockxsize": 64,
        "blockysize": 64,
        "compress": "deflate",
    }
    with rasterio.open(path, "w", driver="GTiff", SPARSE_OK=True, nodata=nodata, **how) as file:
        file.write(np.full((1, 64, 64), 5, kind), window=Window(0, 64, 64, 64))
    with rasterio.open(path) as file:
        known, valid = file.read(), file.read_masks(1) > 0
    source, box = open_source(path, kind="tiff"), Box.whole((128, 128))
    np.testing.assert_array_equal(source.read(box), known)
    found = where_measured(source, box, source.read(box))[0]
    assert (found.sum(), found[64:, :64].all()) == (64 * 64, True)
    filled = open_source(path, kind="tiff", missing_chunks="fill")
    np.testing.assert_array_equal(where_measured(filled, box, filled.read(box))[0], valid)
    with pytest.raises(
        SourceError,
        match=r"a\.tif: a block in .* was never written; missing_chunks: nodata or fill accepts "
        r"that",
    ):
        open_source(path, kind="tiff", missing_chunks="error").read(box)
    with pytest.raises(JobError, match=r"missing_chunks: 'black'; allowed: error, fill, nodata"):
        open_source(path, kind="tiff", missing_chunks="black")


def test_sizes(tmp_path):
    """Microns per pixel come from OME's sizes in any unit, from ImageJ's, and from a resolution in
    centimetres, never from inches.
    """
    volume, flat = np.zeros((4, 20, 30), np.uint16), np.zeros((20, 30), np.uint8)
    sizes = {
        "PhysicalSizeX": 250.0,
        "PhysicalSizeXUnit": "nm",
        "PhysicalSizeY": 0.0005,
        "PhysicalSizeYUnit": "mm",
        "PhysicalSizeZ": 2.0,
    }
    tifffile.imwrite(tmp_path / "a.ome.tif", volume, metadata={"axes": "ZYX", **sizes})
    assert open_source(tmp_path / "a.ome.tif").frame.pixel_size == pytest.approx((2.0, 0.5, 0.25))
    tifffile.imwrite(
        tmp_path / "b.tif",
        volume,
        imagej=True,
        resolution=(4, 2),
        metadata={"spacing": 3.0, "unit": "um", "axes": "ZYX"},
    )
    assert open_source(tmp_path / "b.tif").frame.pixel_size == pytest.approx((3.0, 0.5, 0.25))
    tifffile.imwrite(
        tmp_path / "c.tif", flat, resolution=(20000, 10000), resolutionunit="CENTIMETER"
    )
    assert open_source(tmp_path / "c.tif", kind="tiff").frame.pixel_size == pytest.approx(
        (1.0, 0.5)
    )
    tifffile.imwrite(tmp_path / "d.tif", flat, resolution=(300, 300), resolutionunit="INCH")
    assert open_source(tmp_path / "d.tif", kind="tiff").frame.unit == "pixel"


def test_threads_and_processes(slide):
    """Many threads read one file right; a source is a few bytes when pickled, and reads the same in
    another process.
    """
    path, levels = slide
    source = open_source(path)
    boxes = [Box((r, c), (r + 60, c + 70)) for r in range(0, 240, 40) for c in range(0, 330, 40)]
    with ThreadPoolExecutor(8) as pool:
        for box, block in zip(boxes, pool.map(source.read, boxes), strict=True):
            np.testing.assert_array_equal(
                block, np.moveaxis(levels[0], -1, 0)[(slice(None), *box.slices)]
            )
    assert len(pickle.dumps(source)) < 5000
    code = (
        "import pickle, sys; source, box = pickle.loads(bytes.fromhex(sys.argv[1])); "
        "print(source.read(box).tolist())"
    )
    sent = pickle.dumps((source, Box((3, 4), (9, 8)))).hex()
    done = subprocess.run(
        [sys.executable, "-c", code, sent], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(np.moveaxis(levels[0], -1, 0)[:, 3:9, 4:8].tolist())


def test_rewritten_file_is_read_anew(tmp_path):
    """A file that is written anew is never read from what is kept of the one before, and its
    fingerprint is another.
    """
    seen = []
    for value in (3, 4):
        tifffile.imwrite(tmp_path / "a.ome.tif", np.full((20, 20), value, np.uint8))
        source = open_source(tmp_path / "a.ome.tif")
        assert (whole(source) == value).all()
        seen.append(source.fingerprint())
    assert seen[0] != seen[1]


def test_segmenting_a_level(slide, tmp_path):
    """A run on a level gives the labels of that level's pixels as an array."""
    path, levels = slide
    made = []
    for image in (
        {"path": path, "level": 1, "bands": [1]},
        np.ascontiguousarray(levels[1][..., 0]),
    ):
        out = tmp_path / f"out{len(made)}"
        segment(image, {"kind": "threshold", "value": 150}, out, tile=64, engine=local())
        made.append(whole(open_source(out / "labels.zarr")))
    np.testing.assert_array_equal(made[0], made[1])


def test_without_imagecodecs(tmp_path, monkeypatch):
    """Without imagecodecs a compressed file is refused with the command that installs it, unless
    GDAL reads it whole.
    """
    plain, real = np.arange(4096, dtype=np.uint8).reshape(64, 64), builtins.__import__

    def absent(name, *args, **kwargs):
        if name.split(".")[0] == "imagecodecs":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    tifffile.imwrite(tmp_path / "a.ome.tif", plain)
    path = declared(
        tmp_path / "b.ome.tif",
        {256: 8, 257: 8, 258: 8, 259: 5, 262: 1, 273: 8, 277: 1, 278: 8, 279: 64},
    )
    for name, axes in (("one.tif", "YX"), ("two.tif", "ZYX")):
        tifffile.imwrite(
            tmp_path / name,
            plain if axes == "YX" else np.stack([plain, plain]),
            ome=True,
            compression="zlib",
        )
    monkeypatch.setattr(builtins, "__import__", absent)
    np.testing.assert_array_equal(
        whole(open_source(tmp_path / "one.tif"))[0], plain
    )  # GDAL has the codec, and sees all of it
    with pytest.raises(
        JobError, match=r"two\.tif is compressed with ADOBE_DEFLATE, which needs imagecodecs"
    ):
        open_source(tmp_path / "two.tif")
    np.testing.assert_array_equal(whole(open_source(tmp_path / "a.ome.tif"))[0], plain)
    with pytest.raises(
        JobError,
        match=r"b\.ome\.tif is compressed with LZW, which needs imagecodecs: pip install "
        r"'tilewise\[slides\]'",
    ):
        open_source(path)


def test_companion_outside(tmp_path):
    """An OME-TIFF whose metadata name a file outside its folder, or one that is not there, is
    refused before that is opened.
    """
    path = tmp_path / "folder" / "a.ome.tif"
    path.parent.mkdir()
    for name in ("../outside.ome.tif", "missing.ome.tif", "http://127.0.0.1:9/a.ome.tif"):
        xml = (
            '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image '
            'ID="Image:0"><Pixels ID="Pixels:0" '
            'DimensionOrder="XYZCT" Type="uint8" SizeX="8" SizeY="8" SizeZ="2" SizeC="1" '
            'SizeT="1"><TiffData IFD="0" FirstZ="1">'
            f'<UUID FileName="{name}">urn:uuid:0</UUID></TiffData></Pixels></Image></OME>'
        )
        tifffile.imwrite(path, np.zeros((8, 8), np.uint8), description=xml, metadata=None)
        with pytest.raises(
            SourceError, match=r"a\.ome\.tif refers to .*(outside|no such file|not local)"
        ):
            open_source(path)


@pytest.mark.parametrize("name", LIES)
def test_lying_tiff(name, tmp_path):
    """What a TIFF declares and cannot hold is refused by name."""
    path = declared(tmp_path / "a.ome.tif", LIES[name][0])
    with pytest.raises(SourceError, match=r"a\.ome\.tif"):
        whole(open_source(path))


def test_truncated(slide):
    """Pixels that are cut off are an error that names the file, and not zeros."""
    path, _ = slide
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 3])
    with pytest.raises(SourceError, match=r"a\.ome\.tif"):
        whole(open_source(path))


@codecs
def test_a_damaged_block_is_all_that_is_said(tmp_path):
    """A process that ends after a block that cannot be decoded says one error, and nothing of
    others that were asked for with it.
    """
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(
        path, np.zeros((512, 512), np.uint8), tile=(16, 16), compression="zlib", ome=True
    )
    with tifffile.TiffFile(path) as file:
        where = file.pages[0].dataoffsets[3]
    data = bytearray(path.read_bytes())
    data[where : where + 8] = b"\xff" * 8
    path.write_bytes(data)
    code = (
        "import sys; from pipeline.sources import open_source; from pipeline.image.grid "
        "import Box; source = open_source(sys.argv[1])"
    )
    code += "; source.read(Box((0, 0), (512, 512)))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False
    )
    assert "SourceError" in done.stderr
    assert "Task was destroyed" not in done.stderr


@codecs
def test_decompression_bomb(tmp_path):
    """A tile that holds a thousand times what it declares is an error, and takes no more memory
    than is declared.
    """
    tile, bomb = zlib.compress(bytes(64 * 64)), zlib.compress(bytes(1 << 28), 9)
    places = {324: (400, 400 + len(tile)), 325: (len(tile), len(bomb))}
    path = declared(
        tmp_path / "a.ome.tif",
        {256: 128, 257: 64, 258: 8, 259: 8, 262: 1, 277: 1, 322: 64, 323: 64, **places},
    )
    path.write_bytes(path.read_bytes().ljust(400, b"\0") + tile + bomb)
    for error in under_a_limit([str(path)], Box((0, 0), (64, 64)), 1 << 26)[str(path)]:
        assert "a.ome.tif" in error
        assert "MemoryError" not in error


@pytest.mark.parametrize(
    "kind",
    [
        "pyramid",
        pytest.param("deflate stack", marks=codecs),
        pytest.param("jpeg", marks=codecs),
        pytest.param("jpeg2000", marks=codecs),
    ],
)
def test_mutated_files(kind, tmp_path):
    """A damaged file gives pixels or an error that names it; nothing else is raised."""
    path, fine = tmp_path / "a.ome.tif", smooth((130, 150, 3))
    if kind == "deflate stack":
        tifffile.imwrite(
            path,
            np.moveaxis(fine, -1, 0),
            compression="zlib",
            metadata={"axes": "ZYX"},
            tile=(64, 64),
        )
    else:
        pyramid(
            path, [fine, fine[::2, ::2]], **({} if kind == "pyramid" else {"compression": kind})
        )
    data, messages = path.read_bytes(), []
    for changed in mutations(data, 60):
        path.write_bytes(changed)
        try:
            source: Source = open_source(path)
            whole(source)
            source.glance(Box.whole(source.frame.shape), 3)
            source.fingerprint()
        except TilewiseError as error:
            messages.append(str(error))
    assert len(messages) > 10
    assert [
        message for message in messages if "a.ome.tif" not in message and "axes" not in message
    ] == []


def test_malformed_real_files(shared):
    """Broken files of a collection give pixels or an error that names them."""
    for path in sorted((shared / "malformed").iterdir()):
        if path.name == "tiff_wrong_bits_per_sample.tiff":
            continue
        with pytest.raises(TilewiseError, match=path.stem[:20]):
            whole(open_source(path, kind="tiff"))
