"""Read DICOM whole slides through wsidicom."""

from __future__ import annotations

import functools
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import JobError, SourceError, TilewiseError, nearest
from pipeline.image.frame import Frame
from pipeline.image.grid import Box
from pipeline.sources import checked_numbers
from pipeline.sources.axes import choose_bands, native
from pipeline.sources.declared_sizes import LARGEST_BLOCK
from pipeline.sources.fingerprints import of_file, stamp
from pipeline.sources.nodata_rules import COLOURS, by_colour, is_partly_read, together
from pipeline.sources.overviews import around, coarsest

SAMPLED = 64
"""The most files that a fingerprint reads."""
INSTALL = "pip install 'tilewise[dicom]'"


@dataclass(frozen=True)
class DicomSlide:
    """The slide of a DICOM series."""

    path: str
    """A folder of .dcm files of one series, or one of these files."""

    level: int = 0
    """0: the finest level; k: the k-th coarser one."""

    bands: tuple[int | str, ...] | None = None
    """Bands to read, by number from 1, in any order; None: all."""

    optical_path: str | None = None
    """The identifier of the optical path; None: the slide's first."""

    nodata: float | None = None
    """The value that means "not measured"."""

    nodata_by: str | None = None
    """``band``: each band is measured or missing on its own. ``pixel``: a pixel is missing, in all
    bands, if all bands have nodata. None: by pixel for red, green and blue, where nodata may be a
    valid value of one band.
    """

    @functools.cached_property
    def frame(self) -> Frame:
        """The image's frame; SourceError if the slide cannot be opened, JobError if there is no
        such level or band.
        """
        about = self._about
        names = tuple(str(k + 1) for k in range(self._about.bands))
        return Frame(
            shape=about.shapes[self.level],
            bands=tuple(names[k] for k in self._chosen),
            dtype=checked_numbers(np.dtype(about.dtype), self.path),
            nodata=None if self._partly else self.nodata,
            masked=self._partly,
            together=together(
                self.nodata_by,
                len(self._chosen),
                range(len(self._chosen)) if self._colour else (),
            ),
            pixel_size=about.microns[self.level],
            unit="micrometer",
            chunks=tuple(
                min(n, m)
                for n, m in zip(about.tiles[self.level], about.shapes[self.level], strict=True)
            ),
        )

    def read(self, box: Box) -> npt.NDArray[Any]:
        """The pixels in a box, (band, row, column); SourceError if they cannot be read."""
        return self._read(self.level, box)

    def glance(self, box: Box, step: int) -> npt.NDArray[Any]:
        """About every ``step``-th pixel, from the coarsest level that has enough pixels."""
        shapes = self._about.shapes
        level = coarsest(shapes, self.level, step)
        held, places = around(box, step, shapes[self.level], shapes[level])
        return native(self._read(level, held)[:, *places])

    @property
    def files(self) -> tuple[str, ...]:
        """The file, or the folder of the series."""
        return (self.path,)

    @property
    def facts(self) -> dict[str, Any]:
        """Facts about the image besides its frame."""
        about = self._about
        paths = self._opened.paths
        return {
            "format": "DICOM whole slide",
            "level": self.level,
            "levels": [list(shape) for shape in about.shapes],
            "channels": [str(k + 1) for k in range(about.bands)],
            "colours": list(COLOURS) if self._colour else None,
            "optical_paths": paths,
            "sizes": dict(
                zip(
                    "yx",
                    (f"{size:g} micrometer" for size in about.microns[self.level]),
                    strict=True,
                )
            ),
            "files": [file.name for file in _files(self.path)][:SAMPLED],
            "not_understood": [f"further optical paths that are not read: {', '.join(paths[1:])}"]
            if len(paths) > 1 and self.optical_path is None
            else [],
        }

    def mask(self, box: Box, step: int = 1) -> npt.NDArray[np.bool_]:
        """Where any of red, green and blue is not nodata, also if only some of them are read: (1,
        row, column), with the shape of a glance.
        """
        values = replace(self, bands=None).glance(box, step)
        good = values != self.nodata
        return by_colour(good, self._chosen[:1], self._colour)

    @property
    def masked_by(self) -> str:
        """What the mask is derived from."""
        return "nodata"

    @property
    def _chosen(self) -> tuple[int, ...]:
        return choose_bands(self.bands, [str(k + 1) for k in range(self._about.bands)])

    @property
    def _partly(self) -> bool:
        """Whether bands that are not read decide where the image was measured."""
        asked = self.nodata is not None and self.nodata_by is None
        return asked and is_partly_read(self._colour, self._chosen)

    @property
    def _colour(self) -> tuple[int, ...]:
        """The bands that are red, green and blue. A slide has these three, or one band."""
        number = self._about.bands
        return tuple(range(number)) if number == len(COLOURS) else ()

    def fingerprint(self) -> dict[str, Any]:
        """The number and sizes of the files, and the contents of an even sample of them."""
        files = _files(self.path)
        chosen = (
            files
            if len(files) <= SAMPLED
            else [files[k * (len(files) - 1) // (SAMPLED - 1)] for k in range(SAMPLED)]
        )
        choice = {"level": self.level, "optical_path": self.optical_path}
        return {
            "kind": "dicom",
            "bytes": [file.stat().st_size for file in files],
            "sample": [of_file(file) for file in chosen],
            **choice,
        }

    @functools.cached_property
    def _about(self) -> _About:
        opened = self._opened
        if isinstance(self.level, bool) or not 0 <= self.level < len(opened.about.shapes):
            raise JobError(
                f"level: {self.level}; {self.path} has levels 0 to {len(opened.about.shapes) - 1}"
            )
        return opened.about

    @property
    def _opened(self) -> _Opened:
        try:
            return _open(
                self.path, self.optical_path, tuple(stamp(str(file)) for file in _files(self.path))
            )
        except TilewiseError:
            raise
        except _faults() as error:
            raise SourceError(
                f"{self.path} cannot be opened as a DICOM slide: {type(error).__name__}: {error}"
            ) from error

    def _read(self, level: int, box: Box) -> npt.NDArray[Any]:
        try:
            block = self._opened.region(level, box)
        except _faults() as error:
            raise SourceError(
                f"{self.path}: {box} cannot be read: {type(error).__name__}: {error}"
            ) from error
        return native(
            block[list(choose_bands(self.bands, [str(k + 1) for k in range(len(block))]))]
        )


@dataclass(frozen=True)
class _About:
    """The levels of a slide, from the finest: (row, column) of the level, of a pixel and of
    a tile.
    """

    shapes: tuple[tuple[int, int], ...]
    microns: tuple[tuple[float, float], ...]
    tiles: tuple[tuple[int, int], ...]
    bands: int
    dtype: str


class _Opened:
    """A slide that is open in this process; wsidicom locks what threads share."""

    slide: Any = None
    """None until it is opened, which may fail."""

    def __init__(self, path: str, optical_path: str | None) -> None:
        try:
            import wsidicom
        except ImportError as error:
            raise JobError(f"kind: dicom needs wsidicom: {INSTALL}") from error
        self.slide = wsidicom.WsiDicom.open([str(file) for file in _files(path)])
        self.optical_path = optical_path
        levels = list(self.slide.levels)
        self.paths = sorted({name for level in levels for name in level.optical_paths})
        if optical_path is not None and optical_path not in self.paths:
            raise JobError(
                f"optical_path: {optical_path!r}; {path} has others; "
                f"{nearest(optical_path, self.paths)}"
            )
        self.numbers = [level.level for level in levels]
        shapes = tuple((level.size.height, level.size.width) for level in levels)
        tiles = tuple((level.tile_size.height, level.tile_size.width) for level in levels)
        if (most := max(rows * columns for rows, columns in tiles)) * 4 > LARGEST_BLOCK:
            raise SourceError(
                f"{path} has tiles of {most} pixels; allowed: up to {LARGEST_BLOCK // 4}"
            )
        microns = tuple((float(level.mpp.height), float(level.mpp.width)) for level in levels)
        first = self.region(len(levels) - 1, Box((0, 0), (1, 1)))
        self.about = _About(shapes, microns, tiles, len(first), first.dtype.str)

    def region(self, level: int, box: Box) -> npt.NDArray[Any]:
        """The pixels of a box: (band, row, column)."""
        top, left = box.start
        height, width = box.shape
        picture = self.slide.read_region(
            (left, top), self.numbers[level], (width, height), path=self.optical_path
        )
        values = np.asarray(picture)
        return values[None] if values.ndim == 2 else np.moveaxis(values, -1, 0)

    def __del__(self) -> None:
        if self.slide is not None:
            self.slide.close()


@functools.lru_cache(maxsize=8)
def _open(path: str, optical_path: str | None, _stamps: object) -> _Opened:
    return _Opened(path, optical_path)


def _files(path: str) -> list[Path]:
    """The files of a slide."""
    return sorted(Path(path).glob("*.dcm")) if Path(path).is_dir() else [Path(path)]


def _faults() -> tuple[type[Exception], ...]:
    """The errors that wsidicom, pydicom and their decoders raise for damaged files."""
    from pydicom.errors import InvalidDicomError
    from wsidicom import errors

    # wsidicom's errors have no common base
    own = (
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    )
    plain = (
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        ArithmeticError,
        AssertionError,
        EOFError,
        MemoryError,
        RuntimeError,
    )
    return InvalidDicomError, *own, OSError, struct.error, *plain
