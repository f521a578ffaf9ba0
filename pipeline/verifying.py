"""Whether a result holds: parts of it are cut into other tiles, segmented again, and compared object by object.

A part is four neighbouring tiles of a grid of another size. An object that lies whole inside is right if the result has the same pixels
under one id. What goes on beyond the part is left out, since nothing is known of it here. Statistics of the image are those that the run
found; they are not found again.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import JobError, OutputError
from pipeline.grid import Box, Grid, sides
from pipeline.job import Job
from pipeline.planning import Plan, plan
from pipeline.reporting import Result
from pipeline.scratch import Scratch
from pipeline.stages import EMPTY, FIRST, SKIPPED, Run, pixels_key, table_key
from pipeline.stages.group import group
from pipeline.stages.link import link
from pipeline.stages.measure import gather
from pipeline.stages.segment import segment
from pipeline.stitching import PROVED

Labels = npt.NDArray[np.int64]
SHARE = 0.7
"""The size of the other tiles, as a share of the run's."""
BESIDE = (2, 3, 4, 5, 6)
"""How far from a seam, in pixels, lie the lines that it is compared with."""


@dataclass
class Verification:
    """What was compared, and what came out."""

    parts: int = 0
    pixels: int = 0
    objects: int = 0
    """Objects that lie whole inside a part."""

    at_seams: int = 0
    """Of those, how many meet a seam of the run's."""

    differ: list[dict[str, Any]] = field(default_factory=list)
    """Those that the result has not, or otherwise: where, how many pixels, the result's id (0: none) and its certificate."""

    edges: int = 0
    """Borders between pixels of different objects, along the run's seams."""

    beside: float = 0.0
    """The same along lines beside them, on the average."""

    @property
    def wrong(self) -> list[dict[str, Any]]:
        """What differs though the result calls it proved."""
        return [one for one in self.differ if one["certificate"] == "proved"]

    @property
    def straightness(self) -> float:
        """How many times as often objects end at seams as beside them; 1 where tiles leave no trace, more where they do."""
        return self.edges / self.beside if self.beside else 1.0

    def lines(self) -> list[str]:
        """In words."""
        near = sum(one["at_seam"] for one in self.differ)
        text = [
            f"{self.parts} parts, {self.pixels:,} pixels, {self.objects:,} objects compared, {self.at_seams:,} of them at seams",
            f"{len(self.differ):,} differ: {near:,} at seams, {len(self.differ) - near:,} inside; {len(self.wrong):,} are called proved",
            f"objects end at seams {self.straightness:.2f} times as often as beside them",
        ]
        return text + [f"  {one}" for one in self.wrong[:10]]


def verify(path: str | Path, parts: int = 8) -> Verification:
    """Segment parts of a finished result again, in other tiles, and compare.

    Parameters
    ----------
    path
        The folder of the result.
    parts
        How many parts, spread over the image.

    Raises
    ------
    OutputError
        If there is no complete result, or its image or methods cannot be had again.
    """
    result = Result(str(path))
    record = result.record
    if not record["complete"] or "instance" not in record["results"]:
        raise OutputError(f"{path} holds no complete labels; there is nothing to verify")
    found, certificates = Verification(), dict(zip(result.objects["id"], result.objects["certificate"], strict=True))
    with tempfile.TemporaryDirectory() as folder:
        draft = _planned(record, Path(folder))
        if any(hasattr(method.segmenter, "merge") for method in draft.run.methods):
            raise OutputError("regions that are merged on the graph of the whole image cannot be verified in parts; run it in other tiles")
        if len(draft.run.methods) > 1 or record["routes"].get("skip"):
            raise OutputError("a run that routes its tiles cannot be cut into others; allowed: runs of one segmenter")
        seams = Grid(draft.run.grid.shape, tuple(record["plan"]["tiles"]["size"]))
        for number, tiles in enumerate(_blocks(draft.run.grid, parts)):
            run = replace(draft.run, scratch=Scratch(str(Path(folder, str(number)))), routes=_routes(draft.run, tiles))
            box, labels, proved = _again(run, tiles)
            published = result.labels.data[box.slices].compute().astype(np.int64)
            _compare(found, labels, proved, published, box, seams, certificates)
    return found


def _planned(record: Mapping[str, Any], folder: Path) -> Plan:
    """The run's job with what was fitted, in tiles of another size."""
    job, fitted = record["job"], record["fitted"]
    known = {name: {**what, **fitted.get(name, {})} for name, what in job["segmenters"].items()}
    steps = [{**what, **fitted.get(f"step {k + 1}", {})} for k, what in enumerate(job["steps"])]
    if any(what["kind"].startswith("python:") for what in (*known.values(), *steps)):
        raise OutputError("the run used a function, which its record does not hold; allowed: kinds of segmenters and steps")
    size = [max(1, min(n, int(SHARE * t))) for n, t in zip(record["plan"]["frame"]["shape"], record["plan"]["tiles"]["size"], strict=True)]
    try:
        again = Job(
            source=job["source"],
            steps=steps,
            segmenters=known,
            route=job["route"],
            tiles={**job["tiles"], "size": size},
            stitch=job["stitch"],
            output={"path": str(folder / "out")},
        )
        draft = plan(again, workers=1, memory=record["identity"]["tiles"]["memory"])
    except JobError as error:
        raise OutputError(f"the run's job cannot be had again: {error}") from error
    if dict(draft.fingerprint) != record["identity"]["source"]["fingerprint"]:
        raise OutputError("the image has changed since the run")
    return draft


def _blocks(grid: Grid, parts: int) -> list[list[int]]:
    """Blocks of two tiles along each axis, spread evenly over the image."""
    last = [max(count - 1, 1) for count in grid.counts]
    number = int(np.prod(last))
    chosen = np.unique(np.linspace(0, number - 1, min(parts, number)).round().astype(int))
    corners = [tuple(int(k) for k in np.unravel_index(c, last)) for c in chosen]
    return [
        [grid.number(at) for at in itertools.product(*(range(k, min(k + 2, n)) for k, n in zip(corner, grid.counts, strict=True)))]
        for corner in corners
    ]


def _routes(run: Run, tiles: list[int]) -> npt.NDArray[np.int16]:
    """The tiles of a part go to the one method of the run; all others nowhere."""
    routes = np.full(len(run.grid), SKIPPED, np.int16)
    for tile in tiles:
        routes[tile] = FIRST if run.read(run.grid.core(tile))[1].any() else EMPTY
    return routes


def _again(run: Run, tiles: list[int]) -> tuple[Box, Labels, npt.NDArray[np.bool_]]:
    """Segment some tiles; the box that they fill, its labels, and by label whether the object lies whole inside and is sure."""
    mine = [tile for tile in tiles if run.routes[tile] >= FIRST]
    for stage in (segment, link):
        for tile in mine:
            stage(run, tile)
    number = group(run).objects
    cores = [run.grid.core(tile) for tile in tiles]
    box = Box(tuple(map(min, *(c.start for c in cores))), tuple(map(max, *(c.stop for c in cores)))) if len(cores) > 1 else cores[0]
    labels, sure = np.zeros(box.shape, np.int64), np.ones(number + 1, bool)
    for tile in mine:
        ids = run.scratch.load(table_key(tile), "ids")[1]["ids"]
        labels[run.grid.core(tile).within(box)] = ids[run.scratch.load(pixels_key(tile), "labels")[1]["labels"]]
    for side in sides(box, run.grid.whole):
        if side.open:
            sure[labels[side.face]] = False
    for id_, status in _statuses(run):
        sure[id_] &= status == PROVED
    return box, labels, sure


def _statuses(run: Run) -> list[tuple[int, int]]:
    found = [gather(run, slab)[1] for slab in range(run.grid.counts[0])]
    return [pair for about in found for pair in zip(about["id"].tolist(), about["status"].tolist(), strict=True)]


def _compare(
    found: Verification, labels: Labels, sure: npt.NDArray[np.bool_], published: Labels, box: Box, seams: Grid, known: Mapping[int, str]
) -> None:
    """Look for each object that lies whole inside."""
    found.parts, found.pixels = found.parts + 1, found.pixels + box.size
    pairs, count = np.unique(np.stack([labels.ravel(), published.ravel()], axis=1), axis=0, return_counts=True)
    total = dict(zip(*np.unique(published, return_counts=True), strict=True))
    crossed = set(np.unique(labels[_at_seams(box, seams)]).tolist())
    for label in np.unique(labels[sure[labels] & (labels > 0)]).tolist():
        found.objects += 1
        found.at_seams += label in crossed
        under = slice(*np.searchsorted(pairs[:, 0], [label, label + 1]).tolist())  # they ascend
        ids = pairs[under, 1]
        if len(ids) != 1 or ids[0] == 0 or total[ids[0]] != count[under][0]:
            doubted = [known[int(i)] for i in ids if i and known[int(i)] != "proved"]
            place = tuple(int(a) + o for a, o in zip(np.argwhere(labels == label)[0], box.start, strict=True))
            found.differ.append(
                {
                    "place": place,
                    "pixels": int(count[under].sum()),
                    "ids": [int(i) for i in ids],
                    "certificate": doubted[0] if doubted else "proved",
                    "at_seam": label in crossed,
                }
            )
    for axis in range(published.ndim):
        _count_edges(found, np.moveaxis(published, axis, 0), box.start[axis], seams.tile[axis])


def _at_seams(box: Box, seams: Grid) -> npt.NDArray[np.bool_]:
    """Pixels on either side of a seam."""
    mask = np.zeros(box.shape, bool)
    for axis, (start, size) in enumerate(zip(box.start, seams.tile, strict=True)):
        places = np.arange(start, start + box.shape[axis])
        near = ((places % size == 0) & (places > 0)) | ((places + 1) % size == 0)
        mask |= near.reshape([-1 if a == axis else 1 for a in range(len(box.shape))])
    return mask


def _count_edges(found: Verification, rows: Labels, start: int, size: int) -> None:
    """Count borders of objects along seams across the first axis, and along lines beside them."""
    ends = (rows[1:] != rows[:-1]).reshape(len(rows) - 1, -1).sum(axis=1)  # between row k and row k + 1
    for seam in range(-(-(start + 1) // size) * size, start + len(rows), size):
        lines = [seam - start - 1 + side * far for far in BESIDE for side in (-1, 1)]
        lines = [line for line in lines if 0 <= line < len(ends)]
        if seam - start >= 1 and lines:
            found.edges += int(ends[seam - start - 1])
            found.beside += float(np.mean(ends[lines]))
