"""Once for the image: which labels are one object, what it is called, and what is known of it.

Holds the labels that meet seams, and one slab of tiles (a row of them, or in 3-D a plane) at a time; nothing is dense over all ids.
Leaves a table of ids for each tile, and for each slab the sums of the objects that begin in it and meet a seam.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from pipeline.measurement import Sums, concatenate, empty
from pipeline.stages import FIRST, Run, load_sums, record_key, save_sums, table_key
from pipeline.stages.link import link_key
from pipeline.stages.overlay import LAYER, STUFF, sheets_of
from pipeline.stages.regions import merged
from pipeline.stitching import (
    DISPUTED,
    Groups,
    Integers,
    Nodes,
    holes,
    join,
    join_by_evidence,
    number_anchors,
    settle,
)

_KEY = "grouped"
STUFF_KEY = "slabs/stuff"
"""Where the sums of the stuff lie, one row for each class of it."""


def slab_key(slab: int) -> str:
    """Where the sums of the objects that begin in a slab and meet a seam lie."""
    return f"slabs/{slab}"


@dataclass(frozen=True, slots=True)
class Grouping:
    """What the labels of all tiles make."""

    objects: int
    """How many objects there are."""

    classes: int
    """The highest class of one."""

    disputes: int
    """How many of the objects that meet a seam are disputed."""

    disputed: Integers
    """The tiles in which labels are disputed at a seam, ascending."""


def group(run: Run) -> Grouping:
    """Group the labels of all tiles, and write their ids."""
    tiles = np.flatnonzero(run.routes >= FIRST)
    seams = _seams(run, tiles)
    everyone, joined, filled = _joined(run, tiles, seams)
    if sheets_of(run):
        _doubt_all_of_each(everyone.nodes, joined)
    groups = settle(everyone.nodes, joined, filled)
    disputed = np.unique(everyone.nodes.tile[(everyone.nodes.status == DISPUTED) & (groups.of >= 0)])
    return Grouping(*_name(run, everyone, groups), int((groups.status == DISPUTED).sum()), disputed)


def known(run: Run) -> Grouping | None:
    """What `group` found of the labels as they are now, if that is recorded."""
    if not run.scratch.sound(_KEY):
        return None
    facts, arrays = run.scratch.load(_KEY, "disputed")
    current = facts.pop("widened") == _widened(run)
    return Grouping(facts["objects"], facts["classes"], facts["disputes"], arrays["disputed"]) if current else None


def save(run: Run, found: Grouping) -> None:
    """Record what `group` found, when its tables are written."""
    facts = {name: getattr(found, name) for name in ("objects", "classes", "disputes")}
    run.scratch.save(_KEY, {**facts, "widened": _widened(run)}, {"disputed": found.disputed})


def _widened(run: Run) -> int:
    """How many windows were doubled: more with every round of repairs."""
    return 0 if run.widenings is None else int(run.widenings.sum())


@dataclass(frozen=True, slots=True)
class _Members:
    """Nodes, with their keys (sorted) and sums."""

    nodes: Nodes
    keys: Integers
    sums: Sums

    def find(self, tile: int, labels: npt.NDArray[np.integer]) -> Integers:
        """The nodes of some labels of a tile, all of which are nodes."""
        return np.searchsorted(self.keys, _keys(tile, labels))

    def of(self, tile: int) -> slice:
        """Where a tile's nodes stand."""
        return slice(*np.searchsorted(self.keys, [tile << 32, (tile + 1) << 32]).tolist())


@dataclass(frozen=True, slots=True)
class _Seams:
    """The nodes of all tiles, and what their seams say of them."""

    members: _Members
    same: Integers
    alike: Integers
    iou: npt.NDArray[np.float64]


def _keys(tile: int, labels: npt.NDArray[np.integer]) -> Integers:
    return (np.int64(tile) << 32) | labels.astype(np.int64)


def _doubt_all_of_each(nodes: Nodes, joined: Integers) -> None:
    """Let a part that is hidden count too: what hides it may be in doubt, and it has no pixel of its own."""
    status = np.zeros(int(joined.max(initial=-1)) + 1, np.int64)
    np.maximum.at(status, joined, nodes.status)
    nodes.status[:] = status[joined]


def _seams(run: Run, tiles: npt.NDArray[np.intp]) -> _Seams:
    members = _members(run, [(int(tile), run.scratch.load(record_key(int(tile)), "on_seams")[1]["on_seams"]) for tile in tiles])
    pairs: dict[str, list[npt.NDArray[np.generic]]] = {"same": [], "alike": [], "iou": []}
    status, unknown = members.nodes.status, members.nodes.open
    for tile in range(len(run.grid)):
        if not run.scratch.has(link_key(tile)):
            continue
        others = run.scratch.load(link_key(tile))[0]["others"]
        found = run.scratch.load(link_key(tile), whole=True)[1]
        for other in others:
            for kind in ("same", "alike"):
                links = found[f"{kind} {other}"]
                pairs[kind].append(np.stack([members.find(tile, links[:, 0]), members.find(other, links[:, 1])], axis=1))
            pairs["iou"].append(found[f"iou {other}"])
            for side, owner in (("a", tile), ("b", other)):
                doubt = found[f"doubt_{side} {other}"]
                np.maximum.at(status, members.find(owner, doubt[:, 0]), doubt[:, 1])
                unknown[members.find(owner, found[f"open_{side} {other}"])] = True
    pairs["same"].append(_of_one_key(run, members, _merged(run, members, tiles)))
    same, alike = (np.concatenate([np.zeros((0, 2), np.int64), *pairs[kind]]) for kind in ("same", "alike"))
    return _Seams(members, same, alike, np.concatenate([np.zeros(0), *pairs["iou"]]))


def _merged(run: Run, members: _Members, tiles: npt.NDArray[np.intp]) -> Integers:
    """The keys of nodes; those of a segmenter that merges them are the numbers of what they are merged into."""
    keys = members.nodes.key.copy()
    for number, method in enumerate(run.methods):
        if hasattr(method.segmenter, "merge") and (run.routes == FIRST + number).any():
            known, region = merged(run, tiles.tolist(), number)
            mine = np.isin(keys, known) & (run.routes[members.nodes.tile] == FIRST + number)
            keys[mine] = region[np.searchsorted(known, keys[mine])]
    return keys


def _of_one_key(run: Run, members: _Members, keys: Integers) -> Integers:
    """(n, 2) nodes that follow each other among those of one key: of one method, or of one class."""
    nodes = members.nodes
    methods = run.routes[nodes.tile].astype(np.int64)
    owner = np.where(np.isin(methods, _of_classes(run)), -1, methods)
    order = np.lexsort((keys, owner))
    pairs = np.stack([order[:-1], order[1:]], axis=1)
    alike = (np.diff(keys[order]) == 0) & (np.diff(owner[order]) == 0) & (keys[order[1:]] > 0)
    return np.asarray(pairs[alike], np.int64)


def _of_classes(run: Run) -> list[int]:
    """The routes whose keys are classes."""
    return [FIRST + k for k, m in enumerate(run.methods) if m.contract.identity == "class" or m.contract.things is not None]


def _members(run: Run, wanted: list[tuple[int, npt.NDArray[np.integer]]]) -> _Members:
    """The nodes of some labels of some tiles; tiles and labels ascend."""
    tile_of, flags, sums, key, status = [], [], [], [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for tile, labels in wanted:
        mine = run.scratch.load(record_key(tile), "status", "hole", "outside", "key")[1]
        key.append(mine["key"][labels - 1])
        tile_of.append(_keys(tile, labels))
        status.append(mine["status"][labels].astype(np.int64))
        flags.append(np.stack([mine[name][labels] for name in ("hole", "outside")]))
        sums.append(load_sums(run, record_key(tile)).take(labels - 1))
    keys = np.concatenate([np.zeros(0, np.int64), *tile_of])
    hole, outside = np.concatenate([np.zeros((2, 0), bool), *flags], axis=1)
    total = concatenate(sums) if sums else empty(0, len(run.grid.shape), len(run.source.frame.bands))
    nothing = np.zeros(len(keys), bool)
    nodes = Nodes(
        keys >> 32, keys & 0xFFFFFFFF, np.concatenate(key), total.area, total.anchor, np.concatenate(status), hole, outside, nothing
    )
    return _Members(nodes, keys, total)


def _joined(run: Run, tiles: npt.NDArray[np.intp], seams: _Seams) -> tuple[_Members, Integers, npt.NDArray[np.bool_]]:
    """The nodes with those that open holes add, the group of each, and which of them are holes to be filled."""
    members = seams.members
    group, refused = join_by_evidence(join(len(members.nodes), seams.same), members.nodes.tile, seams.alike, seams.iou, run.least_iou)
    members.nodes.status[seams.alike[refused].ravel()] = DISPUTED
    filled, unknown = holes(members.nodes, group)
    if not (filled | unknown).any():
        return members, group, filled
    beside = [(tile, pairs) for tile, pairs in _beside(run, tiles) if len(pairs)]
    beside = [(tile, pairs[(filled | unknown)[members.find(tile, pairs[:, 0])]]) for tile, pairs in beside]
    everyone = _with_neighbours(run, members, beside)
    moved = np.searchsorted(everyone.keys, members.keys)
    wide = np.arange(len(everyone.nodes)) + group.max(initial=-1) + 1
    wide[moved] = group
    fill, doubt = np.zeros((2, len(everyone.nodes)), bool)
    fill[moved], doubt[moved] = filled, unknown
    pairs = np.concatenate(
        [np.stack([everyone.find(tile, p[:, 0]), everyone.find(tile, p[:, 1])], axis=1) for tile, p in beside]
        or [np.zeros((0, 2), np.int64)]
    )
    everyone.nodes.status[pairs[doubt[pairs[:, 0]], 1]] = DISPUTED
    touching = wide[pairs[fill[pairs[:, 0]]]]
    return everyone, join(int(wide.max()) + 1, touching)[wide], fill


def _beside(run: Run, tiles: npt.NDArray[np.intp]) -> Iterator[tuple[int, Integers]]:
    for tile in tiles.tolist():
        yield tile, run.scratch.load(record_key(tile), "beside")[1]["beside"]


def _with_neighbours(run: Run, members: _Members, beside: list[tuple[int, Integers]]) -> _Members:
    """The nodes and, besides them, the labels that touch a hole and meet no seam."""
    new = [(tile, labels[~np.isin(_keys(tile, labels), members.keys)]) for tile, labels in ((t, np.unique(p[:, 1])) for t, p in beside)]
    more = _members(run, [(tile, labels) for tile, labels in new if len(labels)])
    keys = np.concatenate([members.keys, more.keys])
    order = np.argsort(keys)
    nodes = Nodes(*(np.concatenate([getattr(members.nodes, f.name), getattr(more.nodes, f.name)])[order] for f in fields(Nodes)))
    return _Members(nodes, keys[order], concatenate([members.sums, more.sums]).take(order))


def _name(run: Run, members: _Members, groups: Groups) -> tuple[int, int]:
    """Number the objects in raster order of their anchors, slab by slab; how many there are, and their highest class."""
    least = np.array([0] * FIRST + [method.contract.min_area for method in run.methods])
    sums = members.sums.merge(groups.of, len(groups.area))
    kept = (groups.area >= least[run.routes[groups.home]]) & (sums.marked > 0)
    ids = np.zeros(len(groups.area) + 1, np.int64)  # the last is the id of a node of no group: 0
    keys = np.zeros(len(groups.area), np.int64)
    np.maximum.at(keys, groups.of[groups.of >= 0], members.nodes.key[groups.of >= 0])
    stuff = _stuff(run, members, groups)
    number, highest = 0, int(sums.kind[kept | stuff].max(initial=0))
    ids[:-1][stuff], kept = STUFF + sums.kind[stuff], kept & ~stuff
    facts, arrays = save_sums(sums.take(stuff))
    run.scratch.save(STUFF_KEY, facts, {**arrays, "status": groups.status[stuff]})
    for slab, tiles in enumerate(run.grid.slabs()):
        here = np.flatnonzero(kept & (groups.home >= tiles.start) & (groups.home < tiles.stop))
        own = [(tile, *_alone(run, members, tile, least)) for tile in tiles if run.routes[tile] >= FIRST]
        highest = max([highest, *(kind for _, _, kind in own)])
        numbered = number_anchors([groups.anchor[here], *(anchors for _, anchors, _ in own)], number)
        number += int(sum((named > 0).sum() for named in numbered))
        ids[here] = numbered[0]
        for (tile, _, _), named in zip(own, numbered[1:], strict=True):
            _write_table(run, members, groups, (tile, np.concatenate([[0], named])), (ids, sums.kind))
        facts, arrays = save_sums(sums.take(here))
        about = {"ids": ids[here], "key": keys[here], "status": groups.status[here]}
        about |= {"tiles": groups.tiles[here], "home": groups.home[here]}
        run.scratch.save(slab_key(slab), facts, {**arrays, **about})
    return number, highest


def _stuff(run: Run, members: _Members, groups: Groups) -> npt.NDArray[np.bool_]:
    """Which groups are not things, hence have no number."""
    drawn = [FIRST + k for k, m in enumerate(run.methods) if m.contract.identity == "layered" or m.contract.things is not None]
    key, of = members.nodes.key, groups.of
    stuff = np.zeros(len(groups.area), bool)
    stuff[of[(key > 0) & (key < LAYER) & (of >= 0) & np.isin(run.routes[members.nodes.tile], drawn)]] = True
    return stuff


def _alone(run: Run, members: _Members, tile: int, least: npt.NDArray[np.int64]) -> tuple[Integers, int]:
    """The anchors of a tile's labels that meet no seam, -1 for the others, for those that are too small, and for those without a seed;
    and their highest class.
    """
    found = run.scratch.load(record_key(tile), "area", "anchor", "hole", "marked", "kind")[1]
    alone = ~found["hole"][1:] & (found["area"] >= max(1, least[run.routes[tile]])) & (found["marked"] > 0)
    alone[members.nodes.label[members.of(tile)] - 1] = False
    return np.where(alone, found["anchor"], -1), int(found["kind"][alone].max(initial=0))


def _write_table(run: Run, members: _Members, groups: Groups, own: tuple[int, Integers], of_groups: tuple[Integers, Integers]) -> None:
    """Write a tile's table: its labels' ids, certificates and classes, which of those of other tiles too only the groups know."""
    (tile, table), (ids, kinds) = own, of_groups
    mine = members.of(tile)
    nodes, of = members.nodes.label[mine], groups.of[mine]
    alone, known = table > 0, run.scratch.load(record_key(tile), "status", "kind")[1]
    status, kind = known["status"].copy(), np.concatenate([[0], known["kind"]])
    joined = nodes[of >= 0]
    table[nodes], status[joined], kind[joined] = ids[of], groups.status[of[of >= 0]], kinds[of[of >= 0]]
    run.scratch.save(table_key(tile), {}, {"ids": table, "status": status, "kind": kind, "alone": np.flatnonzero(alone)})
