"""Bundles of networks with random weights, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from pipeline.networks import architectures
from pipeline.networks.card import Card

SMALL = {"encoder": "mobilenet_v2", "encoder_depth": 3, "decoder_channels": [16, 8, 8]}


def scene(rows: int, columns: int, bands: int = 3) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Blobs, in some bands."""
    rng = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(rng.random((bands, rows, columns)), (0, 4, 4))
    return (255 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.uint8)


def facts(kind: str = "unet", **more: Any) -> dict[str, Any]:
    """What a card says of such a network."""
    known = {
        "name": "random",
        "kind": kind,
        "bands": ["red", "green", "blue"],
        "classes": ["a", "b"],
        "architecture": SMALL,
    }
    known |= {
        "value_scaling": {"type": "z-score", "mean": 120, "stddev": 50},
        "stride": 8,
        "reach": 51,
        "window": 128,
    }
    return {**known, **more}


def random_network(card: Card, seed: int = 0) -> torch.nn.Module:
    """Weights that are spread enough to tell pixels apart."""
    torch.manual_seed(seed)
    network = architectures.build(card).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.fill_(0.3)
    return network


def bundle(folder: Path, kind: str = "unet", seed: int = 0, **more: Any) -> str:
    """A bundle in a file of its own."""
    card = Card(**facts(kind, **more))
    path = folder / f"{kind}{seed}-{len(list(folder.iterdir()))}.safetensors"
    architectures.save(card, random_network(card, seed), str(path))
    return str(path)
