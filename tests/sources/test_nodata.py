"""Nodata and alpha as GDAL has them: values that a tag holds rounded, that a type cannot hold,
alpha in any place.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from rasterio.enums import ColorInterp, Resampling

import pipeline
from pipeline.image.frame import marked
from pipeline.image.grid import Box
from pipeline.sources import open_source, where_measured
from tests.sources.files import tiff, whole

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

LOWEST, HIGHEST = float(np.finfo("f4").min), float(np.finfo("f4").max)
LOWEST64 = float(np.finfo("f8").min)
FLOATS = [
    LOWEST,
    np.nextafter(np.float32(LOWEST), np.float32(0)),
    -3.4e38,
    -9999,
    -9999.001,
    -9999.2,
    0,
    0.1,
    1e20,
    7,
    HIGHEST,
]
CASES = {
    "float32": (
        FLOATS,
        [
            "-3.4e+38",
            "-3.40282e+38",
            "-3.402823e+38",
            "-3.4028234663852886e+38",
            "-9999",
            "0",
            "0.1",
            "1e20",
            "3.4e38",
            "nan",
        ],
    ),
    "float64": (
        [LOWEST64, LOWEST, -9999, -9999.0000001, 0, 0.1, 7],
        [
            "-1.79769e+308",
            "-1.797693134862e+308",
            "-1.7976931348623157e+308",
            "-3.40282346638529e+38",
            "-9999",
            "0.1",
            "nan",
        ],
    ),
    "uint8": (
        [0, 1, 254, 255],
        ["0", "255", "256", "-9999", "-1", "0.5", "254.6", "nan", "1e20", "-3.4e+38"],
    ),
    "int8": ([-128, 0, 127], ["-128", "128", "-129"]),
    "uint16": ([0, 1, 65535], ["65535", "65536", "-32768"]),
    "int16": ([-32768, -9999, 0, 32767], ["-32768", "-32769", "-99999", "-9999", "65535"]),
    "uint32": ([0, 2**32 - 1, 2**32 - 2], ["4294967295", "4294967296", "-1"]),
    "int32": (
        [-(2**31), -(2**31) + 1, 2**31 - 1],
        ["-2147483648", "-2147483649", "2147483647", "-3.4e38"],
    ),
    "int64": (
        [-(2**63), -(2**63) + 1, 2**53, 2**53 + 1],
        [str(-(2**63)), str(2**53 + 1), str(2**53)],
    ),
    "uint64": ([2**64 - 1, 2**64 - 2, 2**53 + 1, 0], [str(2**64 - 1), str(2**53 + 1)]),
}
"""By type: values, and texts of nodata."""


def tagged(path: Path, values: np.ndarray, nodata: str) -> Path:
    """A TIFF whose nodata is just this text, as other writers than GDAL leave it."""
    with tifffile.TiffWriter(path) as file:
        file.write(
            values, extratags=[(42113, 2, 0, nodata, True)], metadata=None, photometric="minisblack"
        )
    return path


def measured(source) -> np.ndarray:
    box = Box.whole(source.frame.shape)
    return where_measured(source, box, source.read(box))


@pytest.mark.parametrize(
    ("dtype", "nodata"),
    [(dtype, nodata) for dtype, (_, texts) in CASES.items() for nodata in texts],
)
def test_nodata_is_what_gdal_takes_for_it(dtype, nodata, tmp_path):
    """Whatever the tag's text and the pixels' type, a value was measured where rasterio's mask says
    so, and is a number.
    """
    values = np.array([CASES[dtype][0]], dtype)
    path = tagged(tmp_path / "a.tif", values, nodata)
    with rasterio.open(path) as file:
        expected = (file.read_masks() > 0) & np.isfinite(values)
    np.testing.assert_array_equal(measured(open_source(path)), expected)


@pytest.mark.parametrize(
    ("dtype", "nodata", "lowest"),
    [
        ("float32", "-3.4e+38", LOWEST),
        ("float32", "-3.403e+38", LOWEST),
        ("float32", "-3.41e38", LOWEST),
        ("float32", "-1.797e308", LOWEST),
        ("float32", "-inf", LOWEST),
        ("float32", "3.403e+38", HIGHEST),
        ("float64", "-1.8e+308", LOWEST64),
        ("float64", "-3.4e+38", LOWEST),
        ("float64", "-3.40282e+38", LOWEST),
        ("float64", "-3.403e+38", LOWEST),
    ],
)
def test_rounded_tags_are_the_lowest_float(dtype, nodata, lowest, tmp_path):
    """However a tag rounds the lowest or the largest float, also beyond what there is, that is
    missing, and every measurement is there.
    """
    values = np.array([[lowest, 0, -1e30, 1e30, 12.5, -9999]], dtype)
    assert measured(open_source(tagged(tmp_path / "a.tif", values, nodata)))[0, 0].tolist() == [
        False,
        True,
        True,
        True,
        True,
        True,
    ]


@pytest.mark.parametrize("width", [32, 64])
@given(data=st.data(), factor=st.floats(-9, 9))
def test_floats_near_nodata(width, data, factor, tmp_path_factory):
    """Any float, and those about as near to nodata as GDAL's precision, are missing where
    rasterio's mask says so, or are no number.
    """
    dtype, numbers = np.dtype(f"float{width}").type, st.floats(allow_nan=True, width=width)
    nodata, value = data.draw(numbers), data.draw(numbers)
    with np.errstate(all="ignore"):
        beside = dtype(nodata) * dtype(1 + factor * np.finfo("f4").eps)
        values = np.array([[value, beside, nodata, -value]], dtype)
    path = tiff(tmp_path_factory.mktemp("near") / "a.tif", values[None], nodata=nodata)
    with rasterio.open(path) as file:
        expected = (file.read_masks() > 0) & np.isfinite(values)
    if np.isinf(nodata):  # which stands for the largest float, besides
        expected &= ~marked(values, nodata)
    if width == 64 and 3.39e38 < abs(nodata) < 3.41e38:  # and this for the largest of 32 bits
        expected &= ~marked(values, nodata)
    np.testing.assert_array_equal(measured(open_source(path)), expected)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_compared_is_unchanged(dtype):
    """Comparing changes no pixel and warns of nothing, however large values are."""
    block = np.array([[LOWEST, HIGHEST, np.nan, np.inf, 0]], dtype)
    before = block.copy()
    marked(block, -3.4e38)
    np.testing.assert_array_equal(block, before)


def test_a_nodata_of_each_band(tmp_path):
    """Rounded tags count where each band has its own as they do where all have one."""
    values = np.stack(
        [np.full((4, 5), LOWEST, np.float32), np.arange(20, dtype=np.float32).reshape(4, 5)]
    )
    values[0, 1:] = 3
    tiff(tmp_path / "a.tif", values)
    band = (
        '<VRTRasterBand dataType="Float32" '
        'band="{k}"><NoDataValue>{nodata}</NoDataValue><SimpleSource><SourceBand>{k}</SourceBand>'
        '<SourceFilename relativeToVRT="1">a.tif</SourceFilename></SimpleSource></VRTRasterBand>'
    )
    bands = band.format(k=1, nodata="-3.4e+38") + band.format(k=2, nodata="7")
    (tmp_path / "a.vrt").write_text(
        f'<VRTDataset rasterXSize="5" rasterYSize="4">{bands}</VRTDataset>'
    )
    with rasterio.open(tmp_path / "a.vrt") as file:
        expected = file.read_masks() > 0
    np.testing.assert_array_equal(measured(open_source(tmp_path / "a.vrt")), expected)
    assert not expected[0, 0].any()


def with_alpha(
    path: Path, colours: int, at: int, dtype: str, **options: object
) -> tuple[np.ndarray, np.ndarray]:
    """A file of some bands, the one at an index of which is alpha: the other bands, and where alpha
    is not 0.
    """
    draw = np.random.default_rng(colours)
    values = draw.integers(1, 100, (colours, 40, 50)).astype(dtype)
    opacity = draw.choice(
        [0, 1, 255, np.iinfo(dtype).max if np.dtype(dtype).kind in "ui" else 1], (40, 50)
    ).astype(dtype)
    bands = np.insert(values, at, opacity, axis=0)
    tiff(path, bands, tiled=True, blockxsize=16, blockysize=16, **options)
    with rasterio.open(path, "r+") as file:
        kinds = [ColorInterp.gray if k == 0 else ColorInterp.undefined for k in range(colours)]
        kinds = (
            [ColorInterp.red, ColorInterp.green, ColorInterp.blue, *kinds[3:]]
            if colours >= 3
            else kinds
        )
        file.colorinterp = (*kinds[:at], ColorInterp.alpha, *kinds[at:])
    return values, opacity > 0


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize("colours", [1, 2, 3, 4, 5, 6, 12])
def test_alpha_masks_whatever_the_number_of_bands(colours, dtype, tmp_path):
    """An alpha band, the last of however many, says what was measured of all bands, and is no band;
    asked for, it is a band and no mask.
    """
    values, opaque = with_alpha(tmp_path / "a.tif", colours, colours, dtype)
    source = open_source(tmp_path / "a.tif")
    np.testing.assert_array_equal(whole(source), values)
    np.testing.assert_array_equal(measured(source), np.broadcast_to(opaque, values.shape))
    assert len(source.frame.bands) == colours
    if colours in (1, 3) and np.dtype(dtype).kind == "u":  # of which GDAL knows
        with rasterio.open(tmp_path / "a.tif") as file:
            np.testing.assert_array_equal(measured(source)[0], file.dataset_mask() > 0)
    asked = open_source(tmp_path / "a.tif", bands=[colours + 1, 1])
    assert measured(asked).all()
    assert whole(asked).shape[0] == 2


@pytest.mark.parametrize("at", [0, 1, 2, 4])
def test_alpha_in_any_place(at, tmp_path):
    """Alpha masks where it is, first or in the middle; levels of the file have the alpha of that
    level.
    """
    values, opaque = with_alpha(tmp_path / "a.tif", 4, at, "uint8")
    with rasterio.open(tmp_path / "a.tif", "r+") as file:
        file.build_overviews([2], Resampling.nearest)
    source = open_source(tmp_path / "a.tif")
    np.testing.assert_array_equal(whole(source), values)
    np.testing.assert_array_equal(measured(source), np.broadcast_to(opaque, values.shape))
    lower = open_source(tmp_path / "a.tif", level=1)
    with rasterio.open(tmp_path / "a.tif", overview_level=0) as file:
        np.testing.assert_array_equal(measured(lower)[0], file.read(at + 1) > 0)


def test_alpha_and_nodata(tmp_path):
    """Where a file has both, a value is missing that either says is missing."""
    values, opaque = with_alpha(tmp_path / "a.tif", 2, 2, "uint8", nodata=7)
    np.testing.assert_array_equal(measured(open_source(tmp_path / "a.tif")), opaque & (values != 7))


def test_a_mask_wins_over_alpha(tmp_path):
    """A mask of the whole file is the more specific fact: as in rasterio, it alone says what was
    measured; alpha is still no band.
    """
    values, _ = with_alpha(tmp_path / "a.tif", 3, 3, "uint8")
    good = np.random.default_rng(9).random((40, 50)) < 0.5
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(tmp_path / "a.tif", "r+") as file,
    ):
        file.write_mask(good)
    source = open_source(tmp_path / "a.tif")
    with rasterio.open(tmp_path / "a.tif") as file:
        np.testing.assert_array_equal(
            measured(source), np.broadcast_to(file.dataset_mask() > 0, values.shape)
        )
    np.testing.assert_array_equal(measured(source)[0], good)
    assert len(source.frame.bands) == 3


def test_transparent_ground_is_no_object(tmp_path):
    """A run on five bands and alpha draws nothing where alpha is 0, however bright the pixels are
    there.
    """
    values = np.full((6, 64, 64), 200, np.uint8)
    values[5] = 0
    values[5, 20:40, 10:30] = 255
    tiff(tmp_path / "a.tif", values)
    with rasterio.open(tmp_path / "a.tif", "r+") as file:
        file.colorinterp = (ColorInterp.gray, *[ColorInterp.undefined] * 4, ColorInterp.alpha)
    result = pipeline.segment(
        tmp_path / "a.tif",
        pipeline.Threshold(value=100),
        tmp_path / "out",
        tile=24,
        engine=pipeline.local(),
    )
    np.testing.assert_array_equal(result.labels.values > 0, values[5] > 0)
