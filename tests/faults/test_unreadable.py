"""What cannot be read of an image: the tiles are named, and where a job says so left out, and the
rest is exact.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from typer.testing import CliRunner

import pipeline
from pipeline.__main__ import app
from pipeline.errors import SegmenterError, SourceError, TilesError
from pipeline.image.grid import Box, Grid
from pipeline.segmenters.edge import Edges
from pipeline.segmenters.superpixel import Superpixels
from pipeline.segmenters.threshold import Threshold
from pipeline.segmenters.watershed import Watershed
from pipeline.sources import open_source, where_measured
from pipeline.sources.without_boxes import Incomplete
from tests.faults.staging import blobs, products

SIDE, TILE = 128, 32
BAD = (1, 2)
"""The tile, a block of the file, that is damaged."""
PLACE = rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)
METHODS = (
    Threshold(method="otsu"),
    Threshold(value=90.0, fill_holes=True, min_area=5),
    Threshold(value=120.0, weak=80.0),
    Watershed(min_distance=2),
    Watershed(sigma=1.0, min_distance=2, min_area=9),
    Superpixels(spacing=8),
    Edges(high=20.0, low=8.0),
)


def image() -> np.ndarray:
    """Blobs, as floats."""
    return blobs(SIDE).astype(np.float32)


def geotiff(path: Path, pixels: np.ndarray) -> Path:
    """A tiled GeoTIFF, a block for each tile of the grid."""
    shape = {
        "count": 1,
        "height": SIDE,
        "width": SIDE,
        "dtype": pixels.dtype,
        "compress": "deflate",
    }
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        tiled=True,
        blockxsize=TILE,
        blockysize=TILE,
        crs="EPSG:32633",
        transform=PLACE,
        **shape,
    ) as file:
        file.write(pixels, 1)
    return path


def damage(path: Path) -> None:
    """Fill the block of a GeoTIFF or the chunk of a Zarr array with noise."""
    rng, (row, column) = np.random.default_rng(0), BAD
    if path.is_dir():
        chunk = path / "c" / str(row) / str(column)
        chunk.write_bytes(rng.bytes(chunk.stat().st_size))
        return
    with rasterio.open(path) as file:
        at, size = (
            int(file.get_tag_item(f"BLOCK_{what}_{column}_{row}", "TIFF", bidx=1))
            for what in ("OFFSET", "SIZE")
        )
    with path.open("r+b") as file:
        file.seek(at)
        file.write(rng.bytes(size))


def damaged(folder: Path, kind: str, pixels: np.ndarray) -> Path:
    """An image, one block or chunk of which is noise."""
    path = folder / f"image.{kind}"
    if kind == "tif":
        geotiff(path, pixels)
    else:
        zarr.create_array(path, data=pixels, chunks=(TILE, TILE))
    damage(path)
    return path


def job(path: Path | Any, method: Any, out: Path, **more: Any) -> pipeline.Job:
    """A job in tiles of the file's blocks."""
    output = {"path": str(out), "labels": ["zarr", "cog"], "picture": True}
    return pipeline.Job(
        source=path,
        tiles={"size": TILE, "halo": 8},
        segmenters={"it": method},
        output=output,
        **more,
    )


@pytest.mark.parametrize("all_of_it", [False, True], ids=["first rows", "all"])
@pytest.mark.parametrize("workers", [0, 2], ids=["in process", "cluster"])
def test_many_tiles_at_the_start(all_of_it, workers, tmp_path):
    """However many tiles cannot be read at the start, the others are tried: exit code 1, each is
    listed, and only they are tried again.
    """
    path, out = tmp_path / "image.zarr", tmp_path / "out"
    zarr.create_array(path, data=blobs(SIDE) + 1, chunks=(TILE, TILE))
    lost = [
        file for row in range(4 if all_of_it else 2) for file in (path / "c" / str(row)).iterdir()
    ]
    kept = {file: file.read_bytes() for file in lost}
    for file in lost:
        file.write_bytes(b"damaged")
    words = [
        "segment",
        str(path),
        str(out),
        "--with",
        "threshold",
        "--option",
        "value=90",
        "--tile",
        str(TILE),
        "--json",
    ]
    words = [*words, "--halo", "1", "--workers", str(workers)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 1, done.output
    missing = json.loads((out / "run.json").read_text())["missing"]
    failed = 16 if all_of_it else 12  # of the third row the windows reach into the second
    assert [tuple(one["tile"]) for one in missing] == [(k // 4, k % 4) for k in range(failed)]
    assert f"{failed} of 16 tiles failed, so nothing is published: tile (0, 0): " in done.output
    for file, data in kept.items():
        file.write_bytes(data)
    again = CliRunner().invoke(
        app, [*words, "--fresh"]
    )  # what the image is known by was damaged too
    assert again.exit_code == 0, again.output
    np.testing.assert_array_equal(
        pipeline.Result(str(out)).labels, ndimage.label(blobs(SIDE) + 1 > 90)[0]
    )


def test_a_segmenter_at_fault_beside_tiles_that_cannot_be_read(tmp_path):
    """Where the segmenter fails on every tile that can be read, that is said, and not what could
    not be read before.
    """
    path, out = tmp_path / "image.zarr", tmp_path / "out"
    zarr.create_array(path, data=blobs(SIDE) + 1, chunks=(TILE, TILE))
    (path / "c/0/0").write_bytes(b"damaged")

    def broken(_block: np.ndarray) -> np.ndarray:
        raise ArithmeticError("at fault")

    with pytest.raises(
        SegmenterError, match=r"no tile succeeded: tile \(0, 2\): .*ArithmeticError: at fault"
    ):
        pipeline.run(
            pipeline.Job(
                source=str(path),
                tiles={"size": TILE, "halo": 1},
                segmenters={"it": broken},
                output={"path": str(out)},
            ),
            pipeline.local(),
        )


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("kind", ["tif", "zarr"])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_the_rest_is_exact(tmp_path, kind, method):
    """The result is that of the image in which what cannot be read is not valid; what lies beside
    it is disputed.
    """
    run = pipeline.run(
        job(str(damaged(tmp_path, kind, image())), method, tmp_path / "out", on_bad_tile="skip"),
        pipeline.local(),
    )
    holed = image()
    gap = tuple(slice(TILE * k, TILE * (k + 1)) for k in BAD)
    holed[gap] = np.nan
    known = pipeline.run(job(holed, method, tmp_path / "known"), pipeline.local())
    np.testing.assert_array_equal(run.labels, known.labels)
    assert not run.labels[gap].any()
    with rasterio.open(tmp_path / "out/labels.tif") as file:
        assert not file.dataset_mask()[gap].any()
        assert file.dataset_mask().sum() == 255 * (SIDE**2 - TILE**2)
    assert not run.record["complete"]
    assert [(one["tile"], one["box"]) for one in run.record["missing"]] == [
        ([*BAD], [[32, 64], [64, 96]])
    ]
    near = ndimage.binary_dilation(np.isnan(holed), np.ones((3, 3)))
    beside = set(np.unique(run.labels.values[near])) - {0}
    certificate = dict(zip(run.objects["id"], run.objects["certificate"], strict=True))
    assert beside or isinstance(method, Edges)  # which draws nothing beside what is not valid
    assert {certificate[i] for i in beside} <= {"disputed"}
    columns = ["id", "area", "anchor_row", "anchor_column"]
    columns = [name for name in columns if name in run.objects]
    assert run.objects[columns].equals(known.objects[columns])


@pytest.mark.parametrize("kind", ["tif", "zarr"])
def test_nothing_is_published_where_a_job_does_not_say_so(tmp_path, kind):
    """One damaged block ends a run with exit code 1; the file and the tiles that read it are named,
    and nothing is published.
    """
    path, out = damaged(tmp_path, kind, blobs(SIDE)), tmp_path / "out"
    done = CliRunner().invoke(
        app,
        [
            "segment",
            str(path),
            str(out),
            "--with",
            "threshold",
            "--option",
            "value=90",
            "--tile",
            str(TILE),
            "--workers",
            "0",
        ],
    )
    assert done.exit_code == 1
    assert "9 of 16 tiles failed, so nothing is published: tile (0, 1): " in done.output
    assert path.name in done.output
    assert "Traceback" not in done.output
    assert {file.name for file in out.iterdir()} == {".tilewise", "run.json"}
    record = json.loads((out / "run.json").read_text())
    assert len(record["missing"]) == 9
    assert not record["complete"]


def test_the_same_command_completes_what_was_mended(tmp_path):
    """The command says what is missing and ends with 1; when the file is mended, its result is that
    of a file never damaged.
    """
    path = damaged(tmp_path, "tif", image())
    text = (
        f"source: {path}\ntiles: {{size: {TILE}}}\nsegmenters: {{it: {{kind: "
        f"watershed}}}}\non_bad_tile: skip\noutput: {{path: %s}}\n"
    )
    (tmp_path / "job.yaml").write_text(text % (tmp_path / "out"))
    for _ in range(2):
        done = CliRunner().invoke(app, ["run", str(tmp_path / "job.yaml"), "--workers", "0"])
        assert done.exit_code == 1, done.output
        assert "NOT complete" in done.output
        assert (
            "1 tile could not be read and is not valid in the result: tile (1, 2): " in done.output
        )
    geotiff(path, image())
    assert (
        CliRunner().invoke(app, ["run", str(tmp_path / "job.yaml"), "--workers", "0"]).exit_code
        == 0
    )
    (tmp_path / "job.yaml").write_text(text % (tmp_path / "known"))
    assert (
        CliRunner().invoke(app, ["run", str(tmp_path / "job.yaml"), "--workers", "0"]).exit_code
        == 0
    )
    ours, known = products(tmp_path / "out"), products(tmp_path / "known")
    assert {name: what for name, what in ours.items() if name != "run.json"} == {
        k: what for k, what in known.items() if k != "run.json"
    }


def test_an_image_of_which_nothing_can_be_read(tmp_path):
    """Where no tile at all can be read, there is no result to be had."""
    source = Moody(blobs(64), Box((0, 0), (64, 64)))
    with pytest.raises(SourceError, match=r"no tile can be read: tile \(0, 0\): nobody knows"):
        pipeline.run(
            job(source, Threshold(value=1), tmp_path / "out", on_bad_tile="skip"), pipeline.local()
        )


def test_what_cannot_be_read_is_read_once_more(tmp_path):
    """A read that fails once is no failure; one that fails twice is."""
    out = tmp_path / "out"
    result = pipeline.run(
        job(Moody(blobs(64), Box((0, 0), (9, 9)), times=1), Threshold(value=90), out),
        pipeline.local(),
    )
    assert result.record["complete"]
    with pytest.raises(TilesError, match=r"1 of 4 tiles failed.*tile \(0, 0\): nobody knows"):
        pipeline.run(
            job(Moody(blobs(64), Box((0, 0), (9, 9)), times=2), Threshold(value=90), out),
            pipeline.local(),
            fresh=True,
        )


@dataclass(frozen=True)
class Moody:
    """An image in memory that cannot be read where a box meets another, always or so many times."""

    image: np.ndarray
    bad: Box
    times: float = float("inf")

    @cached_property
    def _source(self) -> Any:
        return open_source(self.image)

    @cached_property
    def _left(self) -> list[float]:
        return [self.times]

    @property
    def frame(self) -> Any:
        """That of the array."""
        return self._source.frame

    def read(self, box: Box) -> np.ndarray:
        """The pixels; SourceError where there are none."""
        if (box & self.bad).size and self._left[0] > 0:
            self._left[0] -= 1
            raise SourceError("nobody knows")
        return self._source.read(box)

    def glance(self, box: Box, step: int) -> np.ndarray:
        """Every ``step``-th pixel."""
        return self.read(box)[:, ::step, ::step]

    def fingerprint(self) -> dict[str, Any]:
        """That of the array."""
        return self._source.fingerprint()


@settings(max_examples=40)
@given(data=st.data(), seed=st.integers(0, 10**6), method=st.sampled_from(METHODS))
def test_any_gap_in_any_tiling(tmp_path_factory, data, seed, method):
    """Wherever pixels cannot be read and however the image is tiled: the labels are those of the
    image without the tiles that hold them.
    """
    shape = data.draw(st.tuples(st.integers(20, 60), st.integers(20, 60)))
    pixels = blobs(64, seed)[: shape[0], : shape[1]].astype(np.float32)
    first = data.draw(st.tuples(*(st.integers(0, n - 1) for n in shape)))
    bad = Box(
        first,
        tuple(min(n, a + data.draw(st.integers(1, 15))) for a, n in zip(first, shape, strict=True)),
    )
    tile = data.draw(st.integers(9, 40))
    grid, folder = (
        Grid(shape, (min(tile, shape[0]), min(tile, shape[1]))),
        tmp_path_factory.mktemp("gap"),
    )
    lost = [k for k in range(len(grid)) if (grid.core(k) & bad).size]
    if len(lost) == len(grid):
        return
    holed = pixels.copy()
    for k in lost:
        holed[grid.core(k).slices] = np.nan
    asked = {
        "tiles": {"size": tile, "halo": 4},
        "segmenters": {"it": method},
        "on_bad_tile": "skip",
    }
    ours = pipeline.run(
        pipeline.Job(source=Moody(pixels, bad), **asked, output={"path": str(folder / "ours")}),
        pipeline.local(),
    )
    known = pipeline.run(
        pipeline.Job(source=holed, **asked, output={"path": str(folder / "known")}),
        pipeline.local(),
    )
    np.testing.assert_array_equal(ours.labels, known.labels)
    assert len(ours.record["missing"]) == len(lost)


@given(data=st.data())
def test_an_incomplete_image_is_the_image_where_it_can_be_read(data):
    """Any box, at any step: the image's pixels and validity outside of gaps; nothing is asked for
    in gaps, and nothing there is valid.
    """
    shape = data.draw(st.tuples(st.integers(5, 30), st.integers(5, 30)))
    grid = Grid(shape, (7, 6))
    gaps = [
        grid.core(k)
        for k in data.draw(st.sets(st.integers(0, len(grid) - 1), min_size=1, max_size=6))
    ]
    pixels = np.random.default_rng(0).integers(1, 250, shape).astype(np.float32)
    pixels[::3, ::5] = np.nan
    inner = open_source(pixels)
    guarded = [Moody(pixels, gap) for gap in gaps]

    class Guarded(Moody):
        def read(self, box: Box) -> np.ndarray:
            """The pixels, where no gap is asked for."""
            for one in guarded:
                one.read(box)
            return inner.read(box)

    source = Incomplete(Guarded(pixels, gaps[0]), tuple(gaps))
    known = pixels.copy()
    for gap in gaps:
        known[gap.slices] = 0
    valid = np.isfinite(pixels)
    for gap in gaps:
        valid[gap.slices] = False
    start = data.draw(st.tuples(*(st.integers(0, n - 1) for n in shape)))
    box = Box(
        start, tuple(data.draw(st.integers(a + 1, n)) for a, n in zip(start, shape, strict=True))
    )
    step = data.draw(st.integers(1, 5))
    block = source.read(box)
    np.testing.assert_array_equal(block, known[box.slices][None])
    np.testing.assert_array_equal(where_measured(source, box, block)[0], valid[box.slices])
    glance = source.glance(box, step)
    np.testing.assert_array_equal(glance, known[box.slices][None, ::step, ::step])
    np.testing.assert_array_equal(
        where_measured(source, box, glance, step)[0], valid[box.slices][::step, ::step]
    )
