"""What a segmenter is, and how one is called.

A segmenter is any callable from a block of pixels, (band, row, column) or (band, plane, row,
column), to labels, (row, column) or (plane, row, column): integers, 0 is background. A parameter
named ``valid`` receives the mask of measured pixels, one named ``origin`` the place of the block's
first pixel in the image, (row, column) or (plane, row, column). A segmenter knows nothing of tiles,
Dask or files, and keeps no state between calls.

It may state more about itself by attributes, all of them optional; `Contract` lists them with their
defaults. And it may offer more: `pipeline.segmenters.protocols` lists that, one Protocol for each
offer, for steps too.
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
from pipeline.imageops.histograms import FLOAT_BINS, Histogram, histogram
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
from pipeline.segmenters.protocols import (
    Bandwise,
    Classifies,
    FittedBySample,
    HasBins,
    HasForeground,
    KnowsValidPixels,
    MeasuresBands,
    ReadsBands,
    Unfitted,
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
    """Draw the labels of a block.

    Parameters
    ----------
    segmenter
        Any segmenter that is fitted.
    block
        Pixels, (band, row, column) or (band, plane, row, column).
    valid
        Bool, without the axis of bands: where they were measured.
    origin
        The place of the block's first pixel in the image; None: the image's first pixel.
    part
        Bool, of the shape of ``valid``: the pixels of the pieces of support that are wanted, for a
        segmenter that takes them; None: all.

    Returns
    -------
    ndarray
        Int32, of the shape of ``valid``: labels, 0 where the image is not valid.

    Raises
    ------
    SegmenterError
        If the segmenter raises, or returns what cannot be labels.
    """
    drawn = call(segmenter, block, valid, origin, part)
    return _compact(_checked(segmenter, drawn, valid, None)).astype(np.int32, copy=False)


def takes_part(segmenter: Segmenter) -> bool:
    """Whether a segmenter can be asked for some pieces of its support only."""
    return isinstance(segmenter, HasForeground) and "part" in _parameters(segmenter)


def support(segmenter: Segmenter, block: Pixels, valid: Flags, origin: Origin = None) -> Flags:
    """Find where a segmenter would draw objects, as cheaply as it can tell.

    Takes and raises what `draw` does; returns bool, of the shape of ``valid``.
    """
    function = segmenter.foreground if isinstance(segmenter, HasForeground) else segmenter
    return _checked(segmenter, call(function, block, valid, origin), valid, None) > 0


def classes(segmenter: Segmenter, block: Pixels, valid: Flags, origin: Origin = None) -> Classes:
    """Classify each pixel; of a segmenter that does not classify, labels are taken for classes.

    Takes and raises what `draw` does; returns the classes, 0 for background, and the seeds.
    """
    classifies = isinstance(segmenter, Classifies)
    function = segmenter.classify if isinstance(segmenter, Classifies) else segmenter
    found = call(function, block, valid, origin)
    classed = found if isinstance(found, Classes) else Classes(np.asarray(found))
    kinds = _checked(segmenter, classed.kinds, valid)
    if classifies:
        _refuse_class(segmenter, kinds)
    if not isinstance(found, Classes):
        return Classes(kinds)
    return replace(
        found,
        kinds=kinds,
        seeds=None if found.seeds is None else np.asarray(found.seeds, bool) & (kinds > 0),
    )


def keyed(segmenter: Segmenter, block: Pixels, valid: Flags, origin: Origin = None) -> Keyed:
    """Find the key of each pixel, by a segmenter with the identity ``keyed``.

    Takes and raises what `draw` does; returns the keys, int64, 0 for background, and the classes.
    """
    drawn = call(segmenter, block, valid, origin)
    found = drawn if isinstance(drawn, Keyed) else Keyed(drawn)
    keys = _checked(segmenter, found.keys, valid, np.int64).astype(np.int64, copy=False)
    kinds = None if found.kinds is None else _checked(segmenter, found.kinds, valid)
    if kinds is not None:
        _refuse_class(segmenter, kinds)
    return Keyed(keys, kinds)


def label(segmenter: Segmenter, block: Pixels, valid: Flags | None = None) -> npt.NDArray[np.int32]:
    """Label one block as if it were the whole image, by a segmenter with the identity
    ``connected``.

    Statistics that it asks for are those of the block. No object is removed for its area, and no
    hole is filled.

    Parameters
    ----------
    segmenter
        Fitted or not.
    block
        Pixels, (band, row, column) or (band, plane, row, column).
    valid
        Bool, without the axis of bands: where they were measured; None: everywhere.

    Returns
    -------
    ndarray
        Int32, of the shape of ``valid``: 1 to n in raster order, 0 for background.
    """
    block = np.asarray(block)
    valid = valid_or_all(valid, block)
    fitted = fitted_to(segmenter, block, valid)
    found = classes(fitted, block, valid)
    contract = Contract.of(fitted)
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
    """Fit a segmenter to a block, (band, row, column), as if that were the whole image; ``valid``,
    bool (row, column), says where it was measured.
    """
    what: Any = segmenter
    while isinstance(what, Unfitted):
        if isinstance(what, FittedBySample):
            what = what.fit(_rows(what, block, valid))
        else:
            what = what.fit(_histograms(what, block, valid))
    return what


def _rows(what: FittedBySample, block: Pixels, valid: Flags) -> npt.NDArray[np.float64]:
    """The sample of a block, (pixel, feature)."""
    features = call(what.features, block, valid)
    size = sample_size(what)
    return collect(valid.shape, size, partial(_gathered, features, valid, size)).rows


def _histograms(what: Any, block: Pixels, valid: Flags) -> Histogram | list[Histogram]:
    """The histogram of a block's feature, or one for each of several."""
    feature = call(what.feature, block, valid)
    bins = float_bins(what)
    if feature.ndim > valid.ndim:
        return [histogram(each, valid, bins) for each in feature]
    return histogram(feature, valid, bins)


def reads(what: Any, number: int) -> list[int]:
    """The indices, from 0, of those of ``number`` bands that the result of a segmenter or a step at
    a pixel depends on.
    """
    read = what.reads(number) if isinstance(what, ReadsBands) else range(number)
    return [int(k) for k in read]


def valid_for(what: Any, measured: Flags) -> Flags:
    """Where all bands were measured that a segmenter or a step reads.

    ``measured`` is (band, row, column) or (band, plane, row, column); what is returned has no first
    axis, and is not to be written to.
    """
    if isinstance(what, KnowsValidPixels):
        return np.asarray(what.valid_in(measured))
    bands = [min(k, len(measured) - 1) for k in reads(what, len(measured))]
    if measured.strides[0] == 0 or len(bands) < 2:  # the same for all bands
        return np.asarray(measured[bands[0] if bands else 0])
    return np.asarray(measured[bands].all(axis=0))


def stepped(step: Any, block: Pixels, measured: Flags) -> tuple[Pixels, Flags]:
    """Run a step on a block, (band, row, column) or (band, plane, row, column).

    ``measured``, bool of the block's shape, says where each band was measured. Returns the block
    that the step makes, and where each band of that was measured.
    """
    known = measured_after(step, measured)
    valid = measured if isinstance(step, Bandwise) else valid_for(step, measured)
    made = call(step, block, valid)
    if len(known) != len(made):
        known = np.broadcast_to(known[0], (len(made), *known.shape[1:]))
    return made, known


def measured_after(step: Any, measured: Flags) -> Flags:
    """Where the bands that a step makes were measured. A step that does not say has as many bands
    as before, all measured where every band that it reads was.
    """
    if isinstance(step, Bandwise):
        return measured
    if isinstance(step, MeasuresBands):
        return np.asarray(step.measured(measured), bool)
    return np.broadcast_to(valid_for(step, measured), measured.shape)


def sample_size(what: Any) -> int:
    """How many pixels a segmenter or a step wants to be fitted to; 0 where it wants histograms."""
    return int(what.sample) if isinstance(what, FittedBySample) else 0


def float_bins(what: Any) -> int:
    """How many bins a segmenter or a step wants floats to be counted in."""
    return int(what.bins) if isinstance(what, HasBins) else FLOAT_BINS


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
    """Call a segmenter, a step or a method of one.

    Parameters
    ----------
    function
        It is called with the block, and with those of the other arguments for which it has a
        parameter.
    block, valid, origin, part
        As for `draw`; ``valid`` of a bandwise step is (band, row, column).

    Raises
    ------
    SegmenterError
        If it raises anything but an error of `pipeline.errors` or a MemoryError.
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
        and not isinstance(segmenter, HasForeground)
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
