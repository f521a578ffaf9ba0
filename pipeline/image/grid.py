"""Integer regions, and the grid of tiles. Nothing here knows values, coordinates or Dask.

A tile is identified by its number in raster order. Its *core* is the region that it owns: the cores
cover each pixel of the image once. Its *window* is the core and a halo around it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Box:
    """A half-open region of pixels, in 2 or 3 dimensions; it may be empty.

    >>> Box((0, 0), (4, 6)) & Box((2, 3), (9, 9))
    Box(start=(2, 3), stop=(4, 6))
    """

    start: tuple[int, ...]
    """First pixel along each axis."""

    stop: tuple[int, ...]
    """One past the last pixel along each axis."""

    def __post_init__(self) -> None:
        if len(self.start) != len(self.stop):
            raise ValueError(
                f"a box has one start and one stop per axis, not {self.start} and {self.stop}"
            )

    @classmethod
    def whole(cls, shape: Sequence[int]) -> Box:
        """The region of an image of this shape."""
        return cls((0,) * len(shape), tuple(shape))

    @property
    def shape(self) -> tuple[int, ...]:
        """The extent along each axis, at least 0."""
        return tuple(max(0, b - a) for a, b in zip(self.start, self.stop, strict=True))

    @property
    def size(self) -> int:
        """The number of pixels."""
        return math.prod(self.shape)

    def __and__(self, other: Box) -> Box:
        start = tuple(map(max, self.start, other.start))
        return Box(start, tuple(map(max, start, map(min, self.stop, other.stop))))

    def __contains__(self, other: Box) -> bool:
        return all(a <= c for a, c in zip(self.start, other.start, strict=True)) and all(
            d <= b for b, d in zip(self.stop, other.stop, strict=True)
        )

    def grow(self, by: int) -> Box:
        """The box with ``by`` more pixels on every side; fewer where ``by`` is negative."""
        return Box(tuple(a - by for a in self.start), tuple(b + by for b in self.stop))

    def within(self, outer: Box) -> tuple[slice, ...]:
        """This box as slices into an array that holds ``outer``; ValueError unless it is a part of
        that.
        """
        if self not in outer:
            raise ValueError(f"{self} does not lie in {outer}")
        return tuple(
            slice(a - origin, b - origin)
            for a, b, origin in zip(self.start, self.stop, outer.start, strict=True)
        )

    @property
    def slices(self) -> tuple[slice, ...]:
        """This box as slices into the whole image."""
        return tuple(slice(a, b) for a, b in zip(self.start, self.stop, strict=True))


@dataclass(frozen=True, slots=True)
class Grid:
    """An image cut into tiles of one size; the last ones along an axis may be smaller.

    >>> grid = Grid((10, 7), (4, 4))
    >>> grid.counts, len(grid), grid.core(5)
    ((3, 2), 6, Box(start=(8, 4), stop=(10, 7)))
    """

    shape: tuple[int, ...]
    """The image's extent in pixels along each axis."""

    tile: tuple[int, ...]
    """The extent of a core along each axis."""

    def __post_init__(self) -> None:
        if len(self.shape) != len(self.tile) or min(self.tile) < 1:
            raise ValueError(
                f"a tile has at least one pixel along each of the image's axes, not {self.tile} "
                f"in {self.shape}"
            )

    @property
    def counts(self) -> tuple[int, ...]:
        """The number of tiles along each axis."""
        return tuple(-(-n // t) for n, t in zip(self.shape, self.tile, strict=True))

    def __len__(self) -> int:
        return math.prod(self.counts)

    @property
    def whole(self) -> Box:
        """The region of the image."""
        return Box.whole(self.shape)

    def position(self, tile: int) -> tuple[int, ...]:
        """The tile's place in the grid, along each axis."""
        if not 0 <= tile < len(self):
            raise IndexError(
                f"there is no tile {tile}; they are numbered from 0 to {len(self) - 1}"
            )
        place = []
        for count in reversed(self.counts):
            tile, remainder = divmod(tile, count)
            place.append(remainder)
        return tuple(reversed(place))

    def number(self, position: Sequence[int]) -> int:
        """The tile at a place in the grid."""
        tile = 0
        for at, count in zip(position, self.counts, strict=True):
            tile = tile * count + at
        return tile

    def core(self, tile: int) -> Box:
        """What the tile owns."""
        start = tuple(at * size for at, size in zip(self.position(tile), self.tile, strict=True))
        return (
            Box(start, tuple(a + size for a, size in zip(start, self.tile, strict=True)))
            & self.whole
        )

    def window(self, tile: int, halo: int) -> Box:
        """The tile's core grown by ``halo``, clipped to the image."""
        return self.core(tile).grow(halo) & self.whole

    def neighbours(self, tile: int, *, forward: bool = False) -> Iterator[int]:
        """The tiles whose cores touch this one's in a face, an edge or a corner; with ``forward``
        only those of a higher number.
        """
        at = self.position(tile)
        for step in itertools.product((-1, 0, 1), repeat=len(at)):
            there = tuple(a + s for a, s in zip(at, step, strict=True))
            asked = step > (0,) * len(at) or (any(step) and not forward)
            if asked and all(0 <= a < n for a, n in zip(there, self.counts, strict=True)):
                yield self.number(there)

    def slabs(self) -> Iterator[range]:
        """The tiles of each layer along the first axis, in turn: a row of tiles in 2-D, a plane of
        tiles in 3-D.
        """
        per_slab = len(self) // self.counts[0]
        for slab in range(self.counts[0]):
            yield range(slab * per_slab, (slab + 1) * per_slab)

    def name(self, tile: int) -> str:
        """The tile as messages call it.

        >>> Grid((10, 7), (4, 4)).name(5)
        'tile (2, 1)'
        """
        return f"tile ({', '.join(map(str, self.position(tile)))})"


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a box in an image."""

    axis: int
    high: bool
    """Whether it is the side at the end of the axis, and not at its begin."""
    face: tuple[slice, ...]
    """The outermost layer of pixels on this side, as slices into an array that holds the box."""
    open: bool
    """Whether the image continues beyond it."""


def sides(box: Box, image: Box) -> list[Side]:
    """The four sides of a rectangle, or the six of a cuboid."""
    found = []
    for axis, high in itertools.product(range(len(box.start)), (False, True)):
        face = [slice(None)] * len(box.start)
        face[axis] = slice(-1, None) if high else slice(0, 1)
        going_on = (
            box.stop[axis] < image.stop[axis] if high else box.start[axis] > image.start[axis]
        )
        found.append(Side(axis, high, tuple(face), going_on))
    return found
