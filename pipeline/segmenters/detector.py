"""Detectors: networks that find objects one by one, each with a box, a class, a score and a mask.

The network is run on patches of one size that lie on a lattice over the image, and each patch counts only for objects whose centre lies in
its own cell (`pipeline.networks.lattice`); so what is found does not depend on the tiles. What is left twice over is settled by score, and
so are pixels that several objects cover. An object's key is its cell and its rank there.

It is not what the network would find if it were shown the whole image at once, so nothing is called proved; tiles agree, and always do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from pipeline.components import pieces
from pipeline.errors import JobError
from pipeline.grid import Box
from pipeline.networks.lattice import Cell, Lattice
from pipeline.networks.resident import Detections
from pipeline.networks.windows import Patches
from pipeline.segmenters import Identity, Keyed, Origin, fitted_to
from pipeline.segmenters.predictor import Network

Pixels = npt.NDArray[Any]
Flags = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.integer[Any]]
AXIS, RANK = 24, 14
"""Bits of a key: for the number of a cell along each axis, and for the rank of an object in its cell."""
STEPS = 2
"""What is left of an object depends on those that may hide it, and these on those that may be in the place of them."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskRCNN(Network):
    """Torchvision's Mask R-CNN: objects of several classes, which may lie close together or hide each other in part.

    Use it for things of about one size and of a known outline: buildings, vehicles, crowns, cells. An object as long or as broad as twice
    the margin is not found: let ``margin`` be more than half the extent of the largest, and ``window`` about four times that. Scores are
    not kept.

    It is slower than other networks: each tile looks at patches up to `reach` beyond it. Large tiles pay.

    Between patches, of two objects whose masks overlap by more than ``overlap`` the one of the lower score goes, though it be to one that
    goes itself: the usual way, one after the other by falling score, has chains without end, whose outcome would depend on the tiles.
    What remains of an object beneath others is its largest piece.

    References
    ----------
    K. He, G. Gkioxari, P. Dollar, R. Girshick (2017), "Mask R-CNN", ICCV, 2961-2969. D. Bolya, C. Zhou, F. Xiao, Y. J. Lee (2019), "YOLACT:
    real-time instance segmentation", ICCV, 9157-9166, section 3.2, for suppression that has no chains (Fast NMS).
    """

    margin: int | None = None
    """Pixels of a patch around its cell, more than half the extent of the largest object; None: a quarter of the window."""

    score: float = 0.5
    """The least score of an object, from 0 to 1."""

    mask: float = 0.5
    """The least probability of a pixel of an object, above 0 and up to 1."""

    overlap: float = 0.5
    """The largest intersection over union of two objects, from 0 to 1."""

    most: int = 100
    """The most objects whose centres lie in one cell, those of the highest scores; up to 16383."""

    KIND: ClassVar[str] = "maskrcnn"
    identity: ClassVar[Identity] = "keyed"
    proved: ClassVar[bool] = False
    exactness: ClassVar[str] = "all that it finds, though none is called proved"

    def __post_init__(self) -> None:
        Network.__post_init__(self)  # super() does not work in a class with slots
        for name, what in (("score", "0 to 1"), ("mask", "more than 0, to 1"), ("overlap", "0 to 1")):
            given = getattr(self, name)
            if not 0 <= given <= 1 or (name == "mask" and given == 0):
                raise JobError(f"{name}: {given!r}; allowed: {what}")
        if isinstance(self.most, bool) or not isinstance(self.most, int) or not 1 <= self.most < 1 << RANK:
            raise JobError(f"most: {self.most!r}; allowed: a number of objects, 1 to {(1 << RANK) - 1}")
        for name in ("decoder_options", "flips", "compiled"):
            if getattr(self, name):
                raise JobError(f"{name}: {getattr(self, name)!r}; a detector has none; leave it out")
        if self.pixel_size == "resample":
            raise JobError("pixel_size: 'resample'; a detector sees the image's own pixels; allowed: same, any; resample the image first")

    @property
    def patches(self) -> Patches:
        """The patches of the lattice."""
        extent = self.window or self.card.window
        margin = extent // 4 if self.margin is None else self.margin
        if not 0 < 2 * margin < extent:
            raise JobError(f"window and margin: {extent} and {margin}; allowed: a margin from 1, and a window wider than two margins")
        return Patches(extent, 1, margin, blended=True)

    @property
    def lattice(self) -> Lattice:
        """Where the network is run."""
        return Lattice(self.patches.extent, self.patches.reach)

    @property
    def decoder(self) -> ByKey:  # type: ignore[override]
        """What hands on the keys; a detector has no choice of decoders."""
        return ByKey()

    @property
    def reach(self) -> int:
        """How far what decides about a pixel may lie: five margins and a window, as `pipeline.networks.lattice.Lattice.sight` derives."""
        return self.lattice.sight(STEPS)

    def predict(self, block: Pixels, valid: Flags, origin: Origin = None) -> npt.NDArray[Any]:
        """Keys and classes, (2, row, column) int64, 0 for background, of a window that begins at ``origin``.

        Raises
        ------
        SegmenterError
            Values are not of the range that it was trained for, or the network's answer is no finite number.
        JobError
            The image is a volume; a band, a package, or what can read the weights is missing.
        """
        given, network = self._given(block, valid), self.resident
        start = origin or (0, 0)
        window = Box(start, tuple(o + n for o, n in zip(start, valid.shape, strict=True)))
        found: list[Found] = []
        for cell in self.lattice.cells(window):
            place = cell.patch.within(window)
            if valid[place].any():
                found += self._owned(network.detect(given[(slice(None), *place)]), valid[place], cell)
        return settled(found, window, self.overlap)

    def __call__(self, block: Pixels, valid: Flags | None = None, origin: Origin = None) -> npt.NDArray[Any]:
        """The key of the object of each pixel, int64, of a block whose first pixel lies at ``origin``; 0 for background."""
        block = np.asarray(block)
        valid = np.ones(block.shape[1:], bool) if valid is None else valid
        keys: npt.NDArray[Any] = fitted_to(self, block, valid).predict(block, valid, origin)[0]
        return np.where(valid, keys, 0)

    def _owned(self, answer: Detections, valid: Flags, cell: Cell) -> list[Found]:
        """Of what was found in a patch, what counts: its centre lies in the patch's cell, its score suffices, it is not too long."""
        found = []
        for score, kind, likely in zip(answer.scores.tolist(), answer.kinds.tolist(), answer.masks, strict=True):
            if score >= self.score:
                mask = (likely >= self.mask) & valid
                rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
                if len(rows):
                    inside = (slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1))
                    box = Box(
                        tuple(o + span.start for o, span in zip(cell.patch.start, inside, strict=True)),
                        tuple(o + span.stop for o, span in zip(cell.patch.start, inside, strict=True)),
                    )
                    centre = tuple((a + b - 1) // 2 for a, b in zip(box.start, box.stop, strict=True))
                    if max(box.shape) <= self.lattice.longest and Box(centre, tuple(c + 1 for c in centre)) in cell.box:
                        found.append((-score, box, kind, mask[inside]))
        row, column = cell.place
        first = ((row << AXIS | column) << RANK) + 1
        best = sorted(found, key=lambda one: one[:3])[: self.most]
        return [Found(first + rank, kind, -score, box, mask) for rank, (score, box, kind, mask) in enumerate(best)]


def settled(found: Sequence[Found], window: Box, overlap: float) -> npt.NDArray[np.int64]:
    """Which object each pixel of a window is of: keys and classes, (2, row, column), 0 for none.

    An object goes if it overlaps one of a higher score by an intersection over union above ``overlap``. Where those that stay overlap, the
    pixel is of the one of the higher score. Of what is left of each, the largest piece counts; of equally large ones, the first. Of equal
    scores, the lower key's is the higher.
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
        near = (starts[:number] < one.box.stop).all(axis=1) & (stops[:number] > one.box.start).all(axis=1)
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
        ``boxes``, float32 (object, 4): first column and row, and those after the last; ``labels``, int64 (object,): classes; ``masks``,
        uint8 (object, row, column), in the order of the numbers. Where nothing is, each is of length 0.

    Examples
    --------
    >>> found = targets(np.array([[0, 7, 7], [0, 0, 7]]))
    >>> found["boxes"], found["labels"], found["masks"]
    (array([[1., 0., 3., 2.]], dtype=float32), array([1]), array([[[0, 1, 1],
            [0, 0, 1]]], dtype=uint8))
    """
    numbers = np.unique(labels[labels > 0])
    masks = labels[None] == numbers[:, None, None]
    boxes, classes = np.zeros((len(numbers), 4), np.float32), np.ones(len(numbers), np.int64)
    for k, mask in enumerate(masks):
        rows, columns = np.nonzero(mask)
        boxes[k] = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        if kinds is not None:
            classes[k] = kinds[rows[0], columns[0]]
    return {"boxes": boxes, "labels": classes, "masks": masks.astype(np.uint8)}
