"""What any window saw apart is never made one by evidence: windows that draw arbitrary things,
against all that they drew.
"""

from __future__ import annotations

import itertools
import tempfile
from collections import defaultdict
from pathlib import Path
from unittest import mock

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.imageops import evidence
from pipeline.stages import group
from tests.tiling import in_raster_order, tiled


class Moody:
    """Draws patches of the image joined, dropped and nibbled at in a way that depends on the window
    alone, and keeps what it drew.
    """

    windowed = True

    def __init__(self, seed, joined, dropped, nibbled):
        self.seed, self.joined, self.dropped, self.nibbled = seed, joined, dropped, nibbled
        self.drawn = {}

    def __call__(self, block, origin):
        rng = np.random.default_rng((self.seed, *origin))
        number = int(block.max()) + 1
        names = np.arange(number)
        for patch in names[1:]:
            names[patch] = rng.integers(1, patch + 1) if rng.random() < self.joined else patch
        names[rng.random(number) < self.dropped] = 0
        labels = names[block[0]] * (rng.random(block.shape[1:]) >= self.nibbled)
        self.drawn[tuple(origin)] = labels
        return labels


def patches(size, rng):
    """Square and long patches that touch or do not, numbered from 1."""
    image = np.zeros((size, size), np.uint8)
    for number in range(1, int(rng.integers(4, 14))):
        (row, column), (high, wide) = rng.integers(0, size, 2), rng.integers(1, 6, 2)
        image[row : row + high, column : column + wide] = number
    return image


def sights(found, drawn):
    """By window and label that it drew: the objects of the parts which are, pixel for pixel, what
    it drew, wherever it sees the part.
    """
    grid, seen = found.run.grid, defaultdict(set)
    tiles = range(len(grid))
    outer = {tile: found.run.labelled(tile) for tile in tiles}
    labels = {tile: drawn[outer[tile].start] for tile in tiles}
    for owner in tiles:
        core = grid.core(owner)
        mine = labels[owner][core.within(outer[owner])]
        for part in np.unique(mine[mine > 0]).tolist():
            (name,) = np.unique(found.labels[core.slices][mine == part])
            for window in (owner, *grid.neighbours(owner)):
                shared = outer[owner] & outer[window]
                here = labels[owner][shared.within(outer[owner])] == part
                there = labels[window][shared.within(outer[window])]
                for label in np.unique(there[here]).tolist():
                    if label and np.array_equal(there == label, here):
                        seen[window, label].add(int(name))
    return seen


def fused(found, drawn):
    """The objects that one window drew as two or more."""
    by_window = defaultdict(list)
    for (window, _), names in sights(found, drawn).items():
        by_window[window].append(names)
    return {
        name
        for each in by_window.values()
        for one, other in itertools.combinations(each, 2)
        for name in one & other
    }


def drawn_in_tiles(seed, joined, dropped, nibbled, iou):
    image = patches(18, np.random.default_rng(seed))
    moody = Moody(seed, joined, dropped, nibbled)
    with tempfile.TemporaryDirectory() as folder:
        return tiled(image, moody, (6, 6), Path(folder), halo=3, iou=iou), moody.drawn


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from([0.0, 0.1, 0.4]),
    st.sampled_from([0.0, 0.1]),
    st.sampled_from([0.0, 0.02]),
    st.sampled_from([0.3, 0.5, 1.0]),
)
def test_what_a_window_saw_apart_is_not_one(seed, joined, dropped, nibbled, iou):
    """No object has two parts that a window drew, pixel for pixel, as two labels, though it may own
    neither.
    """
    found, drawn = drawn_in_tiles(seed, joined, dropped, nibbled, iou)
    assert not fused(found, drawn)
    assert "proved" not in found.certificates


def test_the_oracle_sees_what_labels_of_one_tile_do_not():
    """Where only labels of parts that a tile owns count, some of these are fused: the test above
    can fail.
    """

    def blind(groups, tile, found, least):
        nothing = evidence.Evidence(found.alike, found.iou, np.zeros((0, 2), np.int64), np.zeros(0))
        return evidence.join_by_evidence(groups, tile, nothing, least)

    with mock.patch.object(group, "join_by_evidence", blind):
        assert any(fused(*drawn_in_tiles(seed, 0.1, 0.0, 0.0, 0.5)) for seed in range(30))


def test_windows_that_agree_are_joined():
    """Where every window draws the same patches, each is one object over any number of tiles, and
    agreed.
    """
    for seed in range(5):
        image = patches(18, np.random.default_rng(seed))
        found, _ = drawn_in_tiles(seed, 0.0, 0.0, 0.0, 0.5)
        np.testing.assert_array_equal(found.labels, in_raster_order(image))
        assert set(found.certificates) == {"agreed"}
