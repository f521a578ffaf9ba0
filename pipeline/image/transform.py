"""Affine transforms between pixels and coordinates: all arithmetic on them.

A transform is six numbers (a, b, c, d, e, f) in the order of the library ``affine``::

    x = a · column + b · row + c
    y = d · column + e · row + f

Rows and columns count from 0 at the upper left corner of the first pixel, so that the centre of
that pixel is (0.5, 0.5). The order of operations is part of each function: areas and coordinates in
results are the same bits in every version, which ``affine`` does not promise between its own.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Transform = tuple[float, float, float, float, float, float]
Floats = npt.NDArray[np.float64]

IDENTITY: Transform = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
"""Coordinates are columns and rows."""


def to_coordinates(
    transform: Transform, row: npt.ArrayLike, column: npt.ArrayLike
) -> tuple[Floats, Floats]:
    """The coordinates x and y of positions in pixels.

    >>> to_coordinates((2.0, 0.0, 10.0, 0.0, -2.0, 50.0), 1, 3)
    (array(16.), array(48.))
    """
    a, b, c, d, e, f = transform
    rows = np.asarray(row, np.float64)
    columns = np.asarray(column, np.float64)
    return np.asarray(a * columns + b * rows + c), np.asarray(d * columns + e * rows + f)


def to_pixels(transform: Transform, x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Row and column of coordinates.

    >>> to_pixels((2.0, 0.0, 10.0, 0.0, -2.0, 50.0), 16, 48)
    (np.float64(1.0), np.float64(3.0))
    """
    a, b, c, d, e, f = transform
    across = np.asarray(x, np.float64) - c
    down = np.asarray(y, np.float64) - f
    scale = determinant(transform)
    return (a * down - d * across) / scale, (e * across - b * down) / scale


def step(transform: Transform, down: Floats, across: Floats) -> tuple[Floats, Floats]:
    """How far a step of so many rows and columns goes along x and y."""
    a, b, _, d, e, _ = transform
    return a * across + b * down, d * across + e * down


def pixel_size(transform: Transform) -> tuple[float, float]:
    """The lengths of a pixel's two sides: from row to row, and from column to column.

    >>> pixel_size((0.0, 2.0, 10.0, 3.0, 0.0, 50.0))
    (2.0, 3.0)
    """
    a, b, _, d, e, _ = transform
    return float(np.hypot(b, e)), float(np.hypot(a, d))


def determinant(transform: Transform) -> float:
    """The area of a pixel; negative where one axis is flipped, 0 where there is no inverse."""
    a, b, _, d, e, _ = transform
    return a * e - b * d


def is_turned(transform: Transform) -> bool:
    """Whether rows and columns do not run along x and y."""
    return bool(transform[1] or transform[3])


def multiplied(transform: Transform, factor: float) -> Transform:
    """The same in another unit of coordinates."""
    a, b, c, d, e, f = transform
    return a * factor, b * factor, c * factor, d * factor, e * factor, f * factor


def resized(transform: Transform, down: float, across: float) -> Transform:
    """The transform of the same ground in pixels that are larger by these factors.

    >>> resized((2.0, 0.0, 10.0, 0.0, -2.0, 50.0), 4, 2)
    (4.0, 0.0, 10.0, 0.0, -8.0, 50.0)
    """
    a, b, c, d, e, f = transform
    return a * across, b * down, c, d * across, e * down, f


def every_nth(transform: Transform, factor: int) -> Transform:
    """The transform of an image of every ``factor``-th pixel.

    A pixel keeps the centre of the one that it was taken from. Its corner lies (factor - 1) / 2
    pixels before the corner of that one.

    >>> every_nth((2.0, 0.0, 10.0, 0.0, -2.0, 50.0), 2)
    (4.0, 0.0, 9.0, 0.0, -4.0, 51.0)
    """
    a, b, c, d, e, f = resized(transform, factor, factor)
    c -= (transform[0] + transform[1]) * (factor - 1) / 2
    f -= (transform[3] + transform[4]) * (factor - 1) / 2
    return a, b, c, d, e, f


def begun_at(transform: Transform, row: int, column: int) -> Transform:
    """The transform of an image whose first pixel is this one, which may lie outside."""
    a, b, c, d, e, f = transform
    return a, b, c + a * column + b * row, d, e, f + d * column + e * row


def from_centre(
    x: float, y: float, columns: tuple[float, float], rows: tuple[float, float]
) -> Transform:
    """The transform that gives the centre of the first pixel its coordinates.

    Parameters
    ----------
    x, y
        The coordinates of that centre.
    columns
        How far one column on goes, along x and along y.
    rows
        How far one row on goes, along x and along y.

    Examples
    --------
    >>> from_centre(11.0, 49.0, (2.0, 0.0), (0.0, -2.0))
    (2.0, 0.0, 10.0, 0.0, -2.0, 50.0)
    """
    a, d = columns
    b, e = rows
    return a, b, x - (a + b) / 2, d, e, y - (d + e) / 2


def of_size(height: float, width: float) -> Transform:
    """The transform of an image that is known by the size of its pixels only."""
    return width, 0.0, 0.0, 0.0, height, 0.0


def from_gdal(c: float, a: float, b: float, f: float, d: float, e: float) -> Transform:
    """A transform from six numbers in the order of GDAL."""
    return a, b, c, d, e, f


def to_gdal(transform: Transform) -> Transform:
    """The six numbers in the order of GDAL.

    >>> to_gdal((2.0, 0.0, 10.0, 0.0, -2.0, 50.0))
    (10.0, 2.0, 0.0, 50.0, 0.0, -2.0)
    """
    a, b, c, d, e, f = transform
    return c, a, b, f, d, e


def as_matrix(transform: Transform) -> Floats:
    """(2, 3): x and y by column, row and 1."""
    return np.array(transform, np.float64).reshape(2, 3)
