"""Arrays as images: NumPy, Dask and xarray, and what is lazy in them."""

from __future__ import annotations

import threading
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import rasterio
import xarray as xr
from dask_image import ndfilters
from scipy import ndimage

import pipeline
from pipeline.errors import JobError, SourceError
from pipeline.image.grid import Box
from pipeline.sources import Source, open_source, where_measured
from tests.faults.staging import blobs, write

PIXELS = np.random.default_rng(0).integers(0, 255, (3, 20, 30), np.uint8)


def whole(source: Source) -> np.ndarray:
    return source.read(Box.whole(source.frame.shape))


@pytest.mark.parametrize(
    ("array", "options", "expected"),
    [
        pytest.param(PIXELS[0], {}, PIXELS[:1], id="rows and columns"),
        pytest.param(PIXELS, {}, PIXELS, id="bands"),
        pytest.param(PIXELS, {"bands": [3, 1]}, PIXELS[[2, 0]], id="some bands"),
        pytest.param(np.moveaxis(PIXELS, 0, 2), {"axes": "yxc"}, PIXELS, id="bands last"),
        pytest.param(PIXELS, {"axes": "zyx"}, PIXELS[None], id="planes"),
        pytest.param(PIXELS, {"axes": "tyx", "time": 1}, PIXELS[1:2], id="a time"),
        pytest.param(PIXELS[None], {"axes": "czyx"}, PIXELS[None], id="band and planes"),
        pytest.param(PIXELS, {"planes": "all"}, PIXELS[None], id="all planes"),
        pytest.param(PIXELS, {"planes": 2}, PIXELS[2:], id="a plane"),
        pytest.param(PIXELS[None], {"planes": "all"}, PIXELS[None], id="all planes of one band"),
        pytest.param(
            np.tile(PIXELS, (3, 1, 1)), {"bands": [9, 4]}, PIXELS[[2, 0]], id="bands of many"
        ),
        pytest.param(PIXELS[:1], {}, PIXELS[:1], id="one band"),
        pytest.param(
            np.tile(PIXELS, (3, 1, 1)),
            {"axes": "cyx"},
            np.tile(PIXELS, (3, 1, 1)),
            id="many bands that are named",
        ),
        pytest.param(PIXELS[0] > 100, {}, (PIXELS[:1] > 100).astype(np.uint8), id="a mask"),
        pytest.param(
            PIXELS[0].astype(">f4"), {}, PIXELS[:1].astype(np.float32), id="foreign bytes"
        ),
        pytest.param(PIXELS[0].T[::-2], {}, PIXELS[:1].transpose(0, 2, 1)[:, ::-2], id="a view"),
        pytest.param(da.from_array(PIXELS, chunks=7), {"bands": [2]}, PIXELS[1:2], id="lazy"),
        pytest.param(xr.DataArray(PIXELS, dims=("band", "y", "x")), {}, PIXELS, id="DataArray"),
        pytest.param(
            xr.DataArray(PIXELS, dims=("y", "x", "band")),
            {},
            np.moveaxis(PIXELS, 2, 0),
            id="DataArray, bands last",
        ),
    ],
)
def test_arrays(array, options, expected, tmp_path):
    """An array's axes are what its shape, its dims or the user say, and a box of it is
    that part.
    """
    source = open_source(array, **options)
    found = whole(source)
    np.testing.assert_array_equal(found, expected)
    assert (found.dtype, found.flags.c_contiguous) == (expected.dtype, True)
    box = Box.whole(tuple(n - 1 for n in source.frame.shape))
    np.testing.assert_array_equal(source.read(box), expected[(slice(None), *box.slices)])
    assert source.glance(box, 4).shape == (len(expected), *(-(-n // 4) for n in box.shape))


@pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")  # rioxarray's
def test_data_arrays_keep_their_place(tmp_path):
    """A DataArray as rioxarray opens it has the CRS, transform and nodata of its file; of another,
    even coordinates tell.
    """
    import rioxarray

    image = write(tmp_path / "image.tif", blobs())
    with rasterio.open(image, "r+") as file:
        file.nodata = 7
    with rioxarray.open_rasterio(image, chunks=16) as opened:
        mine, theirs = open_source(opened).frame, open_source(image).frame
        np.testing.assert_array_equal(whole(open_source(opened))[0], blobs())
    assert (mine.transform, mine.nodata, mine.shape) == (
        theirs.transform,
        theirs.nodata,
        theirs.shape,
    )
    assert rasterio.CRS.from_wkt(mine.crs) == rasterio.CRS.from_wkt(theirs.crs)
    plain = xr.DataArray(
        blobs(),
        dims=("lat", "lon"),
        coords={"lat": 50 - 0.5 * np.arange(64), "lon": 10 + 0.25 * np.arange(64)},
    )
    np.testing.assert_allclose(open_source(plain).frame.transform, (0.25, 0, 9.875, 0, -0.5, 50.25))


def test_lazy_work_runs_inside_the_task(tmp_path):
    """A filter of dask-image over the user's own function is computed by the task that reads, with
    the right pixels at every border.
    """
    image = blobs(128)
    threads = set()

    def seen(block):
        threads.add(threading.get_ident())
        return block.astype(np.float32)

    lazy = ndfilters.gaussian_filter(
        da.from_array(image, chunks=32).map_blocks(
            seen, dtype=np.float32, meta=np.empty((0, 0), np.float32)
        ),
        1.5,
    )
    source = open_source(lazy)
    whole_image = np.asarray(lazy.compute(scheduler="synchronous"))
    threads.clear()
    for box in (Box((0, 0), (40, 50)), Box((30, 60), (100, 128))):
        np.testing.assert_array_equal(source.read(box)[0], whole_image[box.slices])
    assert threads == {threading.get_ident()}
    found = pipeline.segment(
        lazy, pipeline.Threshold(value=100), tmp_path / "out", tile=48, engine=pipeline.local()
    )
    np.testing.assert_array_equal(found.labels, ndimage.label(whole_image > 100)[0])


def test_arithmetic_of_xarray(tmp_path):
    """An index computed by xarray from lazy bands is segmented like one that was computed
    before.
    """
    bands = xr.DataArray(
        da.from_array(PIXELS.astype(np.float32) + 1, chunks=10),
        dims=("band", "y", "x"),
        coords={"band": ["r", "g", "n"]},
    )
    index = (bands.sel(band="n") - bands.sel(band="r")) / (
        bands.sel(band="n") + bands.sel(band="r")
    )
    found = pipeline.segment(
        index, pipeline.Threshold(value=0), tmp_path / "out", tile=16, engine=pipeline.local()
    )
    np.testing.assert_array_equal(found.labels, ndimage.label(index.values > 0)[0])


def test_masked_arrays(tmp_path):
    """What NumPy's masked arrays hide was not measured, band by band, whatever lies under the mask;
    two that hide other pixels differ.
    """
    hidden = np.random.default_rng(1).random(PIXELS.shape) < 0.2
    source = open_source(np.ma.array(PIXELS, mask=hidden), bands=[3, 1])
    box = Box((2, 3), (19, 30))
    np.testing.assert_array_equal(
        where_measured(source, box, source.read(box)), ~hidden[[2, 0], 2:19, 3:30]
    )
    np.testing.assert_array_equal(
        where_measured(source, box, source.glance(box, 3), 3), ~hidden[[2, 0], 2:19:3, 3:30:3]
    )
    assert type(source.read(box)) is np.ndarray
    assert (
        source.fingerprint()
        != open_source(np.ma.array(PIXELS, mask=~hidden), bands=[3, 1]).fingerprint()
    )
    assert not open_source(np.ma.array(PIXELS)).frame.masked
    image = np.ma.array(blobs(64).astype(np.float32), mask=np.indices((64, 64))[0] < 20)
    ours = pipeline.segment(
        image, pipeline.Threshold(method="otsu"), tmp_path / "out", tile=32, engine=pipeline.local()
    )
    known = pipeline.segment(
        image.filled(np.nan),
        pipeline.Threshold(method="otsu"),
        tmp_path / "b",
        engine=pipeline.local(),
    )
    np.testing.assert_array_equal(ours.labels, known.labels)
    with pytest.raises(JobError, match="a Dask array of masked arrays; fill what is masked"):
        open_source(da.ma.masked_equal(da.from_array(PIXELS), 7))


def test_axes_of_a_stack(tmp_path):
    """A stack is asked for its axes; named, or with planes chosen, it is segmented as a volume,
    from Python and from a job alike.
    """
    stack = np.stack([blobs(32)] * 10)
    with pytest.raises(JobError, match=r"axes: the array has the shape \(10, 32, 32\)"):
        pipeline.segment(
            stack, pipeline.Threshold(value=100), tmp_path / "out", engine=pipeline.local()
        )
    expected = ndimage.label(stack > 100)[0]
    for number, how in enumerate(({"axes": "zyx"}, {"planes": "all"})):
        ours = pipeline.segment(
            stack,
            pipeline.Threshold(value=100),
            tmp_path / f"a{number}",
            tile=16,
            engine=pipeline.local(),
            **how,
        )
        np.testing.assert_array_equal(ours.labels, expected)
        job = pipeline.Job(
            source={"path": stack, **how},
            segmenters={"it": pipeline.Threshold(value=100)},
            output={"path": str(tmp_path / f"b{number}")},
        )
        np.testing.assert_array_equal(pipeline.run(job, pipeline.local()).labels, expected)
    bands = pipeline.segment(
        stack,
        pipeline.Threshold(value=100),
        tmp_path / "c",
        axes="cyx",
        bands=[3],
        engine=pipeline.local(),
    )
    np.testing.assert_array_equal(bands.labels, ndimage.label(stack[2] > 100)[0])


def test_the_shipped_workflow_for_volumes_is_for_volumes(tmp_path):
    """cells_3d.yaml on a plain stack in Zarr gives labels of a volume, and on one plane it is
    refused.
    """
    zarr = pytest.importorskip("zarr")
    zarr.create_array(tmp_path / "stack.zarr", data=np.stack([blobs(48)] * 10), chunks=(5, 24, 24))
    zarr.create_array(tmp_path / "plane.zarr", data=blobs(48), chunks=(24, 24))
    workflow = Path(__file__).parents[2] / "workflows" / "cells_3d.yaml"
    changes = {"source.path": str(tmp_path / "stack.zarr"), "output.path": str(tmp_path / "out")}
    assert pipeline.run(pipeline.from_yaml(workflow, changes), pipeline.local()).labels.shape == (
        10,
        48,
        48,
    )
    with pytest.raises(JobError, match=r"source\.planes: 'all'; the image has no planes"):
        pipeline.run(
            pipeline.from_yaml(workflow, {**changes, "source.path": str(tmp_path / "plane.zarr")}),
            pipeline.local(),
            fresh=True,
        )


def test_fingerprints(tmp_path):
    """Equal arrays have equal fingerprints, others do not; a lazy array's tells what is
    computed.
    """
    lazy = da.from_array(PIXELS, chunks=10)
    assert open_source(PIXELS).fingerprint() == open_source(PIXELS.copy()).fingerprint()
    assert open_source(PIXELS).fingerprint() != open_source(PIXELS + 1).fingerprint()
    assert (
        open_source(lazy + 1).fingerprint()
        == open_source(lazy + 1).fingerprint()
        != open_source(lazy + 2).fingerprint()
    )


@pytest.mark.parametrize(
    ("array", "options", "error", "message"),
    [
        pytest.param(
            [[1, 2]],
            {},
            JobError,
            "an image is a path, a NumPy or Dask array or an xarray DataArray, not list",
            id="a list",
        ),
        pytest.param(
            np.zeros(5),
            {},
            JobError,
            r"the array has the shape \(5,\); allowed: at least rows and columns",
            id="one axis",
        ),
        pytest.param(
            np.zeros((10, 50, 60)),
            {},
            JobError,
            r"^axes: .*\(10, 50, 60\), which does not say .*axes: cyx .*axes: zyx",
            id="ten",
        ),
        pytest.param(
            np.zeros((5, 50, 60)), {}, JobError, "does not say what its axes are", id="five"
        ),
        pytest.param(
            np.zeros((50, 60, 3)),
            {},
            JobError,
            "name them: axes: yxc where bands come last",
            id="bands last",
        ),
        pytest.param(
            np.zeros((4, 60, 3)), {}, JobError, "name them: axes: yxc", id="bands first, or last"
        ),
        pytest.param(
            np.zeros((50, 60, 10)),
            {"bands": [2]},
            JobError,
            "does not say what its axes are",
            id="some bands, where",
        ),
        pytest.param(
            np.zeros((1, 9, 50, 60)),
            {},
            JobError,
            "a letter of t, c, z, y, x for each: axes: czyx",
            id="four axes",
        ),
        pytest.param(
            np.zeros((3, 9, 50, 60)),
            {"planes": "all"},
            JobError,
            "for each: axes: czyx",
            id="bands or times of planes",
        ),
        pytest.param(
            PIXELS[0],
            {"planes": "all"},
            JobError,
            "planes: 'all'; the image has no planes",
            id="no planes",
        ),
        pytest.param(
            PIXELS,
            {"axes": "cyx", "planes": "all"},
            JobError,
            "planes: 'all'; the image has no planes",
            id="bands, no planes",
        ),
        pytest.param(
            PIXELS,
            {"time": 0},
            JobError,
            "time: 0; the image has no time axis",
            id="no time, not even the first",
        ),
        pytest.param(
            PIXELS, {"axes": "cyy"}, JobError, "axes: 'cyy' for the shape", id="an axis twice"
        ),
        pytest.param(
            PIXELS, {"bands": [4]}, JobError, "bands: 4; allowed: 1 to 3", id="no such band"
        ),
        pytest.param(PIXELS, {"bands": []}, JobError, "bands: none; allowed: 1 to 3", id="no band"),
        pytest.param(
            PIXELS, {"time": 1}, JobError, "time: 1; the image has no time axis", id="no time"
        ),
        pytest.param(
            PIXELS.astype(complex),
            {},
            SourceError,
            "the array holds complex128; allowed: integers and floats",
            id="complex",
        ),
        pytest.param(
            PIXELS.astype("M8[s]"), {}, SourceError, "the array holds datetime64", id="times"
        ),
        pytest.param(
            PIXELS.astype(object), {}, SourceError, "the array holds object; allowed", id="objects"
        ),
        pytest.param(
            np.zeros((4, 5), [("a", "u1")]),
            {},
            SourceError,
            r"the array holds \[\('a', 'u1'\)\]; allowed",
            id="structures",
        ),
        pytest.param(np.array([["a"]]), {}, SourceError, "the array holds <U1; allowed", id="text"),
        pytest.param(
            xr.DataArray(PIXELS, dims=("a", "y", "x")),
            {},
            JobError,
            "axes: the dimension 'a' is not known",
            id="unknown dimension",
        ),
    ],
)
def test_refusals(array, options, error, message):
    """What is no image, or an option that does not fit it, is refused with what is allowed."""
    with pytest.raises(error, match=message):
        open_source(array, **options)


def test_lazy_failure():
    """A lazy array whose computation fails says where and why."""

    def fails(block):
        raise ArithmeticError("no number")

    source = open_source(
        da.from_array(PIXELS[0], chunks=10).map_blocks(
            fails, dtype=np.uint8, meta=np.empty((0, 0), np.uint8)
        )
    )
    with pytest.raises(
        SourceError, match=r"the lazy array cannot be computed in Box.*ArithmeticError: no number"
    ):
        whole(source)
