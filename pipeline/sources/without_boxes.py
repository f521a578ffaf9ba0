"""An image with unreadable boxes: they are masked, and never read."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.image.frame import Frame
from pipeline.image.grid import Box
from pipeline.sources.contract import Source, every, known_mask, mask_name, thinned


@dataclass(frozen=True, slots=True)
class Incomplete:
    """An image without some boxes, which do not contain each other."""

    source: Source
    gaps: tuple[Box, ...]
    """The boxes that cannot be read."""

    @property
    def frame(self) -> Frame:
        """The image's frame, with a mask."""
        return replace(self.source.frame, masked=True)

    def read(self, box: Box) -> npt.NDArray[Any]:
        """The pixels of a box, 0 in gaps."""
        if not self.gaps_in(box):
            return self.source.read(box)
        frame = self.source.frame
        block = np.zeros((len(frame.bands), *box.shape), frame.dtype)
        for part in self._readable(box):
            block[(slice(None), *part.within(box))] = self.source.read(part)
        return block

    def glance(self, box: Box, step: int) -> npt.NDArray[Any]:
        """Every ``step``-th pixel of a box, 0 in gaps."""
        if not self.gaps_in(box):
            return self.source.glance(box, step)
        frame = self.source.frame
        seen = np.zeros((len(frame.bands), *thinned(box.shape, step)), frame.dtype)
        for part in self._readable(box):
            first = tuple(-(-(a - o) // step) for a, o in zip(part.start, box.start, strict=True))
            start = tuple(o + k * step for o, k in zip(box.start, first, strict=True))
            found = self.source.read(part)[
                (
                    slice(None),
                    *(slice(s - a, None, step) for s, a in zip(start, part.start, strict=True)),
                )
            ]
            seen[
                (
                    slice(None),
                    *(slice(k, k + n) for k, n in zip(first, found.shape[1:], strict=True)),
                )
            ] = found
        return seen

    def mask(self, box: Box, step: int = 1) -> npt.NDArray[np.bool_]:
        """The mask: False in gaps, and where the image's own mask is False."""
        if not self.gaps_in(box) and (told := known_mask(self.source, box, step)) is not None:
            return told
        known = np.ones((len(self.source.frame.bands), *box.shape), bool)
        for part in self._readable(box):
            if (told := known_mask(self.source, part)) is not None:
                known[(slice(None), *part.within(box))] = told
        for gap in self.gaps_in(box):
            known[(slice(None), *(gap & box).within(box))] = False
        return every(known, step)

    @property
    def masked_by(self) -> str:
        """What the mask is derived from."""
        own = mask_name(self.source) if self.source.frame.masked else ""
        return " or ".join(filter(None, ("unreadable", own)))

    def fingerprint(self) -> dict[str, Any]:
        """The image's fingerprint."""
        return self.source.fingerprint()

    def gaps_in(self, box: Box) -> list[Box]:
        """The gaps that a box meets."""
        return [gap for gap in self.gaps if (gap & box).size]

    def _readable(self, box: Box) -> Iterator[Box]:
        """The rest of a box, cut along the gaps' edges."""
        gaps = self.gaps_in(box)
        cuts = [
            sorted(
                {
                    a,
                    b,
                    *(
                        edge
                        for gap in gaps
                        for edge in (gap.start[axis], gap.stop[axis])
                        if a < edge < b
                    ),
                }
            )
            for axis, (a, b) in enumerate(zip(box.start, box.stop, strict=True))
        ]
        for spans in itertools.product(*(itertools.pairwise(edges) for edges in cuts)):
            part = Box(*zip(*spans, strict=True))
            if not any((gap & part).size for gap in gaps):
                yield part
