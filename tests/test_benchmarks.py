"""The benchmarks run, and all sides of them find the same objects; nothing here looks at
a clock.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr
from scipy import ndimage

BENCHMARKS = Path(__file__).parent / "benchmarks"


@pytest.fixture
def whole(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import whole

    return whole


@pytest.mark.heavy
def test_table():
    """One command prints a row for each side that is installed, and one for each number
    of tiles.
    """
    command = [
        sys.executable,
        str(BENCHMARKS / "whole.py"),
        "1024",
        "--runs",
        "1",
        "--sides",
        "ours",
        "scipy",
        "--tiles",
        "9",
    ]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = [line.split("|")[1].strip() for line in printed.splitlines() if line.startswith("|")]
    assert [row for row in rows if row in ("ours", "scipy", "9")] == ["ours", "scipy", "9"]


@pytest.mark.filterwarnings("ignore")
def test_sides_agree(whole, tmp_path):
    """Each peer that is installed labels the same pieces as SciPy does on the whole image."""
    path = tmp_path / "image.zarr"
    threshold = whole.make(path, 1024)
    expected, number = ndimage.label(zarr.open_array(path)[:] > threshold)
    assert number > 100
    for name in whole.there("label")[1:]:
        out = tmp_path / name
        out.mkdir()
        whole.PEERS["label"][name][1](path, out, threshold)()
        store = zarr.open(out / "labels.zarr", mode="r")
        labels = np.asarray(store[:] if isinstance(store, zarr.Array) else store["labels"][:])
        assert (
            len(np.unique(np.stack([labels, expected]).reshape(2, -1), axis=1).T) == number + 1
        ), name


def test_objects_of_each_period(whole):
    """The image repeats itself after 1536 pixels, so that no seam of tiles is spared."""
    values, threshold = whole.patch(whole.SIGMA)
    assert values.shape == (1536, 1536)
    for axis in (0, 1):
        assert (np.take(values > threshold, 0, axis) & np.take(values > threshold, -1, axis)).any()
