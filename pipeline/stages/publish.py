"""Final labels, one tile at a time, into arrays that nobody sees until all is there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.grid import Box
from pipeline.sinks.pyramid import Mask, Pyramid
from pipeline.stages import EMPTY, FIRST, Run, pixels_key, table_key


@dataclass(frozen=True, slots=True)
class Publication:
    """Where a run's labels go."""

    run: Run
    pyramid: Pyramid
    mask: Mask | None
    """Which pixels are valid; None where all are."""

    level: int = 0
    blocks: tuple[Box, ...] = ()
    """The pieces of work of one level of the pyramid above the first."""


def tiles(run: Run, *, mask: bool) -> list[int]:
    """The tiles that have something to write: labels, or valid pixels."""
    return np.flatnonzero(run.routes > EMPTY if mask else run.routes >= FIRST).tolist()


def publish(work: Publication, tile: int) -> None:
    """Write a tile's labels under their final ids, and which of its pixels are valid."""
    run, core = work.run, work.run.grid.core(tile)
    if run.routes[tile] >= FIRST:
        ids = run.scratch.load(table_key(tile), "ids")[1]["ids"]
        labels = run.scratch.load(pixels_key(tile), "labels")[1]["labels"]
        work.pyramid.write(core, ids.astype(work.pyramid.dtype)[labels])
    if work.mask is not None:
        work.mask.write(core, _valid(run, tile, core))


def reduce(work: Publication, block: int) -> None:
    """Write one block of a level of the pyramid from the level below it."""
    work.pyramid.reduce(work.level, work.blocks[block])


def _valid(run: Run, tile: int, core: Box) -> npt.NDArray[np.bool_]:
    if run.routes[tile] < FIRST:
        return run.read(core)[1]
    facts, _ = run.scratch.load(pixels_key(tile))
    if facts["valid"]:
        return np.ones(core.shape, bool)
    packed = run.scratch.load(pixels_key(tile), "valid")[1]["valid"]
    return np.unpackbits(packed, count=core.size).reshape(core.shape).astype(bool)
