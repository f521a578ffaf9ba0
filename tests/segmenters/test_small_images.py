"""Images that are hardly any, from array to every file that a run writes."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from scipy import ndimage

import pipeline
from pipeline.sources import open_source

RNG = np.random.default_rng(0)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize(("tile", "halo"), [(3, 0), (16, 1), ("auto", "auto")], ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (2, 2), (3, 130), (33, 47)], ids=str)
def test_small_images(shape, tile, halo, tmp_path):
    """Images of one pixel, one row, one column or less than a tile have SciPy's labels, in Zarr and
    GeoTIFF.
    """
    image = (RNG.random(shape) * 255).astype(np.uint8)
    method = pipeline.Threshold(value=120, fill_holes=True)
    options = {
        "tile": tile,
        "halo": halo,
        "labels": ["zarr", "cog"],
        "picture": True,
        "engine": pipeline.local(),
    }
    result = pipeline.segment(image, method, tmp_path / "out", **options)
    expected = ndimage.label(ndimage.binary_fill_holes(image > 120))[0]
    np.testing.assert_array_equal(result.labels, expected)
    with rasterio.open(tmp_path / "out" / "labels.tif") as file:
        np.testing.assert_array_equal(file.read(1), expected)
    assert len(result.objects) == expected.max()
    assert "<img" in result._repr_html_()


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 9, 7), (20, 1, 30)], ids=str)
def test_small_volumes(shape, tmp_path):
    """Volumes of one voxel, one plane or one row have SciPy's labels."""
    volume = (RNG.random(shape) * 255).astype(np.uint8)
    source = open_source(volume, axes="zyx", planes="all")
    result = pipeline.segment(
        source,
        pipeline.Threshold(value=120),
        tmp_path / "out",
        tile=4,
        picture=True,
        engine=pipeline.local(),
    )
    np.testing.assert_array_equal(result.labels, ndimage.label(volume > 120)[0])


def test_nothing_to_find(tmp_path):
    """An image without an object, and one without a valid pixel, have a complete result of no
    objects.
    """
    for name, image in (
        ("dark", np.zeros((40, 40), np.uint8)),
        ("nothing", np.full((40, 40), np.nan, np.float32)),
    ):
        result = pipeline.segment(
            image,
            pipeline.Threshold(value=120),
            tmp_path / name,
            tile=16,
            picture=True,
            engine=pipeline.local(),
        )
        assert (result.record["complete"], result.record["objects"], len(result.objects)) == (
            True,
            0,
            0,
        )
        assert not result.labels.values.any()
    assert result.record["routes"]["empty"]["tiles"] == 9
