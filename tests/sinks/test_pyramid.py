"""Labels as OME-Zarr, held against numpy's slices, zarr, xarray and ome-zarr-py."""

import itertools
import multiprocessing
import shutil
import tempfile
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from pipeline.errors import JobError, OutputError, ScratchError
from pipeline.image.frame import Frame
from pipeline.image.grid import Box, Grid
from pipeline.sinks.chunked import Mask
from pipeline.sinks.pyramid import ACROSS, LONGEST, Pyramid

NORTH_UP = (10.0, 0.0, 500_000.0, 0.0, -10.0, 4_000_000.0)
ROTATED = (8.0, 6.0, 500_000.0, 6.0, -8.0, 4_000_000.0)


@pytest.fixture(scope="module")
def utm():
    from rasterio.crs import CRS

    return CRS.from_epsg(32633).to_wkt()


def filled(path, frame, chunk, labels):
    """A pyramid with all its levels, made as tasks would: one block at a time, in no order that
    helps.
    """
    pyramid = Pyramid(str(path), frame, chunk, str(labels.dtype))
    pyramid.create()
    for box in reversed(pyramid.blocks(0)):
        pyramid.write(box, labels[box.slices])
    for level in range(1, pyramid.levels):
        for box in reversed(pyramid.blocks(level)):
            pyramid.reduce(level, box)
    return pyramid


def random_labels(shape, dtype="uint32", seed=0):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


@st.composite
def long_images(draw):
    """Images long enough for several levels, and few pixels all the same."""
    thin, long = draw(st.integers(1, 9)), draw(st.integers(1, 2600))
    chunk = (draw(st.integers(1, 12)), draw(st.integers(150, 3000)))
    turned = draw(st.booleans())
    plane, planes = draw(st.sampled_from([((), ()), ((3,), (2,)), ((2,), (5,))]))
    return (*plane, *((long, thin) if turned else (thin, long))), (
        *planes,
        *(chunk[::-1] if turned else chunk),
    )


@given(long_images(), st.sampled_from(["uint32", "uint64"]))
@settings(max_examples=40, deadline=None)
def test_every_level_takes_each_second_pixel(image, dtype):
    """Level k holds every 2^k-th row and column of the labels, whatever the shape and the chunks,
    and never fewer planes.
    """
    shape, chunk = image
    labels = random_labels(shape, dtype)
    with tempfile.TemporaryDirectory() as folder:
        pyramid = filled(folder, Frame(shape), chunk, labels)
        for level in range(pyramid.levels):
            expected = labels[..., :: 2**level, :: 2**level]
            assert pyramid.shape(level) == expected.shape
            assert np.array_equal(pyramid.read(Box.whole(expected.shape), level), expected)
            assert np.array_equal(zarr.open_array(f"{folder}/{level}")[:], expected)


@given(st.tuples(st.integers(1, 10**6), st.integers(1, 10**6)))
def test_the_last_level_is_the_first_that_is_short(shape):
    """Levels are halved until the longer side has at most 512 pixels, and no further."""
    pyramid = Pyramid("nowhere", Frame(shape), (512, 512), "uint32")
    assert max(pyramid.shape(pyramid.levels - 1)) <= LONGEST
    assert pyramid.levels == 1 or max(pyramid.shape(pyramid.levels - 2)) > LONGEST


@given(long_images(), st.data())
def test_blocks_cover_a_level_once_in_whole_chunks(image, data):
    """The blocks of a level are a grid of whole chunks over it, each about 2048 pixels across."""
    shape, chunk = image
    pyramid = Pyramid("nowhere", Frame(shape), chunk, "uint32")
    level = data.draw(st.integers(0, pyramid.levels - 1))
    covered = np.zeros(pyramid.shape(level), int)
    for box in pyramid.blocks(level):
        covered[box.slices] += 1
        assert all(
            a % c == 0 and (b % c == 0 or b == n)
            for a, b, c, n in zip(box.start, box.stop, chunk, covered.shape, strict=True)
        )
        assert all(
            extent <= max(ACROSS, c) for extent, c in zip(box.shape[-2:], chunk[-2:], strict=True)
        )
    assert (covered == 1).all()


@given(long_images())
@settings(max_examples=20, deadline=None)
def test_a_mask_reads_as_it_was_written(image):
    """A mask holds what was written to it, and False where nobody wrote."""
    shape, chunk = image
    valid = np.random.default_rng(0).random(shape) > 0.5
    with tempfile.TemporaryDirectory() as folder:
        mask = Mask(f"{folder}/valid.zarr", shape, chunk)
        mask.create()
        assert not mask.read(Box.whole(shape)).any()
        grid = Grid(shape, chunk)
        for core in map(grid.core, range(len(grid))):
            mask.write(core, valid[core.slices])
        read = mask.read(Box.whole(shape))
        assert read.dtype == bool
        assert np.array_equal(read, valid)


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        pytest.param(Box((0, 0), (64, 32)), "whole chunks", id="ends inside a chunk"),
        pytest.param(Box((0, 10), (64, 64)), "whole chunks", id="begins inside a chunk"),
        pytest.param(Box((64, 0), (90, 64)), "whole chunks", id="ends before the image does"),
        pytest.param(Box((64, 64), (128, 128)), "whole chunks", id="leaves the image"),
        pytest.param(Box((-64, 0), (0, 64)), "whole chunks", id="begins before the image"),
    ],
)
def test_a_box_that_cuts_chunks_is_refused(tmp_path, box, reason):
    """Nothing is written where two tasks would have to share a chunk."""
    pyramid = Pyramid(str(tmp_path / "p"), Frame((100, 100)), (64, 64), "uint32")
    pyramid.create()
    with pytest.raises(ValueError, match=reason):
        pyramid.write(box, np.ones(box.shape, np.uint32))
    assert not pyramid.read(Box.whole((100, 100))).any()


@pytest.mark.parametrize(
    "labels",
    [
        pytest.param(np.ones((64, 36), np.uint64), id="a type whose ids may not fit"),
        pytest.param(np.ones((64, 36), np.int32), id="a signed type"),
        pytest.param(np.ones((64, 36), np.float32), id="floats"),
        pytest.param(np.ones((36, 64), np.uint32), id="rows and columns exchanged"),
        pytest.param(np.ones((1, 1), np.uint32), id="what numpy would stretch"),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path, labels):
    """Labels are neither stretched nor wrapped around to fit."""
    pyramid = Pyramid(str(tmp_path / "p"), Frame((100, 100)), (64, 64), "uint32")
    pyramid.create()
    with pytest.raises(ValueError, match="cannot fill"):
        pyramid.write(Box((0, 64), (64, 100)), labels)


@pytest.mark.parametrize(
    ("dtype", "chunk", "reason"),
    [("int32", (8, 8), "uint32, uint64"), ("uint32", (8,), "axis"), ("uint64", (0, 8), "axis")],
)
def test_a_pyramid_that_cannot_be_is_refused(dtype, chunk, reason):
    """Types other than uint32 and uint64 are refused before anything is written, and so are chunks
    of other dimensions.
    """
    with pytest.raises(JobError, match=reason):
        Pyramid("nowhere", Frame((20, 20)), chunk, dtype)


@pytest.mark.parametrize("level", [-1, 0, 2])
def test_only_lower_levels_are_made_from_others(tmp_path, level):
    """Level 0 is written, not made, and there is nothing below the last level."""
    pyramid = Pyramid(str(tmp_path / "p"), Frame((600, 3)), (600, 3), "uint32")
    pyramid.create()
    with pytest.raises(ValueError, match="allowed: 1 to 1"):
        pyramid.reduce(level, Box((0, 0), (300, 2)))


def damage(data):
    """Every single flipped bit, and every length that a torn write may leave."""
    for place, bit in itertools.product(range(len(data)), range(8)):
        yield data[:place] + bytes([data[place] ^ (1 << bit)]) + data[place + 1 :]
    for length in range(len(data)):
        yield data[:length]


def test_damaged_chunks_are_never_read_as_labels(tmp_path):
    """No flipped bit and no missing end of a chunk's file passes for labels."""
    labels = np.zeros((12, 16), np.uint32)
    labels[2:7, 3:9], labels[8:, 10:] = 70_000, 70_001
    pyramid = filled(tmp_path / "p", Frame((12, 16)), (12, 16), labels)
    chunk = tmp_path / "p" / "0" / "c" / "0" / "0"
    whole = chunk.read_bytes()
    for damaged in damage(whole):
        chunk.write_bytes(damaged)
        with pytest.raises(ScratchError, match=r"p/0: a chunk in .* is damaged"):
            pyramid.read(Box.whole((12, 16)))
    chunk.write_bytes(whole)
    assert np.array_equal(pyramid.read(Box.whole((12, 16))), labels)


def test_a_damaged_level_is_not_reduced(tmp_path):
    """A level is not made from one whose chunk was altered."""
    labels = random_labels((2, 600))
    pyramid = filled(tmp_path / "p", Frame((2, 600)), (2, 600), labels)
    chunk = tmp_path / "p" / "0" / "c" / "0" / "0"
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 1
    chunk.write_bytes(data)
    with pytest.raises(ScratchError, match="damaged"):
        pyramid.reduce(1, pyramid.blocks(1)[0])


def test_a_damaged_chunk_can_be_written_again(tmp_path):
    """Writing replaces chunks without reading them, at the image's end too, so that damage is
    mended by writing again.
    """
    labels = random_labels((50, 70))
    pyramid = filled(tmp_path / "p", Frame(labels.shape), (32, 32), labels)
    for chunk in (tmp_path / "p" / "0" / "c").rglob("[0-9]*"):
        if chunk.is_file():
            chunk.write_bytes(b"torn")
    for box in pyramid.blocks(0):
        pyramid.write(box, labels[box.slices])
    assert np.array_equal(pyramid.read(Box.whole(labels.shape)), labels)


def test_creating_again_keeps_what_is_written(tmp_path, utm):
    """A run that begins again does not lose the labels of tiles that are done, and the files stay
    the same.
    """
    frame = Frame((20, 600), transform=ROTATED, crs=utm)
    labels = random_labels(frame.shape)
    filled(tmp_path / "p", frame, (20, 300), labels)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    Pyramid(str(tmp_path / "p"), frame, (20, 300), "uint32").create()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("frame", "chunk", "dtype"),
    [
        pytest.param(Frame((20, 601)), (20, 300), "uint32", id="shape"),
        pytest.param(Frame((20, 600)), (20, 200), "uint32", id="chunk"),
        pytest.param(Frame((20, 600)), (20, 300), "uint64", id="type"),
        pytest.param(Frame((20, 600), transform=NORTH_UP), (20, 300), "uint32", id="place"),
    ],
)
def test_another_pyramid_is_not_written_over(tmp_path, frame, chunk, dtype):
    """Where the path holds other labels, none are written among them."""
    Pyramid(str(tmp_path / "p"), Frame((20, 600)), (20, 300), "uint32").create()
    with pytest.raises(OutputError, match="another array"):
        Pyramid(str(tmp_path / "p"), frame, chunk, dtype).create()


def test_a_path_can_be_used_again(tmp_path):
    """What this process remembers of an array that is gone does not outlive it."""
    for shape in ((20, 700), (30, 900), (20, 700)):
        labels = random_labels(shape, seed=shape[0])
        assert np.array_equal(
            filled(tmp_path / "p", Frame(shape), (20, 300), labels).read(Box.whole(shape)), labels
        )
        shutil.rmtree(tmp_path / "p")


def write_one(pyramid, box, labels):
    pyramid.write(box, labels)


def test_processes_share_a_pyramid(tmp_path):
    """Processes that never met write the chunks of one array."""
    labels = random_labels((120, 90))
    pyramid = Pyramid(str(tmp_path / "p"), Frame((120, 90)), (32, 32), "uint32")
    pyramid.create()
    grid = Grid((120, 90), (32, 64))
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        done = [
            pool.submit(write_one, pyramid, core, labels[core.slices])
            for core in map(grid.core, range(len(grid)))
        ]
    assert [one.result() for one in done] == [None] * len(grid)
    assert np.array_equal(pyramid.read(Box.whole((120, 90))), labels)


FRAMES = {
    "plain": Frame((700, 1300)),
    "micrometres": Frame((2, 700, 90), pixel_size=(2.0, 0.5, 0.5), unit="micrometer"),
    "north up": Frame((1025, 3), transform=NORTH_UP, pixel_size=(10.0, 10.0), unit="metre"),
    "rotated": Frame((3, 1200), transform=ROTATED, pixel_size=(10.0, 10.0), unit="metre"),
}


@pytest.mark.parametrize("name", FRAMES)
def test_ome_zarr_py_reads_the_labels(tmp_path, name):
    """ome-zarr-py finds a label image with all levels, and ome-zarr-models finds nothing wrong with
    its metadata.
    """
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Label, Multiscales, Reader
    from ome_zarr_models.v05 import ImageLabel

    frame = FRAMES[name]
    labels = random_labels(frame.shape)
    pyramid = filled(tmp_path / "p", frame, (1, 512, 512)[-frame.ndim :], labels)
    [node] = Reader(parse_url(tmp_path / "p"))()
    assert {type(spec) for spec in node.specs} == {Label, Multiscales}
    assert len(node.data) == pyramid.levels > 1
    for level, data in enumerate(node.data):
        assert np.array_equal(np.asarray(data), labels[..., :: 2**level, :: 2**level])
    assert (
        ImageLabel.from_zarr(zarr.open_group(tmp_path / "p")).attributes.ome.image_label.version
        == "0.5"
    )


@pytest.mark.parametrize("name", FRAMES)
def test_the_metadata_say_where_the_samples_were_taken(tmp_path, name):
    """By OME-Zarr's transformations and by the affine one alike, a pixel of any level lies where
    the pixel does that it was taken from.
    """
    from rasterio import Affine
    from rasterio.transform import xy

    frame = FRAMES[name]
    pyramid = Pyramid(str(tmp_path / "p"), frame, (1, 512, 512)[-frame.ndim :], "uint32")
    pyramid.create()
    image = zarr.open_group(tmp_path / "p").attrs["ome"]["multiscales"][0]
    for level in range(pyramid.levels):
        index = np.array([n - 1 for n in pyramid.shape(level)])
        taken = index * ([1] * (frame.ndim - 2) + [2**level] * 2)
        scale, translation = image["datasets"][level]["coordinateTransformations"]
        assert np.allclose(
            index * scale["scale"] + translation["translation"], taken * frame.pixel_size
        )
        attributes = zarr.open_array(tmp_path / "p" / str(level)).attrs
        if frame.transform is not None:
            there = xy(Affine(*attributes["spatial:transform"]), *index[-2:])
            assert np.allclose(there, xy(Affine(*frame.transform), *taken[-2:]), rtol=0, atol=1e-6)
            assert attributes["spatial:shape"] == list(pyramid.shape(level)[-2:])


def test_the_reference_system_is_on_the_group_and_every_level(tmp_path, utm):
    """The CRS can be read back as WKT 2 from the group and from each array, which name the
    conventions that they follow.
    """
    from rasterio.crs import CRS

    pyramid = Pyramid(
        str(tmp_path / "p"), Frame((700, 3), transform=NORTH_UP, crs=utm), (512, 512), "uint32"
    )
    pyramid.create()
    nodes = [
        zarr.open_group(tmp_path / "p"),
        *(zarr.open_array(tmp_path / "p" / str(level)) for level in range(pyramid.levels)),
    ]
    for node in nodes:
        assert CRS.from_wkt(node.attrs["proj:wkt2"]).to_epsg() == 32633
        assert node.attrs["proj:wkt2"].startswith("PROJCRS[")
        assert node.attrs["spatial:dimensions"] == ["y", "x"]
        assert [one["name"] for one in node.attrs["zarr_conventions"]] == ["proj", "spatial"]


def test_only_what_is_known_is_said(tmp_path):
    """An image without CRS is not said to have one, and one that lies nowhere has no place."""
    Pyramid(str(tmp_path / "placed"), Frame((7, 3), transform=NORTH_UP), (5, 5), "uint32").create()
    Pyramid(str(tmp_path / "nowhere"), Frame((7, 3)), (5, 5), "uint32").create()
    placed, nowhere = (
        dict(zarr.open_array(tmp_path / name / "0").attrs) for name in ("placed", "nowhere")
    )
    assert "proj:wkt2" not in placed
    assert [one["name"] for one in placed["zarr_conventions"]] == ["spatial"]
    assert nowhere == {}


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ("metre", "meter"),
        ("Micrometer", "micrometer"),
        ("nanometre", "nanometer"),
        ("degree", None),
        ("pixel", None),
        ("US survey foot", None),
    ],
)
def test_only_units_of_the_vocabulary_are_written(tmp_path, unit, expected):
    """A unit is written as OME-Zarr spells it, and left out where OME-Zarr has no word for it."""
    Pyramid(str(tmp_path / "p"), Frame((7, 3), unit=unit), (5, 5), "uint32").create()
    axes = zarr.open_group(tmp_path / "p").attrs["ome"]["multiscales"][0]["axes"]
    assert [axis.get("unit") for axis in axes] == [expected] * 2


def test_xarray_reads_a_level_with_named_dimensions(tmp_path):
    """xarray, which knows nothing of OME-Zarr, opens level 0 with the dimensions y and x."""
    import xarray

    labels = random_labels((40, 600))
    filled(tmp_path / "p", Frame((40, 600)), (40, 300), labels)
    opened = xarray.open_zarr(tmp_path / "p", consolidated=False, drop_variables=["1"])["0"]
    assert opened.dims == ("y", "x")
    assert np.array_equal(opened.to_numpy(), labels)


def test_real_labels_are_written_as_they_are(tmp_path):
    """Labels of a real image come back from every level as numpy takes them."""
    from skimage import data

    labels = ndimage.label(data.hubble_deep_field().max(axis=2) > 60)[0].astype(np.uint32)
    pyramid = filled(tmp_path / "p", Frame(labels.shape), (256, 256), labels)
    for level in range(pyramid.levels):
        taken = labels[:: 2**level, :: 2**level]
        assert np.array_equal(pyramid.read(Box.whole(taken.shape), level), taken)
