"""Labels as a picture, held against Pillow and scikit-image."""

import colorsys
import io
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from scipy import ndimage
from skimage.segmentation import expand_labels, find_boundaries

from pipeline.sinks.picture import DARK, colours, overview, to_png

LABELS = np.kron(np.array([[0, 1, 2], [3, 0, 4]], np.uint32), np.ones((5, 5), np.uint32))


def decoded(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3))))
def test_pillow_reads_the_picture(rgb):
    """What Pillow decodes is the picture, pixel by pixel."""
    assert np.array_equal(decoded(to_png(rgb)), rgb)


@given(st.integers(1, 2**64 - 1), st.integers(0, 4))
def test_an_id_has_one_colour_everywhere(number, place):
    """The colour of an id depends on nothing but the id: not on its neighbours, its place or its
    type.
    """
    row = np.arange(5, dtype=np.uint64)
    row[place] = number
    assert np.array_equal(colours(row)[place], colours(np.array([[number]], np.uint64))[0, 0])
    if number < 2**31:
        assert np.array_equal(
            colours(np.array([number], np.int32)), colours(np.array([number], np.uint64))
        )


@given(st.integers(1, 2**63))
def test_ids_that_follow_each_other_look_different(first):
    """Four ids in a row have hues at least a tenth of the circle apart."""
    hues = [
        colorsys.rgb_to_hls(*(rgb / 255))[0]
        for rgb in colours(np.arange(first, first + 4, dtype=np.uint64))
    ]
    for one, other in itertools.combinations(hues, 2):
        apart = abs(one - other)
        assert min(apart, 1 - apart) > 0.1


def test_no_object_is_as_dark_as_background():
    """Background is the one dark colour."""
    lightness = colours(np.arange(1, 50_000)).astype(int).max(axis=1)
    assert lightness.min() > 2 * max(DARK)
    assert tuple(colours(np.zeros(1, np.uint32))[0]) == DARK


@pytest.mark.parametrize("outline", [False, True])
def test_the_file_shows_the_labels(tmp_path, outline):
    """Without an image, objects are painted, or their borders, and the rest is dark."""
    overview(str(tmp_path / "p.png"), LABELS, outline=outline)
    shown = decoded((tmp_path / "p.png").read_bytes())
    painted = (LABELS != 0) & (
        find_boundaries(LABELS, connectivity=1, mode="inner") | (not outline)
    )
    assert np.array_equal(shown[painted], colours(LABELS)[painted])
    assert (shown[~painted] == DARK).all()


def test_the_image_shows_faded_between_objects(tmp_path):
    """Over an image, background is the image in dim grey and objects are painted."""
    image = np.random.default_rng(0).integers(0, 256, (*LABELS.shape, 3), np.uint8)
    overview(str(tmp_path / "p.png"), LABELS, image)
    shown = decoded((tmp_path / "p.png").read_bytes())
    ground = shown[LABELS == 0].astype(int)
    assert np.array_equal(shown[LABELS != 0], colours(LABELS)[LABELS != 0])
    assert (np.ptp(ground, axis=1) == 0).all()
    assert np.abs(ground[:, 0] - image[LABELS == 0].mean(axis=1) / 2).max() <= 1


def test_outlines_leave_the_image_as_it_is(tmp_path):
    """With outlines, the image is unchanged but at the pixels of objects that touch another id."""
    image = np.random.default_rng(0).integers(0, 256, (*LABELS.shape, 3), np.uint8)
    overview(str(tmp_path / "p.png"), LABELS, image, outline=True)
    shown = decoded((tmp_path / "p.png").read_bytes())
    border = find_boundaries(LABELS, connectivity=1, mode="inner")
    assert np.array_equal(shown[border], colours(LABELS)[border])
    assert np.array_equal(shown[~border], image[~border])


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1)], ids=str)
@pytest.mark.parametrize("outline", [False, True])
def test_thin_images_have_pictures(tmp_path, shape, outline):
    """One row, one column or one pixel is a picture too."""
    overview(
        str(tmp_path / "p.png"), np.arange(shape[0] * shape[1]).reshape(shape), outline=outline
    )
    assert decoded((tmp_path / "p.png").read_bytes()).shape == (*shape, 3)


@pytest.mark.parametrize(
    ("labels", "background", "reason"),
    [
        pytest.param(np.zeros((2, 3, 4), int), None, "give one plane", id="3-D"),
        pytest.param(
            np.zeros((3, 4), int),
            np.zeros((4, 3, 3), np.uint8),
            r"allowed: uint8 \(3, 4, 3\)",
            id="another shape",
        ),
        pytest.param(np.zeros((3, 4), int), np.zeros((3, 4, 3)), "float64", id="floats"),
    ],
)
def test_what_cannot_be_shown_is_refused(tmp_path, labels, background, reason):
    """Labels with planes, and images that do not lie under the labels, are refused before a file is
    there.
    """
    with pytest.raises(ValueError, match=reason):
        overview(str(tmp_path / "p.png"), labels, background)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "rgb",
    [np.zeros((3, 4), np.uint8), np.zeros((3, 4, 4), np.uint8), np.zeros((3, 4, 3), int)],
    ids=["grey", "RGBA", "int"],
)
def test_only_rgb_is_encoded(rgb):
    """Other pictures than uint8 (row, column, 3) are refused."""
    with pytest.raises(ValueError, match="a picture is uint8"):
        to_png(rgb)


def test_neighbouring_objects_can_be_told_apart():
    """In a real image, nearly every pair of objects that lie beside each other has colours that an
    eye can tell apart.
    """
    from skimage import data

    labels = expand_labels(ndimage.label(data.hubble_deep_field().max(axis=2) > 60)[0], 20)
    sides = [
        np.stack([labels[:, 1:].ravel(), labels[:, :-1].ravel()]),
        np.stack([labels[1:].ravel(), labels[:-1].ravel()]),
    ]
    pairs = np.unique(np.sort(np.concatenate(sides, axis=1), axis=0), axis=1)
    pairs = pairs[:, (pairs[0] > 0) & (pairs[0] != pairs[1])]
    one, other = (colours(ids).astype(float) for ids in pairs)
    assert pairs.shape[1] > 300
    assert (np.linalg.norm(one - other, axis=1) > 40).mean() > 0.95
