"""NIfTI volumes: what is read is what nibabel reads whole."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import JobError, SourceError, TilewiseError
from pipeline.image.grid import Box
from pipeline.image.pixel_area import size_column
from pipeline.sources import open_source
from tests.sources.files import whole
from tests.sources.test_limits import mutations

nibabel = pytest.importorskip("nibabel", reason="needs nibabel: the extra volumes")
DRAW = np.random.default_rng(0)


def volume(path, values, sizes=(0.5, 0.25, 2.0), unit="mm", slope=None):
    """Write an array (column, row, plane, …) as NIfTI."""
    image = nibabel.Nifti1Image(values, np.diag([*sizes, 1.0]))
    image.header.set_xyzt_units(unit)
    if slope is not None:
        image.header.set_slope_inter(*slope)
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
@pytest.mark.parametrize(
    "dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64", ">i2"]
)
def test_every_type(dtype, ending, tmp_path):
    """A volume is read plane by plane as it is stored, with the size of its voxels."""
    values = DRAW.integers(0, 100, (30, 20, 10)).astype(dtype)
    source = open_source(volume(tmp_path / f"a.{ending}", values))
    np.testing.assert_array_equal(whole(source)[0], values.transpose(2, 1, 0))
    frame = source.frame
    assert (frame.shape, frame.dtype, frame.unit) == (
        (10, 20, 30),
        np.dtype(dtype).newbyteorder("=").name,
        "millimeter",
    )
    np.testing.assert_allclose(frame.pixel_size, (2.0, 0.25, 0.5))


@settings(max_examples=40)
@given(data=st.data())
def test_any_box(data, tmp_path_factory):
    """Any box, and any glance at it, is that part of what nibabel reads."""
    path = tmp_path_factory.getbasetemp() / "boxes.nii"
    if not path.exists():
        volume(path, DRAW.integers(0, 100, (30, 20, 10)).astype(np.int16))
    expected = np.asarray(nibabel.load(path).dataobj).transpose(2, 1, 0)
    start = tuple(data.draw(st.integers(0, n - 1)) for n in expected.shape)
    stop = tuple(
        data.draw(st.integers(a + 1, n)) for a, n in zip(start, expected.shape, strict=True)
    )
    box, step = Box(start, stop), data.draw(st.integers(1, 7))
    np.testing.assert_array_equal(open_source(path).read(box)[0], expected[box.slices])
    np.testing.assert_array_equal(
        open_source(path).glance(box, step)[0], expected[box.slices][::step, ::step, ::step]
    )


def test_slope(tmp_path):
    """Stored values are read; with ``scaled`` what nibabel makes of them by slope and intercept."""
    path = volume(
        tmp_path / "a.nii", DRAW.integers(0, 100, (8, 7, 6)).astype(np.int16), slope=(0.5, -3)
    )
    loaded = nibabel.load(path)
    np.testing.assert_allclose(
        whole(open_source(path, scaled=True))[0], loaded.get_fdata().transpose(2, 1, 0)
    )
    np.testing.assert_array_equal(
        whole(open_source(path))[0], np.asarray(loaded.dataobj.get_unscaled()).transpose(2, 1, 0)
    )


def test_axes(tmp_path):
    """Times and planes are chosen by index; a flat image has rows and columns; several values of a
    voxel are bands.
    """
    values = DRAW.integers(0, 100, (8, 7, 6, 3)).astype(np.uint8)
    path = volume(tmp_path / "a.nii", values)
    np.testing.assert_array_equal(
        whole(open_source(path, time=1))[0], values[..., 1].transpose(2, 1, 0)
    )
    np.testing.assert_array_equal(
        whole(open_source(path, time=2, planes=4))[0], values[..., 4, 2].T
    )
    with pytest.raises(JobError, match="time: missing; the image has 3 times"):
        open_source(path)
    flat = volume(tmp_path / "b.nii", values[..., 0, 0])
    np.testing.assert_array_equal(whole(open_source(flat))[0], values[..., 0, 0].T)
    vectors = volume(tmp_path / "c.nii", values[:, :, :, None])
    np.testing.assert_array_equal(
        whole(open_source(vectors, bands=[3, 1])), values[..., [2, 0]].transpose(3, 2, 1, 0)
    )


def test_threads_and_pickle(tmp_path):
    """Many threads read one file right; a source is a few bytes when pickled."""
    values = DRAW.integers(0, 100, (60, 50, 40)).astype(np.uint8)
    source = open_source(volume(tmp_path / "a.nii", values))
    boxes = [Box((z, y, 3), (z + 5, y + 9, 50)) for z in range(0, 35, 5) for y in range(0, 40, 8)]
    with ThreadPoolExecutor(8) as pool:
        for box, block in zip(boxes, pool.map(source.read, boxes), strict=True):
            np.testing.assert_array_equal(block[0], values.transpose(2, 1, 0)[box.slices])
    assert len(pickle.dumps(source)) < 5000


def test_refusals(tmp_path):
    """Colours as structures, complex voxels and what the file cannot hold are refused by name."""
    colour = np.zeros((4, 4, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    with pytest.raises(SourceError, match=r"a\.nii holds .*allowed: integers and floats"):
        open_source(volume(tmp_path / "a.nii", colour))
    with pytest.raises(SourceError, match=r"b\.nii holds complex64; allowed"):
        open_source(volume(tmp_path / "b.nii", np.zeros((4, 4, 4), np.complex64)))
    for ending in ("nii", "nii.gz"):
        path, image = (
            tmp_path / f"c.{ending}",
            nibabel.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4)),
        )
        image.header.set_data_shape((32767, 32767, 32767))
        with nibabel.openers.ImageOpener(path, "wb") as file:
            image.header.write_to(file)
        with pytest.raises(
            SourceError,
            match=r"declares 32767 x 32767 x 32767 voxels of uint8, more than a file of \d+ "
            r"bytes can hold",
        ):
            open_source(path)


@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
def test_mutated_files(ending, tmp_path):
    """A damaged file gives voxels or an error that names it; nothing else is raised."""
    path = volume(tmp_path / f"a.{ending}", DRAW.integers(0, 9, (20, 20, 20)).astype(np.int16))
    data, messages = path.read_bytes(), []
    for changed in mutations(data, 100):
        path.write_bytes(changed)
        try:
            whole(open_source(path))
        except TilewiseError as error:
            messages.append(str(error))
    assert len(messages) > 10
    assert [
        message for message in messages if "a.nii" not in message and "time: missing" not in message
    ] == []


def test_sizes_without_a_unit(tmp_path):
    """Where the header names no unit, or garbles it, the extent of a voxel is kept in a unit that
    nobody knows, and that is told.
    """
    values = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    path = volume(tmp_path / "a.nii", values, unit="unknown")
    for code in (0, 7):
        data = bytearray(path.read_bytes())
        data[123] = code  # xyzt_units
        path.write_bytes(data)
        source = open_source(path)
        assert source.frame.pixel_size == pytest.approx(
            np.array(nibabel.load(path).header["pixdim"][3:0:-1])
        )
        assert (source.frame.unit, size_column(source.frame)) == ("unknown", None)
        assert any("no unit of length" in told for told in source.facts["not_understood"])
    assert open_source(volume(tmp_path / "b.nii", values)).facts["not_understood"] == []
