"""Options as people write them, of segmenters, steps and readers: unknown ones are refused, values
are of the option's type.

One mechanism serves YAML, the command line and Python: the options of a class are a typed
dictionary, made from its constructor, which pydantic validates and describes. Added here is what
people write and pydantic refuses: NumPy's numbers, arrays and ranges, one value for a list of one,
and in readers' options text that is a number.
"""

from __future__ import annotations

import functools
import inspect
import json
import operator
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from types import NoneType, UnionType
from typing import Annotated, Any, NotRequired, Required, Union, get_args, get_origin

import numpy as np
from pydantic import (
    ConfigDict,
    GetJsonSchemaHandler,
    PydanticInvalidForJsonSchema,
    PydanticSchemaGenerationError,
    TypeAdapter,
    ValidationError,
    with_config,
)
from pydantic_core import PydanticCustomError, PydanticSerializationError, core_schema
from pydantic_core import to_jsonable_python as to_json
from typing_extensions import TypedDict

from pipeline.config.messages import meaning
from pipeline.config.option_texts import annotated, described

SEGMENTERS = "pipeline.segmenters"
STEPS = "pipeline.steps"


@functools.cache
def kinds(group: str = SEGMENTERS) -> Mapping[str, EntryPoint]:
    """The kinds that are installed, by name, none of them loaded; looked up once, which takes
    several milliseconds.
    """
    return {point.name: point for point in sorted(entry_points(group=group))}


def names(kind: type[Any]) -> tuple[str, ...]:
    """The options of a class: its constructor's parameters."""
    return tuple(inspect.signature(kind).parameters)


@dataclass(frozen=True, slots=True)
class Typed:
    """The type of an option, as an annotation that pydantic validates a value by.

    Values are validated as those of JSON, strictly: a list stands for a tuple, and text for no
    number.
    """

    wanted: Any
    """The type that is annotated in the class."""

    stated: bool = False
    """Whether numbers are as files state them: text is a number where no text is allowed, and NaN
    and infinity are numbers.
    """

    about: Mapping[str, Any] | None = None
    """What the JSON schema says besides the type: description and default."""

    def __get_pydantic_core_schema__(self, _source: Any, _handler: Any) -> core_schema.CoreSchema:
        """Validate by `typed`, and describe by the type itself."""
        return core_schema.no_info_plain_validator_function(self._validate)

    def __get_pydantic_json_schema__(
        self, _schema: Any, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """The type's own schema, and what else a value may be written as."""
        try:
            found = handler(TypeAdapter(_writable(self.wanted, stated=self.stated)).core_schema)
        except (PydanticSchemaGenerationError, PydanticInvalidForJsonSchema):
            found = {}  # a type of somebody's own
        return {**found, **(self.about or {})}

    def _validate(self, value: Any) -> Any:
        try:
            return typed(value, self.wanted, stated=self.stated)
        except (ValidationError, TypeError, ValueError) as error:
            raise PydanticCustomError(
                "option", "{allowed}", {"allowed": meaning(self.wanted)}
            ) from error


def typed(value: Any, wanted: Any, *, stated: bool = False) -> Any:
    """A value of a type, which is validated as `Typed` says; ValueError or TypeError where it is
    of another.
    """
    if wanted is Any and not isinstance(
        value, str | int | float | list | tuple | Mapping | NoneType
    ):  # an image in memory, a function
        return value
    try:
        adapter = TypeAdapter(wanted)
    except PydanticSchemaGenerationError:  # a type of somebody's own
        return value
    written = json.dumps(_fitting(plain(value), wanted, stated=stated), allow_nan=stated)
    return adapter.validate_json(written, strict=True)


def validated(kind: type[Any], given: Mapping[Any, Any], *, stated: bool = False) -> dict[str, Any]:
    """Options of the types that a class's annotations say.

    Parameters
    ----------
    kind
        The class.
    given
        What was written, by option; each is one of the class's.
    stated
        See `Typed`.

    Raises
    ------
    pydantic.ValidationError
        Where a value is of another type, or one is missing that has no default.
    """
    known: Any = kind
    found: dict[str, Any] = _options(known, stated).validate_python(dict(given))
    return found


@functools.lru_cache(maxsize=64)
def _options(kind: Any, stated: bool) -> TypeAdapter[Any]:
    return TypeAdapter(dictionary(kind, {}, stated=stated))


def dictionary(
    kind: type[Any], more: Mapping[str, Any], *, stated: bool = False, told: bool = False
) -> Any:
    """The typed dictionary that the options of a class are.

    Parameters
    ----------
    kind
        The class.
    more
        Types of keys that are written beside the options, or take the place of one.
    stated
        See `Typed`.
    told
        Whether it carries defaults and descriptions, for a JSON schema.
    """
    types = annotated(kind)
    meanings = described(kind) if told else {}
    keys: dict[str, Any] = dict(more)
    for name, parameter in inspect.signature(kind).parameters.items():
        about = _about(parameter, meanings.get(name)) if told else None
        wanted = Annotated[Any, Typed(types.get(name, Any), stated, about)]
        present = Required if parameter.default is parameter.empty else NotRequired
        keys.setdefault(name, present[wanted])
    made = TypedDict(kind.__name__, keys)  # type: ignore[misc]
    return with_config(ConfigDict(extra="forbid"))(made)


def _about(parameter: inspect.Parameter, text: str | None) -> dict[str, Any]:
    """What a JSON schema says of an option besides its type."""
    about = {} if text is None else {"description": text}
    with suppress(PydanticSerializationError):
        if parameter.default is not parameter.empty:
            return {**about, "default": to_json(parameter.default)}
    return about


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


def _writable(wanted: Any, *, stated: bool) -> Any:
    """A type with all that `_fitting` makes a value of it from."""
    choices = _choices(wanted)
    more = [get_args(each)[0] for each in choices if _is_list(each)]
    if stated and float in choices and str not in choices:
        more.append(str)
    return functools.reduce(operator.or_, more, wanted)


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
