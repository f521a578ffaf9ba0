"""Records: what was saved is loaded, and what was altered is noticed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.errors import ScratchError
from pipeline.storage.records import Scratch, differences

SHAPES = hnp.array_shapes(min_dims=1, max_dims=3, min_side=0)
ARRAYS = st.sampled_from(["u1", "i4", "i8", "f8", "?"]).flatmap(
    lambda dtype: hnp.arrays(dtype, SHAPES)
)
FACTS = st.dictionaries(st.text(), st.integers() | st.text() | st.booleans())


@settings(max_examples=100, deadline=None)
@given(arrays=st.dictionaries(st.text("abc ", min_size=1), ARRAYS, max_size=4), facts=FACTS)
def test_records_come_back(arrays, facts, tmp_path_factory):
    """Facts and arrays of any type and shape are loaded as they were saved, some or all; saved
    again, they are the same bytes.
    """
    store = Scratch(str(tmp_path_factory.mktemp("scratch")))
    big, path, saved = (
        {"big": np.arange(5000).reshape(50, 100)},
        Path(store.root, "a", "b.rec"),
        set(),
    )
    for _ in range(2):
        store.save("a/b", facts, arrays | big)
        told, found = store.load("a/b", whole=True)
        assert told == facts
        for name, array in (arrays | big).items():
            np.testing.assert_array_equal(found[name], array)
            assert found[name].dtype == array.dtype
        saved.add(path.read_bytes())
    assert len(saved) == 1
    assert list(store.load("a/b", "big")[1]) == ["big"]
    assert [path.name for path in path.parent.iterdir()] == ["b.rec"]


def test_every_flipped_bit_is_noticed(tmp_path):
    """A record with any byte changed, or cut short anywhere, is not sound, and loading all of it is
    an error.
    """
    store = Scratch(str(tmp_path))
    store.save("a", {"n": 3}, {"x": np.arange(40), "y": np.zeros((3, 2), bool)})
    path = tmp_path / "a.rec"
    data = path.read_bytes()
    for at in range(len(data)):
        for altered in (data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :], data[:at]):
            path.write_bytes(altered)
            assert not store.sound("a")
            with pytest.raises(ScratchError, match=r"a\.rec is damaged"):
                store.load("a", whole=True)
    path.write_bytes(data)
    assert store.sound("a")
    assert not store.damaged("a", "absent")


def test_absent_records(tmp_path):
    """What was never saved, or was forgotten, is absent, which is an error to load."""
    store = Scratch(str(tmp_path))
    store.save("a/1", {})
    store.save("a/2", {})
    store.save("b", {})
    store.forget("a", "b", "c")
    assert not any(map(store.has, ("a/1", "a/2", "b")))
    with pytest.raises(ScratchError, match=r"b\.rec is missing"):
        store.load("b")


def test_differences():
    """What is not the same in two mappings is told by dotted keys, with both values."""
    before = {"a": {"b": 1, "c": {"d": [1, 2]}}, "e": "same", "gone": None}
    now = {"a": {"b": 2, "c": {"d": [1, 3]}}, "e": "same", "new": "x" * 100}
    assert differences(before, now) == [
        "a.b: 1 before, 2 now",
        "a.c.d: [1, 2] before, [1, 3] now",
        f'new: null before, "{"x" * 56}… now',
    ]
