"""Say which values a key allows, in words for people who write YAML by hand."""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pipeline.errors import like, nearest

PLAIN: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    NoneType: "nothing",
    list: "a list, such as [a, b]",
    dict: "keys with values, such as {a: b}",
}
PYTHON: dict[Any, str] = {NoneType: "None", Any: "any value"}
"""Types as Python spells them."""
BOUNDS = {
    "ge": "{ge:g} or more",
    "gt": "more than {gt:g}",
    "le": "{le:g} or less",
    "lt": "less than {lt:g}",
}
NAME = "NAME"
"""Stands for the name of a segmenter in an example."""
FOUND = {
    "int_type": PLAIN[int],
    "int_parsing": PLAIN[int],
    "int_from_float": PLAIN[int],
    "float_type": PLAIN[float],
    "string_type": PLAIN[str],
    "bool_type": PLAIN[bool],
    "list_type": PLAIN[list],
    "dict_type": PLAIN[dict],
    "greater_than_equal": BOUNDS["ge"],
    "greater_than": BOUNDS["gt"],
    "less_than_equal": BOUNDS["le"],
    "less_than": BOUNDS["lt"],
    "string_too_short": "text that is not empty",
    "literal_error": "{expected}",
}
"""The allowed values in words, by pydantic's error type."""
BRIEF = reprlib.Repr()
"""Shortens long values in messages."""
BRIEF.maxlevel = 3
BRIEF.maxstring = 120
BRIEF.maxother = 120
LARGEST = 2**53
"""Up to here every integer is exact as a float."""


def meaning(wanted: Any, words: Mapping[Any, str] = PLAIN) -> str:
    """What a type allows, in words for YAML (`PLAIN`) or for Python (`PYTHON`).

    >>> meaning(float | None), meaning(tuple[int, int]), meaning(Mapping[str, float])
    ('a number or nothing', '[a whole number, a whole number]', '{text: a number}')
    >>> meaning(tuple[float, ...] | None, PYTHON)
    '[float, …] or None'
    """
    kind = get_origin(wanted)
    parts = get_args(wanted)
    told = [_part(part, words) for part in parts]
    if kind is Annotated:
        return told[0]
    if kind in (Union, UnionType, Literal):
        return " or ".join(told)
    if kind is Mapping:
        return f"{{{': '.join(told)}}}"
    if kind in (tuple, list):
        return f"[{', '.join(told)}]"
    return words.get(wanted) or getattr(wanted, "__name__", None) or str(wanted)


def _part(part: Any, words: Mapping[Any, str]) -> str:
    """An argument of a generic type in words: an ellipsis, a literal, or a type."""
    if part is Ellipsis:
        return "…"
    return repr(part) if isinstance(part, str | int) else meaning(part, words)


def choices(wanted: Any) -> tuple[str, ...]:
    """The values that an option may have, if its type lists all of them; else empty.

    >>> choices(Literal["distance", "intensity"] | None), choices(int | Literal["auto"])
    (("'distance'", "'intensity'", 'None'), ())
    """
    parts = get_args(wanted) if get_origin(wanted) in (Union, UnionType) else (wanted,)
    if not all(part is NoneType or get_origin(part) is Literal for part in parts):
        return ()
    values = [value for part in parts for value in (get_args(part) or (None,))]
    return tuple(map(repr, values))


def bounds(wanted: Any) -> list[str]:
    """The bounds of a number in words, from the metadata of its type.

    >>> from pydantic import Field
    >>> bounds(Annotated[float, Field(ge=0, lt=1)])
    ['0 or more', 'less than 1']
    """
    noted = getattr(wanted, "__metadata__", ())
    marks = [mark for note in noted for mark in (getattr(note, "metadata", None) or [note])]
    return [
        words.format_map({end: getattr(mark, end)})
        for mark in marks
        for end, words in BOUNDS.items()
        if getattr(mark, end, None) is not None
    ]


def refusal(where: str, value: Any, allowed: str) -> str:
    """An error message: the key's path, its value, what is allowed, and a hint: the nearest
    spelling, or why YAML read another value than was meant.

    Parameters
    ----------
    where
        The key's path.
    value
        What was given.
    allowed
        What is allowed, in words.

    Examples
    --------
    >>> refusal("stitch.iou", "5e-1", "a number")
    "stitch.iou: '5e-1'; allowed: a number; in YAML this is text: write 0.5, without quotes"
    """
    hint = ""
    if value is None:
        hint = "; nothing stands behind the key"
    elif isinstance(value, bool) and PLAIN[bool] not in allowed:
        hint = "; YAML reads yes, no, on and off as true and false, unless quoted"
    elif isinstance(value, float) and not math.isfinite(value):
        hint = "; a finite one"
    elif isinstance(value, str):
        number = _number(value) if "number" in allowed else None
        hint = (
            f"; in YAML this is text: write {number}, without quotes"
            if number
            else like(value, re.findall("'([^']+)'", allowed))
        )
    return f"{where}: {BRIEF.repr(value)}; allowed: {allowed}{hint}"


def explained(
    faults: Iterable[Any],
    keys: Mapping[str, Iterable[str]],
    elsewhere: Callable[[str, str], str],
    segmenters: Sequence[str] = (NAME,),
) -> list[str]:
    """Error messages for what pydantic found, a line for each key.

    Parameters
    ----------
    faults
        The errors of a ValidationError. If one comes from a validator of ours that raised a
        JobError, each of its lines that begins with ``.``, ``[`` or ``:`` is put after the path of
        the validated part.
    keys
        The allowed keys of each part of the job, by the part's path; "" is the whole job.
    elsewhere
        Called with an unknown key and the path above it; returns a hint which other part has that
        key.
    segmenters
        The names that ``use`` in a rule may have; the first stands in examples.
    """
    lines: dict[str, list[str]] = {}
    told: dict[str, Any] = {}
    for fault in faults:
        where = _path(fault["loc"])
        value = fault["input"]
        above, _, last = where.rpartition(".")
        if fault["type"] == "value_error":
            for line in str(fault["ctx"]["error"]).splitlines():
                lines[_within(line, where)] = []
        elif fault["type"] == "missing":
            hint = f"; {nearest('', segmenters)}" if last == "use" else ""
            lines[f"{where} is missing{hint}"] = []
        elif fault["type"] == "extra_forbidden":
            hint = f"{nearest(last, keys[above])}{elsewhere(last, above)}"
            lines[f"{where}: there is no such key; {hint}"] = []
        else:
            told[where] = value
            allowed = _allowed(fault, keys.get(where, ())).replace(NAME, segmenters[0])
            lines.setdefault(where, []).append(allowed)
    whole = {
        where
        for where in told
        if not any(other.startswith((f"{where}[", f"{where}.")) for other in told)
    }
    return [
        refusal(line, told[line], ", or ".join(lines[line])) if line in told else line
        for line in lines
        if line in whole or line not in told
    ]


def _within(line: str, where: str) -> str:
    """A line that begins with a relative path, with the full path in front."""
    return f"{where}{line}".removeprefix(".") if line.startswith((".", "[", ":")) else line


def _path(location: Iterable[str | int]) -> str:
    """A key's path, ``output.labels[0]``, without the names that pydantic adds for the alternatives
    of a union.
    """
    steps = [
        step
        for step in location
        if not re.match(
            r"(literal|list|function-\w+|constrained-\w+|int|str|float|bool)(\[.*)?$", str(step)
        )
    ]
    if steps and steps[-1] == "[key]":
        return f"a key of {_path(steps[:-2])}"
    return "".join(
        f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps
    ).removeprefix(".")


def _allowed(fault: Any, keys: Iterable[str]) -> str:
    if fault["type"] == "model_type":
        return f"the keys {', '.join(sorted(keys))}"
    words = FOUND.get(fault["type"])
    if words is None:
        return str(fault["msg"])
    return words.format_map(fault["ctx"]) if "ctx" in fault else words


def _number(text: str) -> str | None:
    """A number that YAML read as text, such as 1e-3 or a quoted one, in a spelling that YAML reads
    as a number; None if the text is not a number.
    """
    try:
        number = float(text)
    except ValueError:
        return None
    if not math.isfinite(number):
        return None
    if number.is_integer() and abs(number) < LARGEST:
        return str(int(number))
    return repr(number) if "." in repr(number) else repr(number).replace("e", ".0e")
