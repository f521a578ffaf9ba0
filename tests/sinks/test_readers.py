"""What a run wrote, as others read it: rioxarray, GDAL and its `info`, ome-zarr-py, and napari's
reader of OME-Zarr.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import rasterio
import rioxarray
from rasterio.crs import CRS
from scipy import ndimage

import pipeline
from pipeline.jobs.job import Job
from tests.sinks.test_nested import blobs, microscope, segmented

SHAPE = (1100, 1300)
PLACE = rasterio.Affine(10, 0, 500_000, 0, -10, 4_000_000)
pytestmark = pytest.mark.filterwarnings(
    "ignore:Use `@` matmul:PendingDeprecationWarning"
)  # rioxarray's
LEGEND = {1: {"name": "low", "colour": "#10ff80"}, 2: {"name": "high", "colour": "#0040ff"}}


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A scene in UTM, of which a corner was not measured, and its labels and classes in
    all forms.
    """
    folder = tmp_path_factory.mktemp("scene")
    noise = ndimage.gaussian_filter(np.random.default_rng(0).random(SHAPE), 8)
    image = np.clip((noise - noise.min()) / np.ptp(noise) * 254 + 1, 1, 255).astype(np.uint8)
    image[:300, :200] = 0
    with rasterio.open(
        folder / "scene.tif",
        "w",
        driver="GTiff",
        width=SHAPE[1],
        height=SHAPE[0],
        count=1,
        dtype="uint8",
        crs="EPSG:32633",
        transform=PLACE,
        nodata=0,
    ) as file:
        file.write(image, 1)
    job = Job(
        source=str(folder / "scene.tif"),
        tiles={"size": 512},
        segmenters={"levels": {"kind": "threshold", "levels": [120, 150]}},
        output={
            "path": str(folder / "out"),
            "results": ["instance", "semantic"],
            "labels": ["zarr", "cog"],
            "legend": LEGEND,
        },
    )
    return pipeline.run(job, pipeline.local()), image


def info(path):
    """What GDAL says of a file, by rasterio's `rio info`."""
    command = "import sys; from rasterio.rio.main import main_group; main_group(sys.argv[1:])"
    found = subprocess.run(
        [sys.executable, "-c", command, "info", str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(found.stdout)


@pytest.mark.parametrize("name", ["labels", "classes"])
def test_rioxarray_reads_the_geotiffs(scene, name):
    """rioxarray finds the values, the place, what was not measured, and the overviews."""
    result, image = scene
    expected = getattr(result, name).values
    with rioxarray.open_rasterio(f"{result.path}/{name}.tif") as array:
        assert np.array_equal(array.values[0], expected)
        assert array.rio.crs.to_epsg() == 32633
        assert array.rio.transform() == PLACE
        assert array.rio.nodata == (255 if name == "classes" else None)
    with rioxarray.open_rasterio(
        f"{result.path}/{name}.tif", masked=True, mask_and_scale=False
    ) as array:
        assert np.array_equal(np.isnan(array.values[0]), image == 0)
    with rioxarray.open_rasterio(f"{result.path}/{name}.tif", overview_level=0) as array:
        assert np.array_equal(array.values[0], expected[::2, ::2])


@pytest.mark.parametrize("name", ["labels", "classes"])
def test_rioxarray_knows_where_the_zarr_lies(scene, name):
    """What the result gives as an xarray lies where the scene does, by rioxarray."""
    array = getattr(scene[0], name)
    assert array.rio.crs == CRS.from_epsg(32633)
    assert array.rio.transform() == PLACE
    assert array.rio.bounds() == rasterio.transform.array_bounds(*SHAPE, PLACE)


@pytest.mark.parametrize(
    ("name", "dtype", "nodata"), [("labels", "uint32", None), ("classes", "uint8", 255)]
)
def test_gdal_finds_a_cloud_optimised_geotiff(scene, name, dtype, nodata):
    """GDAL finds a tiled GeoTIFF laid out for the cloud, packed, with its place, nodata and
    overviews.
    """
    path = f"{scene[0].path}/{name}.tif"
    told = info(path)
    expected = {
        "driver": "GTiff",
        "dtype": dtype,
        "nodata": nodata,
        "tiled": True,
        "blockxsize": 512,
        "blockysize": 512,
    }
    expected |= {
        "compress": "deflate",
        "crs": "EPSG:32633",
        "shape": list(SHAPE),
        "res": [10.0, 10.0],
    }
    assert {key: told[key] for key in expected} == expected
    with rasterio.open(path) as file:
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert file.overviews(1) == [2, 4]


def test_gdal_finds_the_colours(scene):
    """GDAL takes classes for numbers of a colour table, which has the legend's colours, and finds
    the names beside it.
    """
    path = f"{scene[0].path}/classes.tif"
    assert info(path)["colorinterp"] == ["palette"]
    with rasterio.open(path) as file:
        colours = file.colormap(1)
        assert file.files[1:] == [f"{path}.aux.xml"]
    assert [colours[number] for number in (1, 2)] == [(16, 255, 128, 255), (0, 64, 255, 255)]


@pytest.mark.skipif(shutil.which("gdalinfo") is None, reason="needs gdalinfo, of GDAL's own tools")
def test_gdalinfo_finds_the_same(scene):
    """GDAL's own `gdalinfo`, of whichever version, finds the layout, the overviews, the names and
    the colours.
    """
    command = ["gdalinfo", "-json", "-checksum", f"{scene[0].path}/classes.tif"]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    [band] = told["bands"]
    assert told["metadata"]["IMAGE_STRUCTURE"]["LAYOUT"] == "COG"
    assert (band["block"], band["noDataValue"], band["colorInterpretation"]) == (
        [512, 512],
        255,
        "Palette",
    )
    assert [overview["size"] for overview in band["overviews"]] == [[650, 550], [325, 275]]
    assert band["categories"] == ["background", "low", "high"]
    assert [row["f"] for row in told["rat"]["row"][1:]] == [
        [1, "low", 16, 255, 128],
        [2, "high", 0, 64, 255],
    ]
    assert band["colorTable"]["entries"][1:3] == [[16, 255, 128, 255], [0, 64, 255, 255]]


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_gdal_reads_ome_zarr_0_4(tmp_path):
    """GDAL's reader of Zarr, where it has one, reads the labels of OME-Zarr 0.4."""
    with rasterio.Env() as env:
        if "Zarr" not in env.drivers():
            pytest.skip("this GDAL has no reader of Zarr")
    result = pipeline.segment(
        blobs((300, 260)),
        pipeline.Threshold(value=0.5),
        tmp_path / "out",
        tile=128,
        ome_zarr="0.4",
        engine=pipeline.local(),
    )
    with rasterio.open(tmp_path / "out" / "labels.zarr" / "0") as file:
        assert np.array_equal(file.read(1), result.labels.values)


def test_ome_zarr_py_reads_a_scene(scene):
    """ome-zarr-py reads labels and classes of a scene, level by level."""
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    for name in ("labels", "classes"):
        [node] = Reader(parse_url(f"{scene[0].path}/{name}.zarr"))()
        for level, data in enumerate(node.data):
            assert np.array_equal(
                np.asarray(data), getattr(scene[0], name).values[:: 2**level, :: 2**level]
            )


SHOWN = """
import hashlib, json, sys, warnings
import numpy as np
warnings.simplefilter("ignore")
from napari.layers import Layer
from napari.layers.utils.stack_utils import split_channels
from napari_ome_zarr import napari_get_reader

found = []
for data, about, kind in napari_get_reader(sys.argv[1])(sys.argv[1]):
    found += split_channels(data, **about) if about.get("channel_axis") is not None else [(data, about, kind)]
told = []
for data, about, kind in found:
    layer = Layer.create(data, about, kind)
    levels = [hashlib.sha256(np.ascontiguousarray(level, np.int64)).hexdigest() for level in layer.data]
    colour = layer.get_color(1).tolist() if kind == "labels" else None
    told.append({"type": type(layer).__name__, "scale": layer.scale.tolist(), "levels": levels, "colour": colour})
print(json.dumps(told))
"""  # noqa: E501
"""What napari makes of a folder: layers of its own classes, without its window, and without Qt."""


@pytest.fixture(scope="module")
def napari(tmp_path_factory):
    """A Python that has napari's reader of OME-Zarr: that of TILEWISE_NAPARI, or one made for it.

    It has its own environment: napari brings plug-ins of pytest's, whose warnings would end every
    run of these tests.
    """
    if given := os.environ.get("TILEWISE_NAPARI"):
        return given
    folder = tmp_path_factory.mktemp("napari")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    done = subprocess.run(
        [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "napari-ome-zarr>=0.10"],
        check=False,
    )
    if done.returncode:
        pytest.skip("napari-ome-zarr cannot be installed here")
    return str(folder / "bin" / "python")


def shown(python, path):
    """The layers that napari shows."""
    done = subprocess.run(
        [python, "-c", SHOWN, str(path)], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def hashes(labels, number):
    """The same of so many levels as `SHOWN` tells."""
    levels = (labels[..., :: 2**k, :: 2**k] for k in range(number))
    return [hashlib.sha256(np.ascontiguousarray(level, np.int64)).hexdigest() for level in levels]


@pytest.mark.heavy
@pytest.mark.parametrize(
    "how",
    [
        pytest.param({}, id="0.5"),
        pytest.param({"ome_zarr": "0.4"}, id="0.4"),
        pytest.param({"shard": "auto"}, id="shards"),
    ],
)
def test_napari_shows_labels(tmp_path, napari, how):
    """napari shows a result as labels, with all levels and in its pixels' size."""
    image = microscope(
        tmp_path / "image.zarr",
        "0.5",
        blobs((700, 600)),
        "yx",
        lambda level: [{"type": "scale", "scale": [0.5 * 2**level] * 2}],
    )
    # That reader makes a group of the folder above the result's, looking for an image: so not of
    # one that matters.
    out = tmp_path / "some" / "out"
    result = pipeline.segment(
        str(image), pipeline.Threshold(value=0.5), out, tile=256, engine=pipeline.local(), **how
    )
    [layer] = shown(napari, out / "labels.zarr")
    assert (layer["type"], layer["scale"]) == ("Labels", [0.5, 0.5])
    assert layer["levels"] == hashes(result.labels.values, 2)


@pytest.mark.heavy
@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_napari_shows_labels_with_their_image(tmp_path, napari, version):
    """Of an image that labels were written into, napari shows both, one over the other, level by
    level.
    """

    def moves(level):
        return [{"type": "scale", "scale": [1.0, 0.5 * 2**level, 0.25 * 2**level]}]

    path = microscope(tmp_path / "image.zarr", version, blobs((2, 150, 170)), "cyx", moves)
    result, _ = segmented(path, tmp_path / "out", source={"channels": [1]})
    *images, labels = shown(napari, path)
    assert {layer["type"] for layer in images} == {"Image"}
    assert labels["type"] == "Labels"
    assert labels["levels"] == hashes(result.labels.values, len(images[0]["levels"]))
    assert {tuple(layer["scale"][-2:]) for layer in (*images, labels)} == {(0.5, 0.25)}


@pytest.mark.heavy
def test_napari_shows_classes_in_their_colours(tmp_path, napari):
    """napari shows classes in the colours of their legend."""
    out = tmp_path / "some" / "out"
    pipeline.segment(
        blobs((150, 170)),
        pipeline.Threshold(value=0.5),
        out,
        results=["semantic"],
        legend={1: {"name": "cell", "colour": "#0040ff"}},
        engine=pipeline.local(),
    )
    [layer] = shown(napari, out / "classes.zarr")
    assert layer["colour"] == pytest.approx([0, 64 / 255, 1, 1], abs=1e-6)
