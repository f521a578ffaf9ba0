"""What surrounds a pixel: Gaussian and box means of the valid pixels near it.

Each gives to the last bit the same at a pixel whatever window it is computed in, provided that all
within reach is there: sums are made in an order that does not depend on where the window begins.
(Running sums and integral images, SciPy's and scikit-image's way, do depend on it.) Pixels that are
not valid are left out, and which way is taken is decided per pixel, never per window.

Nor do the bits depend on the processor: what NumPy and the C library compute otherwise on another
one comes from `elementary`. The Gaussian is a loop of our own, compiled by numba, that adds in
SciPy's order, in a quarter of the time; its weights are rounded once, so it is
`scipy.ndimage.gaussian_filter` to some 15 digits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from pipeline.numerics.elementary import LN2, bell, cosine, logarithm, sine

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
WORTH_COMPILING = 4096
"""Pixels for which it pays to load a compiled loop, which takes a quarter of a second."""
DIAGONAL = math.sqrt(0.5)
"""How far along either axis a step of length 1 goes that goes equally far along both."""


def gaussian_radius(sigma: float) -> int:
    """How many pixels away a Gaussian, cut off at four standard deviations, still looks."""
    return int(4 * sigma + 0.5)


def usable(value: npt.NDArray[Any], valid: Flags) -> Flags:
    """Where a value is a finite number at a valid pixel."""
    return valid & np.isfinite(value) if value.dtype.kind == "f" else valid


def smooth(value: npt.NDArray[Any], valid: Flags, sigma: float) -> Floats:
    """A Gaussian mean of the valid pixels, float64; NaN where none is within reach. Beyond the
    image its edge pixels go on.
    """
    from scipy import ndimage

    good = usable(value, valid)
    if good.all():
        return _gaussian(value, sigma)
    plain = _gaussian(np.where(good, value, 0), sigma)
    weight = _gaussian(good, sigma)
    complete = ndimage.minimum_filter(good, size=2 * gaussian_radius(sigma) + 1, mode="nearest")
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(complete, plain, np.where(weight > 0, plain / weight, np.nan))


def _gaussian(value: npt.NDArray[Any], sigma: float) -> Floats:
    """What `scipy.ndimage.correlate1d` gives for each axis in turn, with the weights of
    `elementary.bell`, to the last bit.
    """
    weights = bell(sigma, gaussian_radius(sigma))
    solid: Floats = value.astype(np.float64)
    if value.size < WORTH_COMPILING:
        for axis in range(value.ndim):
            solid = _weighed(solid, weights, axis)
        return solid
    for axis in range(value.ndim - 2):
        flat = np.ascontiguousarray(np.moveaxis(solid, axis, 0)).reshape(solid.shape[axis], -1)
        down = _smooth_down(flat, weights, np.empty_like(flat))
        solid = np.moveaxis(down.reshape(solid.shape[axis], *np.delete(solid.shape, axis)), 0, axis)
    solid = np.ascontiguousarray(solid)
    smoothed = np.empty_like(solid)
    planes = (-1, *solid.shape[-2:])
    for plane, out in zip(solid.reshape(planes), smoothed.reshape(planes), strict=True):
        _smooth_plane(plane, weights, out)
    return smoothed


def _weighed(value: Floats, weights: Floats, axis: int) -> Floats:
    """What is 0, 1, 2, … pixels away along an axis, weighed and added, the furthest first after the
    pixel itself.
    """
    far = len(weights) - 1
    extent = value.shape[axis]
    wide = np.pad(
        value, [(far, far) if a == axis else (0, 0) for a in range(value.ndim)], mode="edge"
    )
    total = value * weights[0]
    for k in range(far, 0, -1):
        total += (
            _part(wide, axis, far - k, far - k + extent)
            + _part(wide, axis, far + k, far + k + extent)
        ) * weights[k]
    return np.asarray(total)


@numba.njit(cache=True, nogil=True)
def _smooth_down(plane, weights, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """The same along the first of two axes; inner loops become vectors."""
    for r in range(len(plane)):
        _weigh_rows(plane, r, weights, out[r])
    return out


@numba.njit(cache=True, nogil=True)
def _weigh_rows(plane, r, weights, here):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """The same for one row."""
    rows, columns = plane.shape
    for c in range(columns):
        here[c] = plane[r, c] * weights[0]
    for k in range(len(weights) - 1, 0, -1):
        above = plane[max(r - k, 0)]
        below = plane[min(r + k, rows - 1)]
        weight = weights[k]
        for c in range(columns):
            here[c] += (above[c] + below[c]) * weight


@numba.njit(cache=True, nogil=True)
def _smooth_plane(plane, weights, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """The same along both axes, a row at a time: first down and then across while the row is still
    in the cache.
    """
    rows, columns = plane.shape
    far = len(weights) - 1
    line = np.empty(columns + 2 * far)
    here = line[far : far + columns]
    for r in range(rows):
        _weigh_rows(plane, r, weights, here)
        line[:far] = here[0]
        line[far + columns :] = here[columns - 1]
        smooth_row = out[r]
        for c in range(columns):
            smooth_row[c] = here[c] * weights[0]
        for k in range(far, 0, -1):
            left = line[far - k : far - k + columns]
            right = line[far + k : far + k + columns]
            weight = weights[k]
            for c in range(columns):
                smooth_row[c] += (left[c] + right[c]) * weight


def local_mean(value: npt.NDArray[Any], valid: Flags, width: int) -> Floats:
    """The mean of the valid pixels in a square (a cube) of an odd ``width`` around each pixel; NaN
    where there is none.
    """
    return _moments(value, valid, width, squares=False)[0]


def local_mean_and_deviation(
    value: npt.NDArray[Any], valid: Flags, width: int
) -> tuple[Floats, Floats]:
    """The mean and the population standard deviation of the valid pixels in a square (a cube) of an
    odd ``width`` around each pixel.
    """
    mean, square = _moments(value, valid, width, squares=True)
    return mean, np.sqrt(np.maximum(square - mean * mean, 0))


def local_median(value: npt.NDArray[Any], valid: Flags, radius: int) -> Floats:
    """The median of the valid pixels in a square (a cube) around each pixel, float64; NaN where
    there is none. Beyond the image its edge pixels go on.
    """
    from scipy import ndimage

    good = usable(value, valid)
    width = 2 * radius + 1
    filled = np.where(good, value, 0).astype(np.float64)
    median = ndimage.median_filter(filled, size=width, mode="nearest")
    if good.all():
        return np.asarray(median)
    around = np.lib.stride_tricks.sliding_window_view(
        np.pad(np.where(good, filled, np.nan), radius, mode="edge"), (width,) * value.ndim
    )
    partly = ~ndimage.minimum_filter(good, size=width, mode="nearest")
    some = partly & ndimage.maximum_filter(good, size=width, mode="nearest")
    median[partly] = np.nan
    median[some] = np.nanmedian(around[some].reshape(-1, width**value.ndim), axis=1)
    return np.asarray(median)


def opening(value: npt.NDArray[Any], valid: Flags, radius: int) -> Floats:
    """What is left when everything brighter that does not hold a square (a cube) of 2 ``radius`` +
    1 pixels is cut down to what is around it; float64, no pixel brighter than before. Pixels that
    are not valid count for nothing. It looks twice the radius away.
    """
    from scipy import ndimage

    width = 2 * radius + 1
    lowest = ndimage.minimum_filter(
        np.where(usable(value, valid), value, np.inf).astype(np.float64), size=width, mode="nearest"
    )
    return np.asarray(
        ndimage.maximum_filter(
            np.where(np.isinf(lowest), -np.inf, lowest), size=width, mode="nearest"
        )
    )


def derivatives(value: npt.NDArray[Any], valid: Flags, *, scharr: bool = False) -> Floats:
    """(axis, …) how steeply the values rise along each axis, per pixel, by Sobel's or Scharr's
    weights; 0 beside pixels that are not valid.

    Beyond the image its edge pixels go on. It looks one pixel away.
    """
    from scipy import ndimage

    good = usable(value, valid)
    filled = np.where(good, value, 0).astype(np.float64)
    side = np.array([3.0, 10.0, 3.0]) / 16 if scharr else np.array([1.0, 2.0, 1.0]) / 4
    found = np.empty((value.ndim, *value.shape))
    for axis in range(value.ndim):
        found[axis] = ndimage.correlate1d(filled, [-0.5, 0.0, 0.5], axis, mode="nearest")
        for other in range(value.ndim):
            if other != axis:
                found[axis] = ndimage.correlate1d(found[axis], side, other, mode="nearest")
    if not good.all():
        found[:, ~np.asarray(ndimage.minimum_filter(good, size=3, mode="nearest"))] = 0
    return found


def local_entropy(
    value: npt.NDArray[Any], valid: Flags, width: int, limits: Sequence[float]
) -> Floats:
    """Shannon's entropy, in bits, of the levels between ``limits`` of the valid pixels in a square
    (a cube) of an odd ``width``.
    """
    good = usable(value, valid)
    level = np.digitize(np.where(good, value, 0), limits)
    number = _box_sum(good.astype(np.float64), width)
    total = np.zeros(valid.shape)
    bits = _bits(min(width**value.ndim, value.size))
    for k in range(len(limits) + 1):
        total += bits[_box_sum((good & (level == k)).astype(np.float64), width).astype(np.intp)]
    with np.errstate(invalid="ignore"):
        return np.asarray(
            (bits[number.astype(np.intp)] - total) / number
        )  # NaN where there is no pixel


@lru_cache(maxsize=4)
def _bits(most: int) -> Floats:
    """By n, from 0: n times its logarithm to the base of 2."""
    number = np.arange(1, most + 1, dtype=np.float64)
    return np.concatenate([[0.0], number * (logarithm(number) / LN2)])


def gabor_reach(wavelength: float) -> int:
    """How many pixels away `local_gabor` looks."""
    return 2 * gaussian_radius(_gabor_sigma(wavelength))


def local_gabor(value: npt.NDArray[Any], valid: Flags, wavelength: float) -> Floats:
    """How strong a pattern of a ``wavelength`` in pixels is around each pixel, whatever its
    direction: the mean amplitude of Gabor filters, one octave wide, in four directions of rows and
    columns; what is not valid counts as its surroundings' mean.

    References
    ----------
    A. K. Jain, F. Farrokhnia (1991), "Unsupervised texture segmentation using Gabor filters",
    Pattern Recognition 24(12), 1167-1186.
    """
    from scipy import ndimage

    sigma = _gabor_sigma(wavelength)
    detail = value - smooth(value, valid, sigma)
    detail = np.where(valid & np.isfinite(detail), detail, 0.0)
    steps = np.arange(-gaussian_radius(sigma), gaussian_radius(sigma) + 1)
    weights = bell(sigma, gaussian_radius(sigma))[abs(steps)]
    total = np.zeros(value.shape)
    for down, across in ((0.0, 1.0), (DIAGONAL, DIAGONAL), (1.0, 0.0), (DIAGONAL, -DIAGONAL)):
        wave = detail.astype(np.complex128)
        for axis, share in ((value.ndim - 2, down), (value.ndim - 1, across)):
            turn = share * steps / wavelength
            turn = 2 * math.pi * (turn - np.rint(turn))
            wave = ndimage.correlate1d(
                wave, weights * cosine(turn) + 1j * (weights * sine(turn)), axis, mode="constant"
            )
        total += np.sqrt(wave.real * wave.real + wave.imag * wave.imag)
    return total / 4


def _gabor_sigma(wavelength: float) -> float:
    return 0.56 * wavelength


def _moments(value: npt.NDArray[Any], valid: Flags, width: int, *, squares: bool) -> list[Floats]:
    """The mean of the values, and of their squares if asked for; float64."""
    good = usable(value, valid)
    filled = np.where(good, value, 0).astype(np.float64)
    number = _box_sum(good.astype(np.float64), width)
    with np.errstate(invalid="ignore", divide="ignore"):
        return [
            _box_sum(term, width) / number
            for term in ((filled, filled * filled) if squares else (filled,))
        ]


def _box_sum(value: Floats, width: int) -> Floats:
    """The sum of all pixels in a box around each, nothing beyond the edge.

    Along each axis the sums of 2, 4, 8, … neighbours are made from each other, and those that make
    up ``width`` are added. So every sum is made in the same way, in a number of steps that grows
    with the logarithm of the width.
    """
    for axis in range(value.ndim):
        extent = value.shape[axis]
        margin = [(width // 2, width // 2) if a == axis else (0, 0) for a in range(value.ndim)]
        power = np.pad(value, margin)
        at = 1
        length = 1
        total = _part(power, axis, 0, extent)  # the width is odd
        while 2 * length <= width:
            power = _part(power, axis, 0, power.shape[axis] - length) + _part(
                power, axis, length, power.shape[axis]
            )
            length *= 2
            if width & length:
                total = total + _part(power, axis, at, at + extent)
                at += length
        value = total
    return value


def _part(array: Floats, axis: int, start: int, stop: int) -> Floats:
    return array[(slice(None),) * axis + (slice(start, stop),)]
