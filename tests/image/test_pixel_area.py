"""How large pixels are, against PROJ's geodesics, its projections and exact sums."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pyogrio
import pyproj
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS
from scipy import ndimage

import pipeline
from pipeline.image.frame import Frame
from pipeline.image.pixel_area import (
    EXPONENT,
    LIMBS,
    pixel_areas,
    pixel_extent,
    scale,
    size_column,
    step_lengths,
    vary,
)
from tests.stages.test_lines import Curves

WGS84 = CRS.from_epsg(4326).to_wkt()
ELLIPSOIDS = {
    "WGS 84": WGS84,
    "WGS 84 as WKT 2": CRS.from_epsg(4326).to_wkt(version="WKT2_2019"),
    "Clarke 1880, in grads": CRS.from_epsg(4807).to_wkt(),
    "a sphere": CRS.from_string("+proj=longlat +R=6371000 +no_defs").to_wkt(),
    "with heights": CRS.from_string("EPSG:4326+5773").to_wkt(),
}


def geod_of(wkt):
    return pyproj.CRS.from_wkt(wkt).get_geod()


def degrees_of(wkt):
    return np.degrees(CRS.from_wkt(wkt).units_factor[1])


def areas(frame, first, last):
    """The areas of the pixels of the first column as floats."""
    limbs = pixel_areas(frame, (first, last), (0, 1))[:, 0]
    return [
        float(sum(int(limb) << (32 * k) for k, limb in enumerate(row)) * 2.0**EXPONENT)
        for row in limbs
    ]


def along_parallels(geod, west, east, south, north, factor):
    """The area of a pixel by Karney's algorithm, of a polygon that follows the parallels
    closely.
    """
    x = np.linspace(west, east, 2001)
    around = np.concatenate([x, x[::-1]]) * factor, np.repeat([south, north], len(x)) * factor
    return abs(geod.polygon_area_perimeter(*around)[0])


@pytest.mark.parametrize("name", ELLIPSOIDS)
@pytest.mark.parametrize("size", [(1.0, 1.0), (0.25, 0.1), (0.001, 0.002)], ids=str)
@pytest.mark.parametrize("top", [80.0, 3.0, -0.5, -47.3])
def test_pixels_of_a_geographic_crs_have_karneys_areas(name, size, top):
    """The area of a pixel is that which PROJ's geodesics find of a polygon along its meridians and
    parallels, on any ellipsoid.
    """
    wkt, (across, down) = ELLIPSOIDS[name], size
    frame = Frame((3, 4), transform=(across, 0.0, 11.0, 0.0, -down, top), crs=wkt)
    assert size_column(frame) == "area_m2"
    for row, area in enumerate(areas(frame, 0, 3)):
        north, south = top - row * down, top - (row + 1) * down
        expected = along_parallels(geod_of(wkt), 11.0, 11.0 + across, south, north, degrees_of(wkt))
        assert area == pytest.approx(expected, rel=2e-8)


def test_the_areas_of_all_pixels_are_that_of_the_earth():
    """Grids over the whole Earth, whether poles are on pixels' edges or in their middles, have the
    area that EPSG's ellipsoid has.
    """
    earth = 510_065_621_724_088.44  # Karney (2013), of WGS 84
    for rows, top in ((180, 90.0), (181, 90.5)):
        frame = Frame((rows, 360), transform=(1.0, 0.0, -180.0, 0.0, -1.0, top), crs=WGS84)
        assert sum(areas(frame, 0, rows)) * 360 == pytest.approx(earth, rel=1e-13)


@given(st.integers(1, 60), st.data())
def test_a_rows_area_does_not_depend_on_what_is_asked_with_it(rows, data):
    """The rows of a tile have, to the last bit, the areas that they have among all rows."""
    frame = Frame((rows, 9), transform=(0.1, 0.0, 5.0, 0.0, -0.1, 47.7), crs=WGS84)
    first = data.draw(st.integers(0, rows - 1))
    last = data.draw(st.integers(first + 1, rows))
    np.testing.assert_array_equal(
        pixel_areas(frame, (first, last), (2, 5)), pixel_areas(frame, (0, rows), (0, 9))[first:last]
    )
    turned = replace(frame, transform=(0.1, 0.03, 5.0, 0.02, -0.1, 47.7))
    np.testing.assert_array_equal(
        pixel_areas(turned, (first, last), (2, 5)),
        pixel_areas(turned, (0, rows), (0, 9))[first:last, 2:5],
    )


@pytest.mark.parametrize(
    "transform",
    [(0.01, 0.004, 5.0, 0.003, -0.02, 52.0), (0.6, -0.8, 5.0, 0.8, 0.6, -20.0)],
    ids=["a little", "by half"],
)
def test_rotated_pixels_have_karneys_areas(transform):
    """In a rotated image, a pixel's area is that of the polygon on the ellipsoid whose sides are
    straight in longitude and latitude.
    """
    frame = Frame((5, 7), transform=transform, crs=WGS84)
    assert size_column(frame) == "area_m2"
    limbs, geod = pixel_areas(frame, (0, 5), (0, 7)), pyproj.Geod(ellps="WGS84")
    step = np.linspace(0, 1, 1001)
    for row, column in np.ndindex(5, 7):
        down = np.concatenate([0 * step, step, 0 * step + 1, step[::-1]])
        across = np.concatenate([step, 0 * step + 1, step[::-1], 0 * step])
        expected = abs(geod.polygon_area_perimeter(*frame.place(row + down, column + across))[0])
        area = (
            sum(int(limb) << (32 * k) for k, limb in enumerate(limbs[row, column])) * 2.0**EXPONENT
        )
        assert area == pytest.approx(expected, rel=2e-8)


SHAPE = (41, 53)


def geographic(folder, image, transform=(0.02, 0.0, 11.0, 0.0, -0.015, 61.0)):
    path = Path(folder, "image.tif")
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=image.shape[1],
        height=image.shape[0],
        count=1,
        dtype=image.dtype,
        crs=CRS.from_epsg(4326),
        transform=rasterio.Affine(*transform),
    ) as file:
        file.write(image, 1)
    return str(path)


@pytest.mark.parametrize("turned", [False, True], ids=["north up", "rotated"])
@settings(max_examples=6)
@given(data=st.data())
def test_areas_of_objects_are_those_of_their_polygons(turned, data):
    """Whatever the tiles, area_m2 is the same to the last bit, and what PROJ's geodesics say of the
    pixels' polygons.
    """
    noise = ndimage.gaussian_filter(
        np.random.default_rng(data.draw(st.integers(0, 99))).random(SHAPE), 2
    )
    image = (noise > 0.5).astype(np.uint8)
    tile = data.draw(st.tuples(st.integers(6, 41), st.integers(9, 53)))
    found = []
    with tempfile.TemporaryDirectory() as folder:
        transform = (
            (0.02, 0.004, 11.0, 0.003, -0.015, 61.0)
            if turned
            else (0.02, 0.0, 11.0, 0.0, -0.015, 61.0)
        )
        path = geographic(folder, image, transform)
        for number, size in enumerate((SHAPE, tile, (3, 50))):
            result = pipeline.segment(
                path,
                pipeline.Threshold(value=0.5),
                f"{folder}/{number}",
                tile=list(size),
                engine=pipeline.local(),
            )
            found.append(
                pq.read_table(
                    f"{result.path}/objects.parquet", columns=["id", "area", "area_m2"]
                ).to_pydict()
            )
        labels = result.labels.values
    assert found[0] == found[1] == found[2]
    geod = pyproj.Geod(ellps="WGS84")
    size, frame = np.zeros(SHAPE), Frame(SHAPE, transform=transform)
    for row, column in np.ndindex(SHAPE):
        corners = frame.place(row + np.array([0, 0, 1, 1]), column + np.array([0, 1, 1, 0]))
        size[row, column] = abs(geod.polygon_area_perimeter(*corners)[0])
    for label, pixels, area in zip(*found[0].values(), strict=True):
        assert pixels == (labels == label).sum()
        assert area == pytest.approx(size[labels == label].sum(), rel=1e-7)


@pytest.mark.parametrize(
    ("epsg", "unit"),
    [pytest.param(32633, 1.0, id="metres"), pytest.param(2263, 1200 / 3937, id="US survey feet")],
)
@pytest.mark.parametrize(
    "transform",
    [(10.0, 0.0, 9e5, 0.0, -10.0, 2e5), (8.0, 6.0, 9e5, 6.0, -8.0, 2e5)],
    ids=["north up", "rotated"],
)
def test_pixels_of_a_projected_crs_are_measured_in_its_unit(tmp_path, epsg, unit, transform):
    """Of a projected CRS a pixel's area is that in its plane, in square metres whatever its unit,
    rotated or not.
    """
    image = np.zeros((9, 9), np.uint8)
    image[2:5, 1:7] = 1
    with rasterio.open(
        tmp_path / "p.tif",
        "w",
        driver="GTiff",
        width=9,
        height=9,
        count=1,
        dtype="uint8",
        crs=CRS.from_epsg(epsg),
        transform=rasterio.Affine(*transform),
    ) as file:
        file.write(image, 1)
    result = pipeline.segment(
        str(tmp_path / "p.tif"),
        pipeline.Threshold(value=0.5),
        tmp_path / "out",
        tile=4,
        engine=pipeline.local(),
    )
    [row] = pq.read_table(tmp_path / "out" / "objects.parquet").to_pylist()
    assert (row["area"], row["area_m2"]) == (18, pytest.approx(18 * 100 * unit**2, rel=1e-12))
    assert (
        "plane of the CRS"
        in pq.read_schema(f"{result.path}/objects.parquet").metadata[b"tilewise:columns"].decode()
    )


@pytest.mark.parametrize(
    ("frame", "column", "extent"),
    [
        pytest.param(
            Frame((5, 5), pixel_size=(0.5, 0.25), unit="micrometer"),
            "area_um2",
            0.125,
            id="micrometres",
        ),
        pytest.param(
            Frame((5, 5), pixel_size=(500.0, 250.0), unit="nanometer"),
            "area_um2",
            0.125,
            id="nanometres",
        ),
        pytest.param(
            Frame((5, 5, 5), pixel_size=(2.0, 0.5, 0.5), unit="micrometer"),
            "volume_um3",
            0.5,
            id="a volume",
        ),
        pytest.param(
            Frame((5, 5, 5), pixel_size=(2.0, 0.5, 0.5), unit="millimeter"),
            "volume_mm3",
            0.5,
            id="a head",
        ),
        pytest.param(
            Frame((5, 5), pixel_size=(2.0, 2.0), unit="meter"),
            "area_m2",
            4.0,
            id="metres without a CRS",
        ),
        pytest.param(Frame((5, 5)), None, None, id="nothing known"),
        pytest.param(
            Frame((5, 5, 5), transform=(0.1, 0.0, 0.0, 0.0, -0.1, 50.0), crs=WGS84),
            None,
            None,
            id="a stack of maps",
        ),
        pytest.param(
            Frame((5, 5), pixel_size=(3.0, 3.0), unit="cubits"), None, None, id="a unit of nobody's"
        ),
        pytest.param(
            Frame((5, 5), transform=(2.0, 0.0, 0.0, 0.0, -2.0, 0.0)),
            None,
            None,
            id="a transform without a CRS",
        ),
    ],
)
def test_only_what_is_known_is_said(frame, column, extent):
    """Areas have a unit where the image says how large a pixel is, and no column where
    nobody does.
    """
    assert (size_column(frame), pixel_extent(frame)) == (
        column,
        pytest.approx(extent) if extent else None,
    )
    assert not vary(frame)
    with pytest.raises(ValueError, match="alike"):
        pixel_areas(frame, (0, 5), (0, 5))


@pytest.mark.parametrize("name", ELLIPSOIDS)
@pytest.mark.parametrize(
    "transform",
    [(0.01, 0.0, 5.0, 0.0, -0.02, 52.0), (0.01, 0.004, 5.0, 0.003, -0.02, 12.0)],
    ids=["north up", "rotated"],
)
def test_steps_are_as_long_as_geodesics(name, transform):
    """A step between neighbouring pixels' centres has the length of the geodesic between them."""
    wkt = ELLIPSOIDS[name]
    frame = Frame((9, 9), transform=transform, crs=wkt)
    row, column, down, across = np.array(
        [[r, c, d, a] for r in (0, 4) for c in (1, 8) for d, a in ((0, 1), (1, 0), (1, 1), (1, -1))]
    ).T
    x, y = frame.place(row + 0.5, column + 0.5)
    to_x, to_y = frame.place(row + down + 0.5, column + across + 0.5)
    expected = geod_of(wkt).inv(*(each * degrees_of(wkt) for each in (x, y, to_x, to_y)))[2]
    np.testing.assert_allclose(step_lengths(frame, row, column, down, across), expected, rtol=1e-7)


def test_lines_have_lengths_on_the_ellipsoid(tmp_path):
    """In a geographic CRS the length of a line is that of its steps' geodesics, in metres, however
    the image is tiled.
    """
    image = np.zeros((30, 40), np.uint8)
    image[4:25, 7], image[10, 12:30] = 1, 1
    path, lengths = geographic(tmp_path, image), []
    for tile in (40, 7):
        pipeline.segment(path, Curves(), tmp_path / str(tile), tile=tile, engine=pipeline.local())
        meta, _, _, columns = pyogrio.raw.read(tmp_path / str(tile) / "lines.gpkg")
        lengths.append(dict(zip(meta["fields"], columns, strict=True))["length_m"].tolist())
    geod = pyproj.Geod(ellps="WGS84")
    down = geod.line_length([11.15, 11.15], [61 - 4.5 * 0.015, 61 - 24.5 * 0.015])
    along = geod.line_length(
        [11 + (c + 0.5) * 0.02 for c in range(12, 30)], [61 - 10.5 * 0.015] * 18
    )
    assert lengths[0] == lengths[1] == pytest.approx([down, along], rel=1e-8)


def test_limbs_hold_the_largest_pixels():
    """A pixel as large as the Earth fits into the limbs, with room for every pixel of a tile."""
    frame = Frame((1, 1), transform=(360.0, 0.0, -180.0, 0.0, -180.0, 90.0), crs=WGS84)
    limbs = pixel_areas(frame, (0, 1), (0, 1))
    assert limbs.shape == (1, 1, LIMBS)
    assert 0 <= limbs.min() <= limbs.max() < 2**50
    assert scale(frame).unit == "m"
