"""Every kind of segmenter from the command line, on one real image as GeoTIFF and as Zarr, in two
tilings.
"""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
import rasterio
import yaml
import zarr
from skimage import data as pictures
from typer.testing import CliRunner

import pipeline
from pipeline.__main__ import app

METHODS = runpy.run_path(str(Path(__file__).resolve().parents[2] / "workflows" / "methods.py"))
KINDS, CLASSES = METHODS["KINDS"], METHODS["CLASSES"]
PLACE = rasterio.Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """A piece of tissue with a corner that was not measured, as a GeoTIFF with a CRS and
    as Zarr.
    """
    folder = tmp_path_factory.mktemp("scenes")
    image = np.moveaxis(pictures.immunohistochemistry()[100:260, 60:270], -1, 0).copy()
    image[:, :12, :30] = 0
    how = {
        "driver": "GTiff",
        "count": 3,
        "height": 160,
        "width": 210,
        "dtype": "uint8",
        "nodata": 0,
    }
    with rasterio.open(folder / "scene.tif", "w", crs="EPSG:32633", transform=PLACE, **how) as file:
        file.write(image)
    zarr.save_array(folder / "scene.zarr", image)
    return folder


def carried_out(kind, image, out, tile, halo=24):
    """What the command makes with a kind, whose options stand in `workflows/methods.py`."""
    options = [
        part
        for key, value in KINDS[kind].items()
        for part in ("--option", f"{key}={yaml.safe_dump(value).splitlines()[0]}")
    ]
    command = [
        "segment",
        str(image),
        str(out),
        "--with",
        kind.split()[0],
        *options,
        "--tile",
        str(tile),
        "--halo",
        str(halo),
    ]
    done = CliRunner().invoke(app, [*command, "--source", "nodata=0", "--workers", "0"])
    assert done.exit_code == 0, done.output
    return pipeline.Result(str(out))


def raster(result):
    return (result.classes if "semantic" in result.record["results"] else result.labels).values


@pytest.mark.parametrize("kind", KINDS)
def test_from_the_command_line(kind, scenes, tmp_path):
    """Each kind makes the same of a GeoTIFF and of a Zarr; all that is called proved, in either of
    two tilings, is as in one tile.
    """
    result = carried_out(kind, scenes / "scene.tif", tmp_path / "tif", 64)
    found = raster(result)
    np.testing.assert_array_equal(
        found, raster(carried_out(kind, scenes / "scene.zarr", tmp_path / "zarr", 64))
    )
    other = carried_out(kind, scenes / "scene.tif", tmp_path / "other", 75)
    untiled = raster(carried_out(kind, scenes / "scene.tif", tmp_path / "whole", 1000))
    table = result.objects
    placed = result.labels if "instance" in result.record["results"] else result.classes
    assert "32633" in placed.spatial_ref.attrs["crs_wkt"]
    assert len(table) > 1
    assert not (found[:12, :30] > 0).any() or (kind in CLASSES and (found[:12, :30] == 255).all())
    for one in (result, other):
        doubted = one.objects.loc[one.objects["certificate"] != "proved", "id"]
        assert not len(doubted) or kind.split()[0] in (
            "watershed",
            "blobs",
            "felzenszwalb",
            "random_walker",
            "normalized_cut",
        )
        if not len(doubted):
            np.testing.assert_array_equal(raster(one), untiled)
        for number in set(one.objects["id"]) - set(doubted) if len(doubted) else ():
            mine = raster(one) == number
            (theirs,) = np.unique(untiled[mine])
            np.testing.assert_array_equal(untiled == theirs, mine)
