"""The end of a run: each staged product is moved into the result's folder, and the run's record is
written last.

A result without its record is not complete. Every step can be done again: a product that has been
moved is no longer staged.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.image.grid import Box
from pipeline.sinks.cog import Palette, write_cog
from pipeline.sinks.labels_group import Nest
from pipeline.sinks.microscopy import write_ome_tiff
from pipeline.sinks.picture import outlined, overview, painted, to_png
from pipeline.sinks.pyramid import Pyramid
from pipeline.sinks.table import join_parts
from pipeline.sinks.vector import write_lines
from pipeline.stages import Run
from pipeline.stages.lines import lines
from pipeline.stages.measure import part_path
from pipeline.stages.overlay import with_stuff
from pipeline.stages.products import (
    CLASSES_COG,
    CLASSES_OME_TIFF,
    COG,
    HIDDEN,
    LINES,
    OME_TIFF,
    PICTURE,
    TABLE,
    clear,
    inventory,
    settled,
)
from pipeline.stages.publish import NESTED, Publication
from pipeline.storage.atomic_files import PARTIAL, commit, keep, keep_names, writing
from pipeline.storage.run_record import RECORD

PICTURE_SIZE = 2048
"""Pixels along the longer side of the picture, at most."""


def write_table(run: Run, staging: Path) -> None:
    """Join the slabs' parts of the object table."""
    parts = [str(part_path(run, slab)) for slab in range(run.grid.counts[0])]
    join_parts(parts, str(staging / TABLE), run.source.frame)


def write_curves(run: Run, staging: Path) -> None:
    """Write the lines along curves that all tiles have traced."""
    write_lines(str(staging / LINES), run.source.frame, lines(run))


def write_tiffs(work: Publication, wanted: Sequence[str], staging: Path) -> None:
    """Write the staged labels and classes as TIFFs too, if ``cog`` or ``ome-tiff`` is wanted."""
    if "cog" in wanted:
        _write_geotiffs(work, staging)
    if "ome-tiff" in wanted:
        _write_ome_tiffs(work, staging)


def _write_geotiffs(work: Publication, staging: Path) -> None:
    """Write the staged labels and classes as cloud-optimised GeoTIFFs."""
    frame = work.run.source.frame
    pins = getattr(work.run.source, "pins", None)
    if work.labels:
        labels = work.labels
        read_valid = work.mask.read if work.mask else None
        write_cog(str(staging / COG), frame, labels.dtype, labels.read, read_valid, pins=pins)
    if work.classes and work.classes.legend:
        classes = work.classes
        palette = Palette(work.classes.legend, classes.fill)
        path = str(staging / CLASSES_COG)
        write_cog(path, frame, classes.dtype, classes.read, palette=palette, pins=pins)


def _write_ome_tiffs(work: Publication, staging: Path) -> None:
    """Write the staged labels and classes as OME-TIFFs."""
    if work.labels:
        write_ome_tiff(str(staging / OME_TIFF), work.labels)
    if work.classes and work.classes.legend:
        palette = Palette(work.classes.legend, work.classes.fill)
        write_ome_tiff(str(staging / CLASSES_OME_TIFF), work.classes, palette)


def write_picture(work: Publication, staging: Path) -> None:
    """Draw the result over the faded image: the objects, or the classes if there are no objects, or
    the outlines of things over the classes of stuff. Of a volume the middle plane is drawn.
    """
    pyramid = work.labels or work.classes
    assert pyramid is not None  # noqa: S101  something is published
    shown, step = thumbnail(pyramid, PICTURE_SIZE)
    if work.classes is None or not (work.labels is None or with_stuff(work.run)):
        overview(str(staging / PICTURE), shown, backdrop(work.run, shown.shape, step))
        return
    colours = {number: entry.colour for number, entry in (work.classes.legend or {}).items()}
    drawn = painted(thumbnail(work.classes, PICTURE_SIZE)[0], colours)
    if work.labels is not None:
        drawn = outlined(drawn, shown)
    (staging / PICTURE).write_bytes(to_png(drawn))


def thumbnail(pyramid: Pyramid, most: int) -> tuple[npt.NDArray[Any], int]:
    """A small version of a pyramid's full level.

    Parameters
    ----------
    pyramid
        Labels or classes.
    most
        The longest side, in pixels; 1 or more.

    Returns
    -------
    tuple
        The largest level that fits, (row, column), of a volume its middle plane; and how many
        pixels of the full level one of its pixels stands for along an axis.
    """
    level = next(
        (k for k in range(pyramid.levels) if max(pyramid.shape(k)[-2:]) <= most), pyramid.levels - 1
    )
    box = Box.whole(pyramid.shape(level))
    if len(box.shape) == 3:
        middle = box.shape[0] // 2
        box = Box((middle, 0, 0), (middle + 1, *box.stop[1:]))
    return pyramid.read(box, level).reshape(box.shape[-2:]), 2**level


def publish_all(
    folder: Path, staging: Path, record: Mapping[str, Any], nest: Nest | None = None
) -> None:
    """Move everything staged into its place, and write the run's record last.

    All of it is on the disk before the record is, which says that the result is complete.

    Parameters
    ----------
    folder
        The result's folder.
    staging
        The folder with the staged products.
    record
        What ``run.json`` says, but for the list of products.
    nest
        Where labels go in the image itself; None: nowhere.
    """
    with writing(folder):
        for part in staging.rglob(f"*{PARTIAL}"):  # writers leave these when they are killed
            part.unlink()
        coming = inventory(staging)
        keep(staging)
        clear(folder, coming)
        for name in coming:
            # the commit points, named as tests name them
            os.replace(staging / name, folder / name)  # noqa: PTH105
        if nest is not None:
            nest.settle(staging / NESTED)
        _write_record(folder, {**record, "products": coming})
        settled(folder)


def leave_incomplete(folder: Path, record: Mapping[str, Any]) -> None:
    """Write the record of a run that has no result. The result of an earlier run does not stay
    beside it; `products.kept` says where it is kept.
    """
    with writing(folder):
        clear(folder, {})
        _write_record(folder, {**record, "complete": False, "products": {}})


def _write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write run.json. It is written in the hidden folder first, and moved; it is on the disk when
    this returns.
    """
    keep_names(folder)
    commit(folder / HIDDEN / RECORD, (json.dumps(record, indent=2) + "\n").encode(), lasting=True)
    os.replace(folder / HIDDEN / RECORD, folder / RECORD)  # noqa: PTH105
    keep_names(folder)


def missing(run: Run, failed: Mapping[int, str]) -> list[dict[str, Any]]:
    """The tiles without a result, as the record lists them: position in the grid, box, error."""
    cores = {tile: run.grid.core(tile) for tile in sorted(failed)}
    return [
        {
            "tile": list(run.grid.position(tile)),
            "box": [list(core.start), list(core.stop)],
            "error": failed[tile],
        }
        for tile, core in cores.items()
    ]


def backdrop(run: Run, shape: tuple[int, ...], step: int) -> npt.NDArray[np.uint8] | None:
    """The image in grey at a picture's scale, (row, column, colour), uint8; None if the reader
    gives another size.

    Parameters
    ----------
    run
        The run, for its image.
    shape
        Rows and columns of the picture.
    step
        How many pixels of the image one of the picture stands for along an axis.
    """
    whole = run.grid.whole
    if len(whole.shape) == 3:
        middle = whole.shape[0] // 2
        whole = Box((middle, 0, 0), (middle + 1, *whole.stop[1:]))
    seen = run.source.glance(whole, step)
    grey = np.nan_to_num(seen.reshape(len(seen), *seen.shape[-2:]).mean(axis=0))
    if grey.shape != shape:
        return None
    low, high = np.percentile(grey, (1, 99))
    scaled = np.clip((grey - low) / max(high - low, 1e-9) * 255, 0, 255).astype(np.uint8)
    return np.repeat(scaled[..., None], 3, axis=2)
