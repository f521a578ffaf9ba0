"""The stages of a run, and the `Run` that each of them works on.

A stage is a function of a `Run` and the number of a piece of work, most often a tile. It reads the
records that earlier stages left and writes those that later ones need. It can be repeated at any
time and writes the same bytes.

The modules, in the order in which `pipeline.workflow` calls them: fit, route, segment, link, group,
publish, measure, commit. With layers, overlay lays the results of several runs over each other.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.engine import GPU, Needs
from pipeline.errors import SourceError
from pipeline.image.grid import Box, Grid
from pipeline.imageops.region_sums import Sums
from pipeline.numerics.exact_sums import Exact
from pipeline.segmenters import Contract, Segmenter, call, measured_after, stepped, valid_for
from pipeline.segmenters.protocols import HasDecoder, Portable, Predicts, Step
from pipeline.sources import Source, where_measured
from pipeline.sources.without_boxes import Incomplete
from pipeline.stages.halo import Halo
from pipeline.stages.processors import differ, notes
from pipeline.stages.stitching import AGREED
from pipeline.storage.records import Arrays, Scratch

EMPTY = 0
"""In `Run.routes`: a tile without a valid pixel."""
SKIPPED = 1
"""In `Run.routes`: a tile that a rule leaves out."""
FIRST = 2
"""In `Run.routes`: a tile for the first method; FIRST + 1 is one for the second, and so on."""
STEPS = 8
"""Bytes of memory that steps take for each pixel and band."""

ALGORITHMS = 7
"""Raised whenever a change alters any label, id, certificate, sum or record: a run that was begun
under another number is not resumed.
"""

KEYED = {"keyed", "class"}
"""Identities of segmenters that give each object a key: equal keys are one object, and seams need
not be compared.
"""

_PLAIN = tuple(field.name for field in fields(Sums) if field.name not in ("value", "square"))


@dataclass(frozen=True, slots=True)
class Method:
    """A segmenter as used by one run."""

    name: str
    """Its name in the job."""

    segmenter: Segmenter
    """On the device on which it runs, with its files opened."""

    contract: Contract
    """What the segmenter states, but with the device on which it runs, and with the identity
    ``class`` where only classes are wanted.
    """

    @property
    def drawer(self) -> Segmenter:
        """What draws labels: the decoder of a network, or the segmenter itself."""
        return self.segmenter.decoder if isinstance(self.segmenter, HasDecoder) else self.segmenter


@dataclass(frozen=True, slots=True)
class WindowPixels:
    """The pixels of a window as they are read, and what is made of them before labels are drawn.
    Axes are (band, row, column) or (band, plane, row, column).
    """

    block: npt.NDArray[Any]
    """As read."""

    measured: npt.NDArray[np.bool_]
    """Where each band was measured."""

    valid: npt.NDArray[np.bool_]
    """Where all bands that the segmenter reads were measured; without the first axis."""

    prepared: npt.NDArray[Any]
    """After all steps."""

    shown: npt.NDArray[Any]
    """What labels are drawn from: what a network predicts, or the pixels after all steps."""


@dataclass(frozen=True, slots=True)
class Run:
    """Everything that a task needs besides the number of its tile; sent once to each worker."""

    source: Source
    """The image."""

    grid: Grid
    """How it is cut into tiles."""

    methods: tuple[Method, ...]
    """The segmenters, in the order in which the job names them."""

    routes: npt.NDArray[np.int16]
    """By tile: EMPTY, SKIPPED, or FIRST + the number of its method."""

    depth: int
    """Pixels on either side of a seam that both of its tiles label, to be compared."""

    max_halo: int
    """How far beyond its core a tile may read to hold an object whole, in pixels."""

    memory: int
    """Bytes that one task may use."""

    scratch: Scratch
    """The store of the run's records."""

    least_iou: float = 0.5
    """The least intersection over union, from 0 to 1, that is evidence of one object."""

    steps: tuple[Step, ...] = ()
    """Steps applied to the image before segmenting, in this order."""

    widenings: npt.NDArray[np.int8] | None = None
    """By tile: how often its windows were doubled to settle a dispute; None: never."""

    unsure: frozenset[int] = frozenset()
    """The routes that were segmented on processors that may have drawn different labels: nothing of
    these is proved. Known when all tiles are segmented.
    """

    def takes(self, method: Method, pixels: int) -> dict[str, int]:
        """The memory that segmenting a window of so many pixels takes at most, in bytes, by what it
        goes to.
        """
        frame = self.source.frame
        bands = len(frame.bands)
        return {
            "window": pixels * bands * np.dtype(frame.dtype).itemsize,
            "steps": pixels * bands * STEPS if self.steps else 0,
            "drawing": method.contract.footprint.bytes(pixels, bands),
        }

    @property
    def joined(self) -> Scratch:
        """The store of the records that depend on how the labels of tiles are joined."""
        return self.scratch.joined

    def fits(self, method: Method, window: Box) -> bool:
        """Whether a task has the memory to segment a window."""
        return sum(self.takes(method, window.size).values()) <= self.memory

    def method(self, tile: int) -> Method:
        """The method of a tile, which is neither empty nor skipped.

        Its halo is larger if the tile's windows were doubled.
        """
        return self.methods[int(self.routes[tile]) - FIRST]

    def halo_of(self, method: Method) -> Halo:
        """How far beyond its core a tile of a method is read, as long as nothing was doubled."""
        return Halo(method.contract.reach, self.reach_of_steps(), self.depth)

    def halo(self, tile: int) -> Halo:
        """How far beyond its core a tile is read, which is neither empty nor skipped: its method's
        halo, doubled as often as the tile's windows were, if the window then fits into memory.
        """
        method = self.method(tile)
        halo = self.halo_of(method)
        for doublings in range(self.widened(tile), 0, -1):
            wider = replace(halo, doublings=doublings)
            if self.fits(method, self.grid.window(tile, wider.pixels)):
                return wider
        return halo

    def window(self, tile: int) -> Box:
        """The window that is read to segment a tile: its core and halo, clipped to the image."""
        return self.grid.window(tile, self.halo(tile).pixels)

    def labelled(self, tile: int) -> Box:
        """The part of a tile's window whose labels are kept: its core, and beyond it the depth to
        which neighbours are compared.
        """
        return self.grid.window(tile, self.depth)

    def limit(self, tile: int) -> Box:
        """The largest window that may be read for a tile, to hold an object whole."""
        return self.grid.window(tile, self.max_halo << self.widened(tile))

    def widened(self, tile: int) -> int:
        """How often a tile's windows were doubled."""
        return 0 if self.widenings is None else int(self.widenings[tile])

    def mixed(self) -> dict[int, tuple[str, ...]]:
        """The routes that were segmented on processors which may draw different labels, and the
        names of these processors; see `pipeline.stages.processors`.
        """
        drawn = {
            route: (notes(self.scratch, route), self.steady(method))
            for route, method in enumerate(self.methods, FIRST)
        }
        return {
            route: names
            for route, (names, steady) in drawn.items()
            if differ(names, portable=steady)
        }

    def steady(self, method: Method) -> bool:
        """Whether a method, after all steps, draws the same on all processors of a family."""
        return method.contract.portable and all(isinstance(step, Portable) for step in self.steps)

    def certain(self, tile: int, status: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The certificates of a tile's labels: at best AGREED where processors may differ."""
        return np.maximum(status, AGREED) if int(self.routes[tile]) in self.unsure else status

    def needs(self, tile: int) -> Needs:
        """The resources that segmenting a tile takes, as Dask names them."""
        return GPU if self.methods[int(self.routes[tile]) - FIRST].contract.device == "gpu" else {}

    def segmented(self, tile: int) -> bool:
        """Whether a tile has labels: it is neither empty nor skipped, and its record exists."""
        return bool(self.routes[tile] >= FIRST) and self.scratch.has(record_key(tile))

    def compares(self, tile: int, other: int) -> bool:
        """Whether the labels of two neighbouring tiles are compared. They are not where equal keys
        are one object, unless the segmenter is on probation.
        """
        routes = {int(self.routes[tile]), int(self.routes[other])}
        contracts = [self.methods[route - FIRST].contract for route in routes if route >= FIRST]
        kinds = {contract.identity for contract in contracts}
        if len(routes) == 1 and kinds & KEYED:
            return contracts[0].probation
        return not kinds & {"class", "layered"}

    def overlap(self, tile: int, other: int) -> Box:
        """The part of the image in which two neighbouring tiles both keep their labels."""
        return self.labelled(tile) & self.labelled(other)

    def read(self, box: Box) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        """The pixels of a box, and which of them were measured; both (band, row, column). After an
        error it is read once more.
        """
        try:
            block = self.source.read(box)
        except SourceError:
            block = self.source.read(box)
        return block, where_measured(self.source, box, block)

    def unknown(self, box: Box, reach: int) -> list[tuple[slice, ...]]:
        """The parts of a box whose labels may depend on pixels that cannot be read: these, and what
        lies within ``reach`` + 1 pixels of them.
        """
        gaps = self.source.gaps if isinstance(self.source, Incomplete) else ()
        near = (gap.grow(reach + 1) & box for gap in gaps)
        return [part.within(box) for part in near if part.size]

    def reach_of_steps(self, number: int | None = None) -> int:
        """The reach in pixels of the first ``number`` steps, or of all."""
        return sum(step.reach for step in self.steps[:number])

    def prepared(
        self, block: npt.NDArray[Any], measured: npt.NDArray[np.bool_], number: int | None = None
    ) -> tuple[Any, Any]:
        """The block after the first ``number`` steps, or all, and its validity, (band, row,
        column).
        """
        for step in self.steps[:number]:
            block, measured = stepped(step, block, measured)
        return block, measured

    def valid(self, measured: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Where a block is valid for any of the methods, (row, column).

        A pixel is valid for a method if all bands that it reads were measured there.
        """
        for step in self.steps:
            measured = measured_after(step, measured)
        found = [valid_for(method.segmenter, measured) for method in self.methods]
        return found[0] if len(found) == 1 else np.any(found, axis=0)

    def seen(self, tile: int, window: Box) -> WindowPixels:
        """The input of a tile's segmenter: pixels after all steps, or its network's answer."""
        block, measured = self.read(window)
        shown, known = self.prepared(block, measured)
        segmenter = self.method(tile).segmenter
        valid = valid_for(segmenter, known)
        channels = (
            call(segmenter.predict, shown, valid, window.start)
            if isinstance(segmenter, Predicts)
            else shown
        )
        return WindowPixels(block, measured, valid, shown, channels)

    def fitted(self, segmenters: dict[str, Segmenter]) -> Run:
        """A copy with fitted segmenters in place of those of the same name."""
        return replace(
            self,
            methods=tuple(
                replace(m, segmenter=segmenters.get(m.name, m.segmenter)) for m in self.methods
            ),
        )


def record_key(tile: int) -> str:
    """The key of a tile's sums, flags and facts. It is written last: a tile that has it is done."""
    return f"tiles/{tile // 1000}/{tile}"


def pixels_key(tile: int) -> str:
    """The key of a tile's labels."""
    return f"pixels/{tile // 1000}/{tile}"


def table_key(tile: int) -> str:
    """The key of the table of final ids of a tile's labels."""
    return f"ids/{tile // 1000}/{tile}"


def load_sums(store: Scratch, key: str) -> Sums:
    """The sums that a record holds."""
    facts, found = store.load(key, *_PLAIN, "values", "squares")
    value = Exact(found.pop("values"), facts["value"])
    square = Exact(found.pop("squares"), facts["square"])
    return Sums(**found, value=value, square=square)


def save_sums(sums: Sums) -> tuple[dict[str, int], Arrays]:
    """Sums as the facts and arrays of a record."""
    exponents = {"value": sums.value.exponent, "square": sums.square.exponent}
    return exponents, {
        **{name: getattr(sums, name) for name in _PLAIN},
        "values": sums.value.limbs,
        "squares": sums.square.limbs,
    }


def sound(run: Run, tile: int) -> bool:
    """Whether the records of a tile are there and undamaged, and of windows as large as now."""
    if not (run.scratch.sound(record_key(tile)) and run.scratch.sound(pixels_key(tile))):
        return False
    return bool(run.scratch.load(record_key(tile))[0]["widened"] == run.widened(tile))
