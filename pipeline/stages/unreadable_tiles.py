"""Tiles that cannot be read, where these are to be left out.

They are found first, so that statistics, routes and labels all use the same image, for every
tiling.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pipeline.errors import SourceError
from pipeline.sources.without_boxes import Incomplete
from pipeline.stages import Run


def unreadable(run: Run, tile: int) -> str:
    """Why a tile's pixels cannot be read; empty if they can."""
    try:
        run.read(run.grid.core(tile))
    except SourceError as error:
        return str(error)
    return ""


def without(run: Run, lost: Mapping[int, str]) -> Run:
    """The run on the image without some tiles."""
    return (
        replace(run, source=Incomplete(run.source, tuple(map(run.grid.core, sorted(lost)))))
        if lost
        else run
    )
