"""Which chunks of a Zarr array have been written: what has no file reads as the fill value, and
looks like something that was measured.
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
    """Whether each element of an array lies in a file that is there; it is indexed by numbers and
    slices as the array itself.

    Of a shard that is there, all is: whoever wrote it left out the chunks in it that hold nothing
    but the fill value.
    """

    def __init__(self, array: Any, folder: str) -> None:
        self._folder = folder
        self._key = array.metadata.encode_chunk_key
        self.shape: tuple[int, ...] = array.shape
        self.file: tuple[int, ...] = array.shards or array.chunks
        """The extent of what lies in one file."""

    @property
    def files(self) -> tuple[int, ...]:
        """How many files there should be along each axis."""
        return tuple(-(-n // size) for n, size in zip(self.shape, self.file, strict=True))

    @functools.cached_property
    def _names(self) -> Collection[str] | None:
        """What lies in the folder; None where its server lists nothing."""
        if remote(self._folder):
            return listing(self._folder)
        return {str(path.relative_to(self._folder)) for path in Path(self._folder).rglob("*")}

    def missing(self) -> int:
        """How many files are not there; -1 where nobody knows."""
        names = self._names
        number = math.prod(self.files)
        if names is None:
            return -1
        if number > len(names):  # so many are not gone through: metadata may claim any number
            return number - sum(map(self._is_chunk, names))
        return sum(
            self._key(place) not in names for place in itertools.product(*map(range, self.files))
        )

    def missing_along(self, axis: int) -> list[int]:
        """How many files are not there, for each place of a file along an axis; nothing where
        nobody knows.
        """
        if self._names is None:
            return []
        there = Counter(place[axis] for place in map(self._place, self._names) if place is not None)
        of_each = math.prod(self.files) // self.files[axis]
        return [of_each - there[number] for number in range(self.files[axis])]

    def _is_chunk(self, name: str) -> bool:
        """Whether this is the name of a chunk, of which there should be one."""
        return self._place(name) is not None

    def _place(self, name: str) -> tuple[int, ...] | None:
        """The place of the chunk, or shard, that a file of this name is of; None where it
        is none.
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
        """The name of a file that is not there, and would be read for this; None where all are."""
        places = itertools.product(*(axis.tolist() for axis, _ in self._asked(index)))
        return next((self._key(place) for place in places if not self._there(place)), None)

    def _asked(
        self, index: tuple[int | slice, ...]
    ) -> list[tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
        """Along each axis, the places of files that are read, and which of them holds
        each element.
        """
        whole = [i if isinstance(i, slice) else slice(i, i + 1) for i in index]
        asked = [
            np.arange(*i.indices(n)) // size
            for i, n, size in zip(whole, self.shape, self.file, strict=True)
        ]
        return [np.unique(each, return_inverse=True) for each in asked]

    def __getitem__(self, index: tuple[int | slice, ...]) -> npt.NDArray[np.bool_]:
        """Bool, of the shape of what the array would give."""
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
