"""Blobs: what is chosen from the tree, and tiled against untiled."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from skimage.measure import regionprops

import pipeline
from pipeline.errors import JobError
from pipeline.evaluation.metrics import Contingency, instances
from pipeline.segmenters import fitted_to
from pipeline.segmenters.blobs import FINE, Blobs, _cover
from tests.test_exactness import CASES, images, tilings
from tests.tiling import in_raster_order, tiled


@CASES
@given(st.data())
def test_tiled_equals_whole_image(data):
    """With room to read as far as it needs, tiled blobs are the untiled ones, every object proved;
    also with missing pixels.
    """
    image = data.draw(images(dims=(2,))).astype(np.float32)
    image[
        np.random.default_rng(data.draw(st.integers(0, 99))).random(image.shape)
        < data.draw(st.sampled_from([0, 0.05]))
    ] = np.nan
    valid = np.isfinite(image)
    tile, order = data.draw(tilings(image.shape))
    method = Blobs(
        threshold=float(data.draw(st.integers(60, 150))),
        ground=data.draw(st.sampled_from([0.0, 40.0])),
        sigma=data.draw(st.sampled_from([0.0, 0.5])),
        local=data.draw(st.sampled_from([0.0, 1.0])),
        min_size=data.draw(st.sampled_from([2, 6])),
        height=data.draw(st.sampled_from([0.0, 0.4, 0.7])),
        min_distance=data.draw(st.integers(1, 3)),
        roundness=data.draw(st.sampled_from([0.3, 0.8])),
    )
    with tempfile.TemporaryDirectory() as folder:
        found = tiled(
            image[None], method, tile, Path(folder), halo=data.draw(st.integers(1, 6)), order=order
        )
    np.testing.assert_array_equal(
        found.labels, in_raster_order(method(np.nan_to_num(image)[None], valid))
    )
    assert set(found.certificates) <= {"proved"}


def scene():
    """Discs of many sizes and brightnesses, some that touch, on a ground that brightens to the
    right.
    """
    rng = np.random.default_rng(2)
    rows, columns = np.indices((220, 300))
    image, truth = np.tile(np.linspace(10, 60, 300), (220, 1)), np.zeros((220, 300), int)
    number = 0
    for r in range(20, 200, 36):
        for c in range(20, 290, 36):
            radius, bright = rng.integers(5, 13), rng.choice([60, 120, 240])
            inside = (rows - r) ** 2 + (columns - c) ** 2 <= radius**2
            number += 1
            image[inside], truth[inside] = 60 + bright, number
    touching = (rows - 200) ** 2 + (columns - 150) ** 2 <= 81
    image[touching] = 120
    truth[touching] = number + 1
    return ndimage.gaussian_filter(image, 1) + rng.normal(0, 1, image.shape), truth


def test_dim_and_bright_are_found():
    """One setting finds discs of four-fold brightness and size on an uneven ground."""
    image, truth = scene()
    found = Blobs(min_area=30)(image[None])
    measures = instances(Contingency.of(found, truth))
    assert measures["f1"] > 0.95


@pytest.mark.parametrize("tile", [50, 96])
def test_fitted_to_the_whole_image(tmp_path, tile):
    """From file to file, with what is fitted, blobs are those of the whole image, also where its
    left half is dark.
    """
    image, _ = scene()
    image[:, :150] *= 0.4
    with pipeline.local() as engine:
        result = pipeline.segment(image, Blobs(local=5), tmp_path / "out", engine=engine, tile=tile)
    np.testing.assert_array_equal(
        result.labels.values, in_raster_order(Blobs(local=5)(image[None]))
    )
    assert set(result.objects["certificate"]) == {"proved"}


def test_ellipses_are_filled():
    """What a node covers is its area, less what its ellipse has more; moments are
    scikit-image's.
    """
    rows, columns = np.indices((40, 60))
    for shape in (
        ((rows - 20) / 9) ** 2 + ((columns - 30) / 17) ** 2 <= 1,
        (abs(rows - 20) < 3) | (abs(columns - 30) < 3),
        (rows > 5) & (columns > 50),
    ):
        (region,) = regionprops(shape.astype(int))
        y, x = region.coords.T
        sums = np.array([len(x), x.sum(), y.sum(), (x * x).sum(), (y * y).sum(), (x * y).sum()])
        filled = region.area / (np.pi / 4 * region.axis_major_length * region.axis_minor_length)
        assert _cover(sums, 0.0) / (len(x) * FINE) == pytest.approx(min(filled, 1), abs=0.01)


def test_little_to_find():
    """A constant image has no blob, nor has one without valid pixels; what is not valid belongs to
    none.
    """
    assert not Blobs()(np.full((1, 30, 30), 7, np.uint8)).any()
    image, _ = scene()
    valid = np.ones(image.shape, bool)
    valid[:, 40:60] = False
    assert not Blobs()(image[None], valid)[~valid].any()
    method = fitted_to(Blobs(), image[None], valid)
    assert not method(image[None], np.zeros(image.shape, bool)).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": "multiotsu"}, "threshold: 'multiotsu'; allowed: a value, or otsu"),
        (
            {"min_size": 50, "max_size": 40},
            "min_size and max_size: 50 and 40; allowed: 1 to 100000, ascending",
        ),
        ({"share": 2}, "share: 2; allowed: 0 to 1"),
        ({"height": -1}, "height: -1; allowed: 0 to 1"),
        ({"local": 300}, "local: 300; allowed: 0 to 250 pixels"),
        ({"min_distance": 0}, "min_distance and min_depth: 0 and 0.6; allowed: from 1, and from 0"),
    ],
    ids=str,
)
def test_refusals(options, message):
    """What cannot be is refused, naming the option, what was given and what is allowed."""
    with pytest.raises(JobError, match=message):
        Blobs(**options)
