"""Routes on a cluster: which worker has which tile, what each route took, and on which device a
segmenter runs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from scipy import ndimage

import pipeline
from pipeline.engine import Engine, Outcome, cluster
from pipeline.errors import ClusterError, JobError
from pipeline.execution import timings
from pipeline.execution.planning import plan
from tests.faults.staging import blobs, tiles_by_route

ROOT = Path(__file__).resolve().parents[2]
TILE = 16


@dataclass(frozen=True)
class Telling:
    """A threshold that says where it ran and as what; with a device, it stands in for a network."""

    log: str = ""
    device: str = "cpu"
    value: float = 100.0
    flag: str = ""
    identity = "connected"
    reach = 0

    def __call__(self, block: np.ndarray) -> np.ndarray:
        if self.log:
            with Path(self.log).open("a") as file:
                file.write(f"{whereabouts()} {self.device}\n")
        if self.flag and Path(self.flag).exists() and (block == 255).any():
            raise ArithmeticError("flawed")
        return (block[0] > self.value).astype(np.int32)

    def calls(self) -> list[list[str]]:
        """The worker and the device of each call."""
        return (
            [line.split() for line in Path(self.log).read_text().splitlines()]
            if Path(self.log).exists()
            else []
        )


def whereabouts() -> str:
    """The address of the worker that this runs on."""
    from distributed import get_worker

    try:
        return str(get_worker().address)
    except ValueError:
        return "here"


def scene() -> np.ndarray:
    """7 x 5 tiles, the last ones smaller: without a valid pixel, flat, with few and with many
    objects, all over the place.
    """
    rng = np.random.default_rng(0)
    image = blobs(112)[:, :75].astype(np.float32)
    for row in range(7):
        for column in range(5):
            tile = image[TILE * row : TILE * (row + 1), TILE * column : TILE * (column + 1)]
            kind = rng.integers(4)
            tile[:] = (
                np.nan
                if kind == 0
                else 0
                if kind == 1
                else np.minimum(tile, 120)
                if kind == 2
                else tile + 5
            )
    return image


def parts(image: Any, net: Any, plain: Any, out: Path, **tiles: Any) -> dict[str, Any]:
    """A job with nothing to do in flat tiles, a classical method, and a network for what varies
    most.
    """
    return {
        "source": image,
        "tiles": {"size": TILE, "halo": 4, **tiles},
        "segmenters": {"net": net, "plain": plain},
        "route": [
            {"use": "skip", "when": {"spread": {"max": 0.5}}},
            {"use": "net", "when": {"spread": {"min": 45}}},
            {"use": "plain"},
        ],
        "output": {"path": str(out)},
    }


@pytest.fixture(scope="module")
def workers() -> Any:
    """Three workers, of which the first has a GPU, as it says."""
    with cluster(3, gpus=1) as engine:
        yield engine


def gpu_workers(engine: Engine) -> set[str]:
    found = engine._client.scheduler_info(n_workers=-1)["workers"]
    return {address for address, worker in found.items() if worker["resources"].get("GPU")}


# Which worker has which tile


@pytest.mark.parametrize("device", ["gpu", "auto"])
def test_cheap_tiles_never_touch_the_gpu_worker(workers, device, tmp_path):
    """Every tile of the network runs on the worker with the GPU, none of the classical method does,
    and labels are those of one process.
    """
    image = scene()
    net, plain = Telling(str(tmp_path / "net"), device), Telling(str(tmp_path / "plain"))
    result = pipeline.run(pipeline.Job(**parts(image, net, plain, tmp_path / "out")), workers)
    taken = tiles_by_route(result)
    assert min(taken.values()) >= 3, taken
    assert len(net.calls()) == taken["net"]
    assert len(plain.calls()) == taken["plain"]
    (gpu,) = gpu_workers(workers)
    assert {address for address, _ in net.calls()} == {gpu}
    assert gpu not in {address for address, _ in plain.calls()}
    assert {device for _, device in net.calls()} == {"gpu"}
    alone = pipeline.run(
        pipeline.Job(**parts(image, Telling(), Telling(), tmp_path / "alone")), pipeline.local()
    )
    np.testing.assert_array_equal(result.labels, alone.labels)


def test_without_network_tiles_the_gpu_worker_helps(workers, tmp_path):
    """Where no tile of a run asks for a GPU, the worker that has one is a worker like the
    others.
    """
    plain = Telling(str(tmp_path / "plain"))
    pipeline.segment(blobs(128), plain, tmp_path / "out", tile=8, halo=2, engine=workers)
    assert gpu_workers(workers) < {address for address, _ in plain.calls()}


# What each route took


def test_routes_in_the_record(tmp_path):
    """The record says how many tiles, pixels and seconds each route took, and adds up to the image;
    so do the lines for people.
    """
    image = scene()
    result = pipeline.run(
        pipeline.Job(**parts(image, Telling(), Telling(), tmp_path / "out")), pipeline.local()
    )
    routes = result.record["routes"]
    assert list(routes) == ["empty", "skip", "net", "plain"]
    assert sum(route["pixels"] for route in routes.values()) == image.size
    assert sum(route["tiles"] for route in routes.values()) == 35
    # Tiles without a valid pixel are wholly so here.
    assert routes["empty"]["pixels"] == np.isnan(image).sum()
    for name in ("net", "plain"):
        assert routes[name]["timed"] == routes[name]["tiles"]
        assert routes[name]["seconds"] > 0
    dear = result.record["dearest"]
    route = routes[dear["route"]]
    valid = image.size - routes["empty"]["pixels"]
    assert dear["seconds"] == pytest.approx(
        route["seconds"] / route["pixels"] * valid, rel=0.2, abs=0.01
    )
    lines = "\n".join(result.lines())
    for name in routes:
        assert f"  {name:16} {routes[name]['tiles']} tiles, 0.0 Mpx" in lines
    assert f"  {dear['route']} everywhere would have taken about" in lines


def test_dearest_route(tmp_path):
    """What the dearest route would take everywhere is its seconds for a pixel, times the pixels of
    all tiles that are not empty.
    """
    run = plan(
        pipeline.Job(**parts(scene(), Telling(), Telling(), tmp_path / "out")),
        workers=1,
        memory=10**9,
    ).run
    run.routes[:] = np.arange(35) % 4
    clock = timings.Clock()
    assert timings.dearest(run, clock) is None
    size = np.array([run.grid.core(tile).size for tile in range(35)])
    for tile in (2, 6, 34):  # the network's; the last one is smaller, and was drawn twice
        for _ in range(1 + (tile == 34)):
            clock.add(
                run,
                Outcome(
                    tile, {"labels": 0, "pixels": 0, "enlarged": 0, "seconds": 2.5, "told": []}
                ),
            )
    clock.add(
        run, Outcome(3, {"labels": 0, "pixels": 0, "enlarged": 0, "seconds": 0.1, "told": []})
    )
    clock.add(run, Outcome(7, error="it failed"))
    found = timings.routes(run, clock)
    assert found["net"] == {"tiles": 9, "pixels": size[2::4].sum(), "seconds": 10.0, "timed": 3}
    assert found["plain"] == {"tiles": 8, "pixels": size[3::4].sum(), "seconds": 0.1, "timed": 1}
    everywhere = 10 / size[[2, 6, 34]].sum() * (size.sum() - size[::4].sum())
    assert timings.dearest(run, clock) == {
        "route": "net",
        "seconds": pytest.approx(everywhere, abs=1e-3),
    }


def test_a_resumed_run_tells_what_it_timed(tmp_path):
    """The seconds of a resumed run are those of the tiles that it segmented itself, and it says how
    many these are.
    """
    image, flag = scene(), tmp_path / "flag"
    image[40:44, 2:6] = 255
    flag.touch()
    job = pipeline.Job(**parts(image, Telling(), Telling(flag=str(flag)), tmp_path / "out"))
    with pytest.raises(pipeline.errors.TilesError):
        pipeline.run(job, pipeline.local())
    flag.unlink()
    result = pipeline.run(job, pipeline.local())
    net, plain = result.record["routes"]["net"], result.record["routes"]["plain"]
    assert (net["timed"], net["seconds"]) == (0, 0)
    assert 0 < plain["timed"] < plain["tiles"]
    assert f"({plain['timed']} of them in this run)" in "\n".join(result.lines())


def test_one_route_needs_no_lines(tmp_path):
    """Where all tiles take one route, nothing is said of it."""
    result = pipeline.segment(blobs(), Telling(), tmp_path / "out", engine=pipeline.local())
    assert timings.lines(result.record) == []


# Devices


def test_refused_without_a_gpu(tmp_path):
    """A segmenter for the GPU is refused before anything is written where no worker offers one,
    with what to do about it.
    """
    job = pipeline.Job(**parts(scene(), Telling(device="gpu"), Telling(), tmp_path / "out"))
    with pytest.raises(
        ClusterError,
        match=r"segmenters\.net\.device: gpu; this process .*--gpus 1; or .* device: cpu, or auto",
    ):
        pipeline.run(job, pipeline.local())
    assert not (tmp_path / "out").exists()
    with (
        pytest.raises(ClusterError, match=r"device: gpu; no worker offers \{'GPU': 1\}"),
        cluster(1) as engine,
    ):
        pipeline.run(job, engine)
    assert not (tmp_path / "out").exists()
    assert pipeline.run(job, pipeline.local({"GPU": 1})).record["plan"]["devices"] == {
        "net": "gpu",
        "plain": "cpu",
    }


def test_auto_is_what_is_there_when_a_run_begins(tmp_path):
    """`auto` is the GPU where one is offered, else the CPU; the segmenter is told; a run that is
    resumed stays with what it began with.
    """
    image, flag = scene(), tmp_path / "flag"
    image[40:44, 2:6] = 255
    for began, other in (({"GPU": 1}, {}), ({}, {"GPU": 1})):
        device = "gpu" if began else "cpu"
        net = Telling(str(tmp_path / f"net {device}"), "auto", flag=str(flag))
        job = pipeline.Job(
            **{**parts(image, net, Telling(), tmp_path / device), "route": [{"use": "net"}]}
        )
        flag.touch()
        with pytest.raises(pipeline.errors.TilesError):
            pipeline.run(job, pipeline.local(began))
        flag.unlink()
        if began:
            with pytest.raises(
                ClusterError,
                match=r"net\.device: auto, and the run was begun on a GPU; .*\(--fresh\), on the "
                r"CPU",
            ):
                pipeline.run(job, pipeline.local(other))
        result = pipeline.run(job, pipeline.local(began or other))
        assert {told for _, told in net.calls()} == {device}
        assert result.record["plan"]["devices"]["net"] == device
        assert result.record["job"]["segmenters"]["net"]["device"] == "auto"
        calls = len(net.calls())
        assert pipeline.run(job, pipeline.local(other)).path == result.path
        assert len(net.calls()) == calls
    fresh = pipeline.run(job, pipeline.local({"GPU": 1}), fresh=True)
    assert fresh.record["plan"]["devices"]["net"] == "gpu"


def test_auto_stays_where_nothing_runs_yet(tmp_path):
    """A plan for no engine in particular, as one for comparing results, leaves `auto` to the
    segmenter.
    """
    draft = plan(
        pipeline.Job(**parts(scene(), Telling(device="auto"), Telling(), tmp_path / "out")),
        workers=1,
        memory=10**9,
    )
    assert draft.facts()["devices"] == {"net": "auto", "plain": "cpu"}
    assert draft.run.methods[0].segmenter == Telling(device="auto")


def test_functions_may_ask_for_a_gpu(workers, tmp_path):
    """A function with an attribute for its device is sent there as any segmenter is."""
    log = tmp_path / "log"

    def net(block):
        from distributed import get_worker

        with log.open("a") as file:
            file.write(f"{get_worker().address}\n")
        return ndimage.label(block[0] > 100)[0]

    net.device = "auto"
    pipeline.segment(blobs(), net, tmp_path / "out", tile=TILE, halo=4, engine=workers)
    assert set(log.read_text().split()) == gpu_workers(workers)


# The command line


STAND_IN = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Net:
    "A threshold that asks for a device."
    device: str = "gpu"
    identity = "connected"
    reach = 0

    def __call__(self, block):
        return block[0] > 110
"""


@pytest.fixture
def command(tmp_path):
    """The command, where a plug-in with a segmenter for GPUs is installed, with a job for it."""
    (tmp_path / "site" / "standin-1.dist-info").mkdir(parents=True)
    (tmp_path / "site" / "standin.py").write_text(STAND_IN)
    (tmp_path / "site" / "standin-1.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: standin\nVersion: 1\n"
    )
    (tmp_path / "site" / "standin-1.dist-info" / "entry_points.txt").write_text(
        "[pipeline.segmenters]\nstandin = standin:Net\n"
    )
    Image.fromarray(np.nan_to_num(scene()).astype(np.uint8)).save(tmp_path / "scene.png")
    job = parts(
        str(tmp_path / "scene.png"),
        {"kind": "standin"},
        {"kind": "threshold", "value": 100},
        tmp_path / "out",
    )
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), str(ROOT)])}

    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", "pipeline", *map(str, arguments)]
        return subprocess.run(
            words,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment,
            check=False,
            timeout=120,
        )

    return call


def test_command_on_workers_with_and_without_a_gpu(command, tmp_path):
    """`plan` and `run` refuse a job for a GPU where none is offered, and say how; with `--gpus`
    they take it, and tell what routes took.
    """
    for verb in ("plan", "run"):
        refused = command(verb, "job.yaml", "--workers", 1)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert refused.stderr.startswith(
            "tilewise: segmenters.net.device: gpu; no worker offers {'GPU': 1}; "
        )
        assert "--gpus 1" in refused.stderr
        assert "device: cpu, or auto" in refused.stderr
    assert not (tmp_path / "out").exists()
    planned = command("plan", "job.yaml", "--workers", 2, "--gpus", 1)
    assert yaml.safe_load(planned.stdout)["devices"] == {"net": "gpu", "plain": "cpu"}
    on_cpu = command("plan", "job.yaml", "--workers", 0, "--set", "segmenters.net.device=auto")
    assert yaml.safe_load(on_cpu.stdout)["devices"] == {"net": "cpu", "plain": "cpu"}
    done = command("run", "job.yaml", "--workers", 2, "--gpus", 1)
    assert done.returncode == 0, done.stderr
    taken = tiles_by_route(pipeline.Result(str(tmp_path / "out")))
    lines = [line.split()[:3] for line in done.stdout.splitlines()]
    for route, tiles in taken.items():
        assert ([route, str(tiles), "tiles,"] in lines) == (tiles > 0)
    assert "everywhere would have taken about" in done.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--scheduler", "tcp://127.0.0.1:9", "--gpus", 1),
            "--scheduler and --gpus are both given; .* dask worker tcp://127.0.0.1:9 ",
        ),
        (
            ("--workers", 0, "--gpus", 2),
            "--gpus 2 with --workers 0; allowed: one for each process at most",
        ),
        (
            ("--workers", 1, "--gpus", 2),
            "--gpus 2 with --workers 1; allowed: one for each process at most",
        ),
    ],
    ids=["scheduler", "this process", "few workers"],
)
def test_places_that_cannot_be(options, message):
    """GPUs of this machine for a cluster that is not of this command, or for more processes than
    there are, are refused.
    """
    from pipeline.cli.runs import _place

    given = dict(zip(options[::2], options[1::2], strict=True))
    with pytest.raises(JobError, match=message):
        _place(given.get("--scheduler"), given.get("--workers"), given["--gpus"])
