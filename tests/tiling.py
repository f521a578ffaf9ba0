"""Run the stages on an array in memory, planned by the product's own planner, without files of
results.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.execution.planning import plan
from pipeline.jobs.job import Job
from pipeline.segmenters import Segmenter
from pipeline.sources import open_source
from pipeline.stages import FIRST, Run, pixels_key, table_key
from pipeline.stages.group import group
from pipeline.stages.link import link
from pipeline.stages.measure import gather
from pipeline.stages.segment import segment
from pipeline.stages.stitching import CERTIFICATES

MEMORY = 1 << 40
"""The bytes that one task may use: enough for any window."""
SOME = {"valid": {"min": 0}}
"""A condition that any tile meets. A job must not have a rule that no tile can reach, and one after
a rule without conditions is such a rule; `tiled` says itself where each tile goes.
"""


@dataclass(frozen=True)
class Tiled:
    """The result of the stages."""

    labels: npt.NDArray[np.int64]
    number: int
    certificates: list[str]
    """In the order of ids: the entry of id k is at k - 1."""
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
    """Segment an image tile by tile, in any order of the tiles, as `pipeline.run` plans it.

    Parameters
    ----------
    image
        (row, column), (band, row, column) or (band, plane, row, column).
    segmenters
        One, or several; the first segments all tiles unless ``routes`` says otherwise.
    tile
        The extent of a tile along each axis, in pixels.
    folder
        Where records go.
    halo, max_halo
        As in a job's ``tiles``.
    order
        The numbers of the tiles, in the order in which they are segmented; None: ascending.
    routes
        By tile, as `Run.routes`.
    iou
        As in a job's ``stitch``.
    steps
        As in a job.
    """
    run = planned(
        image,
        list(segmenters) if isinstance(segmenters, Sequence) else [segmenters],
        folder,
        tiles={"size": [int(extent) for extent in tile], "halo": halo, "max_halo": max_halo},
        stitch={"iou": iou},
        steps=list(steps),
    )
    if routes is not None:
        run = replace(run, routes=np.array(routes, np.int16))
    grid = run.grid
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


def planned(
    image: npt.NDArray[np.generic], kinds: Sequence[Segmenter], folder: Path, **parts: Any
) -> Run:
    """The run that the product plans for a job, ready to be segmented.

    Parameters
    ----------
    image
        (row, column), (band, row, column) or (band, plane, row, column).
    kinds
        The segmenters.
    folder
        Where records go.
    **parts
        Other keys of the job.
    """
    job = Job(
        source=open_source(
            image,
            axes={2: "yx", 3: "cyx", 4: "czyx"}[image.ndim],
            planes="all" if image.ndim == 4 else None,
        ),
        segmenters={str(number): kind for number, kind in enumerate(kinds)},
        route=[{"use": str(number), "when": SOME} for number in range(len(kinds))],
        output={"path": str(folder), "results": ["instance"]},
        **parts,
    )
    run = plan(job, workers=1, memory=MEMORY).run
    return replace(run, scratch=run.scratch.begin())


def in_raster_order(labels: npt.NDArray[np.generic]) -> npt.NDArray[np.int64]:
    """The same objects, numbered 1 to N by their first pixels."""
    flat = labels.ravel()
    names, first = np.unique(flat, return_index=True)
    names, first = names[names > 0], first[names > 0]
    rename = np.zeros(int(flat.max(initial=0)) + 1, np.int64)
    rename[names[np.argsort(first)]] = np.arange(1, len(names) + 1)
    return rename[labels]
