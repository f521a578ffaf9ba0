"""Elementary functions are right, and the same to the last bit on processors that differ."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.numerics.elementary import bell, cosine, logarithm, root, sine

positive = st.floats(1e-300, 1e300)


def off(found, exact):
    """By how many units in the last place."""
    return abs(float((mpmath.mpf(float(found)) - exact) / np.spacing(abs(float(exact)) or 1e-300)))


@settings(deadline=None)
@given(positive | st.floats(0.99, 1.01))
def test_logarithms_and_roots_are_within_three_units_in_the_last_place(value):
    """They are those of arithmetic with 60 digits, to three units in the last place of a float."""
    with mpmath.workdps(60):
        exact = mpmath.mpf(value)
        assert off(logarithm(value), mpmath.log(exact)) <= 3
        for degree in (3, 5):
            assert off(root(np.array([value]), degree)[0], mpmath.root(exact, degree)) <= 3


def test_the_ends_of_logarithms():
    """Of 0 the logarithm is -inf, below that and of what is no finite number NaN; of numbers next
    to 0 and of the largest it is right.
    """
    np.testing.assert_array_equal(
        logarithm([[0.0, -1.0], [np.nan, np.inf]]), [[-np.inf, np.nan], [np.nan, np.nan]]
    )
    ends = [5e-324, float(np.finfo(float).max)]
    np.testing.assert_allclose(
        logarithm(ends), [float(mpmath.log(end)) for end in ends], rtol=1e-15
    )


@given(st.floats(-math.pi, math.pi))
def test_sines(angle):
    """Sines and cosines are those of the C library, to rounding."""
    np.testing.assert_allclose(sine(np.array(angle)), math.sin(angle), atol=3e-15)
    np.testing.assert_allclose(cosine(np.array(angle)), math.cos(angle), atol=3e-15)


@pytest.mark.parametrize("sigma", [0.3, 1.0, 1.3, 20.0])
def test_the_weights_of_a_gaussian_are_rounded_once(sigma):
    """Each is the float nearest to the exact weight, which arithmetic with 60 digits gives; those
    of both sides sum to 1.
    """
    radius = int(4 * sigma + 0.5)
    with mpmath.workdps(60):
        heights = [
            mpmath.exp(-(mpmath.mpf(k) ** 2) / (2 * mpmath.mpf(sigma) ** 2))
            for k in range(radius + 1)
        ]
        total = 2 * sum(heights) - heights[0]
        assert bell(sigma, radius).tolist() == [float(height / total) for height in heights]
    assert math.isclose(2 * bell(sigma, radius).sum() - bell(sigma, radius)[0], 1, rel_tol=1e-15)
