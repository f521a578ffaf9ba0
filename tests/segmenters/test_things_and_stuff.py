"""Things and stuff from one network: in tiles what it is on the whole image, each object of one
class, however many tiles it lies in.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import rasterio
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage
from typer.testing import CliRunner

import pipeline
from pipeline.__main__ import app
from pipeline.errors import JobError, SegmenterError
from pipeline.image.legend import CLASS
from pipeline.networks.loaded import Resident
from pipeline.segmenters.decoders.affinities import Panoptic
from pipeline.training import recipe
from tests.networks.test_networks import whole
from tests.small_networks import bundle, facts, scene
from tests.tiling import in_raster_order

FOUR = {
    "classes": ["tree", "ground", "water", "house"],
    "decoder": {"kind": "panoptic", "things": [1, 4]},
    "seed": 3,
}
"""A bundle of four classes, two of them things."""


def elected(labels, kinds, things):
    """The classes of a picture: of an object that of most of its pixels, the lower of equally many;
    elsewhere a pixel's, if stuff.
    """
    found = np.where(np.isin(kinds, things), 0, kinds).astype(np.int64)
    for number in range(1, labels.max() + 1):
        votes = np.bincount(kinds[labels == number])
        found[labels == number] = max(
            things, key=lambda kind: (votes[kind] if kind < len(votes) else 0, -kind)
        )
    return found


def ran(image, segmenter, out, tile, *, layers=(), tiles=None, **output):
    """A run in this process."""
    job = pipeline.Job(
        source={"path": image, "axes": "cyx"} if isinstance(image, np.ndarray) else image,
        tiles={"size": tile, **(tiles or {})},
        segmenters=segmenter if isinstance(segmenter, dict) else {"scene": segmenter},
        layers=list(layers),
        output={"path": str(out), **output},
    )
    return pipeline.run(job, pipeline.local())


@st.composite
def answers(draw):
    """What a network may answer, smooth noise with pixels that were not measured, and a decoder for
    it.
    """
    shape = draw(st.sampled_from([(31, 44), (24, 70), (1, 50)]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    background = draw(st.sampled_from([0, 2, None]))
    number = 4 + (background is not None)
    rough = ndimage.gaussian_filter(
        rng.normal(size=(number + 2, *shape)), (0, *(draw(st.sampled_from([0.5, 1.5])),) * 2)
    )
    channels = (rough / rough.std(axis=(1, 2), keepdims=True)).astype(np.float32)
    channels[:, rng.random(shape) < 0.02] = np.nan
    kind = draw(st.sampled_from(["boundary", "flows"]))
    return channels, Panoptic(
        things=draw(st.sampled_from([(2, 3), (4, 1), (3,)])),
        background=background,
        instances={"kind": kind},
    )


@pytest.mark.heavy
@settings(max_examples=40, deadline=None)
@given(answers(), st.integers(6, 30), st.integers(6, 40))
def test_things_and_stuff_are_those_of_the_whole_image(answer, rows, columns):
    """In any tiles, objects are what the decoder draws on the whole image, each of the class of
    most of its pixels, and all is proved.
    """
    channels, decoder = answer
    valid = ~np.isnan(channels).any(axis=0)
    objects, kinds = decoder(channels, valid), decoder.classify(channels, valid)
    with tempfile.TemporaryDirectory() as folder:
        result = ran(channels, decoder, Path(folder, "out"), [rows, columns], tiles={"halo": 2})
        labels, classes, table = result.labels.values, result.classes.values, result.objects
        told = json.loads(Path(folder, "out", "panoptic.json").read_text())
    np.testing.assert_array_equal(labels, in_raster_order(objects))
    expected = elected(labels, kinds, decoder.things)
    np.testing.assert_array_equal(classes, np.where(valid, expected, 255))
    np.testing.assert_array_equal(table["class"], [expected[labels == k][0] for k in table["id"]])
    segments = told["annotations"][0]["segments_info"]
    assert {s["certificate"] for s in segments} <= {"proved"}
    stuff = {s["category_id"]: s["area"] for s in segments if s["id"] > labels.max()}
    kinds, areas = np.unique(expected[valid & (labels == 0) & (expected > 0)], return_counts=True)
    assert stuff == dict(zip(kinds.tolist(), areas.tolist(), strict=True))
    assert {kind["id"]: kind["isthing"] for kind in told["categories"]} == {
        k: int(k in decoder.things) for k in np.unique(expected[expected > 0])
    }


@pytest.mark.heavy
@settings(max_examples=25, deadline=None)
@given(answers(), st.integers(5, 14))
def test_no_object_is_of_two_classes(answer, tile):
    """Where windows are too small to prove anything, an object is still of one class in all its
    tiles: that of most of all its pixels.
    """
    channels, decoder = answer
    valid = ~np.isnan(channels).any(axis=0)
    with tempfile.TemporaryDirectory() as folder:
        result = ran(channels, decoder, Path(folder, "out"), tile, tiles={"halo": 1, "max_halo": 1})
        labels, classes = result.labels.values.astype(np.int64), result.classes.values
    kinds = decoder.classify(channels, valid)
    np.testing.assert_array_equal(labels > 0, np.isin(kinds, decoder.things))
    np.testing.assert_array_equal(
        classes, np.where(valid, elected(labels, kinds, decoder.things), 255)
    )


@pytest.mark.parametrize("max_halo", [2, 500])
def test_classes_that_contradict_each_other_are_settled_over_the_whole_object(max_halo, tmp_path):
    """One object, most of which is of class 2 and whose first tiles hold more of class 3, is of
    class 2 in every tile, proved or not.
    """
    kinds = np.ones((12, 100), int)
    kinds[4:8, 5:95] = 2
    kinds[4:8, 5:40] = 3
    kinds[1:3, 50:60] = (
        # beside it another one, whose halves are of different classes: of equally many pixels the
        # lower class
        3
    )
    kinds[1:3, 55:60] = 2
    channels = np.concatenate(
        [
            8.0 * (kinds == np.arange(4)[:, None, None]),
            np.full((1, 12, 100), -9),
            (kinds > 1)[None] * 0.5,
        ]
    )
    result = ran(
        channels.astype(np.float32),
        Panoptic(things=(3, 2)),
        tmp_path / "out",
        10,
        tiles={"halo": 2, "max_halo": max_halo},
    )
    assert result.record["objects"] == 2
    assert set(result.objects["class"]) == {2}
    np.testing.assert_array_equal(result.classes.values, np.where(kinds > 1, 2, 1))
    told = dict(zip(result.objects["area"], result.objects["certificate"], strict=True))
    assert (told[360] == "proved", told[20]) == (max_halo == 500, "proved")


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return pipeline.UNet(weights=bundle(tmp_path_factory.mktemp("scene"), **FOUR), min_area=6)


@pytest.mark.parametrize("tile", [[64, 96], [37, 200]])
def test_a_network_draws_in_tiles_what_it_draws_on_the_whole_image(tile, network, tmp_path):
    """Objects and classes equal those of one forward of the whole image; objects that are too small
    leave nothing; all are proved.
    """
    image = scene(203, 230)
    channels, valid = whole(network, image), np.ones(image.shape[1:], bool)
    objects, kinds = network.decoder(channels, valid), network.decoder.classify(channels, valid)
    objects[(np.bincount(objects.ravel()) < 6)[objects]] = 0
    expected = in_raster_order(objects)
    result = ran(image, network, tmp_path / "out", tile)
    np.testing.assert_array_equal(result.labels.values, expected)
    np.testing.assert_array_equal(result.classes.values, elected(expected, kinds, (1, 4)))
    assert result.record["results"] == ["instance", "semantic", "panoptic"]
    assert result.record["certificates"]["proved"] == result.record["objects"] > 100
    assert set(np.unique(result.classes.values)) == {0, 1, 2, 3, 4}


def test_it_runs_once_for_a_window_also_in_two_layers(network, tmp_path, monkeypatch):
    """One layer of its things and one of its stuff give what it gives alone, the network run as
    often; other things may lie between.
    """
    calls = []
    forward = Resident.__call__
    monkeypatch.setattr(
        Resident,
        "__call__",
        lambda self, patches: calls.append(len(patches)) or forward(self, patches),
    )
    image = scene(150, 170)
    alone = ran(image, network, tmp_path / "alone", 70)
    once, layers = list(calls), [{"things": "scene"}, {"stuff": "scene"}]
    calls.clear()
    both = ran(image, network, tmp_path / "both", 70, layers=layers)
    assert calls == once
    np.testing.assert_array_equal(both.labels.values, alone.labels.values)
    np.testing.assert_array_equal(both.classes.values, alone.classes.values)
    assert both.objects.equals(alone.objects)
    assert both.record["legend"] == alone.record["legend"]
    for name in ("panoptic.json", "panoptic.png"):
        assert Path(both.path, name).read_bytes() == Path(alone.path, name).read_bytes()

    marks = pipeline.Threshold(band=1, value=150)
    every = {"scene": network, "marks": marks}
    stack = [
        {"things": "scene", "classes": {1: 12}},
        {"things": "marks", "classes": 9},
        {"stuff": "scene", "classes": {3: 0}},
    ]
    three = ran(image, every, tmp_path / "three", 70, layers=stack)
    classes, kinds = three.classes.values, alone.classes.values
    expected = np.where(
        kinds == 1,
        12,
        np.where(kinds == 4, 4, np.where(image[0] > 150, 9, np.where(kinds == 3, 0, kinds))),
    )
    np.testing.assert_array_equal(classes, expected)
    assert three.record["certificates"]["proved"] == three.record["objects"]


def test_a_network_that_looks_at_its_window_is_agreed(tmp_path):
    """Of a network without a reach, neither things nor stuff are called proved, and both are the
    same in any tiles.
    """
    pooled = {"encoder": "efficientnet-b0", "encoder_depth": 3, "decoder_channels": [16, 8, 8]}
    path = bundle(tmp_path, **FOUR, architecture=pooled, reach=None, window=64)
    image = scene(150, 170)
    one, many = (
        ran(image, pipeline.UNet(weights=path), tmp_path / str(tile), tile) for tile in (200, 64)
    )
    np.testing.assert_array_equal(one.labels.values, many.labels.values)
    np.testing.assert_array_equal(one.classes.values, many.classes.values)
    segments = json.loads(Path(many.path, "panoptic.json").read_text())["annotations"][0][
        "segments_info"
    ]
    told = (
        {s["certificate"] for s in segments},
        {s["certificate"] for s in segments if s["category_id"] in (2, 3)},
    )
    assert ("proved" in told[0], told[1]) == (False, {"agreed"})


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_job_file_is_short(tmp_path):
    """A job that names a source, a bundle and an output leaves rasters and COCO's files, with the
    card's names, from the command line.
    """
    image = scene(130, 150)
    profile = {
        "driver": "GTiff",
        "height": 130,
        "width": 150,
        "count": 3,
        "dtype": "uint8",
        "crs": "EPSG:32633",
    }
    with rasterio.open(
        tmp_path / "image.tif", "w", transform=rasterio.Affine(1, 0, 5e5, 0, -1, 5e6), **profile
    ) as file:
        file.write(image)
    job = {
        "source": str(tmp_path / "image.tif"),
        "tiles": {"size": 64},
        "segmenters": {"scene": {"kind": "unet", "weights": bundle(tmp_path, **FOUR)}},
        "output": {"path": str(tmp_path / "out"), "picture": True},
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    done = CliRunner().invoke(app, ["run", str(tmp_path / "job.yaml"), "--workers", "0"])
    assert done.exit_code == 0, done.output
    result = pipeline.Result(str(tmp_path / "out"))
    coded = np.asarray(Image.open(tmp_path / "out" / "panoptic.png"), np.int64)
    found = coded[..., 0] + 256 * coded[..., 1] + 65536 * coded[..., 2]
    labels, classes = result.labels.values, result.classes.values
    np.testing.assert_array_equal(np.where(labels > 0, found, 0), labels)
    told = json.loads((tmp_path / "out" / "panoptic.json").read_text())
    segments = {s["id"]: s for s in told["annotations"][0]["segments_info"]}
    assert sorted(segments) == np.unique(found[found > 0]).tolist()
    for number, segment in segments.items():
        assert (segment["area"], {segment["category_id"]}) == (
            (found == number).sum(),
            set(classes[found == number].tolist()),
        )
    assert {k["name"]: k["isthing"] for k in told["categories"]} == {
        "ground": 0,
        "tree": 1,
        "house": 1,
        "water": 0,
    }
    assert (tmp_path / "out" / "overview.png").stat().st_size > 1000
    assert CliRunner().invoke(app, ["verify", str(tmp_path / "out")]).exit_code == 0


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.sampled_from(["boundary", "flows"]), st.sampled_from([0, None])
)
def test_targets_are_what_gives_the_truth(seed, kind, background):
    """From the channels that a truth asks for, each class and each object comes back; what is not
    known is not asked for.
    """
    rng = np.random.default_rng(seed)
    decoder = Panoptic(
        things=(2, 3), background=background, instances={"kind": kind, "min_distance": 1}
    )
    truth = np.full((40, 50), CLASS)
    truth[20:] = 4 * CLASS
    if background == 0:
        truth[:, :3] = 0
    for k in range(6):
        row, column = 3 + 19 * (k // 3), 5 + 15 * (k % 3)
        truth[row : row + 9, column : column + rng.integers(7, 12)] = (
            rng.choice([2, 3]) * CLASS + k + 1
        )
    unknown = rng.random(truth.shape) < 0.05
    asked = decoder.targets(np.where(unknown, -1, truth))
    assert np.isnan(asked[:, unknown]).all()
    wanted = decoder.targets(truth)
    assert not np.isnan(wanted).any()
    number = 4 + (background == 0)
    logits = 9.0 * (wanted[0] == np.arange(number)[:, None, None])
    parting = wanted[2:].copy()
    if kind == "boundary":
        parting[0] = 12 * parting[0] - 6
    channels, valid = (
        np.concatenate([logits, parting]).astype(np.float32),
        np.ones(truth.shape, bool),
    )
    np.testing.assert_array_equal(decoder.classify(channels, valid), truth // CLASS)
    np.testing.assert_array_equal(
        in_raster_order(decoder(channels, valid)),
        in_raster_order(np.where(truth % CLASS, truth % CLASS, 0)),
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"things": []}, r"things: \[\]; allowed: the classes, from 1"),
        ({"things": [2, 2]}, "things: .*each once"),
        ({"things": [0]}, r"things: \[0\]; allowed: the classes, from 1"),
        ({"things": 2}, "things: 2; allowed"),
        (
            {"things": [2], "instances": {"kind": "affinities"}},
            "instances.kind: 'affinities'; allowed: boundary, flows",
        ),
        (
            {"things": [2], "instances": {"threshold": 0.4}},
            "instances.threshold: there is no such option of boundary where classes say",
        ),
        ({"things": [2], "background": -1}, "background: -1; allowed"),
    ],
    ids=str,
)
def test_refused_options(options, message):
    """Options that cannot be are refused, with what is allowed."""
    with pytest.raises(JobError, match=message):
        Panoptic(**options)


def test_refusals(network, tmp_path):
    """Things that the network has not, too few channels, layers of other tiles, a panoptic result
    of segmenters that draw objects only.
    """
    with pytest.raises(JobError, match=r"decoder.things: \(5,\); the network's classes are 1 to 4"):
        pipeline.UNet(
            weights=bundle(tmp_path, **{**FOUR, "decoder": {"kind": "panoptic", "things": [5]}})
        )
    with pytest.raises(
        SegmenterError,
        match="the network gives 2 channels; allowed: one for each class, and 2 more",
    ):
        Panoptic(things=(1,))(np.zeros((2, 4, 4), np.float32), np.ones((4, 4), bool))
    known = {
        "source": scene(20, 20),
        "segmenters": {"scene": network, "b": "threshold"},
        "output": {"path": "out"},
    }
    for layers, message in (
        (
            [
                {"things": "scene"},
                {"stuff": "scene", "when": {"mean": {"min": 5}}},
                {"things": "b", "classes": 9},
            ],
            "scene .* the same `when`",
        ),
        (
            [{"things": "scene"}, {"things": "scene"}, {"things": "b", "classes": 9}],
            "scene is in two layers; allowed: one that draws both, in",
        ),
        (
            [{"things": "scene"}, {"stuff": "b", "classes": 1}],
            r"class 1 is that of things and of stuff \(scene, b\)",
        ),
    ):
        with pytest.raises(JobError, match=message):
            pipeline.Job(**known, layers=layers)
    for things, message in (
        ([2, 9], "decoder.things: .* the classes are 1 to"),
        ([1, 2, 3, 4], "allowed: not all that there is"),
    ):
        decoder = {"kind": "panoptic", "things": things, "background": None}
        card = {
            **facts(classes=FOUR["classes"], decoder=decoder),
            "train": {"data": [{"image": "a.tif", "truth": "b.json"}]},
        }
        with pytest.raises(JobError, match=message):
            recipe.read(card, tmp_path)
    with pytest.raises(
        JobError,
        match=r"output.results: panoptic; allowed with layers, .* or where every segmenter draws "
        r"both",
    ):
        pipeline.Job(
            **{**known, "output": {"path": "out", "results": ["panoptic"]}}, route=["scene"]
        )
