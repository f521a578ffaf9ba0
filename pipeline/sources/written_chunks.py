"""Find the chunks of a Zarr array that were written. A chunk without a file reads as the fill
value, which looks like a measured value.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
import re
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.storage.locations import listing, remote, there


class Presence:
    """Whether each element of an array lies in a file that exists. It is indexed by integers and
    slices, as the array itself.

    A shard that exists counts as complete: writers leave out chunks of a shard that hold only the
    fill value.
    """

    def __init__(self, array: Any, folder: str) -> None:
        self._folder = folder
        self._key = array.metadata.encode_chunk_key
        self.shape: tuple[int, ...] = array.shape
        self.file: tuple[int, ...] = array.shards or array.chunks
        """The shape of what one file holds."""

    @property
    def files(self) -> tuple[int, ...]:
        """How many files there should be along each axis."""
        return tuple(-(-n // size) for n, size in zip(self.shape, self.file, strict=True))

    @functools.cached_property
    def _names(self) -> Collection[str] | None:
        """The names of all files in the folder; None if its server does not list them."""
        if remote(self._folder):
            return listing(self._folder)
        return {str(path.relative_to(self._folder)) for path in Path(self._folder).rglob("*")}

    def missing(self) -> int:
        """How many files are missing; -1 if that is unknown."""
        names = self._names
        number = math.prod(self.files)
        if names is None:
            return -1
        if number > len(names):  # do not iterate over that many: metadata may claim any number
            return number - sum(map(self._is_chunk, names))
        return sum(
            self._key(place) not in names for place in itertools.product(*map(range, self.files))
        )

    def missing_along(self, axis: int) -> list[int]:
        """How many files are missing at each position along an axis; empty if that is unknown."""
        if self._names is None:
            return []
        there = Counter(place[axis] for place in map(self._place, self._names) if place is not None)
        of_each = math.prod(self.files) // self.files[axis]
        return [of_each - there[number] for number in range(self.files[axis])]

    def _is_chunk(self, name: str) -> bool:
        """Whether this is the name of a chunk that the array should have."""
        return self._place(name) is not None

    def _place(self, name: str) -> tuple[int, ...] | None:
        """The place of the chunk, or shard, with this file name; None if it is not the name
        of one.
        """
        place = tuple(
            int(part) for part in re.split("[/.]", name.removeprefix("c/")) if part.isdecimal()
        )
        fits = (
            len(place) == len(self.shape)
            and all(map(operator.lt, place, self.files))
            and self._key(place) == name
        )
        return place if fits else None

    def absent(self, index: tuple[int | slice, ...]) -> str | None:
        """The name of a missing file that reading these elements needs; None if all exist."""
        places = itertools.product(*(axis.tolist() for axis, _ in self._asked(index)))
        return next((self._key(place) for place in places if not self._there(place)), None)

    def _asked(
        self, index: tuple[int | slice, ...]
    ) -> list[tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
        """Along each axis, the places of the files that are read, and for each element the position
        in that list.
        """
        whole = [i if isinstance(i, slice) else slice(i, i + 1) for i in index]
        asked = [
            np.arange(*i.indices(n)) // size
            for i, n, size in zip(whole, self.shape, self.file, strict=True)
        ]
        return [np.unique(each, return_inverse=True) for each in asked]

    def __getitem__(self, index: tuple[int | slice, ...]) -> npt.NDArray[np.bool_]:
        """A bool array with the shape that the array would give."""
        places, where = zip(*self._asked(index), strict=True)
        there = np.array(
            [
                self._there(place)
                for place in itertools.product(*(axis.tolist() for axis in places))
            ],
            bool,
        )
        found = there.reshape([len(axis) for axis in places])[np.ix_(*where)]
        return np.asarray(
            found[tuple(slice(None) if isinstance(i, slice) else 0 for i in index)], bool
        )

    @functools.lru_cache(maxsize=4096)  # noqa: B019  it lives as long as its array does
    def _there(self, place: tuple[int, ...]) -> bool:
        if not remote(self._folder) or self._names is None:
            return there(self._folder, self._key(place))
        return self._key(place) in self._names
