"""Numbered pixels given to a segmenter: seeds or markers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import JobError
from pipeline.image.grid import Box


@dataclass(frozen=True, slots=True)
class Points:
    """Numbered points in an image: seeds or markers."""

    places: tuple[tuple[float, ...], ...]
    """Each (row, column) or (plane, row, column), in pixels of the image."""

    numbers: tuple[int, ...]
    """The number of each point, from 1."""

    @classmethod
    def of(cls, given: Any, ndim: int) -> Points:
        """Build points from a list of positions, all with a number or numbered 1, 2, …

        JobError for anything else.
        """
        rows = [tuple(row) if isinstance(row, (list, tuple)) else (row,) for row in given]
        extra = {len(row) - ndim for row in rows}
        numeric = all(
            isinstance(number, (int, float)) and math.isfinite(number)
            for row in rows
            for number in row
        )
        if not numeric or extra not in ({0}, {1}):
            raise JobError(
                f"{given!r}; allowed: at least one place of {ndim} numbers, each followed by its "
                f"class (from 1) or none of them"
            )
        numbers = (
            tuple(row[ndim] for row in rows) if extra == {1} else tuple(range(1, len(rows) + 1))
        )
        if not all(isinstance(number, int) and number >= 1 for number in numbers):
            raise JobError(f"{given!r}; allowed: classes that are whole numbers from 1")
        return cls(tuple(row[:ndim] for row in rows), numbers)

    def read(self, box: Box) -> npt.NDArray[np.int64]:
        """The numbers in a box; 0 for none, and of several points in a pixel the last."""
        found = np.zeros(box.shape, np.int64)
        places, numbers = self._within(box)
        found[tuple((places - box.start).T)] = numbers
        return found

    def any_in(self, box: Box) -> bool:
        """Whether a point lies in a box."""
        return len(self._within(box)[1]) > 0

    def _within(self, box: Box) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The points in a box and their numbers."""
        places = np.array(self.places).astype(np.int64)
        numbers = np.array(self.numbers, np.int64)
        inside = ((places >= box.start) & (places < box.stop)).all(axis=1)
        return places[inside], numbers[inside]

    def fingerprint(self) -> Any:
        """A JSON value that changes with the points."""
        return [list(self.places), list(self.numbers)]


def given_in(
    what: Any, shape: tuple[int, ...], origin: tuple[int, ...] | None = None
) -> npt.NDArray[np.int64]:
    """Read the seed numbers of a block's pixels.

    Parameters
    ----------
    what : list or Companion
        Points, or what `rasters_and_shapes` opened.
    shape : sequence of int
        The block's shape.
    origin : tuple of int or None
        The position of its first pixel in the image.

    Returns
    -------
    int64 ndarray of this shape
        Seed numbers; 0 for none.
    """
    given, box = _opened(what, shape, origin)
    found: npt.NDArray[np.int64] = given.read(box)
    return found


def any_given_in(what: Any, shape: tuple[int, ...], origin: tuple[int, ...] | None = None) -> bool:
    """Whether any seed may lie in a block."""
    given, box = _opened(what, shape, origin)
    return bool(given.any_in(box) if isinstance(given, Points) else given.read(box).any())


def _opened(what: Any, shape: tuple[int, ...], origin: tuple[int, ...] | None) -> tuple[Any, Box]:
    """Seeds as an object that can be read, and the block's box."""
    start = origin or (0,) * len(shape)
    box = Box(start, tuple(a + n for a, n in zip(start, shape, strict=True)))
    return what if hasattr(what, "read") else Points.of(what, len(shape)), box
