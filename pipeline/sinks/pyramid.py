"""Labels as an OME-Zarr pyramid that many processes write, one task per chunk or shard.

The version is 0.5 (Zarr format 3) or 0.4 (format 2). Level 0 holds the labels; each further level
takes every second row and column of the level before, so ids are never averaged. A write also fills
the further levels in which it covers whole chunks; the others are computed afterwards. Each chunk
ends in a checksum, because most flipped bits in a compressed chunk would decode to other labels. An
*absent* chunk reads as background, and empty chunks are stored as absent: callers record what is
written.

Measured on two cores with 2048 × 2048 labels of blobs 5 to 20 pixels wide, chunks of 512: plain
zstd takes 6 to 25 ms to encode as uint32 and 8 to 37 ms as uint64; a whole write, with checksums
and 16 files, 40 to 120 ms. Byte or bit shuffling before it, as Blosc offers, takes longer and makes
chunks up to 2.5 times larger, because ids repeat as whole integers. Level 3 is as fast as 1, which
can double the size of uint64.

References
----------
.. [1] OME-Zarr 0.4 and 0.5, https://ngff.openmicroscopy.org.
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
"""The pyramid ends at the first level with no side longer than this."""
ACROSS = 2048
"""Approximate rows and columns of a level that one task computes."""


@dataclass(frozen=True, slots=True)
class Pyramid:
    """Labels of an image at full and lower resolutions.

    ``create`` is called first and once; then any process may write level 0. A level can be computed
    by ``reduce`` when the level before is complete.
    """

    path: str
    """The group's folder."""

    frame: Frame
    """The image of the labels."""

    chunk: tuple[int, ...]
    """Shape of a chunk, (row, column) or (plane, row, column)."""

    dtype: str
    """uint32 or uint64 for ids, uint8 or uint16 for classes."""

    fill: int = 0
    """Value of pixels that are not written: background, or for classes "not measured"."""

    legend: Mapping[int, Entry] | None = None
    """For classes: their names and colours."""

    tile: tuple[int, ...] | None = None
    """Shape of what is written at once, whole chunks or shards; None: one of them."""

    shard: tuple[int, ...] | None = None
    """Shape of a shard, which packs whole chunks into a file; None: each chunk is a file."""

    version: Version = "0.5"
    """Version of OME-Zarr."""

    home: Home | None = None
    """The image that the labels are written into; its axes and levels apply. None: they stand
    alone.
    """

    marks: Mapping[str, Any] = field(default_factory=dict)
    """Further attributes of the group, JSON values."""

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
        """Number of levels: rows and columns are halved until neither is longer than LONGEST;
        planes stay.

        Labels in an image have as many levels as the image.
        """
        if self.home is not None:
            return self.home.levels
        return 1 + (-(-max(self.frame.shape[-2:]) // LONGEST) - 1).bit_length()

    @property
    def direct(self) -> int:
        """Number of levels that ``write`` fills: those in which each tile covers whole chunks
        (shards).
        """
        halvings = [
            0 if n % size else (n // size & -(n // size)).bit_length() - 1
            for n, size in self._rows_and_columns
        ]
        return min(self.levels, 1 + min(halvings))

    @property
    def _rows_and_columns(self) -> list[tuple[int, int]]:
        """Those of a tile and of a chunk or shard.

        A tile that holds the whole image covers whole chunks of every level.
        """
        whole = self._level(0).unit[-2:]
        tile = self._level(0).unit if self.tile is None else self.tile
        return [
            (c << self.levels if t >= n else t, c)
            for t, c, n in zip(tile[-2:], whole, self.frame.shape[-2:], strict=True)
        ]

    def shape(self, level: int) -> tuple[int, ...]:
        """Shape of a level in its own pixels."""
        return self._within(self.frame.shape, level)

    def create(self) -> None:
        """Write the metadata of the group and of every level; existing labels are kept.

        Raises
        ------
        OutputError
            The path holds the arrays of another image.
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
        """Write whole tiles of full resolution, and their share of the levels above.

        Parameters
        ----------
        box : Box
            Where, in pixels of level 0.
        labels : ndarray, (row, column) or (plane, row, column)
            The labels.

        Raises
        ------
        ValueError
            The box cuts a chunk or a shard or leaves the image, or ``labels`` do not match it in
            shape or dtype.
        """
        for level in range(self.direct):
            reduced = Box(self._within(box.start, level), self._within(box.stop, level))
            self._level(level).write(reduced, labels[..., :: 1 << level, :: 1 << level])

    def blocks(self, level: int) -> list[Box]:
        """Boxes of whole chunks (shards), about ACROSS wide, that cover the level: one ``reduce``
        task each.
        """
        unit = self._level(level).unit
        grid = Grid(
            self.shape(level), (*unit[:-2], *(max(1, ACROSS // size) * size for size in unit[-2:]))
        )
        return [grid.core(tile) for tile in range(len(grid))]

    def reduce(self, level: int, box: Box) -> None:
        """Compute a box of a level from the level before, which must be complete there.

        Parameters
        ----------
        level : int
            The level, from 1.
        box : Box
            Whole chunks, or shards, in pixels of the level.

        Raises
        ------
        ValueError
            ``level`` is 0, or the box does not consist of whole chunks (shards).
        ScratchError
            The level before is damaged.
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
        """Read the labels in a box of a level, in its own pixels.

        Raises
        ------
        ValueError
            The box leaves the level.
        ScratchError
            A chunk is damaged.
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
