"""Each method against the library that one would use on the whole image otherwise.

usage: python tests/benchmarks/methods.py [SIDE] [KIND …]

Prints, for an image of SIDE x SIDE pixels (default 8192) and two workers, wall x workers of a run from file to file over the time of the
peer on the whole image in memory, and the memory that both take. Peers are called as their documentation says; reading and writing are not
counted for them. Unset OPENBLAS_CORETYPE and OPENBLAS_L2_SIZE first.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
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
    """One run on a cluster of two processes, which has started already."""
    import pipeline

    with pipeline.cluster(WORKERS) as engine:
        pipeline.segment(np.zeros((64, 64), np.uint8), "threshold", folder / "warm", engine=engine)
        begin = time.perf_counter()
        pipeline.segment(str(path), {"kind": kind, **KINDS[kind]}, folder / "out", engine=engine)
        print(time.perf_counter() - begin)


def theirs(path: Path, kind: str) -> None:
    """The peer, on the image in memory."""
    image, call = zarr.open_array(path)[:], peers()[kind]
    begin = time.perf_counter()
    call(image)
    print(time.perf_counter() - begin)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


def main(side: int, kinds: list[str]) -> None:
    """Run each of them in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "scene.zarr")
        zarr.create_array(path, data=scene(side), chunks=(3, 1024, 1024))
        print(f"{'':16}{'wall x 2':>10}{'peer':>10}{'ratio':>8}{'peer MB':>9}")
        for kind in kinds:
            mine = WORKERS * float(_run("ours", path, kind)[0])
            peer = _run("theirs", path, kind) if kind in peers() else []
            ratio = f"{float(peer[0]):10.1f}{mine / float(peer[0]):8.2f}{peer[1]:>9}" if peer else ""
            print(f"{kind:16}{mine:10.1f}{ratio}", flush=True)


def _run(who: str, path: Path, kind: str) -> list[str]:
    done = subprocess.run([sys.executable, __file__, who, str(path), kind], capture_output=True, text=True, check=True)
    return done.stdout.split()


if __name__ == "__main__":
    if sys.argv[1:2] == ["ours"]:
        with tempfile.TemporaryDirectory() as scratch:
            ours(Path(sys.argv[2]), sys.argv[3], Path(scratch))
    elif sys.argv[1:2] == ["theirs"]:
        theirs(Path(sys.argv[2]), sys.argv[3])
    else:
        main(int(sys.argv[1]) if sys.argv[1:] else 8192, sys.argv[2:] or list(KINDS))
