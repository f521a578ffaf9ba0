"""A sample of an image's pixels that does not depend on how the image is tiled.

Every pixel has a rank, a fixed scrambling of its number in the image; the sample is the valid
pixels of the lowest ranks. Of an image of many squares only so many are looked at as the sample
needs, and which those are is a scrambling of their numbers likewise. So a sample of a gigantic
image costs no more than one of a large image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.image.grid import Box, Grid

SQUARE = {2: 256, 3: 32}
"""The extent of a square (a cube) in pixels."""
AT_ONCE = 1024
"""Squares that are looked at before asking whether they were enough."""
HIGHEST = (1 << 64) - 1
"""The highest rank there is."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Some pixels of an image, by ascending place."""

    places: npt.NDArray[np.int64]
    """(n,) each pixel's number in raster order of the image."""

    rows: npt.NDArray[np.float64]
    """(n, feature) its features."""


NOTHING = Sample(np.zeros(0, np.int64), np.zeros((0, 0)))
"""Of no pixel."""


def rank(numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """The numbers scrambled, no two alike (the finaliser of SplitMix64)."""
    mixed = numbers.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)))


def pick(
    features: npt.NDArray[Any],
    valid: npt.NDArray[np.bool_],
    box: Box,
    shape: Sequence[int],
    size: int,
    highest: int = HIGHEST,
) -> Sample:
    """The ``size`` valid pixels of the lowest ranks in a box, or those of them whose rank is not
    above ``highest``.

    Parameters
    ----------
    features
        (feature, row, column) or (feature, plane, row, column) of the box; a pixel where one is not
        finite is left out.
    valid
        Which of the box's pixels are valid.
    box
        Where it lies in the image.
    shape
        The image's shape.
    size
        How many pixels are wanted; fewer come where there are not so many.
    highest
        The highest rank that still counts, where so many pixels of lower ranks are known already.
    """
    axes = np.ix_(
        *(np.arange(first, last) for first, last in zip(box.start, box.stop, strict=True))
    )
    everywhere = np.ravel_multi_index(axes, tuple(shape)).astype(np.int64)
    wanted = valid & np.isfinite(features).all(axis=0)
    if highest < HIGHEST:
        wanted &= rank(everywhere) <= np.uint64(highest)
    return _lowest(
        Sample(
            everywhere[wanted],
            np.stack([feature[wanted] for feature in features], axis=1).astype(np.float64),
        ),
        size,
    )


def picked(parts: Iterable[Callable[[int], Sample]], size: int) -> Sample:
    """The ``size`` pixels of the lowest ranks of several parts, each of which is told the highest
    rank that still counts.
    """
    found = []
    highest = HIGHEST
    for part in parts:
        found.append(part(highest))
        if sum(len(some.places) for some in found) >= (1 if highest == HIGHEST else 2) * size:
            found = [merge(found, size)]
            highest = int(rank(found[0].places).max())
    return merge(found, size)


def merge(samples: Iterable[Sample], size: int) -> Sample:
    """The ``size`` pixels of the lowest ranks of several samples of different pixels."""
    parts = [part for part in samples if len(part.places)] or [NOTHING]
    return _lowest(
        Sample(
            np.concatenate([part.places for part in parts]),
            np.concatenate([part.rows for part in parts]),
        ),
        size,
    )


def collect(shape: Sequence[int], size: int, gather: Callable[[list[Box]], Sample]) -> Sample:
    """The sample of an image, where ``gather`` gives that of some squares of it."""
    total: Sample | None = None
    for boxes in _squares(tuple(shape)):
        found = gather(boxes)
        total = found if total is None else merge([total, found], size)
        if len(total.places) >= size:
            break
    assert total is not None  # noqa: S101  an image has a square
    return total


def _squares(shape: tuple[int, ...]) -> Iterator[list[Box]]:
    grid = Grid(shape, (SQUARE[len(shape)],) * len(shape))
    order = np.argsort(rank(np.arange(len(grid))))
    for first in range(0, len(order), AT_ONCE):
        yield [grid.core(number) for number in np.sort(order[first : first + AT_ONCE]).tolist()]


def _lowest(sample: Sample, size: int) -> Sample:
    """Those of the lowest ranks, by ascending place."""
    chosen = np.arange(len(sample.places))
    if len(chosen) > size:
        chosen = np.argpartition(rank(sample.places), size)[:size]
    if (np.diff(sample.places[chosen]) < 0).any():
        chosen = chosen[np.argsort(sample.places[chosen])]
    return Sample(sample.places[chosen], sample.rows[chosen])
