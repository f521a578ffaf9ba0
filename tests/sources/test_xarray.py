"""xarray objects as images: where they lie, and which of their values were measured, whatever was
done with them before.
"""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import pipeline
from pipeline.errors import JobError, SourceError
from pipeline.sources import open_source
from tests.sources.files import PLACE, tiff, whole

pytestmark = pytest.mark.filterwarnings(
    "ignore:Use `@` matmul:PendingDeprecationWarning"
)  # rioxarray's
PIXELS = np.random.default_rng(0).integers(1, 200, (3, 24, 36)).astype(np.uint8)


def opened(path, **how):
    import rioxarray

    with rioxarray.open_rasterio(path, **how) as file:
        return file.load()


def spots(array):
    """Where xarray itself says that the centre of each pixel lies: x and y of (row, column)."""
    flat = array.isel(band=0) if "band" in array.dims else array
    flat = flat.transpose("y", "x")
    y, x = xr.broadcast(flat.y, flat.x)
    return x.values, y.values


def placed(source):
    """The same as the frame has it."""
    row, column = np.indices(source.frame.shape[-2:])
    return source.frame.place(row + 0.5, column + 0.5)


STEPS = {
    "isel": lambda a, n: a.isel(x=slice(n, None), y=slice(n + 1, None)),
    "thinned": lambda a, n: a.isel(x=slice(None, None, n + 1), y=slice(n, None, 2)),
    "sel": lambda a, n: a.sel(x=slice(float(a.x.min()) + 25, None)) if a.x[0] < a.x[-1] else a,
    "sortby": lambda a, n: a.sortby("y" if n % 2 else "x", ascending=n < 2),
    "turned": lambda a, n: a.isel(y=slice(None, None, -1)),
    "coarsen": lambda a, n: a.coarsen(x=n + 1, y=2, boundary="trim").mean(),
    "transpose": lambda a, n: a.transpose(*a.dims[::-1]),
    "shifted": lambda a, n: a.assign_coords(x=a.x + 1000 * n),
    "decimal": lambda a, n: a.assign_coords(y=a.y / 7),
}


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(st.tuples(st.sampled_from(sorted(STEPS)), st.integers(0, 3)), max_size=4),
    band=st.booleans(),
)
def test_objects_lie_where_the_coordinates_are(tmp_path_factory, steps, band):
    """Whatever chain of operations an array has gone through, each pixel has the coordinates that
    xarray has for it, though the GeoTransform that rioxarray read stays as it was.
    """
    path = tmp_path_factory.getbasetemp() / "scene.tif"
    if not path.exists():
        tiff(path, PIXELS)
    array = opened(path)
    array = array if band else array.isel(band=0, drop=True)
    for name, number in steps:
        changed = STEPS[name](array, number)
        array = changed if min(changed.sizes["x"], changed.sizes["y"]) > 1 else array
    source = open_source(array)
    assert source.frame.transform is not None
    np.testing.assert_allclose(placed(source), spots(array), rtol=0, atol=1e-6)
    order = [dim for dim in ("band", "y", "x") if dim in array.dims]
    np.testing.assert_array_equal(
        whole(source), array.transpose(*order).values.reshape(whole(source).shape)
    )
    assert rasterio.CRS.from_wkt(source.frame.crs) == rasterio.CRS.from_epsg(32633)


def test_labels_lie_where_the_part_was(tmp_path):
    """Objects of a part of a scene lie at the part's coordinates, in labels and table: in the
    corner that they were cut from.
    """
    image = np.zeros((1, 60, 80), np.uint8)
    image[0, 40:44, 60:66] = 9
    part = opened(tiff(tmp_path / "scene.tif", image)).isel(y=slice(30, None), x=slice(50, None))
    result = pipeline.segment(
        part,
        pipeline.Threshold(value=5),
        tmp_path / "out",
        engine=pipeline.local(),
        labels=["zarr", "cog"],
    )
    [box] = result.objects[["x", "y"]].to_numpy()
    np.testing.assert_allclose(
        box, rasterio.transform.xy(PLACE["transform"], 41.5, 62.5), atol=1e-6
    )
    with rasterio.open(tmp_path / "out" / "labels.tif") as labels:
        assert labels.transform == PLACE["transform"] @ rasterio.Affine.translation(50, 30)


def grid(y, x, **more):
    return xr.DataArray(np.ones((len(y), len(x))), dims=("y", "x"), coords={"y": y, "x": x}, **more)


STATED = {
    "spatial_ref": (
        (),
        0,
        {
            "crs_wkt": rasterio.CRS.from_epsg(32633).to_wkt(),
            "GeoTransform": "500000 10 0 5000000 0 -20",
        },
    )
}


@pytest.mark.parametrize(
    ("array", "transform", "why"),
    [
        pytest.param(
            grid([2.0, 1.0], [5.0, 7.0, 9.0]), (2, 0, 4, 0, -1, 2.5), None, id="descending"
        ),
        pytest.param(
            grid([1, 2], [5, 7, 9]), (2, 0, 4, 0, 1, 0.5), None, id="ascending, whole numbers"
        ),
        pytest.param(
            grid([2.0, 1.0, 0.5], [5.0, 7.0]), None, "along y are not evenly spaced", id="uneven"
        ),
        pytest.param(
            grid([2.0, 1.0], [5.0, np.nan]),
            None,
            "along x are not evenly spaced",
            id="not a number",
        ),
        pytest.param(
            grid([2.0, 1.0], ["a", "b"]), None, "along x are not evenly spaced", id="text"
        ),
        pytest.param(
            grid([2.0, 1.0], [5.0]),
            None,
            "nothing says how large the one pixel along x is",
            id="one column",
        ),
        pytest.param(
            grid([4999990.0, 4999970.0], [500035.0]).assign_coords(STATED),
            (10, 0, 500030, 0, -20, 5e6),
            None,
            id="one column of a grid",
        ),
        pytest.param(
            grid([4999950.0], [500035.0]).assign_coords(STATED),
            (10, 0, 500030, 0, -20, 4999960),
            None,
            id="one pixel of a grid",
        ),
        pytest.param(
            grid([4999980.0, 4999940.0], [500010.0]).assign_coords(STATED),
            None,
            "how large the one pixel along x is",
            id="a stale grid",
        ),
        pytest.param(
            grid([4999950.0], [500040.0]).assign_coords(STATED),
            None,
            "how large the one pixel",
            id="one pixel of no grid",
        ),
        pytest.param(
            grid([2.0, 1.0], [5.0, 7.0]).drop_vars(["y", "x"]).assign_coords(STATED),
            (10, 0, 5e5, 0, -20, 5e6),
            None,
            id="no coordinates",
        ),
        pytest.param(
            grid([2.0, 1.0], [5.0, 7.0]).drop_vars("x"),
            None,
            "columns alone have no coordinates",
            id="rows only",
        ),
        pytest.param(grid([2.0, 1.0], [5.0, 7.0]).drop_vars(["y", "x"]), None, None, id="nothing"),
        pytest.param(
            xr.DataArray(
                np.ones((2, 3)),
                dims=("northing", "easting"),
                coords={"northing": [1.0, 2], "easting": [1.0, 2, 3]},
            ),
            (1, 0, 0.5, 0, 1, 0.5),
            None,
            id="northing and easting",
        ),
        pytest.param(
            xr.DataArray(
                np.ones((2, 3)), dims=("yc", "xc"), coords={"yc": [1.0, 2], "xc": [1.0, 2, 3]}
            ),
            (1, 0, 0.5, 0, 1, 0.5),
            None,
            id="yc and xc",
        ),
        pytest.param(
            xr.DataArray(
                np.ones((2, 3)),
                dims=("j", "i"),
                coords={
                    "j": ("j", [1.0, 2], {"axis": "Y"}),
                    "i": ("i", [1.0, 2, 3], {"units": "degrees_east"}),
                },
            ),
            (1, 0, 0.5, 0, 1, 0.5),
            None,
            id="told by attributes",
        ),
        pytest.param(
            xr.DataArray(
                np.ones((2, 3)),
                dims=("y", "x"),
                coords={"lat": ("y", [1.0, 2]), "lon": ("x", [1.0, 2, 3])},
            ),
            (1, 0, 0.5, 0, 1, 0.5),
            None,
            id="coordinates of other names",
        ),
        pytest.param(
            grid(
                np.float32(50) - np.arange(50, dtype=np.float32) * np.float32(0.001), np.arange(3.0)
            ),
            (1, 0, -0.5, 0, -0.001, 50.0005),
            None,
            id="rounded to 32 bits",
        ),
    ],
)
def test_places(array, transform, why):
    """A grid lies where its coordinates are; where they do not say that, it has no place, and the
    reader says why.
    """
    source = open_source(array)
    found = source.frame.transform
    assert (found is None) == (transform is None)
    if transform is not None:
        np.testing.assert_allclose(found, transform, rtol=1e-5)
    told = " ".join(source.facts["not_understood"])
    assert (why in told) if why else not told


def test_turned_grids(tmp_path):
    """A raster that is turned has coordinates for every pixel: a part of it lies where these are,
    and coordinates of rows that contradict its transform are not believed.
    """
    turned = (
        rasterio.Affine.translation(5e5, 5e6)
        @ rasterio.Affine.rotation(30)
        @ rasterio.Affine.scale(10, -10)
    )
    array = opened(tiff(tmp_path / "a.tif", PIXELS, transform=turned))
    np.testing.assert_allclose(open_source(array).frame.transform, turned[:6])
    part = open_source(array.isel(y=slice(3, None), x=slice(5, 20)).transpose("x", "band", "y"))
    np.testing.assert_allclose(
        part.frame.transform, (turned @ rasterio.Affine.translation(5, 3))[:6]
    )
    odd = open_source(array.assign_coords(x=np.arange(36.0), y=np.arange(24.0)))
    assert odd.frame.transform is None
    assert "contradict a transform that is turned" in odd.facts["not_understood"][0]


@pytest.mark.parametrize("crs", [32633, 4326, 3035, 3413, 27700])
@pytest.mark.parametrize(
    "form", ["crs_wkt", "spatial_ref", "another name", "words", "attribute", "epsg"]
)
def test_reference_systems(crs, form):
    """The CRS is that of the grid mapping, whatever its name and in whichever words, as pyproj
    writes them; or of an attribute.
    """
    from pyproj import CRS, Transformer

    known, array = CRS.from_epsg(crs), grid([2.0, 1.0], [5.0, 7.0])
    words = known.to_cf()
    wkt = words.pop("crs_wkt")
    array = {
        "crs_wkt": lambda: array.assign_coords(spatial_ref=((), 0, {"crs_wkt": wkt})),
        "spatial_ref": lambda: array.assign_coords(
            spatial_ref=((), 0, {"spatial_ref": known.to_wkt("WKT1_GDAL")})
        ),
        "another name": lambda: array.assign_coords(map=((), 0, {"crs_wkt": wkt})).assign_attrs(
            grid_mapping="map"
        ),
        "words": lambda: array.assign_coords(map=((), 0, words)).assign_attrs(
            grid_mapping="map: x y"
        ),
        "attribute": lambda: array.assign_attrs(crs=f"+init=epsg:{crs}"),
        "epsg": lambda: array.assign_coords(epsg=crs),
    }[form]()
    frame = open_source(array).frame
    middle = known.area_of_use
    place = Transformer.from_crs(4326, known, always_xy=True).transform(
        (middle.west + middle.east) / 2, (middle.south + middle.north) / 2
    )
    ours, theirs = (
        Transformer.from_crs(each, 4326, always_xy=True).transform(*place)
        for each in (CRS.from_wkt(frame.crs), known)
    )
    np.testing.assert_allclose(
        ours, theirs, atol=1e-4
    )  # without the words for a datum, as far as that shifts
    assert frame.unit == ("degree" if crs == 4326 else "metre")


def test_a_reference_system_that_is_not_understood():
    """A CRS that cannot be read, or a grid mapping that is not there, is said."""
    for array, told in (
        (
            grid([2.0, 1.0], [5.0, 7.0]).assign_attrs(crs="the moon"),
            "the CRS 'the moon' is not understood",
        ),
        (
            grid([2.0, 1.0], [5.0, 7.0]).assign_attrs(grid_mapping="map"),
            "the grid mapping map is not there",
        ),
    ):
        source = open_source(array)
        assert source.frame.crs is None
        assert told in source.facts["not_understood"][0]


@pytest.mark.parametrize("masked", [False, True])
def test_fill_values(masked, tmp_path):
    """Of data as they are stored the fill value is not measured; decoded, NaN stands there, and a
    value that happens to be the encoded fill value was measured.
    """
    pixels = PIXELS.astype(np.int16)
    pixels[:, :5] = 0
    with rasterio.open(tiff(tmp_path / "a.tif", pixels, nodata=0), "r+") as file:
        file.scales, file.offsets = (0.5,) * 3, (-10.0,) * 3
    array = opened(tmp_path / "a.tif", mask_and_scale=masked)
    source = open_source(array)
    expected = np.isfinite(array.values) if masked else pixels != 0
    np.testing.assert_array_equal(source.frame.measured(whole(source)), expected)
    assert (array == 0).any()
    assert source.frame.nodata == (None if masked else 0)
    assert bool(source.facts["not_understood"]) != masked  # that scale and offset are not applied


def test_values_that_mean_missing():
    """`missing_value` counts as `_FillValue` does, several of them and both; large numbers are told
    apart; the option comes first.
    """
    array = xr.DataArray(np.array([[1, 254, 255, 7]], np.uint8), dims=("y", "x"))
    for attributes, expected in (
        ({"missing_value": 255}, [1, 1, 0, 1]),
        ({"missing_value": [254, 255]}, [1, 0, 0, 1]),
        ({"_FillValue": np.uint8(254), "missing_value": np.array([255])}, [1, 0, 0, 1]),
        ({"_FillValue": -1}, [1, 1, 0, 1]),
        ({"nodata": "7"}, [1, 1, 1, 0]),
    ):
        source = open_source(array.assign_attrs(attributes))
        np.testing.assert_array_equal(source.frame.measured(whole(source))[0, 0], expected)
    chosen = open_source(array.assign_attrs(_FillValue=254, missing_value=255), nodata=1)
    np.testing.assert_array_equal(chosen.frame.measured(whole(chosen))[0, 0], [0, 1, 1, 1])
    large = xr.DataArray(
        np.array([[2**64 - 1, 2**64 - 2]], np.uint64),
        dims=("y", "x"),
        attrs={"_FillValue": 2**64 - 1},
    )
    source = open_source(large)
    np.testing.assert_array_equal(source.frame.measured(whole(source)), [[[False, True]]])
    with pytest.raises(SourceError, match="its attribute _FillValue is 'none'; allowed: a number"):
        open_source(array.assign_attrs(_FillValue="none"))


def test_names_of_bands(tmp_path):
    """Bands are called what the file calls them, whichever are left and in whichever order."""
    with rasterio.open(tiff(tmp_path / "a.tif", PIXELS), "r+") as file:
        file.descriptions = ("red", "green", "nir")
    array = opened(tmp_path / "a.tif")
    assert open_source(array).frame.bands == ("red", "green", "nir")
    assert open_source(array.isel(band=[2, 0])).frame.bands == ("nir", "red")
    np.testing.assert_array_equal(
        whole(open_source(array.isel(band=[2, 0]), bands=["red"])), PIXELS[:1]
    )
    several = xr.Dataset({"red": (("y", "x"), PIXELS[0]), "nir": (("y", "x"), PIXELS[1])})
    assert open_source(several.to_dataarray()).frame.bands == ("red", "nir")
    with pytest.raises(JobError, match=r"choose a variable, dataset\['red'\]; it has red, nir"):
        open_source(several)


def test_axes_of_any_name():
    """An axis is known by its name or by its coordinates; one that is not is asked for; axes
    without names are as an array's.
    """
    assert open_source(xr.DataArray(PIXELS)).frame.bands == ("1", "2", "3")
    assert open_source(xr.DataArray(PIXELS, dims=("Z", "Y", "X"))).frame.shape == (3, 24, 36)
    with pytest.raises(JobError, match="axes: the array has the shape"):
        open_source(xr.DataArray(np.zeros((10, 20, 30))))
    with pytest.raises(JobError, match=r"the dimension 'foo' is not known; .*axes: cyx"):
        open_source(xr.DataArray(PIXELS, dims=("foo", "y", "x")))
    named = xr.DataArray(
        PIXELS, dims=("foo", "y", "x"), coords={"y": np.arange(24) * 2.0, "x": np.arange(36.0)}
    )
    np.testing.assert_allclose(
        open_source(named, axes="cyx").frame.transform, (1, 0, -0.5, 0, 2, -1)
    )


def test_volumes():
    """A volume whose planes, rows and columns have coordinates has their sizes, in their unit, and
    begins at the first.
    """
    about = {"units": "um"}
    coords = {
        "z": ("z", 5 + 2.0 * np.arange(3), about),
        "y": ("y", 0.5 * np.arange(24), about),
        "x": ("x", 9 + 0.25 * np.arange(36), about),
    }
    frame = open_source(xr.DataArray(PIXELS, dims=("z", "y", "x"), coords=coords)).frame
    assert (frame.pixel_size, frame.unit, frame.translation) == (
        (2.0, 0.5, 0.25),
        "micrometer",
        (5.0, 0.0, 9.0),
    )
    mixed = {**coords, "z": ("z", 5000 + 2000.0 * np.arange(3), {"units": "nanometer"})}
    frame = open_source(xr.DataArray(PIXELS, dims=("z", "y", "x"), coords=mixed)).frame
    assert (frame.pixel_size, frame.unit) == (pytest.approx((2.0, 0.5, 0.25)), "micrometer")
    assert frame.translation == pytest.approx((5.0, 0.0, 9.0))
    uneven = {**coords, "z": ("z", [1.0, 2.0, 4.0], about)}
    source = open_source(xr.DataArray(PIXELS, dims=("z", "y", "x"), coords=uneven))
    assert (source.frame.unit, source.frame.unlike) == ("micrometer", (0,))
    assert source.facts["not_understood"] == [
        "coordinates along z are not evenly spaced: how thick planes are is not known"
    ]
