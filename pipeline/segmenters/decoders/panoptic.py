"""The decoder to things and stuff from one network: the class of each pixel, and what parts the
objects of some of the classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt

from pipeline.errors import JobError, SegmenterError, nearest
from pipeline.image.legend import CLASS, MOST
from pipeline.segmenters import Identity
from pipeline.segmenters.decoders.channels import Channels, Flags, Labels, Targets, checked, truth
from pipeline.segmenters.decoders.semantic import Semantic
from pipeline.segmenters.decoders.watersheds import Boundary, Flows

Parting: TypeAlias = Boundary | Flows
PARTINGS: dict[str, type[Parting]] = {"boundary": Boundary, "flows": Flows}


@dataclass(frozen=True, slots=True, kw_only=True)
class Panoptic:
    """Things and stuff: trees over ground and water, nuclei of several kinds over tissue.

    The channels are those of the classes, as the decoder ``semantic`` has them, and then those of
    the decoder ``instances`` less its foreground, that of ``boundary`` if none is named: the logit
    of the boundary and the distance. The most probable class of a pixel says whether it is of an
    object, so nothing can say otherwise: a connected piece of pixels of things, of whichever
    classes, is parted into objects, and an object is of the class of most of its pixels; of equally
    many, the lower one.

    Examples
    --------
    >>> import numpy as np
    >>> classes = [[[0, 0, 0, 9, 9]], [[9, 9, 1, 0, 0]], [[0, 0, 2, 0, 0]]]
    >>> channels = np.array([*classes, [[-9] * 5], [[0.5, 1, 0.5, 0, 0]]], float)
    >>> decoder, valid = Panoptic(things=(2, 3), background=None), np.ones((1, 5), bool)
    >>> decoder.classify(channels, valid), decoder(channels, valid)
    (array([[2, 2, 3, 1, 1]], dtype=uint8), array([[1, 1, 1, 0, 0]], dtype=int32))

    References
    ----------
    B. Cheng et al. (2020), "Panoptic-DeepLab: a simple, strong, and fast baseline for bottom-up
    panoptic segmentation", CVPR, 12475-12485, for classes that say where objects are, and for the
    vote.
    """

    things: tuple[int, ...]
    """The classes whose pixels are parted into objects; all others are stuff."""

    background: int | None = 0
    """The channel of the background, from 0, which becomes class 0; the others are numbered from 1
    in their order. None: each channel is a class.
    """

    instances: Mapping[str, Any] = field(default_factory=lambda: {"kind": "boundary"})
    """What parts objects: ``boundary`` or ``flows`` as ``kind``, and its options, but
    ``threshold``: the classes say where objects are.
    """

    channels: ClassVar[int | None] = None
    identity: ClassVar[Identity] = "object"
    reach: ClassVar[int] = 0

    def __post_init__(self) -> None:
        given = self.things if isinstance(self.things, list | tuple) else ()
        if (
            not given
            or len({*given}) < len(given)
            or not all(type(kind) is int and 1 <= kind <= MOST for kind in given)
        ):
            raise JobError(
                f"things: {self.things!r}; allowed: the classes, from 1, whose objects are "
                f"counted, each once"
            )
        object.__setattr__(self, "things", tuple(given))
        self.parting  # noqa: B018  refuses what cannot be
        self.kinds  # noqa: B018

    @property
    def kinds(self) -> Semantic:
        """What makes classes of the first channels."""
        return Semantic(background=self.background)

    @property
    def parting(self) -> Parting:
        """What parts the pixels of things into objects."""
        options = dict(self.instances)
        kind = str(options.pop("kind", "boundary"))
        if kind not in PARTINGS:
            raise JobError(f"instances.kind: {kind!r}; {nearest(kind, PARTINGS)}")
        known = [each.name for each in fields(PARTINGS[kind]) if each.name != "threshold"]
        for key in options:
            if key not in known:
                raise JobError(
                    f"instances.{key}: there is no such option of {kind} where classes say what "
                    f"is a thing; {nearest(key, known)}"
                )
        return PARTINGS[kind](**options)

    @property
    def more(self) -> int:
        """How many channels follow those of the classes."""
        return int(self.parting.channels or 0) - 1

    def classify(self, channels: Channels, valid: Flags) -> npt.NDArray[np.unsignedinteger[Any]]:
        """The class of each pixel by itself, of the shape of ``valid``; SegmenterError where there
        are too few channels.
        """
        checked(self, channels, valid)
        if len(channels) <= self.more:
            raise SegmenterError(
                f"Panoptic: the network gives {len(channels)} channels; allowed: one for each "
                f"class, and {self.more} more"
            )
        return self.kinds.classify(channels[: len(channels) - self.more], valid)

    def foreground(self, channels: Channels, valid: Flags) -> Flags:
        """The support: pixels of things, of the shape of ``valid``."""
        return np.isin(self.classify(channels, valid), self.things)

    def __call__(self, channels: Channels, valid: Flags) -> npt.NDArray[np.int32]:
        """The objects of things."""
        sure = np.where(self.foreground(channels, valid), np.inf, -np.inf).astype(channels.dtype)
        return self.parting(
            np.concatenate([sure[None], channels[len(channels) - self.more :]]), valid
        )

    def segments(self, channels: Channels, valid: Flags) -> npt.NDArray[np.int64]:
        """Things and stuff of an image that is seen whole, numbered as `targets` takes them; 0
        where there is neither.
        """
        objects = self(channels, valid).astype(np.int64)
        kinds = self.classify(channels, valid).astype(np.int64)
        thing = np.isin(kinds, self.things)
        votes = np.zeros(
            (int(objects.max(initial=0)) + 1, max(*self.things, int(kinds.max(initial=0))) + 1),
            np.int64,
        )
        np.add.at(votes, (objects[thing], kinds[thing]), 1)
        return np.where(
            objects > 0,
            CLASS * votes.argmax(axis=1)[objects] + objects,
            np.where(thing, 0, CLASS * kinds),
        )

    def targets(self, labels: Labels) -> Targets:
        """(1 + channels of ``instances``, row, column): the number of the class's channel that
        should be greatest, and what parts objects, its foreground too.

        Labels are `pipeline.image.legend.CLASS` times the class, plus, of things, a number among
        those of the class.
        """
        labels = truth(labels)
        kinds = np.where(labels < 0, -1, labels // CLASS)
        thing = np.isin(kinds, self.things)
        objects = np.where(
            thing, np.searchsorted(np.unique(labels[thing]), labels) + 1, np.minimum(kinds, 0)
        )
        return np.concatenate([self.kinds.targets(kinds), self.parting.targets(objects)])
