"""What a key may be, in words for people who write YAML by hand. (DESIGN names no such room: jobs
and plug-ins share it.)
"""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Callable, Iterable, Mapping
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

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
FOUND = {
    "int_type": PLAIN[int],
    "int_parsing": PLAIN[int],
    "int_from_float": PLAIN[int],
    "float_type": PLAIN[float],
    "string_type": PLAIN[str],
    "bool_type": PLAIN[bool],
    "list_type": PLAIN[list],
    "dict_type": PLAIN[dict],
    "greater_than_equal": "{ge:g} or more",
    "greater_than": "more than {gt:g}",
    "less_than_equal": "{le:g} or less",
    "string_too_short": "text that is not empty",
    "literal_error": "{expected}",
}
"""By pydantic's type of a fault, what it says is allowed."""
BRIEF = reprlib.Repr()
"""Values as messages show them: a long one not whole."""
BRIEF.maxlevel, BRIEF.maxstring, BRIEF.maxother = 3, 120, 120
LARGEST = 2**53
"""Up to here every whole number is a float too."""


def meaning(wanted: Any) -> str:
    """What a type stands for in YAML.

    >>> meaning(float | None), meaning(tuple[int, int]), meaning(Mapping[str, float])
    ('a number or nothing', '[a whole number, a whole number]', '{text: a number}')
    """
    kind, parts = get_origin(wanted), get_args(wanted)
    if kind in (Union, UnionType):
        return " or ".join(map(meaning, parts))
    if kind is Literal:
        return " or ".join(map(repr, parts))
    if kind is Mapping:
        return f"{{{': '.join(map(meaning, parts))}}}"
    if kind in (tuple, list):
        return f"[{', '.join('…' if part is Ellipsis else meaning(part) for part in parts)}]"
    return PLAIN.get(wanted) or getattr(wanted, "__name__", None) or str(wanted)


def refusal(where: str, value: Any, allowed: str) -> str:
    """The key's path, its value and what is allowed; the nearest spelling, or how YAML came to read
    another value than was meant.

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
    faults: Iterable[Any], keys: Mapping[str, Iterable[str]], elsewhere: Callable[[str, str], str]
) -> list[str]:
    """What pydantic found, a line for each key.

    ``keys``: by path of a part of the job, "" for all of it, the keys that it may have.
    ``elsewhere`` tells of a key that is not known what else has it.
    """
    lines: dict[str, list[str]] = {}
    told: dict[str, Any] = {}
    for fault in faults:
        where, value = _path(fault["loc"]), fault["input"]
        if fault["type"] == "value_error":
            return [str(fault["ctx"]["error"])]
        if fault["type"] == "missing":
            lines[f"{where} is missing"] = []
        elif fault["type"] == "extra_forbidden":
            above, _, last = where.rpartition(".")
            lines[
                f"{where}: there is no such key; "
                f"{nearest(last, keys[above])}{elsewhere(last, above)}"
            ] = []
        else:
            told[where] = value
            lines.setdefault(where, []).append(_allowed(fault, keys.get(where, ())))
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


def _path(location: Iterable[str | int]) -> str:
    """A key's path: ``output.labels[0]``, without pydantic's names for the choices that
    it tried.
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
    """A number that YAML took for text, such as 1e-3 or one in quotes, as YAML takes it for a
    number; None where it is none.
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
