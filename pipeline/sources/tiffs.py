"""TIFFs of microscopes and slide scanners: stacks, OME-TIFF, SVS and others with pyramids, through tifffile and imagecodecs."""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import numpy.typing as npt

from pipeline.errors import JobError, SourceError, TilewiseError
from pipeline.frame import Frame
from pipeline.grid import Box
from pipeline.sources import checked_numbers
from pipeline.sources.axes import Layout, either, layout, native
from pipeline.sources.checksum import of_file, stamp
from pipeline.sources.codestreams import PLAIN, bounded
from pipeline.sources.levels import around, coarsest
from pipeline.sources.metadata import companions, sizes

MOST_BANDS = 4096
LARGEST_BLOCK = 1 << 30
"""Bytes of one block (a tile, or a page that is stored in one piece), which is decoded whole."""
LEAST_PER_BLOCK = 4
"""Bytes that each block takes in the file, whatever it holds: those of its offset."""
UNCOMPRESSED = 1
"""TIFF's number for it. All else is left to imagecodecs: what tifffile decodes by itself it decodes without a bound."""
INSTALL = "pip install 'tilewise[slides]'"
FAULTS = (
    ET.ParseError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    struct.error,
    RuntimeError,
    OSError,
    MemoryError,
)
"""What tifffile, imagecodecs and zarr raise of damaged files: nearly anything."""


@dataclass(frozen=True)
class TiffImage:
    """One image of a TIFF: its pages as planes, times or channels, at one level of its pyramid."""

    path: str
    """The file."""

    level: int = 0
    """0: full resolution; k: the k-th level of the pyramid."""

    series: int = 0
    """Which image of the file, from 0: of a slide 0 is the slide, others are its label and thumbnail."""

    channels: tuple[int | str, ...] | None = None
    """Channels to read, by number from 1 or by OME name, in any order; None: all."""

    bands: tuple[int | str, ...] | None = None
    """Another word for ``channels``."""

    time: int | None = None
    """The index along the time axis; needed where there is more than one."""

    planes: int | str | None = None
    """"all" for a volume, or one plane's index from 0; None: all, where there are several."""

    axes: str | None = None
    """A letter of t, c, z, y, x for each axis, in place of the file's own: ``cyx``."""

    nodata: float | None = None
    """The value that means "not measured", in place of the file's own (GDAL's tag), which also fills tiles that hold no bytes."""

    @functools.cached_property
    def _about(self) -> _About:
        return _describe(self.path, self.series, self.level)

    @functools.cached_property
    def _layout(self) -> tuple[Layout, tuple[str, ...]]:
        wanted, about = either(self.channels, self.bands), self._about
        return layout(self.axes or about.axes, about.shape, bands=wanted, names=about.channels, time=self.time, planes=self.planes)

    @functools.cached_property
    def frame(self) -> Frame:
        """What the image is; SourceError if it cannot be opened, JobError if an option does not fit."""
        (how, names), about = self._layout, self._about
        size = tuple(about.microns.get(letter, 0.0) for letter in how.space)
        known = all(size)
        return Frame(
            shape=how.shape(about.shape),
            bands=names,
            dtype=checked_numbers(np.dtype(about.dtype), self.path),
            nodata=about.nodata if self.nodata is None else self.nodata,
            pixel_size=size if known else (),
            unit="micrometer" if known else "pixel",
            chunks=how.shape(about.chunks),
        )

    def read(self, box: Box) -> npt.NDArray[Any]:
        """The pixels in a box, (band, row, column) or (band, plane, row, column); SourceError if a block cannot be decoded."""
        return self._taken(self.level, self._layout[0], box, 1)

    def glance(self, box: Box, step: int) -> npt.NDArray[Any]:
        """About every ``step``-th pixel, from the coarsest level of the pyramid that has as many."""
        how = self._layout[0]
        shapes = [how.shape(_describe(self.path, self.series, level).shape) for level in range(self._about.levels)]
        level = coarsest(shapes, self.level, step)
        if level == self.level:
            return self._taken(level, how, box, step)
        held, places = around(box, step, shapes[self.level], shapes[level])
        return native(self._taken(level, how, held, 1)[:, *places])

    def fingerprint(self) -> dict[str, Any]:
        """Size and checksum of the file and of those that it refers to, and what is read of it."""
        choice = {"series": self.series, "level": self.level, "time": self.time, "planes": self.planes, "axes": self.axes}
        return {"kind": "tiff", **of_file(Path(self.path)), "with": [of_file(Path(name)) for name in self._about.others], **choice}

    def _taken(self, level: int, how: Layout, box: Box, step: int) -> npt.NDArray[Any]:
        try:
            opened = _open(self.path, stamp(self.path))  # held while it is read: what is dropped is closed
            return native(np.asarray(how.take(opened.array(self.series, level), box, step)))
        except FAULTS as error:
            raise SourceError(f"{self.path}: {box} cannot be read: {type(error).__name__}: {error}") from error


@dataclass(frozen=True, slots=True)
class _About:
    """What a file says of one level of one image."""

    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: str
    axes: str
    levels: int
    channels: tuple[str, ...] = ()
    microns: Mapping[str, float] = field(default_factory=dict)
    """The extent of a pixel along the axes of which it is known."""
    others: tuple[str, ...] = ()
    """Files that it refers to."""
    nodata: float | None = None
    """As GDAL's tag gives it."""


class _Opened:
    """A file that is open in this process, for all its threads: tifffile locks what they share."""

    def __init__(self, path: str) -> None:
        try:
            import tifffile
            from tifffile import zarr as _  # noqa: F401  absent in versions before zarr 3
        except ImportError as error:
            raise JobError(f"kind: tiff needs tifffile of 2025.6 or later: {INSTALL}") from error
        self.file = tifffile.TiffFile(path)
        self.others = companions(self.file, path)
        self._arrays: dict[tuple[int, int], Any] = {}

    def array(self, series: int, level: int) -> Any:
        """A level as a Zarr array whose chunks are decoded as they are read."""
        import zarr

        if (series, level) not in self._arrays:
            page = self.file.series[series].levels[level].keyframe
            if int(page.compression) not in PLAIN:
                across = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
                vars(page)["decode"] = bounded(page.decode, *across)
            store = self.file.series[series].aszarr(level=level, maxworkers=1)
            self._arrays[series, level] = zarr.open_array(store, mode="r")
        return self._arrays[series, level]

    def __del__(self) -> None:
        if hasattr(self, "file"):
            self.file.close()


@functools.lru_cache(maxsize=8)
def _open(path: str, _stamp: object) -> _Opened:
    return _Opened(path)


def _describe(path: str, series: int, level: int) -> _About:
    """What a file says of a level of an image; SourceError where it is damaged, JobError where it has no such image or level."""
    try:
        return _described(_open(path, stamp(path)), path, series, level)
    except TilewiseError:
        raise
    except FAULTS as error:
        raise SourceError(f"{path} cannot be opened as TIFF: {type(error).__name__}: {error}") from error


@functools.lru_cache(maxsize=64)
def _described(opened: _Opened, path: str, series: int, level: int) -> _About:
    file = opened.file
    image = _chosen(file.series, series, f"series: {series}; {path} has images")
    one = _chosen(image.levels, level, f"level: {level}; image {series} of {path} has levels")
    array, axes = opened.array(series, level), _letters(one.axes)
    _refuse(path, array, one.keyframe)
    known, names = sizes(file, image, series)
    ratio = {letter: a / b for letter, a, b in zip(axes, image.levels[0].shape, one.shape, strict=True)}
    microns = {letter: size * ratio.get(letter, 1.0) for letter, size in known.items()}
    nodata = float(one.keyframe.nodata) if "GDAL_NODATA" in one.keyframe.tags else None
    return _About(array.shape, array.chunks, np.dtype(one.dtype).str, axes, len(image.levels), names, microns, opened.others, nodata)


def _chosen(given: Sequence[Any], number: int, what: str) -> Any:
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < len(given):
        raise JobError(f"{what} 0 to {len(given) - 1}")
    return given[number]


def _refuse(path: str, array: Any, page: Any) -> None:
    """Refuse what a file declares and cannot hold, or what would take more memory than a task has, before a pixel is read."""
    size, block = " x ".join(map(str, array.shape)), math.prod(array.chunks) * array.dtype.itemsize
    if block > LARGEST_BLOCK:
        raise SourceError(f"{path} declares {size} pixels in blocks of {block / 2**30:.3g} GiB; allowed: up to {LARGEST_BLOCK >> 30} GiB")
    number = math.prod(-(-n // m) for n, m in zip(array.shape, array.chunks, strict=True))
    stored = Path(path).stat().st_size
    if page.is_tiled and number * LEAST_PER_BLOCK > stored:
        raise SourceError(f"{path} declares {size} pixels in {number} blocks, more than a file of {stored} bytes can hold")
    if page.samplesperpixel > MOST_BANDS:
        raise SourceError(f"{path} declares {page.samplesperpixel} bands; allowed: up to {MOST_BANDS}")
    if int(page.compression) != UNCOMPRESSED:
        try:
            import imagecodecs as _  # noqa: F401  tifffile asks for it only once it decodes
        except ImportError as error:
            kind = getattr(page.compression, "name", page.compression)
            raise JobError(f"kind: tiff; {path} is compressed with {kind}, which needs imagecodecs: {INSTALL}") from error


def _letters(axes: str) -> str:
    """Axes as `layout` knows them: samples are channels, and pages of which nothing is said are planes."""
    found = axes.lower()
    if "c" not in found:
        found = found.replace("s", "c")
    if "z" not in found:
        found = found.replace("q", "z", 1) if "q" in found else found.replace("i", "z", 1)
    return found
