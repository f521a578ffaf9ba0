"""What the README shows is true."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
from typer.testing import CliRunner

from pipeline.__main__ import app
from pipeline.jobs import plugins

README = (Path(__file__).resolve().parents[1] / "README.md").read_text()


def test_python_example(tmp_path):
    """The Python example has five lines, and runs as it stands, as at a prompt."""
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(example.splitlines()) == 5
    done = subprocess.run(
        [sys.executable, "-c", example], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    table = pq.read_table(tmp_path / "out" / "coins" / "objects.parquet")
    assert table.num_rows > 20
    assert f"{table.num_rows - 1} " in done.stdout  # the index of the last row


def test_every_kind_is_shown():
    """The picture shows every kind of segmenter but networks, which want weights, and the table is
    what the command prints.
    """
    shown = runpy.run_path(str(Path(__file__).resolve().parents[1] / "workflows" / "methods.py"))[
        "KINDS"
    ]
    networks = {
        name
        for name in plugins.kinds()
        if {"sha256", "model"} & set(plugins.options(plugins.load(name)))
    }
    assert {kind.split()[0] for kind in shown} == set(plugins.kinds()) - networks
    assert "unet" in networks
    assert CliRunner().invoke(app, ["methods", "--markdown"]).output in README
