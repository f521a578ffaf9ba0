"""Cache decoded chunks of a Zarr array.

Windows overlap, and a chunk can only be decoded whole. With tiles of one chunk and a halo, each
chunk is decoded nine times; with tiles of two by two chunks, four times. The cache keeps the most
recently read chunks, up to `MOST` bytes. A chunk is read again if its file has changed.
"""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import SourceError
from pipeline.image.grid import Box
from pipeline.sources.fingerprints import stamp
from pipeline.sources.zarr_metadata import FAULTS
from pipeline.storage.locations import remote

MOST = 3 << 24
"""The most bytes of decoded chunks that a process keeps for an array."""
Place = tuple[int, ...]


class Kept:
    """A Zarr array that is read in windows through a cache. It is indexed by integers and slices,
    as the array itself.
    """

    def __init__(self, array: Any, folder: str) -> None:
        from pipeline.sources.bounded_codecs import FileRoom  # imports Zarr

        self._array = array
        self._folder = folder
        self._room = FileRoom.of(array)
        self._chunks: OrderedDict[Place, tuple[object, npt.NDArray[Any]]] = OrderedDict()
        self._lock = threading.Lock()

    def __getitem__(self, index: tuple[int | slice, ...]) -> npt.NDArray[Any]:
        """The elements of a window. Whole chunks are read and cached, unless the window is too
        large or has a step.
        """
        spans = [
            slice(i, i + 1) if isinstance(i, int) else slice(*i.indices(n))
            for i, n in zip(index, self._array.shape, strict=True)
        ]
        box = Box(tuple(s.start for s in spans), tuple(s.stop for s in spans))
        chunk = self._array.chunks
        first = [a // c for a, c in zip(box.start, chunk, strict=True)]
        last = [-(-b // c) for b, c in zip(box.stop, chunk, strict=True)]
        cover = Box(tuple(first), tuple(last))
        bytes_of_chunk = int(np.prod(chunk)) * self._array.dtype.itemsize
        if (
            box.size == 0
            or any(s.step not in (None, 1) for s in spans)
            or cover.size * bytes_of_chunk > 2 * MOST
        ):
            for place in itertools.product(*map(range, cover.start, cover.stop)):
                self._stamp(place)
            return self._read(index, cover)
        block = np.empty(box.shape, self._array.dtype)
        for place, values in self._covering(cover).items():
            where = self._extent(Box(place, tuple(p + 1 for p in place)))
            shared = where & box
            block[shared.within(box)] = values[shared.within(where)]
        with self._lock:
            while len(self._chunks) * bytes_of_chunk > MOST:
                self._chunks.popitem(last=False)
        return block[tuple(0 if isinstance(i, int) else slice(None) for i in index)]

    def _covering(self, cover: Box) -> dict[Place, npt.NDArray[Any]]:
        """The chunks of a window by place: cached ones, and the missing ones, read at once."""
        places = list(itertools.product(*map(range, cover.start, cover.stop)))
        stamps = {place: self._stamp(place) for place in places}
        with self._lock:
            found = {
                p: self._chunks[p][1]
                for p in places
                if p in self._chunks and self._chunks[p][0] == stamps[p]
            }
        missing = [place for place in places if place not in found]
        if missing:
            hull = Box(
                tuple(map(min, zip(*missing, strict=True))),
                tuple(max(axis) + 1 for axis in zip(*missing, strict=True)),
            )
            extent = self._extent(hull)
            values = self._read(extent.slices, hull)
            for place in missing:
                where = self._extent(Box(place, tuple(p + 1 for p in place)))
                found[place] = values[where.within(extent)].copy()
        with self._lock:
            for place in places:
                self._chunks[place] = stamps[place], found[place]
                self._chunks.move_to_end(place)
        return found

    def _read(self, index: tuple[int | slice, ...], cover: Box) -> npt.NDArray[Any]:
        """Elements of some chunks. If a file cannot be read or decoded, wait until all other reads
        have ended, then raise a SourceError that names the file.
        """
        from pipeline.sources.bounded_codecs import settle

        try:
            return np.asarray(self._array[index])
        except FAULTS as error:
            settle(self._array)
            raise self._blamed(cover, error) from error
        except Exception:  # raised by a remote store
            settle(self._array)
            raise

    def _blamed(self, cover: Box, error: Exception) -> SourceError:
        """The error of the first chunk that cannot be read alone. If each can be read alone, the
        error names them all.
        """
        places = list(itertools.product(*map(range, cover.start, cover.stop)))
        for place in places:
            try:
                self._array[self._extent(Box(place, tuple(p + 1 for p in place))).slices]
            except FAULTS as found:
                return SourceError(
                    f"{self._folder}: its chunk {self._file(place)} cannot be read: "
                    f"{type(found).__name__}: {found}"
                )
        among = f"one of its chunks {self._file(places[0])} to {self._file(places[-1])}"
        return SourceError(
            f"{self._folder}: {among} cannot be read: {type(error).__name__}: {error}"
        )

    def _file(self, place: Place) -> str:
        """The name of the file of a chunk, or of its shard."""
        shard = self._array.shards or self._array.chunks
        number = tuple(p * c // s for p, c, s in zip(place, self._array.chunks, shard, strict=True))
        return str(self._array.metadata.encode_chunk_key(number))

    def _extent(self, places: Box) -> Box:
        """The box of some chunks in the array."""
        start = tuple(a * c for a, c in zip(places.start, self._array.chunks, strict=True))
        stop = tuple(b * c for b, c in zip(places.stop, self._array.chunks, strict=True))
        return Box(start, stop) & Box.whole(self._array.shape)

    def _stamp(self, place: Place) -> object:
        """A value that changes when the local file of a chunk, or of its shard, is rewritten; None
        if there is no such file, or for a remote array. SourceError if the file is too large.
        """
        if remote(self._folder):
            return None
        key = self._file(place)
        try:
            found = stamp(str(Path(self._folder, key)))
        except FileNotFoundError:
            return None
        try:
            self._room.check(key, found[2])  # the file would be read whole
        except ValueError as error:
            raise SourceError(f"{self._folder}: its chunk {error}") from error
        return found
