"""What ``run.json`` says of a run."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from pipeline.execution import timings
from pipeline.execution.dispatch import Dispatcher
from pipeline.execution.planning import Plan
from pipeline.image.legend import legend
from pipeline.stages import FIRST, Run, commit, fit, overlay, processors, repair
from pipeline.stages.group import Grouping


def facts(
    run: Run, draft: Plan, dispatcher: Dispatcher, missing: list[dict[str, Any]]
) -> dict[str, Any]:
    """What it says of any run, complete or not.

    Parameters
    ----------
    run
        The run that draws the result: routed, or the one that lays layers over each other.
    draft
        The plan.
    dispatcher
        Who did it, with the seconds that tiles took.
    missing
        The tiles without a result, as `commit.missing` tells them.
    """
    drawers = overlay.drawers(run)
    fitted = {name: what for each in drawers for name, what in fit.found(draft.run, each).items()}
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
        "routes": timings.routes(run, dispatcher.clock),
        "dearest": timings.dearest(run, dispatcher.clock),
        "repairs": [told for each in drawers for told in repair.tally(each)],
        "fitted": fitted,
        "job": draft.job.plain(),
        "plan": draft.facts(),
        **draft.terms(),
    }


def of_result(
    run: Run,
    draft: Plan,
    dispatcher: Dispatcher,
    objects: Grouping,
    lost: Mapping[int, str],
    measured: Mapping[str, Any],
) -> dict[str, Any]:
    """What it says of a run that is published.

    Parameters
    ----------
    run, draft, dispatcher
        As for `facts`.
    objects
        The run's objects.
    lost
        By tile why it could not be read; with any, the result is not complete.
    measured
        The objects' certificates, and what was not measured, from `staging.write_products`.
    """
    output = draft.job.output
    named = legend(objects.classes, output.legend) if "semantic" in draft.results else {}
    told = {
        "complete": not lost,
        "objects": objects.objects,
        **measured,
        "seconds": round(time.monotonic() - dispatcher.started, 3),
        "results": draft.results,
        "legend": {number: entry.plain() for number, entry in named.items()},
    }
    return told | facts(run, draft, dispatcher, commit.missing(run, lost))
