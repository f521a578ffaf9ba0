"""One tile: read its window, draw its labels, and say of each whether everything that it depends on lay inside a window.

`connected`: the pixels of the core and of a rim around it are classed, and their connected pieces are the labels. Each piece is right as
far as it goes; that it may go on is the business of links.

`object`: a label is right when the piece of support in which it was drawn lies whole inside the window, with the segmenter's reach to
spare. For each piece that meets the core and does not, a window of its own is sought, around that piece and larger only on the sides
where it goes on, up to ``max_halo`` beyond the core; the piece alone is drawn again there. What is found so is put in the place of what
the first window showed. A piece that no allowed window holds keeps what the first window showed, and is not called whole.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.components import pieces
from pipeline.grid import Box, Grid
from pipeline.measurement import Sums, measure
from pipeline.segmenters import classes, draw, support
from pipeline.stages import Method, Run, pixels_key, record_key, save_sums

Labels = npt.NDArray[np.int32]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Drawn:
    """A tile's labels, 1 to n, and what is known of each; flags are by label, 0 included."""

    labels: Labels
    """Of the core and the rim around it that neighbours also label."""

    whole: Flags
    """Proved, as far as this tile goes."""

    hole: Flags
    """Background that may turn out to be enclosed."""

    outside: Flags
    """A hole that is none: it reaches the image's edge or a pixel that is not valid."""

    beside: npt.NDArray[np.int64]
    """(n, 2) each hole that goes on in a neighbour, and may be one, with each object that touches it."""

    kind: npt.NDArray[np.int64] | None = None
    """By label, without 0: its class. None: 1."""

    seeds: Flags | None = None
    """Of the labels' shape: pixels of which an object needs one; None: it needs none."""

    enlarged: int = 0
    """Pieces of support for which a larger window was read."""


def segment(run: Run, tile: int) -> dict[str, int]:
    """Segment a tile and write what later stages need; the number of its labels and pixels."""
    method, core = run.method(tile), run.grid.core(tile)
    window = run.grid.window(tile, method.halo)
    block, valid = run.read(window)
    drawn = (_connected if method.contract.identity == "connected" else _objects)(run, tile, run.prepared(block, valid), valid)
    mine, inside = core.within(run.grid.window(tile, run.depth)), core.within(window)
    labels = np.ascontiguousarray(drawn.labels[mine])
    seeds = None if drawn.seeds is None else drawn.seeds[mine]
    sums = measure(labels, block[(slice(None), *inside)], len(drawn.whole) - 1, core, run.grid.shape, kind=drawn.kind, seeds=seeds)
    _save(run, tile, drawn, labels, valid[inside], sums)
    return {"labels": int((sums.area > 0)[~drawn.hole[1:]].sum()), "pixels": core.size, "enlarged": drawn.enlarged}


def _save(run: Run, tile: int, drawn: Drawn, labels: Labels, valid: Flags, sums: Sums) -> None:
    outer = run.grid.window(tile, run.depth)
    seams = {f"seam {other}": drawn.labels[run.overlap(tile, other).within(outer)] for other in run.grid.neighbours(tile)}
    on_seams = np.zeros(len(drawn.whole), bool)
    for strip in seams.values():
        on_seams[strip] = True
    on_seams[0] = False
    pixels: dict[str, npt.NDArray[Any]] = {"labels": labels, **seams}
    if not valid.all():
        pixels["valid"] = np.packbits(valid)
    run.scratch.save(pixels_key(tile), {"shape": labels.shape, "valid": bool(valid.all())}, pixels)
    flags = {name: getattr(drawn, name) for name in ("whole", "hole", "outside", "beside")}
    exponents, columns = save_sums(sums)
    facts = {"labels": len(drawn.whole) - 1, "enlarged": drawn.enlarged, **exponents}
    run.scratch.save(record_key(tile), facts, {**columns, **flags, "on_seams": np.flatnonzero(on_seams)})


def _connected(run: Run, tile: int, block: npt.NDArray[Any], valid: Flags) -> Drawn:
    method = run.method(tile)
    window, outer = run.grid.window(tile, method.halo), run.grid.window(tile, run.depth)
    seen = outer.within(window)
    found = classes(method.segmenter, block, valid, window.start)
    kinds, seeds = found.kinds[seen], None if found.seeds is None else found.seeds[seen]
    neighbours = method.contract.neighbours(len(outer.shape))
    if method.contract.fill_holes:
        return replace(_with_holes(kinds > 0, valid[seen], neighbours, outer, run.grid), seeds=seeds)
    labels, number = pieces(kinds, neighbours)
    nothing = np.zeros(number + 1, bool)
    kind = None if kinds.dtype == bool else _kind_of(labels, kinds, number)
    return Drawn(labels, np.ones(number + 1, bool), nothing, nothing, np.zeros((0, 2), np.int64), kind, seeds)


def _kind_of(labels: Labels, kinds: npt.NDArray[Any], number: int) -> npt.NDArray[np.int64]:
    """The class of each label, all of whose pixels have the same."""
    kind = np.zeros(number + 1, np.int64)
    kind[labels] = kinds
    return kind[1:]


def _with_holes(mask: Flags, valid: Flags, neighbours: int, outer: Box, grid: Grid) -> Drawn:
    """Fill the holes that end inside, and label the background that does not: it may be part of a hole, or of the outside."""
    ground, many = pieces(~mask, 2 * mask.ndim)
    leaves, outside = np.zeros(many + 1, bool), np.zeros(many + 1, bool)
    for side in sides(outer, grid.whole):
        (leaves if side.open else outside)[ground[side.face]] = True
    outside[ground[~valid]] = True
    inner = ~leaves & ~outside
    labels, number = pieces(mask | (inner[ground] & ~mask), neighbours)
    kept = np.flatnonzero(~inner[1:]) + 1
    rename = np.zeros(many + 1, np.int32)
    rename[kept] = np.arange(number + 1, number + 1 + len(kept))
    merged = np.where(labels > 0, labels, rename[ground])
    hole = np.arange(number + len(kept) + 1) > number
    out, goes_on = np.zeros((2, len(hole)), bool)
    out[number + 1 :], goes_on[number + 1 :] = outside[kept], leaves[kept]
    return Drawn(merged, np.ones(len(hole), bool), hole, out, _beside(merged, goes_on & ~out, hole, neighbours))


def _beside(labels: Labels, asked: Flags, hole: Flags, neighbours: int) -> npt.NDArray[np.int64]:
    """Each pair of a hole that is asked for and an object that touch, by the connectivity of objects."""
    found = [np.zeros((0, 2), np.int64)]
    for here, there in _steps(labels.ndim, full=neighbours > 2 * labels.ndim):
        a, b = labels[here], labels[there]
        for ground, thing in ((a, b), (b, a)):
            touch = asked[ground] & (thing > 0) & ~hole[thing]
            found.append(np.unique(np.stack([ground[touch], thing[touch]], axis=1), axis=0).astype(np.int64))
    return np.unique(np.concatenate(found), axis=0)


def _steps(ndim: int, *, full: bool) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """Slices that lay an array over itself, moved by one pixel in each direction (one of each opposite two)."""
    cut = {-1: (slice(1, None), slice(None, -1)), 0: (slice(None), slice(None)), 1: (slice(None, -1), slice(1, None))}
    for step in itertools.product((-1, 0, 1), repeat=ndim):
        if step > (0,) * ndim and (full or sum(map(abs, step)) == 1):
            yield tuple(cut[s][0] for s in step), tuple(cut[s][1] for s in step)


def _objects(run: Run, tile: int, block: npt.NDArray[Any], valid: Flags) -> Drawn:
    method, core = run.method(tile), run.grid.core(tile)
    window, outer = run.grid.window(tile, method.halo), run.grid.window(tile, run.depth)
    sketch = _sketch(draw(method.segmenter, block, valid, window.start)[outer.within(window)], outer, run.grid.whole)
    labels, whole, enlarged = sketch.labels.copy(), sketch.whole(), 0
    for p in sketch.unfinished(core):
        mine = sketch.piece == p
        if not mine[core.within(sketch.box)].any():  # it was part of a piece found before
            continue
        enlarged += 1
        if (found := _hold(run, method, mine, sketch.box, core)) is not None:
            box, drawn = found
            shared = box & sketch.box
            here, new = shared.within(sketch.box), drawn[shared.within(box)]
            sketch.piece[here][new > 0] = 0
            labels[here][new > 0] = new[new > 0] + (len(whole) - 1)
            whole = np.append(whole, np.ones(int(drawn.max(initial=0)), bool))
    return _compact(labels, whole, enlarged)


def _compact(labels: Labels, whole: Flags, enlarged: int) -> Drawn:
    """Renumber the labels that are left, 1 to n."""
    present = np.zeros(len(whole), bool)
    present[0] = True
    present[labels] = True
    rename = (np.cumsum(present) - 1).astype(np.int32)
    nothing = np.zeros((2, int(present.sum())), bool)
    return Drawn(rename[labels], whole[present], nothing[0], nothing[1], np.zeros((0, 2), np.int64), enlarged=enlarged)


@dataclass(frozen=True, slots=True)
class Sketch:
    """What a window shows: labels, and the pieces of support that they were drawn in, where the window's edge cannot alter them."""

    box: Box
    """The core and the rim around it that neighbours also label: the window less the segmenter's reach."""
    labels: Labels
    piece: Labels
    cut: Flags
    """By piece: it goes on beyond the box."""

    def whole(self) -> Flags:
        """By label: it was drawn in one piece, which ends inside."""
        of = np.zeros(int(self.labels.max(initial=0)) + 1, np.int32)
        of[self.labels] = self.piece
        whole = ~self.cut[of]
        if self.cut.any():  # otherwise the window is the whole image, or nothing goes on
            whole[self.labels[of[self.labels] != self.piece]] = False
        return np.asarray(whole)

    def unfinished(self, core: Box) -> list[int]:
        """The pieces that meet the core and go on beyond the box."""
        meets = np.zeros(len(self.cut), bool)
        meets[self.piece[core.within(self.box)]] = True
        return np.flatnonzero(meets & self.cut).tolist()


def _sketch(drawn: Labels, box: Box, image: Box) -> Sketch:
    labels = np.ascontiguousarray(drawn)
    piece, number = pieces(labels > 0)
    cut = np.zeros(number + 1, bool)
    for side in sides(box, image):
        if side.open:
            cut[piece[side.face]] = True
    cut[0] = False
    return Sketch(box, labels, piece, cut)


def _hold(run: Run, method: Method, mine: Flags, box: Box, core: Box) -> tuple[Box, Labels] | None:
    """Find a window that holds a piece of support whole, and draw that piece there.

    ``mine`` is the piece where it was seen first, in ``box``. Returns the box and in it the piece's labels, 0 elsewhere; None where no
    window within ``max_halo`` of the core and within the memory allowed holds it.
    """
    image, reach = run.grid.whole, method.contract.reach + run.reach_of_steps()
    limit = core.grow(run.max_halo) & image
    place = Box(*zip(*((int(a) + o, int(a) + o + 1) for a, o in zip(np.argwhere(mine)[0], box.start, strict=True)), strict=True))
    window, step, seen = _extent(mine, box).grow(reach + 1), max(1, method.halo), None
    while True:
        window = _extended(window, [side for side in sides(box, image) if side.open and mine[side.face].any()], step) & limit
        if window == seen or window.size * run.bytes_per_pixel > run.memory:
            return None
        seen, step, box = window, 2 * step, trusted(window, image, reach)
        block, valid = run.read(window)
        block = run.prepared(block, valid)
        piece, _ = pieces(support(method.segmenter, block, valid, window.start)[box.within(window)])
        mine = piece == piece[place.within(box)]
        if not any(side.open and mine[side.face].any() for side in sides(box, image)):
            drawn = draw(method.segmenter, block, valid, window.start)[box.within(window)]
            return None if np.isin(drawn[~mine], drawn[mine]).any() else (box, np.where(mine, drawn, 0))


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a box in an image."""

    axis: int
    high: bool
    face: tuple[slice, ...]
    """The outermost layer of pixels on this side, as slices into an array that holds the box."""
    open: bool
    """The image goes on beyond it."""


def sides(box: Box, image: Box) -> list[Side]:
    """The four sides of a rectangle, or the six of a cuboid."""
    found = []
    for axis, high in itertools.product(range(len(box.start)), (False, True)):
        face = [slice(None)] * len(box.start)
        face[axis] = slice(-1, None) if high else slice(0, 1)
        going_on = box.stop[axis] < image.stop[axis] if high else box.start[axis] > image.start[axis]
        found.append(Side(axis, high, tuple(face), going_on))
    return found


def trusted(window: Box, image: Box, reach: int) -> Box:
    """The part of a window that pixels beyond it cannot alter: less by ``reach`` on the sides where the image goes on."""
    start, stop = list(window.start), list(window.stop)
    for side in sides(window, image):
        if side.open and side.high:
            stop[side.axis] -= reach
        elif side.open:
            start[side.axis] += reach
    return Box(tuple(start), tuple(stop))


def _extent(mask: Flags, box: Box) -> Box:
    """The least box around the pixels of a mask, in the image."""
    spans = [np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis))) for axis in range(mask.ndim)]
    ends = [(int(span[0]) + o, int(span[-1]) + 1 + o) for span, o in zip(spans, box.start, strict=True)]
    return Box(tuple(a for a, _ in ends), tuple(b for _, b in ends))


def _extended(window: Box, where: list[Side], step: int) -> Box:
    """A window with ``step`` more pixels on some of its sides."""
    start, stop = list(window.start), list(window.stop)
    for side in where:
        if side.high:
            stop[side.axis] += step
        else:
            start[side.axis] -= step
    return Box(tuple(start), tuple(stop))
