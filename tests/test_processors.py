"""Processors that differ: what ships draws the same on all of them, or says that it may not."""

from __future__ import annotations

import platform
import runpy
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from distributed import Client, Scheduler, SpecCluster

import pipeline
from pipeline import engine, processors
from pipeline.scratch import Scratch
from tests.networks import bundle
from tests.processors import ELSEWHERE, FOUND, OLD, Powers, Steady, computed, computed_under, surroundings, tissue, unsteady

pytestmark = [
    pytest.mark.skipif(platform.machine() != "x86_64" or not FOUND, reason="knows how to look like another processor on x86-64 only"),
]
ROOT = Path(__file__).resolve().parents[1]
METHODS = runpy.run_path(str(ROOT / "workflows" / "methods.py"))


def test_pixels_are_the_same_on_other_processors(tmp_path):
    """Smoothing, texture, colours, slopes, thresholds, traits and steps are the same to the last bit where libraries' functions are not."""
    here, there = computed(), computed_under(ELSEWHERE, tmp_path / "there.npz")
    unlike = {name for name, values in here.items() if values.tobytes() != there[name].tobytes()}
    assert {name for name in unlike if not name.startswith("library")} == set()
    assert {name for name in unlike if name.startswith("library")}  # else the other process would not be another processor


@contextmanager
def workers(*environments):
    """An engine on a cluster of one worker for each environment."""
    options = {"host": "127.0.0.1", "port": 0, "dashboard": False, "dashboard_address": "127.0.0.1:0"}
    with SpecCluster(scheduler={"cls": Scheduler, "options": options}) as own:
        command = [sys.executable, "-m", "distributed.cli.dask_worker", own.scheduler_address, "--nthreads", "1", "--no-nanny"]
        there = [
            subprocess.Popen(
                [*command, "--no-dashboard"], cwd=ROOT, env=surroundings(changes), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            for changes in environments
        ]
        try:
            with Client(own.scheduler_address, set_as_default=False) as client, engine.on(client) as found:
                client.wait_for_workers(len(environments), timeout=60)
                yield found
        finally:
            for process in there:
                process.terminate()
            for process in there:
                process.wait()


@pytest.fixture(scope="module")
def unlike():
    """Two workers, of which one is on an old processor as far as libraries can tell."""
    with workers({}, ELSEWHERE) as found:
        yield found


def of(result):
    """What a result is, but for what a run took."""
    raster = result.classes if "semantic" in result.record["results"] else result.labels
    return raster.values, result.objects, result.record["fitted"]


def drawn_by(result):
    """How many kinds of processors drew the one route."""
    return sum(bool(one["routes"]) for one in result.record["processors"])


def told(result):
    """What the result says of its route."""
    return " ".join(result.lines())


def test_workers_that_differ_draw_the_same(unlike, tmp_path):
    """What ships draws on two unlike workers what one process draws, with the same certificates; the record names both processors."""
    method = {"kind": "threshold", "channel": "haematoxylin", "sigma": 1.3, "method": "li"}
    mixed = pipeline.segment(tissue(), method, tmp_path / "mixed", engine=unlike, tile=32, halo=8)
    alone = pipeline.segment(tissue(), method, tmp_path / "alone", engine=pipeline.local(), tile=32, halo=8)
    for one, other in zip(of(mixed), of(alone), strict=True):
        assert one.equals(other) if hasattr(one, "equals") else np.array_equal(one, other)
    assert set(mixed.objects["certificate"]) == {"proved"}
    assert (drawn_by(mixed), drawn_by(alone)) == (2, 1)
    assert {tuple(one["numpy"]) for one in mixed.record["processors"]} == {(), tuple(sorted(FOUND))}
    assert "may differ" not in told(mixed)


@pytest.mark.parametrize("method", [Powers(), Steady()], ids=["says nothing", "vouches"])
def test_what_may_differ_is_not_proved(unlike, tmp_path, method):
    """A method that does not say that it is portable proves nothing on workers that differ, and the result says why; on one it does."""
    mixed = pipeline.segment(tissue(), method, tmp_path / "mixed", engine=unlike, tile=32)
    alone = pipeline.segment(tissue(), method, tmp_path / "alone", engine=pipeline.local(), tile=32)
    assert set(alone.objects["certificate"]) == {"proved"}
    assert drawn_by(mixed) == 2
    if isinstance(method, Steady):
        assert set(mixed.objects["certificate"]) == {"proved"}
        assert "may differ" not in told(mixed)
    else:
        assert set(mixed.objects["certificate"]) == {"agreed"}
        assert "powers: processors or libraries that may differ" in told(mixed)


@pytest.mark.heavy
def test_networks_on_workers_that_differ(unlike, tmp_path):
    """The same network on unlike processors proves nothing, and on one all that it can."""
    method = {"kind": "unet", "weights": bundle(tmp_path)}
    mixed = pipeline.segment(tissue(), method, tmp_path / "mixed", engine=unlike, tile=64)
    alone = pipeline.segment(tissue(), method, tmp_path / "alone", engine=pipeline.local(), tile=64)
    assert drawn_by(mixed) == 2
    assert mixed.record["certificates"]["proved"] == 0 < alone.record["certificates"]["proved"]


def test_layers_on_workers_that_differ(unlike, tmp_path):
    """Of two layers only that is not proved which processors may draw otherwise."""
    job = pipeline.Job(
        source=tissue(),
        tiles={"size": 64},
        segmenters={"stained": {"kind": "threshold", "channel": "dab"}, "bright": Powers()},
        layers=[{"things": "stained", "classes": 1}, {"things": "bright", "classes": 2}],
        output={"path": str(tmp_path / "out")},
    )
    found = pipeline.run(job, unlike)
    table = found.objects.groupby("route")["certificate"].agg(set)
    assert (table["stained"], table["bright"] & {"proved"}) == ({"proved"}, set())


def begun_elsewhere(folder, kind):
    """Begin the job in a process on another processor, which leaves half of the tiles undone; what it fitted."""
    code = (
        "import sys, pathlib, pipeline\nfrom pipeline.errors import TilesError\nfrom tests.processors import unsteady\n"
        f"try:\n    pipeline.run(unsteady(pathlib.Path({str(folder)!r}), {kind!r}), pipeline.local())\n"
        "except TilesError:\n    sys.exit(7)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=surroundings(ELSEWHERE), capture_output=True, text=True, check=False)
    assert done.returncode == 7, done.stderr
    return Scratch(str(folder / "out" / ".tilewise")).load("settled/0")[0]["first"]


@pytest.mark.parametrize("kind", ["steady", "not steady"])
def test_a_run_that_goes_on_elsewhere(tmp_path, kind):
    """A run that another processor began takes what was fitted there, and proves only what no processor draws otherwise."""
    fitted = begun_elsewhere(tmp_path, kind)
    (tmp_path / "go").touch()
    found = pipeline.run(unsteady(tmp_path, kind), pipeline.local())
    assert found.record["fitted"] == {"first": fitted}
    assert drawn_by(found) == 2
    assert ("proved" in set(found.objects["certificate"])) == (kind == "steady")


def test_other_libraries_prove_nothing(tmp_path, monkeypatch):
    """Where another version of a library drew some tiles, even what is portable agrees at best."""
    job = pipeline.Job(
        source=tissue(),
        tiles={"size": 64},
        segmenters={"stained": {"kind": "threshold", "channel": "dab"}},
        output={"path": str(tmp_path / "out")},
    )
    facts = processors.own()
    versions = iter([{**facts, "libraries": {**facts["libraries"], "scipy": "1.0"}}])
    monkeypatch.setattr(processors, "own", lambda: next(versions, facts))
    found = pipeline.run(job, pipeline.local())
    assert set(found.objects["certificate"]) == {"agreed"}
    assert [one["libraries"]["scipy"] == "1.0" for one in found.record["processors"]].count(True) == 1


def test_notes():
    """Notes of one processor do not differ; those of two do, unless what was drawn is portable; those of other libraries always."""
    one, other, old = "processors/2/a-1", "processors/2/a-2", "processors/2/b-1"
    assert not processors.differ([], portable=False)
    assert not processors.differ([one], portable=False)
    assert processors.differ([one, other], portable=False)
    assert not processors.differ([one, other], portable=True)
    assert processors.differ([one, old], portable=True)


@pytest.mark.heavy
@pytest.mark.parametrize("kind", METHODS["KINDS"])
def test_every_kind_on_workers_that_differ(old, tmp_path, kind):
    """Each kind draws on two unlike workers what one process draws, object by object, or says that it may not have."""
    method = {"kind": kind.split()[0], **METHODS["KINDS"][kind]}
    mixed = pipeline.segment(tissue(), method, tmp_path / "mixed", engine=old, tile=64, halo=24)
    alone = pipeline.segment(tissue(), method, tmp_path / "alone", engine=pipeline.local(), tile=64, halo=24)
    assert len(mixed.record["processors"]) == 2
    if mixed.record["certificates"]["proved"]:
        for one, other in zip(of(mixed), of(alone), strict=True):
            assert one.equals(other) if hasattr(one, "equals") else np.array_equal(one, other)
    else:
        assert kind.split()[0] in ("felzenszwalb", "random_walker", "normalized_cut")
        assert set(mixed.objects["certificate"]) <= {"agreed", "disputed"}


@pytest.fixture(scope="module")
def old():
    """Two workers, of which one is on an old processor in all that libraries and numba compile."""
    with workers({}, OLD) as found:
        yield found
