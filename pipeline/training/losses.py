"""Losses: one number per decoder; unknown pixels have no influence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.segmenters.decoders.affinities import Boundary, Decoder, Flows, Panoptic, Semantic
from pipeline.segmenters.decoders.detections import targets as boxes

if TYPE_CHECKING:
    import torch

AROUND = 0.2
"""Weight of a regression outside objects, relative to inside: it should be low there too, if the
foreground is drawn too large.
"""
FLOW = 2.0
"""Weight of flows relative to the foreground."""
SLIVER = 4
"""Rows and columns of an object that a crop must show to expect its detection."""


def loss(decoder: Decoder, answer: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Compute the loss of a network's answer.

    Logits of foreground, boundary and affinities: binary cross entropy and soft Dice [1]_.
    Distances: mean absolute error; flows: mean squared error. Classes: cross entropy and soft Dice.
    Things and stuff: the losses of classes and of the decoder that separates things.

    Parameters
    ----------
    decoder : Decoder
        The meaning of the channels.
    answer : float32 tensor, (crop, channel, row, column)
        The answer.
    targets : float32 tensor, (crop, channel, row, column)
        From the decoder's ``targets``; NaN where unknown, without gradient.

    Returns
    -------
    tensor
        The loss, one number.

    References
    ----------
    .. [1] F. Milletari, N. Navab, S.-A. Ahmadi (2016), "V-Net: fully convolutional neural networks
       for volumetric medical image segmentation", 3DV, 565-571.
    """
    if isinstance(decoder, Semantic) and answer.shape[1] > 1:
        return _classes(answer, targets[:, 0])
    if isinstance(decoder, Panoptic):
        return _both(decoder, answer, targets)
    if isinstance(decoder, Boundary):
        return (
            _binary(answer[:, 0], targets[:, 0])
            + _binary(answer[:, 1], targets[:, 1])
            + _regression(answer, targets, 2, 1)
        )
    if isinstance(decoder, Flows):
        return _binary(answer[:, 0], targets[:, 0]) + FLOW * (
            _regression(answer, targets, 1, 2) + _regression(answer, targets, 2, 2)
        )
    total: torch.Tensor = sum(_binary(answer[:, k], targets[:, k]) for k in range(answer.shape[1]))  # type: ignore[assignment]
    return total / answer.shape[1]


def _both(decoder: Panoptic, answer: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Loss of classes, and of the decoder of things.

    Its foreground's logit is how much more likely things are than everything else.
    """
    import torch

    kinds = answer[:, : -decoder.more]
    more = answer[:, -decoder.more :]
    thing = torch.zeros(kinds.shape[1], dtype=torch.bool)
    thing[
        [
            kind - 1 + (decoder.background is not None and kind > decoder.background)
            for kind in decoder.things
        ]
    ] = True
    sure = torch.logsumexp(kinds[:, thing], dim=1) - torch.logsumexp(kinds[:, ~thing], dim=1)
    return _classes(kinds, targets[:, 0]) + loss(
        decoder.parting, torch.cat([sure[:, None], more], dim=1), targets[:, 1:]
    )


def detection(
    network: torch.nn.Module, images: torch.Tensor, wanted: npt.NDArray[np.float32], classes: int
) -> torch.Tensor:
    """Sum the losses of torchvision's detectors over a batch.

    Parameters
    ----------
    network : torch.nn.Module
        In training mode, with torchvision's interface.
    images : float32 tensor, (crop, band, row, column)
        The crops.
    wanted : float32 ndarray, (crop, 1, row, column)
        Numbers of objects, 0 for background, NaN where unknown, which counts as background. An
        object's class, from 1, is its number modulo ``classes``, plus 1. Slivers of objects cut by
        the crop are not expected.
    classes : int
        The number of classes.

    Returns
    -------
    tensor
        The loss, one number.
    """
    import torch

    asked: list[dict[str, Any]] = []
    for labels in np.nan_to_num(wanted[:, 0]).astype(np.int64):
        found = boxes(labels, labels % classes + 1)
        seen = (found["boxes"][:, 2:] - found["boxes"][:, :2]).min(axis=1, initial=SLIVER) >= SLIVER
        asked.append(
            {name: torch.from_numpy(part[seen]).to(images.device) for name, part in found.items()}
        )
    parts = network(list(images), asked)
    return sum(parts.values())  # type: ignore[no-any-return]


def _binary(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    import torch

    known = ~torch.isnan(target)
    wanted = torch.where(known, target, 0.0)
    each = torch.nn.functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    return (each * known).sum() / known.sum().clamp(min=1) + _dice(
        torch.sigmoid(logits) * known, wanted
    )


def _dice(probable: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """1 minus soft Dice over a batch; unknown pixels count 0 in both."""
    return 1 - (2 * (probable * wanted).sum() + 1) / (probable.sum() + wanted.sum() + 1)


def _regression(
    answer: torch.Tensor, targets: torch.Tensor, channel: int, power: int
) -> torch.Tensor:
    """Mean error of a channel in the foreground, with less weight outside; absolute or squared."""
    import torch

    known = ~torch.isnan(targets[:, channel])
    inside = known & (targets[:, 0] > 0)
    error = (answer[:, channel] - torch.where(known, targets[:, channel], 0.0)).abs() ** power
    return sum(  # type: ignore[return-value]
        weight * (error * where).sum() / where.sum().clamp(min=1)
        for weight, where in ((1.0, inside), (AROUND, known & ~inside))
    )


def _classes(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    import torch

    known = ~torch.isnan(target)
    number = torch.where(known, target, 0.0).long()
    each = torch.nn.functional.cross_entropy(logits, number, reduction="none")
    probable = torch.softmax(logits, dim=1) * known[:, None]
    wanted = torch.nn.functional.one_hot(number, logits.shape[1]).movedim(-1, 1) * known[:, None]
    present = [k for k in range(logits.shape[1]) if bool(wanted[:, k].any())]
    dice = sum(_dice(probable[:, k], wanted[:, k]) for k in present) / max(1, len(present))
    return (each * known).sum() / known.sum().clamp(min=1) + dice
