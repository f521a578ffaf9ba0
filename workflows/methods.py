"""Draw the result of every kind of segmenter for one image, cut into tiles: the picture in the
documentation.

usage: python workflows/methods.py docs/pictures/methods.webp
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from skimage import data
from skimage.segmentation import find_boundaries

import pipeline

SIDE, COLUMNS, CAPTION, TILE = 240, 4, 16, 100
CLASSES = ("kmeans", "gmm", "mean_shift")
KINDS: dict[str, dict[str, Any]] = {
    "threshold": {"channel": "haematoxylin", "sigma": 1.0, "min_area": 30},
    "watershed": {"channel": "haematoxylin", "sigma": 2.0, "min_area": 30},
    "blobs": {"channel": "haematoxylin", "sigma": 2.0, "min_size": 50},
    "region_growing": {"channel": "haematoxylin", "sigma": 2.0, "number": 4, "min_area": 60},
    "quasi_flat": {"sigma": 2.0, "tolerance": 3.0, "min_area": 60},
    "edges": {"band": "mean", "sigma": 2.0},
    "edges (regions)": {"band": "mean", "sigma": 2.0, "form": "regions", "gaps": 1, "min_area": 30},
    "kmeans": {"clusters": 4, "sigma": 1.0},
    "gmm": {"clusters": 4, "sigma": 1.0},
    "mean_shift": {"sigma": 1.0},
    "superpixels": {"spacing": 14, "lab": True, "iterations": 3},
    "region_graph": {"spacing": 7, "lab": True, "iterations": 3, "threshold": 18.0},
    "felzenszwalb": {"lab": True, "scale": 150.0, "min_size": 40},
    "random_walker": {"channel": "haematoxylin", "sigma": 2.0},
    "normalized_cut": {"spacing": 10, "lab": True, "iterations": 2},
}


def labels_of(
    image: npt.NDArray[Any], kind: str, options: dict[str, Any], folder: Path
) -> npt.NDArray[Any]:
    """The labels that a kind of segmenter gives for the image, in tiles of 100 pixels."""
    method = {"kind": kind.split(maxsplit=1)[0], **options}
    with pipeline.local() as engine:
        result = pipeline.segment(image, method, folder / kind, engine=engine, tile=TILE)
    return np.asarray(result.classes.values if kind in CLASSES else result.labels.values)


def panel(image: npt.NDArray[Any], labels: npt.NDArray[Any] | None, title: str) -> Image.Image:
    """The image with coloured labels and their borders."""
    shown = np.moveaxis(image, 0, -1).astype(float)
    if labels is not None:
        colours = np.random.default_rng(4).integers(40, 256, (int(labels.max()) + 1, 3))
        inside = (labels > 0)[..., None]
        shown = np.where(inside, 0.45 * shown + 0.55 * colours[labels], 0.5 * shown)
        shown[find_boundaries(labels, mode="inner")] = 255
    framed = Image.new("RGB", (SIDE, SIDE + CAPTION), "white")
    framed.paste(Image.fromarray(shown.astype(np.uint8)), (0, CAPTION))
    ImageDraw.Draw(framed).text((4, 2), title, fill="black")
    return framed


def write(out: Path) -> None:
    """Draw the panels of all kinds into one picture."""
    image = np.ascontiguousarray(
        np.moveaxis(data.immunohistochemistry(), -1, 0)[:, 100 : 100 + SIDE, 100 : 100 + SIDE]
    )
    panels = [panel(image, None, "image")]
    with tempfile.TemporaryDirectory() as folder:
        panels += [
            panel(image, labels_of(image, kind, options, Path(folder)), kind)
            for kind, options in KINDS.items()
        ]
    rows = -(-len(panels) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (SIDE + 4), rows * (SIDE + CAPTION + 4)), "white")
    for number, one in enumerate(panels):
        sheet.paste(one, (number % COLUMNS * (SIDE + 4), number // COLUMNS * (SIDE + CAPTION + 4)))
    sheet.save(out, quality=42, method=6)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
