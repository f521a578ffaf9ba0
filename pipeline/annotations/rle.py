"""Run-length encoded masks of COCO: alternating lengths outside and inside the mask, column by
column.

A mask is held as vertical runs, and never unpacked to a whole image.
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
class RunLengths:
    """A mask as vertical runs, column after column."""

    column: Integers
    """(n,) the column of each run, ascending."""

    low: Integers
    """(n,) the first row of each run."""

    high: Integers
    """(n,) one past its last row."""

    def within(self, box: Box) -> npt.NDArray[np.bool_]:
        """The mask in a box of the image, bool."""
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


def runs(counts: Sequence[int] | str, size: Sequence[int]) -> RunLengths:
    """Read a mask.

    Parameters
    ----------
    counts : sequence of int or str
        The lengths, beginning outside the mask; or the string that pycocotools packs them into.
    size : sequence of int
        Rows and columns of the image.

    Returns
    -------
    Runs
        The mask.

    Raises
    ------
    ValueError
        These are not lengths, or they do not add up to the image.

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
    return RunLengths(column, low, np.minimum(np.repeat(stop, number) - column * rows, rows))


def unpacked(text: str) -> list[int]:
    """Unpack the lengths in a compressed string.

    Each length is in digits of five bits, the lowest first, with a sixth bit if more follow; from
    the fourth on, it is the difference to the last but one.

    Raises
    ------
    ValueError
        The string is damaged.

    References
    ----------
    .. [1] P. Dollár, T.-Y. Lin (2014), COCO API, ``maskApi.c``, ``rleFrString``.
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
