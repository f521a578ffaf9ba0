"""The products of a run, by name, and who made each file of these names. After a run its folder
holds the products of that run and nothing else under their names.

The record lists the products with their sizes and checksums. So a product that an earlier run left
is told from a file that somebody put there or changed, and such a file is never removed. While
products are replaced, the complete result that lay there before is kept in the hidden folder until
the new one is complete.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import OutputError
from pipeline.stages.panoptic import SEGMENTS, SEGMENTS_INFO
from pipeline.stages.publish import CLASSES, LABELS
from pipeline.storage.atomic_files import commit, discard
from pipeline.storage.run_record import RECORD, parsed, read_record

COG = "labels.tif"
CLASSES_COG = "classes.tif"
OME_TIFF = "labels.ome.tif"
CLASSES_OME_TIFF = "classes.ome.tif"
TABLE = "objects.parquet"
LINES = "lines.gpkg"
PICTURE = "overview.png"
PUBLISHED = (
    *(LABELS, COG, OME_TIFF, CLASSES, CLASSES_COG, f"{CLASSES_COG}.aux.xml", CLASSES_OME_TIFF),
    *(SEGMENTS, SEGMENTS_INFO, TABLE, LINES, PICTURE),
)
BESIDE = (".aux.xml", ".ovr", ".msk", "-wal", "-shm", "-journal")
"""Endings of the files that other programs write beside a product when they read it. They are wrong
for another product under the same name.
"""
NAMES = (
    *PUBLISHED,
    *(f"{name}{end}" for name in PUBLISHED for end in BESIDE if f"{name}{end}" not in PUBLISHED),
)
"""All names of products, and of files that other programs write beside them."""
HIDDEN = ".tilewise"
"""The folder in a result's folder for everything but products."""
BEFORE = "before"
JOURNAL = "published.json"
"""In it: the result that a run replaces, and the list of the products that the run moves there."""

Inventory = dict[str, dict[str, Any]]
"""By name: ``bytes`` and ``sha256`` of a file; ``bytes`` and ``files`` of a Zarr store, in which
each chunk has a checksum.
"""

logger = logging.getLogger("pipeline")


def inventory(folder: Path) -> Inventory:
    """The products in a folder."""
    return {name: _described(folder / name) for name in PUBLISHED if (folder / name).exists()}


def listed(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The products that a record lists. If it has no list: all that may be there, each as None."""
    every = dict.fromkeys(PUBLISHED) if "results" in record else {}
    return dict(record.get("products", every))


def gone(folder: Path, record: Mapping[str, Any]) -> list[str]:
    """The products that a record lists and that are no longer there."""
    return [name for name in record.get("products", ()) if not (folder / name).exists()]


def strangers(folder: Path) -> list[str]:
    """The files under names of products that are not as a run has left them."""
    known = _known(folder)
    return [
        name
        for name in PUBLISHED
        if (folder / name).exists() and not name.endswith(BESIDE) and not _is(folder / name, known)
    ]


def clear(folder: Path, coming: Inventory) -> None:
    """Make room for products: the result of an earlier run is moved to where it is kept, and files
    that no run has written get another name.

    It can be called again wherever it ended: a product that the old record lists and that is not
    kept yet is the old result's, and one that the journal lists is this run's.

    Parameters
    ----------
    folder
        The result's folder.
    coming
        The products that will be moved there, for the journal.
    """
    hidden = folder / HIDDEN
    kept = hidden / BEFORE
    known = _known(folder)
    _keep_record(folder, kept)
    old = _of(kept / RECORD)
    for path in _found(folder):
        if not _is(path, known):
            _set_aside(path)
        elif path.name in old and not (kept / path.name).exists():
            # the commit points, named as tests name them
            os.replace(path, kept / path.name)  # noqa: PTH105
        else:
            discard(path, hidden)
    commit(hidden / JOURNAL, json.dumps(coming).encode(), lasting=True)


def settled(folder: Path) -> None:
    """Remove the result that was replaced, and the journal: the new result is complete."""
    for name in (BEFORE, JOURNAL):
        discard(folder / HIDDEN / name)


def kept(folder: Path) -> str:
    """The end of a message: where the complete result is kept that a run replaces; empty if there
    is none.
    """
    before = folder / HIDDEN / BEFORE
    try:
        record = read_record(before)
    except OutputError:
        return ""
    return (
        f"; the complete result that lay there before is kept in {before}"
        if record and record["complete"]
        else ""
    )


def _keep_record(folder: Path, kept: Path) -> None:
    """Move the record of a result away first, so that nothing looks complete while its products
    are moved.
    """
    path = folder / RECORD
    try:
        record = read_record(folder)
    except OutputError:
        _set_aside(path) if path.stat().st_size else path.unlink()
        return
    if record and listed(record):
        discard(kept)
        kept.mkdir(parents=True)
        os.replace(path, kept / RECORD)  # noqa: PTH105
    else:
        path.unlink(missing_ok=True)


def _found(folder: Path) -> Iterator[Path]:
    """The files and folders under `NAMES`."""
    yield from (folder / name for name in NAMES if os.path.lexists(folder / name))


def _known(folder: Path) -> list[Mapping[str, Any]]:
    """The lists of products that runs have moved there."""
    hidden = folder / HIDDEN
    try:
        journal = json.loads((hidden / JOURNAL).read_bytes())
    except (OSError, ValueError):
        journal = {}
    return [_of(folder / RECORD), _of(hidden / BEFORE / RECORD), journal]


def _of(path: Path) -> Mapping[str, Any]:
    """The products that a record lists; none if it is not there, or is damaged."""
    try:
        return listed(parsed(path.read_bytes(), str(path)))
    except OSError:
        return {}


def _is(path: Path, known: list[Mapping[str, Any]]) -> bool:
    """Whether a file or folder is as one of the lists says."""
    told = [each[path.name] for each in known if path.name in each]
    return None in told or (bool(told) and path.exists() and _described(path) in told)


def _described(path: Path) -> dict[str, Any]:
    if path.is_dir():
        sizes = [each.stat().st_size for each in path.rglob("*") if each.is_file()]
        return {"files": len(sizes), "bytes": sum(sizes)}
    with path.open("rb") as file:
        return {
            "bytes": path.stat().st_size,
            "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
        }


def _set_aside(path: Path) -> None:
    """Give a file that no run has made another name."""
    number = 1
    new = path.with_name(f"{path.name}.before")
    while os.path.lexists(new):
        number += 1
        new = path.with_name(f"{path.name}.before-{number}")
    path.rename(new)
    logger.warning("%s was not as a run has left it; it is kept as %s", path, new.name)
