"""Real images, from file to file: the whole way against whole-image answers."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import rasterio
import zarr
from scipy import ndimage

import pipeline
from pipeline.imageops.histograms import histogram
from pipeline.sources import open_source
from tests.tiling import in_raster_order


def mosaic(folder, size):
    """Fluorescence nuclei of many kinds, set side by side until they fill a square, each picture
    repeated to at least 512 rows.
    """
    pictures = []
    for path in sorted((folder / "nuclei-fluo").glob("dsb2018_*.png")):
        with rasterio.open(path) as file:
            picture = file.read(1)
        pictures.append(np.tile(picture, (-(-512 // len(picture)), 1))[:512])
    rows = []
    for row in range(-(-size // 512)):
        parts, width = [], 0
        while width < size:
            parts.append(pictures[(row * 5 + len(parts)) % len(pictures)])
            width += parts[-1].shape[1]
        rows.append(np.concatenate(parts, axis=1)[:, :size])
    return np.concatenate(rows)[:size]


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_land_mask_equals_whole_image_labelling(shared, tmp_path, engine):
    """648 megapixels of land mask, a continent over hundreds of tiles: labels, areas and boxes are
    scipy's of the whole image.
    """
    path = shared / "large" / "riotiler_cog_world_landmask_36000x18000.tif"
    result = pipeline.segment(
        {"path": str(path), "nodata": 255},
        pipeline.Threshold(value=0),
        tmp_path / "land",
        tile=1024,
        engine=engine,
    )
    with rasterio.open(path) as file:
        expected, number = ndimage.label(file.read(1))
    labels = zarr.open_array(tmp_path / "land" / "labels.zarr" / "0")
    for row in range(0, labels.shape[0], 2048):
        np.testing.assert_array_equal(labels[row : row + 2048], expected[row : row + 2048])
    assert result.record["certificates"] == {"proved": number, "agreed": 0, "disputed": 0}
    table = result.objects
    np.testing.assert_array_equal(table["area"], np.bincount(expected.ravel())[1:])
    boxes = [
        [rows.start, rows.stop, columns.start, columns.stop]
        for rows, columns in ndimage.find_objects(expected)
    ]
    np.testing.assert_array_equal(table[["row_min", "row_max", "column_min", "column_max"]], boxes)
    assert table["tiles"].max() > 100


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_nuclei_mosaic_is_proved(shared, tmp_path, engine):
    """Of the nuclei of an 8192 x 8192 mosaic in tiles of 512, more than 99 % are proved or agreed,
    and all equal the untiled watershed.
    """
    image = mosaic(shared, 8192)
    method = pipeline.Watershed(sigma=1.0, min_area=20)
    result = pipeline.segment(image, method, tmp_path / "nuclei", tile=512, engine=engine)
    counts = result.record["certificates"]
    print(counts)
    assert (counts["proved"] + counts["agreed"]) / sum(counts.values()) > 0.99
    untiled = method(image[None])
    areas = np.bincount(untiled.ravel())
    untiled[(areas < 20)[untiled]] = 0
    expected, labels = in_raster_order(untiled), result.labels.values
    unproved = result.objects.loc[result.objects["certificate"] != "proved", "id"]
    same = (labels > 0) == (expected > 0)
    assert same[~np.isin(labels, unproved)].all()
    if not len(unproved):
        np.testing.assert_array_equal(labels, expected)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_two_tilings_give_one_answer(shared, tmp_path, engine):
    """Tiles of 300 and of 512 pixels give equal arrays, and equal tables but for the number of
    tiles.
    """
    image = mosaic(shared, 1500)
    found = {}
    for tile in (300, 512):
        found[tile] = pipeline.segment(
            image,
            pipeline.Watershed(sigma=1.0, min_area=20),
            tmp_path / str(tile),
            tile=tile,
            engine=engine,
        )
    first, second = found.values()
    np.testing.assert_array_equal(first.labels, second.labels)
    assert first.objects.drop(columns="tiles").equals(second.objects.drop(columns="tiles"))
    assert Counter(first.objects["certificate"]) == {"proved": len(first.objects)}


@pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")  # rioxarray's
def test_float_scene_with_nodata_and_nan(shared, tmp_path, engine):
    """A Sentinel-1 scene of floats, its collar nodata and a few pixels NaN: labels equal the
    whole-image answer, in the scene's CRS.
    """
    import rioxarray  # noqa: F401  the accessor is the oracle here

    path = shared / "satellite" / "riotiler_cog_nodata_nan.tif"
    with rasterio.open(path) as file:
        values, crs, transform = file.read(1), file.crs, file.transform
    method = pipeline.Threshold(method="otsu", sigma=1.5, min_area=10, connectivity=8)
    result = pipeline.segment(
        str(path), method, tmp_path / "s1", tile=128, engine=engine, labels=["zarr", "cog"]
    )
    valid = np.isfinite(values) & (values != 0)
    fitted = method.fit(histogram(method.feature(values[None], valid), valid))
    expected, _ = ndimage.label(fitted.classify(values[None], valid).kinds, np.ones((3, 3)))
    keep = np.bincount(expected.ravel()) >= 10
    keep[0] = False
    np.testing.assert_array_equal(result.labels, (np.cumsum(keep) * keep)[expected])
    assert result.labels.rio.crs == crs
    assert result.labels.rio.transform() == transform
    with rasterio.open(tmp_path / "s1" / "labels.tif") as file:
        np.testing.assert_array_equal(file.read(1), result.labels)
        np.testing.assert_array_equal(file.read_masks(1) > 0, valid)
        assert (file.crs, file.transform) == (crs, transform)


def test_volume_of_nuclei(shared, tmp_path, engine):
    """A real volume, cut in all three directions, has the labels of the untiled watershed."""
    import tifffile

    volume = tifffile.imread(shared / "volume-3d" / "stardist_img3d.tif")
    method = pipeline.Watershed(threshold="otsu", sigma=1.0, min_distance=4, min_area=30)
    result = pipeline.segment(
        open_source(volume, axes="zyx"), method, tmp_path / "volume", tile=24, halo=8, engine=engine
    )
    untiled = method(volume[None])
    untiled[(np.bincount(untiled.ravel()) < 30)[untiled]] = 0
    np.testing.assert_array_equal(result.labels, in_raster_order(untiled))
    assert result.record["certificates"]["proved"] == result.record["objects"]


def test_lazy_preprocessing_runs_inside_the_tile(shared, tmp_path, engine):
    """A Dask array made by dask-image filters is computed tile by tile in the workers, and gives
    what the computed array gives.
    """
    import dask.array as da
    from dask_image import ndfilters

    with rasterio.open(shared / "satellite" / "rasterio_RGB.byte.tif") as file:
        image = file.read(1)
    lazy = ndfilters.gaussian_filter(da.from_array(image.astype(np.float32), chunks=200), 2)
    result = pipeline.segment(
        lazy, pipeline.Threshold(value=40), tmp_path / "lazy", tile=256, engine=engine
    )
    np.testing.assert_array_equal(
        result.labels, ndimage.label(lazy.compute(scheduler="synchronous") > 40)[0]
    )
