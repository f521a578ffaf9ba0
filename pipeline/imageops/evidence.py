"""Join labels of different windows by evidence, the strongest first, where nothing is proved.

A window *sees* a part as its own label if it owns the part. If another tile owns it, the window
sees it as the label that it drew itself in its halo, provided that this label and the part are each
other's best match where the windows overlap, with a sufficient intersection over union. Two parts,
or what was joined to them, are never joined if any window saw them as two different labels, however
strong the evidence of other windows is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]


def join(number: int, pairs: Integers) -> Integers:
    """Number the connected components of a graph.

    Parameters
    ----------
    number : int
        How many nodes there are.
    pairs : int64 ndarray, (n, 2)
        The edges.

    Returns
    -------
    int64 ndarray, (number,)
        The component of each node, from 0.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    edges = coo_array(
        (np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(number, number)
    )
    return np.asarray(connected_components(edges, directed=False)[1], np.int64)


@dataclass(frozen=True, slots=True)
class Evidence:
    """Evidence for and against joining pairs of nodes."""

    alike: Integers
    """(n, 2) nodes that may be one object."""
    iou: npt.NDArray[np.float64]
    """(n,) the intersection over union of each pair."""
    seen: Integers
    """(m, 2) nodes of two windows that each saw as the other."""
    seen_iou: npt.NDArray[np.float64]
    """(m,) the intersection over union of each of these pairs."""


def join_by_evidence(
    group: Integers, tile: Integers, evidence: Evidence, least: float
) -> tuple[Integers, Booleans]:
    """Join groups by evidence, the strongest first, but never what one window saw as two labels.

    Parameters
    ----------
    group : int64 ndarray, (node,)
        The group of each node so far.
    tile : int64 ndarray, (node,)
        The tile of each node.
    evidence : Evidence
        Pairs of nodes.
    least : float
        The least intersection over union that is evidence.

    Returns
    -------
    group : int64 ndarray, (node,)
        The group of each node, joined.
    refused : bool ndarray, (pair,)
        True for a pair of ``alike`` that was not joined.
    """
    alike = evidence.alike
    strong = evidence.iou >= least
    number = int(group.max(initial=-1)) + 1
    # by group: as it would be if no window had seen two labels
    chain = join(number, group[alike[strong]])
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
    """Pairs (n, 2) of a node that evidence may join, and the node that a window saw it as."""
    touched = np.zeros(len(chain), bool)
    touched[group[evidence.alike.ravel()]] = True
    mine = np.flatnonzero(touched[group])
    seen = evidence.seen[evidence.seen_iou >= least]
    pairs = np.concatenate([np.stack([mine, mine], axis=1), seen, seen[:, ::-1]])
    return np.asarray(pairs[touched[group[pairs[:, 0]]]], np.int64)


def _torn(chain: Integers, window: Integers, label: Integers) -> Integers:
    """The chains that a window saw as more than one label."""
    different = np.unique(np.stack([chain, window, label], axis=1), axis=0)
    twice = (np.diff(different[:, :2], axis=0) == 0).all(axis=1)
    return np.unique(different[:-1][twice, 0])


def _join_torn(names: Integers, pairs: Integers, group: Integers, sights: Integers) -> None:
    """Join groups pair by pair, unless a window saw two different labels of them.

    Parameters
    ----------
    names : int64 ndarray, (group,)
        The name of each group, changed in place.
    pairs : int64 ndarray, (n, 2)
        Groups to join, the strongest evidence first.
    group : int64 ndarray, (m,)
        Groups that were seen.
    sights : int64 ndarray, (m, 2)
        The window and the label that it saw of each.
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
