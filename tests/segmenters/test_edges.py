"""Edges against scikit-image, and tiled against untiled."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from skimage import data as pictures
from skimage import feature, filters

import pipeline
from pipeline.errors import JobError
from pipeline.segmenters import fitted_to
from pipeline.segmenters.edge import Edges
from tests.test_exactness import CASES, images, tilings, whole_image
from tests.tiling import in_raster_order, tiled


def everywhere(image):
    return np.ones(image.shape, bool)


@pytest.mark.parametrize("name", ["camera", "coins", "brick", "moon"])
@pytest.mark.parametrize("sigma", [1.0, 2.0])
def test_canny_is_scikit_images(name, sigma):
    """Edges are scikit-image's Canny edges, but beside the image's edge, where it draws none, and
    what hangs on those.
    """
    image = getattr(pictures, name)().astype(float)
    found = Edges(sigma=sigma, high=6.0, low=3.0)(image[None]) > 0
    theirs = feature.canny(
        image, sigma=sigma, low_threshold=24, high_threshold=48, mode="nearest"
    )  # its slopes are 8 times ours
    at_edge = Edges(sigma=sigma, high=6.0, low=3.0)(image[None])
    rim = np.ones(image.shape, bool)
    rim[2:-2, 2:-2] = False
    hanging = np.isin(at_edge, np.unique(at_edge[rim]))
    theirs, found = theirs & ~hanging, found & ~hanging
    assert (theirs != found)[~rim].sum() <= 2  # equal slopes that round in another way
    assert found.sum() > 100


@pytest.mark.parametrize("method", ["sobel", "scharr"])
def test_slopes_are_scikit_images(method):
    """Sobel's and Scharr's slopes are scikit-image's, but for its scale; edges are where they are
    high.
    """
    image = pictures.coins().astype(float)
    edges = Edges(sigma=0, method=method, high=20.0, low=20.0)
    slope = edges.feature(image[None], everywhere(image))
    theirs = getattr(filters, method)(image) / np.sqrt(
        2
    )  # theirs is the mean over axes, of the rise over two pixels
    np.testing.assert_allclose(slope[1:-1, 1:-1], theirs[1:-1, 1:-1], atol=1e-9)
    np.testing.assert_array_equal(edges(image[None]) > 0, slope >= 20)


@st.composite
def kinds(draw):
    """Edges and regions of any kind."""
    high = draw(st.sampled_from([15.0, 30.0, 50.0]))
    return Edges(
        sigma=draw(st.sampled_from([0.0, 0.6])),
        method=draw(st.sampled_from(["canny", "canny", "sobel", "scharr"])),
        high=high,
        low=high / draw(st.sampled_from([1, 2, 5])),
        gaps=draw(st.sampled_from([0, 0, 1])),
        form=draw(st.sampled_from(["edges", "lines", "regions"])),
        min_area=draw(st.sampled_from([0, 0, 5])),
    )


@CASES
@given(st.data())
def test_tiled_equals_whole_image(data):
    """Tiled, edges are those of the hysteresis over the whole image, and regions what lies between
    them; also with missing pixels.
    """
    image = data.draw(images(dims=(2,))).astype(np.float32)
    image[
        np.random.default_rng(data.draw(st.integers(0, 99))).random(image.shape)
        < data.draw(st.sampled_from([0, 0, 0.03]))
    ] = np.nan
    valid = np.isfinite(image)
    tile, order = data.draw(tilings(image.shape))
    method = data.draw(kinds())
    with tempfile.TemporaryDirectory() as folder:
        found = tiled(image[None], method, tile, Path(folder), order=order)
    classes = method.classify(np.nan_to_num(image)[None], valid)
    kept = whole_image(classes.kinds.astype(int), 8, seeds=classes.seeds & classes.kinds) > 0
    expected = whole_image(kept.astype(int), 8, method.min_area)
    if method.form == "regions":
        expected = whole_image((valid & ~kept).astype(int), 4, method.min_area)
    np.testing.assert_array_equal(found.labels, expected)
    if not method.min_area:
        np.testing.assert_array_equal(found.labels, method(image[None], valid))
    assert set(found.certificates) <= {"proved"}


@pytest.mark.parametrize("form", ["edges", "lines", "regions"])
def test_an_edge_over_ten_tiles(tmp_path, form):
    """A weak edge that crosses ten tiles and is strong in one is an edge in all; one that is strong
    nowhere is none.
    """
    image = np.zeros((41, 200))
    image[10:20] = 10
    image[30:] = 10
    image[10:20, 95:99] = 60
    method = Edges(sigma=0, high=20.0, low=4.0, form=form)
    found = tiled(image[None], method, (41, 20), tmp_path)
    untiled = method(image[None])
    np.testing.assert_array_equal(found.labels, untiled)
    if form == "lines":
        assert len(np.unique(found.labels)) == 2
    elif form == "edges":
        assert (found.labels[[9, 10, 19, 20]][:, :90] == 1).all()
        assert not found.labels[25:].any()
    else:
        assert untiled[0, 0] != untiled[15, 0] != untiled[24, 0] == untiled[40, 0]
    assert set(found.certificates) == {"proved"}


def test_fitted_to_the_whole_image(tmp_path):
    """Thresholds are found once, in the slopes of the whole image, also where its left half is
    dark; from a file of two bands.
    """
    image = pictures.coins().astype(np.float32)
    image[:, :190] *= 0.2
    image[100:120, 50:60] = np.nan
    both = np.stack([image * 0, image])
    method = Edges(band=2, form="regions", min_area=30)
    with pipeline.local() as engine:
        results = [
            pipeline.segment(both, method, tmp_path / str(tile), tile=tile, engine=engine)
            for tile in (64, 500)
        ]
    np.testing.assert_array_equal(results[0].labels.values, results[1].labels.values)
    valid = np.isfinite(image)
    fitted = fitted_to(method, np.nan_to_num(both), valid)
    assert results[0].record["fitted"]["edges"]["high"] == pytest.approx(fitted.high)
    expected = fitted(np.nan_to_num(both), valid)
    sizes = np.bincount(expected.ravel())
    np.testing.assert_array_equal(
        results[0].labels.values, in_raster_order(np.where(sizes[expected] >= 30, expected, 0))
    )


def test_little_to_find():
    """A constant image has no edge and is one region; what is not valid is neither."""
    flat = np.full((1, 9, 9), 7, np.uint8)
    assert not Edges()(flat).any()
    assert (Edges(form="regions")(flat) == 1).all()
    valid = np.ones((9, 9), bool)
    valid[:, 4] = False
    regions = Edges(form="regions")(flat, valid)
    assert regions.max() == 2
    assert not regions[:, 3:6].any()


def test_gaps_are_closed():
    """An outline with a small gap parts nothing, and does once gaps of that size are closed."""
    outline = np.zeros((40, 40))
    outline[10:30, 10:30] = 100
    outline[9:12, 18:20] = 50  # the slope is halved there
    open_, closed = (
        Edges(sigma=0, high=40.0, low=40.0, form="regions", gaps=gaps)(outline[None])
        for gaps in (0, 2)
    )
    assert open_[20, 20] == open_[0, 0] > 0
    assert closed[20, 20] != closed[0, 0]
    structure = ndimage.generate_binary_structure(2, 1)
    assert ndimage.label(closed > 0, structure)[1] == closed.max()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "cany"}, "method: 'cany'; .*did you mean 'canny'"),
        ({"form": "curves"}, "form: 'curves'; .*lines, regions"),
        ({"high": 0}, "high: 0; allowed: more than 0"),
        ({"high": "outsu"}, "high: 'outsu'; a slope, or .*otsu"),
        ({"high": 3, "low": 5}, "low: 5; allowed: more than 0 and no more than high"),
        ({"low": 0}, "low: 0; allowed"),
        ({"gaps": -1}, "gaps: -1"),
        ({"sigma": -1}, "sigma: -1"),
    ],
    ids=str,
)
def test_refusals(options, message):
    """What cannot be is refused, naming the option, what was given and what is allowed."""
    with pytest.raises(JobError, match=message):
        Edges(**options)


def test_volumes_are_refused(tmp_path):
    """Edges are for images of two dimensions."""
    job = pipeline.Job(
        source={"path": np.zeros((1, 9, 9, 9)), "planes": "all"},
        segmenters={"edges": Edges()},
        output={"path": str(tmp_path / "out")},
    )
    with (
        pytest.raises(JobError, match=r"segmenters\.edges: .*dimensions"),
        pipeline.local() as engine,
    ):
        pipeline.run(job, engine)
