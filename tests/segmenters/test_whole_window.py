"""Methods that look at a whole window: against scikit-image in one window, and honest in many."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from skimage import data as pictures
from skimage import segmentation
from sklearn.metrics import adjusted_rand_score

from pipeline.errors import JobError
from pipeline.imageops.components import pieces
from pipeline.segmenters import fitted_to
from pipeline.segmenters.whole_window import Felzenszwalb, NormalizedCut, RandomWalker
from tests.tiling import in_raster_order, tiled

METHODS = [Felzenszwalb(), RandomWalker(sigma=1), NormalizedCut(spacing=4, iterations=0)]
EACH = pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)


def coins():
    return pictures.coins()[:150, :180]


def everywhere(image):
    return np.ones(image.shape[1:], bool)


def test_felzenszwalb_is_scikit_images():
    """In one window it is scikit-image's, of bands in a common scale."""
    image = np.moveaxis(pictures.astronaut(), -1, 0)[:, :200, :200]
    method = fitted_to(Felzenszwalb(scale=50, sigma=0), image, everywhere(image))
    expected = segmentation.felzenszwalb(
        np.moveaxis(image * method.gain / 100, 0, -1), scale=50, sigma=0, min_size=20
    )
    np.testing.assert_array_equal(method(image), in_raster_order(expected + 1))


def test_random_walker_is_scikit_images():
    """In one window it is scikit-image's, from given seeds."""
    image = coins()
    places = [(5, 5, 1), (80, 90, 1), (38, 45, 2), (38, 112, 3)]
    method = fitted_to(RandomWalker(seeds=places), image[None], everywhere(image[None]))
    seeds = np.zeros(image.shape, int)
    for r, c, k in places:
        seeds[r, c] = k
    low, high = method.limits
    found = segmentation.random_walker(image / (high - low), seeds, beta=1000, mode="bf")
    np.testing.assert_array_equal(method(image[None]), pieces(np.where(found > 1, found, 0))[0])


def test_normalized_cut_parts_two_halves():
    """Two covers with noise are parted where they meet."""
    image = np.where(np.arange(64) < 32, 60, 140)[None].repeat(48, 0) + np.random.default_rng(
        0
    ).normal(0, 5, (48, 64))
    found = NormalizedCut(spacing=8, most=0.1)(image[None])
    assert (
        adjusted_rand_score((np.arange(64) < 32)[None].repeat(48, 0).ravel(), found.ravel()) > 0.9
    )


@EACH
def test_one_window_is_proved(tmp_path, method):
    """Where the image fits into one window, the result is the untiled one, and proved."""
    image = coins()[None]
    method = fitted_to(method, image, everywhere(image))
    found = tiled(image, method, (200, 200), tmp_path)
    np.testing.assert_array_equal(found.labels, in_raster_order(method(image)))
    assert set(found.certificates) == {"proved"}


@EACH
def test_many_windows_are_not_called_proved(method):
    """In several windows nothing is proved; objects that all windows drew alike are agreed; the
    result is near the untiled one.
    """
    image = coins()[None]
    method = fitted_to(method, image, everywhere(image))
    with tempfile.TemporaryDirectory() as folder:
        found = tiled(image, method, (80, 90), Path(folder), halo=40)
    assert "proved" not in found.certificates
    assert len(found.certificates) == found.labels.max()
    untiled = method(image)
    assert adjusted_rand_score(untiled.ravel(), found.labels.ravel()) > (
        0.9 if isinstance(method, RandomWalker) else 0.3
    )
    assert "agreed" in found.certificates or not isinstance(method, Felzenszwalb)


@pytest.mark.parametrize("bands", [1, 2, 4, 13])
@pytest.mark.parametrize(
    "method",
    [Felzenszwalb(), NormalizedCut(spacing=8, iterations=1)],
    ids=lambda m: type(m).__name__,
)
def test_any_number_of_bands(method, bands):
    """Bands that repeat the first change nothing but the scale; none is left out."""
    image = np.repeat(coins()[None, :64, :80], bands, axis=0).astype(float)
    assert method(image).max() > 1
    image[-1] = np.where(np.arange(80) < 40, 0, 255)
    halves = method(image)
    assert len(np.intersect1d(halves[20:40, :30], halves[20:40, 50:])) == 0


@EACH
def test_little_to_find(method):
    """A constant image has one region (of the walker: no object); what is not valid belongs to
    none; nothing valid has none.
    """
    flat = np.full((1, 24, 24), 7, np.uint8)
    found = method(flat)
    assert (found == (0 if isinstance(method, RandomWalker) else 1)).all()
    image = coins()[None, :48, :60].astype(float)
    valid = ndimage.binary_dilation(np.random.default_rng(0).random((48, 60)) < 0.1, iterations=2)
    image[:, ~valid] = np.nan
    drawn = method(image, valid)
    assert not drawn[~valid].any()
    assert isinstance(method, RandomWalker) or (drawn[valid] > 0).all()
    again = image.copy()
    again[:, ~valid] = 1e6
    np.testing.assert_array_equal(method(again, valid), drawn)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Felzenszwalb(scale=0), "scale: 0; allowed: more than 0"),
        (lambda: Felzenszwalb(min_size=-1), "min_size: -1"),
        (lambda: Felzenszwalb()(np.zeros((1, 4, 4, 4))), "felzenszwalb in a volume"),
        (lambda: RandomWalker(dark=0), "dark and bright: 0 and 10.0; allowed"),
        (lambda: RandomWalker(beta=0), "beta: 0; allowed: more than 0"),
        (lambda: RandomWalker(limits=(3, 3)), r"limits: \(3, 3\); allowed: two values that ascend"),
        (lambda: NormalizedCut(most=0), "most: 0; allowed: more than 0, up to 2"),
    ],
    ids=["scale", "min_size", "volume", "shares", "beta", "limits", "most"],
)
def test_refusals(make, message):
    """What cannot be is refused, naming the option, what was given and what is allowed."""
    with pytest.raises(JobError, match=message):
        make()
