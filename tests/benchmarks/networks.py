"""A network in the pipeline against its bare forward time, and a routed job against the network
everywhere.

usage: python tests/benchmarks/networks.py BUNDLE DATA [--side 8192] [--picture mosaic.png]

DATA is a folder of images and truths, NAME.png beside NAME_labels.tif (of which grey is taken).
They are laid out, always alike, on a dark mosaic of SIDE x SIDE pixels of which a part stays empty
and a part holds few nuclei. Then, on two workers of one thread each:

* seconds of a run from file to file times the workers, over the seconds that the network alone
  takes on the same windows in one thread;
* loads of the network and worker processes;
* a job that skips what is empty, gives what is sparse to a classical method and the rest to the
  network, against the network everywhere: seconds, and F1 at an intersection over union of 0.5 of
  both.

On a machine with a GPU the same command takes it (device: auto). Unset OPENBLAS_CORETYPE and
OPENBLAS_L2_SIZE first.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import zarr
from PIL import Image

import pipeline
from pipeline.evaluation.against_truth import evaluate
from pipeline.networks.loaded import loaded

WORKERS, CORE = 2, 1024
SPARSE = {"kind": "threshold", "method": None, "value": 40, "sigma": 1.0, "min_area": 30}


def mosaic(folder: Path, side: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """An image and its truth: a quarter empty, a quarter with few nuclei, half full of
    real images.
    """
    rng = np.random.default_rng(0)
    pairs = []
    for path in sorted(folder.glob("*_labels.tif")):
        image = np.asarray(
            Image.open(path.with_name(path.name.replace("_labels.tif", ".png"))).convert("L")
        ).astype(float)
        low, high = np.percentile(image, (1, 99.8))  # as if one instrument had taken them all
        image = (220 * (image - low) / (high - low) + 4).clip(0, 255).astype(np.uint8)
        pairs.append((image, tifffile.imread(path)))
    canvas, truth, number = np.zeros((side, side), np.uint8), np.zeros((side, side), np.int32), 0
    place = 0
    for row in range(0, side - 600, 600):
        for column in range(0, side - 800, 800):
            quarter = (row >= side // 2) + 2 * (column >= side // 2)
            if quarter == 3:
                continue
            image, labels = pairs[place % len(pairs)]
            place += 1
            rows, columns = min(600, image.shape[0]), min(800, image.shape[1])
            image, labels = image[:rows, :columns], labels[:rows, :columns].astype(np.int32)
            if quarter == 1 and rng.random() > 0.15:
                continue
            canvas[row : row + rows, column : column + columns] = image
            truth[row : row + rows, column : column + columns] = np.where(
                labels > 0, labels + number, 0
            )
            number += int(labels.max())
    return canvas, truth


def bare(segmenter: Any, image: np.ndarray[Any, Any]) -> float:
    """Seconds of the network alone on the windows of all tiles, in one thread, already loaded and
    read.
    """
    import torch

    torch.set_num_threads(1)
    halo = segmenter.reach + 64
    segmenter.predict(image[None, :256, :256], np.ones((256, 256), bool))
    total = 0.0
    for row in range(0, image.shape[0], CORE):
        for column in range(0, image.shape[1], CORE):
            top, left = max(0, row - halo), max(0, column - halo)
            block = image[None, top : row + CORE + halo, left : column + CORE + halo]
            valid = np.ones(block.shape[1:], bool)
            begin = time.perf_counter()
            segmenter.predict(block, valid, (top, left))
            total += time.perf_counter() - begin
    return total


def main(bundle: str, data: Path, side: int, picture: Path | None) -> None:
    """Measure, and print."""
    image, truth = mosaic(data, side)
    network = pipeline.UNet(weights=bundle)
    routes = [
        {"use": "skip", "when": {"spread": {"max": 0.5}}},
        {"use": "sparse", "when": {"mean": {"max": 6}}},
        {"use": "network"},
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        zarr.create_array(folder / "image.zarr", data=image[None], chunks=(1, 1024, 1024))
        zarr.create_array(folder / "truth.zarr", data=truth, chunks=(1024, 1024))
        with pipeline.cluster(WORKERS) as engine:
            pipeline.segment(
                image[:600, :600].copy(), network, folder / "warm", tile=300, engine=engine
            )
            begin = time.perf_counter()
            whole = pipeline.segment(
                str(folder / "image.zarr"), network, folder / "whole", tile=CORE, engine=engine
            )
            everywhere = time.perf_counter() - begin
            held = {outcome.value for outcome in engine.run(_held, None, range(8))}
            job = pipeline.Job(
                source=str(folder / "image.zarr"),
                tiles={"size": CORE},
                segmenters={"sparse": SPARSE, "network": network},
                route=routes,
                output={"path": str(folder / "routed")},
            )
            begin = time.perf_counter()
            routed = pipeline.run(job, engine)
            seconds = time.perf_counter() - begin
        fitted = network.fit([_histogram(image)])
        alone = bare(fitted, image)
        print(
            f"network everywhere: {everywhere:.1f} s on {WORKERS} workers; its forward alone "
            f"{alone:.1f} s in one thread: ",
            end="",
        )
        print(f"{WORKERS * everywhere / alone:.2f}")
        print(f"loads by worker process: {sorted(held)}")
        scores = [
            evaluate(result.path, str(folder / "truth.zarr")).measures["f1"]
            for result in (whole, routed)
        ]
        print(
            f"routed: {seconds:.1f} s, {everywhere / seconds:.2f} times as fast; F1 "
            f"{scores[1]:.3f}, everywhere {scores[0]:.3f}"
        )
        print(routed.record["routes"], routed.record["certificates"])
        if picture:
            _draw(image, np.asarray(routed.labels), picture)


def _held(_: None, __: int) -> tuple[int, int]:
    import os

    return os.getpid(), len(loaded())


def _histogram(image: np.ndarray[Any, Any]) -> Any:
    from pipeline.imageops.histograms import histogram

    return histogram(image, np.ones(image.shape, bool))


def _draw(image: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], path: Path) -> None:
    """A part of the mosaic around seams, each object in its own colour."""
    part = (slice(CORE - 400, CORE + 400), slice(CORE - 600, CORE + 600))
    colours = np.random.default_rng(1).integers(60, 256, (int(labels.max()) + 1, 3), np.uint8)
    colours[0] = 0
    grey = np.repeat(np.minimum(255, 3 * image[part].astype(int))[..., None], 3, 2)
    shown = np.where(
        (labels[part] > 0)[..., None], grey // 2 + colours[labels[part]] // 2, grey
    ).astype(np.uint8)
    shown[400] = shown[:, 600] = (255, 0, 0)
    Image.fromarray(shown).save(path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle")
    parser.add_argument("data", type=Path)
    parser.add_argument("--side", type=int, default=8192)
    parser.add_argument("--picture", type=Path)
    asked = parser.parse_args()
    main(asked.bundle, asked.data, asked.side, asked.picture)
