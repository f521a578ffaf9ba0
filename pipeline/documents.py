"""YAML files that people write: read, and changed by dotted keys. (DESIGN names no such room: jobs and cards share it.)"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from pipeline.errors import JobError, nearest

T = TypeVar("T")


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


def made(kind: type[T], options: Mapping[str, Any], where: str) -> T:
    """A value of a dataclass from its options; JobError, naming ``where`` they stand, where one is unknown or does not hold."""
    names = [one.name for one in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for key in options:
        if key not in names:
            raise JobError(f"{where}.{key}: there is no such key; {nearest(str(key), names)}")
    try:
        return kind(**options)
    except (JobError, TypeError, ValueError) as error:
        raise JobError(f"{where}.{error}") from error
