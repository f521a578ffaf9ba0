"""GeoTIFF, COG, PNG and JPEG, through rasterio."""

from __future__ import annotations

import functools
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import JobError, SourceError
from pipeline.frame import Frame
from pipeline.grid import Box
from pipeline.sources import checked_numbers, every
from pipeline.sources.axes import choose_bands, native
from pipeline.sources.checksum import of_file, stamp

MARKS = {b"II*\0": "GTiff", b"MM\0*": "GTiff", b"II+\0": "GTiff", b"MM\0+": "GTiff", b"\x89PNG": "PNG", b"\xff\xd8": "JPEG"}
LARGEST_PICTURE = 1 << 30
"""Values (pixels times bands) of a PNG or JPEG, which is decoded whole."""


@dataclass(frozen=True)
class GeoTiff:
    """A GeoTIFF or COG."""

    path: str
    """The file."""

    bands: tuple[int | str, ...] | None = None
    """Bands to read, by number from 1 or by description, in any order; None: all."""

    level: int = 0
    """0: full resolution; k: the k-th overview."""

    nodata: float | None = None
    """The value that means "not measured", in place of the file's own."""

    @functools.cached_property
    def frame(self) -> Frame:
        """What the image is; SourceError if the file cannot be opened, JobError if there is no such band or level."""
        file = _file(self.path, self.level)
        if len(set(file.nodatavals)) > 1 and self.nodata is None:
            raise SourceError(f"{self.path} has bands of different nodata, {file.nodatavals}; give one for all: nodata")
        a, b, c, d, e, f = tuple(file.transform)[:6]
        placed = file.crs is not None or not file.transform.is_identity
        names = self._names(file)
        blocks = file.block_shapes[0]
        return Frame(
            shape=(file.height, file.width),
            bands=tuple(names[k] for k in choose_bands(self.bands, names)),
            dtype=checked_numbers(np.dtype(file.dtypes[0]), self.path),
            nodata=self.nodata if self.nodata is not None else file.nodatavals[0],
            transform=(a, b, c, d, e, f) if placed else None,
            crs=file.crs.to_wkt() if file.crs else None,
            pixel_size=(float(np.hypot(b, e)), float(np.hypot(a, d))) if placed else (),
            unit=_unit(file.crs) if file.crs else "pixel",
            chunks=tuple(min(n, m) for n, m in zip(blocks, file.shape, strict=True)),
        )

    def read(self, box: Box) -> npt.NDArray[Any]:
        """The pixels in a box, (band, row, column); SourceError names file and box if they cannot be read."""
        return self._read(box, box.shape)

    def glance(self, box: Box, step: int) -> npt.NDArray[Any]:
        """About every ``step``-th pixel, from an overview where there is one."""
        return self._read(box, tuple(-(-n // step) for n in box.shape))

    def fingerprint(self) -> dict[str, Any]:
        """Size and checksum of the file, and which level is read."""
        return {"kind": "raster", "level": self.level, **of_file(Path(self.path))}

    def _read(self, box: Box, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        from rasterio.errors import RasterioError
        from rasterio.windows import Window

        file = _file(self.path, self.level)
        (top, left), (height, width) = box.start, box.shape
        numbers = [k + 1 for k in choose_bands(self.bands, self._names(file))]
        try:
            block = file.read(numbers, window=Window(left, top, width, height), out_shape=(len(numbers), *shape))
        except RasterioError as error:
            cause = error.__cause__ or error
            raise SourceError(
                f"{self.path}: rows {top} to {top + height}, columns {left} to {left + width} cannot be read: {cause}"
            ) from error
        return native(block)

    @staticmethod
    def _names(file: Any) -> list[str]:
        """Descriptions where they tell the bands apart; numbers elsewhere."""
        given = list(file.descriptions)
        return given if all(given) and len(set(given)) == len(given) else [str(k + 1) for k in range(file.count)]


@dataclass(frozen=True)
class Picture:
    """A PNG or JPEG. It has no parts that could be read alone, so each process decodes it whole, once."""

    path: str
    """The file."""

    bands: tuple[int | str, ...] | None = None
    """Bands to read, by number from 1, in any order; None: all."""

    nodata: float | None = None
    """The value that means "not measured"."""

    @functools.cached_property
    def frame(self) -> Frame:
        """What the image is; SourceError if the file cannot be opened or is too large to be decoded whole."""
        whole = GeoTiff(self.path, self.bands, 0, self.nodata)
        file = _file(self.path)
        if file.width * file.height * file.count > LARGEST_PICTURE:
            raise SourceError(
                f"{self.path} has {file.width} x {file.height} pixels; a PNG or JPEG may have 2^30 values; convert it to GeoTIFF"
            )
        names = whole._names(file)  # noqa: SLF001  its neighbour above
        return Frame((file.height, file.width), tuple(names[k] for k in choose_bands(self.bands, names)), file.dtypes[0], self.nodata)

    def read(self, box: Box) -> npt.NDArray[Any]:
        """The pixels in a box, (band, row, column)."""
        whole = _decoded(self.path, stamp(self.path))
        chosen = choose_bands(self.bands, [str(k + 1) for k in range(len(whole))])
        rows, columns = box.slices
        return native(whole[list(chosen), rows, columns])

    def glance(self, box: Box, step: int) -> npt.NDArray[Any]:
        """Every ``step``-th pixel."""
        return every(self.read(box), step)

    def fingerprint(self) -> dict[str, Any]:
        """Size and checksum of the file."""
        return {"kind": "picture", **of_file(Path(self.path))}


def _file(path: str, level: int = 0) -> Any:
    """The file, opened once per thread and kept open: GDAL's handles are not safe to share."""
    return _opened(path, level, stamp(path), threading.get_ident())


@functools.lru_cache(maxsize=32)
def _opened(path: str, level: int, _stamp: object, _thread: int) -> Any:
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning, RasterioError

    options = {"overview_level": level - 1} if level else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # a picture without a place is no fault
        try:
            file = rasterio.open(path, driver=_driver(path))
            number = len(file.overviews(1))
            if not 0 <= level <= number:
                raise JobError(f"level: {level}; {path} has overviews 1 to {number}, and 0 is full resolution")
            return rasterio.open(path, driver=file.driver, **options) if level else file
        except RasterioError as error:
            raise SourceError(f"{path} cannot be opened: {error}") from error


@functools.lru_cache(maxsize=2)
def _decoded(path: str, _stamp: object) -> npt.NDArray[Any]:
    from rasterio.errors import RasterioError

    try:
        return np.asarray(_file(path).read())
    except RasterioError as error:
        raise SourceError(f"{path} cannot be decoded: {error.__cause__ or error}") from error


def _driver(path: str) -> str:
    """GDAL's driver for a file, by its first bytes: no other driver is ever tried."""
    with Path(path).open("rb") as file:
        head = file.read(8)
    found = next((driver for mark, driver in MARKS.items() if head.startswith(mark)), None)
    if found is None:
        raise SourceError(f"{path} is no TIFF, PNG or JPEG: it begins with {head!r}")
    return found


def _unit(crs: Any) -> str:
    return "degree" if crs.is_geographic else str(crs.linear_units).lower()
