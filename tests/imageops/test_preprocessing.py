"""Steps before segmenting, against SciPy and scikit-image, and in windows against the
whole image.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage import exposure, morphology

from pipeline.errors import JobError, SegmenterError
from pipeline.image.grid import Grid
from pipeline.imageops.histograms import histogram
from pipeline.imageops.preprocessing import Background, Denoise, Index, Smooth, Stretch
from pipeline.segmenters import call, fitted_to


def picture(seed=0, shape=(2, 40, 50), dtype=np.uint8):
    return np.random.default_rng(seed).integers(0, 250, shape).astype(dtype)


def test_steps_are_scipys_and_scikit_images():
    """Where every pixel is valid, a step is what the libraries make of each band."""
    block, valid = picture(), np.ones((40, 50), bool)
    wide = block.astype(float)
    for step, expected in (
        (Smooth(sigma=1.5), [ndimage.gaussian_filter(band, 1.5, mode="nearest") for band in wide]),
        (Denoise(radius=2), [ndimage.median_filter(band, 5, mode="nearest") for band in wide]),
        (Background(radius=3), [morphology.white_tophat(band, np.ones((7, 7))) for band in wide]),
        (
            Background(radius=4, method="gaussian"),
            [band - ndimage.gaussian_filter(band, 2, mode="nearest") for band in wide],
        ),
        (
            Index(bands=(2, 1)),
            [(wide[1] - wide[0]) / np.where(wide.sum(axis=0) == 0, np.nan, wide.sum(axis=0))],
        ),
    ):
        np.testing.assert_allclose(call(step, block, valid), expected)
    assert call(Index(bands=(1, 2), append=True), block, valid).shape == (3, 40, 50)


def test_stretch_is_scikit_images():
    """A stretch by percentiles is scikit-image's between the percentiles that NumPy finds; not
    measured pixels change nothing.
    """
    block, valid = picture(3), np.random.default_rng(1).random((40, 50)) > 0.2
    step = fitted_to(Stretch(low=2, high=90), np.where(valid, block, 255), valid)
    for band, found, limits in zip(block, step(block), step.limits, strict=True):
        ends = np.percentile(band[valid], (2, 90), method="inverted_cdf")
        assert limits == tuple(ends)
        np.testing.assert_allclose(
            found, exposure.rescale_intensity(band.astype(float), tuple(ends), (0, 1))
        )
    flat = fitted_to(Stretch(), np.full((1, 3, 3), 7), np.ones((3, 3), bool))
    assert not flat(np.full((1, 3, 3), 7)).any()


def test_percentiles_of_floats():
    """The percentile of floats is within one of 65,536 bins of NumPy's."""
    values = np.random.default_rng(5).lognormal(size=(100, 100))
    found = histogram(values, values > 0, 65536).percentile(99)
    assert abs(found - np.percentile(values, 99, method="inverted_cdf")) <= np.ptp(values) / 65536


@pytest.mark.parametrize("missing", [0.05, 0.5, 0.97])
def test_a_median_leaves_out_what_is_not_valid(missing):
    """The median is that of the valid pixels in the square, as NumPy finds it."""
    block, valid = (
        picture(7, (1, 20, 22), np.float32),
        np.random.default_rng(2).random((20, 22)) > missing,
    )
    found = Denoise(radius=1)(block, valid)[0]
    edged = np.pad(np.where(valid, block[0], np.nan), 1, mode="edge")
    for row in range(20):
        for column in range(22):
            near = edged[row : row + 3, column : column + 3]
            expected = np.nan if np.isnan(near).all() else np.nanmedian(near)
            np.testing.assert_equal(found[row, column], expected)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_steps_in_windows(data):
    """Within reach of a window's edge aside, a step makes in a window bit for bit what it makes of
    the whole image, valid pixels or not.
    """
    step = data.draw(
        st.sampled_from(
            [
                Smooth(sigma=0.8),
                Denoise(radius=1),
                Background(radius=2),
                Background(radius=3, method="gaussian"),
                Index(bands=(1, 2)),
            ]
        )
    )
    shape = data.draw(st.sampled_from([(30, 33), (1, 40), (9, 10, 11)]))
    block = picture(
        data.draw(st.integers(0, 99)),
        (2, *shape),
        data.draw(st.sampled_from([np.uint8, np.float32])),
    )
    valid = np.random.default_rng(data.draw(st.integers(0, 99))).random(shape) >= data.draw(
        st.sampled_from([0, 0.2, 0.95])
    )
    whole = call(step, block, valid)
    grid = Grid(shape, tuple(data.draw(st.integers(2, 20)) for _ in shape))
    for tile in range(len(grid)):
        window, core = grid.window(tile, step.reach), grid.core(tile)
        found = call(step, block[(slice(None), *window.slices)], valid[window.slices])
        good = valid[core.slices]
        np.testing.assert_array_equal(
            found[(slice(None), *core.within(window))][:, good],
            whole[(slice(None), *core.slices)][:, good],
        )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Smooth(sigma=0), "sigma: 0; allowed: more than 0"),
        (lambda: Denoise(radius=0), "radius: 0; allowed: a whole number of pixels, from 1 to 999"),
        (lambda: Background(radius=2.5), "radius: 2.5; allowed"),
        (
            lambda: Background(method="rolling"),
            "method: 'rolling'; allowed: 'opening' or 'gaussian'",
        ),
        (
            lambda: Stretch(low=99, high=1),
            "low, high: 99, 1; allowed: percentiles from 0 to 100, the lower first",
        ),
        (lambda: Stretch(limits=((3, 1),)), r"limits: \(\(3, 1\),\); allowed"),
        (
            lambda: Stretch(limits=((0, 1),))(np.zeros((2, 1, 1))),
            "limits: 1 for an image of 2 bands",
        ),
        (lambda: Index(bands=(0, 1)), r"bands: \(0, 1\); allowed: two bands' numbers"),
    ],
)
def test_refusals(make, message):
    """What cannot be a step is refused with what is allowed."""
    with pytest.raises(JobError, match=message):
        make()


def test_nothing_to_stretch():
    """An image without a valid pixel has no percentiles."""
    with pytest.raises(SegmenterError, match="the image has no valid pixel"):
        fitted_to(Stretch(), np.zeros((1, 2, 2)), np.zeros((2, 2), bool))
