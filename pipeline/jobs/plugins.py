"""Segmenters and steps by name. The built-in ones come in by the same door as anybody's: the
entry-point groups ``pipeline.segmenters`` and ``pipeline.steps``.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.config.messages import PYTHON, bounds, choices, meaning
from pipeline.config.option_errors import placed, taken
from pipeline.config.options import SEGMENTERS, STEPS, annotated, described, kinds
from pipeline.errors import JobError, like, nearest
from pipeline.jobs import code_checksums
from pipeline.redaction import shown
from pipeline.segmenters import Contract, Segmenter

__all__ = [
    "SEGMENTERS",
    "STEPS",
    "Option",
    "build",
    "describe",
    "described",
    "described_options",
    "kind_of",
    "kinds",
    "load",
    "options",
]


@dataclass(frozen=True, slots=True)
class Option:
    """What is said of one option, to people: in ``help``, in the schema, in the documents."""

    name: str
    """As it is written in a job."""

    type: str
    """The types of its values, with their bounds: ``[float, …] or None``, ``float, 0 or more``."""

    default: str
    """As Python writes it, or ``required``."""

    allowed: tuple[str, ...]
    """The values that it may have, where these are listed."""

    meaning: str
    """Its description, with units."""


def load(kind: str, where: str = "kind", group: str = SEGMENTERS) -> type[Any]:
    """The class of a kind; JobError, naming ``where`` it was asked for, if there is none or it
    cannot be imported.
    """
    found = kinds(group)
    if not isinstance(kind, str) or kind not in found:
        raise JobError(f"{where}: there is no kind {kind!r}; {nearest(kind, found)}")
    try:
        return typing.cast("type[Any]", found[kind].load())
    except ImportError as error:
        raise JobError(f"{where}: the kind {kind!r} cannot be loaded: {error}") from error


def options(kind: type[Any]) -> dict[str, inspect.Parameter]:
    """The options of a kind: its constructor's parameters."""
    return dict(inspect.signature(kind).parameters)


def described_options(kind: str, group: str = SEGMENTERS) -> list[Option]:
    """The options of a kind, in the order of its constructor.

    Parameters
    ----------
    kind
        The name of a kind that is installed, such as ``watershed``.
    group
        The entry points that it is one of: ``SEGMENTERS`` or ``STEPS``.

    Raises
    ------
    JobError
        If there is no such kind, or it cannot be imported.

    Examples
    --------
    >>> option = described_options("threshold")[0]
    >>> option.name, option.type, option.default
    ('value', 'float or None', 'None')
    """
    loaded = load(kind, group=group)
    types = annotated(loaded)
    meanings = described(loaded)
    return [
        _option(parameter, types.get(name, Any), meanings.get(name, ""))
        for name, parameter in options(loaded).items()
    ]


def _option(parameter: inspect.Parameter, wanted: Any, text: str) -> Option:
    required = parameter.default is inspect.Parameter.empty
    return Option(
        name=parameter.name,
        type=", ".join([meaning(wanted, PYTHON), *bounds(wanted)]),
        default="required" if required else repr(parameter.default),
        allowed=choices(wanted),
        meaning=text,
    )


def build(description: Mapping[str, Any], where: str, group: str = SEGMENTERS) -> Any:
    """A segmenter or a step from ``{"kind": …, option: value, …}``.

    JobError says which key, what was given and what is allowed; ``where`` is the path of the
    description in the job.
    """
    given = dict(description)
    if "kind" not in given:
        raise JobError(
            f"{where}.kind is missing; {nearest('', kinds(group))}{_instead(given, group)}"
        )
    kind = load(given.pop("kind"), f"{where}.kind", group)
    given = taken(kind, given, where, unknown="there is no such option")
    try:
        built = kind(**given)
        if group == SEGMENTERS:
            Contract.of(built)
    except (JobError, TypeError) as error:
        raise JobError(
            placed(str(error).removeprefix(f"{kind.__name__}."), where, options(kind))
        ) from error
    return built


def describe(segmenter: Segmenter) -> dict[str, Any]:
    """A segmenter or a step as `build` takes it, so far as it can be written down; of what is not
    this package's own, checksums of its code besides: see `bytecode`.
    """
    what: Any = segmenter
    own = type(what).__module__.partition(".")[0] == __name__.partition(".")[0]
    if dataclasses.is_dataclass(what) and not isinstance(what, type):
        return {"kind": kind_of(what), **shown(_plain(what))} | (
            {} if own else {"code": code_checksums.checksums(type(what))}
        )
    name = getattr(segmenter, "__qualname__", type(segmenter).__qualname__)
    return {"kind": f"python:{name}", "code": code_checksums.checksums(segmenter)}


def _plain(what: Any) -> Any:
    """An option as JSON holds it; what it cannot hold, by its type and a checksum."""
    if dataclasses.is_dataclass(what) and not isinstance(what, type):
        return {field.name: _plain(getattr(what, field.name)) for field in dataclasses.fields(what)}
    if isinstance(what, Mapping):
        return {str(key): _plain(held) for key, held in what.items()}
    if isinstance(what, (list, tuple)):
        return [_plain(part) for part in what]
    what = (
        os.fspath(what)
        if isinstance(what, os.PathLike)
        else what.item()
        if isinstance(what, np.generic)
        else what
    )
    if what is None or isinstance(what, (bool, int, float, str)):
        return what
    extent = f" {what.dtype} {what.shape}" if isinstance(what, np.ndarray) else ""
    return f"{type(what).__name__}{extent}, {code_checksums.value(what)}"


def kind_of(what: Any) -> str:
    """The name of the kind that a segmenter or a step is of; of one that is not installed, where
    its class lies.
    """
    known = {**kinds(STEPS), **kinds()}
    return next(
        (name for name, point in known.items() if point.value == _path(type(what))),
        _path(type(what)),
    )


def _instead(given: Mapping[str, Any], group: str) -> str:
    """What was written where a kind is missing: another key for it, or a kind as a key."""
    if kind := next((key for key in given if key in kinds(group)), None):
        return f"; write {{kind: {kind}, …}}"
    return next((f"; was it meant by {key!r}?" for key in given if like(key, ["kind"])), "")


def _path(kind: type[Any]) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"
