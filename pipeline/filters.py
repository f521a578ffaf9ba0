"""What surrounds a pixel: Gaussian and box means of the valid pixels near it.

Each gives to the last bit the same at a pixel whatever window it is computed in, provided that all within reach is there: sums are made in
an order that does not depend on where the window begins. (Running sums and integral images, SciPy's and scikit-image's way, do depend
on it.) Pixels that are not valid are left out, and which way is taken is decided per pixel, never per window.

The Gaussian is a loop of our own, compiled by numba: a row at a time, first down and then across while the row is still in the cache. It
adds in SciPy's order, so its bits are those of `scipy.ndimage.gaussian_filter`, in a quarter of the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
WORTH_COMPILING = 4096
"""Pixels for which it pays to load a compiled loop, which takes a quarter of a second."""


def gaussian_radius(sigma: float) -> int:
    """How many pixels away a Gaussian, cut off at four standard deviations, still looks."""
    return int(4 * sigma + 0.5)


def usable(value: npt.NDArray[Any], valid: Flags) -> Flags:
    """Where a value is a finite number at a valid pixel."""
    return valid & np.isfinite(value) if value.dtype.kind == "f" else valid


def smooth(value: npt.NDArray[Any], valid: Flags, sigma: float) -> Floats:
    """A Gaussian mean of the valid pixels, float64; NaN where none is within reach. Beyond the image its edge pixels go on."""
    from scipy import ndimage

    good = usable(value, valid)
    if good.all():
        return _gaussian(value, sigma)
    plain, weight = _gaussian(np.where(good, value, 0), sigma), _gaussian(good, sigma)
    complete = ndimage.minimum_filter(good, size=2 * gaussian_radius(sigma) + 1, mode="nearest")
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(complete, plain, np.where(weight > 0, plain / weight, np.nan))


def _gaussian(value: npt.NDArray[Any], sigma: float) -> Floats:
    """`scipy.ndimage.gaussian_filter`, to the last bit."""
    from scipy import ndimage

    if value.size < WORTH_COMPILING:
        return np.asarray(ndimage.gaussian_filter(value.astype(np.float64), sigma, mode="nearest", radius=gaussian_radius(sigma)))
    steps = np.arange(-gaussian_radius(sigma), gaussian_radius(sigma) + 1)
    bell = np.exp(-0.5 / (sigma * sigma) * steps**2)
    bell /= bell.sum()
    solid = value.astype(np.float64)
    if solid.ndim > 2:
        solid = ndimage.correlate1d(solid, bell, 0, mode="nearest")
    smoothed = np.empty_like(solid)
    planes = (-1, *solid.shape[-2:])
    for plane, out in zip(solid.reshape(planes), smoothed.reshape(planes), strict=True):
        _smooth_plane(plane, bell[len(bell) // 2 :], out)
    return smoothed


@numba.njit(cache=True, nogil=True)
def _smooth_plane(plane, weights, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Weigh what is 0, 1, 2, … pixels away on either side, the furthest first after the pixel itself; inner loops become vectors."""
    rows, columns = plane.shape
    far = len(weights) - 1
    line = np.empty(columns + 2 * far)
    for r in range(rows):
        here = line[far : far + columns]
        for c in range(columns):
            here[c] = plane[r, c] * weights[0]
        for k in range(far, 0, -1):
            above, below, weight = plane[max(r - k, 0)], plane[min(r + k, rows - 1)], weights[k]
            for c in range(columns):
                here[c] += (above[c] + below[c]) * weight
        line[:far] = here[0]
        line[far + columns :] = here[columns - 1]
        smooth_row = out[r]
        for c in range(columns):
            smooth_row[c] = here[c] * weights[0]
        for k in range(far, 0, -1):
            left, right, weight = line[far - k : far - k + columns], line[far + k : far + k + columns], weights[k]
            for c in range(columns):
                smooth_row[c] += (left[c] + right[c]) * weight


def local_mean(value: npt.NDArray[Any], valid: Flags, width: int) -> Floats:
    """The mean of the valid pixels in a square (a cube) of an odd ``width`` around each pixel; NaN where there is none."""
    return _moments(value, valid, width, squares=False)[0]


def local_mean_and_deviation(value: npt.NDArray[Any], valid: Flags, width: int) -> tuple[Floats, Floats]:
    """The mean and the population standard deviation of the valid pixels in a square (a cube) of an odd ``width`` around each pixel."""
    mean, square = _moments(value, valid, width, squares=True)
    return mean, np.sqrt(np.maximum(square - mean * mean, 0))


def local_median(value: npt.NDArray[Any], valid: Flags, radius: int) -> Floats:
    """The median of the valid pixels in a square (a cube) around each pixel, float64; NaN where there is none. Beyond the image its edge
    pixels go on.
    """
    from scipy import ndimage

    good = usable(value, valid)
    width = 2 * radius + 1
    filled = np.where(good, value, 0).astype(np.float64)
    median = ndimage.median_filter(filled, size=width, mode="nearest")
    if good.all():
        return np.asarray(median)
    around = np.lib.stride_tricks.sliding_window_view(np.pad(np.where(good, filled, np.nan), radius, mode="edge"), (width,) * value.ndim)
    partly = ~ndimage.minimum_filter(good, size=width, mode="nearest")
    some = partly & ndimage.maximum_filter(good, size=width, mode="nearest")
    median[partly] = np.nan
    median[some] = np.nanmedian(around[some].reshape(-1, width**value.ndim), axis=1)
    return np.asarray(median)


def opening(value: npt.NDArray[Any], valid: Flags, radius: int) -> Floats:
    """What is left when everything brighter that does not hold a square (a cube) of 2 ``radius`` + 1 pixels is cut down to what is around
    it; float64, no pixel brighter than before. Pixels that are not valid count for nothing. It looks twice the radius away.
    """
    from scipy import ndimage

    width = 2 * radius + 1
    lowest = ndimage.minimum_filter(np.where(usable(value, valid), value, np.inf).astype(np.float64), size=width, mode="nearest")
    return np.asarray(ndimage.maximum_filter(np.where(np.isinf(lowest), -np.inf, lowest), size=width, mode="nearest"))


def derivatives(value: npt.NDArray[Any], valid: Flags, *, scharr: bool = False) -> Floats:
    """(axis, …) how steeply the values rise along each axis, per pixel, by Sobel's or Scharr's weights; 0 beside pixels that are not valid.

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


def local_entropy(value: npt.NDArray[Any], valid: Flags, width: int, limits: Sequence[float]) -> Floats:
    """Shannon's entropy, in bits, of the levels between ``limits`` of the valid pixels in a square (a cube) of an odd ``width``."""
    good = usable(value, valid)
    level = np.digitize(np.where(good, value, 0), limits)
    number, total = _box_sum(good.astype(np.float64), width), np.zeros(valid.shape)
    for k in range(len(limits) + 1):
        with np.errstate(invalid="ignore", divide="ignore"):
            share = _box_sum((good & (level == k)).astype(np.float64), width) / number
            total -= np.where(share > 0, share * np.log2(share), share)  # NaN where there is no pixel
    return total


def gabor_reach(wavelength: float) -> int:
    """How many pixels away `local_gabor` looks."""
    return 2 * gaussian_radius(_gabor_sigma(wavelength))


def local_gabor(value: npt.NDArray[Any], valid: Flags, wavelength: float) -> Floats:
    """How strong a pattern of a ``wavelength`` in pixels is around each pixel, whatever its direction: the mean amplitude of Gabor filters,
    one octave wide, in four directions of rows and columns; what is not valid counts as its surroundings' mean.

    References
    ----------
    A. K. Jain, F. Farrokhnia (1991), "Unsupervised texture segmentation using Gabor filters", Pattern Recognition 24(12), 1167-1186.
    """
    from scipy import ndimage

    sigma = _gabor_sigma(wavelength)
    detail = value - smooth(value, valid, sigma)
    detail = np.where(valid & np.isfinite(detail), detail, 0.0)
    steps = np.arange(-gaussian_radius(sigma), gaussian_radius(sigma) + 1)
    bell = np.exp(-0.5 * (steps / sigma) ** 2)
    bell /= bell.sum()
    total = np.zeros(value.shape)
    for angle in np.arange(4) * np.pi / 4:
        wave = detail.astype(np.complex128)
        for axis, share in ((value.ndim - 2, np.sin(angle)), (value.ndim - 1, np.cos(angle))):
            wave = ndimage.correlate1d(wave, bell * np.exp(2j * np.pi * share * steps / wavelength), axis, mode="constant")
        total += np.abs(wave)
    return total / 4


def _gabor_sigma(wavelength: float) -> float:
    return 0.56 * wavelength


def _moments(value: npt.NDArray[Any], valid: Flags, width: int, *, squares: bool) -> list[Floats]:
    """The mean of the values, and of their squares if asked for; float64."""
    good = usable(value, valid)
    filled = np.where(good, value, 0).astype(np.float64)
    number = _box_sum(good.astype(np.float64), width)
    with np.errstate(invalid="ignore", divide="ignore"):
        return [_box_sum(term, width) / number for term in ((filled, filled * filled) if squares else (filled,))]


def _box_sum(value: Floats, width: int) -> Floats:
    """The sum of all pixels in a box around each, nothing beyond the edge.

    Along each axis the sums of 2, 4, 8, … neighbours are made from each other, and those that make up ``width`` are added. So every sum is
    made in the same way, in a number of steps that grows with the logarithm of the width.
    """
    for axis in range(value.ndim):
        extent = value.shape[axis]
        margin = [(width // 2, width // 2) if a == axis else (0, 0) for a in range(value.ndim)]
        power, at, length = np.pad(value, margin), 1, 1
        total = _part(power, axis, 0, extent)  # the width is odd
        while 2 * length <= width:
            power = _part(power, axis, 0, power.shape[axis] - length) + _part(power, axis, length, power.shape[axis])
            length *= 2
            if width & length:
                total = total + _part(power, axis, at, at + extent)
                at += length
        value = total
    return value


def _part(array: Floats, axis: int, start: int, stop: int) -> Floats:
    return array[(slice(None),) * axis + (slice(start, stop),)]
