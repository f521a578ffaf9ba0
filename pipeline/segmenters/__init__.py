"""What a segmenter is, and how one is called.

A segmenter is any callable from a block of pixels, (band, row, column) or (band, plane, row, column), to labels, (row, column) or
(plane, row, column): integers, 0 is background. A parameter named ``valid`` receives the mask of measured pixels, one named ``origin`` the
place of the block's first pixel in the image, (row, column) or (plane, row, column). A segmenter knows nothing of tiles, Dask or files,
and keeps no state between calls.

It may state more about itself by attributes, all of them optional; `Contract` lists them with their defaults. And it may offer:

``classify(block, valid) -> classes``
    for ``identity = "connected"``: the class of every pixel, 0 for background. The pipeline then labels connected pieces itself,
    once, after cutting off the pixels that the window's edge may have altered. Without it, the labels serve as classes. It may return
    `Classes`, which also says which pixels are seeds: then an object is kept only if it has one, wherever that lies.
``foreground(block, valid) -> bool``
    for ``identity = "object"``: where there will be labels (the support), cheaply. The pipeline then finds the window that holds a
    piece of it whole before it draws there.
``feature(block, valid) -> array`` and ``fit(histogram) -> segmenter``
    for a segmenter with global statistics: the histogram of its feature over the whole image is handed to ``fit``, which returns
    the segmenter to run. It is called while the attribute ``unfitted`` is true. A feature with an axis more than ``valid``, the first,
    is several: then ``fit`` is handed a list of histograms. Floats are counted in as many bins as the attribute ``bins`` says, or 256.
``features(block, valid) -> array``, ``sample`` and ``fit(rows) -> segmenter``
    likewise, where a sample of pixels serves better: ``fit`` is handed the features, float64 (pixel, feature), of as many pixels as the
    attribute ``sample`` says, chosen over the whole image in a way that does not depend on the tiling. ``absent(box) -> bool`` may say
    where there is none, so that the image is not read there.
``classify(block, valid) -> classes`` and ``things``
    for ``identity = "object"``: of every pixel, and which are things. An object is of the class of most of its pixels; the rest is stuff.
``predict(block, valid, origin) -> channels`` and ``decoder``
    for what is costly and serves all of these: each window is predicted once, and the ``decoder``, itself a segmenter, is handed the
    channels, (channel, row, column), in place of the pixels.
``suited(frame) -> segmenter``
    is asked before anything is read: the same for this image, or JobError.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from pipeline.components import pieces
from pipeline.errors import JobError, SegmenterError, TilewiseError
from pipeline.grid import Box
from pipeline.histograms import FLOAT_BINS, histogram
from pipeline.sampling import Sample, collect, merge, pick

Segmenter: TypeAlias = Callable[..., Any]
Pixels: TypeAlias = npt.NDArray[Any]
Flags: TypeAlias = npt.NDArray[np.bool_]
Origin: TypeAlias = tuple[int, ...] | None
"""The place of a block's first pixel in the image; None: the image's first pixel."""
Identity = Literal["connected", "object", "keyed", "class", "layered"]


@dataclass(frozen=True, slots=True)
class Classes:
    """What ``classify`` may return."""

    kinds: npt.NDArray[Any]
    """The class of every pixel, 0 for background: integers or bool."""

    seeds: npt.NDArray[np.bool_] | None = None
    """Pixels of which an object needs at least one; None: it needs none."""

    surface: npt.NDArray[Any] | None = None
    """(value, row, column) or (value, plane, row, column): neighbours of one class belong together only where none of these values
    differs between them by more than ``step``. None: always."""

    step: float = 0.0


@dataclass(frozen=True, slots=True)
class Keyed:
    """What a segmenter may return whose identity is ``keyed``."""

    keys: npt.NDArray[Any]
    """The key of every pixel, 0 for background: integers of up to 64 bits."""

    kinds: npt.NDArray[Any] | None = None
    """The class of every pixel, the same for all pixels of a key; integers, 0 for background. None: all are of class 1."""


@dataclass(frozen=True, slots=True)
class Contract:
    """What a segmenter states about itself; each field is an attribute of the segmenter, with the default used in its absence."""

    identity: Identity = "object"
    """What makes pixels one object: ``connected`` – pixels of one class that touch; ``object`` – what was drawn in one piece of support;
    ``keyed`` – one label, a key that does not depend on the tiling, may need 64 bits, and whose pixels hang together. (``class``, all
    pixels of one class, is what ``connected`` becomes where only classes are wanted; ``layered`` is what shows of several layers.)"""

    reach: int = 0
    """How many pixels away (along each axis) a pixel can be and still change the class or the support of a pixel."""

    connectivity: int | None = None
    """Which neighbours touch, for ``connected``: 4 or 8 in two dimensions, 6 or 26 in three. None: those with a common face."""

    device: str = "cpu"
    """``cpu``; ``gpu``: its tiles go only to workers that offer the resource GPU; or ``auto``: the GPU where the run's workers offer one
    when it begins, else the CPU. A dataclass with a field of this name is handed what was found."""

    min_area: int = 0
    """Objects of fewer pixels are removed, once the parts of each are known."""

    fill_holes: bool = False
    """For ``connected``: background that an object encloses becomes part of it, as `scipy.ndimage.binary_fill_holes` does."""

    seeded: bool = False
    """For ``connected``: ``classify`` says which pixels are seeds."""

    between: bool = False
    """For ``connected``, with seeds: objects are not the pixels of the class but what lies between those pieces of it that have a seed."""

    lines: bool = False
    """Objects are curves, a pixel wide, in two dimensions: they are written as lines too."""

    windowed: bool = False
    """For ``object``: what is drawn depends on the whole window, so that nothing is proved unless that is the whole image."""

    proved: bool = True
    """Whether what it draws can be proved at all. False: at best, windows agree."""

    partial: bool = False
    """For ``object``: there may be pieces of the foreground in which nothing is drawn."""

    things: tuple[int, ...] | None = None
    """For ``object``, with ``classify``: the classes that are things, of which objects are; all others are stuff. None: objects are all."""

    result: Literal["instance", "semantic"] = "instance"
    """What is wanted of it where the job does not say: objects, or the class of every pixel; with ``things``, both."""

    @property
    def plain(self) -> bool:
        """Whether the class of a pixel is decided without knowing its object."""
        return self.identity == "connected" and not (self.min_area or self.fill_holes or self.seeded or self.between)

    @classmethod
    def of(cls, segmenter: Segmenter) -> Contract:
        """Read and check the attributes of a segmenter; JobError if it is not callable or states what cannot be."""
        if not callable(segmenter):
            raise JobError(f"a segmenter is a function from a block to labels, not {segmenter!r}")
        stated = {name: getattr(segmenter, name) for name in cls.__dataclass_fields__ if hasattr(segmenter, name)}
        if str(stated.get("device", "")).startswith(("cuda", "mps")):
            stated["device"] = "gpu"
        contract = cls(**stated)
        for name, holds, allowed in (
            ("identity", contract.identity in ("connected", "object", "keyed"), "'connected', 'object' or 'keyed'"),
            ("reach", _whole(contract.reach), "a number of pixels, 0 or more"),
            ("connectivity", contract.connectivity in (None, 4, 8, 6, 26), "4 or 8 in two dimensions, 6 or 26 in three"),
            ("device", contract.device in ("cpu", "gpu", "auto"), "'cpu', 'gpu' or 'auto'"),
            ("result", contract.result in ("instance", "semantic"), "'instance' or 'semantic'"),
            ("things", contract.things is None or contract.identity == "object", "None where identity is not 'object'"),
            ("min_area", _whole(contract.min_area), "a number of pixels, 0 or more"),
            ("fill_holes", not contract.fill_holes or contract.identity == "connected", "True only where identity is 'connected'"),
        ):
            if not holds:
                raise JobError(f"{name_of(segmenter)}: {name} = {getattr(contract, name)!r}; allowed: {allowed}")
        return contract

    def neighbours(self, ndim: int) -> int:
        """The connectivity for an image of this many dimensions: 4, 8, 6 or 26; JobError if it is one for other dimensions."""
        allowed = (4, 8) if ndim == 2 else (6, 26)
        if self.connectivity not in (None, *allowed):
            raise JobError(f"connectivity {self.connectivity} in {ndim} dimensions; allowed: {allowed[0]} or {allowed[1]}")
        return self.connectivity or allowed[0]


def exactness(kind: Any) -> str:
    """How far what a kind draws is exact under tiling, in words: its attribute ``exactness``, or what its identity says."""
    if stated := getattr(kind, "exactness", ""):
        return str(stated)
    if getattr(kind, "windowed", False):
        return "only where the image fits into one window"
    if isinstance(getattr(kind, "proved", True), property):  # of a network: it depends on its bundle
        return "to the precision of floats, where its reach is bounded"
    if getattr(kind, "identity", "object") == "object":
        return "where the foreground's piece fits into a window (`max_halo`)"
    return "at any size"


def draw(segmenter: Segmenter, block: Pixels, valid: Flags, origin: Origin = None) -> npt.NDArray[np.int32]:
    """Call a segmenter on a block: labels, 0 where the image is not valid. SegmenterError says what was wrong with them."""
    return _checked(segmenter, call(segmenter, block, valid, origin), valid).astype(np.int32, copy=False)


def support(segmenter: Segmenter, block: Pixels, valid: Flags, origin: Origin = None) -> Flags:
    """Where a segmenter would draw objects, as cheaply as it can tell."""
    return _checked(segmenter, call(getattr(segmenter, "foreground", segmenter), block, valid, origin), valid) > 0


def classes(segmenter: Segmenter, block: Pixels, valid: Flags, origin: Origin = None) -> Classes:
    """The class of every pixel, 0 for background, and the seeds, of a segmenter that can ``classify``."""
    found = call(getattr(segmenter, "classify", segmenter), block, valid, origin)
    if not isinstance(found, Classes):
        return Classes(_checked(segmenter, found, valid))
    kinds = _checked(segmenter, found.kinds, valid)
    return replace(found, kinds=kinds, seeds=None if found.seeds is None else np.asarray(found.seeds, bool) & (kinds > 0))


def keyed(segmenter: Segmenter, block: Pixels, valid: Flags, origin: Origin = None) -> Keyed:
    """The key of every pixel, int64, 0 for background, and the classes, of a segmenter whose identity is ``keyed``."""
    found = drawn if isinstance(drawn := call(segmenter, block, valid, origin), Keyed) else Keyed(drawn)
    keys = _checked(segmenter, found.keys, valid, np.int64).astype(np.int64, copy=False)
    return Keyed(keys, None if found.kinds is None else _checked(segmenter, found.kinds, valid))


def label(segmenter: Segmenter, block: Pixels, valid: Flags | None = None) -> npt.NDArray[np.int32]:
    """Label one block as if it were the whole image, by a segmenter whose identity is ``connected``: int32, in raster order.

    Statistics that it asks for are those of the block. Nothing is decided here by area, and no hole is filled.
    """
    block = np.asarray(block)
    valid = np.ones(block.shape[1:], bool) if valid is None else valid
    fitted = fitted_to(segmenter, block, valid)
    found, contract = classes(fitted, block, valid), Contract.of(fitted)
    neighbours = contract.neighbours(valid.ndim)
    labels, number = pieces(found.kinds, None if contract.between else neighbours, found.surface, found.step)
    if found.seeds is None:
        return labels
    kept = np.zeros(number + 1, bool)
    kept[labels[found.seeds]] = True
    if contract.between:
        return pieces(valid & ~kept[labels], neighbours)[0]
    return np.where(kept, np.cumsum(kept), 0).astype(np.int32)[labels]


def fitted_to(segmenter: Segmenter, block: Pixels, valid: Flags) -> Any:
    """The segmenter with the statistics that it asks for taken from a block as if that were the whole image."""
    what: Any = segmenter
    while getattr(what, "unfitted", False):
        if size := sample_size(what):
            features = call(what.features, block, valid)
            what = what.fit(collect(valid.shape, size, partial(_gathered, features, valid, size)).rows)
        else:
            feature, bins = call(what.feature, block, valid), float_bins(what)
            several = feature.ndim > valid.ndim
            what = what.fit([histogram(f, valid, bins) for f in feature] if several else histogram(feature, valid, bins))
    return what


def sample_size(what: Any) -> int:
    """How many pixels a segmenter or a step wants to be fitted to; 0 where it wants histograms."""
    return int(getattr(what, "sample", 0))


def float_bins(what: Any) -> int:
    """How many bins it wants floats to be counted in."""
    return int(getattr(what, "bins", FLOAT_BINS))


def _gathered(features: Pixels, valid: Flags, size: int, boxes: list[Box]) -> Sample:
    whole = Box.whole(valid.shape)
    return merge([pick(features[(slice(None), *box.within(whole))], valid[box.slices], box, valid.shape, size) for box in boxes], size)


def name_of(segmenter: Segmenter) -> str:
    """How messages call a segmenter: its class's or function's name."""
    return str(getattr(segmenter, "__name__", type(segmenter).__name__))


def _whole(number: object) -> bool:
    return isinstance(number, (int, np.integer)) and not isinstance(number, bool) and bool(number >= 0)


def call(function: Callable[..., Any], block: Pixels, valid: Flags, origin: Origin = None) -> Any:
    """Call a segmenter, a step or a method of one with as much as its parameters ask for; SegmenterError where it raises."""
    try:
        asked = inspect.signature(function).parameters
    except (TypeError, ValueError):  # some callables written in C tell nothing of their parameters
        asked = {}  # type: ignore[assignment]
    more: dict[str, Any] = {"valid": valid, "origin": origin or (0,) * valid.ndim}
    try:
        return function(block, **{name: what for name, what in more.items() if name in asked})
    except (TilewiseError, MemoryError):
        raise
    except Exception as error:
        raise SegmenterError(f"the segmenter {name_of(function)} raised {type(error).__name__}: {error}") from error


def _checked(segmenter: Segmenter, drawn: object, valid: Flags, most: type[np.signedinteger[Any]] = np.int32) -> npt.NDArray[Any]:
    """Refuse what no labels can be, and clear the pixels that are not valid."""
    name = name_of(segmenter)
    labels = np.asarray(drawn)
    if labels.shape != valid.shape:
        raise SegmenterError(f"the segmenter {name} returned the shape {labels.shape}; a block of {valid.shape} needs labels of that shape")
    if labels.dtype.kind not in "biu":
        raise SegmenterError(f"the segmenter {name} returned {labels.dtype}; labels are integers, 0 for background")
    if labels.dtype.kind == "b" and Contract.of(segmenter).identity == "object" and not hasattr(segmenter, "foreground"):
        raise SegmenterError(
            f"the segmenter {name} returned a mask; number its objects (scipy.ndimage.label), or state identity = 'connected'"
        )
    if labels.size and labels.dtype.kind == "i" and labels.min() < 0:
        raise SegmenterError(f"the segmenter {name} returned the label {labels.min()}; labels are 0 or more")
    if labels.size and labels.dtype.itemsize > 3 and labels.max() > np.iinfo(most).max:
        raise SegmenterError(f"the segmenter {name} returned the label {labels.max()}; labels of one block fit in {most.__name__}")
    return labels if valid.all() else np.where(valid, labels, labels.dtype.type(0))
