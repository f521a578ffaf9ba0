"""Write final labels and classes, one tile at a time, into staged arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.image.grid import Box
from pipeline.image.legend import legend
from pipeline.imageops.components import looked_up
from pipeline.jobs.job import Output
from pipeline.sinks.chunked import Mask
from pipeline.sinks.labels_group import MARK, Nest
from pipeline.sinks.pyramid import Pyramid
from pipeline.stages import EMPTY, FIRST, Run, pixels_key, table_key
from pipeline.stages.overlay import STUFF
from pipeline.stages.route import needed

Layout = tuple[tuple[int, ...], tuple[int, ...] | None]
"""The shape of a chunk, and of a shard if there are any."""
LABELS = "labels.zarr"
CLASSES = "classes.zarr"
NESTED = "nested.zarr"


@dataclass(frozen=True, slots=True)
class Publication:
    """The arrays that a run's result is written to."""

    run: Run
    labels: Pyramid | None
    classes: Pyramid | None
    mask: Mask | None
    """Which pixels are valid; None if all are, or no product needs it."""

    nested: Pyramid | None = None
    """The labels, or the classes if there are no labels, for the image's own group of labels."""

    @property
    def tiles(self) -> list[int]:
        """The tiles with something to write: labels, or valid pixels."""
        every = self.mask is not None or self.classes is not None
        written = self.run.routes > EMPTY if every else self.run.routes >= FIRST
        return np.flatnonzero(written).tolist()


def places(
    run: Run,
    output: Output,
    results: Sequence[str],
    layout: Layout,
    staging: Path,
    highest: tuple[int, int],
    *,
    nest: Nest | None = None,
) -> Publication:
    """The staged arrays of a run's results.

    Parameters
    ----------
    run
        The run that was grouped.
    output
        What the job says of its output.
    results
        What is wanted: instance, semantic, panoptic.
    layout
        The extents of chunks and shards.
    staging
        The folder of staged products.
    highest
        The highest id and the highest class: the types of the arrays must hold them.
    nest
        Where labels go in the image itself; None: nowhere.
    """
    frame = run.source.frame
    chunk, shard = layout
    objects, classes = highest
    how: dict[str, Any] = {"tile": run.grid.tile, "shard": shard, "version": output.ome_zarr}
    labels = kinds = mask = None
    if "instance" in results:
        dtype = output.dtype or ("uint32" if objects <= np.iinfo(np.uint32).max else "uint64")
        labels = Pyramid(str(staging / LABELS), frame, chunk, dtype, **how)
        if "cog" in output.labels and needed(run, ()):
            mask = Mask(str(staging / "valid.zarr"), frame.shape, chunk)
    if "semantic" in results:
        named = legend(classes, output.legend)
        small = np.uint8 if max(named) < np.iinfo(np.uint8).max else np.uint16
        kinds = Pyramid(
            str(staging / CLASSES),
            frame,
            chunk,
            np.dtype(small).name,
            int(np.iinfo(small).max),
            named,
            **how,
        )
    first = labels or kinds
    nested = _nested(first, nest, staging) if first and nest else None
    return Publication(run, labels, kinds, mask, nested)


def _nested(like: Pyramid, nest: Nest, staging: Path) -> Pyramid:
    """The same pyramid for the image's own group of labels, in the image's version of OME-Zarr."""
    home = nest.home
    shard = like.shard if home.version == "0.5" else None
    about: dict[str, Any] = {
        "path": str(staging / NESTED),
        "version": home.version,
        "shard": shard,
        "home": home,
        "marks": {MARK: nest.mark},
    }
    return replace(like, **about)


@dataclass(frozen=True, slots=True)
class Level:
    """One level of a pyramid, which is made from the level below it."""

    pyramid: Pyramid
    level: int
    blocks: tuple[Box, ...]
    """The pieces of work. A single piece makes all levels above it too."""

    @property
    def last(self) -> bool:
        """Whether it computes all levels above it too."""
        return len(self.blocks) == 1


def publish(work: Publication, tile: int) -> None:
    """Write a tile's labels with their final ids, the classes of its pixels, and which pixels are
    valid.
    """
    run = work.run
    core = run.grid.core(tile)
    segmented = run.routes[tile] >= FIRST
    ids: npt.NDArray[np.int64] = np.zeros(1, np.int64)
    labels: npt.NDArray[np.integer] = np.zeros(core.shape, np.int32)
    if segmented:
        ids, labels = _final(run, tile)
    if work.labels is not None and segmented:
        things = np.where(ids < STUFF, ids, 0).astype(work.labels.dtype)
        _write(work, work.labels, core, looked_up(things, labels))
    if work.classes is None and work.mask is None:
        return
    valid = _valid(run, tile, core)
    if work.mask is not None:
        work.mask.write(core, valid)
    if work.classes is not None:
        dtype = np.dtype(work.classes.dtype)
        kinds = _kinds(run, tile, ids) if segmented else np.zeros(1, np.int64)
        classes = np.where(valid, kinds.astype(dtype)[labels], dtype.type(work.classes.fill))
        _write(work, work.classes, core, classes)


def _write(work: Publication, pyramid: Pyramid, core: Box, values: npt.NDArray[Any]) -> None:
    """Write a box of labels or classes, and again for the image itself where they go there too."""
    pyramid.write(core, values)
    if work.nested is not None and pyramid is (work.labels or work.classes):
        work.nested.write(core, values)


def levels(pyramid: Pyramid | None) -> Iterator[Level]:
    """The levels of a pyramid that are made when all tiles are written."""
    if pyramid is None:
        return
    for level in range(pyramid.direct, pyramid.levels):
        work = Level(pyramid, level, tuple(pyramid.blocks(level)))
        yield work
        if work.last:
            return


def reduce(work: Level, block: int) -> None:
    """Write one block of a level of a pyramid."""
    work.pyramid.reduce(work.level, work.blocks[block])
    for level in range(work.level + 1, work.pyramid.levels) if work.last else ():
        for box in work.pyramid.blocks(level):
            work.pyramid.reduce(level, box)


def _final(run: Run, tile: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.integer]]:
    """The ids of a tile's labels, and its labels."""
    ids = run.joined.load(table_key(tile), "ids")[1]["ids"]
    labels: npt.NDArray[np.integer] = run.scratch.load(pixels_key(tile), "labels")[1]["labels"]
    return ids, labels


def _kinds(run: Run, tile: int, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The class of each of a tile's labels; 0 for labels that are not objects."""
    kind: npt.NDArray[np.int64] = run.joined.load(table_key(tile), "kind")[1]["kind"]
    return np.where(ids > 0, kind, 0)


def _valid(run: Run, tile: int, core: Box) -> npt.NDArray[np.bool_]:
    """Which pixels of a tile are valid: from its record, or read again if it was skipped."""
    if run.routes[tile] < FIRST:
        return run.valid(run.read(core)[1])
    facts, _ = run.scratch.load(pixels_key(tile))
    if facts["valid"]:
        return np.ones(core.shape, bool)
    packed = run.scratch.load(pixels_key(tile), "valid")[1]["valid"]
    return np.unpackbits(packed, count=core.size).reshape(core.shape).astype(bool)
