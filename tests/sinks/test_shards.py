"""Sharded labels, and OME-Zarr 0.4: held against numpy's slices, zarr, xarray and ome-zarr-py; and
grids that do not go together.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

import pipeline
from pipeline.errors import JobError, OutputError, ScratchError
from pipeline.execution import output_layout
from pipeline.execution.planning import plan
from pipeline.image.frame import Frame
from pipeline.image.grid import Box, Grid
from pipeline.jobs.job import Job, Output
from pipeline.sinks.chunked import Array
from pipeline.sinks.pyramid import Pyramid
from pipeline.sources import open_source
from tests.sinks.test_pyramid import FRAMES, damage, long_images, random_labels


def written(path, frame, labels, tile, **how):
    """A pyramid as a run makes it: tile by tile, then level by level."""
    made = Pyramid(str(path), frame, dtype=str(labels.dtype), tile=tile, **how)
    made.create()
    grid = Grid(frame.shape, tile)
    for core in map(grid.core, reversed(range(len(grid)))):
        made.write(core, labels[core.slices])
    for level in range(made.direct, made.levels):
        for box in reversed(made.blocks(level)):
            made.reduce(level, box)
    return made


@st.composite
def layouts(draw):
    """A long image, and a tile, a shard and a chunk that go together, or a tile or shard that holds
    the image along an axis.
    """
    shape, chunk = draw(long_images())
    shard = tuple(c * draw(st.integers(1, 3)) for c in chunk)
    tile = tuple(
        draw(st.sampled_from([s, 2 * s, max(s, n)])) for s, n in zip(shard, shape, strict=True)
    )
    return shape, chunk, shard, tile


@settings(max_examples=40)
@given(layouts(), st.sampled_from(["uint8", "uint32", "uint64"]))
def test_every_level_of_shards_takes_each_second_pixel(image, dtype):
    """In any shards, level k holds every 2^k-th row and column of the labels, in files of whole
    shards with the chunks asked for.
    """
    shape, chunk, shard, tile = image
    tile = tuple(t if t % s == 0 else n for t, s, n in zip(tile, shard, shape, strict=True))
    labels = random_labels(shape, dtype)
    with tempfile.TemporaryDirectory() as folder:
        made = written(folder, Frame(shape), labels, tile, chunk=chunk, shard=shard)
        for level in range(made.levels):
            expected = labels[..., :: 2**level, :: 2**level]
            array = zarr.open_array(f"{folder}/{level}")
            assert np.array_equal(array[:], expected)
            assert np.array_equal(made.read(Box.whole(expected.shape), level), expected)
            assert array.chunks == tuple(map(min, chunk, expected.shape))
            assert all(
                s % c == 0 and s < n + c
                for s, c, n in zip(array.shards, array.chunks, expected.shape, strict=True)
            )
            files = [path for path in Path(folder, str(level), "c").rglob("*") if path.is_file()]
            assert len(files) <= len(Grid(expected.shape, shard))


@settings(max_examples=30)
@given(long_images(), st.sampled_from(["uint8", "uint32", "uint64"]))
def test_every_level_of_0_4_takes_each_second_pixel(image, dtype):
    """OME-Zarr 0.4 holds what 0.5 holds, in Zarr's format 2."""
    shape, chunk = image
    labels = random_labels(shape, dtype)
    with tempfile.TemporaryDirectory() as folder:
        made = written(folder, Frame(shape), labels, chunk, chunk=chunk, version="0.4")
        for level in range(made.levels):
            expected = labels[..., :: 2**level, :: 2**level]
            array = zarr.open_array(f"{folder}/{level}", zarr_format=2)
            assert np.array_equal(array[:], expected)
            assert np.array_equal(made.read(Box.whole(expected.shape), level), expected)
        assert not list(Path(folder).rglob("zarr.json"))


def either(**how):
    return pytest.param(how, id="shards" if "shard" in how else "0.4")


@pytest.mark.parametrize("how", [either(shard=(24, 32)), either(version="0.4")])
def test_damaged_chunks_are_never_read_as_labels(tmp_path, how):
    """No flipped bit and no missing end of a file passes for other labels: it is an error, or the
    labels are as they were.
    """
    labels = np.zeros((12, 16), np.uint32)
    labels[2:7, 3:9], labels[8:, 10:] = 70_000, 70_001
    made = written(tmp_path / "p", Frame((12, 16)), labels, (12, 16), chunk=(12, 16), **how)
    [file] = [
        path
        for path in (tmp_path / "p" / "0").rglob("*")
        if path.is_file() and path.name[0].isdigit()
    ]
    whole, harmless = file.read_bytes(), 0
    for damaged in damage(whole):
        file.write_bytes(damaged)
        try:
            found = made.read(Box.whole((12, 16)))
        except ScratchError:
            continue
        assert np.array_equal(found, labels)
        harmless += 1
    assert harmless == 0 or how == {"version": "0.4"}  # zlib may take the same bytes from elsewhere


@pytest.mark.parametrize("how", [either(shard=(64, 32)), either(version="0.4")])
def test_damaged_files_can_be_written_again(tmp_path, how):
    """Writing replaces files without reading them, at the image's end too, so that damage is mended
    by writing again.
    """
    labels = random_labels((150, 170))
    made = written(tmp_path / "p", Frame(labels.shape), labels, (64, 64), chunk=(32, 32), **how)
    for file in (tmp_path / "p" / "0").rglob("*"):
        if file.is_file() and file.name[0].isdigit():
            file.write_bytes(b"torn")
    grid = Grid(labels.shape, (64, 64))
    for core in map(grid.core, range(len(grid))):
        made.write(core, labels[core.slices])
    assert np.array_equal(made.read(Box.whole(labels.shape)), labels)


@pytest.mark.parametrize("how", [either(shard=(32, 32)), either(version="0.4")])
def test_creating_again_keeps_what_is_written(tmp_path, how):
    """A run that begins again does not lose what is written, and another layout is refused."""
    labels = random_labels((70, 600))
    written(tmp_path / "p", Frame(labels.shape), labels, (32, 64), chunk=(16, 32), **how)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    Pyramid(str(tmp_path / "p"), Frame(labels.shape), (16, 32), "uint32", **how).create()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    other = {"shard": (64, 64)} if "shard" in how else {"fill": 1, **how}
    with pytest.raises(OutputError, match="another array"):
        Pyramid(str(tmp_path / "p"), Frame((70, 601)), (16, 32), "uint32", **other).create()
    with pytest.raises(OutputError, match="another array"):
        Array(
            str(tmp_path / "p" / "0"),
            (70, 600),
            (16, 16),
            "uint32",
            shard=how.get("shard"),
            zarr_format=2 if "version" in how else 3,
        ).create()


@pytest.mark.parametrize(
    "box", [Box((0, 0), (32, 64)), Box((0, 32), (64, 96)), Box((0, 0), (64, 100))], ids=str
)
def test_a_box_that_cuts_shards_is_refused(tmp_path, box):
    """Nothing is written where two tasks would have to share a shard, though they share
    no chunk.
    """
    made = Pyramid(str(tmp_path / "p"), Frame((128, 160)), (32, 32), "uint32", shard=(64, 64))
    made.create()
    with pytest.raises(ValueError, match="whole shards"):
        made.write(box, np.ones(box.shape, np.uint32))
    assert not made.read(Box.whole((128, 160))).any()


@pytest.mark.parametrize(
    "how",
    [{"shard": (48, 64)}, {"shard": (64, 64), "version": "0.4"}],
    ids=["no whole chunks", "0.4"],
)
def test_shards_that_cannot_be_are_refused(how):
    """Shards that are no whole chunks are refused, and shards in OME-Zarr 0.4."""
    with pytest.raises(JobError, match="shards of"):
        Pyramid("nowhere", Frame((128, 128)), (32, 32), "uint32", **how)


@settings(max_examples=200)
@given(st.data())
def test_the_plan_accepts_just_the_grids_with_one_owner_each(data):
    """Tiles, shards and chunks are accepted just where no two tiles meet one
    shard, or one chunk without shards.
    """
    extent = st.integers(1, 40)
    shape, tile, chunk, shard = ((data.draw(extent), data.draw(extent)) for _ in range(4))
    sharded = data.draw(st.booleans())
    tile = tuple(map(min, tile, shape))
    output = Output(path="x", chunk=list(chunk), shard=list(shard) if sharded else None)
    unit = shard if sharded else chunk
    owner = [{at // unit[axis]: set() for at in range(shape[axis])} for axis in (0, 1)]
    for axis in (0, 1):
        for at in range(shape[axis]):
            owner[axis][at // unit[axis]].add(at // tile[axis])
    alone = all(len(tiles) == 1 for each in owner for tiles in each.values())
    nested = not sharded or all(s % c == 0 for s, c in zip(shard, chunk, strict=True))
    if alone and nested:
        assert output_layout.layout(output, tile, shape) == (chunk, shard if sharded else None)
    else:
        with pytest.raises(JobError, match="allowed: "):
            output_layout.layout(output, tile, shape)


@settings(max_examples=60)
@given(st.data())
def test_what_is_left_to_auto_always_goes_together(data):
    """Chunks and shards that are left to themselves fit any tile, and a tile that is left to itself
    fits any chunks and shards.
    """
    ndim = data.draw(st.integers(2, 3))
    shape, tile, unit = (
        tuple(data.draw(st.integers(1, 5000)) for _ in range(ndim)) for _ in range(3)
    )
    tile = tuple(map(min, tile, shape))
    for output in (Output(path="x"), Output(path="x", shard="auto")):
        chunk, shard = output_layout.layout(output, tile, shape)
        assert all(
            size >= n or size % c == 0 for size, c, n in zip(tile, chunk, shape, strict=True)
        )
        assert shard is None or all(
            s % c == 0 and s >= size for s, c, size in zip(shard, chunk, tile, strict=True)
        )
    for output in (Output(path="x", chunk=list(unit)), Output(path="x", shard=list(unit))):
        output_layout.layout(output, output_layout.whole(output, tile, shape), shape)


def blobs():
    noise = ndimage.gaussian_filter(np.random.default_rng(3).random((300, 260)), 3)
    return (noise > noise.mean()).astype(np.uint8)


@pytest.mark.parametrize(
    ("output", "tiles"),
    [
        pytest.param({"shard": "auto"}, 128, id="a shard for each tile"),
        pytest.param({"shard": 64, "chunk": [16, 32]}, 128, id="four shards for each tile"),
        pytest.param({"shard": 100}, "auto", id="a tile of whole shards"),
        pytest.param({"ome_zarr": "0.4", "chunk": 50}, 100, id="0.4"),
        pytest.param({"ome_zarr": 0.4}, "auto", id="0.4 as YAML reads it"),
    ],
)
def test_a_run_writes_what_is_asked_for(tmp_path, output, tiles):
    """Labels and classes are the same in any version, chunks and shards, and the result reads them
    all.
    """
    image = blobs()
    job = Job(
        source=image, segmenters={"a": {"kind": "threshold", "value": 0.5}}, tiles={"size": tiles},
        output={"path": str(tmp_path / "out"), "results": ["instance", "semantic"], **output},
    )  # fmt: skip
    result = pipeline.run(job, pipeline.local())
    assert np.array_equal(result.labels.values, ndimage.label(image)[0])
    assert np.array_equal(result.classes.values, image)
    assert "img" in result._repr_html_()
    old = str(output.get("ome_zarr")) == "0.4"
    array = zarr.open_array(tmp_path / "out" / "labels.zarr" / "0", zarr_format=2 if old else 3)
    assert (array.shards is not None) == ("shard" in output)
    wanted = output.get("chunk")
    if wanted:
        assert array.chunks == tuple(wanted if isinstance(wanted, list) else (wanted,) * 2)
    assert np.array_equal(
        open_source(tmp_path / "out" / "labels.zarr").read(Box.whole(image.shape))[0],
        result.labels.values,
    )


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        pytest.param(
            {"shard": 100},
            r"output.shard: 100 x 100 with tiles of 128 x 128.*divides a tile's",
            id="a shard of two tiles",
        ),
        pytest.param(
            {"chunk": 100},
            r"output.chunk: 100 x 100 with tiles of 128 x 128.*divides a tile's",
            id="a chunk of two tiles",
        ),
        pytest.param(
            {"chunk": 48, "shard": 64},
            r"output.shard: 64 x 64 with chunks of 48 x 48.*whole chunks",
            id="a shard of cut chunks",
        ),
        pytest.param(
            {"chunk": [64, 64, 64]},
            r"output.chunk: \[64, 64, 64\]; allowed: one number, or 2",
            id="too many axes",
        ),
        pytest.param(
            {"shard": 64, "ome_zarr": "0.4"},
            "output.shard: 64 with ome_zarr: 0.4",
            id="shards in 0.4",
        ),
        pytest.param(
            {"ome_zarr": "0.6"},
            "output.ome_zarr: '0.6'; allowed: '0.5' or '0.4'",
            id="another version",
        ),
        pytest.param(
            {"shard": 0}, r"output.shard: 0; allowed: .*1 or more", id="a shard of nothing"
        ),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path, output, reason):
    """Before any work, a job is refused whose tiles, shards and chunks would make two tasks write
    one file.
    """
    parts = {
        "source": blobs(),
        "segmenters": {"a": {"kind": "threshold", "value": 0.5}},
        "tiles": {"size": 128},
    }
    with pytest.raises(JobError, match=reason):
        plan(
            Job(**parts, output={"path": str(tmp_path / "out"), **output}),
            workers=1,
            memory=1 << 40,
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", FRAMES)
def test_ome_zarr_py_reads_0_4(tmp_path, name):
    """ome-zarr-py finds a label image of version 0.4 with all levels, and ome-zarr-models finds
    nothing wrong with its metadata.
    """
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Label, Multiscales, Reader
    from ome_zarr_models.v04 import ImageLabel

    frame = FRAMES[name]
    labels = random_labels(frame.shape)
    made = written(
        tmp_path / "p",
        frame,
        labels,
        frame.shape,
        chunk=(1, 512, 512)[-frame.ndim :],
        version="0.4",
    )
    [node] = Reader(parse_url(tmp_path / "p"))()
    assert {type(spec) for spec in node.specs} == {Label, Multiscales}
    assert len(node.data) == made.levels > 1
    for level, data in enumerate(node.data):
        assert np.array_equal(np.asarray(data), labels[..., :: 2**level, :: 2**level])
    assert (
        ImageLabel.from_zarr(zarr.open_group(tmp_path / "p")).attributes.image_label.version
        == "0.4"
    )
    said = json.loads((tmp_path / "p" / ".zattrs").read_text())["multiscales"][0]
    assert said["version"] == "0.4"
    assert json.loads((tmp_path / "p" / "0" / ".zarray").read_text())["dimension_separator"] == "/"


def test_ome_zarr_py_reads_shards(tmp_path):
    """ome-zarr-py reads sharded labels as it reads others."""
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    labels = random_labels((700, 1300))
    written(
        tmp_path / "p", Frame(labels.shape), labels, (512, 512), chunk=(128, 128), shard=(256, 512)
    )
    [node] = Reader(parse_url(tmp_path / "p"))()
    assert [
        np.array_equal(np.asarray(data), labels[:: 2**k, :: 2**k])
        for k, data in enumerate(node.data)
    ] == [True] * 3


def test_xarray_reads_0_4_with_named_dimensions(tmp_path):
    """xarray finds the dimensions' names in Zarr's format 2 too."""
    import xarray

    labels = random_labels((40, 600))
    written(tmp_path / "p", Frame((40, 600)), labels, (40, 600), chunk=(40, 300), version="0.4")
    opened = xarray.open_zarr(tmp_path / "p", consolidated=False, drop_variables=["1"])["0"]
    assert opened.dims == ("y", "x")
    assert np.array_equal(opened.to_numpy(), labels)
