"""What a network's channels mean: from logits and regressions to classes or objects, and back, from
labels to what to train on.

A decoder is a frozen value with options. All of them state

``channels``
    how many channels it wants of a network; None: any number;
``identity``, ``reach``
    as in the contract of segmenters; ``reach`` comes on top of the network's own.

Those whose identity is ``connected`` offer ``classify(channels, valid) -> kinds``; those whose
identity is ``object`` offer ``foreground(channels, valid) -> bool``, the support, and are called as
``decoder(channels, valid) -> int32``, the objects in it: 1 to n in raster order of their first
pixels, every pixel of the support in one. What is drawn in a piece of support depends on the
channels of its pixels alone, so it is exact under tiling where the piece lies whole in the window.
Nothing is decided by the area of objects.

Channels are floats, (channel, row, column) or (channel, plane, row, column), and ``valid`` are the
measured pixels, bool, without the axis of channels. Foreground, boundary, affinities and classes
are logits, that is before the sigmoid or softmax; the rest are regressions.

``targets(labels) -> float32`` is the inverse: of labels (row, column), integers, 0 for background
and -1 where the truth is not known, the channels that a network should give, with 1 and 0 in the
place of logits, and NaN where they are not known. Objects are told apart where they touch; pixels
of one number that do not touch are taken for objects of their own. What is not known counts as
outside every object.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt

from pipeline.config import yaml_files
from pipeline.errors import JobError, nearest
from pipeline.segmenters import Identity
from pipeline.segmenters.decoders.channels import (
    Channels,
    Flags,
    Labels,
    Targets,
    above,
    check_probability,
    checked,
    logit,
    truth,
    with_gaps,
)
from pipeline.segmenters.decoders.flow_loops import joined_by
from pipeline.segmenters.decoders.panoptic import Panoptic
from pipeline.segmenters.decoders.semantic import Semantic
from pipeline.segmenters.decoders.watersheds import Boundary, Flows

__all__ = ["Affinities", "Boundary", "Decoder", "Flows", "Panoptic", "Semantic"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Affinities:
    """Objects as pixels that belong together one by one: neurites, roots, cells of any form, in two
    or three dimensions.

    The channels are the logit of the foreground and, for each axis, of that a pixel and the next
    one along it are of one object; an object is what hangs together by such pairs. One wrong pair
    joins two objects, so it wants a network that is sure of itself.

    References
    ----------
    S. C. Turaga et al. (2010), "Convolutional networks can learn to generate affinity graphs for
    image segmentation", Neural Computation 22(2), 511-538.
    """

    threshold: float = 0.5
    """Foreground is where its probability is above this."""

    joined: float = 0.5
    """Two pixels of the foreground are of one object where the probability of that is above this.
    """

    dimensions: int = 2
    """2 for images, 3 for volumes."""

    identity: ClassVar[Identity] = "object"
    reach: ClassVar[int] = 0

    def __post_init__(self) -> None:
        check_probability("threshold", self.threshold)
        check_probability("joined", self.joined)
        if self.dimensions not in (2, 3):
            raise JobError(f"dimensions: {self.dimensions!r}; allowed: 2 or 3")

    @property
    def channels(self) -> int:
        """The foreground's and one for each axis."""
        return 1 + self.dimensions

    def foreground(self, channels: Channels, valid: Flags) -> Flags:
        """The support, of the shape of ``valid``."""
        return above(
            checked(self, channels, valid, dimensions=self.dimensions)[0], self.threshold, valid
        )

    def __call__(self, channels: Channels, valid: Flags) -> npt.NDArray[np.int32]:
        """The objects; SegmenterError where there are not as many channels as `channels` says."""
        return joined_by(self.foreground(channels, valid), channels[1:] > logit(self.joined))

    def targets(self, labels: Labels) -> Targets:
        """(1 + axis, row, column): 1 in objects; and for each axis 1 where the next pixel along it
        is of the same object.

        In the last row or column, which has no next one, that is not known.
        """
        labels = truth(labels, self.dimensions)
        bonds = np.full((labels.ndim, *labels.shape), np.nan)
        for axis in range(labels.ndim):
            near, far = (
                np.moveaxis(labels, axis, 0)[part] for part in (slice(None, -1), slice(1, None))
            )
            known = np.where(far < 0, np.nan, (near == far) & (near > 0))
            np.moveaxis(bonds[axis], axis, 0)[:-1] = known
        return with_gaps(labels, labels > 0, *bonds)


Decoder: TypeAlias = Semantic | Boundary | Flows | Affinities | Panoptic

DECODERS: dict[str, type[Decoder]] = {
    "semantic": Semantic,
    "boundary": Boundary,
    "flows": Flows,
    "affinities": Affinities,
    "panoptic": Panoptic,
}
"""By the name that a card gives."""


def decoder_of(described: Mapping[str, Any]) -> Decoder:
    """A decoder from its ``kind``, semantic if none is given, and its options; JobError where one
    is unknown or does not hold.
    """
    options = dict(described)
    kind = str(options.pop("kind", "semantic"))
    if kind not in DECODERS:
        raise JobError(f"decoder.kind: {kind!r}; {nearest(kind, DECODERS)}")
    return yaml_files.made(DECODERS[kind], options, "decoder")
