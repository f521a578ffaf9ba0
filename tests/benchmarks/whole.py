"""Labels of a large image, from file to file: tilewise against what labels the whole image, and
against other tilers.

usage: python tests/benchmarks/whole.py [SIDE …] [--job label|watershed] [--sides NAME …] [--runs N]
[--plots FOLDER] [--tiles N …]

The image is made of blobs with a period of 1536 pixels, so that objects cross every seam, as uint8
Zarr in chunks of 1024. The job `label` is a threshold, pieces that touch at faces, and labels to
Zarr; `watershed` parts the pieces too. Each side runs in a process of its own, reading and writing
included, in turn with the others, N times (default 3); medians, the spread of the wall time, and
ratios to ours are printed. Ours runs on a cluster of two worker processes that has already started,
but has done nothing yet; *again* is the same job once more on the same cluster. Imports are not
counted for the others. MB is the sum of every process's own peak, see `measuring`.

--plots draws how time and memory grow (see `growth`); --tiles measures what the asking process
spends on that many tiles that hold nothing, or next to nothing (see `many`). The peers come with
the extra `bench`; patchworks (GPL) is run, and never a part of this package.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import growth
import many
import numpy as np
import zarr
from measuring import Figures, apart, measured, medians, settled, spread
from scipy import ndimage

PERIOD, CHUNK, TILE, WORKERS = 1536, 1024, 2048, 2
SIGMA, QUANTILE = 8.0, 0.6
HALO = 64
"""Pixels beyond a tile by which `watershed` compares neighbours, as the job has it where nothing is
said.
"""
Pixels = np.ndarray[Any, Any]


def patch(sigma: float) -> tuple[np.ndarray[Any, np.dtype[np.uint8]], int]:
    """One period of the image, and the threshold."""
    noise = np.random.default_rng(0).random((PERIOD, PERIOD), np.float32)
    smooth = ndimage.gaussian_filter(noise, sigma, mode="wrap")
    values = (255 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.uint8)
    return values, int(np.quantile(values, QUANTILE))


def make(path: Path, side: int, sigma: float = SIGMA) -> int:
    """Write the image, a row of chunks at a time; the threshold."""
    values, threshold = patch(sigma)
    array = zarr.create_array(path, shape=(side, side), dtype=np.uint8, chunks=(CHUNK, CHUNK))
    columns = np.arange(side) % PERIOD
    for top in range(0, side, CHUNK):
        rows = np.arange(top, min(side, top + CHUNK)) % PERIOD
        array[top : top + CHUNK] = values[rows][:, columns]
    return threshold


def segmenter(job: str, threshold: int) -> Any:
    """Our segmenter for a job."""
    import pipeline

    if job == "watershed":
        return pipeline.Watershed(threshold=float(threshold), min_distance=10)
    return pipeline.Threshold(value=threshold, connectivity=4)


def ours(
    job: str, path: Path, out: Path, threshold: int, *, workers: int = WORKERS, tile: int = TILE
) -> Figures:
    """A run on a cluster that has started, and the same once more: its seconds are called
    ``again``.
    """
    import pipeline

    def run(name: str) -> None:
        nonlocal objects
        objects = pipeline.segment(
            str(path), segmenter(job, threshold), out / name, tile=tile, engine=engine
        ).record["objects"]

    objects = 0
    with pipeline.cluster(workers) as engine:
        settled()
        first = measured(lambda: run("first"))
        again = measured(lambda: run("again"))
    return {**first, "again": again["seconds"], "again_cpu": again["cpu"], "objects": objects}


def written(out: Path, labels: Pixels) -> None:
    """Labels to Zarr, in chunks like the image's."""
    zarr.create_array(out / "labels.zarr", data=labels, chunks=(CHUNK, CHUNK))


def with_cc3d(path: Path, out: Path, threshold: int) -> Callable[[], None]:
    """The whole image in memory, by cc3d."""
    import cc3d

    return lambda: written(
        out, cc3d.connected_components(zarr.open_array(path)[:] > threshold, connectivity=4)
    )


def with_scipy(path: Path, out: Path, threshold: int) -> Callable[[], None]:
    """The whole image in memory, by SciPy."""
    return lambda: written(out, ndimage.label(zarr.open_array(path)[:] > threshold)[0])


def with_dask_image(path: Path, out: Path, threshold: int) -> Callable[[], None]:
    """Chunks of 2048, by dask-image, in Dask's threads."""
    import dask.array as da
    from dask_image import ndmeasure

    def run() -> None:
        labels, _number = ndmeasure.label(da.from_zarr(str(path)).rechunk(TILE) > threshold)
        da.to_zarr(labels, str(out / "labels.zarr"), compute=True)

    return run


def with_patchworks(path: Path, out: Path, threshold: int) -> Callable[[], None]:
    """Tiles of 2048, by patchworks."""
    import dask.array as da
    import patchworks

    def label(tile: Pixels) -> Pixels:
        return ndimage.label(tile > threshold)[0].astype(np.int32)

    def run() -> None:
        image = da.from_zarr(str(path))
        options = {
            "tile_shape": (TILE, TILE),
            "overlap": 0,
            "max_workers": WORKERS,
            "progress": False,
            "sequential_labels": True,
        }
        patchworks.tile_process(image, label, write_to=str(out / "labels.zarr"), **options)

    return run


def with_skimage(path: Path, out: Path, threshold: int) -> Callable[[], None]:
    """The whole image in memory, by scikit-image's watershed."""
    from skimage import feature, segmentation

    def run() -> None:
        mask = zarr.open_array(path)[:] > threshold
        distance = ndimage.distance_transform_edt(mask)
        peaks = feature.peak_local_max(distance, min_distance=10, labels=ndimage.label(mask)[0])
        markers = np.zeros(mask.shape, np.int32)
        markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
        written(out, segmentation.watershed(-distance, markers, mask=mask))

    return run


def alone(path: Path, _out: Path, threshold: int) -> Callable[[], None]:
    """Our segmenter by itself on the windows of tiles, without what joins them: it bounds what
    tiling may cost.
    """
    from pipeline.image.grid import Grid

    image, watershed = zarr.open_array(path), segmenter("watershed", threshold)
    grid = Grid(image.shape, (TILE, TILE))
    watershed(image[:256, :256][None])  # compiled

    def run() -> None:
        for tile in range(len(grid)):
            watershed(image[grid.window(tile, HALO + watershed.reach).slices][None])

    return run


PEERS: dict[str, dict[str, tuple[str, Callable[[Path, Path, int], Callable[[], None]]]]] = {
    "label": {
        "cc3d": ("cc3d", with_cc3d),
        "scipy": ("scipy", with_scipy),
        "patchworks": ("patchworks", with_patchworks),
        "dask-image": ("dask_image", with_dask_image),
    },
    "watershed": {"skimage": ("skimage", with_skimage), "alone": ("pipeline", alone)},
}
"""By job and name: the module that it needs, and what makes the call that is measured."""


def there(job: str) -> list[str]:
    """The sides that can run here, ours first."""
    return [
        "ours",
        *(name for name, (module, _) in PEERS[job].items() if importlib.util.find_spec(module)),
    ]


def one(job: str, side: str, path: Path, threshold: int, options: dict[str, int]) -> Figures:
    """A single run, in this process."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        if side == "ours":
            return ours(job, path, Path(folder), threshold, **options)
        return measured(PEERS[job][side][1](path, Path(folder), threshold))


def run(job: str, side: str, path: Path, threshold: int, **options: int) -> Figures:
    """A single run, in a process of its own."""
    found: Figures = apart(__file__, "--one", job, side, path, threshold, json.dumps(options))
    return found


def compare(job: str, side: int, names: list[str], runs: int, folder: Path) -> None:
    """Print a table for one image."""
    path = folder / f"{side}.zarr"
    threshold = make(path, side)
    found: dict[str, list[Figures]] = {name: [] for name in names}
    for _ in range(runs):
        for name in names:
            found[name].append(run(job, name, path, threshold))
    print(f"\n{job}, {side} x {side}, {runs} runs\n")
    print(
        "| | s | spread | CPU s | again: s | CPU s | MB | s / ours | MB / ours "
        "|\n|---|---|---|---|---|---|---|---|---|"
    )
    mine = medians(found[names[0]])
    for name in names:
        figures = medians(found[name])
        again = (
            f"{figures['again']:.1f} | {figures['again_cpu']:.1f}" if "again" in figures else " | "
        )
        ratios = f"{figures['seconds'] / mine['seconds']:.2f} | {figures['mb'] / mine['mb']:.2f}"
        row = (
            f"{figures['seconds']:.1f} | {spread(found[name], 'seconds')} | "
            f"{figures['cpu']:.1f} | {again} | {figures['mb']:.0f}"
        )
        print(f"| {name} | {row} | {ratios} |", flush=True)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "extents", nargs="*", type=int, metavar="SIDE", help="pixels along each axis of the image"
    )
    parser.add_argument("--job", choices=list(PEERS), default="label")
    parser.add_argument(
        "--sides",
        nargs="+",
        choices=["ours", *(name for job in PEERS.values() for name in job)],
        help="which; all that can run",
    )
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument(
        "--plots",
        type=Path,
        metavar="FOLDER",
        help="draw how time and memory grow, at the extents given",
    )
    parser.add_argument(
        "--tiles",
        nargs="+",
        type=int,
        default=[],
        metavar="N",
        help="what the asking process spends on so many tiles",
    )
    parser.add_argument(
        "--dots", action="store_true", help="tiles with an object each, in place of empty ones"
    )
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    parser.add_argument("--spent", nargs=2, type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.spent:
        print(json.dumps(many.spent(asked.spent[0], dots=bool(asked.spent[1]))))
        return
    if asked.one:
        job, side, path, threshold, options = asked.one
        print(json.dumps(one(job, side, Path(path), int(threshold), json.loads(options))))
        return
    with tempfile.TemporaryDirectory() as folder:
        if asked.plots and asked.extents:
            grow(asked.extents, asked.runs, asked.plots, Path(folder))
        elif not asked.plots:
            for side in asked.extents:
                compare(asked.job, side, asked.sides or there(asked.job), asked.runs, Path(folder))
    if asked.tiles:
        count(asked.tiles, asked.plots, dots=asked.dots)


def grow(extents: list[int], runs: int, plots: Path, folder: Path) -> None:
    """Print and draw how time and memory grow."""
    found = growth.curves(
        extents,
        runs,
        folder,
        make,
        lambda path, threshold, options: run("label", "ours", path, threshold, **options),
    )
    growth.table(found)
    plots.mkdir(parents=True, exist_ok=True)
    growth.draw(found, plots)


def count(tiles: list[int], plots: Path | None, *, dots: bool) -> None:
    """Print and draw what many tiles cost the asking process."""
    print(
        "\n| tiles | s | ms of the asking process, a tile | kB, a tile | MB in all "
        "|\n|---|---|---|---|---|"
    )
    figures = []
    for number in tiles:
        figures.append(found := apart(__file__, "--spent", number, int(dots)))
        row = f"{found['driver_ms']:.3f} | {found['driver_kb']:.3f} | {found['driver_mb']:.0f}"
        print(f"| {number} | {found['seconds']:.1f} | {row} |", flush=True)
    if plots:
        plots.mkdir(parents=True, exist_ok=True)
        growth.draw_tiles(figures, plots)


if __name__ == "__main__":
    main()
