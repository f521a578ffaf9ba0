"""Run-length masks of COCO, against encoders written from the format's definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.annotations.rle import runs
from pipeline.image.grid import Box


def counted(mask):
    """Run lengths down the columns, pixel by pixel; the first is of zeros."""
    counts, value, number = [], False, 0
    for pixel in mask.T.ravel().tolist():
        if pixel != value:
            counts.append(number)
            value, number = pixel, 0
        number += 1
    return [*counts, number]


def packed(counts):
    """As COCO's API packs counts: differences from the fourth on, digits of five bits from ``"0"``,
    two's complement.
    """
    text = ""
    for k, count in enumerate(counts):
        value = count - counts[k - 2] if k > 2 else count
        while True:
            low, value = value & 31, value >> 5
            done = value == (-1 if low & 16 else 0)
            text += chr(48 + (low | (0 if done else 32)))
            if done:
                break
    return text


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_masks_are_read_box_by_box(data):
    """Both ways of writing a mask give its pixels in any box, runs that go on in the next column
    too.
    """
    shape = data.draw(st.tuples(st.integers(1, 70), st.integers(1, 12)))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    coarse = rng.random((shape[0] // 9 + 1, shape[1])) < data.draw(
        st.sampled_from([0, 0.3, 0.8, 1])
    )
    mask = coarse.repeat(9, axis=0)[: shape[0]] ^ (
        rng.random(shape) < data.draw(st.sampled_from([0, 0.1, 0.5]))
    )
    start = tuple(data.draw(st.integers(0, n)) for n in shape)
    box = Box(start, tuple(data.draw(st.integers(a, n)) for a, n in zip(start, shape, strict=True)))
    counts = counted(mask)
    for written in (counts, packed(counts)):
        np.testing.assert_array_equal(runs(written, shape).within(box), mask[box.slices])


def test_a_gigantic_mask_is_never_unpacked():
    """A mask of a terapixel takes what its runs take."""
    side = 1_000_000
    mask = runs(packed([5 * side + 7, 3, side - 3, 4, (side - 5) * side - 11 - side]), (side, side))
    assert len(mask.column) == 2
    assert mask.within(Box((5, 4), (13, 8))).sum() == 7


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([3, 4], "add up to 7 pixels; allowed: none below 0, and in all 2 x 3"),
        ([-1, 7], "add up to 6 pixels; allowed: none below 0"),
        (
            [1.5, 4.5],
            r"the runs of a mask are \[1.5, 4.5\]; allowed: a list of whole numbers, or a string",
        ),
        ({"a": 1}, "allowed: a list of whole numbers, or a string"),
        ("5~", "are no packed lengths at '~'"),
        ("o" * 20, "are no packed lengths"),
        ("5o", "end within a number"),
        ("5", "add up to 5 pixels"),
    ],
    ids=str,
)
def test_refusals(counts, message):
    """Lengths that do not add up to the image, or are none, are refused."""
    with pytest.raises(ValueError, match=message):
        runs(counts, (2, 3))
