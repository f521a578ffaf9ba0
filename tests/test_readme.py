"""What the README shows is true, and it is short."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_it_is_short():
    """A newcomer reads at most 120 lines."""
    assert len(README.splitlines()) <= 120


def test_python_example(tmp_path):
    """The Python example has five lines, and runs as it stands, as at a prompt."""
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len([line for line in example.splitlines() if line]) == 5
    done = subprocess.run(
        [sys.executable, "-c", example], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    table = pq.read_table(tmp_path / "out" / "coins" / "objects.parquet")
    assert table.num_rows > 20
    assert f"{table.num_rows - 1} " in done.stdout  # the index of the last row


def test_shell_example():
    """The shell example has five lines."""
    (example,) = re.findall(r"## Five lines of shell\n\n```\n(.*?)```", README, re.DOTALL)
    assert len(example.splitlines()) == 5


def test_links_lead_to_files():
    """Each link leads to a file of the repository."""
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).exists()] == []
