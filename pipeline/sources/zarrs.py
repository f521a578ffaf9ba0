"""Zarr arrays, versions 2 and 3, and OME-Zarr images, versions 0.4 and 0.5."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import JobError, SourceError, nearest
from pipeline.frame import Frame
from pipeline.grid import Box
from pipeline.homes import Home, home
from pipeline.places import about, asking, joined, listing, remote, there, zarr_store
from pipeline.scales import alike, unclear
from pipeline.sources import checked_numbers
from pipeline.sources.axes import Layout, either, guessed, layout, native, together
from pipeline.sources.checksum import of_file, stamp
from pipeline.sources.kept import Kept
from pipeline.sources.presence import Presence
from pipeline.sources.stored import FAULTS, Stored, describe

POLICIES = ("nodata", "fill", "error")
SAMPLED = 64
"""Chunk files that a fingerprint looks into."""


@dataclass(frozen=True)
class ZarrImage:
    """A Zarr array, or an image in an OME-Zarr group."""

    path: str
    """The folder of the array or group."""

    level: int | str = 0
    """Of an OME-Zarr image: the level's number, 0 being full resolution, or its path."""

    channels: tuple[int | str, ...] | None = None
    """Channels to read, by number from 1 or by name, in any order; None: all."""

    bands: tuple[int | str, ...] | None = None
    """Another word for ``channels``."""

    time: int | None = None
    """The index along the time axis; needed where there is more than one."""

    planes: int | str | None = None
    """"all" for a volume, or one plane's index from 0; None: all, where there are several."""

    axes: str | None = None
    """A letter of t, c, z, y, x for each axis of the array, where it does not name them: ``yxc``."""

    nodata: float | None = None
    """The value that means "not measured"."""

    nodata_by: str | None = None
    """``band``: what was measured is a fact of each band. ``pixel``: a pixel is missing, in all bands, where all bands have nodata.
    None: by band."""

    missing_chunks: str | None = None
    """What chunks are that were never written: ``nodata``, not measured; ``fill``, the array's fill value, which many writers leave out; or
    ``error``. None: ``fill`` for labels of OME-Zarr and for arrays with the attribute ``missing_chunks: fill``, else ``nodata``."""

    def __post_init__(self) -> None:
        if self.missing_chunks not in (None, *POLICIES):
            raise JobError(f"missing_chunks: {self.missing_chunks!r}; {nearest(str(self.missing_chunks), POLICIES)}")

    @property
    def _policy(self) -> str:
        return self.missing_chunks or self._stored.policy

    @functools.cached_property
    def _lost(self) -> int:
        """How many files of chunks are missing, where those are not measured; -1 where nobody knows."""
        return _opened(self._stored.path)[1].missing() if self._policy == "nodata" else 0

    @property
    def remarks(self) -> dict[str, Any]:
        """What should be known of the image besides its frame."""
        number = math.prod(_opened(self._stored.path)[1].files)
        told = f"{self._lost} of {number} were never written, and count as not measured; missing_chunks: fill reads the fill value there"
        stored, how = self._stored, self._layout[0]
        doubts = unclear(how.space, [stored.units[how.axes.index(letter)] for letter in how.space]) if stored.units else []
        return ({"missing_chunks": told} if self._lost > 0 else {}) | ({"not_understood": doubts} if doubts else {})

    @functools.cached_property
    def _stored(self) -> Stored:
        return describe(self.path, self.level)

    @functools.cached_property
    def _layout(self) -> tuple[Layout, tuple[str, ...]]:
        wanted, stored = either(self.channels, self.bands), self._stored
        axes = self.axes or stored.axes or guessed(stored.shape, stored.path)
        return layout(axes, stored.shape, bands=wanted, names=stored.channels, time=self.time, planes=self.planes)

    @functools.cached_property
    def frame(self) -> Frame:
        """What the image is; SourceError if it cannot be opened, JobError if an option does not fit."""
        stored, (how, names) = self._stored, self._layout
        transform = stored.transform if how.space == "yx" else None
        size: tuple[float, ...] = ()
        unit, unlike = "pixel", tuple[int, ...]()
        if stored.scale:
            kept = [how.axes.index(letter) for letter in how.space]
            unit, size, unlike = alike([stored.units[k] for k in kept], [stored.scale[k] for k in kept])
        if transform:
            size = (float(np.hypot(transform[1], transform[4])), float(np.hypot(transform[0], transform[3])))
        return Frame(
            shape=how.shape(stored.shape),
            bands=names,
            dtype=checked_numbers(np.dtype(stored.dtype), stored.path),
            nodata=self.nodata,
            transform=transform,
            crs=stored.crs,
            pixel_size=size,
            unit=unit,
            unlike=unlike,
            chunks=how.shape(stored.chunks),
            masked=self._lost != 0,
            together=together(self.nodata_by, len(names)),
        )

    def mask(self, box: Box, step: int = 1) -> npt.NDArray[np.bool_]:
        """Where the chunks of each band have been written: (band, row, column) or (band, plane, row, column)."""
        return np.asarray(self._layout[0].take(_opened(self._stored.path)[1], box, step), bool)

    @property
    def masked_by(self) -> str:
        """What the mask stands for."""
        return "missing chunks"

    def read(self, box: Box) -> npt.NDArray[Any]:
        """The pixels in a box, (band, row, column) or (band, plane, row, column); SourceError if a chunk cannot be decoded."""
        return self._read(box, 1)

    def glance(self, box: Box, step: int) -> npt.NDArray[Any]:
        """Every ``step``-th pixel."""
        return self._read(box, step)

    def home(self) -> Home:
        """The image as labels that are to lie in it must agree with it; JobError where they cannot."""
        import zarr

        if remote(self.path):
            raise JobError(f"{self.path} is on a server, where nothing is written; allowed: an image in a folder")
        how, stored = self._layout[0], self._stored
        node, level = zarr.open(self.path, mode="r"), Path(stored.path).relative_to(self.path).as_posix()
        if isinstance(node, zarr.Array) or level == "." or level.split("/")[0] == "labels":
            raise JobError(f"{self.path} has no room for labels; allowed: an OME-Zarr image")
        for letter, at in how.fixed:
            if stored.shape[how.axes.index(letter)] > 1:
                raise JobError(f"index {at} along the axis {letter} is read of several, and labels of it would show at all of them")
        return home(self.path, dict(node.attrs), level, how.space)

    def fingerprint(self) -> dict[str, Any]:
        """The array's metadata, how many files it has, and size and checksum (elsewhere, entity tag) of an even sample of them."""
        choice = {"time": self.time, "planes": self.planes, "axes": self.axes, "missing_chunks": self._policy}
        if remote(self._stored.path):
            return {"kind": "zarr", **_sampled(self._stored.path), **choice}
        folder = Path(self._stored.path)
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in ("zarr.json", ".zarray", ".zattrs"))
        chosen = files if len(files) <= SAMPLED else [files[k * (len(files) - 1) // (SAMPLED - 1)] for k in range(SAMPLED)]
        sample = {str(path.relative_to(folder)): of_file(path) for path in chosen}
        size = {"files": len(files), "bytes": sum(path.stat().st_size for path in files)}
        return {"kind": "zarr", "metadata": [of_file(Path(path)) for path in _metadata(str(folder))], **size, "sample": sample, **choice}

    def _read(self, box: Box, step: int) -> npt.NDArray[Any]:
        how, path = self._layout[0], self._stored.path
        try:
            with asking(path, SourceError):
                array, presence = _opened(path)
                absent = self._policy == "error" and not how.take(presence, box, step).all()
                block = native(np.asarray(how.take(array, box, step)))
        except SourceError:
            raise
        except FAULTS as error:
            raise SourceError(f"{path}: {box} cannot be read: {type(error).__name__}: {error}") from error
        if absent:
            raise SourceError(f"{path}: a chunk in {box} was never written; missing_chunks: nodata or fill accepts that")
        return block


def _opened(path: str) -> tuple[Kept, Presence]:
    """The array, opened once per process, and which of its chunks are there."""
    return _array(path, () if remote(path) else tuple(map(stamp, _metadata(path))))


@functools.lru_cache(maxsize=8)
def _array(path: str, _stamps: object) -> tuple[Kept, Presence]:
    import zarr

    from pipeline.sources.unpacking import bounded

    array = bounded(zarr.open_array(zarr_store(path), mode="r"))
    return Kept(array, path), Presence(array, path)


def _sampled(address: str) -> dict[str, Any]:
    """Sizes and entity tags of an even sample of what lies at an address; of a server that lists nothing, of the metadata only."""
    found = listing(address)
    if found is None:
        return {"sample": {name: about(joined(address, name)) for name in ("zarr.json", ".zarray") if there(address, name)}}
    names = sorted(found)
    chosen = names if len(names) <= SAMPLED else [names[k * (len(names) - 1) // (SAMPLED - 1)] for k in range(SAMPLED)]
    return {"files": len(names), "bytes": sum(each["bytes"] for each in found.values()), "sample": {name: found[name] for name in chosen}}


def _metadata(path: str) -> list[str]:
    """The files that say what an array is, whichever version it has."""
    return [str(file) for name in ("zarr.json", ".zarray") if (file := Path(path, name)).exists()]
