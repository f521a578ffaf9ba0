"""Where each tile goes: to a segmenter, nowhere because it has no valid pixel, or nowhere because a rule says so.

Decided before anything is submitted, since a task's resources must be known by then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.routing import GLANCE, SKIP, Rule, choose
from pipeline.sources import where_measured
from pipeline.stages import EMPTY, FIRST, SKIPPED, Run
from pipeline.stages.tissue import Tissue, tissue, wanted


@dataclass(frozen=True, slots=True)
class Plan:
    """The run and the rules by which its tiles are routed."""

    run: Run
    rules: tuple[Rule, ...]
    batches: tuple[range, ...]
    tissue: Tissue | None = None
    """Where it is, if a rule asks for that."""

    def number(self, use: str) -> int:
        """A route's number in `Run.routes`, from the name that a rule gives."""
        names = [method.name for method in self.run.methods]
        return SKIPPED if use == SKIP else FIRST + names.index(use)


def needed(run: Run, rules: Sequence[Rule]) -> bool:
    """Whether tiles must be looked at: some may be empty, or a rule asks for a trait."""
    frame = run.source.frame
    return frame.masked or frame.nodata is not None or np.dtype(frame.dtype).kind == "f" or any(rule.when for rule in rules)


def routing(run: Run, rules: Sequence[Rule], batches: tuple[range, ...]) -> Plan:
    """The work of routing, with what is looked up once for the whole image."""
    return Plan(run, tuple(rules), batches, tissue(run) if wanted(rules) else None)


def routes(plan: Plan, batch: int) -> list[int]:
    """The routes of a batch of tiles, as in `Run.routes`."""
    return [_route(plan, tile) for tile in plan.batches[batch]]


def all_alike(plan: Plan) -> np.ndarray[tuple[int], np.dtype[np.int16]]:
    """The routes of all tiles where none needs to be looked at."""
    use = plan.rules[0].use if plan.rules else SKIP
    return np.full(len(plan.run.grid), plan.number(use), np.int16)


def _route(plan: Plan, tile: int) -> int:
    core, source = plan.run.grid.core(tile), plan.run.source
    step = max(1, -(-max(core.shape) // GLANCE))
    glance = source.glance(core, step)
    measured = where_measured(source, core, glance, step)
    valid = plan.run.valid(measured)
    if not valid.any() and not plan.run.valid(plan.run.read(core)[1]).any():
        return EMPTY
    given = {"valid": float(valid.mean())} | ({} if plan.tissue is None else {"tissue": plan.tissue.share(core)})
    return plan.number(choose(plan.rules, glance, measured, given))
