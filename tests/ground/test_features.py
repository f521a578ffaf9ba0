"""Features and thresholds against SciPy and scikit-image, whole and in parts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.filters import threshold_otsu

from pipeline.errors import JobError, SegmenterError
from pipeline.features import Feature, smooth
from pipeline.grid import Grid
from pipeline.thresholds import Bins, Foreground, histogram, otsu

TYPES = [np.uint8, np.int16, np.uint32, np.float32, np.float64]


def image(seed, shape, dtype=np.float64):
    return (np.random.default_rng(seed).random(shape) * 200).astype(dtype)


@pytest.mark.parametrize("dtype", TYPES)
def test_features_are_plain_arithmetic(dtype):
    """A band, the mean, a weighted sum and a normalised difference are what NumPy computes in double precision."""
    block, valid = image(0, (3, 9, 11), dtype), np.ones((9, 11), bool)
    wide = block.astype(np.float64)
    np.testing.assert_array_equal(Feature(band=2)(block, valid), block[1])
    assert Feature(band=2)(block, valid).dtype == dtype
    np.testing.assert_allclose(Feature(band="mean")(block, valid), wide.mean(axis=0), rtol=1e-15)
    np.testing.assert_allclose(Feature(weights=(2.0, -1.0, 0.5))(block, valid), 2 * wide[0] - wide[1] + wide[2] / 2, rtol=1e-12)
    np.testing.assert_allclose(Feature(index=(3, 1))(block, valid), (wide[2] - wide[0]) / (wide[2] + wide[0]), rtol=1e-15)


def test_index_of_nothing_is_not_a_number():
    """A normalised difference of two zeros is NaN, without a warning."""
    found = Feature(index=(1, 2))(np.zeros((2, 1, 1), np.uint8), np.ones((1, 1), bool))
    assert np.isnan(found).all()


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.3])
def test_smoothing_is_scipys(sigma):
    """Where all pixels are valid, smoothing is SciPy's Gaussian."""
    value = image(1, (40, 50), np.uint8)
    expected = ndimage.gaussian_filter(value.astype(np.float64), sigma, mode="nearest", truncate=4.0)
    np.testing.assert_array_equal(smooth(value, np.ones(value.shape, bool), sigma), expected)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_smoothing_in_windows(data):
    """Within reach of a window's edge aside, a window gives bit for bit what the whole image gives, valid pixels or not."""
    shape = data.draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    value = image(data.draw(st.integers(0, 99)), shape, data.draw(st.sampled_from(TYPES)))
    valid = np.random.default_rng(data.draw(st.integers(0, 99))).random(shape) > data.draw(st.sampled_from([0, 0.1, 0.9]))
    feature = Feature(sigma=data.draw(st.sampled_from([0.4, 1.0, 1.7])))
    whole = feature(value[None], valid)
    grid = Grid(shape, (data.draw(st.integers(1, 20)), data.draw(st.integers(1, 20))))
    for tile in range(len(grid)):
        window, core = grid.window(tile, feature.reach), grid.core(tile)
        found = feature(value[None][(slice(None), *window.slices)], valid[window.slices])
        np.testing.assert_array_equal(found[core.within(window)], whole[core.slices])


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
        (lambda: Feature(band=0), "band: 0; allowed: a band's number, from 1, or 'mean'"),
        (lambda: Feature(band="median"), "band: 'median'; allowed"),
        (lambda: Feature(index=(1, 0)), r"index: \(1, 0\); allowed: two bands' numbers"),
        (lambda: Feature(sigma=-1), "sigma: -1; allowed: 0 to 1000 pixels"),
        (lambda: Feature(sigma=float("nan")), "sigma: nan; allowed"),
        (lambda: Feature(weights=()), r"weights: \(\); allowed: one finite number for each band"),
        (lambda: Feature(weights=(1.0,), index=(1, 2)), "index and weights are both given"),
        (lambda: Feature(weights=(1.0,))(np.ones((2, 1, 1)), np.ones((1, 1), bool)), "weights: 1 numbers for an image of 2 bands"),
        (lambda: Feature(band=3)(np.ones((2, 1, 1)), np.ones((1, 1), bool)), "band 3 is asked for, and the image has 2; allowed: 1 to 2"),
        (Foreground, "no threshold given; allowed: one of value, interval, method"),
        (lambda: Foreground(value=1, method="otsu"), "value and method given; allowed: one of"),
        (lambda: Foreground(method="outs"), "'outs' is not known; allowed: otsu; did you mean 'otsu'"),
        (lambda: Foreground(interval=(3, 1)), r"interval: \(3, 1\); allowed: two numbers, the lower first"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refusals(make, message):
    """What cannot be a feature or a threshold is refused with what is allowed."""
    with pytest.raises(JobError, match=message):
        make()


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_otsu_is_scikit_images(data):
    """Otsu's threshold parts the pixels as scikit-image's does, and a histogram of parts adds up to that of the whole."""
    dtype = data.draw(st.sampled_from([np.uint8, np.int16, np.uint16, np.float32, np.float64]))
    rng = np.random.default_rng(data.draw(st.integers(0, 9999)))
    values = np.concatenate([rng.normal(60, 10, data.draw(st.integers(2, 300))), rng.normal(150, 20, data.draw(st.integers(2, 300)))])
    values = values.astype(dtype)
    whole = histogram(values[None], np.ones((1, values.size), bool))
    bins = Bins(values.min().item(), values.max().item(), str(values.dtype))
    cut = data.draw(st.integers(0, len(values)))
    np.testing.assert_array_equal(bins.count(values[:cut]) + bins.count(values[cut:]), whole.counts)
    np.testing.assert_array_equal(values > otsu(whole), values > threshold_otsu(values))


def test_otsu_of_little():
    """Above the threshold of a constant image there is nothing; an image without pixels has none."""
    flat = histogram(np.full((3, 3), 7, np.uint8), np.ones((3, 3), bool))
    assert not (np.full(9, 7) > otsu(flat)).any()
    with pytest.raises(SegmenterError, match="the image has no valid pixel"):
        otsu(histogram(np.zeros((2, 2)), np.zeros((2, 2), bool)))


@pytest.mark.parametrize("dtype", [np.int64, np.uint32, np.int32])
def test_wide_integers(dtype):
    """Integers of a range beyond 65,536 are counted in bins of equal width, none lost."""
    values = np.random.default_rng(0).integers(0, 10**7, 5000).astype(dtype)
    found = histogram(values[None], np.ones((1, 5000), bool))
    assert (len(found.counts), found.counts.sum()) == (65536, 5000)
    assert abs(otsu(found) - threshold_otsu(values.astype(float), nbins=65536)) <= 10**7 / 65536


def test_foreground():
    """Above, between and their opposites; never where a pixel is not valid or no number."""
    feature = np.array([[1.0, 2.0, 3.0, np.nan, 3.0]])
    valid = np.array([[True, True, True, True, False]])
    for foreground, expected in (
        (Foreground(value=2), [0, 0, 1, 0, 0]),
        (Foreground(value=2, dark=True), [1, 1, 0, 0, 0]),
        (Foreground(interval=(2, 3)), [0, 1, 1, 0, 0]),
        (Foreground(interval=(2, 3), dark=True), [1, 0, 0, 0, 0]),
    ):
        assert foreground(feature, valid)[0].astype(int).tolist() == expected
    with pytest.raises(SegmenterError, match="the threshold by otsu is not fitted"):
        Foreground(method="otsu")(feature, valid)
