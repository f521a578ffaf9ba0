"""Records that are damaged, empty, or another program's: an error that says so, whoever reads them;
never a traceback.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

import pipeline
from pipeline.__main__ import app
from pipeline.errors import OutputError
from pipeline.execution.result import Result
from tests.faults.staging import blobs, products, run, write

LEFT: dict[str, bytes] = {
    "empty": b"",
    "of zeros": bytes(4096),
    "cut short": b"",  # see `damaged`
    "no text": b"\xff\xfe\x00run",
    "nested too deeply": b"[" * 100_000,
    "a list": b"[1, 2]",
    "no keys": b"{}",
    "another program's": json.dumps({"complete": True, "job": "train", "run": 7}).encode(),
    "wrong types": b"",
}
"""What may lie in the place of run.json."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """An image and its result."""
    folder = tmp_path_factory.mktemp("whole")
    write(folder / "image.tif", blobs())
    run(
        folder / "image.tif",
        pipeline.Threshold(value=100),
        folder / "out",
        labels=["zarr"],
        picture=False,
    )
    return folder


def damaged(whole: Path, folder: Path, kind: str) -> Path:
    """A copy of it whose record is damaged."""
    shutil.copytree(whole, folder, dirs_exist_ok=True)
    path, data = folder / "out/run.json", (folder / "out/run.json").read_bytes()
    told = json.loads(data)
    told["identity"]["tiles"]["memory"], told["missing"] = "much", None
    path.write_bytes(
        {"cut short": data[: len(data) // 2], "wrong types": json.dumps(told).encode()}.get(
            kind, LEFT[kind]
        )
    )
    return folder / "out"


WORDS = {
    "segment": [
        "segment",
        "{image}",
        "{out}",
        "--with",
        "threshold",
        "--option",
        "value=100",
        "--tile",
        "16",
        "--workers",
        "0",
    ],
    "plan": ["plan", "{job}", "--workers", "0"],
    "run": ["run", "{job}", "--workers", "0"],
    "evaluate": ["evaluate", "{out}", "{out}/labels.zarr"],
    "panoptic": ["evaluate", "{out}", "{out}", "--kind", "panoptic"],
    "verify": ["verify", "{out}"],
}


@pytest.mark.parametrize("kind", LEFT)
def test_a_damaged_record(kind, whole, tmp_path):
    """Whichever command meets a damaged run.json ends with 2, names the file, and says what to do;
    with --fresh it is done.
    """
    out, image = damaged(whole, tmp_path, kind), tmp_path / "image.tif"
    job = tmp_path / "job.yaml"
    job.write_text(
        f"source: {image}\nsegmenters: {{it: {{kind: threshold, value: 100}}}}\ntiles: {{size: "
        f"16}}\noutput: {{path: {out}}}\n"
    )
    for words in WORDS.values():
        told = CliRunner().invoke(
            app, [word.format(image=image, out=out, job=job) for word in words]
        )
        assert told.exit_code == 2, (words, told.output, told.exception)
        assert "run.json is damaged, or not of tilewise: " in told.output.replace("\n", " ")
        assert "(--fresh)" in told.output
    with pytest.raises(OutputError, match="is damaged, or not of tilewise"):
        _ = Result(str(out)).labels
    left = (out / "run.json").read_bytes()
    told = CliRunner().invoke(app, ["run", str(job), "--workers", "0", "--fresh"])
    assert told.exit_code == 0, told.output
    assert Result(str(out)).record["complete"]
    aside = out / "run.json.before"
    assert (aside.read_bytes() if aside.exists() else b"") == left  # it may be somebody's


@pytest.mark.parametrize("kind", ["empty", "cut short"])
def test_a_damaged_record_of_a_run_that_goes_on(kind, whole, tmp_path):
    """Where the run is still in the scratch store, the same command writes the record again."""
    how = {"labels": ["zarr"], "picture": False, "keep_scratch": True}
    run(whole / "image.tif", pipeline.Threshold(value=100), tmp_path / "out", **how)
    before = products(tmp_path / "out")
    path = tmp_path / "out/run.json"
    path.write_bytes(b"" if kind == "empty" else path.read_bytes()[:100])
    run(whole / "image.tif", pipeline.Threshold(value=100), tmp_path / "out", **how)
    assert products(tmp_path / "out") == before


@pytest.mark.parametrize(
    "left", [b"", b"TWS1 of another version", bytes(100)], ids=["empty", "old", "zeros"]
)
def test_a_damaged_beginning(left, whole, tmp_path):
    """Where what was begun cannot be read, the command ends with 3 and says what to do, and with
    --fresh it is done.
    """
    (tmp_path / "out/.tilewise").mkdir(parents=True)
    (tmp_path / "out/.tilewise/begun.rec").write_bytes(left)
    words = [
        "segment",
        str(whole / "image.tif"),
        str(tmp_path / "out"),
        "--with",
        "threshold",
        "--workers",
        "0",
    ]
    told = CliRunner().invoke(app, words)
    assert told.exit_code == 3, told.output
    assert (
        "says of the run that was begun is damaged, or of another version; start anew (--fresh)"
        in told.output.replace("\n", " ")
    )
    assert CliRunner().invoke(app, [*words, "--fresh"]).exit_code == 0
