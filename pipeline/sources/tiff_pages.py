"""Open TIFFs with tifffile, once per process: the metadata of each level of each image, and which
tiles were written.
"""

from __future__ import annotations

import asyncio
import enum
import functools
import logging
import math
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np

from pipeline.errors import JobError, SourceError, TilewiseError
from pipeline.sources.bounded_pictures import PLAIN, bounded
from pipeline.sources.declared_sizes import LEAST_PER_BLOCK, check_bands, check_block, check_fits
from pipeline.sources.fingerprints import stamp
from pipeline.sources.ome_xml import settled
from pipeline.sources.tiff_blocks import Merged, Written, merged, written
from pipeline.sources.tiff_metadata import Said, said

UNCOMPRESSED = 1
"""TIFF's number for no compression. Everything else is decoded by imagecodecs, because tifffile's
own decoders have no bound.
"""
PATIENCE = 10.0
"""How long to wait, in seconds, for reads that are no longer needed."""
ALPHA = (1, 2)
"""TIFF's numbers for extra samples that are alpha, premultiplied or not."""
COLOURS = {
    0: ("grey",),
    1: ("grey",),
    2: ("red", "green", "blue"),
    3: ("palette",),
    6: ("red", "green", "blue"),
}
"""The meaning of samples by TIFF's photometric interpretation. Luma and chroma are decoded to
colours.
"""
INSTALL = "pip install 'tilewise[slides]'"
FAULTS = (
    *(
        ET.ParseError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        ArithmeticError,
        AssertionError,
        struct.error,
    ),
    *(RuntimeError, OSError, MemoryError),
)
"""The errors that tifffile, imagecodecs and zarr raise for damaged files."""


@dataclass(frozen=True, slots=True)
class Description:
    """The metadata of one level of one image."""

    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: str
    axes: str
    levels: tuple[tuple[int, ...], ...]
    """The shapes of all levels."""
    said: Said = field(default_factory=Said)
    microns: Mapping[str, float] = field(default_factory=dict)
    """The pixel size of this level in micrometres, along each axis for which it is known."""
    nodata: float | None = None
    """The value of GDAL's nodata tag."""
    samples: tuple[str, ...] = ()
    """The meaning of each band: red, green, blue, grey, palette, alpha, undefined."""
    missing: tuple[int, int] = (0, 0)
    """How many blocks were never written, and how many there are."""
    others: tuple[str, ...] = ()
    """Other files that this one refers to."""
    unclear: tuple[str, ...] = ()
    """Warnings about metadata that were not understood."""
    guessed: bool = False
    """Whether the meaning of the pages is a guess: nothing says what they are."""
    kind: str = ""
    compression: str = ""
    pages: int = 1
    images: tuple[tuple[str, tuple[int, ...]], ...] = ()


class Opened:
    """An open file, shared by all threads of this process: tifffile locks what they share."""

    file: Any = None
    """None until it is opened, which may fail."""

    def __init__(self, path: str) -> None:
        try:
            import tifffile
            from tifffile import zarr as _  # noqa: F401  absent in versions before zarr 3
        except ImportError as error:
            raise JobError(f"kind: tiff needs tifffile of 2025.6 or later: {INSTALL}") from error
        self.others: tuple[str, ...] = ()
        with _heard(Path(path).name) as self.told:
            self.file = tifffile.TiffFile(path)
            if given := self.file.ome_metadata:
                text, self.others = settled(given, path)
                if text != given:
                    self.file.close()
                    self.file = tifffile.TiffFile(path, omexml=text)
            self.series = self.file.series
        self.stamps = _stamps(self.others)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._arrays: dict[tuple[int, int], Any] = {}
        self._written: dict[tuple[int, int], Written] = {}

    def array(self, series: int, level: int) -> Any:
        """A level as a Zarr array that decodes chunks when they are read."""
        import zarr

        if (series, level) not in self._arrays:
            page = self.series[series].levels[level].keyframe
            if int(page.compression) not in PLAIN:
                across = (
                    (page.tilelength, page.tilewidth)
                    if page.is_tiled
                    else (page.rowsperstrip, page.imagewidth)
                )
                vars(page)["decode"] = bounded(page.decode, *across)
            store = self.series[series].aszarr(level=level, maxworkers=1)
            vars(store)["get"] = self._heard(store.get)
            array = zarr.open_array(store, mode="r")
            self._arrays[series, level] = merged(array, self.series[series].axes)
        return self._arrays[series, level]

    def _heard(self, get: Callable[..., Any]) -> Callable[..., Any]:
        """A wrapper of ``get`` that keeps the event loop in which Zarr reads blocks, for
        `settle`.
        """

        async def heard(*args: Any, **more: Any) -> Any:
            self._loop = asyncio.get_running_loop()
            return await get(*args, **more)

        return heard

    def settle(self) -> None:
        """Wait until no read is in progress.

        When one block fails, Zarr leaves the reads of the others running, and a process that exits
        then logs an error for each of them.
        """
        if self._loop is not None:
            asyncio.run_coroutine_threadsafe(_others(), self._loop).result()

    def blocks(self, series: int, level: int) -> Written:
        """Which blocks of a level were written."""
        if (series, level) not in self._written:
            array = self.array(series, level)
            stored = array.array if isinstance(array, Merged) else array
            self._written[series, level] = written(
                self.series[series].levels[level], stored.shape, stored.chunks
            )
        return self._written[series, level]

    def presence(self, series: int, level: int) -> Any:
        """The mask of what was written of a level, indexed like its array."""
        return merged(self.blocks(series, level), self.series[series].axes)

    def __del__(self) -> None:
        if self.file is not None:
            self.file.close()


async def _others() -> None:
    if others := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(others, timeout=PATIENCE)


def opened(path: str) -> Opened:
    """An open file. Hold it while reading: a file that nobody holds is closed."""
    file = _open(path, stamp(path))
    if file.stamps != _stamps(file.others):
        _open.cache_clear()
        file = _open(path, stamp(path))
    return file


def describe(path: str, series: int, level: int) -> Description:
    """The metadata of a level of an image; SourceError if the file is damaged, JobError if it has
    no such image or level.
    """
    try:
        return _described(opened(path), path, series, level)
    except TilewiseError:
        raise
    except FAULTS as error:
        raise SourceError(
            f"{path} cannot be opened as TIFF: {type(error).__name__}: {error}"
        ) from error


def _stamps(paths: Sequence[str]) -> tuple[object, ...]:
    return tuple(stamp(path) if Path(path).exists() else None for path in paths)


@functools.lru_cache(maxsize=8)
def _open(path: str, _stamp: object) -> Opened:
    return Opened(path)


@functools.lru_cache(maxsize=64)
def _described(file: Opened, path: str, series: int, level: int) -> Description:
    image = _chosen(file.series, series, f"series: {series}; {path} has images")
    one = _chosen(image.levels, level, f"level: {level}; image {series} of {path} has levels")
    page = one.keyframe
    _refuse_page(path, page)
    array = file.array(series, level)
    _refuse(path, array, one)
    blocks = file.blocks(series, level).blocks
    axes = letters(image.axes)
    facts = said(file.file, series)
    shapes = tuple(map(_shape, image.levels))
    ratio = {letter: a / b for letter, a, b in zip(axes, shapes[0], shapes[level], strict=True)}
    return Description(
        shape=array.shape,
        chunks=array.chunks,
        dtype=np.dtype(one.dtype).str,
        axes=axes,
        levels=shapes,
        said=facts,
        microns={letter: size * ratio.get(letter, 1.0) for letter, size in facts.microns.items()},
        nodata=float(page.nodata) if "GDAL_NODATA" in page.tags else None,
        samples=_samples(page, array.shape[axes.index("c")] if "c" in axes else 1),
        missing=(int(blocks.size - np.count_nonzero(blocks)), blocks.size),
        others=file.others,
        unclear=tuple(file.told),
        guessed="z" in axes and "z" not in image.axes.lower(),
        kind=image.kind,
        compression=_compression(page).lower(),
        pages=len(file.file.pages),
        images=tuple((each.name or str(k), _shape(each)) for k, each in enumerate(file.series)),
    )


def _chosen(given: Sequence[Any], number: int, what: str) -> Any:
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < len(given):
        raise JobError(f"{what} 0 to {len(given) - 1}")
    return given[number]


def _refuse_page(path: str, page: Any) -> None:
    """Raise JobError if a page cannot be decoded here."""
    check_bands(path, page.samplesperpixel)
    if not decodable(page):
        raise JobError(
            f"kind: tiff; {path} is compressed with {_compression(page)}, which needs imagecodecs: "
            f"{INSTALL}"
        )


def _compression(page: Any) -> str:
    """The name of a compression, or its number if tifffile does not know it."""
    known = page.compression
    return known.name if isinstance(known, enum.Enum) else str(known)


def decodable(page: Any) -> bool:
    """Whether the decoder of a page is installed. tifffile itself checks only while decoding."""
    if int(page.compression) == UNCOMPRESSED:
        return True
    try:
        import imagecodecs as _  # noqa: F401
    except ImportError:
        return False
    return True


def _refuse(path: str, array: Any, series: Any) -> None:
    """Refuse, before any pixel is read, a file that is too short for the size that it declares, and
    blocks that need more memory than a task has.
    """
    size = f"{path} declares {' x '.join(map(str, array.shape))} pixels"
    blocks = f"{size} in blocks of {' x '.join(map(str, array.chunks))}"
    check_block(blocks, math.prod(array.chunks) * array.dtype.itemsize)
    stored = Path(path).stat().st_size
    if series.keyframe.is_tiled:
        number = math.prod(-(-n // m) for n, m in zip(array.shape, array.chunks, strict=True))
        check_fits(f"{size} in {number} blocks", number * LEAST_PER_BLOCK, stored)
    if (series.dataoffset or 0) > 0:
        there = Path(series.keyframe.parent.filehandle.path).stat().st_size
        check_fits(f"{size} in one piece", series.dataoffset + series.nbytes, stored, there)


def letters(axes: str) -> str:
    """Axes in the letters of `layout`: samples are channels, and pages of unknown meaning are
    planes.
    """
    found = axes.lower()
    found = found.replace("s", "") if "c" in found else found.replace("s", "c")
    if "z" not in found:
        found = found.replace("q", "z", 1) if "q" in found else found.replace("i", "z", 1)
    return found


def _shape(series: Any) -> tuple[int, ...]:
    """The shape of a series as it is read."""
    return tuple(merged(series, series.axes).shape)


def _samples(page: Any, bands: int) -> tuple[str, ...]:
    """The meaning of each band, from the photometric interpretation and the extra samples; repeated
    if channels have several samples.
    """
    many = page.samplesperpixel
    extra = [int(each) for each in page.extrasamples]
    known = [*COLOURS.get(int(page.photometric), ())][: many - len(extra)]
    each = (
        known
        + ["undefined"] * (many - len(extra) - len(known))
        + ["alpha" if kind in ALPHA else "undefined" for kind in extra]
    )
    return tuple(each * (bands // many)) if bands % many == 0 else ("grey",) * bands


@contextmanager
def _heard(name: str) -> Iterator[list[str]]:
    """Collects what tifffile logs about a file while it is opened."""
    told: list[str] = []
    handler = logging.Handler()

    def emit(record: logging.LogRecord) -> None:
        if name in (message := record.getMessage()):
            told.append(message.partition("> ")[2] or message)

    handler.emit = emit  # type: ignore[method-assign]
    logger = logging.getLogger("tifffile")
    logger.addHandler(handler)
    try:
        yield told
    finally:
        logger.removeHandler(handler)
