"""The size of an image's pixels: square metres on the ground, or square micrometres under a
microscope.

In a geographic CRS a pixel is a piece of the ellipsoid, so its area depends on its place. Without
rotation, two meridians and two parallels bound it. The area also depends on the place in a
projected CRS with untrue areas (see `ground`), such as Web Mercator: there areas are those on the
ground, and areas in the plane have a column of their own. The area of each pixel is rounded once,
to a fixed fraction of a square metre. Areas of objects are sums of these integers, so they depend
neither on the tiling nor on the processor.

References
----------
J. P. Snyder, Map Projections: A Working Manual, USGS Professional Paper 1395 (1987), section 4: the
radii of curvature.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from pipeline.image.frame import Frame
from pipeline.image.ground import Ground, ellipsoid, ground_of, is_true
from pipeline.image.transform import determinant, is_turned, multiplied, of_size, step
from pipeline.image.units import length
from pipeline.numerics.elementary import cosine, sine

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

EXPONENT = -64
"""If pixels differ in size, the area of each is an integer number of 2^EXPONENT square metres."""
LIMBS = 3
"""Limbs of 32 bits that hold this integer."""
_COLUMNS = {"um": Fraction(1, 10**6), "mm": Fraction(1, 1000), "m": Fraction(1)}
"""Units of columns, in metres. A length is given in the first unit that is at least as long as the
image's unit, else in metres.
"""
_GAUSS = ((-math.sqrt(0.6), 5 / 18), (0.0, 8 / 18), (math.sqrt(0.6), 5 / 18))
"""Places and weights of Gauss-Legendre quadrature: the mean over -1 to 1, exact for polynomials of
degree 5.
"""


@dataclass(frozen=True, slots=True)
class PixelSize:
    """How pixel sizes of an image convert to the unit of its columns."""

    unit: str
    """``m``, ``mm`` or ``um``."""

    factor: float
    """How many of this unit make up the unit of the transform or of the pixel size; for a
    geographic CRS, its unit in radians.
    """

    ellipsoid: tuple[float, float] | None = None
    """For a geographic CRS: the semi-major axis in metres, and the square of the eccentricity."""


@functools.lru_cache(maxsize=16)
def scale(frame: Frame) -> PixelSize | None:
    """The unit and factor of an image's pixel sizes. None if they are unknown: an axis without a
    unit, a transform without a CRS, a map of several planes.

    >>> scale(Frame((5, 5), pixel_size=(0.5, 0.5), unit="micrometer"))
    PixelSize(unit='um', factor=1.0, ellipsoid=None)
    """
    if frame.transform is not None and frame.ndim != 2:
        return None
    if frame.transform is None or frame.crs is None:
        return _in_column(frame)
    from rasterio.crs import CRS

    crs = CRS.from_wkt(frame.crs)
    name, factor = crs.units_factor
    if crs.is_geographic:
        return PixelSize("m", factor, ellipsoid(frame.crs))
    return None if name == "unknown" else PixelSize("m", factor)


def _in_column(frame: Frame) -> PixelSize | None:
    found = length(frame.unit)
    if found is None or frame.unlike:
        return None
    unit = next((unit for unit, metres in _COLUMNS.items() if found.metres <= metres), "m")
    return PixelSize(unit, float(found.metres / _COLUMNS[unit]))


def alike(
    units: Sequence[str | None], sizes: Sequence[float]
) -> tuple[str, tuple[float, ...], tuple[int, ...]]:
    """Convert sizes along axes to one unit: that of the last axis that has a length as its unit.

    Sizes along axes without such a unit stay as they are. If no axis has one, all sizes stay as
    they are, in the unit that all share, else in pixels.

    Parameters
    ----------
    units
        The unit of each axis, or None.
    sizes
        The pixel size along each axis.

    Returns
    -------
    tuple
        The unit, the sizes, and the indices of axes without a unit of length.

    Examples
    --------
    >>> alike(["nanometer", "microns", "µm"], [500.0, 0.25, 0.25]), alike([None, "um"], [2.0, 0.5])
    (('micrometer', (0.5, 0.25, 0.25), ()), ('micrometer', (2.0, 0.5), (0,)))
    """
    known = [length(unit) if unit else None for unit in units]
    last = next((unit for unit in reversed(known) if unit), None)
    if last is None:
        return (units[-1] if len(set(units)) == 1 else None) or "pixel", tuple(sizes), ()
    pairs = zip(sizes, known, strict=True)
    found = tuple(size * float(unit.metres / last.metres) if unit else size for size, unit in pairs)
    return last.name, found, tuple(k for k, unit in enumerate(known) if unit is None)


def unclear(axes: Sequence[str], units: Sequence[str | None]) -> list[str]:
    """A warning for each axis with an unknown unit, and for each axis without one beside axes that
    have one.

    >>> unclear("zyx", [None, "cubits", "um"])[1]
    "the unit along y is 'cubits', which is no length that is known; no size is taken there"
    """
    known = any(unit and length(unit) for unit in units)
    told = []
    for axis, unit in zip(axes, units, strict=True):
        if unit is None and known:
            told.append(f"there is no unit along {axis}; no size is taken there")
        elif unit is not None and unit not in ("pixel", "pixels") and length(unit) is None:
            told.append(
                f"the unit along {axis} is {unit!r}, which is no length that is known; no size "
                f"is taken there"
            )
    return told


def in_unit(size: float, unit: str, wanted: str) -> float | None:
    """A size in another unit of length; None if either unit is not a known length.

    >>> in_unit(500.0, "nanometer", "micrometer")
    0.5
    """
    have = length(unit)
    want = length(wanted)
    if unit == wanted:
        return size
    return size * float(have.metres / want.metres) if have and want else None


def size_column(frame: Frame) -> str | None:
    """The name of the column of areas (or volumes) in physical units; None if pixel sizes are
    unknown.

    >>> size_column(Frame((5, 5, 5), pixel_size=(2.0, 0.5, 0.5), unit="micrometer"))
    'volume_um3'
    """
    found = scale(frame)
    if found is None:
        return None
    return f"area_{found.unit}2" if frame.ndim == 2 else f"volume_{found.unit}3"


def pixel_extent(frame: Frame) -> float | None:
    """The area of a pixel, or the volume of a voxel, in the unit of its column; None if it is
    unknown or not the same everywhere.

    >>> pixel_extent(Frame((5, 5), pixel_size=(0.5, 0.5), unit="micrometer"))
    0.25
    """
    return None if vary(frame) else plane_extent(frame)


def plane_extent(frame: Frame) -> float | None:
    """The area of a pixel, or the volume of a voxel, in the plane of a projected CRS, whether that
    is true or not.
    """
    found = scale(frame)
    if found is None or found.ellipsoid:
        return None
    if frame.transform is None:
        return math.prod(frame.pixel_size) * found.factor**frame.ndim
    return abs(determinant(frame.transform)) * found.factor**2


def plane_column(frame: Frame) -> str | None:
    """The name of the column of areas in the plane of the CRS, beside that of areas on the ground;
    None if both are the same.
    """
    return "area_plane_m2" if vary(frame) and plane_extent(frame) is not None else None


def vary(frame: Frame) -> bool:
    """Whether the areas of pixels are known but differ: in a geographic CRS, or in a projected one
    with untrue areas.
    """
    found = scale(frame)
    return found is not None and (found.ellipsoid is not None or not is_true(frame))


def pixel_areas(
    frame: Frame, rows: tuple[int, int], columns: tuple[int, int], ground: Ground | None = None
) -> Integers:
    """The areas of pixels on the ground, as integers of 2^EXPONENT square metres. A pixel that
    reaches beyond a pole ends there.

    Parameters
    ----------
    frame
        The image, 2-D.
    rows, columns
        The first row and column, and those after the last.
    ground
        What `ground_of` found for the frame, if it was called before.

    Returns
    -------
    Integers
        (row, column, LIMBS), or (row, 1, LIMBS) if areas do not depend on the column.

    Raises
    ------
    ValueError
        If all pixels have the same size, or it is unknown.
    """
    found = scale(frame)
    if (
        found is not None
        and found.ellipsoid is None
        and (ground := ground or ground_of(frame)) is not None
    ):
        return _on_ground(frame, rows, columns, ground)
    if found is None or found.ellipsoid is None or frame.transform is None:
        raise ValueError("all pixels are alike, or nobody says how large they are")
    radians = multiplied(frame.transform, found.factor)
    a, _, _, d, e, top = radians
    if not is_turned(radians):
        # Both pixels beside an edge compute it in the same way.
        edges = np.clip(
            top + e * np.arange(rows[0], rows[1] + 1, dtype=np.float64), -math.pi / 2, math.pi / 2
        )[:, None]
        middle = (edges[1:] + edges[:-1]) / 2
        half = np.abs(edges[1:] - edges[:-1]) / 2
        mean = sum(
            (weight * _density(middle + place * half, found.ellipsoid) for place, weight in _GAUSS),
            np.zeros(middle.shape),
        )
        return _limbs(mean * (2 * half) * abs(a))
    row = np.arange(*rows, dtype=np.float64)[:, None] + 0.5
    column = np.arange(*columns, dtype=np.float64) + 0.5
    mean = np.zeros((rows[1] - rows[0], columns[1] - columns[0]))
    for (down, w), (across, v) in itertools.product(_GAUSS, repeat=2):
        latitude = np.clip(
            top + d * (column + across / 2) + e * (row + down / 2), -math.pi / 2, math.pi / 2
        )
        mean += w * v * _density(latitude, found.ellipsoid)
    return _limbs(mean * abs(determinant(radians)))


def _on_ground(
    frame: Frame, rows: tuple[int, int], columns: tuple[int, int], ground: Ground
) -> Integers:
    """The areas of pixels of a projected CRS: those in its plane times the ratio of ground area to
    plane area.
    """
    row, column = (np.arange(*span, dtype=np.float64) + 0.5 for span in (rows, columns))
    if not ground.fine:
        ratio = ground.at(row, column, slice(0, 1))[..., 0]
    else:
        ratio = np.zeros(1)
        for (down, w), (across, v) in itertools.product(_GAUSS, repeat=2):
            ratio = (
                ratio + w * v * ground.at(row + down / 2, column + across / 2, slice(0, 1))[..., 0]
            )
    return _limbs(ratio * (plane_extent(frame) or 0.0))


def _density(latitude: Floats, ellipsoid: tuple[float, float]) -> Floats:
    """Square metres for each radian of longitude and of latitude."""
    major, squared = ellipsoid
    height = sine(latitude)
    return np.asarray(
        major * major * (1 - squared) * cosine(latitude) / (1 - squared * height * height) ** 2
    )


def _limbs(areas: Floats) -> Integers:
    """Areas as integers of 2^EXPONENT, rounded down: limbs of 32 bits along the last axis."""
    limbs = np.zeros((*areas.shape, LIMBS), np.int64)
    for k in reversed(range(LIMBS)):
        limbs[..., k] = np.floor(areas)
        areas = (areas - limbs[..., k]) * 2.0**32
    return limbs


def step_lengths(
    frame: Frame,
    row: npt.ArrayLike,
    column: npt.ArrayLike,
    down: npt.ArrayLike,
    across: npt.ArrayLike,
) -> Floats | None:
    """The lengths of steps that start at pixels' centres, in the unit of `scale`, or in that of the
    transform if `scale` is None.

    Parameters
    ----------
    frame
        The image, 2-D.
    row, column
        (n,) the pixel at which each step starts.
    down, across
        (n,) how many rows and columns each step goes.

    Returns
    -------
    Floats or None
        (n,) lengths; None if the image has no scale at all. In a geographic CRS, the length on the
        ellipsoid of a line that is straight in longitude and latitude. In a projected CRS with
        untrue areas, the length on the ellipsoid.
    """
    found = scale(frame)
    if found is None and frame.transform is None:
        return None
    transform = frame.transform or of_size(*frame.pixel_size)
    rows, columns, down, across = (
        np.asarray(each, np.float64) for each in (row, column, down, across)
    )
    factor = 1.0 if found is None else found.factor
    x, y = (along * factor for along in step(transform, down, across))
    ground = None if found is None else ground_of(frame)
    if ground is not None:
        e, f, g = ground.of_points(rows + 0.5 + down / 2, columns + 0.5 + across / 2, slice(1, 4)).T
        return np.asarray(np.sqrt(e * x * x + 2 * f * x * y + g * y * y))
    if found is None or found.ellipsoid is None:
        return np.sqrt(x * x + y * y)
    major, squared = found.ellipsoid
    _, _, _, d, e, f = transform
    start = (f + d * (columns + 0.5) + e * (rows + 0.5)) * factor
    total = np.zeros(np.broadcast_shapes(x.shape, start.shape))
    for place, weight in _GAUSS:
        latitude = np.clip(start + y * (1 + place) / 2, -math.pi / 2, math.pi / 2)
        height = sine(latitude)
        flat = 1 - squared * height * height
        east = x * cosine(latitude) * major / np.sqrt(flat)
        north = y * major * (1 - squared) / (flat * np.sqrt(flat))
        total += weight * np.sqrt(east * east + north * north)
    return total
