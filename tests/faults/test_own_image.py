"""No result takes the place of its own image, however the image is named, and whatever the user
says.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
import yaml
import zarr
from typer.testing import CliRunner

from pipeline.__main__ import app
from tests.faults.staging import blobs


def raster(path: Path, column: int = 0) -> str:
    """A GeoTIFF that begins in some column of a grid."""
    how = {"count": 1, "height": 64, "width": 64, "dtype": "uint8", "crs": "EPSG:32633"}
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        transform=rasterio.Affine(10, 0, 5e5 + 10 * column, 0, -10, 5e6),
        **how,
    ) as file:
        file.write(blobs(64), 1)
    return str(path)


def zarr_array(out: Path) -> str:
    """A level of labels."""
    zarr.create_array(out / "labels.zarr/0", data=blobs(64), chunks=(32, 32))
    return str(out / "labels.zarr/0")


def vrt(out: Path) -> str:
    """A VRT of a GeoTIFF."""
    raster(out / "labels.tif")
    source = (
        "<SimpleSource><SourceFilename "
        'relativeToVRT="1">labels.tif</SourceFilename><SourceBand>1</SourceBand></SimpleSource>'
    )
    band = f'<VRTRasterBand dataType="Byte" band="1">{source}</VRTRasterBand>'
    (out / "scene.vrt").write_text(
        f'<VRTDataset rasterXSize="64" rasterYSize="64">{band}</VRTDataset>'
    )
    return str(out / "scene.vrt")


def item(out: Path) -> str:
    """A STAC item of a GeoTIFF."""
    raster(out / "classes.tif")
    assets = {"red": {"href": "./classes.tif", "type": "image/tiff; application=geotiff"}}
    (out / "scene.json").write_text(
        json.dumps({"type": "Feature", "stac_version": "1.0.0", "assets": assets})
    )
    return str(out / "scene.json")


def link(out: Path) -> str:
    """A link from elsewhere to a GeoTIFF."""
    raster(out / "labels.tif")
    (out.parent / "scene.tif").symlink_to(out / "labels.tif")
    return str(out.parent / "scene.tif")


IMAGES: dict[str, Callable[[Path], object]] = {
    "a file": lambda out: raster(out / "labels.tif"),
    "a picture": lambda out: raster(out / "labels.ome.tif"),
    "an array": zarr_array,
    "a VRT": vrt,
    "a STAC item": item,
    "a mosaic": lambda out: [raster(out / "labels.tif"), raster(out.parent / "beside.tif", 64)],
    "a link": link,
}


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_where_the_result_would_lie(tmp_path, name):
    """It is refused by the plan and by the run, also where old results are to be replaced, and
    nothing is touched.
    """
    (tmp_path / "out").mkdir()
    job = {
        "source": {"path": IMAGES[name](tmp_path / "out")},
        "segmenters": {"it": {"kind": "threshold"}},
        "output": {"path": str(tmp_path / "out"), "labels": ["zarr", "cog"]},
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for words in (
        ["plan"],
        ["run", "--workers", "0"],
        ["run", "--workers", "0", "--fresh", "--overwrite"],
    ):
        told = CliRunner().invoke(app, [words[0], str(tmp_path / "job.yaml"), *words[1:]])
        assert told.exit_code == 2, told.output
        assert (
            f"output.path: {tmp_path}/out; a result there may take the place of "
            in told.output.replace("\n", " ")
        )
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_what_no_run_has_written_is_replaced_only_when_asked(tmp_path):
    """A folder that holds something else of a result's name is refused, and with --fresh its result
    is put there.
    """
    (tmp_path / "out/labels.zarr").mkdir(parents=True)
    (tmp_path / "out/labels.zarr/mine.txt").write_text("mine")
    words = [
        "segment",
        raster(tmp_path / "scene.tif"),
        str(tmp_path / "out"),
        "--with",
        "threshold",
    ]
    told = CliRunner().invoke(app, words)
    assert told.exit_code == 2
    assert (
        "holds labels.zarr without the record of a run; choose another output, or replace it "
        "(--fresh)" in told.output
    )
    assert (tmp_path / "out/labels.zarr/mine.txt").read_text() == "mine"
    assert CliRunner().invoke(app, [*words, "--fresh"]).exit_code == 0
    assert not (tmp_path / "out/labels.zarr/mine.txt").exists()
    assert np.asarray(zarr.open_array(tmp_path / "out/labels.zarr/0")).max() > 0
