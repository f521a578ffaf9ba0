"""From a detector's answers to labels: which detections count, and which pixels are theirs.

Patches lie on a lattice (`pipeline.networks.lattice`). Each patch counts only for objects with
their centre in its own cell, so the detections do not depend on the tiles. Duplicates and pixels
covered by several objects are decided by score. The key of an object is its cell and its rank in
the cell.
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
"""Bits of a key: ``AXIS`` for the number of a cell along each axis, ``RANK`` for the rank of an
object in its cell.
"""
SIDES = 4
"""Connectivity within an object: pixels that share a side."""


@dataclass(frozen=True, slots=True)
class Found:
    """A detected object."""

    key: int
    """The object's key, from 1, the same for every tiling."""

    kind: int
    """The class, from 1."""

    score: float
    """The network's confidence, from 0 to 1."""

    box: Box
    """The bounding box in pixels of the image."""

    mask: Flags
    """The object's pixels within the box."""


@dataclass(frozen=True, slots=True)
class ByKey:
    """Decoder that passes on the keys and classes of a window, (2, row, column)."""

    identity: ClassVar[Identity] = "keyed"
    reach: ClassVar[int] = 0

    def __call__(self, channels: npt.NDArray[np.int64]) -> Keyed:
        """Wrap the key and the class of each pixel."""
        return Keyed(channels[0], channels[1])

    def targets(self, labels: Labels) -> Floats:
        """Return the object numbers, (1, row, column); `targets` turns crops of them into boxes."""
        return np.asarray(labels[None], np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Selects the detections that count in the patches of a lattice; its options are those of
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
        """Label a window.

        Parameters
        ----------
        given : float32 ndarray, (band, row, column)
            The scaled pixels of the window.
        valid : bool ndarray, (row, column)
            True where a pixel was measured.
        origin : sequence of int
            The position of the window in the image.
        detect : callable
            From a patch to detections.

        Returns
        -------
        int64 ndarray, (2, row, column)
            Keys and classes; 0 for background.
        """
        window = Box(tuple(origin), tuple(o + n for o, n in zip(origin, valid.shape, strict=True)))
        found: list[Found] = []
        for cell in self.lattice.cells(window):
            place = cell.patch.within(window)
            if valid[place].any():
                found += self._owned(detect(given[(slice(None), *place)]), valid[place], cell)
        return settled(found, window, self.overlap)

    def _owned(self, answer: Detections, valid: Flags, cell: Cell) -> list[Found]:
        """The detections of a patch that count: centre in the patch's cell, a sufficient score, not
        too long.
        """
        found = []
        for score, kind, likely in zip(
            answer.scores.tolist(), answer.kinds.tolist(), answer.masks, strict=True
        ):
            if score < self.score:
                continue
            mask = (likely >= self.mask) & valid
            if not mask.any():
                continue
            inside = _bounds(mask)
            box = _moved(inside, cell.patch.start)
            if max(box.shape) <= self.lattice.longest and _centre(box) in cell.box:
                found.append((-score, box, kind, mask[inside.slices]))
        row, column = cell.place
        first = ((row << AXIS | column) << RANK) + 1
        best = sorted(found, key=lambda one: one[:3])[: self.most]
        return [
            Found(first + rank, kind, -score, box, mask)
            for rank, (score, box, kind, mask) in enumerate(best)
        ]


def _bounds(mask: Flags) -> Box:
    """The bounding box of a mask that is not empty."""
    rows = np.flatnonzero(mask.any(axis=1))
    columns = np.flatnonzero(mask.any(axis=0))
    return Box((int(rows[0]), int(columns[0])), (int(rows[-1]) + 1, int(columns[-1]) + 1))


def _moved(box: Box, origin: Sequence[int]) -> Box:
    """A box of a part of an image that begins at ``origin``, in pixels of the image."""
    return Box(
        tuple(o + a for o, a in zip(origin, box.start, strict=True)),
        tuple(o + b for o, b in zip(origin, box.stop, strict=True)),
    )


def _centre(box: Box) -> Box:
    """The pixel in the middle of a box."""
    centre = tuple((a + b - 1) // 2 for a, b in zip(box.start, box.stop, strict=True))
    return Box(centre, tuple(c + 1 for c in centre))


def lattice(card: Card, window: int | None = None, margin: int | None = None) -> Lattice:
    """Build the lattice of a detector's card.

    Parameters
    ----------
    card : Card
        The description of the network.
    window : int, optional
        Width of a patch in pixels; None: the card's.
    margin : int, optional
        Pixels of a patch around its cell; None: a quarter of the window.

    Returns
    -------
    Lattice
        The lattice.

    Raises
    ------
    JobError
        The margin is 0, or the window is not wider than two margins.
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
    """Decide which object each pixel of a window belongs to.

    An object is removed if it overlaps one of a higher score by an intersection over union above
    ``overlap``. Where remaining objects overlap, the pixel belongs to the one of the higher score.
    Of each object, the largest connected piece counts (of equal pieces the first). Of equal scores,
    the lower key ranks higher.

    Parameters
    ----------
    found : sequence of Found
        The detections of all patches that touch the window.
    window : Box
        The window.
    overlap : float
        The largest intersection over union allowed.

    Returns
    -------
    int64 ndarray, (2, row, column)
        Keys and classes; 0 for background.
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
    """The objects that no better one overlaps by more than ``overlap`` (fast non-maximum
    suppression).

    The greedy variant has chains of any length, so its result would depend on the tiling.
    """
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
    """Intersection over union of two objects with overlapping boxes."""
    both = a.box & b.box
    shared = int((a.mask[both.within(a.box)] & b.mask[both.within(b.box)]).sum())
    return shared / (int(a.mask.sum()) + int(b.mask.sum()) - shared)


def targets(labels: Labels, kinds: Labels | None = None) -> dict[str, npt.NDArray[Any]]:
    """Build the training targets of torchvision's detectors from the labels of one patch.

    Parameters
    ----------
    labels : int ndarray, (row, column)
        Numbers of objects; 0 for background.
    kinds : int ndarray, (row, column), optional
        The class of each pixel; an object's is that of its first pixel. None: class 1.

    Returns
    -------
    dict
        ``boxes``, float32 (object, 4): first column and row, and those after the last; ``labels``,
        int64 (object,): classes; ``masks``, uint8 (object, row, column). All in the order of the
        numbers, and empty without objects.

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
