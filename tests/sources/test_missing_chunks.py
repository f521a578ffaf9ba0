"""Chunks of a Zarr array that were never written: not measured, unless the array or the job says
that the fill value is meant.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import pipeline
from pipeline.__main__ import app
from pipeline.errors import JobError, SourceError
from pipeline.image.grid import Box
from pipeline.segmenters.threshold import Threshold
from pipeline.sources import open_source, where_measured
from tests.faults.staging import blobs


def written(path, image, chunks, absent, **how):
    """An array without some of its chunks (or shards), and where it was written: bool."""
    array = zarr.create_array(
        path,
        shape=image.shape,
        dtype=image.dtype,
        chunks=chunks,
        fill_value=0,
        config={"write_empty_chunks": True},
        **how,
    )
    array[:] = image
    there = np.ones(image.shape, bool)
    for place in absent:
        (path / array.metadata.encode_chunk_key(place)).unlink()
        there[
            tuple(
                slice(p * size, (p + 1) * size)
                for p, size in zip(place, array.shards or array.chunks, strict=True)
            )
        ] = False
    return there


@settings(max_examples=60)
@given(data=st.data())
def test_what_was_never_written_is_not_valid(tmp_path_factory, data):
    """Any box at any step, of arrays in format 2 and 3, sharded or not, with bands chunked in any
    way: valid is what has all its files.
    """
    shape = (
        data.draw(st.integers(1, 3)),
        data.draw(st.integers(1, 30)),
        data.draw(st.integers(1, 30)),
    )
    chunks = tuple(data.draw(st.integers(1, n)) for n in shape)
    how = data.draw(
        st.sampled_from(
            [{"zarr_format": 2}, {"zarr_format": 3}, {"zarr_format": 3, "shards": True}]
        )
    )
    if "shards" in how:
        how = {"shards": tuple(c * data.draw(st.integers(1, 3)) for c in chunks)}
    file = how.get("shards", chunks)
    places = list(itertools.product(*(range(-(-n // c)) for n, c in zip(shape, file, strict=True))))
    absent = data.draw(st.sets(st.sampled_from(places), max_size=5))
    image = np.random.default_rng(0).integers(0, 250, shape).astype(np.uint8)
    path = tmp_path_factory.mktemp("array") / "image.zarr"
    there = written(path, image, chunks, absent, **how)
    bands = data.draw(st.lists(st.integers(1, shape[0]), min_size=1, max_size=3, unique=True))
    source = open_source(path, bands=bands, axes="cyx")
    assert source.frame.masked == bool(absent)
    picked = [band - 1 for band in bands]
    start = tuple(data.draw(st.integers(0, n - 1)) for n in shape[1:])
    box = Box(
        start,
        tuple(data.draw(st.integers(a + 1, n)) for a, n in zip(start, shape[1:], strict=True)),
    )
    step = data.draw(st.integers(1, 4))
    known = there[picked][(slice(None), *box.slices)]
    np.testing.assert_array_equal(where_measured(source, box, source.read(box)), known)
    np.testing.assert_array_equal(
        where_measured(source, box, source.glance(box, step), step), known[:, ::step, ::step]
    )
    filled = open_source(path, bands=bands, axes="cyx", missing_chunks="fill")
    assert not filled.frame.masked
    np.testing.assert_array_equal(
        filled.read(box), np.where(there, image, 0)[picked][(slice(None), *box.slices)]
    )
    strict = open_source(path, bands=bands, axes="cyx", missing_chunks="error")
    if there[min(picked) : max(picked) + 1][(slice(None), *box.slices)].all():
        np.testing.assert_array_equal(strict.read(box), image[picked][(slice(None), *box.slices)])
    else:
        with pytest.raises(
            SourceError,
            match=r"image.zarr: its chunk [0-9c./]+ was never written; missing_chunks: nodata or "
            r"fill accepts that",
        ):
            strict.read(box)


def test_a_run_leaves_out_what_was_never_written(tmp_path):
    """Statistics and objects are those of the image without the chunk: taken for zeros it would
    change both.
    """
    image = blobs(128)
    there = written(tmp_path / "image.zarr", image, (32, 32), [(1, 2)])
    job = {"segmenters": {"land": Threshold(method="otsu", dark=True)}, "tiles": {"size": 64}}

    def run(source, name):
        return pipeline.run(
            pipeline.Job(source=source, output={"path": str(tmp_path / name)}, **job),
            pipeline.local(),
        )

    ours, known = (
        run(str(tmp_path / "image.zarr"), "ours"),
        run(np.where(there, image.astype(float), np.nan), "known"),
    )
    np.testing.assert_array_equal(ours.labels, known.labels)
    filled = run({"path": str(tmp_path / "image.zarr"), "missing_chunks": "fill"}, "filled")
    assert filled.labels.values[32:64, 64:96].all()
    assert ours.record["fitted"] != filled.record["fitted"]


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_labels_leave_out_what_is_empty(tmp_path, version):
    """Our own labels say that what is not stored is background: a result of a few objects reads as
    it was made.
    """
    image = np.zeros((128, 128), np.uint8)
    image[5:9, 5:9] = 9
    output = {"path": str(tmp_path / "out"), "chunk": 32, "ome_zarr": version}
    job = pipeline.Job(
        source=image, segmenters={"it": Threshold(value=1)}, tiles={"size": 64}, output=output
    )
    result = pipeline.run(job, pipeline.local())
    source = open_source(tmp_path / "out/labels.zarr")
    assert (
        len(
            [
                file
                for file in (tmp_path / "out/labels.zarr/0").rglob("*")
                if file.is_file() and not file.name.startswith((".z", "z"))
            ]
        )
        == 1
    )
    assert not source.frame.masked
    np.testing.assert_array_equal(source.read(Box.whole((128, 128)))[0], result.labels)


def test_an_array_may_say_that_its_fill_value_is_meant(tmp_path):
    """The attribute missing_chunks: fill is such a statement; what a job says counts more."""
    there = written(
        tmp_path / "image.zarr",
        blobs(64),
        (32, 32),
        [(0, 1)],
        attributes={"missing_chunks": "fill"},
    )
    assert not open_source(tmp_path / "image.zarr").frame.masked
    source = open_source(tmp_path / "image.zarr", missing_chunks="nodata")
    np.testing.assert_array_equal(
        where_measured(source, Box.whole((64, 64)), source.read(Box.whole((64, 64))))[0], there
    )


def test_info_tells_of_missing_chunks(tmp_path):
    """`tilewise info` says how many chunks are missing and what else could be made of them; a
    policy that is none is refused.
    """
    written(tmp_path / "image.zarr", blobs(64), (32, 32), [(0, 1)])
    shown = CliRunner().invoke(app, ["info", str(tmp_path / "image.zarr")]).output
    assert (
        "1 of 4 were never written, and count as not measured; missing_chunks: fill reads the "
        "fill value there" in " ".join(shown.split())
    )
    with pytest.raises(JobError, match="missing_chunks: 'zero'; allowed: error, fill, nodata"):
        open_source(tmp_path / "image.zarr", missing_chunks="zero")


@pytest.mark.parametrize(
    "how",
    [{"zarr_format": 2}, {"zarr_format": 3}, {"shards": (1, 64, 64)}, {"chunks": (2, 32, 32)}],
    ids=str,
)
def test_missing_chunks_are_counted_by_band(tmp_path, how):
    """How many files of each band that is read are missing: of those that hold several bands, of
    each of these.
    """
    image = np.random.default_rng(0).integers(1, 250, (4, 64, 64)).astype(np.uint8)
    how = {"chunks": (1, 32, 32), **how}
    absent = (
        [(1, 0, 0)]
        if "shards" in how or how["chunks"][0] == 2
        else [(1, 0, 0), (1, 1, 1), (3, 0, 1)]
    )
    there = written(tmp_path / "image.zarr", image, how.pop("chunks"), absent, **how)
    source = open_source(tmp_path / "image.zarr", bands=[4, 2, 1])
    size = 4096 if "shards" in how else 1024
    known = {str(band): int((~there[band - 1]).sum()) // size for band in (4, 2, 1)}
    assert source.facts["missing_chunks_by_band"] == known
