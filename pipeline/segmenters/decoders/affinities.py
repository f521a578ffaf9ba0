"""Decoders: what a network's channels mean, and the reverse for training.

A decoder is a frozen value with options. All of them state

``channels``
    how many channels it wants of a network; None: any number;
``identity``, ``reach``
    as in the contract of segmenters; ``reach`` comes on top of the network's own.

A decoder with the identity ``connected`` offers ``classify(channels, valid) -> kinds``. One with
the identity ``object`` offers ``foreground(channels, valid) -> bool``, the support, and is called
as ``decoder(channels, valid) -> int32``: the objects, 1 to n in raster order of their first pixels,
which cover the support. The objects of a connected piece of support depend only on the channels of
its pixels, so they are exact under tiling where the piece lies wholly in the window. No decoder
decides by an object's area.

Channels are floats, (channel, row, column) or (channel, plane, row, column); ``valid`` are the
measured pixels, bool, without the axis of channels. Foreground, boundary, affinities and classes
are logits, that is before the sigmoid or softmax; the others are regressions.

``targets(labels) -> float32`` is the inverse. From labels (row, column), integers with 0 for
background and -1 where the truth is unknown, it computes the channels that a network should give: 1
and 0 in place of logits, and NaN where unknown. Objects that touch are kept apart; pixels of one
number that are not connected count as separate objects. Unknown pixels count as outside every
object.
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
    """Objects of any shape, by affinities between neighbouring pixels.

    Use it for neurites, roots or cells, in two or three dimensions. The channels are the logit of
    the foreground and, for each axis, the logit that a pixel and the next one along it belong to
    one object. An object is a set of pixels connected by such pairs. One wrong pair joins two
    objects, so the network must be reliable.

    References
    ----------
    .. [1] S. C. Turaga et al. (2010), "Convolutional networks can learn to generate affinity graphs
       for image segmentation", Neural Computation 22(2), 511-538.
    """

    threshold: float = 0.5
    """The least probability of foreground, above 0 and below 1."""

    joined: float = 0.5
    """Two neighbours in the foreground belong to one object if their affinity's probability is
    above this, above 0 and below 1.
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
        """One channel for the foreground and one for each axis."""
        return 1 + self.dimensions

    def foreground(self, channels: Channels, valid: Flags) -> Flags:
        """Compute the support, the pixels of the foreground.

        Parameters
        ----------
        channels : float ndarray, (channel, row, column) or (channel, plane, row, column)
            The network's answer.
        valid : bool ndarray of the shape ``channels.shape[1:]``
            True where a pixel was measured.

        Returns
        -------
        bool ndarray of the shape of ``valid``
            True for foreground.
        """
        return above(
            checked(self, channels, valid, dimensions=self.dimensions)[0], self.threshold, valid
        )

    def __call__(self, channels: Channels, valid: Flags) -> npt.NDArray[np.int32]:
        """Separate the objects of the foreground.

        Parameters
        ----------
        channels : float ndarray, (channel, row, column) or (channel, plane, row, column)
            The network's answer.
        valid : bool ndarray of the shape ``channels.shape[1:]``
            True where a pixel was measured.

        Returns
        -------
        int32 ndarray of the shape of ``valid``
            Objects from 1 in raster order of their first pixels; 0 is background.

        Raises
        ------
        SegmenterError
            The number of channels or dimensions is wrong.
        """
        return joined_by(self.foreground(channels, valid), channels[1:] > logit(self.joined))

    def targets(self, labels: Labels) -> Targets:
        """Compute the channels that a network should give for labels.

        Parameters
        ----------
        labels : int ndarray, (row, column)
            Objects; 0 for background, -1 where the truth is unknown.

        Returns
        -------
        float32 ndarray, (1 + axis, row, column)
            1 in objects; and for each axis 1 where the next pixel along it belongs to the same
            object. NaN in the last row or column, which has no next one.
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
"""Decoders by the name that a card gives."""


def decoder_of(described: Mapping[str, Any]) -> Decoder:
    """Build a decoder from its description in a card or a job.

    Parameters
    ----------
    described : mapping
        The ``kind`` (``semantic`` if missing) and the options.

    Returns
    -------
    Decoder
        The decoder.

    Raises
    ------
    JobError
        A kind or an option is unknown, or a value is not allowed.
    """
    options = dict(described)
    kind = str(options.pop("kind", "semantic"))
    if kind not in DECODERS:
        raise JobError(f"decoder.kind: {kind!r}; {nearest(kind, DECODERS)}")
    return yaml_files.made(DECODERS[kind], options, "decoder")
