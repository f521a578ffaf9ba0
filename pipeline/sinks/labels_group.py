"""Labels in the ``labels`` group of their OME-Zarr image; nothing else in the image is changed.

Labels are moved there in one step, and only then listed by the group. After a crash in between, no
reader finds these labels, and the same run recognizes its own by their mark and continues.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import JobError, OutputError, SourceError
from pipeline.storage.locks import locked
from pipeline.storage.ome_image import Home

MARK = "tilewise"
"""The attribute of labels that names their run."""
LOCK = ".tilewise.lock"
WAIT = 600.0
"""Lock file of a list of labels, and seconds to wait for it."""


@dataclass(frozen=True, slots=True)
class Nest:
    """The place of a run's labels in an image."""

    home: Home
    name: str
    """Name of the labels."""

    mark: str
    """Identifies the run."""

    replace: bool = False
    """Whether other labels of this name may be replaced."""

    @property
    def path(self) -> Path:
        """The folder of the labels."""
        return self._group / self.name

    @property
    def _group(self) -> Path:
        return Path(self.home.path, "labels")

    def __post_init__(self) -> None:
        if not re.fullmatch("[A-Za-z0-9][A-Za-z0-9_.-]*", self.name):
            raise JobError(
                f"output.into_source: {self.name!r}; allowed: a name of letters, digits, _, - and ."
            )

    def refuse(self) -> None:
        """Check the place before the run.

        JobError if labels of that name exist; OutputError if nothing can be written; SourceError if
        the list of labels cannot be read.
        """
        self._listed()  # refused now where it cannot be read
        if self.path.exists() and not self.replace and self._marked() != self.mark:
            raise JobError(
                f"output.into_source: {self.name!r}; {self.home.path} has labels of that name; "
                f"allowed: another name, or to replace them: "
                "replace_in_source: true"
            )
        if not os.access(self._group if self._group.exists() else self.home.path, os.W_OK):
            raise OutputError(
                f"output.into_source: {self.home.path} cannot be written; allowed: an image that "
                f"can"
            )

    def settle(self, staged: Path) -> None:
        """Move staged labels to their place and list them. Can be repeated."""
        try:
            self._group.mkdir(exist_ok=True)
            with locked(self._group / LOCK, str(self._group), wait=WAIT, stays=False):
                self.refuse()
                self._place(staged)
                self._list()
        except OutputError:
            raise
        except OSError as error:
            raise OutputError(
                f"{self.path} cannot be written: {error.strerror or error}; make room, then run "
                f"the same command"
            ) from error

    def _place(self, staged: Path) -> None:
        partial, old = (self._group / f".{self.name}.{kind}" for kind in ("partial", "old"))
        for left in (partial, old):  # by a run that died here
            shutil.rmtree(left, ignore_errors=True)
        shutil.move(staged, partial)  # where that is another disk, a copy
        if self.path.exists():
            os.replace(self.path, old)  # noqa: PTH105  the commit points, named as tests name them
        os.replace(partial, self.path)  # noqa: PTH105
        shutil.rmtree(old, ignore_errors=True)

    def _listed(self) -> list[str]:
        """The names in the group's list."""
        found = self._metadata()
        known = found.get("attributes", {}).get("ome", {}) if self.home.version == "0.5" else found
        return list(known.get("labels", []))

    def _list(self) -> None:
        """Add the name to the group's list and keep its other metadata."""
        found = self._metadata()
        names = self._listed()
        if self.home.version == "0.4" and not (self._group / ".zgroup").exists():
            _write(self._group / ".zgroup", {"zarr_format": 2})
        if self.name in names:
            return
        if self.home.version == "0.4":
            found["labels"] = [*names, self.name]
        else:
            attributes = dict(found.get("attributes", {}))
            attributes["ome"] = {
                "version": self.home.version,
                **attributes.get("ome", {}),
                "labels": [*names, self.name],
            }
            found = {"zarr_format": 3, "node_type": "group", **found, "attributes": attributes}
        _write(self._file, found)

    @property
    def _file(self) -> Path:
        return self._group / (".zattrs" if self.home.version == "0.4" else "zarr.json")

    def _metadata(self) -> dict[str, Any]:
        return _read(self._file)

    def _marked(self) -> str | None:
        """The run that made the existing labels."""
        if self.home.version == "0.4":
            return _read(self.path / ".zattrs").get(MARK)
        return _read(self.path / "zarr.json").get("attributes", {}).get(MARK)  # type: ignore[no-any-return]


def _read(path: Path) -> dict[str, Any]:
    """Read a JSON file; empty without one."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise SourceError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise SourceError(f"{path} holds {type(found).__name__}; allowed: keys with values")
    return found


def _write(path: Path, what: dict[str, Any]) -> None:
    """Write a JSON file atomically."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(what, indent=2, ensure_ascii=False), encoding="utf-8")
    os.replace(partial, path)  # noqa: PTH105
