"""Samples of pixels do not depend on how the image is cut."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.image.grid import Box, Grid
from pipeline.imageops.sampling import Sample, collect, merge, pick, rank


def drawn(shape, seed, bands=2):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(bands, *shape))
    features[0, rng.random(shape) < 0.1] = np.nan
    return features, rng.random(shape) > 0.3


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_parts_give_the_sample_of_the_whole(data):
    """However an image is cut, the samples of the parts make up that of the whole: valid, finite
    pixels, in raster order.
    """
    shape = data.draw(st.sampled_from([(31, 40), (9, 8, 7), (1, 50)]))
    features, valid = drawn(shape, data.draw(st.integers(0, 99)))
    size = data.draw(st.integers(1, 400))
    grid = Grid(shape, tuple(data.draw(st.integers(3, 20)) for _ in shape))
    cores = [grid.core(tile) for tile in np.random.default_rng(0).permutation(len(grid)).tolist()]
    parts = [
        pick(features[(slice(None), *core.slices)], valid[core.slices], core, shape, size)
        for core in cores
    ]
    whole = pick(features, valid, Box.whole(shape), shape, size)
    found = merge(parts, size)
    np.testing.assert_array_equal(found.places, whole.places)
    np.testing.assert_array_equal(found.rows, whole.rows)
    good = np.flatnonzero((valid & np.isfinite(features).all(axis=0)).ravel())
    assert len(found.places) == min(size, len(good))
    assert set(found.places) <= set(good)
    np.testing.assert_array_equal(found.rows, features.reshape(2, -1)[:, found.places].T)
    assert (np.diff(found.places) > 0).all()


def test_ranks_are_different_and_spread():
    """No two pixels have one rank, and every part of the image gets its share of the lowest."""
    ranks = rank(np.arange(100_000))
    assert len(np.unique(ranks)) == 100_000
    lowest = np.argsort(ranks)[:10_000]
    share = np.histogram(lowest, 20, (0, 100_000))[0]
    assert share.min() > 400
    assert share.max() < 600


def test_a_large_image_is_not_read_whole():
    """Of an image of many squares, no more are looked at than the sample needs; of one that is
    nearly empty, all.
    """
    seen = []

    def gather(boxes):
        seen.append(len(boxes))
        return Sample(
            np.array([box.start[0] * 10**6 + box.start[1] for box in boxes]),
            np.zeros((len(boxes), 1)),
        )

    assert len(collect((10**5, 10**5), 1024, gather).places) == 1024
    assert seen == [1024]
    seen.clear()
    assert len(collect((20_000, 20_000), 10**6, gather).places) == sum(seen) == 79 * 79
