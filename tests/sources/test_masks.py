"""What was measured, and what values mean: masks, alpha, nodata, scale and offset, colour tables;
as rasterio tells it.
"""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.enums import ColorInterp, Resampling

from pipeline import local, segment
from pipeline.errors import JobError, SourceError
from pipeline.image.grid import Box
from pipeline.sources import Source, open_source, where_measured
from tests.sources.files import one_for_all, tiff, whole

PLACED = "<GeoTransform>500000, 10, 0, 5000000, 0, -20</GeoTransform>"


def pixels(bands: int = 3, dtype: str = "uint8") -> np.ndarray:
    return np.random.default_rng(0).integers(1, 200, (bands, 70, 90)).astype(dtype)


def by_band(source: Source, step: int = 1) -> np.ndarray:
    box = Box.whole(source.frame.shape)
    return where_measured(source, box, source.glance(box, step), step)


def measured(source: Source, step: int = 1) -> np.ndarray:
    return one_for_all(by_band(source, step))


def holes() -> np.ndarray:
    return np.random.default_rng(1).random((70, 90)) < 0.7


@pytest.mark.parametrize("internal", [True, False], ids=["internal", "msk"])
def test_dataset_mask(internal, tmp_path):
    """A mask in the file, or beside it, is what rasterio says it is, also in a box; and it is part
    of the fingerprint.
    """
    path = tiff(tmp_path / "a.tif", pixels())
    before = open_source(path).fingerprint()
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal), rasterio.open(path, "r+") as file:
        file.write_mask(holes())
    source = open_source(path)
    with rasterio.open(path) as file:
        np.testing.assert_array_equal(measured(source), file.dataset_mask() > 0)
    box = Box((3, 5), (40, 77))
    np.testing.assert_array_equal(
        one_for_all(where_measured(source, box, source.read(box))), holes()[box.slices]
    )
    np.testing.assert_array_equal(whole(source), pixels())
    assert source.frame.masked
    assert source.fingerprint() != before
    assert measured(source, 7).shape == (10, 13)


def test_mask_takes_the_place_of_nodata(tmp_path):
    """Where a file has a mask, its nodata says nothing, as in rasterio; nodata that is given counts
    beside the mask.
    """
    values = pixels(1)
    path = tiff(tmp_path / "a.tif", values, nodata=7)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as file:
        file.write_mask(holes())
    with rasterio.open(path) as file:
        np.testing.assert_array_equal(measured(open_source(path)), file.dataset_mask() > 0)
    np.testing.assert_array_equal(measured(open_source(path, nodata=9)), holes() & (values[0] != 9))


@pytest.mark.parametrize("alpha", [1, 3], ids=["grey", "colour"])
def test_alpha(alpha, tmp_path):
    """An alpha band says what was measured and is no band, unless it is asked for."""
    values = np.concatenate([pixels(alpha), np.where(holes(), 255, 0).astype(np.uint8)[None]])
    path = tiff(tmp_path / "a.tif", values)
    with rasterio.open(path, "r+") as file:
        file.colorinterp = (*file.colorinterp[:alpha], ColorInterp.alpha)
    source = open_source(path)
    assert source.frame.bands == tuple(str(k + 1) for k in range(alpha))
    np.testing.assert_array_equal(whole(source), values[:-1])
    with rasterio.open(path) as file:
        np.testing.assert_array_equal(measured(source), file.dataset_mask() > 0)
    asked = open_source(path, bands=[alpha + 1, 1])
    np.testing.assert_array_equal(whole(asked), values[[alpha, 0]])
    assert measured(asked).all()


def test_named_fourth_band_is_no_alpha(tmp_path):
    """Near infrared in the fourth of four bands, which writers mark as alpha by themselves, is a
    band once it has a name.
    """
    values = pixels(4)
    values[3, :10] = 0
    path = tiff(tmp_path / "a.tif", values)
    with rasterio.open(path, "r+") as file:
        assert file.colorinterp[3] == ColorInterp.alpha
        file.descriptions = ("red", "green", "blue", "nir")
    source = open_source(path)
    assert source.frame.bands == ("red", "green", "blue", "nir")
    assert measured(source).all()


def test_bands_of_different_nodata(tmp_path):
    """Where each band has its own nodata, a band is measured where it has not that, as rasterio
    tells it; one for all takes its place.
    """
    values = pixels(2)
    path = tmp_path / "a.vrt"
    tiff(tmp_path / "a.tif", values)
    one = (
        '<VRTRasterBand dataType="Byte" '
        'band="{k}"><NoDataValue>{k}0</NoDataValue><SimpleSource><SourceBand>{k}</SourceBand>'
        '<SourceFilename relativeToVRT="1">a.tif</SourceFilename></SimpleSource></VRTRasterBand>'
    )
    bands = "".join(one.format(k=k) for k in (1, 2))
    path.write_text(f'<VRTDataset rasterXSize="90" rasterYSize="70">{PLACED}{bands}</VRTDataset>')
    values[:, 5, 5], values[:, 6, 6] = (10, 20), (10, 10)
    tiff(tmp_path / "a.tif", values)
    with rasterio.open(path) as file:
        np.testing.assert_array_equal(by_band(open_source(path)), file.read_masks() > 0)
        np.testing.assert_array_equal(
            measured(open_source(path, nodata_by="pixel")), file.dataset_mask() > 0
        )
    assert by_band(open_source(path))[:, 6, 6].tolist() == [False, True]
    np.testing.assert_array_equal(by_band(open_source(path, nodata=10)), values != 10)
    np.testing.assert_array_equal(
        measured(open_source(path, nodata=10, nodata_by="pixel")), ~(values == 10).all(axis=0)
    )
    np.testing.assert_array_equal(measured(open_source(path, bands=[2])), values[1] != 20)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "float32"])
def test_scale_and_offset(dtype, tmp_path):
    """Values are as they are stored; with ``scaled`` they are multiplied and moved, and NaN where
    not measured.
    """
    values = pixels(2, dtype)
    values[:, 4, 4] = 0
    path = tiff(tmp_path / "a.tif", values, nodata=0)
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets = (0.5, 0.25), (-3.0, 1.0)
    np.testing.assert_array_equal(whole(open_source(path)), values)
    source = open_source(path, scaled=True)
    expected = values * np.array([0.5, 0.25])[:, None, None] + np.array([-3.0, 1.0])[:, None, None]
    expected[:, 4, 4] = np.nan
    np.testing.assert_allclose(whole(source), expected, rtol=1e-6)
    assert (
        source.frame.dtype
        == whole(source).dtype.name
        == ("float64" if dtype == "int32" else "float32")
    )
    np.testing.assert_array_equal(measured(source), values[0] != 0)


def test_colour_table(tmp_path):
    """Numbers of a colour table are read as they are, or with ``colours`` as red, green and blue,
    as Pillow sees them.
    """
    values = np.random.default_rng(2).integers(0, 5, (1, 70, 90), np.uint8)
    path = tiff(tmp_path / "a.tif", values, nodata=4)
    colours = {
        0: (9, 8, 7, 255),
        1: (255, 0, 0, 255),
        2: (0, 99, 0, 255),
        3: (1, 2, 3, 0),
        4: (50, 60, 70, 255),
    }
    with rasterio.open(path, "r+") as file:
        file.write_colormap(1, colours)
    np.testing.assert_array_equal(whole(open_source(path)), values)
    source = open_source(path, colours=True)
    np.testing.assert_array_equal(
        np.moveaxis(whole(source), 0, -1), np.asarray(Image.open(path).convert("RGB"))
    )
    assert (source.frame.bands, source.frame.dtype) == (("red", "green", "blue"), "uint8")
    np.testing.assert_array_equal(measured(source), values[0] != 4)
    with pytest.raises(JobError, match=r"colours: True; .*b\.tif has no colour table"):
        open_source(tiff(tmp_path / "b.tif", values), colours=True)


def test_paletted_png(tmp_path):
    """A PNG with a palette is read as its numbers, or with ``colours`` as Pillow shows it."""
    picture = Image.fromarray(pixels(1)[0] % 4).convert("P")
    picture.putpalette([10, 20, 30, 200, 0, 0, 0, 200, 0, 0, 0, 200])
    picture.save(tmp_path / "a.png")
    np.testing.assert_array_equal(whole(open_source(tmp_path / "a.png"))[0], np.asarray(picture))
    shown = np.asarray(picture.convert("RGB"))
    np.testing.assert_array_equal(
        np.moveaxis(whole(open_source(tmp_path / "a.png", colours=True)), 0, -1), shown
    )


def test_overview_of_a_masked_file(tmp_path):
    """A level of a masked file has the mask of that level."""
    path = tiff(tmp_path / "a.tif", pixels(1), tiled=True, blockxsize=32, blockysize=32)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as file:
        file.write_mask(np.arange(70)[:, None] * np.ones(90) < 30)
        file.build_overviews([2], Resampling.nearest)
    with rasterio.open(path, overview_level=0) as file:
        np.testing.assert_array_equal(measured(open_source(path, level=1)), file.dataset_mask() > 0)


def test_bands_of_different_types(tmp_path):
    """Bands of different types are refused together, and read alone."""
    tiff(tmp_path / "a.tif", pixels(1))
    tiff(tmp_path / "b.tif", pixels(1, "float32"))
    band = (
        '<VRTRasterBand dataType="{}" band="{}"><SimpleSource><SourceFilename '
        'relativeToVRT="1">{}</SourceFilename></SimpleSource>'
    )
    bands = "".join(
        band.format(*what) + "</VRTRasterBand>"
        for what in (("Byte", 1, "a.tif"), ("Float32", 2, "b.tif"))
    )
    (tmp_path / "c.vrt").write_text(
        f'<VRTDataset rasterXSize="90" rasterYSize="70">{PLACED}{bands}</VRTDataset>'
    )
    with pytest.raises(
        SourceError,
        match=r"c\.vrt has bands of different types, float32, uint8; choose bands of one: bands",
    ):
        open_source(tmp_path / "c.vrt")
    np.testing.assert_array_equal(
        whole(open_source(tmp_path / "c.vrt", bands=[2])), pixels(1, "float32")
    )


def test_masked_pixels_have_no_objects(tmp_path):
    """A run draws nothing where a file's mask says that nothing was measured, and leaves out tiles
    that the mask covers.
    """
    path = tiff(tmp_path / "a.tif", np.full((1, 96, 96), 200, np.uint8))
    good = np.zeros((96, 96), bool)
    good[40:60, 20:50] = True
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as file:
        file.write_mask(good)
    segment(path, {"kind": "threshold", "value": 100}, tmp_path / "out", tile=32, engine=local())
    np.testing.assert_array_equal(whole(open_source(tmp_path / "out" / "labels.zarr"))[0] > 0, good)


def test_real_files(shared):
    """Real files with a mask, a palette, nodata and NaN are measured where rasterio says."""
    for name in (
        "large/riotiler_cog_cmap_8704x7168.tif",
        "satellite/rasterio_RGB.byte.tif",
        "satellite/riotiler_cog_nodata.tif",
    ):
        source, box = open_source(shared / name), Box((0, 0), (700, 700))
        with rasterio.open(shared / name) as file:
            expected = file.dataset_mask(window=((0, 700), (0, 700))) > 0
        np.testing.assert_array_equal(
            one_for_all(where_measured(source, box, source.read(box))), expected
        )
