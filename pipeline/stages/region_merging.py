"""The region adjacency graph of a segmenter that merges labels: a tile's part, and the whole.

Each pair of touching pixels is counted by the tile that owns the first, so the parts of tiles add
up to the graph of the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.imageops.region_graphs import Graph
from pipeline.segmenters import call
from pipeline.segmenters.protocols import Merges
from pipeline.stages import FIRST, Run, record_key
from pipeline.stages.tile_labels import Drawn, Flags
from pipeline.storage.records import Arrays

Integers = npt.NDArray[np.int64]
_NAMES = ("key", "area", "node_sums", "borders")


def survey(run: Run, tile: int, drawn: Drawn, block: npt.NDArray[Any], valid: Flags) -> Arrays:
    """A tile's part of the graph: sums of its labels' features, and which keys touch."""
    segmenter = run.method(tile).segmenter
    if not isinstance(segmenter, Merges):
        return {}
    core = run.grid.core(tile)
    outer = run.labelled(tile)
    inside = outer.within(run.window(tile))
    features = call(segmenter.nodes, block, valid)[(slice(None), *inside)]
    keys = np.zeros(0, np.int64) if drawn.key is None else drawn.key
    names = np.concatenate([np.zeros(1, np.int64), keys])
    mine = core.within(outer)
    flat = drawn.labels[mine].ravel()
    # exact below 2^53
    sums = [
        np.bincount(flat, feature[mine].ravel(), len(names)).astype(np.int64)
        for feature in features
    ]
    found = [np.zeros((0, 2), np.int64)]
    for axis in range(len(outer.shape)):
        here, there = _beside(mine, axis, outer.shape[axis])
        a = drawn.labels[here]
        b = drawn.labels[there]
        touch = (a != b) & (a > 0) & (b > 0)
        found.append(np.sort(np.stack([names[a[touch]], names[b[touch]]], axis=1), axis=1))
    return {
        "node_sums": np.stack(sums, axis=1)[1:],
        "borders": np.unique(np.concatenate(found), axis=0),
    }


def merged(run: Run, tiles: Sequence[int], number: int) -> tuple[Integers, Integers]:
    """The sorted keys of all labels of a method's tiles, and the number, from 1, of each one's
    region.
    """
    parts = [
        run.scratch.load(record_key(tile), *_NAMES)[1]
        for tile in tiles
        if run.routes[tile] == FIRST + number
    ]
    every: dict[str, Integers] = {
        name: np.concatenate([part[name] for part in parts]) for name in _NAMES
    }
    owned = every["area"] > 0
    keys, where = np.unique(every["key"][owned], return_inverse=True)
    area = np.zeros(len(keys), np.int64)
    sums = np.zeros((len(keys), every["node_sums"].shape[1]), np.int64)
    np.add.at(area, where, every["area"][owned])
    np.add.at(sums, where, every["node_sums"][owned])
    segmenter: Any = run.methods[number].segmenter
    borders = np.unique(every["borders"], axis=0)
    # a tile also sees superpixels that lie whole in tiles of another route
    borders = borders[np.isin(borders, keys).all(axis=1)]
    graph = Graph(area, sums, np.searchsorted(keys, borders))
    return keys, np.asarray(segmenter.merge(graph), np.int64) + 1


def _beside(
    core: tuple[slice, ...], axis: int, extent: int
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Slices of a core's pixels that have a next pixel along an axis, and of these next pixels."""
    last = min(core[axis].stop, extent - 1)
    here = list(core)
    there = list(core)
    here[axis], there[axis] = slice(core[axis].start, last), slice(core[axis].start + 1, last + 1)
    return tuple(here), tuple(there)
