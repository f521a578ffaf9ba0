"""After any run its folder holds the products of that run, nothing that looks like them, and all
that is the user's.
"""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import zarr
from typer.testing import CliRunner

import pipeline
from pipeline.__main__ import app
from pipeline.errors import OutputError, ResumeError, SegmenterError, TilesError
from pipeline.jobs.job import Job
from tests.faults.staging import Flawed, blobs, products, raises, record, run, spotted, write
from tests.faults.test_death import Camera

LAYERS = [{"things": "it", "classes": 5}, {"stuff": "ground"}]
THRESHOLDS = {
    "it": {"kind": "threshold", "value": 100},
    "ground": {"kind": "threshold", "value": 40},
}
KINDS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "plain": ({}, {"labels.zarr", "objects.parquet"}),
    "all rasters": (
        {
            "output": {
                "labels": ["zarr", "cog", "ome-tiff"],
                "results": ["instance", "semantic"],
                "picture": True,
                "legend": {1: "it"},
            }
        },
        {
            *(
                "labels.zarr",
                "labels.tif",
                "labels.ome.tif",
                "classes.zarr",
                "classes.tif",
                "classes.tif.aux.xml",
                "classes.ome.tif",
            ),
            *("objects.parquet", "overview.png"),
        },
    ),
    "panoptic": (
        {"segmenters": THRESHOLDS, "layers": LAYERS},
        {"labels.zarr", "classes.zarr", "panoptic.png", "panoptic.json", "objects.parquet"},
    ),
    "lines": (
        {"segmenters": {"it": {"kind": "edges", "form": "lines"}}},
        {"labels.zarr", "lines.gpkg", "objects.parquet"},
    ),
    "classes only": ({"output": {"results": ["semantic"]}}, {"classes.zarr", "objects.parquet"}),
}
"""Jobs by what they make, and the names of all that."""
PAIRS = [
    (a, b)
    for a in KINDS
    for b in KINDS
    if a != b and (a in ("all rasters", "panoptic", "lines") or b == "all rasters")
]


def job(out: Path, kind: str, **parts: Any) -> Job:
    """A job of a kind."""
    given = {
        "source": {"path": blobs(48)},
        "tiles": {"size": 32},
        "segmenters": {"it": {"kind": "threshold", "value": 100}},
    }
    given |= {key: what for key, what in KINDS[kind][0].items() if key != "output"} | parts
    return Job(**given, output={"path": str(out), **KINDS[kind][0].get("output", {})})


def names(folder: Path) -> set[str]:
    """What lies in a folder."""
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_nothing_stays_of_the_run_before(first, second, tmp_path):
    """After a job that replaces another's result its folder holds what the same job makes in an
    empty one, and files() says just that.
    """
    for out in (tmp_path / "out", tmp_path / "clean"):
        if out.name == "out":
            pipeline.run(job(out, first), pipeline.local())
            assert names(out) == KINDS[first][1] | {"run.json"}
            (out / "notes.txt").write_text("mine")
        result = pipeline.run(job(out, second), pipeline.local(), fresh=True)
        (out / "notes.txt").write_text("mine")
        assert names(out) == KINDS[second][1] | {"run.json", "notes.txt"}
        assert set(result.files) == (KINDS[second][1] | {"run.json"}) - {"classes.tif.aux.xml"}
        assert set(result.record["products"]) == KINDS[second][1]
    ours, clean = (
        pipeline.Result(str(tmp_path / name)).record["products"] for name in ("out", "clean")
    )
    timed = {"lines.gpkg"}  # SQLite's file has the time in it
    assert {name: what for name, what in ours.items() if name not in timed} == {
        k: v for k, v in clean.items() if k not in timed
    }


def test_a_re_join_leaves_its_own_products_only(tmp_path):
    """Joined by another rule, a result has the files that are asked for now, and those asked for
    before are gone.
    """

    def again(iou: float, labels: list[str]) -> pipeline.Result:
        output = {"path": str(tmp_path / "out"), "keep_scratch": True, "labels": labels}
        given = {
            "tiles": {"size": 16},
            "segmenters": {"it": {"kind": "watershed", "threshold": 100}},
            "stitch": {"iou": iou},
        }
        return pipeline.run(Job(source={"path": blobs()}, **given, output=output), pipeline.local())

    assert "labels.tif" in again(0.5, ["zarr", "cog"]).files
    assert "labels.tif" not in again(0.9, ["zarr"]).files
    assert names(tmp_path / "out") == {"labels.zarr", "objects.parquet", "run.json", ".tilewise"}
    assert len(list((tmp_path / "out/.tilewise/runs").glob("*/joined/*"))) == 1
    assert again(0.5, ["zarr"]).record["stitch"]["iou"] == 0.5
    assert not list((tmp_path / "out/.tilewise").glob("staging-*/*.zarr"))


def test_an_incomplete_run_leaves_nothing_that_looks_complete(tmp_path):
    """A run that replaces a result and fails leaves its record alone; what was complete is kept,
    and said; then the run is completed.
    """
    run(blobs(), pipeline.Threshold(value=90), tmp_path / "out")
    before = products(tmp_path / "out")
    (tmp_path / "flag").touch()
    segmenter = Flawed(raises, str(tmp_path / "flag"))
    with pytest.raises(
        TilesError,
        match=r"the complete result that lay there before is kept in .*out/\.tilewise/before",
    ):
        run(spotted(), segmenter, tmp_path / "out", labels=["zarr"], fresh=True)
    assert names(tmp_path / "out") == {"run.json", ".tilewise"}
    assert record(tmp_path / "out")["products"] == {}
    assert products(tmp_path / "out/.tilewise/before") == before
    with pytest.raises(ResumeError, match=r"begun otherwise, and cannot go on: .*kept in .*before"):
        run(blobs(), pipeline.Threshold(value=90), tmp_path / "out")
    (tmp_path / "flag").unlink()
    run(spotted(), segmenter, tmp_path / "out", labels=["zarr"])
    assert names(tmp_path / "out") == {"labels.zarr", "objects.parquet", "overview.png", "run.json"}


def test_a_run_that_ends_before_its_first_tile_leaves_the_result(tmp_path):
    """Where a job that is to replace a result is wrong, the result is as it was."""
    run(blobs(), pipeline.Threshold(value=90), tmp_path / "out")
    before = products(tmp_path / "out")
    (tmp_path / "flag").touch()
    image = np.full((32, 32), 255, np.uint8)
    with pytest.raises(SegmenterError, match="no tile succeeded"):
        run(image, Flawed(raises, str(tmp_path / "flag")), tmp_path / "out", fresh=True)
    assert products(tmp_path / "out") == before
    assert run(blobs(), pipeline.Threshold(value=90), tmp_path / "out").record["complete"]
    with pytest.raises(
        SegmenterError, match="no tile succeeded"
    ):  # what was begun there since goes on
        run(image, Flawed(raises, str(tmp_path / "flag")), tmp_path / "out")


def test_killed_while_a_result_is_replaced(tmp_path):
    """Wherever a run is killed that replaces a result, one of the two is complete, or the old is
    kept, whole, and that is said.
    """
    old = pipeline.run(job(tmp_path / "home/out", "all rasters"), pipeline.local()).record[
        "products"
    ]
    camera, new = (
        Camera(),
        job(tmp_path / "home/out", "plain", segmenters={"it": {"kind": "threshold", "value": 120}}),
    )
    with camera.on(tmp_path / "home", tmp_path / "album", ("os.rename",)):
        made = pipeline.run(new, pipeline.local(), fresh=True).record["products"]
    states = set()
    for number in range(1, camera.pictures + 1):
        out = tmp_path / "album" / str(number) / "out"
        told, kept = record(out), out / ".tilewise/before"
        listed = {} if told is None else told["products"]
        assert listed in ({}, old, made)
        assert all((out / name).exists() for name in listed)
        if not listed:
            assert all((kept / name).exists() or (out / name).exists() for name in old)
            with pytest.raises(
                OutputError,
                match=r"there is no run\.json; the complete result that lay there before is kept "
                r"in .*before",
            ):
                _ = pipeline.Result(str(out)).record
            with pytest.raises(
                ResumeError, match=r"the complete result that lay there before is kept in|damaged"
            ):
                pipeline.run(job(out, "all rasters"), pipeline.local())
        states.add(json.dumps(sorted(listed)))
        pipeline.run(
            job(out, "plain", segmenters={"it": {"kind": "threshold", "value": 120}}),
            pipeline.local(),
            fresh=listed == old,
        )
        assert names(out) == KINDS["plain"][1] | {"run.json"}
        shutil.rmtree(out)
    assert len(states) == 3


OWN = {
    "labels.tif": b"mine",
    "panoptic.json": b"{}",
    "lines.gpkg": b"SQLite",
    "overview.png": b"drawn",
}


@pytest.mark.parametrize("name", OWN)
def test_what_is_the_users_is_not_removed(name, tmp_path, caplog):
    """A file of a product's name that no run has left is in the way of a run; where it is to be
    replaced, it keeps its bytes, elsewhere.
    """
    out = tmp_path / "out"
    pipeline.run(job(out, "plain"), pipeline.local())
    (out / name).write_bytes(OWN[name])
    assert name not in pipeline.Result(str(out)).files
    assert pipeline.run(job(out, "plain"), pipeline.local()).record["complete"]
    (out / "run.json").unlink()
    with pytest.raises(
        OutputError,
        match=r"holds .* without the record of a run; choose another output, or replace it",
    ):
        pipeline.run(job(out, "plain"), pipeline.local())
    with caplog.at_level(logging.WARNING, logger="pipeline"):
        pipeline.run(job(out, "plain"), pipeline.local(), fresh=True)
    assert (out / f"{name}.before").read_bytes() == OWN[name]
    assert not (out / name).exists()
    assert f"{name} was not as a run has left it; it is kept as {name}.before" in caplog.text


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_product_that_was_edited_is_the_users(tmp_path):
    """Labels that somebody painted over are not removed with the result that they were of; nor what
    a viewer has laid beside them.
    """
    out = tmp_path / "out"
    asked = job(out, "all rasters")
    pipeline.run(asked, pipeline.local())
    with rasterio.open(out / "labels.tif", "r+", IGNORE_COG_LAYOUT_BREAK="YES") as file:
        file.write(np.full((48, 48), 7, np.uint32), 1)
    edited = (out / "labels.tif").read_bytes()
    (out / "labels.tif.aux.xml").write_text("<PAMDataset/>")
    pipeline.run(job(out, "classes only"), pipeline.local(), fresh=True)
    assert (out / "labels.tif.before").read_bytes() == edited
    assert (out / "labels.tif.aux.xml.before").exists()
    assert names(out) == {
        "classes.zarr",
        "objects.parquet",
        "run.json",
        "labels.tif.before",
        "labels.tif.aux.xml.before",
    }


def test_a_product_that_is_gone_is_missed(tmp_path):
    """The same command over a result of which a product was removed does not say that it is
    complete, but what is gone; with 3.
    """
    image = write(tmp_path / "image.tif", blobs())
    words = [
        "segment",
        str(image),
        str(tmp_path / "out"),
        "--with",
        "threshold",
        "--option",
        "value=100",
        "--cog",
        "--workers",
        "0",
    ]
    assert CliRunner().invoke(app, words).exit_code == 0
    (tmp_path / "out/labels.tif").unlink()
    told = CliRunner().invoke(app, words)
    assert told.exit_code == 3
    assert (
        "holds the result of this job, but no labels.tif any more; make it again (--fresh)"
        in told.output
    )
    assert CliRunner().invoke(app, [*words, "--fresh"]).exit_code == 0
    assert (tmp_path / "out/labels.tif").exists()


def test_all_is_on_the_disk_before_the_record_says_so(tmp_path, monkeypatch):
    """The system is asked to keep what was staged, the names in the folder, and the record, in this
    order; the record's name at the end.
    """
    from pipeline.stages import commit
    from pipeline.storage import atomic_files

    told: list[str] = []

    def noted(name: str, function: Any) -> Any:
        def call(*given: Any, **how: Any) -> Any:
            told.append(
                f"{name} {Path(given[-1]).name if isinstance(given[-1], (str, Path)) else ''}".strip()  # noqa: E501
            )
            return function(*given, **how)

        return call

    monkeypatch.setattr(commit, "keep", noted("keep", atomic_files.keep))
    monkeypatch.setattr(commit, "keep_names", noted("names", atomic_files.keep_names))
    monkeypatch.setattr(atomic_files.os, "fsync", noted("fsync", atomic_files.os.fsync))
    monkeypatch.setattr(atomic_files.os, "replace", noted("move", atomic_files.os.replace))
    run(blobs(32), pipeline.Threshold(value=100), tmp_path / "out")
    end = told[next(k for k, what in enumerate(told) if what.startswith("keep staging-")) :]
    moves = [what for what in end if what.startswith(("keep", "move", "names"))]
    products_in = [
        f"move {name}" for name in ("labels.zarr", "labels.tif", "objects.parquet", "overview.png")
    ]
    assert moves[1:] == [
        "move published.json",
        *products_in,
        "names out",
        "move run.json",
        "move run.json",
        "names out",
    ]
    assert end[-2:] == ["names out", "fsync"]
    assert end[end.index("move run.json") - 1] == "fsync"  # of the record's bytes


def test_labels_in_the_image_are_the_images(tmp_path):
    """Labels that an earlier run wrote into the image stay there: the image is not the result's
    folder; files() tells of this run's.
    """
    image = tmp_path / "image.zarr"
    axes = [{"name": name, "type": "space"} for name in "yx"]
    scale = [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1, 1]}]}]
    group = zarr.create_group(
        image,
        attributes={"ome": {"version": "0.5", "multiscales": [{"axes": axes, "datasets": scale}]}},
    )
    group.create_array("0", data=blobs(48), chunks=(32, 32))

    def nested(name: str | None, value: int, **more: Any) -> pipeline.Result:
        output = {"path": str(tmp_path / "out"), "into_source": name, **more}
        segmenters = {"it": {"kind": "threshold", "value": value}}
        return pipeline.run(
            Job(source=str(image), tiles={"size": 32}, segmenters=segmenters, output=output),
            pipeline.local(),
            fresh=True,
        )

    first = nested("cells", 100)
    assert str(image / "labels/cells") in first.files
    second = nested("nuclei", 120)
    assert str(image / "labels/cells") not in second.files
    assert str(image / "labels/nuclei") in second.files
    assert np.array_equal(
        zarr.open_array(image / "labels/nuclei/0", mode="r")[:], second.labels.values
    )
