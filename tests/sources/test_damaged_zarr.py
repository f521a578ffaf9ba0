"""Damaged and lying Zarr arrays and OME-Zarr images end with an error that names them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr

from pipeline.errors import SourceError, TilewiseError
from pipeline.sources import open_source
from tests.sources.files import whole
from tests.sources.test_limits import mutations

FILES = ("zarr.json", ".zarray", ".zattrs", ".zgroup")


def array(path: Path, version: int, **options: object) -> Path:
    made = zarr.create_array(
        path, shape=(64, 64), chunks=(32, 32), dtype="uint16", zarr_format=version, **options
    )
    made[...] = np.arange(4096).reshape(64, 64) + 1
    return path


def image(path: Path, version: int) -> Path:
    """An OME-Zarr image of two levels."""
    group = zarr.open_group(path, mode="w", zarr_format=version)
    for k in range(2):
        group.create_array(str(k), shape=(64 >> k, 64 >> k), chunks=(32, 32), dtype="uint8")[
            ...
        ] = 7
    scale = [{"type": "scale", "coordinateTransformations": []}]
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
    datasets = [
        {
            "path": str(k),
            "coordinateTransformations": [{"type": "scale", "scale": [1 << k, 1 << k]}],
        }
        for k in range(2)
    ]
    multiscales = [{"version": "0.4", "axes": axes, "datasets": datasets, "metadata": scale}]
    group.attrs.update(
        {"multiscales": multiscales}
        if version == 2
        else {"ome": {"version": "0.5", "multiscales": multiscales}}
    )
    return path


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize(
    "dtype", ["complex64", "<U5", "S4", [("a", "u1"), ("b", "i2")], "M8[s]"], ids=str
)
@pytest.mark.filterwarnings("ignore:The data type:zarr.errors.UnstableSpecificationWarning")
def test_types_that_are_no_pixels(dtype, version, tmp_path):
    """Complex numbers, text, structures and times are refused."""
    zarr.create_array(tmp_path / "a.zarr", shape=(4, 4), dtype=dtype, zarr_format=version)
    with pytest.raises(SourceError, match=r"a\.zarr holds .*; allowed: integers and floats"):
        open_source(tmp_path / "a.zarr")


@pytest.mark.parametrize("version", [2, 3])
def test_lying_chunks(version, tmp_path):
    """Chunks of nothing, and chunks larger than a task may hold, are refused before one is read."""
    path = array(tmp_path / "a.zarr", version)
    metadata = path / ("zarr.json" if version == 3 else ".zarray")
    text = metadata.read_text()
    metadata.write_text(text.replace("32", "0"))
    with pytest.raises(SourceError, match=r"a\.zarr"):
        open_source(path)
    metadata.write_text(text.replace("64", str(1 << 31)).replace("32", str(1 << 31)))
    with pytest.raises(
        SourceError,
        match=r"in chunks of 2147483648 x 2147483648, .* GiB each; allowed: up to 1 GiB",
    ):
        open_source(path)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("kind", ["metadata", "chunk"])
@pytest.mark.parametrize("make", [array, image])
@pytest.mark.filterwarnings("ignore::UserWarning")  # of zarr, about metadata that it does not know
def test_mutated_files(make, kind, version, tmp_path):
    """A damaged file gives pixels or an error that names the array; nothing else is raised."""
    path, messages = make(tmp_path / "a.zarr", version), []
    files = sorted(
        file
        for file in path.rglob("*")
        if file.is_file() and (file.name in FILES) == (kind == "metadata")
    )
    for file in files[:2]:
        data = file.read_bytes()
        for changed in mutations(data, 60):
            file.write_bytes(changed)
            try:
                whole(open_source(path))
            except TilewiseError as error:
                messages.append(str(error))
        file.write_bytes(data)
    assert len(messages) > 10
    known = ("a.zarr", "axes: ", "level: ", "name the axes")
    assert [message for message in messages if not any(word in message for word in known)] == []


def test_nonsense_multiscales(tmp_path):
    """OME metadata of the wrong types are an error that names the image."""
    path = image(tmp_path / "a.zarr", 3)
    for nonsense in (
        [{}],
        [7],
        {"a": 1},
        [{"datasets": [{}], "axes": []}],
        [{"datasets": [{"path": "0"}], "axes": 5}],
    ):
        text = json.loads((path / "zarr.json").read_text())
        text["attributes"]["ome"]["multiscales"] = nonsense
        (path / "zarr.json").write_text(json.dumps(text))
        with pytest.raises(TilewiseError, match=r"a\.zarr|axes: "):
            whole(open_source(path))


_READ = """
import sys
from pipeline.errors import SourceError
from pipeline.sources import open_source
from pipeline.image.grid import Box
try:
    open_source(sys.argv[1]).read(Box((0, 0), (1024, 1024)))
except SourceError as error:
    print(error)
"""


@pytest.mark.parametrize("version", [2, 3])
def test_reads_end_before_the_error(version, tmp_path):
    """Where one of many chunks is damaged, those that were asked for with it have been read when
    the error comes: a process that ends with it says nothing of tasks that were destroyed.
    """
    data = np.random.default_rng(0).integers(0, 60000, (1024, 1024)).astype(np.uint16)
    made = zarr.create_array(tmp_path / "a.zarr", data=data, chunks=(64, 64), zarr_format=version)
    (tmp_path / "a.zarr" / made.metadata.encode_chunk_key((0, 1))).write_bytes(b"garbage" * 100)
    done = subprocess.run(
        [sys.executable, "-c", _READ, str(tmp_path / "a.zarr")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "its chunk " in done.stdout
    assert done.stderr == ""
