"""Logarithms, roots, sines and bell curves that are the same to the last bit on every processor.

NumPy and the C library choose how to compute these by the processor (with AVX-512, with fused
multiply-add), and the results differ in the last bit. Here only sums, products, quotients and
square roots are used, one after the other; IEEE 754 defines how each of them rounds, and numba
fuses none unless told to. Results are within three units in the last place of the true value.

The weights of a kernel are few, so they are computed in decimal arithmetic and rounded once. They
need not travel with a run, because every machine computes the same.
"""

from __future__ import annotations

import math
from decimal import Context, Decimal, localcontext
from functools import cache

import numba
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
BITS = 1 << 52
BIAS = 1023
FRACTION = 20
"""BITS and BIAS: the place and the bias of a float64's exponent. FRACTION: terms of a logarithm's
series.
"""
FIFTH = 5
HALF = math.sqrt(0.5)
LN2_HIGH = float.fromhex("0x1.62e42fefap-1")
LN2_LOW = float.fromhex("0x1.cf79abc9e3b3ap-40")
"""The logarithm of 2: LN2_HIGH has so few bits that its product with an exponent is exact; this is
the rest.
"""
LN2 = LN2_HIGH + LN2_LOW


def bell(sigma: float, radius: int) -> Floats:
    """Compute the weights of a Gaussian kernel.

    Parameters
    ----------
    sigma : float
        The standard deviation in pixels.
    radius : int
        The radius in pixels.

    Returns
    -------
    float64 ndarray, (radius + 1,)
        Weights from the middle outwards; those of both sides sum to 1.
    """
    return np.array(_bell(float(sigma), radius))


@cache
def _bell(sigma: float, radius: int) -> tuple[float, ...]:
    with localcontext(Context(prec=40)):  # not the user's
        spread = 2 * Decimal(sigma) * Decimal(sigma)
        heights = [(-k * k / spread).exp() for k in range(radius + 1)]
        total = heights[0] + 2 * sum(heights[1:])
        return tuple(float(height / total) for height in heights)


def sine(angle: Floats) -> Floats:
    """The sine of angles from -π to π, by its series."""
    squared = angle * angle
    total = np.zeros_like(angle)
    for k in range(27, 0, -2):
        total = 1 - squared / ((k + 1) * (k + 2)) * total
    return angle * total


def cosine(angle: Floats) -> Floats:
    """The cosine of angles from -π to π."""
    return sine(math.pi / 2 - np.abs(angle))


def logarithm(value: npt.ArrayLike) -> Floats:
    """Compute the natural logarithm.

    Parameters
    ----------
    value : array_like
        Numbers of any shape.

    Returns
    -------
    float64 ndarray
        The logarithm; -inf for 0, NaN for negative numbers and for those that are not finite.

    Examples
    --------
    >>> logarithm([1.0, 0.0]).tolist()
    [0.0, -inf]
    """
    given = np.asarray(value, np.float64)
    found = np.empty(given.shape)
    fraction, exponent = (np.ascontiguousarray(part).reshape(-1) for part in np.frexp(given))
    _logarithm(fraction, exponent, found.reshape(-1))
    return found


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _logarithm(fraction, exponent, found):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """The series of 2 artanh((m - 1) / (m + 1)), with m from √½ to √2, a power of 2 away from the
    number.
    """
    for i in range(len(fraction)):
        m = fraction[i]
        k = float(exponent[i])
        if m < HALF:
            m = 2.0 * m
            k = k - 1.0
        s = (m - 1.0) / (m + 1.0)
        z = s * s
        series = 0.0
        for n in range(FRACTION + 1, 1, -2):
            series = z * (series + 1.0 / n)
        near = k * LN2_HIGH + (2.0 * s + (2.0 * s * series + k * LN2_LOW))
        found[i] = near if 0.0 < m < 2.0 else -np.inf if m == 0.0 else np.nan


def root(value: Floats, degree: int) -> Floats:
    """Compute the cube root or the fifth root of normal numbers above 0.

    Parameters
    ----------
    value : float64 ndarray
        Numbers; the result for others is undefined.
    degree : int
        3 or 5.

    Returns
    -------
    float64 ndarray of the shape of ``value``
        The roots.
    """
    found = np.empty(value.shape)
    flat = np.ascontiguousarray(value).reshape(-1)
    guess = found.reshape(-1)
    _guess(flat.view(np.int64), degree, guess.view(np.int64))
    _improve(flat, degree, guess)
    return found


@numba.njit(cache=True, nogil=True)
def _guess(bits, degree, guess):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """A guess to a tenth: exponent and fraction, read as one integer, approximate a logarithm."""
    one = BIAS * BITS
    share = 1.0 / degree
    for i in range(len(bits)):
        guess[i] = one + np.int64(float(bits[i] - one) * share)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _improve(value, degree, found):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Three steps of Halley's method, each of which triples the number of correct digits."""
    for i in range(len(value)):
        x = value[i]
        y = found[i]
        for _ in range(3):
            power = y * y * y
            if degree == FIFTH:
                power *= y * y
            y -= y * (2.0 * (power - x) / ((degree + 1.0) * power + (degree - 1.0) * x))
        found[i] = y
