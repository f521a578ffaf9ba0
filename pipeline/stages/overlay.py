"""Layers on top of each other, tile by tile: each pixel shows the first layer that has something
there.

Each layer is a run of its own that has been grouped, with its records in a store of its own, so it
draws what it would draw alone. The visible parts of all layers are drawn as labels with keys: a
thing's key is its layer and its id there, stuff's key is its class. So things are numbered,
measured and published like all objects.

A segment is proved if it is proved in its own layer, and nothing that may hide a part of it is in
doubt: no object above it, none that was removed there, and no piece of foreground that no window
could draw.
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
"""A thing's key is its layer's number, from 1, times this, plus its id there; lower keys are
classes of stuff.
"""
STUFF = 1 << 48
"""In tables of ids: this plus a class means the stuff of that class, which has no id. There are
fewer things.
"""


@dataclass(frozen=True, slots=True)
class Sheet:
    """A layer and its run."""

    layer: Layer
    run: Run


@dataclass(frozen=True, slots=True)
class Overlay:
    """The segmenter of a run that combines layers."""

    sheets: tuple[Sheet, ...]
    """The layers, the topmost first."""

    def valid_in(self, measured: Flags) -> Flags:
        """Where the image is valid for any layer, (row, column), from (band, row, column)."""
        return np.asarray(np.any([sheet.run.valid(measured) for sheet in self.sheets], axis=0))

    def __call__(self, _block: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Not used: nothing is drawn from pixels here."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class _Part:
    """The visible part of a layer in a tile. Arrays are by label, 0 included."""

    labels: Labels
    key: Integers
    kind: Integers
    """The class in the result; 0: not visible."""
    status: npt.NDArray[np.int8]
    goes_on: Flags
    """Whether it may lie in other tiles too."""


def sheets(run: Run, layers: Sequence[Layer]) -> tuple[Sheet, ...]:
    """The layers, each with its run of one method and a store of its own."""
    methods = {method.name: method for method in run.methods}
    return tuple(Sheet(layer, _alone(run, methods[layer.use])) for layer in layers)


def laid_over(run: Run, drawn: Sequence[Sheet]) -> Run:
    """The run that combines layers, after all are drawn and grouped."""
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
    """The layers that a run combines; empty for other runs."""
    first: Any = run.methods[0].segmenter
    return first.sheets if isinstance(first, Overlay) else ()


def with_stuff(run: Run) -> bool:
    """Whether a run may draw things and stuff."""
    return any(
        method.contract.identity == "layered" or method.contract.things is not None
        for method in run.methods
    )


def drawers(run: Run) -> tuple[Run, ...]:
    """The runs that draw from pixels: those of the layers, or the run itself."""
    return tuple({sheet.layer.use: sheet.run for sheet in sheets_of(run)}.values()) or (run,)


def layered(run: Run, tile: int, _block: npt.NDArray[Any], _valid: Flags) -> Drawn:
    """The visible parts of the layers in a tile."""
    core = run.grid.core(tile)
    shown = np.zeros(core.shape, np.int32)
    doubt = np.zeros(core.shape, np.int8)
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
    run = sheet.run
    layer = sheet.layer
    labels = run.scratch.load(pixels_key(tile), "labels")[1]["labels"].astype(np.int32, copy=False)
    table = run.joined.load(table_key(tile), "ids", "status", "kind")[1]
    on_seams = run.scratch.load(record_key(tile), "on_seams")[1]["on_seams"]
    mine = table["ids"] > 0
    # it draws things and stuff, and only one of them is wanted here
    if run.method(tile).contract.things is not None:
        mine &= (table["ids"] >= STUFF) == (layer.role == "stuff")
    own, where = np.unique(np.where(mine, table["kind"], 0), return_inverse=True)
    kind = np.array([layer.final(int(k)) for k in own], np.int64)[where]
    key = kind if layer.role == "stuff" else number * LAYER + table["ids"]
    goes_on = np.full(len(kind), layer.role == "stuff")
    goes_on[on_seams] = True
    return _Part(labels, np.where(kind > 0, key, 0), kind, table["status"], goes_on & (kind > 0))


def _compact(shown: Labels, seen: Sequence[_Part]) -> Drawn:
    """Number what is visible, and what is hidden here but may be visible elsewhere, from 1."""
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
