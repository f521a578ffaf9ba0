"""Lines along curves, after publishing.

Each tile traces its own pixels; chains that cross tiles are joined once. These are held wholly, the
others one row of tiles at a time. So the file has the lines of the whole image, ordered by their
first pixels, for every tiling.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from pipeline.image.grid import Box
from pipeline.imageops.curves import SHUT, Chains, concatenate, join, trace
from pipeline.sinks.vector import Lines
from pipeline.stages import FIRST, Run
from pipeline.stages.publish import Publication

_FIELDS = tuple(Chains.__dataclass_fields__)


def lines_key(tile: int) -> str:
    """Key of the chains of a tile."""
    return f"lines/{tile // 1000}/{tile}"


def tiles(run: Run) -> list[int]:
    """The tiles with curves as objects."""
    curves = [FIRST + number for number, method in enumerate(run.methods) if method.contract.lines]
    return np.flatnonzero(np.isin(run.routes, curves)).tolist()


def trace_tile(work: Publication, tile: int) -> int:
    """Trace the curves of a tile, and write its chains, open ones apart; returns their number."""
    assert work.labels is not None  # noqa: S101  the plan refuses curves without objects
    run = work.run
    core = work.run.grid.core(tile)
    around = core.grow(1)
    window = around & run.grid.whole
    labels = work.labels.read(window)
    for other in run.grid.neighbours(tile):
        if run.routes[other] < FIRST or not run.method(other).contract.lines:
            labels[(run.grid.core(other) & window).within(window)] = 0
    top, left = core.start
    chains = trace(_padded(labels, window, around), (top, left), run.grid.shape[1])
    whole, on = (chains.take(np.flatnonzero(chains.open == going)) for going in (False, True))
    parts = {"": whole, "open ": on}
    run.joined.save(
        lines_key(tile),
        {},
        {f"{kind}{name}": getattr(part, name) for kind, part in parts.items() for name in _FIELDS},
    )
    return len(chains)


def lines(run: Run) -> Iterator[Lines]:
    """Yield the lines of the image by their first pixels, then second pixels, a row of tiles at a
    time.
    """
    every = tiles(run)
    crossing = _joined(concatenate([_load(run, tile, "open ") for tile in every]))
    row = crossing.keys[0] // run.grid.shape[1]
    mine = set(every)
    for slab in run.grid.slabs():
        low = run.grid.core(slab[0]).start[0]
        high = run.grid.core(slab[0]).stop[0]
        begun = crossing.take(np.flatnonzero((row >= low) & (row < high)))
        found = concatenate([begun, *(_load(run, tile, "") for tile in slab if tile in mine)])
        first, second = found.keys
        found = found.take(np.lexsort((second, first)))
        yield Lines(found.pixels, found.start, found.label)


def _padded(labels: npt.NDArray[np.integer], window: Box, around: Box) -> npt.NDArray[np.int64]:
    """Labels padded with 0 beyond the image."""
    full = np.zeros(around.shape, np.int64)
    full[window.within(around)] = labels
    return full


def _load(run: Run, tile: int, kind: str) -> Chains:
    found = run.joined.load(lines_key(tile), *(f"{kind}{name}" for name in _FIELDS))[1]
    return Chains(**{name: found[f"{kind}{name}"] for name in _FIELDS})


def _joined(parts: Chains) -> Chains:
    chains = list(join(parts))
    start = np.cumsum([0, *(len(pixels) for pixels, _ in chains)]).astype(np.int64)
    pixels = np.concatenate([np.zeros(0, np.int64), *(pixels for pixels, _ in chains)])
    return Chains(
        pixels,
        start,
        np.array([label for _, label in chains], np.int64),
        np.full((len(chains), 2), SHUT, np.int64),
    )
