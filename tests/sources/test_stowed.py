"""An image in memory that workers of their own processes segment: it is written once, and read from
there box by box.
"""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pipeline
from pipeline.errors import OutputError, SourceError
from pipeline.image.grid import Box
from pipeline.sources import open_source, spooled
from pipeline.sources.without_boxes import Incomplete
from tests.faults.staging import blobs


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_copy_is_the_image(data, tmp_path_factory):
    """Any box at any step of the copy of an array, of any axes, bands, byte order and mask, is that
    of the image; it travels as a name, and nothing is left of it.
    """
    axes = "".join(
        data.draw(st.permutations(data.draw(st.sampled_from(["yx", "cyx", "zyx", "tcyx", "czyx"]))))
    )
    length = {"t": 2, "c": 3, "z": 4, "y": 11, "x": 13}
    dtype = data.draw(st.sampled_from(["uint8", ">i2", "float32", "bool", "uint64"]))
    array = np.random.default_rng(1).integers(0, 255, [length[a] for a in axes]).astype(dtype)
    bands = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=4)) if "c" in axes else None
    source = open_source(array, axes=axes, bands=bands, time=1 if "t" in axes else None, nodata=7)
    if data.draw(st.booleans()):
        source = Incomplete(source, (Box((1,) * source.frame.ndim, (3,) * source.frame.ndim),))
    start = tuple(data.draw(st.integers(0, n - 1)) for n in source.frame.shape)
    box = Box(
        start,
        tuple(
            data.draw(st.integers(a + 1, n)) for a, n in zip(start, source.frame.shape, strict=True)
        ),
    )
    step, folder = data.draw(st.integers(1, 4)), tmp_path_factory.mktemp("run") / "image"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spooled, "AT_ONCE", data.draw(st.sampled_from([1, 300, 1 << 20])))
        patch.setattr(spooled, "LEAST", -1)
        with spooled.stowed(source, folder) as made:
            copy = pickle.loads(pickle.dumps(made))
            assert len(pickle.dumps(copy)) < 3000
            assert (copy.frame, copy.fingerprint()) == (source.frame, source.fingerprint())
            for ours, theirs in (
                (copy.read(box), source.read(box)),
                (copy.glance(box, step), source.glance(box, step)),
                *([(copy.mask(box, step), source.mask(box, step))] if source.frame.masked else []),
            ):
                np.testing.assert_array_equal(ours, theirs)
                assert ours.dtype == theirs.dtype
    assert not folder.exists()


def test_small_and_lazy_images_travel_as_they_are(tmp_path):
    """An image of less than a mebibyte, and one that lies elsewhere, is not copied."""
    import dask.array as da

    for source in (open_source(blobs(64)), open_source(da.zeros((4096, 4096), dtype=np.uint8))):
        with spooled.stowed(source, tmp_path / "image") as same:
            assert same is source
    assert list(tmp_path.iterdir()) == []


def test_a_copy_that_is_not_there(tmp_path):
    """A worker that does not reach the copy, or finds another file there, ends its tile with an
    error that says so; where no copy can be written, the run does not begin.
    """
    source = open_source(np.arange(2 << 20, dtype=np.uint8).reshape(1024, -1))
    with spooled.stowed(source, tmp_path / "image") as copy:
        [file] = (tmp_path / "image").iterdir()
        np.save(file, np.zeros((1, 8, 8)))
        with pytest.raises(
            SourceError,
            match=r"holds float64 of \(1, 8, 8\), and not the image, uint8 of \(1, 1024, 2048\)",
        ):
            copy.read(Box((0, 0), (8, 8)))
        file.write_bytes(file.read_bytes()[:-4])
        with pytest.raises(
            SourceError,
            match=r"cannot be read: .*; every worker has to reach the folder of the run",
        ):
            copy.read(Box((0, 0), (8, 8)))
        file.unlink()
        with pytest.raises(
            SourceError,
            match=r"cannot be read: .*; every worker has to reach the folder of the run",
        ):
            copy.glance(Box((0, 0), (8, 8)), 2)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(
        OutputError,
        match=r"make room for a copy of the image, 2 MiB, or choose another folder: output.scratch",
    ):
        spooled.stowed(source, tmp_path / "file" / "image").__enter__()


def test_workers_read_the_copy(tmp_path):
    """What workers segment is what this process would; the run is the same one, so that its result
    is known again; the copy is gone.
    """
    image = np.tile(blobs(256), (6, 6))
    job = {
        "source": image,
        "segmenters": {"it": pipeline.Threshold(value=100)},
        "tiles": {"size": 512},
    }
    known = pipeline.run(
        pipeline.Job(**job, output={"path": str(tmp_path / "known")}), pipeline.local()
    )
    again = pipeline.Job(**job, output={"path": str(tmp_path / "ours"), "keep_scratch": True})
    seen = []

    def watch(event):
        seen.extend(str(path) for path in (tmp_path / "ours" / ".tilewise" / "image").glob("*.npy"))

    with pipeline.cluster(1) as engine:
        ours = pipeline.run(again, engine, watch=watch)
    np.testing.assert_array_equal(ours.labels, known.labels)
    assert len(set(seen)) == 1
    assert ours.record["identity"] == known.record["identity"] | {
        "tiles": ours.record["identity"]["tiles"]
    }
    assert not (tmp_path / "ours" / ".tilewise" / "image").exists()
    assert pipeline.run(again, pipeline.local()).record == ours.record
