"""YAML files that people write: read, and changed by dotted keys. (DESIGN names no such room: jobs and cards share it.)"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from pipeline.errors import JobError, nearest

T = TypeVar("T")

MERGE = "tag:yaml.org,2002:merge"


def read(path: Path, what: str) -> Any:
    """What a YAML file holds; JobError, which calls it ``what``, if it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise JobError(f"{what} {path} is no text: byte {error.start} is no UTF-8; allowed: YAML, saved as UTF-8") from error
    except OSError as error:
        raise JobError(f"{what} {path.absolute()} cannot be read: {error.strerror or error}") from error
    return parse(text, f"{what} {path}")


def parse(text: str, what: str) -> Any:
    """What YAML holds; JobError, which calls it ``what``, if it is none, or gives a key twice."""
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        _refuse_twice(node, what, "", set())
        return None if node is None else loader.construct_document(node)
    except JobError:
        raise
    except yaml.MarkedYAMLError as error:
        raise JobError(f"{what} is no YAML: {_told(error)}") from error
    except RecursionError as error:
        raise JobError(f"{what} is no YAML that can be read: it is nested too deeply") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that there is not
        raise JobError(f"{what} is no YAML: {' '.join(str(error).split())}") from error
    finally:
        loader.dispose()


def change(parts: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Put values by dotted key, such as ``{"tiles.size": 512}``, in the place of a file's."""
    for key, value in changes.items():
        if not all(key.split(".")):
            raise JobError(f"{key!r} is no key's path; allowed: names with dots between them, such as tiles.size")
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


def _refuse_twice(node: Any, what: str, path: str, seen: set[int]) -> None:
    """JobError for a key that a mapping has twice: YAML's readers keep the last, and say nothing."""
    if id(node) in seen:  # an anchor's, again
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for number, part in enumerate(node.value):
            _refuse_twice(part, what, f"{path}[{number}]", seen)
    elif isinstance(node, yaml.MappingNode):
        lines: dict[tuple[str, str], int] = {}
        for key, value in node.value:
            name, line = (key.tag, str(key.value)), key.start_mark.line + 1
            here = f"{path}.{key.value}".removeprefix(".")
            if name in lines and key.tag != MERGE:
                at = f"in line {line}" if line == lines[name] else f"in lines {lines[name]} and {line}"
                raise JobError(f"{what}: {here} is given twice, {at}; allowed: once")
            lines[name] = line
            _refuse_twice(value, what, here, seen)


def _told(error: yaml.MarkedYAMLError) -> str:
    """What is wrong and where, in one line."""
    begun = f" that begins in line {error.context_mark.line + 1}" if error.context and error.context_mark else ""
    told = f"{error.context}{begun}, {error.problem}" if error.context else str(error.problem)
    where = f" in line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}" if error.problem_mark else ""
    return f"{told}{where}" + ("; indent with spaces" if "\\t" in str(error.problem) else "")
