"""Run a network over a window in patches of bounded size.

If an answer depends only on pixels within the network's reach, patches begin at multiples of its
total stride and overlap by twice the reach, and the middle of each answer is kept. So the answer is
that for the whole image, in every window. (To the precision of floats: libraries add in another
order for another size.)

A network that depends on its whole input (norms over the window, pooled values, attention), or gets
less than its reach, runs on patches of one size on a lattice over the image. Answers are blended
with weights that fall towards the patches' edges. The result is then not the answer for the whole
image, but it does not depend on the tiles, and shows no seams.

Beyond the window, its edge pixels are repeated. Where the image continues there, this changes
nothing further inside than the reach.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.errors import JobError, SegmenterError
from pipeline.networks.card import Card

Floats = npt.NDArray[np.float32]
Forward = Callable[[Floats], Floats]
"""From (patch, band, row, column) to (patch, channel, row, column)."""
OVERLAP = 8
"""The fraction of a blended patch, on either side, over which its weight falls."""
LEAST = 1e-6
"""The weight of a pixel at a patch's edge."""


@dataclass(frozen=True, slots=True)
class Patches:
    """How a window is cut into patches."""

    extent: int
    """Rows and columns of a patch, a multiple of the stride."""

    stride: int
    """Patches begin at multiples of this."""

    reach: int
    """Pixels around a patch's middle that are read but not kept."""

    blended: bool = False
    """Whether patches lie on a lattice and are blended over ``reach`` pixels on either side."""

    @property
    def halo(self) -> int:
        """How many pixels away the answer for a pixel may depend on."""
        return self.extent - 1 if self.blended else self.reach

    def run(self, block: Floats, origin: Sequence[int], forward: Forward, batch: int = 1) -> Floats:
        """Run the network over a window.

        Parameters
        ----------
        block : float32 ndarray, (band, row, column)
            The window, scaled for the network.
        origin : sequence of int
            The window's first row and column in the image.
        forward : callable
            The network.
        batch : int, optional
            Patches per call, all of one shape.

        Returns
        -------
        float32 ndarray, (channel, row, column)
            The answer.
        """
        spans = [
            self._spans(first, first + n) for first, n in zip(origin, block.shape[1:], strict=True)
        ]
        answer: Floats | None = None
        weight = np.zeros(block.shape[1:], np.float32)
        for group in self._batches(spans, batch):
            found = _answered(forward, block, origin, group)
            if answer is None:
                answer = np.zeros((found.shape[1], *block.shape[1:]), np.float32)
            for place, one in zip(group, found, strict=True):
                self._lay(answer, weight, one, place, origin)
        assert answer is not None  # noqa: S101  a window has a patch
        return (
            np.asarray(answer / np.maximum(weight, np.float32(LEAST)), np.float32)
            if self.blended
            else answer
        )

    def _spans(self, start: int, stop: int) -> list[_Span]:
        """The patches along one axis."""
        if self.blended:
            return self._blended_spans(start, stop)
        low = start // self.stride * self.stride
        high = -(-stop // self.stride) * self.stride
        margin = -(-self.reach // self.stride) * self.stride
        step = max(self.stride, self.extent - 2 * margin)
        if high - low <= self.extent:
            return [_Span(low, high, start, stop)]
        cuts = [low, *range(low // step * step + step, high, step), high]
        return [
            _Span(max(low, a - margin), min(high, b + margin), max(a, start), min(b, stop))
            for a, b in itertools.pairwise(cuts)
        ]

    def _blended_spans(self, start: int, stop: int) -> list[_Span]:
        """The patches of the image's lattice along one axis."""
        step = self.extent - 2 * self.reach
        first = max(0, -(-(start - self.extent + 1) // step))
        starts = range(first * step, stop, step)
        # a patch that begins before the window is cut by it, and is not needed
        whole = [a for a in starts if a >= start] or [starts[0]]
        return [_Span(a, a + self.extent, max(a, start), min(a + self.extent, stop)) for a in whole]

    def _batches(
        self, spans: Sequence[list[_Span]], batch: int
    ) -> Iterator[list[tuple[_Span, ...]]]:
        """Group patches of one shape, up to ``batch`` at once."""
        alike: dict[tuple[int, ...], list[tuple[_Span, ...]]] = defaultdict(list)
        for place in itertools.product(*spans):
            alike[tuple(span.stop - span.start for span in place)].append(place)
        for places in alike.values():
            for first in range(0, len(places), batch):
                yield places[first : first + batch]

    def _lay(
        self,
        answer: Floats,
        weight: Floats,
        one: Floats,
        place: Sequence[_Span],
        origin: Sequence[int],
    ) -> None:
        """Add the answer for a patch at its position."""
        here = tuple(slice(span.first - span.start, span.last - span.start) for span in place)
        there = tuple(
            slice(span.first - o, span.last - o) for span, o in zip(place, origin, strict=True)
        )
        if not self.blended:
            answer[(slice(None), *there)] = one[(slice(None), *here)]
            return
        slope = _slope(self.extent, self.reach)
        part = np.outer(slope[here[0]], slope[here[1]]).astype(np.float32)
        answer[(slice(None), *there)] += part * one[(slice(None), *here)]
        weight[there] += part


def cut(card: Card, window: int | None = None, margin: int | None = None) -> Patches:
    """Choose the patches for a card.

    Parameters
    ----------
    card : Card
        The description of the network.
    window : int, optional
        Width of a patch in pixels; None: as the card says.
    margin : int, optional
        Pixels on either side that are read but not kept; None: as the card says.

    Returns
    -------
    Patches
        How to cut windows.

    Raises
    ------
    JobError
        The numbers do not fit.
    """
    stride = card.stride
    if card.reach is not None and (margin is None or margin >= card.reach):
        around = -(-card.reach // stride) * stride
        wanted = max(window or max(card.window, 4 * around), 2 * around + stride)
        return Patches(-(-wanted // stride) * stride, stride, card.reach)
    extent = window or card.window
    margin = max(1, extent // OVERLAP) if margin is None else margin
    if extent % stride or 2 * margin >= extent:
        raise JobError(
            f"window and margin: {extent} and {margin}; allowed: a window of whole strides "
            f"({stride}), wider than two margins"
        )
    return Patches(extent, stride, margin, blended=True)


@dataclass(frozen=True, slots=True)
class _Span:
    """A patch along one axis, in pixels of the image: what is read, and what of it is kept."""

    start: int
    stop: int
    first: int
    last: int


def _answered(
    forward: Forward, block: Floats, origin: Sequence[int], group: Sequence[Sequence[_Span]]
) -> Floats:
    """Run the network on some patches of one shape.

    Parameters
    ----------
    forward : callable
        The network.
    block : float32 ndarray, (band, row, column)
        The window.
    origin : sequence of int
        The window's first row and column in the image.
    group : sequence of pairs of _Span
        The patches.

    Returns
    -------
    float32 ndarray, (patch, channel, row, column)
        The answer.

    Raises
    ------
    SegmenterError
        The answer has other rows and columns.
    """
    given = np.stack(
        [_cut(block, origin, [(span.start, span.stop) for span in place]) for place in group]
    )
    found = np.asarray(forward(given), np.float32)
    wanted = (given.shape[0], *given.shape[2:])
    if found.ndim != 4 or (found.shape[0], *found.shape[2:]) != wanted:
        raise SegmenterError(
            f"the network returned {found.shape} for {given.shape}; allowed: as many rows and "
            f"columns"
        )
    return found


def _slope(extent: int, overlap: int) -> npt.NDArray[np.float64]:
    """Weights that rise over twice the overlap from a patch's edge, as a squared sine.

    Those of neighbouring patches add up to one.
    """
    rise = np.sin(np.pi / 2 * (np.arange(2 * overlap) + 0.5) / max(1, 2 * overlap)) ** 2
    weights = np.ones(extent)
    weights[: 2 * overlap] = rise
    weights[extent - 2 * overlap :] *= rise[::-1]
    return np.maximum(weights, LEAST)


def _cut(block: Floats, origin: Sequence[int], spans: Sequence[tuple[int, int]]) -> Floats:
    """Some rows and columns of the image; edge pixels are repeated beyond the block."""
    index = [
        np.clip(np.arange(a, b) - o, 0, n - 1)
        for (a, b), o, n in zip(spans, origin, block.shape[1:], strict=True)
    ]
    inside = all(
        a >= o and b <= o + n for (a, b), o, n in zip(spans, origin, block.shape[1:], strict=True)
    )
    if inside:
        return block[
            (slice(None), *(slice(a - o, b - o) for (a, b), o in zip(spans, origin, strict=True)))
        ]
    return np.ascontiguousarray(block[:, index[0][:, None], index[1][None, :]])
