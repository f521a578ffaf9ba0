"""Clustering against scikit-learn on whole images, and tiled against untiled."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.color import rgb2lab
from skimage.filters.rank import entropy
from sklearn.cluster import KMeans as TheirKMeans
from sklearn.cluster import MeanShift as TheirMeanShift
from sklearn.cluster import estimate_bandwidth
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture as TheirMixture

import pipeline
from pipeline.errors import JobError, SegmenterError
from pipeline.segmenters import fitted_to
from pipeline.segmenters.cluster import GaussianMixture, KMeans, MeanShift
from tests.test_exactness import tilings, whole_image
from tests.tiling import tiled

KINDS = [KMeans(clusters=3), GaussianMixture(clusters=3), MeanShift(bandwidth=1.0)]


def scene(seed=0, shape=(70, 90), dtype=np.uint16):
    """Three covers of different colour in smooth patches, three bands."""
    rng = np.random.default_rng(seed)
    relief = ndimage.gaussian_filter(rng.random(shape), 6)
    cover = np.digitize(relief, np.quantile(relief, [0.35, 0.7]))
    colours = np.array([[100, 400, 150], [600, 300, 250], [250, 900, 800]])
    return np.moveaxis(colours[cover] + rng.normal(0, 15, (*shape, 3)), -1, 0).clip(0).astype(
        dtype
    ), cover


def everywhere(image):
    return np.ones(image.shape[1:], bool)


def fitted(method, image, valid=None):
    return fitted_to(method, image, everywhere(image) if valid is None else valid)


def kinds_of(method, image, valid=None, origin=(0, 0)):
    valid = everywhere(image) if valid is None else valid
    return fitted(method, image, valid).classify(image, valid, origin) * valid


@pytest.mark.parametrize(
    ("method", "theirs"),
    [
        (KMeans(clusters=3, sample=100_000), TheirKMeans(3, n_init=10, random_state=0)),
        (GaussianMixture(clusters=3, sample=100_000), TheirMixture(3, random_state=0)),
    ],
    ids=["kmeans", "gmm"],
)
def test_classes_are_scikit_learns(method, theirs):
    """With every pixel in the sample, classes are those that scikit-learn finds in features divided
    by their spread.
    """
    image, cover = scene()
    rows = image.reshape(3, -1).T.astype(float)
    expected = theirs.fit_predict(rows / rows.std(axis=0))
    found = kinds_of(method, image)
    assert adjusted_rand_score(expected, found.ravel()) > 0.999
    assert adjusted_rand_score(cover.ravel(), found.ravel()) > 0.99


def test_mean_shift_is_scikit_learns():
    """So are the classes of mean shift, whose bandwidth comes from the sample where none
    is given.
    """
    image, _ = scene(shape=(30, 40))
    rows = image.reshape(3, -1).T.astype(float)
    rows /= rows.std(axis=0)
    expected = TheirMeanShift(
        bandwidth=estimate_bandwidth(rows, quantile=0.1, random_state=0), bin_seeding=True
    ).fit_predict(rows)
    assert adjusted_rand_score(expected, kinds_of(MeanShift(sample=5000), image).ravel()) > 0.999


@pytest.mark.parametrize("kind", [KMeans, GaussianMixture])
def test_number_of_classes_found(kind):
    """Asked to choose, it finds the three covers."""
    image, cover = scene()
    found = kinds_of(kind(clusters="auto"), image)
    assert adjusted_rand_score(cover.ravel(), found.ravel()) > (0.99 if kind is KMeans else 0.9)


@pytest.mark.parametrize("method", KINDS, ids=lambda m: type(m).__name__)
def test_classes_are_in_order(method):
    """Classes are numbered by the first feature of their centres, in every image that shows the
    same.
    """
    for seed in range(4):
        image, cover = scene(seed)
        found = kinds_of(method, image)
        means = [image[0][found == k].mean() for k in range(1, found.max() + 1)]
        assert means == sorted(means)
        assert adjusted_rand_score(cover.ravel(), found.ravel()) > 0.99


@pytest.mark.parametrize("method", KINDS, ids=lambda m: type(m).__name__)
def test_little_to_cluster(method):
    """A constant image has one class, one of two values no more than two; what is not valid has
    none; nothing valid is an error.
    """
    flat = np.full((2, 9, 9), 7, np.uint8)
    assert set(np.unique(kinds_of(method, flat))) == {1}
    two = np.stack([np.where(np.arange(9) < 5, 3, 250)] * 9)[None].astype(np.uint8)
    np.testing.assert_array_equal(kinds_of(method, two)[0], np.where(np.arange(9) < 5, 1, 2))
    valid = np.ones((9, 9), bool)
    valid[2] = False
    assert (kinds_of(method, two, valid)[2] == 0).all()
    with pytest.raises(SegmenterError, match="no valid pixel"):
        fitted(method, flat, np.zeros((9, 9), bool))
    with pytest.raises(SegmenterError, match="not fitted"):
        method.classify(flat, everywhere(flat), (0, 0))


def test_features_are_other_libraries():
    """Features are what SciPy and scikit-image make of the whole image."""
    image, _ = scene(dtype=np.uint8)
    ok = everywhere(image)
    grey = image.mean(axis=0)
    limits = tuple(np.arange(16, 256, 16).tolist())
    method = KMeans(
        bands=(2,),
        indices=((1, 3),),
        channels=("a",),
        texture=("entropy", "deviation"),
        window=5,
        position=2.0,
        greys=limits,
    )
    found = method.features(image, ok, (10, 20))
    np.testing.assert_array_equal(found[0], image[1])
    a, b = image[0].astype(float), image[2].astype(float)
    np.testing.assert_allclose(found[1], (a - b) / (a + b), rtol=1e-5)
    np.testing.assert_allclose(found[2], rgb2lab(np.moveaxis(image, 0, -1))[..., 1], atol=1e-3)
    theirs = entropy((grey.astype(np.uint8) // 16), np.ones((5, 5)))
    np.testing.assert_allclose(found[3][2:-2, 2:-2], theirs[2:-2, 2:-2], atol=1e-9)
    windows = np.lib.stride_tricks.sliding_window_view(grey, (5, 5))
    np.testing.assert_allclose(found[4][2:-2, 2:-2], windows.std(axis=(2, 3)), atol=1e-9)
    assert found[5:, 3, 4].tolist() == [0, 13, 24]


def test_gabor_answers_to_its_wavelength():
    """Stripes of a wavelength, whatever their direction, stand out to the filter of that wavelength
    alone.
    """
    y, x = np.mgrid[:64, :64]
    ok = np.ones((64, 64), bool)
    for angle in (0, np.pi / 4, np.pi / 2):
        stripes = 100 + 50 * np.cos(2 * np.pi * (np.cos(angle) * x + np.sin(angle) * y) / 8)
        strength = [
            KMeans(bands=(), texture=("gabor",), wavelength=w)
            .features(stripes[None], ok, (0, 0))[0, 20:44, 20:44]
            .mean()
            for w in (4, 8, 20)
        ]
        assert strength[1] > 2 * max(strength[0], strength[2])


@st.composite
def methods(draw):
    """Any kind over any features."""
    features = draw(
        st.sampled_from(
            [
                {},
                {"bands": (1, 3), "sigma": 1.0},
                {"bands": (), "indices": ((2, 1),), "texture": ("mean", "deviation"), "window": 5},
                {"channels": ("hue",), "texture": ("entropy",), "window": 3},
                {"bands": (2,), "position": 0.5},
                {"bands": (1,), "texture": ("gabor",), "wavelength": 2.0},
            ]
        )
    )
    kind = draw(
        st.sampled_from(
            [
                lambda **o: KMeans(clusters=3, **o),
                lambda **o: GaussianMixture(clusters=2, **o),
                MeanShift,
            ]
        )
    )
    return kind(
        **features,
        min_area=draw(st.sampled_from([0, 4])),
        connectivity=draw(st.sampled_from([4, 8])),
    )


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_tiled_equals_whole_image(data):
    """Tiled, objects are the connected pieces of the whole image's classes, whatever the
    features.
    """
    shape = data.draw(st.tuples(st.integers(1, 22), st.integers(2, 22)))
    image, _ = scene(
        data.draw(st.integers(0, 99)),
        shape,
        data.draw(st.sampled_from([np.uint8, np.uint16, np.float32])),
    )
    method = data.draw(methods())
    tile, order = data.draw(tilings(shape))
    method = fitted(method, image)
    with tempfile.TemporaryDirectory() as folder:
        found = tiled(image, method, tile, Path(folder), order=order)
    expected = whole_image(
        method.classify(image, everywhere(image), (0, 0)), method.connectivity, method.min_area
    )
    np.testing.assert_array_equal(found.labels, expected)
    assert found.certificates == ["proved"] * int(expected.max())


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("tile", [24, 500])
def test_fitted_to_the_whole_image(tmp_path, ndim, tile):
    """A run's classes are those of the whole image, fitted once: also where its left half is dark,
    with nodata, in volumes.
    """
    image, _ = scene(3, (60, 80) if ndim == 2 else (9, 40, 50), np.float32)
    image[..., : image.shape[-1] // 2] *= 0.3
    image[:, ..., 5:9, 5:20] = np.nan
    method = KMeans(clusters=4, sample=500, texture=("entropy",) if ndim == 2 else (), position=0.1)
    source = pipeline.Job(
        source={"path": image, "axes": "czyx"} if ndim == 3 else image,
        segmenters={"cover": method},
        tiles={"size": tile},
        output={"path": str(tmp_path / "out")},
    )
    with pipeline.local() as engine:
        result = pipeline.run(source, engine)
    expected = kinds_of(method, image, np.isfinite(image[0]), (0,) * ndim)
    classes = zarr.open_array(tmp_path / "out" / "classes.zarr" / "0")[:]
    np.testing.assert_array_equal(np.where(classes == 255, 0, classes), expected)
    assert set(np.unique(classes)) == {1, 2, 3, 4, 255}
    assert len(result.record["fitted"]["cover"]["centres"]) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clusters": 0}, "clusters: 0; allowed: 1 to 254, or 'auto'"),
        ({"clusters": 300}, "clusters: 300; allowed"),
        (
            {"clusters": 5, "sample": 4},
            "sample: 4; allowed: 5 to 1000000 pixels, no fewer than clusters",
        ),
        ({"bands": (0,)}, "band"),
        ({"bands": ()}, "bands: none, and nothing else"),
        ({"texture": ("entropi",)}, "texture: 'entropi'; .*entropy"),
        ({"channels": ("red",)}, "channels: 'red'"),
        ({"window": 4}, "window: 4; allowed: an odd number"),
        ({"wavelength": 1.0}, "wavelength: 1.0; allowed: 2 to 200"),
        ({"position": -1.0}, "position: -1.0; allowed: 0 or more"),
        ({"sigma": -1.0}, "sigma"),
    ],
    ids=str,
)
def test_refusals(options, message):
    """What cannot be is refused, naming the option, what was given and what is allowed."""
    with pytest.raises(JobError, match=message):
        KMeans(**options)


def test_bands_that_are_not_there(tmp_path):
    """Bands and channels that the image lacks are refused before anything is read."""
    image, _ = scene()
    for options, message in (
        ({"bands": (4,)}, "4"),
        ({"channels": ("hue",)}, "hue|three bands|colour"),
    ):
        with (
            pytest.raises(JobError, match=f"segmenters.kmeans.*{message}"),
            pipeline.local() as engine,
        ):
            pipeline.segment(image[:2], KMeans(**options), tmp_path / "out", engine=engine)
    with pytest.raises(JobError, match="bandwidth: 0; allowed: more than 0"):
        MeanShift(bandwidth=0)
