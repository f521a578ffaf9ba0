"""Each method against the library that one would use on the whole image otherwise.

usage: python tests/benchmarks/methods.py [SIDE] [KIND …] [--runs N]

Prints, for an image of SIDE x SIDE pixels (default 8192) and two workers, wall x workers of a run from file to file over the time of the
peer on the whole image in memory; likewise the processor time of all processes of the run, which what else the machine does disturbs less;
and the memory that both take, of ours the sum of every process's own peak. Ours and the peer run in turn, N times (default 3), and medians
are printed. Peers are called as their documentation says; reading and writing are not counted for them. Unset OPENBLAS_CORETYPE and
OPENBLAS_L2_SIZE first.
"""

from __future__ import annotations

import argparse
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import zarr
from scipy import ndimage

WORKERS = 2
KINDS: dict[str, dict[str, Any]] = {
    "threshold": {"method": "otsu", "sigma": 1.0, "min_area": 20},
    "watershed": {"sigma": 1.0, "min_distance": 5},
    "region_growing": {"seeds": [[100, 100]], "tolerance": 40.0},
    "quasi_flat": {"tolerance": 6.0, "sigma": 1.0},
    "edges": {"sigma": 1.0, "high": 12.0, "low": 5.0},
    "kmeans": {"clusters": 5},
    "gmm": {"clusters": 5},
    "superpixels": {"spacing": 16},
    "region_graph": {"spacing": 16, "cut": "felzenszwalb"},
}


def scene(side: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Blobs of many sizes with noise, three bands."""
    rng = np.random.default_rng(0)
    patch = np.stack([ndimage.gaussian_filter(rng.random((1024, 1024)), s, mode="wrap") for s in (3, 5, 9)])
    patch = (patch - patch.min(axis=(1, 2), keepdims=True)) / np.ptp(patch, axis=(1, 2), keepdims=True)
    image = np.tile(230 * patch, (1, side // 1024, side // 1024))
    return (image + rng.integers(0, 20, image.shape)).astype(np.uint8)


def peers() -> dict[str, Callable[[np.ndarray[Any, Any]], Any]]:
    """What one would call on the whole image."""
    from skimage import feature, filters, segmentation
    from sklearn.cluster import KMeans
    from sklearn.mixture import GaussianMixture

    def threshold(image: np.ndarray[Any, Any]) -> Any:
        smooth = filters.gaussian(image[0], 1, preserve_range=True)
        labels, number = ndimage.label(smooth > filters.threshold_otsu(smooth))
        keep = np.bincount(labels.ravel(), minlength=number + 1) >= 20
        return np.where(keep[labels], labels, 0)

    def watershed(image: np.ndarray[Any, Any]) -> Any:
        smooth = filters.gaussian(image[0], 1, preserve_range=True)
        mask = smooth > filters.threshold_otsu(smooth)
        distance = ndimage.distance_transform_edt(mask)
        peaks = feature.peak_local_max(distance, min_distance=5, labels=ndimage.label(mask)[0])
        markers = np.zeros(mask.shape, np.int32)
        markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
        return segmentation.watershed(-distance, markers, mask=mask)

    def sample(image: np.ndarray[Any, Any]) -> Any:
        return image.reshape(3, -1).T[:: image[0].size // 20_000].astype(float)

    return {
        "threshold": threshold,
        "watershed": watershed,
        "region_growing": lambda image: segmentation.flood(image[0].astype(float), (100, 100), tolerance=40),
        "edges": lambda image: feature.canny(image[0].astype(float), 1.0, 40, 96),
        "kmeans": lambda image: KMeans(5, n_init=10).fit(sample(image)).predict(image.reshape(3, -1).T.astype(float)),
        "gmm": lambda image: GaussianMixture(5).fit(sample(image)).predict(image.reshape(3, -1).T.astype(float)),
        "superpixels": lambda image: segmentation.slic(np.moveaxis(image, 0, -1), image[0].size // 256, max_num_iter=5, convert2lab=False),
        "region_graph": lambda image: segmentation.felzenszwalb(np.moveaxis(image, 0, -1), scale=100, sigma=0.8),
    }


def ours(path: Path, kind: str, folder: Path) -> None:
    """One run on a cluster of two processes that have both done the same to a small image: its seconds, processor seconds and MB."""
    import pipeline

    method = {"kind": kind, **KINDS[kind]}
    zarr.create_array(folder / "small.zarr", data=zarr.open_array(path)[:, :512, :512], chunks=(3, 256, 256))
    with pipeline.cluster(WORKERS) as engine:
        pipeline.segment(str(folder / "small.zarr"), method, folder / "warm", tile=128, engine=engine)
        begin, used = time.perf_counter(), _processor_seconds()
        pipeline.segment(str(path), method, folder / "out", engine=engine)
        print(time.perf_counter() - begin, _processor_seconds() - used, sum(map(_peak, _family())))


def theirs(path: Path, kind: str) -> None:
    """The peer, on the image in memory: its seconds, processor seconds and MB."""
    image, call = zarr.open_array(path)[:], peers()[kind]
    begin, used = time.perf_counter(), time.process_time()
    call(image)
    seconds, used = time.perf_counter() - begin, time.process_time() - used
    print(seconds, used, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


def main(side: int, kinds: list[str], runs: int) -> None:
    """Run each of them in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "scene.zarr")
        zarr.create_array(path, data=scene(side), chunks=(3, 1024, 1024))
        print(f"{'':15}{'wall x 2':>9}{'peer':>8}{'ratio':>7}{'CPU':>8}{'peer':>8}{'ratio':>7}{'MB':>7}{'peer':>7}")
        for kind in kinds:
            both = [(_run("ours", path, kind), _run("theirs", path, kind)) for _ in range(runs)]
            ours, peer = ([statistics.median(row) for row in zip(*rows, strict=True)] for rows in zip(*both, strict=True))
            wall = WORKERS * ours[0]
            times = f"{wall:9.2f}{peer[0]:8.2f}{wall / peer[0]:7.2f}{ours[1]:8.2f}{peer[1]:8.2f}{ours[1] / peer[1]:7.2f}"
            print(f"{kind:15}{times}{ours[2]:7.0f}{peer[2]:7.0f}", flush=True)


def _run(who: str, path: Path, kind: str) -> list[float]:
    """The numbers that one of them prints; not numbers where there is no peer."""
    if who == "theirs" and kind not in peers():
        return [float("nan")] * 3
    done = subprocess.run([sys.executable, __file__, who, str(path), kind], stdout=subprocess.PIPE, text=True, check=True)
    return list(map(float, done.stdout.split()))


def _family() -> list[psutil.Process]:
    """This process and all that it started."""
    here = psutil.Process()
    return [here, *here.children(recursive=True)]


def _processor_seconds() -> float:
    return sum(used.user + used.system for used in (each.cpu_times() for each in _family()))


def _peak(process: psutil.Process) -> float:
    """The most memory that a process has held so far, in MB."""
    return int(re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())[0]) / 1024


if __name__ == "__main__":
    if sys.argv[1:2] == ["ours"]:
        with tempfile.TemporaryDirectory() as scratch:
            ours(Path(sys.argv[2]), sys.argv[3], Path(scratch))
    elif sys.argv[1:2] == ["theirs"]:
        theirs(Path(sys.argv[2]), sys.argv[3])
    else:
        parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("side", nargs="?", type=int, default=8192)
        parser.add_argument("kinds", nargs="*", default=list(KINDS), metavar="KIND")
        parser.add_argument("--runs", type=int, default=3)
        asked = parser.parse_args()
        main(asked.side, asked.kinds, asked.runs)
