"""The stages of a run on an array in memory, without files of results: what exactness tests compare
with the untiled answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.image.grid import Grid
from pipeline.segmenters import Contract, Segmenter
from pipeline.sources import open_source
from pipeline.stages import FIRST, Method, Run, depth_of, pixels_key, table_key
from pipeline.stages.group import group
from pipeline.stages.link import link
from pipeline.stages.measure import gather
from pipeline.stages.segment import segment
from pipeline.stages.stitching import CERTIFICATES
from pipeline.storage.records import Scratch


@dataclass(frozen=True)
class Tiled:
    """What came out."""

    labels: npt.NDArray[np.int64]
    number: int
    certificates: list[str]
    """By id - 1."""
    run: Run


def tiled(
    image: npt.NDArray[np.generic],
    segmenters: Segmenter | Sequence[Segmenter],
    tile: Sequence[int],
    folder: Path,
    *,
    halo: int = 1,
    max_halo: int = 1000,
    order: Sequence[int] | None = None,
    routes: Sequence[int] | None = None,
    iou: float = 0.5,
    steps: Sequence[Any] = (),
) -> Tiled:
    """Segment (row, column), (band, row, column) or (band, plane, row, column) tile by tile, in any
    order of the tiles.
    """
    source = open_source(
        image,
        axes={2: "yx", 3: "cyx", 4: "czyx"}[image.ndim],
        planes="all" if image.ndim == 4 else None,
    )
    kinds = list(segmenters) if isinstance(segmenters, Sequence) else [segmenters]
    contracts = [Contract.of(kind) for kind in kinds]
    depth = depth_of(contracts, halo)
    far = depth + sum(step.reach for step in steps)
    methods = tuple(
        Method(str(k), kind, c, c.reach + far)
        for k, (kind, c) in enumerate(zip(kinds, contracts, strict=True))
    )
    grid = Grid(source.frame.shape, tuple(tile))
    where = (
        np.array(routes, np.int16) if routes is not None else np.full(len(grid), FIRST, np.int16)
    )
    run = Run(
        source,
        grid,
        methods,
        where,
        depth,
        max(max_halo, *(m.halo for m in methods)),
        1 << 40,
        Scratch(str(folder)).begin(),
        iou,
        tuple(steps),
    )
    chosen = [
        t for t in (order if order is not None else range(len(grid))) if run.routes[t] >= FIRST
    ]
    for t in chosen:
        segment(run, t)
    for t in range(len(grid)):
        link(run, t)
    number = group(run).objects
    labels = np.zeros(grid.shape, np.int64)
    for t in chosen:
        ids = run.scratch.load(table_key(t), "ids")[1]["ids"]
        labels[grid.core(t).slices] = ids[run.scratch.load(pixels_key(t), "labels")[1]["labels"]]
    status = np.zeros(number, np.int64)
    for slab, _ in enumerate(grid.slabs()):
        about = gather(run, slab)[1]
        status[about["id"] - 1] = about["status"]
    return Tiled(labels, number, [CERTIFICATES[s] for s in status], run)


def in_raster_order(labels: npt.NDArray[np.generic]) -> npt.NDArray[np.int64]:
    """The same objects, numbered 1 to N by their first pixels."""
    flat = labels.ravel()
    names, first = np.unique(flat, return_index=True)
    names, first = names[names > 0], first[names > 0]
    rename = np.zeros(int(flat.max(initial=0)) + 1, np.int64)
    rename[names[np.argsort(first)]] = np.arange(1, len(names) + 1)
    return rename[labels]
