"""Networks from their cards: built by a library and filled with weights, or loaded as exported.

torchvision or segmentation-models-pytorch build them. Weights are read as safetensors or by
``torch.load(weights_only=True)``, exported programs as `pipeline.networks.archives` copies them.
Formats that can run code when read (a pickle, a TorchScript archive) are refused unless requested
by name. Weights of 16 bits are converted to 32: halves are for shipping.
"""

from __future__ import annotations

import inspect
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import JobError, SegmenterError, nearest
from pipeline.networks import archives
from pipeline.networks.card import SAFE, Bundle, Card

if TYPE_CHECKING:
    import torch

INSTALL = "pip install 'tilewise[networks]'"
FAMILIES = (
    "unet",
    "unetplusplus",
    "fpn",
    "linknet",
    "pspnet",
    "pan",
    "manet",
    "deeplabv3",
    "deeplabv3plus",
)
"""Networks of segmentation-models-pytorch, by the option ``family`` of kind ``unet``."""
BACKBONES = ("resnet50", "resnet101")
DETECTORS = ("resnet50", "resnet18", "resnet34", "resnet101", "mobilenet_v3_large")
"""Backbones of kind ``maskrcnn``."""
ANCHORS = {5: (32, 64, 128, 256, 512), 3: (64, 128, 256)}
"""Default extents of anchor boxes in pixels, by the number of levels of the pyramid."""
INSTANCES = {"boundary": 3, "flows": 3, "affinities": 3}
"""Channels of the decoders to instances, in two dimensions."""
UNSAFE = "(With unsafe: true it is read all the same, and whatever code is in it runs.)"
EXPORTED = ("torchscript", "pt2", "onnx")
"""Kinds with a file that contains the architecture."""


def channels(card: Card) -> int:
    """The number of a network's channels: as its decoder wants, or one for each class and the
    background.
    """
    kind = str(card.decoder.get("kind", "semantic"))
    if kind in INSTANCES:
        return INSTANCES[kind]
    if kind == "panoptic":  # the foreground of what parts objects is told by the classes
        instances = str(dict(card.decoder.get("instances") or {}).get("kind", "boundary"))
        return (
            len(card.classes)
            + (card.decoder.get("background", 0) is not None)
            + INSTANCES.get(instances, 3)
            - 1
        )
    if len(card.classes) == 1 and card.decoder.get("threshold") is not None:
        return 1
    return len(card.classes) + (card.decoder.get("background", 0) is not None)


def build(card: Card) -> torch.nn.Module:
    """Build the network that a card describes, with random weights; JobError for a wrong
    description.
    """
    makers = {"unet": _build_unet, "fcn": _build_fcn, "maskrcnn": _build_maskrcnn}
    if card.kind not in makers:
        raise JobError(f"kind: {card.kind!r}; {nearest(card.kind, (*makers, *EXPORTED))}")
    try:
        return makers[card.kind](card, dict(card.architecture))
    except ImportError as error:
        raise JobError(
            f"{card.kind} needs a package that is not installed ({error.name}); install it with: "
            f"{INSTALL}"
        ) from error
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


def _build_fcn(card: Card, options: dict[str, Any]) -> torch.nn.Module:
    from torchvision.models import segmentation

    backbone = _one_of(options, "backbone", BACKBONES)
    make = segmentation.fcn_resnet50 if backbone == BACKBONES[0] else segmentation.fcn_resnet101
    made = make(
        weights=None, weights_backbone=None, num_classes=channels(card), aux_loss=False, **options
    )
    _take_bands(made, len(card.bands))
    return _Main(made)


def _build_maskrcnn(card: Card, options: dict[str, Any]) -> torch.nn.Module:
    """Build torchvision's Mask R-CNN.

    On resnet50, weights have the names of torchvision's ``maskrcnn_resnet50_fpn``; its trained
    weights need ``frozen``. Options besides the numbers of its constructor: ``backbone``;
    ``trainable``, how many of the backbone's layers are trained, from the last; ``frozen``, whether
    batch norms keep their statistics, which small batches need once these are good; ``anchors``,
    the extents of anchor boxes, one for each level of the pyramid; ``ratios``, their heights
    divided by their widths.
    """
    from torch.nn import BatchNorm2d
    from torchvision.models.detection import FasterRCNN, MaskRCNN, backbone_utils
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.ops import FrozenBatchNorm2d

    name = _one_of(options, "backbone", DETECTORS)
    how: dict[str, Any] = {
        "norm_layer": FrozenBatchNorm2d if options.pop("frozen", False) else BatchNorm2d,
        "weights": None,
    }
    if name.startswith("resnet"):
        body = backbone_utils.resnet_fpn_backbone(
            backbone_name=name, trainable_layers=options.pop("trainable", 5), **how
        )
    else:
        body = backbone_utils.mobilenet_backbone(
            backbone_name=name, fpn=True, trainable_layers=options.pop("trainable", 6), **how
        )
    _take_bands(body, len(card.bands))
    levels = 5 if name.startswith("resnet") else 3
    anchors = options.pop("anchors", ANCHORS[levels])
    ratios = tuple(options.pop("ratios", (0.5, 1.0, 2.0)))
    if len(anchors) != levels:
        raise JobError(
            f"architecture.anchors: {anchors!r}; {name} has {levels} levels; allowed: an extent "
            f"in pixels for each"
        )
    tried = AnchorGenerator(tuple((size,) for size in anchors), (ratios,) * levels)
    numbers = {
        name
        for name, one in inspect.signature(FasterRCNN).parameters.items()
        if isinstance(one.default, int | float)
    }
    for option in options:  # torchvision takes any word, and says nothing
        if option not in numbers - {"min_size", "max_size"}:
            raise JobError(
                f"architecture.{option}: there is no such option of maskrcnn; "
                f"{nearest(option, numbers)}"
            )
    made: torch.nn.Module = MaskRCNN(
        body, num_classes=len(card.classes) + 1, rpn_anchor_generator=tried, **options
    )
    made.transform = _AsItIs(len(card.bands))
    return made


def _one_of(options: dict[str, Any], name: str, allowed: Sequence[str]) -> str:
    """Take an option out of the options and check it; its default is the first allowed word."""
    given = options.pop(name, allowed[0])
    if given not in allowed:
        raise JobError(f"architecture.{name}: {given!r}; {nearest(str(given), allowed)}")
    return str(given)


def _take_bands(network: torch.nn.Module, bands: int) -> None:
    """Replace the first convolution of a network by one for another number of bands."""
    import torch

    name, first = next(
        (name, module)
        for name, module in network.named_modules()
        if isinstance(module, torch.nn.Conv2d)
    )
    if bands != first.in_channels:
        parent, _, own = name.rpartition(".")
        size = first.kernel_size
        stride = first.stride
        padding = first.padding
        other = torch.nn.Conv2d(
            bands,
            first.out_channels,
            size,  # type: ignore[arg-type]
            stride,  # type: ignore[arg-type]
            padding,  # type: ignore[arg-type]
            bias=first.bias is not None,
        )
        setattr(network.get_submodule(parent), own, other)


# a class that can be made only where torch is imported
def _AsItIs(bands: int) -> torch.nn.Module:  # noqa: N802
    """Replaces torchvision's preprocessing: values are scaled, and images keep their size."""
    from torchvision.models.detection.transform import GeneralizedRCNNTransform

    class AsItIs(GeneralizedRCNNTransform):  # type: ignore[misc]
        def resize(self, image: torch.Tensor, target: Any = None) -> tuple[torch.Tensor, Any]:
            return image, target

    return AsItIs(1, 1, [0.0] * bands, [1.0] * bands)


# a class that can be made only where torch is imported
def _Main(network: torch.nn.Module) -> torch.nn.Module:  # noqa: N802
    """Unpack the main tensor from the mapping that torchvision's segmenters return."""
    import torch

    class Main(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            answer: torch.Tensor = self.network(batch)["out"]
            return answer

    return Main()


def refuse(bundle: Bundle, *, unsafe: bool) -> None:
    """Raise JobError, before any work, for weights that cannot be read without running code in
    them.
    """
    if bundle.card.kind == "torchscript" and not unsafe:
        raise JobError(
            f"{bundle.path.name}: TorchScript can run code when it is read, so it is refused; "
            f"export the network as ONNX or pt2. {UNSAFE}"
        )


def load(bundle: Bundle, *, unsafe: bool = False) -> torch.nn.Module:
    """Load a bundle's network with its weights, ready to infer; JobError if they do not fit."""
    import pickle

    import torch

    kind = bundle.card.kind
    try:
        if kind == "torchscript":
            refuse(bundle, unsafe=unsafe)
            network: torch.nn.Module = torch.jit.load(str(bundle.path), map_location="cpu")  # type: ignore[no-untyped-call]
        elif kind == "pt2":
            return _exported(bundle.path, unsafe=unsafe)
        else:
            network = build(bundle.card)
            fill(network, weights(bundle, unsafe=unsafe), bundle.path.name)
    except (RuntimeError, zipfile.BadZipFile, pickle.UnpicklingError, EOFError, OSError) as error:
        raise JobError(f"{bundle.path.name} cannot be read as {kind}: {error}") from error
    return network.eval()


def _exported(path: Path, *, unsafe: bool) -> torch.nn.Module:
    """Load an exported program, which is in evaluation mode already and refuses to change it."""
    import torch

    file = path if unsafe else archives.exported(path)
    try:
        return torch.export.load(file).module()
    except Exception as error:
        raise JobError(
            f"{path.name} cannot be read as pt2: {type(error).__name__}: {error}"
        ) from error


def weights(bundle: Bundle, *, unsafe: bool = False) -> dict[str, torch.Tensor]:
    """Read the tensors of a file of weights, by name, as float32; JobError for a pickle.

    A pickle is read if ``unsafe``.
    """
    import torch

    if bundle.path.suffix == SAFE:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            found: Any = load_file(str(bundle.path))
        except SafetensorError as error:
            raise JobError(f"{bundle.path.name} is no safetensors file: {error}") from error
    elif unsafe:
        found = torch.load(str(bundle.path), map_location="cpu", weights_only=False)
    else:
        try:
            found = archives.tensors(bundle.path, bundle.path.name)
        except JobError as error:
            raise JobError(f"{error}. {UNSAFE}") from error
    if isinstance(found, Mapping):
        found = found.get("state_dict", found)
    elif hasattr(found, "state_dict"):
        found = found.state_dict()
    if not isinstance(found, Mapping) or not all(
        isinstance(tensor, torch.Tensor) for tensor in found.values()
    ):
        raise JobError(f"{bundle.path.name} holds no tensors by name; allowed: a state_dict")
    return {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in found.items()
    }


def fill(network: torch.nn.Module, tensors: Mapping[str, torch.Tensor], name: str) -> None:
    """Put weights into a network; JobError names those that do not fit."""
    wanted = network.state_dict()
    missing = [key for key in wanted if key not in tensors]
    surplus = [key for key in tensors if key not in wanted]
    shapes = [
        f"{key} is {tuple(tensors[key].shape)} and should be {tuple(wanted[key].shape)}"
        for key in wanted
        if key in tensors and tensors[key].shape != wanted[key].shape
    ]
    if missing or surplus or shapes:
        told = [
            *(f"{key} is missing" for key in missing),
            *(f"{key} is not in the architecture" for key in surplus),
            *shapes,
        ]
        more = f"; and {len(told) - 3} more" if len(told) > 3 else ""
        raise JobError(
            f"the weights in {name} do not fit the architecture: {'; '.join(told[:3])}{more}"
        )
    network.load_state_dict(dict(tensors))


def save(card: Card, network: torch.nn.Module, path: str, *, half: bool = False) -> None:
    """Write a bundle as one safetensors file.

    Parameters
    ----------
    card : Card
        The description.
    network : torch.nn.Module
        The weights.
    path : str
        The file.
    half : bool, optional
        Whether to write floats with 16 bits.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    import json

    from safetensors.torch import save as serialise

    from pipeline.errors import OutputError

    state = {
        name: tensor.half() if half and tensor.is_floating_point() else tensor
        for name, tensor in network.state_dict().items()
    }
    data = serialise(
        {name: tensor.contiguous() for name, tensor in state.items()},
        {"card": json.dumps(card.plain(), indent=1)},
    )
    try:
        with open(path, "wb") as file:  # noqa: PTH123
            file.write(data)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}") from error


def refuse_nothing(answer: Any) -> None:
    """Raise SegmenterError for an answer with values that are not finite."""
    import numpy as np

    if not np.isfinite(answer).all():
        raise SegmenterError(
            "the network returned values that are no finite numbers; look at its weights, "
            "scaling and precision"
        )
