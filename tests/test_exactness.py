"""Tiled results against untiled ones, pixel for pixel."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from pipeline.imageops.preprocessing import Background, Denoise, Smooth, Stretch
from pipeline.segmenters import call
from pipeline.segmenters.threshold import Threshold
from pipeline.segmenters.watershed import Watershed
from pipeline.stages import EMPTY, FIRST, SKIPPED
from tests.tiling import in_raster_order, tiled

CASES = settings(max_examples=60, deadline=None)


def whole_image(kinds, neighbours, min_area=0, fill_holes=False, valid=None, seeds=None):
    """The answer without tiles: fill, label each class, drop what is small or has no seed, number
    the rest in raster order.
    """
    structure = ndimage.generate_binary_structure(
        kinds.ndim, 1 if neighbours in (4, 6) else kinds.ndim
    )
    if fill_holes:
        mask = kinds > 0
        ground, _ = ndimage.label(~mask)
        edge = np.ones(mask.shape, bool)
        edge[(slice(1, -1),) * mask.ndim] = False
        outside = set(np.unique(ground[edge | (~valid if valid is not None else False)]))
        kinds = mask | ~np.isin(ground, [0, *outside]) & ~mask
    labels = np.zeros(kinds.shape, np.int64)
    for kind in np.unique(kinds[kinds > 0]):
        labels = np.where(
            kinds == kind, labels.max() + ndimage.label(kinds == kind, structure)[0], labels
        )
    keep = np.bincount(labels.ravel()) >= max(1, min_area)
    if seeds is not None:
        keep &= np.bincount(labels[seeds], minlength=len(keep)) > 0
    keep[0] = False
    return in_raster_order(np.where(keep[labels], labels, 0))


@st.composite
def images(draw, dims=(2, 3)):
    """Noise, blobs and stripes of a few pixels, which make pieces of every shape; uint8."""
    ndim = draw(st.sampled_from(dims))
    shape = tuple(draw(st.integers(1, 22 if ndim == 2 else 9)) for _ in range(ndim))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    noise = rng.random(shape)
    sigma = draw(st.sampled_from([0, 0, 0.7, 1.5]))
    smooth = ndimage.gaussian_filter(noise, sigma) if sigma else noise
    return (255 * (smooth - smooth.min()) / max(np.ptp(smooth), 1e-9)).astype(np.uint8)


@st.composite
def tilings(draw, shape, most=13):
    """A size of tile for each axis, from one pixel up, and an order in which tiles are done."""
    tile = tuple(draw(st.integers(1, most)) for _ in shape)
    number = int(np.prod([-(-n // t) for n, t in zip(shape, tile, strict=True)]))
    return tile, list(np.random.default_rng(draw(st.integers(0, 99))).permutation(number))


@CASES
@given(st.data())
def test_threshold_equals_whole_image(data):
    """A tiled threshold is scipy's labelling of the whole mask, after the same hole filling and
    size filter.
    """
    image = data.draw(images())
    tile, order = data.draw(tilings(image.shape))
    neighbours = data.draw(st.sampled_from((4, 8) if image.ndim == 2 else (6, 26)))
    method = Threshold(
        value=data.draw(st.integers(60, 200)),
        connectivity=neighbours,
        min_area=data.draw(st.sampled_from([0, 2, 6, 20])),
        fill_holes=data.draw(st.booleans()),
    )
    with tempfile.TemporaryDirectory() as folder:
        found = tiled(
            image[None], method, tile, Path(folder), halo=data.draw(st.integers(1, 5)), order=order
        )
    expected = whole_image(image > method.value, neighbours, method.min_area, method.fill_holes)
    np.testing.assert_array_equal(found.labels, expected)
    assert found.certificates == ["proved"] * int(expected.max())


@CASES
@given(st.data())
def test_smoothed_threshold_with_missing_pixels_equals_whole_image(data):
    """Smoothing and pixels that are not valid change nothing of that."""
    image = data.draw(images(dims=(2,))).astype(np.float32)
    image[
        np.random.default_rng(data.draw(st.integers(0, 99))).random(image.shape)
        < data.draw(st.sampled_from([0.02, 0.2]))
    ] = np.nan
    tile, order = data.draw(tilings(image.shape))
    method = Threshold(
        value=120, sigma=data.draw(st.sampled_from([0.5, 1.0])), fill_holes=data.draw(st.booleans())
    )
    valid = ~np.isnan(image)
    with tempfile.TemporaryDirectory() as folder:
        found = tiled(image[None], method, tile, Path(folder), order=order)
    expected = whole_image(
        method.classify(image[None], valid).kinds, 4, 0, method.fill_holes, valid
    )
    np.testing.assert_array_equal(found.labels, expected)


@CASES
@given(st.data())
def test_every_threshold_equals_whole_image(data):
    """Hysteresis, classes and local thresholds too: tiled, they are the labelling of the whole
    image's classes.
    """
    image = data.draw(images())
    tile, order = data.draw(tilings(image.shape))
    value = data.draw(st.integers(60, 200))
    how = data.draw(
        st.sampled_from(
            [
                {"value": value, "weak": value - 40},
                {"value": value, "weak": value + 40, "dark": True},
                {"levels": (80, value + 25)},
                {"levels": (80, value + 25), "dark": True},
                {"method": "sauvola", "window": 5, "spread": 80.0},
                {"method": "niblack", "window": 3, "k": -0.3},
                {"method": "local_mean", "window": 7, "offset": 2.0},
                {"method": "local_gaussian", "window": 5},
                {"value": value, "channel": "lightness"},
            ]
        )
    )
    neighbours = data.draw(st.sampled_from((4, 8) if image.ndim == 2 else (6, 26)))
    fill_holes = data.draw(st.booleans()) and "levels" not in how
    sigma, min_area = (
        data.draw(st.sampled_from([0.0, 0.0, 0.6])),
        data.draw(st.sampled_from([0, 3])),
    )
    method = Threshold(
        **how, connectivity=neighbours, min_area=min_area, fill_holes=fill_holes, sigma=sigma
    )
    block = np.stack([image, image[::-1], image[..., ::-1]]) if "channel" in how else image[None]
    with tempfile.TemporaryDirectory() as folder:
        found = tiled(block, method, tile, Path(folder), order=order)
    valid = np.ones(image.shape, bool)
    drawn = method.classify(block, valid)
    np.testing.assert_array_equal(
        found.labels, whole_image(drawn.kinds, neighbours, min_area, fill_holes, valid, drawn.seeds)
    )
    if not (min_area or fill_holes):
        np.testing.assert_array_equal(found.labels, method(block))


@CASES
@given(st.data())
def test_steps_and_then_a_threshold_or_a_watershed_equal_whole_image(data):
    """A chain of steps before segmenting changes nothing of that: their reach adds up."""
    image = data.draw(images(dims=(2,)))
    tile, order = data.draw(tilings(image.shape))
    possible = [
        Smooth(sigma=0.5),
        Denoise(radius=1),
        Background(radius=3),
        Stretch(limits=((10.0, 240.0),)),
    ]
    steps = data.draw(st.lists(st.sampled_from(possible), min_size=1, max_size=3))
    if not isinstance(steps[-1], Stretch):
        steps.append(Stretch(limits=((-20.0, 235.0),)))
    value = data.draw(st.floats(0.1, 0.6))
    method = data.draw(
        st.sampled_from([Threshold(value=value), Watershed(threshold=value, min_distance=2)])
    )
    with tempfile.TemporaryDirectory() as folder:
        found = tiled(image[None], method, tile, Path(folder), order=order, halo=2, steps=steps)
    block, valid = image[None], np.ones(image.shape, bool)
    for step in steps:
        block = call(step, block, valid)
    np.testing.assert_array_equal(found.labels, in_raster_order(method(block)))
    assert set(found.certificates) <= {"proved"}


def test_a_weak_edge_across_ten_tiles(tmp_path):
    """A weak line over ten tiles is kept for one strong pixel in the last; one that has none
    anywhere goes.
    """
    image = np.zeros((5, 200), np.uint8)
    image[1], image[3], image[1, 195] = 50, 50, 200
    found = tiled(image[None], Threshold(value=100, weak=20), (5, 20), tmp_path)
    np.testing.assert_array_equal(np.unique(found.labels[1]), [1])
    assert not found.labels[3].any()
    assert found.certificates == ["proved"]


@CASES
@given(st.data())
def test_watershed_with_room_equals_whole_image(data):
    """A tiled watershed that may read as far as it needs is the untiled watershed, every object
    proved.
    """
    image = data.draw(images())
    tile, order = data.draw(tilings(image.shape))
    method = Watershed(
        threshold=data.draw(st.integers(90, 160)),
        sigma=data.draw(st.sampled_from([0.0, 0.0, 0.5])),
        markers=data.draw(st.sampled_from(["distance", "intensity"])),
        min_distance=data.draw(st.integers(1, 4)),
        max_hole=data.draw(st.sampled_from([0, 0, 3])),
        surface=data.draw(st.sampled_from([None, None, "gradient", "intensity"])),
        compactness=data.draw(st.sampled_from([0.0, 0.0, 20.0])),
        seeds=data.draw(
            st.none()
            | st.lists(
                st.tuples(*(st.integers(0, n - 1) for n in image.shape)), min_size=1, max_size=12
            )
        ),
    )
    with tempfile.TemporaryDirectory() as folder:
        found = tiled(
            image[None], method, tile, Path(folder), halo=data.draw(st.integers(1, 6)), order=order
        )
    np.testing.assert_array_equal(found.labels, in_raster_order(method(image[None])))
    assert set(found.certificates) <= {"proved"}


@CASES
@given(st.data())
def test_proved_objects_of_a_confined_watershed_are_right(data):
    """Where windows may not grow, every object that is called proved is an object of the untiled
    watershed, pixel for pixel.
    """
    image = data.draw(images(dims=(2,)))
    tile, order = data.draw(tilings(image.shape))
    method = Watershed(
        threshold=data.draw(st.integers(90, 160)), min_distance=data.draw(st.integers(1, 3))
    )
    with tempfile.TemporaryDirectory() as folder:
        found = tiled(
            image[None],
            method,
            tile,
            Path(folder),
            halo=data.draw(st.integers(1, 4)),
            max_halo=4,
            order=order,
        )
    untiled = method(image[None])
    for number, certificate in enumerate(found.certificates, start=1):
        if certificate == "proved":
            mine = found.labels == number
            (name,) = np.unique(untiled[mine])
            np.testing.assert_array_equal(mine, untiled == name)


def plain_function(block):
    """A user's own segmenter, which says of itself only that no other pixel changes whether a pixel
    is foreground.
    """
    return ndimage.label(block[0] > 120)[0]


plain_function.reach = 0


@CASES
@given(st.data())
def test_any_function_equals_whole_image(data):
    """A plain function that draws within connected foreground gives the untiled result too, if it
    states its reach.
    """
    image = data.draw(images(dims=(2,)))
    tile, order = data.draw(tilings(image.shape))
    with tempfile.TemporaryDirectory() as folder:
        found = tiled(
            image[None],
            plain_function,
            tile,
            Path(folder),
            halo=data.draw(st.integers(1, 6)),
            order=order,
        )
    untiled, proved = plain_function(image[None]), 0
    for number, certificate in enumerate(found.certificates, start=1):
        if certificate == "proved":
            mine, proved = found.labels == number, proved + 1
            (name,) = np.unique(untiled[mine])
            np.testing.assert_array_equal(mine, untiled == name)
    torn = [
        k
        for k in range(1, untiled.max() + 1)
        if ndimage.label(untiled > 0, np.ones((3, 3)))[1] == untiled.max()
    ]
    if (
        torn or not untiled.any()
    ):  # where no two objects touch at a corner, each is a piece of its own, and all are proved
        assert proved == found.number == untiled.max()


def test_corner_contact_is_one_object(tmp_path):
    """An object that passes from a tile to its diagonal neighbour only is one object with 8
    neighbours, and two with 4.
    """
    image = np.zeros((8, 8), np.uint8)
    image[2:4, 2:4] = image[4:6, 4:6] = 255
    for neighbours, number in ((8, 1), (4, 2)):
        found = tiled(
            image, Threshold(value=0, connectivity=neighbours), (4, 4), tmp_path / str(neighbours)
        )
        assert found.number == number
    volume = np.zeros((1, 4, 4, 4), np.uint8)
    volume[0, 1, 1, 1] = volume[0, 2, 2, 2] = 1
    assert (
        tiled(volume, Threshold(value=0, connectivity=26), (2, 2, 2), tmp_path / "3d").number == 1
    )


def pairs_on_seams(tile, number):
    """Discs that touch in twos, a pair on each crossing of seams and on each side of a tile: their
    pixels, and how many there are.
    """
    size = tile * number
    rows, columns = np.mgrid[:size, :size]
    image, discs = np.zeros((size, size), np.uint8), 0
    for r in range(tile // 2, size - tile // 4, tile // 2):
        for c in range(tile // 2, size - tile // 4, tile // 2):
            for shift in (-6, 6):
                image[(rows - r) ** 2 + (columns - c - shift) ** 2 <= 49] = 200
                discs += 1
    return image, discs


def test_touching_pairs_on_seams_stay_apart(tmp_path):
    """Hundreds of touching pairs, placed on seams and on corners, are two objects each."""
    image, discs = pairs_on_seams(64, 9)
    method = Watershed(threshold=0, min_distance=4)
    assert discs > 500
    for halo in (8, 40):
        for room in (halo, 1000):
            found = tiled(
                image, method, (64, 64), tmp_path / f"{halo} {room}", halo=halo, max_halo=room
            )
            assert found.number == discs
            np.testing.assert_array_equal(found.labels, in_raster_order(method(image[None])))


def sheet_of_cells(size, pitch):
    """Bright middles on grey ground that is all foreground: cells that all touch, so that no window
    holds the piece they lie in.
    """
    rng = np.random.default_rng(1)
    middles = np.zeros((size, size))
    for r in range(pitch // 2, size, pitch):
        for c in range(pitch // 2, size, pitch):
            dr, dc = rng.integers(-1, 2, 2)
            middles[r + dr, c + dc] = 1
    return (
        60
        + 150
        * ndimage.gaussian_filter(middles, pitch / 5)
        / ndimage.gaussian_filter(middles, pitch / 5).max()
    ).astype(np.float32)


def test_cells_of_a_sheet_stay_apart_by_evidence(tmp_path):
    """Where nothing can be proved, windows that draw the same agree: the labels are the untiled
    ones, and none is called proved.
    """
    image = sheet_of_cells(240, 12)
    method = Watershed(threshold=50, markers="intensity", min_distance=3)
    untiled = in_raster_order(method(image[None]))
    assert untiled.max() == 400
    found = tiled(image, method, (60, 60), tmp_path, halo=20, max_halo=30)
    np.testing.assert_array_equal(found.labels, untiled)
    assert set(found.certificates) == {"agreed"}


def test_windows_that_disagree_are_disputed(tmp_path):
    """Of a segmenter that draws cells smaller in some windows, those on seams are joined one to one
    by evidence, and called disputed.
    """
    image = sheet_of_cells(240, 12)
    method = Watershed(threshold=50, markers="intensity", min_distance=3)

    def moody(block):
        labels = method(block)
        eroded = (ndimage.minimum_filter(labels, 3) == labels) & (
            ndimage.maximum_filter(labels, 3) == labels
        )
        return np.where(eroded | (int(block[0, 0, 0] * 1e3) % 2), labels, 0)

    found = tiled(image, moody, (60, 60), tmp_path, halo=20, max_halo=30)
    assert found.number == 400
    middles = ndimage.maximum_position(image, in_raster_order(method(image[None])), range(1, 401))
    assert len({found.labels[place] for place in middles}) == 400
    assert "disputed" in found.certificates


def test_object_larger_than_tile_and_halo_is_one(tmp_path):
    """A disc many tiles wide is one object, of a threshold and of a watershed."""
    rows, columns = np.mgrid[:200, :200]
    image = (((rows - 100) ** 2 + (columns - 95) ** 2) < 80**2).astype(np.uint8)
    assert tiled(image, Threshold(value=0), (16, 16), tmp_path / "a").number == 1
    assert (
        tiled(image, Watershed(threshold=0), (32, 32), tmp_path / "b", halo=8, max_halo=300).number
        == 1
    )


@CASES
@given(st.data())
def test_mixed_routes_never_fuse_and_never_claim_too_much(data):
    """Where segmenters meet, an object that reaches a tile of another route is never called proved
    beyond its own tiles.
    """
    image = data.draw(images(dims=(2,)))
    tile, order = data.draw(tilings(image.shape, most=9))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    methods = (Threshold(value=120), Watershed(threshold=120, min_distance=2))
    routes = rng.choice([SKIPPED, FIRST, FIRST + 1], len(order))
    with tempfile.TemporaryDirectory() as folder:
        found = tiled(image[None], methods, tile, Path(folder), halo=3, order=order, routes=routes)
        route_of = np.zeros(image.shape, int)
        for t in range(len(found.run.grid)):
            route_of[found.run.grid.core(t).slices] = routes[t]
    np.testing.assert_array_equal(found.labels > 0, (image > 120) & (route_of >= FIRST))
    untiled = [in_raster_order(method(image[None])) for method in methods]
    for number, certificate in enumerate(found.certificates, start=1):
        mine = found.labels == number
        if certificate == "proved":
            (route,) = np.unique(route_of[mine])
            (name,) = np.unique(untiled[route - FIRST][mine])
            np.testing.assert_array_equal(mine, untiled[route - FIRST] == name)


def test_empty_tiles_have_no_labels(tmp_path):
    """A tile without a valid pixel is not segmented, and what lies beside it is proved."""
    image = np.full((20, 20), np.nan, np.float32)
    image[:10] = 1
    image[3:6, 3:6] = 9
    found = tiled(
        image, Threshold(value=5), (10, 10), tmp_path, routes=[FIRST, FIRST, EMPTY, EMPTY]
    )
    assert (found.number, found.certificates) == (1, ["proved"])


@pytest.mark.parametrize("tile", [(7, 9), (16, 16), (40, 5)], ids=str)
def test_tables_do_not_depend_on_the_tiling(tile, tmp_path):
    """Areas, boxes, anchors and sums are the same for any tiling, to the last bit, for
    floats too.
    """
    rng = np.random.default_rng(3)
    image = np.stack(
        [ndimage.gaussian_filter(rng.random((40, 41)), 2), rng.normal(size=(40, 41)) * 1e6]
    ).astype(np.float32)
    from pipeline.imageops.region_sums import means
    from pipeline.stages.measure import gather

    def table(size, name):
        run = tiled(image, Threshold(value=0.5), size, tmp_path / name).run
        found = []
        for slab, _ in enumerate(run.grid.slabs()):
            sums, about = gather(run, slab)
            mean, deviation = means(sums)
            rows = np.argsort(about["id"])
            columns = (
                sums.area,
                sums.anchor,
                sums.low,
                sums.high,
                sums.place,
                sums.minimum,
                sums.maximum,
                mean,
                deviation,
            )
            found.append([column[rows] for column in (about["id"], *columns)])
        return [np.concatenate(parts) for parts in zip(*found, strict=True)]

    for mine, other in zip(table(tile, "tiled"), table((40, 41), "whole"), strict=True):
        np.testing.assert_array_equal(mine, other)
