"""Draw the errors of a comparison with truth: what became of each object."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.annotations.files import Drawings
from pipeline.evaluation import metrics
from pipeline.evaluation.against_truth import Evaluation, numbers, opened, parts_of
from pipeline.evaluation.metrics import Overlap

PICTURE = 2000
"""The longest side of the picture, in pixels."""
MATCHED, MISSED, INVENTED, SPLIT, MERGED = range(1, 6)
SHADES = (
    (24, 26, 30),
    (70, 160, 90),
    (220, 60, 60),
    (70, 120, 230),
    (240, 200, 60),
    (210, 80, 200),
)
"""Colours of background, matched, missed, invented, split, merged."""


def picture(
    labels: Any,
    truth: Any,
    found: Evaluation,
    path: Path,
    *,
    image: str | None = None,
) -> None:
    """Write a PNG of what was matched (green), missed (red), invented (blue), split (yellow) and
    merged (purple).

    Of classes, correct pixels are green and wrong ones red. Of a volume, the middle plane is drawn.

    Parameters
    ----------
    labels, truth
        What was compared, as `pipeline.evaluation.against_truth.evaluate` takes it.
    found
        What came out.
    path
        The file to write.
    image
        The image of a COCO file that was compared with.
    """
    from PIL import Image

    ours, known = opened(labels, truth, found.kind, image)
    frame = ours.source.frame
    step = max(1, -(-max(frame.shape[-2:]) // PICTURE))
    canvas = np.zeros(tuple(-(-n // step) for n in frame.shape[-2:]), np.uint8)
    fates = _fates(found.overlap)
    for box in parts_of(frame, step):
        a = numbers(ours, box)[0]
        b = np.zeros(box.shape, np.int64)
        if not isinstance(known, Drawings):
            b, asked = numbers(known, box)
            a = np.where(asked, a, 0)
        drawn = _shaded(found, fates, a, b).reshape(box.shape[-2:])[::step, ::step]
        r, c = (first // step for first in box.start[-2:])
        canvas[r : r + drawn.shape[0], c : c + drawn.shape[1]] = drawn
    Image.fromarray(np.array(SHADES, np.uint8)[canvas]).save(path)


def _fates(overlap: Overlap) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """What became of each object of ours, and of each of the truth."""
    pairs = overlap.pairs[metrics.matched(overlap, 0.5)]
    split, merged = metrics.broken(overlap)
    ours = np.full(len(overlap.ours), INVENTED, np.uint8)
    truth = np.full(len(overlap.truth), MISSED, np.uint8)
    ours[merged], truth[split] = MERGED, SPLIT
    ours[pairs[:, 0]] = MATCHED
    truth[pairs[:, 1]] = MATCHED
    return ours, truth


def _shaded(
    found: Evaluation,
    fates: tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]],
    ours: npt.NDArray[np.int64],
    truth: npt.NDArray[np.int64],
) -> npt.NDArray[np.uint8]:
    """What became of each pixel."""
    if found.kind == "semantic":
        return np.where(ours == truth, np.where(truth > 0, MATCHED, 0), MISSED).astype(np.uint8)
    drawn = np.where(ours > 0, _looked_up(ours, found.overlap.ours, fates[0]), 0)
    theirs = np.where(truth > 0, _looked_up(truth, found.overlap.truth, fates[1]), 0)
    return np.where((theirs > 0) & (theirs != MATCHED) & (drawn != MERGED), theirs, drawn).astype(
        np.uint8
    )


def _looked_up(
    labels: npt.NDArray[np.int64], names: npt.NDArray[np.int64], values: npt.NDArray[np.uint8]
) -> npt.NDArray[np.uint8]:
    where = np.minimum(np.searchsorted(names, labels), max(len(names) - 1, 0))
    return values[where] if len(names) else np.zeros(labels.shape, np.uint8)
