"""COCO's panoptic format of layers: things under their ids, then a number per class of stuff."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import OutputError
from pipeline.image.grid import Box
from pipeline.sinks.panoptic import MOST, write_json, write_png
from pipeline.sinks.table import rows
from pipeline.stages import Run, load_sums
from pipeline.stages.group import Grouping
from pipeline.stages.object_ids import STUFF_KEY
from pipeline.stages.publish import Publication
from pipeline.stages.stitching import CERTIFICATES

SEGMENTS = "panoptic.png"
SEGMENTS_INFO = "panoptic.json"
_COLUMNS = ("id", "class", "area", "column_min", "row_min", "column_max", "row_max", "certificate")


def refuse(found: Grouping) -> None:
    """Raise OutputError if there are more segments than COCO's PNG can number."""
    if found.objects + found.classes > MOST:
        raise OutputError(
            f"output.results: {found.objects:,} objects are too many for a panoptic PNG, which "
            f"numbers {MOST:,}; "
            "allowed: instance and semantic, which are the same as two rasters"
        )


def write_panoptic(
    work: Publication, found: Grouping, table: Path, image: str, staging: Path
) -> None:
    """Write COCO's PNG and JSON from the staged labels, classes and table."""
    labels = work.labels
    classes = work.classes
    frame = work.run.source.frame
    stuff = list(_stuff(work.run, found.objects))
    if labels is None or classes is None or classes.legend is None:
        raise ValueError("a panoptic result is made of labels and classes")
    number = np.zeros(classes.fill + 1, np.int64)
    for row in stuff:
        number[row["class"]] = row["id"]

    def segments(box: Box) -> npt.NDArray[np.int64]:
        things = labels.read(box).astype(np.int64)
        return np.where(things > 0, things, number[classes.read(box)])

    write_png(str(staging / SEGMENTS), frame, segments)
    every = map(_info, chain(rows(str(table), _COLUMNS), stuff))
    write_json(
        str(staging / SEGMENTS_INFO),
        frame,
        (image, SEGMENTS),
        classes.legend,
        {row["class"] for row in stuff},
        every,
    )


def _stuff(run: Run, objects: int) -> Iterator[dict[str, Any]]:
    """A row for each class of stuff, like the table's row for each thing."""
    sums = load_sums(run.joined, STUFF_KEY)
    status = run.joined.load(STUFF_KEY, "status")[1]["status"]
    for k, kind in enumerate(sums.kind.tolist()):
        values = (
            objects + 1 + k,
            kind,
            sums.area[k],
            *sums.low[k, ::-1],
            *sums.high[k, ::-1],
            CERTIFICATES[status[k]],
        )
        yield dict(zip(_COLUMNS, values, strict=True))


def _info(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the table as an entry of COCO's ``segments_info``, with our certificate."""
    x, y, right, bottom = (int(row[name]) for name in _COLUMNS[3:7])
    box = {"area": int(row["area"]), "bbox": [x, y, right - x, bottom - y], "iscrowd": 0}
    return {
        "id": int(row["id"]),
        "category_id": int(row["class"]),
        **box,
        "certificate": row["certificate"],
    }
