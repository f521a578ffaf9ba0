"""Which labels of different windows are one object, where nothing proves it: by evidence, the
strongest first.

What a window *saw* of a part is its own label where it owns the part; where another tile does, the
label that it drew itself in its halo, if that and the part are each other's best partner where the
windows overlap, with as much intersection over union as evidence needs. Two parts, or what was
joined of them, are not joined by evidence if any window saw them as two different labels, whether
it owns these or not and however strong the evidence of other windows is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]


def join(number: int, pairs: Integers) -> Integers:
    """Number the connected sets of ``number`` nodes under the pairs (n, 2): an array (number,) of
    0, 1, …
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    edges = coo_array(
        (np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(number, number)
    )
    return np.asarray(connected_components(edges, directed=False)[1], np.int64)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What speaks for and against one object, between nodes."""

    alike: Integers
    """(n, 2) nodes that may be one object."""
    iou: npt.NDArray[np.float64]
    """(n,) the intersection over union of each of those."""
    seen: Integers
    """(m, 2) nodes of two windows that each saw as the other."""
    seen_iou: npt.NDArray[np.float64]
    """(m,) likewise."""


def join_by_evidence(
    group: Integers, tile: Integers, evidence: Evidence, least: float
) -> tuple[Integers, Booleans]:
    """Join groups by evidence, the strongest first, never what one window saw apart.

    Parameters
    ----------
    group, tile
        By node.
    evidence
        Pairs of nodes.
    least
        The least intersection over union that is evidence.

    Returns
    -------
    group
        By node, joined.
    refused
        By pair of `alike`: it was not joined, so its two nodes stand apart.
    """
    alike = evidence.alike
    strong = evidence.iou >= least
    number = int(group.max(initial=-1)) + 1
    chain = join(
        number, group[alike[strong]]
    )  # by group: as it would be if nobody had seen anything apart
    sights = _sights(group, chain, evidence, least)
    torn = np.isin(chain, _torn(chain[group[sights[:, 0]]], tile[sights[:, 1]], sights[:, 1]))
    first = np.full(number, number)
    np.minimum.at(first, chain, np.arange(number))
    names = np.where(torn, np.arange(number), first[chain])
    order = np.lexsort((alike[:, 1], alike[:, 0], -evidence.iou))
    order = order[strong[order] & torn[group[alike[order, 0]]]]
    some = torn[group[sights[:, 0]]]
    _join_torn(
        names,
        group[alike[order]],
        group[sights[some, 0]],
        np.stack([tile[sights[some, 1]], sights[some, 1]], axis=1),
    )
    joined = names[group]
    return joined, joined[alike[:, 0]] != joined[alike[:, 1]]


def _sights(group: Integers, chain: Integers, evidence: Evidence, least: float) -> Integers:
    """(n, 2) nodes that evidence may join, each with a node that a window saw it as: itself, in its
    own.
    """
    touched = np.zeros(len(chain), bool)
    touched[group[evidence.alike.ravel()]] = True
    mine = np.flatnonzero(touched[group])
    seen = evidence.seen[evidence.seen_iou >= least]
    pairs = np.concatenate([np.stack([mine, mine], axis=1), seen, seen[:, ::-1]])
    return np.asarray(pairs[touched[group[pairs[:, 0]]]], np.int64)


def _torn(chain: Integers, window: Integers, label: Integers) -> Integers:
    """The chains of which a window saw more than one label."""
    different = np.unique(np.stack([chain, window, label], axis=1), axis=0)
    twice = (np.diff(different[:, :2], axis=0) == 0).all(axis=1)
    return np.unique(different[:-1][twice, 0])


def _join_torn(names: Integers, pairs: Integers, group: Integers, sights: Integers) -> None:
    """Join groups, pair by pair, where no window saw two different labels of them; ``names``, by
    group, is changed.

    ``sights`` are windows with the labels that they saw of each ``group``.
    """
    seen: dict[int, dict[int, set[int]]] = {}
    for g, (window, label) in zip(group.tolist(), sights.tolist(), strict=True):
        seen.setdefault(g, {}).setdefault(window, set()).add(label)
    parent: dict[int, int] = {}

    def root(g: int) -> int:
        while parent.get(g, g) != g:
            parent[g] = parent.get(parent[g], parent[g])
            g = parent[g]
        return g

    for one, other in pairs.tolist():
        a, b = sorted((root(one), root(other)))
        if a == b or any(
            len(seen[a][window] | seen[b][window]) > 1 for window in seen[a].keys() & seen[b].keys()
        ):
            continue
        parent[b] = a
        for window, labels in seen.pop(b).items():
            seen[a].setdefault(window, set()).update(labels)
    for g in set(group.tolist()):
        names[g] = root(g)
