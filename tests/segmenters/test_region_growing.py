"""Region growing and quasi-flat zones against other libraries, and tiled against untiled."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
import zarr
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from skimage.segmentation import flood

import pipeline
from pipeline.errors import JobError, SegmenterError
from pipeline.imageops.components import pieces
from pipeline.segmenters import fitted_to
from pipeline.segmenters.region_growing import QuasiFlat, RegionGrowing
from tests.test_exactness import CASES, images, tilings
from tests.tiling import in_raster_order, tiled


@CASES
@given(st.data())
def test_one_seed_is_a_flood(data):
    """From one seed, tiled, grows what scikit-image's flood finds in the whole image."""
    image = data.draw(images())
    seed = tuple(data.draw(st.integers(0, n - 1)) for n in image.shape)
    tile, order = data.draw(tilings(image.shape))
    corners = data.draw(st.booleans())
    method = RegionGrowing(
        seeds=(seed,),
        tolerance=data.draw(st.integers(0, 120)),
        connectivity=(8, 26)[image.ndim - 2] if corners else None,
    )
    expected = flood(
        image.astype(float),
        seed,
        tolerance=method.tolerance,
        connectivity=image.ndim if corners else 1,
    )
    method = fitted_to(method, image[None], np.ones(image.shape, bool))
    with tempfile.TemporaryDirectory() as folder:
        found = tiled(image[None], method, tile, Path(folder), order=order)
    np.testing.assert_array_equal(found.labels, expected.astype(int))
    assert found.certificates == ["proved"]


def zones(image, tolerance, corners):
    """The pieces of the graph whose edges join neighbours that differ by no more than the tolerance
    in any band.
    """
    number = np.arange(image[0].size).reshape(image.shape[1:])
    edges = []
    for step in np.ndindex(*(3,) * number.ndim):
        move = np.array(step) - 1
        if tuple(move) <= (0,) * number.ndim or (abs(move).sum() > 1 and not corners):
            continue
        here = tuple(
            slice(max(0, -m), min(n, n - m)) for m, n in zip(move, number.shape, strict=True)
        )
        there = tuple(
            slice(max(0, m), min(n, n + m)) for m, n in zip(move, number.shape, strict=True)
        )
        near = (
            abs(image[(slice(None), *here)].astype(float) - image[(slice(None), *there)])
            <= tolerance
        ).all(axis=0)
        edges.append(np.stack([number[here][near], number[there][near]]))
    a, b = np.concatenate([np.zeros((2, 0), int), *edges], axis=1)
    graph = coo_array((np.ones(len(a)), (a, b)), shape=(number.size,) * 2)
    return in_raster_order(connected_components(graph, directed=False)[1].reshape(number.shape) + 1)


@CASES
@given(st.data())
def test_quasi_flat_zones_are_those_of_the_graph(data):
    """Tiled, zones are the connected pieces of the whole image's graph of alike neighbours, in one
    band or two.
    """
    image = data.draw(images())
    image = np.stack([image, image.T.reshape(image.shape)][: data.draw(st.integers(1, 2))])
    tile, order = data.draw(tilings(image.shape[1:]))
    corners = data.draw(st.booleans())
    method = QuasiFlat(
        tolerance=data.draw(st.integers(0, 60)),
        connectivity=(8, 26)[image.ndim - 3] if corners else None,
    )
    with tempfile.TemporaryDirectory() as folder:
        found = tiled(image, method, tile, Path(folder), order=order)
    np.testing.assert_array_equal(found.labels, zones(image, method.tolerance, corners))
    assert set(found.certificates) == {"proved"}


@CASES
@given(st.data())
def test_found_seeds_equal_whole_image(data):
    """With seeds that are found, smoothing and missing pixels, a tiled result is that of the whole
    image.
    """
    image = data.draw(images(dims=(2,))).astype(np.float32)
    image[np.random.default_rng(data.draw(st.integers(0, 99))).random(image.shape) < 0.05] = np.nan
    valid = np.isfinite(image)
    if not valid.any():
        return
    tile, order = data.draw(tilings(image.shape))
    method = RegionGrowing(
        sigma=data.draw(st.sampled_from([0, 0.5])),
        tolerance=data.draw(st.sampled_from([None, 30.0])),
        number=3,
    )
    expected = method(image[None], valid)
    method = fitted_to(method, image[None], valid)
    with tempfile.TemporaryDirectory() as folder:
        found = tiled(image[None], method, tile, Path(folder), order=order)
    np.testing.assert_array_equal(found.labels, in_raster_order(expected))


@pytest.fixture
def scene(tmp_path):
    """A GeoTIFF: two lakes of value 20 and 24, a field of 90, on ground of 150; the lakes' borders
    lie in several tiles.
    """
    image = np.full((90, 120), 150, np.uint8)
    image[10:50, 10:60] = 20
    image[30:80, 80:110] = 24
    image[60:85, 5:50] = 90
    image[0, 0] = 20
    path, place = tmp_path / "scene.tif", rasterio.Affine(10, 0, 500_000, 0, -10, 5_000_000)
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=120,
        height=90,
        count=1,
        dtype="uint8",
        crs="EPSG:32633",
        transform=place,
    ) as f:
        f.write(image, 1)
    return path, image


def grown(scene, out, seeds, tile=32, **options):
    job = pipeline.Job(
        source=str(scene),
        segmenters={"grown": {"kind": "region_growing", "seeds": seeds, "tolerance": 1, **options}},
        tiles={"size": tile},
        output={"path": str(out)},
    )
    with pipeline.local() as engine:
        pipeline.run(job, engine)
    return zarr.open_array(f"{out}/labels.zarr/0")[:], pipeline.Result(str(out))


def test_seeds_from_everywhere(scene, tmp_path):
    """Seeds in pixels, in the CRS, in a raster, in vector files of two kinds give the same regions,
    each with its class.
    """
    path, image = scene
    places = [(20, 20, 1), (40, 90, 2), (70, 20, 3)]
    world = [(500_000 + 10 * (c + 0.4), 5_000_000 - 10 * (r + 0.4), k) for r, c, k in places]
    raster = tmp_path / "seeds.tif"
    with rasterio.open(path) as source:
        profile = source.profile
    numbers = np.zeros((90, 120), np.uint8)
    for r, c, k in places:
        numbers[r : r + 3, c : c + 2] = k
    with rasterio.open(raster, "w", **profile) as f:
        f.write(numbers, 1)
    points = shapely.points([(x, y) for x, y, _ in world])
    boxes = shapely.box(*np.array([(x, y - 25, x + 25, y) for x, y, _ in world]).T)
    for name, shapes in (("points.gpkg", points), ("boxes.fgb", boxes)):
        pyogrio.raw.write(
            tmp_path / name,
            shapely.to_wkb(shapes),
            [np.array([1, 2, 3], np.int32)],
            ["cover"],
            geometry_type="Point" if name.startswith("points") else "Polygon",
            crs="EPSG:32633",
        )
    given_as = [
        [list(place) for place in places],
        {"points": [list(place) for place in world], "crs": "EPSG:32633"},
        str(raster),
        {"path": str(tmp_path / "points.gpkg"), "attribute": "cover"},
        {"path": str(tmp_path / "boxes.fgb"), "attribute": "cover"},
    ]
    expected = in_raster_order(
        np.where(image == 20, 1, 0) + np.where(image == 24, 2, 0) + np.where(image == 90, 3, 0)
    )
    expected[0, 0] = 0
    expected = in_raster_order(expected)
    for number, seeds in enumerate(given_as):
        labels, result = grown(path, tmp_path / f"out{number}", seeds)
        np.testing.assert_array_equal(labels, expected)
        assert sorted(result.objects["class"]) == [1, 2, 3]


def test_other_seeds_are_another_run(scene, tmp_path):
    """A result that was made with one file of seeds is not taken for one with another of the same
    name.
    """
    path, image = scene
    place = tmp_path / "seeds.gpkg"

    def write(row, column):
        x, y = 500_000 + 10 * (column + 0.5), 5_000_000 - 10 * (row + 0.5)
        pyogrio.raw.write(
            place,
            shapely.to_wkb(shapely.points([(x, y)])),
            [],
            [],
            geometry_type="Point",
            crs="EPSG:32633",
        )

    write(20, 20)
    labels, _ = grown(path, tmp_path / "out", str(place))
    np.testing.assert_array_equal(labels > 0, ndimage.label(image == 20)[0] == 2)
    place.unlink()
    write(70, 20)
    with pytest.raises(pipeline.TilewiseError, match="companions"):
        grown(path, tmp_path / "out", str(place))


def test_geojson_is_in_degrees(scene, tmp_path):
    """GeoJSON is in degrees of WGS 84 by its standard; what then lies beside the image is refused,
    with what it was taken for.
    """
    point = {"type": "Point", "coordinates": [15, 45]}
    (tmp_path / "a.geojson").write_text(
        json.dumps(
            {
                "type": "FeatureCollection",
                "features": [{"type": "Feature", "properties": {}, "geometry": point}],
            }
        )
    )
    with pytest.raises(
        JobError,
        match=r"seeds: .*a.geojson: 1 of 1 lie outside the image.*taken for coordinates in "
        r"EPSG:4326",
    ):
        grown(scene[0], tmp_path / "out", str(tmp_path / "a.geojson"))


def test_around_takes_the_regions_value(tmp_path):
    """A seed on a speck of noise grows the region around it where the value is that of its
    surroundings.
    """
    image = np.full((40, 40), 200, np.uint8)
    image[5:30, 5:30] = 50
    image[10, 10] = 90
    alone = RegionGrowing(seeds=((10, 10),), tolerance=5)(image[None])
    around = RegionGrowing(seeds=((10, 10),), tolerance=45, around=2)(image[None])
    assert (alone > 0).sum() == 1
    np.testing.assert_array_equal(around > 0, image < 100)
    nothing = replace(
        fitted_to(RegionGrowing(seeds=((0, 0),), tolerance=5), image[None], image > 0), min_area=0
    )
    assert not (nothing(image[None], image < 100) > 0).any()


def test_found_seeds_are_the_flat_parts():
    """Without seeds, even patches are found; a constant image is one region; nothing valid is an
    error.
    """
    image = np.where(np.arange(60)[None] < 30, 40, 160).repeat(40, 0) + np.random.default_rng(
        0
    ).integers(-3, 4, (40, 60))
    found = RegionGrowing(tolerance=10, number=2)(image[None])
    np.testing.assert_array_equal(found, np.where(np.arange(60)[None] < 30, 1, 2).repeat(40, 0))
    assert (RegionGrowing()(np.full((1, 5, 5), 7)) == 1).all()
    with pytest.raises(SegmenterError, match="no valid pixel"):
        RegionGrowing()(np.full((1, 5, 5), 7), np.zeros((5, 5), bool))
    with pytest.raises(SegmenterError, match="no seed lies on a valid pixel"):
        RegionGrowing(seeds=((1, 1),), tolerance=1)(np.full((1, 5, 5), 7), np.zeros((5, 5), bool))


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        (
            [[5, 500]],
            (
                r"1 of 1 lie outside the image, the first at pixel \(5, 500\); allowed: 0 up to "
                r"90 x "
                r"120"
            ),
        ),
        ([[5]], "at least one place of 2 numbers"),
        ([[5, 5, 1], [6, 6]], "at least one place of 2 numbers"),
        ([["a", "b"]], "at least one place of 2 numbers"),
        ([[5, 5, 0]], "classes that are whole numbers from 1"),
        ([], "at least one place"),
        ({"points": [[1, 2]], "crs": "EPSG:4326"}, "lie outside the image"),
        ({"points": [[1, 2]], "crs": "nowhere"}, "'nowhere' is no CRS"),
        ({"points": [[1, 2]], "crs": "EPSG:32633"}, "lie outside the image"),
        ({"points": [[1, 2]], "path": "a.tif"}, "allowed: points, a path"),
        ({"point": [[1, 2]]}, "allowed: points, a path"),
        ("none.tif", "there is no image at"),
        ("none.gpkg", "none.gpkg"),
    ],
    ids=str,
)
def test_refused_seeds(scene, tmp_path, seeds, message):
    """Seeds outside the image or in another CRS, and files that are none, are refused before any
    work, naming the option.
    """
    with pytest.raises(JobError, match=r"(?s)segmenters\.grown\.seeds: .*" + message):
        grown(scene[0], tmp_path / "out", seeds)
    assert not (tmp_path / "out").exists()


def test_refused_rasters(scene, tmp_path):
    """A raster of another shape, or of floats that are no whole numbers, is refused."""
    for image, message in (
        (np.zeros((9, 9), int), "a raster of 9 x 9 pixels; allowed: the image's 90 x 120"),
        (np.full((90, 120), 0.5), r"the array holds 0\.5; allowed: whole numbers, as floats too"),
    ):
        with pytest.raises(JobError, match=message), pipeline.local() as engine:
            pipeline.segment(
                str(scene[0]), RegionGrowing(seeds=image), tmp_path / "out", engine=engine
            )


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (RegionGrowing, {"tolerance": -1}, "tolerance: -1; allowed: 0 or more"),
        (RegionGrowing, {"around": -1}, "around: -1"),
        (RegionGrowing, {"number": 0}, "number: 0; allowed: 1 to 254"),
        (RegionGrowing, {"sigma": -1}, "sigma: -1"),
        (QuasiFlat, {"tolerance": -1}, "tolerance: -1; allowed: 0 or more"),
        (QuasiFlat, {"bands": ()}, "bands: none; allowed: at least one"),
        (QuasiFlat, {"sigma": -1}, "sigma: -1"),
    ],
    ids=str,
)
def test_refusals(kind, options, message):
    """What cannot be is refused, naming the option, what was given and what is allowed."""
    with pytest.raises(JobError, match=message):
        kind(**options)


def test_pieces_with_a_surface():
    """A step as high as any difference gives the plain pieces, in raster order."""
    rng = np.random.default_rng(0)
    for shape in ((40, 50), (9, 12, 15)):
        classes = rng.integers(0, 3, shape)
        for neighbours in (4, 8) if len(shape) == 2 else (6, 26):
            expected = pieces(classes, neighbours)
            found = pieces(classes, neighbours, rng.random((2, *shape)), 1.0)
            np.testing.assert_array_equal(found[0], expected[0])
            assert found[1] == expected[1]
            alone = pieces(classes, neighbours, rng.random((1, *shape)), -1.0)
            assert alone[1] == (classes > 0).sum()
    structure = ndimage.generate_binary_structure(2, 1)
    assert (
        pieces(np.ones((5, 5), bool), 4, np.zeros((1, 5, 5)), 0)[1]
        == ndimage.label(np.ones((5, 5)), structure)[1]
    )
