"""Compare a result with truth, tile by tile: a pair of gigapixel images needs no more memory than a
pair of tiles.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline.annotations.files import Drawings, is_coco, read_drawings
from pipeline.annotations.outlines import CROWD, layers
from pipeline.annotations.panoptic import (
    VOID,
    Coco,
    LabelsAndClasses,
    kinds_of,
    open_classes,
    open_pair,
    open_truth,
)
from pipeline.annotations.rasters_and_shapes import Companion, CompanionRaster, open_companion
from pipeline.errors import JobError, SourceError
from pipeline.evaluation import metrics
from pipeline.evaluation.metrics import Contingency, Overlap
from pipeline.image.frame import Frame
from pipeline.image.grid import Box, Grid
from pipeline.image.legend import CLASS
from pipeline.sources import open_source
from pipeline.storage.locations import joined, remote, there
from pipeline.storage.run_record import RECORD, read_at, read_record

Kind = Literal["instance", "semantic", "panoptic"]
EXTENT = {2: 2048, 3: 128}
"""The side length in pixels of the tiles that are compared, by the image's number of dimensions."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The measures of a result against truth."""

    kind: Kind
    measures: dict[str, Any]
    """The measures by name; see `pipeline.evaluation.metrics`."""

    counts: Contingency | None = field(repr=False)
    """How many pixels each pair of labels shares; None if truth is boxes."""

    overlap: Overlap = field(repr=False)
    """The overlapping objects and their IoU."""

    def __str__(self) -> str:
        return "\n".join(lines(self))


def evaluate(
    labels: Any,
    truth: Any,
    *,
    kind: Kind = "instance",
    tolerance: int = 2,
    image: str | None = None,
    ignore: Sequence[int] = (),
) -> Evaluation:
    """Compare labels with truth.

    Parameters
    ----------
    labels
        The folder of a result, a raster or a Zarr array of labels or classes, the address of one,
        or an array of integers.
    truth
        A raster or Zarr of the same grid, or its address; a vector file in the same CRS (each shape
        is an object); COCO JSON (polygons, run-length masks or boxes; pixels of crowds are
        ignored); or boxes: Pascal VOC XML or CSV (xmin, ymin, xmax, ymax). A mapping, as seeds
        accept it, names the attribute that holds classes. For ``panoptic``: COCO's panoptic JSON
        with its PNG, or the folder of another result.
    kind
        ``instance``: labels are objects. ``semantic``: labels are classes. ``panoptic``: both, for
        a result of layers.
    tolerance
        The distance in pixels within which two borders count as the same, for the boundary F1.
    image
        The image of a COCO file to compare with.
    ignore
        Labels of the truth (for panoptic truth: classes) to ignore, besides its nodata value.

    Raises
    ------
    JobError
        If truth has another shape, grid or CRS.
    SourceError
        If something cannot be read.
    """
    if kind not in ("instance", "semantic", "panoptic"):
        raise JobError(f"kind: {kind!r}; allowed: 'instance', 'semantic' or 'panoptic'")
    ours, known = opened(labels, truth, kind, image, ignore)
    if isinstance(known, Drawings):
        overlap = _matched_boxes(_boxes(ours), known)
        return Evaluation(kind, metrics.objects(overlap), None, overlap)
    counts, borders = _counted(ours, known, tolerance, ignore)
    overlap = metrics.overlaps(counts)
    if kind == "panoptic":
        kinds = (kinds_of(names) for names in (overlap.ours, overlap.truth))
        things = known.things if isinstance(known, Coco) else None
        measures = metrics.panoptic(counts, *kinds, void=VOID, things=things)
        overlap = _of_one_class(overlap)
    else:
        measures = metrics.instances(counts) if kind == "instance" else metrics.semantic(counts)
    measures |= metrics.boundary(
        (int(borders[0]), int(borders[2])), (int(borders[1]), int(borders[3]))
    )
    return Evaluation(kind, measures, counts, overlap)


def lines(found: Evaluation) -> list[str]:
    """The measures as a table of text, line by line."""
    plain = {name: value for name, value in found.measures.items() if not isinstance(value, dict)}
    text = [
        f"{name:24}{value:12.4f}" if isinstance(value, float) else f"{name:24}{value:12,}"
        for name, value in plain.items()
    ]
    for title, table in (
        ("IoU", found.measures.get("at", {})),
        ("class", found.measures.get("classes", {})),
    ):
        if table:
            columns = list(next(iter(table.values())))
            text += ["", f"{title:>8}" + "".join(f"{name:>12}" for name in columns)]
            text += [
                f"{key:>8}"
                + "".join(
                    f"{v:12.4f}" if isinstance(v, float) else f"{v:12,}" for v in row.values()
                )
                for key, row in table.items()
            ]
    return text


def _of_one_class(overlap: Overlap) -> Overlap:
    """The overlap without pairs of segments of different classes."""
    alike = (
        overlap.ours[overlap.pairs[:, 0]] // CLASS == overlap.truth[overlap.pairs[:, 1]] // CLASS
    )
    return replace(
        overlap, pairs=overlap.pairs[alike], iou=overlap.iou[alike], shared=overlap.shared[alike]
    )


def opened(
    labels: Any,
    truth: Any,
    kind: Kind,
    image: str | None,
    ignore: Sequence[int] = (),
) -> tuple[CompanionRaster | LabelsAndClasses, Companion | Drawings]:
    """Open the result and the truth, as `evaluate` takes them."""
    if not isinstance(labels, (str, os.PathLike)):
        ours = _of_array(labels, kind)
        return ours, known_truth(truth, ours.source.frame, image)
    path = os.fspath(labels)
    _refuse_damaged(path)
    if kind == "panoptic":
        pair = open_pair(path)
        return pair, open_truth(os.fspath(truth), pair.source.frame, image, tuple(ignore))
    ours = _ours(path, kind)
    return ours, known_truth(truth, ours.source.frame, image)


def _refuse_damaged(path: str) -> None:
    """Raise OutputError if a folder has a result's record that cannot be read."""
    if remote(path):
        read_at(path)
    else:
        read_record(Path(path))


def _of_array(labels: Any, kind: Kind) -> CompanionRaster:
    """Labels or classes from an array in memory."""
    if kind == "panoptic":
        raise JobError("labels: an array, with kind 'panoptic'; allowed: the folder of a result")
    return CompanionRaster(open_source(labels), "the array")


def _ours(path: str, kind: Kind) -> CompanionRaster:
    """The labels, or classes, of a result's folder or of a file."""
    name = "labels.zarr" if kind == "instance" else "classes.zarr"
    if there(path, RECORD):
        if not there(path, name):
            raise SourceError(f"{path} holds no {name}; it was not run for {kind} results")
        path = joined(path, name)
    source = open_classes(path) if path.rstrip("/").endswith("classes.zarr") else open_source(path)
    return CompanionRaster(source, path)


def known_truth(truth: Any, frame: Frame, image: str | None) -> Companion | Drawings:
    """The truth for an image, as `evaluate` takes it: a raster of labels, or boxes."""
    found = drawings(truth, frame, image)
    if found is None:
        return open_companion(truth, frame)
    return found if found.outlines is None else layers(found.outlines, found.crowd)


def drawings(truth: Any, frame: Frame, image: str | None) -> Drawings | None:
    """The annotations of an image, if truth is a file of annotations; None if it is a raster or a
    vector file.

    Raises
    ------
    SourceError
        If the file does not exist.
    JobError
        If the annotations are for an image of another shape.
    """
    path = Path(truth) if isinstance(truth, (str, os.PathLike)) and not remote(truth) else None
    if path is not None and not path.exists():
        raise SourceError(f"there is no truth at {path}")
    if (
        path is None
        or path.suffix.lower() not in (".json", ".xml", ".csv")
        or (path.suffix.lower() == ".json" and not is_coco(path))
    ):
        return None
    found = read_drawings(path, image)
    if found.shape is not None and found.shape != frame.shape[-2:]:
        raise JobError(
            f"truth of {found.shape[0]} x {found.shape[1]} pixels; allowed: {frame.shape[-2]} x "
            f"{frame.shape[-1]}"
        )
    return found


def _matched_boxes(ours: npt.NDArray[np.float64], known: Drawings) -> Overlap:
    """The overlap of our boxes with those of the truth, without those of ours that lie mostly in a
    crowd.
    """
    crowd = np.array(known.crowd or (False,) * len(known.boxes), bool)
    within = metrics.boxes(ours, known.boxes[crowd])
    mostly = within.shared > metrics.MOSTLY * within.area[0][within.pairs[:, 0]]
    kept = np.setdiff1d(np.arange(len(ours)), within.pairs[mostly, 0])
    return replace(metrics.boxes(ours[kept], known.boxes[~crowd]), ours=kept + 1)


def numbers(what: Companion, box: Box) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """The labels in a box, and the mask of pixels where they are known."""
    if not isinstance(what, CompanionRaster):
        found = what.read(box)
        return np.where(found == CROWD, 0, found), found != CROWD
    return what.numbers(box)


def parts_of(frame: Frame, step: int = 1) -> Iterator[Box]:
    """The parts of an image, one after another; of a volume, the parts of its middle plane.

    Their side lengths are multiples of ``step``.
    """
    grid = Grid(frame.shape[-2:], (EXTENT[2] // step * step,) * 2)
    for k in range(len(grid)):
        core = grid.core(k)
        middle = frame.shape[0] // 2
        yield core if frame.ndim == 2 else Box((middle, *core.start), (middle + 1, *core.stop))


def _counted(
    ours: CompanionRaster | LabelsAndClasses,
    truth: Companion,
    tolerance: int,
    ignore: Sequence[int],
) -> tuple[Contingency, npt.NDArray[np.int64]]:
    """The counts of all pixels, and four counts of border pixels: ours that are near the truth's
    border, all of ours, the truth's that are near ours, all of the truth's.
    """
    frame = ours.source.frame
    grid = Grid(frame.shape, (EXTENT[frame.ndim],) * frame.ndim)
    parts = []
    borders = np.zeros(4, np.int64)
    for k in range(len(grid)):
        core = grid.core(k)
        window = grid.window(k, tolerance + 1)
        (a, known_a), (b, known_b) = numbers(ours, window), numbers(truth, window)
        inside = core.within(window)
        valid = known_a & known_b & ~np.isin(b, ignore)
        parts.append(Contingency.of(a[inside], b[inside], valid[inside]))
        edges = [_border(np.where(valid, each, 0)) for each in (a, b)]
        for side in (0, 1):
            mine = edges[side][inside]
            borders[2 * side] += (mine & _near(edges[1 - side], tolerance)[inside]).sum()
            borders[2 * side + 1] += mine.sum()
        parts = [Contingency.added(parts)] if len(parts) > 64 else parts
    return Contingency.added(parts), borders


def _border(labels: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Object pixels that have a pixel of another label beside them."""
    found = np.zeros(labels.shape, bool)
    for axis in range(labels.ndim):
        moved = np.moveaxis(labels, axis, 0)
        differ = moved[1:] != moved[:-1]
        mine = np.moveaxis(found, axis, 0)
        mine[1:] |= differ
        mine[:-1] |= differ
    return found & (labels > 0)


def _near(mask: npt.NDArray[np.bool_], tolerance: int) -> npt.NDArray[np.bool_]:
    from scipy import ndimage

    if not mask.any():
        return mask
    return np.asarray(ndimage.distance_transform_edt(~mask) <= tolerance)


def _boxes(ours: CompanionRaster | LabelsAndClasses) -> npt.NDArray[np.float64]:
    """(n, 4) the bounding box of each label, by ascending label."""
    frame = ours.source.frame
    if frame.ndim != 2:
        raise JobError("truth of boxes for a volume; allowed: a raster")
    names = []
    rows = []
    for box in parts_of(frame):
        labels = numbers(ours, box)[0]
        present, where = np.unique(labels, return_inverse=True)
        names.append(present)
        rows.append(_extents(where.reshape(labels.shape), len(present), box))
    every, place = np.unique(np.concatenate(names), return_inverse=True)
    found = np.tile([np.inf, np.inf, -np.inf, -np.inf], (len(every), 1))
    extents = np.concatenate(rows)
    np.minimum.at(found, place, np.where([True, True, False, False], extents, np.inf))
    np.maximum.at(found, place, np.where([False, False, True, True], extents, -np.inf))
    return found[every > 0]


def _extents(where: npt.NDArray[np.intp], number: int, box: Box) -> npt.NDArray[np.float64]:
    from scipy import ndimage

    slices = ndimage.find_objects(where + 1, number)
    (r, c) = box.start
    return np.array(
        [[s[0].start + r, s[1].start + c, s[0].stop + r, s[1].stop + c] for s in slices], np.float64
    )
