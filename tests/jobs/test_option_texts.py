"""What is said of options: one text for help, editors, documents and the command line."""

from __future__ import annotations

import pydoc
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from pydantic import Field

import pipeline
from pipeline.config.option_texts import told
from pipeline.jobs import plugins
from pipeline.jobs.plugins import SEGMENTERS, STEPS, described_options

KINDS = [(kind, group) for group in (SEGMENTERS, STEPS) for kind in plugins.kinds(group)]


@pytest.mark.parametrize(("kind", "group"), KINDS)
def test_every_option_is_told(kind, group):
    """Each option of each kind has a type, a default and a meaning; those of a constructor, in its
    order.
    """
    told = described_options(kind, group)
    parameters = plugins.options(plugins.load(kind, group=group))
    assert [option.name for option in told] == list(parameters)
    for option in told:
        parameter = parameters[option.name]
        assert option.type
        assert option.meaning.rstrip(")").endswith(".")
        assert (option.default == "required") == (parameter.default is parameter.empty)
        if option.default != "required":
            assert eval(option.default) == parameter.default
        assert not option.allowed or option.default in {"required", *option.allowed}


@dataclass(frozen=True)
class Dim:
    """Pixels below a value."""

    below: Annotated[float, Field(ge=0, lt=1)]
    """A share."""

    many: tuple[int, ...] | None = None


def test_bounds_and_lists_are_told(monkeypatch):
    """Bounds that a plug-in notes beside a type are told with it; an option without a text is told
    without.
    """
    point: Any = type("Point", (), {"value": "x:Dim", "load": staticmethod(lambda: Dim)})
    monkeypatch.setattr(plugins, "kinds", lambda _group=SEGMENTERS: {"dim": point})
    below, many = described_options("dim")
    assert (below.type, below.meaning) == ("float, 0 or more, less than 1", "A share.")
    assert (many.type, many.default, many.meaning) == ("[int, …] or None", "None", "")


@pytest.mark.parametrize("name", ["Watershed", "KMeans", "Smooth"])
def test_help_tells_the_options(name):
    """`help` of a public class tells each of its options, before the sections that follow."""
    kind = getattr(pipeline, name)
    text = pydoc.plain(pydoc.render_doc(kind))
    said = " ".join(text.replace(" | ", " ").split())
    for option in told(kind):
        assert f"{option.name} : {option.type}, default {option.default}" in said
        assert option.meaning in said
    assert kind.__doc__.count("Parameters") == 1
    assert kind.__doc__.index("Parameters") < kind.__doc__.index("Examples")
