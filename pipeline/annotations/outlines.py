"""Polygons and masks, rasterized on demand: layers of objects above crowds."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.annotations.files import Rings
from pipeline.annotations.rasters_and_shapes import Companion, Shapes
from pipeline.annotations.rle import RunLengths
from pipeline.config.extras import require
from pipeline.image.grid import Box

CROWD = -1
"""The number of pixels that are ignored."""


@dataclass(frozen=True, slots=True)
class Masks:
    """Masks with a number each."""

    masks: tuple[RunLengths, ...]
    numbers: tuple[int, ...]

    def read(self, box: Box) -> npt.NDArray[np.int64]:
        """The number of the last mask at each pixel of a box."""
        found = np.zeros(box.shape, np.int64)
        for mask, number in zip(self.masks, self.numbers, strict=True):
            if (
                len(mask.column)
                and mask.column[0] < box.stop[1]
                and mask.column[-1] >= box.start[1]
            ):
                found[mask.within(box)] = number
        return found

    def fingerprint(self) -> Any:
        """A checksum of all masks."""
        import hashlib

        parts = (
            part.tobytes() for mask in self.masks for part in (mask.column, mask.low, mask.high)
        )
        return hashlib.sha256(b"".join(parts) + repr(self.numbers).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Layers:
    """Several sources of numbers, later ones on top."""

    parts: tuple[Companion, ...]

    def read(self, box: Box) -> npt.NDArray[np.int64]:
        """The number of the topmost layer that has one, at each pixel of a box."""
        found = np.zeros(box.shape, np.int64)
        for part in self.parts:
            numbers = part.read(box)
            found = np.where(numbers != 0, numbers, found)
        return found

    def fingerprint(self) -> Any:
        """The fingerprints of all layers."""
        return [part.fingerprint() for part in self.parts]


def layers(outlines: tuple[Rings | RunLengths, ...], crowd: tuple[bool, ...] = ()) -> Layers:
    """Outlines numbered from 1, each above those before it, and all above crowds (CROWD)."""
    numbered: list[tuple[int, Rings | RunLengths]] = []
    number = 0
    for outline, many in zip(outlines, crowd or (False,) * len(outlines), strict=True):
        number += not many
        numbered.append((CROWD if many else number, outline))
    numbered.sort(key=lambda pair: pair[0] != CROWD)  # keeps the order of the others
    return Layers(
        tuple(
            _layer(list(some))
            for _, some in groupby(numbered, key=lambda pair: isinstance(pair[1], RunLengths))
        )
    )


def _layer(numbered: list[tuple[int, Any]]) -> Companion:
    """Outlines of one form."""
    require("shapely", "what was drawn")
    import shapely

    numbers, outlines = zip(*numbered, strict=True)
    if isinstance(outlines[0], RunLengths):
        return Masks(outlines, numbers)
    shapes = [shapely.MultiPolygon([shapely.Polygon(ring) for ring in rings]) for rings in outlines]
    return Shapes(tuple(shapely.to_wkb(shapes).tolist()), numbers)
