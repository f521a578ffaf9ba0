"""What `tilewise methods` prints: the kinds of segmenters, and one of them with its options."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator
from typing import Any

from pipeline.errors import JobError, nearest
from pipeline.jobs import plugins
from pipeline.jobs.plugins import SEGMENTERS, STEPS, Option
from pipeline.segmenters import exactness

WIDTH = 88
"""Columns of the text."""
EXAMPLES = re.compile(r"^Examples\n-+\n.*?(?=^\w+\n-+\n|\Z)", re.MULTILINE | re.DOTALL)
"""The section of a docstring that is for Python."""


def listed() -> str:
    """Return all kinds of segmenters with their options and defaults, a line each."""
    return "\n".join(line for name in plugins.kinds() for line in _in_short(name))


def table() -> str:
    """Return all kinds of segmenters as a table in Markdown."""
    rows = [
        f"| `{name}` | {_first_line(kind)} | {identity(kind)} | {exactness(kind)} |"
        for name, kind in ((name, plugins.load(name)) for name in plugins.kinds())
    ]
    head = "| kind | what it finds | identity | exact under tiling |\n|---|---|---|---|"
    return "\n".join([head, *rows]).replace("``", "`")


def described(name: str) -> str:
    """Return what a kind of segmenter, or of step, is for, and what each of its options means.

    Parameters
    ----------
    name
        The kind.

    Raises
    ------
    JobError
        There is no such kind, or it cannot be imported.
    """
    if name not in (*plugins.kinds(), *plugins.kinds(STEPS)):
        known = (*plugins.kinds(), *plugins.kinds(STEPS))
        raise JobError(f"there is no kind {name!r}; {nearest(name, known)}")
    group = SEGMENTERS if name in plugins.kinds() else STEPS
    kind = plugins.load(name, group=group)
    head = [f"{name}, a kind of {'segmenter' if group == SEGMENTERS else 'step'}", ""]
    about = EXAMPLES.sub("", inspect.getdoc(kind) or "").replace("``", "").strip()
    exact = ["", _exact(kind), _use(name)] if group == SEGMENTERS else []
    options = plugins.described_options(name, group)
    told = [line for option in options for line in ["", *_option(option)]]
    return "\n".join([*head, about, *exact, "", "Options:" if told else "No options.", *told[1:]])


def _use(name: str) -> str:
    return f"tilewise segment IMAGE OUT --with {name} --option KEY=VALUE"


def _in_short(name: str) -> Iterator[str]:
    kind = plugins.load(name)
    yield f"{name}: {_first_line(kind)}"
    yield f"  {_exact(kind)}"
    for option, parameter in plugins.options(kind).items():
        yield f"  {option} = {parameter.default!r}"


def _option(option: Option) -> Iterator[str]:
    """An option: its name, type and default, then what it means and what is allowed."""
    default = option.default if option.default == "required" else f"default {option.default}"
    yield f"  {option.name}: {option.type} ({default})"
    yield from textwrap.wrap(
        option.meaning.replace("``", ""), WIDTH, initial_indent="    ", subsequent_indent="    "
    )
    if option.allowed:
        yield from textwrap.wrap(
            f"Allowed: {', '.join(option.allowed)}.",
            WIDTH,
            initial_indent="    ",
            subsequent_indent="    ",
        )


def _exact(kind: type[Any]) -> str:
    alike = getattr(kind, "portable", False)
    where = "on any processor" if alike else "on processors that are alike"
    return f"identity {identity(kind)}, exact {exactness(kind)}, {where}"


def identity(kind: type[Any]) -> str:
    """Return what makes pixels one object of a kind of segmenter, in a word or two."""
    found = getattr(kind, "identity", "object")
    return "its decoder's" if isinstance(found, property) else str(found)


def _first_line(kind: type[Any]) -> str:
    return (kind.__doc__ or "").strip().splitlines()[0]
