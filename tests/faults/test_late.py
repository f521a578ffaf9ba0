"""Tasks that nobody waits for any more: what they write is never seen, and makes nothing where
nothing is.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pipeline
from pipeline.errors import OutputError, ScratchError
from pipeline.image.grid import Box
from pipeline.sinks.chunked import Array
from pipeline.storage.records import Scratch
from tests.faults.staging import blobs, contents, run, write

WORKER = """
import os, sys, time
from pathlib import Path
import cloudpickle

work, flag = map(Path, sys.argv[1:])
function, context, item = cloudpickle.loads(work.read_bytes())
held = []

def holds(event, arguments):
    writes = event == "os.mkdir" or (event == "open" and int(arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR))
    if writes and ".tilewise" in str(arguments[0]) and not held:
        held.append(event)
        flag.touch()
        while flag.exists():
            time.sleep(0.01)

sys.addaudithook(holds)
try:
    function(context, item)
except Exception as error:
    print(type(error).__name__, error)
"""  # noqa: E501
"""A worker that has all but written what a task makes: it is about to make or open its first file,
and does so when its flag is gone.
"""
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


class Keeping:
    """The engine of this process, which keeps one task of a stage for a worker that will come too
    late.
    """

    def __init__(self, stage: str, item: int, folder: Path) -> None:
        self.inner, self.stage, self.item, self.folder = pipeline.local(), stage, item, folder

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def run(self, function: Any, context: Any, items: Any, **how: Any) -> Any:
        """Run all, and write the task down."""
        import cloudpickle

        if how["label"] == self.stage:
            (self.folder / "work").write_bytes(cloudpickle.dumps((function, context, self.item)))
        yield from self.inner.run(function, context, items, **how)


class Sleeper:
    """A process that holds a task, as far as it is told to go on."""

    def __init__(self, folder: Path) -> None:
        self.flag = folder / "held"
        command = [sys.executable, "-c", WORKER, str(folder / "work"), str(self.flag)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
        while not self.flag.exists():
            assert self.process.poll() is None
            time.sleep(0.01)
        os.kill(self.process.pid, signal.SIGSTOP)

    def wakes(self) -> str:
        """Let it go on to its end; what it says."""
        self.flag.unlink()
        os.kill(self.process.pid, signal.SIGCONT)
        return self.process.communicate(timeout=60)[0]


def aborted(stage: str, item: int, tmp_path: Path) -> Sleeper:
    """A run that ends early, of which a worker still holds a task, frozen; the run itself is not
    complete.
    """

    def ends(event: pipeline.execution.result.Event) -> None:
        if event.stage == stage and event.done == event.total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(
            tmp_path / "image.tif",
            pipeline.Threshold(value=100),
            tmp_path / "out",
            Keeping(stage, item, tmp_path),
            watch=ends,
        )
    return Sleeper(tmp_path)


@pytest.mark.parametrize(
    ("stage", "item", "when"),
    [
        *(
            (*task, "while")
            for task in (("segment", 6), ("link", 6), ("publish", 6), ("measure", 1))
        ),
        *(
            (*task, when)
            for task in (("segment", 6), ("publish", 6))
            for when in ("before", "after")
        ),
    ],
)
def test_a_late_task_of_an_aborted_run(stage, item, when, tmp_path):
    """A worker that was frozen in a task of an aborted run goes on before, while or after another
    job is run there with --fresh: the result is byte-equal to that of a clean run, and nothing is
    left beside it.
    """
    write(tmp_path / "image.tif", blobs())
    sleeper = aborted(stage, item, tmp_path)
    said: list[str] = []

    def wakes(event: pipeline.execution.result.Event) -> None:
        if when == "while" and not said and event.stage == stage and event.done == event.total:
            said.append(sleeper.wakes())

    if when == "before":
        said.append(sleeper.wakes())
    run(
        tmp_path / "image.tif",
        pipeline.Threshold(value=60),
        tmp_path / "out",
        fresh=True,
        watch=wakes,
    )
    if when == "after":
        said.append(sleeper.wakes())
    run(tmp_path / "image.tif", pipeline.Threshold(value=60), tmp_path / "clean")
    assert contents(tmp_path / "out") == contents(tmp_path / "clean")
    assert (when == "before") == (said == [""]), said


@pytest.mark.parametrize("stage", ["publish", "measure"])
def test_a_late_task_of_another_joining(stage, tmp_path):
    """A worker that was frozen while a result was published goes on when its tiles are joined by
    another rule: the same bytes again.
    """
    write(tmp_path / "image.tif", blobs())

    def job(iou: float, name: str = "out") -> pipeline.Job:
        output = {"path": str(tmp_path / name), "labels": ["zarr", "cog"], "picture": True}
        watershed = {"kind": "watershed", "threshold": 40, "sigma": 1.0}
        tiles = {"size": 16, "halo": 4, "max_halo": 6}
        return pipeline.Job(
            source=str(tmp_path / "image.tif"),
            tiles=tiles,
            segmenters={"it": watershed},
            stitch={"iou": iou},
            output=output,
        )

    def ends(event: pipeline.execution.result.Event) -> None:
        if event.stage == stage and event.done == event.total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.run(job(1.0), Keeping(stage, 1, tmp_path), watch=ends)
    sleeper, said = Sleeper(tmp_path), []

    def wakes(event: pipeline.execution.result.Event) -> None:
        if not said and event.stage == stage and event.done == event.total:
            said.append(sleeper.wakes())

    pipeline.run(job(0.1), pipeline.local(), watch=wakes)
    pipeline.run(job(0.1, "clean"), pipeline.local())
    assert contents(tmp_path / "out") == contents(tmp_path / "clean")
    assert len(said) == 1


DIES = """
import os, sys
import pipeline
from tests.faults.staging import run

def watch(event):
    if event.stage == "segment" and event.done == 5:
        os._exit(9)

run(sys.argv[1], pipeline.Threshold(value=100), sys.argv[2], watch=watch)
"""


def test_the_same_job_uses_what_was_recorded(tmp_path):
    """The records of a process that is gone are those of its run: the same job goes on with them,
    under the same name.
    """
    image = write(tmp_path / "image.tif", blobs())
    command = [sys.executable, "-c", DIES, str(image), str(tmp_path / "out")]
    assert subprocess.run(command, env=ENVIRONMENT, check=False).returncode == 9
    [name] = (path.name for path in (tmp_path / "out/.tilewise/runs").iterdir())
    done: list[int] = []
    result = run(
        image,
        pipeline.Threshold(value=100),
        tmp_path / "out",
        watch=lambda event: event.stage == "segment" and done.append(event.done),
    )
    assert result.record["run"] == name
    assert done == list(range(6, 17))


def test_records_without_a_run_count_for_nothing(tmp_path):
    """Records that lie in an output in which no run was begun are not used, and are gone
    afterwards.
    """
    image = write(tmp_path / "image.tif", blobs())
    run(image, pipeline.Threshold(value=60), tmp_path / "other", keep_scratch=True)
    (tmp_path / "out").mkdir()
    (tmp_path / "other/.tilewise").rename(tmp_path / "out/.tilewise")
    (tmp_path / "out/.tilewise/begun.rec").unlink()
    run(image, pipeline.Threshold(value=100), tmp_path / "out")
    run(image, pipeline.Threshold(value=100), tmp_path / "clean")
    assert contents(tmp_path / "out") == contents(tmp_path / "clean")


def test_a_record_of_another_run_is_not_there(tmp_path):
    """A record that says that it is of another run is not taken for one of this, wherever
    it lies.
    """
    base = Scratch(str(tmp_path / "scratch")).begin()
    mine, other = base.of("mine", "a").begin(), base.of("other", "a").begin()
    other.save("tiles/0/1", {"n": 1})
    (tmp_path / "scratch/runs/mine/tiles/0").mkdir(parents=True)
    (tmp_path / "scratch/runs/other/tiles/0/1.rec").rename(
        tmp_path / "scratch/runs/mine/tiles/0/1.rec"
    )
    assert not mine.has("tiles/0/1")
    assert not mine.sound("tiles/0/1")
    with pytest.raises(ScratchError, match=r"1\.rec is of another run"):
        mine.load("tiles/0/1")
    mine.joined.save("ids/0/1", {})
    assert not base.of("mine", "b").joined.has("ids/0/1")
    assert mine.joined.has("ids/0/1")


def test_nothing_is_made_where_a_run_has_ended(tmp_path):
    """Where the folder of a run is gone, neither its records nor its chunks are written, and no
    folder is made anew.
    """
    store = Scratch(str(tmp_path / "scratch")).of("mine", "a")
    with pytest.raises(OutputError, match="is not written: its run has ended, or was started anew"):
        store.save("tiles/0/1", {})
    with pytest.raises(FileNotFoundError):
        store.joined.file("objects/0.parquet")
    array = Array(str(tmp_path / "out/labels/0"), (8, 8), (4, 4), "uint32")
    array.create()
    box, ones = Box((0, 0), (4, 4)), np.ones((4, 4), np.uint32)
    array.write(box, ones)
    (tmp_path / "out").rename(tmp_path / "away")
    with pytest.raises(OutputError, match="its run has ended, or was started anew"):
        array.write(box, ones)
    assert {path.name for path in tmp_path.iterdir()} == {"away"}
