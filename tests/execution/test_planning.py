"""What a plan says of a run is what the run does."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
from scipy import ndimage

import pipeline
from pipeline.errors import JobError
from pipeline.execution.planning import plan
from pipeline.image.grid import Box
from pipeline.sources import open_source
from pipeline.stages.segment import segment

SHAPE = (40, 50)
TILE = (16, 10)
MEMORY = 1 << 30


@dataclass(frozen=True)
class Median:
    """A step that looks so many pixels far."""

    reach: int

    def __call__(self, block):
        return ndimage.median_filter(block, (1, *(2 * self.reach + 1,) * 2))


@dataclass(frozen=True)
class Near:
    """Connected pixels that are brighter than the mean of so many around them."""

    reach: int
    identity: ClassVar[str] = "connected"

    def __call__(self, block):
        return block[0] > ndimage.uniform_filter(block[0].astype(float), 2 * self.reach + 1)


@dataclass(frozen=True)
class Drawn:
    """Objects in a foreground of the same kind."""

    reach: int

    def foreground(self, block):
        return Near(self.reach)(block)

    def __call__(self, block):
        return ndimage.label(self.foreground(block))[0]


def bare(block):
    """Objects of a function that states nothing."""
    return ndimage.label(block[0] > 100)[0]


class Watched:
    """An image in memory that remembers which boxes of it were read."""

    def __init__(self, image):
        self.image = open_source(image, axes="yx")
        self.boxes = []

    def __getattr__(self, name):
        return getattr(self.image, name)

    def read(self, box):
        self.boxes.append(box)
        return self.image.read(box)


def planned(tmp_path, segmenter, steps=(), **tiles):
    image = np.random.default_rng(0).integers(0, 255, SHAPE).astype(np.uint8)
    return plan(
        pipeline.Job(
            source=Watched(image),
            tiles={"size": list(TILE), **tiles},
            steps=list(steps),
            segmenters={"it": segmenter},
            output={"path": str(tmp_path)},
        ),
        workers=1,
        memory=MEMORY,
    )


@pytest.mark.parametrize(
    ("segmenter", "steps", "asked", "expected"),
    [
        pytest.param(Near(0), (), 7, (0, 0, 1), id="connected pixels share one pixel"),
        pytest.param(Near(3), (), 7, (3, 0, 1), id="reach"),
        pytest.param(Near(3), (Median(2), Median(1)), 7, (3, 3, 1), id="steps add up"),
        pytest.param(Drawn(2), (), 7, (2, 0, 7), id="objects are compared as deep as asked for"),
        pytest.param(Drawn(2), (), 0, (2, 0, 1), id="at least one pixel is shared"),
        pytest.param(bare, (Median(2),), 7, (0, 2, 7), id="on probation"),
        pytest.param(Drawn(2), (Median(2),), "auto", (2, 2, 64), id="auto"),
    ],
)
def test_the_halo_that_is_told_is_what_tiles_read(tmp_path, segmenter, steps, asked, expected):
    """The plan tells the halo and its parts, and the first window that is read for a tile is its
    core and just that halo.
    """
    draft = planned(tmp_path, segmenter, steps, halo=asked)
    told = draft.facts()["halo"]["it"]
    assert (told["reach"], told["steps"], told["compared"]) == expected
    assert told["pixels"] == sum(expected)
    run = replace(draft.run, scratch=draft.run.scratch.begin())
    for tile in range(len(run.grid)):
        run.source.boxes.clear()
        segment(run, tile)
        at = np.array(run.grid.position(tile)) * TILE
        low = np.maximum(at - sum(expected), 0)
        high = np.minimum(at + TILE + sum(expected), SHAPE)
        assert run.source.boxes[0] == Box(tuple(low.tolist()), tuple(high.tolist()))


def test_a_doubled_window_fits_into_memory(tmp_path):
    """A window is doubled as often as its tile was widened, or as often as fits into memory."""
    run = planned(tmp_path, Drawn(2), halo=1).run
    run = replace(run, widenings=np.array([0, 1, 2, 3] + [0] * (len(run.grid) - 4), np.int8))
    assert [run.halo(tile).pixels for tile in range(4)] == [3, 6, 12, 24]
    (method,) = run.methods
    enough = sum(run.takes(method, run.grid.window(2, 12).size).values())
    tight = replace(run, memory=enough)
    assert [tight.halo(tile).pixels for tile in range(4)] == [3, 6, 12, 12]
    assert not tight.fits(method, run.grid.window(3, 24))


def test_every_tile_may_read_its_halo(tmp_path):
    """Where max_halo is less than the halo, though not than the reach, a tile reads its halo."""
    draft = planned(tmp_path, Drawn(4), halo=9, max_halo=5)
    assert (draft.run.max_halo, draft.facts()["halo"]["it"]["pixels"]) == (13, 13)


def test_less_than_the_reach_is_refused(tmp_path):
    """A tile that may not read as far as its segmenter and steps look is refused, with both."""
    with pytest.raises(JobError, match=r"segmenters\.it: .* it looks 6 pixels far, .* may read 5 "):
        planned(tmp_path, Drawn(4), (Median(2),), max_halo=5)
