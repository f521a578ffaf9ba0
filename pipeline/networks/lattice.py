"""The lattice of patches on which a network finds objects one by one.

All patches are of one size and begin at whole multiples of their step, but the last one along an
axis, which ends with the image; so a patch shows the same wherever a window that holds it begins.
Each owns a cell: the cells cover the image once, and an object is the patch's in whose cell its
centre lies. Around its cell a patch has a margin, so an object shorter than two margins lies whole
in the patch that owns it, and what a patch's border leaves of one, if it is shorter than that, has
its centre outside of the patch's cell.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.image.grid import Box


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell, and the patch that finds what has its centre there; in pixels of the image."""

    place: tuple[int, ...]
    """The number of the cell along each axis, from 0."""

    patch: Box
    """What the network is given."""

    box: Box
    """The cell itself."""


@dataclass(frozen=True, slots=True)
class Lattice:
    """How the image is cut into patches."""

    extent: int
    """Rows and columns of a patch; fewer where the image has fewer."""

    margin: int
    """Pixels of a patch around its cell, where the image goes on there."""

    @property
    def longest(self) -> int:
        """Rows and columns of the largest object that lies whole in the patch that owns it,
        wherever it is.
        """
        return 2 * self.margin - 1

    def sight(self, steps: int) -> int:
        """How many pixels beyond a pixel a window must go on for all to be found there as in the
        whole image.

        Of an object that covers the pixel, what is found may depend on objects that overlap it, on
        what overlaps those, and so on for ``steps`` steps. None is longer than ``longest``: the
        last lies within ``steps`` lengths, and its centre half a length further at most; from there
        it is less than ``extent`` to the end of the patch that owns it, and less than that to where
        a window that ended there would end its lattice.
        """
        return steps * (self.longest - 1) + self.longest // 2 + self.extent

    def cells(self, window: Box) -> Iterator[Cell]:
        """The cells, row by row, whose patches lie within a window. What ends with the window is
        taken to end with the image.
        """
        along = [
            self._along(start, stop) for start, stop in zip(window.start, window.stop, strict=True)
        ]
        for cell in itertools.product(*along):
            numbers, starts, stops, firsts, lasts = zip(*cell, strict=True)
            yield Cell(numbers, Box(starts, stops), Box(firsts, lasts))

    def _along(self, start: int, stop: int) -> Sequence[tuple[int, int, int, int, int]]:
        """Of the cells along an axis: number, the patch's start and stop, the cell's first pixel
        and the one after its last.
        """
        step = self.extent - 2 * self.margin
        last = max(0, -(-(stop - self.extent) // step))
        found = []
        for k in range(-(-start // step), last + 1):
            begin = max(0, min(k * step, stop - self.extent))
            if begin >= start:
                first = k * step + self.margin if k else 0
                after = (k + 1) * step + self.margin
                found.append(
                    (k, begin, min(begin + self.extent, stop), first, after if k < last else stop)
                )
        return found
