"""Repair of disputed seams: the tiles on either side are drawn and joined again with doubled
windows.

A dispute is settled if the larger windows hold what the smaller ones cut, or draw the same pixels.
The windows of each tile are recorded before any tile is drawn again, so an interrupted run
continues with the same windows.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np

from pipeline.stages import Run
from pipeline.stages.group import Grouping


def repair_key(number: int) -> str:
    """Key of the tiles of a round of repairs."""
    return f"repairs/{number}"


def rounds(run: Run) -> int:
    """The number of rounds begun."""
    return next(number for number in itertools.count() if not run.scratch.has(repair_key(number)))


def widened(run: Run) -> Run:
    """The run with the windows of all rounds begun."""
    times = np.zeros(len(run.grid), np.int8)
    for number in range(rounds(run)):
        times[run.scratch.load(repair_key(number), "tiles")[1]["tiles"]] += 1
    return replace(run, widenings=times)


def begin(run: Run, grouping: Grouping, most: int) -> bool:
    """Record the next round, if larger windows may settle a dispute, and there were fewer than
    ``most`` rounds.
    """
    number, disputed = rounds(run), set(grouping.disputed.tolist())
    tiles = sorted(tile for tile in disputed if _may_help(run, tile, disputed))
    if number >= most or not tiles:
        return False
    run.scratch.save(
        repair_key(number), {"disputed": grouping.disputes}, {"tiles": np.array(tiles, np.int64)}
    )
    return True


def tally(run: Run) -> list[dict[str, int]]:
    """By round: the disputed objects before it, and the tiles drawn again."""
    found = (run.scratch.load(repair_key(number), "tiles") for number in range(rounds(run)))
    return [
        {"disputed": facts["disputed"], "tiles": len(arrays["tiles"])} for facts, arrays in found
    ]


def _may_help(run: Run, tile: int, disputed: set[int]) -> bool:
    """Whether a tile sees less than the image, and disputes with one of the same method.

    Another method draws differently in any window.
    """
    alike = any(
        run.routes[other] == run.routes[tile]
        for other in run.grid.neighbours(tile)
        if other in disputed
    )
    return alike and run.limit(tile) != run.grid.whole
