"""Seeds, markers and truth from files: what people drew lies where they drew it, whatever its
system, or they are asked.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pyproj
import pytest
import rasterio
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.features import rasterize
from typer.testing import CliRunner

import pipeline
from pipeline.__main__ import app
from pipeline.annotations.placement import FAR
from pipeline.annotations.rasters_and_shapes import open_companion
from pipeline.errors import JobError, SourceError
from pipeline.evaluation import against_truth
from pipeline.image.frame import Frame
from pipeline.image.grid import Box

SHAPE = (60, 80)
PLACE = rasterio.Affine(10, 0, 500_000, 0, -10, 5_000_000)
TURNED = PLACE @ rasterio.Affine.rotation(20) @ rasterio.Affine.scale(1, 0.5)
UTM = rasterio.CRS.from_epsg(32633).to_wkt()
SYSTEMS = ("EPSG:4326", "EPSG:3857", "EPSG:32632", "EPSG:3035", "EPSG:32633", "OGC:CRS84")
FORMS = {"GPKG": ".gpkg", "FlatGeobuf": ".fgb", "ESRI Shapefile": ".shp", "GeoJSON": ".geojson"}


def frame(
    transform: rasterio.Affine | None = PLACE, crs: str | None = UTM, shape: tuple[int, ...] = SHAPE
) -> Frame:
    return Frame(shape, transform=None if transform is None else tuple(transform)[:6], crs=crs)


def drawn() -> list[shapely.Geometry]:
    """In pixels, x along columns: a polygon with a hole, one of two parts, one that is turned; no
    edge through a pixel's middle.
    """
    ring = shapely.Polygon(
        [(5.3, 4.2), (30.2, 6.1), (28.4, 25.3), (4.1, 22.6)],
        [[(12.2, 10.3), (20.1, 10.2), (19.3, 17.4)]],
    )
    parts = shapely.MultiPolygon(
        [shapely.box(40.2, 5.3, 50.4, 15.1), shapely.box(55.3, 8.2, 70.1, 20.4)]
    )
    return [ring, parts, shapely.affinity.rotate(shapely.box(20.3, 35.2, 60.2, 50.4), 13)]


def expected(shapes: list[shapely.Geometry]) -> np.ndarray:
    """What rasterio draws of shapes in pixels."""
    return rasterize([(each, k + 1) for k, each in enumerate(shapes)], SHAPE, dtype="int32")


def moved(
    shapes: list[shapely.Geometry], transform: rasterio.Affine, system: str | None
) -> list[shapely.Geometry]:
    """Shapes in pixels as coordinates of the image's CRS, or as pyproj has them in another."""
    change = pyproj.Transformer.from_crs("EPSG:32633", system, always_xy=True) if system else None

    def place(xy: np.ndarray) -> np.ndarray:
        x, y = transform @ xy.T
        return np.stack(change.transform(x, y) if change else (x, y), axis=1)

    return [shapely.transform(each, place) for each in shapes]


def features(shapes: list[shapely.Geometry], *about: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Shapes as GeoJSON."""
    told = about or ({},) * len(shapes)
    each = [
        {
            "type": "Feature",
            "properties": properties,
            "geometry": json.loads(shapely.to_geojson(shape)),
        }
        for shape, properties in zip(shapes, told, strict=True)
    ]
    return {"type": "FeatureCollection", "features": each, **more}


def geojson(path: Path, *arguments: Any, **more: Any) -> Path:
    path.write_text(json.dumps(features(*arguments, **more)))
    return path


def named(system: str) -> dict[str, Any]:
    """A CRS as GeoJSON of 2008 names it."""
    return {"crs": {"type": "name", "properties": {"name": system}}}


def read(given: Any, image: Frame) -> np.ndarray:
    return open_companion(given, image).read(Box.whole(image.shape))


@pytest.mark.parametrize("transform", [PLACE, TURNED], ids=["north up", "turned"])
@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("form", FORMS)
def test_a_file_in_any_system_is_reprojected(form, system, transform, tmp_path):
    """Shapes in any CRS, in any form of file, are drawn where rasterio draws them in pixels."""
    path, shapes = tmp_path / f"a{FORMS[form]}", moved(drawn(), transform, system)
    if form == "GeoJSON":
        about = [{"number": k + 1} for k in range(len(shapes))]
        geojson(
            path,
            shapes,
            *about,
            **named("urn:ogc:def:crs:OGC:1.3:CRS84" if system == "OGC:CRS84" else system),
        )
    else:
        vector(path, shapes, system)
    np.testing.assert_array_equal(
        read({"path": str(path), "attribute": "number"}, frame(transform)), expected(drawn())
    )


def vector(path: Path, shapes: list[shapely.Geometry], system: str | None) -> None:
    """Write numbered shapes; a FlatGeobuf has them in an order of its own."""
    parts = [
        shapely.multipolygons([each]) if each.geom_type == "Polygon" else each for each in shapes
    ]
    numbers = np.arange(1, len(shapes) + 1, dtype=np.int32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that there is no CRS
        pyogrio.raw.write(
            path,
            shapely.to_wkb(parts),
            [numbers],
            ["number"],
            geometry_type="MultiPolygon",
            crs=system,
        )


def test_geojson_that_names_no_system_is_in_degrees(tmp_path):
    """On an image that has a place, GeoJSON without a CRS is in longitude and latitude, as RFC 7946
    has it.
    """
    path = geojson(tmp_path / "a.geojson", moved(drawn(), PLACE, "EPSG:4326"))
    np.testing.assert_array_equal(read(str(path), frame()), expected(drawn()))


def test_points_with_a_system_are_reprojected():
    """Points given with their CRS lie in the pixels that pyproj finds."""
    middles = np.array([(3.5, 4.5), (70.5, 50.5)])
    x, y = pyproj.Transformer.from_crs("EPSG:32633", "EPSG:4326", always_xy=True).transform(
        *(PLACE @ middles.T)
    )
    found = read({"points": np.stack([x, y], axis=1).tolist(), "crs": "EPSG:4326"}, frame())
    assert {tuple(place): found[tuple(place)] for place in np.argwhere(found).tolist()} == {
        (4, 3): 1,
        (50, 70): 2,
    }


def qupath() -> list[dict[str, Any]]:
    """What QuPath says of its objects."""
    return [
        {
            "objectType": "annotation",
            "classification": {"name": name, "color": [200, 0, 0]},
            "isLocked": False,
        }
        for name in ("Tumor", "Stroma", "Tumor")
    ]


def test_geojson_of_qupath_is_in_pixels(tmp_path):
    """On an image without a place, GeoJSON is in pixels, as QuPath writes it: polygons with holes,
    several parts, and points.
    """
    image = frame(None, None)
    path = geojson(tmp_path / "a.geojson", drawn(), *qupath())
    np.testing.assert_array_equal(read(str(path), image), expected(drawn()))
    points = geojson(
        tmp_path / "points.geojson",
        [shapely.Point(3.5, 4.5), shapely.MultiPoint([(70.5, 50.5), (71.5, 50.5)])],
    )
    assert np.argwhere(read(str(points), image)).tolist() == [[4, 3], [50, 70], [50, 71]]


def test_classes_of_qupath(tmp_path):
    """Classes by name are numbered as they are listed, and asked for where nobody says which is
    which.
    """
    image, path = frame(None, None), str(geojson(tmp_path / "a.geojson", drawn(), *qupath()))
    found = read(
        {"path": path, "attribute": "classification", "classes": ["Stroma", "Tumor"]}, image
    )
    np.testing.assert_array_equal(found, np.array([0, 2, 1, 2])[expected(drawn())])
    found = read(
        {"path": path, "attribute": "classification", "classes": {"Stroma": 7, "Tumor": 3}}, image
    )
    np.testing.assert_array_equal(found, np.array([0, 3, 7, 3])[expected(drawn())])
    with pytest.raises(
        JobError,
        match=r"a\.geojson: attribute: 'classification' holds names, Stroma, Tumor; say which is "
        r"which: classes",
    ):
        open_companion({"path": path, "attribute": "classification"}, image)
    with pytest.raises(
        JobError,
        match=r"the classification of feature 1 is 'Tumor'; allowed: Stroma, Tumour; did you "
        r"mean 'Tumour'",
    ):
        open_companion(
            {"path": path, "attribute": "classification", "classes": ["Tumour", "Stroma"]}, image
        )
    nothing = str(
        geojson(
            tmp_path / "b.geojson",
            drawn(),
            *qupath()[:2],
            {"objectType": "annotation", "classification": None},
        )
    )
    with pytest.raises(JobError, match="the classification of feature 3 is none"):
        open_companion(
            {"path": nothing, "attribute": "classification", "classes": ["Tumor", "Stroma"]}, image
        )


ASKED = {
    "GeoJSON beyond degrees": (
        ".geojson",
        None,
        frame(),
        (
            r"it names no CRS, and \(.*\) is no longitude and latitude, .* say it: crs: pixels, "
            r"crs: "
            r"image"
        ),
    ),
    "a Shapefile without .prj": (
        ".shp",
        None,
        frame(),
        (
            r"it does not say what its coordinates are in; say it: crs: pixels, crs: image, "
            r".*EPSG:32633"
        ),
    ),
    "a GeoPackage without a CRS": (
        ".gpkg",
        None,
        frame(),
        "it does not say what its coordinates are in",
    ),
    "a CRS, of an image without": (
        ".gpkg",
        "EPSG:32633",
        frame(None, None),
        "in the CRS EPSG:32633, and the image has none; .*crs: pixels",
    ),
    "GeoJSON with a CRS, of an image without": (
        ".geojson",
        "EPSG:32633",
        frame(None, None),
        "in the CRS EPSG:32633, and the image has none",
    ),
    "a CRS, of an image in an unknown one": (
        ".gpkg",
        "EPSG:32633",
        frame(PLACE, None),
        "in the CRS EPSG:32633, and the image has none",
    ),
}


@pytest.mark.parametrize("name", ASKED)
def test_where_nobody_knows_people_are_asked(name, tmp_path):
    """A file that does not say its system, or a contradiction, is refused by its name with what to
    say; said, it is read so.
    """
    ending, system, image, message = ASKED[name]
    path, shapes = tmp_path / f"truth{ending}", moved(drawn(), PLACE, None)
    if ending == ".geojson":
        geojson(path, shapes, **(named(system) if system else {}))
    else:
        vector(path, shapes, system)
        path.with_suffix(".prj").unlink(missing_ok=True)
    with pytest.raises(JobError, match=rf"truth\{ending}.*{message}"):
        open_companion(str(path), image)
    if image.transform:
        np.testing.assert_array_equal(
            read({"path": str(path), "crs": "image"}, image), expected(drawn())
        )
    pixels = tmp_path / f"pixels{ending}"
    if ending == ".geojson":
        geojson(pixels, drawn(), **(named(system) if system else {}))
        np.testing.assert_array_equal(
            read({"path": str(pixels), "crs": "pixels"}, image), expected(drawn())
        )


def test_an_image_in_an_unknown_system(tmp_path):
    """Of an image that has a place and no CRS, what lies on it in one way only is read so; both, or
    neither, are asked.
    """
    image = frame(PLACE, None)
    for shapes in (drawn(), moved(drawn(), PLACE, None)):
        np.testing.assert_array_equal(
            read(str(geojson(tmp_path / "a.geojson", shapes)), image), expected(drawn())
        )
    near = frame(rasterio.Affine(1, 0, 2, 0, 1, 3), None)
    for shapes, how in (
        (drawn()[:1], "both do lie"),
        ([shapely.box(500, 500, 600, 600)], "neither lie"),
    ):
        with pytest.raises(
            JobError,
            match=rf"a\.geojson does not say whether it is in pixels .*{how} on it; say it: crs: "
            rf"pixels, crs: image",
        ):
            open_companion(str(geojson(tmp_path / "a.geojson", shapes)), near)


OUTSIDE = {
    "pixels on an image with a place": (
        drawn(),
        frame(),
        (
            "they are taken for coordinates in EPSG:4326, as GeoJSON is that names no CRS; if they "
            "are others, say so: crs"
        ),
    ),
    "rows as QGIS has them": (
        [shapely.transform(each, lambda xy: xy * [1, -1]) for each in drawn()],
        frame(None, None),
        "negative, as QGIS has them: write y without",
    ),
    "degrees on an image without a place": (
        [shapely.box(400, 300, 410, 310)],
        frame(None, None),
        "they are taken for pixels, as GeoJSON is",
    ),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_what_lies_outside(name, tmp_path):
    """Shapes that lie outside of the image are refused by the file's name, with what they were
    taken for.
    """
    shapes, image, message = OUTSIDE[name]
    with pytest.raises(
        JobError, match=rf"(?s)a\.geojson: .* lie outside the image, the first at pixel .*{message}"
    ):
        open_companion(str(geojson(tmp_path / "a.geojson", shapes)), image)


def test_options_of_files(tmp_path):
    """What is said of a file counts more than what it says; what is no CRS, and options of a
    raster, are refused.
    """
    path = str(
        geojson(tmp_path / "a.geojson", moved(drawn(), PLACE, "EPSG:3035"), **named("EPSG:32633"))
    )
    np.testing.assert_array_equal(
        read({"path": path, "crs": "EPSG:3035"}, frame()), expected(drawn())
    )
    with pytest.raises(JobError, match="crs: 'EPSG:1' is no CRS"):
        open_companion({"path": path, "crs": "EPSG:1"}, frame())
    with pytest.raises(
        JobError, match=r"crs: 'EPSG:3035'; the image has no place that is known; allowed: pixels$"
    ):
        open_companion({"path": path, "crs": "EPSG:3035"}, frame(None, None))
    for option in ("crs", "attribute", "classes", "layer"):
        with pytest.raises(
            JobError, match=f"{option}: 'pixels' with the array; allowed with a vector file"
        ):
            open_companion({"path": np.ones(SHAPE, int), option: "pixels"}, frame())
    empty = tmp_path / "empty.geojson"
    for geometry in (None, {"type": "Polygon", "coordinates": []}):
        empty.write_text(
            json.dumps(
                {
                    "type": "FeatureCollection",
                    "features": [{"type": "Feature", "properties": {}, "geometry": geometry}],
                }
            )
        )
        with pytest.raises(JobError, match=r"empty\.geojson holds no shapes"):
            open_companion(str(empty), frame())


def test_features_without_a_shape_keep_the_others_numbers(tmp_path):
    """A feature that has no shape is passed over; those after it have the numbers of their places
    in the file; heights are left out.
    """
    found = features(drawn())
    found["features"][1]["geometry"] = None
    found["features"][0]["geometry"]["coordinates"] = [
        [[*place, 7.5] for place in ring]
        for ring in found["features"][0]["geometry"]["coordinates"]
    ]
    (tmp_path / "a.geojson").write_text(json.dumps(found))
    ring, _, turned = drawn()
    truth = rasterize([(ring, 1), (turned, 3)], SHAPE, dtype="int32")
    np.testing.assert_array_equal(read(str(tmp_path / "a.geojson"), frame(None, None)), truth)


def raster(
    path: Path,
    values: np.ndarray,
    transform: rasterio.Affine = PLACE,
    crs: str | None = "EPSG:32633",
    **more: Any,
) -> str:
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=1,
        height=values.shape[0],
        width=values.shape[1],
        dtype=values.dtype,
        transform=transform,
        crs=crs,
        **more,
    ) as file:
        file.write(values, 1)
    return str(path)


def test_floats_that_are_whole_are_labels(tmp_path):
    """Labels as floats are those as integers, NaN where nothing is known; a float that is none is
    refused, by the file's name.
    """
    labels = expected(drawn())
    whole = labels.astype(np.float32)
    whole[0, 0] = np.nan
    path = raster(tmp_path / "floats.tif", whole)
    np.testing.assert_array_equal(read(path, frame()), labels)
    for ours, truth in (
        (path, raster(tmp_path / "whole.tif", labels)),
        (raster(tmp_path / "ours.tif", labels), path),
    ):
        assert against_truth.evaluate(ours, truth).measures["at"][0.5]["f1"] == 1
    for odd in (0.5, 2.0**60):
        whole[3, 3] = odd
        with pytest.raises(
            SourceError, match=r"odd\.tif holds .*; allowed: whole numbers, as floats too"
        ):
            open_companion(raster(tmp_path / "odd.tif", whole), frame())


GRIDS = {
    "another CRS": (
        {"crs": "EPSG:32632"},
        "in the CRS EPSG:32632; allowed: the image's, EPSG:32633",
    ),
    "a pixel to the east": (
        {"transform": PLACE @ rasterio.Affine.translation(1, 0)},
        "its corners lie up to 1 pixels off the image's",
    ),
    "half a pixel down": (
        {"transform": PLACE @ rasterio.Affine.translation(0, 0.5)},
        "up to 0.5 pixels off",
    ),
    "pixels a little larger": (
        {"transform": PLACE @ rasterio.Affine.scale(1.01)},
        "up to 0.8 pixels off",
    ),
    "upside down": ({"transform": PLACE @ rasterio.Affine.scale(1, -1)}, "up to 120 pixels off"),
}


@pytest.mark.parametrize("name", GRIDS)
def test_a_raster_on_another_grid(name, tmp_path):
    """A raster in another CRS or on another grid is refused by its name, with how far it is off."""
    more, message = GRIDS[name]
    with pytest.raises(JobError, match=rf"moved\.tif: .*{message}"):
        open_companion(raster(tmp_path / "moved.tif", expected(drawn()), **more), frame())


@settings(max_examples=40, deadline=None)
@given(st.floats(-2 * FAR, 2 * FAR), st.floats(1e-7, 1e4), st.floats(-1e7, 1e7), st.floats(0, 360))
def test_the_same_grid_whatever_its_units(off, size, east, angle):
    """A grid is the image's where it is off by less than a hundredth of a pixel, in degrees as in
    metres, however turned.
    """
    place = (
        rasterio.Affine.translation(east, 0)
        @ rasterio.Affine.rotation(angle)
        @ rasterio.Affine.scale(size, -size)
    )
    image, other = frame(place, None), frame(place @ rasterio.Affine.translation(off, 0), None)
    from pipeline.annotations.placement import refuse_grid

    lost = 1e-15 * abs(east) / size * 4  # what floats do not hold of it
    if abs(off) < FAR - lost:
        refuse_grid(other, image, "it")
    elif abs(off) > FAR + lost:
        with pytest.raises(JobError, match="pixels off"):
            refuse_grid(other, image, "it")


def test_everywhere_that_takes_them(tmp_path):
    """Seeds of a job and truth of `evaluate` in another CRS give what those in pixels give; what is
    wrong with them names the file.
    """
    pixels = (
        np.random.default_rng(0).integers(0, 9, SHAPE, np.uint8)
        + (expected(drawn()) > 0).astype(np.uint8) * 100
    )
    image = raster(tmp_path / "image.tif", pixels)
    seeds = [shapely.Point(8.5, 8.5), shapely.Point(45.5, 10.5), shapely.Point(40.5, 42.5)]
    degrees = geojson(tmp_path / "seeds.geojson", moved(seeds, PLACE, "EPSG:4326"))
    results = [
        pipeline.segment(
            image,
            {"kind": "region_growing", "tolerance": 20, "seeds": given},
            tmp_path / out,
            engine=pipeline.local(),
        )
        for out, given in (("a", str(degrees)), ("b", [[8, 8], [10, 45], [42, 40]]))
    ]
    np.testing.assert_array_equal(results[0].labels.values, results[1].labels.values)
    assert results[0].record["objects"] == 3
    truth = geojson(
        tmp_path / "truth.geojson", moved(drawn(), PLACE, "EPSG:3857"), **named("EPSG:3857")
    )
    ours = raster(tmp_path / "ours.tif", expected(drawn()))
    assert against_truth.evaluate(ours, str(truth)).measures["at"][0.9]["f1"] == 1
    unsaid = geojson(tmp_path / "unsaid.geojson", moved(drawn(), PLACE, None))
    refused = CliRunner().invoke(app, ["evaluate", ours, str(unsaid)])
    assert refused.exit_code == 2
    assert "unsaid.geojson: it names no CRS" in refused.stderr
    said = CliRunner().invoke(app, ["evaluate", ours, str(unsaid), "--crs", "image"])
    assert said.exit_code == 0, said.output
