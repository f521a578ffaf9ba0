"""The lattice of patches on which a network detects objects.

All patches have one size and begin at multiples of their step, except the last one along an axis,
which ends with the image. So every window that contains a patch shows the same pixels in it. Each
patch owns a cell. The cells cover the image once, and an object belongs to the patch of the cell
that contains its centre. A patch has a margin around its cell, so an object shorter than two
margins lies wholly in its patch. If a patch's border cuts such an object, the centre of the
remaining part lies outside the patch's cell.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.image.grid import Box


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell and its patch, in pixels of the image."""

    place: tuple[int, ...]
    """The number of the cell along each axis, from 0."""

    patch: Box
    """The pixels that the network gets."""

    box: Box
    """The cell."""


@dataclass(frozen=True, slots=True)
class Lattice:
    """The division of an image into patches."""

    extent: int
    """Rows and columns of a patch; fewer where the image has fewer."""

    margin: int
    """Pixels of a patch around its cell, unless the image ends."""

    @property
    def longest(self) -> int:
        """Rows and columns of the largest object that always lies wholly in its patch."""
        return 2 * self.margin - 1

    def sight(self, steps: int) -> int:
        """Compute the margin that a window needs around a pixel to detect as in the whole image.

        An object that covers the pixel may depend on objects that overlap it, those on others, and
        so on. No object is longer than ``longest``. The last one lies within ``steps`` lengths, and
        its centre at most half a length further. From there it is less than ``extent`` to the end
        of its patch, and less than ``extent`` more to the end of a lattice that ended with the
        window.

        Parameters
        ----------
        steps : int
            The number of steps of dependence.

        Returns
        -------
        int
            The margin in pixels.
        """
        return steps * (self.longest - 1) + self.longest // 2 + self.extent

    def cells(self, window: Box) -> Iterator[Cell]:
        """Yield the cells, row by row, with patches inside a window.

        The end of the window is treated as the end of the image.
        """
        along = [
            self._along(start, stop) for start, stop in zip(window.start, window.stop, strict=True)
        ]
        for cell in itertools.product(*along):
            numbers, starts, stops, firsts, lasts = zip(*cell, strict=True)
            yield Cell(numbers, Box(starts, stops), Box(firsts, lasts))

    def _along(self, start: int, stop: int) -> Sequence[tuple[int, int, int, int, int]]:
        """Per cell along an axis: number, the patch's start and stop, the cell's start and stop."""
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
