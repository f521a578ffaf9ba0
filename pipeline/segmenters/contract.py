"""What a segmenter states about itself, and what it may return.

`pipeline.segmenters` says what a segmenter is, and `pipeline.segmenters.protocols` what else it may
offer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from pipeline.errors import JobError

Pixels: TypeAlias = npt.NDArray[Any]
Flags: TypeAlias = npt.NDArray[np.bool_]
Origin: TypeAlias = tuple[int, ...] | None
"""The place of a block's first pixel in the image; None: the image's first pixel."""


class Segmenter(Protocol):
    """Any callable from a block of pixels to labels.

    `pipeline.segmenters` says which arguments it may take.
    """

    def __call__(self, *block: Any, **asked: Any) -> Any:
        """Label a block of pixels.

        Parameters
        ----------
        *block
            The pixels, one array (band, row, column) or (band, plane, row, column), of any dtype.
        **asked
            Those of ``valid``, ``origin`` and ``part`` for which the callable has a parameter.

        Returns
        -------
        ndarray or Keyed
            Labels, integers of the block's shape without the axis of bands, 0 for background.
            `Keyed` only where ``identity`` is ``keyed``.
        """
        ...


Identity = Literal["connected", "object", "keyed", "class", "layered"]


@dataclass(frozen=True, slots=True)
class Classes:
    """What ``classify`` may return."""

    kinds: npt.NDArray[Any]
    """The class of every pixel, 0 for background: integers or bool."""

    seeds: npt.NDArray[np.bool_] | None = None
    """Pixels of which an object needs at least one; None: it needs none."""

    surface: npt.NDArray[Any] | None = None
    """(value, row, column) or (value, plane, row, column): neighbours of one class belong together
    only where none of these values differs between them by more than ``step``. None: always.
    """

    step: float = 0.0


@dataclass(frozen=True, slots=True)
class Keyed:
    """What a segmenter may return whose identity is ``keyed``."""

    keys: npt.NDArray[Any]
    """The key of every pixel, 0 for background: integers of up to 64 bits."""

    kinds: npt.NDArray[Any] | None = None
    """The class of every pixel, the same for all pixels of a key; integers, 0 for background. None:
    all are of class 1.
    """


@dataclass(frozen=True, slots=True)
class Footprint:
    """The memory that drawing the labels of a window takes at its height, in bytes.

    The window's own pixels do not count. The numbers are found by measurement.
    """

    pixel: float = 64.0
    """Bytes for each pixel of the window."""

    band: float = 8.0
    """Bytes for each pixel and band."""

    passing: float = 0.0
    """Bytes for each pixel of a batch that is on its way through a network."""

    batch: int = 0
    """Pixels of a batch, at most."""

    def bytes(self, pixels: int, bands: int) -> int:
        """Estimate the memory for a window.

        Parameters
        ----------
        pixels
            How many pixels the window has.
        bands
            How many bands are read.

        Returns
        -------
        int
            Bytes.
        """
        return int(
            pixels * (self.pixel + bands * self.band) + min(pixels, self.batch) * self.passing
        )


@dataclass(frozen=True, slots=True)
class Contract:
    """What a segmenter states about itself.

    Each field is an attribute of the segmenter, with the default used in its absence.
    """

    identity: Identity = "object"
    """What makes pixels one object. ``connected``: pixels of one class that touch. ``object``: what
    was drawn in one piece of support. ``keyed``: pixels of one label; this key does not depend on
    the tiling, may need 64 bits, and its pixels are connected. (``class``, all pixels of one class,
    is what ``connected`` becomes where only classes are wanted; ``layered`` is what shows of
    several layers.)
    """

    reach: int = 0
    """How many pixels away (along each axis) a pixel can be and still change the class or the
    support of a pixel. A segmenter that does not state it is on probation.
    """

    connectivity: int | None = None
    """Which neighbours touch, for ``connected``: 4 or 8 in two dimensions, 6 or 26 in three. None:
    those with a common face.
    """

    device: str = "cpu"
    """``cpu``; ``gpu``: its tiles go only to workers that offer the resource GPU; or ``auto``: the
    GPU where the run's workers offer one when it begins, else the CPU. A dataclass with a field of
    this name is handed what was found.
    """

    min_area: int = 0
    """Objects of fewer pixels are removed, once the parts of each are known."""

    fill_holes: bool = False
    """For ``connected``: background that an object encloses becomes part of it, as
    `scipy.ndimage.binary_fill_holes` does.
    """

    seeded: bool = False
    """For ``connected``: ``classify`` says which pixels are seeds."""

    between: bool = False
    """For ``connected``, with seeds: objects are not the pixels of the class but what lies between
    those pieces of it that have a seed.
    """

    lines: bool = False
    """Objects are curves, a pixel wide, in two dimensions: they are written as lines too."""

    windowed: bool = False
    """For ``object``: what is drawn depends on the whole window, so that nothing is proved unless
    that is the whole image.
    """

    proved: bool = True
    """Whether a certificate can be ``proved``. False caps every certificate of this segmenter at
    ``agreed``.
    """

    portable: bool = False
    """Whether what it draws is the same to the last bit on every processor of a family. False:
    where a run's processors differ, windows agree at best.
    """

    partial: bool = False
    """For ``object``: there may be pieces of the foreground in which nothing is drawn."""

    things: tuple[int, ...] | None = None
    """For ``object``, with ``classify``: the classes that are things, of which objects are; all
    others are stuff. None: objects are all.
    """

    result: Literal["instance", "semantic"] = "instance"
    """What is wanted of it where the job does not say: objects, or the class of every pixel; with
    ``things``, both.
    """

    footprint: Footprint = Footprint()
    """What it takes in memory, by which windows are chosen that fit."""

    probation: bool = False
    """Not stated, but found: it says neither its reach nor that it is ``windowed``. Nothing that it
    draws is proved where a window is less than the image, and windows are compared wherever they
    overlap, whatever its identity.
    """

    @property
    def plain(self) -> bool:
        """Whether the class of a pixel is decided without knowing its object.

        Returns
        -------
        bool
            True where the identity is ``connected`` and nothing asks for the whole object: no
            ``min_area``, ``fill_holes``, ``seeded`` or ``between``.
        """
        return self.identity == "connected" and not (
            self.min_area or self.fill_holes or self.seeded or self.between
        )

    @classmethod
    def of(cls, segmenter: Segmenter) -> Contract:
        """Read and check the attributes of a segmenter.

        Parameters
        ----------
        segmenter
            Any callable; attributes that it does not have take their defaults.

        Returns
        -------
        Contract
            What it states. ``device`` is ``gpu`` for ``cuda…`` and ``mps…``, and ``probation`` is
            found from the rest.

        Raises
        ------
        JobError
            If it is not callable, or an attribute has a value that is not allowed.
        """
        if not callable(segmenter):
            raise JobError(f"a segmenter is a function from a block to labels, not {segmenter!r}")
        stated = {
            name: getattr(segmenter, name)
            for name in cls.__dataclass_fields__
            if hasattr(segmenter, name)
        }
        stated["probation"] = "reach" not in stated and not stated.get("windowed", False)
        if str(stated.get("device", "")).startswith(("cuda", "mps")):
            stated["device"] = "gpu"
        contract = cls(**stated)
        for name, holds, allowed in (
            (
                "identity",
                contract.identity in ("connected", "object", "keyed"),
                "'connected', 'object' or 'keyed'",
            ),
            ("reach", _whole(contract.reach), "a number of pixels, 0 or more"),
            (
                "connectivity",
                contract.connectivity in (None, 4, 8, 6, 26),
                "4 or 8 in two dimensions, 6 or 26 in three",
            ),
            ("device", contract.device in ("cpu", "gpu", "auto"), "'cpu', 'gpu' or 'auto'"),
            ("result", contract.result in ("instance", "semantic"), "'instance' or 'semantic'"),
            (
                "things",
                contract.things is None or contract.identity == "object",
                "None where identity is not 'object'",
            ),
            ("min_area", _whole(contract.min_area), "a number of pixels, 0 or more"),
            (
                "fill_holes",
                not contract.fill_holes or contract.identity == "connected",
                "True only where identity is 'connected'",
            ),
        ):
            if not holds:
                raise JobError(
                    f"{name_of(segmenter)}.{name}: {getattr(contract, name)!r}; allowed: {allowed}"
                )
        return contract

    def neighbours(self, ndim: int) -> int:
        """Give the connectivity for an image.

        Parameters
        ----------
        ndim
            The number of the image's dimensions without bands, 2 or 3.

        Returns
        -------
        int
            4 or 8 in two dimensions, 6 or 26 in three.

        Raises
        ------
        JobError
            If the stated connectivity is one for other dimensions.
        """
        allowed = (4, 8) if ndim == 2 else (6, 26)
        if self.connectivity not in (None, *allowed):
            raise JobError(
                f"connectivity {self.connectivity} in {ndim} dimensions; allowed: {allowed[0]} "
                f"or {allowed[1]}"
            )
        return self.connectivity or allowed[0]


def exactness(kind: Any) -> str:
    """Say in words how far the result of a kind is exact under tiling.

    Parameters
    ----------
    kind
        The class of a segmenter, or a segmenter.

    Returns
    -------
    str
        Its attribute ``exactness``, or what follows from its identity.
    """
    if stated := getattr(kind, "exactness", ""):
        return str(stated)
    if getattr(kind, "windowed", False):
        return "only where the image fits into one window"
    if isinstance(
        getattr(kind, "proved", True), property
    ):  # of a network: it depends on its bundle
        return "to the precision of floats, where its reach is bounded"
    if getattr(kind, "identity", "object") == "object":
        return "where the foreground's piece fits into a window (`max_halo`)"
    return "at any size"


def on_probation(segmenter: Segmenter) -> str:
    """Tell the user of a segmenter that states no reach what follows, and what to state.

    Parameters
    ----------
    segmenter
        The segmenter.

    Returns
    -------
    str
        One sentence.
    """
    name = name_of(segmenter)
    return (
        f"{name} states no reach, so nothing that it draws is proved, only compared between "
        f"windows; to earn more, state how many pixels "
        f"away a pixel can be and still change the foreground or class of a pixel ({name}.reach "
        f"= 0, if none), or, where that is the whole "
        f"window, {name}.windowed = True"
    )


def name_of(segmenter: Segmenter) -> str:
    """Give the name by which messages call a segmenter.

    Parameters
    ----------
    segmenter
        A function or an instance.

    Returns
    -------
    str
        The function's name, or that of the class.
    """
    return str(getattr(segmenter, "__name__", type(segmenter).__name__))


def _whole(number: object) -> bool:
    return (
        isinstance(number, (int, np.integer)) and not isinstance(number, bool) and bool(number >= 0)
    )
