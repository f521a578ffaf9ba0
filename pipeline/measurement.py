"""Sums over the pixels of each label that add up across tiles, exactly, in any order.

Counts, coordinates and integers add exactly in 64 bits. Floats do not: their sum depends on the order. So the values of a band and
their squares are added as integers: each float is a whole number times a power of two, and is put into *limbs* of 32 bits, as in
the accumulators of U. Kulisch; a sum of limbs loses nothing and does not depend on the order. The mean and the deviation are then
computed from the exact totals, rounded once. (The square of a float is rounded to a float first, pixel by pixel.)

The loops are compiled by numba because NumPy would pass over the pixels once for each column of the table.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from pipeline.grid import Box

LIMB = 32
MASK = (1 << LIMB) - 1
INTEGER_LIMBS = 3

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Exact:
    """Exact sums: row i, band b is the sum over k of limbs[i, b, k] · 2^(32 k + exponent)."""

    limbs: Integers
    """(label, band, limb); all but the last limb are below 2^32 once carried."""

    exponent: int
    """A multiple of 32."""

    def aligned(self, exponent: int, number: int) -> Integers:
        """The same sums as ``number`` limbs from ``exponent``, which is not above this one's."""
        before = (self.exponent - exponent) // LIMB
        return np.pad(self.limbs, ((0, 0), (0, 0), (before, number - before - self.limbs.shape[2])))

    def integers(self) -> npt.NDArray[np.object_]:
        """The sums as Python's integers, in units of 2^exponent: (label, band)."""
        total = np.zeros(self.limbs.shape[:2], object)
        for k in range(self.limbs.shape[2]):
            total += self.limbs[:, :, k].astype(object) << (LIMB * k)
        return total


@dataclass(frozen=True, slots=True)
class Sums:
    """What is known of n labels; row i belongs to label i + 1, or to whatever the owner says."""

    area: Integers
    """(n,) pixels."""

    anchor: Integers
    """(n,) the first pixel in raster order, as its number in the whole image; the largest int64 where there is none."""

    low: Integers
    """(n, axis) first row and column (plane, row and column)."""

    high: Integers
    """(n, axis) one past the last."""

    place: Integers
    """(n, axis) sums of the pixels' coordinates in the whole image."""

    minimum: Floats
    """(n, band)."""

    maximum: Floats
    """(n, band)."""

    value: Exact
    """Sums of the bands' values."""

    square: Exact
    """Sums of their squares."""

    def __len__(self) -> int:
        return len(self.area)

    def take(self, rows: npt.NDArray[Any]) -> Sums:
        """The rows asked for, by number or by a mask."""
        return Sums(*(_take(getattr(self, field.name), rows) for field in fields(self)))

    def merge(self, owner: Integers, number: int) -> Sums:
        """Add up the rows that have the same owner, 0 to ``number`` - 1; a row whose owner is negative is left out."""
        rows = np.flatnonzero(owner >= 0)
        rows = rows[np.argsort(owner[rows], kind="stable")]
        mine = owner[rows]
        starts = np.flatnonzero(np.diff(mine, prepend=-1))
        merged = empty(number, self.low.shape[1], self.minimum.shape[1], like=self)
        at = mine[starts]
        for name, add in _ADDITION.items():
            if len(starts):
                getattr(merged, name)[at] = add.reduceat(getattr(self, name)[rows], starts, axis=0)
        for name in ("value", "square"):
            if len(starts):
                getattr(merged, name).limbs[at] = np.add.reduceat(getattr(self, name).limbs[rows], starts, axis=0)
                _carry(getattr(merged, name).limbs)
        return merged


_ADDITION: dict[str, np.ufunc] = {
    "area": np.add, "anchor": np.minimum, "low": np.minimum, "high": np.maximum,
    "place": np.add, "minimum": np.minimum, "maximum": np.maximum,
}  # fmt: skip

NOWHERE = np.iinfo(np.int64).max


def empty(number: int, axes: int, bands: int, *, like: Sums | None = None) -> Sums:
    """Sums of ``number`` labels without a pixel; limbs as in ``like``."""
    exact = [
        Exact(np.zeros((number, bands, e.limbs.shape[2] if e else INTEGER_LIMBS), np.int64), e.exponent if e else 0)
        for e in ((like.value, like.square) if like else (None, None))
    ]
    return Sums(
        np.zeros(number, np.int64),
        np.full(number, NOWHERE),
        np.full((number, axes), NOWHERE),
        np.zeros((number, axes), np.int64),
        np.zeros((number, axes), np.int64),
        np.full((number, bands), np.inf),
        np.full((number, bands), -np.inf),
        exact[0],
        exact[1],
    )


def concatenate(parts: Sequence[Sums]) -> Sums:
    """The rows of all parts, one after the other; there is at least one part."""
    plain: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _ADDITION}
    return Sums(**plain, value=_stack([p.value for p in parts]), square=_stack([p.square for p in parts]))


def measure(labels: npt.NDArray[np.int32], block: npt.NDArray[Any], number: int, core: Box, shape: Sequence[int]) -> Sums:
    """Sum over the pixels of labels 1 to ``number`` in a core.

    Parameters
    ----------
    labels
        (row, column) or (plane, row, column), 0 to ``number``.
    block
        The pixels of the core, (band, row, column) or (band, plane, row, column); finite wherever there is a label.
    number
        The highest label.
    core
        Where the core lies in the image.
    shape
        The image's shape.
    """
    axes, bands = labels.ndim, len(block)
    solid = labels.reshape((1,) * (3 - axes) + labels.shape)
    origin = np.array((0,) * (3 - axes) + core.start, np.int64)
    extent = np.array((1,) * (3 - axes) + tuple(shape), np.int64)
    geometry = (np.zeros(number, np.int64), np.full(number, NOWHERE), *(np.zeros((number, 3), np.int64) for _ in range(3)))
    geometry[2][:] = NOWHERE
    _geometry(solid, origin, extent, *geometry)
    area, anchor, low, high, place = geometry
    minimum, maximum = np.full((number, bands), np.inf), np.full((number, bands), -np.inf)
    add = _add_integers if block.dtype.kind in "biu" and block.dtype.itemsize <= 4 else _add_floats
    value, square = add(solid, block.reshape((bands, *solid.shape)), number, minimum, maximum)
    kept = slice(3 - axes, 3)
    return Sums(area, anchor, low[:, kept].copy(), high[:, kept].copy(), place[:, kept].copy(), minimum, maximum, value, square)


def means(sums: Sums) -> tuple[Floats, Floats]:
    """The mean and the population standard deviation of each band, (n, band), rounded once from the exact sums."""
    area = sums.area.astype(object)[:, None]
    value, square = sums.value.integers(), sums.square.integers()
    twice = min(2 * sums.value.exponent, sums.square.exponent)
    spread = area * (square << (sums.square.exponent - twice)) - ((value * value) << (2 * sums.value.exponent - twice))
    deviation = np.sqrt(np.maximum(_ratio(spread, area * area, twice), 0))
    return _ratio(value, area, sums.value.exponent), deviation


def _ratio(numerator: npt.NDArray[np.object_], denominator: npt.NDArray[np.object_], exponent: int) -> Floats:
    """The ratio numerator · 2^exponent / denominator, rounded once, as Python divides integers."""
    if exponent < 0:
        return np.asarray(numerator / (denominator << -exponent), np.float64).reshape(numerator.shape)
    return np.asarray((numerator << exponent) / denominator, np.float64).reshape(numerator.shape)


def _take(column: Integers | Floats | Exact, rows: npt.NDArray[Any]) -> Any:
    return Exact(column.limbs[rows], column.exponent) if isinstance(column, Exact) else column[rows]


def _stack(parts: Sequence[Exact]) -> Exact:
    exponent = min(part.exponent for part in parts)
    number = max((part.exponent - exponent) // LIMB + part.limbs.shape[2] for part in parts)
    return Exact(np.concatenate([part.aligned(exponent, number) for part in parts]), exponent)


def _carry(limbs: Integers) -> None:
    """Bring every limb but the last below 2^32, in place."""
    for k in range(limbs.shape[2] - 1):
        limbs[:, :, k + 1] += limbs[:, :, k] >> LIMB
        limbs[:, :, k] &= MASK


def _add_integers(labels: Any, block: Any, number: int, minimum: Floats, maximum: Floats) -> tuple[Exact, Exact]:
    value, square = (np.zeros((number, len(block), INTEGER_LIMBS), np.int64) for _ in range(2))
    for band, pixels in enumerate(block):
        _sum_integers(labels, pixels, value[:, band], square[:, band], minimum[:, band], maximum[:, band])
    _carry(value)
    _carry(square)
    return Exact(value, 0), Exact(square, 0)


def _add_floats(labels: Any, block: Any, number: int, minimum: Floats, maximum: Floats) -> tuple[Exact, Exact]:
    sums = []
    for squared in (False, True):
        lowest, highest = _exponents(labels, block, squared)
        base = lowest // LIMB * LIMB
        limbs = np.zeros((number, len(block), (highest - base) // LIMB + 4), np.int64)
        for band, pixels in enumerate(block):
            _sum_floats(labels, pixels, squared, base, limbs[:, band], minimum[:, band], maximum[:, band])
        _carry(limbs)
        sums.append(Exact(limbs, base))
    return sums[0], sums[1]


@numba.njit(cache=True, nogil=True)
def _geometry(labels, origin, extent, area, anchor, low, high, place):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Add up areas, anchors, boxes and coordinates, one run of equal labels in a row at a time."""
    planes, rows, columns = labels.shape
    for p in range(planes):
        for r in range(rows):
            first = ((origin[0] + p) * extent[1] + origin[1] + r) * extent[2] + origin[2]
            c = 0
            while c < columns:
                label = labels[p, r, c]
                end = c + 1
                while end < columns and labels[p, r, end] == label:
                    end += 1
                if label > 0:
                    i = label - 1
                    run = end - c
                    area[i] += run
                    anchor[i] = min(anchor[i], first + c)
                    starts = (origin[0] + p, origin[1] + r, origin[2] + c)
                    stops = (origin[0] + p + 1, origin[1] + r + 1, origin[2] + end)
                    for axis in range(3):
                        low[i, axis] = min(low[i, axis], starts[axis])
                        high[i, axis] = max(high[i, axis], stops[axis])
                    place[i, 0] += run * starts[0]
                    place[i, 1] += run * starts[1]
                    place[i, 2] += run * starts[2] + run * (run - 1) // 2
                c = end


@numba.njit(cache=True, nogil=True)
def _sum_integers(labels, pixels, value, square, minimum, maximum):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Add the values of a band to two limbs each; values have at most 32 bits, so no limb overflows below 2^31 pixels."""
    for p in range(labels.shape[0]):
        for r in range(labels.shape[1]):
            for c in range(labels.shape[2]):
                label = labels[p, r, c]
                if label > 0:
                    i = label - 1
                    v = np.int64(pixels[p, r, c])
                    value[i, 0] += v & MASK
                    value[i, 1] += v >> LIMB
                    magnitude = np.uint64(abs(v))
                    squared = magnitude * magnitude
                    square[i, 0] += np.int64(squared & np.uint64(MASK))
                    square[i, 1] += np.int64(squared >> np.uint64(LIMB))
                    minimum[i] = min(minimum[i], v)
                    maximum[i] = max(maximum[i], v)


@numba.njit(cache=True, nogil=True)
def _exponents(labels, block, squared):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """The lowest and highest power of two of the last bit of a value (or its square), over all bands and labelled pixels."""
    lowest, highest = 5000, -5000
    for band in range(block.shape[0]):
        for p in range(labels.shape[0]):
            for r in range(labels.shape[1]):
                for c in range(labels.shape[2]):
                    v = np.float64(block[band, p, r, c])
                    if labels[p, r, c] > 0 and v != 0:
                        e = math.frexp(v * v if squared else v)[1] - 53
                        lowest, highest = min(lowest, e), max(highest, e)
    return (0, 0) if highest < lowest else (lowest, highest)


@numba.njit(cache=True, nogil=True)
def _sum_floats(labels, pixels, squared, base, limbs, minimum, maximum):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Add the values of a band (or their squares) to three limbs each; ``base`` is the power of two of the first limb."""
    for p in range(labels.shape[0]):
        for r in range(labels.shape[1]):
            for c in range(labels.shape[2]):
                label = labels[p, r, c]
                if label > 0:
                    i = label - 1
                    v = np.float64(pixels[p, r, c])
                    minimum[i] = min(minimum[i], v)
                    maximum[i] = max(maximum[i], v)
                    fraction, exponent = math.frexp(v * v if squared else v)
                    if fraction != 0:
                        whole = np.int64(fraction * 2.0**53)
                        k, shift = divmod(exponent - 53 - base, LIMB)
                        lower = (whole & MASK) << shift
                        upper = (whole >> LIMB) << shift
                        limbs[i, k] += lower & MASK
                        limbs[i, k + 1] += (lower >> LIMB) + (upper & MASK)
                        limbs[i, k + 2] += upper >> LIMB
