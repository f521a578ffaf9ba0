"""The kinds of networks, by what builds or loads them.

Everything else is in `pipeline.segmenters.network_base`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pipeline.segmenters.network_base import Network


@dataclass(frozen=True, slots=True, kw_only=True)
class UNet(Network):
    """U-Net, FPN, DeepLabV3+ and other networks of segmentation-models-pytorch.

    Any of its encoders is allowed. Use it if you have annotations to train on (``tilewise train``)
    or a bundle that somebody else trained. The bundle's decoder says whether labels are classes or
    objects.

    Notes
    -----
    If the network's receptive field is bounded, labels are ``proved`` equal to those of the untiled
    image, to the precision of floats. Blended patches are at best ``agreed``.

    References
    ----------
    .. [1] O. Ronneberger, P. Fischer, T. Brox (2015), "U-Net: convolutional networks for biomedical
       image segmentation", MICCAI, LNCS 9351, 234-241.

    Examples
    --------
    >>> UNet(weights="bundles/nuclei")  # doctest: +SKIP
    """

    KIND: ClassVar[str] = "unet"


@dataclass(frozen=True, slots=True, kw_only=True)
class FCN(Network):
    """Torchvision's fully convolutional network on a ResNet, for classes.

    Use it for land cover and other classes if borders may be off by eight pixels. Its receptive
    field is several hundred pixels wide.

    Notes
    -----
    If the network's receptive field is bounded, labels are ``proved`` equal to those of the untiled
    image, to the precision of floats. Blended patches are at best ``agreed``.

    References
    ----------
    .. [1] J. Long, E. Shelhamer, T. Darrell (2015), "Fully convolutional networks for semantic
       segmentation", CVPR, 3431-3440.

    Examples
    --------
    >>> FCN(weights="bundles/land_cover")  # doctest: +SKIP
    """

    KIND: ClassVar[str] = "fcn"


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchScript(Network):
    """Any network saved by ``torch.jit.save``.

    Reading such a file can run code, so ``unsafe: true`` is required. Export networks as ONNX or
    ``pt2`` instead.

    Notes
    -----
    If the network's receptive field is bounded, labels are ``proved`` equal to those of the untiled
    image, to the precision of floats. Blended patches are at best ``agreed``.

    Examples
    --------
    >>> TorchScript(weights="bundles/scripted", unsafe=True)  # doctest: +SKIP
    """

    KIND: ClassVar[str] = "torchscript"


@dataclass(frozen=True, slots=True, kw_only=True)
class PT2(Network):
    """Any network exported by ``torch.export.save`` with PyTorch's own operators.

    The file is inspected before PyTorch reads it.

    Notes
    -----
    If the network's receptive field is bounded, labels are ``proved`` equal to those of the untiled
    image, to the precision of floats. Blended patches are at best ``agreed``.

    Examples
    --------
    >>> PT2(weights="bundles/exported")  # doctest: +SKIP
    """

    KIND: ClassVar[str] = "pt2"


@dataclass(frozen=True, slots=True, kw_only=True)
class ONNX(Network):
    """Any network exported as ONNX, run by onnxruntime.

    Notes
    -----
    If the network's receptive field is bounded, labels are ``proved`` equal to those of the untiled
    image, to the precision of floats. Blended patches are at best ``agreed``.

    Examples
    --------
    >>> ONNX(weights="ukis-csmask/6b-l1c")  # doctest: +SKIP
    """

    KIND: ClassVar[str] = "onnx"
    PASSING: ClassVar[float] = 200.0
