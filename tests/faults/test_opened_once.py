"""A run opens its image once, and what it has read of its output before it holds that is read again
when it does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from typer.testing import CliRunner

import pipeline
from pipeline import sources
from pipeline.__main__ import app
from pipeline.engine.in_process import Local
from pipeline.errors import ResumeError, TilesError
from pipeline.evaluation.verify import verify
from pipeline.execution.dry_run import foresee
from pipeline.jobs.job import Job
from pipeline.sources.raster import RasterFile
from pipeline.workflow import finished
from tests.faults.staging import Flawed, blobs, products, raises, spotted, write

OPENED: list[str] = []
"""The images that `Counted` has opened."""


@dataclass(frozen=True)
class Counted(RasterFile):
    """The reader of GeoTIFFs, which notes each time that an image is opened."""

    def __post_init__(self) -> None:
        OPENED.append(self.path)


@pytest.fixture(autouse=True)
def counting(monkeypatch):
    """Open GeoTIFFs with `Counted`."""
    monkeypatch.setitem(sources.KINDS, "geotiff", f"{__name__}:Counted")
    OPENED.clear()


@pytest.fixture
def job(tmp_path) -> Callable[..., Job]:
    """Makes jobs of one image and one output, with a segmenter that fails while a flag is up."""
    image = write(tmp_path / "image.tif", spotted())
    log = str(tmp_path / "log")

    def made(out: str = "out", value: float = 100, iou: float = 0.5, **output: Any) -> Job:
        return Job(
            source=str(image),
            tiles={"size": 16, "halo": 4},
            segmenters={"it": Flawed(raises, str(tmp_path / "flag"), value, log)},
            stitch={"iou": iou},
            output={"path": str(tmp_path / out), **output},
        )

    return made


def opened(work: Callable[[], Any]) -> int:
    """How many images some work opens."""
    OPENED.clear()
    work()
    return len(OPENED)


def run(job: Job, **how: Any) -> pipeline.Result:
    """A run in this process."""
    return pipeline.run(job, how.pop("engine", None) or pipeline.local(), **how)


def test_an_image_is_opened_once(job, tmp_path):
    """A run opens its image once: of a new result, one that is complete, replaced, resumed, joined
    anew, planned or verified.
    """
    assert opened(lambda: run(job())) == 1
    assert opened(lambda: run(job())) == 1
    assert opened(lambda: run(job(), fresh=True)) == 1
    assert opened(lambda: finished(job())) == 1
    assert opened(lambda: verify(tmp_path / "out", job=job())) == 1
    assert opened(lambda: foresee(job(), pipeline.local())) == 1
    assert opened(lambda: foresee(job("new"), pipeline.local(), sample=2)) == 1
    (tmp_path / "flag").touch()

    def fails() -> None:
        with pytest.raises(TilesError):
            run(job("flawed"))

    assert opened(fails) == 1
    assert opened(lambda: foresee(job("flawed"), pipeline.local())) == 1
    (tmp_path / "flag").unlink()
    assert opened(lambda: run(job("flawed"))) == 1
    run(job("kept", keep_scratch=True))
    assert opened(lambda: run(job("kept", iou=0.8, keep_scratch=True))) == 1


def test_the_command_opens_an_image_once(tmp_path):
    """`tilewise segment` opens its image once, of a new result as of one that is complete."""
    image = write(tmp_path / "image.tif", blobs())
    words = [*("segment", str(image), str(tmp_path / "out"), "--with", "threshold")]
    words += ["--option", "value=100", "--workers", "0"]
    for state in ("complete", "complete already"):
        OPENED.clear()
        told = CliRunner().invoke(app, words)
        assert f"out: {state}\n" in told.output
        assert len(OPENED) == 1


def test_an_output_without_a_result_needs_no_image(job):
    """Whether an output holds a finished result is told without the image where no result lies
    there.
    """
    assert opened(lambda: finished(job())) == 0


class Late(Local):
    """An engine that something precedes: it takes a while until its workers are there."""

    def __init__(self, before: Callable[[], Any]) -> None:
        super().__init__({})
        self.before: list[Callable[[], Any]] = [before]

    @property
    def workers(self) -> int:
        """One, after what precedes it."""
        while self.before:
            self.before.pop()()
        return 1


def test_a_result_that_another_process_finished_meanwhile(job, tmp_path):
    """A run that waits for its workers, while another one of the same job is completed, takes that
    result and segments nothing.
    """
    first: list[dict[str, Any]] = []

    def other() -> None:
        run(job())
        first.append(products(tmp_path / "out"))
        (tmp_path / "log").unlink()

    result = run(job(), engine=Late(other))
    assert not (tmp_path / "log").exists()
    assert products(tmp_path / "out") == first[0]
    assert result.record["complete"]
    assert not (tmp_path / "out/.tilewise").exists()


def test_another_jobs_result_that_came_meanwhile(job, tmp_path):
    """A run that waits for its workers, while another job's result is completed in its output, does
    not replace that.
    """
    with pytest.raises(ResumeError, match=r"holds the result of another job .*value: 120"):
        run(job(), engine=Late(lambda: run(job(value=120))))
    assert run(job(value=120)).record["complete"]


def test_a_run_that_was_begun_meanwhile(job, tmp_path):
    """A run that waits for its workers, while another one of the same job fails, goes on with what
    that has segmented.
    """

    def other() -> None:
        (tmp_path / "flag").touch()
        with pytest.raises(TilesError):
            run(job())
        (tmp_path / "flag").unlink()
        (tmp_path / "log").unlink()

    run(job(), engine=Late(other))
    assert (tmp_path / "log").read_text().count("called") == 1
