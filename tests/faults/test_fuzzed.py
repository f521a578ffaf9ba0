"""Whole commands on damaged files: each ends well or with one clear message, in bounded memory, and
publishes nothing half done.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numcodecs
import numpy as np
import pytest
import rasterio
import tifffile
import zarr
from rasterio.shutil import copy
from typer.testing import CliRunner
from zarr.codecs import Crc32cCodec, GzipCodec, ZstdCodec

from pipeline.errors import SourceError
from pipeline.image.grid import Box
from pipeline.sources import open_source
from tests.faults.staging import blobs

KINDS = ("geotiff", "cog", "svs", "zarr 2", "zarr 2 blosc", "zarr 3", "zarr 3 shards", "ome-zarr")
PLACE = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)}
PATIENCE = 30
"""Seconds that one command may take."""
MEMORY = 3 << 30
"""Bytes of address space that all commands of a kind may take; libraries that are only mapped count
too.
"""


def made(folder: Path, kind: str) -> Path:
    """A sound image of a kind."""
    image = blobs(64)
    if kind in ("geotiff", "cog"):
        how = {
            "count": 1,
            "height": 64,
            "width": 64,
            "dtype": "uint8",
            "compress": "deflate",
            **PLACE,
        }
        tiles = {"tiled": True, "blockxsize": 16, "blockysize": 16}
        with rasterio.open(
            folder / "plain.tif", "w", driver="GTiff", **how, **(tiles if kind == "geotiff" else {})
        ) as file:
            file.write(image, 1)
        copy(
            folder / "plain.tif",
            folder / "a.tif",
            driver="COG" if kind == "cog" else "GTiff",
            copy_src_overviews=False,
        )
        return folder / "a.tif"
    if kind == "svs":
        slide = np.repeat(image[..., None], 3, axis=-1)
        with tifffile.TiffWriter(folder / "a.svs") as file:
            for step in (1, 2):
                file.write(
                    slide[::step, ::step],
                    tile=(32, 32),
                    photometric="rgb",
                    compression="jpeg",
                    description="Aperio Image Library |MPP = 0.5",
                    metadata=None,
                )
        return folder / "a.svs"
    how: dict[str, object] = {
        "chunks": (32, 32),
        "zarr_format": 2 if kind.startswith("zarr 2") else 3,
    }
    if kind == "zarr 2 blosc":
        how["compressors"] = numcodecs.Blosc()
    if kind == "zarr 3 shards":
        how |= {"chunks": (16, 16), "shards": (32, 32)}
    if kind != "ome-zarr":
        zarr.create_array(folder / "a.zarr", data=image, **how)
        return folder / "a.zarr"
    group = zarr.create_group(folder / "a.zarr")
    group.create_array("0", data=image, chunks=(32, 32))
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
    level = {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [0.5, 0.5]}]}
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": [level]}]}
    return folder / "a.zarr"


def changed(data: bytes, draw: np.random.Generator) -> bytes:
    """The bytes cut short, with bits flipped, bytes replaced, parts doubled or moved, or a number
    in their text made another.
    """
    found, at = bytearray(data), int(draw.integers(0, max(1, len(data))))
    length = int(draw.integers(1, 64))
    way = draw.integers(0, 6)
    if way == 0:
        return bytes(found[:at])
    if way == 1:
        for place in draw.integers(0, len(found), int(draw.choice([1, 3, 20]))):
            found[place] ^= 1 << int(draw.integers(0, 8))
    elif way == 2:
        found[at : at + length] = draw.bytes(len(found[at : at + length]))
    elif way == 3:
        found[at:at] = found[at : at + length]
    elif way == 4:
        found[at : at + length] = found[:length]
    else:
        head = int(draw.integers(0, min(400, len(found))))
        digits = [k for k in range(head, len(found)) if chr(found[k]).isdigit()][:1]
        for place in digits:
            found[place : place + 1] = str(draw.choice([0, 7, 2**31, 10**12])).encode()
    return bytes(found)


def commands(folder: Path, kind: str, number: int, seed: int) -> list[dict[str, object]]:
    """Damage an image so many times, and look at it and segment it; what was told and published
    each time.
    """
    from pipeline.__main__ import app

    path, draw, found = made(folder, kind), np.random.default_rng(seed), []
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    kept = {file: file.read_bytes() for file in files}
    for _ in range(number):
        file, out = files[int(draw.integers(0, len(files)))], folder / "out"
        file.write_bytes(changed(kept[file], draw))
        for words in (
            ["info", str(path)],
            [
                "segment",
                str(path),
                str(out),
                "--with",
                "threshold",
                "--tile",
                "32",
                "--workers",
                "0",
            ],
        ):
            began = time.monotonic()
            done = CliRunner().invoke(app, words)
            seconds = time.monotonic() - began
            record = out / "run.json"
            complete = record.exists() and json.loads(record.read_text())["complete"]
            there = (
                sorted(each.name for each in out.iterdir() if not each.name.startswith("."))
                if out.exists()
                else []
            )
            raised = (
                None
                if done.exception is None or isinstance(done.exception, SystemExit)
                else repr(done.exception)
            )
            found.append(
                {
                    "words": words[0],
                    "exit": done.exit_code,
                    "told": done.output,
                    "raised": raised,
                    "complete": complete,
                    "there": there,
                }
                | {"seconds": seconds}
            )
        file.write_bytes(kept[file])
        shutil.rmtree(out, ignore_errors=True)
    return found


def check(tmp_path: Path, kind: str, number: int, seed: int) -> None:
    """Run the commands in a process of its own under a limit of memory, and look at what became of
    each.
    """
    script = (
        "import json, resource, sys\nfrom pathlib import Path\nfrom tests.faults.test_fuzzed "
        "import MEMORY, commands\n"
        "resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))\n"
        "print(json.dumps(commands(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), "
        "int(sys.argv[4]))))"
    )
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        script,
        str(tmp_path),
        kind,
        str(number),
        str(seed),
    ]
    done = subprocess.run(
        command,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=30 + 3 * number,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) == 2 * number
    for one in found:
        assert one["raised"] is None, one
        assert one["exit"] in (0, 1, 2), one
        assert "Traceback" not in one["told"], one
        assert one["seconds"] < PATIENCE, one
        if one["exit"]:
            assert any(
                name in one["told"]
                for name in (
                    "a.tif",
                    "a.svs",
                    "a.zarr",
                    "axes: ",
                    "level: ",
                    "kind: ",
                    "tiles.size: ",
                )
            ), one
        if one["words"] == "segment" and one["exit"]:
            assert not one["complete"], one
            assert set(one["there"]) <= {"run.json"}, one
    assert any(one["exit"] for one in found)
    assert any(not one["exit"] for one in found)


@pytest.mark.parametrize("kind", KINDS)
def test_commands_on_damaged_files(tmp_path, kind):
    """A damaged file gives a result, or an error that names it: no traceback, no more memory than
    allowed, nothing half published.
    """
    check(tmp_path, kind, 64, 1)


@pytest.mark.heavy
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [2, 3])
def test_commands_on_many_damaged_files(tmp_path, kind, seed):
    """Likewise for some 2,400 damaged files."""
    check(tmp_path, kind, 150, seed)


@pytest.mark.parametrize(
    ("version", "compressors"),
    [
        (3, Crc32cCodec()),
        (3, [ZstdCodec(), Crc32cCodec()]),
        (3, ZstdCodec(checksum=True)),
        (3, GzipCodec()),
        (2, numcodecs.BZ2()),
    ],
    ids=str,
)
def test_what_is_summed_is_never_read_wrong(tmp_path, version, compressors):
    """A damaged chunk that carries a checksum is an error, or what it was."""
    image, draw, wrong = blobs(64), np.random.default_rng(4), 0
    array = zarr.create_array(
        tmp_path / "a.zarr",
        data=image,
        chunks=(32, 32),
        zarr_format=version,
        compressors=compressors,
    )
    file = tmp_path / "a.zarr" / array.metadata.encode_chunk_key((1, 1))
    sound = file.read_bytes()
    for _ in range(300):
        file.write_bytes(changed(sound, draw))
        try:
            np.testing.assert_array_equal(
                open_source(tmp_path / "a.zarr").read(Box.whole(image.shape))[0], image
            )
        except SourceError:
            wrong += 1
    assert wrong > 200


def test_the_limit_of_memory_is_one():
    """A process under the limit that these tests set does not get more."""
    script = (
        f"import resource\nresource.setrlimit(resource.RLIMIT_AS, ({MEMORY}, "
        f"{MEMORY}))\nbytearray({MEMORY})"
    )
    assert (
        b"MemoryError"
        in subprocess.run(
            [sys.executable, "-c", script], stderr=subprocess.PIPE, check=False
        ).stderr
    )
