"""How large the pixels of a map are on the ground, where its plane does not say: the areas of
Mercator's pixels, say, are not true.

A CRS is taken as true where, over the image, areas in its plane differ from those on its ellipsoid
by half a percent at most: UTM and national grids in their zones are, equal-area ones everywhere,
Web Mercator nowhere. Where it is not, a lattice over the image holds the ground's area for one of
the plane, and what lengths there are, by PROJ's inverse projection and its slope; between the nodes
of the lattice it is interpolated, with sums and products alone. A lattice is found once for a run:
mathematical libraries differ between processors in the last digit, and an object's area must not
depend on who adds it up.

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
"""The share by which areas in the plane may differ from those on the ground, and are still taken as
they are.
"""
FEW = 0.01
"""The share of an image's nodes that may differ by more: projections are torn in places, and end
somewhere.
"""
ERROR = 2e-7
"""The relative error of interpolation that is aimed at."""
MOST = 1 << 18
"""Nodes of a lattice."""
MOST_TORN = 1 << 14
"""Nodes of a lattice that holds places without ground, which are looked for one by one."""
COARSE = 17
"""Nodes along each axis of the lattice that tells whether a CRS is true, and is refined where it is
not.
"""
SLOPE = 500.0
"""Metres to both sides of a node over which the slope of the inverse projection is taken: PROJ's
digits are lost over less, its curve over more.
"""
DIGITS = 2.0**32
"""What is less than one of so many parts is rounded away."""


@dataclass(frozen=True, slots=True)
class Ground:
    """What the plane's areas and lengths are on the ground, at the nodes of a lattice from an
    image's one corner to the other.
    """

    shape: tuple[int, int]
    """Of the image: (row, column)."""

    values: Floats
    """(node down, node across, 4): the ground's area for one of the plane; and E, F, G, with which
    a step x, y of the plane has the length sqrt(E x² + 2 F x y + G y²). One node across stands for
    all.
    """

    @property
    def fine(self) -> bool:
        """Whether nodes are so near to each other that what they say changes within a pixel."""
        return any(
            nodes > 1 and extent < 4 * (nodes - 1)
            for nodes, extent in zip(self.values.shape, self.shape, strict=False)
        )

    def at(self, row: Floats, column: Floats, which: slice) -> Floats:
        """Some of the values along rows and columns, (row, column, value), or (row, 1, value) where
        all columns are alike.
        """
        down = _between(
            self.values[..., which], row * ((self.values.shape[0] - 1) / self.shape[0]), 0
        )
        if self.values.shape[1] == 1:
            return down
        return _between(down, column * ((self.values.shape[1] - 1) / self.shape[1]), 1)

    def of_points(self, row: Floats, column: Floats, which: slice) -> Floats:
        """Some of the values at points, (n, value)."""
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
    """Values between nodes along an axis."""
    number = values.shape[axis]
    if number == 1:
        return np.repeat(values, len(places), axis)
    low = np.clip(np.floor(places).astype(np.int64), 0, number - 2)
    part = (places - low).reshape([-1 if k == axis else 1 for k in range(values.ndim)])
    return np.asarray(values.take(low, axis) * (1 - part) + values.take(low + 1, axis) * part)


@functools.lru_cache(maxsize=16)
def is_true(frame: Frame) -> bool:
    """Whether areas in an image's plane are those on the ground, as far as one can tell: also where
    nobody says where it lies, or in degrees.
    """
    projected = _projected(frame)
    ratio = (
        np.zeros(0) if projected is None else _lattice(frame, projected, (COARSE, COARSE))[..., 0]
    )
    known = ratio[ratio > 0]
    return not known.size or bool((np.abs(1 / known - 1) > TRUE).mean() <= FEW)


@functools.lru_cache(maxsize=16)
def ground_of(frame: Frame) -> Ground | None:
    """What is on the ground of an image's plane; None where areas in it are true."""
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
    """The lattice with twice as many nodes along the axes where it is too coarse; None where it is
    fine enough, or as fine as can be.
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
    """The same, with what the nearest node says where there is no ground: pixels beside the end of
    a projection lie between both.
    """
    nowhere = values[..., 0] == 0
    if not nowhere.any():
        return values
    from scipy.ndimage import distance_transform_edt

    nearest = distance_transform_edt(nowhere, return_distances=False, return_indices=True)
    return np.ascontiguousarray(values[tuple(nearest)])


def _missed(values: Floats, axis: int) -> float:
    """By how much every other node is missed by the mean of those on both sides of it, at most;
    relative to it.
    """
    moved = np.moveaxis(values, axis, 0)
    known = moved[1::2]
    between = (moved[:-2:2] + moved[2::2]) / 2
    there = (known > 0) & (moved[:-2:2] > 0) & (moved[2::2] > 0)
    return float((np.abs(between[there] / known[there] - 1)).max(initial=0.0))


@dataclass(frozen=True, slots=True)
class Projected:
    """A projected CRS, and what it is projected from."""

    crs: Any
    geographic: Any
    ellipsoid: tuple[float, float]
    """The semi-major axis in metres, and the square of the eccentricity."""

    metres: float
    """In one unit of the plane."""

    radians: float
    """In one unit of longitude and latitude."""


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
    except (CRSError, ValueError):  # a map of another body, or of nothing that has a name
        return None


def _geographic(wkt: str) -> str:
    """The geographic CRS within a projected one; ValueError if there is none."""
    start = wkt.index("GEOGCS[")
    depth = 0
    for at in range(start, len(wkt)):
        depth += {"[": 1, "]": -1}.get(wkt[at], 0)
        if wkt[at] == "]" and depth == 0:
            return wkt[start : at + 1]
    raise ValueError(f"{wkt[:60]!r} does not end")


def ellipsoid(wkt: str) -> tuple[float, float]:
    """The semi-major axis in metres and the square of the eccentricity, as any version of WKT has
    them; of a sphere, 0.
    """
    found = re.search(r'(?:SPHEROID|ELLIPSOID)\["[^"]*",\s*([0-9.eE+]+),\s*([0-9.eE+]+)', wkt)
    if found is None:
        raise ValueError(f"the geographic CRS {wkt[:60]!r} names no ellipsoid")
    inverse = float(found[2])
    flattening = 1 / inverse if inverse else 0.0
    return float(found[1]), flattening * (2 - flattening)


def _lattice(frame: Frame, projected: Projected, nodes: tuple[int, int]) -> Floats:
    """`Ground.values` at so many nodes along each axis; of one node, in the middle."""
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
    """Where places of the plane are around the centre of the Earth, in metres; NaN where the
    projection has no ground.
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
    """Whether places of the plane have ground: it is projected to them again. Some projections go
    on beyond their ends.
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
    """Places in another CRS, (2, n), in parts: PROJ refuses all points that are asked about with
    one that is nowhere.
    """
    from rasterio._err import (
        CPLE_BaseError,
    )  # rasterio lets GDAL's own errors through, and exports no name for them
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
