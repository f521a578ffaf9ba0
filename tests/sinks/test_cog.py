"""Labels as GeoTIFF, held against rasterio, rio-cogeo and numpy's slices."""

import re
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import rasterio
from rasterio.crs import CRS
from rio_cogeo import cog_validate
from scipy import ndimage

from pipeline.errors import JobError, OutputError, ScratchError
from pipeline.image.frame import Frame
from pipeline.image.grid import Box
from pipeline.sinks import cog
from pipeline.sinks.cog import write_cog

UTM = CRS.from_epsg(32633).to_wkt()
NORTH_UP = (10.0, 0.0, 500_000.0, 0.0, -10.0, 4_000_000.0)
ROTATED = (8.0, 6.0, 500_000.0, 6.0, -8.0, 4_000_000.0)
SHAPE = (1536, 2560)

# rasterio warns whenever a dataset that lies nowhere is opened, here by the tests.
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def blobs(shape, dtype):
    """Labels with ids up to the type's largest."""
    noise = ndimage.gaussian_filter(np.random.default_rng(0).random(shape), 6)
    labels = ndimage.label(noise > 0.5)[0].astype(dtype)
    labels[labels > 0] += np.iinfo(dtype).max - labels.max()
    return labels


def measured(shape):
    return ndimage.gaussian_filter(np.random.default_rng(1).random(shape), 20) > 0.498


def reader(array):
    return lambda box: array[box.slices]


def levels(path):
    """Labels and mask of the file at full resolution and of each overview."""
    with rasterio.open(path) as file:
        yield file.read(1), file.read_masks(1) > 0
        number = len(file.overviews(1))
    for level in range(number):
        with rasterio.open(path, overview_level=level) as file:
            yield file.read(1), file.read_masks(1) > 0


@pytest.mark.parametrize("dtype", ["uint32", "uint64"])
@pytest.mark.parametrize("masked", [True, False], ids=["masked", "all valid"])
@pytest.mark.parametrize(
    "place",
    [(NORTH_UP, UTM), (ROTATED, UTM), (NORTH_UP, None), (None, None)],
    ids=["utm", "rotated", "no CRS", "nowhere"],
)
def test_rasterio_reads_what_was_written(tmp_path, dtype, masked, place):
    """rio-cogeo finds a valid file, whose labels, mask, place and CRS are those given and whose
    overviews hold each second pixel.
    """
    labels, valid = blobs(SHAPE, dtype), measured(SHAPE) if masked else np.ones(SHAPE, bool)
    frame = Frame(SHAPE, transform=place[0], crs=place[1])
    path = tmp_path / "labels.tif"
    write_cog(str(path), frame, dtype, reader(labels), reader(valid) if masked else None)
    assert cog_validate(path, strict=True) == (True, [], [])
    found = list(levels(path))
    assert len(found) == 4
    for level, (ids, mask) in enumerate(found):
        assert ids.dtype == dtype
        assert np.array_equal(ids, labels[:: 2**level, :: 2**level])
        assert np.array_equal(mask, valid[:: 2**level, :: 2**level])
    with rasterio.open(path) as file:
        assert (file.transform, file.crs) == (
            rasterio.Affine(*place[0]) if place[0] else rasterio.Affine.identity(),
            place[1] and CRS.from_wkt(UTM),
        )
        assert file.nodata is None
        assert file.block_shapes == [(512, 512)]
    assert list(tmp_path.iterdir()) == [path]


def test_background_is_valid(tmp_path):
    """A pixel of no object is 0 and valid; one that was not measured is 0 and masked."""
    valid = np.zeros((600, 600), bool)
    valid[:, :300] = True
    write_cog(
        str(tmp_path / "p.tif"),
        Frame((600, 600)),
        "uint32",
        reader(np.zeros((600, 600), np.uint32)),
        reader(valid),
    )
    with rasterio.open(tmp_path / "p.tif") as file:
        read = file.read(1, masked=True)
    assert (read.data == 0).all()
    assert np.array_equal(~read.mask, valid)


@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 1500), (1500, 1), (2100, 3), (513, 511), (701, 1203)], ids=str
)
def test_odd_sizes_are_written_whole(tmp_path, shape):
    """Any size comes back; where GDAL has to choose a pixel, its overviews hold ids that are there,
    within a pixel, and no mixture.
    """
    labels = np.random.default_rng(0).integers(1, 2**32, shape, np.uint32)
    write_cog(
        str(tmp_path / "p.tif"),
        Frame(shape),
        "uint32",
        reader(labels),
        reader(np.ones(shape, bool)),
    )
    assert cog_validate(tmp_path / "p.tif")[:2] == (True, [])
    (whole, _), *lower = levels(tmp_path / "p.tif")
    assert np.array_equal(whole, labels)
    for level, (ids, mask) in enumerate(lower, 1):
        assert mask.all()
        near = np.pad(labels, 2**level, "edge")
        size = 2 * 2**level + 1
        for (row, column), value in np.ndenumerate(ids[::17, ::17]):
            top, left = (
                17 * at * n // m for at, n, m in zip((row, column), shape, ids.shape, strict=True)
            )
            assert value in near[top : top + size, left : left + size]


def test_memory_is_bounded_by_a_window(tmp_path):
    """The labels are asked for once, in raster order, in boxes of at most 2048 × 2048."""
    shape, asked = (2100, 4200), []

    def read(box):
        asked.append(box)
        return np.zeros(box.shape, np.uint32)

    write_cog(str(tmp_path / "p.tif"), Frame(shape), "uint32", read)
    assert asked == sorted(asked)
    assert sum(box.size for box in asked) == shape[0] * shape[1]
    assert max(max(box.shape) for box in asked) <= 2048


@pytest.mark.parametrize(
    ("frame", "dtype", "reason"),
    [
        pytest.param(Frame((2, 30, 30)), "uint32", "2 axes", id="3-D"),
        pytest.param(Frame((30, 30)), "int32", "uint32, uint64", id="signed"),
        pytest.param(Frame((30, 30)), "float32", "uint8, uint16, uint32, uint64", id="floats"),
    ],
)
def test_what_no_label_geotiff_can_be_is_refused(tmp_path, frame, dtype, reason):
    """3-D images and other types are refused before anything is read or written."""
    with pytest.raises(JobError, match=reason):
        write_cog(str(tmp_path / "p.tif"), frame, dtype, lambda box: pytest.fail(f"{box} was read"))
    assert not list(tmp_path.iterdir())


def raising(box):
    raise ScratchError(f"{box} is gone")


@pytest.mark.parametrize(
    ("labels", "valid", "error", "reason"),
    [
        pytest.param(raising, None, ScratchError, "is gone", id="labels cannot be read"),
        pytest.param(
            lambda box: np.ones(box.shape, np.uint32),
            raising,
            ScratchError,
            "is gone",
            id="mask cannot be read",
        ),
        pytest.param(
            lambda box: np.ones(box.shape, np.uint64),
            None,
            ValueError,
            "allowed: uint32",
            id="ids may not fit",
        ),
        pytest.param(
            lambda _: np.ones((3, 3), np.uint32),
            None,
            ValueError,
            r"shape \(600, 600\)",
            id="another shape",
        ),
        pytest.param(
            lambda box: np.ones(box.shape, np.uint32),
            lambda box: np.ones(box.shape, int),
            ValueError,
            "bool",
            id="mask of integers",
        ),
    ],
)
def test_a_failure_leaves_nothing_behind(tmp_path, labels, valid, error, reason):
    """Where a callable fails or returns what does not fit, its error comes out and the folder is as
    before.
    """
    with pytest.raises(error, match=reason):
        write_cog(str(tmp_path / "p.tif"), Frame((600, 600)), "uint32", labels, valid)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files as POSIX does")
@pytest.mark.parametrize(
    ("limit", "reason"),
    [
        pytest.param(1_000_000, "labels cannot be written", id="temporary file"),
        pytest.param(
            4_500_000,
            "not whole|GDAL cannot write",
            id="final file, of which some versions of GDAL say nothing",
        ),
    ],
)
def test_a_full_disk_is_an_error(tmp_path, limit, reason):
    """Where no more can be written, be it early or late, an OutputError says so, and nothing is
    left behind.
    """
    script = f"""
        import resource
        import numpy as np
        from pipeline.errors import OutputError
        from pipeline.image.frame import Frame
        from pipeline.sinks.cog import write_cog

        resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
        labels = np.random.default_rng(0).integers(0, 2**32, (1024, 1024), np.uint32)
        try:
            write_cog({str(tmp_path / "p.tif")!r}, Frame((1024, 1024)), "uint32", lambda box: labels[box.slices])
        except OutputError as error:
            print(error)
    """  # noqa: E501
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False
    )
    assert "is the disk full?" in ended.stdout, ended.stderr
    assert re.search(reason, ended.stdout)
    assert not list(tmp_path.iterdir())


def test_a_tile_that_was_never_written_is_noticed(tmp_path):
    """A file that lacks a tile, which any reader takes for zeros, does not pass for whole."""
    layout = {"tiled": True, "blockxsize": 512, "blockysize": 512, "sparse_ok": True}
    with rasterio.open(
        tmp_path / "p.tif",
        "w",
        driver="GTiff",
        width=700,
        height=700,
        count=1,
        dtype="uint32",
        **layout,
    ) as file:
        file.write(np.ones((512, 700), np.uint32), 1, window=((0, 512), (0, 700)))
    with pytest.raises(OutputError, match=r"the tile \(1, 0\) was not written"):
        cog._verify(tmp_path / "p.tif")


@pytest.mark.parametrize(
    ("shape", "dtype", "expected"),
    [
        pytest.param((24_000, 24_000), "uint32", "NO", id="2.9 GB without overviews"),
        pytest.param((32_768, 32_768), "uint32", "YES", id="4.3 GB without overviews"),
        pytest.param((30_000, 30_000), "uint32", "YES", id="3.6 GB, more with overviews"),
        pytest.param((24_000, 24_000), "uint64", "YES", id="4.6 GB"),
        pytest.param((5_000_000, 1), "uint32", "YES", id="tiles of one column"),
    ],
)
def test_offsets_are_wide_enough(shape, dtype, expected):
    """A file that could pass 4 GB if nothing could be compressed gets 64-bit offsets."""
    if expected == "NO":
        assert shape[0] * shape[1] * np.dtype(dtype).itemsize * 4 / 3 < 2**32
    assert cog._bigtiff(shape, dtype) == expected


@pytest.mark.parametrize(
    ("limit", "magic"), [(cog.CLASSIC, 42), (0, 43)], ids=["classic", "BigTIFF"]
)
def test_the_file_has_the_offsets_decided_on(tmp_path, monkeypatch, limit, magic):
    """The decision reaches the file: TIFF's version is 42, BigTIFF's 43, and both hold
    the labels.
    """
    monkeypatch.setattr(cog, "CLASSIC", limit)
    labels = blobs((600, 700), "uint32")
    write_cog(str(tmp_path / "p.tif"), Frame((600, 700)), "uint32", reader(labels))
    assert (tmp_path / "p.tif").read_bytes()[2] == magic
    assert np.array_equal(next(levels(tmp_path / "p.tif"))[0], labels)


@pytest.mark.filterwarnings("error")
def test_images_that_lie_nowhere_do_not_warn(tmp_path):
    """Writing labels of an image without transform says nothing: there is nothing that the user
    could do.
    """
    write_cog(
        str(tmp_path / "p.tif"),
        Frame((30, 30)),
        "uint32",
        lambda box: np.zeros(box.shape, np.uint32),
    )
    assert (tmp_path / "p.tif").exists()


def test_a_file_is_replaced_whole(tmp_path):
    """A file of an earlier attempt is replaced by the new one, and only when that is complete."""
    path, frame = tmp_path / "p.tif", Frame((30, 30))
    write_cog(str(path), frame, "uint32", lambda box: np.ones(box.shape, np.uint32))
    before = path.read_bytes()
    with pytest.raises(ScratchError, match="is gone"):
        write_cog(str(path), frame, "uint32", raising)
    assert path.read_bytes() == before
    write_cog(str(path), frame, "uint32", lambda box: np.full(box.shape, 2, np.uint32))
    assert (next(levels(path))[0] == 2).all()


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    """A path whose folder does not exist raises OutputError."""
    with pytest.raises(OutputError, match="nowhere"):
        write_cog(
            str(tmp_path / "nowhere" / "p.tif"),
            Frame((30, 30)),
            "uint32",
            lambda box: np.zeros(box.shape, np.uint32),
        )


def test_a_real_scene_keeps_its_place(shared, tmp_path):
    """Labels of a real scene lie where the scene does."""
    with rasterio.open(shared / "aerial" / "solaris_atlanta_pan.tif") as scene:
        frame = Frame(
            scene.shape,
            transform=tuple(scene.transform)[:6],
            crs=scene.crs.to_wkt(),
            nodata=scene.nodata,
        )
        pan, bounds = scene.read(1), scene.bounds
    labels = ndimage.label(pan > np.percentile(pan, 80))[0].astype(np.uint32)
    write_cog(str(tmp_path / "p.tif"), frame, "uint32", reader(labels), reader(pan != frame.nodata))
    with rasterio.open(tmp_path / "p.tif") as file:
        assert (file.bounds, file.crs.to_epsg()) == (bounds, 32616)
        assert np.array_equal(file.read(1), labels)
        assert np.array_equal(file.read_masks(1) > 0, pan != frame.nodata)


def test_boxes_are_read_by_the_pyramids_terms(tmp_path):
    """What a pyramid's read returns is what the file takes."""
    from pipeline.sinks.chunked import Mask
    from pipeline.sinks.pyramid import Pyramid

    labels, frame = blobs((700, 600), "uint64"), Frame((700, 600), transform=NORTH_UP, crs=UTM)
    pyramid, mask = (
        Pyramid(str(tmp_path / "z"), frame, (512, 512), "uint64"),
        Mask(str(tmp_path / "v"), frame.shape, (512, 512)),
    )
    for one, values in ((pyramid, labels), (mask, labels > 0)):
        one.create()
        one.write(Box.whole(frame.shape), values)
    write_cog(str(tmp_path / "p.tif"), frame, "uint64", pyramid.read, mask.read)
    ids, valid = next(levels(tmp_path / "p.tif"))
    assert np.array_equal(ids, labels)
    assert np.array_equal(valid, labels > 0)
