"""Areas and lengths on the ground in projected CRSs, against PROJ's geodesics; and that they are
the same in any tiling.
"""

from __future__ import annotations

import functools
import tempfile
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
from pipeline.image import ground as grounds
from pipeline.image.frame import Frame
from pipeline.image.ground import ground_of, is_true
from pipeline.image.pixel_area import (
    EXPONENT,
    pixel_areas,
    pixel_extent,
    plane_column,
    plane_extent,
    size_column,
    step_lengths,
    vary,
)
from tests.stages.test_lines import Curves

EDGE = 20037508.342789244
UNTRUE = {
    "Web Mercator, a city": ("EPSG:3857", (500, 400), (2.0, 0.0, 1.3e6, 0.0, -2.0, 6.9e6)),
    "Web Mercator, a country": ("EPSG:3857", (600, 700), (1000.0, 0.0, -1e6, 0.0, -1000.0, 9e6)),
    "Web Mercator, south-up": ("EPSG:3857", (300, 300), (5000.0, 0.0, 2e6, 0.0, 5000.0, -6e6)),
    "Web Mercator, turned": ("EPSG:3857", (300, 300), (300.0, 100.0, 1.3e6, 100.0, -300.0, 6.9e6)),
    "the Earth in Web Mercator": (
        "EPSG:3857",
        (512, 512),
        (2 * EDGE / 512, 0.0, -EDGE, 0.0, -2 * EDGE / 512, EDGE),
    ),
    "World Mercator": ("EPSG:3395", (300, 300), (5000.0, 0.0, 1e6, 0.0, -5000.0, 8e6)),
    "plate carrée": ("EPSG:32662", (300, 600), (20000.0, 0.0, -6e6, 0.0, -20000.0, 7e6)),
    "polar": ("EPSG:3413", (300, 300), (10000.0, 0.0, -3e6, 0.0, -10000.0, 3e6)),
    "UTM far from its zone": ("EPSG:32633", (300, 300), (1000.0, 0.0, 1.6e6, 0.0, -1000.0, 5e6)),
    "in feet": (
        "+proj=merc +ellps=clrk66 +units=us-ft",
        (300, 300),
        (3000.0, 0.0, 1e6, 0.0, -3000.0, 2e7),
    ),
    "a sphere": ("+proj=merc +R=6371000", (300, 300), (3000.0, 0.0, 1e6, 0.0, -3000.0, 5e6)),
    "with heights": ("EPSG:3857+5773", (300, 300), (300.0, 0.0, 1.3e6, 0.0, -300.0, 6.9e6)),
}
TRUE = {
    "UTM": ("EPSG:32633", (1098, 1098), (100.0, 0.0, 499980.0, 0.0, -100.0, 5e6)),
    "UTM at the edge of a zone": ("EPSG:32633", (1098, 1098), (100.0, 0.0, 7e5, 0.0, -100.0, 1e6)),
    "equal areas in Europe": ("EPSG:3035", (1000, 1000), (1000.0, 0.0, 4e6, 0.0, -1000.0, 3e6)),
    "Lambert-93": ("EPSG:2154", (1000, 1000), (1000.0, 0.0, 1e5, 0.0, -1000.0, 7.1e6)),
    "Switzerland": ("EPSG:2056", (1000, 1000), (100.0, 0.0, 2.5e6, 0.0, -100.0, 1.3e6)),
    "New York, in feet": ("EPSG:2263", (1000, 1000), (10.0, 0.0, 9e5, 0.0, -10.0, 2e5)),
    "MODIS, torn at its edges": (
        "+proj=sinu +R=6371007.181",
        (500, 1000),
        (40000.0, 0.0, -2e7, 0.0, -40000.0, 1e7),
    ),
    "degrees": ("EPSG:4326", (100, 100), (0.1, 0.0, 5.0, 0.0, -0.1, 50.0)),
    "no CRS": (None, (100, 100), (10.0, 0.0, 5.0, 0.0, -10.0, 50.0)),
    "a plan": ('LOCAL_CS["plan",UNIT["metre",1]]', (100, 100), (10.0, 0.0, 5.0, 0.0, -10.0, 50.0)),
}


def frame_of(what: tuple) -> Frame:
    crs, shape, transform = what
    wkt = None if crs is None else CRS.from_user_input(crs).to_wkt()
    return Frame(shape, transform=transform, crs=wkt)


def as_floats(limbs: np.ndarray) -> np.ndarray:
    return np.sum(limbs * 2.0 ** (32 * np.arange(limbs.shape[-1])), axis=-1) * 2.0**EXPONENT


@functools.cache
def geodesy(wkt: str) -> tuple[pyproj.Geod, pyproj.Transformer]:
    crs = pyproj.CRS.from_wkt(wkt).to_2d()
    return crs.get_geod(), pyproj.Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True)


def oracle(frame: Frame, row: float, column: float, side: float, points: int = 401) -> float:
    """The area of a square of pixels, by Karney's algorithm, of a polygon that follows its sides
    closely.
    """
    geod, to_degrees = geodesy(frame.crs)
    k = np.linspace(0, side, points)
    rows = np.concatenate([row + 0 * k, row + k, row + side + 0 * k, row + k[::-1]])
    columns = np.concatenate([column + k, column + side + 0 * k, column + k[::-1], column + 0 * k])
    return abs(geod.polygon_area_perimeter(*to_degrees.transform(*frame.place(rows, columns)))[0])


@pytest.mark.parametrize("name", UNTRUE)
def test_areas_are_those_on_the_ellipsoid(name):
    """Where areas in the plane are not true, squares of pixels have, all over the image, the areas
    that PROJ's geodesics find; the plane's keep a column of their own.
    """
    frame = frame_of(UNTRUE[name])
    assert vary(frame)
    assert (size_column(frame), plane_column(frame), pixel_extent(frame)) == (
        "area_m2",
        "area_plane_m2",
        None,
    )
    found = as_floats(pixel_areas(frame, (0, frame.shape[0]), (0, frame.shape[1])))
    found = np.broadcast_to(found, frame.shape)
    draw, side = np.random.default_rng(0), 20
    for _ in range(12):
        row, column = (int(draw.integers(0, n - side)) for n in frame.shape)
        mine = found[row : row + side, column : column + side].sum()
        assert mine == pytest.approx(oracle(frame, row, column, side), rel=5e-6)
    a, b, _, d, e, _ = frame.transform
    metres = CRS.from_wkt(frame.crs).units_factor[1]
    assert plane_extent(frame) == pytest.approx(abs(a * e - b * d) * metres**2)


@pytest.mark.parametrize("name", TRUE)
def test_areas_that_are_true_stay_in_the_plane(name):
    """Where areas in the plane are true to half a percent, by PROJ's geodesics too, or nobody
    knows, they are as they were.
    """
    frame = frame_of(TRUE[name])
    assert is_true(frame)
    assert ground_of(frame) is None
    assert plane_column(frame) is None
    if frame.crs is not None and CRS.from_wkt(frame.crs).is_projected and "MODIS" not in name:
        for row, column in ((0, 0), (frame.shape[0] - 20, 30), (40, frame.shape[1] - 20)):
            expected = oracle(frame, row, column, 20)
            assert pixel_extent(frame) * 400 == pytest.approx(expected, rel=grounds.TRUE)


@given(st.sampled_from(sorted(UNTRUE)), st.data())
def test_a_pixels_area_does_not_depend_on_what_is_asked_with_it(name, data):
    """The pixels of a tile have, to the last bit, the areas that they have among all pixels."""
    frame = frame_of(UNTRUE[name])
    spans = []
    for extent in frame.shape:
        first = data.draw(st.integers(0, extent - 1))
        spans.append((first, data.draw(st.integers(first + 1, min(extent, first + 40)))))
    whole = np.broadcast_to(pixel_areas(frame, *((0, n) for n in frame.shape)), (*frame.shape, 3))
    part = pixel_areas(frame, *spans)
    cut = whole[slice(*spans[0]), slice(*spans[1])]
    np.testing.assert_array_equal(np.broadcast_to(part, cut.shape), cut)


def test_beyond_a_projections_end(tmp_path):
    """A disk of the Earth has areas on the ground where there is any, and the corners of its image
    harm nothing.
    """
    frame = frame_of(
        (
            "+proj=ortho +lat_0=40 +lon_0=0",
            (130, 130),
            (100000.0, 0.0, -6.5e6, 0.0, -100000.0, 6.5e6),
        )
    )
    found = as_floats(pixel_areas(frame, (0, 130), (0, 130)))
    assert np.isfinite(found).all()
    for row, column in ((60, 60), (40, 80), (90, 30)):
        assert found[row : row + 5, column : column + 5].sum() == pytest.approx(
            oracle(frame, row, column, 5), rel=2e-3
        )


SHAPE = (41, 53)
PLACES = {
    "Web Mercator": ("EPSG:3857", (900.0, 0.0, 1.3e6, 0.0, -700.0, 8.4e6)),
    "polar": ("EPSG:3413", (900.0, 300.0, -2e5, 300.0, -900.0, 3e5)),
}


def written(folder, image, name):
    crs, transform = PLACES[name]
    how = {
        "crs": crs,
        "transform": rasterio.Affine(*transform),
        "dtype": "uint8",
        "count": 1,
        "height": SHAPE[0],
        "width": SHAPE[1],
    }
    with rasterio.open(Path(folder, "image.tif"), "w", driver="GTiff", **how) as file:
        file.write(image, 1)
    return str(Path(folder, "image.tif")), Frame(
        SHAPE, transform=transform, crs=CRS.from_user_input(crs).to_wkt()
    )


@functools.cache
def sizes(frame):
    """By pixel its area on the ground."""
    return np.array(
        [
            [oracle(frame, row, column, 1, 5) for column in range(SHAPE[1])]
            for row in range(SHAPE[0])
        ]
    )


@pytest.mark.parametrize("name", PLACES)
@settings(max_examples=3)
@given(data=st.data())
def test_areas_of_objects(name, data):
    """Whatever the tiles, area_m2 is the same to the last bit, and what PROJ's geodesics say of the
    object's pixels; area_plane_m2 is that in the plane.
    """
    noise = ndimage.gaussian_filter(
        np.random.default_rng(data.draw(st.integers(0, 99))).random(SHAPE), 2
    )
    image = (noise > 0.5).astype(np.uint8)
    tile, found = data.draw(st.tuples(st.integers(6, 41), st.integers(9, 53))), []
    with tempfile.TemporaryDirectory() as folder:
        path, frame = written(folder, image, name)
        for number, size in enumerate((SHAPE, tile)):
            result = pipeline.segment(
                path,
                pipeline.Threshold(value=0.5),
                f"{folder}/{number}",
                tile=list(size),
                engine=pipeline.local(),
            )
            table = pq.read_table(f"{result.path}/objects.parquet")
            found.append(table.select(["id", "area", "area_m2", "area_plane_m2"]).to_pydict())
        labels, notes = result.labels.values, table.schema.metadata[b"tilewise:columns"].decode()
    assert found[0] == found[1]
    assert (
        '"area_m2": "square metres on the CRS\'s ellipsoid", "area_plane_m2": "square metres in '
        "the plane" in notes
    )
    size = sizes(frame)
    for label, pixels, area, plane in zip(*found[0].values(), strict=True):
        assert pixels == (labels == label).sum()
        assert area == pytest.approx(size[labels == label].sum(), rel=1e-6)
        assert plane == pytest.approx(pixels * plane_extent(frame))


def test_what_was_found_once_holds(tmp_path, monkeypatch):
    """A run that goes on uses what was found of the ground when it began, whatever another
    processor would find.
    """
    image = np.zeros(SHAPE, np.uint8)
    image[5:30, 7:40] = 1
    path, frame = written(tmp_path, image, "Web Mercator")
    known = pipeline.segment(
        path, pipeline.Threshold(value=0.5), tmp_path / "known", tile=16, engine=pipeline.local()
    )
    found = ground_of(frame)
    other = grounds.Ground(found.shape, found.values * (1 + 1e-9))
    asked = []

    def elsewhere(frame):
        asked.append(frame)
        return found if len(asked) == 1 else other

    monkeypatch.setattr("pipeline.stages.terrain.ground_of", elsewhere)
    again = pipeline.segment(
        path, pipeline.Threshold(value=0.5), tmp_path / "again", tile=16, engine=pipeline.local()
    )
    assert len(asked) == 1
    assert again.objects["area_m2"].tolist() == known.objects["area_m2"].tolist()


@pytest.mark.parametrize("name", UNTRUE)
def test_steps_are_as_long_as_geodesics(name):
    """A step between neighbouring pixels has the length of the geodesic between them; where pixels
    are as large as countries, nearly.
    """
    frame, near = frame_of(UNTRUE[name]), 1e-3 if name == "the Earth in Web Mercator" else 1e-6
    geod, to_degrees = geodesy(frame.crs)
    steps = [
        (r, c, d, a)
        for r in (100, 240)
        for c in (110, 280)
        for d, a in ((0, 1), (1, 0), (1, 1), (1, -1))
    ]
    row, column, down, across = np.array(steps).T
    ends = [
        to_degrees.transform(*frame.place(r + 0.5, c + 0.5))
        for r, c in ((row, column), (row + down, column + across))
    ]
    np.testing.assert_allclose(
        step_lengths(frame, row, column, down, across), geod.inv(*ends[0], *ends[1])[2], rtol=near
    )


def test_lines_have_lengths_on_the_ground(tmp_path):
    """In Web Mercator the length of a line is that of its steps' geodesics, in metres."""
    image = np.zeros(SHAPE, np.uint8)
    image[4:25, 7] = 1
    path, frame = written(tmp_path, image, "Web Mercator")
    pipeline.segment(path, Curves(), tmp_path / "out", tile=20, engine=pipeline.local())
    meta, _, _, columns = pyogrio.raw.read(tmp_path / "out" / "lines.gpkg")
    length = dict(zip(meta["fields"], columns, strict=True))["length_m"].tolist()
    to_degrees = pyproj.Transformer.from_crs(3857, 4326, always_xy=True)
    x, y = frame.place(np.arange(4, 25) + 0.5, np.full(21, 7.5))
    assert length == pytest.approx(
        [pyproj.Geod(ellps="WGS84").line_length(*to_degrees.transform(x, y))], rel=1e-6
    )
