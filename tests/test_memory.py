"""The memory that the plan says a task takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
JOBS = sorted(
    path for path in (ROOT / "workflows").glob("*.yaml") if not path.stem.endswith("_train")
)
FACTOR = 1.5


@pytest.mark.heavy
@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_the_plan_is_right_about_memory(path, tmp_path):
    """For each job file, what the plan says that a task takes is right within a factor of 1.5, each
    way, as the kernel counts.
    """
    found = subprocess.run(
        [sys.executable, "-m", "tests.peak", path, tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    for line in found.stdout.splitlines():
        took, said = map(int, line.split())
        assert took / FACTOR < said < took * FACTOR, (
            f"it took {took / 1e6:.0f} MB, and the plan says {said / 1e6:.0f}"
        )
    assert found.stdout
