"""Compiled loops that add up areas, boxes and values over the pixels of each label.

NumPy would pass over the pixels once for each column of the table. One loop adds up everything of
integer type, for a run of equal labels in a row at a time: finding the runs costs as much as adding
up what is in them.
"""

from __future__ import annotations

import numba
import numpy as np

from pipeline.numerics.exact_sums import LIMB, MASK

NARROW = 2
"""Bytes of integers with squares that fit in 32 bits."""


@numba.njit(cache=True, nogil=True)
def add_up(  # type: ignore[no-untyped-def]  # noqa: ANN201
    labels,  # noqa: ANN001
    block,  # noqa: ANN001
    origin,  # noqa: ANN001
    extent,  # noqa: ANN001
    area,  # noqa: ANN001
    anchor,  # noqa: ANN001
    low,  # noqa: ANN001
    high,  # noqa: ANN001
    place,  # noqa: ANN001
    value,  # noqa: ANN001
    square,  # noqa: ANN001
    minimum,  # noqa: ANN001
    maximum,  # noqa: ANN001
):
    """Add up areas, anchors, boxes, coordinates and the values of integer bands per label.

    Parameters
    ----------
    labels : int32 ndarray, (plane, row, column)
        Labels from 1; 0 is background.
    block : int ndarray, (band, plane, row, column)
        The pixels.
    origin, extent : int64 ndarray, (3,)
        Where the labels lie in the image, and the image's shape.
    area, anchor, low, high, place, value, square, minimum, maximum : ndarray
        Columns of `pipeline.imageops.region_sums.Sums`, changed in place.
    """
    planes, rows, columns = labels.shape
    for p in range(planes):
        for r in range(rows):
            first = ((origin[0] + p) * extent[1] + origin[1] + r) * extent[2] + origin[2]
            line = labels[p, r]
            c = 0
            while c < columns:
                label = line[c]
                end = c + 1
                while end < columns and line[end] == label:
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
                    for band in range(len(block)):
                        total, lower, upper, least, most = _sum_run(block[band, p, r], c, end)
                        value[i, band, 0] += total & MASK
                        value[i, band, 1] += total >> LIMB
                        square[i, band, 0] += lower & MASK
                        square[i, band, 1] += upper + (lower >> LIMB)
                        minimum[i, band] = min(minimum[i, band], least)
                        maximum[i, band] = max(maximum[i, band], most)
                c = end


@numba.njit(cache=True, nogil=True)
def _sum_run(line, start, stop):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Sum, sum of squares in two limbs, minimum and maximum of integers of up to 32 bits.

    No limb overflows below 2^31 pixels.
    """
    total = np.int64(0)
    lower = np.int64(0)
    upper = np.int64(0)
    if line.itemsize <= NARROW:  # in 32 bits, which is faster
        small = large = np.int32(line[start])
        for k in range(start, stop):
            here = np.int32(line[k])
            magnitude = np.uint32(abs(here))
            total += here
            lower += np.uint32(magnitude * magnitude)
            small = min(small, here)
            large = max(large, here)
        return total, lower, upper, np.int64(small), np.int64(large)
    least = most = np.int64(line[start])
    for k in range(start, stop):
        value = np.int64(line[k])
        wide = np.uint64(abs(value))
        total += value
        lower += np.int64((wide * wide) & np.uint64(MASK))
        upper += np.int64((wide * wide) >> np.uint64(LIMB))
        least = min(least, value)
        most = max(most, value)
    return total, lower, upper, least, most


@numba.njit(cache=True, nogil=True)
def add_grounds(labels, areas, ground):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Add up the areas of pixels, (row, column, limb) or (row, 1, limb), limb by limb.

    Limbs are below 2^32, so none overflows below 2^31 pixels. In `add_up`, this would slow down
    images with pixels of equal area.
    """
    for r in range(labels.shape[0]):
        for c in range(labels.shape[1]):
            if labels[r, c] > 0:
                for limb in range(areas.shape[2]):
                    ground[labels[r, c] - 1, limb] += areas[r, min(c, areas.shape[1] - 1), limb]
