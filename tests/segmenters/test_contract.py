"""The contract of segmenters, and the two that come with the project on whole images."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.stats import rankdata
from skimage import segmentation

from pipeline.errors import JobError, SegmenterError
from pipeline.imageops.components import pieces
from pipeline.segmenters import Contract, Keyed, classes, draw, keyed, support
from pipeline.segmenters.threshold import Threshold
from pipeline.segmenters.watershed import Watershed
from tests.tiling import in_raster_order, tiled

BLOCK, VALID = np.arange(12, dtype=np.uint8).reshape(1, 3, 4), np.ones((3, 4), bool)


def stating(**attributes):
    """A segmenter that states something about itself."""

    def segmenter(block):
        return np.ones(block.shape[1:], np.int32)

    vars(segmenter).update(attributes)
    return segmenter


def test_contract_has_defaults():
    """A plain function is an object segmenter without reach, on the CPU and on probation; one that
    states its reach is on none.
    """
    plain = {
        "identity": "object",
        "reach": 0,
        "connectivity": None,
        "device": "cpu",
        "min_area": 0,
        "fill_holes": False,
    }
    assert Contract.of(stating()) == Contract(**plain, probation=True)
    assert Contract.of(stating(reach=0)) == Contract(**plain, probation=False)
    assert not Contract.of(stating(windowed=True)).probation
    assert Contract.of(stating(identity="connected", probation=False)).probation
    stated = Contract.of(Threshold(sigma=1.0, min_area=3))
    assert stated == Contract(
        identity="connected", reach=4, min_area=3, portable=True, footprint=stated.footprint
    )


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"identity": "keyd"}, "identity: 'keyd'; allowed: 'connected', 'object' or 'keyed'"),
        ({"reach": -1}, "reach: -1; allowed: a number of pixels, 0 or more"),
        ({"reach": 1.5}, "reach: 1.5; allowed"),
        (
            {"connectivity": 5},
            "connectivity: 5; allowed: 4 or 8 in two dimensions, 6 or 26 in three",
        ),
        ({"device": "tpu"}, "device: 'tpu'; allowed: 'cpu', 'gpu' or 'auto'"),
        ({"min_area": True}, "min_area: True; allowed"),
        (
            {"fill_holes": True},
            "fill_holes: True; allowed: True only where identity is 'connected'",
        ),
    ],
    ids=str,
)
def test_contract_refuses(stated, message):
    """A statement that cannot be is refused with what can."""
    with pytest.raises(JobError, match=rf"segmenter\.{message}"):
        Contract.of(stating(**stated))
    with pytest.raises(JobError, match="a segmenter is a function from a block to labels, not 3"):
        Contract.of(3)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (
            np.ones((4, 3), int),
            r"returned the shape \(4, 3\); a block of \(3, 4\) needs labels of that shape",
        ),
        (np.ones((3, 4)), "returned float64; labels are integers"),
        (np.ones((3, 4), bool), "returned a mask; number its objects"),
        (np.full((3, 4), -2), "returned the label -2; labels are 0 or more"),
        ("labels", r"returned the shape \(\)"),
    ],
    ids=["shape", "floats", "mask", "negative", "text"],
)
def test_labels_that_cannot_be(returned, message):
    """What a segmenter returns is checked, and the message says what was wrong."""
    with pytest.raises(SegmenterError, match=message):
        draw(lambda block: returned, BLOCK, VALID)


@pytest.mark.parametrize("dtype", [np.int32, np.uint32, np.int64, np.uint64])
@pytest.mark.parametrize("background", [True, False])
def test_large_labels_are_renumbered(dtype, background):
    """Labels that are scattered over all that their type holds are the same objects, numbered as
    SciPy's ranks number them.
    """
    returned = np.random.default_rng(2).choice(
        np.array([0, 3, 2_000_000_000, np.iinfo(dtype).max], dtype), (3, 4)
    )
    returned[0, 0] = 0 if background else 3
    returned[returned == 0] = 0 if background else 3
    found = draw(lambda block: returned, BLOCK, VALID)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, rankdata(returned, "dense").reshape(3, 4) - background)


def test_large_labels_take_no_more_memory(tmp_path):
    """Of labels around 1,500,000,000, a tile takes as much memory as of the same objects numbered
    from 1, and the result is the same.
    """
    image = np.zeros((64, 64), np.uint8)
    image[8:60:8, 8:60:8] = image[9:60:8, 8:60:8] = 1

    def small(block):
        return ndimage.label(block[0])[0]

    def large(block):
        return np.where(small(block) > 0, 1_500_000_000 + small(block), 0)

    small.reach = large.reach = 0
    heights, labels = [], []
    for number, segmenter in enumerate((small, large)):
        tracemalloc.start()
        labels.append(tiled(image, segmenter, (32, 32), tmp_path / str(number), halo=4).labels)
        heights.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    np.testing.assert_array_equal(*labels)
    assert heights[1] < heights[0] + 2_000_000


def test_classes_that_no_raster_holds():
    """Classes beyond what a raster of classes holds are refused where they are drawn, before
    anything is made by class.
    """
    kinds = np.full((3, 4), 1_500_000_000)

    class Classing:
        identity, reach = "connected", 0

        def __call__(self, block):
            return self.classify(block)

        def classify(self, _block):
            return kinds

    with pytest.raises(
        SegmenterError,
        match="Classing returned the class 1500000000; classes are numbered 0 to 65534",
    ):
        classes(Classing(), BLOCK, VALID)
    with pytest.raises(SegmenterError, match="returned the class 1500000000"):
        keyed(lambda block: Keyed(np.ones((3, 4), int), kinds), BLOCK, VALID)


def test_what_is_not_valid_has_no_label():
    """Pixels that are not valid carry no label, whatever a segmenter draws; one that asks is told
    which they are.
    """
    valid = VALID.copy()
    valid[0] = False
    seen = []
    assert (draw(stating(), BLOCK, valid) == valid).all()
    assert (support(stating(), BLOCK, valid) == valid).all()
    assert (classes(stating(identity="connected"), BLOCK, valid).kinds == valid).all()
    draw(lambda block, valid: seen.append(valid) or np.zeros((3, 4), int), BLOCK, valid)
    assert seen[0] is valid


def discs(centres, radius, shape=(60, 60)):
    rows, columns = np.indices(shape)
    return np.any(
        [(rows - r) ** 2 + (columns - c) ** 2 <= radius**2 for r, c in centres], axis=0
    ).astype(np.uint8)


def test_watershed_parts_discs():
    """Discs that touch are parted; together they are the foreground, each in one piece; one alone
    is whole.
    """
    centres = [(12, 12), (12, 25), (25, 18), (45, 45)]
    mask = discs(centres, 7)
    labels = Watershed(threshold=0)(mask[None])
    np.testing.assert_array_equal(labels > 0, mask > 0)
    assert len({labels[place] for place in centres}) == len(np.unique(labels)) - 1 == 4
    for k in range(1, 5):
        assert ndimage.label(labels == k, np.ones((3, 3)))[1] == 1


@pytest.mark.parametrize("markers", ["distance", "intensity"])
def test_watershed_of_plain_images(markers):
    """Of nothing the watershed draws nothing; of an image that is all foreground and flat, one
    object.
    """
    method = Watershed(threshold=5, markers=markers)
    assert not method(np.zeros((1, 20, 20), np.uint8)).any()
    flat = method(np.full((1, 20, 20), 9, np.uint8))
    assert (flat == 1).all()


def test_watershed_in_three_dimensions():
    """Balls that touch are parted in volumes too, and bright middles part a flat sheet."""
    z, y, x = np.indices((24, 24, 40))
    balls = (
        sum(((z - 12) ** 2 + (y - 12) ** 2 + (x - c) ** 2 <= 64).astype(np.uint8) for c in (12, 26))
        > 0
    )
    assert Watershed(threshold=0)(balls[None].astype(np.uint8)).max() == 2


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4), st.sampled_from(["distance", "intensity"]))
def test_watershed_looks_no_further_than_its_support(seed, min_distance, markers):
    """Each piece of foreground, cut out with a rim around it, is drawn as in the whole image: what
    the certificate `proved` rests on.
    """
    image = (
        (ndimage.gaussian_filter(np.random.default_rng(seed).random((40, 44)), 1.6) * 900 - 350)
        .clip(0, 255)
        .astype(np.uint8)
    )
    method = Watershed(threshold=110, min_distance=min_distance, markers=markers)
    whole = method(image[None])
    piece, number = pieces(image > 110)
    for k in range(1, number + 1):
        rows, columns = ndimage.find_objects(piece == k, 1)[0]
        cut = (
            slice(max(rows.start - 1, 0), rows.stop + 1),
            slice(max(columns.start - 1, 0), columns.stop + 1),
        )
        alone = np.where(piece[cut] == k, method(image[None][(slice(None), *cut)]), 0)
        np.testing.assert_array_equal(
            in_raster_order(alone), in_raster_order(np.where(piece[cut] == k, whole[cut], 0))
        )


@pytest.mark.parametrize("compactness", [0.0, 30.0])
def test_given_markers_on_the_gradient_are_scikit_images(compactness):
    """From given markers over the whole image, on the slopes, it is scikit-image's watershed of
    Sobel's magnitude.
    """
    image = ndimage.gaussian_filter(np.random.default_rng(4).random((50, 60)), 3)
    places = [(5, 5), (25, 30), (40, 50), (10, 45)]
    markers = np.zeros(image.shape, int)
    markers[tuple(np.transpose(places))] = [1, 2, 3, 4]
    slope = np.hypot(*(ndimage.sobel(image, axis, mode="nearest") / 8 for axis in (0, 1)))
    expected = segmentation.watershed(slope, markers, connectivity=2, compactness=compactness)
    method = Watershed(threshold=None, seeds=places, surface="gradient", compactness=compactness)
    assert (method(image[None]) == expected).mean() > 0.999  # sums of another order


def test_dark_objects():
    """With `dark`, objects are what is below."""
    mask = discs([(20, 20), (20, 33)], 7)
    np.testing.assert_array_equal(
        Watershed(threshold=0, dark=True)(1 - mask[None]), Watershed(threshold=0)(mask[None])
    )
    np.testing.assert_array_equal(
        Threshold(value=0, dark=True)(1 - mask[None]), ndimage.label(mask)[0]
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Watershed(markers="colour"),
            "markers: 'colour'; allowed: 'distance' or 'intensity'",
        ),
        (
            lambda: Watershed(surface="slope"),
            "surface: 'slope'; allowed: 'distance', 'intensity' or 'gradient'",
        ),
        (lambda: Watershed(compactness=-1), "compactness: -1; allowed: 0 or more"),
        (
            lambda: Watershed(min_distance=0),
            "min_distance: 0; allowed: a whole number of pixels, from 1",
        ),
        (lambda: Watershed(min_depth=-1), "min_depth: -1; allowed: 0 or more"),
        (
            lambda: Watershed(max_hole=1.5),
            "max_hole: 1.5; allowed: a whole number of pixels, 0 for none",
        ),
        (lambda: Watershed(threshold="outs"), "'outs' is not known; .*did you mean 'otsu'"),
        (lambda: Threshold(value=1, method="otsu"), "value and method given"),
    ],
    ids=[
        "markers",
        "surface",
        "compactness",
        "distance",
        "depth",
        "hole",
        "method",
        "two thresholds",
    ],
)
def test_options_are_refused(make, message):
    """Options that cannot be are refused when they are given."""
    with pytest.raises(JobError, match=message):
        make()


@settings(max_examples=80)
@given(
    seed=st.integers(0, 10**6),
    markers=st.sampled_from(["distance", "intensity"]),
    surface=st.sampled_from([None, "gradient", "intensity"]),
    sigma=st.sampled_from([0.0, 1.0]),
    seeds=st.sampled_from([None, [[3, 3], [20, 11], [9, 30]]]),
)
def test_a_part_of_the_support_is_drawn_as_in_the_whole(seed, markers, surface, sigma, seeds):
    """Asked for some pieces of its foreground, a watershed draws in them what it draws when asked
    for all, and nothing elsewhere.
    """
    rng = np.random.default_rng(seed)
    block = (255 * rng.random((1, 41, 37)) ** 2).astype(np.uint8)
    block[0] = ndimage.gaussian_filter(block[0], rng.uniform(0, 2))
    valid = rng.random(block.shape[1:]) > 0.03
    method = Watershed(
        threshold=float(np.median(block)),
        min_distance=2,
        markers=markers,
        surface=surface,
        sigma=sigma,
        seeds=seeds,
    )
    piece, number = pieces(support(method, block, valid))
    part = (rng.random(number + 1) < 0.5)[piece] & (piece > 0)
    drawn = draw(method, block, valid, part=part)
    assert not drawn[~part].any()
    np.testing.assert_array_equal(
        in_raster_order(drawn), in_raster_order(np.where(part, draw(method, block, valid), 0))
    )
