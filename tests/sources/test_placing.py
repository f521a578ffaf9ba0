"""Where an image lies: south-up, rotated, without a CRS, placed by ground control points alone; as
rasterio tells it.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from rasterio.control import GroundControlPoint
from rasterio.errors import NotGeoreferencedWarning

from pipeline.image.grid import Box
from pipeline.sources import open_source
from tests.sources.files import tiff, whole

PIXELS = np.random.default_rng(0).integers(0, 200, (1, 40, 50), np.uint8)
TRANSFORMS = {
    "north-up": rasterio.Affine(10, 0, 5e5, 0, -20, 5e6),
    "south-up": rasterio.Affine(10, 0, 5e5, 0, 20, 5e6),
    "east-left": rasterio.Affine(-10, 0, 5e5, 0, -20, 5e6),
    "rotated": rasterio.Affine.translation(5e5, 5e6)
    @ rasterio.Affine.rotation(30)
    @ rasterio.Affine.scale(10, -20),
    "sheared": rasterio.Affine(10, 3, 5e5, 2, -20, 5e6),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms(name, tmp_path):
    """Pixels come in the file's own order, and places are where rasterio puts them, whichever way
    rows and columns run.
    """
    path = tiff(tmp_path / "a.tif", PIXELS, transform=TRANSFORMS[name])
    source = open_source(path)
    np.testing.assert_array_equal(whole(source), PIXELS)
    rows, columns = np.array([0, 3, 40]), np.array([0, 50, 7])
    with rasterio.open(path) as file:
        expected = rasterio.transform.xy(file.transform, rows, columns, offset="ul")
        sides = [
            np.hypot(*np.subtract(file.transform @ step, file.transform @ (0, 0)))
            for step in ((0, 1), (1, 0))
        ]
    np.testing.assert_allclose(source.frame.place(rows, columns), expected, rtol=1e-12)
    np.testing.assert_allclose(source.frame.pixel_size, sides)


def test_no_crs(tmp_path):
    """A file with a transform and no CRS has a place; one with neither has none."""
    placed = open_source(tiff(tmp_path / "a.tif", PIXELS, crs=None)).frame
    assert (placed.crs, placed.transform) == (None, (10, 0, 5e5, 0, -20, 5e6))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        bare = open_source(tiff(tmp_path / "b.tif", PIXELS, crs=None, transform=None)).frame
    assert (bare.crs, bare.transform, bare.pixel_size, bare.unit) == (None, None, (1, 1), "pixel")


def pinned(path: Path, transform: rasterio.Affine, off: float = 0) -> Path:
    """A file with ground control points and nothing else; the first is some pixels off."""
    corners = [(0, 0), (0, 50), (40, 0), (40, 50), (20, 25)]
    points = [
        GroundControlPoint(r, c, *(transform @ (c + off * (k == 0), r)))
        for k, (r, c) in enumerate(corners)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        tiff(path, PIXELS, crs=None, transform=None)
        with rasterio.open(path, "r+") as file:
            file.gcps = (points, rasterio.CRS.from_epsg(32633))
    return path


@pytest.mark.parametrize("name", TRANSFORMS)
def test_ground_control_points(name, tmp_path):
    """A file that control points alone place has the transform that they lie on, and their CRS."""
    path = pinned(tmp_path / "a.tif", TRANSFORMS[name])
    frame = open_source(path).frame
    np.testing.assert_allclose(frame.transform, TRANSFORMS[name][:6], rtol=1e-9, atol=1e-9)
    assert rasterio.CRS.from_wkt(frame.crs) == rasterio.CRS.from_epsg(32633)
    with rasterio.open(path) as file:
        np.testing.assert_allclose(
            frame.transform, rasterio.transform.from_gcps(file.gcps[0])[:6], rtol=1e-6, atol=1e-6
        )


def test_control_points_that_no_transform_fits(tmp_path):
    """Where control points lie on no affine transform to half a pixel, the image is read in pixels
    and has no place.
    """
    frame = open_source(pinned(tmp_path / "a.tif", TRANSFORMS["north-up"], off=9)).frame
    assert (frame.crs, frame.transform, frame.unit) == (None, None, "pixel")


@given(shift=st.floats(0, 0.4))
def test_control_points_nearly_on_a_transform(shift, tmp_path_factory):
    """A control point less than half a pixel off does no harm: no place is further than that from
    where the others put it.
    """
    path = pinned(tmp_path_factory.mktemp("pinned") / "a.tif", TRANSFORMS["rotated"], off=shift)
    found = np.array(open_source(path).frame.place([0, 40, 20], [50, 0, 25]))
    expected = np.array([TRANSFORMS["rotated"] @ at for at in ((50, 0), (0, 40), (25, 20))]).T
    assert np.abs(found - expected).max() < 20


def test_real_control_points(shared):
    """A real radar scene placed by control points is read, and its transform, where it has one, is
    rasterio's.
    """
    path = shared / "satellite" / "riotiler_cog_gcps.tif"
    source = open_source(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path) as file:
            np.testing.assert_array_equal(
                source.read(Box((100, 200), (300, 500))), file.read(window=((100, 300), (200, 500)))
            )
            points, crs = file.gcps
            fitted = rasterio.transform.from_gcps(points)
    missed = max(np.hypot(*np.subtract(~fitted @ (p.x, p.y), (p.col, p.row))) for p in points)
    if source.frame.transform is None:
        assert missed > 0.5
    else:
        np.testing.assert_allclose(source.frame.transform, fitted[:6])
        assert rasterio.CRS.from_wkt(source.frame.crs) == crs
