"""The kinds of networks: what builds or brings them. All else is
`pipeline.segmenters.network_base`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pipeline.segmenters.network_base import Network


@dataclass(frozen=True, slots=True, kw_only=True)
class UNet(Network):
    """U-Net, FPN, DeepLabV3+ and what else segmentation-models-pytorch builds, with any of its
    encoders.

    Use it where there is truth to train on (`tilewise train`), or a bundle of somebody else's. The
    decoder of the bundle says whether it gives classes or objects.

    References
    ----------
    O. Ronneberger, P. Fischer, T. Brox (2015), "U-Net: convolutional networks for biomedical image
    segmentation", MICCAI, LNCS 9351, 234-241.
    """

    KIND: ClassVar[str] = "unet"


@dataclass(frozen=True, slots=True, kw_only=True)
class FCN(Network):
    """Torchvision's fully convolutional network on a ResNet, for classes.

    Use it for land cover and the like, where borders may be eight pixels coarse. It looks several
    hundred pixels far.

    References
    ----------
    J. Long, E. Shelhamer, T. Darrell (2015), "Fully convolutional networks for semantic
    segmentation", CVPR, 3431-3440.
    """

    KIND: ClassVar[str] = "fcn"


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchScript(Network):
    """Any network saved by ``torch.jit.save``.

    Such a file can run code when it is read, so ``unsafe: true`` must be said. Export networks as
    ONNX or ``pt2`` instead.
    """

    KIND: ClassVar[str] = "torchscript"


@dataclass(frozen=True, slots=True, kw_only=True)
class PT2(Network):
    """Any network exported by ``torch.export.save``, of PyTorch's own operators; it is looked into
    before PyTorch reads it.
    """

    KIND: ClassVar[str] = "pt2"


@dataclass(frozen=True, slots=True, kw_only=True)
class ONNX(Network):
    """Any network exported as ONNX, run by onnxruntime."""

    KIND: ClassVar[str] = "onnx"
    PASSING: ClassVar[float] = 200.0
