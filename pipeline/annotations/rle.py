"""Masks as COCO writes them: the lengths of runs down the columns, of pixels that are not of the
mask and of such that are, in turn.

Never unpacked to a whole image: a mask is held as its stretches of columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.image.grid import Box

Integers = npt.NDArray[np.int64]
MOST_DIGITS = 12
"""Characters of one number in a compressed string: 60 bits."""


@dataclass(frozen=True, slots=True, eq=False)
class Runs:
    """A mask: its stretches of columns, column after column."""

    column: Integers
    """(n,) ascending."""

    low: Integers
    """(n,) the first row of each stretch."""

    high: Integers
    """(n,) one past its last row."""

    def within(self, box: Box) -> npt.NDArray[np.bool_]:
        """The mask in a box of the image."""
        top, left = box.start
        bottom, right = box.stop
        mine = slice(*np.searchsorted(self.column, [left, right]).tolist())
        low = np.maximum(self.low[mine], top) - top
        high = np.minimum(self.high[mine], bottom) - top
        meets = low < high
        column = self.column[mine] - left
        change = np.zeros((box.shape[0] + 1, box.shape[1]), np.int8)
        np.add.at(change, (low[meets], column[meets]), 1)
        np.add.at(change, (high[meets], column[meets]), -1)
        return np.asarray(np.cumsum(change[:-1], axis=0, dtype=np.int8) > 0)


def runs(counts: Sequence[int] | str, size: Sequence[int]) -> Runs:
    """Read a mask.

    Parameters
    ----------
    counts
        The lengths, the first of pixels that are not of the mask; or the string that pycocotools
        packs them into.
    size
        (rows, columns) of the image.

    Raises
    ------
    ValueError
        If these are no lengths, or do not add up to the image.

    Examples
    --------
    >>> runs([1, 2, 3], (2, 3)).within(Box((0, 0), (2, 3))).astype(int)
    array([[0, 1, 0],
           [1, 0, 0]])
    """
    rows, columns = size
    if rows < 1 or columns < 1:
        raise ValueError(f"a mask of {rows} x {columns} pixels; allowed: at least one")
    length = np.array(unpacked(counts) if isinstance(counts, str) else _whole(counts), np.int64)
    if (length < 0).any() or length.sum() != rows * columns:
        raise ValueError(
            f"the runs of a mask add up to {length.sum()} pixels; allowed: none below 0, and in "
            f"all {rows} x {columns}"
        )
    ends = np.cumsum(length)
    start = (ends - length)[1::2]
    stop = ends[1::2]
    start, stop = start[start < stop], stop[start < stop]
    first = start // rows
    last = (stop - 1) // rows
    number = last - first + 1
    nth = np.arange(number.sum()) - np.repeat(np.cumsum(number) - number, number)
    column = np.repeat(first, number) + nth
    low = np.maximum(np.repeat(start, number) - column * rows, 0)
    return Runs(column, low, np.minimum(np.repeat(stop, number) - column * rows, rows))


def unpacked(text: str) -> list[int]:
    """The lengths in a string: each in digits of five bits, the lowest first, the sixth bit saying
    that more follow; from the fourth on, the difference to the last but one. ValueError where it is
    none.

    References
    ----------
    P. Dollár, T.-Y. Lin (2014), COCO API, ``maskApi.c``, ``rleFrString``.
    """
    found: list[int] = []
    value = digits = 0
    for character in text:
        digit = ord(character) - ord("0")
        if not 0 <= digit < 64 or digits == MOST_DIGITS:
            raise ValueError(
                f"the runs {text[:20]!r} are no packed lengths at {character!r}; allowed: what "
                f"pycocotools writes"
            )
        value |= (digit & 31) << (5 * digits)
        digits += 1
        if not digit & 32:
            value -= (digit & 16) << (5 * digits - 4)  # the highest bit is the sign
            found.append(value + (found[-2] if len(found) > 2 else 0))
            value = digits = 0
    if digits:
        raise ValueError(
            f"the runs {text[:20]!r} end within a number; the file may have been cut short"
        )
    return found


def _whole(counts: Any) -> list[int]:
    if not isinstance(counts, (list, tuple)) or not all(
        isinstance(n, int) and not isinstance(n, bool) for n in counts
    ):
        raise ValueError(
            f"the runs of a mask are {str(counts)[:40]}; allowed: a list of whole numbers, or a "
            f"string"
        )
    return list(counts)
