"""What training makes small: a number for each decoder, which what is not known does not touch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.segmenters.decoders.affinities import Boundary, Decoder, Flows, Panoptic, Semantic
from pipeline.segmenters.decoders.detections import targets as boxes

if TYPE_CHECKING:
    import torch

AROUND = 0.2
"""The weight of a regression outside objects, beside that inside them: where foreground is drawn
too large, it should still be low.
"""
FLOW = 2.0
"""The weight of flows beside the foreground."""
SLIVER = 4
"""Rows and columns that a crop must show of an object, to ask for it."""


def loss(decoder: Decoder, answer: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """How far a network's answer is from what a decoder wants.

    Parameters
    ----------
    decoder
        Says what channels mean. Logits of foreground, boundary and affinities: binary cross entropy
        and soft Dice. Distance: mean absolute error; flows: mean squared error. Classes: cross
        entropy and soft Dice. Things and stuff: that of classes, and of what parts things.
    answer
        (crop, channel, row, column), float32.
    targets
        As the decoder's ``targets`` makes them, with NaN where nothing is known: no gradient comes
        from there.

    References
    ----------
    F. Milletari, N. Navab, S.-A. Ahmadi (2016), "V-Net: fully convolutional neural networks for
    volumetric medical image segmentation", 3DV, 565-571, for soft Dice.
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
    """Of classes, and of what parts objects, whose foreground is how much more likely things are
    than all else.
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
    """The sum of what torchvision's detectors want to become small, over a batch.

    Parameters
    ----------
    network
        In training, of torchvision's interface.
    images
        (crop, band, row, column).
    wanted
        (crop, 1, row, column): numbers of objects, 0 for background, NaN where that is not known,
        which counts as background. An object's class, from 1 to ``classes``, is its number modulo
        ``classes``, plus 1. Of objects that a crop cuts, slivers are not asked for.
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
    """1 less soft Dice over all of a batch; both are 0 where nothing is known."""
    return 1 - (2 * (probable * wanted).sum() + 1) / (probable.sum() + wanted.sum() + 1)


def _regression(
    answer: torch.Tensor, targets: torch.Tensor, channel: int, power: int
) -> torch.Tensor:
    """The mean error of a channel in the foreground, and less of it outside; to the first power or
    squared.
    """
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
