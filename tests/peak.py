"""What segmenting one tile by a job file takes of memory, against what the plan says: printed as
two numbers. A process of its own, so that nothing else is counted: ``python -m tests.peak JOB.yaml
FOLDER``.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import rasterio
import zarr
from scipy import ndimage

import pipeline
from pipeline import stages
from pipeline.execution.dispatch import Dispatcher
from pipeline.execution.planning import plan
from pipeline.execution.prepare import fit, route
from pipeline.execution.result import silent
from pipeline.stages import overlay
from pipeline.stages.segment import segment

BANDS = {"cells_3d": 1, "nuclei_fluorescence": 1, "nuclei_unet": 1} | dict.fromkeys(
    ("water_ndwi", "clouds", "landcover_kmeans", "fields_edges"), 13
)
TILE = {"cells_3d": 96, "nuclei_unet": 256}
M_TRIM = ctypes.CDLL("libc.so.6").malloc_trim


def discs(shape: tuple[int, ...]) -> np.ndarray:
    """Bright discs or balls on a dark ground, from 0 to 1."""
    rng = np.random.default_rng(0)
    points = np.zeros(shape)
    radius = 9 if len(shape) == 2 else 5
    number = points.size // (5 * radius ** len(shape))
    points[tuple(rng.integers(0, n, number) for n in shape)] = 1
    near = np.linalg.norm(np.indices((2 * radius + 1,) * len(shape)) - radius, axis=0) < radius
    return np.clip(
        ndimage.gaussian_filter(ndimage.grey_dilation(points, footprint=near), 1.5) * 0.8
        + rng.random(shape) * 0.05,
        0,
        1,
    )


def written(name: str, folder: Path) -> dict[str, object]:
    """An image for a job, and the job's keys that name it."""
    if name == "cells_3d":
        zarr.save_array(folder / "stack.zarr", (discs((60, 160, 160)) * 255).astype(np.uint8)[None])
        return {"source.path": str(folder / "stack.zarr")}
    number = BANDS.get(name, 3)
    image = np.stack(
        [(discs((900, 900)) * (200 - 5 * band)).astype(np.uint8) for band in range(number)]
    )
    how = {
        "driver": "GTiff",
        "count": number,
        "height": 900,
        "width": 900,
        "dtype": "uint8",
        "tiled": True,
    }
    with rasterio.open(folder / "image.tif", "w", **how, blockxsize=256, blockysize=256) as file:
        file.write(image)
    bands = {} if name == "clouds" else {"source.bands": list(range(1, number + 1))}
    return {"source.path": str(folder / "image.tif"), "source.kind": "geotiff", **bands}


def status(key: str) -> int:
    """Bytes, from the kernel."""
    (line,) = (
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key)
    )
    return int(line.split()[1]) * 1024


def measured(run: stages.Run) -> tuple[int, int]:
    """The bytes that a tile takes at most beyond what was there before, and those that the plan
    says of the largest window it reads.
    """
    tile = int(np.flatnonzero(run.routes >= stages.FIRST)[0])
    largest = 0

    class Watched(stages.Run):
        def read(self, box):
            nonlocal largest
            largest = max(largest, box.size)
            return stages.Run.read(self, box)

    watched = Watched(**{name: getattr(run, name) for name in stages.Run.__dataclass_fields__})
    segment(watched, tile)  # what is imported, compiled and loaded once is not the tile's
    gc.collect()
    M_TRIM(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    segment(run, tile)
    return status("VmHWM") - before, sum(run.takes(run.method(tile), largest).values())


def main(path: Path, folder: Path) -> None:
    """Print both numbers for each segmenter."""
    keys = written(path.stem, folder)
    job = pipeline.from_yaml(
        path, {**keys, "output.path": str(folder / "out"), "tiles.size": TILE.get(path.stem, 600)}
    )
    dispatcher = Dispatcher(pipeline.local(), silent)
    draft = plan(job, workers=1, memory=8 << 30).run
    run = fit(replace(draft, scratch=draft.scratch.begin()), dispatcher)
    sheets = (
        [(sheet.run, [sheet.layer.rule]) for sheet in overlay.sheets(run, job.layers)]
        if job.layers
        else [(run, job.route)]
    )
    for each, rules in sheets:
        print(*measured(route(each, rules, dispatcher)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
