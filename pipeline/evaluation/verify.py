"""Verify a finished result: segment parts of the image again in other tiles, and compare objects
and pixels.

A part is a block of two tiles along each axis, on a grid of another tile size. An object that lies
wholly inside a part is right if the result has the same pixels under one id. An object that crosses
the part's border is not compared, because the part does not show all of it. Statistics of the image
are taken from the run's record; they are not computed again.

If the run used several segmenters, each part is segmented by every segmenter that the run used
there. Only objects are compared that lie wholly in tiles of that segmenter: what it draws in a tile
does not depend on the segmenters of other tiles. Regions that are merged on the graph of the whole
image are compared by their superpixels: each superpixel must lie in one region.

Classes are compared pixel by pixel. Left out are pixels of objects that cross the part's border,
and pixels where a small object was removed or where a hole may have been filled: the image beyond
the part can change both.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import JobError, OutputError
from pipeline.evaluation.differences import (
    Kinds,
    Part,
    Verification,
    compare,
    compare_kinds,
    count_edges,
)
from pipeline.execution.planning import Plan, opened, plan
from pipeline.execution.result import Result
from pipeline.image.grid import Box, Grid, sides
from pipeline.jobs import plugins
from pipeline.jobs.binding import bound
from pipeline.jobs.job import Job
from pipeline.segmenters.protocols import Merges, Unfitted
from pipeline.segmenters.superpixel import Superpixels
from pipeline.stages import (
    EMPTY,
    FIRST,
    SKIPPED,
    Method,
    Run,
    overlay,
    pixels_key,
    route,
    table_key,
)
from pipeline.stages.group import group
from pipeline.stages.link import link
from pipeline.stages.measure import gather
from pipeline.stages.processors import strangers
from pipeline.stages.segment import segment
from pipeline.stages.stitching import PROVED
from pipeline.storage.records import Arrays, Scratch, differences

Labels = npt.NDArray[np.int64]
_NOTHING = (np.zeros(0, np.int64), np.zeros(0, bool))
"""The labels of a part that is not drawn yet, and their `Part.sure`."""
SHARE = 0.7
"""The size of the other tiles, as a fraction of the run's tile size."""


def verify(path: str | Path, parts: int = 8, *, job: Job | None = None) -> Verification:
    """Segment parts of a finished result again, in other tiles, and compare.

    Parameters
    ----------
    path
        The folder of the result, or its address.
    parts
        How many parts to segment again. They are spread evenly over the image.
    job
        The job that was run. Needed only if its record does not hold all of it: functions, and
        images in memory.

    Raises
    ------
    OutputError
        If the result is missing or incomplete, or if its image, its seeds or its methods are
        missing or have changed since the run.
    """
    result = Result(str(path))
    record = result.record
    if not record["complete"]:
        raise OutputError(f"{path} holds no complete labels; there is nothing to verify")
    found = Verification()
    certificates = dict(zip(result.objects["id"], result.objects["certificate"], strict=True))
    with tempfile.TemporaryDirectory() as folder:
        draft = _planned(record, Path(folder), job)
        found.strange = strangers(
            record, {method.name: draft.run.steady(method) for method in draft.run.methods}
        )
        seams = Grid(draft.run.grid.shape, tuple(record["plan"]["tiles"]["size"]))
        for number, tiles in enumerate(_blocks(draft.run.grid, parts)):
            box = _around([draft.run.grid.core(tile) for tile in tiles])
            published = {
                name: _published(result, name, box)
                for name in ("instance", "semantic")
                if name in record["results"]
            }
            found.parts, found.pixels = found.parts + 1, found.pixels + box.size
            count_edges(found, next(iter(published.values())), box, seams)
            for part, kinds in _drawn_again(draft, seams, tiles, Path(folder, str(number))):
                before = len(found.differ)
                if "instance" in published:
                    compare(found, part, published["instance"], seams, certificates)
                if "semantic" in published and not part.merged:
                    compare_kinds(found, box, kinds, published["semantic"], seams)
                if part.drawn_by & found.strange:
                    found.differ[before:] = [_doubted(one) for one in found.differ[before:]]
    return found


def _doubted(difference: Mapping[str, Any]) -> dict[str, Any]:
    """The difference with certificate `proved` lowered to `agreed`: another processor may draw it
    differently.
    """
    return {
        **difference,
        "certificate": "agreed"
        if difference["certificate"] == "proved"
        else difference["certificate"],
    }


def _published(result: Result, name: str, box: Box) -> Labels:
    """What the result holds in a box: labels, or classes with -1 where nothing was measured."""
    if name == "instance":
        return np.asarray(result.labels.data[box.slices].compute(), np.int64)
    kinds = result.classes.data[box.slices].compute()
    return np.where(kinds == np.iinfo(kinds.dtype).max, -1, kinds.astype(np.int64))


def _drawn_again(
    draft: Plan, seams: Grid, tiles: list[int], folder: Path
) -> Iterator[tuple[Part, Kinds]]:
    """Segment some tiles again: once with each segmenter that the run used there, or once with all
    layers.
    """
    box = _around([draft.run.grid.core(tile) for tile in tiles])
    if draft.job.layers:
        yield _again(
            _laid(draft, Scratch(str(folder)).begin(), tiles),
            tiles,
            Part(
                box,
                seams.whole,
                *_NOTHING,
                np.ones(box.shape, bool),
                drawn_by=frozenset(layer.use for layer in draft.job.layers),
            ),
        )
        return
    owner = _owner(draft, seams, box)
    for way in np.unique(owner[owner >= FIRST]).tolist():
        run = _only(draft.run, way, Scratch(str(folder / str(way))).begin(), tiles)
        merged = isinstance(draft.run.methods[way - FIRST].segmenter, Merges)
        yield _again(
            run,
            tiles,
            Part(
                box,
                seams.whole,
                *_NOTHING,
                owner == way,
                merged,
                frozenset([draft.run.methods[way - FIRST].name]),
            ),
        )


def _planned(record: Mapping[str, Any], folder: Path, job: Job | None) -> Plan:
    """Plan the run's job again, with what was fitted, in tiles of another size.

    Parameters
    ----------
    record
        The run's record.
    folder
        Where the records of the new segmentation go.
    job
        The job that was run, if the record does not hold all of it.

    Raises
    ------
    OutputError
        If the image, the job or the segmenters' other inputs have changed since the run.
    """
    source = None
    if job is not None:
        source = opened(job)
        job = bound(job, source.frame).job  # with bands by number, as the record holds it
        _refuse_another(record["job"], job.plain())
    memory = record["identity"]["tiles"]["memory"]
    try:
        again = _job_again(record, folder, job)
        draft = plan(again, workers=1, memory=memory, source=source)
    except JobError as error:
        raise OutputError(f"the run's job cannot be had again: {error}") from error
    _refuse_unfit(draft)
    _refuse_changed(draft, record["identity"])
    return draft


def _job_again(record: Mapping[str, Any], folder: Path, job: Job | None) -> Job:
    """The run's job with what was fitted, in tiles of `SHARE` of the run's size."""
    told = record["job"]
    fitted = record["fitted"]
    segmenters = {
        name: _known(what, fitted.get(name, {}), job and job.segmenters[name], plugins.SEGMENTERS)
        for name, what in told["segmenters"].items()
    }
    steps = [
        _known(what, fitted.get(f"step {k + 1}", {}), job and job.steps[k], plugins.STEPS)
        for k, what in enumerate(told["steps"])
    ]
    shape = record["plan"]["frame"]["shape"]
    extents = zip(shape, record["plan"]["tiles"]["size"], strict=True)
    size = [max(1, min(extent, int(SHARE * tile))) for extent, tile in extents]
    return Job(
        source=told["source"] if job is None else job.source,
        steps=steps,
        segmenters=segmenters,
        route=told["route"],
        layers=told["layers"],
        tiles={**told["tiles"], "size": size},
        stitch=told["stitch"],
        output={"path": str(folder / "out"), "results": record["results"]},
    )


def _refuse_unfit(draft: Plan) -> None:
    """Raise OutputError if parts of the image are not enough to know what the whole run draws."""
    if unfit := [
        layer.use
        for layer in draft.job.layers
        if layer.when or isinstance(draft.job.segmenters[layer.use], Merges)
    ]:
        raise OutputError(
            f"{', '.join(unfit)}: layers of some tiles only, and those merged on the graph of "
            f"the whole image, cannot be verified in "
            "parts; run the job in other tiles, and compare"
        )


def _refuse_changed(draft: Plan, before: Mapping[str, Any]) -> None:
    """Raise OutputError if the image or a segmenter's other input has changed since the run, or if
    the record does not hold what was fitted.
    """
    now = json.loads(json.dumps(draft.identity()))
    if now["source"]["fingerprint"] != before["source"]["fingerprint"]:
        raise OutputError("the image has changed since the run")
    if changed := differences(before["companions"], now["companions"]):
        raise OutputError(
            f"what the segmenters were given besides the image has changed since the run: "
            f"{'; '.join(changed)}"
        )
    if unfitted := [m.name for m in draft.run.methods if isinstance(m.segmenter, Unfitted)]:
        raise OutputError(
            f"{', '.join(unfitted)}: the record does not hold what was found in the image; "
            f"allowed: segmenters that are fitted"
        )


def _refuse_another(told: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raise OutputError if the given job differs from the one that was run."""
    keys = ("segmenters", "steps", "route", "layers", "stitch")
    before, now = (
        {key: what[key] for key in keys} for what in (told, json.loads(json.dumps(given)))
    )
    if changed := differences(before, now):
        raise OutputError(
            f"the job is another than the one that was run ({'; '.join(changed)}); give the job "
            f"as it was"
        )


def _known(what: Mapping[str, Any], fitted: Mapping[str, Any], given: Any, group: str) -> Any:
    """A segmenter or step with what was fitted: made from the record, or from ``given`` if its kind
    has no name that a record could hold.

    Parameters
    ----------
    what
        Its kind and options, from the record.
    fitted
        What was fitted, by option.
    given
        The segmenter or step of the job that the caller passed; None without one.
    group
        The group of plug-ins that its kind belongs to.
    """
    if what["kind"] in plugins.kinds(group):
        return {**{key: held for key, held in what.items() if key != "code"}, **fitted}
    if given is None:
        raise OutputError(
            f"the run used {what['kind']}, which its record does not hold; allowed: kinds of "
            f"segmenters and steps, "
            "or from Python verify(path, job=job) with the job that was run"
        )
    return replace(given, **fitted) if fitted else given


def _owner(draft: Plan, seams: Grid, box: Box) -> npt.NDArray[np.int16]:
    """The route that the run took at each pixel of a box."""
    own = replace(draft.run, grid=seams)
    spans = [
        range(a // size, -(-b // size))
        for a, b, size in zip(box.start, box.stop, seams.tile, strict=True)
    ]
    tiles = [seams.number(at) for at in itertools.product(*spans)]
    work = route.routing(own, draft.job.route, tuple(range(tile, tile + 1) for tile in tiles))
    owner = np.full(box.shape, EMPTY, np.int16)
    for k, tile in enumerate(tiles):
        owner[(seams.core(tile) & box).within(box)] = route.routes(work, k)[0][0]
    return owner


def _blocks(grid: Grid, parts: int) -> list[list[int]]:
    """Blocks of two tiles along each axis, spread evenly over the image."""
    last = [max(count - 1, 1) for count in grid.counts]
    number = int(np.prod(last))
    chosen = np.unique(np.linspace(0, number - 1, min(parts, number)).round().astype(int))
    corners = [tuple(int(k) for k in np.unravel_index(c, last)) for c in chosen]
    return [
        [
            grid.number(at)
            for at in itertools.product(
                *(range(k, min(k + 2, n)) for k, n in zip(corner, grid.counts, strict=True))
            )
        ]
        for corner in corners
    ]


def _around(cores: list[Box]) -> Box:
    """The smallest box around some tile cores."""
    return Box(
        tuple(np.min([core.start for core in cores], axis=0).tolist()),
        tuple(np.max([core.stop for core in cores], axis=0).tolist()),
    )


def _only(run: Run, number: int, scratch: Scratch, tiles: list[int]) -> Run:
    """A run in which only the tiles of a part are segmented, all by method ``number``.

    Regions that would be merged stay superpixels.
    """
    routes = np.full(len(run.grid), SKIPPED, np.int16)
    for tile in tiles:
        routes[tile] = number if run.valid(run.read(run.grid.core(tile))[1]).any() else EMPTY
    methods = tuple(_unmerged(method) for method in run.methods)
    return replace(run, scratch=scratch, routes=routes, methods=methods)


def _unmerged(method: Method) -> Method:
    segmenter: Any = method.segmenter
    if not isinstance(segmenter, Merges):
        return method
    nodes = Superpixels(**{f.name: getattr(segmenter, f.name) for f in fields(Superpixels)})
    return replace(method, segmenter=nodes, contract=replace(method.contract, min_area=0))


def _again(run: Run, tiles: list[int], part: Part) -> tuple[Part, Kinds]:
    """Segment some tiles again.

    Returns
    -------
    Part
        The part with its labels, and for each label whether the object lies wholly inside and is
        proved.
    Kinds
        The classes of the part's pixels.
    """
    number = _drawn(run, tiles)
    box = part.box
    labels = np.zeros(box.shape, np.int64)
    kinds = np.zeros(box.shape, np.int64)
    known = part.mine.copy()
    proved = np.ones(box.shape, bool)
    for tile in (tile for tile in tiles if run.routes[tile] >= FIRST):
        own, table = _table(run, tile)
        at = run.grid.core(tile).within(box)
        labels[at] = np.where(table["ids"] < overlay.STUFF, table["ids"], 0)[own]
        kinds[at] = np.where(table["ids"] > 0, table["kind"], 0)[own]
        for each in (each for each in overlay.drawers(run) if each.routes[tile] >= FIRST):
            own, table = _table(each, tile)
            # the image beyond the part may change what was removed and which gaps are holes
            known[at] &= (own == 0) | (table["ids"] > 0)[own]
            proved[at] &= (table["status"] == PROVED)[own]
    cut = np.zeros(number + 1, bool)
    for side in sides(box, run.grid.whole):
        if side.open:
            cut[labels[side.face]] = True
    sure = ~cut
    for id_, status in _statuses(run):
        sure[id_] &= status == PROVED
    cut[0] = False
    if any(
        run.method(tile).contract.identity != "class" for tile in tiles if run.routes[tile] >= FIRST
    ):
        known &= ~cut[labels]
    absent = ~run.valid(run.read(box)[1])
    kinds[absent], known, proved = -1, known | (absent & part.mine), proved | absent
    return replace(part, labels=labels, sure=sure), Kinds(kinds, known, proved)


def _table(run: Run, tile: int) -> tuple[npt.NDArray[np.integer], Arrays]:
    """The labels of a tile, and the table of its objects."""
    return run.scratch.load(pixels_key(tile), "labels")[1]["labels"], run.joined.load(
        table_key(tile), "ids", "kind", "status"
    )[1]


def _laid(draft: Plan, scratch: Scratch, tiles: list[int]) -> Run:
    """Segment some tiles with every layer; the run that lays those layers over each other."""
    part = _only(draft.run, FIRST, scratch, tiles)
    sheets = overlay.sheets(part, draft.job.layers)
    for sheet in sheets:
        _drawn(sheet.run, tiles)
    return overlay.laid_over(part, sheets)


def _drawn(run: Run, tiles: list[int]) -> int:
    """Segment some tiles and group their objects; the number of objects."""
    for stage in (segment, link):
        for tile in tiles:
            if run.routes[tile] >= FIRST:
                stage(run, tile)
    return group(run).objects


def _statuses(run: Run) -> list[tuple[int, int]]:
    found = [gather(run, slab)[1] for slab in range(run.grid.counts[0])]
    return [
        pair
        for about in found
        for pair in zip(about["id"].tolist(), about["status"].tolist(), strict=True)
    ]
