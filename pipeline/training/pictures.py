"""Two pictures of a training: the curves of loss and score, and predictions on held-out images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.sinks.picture import outlined, to_png
from pipeline.training.appraisal import Shown
from pipeline.training.samples import Floats

WIDTH = 800
HEIGHT = 300
EDGE = 40
MOST = 8
"""Images in the picture of predictions."""
LARGEST = 640
"""Rows and columns of each, at most, from its upper left corner."""
COLOURS = {"loss": (40, 110, 200), "score": (200, 80, 40)}


def curves(path: Path, history: Sequence[dict[str, Any]]) -> None:
    """Plot loss and score by step as a PNG.

    ``history`` has ``step``, ``loss`` and ``score`` of each evaluation.
    """
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (WIDTH, 2 * HEIGHT), "white")
    draw = ImageDraw.Draw(image)
    last = max([one["step"] for one in history], default=1)
    for row, (name, colour) in enumerate(COLOURS.items()):
        values = [float(one[name]) for one in history]
        top = max([*values, 1e-9]) if name == "loss" else 1.0
        floor = (row + 1) * HEIGHT - EDGE
        draw.rectangle((EDGE, floor - (HEIGHT - 2 * EDGE), WIDTH - EDGE, floor), outline="black")
        points = [
            (
                EDGE + one["step"] / last * (WIDTH - 2 * EDGE),
                floor - value / top * (HEIGHT - 2 * EDGE),
            )
            for one, value in zip(history, values, strict=True)
        ]
        if len(points) > 1:
            draw.line(points, fill=colour, width=2)
        for x, y in points:
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour)
        ends = (
            f"last {values[-1]:.4f}, best {(min if name == 'loss' else max)(values):.4f}"
            if values
            else "none"
        )
        draw.text(
            (EDGE, floor - HEIGHT + EDGE + 20),
            f"{name}: 0 to {top:.3g} over {last} steps; {ends}",
            fill=colour,
        )
    image.save(path, "png")


def predictions(path: Path, shown: Sequence[Shown]) -> None:
    """Write a PNG with a row for each image: the image, outlines of the truth, outlines of the
    prediction.
    """
    rows = [_row(one) for one in shown[:MOST]]
    if not rows:
        return
    width = max(row.shape[1] for row in rows)
    path.write_bytes(
        to_png(
            np.concatenate(
                [np.pad(row, ((0, 6), (0, width - row.shape[1]), (0, 0))) for row in rows]
            )
        )
    )


def _row(one: Shown) -> npt.NDArray[np.uint8]:
    cut = (slice(0, LARGEST), slice(0, LARGEST))
    picture = _seen(one.image[(slice(None), *cut)])
    faces = [
        picture,
        *(
            outlined(picture, np.maximum(labels[cut].astype(np.int64), 0))
            for labels in (one.truth, one.drawn)
        ),
    ]
    return np.concatenate([np.pad(face, ((0, 0), (0, 6), (0, 0))) for face in faces], axis=1)


def _seen(image: Floats) -> npt.NDArray[np.uint8]:
    """The first three bands, or the first, stretched from minimum to maximum.

    Slightly dimmed, so that white outlines show.
    """
    bands = image[:3] if len(image) >= 3 else image[:1].repeat(3, axis=0)
    low, high = np.percentile(bands, (1, 99.5))
    return np.asarray(
        np.clip((bands - low) / max(high - low, 1e-9), 0, 1) * 200, np.uint8
    ).transpose(1, 2, 0)
