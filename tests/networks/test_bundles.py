"""Bundles: each kind of network runs from one, and what cannot be one is refused with
what to do.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import safetensors.torch
import torch
import yaml
import zarr
from typer.testing import CliRunner

import pipeline
from pipeline.__main__ import app
from pipeline.errors import JobError, SegmenterError
from pipeline.imageops.histograms import Histogram
from pipeline.networks.card import Card, read
from tests.small_networks import bundle, facts, random_network, scene

EVERYWHERE = np.ones((128, 128), bool)
DYNAMIC: Any = torch.export.Dim.DYNAMIC


def folder(path: Path, name: str, write: Callable[[torch.nn.Module, str], Any], **more: Any) -> str:
    """A bundle as a folder, whose weights something writes."""
    network = random_network(Card(**facts()))
    path.mkdir(exist_ok=True)
    write(network, str(path / name))
    (path / "card.yaml").write_text(
        yaml.safe_dump({**Card(**facts(**more)).plain(), "weights": name})
    )
    return str(path)


def export_pt2(network: torch.nn.Module, path: str) -> None:
    shapes = ({0: DYNAMIC, 2: DYNAMIC, 3: DYNAMIC},)
    torch.export.save(
        torch.export.export(network, (torch.zeros(2, 3, 128, 160),), dynamic_shapes=shapes), path
    )


def export_onnx(network: torch.nn.Module, path: str) -> None:
    options: dict[str, Any] = {
        "dynamo": False,
        "input_names": ["image"],
        "dynamic_axes": {"image": [0, 2, 3]},
    }
    torch.onnx.export(network, (torch.zeros(1, 3, 128, 128),), path, **options)


def export_script(network: torch.nn.Module, path: str) -> None:
    torch.jit.trace(network, torch.zeros(1, 3, 128, 128)).save(path)


def state(network: torch.nn.Module, path: str) -> None:
    torch.save(network.state_dict(), path)


EXPORTS: dict[str, tuple[str, Callable[[torch.nn.Module, str], None], Any]] = {
    "unet": ("network.pt", state, pipeline.UNet),
    "torchscript": (
        "network.pt",
        export_script,
        functools.partial(pipeline.TorchScript, unsafe=True),
    ),
    "pt2": ("network.pt2", export_pt2, pipeline.PT2),
    "onnx": ("network.onnx", export_onnx, pipeline.ONNX),
}


@pytest.fixture(scope="module")
def logits(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray[Any, Any]:
    """What the U-Net itself answers for the scene."""
    return pipeline.UNet(weights=bundle(tmp_path_factory.mktemp("unet"))).predict(
        scene(128, 128), EVERYWHERE
    )


@pytest.mark.filterwarnings("ignore")  # of exporters that are about to go
@pytest.mark.parametrize("kind", EXPORTS)
def test_an_exported_network_answers_as_the_network_itself(
    kind: str, logits: np.ndarray[Any, Any], tmp_path: Path
) -> None:
    """The same weights as a state_dict, TorchScript, an exported program or ONNX give the same
    logits, and the legend of the card.
    """
    name, write, made = EXPORTS[kind]
    network = made(weights=folder(tmp_path / "bundle", name, write, kind=kind))
    image = scene(128, 128)
    assert np.allclose(network.predict(image, EVERYWHERE), logits, atol=1e-4)
    result = pipeline.segment(image, network, tmp_path / "out", tile=64, engine=pipeline.local())
    assert result.record["results"] == ["semantic"]
    assert result.record["legend"]["1"]["name"] == "a"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["fcn", *EXPORTS])
def test_every_kind_from_the_command_line(kind: str, tmp_path: Path) -> None:
    """Each kind segments a GeoTIFF and a Zarr from the command line, and gives the same classes."""
    image = scene(100, 120)
    if kind == "fcn":
        weights = bundle(tmp_path, "fcn", architecture={}, reach=232, window=8)
    else:
        name, write, _ = EXPORTS[kind]
        weights = folder(tmp_path / "bundle", name, write, kind=kind)
    profile = {
        "driver": "GTiff",
        "height": 100,
        "width": 120,
        "count": 3,
        "dtype": "uint8",
        "crs": "EPSG:32633",
    }
    with rasterio.open(
        tmp_path / "image.tif", "w", transform=rasterio.Affine(1, 0, 5e5, 0, -1, 5e6), **profile
    ) as file:
        file.write(image)
    zarr.create_array(tmp_path / "image.zarr", data=image, chunks=(3, 64, 64))
    more = ["--option", "unsafe=true"] if kind == "torchscript" else []
    found = []
    for name in ("image.tif", "image.zarr"):
        out = tmp_path / f"{name}.out"
        options = [
            "--with",
            kind,
            "--option",
            f"weights={weights}",
            "--workers",
            "0",
            "--quiet",
            *more,
        ]
        done = CliRunner().invoke(app, ["segment", str(tmp_path / name), str(out), *options])
        assert done.exit_code == 0, done.output
        found.append(np.asarray(pipeline.Result(str(out)).classes))
    assert np.array_equal(*found)
    assert len(np.unique(found[0])) > 1


class Payload:
    """What a pickle may do when it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("owned",)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
def test_a_pickle_is_refused_and_nothing_in_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights that could run code are refused, with what to save instead; a TorchScript archive
    too.
    """
    monkeypatch.chdir(tmp_path)
    path = folder(tmp_path / "bundle", "network.pt", lambda _, place: torch.save(Payload(), place))
    with pytest.raises(
        JobError, match=r"can run code when it is read, .* as safetensors.*unsafe: true"
    ):
        pipeline.UNet(weights=path).predict(scene(128, 128), EVERYWHERE)
    assert not Path("owned").exists()
    script = folder(tmp_path / "script", "network.pt", export_script, kind="torchscript")
    with pytest.raises(JobError, match=r"export the network as ONNX or pt2"):
        pipeline.TorchScript(weights=script).predict(scene(128, 128), EVERYWHERE)
    Path("disguised.safetensors").write_bytes(Path(path, "network.pt").read_bytes())
    with pytest.raises(JobError, match="is no safetensors file"):
        pipeline.UNet(weights="disguised.safetensors")


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    """Missing, surplus and misshapen weights are told by their names."""

    def spoil(network: torch.nn.Module, place: str) -> None:
        tensors = network.state_dict()
        first, second, *_ = tensors
        tensors["another"] = tensors.pop(first)
        tensors[second] = torch.zeros(1)
        torch.save(tensors, place)

    path = folder(tmp_path / "bundle", "network.pt", spoil)
    with pytest.raises(
        JobError,
        match=r"do not fit the architecture: \S+ is missing; another is not in the architecture; "
        r"\S+ is \(1,\)",
    ):
        pipeline.UNet(weights=path).predict(scene(128, 128), EVERYWHERE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": []}, "classes is missing; a card says"),
        ({"bands": []}, "bands is missing"),
        ({"clases": ["a"]}, "clases: there is no such key; .*did you mean 'classes'"),
        (
            {"value_scaling": {"type": "zscore"}},
            "value_scaling.type: 'zscore'; .*did you mean 'z-score'",
        ),
        (
            {"value_scaling": {"type": "z-score", "mean": [1, 2], "stddev": 1}},
            r"value_scaling.mean: \[1, 2\]; allowed: one number, or one",
        ),
        ({"stride": 0}, "stride: 0; allowed: a whole number of pixels, from 1"),
        ({"colours": ["#ffffff"]}, "colours: 1 for 2 classes"),
        ({"decoder": {"kind": "bondary"}}, "decoder.kind: 'bondary'; .*did you mean 'boundary'"),
        (
            {"decoder": {"kind": "semantic", "treshold": 1}},
            "decoder.treshold: .*did you mean 'threshold'",
        ),
        ({"weights": "../other.safetensors"}, "leads out of the bundle"),
        ({"weights": "other.safetensors"}, "there is no other.safetensors beside the card"),
        ({"kind": "fcn"}, "is a bundle of kind 'fcn'; allowed: kind: fcn"),
        ({"sha256": "0" * 64}, "the card's sha256: 0+; the weights in network.pt have"),
    ],
)
def test_cards_that_cannot_be(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    """A mistake in a card is answered with the key, what was given and what is allowed."""
    path = folder(tmp_path / "bundle", "network.pt", state)
    card = yaml.safe_load(Path(path, "card.yaml").read_text())
    Path(path, "card.yaml").write_text(yaml.safe_dump({**card, **change}))
    with pytest.raises(JobError, match=message):
        pipeline.UNet(weights=path)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda path: pipeline.UNet(weights=f"{path}.nowhere"), "there is no such file"),
        (lambda path: pipeline.UNet(weights=path, sha256="1" * 64), "sha256: 1+; the weights"),
        (
            lambda path: pipeline.UNet(weights=path, precision="float8"),
            "precision: 'float8'; allowed",
        ),
        (
            lambda path: pipeline.UNet(weights=path, device="tpu"),
            "device: 'tpu'; allowed: auto, cpu",
        ),
        (
            lambda path: pipeline.UNet(weights=path, bands=(1, 2)),
            "bands: 2 bands; the network takes 3: red, green, blue",
        ),
        (
            lambda path: pipeline.UNet(weights=path, margin=20, window=36),
            "a window of whole strides",
        ),
    ],
)
def test_options_that_cannot_be(made: Callable[[str], Any], message: str, tmp_path: Path) -> None:
    """A mistake in an option is answered before any work."""
    path = bundle(tmp_path)
    with pytest.raises(JobError, match=message):
        made(path)


def test_images_that_are_none_for_a_network(tmp_path: Path) -> None:
    """A missing band, a wider type, other pixels and values of another range are refused, the first
    three before any work.
    """
    path = bundle(tmp_path, data_type="uint8", value_range=[0, 255])
    network = pipeline.UNet(weights=path)
    image = scene(128, 128)
    with pytest.raises(
        JobError,
        match=r"segmenters.unet: bands: the network takes red, green, blue, and the image has",
    ):
        pipeline.segment(image[:2], network, tmp_path / "a", engine=pipeline.local())
    with pytest.raises(JobError, match="was trained on uint8, and the image is uint16"):
        pipeline.segment(image.astype(np.uint16), network, tmp_path / "b", engine=pipeline.local())
    with pytest.raises(
        SegmenterError, match=r"trained on values from 0 to 255, and these are .* scale the image"
    ):
        pipeline.segment(image * 4.0, network, tmp_path / "c", engine=pipeline.local())
    profile = {
        "driver": "GTiff",
        "height": 128,
        "width": 128,
        "count": 3,
        "dtype": "uint8",
        "crs": "EPSG:32633",
    }
    with rasterio.open(
        tmp_path / "image.tif", "w", transform=rasterio.Affine(2, 0, 0, 0, -2, 0), **profile
    ) as file:
        file.write(image)
    metres = bundle(tmp_path, pixel_size=0.5)
    with pytest.raises(
        JobError,
        match=r"trained on pixels of 0.5 metre, and the image's are 2 metre; .*pixel_size: any",
    ):
        pipeline.segment(
            tmp_path / "image.tif",
            pipeline.UNet(weights=metres),
            tmp_path / "d",
            engine=pipeline.local(),
        )
    taken = pipeline.UNet(weights=metres, pixel_size="any")
    assert pipeline.segment(
        tmp_path / "image.tif", taken, tmp_path / "e", engine=pipeline.local()
    ).record["complete"]


def test_a_network_that_returns_no_number_fails_its_tile(tmp_path: Path) -> None:
    """NaN in the weights: the tile is named, and nothing is published."""

    def spoil(network: torch.nn.Module, place: str) -> None:
        tensors = network.state_dict()
        name = next(name for name in tensors if name.endswith("weight"))
        tensors[name] = torch.full_like(tensors[name], torch.nan)
        torch.save(tensors, place)

    network = pipeline.UNet(weights=folder(tmp_path / "bundle", "network.pt", spoil))
    with pytest.raises(
        SegmenterError,
        match=r"no tile succeeded: .*the network returned values that are no finite numbers",
    ):
        pipeline.segment(
            scene(128, 128), network, tmp_path / "out", tile=64, engine=pipeline.local()
        )
    assert not (tmp_path / "out" / "labels.zarr").exists()


def test_a_bundle_comes_back_as_it_was_written(tmp_path: Path) -> None:
    """A card in a safetensors file is read as it was saved, and halves are read as floats."""
    card = Card(**facts(metrics={"f1": 0.9}, colours=["#112233", "#445566"], value_range=[0, 1]))
    path = bundle(tmp_path, metrics={"f1": 0.9}, colours=["#112233", "#445566"], value_range=[0, 1])
    assert read(path).card == card
    assert set(safetensors.torch.load_file(path)) == set(random_network(card).state_dict())


def test_percentiles_may_be_one_for_each_band() -> None:
    """A card that gives a percentile for each band is fitted band by band, and one number is for
    all.
    """
    ramp = Histogram(np.ones(100, np.int64), np.arange(100.0))
    many = Card(**facts(value_scaling={"type": "percentiles", "low": [1, 11, 21], "high": 91}))
    assert many.spans([ramp] * 3) == ((0.0, 90.0), (10.0, 90.0), (20.0, 90.0))
