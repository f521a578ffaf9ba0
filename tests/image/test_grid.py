"""Boxes and grids against sets of pixels."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.image.grid import Box, Grid


@st.composite
def boxes(draw, ndim):
    start = tuple(draw(st.integers(-3, 9)) for _ in range(ndim))
    return Box(start, tuple(a + draw(st.integers(0, 6)) for a in start))


@st.composite
def grids(draw):
    ndim = draw(st.integers(2, 3))
    shape = tuple(draw(st.integers(1, 14 if ndim == 2 else 6)) for _ in range(ndim))
    return Grid(shape, tuple(draw(st.integers(1, 16)) for _ in range(ndim)))


def pixels(box):
    """The pixels of a box, as a set of tuples."""
    return set(itertools.product(*(range(a, b) for a, b in zip(box.start, box.stop, strict=True))))


@given(
    st.integers(2, 3).flatmap(lambda ndim: st.tuples(boxes(ndim), boxes(ndim))), st.integers(0, 3)
)
def test_boxes_are_sets_of_pixels(pair, by):
    """Intersection, inclusion, size and growth of boxes are those of their pixels."""
    a, b = pair
    assert pixels(a & b) == pixels(a) & pixels(b)
    assert a.size == len(pixels(a))
    if pixels(a):
        assert (a in b) == (pixels(a) <= pixels(b))
        near = {tuple(p + s for p, s in zip(pixel, step, strict=True)) for pixel in pixels(a) for step in itertools.product(range(-by, by + 1), repeat=len(a.start))}  # fmt: skip  # noqa: E501
        assert pixels(a.grow(by)) == near
    if a in b:
        assert {tuple(i + o for i, o in zip(at, b.start, strict=True)) for at in itertools.product(*(range(s.start, s.stop) for s in a.within(b)))} == pixels(a)  # fmt: skip  # noqa: E501
    else:
        with pytest.raises(ValueError, match="does not lie in"):
            a.within(b)


@given(grids(), st.integers(0, 5))
def test_cores_cover_the_image_once(grid, halo):
    """Every pixel lies in one core; a window is its core grown, and clipped to the image; numbers
    are in raster order.
    """
    cores = [grid.core(tile) for tile in range(len(grid))]
    covered = [pixel for core in cores for pixel in pixels(core)]
    assert len(covered) == len(set(covered)) == grid.whole.size
    assert [core.start for core in cores] == sorted(core.start for core in cores)
    for tile, core in enumerate(cores):
        assert grid.window(tile, halo) == core.grow(halo) & grid.whole
        assert grid.number(grid.position(tile)) == tile
    assert [tile for slab in grid.slabs() for tile in slab] == list(range(len(grid)))


@given(grids())
def test_neighbours_touch(grid):
    """Neighbours are the tiles whose cores touch in a face, an edge or a corner; each pair has one
    that comes first.
    """
    for tile in range(len(grid)):
        expected = {
            other
            for other in range(len(grid))
            if other != tile and (grid.core(tile).grow(1) & grid.core(other)).size
        }
        assert set(grid.neighbours(tile)) == expected
        assert set(grid.neighbours(tile, forward=True)) == {
            other for other in expected if other > tile
        }


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Box((0,), (1, 2)), ValueError, "one start and one stop per axis"),
        (
            lambda: Grid((4, 4), (4,)),
            ValueError,
            "at least one pixel along each of the image's axes",
        ),
        (
            lambda: Grid((4, 4), (0, 4)),
            ValueError,
            "at least one pixel along each of the image's axes",
        ),
        (
            lambda: Grid((4, 4), (2, 2)).position(4),
            IndexError,
            "there is no tile 4; they are numbered from 0 to 3",
        ),
    ],
    ids=["axes", "tile's axes", "no pixel", "no tile"],
)
def test_refusals(make, error, message):
    """What is no box, grid or tile is refused."""
    with pytest.raises(error, match=message):
        make()
