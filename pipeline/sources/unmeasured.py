"""Count the pixels of an image that were not measured, by band and reason."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import SourceError
from pipeline.image.frame import Frame
from pipeline.image.grid import Box, Grid
from pipeline.sources.contract import Source, known_mask, mask_name, where_measured

Counts = dict[str, list[int]]
"""For each reason, the number of pixels in each band. Reasons are ``nodata``, ``NaN`` (with
infinite values) and what the source's mask is derived from.
"""

NODATA = "nodata"
NAN = "NaN"
CHUNKS = "missing chunks"
MUCH = 0.001
"""The share of missing pixels above which they are reported. Missing chunks are always reported."""
SMALL = 1 << 24
"""An image of at most this many pixels is read whole before a run; of a larger one, a sample of
boxes.
"""
EXTENT = {2: 512, 3: 64}
"""The side length of such a box in pixels, by the image's number of dimensions."""
BOXES = 64


def unmeasured(
    source: Source, box: Box, block: npt.NDArray[Any], measured: npt.NDArray[np.bool_]
) -> Counts:
    """Count the pixels of a block that were not measured. Each pixel of a band counts once.

    Parameters
    ----------
    source
        The image.
    box
        The box that was read.
    block
        Its values, (band, row, column) or (band, plane, row, column).
    measured
        What `pipeline.sources.where_measured` returns for it.
    """
    if measured.all():
        return {}
    lost = ~measured
    found = {}
    if (known := known_mask(source, box)) is not None:
        hidden = lost & ~known
        found[mask_name(source)] = hidden
        lost = lost & ~hidden
    if block.dtype.kind == "f":
        odd = lost & ~np.isfinite(block)
        found[NAN] = odd
        lost = lost & ~odd
    found[NODATA] = lost
    axes = tuple(range(1, block.ndim))
    return {why: flags.sum(axis=axes).tolist() for why, flags in found.items() if flags.any()}


def added(parts: Iterable[Mapping[str, list[int]]]) -> Counts:
    """The summed counts of several parts of an image."""
    total: dict[str, npt.NDArray[np.int64]] = {}
    for part in parts:
        for why, counts in part.items():
            total[why] = total.get(why, np.int64(0)) + np.array(counts, np.int64)
    return {why: counts.tolist() for why, counts in sorted(total.items())}


def sampled(source: Source) -> dict[str, Any]:
    """The result of `told` for an image before any run, from all of it or from boxes spread over
    it.

    Boxes that cannot be read are left out: opening an image does not show whether all of it can be
    read.
    """
    counts = []
    pixels = 0
    for box in _boxes(source.frame):
        try:
            block = source.read(box)
            counts.append(unmeasured(source, box, block, where_measured(source, box, block)))
        except SourceError:
            continue
        pixels += box.size
    return told(source.frame, added(counts), pixels)


def told(frame: Frame, counts: Mapping[str, list[int]], pixels: int) -> dict[str, Any]:
    """Counts in words and numbers: how many pixels were looked at, and for each band how many were
    not measured, their share, and why.
    """
    bands: dict[str, Any] = {}
    for number, band in enumerate(frame.bands):
        why = {reason: many[number] for reason, many in counts.items() if many[number]}
        if why:
            total = sum(why.values())
            bands[band] = {"pixels": total, "share": round(total / pixels, 6), "why": why}
    return {"looked_at": pixels, "bands": bands}


def lines(facts: Mapping[str, Any]) -> list[str]:
    """A line of text about the result of `told`, if much was not measured or chunks are missing;
    else no line.
    """
    bands = facts.get("bands", {})
    if not any(
        band["share"] > MUCH or any(CHUNKS in why for why in band["why"]) for band in bands.values()
    ):
        return []
    alike = {str(band) for band in bands.values()}
    if len(alike) == 1 and len(bands) > 1:
        return [f"not measured: {_share(next(iter(bands.values())))} of bands {', '.join(bands)}"]
    return [
        "not measured: "
        + "; ".join(f"{_share(band)} of band {name}" for name, band in bands.items())
    ]


def _share(band: Mapping[str, Any]) -> str:
    return f"{100 * band['share']:.3g} % ({', '.join(band['why'])})"


def _boxes(frame: Frame) -> Iterator[Box]:
    """The boxes that are read before a run."""
    extent = EXTENT[frame.ndim]
    grid = Grid(frame.shape, (extent,) * frame.ndim)
    some = (
        range(len(grid))
        if frame.pixels <= SMALL
        else np.unique(np.linspace(0, len(grid) - 1, BOXES).round().astype(int)).tolist()
    )
    return (grid.core(number) for number in some)
