"""Thresholds against scikit-image, and histograms of parts against those of the whole."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import exposure, filters

from pipeline.errors import JobError, SegmenterError
from pipeline.imageops.histograms import FINDERS, Bins, Histogram, histogram, levels, threshold
from pipeline.imageops.thresholds import Foreground

ALL = np.ones((1, 1), bool)


def two_peaks(seed, dtype, first=200, second=200):
    rng = np.random.default_rng(seed)
    return (
        np.concatenate([rng.normal(60, 10, first), rng.normal(150, 20, second)])
        .clip(0, 255)
        .astype(dtype)
    )


def counted(values):
    return histogram(values[None], np.ones((1, values.size), bool))


def criterion_of_yen(whole, level):
    """What Yen, Chang and Chang (1995) maximise, of the pixels up to a level and above it."""
    share = whole.counts / whole.counts.sum()
    low = whole.centers <= level
    both = share[low].sum() * share[~low].sum()
    return 2 * np.log(both) - np.log((share[low] ** 2).sum() * (share[~low] ** 2).sum())


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_thresholds_are_scikit_images(data):
    """The histogram is scikit-image's, adds up from parts, and every method finds in it what
    scikit-image's does.
    """
    dtype = data.draw(st.sampled_from([np.uint8, np.int16, np.uint16, np.float32, np.float64]))
    values = two_peaks(
        data.draw(st.integers(0, 9999)),
        dtype,
        data.draw(st.integers(2, 300)),
        data.draw(st.integers(2, 300)),
    )
    whole, bins = counted(values), Bins(values.min().item(), values.max().item(), str(values.dtype))
    cut = data.draw(st.integers(0, len(values)))
    np.testing.assert_array_equal(bins.count(values[:cut]) + bins.count(values[cut:]), whole.counts)
    counts, centers = exposure.histogram(values, 256)
    np.testing.assert_array_equal(whole.counts, counts)
    np.testing.assert_allclose(whole.centers, centers, rtol=1e-5)
    width = centers[1] - centers[0]
    if np.dtype(dtype).kind != "f":
        ours, theirs = (
            criterion_of_yen(whole, level)
            for level in (threshold(whole, "yen"), filters.threshold_yen(values))
        )
        assert ours == pytest.approx(theirs)  # of two that are equally good, rounding takes one
        for name in ("otsu", "isodata", "mean", "li"):
            assert (
                abs(threshold(whole, name) - getattr(filters, f"threshold_{name}")(values)) < 1e-3
            ), name
        width = 0
    assert (
        abs(threshold(whole, "mean") - filters.threshold_mean(values)) <= width + 1e-9
    )  # of floats scikit-image takes the values
    ours, theirs = (
        depth(whole, level)
        for level in (threshold(whole, "triangle"), filters.threshold_triangle(values))
    )
    assert ours == pytest.approx(theirs)  # where two levels are as deep, either will do


def depth(histogram, level):
    """How far a level's bin lies below the line from the peak to the end of the longer tail."""
    counts, peak = histogram.counts, int(np.argmax(histogram.counts))
    end = 0 if peak >= len(counts) - 1 - peak else len(counts) - 1
    at = int(np.argmin(abs(histogram.centers - level)))
    return counts[peak] * abs(at - end) / abs(peak - end) - counts[at]


@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
def test_minimum_and_several_levels_are_scikit_images(dtype):
    """The valley between two peaks, and the thresholds between three classes, are
    scikit-image's.
    """
    values = np.concatenate(
        [two_peaks(5, dtype, 4000, 4000), (two_peaks(6, dtype, 4000, 0) * 0.2).astype(dtype)]
    )
    assert threshold(counted(values), "minimum") == pytest.approx(filters.threshold_minimum(values))
    for classes in (2, 3, 4):
        np.testing.assert_allclose(
            levels(counted(values), classes), filters.threshold_multiotsu(values, classes=classes)
        )


def test_li_of_floats_is_near_scikit_images():
    """Li's threshold of floats differs from that of the floats themselves by less than two bins."""
    values = two_peaks(7, np.float64)
    assert (
        abs(threshold(counted(values), "li") - filters.threshold_li(values))
        < 2 * np.ptp(values) / 256
    )


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 9999),
    st.integers(1, 300),
    st.integers(1, 300),
    st.sampled_from([np.float32, np.float64]),
)
def test_isodata_of_floats(seed, first, second, dtype):
    """The isodata threshold of floats is, within two bins, midway between the means of what it
    parts.
    """
    values = two_peaks(seed, dtype, first, second)
    found = threshold(counted(values), "isodata")
    above = values > found
    assert (
        abs((values[above].mean() + values[~above].mean()) / 2 - found) < 2 * np.ptp(values) / 256
    )


def test_no_valley():
    """A histogram of one peak has no minimum between peaks: the error says so."""
    with pytest.raises(
        SegmenterError,
        match="the threshold by minimum cannot be found in the image's histogram; try otsu",
    ):
        threshold(Histogram(np.array([1, 2, 3, 2, 1]), np.arange(5.0)), "minimum")


@pytest.mark.parametrize("method", [*FINDERS, "multiotsu"])
@pytest.mark.parametrize("dark", [False, True])
def test_thresholds_of_little(method, dark):
    """A constant image has no foreground, bright or dark; an image without pixels has no
    threshold.
    """
    foreground = Foreground(method=method, dark=dark, classes=3 if method == "multiotsu" else None)
    flat = np.full((3, 3), 7, np.uint8)
    assert not foreground.fit(histogram(flat, flat > 0))(flat, flat > 0).any()
    with pytest.raises(SegmenterError, match="the image has no valid pixel"):
        foreground.fit(histogram(np.zeros((2, 2)), np.zeros((2, 2), bool)))


def test_fewer_values_than_classes():
    """An image of two values has two classes, however many are asked for."""
    image = np.array([[3, 9, 9]], np.uint8)
    found = Foreground(method="multiotsu", classes=4).fit(histogram(image, image > 0))
    assert found(image, image > 0).tolist() == [[0, 1, 1]]


@pytest.mark.parametrize("dtype", [np.int64, np.uint32, np.int32])
def test_wide_integers(dtype):
    """Integers of a range beyond 65,536 are counted in bins of equal width, none lost."""
    values = np.random.default_rng(0).integers(0, 10**7, 5000).astype(dtype)
    found = counted(values)
    assert (len(found.counts), found.counts.sum()) == (65536, 5000)
    assert (
        abs(threshold(found, "otsu") - filters.threshold_otsu(values.astype(float), nbins=65536))
        <= 10**7 / 65536
    )
    coarse = found.coarse()
    assert (len(coarse.counts), coarse.counts.sum()) == (256, 5000)


def test_foreground():
    """Above, between and their opposites, and classes between levels; never where a pixel is not
    valid or no number.
    """
    feature = np.array([[1.0, 2.0, 3.0, np.nan, 3.0]])
    valid = np.array([[True, True, True, True, False]])
    for foreground, expected in (
        (Foreground(value=2), [0, 0, 1, 0, 0]),
        (Foreground(value=2, dark=True), [1, 1, 0, 0, 0]),
        (Foreground(interval=(2, 3)), [0, 1, 1, 0, 0]),
        (Foreground(interval=(2, 3), dark=True), [1, 0, 0, 0, 0]),
        (Foreground(levels=(1, 2)), [0, 1, 2, 0, 0]),
        (Foreground(levels=(1, 2), dark=True), [2, 1, 0, 0, 0]),
        (Foreground(value=2, weak=1), [0, 1, 1, 0, 0]),
    ):
        assert foreground(feature, valid)[0].astype(int).tolist() == expected
    assert Foreground(value=2, weak=1).strong(feature, valid)[0].tolist() == [
        False,
        False,
        True,
        False,
        False,
    ]
    assert Foreground(value=2, weak=3, dark=True).strong(feature, valid)[0].tolist() == [
        True,
        True,
        False,
        False,
        False,
    ]
    with pytest.raises(SegmenterError, match="the threshold by otsu is not fitted"):
        Foreground(method="otsu")(feature, valid)


@pytest.mark.parametrize("method", ["sauvola", "niblack", "local_mean", "local_gaussian"])
def test_local_thresholds_are_scikit_images(method):
    """Away from the image's edge, beyond which scikit-image mirrors it, a local threshold is
    scikit-image's.
    """
    image = np.random.default_rng(1).integers(20, 220, (90, 100), np.uint8)
    foreground = Foreground(method=method, window=15, spread=100 if method == "sauvola" else None)
    expected = {
        "sauvola": lambda: filters.threshold_sauvola(image, 15, k=0.2, r=100),
        "niblack": lambda: filters.threshold_niblack(image, 15, k=0.2),
        "local_mean": lambda: filters.threshold_local(image, 15, "mean"),
        "local_gaussian": lambda: filters.threshold_local(image, 15, "gaussian"),
    }[method]()
    inside = (slice(16, -16),) * 2
    np.testing.assert_array_equal(foreground(image, image > 0)[inside], (image > expected)[inside])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "no threshold given; allowed: one of value, interval, levels, method"),
        ({"value": 1, "method": "otsu"}, "value and method given; allowed: one of"),
        ({"method": "outs"}, "'outs' is not known; allowed: .*; did you mean 'otsu'"),
        ({"interval": (3, 1)}, r"interval: \(3, 1\); allowed: two numbers, the lower first"),
        ({"levels": (3, 3)}, r"levels: \(3, 3\); allowed: numbers that ascend"),
        ({"method": "multiotsu", "classes": 1}, "classes: 1; allowed with multiotsu: 2 to 5"),
        ({"method": "multiotsu"}, "classes: None; allowed with multiotsu: 2 to 5"),
        (
            {"method": "otsu", "classes": 3},
            "classes is given, and has no effect here; it goes with multiotsu",
        ),
        (
            {"method": "otsu", "window": 15},
            "window is given, and has no effect here; it goes with sauvola, niblack",
        ),
        (
            {"method": "sauvola", "window": 14},
            "window: 14; allowed: an odd number of pixels, from 3",
        ),
        ({"method": "sauvola", "spread": 0}, "spread: 0; allowed: more than 0"),
        (
            {"method": "niblack", "weak": 3},
            "weak is given, and has no effect here; it goes with otsu",
        ),
        ({"value": 3, "weak": 4}, "weak: 4; allowed: at most the threshold, 3"),
        ({"value": 3, "weak": 2, "dark": True}, "weak: 2; allowed: at least the threshold, 3"),
    ],
    ids=str,
)
def test_refusals(options, message):
    """What cannot be a threshold is refused with what is allowed."""
    with pytest.raises(JobError, match=message):
        Foreground(**options)
