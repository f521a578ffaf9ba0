"""Objects within connected pieces of foreground (support).

A label is right if its piece lies wholly in the window, with the segmenter's reach to spare. For
each piece that meets the core and is cut, a window of its own is searched: around the piece, larger
only on sides where it continues, up to ``max_halo`` beyond the core. Only that piece is drawn again
there, and replaces the first result. A piece that no allowed window holds keeps its first result,
and is not marked as whole.

If the segmenter knows the classes of pixels, objects are things, and other classes are stuff. No
window decides an object's class: its pixels vote when they are together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import SegmenterError
from pipeline.image.grid import Box, Side, sides
from pipeline.imageops.components import kinds_of, looked_up, pieces
from pipeline.segmenters import classes, draw, name_of, support, takes_part
from pipeline.segmenters.protocols import HasForeground
from pipeline.stages import Method, Run
from pipeline.stages.tile_labels import Drawn, Flags, Labels


def objects(run: Run, tile: int, block: npt.NDArray[Any], valid: Flags) -> Drawn:
    """Draw labels, each piece of support in a window that holds it, if there is one; and stuff."""
    method = run.method(tile)
    drawn = _things(run, tile, block, valid)
    if method.contract.things is None:
        return drawn
    window = run.window(tile)
    outer = run.labelled(tile)
    kinds = classes(method.drawer, block, valid, window.start).kinds[outer.within(window)]
    return _with_stuff(drawn, kinds, method.contract.things)


def _with_stuff(drawn: Drawn, kinds: npt.NDArray[Any], things: Sequence[int]) -> Drawn:
    """Add stuff to the objects: a label for each class, keyed by the class.

    The pixels of objects vote on their classes.
    """
    thing = np.isin(kinds, things)
    number = len(drawn.whole)
    free = (drawn.labels == 0) & (kinds > 0) & ~thing
    names, where = np.unique(kinds[free], return_inverse=True)
    labels = drawn.labels.copy()
    labels[free] = number + where
    more = np.ones(len(names), bool)
    none = np.zeros(number + len(names), bool)
    return replace(
        drawn,
        labels=labels,
        whole=np.append(drawn.whole, more),
        hole=none,
        outside=none,
        kind=np.append(np.full(number - 1, min(things)), names).astype(np.int64),
        key=np.append(np.zeros(number - 1), names).astype(np.int64),
        nodes=np.append(np.zeros(number, bool), more),
        votes=np.where((labels < number) & thing, kinds, 0),
        doubted=None if drawn.doubted is None else np.append(drawn.doubted, ~more),
    )


def _things(run: Run, tile: int, block: npt.NDArray[Any], valid: Flags) -> Drawn:
    """The objects."""
    method = run.method(tile)
    drawer = method.drawer  # once: a network makes its decoder anew whenever it is asked for it
    core = run.grid.core(tile)
    window = run.window(tile)
    outer = run.labelled(tile)
    if method.contract.windowed:
        seen = draw(drawer, block, valid, window.start)[outer.within(window)]
        return _compact(
            seen.copy(), np.full(int(seen.max(initial=0)) + 1, window == run.grid.whole), 0
        )
    drawn = None if takes_part(drawer) else draw(drawer, block, valid, window.start)
    ground = (
        drawn > 0
        if drawn is not None and not method.contract.partial
        else support(drawer, block, valid, window.start)
    )
    sketch = _sketch(run, tile, ground[outer.within(window)], outer)
    enlarged = list(_enlarged(run, tile, sketch, core))
    if drawn is None:
        for one in enlarged:
            if one.labels is not None:
                ground[outer.within(window)][one.here][one.mine] = False
                sketch.piece[one.here][one.mine] = 0
        drawn = draw(drawer, block, valid, window.start, part=ground)
    labels = np.ascontiguousarray(drawn[outer.within(window)])
    of = sketch.of(labels)
    whole = sketch.whole(labels, of)
    doubted = sketch.doubt[of]
    for one in enlarged:
        whole[0] &= one.labels is not None or not method.contract.partial
        if one.labels is not None:
            labels[one.here][one.mine] = np.where(one.labels > 0, one.labels + (len(whole) - 1), 0)[
                one.mine
            ]
            new = np.ones(int(one.labels.max(initial=0)), bool)
            whole = np.append(whole, new)
            doubted = np.append(doubted, new & one.doubted)
    return _compact(labels, whole, len(enlarged), doubted)


def _enlarged(run: Run, tile: int, sketch: Sketch, core: Box) -> Iterator[Enlarged]:
    """The pieces that meet the core and continue beyond the sketch, each in a window of its own."""
    from scipy import ndimage

    left = sketch.piece.copy()
    unfinished = sketch.unfinished(core)
    spans = ndimage.find_objects(left, max(unfinished, default=-1))
    for p in unfinished:
        around = Box(
            *zip(
                *(
                    (s.start + o, s.stop + o)
                    for s, o in zip(spans[p - 1], sketch.box.start, strict=True)
                ),
                strict=True,
            )
        )
        mine = left[around.within(sketch.box)] == p
        inside = around & core
        if not mine[inside.within(around)].any():  # part of a piece that was found before
            continue
        box, whole, found = _hold(run, tile, mine, around, sketch.box)
        shared = box & sketch.box
        here = shared.within(sketch.box)
        mine = whole[shared.within(box)]
        left[here][mine] = 0
        # a window that cut it may have cut connected parts
        if found is None and not run.method(tile).contract.probation:
            left[np.isin(sketch.piece, np.unique(sketch.piece[here][mine]))] = 0
        beside = run.unknown(box, run.halo(tile).sight)
        doubted = any(whole[part].any() for part in beside)
        yield Enlarged(here, mine, None if found is None else found[shared.within(box)], doubted)


def _compact(labels: Labels, whole: Flags, enlarged: int, doubted: Flags | None = None) -> Drawn:
    """Renumber the remaining labels, 1 to n."""
    present = _met(labels, len(whole))
    present[0] = True
    rename = (np.cumsum(present) - 1).astype(np.int32)
    nothing = np.zeros((2, int(present.sum())), bool)
    no_pairs = np.zeros((0, 2), np.int64)
    doubt = None if doubted is None else doubted[present]
    return Drawn(
        looked_up(rename, labels),
        whole[present],
        nothing[0],
        nothing[1],
        no_pairs,
        doubted=doubt,
        enlarged=enlarged,
    )


def _met(labels: Labels, number: int) -> Flags:
    """Bool array of length ``number``, True for each label that occurs; entry 0 is always False."""
    return np.append(False, kinds_of(labels, number - 1, labels) > 0)


@dataclass(frozen=True, slots=True)
class Enlarged:
    """A piece of support, and its own window."""

    here: tuple[slice, ...]
    """The window's place in the sketch, as far as they overlap."""
    mine: Flags
    """The piece there."""
    labels: Labels | None
    """The labels drawn there; None if no window holds the piece."""
    doubted: bool
    """Whether it lies beside unreadable pixels."""


@dataclass(frozen=True, slots=True)
class Sketch:
    """First labels and pieces of support, where the window's edge cannot change them."""

    box: Box
    """The core and the rim that neighbours also label: the window less the segmenter's reach."""
    piece: Labels
    cut: Flags
    """By piece: whether it continues beyond the box."""
    doubt: Flags
    """By piece: whether it lies beside unreadable pixels."""

    def of(self, labels: Labels) -> npt.NDArray[np.int64]:
        """By label: a piece in which it was drawn."""
        return np.append(np.int64(0), kinds_of(labels, int(labels.max(initial=0)), self.piece))

    def whole(self, labels: Labels, of: npt.NDArray[np.int64]) -> Flags:
        """By label: whether it was drawn in one piece that ends inside."""
        whole = ~self.cut[of]
        if self.cut.any():  # otherwise the window is the whole image, or nothing goes on
            whole[labels[looked_up(of, labels) != self.piece]] = False
        return np.asarray(whole)

    def unfinished(self, core: Box) -> list[int]:
        """The pieces that meet the core and continue beyond the box."""
        return np.flatnonzero(
            _met(np.ascontiguousarray(self.piece[core.within(self.box)]), len(self.cut)) & self.cut
        ).tolist()


def _sketch(run: Run, tile: int, ground: Flags, box: Box) -> Sketch:
    piece, number = pieces(ground)
    cut = np.zeros(number + 1, bool)
    for side in sides(box, run.grid.whole):
        if side.open:
            cut[piece[side.face]] = True
    cut[0] = False
    doubt = np.zeros(number + 1, bool)
    for part in run.unknown(box, run.halo(tile).sight):
        doubt[piece[part]] = True
    doubt[0] = False
    return Sketch(box, piece, cut, doubt)


def _first_pixel(piece: Flags, around: Box) -> Box:
    """The box of the first pixel of a piece that is given in ``around``."""
    first = np.unravel_index(int(piece.argmax()), piece.shape)
    start = tuple(int(at) + begin for at, begin in zip(first, around.start, strict=True))
    return Box(start, tuple(at + 1 for at in start))


def _hold(
    run: Run, tile: int, mine: Flags, around: Box, box: Box
) -> tuple[Box, Flags, Labels | None]:
    """Search a window that holds a piece of support wholly, and draw the piece there.

    ``mine`` is the piece in ``around``, where it was first seen, in ``box``. Returns a box, the
    piece in it, and its labels, 0 elsewhere; None in place of labels if no window within
    ``max_halo`` of the core and within memory holds it. A piece that continues where no window may
    go is given up at once, with everything connected to it.
    """
    method = run.method(tile)
    drawer = method.drawer
    image = run.grid.whole
    halo = run.halo(tile)
    reach = halo.sight
    limit = run.limit(tile)
    place = _first_pixel(mine, around)
    extent = _extent(mine, around)
    window = extent.grow(reach + 1)
    step = max(1, halo.pixels)
    seen = None
    vanished = False
    while goes_on := [
        side for side in sides(box, image) if side.open and _end(extent, side) == _end(box, side)
    ]:
        window = _extended(window, goes_on, step) & limit
        lost = seen is not None and any(_end(window, side) == _end(seen, side) for side in goes_on)
        if lost or not run.fits(method, window):
            return around, mine, None
        seen = window
        step = 2 * step
        box = trusted(window, image, reach)
        view = run.seen(tile, window)
        piece, _ = pieces(support(drawer, view.shown, view.valid, window.start)[box.within(window)])
        found = piece == piece[place.within(box)]
        gone = not piece[place.within(box)].all()
        if not method.contract.probation and (
            gone or around not in box or not found[around.within(box)][mine].all()
        ):
            raise _other_ground(method, box)
        around = box
        mine = found
        vanished = vanished or gone
        extent = _extent(mine, box)
    if seen is None:  # another piece took a part of this one, and the rest does not continue
        raise _other_ground(method, box)
    # as small as possible, to draw nothing else of the window
    tight = extent.grow(reach + 1) & window
    cut = tight.within(window)
    around = trusted(tight, image, reach)
    mine = mine[around.within(box)]
    part = np.zeros(tight.shape, bool)
    part[around.within(tight)] = mine
    drawn = draw(drawer, view.shown[(slice(None), *cut)], view.valid[cut], tight.start, part)[
        around.within(tight)
    ]
    if not (
        method.contract.partial
        or method.contract.probation
        or isinstance(drawer, HasForeground)
        or (drawn > 0)[mine].all()
    ):
        raise _other_ground(method, around)
    alone = not np.isin(drawn[~mine & (drawn > 0)], drawn[mine]).any()
    return around, mine, np.where(mine, drawn, 0) if alone and not vanished else None


def _other_ground(method: Method, box: Box) -> SegmenterError:
    """The error if a larger window shows another piece of support than a smaller one.

    For a segmenter on probation, only if the piece can then not be followed.
    """
    name = name_of(method.segmenter)
    reach = method.contract.reach
    stated = (
        "it states no reach"
        if method.contract.probation
        else f"it looks further than {reach} pixels, the reach that it states"
    )
    return SegmenterError(
        f"the segmenter {name} draws other foreground where it sees a larger window (from "
        f"{box.start} to {box.stop}): {stated}. State how "
        f"many pixels away a pixel can be and still change the foreground ({name}.reach = …), "
        f"take statistics of the whole image by `fit`, "
        f"or say that all depends on the window ({name}.windowed = True)"
    )


def trusted(window: Box, image: Box, reach: int) -> Box:
    """The part of a window that pixels beyond it cannot change: less by ``reach`` where the image
    continues.
    """
    start = list(window.start)
    stop = list(window.stop)
    for side in sides(window, image):
        if side.open and side.high:
            stop[side.axis] -= reach
        elif side.open:
            start[side.axis] += reach
    return Box(tuple(start), tuple(stop))


def _extent(mask: Flags, box: Box) -> Box:
    """The bounding box of a mask, in the image."""
    spans = [
        np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        for axis in range(mask.ndim)
    ]
    ends = [
        (int(span[0]) + o, int(span[-1]) + 1 + o) for span, o in zip(spans, box.start, strict=True)
    ]
    return Box(tuple(a for a, _ in ends), tuple(b for _, b in ends))


def _end(window: Box, side: Side) -> int:
    """Where a window ends on a side."""
    return (window.stop if side.high else window.start)[side.axis]


def _extended(window: Box, where: list[Side], step: int) -> Box:
    """A window with ``step`` more pixels on some of its sides."""
    start = list(window.start)
    stop = list(window.stop)
    for side in where:
        if side.high:
            stop[side.axis] += step
        else:
            start[side.axis] -= step
    return Box(tuple(start), tuple(stop))
