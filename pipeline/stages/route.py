"""Routes of tiles: to a segmenter, empty without valid pixels, or skipped by a rule.

Routes are decided before segmenting, because a task's resources must be known when it is submitted.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.jobs.routing import GLANCE, SKIP, Rule, choose
from pipeline.sources import where_measured
from pipeline.sources.unmeasured import Counts, added, unmeasured
from pipeline.stages import EMPTY, FIRST, SKIPPED, Run
from pipeline.stages.tissue import Tissue, tissue, wanted
from pipeline.storage.records import Arrays

KEY = "routes"


@dataclass(frozen=True, slots=True)
class Routing:
    """The run and the rules by which its tiles are routed."""

    run: Run
    rules: tuple[Rule, ...]
    batches: tuple[range, ...]
    tissue: Tissue | None = None
    """The tissue mask, if a rule asks for it."""

    def number(self, use: str) -> int:
        """A route's number in `Run.routes`, from the name in a rule."""
        names = [method.name for method in self.run.methods]
        return SKIPPED if use == SKIP else FIRST + names.index(use)


def needed(run: Run, rules: Sequence[Rule]) -> bool:
    """Whether tiles must be read: some may be empty, or a rule asks for a trait."""
    frame = run.source.frame
    return (
        frame.masked
        or frame.nodata is not None
        or np.dtype(frame.dtype).kind == "f"
        or any(rule.when for rule in rules)
    )


def routing(run: Run, rules: Sequence[Rule], batches: tuple[range, ...]) -> Routing:
    """The work of routing, with what is computed once for the image."""
    return Routing(run, tuple(rules), batches, tissue(run) if wanted(rules) else None)


def routes(plan: Routing, batch: int) -> list[tuple[int, Counts]]:
    """The route of each tile of a batch, and what was not measured of empty tiles, which are not
    read again.
    """
    return [_route(plan, tile) for tile in plan.batches[batch]]


def save(run: Run, routed: Sequence[tuple[int, Counts]]) -> None:
    """Save the routes of all tiles.

    What was not measured of empty tiles is stored once for equal ones.
    """
    told = [json.dumps(lost, sort_keys=True) for _, lost in routed]
    kinds = sorted(set(told))
    number = {text: k for k, text in enumerate(kinds)}
    arrays: Arrays = {
        "routes": np.array([route for route, _ in routed], np.int16),
        "lost": np.array([number[text] for text in told], np.int32),
    }
    run.scratch.save(KEY, {"lost": [json.loads(text) for text in kinds]}, arrays)


def lost(run: Run, tiles: Sequence[int]) -> Counts:
    """What was not measured of empty tiles."""
    facts, found = run.scratch.load(KEY, "lost")
    many = np.bincount(found["lost"][list(tiles)], minlength=len(facts["lost"])).tolist()
    return added(
        {why: [n * times for n in counts] for why, counts in facts["lost"][k].items()}
        for k, times in enumerate(many)
        if times
    )


def all_alike(plan: Routing) -> list[tuple[int, Counts]]:
    """The routes if no tile needs to be read."""
    return [(plan.number(plan.rules[0].use if plan.rules else SKIP), {})] * len(plan.run.grid)


def _route(plan: Routing, tile: int) -> tuple[int, Counts]:
    core = plan.run.grid.core(tile)
    source = plan.run.source
    step = max(1, -(-max(core.shape) // GLANCE))
    glance = source.glance(core, step)
    measured = where_measured(source, core, glance, step)
    valid = plan.run.valid(measured)
    if not valid.any():
        block, known = plan.run.read(core)
        if not plan.run.valid(known).any():
            return EMPTY, unmeasured(source, core, block, known)
    given = {"valid": float(valid.mean())} | (
        {} if plan.tissue is None else {"tissue": plan.tissue.share(core)}
    )
    return plan.number(choose(plan.rules, glance, measured, given)), {}
