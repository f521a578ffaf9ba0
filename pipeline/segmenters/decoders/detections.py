"""What a detector's answers become: which of all objects found in patches count, and which pixels
are theirs.

The patches of a lattice (`pipeline.networks.lattice`) each count only for objects whose centre lies
in their own cell, so what is found does not depend on the tiles. What is left twice over is settled
by score, and so are pixels that several objects cover. An object's key is its cell and its rank
there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from pipeline.errors import JobError
from pipeline.image.grid import Box
from pipeline.imageops.components import pieces
from pipeline.networks.card import Card
from pipeline.networks.lattice import Cell, Lattice
from pipeline.networks.loaded import Detections
from pipeline.segmenters import Identity, Keyed

Floats = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.integer[Any]]
AXIS = 24
RANK = 14
"""Bits of a key: for the number of a cell along each axis, and for the rank of an object in its
cell.
"""
SIDES = 4
"""Pixels of an object touch by a side."""


@dataclass(frozen=True, slots=True)
class Found:
    """An object that was found."""

    key: int
    """What it is called, from 1, whatever the tiles."""

    kind: int
    """Its class, from 1."""

    score: float
    """How sure the network is, from 0 to 1."""

    box: Box
    """The smallest that holds it, in pixels of the image."""

    mask: Flags
    """Which pixels of the box are its."""


@dataclass(frozen=True, slots=True)
class ByKey:
    """Hands on the keys and classes of a window, (2, row, column)."""

    identity: ClassVar[Identity] = "keyed"
    reach: ClassVar[int] = 0

    def __call__(self, channels: npt.NDArray[np.int64]) -> Keyed:
        """The key and the class of each pixel."""
        return Keyed(channels[0], channels[1])

    def targets(self, labels: Labels) -> Floats:
        """(1, row, column): numbers of objects, as they are; `targets` makes boxes of them once a
        crop is cut.
        """
        return np.asarray(labels[None], np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What counts of all that a network finds in the patches of a lattice; the options of
    `MaskRCNN`.
    """

    lattice: Lattice
    score: float = 0.5
    mask: float = 0.5
    overlap: float = 0.5
    most: int = 100

    def draw(
        self,
        given: Floats,
        valid: Flags,
        origin: Sequence[int],
        detect: Callable[[Floats], Detections],
    ) -> npt.NDArray[np.int64]:
        """Keys and classes, (2, row, column), 0 for background, of a window that begins at
        ``origin``.
        """
        window = Box(tuple(origin), tuple(o + n for o, n in zip(origin, valid.shape, strict=True)))
        found: list[Found] = []
        for cell in self.lattice.cells(window):
            place = cell.patch.within(window)
            if valid[place].any():
                found += self._owned(detect(given[(slice(None), *place)]), valid[place], cell)
        return settled(found, window, self.overlap)

    def _owned(self, answer: Detections, valid: Flags, cell: Cell) -> list[Found]:
        """Of what was found in a patch, what counts: its centre lies in the patch's cell, its score
        suffices, it is not too long.
        """
        found = []
        for score, kind, likely in zip(
            answer.scores.tolist(), answer.kinds.tolist(), answer.masks, strict=True
        ):
            if score >= self.score:
                mask = (likely >= self.mask) & valid
                rows = np.flatnonzero(mask.any(axis=1))
                columns = np.flatnonzero(mask.any(axis=0))
                if len(rows):
                    inside = (
                        slice(int(rows[0]), int(rows[-1]) + 1),
                        slice(int(columns[0]), int(columns[-1]) + 1),
                    )
                    box = Box(
                        tuple(
                            o + span.start for o, span in zip(cell.patch.start, inside, strict=True)
                        ),
                        tuple(
                            o + span.stop for o, span in zip(cell.patch.start, inside, strict=True)
                        ),
                    )
                    centre = tuple(
                        (a + b - 1) // 2 for a, b in zip(box.start, box.stop, strict=True)
                    )
                    if (
                        max(box.shape) <= self.lattice.longest
                        and Box(centre, tuple(c + 1 for c in centre)) in cell.box
                    ):
                        found.append((-score, box, kind, mask[inside]))
        row, column = cell.place
        first = ((row << AXIS | column) << RANK) + 1
        best = sorted(found, key=lambda one: one[:3])[: self.most]
        return [
            Found(first + rank, kind, -score, box, mask)
            for rank, (score, box, kind, mask) in enumerate(best)
        ]


def lattice(card: Card, window: int | None = None, margin: int | None = None) -> Lattice:
    """The lattice of a detector's card: patches of ``window`` pixels (None: the card's), of which
    ``margin`` lie around each cell (None: a quarter); JobError where these cannot be.
    """
    extent = window or card.window
    margin = extent // 4 if margin is None else margin
    if not 0 < 2 * margin < extent:
        raise JobError(
            f"window and margin: {extent} and {margin}; allowed: a margin from 1, and a window "
            f"wider than two margins"
        )
    return Lattice(extent, margin)


def settled(found: Sequence[Found], window: Box, overlap: float) -> npt.NDArray[np.int64]:
    """Which object each pixel of a window is of: keys and classes, (2, row, column), 0 for none.

    An object goes if it overlaps one of a higher score by an intersection over union above
    ``overlap``. Where those that stay overlap, the pixel is of the one of the higher score. Of what
    is left of each, the largest piece counts; of equally large ones, the first. Of equal scores,
    the lower key's is the higher.
    """
    ranked = sorted(found, key=lambda one: (-one.score, one.key))
    stays = _unrivalled(ranked, overlap)
    answer = np.zeros((2, *window.shape), np.int64)
    for one in reversed(stays):
        answer[0][one.box.within(window)][one.mask] = one.key
    for one in stays:
        here = answer[0][one.box.within(window)]
        labels, number = pieces(here == one.key, SIDES)
        if number > 1:
            largest = int(np.bincount(labels.ravel())[1:].argmax()) + 1
            here[(labels > 0) & (labels != largest)] = 0
            labels = labels == largest
        answer[1][one.box.within(window)][labels > 0] = one.kind
    return answer


def _unrivalled(ranked: Sequence[Found], overlap: float) -> list[Found]:
    """Those that none before them overlaps by more than ``overlap``."""
    starts = np.array([one.box.start for one in ranked]).reshape(-1, 2)
    stops = np.array([one.box.stop for one in ranked]).reshape(-1, 2)
    stays = []
    for number, one in enumerate(ranked):
        near = (starts[:number] < one.box.stop).all(axis=1) & (stops[:number] > one.box.start).all(
            axis=1
        )
        if not any(_iou(ranked[other], one) > overlap for other in np.flatnonzero(near).tolist()):
            stays.append(one)
    return stays


def _iou(a: Found, b: Found) -> float:
    """The intersection over union of two objects whose boxes overlap."""
    both = a.box & b.box
    shared = int((a.mask[both.within(a.box)] & b.mask[both.within(b.box)]).sum())
    return shared / (int(a.mask.sum()) + int(b.mask.sum()) - shared)


def targets(labels: Labels, kinds: Labels | None = None) -> dict[str, npt.NDArray[Any]]:
    """What torchvision's detectors are trained on, of the labels of one patch.

    Parameters
    ----------
    labels
        (row, column): numbers of objects, 0 for background.
    kinds
        The class of every pixel; an object's is that of its first pixel. None: all are of class 1.

    Returns
    -------
    dict
        ``boxes``, float32 (object, 4): first column and row, and those after the last; ``labels``,
        int64 (object,): classes; ``masks``, uint8 (object, row, column), in the order of the
        numbers. Where nothing is, each is of length 0.

    Examples
    --------
    >>> found = targets(np.array([[0, 7, 7], [0, 0, 7]]))
    >>> found["boxes"], found["labels"], found["masks"]
    (array([[1., 0., 3., 2.]], dtype=float32), array([1]), array([[[0, 1, 1],
            [0, 0, 1]]], dtype=uint8))
    """
    numbers = np.unique(labels[labels > 0])
    masks = labels[None] == numbers[:, None, None]
    boxes = np.zeros((len(numbers), 4), np.float32)
    classes = np.ones(len(numbers), np.int64)
    for k, mask in enumerate(masks):
        rows, columns = np.nonzero(mask)
        boxes[k] = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        if kinds is not None:
            classes[k] = kinds[rows[0], columns[0]]
    return {"boxes": boxes, "labels": classes, "masks": masks.astype(np.uint8)}
