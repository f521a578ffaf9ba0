"""The decoder to things and stuff from one network: classes, and objects of some of the classes."""

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

    The channels are those of the classes, as for the decoder ``semantic``, followed by those of the
    decoder ``instances`` without its foreground; for ``boundary``, the default, these are the logit
    of the boundary and the distance. The most probable class of a pixel decides whether it belongs
    to an object. A connected piece of pixels of things, of any classes, is divided into objects.
    The class of an object is that of most of its pixels (of equally many the lower one).

    References
    ----------
    .. [1] B. Cheng et al. (2020), "Panoptic-DeepLab: a simple, strong, and fast baseline for
       bottom-up panoptic segmentation", CVPR, 12475-12485: classes say where objects are, and
       objects vote.

    Examples
    --------
    >>> import numpy as np
    >>> classes = [[[0, 0, 0, 9, 9]], [[9, 9, 1, 0, 0]], [[0, 0, 2, 0, 0]]]
    >>> channels = np.array([*classes, [[-9] * 5], [[0.5, 1, 0.5, 0, 0]]], float)
    >>> valid = np.ones((1, 5), bool)
    >>> decoder = Panoptic(things=(2, 3), background=None)
    >>> decoder.classify(channels, valid), decoder(channels, valid)
    (array([[2, 2, 3, 1, 1]], dtype=uint8), array([[1, 1, 1, 0, 0]], dtype=int32))
    """

    things: tuple[int, ...]
    """The classes whose pixels are divided into objects; all others are stuff."""

    background: int | None = 0
    """The channel of the background, from 0, which becomes class 0; the others are numbered from 1
    in their order. None: each channel is a class.
    """

    instances: Mapping[str, Any] = field(default_factory=lambda: {"kind": "boundary"})
    """The decoder that separates objects, ``boundary`` or ``flows`` as ``kind``, and its options
    except ``threshold``, because the classes say where objects are.
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
        """The decoder of the first channels to classes."""
        return Semantic(background=self.background)

    @property
    def parting(self) -> Parting:
        """The decoder that separates objects."""
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
        """The number of channels after those of the classes."""
        return int(self.parting.channels or 0) - 1

    def classify(self, channels: Channels, valid: Flags) -> npt.NDArray[np.unsignedinteger[Any]]:
        """Classify each pixel by itself.

        Parameters
        ----------
        channels : float ndarray, (channel, row, column) or (channel, plane, row, column)
            The network's answer.
        valid : bool ndarray of the shape ``channels.shape[1:]``
            True where a pixel was measured.

        Returns
        -------
        unsigned ndarray of the shape of ``valid``
            Classes; 0 is background.

        Raises
        ------
        SegmenterError
            There are too few channels.
        """
        checked(self, channels, valid)
        if len(channels) <= self.more:
            raise SegmenterError(
                f"Panoptic: the network gives {len(channels)} channels; allowed: one for each "
                f"class, and {self.more} more"
            )
        return self.kinds.classify(channels[: len(channels) - self.more], valid)

    def foreground(self, channels: Channels, valid: Flags) -> Flags:
        """Compute the support, the pixels of things.

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
        return np.isin(self.classify(channels, valid), self.things)

    def __call__(self, channels: Channels, valid: Flags) -> npt.NDArray[np.int32]:
        """Separate the objects of things.

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
        """
        sure = np.where(self.foreground(channels, valid), np.inf, -np.inf).astype(channels.dtype)
        return self.parting(
            np.concatenate([sure[None], channels[len(channels) - self.more :]]), valid
        )

    def segments(self, channels: Channels, valid: Flags) -> npt.NDArray[np.int64]:
        """Label the things and stuff of a whole image, with numbers as `targets` takes them."""
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
        """Compute the channels that a network should give for labels.

        Parameters
        ----------
        labels : int ndarray, (row, column)
            `pipeline.image.legend.CLASS` times the class plus, for things, the number of the object
            within its class; -1 where the truth is unknown.

        Returns
        -------
        float32 ndarray, (1 + channel, row, column)
            The number of the class's channel, then the channels of ``instances`` with its
            foreground.
        """
        labels = truth(labels)
        kinds = np.where(labels < 0, -1, labels // CLASS)
        thing = np.isin(kinds, self.things)
        objects = np.where(
            thing, np.searchsorted(np.unique(labels[thing]), labels) + 1, np.minimum(kinds, 0)
        )
        return np.concatenate([self.kinds.targets(kinds), self.parting.targets(objects)])
