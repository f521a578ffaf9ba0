"""What is resumed, what is refused, and what is done again."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import pipeline
from pipeline.errors import OutputError, ResumeError, SegmenterError, TilesError
from pipeline.execution import planning
from pipeline.jobs.job import Job
from pipeline.storage.records import Scratch
from tests.faults.staging import (
    Flawed,
    blobs,
    contents,
    is_published,
    once,
    products,
    raises,
    record,
    run,
    spotted,
    tiles_by_route,
    write,
)


def calls(log: Path) -> int:
    """How often the segmenter was called since the last look."""
    number = len(log.read_text().splitlines()) if log.exists() else 0
    log.unlink(missing_ok=True)
    return number


@pytest.fixture
def flawed(tmp_path):
    """A segmenter that fails at one tile while the flag is up, which it is."""
    (tmp_path / "flag").touch()
    return Flawed(raises, str(tmp_path / "flag"), log=str(tmp_path / "log"))


def begun(image: Any, flawed: Flawed, out: Path, **parts: Any) -> None:
    """Leave a run without its result."""
    with pytest.raises(
        TilesError, match=r"tile \(1, 2\): the segmenter Flawed raised ArithmeticError: flawed"
    ):
        run(image, flawed, out, **parts)
    Path(flawed.flag).unlink()


def test_only_the_failed_tile_is_tried_again(flawed, tmp_path):
    """A tile whose segmenter raises is named and listed; the same call tries that tile alone, and
    completes the same result.
    """
    begun(spotted(), flawed, tmp_path / "out")
    told = record(tmp_path / "out")
    assert told is not None
    assert [tile["tile"] for tile in told["missing"]] == [[1, 2]]
    assert not is_published(tmp_path / "out")
    assert calls(Path(flawed.log)) == 16
    run(spotted(), flawed, tmp_path / "out")
    assert calls(Path(flawed.log)) == 1
    run(spotted(), flawed, tmp_path / "calm")
    assert contents(tmp_path / "out") == contents(tmp_path / "calm")


@pytest.mark.parametrize("nodata", [None, 7], ids=["NaN", "nodata"])
def test_empty_tiles_are_not_missing(nodata, flawed, tmp_path):
    """Tiles of NaN or nodata only are recorded as empty, the segmenter never sees them, and
    the result is complete.
    """
    image = blobs().astype(np.float32)
    image[16:48] = np.nan if nodata is None else nodata
    source = (
        {"path": image}
        if nodata is None
        else {"path": str(write(tmp_path / "image.tif", image)), "nodata": nodata}
    )
    result = run(source if nodata is not None else image, flawed, tmp_path / "out")
    assert calls(Path(flawed.log)) == 8
    assert tiles_by_route(result) == {"empty": 8, "skip": 0, "flawed": 8}
    assert (result.record["complete"], result.record["missing"]) == (True, [])
    assert not result.labels.values[16:48].any()


OWN = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Own:
    fails: bool = False
    identity, reach = "connected", 0

    def __call__(self, block):
        if self.fails:
            raise ArithmeticError
        return block[0] > LEVEL

LEVEL = 100

def smooth(block):
    return block + 0

smooth.reach = 0
"""


def test_changed_code_is_another_job(tmp_path, monkeypatch):
    """A result or a run of a segmenter and a step whose code has changed is refused, naming what
    changed; not if it was only moved.
    """
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def done(text: str, out: str = "out") -> Any:
        (tmp_path / "own_segmenter.py").write_text(text)
        sys.modules.pop("own_segmenter", None)
        importlib.invalidate_caches()
        own = importlib.import_module("own_segmenter")
        how = {"tile": 16, "halo": 4, "steps": [own.smooth], "engine": pipeline.local()}
        return pipeline.segment(blobs(), own.Own(), tmp_path / out, **how)

    first = done(OWN).record
    assert (
        done("# moved\n\n" + OWN.replace("fails: bool", "# a comment\n    fails: bool")).record
        == first
    )
    failing = OWN.replace("fails: bool = False", "fails: bool = True")
    with pytest.raises(SegmenterError, match="no tile succeeded"):
        done(failing, "begun")
    for old, new, told in (
        (
            "block[0] > LEVEL",
            "block[0] > 0",
            r"segmenters\.own: the code of own_segmenter\.Own\.__call__ changed",
        ),
        ("LEVEL = 100", "LEVEL = 99", r"segmenters\.own: the code of own_segmenter\.LEVEL changed"),
        ("block + 0", "block * 1", r"steps\.1: the code of own_segmenter\.smooth changed"),
    ):
        assert OWN.count(old) == 1
        with pytest.raises(ResumeError, match=rf"holds the result of another job \(.*{told}"):
            done(OWN.replace(old, new))
        with pytest.raises(ResumeError, match=rf"cannot go on: .*{told}"):
            done(failing.replace(old, new), "begun")
    sys.modules.pop("own_segmenter", None)


HOLDER = """
import sys
import pipeline
from tests.faults.staging import run

def stays(block):
    print("here", flush=True)
    sys.stdin.readline()
    return (block[0] > 100).astype("int32")

stays.identity = "connected"
run(sys.argv[1], stays, sys.argv[2])
"""


def test_two_runs_at_once(tmp_path):
    """A second run into one output is refused while the first lives; when it is killed, its
    lock is taken over.
    """
    image = write(tmp_path / "image.tif", blobs())
    command = [sys.executable, "-c", HOLDER, str(image), str(tmp_path / "out")]
    first = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert first.stdout is not None
    assert first.stdout.readline() == "here\n"
    method = pipeline.Threshold(value=100)
    with pytest.raises(
        OutputError, match=rf"another run is writing .*out \(process {first.pid} on "
    ):
        run(image, method, tmp_path / "out")
    first.kill()
    first.communicate()
    with pytest.raises(ResumeError, match="holds a run that was begun otherwise"):
        run(image, method, tmp_path / "out")
    run(image, method, tmp_path / "out", fresh=True)
    run(image, method, tmp_path / "calm")
    assert contents(tmp_path / "out") == contents(tmp_path / "calm")


class Rewriting(Flawed):
    """A threshold whose first call changes the image."""

    def __call__(self, block: np.ndarray) -> np.ndarray:
        if once(self.flag):
            write(Path(self.log), blobs(seed=1))
        return (block[0] > self.value).astype(np.int32)


def test_image_changed_during_the_run(tmp_path):
    """An image that is rewritten between two tiles is noticed at the end, and nothing is
    published.
    """
    image = write(tmp_path / "image.tif", blobs())
    with pytest.raises(ResumeError, match="the image changed while it was read") as fault:
        run(image, Rewriting(raises, str(tmp_path / "flag"), log=str(image)), tmp_path / "out")
    assert fault.value.exit_code == 3
    assert not is_published(tmp_path / "out")
    assert record(tmp_path / "out") is None


def test_image_changed_before_a_resume(flawed, tmp_path):
    """A run does not go on with another image; started anew, it does."""
    image = write(tmp_path / "image.tif", spotted())
    begun(image, flawed, tmp_path / "out")
    write(image, blobs(seed=1))
    with pytest.raises(ResumeError, match=r"cannot go on: source\.fingerprint\."):
        run(image, flawed, tmp_path / "out")
    assert not is_published(tmp_path / "out")
    run(image, flawed, tmp_path / "out", fresh=True)
    run(image, flawed, tmp_path / "calm")
    assert contents(tmp_path / "out") == contents(tmp_path / "calm")


CHANGES: dict[str, dict[str, Any]] = {
    "segmenters.flawed.value": {"segmenter": {"value": 101.0}},
    "tiles.size": {"tile": 32},
    "tiles.depth": {"halo": 5},
    "tiles.max_halo": {"max_halo": 77},
    "source.nodata": {"source": {"nodata": 9}},
    "source.bands": {"source": {"bands": [1, 1]}},
    "route": {"route": [{"use": "flawed", "when": {"mean": {"min": 0}}}]},
    "algorithms": {},
}


@pytest.mark.parametrize("key", CHANGES)
def test_changed_job(key, flawed, tmp_path, monkeypatch):
    """Whatever the labels depend on may not change within a run, and the message names it;
    started anew, it may.
    """
    path = write(tmp_path / "image.tif", spotted())

    def job(**change: Any) -> Job:
        tiles = {
            "size": change.get("tile", 16),
            "halo": change.get("halo", 4),
            "max_halo": change.get("max_halo", 60),
        }
        segmenter = replace(flawed, **change.get("segmenter", {}))
        return Job(
            source={"path": str(path), **change.get("source", {})},
            tiles=tiles,
            segmenters={"flawed": segmenter, "other": watershed},
            route=change.get("route", [{"use": "flawed"}]),
            output={"path": tmp_path / "out"},
        )

    watershed = pipeline.Watershed(threshold=100)
    with pytest.raises(TilesError):
        pipeline.run(job(), pipeline.local())
    if key == "algorithms":
        monkeypatch.setattr(planning, "ALGORITHMS", 1000)
    with pytest.raises(
        ResumeError,
        match=rf"holds a run that was begun otherwise, and cannot go on: {key.replace('.', '[.]')}",
    ) as fault:
        pipeline.run(job(**CHANGES[key]), pipeline.local())
    assert fault.value.exit_code == 3
    assert not is_published(tmp_path / "out")
    Path(flawed.flag).unlink()
    assert pipeline.run(job(**CHANGES[key]), pipeline.local(), fresh=True).record["complete"]


def test_another_job_into_a_result(tmp_path):
    """A result is not overwritten by another job's unless the user says so, and no longer looks
    complete when that fails.
    """
    image = blobs()
    run(image, pipeline.Threshold(value=100), tmp_path / "out")
    before = contents(tmp_path / "out")
    with pytest.raises(
        ResumeError,
        match=r"the result of another job \(segmenters\.threshold\.value: 100 before, 120 now\)",
    ):
        run(image, pipeline.Threshold(value=120), tmp_path / "out")
    (tmp_path / "flag").touch()
    with pytest.raises(TilesError):
        run(spotted(), Flawed(raises, str(tmp_path / "flag")), tmp_path / "out", fresh=True)
    told = record(tmp_path / "out")
    assert told is not None
    assert not told["complete"]
    run(image, pipeline.Threshold(value=120), tmp_path / "out", fresh=True)
    assert contents(tmp_path / "out") != before


def test_joined_again_by_another_rule(flawed, tmp_path):
    """With the scratch store kept, another rule for joining is applied without segmenting again."""
    Path(flawed.flag).unlink()

    def job(iou: float) -> Job:
        output = {"path": tmp_path / "out", "keep_scratch": True}
        return Job(
            source=blobs(),
            tiles={"size": 16},
            segmenters={"flawed": flawed},
            stitch={"iou": iou},
            output=output,
        )

    pipeline.run(job(0.5), pipeline.local())
    assert calls(Path(flawed.log)) == 16
    assert pipeline.run(job(0.8), pipeline.local()).record["stitch"] == {"iou": 0.8, "repair": 0}
    assert calls(Path(flawed.log)) == 0


def flip(path: Path, at: int) -> None:
    """Change one bit of a file."""
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= 1 << (at % 8)
    path.write_bytes(data)


def test_damaged_records_are_made_again(tmp_path):
    """Whichever record of a run has a bit flipped, a resume notices, and makes the same bytes."""
    image = write(tmp_path / "image.tif", blobs())
    method = pipeline.Threshold(method="otsu", fill_holes=True)
    run(image, method, tmp_path / "out", keep_scratch=True)
    shutil.copytree(tmp_path / "out", tmp_path / "kept")
    whole = products(tmp_path / "out")
    [begun] = (tmp_path / "kept" / ".tilewise" / "runs").iterdir()
    [joined] = (begun / "joined").iterdir()
    records = sorted(begun.rglob("*.rec"))
    kinds = {
        path.relative_to(folder).parts[0]
        for folder in (begun, joined)
        for path in folder.rglob("*.rec")
    }
    assert kinds == {
        "fitted",
        "settled",
        "processors",
        "routes.rec",
        "tiles",
        "pixels",
        "links",
        "joined",
        "grouped.rec",
        "ids",
        "slabs",
    }
    rng = np.random.default_rng(0)
    for number, path in enumerate(records):
        if number % 5 == 0 or path.parent in (begun, joined, begun / "fitted"):
            out = tmp_path / f"out{number}"
            shutil.copytree(tmp_path / "kept", out)
            (out / "run.json").unlink()  # as if the run had been killed before it was written
            flip(out / path.relative_to(tmp_path / "kept"), int(rng.integers(path.stat().st_size)))
            run(image, method, out, keep_scratch=True)
            assert products(out) == whole, path


def test_more_objects_than_fit(flawed, tmp_path):
    """Ids that do not fit the type asked for are refused before anything is published."""
    begun(spotted(), flawed, tmp_path / "out", dtype="uint32")
    facts = {"objects": 2**32, "classes": 1, "disputes": 0, "of": {"widened": 0, "mixed": []}}
    store = Scratch(str(tmp_path / "out" / ".tilewise"))
    begun_by = store.load("begun")[0]
    store.of(begun_by["run"], begun_by["join"]).joined.save(
        "grouped", facts, {"disputed": np.zeros(0, np.int64)}
    )
    with pytest.raises(
        OutputError,
        match=r"output\.dtype: 4294967296 objects do not fit in uint32; allowed: uint64",
    ):
        run(spotted(), flawed, tmp_path / "out", dtype="uint32")
    assert not is_published(tmp_path / "out")


class Life(RuleBasedStateMachine):
    """A run that is disturbed again and again: whatever looks complete is the undisturbed result,
    and in the end it is there.
    """

    folder: Path
    image: Path

    def __init__(self) -> None:
        super().__init__()
        self.out = Life.folder / "out"
        shutil.rmtree(self.out, ignore_errors=True)
        self.flag = Life.folder / "flag"
        self.flag.unlink(missing_ok=True)
        self.segmenter = Flawed(raises, str(self.flag))

    @rule()
    def fails(self) -> None:
        """Run with a flaw in one tile."""
        self.flag.touch()
        if not self.complete:
            with pytest.raises(TilesError):
                run(Life.image, self.segmenter, self.out)
        self.flag.unlink()

    @rule()
    def runs(self) -> None:
        """Run, or resume, to the end."""
        run(Life.image, self.segmenter, self.out)
        assert self.complete

    @precondition(lambda self: (self.out / ".tilewise").exists())
    @rule(which=st.integers(0, 10**6), at=st.integers(0, 10**6))
    def rots(self, which: int, at: int) -> None:
        """Flip a bit of some record but the first."""
        records = [path for path in sorted(self.out.rglob("*.rec")) if path.name != "begun.rec"]
        if records:
            flip(records[which % len(records)], at)

    @precondition(lambda self: self.out.exists())
    @rule()
    def changes(self) -> None:
        """Run another job into the same output."""
        if record(self.out) is not None:
            with pytest.raises((ResumeError, OutputError)):
                run(Life.image, replace(self.segmenter, value=99.0), self.out)

    @rule()
    def loses(self) -> None:
        """Lose some records."""
        for folder in (self.out / ".tilewise" / "runs").glob("*"):
            shutil.rmtree(folder / "links", ignore_errors=True)
            shutil.rmtree(folder / "pixels", ignore_errors=True)

    @property
    def complete(self) -> bool:
        """Whether the result says that it is."""
        told = record(self.out)
        return bool(told and told["complete"])

    @invariant()
    def complete_is_right(self) -> None:
        """What looks complete is."""
        if self.complete:
            assert products(self.out) == Life.expected  # type: ignore[attr-defined]


@pytest.mark.hypothesis
def test_life(tmp_path):
    """However a run is disturbed, whatever looks complete is the undisturbed result."""
    Life.folder, Life.image = tmp_path, write(tmp_path / "image.tif", spotted())
    run(Life.image, Flawed(raises, str(tmp_path / "flag")), tmp_path / "calm")
    Life.expected = contents(tmp_path / "calm")  # type: ignore[attr-defined]
    run_state_machine_as_test(
        Life, settings=settings(max_examples=15, stateful_step_count=8, deadline=None)
    )


@pytest.mark.parametrize("layered", [False, True])
def test_classes_by_number_are_the_same_when_read_again(layered, tmp_path):
    """A job with classes by number (a legend, layers that rename some) finds its own result
    complete, and another legend is another job.
    """

    def again(name: str) -> pipeline.Result:
        segmenters = {"a": {"kind": "threshold"}, "b": {"kind": "kmeans", "clusters": 3}}
        layers = [{"things": "a", "classes": 5}, {"stuff": "b", "classes": {3: 0}}]
        how = {"layers": layers} if layered else {"route": [{"use": "b"}]}
        output = {
            "path": str(tmp_path / "out"),
            "results": ["semantic"],
            "legend": {2: name, 5: {"name": "thing", "colour": "#112233"}},
        }
        return pipeline.run(
            Job(source=blobs(96, 96), segmenters=segmenters, **how, output=output), pipeline.local()
        )

    began = again("two").record["seconds"]
    assert again("two").record["seconds"] == began
    with pytest.raises(ResumeError, match="holds the result of another job"):
        again("deux")
