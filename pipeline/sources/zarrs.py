"""Zarr arrays, versions 2 and 3, and OME-Zarr images, versions 0.4 and 0.5."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import JobError, SourceError
from pipeline.image.frame import Frame
from pipeline.image.grid import Box
from pipeline.image.pixel_area import alike, unclear
from pipeline.image.transform import pixel_size
from pipeline.sources.axes import Choice, Layout, native
from pipeline.sources.cf_packing import Packed
from pipeline.sources.chunk_cache import Kept
from pipeline.sources.coordinates import Place
from pipeline.sources.facts import combined
from pipeline.sources.fingerprints import of_file, stamp
from pipeline.sources.nodata_rules import check_missing_chunks, together, told_of_missing
from pipeline.sources.written_chunks import Presence
from pipeline.sources.zarr_facts import zarr_facts
from pipeline.sources.zarr_metadata import FAULTS, ZarrDescription, around, describe
from pipeline.storage.locations import about, asking, joined, listing, remote, there, zarr_store
from pipeline.storage.ome_image import Home, home

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
    """A letter of t, c, z, y, x for each axis of the array, where it does not name them: ``yxc``.
    """

    nodata: float | None = None
    """The stored value that means "not measured"; None: what the attributes say; NaN: no value."""

    scaled: bool | None = None
    """Whether values are multiplied by scale_factor, and add_offset is added, as xarray does; None:
    if the array has them.
    """

    nodata_by: str | None = None
    """``band``: what was measured is a fact of each band. ``pixel``: a pixel is missing, in all
    bands, where all bands have nodata. None: by band.
    """

    missing_chunks: str | None = None
    """What to make of chunks that were never written. ``nodata``: not measured. ``fill``: the fill
    value, which many writers do not store. ``error``: refuse to read them. None: ``fill`` for
    labels of OME-Zarr and for arrays with the attribute ``missing_chunks: fill``, else ``nodata``.
    """

    def __post_init__(self) -> None:
        check_missing_chunks(self.missing_chunks)

    @property
    def _policy(self) -> str:
        return self.missing_chunks or self._stored.policy

    @functools.cached_property
    def _lost(self) -> int:
        """How many chunk files are missing, if those count as not measured; -1 if the server does
        not list files.
        """
        return _opened(self._stored.path)[1].missing() if self._policy == "nodata" else 0

    @property
    def image(self) -> str:
        """The group of the OME-Zarr image, or the array, that is read. It may lie inside ``path``
        if it is alone there.
        """
        return self._stored.image or self._stored.path

    @property
    def facts(self) -> dict[str, Any]:
        """What is known of the image besides its frame."""
        said = zarr_facts(
            self.image,
            self.frame.ndim,
            level=self.level,
            time=self.time,
            plane=self.planes if isinstance(self.planes, int) else None,
        )
        return combined(said, self._facts)

    @property
    def files(self) -> tuple[str, ...]:
        """The folder of the array or group."""
        return (self.path,)

    @property
    def _facts(self) -> dict[str, Any]:
        """The facts of what is read: the array, its axes and its values."""
        packed = self._packed
        stored = self._stored
        bands = len(self._layout[1])
        space = [
            (axis, unit)
            for axis, unit in zip(self._layout[0].axes, stored.units, strict=False)
            if axis in "zyx"
        ]
        doubts = unclear([axis for axis, _ in space], [unit for _, unit in space])
        return {
            "series": self.image.removeprefix(self.path).strip("/"),
            "axes": self._layout[0].axes,
            "nodata": [packed.nodata] * bands
            if self._scaled and packed.nodata is not None
            else [],  # NaN stands there
            "scale": [packed.scale] * bands if packed.scaled else [],
            "offset": [packed.offset] * bands if packed.scaled else [],
            "missing_chunks": self._missing,
            "missing_chunks_by_band": self._lost_by_band,
            "not_understood": [*doubts, *stored.remarks, *self._settled[2].remarks],
        }

    @property
    def _missing(self) -> str:
        """A sentence on chunk files that are missing; empty if none is, or if that is unknown."""
        number = math.prod(_opened(self._stored.path)[1].files)
        return told_of_missing(self._lost, number, self._policy)

    @property
    def _lost_by_band(self) -> dict[str, int]:
        """How many chunk files are missing of each band, if several bands are read."""
        how, names = self._layout
        if self._lost <= 0 or "c" not in how.axes or len(names) == 1:
            return {}
        presence = _opened(self._stored.path)[1]
        axis = how.axes.index("c")
        missing = presence.missing_along(axis)
        return {
            name: missing[band // presence.file[axis]]
            for name, band in zip(names, how.bands, strict=True)
        }

    @functools.cached_property
    def _stored(self) -> ZarrDescription:
        return describe(self.path, self.level)

    @functools.cached_property
    def _settled(self) -> tuple[Layout, tuple[str, ...], Place]:
        """How blocks are taken out of the array, the names of the bands, and the place."""
        chosen = Choice.of(self.bands, self.time, self.planes, channels=self.channels)
        stored = self._stored
        near = around(stored, self.axes) if not stored.image else None
        axes = self.axes or stored.axes or (near.axes if near is not None else None)
        axes = axes or chosen.guess(stored.shape, stored.path)
        names = near.bands if near is not None else stored.channels
        how, bands = chosen.layout(axes, stored.shape, names)
        if near is None:
            return how, bands, _of_level(stored, how)
        return how, bands, near.place(axes, stored.dims, how.space)

    @property
    def _layout(self) -> tuple[Layout, tuple[str, ...]]:
        return self._settled[:2]

    @functools.cached_property
    def _packed(self) -> Packed:
        """What stored numbers stand for; the option ``nodata`` overrides the attributes."""
        packed = self._stored.packed
        if self.nodata is not None:
            packed = replace(packed, fills=() if math.isnan(self.nodata) else (self.nodata,))
        if self.scaled and not packed.scaled:
            raise JobError(
                f"scaled: true; {self._stored.path} has neither scale_factor nor add_offset; "
                f"allowed: none"
            )
        return packed

    @property
    def _scaled(self) -> bool:
        return self._packed.scaled and self.scaled is not False

    @functools.cached_property
    def frame(self) -> Frame:
        """What the image is; SourceError if it cannot be opened, JobError if an option does not
        fit.
        """
        stored = self._stored
        how, names, place = self._settled
        packed = self._packed
        return Frame(
            shape=how.shape(stored.shape),
            bands=names,
            dtype="float64" if self._scaled else packed.dtype,
            nodata=None if self._scaled else packed.nodata if self.nodata is None else self.nodata,
            transform=place.transform if how.space == "yx" else None,
            crs=place.crs,
            pixel_size=place.pixel_size,
            unit=place.unit,
            unlike=place.unlike,
            translation=place.translation,
            chunks=how.shape(stored.chunks),
            masked=self._lost != 0,
            together=together(self.nodata_by, len(names)),
        )

    def mask(self, box: Box, step: int = 1) -> npt.NDArray[np.bool_]:
        """Where the chunks of each band have been written: (band, row, column) or (band, plane,
        row, column).
        """
        return np.asarray(self._layout[0].take(_opened(self._stored.path)[1], box, step), bool)

    @property
    def masked_by(self) -> str:
        """What the mask stands for."""
        return "missing chunks"

    def read(self, box: Box) -> npt.NDArray[Any]:
        """The pixels in a box, (band, row, column) or (band, plane, row, column); SourceError if a
        chunk cannot be decoded.
        """
        return self._read(box, 1)

    def glance(self, box: Box, step: int) -> npt.NDArray[Any]:
        """Every ``step``-th pixel."""
        return self._read(box, step)

    def home(self) -> Home:
        """Where labels of this image go inside it; JobError if it has no place for them."""
        import zarr

        if remote(self.path):
            raise JobError(
                f"{self.path} is on a server, where nothing is written; allowed: an image in a "
                f"folder"
            )
        how = self._layout[0]
        stored = self._stored
        if not stored.image or Path(stored.image).parent.name == "labels":
            raise JobError(f"{self.path} has no room for labels; allowed: an OME-Zarr image")
        for letter, at in how.fixed:
            if stored.shape[how.axes.index(letter)] > 1:
                raise JobError(
                    f"index {at} along the axis {letter} is read of several, and labels of it "
                    f"would show at all of them"
                )
        level = Path(stored.path).relative_to(stored.image).as_posix()
        return home(
            stored.image,
            dict(zarr.open_group(stored.image, mode="r", use_consolidated=False).attrs),
            level,
            how.space,
        )

    def fingerprint(self) -> dict[str, Any]:
        """Checksums of the metadata, the number of files, and for an even sample of them size and
        checksum (on a server the entity tag).
        """
        choice: dict[str, Any] = {
            "time": self.time,
            "planes": self.planes,
            "axes": self.axes,
            "missing_chunks": self._policy,
        }
        if self._packed.scaled or len(self._packed.fills) > 1:
            choice["packed"] = [
                self._scaled,
                self._packed.scale,
                self._packed.offset,
                *self._packed.fills,
            ]
        if remote(self._stored.path):
            return {"kind": "zarr", **_sampled(self._stored.path), **choice}
        folder = Path(self._stored.path)
        files = sorted(
            path
            for path in folder.rglob("*")
            if path.is_file() and path.name not in ("zarr.json", ".zarray", ".zattrs")
        )
        chosen = (
            files
            if len(files) <= SAMPLED
            else [files[k * (len(files) - 1) // (SAMPLED - 1)] for k in range(SAMPLED)]
        )
        sample = {str(path.relative_to(folder)): of_file(path) for path in chosen}
        size = {"files": len(files), "bytes": sum(path.stat().st_size for path in files)}
        return {
            "kind": "zarr",
            "metadata": [of_file(Path(path)) for path in _metadata(str(folder))],
            **size,
            "sample": sample,
            **choice,
        }

    def _read(self, box: Box, step: int) -> npt.NDArray[Any]:
        how = self._layout[0]
        path = self._stored.path
        try:
            with asking(path, SourceError):
                array, presence = _opened(path)
                absent = presence.absent(how.index(box, step)) if self._policy == "error" else None
                block = native(np.asarray(how.take(array, box, step)))
        except SourceError:
            raise
        except FAULTS as error:
            raise SourceError(
                f"{path}: {box} cannot be read: {type(error).__name__}: {error}"
            ) from error
        if absent is not None:
            raise SourceError(
                f"{path}: its chunk {absent} was never written; missing_chunks: nodata or fill "
                f"accepts that"
            )
        if not self._scaled:
            return self._packed.one(block)
        frame = replace(self.frame, nodata=self._packed.nodata, masked=False)
        return self._packed.unpacked(block, frame.measured(self._packed.one(block)))


def _of_level(stored: ZarrDescription, how: Layout) -> Place:
    """The place of a level of an OME-Zarr image."""
    if stored.transform and how.space == "yx":
        unit = alike(stored.units[-2:], stored.scale[-2:])[0] if stored.scale else "pixel"
        return Place(stored.transform, stored.crs, pixel_size(stored.transform), unit)
    kept = [how.axes.index(letter) for letter in how.space]
    units = [stored.units[k] for k in kept]
    unit, size, unlike = alike(units, [stored.scale[k] for k in kept])
    return Place(
        None, stored.crs, size, unit, unlike, alike(units, [stored.translation[k] for k in kept])[1]
    )


def _opened(path: str) -> tuple[Kept, Presence]:
    """The array, opened once per process, and which of its chunks exist."""
    return _array(path, () if remote(path) else tuple(map(stamp, _metadata(path))))


@functools.lru_cache(maxsize=8)
def _array(path: str, _stamps: object) -> tuple[Kept, Presence]:
    import zarr

    from pipeline.sources.bounded_codecs import bounded

    array = bounded(zarr.open_array(zarr_store(path), mode="r"))
    return Kept(array, path), Presence(array, path)


def _sampled(address: str) -> dict[str, Any]:
    """Sizes and entity tags of an even sample of the files at an address; of the metadata alone if
    the server does not list files.
    """
    found = listing(address)
    if found is None:
        return {
            "sample": {
                name: about(joined(address, name))
                for name in ("zarr.json", ".zarray")
                if there(address, name)
            }
        }
    names = sorted(found)
    chosen = (
        names
        if len(names) <= SAMPLED
        else [names[k * (len(names) - 1) // (SAMPLED - 1)] for k in range(SAMPLED)]
    )
    return {
        "files": len(names),
        "bytes": sum(each["bytes"] for each in found.values()),
        "sample": {name: found[name] for name in chosen},
    }


def _metadata(path: str) -> list[str]:
    """The metadata files of an array, of format 2 or 3."""
    return [str(file) for name in ("zarr.json", ".zarray") if (file := Path(path, name)).exists()]
