"""From the labels of tiles to objects: links, groups, certificates, ids.

*Nodes* are the labels that meet a seam (and those beside an open hole). Two nodes become one object

* where both tiles saw everything that a pixel's label depends on, and share a pixel: that is proof
  (``same``);
* where objects are connected pixels, and the tiles share a pixel that both drew alike: by
  definition, proved or not;
* elsewhere by evidence: they are each other's best match where the windows overlap, with a
  sufficient intersection over union. Evidence is taken from the strongest to the weakest, and never
  joins what one window saw as two labels: see `pipeline.imageops.evidence`.
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
    """By label, 0 included: everything that it depends on lay inside the window."""

    owned: Booleans
    """By label: it has pixels in this tile's own core."""

    hole: Booleans
    """By label: background that may be enclosed by an object."""

    name: Integers | None = None
    """By label, 0 included: its class, or its key. None: all have one class."""


@dataclass(frozen=True, slots=True)
class Seam:
    """What two neighbouring tiles, a and b, know of each other."""

    same: Integers
    """(n, 2) labels of a and b that are one object: proved, or of connected pixels."""

    alike: Integers
    """(n, 2) labels that may be one object: each other's best match."""

    iou: npt.NDArray[np.float64]
    """(n,) the intersection over union of each pair in the overlap."""

    seen: Integers
    """(n, 2) labels of a and b that are each other's best match, regardless of owners: as what each
    window saw the other's.
    """

    seen_iou: npt.NDArray[np.float64]
    """(n,) the intersection over union of each of these pairs in the overlap."""

    doubt_a: Integers
    """(n, 2) labels of a that are not proved here, with AGREED or DISPUTED."""

    doubt_b: Integers
    """Likewise for b."""

    open_a: Integers
    """Holes of a that continue into pixels of b where b knows nothing of holes."""

    open_b: Integers
    """Likewise for b."""


def compare(
    a: View, b: View, *, one_method: bool, connected: bool = False, named: bool = True
) -> Seam:
    """Compare the labels of two neighbouring tiles where their windows overlap.

    Parameters
    ----------
    a, b : View
        The overlap, as drawn by each of the two; of one shape.
    one_method : bool
        Whether one segmenter drew both; otherwise nothing is proved across this seam.
    connected : bool
        Whether the segmenter's objects are connected pixels of one class: they are joined where
        they share a pixel that both drew alike, even if that is not proved.
    named : bool
        Whether labels are joined only if their names are equal. False if a segmenter may have
        numbered its objects, which are then joined, and disputed if their names differ.

    Returns
    -------
    Seam
        The result.
    """
    pairs, count = _pairs(a.labels, b.labels)
    both = (pairs > 0).all(axis=1) & one_method
    proof = both & a.whole[pairs[:, 0]] & b.whole[pairs[:, 1]]
    alike = _drawn_alike(a, b, pairs)
    same = pairs[
        proof | (both & connected & (alike if named else _both_holes_or_none(a, b, pairs)))
    ]
    drawn_a, drawn_b = (np.where(v.hole[p], 0, p) for v, p in ((a, pairs[:, 0]), (b, pairs[:, 1])))
    overlap, shared = _totals(np.stack([drawn_a, drawn_b], axis=1), count)
    size_a, size_b = (
        np.bincount(overlap[:, k], shared, len(v.whole))[overlap[:, k]]
        for k, v in enumerate((a, b))
    )
    if one_method and connected:
        left = pairs[~(proof | (both & alike))]
        agreed_a, agreed_b = (
            ~np.isin(np.arange(len(v.whole)), left[:, k]) for k, v in enumerate((a, b))
        )
    else:
        equal = overlap[(overlap > 0).all(axis=1) & (shared == size_a) & (shared == size_b)]
        agreed_a, agreed_b = (
            np.isin(np.arange(len(v.whole)), equal[:, k]) for k, v in enumerate((a, b))
        )
    near = (overlap > 0).all(axis=1) & ~_contains(same, overlap) & (not (one_method and connected))
    iou = shared / np.maximum(1, size_a + size_b - shared)
    owned = near & a.owned[overlap[:, 0]] & b.owned[overlap[:, 1]]
    return Seam(
        same,
        *_best(overlap[owned], iou[owned]),
        *_best(overlap[near], iou[near]),
        _doubts(a, b, agreed_a, one_method=one_method),
        _doubts(b, a, agreed_b, one_method=one_method),
        _open(a, one_method=one_method),
        _open(b, one_method=one_method),
    )


def compare_keys(a: View, b: View) -> Seam:
    """Compare the keys of two neighbouring tiles where their windows overlap.

    Nothing is joined, and differences are disputed.
    """
    pairs, _ = _pairs(a.labels, b.labels)
    differ = pairs[~_drawn_alike(a, b, pairs) & ~(a.whole[pairs[:, 0]] & b.whole[pairs[:, 1]])]
    doubts = [np.unique(differ[:, k][differ[:, k] > 0]) for k in (0, 1)]
    none = np.zeros((0, 2), np.int64)
    nothing = np.zeros(0)
    nowhere = np.zeros(0, np.int64)
    disputed = [np.stack([labels, np.full(len(labels), DISPUTED)], axis=1) for labels in doubts]
    return Seam(none, none, nothing, none, nothing, disputed[0], disputed[1], nowhere, nowhere)


def _drawn_alike(a: View, b: View, pairs: Integers) -> Booleans:
    """Which pairs of labels have one name, and are both holes or both not."""
    alike = _both_holes_or_none(a, b, pairs)
    return (
        alike
        if a.name is None or b.name is None
        else alike & (a.name[pairs[:, 0]] == b.name[pairs[:, 1]])
    )


def _both_holes_or_none(a: View, b: View, pairs: Integers) -> Booleans:
    return np.asarray(a.hole[pairs[:, 0]] == b.hole[pairs[:, 1]])


def _pairs(a: npt.NDArray[np.int32], b: npt.NDArray[np.int32]) -> tuple[Integers, Integers]:
    """The distinct pairs of labels at one pixel, and their numbers of pixels."""
    keys, count = np.unique((a.ravel().astype(np.int64) << 32) | b.ravel(), return_counts=True)
    return np.stack([keys >> 32, keys & 0xFFFFFFFF], axis=1), count.astype(np.int64)


def _totals(pairs: Integers, count: Integers) -> tuple[Integers, Integers]:
    """Add up the counts of equal pairs."""
    keys, where = np.unique((pairs[:, 0] << 32) | pairs[:, 1], return_inverse=True)
    return np.stack([keys >> 32, keys & 0xFFFFFFFF], axis=1), np.bincount(
        where, count, len(keys)
    ).astype(np.int64)


def _contains(pairs: Integers, asked: Integers) -> Booleans:
    return np.isin((asked[:, 0] << 32) | asked[:, 1], (pairs[:, 0] << 32) | pairs[:, 1])


def _best(
    pairs: Integers, iou: npt.NDArray[np.float64]
) -> tuple[Integers, npt.NDArray[np.float64]]:
    """The pairs that are the best of both their labels; of equal ones, the lower label."""
    chosen = np.ones(len(pairs), bool)
    for mine, other in ((0, 1), (1, 0)):
        order = np.lexsort((pairs[:, other], -iou, pairs[:, mine]))
        first = np.diff(pairs[order, mine], prepend=-1) != 0
        chosen[order] &= first
    return pairs[chosen], iou[chosen]


def _doubts(mine: View, other: View, agreed: Booleans, *, one_method: bool) -> Integers:
    """The labels of one tile with pixels that the other may have drawn differently.

    A label that was seen whole is in doubt only where it continues into pixels that the other tile
    owns and did not prove; others, wherever the two windows overlap.
    """
    proof = one_method & mine.whole[mine.labels] & other.whole[other.labels] & (other.labels > 0)
    unsure = np.zeros(mine.labels.shape, bool)
    unsure[mine.theirs] = ~proof[mine.theirs]
    unsure |= ~mine.whole[mine.labels]
    doubted = np.unique(mine.labels[unsure])
    doubted = doubted[mine.owned[doubted] & ~mine.hole[doubted] & (doubted > 0)].astype(np.int64)
    return np.stack([doubted, np.where(agreed[doubted], AGREED, DISPUTED)], axis=1)


def _open(mine: View, *, one_method: bool) -> Integers:
    """Holes that reach into a tile drawn by another method, which knows nothing of holes."""
    if one_method:
        return np.zeros(0, np.int64)
    beyond = np.unique(mine.labels[mine.theirs]).astype(np.int64)
    return beyond[mine.hole[beyond]]


@dataclass(frozen=True, slots=True)
class Nodes:
    """The labels that meet seams, of all tiles, one row each."""

    tile: Integers
    label: Integers
    key: Integers
    """The label's key, equal in every tile; 0 without one."""
    area: Integers
    """Pixels in the tile's core; 0 for a label that lies only beyond it."""
    anchor: Integers
    status: Integers
    """PROVED, AGREED or DISPUTED, by what the tile and its seams know."""
    hole: Booleans
    outside: Booleans
    """Background that reaches the image's edge or unmeasured pixels, so it is not a hole."""
    open: Booleans
    """A hole with an unknown end."""

    def __len__(self) -> int:
        return len(self.tile)


@dataclass(frozen=True, slots=True)
class Groups:
    """Objects that meet seams: their nodes, and facts about them."""

    of: Integers
    """By node: its group, or -1 for background that is not a hole."""
    area: Integers
    anchor: Integers
    status: Integers
    tiles: Integers
    """By group: the number of tiles that own a part."""
    home: Integers
    """By group: the tile that owns the anchor."""


def holes(nodes: Nodes, group: Integers) -> tuple[Booleans, Booleans]:
    """Which nodes are holes enclosed by an object, and for which holes that is unknown."""
    number = int(group.max(initial=-1)) + 1
    out, unknown = (
        np.bincount(group[flag], minlength=number) > 0 for flag in (nodes.outside, nodes.open)
    )
    return nodes.hole & ~out[group] & ~unknown[group], nodes.hole & ~out[group] & unknown[group]


def settle(nodes: Nodes, group: Integers, filled: Booleans) -> Groups:
    """Combine what is known of each group.

    Holes that are not filled, and labels beyond every core, belong to none.
    """
    counts = (~nodes.hole | filled) & (nodes.area > 0)
    names, of = np.unique(group[counts], return_inverse=True)
    area = np.zeros(len(names), np.int64)
    status = np.zeros(len(names), np.int64)
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
    return Groups(
        everyone,
        area,
        anchor,
        status,
        np.bincount(parts[:, 0], minlength=len(names)).astype(np.int64),
        home,
    )


def number_anchors(anchors: Sequence[Integers], after: int) -> list[Integers]:
    """Number anchors in raster order from ``after`` + 1, for several lists at once; negative
    anchors get 0.

    >>> number_anchors([np.array([7, -1]), np.array([3, 9])], after=10)
    [array([12,  0]), array([11, 13])]
    """
    together = np.concatenate([np.zeros(0, np.int64), *anchors])
    kept = np.flatnonzero(together >= 0)
    ids = np.zeros(len(together), np.int64)
    ids[kept[np.argsort(together[kept], kind="stable")]] = np.arange(
        after + 1, after + 1 + len(kept)
    )
    return np.split(ids, np.cumsum([len(a) for a in anchors])[:-1]) if anchors else []
