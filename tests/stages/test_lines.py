"""Lines along curves: tiled against untiled, and against the graph of pixels as networkx takes it
apart.
"""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import networkx as nx
import numpy as np
import pyogrio
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage import data as pictures

import pipeline
from pipeline.errors import JobError
from pipeline.image.frame import Frame
from pipeline.image.grid import Grid
from pipeline.imageops.curves import Chains, concatenate, join, trace
from pipeline.segmenters.edge import Edges
from pipeline.sinks import vector
from tests.faults.staging import write
from tests.test_exactness import tilings, whole_image

CASES = settings(max_examples=80, deadline=None)
FIGURES = {
    "a loop over a corner": [
        "........",
        "...##...",
        "..#..#..",
        "..#..#..",
        "...##...",
        "........",
    ],
    "a cross": ["...#....", "...#....", "########", "...#....", "...#...."],
    "along and across a seam": ["####....", "....####", "#..#....", ".##....#", "......#."],
    "a loop on a stalk": ["..##....", ".#..#...", "..##....", "..#.....", "..#....."],
    "single pixels": ["#.#.#", ".....", "#.#.#"],
    "a block": ["####", "####", "####"],
    "from tile to diagonal tile": ["#....", ".#...", "..#..", "...#.", "....#"],
}


def curves(rows):
    return np.array([[mark == "#" for mark in row] for row in rows])


def joined_pairs(labels):
    """The definition, pair by pair: which pixels are joined."""
    found = set()
    rows, columns = labels.shape
    for r, c in np.argwhere(labels):
        for dr, dc in ((0, 1), (1, -1), (1, 0), (1, 1)):
            if not (
                r + dr < rows and 0 <= c + dc < columns and labels[r, c] == labels[r + dr, c + dc]
            ):
                continue
            if dr and dc and labels[r, c] in (labels[r + dr, c], labels[r, c + dc]):
                continue
            found.add(((int(r), int(c)), (int(r + dr), int(c + dc))))
    return found


def plain_chains(labels):
    """The chains of an image, as sets of joined pairs: what is left of networkx's graph when its
    ends and junctions are taken apart.
    """
    graph = nx.Graph(sorted(joined_pairs(labels)))
    apart = nx.Graph()
    for a, b in graph.edges:  # an end or junction is another node for each of its pairs
        apart.add_edge(
            *((v, other if graph.degree[v] != 2 else None) for v, other in ((a, b), (b, a))),
            pair=tuple(sorted((a, b))),
        )
    return {
        frozenset(apart.edges[pair]["pair"] for pair in apart.subgraph(part).edges)
        for part in nx.connected_components(apart)
    }


def pixels_of(line):
    """Every pixel that a line runs through, and that it turns only where it must: no two stretches
    have one direction.
    """
    corners = np.floor(shapely.get_coordinates(line))[:, ::-1].astype(int)
    found, before = [tuple(corners[0].tolist())], None
    for a, b in itertools.pairwise(corners):
        far = int(np.abs(b - a).max())
        step = (b - a) // far
        assert (np.abs(b - a)[b != a] == far).all()
        assert before is None or (step != before).any()
        found += [tuple((a + k * step).tolist()) for k in range(1, far + 1)]
        before = step
    return found


def check_lines(path, labels):
    """The lines of a file are the chains of the image, each from its first pixel, in order, with
    its object and its length.
    """
    _, _, shapes, (ids, lengths, *_) = pyogrio.raw.read(path)
    walks = [pixels_of(line) for line in shapely.from_wkb(shapes)]
    pairs = [[tuple(sorted(pair)) for pair in itertools.pairwise(walk)] for walk in walks]
    assert {frozenset(each) for each in pairs} == plain_chains(labels)
    assert sorted(itertools.chain(*pairs)) == sorted(joined_pairs(labels))
    np.testing.assert_allclose(lengths, shapely.length(shapely.from_wkb(shapes)))
    assert [walk[:2] for walk in walks] == sorted(walk[:2] for walk in walks)
    for walk, label in zip(walks, ids, strict=True):
        assert {int(labels[pixel]) for pixel in walk} == {label}
        around = walk[:-1] if walk[0] == walk[-1] else walk
        degree = [
            sum(pixel in pair for pair in joined_pairs(labels)) for pixel in (walk[0], walk[-1])
        ]
        assert walk[0] == (min(around) if degree[0] == 2 else min(walk[0], walk[-1]))
        assert walk[1] <= (walk[-2] if walk[0] == walk[-1] else walk[1])


class Curves:
    """Pixels above 0 are curves."""

    identity, connectivity, lines = "connected", 8, True

    def __call__(self, block):
        return (block[0] > 0).astype(np.int32)


def drawn(image, folder, tile, method=None):
    return pipeline.segment(
        image, method or Curves(), folder, tile=list(tile), engine=pipeline.local()
    )


@CASES
@given(st.data())
def test_parts_are_traced_as_the_whole(data):
    """The chains of tiles, those that cross them joined, are those of the whole image traced at
    once, whatever the tiles.
    """
    shape = data.draw(st.tuples(st.integers(1, 20), st.integers(1, 20)))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    labels = (rng.random(shape) < data.draw(st.sampled_from([0.2, 0.4, 0.6, 0.9]))) * rng.integers(
        1, data.draw(st.integers(2, 3)), shape
    )
    tile, order = data.draw(tilings(shape))
    grid, padded = Grid(shape, tile), np.pad(labels, 1)
    parts = []
    for k in order:
        core = grid.core(k)
        around = tuple(slice(a, b + 2) for a, b in zip(core.start, core.stop, strict=True))
        parts.append(trace(padded[around], core.start, shape[1]))
    every = concatenate(parts)
    found = [
        tuple(each.pixels)
        for each in (every.take(np.array([k])) for k in np.flatnonzero(~every.open))
    ]
    found += [tuple(pixels) for pixels, _ in join(every.take(np.flatnonzero(every.open)))]
    whole = trace(padded, (0, 0), shape[1])
    assert not whole.open.any()
    assert sorted(found) == sorted(
        tuple(whole.pixels[a:b]) for a, b in itertools.pairwise(whole.start)
    )


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_any_tiling_gives_the_same_file(data):
    """From file to file: the same bytes for any tiles, and the chains are those that networkx
    finds.
    """
    shape = data.draw(st.tuples(st.integers(1, 16), st.integers(1, 16)))
    image = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1))).random(shape) < data.draw(
        st.sampled_from([0.25, 0.45, 0.7])
    )
    tile, _ = data.draw(tilings(shape))
    with tempfile.TemporaryDirectory() as folder:
        results = [
            drawn(image.astype(np.uint8), Path(folder, str(k)), size)
            for k, size in enumerate((shape, tile, (3, 3)))
        ]
        files = [Path(result.path, "lines.gpkg") for result in results]
        assert len({file.read_bytes() for file in files}) == 1
        check_lines(files[0], results[0].labels.values)


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("tile", [(1, 1), (2, 3), (3, 4), (9, 9)], ids=str)
def test_figures(tmp_path, name, tile):
    """Loops, junctions, lines along and across seams and through corners; a single pixel has no
    line.
    """
    image = curves(FIGURES[name])
    result = drawn(image.astype(np.uint8), tmp_path / "out", tile)
    check_lines(tmp_path / "out" / "lines.gpkg", result.labels.values)
    number = pyogrio.read_info(tmp_path / "out" / "lines.gpkg")["features"]
    expected = {
        "a loop over a corner": 1,
        "a cross": 4,
        "from tile to diagonal tile": 1,
        "a loop on a stalk": 2,
        "single pixels": 0,
    }
    assert number == expected.get(name, number)
    assert "lines.gpkg" in result.files


@pytest.mark.parametrize("method", ["canny", "sobel"])
def test_real_edges(tmp_path, method):
    """The edges of a picture in its CRS: the same bytes in other tiles; each in its object, its
    length in pixels and in metres.
    """
    image = write(tmp_path / "coins.tif", pictures.coins())
    edges = Edges(sigma=2.0, method=method, form="lines", min_area=10)
    results = [
        drawn(str(image), tmp_path / str(tile[0]), tile, edges) for tile in ((80, 60), (400, 400))
    ]
    paths = [Path(result.path, "lines.gpkg") for result in results]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    meta, _, shapes, columns = pyogrio.raw.read(paths[0])
    lines = shapely.from_wkb(shapes)
    assert meta["crs"] == "EPSG:32633"
    ids, pixels, length = columns
    np.testing.assert_allclose(length, shapely.length(lines))
    np.testing.assert_allclose(pixels * 10, length)
    labels = results[0].labels
    x, y = shapely.get_coordinates(lines).T
    at = labels.values[((5e6 - y) // 10).astype(int), ((x - 5e5) // 10).astype(int)]
    np.testing.assert_array_equal(at, np.repeat(ids, shapely.get_num_coordinates(lines)))
    assert set(ids) == set(results[0].objects["id"])
    thin = labels.values > 0
    blocks = thin[1:, 1:] & thin[:-1, 1:] & thin[1:, :-1] & thin[:-1, :-1]
    assert blocks.sum() <= 0.002 * thin.sum()


def test_thinning_keeps_curves_and_their_strength():
    """Thinned, every curve is still there in one piece: those that hysteresis keeps, and no others;
    most of it a pixel wide.
    """
    for seed in range(30):
        rng = np.random.default_rng(seed)
        image = ndimage.gaussian_filter(rng.random((60, 60)), 1.5)[None] * 1000
        options = {
            "sigma": 0.6,
            "method": ("canny", "sobel")[seed % 2],
            "high": 60.0,
            "low": 40.0,
            "gaps": seed % 3 // 2,
        }
        everywhere = np.ones((60, 60), bool)
        wide, thin = Edges(**options)(image), Edges(**options, form="lines")
        found = thin.classify(image, everywhere)
        kept = whole_image(found.kinds.astype(int), 8, seeds=found.seeds)
        assert not (kept > 0)[wide == 0].any()
        pairs = np.unique(np.stack([wide[kept > 0], kept[kept > 0]], axis=1), axis=0)
        assert len(pairs) == kept.max() == wide.max() > 0


def test_batches_change_nothing(tmp_path, monkeypatch):
    """Lines come in parts of any size and are written in batches: the rows are the same."""
    frame = Frame((40, 40), pixel_size=(0.5, 0.25), unit="micrometer")
    rng = np.random.default_rng(5)
    whole = trace(np.pad((rng.random((40, 40)) < 0.4).astype(int), 1), (0, 0), 40)

    def part(a, b):
        some: Chains = whole.take(np.arange(a, b))
        return vector.Lines(some.pixels, some.start, some.label)

    many = len(whole)
    vector.write_lines(str(tmp_path / "one.gpkg"), frame, [part(0, many)])
    monkeypatch.setattr(vector, "BATCH", 17)
    assert (
        vector.write_lines(
            str(tmp_path / "many.gpkg"),
            frame,
            [part(0, 5), part(5, 5), part(5, 60), part(60, many)],
        )
        == many
    )
    one, other = (pyogrio.raw.read(tmp_path / f"{name}.gpkg") for name in ("one", "many"))
    assert (one[2] == other[2]).all()
    for mine, theirs in zip(one[3], other[3], strict=True):
        np.testing.assert_array_equal(mine, theirs)
    lines = shapely.transform(shapely.from_wkb(one[2]), lambda xy: xy * (0.25, 0.5))
    np.testing.assert_allclose(one[3][2], shapely.length(lines))
    assert {path.name for path in tmp_path.iterdir()} == {"one.gpkg", "many.gpkg"}


def test_routes(tmp_path):
    """Lines end where tiles begin that go to a segmenter of something else."""
    image = np.zeros((12, 24), np.uint8)
    image[5] = 9
    image[:, 12:] += 100
    job = pipeline.Job(
        source=image,
        tiles={"size": 12},
        segmenters={"lines": Curves(), "bright": {"kind": "threshold", "value": 105}},
        route=[{"use": "bright", "when": {"mean": {"min": 50}}}, {"use": "lines"}],
        output={"path": str(tmp_path / "out")},
    )
    pipeline.run(job, pipeline.local())
    lines = shapely.from_wkb(pyogrio.raw.read(tmp_path / "out" / "lines.gpkg")[2])
    assert [line.wkt for line in lines] == ["LINESTRING (0.5 5.5, 11.5 5.5)"]


def test_an_interrupted_run_ends_with_the_same_lines(tmp_path, monkeypatch):
    """Killed while lines are written, the same command gives the same bytes."""
    image = pictures.coins()
    method = Edges(sigma=2.0, form="lines")
    expected = drawn(image, tmp_path / "whole", (128, 128), method)
    with monkeypatch.context() as patch:
        patch.setattr(
            "pipeline.sinks.vector._append",
            lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt),
        )
        with pytest.raises(KeyboardInterrupt):
            drawn(image, tmp_path / "cut", (128, 128), method)
    assert not (tmp_path / "cut" / "lines.gpkg").exists()
    found = drawn(image, tmp_path / "cut", (128, 128), method)
    assert (
        Path(found.path, "lines.gpkg").read_bytes()
        == Path(expected.path, "lines.gpkg").read_bytes()
    )
    assert {path.name for path in Path(found.path).iterdir()} == {
        "labels.zarr",
        "objects.parquet",
        "lines.gpkg",
        "run.json",
    }


def test_refusals(tmp_path):
    """Lines are of objects, and of images of two dimensions."""
    for source, output in (
        (np.zeros((9, 9)), {"results": ["semantic"]}),
        ({"path": np.zeros((3, 9, 9)), "axes": "zyx", "planes": "all"}, {}),
    ):
        job = pipeline.Job(
            source=source, segmenters={"curves": Curves()}, output={"path": str(tmp_path), **output}
        )
        with pytest.raises(
            JobError, match=r"segmenters\.curves: .*(lines without objects|connectivity 8)"
        ):
            pipeline.run(job, pipeline.local())
