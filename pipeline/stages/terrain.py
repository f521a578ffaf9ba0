"""Ground areas of an image's plane, computed once for a run, because processors may round
differently.
"""

from __future__ import annotations

import functools

from pipeline.image.frame import Frame
from pipeline.image.ground import Ground, ground_of, is_true
from pipeline.stages import Run
from pipeline.storage.records import Scratch

KEY = "ground"


def find(run: Run) -> None:
    """Save the ground areas in the scratch store, if areas in the plane are not true."""
    if run.scratch.sound(KEY):
        return
    found = ground_of(run.source.frame)
    if found is not None:
        run.scratch.save(KEY, {}, {"values": found.values})


def ground(run: Run) -> Ground | None:
    """The saved ground areas; None if the plane's areas are true."""
    frame = run.source.frame
    return None if is_true(frame) else _kept(run.scratch, frame)


@functools.lru_cache(maxsize=4)
def _kept(scratch: Scratch, frame: Frame) -> Ground | None:
    if not scratch.has(KEY):  # as for a tile that is tried before any run
        return ground_of(frame)
    return Ground((frame.shape[0], frame.shape[1]), scratch.load(KEY, "values")[1]["values"])
