"""How large tiles are, how much memory one takes, and what is refused as too large."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from pipeline.errors import JobError
from pipeline.image.grid import Grid
from pipeline.stages import Method, Run

SIZES = {2: (2048, 1024, 512, 256), 3: (256, 128, 64, 32)}
"""By the number of dimensions, the extents that `size: auto` tries."""
LEAST = {2: 1024, 3: 64}
"""The least extent that `size: auto` wants: in smaller tiles, halos are a large part of what is
read.
"""
WORTH = 4
"""How many times its halo a tile's extent should be at least, for the same reason."""
TILES_PER_WORKER = 4
"""The least number that `size: auto` wants, so that no worker idles for long at the end."""
MOST = 20_000_000
"""Tiles of one image: the process that runs a job keeps some 60 bytes of each."""


def tile(asked: int | list[int] | Literal["auto"], draft: Run, workers: int) -> tuple[int, ...]:
    """The extent of a tile along each axis, in pixels, at most that of the image.

    Parameters
    ----------
    asked
        ``tiles.size`` of the job: a number, one for each axis, or ``auto``.
    draft
        The run, with any grid of the image.
    workers
        How many tasks run at once.

    Raises
    ------
    JobError
        If the job gives a number for each axis, and the image has more or fewer axes.
    """
    shape = draft.grid.shape
    if isinstance(asked, list):
        if len(asked) != len(shape):
            raise JobError(
                f"tiles.size: {asked}; allowed: one number, or {len(shape)} for an image of {shape}"
            )
        return tuple(map(min, asked, shape))
    if asked != "auto":
        return tuple(min(asked, n) for n in shape)
    size = _suitable(draft, workers)
    chunks = draft.source.frame.chunks
    return tuple(min(_whole_chunks(size, chunk), n) for n, chunk in zip(shape, chunks, strict=True))


def _suitable(draft: Run, workers: int) -> int:
    """The largest extent that fits into half the memory, is worth its halo and keeps all workers
    busy; where none does all that, one that does as much as possible, in this order.
    """
    shape = draft.grid.shape
    ndim = len(shape)
    halo = max(draft.halo_of(method).pixels for method in draft.methods)
    fitting = [size for size in SIZES[ndim] if _most(draft, (size,) * ndim) <= draft.memory / 2]
    fitting = fitting or [SIZES[ndim][-1]]
    worth = [size for size in fitting if size >= max(LEAST[ndim], WORTH * halo)] or fitting[:1]
    busy = [
        size for size in worth if len(Grid(shape, (size,) * ndim)) >= TILES_PER_WORKER * workers
    ]
    return max(busy, default=min(worth))


def _whole_chunks(size: int, chunk: int) -> int:
    """About ``size``, in whole chunks of the source where that is possible: a chunk that two tiles
    share is decoded twice.
    """
    return size // chunk * chunk if chunk <= size else size


def takes(run: Run, method: Method, tile: Sequence[int]) -> dict[str, int]:
    """The memory that segmenting a tile takes, in bytes, by what it goes to.

    Parameters
    ----------
    run
        The run, with any grid of the image.
    method
        What segments the tile.
    tile
        The extent of the tile along each axis, in pixels.
    """
    beyond = 2 * run.halo_of(method).pixels
    window = [min(n, size + beyond) for n, size in zip(run.grid.shape, tile, strict=True)]
    return run.takes(method, math.prod(window))


def _most(run: Run, tile: Sequence[int]) -> int:
    return max(sum(takes(run, method, tile).values()) for method in run.methods)


def refuse_too_many(grid: Grid) -> None:
    """JobError if there are more tiles than the process that runs a job can keep track of."""
    if len(grid) > MOST:
        size = " x ".join(map(str, grid.tile))
        extent = " x ".join(map(str, grid.shape))
        raise JobError(
            f"tiles.size: {size}; an image that declares {extent} pixels has {len(grid):,} such "
            f"tiles; allowed: up to {MOST:,}, so larger tiles, if that is the image's size"
        )


def refuse_too_large(run: Run) -> None:
    """JobError if a tile takes more memory than a task may use."""
    for method in run.methods:
        terms = takes(run, method, run.grid.tile)
        if sum(terms.values()) > run.memory:
            told = ", ".join(
                f"{name} {bytes_ / 1e6:.0f}" for name, bytes_ in terms.items() if bytes_
            )
            raise JobError(
                f"tiles.size: for {method.name}, a tile of {' x '.join(map(str, run.grid.tile))} "
                f"and a halo of {run.halo_of(method).pixels} pixels take about "
                f"{sum(terms.values()) / 1e6:.0f} MB ({told}), and a task may use "
                f"{run.memory / 1e6:.0f}; allowed: smaller tiles, a smaller halo, or workers with "
                f"more memory"
            )
