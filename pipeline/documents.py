"""YAML files that people write: read, and changed by dotted keys. (DESIGN names no such room: jobs and cards share it.)"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import JobError


def read(path: Path, what: str) -> Any:
    """What a YAML file holds; JobError, which calls it ``what``, if it cannot be read."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise JobError(f"{what} {path.absolute()} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    except yaml.YAMLError as error:
        raise JobError(f"{what} {path} is no YAML: {' '.join(str(error).split())}") from error


def change(parts: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Put values by dotted key, such as ``{"tiles.size": 512}``, in the place of a file's."""
    for key, value in changes.items():
        at, (*above, last) = parts, key.split(".")
        for name in above:
            below = at.setdefault(name, {})
            if not isinstance(below, dict):
                raise JobError(f"{key}: {name} is {below!r}, which has no keys of its own")
            at = below
        at[last] = value
