"""Draw the pictures of the page on methods, from real images that come with scikit-image.

usage: python docs/pictures.py docs/pictures [NAME ...]
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from skimage import data
from skimage.segmentation import find_boundaries

import pipeline

TILE, SIDE, GAP, QUALITY = 128, 320, 6, 78


@dataclass(frozen=True)
class Case:
    """An image and the method for what is in it."""

    image: Callable[[], npt.NDArray[Any]]
    """A function that returns pixels, (row, column) or (row, column, colour)."""

    method: dict[str, Any]
    """The segmenter, as a job file has it."""

    crop: tuple[int, int] = (0, 0)
    """The first row and column of what is shown, in pixels."""

    side: int = 256
    """The extent of what is shown, in pixels."""

    steps: list[dict[str, Any]] = field(default_factory=list)
    """What is made of the image before, as a job file has it."""


CASES = {
    "coins": Case(
        data.coins,
        {"kind": "watershed", "sigma": 2, "min_distance": 15, "min_area": 50},
        steps=[{"kind": "background", "radius": 40}],
    ),
    "nuclei": Case(
        data.immunohistochemistry,
        {
            "kind": "blobs",
            "channel": "haematoxylin",
            "sigma": 2,
            "threshold": "otsu",
            "min_size": 50,
        },
        crop=(150, 60),
    ),
    "page": Case(
        data.page,
        {"kind": "threshold", "method": "sauvola", "window": 31, "dark": True, "min_area": 4},
        side=190,
    ),
    "galaxies": Case(
        data.hubble_deep_field,
        {"kind": "blobs", "band": "mean", "sigma": 1, "min_size": 12},
        crop=(300, 400),
    ),
    "cover": Case(
        data.immunohistochemistry,
        {"kind": "kmeans", "clusters": 4, "sigma": 1},
        crop=(100, 100),
    ),
    "outlines": Case(
        data.camera,
        {"kind": "edges", "sigma": 2},
        crop=(60, 120),
    ),
    "regions": Case(
        data.coffee,
        {"kind": "region_graph", "spacing": 8, "lab": True, "iterations": 4, "threshold": 12},
        crop=(40, 120),
        side=320,
    ),
    "patches": Case(
        data.chelsea,
        {"kind": "superpixels", "spacing": 16, "lab": True, "iterations": 4},
        crop=(10, 80),
    ),
}


def drawn(case: Case, folder: Path) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """What is shown of an image, (row, column, colour), and the labels or classes of it."""
    whole = case.image()
    bands = whole if whole.ndim == 2 else np.ascontiguousarray(np.moveaxis(whole, -1, 0))
    with pipeline.local() as engine:
        result = pipeline.segment(
            bands, case.method, folder, engine=engine, tile=TILE, steps=case.steps
        )
    labels = result.classes if case.method["kind"] == "kmeans" else result.labels
    row, column = case.crop
    seen = np.s_[row : row + case.side, column : column + case.side]
    colour = whole if whole.ndim == 3 else np.stack([whole] * 3, axis=-1)
    return colour[seen], np.asarray(labels.values)[seen]


def panel(shown: npt.NDArray[Any], labels: npt.NDArray[Any]) -> Image.Image:
    """The image, and beside it the same with each label in a colour of its own."""
    colours = np.random.default_rng(4).integers(40, 256, (int(labels.max()) + 1, 3))
    inside = (labels > 0)[..., None]
    over = np.where(inside, 0.4 * shown + 0.6 * colours[labels], 0.55 * shown)
    if (labels > 0).mean() > 0.25:  # thin objects would be hidden by their borders
        over[find_boundaries(labels, mode="inner")] = 255
    sheet = Image.new("RGB", (2 * SIDE + GAP, SIDE), "white")
    for number, pixels in enumerate((shown, over)):
        scaled = Image.fromarray(pixels.astype(np.uint8)).resize((SIDE, SIDE))
        sheet.paste(scaled, (number * (SIDE + GAP), 0))
    return sheet


def write(out: Path, names: list[str]) -> None:
    """Draw all of them, or those that are named."""
    for name in names or CASES:
        case = CASES[name]
        with tempfile.TemporaryDirectory() as folder:
            panel(*drawn(case, Path(folder, name))).save(
                out / f"{name}.webp", quality=QUALITY, method=6
            )


if __name__ == "__main__":
    write(Path(sys.argv[1]), sys.argv[2:])
