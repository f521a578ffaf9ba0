"""Read YAML and JSON files that people write, within bounds; change values by dotted keys."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from pipeline.errors import JobError, SourceError, nearest

T = TypeVar("T")

MERGE = "tag:yaml.org,2002:merge"
LONGEST = 1 << 24
"""The most characters of a YAML document."""
TIMES = 16
"""How many times as long a document may become once its aliases are written out."""
LITTLE = 1 << 16
"""The size in characters that a document may reach in any case."""
WORD = 4096
"""The most characters of a number or date: Python takes very long to read a longer one."""
WORDS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp")
LARGEST = 1 << 30
"""The most bytes of a JSON file."""


def read(path: Path, what: str) -> Any:
    """Read a YAML file; JobError, which calls the file ``what``, if it cannot be read."""
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(LONGEST + 1)
    except UnicodeDecodeError as error:
        raise JobError(
            f"{what} {path} is no text: byte {error.start} is no UTF-8; allowed: YAML, saved as "
            f"UTF-8"
        ) from error
    except OSError as error:
        raise JobError(
            f"{what} {path.absolute()} cannot be read: {error.strerror or error}"
        ) from error
    return parse(text, f"{what} {path}")


def parse(text: str, what: str) -> Any:
    """Parse YAML. JobError, which calls the text ``what``, if it is not YAML, gives a key twice, or
    becomes much longer by its aliases.
    """
    if len(text) > LONGEST:
        raise JobError(
            f"{what} is longer than {LONGEST} characters; allowed: up to these; give long lists "
            f"as files"
        )
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        _refuse_growth(node, what, max(TIMES * len(text), LITTLE))
        _refuse_twice(node, what, "", set())
        return None if node is None else loader.construct_document(node)
    except JobError:
        raise
    except yaml.MarkedYAMLError as error:
        raise JobError(f"{what} is no YAML: {_told(error)}") from error
    except RecursionError as error:
        raise JobError(f"{what} is no YAML that can be read: it is nested too deeply") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that does not exist
        raise JobError(f"{what} is no YAML: {' '.join(str(error).split())}") from error
    finally:
        loader.dispose()


def read_json(path: Path, what: str) -> Any:
    """Read a JSON file that another program wrote; SourceError, which calls it ``what``, if it
    cannot be read.
    """
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise SourceError(f"{what} {path} cannot be read: {error.strerror or error}") from error
    if len(data) > LARGEST:
        raise SourceError(f"{what} {path} has more than {LARGEST} bytes; allowed: up to these")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise SourceError(
            f"{what} {path} is no JSON that can be read: {type(error).__name__}: {error}"
        ) from error


def change(parts: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Replace values in a mapping by dotted key, such as ``{"tiles.size": 512}``."""
    for key, value in changes.items():
        if not all(key.split(".")):
            raise JobError(
                f"{key!r} is no key's path; allowed: names with dots between them, such as "
                f"tiles.size"
            )
        at, (*above, last) = parts, key.split(".")
        for name in above:
            below = at.setdefault(name, {})
            if not isinstance(below, dict):
                raise JobError(f"{key}: {name} is {below!r}, which has no keys of its own")
            at = below
        at[last] = value


def made(kind: type[T], options: Mapping[str, Any], where: str) -> T:
    """Make a dataclass from its options; JobError, which begins with ``where``, if an option is
    unknown or its value is not allowed.
    """
    names = [one.name for one in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for key in options:
        if key not in names:
            raise JobError(f"{where}.{key}: there is no such key; {nearest(str(key), names)}")
    try:
        return kind(**options)
    except (JobError, TypeError, ValueError) as error:
        raise JobError(f"{where}.{error}") from error


def _refuse_growth(root: Any, what: str, most: int) -> None:
    """Raise JobError if a document is too long once every alias is replaced by its anchor's value,
    or if an anchor contains itself.
    """
    sizes: dict[int, int | None] = {}

    def size(node: Any) -> int:
        if id(node) in sizes:
            known = sizes[id(node)]
            if known is None:
                raise JobError(
                    f"{what}: an anchor in line {node.start_mark.line + 1} holds itself; "
                    f"allowed: what ends"
                )
            return known
        sizes[id(node)] = None
        if isinstance(node, yaml.ScalarNode):
            if node.tag in WORDS and len(node.value) > WORD:
                raise JobError(
                    f"{what}: a number of {len(node.value)} characters in line "
                    f"{node.start_mark.line + 1}; allowed: {WORD}"
                )
            found = 1 + len(node.value)
        else:
            found = 1 + sum(
                size(each)
                for part in node.value
                for each in (part if isinstance(part, tuple) else (part,))
            )
        if found > most:
            raise JobError(
                f"{what} becomes longer than {most} characters by its anchors; allowed: fewer "
                f"aliases (*), each written out"
            )
        sizes[id(node)] = found
        return found

    if root is not None:
        size(root)


def _refuse_twice(node: Any, what: str, path: str, seen: set[int]) -> None:
    """Raise JobError if a mapping has a key twice: YAML readers silently keep the last."""
    if id(node) in seen:  # an anchor's node, again
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for number, part in enumerate(node.value):
            _refuse_twice(part, what, f"{path}[{number}]", seen)
    elif isinstance(node, yaml.MappingNode):
        lines: dict[tuple[str, str], int] = {}
        for key, value in node.value:
            name = (key.tag, str(key.value))
            line = key.start_mark.line + 1
            here = f"{path}.{key.value}".removeprefix(".")
            if name in lines and key.tag != MERGE:
                at = (
                    f"in line {line}"
                    if line == lines[name]
                    else f"in lines {lines[name]} and {line}"
                )
                raise JobError(f"{what}: {here} is given twice, {at}; allowed: once")
            lines[name] = line
            _refuse_twice(value, what, here, seen)


def _told(error: yaml.MarkedYAMLError) -> str:
    """What is wrong and where, in one line."""
    begun = (
        f" that begins in line {error.context_mark.line + 1}"
        if error.context and error.context_mark
        else ""
    )
    told = f"{error.context}{begun}, {error.problem}" if error.context else str(error.problem)
    where = (
        f" in line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}"
        if error.problem_mark
        else ""
    )
    return f"{told}{where}" + ("; indent with spaces" if "\\t" in str(error.problem) else "")


def written(facts: Mapping[str, Any]) -> str:
    r"""Facts as YAML, in their order; innermost lists and mappings each on one line.

    >>> written({"shape": (2, 3), "crs": None})
    'shape: [2, 3]\ncrs: null\n'
    """
    text: str = yaml.dump(
        facts, Dumper=_Dumper, sort_keys=False, default_flow_style=None, allow_unicode=True
    )
    return text


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """A text; with escapes if it holds what YAML 1.1 reads as the end of a line."""
    style = '"' if set(text) & set("\x85\u2028\u2029") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


class _Dumper(yaml.SafeDumper):
    """Writes tuples as lists."""


_Dumper.add_representer(tuple, yaml.SafeDumper.represent_list)
_Dumper.add_representer(str, _text)
