"""A random sample of an image's pixels that does not depend on the tiling.

Every pixel has a rank, a hash of its flat index in the image; the sample is the valid pixels of the
lowest ranks. In a large image, only as many squares are read as the sample needs, in an order given
by a hash of their numbers. So a sample of a gigantic image costs no more than one of a large image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.image.grid import Box, Grid

SQUARE = {2: 256, 3: 32}
"""Width of a square (a cube) in pixels, by the number of dimensions."""
AT_ONCE = 1024
"""Squares that are read before asking whether they are enough."""
HIGHEST = (1 << 64) - 1
"""The highest rank there is."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Some pixels of an image, by ascending position."""

    places: npt.NDArray[np.int64]
    """(n,) the flat index of each pixel in the image."""

    rows: npt.NDArray[np.float64]
    """(n, feature) its features."""


NOTHING = Sample(np.zeros(0, np.int64), np.zeros((0, 0)))
"""A sample without pixels."""


def rank(numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """Hash numbers without collisions (the finaliser of SplitMix64)."""
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
    """Take the valid pixels of the lowest ranks in a box.

    Parameters
    ----------
    features : ndarray, (feature, row, column) or (feature, plane, row, column)
        The features in the box; pixels with a value that is not finite are left out.
    valid : bool ndarray
        The box's valid pixels.
    box : Box
        The position of the box in the image.
    shape : sequence of int
        The image's shape.
    size : int
        How many pixels are wanted.
    highest : int, optional
        The highest rank that still counts, once enough pixels of lower ranks are known.

    Returns
    -------
    Sample
        At most ``size`` pixels.
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
    """Take the ``size`` pixels of the lowest ranks of several parts.

    Each part is called with the highest rank that still counts.
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
    """Take the ``size`` pixels of the lowest ranks of several disjoint samples."""
    parts = [part for part in samples if len(part.places)] or [NOTHING]
    return _lowest(
        Sample(
            np.concatenate([part.places for part in parts]),
            np.concatenate([part.rows for part in parts]),
        ),
        size,
    )


def collect(shape: Sequence[int], size: int, gather: Callable[[list[Box]], Sample]) -> Sample:
    """Sample an image, square by square until there are enough pixels.

    Parameters
    ----------
    shape : sequence of int
        The image's shape.
    size : int
        How many pixels are wanted.
    gather : callable
        From some squares of the image to their sample.

    Returns
    -------
    Sample
        The sample of the image.
    """
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
    """The pixels of the lowest ranks, by ascending position."""
    chosen = np.arange(len(sample.places))
    if len(chosen) > size:
        chosen = np.argpartition(rank(sample.places), size)[:size]
    if (np.diff(sample.places[chosen]) < 0).any():
        chosen = chosen[np.argsort(sample.places[chosen])]
    return Sample(sample.places[chosen], sample.rows[chosen])
