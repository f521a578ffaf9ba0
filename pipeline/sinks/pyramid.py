"""Labels as an OME-Zarr pyramid, 0.5 (Zarr format 3) or 0.4 (format 2), written by many processes,
each chunk or shard by one task.

Level 0 is the labels; every further level takes each second row and column of the one before, so
that an id is never averaged. What is written at once also fills the further levels of which it
covers whole chunks; the others are made when these are there. A chunk ends in a checksum of its
bytes: without it most flipped bits in a compressed chunk read as other labels. A chunk that is
*absent* reads as background, which is also how empty chunks are stored: whoever calls keeps the
record of what is written.

Measured on two cores with 2048 × 2048 labels of blobs 5 to 20 pixels wide, chunks of 512: plain
zstd takes 6 to 25 ms to encode as uint32 and 8 to 37 ms as uint64; a whole write, with checksums
and 16 files, 40 to 120 ms. Byte or bit shuffling before it, which Blosc offers, takes longer and
makes chunks up to 2.5 times larger, since ids repeat as whole numbers. Level 3 is as fast as 1,
which can double uint64.

References
----------
OME-Zarr 0.4 and 0.5, https://ngff.openmicroscopy.org.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from pipeline.errors import JobError
from pipeline.image.frame import Frame
from pipeline.image.grid import Box, Grid
from pipeline.image.legend import Entry
from pipeline.sinks.chunked import Array
from pipeline.sinks.multiscales import AXES, FORMATS, described, space_of, spatial
from pipeline.storage.ome_image import Home, Version

DTYPES = ("uint8", "uint16", "uint32", "uint64")
LONGEST = 512
"""The pyramid ends at the first level that is no longer than this."""
ACROSS = 2048
"""About how many rows and columns one task makes of a level."""


@dataclass(frozen=True, slots=True)
class Pyramid:
    """The labels of an image at full and at lower resolutions.

    ``create`` comes first and once; then any process may write level 0. A level can be made by
    ``reduce`` when the one before is whole.
    """

    path: str
    """The group's folder."""

    frame: Frame
    """The image that the labels are of."""

    chunk: tuple[int, ...]
    """The extent of a chunk, (row, column) or (plane, row, column)."""

    dtype: str
    """The type of the ids, uint32 or uint64, or of the classes, uint8 or uint16."""

    fill: int = 0
    """What the pixels hold that nobody wrote: background, or for classes the value that means "not
    measured".
    """

    legend: Mapping[int, Entry] | None = None
    """For classes: their names and colours."""

    tile: tuple[int, ...] | None = None
    """The extent of what is written at once, a whole number of chunks, or shards; None: one."""

    shard: tuple[int, ...] | None = None
    """The extent of a shard, whole chunks that lie in one file; None: each chunk is a file."""

    version: Version = "0.5"
    """OME-Zarr's."""

    home: Home | None = None
    """The image that the labels will lie in, with whose axes and levels they agree; None: they lie
    by themselves.
    """

    marks: Mapping[str, Any] = field(default_factory=dict)
    """Further attributes of the group, which JSON can hold."""

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise JobError(
                f"labels cannot be written as {self.dtype}; allowed: {', '.join(DTYPES)}"
            )
        if len(self.chunk) != self.frame.ndim or min(self.chunk) < 1:
            raise JobError(
                f"chunks of {self.chunk} do not fit an image of {self.frame.shape}; give one "
                f"positive extent per axis"
            )
        if self.shard is not None and (
            self.version == "0.4" or any(s % c for s, c in zip(self.shard, self.chunk, strict=True))
        ):
            raise JobError(
                f"shards of {self.shard}; allowed: whole chunks of {self.chunk}, in OME-Zarr 0.5"
            )

    @property
    def levels(self) -> int:
        """How many levels there are: rows and columns are halved until neither is longer than
        LONGEST; planes stay. In an image as many as that has.
        """
        if self.home is not None:
            return self.home.levels
        return 1 + (-(-max(self.frame.shape[-2:]) // LONGEST) - 1).bit_length()

    @property
    def direct(self) -> int:
        """How many levels ``write`` fills: those of which each tile covers whole chunks,
        or shards.
        """
        halvings = [
            0 if n % size else (n // size & -(n // size)).bit_length() - 1
            for n, size in self._rows_and_columns
        ]
        return min(self.levels, 1 + min(halvings))

    @property
    def _rows_and_columns(self) -> list[tuple[int, int]]:
        """Of a tile and of a chunk or shard; a tile that holds the whole image covers whole ones of
        any level.
        """
        whole = self._level(0).unit[-2:]
        tile = self._level(0).unit if self.tile is None else self.tile
        return [
            (c << self.levels if t >= n else t, c)
            for t, c, n in zip(tile[-2:], whole, self.frame.shape[-2:], strict=True)
        ]

    def shape(self, level: int) -> tuple[int, ...]:
        """The extent of a level in its own pixels."""
        return self._within(self.frame.shape, level)

    def create(self) -> None:
        """Write the metadata of the group and of every level, no labels. Called again, it keeps the
        labels that are there.

        Raises
        ------
        OutputError
            Where the path holds the arrays of another image.
        """
        import zarr

        group = zarr.open_group(self.path, mode="a", zarr_format=self._level(0).zarr_format)
        space, source = (
            (space_of(self.frame), None) if self.home is None else (self.home.space, "../../")
        )
        told = described(space, self.levels, self.version, self.legend, source)
        group.update_attributes({**told, **spatial(self.frame, 0), **self.marks})
        for level in range(self.levels):
            self._level(level).create(spatial(self.frame, level), AXES[-self.frame.ndim :])

    def write(self, box: Box, labels: npt.NDArray[Any]) -> None:
        """Write labels of full resolution, (row, column) or (plane, row, column), in whole tiles,
        and what the levels above take of them.

        Raises
        ------
        ValueError
            Where the box cuts a chunk or a shard or leaves the image, or ``labels`` are not of its
            shape or not safely of the pyramid's type.
        """
        for level in range(self.direct):
            reduced = Box(self._within(box.start, level), self._within(box.stop, level))
            self._level(level).write(reduced, labels[..., :: 1 << level, :: 1 << level])

    def blocks(self, level: int) -> list[Box]:
        """Boxes of whole chunks, or shards, some ACROSS pixels across, that cover the level once:
        what one task each should ``reduce``.
        """
        unit = self._level(level).unit
        grid = Grid(
            self.shape(level), (*unit[:-2], *(max(1, ACROSS // size) * size for size in unit[-2:]))
        )
        return [grid.core(tile) for tile in range(len(grid))]

    def reduce(self, level: int, box: Box) -> None:
        """Make a box of a level, given in its own pixels and of whole chunks, or shards, from the
        level before, which must be whole there.

        Raises
        ------
        ValueError
            Where ``level`` is 0 or the box is not of whole chunks, or shards, of the level.
        ScratchError
            Where what is read is damaged.
        """
        if not 1 <= level < self.levels:
            raise ValueError(
                f"level {level} cannot be made; allowed: 1 to {self.levels - 1}, the levels "
                f"below full resolution"
            )
        fine = Box(
            (*box.start[:-2], *(2 * a for a in box.start[-2:])),
            (*box.stop[:-2], *(2 * b for b in box.stop[-2:])),
        )
        within = fine & Box.whole(self.shape(level - 1))
        self._level(level).write(
            box, self._level(level - 1).read(within, (*(1 for _ in self.chunk[:-2]), 2, 2))
        )

    def read(self, box: Box, level: int = 0) -> npt.NDArray[Any]:
        """The labels in a box of a level, in its own pixels.

        Raises
        ------
        ValueError
            Where the box leaves the level.
        ScratchError
            Where a chunk's bytes are not those that were written.
        """
        return self._level(level).read(box)

    def _within(self, place: tuple[int, ...], level: int) -> tuple[int, ...]:
        """A corner of full resolution in a level's own pixels."""
        return (*place[:-2], *((n + (1 << level) - 1) >> level for n in place[-2:]))

    def _level(self, level: int) -> Array:
        return Array(
            f"{self.path}/{level}",
            self.shape(level),
            self.chunk,
            self.dtype,
            self.fill,
            self.shard,
            FORMATS[self.version],
        )
