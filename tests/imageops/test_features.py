"""Features, filters and colours against NumPy, SciPy and scikit-image, whole and in parts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage import color

from pipeline.errors import JobError
from pipeline.image.grid import Grid
from pipeline.imageops.colours import CHANNELS, channel
from pipeline.imageops.features import Feature
from pipeline.imageops.filters import local_mean, local_mean_and_deviation, smooth
from pipeline.numerics.elementary import bell

TYPES = [np.uint8, np.int16, np.uint32, np.float32, np.float64]


def image(seed, shape, dtype=np.float64):
    return (np.random.default_rng(seed).random(shape) * 200).astype(dtype)


@pytest.mark.parametrize("dtype", TYPES)
def test_features_are_plain_arithmetic(dtype):
    """A band, the mean, a weighted sum and a normalised difference are what NumPy computes in
    double precision.
    """
    block, valid = image(0, (3, 9, 11), dtype), np.ones((9, 11), bool)
    wide = block.astype(np.float64)
    np.testing.assert_array_equal(Feature(band=2).feature(block, valid), block[1])
    assert Feature(band=2).feature(block, valid).dtype == dtype
    np.testing.assert_allclose(
        Feature(band="mean").feature(block, valid), wide.mean(axis=0), rtol=1e-15
    )
    np.testing.assert_allclose(
        Feature(weights=(2.0, -1.0, 0.5)).feature(block, valid),
        2 * wide[0] - wide[1] + wide[2] / 2,
        rtol=1e-12,
    )
    np.testing.assert_allclose(
        Feature(index=(3, 1)).feature(block, valid),
        (wide[2] - wide[0]) / (wide[2] + wide[0]),
        rtol=1e-15,
    )


def test_index_of_nothing_is_not_a_number():
    """A normalised difference of two zeros is NaN, without a warning."""
    found = Feature(index=(1, 2)).feature(np.zeros((2, 1, 1), np.uint8), np.ones((1, 1), bool))
    assert np.isnan(found).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float64])
def test_channels_are_scikit_images(dtype):
    """Hue, lightness, stains and the rest are scikit-image's, of integers and of floats from 0 to
    1, to rounding.
    """
    top = 1 if np.dtype(dtype).kind == "f" else np.iinfo(dtype).max
    block = (np.random.default_rng(3).random((3, 60, 70)) * top).astype(dtype)
    block[:, :5] = block[:1, :5]  # greys have no hue
    block[:, 5] = 0
    block[:, 6] = top
    planes = np.moveaxis(block.astype(np.float64) / top, 0, -1)
    expected = np.concatenate(
        [color.rgb2hsv(planes), color.rgb2lab(planes), color.rgb2hed(planes)], axis=-1
    )
    for number, name in enumerate(CHANNELS):
        np.testing.assert_allclose(
            channel(block, name),
            expected[..., number],
            atol=1e-3 if name in ("lightness", "a", "b") else 1e-12,
        )


@pytest.mark.parametrize("name", CHANNELS)
def test_channels_in_windows(name):
    """A window gives bit for bit what the whole image gives, wherever it begins and however wide it
    is.
    """
    block = image(4, (4, 37, 53), np.uint8)
    whole = channel(block, name)
    for row, column, height, width in (
        (0, 0, 1, 1),
        (3, 5, 7, 9),
        (11, 1, 20, 3),
        (30, 40, 7, 13),
        (0, 17, 37, 1),
    ):
        cut = (slice(row, row + height), slice(column, column + width))
        np.testing.assert_array_equal(
            channel(np.ascontiguousarray(block[(slice(None), *cut)]), name), whole[cut]
        )


@pytest.mark.parametrize("shape", [(40, 50), (70, 90), (9, 30, 41), (5, 8, 20, 30)])
@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.3])
def test_smoothing_is_scipys(sigma, shape):
    """Where all pixels are valid, smoothing is SciPy's Gaussian to 15 digits; with the same
    weights, SciPy's sums to the last bit.
    """
    value = image(1, shape, np.uint8)
    expected = value.astype(np.float64)
    found = smooth(value, np.ones(shape, bool), sigma)
    np.testing.assert_allclose(
        found, ndimage.gaussian_filter(expected, sigma, mode="nearest", truncate=4.0), rtol=2e-15
    )
    half = bell(sigma, int(4 * sigma + 0.5))
    for axis in range(len(shape)):
        expected = ndimage.correlate1d(
            expected, np.concatenate([half[:0:-1], half]), axis, mode="nearest"
        )
    np.testing.assert_array_equal(found, expected)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 99),
    st.integers(0, 7),
    st.sampled_from([(30, 33), (7, 50), (8, 9, 10)]),
    st.sampled_from([0.0, 0.2]),
)
def test_local_statistics_are_plain_arithmetic(seed, radius, shape, missing):
    """The local mean and deviation are those of the valid pixels in the square (the cube) around a
    pixel.
    """
    value, valid = image(seed, shape), np.random.default_rng(seed).random(shape) >= missing
    mean, deviation = local_mean_and_deviation(value, valid, 2 * radius + 1)
    np.testing.assert_array_equal(local_mean(value, valid, 2 * radius + 1), mean)
    for place in ((0,) * len(shape), tuple(n // 2 for n in shape), tuple(n - 1 for n in shape)):
        near = tuple(slice(max(0, a - radius), a + radius + 1) for a in place)
        values = value[near][valid[near]]
        np.testing.assert_allclose(
            [mean[place], deviation[place]],
            [values.mean(), values.std()] if len(values) else [np.nan] * 2,
            atol=1e-5,
        )


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_filters_in_windows(data):
    """Within reach of a window's edge aside, a window gives bit for bit what the whole image gives,
    valid pixels or not.
    """
    shape = data.draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    value = image(data.draw(st.integers(0, 99)), shape, data.draw(st.sampled_from(TYPES)))
    valid = np.random.default_rng(data.draw(st.integers(0, 99))).random(shape) > data.draw(
        st.sampled_from([0, 0.1, 0.9])
    )
    sigma, width = (
        data.draw(st.sampled_from([0.4, 1.0, 1.7])),
        data.draw(st.sampled_from([3, 5, 7, 13])),
    )
    grid = Grid(shape, (data.draw(st.integers(1, 20)), data.draw(st.integers(1, 20))))
    for reach, filtered in (
        (Feature(sigma=sigma).radius, lambda v, good: (smooth(v, good, sigma),)),
        (width // 2, lambda v, good: local_mean_and_deviation(v, good, width)),
    ):
        whole = filtered(value, valid)
        for tile in range(len(grid)):
            window, core = grid.window(tile, reach), grid.core(tile)
            for found, expected in zip(
                filtered(value[window.slices], valid[window.slices]), whole, strict=True
            ):
                np.testing.assert_array_equal(found[core.within(window)], expected[core.slices])


def test_smoothing_leaves_out_what_is_not_valid():
    """A smoothed pixel is the weighted mean of the valid ones near it; NaN where there is none."""
    value, valid = np.full((9, 60), 5.0), np.ones((9, 60), bool)
    value[:, 20:] = np.nan
    valid[2, 3] = False
    value[2, 3] = 1e9
    found = smooth(value, valid, 1.0)
    np.testing.assert_allclose(found[:, :20], 5.0)
    assert np.isnan(found[:, 30:]).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Feature(band=0), "band: 0; allowed: a band's number, from 1, its name, or 'mean'"),
        (lambda: Feature(band=""), "band: ''; allowed"),
        (lambda: Feature(band=True), "band: True; allowed"),
        (lambda: Feature(weights={"red": 0.0}), "weights: .*; not all 0"),
        (lambda: Feature(weights={"red": float("inf")}), "weights: .*; allowed: one finite number"),
        (
            lambda: Feature(band="nir").feature(np.ones((2, 1, 1)), np.ones((1, 1), bool)),
            "band: the image has no band 'nir'; allowed: num",
        ),
        (lambda: Feature(index=(1, 0)), r"index: \(1, 0\); allowed: two bands' numbers"),
        (lambda: Feature(sigma=-1), "sigma: -1; allowed: 0 to 1000 pixels"),
        (lambda: Feature(sigma=float("nan")), "sigma: nan; allowed"),
        (lambda: Feature(weights=()), r"weights: \(\); allowed: one finite number for each band"),
        (lambda: Feature(weights=(1.0,), index=(1, 2)), "index and weights are both given"),
        (lambda: Feature(channel="hew"), "channel: 'hew'; allowed: .*; did you mean 'hue'"),
        (
            lambda: Feature(channel="hue").feature(np.ones((2, 1, 1)), np.ones((1, 1), bool)),
            "'hue' is made of red, green and blue",
        ),
        (
            lambda: Feature(weights=(1.0,)).feature(np.ones((2, 1, 1)), np.ones((1, 1), bool)),
            "weights: 1 numbers for an image of 2 bands",
        ),
        (
            lambda: Feature(band=3).feature(np.ones((2, 1, 1)), np.ones((1, 1), bool)),
            "band 3 is asked for, and the image has 2",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refusals(make, message):
    """What cannot be a feature is refused with what is allowed."""
    with pytest.raises(JobError, match=message):
        make()
