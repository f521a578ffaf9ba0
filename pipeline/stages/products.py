"""The products of a result by name, and their owners.

After any run, its folder holds the products of that run, and no other file with such a name. The
record lists the products with sizes and checksums, so products of an earlier run can be told from
files that somebody added or changed, which are never removed. While products are replaced, the
earlier complete result is kept, hidden, until the new one is complete.
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

COG, CLASSES_COG = "labels.tif", "classes.tif"
OME_TIFF, CLASSES_OME_TIFF = "labels.ome.tif", "classes.ome.tif"
TABLE, LINES, PICTURE = "objects.parquet", "lines.gpkg", "overview.png"
PUBLISHED = (
    *(LABELS, COG, OME_TIFF, CLASSES, CLASSES_COG, f"{CLASSES_COG}.aux.xml", CLASSES_OME_TIFF),
    *(SEGMENTS, SEGMENTS_INFO, TABLE, LINES, PICTURE),
)
BESIDE = (".aux.xml", ".ovr", ".msk", "-wal", "-shm", "-journal")
"""Suffixes of files that other programs add beside a product; beside another product of that name
they are wrong.
"""
NAMES = (
    *PUBLISHED,
    *(f"{name}{end}" for name in PUBLISHED for end in BESIDE if f"{name}{end}" not in PUBLISHED),
)
"""Names of products."""
HIDDEN = ".tilewise"
"""The folder in a result's for other files."""
BEFORE, JOURNAL = "before", "published.json"
"""In it: the result that a run replaces, and the list of the products that it puts there."""

Inventory = dict[str, dict[str, Any]]
"""By name: ``bytes`` and ``sha256`` of a file; ``bytes`` and ``files`` of a Zarr, with checksums in
its chunks.
"""

logger = logging.getLogger("pipeline")


def inventory(folder: Path) -> Inventory:
    """List the files of a folder with names of products."""
    return {name: _described(folder / name) for name in PUBLISHED if (folder / name).exists()}


def listed(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The products in a record; without a list, all possible names."""
    every = dict.fromkeys(PUBLISHED) if "results" in record else {}
    return dict(record.get("products", every))


def gone(folder: Path, record: Mapping[str, Any]) -> list[str]:
    """The products in a record that no longer exist."""
    return [name for name in record.get("products", ()) if not (folder / name).exists()]


def strangers(folder: Path) -> list[str]:
    """Files with names of products that no run has made."""
    known = _known(folder)
    return [
        name
        for name in PUBLISHED
        if (folder / name).exists() and not name.endswith(BESIDE) and not _is(folder / name, known)
    ]


def clear(folder: Path, coming: Inventory) -> None:
    """Make room for products: put an earlier result away, and rename files of others.

    Can be repeated after any interruption: files in the old record that are not put away yet belong
    to the old result, files in the journal to this run.
    """
    hidden = folder / HIDDEN
    kept, known = hidden / BEFORE, _known(folder)
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
    """Forget the replaced result: the new one is complete, or there is none."""
    for name in (BEFORE, JOURNAL):
        discard(folder / HIDDEN / name)


def kept(folder: Path) -> str:
    """The record of the complete result that a run has put away; empty without one."""
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
    """Put the record of a result away first: nothing looks complete without its products."""
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
    """Files with names of products, and files of other programs beside them."""
    yield from (folder / name for name in NAMES if os.path.lexists(folder / name))


def _known(folder: Path) -> list[Mapping[str, Any]]:
    """All lists of products that runs have made."""
    hidden = folder / HIDDEN
    try:
        journal = json.loads((hidden / JOURNAL).read_bytes())
    except (OSError, ValueError):
        journal = {}
    return [_of(folder / RECORD), _of(hidden / BEFORE / RECORD), journal]


def _of(path: Path) -> Mapping[str, Any]:
    """The products in a record; empty if it is missing or damaged."""
    try:
        return listed(parsed(path.read_bytes(), str(path)))
    except OSError:
        return {}


def _is(path: Path, known: list[Mapping[str, Any]]) -> bool:
    """Whether a file or folder matches an entry of one of some lists."""
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
    """Rename a file that no run has made."""
    number, new = 1, path.with_name(f"{path.name}.before")
    while os.path.lexists(new):
        number += 1
        new = path.with_name(f"{path.name}.before-{number}")
    path.rename(new)
    logger.warning("%s was not as a run has left it; it is kept as %s", path, new.name)
