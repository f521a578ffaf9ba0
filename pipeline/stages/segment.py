"""Segment one tile: read its window, draw its labels, and write what later stages need.

How labels are drawn depends on what makes pixels one object: see `connected_pixels`,
`objects_in_windows`, `keyed` and `overlay`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

from pipeline.image.pixel_area import pixel_areas, vary
from pipeline.imageops.region_sums import Sums, measure
from pipeline.segmenters import on_probation
from pipeline.segmenters.protocols import MovesDevice, Remarks
from pipeline.sources.unmeasured import Counts, unmeasured
from pipeline.stages import FIRST, Run, pixels_key, record_key, save_sums
from pipeline.stages.connected_pixels import connected
from pipeline.stages.keyed import by_class, by_key
from pipeline.stages.objects_in_windows import objects
from pipeline.stages.overlay import layered
from pipeline.stages.processors import note
from pipeline.stages.region_merging import survey
from pipeline.stages.stitching import AGREED, DISPUTED, PROVED
from pipeline.stages.terrain import ground
from pipeline.stages.tile_labels import Drawn, Flags, Labels
from pipeline.storage.records import Arrays

DRAW: dict[str, Callable[[Run, int, npt.NDArray[Any], Flags], Drawn]] = {
    "connected": connected,
    "object": objects,
    "keyed": by_key,
    "class": by_class,
    "layered": layered,
}


STRIP = 4
"""Tiles that a worker takes in a row before the row below, while it still holds the chunks that
both rows read.
"""


class Segmented(TypedDict):
    """Summary of a segmented tile.

    Seconds are in no record, because a record has the same bytes at every run.
    """

    labels: int
    pixels: int
    enlarged: int
    seconds: float
    told: list[str]
    """Deviations of the segmenter from what was requested."""


def order(run: Run) -> list[int]:
    """The tiles to segment, in an order that decodes few chunks of the source more than once."""
    tiles = np.flatnonzero(run.routes >= FIRST)
    frame = run.source.frame
    if frame.chunks[-1] < frame.shape[-1]:
        tiles = tiles[np.argsort(tiles % run.grid.counts[-1] // STRIP, kind="stable")]
    return list(map(int, tiles))


def segment(run: Run, tile: int) -> Segmented:
    """Segment a tile and write what later stages need; returns numbers of labels and pixels, and
    seconds.
    """
    began = time.perf_counter()
    method = run.method(tile)
    core = run.grid.core(tile)
    frame = run.source.frame
    window = run.window(tile)
    seen = run.seen(tile, window)
    drawn = DRAW[method.contract.identity](run, tile, seen.shown, seen.valid)
    mine = core.within(run.labelled(tile))
    inside = core.within(window)
    labels = np.ascontiguousarray(drawn.labels[mine])
    seeds, votes = (None if each is None else each[mine] for each in (drawn.seeds, drawn.votes))
    pixels = seen.block[(slice(None), *inside)]
    number = len(drawn.whole) - 1
    areas = (
        partial(pixel_areas, frame, columns=(core.start[-1], core.stop[-1]), ground=ground(run))
        if vary(frame)
        else None
    )
    sums = measure(
        *(labels, pixels, number, core, run.grid.shape),
        measured=seen.measured[(slice(None), *inside)],
        kind=drawn.kind,
        votes=votes,
        seeds=seeds,
        areas=areas,
    )
    lost = unmeasured(run.source, core, pixels, seen.measured[(slice(None), *inside)])
    note(run.scratch, int(run.routes[tile]))
    _save(
        run,
        tile,
        drawn,
        labels,
        seen.valid[inside],
        sums,
        survey(run, tile, drawn, seen.prepared, seen.valid),
        lost,
    )
    number = int((sums.area > 0)[~drawn.hole[1:]].sum())
    seconds = time.perf_counter() - began
    told = [*method.segmenter.told] if isinstance(method.segmenter, Remarks) else []
    told += [on_probation(method.segmenter)] if method.contract.probation else []
    return {
        "labels": number,
        "pixels": core.size,
        "enlarged": drawn.enlarged,
        "seconds": seconds,
        "told": told,
    }


def _doubted(run: Run, tile: int, drawn: Drawn) -> list[int]:
    """The labels beside unreadable pixels, where they might continue."""
    outer = run.labelled(tile)
    beside = np.zeros(len(drawn.whole), bool) if drawn.doubted is None else drawn.doubted.copy()
    for part in run.unknown(outer, run.halo(tile).sight):
        beside[drawn.labels[part]] = True
    return (np.flatnonzero(beside[1:]) + 1).tolist()


def _provable(run: Run, tile: int) -> bool:
    """Whether a tile's labels can be proved.

    For a segmenter on probation, only if it saw the whole image; for a network that moved to
    another device, never.
    """
    method = run.method(tile)
    contract = method.contract
    if isinstance(method.segmenter, MovesDevice):
        return False
    return contract.proved and (not contract.probation or run.window(tile) == run.grid.whole)


def _save(
    run: Run,
    tile: int,
    drawn: Drawn,
    labels: Labels,
    valid: Flags,
    sums: Sums,
    graph: Arrays,
    lost: Counts,
) -> None:
    outer = run.labelled(tile)
    strips = {
        other: drawn.labels[run.overlap(tile, other).within(outer)]
        for other in run.grid.neighbours(tile)
    }
    on_seams = np.zeros(len(drawn.whole), bool)
    for strip in strips.values():
        on_seams[strip] = True
    if graph:
        on_seams[:] = True
    if drawn.nodes is not None:
        on_seams |= drawn.nodes
    on_seams[0] = False
    # labels with keys are not compared: a pixel that rounding turns to another class would join
    # them to an object
    if drawn.nodes is not None and run.method(tile).contract.things is not None:
        strips = {other: np.where(drawn.nodes[strip], 0, strip) for other, strip in strips.items()}
    seams = {f"seam {other}": strip for other, strip in strips.items() if run.compares(tile, other)}
    # half as much to compress and to decompress
    small = np.uint16 if len(drawn.whole) - 1 <= np.iinfo(np.uint16).max else np.int32
    pixels: dict[str, npt.NDArray[Any]] = {"labels": labels.astype(small), **seams}
    if not valid.all():
        pixels["valid"] = np.packbits(valid)
    run.scratch.save(pixels_key(tile), {"shape": labels.shape, "valid": bool(valid.all())}, pixels)
    flags = {name: getattr(drawn, name) for name in ("hole", "outside", "beside")}
    best = PROVED if _provable(run, tile) else AGREED
    status = np.where(drawn.whole, best, AGREED).astype(np.int8)
    if drawn.disputed is not None:
        status[drawn.disputed] = DISPUTED
    doubted = [label for label in _doubted(run, tile, drawn) if status[label] == PROVED]
    status[doubted] = DISPUTED
    key = np.zeros(len(drawn.whole) - 1, np.int64) if drawn.key is None else drawn.key
    exponents, columns = save_sums(sums)
    facts = {
        "labels": len(drawn.whole) - 1,
        "enlarged": drawn.enlarged,
        "widened": run.widened(tile),
        "doubted": doubted,
        "unmeasured": lost,
        **exponents,
    }
    about = {**flags, **graph, "status": status, "key": key, "on_seams": np.flatnonzero(on_seams)}
    run.scratch.save(record_key(tile), facts, {**columns, **about})
