"""The run's record, ``run.json``: it marks a folder or an address as a result. It is read with
care.

It is written last, so a result without it is incomplete. A damaged disk may leave it truncated or
empty, and it may belong to another program.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import OutputError
from pipeline.storage.locations import joined, read

RECORD = "run.json"
ALWAYS: Mapping[str, type] = {
    "complete": bool,
    "missing": list,
    "job": dict,
    "plan.frame": dict,
    "plan.tiles": dict,
    "identity.source": dict,
    "identity.tiles.memory": int,
}
"""Keys of every record, and their types."""
PUBLISHED: Mapping[str, type] = {
    "results": list,
    "objects": int,
    "certificates": dict,
    "legend": dict,
}
"""Keys of a record with products."""


def parsed(data: str | bytes, where: str) -> dict[str, Any]:
    """Parse a record; OutputError, naming ``where``, if it is something else or damaged."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        why = (
            "it is empty" if not data.strip() else f"it is no JSON: {' '.join(str(error).split())}"
        )
        raise OutputError(_refusal(where, why)) from error
    wanted = {
        **ALWAYS,
        **(
            PUBLISHED
            if isinstance(found, dict) and (found.get("complete") or "results" in found)
            else {}
        ),
    }
    for path, kind in wanted.items():
        what: Any = found
        for key in path.split("."):
            what = what.get(key) if isinstance(what, dict) else None
        if not isinstance(what, kind):
            raise OutputError(
                _refusal(
                    where, f"{path} is {'missing' if what is None else 'something else'} in it"
                )
            )
    return dict(found)


def read_record(folder: Path) -> dict[str, Any] | None:
    """Read the record in a folder; None without one."""
    path = folder / RECORD
    try:
        return parsed(path.read_bytes(), str(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"{path} cannot be read: {error.strerror}") from error


def read_at(address: str) -> dict[str, Any] | None:
    """Read the record at an address; None without one."""
    data = read(address, RECORD)
    return None if data is None else parsed(data, joined(address, RECORD))


def _refusal(where: str, why: str) -> str:
    return (
        f"{where} is damaged, or not of tilewise: {why}; run the job anew (--fresh), or "
        f"choose another output"
    )
