"""Each method against the library that one would use on the whole image otherwise.

usage: python tests/benchmarks/methods.py [SIDE] [KIND …] [--runs N]

Prints, for an image of SIDE x SIDE pixels (default 8192) and two workers, wall x workers of a run
from file to file over the time of the peer on the whole image in memory; likewise the processor
time of all processes of the run, which what else the machine does disturbs less; and the memory
that both take, of ours the sum of every process's own peak. Ours and the peer run in turn, N times
(default 3), and medians are printed. Peers are called as their documentation says; reading and
writing are not counted for them. Unset OPENBLAS_CORETYPE and OPENBLAS_L2_SIZE first.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from measuring import Figures, apart, measured, medians
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
    patch = np.stack(
        [ndimage.gaussian_filter(rng.random((1024, 1024)), s, mode="wrap") for s in (3, 5, 9)]
    )
    patch = (patch - patch.min(axis=(1, 2), keepdims=True)) / np.ptp(
        patch, axis=(1, 2), keepdims=True
    )
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
        "region_growing": lambda image: segmentation.flood(
            image[0].astype(float), (100, 100), tolerance=40
        ),
        "edges": lambda image: feature.canny(image[0].astype(float), 1.0, 40, 96),
        "kmeans": lambda image: (
            KMeans(5, n_init=10).fit(sample(image)).predict(image.reshape(3, -1).T.astype(float))
        ),
        "gmm": lambda image: (
            GaussianMixture(5).fit(sample(image)).predict(image.reshape(3, -1).T.astype(float))
        ),
        "superpixels": lambda image: segmentation.slic(
            np.moveaxis(image, 0, -1), image[0].size // 256, max_num_iter=5, convert2lab=False
        ),
        "region_graph": lambda image: segmentation.felzenszwalb(
            np.moveaxis(image, 0, -1), scale=100, sigma=0.8
        ),
    }


def ours(path: Path, kind: str, folder: Path) -> None:
    """One run on a cluster of two processes that have both done the same to a small image: its
    seconds, processor seconds and MB.
    """
    import pipeline

    method = {"kind": kind, **KINDS[kind]}
    zarr.create_array(
        folder / "small.zarr", data=zarr.open_array(path)[:, :512, :512], chunks=(3, 256, 256)
    )
    with pipeline.cluster(WORKERS) as engine:
        pipeline.segment(
            str(folder / "small.zarr"), method, folder / "warm", tile=128, engine=engine
        )
        print(
            json.dumps(
                measured(lambda: pipeline.segment(str(path), method, folder / "out", engine=engine))
            )
        )


def theirs(path: Path, kind: str) -> None:
    """The peer, on the image in memory: its seconds, processor seconds and MB."""
    image, call = zarr.open_array(path)[:], peers()[kind]
    print(json.dumps(measured(lambda: call(image))))


def main(side: int, kinds: list[str], runs: int) -> None:
    """Run each of them in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "scene.zarr")
        zarr.create_array(path, data=scene(side), chunks=(3, 1024, 1024))
        print(
            f"{'':15}{'wall x 2':>9}{'peer':>8}{'ratio':>7}{'CPU':>8}{'peer':>8}{'ratio':>7}{'MB':>7}{'peer':>7}"  # noqa: E501
        )
        for kind in kinds:
            both = [(_run("ours", path, kind), _run("theirs", path, kind)) for _ in range(runs)]
            mine, peer = map(medians, zip(*both, strict=True))
            wall, cpu = WORKERS * mine["seconds"], mine["cpu"]
            times = f"{wall:9.2f}{peer['seconds']:8.2f}{wall / peer['seconds']:7.2f}{cpu:8.2f}{peer['cpu']:8.2f}{cpu / peer['cpu']:7.2f}"  # noqa: E501
            print(f"{kind:15}{times}{mine['mb']:7.0f}{peer['mb']:7.0f}", flush=True)


def _run(who: str, path: Path, kind: str) -> Figures:
    """What one of them takes; not numbers where there is no peer."""
    if who == "theirs" and kind not in peers():
        return dict.fromkeys(("seconds", "cpu", "mb"), float("nan"))
    found: Figures = apart(__file__, who, path, kind)
    return found


if __name__ == "__main__":
    if sys.argv[1:2] == ["ours"]:
        with tempfile.TemporaryDirectory() as scratch:
            ours(Path(sys.argv[2]), sys.argv[3], Path(scratch))
    elif sys.argv[1:2] == ["theirs"]:
        theirs(Path(sys.argv[2]), sys.argv[3])
    else:
        parser = argparse.ArgumentParser(
            description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        parser.add_argument("side", nargs="?", type=int, default=8192)
        parser.add_argument("kinds", nargs="*", default=list(KINDS), metavar="KIND")
        parser.add_argument("--runs", type=int, default=3)
        asked = parser.parse_args()
        main(asked.side, asked.kinds, asked.runs)
