"""How large an image's pixels are: in square metres on the ground, in square micrometres under a
microscope.

Of a geographic CRS a pixel is a part of the ellipsoid, between two meridians and two parallels
unless the image is rotated, so that its area depends on where it lies. So it does in a projected
CRS whose areas are not true (see `ground`), as in Web Mercator: areas are those on the ground, and
those in its plane have a column of their own. A pixel's area is rounded once, to a fixed fraction
of a square metre, and areas are sums of these whole numbers: they do not depend on the tiling, nor
on the processor.

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
"""Where pixels are not alike, the area of each is a whole number of 2^-64 square metres."""
LIMBS = 3
"""That number is stored in so many limbs of 32 bits."""
_COLUMNS = {"um": Fraction(1, 10**6), "mm": Fraction(1, 1000), "m": Fraction(1)}
"""The units that columns have, in metres: a length is told in the first that is not shorter, or in
metres.
"""
_GAUSS = ((-math.sqrt(0.6), 5 / 18), (0.0, 8 / 18), (math.sqrt(0.6), 5 / 18))
"""Places and weights of a mean over -1 to 1, exact for polynomials of degree 5."""


@dataclass(frozen=True, slots=True)
class PixelSize:
    """How large the pixels of an image are."""

    unit: str
    """m, mm or um."""

    factor: float
    """How many of it the unit of the transform or of the pixel size is; of a geographic CRS, its
    unit in radians.
    """

    ellipsoid: tuple[float, float] | None = None
    """Of a geographic CRS: the semi-major axis in metres, and the square of the eccentricity."""


@functools.lru_cache(maxsize=16)
def scale(frame: Frame) -> PixelSize | None:
    """How large pixels are; None where nobody says: of an axis, of a transform without a CRS, of
    how far the planes of a map are apart.

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
    """Sizes along axes in the unit of the last axis whose unit is a length, and which axes have
    none: their sizes are left as they are.

    Where no axis has such a unit, all are left as they are, in the unit that all have, or in
    pixels.

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
    """A sentence for each axis whose unit is no length that is known, where it says one or where
    others have one.

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
    """A size in another unit of length; None where either is none.

    >>> in_unit(500.0, "nanometer", "micrometer")
    0.5
    """
    have = length(unit)
    want = length(wanted)
    if unit == wanted:
        return size
    return size * float(have.metres / want.metres) if have and want else None


def size_column(frame: Frame) -> str | None:
    """What the column of areas, or of volumes, is called besides that in pixels; None where there
    is none.

    >>> size_column(Frame((5, 5, 5), pixel_size=(2.0, 0.5, 0.5), unit="micrometer"))
    'volume_um3'
    """
    found = scale(frame)
    if found is None:
        return None
    return f"area_{found.unit}2" if frame.ndim == 2 else f"volume_{found.unit}3"


def pixel_extent(frame: Frame) -> float | None:
    """The area of a pixel, or of a volume's its volume, in the unit of its column; None where it is
    not the same everywhere, or unknown.

    >>> pixel_extent(Frame((5, 5), pixel_size=(0.5, 0.5), unit="micrometer"))
    0.25
    """
    return None if vary(frame) else plane_extent(frame)


def plane_extent(frame: Frame) -> float | None:
    """The same, in the plane of a projected CRS whether or not areas are true in it."""
    found = scale(frame)
    if found is None or found.ellipsoid:
        return None
    if frame.transform is None:
        return math.prod(frame.pixel_size) * found.factor**frame.ndim
    return abs(determinant(frame.transform)) * found.factor**2


def plane_column(frame: Frame) -> str | None:
    """What the column of areas in the plane of the CRS is called, beside that of those on the
    ground; None where they are one.
    """
    return "area_plane_m2" if vary(frame) and plane_extent(frame) is not None else None


def vary(frame: Frame) -> bool:
    """Whether the areas of pixels are known, and are not all alike: in a geographic CRS, or one
    whose areas are not true.
    """
    found = scale(frame)
    return found is not None and (found.ellipsoid is not None or not is_true(frame))


def pixel_areas(
    frame: Frame, rows: tuple[int, int], columns: tuple[int, int], ground: Ground | None = None
) -> Integers:
    """The areas of pixels on the ground, (row, column, LIMBS), or where they depend on the row
    alone (row, 1, LIMBS), in square metres of 2^EXPONENT, from the first of some rows and columns
    up to the last. A pixel that reaches beyond a pole ends there.

    ``ground`` is what `ground_of` the frame was found once; ValueError where all pixels are alike.
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
        # Each edge is computed in the same way for the pixels on either side.
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
    """The areas of pixels of a projected CRS: those in its plane, by what these are on
    the ground.
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
    """Areas as whole numbers of 2^EXPONENT, cut off: limbs of 32 bits along the last axis."""
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
    """How long steps from pixels' centres are, in the unit of `scale`, or where that is None in
    that of the transform.

    Parameters
    ----------
    frame
        The image, 2-D.
    row, column
        (n,) where each step begins.
    down, across
        (n,) how many rows and columns it goes.

    Returns
    -------
    (n,), or None where the image has no scale at all. In a geographic CRS the length on the
    ellipsoid, of a line that is straight in longitude and latitude; in a projected one whose areas
    are not true, on the ellipsoid too.
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
