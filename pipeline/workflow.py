"""The whole run: read `run` from top to bottom. Each step leaves its result in the scratch store,
and is skipped where that lies there.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import engine as engines
from pipeline.engine import Engine
from pipeline.errors import OutputError, SegmenterError, TilesError
from pipeline.execution import output_layout, prepare, resume, timings, upload
from pipeline.execution.dispatch import Crew
from pipeline.execution.planning import Plan, plan
from pipeline.execution.result import Event, Result, Watch, silent
from pipeline.image.legend import MOST, legend
from pipeline.jobs import layers
from pipeline.jobs.job import Job
from pipeline.sources import unmeasured
from pipeline.sources.spooled import stowed
from pipeline.stages import (
    FIRST,
    Run,
    commit,
    fit,
    group,
    lines,
    link,
    measure,
    overlay,
    panoptic,
    processors,
    products,
    publish,
    record_key,
    repair,
    sound,
    unreadable_tiles,
)
from pipeline.stages.group import Grouping
from pipeline.stages.segment import order
from pipeline.stages.segment import segment as segment_tile
from pipeline.stages.stitching import CERTIFICATES
from pipeline.storage.locations import remote
from pipeline.storage.run_record import RECORD

UNKNOWN = 1 << 62
"""Bytes of memory of workers that are not there yet."""
PATIENCE = 8
"""When this many tiles that could be read have failed and none has succeeded, the segmenter is at
fault and not the tiles.
"""


def run(
    job: Job, engine: Engine | None = None, *, fresh: bool = False, watch: Watch = silent
) -> Result:
    """Segment an image, tile by tile, into one set of labels.

    Parameters
    ----------
    job
        What to segment, how, and where the result goes.
    engine
        Where it is computed; a local cluster of processes if not given.
    fresh
        Start anew, whatever lies in the output: a finished result is replaced when the new one is
        complete.
    watch
        Called with an `Event` whenever there is progress.

    Returns
    -------
    Result
        The labels, the table of objects and the record. Where the output holds the result of this
        very job, it is that.

    Raises
    ------
    TilesError
        Some tiles failed. Nothing is published but ``run.json``, which lists them; the same call
        tries them again.
    ResumeError
        The output holds a run of another job, or the image has changed.
    TilewiseError
        Whatever else is refused; see `pipeline.errors`.
    """
    if not fresh and (result := finished(job)):
        return result
    if remote(job.output.path):
        with upload.claimed(job, fresh=fresh):
            return upload.deliver(
                run(upload.made_here(job), engine, fresh=fresh, watch=watch), job, watch
            )
    with contextlib.ExitStack() as stack:
        engine = engine or stack.enter_context(engines.cluster())
        before = None if fresh else resume.begun(job)
        draft = plan(job, workers=engine.workers, memory=engine.memory, begun=before, engine=engine)
        stack.enter_context(resume.opened(draft, fresh=fresh))
        draft = stack.enter_context(_stowed(draft, engine))
        crew, started = Crew(engine, watch), time.monotonic()

        lost = prepare.unreadable(draft.run, job.on_bad_tile, crew)
        draft = resume.begin(draft, sorted(lost))
        fitted = prepare.fit(unreadable_tiles.without(draft.run, lost), crew)
        drawn, found = (
            _lay(fitted, draft, crew)
            if job.layers
            else _draw(prepare.route(fitted, draft.job.route, crew), draft, crew)
        )
        told = _publish(drawn, draft, found, crew)

        facts = {
            "complete": not lost,
            "objects": found.objects,
            **told,
            "seconds": round(time.monotonic() - started, 3),
        }
        named = (
            legend(found.classes, draft.job.output.legend) if "semantic" in draft.results else {}
        )
        facts |= {
            "results": draft.results,
            "legend": {number: entry.plain() for number, entry in named.items()},
        }
        commit.publish_all(
            draft.folder,
            draft.staging,
            facts | _record(drawn, draft, crew, missing=commit.missing(drawn, lost)),
            draft.nest,
        )
        return Result(str(draft.folder))


@contextlib.contextmanager
def _stowed(draft: Plan, engine: Engine) -> Iterator[Plan]:
    """The plan with an image that lies in a file, where it would travel whole to each worker
    otherwise.
    """
    if not getattr(engine, "apart", True):
        yield draft
        return
    with stowed(draft.source, Path(draft.run.scratch.root, "image")) as source:
        yield replace(draft, run=replace(draft.run, source=source))


def finished(job: Job) -> Result | None:
    """The result of this very job, if its output holds it; nothing is started for that. OutputError
    if it is another's, or nobody's.
    """
    if remote(job.output.path):
        return upload.delivered(job)
    if not Path(job.output.path).exists():
        return None
    before = resume.begun(job)
    draft = plan(job, workers=1, memory=before.get("memory", UNKNOWN), begun=before)
    return Result(str(draft.folder)) if resume.finished(draft) else None


def _lay(run: Run, draft: Plan, crew: Crew) -> tuple[Run, Grouping]:
    """Draw each layer as a run of its own, and then what shows of them all."""
    drawn: dict[str, tuple[Run, Grouping]] = {}
    sheets = overlay.sheets(run, draft.job.layers)
    for sheet in sheets:
        if (
            name := sheet.layer.use
        ) not in drawn:  # what draws things and stuff has two layers, and draws once
            drawn[name] = _draw(
                prepare.route(sheet.run, [sheet.layer.rule], crew), draft, replace(crew, layer=name)
            )
    things = {method.name: method.contract.things for method in run.methods}
    layers.refuse(
        draft.job.layers, things, {name: found.classes for name, (_, found) in drawn.items()}
    )
    sheets = tuple(replace(sheet, run=drawn[sheet.layer.use][0]) for sheet in sheets)
    return _draw(overlay.laid_over(run, sheets), draft, replace(crew, layer="layers"))


def _draw(run: Run, draft: Plan, crew: Crew) -> tuple[Run, Grouping]:
    """Segment all tiles, compare them and join what they hold; where that ends in disputes, again
    in larger windows, as the job says.
    """
    while True:
        run = repair.widened(run)
        _segment(run, draft, crew)
        resume.same_image(draft)
        _link(run, crew)
        found = _group(run, draft.job, crew)
        if not repair.begin(run, found, draft.job.stitch.repair):
            return run, found


def _segment(run: Run, draft: Plan, crew: Crew) -> None:
    """Segment every tile that is neither empty nor skipped; TilesError names those that fail."""
    tiles = order(run)
    there = [tile for tile in tiles if run.scratch.has(record_key(tile))]
    kept = {tile for tile, good in crew.each("check", sound, run, there) if good}
    failed: dict[int, str] = {}
    refused: dict[int, str] = {}
    stage = crew.named(f"repair {rounds}" if (rounds := repair.rounds(run)) else "segment")
    event = Event(stage, len(kept), len(tiles), empty=len(run.grid) - len(tiles))
    todo = [tile for tile in tiles if tile not in kept]
    reserved = {name for tile in todo for name in run.needs(tile)}
    for outcome in crew.engine.run(
        segment_tile, run, todo, needs=run.needs, reserved=reserved, label=stage
    ):
        crew.clock.add(run, outcome)
        event = event.after(outcome.value, run.grid.name(outcome.item), outcome.error)
        crew.watch(event)
        if outcome.error is not None:
            failed[outcome.item] = outcome.error
            refused |= {} if outcome.unread else {outcome.item: outcome.error}
            if (
                refused
                and len(failed) == event.done
                and (len(refused) >= PATIENCE or event.done == len(tiles))
            ):
                tile, why = next(iter(refused.items()))
                raise SegmenterError(f"no tile succeeded: {run.grid.name(tile)}: {why}")
    if failed:
        told = _record(run, draft, crew, missing=commit.missing(run, failed))
        commit.leave_incomplete(draft.folder, told)
        named = "; ".join(f"{run.grid.name(tile)}: {failed[tile]}" for tile in sorted(failed)[:3])
        more = f"; and {len(failed) - 3} more, all in {RECORD}" if len(failed) > 3 else ""
        raise TilesError(
            f"{len(failed)} of {len(tiles)} tiles failed, so nothing is published: "
            f"{named}{more}. The same command tries them again"
            f"{products.kept(draft.folder)}."
        )


def _link(run: Run, crew: Crew) -> None:
    """Compare each tile that has labels with its neighbours."""
    todo = [tile for tile in link.tiles(run) if not link.linked(run, tile)]
    for _ in crew.each("link", link.link, run, todo):
        pass


def _group(run: Run, job: Job, crew: Crew) -> Grouping:
    """Settle which labels are one object. OutputError if they do not fit their type."""
    found = group.known(run)
    if found is None:
        crew.watch(Event(crew.named("group"), 0, 1))
        found = group.group(run)
        group.save(run, found)
        crew.watch(Event(crew.named("group"), 1, 1))
    if (dtype := output_layout.dtype(job.output)) and found.objects > np.iinfo(dtype).max:
        raise OutputError(
            f"output.dtype: {found.objects} objects do not fit in {dtype}; allowed: uint64, "
            f"without ome-tiff"
        )
    if found.classes > MOST:
        raise OutputError(f"there are classes up to {found.classes}; allowed: {MOST}")
    return found


def _publish(run: Run, draft: Plan, found: Grouping, crew: Crew) -> dict[str, Any]:
    """Stage labels, classes, their pyramids, the table and what else is wanted; the objects'
    certificates, and what was not measured.
    """
    wanted, staging = draft.job.output, draft.staging
    if "panoptic" in draft.results:
        panoptic.refuse(found)
    work = publish.places(
        run,
        wanted,
        draft.results,
        draft.layout,
        staging,
        (found.objects, found.classes),
        nest=draft.nest,
    )
    for place in (work.labels, work.classes, work.nested, work.mask):
        if place:
            place.create()
    crew.all("publish", publish.publish, work, work.tiles)
    for pyramid in (work.labels, work.classes, work.nested):
        for above in publish.levels(pyramid):
            crew.all(f"pyramid {above.level}", publish.reduce, above, range(len(above.blocks)))
    slabs = list(crew.all("measure", measure.measure, run, range(run.grid.counts[0])).values())
    commit.write_table(run, staging)
    if curves := lines.tiles(run):
        crew.all("trace", lines.trace_tile, work, curves)
        commit.write_curves(run, staging)
    commit.write_tiffs(work, wanted.labels, staging)
    if "panoptic" in draft.results:
        panoptic.write_panoptic(work, found, staging / products.TABLE, draft.image, staging)
    if wanted.picture:
        commit.write_picture(work, staging)
    counts = np.array([slab["certificates"] for slab in slabs]).sum(axis=0)
    lost = unmeasured.added(slab["unmeasured"] for slab in slabs)
    return {
        "certificates": dict(zip(CERTIFICATES, counts.tolist(), strict=True)),
        "unmeasured": unmeasured.told(
            run.source.frame, lost, sum(slab["pixels"] for slab in slabs)
        ),
    }


def _record(run: Run, draft: Plan, crew: Crew, missing: list[dict[str, Any]]) -> dict[str, Any]:
    """What run.json says of any run, complete or not."""
    drawers = overlay.drawers(run)
    fitted = {name: what for each in drawers for name, what in fit.found(draft.run, each).items()}
    repairs = [told for each in drawers for told in repair.tally(each)]
    spent = {"routes": timings.routes(run, crew.clock), "dearest": timings.dearest(run, crew.clock)}
    drawn = (
        (method.name, each.scratch, number)
        for each in drawers
        for number, method in enumerate(each.methods, FIRST)
    )
    return {
        "run": draft.run.scratch.run,
        "processors": processors.told(drawn),
        "missing": missing,
        "nested": None if draft.nest is None else str(draft.nest.path),
        **spent,
        "repairs": repairs,
        "fitted": fitted,
        "job": draft.job.plain(),
        "plan": draft.facts(),
        **draft.terms(),
    }
