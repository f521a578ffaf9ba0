"""Connected pixels: classify the core and a rim around it, and label the connected pieces.

Each piece is right as far as it is visible; links between tiles join pieces that continue.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.image.grid import Box, Grid, sides
from pipeline.imageops.components import kinds_of, pieces
from pipeline.segmenters import classes
from pipeline.stages import Run
from pipeline.stages.tile_labels import Drawn, Flags, Labels


def connected(run: Run, tile: int, block: npt.NDArray[Any], valid: Flags) -> Drawn:
    """Label the connected pieces of classes, with holes filled if requested."""
    method = run.method(tile)
    window = run.window(tile)
    outer = run.labelled(tile)
    seen = outer.within(window)
    found = classes(method.drawer, block, valid, window.start)
    kinds = found.kinds[seen]
    seeds = None if found.seeds is None else found.seeds[seen]
    neighbours = method.contract.neighbours(len(outer.shape))
    if method.contract.between and seeds is not None:
        return _between(kinds > 0, seeds, valid[seen], neighbours, outer, run.grid)
    if method.contract.fill_holes:
        return replace(
            _with_holes(kinds > 0, valid[seen], neighbours, outer, run.grid), seeds=seeds
        )
    surface = None if found.surface is None else found.surface[(slice(None), *seen)]
    labels, number = pieces(kinds, neighbours, surface, found.step)
    nothing = np.zeros(number + 1, bool)
    kind = None if kinds.dtype == bool else kinds_of(labels, number, kinds)
    return Drawn(
        labels,
        np.ones(number + 1, bool),
        nothing,
        nothing,
        np.zeros((0, 2), np.int64),
        kind=kind,
        seeds=seeds,
    )


def _with_holes(mask: Flags, valid: Flags, neighbours: int, outer: Box, grid: Grid) -> Drawn:
    """Fill holes that end inside, and label other background, which may be part of a hole or
    outside.
    """
    ground, many = pieces(~mask, 2 * mask.ndim)
    leaves, outside = _ends(ground, many, outer, grid)
    outside[ground[~valid]] = True
    return _filled(mask, ground, leaves, outside, neighbours)


def _between(
    lines: Flags, strong: Flags, valid: Flags, neighbours: int, outer: Box, grid: Grid
) -> Drawn:
    """Label the regions between edges.

    A weak edge component wholly inside this window, with no strong pixel, is dropped, so that the
    regions beside it merge. For an edge that continues beyond the window, that is not known yet: it
    is labelled as a hole, and is kept as an edge if it has a strong pixel anywhere.

    This is right although edges continue across corners and regions do not: a pixel beside a corner
    of an edge belongs to that edge or to a region, because next to unmeasured pixels every edge is
    strong.
    """
    ground, many = pieces(lines)
    leaves = _ends(ground, many, outer, grid)[0]
    outside = np.zeros(many + 1, bool)
    outside[ground[strong]] = True
    outside[0] = True
    return _filled(valid & ~lines, ground, leaves, outside, neighbours)


def _ends(ground: Labels, many: int, outer: Box, grid: Grid) -> tuple[Flags, Flags]:
    """By piece of background: whether it meets a side where the image goes on, and the image's
    edge.
    """
    leaves = np.zeros(many + 1, bool)
    edge = np.zeros(many + 1, bool)
    for side in sides(outer, grid.whole):
        (leaves if side.open else edge)[ground[side.face]] = True
    return leaves, edge


def _filled(mask: Flags, ground: Labels, leaves: Flags, outside: Flags, neighbours: int) -> Drawn:
    """The mask with certain holes filled, and labels for background that may be a hole."""
    inner = ~leaves & ~outside
    labels, number = pieces(mask | (inner[ground] & ~mask), neighbours)
    kept = np.flatnonzero(~inner[1:]) + 1
    rename = np.zeros(len(inner), np.int32)
    rename[kept] = np.arange(number + 1, number + 1 + len(kept))
    merged = np.where(labels > 0, labels, rename[ground])
    hole = np.arange(number + len(kept) + 1) > number
    out, goes_on = np.zeros((2, len(hole)), bool)
    out[number + 1 :], goes_on[number + 1 :] = outside[kept], leaves[kept]
    return Drawn(
        merged,
        np.ones(len(hole), bool),
        hole,
        out,
        _beside(merged, goes_on & ~out, hole, neighbours),
    )


def _beside(labels: Labels, asked: Flags, hole: Flags, neighbours: int) -> npt.NDArray[np.int64]:
    """Pairs of a hole and an object that touch, by the connectivity of objects."""
    found = [np.zeros((0, 2), np.int64)]
    for here, there in _steps(labels.ndim, full=neighbours > 2 * labels.ndim):
        a = labels[here]
        b = labels[there]
        for ground, thing in ((a, b), (b, a)):
            touch = asked[ground] & (thing > 0) & ~hole[thing]
            found.append(
                np.unique(np.stack([ground[touch], thing[touch]], axis=1), axis=0).astype(np.int64)
            )
    return np.unique(np.concatenate(found), axis=0)


def _steps(ndim: int, *, full: bool) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """Slices that shift an array by one pixel in each direction (one of each opposite two)."""
    cut = {
        -1: (slice(1, None), slice(None, -1)),
        0: (slice(None), slice(None)),
        1: (slice(None, -1), slice(1, None)),
    }
    for step in itertools.product((-1, 0, 1), repeat=ndim):
        if step > (0,) * ndim and (full or sum(map(abs, step)) == 1):
            yield tuple(cut[s][0] for s in step), tuple(cut[s][1] for s in step)
