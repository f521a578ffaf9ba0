"""Compare a tile with the neighbours after it: which labels are, or may be, one object.

Two tiles segmented by one method prove what they can. A neighbour of another route is compared by
its pixels (none, if it has no labels): an object that continues into it is in doubt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.segmenters.protocols import Classifies
from pipeline.stages import FIRST, KEYED, Run, pixels_key, record_key
from pipeline.stages.stitching import PROVED, Seam, View, compare, compare_keys
from pipeline.storage.records import Arrays


def link_key(tile: int) -> str:
    """Key of the comparisons of a tile's seams."""
    return f"links/{tile // 1000}/{tile}"


def tiles(run: Run) -> list[int]:
    """Tiles with labels, or beside a tile with labels."""
    near = np.pad((run.routes >= FIRST).reshape(run.grid.counts), 1)
    for axis in range(near.ndim):
        near = near | np.roll(near, 1, axis) | np.roll(near, -1, axis)
    return np.flatnonzero(near[(slice(1, -1),) * near.ndim]).tolist()


def linked(run: Run, tile: int) -> bool:
    """Whether the comparisons of a tile's seams are undamaged, and of the present labels."""
    if not run.scratch.sound(link_key(tile)):
        return False
    facts = run.scratch.load(link_key(tile))[0]
    return bool(facts["of"] == _of(run, (tile, *facts["others"])))


def _of(run: Run, tiles: Sequence[int]) -> dict[str, Any]:
    """Identifies the present labels of some tiles."""
    return {
        "widened": [run.widened(tile) for tile in tiles],
        "mixed": sorted(name for names in run.mixed().values() for name in names),
    }


def link(run: Run, tile: int) -> int:
    """Compare a tile with each neighbour after it, and write the result; returns the number of
    seams.
    """
    mine = _Flags.of(run, tile)
    found: Arrays = {}
    others = [
        other
        for other in run.grid.neighbours(tile, forward=True)
        if (mine.segmented or run.segmented(other)) and run.compares(tile, other)
    ]
    for other in others:
        seam = _compared(run, tile, other, mine)
        found |= {f"{field} {other}": getattr(seam, field) for field in Seam.__dataclass_fields__}
    run.scratch.save(link_key(tile), {"others": others, "of": _of(run, (tile, *others))}, found)
    return len(others)


def _compared(run: Run, tile: int, other: int, mine: _Flags) -> Seam:
    theirs = _Flags.of(run, other)
    views = _view(run, tile, other, mine), _view(run, other, tile, theirs)
    if run.routes[tile] != run.routes[other] or not (mine.segmented and theirs.segmented):
        return compare(*views, one_method=False)
    method = run.method(tile)
    if method.contract.identity in KEYED:
        return compare_keys(*views)
    connected = method.contract.identity == "connected"
    named = isinstance(method.drawer, Classifies)
    return compare(*views, one_method=True, connected=connected, named=named)


def _view(run: Run, tile: int, other: int, flags: _Flags) -> View:
    overlap = run.overlap(tile, other)
    theirs = (overlap & run.grid.core(other)).within(overlap)
    return View(
        flags.seam(run, tile, other), theirs, flags.whole, flags.owned, flags.hole, flags.name
    )


class _Flags:
    """The flags of a tile's labels in its record; empty without one."""

    def __init__(self, *, segmented: bool, arrays: Arrays, doubted: Sequence[int] = ()) -> None:
        self.segmented = segmented
        self.whole: npt.NDArray[np.bool_] = arrays["status"] == PROVED
        self.whole[list(doubted)] = True
        """As far as what can be read goes."""
        self.hole: npt.NDArray[np.bool_] = arrays["hole"]
        self.owned: npt.NDArray[np.bool_] = np.concatenate([[False], arrays["area"] > 0])
        name = arrays["key"] if arrays["key"].any() else arrays["kind"]
        self.name: npt.NDArray[np.int64] = np.concatenate([[0], name]).astype(np.int64)

    @classmethod
    def of(cls, run: Run, tile: int) -> _Flags:
        if run.segmented(tile):
            facts, arrays = run.scratch.load(
                record_key(tile), "status", "hole", "area", "key", "kind"
            )
            return cls(segmented=True, arrays=arrays, doubted=facts["doubted"])
        none = np.zeros(0)
        return cls(
            segmented=False,
            arrays={
                "status": np.full(1, PROVED),
                "hole": np.zeros(1, bool),
                "area": none,
                "key": none,
                "kind": none,
            },
        )

    def seam(self, run: Run, tile: int, other: int) -> npt.NDArray[np.int32]:
        if not self.segmented:
            return np.zeros(run.overlap(tile, other).shape, np.int32)
        name = f"seam {other}"
        return run.scratch.load(pixels_key(tile), name)[1][name]
