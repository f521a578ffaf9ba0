"""Layers laid over each other, tile by tile: at each pixel the first layer that has something there
has it.

Each layer is a run of its own that has been grouped, with its records in a store of its own; so
what it draws is what it would draw alone. What shows of all layers is drawn as labels with keys: a
thing's key is its layer and its id there, a stuff's its class. So things are numbered, measured and
published as objects always are.

A segment is proved if it is in its own layer, and nothing that may hide a part of it is in doubt:
neither an object above it, nor one that was removed there, nor a piece of foreground of which no
window showed whether an object lies in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.jobs.layers import Layer
from pipeline.segmenters import Contract
from pipeline.stages import (
    EMPTY,
    FIRST,
    SKIPPED,
    Method,
    Run,
    pixels_key,
    record_key,
    table_key,
)
from pipeline.stages.halo import depth_of
from pipeline.stages.stitching import DISPUTED, PROVED, Integers
from pipeline.stages.tile_labels import Drawn, Flags, Labels

LAYER = 1 << 48
"""A thing's key is this times the number of its layer, from 1, plus its id there; keys below are
classes of stuff.
"""
STUFF = 1 << 48
"""In tables of ids: this plus a class stands for the stuff of that class, which has no id. There
are fewer things.
"""


@dataclass(frozen=True, slots=True)
class Sheet:
    """A layer, and the run that draws it."""

    layer: Layer
    run: Run


@dataclass(frozen=True, slots=True)
class Overlay:
    """What the run that lays sheets over each other has in the place of a segmenter."""

    sheets: tuple[Sheet, ...]
    """The first has a pixel before the others."""

    def valid_in(self, measured: Flags) -> Flags:
        """Where the image is valid for any of the sheets' segmenters, (row, column), from (band,
        row, column).
        """
        return np.asarray(np.any([sheet.run.valid(measured) for sheet in self.sheets], axis=0))

    def __call__(self, _block: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Nothing is drawn from pixels here."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class _Part:
    """What a sheet shows in a tile. Arrays are by label, 0 included."""

    labels: Labels
    key: Integers
    kind: Integers
    """The class in the result; 0: it shows nothing."""
    status: npt.NDArray[np.int8]
    goes_on: Flags
    """It may lie in other tiles too."""


def sheets(run: Run, layers: Sequence[Layer]) -> tuple[Sheet, ...]:
    """The layers, with the run of each: that of one method, with a store of its own."""
    methods = {method.name: method for method in run.methods}
    return tuple(Sheet(layer, _alone(run, methods[layer.use])) for layer in layers)


def laid_over(run: Run, drawn: Sequence[Sheet]) -> Run:
    """The run that lays sheets, all of which are drawn and grouped, over each other."""
    routes = np.stack([sheet.run.routes for sheet in drawn])
    where = np.where(
        (routes >= FIRST).any(axis=0),
        FIRST,
        np.where((routes == EMPTY).all(axis=0), EMPTY, SKIPPED),
    ).astype(np.int16)
    method = Method("layers", Overlay(tuple(drawn)), Contract(identity="layered", portable=True))
    return replace(
        run,
        methods=(method,),
        routes=where,
        depth=0,
        steps=(),
        scratch=run.joined.within("overlay"),
    )


def sheets_of(run: Run) -> tuple[Sheet, ...]:
    """What a run lays over each other; nothing where it is none of that kind."""
    first: Any = run.methods[0].segmenter
    return first.sheets if isinstance(first, Overlay) else ()


def with_stuff(run: Run) -> bool:
    """Whether what a run draws may be things and stuff."""
    return any(
        method.contract.identity == "layered" or method.contract.things is not None
        for method in run.methods
    )


def drawers(run: Run) -> tuple[Run, ...]:
    """The runs that draw from pixels: those of the sheets, or the run itself."""
    return tuple({sheet.layer.use: sheet.run for sheet in sheets_of(run)}.values()) or (run,)


def layered(run: Run, tile: int, _block: npt.NDArray[Any], _valid: Flags) -> Drawn:
    """What shows of the layers in a tile."""
    core = run.grid.core(tile)
    shown, doubt = np.zeros(core.shape, np.int32), np.zeros(core.shape, np.int8)
    seen: list[_Part] = []
    first = 1
    for number, sheet in enumerate(sheets_of(run), start=1):
        if sheet.run.routes[tile] < FIRST:
            continue
        part = _part(sheet, number, tile)
        status = part.status.copy()
        if doubt.any():
            np.maximum.at(status, part.labels[doubt > 0], doubt[doubt > 0])
        free = (shown == 0) & (part.kind > 0)[part.labels]
        shown[free] = part.labels[free] + (first - 1)
        if part.status.any():
            doubt = np.maximum(doubt, part.status[part.labels])
        seen.append(replace(part, status=status))
        first += len(status) - 1
    return _compact(shown, seen)


def _alone(run: Run, method: Method) -> Run:
    return replace(
        run,
        methods=(method,),
        depth=depth_of([method.contract], run.depth),
        scratch=run.scratch.within(f"layers/{method.name}"),
    )


def _part(sheet: Sheet, number: int, tile: int) -> _Part:
    run, layer = sheet.run, sheet.layer
    labels = run.scratch.load(pixels_key(tile), "labels")[1]["labels"].astype(np.int32, copy=False)
    table = run.joined.load(table_key(tile), "ids", "status", "kind")[1]
    on_seams = run.scratch.load(record_key(tile), "on_seams")[1]["on_seams"]
    mine = table["ids"] > 0
    if (
        run.method(tile).contract.things is not None
    ):  # it draws both, and here only one of them is asked for
        mine &= (table["ids"] >= STUFF) == (layer.role == "stuff")
    own, where = np.unique(np.where(mine, table["kind"], 0), return_inverse=True)
    kind = np.array([layer.final(int(k)) for k in own], np.int64)[where]
    key = kind if layer.role == "stuff" else number * LAYER + table["ids"]
    goes_on = np.full(len(kind), layer.role == "stuff")
    goes_on[on_seams] = True
    return _Part(labels, np.where(kind > 0, key, 0), kind, table["status"], goes_on & (kind > 0))


def _compact(shown: Labels, seen: Sequence[_Part]) -> Drawn:
    """Number what shows, and what is hidden here and may show elsewhere, from 1."""
    key, kind, status, goes_on = (
        np.concatenate(
            [np.zeros(1, np.int64), *(getattr(part, name)[1:].astype(np.int64) for part in seen)]
        )
        for name in ("key", "kind", "status", "goes_on")
    )
    kept = goes_on > 0
    kept[0] = True
    kept[shown] = True
    rename = (np.cumsum(kept) - 1).astype(np.int32)
    no = np.zeros(int(kept.sum()), bool)
    return Drawn(
        rename[shown],
        status[kept] == PROVED,
        no,
        no,
        np.zeros((0, 2), np.int64),
        kind=kind[kept][1:],
        key=key[kept][1:],
        disputed=status[kept] == DISPUTED,
        nodes=goes_on[kept] > 0,
    )
