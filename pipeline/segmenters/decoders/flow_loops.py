"""Compiled loops behind the decoders: following a flow field, diffusing heat, joining pixels."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from pipeline.imageops.components import root_of

FINE = 1024
"""Steps per pixel. Positions are integers in these steps, because sums of floats would round
differently in another window.
"""


def ends(
    flow: npt.NDArray[Any], support: npt.NDArray[np.bool_], steps: int
) -> npt.NDArray[np.int64]:
    """Follow a flow from every pixel within its piece of support.

    Parameters
    ----------
    flow : float ndarray, (2, row, column)
        Displacements along rows and columns, in pixels; longer ones are cut to one pixel, and
        values that are not finite count as 0.
    support : bool ndarray, (row, column)
        The foreground. A step leads at most to a neighbour, so never to another piece.
    steps : int
        The largest number of steps. A step that would leave the support is not taken, and ends the
        path.

    Returns
    -------
    int64 ndarray, (row, column)
        The flat index of the pixel where each path ends; -1 outside the support.
    """
    known = np.where(support & np.isfinite(flow).all(axis=0), flow, 0).astype(np.float64)
    length = np.maximum(np.sqrt(known[0] ** 2 + known[1] ** 2), 1)
    end = np.full(support.shape, -1, np.int64)
    _follow(np.rint(known / length * FINE).astype(np.int32), support, steps, end)
    return end


@numba.njit(cache=True, nogil=True)
def _follow(flow, support, steps, end):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    rows, columns = support.shape
    for r in range(rows):
        for c in range(columns):
            if not support[r, c]:
                continue
            y = r * FINE
            x = c * FINE
            before_y = y
            before_x = x
            for _ in range(steps):
                down = _between(flow[0], y, x)
                right = _between(flow[1], y, x)
                row = (y + down + FINE // 2) // FINE
                column = (x + right + FINE // 2) // FINE
                if not (0 <= row < rows and 0 <= column < columns and support[row, column]):
                    break
                # the pixel stands still, or oscillates
                if (down == 0 and right == 0) or (y + down == before_y and x + right == before_x):
                    break
                before_y = y
                before_x = x
                y = y + down
                x = x + right
            end[r, c] = (y + FINE // 2) // FINE * columns + (x + FINE // 2) // FINE


@numba.njit(cache=True, nogil=True)
def _between(values, y, x):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Bilinear interpolation between four pixels, rounded to an integer."""
    rows, columns = values.shape
    top = y // FINE
    left = x // FINE
    v = y - top * FINE
    h = x - left * FINE
    bottom = min(top + 1, rows - 1)
    right = min(left + 1, columns - 1)
    top = max(top, 0)
    left = max(left, 0)
    upper = np.int64(values[top, left]) * (FINE - h) + np.int64(values[top, right]) * h
    lower = np.int64(values[bottom, left]) * (FINE - h) + np.int64(values[bottom, right]) * h
    return (upper * (FINE - v) + lower * v + FINE * FINE // 2) // (FINE * FINE)


def heat(mask: npt.NDArray[np.bool_], source: tuple[int, int]) -> npt.NDArray[np.float64]:
    """Diffuse heat from one pixel of an object through it, with cold surroundings.

    In each iteration one unit is added at the source, then each pixel takes the mean of its 3 x 3
    neighbourhood. It runs twice as many iterations as the object's box has rows and columns, and
    until the whole object is warm.

    Parameters
    ----------
    mask : bool ndarray, (row, column)
        The object.
    source : tuple of int
        Row and column of the source.

    Returns
    -------
    float64 ndarray, (row, column)
        The heat; 0 outside the object.

    References
    ----------
    .. [1] C. Stringer et al. (2021), "Cellpose: a generalist algorithm for cellular segmentation",
       Nature Methods 18, 100-106: Methods, "auxiliary vector flow representation".
    """
    now = np.zeros((mask.shape[0] + 2, mask.shape[1] + 2))
    inside = np.argwhere(mask) + 1
    _diffuse(now, inside, source[0] + 1, source[1] + 1, 2 * sum(mask.shape))
    return now[1:-1, 1:-1].copy()


@numba.njit(cache=True, nogil=True)
def _diffuse(now, inside, row, column, least):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    new = np.empty(len(inside))
    for step in range(max(least, len(inside))):
        now[row, column] += 1
        for k in range(len(inside)):
            r, c = inside[k]
            new[k] = (
                now[r - 1, c - 1] + now[r - 1, c] + now[r - 1, c + 1]
                + now[r, c - 1] + now[r, c] + now[r, c + 1]
                + now[r + 1, c - 1] + now[r + 1, c] + now[r + 1, c + 1]
            ) / 9  # fmt: skip
        for k in range(len(inside)):
            now[inside[k, 0], inside[k, 1]] = new[k]
        if step >= least - 1 and new.min() > 0:
            break


def joined_by(
    support: npt.NDArray[np.bool_], bonds: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int32]:
    """Label the sets of pixels that bonds connect.

    Parameters
    ----------
    support : bool ndarray, (row, column) or (plane, row, column)
        The foreground.
    bonds : bool ndarray, (axis, row, column) or (axis, plane, row, column)
        Whether a pixel and the next one along that axis belong together.

    Returns
    -------
    int32 ndarray of the shape of ``support``
        Labels from 1 in raster order of their first pixels; 0 outside.
    """
    flat = np.zeros(bonds.shape, bool)
    for axis in range(support.ndim):
        near, far = ((slice(None),) * axis + (part,) for part in (slice(None, -1), slice(1, None)))
        flat[axis][near] = bonds[axis][near] & support[near] & support[far]
    strides = np.array([int(np.prod(support.shape[axis + 1 :])) for axis in range(support.ndim)])
    labels = np.zeros(support.shape, np.int32)
    _join(
        np.ascontiguousarray(support).reshape(-1),
        flat.reshape(support.ndim, -1),
        strides,
        labels.reshape(-1),
    )
    return labels


@numba.njit(cache=True, nogil=True)
def _join(support, bonds, strides, labels):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    root = np.arange(len(support))
    for i in range(len(support)):
        for axis in range(len(strides)):
            if bonds[axis, i]:
                a = root_of(root, i)
                b = root_of(root, i + strides[axis])
                root[max(a, b)] = min(a, b)
    number = 0
    for i in range(len(support)):
        if support[i]:
            if root[i] == i:
                number += 1
                labels[i] = number
            else:
                labels[i] = labels[root_of(root, i)]  # it comes before


def in_raster_order(labels: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int32]:
    """Renumber labels 1 to n by their first pixels; none is below 0."""
    new = np.zeros(labels.shape, np.int32)
    _renumber(
        np.ascontiguousarray(labels).reshape(-1),
        np.zeros(int(labels.max(initial=0)) + 1, np.int32),
        new.reshape(-1),
    )
    return new


@numba.njit(cache=True, nogil=True)
def _renumber(labels, names, new):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    number = 0
    for i in range(len(labels)):
        if labels[i] > 0:
            if names[labels[i]] == 0:
                number += 1
                names[labels[i]] = number
            new[i] = names[labels[i]]
