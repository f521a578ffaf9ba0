"""A part of a result and the same part segmented again: which objects and which pixels differ, near
seams and inside. Pure functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.image.grid import Box, Grid, sides

Labels = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
NEAR = 8
"""Pixels less than this far from a seam are near it."""
BESIDE = (2, 3, 4, 5, 6)
"""How far from a seam, in pixels, lie the lines that it is compared with."""
NONE = -1
"""The partner of an object that the result has not."""


@dataclass
class Verification:
    """What was compared, and what came out."""

    parts: int = 0
    pixels: int = 0
    objects: int = 0
    """Objects that lie whole inside a part."""

    at_seams: int = 0
    """Of those, how many meet a seam of the run's."""

    differ: list[dict[str, Any]] = field(default_factory=list)
    """Those that the result has not, or otherwise: where, how many pixels, the result's id (0:
    none) and its certificate. Of classes, each pair of one in the result and one that was drawn
    again.
    """

    near: tuple[int, int] = (0, 0)
    """Pixels of those objects, and of what the result has in their places, near seams: how many,
    and how many differ.
    """

    inside: tuple[int, int] = (0, 0)
    """The same of pixels that are not near seams."""

    kinds_near: tuple[int, int] = (0, 0)
    """Pixels near seams whose class is compared: how many, and of how many it differs."""

    kinds_inside: tuple[int, int] = (0, 0)
    """The same of pixels that are not near seams."""

    edges: int = 0
    """Borders between pixels of different objects, along the run's seams."""

    beside: float = 0.0
    """The same along lines beside them, on the average."""

    strange: frozenset[str] = frozenset()
    """What other processors or libraries drew, and may have drawn otherwise: nothing of it is wrong
    for sure.
    """

    merged: bool = False
    """Superpixels were compared, and not the regions that they are merged into on the graph of the
    whole image.
    """

    @property
    def wrong(self) -> list[dict[str, Any]]:
        """What differs though the result calls it proved."""
        return [one for one in self.differ if one["certificate"] == "proved"]

    @property
    def straightness(self) -> float:
        """How many times as often objects end at seams as beside them; 1 where tiles leave no
        trace, more where they do.
        """
        return self.edges / self.beside if self.beside else 1.0

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def lines(self) -> list[str]:
        """In words."""
        near = sum(one["at_seam"] for one in self.differ)
        text = [
            (
                f"{self.parts} parts, {self.pixels:,} pixels, {self.objects:,} objects compared, "
                f"{self.at_seams:,} of them at seams"
            ),
            (
                f"{len(self.differ):,} differ: {near:,} at seams, {len(self.differ) - near:,} "
                f"inside; {len(self.wrong):,} are called proved"
            ),
            _counted("pixels that differ", self.near, self.inside),
            _counted("classes of pixels that differ", self.kinds_near, self.kinds_inside),
            f"objects end at seams {self.straightness:.2f} times as often as beside them",
        ]
        text = [line for line in text if line]
        if self.merged:
            text.append(
                "superpixels were looked for whole in one region each; which are merged is "
                "decided on the whole image's graph"
            )
        if self.strange:
            text.append(
                f"{', '.join(sorted(self.strange))}: drawn on other processors, or by other "
                f"libraries, than here, and so perhaps otherwise "
                "in the last digit; what differs is not called proved; verify where it was drawn "
                "(run.json: processors)"
            )
        return text + [f"  {one}" for one in self.wrong[:10]]


def _counted(what: str, near: tuple[int, int], inside: tuple[int, int]) -> str:
    """A line of words; none where nothing was compared."""
    return (
        f"{what}: {near[1]:,} of {near[0]:,} near seams, {inside[1]:,} of {inside[0]:,} inside"
        if near[0] + inside[0]
        else ""
    )


@dataclass(frozen=True, slots=True)
class Kinds:
    """The classes of a part of the image, drawn again; all of its shape."""

    kinds: Labels
    known: Flags
    """Whether what is drawn in the part tells the class of a pixel: not where an object goes on
    beyond it, or was too small within.
    """

    proved: Flags


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the image, segmented again by one segmenter."""

    box: Box
    image: Box
    labels: Labels

    sure: Flags
    """By label: the object lies whole inside, and is proved."""

    mine: Flags
    """Pixels of the tiles that the run gave to the same segmenter: nothing is known here of others.
    """

    merged: bool = False
    """The labels are superpixels, of which the result's regions are made."""

    drawn_by: frozenset[str] = frozenset()
    """The routes that it was drawn by."""

    @property
    def compared(self) -> Flags:
        """By label: whether it is compared."""
        compared = self.sure.copy()
        compared[self.labels[~self.mine]] = False
        compared[0] = False
        return compared


def compare(
    found: Verification, part: Part, published: Labels, seams: Grid, certificates: Mapping[int, str]
) -> None:
    """Look for each object that lies whole inside, and for objects of the result where there is
    none.
    """
    labels = part.labels
    compared = part.compared
    pairs, count = np.unique(
        np.stack([labels.ravel(), published.ravel()], axis=1), axis=0, return_counts=True
    )
    total = dict(zip(*np.unique(published, return_counts=True), strict=True))
    crossed = set(np.unique(labels[near_seams(part.box, seams, 1)]).tolist())
    for label in np.unique(labels[compared[labels]]).tolist():
        under = slice(*np.searchsorted(pairs[:, 0], [label, label + 1]).tolist())  # they ascend
        ids = pairs[under, 1]
        pixels = count[under]
        found.objects += 1
        found.at_seams += label in crossed
        if len(ids) != 1 or (not part.merged and (ids[0] == 0 or total[ids[0]] != pixels[0])):
            doubted = [certificates[int(i)] for i in ids if i and certificates[int(i)] != "proved"]
            _note(
                found,
                part,
                labels == label,
                ids.tolist(),
                doubted[0] if doubted else "proved",
                at_seam=label in crossed,
            )
    extra = np.zeros(0, np.int64) if part.merged else _invented(part, published, certificates)
    for id_ in extra.tolist():
        mask = published == id_
        _note(
            found,
            part,
            mask,
            [id_],
            "proved",
            at_seam=bool(mask[near_seams(part.box, seams, 1)].any()),
        )
    _count_pixels(found, part, published, (pairs, count, extra), seams)
    found.merged |= part.merged


def compare_kinds(
    found: Verification, box: Box, drawn: Kinds, published: Labels, seams: Grid
) -> None:
    """Compare the class of each pixel with that in the result."""
    near = near_seams(box, seams, NEAR)
    wrong = drawn.known & (drawn.kinds != published)
    for name, mask in (("kinds_near", near), ("kinds_inside", ~near)):
        before = getattr(found, name)
        setattr(
            found,
            name,
            (before[0] + int((drawn.known & mask).sum()), before[1] + int((wrong & mask).sum())),
        )
    if not wrong.any():
        return
    at_seam = near_seams(box, seams, 1)
    pairs, where = np.unique(
        np.stack([published[wrong], drawn.kinds[wrong], drawn.proved[wrong]], axis=1),
        axis=0,
        return_inverse=True,
    )
    places = np.argwhere(wrong)
    for number, (theirs, ours, sure) in enumerate(pairs.tolist()):
        mine = places[where.ravel() == number]
        found.differ.append(
            {
                "place": tuple(int(a) + o for a, o in zip(mine[0], box.start, strict=True)),
                "pixels": len(mine),
                "classes": [theirs, ours],
                "certificate": "proved" if sure else "agreed",
                "at_seam": bool(at_seam[tuple(mine.T)].any()),
            }
        )


def count_edges(found: Verification, published: Labels, box: Box, seams: Grid) -> None:
    """Count borders of objects along seams across each axis, and along lines beside them."""
    for axis in range(published.ndim):
        rows = np.moveaxis(published, axis, 0)
        start = box.start[axis]
        size = seams.tile[axis]
        ends = (
            (rows[1:] != rows[:-1]).reshape(len(rows) - 1, -1).sum(axis=1)
        )  # between row k and row k + 1
        for seam in range(-(-(start + 1) // size) * size, start + len(rows), size):
            lines = [seam - start - 1 + side * far for far in BESIDE for side in (-1, 1)]
            lines = [line for line in lines if 0 <= line < len(ends)]
            if seam - start >= 1 and lines:
                found.edges += int(ends[seam - start - 1])
                found.beside += float(np.mean(ends[lines]))


def near_seams(box: Box, seams: Grid, far: int) -> Flags:
    """Pixels of which a seam is beside them, or up to ``far`` - 1 pixels further."""
    mask = np.zeros(box.shape, bool)
    for axis, (start, size, extent) in enumerate(
        zip(box.start, seams.tile, seams.shape, strict=True)
    ):
        places = np.arange(start, start + box.shape[axis])
        after = (places % size < far) & (places >= size)
        before = (size - places % size <= far) & (places - places % size + size < extent)
        mask |= (after | before).reshape([-1 if a == axis else 1 for a in range(len(box.shape))])
    return mask


def _note(
    found: Verification, part: Part, mask: Flags, ids: list[int], certificate: str, *, at_seam: bool
) -> None:
    place = tuple(int(a) + o for a, o in zip(np.argwhere(mask)[0], part.box.start, strict=True))
    found.differ.append(
        {
            "place": place,
            "pixels": int(mask.sum()),
            "ids": ids,
            "certificate": certificate,
            "at_seam": at_seam,
        }
    )


def _invented(part: Part, published: Labels, certificates: Mapping[int, str]) -> Labels:
    """Ids that the result calls proved, whose objects lie whole inside, and of which nothing was
    drawn again.
    """
    unknown = [published[~part.mine], published[part.labels > 0]]
    unknown += [published[side.face].ravel() for side in sides(part.box, part.image) if side.open]
    alone = np.setdiff1d(np.unique(published), np.append(np.concatenate(unknown), 0))
    return np.array([i for i in alone.tolist() if certificates[i] == "proved"], np.int64)


def _count_pixels(
    found: Verification,
    part: Part,
    published: Labels,
    counted: tuple[Labels, Any, Labels],
    seams: Grid,
) -> None:
    """Add what differs pixel by pixel: where the result has not what answers to an object, and
    where it has that elsewhere.
    """
    pairs, count, extra = counted
    compared = part.compared
    partner = np.full(len(compared), NONE, np.int64)
    taken: set[int] = set()
    for k in np.argsort(-count, kind="stable").tolist():
        label, id_ = pairs[k].tolist()
        if (
            compared[label]
            and partner[label] == NONE
            and (part.merged or (id_ and id_ not in taken))
        ):
            partner[label] = id_
            taken.add(id_)
    known = compared[part.labels]
    elsewhere = ~known & np.isin(published, [] if part.merged else [*taken, *extra.tolist()])
    wrong = (known & (published != partner[part.labels])) | elsewhere
    near = near_seams(part.box, seams, NEAR)
    every = known | elsewhere
    found.near = (
        found.near[0] + int((every & near).sum()),
        found.near[1] + int((wrong & near).sum()),
    )
    found.inside = (
        found.inside[0] + int((every & ~near).sum()),
        found.inside[1] + int((wrong & ~near).sum()),
    )
