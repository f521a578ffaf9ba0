"""What is on the ground of an image's plane, found once for a run: what workers of other processors
found might end in other digits.
"""

from __future__ import annotations

import functools

from pipeline.image.frame import Frame
from pipeline.image.ground import Ground, ground_of, is_true
from pipeline.stages import Run
from pipeline.storage.records import Scratch

KEY = "ground"


def find(run: Run) -> None:
    """Keep what is on the ground in the scratch store, where areas in the plane are not true."""
    if run.scratch.sound(KEY):
        return
    found = ground_of(run.source.frame)
    if found is not None:
        run.scratch.save(KEY, {}, {"values": found.values})


def ground(run: Run) -> Ground | None:
    """What is on the ground, as it was found for the run; None where the plane's areas are true."""
    frame = run.source.frame
    return None if is_true(frame) else _kept(run.scratch, frame)


@functools.lru_cache(maxsize=4)
def _kept(scratch: Scratch, frame: Frame) -> Ground | None:
    if not scratch.has(KEY):  # of a tile that is tried before any run
        return ground_of(frame)
    return Ground((frame.shape[0], frame.shape[1]), scratch.load(KEY, "values")[1]["values"])
