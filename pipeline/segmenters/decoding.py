"""What a network's channels mean: from logits and regressions to classes or objects, and back, from labels to what to train on.

A decoder is a frozen value with options. All of them state

``channels``
    how many channels it wants of a network; None: any number;
``identity``, ``reach``
    as in the contract of segmenters; ``reach`` comes on top of the network's own.

Those whose identity is ``connected`` offer ``classify(channels, valid) -> kinds``; those whose identity is ``object`` offer
``foreground(channels, valid) -> bool``, the support, and are called as ``decoder(channels, valid) -> int32``, the objects in it: 1 to n in
raster order of their first pixels, every pixel of the support in one. What is drawn in a piece of support depends on the channels of its
pixels alone, so it is exact under tiling where the piece lies whole in the window. Nothing is decided by the area of objects.

Channels are floats, (channel, row, column) or (channel, plane, row, column), and ``valid`` are the measured pixels, bool, without the axis
of channels. Foreground, boundary, affinities and classes are logits, that is before the sigmoid or softmax; the rest are regressions.

``targets(labels) -> float32`` is the inverse: of labels (row, column), integers, 0 for background and -1 where the truth is not known, the
channels that a network should give, with 1 and 0 in the place of logits, and NaN where they are not known. Objects are told apart where
they touch; pixels of one number that do not touch are taken for objects of their own. What is not known counts as outside every object.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt

from pipeline import documents
from pipeline.errors import JobError, SegmenterError, nearest
from pipeline.segmenters import Identity, label
from pipeline.segmenters.basins import Boundary, Flows
from pipeline.segmenters.channels import (
    Channels,
    Flags,
    Labels,
    Targets,
    above,
    check_probability,
    check_whole,
    checked,
    logit,
    softmax,
    truth,
    with_gaps,
)
from pipeline.segmenters.streams import joined_by

__all__ = ["Affinities", "Boundary", "Decoder", "Flows", "Semantic"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Semantic:
    """The class of each pixel, by itself: land cover, tissue, water or not.

    Examples
    --------
    >>> import numpy as np
    >>> Semantic().classify(np.array([[[2.0, 0.0, 0.0]], [[1.0, 3.0, 0.0]], [[0.0, 0.0, 5.0]]]), np.ones((1, 3), bool))
    array([[0, 1, 2]], dtype=uint8)

    References
    ----------
    J. Long, E. Shelhamer, T. Darrell (2015), "Fully convolutional networks for semantic segmentation", CVPR, 3431-3440.
    """

    threshold: float | None = None
    """Of a network of one channel: a pixel is of class 1 where its probability is above this; None: 0.5."""

    thresholds: tuple[float, ...] | None = None
    """Of several channels, by channel: one is taken only where its probability reaches this, the most probable one of those that do; where
    none does, it is background. The channel of the background is one of them. None: the most probable channel is taken."""

    background: int | None = 0
    """Of several channels, the one of the background, from 0, which becomes class 0; the others are numbered from 1 in their order. None:
    each channel is a class. Of one channel it says nothing."""

    channels: ClassVar[int | None] = None
    identity: ClassVar[Identity] = "connected"
    reach: ClassVar[int] = 0

    def __post_init__(self) -> None:
        if self.threshold is not None:
            check_probability("threshold", self.threshold)
        for number, threshold in enumerate(self.thresholds or ()):
            if not 0 <= threshold <= 1:
                raise JobError(f"thresholds[{number}]: {threshold!r}; allowed: a probability, from 0 to 1")
        if self.thresholds is not None and len(self.thresholds) < 2:
            raise JobError(f"thresholds: {self.thresholds!r}; allowed: one for each of two channels or more; for one channel, threshold")
        if self.threshold is not None and self.thresholds is not None:
            raise JobError("threshold: it is for one channel, and thresholds for several; allowed: one of the two")
        check_whole("background", self.background or 0, 0, "a channel's number, from 0, or none")

    def classify(self, channels: Channels, valid: Flags) -> npt.NDArray[np.unsignedinteger[Any]]:
        """The class of each pixel, of the shape of ``valid``: unsigned, as small as they fit; 0 for background and where a logit is NaN.

        SegmenterError where the channels are not as many as the options say.
        """
        logits = checked(self, channels, valid)
        number = len(logits)
        if number == 1:
            self._refuse(self.thresholds is not None, number)
            return np.asarray((logits[0] > logit(0.5 if self.threshold is None else self.threshold)) & valid, np.uint8)
        self._refuse(self.threshold is not None or len(self.thresholds or logits) != number or (self.background or 0) >= number, number)
        best, known = logits.argmax(axis=0), ~np.isnan(logits.max(axis=0)) & valid
        if self.thresholds is not None:
            most = np.full(valid.shape, -1.0)
            for channel, (probable, threshold) in enumerate(zip(softmax(logits), self.thresholds, strict=True)):
                better = (probable >= threshold) & (probable > most)
                best[better], most[better] = channel, probable[better]
            known &= most >= 0
        return np.where(known, self._kinds(number)[best], 0)

    def __call__(self, channels: Channels, valid: Flags) -> npt.NDArray[np.int32]:
        """The connected pieces of classes of one block as if it were the whole image: int32, in raster order."""
        return label(self, channels, valid)

    def targets(self, labels: Labels) -> Targets:
        """(1, row, column): the number of the channel that should be greatest, or, of one channel, the probability.

        Labels are classes here.
        """
        labels = truth(labels)
        ground = -1 if self.background is None else self.background
        channel = np.where(labels == 0, ground, labels - (labels <= ground) - (ground < 0))
        return np.where((labels < 0) | (channel < 0), np.nan, channel).astype(np.float32)[None]

    def _kinds(self, number: int) -> npt.NDArray[np.unsignedinteger[Any]]:
        """By channel, its class."""
        kinds = np.arange(1, number + 1)
        if self.background is not None:
            kinds[self.background :] -= 1
            kinds[self.background] = 0
        return kinds.astype(np.min_scalar_type(number))

    def _refuse(self, wrong: bool, number: int) -> None:
        if wrong:
            raise SegmenterError(f"the network gives {number} channels, which do not go with {self}; one threshold is for one channel")


@dataclass(frozen=True, slots=True, kw_only=True)
class Affinities:
    """Objects as pixels that belong together one by one: neurites, roots, cells of any form, in two or three dimensions.

    The channels are the logit of the foreground and, for each axis, of that a pixel and the next one along it are of one object; an object
    is what hangs together by such pairs. One wrong pair joins two objects, so it wants a network that is sure of itself.

    References
    ----------
    S. C. Turaga et al. (2010), "Convolutional networks can learn to generate affinity graphs for image segmentation", Neural Computation
    22(2), 511-538.
    """

    threshold: float = 0.5
    """Foreground is where its probability is above this."""

    joined: float = 0.5
    """Two pixels of the foreground are of one object where the probability of that is above this."""

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
        return above(checked(self, channels, valid, dimensions=self.dimensions)[0], self.threshold, valid)

    def __call__(self, channels: Channels, valid: Flags) -> npt.NDArray[np.int32]:
        """The objects; SegmenterError where there are not as many channels as `channels` says."""
        return joined_by(self.foreground(channels, valid), channels[1:] > logit(self.joined))

    def targets(self, labels: Labels) -> Targets:
        """(1 + axis, row, column): 1 in objects; and for each axis 1 where the next pixel along it is of the same object.

        In the last row or column, which has no next one, that is not known.
        """
        labels = truth(labels, self.dimensions)
        bonds = np.full((labels.ndim, *labels.shape), np.nan)
        for axis in range(labels.ndim):
            near, far = (np.moveaxis(labels, axis, 0)[part] for part in (slice(None, -1), slice(1, None)))
            known = np.where(far < 0, np.nan, (near == far) & (near > 0))
            np.moveaxis(bonds[axis], axis, 0)[:-1] = known
        return with_gaps(labels, labels > 0, *bonds)


Decoder: TypeAlias = Semantic | Boundary | Flows | Affinities

DECODERS: dict[str, type[Decoder]] = {"semantic": Semantic, "boundary": Boundary, "flows": Flows, "affinities": Affinities}
"""By the name that a card gives."""


def decoder_of(described: Mapping[str, Any]) -> Decoder:
    """A decoder from its ``kind``, semantic if none is given, and its options; JobError where one is unknown or does not hold."""
    options = dict(described)
    kind = str(options.pop("kind", "semantic"))
    if kind not in DECODERS:
        raise JobError(f"decoder.kind: {kind!r}; {nearest(kind, DECODERS)}")
    return documents.made(DECODERS[kind], options, "decoder")
