"""Label all tiles of a run: segment each, compare neighbours, and settle which labels are one
object. Every step skips what the scratch store holds already.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np

from pipeline.engine import Outcome
from pipeline.errors import OutputError, SegmenterError, TilesError
from pipeline.execution import output_layout, record
from pipeline.execution.dispatch import Dispatcher
from pipeline.execution.planning import Plan
from pipeline.execution.result import Event
from pipeline.image.legend import MOST
from pipeline.jobs.job import Output
from pipeline.stages import Run, commit, products, record_key, repair, sound
from pipeline.stages import group as grouping
from pipeline.stages import link as linking
from pipeline.stages.group import Grouping
from pipeline.stages.segment import Segmented, order
from pipeline.stages.segment import segment as segment_tile
from pipeline.storage.run_record import RECORD

PATIENCE = 8
"""When this many tiles that could be read have failed and none has succeeded, the segmenter is at
fault and not the tiles.
"""
NAMED = 3
"""How many of the tiles that failed a message names."""


@dataclass(frozen=True, slots=True)
class Failures:
    """The tiles that failed, each with its reason."""

    run: Run
    total: int
    """How many tiles are segmented."""
    every: dict[int, str] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)
    """Those that could be read: their segmenter failed."""

    def add(self, outcome: Outcome[Segmented]) -> None:
        """Take in one outcome."""
        if outcome.error is not None:
            self.every[outcome.item] = outcome.error
            if not outcome.unread:
                self.refused[outcome.item] = outcome.error

    def stop_if_hopeless(self, done: int) -> None:
        """SegmenterError if all of the ``done`` tiles failed, and enough of them or all."""
        if not self.refused or len(self.every) < done:
            return
        if len(self.refused) >= PATIENCE or done == self.total:
            tile, why = next(iter(self.refused.items()))
            raise SegmenterError(f"no tile succeeded: {self.run.grid.name(tile)}: {why}")

    def __str__(self) -> str:
        """The first of them by name, and how many more there are."""
        first = sorted(self.every)[:NAMED]
        named = "; ".join(f"{self.run.grid.name(tile)}: {self.every[tile]}" for tile in first)
        more = len(self.every) - len(first)
        return f"{named}; and {more} more, all in {RECORD}" if more else named


def segment(run: Run, draft: Plan, dispatcher: Dispatcher) -> None:
    """Segment every tile that is neither empty nor skipped.

    Parameters
    ----------
    run
        The routed run.
    draft
        Its plan, for the record.
    dispatcher
        Who does it.

    Raises
    ------
    TilesError
        If some tiles fail; ``run.json`` lists them all.
    SegmenterError
        If no tile succeeds.
    """
    tiles = order(run)
    kept = _sound(run, tiles, dispatcher)
    todo = [tile for tile in tiles if tile not in kept]
    rounds = repair.rounds(run)
    stage = dispatcher.named(f"repair {rounds}" if rounds else "segment")
    event = Event(stage, len(kept), len(tiles), empty=len(run.grid) - len(tiles))
    failures = Failures(run, len(tiles))
    reserved = {name for tile in todo for name in run.needs(tile)}
    # closed at once if a tile ends the run: the engine sets back what Ctrl-C does
    with closing(
        dispatcher.engine.run(
            segment_tile, run, todo, needs=run.needs, reserved=reserved, label=stage
        )
    ) as outcomes:
        for outcome in outcomes:
            dispatcher.clock.add(run, outcome)
            event = event.after(outcome.value, run.grid.name(outcome.item), outcome.error)
            dispatcher.watch(event)
            failures.add(outcome)
            if outcome.error is not None:
                failures.stop_if_hopeless(event.done)
    if failures.every:
        _refuse(failures, draft, dispatcher)


def _sound(run: Run, tiles: Iterable[int], dispatcher: Dispatcher) -> set[int]:
    """The tiles that an earlier run has segmented, with undamaged records."""
    there = [tile for tile in tiles if run.scratch.has(record_key(tile))]
    return {tile for tile, good in dispatcher.each("check", sound, run, there) if good}


def _refuse(failures: Failures, draft: Plan, dispatcher: Dispatcher) -> None:
    """Write the record of a run that is not complete, and raise TilesError."""
    run = failures.run
    missing = commit.missing(run, failures.every)
    commit.leave_incomplete(draft.folder, record.facts(run, draft, dispatcher, missing))
    raise TilesError(
        f"{len(failures.every)} of {failures.total} tiles failed, so nothing is published: "
        f"{failures}. The same command tries them again{products.kept(draft.folder)}."
    )


def link(run: Run, dispatcher: Dispatcher) -> None:
    """Compare each tile that has labels with its neighbours."""
    todo = [tile for tile in linking.tiles(run) if not linking.linked(run, tile)]
    for _ in dispatcher.each("link", linking.link, run, todo):
        pass


def group(run: Run, output: Output, dispatcher: Dispatcher) -> Grouping:
    """Settle which labels are one object. OutputError if the objects or classes do not fit the
    output's type.
    """
    found = grouping.known(run)
    if found is None:
        dispatcher.watch(Event(dispatcher.named("group"), 0, 1))
        found = grouping.group(run)
        grouping.save(run, found)
        dispatcher.watch(Event(dispatcher.named("group"), 1, 1))
    dtype = output_layout.dtype(output)
    if dtype and found.objects > np.iinfo(dtype).max:
        raise OutputError(
            f"output.dtype: {found.objects} objects do not fit in {dtype}; allowed: uint64, "
            f"without ome-tiff"
        )
    if found.classes > MOST:
        raise OutputError(f"there are classes up to {found.classes}; allowed: {MOST}")
    return found
