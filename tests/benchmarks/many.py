"""What the asking process spends on many tiles that hold nothing, or next to nothing.

The image is virtual: its pixels are made where they are asked for, so that what is left is what
each tile costs the process that plans, hands out, groups and publishes. Two worker processes do the
rest.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from measuring import Figures, peak

EXTENT = 16
"""Pixels along each side of a tile."""


@dataclass(frozen=True)
class Virtual:
    """An image without pixels of its own: not measured anywhere, or with a dot in the middle of
    each tile.
    """

    tiles: int
    dots: bool = False

    @property
    def frame(self) -> Any:
        """What the image is."""
        from pipeline.image.frame import Frame

        rows = math.isqrt(self.tiles)
        return Frame((EXTENT * rows, EXTENT * -(-self.tiles // rows)), nodata=0)

    def read(self, box: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Zeros; dots among ones."""
        near = [
            (np.arange(a, b) % EXTENT - EXTENT // 2) // 2 == 0
            for a, b in zip(box.start, box.stop, strict=True)
        ]
        return (int(self.dots) * (1 + np.outer(*near)))[None].astype(np.uint8)

    def glance(self, box: Any, step: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Every ``step``-th pixel."""
        return self.read(box)[:, ::step, ::step]

    def fingerprint(self) -> dict[str, Any]:
        """The same for the same image."""
        return {"virtual": self.tiles, "dots": self.dots}


def spent(tiles: int, *, dots: bool, workers: int = 2) -> Figures:
    """MB that a run adds to the most that this process held, and its processor seconds, Dask's
    scheduler included; and wall seconds.
    """
    import pipeline

    segmenter = pipeline.Threshold(value=1, connectivity=4)
    with tempfile.TemporaryDirectory() as folder, pipeline.cluster(workers) as engine:
        pipeline.segment(
            Virtual(16, dots=True), segmenter, Path(folder, "warm"), tile=EXTENT, engine=engine
        )
        held, used, began = peak(), time.process_time(), time.perf_counter()
        pipeline.segment(
            Virtual(tiles, dots=dots), segmenter, Path(folder, "out"), tile=EXTENT, engine=engine
        )
        return {
            "tiles": tiles,
            "seconds": time.perf_counter() - began,
            "driver_ms": 1000 * (time.process_time() - used) / tiles,
            "driver_kb": 1024 * (peak() - held) / tiles,
            "driver_mb": peak(),
            "files": float(sum(len(files) for _, _, files in os.walk(folder))),
        }
