"""Segmenters, steps and sources as types of a job's keys, told apart by ``kind``.

Only the kind that is named is imported to validate it. The JSON schema is of all kinds that are
installed.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from importlib import import_module
from operator import or_
from types import NoneType
from typing import Annotated, Any, Literal, Required

import numpy as np
from pydantic import Field, GetJsonSchemaHandler, SerializationInfo, TypeAdapter
from pydantic_core import core_schema

from pipeline.config.messages import refusal
from pipeline.config.options import dictionary, plain
from pipeline.errors import JobError, like
from pipeline.jobs import plugins
from pipeline.jobs.plugins import SEGMENTERS, STEPS
from pipeline.segmenters import Contract

PATHS = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
SOURCE = "a path, or {path: …} with the reader's options"
EXAMPLES = {SEGMENTERS: "{kind: threshold}", STEPS: "{kind: smooth, sigma: 2}"}
CALLABLES = {
    SEGMENTERS: "in Python any callable",
    STEPS: "in Python any callable that states its reach in pixels",
}


@dataclass(frozen=True, slots=True)
class OfKind:
    """An annotation of segmenters or steps: a mapping with a kind, a kind's bare name, or from
    Python any callable.
    """

    group: str
    """The entry points that kinds are taken from."""

    def __get_pydantic_core_schema__(self, _source: Any, _handler: Any) -> core_schema.CoreSchema:
        """Validate by the options of the kind that is named."""
        return core_schema.no_info_plain_validator_function(
            self._validate,
            serialization=core_schema.plain_serializer_function_ser_schema(_written, info_arg=True),
        )

    def __get_pydantic_json_schema__(
        self, _schema: Any, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """All kinds with their options, or the bare name of one."""
        names = list(plugins.kinds(self.group))
        kinds = {name: plugins.load(name, group=self.group) for name in names}
        return {"anyOf": [handler(_union(kinds, {}).core_schema), {"enum": names}]}

    def _validate(self, given: Any) -> Any:
        if isinstance(given, (Mapping, str)):
            description = {"kind": given} if isinstance(given, str) else given
            return plugins.build(description, "", self.group)
        reach = getattr(given, "reach", 0 if self.group == SEGMENTERS else None)
        whole = isinstance(reach, int) and not isinstance(reach, bool) and reach >= 0
        if not callable(given) or (self.group == STEPS and not whole):
            raise JobError(
                f": {given!r}; allowed: a kind with its options, such as {EXAMPLES[self.group]}, "
                f"or {CALLABLES[self.group]}"
            )
        if self.group == SEGMENTERS:
            Contract.of(given)
        return given


class OfSource:
    """An annotation of a source: a path, an image in memory, or a mapping with the path and the
    options of a reader, which are validated where the image is opened.
    """

    def __get_pydantic_core_schema__(self, _source: Any, _handler: Any) -> core_schema.CoreSchema:
        """Validate what can be said without a look at the image."""
        return core_schema.no_info_plain_validator_function(_source_of)

    def __get_pydantic_json_schema__(
        self, _schema: Any, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """A path, or a mapping of a kind that is named, or is told from the path."""
        known = import_module("pipeline.sources").KINDS
        kinds = {name: _imported(address) for name, address in known.items()}
        told = {
            "type": "object",
            "properties": {"path": PATHS, "kind": False},
            "required": ["path"],
        }
        path = Annotated[Any, Field(json_schema_extra=PATHS)]
        named = handler(_union(kinds, {"path": Required[path]}, stated=True).core_schema)
        return {"anyOf": [*PATHS["anyOf"], told, named]}


def _union(
    kinds: Mapping[str, type[Any]], more: Mapping[str, Any], *, stated: bool = False
) -> TypeAdapter[Any]:
    """The typed dictionaries of kinds, of which ``kind`` names one."""
    parts = []
    for name, kind in kinds.items():
        keys = {"kind": Required[Literal[name]], **more}
        part = dictionary(kind, keys, stated=stated, told=True)
        part.__name__ = part.__qualname__ = name
        part.__doc__ = " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split())
        parts.append(part)
    return TypeAdapter(Annotated[reduce(or_, parts), Field(discriminator="kind")])


def _imported(address: str) -> type[Any]:
    module, name = address.split(":")
    kind: type[Any] = getattr(import_module(module), name)
    return kind


def _source_of(given: Any) -> Any:
    if isinstance(given, (bool, int, float, NoneType)) or (
        isinstance(given, str) and "\0" in given
    ):
        raise JobError(refusal("", given, SOURCE))
    if not isinstance(given, Mapping):
        return _path(given)
    if "path" not in given:
        close = next((f"; was it meant by {key!r}?" for key in given if like(key, ["path"])), "")
        raise JobError(f".path is missing; it names the image{close}")
    return {key: _path(part) if key == "path" else plain(part) for key, part in given.items()}


def _path(given: Any) -> Any:
    """A path, or several, as YAML has them; an image in memory as it is."""
    if isinstance(given, os.PathLike):
        return os.fspath(given)
    if isinstance(given, (list, tuple)) and all(
        isinstance(each, (str, os.PathLike)) for each in given
    ):
        return [os.fspath(each) for each in given]
    return given


def _written(what: Any, info: SerializationInfo) -> Any:
    """A segmenter or a step as a mapping with its kind; a callable of no kind as it is."""
    kind = plugins.kind_of(what)
    if ":" in kind or not dataclasses.is_dataclass(what):
        return what
    held = {
        field.name: getattr(what, field.name)
        for field in dataclasses.fields(what)
        if field.init and not (info.exclude_defaults and _is_default(what, field))
    }
    return {"kind": kind, **held}


def _is_default(what: Any, field: dataclasses.Field[Any]) -> bool:
    held = getattr(what, field.name)
    return type(held) is type(field.default) and bool(held == field.default)


def in_yaml(value: Any, where: str = "") -> Any:
    """A value as YAML holds it; JobError, which says ``where`` it stands in the job, for what YAML
    cannot hold.
    """
    if isinstance(value, Mapping):
        return {
            key: in_yaml(part, f"{where}.{key}".removeprefix(".")) for key, part in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [in_yaml(part, f"{where}[{number}]") for number, part in enumerate(value)]
    if isinstance(value, (np.generic, os.PathLike)):
        return plain(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    what = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
    raise JobError(
        f"{where}: a {what} cannot be written to a job file; allowed: a path, or a kind that is "
        f"installed"
    )
