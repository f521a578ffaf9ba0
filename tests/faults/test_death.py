"""Workers and drivers that die: the result has the same bytes, or what is missing is named."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import pipeline
from pipeline.errors import TilesError
from tests.faults.staging import (
    Flawed,
    blobs,
    contents,
    crashes,
    dies_once,
    is_published,
    products,
    record,
    run,
    spotted,
    write,
)

THRESHOLD = pipeline.Threshold(method="otsu", min_area=4, fill_holes=True)


@pytest.fixture(scope="module")
def engine():
    with pipeline.cluster(2) as engine:
        yield engine


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    return write(tmp_path_factory.mktemp("image") / "image.tif", blobs())


@pytest.fixture(scope="module")
def undisturbed(image, tmp_path_factory):
    """The result of a run to which nothing happened."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    run(image, THRESHOLD, out)
    return contents(out)


def test_killed_worker(tmp_path, engine):
    """The tiles of a worker that is killed run again, and the result has the same bytes."""
    segmenter = Flawed(dies_once, str(tmp_path / "flag"))
    run(spotted(), segmenter, tmp_path / "killed", engine)
    assert (tmp_path / "flag").exists()
    run(spotted(), segmenter, tmp_path / "calm", engine)
    assert contents(tmp_path / "killed") == contents(tmp_path / "calm")


def test_poison_tile(tmp_path, engine):
    """Of a tile that kills its workers only it is missing, by name; when the fault is
    mended, the same call completes the result.
    """
    flag = tmp_path / "flag"
    flag.touch()
    segmenter = Flawed(crashes, str(flag))
    with pytest.raises(
        TilesError,
        match=r"1 of 16 tiles failed, so nothing is published: tile \(1, 2\): its worker died",
    ) as fault:
        run(spotted(), segmenter, tmp_path / "out", engine)
    assert fault.value.exit_code == 1
    told = record(tmp_path / "out")
    assert told is not None
    assert not told["complete"]
    assert [(missing["tile"], missing["box"]) for missing in told["missing"]] == [
        ([1, 2], [[16, 32], [32, 48]])
    ]
    assert not is_published(tmp_path / "out")
    flag.unlink()
    run(spotted(), segmenter, tmp_path / "out", engine)
    run(spotted(), segmenter, tmp_path / "calm", engine)
    assert contents(tmp_path / "out") == contents(tmp_path / "calm")


class Camera:
    """Copies a folder before every event of some kinds in its files: what a process that died just
    then would have left there.
    """

    def __init__(self) -> None:
        self.folder, self.album, self.events, self.pictures = Path(), Path(), (), 0
        self.lock = threading.RLock()  # Zarr writes in threads
        sys.addaudithook(self.watch)  # which stays for as long as Python runs

    def watch(self, event: str, arguments: tuple[object, ...]) -> None:
        """Take a picture, but not of taking pictures."""
        if event == "open" and not int(arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR):  # type: ignore[call-overload]
            return
        if event not in self.events or str(self.folder) not in str(arguments[0]):
            return
        with self.lock:
            if event in self.events and self.folder.exists():
                events, self.events = self.events, ()
                self.pictures += 1
                with contextlib.suppress(
                    shutil.Error
                ):  # of a file that another thread moves meanwhile
                    shutil.copytree(self.folder, self.album / str(self.pictures))
                self.events = events

    @contextlib.contextmanager
    def on(self, folder: Path, album: Path, events: tuple[str, ...]) -> Iterator[None]:
        """Watch for a while."""
        self.folder, self.album, self.events, self.pictures = folder, album, events, 0
        yield
        self.events = ()


@pytest.fixture(scope="module")
def camera():
    return Camera()


@pytest.mark.parametrize(
    ("events", "step"),
    [
        pytest.param(("os.rename",), 3, id="each third commit"),
        pytest.param(
            ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "open"),
            1,
            id="every event",
            marks=pytest.mark.heavy,
        ),
    ],
)
def test_driver_killed_at_every_step(events, step, image, undisturbed, camera, tmp_path):
    """Wherever the driver is killed, what it left is right or does not look
    complete, and a resume makes the same bytes.
    """
    with camera.on(tmp_path / "out", tmp_path / "album", events):
        run(image, THRESHOLD, tmp_path / "out")
    assert (
        camera.pictures > 80
    )  # each of 16 tiles commits its pixels, record, links, table and labels, and there are the others  # noqa: E501
    for number in range(camera.pictures, 0, -step):
        out = tmp_path / "album" / str(number)
        told = record(out)
        if told is not None and told["complete"]:
            assert products(out) == undisturbed
        run(image, THRESHOLD, out)
        assert contents(out) == undisturbed, f"killed before event {number}"
        shutil.rmtree(out)


COMMAND = [sys.executable, "-m", "pipeline", "segment"]
OPTIONS = [
    "--with",
    "threshold",
    "--option",
    "method=otsu",
    "--tile",
    "32",
    "--cog",
    "--picture",
    "--json",
]


@pytest.fixture(scope="module")
def larger(tmp_path_factory):
    """An image that takes a few seconds, and the result of a run on it to which nothing
    happened.
    """
    folder = tmp_path_factory.mktemp("larger")
    image = write(folder / "image.tif", blobs(384))
    finish(image, folder / "calm")
    return image, contents(folder / "calm")


def finish(image: Path, out: Path) -> None:
    """Run the command to its end, in its own process."""
    subprocess.run(
        [*COMMAND, str(image), str(out), *OPTIONS, "--workers", "0"],
        capture_output=True,
        check=True,
    )


def started(image: Path, out: Path, workers: int, stage: str) -> subprocess.Popen[str]:
    """Start the command; returns when some work of a stage is done."""
    command = subprocess.Popen(
        [*COMMAND, str(image), str(out), *OPTIONS, "--workers", str(workers)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(out.parent)},
    )
    assert command.stdout is not None
    for line in command.stdout:
        event = json.loads(line)
        if event["stage"] == stage and event["done"] > 3:
            break
    return command


def test_driver_killed(larger, tmp_path):
    """A driver with workers is killed while it segments, and again while
    it publishes; nothing of it goes on.
    """
    image, calm = larger
    for stage in ("segment", "publish"):
        command = started(image, tmp_path / "out", 2, stage)
        workers = psutil.Process(command.pid).children(recursive=True)
        command.kill()
        command.communicate()
        assert psutil.wait_procs(workers, timeout=60)[1] == []
        assert not is_published(tmp_path / "out")
    finish(image, tmp_path / "out")
    assert contents(tmp_path / "out") == calm


def interrupt(image: Path, out: Path, workers: int, *, twice: bool) -> subprocess.Popen[str]:
    """Start the command, and press Ctrl-C on its process group as soon as tiles are done."""
    command = started(image, out, workers, "segment")
    os.killpg(command.pid, signal.SIGINT)
    if twice:
        time.sleep(0.05)  # two signals at once are one
        os.killpg(command.pid, signal.SIGINT)
    return command


@pytest.mark.parametrize("twice", [False, True], ids=["once", "twice"])
@pytest.mark.parametrize("workers", [0, 2], ids=["in process", "cluster"])
def test_interrupted(workers, twice, larger, tmp_path):
    """After Ctrl-C, and after two, the command ends with 130 and no traceback, and the same
    command completes the same result.
    """
    image, calm = larger
    command = interrupt(image, tmp_path / "out", workers, twice=twice)
    _, errors = command.communicate(timeout=60)
    assert command.returncode == 130, errors
    assert "the same command goes on" in errors
    assert "Traceback" not in errors
    assert not is_published(tmp_path / "out")
    finish(image, tmp_path / "out")
    assert contents(tmp_path / "out") == calm
