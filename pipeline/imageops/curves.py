"""From labels to lines: the chains of pixels along curves.

The pixels of a curve form a graph. A pixel is joined to each of its four neighbours of the same
label, and to a diagonal one only where neither of the two pixels beside that corner has the label.
Ends and junctions are pixels that are not joined to exactly two others. A *chain* runs from one of
these to another, or around a ring without any.

Which pixels are joined depends on the pixels around one of them, so a part of an image with a
border of one pixel can be traced alone. A chain that continues beyond the part is open, and ends
with the identifier of the step that leaves; the same step leaves the open chain on the other side.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
AROUND = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))
"""The neighbours of a pixel in raster order; the k-th neighbour sees the pixel as its (7 - k)-th.
"""
SHUT = -1
"""In place of a step's identifier where a chain ends."""


@dataclass(frozen=True, slots=True)
class Chains:
    """Chains of pixels, one after the other."""

    pixels: Integers
    """(n,) the flat index of each pixel in the image. A closed chain ends with its first pixel."""

    start: Integers
    """(m + 1,) where each chain begins, and where the last ends."""

    label: Integers
    """(m,) the label of each chain."""

    ends: Integers
    """(m, 2) the step by which a chain leaves at its beginning and its end, or SHUT."""

    def __len__(self) -> int:
        return len(self.label)

    def take(self, which: Integers) -> Chains:
        """Select chains, in the order given."""
        length = np.diff(self.start)[which]
        start = np.concatenate([[0], np.cumsum(length)])
        place = np.arange(start[-1]) + np.repeat(self.start[which] - start[:-1], length)
        return Chains(self.pixels[place], start, self.label[which], self.ends[which])

    @property
    def open(self) -> npt.NDArray[np.bool_]:
        """Which chains are open."""
        return np.asarray((self.ends != SHUT).any(axis=1))

    @property
    def keys(self) -> tuple[Integers, Integers]:
        """(m,) first and second pixels, which identify each chain of an image."""
        return self.pixels[self.start[:-1]], self.pixels[self.start[:-1] + 1]


def concatenate(parts: list[Chains]) -> Chains:
    """The chains of all parts, one after the other."""
    lengths = [np.diff(part.start) for part in parts]
    start = np.concatenate(
        [[0], np.cumsum(np.concatenate([np.zeros(0, np.int64), *lengths]))]
    ).astype(np.int64)
    nothing = np.zeros(0, np.int64)
    pixels, label = (
        np.concatenate([nothing, *(getattr(part, name) for part in parts)])
        for name in ("pixels", "label")
    )
    return Chains(
        pixels,
        start,
        label,
        np.concatenate([nothing.reshape(0, 2), *(part.ends for part in parts)]),
    )


def trace(labels: npt.NDArray[np.integer], origin: tuple[int, int], width: int) -> Chains:
    """Trace the chains of a part of an image.

    Pixels that are joined to no other are in no chain.

    Parameters
    ----------
    labels : int ndarray, (row, column)
        The part with a border of one pixel, 0 beyond the image; 0 is background.
    origin : tuple of int
        The row and column of the part's first pixel in the image.
    width : int
        The image's number of columns.

    Returns
    -------
    Chains
        Chains wholly in the part begin at the end that comes first in raster order; closed ones at
        their first pixel, towards the first of its two neighbours.

    Examples
    --------
    >>> import numpy as np
    >>> trace(np.pad([[5, 5, 0], [0, 0, 5]], 1), (0, 0), 3).pixels
    array([0, 1, 5])
    """
    arms = _arms(np.ascontiguousarray(labels, np.int64))
    return Chains(*_trace(arms, np.ascontiguousarray(labels[1:-1, 1:-1], np.int64), *origin, width))


def join(parts: Chains) -> Iterator[tuple[Integers, int]]:
    """Yield the pixels and the label of each chain that open chains form together.

    Every step that leaves a chain must enter another. Chains begin as those of `trace`; their order
    is undefined.
    """
    flat = parts.ends.ravel()
    order = np.argsort(flat, kind="stable")[np.count_nonzero(flat == SHUT) :]
    other = np.full(len(flat), SHUT)
    other[order[0::2]], other[order[1::2]] = order[1::2], order[0::2]
    if not (flat[order[0::2]] == flat[order[1::2]]).all():
        raise ValueError("an open chain goes on in none; all tiles of the image are needed")
    sequence, start = _walk(other)
    for a, b in zip(start[:-1].tolist(), start[1:].tolist(), strict=True):
        pieces = [
            parts.pixels[parts.start[end // 2] : parts.start[end // 2 + 1]][:: -1 if end % 2 else 1]
            for end in sequence[a:b]
        ]
        pixels = np.concatenate(pieces)
        ring = other[sequence[a]] != SHUT
        yield _directed(pixels, ring=ring), int(parts.label[sequence[a] // 2])


def _directed(pixels: Integers, *, ring: bool) -> Integers:
    """Orient a whole chain: from its first end, or around from its first pixel."""
    if ring:
        pixels = np.roll(pixels, -int(pixels.argmin()))
        pixels = np.append(pixels, pixels[0])
    backwards = (pixels[-1], pixels[-2]) < (pixels[0], pixels[1])
    return pixels[::-1] if backwards else pixels


@numba.njit(cache=True, nogil=True)
def _arms(labels):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """For each pixel but the outermost, a bit for each neighbour in AROUND that it is joined to."""
    rows, columns = labels.shape
    arms = np.zeros((rows - 2, columns - 2), np.uint8)
    for r in range(1, rows - 1):
        for c in range(1, columns - 1):
            mine = labels[r, c]
            if mine == 0:
                continue
            for k in range(8):
                dr, dc = AROUND[k]
                if labels[r + dr, c + dc] == mine and (
                    dr == 0 or dc == 0 or (labels[r + dr, c] != mine and labels[r, c + dc] != mine)
                ):
                    arms[r - 1, c - 1] |= 1 << k
    return arms


@numba.njit(cache=True, nogil=True)
def _count(arms):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    number = 0
    for k in range(8):
        number += (arms >> k) & 1
    return number


@numba.njit(cache=True, nogil=True)
def _step(r, c, k, width):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """The identifier of a step, the same from either side."""
    if k < 4:
        return ((r + AROUND[k][0]) * width + c + AROUND[k][1]) * 8 + 7 - k
    return (r * width + c) * 8 + k


@numba.njit(cache=True, nogil=True)
def _trace(arms, labels, top, left, width):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    rows, columns = arms.shape
    total = 0
    for a in arms.flat:
        total += _count(a)
    pixels = np.empty(2 * total + 1, np.int64)
    start = np.zeros(total + 2, np.int64)
    label = np.empty(total + 1, np.int64)
    ends = np.full((total + 1, 2), -1, np.int64)
    left_over = arms.copy()
    number = at = 0
    # from ends and junctions; then from where a chain enters; then around the remaining rings
    for turn in range(3):
        for r in range(rows):
            for c in range(columns):
                for k in range(8):
                    if not left_over[r, c] >> k & 1:
                        continue
                    dr, dc = AROUND[k]
                    inside = 0 <= r + dr < rows and 0 <= c + dc < columns
                    if (turn == 0 and _count(arms[r, c]) == 2) or (turn == 1 and inside):
                        continue
                    if turn == 1:  # backwards: the chain comes in by this step
                        left_over[r, c] ^= 1 << k
                        ends[number, 0] = _step(r + top, c + left, k, width)
                        at = _follow(
                            arms,
                            left_over,
                            r,
                            c,
                            _only(left_over[r, c]),
                            at,
                            top,
                            left,
                            width,
                            pixels,
                            ends,
                            number,
                        )
                    else:
                        at = _follow(
                            arms, left_over, r, c, k, at, top, left, width, pixels, ends, number
                        )
                    label[number] = labels[r, c]
                    number += 1
                    start[number] = at
    return pixels[:at], start[: number + 1], label[:number], ends[:number]


@numba.njit(cache=True, nogil=True)
def _only(arms):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """The number of the first bit set."""
    k = 0
    while not arms >> k & 1:
        k += 1
    return k


@numba.njit(cache=True, nogil=True)
def _follow(arms, left_over, r, c, k, at, top, left, width, pixels, ends, number):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Write the pixels of a chain from one of its pixels along arm k to its end.

    Returns the number of pixels written so far.
    """
    rows, columns = arms.shape
    while True:
        pixels[at] = (r + top) * width + c + left
        at += 1
        left_over[r, c] ^= 1 << k
        dr, dc = AROUND[k]
        if not (0 <= r + dr < rows and 0 <= c + dc < columns):
            ends[number, 1] = _step(r + top, c + left, k, width)
            return at
        r = r + dr
        c = c + dc
        left_over[r, c] ^= 1 << (7 - k)
        if _count(arms[r, c]) != 2 or left_over[r, c] == 0:  # an end, or where it began
            pixels[at] = (r + top) * width + c + left
            return at + 1
        k = _only(left_over[r, c])


@numba.njit(cache=True, nogil=True)
def _walk(other):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Connect open chains: for each result, the ends (2 * part + 0 or 1) by which its parts are
    entered.
    """
    done = np.zeros(len(other) // 2, np.bool_)
    sequence = np.empty(len(done), np.int64)
    start = np.zeros(len(done) + 1, np.int64)
    at = number = 0
    for turn in range(2):  # from ends; then round those that have none
        for end in range(len(other)):
            if done[end // 2] or (turn == 0 and other[end] != -1):
                continue
            here = end
            while here != -1 and not done[here // 2]:
                done[here // 2] = True
                sequence[at] = here
                at += 1
                here = other[here ^ 1]
            number += 1
            start[number] = at
    return sequence[:at], start[: number + 1]
