"""Segmenters and steps by name. The built-in ones come in by the same door as anybody's: the entry-point groups ``pipeline.segmenters`` and
``pipeline.steps``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import json
import typing
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from pipeline.errors import JobError, nearest
from pipeline.segmenters import Contract, Segmenter

SEGMENTERS, STEPS = "pipeline.segmenters", "pipeline.steps"


@functools.cache
def kinds(group: str = SEGMENTERS) -> Mapping[str, EntryPoint]:
    """The kinds that are installed, by name, none of them loaded; looked up once, which takes several milliseconds."""
    return {point.name: point for point in sorted(entry_points(group=group))}


def load(kind: str, where: str = "kind", group: str = SEGMENTERS) -> type[Any]:
    """The class of a kind; JobError, naming ``where`` it was asked for, if there is none or it cannot be imported."""
    found = kinds(group)
    if kind not in found:
        raise JobError(f"{where}: there is no kind {kind!r}; {nearest(str(kind), found)}")
    try:
        return typing.cast("type[Any]", found[kind].load())
    except ImportError as error:
        raise JobError(f"{where}: the kind {kind!r} cannot be loaded: {error}") from error


def options(kind: type[Any]) -> dict[str, inspect.Parameter]:
    """The options of a kind: its constructor's parameters."""
    return dict(inspect.signature(kind).parameters)


def build(description: Mapping[str, Any], where: str, group: str = SEGMENTERS) -> Any:
    """A segmenter or a step from ``{"kind": …, option: value, …}``.

    JobError says which key, what was given and what is allowed; ``where`` is the path of the description in the job.
    """
    given = dict(description)
    if "kind" not in given:
        raise JobError(f"{where}.kind is missing; {nearest('', kinds(group))}")
    kind = load(given.pop("kind"), f"{where}.kind", group)
    allowed, types = options(kind), typing.get_type_hints(kind)
    for key, value in given.items():
        if key not in allowed:
            raise JobError(f"{where}.{key}: there is no such option; {nearest(key, allowed)}")
        given[key] = _typed(value, types.get(key, Any), f"{where}.{key}")
    try:
        built = kind(**given)
        if group == SEGMENTERS:
            Contract.of(built)
    except (JobError, TypeError) as error:
        raise JobError(f"{where}: {error}") from error
    return built


def describe(segmenter: Segmenter) -> dict[str, Any]:
    """A segmenter or a step as `build` takes it, so far as it can be written down; a function by its name and a checksum of its code."""
    what: Any = segmenter
    if dataclasses.is_dataclass(what) and not isinstance(what, type):
        known = {**kinds(STEPS), **kinds()}
        named = next((name for name, point in known.items() if point.value == _path(type(what))), _path(type(what)))
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(what), default=str))
        return {"kind": named} | plain
    return {"kind": f"python:{getattr(segmenter, '__qualname__', type(segmenter).__qualname__)}", "code": _checksum(segmenter)}


def _path(kind: type[Any]) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


def _checksum(segmenter: Segmenter) -> str:
    """Of what would be sent to a worker, and of the source text, which a worker imports by name where it can."""
    import hashlib

    import cloudpickle

    text = ""
    with contextlib.suppress(OSError, TypeError):  # written at a prompt, or in C
        text = inspect.getsource(segmenter)
    return hashlib.sha256(cloudpickle.dumps(segmenter) + text.encode()).hexdigest()[:16]


def _typed(value: Any, wanted: Any, where: str) -> Any:
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(wanted).validate_json(json.dumps(value), strict=True)
    except (ValidationError, TypeError) as error:
        name = getattr(wanted, "__name__", None) if isinstance(wanted, type) else None
        raise JobError(f"{where}: {value!r}; allowed: {name or str(wanted).replace('typing.', '')}") from error
