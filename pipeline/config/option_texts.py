"""What is said of a class's options: one text for ``help``, editors, documents and the command."""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import textwrap
import typing
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pipeline.config.messages import PYTHON, bounds, choices, meaning


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


def told(kind: type[Any]) -> list[Option]:
    """The options of a class, in the order of its constructor."""
    types = annotated(kind)
    meanings = described(kind)
    return [
        _option(parameter, types.get(name, Any), meanings.get(name, ""))
        for name, parameter in inspect.signature(kind).parameters.items()
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


def annotated(kind: type[Any]) -> dict[str, Any]:
    """The types that a class's annotations give its options; none where they cannot be resolved."""
    with suppress(NameError):  # of a plug-in whose annotations are there for type checkers only
        return typing.get_type_hints(kind, include_extras=True)
    return {}


def described(kind: type[Any]) -> Mapping[str, str]:
    """What the options of a kind mean: by name, the string below it in the class, or in a class
    that it inherits from.
    """
    found: dict[str, str] = {}
    for each in reversed(kind.__mro__[:-1]):
        with suppress(OSError):  # a class written at a prompt has no source
            tree = ast.parse(textwrap.dedent(inspect.getsource(each)))
            for definition in tree.body:
                if isinstance(definition, ast.ClassDef):
                    found |= _strings_below(definition)
    return found


def _strings_below(definition: ast.ClassDef) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in itertools.pairwise(definition.body):
        match pair:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(
                value=ast.Constant(value=str(text))
            ):
                found[name] = " ".join(text.split())
    return found


class WithOptions:
    """A docstring to which the options of its class are added as a section, where it is read."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __get__(self, _instance: object, owner: type[Any]) -> str:
        """The docstring, with ``Parameters`` in front of the other sections."""
        head, *sections = re.split(r"\n\n(?=[A-Z]\w+\n-{3,}\n)", inspect.cleandoc(self.text))
        lines = ["Parameters", "----------"]
        for option in told(owner):
            default = "" if option.default == "required" else f", default {option.default}"
            lines.append(f"{option.name} : {option.type}{default}")
            lines += textwrap.wrap(
                option.meaning, 96, initial_indent="    ", subsequent_indent="    "
            )
        return "\n\n".join([head, "\n".join(lines), *sections])


def with_options(kind: type[Any]) -> None:
    """Let ``help`` of a class tell its options."""
    text = vars(kind).get("__doc__")
    if isinstance(text, str) and "\nParameters\n" not in inspect.cleandoc(text):
        kind.__doc__ = WithOptions(text)  # type: ignore[assignment]
