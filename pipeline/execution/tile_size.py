"""How large tiles are, what one takes of memory, and what would be too large."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from pipeline.errors import JobError
from pipeline.image.grid import Grid
from pipeline.stages import Method, Run, Step

SIZES = {2: (2048, 1024, 512, 256), 3: (256, 128, 64, 32)}
LEAST = {2: 1024, 3: 64}
"""The extent that `size: auto` wants at least, so that fewer pixels are read for the neighbours'
sake.
"""
ENOUGH = 4
"""Tiles per worker that `size: auto` wants at least, so that no worker idles for long at the end.
"""
MOST = 20_000_000
"""Tiles: the process that asks keeps some 60 bytes of each."""
WORTH = 4
"""How many times its halo a tile's extent should be, for `size: auto`: with less, most pixels are
read for the neighbours' sake.
"""


def tile(asked: Any, draft: Run, workers: int) -> tuple[int, ...]:
    """The extent of a tile along each axis: as asked for, a number or one for each axis, or where
    that is ``auto``, what fits and pays.
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
    halo = max(method.halo for method in draft.methods)
    fitting = [
        s for s in SIZES[len(shape)] if _most(draft, (s,) * len(shape)) <= draft.memory / 2
    ] or [SIZES[len(shape)][-1]]
    worth = [s for s in fitting if s >= max(LEAST[len(shape)], WORTH * halo)] or fitting[:1]
    busy = [s for s in worth if len(Grid(shape, (s,) * len(shape))) >= ENOUGH * workers]
    size = max(busy, default=min(worth))
    return tuple(
        min(_whole_chunks(size, chunk), n)
        for n, chunk in zip(shape, draft.source.frame.chunks, strict=True)
    )


def refuse_too_many(grid: Grid) -> None:
    """JobError if there are more tiles than one process can keep in mind."""
    if len(grid) > MOST:
        size, extent = (" x ".join(map(str, numbers)) for numbers in (grid.tile, grid.shape))
        raise JobError(
            f"tiles.size: {size}; an image that declares {extent} pixels has {len(grid):,} such "
            f"tiles; allowed: up to {MOST:,}, so larger "
            "tiles, if that is the image's size"
        )


def _whole_chunks(size: int, chunk: int) -> int:
    """About ``size``, in whole chunks of the source where that is possible: a chunk that two tiles
    share is decoded twice.
    """
    return size // chunk * chunk if chunk <= size else size


def takes(run: Run, method: Method, tile: Sequence[int]) -> dict[str, int]:
    """What a tile of this size takes of memory within the image, in bytes, by what it goes to."""
    return run.takes(
        method,
        math.prod(
            min(n, size + 2 * method.halo) for n, size in zip(run.grid.shape, tile, strict=True)
        ),
    )


def _most(run: Run, tile: Sequence[int]) -> int:
    return max(sum(takes(run, method, tile).values()) for method in run.methods)


def refuse_far_sight(methods: Sequence[Method], steps: Sequence[Step], most: int) -> None:
    """JobError if a segmenter, after the steps, looks further than a tile may read."""
    for method in methods:
        reach = method.contract.reach + sum(step.reach for step in steps)
        if reach > most:
            raise JobError(
                f"segmenters.{method.name}: with the steps before it, it looks {reach} pixels "
                f"far, and a tile may read {most} beyond its "
                "core; allowed: smaller windows, sigmas and radii, or a larger tiles.max_halo"
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
                f"and a halo of {method.halo} pixels take "
                f"about {sum(terms.values()) / 1e6:.0f} MB ({told}), and a task may use "
                f"{run.memory / 1e6:.0f}; "
                "allowed: smaller tiles, a smaller halo, or workers with more memory"
            )
