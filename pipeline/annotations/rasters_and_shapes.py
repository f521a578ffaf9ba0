"""Seeds and markers beside the image: as points, a raster or a vector file.

A segmenter lists the options that take such things in its attribute ``companions``. Before a run,
the job's value (a list, a path) is opened here for the image and checked; the segmenter then holds
an object that can `read` a box. Segmenters know nothing of files.

Shapes are rasterized pixel by pixel: a pixel belongs to a polygon that contains its centre. A
scan-line renderer may decide differently in another window.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from pipeline.annotations import vector_files
from pipeline.annotations.placement import Said, in_pixels, read_as, refuse_grid, refuse_outside
from pipeline.annotations.seeds import Points
from pipeline.config.extras import require
from pipeline.errors import JobError, SourceError, nearest
from pipeline.image.frame import Frame
from pipeline.image.grid import Box
from pipeline.sources import Source, open_source, where_measured

VECTORS = (".geojson", ".json", ".gpkg", ".shp", ".fgb", ".parquet", ".geoparquet")
"""Suffixes of vector files."""
SMALL = 1 << 24
"""Pixels of a raster that is checked wholly before a run begins."""
WHOLE = 2**53
"""Up to this, floats represent integers exactly."""
KEYS = {"path", "points", "crs", "attribute", "classes", "layer"}


@runtime_checkable
class Companion(Protocol):
    """Numbers of pixels on the image's grid."""

    def read(self, box: Box) -> npt.NDArray[np.int64]:
        """The numbers in a box; 0 for none."""
        ...

    def fingerprint(self) -> Any:
        """A JSON value that changes with the contents."""
        ...


@dataclass(frozen=True, slots=True)
class CompanionRaster:
    """Another image on the same grid; its first band holds the numbers."""

    source: Source

    name: str = "the raster"
    """Its name in messages."""

    def read(self, box: Box) -> npt.NDArray[np.int64]:
        """The first band in a box; 0 where it has no data."""
        return self.numbers(box)[0]

    def numbers(self, box: Box) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """The first band, and where it has data; SourceError for a float that is not an integer."""
        block = self.source.read(box)
        known = where_measured(self.source, box, block)[0]
        values = block[0]
        if values.dtype.kind != "f":
            return np.where(known, values, 0).astype(np.int64), known
        values = np.where(known, values, 0)
        if (odd := (values != np.rint(values)) | (np.abs(values) > WHOLE)).any():
            raise SourceError(
                f"{self.name} holds {values[odd][0]}; allowed: whole numbers, as floats too"
            )
        return values.astype(np.int64), known

    def fingerprint(self) -> Any:
        """The file's fingerprint."""
        return self.source.fingerprint()


@dataclass(frozen=True, slots=True)
class Shapes:
    """Points, lines and polygons in pixels from the upper left corner: x along columns, y along
    rows.
    """

    wkb: tuple[bytes, ...]
    numbers: tuple[int, ...]

    def read(self, box: Box) -> npt.NDArray[np.int64]:
        """The number of the last shape at each pixel of a box.

        Polygons contain its centre; lines and points lie in it.
        """
        import shapely

        found = np.zeros(box.shape, np.int64)
        top, left = box.start
        bottom, right = box.stop
        shapes = shapely.from_wkb(self.wkb)
        low_x, low_y, high_x, high_y = shapely.bounds(shapes).T
        for k in np.flatnonzero(
            (low_x < right) & (high_x >= left) & (low_y < bottom) & (high_y >= top)
        ).tolist():
            part = Box(
                (max(top, int(np.floor(low_y[k]))), max(left, int(np.floor(low_x[k])))),
                (
                    min(bottom, int(np.floor(high_y[k])) + 1),
                    min(right, int(np.floor(high_x[k])) + 1),
                ),
            )
            rows, columns = np.mgrid[part.start[0] : part.stop[0], part.start[1] : part.stop[1]]
            if shapely.get_dimensions(shapes[k]) == 2:
                shapely.prepare(shapes[k])
                inside = shapely.contains_xy(shapes[k], columns + 0.5, rows + 0.5)
            else:
                inside = shapely.intersects(
                    shapely.box(columns, rows, columns + 1, rows + 1), shapes[k]
                )
            found[part.within(box)][inside] = self.numbers[k]
        return found

    def fingerprint(self) -> Any:
        """A checksum of all shapes."""
        import hashlib

        return hashlib.sha256(b"".join(self.wkb) + repr(self.numbers).encode()).hexdigest()


def open_companion(given: Any, frame: Frame) -> Companion:
    """Open seeds or markers for an image.

    Parameters
    ----------
    given : object
        Points (row, column) or (plane, row, column) in pixels, each followed by a number or not; an
        array or the path of a raster on the image's grid; the path of a vector file; or a mapping.
        A mapping has ``points`` (x, y) with their ``crs``; or a ``path`` with its ``layer``, the
        ``attribute`` with numbers or, with ``classes`` in their order, names, and the ``crs`` if
        the file does not say it: ``pixels``, ``image`` or another. `pipeline.annotations.placement`
        tells how it is interpreted.
    frame : Frame
        The image.

    Returns
    -------
    Companion
        It reads boxes of the image.

    Raises
    ------
    JobError
        Something lies outside the image or on another grid, or its position is unknown.
    SourceError
        A file cannot be read.
    """
    known: dict[str, Any] = (
        dict(given)
        if isinstance(given, Mapping)
        else {"points": given}
        if isinstance(given, (list, tuple))
        else {"path": given}
    )
    if (set(known) - KEYS) or ("path" in known) == ("points" in known):
        raise JobError(
            f"{given!r}; allowed: points, a path, or a mapping with one of these, and crs, "
            f"attribute, classes or layer"
        )
    if "points" in known:
        return _points(known["points"], known.get("crs"), frame)
    path = known["path"]
    if isinstance(path, (str, os.PathLike)) and os.fspath(path).lower().endswith(VECTORS):
        return _shapes(os.fspath(path), known, frame)
    if more := sorted(set(known) - {"path"}):
        raise JobError(
            f"{more[0]}: {known[more[0]]!r} with {_called(path)}; allowed with a vector file: "
            f"{', '.join(VECTORS)}"
        )
    return _raster(path, frame)


def _volume(path: Any, frame: Frame) -> Source:
    """Read a raster as planes; also one with axes that say bands, if as many as the image's."""
    try:
        return open_source(path, planes="all")
    except JobError:
        source = open_source(path)
        if (len(source.frame.bands), *source.frame.shape) != frame.shape:
            raise
    return open_source(path, axes="zyx", planes="all")


def _points(given: Any, crs: str | None, frame: Frame) -> Points:
    places = Points.of(given, 2 if crs else frame.ndim)
    found = np.array(places.places, np.float64)
    if crs is not None:
        found = in_pixels(found, Said("points", None, asked=crs), frame)[:, ::-1]
    found = np.floor(found).astype(np.int64)
    refuse_outside(found, found + 1, frame)
    return replace(places, places=tuple(map(tuple, found.tolist())))


def _raster(path: Any, frame: Frame) -> CompanionRaster:
    name = _called(path)
    try:
        source = _volume(path, frame) if frame.ndim == 3 else open_source(path)
    except JobError as error:
        if frame.ndim == 3 and str(error).startswith("planes:"):
            raise JobError(
                f"{name} has no planes; allowed for a volume: a raster of its "
                f"{' x '.join(map(str, frame.shape))} pixels"
            ) from error
        raise
    refuse_grid(source.frame, frame, name)
    found = CompanionRaster(source, name)
    if np.dtype(source.frame.dtype).kind == "f" and frame.pixels <= SMALL:
        found.numbers(Box.whole(frame.shape))  # of a larger one it is seen when it is read
    return found


def _called(path: Any) -> str:
    return os.fspath(path) if isinstance(path, (str, os.PathLike)) else "the array"


def _shapes(path: str, known: Mapping[str, Any], frame: Frame) -> Shapes:
    require("shapely", path)
    import shapely

    if frame.ndim != 2:
        raise JobError(
            f"{path}: a vector file for a volume; allowed: points (plane, row, column), or a raster"
        )
    attribute = known.get("attribute")
    found = vector_files.read(path, known.get("layer"), [attribute] if attribute else [])
    shapes = shapely.force_2d(shapely.from_wkb(found.wkb))
    there = np.flatnonzero(~(shapely.is_missing(shapes) | shapely.is_empty(shapes)))
    if not len(there):
        raise JobError(f"{path} holds no shapes; allowed: at least one point, line or polygon")
    said = Said(path, found.crs, found.stated, known.get("crs"))
    corners = shapely.get_coordinates(shapes[there])
    moved = shapely.set_coordinates(shapes[there].copy(), in_pixels(corners, said, frame))
    low_x, low_y, high_x, high_y = shapely.bounds(moved).T
    try:
        refuse_outside(
            np.floor(np.stack([low_y, low_x], axis=1)),
            np.stack([high_y, high_x], axis=1),
            frame,
            read_as(corners, said, frame),
        )
    except JobError as error:
        raise JobError(f"{path}: {error}") from error
    numbers = _numbers(path, found, known)[there]
    return Shapes(tuple(shapely.to_wkb(moved).tolist()), tuple(numbers.tolist()))


def _numbers(
    path: str, found: vector_files.Vectors, known: Mapping[str, Any]
) -> npt.NDArray[np.int64]:
    """The number of each shape: its position in the file, an attribute, or a class by name."""
    attribute = known.get("attribute")
    classes = known.get("classes")
    if attribute is None:
        return np.arange(1, len(found.wkb) + 1)
    values = found.columns[attribute]
    if values.dtype.kind == "O":
        return _named(path, attribute, [_name(value) for value in values.tolist()], classes)
    if values.dtype.kind == "f" and (values == np.rint(values)).all():
        values = values.astype(np.int64)
    if values.dtype.kind not in "iu" or (values < 1).any():
        raise JobError(
            f"{path}: attribute: {attribute!r} holds {values[:3].tolist()}, …; allowed: whole "
            f"numbers from 1, or names with classes"
        )
    return np.asarray(values, np.int64)


def _named(
    path: str, attribute: str, names: list[str | None], classes: Any
) -> npt.NDArray[np.int64]:
    """Map names of classes to numbers; JobError for an unknown name, or without a list of names."""
    if classes is None:
        shown = ", ".join(sorted({str(name) for name in names})[:8])
        raise JobError(
            f"{path}: attribute: {attribute!r} holds names, {shown}; say which is which: "
            f"classes, such as [{shown}], from 1"
        )
    numbers = (
        dict(classes)
        if isinstance(classes, Mapping)
        else {str(name): k + 1 for k, name in enumerate(classes)}
    )
    if (
        unknown := next((k for k, name in enumerate(names) if name not in numbers), None)
    ) is not None:
        what = "none" if names[unknown] is None else repr(names[unknown])
        raise JobError(
            f"{path}: attribute: the {attribute} of feature {unknown + 1} is {what}; "
            f"{nearest(names[unknown], map(str, numbers))}"
        )
    return np.array([numbers[name] for name in names], np.int64)


def _name(value: Any) -> str | None:
    """A class's name: text, or as QuPath writes it, ``{"name": …, "color": …}``."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = json.loads(value).get("name")
        except ValueError:
            return str(value)
    return None if value is None else str(value)
