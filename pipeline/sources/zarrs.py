"""Zarr arrays, versions 2 and 3, and OME-Zarr images, versions 0.4 and 0.5.

References
----------
OME-Zarr 0.4 and 0.5, https://ngff.openmicroscopy.org. The Zarr conventions proj and spatial, https://github.com/zarr-conventions.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from pipeline.errors import JobError, SourceError, TilewiseError, nearest
from pipeline.frame import Frame
from pipeline.grid import Box
from pipeline.homes import Home, home
from pipeline.scales import alike
from pipeline.sources import checked_numbers
from pipeline.sources.axes import LETTERS, Layout, either, guessed, layout, native
from pipeline.sources.checksum import of_file, stamp
from pipeline.sources.kept import Kept

SAMPLED = 64
"""Chunk files that a fingerprint looks into."""
LARGEST_CHUNK = 1 << 30
"""Bytes of one chunk, which is decoded whole."""
FAULTS = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError, MemoryError, AssertionError),
    SystemError,  # of numcodecs, where a chunk says that it is of negative size
)
"""What zarr and its codecs raise of damaged metadata and chunks, besides zarr's own errors."""


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

    @functools.cached_property
    def _stored(self) -> _Stored:
        return _describe(self.path, self.level)

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
        unit = "pixel"
        if stored.scale:
            kept = [how.axes.index(letter) for letter in how.space]
            unit, size = alike([stored.units[k] for k in kept], [stored.scale[k] for k in kept])
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
            chunks=how.shape(stored.chunks),
        )

    def read(self, box: Box) -> npt.NDArray[Any]:
        """The pixels in a box, (band, row, column) or (band, plane, row, column); SourceError if a chunk cannot be decoded."""
        return self._read(box, 1)

    def glance(self, box: Box, step: int) -> npt.NDArray[Any]:
        """Every ``step``-th pixel."""
        return self._read(box, step)

    def home(self) -> Home:
        """The image as labels that are to lie in it must agree with it; JobError where they cannot."""
        import zarr

        how, stored = self._layout[0], self._stored
        node, level = zarr.open(self.path, mode="r"), Path(stored.path).relative_to(self.path).as_posix()
        if isinstance(node, zarr.Array) or level == "." or level.split("/")[0] == "labels":
            raise JobError(f"{self.path} has no room for labels; allowed: an OME-Zarr image")
        for letter, at in how.fixed:
            if stored.shape[how.axes.index(letter)] > 1:
                raise JobError(f"index {at} along the axis {letter} is read of several, and labels of it would show at all of them")
        return home(self.path, dict(node.attrs), level, how.space)

    def fingerprint(self) -> dict[str, Any]:
        """The array's metadata, how many files it has, and size and checksum of an even sample of them."""
        folder = Path(self._stored.path)
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in ("zarr.json", ".zarray", ".zattrs"))
        chosen = files if len(files) <= SAMPLED else [files[k * (len(files) - 1) // (SAMPLED - 1)] for k in range(SAMPLED)]
        sample = {str(path.relative_to(folder)): of_file(path) for path in chosen}
        size = {"files": len(files), "bytes": sum(path.stat().st_size for path in files)}
        choice = {"time": self.time, "planes": self.planes, "axes": self.axes}
        return {"kind": "zarr", "metadata": [of_file(Path(path)) for path in _metadata(str(folder))], **size, "sample": sample, **choice}

    def _read(self, box: Box, step: int) -> npt.NDArray[Any]:
        try:
            array = _array(self._stored.path, tuple(map(stamp, _metadata(self._stored.path))))
            return native(np.asarray(self._layout[0].take(array, box, step)))
        except FAULTS as error:
            raise SourceError(f"{self._stored.path}: {box} cannot be read: {type(error).__name__}: {error}") from error


@dataclass(frozen=True, slots=True)
class _Stored:
    """What the metadata say of an array."""

    path: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: str
    axes: str | None = None
    channels: tuple[str, ...] = ()
    scale: tuple[float, ...] = ()
    """The extent of a pixel along each axis."""
    units: tuple[str | None, ...] = ()
    """Of each axis, where there is a scale."""
    crs: str | None = None
    transform: tuple[float, float, float, float, float, float] | None = None


@functools.lru_cache(maxsize=8)
def _array(path: str, _stamps: object) -> Any:
    """The array, opened once per process."""
    import zarr

    return Kept(zarr.open_array(path, mode="r"), path)


def _metadata(path: str) -> list[str]:
    """The files that say what an array is, whichever version it has."""
    return [str(file) for name in ("zarr.json", ".zarray") if (file := Path(path, name)).exists()]


def _describe(path: str, level: int | str) -> _Stored:
    import zarr
    from zarr.errors import BaseZarrError

    try:
        return _found(path, zarr.open(path, mode="r"), level)
    except TilewiseError:
        raise
    except (BaseZarrError, *FAULTS) as error:
        raise SourceError(f"{path} cannot be opened as Zarr: {type(error).__name__}: {error}") from error


def _found(path: str, node: Any, level: int | str) -> _Stored:
    import zarr

    if isinstance(node, zarr.Array):
        if level != 0:
            raise JobError(f"level: {level!r}; {path} is a single array, which has no levels")
        return _plain(path, node, dict(node.attrs))
    attributes: dict[str, Any] = dict(node.attrs)
    scales = (attributes.get("ome") or attributes).get("multiscales")
    if not scales:
        raise JobError(
            f"path: {path} is a group and no OME-Zarr image; name an array in it: {', '.join(sorted(node.array_keys())) or 'it has none'}"
        )
    return _multiscale(path, node, attributes, scales[0], level)


def _plain(path: str, array: Any, attributes: Mapping[str, Any]) -> _Stored:
    _refuse(path, array)
    names = getattr(array.metadata, "dimension_names", None) or attributes.get("_ARRAY_DIMENSIONS")
    letters = [LETTERS.get(str(name).lower(), str(name).lower()) for name in cast("list[str]", names or [])]
    axes = "".join(letters) if len(letters) == array.ndim and all(len(letter) == 1 for letter in letters) else None
    return _Stored(path, array.shape, array.shards or array.chunks, array.dtype.str, axes, **_place(attributes))


def _multiscale(path: str, group: Any, attributes: Mapping[str, Any], scale: Mapping[str, Any], level: int | str) -> _Stored:
    paths = [dataset["path"] for dataset in scale["datasets"]]
    if level not in paths and not (isinstance(level, int) and not isinstance(level, bool) and 0 <= level < len(paths)):
        raise JobError(f"level: {level!r}; allowed: 0 to {len(paths) - 1}, or a path; {nearest(str(level), paths)}")
    name = level if isinstance(level, str) else paths[level]
    array = group[name]
    _refuse(f"{path}/{name}", array)
    axes = [axis if isinstance(axis, Mapping) else {"name": axis} for axis in scale["axes"]]
    extent = _scale(scale, scale["datasets"][paths.index(name)], len(axes))
    omero = (attributes.get("ome") or attributes).get("omero") or {}
    channels = tuple(str(channel.get("label", k + 1)) for k, channel in enumerate(omero.get("channels", [])))
    return _Stored(
        str(Path(path, name)),
        array.shape,
        array.shards or array.chunks,
        array.dtype.str,
        "".join(LETTERS.get(str(axis["name"]), str(axis["name"])) for axis in axes),
        channels if len(set(channels)) == len(channels) else (),
        extent,
        tuple(axis.get("unit") for axis in axes),
        **_place(dict(array.attrs)),
    )


def _refuse(path: str, array: Any) -> None:
    """Refuse chunks that are none, or that would take more memory than a task has, before one is read."""
    chunk = " x ".join(map(str, array.chunks))
    if min(array.shape, default=0) < 1 or min(array.chunks) < 1:
        raise SourceError(f"{path} has the shape {array.shape} in chunks of {chunk}; allowed: at least one pixel along each axis")
    if (size := math.prod(array.chunks) * array.dtype.itemsize) > LARGEST_CHUNK:
        raise SourceError(
            f"{path} is stored in chunks of {chunk}, {size / 2**30:.3g} GiB each; allowed: up to {LARGEST_CHUNK >> 30} GiB; write it anew"
        )


def _scale(image: Mapping[str, Any], dataset: Mapping[str, Any], number: int) -> tuple[float, ...]:
    """The product of the level's scale and the image's."""
    size = np.ones(number)
    for part in (*dataset.get("coordinateTransformations", ()), *image.get("coordinateTransformations", ())):
        if part.get("type") == "scale":
            size = size * np.array(part["scale"], float)
    return tuple(size.tolist())


def _place(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """CRS and transform, by the conventions proj and spatial or as rioxarray writes them."""
    crs, transform = attributes.get("proj:wkt2"), attributes.get("spatial:transform")
    if reference := attributes.get("spatial_ref"):
        reference = reference if isinstance(reference, Mapping) else {}
        crs = crs or reference.get("crs_wkt")
        if not transform and "GeoTransform" in reference:
            c, a, b, f, d, e = map(float, str(reference["GeoTransform"]).split())
            transform = (a, b, c, d, e, f)
    return {"crs": crs, "transform": tuple(map(float, transform)) if transform else None}
