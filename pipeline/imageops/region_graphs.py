"""Region adjacency graphs: which regions to merge.

All sums are integers, so the sums of tiles add up exactly to those of the image, and decisions do
not depend on the tiling. Ties are broken by the numbers of the regions.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

from pipeline.imageops.components import root_of
from pipeline.imageops.evidence import join

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Graph:
    """Regions and their neighbours."""

    area: Integers
    """(n,) pixels of each region."""

    sums: Integers
    """(n, feature) sums of the features of its pixels."""

    pairs: Integers
    """(m, 2) neighbouring regions, the lower number first, each pair once, ascending."""

    def means(self) -> npt.NDArray[np.float64]:
        """(n, feature) the mean features of each region."""
        return np.asarray(self.sums / np.maximum(self.area, 1)[:, None], np.float64)

    def distances(self) -> npt.NDArray[np.float64]:
        """(m,) the distance between the mean features of each pair."""
        means = self.means()
        return np.asarray(
            np.sqrt(((means[self.pairs[:, 0]] - means[self.pairs[:, 1]]) ** 2).sum(axis=1))
        )


def below(graph: Graph, threshold: float) -> Integers:
    """Merge all neighbours with mean features less than ``threshold`` apart: (n,) the number of
    each set.
    """
    return join(len(graph.area), graph.pairs[graph.distances() < threshold])


def felzenszwalb(graph: Graph, scale: float) -> Integers:
    """Merge regions where the difference between two sets is no greater than within them.

    Parameters
    ----------
    graph : Graph
        The regions.
    scale : float
        Higher values give larger sets; sizes are in pixels.

    Returns
    -------
    int64 ndarray, (region,)
        The number of each region's set.

    References
    ----------
    .. [1] P. F. Felzenszwalb, D. P. Huttenlocher (2004), "Efficient graph-based image
       segmentation", Int. J. Computer Vision 59(2), 167-181.
    """
    weight = graph.distances()
    order = np.lexsort((graph.pairs[:, 1], graph.pairs[:, 0], weight))
    return _numbered(_felzenszwalb(graph.pairs[order], weight[order], graph.area, float(scale)))


def hierarchical(graph: Graph, threshold: float) -> Integers:
    """Merge the two most similar neighbours again and again, with updated means.

    It ends when all neighbours are at least ``threshold`` apart.

    Parameters
    ----------
    graph : Graph
        The regions.
    threshold : float
        The least distance of mean features.

    Returns
    -------
    int64 ndarray, (region,)
        The number of each region's set.
    """
    return _numbered(_hierarchical(graph.pairs, graph.area, graph.sums, float(threshold)))


def _numbered(root: Integers) -> Integers:
    return np.unique(root, return_inverse=True)[1].astype(np.int64)


@numba.njit(cache=True, nogil=True)
def _felzenszwalb(pairs, weight, area, scale):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    number = len(area)
    root = np.arange(number)
    size = area.copy()
    within = np.zeros(number)
    for k in range(len(pairs)):
        a = root_of(root, pairs[k, 0])
        b = root_of(root, pairs[k, 1])
        if (
            a != b
            and weight[k] <= within[a] + scale / size[a]
            and weight[k] <= within[b] + scale / size[b]
        ):
            a, b = min(a, b), max(a, b)
            root[b] = a
            size[a] = size[a] + size[b]
            within[a] = weight[k]
    for k in range(number):
        root[k] = root_of(root, k)
    return root


@numba.njit(cache=True, nogil=True)
def _apart(area, sums, a, b):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    total = 0.0
    for f in range(sums.shape[1]):
        step = sums[a, f] / area[a] - sums[b, f] / area[b]
        total += step * step
    return np.sqrt(total)


@numba.njit(cache=True, nogil=True)
def _hierarchical(pairs, area, sums, threshold):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Merge with a heap of edges; an entry counts only if neither end has changed since.

    Each set keeps a linked list of its edges.
    """
    number = len(area)
    many = len(pairs)
    area = area.copy()
    sums = sums.copy()
    root = np.arange(number)
    changes = np.zeros(number, np.int64)
    first = np.full(number, -1)
    last = np.full(number, -1)
    after = np.full(2 * many, -1)  # half edges: 2k at the lower end of pair k, 2k + 1 at the higher
    heap = [(0.0, 0, 0, 0, 0) for _ in range(0)]
    for k in range(many):
        for side in range(2):
            _append(first, last, after, pairs[k, side], 2 * k + side, 2 * k + side)
        heap.append((_apart(area, sums, pairs[k, 0], pairs[k, 1]), pairs[k, 0], pairs[k, 1], 0, 0))
    heapq.heapify(heap)
    while heap:
        weight, a, b, then_a, then_b = heapq.heappop(heap)
        if weight >= threshold:
            break
        if root[a] != a or root[b] != b or changes[a] != then_a or changes[b] != then_b:
            continue
        root[b] = a
        area[a] += area[b]
        sums[a] += sums[b]
        changes[a] += 1
        if first[b] >= 0:
            _append(first, last, after, a, first[b], last[b])
        _renew(heap, a, first, last, after, pairs, root, changes, area, sums)
    for k in range(number):
        root[k] = root_of(root, k)
    return root


@numba.njit(cache=True, nogil=True)
def _append(first, last, after, a, begin, end):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Append a linked list of half edges to that of a set."""
    if first[a] < 0:
        first[a] = begin
    else:
        after[last[a]] = begin
    last[a] = end
    after[end] = -1


@numba.njit(cache=True, nogil=True)
def _renew(heap, a, first, last, after, pairs, root, changes, area, sums):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Update the weights of a set's edges, once per neighbour; drop loops and duplicates."""
    met = {a}
    before = -1
    half = first[a]
    while half >= 0:
        following = after[half]
        other = root_of(root, pairs[half // 2, 1 - half % 2])
        if other in met:
            if before < 0:
                first[a] = following
            else:
                after[before] = following
            if following < 0:
                last[a] = before
        else:
            met.add(other)
            low = min(a, other)
            high = max(a, other)
            heapq.heappush(
                heap, (_apart(area, sums, low, high), low, high, changes[low], changes[high])
            )
            before = half
        half = following
