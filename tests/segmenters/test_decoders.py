"""From a network's channels to classes and objects, and from labels to channels: against other
implementations and on real truths.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, sparse, special

from pipeline.errors import JobError, SegmenterError
from pipeline.evaluation.metrics import Contingency, matched, overlaps
from pipeline.imageops.components import pieces
from pipeline.segmenters import takes_part
from pipeline.segmenters.decoders.affinities import Affinities, Boundary, Flows, Semantic
from pipeline.segmenters.decoders.channels import softmax
from pipeline.segmenters.decoders.flow_loops import heat
from tests.tiling import in_raster_order, tiled

OBJECTS = (Boundary(), Flows(), Affinities())
VOLUMES = (Boundary(min_depth=0.05), Affinities(dimensions=3))
LOGITS = {Boundary: [0, 1], Flows: [0], Affinities: [0, 1, 2, 3]}


def noise(decoder, seed, shape):
    """Smooth random channels, with many pieces of support that nearly touch; some that a network
    would never give.
    """
    rng = np.random.default_rng(seed)
    rough = np.stack(
        [
            ndimage.gaussian_filter(rng.normal(size=shape), rng.uniform(0, 2))
            for _ in range(decoder.channels)
        ]
    )
    channels = (
        rough / rough.std(axis=tuple(range(1, rough.ndim)), keepdims=True) * rng.uniform(0.5, 3)
    ).astype(np.float32)
    channels[0] -= rng.uniform(0, 1)
    channels[rng.integers(decoder.channels)][rng.random(shape) < 0.02] = rng.choice(
        [0.0, np.nan, -np.inf, 1e30]
    )
    return channels


def ideal(decoder, truth):
    """The channels that a network should give for a truth, as sure of itself as networks are."""
    channels = decoder.targets(truth)
    logits = [k for k in LOGITS[type(decoder)] if k < len(channels)]
    channels[logits] = np.nan_to_num(12 * channels[logits] - 6, nan=-6)
    return channels


def recovered(decoder, truth):
    """How many objects of a truth come back from its ideal channels at an IoU above 0.5, how many
    there are, and how many are drawn.
    """
    drawn = decoder(ideal(decoder, truth), np.ones(truth.shape, bool))
    overlap = overlaps(Contingency.of(drawn, truth))
    return len(matched(overlap, np.nextafter(0.5, 1))), len(overlap.truth), len(overlap.ours)


def cells(seed, shape, number):
    """Cells that fill a picture and touch each other, nearest to points, and some background."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, 1, (number, len(shape))) * shape
    places = np.moveaxis(np.indices(shape), 0, -1)
    far = np.linalg.norm(places[..., None, :] - points, axis=-1)
    return np.where(far.min(axis=-1) < rng.uniform(3, 30), far.argmin(axis=-1) + 1, 0)


@settings(max_examples=60)
@given(
    st.integers(0, 10**6),
    st.integers(2, 5),
    st.sampled_from([(6, 7), (3, 4, 5)]),
    st.one_of(st.none(), st.integers(0, 1)),
)
def test_classes_are_the_most_probable(seed, number, shape, background):
    """The class is the greatest channel, the first of equals; the background's is 0, the others are
    counted from 1; 0 where not valid.
    """
    rng = np.random.default_rng(seed)
    channels, valid = (
        rng.integers(-3, 3, (number, *shape)).astype(np.float32),
        rng.random(shape) > 0.2,
    )
    kinds = Semantic(background=background).classify(channels, valid)
    names = [c for c in range(number) if c != background]
    for place in np.ndindex(shape):
        best = int(np.argmax(channels[(slice(None), *place)]))
        assert kinds[place] == (
            0 if best == background or not valid[place] else names.index(best) + 1
        )


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.lists(st.floats(0, 1), min_size=2, max_size=5))
def test_classes_reach_their_thresholds(seed, thresholds):
    """With thresholds, the class is the most probable of those whose probability, as SciPy finds
    it, reaches its threshold.
    """
    channels = (
        np.random.default_rng(seed).normal(size=(len(thresholds), 6, 7)).astype(np.float32) * 2
    )
    kinds = Semantic(thresholds=tuple(thresholds)).classify(channels, np.ones((6, 7), bool))
    probable = special.softmax(channels.astype(float), axis=0)
    clear = (np.abs(probable - np.reshape(thresholds, (-1, 1, 1))) > 1e-9).all(axis=0)
    taken = np.where(probable >= np.reshape(thresholds, (-1, 1, 1)), probable, -1)
    np.testing.assert_array_equal(
        kinds[clear], np.where(taken.max(axis=0) >= 0, taken.argmax(axis=0), 0)[clear]
    )


@pytest.mark.parametrize("threshold", [None, 0.1, 0.9])
def test_one_channel_is_one_class(threshold):
    """Of one channel, class 1 is where the sigmoid is above the threshold; a NaN is background."""
    logits = np.append(np.linspace(-5, 5, 60), np.nan).astype(np.float32).reshape(1, 1, -1)
    kinds = Semantic(threshold=threshold).classify(logits, np.ones((1, 61), bool))
    np.testing.assert_array_equal(
        kinds[0], special.expit(logits[0, 0].astype(float)) > (threshold or 0.5)
    )
    assert not Semantic().classify(
        np.stack([logits[0] * 0 - 9, logits[0]]), np.ones((1, 61), bool)
    )[0, -1]
    assert not Semantic().classify(np.array([[[0.0]], [[np.nan]]]), np.ones((1, 1), bool)).any()


@pytest.mark.parametrize("background", [0, 1, 2, None])
def test_classes_come_back_from_their_targets(background):
    """The targets of classes name the channel of each; what is not known, or has no channel, is
    NaN.
    """
    labels = np.array([[-1, 0, 1, 2, 3]]) if background is None else np.array([[-1, 0, 1, 2]])
    target = Semantic(background=background).targets(labels)
    assert target.dtype == np.float32
    known = np.isfinite(target[0])
    np.testing.assert_array_equal(known, labels >= (background is None))
    channels = np.arange(3)[:, None, None] == target
    np.testing.assert_array_equal(
        Semantic(background=background).classify(channels * 1.0, known)[known], labels[known]
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Semantic(threshold=1.0),
            "threshold: 1.0; allowed: a probability above 0 and below 1",
        ),
        (
            lambda: Semantic(thresholds=(0.5, 1.5)),
            r"thresholds\[1\]: 1.5; allowed: a probability, from 0 to 1",
        ),
        (
            lambda: Semantic(thresholds=(0.5,)),
            r"thresholds: \(0.5,\); allowed: one for each of two channels or more",
        ),
        (
            lambda: Semantic(threshold=0.4, thresholds=(0.5, 0.5)),
            "threshold: it is for one channel, and thresholds for several",
        ),
        (
            lambda: Semantic(background=-1),
            "background: -1; allowed: a channel's number, from 0, or none",
        ),
        (lambda: Boundary(threshold=0.0), "threshold: 0.0; allowed: a probability"),
        (lambda: Boundary(boundary=-1.0), "boundary: -1.0; allowed: 0 or more"),
        (lambda: Boundary(min_depth=float("nan")), "min_depth: nan; allowed: 0 or more"),
        (
            lambda: Boundary(min_distance=0),
            "min_distance: 0; allowed: a whole number of pixels, from 1",
        ),
        (lambda: Flows(steps=0), "steps: 0; allowed: a whole number, from 1"),
        (
            lambda: Flows(min_distance=True),
            "min_distance: True; allowed: a whole number of pixels, from 1",
        ),
        (lambda: Flows(min_depth=-1.0), "min_depth: -1.0; allowed: 0 or more"),
        (lambda: Affinities(joined=2.0), "joined: 2.0; allowed: a probability"),
        (lambda: Affinities(dimensions=4), "dimensions: 4; allowed: 2 or 3"),
        (
            lambda: Flows().targets(np.zeros((2, 3, 4), int)),
            r"labels: int64 of \(2, 3, 4\); allowed: integers, \(row, column\)",
        ),
        (
            lambda: Boundary().targets(np.zeros((3, 4))),
            r"labels: float64 of \(3, 4\); allowed: integers",
        ),
    ],
    ids=range(16),
)
def test_options_that_cannot_be(make, message):
    """An option or a truth that cannot be is refused with what can."""
    with pytest.raises(JobError, match=message):
        make()


@pytest.mark.parametrize(
    ("decoder", "shape", "message"),
    [
        (
            Semantic(thresholds=(0.5, 0.5)),
            (3, 4, 5),
            "the network gives 3 channels, which do not go with Semantic",
        ),
        (
            Semantic(threshold=0.5),
            (2, 4, 5),
            "the network gives 2 channels, which do not go with Semantic",
        ),
        (
            Semantic(background=2),
            (2, 4, 5),
            "the network gives 2 channels, which do not go with Semantic",
        ),
        (Semantic(), (0, 4, 5), "Semantic: the network gives 0 channels; allowed: 1 or more"),
        (Boundary(), (2, 4, 5), "Boundary: the network gives 2 channels; allowed: 3"),
        (
            Flows(),
            (3, 4, 5, 6),
            (
                "Flows: channels of (3, 4, 5, 6) for pixels of (4, 5, 6); allowed: (channel, row, "
                "column)"
            ),
        ),
        (Affinities(), (4, 4, 5), "Affinities: the network gives 4 channels; allowed: 3"),
        (Affinities(dimensions=3), (4, 4, 5), "allowed: (channel, plane, row, column)"),
    ],
    ids=range(8),
)
def test_channels_that_do_not_fit(decoder, shape, message):
    """Channels of another number or other dimensions than the decoder's are refused."""
    with pytest.raises(SegmenterError, match=re.escape(message)):
        decoder(np.zeros(shape, np.float32), np.ones(shape[1:], bool))


def check_promise(decoder, channels, valid):
    """What decoders of objects promise of one picture, and of its pieces cut out."""
    support, drawn = decoder.foreground(channels, valid), decoder(channels, valid)
    assert drawn.dtype == np.int32
    np.testing.assert_array_equal(support, (special.expit(channels[0].astype(float)) > 0.5) & valid)
    np.testing.assert_array_equal(drawn > 0, support)
    np.testing.assert_array_equal(drawn, in_raster_order(drawn))
    elsewhere = np.where(
        support, channels, np.random.default_rng(1).normal(size=channels.shape).astype(np.float32)
    )
    elsewhere[0] = channels[0]
    np.testing.assert_array_equal(drawn, decoder(elsewhere, valid))
    piece, _ = pieces(support)
    assert len(np.unique(np.stack([drawn[support], piece[support]]), axis=1).T) == drawn.max(
        initial=0
    )
    for k, found in enumerate(ndimage.find_objects(piece), 1):
        cut = tuple(slice(max(span.start - 1, 0), span.stop + 1) for span in found)
        alone = np.where(piece[cut] == k, decoder(channels[(slice(None), *cut)], valid[cut]), 0)
        np.testing.assert_array_equal(
            in_raster_order(alone), in_raster_order(np.where(piece[cut] == k, drawn[cut], 0))
        )
    if takes_part(decoder):
        part = piece % 2 == 1
        np.testing.assert_array_equal(
            decoder(channels, valid, part=part), in_raster_order(np.where(part, drawn, 0))
        )


@settings(max_examples=150)
@given(
    st.integers(0, 10**6),
    st.sampled_from([*OBJECTS, Boundary(min_depth=0.0), Flows(min_depth=0.0)]),
    st.booleans(),
)
def test_objects_depend_on_their_piece_alone(seed, decoder, holes):
    """Every pixel of the support is in one object, of one piece, in raster order; a piece cut out,
    or asked for alone, is drawn alike.
    """
    valid = np.random.default_rng(seed + 1).random((41, 37)) > 0.1 * holes
    check_promise(decoder, noise(decoder, seed, valid.shape), valid)


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from(VOLUMES))
def test_objects_of_volumes_depend_on_their_piece_alone(seed, decoder):
    """In volumes too."""
    valid = np.random.default_rng(seed + 1).random((9, 13, 12)) > 0.2
    check_promise(decoder, noise(decoder, seed, valid.shape), valid)


@pytest.mark.parametrize("decoder", [*OBJECTS, *VOLUMES], ids=str)
@pytest.mark.parametrize("logit", [-9.0, 9.0])
def test_plain_pictures(decoder, logit):
    """Of nothing, nothing is drawn; a picture that is all foreground, and flat, is one object."""
    shape = (5, 6, 7)[-2 if decoder in OBJECTS else -3 :]
    drawn = decoder(np.full((decoder.channels, *shape), logit, np.float32), np.ones(shape, bool))
    assert drawn.max() == (logit > 0)
    assert drawn.min() == (logit > 0)


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 20), st.integers(1, 9), st.integers(1, 9))
def test_probabilities_do_not_depend_on_the_window(seed, number, rows, columns):
    """Cut out of the channels, pixels have the same probabilities to the last bit."""
    channels = np.random.default_rng(seed).normal(size=(number, 30, 31)).astype(np.float32) * 4
    cut = (slice(None), slice(seed % 20, seed % 20 + rows), slice(seed % 17, seed % 17 + columns))
    np.testing.assert_array_equal(
        np.stack(list(softmax(channels)))[cut], np.stack(list(softmax(channels[cut])))
    )


@pytest.mark.parametrize(
    "decoder", [Boundary(), Flows(min_depth=1)], ids=lambda decoder: type(decoder).__name__
)
def test_ties_are_broken_alike_everywhere(decoder):
    """Bars with two equal ends, many in a picture, are all parted at the same pixel."""
    bar = np.full((3, 9), [6, 6, 6, 6, 6, 6, 6, 6, 6], np.float32)
    bar[1:] = (
        [[-9] * 9, [1, 0.5, 0.2, 0.2, 0.2, 0.2, 0.2, 0.5, 1]]
        if isinstance(decoder, Boundary)
        else [[0] * 9, [0, -1, -1, -1, 0, 1, 1, 1, 0]]
    )
    channels = np.full((3, 60, 60), -9, np.float32)
    for place, row in enumerate(range(1, 59, 2)):
        for column in range(1 + place % 3, 50, 10):
            channels[:, row, column : column + 9] = bar
    drawn = decoder(channels, np.ones((60, 60), bool))
    alone = decoder(bar[:, None], np.ones((1, 9), bool))
    assert alone.max() == 2
    for found in ndimage.find_objects(pieces(channels[0] > 0)[0]):
        np.testing.assert_array_equal(in_raster_order(drawn[found]), alone)


class Decoded:
    """A segmenter whose image is the channels."""

    identity = "object"
    reach = 0

    def __init__(self, decoder):
        self.decoder, self.foreground = decoder, decoder.foreground

    def __call__(self, block, valid):
        return self.decoder(block, valid)


@pytest.mark.parametrize("decoder", OBJECTS, ids=lambda decoder: type(decoder).__name__)
def test_tiles_draw_what_the_whole_image_does(decoder, tmp_path):
    """Decoded tile by tile, everything is proved, and is what the decoder draws of the
    whole image.
    """
    channels = noise(decoder, 5, (120, 130))
    channels[0] -= 1
    result = tiled(np.nan_to_num(channels), Decoded(decoder), (32, 48), tmp_path, halo=4)
    expected = decoder(np.nan_to_num(channels), np.ones((120, 130), bool))
    np.testing.assert_array_equal(result.labels, expected)
    assert set(result.certificates) == {"proved"}
    assert result.number > 30


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.sampled_from([(14, 15), (5, 6, 7)]))
def test_affinities_are_components_of_a_graph(seed, shape):
    """Objects by affinities are SciPy's connected components of the graph of the pixels that are
    joined.
    """
    decoder = Affinities(dimensions=len(shape), joined=0.6)
    channels = (
        np.random.default_rng(seed).normal(size=(decoder.channels, *shape)).astype(np.float32) * 2
    )
    valid = np.ones(shape, bool)
    support, index = channels[0] > 0, np.arange(valid.size).reshape(shape)
    pairs = []
    for axis in range(len(shape)):
        near, far = (
            np.take(index, np.arange(*span), axis).ravel()
            for span in ((0, shape[axis] - 1), (1, shape[axis]))
        )
        bonded = (
            (special.expit(channels[1 + axis].ravel()[near]) > 0.6)
            & support.ravel()[near]
            & support.ravel()[far]
        )
        pairs.append(np.stack([near[bonded], far[bonded]]))
    rows, columns = np.concatenate(pairs, axis=1)
    graph = sparse.coo_array((np.ones(len(rows)), (rows, columns)), shape=(valid.size, valid.size))
    parts = sparse.csgraph.connected_components(graph, directed=False)[1].reshape(shape) + 1
    np.testing.assert_array_equal(
        decoder(channels, valid), in_raster_order(np.where(support, parts, 0))
    )


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 12), st.sampled_from([(30, 32), (8, 12, 10)]))
def test_affinities_give_any_labelling_back(seed, number, shape):
    """From the targets of any labels come the labels, each set of pixels that touch by sides as one
    object.
    """
    labels = (
        np.random.default_rng(seed).integers(0, 3, shape)
        if number == 1
        else cells(seed, shape, number)
    )
    decoder = Affinities(dimensions=len(shape))
    drawn = decoder(ideal(decoder, labels), np.ones(shape, bool))
    np.testing.assert_array_equal(drawn, pieces(labels, 2 * len(shape))[0])


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.integers(2, 14), st.sampled_from([Boundary(), Flows()]))
def test_touching_cells_come_back(seed, number, decoder):
    """All cells that touch and have some body come back: radius 3 or more, middles 4 pixels apart.
    At most one more is drawn.
    """
    truth = cells(seed, (64, 64), number)
    middles = np.array([np.argwhere(truth == k).mean(axis=0) for k in np.unique(truth[truth > 0])])
    thick = [
        ndimage.distance_transform_edt(np.pad(truth == k, 1)).max()
        for k in np.unique(truth[truth > 0])
    ]
    apart = np.linalg.norm(middles[:, None] - middles, axis=-1) + 99 * np.eye(len(middles))
    found, there, drawn = recovered(decoder, truth)
    feeble = sum(t < 3 or a < 4 for t, a in zip(thick, apart.min(axis=0), strict=True))
    assert found >= there - feeble
    assert drawn <= there + feeble + 1


def test_touching_balls_come_back():
    """Balls that touch are told apart in volumes, by either decoder that knows them."""
    z, y, x = np.indices((20, 20, 34))
    truth = np.where((z - 10) ** 2 + (y - 10) ** 2 + (x - 9) ** 2 <= 64, 1, 0)
    truth[((z - 10) ** 2 + (y - 10) ** 2 + (x - 24) ** 2 <= 64) & (truth == 0)] = 2
    for decoder in (Boundary(), Affinities(dimensions=3)):
        drawn = decoder(ideal(decoder, truth), truth >= 0)
        assert drawn.max() == 2
        assert (
            drawn != in_raster_order(truth)
        ).sum() <= 1  # both of the pixels that touch are boundary: a coin's throw


def real_truths(folder):
    """Hand-drawn nuclei, in fluorescence and in stained tissue."""
    for path in sorted(
        [*(folder / "nuclei-fluo").glob("*_labels.tif"), *(folder / "nuclei-he").glob("*_labels.*")]
    ):
        with rasterio.open(path) as file:
            yield file.read(1).astype(np.int64)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize(
    ("decoder", "share", "more"),
    [(Boundary(), 0.99, 1.02), (Flows(), 0.999, 1.001), (Affinities(), 0.999, 1.01)],
    ids=str,
)
def test_real_nuclei_come_back(shared, decoder, share, more):
    """Of real nuclei, many of which touch, nearly all come back from their ideal channels, and
    hardly any is drawn in two.
    """
    truths = list(real_truths(shared))
    if not truths:
        pytest.skip(f"needs the labels of nuclei in {shared}")
    found, there, drawn = np.sum([recovered(decoder, truth) for truth in truths], axis=0)
    print(f"{type(decoder).__name__}: {found} of {there}, {drawn} drawn")
    assert there > 3000
    assert found >= share * there
    assert drawn <= more * there


@pytest.mark.parametrize(
    "decoder", [Boundary(), Flows(), Affinities()], ids=lambda decoder: type(decoder).__name__
)
def test_what_is_not_known_is_nan(decoder):
    """Targets are NaN where the truth is not known, and elsewhere only where a pair lacks its
    second pixel.
    """
    labels = cells(3, (20, 21), 6)
    labels[5:9, 7:15] = -1
    target, unknown = decoder.targets(labels), labels < 0
    assert target.dtype == np.float32
    assert target.shape == (3, 20, 21)
    gaps = np.stack([unknown] * 3)
    if isinstance(decoder, Affinities):
        gaps[1, :-1] |= unknown[1:]
        gaps[2, :, :-1] |= unknown[:, 1:]
        gaps[1, -1] = gaps[2, :, -1] = True
    np.testing.assert_array_equal(np.isnan(target), gaps)
    np.testing.assert_array_equal(target[0][~unknown], labels[~unknown] > 0)
    nothing = decoder.targets(np.zeros((4, 5), np.uint8))
    assert not np.nan_to_num(nothing).any()


def test_distances_are_of_each_object_alone():
    """The distance is SciPy's of the object alone, over its greatest; the boundary is where it
    touches another, and nowhere else.
    """
    truth = cells(11, (40, 42), 9)
    _, boundary, distance = Boundary().targets(truth)
    for k in np.unique(truth[truth > 0]):
        own = truth == k
        far = ndimage.distance_transform_edt(own)
        np.testing.assert_allclose(distance[own], far[own] / far[own].max(), rtol=1e-6)
        others = ndimage.binary_dilation((truth > 0) & ~own, np.ones((3, 3)))
        np.testing.assert_array_equal(boundary[own] > 0, others[own])
    assert not distance[truth == 0].any()
    assert not boundary[truth == 0].any()
    assert (Boundary().targets(np.ones((3, 4), int))[2] == 1).all()


def test_heat_is_the_mean_of_neighbours():
    """Heat spreads as SciPy's mean of 3 x 3 pixels, with cold all around."""
    mask = cells(2, (17, 19), 3) == 1
    source = tuple(np.argwhere(mask)[len(np.argwhere(mask)) // 2])
    expected = np.zeros(mask.shape)
    for _ in range(2 * sum(mask.shape)):
        expected[source] += 1
        expected = ndimage.uniform_filter(expected, 3, mode="constant") * mask
    np.testing.assert_allclose(heat(mask, source), expected, atol=1e-12)


def test_flows_lead_through_bent_objects():
    """Two arcs, one in the other, which touch all along, are two objects: flows go along them, not
    straight to the middle.
    """
    rows, columns = np.indices((80, 80)) - 40
    radius = np.hypot(rows, columns)
    truth = np.where(
        (rows < 20) & (radius > 10), np.where(radius < 20, 1, np.where(radius < 30, 2, 0)), 0
    )
    flow = Flows().targets(truth)[1:]
    np.testing.assert_allclose(np.hypot(*flow)[truth > 0], 1, rtol=1e-6)
    assert not flow[:, truth == 0].any()
    drawn = Flows()(ideal(Flows(), truth), truth >= 0)
    np.testing.assert_array_equal(drawn, in_raster_order(truth))
