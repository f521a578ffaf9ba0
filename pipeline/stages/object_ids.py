"""Ids of objects in raster order, slab by slab, and each tile's table from labels to ids.

A slab is a row of tiles, or in 3-D a plane of them. The sums of objects that begin in a slab and
meet a seam are stored with it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.imageops.region_sums import Sums
from pipeline.stages import FIRST, Run, record_key, save_sums, table_key
from pipeline.stages.overlay import LAYER, STUFF
from pipeline.stages.stitching import Groups, Integers, Nodes, number_anchors

STUFF_KEY = "slabs/stuff"
"""Key of the sums of stuff, one row per class."""


def slab_key(slab: int) -> str:
    """Key of the sums of the objects that begin in a slab and meet a seam."""
    return f"slabs/{slab}"


@dataclass(frozen=True, slots=True)
class Members:
    """Nodes with their sorted keys and sums."""

    nodes: Nodes
    keys: Integers
    sums: Sums

    def find(self, tile: int, labels: npt.NDArray[np.integer]) -> Integers:
        """The nodes of some labels of a tile; all of these labels are nodes."""
        return np.searchsorted(self.keys, numbered(tile, labels))

    def of(self, tile: int) -> slice:
        """The range of a tile's nodes."""
        return slice(*np.searchsorted(self.keys, [tile << 32, (tile + 1) << 32]).tolist())


def numbered(tile: int, labels: npt.NDArray[np.integer]) -> Integers:
    """Numbers that order the labels of all tiles."""
    return (np.int64(tile) << 32) | labels.astype(np.int64)


@dataclass(frozen=True, slots=True)
class _Own:
    """What a tile knows of its labels by itself."""

    tile: int
    anchors: Integers
    """Anchors of labels that meet no seam; -1 for those that do, are too small, or lack a seed."""
    highest: int
    """The highest class of these."""
    kind: Integers
    """The class of each label, 0 for background; ``status`` is its certificate."""
    status: npt.NDArray[np.int8]


def name(run: Run, members: Members, groups: Groups) -> tuple[int, int]:
    """Number the objects in raster order of their anchors, slab by slab; returns their number and
    highest class.
    """
    least = np.array([0] * FIRST + [method.contract.min_area for method in run.methods])
    sums = members.sums.merge(groups.of, len(groups.area))
    kept = (groups.area >= least[run.routes[groups.home]]) & (sums.marked > 0)
    ids = np.zeros(len(groups.area) + 1, np.int64)  # the last is the id of a node of no group: 0
    keys = np.zeros(len(groups.area), np.int64)
    np.maximum.at(keys, groups.of[groups.of >= 0], members.nodes.key[groups.of >= 0])
    stuff = _stuff(run, members, groups)
    number = 0
    highest = int(sums.kind[kept | stuff].max(initial=0))
    ids[:-1][stuff], kept = STUFF + sums.kind[stuff], kept & ~stuff
    facts, arrays = save_sums(sums.take(stuff))
    run.joined.save(STUFF_KEY, facts, {**arrays, "status": groups.status[stuff]})
    for slab, tiles in enumerate(run.grid.slabs()):
        here = np.flatnonzero(kept & (groups.home >= tiles.start) & (groups.home < tiles.stop))
        own = [_alone(run, members, tile, least) for tile in tiles if run.routes[tile] >= FIRST]
        highest = max([highest, *(each.highest for each in own)])
        numbered = number_anchors([groups.anchor[here], *(each.anchors for each in own)], number)
        number += int(sum((named > 0).sum() for named in numbered))
        ids[here] = numbered[0]
        for each, named in zip(own, numbered[1:], strict=True):
            _write_table(run, members, groups, each, (np.concatenate([[0], named]), ids, sums.kind))
        facts, arrays = save_sums(sums.take(here))
        about = {"ids": ids[here], "key": keys[here], "status": groups.status[here]}
        about |= {"tiles": groups.tiles[here], "home": groups.home[here]}
        run.joined.save(slab_key(slab), facts, {**arrays, **about})
    return number, highest


def _stuff(run: Run, members: Members, groups: Groups) -> npt.NDArray[np.bool_]:
    """Which groups are stuff, without a number."""
    drawn = [
        FIRST + k
        for k, m in enumerate(run.methods)
        if m.contract.identity == "layered" or m.contract.things is not None
    ]
    key = members.nodes.key
    of = groups.of
    stuff = np.zeros(len(groups.area), bool)
    stuff[
        of[(key > 0) & (key < LAYER) & (of >= 0) & np.isin(run.routes[members.nodes.tile], drawn)]
    ] = True
    return stuff


def _alone(run: Run, members: Members, tile: int, least: npt.NDArray[np.int64]) -> _Own:
    found = run.scratch.load(
        record_key(tile), "area", "anchor", "hole", "marked", "kind", "status"
    )[1]
    alone = (
        ~found["hole"][1:]
        & (found["area"] >= max(1, least[run.routes[tile]]))
        & (found["marked"] > 0)
    )
    alone[members.nodes.label[members.of(tile)] - 1] = False
    highest = int(found["kind"][alone].max(initial=0))
    kind = np.concatenate([[0], found["kind"]])
    return _Own(
        tile,
        np.where(alone, found["anchor"], -1),
        highest,
        kind,
        run.certain(tile, found["status"]).copy(),
    )


def _write_table(
    run: Run,
    members: Members,
    groups: Groups,
    own: _Own,
    named: tuple[Integers, Integers, Integers],
) -> None:
    """Write a tile's table: ids, certificates and classes of its labels, from the groups where they
    cross tiles.
    """
    table, ids, kinds = named
    mine = members.of(own.tile)
    nodes = members.nodes.label[mine]
    of = groups.of[mine]
    alone = np.flatnonzero(table > 0)
    joined = nodes[of >= 0]
    table[nodes], own.status[joined], own.kind[joined] = (
        ids[of],
        groups.status[of[of >= 0]],
        kinds[of[of >= 0]],
    )
    run.joined.save(
        table_key(own.tile),
        {},
        {"ids": table, "status": own.status, "kind": own.kind, "alone": alone},
    )
