"""Networks from their cards: built by torchvision or segmentation-models-pytorch and filled with weights, or loaded as exported.

Weights are read as safetensors or by ``torch.load(weights_only=True)``. Whatever can run code when it is read (a pickle, a TorchScript
archive) is refused unless it is asked for by name. Weights of 16 bits become 32: halves are for shipping.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipeline.errors import JobError, SegmenterError, nearest
from pipeline.networks.card import SAFE, Bundle, Card

if TYPE_CHECKING:
    import torch

INSTALL = "pip install 'tilewise[networks]'"
FAMILIES = ("unet", "unetplusplus", "fpn", "linknet", "pspnet", "pan", "manet", "deeplabv3", "deeplabv3plus")
"""What segmentation-models-pytorch builds, by the option ``family`` of kind ``unet``."""
BACKBONES = ("resnet50", "resnet101")
INSTANCES = {"boundary": 3, "flows": 3, "affinities": 3}
"""Channels of the decoders to instances, in two dimensions."""
EXPORTED = ("torchscript", "pt2", "onnx")
"""Kinds that bring their architecture with them."""


def channels(card: Card) -> int:
    """How many channels a network gives: what its decoder wants, or one for each class and one for the background."""
    kind = str(card.decoder.get("kind", "semantic"))
    if kind in INSTANCES:
        return INSTANCES[kind]
    if len(card.classes) == 1 and card.decoder.get("threshold") is not None:
        return 1
    return len(card.classes) + (card.decoder.get("background", 0) is not None)


def build(card: Card) -> torch.nn.Module:
    """The network that a card describes, with random weights; JobError where the description does not hold."""
    options = dict(card.architecture)
    try:
        return _build_unet(card, options) if card.kind == "unet" else _build_torchvision(card, options)
    except ImportError as error:
        raise JobError(f"{card.kind} needs a package that is not installed ({error.name}); install it with: {INSTALL}") from error
    except (TypeError, ValueError, KeyError) as error:
        raise JobError(f"architecture: {dict(card.architecture)}: {error}") from error


def _build_unet(card: Card, options: dict[str, Any]) -> torch.nn.Module:
    import segmentation_models_pytorch as smp

    family = options.pop("family", "unet")
    if family not in FAMILIES:
        raise JobError(f"architecture.family: {family!r}; {nearest(str(family), FAMILIES)}")
    encoder = options.pop("encoder", "resnet34")
    known = {"in_channels": len(card.bands), "classes": channels(card), "encoder_weights": None}
    made: torch.nn.Module = smp.create_model(family, encoder, **{**options, **known})
    return made


def _build_torchvision(card: Card, options: dict[str, Any]) -> torch.nn.Module:
    import torch
    from torchvision.models import segmentation

    if card.kind != "fcn":
        raise JobError(f"kind: {card.kind!r}; {nearest(card.kind, ('unet', 'fcn', *EXPORTED))}")
    backbone = options.pop("backbone", BACKBONES[0])
    if backbone not in BACKBONES:
        raise JobError(f"architecture.backbone: {backbone!r}; {nearest(str(backbone), BACKBONES)}")
    make = segmentation.fcn_resnet50 if backbone == BACKBONES[0] else segmentation.fcn_resnet101
    made = make(weights=None, weights_backbone=None, num_classes=channels(card), aux_loss=False, **options)
    if len(card.bands) != 3:
        first = made.backbone.conv1
        made.backbone.conv1 = torch.nn.Conv2d(
            len(card.bands), first.out_channels, first.kernel_size, first.stride, first.padding, bias=first.bias is not None
        )
    return _Main(made)


def _Main(network: torch.nn.Module) -> torch.nn.Module:  # noqa: N802  a class that can be made only where torch is imported
    """Torchvision's segmenters answer with a mapping; this gives the one tensor that is asked for."""
    import torch

    class Main(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            answer: torch.Tensor = self.network(batch)["out"]
            return answer

    return Main()


def load(bundle: Bundle, *, unsafe: bool = False) -> torch.nn.Module:
    """The network of a bundle with its weights, ready to infer; JobError where they do not fit or may not be read."""
    import torch

    kind = bundle.card.kind
    try:
        if kind == "torchscript":
            if not unsafe:
                raise JobError(
                    f"{bundle.path.name}: TorchScript can run code when it is read; allow it with unsafe: true, or export as pt2"
                )
            network: torch.nn.Module = torch.jit.load(str(bundle.path), map_location="cpu")  # type: ignore[no-untyped-call]
        elif kind == "pt2":
            return torch.export.load(str(bundle.path)).module()  # it is in evaluation already, and refuses to be told
        else:
            network = build(bundle.card)
            fill(network, weights(bundle, unsafe=unsafe), bundle.path.name)
    except (RuntimeError, zipfile.BadZipFile, OSError) as error:
        raise JobError(f"{bundle.path.name} cannot be read as {kind}: {error}") from error
    return network.eval()


def weights(bundle: Bundle, *, unsafe: bool = False) -> dict[str, torch.Tensor]:
    """The tensors in a file of weights, by name, as float32; JobError if it is a pickle that was not asked for."""
    import pickle

    import torch

    if bundle.path.suffix == SAFE:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            found: Any = load_file(str(bundle.path))
        except SafetensorError as error:
            raise JobError(f"{bundle.path.name} is no safetensors file: {error}") from error
    else:
        try:
            found = torch.load(str(bundle.path), map_location="cpu", weights_only=not unsafe)
        except pickle.UnpicklingError as error:
            raise JobError(
                f"{bundle.path.name} is a pickle that can run code when it is read, so it is refused; save its state_dict as "
                "safetensors, or, if you trust who made it, allow it with unsafe: true"
            ) from error
    if isinstance(found, Mapping):
        found = found.get("state_dict", found)
    elif hasattr(found, "state_dict"):
        found = found.state_dict()
    if not isinstance(found, Mapping) or not all(isinstance(tensor, torch.Tensor) for tensor in found.values()):
        raise JobError(f"{bundle.path.name} holds no tensors by name; allowed: a state_dict")
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in found.items()}


def fill(network: torch.nn.Module, tensors: Mapping[str, torch.Tensor], name: str) -> None:
    """Put weights into a network; JobError says which do not fit."""
    wanted = network.state_dict()
    missing, surplus = [key for key in wanted if key not in tensors], [key for key in tensors if key not in wanted]
    shapes = [
        f"{key} is {tuple(tensors[key].shape)} and should be {tuple(wanted[key].shape)}"
        for key in wanted
        if key in tensors and tensors[key].shape != wanted[key].shape
    ]
    if missing or surplus or shapes:
        told = [*(f"{key} is missing" for key in missing), *(f"{key} is not in the architecture" for key in surplus), *shapes]
        more = f"; and {len(told) - 3} more" if len(told) > 3 else ""
        raise JobError(f"the weights in {name} do not fit the architecture: {'; '.join(told[:3])}{more}")
    network.load_state_dict(dict(tensors))


def save(card: Card, network: torch.nn.Module, path: str, *, half: bool = False) -> None:
    """Write a bundle as one safetensors file, with halves in place of floats if asked for; OutputError where the disk refuses."""
    import json

    from safetensors.torch import save as serialise

    from pipeline.errors import OutputError

    state = {name: tensor.half() if half and tensor.is_floating_point() else tensor for name, tensor in network.state_dict().items()}
    data = serialise({name: tensor.contiguous() for name, tensor in state.items()}, {"card": json.dumps(card.plain(), indent=1)})
    try:
        with open(path, "wb") as file:  # noqa: PTH123
            file.write(data)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}") from error


def refuse_nothing(answer: Any) -> None:
    """SegmenterError where a network gives what are no numbers."""
    import numpy as np

    if not np.isfinite(answer).all():
        raise SegmenterError("the network returned values that are no finite numbers; look at its weights, scaling and precision")
