"""Labels with keys that do not depend on the tiling: pixels of one key are one object, and nothing needs to be compared.

A key is what the segmenter gives (a superpixel's place in a lattice over the image), or a pixel's class where classes are the result.
Pixels of one class may lie anywhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.segmenters import classes, keys
from pipeline.stages import Run
from pipeline.stages.drawn import Drawn, Flags


def by_class(run: Run, tile: int, block: npt.NDArray[Any], valid: Flags) -> Drawn:
    """All pixels of a class are one label."""
    window = run.grid.window(tile, run.method(tile).halo)
    kinds = classes(run.method(tile).segmenter, block, valid, window.start).kinds
    drawn = _compact(run, tile, kinds)
    return Drawn(**drawn, kind=drawn["key"])


def by_key(run: Run, tile: int, block: npt.NDArray[Any], valid: Flags) -> Drawn:
    """All pixels of a key are one label."""
    window = run.grid.window(tile, run.method(tile).halo)
    return Drawn(**_compact(run, tile, keys(run.method(tile).segmenter, block, valid, window.start)))


def _compact(run: Run, tile: int, drawn: npt.NDArray[Any]) -> dict[str, Any]:
    """Number the keys that the core and its rim show, 1 to n, by ascending key."""
    window, outer = run.grid.window(tile, run.method(tile).halo), run.grid.window(tile, run.depth)
    names, labels = np.unique(drawn[outer.within(window)], return_inverse=True)
    background = bool(names.size and names[0] == 0)
    nothing = np.zeros(len(names) + (not background), bool)
    return {
        "labels": (labels.reshape(outer.shape) + (not background)).astype(np.int32),
        "whole": ~nothing,
        "hole": nothing,
        "outside": nothing,
        "beside": np.zeros((0, 2), np.int64),
        "key": names[int(background) :].astype(np.int64),
    }
