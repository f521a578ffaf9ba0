"""Filters over the neighbourhood of a pixel: means, medians, openings, derivatives, textures.

Each filter gives the same result at a pixel, to the last bit, in every window that contains the
pixel's reach: sums run in an order that does not depend on where the window begins. (Running sums
and integral images, as in SciPy and scikit-image, do depend on it.) Pixels that are not valid are
left out. Which way of computing is taken is decided per pixel, never per window.

The bits do not depend on the processor either: functions that NumPy and the C library compute
differently on different processors come from `pipeline.numerics.elementary`. The Gaussian is our
own loop, compiled by numba, which adds in SciPy's order in a quarter of the time; its weights are
rounded once, so it equals `scipy.ndimage.gaussian_filter` to some 15 digits.
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
"""Pixels from which it pays to load a compiled loop, which takes a quarter of a second."""
DIAGONAL = math.sqrt(0.5)
"""Component along either axis of a diagonal step of length 1."""


def gaussian_radius(sigma: float) -> int:
    """The radius in pixels of a Gaussian that is cut off at four standard deviations."""
    return int(4 * sigma + 0.5)


def usable(value: npt.NDArray[Any], valid: Flags) -> Flags:
    """Where a value is finite and the pixel is valid."""
    return valid & np.isfinite(value) if value.dtype.kind == "f" else valid


def smooth(value: npt.NDArray[Any], valid: Flags, sigma: float) -> Floats:
    """Smooth by a Gaussian mean of the valid pixels.

    Beyond the image, its edge pixels are repeated.

    Parameters
    ----------
    value : ndarray
        The values, of any real dtype.
    valid : bool ndarray of the shape of ``value``
        True where a pixel was measured.
    sigma : float
        The standard deviation in pixels.

    Returns
    -------
    float64 ndarray of the shape of ``value``
        The means; NaN where no valid pixel is within reach.
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
    """Equals `scipy.ndimage.correlate1d` along each axis in turn with the weights of `bell`, to the
    last bit.
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
    """Convolve along one axis with symmetric weights.

    The pixel itself comes first, then pairs of pixels from the furthest inwards.
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
    """Convolve along the first of two axes; the compiler vectorizes the inner loops."""
    for r in range(len(plane)):
        _weigh_rows(plane, r, weights, out[r])
    return out


@numba.njit(cache=True, nogil=True)
def _weigh_rows(plane, r, weights, here):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Convolve down the columns for one row."""
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
    """Convolve along both axes, a row at a time.

    Columns first, then along the row while it is still in the cache.
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
    """Compute the mean of the valid pixels in a square (a cube) around each pixel.

    Parameters
    ----------
    value : ndarray
        The values, of any real dtype.
    valid : bool ndarray of the shape of ``value``
        True where a pixel was measured.
    width : int
        The width of the square in pixels, odd.

    Returns
    -------
    float64 ndarray of the shape of ``value``
        The means; NaN where the square has no valid pixel.
    """
    return _moments(value, valid, width, squares=False)[0]


def local_mean_and_deviation(
    value: npt.NDArray[Any], valid: Flags, width: int
) -> tuple[Floats, Floats]:
    """Compute mean and standard deviation of the valid pixels in a square (a cube).

    Parameters
    ----------
    value : ndarray
        The values, of any real dtype.
    valid : bool ndarray of the shape of ``value``
        True where a pixel was measured.
    width : int
        The width of the square in pixels, odd.

    Returns
    -------
    mean : float64 ndarray of the shape of ``value``
        The mean; NaN where the square has no valid pixel.
    deviation : float64 ndarray of the shape of ``value``
        The deviation of the population.
    """
    mean, square = _moments(value, valid, width, squares=True)
    return mean, np.sqrt(np.maximum(square - mean * mean, 0))


def local_median(value: npt.NDArray[Any], valid: Flags, radius: int) -> Floats:
    """Compute the median of the valid pixels in a square (a cube) around each pixel.

    Beyond the image, its edge pixels are repeated.

    Parameters
    ----------
    value : ndarray
        The values, of any real dtype.
    valid : bool ndarray of the shape of ``value``
        True where a pixel was measured.
    radius : int
        The square is 2 ``radius`` + 1 pixels wide.

    Returns
    -------
    float64 ndarray of the shape of ``value``
        The medians; NaN where the square has no valid pixel.
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
    """Compute a morphological opening by a square (a cube).

    It lowers bright details that do not contain the square to their surroundings. Pixels that are
    not valid are ignored. The result depends on pixels up to twice the radius away.

    Parameters
    ----------
    value : ndarray
        The values, of any real dtype.
    valid : bool ndarray of the shape of ``value``
        True where a pixel was measured.
    radius : int
        The square is 2 ``radius`` + 1 pixels wide.

    Returns
    -------
    float64 ndarray of the shape of ``value``
        The opening, nowhere above the values.
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
    """Compute the derivative along each axis by Sobel's or Scharr's weights.

    Beyond the image, its edge pixels are repeated. The result depends on pixels one pixel away.

    Parameters
    ----------
    value : ndarray
        The values, of any real dtype.
    valid : bool ndarray of the shape of ``value``
        True where a pixel was measured.
    scharr : bool
        Whether to take Scharr's weights in place of Sobel's.

    Returns
    -------
    float64 ndarray, (axis, …)
        The change per pixel; 0 beside pixels that are not valid.
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
    """Compute Shannon's entropy of the valid pixels in a square (a cube), in bits.

    Parameters
    ----------
    value : ndarray
        The values, of any real dtype.
    valid : bool ndarray of the shape of ``value``
        True where a pixel was measured.
    width : int
        The width of the square in pixels, odd.
    limits : sequence of float
        The limits between the levels that are counted, ascending.

    Returns
    -------
    float64 ndarray of the shape of ``value``
        The entropy; NaN where the square has no valid pixel.
    """
    good = usable(value, valid)
    level = np.digitize(np.where(good, value, 0), limits)
    number = _box_sum(good.astype(np.float64), width)
    total = np.zeros(valid.shape)
    bits = _bits(min(width**value.ndim, value.size))
    for k in range(len(limits) + 1):
        total += bits[_box_sum((good & (level == k)).astype(np.float64), width).astype(np.intp)]
    with np.errstate(invalid="ignore"):
        # NaN where there is no pixel
        return np.asarray((bits[number.astype(np.intp)] - total) / number)


@lru_cache(maxsize=4)
def _bits(most: int) -> Floats:
    """Table of n times the binary logarithm of n, for n from 0."""
    number = np.arange(1, most + 1, dtype=np.float64)
    return np.concatenate([[0.0], number * (logarithm(number) / LN2)])


def gabor_reach(wavelength: float) -> int:
    """The reach of `local_gabor` in pixels."""
    return 2 * gaussian_radius(_gabor_sigma(wavelength))


def local_gabor(value: npt.NDArray[Any], valid: Flags, wavelength: float) -> Floats:
    """Compute the strength of a periodic pattern around each pixel, in any direction.

    It is the mean amplitude of Gabor filters, one octave wide, in four directions of rows and
    columns. Pixels that are not valid count as the mean of their surroundings.

    Parameters
    ----------
    value : ndarray
        The values, of any real dtype.
    valid : bool ndarray of the shape of ``value``
        True where a pixel was measured.
    wavelength : float
        The period of the pattern in pixels.

    Returns
    -------
    float64 ndarray of the shape of ``value``
        The amplitude, in units of the values.

    References
    ----------
    .. [1] A. K. Jain, F. Farrokhnia (1991), "Unsupervised texture segmentation using Gabor
       filters", Pattern Recognition 24(12), 1167-1186.
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
    """The local mean of the values, and of their squares if asked for."""
    good = usable(value, valid)
    filled = np.where(good, value, 0).astype(np.float64)
    number = _box_sum(good.astype(np.float64), width)
    with np.errstate(invalid="ignore", divide="ignore"):
        return [
            _box_sum(term, width) / number
            for term in ((filled, filled * filled) if squares else (filled,))
        ]


def _box_sum(value: Floats, width: int) -> Floats:
    """Sum all pixels in a box around each pixel; pixels beyond the edge count 0.

    Along each axis, sums of 2, 4, 8, … neighbours are built from each other, and those that make up
    ``width`` are added. So every sum is built in the same way, in a number of steps logarithmic in
    the width.
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
