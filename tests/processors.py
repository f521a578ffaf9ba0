"""Processors that differ, on one machine: variables under which libraries compute as on another
one, and what is computed under them.

usage: python -m tests.processors FILE.npz
       python -m tests.processors JOB.yaml CHANGES.json
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from skimage import data as pictures

import pipeline
from pipeline.imageops import colours, features, filters, histograms, preprocessing, thresholds
from pipeline.jobs import routing

FOUND = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
"""What NumPy makes use of here beyond what every processor of the family has."""
ELSEWHERE = {
    "NPY_DISABLE_CPU_FEATURES": " ".join(FOUND),
    "OPENBLAS_CORETYPE": "Nehalem",
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX512F,-AVX2,-AVX,-FMA,-FMA4",
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
}
"""As on a processor of 2008, but for what numba compiles."""
OLD = {**ELSEWHERE, "NUMBA_CPU_NAME": "nehalem", "NUMBA_CPU_FEATURES": ""}
"""And that too, which takes a minute."""


def surroundings(changes: dict[str, str]) -> dict[str, str]:
    """This process's environment with changes, in which NumPy has all that the machine offers but
    for these.
    """
    return {**{name: value for name, value in os.environ.items() if name not in OLD}, **changes}


def computed_under(changes: dict[str, str], file: Path) -> dict[str, np.ndarray]:
    """What another process computes in other surroundings."""
    root = Path(__file__).resolve().parents[1]
    subprocess.run(
        [sys.executable, "-m", "tests.processors", str(file)],
        cwd=root,
        env=surroundings(changes),
        check=True,
    )
    with np.load(file) as found:
        return dict(found)


def computed() -> dict[str, np.ndarray]:
    """By name, all that is made of pixels before labels are drawn, and what libraries make where
    processors differ.
    """
    rng = np.random.default_rng(0)
    grey, valid = rng.random((70, 80)) * 255, rng.random((70, 80)) > 0.02
    found = {f"library {name}": getattr(np, name)(grey + 1) for name in ("exp", "log10", "cbrt")}
    for number, sigma in enumerate((0.4, 0.5, 0.7, 1.3, 2.0, 3.3, 5.0)):
        found[f"smooth {number}"] = filters.smooth(grey, valid, sigma)
        found[f"smooth all {number}"] = filters.smooth(grey, np.ones_like(valid), sigma)
        found[f"smooth few {number}"] = filters.smooth(grey[:9, :9], valid[:9, :9], sigma)
    solid = grey[:64].reshape(8, 16, 40)
    found["smooth volume"] = filters.smooth(solid, valid[:64].reshape(solid.shape), 1.3)
    found["moments"] = np.stack(filters.local_mean_and_deviation(grey, valid, 9))
    found["median"], found["opening"] = (
        filters.local_median(grey, valid, 2),
        filters.opening(grey, valid, 3),
    )
    found["slopes"] = filters.derivatives(grey, valid, scharr=True)
    found["entropy"] = filters.local_entropy(grey, valid, 9, [50, 100, 180])
    found |= {f"gabor {wave}": filters.local_gabor(grey, valid, wave) for wave in (4.0, 8.0, 11.3)}
    for method in thresholds.LOCAL:
        made = thresholds.Foreground(
            method=method, window=15, spread=99.0 if method == "sauvola" else None
        )
        found[f"local {method}"] = np.asarray(made._local(grey, valid))
    seen = histograms.histogram(np.where(grey > 120, grey + 300 + 30 * (grey % 1), grey), valid)
    found |= {
        f"threshold {name}": np.array(histograms.threshold(seen, name))
        for name in histograms.FINDERS
        if name != "minimum"
    }
    for dtype in ("uint8", "uint16", "int32", "float32", "float64"):
        top = 1 if dtype.startswith("f") else np.iinfo(dtype).max
        block = (rng.random((3, 70, 80)) * top).astype(dtype)
        found |= {f"{name} {dtype}": colours.channel(block, name) for name in colours.CHANNELS}
        for trait in (*routing.TRAITS, "mean_2", "index_1_2"):
            found[f"trait {trait} {dtype}"] = np.array(
                routing.trait(trait, block.astype(np.float64), np.broadcast_to(valid, block.shape))
            )
        for step in (
            preprocessing.Smooth(1.3),
            preprocessing.Denoise(1),
            preprocessing.Background(20),
            preprocessing.Background(20, method="gaussian"),
        ):
            found[f"{step} {dtype}"] = step(block, valid)
        found[f"index {dtype}"] = preprocessing.Index((1, 2))(block, valid)
        found[f"weights {dtype}"] = features.Feature(weights=(0.3, 0.6, 0.1)).feature(block, valid)
    return found


def tissue(size=(160, 210)):
    return np.moveaxis(
        pictures.immunohistochemistry()[100 : 100 + size[0], 60 : 60 + size[1]], -1, 0
    ).copy()


@dataclass(frozen=True)
class Powers:
    """Pixels whose power is high: by a library's function, which says nothing of processors."""

    identity: ClassVar[str] = "connected"
    reach: ClassVar[int] = 0

    def __call__(self, block):
        """Above the middle."""
        return block[0].astype(float) ** 2.4 > 90_000


@dataclass(frozen=True)
class Steady(Powers):
    """The same, of an author who vouches for it."""

    portable: ClassVar[bool] = True


def unsteady(folder, kind):
    """A job whose tiles below row 64 fail until a file says that they may be drawn."""
    return pipeline.Job(
        source=tissue(),
        tiles={"size": 64, "halo": 8},
        segmenters={"first": Later(str(folder), kind)},
        output={"path": str(folder / "out"), "keep_scratch": True},
    )


@dataclass(frozen=True)
class Later:
    """Draws what another method draws, but only on the left until there is a file."""

    folder: str
    kind: str
    identity: ClassVar[str] = "connected"
    reach: ClassVar[int] = 0
    level: float | None = None

    @property
    def portable(self):
        """As it says."""
        return self.kind == "steady"

    @property
    def unfitted(self):
        """Until it has a level."""
        return self.level is None

    def feature(self, block):
        """The first band."""
        return block[0]

    def fit(self, histogram):
        """The middle, and who found it."""
        return Later(
            self.folder,
            self.kind,
            90_000 + float(os.getpid() % 7) + histogram.percentile(50) / 1000,
        )

    def __call__(self, block, origin):
        """Where the power is high."""
        if origin[1] > 70 and not Path(self.folder, "go").exists():
            raise ValueError("not yet")
        return block[0].astype(float) ** 2.4 > self.level


if __name__ == "__main__":
    if sys.argv[1].endswith(".npz"):
        np.savez(sys.argv[1], **computed())
    else:
        pipeline.run(pipeline.from_yaml(sys.argv[1], json.loads(sys.argv[2])), pipeline.local())
