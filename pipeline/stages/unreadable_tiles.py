"""Which tiles can be read, where those that cannot are to be left out: asked once and first, so
that whatever is made of the image afterwards, statistics, routes and labels, is made of the same
image, however it is tiled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pipeline.errors import SourceError
from pipeline.sources.without_boxes import Incomplete
from pipeline.stages import Run


def unreadable(run: Run, tile: int) -> str:
    """Why a tile's pixels cannot be read; empty where they can."""
    try:
        run.read(run.grid.core(tile))
    except SourceError as error:
        return str(error)
    return ""


def without(run: Run, lost: Mapping[int, str]) -> Run:
    """The same run on the image without some tiles."""
    return (
        replace(run, source=Incomplete(run.source, tuple(map(run.grid.core, sorted(lost)))))
        if lost
        else run
    )
