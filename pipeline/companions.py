"""What a segmenter is given besides the image: seeds or markers, as points, as a raster or as a vector file.

A segmenter names the options that hold such things in its attribute ``companions``. Before a run, what the job gives there (a list, a path)
is opened here against the image, and what does not fit it is refused; the segmenter then holds something that `read`s a box of it. A
segmenter itself knows nothing of files. (A room that DESIGN does not name: sources and segmenters are on one floor.)

Shapes are drawn pixel by pixel: a pixel belongs to a polygon that holds its middle. A scan-line renderer may decide in another way in
another window.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from pipeline import vectors
from pipeline.errors import JobError, SourceError
from pipeline.frame import Frame
from pipeline.grid import Box
from pipeline.segmenters import Segmenter
from pipeline.segmenters.given import Points
from pipeline.sources import Source, open_source, where_measured

VECTORS = (".geojson", ".json", ".gpkg", ".shp", ".fgb", ".parquet", ".geoparquet")
"""How the names of vector files end."""
KEYS = {"path", "points", "crs", "attribute", "layer"}


@runtime_checkable
class Companion(Protocol):
    """Numbers of pixels, on the image's grid."""

    def read(self, box: Box) -> npt.NDArray[np.int64]:
        """The numbers in a box, 0 for none."""
        ...

    def fingerprint(self) -> Any:
        """What JSON can hold and changes when what is read does."""
        ...


@dataclass(frozen=True, slots=True)
class Raster:
    """Another image of the same grid, whose first band holds numbers."""

    source: Source

    def read(self, box: Box) -> npt.NDArray[np.int64]:
        """The first band, 0 where it has no data."""
        block = self.source.read(box)
        return np.where(where_measured(self.source, box, block)[0], block[0], 0).astype(np.int64)

    def fingerprint(self) -> Any:
        """The file's."""
        return self.source.fingerprint()


@dataclass(frozen=True, slots=True)
class Shapes:
    """Points, lines and polygons, in pixels: x along columns, y along rows, from the upper left corner of the first pixel."""

    wkb: tuple[bytes, ...]
    numbers: tuple[int, ...]

    def read(self, box: Box) -> npt.NDArray[np.int64]:
        """The number of the last shape at each pixel: polygons hold its middle, lines and points lie in it."""
        import shapely

        found = np.zeros(box.shape, np.int64)
        (top, left), (bottom, right) = box.start, box.stop
        shapes = shapely.from_wkb(self.wkb)
        low_x, low_y, high_x, high_y = shapely.bounds(shapes).T
        for k in np.flatnonzero((low_x < right) & (high_x >= left) & (low_y < bottom) & (high_y >= top)).tolist():
            part = Box(
                (max(top, int(np.floor(low_y[k]))), max(left, int(np.floor(low_x[k])))),
                (min(bottom, int(np.floor(high_y[k])) + 1), min(right, int(np.floor(high_x[k])) + 1)),
            )
            rows, columns = np.mgrid[part.start[0] : part.stop[0], part.start[1] : part.stop[1]]
            if shapely.get_dimensions(shapes[k]) == 2:
                shapely.prepare(shapes[k])
                inside = shapely.contains_xy(shapes[k], columns + 0.5, rows + 0.5)
            else:
                inside = shapely.intersects(shapely.box(columns, rows, columns + 1, rows + 1), shapes[k])
            found[part.within(box)][inside] = self.numbers[k]
        return found

    def fingerprint(self) -> Any:
        """A checksum of all."""
        import hashlib

        return hashlib.sha256(b"".join(self.wkb) + repr(self.numbers).encode()).hexdigest()


def accompanied(segmenter: Segmenter, frame: Frame, where: str) -> Segmenter:
    """The segmenter with what it is given opened, suited to the image; JobError names ``where`` and what does not fit."""
    what: Any = segmenter
    for name in getattr(segmenter, "companions", ()):
        given = getattr(what, name)
        if given is not None and not isinstance(given, Companion):
            try:
                what = replace(what, **{name: open_companion(given, frame)})
            except (JobError, SourceError) as error:
                raise JobError(f"{where}.{name}: {error}") from error
    if hasattr(what, "suited"):
        try:
            what = what.suited(frame)
        except JobError as error:
            raise JobError(f"{where}: {error}") from error
    return what  # type: ignore[no-any-return]


def fingerprints(segmenter: Segmenter) -> dict[str, Any]:
    """By option, what tells apart what the segmenter was given."""
    held = {name: getattr(segmenter, name) for name in getattr(segmenter, "companions", ())}
    return {name: companion.fingerprint() for name, companion in held.items() if isinstance(companion, Companion)}


def open_companion(given: Any, frame: Frame) -> Companion:
    """What is given besides an image.

    Parameters
    ----------
    given
        Points (row, column) or (plane, row, column) in pixels, each with a number after that or not; an array or the path of a raster of
        the image's grid; the path of a vector file in the image's CRS; or a mapping: ``points`` (x, y) with their ``crs``, or ``path``
        with the ``attribute`` (an integer) and the ``layer`` that are meant.
    frame
        The image's.

    Raises
    ------
    JobError
        If something lies outside the image, in another CRS or on another grid.
    SourceError
        If a file cannot be read.
    """
    known: dict[str, Any] = (
        dict(given) if isinstance(given, Mapping) else {"points": given} if isinstance(given, (list, tuple)) else {"path": given}
    )
    if (set(known) - KEYS) or ("path" in known) == ("points" in known):
        raise JobError(f"{given!r}; allowed: points, a path, or a mapping with one of these, and crs, attribute or layer")
    if "points" in known:
        return _points(known["points"], known.get("crs"), frame)
    path = known["path"]
    if isinstance(path, (str, os.PathLike)) and os.fspath(path).lower().endswith(VECTORS):
        return _shapes(os.fspath(path), known.get("attribute"), known.get("layer"), frame)
    source = _volume(path, frame) if frame.ndim == 3 else open_source(path)
    return _raster(source, frame)


def _volume(path: Any, frame: Frame) -> Source:
    """A raster of planes; where its axes say that they are bands, of the image's number, these are the planes."""
    try:
        return open_source(path, planes="all")
    except JobError:
        source = open_source(path)
        if (len(source.frame.bands), *source.frame.shape) != frame.shape:
            return source
    return open_source(path, axes="zyx", planes="all")


def _points(given: Any, crs: str | None, frame: Frame) -> Points:
    places = Points.of(given, 2 if crs else frame.ndim)
    found = np.array(places.places)
    if crs is not None:
        _refuse_crs(crs, frame)
        found = np.stack(_to_pixels(frame, *found.T), axis=1)
    found = np.floor(found).astype(np.int64)
    _refuse_outside(found, found + 1, frame)
    return replace(places, places=tuple(map(tuple, found.tolist())))


def _raster(source: Source, frame: Frame) -> Raster:
    other = source.frame
    if other.shape != frame.shape:
        raise JobError(f"a raster of {_by(other.shape)} pixels; allowed: the image's {_by(frame.shape)}")
    if other.crs is not None and frame.crs is not None:
        _refuse_crs(other.crs, frame)
    if other.transform is not None and frame.transform is not None and not np.allclose(other.transform, frame.transform, rtol=1e-9):
        raise JobError(f"a raster whose pixels lie at {other.transform}; allowed: the image's grid, {frame.transform}")
    if np.dtype(other.dtype).kind == "f":
        raise JobError(f"a raster of {other.dtype}; allowed: integers")
    return Raster(source)


def _shapes(path: str, attribute: str | None, layer: str | None, frame: Frame) -> Shapes:
    import shapely

    if frame.ndim != 2:
        raise JobError("a vector file for a volume; allowed: points (plane, row, column), or a raster")
    found = vectors.read(path, layer, [attribute] if attribute else [])
    if found.crs is not None:
        _refuse_crs(found.crs, frame)
    shapes = shapely.from_wkb(found.wkb)
    shapes = shapely.transform(shapes, lambda xy: np.stack(_to_pixels(frame, *xy.T)[::-1], axis=1)) if frame.transform else shapes
    low_x, low_y, high_x, high_y = shapely.bounds(shapes).T
    _refuse_outside(np.floor(np.stack([low_y, low_x], axis=1)), np.stack([high_y, high_x], axis=1), frame)
    numbers = found.columns[attribute] if attribute else np.arange(1, len(shapes) + 1)
    if numbers.dtype.kind not in "iu" or (numbers < 1).any():
        raise JobError(f"attribute: {attribute!r} holds {numbers[:3].tolist()}, …; allowed: whole numbers from 1")
    return Shapes(tuple(shapely.to_wkb(shapes).tolist()), tuple(numbers.tolist()))


def _to_pixels(frame: Frame, x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Row and column of coordinates of the CRS."""
    a, b, c, d, e, f = frame.transform or (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    across, down = np.asarray(x, np.float64) - c, np.asarray(y, np.float64) - f
    scale = a * e - b * d
    return (a * down - d * across) / scale, (e * across - b * down) / scale


def _refuse_crs(given: str, frame: Frame) -> None:
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    if frame.crs is None:
        raise JobError(f"in the CRS {given[:60]!r}, and the image has none; allowed: pixels")
    mine = CRS.from_wkt(frame.crs)
    try:
        other = CRS.from_user_input(given)
    except CRSError as error:
        raise JobError(f"crs: {given!r} is no CRS: {error}") from error
    if other != mine:
        raise JobError(f"in the CRS {other.to_string()[:60]}; allowed: the image's, {mine.to_string()[:60]}")


def _refuse_outside(low: npt.NDArray[Any], high: npt.NDArray[Any], frame: Frame) -> None:
    """JobError where something that reaches from a place (row, column) to another lies outside the image."""
    outside = ((high < 0) | (low >= np.array(frame.shape))).any(axis=1) | ((low < 0) & (high <= 0)).any(axis=1)
    if outside.any():
        first = tuple(low[outside][0].astype(int).tolist())
        raise JobError(
            f"{int(outside.sum())} of {len(low)} lie outside the image, the first at pixel {first}; allowed: 0 up to {_by(frame.shape)}"
        )


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
