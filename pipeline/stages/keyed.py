"""Labels with keys that do not depend on the tiling: pixels of one key are one object.

Nothing needs to be compared at seams. A key is given by the segmenter (a superpixel's cell in a
lattice over the image), or is a pixel's class where classes are the result; pixels of one class
need not be connected.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.segmenters import classes, keyed
from pipeline.stages import Run
from pipeline.stages.tile_labels import Drawn, Flags

SMALL = 2
"""Bytes of keys up to which a lookup table is used."""


def by_class(run: Run, tile: int, block: npt.NDArray[Any], valid: Flags) -> Drawn:
    """All pixels of a class are one label."""
    window = run.window(tile)
    kinds = classes(run.method(tile).drawer, block, valid, window.start).kinds
    drawn = _compact(run, tile, kinds)
    return Drawn(**drawn, kind=drawn["key"], nodes=np.ones(len(drawn["whole"]), bool))


def by_key(run: Run, tile: int, block: npt.NDArray[Any], valid: Flags) -> Drawn:
    """All pixels of a key are one label, with the class that the segmenter gives."""
    window = run.window(tile)
    outer = run.labelled(tile)
    found = keyed(run.method(tile).drawer, block, valid, window.start)
    drawn = _compact(run, tile, found.keys)
    if found.kinds is None:
        return Drawn(**drawn)
    kind = np.zeros(len(drawn["whole"]), np.int64)
    kind[drawn["labels"]] = found.kinds[outer.within(window)]
    return Drawn(**drawn, kind=kind[1:])


def _compact(run: Run, tile: int, drawn: npt.NDArray[Any]) -> dict[str, Any]:
    """Number the keys of the core and its rim, 1 to n, ascending."""
    window = run.window(tile)
    outer = run.labelled(tile)
    names, labels = _numbered(drawn[outer.within(window)])
    background = bool(names.size and names[0] == 0)
    nothing = np.zeros(len(names) + (not background), bool)
    return {
        "labels": labels.astype(np.int32) + np.int32(not background),
        "whole": ~nothing,
        "hole": nothing,
        "outside": nothing,
        "beside": np.zeros((0, 2), np.int64),
        "key": names[int(background) :].astype(np.int64),
    }


def _numbered(keys: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """The distinct keys, ascending, and each pixel's index among them.

    Small integers are looked up. Otherwise one key per run of equal ones is sorted, because sorting
    all pixels takes longer than everything else.
    """
    if keys.dtype.kind in "bu" and keys.dtype.itemsize <= SMALL:
        there = np.zeros(1 << 8 * keys.dtype.itemsize, bool)
        there[keys.astype(np.uint8) if keys.dtype == bool else keys] = True
        return np.flatnonzero(there).astype(keys.dtype), (np.cumsum(there, dtype=np.int32) - 1)[
            keys.astype(np.intp)
        ]
    flat = keys.ravel()
    begins = (
        np.flatnonzero(np.append(True, flat[1:] != flat[:-1]))
        if flat.size
        else np.zeros(0, np.intp)
    )
    names, of_run = np.unique(flat[begins], return_inverse=True)
    return names, np.repeat(of_run.astype(np.int32), np.diff(np.append(begins, flat.size))).reshape(
        keys.shape
    )
