"""What a run would do, found out without doing it: what lies in the output already, where each tile
goes, what it takes of memory and disk, and, from some tiles that are segmented for it, of time.
Nothing is left behind.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.engine import Engine
from pipeline.errors import JobError, OutputError, ResumeError, TilesError, TilewiseError
from pipeline.execution import prepare, resume
from pipeline.execution.dispatch import Crew
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
    """Where the tiles of an image go; of layers, of one of them."""

    run: Run
    """Routed."""

    done: frozenset[int]
    """The tiles that a run before has segmented."""

    names: tuple[str, ...]
    """By number in the run's routes."""

    def tiles(self, route: int) -> list[int]:
        """The tiles that go there."""
        return np.flatnonzero(self.run.routes == route).tolist()


@dataclass(frozen=True, slots=True)
class Foresight:
    """What a run would do."""

    draft: Plan
    ways: tuple[Way, ...]
    facts: dict[str, Any]
    """In plain words and numbers."""

    refused: TilewiseError | None = None
    """Why it would be refused, though it can be planned: the output is another's, or was begun
    otherwise.
    """

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
            rows, columns = (
                slice(a // step, -(-b // step))
                for a, b in zip(core.start[-2:], core.stop[-2:], strict=True)
            )
            image[rows, columns] = _tinted(
                image[rows, columns], int(way.run.routes[tile]), done=tile in way.done
            )
            image[rows.start, columns] = image[rows, columns.start] = 255
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
        Told of progress.

    Raises
    ------
    TilewiseError
        Whatever `pipeline.execution.planning.plan` refuses, and what a tile of the sample is
        refused for.
    """
    job, refused = made_here(job) if remote(job.output.path) else job, None
    before = resume.begun(job)
    draft = plan(job, workers=engine.workers, memory=engine.memory, begun=before, engine=engine)
    try:
        complete = resume.finished(draft)
        begun = None if complete else resume.going_on(draft)
        state = "complete" if complete else "begun" if begun else "new"
        draft = draft.of(begun.run, begun.join) if begun else draft
        resume.refuse_taken(draft)
    except (JobError, OutputError, ResumeError) as error:
        state, refused = "refused", error
    with tempfile.TemporaryDirectory(prefix="tilewise-") as folder:
        crew = Crew(engine, watch)
        run = replace(draft.run, scratch=Scratch(folder))
        run = prepare.fit(run, crew) if sample else run
        ways = tuple(_ways(run, draft, crew, there=state == "begun"))
        found = {
            "state": state,
            **draft.facts(),
            "unmeasured": sampled(draft.source),
            **_counted(draft, ways),
        }
        if sample:
            found |= _sampled(ways, sample, crew, engine.workers)
    return Foresight(draft, ways, found | ({"refused": str(refused)} if refused else {}), refused)


def _ways(run: Run, draft: Plan, crew: Crew, *, there: bool) -> list[Way]:
    """The routes of a run, or of each of its layers."""
    job, found = draft.job, []
    sheets: Sequence[tuple[Run, Run, list[Rule]]] = [(run, draft.run, job.route)]
    if job.layers:
        pairs = zip(
            overlay.sheets(run, job.layers), overlay.sheets(draft.run, job.layers), strict=True
        )
        sheets = [(mine.run, old.run, [mine.layer.rule]) for mine, old in pairs]
    for mine, old, rules in sheets:
        routed = prepare.route(mine, rules, crew)
        done = (
            [
                t
                for t in np.flatnonzero(routed.routes >= FIRST).tolist()
                if old.scratch.has(record_key(t))
            ]
            if there
            else []
        )
        found.append(
            Way(
                routed,
                frozenset(done),
                ("empty", SKIP, *(method.name for method in routed.methods)),
            )
        )
    return found


def _counted(draft: Plan, ways: Sequence[Way]) -> dict[str, Any]:
    """Tiles by route and how many of them are done, and the most that labels take on disk."""
    routes: dict[str, dict[str, Any]] = {}
    for way in ways:
        for number, name in enumerate(way.names):
            tiles = way.tiles(number)
            if tiles and number >= FIRST:
                colour = "#" + bytes(_colour(number).tolist()).hex()
                routes[name] = {
                    "tiles": len(tiles),
                    "done": len(way.done.intersection(tiles)),
                    "colour": colour,
                }
            elif tiles:
                routes.setdefault(name, {"tiles": len(tiles)})
    pixels = draft.source.frame.pixels
    output, sizes = (
        draft.job.output,
        [4 if result == "instance" else 1 for result in draft.results if result != "panoptic"],
    )
    rasters = sum(sizes) * len({"zarr", *output.labels}) + (sizes[0] if output.into_source else 0)
    return {
        "routes": routes,
        "disk": {
            "output_at_most": int(PYRAMID * rasters * pixels),
            "scratch_at_most": 4 * pixels * len(ways),
        },
    }


def _sampled(ways: Sequence[Way], sample: int, crew: Crew, workers: int) -> dict[str, Any]:
    """The seconds that segmenting takes, by what a sample of tiles of each route took; and what
    they leave in the scratch store.
    """
    kinds = [
        (way, number)
        for way in ways
        for number in range(FIRST, len(way.names))
        if way.tiles(number)
    ]
    work, disk, told = 0.0, 0.0, {}
    for way, number in kinds:
        tiles = way.tiles(number)
        chosen = [
            tiles[k]
            for k in np.unique(
                np.linspace(0, len(tiles) - 1, max(1, sample // len(kinds))).round().astype(int)
            )
        ]
        trials = list(crew.engine.run(trial, way.run, chosen, needs=way.run.needs, label="sample"))
        if failed := next((one for one in trials if one.error), None):
            raise TilesError(f"{way.run.grid.name(failed.item)} of the sample: {failed.error}")
        values = [one.value for one in trials if one.value]
        seconds, size = (float(np.mean([value[k] for value in values])) for k in (0, 1))
        work, disk = (
            work + seconds * (len(tiles) - len(way.done.intersection(tiles))),
            disk + size * len(tiles),
        )
        told[way.names[number]] = {"tiles": len(chosen), "seconds_per_tile": round(seconds, 3)}
    return {
        "sample": told,
        "seconds_of_segmenting": round(work / workers, 1),
        "disk_of_scratch": int(disk),
    }


def trial(run: Run, tile: int) -> tuple[float, int]:
    """Segment a tile twice and leave nothing: the seconds of the second time, and the bytes that it
    would leave in the scratch store.
    """
    with tempfile.TemporaryDirectory(prefix="tilewise-") as folder:
        own = replace(run, scratch=Scratch(folder, new_name()))
        segment(own, tile)  # what is imported, compiled and loaded once is not the tile's
        seconds = segment(own, tile)["seconds"]
        return seconds, sum(
            path.stat().st_size
            for kind in ("tiles", "pixels")
            for path in Path(folder).rglob(f"{kind}/**/*.rec")
        )


def _colour(route: int) -> npt.NDArray[np.uint8]:
    return np.asarray(colours(np.array([route]))[0])


def _tinted(part: npt.NDArray[np.uint8], route: int, *, done: bool) -> npt.NDArray[np.uint8]:
    """A tile of the picture: as it is where nothing is segmented, else in its route's colour."""
    if route in (EMPTY, SKIPPED):
        return part // 2
    mixed = (part.astype(np.uint16) + _colour(route)) // 2
    return (mixed // 2 if done else mixed).astype(np.uint8)
