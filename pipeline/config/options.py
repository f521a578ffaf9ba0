"""Options as people write them, of segmenters, steps and readers: unknown ones are refused, values
are of the option's type.

One mechanism for YAML, the command line and Python: a NumPy number is a number, an array or a range
is a list, one value stands for a list of one. What a value may be is what the class's annotations
say.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import re
import typing
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import numpy as np

from pipeline.config.messages import meaning, refusal
from pipeline.errors import JobError, nearest

SEGMENTERS, STEPS = "pipeline.segmenters", "pipeline.steps"
SECTIONS = ("tiles", "stitch", "output")


@functools.cache
def kinds(group: str = SEGMENTERS) -> Mapping[str, EntryPoint]:
    """The kinds that are installed, by name, none of them loaded; looked up once, which takes
    several milliseconds.
    """
    return {point.name: point for point in sorted(entry_points(group=group))}


def names(kind: type[Any]) -> tuple[str, ...]:
    """The options of a class: its constructor's parameters."""
    return tuple(inspect.signature(kind).parameters)


def taken(
    kind: type[Any], given: Mapping[Any, Any], where: str, *, unknown: str, stated: bool = False
) -> dict[str, Any]:
    """Options of the types that a class's annotations say.

    Parameters
    ----------
    kind
        The class.
    given
        What was written, by option.
    where
        The path of the options in the job, such as ``segmenters.land``; "": they are a reader's,
        and named alone.
    unknown
        What is said of an option that the class has not: ``there is no such option``.
    stated
        Whether numbers are as files state them: text is a number where no text is allowed, and NaN
        and infinity are numbers.

    Raises
    ------
    JobError
        Names the option, its value and what is allowed, and of an unknown one what else has an
        option of that name.
    """
    allowed, types, found = names(kind), annotated(kind), {}
    for key, value in given.items():
        path = f"{where}.{key}" if where else str(key)
        if key not in allowed:
            raise JobError(
                f"{path}: {unknown}; "
                f"{nearest(str(key), allowed)}{elsewhere(key, where or 'source')}"
            )
        found[key] = typed(value, types.get(key, Any), path, stated=stated)
    return found


def typed(value: Any, wanted: Any, where: str, *, stated: bool = False) -> Any:
    """A value of a type; JobError says ``where`` it stands, what was given and what is allowed."""
    from pydantic import PydanticSchemaGenerationError, TypeAdapter, ValidationError

    if wanted is Any and not isinstance(
        value, str | int | float | list | tuple | Mapping | NoneType
    ):  # an image in memory, a function
        return value
    try:
        written = json.dumps(_fitting(plain(value), wanted, stated=stated), allow_nan=stated)
        return TypeAdapter(wanted).validate_json(written, strict=True)
    except PydanticSchemaGenerationError:  # a type of somebody's own
        return value
    except (ValidationError, TypeError, ValueError) as error:
        raise JobError(refusal(where, value, meaning(wanted))) from error


def plain(value: Any) -> Any:
    """A value as JSON has it: NumPy's numbers as Python's, arrays, tuples, ranges and sets as
    lists, paths as text.

    >>> plain((np.float32(0.5), np.arange(2), range(2)))
    [0.5, [0, 1], [0, 1]]
    """
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple | range | set | frozenset):
        return [plain(part) for part in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def placed(text: str, where: str, allowed: Iterable[str]) -> str:
    """A message with the path of what it is about: ``land.value: …`` where it begins with an
    option's name, or else ``land: …``.
    """
    begins = re.match(r"\w+(?=[:,])", text)
    return f"{where}{'.' if begins and begins[0] in allowed else ': '}{text}"


def elsewhere(key: object, here: str, used: Iterable[str] = ()) -> str:
    """What else has an option of a name that is not known ``here``, a path in the job; nothing
    where nothing has.

    ``used`` are the kinds of segmenters that are meant: where one of them has it, only those are
    named.
    """
    wanted, section, homes = set(used), re.split(r"[.\[]", here)[0], _homes(str(key))
    meant = [kind for kind in homes["segmenters"] if kind in wanted]
    told = (
        [f"{key} is an option of {_listed(meant or homes['segmenters'])}"]
        if homes["segmenters"]
        else []
    )
    if not meant and homes["steps"]:
        told.append(
            f"{key} is an option of the {'step' if len(homes['steps']) == 1 else 'steps'} "
            f"{_listed(homes['steps'])}"
        )
    if not meant and homes["source"]:
        kinds_of_source = (
            f" where its kind is {_listed(homes['source'], 'or')}" if section == "source" else ""
        )
        told.append(f"{key} is an option of the source{kinds_of_source}")
    told += [f"{key} is a key of {name}" for name in homes["job"] if name != section]
    return "".join(f"; {each}" for each in told)


def kinds_in(segmenters: Any) -> list[str]:
    """The kinds that a job's segmenters name, as they were written."""
    written = segmenters.values() if isinstance(segmenters, Mapping) else ()
    return [str(each.get("kind")) if isinstance(each, Mapping) else str(each) for each in written]


def refuse_misplaced(given: Iterable[str], used: Iterable[str]) -> None:
    """JobError where no reader has an option that a source was given, and one of the segmenters in
    use has.
    """
    for key in given:
        if not _readers(key) and (told := elsewhere(key, "source", used)):
            raise JobError(f"{key}: no source has such an option{told}")


def annotated(kind: type[Any]) -> dict[str, Any]:
    """The types that a class's annotations give its options; none where they cannot be resolved."""
    with suppress(NameError):  # of a plug-in whose annotations are there for type checkers only
        return typing.get_type_hints(kind, include_extras=True)
    return {}


def _listed(found: list[str], last: str = "and") -> str:
    return found[0] if len(found) == 1 else f"{', '.join(found[:-1])} {last} {found[-1]}"


def _plural(word: str, found: list[str]) -> str:
    return word if len(found) == 1 else f"{word}s"


@functools.lru_cache(maxsize=64)
def _homes(key: str) -> dict[str, list[str]]:
    """What has an option of a name. Looked up only where something is wrong: what has options lies
    on floors above, and loads slowly.
    """
    found: dict[str, list[str]] = {
        "segmenters": [],
        "steps": [],
        "source": _readers(key),
        "job": [],
    }
    for part, group in (("segmenters", SEGMENTERS), ("steps", STEPS)):
        for name, point in kinds(group).items():
            with suppress(ImportError):
                found[part] += [name] if key in names(point.load()) else []
    job = import_module("pipeline.jobs.job")
    found["job"] += [
        name for name in SECTIONS if key in job.Job.model_fields[name].annotation.model_fields
    ]
    found["job"] += ["the job"] if key in job.Job.model_fields else []
    return found


@functools.lru_cache(maxsize=64)
def _readers(key: str) -> list[str]:
    """The kinds of source that have an option of a name."""
    found = []
    for name, address in sorted(import_module("pipeline.sources").KINDS.items()):
        module, kind = address.split(":")
        found += [name] if key in (*names(getattr(import_module(module), kind)), "kind") else []
    return found


def _fitting(value: Any, wanted: Any, *, stated: bool) -> Any:
    """A value as the type has it where there is one way only: one value for a list of one, text
    that is a number.
    """
    choices = _choices(wanted)
    if isinstance(value, str) and stated and float in choices and str not in choices:
        with suppress(ValueError):
            return float(value)
    if (
        value is not None
        and not isinstance(value, list | dict)
        and any(_is_list(each) for each in choices)
    ):
        return value if type(value) in choices else [value]
    return value


def _choices(wanted: Any) -> list[Any]:
    """The types that a union allows, without what is noted beside them."""
    if get_origin(wanted) is Annotated:
        return _choices(get_args(wanted)[0])
    if get_origin(wanted) in (Union, UnionType):
        return [each for part in get_args(wanted) for each in _choices(part)]
    return [wanted]


def _is_list(wanted: Any) -> bool:
    """Whether a type is a list of any number of values that are not lists themselves."""
    parts = get_args(wanted)
    return (
        get_origin(wanted) is tuple
        and parts[1:] == (Ellipsis,)
        and get_origin(parts[0]) is not tuple
    )
