"""Sums over the pixels of each label, which add up across tiles exactly and in any order.

Counts and coordinates are exact in 64 bits. The values of bands and their squares are kept as exact
sums, and the mean and the deviation are rounded once. (The square of a float is rounded to a float
first, pixel by pixel.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.image.grid import Box
from pipeline.imageops.accumulate import add_grounds, add_up
from pipeline.numerics.exact_sums import (
    INTEGER_LIMBS,
    Exact,
    Floats,
    Integers,
    add_floats,
    carry,
    ratio,
    stack,
)


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums of n labels; row i belongs to label i + 1, unless the owner says otherwise."""

    area: Integers
    """(n,) pixels."""

    anchor: Integers
    """(n,) flat index in the image of the first pixel in raster order; the largest int64 without
    pixels.
    """

    low: Integers
    """(n, axis) first row and column (plane, row and column)."""

    high: Integers
    """(n, axis) one past the last."""

    place: Integers
    """(n, axis) sums of the pixels' coordinates in the image."""

    kind: Integers
    """(n,) the class; where pixels vote, the class with most votes (of several the lowest)."""

    votes: Integers
    """(n, class) pixels that vote for a class, from 1; no columns without votes."""

    marked: Integers
    """(n,) pixels that are seeds; all pixels where seeds are not used."""

    count: Integers
    """(n, band) pixels where the band was measured."""

    ground: Integers
    """(n, limb) sums of pixel areas in limbs of 32 bits; no limbs where all pixels have one area.
    """

    minimum: Floats
    """(n, band) the least value."""

    maximum: Floats
    """(n, band) the greatest value."""

    value: Exact
    """Sums of the bands' values."""

    square: Exact
    """Sums of their squares."""

    def __len__(self) -> int:
        return len(self.area)

    def take(self, rows: npt.NDArray[Any]) -> Sums:
        """Select rows by number or by a mask."""
        return Sums(*(_take(getattr(self, field.name), rows) for field in fields(self)))

    def merge(self, owner: Integers, number: int) -> Sums:
        """Add up rows with the same owner, 0 to ``number`` - 1; rows with a negative owner are left
        out.
        """
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
                getattr(merged, name).limbs[at] = np.add.reduceat(
                    getattr(self, name).limbs[rows], starts, axis=0
                )
                carry(getattr(merged, name).limbs)
        carry(merged.ground[:, None])
        return replace(merged, kind=_elected(merged.kind, merged.votes))


_ADDITION: dict[str, np.ufunc] = {
    "area": np.add,
    "anchor": np.minimum,
    "low": np.minimum,
    "high": np.maximum,
    "place": np.add,
    "kind": np.maximum,
    "votes": np.add,
    "marked": np.add,
    "count": np.add,
    "ground": np.add,
    "minimum": np.minimum,
    "maximum": np.maximum,
}

ROWS = 128
"""Rows with areas of pixels in memory at once."""
NOWHERE = np.iinfo(np.int64).max
WORD = 4
"""Bytes of the widest integers that are added as integers."""
NO_BANDS = np.zeros((0, 1, 1, 1), np.uint8)


def empty(number: int, axes: int, bands: int, *, like: Sums | None = None) -> Sums:
    """Build sums of labels without pixels.

    Parameters
    ----------
    number : int
        How many labels.
    axes : int
        2 or 3 dimensions.
    bands : int
        How many bands.
    like : Sums, optional
        Sums with the limbs and the classes to provide for.

    Returns
    -------
    Sums
        ``number`` rows.
    """
    exact = [
        Exact(
            np.zeros((number, bands, e.limbs.shape[2] if e else INTEGER_LIMBS), np.int64),
            e.exponent if e else 0,
        )
        for e in ((like.value, like.square) if like else (None, None))
    ]
    return Sums(
        np.zeros(number, np.int64),
        np.full(number, NOWHERE),
        np.full((number, axes), NOWHERE),
        np.zeros((number, axes), np.int64),
        np.zeros((number, axes), np.int64),
        np.zeros(number, np.int64),
        np.zeros((number, like.votes.shape[1] if like else 0), np.int64),
        np.zeros(number, np.int64),
        np.zeros((number, bands), np.int64),
        np.zeros((number, like.ground.shape[1] if like else 0), np.int64),
        np.full((number, bands), np.inf),
        np.full((number, bands), -np.inf),
        exact[0],
        exact[1],
    )


def concatenate(parts: Sequence[Sums]) -> Sums:
    """Stack the rows of all parts; there is at least one part."""
    parts = [
        replace(part, **wide)
        for part, wide in zip(parts, _padded(parts, ("votes", "ground")), strict=True)
    ]
    plain: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in _ADDITION
    }
    return Sums(
        **plain, value=stack([p.value for p in parts]), square=stack([p.square for p in parts])
    )


def measure(
    labels: npt.NDArray[np.int32],
    block: npt.NDArray[Any],
    number: int,
    core: Box,
    shape: Sequence[int],
    *,
    measured: npt.NDArray[np.bool_] | None = None,
    kind: Integers | None = None,
    votes: npt.NDArray[Any] | None = None,
    seeds: npt.NDArray[np.bool_] | None = None,
    areas: Callable[[tuple[int, int]], Integers] | None = None,
) -> Sums:
    """Sum over the pixels of each label in a core.

    Parameters
    ----------
    labels : int32 ndarray, (row, column) or (plane, row, column)
        Labels, 0 to ``number``.
    block : ndarray, (band, row, column) or (band, plane, row, column)
        The pixels of the core; finite where there is a label and they were measured.
    number : int
        The highest label.
    core : Box
        The position of the core in the image.
    shape : sequence of int
        The image's shape.
    measured : bool ndarray of the shape of ``block``, optional
        Where each band was measured; None: everywhere. Other values do not count.
    kind : int64 ndarray, (number,), optional
        The class of each label; None: 1.
    votes : int ndarray of the shape of ``labels``, optional
        The class that a pixel votes for, 0 for none. A label with votes gets the class with most.
    seeds : bool ndarray of the shape of ``labels``, optional
        The pixels that count as seeds; None: all.
    areas : callable, optional
        Given the first of some rows of the image and one past the last, it returns the areas of the
        core's pixels there in limbs of 32 bits: (row, column, limb), or (row, 1, limb) where they
        depend on the row alone. None: areas are not added up.

    Returns
    -------
    Sums
        ``number`` rows.
    """
    axes = labels.ndim
    origin = np.array((0,) * (3 - axes) + core.start, np.int64)
    extent = np.array((1,) * (3 - axes) + tuple(shape), np.int64)
    sums = _measured(labels, block, number, origin, extent, measured)
    ground = (
        np.zeros((number, 0), np.int64) if areas is None else _grounds(labels, areas, number, core)
    )
    marked = (
        sums.area.copy()
        if seeds is None
        else np.bincount(labels[seeds], minlength=number + 1)[1:].astype(np.int64)
    )
    counted = np.zeros((number, 0), np.int64) if votes is None else _counted(labels, votes, number)
    kinds = _elected(np.ones(number, np.int64) if kind is None else kind, counted)
    around = {name: getattr(sums, name)[:, 3 - axes :].copy() for name in ("low", "high", "place")}
    return replace(sums, **around, kind=kinds, votes=counted, marked=marked, ground=ground)


def _measured(
    labels: npt.NDArray[np.int32],
    block: npt.NDArray[Any],
    number: int,
    origin: Integers,
    extent: Integers,
    measured: npt.NDArray[np.bool_] | None,
) -> Sums:
    """Add up areas, boxes, coordinates and the values of bands, always along three axes.

    Parameters
    ----------
    labels, block, number, measured
        As for `measure`.
    origin, extent : int64 ndarray, (3,)
        Where the labels lie in the image, and the image's shape.
    """
    bands = len(block)
    solid = labels.reshape((1,) * (3 - labels.ndim) + labels.shape)
    pixels = block.reshape((bands, *solid.shape))
    whole = block.dtype.kind in "biu" and block.dtype.itemsize <= WORD
    partly = _partly(labels, measured, bands)
    added = pixels if whole and not partly else NO_BANDS
    sums = _added(solid, added, number, origin, extent, bands)
    count = np.repeat(sums.area[:, None], bands, axis=1)
    if partly or not whole:
        of_band = [_where(solid, measured, k) if k in partly else solid for k in range(bands)]
        for k in partly:
            count[:, k] = np.bincount(of_band[k].ravel(), minlength=number + 1)[1:]
        by_band = _by_band(of_band, pixels, number, origin, extent, sums, integers=whole)
        sums = replace(sums, **by_band)
    return replace(sums, count=count)


def _partly(
    labels: npt.NDArray[np.int32], measured: npt.NDArray[np.bool_] | None, bands: int
) -> list[int]:
    """The bands that were not measured at some labelled pixel."""
    if measured is None or measured.all():
        return []
    drawn = labels > 0
    return [k for k in range(bands) if (drawn & ~measured[k]).any()]


def _where(
    solid: npt.NDArray[np.int32], measured: npt.NDArray[np.bool_] | None, band: int
) -> npt.NDArray[np.int32]:
    """The labels where a band was measured, 0 elsewhere."""
    assert measured is not None  # noqa: S101  a band is missing somewhere
    return np.where(measured[band].reshape(solid.shape), solid, np.int32(0)).astype(
        solid.dtype, copy=False
    )


def _added(
    solid: Any, pixels: Any, number: int, origin: Integers, extent: Integers, bands: int
) -> Sums:
    """Add up areas, boxes, coordinates and the values of integer bands.

    Parameters
    ----------
    solid : int32 ndarray, (plane, row, column)
        Labels.
    pixels : integer ndarray, (band, plane, row, column)
        The bands to add, or none.
    number : int
        The highest label.
    origin, extent : int64 ndarray, (3,)
        Where the labels lie in the image, and the image's shape.
    bands : int
        The number of columns for bands.
    """
    sums = empty(number, 3, bands)
    columns = (
        sums.area,
        sums.anchor,
        sums.low,
        sums.high,
        sums.place,
        sums.value.limbs,
        sums.square.limbs,
        sums.minimum,
        sums.maximum,
    )
    add_up(solid, pixels, origin, extent, *columns)
    carry(sums.value.limbs)
    carry(sums.square.limbs)
    return sums


def _by_band(
    of_band: Sequence[Any],
    pixels: Any,
    number: int,
    origin: Integers,
    extent: Integers,
    sums: Sums,
    *,
    integers: bool,
) -> dict[str, Any]:
    """Compute the columns of bands' values, with labels for each band.

    Parameters
    ----------
    of_band : sequence of int32 ndarray, (plane, row, column)
        The labels where each band was measured.
    pixels : ndarray, (band, plane, row, column)
        The bands.
    number : int
        The highest label.
    origin, extent : int64 ndarray, (3,)
        Where the labels lie in the image, and the image's shape.
    sums : Sums
        For floats: its minimum and maximum are changed in place.
    integers : bool
        Whether bands are added as integers.
    """
    if not integers:
        low = sums.minimum
        high = sums.maximum
        value, square = add_floats(of_band, pixels, number, low, high)
        return {"value": value, "square": square}
    each = [
        _added(labels, pixels[k : k + 1], number, origin, extent, 1)
        for k, labels in enumerate(of_band)
    ]
    return {
        **{
            name: np.concatenate([getattr(one, name) for one in each], axis=1)
            for name in ("minimum", "maximum")
        },
        **{
            name: Exact(np.concatenate([getattr(one, name).limbs for one in each], axis=1), 0)
            for name in ("value", "square")
        },
    }


def grounds(sums: Sums, exponent: int) -> Floats:
    """(n,) the sums of pixel areas, rounded once; ``exponent`` is the power of two of the lowest
    limb.
    """
    total = Exact(sums.ground[:, None], exponent).integers()[:, 0]
    return ratio(total, np.ones(len(total), object), exponent)


def means(sums: Sums) -> tuple[Floats, Floats]:
    """Mean and population standard deviation of each band, (n, band).

    Rounded once from the exact sums; NaN where a band was not measured.
    """
    known = sums.count > 0
    area = np.where(known, sums.count, 1).astype(object)
    value = sums.value.integers()
    square = sums.square.integers()
    twice = min(2 * sums.value.exponent, sums.square.exponent)
    spread = area * (square << (sums.square.exponent - twice)) - (
        (value * value) << (2 * sums.value.exponent - twice)
    )
    deviation = np.sqrt(np.maximum(ratio(spread, area * area, twice), 0))
    mean = ratio(value, area, sums.value.exponent)
    return np.where(known, mean, np.nan), np.where(known, deviation, np.nan)


def _padded(parts: Sequence[Sums], names: Sequence[str]) -> list[dict[str, Any]]:
    """Columns padded to the widest of the parts: a part without rows does not know how wide they
    are.
    """
    most = {name: max(getattr(part, name).shape[1] for part in parts) for name in names}
    return [
        {
            name: np.pad(getattr(part, name), [(0, 0), (0, n - getattr(part, name).shape[1])])
            for name, n in most.items()
        }
        for part in parts
    ]


def _grounds(
    labels: npt.NDArray[np.integer],
    areas: Callable[[tuple[int, int]], Integers],
    number: int,
    core: Box,
) -> Integers:
    """(number, limb) the sums of pixel areas per label."""
    first = core.start[0]
    last = core.stop[0]
    parts = [(top, min(top + ROWS, last)) for top in range(first, last, ROWS)]
    ground = np.zeros((number, areas(parts[0]).shape[2]), np.int64)
    for rows in parts:
        add_grounds(labels[rows[0] - first : rows[1] - first], areas(rows), ground)
    carry(ground[:, None])
    return ground


def _counted(labels: npt.NDArray[np.int32], votes: npt.NDArray[Any], number: int) -> Integers:
    """(number, class) votes per label and class."""
    classes = int(votes.max(initial=0)) + 1
    at = labels.ravel().astype(np.int64) * classes + votes.ravel()
    return np.bincount(at, minlength=(number + 1) * classes).reshape(number + 1, classes)[1:, 1:]


def _elected(kind: Integers, votes: Integers) -> Integers:
    """The class of each label: by votes if it has any."""
    return np.where(votes.any(axis=1), votes.argmax(axis=1) + 1, kind) if votes.shape[1] else kind


def _take(column: Integers | Floats | Exact, rows: npt.NDArray[Any]) -> Any:
    return Exact(column.limbs[rows], column.exponent) if isinstance(column, Exact) else column[rows]
