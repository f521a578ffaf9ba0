"""Texts that people write are read within bounds: YAML whose anchors grow, JSON without end,
bundles and truth that lead elsewhere.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import pipeline
from pipeline.__main__ import app
from pipeline.annotations.files import read_drawings
from pipeline.annotations.panoptic import open_truth
from pipeline.config import yaml_files
from pipeline.errors import JobError, SourceError
from pipeline.networks.card import parse, read
from pipeline.sources import open_source
from tests.small_networks import bundle, facts


def laughs(levels: int, times: int = 9) -> str:
    """Nested lists, each of several times the one before."""
    lines = ["a0: &a0 [lol, lol]"]
    lines += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * times)}]" for k in range(1, levels)]
    return "\n".join(lines)


def merged(levels: int, times: int = 9) -> str:
    """Nested mappings, each of which takes the keys of the one before several times."""
    lines = ["a0: &a0 {x: 1, y: 2}"]
    lines += [
        f"a{k}: &a{k} {{<<: [{', '.join([f'*a{k - 1}'] * times)}]}}" for k in range(1, levels)
    ]
    return "\n".join(lines)


GROWING = {
    "lists": laughs(7),
    "many lists": laughs(40),
    "merges": merged(7),
    "many merges": merged(40),
    "a long text": f"a: &a {'x' * 2000}\nb: [{', '.join(['*a'] * 1000)}]",
    "keys": "a: &a {"
    + ", ".join(f"k{n}: 1" for n in range(200))
    + "}\nb: ["
    + ", ".join(["*a"] * 500)
    + "]",
}


@pytest.mark.parametrize("what", GROWING)
def test_anchors_do_not_grow_without_bound(what: str) -> None:
    """Aliases that stand for far more than is written are refused at once: in a job file, a card
    and an option of the command line.
    """
    began = time.monotonic()
    with pytest.raises(
        JobError,
        match=r"the file becomes longer than \d+ characters by its anchors; allowed: fewer aliases",
    ):
        yaml_files.parse(GROWING[what], "the file")
    with pytest.raises(JobError, match="by its anchors"):
        parse(GROWING[what], "card.yaml")
    assert time.monotonic() - began < 5


def test_anchors_are_refused_from_the_command_line(tmp_path: Path) -> None:
    """A job file of 280 characters that becomes megabytes ends with exit code 2 and says why; an
    option, too.
    """
    (tmp_path / "job.yaml").write_text(laughs(7))
    for command in (
        ["run", str(tmp_path / "job.yaml")],
        ["run", "job.yaml", "--set", "x=[&a [1, 1], *a, *a]"],
    ):
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 2
        assert isinstance(done.exception, SystemExit)
    assert "by its anchors" in CliRunner().invoke(app, ["run", str(tmp_path / "job.yaml")]).output


@pytest.mark.parametrize("text", ["a: &a [*a]", "a: &a {b: [1, {c: *a}]}", "&a [x, *a]"])
def test_an_anchor_that_holds_itself_is_refused(text: str) -> None:
    """A document without end is none."""
    with pytest.raises(JobError, match=r"an anchor in line 1 holds itself"):
        yaml_files.parse(text, "the file")


@pytest.mark.parametrize("text", ["1:" + "1:" * 50_000 + "1", "1" * 100_000, "1." + "1" * 100_000])
def test_numbers_without_end_are_refused(text: str) -> None:
    """A number of a hundred thousand digits, which would take minutes to read, is refused."""
    with pytest.raises(JobError, match=r"a number of \d+ characters in line 1; allowed: 4096"):
        yaml_files.parse(f"a: {text}", "the file")


def test_a_text_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than a bounded number of characters is read, of a device that never ends too."""
    monkeypatch.setattr(yaml_files, "LONGEST", 1000)
    for path in (Path("/dev/zero"), tmp_path / "long.yaml"):
        if path.is_relative_to(tmp_path):
            path.write_text("a: 1\n" * 1000)
        with pytest.raises(JobError, match="is longer than 1000 characters"):
            yaml_files.read(path, "the job file")


@given(
    st.recursive(
        st.integers() | st.text("ab*&: ") | st.none() | st.booleans(),
        lambda of: st.lists(of) | st.dictionaries(st.text("abc"), of),
    )
)
def test_what_has_no_anchors_is_read_as_it_was_written(value: Any) -> None:
    """Whatever PyYAML writes, with and without anchors that share a part, is read as PyYAML reads
    it.
    """
    for text in (yaml.safe_dump(value), yaml.safe_dump({"a": value, "b": [value, value]})):
        assert yaml_files.parse(text, "the file") == yaml.safe_load(text)


def test_json_is_read_within_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON that is nested without end, is none, or is too large ends with one line: as
    truth, too.
    """
    path = tmp_path / "truth.json"
    for text in (
        '{"annotations": ' * 100_000,
        '{"annotations": ' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"annotations"',
        '"annotations"',
    ):
        path.write_text(text)
        with pytest.raises(
            SourceError, match=r"truth\.json (is no JSON that can be read|holds no drawings)"
        ):
            read_drawings(path)
        with pytest.raises(SourceError, match=r"truth\.json is no"):
            open_truth(str(path), None, None)  # type: ignore[arg-type]
    for module in (yaml_files, sys.modules[read_drawings.__module__]):
        monkeypatch.setattr(module, "LARGEST", 5)
    with pytest.raises(SourceError, match=r"truth\.json has \d+ bytes; allowed for drawings: 5"):
        read_drawings(path)
    with pytest.raises(SourceError, match=r"truth\.json has more than 5 bytes"):
        yaml_files.read_json(path, "the truth")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_pascal_declares_no_document_type(encoding: str, tmp_path: Path) -> None:
    """Entities, which grow and read other files, are refused in XML of drawings, whatever it is
    encoded in.
    """
    path = tmp_path / "truth.xml"
    text = (
        f'<?xml version="1.0" encoding="{encoding}"?><!DOCTYPE a [<!ENTITY b SYSTEM '
        f'"file:///etc/hostname">]><annotation><name>&b;</name></annotation>'
    )
    path.write_text(text, encoding)
    with pytest.raises(SourceError, match="declares a document type"):
        read_drawings(path)


def test_a_field_of_a_table_without_end_is_refused(tmp_path: Path) -> None:
    """A table whose field is longer than any is no table."""
    (tmp_path / "truth.csv").write_text("xmin,ymin,xmax,ymax\n" + "1" * 200_000 + ",1,2,2\n")
    with pytest.raises(SourceError, match=r"truth\.csv holds no drawings that can be read: Error"):
        read_drawings(tmp_path / "truth.csv")


def made(folder: Path, weights: str = "weights.safetensors") -> Path:
    """A bundle as a folder."""
    folder.mkdir(exist_ok=True)
    card = {**facts(), "weights": weights}
    (folder / "card.yaml").write_text(yaml.safe_dump(card))
    return folder


def test_a_bundle_does_not_lead_out_of_its_folder(tmp_path: Path) -> None:
    """Weights, or the card, that are links to another folder, or lie in one that is, are refused;
    links within the bundle are not.
    """
    secret = tmp_path / "secret" / "weights.safetensors"
    secret.parent.mkdir()
    safetensors.numpy.save_file({"a": np.zeros(1)}, secret)
    folder = made(tmp_path / "bundle")
    (folder / "weights.safetensors").symlink_to(secret)
    (folder / "deeper").symlink_to(secret.parent)
    for name in ("weights.safetensors", "deeper/weights.safetensors"):
        made(folder, name)
        with pytest.raises(
            JobError,
            match=rf"bundle: {name} is a link that leads out of the bundle; allowed: files in it",
        ):
            read(str(folder))
        with pytest.raises(JobError, match="leads out of the bundle"):
            pipeline.UNet(weights=str(folder))
    (folder / "own.safetensors").write_bytes(secret.read_bytes())
    (folder / "weights.safetensors").unlink()
    (folder / "weights.safetensors").symlink_to("own.safetensors")
    assert read(str(made(folder))).path == folder / "weights.safetensors"
    (tmp_path / "link").symlink_to(folder)
    assert read(str(tmp_path / "link")).card.name == "random"
    (folder / "card.yaml").rename(tmp_path / "card.yaml")
    (folder / "card.yaml").symlink_to(tmp_path / "card.yaml")
    with pytest.raises(
        JobError, match=r"bundle: card\.yaml is a link that leads out of the bundle"
    ):
        read(str(folder))


def test_a_bundle_in_one_file_may_be_a_link(tmp_path: Path) -> None:
    """What the user names is followed wherever it leads."""
    path = bundle(tmp_path)
    (tmp_path / "named.safetensors").symlink_to(path)
    assert read(str(tmp_path / "named.safetensors")).card == read(path).card


@pytest.mark.parametrize("name", ["../secret.png", "{}/secret.png", "link.png"])
def test_panoptic_truth_names_a_file_beside_it(name: str, tmp_path: Path) -> None:
    """The PNG of COCO's panoptic truth lies beside it, or in its folder: no path leads
    elsewhere.
    """
    from PIL import Image

    folder = tmp_path / "truth"
    folder.mkdir()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "secret.png")
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(folder / "own.png")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    entry = {"file_name": "own.png", "image_id": 1, "segments_info": []}
    truth = {
        "images": [{"id": 1, "file_name": "a.tif"}],
        "categories": [{"id": 1}],
        "annotations": [entry],
    }
    (folder / "truth.json").write_text(json.dumps(truth))
    frame = open_source(folder / "own.png").frame
    assert open_truth(str(folder / "truth.json"), frame).source.frame.shape == (4, 4)
    entry["file_name"] = name.format(tmp_path)
    (folder / "truth.json").write_text(json.dumps(truth))
    with pytest.raises(SourceError, match=r"truth\.json refers to .*, which lies outside"):
        open_truth(str(folder / "truth.json"), frame)
