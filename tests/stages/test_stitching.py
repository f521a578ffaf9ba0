"""Evidence against a reference that takes it pair by pair."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.imageops.evidence import Evidence, join, join_by_evidence
from pipeline.stages.stitching import (
    AGREED,
    DISPUTED,
    Nodes,
    View,
    compare,
    holes,
    number_anchors,
    settle,
)

NOTHING = np.zeros((0, 2), np.int64)
LABELS = hnp.arrays(np.int32, (4, 6), elements=st.integers(0, 3))


def view(labels, whole, side):
    """A tile's view of an overlap, of which the neighbour owns one half."""
    theirs = (slice(None), slice(3, 6) if side == 0 else slice(0, 3))
    return View(labels, theirs, whole, np.ones(4, bool), np.zeros(4, bool))


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


@settings(max_examples=300)
@given(LABELS, LABELS, st.lists(st.booleans(), min_size=4, max_size=4), st.booleans())
def test_compare(first, second, sure, one_method):
    """What is proved are pairs of whole labels at one pixel; what is alike, pairs that are each
    other's best partner.
    """
    whole = np.array([True, *sure[1:]])
    seam = compare(view(first, whole, 0), view(second, whole, 1), one_method=one_method)
    both = {(int(a), int(b)) for a, b in zip(first.ravel(), second.ravel(), strict=True) if a and b}
    same = {pair for pair in both if one_method and whole[pair[0]] and whole[pair[1]]}
    assert set(map(tuple, seam.same.tolist())) == same
    left = {pair: iou(first == pair[0], second == pair[1]) for pair in both - same}

    def best(k, pair):
        rivals = [other for other in left if other[k] == pair[k]]
        return min(rivals, key=lambda other: (-left[other], other[1 - k])) == pair

    alike = {pair for pair in left if best(0, pair) and best(1, pair)}
    assert set(map(tuple, seam.alike.tolist())) == alike
    for pair, value in zip(seam.alike.tolist(), seam.iou, strict=True):
        assert value == left[tuple(pair)]


@settings(max_examples=200)
@given(LABELS, LABELS, st.lists(st.booleans(), min_size=4, max_size=4))
def test_doubts(first, second, sure):
    """A label that was not seen whole is in doubt; agreed where the neighbour drew the very same
    pixels, disputed where it did not.
    """
    whole = np.array([True, *sure[1:]])
    seam = compare(view(first, whole, 0), view(second, whole, 1), one_method=True)
    told = dict(seam.doubt_a.tolist())
    for label in np.unique(first[first > 0]).tolist():
        mine = first == label
        if not whole[label]:
            assert label in told
        if label in told:
            agrees = any(
                (mine == (second == other)).all() for other in np.unique(second[second > 0])
            )
            assert told[label] == (AGREED if agrees else DISPUTED)


@st.composite
def evidence(draw):
    """Nodes of some tiles, some of them joined already, and pairs of nodes of different tiles with
    their evidence.
    """
    number = draw(st.integers(2, 12))
    tile = np.array([draw(st.integers(0, 4)) for _ in range(number)])
    pairs = [(a, b) for a in range(number) for b in range(a + 1, number) if tile[a] != tile[b]]
    chosen = draw(st.lists(st.sampled_from(pairs), unique=True, max_size=15)) if pairs else []
    values = [draw(st.sampled_from([0.2, 0.5, 0.6, 0.6, 0.9])) for _ in chosen]
    proved = draw(st.lists(st.sampled_from(pairs), max_size=3)) if pairs else []
    return (
        tile,
        np.array(chosen, np.int64).reshape(-1, 2),
        np.array(values, float),
        np.array(proved, np.int64).reshape(-1, 2),
    )


@settings(max_examples=300)
@given(evidence(), st.randoms())
def test_join_by_evidence(case, random):
    """Evidence is taken from the strongest on, ties by lower nodes, never joining two labels of one
    tile, in any order it is given.
    """
    tile, alike, values, proved = case
    group = join(len(tile), proved)
    sets = [set(np.flatnonzero(group == name).tolist()) for name in np.unique(group)]
    for value, a, b in sorted(zip(values.tolist(), *alike.T.tolist(), strict=True), key=lambda link: (-link[0], *link[1:])) if len(alike) else []:  # fmt: skip  # noqa: E501
        one, other = (next(s for s in sets if node in s) for node in (a, b))
        if (
            one is not other
            and value >= 0.5
            and not {tile[n] for n in one} & {tile[n] for n in other}
        ):
            sets.remove(other)
            one |= other
    order = list(range(len(alike)))
    random.shuffle(order)
    found, refused = join_by_evidence(
        group, tile, Evidence(alike[order], values[order], NOTHING, np.zeros(0)), 0.5
    )
    assert sorted(map(sorted, sets)) == sorted(
        sorted(np.flatnonzero(found == name).tolist()) for name in np.unique(found)
    )
    assert refused.tolist() == [found[a] != found[b] for a, b in alike[order].tolist()]


def test_two_windows_are_not_overruled_by_a_third():
    """Two windows drew x and y apart, each owning one and the other in its halo; a third that drew
    them as one does not join them.
    """
    x, y, y_of_first, x_of_second, both = range(5)
    tile = np.array([0, 1, 0, 1, 2])
    alike = np.array([[x, both], [y, both]])
    seen = np.array([[x, x_of_second], [y_of_first, y]])
    for strength in (0.6, 1.0):
        evidence = Evidence(alike, np.array([0.9, 0.95]), seen, np.full(2, strength))
        found, refused = join_by_evidence(np.arange(5), tile, evidence, 0.5)
        assert found[x] != found[y]
        assert refused.tolist() == [True, False]
    weak = Evidence(alike, np.array([0.9, 0.95]), seen, np.full(2, 0.4))
    assert not join_by_evidence(np.arange(5), tile, weak, 0.5)[1].any()


def test_a_chain_does_not_fuse_neighbours():
    """A is like B and B like C, but one window saw A and C apart: they stay apart, whichever link
    is stronger.
    """
    tile = np.array([0, 1, 0])
    for values in ([0.9, 0.6], [0.6, 0.9]):
        evidence = Evidence(np.array([[0, 1], [1, 2]]), np.array(values), NOTHING, np.zeros(0))
        found, refused = join_by_evidence(np.arange(3), tile, evidence, 0.5)
        assert found[0] != found[2]
        assert refused.tolist() == [values[0] < values[1], values[0] > values[1]]


def nodes(**columns):
    number = len(columns["tile"])
    plain = {
        "label": np.arange(number),
        "key": np.zeros(number, np.int64),
        "area": np.ones(number, np.int64),
        "anchor": np.arange(number),
        "status": np.zeros(number, np.int64),
    }
    flags = {name: np.zeros(number, bool) for name in ("hole", "outside", "open")}
    return Nodes(
        **{**plain, **flags, **{name: np.array(column) for name, column in columns.items()}}
    )


def test_holes_that_reach_the_outside_are_none():
    """A hole is filled where no part of it reaches the outside, and in doubt where nobody knows of
    a part.
    """
    three = nodes(
        tile=[0, 1, 2, 3],
        hole=[True] * 4,
        outside=[False, True, False, False],
        open=[False, False, False, True],
    )
    filled, unknown = holes(three, np.array([0, 0, 1, 2]))
    assert filled.tolist() == [False, False, True, False]
    assert unknown.tolist() == [False, False, False, True]


def test_settle_adds_up():
    """A group's area is the sum, its anchor and home the first, its certificate the worst, its
    tiles those that own a part.
    """
    some = nodes(tile=[5, 2, 2, 7], area=[3, 4, 0, 1], anchor=[9, 8, 1, 4], status=[0, 1, 2, 0])
    groups = settle(some, np.array([6, 6, 6, 0]), np.zeros(4, bool))
    assert groups.of.tolist() == [1, 1, -1, 0]
    assert (groups.area.tolist(), groups.anchor.tolist(), groups.home.tolist()) == (
        [1, 7],
        [4, 8],
        [7, 2],
    )
    assert (groups.status.tolist(), groups.tiles.tolist()) == ([0, 1], [1, 2])


@given(st.lists(st.lists(st.integers(-1, 2**62), unique=True), max_size=4), st.integers(0, 2**60))
def test_number_anchors(lists, after):
    """Ids follow the anchors' order over all lists at once."""
    flat = [anchor for anchors in lists for anchor in anchors if anchor >= 0]
    if len(set(flat)) == len(flat):
        rank = {anchor: after + k for k, anchor in enumerate(sorted(flat), start=1)}
        found = number_anchors([np.array(anchors, np.int64) for anchors in lists], after)
        assert [ids.tolist() for ids in found] == [
            [rank.get(anchor, 0) for anchor in anchors] for anchors in lists
        ]
