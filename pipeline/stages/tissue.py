"""Tissue on a slide, found once on a small picture of the whole by colour; glass is white or grey.

The threshold is Otsu's on the saturation of all pixels of that picture, so tiles full of tissue and
tiles of bare glass are judged alike, for every tiling.

References
----------
.. [1] M. Lu et al. (2021), "Data-efficient and weakly supervised computational pathology on
   whole-slide images", Nature Biomedical Engineering 5, 555-570: saturation as in HSV, and Otsu's
   threshold.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.image.grid import Box
from pipeline.imageops.filters import smooth
from pipeline.imageops.histograms import histogram, threshold
from pipeline.jobs.routing import Rule
from pipeline.sources import where_measured
from pipeline.stages import Run

LOW = 2048
"""Pixels along the longer side of the picture, at most."""
SIGMA = 2.0
"""Standard deviation of its smoothing, in its pixels."""


@dataclass(frozen=True, slots=True)
class Tissue:
    """A tissue mask of the whole image at low resolution."""

    mask: npt.NDArray[np.bool_]
    step: int
    """Pixels of the image per pixel of the mask."""

    def share(self, box: Box) -> float:
        """The fraction of a box that is tissue."""
        spans = (
            slice(a // self.step, -(-b // self.step))
            for a, b in zip(box.start, box.stop, strict=True)
        )
        return float(self.mask[tuple(spans)].mean())


def wanted(rules: Iterable[Rule]) -> bool:
    """Whether a rule asks for tissue."""
    return any("tissue" in rule.when for rule in rules)


def tissue(run: Run) -> Tissue:
    """The mask of an image with red, green and blue as its first bands."""
    whole = run.grid.whole
    step = max(1, -(-max(whole.shape) // LOW))
    seen = run.source.glance(whole, step)
    valid = np.asarray(where_measured(run.source, whole, seen, step)[:3].all(axis=0))
    colours = seen[:3].astype(np.float64)
    high = colours.max(axis=0)
    low = colours.min(axis=0)
    saturation = smooth(
        np.divide(high - low, high, out=np.zeros(high.shape), where=valid & (high > 0)),
        valid,
        SIGMA,
    )
    if not valid.any():
        return Tissue(valid, step)
    return Tissue(valid & (saturation > threshold(histogram(saturation, valid), "otsu")), step)
