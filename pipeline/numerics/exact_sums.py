"""Exact sums of numbers, which do not depend on the order.

The sum of floats depends on the order in which they are added. So numbers are added as integers:
each float is an integer times a power of two, and is split into *limbs* of 32 bits, as in the
accumulators of U. Kulisch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

LIMB = 32
MASK = (1 << LIMB) - 1
INTEGER_LIMBS = 3

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Exact:
    """Exact sums: row i, band b is the sum over k of limbs[i, b, k] · 2^(32 k + exponent)."""

    limbs: Integers
    """(label, band, limb); all but the last limb are below 2^32 after `carry`."""

    exponent: int
    """A multiple of 32."""

    def aligned(self, exponent: int, number: int) -> Integers:
        """The same sums as ``number`` limbs from ``exponent``, which is at most this one's."""
        before = (self.exponent - exponent) // LIMB
        return np.pad(self.limbs, ((0, 0), (0, 0), (before, number - before - self.limbs.shape[2])))

    def integers(self) -> npt.NDArray[np.object_]:
        """(label, band) the sums as Python integers, in units of 2^exponent."""
        total = np.zeros(self.limbs.shape[:2], object)
        for k in range(self.limbs.shape[2]):
            total += self.limbs[:, :, k].astype(object) << (LIMB * k)
        return total


def stack(parts: Sequence[Exact]) -> Exact:
    """Stack the rows of all parts."""
    exponent = min(part.exponent for part in parts)
    number = max((part.exponent - exponent) // LIMB + part.limbs.shape[2] for part in parts)
    return Exact(np.concatenate([part.aligned(exponent, number) for part in parts]), exponent)


def carry(limbs: Integers) -> None:
    """Bring every limb but the last below 2^32, in place."""
    for k in range(limbs.shape[2] - 1):
        limbs[:, :, k + 1] += limbs[:, :, k] >> LIMB
        limbs[:, :, k] &= MASK


def add_floats(
    labels: Sequence[Any], block: Any, number: int, minimum: Floats, maximum: Floats
) -> tuple[Exact, Exact]:
    """Sum the values of each label, and their squares, exactly.

    Parameters
    ----------
    labels : sequence of int32 ndarray, (plane, row, column)
        For each band, labels from 1 to ``number``; 0 elsewhere.
    block : ndarray, (band, plane, row, column)
        Floats that are finite wherever there is a label, or integers of 64 bits, which are
        converted to floats.
    number : int
        The highest label.
    minimum, maximum : float64 ndarray, (label, band)
        Updated in place.

    Returns
    -------
    value : Exact
        The sums of the values.
    square : Exact
        The sums of their squares.
    """
    sums = []
    for squared in (False, True):
        spans = [
            _exponents(own, pixels, squared) for own, pixels in zip(labels, block, strict=True)
        ]
        known = [span for span in spans if span[0] <= span[1]] or [(0, 0)]
        lowest = min(low for low, _ in known)
        highest = max(high for _, high in known)
        base = lowest // LIMB * LIMB
        limbs = np.zeros((number, len(block), (highest - base) // LIMB + 4), np.int64)
        for band, (own, pixels) in enumerate(zip(labels, block, strict=True)):
            _sum_floats(
                own, pixels, squared, base, limbs[:, band], minimum[:, band], maximum[:, band]
            )
        carry(limbs)
        sums.append(Exact(limbs, base))
    return sums[0], sums[1]


def ratio(
    numerator: npt.NDArray[np.object_], denominator: npt.NDArray[np.object_], exponent: int
) -> Floats:
    """Compute numerator · 2^exponent / denominator, rounded once, as Python divides integers."""
    if exponent < 0:
        return np.asarray(numerator / (denominator << -exponent), np.float64).reshape(
            numerator.shape
        )
    return np.asarray((numerator << exponent) / denominator, np.float64).reshape(numerator.shape)


@numba.njit(cache=True, nogil=True)
def _exponents(labels, pixels, squared):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """The lowest and highest power of two of the last bit of labelled values (or squares).

    The lowest is above the highest without any.
    """
    lowest = 5000
    highest = -5000
    for p in range(labels.shape[0]):
        for r in range(labels.shape[1]):
            for c in range(labels.shape[2]):
                v = np.float64(pixels[p, r, c])
                if labels[p, r, c] > 0 and v != 0:
                    e = math.frexp(v * v if squared else v)[1] - 53
                    lowest = min(lowest, e)
                    highest = max(highest, e)
    return lowest, highest


@numba.njit(cache=True, nogil=True)
def _sum_floats(labels, pixels, squared, base, limbs, minimum, maximum):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Add the values of a band (or their squares) to three limbs each.

    ``base`` is the power of two of the first limb.
    """
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
