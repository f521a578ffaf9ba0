"""What a run would do, found without doing it: what lies in the output already, which segmenter
each tile goes to, the memory and disk that it takes, and the time, if some tiles are segmented for
that. Nothing is left behind.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.engine import Engine
from pipeline.errors import JobError, OutputError, TilesError, TilewiseError
from pipeline.execution import prepare
from pipeline.execution.dispatch import Dispatcher
from pipeline.execution.existing_output import State, look
from pipeline.execution.planning import Plan, plan
from pipeline.execution.result import Watch, silent
from pipeline.execution.upload import made_here
from pipeline.jobs.job import Job
from pipeline.jobs.routing import SKIP, Rule
from pipeline.sinks.picture import colours, to_png
from pipeline.sources.unmeasured import sampled
from pipeline.stages import EMPTY, FIRST, SKIPPED, Run, overlay, record_key
from pipeline.stages.commit import backdrop
from pipeline.stages.segment import segment
from pipeline.storage.atomic_files import commit
from pipeline.storage.locations import remote
from pipeline.storage.records import Scratch, new_name

PICTURE_SIZE = 1600
"""Rows and columns of the picture, at most."""
PYRAMID = 4 / 3
"""What the levels above the first add to labels."""


@dataclass(frozen=True, slots=True)
class Way:
    """Where the tiles of an image go; where a job has layers, the tiles of one of them."""

    run: Run
    """The run, routed."""

    done: frozenset[int]
    """The tiles that a run before has segmented."""

    names: tuple[str, ...]
    """The names of the routes, by number."""

    def tiles(self, route: int) -> list[int]:
        """The tiles of a route, by its number."""
        return np.flatnonzero(self.run.routes == route).tolist()


@dataclass(frozen=True, slots=True)
class Foresight:
    """What a run would do."""

    draft: Plan
    ways: tuple[Way, ...]
    facts: dict[str, Any]
    """In plain words and numbers."""

    refused: TilewiseError | None = None
    """Why it would be refused though it can be planned: the output holds something else."""

    def picture(self, path: Path) -> None:
        """Write a PNG: the image in grey with the tiles' borders, each tile in the colour of its
        route, dark where it is done already.
        """
        way = self.ways[0]
        grid = way.run.grid
        step = max(1, math.ceil(max(grid.shape[-2:]) / PICTURE_SIZE))
        shape = tuple(-(-n // step) for n in grid.shape[-2:])
        grey = backdrop(way.run, shape, step)
        shown = np.full((*shape, 3), 128, np.uint8) if grey is None else grey
        image = shown // 2 + 64
        for tile in range(len(grid)):
            core = grid.core(tile)
            ends = zip(core.start[-2:], core.stop[-2:], strict=True)
            rows, columns = (slice(start // step, -(-stop // step)) for start, stop in ends)
            route = int(way.run.routes[tile])
            image[rows, columns] = _tinted(image[rows, columns], route, done=tile in way.done)
            image[rows.start, columns] = 255
            image[rows, columns.start] = 255
        commit(path, to_png(image))


def foresee(job: Job, engine: Engine, *, sample: int = 0, watch: Watch = silent) -> Foresight:
    """Find out what a run would do.

    Parameters
    ----------
    job
        What to do.
    engine
        Where it would run.
    sample
        How many tiles to segment, twice, to tell the time and the disk that all take; 0: none. It
        wants the statistics of the image, which are found for it.
    watch
        Called with an `Event` whenever there is progress.

    Raises
    ------
    TilewiseError
        Whatever `pipeline.execution.planning.plan` refuses, and what a tile of the sample is
        refused for.
    """
    if remote(job.output.path):
        job = made_here(job)
    there = look(job)
    draft = plan(
        job,
        workers=engine.workers,
        memory=engine.memory,
        begun=there.settled(job),
        engine=engine,
    )
    found = there.compared(draft)
    refused = found.refusal or _refused_by_image(draft)
    goes_on = refused is None and found.state is State.BEGUN
    if goes_on and found.begun is not None:
        draft = draft.of(found.begun.run, found.begun.join)
    with tempfile.TemporaryDirectory(prefix="tilewise-") as folder:
        dispatcher = Dispatcher(engine, watch)
        run = replace(draft.run, scratch=Scratch(folder))
        if sample:
            run = prepare.fit(run, dispatcher)
        ways = tuple(_ways(run, draft, dispatcher, there=goes_on))
        facts = {
            "state": found.state.value if refused is None else "refused",
            **draft.facts(),
            "unmeasured": sampled(draft.source),
            **_counted(draft, ways),
        }
        if sample:
            facts |= _sampled(ways, sample, dispatcher, engine.workers)
    if refused is not None:
        facts["refused"] = str(refused)
    return Foresight(draft, ways, facts, refused)


def _refused_by_image(draft: Plan) -> TilewiseError | None:
    """Why labels cannot go into the image; None if they can, or need not."""
    if draft.nest is None:
        return None
    try:
        draft.nest.refuse()
    except (JobError, OutputError) as error:
        return error
    return None


def _ways(run: Run, draft: Plan, dispatcher: Dispatcher, *, there: bool) -> list[Way]:
    """The routes of a run, or of each of its layers.

    Parameters
    ----------
    run
        The run with a scratch store for this only.
    draft
        The plan, with the scratch store of a run that was begun, if there is one.
    dispatcher
        Who finds the routes.
    there
        Whether a run was begun, and goes on.
    """
    if not draft.job.layers:
        return [_way(run, draft.run, draft.job.route, dispatcher, there=there)]
    pairs = zip(
        overlay.sheets(run, draft.job.layers),
        overlay.sheets(draft.run, draft.job.layers),
        strict=True,
    )
    return [
        _way(mine.run, begun.run, [mine.layer.rule], dispatcher, there=there)
        for mine, begun in pairs
    ]


def _way(
    run: Run, begun: Run, rules: Sequence[Rule], dispatcher: Dispatcher, *, there: bool
) -> Way:
    """Route a run by some rules; its tiles in the store of ``begun`` are done, if it is there."""
    routed = prepare.route(run, rules, dispatcher)
    segmented = np.flatnonzero(routed.routes >= FIRST).tolist() if there else []
    done = frozenset(tile for tile in segmented if begun.scratch.has(record_key(tile)))
    return Way(routed, done, ("empty", SKIP, *(method.name for method in routed.methods)))


def _counted(draft: Plan, ways: Sequence[Way]) -> dict[str, Any]:
    """Tiles by route and how many of them are done, and the most that labels take on disk."""
    routes: dict[str, dict[str, Any]] = {}
    for way in ways:
        for number, name in enumerate(way.names):
            tiles = way.tiles(number)
            if tiles and number >= FIRST:
                routes[name] = {
                    "tiles": len(tiles),
                    "done": len(way.done.intersection(tiles)),
                    "colour": "#" + bytes(_colour(number).tolist()).hex(),
                }
            elif tiles:
                routes.setdefault(name, {"tiles": len(tiles)})
    return {"routes": routes, "disk": _disk(draft, len(ways))}


def _disk(draft: Plan, ways: int) -> dict[str, int]:
    """The most bytes that the result and the scratch store take: 4 for a label, 1 for a class."""
    output = draft.job.output
    pixels = draft.source.frame.pixels
    sizes = [4 if result == "instance" else 1 for result in draft.results if result != "panoptic"]
    rasters = sum(sizes) * len({"zarr", *output.labels})
    if output.into_source:
        rasters += sizes[0]
    return {"output_at_most": int(PYRAMID * rasters * pixels), "scratch_at_most": 4 * pixels * ways}


def _sampled(
    ways: Sequence[Way], sample: int, dispatcher: Dispatcher, workers: int
) -> dict[str, Any]:
    """The seconds that segmenting takes and the bytes that it leaves in the scratch store, by what
    a sample of the tiles of each route took.

    Parameters
    ----------
    ways
        Where the tiles go.
    sample
        How many tiles to segment in all; of each route at least one.
    dispatcher
        Who segments them.
    workers
        How many tasks run at once.
    """
    kinds = [
        (way, number)
        for way in ways
        for number in range(FIRST, len(way.names))
        if way.tiles(number)
    ]
    work = 0.0
    disk = 0.0
    told = {}
    for way, number in kinds:
        tiles = way.tiles(number)
        chosen = _spread(tiles, max(1, sample // len(kinds)))
        seconds, size = np.mean(_trials(way.run, chosen, dispatcher), axis=0).tolist()
        work += seconds * (len(tiles) - len(way.done.intersection(tiles)))
        disk += size * len(tiles)
        told[way.names[number]] = {"tiles": len(chosen), "seconds_per_tile": round(seconds, 3)}
    return {
        "sample": told,
        "seconds_of_segmenting": round(work / workers, 1),
        "disk_of_scratch": int(disk),
    }


def _spread(tiles: Sequence[int], most: int) -> list[int]:
    """At most so many tiles, spread evenly."""
    at = np.linspace(0, len(tiles) - 1, most).round().astype(int)
    return [tiles[k] for k in np.unique(at)]


def _trials(run: Run, tiles: Sequence[int], dispatcher: Dispatcher) -> list[tuple[float, int]]:
    """What `trial` finds for some tiles. TilesError if one fails."""
    found = []
    work = dispatcher.engine.run(trial, run, tiles, needs=run.needs, label="sample")
    with closing(work) as outcomes:
        for outcome in outcomes:
            if outcome.error:
                raise TilesError(f"{run.grid.name(outcome.item)} of the sample: {outcome.error}")
            if outcome.value:
                found.append(outcome.value)
    return found


def trial(run: Run, tile: int) -> tuple[float, int]:
    """Segment a tile twice and leave nothing: the seconds of the second time, and the bytes that it
    would leave in the scratch store.
    """
    with tempfile.TemporaryDirectory(prefix="tilewise-") as folder:
        own = replace(run, scratch=Scratch(folder, new_name()))
        segment(own, tile)  # what is imported, compiled and loaded once is not the tile's
        seconds = segment(own, tile)["seconds"]
        records = [
            path for kind in ("tiles", "pixels") for path in Path(folder).rglob(f"{kind}/**/*.rec")
        ]
        return seconds, sum(path.stat().st_size for path in records)


def _colour(route: int) -> npt.NDArray[np.uint8]:
    return np.asarray(colours(np.array([route]))[0])


def _tinted(part: npt.NDArray[np.uint8], route: int, *, done: bool) -> npt.NDArray[np.uint8]:
    """A tile of the picture in its route's colour; only darker where nothing is segmented."""
    if route in (EMPTY, SKIPPED):
        return part // 2
    mixed = (part.astype(np.uint16) + _colour(route)) // 2
    shown = mixed // 2 if done else mixed
    return shown.astype(np.uint8)
