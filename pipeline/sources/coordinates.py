"""Find the place of an array from its coordinates, a grid mapping or a transform.

Coordinates follow the pixels when an array is cut, sorted, thinned or averaged; a transform among
the attributes does not. So coordinates are used. The transform is used only if there are no
coordinates, or if it agrees with them, since it is more exact.

References
----------
The CF conventions (https://cfconventions.org), chapters 4 and 5. The attribute ``GeoTransform`` is
GDAL's, as rioxarray writes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import JobError
from pipeline.image.pixel_area import alike
from pipeline.image.transform import Transform, from_centre, is_turned, pixel_size, to_coordinates
from pipeline.sources.axes import LETTERS, UNNAMED
from pipeline.sources.grid_mappings import (
    EAST,
    NORTH,
    Beside,
    Coordinate,
    reference,
    unit_of,
)

EVEN = 0.01
"""The distance, in pixels, that a coordinate may lie from its place in an even spacing."""
AXIS = {"X": "x", "Y": "y", "Z": "z", "T": "t"}
PLANE = ("xc", "yc")
"""rioxarray's names for the coordinates of a rotated grid, with a value for every pixel."""


@dataclass(frozen=True, slots=True)
class Place:
    """The place of an array."""

    transform: Transform | None = None
    """Transform of the pixels' corners, as in `Frame`."""

    crs: str | None = None
    """The CRS as WKT."""

    pixel_size: tuple[float, ...] = ()
    """Along each axis of space; empty if unknown."""

    unit: str = "pixel"
    unlike: tuple[int, ...] = ()
    """Axes with a size in no known unit, as in `Frame`."""

    translation: tuple[float, ...] = ()
    """The centre of the first pixel along each axis of space, for an array without a transform."""

    remarks: tuple[str, ...] = ()
    """Warnings about what was not understood."""


@dataclass(frozen=True, slots=True)
class Line:
    """Evenly spaced coordinates of pixel centres along one axis."""

    first: float
    step: float | None
    """None if there is one pixel."""

    slack: float
    """The distance that a coordinate may lie from its place and still count as equal."""

    last: float


def letters(dims: Sequence[str], beside: Beside) -> str | None:
    """A letter for each axis, from its name or from its coordinates; None if no axis has a name.

    Raises
    ------
    JobError
        If an axis has a name that is not known.
    """
    if all(UNNAMED.fullmatch(dim) for dim in dims):
        return None
    found = [LETTERS.get(dim.lower()) or _letter(beside.get(dim)) for dim in dims]
    if None in found:
        known = "".join(letter or "c" for letter in found)
        usual = known if len(set(known)) == len(known) else "tczyx"[-len(dims) :]
        raise JobError(
            f"axes: the dimension {dims[found.index(None)]!r} is not known; allowed: "
            f"{', '.join(sorted(LETTERS))}, "
            f"or name the axes of ({', '.join(dims)}): axes: {usual}"
        )
    return "".join(filter(None, found))


def names_of_bands(
    axes: str, dims: Sequence[str], beside: Beside, attributes: Mapping[str, Any]
) -> tuple[str, ...]:
    """The names of the bands, from their coordinates or from the attribute in which rioxarray keeps
    the names of a file's bands; empty if unknown.

    Parameters
    ----------
    axes
        A letter for each axis.
    dims
        The name of each axis.
    beside
        The coordinates, by name.
    attributes
        The array's attributes.
    """
    if "c" not in axes or len(axes) != len(dims):
        return ()
    said = attributes.get("long_name")
    along = beside.get(dims[axes.index("c")])
    kept = tuple(map(str, said)) if isinstance(said, (list, tuple)) else ()
    if along is None:
        return kept
    numbers = np.asarray(along.values)
    if kept and numbers.dtype.kind in "iu" and numbers.min() >= 1 and numbers.max() <= len(kept):
        # the coordinates are numbers of the file's bands, some of which may have been cut away
        return tuple(kept[number - 1] for number in numbers.tolist())
    return tuple(map(str, numbers.tolist()))


def _letter(coordinate: Coordinate | None) -> str | None:
    """The axis that the attributes of coordinates name."""
    if coordinate is None:
        return None
    about = coordinate.attributes
    if (axis := AXIS.get(str(about.get("axis", "")).upper())) or (
        axis := LETTERS.get(str(about.get("standard_name", "")).lower())
    ):
        return axis
    return "x" if about.get("units") in EAST else "y" if about.get("units") in NORTH else None


def placed(
    dims: Mapping[str, str], space: str, beside: Beside, attributes: Mapping[str, Any]
) -> Place:
    """The place of an array.

    Parameters
    ----------
    dims
        The name of each axis, by its letter.
    space
        The axes of a box: ``yx`` or ``zyx``.
    beside
        Coordinates and grid mappings, by name.
    attributes
        The array's attributes, with ``grid_mapping`` and ``crs`` if it has them.
    """
    crs, stated, unknown = reference(beside, attributes)
    found = {
        letter: coordinate
        for letter in space
        if (coordinate := _along(dims[letter], letter, beside)) is not None
    }
    lines = {letter: _line(coordinate) for letter, coordinate in found.items()}
    if uneven := [dims[letter] for letter, line in lines.items() if line is None]:
        placeless = any(lines.get(letter, True) is None for letter in "yx")
        lost = "the image has no place" if placeless else "how thick planes are is not known"
        unknown = (*unknown, f"coordinates along {', '.join(uneven)} are not evenly spaced: {lost}")
        if placeless:
            return Place(crs=crs, remarks=unknown)
    if {"y", "x"} & lines.keys():
        transform, why = _of_lines(lines.get("y"), lines.get("x"), stated)
    else:
        transform, why = _of_plane(dims, beside) if set(PLANE) <= beside.keys() else (stated, "")
    remarks = (*unknown, why) if why else unknown
    return _sized(
        space, transform, crs, lines, {letter: each.unit for letter, each in found.items()}, remarks
    )


def _sized(
    space: str,
    transform: Transform | None,
    crs: str | None,
    lines: Mapping[str, Line | None],
    units: Mapping[str, str | None],
    remarks: tuple[str, ...],
) -> Place:
    """A place with pixel sizes. A volume without a CRS gets sizes and an origin instead of a
    transform.

    Parameters
    ----------
    space
        The axes of a box: ``yx`` or ``zyx``.
    transform, crs
        What was found, or None.
    lines
        The coordinates along each axis, by letter.
    units
        The unit of these coordinates, by letter.
    remarks
        Warnings so far.
    """
    if transform is None:
        return Place(crs=crs, remarks=remarks)
    depth = lines.get("z")
    thickness = depth.step if depth is not None else None
    planes = (abs(thickness or 1.0),) if space == "zyx" else ()
    size: tuple[float, ...] = (*planes, *pixel_size(transform))
    if crs is not None:
        return Place(transform, crs, size, unit_of(crs), remarks=remarks)
    known = [units.get(letter) if letter != "z" or thickness else None for letter in space]
    unit, size, unlike = alike(known, size) if any(known) else ("unknown", size, ())
    flipped = min(transform[0], transform[4], thickness or 1.0) < 0
    if space == "yx" or is_turned(transform) or flipped:
        return Place(transform, None, size, unit, unlike, remarks=remarks)
    x, y = map(float, to_coordinates(transform, 0.5, 0.5))
    start = (depth.first if depth is not None else 0.0, y, x)
    return Place(None, None, size, unit, unlike, alike(known, start)[1], remarks)


def _along(dim: str, letter: str, beside: Beside) -> Coordinate | None:
    """The coordinates along an axis: those with the axis's own name, else those that say that they
    belong to it.
    """
    lines = {name: each for name, each in beside.items() if each.dims == (dim,)}
    if dim in lines:
        return lines[dim]
    return next(
        (
            each
            for name, each in lines.items()
            if LETTERS.get(name.lower(), _letter(each)) == letter
        ),
        None,
    )


def _line(coordinate: Coordinate) -> Line | None:
    """The coordinates as evenly spaced ones; None if they are not evenly spaced, or not numbers."""
    stored = np.asarray(coordinate.values)
    about = coordinate.attributes
    if stored.dtype.kind not in "iuf" or not np.isfinite(stored).all():
        return None
    values = stored.astype(np.float64) * float(about.get("scale_factor", 1)) + float(
        about.get("add_offset", 0)
    )
    first = float(values[0])
    last = float(values[-1])
    number = len(values)
    rounding = (
        2 * float(np.finfo(stored.dtype).eps) * float(np.abs(values).max())
        if stored.dtype.kind == "f"
        else 0.0
    )
    if number == 1:
        return Line(first, None, rounding, last)
    step = (last - first) / (number - 1)
    slack = max(EVEN * abs(step), rounding)
    off = float(np.abs(values - (first + step * np.arange(number))).max())
    return Line(first, step, slack, last) if step and off <= min(slack, abs(step) / 4) else None


def _of_lines(
    y: Line | None, x: Line | None, stated: Transform | None
) -> tuple[Transform | None, str]:
    """The transform of a grid from the coordinates along its axes; or None, and the reason."""
    if stated is not None and is_turned(stated):
        return (
            None,
            (
                "coordinates along rows and columns contradict a transform that is turned: the "
                "image "
                "has no place"
            ),
        )
    step_x, _, start_x, _, step_y, start_y = stated or (0.0,) * 6
    if stated is not None and all(
        line is None or _same(line, *way)
        for line, way in ((x, (start_x, step_x)), (y, (start_y, step_y)))
    ):
        return stated, ""
    if x is None or y is None:
        return (
            None,
            (
                f"{'rows' if y is None else 'columns'} alone have no coordinates: the image has no "
                f"place"
            ),
        )
    fits = all(
        line.step is None or _close(line, line.step, step)
        for line, step in ((x, step_x), (y, step_y))
    )
    steps = [
        line.step or (step if fits and step and _on_grid(line, start, step) else 0.0)
        for line, start, step in ((x, start_x, step_x), (y, start_y, step_y))
    ]
    if not all(steps):
        return (
            None,
            (
                f"nothing says how large the one pixel along {'x' if not steps[0] else 'y'} is: "
                f"the "
                f"image has no place"
            ),
        )
    return from_centre(x.first, y.first, (steps[0], 0.0), (0.0, steps[1])), ""


def _same(line: Line, start: float, step: float) -> bool:
    """Whether coordinates agree with a transform's pixels, from the first pixel on."""
    if line.step is None:
        return bool(step) and abs(line.first - start - step / 2) <= max(
            line.slack, EVEN * abs(step)
        )
    return abs(line.first - start - step / 2) <= line.slack and _close(line, line.step, step)


def _close(line: Line, own: float, step: float) -> bool:
    """Whether a line of pixels with its own step fits another step too."""
    return abs(line.last - line.first - step * round((line.last - line.first) / own)) <= line.slack


def _on_grid(line: Line, start: float, step: float) -> bool:
    """Whether the only coordinate is the centre of a pixel of the transform."""
    at = (line.first - start) / step - 0.5
    return abs(at - round(at)) <= max(EVEN, line.slack / abs(step))


def _of_plane(dims: Mapping[str, str], beside: Beside) -> tuple[Transform | None, str]:
    """The transform that reproduces the coordinates of every pixel of a rotated grid; or None, and
    the reason.
    """
    order = (dims["y"], dims["x"])
    x, y = (np.asarray(beside[name].values, np.float64) for name in PLANE)
    x, y = (
        each
        if beside[name].dims == order
        else each.T
        if beside[name].dims == order[::-1]
        else each[:0]
        for name, each in zip(PLANE, (x, y), strict=True)
    )
    if min(x.shape) < 2 or x.shape != y.shape:
        return (
            None,
            "the coordinates xc and yc are not those of a grid of pixels: the image has no place",
        )
    columns, rows = zip(*(_slopes(each) for each in (x, y)), strict=True)
    found = from_centre(float(x[0, 0]), float(y[0, 0]), columns, rows)
    row, column = np.indices(x.shape)
    given = to_coordinates(found, row + 0.5, column + 0.5)
    off = max(float(np.abs(one - other).max()) for one, other in zip((x, y), given, strict=True))
    size = min(pixel_size(found))
    if not size or not off <= EVEN * size:
        return None, "no transform gives the coordinates xc and yc: the image has no place"
    return found, ""


def _slopes(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """The difference between neighbouring columns, and between neighbouring rows."""
    rows, columns = values.shape
    return float(values[0, -1] - values[0, 0]) / (columns - 1), float(
        values[-1, 0] - values[0, 0]
    ) / (rows - 1)
