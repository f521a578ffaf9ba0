"""Zarr that xarray wrote: values, places and missing values are those that xarray reads of it."""

from __future__ import annotations

import contextlib
import functools
import json
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import rasterio
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import pipeline
from pipeline.errors import JobError, SourceError
from pipeline.sources import open_source
from tests.sources.files import whole

pytestmark = [
    pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning"),  # rioxarray's
    pytest.mark.filterwarnings("ignore:saving variable:xarray.SerializationWarning"),
    pytest.mark.filterwarnings("ignore:Consolidated metadata:zarr.errors.ZarrUserWarning"),
]


def scene(dtype, fill, packing, seed=0):
    """Temperatures in degrees that lie on a grid of UTM, some of them missing, and how they are to
    be stored.
    """
    import rioxarray as _  # noqa: F401

    values = np.random.default_rng(seed).integers(1, 90, (20, 30)).astype(np.float64) * packing.get(
        "scale_factor", 1
    ) + packing.get("add_offset", 0)
    if fill is not None:
        values[3:9, 4:20] = np.nan
    elif not packing:
        values = values.astype(dtype)
    coords = {"y": 5e6 - 20 * np.arange(20.0), "x": 5e5 + 10 * np.arange(30.0)}
    array = xr.DataArray(values, dims=("y", "x"), coords=coords, name="t", attrs={"units": "K"})
    array.encoding = {
        "dtype": dtype,
        "chunks": (8, 8),
        **packing,
        **({} if fill is None else {"_FillValue": fill}),
    }
    return array.rio.write_crs("EPSG:32633")


@settings(max_examples=40, deadline=None)
@given(
    version=st.sampled_from([2, 3]),
    stored=st.sampled_from(
        [
            ("int16", -999),
            ("int16", 0),
            ("uint8", 255),
            ("uint8", 0),
            ("int32", -(2**31)),
            ("uint16", None),
            ("float32", np.nan),
            ("float32", -9999.0),
            ("float32", 1e20),
            ("float64", -3.4e38),
            ("float64", None),
            ("int64", -(2**63)),
        ]
    ),
    packing=st.sampled_from(
        [
            {},
            {"scale_factor": 0.5},
            {"add_offset": -20.0},
            {"scale_factor": 0.01, "add_offset": 3.5},
        ]
    ),
)
def test_what_xarray_wrote(tmp_path_factory, version, stored, packing):
    """Of any type, fill value, scale and offset, in both formats: the values, what is missing and
    the place are those that xarray and rioxarray read.
    """
    path = tmp_path_factory.mktemp("scene") / "scene.zarr"
    scene(*stored, packing).to_dataset().to_zarr(path, zarr_format=version)
    with xr.open_zarr(path, decode_coords="all") as dataset:
        known = dataset["t"].load()
        source = open_source(path)
        found = whole(source)
        valid = source.frame.measured(found)[0]
        np.testing.assert_array_equal(valid, np.isfinite(known.values))
        if packing:
            np.testing.assert_allclose(
                found[0][valid],
                known.values[valid],
                rtol=1e-12 if known.dtype == np.float64 else 1e-6,
            )
        else:
            np.testing.assert_array_equal(found[0][valid], known.values[valid])
        np.testing.assert_allclose(source.frame.transform, known.rio.transform()[:6])
        assert rasterio.CRS.from_wkt(source.frame.crs) == known.rio.crs
    if packing:
        with xr.open_zarr(path, mask_and_scale=False) as dataset:
            np.testing.assert_array_equal(
                whole(open_source(path, scaled=False))[0], dataset["t"].values
            )


@pytest.mark.parametrize("version", [2, 3])
def test_a_scene_is_segmented_as_xarray_reads_it(version, tmp_path):
    """A threshold in degrees finds in the store what it finds in the DataArray, and labels lie on
    its grid.
    """
    array = scene("int16", -999, {"scale_factor": 0.5, "add_offset": 10.0})
    array.to_dataset().to_zarr(tmp_path / "scene.zarr", zarr_format=version)
    how = {"tile": 16, "engine": pipeline.local()}
    with xr.open_zarr(tmp_path / "scene.zarr", decode_coords="all") as dataset:
        known = pipeline.segment(
            dataset["t"].load(), pipeline.Threshold(value=30.0), tmp_path / "known", **how
        )
    ours = pipeline.segment(
        str(tmp_path / "scene.zarr"), pipeline.Threshold(value=30.0), tmp_path / "ours", **how
    )
    np.testing.assert_array_equal(ours.labels, known.labels)
    np.testing.assert_allclose(ours.labels.x, array.x)
    np.testing.assert_allclose(ours.labels.y, array.y)


def test_several_variables(tmp_path):
    """A Dataset of several variables names them, without their coordinates; one of them is read by
    its path, and lies where these are.
    """
    one = scene("int16", -999, {})
    dataset = xr.Dataset({"red": one, "nir": one + 1, "clouds": one > 3}).assign_coords(
        lat=(("y", "x"), np.ones(one.shape))
    )
    dataset.to_zarr(tmp_path / "a.zarr")
    with pytest.raises(
        JobError,
        match=r"a\.zarr is a Dataset of several variables; choose one, path: .*a\.zarr/clouds; "
        r"it has clouds, nir, red",
    ):
        open_source(tmp_path / "a.zarr")
    frame = open_source(tmp_path / "a.zarr" / "red").frame
    np.testing.assert_allclose(frame.transform, (10, 0, 499995, 0, -20, 5000010))
    assert rasterio.CRS.from_wkt(frame.crs) == rasterio.CRS.from_epsg(32633)


def test_bands_of_a_file(tmp_path):
    """Bands that rioxarray read of a file keep their names in Zarr, and one may be chosen by it."""
    bands = scene("int16", -999, {}).expand_dims(band=[1, 2, 3]).copy()
    bands.attrs["long_name"] = ("red", "green", "nir")
    bands.to_dataset(name="scene").to_zarr(tmp_path / "a.zarr")
    source = open_source(tmp_path / "a.zarr", bands=["nir"])
    assert source.frame.bands == ("nir",)
    names = xr.DataArray(
        bands.values, dims=("band", "y", "x"), coords={"band": ["r", "g", "n"]}, name="scene"
    )
    names.to_dataset().to_zarr(tmp_path / "b.zarr", zarr_format=2)
    assert open_source(tmp_path / "b.zarr").frame.bands == ("r", "g", "n")


@pytest.mark.parametrize("version", [2, 3])
def test_a_fill_value_alone_is_no_nodata(version, tmp_path):
    """What a chunk holds that nobody wrote is a value like others, where no attribute says that it
    means missing.
    """
    array = zarr.create_array(
        tmp_path / "a.zarr", shape=(4, 4), dtype="uint8", fill_value=3, zarr_format=version
    )
    array[:] = np.arange(16).reshape(4, 4) % 5
    assert open_source(tmp_path / "a.zarr").frame.nodata is None
    array.attrs["missing_value"] = 3
    assert open_source(tmp_path / "a.zarr").frame.nodata == 3
    chosen = open_source(tmp_path / "a.zarr", nodata=float("nan"))
    assert chosen.frame.measured(whole(chosen)).all()
    array.attrs["_FillValue"] = "so"
    with pytest.raises(
        SourceError,
        match=r"a\.zarr cannot be read: its attribute _FillValue is 'so'; allowed: a number",
    ):
        open_source(tmp_path / "a.zarr")


def test_large_numbers_are_told_apart(tmp_path):
    """A fill value beyond 2^53 is itself alone."""
    array = zarr.create_array(
        tmp_path / "a.zarr",
        data=np.array([[2**64 - 1, 2**64 - 2]], np.uint64),
        attributes={"_FillValue": 2**64 - 1},
    )
    source = open_source(tmp_path / "a.zarr")
    np.testing.assert_array_equal(source.frame.measured(whole(source)), [[[False, True]]])
    assert array.dtype == np.uint64


def test_unsigned_numbers(tmp_path):
    """Signed numbers that stand for unsigned ones are read as xarray reads them."""
    zarr.create_array(
        tmp_path / "a.zarr/t",
        data=np.array([[1, -1, -2]], np.int8),
        attributes={"_Unsigned": "true", "_FillValue": -1},
        dimension_names=["y", "x"],
    )
    zarr.open_group(tmp_path / "a.zarr", mode="a")
    with xr.open_zarr(tmp_path / "a.zarr", consolidated=False) as dataset:
        source = open_source(tmp_path / "a.zarr")
        found = whole(source)[0].astype(float)
        found[~source.frame.measured(whole(source))[0]] = np.nan
        np.testing.assert_array_equal(found, dataset["t"].values)


def test_metadata_that_contradict(tmp_path):
    """Metadata that were gathered before an array changed are not believed; nor coordinates that
    are not as long as it.
    """
    scene("int16", -999, {}).to_dataset().to_zarr(
        tmp_path / "a.zarr", zarr_format=2, consolidated=True
    )
    array = zarr.open_array(tmp_path / "a.zarr" / "t")
    array.resize((25, 30))
    array[20:] = 7
    source = open_source(tmp_path / "a.zarr")
    assert source.frame.shape == (25, 30)
    assert whole(source)[0, 24, 5] == 7
    assert source.frame.transform is None
    assert any(
        "the coordinates y are (20,), which does not fit the image" in told
        for told in source.facts["not_understood"]
    )


def test_options(tmp_path):
    """`scaled` with nothing to scale, `level` of an array, `time` and `planes` without such axes
    are refused; the rest is said.
    """
    scene("int16", -999, {}).assign_attrs(valid_min=3).to_dataset().to_zarr(tmp_path / "a.zarr")
    for options, told in (
        ({"scaled": True}, "scaled: true; .* has neither scale_factor nor add_offset"),
        ({"level": 1}, "level: 1; .* is a single array, which has no levels"),
        ({"time": 0}, "time: 0; the image has no time axis"),
        ({"planes": "all"}, "planes: 'all'; the image has no planes"),
    ):
        with pytest.raises(JobError, match=told):
            open_source(tmp_path / "a.zarr", **options)
    assert "valid_min: 3" in open_source(tmp_path / "a.zarr").facts["not_understood"]


def test_a_change_of_scale_is_another_image(tmp_path):
    """A fingerprint tells images apart whose stored numbers are the same and stand for others."""
    scene("int16", -999, {"scale_factor": 0.5}).to_dataset().to_zarr(
        tmp_path / "a.zarr", zarr_format=2
    )
    before = open_source(tmp_path / "a.zarr").fingerprint()
    file = tmp_path / "a.zarr" / "t" / ".zattrs"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"scale_factor": 0.25}))
    assert open_source(tmp_path / "a.zarr").fingerprint() != before
    assert (
        open_source(tmp_path / "a.zarr", scaled=False).fingerprint()
        != open_source(tmp_path / "a.zarr").fingerprint()
    )


def test_names_that_say_nothing(tmp_path):
    """An axis with a name that says nothing is asked for, and never taken for bands."""
    zarr.create_array(
        tmp_path / "a.zarr", shape=(3, 20, 30), dtype="uint8", dimension_names=["foo", "y", "x"]
    )
    with pytest.raises(JobError, match=r"axes: the dimension 'foo' is not known; .*axes: cyx"):
        open_source(tmp_path / "a.zarr")
    assert open_source(tmp_path / "a.zarr", axes="zyx").frame.shape == (3, 20, 30)
    zarr.create_array(tmp_path / "b.zarr", shape=(10, 20, 30), dtype="uint8")
    with pytest.raises(
        JobError,
        match=r"axes: .*b\.zarr has the shape \(10, 20, 30\), which does not say what its axes are",
    ):
        open_source(tmp_path / "b.zarr")
    assert open_source(tmp_path / "b.zarr", planes="all").frame.shape == (10, 20, 30)


@pytest.mark.parametrize("nodata", [None, -9])
def test_what_gdal_wrote(nodata, tmp_path):
    """A raster that GDAL wrote as Zarr has the values, place and nodata that it had."""
    pixels = np.random.default_rng(0).integers(-9, 9, (1, 20, 30)).astype(np.int16)
    path = tmp_path / "scene.zarr"
    about = {
        "driver": "Zarr",
        "width": 30,
        "height": 20,
        "count": 1,
        "dtype": "int16",
        "nodata": nodata,
    }
    with rasterio.open(
        path, "w", crs="EPSG:32633", transform=rasterio.Affine(10, 0, 5e5, 0, -20, 5e6), **about
    ) as file:
        file.write(pixels)
    source = open_source(path)
    with rasterio.open(path) as file:
        np.testing.assert_array_equal(whole(source), file.read())
        np.testing.assert_array_equal(source.frame.measured(whole(source)), file.read_masks() > 0)
        np.testing.assert_allclose(source.frame.transform, file.transform[:6])
        assert rasterio.CRS.from_wkt(source.frame.crs) == file.crs


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def served(folder):
    """The address of a web server for a folder."""
    with ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Silent, directory=str(folder))
    ) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("version", [2, 3])
def test_datasets_on_a_web_server(version, tmp_path):
    """Where a server lists nothing, gathered metadata say what lies in a Dataset; without these, a
    variable is named, and has its place.
    """
    dataset = xr.Dataset({"red": scene("int16", -999, {}), "nir": scene("int16", -999, {}, seed=1)})
    for name, gathered in (("a.zarr", True), ("b.zarr", False)):
        dataset.to_zarr(tmp_path / name, zarr_format=version, consolidated=gathered)
    with served(tmp_path) as address:
        with pytest.raises(
            JobError,
            match=r"a\.zarr is a Dataset of several variables; choose one, path: .*a\.zarr/nir; "
            r"it has nir, red",
        ):
            open_source(f"{address}/a.zarr")
        with pytest.raises(
            JobError,
            match=r"b\.zarr is a Zarr group, and its server does not list what lies in it; name "
            r"an image in it",
        ):
            open_source(f"{address}/b.zarr")
        for name in ("a.zarr", "b.zarr"):
            source = open_source(f"{address}/{name}/red", kind="zarr", missing_chunks="fill")
            np.testing.assert_array_equal(
                whole(source), whole(open_source(tmp_path / name / "red"))
            )
            assert source.frame.transform == open_source(tmp_path / name / "red").frame.transform
            assert source.frame.crs is not None
