"""Training objectives: channels for a decoder, or detections.

Each knows a network's reach, its loss, and how to draw labels; nothing else in this package
distinguishes the two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from pipeline.errors import JobError
from pipeline.networks.card import Card
from pipeline.networks.loaded import detections
from pipeline.networks.patches import cut
from pipeline.networks.precision import autocast
from pipeline.networks.receptive_field import Sight, probe
from pipeline.segmenters.decoders.affinities import Decoder, Panoptic, Semantic
from pipeline.segmenters.decoders.detections import ByKey, Choice, lattice
from pipeline.training.losses import detection, loss

if TYPE_CHECKING:
    import torch

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Draw: TypeAlias = Callable[[Floats, Flags, Sequence[int]], npt.NDArray[Any]]
"""From (band, row, column) scaled for the network, valid pixels and the first row and column: to
labels or classes.
"""
STRIDES = {"fcn": 8}
"""Output strides, in pixels, by kind of network; any other has an encoder, which knows its own."""


class Objective(Protocol):
    """What a network is trained for."""

    def sight(self, network: torch.nn.Module, crop: int) -> Sight:
        """A network's stride and reach; JobError if crops of this size do not suit it."""
        ...

    def loss(
        self, network: torch.nn.Module, images: Floats, wanted: Floats, precision: str
    ) -> torch.Tensor:
        """The loss of a batch: images (crop, band, row, column), targets (crop, channel, row,
        column).
        """
        ...

    def draw(self, network: torch.nn.Module) -> Draw:
        """A function that draws a window in patches, as in a run; the card says the reach."""
        ...


def objective(card: Card, decoder: Decoder | ByKey) -> Objective:
    """The objective of a card's network."""
    return Objects(card) if isinstance(decoder, ByKey) else Pixels(card, decoder)


@dataclass(frozen=True, slots=True)
class Pixels:
    """Channels that a decoder turns into labels or classes."""

    card: Card
    decoder: Decoder

    def sight(self, network: torch.nn.Module, crop: int) -> Sight:
        """Measured on the network."""
        encoder: Any = network.get_submodule("encoder") if self.card.kind not in STRIDES else None
        stride = STRIDES[self.card.kind] if encoder is None else encoder.output_stride
        if crop % stride:
            raise JobError(
                f"train.crop: {crop}; allowed: a multiple of the network's stride, {stride}"
            )
        return probe(_forward(network), len(self.card.bands), stride)

    def loss(
        self, network: torch.nn.Module, images: Floats, wanted: Floats, precision: str
    ) -> torch.Tensor:
        """The loss of the decoder's channels."""
        given = _given(network, images)
        with autocast(given.device.type, precision):
            answer = network(given)
        return loss(self.decoder, answer.float(), _moved(wanted, given))

    def draw(self, network: torch.nn.Module) -> Draw:
        """Draws classes, labels of objects, or segments."""
        patches = cut(self.card)
        decoder = self.decoder
        forward = _forward(network)

        def draw(image: Floats, valid: Flags, start: Sequence[int]) -> npt.NDArray[Any]:
            channels = patches.run(image, start, forward)
            if isinstance(decoder, Panoptic):
                return decoder.segments(channels, valid)
            return (
                decoder.classify(channels, valid)
                if isinstance(decoder, Semantic)
                else decoder(channels, valid)
            )

        return draw


@dataclass(frozen=True, slots=True)
class Objects:
    """Detections: boxes, classes, scores and masks."""

    card: Card

    def sight(self, network: torch.nn.Module, crop: int) -> Sight:  # noqa: ARG002
        """Unbounded: it depends on its whole window."""
        return Sight(1, None)

    def loss(
        self, network: torch.nn.Module, images: Floats, wanted: Floats, precision: str
    ) -> torch.Tensor:
        """The sum of torchvision's losses."""
        given = _given(network, images)
        with autocast(given.device.type, precision):
            return detection(network, given, wanted, len(self.card.classes))

    def draw(self, network: torch.nn.Module) -> Draw:
        """Draws labels of objects, from 1."""
        choice = Choice(lattice=lattice(self.card))
        find = _inferred(network)

        def draw(image: Floats, valid: Flags, start: Sequence[int]) -> npt.NDArray[Any]:
            keys = choice.draw(image, valid, start, lambda patch: detections(find(patch[None])[0]))[
                0
            ]
            return np.unique(np.append(keys, 0), return_inverse=True)[1][:-1].reshape(keys.shape)

        return draw


def _given(network: torch.nn.Module, images: Floats) -> torch.Tensor:
    """A batch on the network's device."""
    import torch

    return _moved(np.ascontiguousarray(images), next(network.parameters())).contiguous(
        memory_format=torch.channels_last
    )


def _moved(values: Floats, beside: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.from_numpy(values).to(beside.device)


def _inferred(network: torch.nn.Module) -> Callable[[Floats], Any]:
    """Run a network on arrays, without gradients, in float32."""
    import torch

    def infer(images: Floats) -> Any:
        with torch.inference_mode():
            return network(_given(network, images))

    return infer


def _forward(network: torch.nn.Module) -> Callable[[Floats], Floats]:
    """Likewise, with arrays as answers."""
    infer = _inferred(network)
    return lambda images: np.asarray(infer(images).float().cpu().numpy())
