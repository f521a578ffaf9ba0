"""From the labels of tiles to objects: links, groups, certificates, ids. Pure functions over arrays; no files, no Dask.

*Nodes* are the labels that meet a seam (and those beside an open hole). Two nodes become one object

* where both tiles saw the whole of what a pixel's label depends on, and share a pixel: that is proof (``same``);
* elsewhere by evidence: they are each other's best partner where the windows overlap, and their intersection over union there is
  high enough. Evidence is taken from the strongest to the weakest, and never joins two labels that one window saw apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]

CERTIFICATES = ("proved", "agreed", "disputed")
PROVED, AGREED, DISPUTED = range(3)


@dataclass(frozen=True, slots=True)
class View:
    """What one tile drew where its window overlaps a neighbour's."""

    labels: npt.NDArray[np.int32]
    """The overlap: (row, column) or (plane, row, column)."""

    theirs: tuple[slice, ...]
    """The part of the overlap that the neighbour owns."""

    whole: Booleans
    """By label, 0 included: everything that the label depends on lay inside the window."""

    owned: Booleans
    """By label: it has pixels in this tile's own core."""

    hole: Booleans
    """By label: it is not an object but background that may turn out to be enclosed by one."""


@dataclass(frozen=True, slots=True)
class Seam:
    """What two neighbouring tiles, a and b, know of each other."""

    same: Integers
    """(n, 2) labels of a and b that are one object, proved."""

    alike: Integers
    """(n, 2) labels that may be one object: each other's best partner."""

    iou: npt.NDArray[np.float64]
    """(n,) the intersection over union of each of those, in the overlap."""

    doubt_a: Integers
    """(n, 2) labels of a whose result is not proved here, with AGREED or DISPUTED."""

    doubt_b: Integers
    """The same for b."""

    open_a: Integers
    """Holes of a that go on into pixels of b where b knows nothing of holes."""

    open_b: Integers
    """The same for b."""


def compare(a: View, b: View, *, one_method: bool) -> Seam:
    """Compare the labels of two neighbouring tiles where their windows overlap.

    Parameters
    ----------
    a, b
        The overlap, as each of the two drew it; of one shape.
    one_method
        Both were drawn by the same segmenter. Otherwise nothing is proved across this seam.
    """
    pairs, count = _pairs(a.labels, b.labels)
    proof = one_method & a.whole[pairs[:, 0]] & b.whole[pairs[:, 1]] & (pairs > 0).all(axis=1)
    drawn_a, drawn_b = (np.where(v.hole[p], 0, p) for v, p in ((a, pairs[:, 0]), (b, pairs[:, 1])))
    overlap, shared = _totals(np.stack([drawn_a, drawn_b], axis=1), count)
    size_a = np.bincount(overlap[:, 0], shared, len(a.whole))
    size_b = np.bincount(overlap[:, 1], shared, len(b.whole))
    both = (overlap > 0).all(axis=1)
    equal = both & (shared == size_a[overlap[:, 0]]) & (shared == size_b[overlap[:, 1]])
    agreed_a, agreed_b = np.isin(np.arange(len(a.whole)), overlap[equal, 0]), np.isin(np.arange(len(b.whole)), overlap[equal, 1])
    proved = _contains(pairs[proof], overlap)
    near = both & ~proved & a.owned[overlap[:, 0]] & b.owned[overlap[:, 1]]
    iou = shared[near] / (size_a[overlap[near, 0]] + size_b[overlap[near, 1]] - shared[near])
    alike, iou = _best(overlap[near], iou)
    return Seam(
        pairs[proof],
        alike,
        iou,
        _doubts(a, b, agreed_a, one_method=one_method),
        _doubts(b, a, agreed_b, one_method=one_method),
        _open(a, one_method=one_method),
        _open(b, one_method=one_method),
    )


def _pairs(a: npt.NDArray[np.int32], b: npt.NDArray[np.int32]) -> tuple[Integers, Integers]:
    """The different pairs of labels at one pixel, and how often each occurs."""
    keys, count = np.unique((a.ravel().astype(np.int64) << 32) | b.ravel(), return_counts=True)
    return np.stack([keys >> 32, keys & 0xFFFFFFFF], axis=1), count.astype(np.int64)


def _totals(pairs: Integers, count: Integers) -> tuple[Integers, Integers]:
    """Add up the counts of equal pairs."""
    keys, where = np.unique((pairs[:, 0] << 32) | pairs[:, 1], return_inverse=True)
    return np.stack([keys >> 32, keys & 0xFFFFFFFF], axis=1), np.bincount(where, count, len(keys)).astype(np.int64)


def _contains(pairs: Integers, asked: Integers) -> Booleans:
    return np.isin((asked[:, 0] << 32) | asked[:, 1], (pairs[:, 0] << 32) | pairs[:, 1])


def _best(pairs: Integers, iou: npt.NDArray[np.float64]) -> tuple[Integers, npt.NDArray[np.float64]]:
    """The pairs that are the best of both their labels; of equal ones, the lower partner."""
    chosen = np.ones(len(pairs), bool)
    for mine, other in ((0, 1), (1, 0)):
        order = np.lexsort((pairs[:, other], -iou, pairs[:, mine]))
        first = np.diff(pairs[order, mine], prepend=-1) != 0
        chosen[order] &= first
    return pairs[chosen], iou[chosen]


def _doubts(mine: View, other: View, agreed: Booleans, *, one_method: bool) -> Integers:
    """The labels of one tile whose pixels the other may have drawn differently.

    A label that was seen whole is in doubt only where it goes on into pixels that the other tile owns and did not prove; one that was
    not, wherever the two windows overlap.
    """
    proof = one_method & mine.whole[mine.labels] & other.whole[other.labels] & (other.labels > 0)
    unsure = np.zeros(mine.labels.shape, bool)
    unsure[mine.theirs] = ~proof[mine.theirs]
    unsure |= ~mine.whole[mine.labels]
    doubted = np.unique(mine.labels[unsure])
    doubted = doubted[mine.owned[doubted] & ~mine.hole[doubted] & (doubted > 0)].astype(np.int64)
    return np.stack([doubted, np.where(agreed[doubted], AGREED, DISPUTED)], axis=1)


def _open(mine: View, *, one_method: bool) -> Integers:
    """Holes that reach into pixels of a tile which was drawn in another way, hence says nothing of them."""
    if one_method:
        return np.zeros(0, np.int64)
    beyond = np.unique(mine.labels[mine.theirs]).astype(np.int64)
    return beyond[mine.hole[beyond]]


@dataclass(frozen=True, slots=True)
class Nodes:
    """The labels that meet seams, of all tiles; one row each."""

    tile: Integers
    label: Integers
    key: Integers
    """What the label is called in every tile; 0 where it has no such name."""
    area: Integers
    """Pixels in the tile's core; 0 for a label that lies only beyond it."""
    anchor: Integers
    status: Integers
    """PROVED, AGREED or DISPUTED, by what the tile and its seams know."""
    hole: Booleans
    outside: Booleans
    """A hole that reaches the image's edge or pixels that are not valid, so it is none."""
    open: Booleans
    """A hole of which nobody knows where it ends."""

    def __len__(self) -> int:
        return len(self.tile)


@dataclass(frozen=True, slots=True)
class Groups:
    """Objects that meet seams: which nodes make one, and what is known of it."""

    of: Integers
    """By node: its group, or -1 for a hole that is none."""
    area: Integers
    anchor: Integers
    status: Integers
    tiles: Integers
    """By group: the number of tiles that own a part."""
    home: Integers
    """By group: the tile that owns the anchor."""


def join(number: int, pairs: Integers) -> Integers:
    """Number the connected sets of ``number`` nodes under the pairs (n, 2): an array (number,) of 0, 1, …"""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    edges = coo_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(number, number))
    return np.asarray(connected_components(edges, directed=False)[1], np.int64)


def join_by_evidence(
    group: Integers, tile: Integers, alike: Integers, iou: npt.NDArray[np.float64], least: float
) -> tuple[Integers, Booleans]:
    """Join groups by evidence, the strongest first, never two labels that one window saw apart.

    Parameters
    ----------
    group, tile
        By node.
    alike, iou
        (n, 2) nodes and (n,) their intersection over union.
    least
        The least that is evidence.

    Returns
    -------
    group
        By node, joined.
    refused
        By pair: it was not joined, so its two nodes stand apart.
    """
    order = np.lexsort((alike[:, 1], alike[:, 0], -iou))
    parent: dict[int, int] = {}
    members: dict[int, set[int]] = {}
    involved = np.isin(group, group[alike.ravel()])
    for g, t in zip(group[involved].tolist(), tile[involved].tolist(), strict=True):
        members.setdefault(g, set()).add(t)

    def root(g: int) -> int:
        while parent.get(g, g) != g:
            parent[g] = parent.get(parent[g], parent[g])
            g = parent[g]
        return g

    refused = np.ones(len(alike), bool)
    for k in order.tolist():
        a, b = root(int(group[alike[k, 0]])), root(int(group[alike[k, 1]]))
        if a == b:
            refused[k] = False
        elif iou[k] >= least and members[a].isdisjoint(members[b]):
            keep, gone = min(a, b), max(a, b)
            parent[gone] = keep
            members[keep] |= members.pop(gone)
            refused[k] = False
    joined = group.copy()
    if parent:
        names = np.unique(group[involved])
        joined[involved] = np.array([root(g) for g in names.tolist()])[np.searchsorted(names, group[involved])]
    return joined, refused


def holes(nodes: Nodes, group: Integers) -> tuple[Booleans, Booleans]:
    """Which nodes are holes that an object encloses, and which are holes of which that is not known."""
    number = int(group.max(initial=-1)) + 1
    out, unknown = (np.bincount(group[flag], minlength=number) > 0 for flag in (nodes.outside, nodes.open))
    return nodes.hole & ~out[group] & ~unknown[group], nodes.hole & ~out[group] & unknown[group]


def settle(nodes: Nodes, group: Integers, filled: Booleans) -> Groups:
    """Add up what is known of each group; holes that are not filled, and labels beyond every core, belong to none."""
    counts = (~nodes.hole | filled) & (nodes.area > 0)
    names, of = np.unique(group[counts], return_inverse=True)
    area, status = np.zeros(len(names), np.int64), np.zeros(len(names), np.int64)
    anchor = np.full(len(names), np.iinfo(np.int64).max)
    np.add.at(area, of, nodes.area[counts])
    np.maximum.at(status, of, np.where(nodes.hole[counts], PROVED, nodes.status[counts]))
    np.minimum.at(anchor, of, nodes.anchor[counts])
    everyone = np.full(len(nodes), -1, np.int64)
    everyone[counts] = of
    parts = np.unique(np.stack([of, nodes.tile[counts]], axis=1), axis=0)
    home = np.zeros(len(names), np.int64)
    first = nodes.anchor[counts] == anchor[of]
    home[of[first]] = nodes.tile[counts][first]
    return Groups(everyone, area, anchor, status, np.bincount(parts[:, 0], minlength=len(names)).astype(np.int64), home)


def number_anchors(anchors: Sequence[Integers], after: int) -> list[Integers]:
    """Ids in raster order of the anchors, from ``after`` + 1, for several lists of them at once; negative anchors get 0.

    >>> number_anchors([np.array([7, -1]), np.array([3, 9])], after=10)
    [array([12,  0]), array([11, 13])]
    """
    together = np.concatenate([np.zeros(0, np.int64), *anchors])
    kept = np.flatnonzero(together >= 0)
    ids = np.zeros(len(together), np.int64)
    ids[kept[np.argsort(together[kept], kind="stable")]] = np.arange(after + 1, after + 1 + len(kept))
    return np.split(ids, np.cumsum([len(a) for a in anchors])[:-1]) if anchors else []
