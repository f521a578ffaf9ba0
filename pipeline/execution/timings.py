"""The tiles, pixels and seconds that each route took, and the seconds that the slowest route would
have taken for the whole image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.engine import Outcome
from pipeline.image.grid import Grid
from pipeline.jobs.routing import SKIP
from pipeline.stages import EMPTY, FIRST, SKIPPED, Run
from pipeline.stages.overlay import drawers, sheets_of
from pipeline.stages.segment import Segmented

UNLIKE = (
    "processors or libraries that may differ in the last digit drew it, so nothing of it is "
    "proved; run.json lists them (processors)"
)
"""The remark on a route that `Run.mixed` names."""


@dataclass(frozen=True, slots=True)
class Clock:
    """The seconds that tiles took in this run. Tiles that an earlier run segmented before it was
    interrupted have no time.
    """

    seconds: dict[str, dict[int, float]] = field(default_factory=dict)
    """By route and tile."""

    told: dict[str, set[str]] = field(default_factory=dict)
    """By route, the remarks of its segmenter: what it did otherwise than the job asked."""

    def add(self, run: Run, outcome: Outcome[Segmented]) -> None:
        """Add the time of a tile that was segmented, perhaps again in a larger window."""
        if outcome.value is None:
            return
        name = run.method(outcome.item).name
        tiles = self.seconds.setdefault(name, {})
        tiles[outcome.item] = tiles.get(outcome.item, 0.0) + outcome.value["seconds"]
        if outcome.value["told"]:
            self.told.setdefault(name, set()).update(outcome.value["told"])


def routes(run: Run, clock: Clock) -> dict[str, dict[str, Any]]:
    """What each route took; where a job has layers, what each layer took.

    Returns
    -------
    dict
        By route: ``tiles``; ``pixels`` of the tiles' cores; for a segmenter ``seconds``, added over
        all workers, of the tiles segmented in this run, and ``timed``, the number of these tiles;
        ``told``, the segmenter's remarks, if there are any.
    """
    size = _sizes(run.grid)
    runs = [(sheet.layer.use, sheet.run.routes >= FIRST) for sheet in sheets_of(run)]
    runs = runs or [
        (method.name, run.routes == FIRST + number) for number, method in enumerate(run.methods)
    ]
    found = {
        name: _counted(run.routes == route, size)
        for name, route in (("empty", EMPTY), (SKIP, SKIPPED))
    }
    unlike = {each.methods[route - FIRST].name for each in drawers(run) for route in each.mixed()}
    for name, mine in runs:
        spent = clock.seconds.get(name, {})
        found[name] = {
            **_counted(mine, size),
            "seconds": round(sum(spent.values()), 3),
            "timed": len(spent),
        }
        if told := sorted(clock.told.get(name, ())) + [UNLIKE] * (name in unlike):
            found[name]["told"] = told
    return found


def dearest(run: Run, clock: Clock) -> dict[str, Any] | None:
    """The ``route`` that took the most seconds for a pixel, and the ``seconds`` that it would have
    taken for all tiles with a valid pixel.

    None where nothing was timed, and for layers, each of which takes every tile.
    """
    size = _sizes(run.grid)
    names = [method.name for method in run.methods if clock.seconds.get(method.name)]
    if sheets_of(run) or not names:
        return None
    pace = {
        name: sum(clock.seconds[name].values()) / int(size[list(clock.seconds[name])].sum())
        for name in names
    }
    route = max(names, key=pace.__getitem__)
    return {"route": route, "seconds": round(pace[route] * int(size[run.routes != EMPTY].sum()), 3)}


def lines(record: Mapping[str, Any]) -> list[str]:
    """A record's routes in words: a line for each route, if tiles took different ones, and a line
    for each remark of a segmenter.
    """
    taken = {name: facts for name, facts in record["routes"].items() if facts["tiles"]}
    told = [
        f"  {name:16} {what}" for name, facts in taken.items() for what in facts.get("told", ())
    ]
    if len(taken.keys() - {"empty"}) < 2:
        return told
    found = [
        f"  {name:16} {facts['tiles']:,} tiles, {facts['pixels'] / 1e6:,.1f} Mpx{_spent(facts)}"
        for name, facts in taken.items()
    ]
    if most := record["dearest"]:
        found.append(
            f"  {most['route']} everywhere would have taken about {most['seconds']:,.1f} s"
        )
    return found + told


def _spent(facts: Mapping[str, Any]) -> str:
    if not facts.get("timed"):
        return ""
    some = f" ({facts['timed']:,} of them in this run)" if facts["timed"] < facts["tiles"] else ""
    return f", {facts['seconds']:,.1f} s{some}"


def _counted(mine: npt.NDArray[np.bool_], size: npt.NDArray[np.int64]) -> dict[str, Any]:
    return {"tiles": int(mine.sum()), "pixels": int(size[mine].sum())}


def _sizes(grid: Grid) -> npt.NDArray[np.int64]:
    """The pixels of each tile's core: (tile,)."""
    extents = [
        np.minimum(tile, extent - tile * np.arange(count))
        for tile, extent, count in zip(grid.tile, grid.shape, grid.counts, strict=True)
    ]
    return reduce(np.multiply.outer, extents).ravel().astype(np.int64)
