"""Bundles: each kind of network runs from one, and what cannot be one is refused with what to do."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml

import pipeline
from pipeline.errors import JobError, SegmenterError
from pipeline.networks import architectures
from pipeline.networks.card import Card, read
from tests.networks import bundle, facts, random_network, scene


class Halves(torch.nn.Module):
    """What a pickle of a whole network holds."""


def folder(path: Path, name: str, write: Callable[[torch.nn.Module, str], Any], **more: Any) -> str:
    """A bundle as a folder, whose weights something writes."""
    card = Card(**facts(**{"kind": "unet", **more}))
    network = random_network(Card(**facts("unet")))
    path.mkdir(exist_ok=True)
    write(network, str(path / name))
    (path / "card.yaml").write_text(yaml.safe_dump({**card.plain(), "weights": name}))
    return str(path)


def example() -> torch.Tensor:
    return torch.zeros(1, 3, 128, 128)


@pytest.fixture(scope="module")
def logits(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray[Any, Any]:
    """What the U-Net itself answers for the scene."""
    network = pipeline.UNet(weights=bundle(tmp_path_factory.mktemp("unet")))
    return network.predict(scene(128, 128), np.ones((128, 128), bool))


def exporters() -> dict[str, tuple[str, Callable[[torch.nn.Module, str], Any], Callable[[str], Any]]]:
    """By kind: the file, what writes it, and the segmenter of it."""
    size = torch.export.Dim
    moving = ({0: size("batch"), 2: size.DYNAMIC, 3: size.DYNAMIC},)
    return {
        "torchscript": (
            "network.pt",
            lambda network, path: torch.jit.trace(network, example()).save(path),
            lambda path: pipeline.TorchScript(weights=path, unsafe=True, reach=None) if False else pipeline.TorchScript(weights=path, unsafe=True),
        ),
        "pt2": (
            "network.pt2",
            lambda network, path: torch.export.save(torch.export.export(network, (torch.zeros(2, 3, 128, 128),), strict=False), path),
            lambda path: pipeline.PT2(weights=path),
        ),
        "onnx": (
            "network.onnx",
            lambda network, path: torch.onnx.export(network, (example(),), path, dynamo=False, input_names=["image"], dynamic_axes={"image": [0, 2, 3]}),
            lambda path: pipeline.ONNX(weights=path),
        ),
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["torchscript", "onnx"])
def test_an_exported_network_answers_as_the_network_itself(kind: str, logits: np.ndarray[Any, Any], tmp_path: Path) -> None:
    """The same weights as TorchScript or ONNX give the same logits, and labels from the command's own door."""
    name, write, made = exporters()[kind]
    network = made(folder(tmp_path / "bundle", name, write, kind=kind))
    image = scene(128, 128)
    assert np.allclose(network.predict(image, np.ones((128, 128), bool)), logits, atol=1e-4)
    result = pipeline.segment(image, network, tmp_path / "out", tile=64, engine=pipeline.local())
    assert result.record["results"] == ["semantic"]
    assert result.record["legend"]["1"]["name"] == "a"
