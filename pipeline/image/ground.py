"""The true areas and lengths on the ground of a map's pixels, for a projection that distorts them
(Web Mercator, say).

A CRS is taken as true if, over the image, areas in its plane differ by at most half a percent from
those on its ellipsoid. That holds for UTM and national grids in their zones, for equal-area
projections everywhere, and for Web Mercator nowhere. If a CRS is not true, a lattice over the image
holds the ratio of ground area to plane area, and the metric that gives lengths. PROJ's inverse
projection and its slope give the values at the nodes; between nodes they are interpolated with sums
and products alone. A run computes its lattice once: mathematical libraries differ between
processors in the last digit, and an object's area must not depend on the worker that adds it up.

References
----------
J. P. Snyder, Map Projections: A Working Manual, USGS Professional Paper 1395 (1987), section 4:
distortion, and the radii of curvature.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.image.frame import Frame

Floats = npt.NDArray[np.float64]

TRUE = 0.005
"""The largest relative difference between areas in the plane and on the ground at which a CRS
counts as true.
"""
FEW = 0.01
"""The fraction of an image's nodes that may differ by more than `TRUE`: a projection may have cuts,
or end inside the image.
"""
ERROR = 2e-7
"""The target for the relative error of interpolation."""
MOST = 1 << 18
"""The most nodes of a lattice."""
MOST_TORN = 1 << 14
"""The most nodes of a lattice with places off the ground, which PROJ looks up one by one."""
COARSE = 17
"""Nodes along each axis of the first lattice. It tells whether a CRS is true; if not, it is
refined.
"""
SLOPE = 500.0
"""The distance in metres to either side of a node for the slope of the inverse projection. A
shorter one loses PROJ's digits, a longer one follows its curve.
"""
DIGITS = 2.0**32
"""Values are rounded to multiples of 1 / `DIGITS` of their power of two."""


@dataclass(frozen=True, slots=True)
class Ground:
    """The ratio of areas and the metric of lengths on the ground, at the nodes of a lattice that
    spans an image from corner to corner.
    """

    shape: tuple[int, int]
    """The image's (row, column)."""

    values: Floats
    """(node down, node across, 4): the ratio of ground area to plane area; then E, F and G, by
    which a step x, y in the plane has the length sqrt(E x² + 2 F x y + G y²) on the ground. With
    one node across, the values do not depend on the column.
    """

    @property
    def fine(self) -> bool:
        """Whether nodes are so close to each other that values change within a pixel."""
        return any(
            nodes > 1 and extent < 4 * (nodes - 1)
            for nodes, extent in zip(self.values.shape, self.shape, strict=False)
        )

    def at(self, row: Floats, column: Floats, which: slice) -> Floats:
        """Some of the values at each row and column: (row, column, value), or (row, 1, value) if
        they do not depend on the column.
        """
        down = _between(
            self.values[..., which], row * ((self.values.shape[0] - 1) / self.shape[0]), 0
        )
        if self.values.shape[1] == 1:
            return down
        return _between(down, column * ((self.values.shape[1] - 1) / self.shape[1]), 1)

    def of_points(self, row: Floats, column: Floats, which: slice) -> Floats:
        """Some of the values at points: (n, value)."""
        nodes = [
            np.asarray(x) * ((n - 1) / extent)
            for x, n, extent in zip((row, column), self.values.shape, self.shape, strict=False)
        ]
        low = [
            np.clip(np.floor(x).astype(np.int64), 0, max(n - 2, 0))
            for x, n in zip(nodes, self.values.shape, strict=False)
        ]
        high = [np.minimum(one + 1, n - 1) for one, n in zip(low, self.values.shape, strict=False)]
        u, v = ((x - one)[:, None] for x, one in zip(nodes, low, strict=True))
        some = self.values[..., which]
        upper = some[low[0], low[1]] * (1 - v) + some[low[0], high[1]] * v
        lower = some[high[0], low[1]] * (1 - v) + some[high[0], high[1]] * v
        return np.asarray(upper * (1 - u) + lower * u)


def _between(values: Floats, places: Floats, axis: int) -> Floats:
    """Interpolate values between nodes linearly along an axis."""
    number = values.shape[axis]
    if number == 1:
        return np.repeat(values, len(places), axis)
    low = np.clip(np.floor(places).astype(np.int64), 0, number - 2)
    part = (places - low).reshape([-1 if k == axis else 1 for k in range(values.ndim)])
    return np.asarray(values.take(low, axis) * (1 - part) + values.take(low + 1, axis) * part)


@functools.lru_cache(maxsize=16)
def is_true(frame: Frame) -> bool:
    """Whether areas in an image's plane count as those on the ground. True also for an image
    without a CRS, or with one in degrees.
    """
    projected = _projected(frame)
    ratio = (
        np.zeros(0) if projected is None else _lattice(frame, projected, (COARSE, COARSE))[..., 0]
    )
    known = ratio[ratio > 0]
    return not known.size or bool((np.abs(1 / known - 1) > TRUE).mean() <= FEW)


@functools.lru_cache(maxsize=16)
def ground_of(frame: Frame) -> Ground | None:
    """The ground of an image; None if areas in its plane are true."""
    projected = _projected(frame)
    if projected is None or is_true(frame):
        return None
    values = _lattice(frame, projected, (COARSE, COARSE))
    if np.abs(values - values[:, :1]).max() <= ERROR / 100 * values.max():
        values = values[:, :1]
    while (finer := _finer(frame, projected, values)) is not None:
        values = finer
    return Ground((frame.shape[0], frame.shape[1]), _filled(values))


def _finer(frame: Frame, projected: Projected, values: Floats) -> Floats | None:
    """The lattice with twice as many nodes along each axis that is still too coarse; None if it is
    fine enough, or has as many nodes as it may.
    """
    nodes = values.shape[:2]
    twice = [
        2 * n - 1 if 1 < n <= 4 * extent else n
        for n, extent in zip(nodes, frame.shape, strict=True)
    ]
    if tuple(twice) == nodes or twice[0] * twice[1] > (
        MOST_TORN if (values[..., 0] == 0).any() else MOST
    ):
        return None
    tried = _lattice(frame, projected, (twice[0], twice[1]))
    doubled = [
        new > old and _missed(tried[..., 0], axis) > ERROR
        for axis, (new, old) in enumerate(zip(twice, nodes, strict=True))
    ]
    steps = [
        1 if double or new == old else 2
        for double, new, old in zip(doubled, twice, nodes, strict=True)
    ]
    return np.ascontiguousarray(tried[:: steps[0], :: steps[1]]) if any(doubled) else None


def _filled(values: Floats) -> Floats:
    """The lattice with the values of the nearest node wherever there is no ground: pixels at the
    edge of a projection need values on both sides.
    """
    nowhere = values[..., 0] == 0
    if not nowhere.any():
        return values
    from scipy.ndimage import distance_transform_edt

    nearest = distance_transform_edt(nowhere, return_distances=False, return_indices=True)
    return np.ascontiguousarray(values[tuple(nearest)])


def _missed(values: Floats, axis: int) -> float:
    """The largest relative error of interpolation at every second node, from the two nodes beside
    it.
    """
    moved = np.moveaxis(values, axis, 0)
    known = moved[1::2]
    between = (moved[:-2:2] + moved[2::2]) / 2
    there = (known > 0) & (moved[:-2:2] > 0) & (moved[2::2] > 0)
    return float((np.abs(between[there] / known[there] - 1)).max(initial=0.0))


@dataclass(frozen=True, slots=True)
class Projected:
    """A projected CRS, and the geographic CRS under it."""

    crs: Any
    geographic: Any
    ellipsoid: tuple[float, float]
    """The semi-major axis in metres, and the square of the eccentricity."""

    metres: float
    """Metres in one unit of the plane."""

    radians: float
    """Radians in one unit of longitude and latitude."""


def _projected(frame: Frame) -> Projected | None:
    if frame.ndim != 2 or frame.transform is None or frame.crs is None:
        return None
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    crs = CRS.from_wkt(frame.crs)
    if not crs.is_projected or crs.units_factor[0] == "unknown":
        return None
    try:
        found = _geographic(str(crs.to_wkt(version="WKT1_GDAL")))
        geographic = CRS.from_wkt(found)
        return Projected(
            crs, geographic, ellipsoid(found), crs.units_factor[1], geographic.units_factor[1]
        )
    except (CRSError, ValueError):  # a map of another planet, or a CRS without a name
        return None


def _geographic(wkt: str) -> str:
    """The geographic CRS inside the WKT of a projected one; ValueError if there is none."""
    start = wkt.index("GEOGCS[")
    depth = 0
    for at in range(start, len(wkt)):
        depth += {"[": 1, "]": -1}.get(wkt[at], 0)
        if wkt[at] == "]" and depth == 0:
            return wkt[start : at + 1]
    raise ValueError(f"{wkt[:60]!r} does not end")


def ellipsoid(wkt: str) -> tuple[float, float]:
    """The semi-major axis in metres and the square of the eccentricity (0 for a sphere), from WKT
    of any version.
    """
    found = re.search(r'(?:SPHEROID|ELLIPSOID)\["[^"]*",\s*([0-9.eE+]+),\s*([0-9.eE+]+)', wkt)
    if found is None:
        raise ValueError(f"the geographic CRS {wkt[:60]!r} names no ellipsoid")
    inverse = float(found[2])
    flattening = 1 / inverse if inverse else 0.0
    return float(found[1]), flattening * (2 - flattening)


def _lattice(frame: Frame, projected: Projected, nodes: tuple[int, int]) -> Floats:
    """The values of `Ground` at this many nodes along each axis; a single node lies in the
    middle.
    """
    rows, columns = (
        np.linspace(0, n, m) if m > 1 else np.array([n / 2])
        for n, m in zip(frame.shape, nodes, strict=True)
    )
    x, y = frame.place(*np.meshgrid(rows, columns, indexing="ij"))
    step = SLOPE / projected.metres
    moves = np.array([(step, 0), (-step, 0), (0, step), (0, -step)])
    places = _in_space(projected, x[..., None] + moves[:, 0], y[..., None] + moves[:, 1])
    places[~_there(projected, x, y)] = np.nan
    along = (places[..., 0::2, :] - places[..., 1::2, :]) / (2 * SLOPE)
    e, f, g = (
        (along[..., one, :] * along[..., other, :]).sum(axis=-1)
        for one, other in ((0, 0), (0, 1), (1, 1))
    )
    values = np.stack([np.sqrt(np.maximum(e * g - f * f, 0)), e, f, g], axis=-1)
    mantissa, exponent = np.frexp(
        np.where(np.isfinite(values).all(axis=-1, keepdims=True), values, 0.0)
    )
    return np.ldexp(np.round(mantissa * DIGITS) / DIGITS, exponent)


def _in_space(projected: Projected, x: Floats, y: Floats) -> Floats:
    """Places of the plane in metres from the centre of the Earth; NaN where the projection has no
    ground.
    """
    found = np.concatenate(
        list(_transformed(projected.crs, projected.geographic, x.ravel(), y.ravel())), axis=1
    )
    longitude, latitude = (
        np.where(np.isfinite(one), one, np.nan).reshape(x.shape) * projected.radians
        for one in found
    )
    major, squared = projected.ellipsoid
    sine = np.sin(latitude)
    normal = major / np.sqrt(1 - squared * sine * sine)
    flat = normal * np.cos(latitude)
    return np.stack(
        [flat * np.cos(longitude), flat * np.sin(longitude), normal * (1 - squared) * sine], axis=-1
    )


def _there(projected: Projected, x: Floats, y: Floats) -> npt.NDArray[np.bool_]:
    """Whether places of the plane lie on the ground: projected back, they are the same places. Some
    projections continue beyond their edge.
    """
    where = np.concatenate(
        list(_transformed(projected.crs, projected.geographic, x.ravel(), y.ravel())), axis=1
    )
    known = np.isfinite(where).all(axis=0)
    back = np.full_like(where, np.nan)
    back[:, known] = np.concatenate(
        list(_transformed(projected.geographic, projected.crs, *where[:, known])), axis=1
    )
    near = np.abs(back - (x.ravel(), y.ravel())) <= 1 / projected.metres
    return np.asarray(near.all(axis=0).reshape(x.shape))


def _transformed(source: Any, target: Any, x: Floats, y: Floats) -> Iterator[Floats]:
    """Transform places to another CRS: yields parts of (2, n).

    PROJ refuses a whole batch that has one place off the ground; the batch is then halved until
    that place is alone, and gives NaN.
    """
    # rasterio lets GDAL's own errors through, and exports no name for them
    from rasterio._err import CPLE_BaseError
    from rasterio.warp import transform

    try:
        yield np.array(transform(source, target, x, y), np.float64).reshape(2, -1)
    except CPLE_BaseError:
        half = len(x) // 2
        if not half:
            yield np.full((2, 1), np.nan)
            return
        yield from _transformed(source, target, x[:half], y[:half])
        yield from _transformed(source, target, x[half:], y[half:])
