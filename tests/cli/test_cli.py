"""The command line, as users meet it: commands, exit codes, messages."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import rasterio
import tifffile
import yaml
import zarr
from scipy import ndimage
from typer.testing import CliRunner

from pipeline import __version__
from pipeline.__main__ import app
from pipeline.engine import own_cluster
from pipeline.jobs import plugins
from tests.engine.test_engine import Daemons
from tests.faults.staging import blobs, write

ROOT = Path(__file__).resolve().parents[2]


def tilewise(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    command = [sys.executable, "-m", "pipeline", *map(str, arguments)]
    path = {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **path},
        check=False,
        timeout=120,
    )


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("image") / "image.tif", blobs())


@pytest.fixture
def job(image, tmp_path) -> Path:
    """A job file with two segmenters."""
    parts = {
        "source": {"kind": "geotiff", "path": str(image)},
        "tiles": {"size": 32},
        "segmenters": {
            "dark": {"kind": "threshold", "value": 200},
            "light": {"kind": "threshold", "value": 100},
        },
        "route": [{"use": "dark", "when": {"mean": {"min": 500}}}, {"use": "light"}],
        "output": {"path": str(tmp_path / "out"), "labels": ["zarr", "cog"], "picture": True},
    }
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(parts))
    return path


def labels_in(folder: Path) -> np.ndarray:
    return zarr.open_array(folder / "labels.zarr" / "0")[:]


def test_segment(image, tmp_path):
    """`segment` makes SciPy's labels, says what it made, and says the second time that it is
    complete.
    """
    arguments = (
        "segment",
        image,
        tmp_path / "out",
        "--with",
        "threshold",
        "--option",
        "value=100",
        "--tile",
        20,
        "--halo",
        3,
    )
    arguments = (*arguments, "--workers", 0)
    first = tilewise(*arguments)
    assert (first.returncode, first.stdout.splitlines()[0]) == (0, f"{tmp_path / 'out'}: complete")
    np.testing.assert_array_equal(labels_in(tmp_path / "out"), ndimage.label(blobs() > 100)[0])
    assert "64 x 64 pixels" in first.stdout
    assert "labels.zarr" in first.stdout
    assert "segment 16/16" in first.stderr
    again = tilewise(*arguments)
    assert (again.returncode, again.stdout.splitlines()[0], again.stderr) == (
        0,
        f"{tmp_path / 'out'}: complete already",
        "",
    )
    other = tilewise(*arguments[:-2], "--option", "sigma=1", "--workers", 0)
    assert (other.returncode, other.stdout) == (3, "")
    assert (
        "holds the result of another job (segmenters.threshold.sigma: 0.0 before, 1.0 now)"
        in other.stderr
    )
    over = tilewise(*arguments[:-2], "--option", "sigma=1", "--workers", 0, "--overwrite")
    assert over.returncode == 0
    smooth = ndimage.gaussian_filter(blobs().astype(float), 1, mode="nearest")
    np.testing.assert_array_equal(labels_in(tmp_path / "out"), ndimage.label(smooth > 100)[0])


def test_segment_for_microscopy(tmp_path):
    """`--ome-tiff` writes an OME-TIFF beside the Zarr, of the same labels and the pixels' size."""
    metadata = {"axes": "YX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    tifffile.imwrite(tmp_path / "image.ome.tif", blobs(), ome=True, metadata=metadata)
    arguments = (
        "--with",
        "threshold",
        "--option",
        "value=100",
        "--tile",
        20,
        "--ome-tiff",
        "--workers",
        0,
    )
    done = tilewise("segment", tmp_path / "image.ome.tif", tmp_path / "out", *arguments)
    assert done.returncode == 0, done.stderr
    assert "labels.ome.tif" in done.stdout
    with tifffile.TiffFile(tmp_path / "out" / "labels.ome.tif") as file:
        np.testing.assert_array_equal(file.asarray(), labels_in(tmp_path / "out"))
        assert 'PhysicalSizeX="0.5"' in file.ome_metadata


def test_segment_by_watershed_on_a_cluster(image, tmp_path):
    """`--workers 2` gives what `--workers 0` gives, by a method found by name and options that YAML
    understands.
    """
    for workers in (0, 2):
        out = tmp_path / str(workers)
        options = (
            "--option",
            "threshold=otsu",
            "--option",
            "min_distance=2",
            "--workers",
            workers,
            "-q",
        )
        done = tilewise("segment", image, out, "--with", "watershed", *options)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    np.testing.assert_array_equal(labels_in(tmp_path / "0"), labels_in(tmp_path / "2"))


def test_run_plan_and_changes(job, tmp_path):
    """`plan` and `--dry-run` say what would be done and do nothing; `run --set` changes keys;
    `--json` prints an object a line.
    """
    for arguments in (("plan", job), ("run", job, "--dry-run")):
        planned = tilewise(*arguments, "--workers", 0)
        assert (planned.returncode, planned.stderr) == (0, "")
        facts = yaml.safe_load(planned.stdout)
        assert facts["tiles"]["number"] == 4
        assert facts["frame"]["shape"] == [64, 64]
        assert not (tmp_path / "out").exists()
    done = tilewise(
        "run",
        job,
        "--set",
        "tiles.size=16",
        "--set",
        "segmenters.light.value=120",
        "--workers",
        0,
        "--json",
    )
    assert (done.returncode, done.stderr) == (0, "")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(event["done"], event["total"]) for event in events if event["stage"] == "segment"] == [
        (n, 16) for n in range(1, 17)
    ]
    np.testing.assert_array_equal(labels_in(tmp_path / "out"), ndimage.label(blobs() > 120)[0])
    with rasterio.open(tmp_path / "out" / "labels.tif") as file:
        np.testing.assert_array_equal(file.read(1), labels_in(tmp_path / "out"))
    assert (tmp_path / "out" / "overview.png").read_bytes().startswith(b"\x89PNG")


def test_help_version_and_methods():
    """The command tells its version, its help, and the methods with their options."""
    assert tilewise("--version").stdout == f"tilewise {__version__}\n"
    assert tilewise("--help").returncode == tilewise("run", "-h").returncode == 0
    listed = tilewise("methods").stdout
    for word in (
        *(f"{name}: {plugins.load(name).__doc__.splitlines()[0]}" for name in plugins.kinds()),
        "  min_distance = 5",
        "  method = None",
    ):
        assert word in listed


SEGMENT = ("segment", "{image}", "out", "--with", "threshold")
OPTION = (*SEGMENT, "--option")
MISTAKES = {
    "no image": (
        ("segment", "nowhere.tif", "out", "--with", "threshold"),
        "there is no image at {cwd}/nowhere.tif",
    ),
    "not an image": (("segment", "text.tif", "out", "--with", "threshold"), "text.tif"),
    "no kind of image": (
        ("segment", "text.txt", "out", "--with", "threshold"),
        "text.txt does not tell what it is; name its kind",
    ),
    "misspelt kind": (
        (*SEGMENT[:3], "--with", "treshold"),
        "there is no kind 'treshold'; allowed: blobs, cellpose, edges, fcn, ",
    ),
    "misspelt option": (
        (*OPTION, "vlaue=3"),
        "segmenters.threshold.vlaue: there is no such option; allowed: band, ",
    ),
    "option without value": ((*OPTION, "value"), "--option 'value'; allowed: key=value"),
    "option that is no YAML": ((*OPTION, "value=[1"), "--option 'value=[1': the value is no YAML"),
    "wrong type": (
        (*OPTION, "value=high"),
        "segmenters.threshold.value: 'high'; allowed: a number or nothing",
    ),
    "two thresholds": (
        (*OPTION, "value=3", "--option", "method=otsu"),
        "value and method given; allowed: one of value, interval, levels, method",
    ),
    "misspelt method": (
        (*OPTION, "method=otzu"),
        (
            "local_mean, mean, minimum, multiotsu, niblack, otsu, sauvola, triangle, yen; did you "
            "mean 'otsu'?"
        ),
    ),
    "no such band": (
        (*OPTION, "band=2"),
        "segmenters.threshold: band 2 is asked for, and the image has 1; allowed: 1 to 1",
    ),
    "connectivity of volumes": (
        (*OPTION, "connectivity=26"),
        "connectivity 26 in 2 dimensions; allowed: 4 or 8",
    ),
    "negative area": (
        (*OPTION, "min_area=-1"),
        "segmenters.threshold.min_area: -1; allowed: a number of pixels, 0 or more",
    ),
    "negative halo": ((*SEGMENT, "--halo", "-1"), "tiles.halo: -1; "),
    "no tile": ((*SEGMENT, "--tile", "0"), "tiles.size: 0; "),
    "unknown source option": (
        (*SEGMENT, "--source", "colour=1"),
        "colour: a source of kind geotiff has no such option",
    ),
    "output is a file": (
        ("segment", "{image}", "text.txt", "--with", "threshold"),
        "{cwd}/text.txt cannot be written: Not a directory",
    ),
    "no job": (
        ("run", "nowhere.yaml"),
        "the job file {cwd}/nowhere.yaml cannot be read: No such file or directory",
    ),
    "no YAML": (("run", "broken.yaml"), "the job file broken.yaml is no YAML: "),
    "no certificates": (
        (*SEGMENT, "--scheduler", "tls://127.0.0.1:9"),
        "tls://127.0.0.1:9 wants certificates; name them in Dask's",
    ),
    "no scheduler": (
        (*SEGMENT, "--scheduler", "tcp://127.0.0.1:9"),
        "no scheduler answers at tcp://127.0.0.1:9 ",
    ),
    "two places": (
        (*SEGMENT, "--scheduler", "tcp://127.0.0.1:9", "--workers", "1"),
        "--scheduler and --workers are both given",
    ),
}


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """What Ctrl-C does is put back: a command that ends with an error leaves it without effect."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(mistake, image, tmp_path, monkeypatch):
    """A user's mistake ends with exit code 2 and one message that names the key or the file, no
    traceback, and nothing written.
    """
    (tmp_path / "text.tif").write_text("no image")
    (tmp_path / "text.txt").write_text("no image")
    (tmp_path / "broken.yaml").write_text("a: [1,")
    before = sorted(path.name for path in tmp_path.iterdir())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(own_cluster, "CONNECT", 0.5)
    arguments, message = MISTAKES[mistake]
    where = () if {"--scheduler", "--workers"} & set(arguments) else ("--workers", "0")
    done = CliRunner().invoke(app, [*(word.format(image=image) for word in arguments), *where])
    assert done.exit_code == 2, done
    assert done.stderr.startswith("tilewise: ")
    assert message.format(cwd=tmp_path) in done.stderr
    assert done.stdout == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_debug(tmp_path):
    """`--debug` shows the traceback."""
    done = tilewise(
        "segment",
        "nowhere.tif",
        "out",
        "--with",
        "threshold",
        "--workers",
        0,
        "--debug",
        cwd=tmp_path,
    )
    assert done.returncode != 0
    assert "Traceback" in done.stderr
    assert "SourceError: there is no image at" in done.stderr


@pytest.fixture(scope="module")
def daemons() -> Iterator[Daemons]:
    """A scheduler and two workers, one of which has a GPU, as it says."""
    with Daemons(
        ("--no-nanny", "--resources", "GPU=1", "--name", "with"),
        ("--no-nanny", "--name", "without"),
    ) as daemons:
        yield daemons


PLUGIN = '''
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

@dataclass(frozen=True)
class Telling:
    """A threshold that writes down which worker it ran on."""
    log: str
    device: str = "cpu"
    identity: ClassVar[str] = "connected"

    def __call__(self, block):
        from distributed import get_worker
        with Path(self.log, self.device).open("a") as file:
            file.write(f"{get_worker().name}\\n")
        return block[0] > 100
'''


def test_gpu_tiles_run_on_the_gpu_worker(daemons, image, tmp_path):
    """On a cluster that runs already, tiles of a segmenter that asks for a GPU run on the worker
    that offers one, each of them there.
    """
    script = f"""
{PLUGIN}
import pipeline
job = pipeline.Job(
    source={str(image)!r},
    tiles={{"size": 8}},
    segmenters={{"net": Telling({str(tmp_path)!r}, "gpu"), "plain": Telling({str(tmp_path)!r})}},
    route=[{{"use": "net", "when": {{"mean": {{"min": 190}}}}}}, {{"use": "plain"}}],
    output={{"path": {str(tmp_path / "out")!r}}},
)
with pipeline.on({daemons.address!r}) as engine:
    print({{name: route["tiles"] for name, route in pipeline.run(job, engine).record["routes"].items()}})
"""  # noqa: E501
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    routes = yaml.safe_load(done.stdout)
    ran = {device: (tmp_path / device).read_text().splitlines() for device in ("gpu", "cpu")}
    assert {device: len(names) for device, names in ran.items()} == {
        "gpu": routes["net"],
        "cpu": routes["plain"],
    }
    assert min(routes["net"], routes["plain"]) > 5
    assert set(ran["gpu"]) == {"with"}
    np.testing.assert_array_equal(labels_in(tmp_path / "out") > 0, blobs() > 100)


def test_scheduler(daemons, image, tmp_path):
    """`--scheduler` runs on a cluster that runs already, leaves it running, and gives what this
    process gives.
    """
    for out, where in (("theirs", ("--scheduler", daemons.address)), ("own", ("--workers", 0))):
        done = tilewise(
            "segment", image, tmp_path / out, "--with", "threshold", "--tile", 16, *where
        )
        assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(labels_in(tmp_path / "theirs"), labels_in(tmp_path / "own"))
    assert all(psutil.Process(process.pid).is_running() for process in daemons.processes)
