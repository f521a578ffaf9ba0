"""Superpixels and region graphs: against other libraries, and tiled against untiled."""

from __future__ import annotations

import heapq
import tempfile
from dataclasses import replace
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage import data as pictures
from skimage import graph as rags
from skimage.measure import label
from skimage.segmentation import slic
from sklearn.metrics import adjusted_rand_score

import pipeline
from pipeline.errors import JobError
from pipeline.image.frame import Frame
from pipeline.imageops import region_graphs
from pipeline.imageops.region_graphs import Graph
from pipeline.segmenters import fitted_to
from pipeline.segmenters.merged_superpixels import FINE, RegionGraph
from pipeline.segmenters.superpixel import Superpixels
from pipeline.stages import FIRST, SKIPPED
from tests.test_exactness import tilings
from tests.tiling import in_raster_order, tiled


def in_order(keys):
    """Keys of 64 bits as labels, in raster order."""
    names, small = np.unique(keys, return_inverse=True)
    return in_raster_order(small.reshape(keys.shape) + (names[0] != 0))


def astronaut():
    return np.moveaxis(pictures.astronaut(), -1, 0)


def explained(image, labels):
    """The share of the image's variance that the means of patches explain (larger is better)."""
    total = means = 0.0
    for band in image.astype(float):
        mean = ndimage.mean(band, labels, np.arange(1, labels.max() + 1))
        means += ((mean[labels - 1] - band.mean()) ** 2).sum()
        total += ((band - band.mean()) ** 2).sum()
    return means / total


def test_patches_are_as_good_as_scikit_images():
    """Of as many patches, ours explain as much of the image as scikit-image's; each hangs together
    and is of about a cell's size.
    """
    image = astronaut()
    ours = in_order(Superpixels(spacing=16, compactness=10)(image))
    theirs = slic(
        pictures.astronaut(),
        n_segments=len(np.unique(ours)),
        compactness=10 / 100 * 255 / 10,
        convert2lab=False,
        start_label=1,
    )
    assert explained(image, ours) > 0.98 * explained(image, theirs)
    assert len(np.unique(label(ours, connectivity=1))) == len(np.unique(ours)) == 32 * 32
    assert np.bincount(ours.ravel())[1:].max() < 9 * 256


@st.composite
def scenes(draw, dims=(2, 3)):
    """Noise over smooth patches, of one or two bands, some with missing pixels; float32
    or uint8.
    """
    ndim = draw(st.sampled_from(dims))
    shape = tuple(draw(st.integers(1, 40 if ndim == 2 else 11)) for _ in range(ndim))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    image = 200 * ndimage.gaussian_filter(
        rng.random((draw(st.integers(1, 2)), *shape)), (0, *(2,) * ndim)
    ) + 20 * rng.random(shape)
    if draw(st.booleans()):
        return image.astype(np.uint8)
    image = image.astype(np.float32)
    image[:, rng.random(shape) < draw(st.sampled_from([0, 0.05, 0.5]))] = np.nan
    return image


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_tiled_superpixels_equal_whole_image(data):
    """Tiled, patches are those of the whole image, in two and three dimensions, with missing pixels
    and after smoothing.
    """
    image = data.draw(scenes())
    tile, order = data.draw(tilings(image.shape[1:], most=20))
    method = Superpixels(
        spacing=data.draw(st.integers(2, 5)),
        iterations=data.draw(st.integers(0, 3)),
        compactness=data.draw(st.sampled_from([0.5, 10.0, 100.0])),
        sigma=data.draw(st.sampled_from([0.0, 0.5])),
    )
    valid = np.isfinite(image).all(axis=0)
    method = fitted_to(method, image, valid)
    with tempfile.TemporaryDirectory() as folder:
        found = tiled(image, method, tile, Path(folder), order=order)
    np.testing.assert_array_equal(found.labels, in_order(method(np.nan_to_num(image), valid)))
    assert set(found.certificates) <= {"proved"}


def regions(method, image, valid):
    """The untiled region graph: superpixels of the whole image, their graph pixel by
    pixel, merged.
    """
    keys = in_order(method(image, valid))
    nodes = method.nodes(image, valid)
    number = int(keys.max())
    sums = np.stack(
        [ndimage.sum_labels(f, keys, np.arange(1, number + 1)) for f in nodes], axis=1
    ).astype(np.int64)
    area = np.bincount(keys.ravel(), minlength=number + 1)[1:]
    pairs = set()
    for axis in range(keys.ndim):
        a, b = np.moveaxis(keys, axis, 0)[:-1].ravel(), np.moveaxis(keys, axis, 0)[1:].ravel()
        pairs |= {
            (min(p), max(p))
            for p in zip(a.tolist(), b.tolist(), strict=True)
            if p[0] != p[1] and min(p) > 0
        }
    pairs = np.array(sorted(pairs), np.int64).reshape(-1, 2) - 1
    # Names of regions do not matter, but which superpixel comes first breaks ties: order by key as
    # the pipeline does.
    return keys, Graph(area, sums, pairs)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_tiled_regions_equal_whole_image(data):
    """The region graph of an image is the same in one tile and in many, whatever cuts it."""
    image = data.draw(scenes())
    shape = image.shape[1:]
    tile, order = data.draw(tilings(shape, most=20))
    method = RegionGraph(
        spacing=data.draw(st.integers(2, 4)),
        iterations=2,
        cut=data.draw(st.sampled_from(["hierarchical", "felzenszwalb", "threshold"])),
        threshold=data.draw(st.sampled_from([0.0, 8.0, 30.0])),
        scale=data.draw(st.sampled_from([10.0, 300.0])),
        min_area=data.draw(st.sampled_from([0, 10])),
    )
    valid = np.isfinite(image).all(axis=0)
    method = fitted_to(method, image, valid)
    with tempfile.TemporaryDirectory() as folder:
        one = tiled(image, method, shape, Path(folder) / "one")
        many = tiled(image, method, tile, Path(folder) / "many", order=order)
    np.testing.assert_array_equal(many.labels, one.labels)
    keys, graph = regions(method, np.nan_to_num(image), valid)
    if len(graph.area) and method.cut != "hierarchical":  # whose ties go by key
        merged = np.concatenate([[0], method.merge(graph) + 1])[keys]
        sizes = np.bincount(merged.ravel(), minlength=1)
        np.testing.assert_array_equal(
            one.labels, in_raster_order(np.where(sizes[merged] >= method.min_area, merged, 0))
        )


@pytest.mark.parametrize("cut", ["hierarchical", "felzenszwalb", "threshold"])
def test_a_picture_tiled_one_by_one_and_seven_by_five(tmp_path, cut):
    """A real picture gives the same regions in one tile and in 7 x 5 tiles, from file to file."""
    image = astronaut()[:, :300, :310]
    with pipeline.local() as engine:
        found = [
            pipeline.segment(
                image,
                RegionGraph(cut=cut, spacing=8, iterations=3),
                tmp_path / str(n),
                tile=tile,
                engine=engine,
            )
            for n, tile in enumerate((400, [43, 62]))
        ]
    labels = [zarr.open_array(tmp_path / str(n) / "labels.zarr" / "0")[:] for n in range(2)]
    assert found[1].record["plan"]["tiles"]["grid"] == [7, 5]
    np.testing.assert_array_equal(labels[0], labels[1])
    assert 5 < found[0].record["objects"] < 1400
    assert (
        found[0]
        .objects.drop(columns="tiles", errors="ignore")
        .equals(found[1].objects.drop(columns="tiles", errors="ignore"))
    )


def rag(keys, image):
    """scikit-image's graph of mean colours."""
    return rags.rag_mean_color(np.moveaxis(image, 0, -1), keys, connectivity=1)


def as_graph(keys, image):
    """The same as ours."""
    theirs = rag(keys, image)
    nodes = sorted(theirs.nodes)
    pairs = np.array(sorted((min(e), max(e)) for e in theirs.edges), np.int64) - nodes[0]
    area = np.array([theirs.nodes[n]["pixel count"] for n in nodes], np.int64)
    sums = np.array([theirs.nodes[n]["total color"] for n in nodes]).astype(np.int64)
    return theirs, Graph(area, sums, pairs)


def test_threshold_cut_is_scikit_images():
    """Cutting the graph at a contrast is what scikit-image's cut_threshold does."""
    image = astronaut()
    keys = in_order(Superpixels(spacing=16, iterations=2)(image))
    theirs, ours = as_graph(keys, image)
    expected = rags.cut_threshold(keys, theirs, 25, in_place=False)
    found = np.concatenate([[0], region_graphs.below(ours, 25) + 1])[keys]
    np.testing.assert_array_equal(in_raster_order(found), in_raster_order(expected + 1))


def test_hierarchical_merging_is_the_plain_algorithm():
    """Merging by a heap is what is found by looking through all pairs for the most alike, again and
    again.
    """
    rng = np.random.default_rng(5)
    for _ in range(20):
        number = int(rng.integers(2, 30))
        net = nx.gnp_random_graph(number, 0.25, seed=int(rng.integers(1000)))
        pairs = np.array(sorted((min(e), max(e)) for e in net.edges), np.int64).reshape(-1, 2)
        area = rng.integers(1, 9, number)
        sums = rng.integers(0, 1000, (number, 2)) * area[:, None]
        found = region_graphs.hierarchical(Graph(area, sums, pairs), 300.0)
        sets = {k: {k} for k in range(number)}
        while True:
            mean = {k: sums[list(s)].sum(axis=0) / area[list(s)].sum() for k, s in sets.items()}
            of = {m: k for k, s in sets.items() for m in s}
            touching = {tuple(sorted((of[a], of[b]))) for a, b in pairs.tolist() if of[a] != of[b]}
            heap = [(float(np.linalg.norm(mean[a] - mean[b])), a, b) for a, b in touching]
            heapq.heapify(heap)
            if not heap or heap[0][0] >= 300:
                break
            _, a, b = heap[0]
            sets[a] |= sets.pop(b)
        np.testing.assert_array_equal(
            found, np.array([sorted(sets).index(of[k]) for k in range(number)])
        )


def test_felzenszwalb_is_the_plain_algorithm():
    """Merging by falling likeness is the published predicate, evaluated anew for every edge."""
    rng = np.random.default_rng(6)
    for _ in range(20):
        number = int(rng.integers(2, 30))
        net = nx.gnp_random_graph(number, 0.3, seed=int(rng.integers(1000)))
        pairs = np.array(sorted((min(e), max(e)) for e in net.edges), np.int64).reshape(-1, 2)
        area, sums = rng.integers(1, 9, number), rng.integers(0, 1000, (number, 1))
        graph = Graph(area, sums, pairs)
        found = region_graphs.felzenszwalb(graph, 200.0)
        sets, within = [{k} for k in range(number)], [0.0] * number
        for weight, a, b in sorted(zip(graph.distances().tolist(), *pairs.T.tolist(), strict=True)):
            i, j = (next(n for n, s in enumerate(sets) if m in s) for m in (a, b))
            if i != j and all(
                weight <= within[n] + 200 / sum(area[m] for m in sets[n]) for n in (i, j)
            ):
                sets[i] |= sets[j]
                within[i] = weight
                del sets[j], within[j]
        sets.sort(key=min)
        np.testing.assert_array_equal(
            found, [next(n for n, s in enumerate(sets) if k in s) for k in range(number)]
        )


def test_regions_find_what_is_there():
    """Three covers with noise are three regions, though a dark half makes each of them two."""
    rng = np.random.default_rng(0)
    cover = np.digitize(ndimage.gaussian_filter(rng.random((120, 160)), 12), [0.49, 0.51])
    image = np.array([30, 120, 210])[cover] + rng.normal(0, 6, cover.shape)
    image[:, :80] -= 300
    with tempfile.TemporaryDirectory() as folder:
        method = fitted_to(
            RegionGraph(spacing=6, threshold=8), image[None], np.ones(image.shape, bool)
        )
        found = tiled(image[None], method, (50, 50), Path(folder))
    parts = label(cover + 1 + 3 * (np.arange(160) < 80), connectivity=1)
    assert adjusted_rand_score(parts.ravel(), found.labels.ravel()) > 0.9


@pytest.mark.parametrize("cut", ["hierarchical", "felzenszwalb", "threshold"])
def test_regions_beside_tiles_of_another_route(tmp_path, cut):
    """Superpixels that lie whole in tiles left out are no nodes of the graph; the others are merged
    as ever.
    """
    image = np.random.default_rng(1).random((40, 60))
    method = RegionGraph(cut=cut, spacing=4, iterations=2, gain=1.0, threshold=1e9, scale=1e9)
    found = tiled(
        image[None],
        method,
        (20, 20),
        tmp_path,
        routes=[FIRST, SKIPPED, FIRST, SKIPPED, SKIPPED, FIRST],
    )
    expected = np.zeros((40, 60), int)
    expected[:20, :20], expected[:, 40:] = 1, 2
    np.testing.assert_array_equal(found.labels, expected)


def test_little_to_find():
    """A constant image has square patches and is one region; what is not valid belongs to none."""
    flat = np.full((1, 12, 12), 7, np.uint8)
    np.testing.assert_array_equal(
        in_order(Superpixels(spacing=4)(flat)),
        np.arange(9).reshape(3, 3).repeat(4, 0).repeat(4, 1) + 1,
    )
    valid = np.ones((12, 12), bool)
    valid[:, 5] = False
    assert (Superpixels(spacing=4)(flat, valid)[:, 5] == 0).all()
    method = replace(RegionGraph(spacing=4), gain=1.0)
    keys, graph = regions(method, flat, np.ones((12, 12), bool))
    assert set(method.merge(graph)) == {0}
    assert graph.sums.sum() == 7 * 144 * FINE
    assert keys.max() == 9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spacing": 1}, "spacing: 1; allowed: 2 to 1000"),
        ({"iterations": -1}, "iterations: -1; allowed: 0 to 50"),
        ({"compactness": 0}, "compactness: 0; allowed: more than 0"),
        ({"bands": ()}, "bands: none"),
        ({"lab": True, "bands": (1,)}, "lab and bands are both given"),
        ({"cut": "ncut"}, "cut: 'ncut'; .*hierarchical"),
        ({"threshold": -1}, "threshold: -1; allowed: 0 or more"),
        ({"scale": -1}, "scale: -1; allowed: 0 or more"),
    ],
    ids=str,
)
def test_refusals(options, message):
    """What cannot be is refused, naming the option, what was given and what is allowed."""
    with pytest.raises(JobError, match=message):
        RegionGraph(**options)


@pytest.mark.parametrize("shape", [(40, 60), (6, 14, 22)])
@pytest.mark.parametrize("axis", [-1, -2])
def test_keys_do_not_collide_far_from_the_first_pixel(shape, axis):
    """However far out a block lies, its patches are those of the first block, and no key is that of
    a patch elsewhere on the lattice.
    """
    image = np.random.default_rng(0).integers(0, 256, (1, *shape)).astype(np.uint8)
    valid = (
        np.random.default_rng(1).random(shape) < 0.8
    )  # which leaves orphans, named by their pixels
    superpixels = fitted_to(Superpixels(spacing=2, iterations=1), image, valid)
    here = superpixels(image, valid)
    seen = set(np.unique(here[valid]).tolist())
    for exponent in (19, 20, 21) if len(shape) == 3 else (19, 20, 21, 24, 30):
        origin = [0] * len(shape)
        origin[axis] = 1 << exponent
        far = superpixels(image, valid, tuple(origin))
        np.testing.assert_array_equal(in_order(far), in_order(here))
        more = set(np.unique(far[valid]).tolist())
        assert not seen & more
        assert min(more) > 0
        seen |= more


def test_images_beyond_what_keys_can_tell_apart_are_refused():
    """Where keys would collide, the image is refused before any work."""
    frame = Frame((1 << 31, 1 << 31), ("1",), "uint8")
    assert Superpixels().suited(frame) == Superpixels()
    with pytest.raises(
        JobError,
        match=r"superpixels of an image of 2147483649 x 5; allowed: up to 2147483648 x 2147483648",
    ):
        Superpixels().suited(replace(frame, shape=((1 << 31) + 1, 5)))
    with pytest.raises(JobError, match=r"allowed: up to 262144 x 4194304 x 4194304"):
        RegionGraph().suited(replace(frame, shape=(5, 1 << 23, 5)))
