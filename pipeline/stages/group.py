"""Group the labels of all tiles into objects, once for the image.

Only labels that meet seams are held; no array is dense over all ids. `object_ids` numbers objects,
slab by slab.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.imageops.evidence import Evidence, join, join_by_evidence
from pipeline.imageops.region_sums import concatenate, empty
from pipeline.segmenters.protocols import Merges
from pipeline.stages import FIRST, Run, link, load_sums, record_key
from pipeline.stages.object_ids import Members, name, numbered
from pipeline.stages.overlay import sheets_of
from pipeline.stages.region_merging import merged
from pipeline.stages.stitching import DISPUTED, Integers, Nodes, holes, settle

_KEY = "grouped"


@dataclass(frozen=True, slots=True)
class Grouping:
    """The result of grouping."""

    objects: int
    """Number of objects."""

    classes: int
    """The highest class."""

    disputes: int
    """Number of disputed objects that meet a seam."""

    disputed: Integers
    """Tiles with labels disputed at a seam, ascending."""


def group(run: Run) -> Grouping:
    """Group the labels of all tiles, and write their ids."""
    tiles = np.flatnonzero(run.routes >= FIRST)
    run = replace(run, unsure=frozenset(run.mixed()))
    seams = _seams(run, tiles)
    everyone, joined, filled = _joined(run, tiles, seams)
    if sheets_of(run):
        _doubt_all_of_each(everyone.nodes, joined)
    groups = settle(everyone.nodes, joined, filled)
    disputed = np.unique(
        everyone.nodes.tile[(everyone.nodes.status == DISPUTED) & (groups.of >= 0)]
    )
    return Grouping(*name(run, everyone, groups), int((groups.status == DISPUTED).sum()), disputed)


def known(run: Run) -> Grouping | None:
    """The recorded grouping of the labels as they are now; None without one."""
    if not run.joined.sound(_KEY):
        return None
    facts, arrays = run.joined.load(_KEY, "disputed")
    current = facts.pop("of") == _of(run)
    return (
        Grouping(facts["objects"], facts["classes"], facts["disputes"], arrays["disputed"])
        if current
        else None
    )


def save(run: Run, found: Grouping) -> None:
    """Record the grouping, after its tables are written."""
    facts = {name: getattr(found, name) for name in ("objects", "classes", "disputes")}
    run.joined.save(_KEY, {**facts, "of": _of(run)}, {"disputed": found.disputed})


def _of(run: Run) -> dict[str, Any]:
    """Identifies the present labels: how many windows were doubled, and who drew them."""
    widened = 0 if run.widenings is None else int(run.widenings.sum())
    return {
        "widened": widened,
        "mixed": sorted(name for names in run.mixed().values() for name in names),
    }


@dataclass(frozen=True, slots=True)
class _Seams:
    """The nodes of all tiles, and what their seams say of them."""

    members: Members
    same: Integers
    evidence: Evidence


def _doubt_all_of_each(nodes: Nodes, joined: Integers) -> None:
    """Let a hidden part count too: what hides it may be in doubt, though the part has no pixels."""
    status = np.zeros(int(joined.max(initial=-1)) + 1, np.int64)
    np.maximum.at(status, joined, nodes.status)
    nodes.status[:] = status[joined]


def _seams(run: Run, tiles: npt.NDArray[np.intp]) -> _Seams:
    met = (
        (tile, run.scratch.load(record_key(tile), "on_seams")[1]["on_seams"])
        for tile in tiles.tolist()
    )
    members = _members(run, [(tile, labels) for tile, labels in met if len(labels)])
    pairs: dict[str, list[npt.NDArray[Any]]] = {
        kind: [np.zeros((0, 2), np.int64)] for kind in ("same", "alike", "seen")
    }
    shares: dict[str, list[npt.NDArray[Any]]] = {
        kind: [np.zeros(0)] for kind in ("iou", "seen_iou")
    }
    status = members.nodes.status
    unknown = members.nodes.open
    for tile in link.tiles(run):
        if not run.scratch.has(link.link_key(tile)):
            continue
        facts, found = run.scratch.load(link.link_key(tile), whole=True)
        # kept, the empty arrays of a sparse image's seams would take more room than its tiles
        if not any(map(len, found.values())):
            continue
        for other in facts["others"]:
            for kind, known in pairs.items():
                links = found[f"{kind} {other}"]
                known.append(
                    np.stack(
                        [members.find(tile, links[:, 0]), members.find(other, links[:, 1])], axis=1
                    )
                )
            for kind, known in shares.items():
                known.append(found[f"{kind} {other}"])
            for side, owner in (("a", tile), ("b", other)):
                doubt = found[f"doubt_{side} {other}"]
                np.maximum.at(status, members.find(owner, doubt[:, 0]), doubt[:, 1])
                unknown[members.find(owner, found[f"open_{side} {other}"])] = True
    pairs["same"].append(_of_one_key(run, members, _merged(run, members, tiles)))
    columns = {kind: np.concatenate(parts) for kind, parts in (pairs | shares).items()}
    return _Seams(members, columns.pop("same"), Evidence(**columns))


def _merged(run: Run, members: Members, tiles: npt.NDArray[np.intp]) -> Integers:
    """The keys of nodes; for a segmenter that merges them, the numbers of their regions."""
    keys = members.nodes.key.copy()
    for number, method in enumerate(run.methods):
        if isinstance(method.segmenter, Merges) and (run.routes == FIRST + number).any():
            known, region = merged(run, tiles.tolist(), number)
            mine = np.isin(keys, known) & (run.routes[members.nodes.tile] == FIRST + number)
            keys[mine] = region[np.searchsorted(known, keys[mine])]
    return keys


def _of_one_key(run: Run, members: Members, keys: Integers) -> Integers:
    """(n, 2) consecutive nodes of one key: of one method, or of one class."""
    nodes = members.nodes
    methods = run.routes[nodes.tile].astype(np.int64)
    owner = np.where(np.isin(methods, _of_classes(run)), -1, methods)
    order = np.lexsort((keys, owner))
    pairs = np.stack([order[:-1], order[1:]], axis=1)
    alike = (np.diff(keys[order]) == 0) & (np.diff(owner[order]) == 0) & (keys[order[1:]] > 0)
    return np.asarray(pairs[alike], np.int64)


def _of_classes(run: Run) -> list[int]:
    """The routes with classes as keys."""
    return [
        FIRST + k
        for k, m in enumerate(run.methods)
        if m.contract.identity == "class" or m.contract.things is not None
    ]


def _members(run: Run, wanted: list[tuple[int, npt.NDArray[np.integer]]]) -> Members:
    """The nodes of some labels of some tiles; tiles and labels ascend."""
    tile_of = []
    flags = []
    sums = []
    key = [np.zeros(0, np.int64)]
    status = [np.zeros(0, np.int64)]
    for tile, labels in wanted:
        mine = run.scratch.load(record_key(tile), "status", "hole", "outside", "key")[1]
        key.append(mine["key"][labels - 1])
        tile_of.append(numbered(tile, labels))
        status.append(run.certain(tile, mine["status"])[labels].astype(np.int64))
        flags.append(np.stack([mine[name][labels] for name in ("hole", "outside")]))
        sums.append(load_sums(run.scratch, record_key(tile)).take(labels - 1))
    keys = np.concatenate([np.zeros(0, np.int64), *tile_of])
    hole, outside = np.concatenate([np.zeros((2, 0), bool), *flags], axis=1)
    total = (
        concatenate(sums) if sums else empty(0, len(run.grid.shape), len(run.source.frame.bands))
    )
    nothing = np.zeros(len(keys), bool)
    nodes = Nodes(
        keys >> 32,
        keys & 0xFFFFFFFF,
        np.concatenate(key),
        total.area,
        total.anchor,
        np.concatenate(status),
        hole,
        outside,
        nothing,
    )
    return Members(nodes, keys, total)


def _joined(
    run: Run, tiles: npt.NDArray[np.intp], seams: _Seams
) -> tuple[Members, Integers, npt.NDArray[np.bool_]]:
    """All nodes with those beside open holes, the group of each, and which are holes to fill."""
    members = seams.members
    group, refused = join_by_evidence(
        join(len(members.nodes), seams.same), members.nodes.tile, seams.evidence, run.least_iou
    )
    members.nodes.status[seams.evidence.alike[refused].ravel()] = DISPUTED
    filled, unknown = holes(members.nodes, group)
    if not (filled | unknown).any():
        return members, group, filled
    beside = [(tile, pairs) for tile, pairs in _beside(run, tiles) if len(pairs)]
    beside = [
        (tile, pairs[(filled | unknown)[members.find(tile, pairs[:, 0])]]) for tile, pairs in beside
    ]
    everyone = _with_neighbours(run, members, beside)
    moved = np.searchsorted(everyone.keys, members.keys)
    wide = np.arange(len(everyone.nodes)) + group.max(initial=-1) + 1
    wide[moved] = group
    fill, doubt = np.zeros((2, len(everyone.nodes)), bool)
    fill[moved], doubt[moved] = filled, unknown
    pairs = np.concatenate(
        [
            np.stack([everyone.find(tile, p[:, 0]), everyone.find(tile, p[:, 1])], axis=1)
            for tile, p in beside
        ]
        or [np.zeros((0, 2), np.int64)]
    )
    everyone.nodes.status[pairs[doubt[pairs[:, 0]], 1]] = DISPUTED
    touching = wide[pairs[fill[pairs[:, 0]]]]
    return everyone, join(int(wide.max()) + 1, touching)[wide], fill


def _beside(run: Run, tiles: npt.NDArray[np.intp]) -> Iterator[tuple[int, Integers]]:
    for tile in tiles.tolist():
        yield tile, run.scratch.load(record_key(tile), "beside")[1]["beside"]


def _with_neighbours(run: Run, members: Members, beside: list[tuple[int, Integers]]) -> Members:
    """The nodes, and labels that touch a hole and meet no seam."""
    new = [
        (tile, labels[~np.isin(numbered(tile, labels), members.keys)])
        for tile, labels in ((t, np.unique(p[:, 1])) for t, p in beside)
    ]
    more = _members(run, [(tile, labels) for tile, labels in new if len(labels)])
    keys = np.concatenate([members.keys, more.keys])
    order = np.argsort(keys)
    nodes = Nodes(
        *(
            np.concatenate([getattr(members.nodes, f.name), getattr(more.nodes, f.name)])[order]
            for f in fields(Nodes)
        )
    )
    return Members(nodes, keys[order], concatenate([members.sums, more.sums]).take(order))
