"""What a segmenter is, and how one is called.

A segmenter is any callable from a block of pixels, (band, row, column) or (band, plane, row,
column), to labels, (row, column) or (plane, row, column): integers, 0 is background. A parameter
named ``valid`` receives the mask of measured pixels, one named ``origin`` the place of the block's
first pixel in the image, (row, column) or (plane, row, column). A segmenter knows nothing of tiles,
Dask or files, and keeps no state between calls.

It may state more about itself by attributes, all of them optional; `Contract` lists them with their
defaults. And it may offer:

``classify(block, valid) -> classes``
    for ``identity = "connected"``: the class of every pixel, 0 for background. The pipeline then
    labels connected pieces itself, once, after cutting off the pixels that the window's edge may
    have altered. Without it, the labels serve as classes. It may return `Classes`, which also says
    which pixels are seeds: then an object is kept only if it has one, wherever that lies.
``foreground(block, valid) -> bool``
    for ``identity = "object"``: where there will be labels (the support), cheaply. The pipeline
    then finds the window that holds a piece of it whole before it draws there. If the segmenter
    also has a parameter ``part``, that receives the pixels of the pieces which are asked for, or
    None for all; what it draws in them is the same, and elsewhere it may draw nothing.
``feature(block, valid) -> array`` and ``fit(histogram) -> segmenter``
    for a segmenter with global statistics: the histogram of its feature over the whole image is
    handed to ``fit``, which returns the segmenter to run. It is called while the attribute
    ``unfitted`` is true. A feature with an axis more than ``valid``, the first, is several: then
    ``fit`` is handed a list of histograms. Floats are counted in as many bins as the attribute
    ``bins`` says, or 256.
``features(block, valid) -> array``, ``sample`` and ``fit(rows) -> segmenter``
    likewise, where a sample of pixels serves better: ``fit`` is handed the features, float64
    (pixel, feature), of as many pixels as the attribute ``sample`` says, chosen over the whole
    image in a way that does not depend on the tiling. ``absent(box) -> bool`` may say where there
    is none, so that the image is not read there.
``classify(block, valid) -> classes`` and ``things``
    for ``identity = "object"``: of every pixel, and which are things. An object is of the class of
    most of its pixels; the rest is stuff.
``predict(block, valid, origin) -> channels`` and ``decoder``
    for what is costly and serves all of these: each window is predicted once, and the ``decoder``,
    itself a segmenter, is handed the channels, (channel, row, column), in place of the pixels.
``suited(frame) -> segmenter``
    is asked before anything is read: the same for this image as steps leave it, or JobError.
``of_bands``
    names its options that are bands, pairs or lists of them, or weights by band: what is called by
    name there becomes a number, from 1, before it sees the image.
``reads(number) -> indices``
    which of so many bands, by index from 0, its result at a pixel depends on; in its absence, all.
    ``valid`` is where all of these were measured, so that what is missing in another band costs
    nothing. With ``bandwise`` true, each of several features that are counted in histograms is of
    one of these bands, in their order, and is counted where that band was measured.

A step before segmenting may offer ``reads`` too: each band that it makes is then measured where all
of those are. Or it states ``bandwise``: each band that it makes is of the same band before; its
``valid`` then is where each band was measured, (band, row, column). Or it says more exactly, by
``measured(measured)``, where the bands that it makes are, (band, row, column) from (band, row,
column).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import SegmenterError, TilewiseError
from pipeline.image.frame import valid_or_all
from pipeline.image.grid import Box
from pipeline.image.legend import MOST
from pipeline.imageops.components import pieces
from pipeline.imageops.histograms import FLOAT_BINS, histogram
from pipeline.imageops.sampling import Sample, collect, merge, pick
from pipeline.segmenters.contract import (
    Classes,
    Contract,
    Flags,
    Footprint,
    Identity,
    Keyed,
    Origin,
    Pixels,
    Segmenter,
    exactness,
    name_of,
    on_probation,
)

__all__ = [
    "Classes",
    "Contract",
    "Flags",
    "Footprint",
    "Identity",
    "Keyed",
    "Origin",
    "Pixels",
    "Segmenter",
    "call",
    "classes",
    "draw",
    "exactness",
    "fitted_to",
    "float_bins",
    "keyed",
    "label",
    "measured_after",
    "name_of",
    "on_probation",
    "reads",
    "sample_size",
    "stepped",
    "support",
    "takes_part",
    "valid_for",
]


def draw(
    segmenter: Segmenter,
    block: Pixels,
    valid: Flags,
    origin: Origin = None,
    part: Flags | None = None,
) -> npt.NDArray[np.int32]:
    """Call a segmenter on a block: labels, 0 where the image is not valid. SegmenterError says what
    was wrong with them.
    """
    return _compact(
        _checked(segmenter, call(segmenter, block, valid, origin, part), valid, None)
    ).astype(np.int32, copy=False)


def takes_part(segmenter: Segmenter) -> bool:
    """Whether a segmenter can be asked for some pieces of its support only."""
    return hasattr(segmenter, "foreground") and "part" in _parameters(segmenter)


def support(segmenter: Segmenter, block: Pixels, valid: Flags, origin: Origin = None) -> Flags:
    """Where a segmenter would draw objects, as cheaply as it can tell."""
    return (
        _checked(
            segmenter,
            call(getattr(segmenter, "foreground", segmenter), block, valid, origin),
            valid,
            None,
        )
        > 0
    )


def classes(segmenter: Segmenter, block: Pixels, valid: Flags, origin: Origin = None) -> Classes:
    """The class of every pixel, 0 for background, and the seeds, of a segmenter that can
    ``classify``.
    """
    found = call(getattr(segmenter, "classify", segmenter), block, valid, origin)
    classed = found if isinstance(found, Classes) else Classes(np.asarray(found))
    kinds = _checked(segmenter, classed.kinds, valid)
    if hasattr(segmenter, "classify"):
        _refuse_class(segmenter, kinds)
    if not isinstance(found, Classes):
        return Classes(kinds)
    return replace(
        found,
        kinds=kinds,
        seeds=None if found.seeds is None else np.asarray(found.seeds, bool) & (kinds > 0),
    )


def keyed(segmenter: Segmenter, block: Pixels, valid: Flags, origin: Origin = None) -> Keyed:
    """The key of every pixel, int64, 0 for background, and the classes, of a segmenter whose
    identity is ``keyed``.
    """
    found = (
        drawn if isinstance(drawn := call(segmenter, block, valid, origin), Keyed) else Keyed(drawn)
    )
    keys = _checked(segmenter, found.keys, valid, np.int64).astype(np.int64, copy=False)
    kinds = None if found.kinds is None else _checked(segmenter, found.kinds, valid)
    if kinds is not None:
        _refuse_class(segmenter, kinds)
    return Keyed(keys, kinds)


def label(segmenter: Segmenter, block: Pixels, valid: Flags | None = None) -> npt.NDArray[np.int32]:
    """Label one block as if it were the whole image, by a segmenter whose identity is
    ``connected``: int32, in raster order.

    Statistics that it asks for are those of the block. Nothing is decided here by area, and no hole
    is filled.
    """
    block = np.asarray(block)
    valid = valid_or_all(valid, block)
    fitted = fitted_to(segmenter, block, valid)
    found, contract = classes(fitted, block, valid), Contract.of(fitted)
    neighbours = contract.neighbours(valid.ndim)
    labels, number = pieces(
        found.kinds, None if contract.between else neighbours, found.surface, found.step
    )
    if found.seeds is None:
        return labels
    kept = np.zeros(number + 1, bool)
    kept[labels[found.seeds]] = True
    if contract.between:
        return pieces(valid & ~kept[labels], neighbours)[0]
    return np.where(kept, np.cumsum(kept), 0).astype(np.int32)[labels]


def fitted_to(segmenter: Segmenter, block: Pixels, valid: Flags) -> Any:
    """The segmenter with the statistics that it asks for taken from a block as if that were the
    whole image.
    """
    what: Any = segmenter
    while getattr(what, "unfitted", False):
        if size := sample_size(what):
            features = call(what.features, block, valid)
            what = what.fit(
                collect(valid.shape, size, partial(_gathered, features, valid, size)).rows
            )
        else:
            feature, bins = call(what.feature, block, valid), float_bins(what)
            several = feature.ndim > valid.ndim
            what = what.fit(
                [histogram(f, valid, bins) for f in feature]
                if several
                else histogram(feature, valid, bins)
            )
    return what


def reads(what: Any, number: int) -> list[int]:
    """The indices, from 0, of those of ``number`` bands that the result of a segmenter or a step at
    a pixel depends on.
    """
    return [int(k) for k in what.reads(number)] if hasattr(what, "reads") else list(range(number))


def valid_for(what: Any, measured: Flags) -> Flags:
    """Where all bands were measured that a segmenter or a step reads.

    ``measured`` is (band, row, column) or (band, plane, row, column); what is returned has no first
    axis, and is not to be written to.
    """
    if hasattr(what, "valid_in"):  # what is laid of other runs' labels
        return np.asarray(what.valid_in(measured))
    bands = [min(k, len(measured) - 1) for k in reads(what, len(measured))]
    if measured.strides[0] == 0 or len(bands) < 2:  # the same for all bands
        return np.asarray(measured[bands[0] if bands else 0])
    return np.asarray(measured[bands].all(axis=0))


def stepped(step: Any, block: Pixels, measured: Flags) -> tuple[Pixels, Flags]:
    """What a step makes of a block, and where each band of that was measured; both (band, row,
    column) or (band, plane, row, column).
    """
    known = measured_after(step, measured)
    made = call(
        step, block, measured if getattr(step, "bandwise", False) else valid_for(step, measured)
    )
    return made, known if len(known) == len(made) else np.broadcast_to(
        known[0], (len(made), *known.shape[1:])
    )


def measured_after(step: Any, measured: Flags) -> Flags:
    """Where the bands that a step makes were measured; of a step that says nothing of it, as many
    as before, which all share it.
    """
    if getattr(step, "bandwise", False):
        return measured
    if hasattr(step, "measured"):
        return np.asarray(step.measured(measured), bool)
    return np.broadcast_to(valid_for(step, measured), measured.shape)


def sample_size(what: Any) -> int:
    """How many pixels a segmenter or a step wants to be fitted to; 0 where it wants histograms."""
    return int(getattr(what, "sample", 0))


def float_bins(what: Any) -> int:
    """How many bins it wants floats to be counted in."""
    return int(getattr(what, "bins", FLOAT_BINS))


def _gathered(features: Pixels, valid: Flags, size: int, boxes: list[Box]) -> Sample:
    whole = Box.whole(valid.shape)
    return merge(
        [
            pick(
                features[(slice(None), *box.within(whole))],
                valid[box.slices],
                box,
                valid.shape,
                size,
            )
            for box in boxes
        ],
        size,
    )


def call(
    function: Callable[..., Any],
    block: Pixels,
    valid: Flags,
    origin: Origin = None,
    part: Flags | None = None,
) -> Any:
    """Call a segmenter, a step or a method of one with as much as its parameters ask for;
    SegmenterError where it raises.
    """
    asked = _parameters(function)
    more: dict[str, Any] = {
        "valid": valid,
        "origin": origin or (0,) * (block.ndim - 1),
        "part": part,
    }
    try:
        return function(block, **{name: what for name, what in more.items() if name in asked})
    except (TilewiseError, MemoryError):
        raise
    except Exception as error:
        raise SegmenterError(
            f"the segmenter {name_of(function)} raised {type(error).__name__}: {error}"
        ) from error


def _parameters(function: Callable[..., Any]) -> Collection[str]:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):  # some callables written in C tell nothing of their parameters
        return ()


def _refuse_class(segmenter: Segmenter, kinds: npt.NDArray[Any]) -> None:
    if (highest := int(kinds.max(initial=0))) > MOST:
        raise SegmenterError(
            f"the segmenter {name_of(segmenter)} returned the class {highest}; classes are "
            f"numbered 0 to {MOST}"
        )


def _compact(labels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The labels renumbered, 1 to n in their order, where they are higher than there are pixels:
    what is kept by label takes no more.
    """
    if labels.dtype.kind == "b" or not labels.size or int(labels.max()) <= labels.size:
        return labels
    names, places = np.unique(labels, return_inverse=True)
    return np.asarray(places.reshape(labels.shape) + (names[0] != 0))


def _checked(
    segmenter: Segmenter,
    drawn: object,
    valid: Flags,
    most: type[np.signedinteger[Any]] | None = np.int32,
) -> npt.NDArray[Any]:
    """Refuse what no labels can be, and clear the pixels that are not valid."""
    name = name_of(segmenter)
    labels = np.asarray(drawn)
    if labels.shape != valid.shape:
        raise SegmenterError(
            f"the segmenter {name} returned the shape {labels.shape}; a block of {valid.shape} "
            f"needs labels of that shape"
        )
    if labels.dtype.kind not in "biu":
        raise SegmenterError(
            f"the segmenter {name} returned {labels.dtype}; labels are integers, 0 for background"
        )
    if (
        labels.dtype.kind == "b"
        and Contract.of(segmenter).identity == "object"
        and not hasattr(segmenter, "foreground")
    ):
        raise SegmenterError(
            f"the segmenter {name} returned a mask; number its objects (scipy.ndimage.label), or "
            f"state identity = 'connected'"
        )
    if labels.size and labels.dtype.kind == "i" and labels.min() < 0:
        raise SegmenterError(
            f"the segmenter {name} returned the label {labels.min()}; labels are 0 or more"
        )
    if most and labels.size and labels.dtype.itemsize > 3 and labels.max() > np.iinfo(most).max:
        raise SegmenterError(
            f"the segmenter {name} returned the label {labels.max()}; labels of one block fit in "
            f"{most.__name__}"
        )
    return labels if valid.all() else np.where(valid, labels, labels.dtype.type(0))
