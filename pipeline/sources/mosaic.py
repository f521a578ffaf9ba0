"""Several raster files on one pixel grid, read as one image."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import JobError, SourceError
from pipeline.image.frame import Frame
from pipeline.image.grid import Box
from pipeline.image.transform import IDENTITY, as_matrix, begun_at
from pipeline.sources.axes import native
from pipeline.sources.contract import thinned, where_measured
from pipeline.sources.gdal_facts import gdal_facts
from pipeline.sources.raster import RasterFile

SAMPLED = 64
"""Files that a fingerprint looks into."""
SHOWN = 8
"""Files that `Mosaic.facts` lists."""


@dataclass(frozen=True)
class Mosaic:
    """Rasters of one CRS and one grid of pixels. Where several were measured at a pixel, the first
    of them is on top.
    """

    path: tuple[str, ...]
    """The files, from the top down."""

    bands: tuple[int | str, ...] | None = None
    """Bands to read of each, by number from 1 or by description, in any order; None: all but alpha.
    """

    level: int = 0
    """0: full resolution; k: the k-th overview of each, where these too lie on one grid."""

    nodata: float | None = None
    """The value that means "not measured", in place of the files' own."""

    nodata_by: str | None = None
    """``band``: what was measured is a fact of each band. ``pixel``: a pixel is missing, in all
    bands, where all bands have nodata. None: by band, and by pixel for red, green and blue of one
    colour, in which nodata may be a colour.
    """

    scaled: bool = False
    """Whether values are multiplied by each file's scale and its offset added."""

    colours: bool = False
    """Whether numbers of a colour table are read as red, green and blue."""

    snap: float = 0.1
    """Pixels, up to 0.5, by which a file may be moved to lie on the first one's grid."""

    @functools.cached_property
    def frame(self) -> Frame:
        """The description of the smallest image that holds all files. SourceError names two files
        that do not fit each other.
        """
        if not 0 <= self.snap <= 0.5:
            raise JobError(f"snap: {self.snap!r}; allowed: 0 to 0.5 pixels")
        first = self._first
        extent = self._extent
        corner = self._placed[:, :2].min(axis=0).tolist()  # as the first file counts
        return replace(
            first,
            shape=extent,
            transform=begun_at(first.transform or IDENTITY, *corner),
            masked=True,
            chunks=tuple(min(n, m) for n, m in zip(first.chunks, extent, strict=True)),
        )

    def read(self, box: Box) -> npt.NDArray[Any]:
        """The pixels in a box, (band, row, column). Where no file was measured they are nodata, or
        without that 0 or NaN.
        """
        return self.glance(box, 1)

    def glance(self, box: Box, step: int) -> npt.NDArray[Any]:
        """About every ``step``-th pixel, from an overview where there is one."""
        dtype = np.dtype(self.frame.dtype)
        shape = (len(self.frame.bands), *thinned(box.shape, step))
        block = np.full(shape, _nothing(self.frame.nodata, dtype), dtype)
        missing = np.ones(block.shape, bool)
        for number in self._within(box):
            own, place = self._thinned(number, box, step)
            left = missing[(slice(None), *place)]
            if not left.any():
                continue
            part = self._part(number)
            values = part.glance(own, step) if step > 1 else part.read(own)
            taken = left & where_measured(part, own, values, step)
            block[(slice(None), *place)][taken] = values[taken]
            left &= ~taken
        return native(block)

    def mask(self, box: Box, step: int = 1) -> npt.NDArray[np.bool_]:
        """Where each band of a box lies in a file, and in its mask if it has one: (band, row,
        column), of the shape of a glance.
        """
        good = np.zeros((len(self.frame.bands), *thinned(box.shape, step)), bool)
        for number in self._within(box):
            own, place = self._thinned(number, box, step)
            inside = good[(slice(None), *place)]
            if inside.size:
                part = self._part(number)
                inside |= part.mask(own, step) if part.frame.masked else True
        return good

    @property
    def facts(self) -> dict[str, Any]:
        """What is known of the image besides its frame."""
        first = gdal_facts(self.path[0], self.frame.bands, level=self.level, scaled=self.scaled)
        number = len(self.path)
        more = [f"and {number - SHOWN} more"] if number > SHOWN else []
        what = f"mosaic of {number} files, of which the first is {first.get('format')}"
        return {**first, "format": what, "files": [*self.path[:SHOWN], *more], "levels": None}

    @property
    def files(self) -> tuple[str, ...]:
        """The files, from the top down."""
        return self.path

    @property
    def masked_by(self) -> str:
        """What the mask stands for."""
        return "no file, or its mask"

    def fingerprint(self) -> dict[str, Any]:
        """Where each file lies, how large it is, and what an even sample of them holds."""
        number = len(self.path)
        looked = (
            range(number)
            if number <= SAMPLED
            else [k * (number - 1) // (SAMPLED - 1) for k in range(SAMPLED)]
        )
        sizes = [Path(path).stat().st_size for path in self.path]
        return {
            "kind": "mosaic",
            "boxes": self._boxes.tolist(),
            "bytes": sizes,
            "sample": [self._part(k).fingerprint() for k in looked],
        }

    @functools.cached_property
    def _first(self) -> Frame:
        return self._part(0).frame

    @functools.cached_property
    def _placed(self) -> npt.NDArray[np.int64]:
        """(file, 4): first row, first column, end row and end column of each file, in pixels of the
        first file.
        """
        found: npt.NDArray[np.int64] = np.array(
            [self._box(number) for number in range(len(self.path))], np.int64
        )
        found[:, 1::2] += _around(found[:, 1::2], self._first)[:, None]
        return found

    @functools.cached_property
    def _boxes(self) -> npt.NDArray[np.int64]:
        """The same, in pixels of the whole image. It is sent to the workers with the reader."""
        found: npt.NDArray[np.int64] = self._placed - np.tile(self._placed[:, :2].min(axis=0), 2)
        return found

    @property
    def _extent(self) -> tuple[int, ...]:
        return tuple(self._boxes[:, 2:].max(axis=0).tolist())

    def _box(self, number: int) -> tuple[int, int, int, int]:
        """Where a file lies, in pixels of the first file; SourceError if the two do not fit."""
        path = self.path[number]
        frame = self._part(number).frame
        _refuse(self.path[0], self._first, path, frame)
        grid, own = (as_matrix(each.transform or IDENTITY) for each in (self._first, frame))
        column, row = np.linalg.solve(grid[:, :2], own[:, 2] - grid[:, 2])
        # how far a pixel's sides differ from those of the first file's
        turned = np.linalg.solve(grid[:, :2], own[:, :2]) - np.eye(2)
        off = max(abs(column - round(column)), abs(row - round(row))) + float(
            (np.abs(turned) @ frame.shape[::-1]).max()
        )
        if off > self.snap:
            raise SourceError(
                f"{path} is not on the pixel grid of {self.path[0]}: it is {off:.3g} pixels off, "
                f"and {self.snap:g} are allowed; "
                "resample it first (gdalwarp -tap -tr), or let it be moved: snap, up to 0.5"
            )
        return (
            round(row),
            round(column),
            round(row) + frame.shape[0],
            round(column) + frame.shape[1],
        )

    def _within(self, box: Box) -> list[int]:
        """The files that share a pixel with a box, from the top down."""
        meets = (self._boxes[:, :2] < box.stop).all(axis=1) & (self._boxes[:, 2:] > box.start).all(
            axis=1
        )
        return np.flatnonzero(meets).tolist()

    def _thinned(self, number: int, box: Box, step: int) -> tuple[Box, tuple[slice, ...]]:
        """What is read of a file for every ``step``-th pixel of a box: a box in pixels of the file,
        and its place in the thinned block, as slices.
        """
        corner = self._boxes[number, :2].tolist()
        end = self._boxes[number, 2:].tolist()
        low = [max(0, -(-(a - o) // step)) for a, o in zip(corner, box.start, strict=True)]
        high = [
            -(-(min(b, s) - o) // step) for b, s, o in zip(end, box.stop, box.start, strict=True)
        ]
        start = [o + k * step - a for o, k, a in zip(box.start, low, corner, strict=True)]
        stop = [min(b, s) - a for b, s, a in zip(end, box.stop, corner, strict=True)]
        return Box(tuple(start), tuple(stop)), tuple(
            slice(a, max(a, b)) for a, b in zip(low, high, strict=True)
        )

    def _part(self, number: int) -> RasterFile:
        return _raster(
            self.path[number],
            self.bands,
            self.level,
            self.nodata,
            self.nodata_by,
            self.scaled,
            self.colours,
        )


@functools.lru_cache(maxsize=256)
def _raster(
    path: str,
    bands: Any,
    level: int,
    nodata: float | None,
    nodata_by: str | None,
    scaled: bool,
    colours: bool,
) -> RasterFile:
    """A part with its frame, described once per process."""
    return RasterFile(path, bands, level, nodata, nodata_by, scaled, colours)


def _nothing(nodata: float | None, dtype: np.dtype[Any]) -> float:
    """The value of pixels without a file: nodata if the type can hold it, otherwise NaN or 0."""
    if dtype.kind == "f":
        return nodata if nodata is not None and abs(nodata) <= np.finfo(dtype).max else np.nan
    least = np.iinfo(dtype).min
    most = np.iinfo(dtype).max
    return (
        nodata if nodata is not None and least <= nodata <= most and nodata == round(nodata) else 0
    )


def _around(columns: npt.NDArray[np.int64], first: Frame) -> npt.NDArray[np.int64]:
    """By how many columns each file is moved, so that files on both sides of the antimeridian lie
    side by side.

    Nothing is moved unless 360 degrees are a whole number of pixels, and the widest gap between
    files would lie inside the image.

    Parameters
    ----------
    columns
        (file, 2): the first column and the end column of each file.
    first
        The frame of the first file.
    """
    a, b = (first.transform or IDENTITY)[:2]
    circle = round(360 / abs(a)) if a else 0
    if (
        first.unit != "degree"
        or b
        or not circle
        or abs(circle * abs(a) - 360) > 1e-6 * abs(a) * circle
    ):
        return np.zeros(len(columns), np.int64)
    order = np.argsort(columns[:, 0])
    reached = np.maximum.accumulate(columns[order, 1])
    gaps = columns[order[1:], 0] - reached[:-1]
    beyond = circle - (reached[-1] - columns[order[0], 0])
    widest = int(gaps.argmax()) if len(gaps) else 0
    moved = np.zeros(len(columns), np.int64)
    if len(gaps) and gaps[widest] > beyond >= 0:
        moved[order[: widest + 1]] = circle
    return moved


def _refuse(top: str, first: Frame, path: str, frame: Frame) -> None:
    """SourceError or JobError where two files are not parts of one image.

    Parameters
    ----------
    top, first
        The path and the frame of the first file.
    path, frame
        Those of another.
    """
    if frame.transform is None:
        raise JobError(
            f"path: {path} says nothing about where it lies; allowed in a mosaic: files with a "
            f"transform"
        )
    pairs = {
        "CRS": (_crs(first.crs), _crs(frame.crs)),
        "pixel size": (
            tuple(f"{n:.4g}" for n in first.pixel_size),
            tuple(f"{n:.4g}" for n in frame.pixel_size),
        ),
        "bands": (first.bands, frame.bands),
        "type": (first.dtype, frame.dtype),
        "nodata": (str(first.nodata), str(frame.nodata)),
    }
    for what, (one, other) in pairs.items():
        if one != other:
            shown = [
                " x ".join(value) if isinstance(value, tuple) else value for value in (one, other)
            ]
            raise SourceError(
                f"{top} and {path} are no parts of one image: {what} {shown[0]} and {shown[1]}; "
                f"allowed: the same in all"
            )


def _crs(wkt: str | None) -> str:
    """A name that is the same for equal CRSs, however they are written."""
    if wkt is None:
        return "none"
    from rasterio import CRS

    found = CRS.from_wkt(wkt)
    code = found.to_authority(confidence_threshold=100)
    return ":".join(code) if code else str(found.to_wkt())
