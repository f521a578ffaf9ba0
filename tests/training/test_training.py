"""Training: from a card, images and truth to a bundle, on blobs that are made here and on real
nuclei.
"""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
import yaml
from PIL import Image
from typer.testing import CliRunner

import pipeline
from pipeline.__main__ import app
from pipeline.errors import JobError, ResumeError
from pipeline.evaluation import against_truth, metrics
from pipeline.image.grid import Box
from pipeline.image.legend import CLASS
from pipeline.jobs.job import from_yaml
from pipeline.networks import architectures
from pipeline.networks import card as cards
from pipeline.segmenters.decoders.affinities import Affinities, Boundary, Flows, Panoptic, Semantic
from pipeline.segmenters.network import UNet
from pipeline.sources import open_source
from pipeline.training import loop, recipe, samples
from pipeline.training.appraisal import appraise
from pipeline.training.augmentation import Augment, Place, varied
from pipeline.training.losses import loss

pytestmark = [
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
]
WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"


def blobs(seed, size=96, number=12):
    """Round bright objects on a dark ground, some of which touch, and which is which."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size]
    labels = np.zeros((size, size), np.uint16)
    for name in range(1, number + 1):
        row, column, radius = rng.uniform(0, size), rng.uniform(0, size), rng.uniform(5, 9)
        labels[((rows - row) ** 2 + (columns - column) ** 2 < radius**2) & (labels == 0)] = name
    image = np.where(labels > 0, 120 + 5 * labels, 20) + rng.normal(0, 5, labels.shape)
    return np.clip(image, 0, 255).astype(np.uint8), labels


def write(path, *bands):
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=len(bands),
        height=bands[0].shape[0],
        width=bands[0].shape[1],
        dtype=bands[0].dtype,
    ) as file:
        file.write(np.stack(bands))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four images with truth."""
    place = tmp_path_factory.mktemp("blobs")
    for name in range(4):
        image, labels = blobs(name)
        write(place / f"{name}.tif", image)
        write(place / f"{name}_labels.tif", labels)
    return place


def parts(**train):
    """A card for a tiny network, as a mapping."""
    return {
        "name": "tiny",
        "kind": "unet",
        "bands": ["1"],
        "classes": ["blob"],
        "architecture": {
            "encoder": "tu-tf_mobilenetv3_small_minimal_100",
            "encoder_depth": 1,
            "decoder_channels": [8],
        },
        "decoder": {"kind": "boundary"},
        "value_scaling": {"type": "percentiles", "low": 1, "high": 99.8},
        "window": 64,
        "train": {
            "data": [{"image": "*.tif", "truth": "*_labels.tif"}],
            "held_out": ["3.tif"],
            "steps": 4,
            "batch": 2,
            "crop": 32,
            "every": 2,
            "seed": 3,
            "device": "cpu",
            **train,
        },
    }


def tiny(folder, **train):
    return recipe.read(parts(**train), folder)


def weights(bundle):
    return architectures.weights(cards.read(str(bundle)))


def test_same_seed_same_weights(folder, tmp_path):
    """Two trainings by one recipe leave equal weights; another seed leaves others."""
    first, second = (loop.train(tiny(folder), tmp_path / name) for name in "ab")
    other = loop.train(tiny(folder, seed=4), tmp_path / "c")
    for name, tensor in weights(first).items():
        torch.testing.assert_close(weights(second)[name], tensor, rtol=0, atol=0)
    assert any(
        not torch.equal(weights(other)[name], tensor) for name, tensor in weights(first).items()
    )


def test_python_and_the_command_train_alike(folder, tmp_path):
    """`pipeline.train` and the command leave equal weights and logs of equal steps."""
    card = folder / "alike.yaml"
    card.write_text(yaml.safe_dump(parts()))
    changed = {"train.steps": 2, "train.seed": 5}
    said = []
    ours = pipeline.train(card, tmp_path / "python", changes=changed, say=said.append)
    options = [word for key, value in changed.items() for word in ("--set", f"{key}={value}")]
    done = CliRunner().invoke(app, ["train", str(card), str(tmp_path / "command"), *options])
    assert done.exit_code == 0, done.output
    theirs = tmp_path / "command" / ours.name
    for name, tensor in weights(ours).items():
        torch.testing.assert_close(weights(theirs)[name], tensor, rtol=0, atol=0)
    assert said[0].partition(";")[0] == done.stdout.partition(";")[0]


def test_going_on_is_the_same(folder, tmp_path):
    """A training that is interrupted after its first evaluation goes on to the weights of one that
    was not.
    """

    def interrupt(event):
        if event.done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.train(tiny(folder), tmp_path / "a", watch=interrupt)
    assert not (tmp_path / "a" / "tiny.safetensors").exists()
    steps = []
    gone_on = loop.train(tiny(folder), tmp_path / "a", watch=lambda event: steps.append(event.done))
    assert steps == [2, 3, 4]
    whole = loop.train(tiny(folder), tmp_path / "b")
    for name, tensor in weights(whole).items():
        torch.testing.assert_close(weights(gone_on)[name], tensor, rtol=0, atol=0)
    log = re.sub(r"; \d+ s", "", (tmp_path / "a" / "log.txt").read_text()).splitlines()
    assert (
        log[:2] == re.sub(r"; \d+ s", "", (tmp_path / "b" / "log.txt").read_text()).splitlines()[:2]
    )
    said = []
    assert loop.train(tiny(folder), tmp_path / "a", say=said.append) == gone_on
    assert "complete already" in said[0]
    with pytest.raises(ResumeError, match=r"another recipe.*--fresh"):
        loop.train(tiny(folder, seed=9), tmp_path / "a")


def test_it_learns_and_the_bundle_says_so(folder, tmp_path):
    """Half a minute teaches a small network to find blobs; its bundle alone finds them, as well as
    its card says.
    """
    found = tiny(
        folder,
        steps=150,
        batch=4,
        crop=64,
        every=50,
        learning_rate=0.02,
        augment={"zoom": 1.1, "gamma": 0.1, "blur": 0.5},
        half=True,
    )
    changed = {**found.card.architecture, "encoder_depth": 3, "decoder_channels": [32, 16, 16]}
    found = dataclasses.replace(found, card=dataclasses.replace(found.card, architecture=changed))
    bundle = cards.read(str(loop.train(found, tmp_path)))
    card = bundle.card
    assert card.metrics["f1"] > 0.7
    assert card.stride == 8
    assert card.reach is not None
    assert card.training["images"] == ["0.tif", "1.tif", "2.tif"]
    assert list(card.metrics["images"]) == ["3.tif"]
    network = architectures.load(bundle)
    image, truth = blobs(3)
    given = card.scaled(
        image[None],
        np.ones(image.shape, bool),
        ((*np.percentile(image, (1, 99.8), method="inverted_cdf"),),),
    )
    with torch.inference_mode():
        channels = network(torch.from_numpy(given)[None])[0].numpy()
    drawn = Boundary()(channels, np.ones(image.shape, bool))
    assert abs(len(np.unique(drawn)) - 1 - card.metrics["objects"]) <= 1
    assert ((drawn > 0) & (truth > 0)).sum() > 0.8 * (truth > 0).sum()
    for name in ("curves.png", "predictions.png"):
        assert np.ptp(np.asarray(Image.open(tmp_path / name))) > 100


def test_classes_learn_where_truth_is_sparse(folder, tmp_path):
    """Classes are learned from truth that is known at few pixels, the others being given as
    missing.
    """
    rng = np.random.default_rng(0)
    place = tmp_path / "sparse"
    place.mkdir()
    for name in range(3):
        image, labels = blobs(name)
        classes = np.where(
            rng.random(labels.shape) < 0.1, (labels > 0).astype(np.int16) + 1, -1
        ).astype(np.int16)
        write(place / f"{name}.tif", image)
        write(place / f"{name}_labels.tif", classes)
    given = parts(
        steps=80,
        batch=4,
        crop=64,
        every=40,
        learning_rate=0.02,
        held_out=["2.tif"],
        augment={"zoom": 1.0},
    )
    given |= {"classes": ["ground", "blob"], "decoder": {"kind": "semantic", "background": None}}
    given["train"]["data"] = [{"image": "*.tif", "truth": "*_labels.tif", "missing": -1}]
    card = cards.read(str(loop.train(recipe.read(given, place), tmp_path / "out"))).card
    assert card.metrics["iou"] > 0.75


def test_what_is_held_out_is_not_trained_on(folder, tmp_path):
    """Another held-out image changes the figures and nothing else; shares are chosen by names and
    seed, and do not hang on the order.
    """
    for name in range(4):
        for kind in ("", "_labels"):
            (tmp_path / f"{name}{kind}.tif").write_bytes(
                (folder / f"{name}{kind}.tif").read_bytes()
            )
    first = loop.train(tiny(tmp_path, every=4), tmp_path / "a")
    write(tmp_path / "3.tif", blobs(7)[0])
    second = loop.train(tiny(tmp_path, every=4), tmp_path / "b")
    for name, tensor in weights(first).items():
        torch.testing.assert_close(weights(second)[name], tensor, rtol=0, atol=0)
    names = [f"{k}.png" for k in range(20)]
    share = tiny(folder, held_out=0.3)
    assert len(share.held(names)) == 6
    assert (
        share.held(names)
        == share.held(names[::-1])
        != tiny(folder, held_out=0.3, seed=1).held(names)
    )


DECODERS = {
    "boundary": (Boundary(), 3),
    "flows": (Flows(), 3),
    "affinities": (Affinities(), 3),
    "semantic": (Semantic(), 3),
    "one": (Semantic(), 1),
    "panoptic": (Panoptic(things=(2,)), 5),
}


@pytest.mark.parametrize("name", DECODERS)
def test_loss(name):
    """The loss is least for what the decoder wants; what is not known, and what is answered there,
    changes neither it nor its gradient.
    """
    decoder, channels = DECODERS[name]
    labels = blobs(1, 48, 4)[1].astype(np.int64)
    labels = (
        np.minimum(labels, 1 if name == "one" else 2) if isinstance(decoder, Semantic) else labels
    )
    if name == "panoptic":  # two blobs are things, the others stuff, all on background
        labels = np.where(labels > 2, CLASS, np.where(labels > 0, 2 * CLASS + labels, 0))
    wanted = torch.from_numpy(decoder.targets(labels))[None]
    if isinstance(decoder, Semantic) and channels > 1:
        ideal = (
            torch.nn.functional.one_hot(wanted[:, 0].long(), channels).movedim(-1, 1) * 20.0 - 10
        )
    elif name == "panoptic":
        kinds = torch.nn.functional.one_hot(wanted[:, 0].long(), 3).movedim(-1, 1) * 20.0 - 10
        ideal = torch.cat([kinds, wanted[:, 2:3] * 40 - 20, wanted[:, 3:]], dim=1).nan_to_num(0)
    else:
        regressions = {"boundary": (2,), "flows": (1, 2)}.get(name, ())
        ideal = torch.stack(
            [wanted[0, k] if k in regressions else wanted[0, k] * 20 - 10 for k in range(channels)]
        )[None].nan_to_num(0)
    assert loss(decoder, ideal, wanted) < 0.01
    torch.manual_seed(0)
    answer = torch.randn(1, channels, 48, 48)
    assert loss(decoder, answer, wanted) > 0.5
    hidden = torch.zeros(48, 48, dtype=torch.bool)
    hidden[10:30, 5:40] = True
    wanted = torch.where(hidden, torch.nan, wanted)
    first = answer.clone().requires_grad_()
    second = torch.where(hidden, 50 * torch.randn(answer.shape), answer).requires_grad_()
    for one in (first, second):
        loss(decoder, one, wanted).backward()
    assert (first.grad[..., hidden] == 0).all()
    assert first.grad[..., ~hidden].abs().sum() > 0
    torch.testing.assert_close(second.grad, first.grad)


def test_crops_agree_with_their_truth(folder):
    """However a crop is zoomed, mirrored and turned, bright pixels are where the foreground is
    wanted, and what is not measured is not known.
    """
    image, labels = blobs(5, 120, 20)
    measured = np.ones(image.shape, bool)
    measured[40:60, 30:50] = False
    pair = samples.gathered(tiny(folder))[0][0]
    given = pair.card.scaled(image[None], measured, ((20.0, 140.0),))
    pair = dataclasses.replace(
        pair,
        image=open_source(image),
        kept=(given, np.where(measured, labels.astype(np.int64), -1), measured),
    )
    still = Augment(zoom=1.5, brightness=0, contrast=0, gamma=0, noise=0, blur=0)
    unknown = 0
    for seed in range(40):
        values, wanted = samples.crop([pair], Boundary(), 48, still, np.random.default_rng(seed))
        assert values.shape == (1, 48, 48)
        assert wanted.shape == (3, 48, 48)
        known = ~np.isnan(wanted[0])
        agree = (values[0] > 0.5) == (wanted[0] > 0.5)
        assert agree[known].mean() > 0.95
        assert (values[0][~known] == 0).all()
        unknown += (~known).sum()
    assert unknown


def test_small_images_are_known_where_they_are(folder):
    """Of an image smaller than a crop, what lies beyond it is not known, and its edge
    pixels go on.
    """
    pair = samples.gathered(tiny(folder))[0][0]
    values, wanted = samples.crop(
        [pair], Boundary(), 160, Augment(zoom=1, noise=0, blur=0), np.random.default_rng(0)
    )
    known = ~np.isnan(wanted[0])
    assert known.sum() == 96 * 96
    rows = np.flatnonzero(known.any(axis=1))
    assert (values[0][rows[-1] :] == values[0][rows[-1]]).all()


def test_turning_keeps_the_crop():
    """A crop of mirrored and turned layers is the crop, mirrored and turned: of eight forms, all
    occur.
    """
    layer = np.arange(20 * 30).reshape(20, 30)
    part = layer[4:12, 11:19]
    forms = {
        form.tobytes()
        for k in range(4)
        for form in (np.rot90(part, k).copy(), np.rot90(part.T, k).copy())
    }
    seen = set()
    for seed in range(60):
        place = Place((layer,), (4, 11)).turned(8, Augment(), np.random.default_rng(seed))
        seen.add(
            np.ascontiguousarray(samples._cut(place.layers[0], place.start, 8, "edge")).tobytes()
        )
    assert seen == forms


def test_shading_makes_objects_dimmer_each_by_itself():
    """Shaded objects lie between the ground and what they were, and the ground stays."""
    labels = np.zeros((40, 60), np.int64)
    labels[10:30, 5:25], labels[10:30, 35:55] = 1, 2
    image = np.where(labels > 0, 1.0, 0.2).astype(np.float32)[None]
    plain = Augment(brightness=0, contrast=0, gamma=0, noise=0, blur=0, shade=0.3)
    both = [
        varied(image, labels, plain, np.random.default_rng(seed))[0][[20, 20, 2], [15, 45, 2]]
        for seed in range(20)
    ]
    shaded = np.array([one for one in both if not np.allclose(one, [1, 1, 0.2], atol=1e-3)])
    assert 3 < len(shaded) < 17
    np.testing.assert_allclose(shaded[:, 2], 0.2, atol=1e-5)
    assert (shaded[:, :2] >= 0.2 + 0.3 * 0.8 - 1e-3).all()
    assert np.ptp(shaded[:, 0] - shaded[:, 1]) > 0.1


def test_percentiles_are_those_of_a_run(folder, tmp_path):
    """The values that become 0 and 1 are the image's percentiles as a run finds them, for whole
    numbers and for floats.
    """
    from pipeline.imageops.histograms import histogram

    for name, dtype in (("3.tif", np.uint8), ("floats.tif", np.float32)):
        image = blobs(3)[0].astype(dtype) * dtype(1)
        write(tmp_path / name, image)
        ends = samples._percentiles(open_source(str(tmp_path / name)), tiny(folder).card)
        counted = histogram(image, np.ones(image.shape, bool))
        assert ends == ((counted.percentile(1), counted.percentile(99.8)),)


def test_polygons_are_truth(folder, tmp_path):
    """Truth may be COCO's polygons: the crops are the same as of the raster of them."""
    square = [10, 20, 30, 20, 30, 50, 10, 50]
    labels = np.zeros((96, 96), np.uint8)
    labels[20:50, 10:30] = 1
    write(tmp_path / "a.tif", blobs(0)[0])
    write(tmp_path / "b.tif", blobs(0)[0])
    write(tmp_path / "a_truth.tif", labels)
    about = {
        "images": [{"id": 1, "file_name": "b.tif", "height": 96, "width": 96}],
        "categories": [{"id": 1, "name": "x"}],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 1,
                "bbox": [10, 20, 20, 30],
                "segmentation": [square],
                "iscrowd": 0,
            }
        ],
    }
    (tmp_path / "b.json").write_text(json.dumps(about))
    data = [{"image": "a.tif", "truth": "a_truth.tif"}, {"image": "b.tif", "truth": "b.json"}]
    train, held = samples.gathered(tiny(tmp_path, data=data, held_out=["b.tif"]))
    np.testing.assert_array_equal(train[0].kept[1], held[0].kept[1])
    np.testing.assert_array_equal(train[0].kept[1], labels)


def test_pixels_of_two_images_are_never_one_object(folder):
    """An ideal answer for several images has an F1 of 1, with as many objects as all have
    together.
    """
    pairs, _ = samples.gathered(tiny(folder))
    answers = {
        pair.kept[0].tobytes(): Boundary().targets(pair.kept[1])
        * np.array([20, 20, 1])[:, None, None]
        - np.array([10, 10, 0])[:, None, None]
        for pair in pairs
    }
    measures, shown = appraise(
        pairs,
        Boundary(),
        lambda image, valid, _start: Boundary()(answers[image.tobytes()].astype(np.float32), valid),
    )
    assert measures["truth"] == sum(len(np.unique(pair.kept[1])) - 1 for pair in pairs)
    assert measures["f1"] > 0.95
    assert len(shown) == 3


WRONG = {
    "no image": (
        {"data": [{"image": "nothing_*.tif", "truth": "*_labels.tif"}]},
        "no image at .*nothing_.*train.folder",
    ),
    "no truth": (
        {"data": [{"image": "*.tif", "truth": "*_mask.tif"}]},
        "0.tif has no truth: there is no .*0_mask.tif",
    ),
    "no object": ({"data": [{"image": "*.tif", "truth": "empty.png"}]}, "no object at all"),
    "other shape": (
        {"data": [{"image": "0.tif", "truth": "small.png"}]},
        "0.tif.*a raster of 10 x 12 pixels; allowed: the image's 96 x 96",
    ),
    "no band": ({"bands": [2]}, "0.tif: bands: the image has no band 2"),
    "bands": ({"bands": [1, 2]}, "bands: 2 bands; the network takes 1"),
    "key": ({"step": 3}, "train.step: there is no such key.*did you mean 'steps'"),
    "augment": ({"augment": {"blurr": 1}}, "train.augment.blurr: .*did you mean 'blur'"),
    "data": (
        {"data": [{"image": "*.tif", "thruth": "*"}]},
        r"train.data\[0\].thruth.*did you mean 'truth'",
    ),
    "crop": ({"crop": 33}, "train.crop: 33; allowed: a multiple of the network's stride, 2"),
    "held out": ({"held_out": ["7.tif"]}, "train.held_out: '7.tif' is none of the images"),
    "all held out": ({"held_out": ["*"]}, "all 4 images"),
    "precision": ({"precision": "float8"}, "train.precision: 'float8'.*did you mean"),
    "steps": ({"steps": 0}, "train.steps: 0; allowed: a whole number, from 1"),
    "rate": ({"learning_rate": "1e-3"}, "learning_rate: '1e-3'.*YAML wants 1.0e-3"),
}


@pytest.mark.parametrize("name", WRONG)
def test_errors(name, folder, tmp_path):
    """What is wrong is said, with what is allowed, and the exit code is 2."""
    train, message = WRONG[name]
    if name in ("no object", "other shape"):
        blank = np.zeros((96, 96) if name == "no object" else (10, 12), np.uint8)
        Image.fromarray(blank).save(folder / ("empty.png" if name == "no object" else "small.png"))
    card = folder / "card.yaml"
    card.write_text(
        yaml.safe_dump(parts(**({"held_out": []} if name == "other shape" else {}) | train))
    )
    found = CliRunner().invoke(app, ["train", str(card), str(tmp_path / "out")])
    assert found.exit_code == 2, found.output
    assert re.search(message, " ".join(found.output.split())), found.output
    assert not list((tmp_path / "out").glob("*.safetensors"))


@pytest.mark.parametrize(
    "left", [b"", b"PK\x03\x04 no archive", None], ids=["empty", "no archive", "cut short"]
)
def test_a_damaged_checkpoint(left, folder, tmp_path):
    """A checkpoint that was cut short is an error that says so, and what to do; the exit
    code is 3.
    """
    (folder / "card.yaml").write_text(yaml.safe_dump(parts(held_out=[], steps=2)))
    (tmp_path / "out").mkdir()
    if left is None:
        torch.save(
            {"recipe": "", "sight": [1, 1], "network": torch.zeros(1000)},
            tmp_path / "out/checkpoint.pt",
        )
        left = (tmp_path / "out/checkpoint.pt").read_bytes()[:2000]
    (tmp_path / "out/checkpoint.pt").write_bytes(left)
    found = CliRunner().invoke(app, ["train", str(folder / "card.yaml"), str(tmp_path / "out")])
    assert found.exit_code == 3, found.output
    assert (
        "checkpoint.pt is damaged, or no checkpoint; give another folder, or train anew: --fresh"
        in " ".join(found.output.split())
    )


def test_errors_of_the_card(folder):
    """Wrong keys of the card itself name the nearest right one; kinds that are loaded as exported
    are not trained.
    """
    for change, message in (
        ({"archtecture": {}}, "archtecture: there is no such key.*did you mean 'architecture'"),
        ({"kind": "onnx"}, "kind: 'onnx' cannot be trained here; allowed: fcn, maskrcnn, unet"),
        ({"decoder": {"kind": "boundry"}}, "decoder.kind: 'boundry'.*did you mean 'boundary'"),
        (
            {"decoder": {"kind": "boundary", "treshold": 1}},
            "decoder.treshold.*did you mean 'threshold'",
        ),
        ({"train": None}, "train: None; allowed: a mapping with data"),
    ):
        with pytest.raises(JobError, match=message):
            recipe.read(parts() | change, folder)


def test_a_job_in_place_of_a_card(tmp_path):
    """A job file is told from a card, and how it is run is said."""
    path = tmp_path / "job.yaml"
    path.write_text(
        "source: {path: a.tif}\nsegmenters: {it: {kind: threshold}}\noutput: {path: out}\n"
    )
    with pytest.raises(
        JobError,
        match=r"job\.yaml: this is no card but a job file, which is run by: tilewise run "
        r".*job\.yaml",
    ):
        recipe.from_yaml(path)


def test_classes_beyond_the_card(folder, tmp_path):
    """Truth of a class that the card does not name is refused before anything is learned."""
    given = parts() | {"decoder": {"kind": "semantic"}}
    with pytest.raises(JobError, match=r"0.tif: the truth has class 12, and the card 1: blob"):
        loop.train(recipe.read(given, folder), tmp_path / "out")


@pytest.mark.parametrize("path", sorted(WORKFLOWS.glob("*_train.yaml")), ids=lambda path: path.stem)
def test_cards_hold(path):
    """Each training card is one, and its network can be built; those of nuclei, whose bundles are
    shipped, are small.
    """
    found = recipe.from_yaml(path)
    network = architectures.build(found.card)
    if found.card.kind == "unet":
        assert found.train.crop % network.encoder.output_stride == 0
        assert sum(one.numel() for one in network.parameters()) * 2 < 5e6


@pytest.fixture(scope="module")
def shipped(shared):
    """The bundle beside the jobs, and the images that were held out when it was trained."""
    found = recipe.from_yaml(
        WORKFLOWS / "nuclei_fluorescence_train.yaml", {"train.folder": str(shared)}
    )
    return cards.read(str(WORKFLOWS / "nuclei_fluorescence.safetensors")), samples.gathered(found)[
        1
    ]


def test_shipped_bundle_is_of_its_card():
    """The bundle beside the jobs was trained by the card beside it, never on an image that is held
    out, and is small.
    """
    bundle = cards.read(str(WORKFLOWS / "nuclei_fluorescence.safetensors"))
    found = recipe.from_yaml(WORKFLOWS / "nuclei_fluorescence_train.yaml")
    assert bundle.card.training["recipe"] == found.fingerprint()
    assert not set(bundle.card.training["images"]) & set(found.train.held_out)
    assert bundle.path.stat().st_size < 5e6


@pytest.mark.heavy
def test_shipped_bundle_on_real_nuclei(shipped):
    """On real images that it was not trained on, the shipped network finds nuclei, as well as its
    card says and better than `blobs`.
    """
    bundle, held = shipped
    network = UNet(weights=str(bundle.path), device="cpu")
    rivals = from_yaml(WORKFLOWS / "nuclei_fluorescence.yaml").segmenters["nuclei"]
    ours, theirs = [], []
    for pair in held:
        block = pair.image.read(Box.whole(pair.shape))
        truth = pair.kept[1]
        found = metrics.objects(metrics.overlaps(metrics.Contingency.of(network(block), truth)))
        ours.append((found["at"][0.5]["matches"], found["objects"] + found["truth"]))
        labels = rivals(block)
        labels = np.where((np.bincount(labels.ravel()) >= rivals.min_area)[labels], labels, 0)
        other = metrics.objects(metrics.overlaps(metrics.Contingency.of(labels, truth)))
        theirs.append((other["at"][0.5]["matches"], other["objects"] + other["truth"]))
    f1, rival = (
        2 * sum(hit for hit, _ in each) / sum(all_ for _, all_ in each) for each in (ours, theirs)
    )
    assert f1 > 0.85
    assert f1 == pytest.approx(bundle.card.metrics["f1"], abs=0.01)
    assert f1 > rival


def panoptic_truth(folder, name, kinds, labels):
    """COCO's panoptic PNG and JSON: stuff has one number for each class, things one each."""
    numbers = np.where(labels > 0, 100 + labels, kinds).astype(np.int64)
    Image.fromarray(
        np.stack([numbers >> (8 * k) & 255 for k in range(3)], axis=2).astype(np.uint8)
    ).save(folder / f"{name}_truth.png")
    segments = [
        {"id": int(n), "category_id": int(kinds[numbers == n][0]), "iscrowd": 0}
        for n in np.unique(numbers)
        if n
    ]
    about = {
        "images": [{"id": 1, "file_name": f"{name}.tif"}],
        "annotations": [
            {"image_id": 1, "file_name": f"{name}_truth.png", "segments_info": segments}
        ],
        "categories": [
            {"id": 1, "name": "ground", "isthing": 0},
            {"id": 2, "name": "blob", "isthing": 1},
        ],
    }
    (folder / f"{name}_truth.json").write_text(json.dumps(about))


def test_things_and_stuff_are_learned_together(tmp_path):
    """From COCO's panoptic truth a network learns classes and objects; a run of its bundle has the
    panoptic quality that its card says.
    """
    for name in range(4):
        image, labels = blobs(name)
        image[:, :30] = np.where(labels[:, :30] > 0, image[:, :30], 0)  # what is no ground is void
        write(tmp_path / f"{name}.tif", image)
        kinds = np.where(labels > 0, 2, 1)
        kinds[:, :30] = np.where(labels[:, :30] > 0, 2, 0)
        panoptic_truth(tmp_path, name, kinds, labels.astype(np.int64))
    decoder = {"kind": "panoptic", "things": [2], "background": None}
    given = parts(steps=60, every=20, batch=4, learning_rate=0.01) | {
        "classes": ["ground", "blob"],
        "decoder": decoder,
    }
    given["train"]["data"] = [{"image": "*.tif", "truth": "*_truth.json"}]
    bundle = loop.train(recipe.read(given, tmp_path), tmp_path / "out")
    metrics = cards.read(str(bundle)).card.metrics
    assert metrics["pq"] > 0.5, metrics
    out = tmp_path / "result"
    pipeline.segment(
        tmp_path / "3.tif",
        {"kind": "unet", "weights": str(bundle), "device": "cpu"},
        out,
        engine=pipeline.local(),
        tile=48,
    )
    found = against_truth.evaluate(out, str(tmp_path / "3_truth.json"), kind="panoptic").measures
    assert found["pq"] == pytest.approx(metrics["pq"], abs=0.02)
