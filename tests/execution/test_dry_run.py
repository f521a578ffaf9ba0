"""What `tilewise plan` says of a run beforehand, held against what the run then does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

import pipeline
from pipeline.__main__ import app
from pipeline.errors import ResumeError, TilesError
from pipeline.execution.dry_run import foresee
from pipeline.jobs.job import Job
from pipeline.sources import open_source


def scene():
    """Bright squares in the left half, a dim ground in the right one, and 0 in the last rows, which
    is no data.
    """
    image = np.full((96, 128), 20, np.uint8)
    image[8:88:16, 8:60:16] = image[9:88:16, 8:60:16] = 200
    image[64:] = 0
    return image


def job(path, **parts):
    """Tiles of 32: the lowest four are empty, those at the right go to another segmenter."""
    return Job(
        **{
            "source": open_source(scene()),
            "tiles": {"size": 32, "halo": 2},
            "segmenters": {
                "bright": {"kind": "threshold", "method": "otsu"},
                "dim": {"kind": "threshold", "value": 10},
            },
            "route": [
                {"use": "skip", "when": {"mean": {"max": 1}}},
                {"use": "bright", "when": {"spread": {"min": 1}}},
                {"use": "dim"},
            ],
            "output": {"path": str(Path(path, "out"))},
        }
        | parts
    )


def test_routes_are_those_of_the_run(tmp_path):
    """The plan counts the tiles of each route as the run then takes them, and leaves nothing
    behind.
    """
    found = foresee(job(tmp_path), pipeline.local())
    assert {name: about["tiles"] for name, about in found.facts["routes"].items()} == {
        "skip": 4,
        "bright": 4,
        "dim": 4,
    }
    assert found.facts["state"] == "new"
    assert not (tmp_path / "out").exists()
    record = pipeline.run(job(tmp_path), pipeline.local()).record
    assert {name: about["tiles"] for name, about in record["routes"].items() if about["tiles"]} == {
        "skip": 4,
        "bright": 4,
        "dim": 4,
    }
    assert foresee(job(tmp_path), pipeline.local()).facts["state"] == "complete"


def test_what_is_done_is_told(tmp_path):
    """Of a run that was interrupted, the plan says how many tiles are done; of another job in its
    place, why it would be refused.
    """
    seen = []

    def interrupt(event):
        seen.append(event)
        if event.stage == "segment" and event.done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.run(job(tmp_path), pipeline.local(), watch=interrupt)
    found = foresee(job(tmp_path), pipeline.local())
    assert found.facts["state"] == "begun"
    assert sum(about.get("done", 0) for about in found.facts["routes"].values()) == 3
    assert found.refused is None
    other = foresee(job(tmp_path, tiles={"size": 32, "halo": 3}), pipeline.local())
    assert isinstance(other.refused, ResumeError)
    assert "tiles.depth: 2 before, 3 now" in other.facts["refused"]
    pipeline.run(job(tmp_path), pipeline.local())
    assert isinstance(
        foresee(job(tmp_path, tiles={"size": 16}), pipeline.local()).refused, ResumeError
    )


def test_a_sample_tells_time_and_disk(tmp_path):
    """From some tiles of each route the plan tells seconds and disk: of all tiles, the disk is what
    the run leaves in its scratch store.
    """
    found = foresee(job(tmp_path), pipeline.local(), sample=8).facts
    assert {name: about["tiles"] for name, about in found["sample"].items()} == {
        "bright": 4,
        "dim": 4,
    }
    seconds = sum(about["tiles"] * about["seconds_per_tile"] for about in found["sample"].values())
    assert found["seconds_of_segmenting"] == pytest.approx(seconds, abs=0.1)
    output = {
        "path": str(tmp_path / "out"),
        "scratch": str(tmp_path / "scratch"),
        "keep_scratch": True,
    }
    pipeline.run(job(tmp_path, output=output), pipeline.local())
    left = [
        path.stat().st_size
        for name in ("tiles", "pixels")
        for path in (tmp_path / "scratch").rglob(f"{name}/**/*.rec")
    ]
    assert found["disk_of_scratch"] == sum(left)


def test_a_tile_of_the_sample_that_fails_is_named(tmp_path):
    """Where a tile of the sample fails, the plan names it and says why."""

    def broken(_block):
        raise ValueError("no")

    segmenters = {"bright": broken, "dim": {"kind": "threshold", "value": 10}}
    with pytest.raises(TilesError, match=r"tile .*of the sample: .*ValueError: no"):
        foresee(job(tmp_path, segmenters=segmenters), pipeline.local(), sample=2)


def test_layers_are_counted_one_by_one(tmp_path):
    """Of layers, each has its own tiles."""
    layers = [{"things": "bright", "when": {"spread": {"min": 1}}}, {"stuff": "dim", "classes": 2}]
    found = foresee(job(tmp_path, route=[], layers=layers), pipeline.local(), sample=2).facts
    assert {name: found["routes"][name]["tiles"] for name in ("bright", "dim")} == {
        "bright": 4,
        "dim": 12,
    }


def test_the_picture_shows_routes(tmp_path):
    """In the picture, tiles of one route have a colour, the same that the plan names; what is left
    out is grey.
    """
    found = foresee(job(tmp_path), pipeline.local())
    found.picture(tmp_path / "plan.png")
    image = np.asarray(Image.open(tmp_path / "plan.png")).astype(int)
    assert image.shape == (96, 128, 3)
    bare = np.stack([image[20, 90], image[20, 100]])
    colour = np.array(list(bytes.fromhex(found.facts["routes"]["dim"]["colour"][1:])))
    assert (bare[0] == bare[1]).all()
    assert np.abs(np.diff(2 * bare[0] - colour)).max() <= 1  # a grey with the colour mixed in
    assert len(set(image[80, 20].tolist())) == 1
    assert (image[32, :] == 255).all()


def test_the_command(tmp_path):
    """`tilewise plan` prints it, writes the picture, and ends as the run would where it would be
    refused.
    """
    Image.fromarray(scene()).save(tmp_path / "image.png")
    parts = {
        "source": str(tmp_path / "image.png"),
        "segmenters": {"a": {"kind": "threshold", "value": 50}},
        "output": {"path": str(tmp_path / "o")},
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(parts))
    command = [
        "plan",
        str(tmp_path / "job.yaml"),
        "--workers",
        "0",
        "--sample",
        "1",
        "--picture",
        str(tmp_path / "p.png"),
    ]
    told = CliRunner().invoke(app, command)
    assert told.exit_code == 0, told.output
    assert yaml.safe_load(told.output)["bytes"]["a"]["window"] == 96 * 128
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    done = CliRunner().invoke(app, ["run", str(tmp_path / "job.yaml"), "--workers", "0", "-q"])
    assert done.exit_code == 0, done.output
    other = CliRunner().invoke(
        app, ["plan", str(tmp_path / "job.yaml"), "--workers", "0", "--set", "tiles.size=32"]
    )
    assert other.exit_code == 3
    assert "state: refused" in other.output
    assert "holds the result of another job" in other.output
