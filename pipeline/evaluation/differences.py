"""Compare a part of a result with the same part segmented again: which objects and pixels differ,
near seams and away from them. Pure functions.
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
"""Pixels at less than this distance from a seam are near it."""
BESIDE = (2, 3, 4, 5, 6)
"""Distances in pixels of the lines on either side of a seam that it is compared with."""
NONE = -1
"""The partner of an object that has no counterpart in the result."""


@dataclass
class Verification:
    """What was compared, and the differences."""

    parts: int = 0
    pixels: int = 0
    objects: int = 0
    """Objects that lie wholly inside a part."""

    at_seams: int = 0
    """How many of these objects meet a seam of the run."""

    differ: list[dict[str, Any]] = field(default_factory=list)
    """Objects that the result does not have, or has with other pixels: the place, the number of
    pixels, the ids in the result (0: none) and the certificate. For classes: each pair of a class
    in the result and the different class that was drawn again.
    """

    near: tuple[int, int] = (0, 0)
    """Pixels near seams that belong to these objects or to their counterparts in the result: how
    many were compared, and how many differ.
    """

    inside: tuple[int, int] = (0, 0)
    """The same for pixels away from seams."""

    kinds_near: tuple[int, int] = (0, 0)
    """Pixels near seams with a known class: how many were compared, and how many differ."""

    kinds_inside: tuple[int, int] = (0, 0)
    """The same for pixels away from seams."""

    edges: int = 0
    """Borders between pixels of different objects, along the run's seams."""

    beside: float = 0.0
    """The same along lines beside the seams, as a mean."""

    strange: frozenset[str] = frozenset()
    """Methods that ran on other processors or with other libraries, and so may draw differently
    here: none of their differences is surely wrong.
    """

    merged: bool = False
    """Superpixels were compared, not the regions that are merged from them on the graph of the
    whole image.
    """

    @property
    def wrong(self) -> list[dict[str, Any]]:
        """The differences in what the result calls proved."""
        return [one for one in self.differ if one["certificate"] == "proved"]

    @property
    def straightness(self) -> float:
        """How many times as often objects end at seams as beside them: 1 if tiles leave no trace,
        more if they do.
        """
        return self.edges / self.beside if self.beside else 1.0

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def lines(self) -> list[str]:
        """The findings in words, line by line."""
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
    """A line of text with two counts; empty if nothing was compared."""
    return (
        f"{what}: {near[1]:,} of {near[0]:,} near seams, {inside[1]:,} of {inside[0]:,} inside"
        if near[0] + inside[0]
        else ""
    )


@dataclass(frozen=True, slots=True)
class Kinds:
    """The classes of a part of the image, drawn again. All arrays have its shape."""

    kinds: Labels
    known: Flags
    """Whether the part alone tells a pixel's class: False where an object crosses the part's
    border, and where a small object was removed.
    """

    proved: Flags


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the image, segmented again by one segmenter."""

    box: Box
    image: Box
    labels: Labels

    sure: Flags
    """By label: the object lies wholly inside the part, and is proved."""

    mine: Flags
    """Pixels of the tiles that the run gave to this segmenter; nothing is known about the others.
    """

    merged: bool = False
    """The labels are superpixels; each region of the result consists of some."""

    drawn_by: frozenset[str] = frozenset()
    """The names of the methods that drew it."""

    @property
    def compared(self) -> Flags:
        """By label: whether the object is compared."""
        compared = self.sure.copy()
        compared[self.labels[~self.mine]] = False
        compared[0] = False
        return compared


def compare(
    found: Verification, part: Part, published: Labels, seams: Grid, certificates: Mapping[int, str]
) -> None:
    """Compare each object that lies wholly inside with the result, and look for objects that only
    the result has.

    Parameters
    ----------
    found
        What is added to.
    part
        The part, segmented again.
    published
        The result's labels in the part's box.
    seams
        The grid of the run's tiles.
    certificates
        The certificate of each id in the result.
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
    """Compare the class of each pixel with that of the result.

    Parameters
    ----------
    found
        What is added to.
    box
        Where the part lies.
    drawn
        The classes, drawn again.
    published
        The result's classes in the box; -1 where nothing was measured.
    seams
        The grid of the run's tiles.
    """
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
    """Count borders of objects along seams across each axis, and along lines beside the seams."""
    for axis in range(published.ndim):
        rows = np.moveaxis(published, axis, 0)
        start = box.start[axis]
        size = seams.tile[axis]
        # entry k: the borders between row k and row k + 1
        ends = (rows[1:] != rows[:-1]).reshape(len(rows) - 1, -1).sum(axis=1)
        for seam in range(-(-(start + 1) // size) * size, start + len(rows), size):
            lines = [seam - start - 1 + side * far for far in BESIDE for side in (-1, 1)]
            lines = [line for line in lines if 0 <= line < len(ends)]
            if seam - start >= 1 and lines:
                found.edges += int(ends[seam - start - 1])
                found.beside += float(np.mean(ends[lines]))


def near_seams(box: Box, seams: Grid, far: int) -> Flags:
    """The mask of the pixels of a box that are at most ``far`` pixels from a seam; with 1, those
    beside it.
    """
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
    """The ids of proved objects of the result that lie wholly inside the part and have no pixel
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
    """Count the pixels that differ: where the result has another id than the counterpart of an
    object, and where it has that counterpart outside the object.

    Parameters
    ----------
    found
        What is added to.
    part
        The part, segmented again.
    published
        The result's labels in the part's box.
    counted
        The pairs of labels, the pixels of each pair, and the ids that only the result has.
    seams
        The grid of the run's tiles.
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
