"""Repair of disputed seams: the tiles on either side are segmented again in windows twice as large,
then compared and joined anew.

A dispute is settled where the larger windows hold an object that the smaller ones cut, or where
both draw the same pixels in them. The size of each window is recorded before any tile is segmented
again, so that a run that dies goes on with the same windows.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np

from pipeline.stages import Run
from pipeline.stages.group import Grouping


def repair_key(number: int) -> str:
    """The key of the record with the tiles of a round of repairs."""
    return f"repairs/{number}"


def rounds(run: Run) -> int:
    """The number of rounds begun."""
    return next(number for number in itertools.count() if not run.scratch.has(repair_key(number)))


def widened(run: Run) -> Run:
    """The run with each tile's window as large as the rounds that were begun make it."""
    times = np.zeros(len(run.grid), np.int8)
    for number in range(rounds(run)):
        times[run.scratch.load(repair_key(number), "tiles")[1]["tiles"]] += 1
    return replace(run, widenings=times)


def begin(run: Run, grouping: Grouping, most: int) -> bool:
    """Record the next round of repairs, if there is one.

    Parameters
    ----------
    run
        The run that was grouped.
    grouping
        Its objects, and the tiles whose seams are disputed.
    most
        How many rounds the job allows.

    Returns
    -------
    bool
        Whether tiles are to be segmented again: fewer than ``most`` rounds have been, and larger
        windows may settle a dispute.
    """
    number = rounds(run)
    disputed = set(grouping.disputed.tolist())
    tiles = sorted(tile for tile in disputed if _may_help(run, tile, disputed))
    if number >= most or not tiles:
        return False
    facts = {"disputed": grouping.disputes}
    run.scratch.save(repair_key(number), facts, {"tiles": np.array(tiles, np.int64)})
    return True


def tally(run: Run) -> list[dict[str, int]]:
    """By round: the number of disputed objects before it, and of tiles segmented again."""
    found = (run.scratch.load(repair_key(number), "tiles") for number in range(rounds(run)))
    return [
        {"disputed": facts["disputed"], "tiles": len(arrays["tiles"])} for facts, arrays in found
    ]


def _may_help(run: Run, tile: int, disputed: set[int]) -> bool:
    """Whether a larger window may settle a tile's dispute: its window is not the whole image yet,
    and a disputed neighbour has the same method. Different methods differ in windows of any size.
    """
    alike = any(
        run.routes[other] == run.routes[tile]
        for other in run.grid.neighbours(tile)
        if other in disputed
    )
    return alike and run.limit(tile) != run.grid.whole
