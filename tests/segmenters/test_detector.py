"""Detectors: what a network finds object by object, the same however the image is tiled."""

from __future__ import annotations

import functools
import itertools
import pickle
import re
import tempfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import Phase, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from scipy import ndimage
from skimage.draw import disk

import pipeline
from pipeline.errors import JobError, SegmenterError
from pipeline.image.grid import Box
from pipeline.networks import architectures
from pipeline.networks.card import Card
from pipeline.networks.lattice import Lattice
from pipeline.networks.loaded import Detections, Resident, Way, loaded
from pipeline.segmenters import Keyed
from pipeline.segmenters.decoders.detections import Found, settled, targets
from pipeline.segmenters.detector import MaskRCNN
from pipeline.stages.measure import gather
from tests.tiling import Tiled, in_raster_order, tiled

SMALL = {
    "backbone": "resnet18", "anchors": [8, 16, 32, 64, 128], "ratios": [1.0],
    "box_detections_per_img": 12, "rpn_pre_nms_top_n_test": 40, "rpn_post_nms_top_n_test": 20,
}  # fmt: skip
WHOLE = {
    "name": "discs",
    "kind": "maskrcnn",
    "bands": ("red", "blue"),
    "classes": ("red", "blue"),
    "window": 64,
}


@functools.cache
def unread() -> str:
    """A bundle whose weights nobody reads, for stand-ins of the network."""
    folder = Path(tempfile.mkdtemp())
    (folder / "weights.safetensors").write_bytes(b"none")
    (folder / "card.yaml").write_text(
        "{name: none, kind: maskrcnn, bands: [red, blue], classes: [red, blue], window: 64}"
    )
    return str(folder)


@functools.lru_cache(maxsize=100_000)
def anything(patch: bytes, shape: tuple[int, int]) -> Detections:
    """Any number of objects of any shape, that depend on every pixel of the patch."""
    rng = np.random.default_rng(zlib.crc32(patch))
    number = int(rng.integers(0, 7))
    masks = np.zeros((number, *shape), np.float32)
    for mask in masks:
        place = []
        for n in (
            shape
        ):  # most lie across the middle, so that many count, and some reach from end to end
            centre, half = (
                int(rng.integers(n // 3, n - n // 3 + 1)),
                int(rng.integers(1, n // 2 + 1)),
            )
            place.append(slice(max(centre - half, 0), centre + half))
        part = mask[tuple(place)]
        part[:] = np.where(rng.random(part.shape) < rng.choice([0, 0.1, 0.4]), 0.2, 0.8)
    return Detections(
        rng.integers(1, 9, number).astype(np.float32) / 8, rng.integers(1, 3, number), masks
    )


class Anything(MaskRCNN):
    """A stand-in that is as little local as a network can be."""

    @property
    def resident(self) -> Resident:
        return Resident(
            lambda patches: [anything(patch.tobytes(), patch.shape[1:]) for patch in patches], Way()
        )


class Discs(MaskRCNN):
    """A stand-in that finds bright pieces, band by band; its classes are the bands, its scores the
    brightness.
    """

    @property
    def resident(self) -> Resident:
        return Resident(lambda patches: [self.found(patch) for patch in patches], Way())

    @staticmethod
    def found(patch: Any) -> Detections:
        every = [(band, kind) for kind, band in enumerate(patch, start=1)]
        parts = [(band, kind, *ndimage.label(band > 0)) for band, kind in every]
        each = [
            (band[labels == k].mean(), kind, labels == k)
            for band, kind, labels, n in parts
            for k in range(1, n + 1)
        ]
        scores, kinds, masks = (
            zip(*each, strict=True) if each else ((), (), np.zeros((0, *patch.shape[1:])))
        )
        return Detections(
            np.array(scores, np.float32), np.array(kinds, np.int64), np.array(masks, np.float32)
        )


def along(n: int, window: int, margin: int) -> list[tuple[int, int, int, int]]:
    """Of patches along an axis of an image: start, stop, and the first and last pixel of their
    cells.
    """
    starts = [*range(0, max(n - window, 0), window - 2 * margin), max(n - window, 0)]
    borders = [0, *(k * (window - 2 * margin) + margin for k in range(1, len(starts))), n]
    return [
        (a, min(a + window, n), first, last - 1)
        for a, (first, last) in zip(starts, itertools.pairwise(borders), strict=True)
    ]


def whole(method: MaskRCNN, image: Any, valid: Any) -> tuple[Any, dict[int, int]]:
    """The plain algorithm on the whole image at once, in full-size masks: labels in raster order,
    and the class of each.
    """
    shape, every = valid.shape, []
    for (row, down), (column, across) in itertools.product(
        *(enumerate(along(n, method.window, method.margin)) for n in shape)
    ):
        place, mine = (slice(*down[:2]), slice(*across[:2])), []
        if not valid[place].any():
            continue
        answer = method.resident.forward(
            np.where(valid, image, 0).astype(np.float32)[(slice(None), *place)][None]
        )[0]
        for score, kind, likely in zip(
            answer.scores.tolist(), answer.kinds.tolist(), answer.masks, strict=True
        ):
            mask = np.zeros(shape, bool)
            mask[place] = likely >= method.mask
            mask &= valid
            if score < method.score or not mask.any():
                continue
            low, high = np.argwhere(mask).min(axis=0), np.argwhere(mask).max(axis=0)
            y, x = (low + high) // 2
            small = max(high - low) + 1 < 2 * method.margin
            if small and down[2] <= y <= down[3] and across[2] <= x <= across[3]:
                mine.append((-score, *low, *high, kind, mask))
        mine.sort(key=lambda one: one[:6])
        every += [
            (one[0], row, column, rank, one[5], one[6])
            for rank, one in enumerate(mine[: method.most])
        ]
    every.sort(key=lambda one: one[:4])
    masks = [one[5] for one in every]
    stays = [
        m
        for m in range(len(every))
        if not any((masks[m] & o).sum() > method.overlap * (masks[m] | o).sum() for o in masks[:m])
    ]
    taken, labels, kinds = np.zeros(shape, bool), np.zeros(shape, int), {}
    for m in stays:
        seen, number = ndimage.label(masks[m] & ~taken)
        taken |= masks[m]
        if number:
            labels[
                seen == 1 + np.argmax(ndimage.sum_labels(seen > 0, seen, range(1, number + 1)))
            ] = m + 1
    named = in_raster_order(labels)
    kinds = {int(named[labels == m + 1][0]): every[m][4] for m in stays if (labels == m + 1).any()}
    return named, kinds


def classes_of(result: Tiled) -> dict[int, int]:
    """By object, its class."""
    found = [gather(result.run, slab) for slab, _ in enumerate(result.run.grid.slabs())]
    return {
        int(number): int(kind)
        for sums, about in found
        for number, kind in zip(about["id"], sums.kind, strict=True)
    }


@examples(max_examples=200)
@given(st.integers(1, 300), st.integers(3, 40), st.data())
def test_cells_cover_an_axis_once_and_their_patches_hold_what_has_its_centre_there(
    n: int, window: int, data: Any
) -> None:
    """Every pixel is in one cell, and what is shorter than two margins lies whole in the patch in
    whose cell its centre is.
    """
    margin = data.draw(st.integers(1, (window - 1) // 2))
    lattice = Lattice(window, margin)
    cells = list(lattice.cells(Box((0, 0), (n, 1))))
    assert [p for cell in cells for p in range(cell.box.start[0], cell.box.stop[0])] == list(
        range(n)
    )
    assert [cell.place for cell in cells] == [(k, 0) for k in range(len(cells))]
    for cell in cells:
        assert cell.box in cell.patch
        assert cell.patch.shape == (min(n, window), 1)
        for centre in range(cell.box.start[0], cell.box.stop[0]):
            for length in (lattice.longest - 1, lattice.longest):
                first = centre - (length - 1) // 2
                assert Box((max(first, 0), 0), (min(first + length, n), 1)) in cell.patch


@examples(max_examples=60, phases=[Phase.explicit, Phase.generate])
@given(st.data())
def test_tiles_have_what_the_plain_algorithm_finds_in_the_whole_image(data: Any) -> None:
    """For a network that is as little local as can be, and objects that overlap at random: the same
    labels and classes, all agreed.
    """
    margin = data.draw(st.integers(2, 3))
    method = Anything(
        weights=unread(),
        window=2 * margin + data.draw(st.integers(3, 8)),
        margin=margin,
        score=data.draw(st.sampled_from([0.0, 0.5])),
        overlap=data.draw(st.sampled_from([0.0, 0.1, 0.3])),
        most=data.draw(st.sampled_from([1, 100])),
    )
    shape = data.draw(st.sampled_from([(70, 60), (9, 200), (150, 20), (5, 5)]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    image = rng.integers(0, 200, (2, *shape)).astype(np.float32)
    image[:, rng.random(shape) < data.draw(st.sampled_from([0, 0.02]))] = np.nan
    valid = np.isfinite(image).all(axis=0)
    tile = tuple(data.draw(st.integers(min(n, 12), 40)) for n in shape)
    order = list(
        np.random.default_rng(0).permutation(
            int(np.prod([-(-n // t) for n, t in zip(shape, tile, strict=True)]))
        )
    )
    with tempfile.TemporaryDirectory() as folder:
        found = tiled(image, method, tile, Path(folder), order=order)
        classes = classes_of(found)
    expected, kinds = whole(method, np.nan_to_num(image), valid)
    np.testing.assert_array_equal(found.labels, expected)
    assert classes == kinds
    assert set(found.certificates) <= {"agreed"}


def test_windows_that_hold_only_what_covers_a_tile_would_not_do(tmp_path: Path) -> None:
    """The test before can fail: with a reach of no more than the margin, labels depend on the
    tiles.
    """

    class Less(Anything):
        reach = 6

    image = np.random.default_rng(0).integers(0, 200, (2, 13, 200)).astype(np.float32)
    options = {"weights": unread(), "window": 13, "margin": 6, "score": 0.0, "overlap": 0.2}
    assert Anything(**options).reach == 38
    expected, _ = whole(Anything(**options), image, np.ones((13, 200), bool))
    assert not np.array_equal(tiled(image, Less(**options), (13, 7), tmp_path).labels, expected)


@examples(max_examples=200)
@given(st.integers(1, 300), st.integers(3, 40), st.data())
def test_windows_have_the_cells_of_the_whole_image(n: int, window: int, data: Any) -> None:
    """A patch's extent inside of where a window ends and the image goes on, centres have the owners
    that they have in the whole image.
    """
    lattice = Lattice(window, data.draw(st.integers(1, (window - 1) // 2)))
    start, stop = sorted(data.draw(st.tuples(st.integers(0, n - 1), st.integers(0, n))))
    first, last = (0 if start == 0 else start + window), (n if stop == n else stop - window + 1)
    owners = [
        {
            c: (cell.place, cell.patch)
            for cell in lattice.cells(Box((0, a), (1, b)))
            for c in range(cell.box.start[1], cell.box.stop[1])
        }
        for a, b in ((0, n), (start, stop))
    ]
    for centre in range(first, last):
        assert owners[1][centre] == owners[0][centre]


@pytest.mark.parametrize(("steps", "enough"), [(2, True), (1, False)])
def test_what_is_left_of_objects_depends_on_two_steps(steps: int, enough: bool) -> None:
    """Objects whose centres lie farther from a pixel than two lengths and a half do not change it;
    some beyond one and a half do.
    """
    lattice, rng, same = Lattice(40, 4), np.random.default_rng(0), []
    far, window = lattice.sight(steps) - lattice.extent, Box((0, 0), (2, 60))
    for _ in range(150):
        objects = []
        for key in range(1, 26):
            length = int(rng.integers(lattice.longest - 2, lattice.longest + 1))
            first, mask = int(rng.integers(0, 60 - length)), rng.random((2, length)) < 0.6
            mask[:, [0, -1]] = True
            objects.append(
                Found(key, 1, float(rng.random()), Box((0, first), (2, first + length)), mask)
            )
        expected = settled(objects, window, 0.2)
        for p in range(0, 60, 2):
            near = [
                one
                for one in objects
                if abs((one.box.start[1] + one.box.stop[1] - 1) // 2 - p) <= far
            ]
            same.append(np.array_equal(settled(near, window, 0.2)[..., p], expected[..., p]))
    assert all(same) == enough


def discs(shape: tuple[int, int], places: list[tuple[int, int, int, int]]) -> tuple[Any, Any]:
    """Discs of (row, column, radius, class), and their labels in raster order."""
    image, truth = np.zeros((2, *shape), np.float32), np.zeros(shape, int)
    for number, (row, column, radius, kind) in enumerate(places, start=1):
        where = disk((row, column), radius, shape=shape)
        image[(kind - 1, *where)], truth[where] = 0.9, number
    return image, in_raster_order(truth)


@pytest.mark.parametrize("offset", range(0, 32, 5))
def test_discs_at_the_borders_of_cells_are_counted_once(offset: int, tmp_path: Path) -> None:
    """Wherever discs lie on the lattice, cut by the image's edge too, each is found once and whole,
    with its class.
    """
    places = [
        (row + offset, column + offset // 2, 14, 1 + (row + column) // 35 % 2)
        for row in range(0, 230, 35)
        for column in range(0, 260, 35)
    ]
    image, truth = discs((231, 260), places)
    method = Discs(weights=unread(), window=64, margin=16)
    found = tiled(image, method, (70, 90), tmp_path)
    np.testing.assert_array_equal(found.labels, truth)
    brightest = {
        number: 1 + int(np.argmax(image[:, truth == number].max(axis=1)))
        for number in range(1, truth.max() + 1)
    }
    assert classes_of(found) == brightest


def test_what_is_as_long_as_two_margins_is_not_found() -> None:
    """By a margin of 16, a square of 31 pixels is found and one a pixel higher is not, nor a part
    of it, wherever it lies.
    """
    method = Discs(weights=unread(), window=64, margin=16)
    for row, column in itertools.product(range(0, 99, 3), (0, 33, 98)):
        image = np.zeros((2, 130, 130), np.float32)
        image[0, row : row + 31, column : column + 31] = 1
        np.testing.assert_array_equal(method(image) > 0, image[0] > 0)
        image[0, row + 31, column : column + 31] = 1
        assert not method(image).any()


def found(key: int, score: float, picture: list[str], at: tuple[int, int] = (0, 0)) -> Found:
    mask = np.array([[pixel == "#" for pixel in row] for row in picture])
    return Found(
        key, key, score, Box(at, tuple(a + n for a, n in zip(at, mask.shape, strict=True))), mask
    )


def drawn(*objects: Found, overlap: float = 0.5, shape: tuple[int, int] = (3, 9)) -> list[str]:
    keys, kinds = settled(objects, Box((0, 0), shape), overlap)
    np.testing.assert_array_equal(keys, kinds)
    return ["".join(str(key) for key in row).replace("0", ".") for row in keys]


def test_objects_that_overlap_are_settled_by_score() -> None:
    """Of two of one place the better stays; what two cover in part is the better's; of equal scores
    the lower key is the better.
    """
    low, high = found(1, 0.6, ["####"]), found(2, 0.9, ["###."])
    assert drawn(low, high, shape=(1, 6)) == ["222..."]
    assert drawn(low, high, shape=(1, 6), overlap=0.75) == ["2221.."]
    assert drawn(found(1, 0.6, ["####"]), found(2, 0.9, ["####"], (0, 3)), shape=(1, 8)) == [
        "1112222."
    ]
    assert drawn(found(2, 0.7, ["####"]), found(1, 0.7, ["####"], (0, 3)), shape=(1, 8)) == [
        "2221111."
    ]


def test_one_that_goes_takes_others_with_it() -> None:
    """There are no chains: what overlaps a better one too much goes though that one goes too."""
    row = [
        found(1, 0.9, ["#####"]),
        found(2, 0.8, ["#####"], (0, 1)),
        found(3, 0.7, ["#####"], (0, 3)),
    ]
    assert drawn(*row, shape=(1, 9), overlap=0.4) == ["11111...."]


def test_of_what_is_left_of_an_object_the_largest_piece_counts() -> None:
    """A bar across another leaves one piece of it; of equally large pieces it leaves the first."""
    bar = found(2, 0.9, ["#", "#", "#"], (0, 3))
    assert drawn(found(1, 0.8, ["#########"], (1, 0)), bar) == [
        "...2.....",
        "...211111",
        "...2.....",
    ]
    assert drawn(found(1, 0.8, ["#######"], (1, 0)), bar) == ["...2.....", "1112.....", "...2....."]
    assert drawn(found(1, 0.8, [".##", "#..", "..."])) == [".11......", ".........", "........."]


def test_what_is_not_valid_is_of_no_object() -> None:
    """An object through which a line of missing pixels runs is the larger of its halves; where all
    are missing the network is not asked.
    """
    mask = np.zeros((60, 60), bool)
    mask[disk((30, 30), 12)] = True

    class Always(MaskRCNN):
        @property
        def resident(self) -> Resident:
            return Resident(
                lambda _: [
                    Detections(
                        np.ones(1, np.float32), np.ones(1, np.int64), mask[None].astype(np.float32)
                    )
                ],
                Way(),
            )

    method, image, valid = (
        Always(weights=unread(), window=64),
        np.zeros((2, 60, 60), np.float32),
        np.ones((60, 60), bool),
    )
    np.testing.assert_array_equal(method(image, valid) > 0, mask)
    valid[34] = False
    np.testing.assert_array_equal(method(image, valid) > 0, mask & (np.arange(60) < 34)[:, None])
    assert not method(image, np.zeros((60, 60), bool)).any()


def test_from_image_to_table(tmp_path: Path) -> None:
    """A whole run: the table names the class of each object, classes are a raster of their own, and
    all is agreed.
    """
    image, truth = discs((150, 190), [(30, 40, 12, 1), (75, 95, 14, 2), (120, 20, 10, 2)])
    method = Discs(weights=unread(), window=64)
    result = pipeline.segment(
        image,
        method,
        tmp_path / "out",
        tile=64,
        results=["instance", "semantic"],
        engine=pipeline.local(),
    )
    np.testing.assert_array_equal(np.asarray(result.labels), truth)
    np.testing.assert_array_equal(np.asarray(result.classes), np.array([0, 1, 2, 2])[truth])
    assert list(result.objects["class"]) == [1, 2, 2]
    assert result.record["certificates"] == {"proved": 0, "agreed": 3, "disputed": 0}


@pytest.fixture(scope="module")
def random(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A bundle of torchvision's Mask R-CNN with random weights, which finds something
    everywhere.
    """
    path = tmp_path_factory.mktemp("maskrcnn") / "random.safetensors"
    scaling = {"type": "z-score", "mean": 120, "stddev": 50}
    card = Card(
        **(WHOLE | {"bands": ("r", "g", "b"), "architecture": SMALL, "value_scaling": scaling})
    )
    torch.manual_seed(0)
    architectures.save(card, architectures.build(card), str(path))
    return str(path)


def test_torchvisions_network_finds_the_same_in_tiles(random: str, tmp_path: Path) -> None:
    """With random weights: the same objects in tiles and in the whole image, to the pixel."""
    method = MaskRCNN(weights=random, score=0.2, overlap=0.9, margin=8)
    image = np.random.default_rng(0).integers(0, 255, (3, 64, 240)).astype(np.uint8)
    keys = method(image)
    names, small = np.unique(keys, return_inverse=True)
    result = tiled(image, method, (64, 120), tmp_path)
    assert result.run.window(0).stop < (64, 240)
    np.testing.assert_array_equal(result.labels, in_raster_order(small.reshape(keys.shape)))
    assert len(names) > 5
    assert sum(checksum == method.sha256 for checksum, _ in loaded()) == 1
    assert len(pickle.dumps(method)) < 2000  # what travels to workers
    assert set(result.certificates) == {"agreed"}
    assert set(classes_of(result).values()) <= {1, 2}


def test_torchvisions_network_finds_what_it_finds_by_itself(random: str) -> None:
    """What is found in a patch is what torchvision's model finds in values scaled as the card says,
    without resizing them.
    """
    method = MaskRCNN(weights=random)
    image = np.random.default_rng(1).integers(0, 255, (3, 50, 64)).astype(np.float32)
    theirs = architectures.load(method._bundle)
    scaled = (image - 120) / 50
    assert theirs.transform([torch.from_numpy(scaled)])[0].image_sizes == [(50, 64)]
    np.testing.assert_array_equal(
        theirs.transform([torch.from_numpy(scaled)])[0].tensors[0, :, :50], scaled
    )
    with torch.inference_mode():
        (expected,) = theirs([torch.from_numpy(scaled)])
    given = method._given(image, np.ones((50, 64), bool))
    answer = method.resident.detect(given)
    assert len(answer.scores) > 0
    np.testing.assert_allclose(answer.scores, expected["scores"].numpy(), rtol=1e-4)
    np.testing.assert_array_equal(answer.kinds, expected["labels"].numpy())
    np.testing.assert_allclose(answer.masks, expected["masks"][:, 0].numpy(), atol=1e-4)


def test_resnet50_is_torchvisions_own() -> None:
    """On resnet50, with as many bands, names and shapes of all weights are those of torchvision's
    maskrcnn_resnet50_fpn.
    """
    with torch.device("meta"):
        ours = architectures.build(
            Card(
                name="r", kind="maskrcnn", bands=("r", "g", "b"), classes=tuple(map(str, range(90)))
            )
        ).state_dict()
        theirs = torchvision.models.detection.maskrcnn_resnet50_fpn(
            weights=None, weights_backbone=None, num_classes=91
        ).state_dict()
    assert {name: tensor.shape for name, tensor in ours.items()} == {
        name: tensor.shape for name, tensor in theirs.items()
    }


@pytest.mark.parametrize(("backbone", "layers"), [("resnet18", 5), ("mobilenet_v3_large", 6)])
def test_a_backbone_may_be_kept_as_it_is(backbone: str, layers: int) -> None:
    """Of a backbone no layer is trained, or all are; frozen, its norms keep their statistics in
    training too.
    """
    for trainable, frozen in ((0, True), (layers, False)):
        options = {"backbone": backbone, "trainable": trainable, "frozen": frozen}
        body = (
            architectures.build(Card(**(WHOLE | {"bands": ("r", "g", "b")}), architecture=options))
            .train()
            .backbone.body
        )
        assert {weights.requires_grad for weights in body.parameters()} == {not frozen}
        assert (
            any(isinstance(module, torchvision.ops.FrozenBatchNorm2d) for module in body.modules())
            == frozen
        )
        assert any(isinstance(module, torch.nn.BatchNorm2d) for module in body.modules()) != frozen


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v3_large"])
@pytest.mark.parametrize("bands", [1, 4])
def test_any_number_of_bands(backbone: str, bands: int) -> None:
    """A network is built for any number of bands, and runs."""
    options = {"backbone": backbone, "rpn_post_nms_top_n_test": 4, "box_detections_per_img": 2}
    card = Card(
        name="b",
        kind="maskrcnn",
        bands=tuple(map(str, range(bands))),
        classes=("thing",),
        architecture=options,
    )
    with torch.inference_mode():
        (answer,) = architectures.build(card).eval()([torch.zeros(bands, 64, 96)])
    assert answer["masks"].shape[1:] == (1, 64, 96)


def test_targets_are_what_torchvision_trains_on() -> None:
    """Boxes hold the masks as torchvision means it, classes are the pixels', and a step of training
    takes them.
    """
    image, truth = discs((64, 64), [(20, 20, 9, 1), (40, 45, 12, 2)])
    kinds = np.where(image[0] > 0, 1, 2)
    found = {name: torch.from_numpy(array) for name, array in targets(truth, kinds).items()}
    inside = torchvision.ops.masks_to_boxes(found["masks"])
    np.testing.assert_array_equal(found["boxes"], inside + torch.tensor([0, 0, 1, 1]))
    assert found["labels"].tolist() == [1, 2]
    assert targets(truth)["labels"].tolist() == [1, 1]
    card = Card(
        **WHOLE,
        architecture={**SMALL, "rpn_post_nms_top_n_train": 10, "box_batch_size_per_image": 8},
    )
    empty = {
        name: torch.from_numpy(array) for name, array in targets(np.zeros((64, 64), int)).items()
    }
    torch.manual_seed(0)
    losses = architectures.build(card).train()([torch.from_numpy(image)] * 2, [found, empty])
    assert set(losses) >= {"loss_mask", "loss_box_reg"}
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_a_patch_that_does_not_fit_on_the_device_is_computed_on_the_processor() -> None:
    """Where one patch is too much for the device's memory the processor finds its objects, and it
    is told.
    """
    asked: list[str] = []

    def small(patches: Any) -> Any:
        asked.append("device")
        raise MemoryError

    right = Detections(np.ones(1, np.float32), np.ones(1, np.int64), np.ones((1, 2, 2), np.float32))
    network = Resident(small, Way("cuda"), fallback=lambda: lambda patches: [right] * len(patches))
    assert [network.detect(np.zeros((3, 2, 2), np.float32)) for _ in range(2)] == [right, right]
    assert asked == ["device"]
    assert network.told == [
        "one patch did not fit on cuda; computed on the cpu since, and not called proved"
    ]


@pytest.mark.parametrize("where", ["scores", "masks"])
def test_what_is_no_number_is_refused(where: str) -> None:
    """A score or a mask that is no finite number is an error, not an object that is missing."""
    answer = Detections(
        np.ones(1, np.float32), np.ones(1, np.int64), np.ones((1, 2, 2), np.float32)
    )
    network = Resident(
        lambda _: [replace(answer, **{where: getattr(answer, where) * np.float32(np.nan)})], Way()
    )
    with pytest.raises(SegmenterError, match="no finite numbers"):
        network.detect(np.zeros((3, 2, 2), np.float32))


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    """A detector drops what is no number by itself, so that it would find nothing; its weights are
    looked at first.
    """
    card = Card(**WHOLE, architecture=SMALL)
    network = architectures.build(card)
    with torch.no_grad():
        network.backbone.body.conv1.weight[0] = torch.nan
    architectures.save(card, network, str(tmp_path / "bad.safetensors"))
    with pytest.raises(SegmenterError, match=re.escape("no finite numbers")):
        MaskRCNN(weights=str(tmp_path / "bad.safetensors"))(np.zeros((2, 64, 64), np.float32))


def test_classes_of_a_function_with_keys(tmp_path: Path) -> None:
    """Any segmenter with keys may say of which class its objects are; without that they are of
    class 1.
    """

    def halves(block: Any, origin: Any) -> Any:
        keys = np.arange(block.shape[2])[None] + origin[1] + 1 > 10
        both = np.broadcast_to(np.where(keys, 1 << 40, 7), block.shape[1:])
        return Keyed(both, np.where(both == 7, 3, 5))

    halves.identity = "keyed"
    image = np.zeros((1, 12, 20), np.uint8)
    assert classes_of(tiled(image, halves, (5, 6), tmp_path / "kinds")) == {1: 3, 2: 5}

    def plain(block: Any, origin: Any) -> Any:
        return halves(block, origin).keys

    plain.identity = "keyed"
    assert classes_of(tiled(image, plain, (5, 6), tmp_path / "plain")) == {1: 1, 2: 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score": 1.5}, "score: 1.5; allowed: 0 to 1"),
        ({"mask": 0}, "mask: 0; allowed: more than 0, to 1"),
        ({"overlap": -0.1}, "overlap: -0.1; allowed: 0 to 1"),
        ({"most": 0}, "most: 0; allowed: a number of objects, 1 to 16383"),
        ({"most": 1 << 14}, "most: 16384; allowed"),
        ({"margin": 32}, "window and margin: 64 and 32; allowed: a margin from 1"),
        ({"margin": 0}, "window and margin: 64 and 0; allowed"),
        ({"flips": True}, "flips: True; a detector has none"),
        ({"compiled": True}, "compiled: True; a detector has none"),
        (
            {"pixel_size": "resample"},
            "pixel_size: 'resample'; a detector sees the image's own pixels; allowed: same, any",
        ),
        ({"decoder_options": {"kind": "flows"}}, "decoder_options: .*; a detector has none"),
    ],
    ids=str,
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    """What cannot be is refused, naming the option, what was given and what is allowed."""
    with pytest.raises(JobError, match=message):
        MaskRCNN(weights=unread(), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "resnet19"}, "architecture.backbone: 'resnet19'; .*resnet18"),
        (
            {"backbone": "resnet18", "anchors": [8, 16]},
            r"architecture.anchors: \[8, 16\]; resnet18 has 5 levels; allowed: an extent",
        ),
        (
            {"backbone": "resnet18", "speed": 3},
            "architecture.speed: there is no such option of maskrcnn; ",
        ),
    ],
    ids=str,
)
def test_architectures_that_cannot_be(options: dict[str, Any], message: str) -> None:
    """An architecture that torchvision does not build is refused."""
    with pytest.raises(JobError, match=message):
        architectures.build(Card(**WHOLE, architecture=options))


def test_volumes_are_refused() -> None:
    """A network for images does not take a volume."""
    with pytest.raises(JobError, match="images of two dimensions, in a volume"):
        MaskRCNN(weights=unread())(np.zeros((2, 3, 4, 5), np.float32))
