"""The whole run: read `run` from top to bottom.

Each step leaves its result in the scratch store, and is skipped where that lies there already.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace

from pipeline.engine.given import EngineLike, starter
from pipeline.execution import draw, prepare, record, resume, staging, upload
from pipeline.execution.dispatch import Dispatcher
from pipeline.execution.existing_output import Existing, State, look
from pipeline.execution.planning import Plan, opened
from pipeline.execution.result import Result, Watch, silent
from pipeline.jobs import layers
from pipeline.jobs.job import Job
from pipeline.stages import Run, commit, overlay, repair, unreadable_tiles
from pipeline.stages.group import Grouping
from pipeline.storage.locations import remote


def run(
    job: Job, engine: EngineLike = None, *, fresh: bool = False, watch: Watch = silent
) -> Result:
    """Segment an image, tile by tile, into one set of labels.

    Parameters
    ----------
    job
        What to segment, how, and where the result goes.
    engine
        Where it is computed, or what `pipeline.engine.given` makes an engine of; None: a local
        cluster of processes. It is started only if there is something to compute.
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
    start = starter(engine)
    if remote(job.output.path):
        return _run_to_address(job, engine, fresh=fresh, watch=watch)
    there = Existing.nothing(job) if fresh else look(job)
    source = opened(job)
    if resume.finished(job, there, source):
        return Result(str(there.folder))
    with contextlib.ExitStack() as stack:
        workers = stack.enter_context(start())
        draft, found = stack.enter_context(
            resume.plan_and_hold(job, workers, there, source, fresh=fresh)
        )
        if found.state is State.FINISHED:  # by another process, since the look at the output
            return Result(str(draft.folder))
        draft = stack.enter_context(prepare.reachable(draft, workers))
        dispatcher = Dispatcher(workers, watch)

        lost = prepare.unreadable(draft.run, job.on_bad_tile, dispatcher)
        draft = resume.begin(draft, found.begun, sorted(lost))
        fitted = prepare.fit(unreadable_tiles.without(draft.run, lost), dispatcher)
        if job.layers:
            drawn, objects = _draw_layers(fitted, draft, dispatcher)
        else:
            routed = prepare.route(fitted, draft.job.route, dispatcher)
            drawn, objects = _draw(routed, draft, dispatcher)
        measured = staging.write_products(drawn, draft, objects, dispatcher)
        told = record.of_result(drawn, draft, dispatcher, objects, lost, measured)
        commit.publish_all(draft.folder, draft.staging, told, draft.nest)
        return Result(str(draft.folder))


def _draw(run: Run, draft: Plan, dispatcher: Dispatcher) -> tuple[Run, Grouping]:
    """Segment all tiles, compare neighbours, and settle which labels are one object. Where seams
    stay disputed and the job asks for repair, draw the tiles beside them again in larger windows.
    """
    while True:
        run = repair.widened(run)
        draw.segment(run, draft, dispatcher)
        resume.same_image(draft)
        draw.link(run, dispatcher)
        objects = draw.group(run, draft.job.output, dispatcher)
        if not repair.begin(run, objects, draft.job.stitch.repair):
            return run, objects


def _draw_layers(run: Run, draft: Plan, dispatcher: Dispatcher) -> tuple[Run, Grouping]:
    """Draw each layer as a run of its own, then lay them over each other and draw what shows."""
    drawn: dict[str, tuple[Run, Grouping]] = {}
    sheets = overlay.sheets(run, draft.job.layers)
    for sheet in sheets:
        name = sheet.layer.use
        if name not in drawn:  # a segmenter of things and stuff has two layers, and draws once
            routed = prepare.route(sheet.run, [sheet.layer.rule], dispatcher)
            drawn[name] = _draw(routed, draft, replace(dispatcher, layer=name))
    things = {method.name: method.contract.things for method in run.methods}
    classes = {name: objects.classes for name, (_, objects) in drawn.items()}
    layers.refuse(draft.job.layers, things, classes)
    sheets = tuple(replace(sheet, run=drawn[sheet.layer.use][0]) for sheet in sheets)
    return _draw(overlay.laid_over(run, sheets), draft, replace(dispatcher, layer="layers"))


def _run_to_address(job: Job, engine: EngineLike, *, fresh: bool, watch: Watch) -> Result:
    """Make a result in the folder for scratch, then copy it to its address, as `run` says."""
    if not fresh and (result := upload.delivered(job)):
        return result
    with upload.claimed(job, fresh=fresh) as result:
        if result is not None:  # of another run, since the address was looked at
            return result
        made = run(upload.made_here(job), engine, fresh=fresh, watch=watch)
        return upload.deliver(made, job, watch)


def finished(job: Job) -> Result | None:
    """Give the result of this very job, if its output holds it.

    Parameters
    ----------
    job
        The job. No engine is started for it.

    Returns
    -------
    Result or None
        None where there is no result, or its run is not complete.

    Raises
    ------
    ResumeError
        If the output holds another job's result, or lacks files of this one.
    OutputError
        If files lie in the way that no run has written.
    """
    if remote(job.output.path):
        return upload.delivered(job)
    there = look(job)
    return Result(str(there.folder)) if resume.finished(job, there) else None
