"""Sums against NumPy's, SciPy's and exact arithmetic; and that they add up."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from pipeline.image.grid import Box, Grid
from pipeline.imageops.region_sums import Sums, concatenate, empty, means, measure
from pipeline.stages.stitching import number_anchors

TYPES = [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.float32, np.float64]


def table(sums):
    """Everything of some sums, as arrays."""
    mean, deviation = means(sums)
    return (
        sums.area,
        sums.anchor,
        sums.low,
        sums.high,
        sums.place,
        sums.minimum,
        sums.maximum,
        mean,
        deviation,
    )


@st.composite
def images(draw):
    """Labels 0 to 4 and pixels of any type, of values as wild as the type allows."""
    ndim = draw(st.integers(2, 3))
    shape = tuple(draw(st.integers(1, 9 if ndim == 2 else 5)) for _ in range(ndim))
    labels = draw(hnp.arrays(np.int32, shape, elements=st.integers(0, 4)))
    dtype = np.dtype(draw(st.sampled_from(TYPES)))
    if dtype.kind == "f":
        elements = st.floats(-(2.0**60), 2.0**60, width=32) | st.floats(
            -(2.0**-100), 2.0**-100, width=32
        )
    else:
        elements = st.integers(int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    return labels, draw(hnp.arrays(dtype, (draw(st.integers(1, 2)), *shape), elements=elements))


@settings(max_examples=150, deadline=None)
@given(images())
def test_sums_are_exact(image):
    """Area, anchor, box and extremes are those of the pixels; mean and deviation are the exact
    ones, rounded once.
    """
    labels, block = image
    sums = measure(labels, block, 4, Box.whole(labels.shape), labels.shape)
    present = np.unique(labels[labels > 0])
    assert sums.area.tolist() == [(labels == label).sum() for label in range(1, 5)]
    sums = sums.take(present - 1)
    mean, deviation = means(sums)
    for i, label in enumerate(present):
        where = np.argwhere(labels == label)
        np.testing.assert_array_equal(sums.low[i], where.min(axis=0))
        np.testing.assert_array_equal(sums.high[i], where.max(axis=0) + 1)
        np.testing.assert_array_equal(sums.place[i], where.sum(axis=0))
        assert sums.anchor[i] == np.flatnonzero(labels.ravel() == label)[0]
        for band, pixels in enumerate(block):
            values = pixels[labels == label]
            assert (sums.minimum[i, band], sums.maximum[i, band]) == (values.min(), values.max())
            exact = [Fraction(v.item()) for v in values]
            assert mean[i, band] == float(sum(exact) / len(exact))
            squares = [
                Fraction(float(v) * float(v)) if values.dtype.kind == "f" else v * v
                for v, w in zip(exact, exact, strict=True)
            ]
            spread = max(sum(squares) / len(exact) - (sum(exact) / len(exact)) ** 2, Fraction(0))
            assert (
                math.isclose(deviation[i, band], math.sqrt(spread), rel_tol=1e-12, abs_tol=0)
                or spread == deviation[i, band] == 0
            )


@settings(max_examples=100, deadline=None)
@given(images(), st.data())
def test_sums_of_tiles_add_up(image, data):
    """However an image is cut, and in whatever order the parts are added, the sums are the same to
    the last bit.
    """
    labels, block = image
    whole = measure(labels, block, 4, Box.whole(labels.shape), labels.shape)
    grid = Grid(labels.shape, tuple(data.draw(st.integers(1, 6)) for _ in labels.shape))
    parts = [
        measure(labels[core.slices], block[(slice(None), *core.slices)], 4, core, labels.shape)
        for core in map(grid.core, data.draw(st.permutations(range(len(grid)))))
    ]
    together = concatenate(parts).merge(np.tile(np.arange(4), len(parts)), 4)
    for mine, other in zip(
        table(together.take(whole.area > 0)), table(whole.take(whole.area > 0)), strict=True
    ):
        np.testing.assert_array_equal(mine, other)


def test_merge_leaves_out_and_keeps_empty():
    """A row without an owner is left out; an owner without rows has no pixel."""
    labels = np.array([[1, 2, 3]], np.int32)
    sums = measure(labels, np.array([[[5, 6, 7]]], np.uint8), 3, Box.whole((1, 3)), (1, 3))
    merged = sums.merge(np.array([2, -1, 2]), 4)
    assert merged.area.tolist() == [0, 0, 2, 0]
    assert means(merged.take(np.array([2])))[0].tolist() == [[6.0]]
    assert isinstance(empty(0, 2, 1), Sums)


def test_large_real_values():
    """Means and deviations of a large label are SciPy's."""
    rng = np.random.default_rng(0)
    pixels = rng.normal(1e6, 3, (1, 400, 500)).astype(np.float32)
    labels = (rng.random((400, 500)) < 0.7).astype(np.int32)
    mean, deviation = means(measure(labels, pixels, 1, Box.whole((400, 500)), (400, 500)))
    wide = pixels[0].astype(np.float64)
    assert mean[0, 0] == pytest.approx(ndimage.mean(wide, labels, 1), rel=1e-13)
    assert deviation[0, 0] == pytest.approx(ndimage.standard_deviation(wide, labels, 1), rel=1e-9)


def test_no_wrap_around_far_out():
    """At the far end of an image of 2^60 pixels, and after 2^40 ids, nothing
    wraps around.
    """
    side, at = 2**30, 2**30 - 4
    labels = np.array([[1, 1, 0, 2], [0, 0, 0, 2]], np.int32)
    sums = measure(
        labels, np.ones((1, 2, 4), np.uint8), 2, Box((at, at), (at + 2, at + 4)), (side, side)
    )
    assert sums.anchor.tolist() == [at * side + at, at * side + at + 3]
    assert sums.high.tolist() == [[at + 1, at + 2], [at + 2, at + 4]]
    assert sums.place.tolist() == [[2 * at, 2 * at + 1], [2 * at + 1, 2 * at + 6]]
    (ids,) = number_anchors([sums.anchor[::-1]], after=2**40)
    assert ids.tolist() == [2**40 + 2, 2**40 + 1]
