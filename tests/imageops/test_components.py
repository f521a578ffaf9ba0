"""Connected pieces against SciPy's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from pipeline.imageops.components import pieces

SHAPES = st.one_of(
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=14),
    hnp.array_shapes(min_dims=3, max_dims=3, min_side=0, max_side=6),
)


def expected(classes, neighbours):
    """SciPy's pieces of each class, numbered together in raster order."""
    structure = ndimage.generate_binary_structure(
        classes.ndim, 1 if neighbours in (4, 6) else classes.ndim
    )
    firsts, masks = [], []
    for kind in np.unique(classes[classes != 0]):
        labels, number = ndimage.label(classes == kind, structure)
        masks += [labels == k for k in range(1, number + 1)]
    firsts = [np.flatnonzero(mask.ravel())[0] for mask in masks]
    found = np.zeros(classes.shape, np.int32)
    for number, k in enumerate(np.argsort(firsts), start=1):
        found[masks[k]] = number
    return found


@settings(max_examples=300)
@given(st.data())
def test_pieces_are_scipys(data):
    """Pieces of booleans and of classes, in two and three dimensions, by faces or corners, are
    SciPy's, in raster order.
    """
    dtype = data.draw(st.sampled_from([bool, np.uint8, np.int32, np.int64]))
    top = 1 if dtype is bool else data.draw(st.sampled_from([1, 3]))
    classes = data.draw(hnp.arrays(np.uint8, SHAPES, elements=st.integers(0, top))).astype(dtype)
    if data.draw(st.booleans()):
        classes = np.asfortranarray(classes)
    neighbours = data.draw(st.sampled_from([4, 8, None] if classes.ndim == 2 else [6, 26, None]))
    labels, number = pieces(classes, neighbours)
    np.testing.assert_array_equal(labels, expected(classes, neighbours))
    assert number == labels.max(initial=0)


@pytest.mark.parametrize("density", [0.3, 0.5, 0.6, 0.9])
def test_noise(density):
    """On noise, where pieces are many and tangled, they are SciPy's."""
    mask = np.random.default_rng(0).random((700, 900)) < density
    for neighbours, structure in ((4, None), (8, np.ones((3, 3)))):
        labels, number = ndimage.label(mask, structure)
        found, many = pieces(mask, neighbours)
        np.testing.assert_array_equal(found, labels)
        assert many == number


def test_spirals():
    """A spiral, whose turns are united late, is one piece."""
    size = 101
    mask = np.zeros((size, size), bool)
    for ring in range(0, size // 2, 2):
        mask[ring, ring : size - ring] = mask[ring : size - ring, size - 1 - ring] = True
        mask[size - 1 - ring, ring : size - ring] = mask[ring + 2 : size - ring, ring] = True
        mask[ring + 2, ring : ring + 3] = True
    np.testing.assert_array_equal(pieces(mask, 4)[0], ndimage.label(mask)[0])
