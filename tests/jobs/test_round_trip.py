"""A job that is written and read again is the same job; what cannot be written is refused."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import numpy as np
import pytest
import xarray
import yaml
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

import pipeline
from pipeline.config.options import annotated
from pipeline.errors import JobError
from pipeline.jobs import plugins
from pipeline.jobs.job import Job
from pipeline.jobs.layers import Layer
from pipeline.jobs.plugins import SEGMENTERS, STEPS
from pipeline.jobs.routing import Range, Rule

JOBS = sorted(
    path
    for path in (Path(__file__).resolve().parents[2] / "workflows").glob("*.yaml")
    if not path.stem.endswith("_train")
)
KINDS = [(kind, group) for group in (SEGMENTERS, STEPS) for kind in plugins.kinds(group)]
WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=9)
ATOMS: dict[Any, st.SearchStrategy[Any]] = {
    bool: st.booleans(),
    int: st.integers(1, 99),
    float: st.floats(0, 1) | st.floats(-1e6, 1e20),
    str: WORDS | st.sampled_from(["otsu", "1e3", "yes", "0x1f", "~", "2020-01-01", "a: b"]),
    NoneType: st.none(),
    Any: st.lists(st.integers(0, 9), max_size=2) | WORDS,
}


def values(wanted: Any) -> st.SearchStrategy[Any]:
    """Values of the type of an option, as a job file holds them."""
    parts = get_args(wanted)
    if get_origin(wanted) in (Union, UnionType):
        return st.one_of(*map(values, parts))
    if get_origin(wanted) is Literal:
        return st.sampled_from(parts)
    if get_origin(wanted) is Mapping:
        return st.dictionaries(values(parts[0]), values(parts[1]), max_size=2)
    if get_origin(wanted) is tuple and parts[1:] == (...,):
        return st.lists(values(parts[0]), max_size=3)
    if get_origin(wanted) is tuple:
        return st.tuples(*map(values, parts)).map(list)
    return ATOMS[wanted]


@functools.cache
def unread(kind: str) -> str:
    """A network's bundle with weights that nobody reads."""
    folder = Path(tempfile.mkdtemp())
    (folder / "weights.safetensors").write_bytes(b"none")
    card = {"name": "none", "kind": kind, "bands": ["red"], "classes": ["a"], "window": 64}
    (folder / "card.yaml").write_text(yaml.safe_dump({**card, "stride": 8, "reach": 9}))
    return str(folder)


def same(job: Job) -> None:
    """The job is the same after YAML, and after the values of its model."""
    text = job.to_yaml()
    again = Job.from_yaml(text)
    assert again == job
    assert again.to_yaml() == text
    assert again.plain() == job.plain()
    assert Job(**job.model_dump()) == job


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_jobs_that_are_shipped(path):
    """Each job of the workflows is the same when it was written and read again."""
    same(Job.from_yaml(path))


@pytest.mark.parametrize(("kind", "group"), KINDS)
@settings(
    max_examples=10, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow]
)
@given(data=st.data())
def test_any_options(kind, group, data):
    """Whatever options a segmenter or a step takes, its job is the same after YAML."""
    loaded = plugins.load(kind, group=group)
    types = annotated(loaded)
    parameters = plugins.options(loaded)
    network = {"weights": unread(kind), "unsafe": True} if "sha256" in parameters else {}
    required = [name for name, each in parameters.items() if each.default is each.empty]
    chosen = data.draw(st.lists(st.sampled_from(list(parameters)), max_size=2, unique=True))
    described = {
        "kind": kind,
        **{name: data.draw(values(types[name]), name) for name in {*required, *chosen}},
        **network,
    }
    parts: dict[str, Any] = {"source": "a.tif", "output": {"path": "out"}}
    parts["segmenters"] = {"a": described if group == SEGMENTERS else "threshold"}
    parts["steps"] = [described] if group == STEPS else []
    try:
        job = Job(**parts)
    except JobError:
        assume(False)  # noqa: FBT003
    same(job)


SPANS = st.tuples(st.integers(-9, 9) | st.floats(-9, 9), st.integers(9, 99) | st.none())


@settings(max_examples=40)
@example(spans={}, classes=None, layered=False, path="a\x85b\u2028c\u2029", legend={1: "\x85"})
@given(
    spans=st.dictionaries(st.sampled_from(["mean", "spread", "mean_2", "index_nir_red"]), SPANS),
    classes=st.none() | st.integers(1, 9) | st.dictionaries(st.integers(1, 9), st.integers(0, 9)),
    layered=st.booleans(),
    path=WORDS,
    legend=st.dictionaries(st.integers(0, 99), WORDS, max_size=3),
)
def test_any_route_layers_and_output(spans, classes, layered, path, legend):
    """Routes, layers, legends and paths of any values are the same after YAML."""
    when = {
        trait: Range(low) if high is None else Range(low, high)
        for trait, (low, high) in spans.items()
    }
    parts: dict[str, Any] = (
        {"layers": [Layer(stuff="a", classes=classes, when=when)]}
        if layered
        else {"route": [Rule("skip", when), "a"] if when else ["a"]}
    )
    same(
        Job(
            source={"path": [Path("b.tif"), path], "bands": np.arange(1, 3)},
            segmenters={"a": "kmeans"},
            output={"path": "out", "legend": legend},
            **parts,
        )
    )


def half(block):
    """Pixels over a half."""
    return block[0] > 0.5


UNWRITTEN = {
    "an array as source": ({"source": np.zeros((3, 4))}, r"source: a numpy\.ndarray cannot"),
    "an array in a source": (
        {"source": {"path": xarray.DataArray(np.zeros((3, 4))), "bands": [1]}},
        r"source\.path: a xarray\.core\.dataarray\.DataArray cannot be written",
    ),
    "a function": ({"segmenters": {"b": half}}, r"segmenters\.b: a function cannot be written"),
    "an array in an option": (
        {"segmenters": {"b": pipeline.Watershed(seeds=np.zeros((3, 4)))}},
        r"segmenters\.b\.seeds: a numpy\.ndarray cannot be written to a job file; allowed: ",
    ),
}


@pytest.mark.parametrize("name", UNWRITTEN)
def test_what_cannot_be_written(name):
    """An array or a function is a part of a job from Python, and refused, by its key, where the job
    is written.
    """
    parts, message = UNWRITTEN[name]
    job = Job(
        **{"source": "a.tif", "segmenters": {"b": "threshold"}, "output": {"path": "o"}, **parts}
    )
    with pytest.raises(JobError, match=message):
        job.to_yaml()


def test_only_what_differs_is_written():
    """What has its default is not written, and addresses are written whole."""
    job = Job(
        source="https://me:secret@example.com/a.tif",
        tiles={"size": 512},
        segmenters={"land": pipeline.Threshold(value=3)},
        output={"path": "out"},
    )
    assert yaml.safe_load(job.to_yaml()) == {
        "source": "https://me:secret@example.com/a.tif",
        "tiles": {"size": 512},
        "segmenters": {"land": {"kind": "threshold", "value": 3}},
        "route": [{"use": "land"}],
        "output": {"path": "out"},
    }
