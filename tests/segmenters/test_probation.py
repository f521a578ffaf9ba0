"""Segmenters that state no reach: what they draw is compared, and never called proved."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage
from skimage import data as pictures

import pipeline
from pipeline.errors import SegmenterError, TilesError
from pipeline.imageops.preprocessing import Smooth
from pipeline.jobs import plugins
from pipeline.segmenters import Contract, Keyed, call, classes, fitted_to, keyed, support
from tests.tiling import in_raster_order, tiled

KINDS = runpy.run_path(str(Path(__file__).resolve().parents[2] / "workflows" / "methods.py"))[
    "KINDS"
]
NEAR_SIGHTED = [
    kind
    for kind in KINDS
    if kind.split()[0] not in ("felzenszwalb", "random_walker", "normalized_cut")
]


def scene(size=96):
    """Blobs on a ground that grows brighter from left to right; uint8."""
    noise = ndimage.gaussian_filter(np.random.default_rng(3).random((size, size)), 2)
    noise = (noise - noise.min()) / np.ptp(noise)
    return (150 * noise + np.linspace(0, 100, size)).astype(np.uint8)


def by_mean(block):
    """What is brighter than the mean of the block: the commonest mistake."""
    return ndimage.label(block[0] > block[0].mean())[0]


def mask_by_mean(block):
    """The same, whose pixels of one class are objects where they touch."""
    return block[0] > block[0].mean()


mask_by_mean.identity = "connected"


def keys_by_mean(block, origin):
    """The same in squares of 8 pixels that are named by their place."""
    rows, columns = np.ogrid[: block.shape[1], : block.shape[2]]
    squares = 1 + (rows + origin[0]) // 8 * 1000 + (columns + origin[1]) // 8
    return Keyed(np.where(block[0] > block[0].mean(), squares, 0))


keys_by_mean.identity = "keyed"


@pytest.mark.parametrize("segmenter", [by_mean, mask_by_mean, keys_by_mean])
def test_nothing_is_proved_without_a_reach(segmenter, tmp_path):
    """Of a mean per block nothing is called proved, whatever its identity, and objects that windows
    draw differently are disputed.
    """
    found = tiled(scene(), segmenter, (32, 32), tmp_path, halo=8)
    assert "proved" not in found.certificates
    assert "disputed" in found.certificates


@pytest.mark.parametrize("segmenter", [by_mean, mask_by_mean, keys_by_mean])
def test_one_window_is_the_whole_image(segmenter, tmp_path):
    """Where a window holds the whole image, what is drawn is the untiled answer by itself, and
    proved.
    """
    image = scene(24)
    found = tiled(image, segmenter, (24, 24), tmp_path, halo=2)
    (drawn,) = [call(segmenter, image[None], np.ones(image.shape, bool))]
    drawn = drawn.keys if isinstance(drawn, Keyed) else drawn
    expected = ndimage.label(drawn)[0] if drawn.dtype == bool else drawn
    np.testing.assert_array_equal(found.labels, in_raster_order(expected))
    assert set(found.certificates) == {"proved"}


def plain_mask(block):
    """Connected pixels, which depend on nothing else; that is not stated."""
    return block[0] > 110


plain_mask.identity = "connected"


@pytest.mark.parametrize("corners", [False, True])
def test_connected_pixels_are_joined_on_probation_too(corners, tmp_path):
    """A connected segmenter that is right but states no reach gives SciPy's labels, spirals over
    many tiles included; each is agreed.
    """
    image = scene(64)
    image[::4], image[1::4] = 0, 255
    image[2::8, 3], image[3::8, 3], image[6::8, 60], image[7::8, 60] = 255, 255, 255, 255

    def mask(block):
        return block[0] > 110

    mask.identity, mask.connectivity = "connected", 8 if corners else 4
    found = tiled(image, mask, (16, 16), tmp_path, halo=4)
    expected, number = ndimage.label(image > 110, np.ones((3, 3)) if corners else None)
    np.testing.assert_array_equal(found.labels, in_raster_order(expected))
    assert found.certificates == ["agreed"] * number


def test_classes_of_a_mean_per_block_are_disputed(tmp_path):
    """Where only classes are wanted, windows are compared on probation as well, and a class that
    they draw differently is disputed.
    """
    made = [
        pipeline.segment(
            scene(),
            kind,
            tmp_path / name,
            tile=32,
            halo=8,
            results=["semantic"],
            engine=pipeline.local(),
        )
        for name, kind in (("mean", mask_by_mean), ("plain", plain_mask))
    ]
    assert [one.record["certificates"] for one in made] == [
        {"proved": 0, "agreed": 0, "disputed": 1},
        {"proved": 0, "agreed": 1, "disputed": 0},
    ]
    np.testing.assert_array_equal(made[1].classes, (scene() > 110).astype(np.uint8))


def test_the_result_says_how_to_earn_more(tmp_path):
    """The record and the lines for people name the segmenter and what it should state; not of one
    that states it.
    """
    result = pipeline.segment(scene(), by_mean, tmp_path / "out", tile=96, engine=pipeline.local())
    assert any(
        "by_mean states no reach" in line and "by_mean.reach = " in line for line in result.lines()
    )

    def stating(block):
        return ndimage.label(block[0] > 110)[0]

    stating.reach = 0
    result = pipeline.segment(
        scene(), stating, tmp_path / "stating", tile=32, halo=8, engine=pipeline.local()
    )
    assert not any("reach" in line for line in result.lines())
    assert result.record["certificates"]["proved"] == result.record["objects"] > 0


def test_other_foreground_in_a_larger_window_is_said(tmp_path):
    """A segmenter whose larger windows show other foreground ends tiles with an error that names it
    and says what to state; one that states a reach, whenever it looks further.
    """
    noise = ndimage.gaussian_filter(np.random.default_rng(0).random((200, 200)), 2)
    image = (150 * (noise - noise.min()) / np.ptp(noise) + np.linspace(0, 100, 200)).astype(
        np.uint8
    )
    how = {"tile": 32, "halo": 8, "engine": pipeline.local()}
    with pytest.raises(
        (SegmenterError, TilesError),
        match=r"by_mean draws other foreground .*states no reach.*by_mean\.reach",
    ):
        pipeline.segment(image, by_mean, tmp_path / "out", **how)

    def stated(block):
        return by_mean(block)

    stated.reach = 3
    with pytest.raises(
        (SegmenterError, TilesError), match=r"looks further than 3 pixels, the reach that it states"
    ):
        pipeline.segment(image, stated, tmp_path / "stated", **how)


def test_every_kind_states_its_reach():
    """No built-in kind of segmenter is on probation, but those whose drawing depends on the window
    say so.
    """
    for name, point in plugins.kinds().items():
        if point.value.startswith("pipeline."):
            kind = point.load()
            assert hasattr(kind, "reach") or kind.windowed, name
    for name in plugins.kinds(plugins.STEPS):
        assert hasattr(plugins.load(name, group=plugins.STEPS), "reach"), name
    assert Contract.of(by_mean).probation
    assert not Contract.of(Smooth(sigma=1.0)).probation


def drawn_by(segmenter: Any, block: np.ndarray) -> list[np.ndarray]:
    """What `reach` is a promise of: classes and seeds, keys, or where objects will be."""
    valid = np.ones(block.shape[1:], bool)
    identity = Contract.of(segmenter).identity
    if identity == "connected":
        found = classes(segmenter, block, valid)
        return [found.kinds, *(part for part in (found.seeds,) if part is not None)]
    return [
        keyed(segmenter, block, valid).keys
        if identity == "keyed"
        else support(segmenter, block, valid)
    ]


@pytest.mark.parametrize("side", ["left", "top"])
@pytest.mark.parametrize("kind", NEAR_SIGHTED)
def test_no_kind_looks_further_than_it_states(kind, side):
    """Whatever is put beyond the reach of a pixel, on any side of it, the pixel's class, key or
    support stays as it is.
    """
    image = np.moveaxis(pictures.immunohistochemistry()[40:240, 60:260], -1, 0)
    options = {**KINDS[kind], "spacing": 6} if kind == "superpixels" else KINDS[kind]
    segmenter = plugins.build({"kind": kind.split()[0], **options}, "segmenter")
    segmenter = fitted_to(segmenter, image, np.ones(image.shape[1:], bool))
    reach, other = (
        Contract.of(segmenter).reach,
        np.random.default_rng(1).integers(0, 256, image.shape).astype(np.uint8),
    )
    middle, axis = 100, -1 if side == "left" else -2
    assert reach < middle
    before = drawn_by(segmenter, image)
    for first in (True, False):
        kept = (np.arange(image.shape[axis]) >= middle) == first
        altered = np.where(kept if axis == -1 else kept[:, None], image, other)
        sure = ndimage.binary_erosion(kept, np.ones(3), reach, border_value=1) if reach else kept
        for mine, now in zip(before, drawn_by(segmenter, altered), strict=True):
            np.testing.assert_array_equal(
                np.compress(sure, mine, axis), np.compress(sure, now, axis)
            )
