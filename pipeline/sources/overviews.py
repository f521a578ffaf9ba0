"""Glances from a coarser level of a pyramid, whose levels need not be whole multiples of each
other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.image.grid import Box


def coarsest(shapes: Sequence[tuple[int, ...]], level: int, step: int) -> int:
    """The last of the levels, given by their shapes, of which a pixel is no wider than ``step``
    pixels of one of them.
    """
    for other in range(len(shapes) - 1, level, -1):
        ratio = [a / b for a, b in zip(shapes[level][-2:], shapes[other][-2:], strict=True)]
        if len(shapes[other]) == len(shapes[level]) and min(ratio) > 1 and max(ratio) <= step:
            return other
    return level


def around(
    box: Box, step: int, fine: tuple[int, ...], coarse: tuple[int, ...]
) -> tuple[Box, tuple[Any, ...]]:
    """What of a coarse level holds every ``step``-th pixel of a box of a fine one, and which of its
    rows and columns these are.
    """
    wanted = [np.arange(a, b, step) for a, b in zip(box.start, box.stop, strict=True)]
    for axis in (-2, -1):
        wanted[axis] = np.minimum(
            ((wanted[axis] + 0.5) * coarse[axis] / fine[axis]).astype(int), coarse[axis] - 1
        )
    held = Box(tuple(int(at[0]) for at in wanted), tuple(int(at[-1]) + 1 for at in wanted))
    return held, np.ix_(*(at - at[0] for at in wanted))
