"""A disk that is full, and one that can only be read: a clear error, nothing half published, and
the same bytes once there is room.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import pipeline
from pipeline.errors import OutputError, TilewiseError
from tests.faults.staging import products, write

MOST = 4096
"""kB that the result and what lies between the stages need at most."""


@contextlib.contextmanager
def disk(place: Path, kilobytes: int) -> Iterator[Path]:
    """A file system in memory of some kB, mounted there; skips where that is not permitted."""
    place.mkdir(exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", place],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"needs the right to mount a file system: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def remount(place: Path, options: str) -> None:
    """Change what is mounted."""
    subprocess.run(["mount", "-o", f"remount,{options}", place], check=True)


def job(image: Path, out: Path) -> pipeline.Job:
    """Labels, which noise makes large, in all forms."""
    output = {"path": str(out), "labels": ["zarr", "cog"], "picture": True}
    return pipeline.Job(
        source=str(image),
        segmenters={"it": pipeline.Threshold(value=127)},
        tiles={"size": 64},
        output=output,
    )


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> Path:
    """Noise."""
    noise = np.random.default_rng(0).integers(0, 255, (256, 256)).astype(np.uint8)
    return write(tmp_path_factory.mktemp("image") / "noise.tif", noise)


def refused(asked: pipeline.Job) -> str:
    """Why a job cannot be done; empty where it can."""
    try:
        pipeline.run(asked, pipeline.local())
    except TilewiseError as error:
        return str(error)
    return ""


def test_a_disk_that_fills_up_at_any_stage(tmp_path, image):
    """However little room there is, a run ends with an error that says so and publishes nothing;
    with room the same job goes on.
    """
    known = products(Path(pipeline.run(job(image, tmp_path / "known"), pipeline.local()).path))
    told = set()
    for room in (16, 64, 160, 288, 416, 544, 672, 800, 928):
        with disk(tmp_path / "disk", room) as place:
            out = place / "out"
            if why := refused(job(image, out)):
                assert "No space left on device" in why
                told.add(why.partition(":")[0])
                assert not out.exists() or {each.name for each in out.iterdir()} <= {".tilewise"}
                remount(place, f"size={MOST}k")
                assert not refused(job(image, out))
            ours = products(out)
        assert {name: what for name, what in ours.items() if name != "run.json"} == {
            k: v for k, v in known.items() if k != "run.json"
        }
    assert len(told) > 2


def test_a_place_that_can_only_be_read(tmp_path, image):
    """An output there is refused before any work."""
    with disk(tmp_path / "disk", MOST) as place:
        remount(place, "ro")
        with pytest.raises(OutputError, match="Read-only file system; choose another"):
            pipeline.run(job(image, place / "out"), pipeline.local())
