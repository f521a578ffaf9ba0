"""Shared by the tests of faults: a small job, segmenters that fail, and a view of what a run left
behind.
"""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from scipy import ndimage

import pipeline

PRODUCTS = {"labels.zarr", "labels.tif", "objects.parquet", "overview.png", "run.json"}
TILE = 16


def blobs(size: int = 64, seed: int = 0) -> np.ndarray:
    """Blobs that cross seams, uint8, without the value 255."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).random((size, size)), 1.5)
    return (noise * 2000 - 800).clip(0, 250).astype(np.uint8)


def write(path: Path, image: np.ndarray) -> Path:
    """Write an image as a GeoTIFF."""
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)}
    shape = {"count": 1, "height": image.shape[0], "width": image.shape[1], "dtype": image.dtype}
    with rasterio.open(path, "w", driver="GTiff", **shape, **place) as file:
        file.write(image, 1)
    return path


def products(folder: Path) -> dict[str, Any]:
    """The contents of every file of a result by path; of run.json only what does not depend on
    time, place and machine.
    """
    paths = (
        path
        for name in PRODUCTS
        for path in [folder / name, *(folder / name).rglob("*")]
        if path.is_file()
    )
    found: dict[str, Any] = {str(path.relative_to(folder)): path.read_bytes() for path in paths}
    told = json.loads(found["run.json"])
    assert told["complete"]
    assert told["missing"] == []
    for part in (told, told["job"]["output"], told["plan"], told["identity"]["tiles"]):
        for key in ("seconds", "path", "scratch", "bytes_allowed", "memory"):
            part.pop(key, None)
    told["routes"] = {
        name: (route["tiles"], route["pixels"]) for name, route in told["routes"].items()
    }
    del told["dearest"], told["processors"], told["run"]  # the name of a run is no other's
    return found | {"run.json": told}


def tiles_by_route(result: pipeline.Result) -> dict[str, int]:
    """How many tiles took each route, by the run's record."""
    return {name: route["tiles"] for name, route in result.record["routes"].items()}


def contents(folder: Path) -> dict[str, Any]:
    """The products of a complete run; fails if anything else is left."""
    assert {path.name for path in folder.iterdir()} == PRODUCTS
    return products(folder)


def record(folder: Path) -> dict[str, Any] | None:
    """The contents of run.json; None if there is no such file."""
    return json.loads((folder / "run.json").read_text()) if (folder / "run.json").exists() else None


def is_published(folder: Path) -> bool:
    """Whether anything but a record lies in the folder of results."""
    return any((folder / name).exists() for name in PRODUCTS - {"run.json"})


def once(flag: str) -> bool:
    """True for the first caller in all processes, which creates the flag, a file that does not
    exist yet.
    """
    try:
        os.close(os.open(flag, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


class Stopped(Exception):
    """The exception by which a `Stopper` ends a run."""


class Stopper:
    """Replaces `os.replace`, which commits every file: counts the files, and ends the run at one of
    them.
    """

    def __init__(self, monkeypatch: Any) -> None:
        self.written, self.left, self._replace = 0, math.inf, os.replace
        monkeypatch.setattr(os, "replace", self)

    def __call__(self, source: Any, target: Any) -> None:
        self.left -= 1
        if self.left == 0:
            raise Stopped
        self.written += 1
        self._replace(source, target)


def raises(flag: str) -> None:
    """Raise an error while the flag exists."""
    if Path(flag).exists():
        raise ArithmeticError("flawed")


def crashes(flag: str) -> None:
    """End the process while the flag exists, as a fault in native code does."""
    if Path(flag).exists():
        os.kill(os.getpid(), signal.SIGSEGV)


def dies_once(flag: str) -> None:
    """Kill the process, the first time only."""
    if once(flag):
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Flawed:
    """A threshold that triggers a fault in a tile with a pixel of 255. Each call adds a line to a
    log.
    """

    flaw: Callable[[str], None]
    flag: str
    value: float = 100.0
    log: str = ""
    identity = "connected"
    reach = 0

    def __call__(self, block: np.ndarray) -> np.ndarray:
        if self.log:
            with Path(self.log).open("a") as file:
                file.write("called\n")
        if (block == 255).any():
            self.flaw(self.flag)
        return (block[0] > self.value).astype(np.int32)


def spotted(tile: tuple[int, int] = (1, 2), size: int = 64) -> np.ndarray:
    """Blobs with one pixel of 255 in the middle of a tile, outside every other tile's window."""
    image = blobs(size)
    row, column = (TILE * at + TILE // 2 for at in tile)
    image[row, column] = 255
    return image


def run(image: Any, segmenter: Any, out: Path, engine: Any = None, **parts: Any) -> pipeline.Result:
    """A run that writes every kind of result."""
    parts = {"tile": TILE, "labels": ["zarr", "cog"], "picture": True} | parts
    return pipeline.segment(image, segmenter, out, engine=engine or pipeline.local(), **parts)
