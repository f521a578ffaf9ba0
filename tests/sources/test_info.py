"""What `tilewise info` says of images of every kind, against the libraries that read them."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import yaml
import zarr
from rasterio.control import GroundControlPoint
from rasterio.errors import NotGeoreferencedWarning
from typer.testing import CliRunner

from pipeline.__main__ import app
from pipeline.sources import open_source
from pipeline.sources.facts import FACTS, told
from pipeline.sources.inspection import inspected, shown
from tests.sources.files import tiff
from tests.sources.test_options import IMAGES, PIXELS


def info(path: object, *options: str) -> dict[str, Any]:
    """What the command says as JSON."""
    found = CliRunner().invoke(
        app,
        [
            "info",
            str(path),
            "--json",
            *(word for option in options for word in ("--source", option)),
        ],
    )
    assert found.exit_code == 0, found.output
    whole: dict[str, Any] = json.loads(found.stdout)
    return whole


@pytest.mark.parametrize("kind", IMAGES)
def test_every_reader_tells_its_facts(kind, tmp_path):
    """Every reader says what kind of file it reads, its levels or its stored shape, and nothing but
    known facts of plain values.
    """
    path = IMAGES[kind](tmp_path)
    paths = sorted(tmp_path.glob("*.tif")) if kind == "mosaic" else path
    source = open_source(paths, kind=kind)
    found = told(source)
    assert json.loads(json.dumps(found)) == found
    if "facts" in dir(type(source)) or kind in (
        "geotiff",
        "raster",
        "image",
        "mosaic",
        "stac",
        "zarr",
    ):
        assert found["format"]
        assert list(found) == [name for name in FACTS if name in found]
    words = shown(json.loads(json.dumps(inspected(str(path), source))))
    assert words["image"] == str(path)
    assert yaml.safe_load(yaml.safe_dump(words)) == words
    assert words["unmeasured"] == "nothing"


def test_a_geotiff_as_rasterio_has_it(tmp_path):
    """Levels, names, colours, alpha, nodata, scale, offset and units by band, and the compression
    are rasterio's.
    """
    path, pixels = tmp_path / "a.tif", np.tile(PIXELS[:, :1, :1], (1, 200, 300))[[0, 1, 2, 0]]
    tiff(path, pixels, compress="deflate", tiled=True, blockxsize=64, blockysize=64, alpha="yes")
    with rasterio.open(path, "r+") as file:
        file.descriptions = ("red", "green", "blue", "cover")
        file.scales, file.offsets, file.units = (0.5, 1, 1, 1), (0, -1, 0, 0), ("K", "", "", "")
        file.build_overviews([2, 4])
    with (
        rasterio.open(path) as file,
        rasterio.open(path, overview_level=0) as half,
        rasterio.open(path, overview_level=1) as quarter,
    ):
        expected = {
            "format": file.driver,
            "levels": [list(each.shape) for each in (file, half, quarter)],
            "channels": list(file.descriptions),
            "colours": [colour.name for colour in file.colorinterp],
            "compression": file.compression.name.lower(),
        }
    found = info(path, "bands=[1,2]")
    assert {key: found[key] for key in expected} == expected
    assert (found["scale"], found["offset"], found["units"]) == ([0.5, 1], [0, -1], ["K", ""])
    assert any("scaled: true" in doubt for doubt in found["not_understood"])
    assert info(path, "level=2")["level"] == 2


def test_alpha_masks_and_nodata_by_band(tmp_path):
    """Whether alpha, a mask in the file or beside it, or nodata says what was measured is told, and
    the rule that holds.
    """
    rgba = tiff(tmp_path / "rgba.tif", PIXELS[[0, 1, 2, 0]], photometric="RGB", alpha="yes")
    found = info(rgba)
    assert (found["alpha"], found["mask"], found["bands"]) == (4, "alpha", ["1", "2", "3"])
    masked = tiff(tmp_path / "masked.tif", PIXELS)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(masked, "r+") as file:
        file.write_mask(np.arange(24)[:, None].repeat(30, 1) > 5)
    found = info(masked)
    assert found["mask"] == "one beside the file (.msk)"
    assert [band["share"] for band in found["unmeasured"]["bands"].values()] == [0.25] * 3
    assert shown(found)["unmeasured"] == {"1, 2, 3": "180 pixels, 25 %: mask"}
    several = Path(tmp_path / "several.vrt")
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" '
        f'band="{k + 1}"><NoDataValue>{nodata}</NoDataValue><SimpleSource>'
        f"<SourceFilename "
        f'relativeToVRT="1">plain.tif</SourceFilename><SourceBand>{k + 1}</SourceBand></SimpleSource></VRTRasterBand>'  # noqa: E501
        for k, nodata in enumerate((0, 255))
    )
    tiff(tmp_path / "plain.tif", PIXELS)
    several.write_text(f'<VRTDataset rasterXSize="30" rasterYSize="24">{bands}</VRTDataset>')
    assert info(several)["nodata"] == [0, 255]
    assert np.isnan(info(tmp_path / "plain.tif", "nodata=nan")["nodata"])


def test_control_points(tmp_path):
    """Ground control points are counted, with their CRS."""
    points = [
        GroundControlPoint(row, column, column + 0.1 * row * column, row)
        for row in (0, 20)
        for column in (0, 10, 25)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(
            tmp_path / "a.tif", "w", driver="GTiff", count=1, height=24, width=30, dtype="uint8"
        ) as file:
            file.write(PIXELS[:1])
            file.gcps = points, rasterio.CRS.from_epsg(4326)
    found = info(tmp_path / "a.tif")
    assert found["places"] == {"control_points": 6, "crs": "EPSG:4326"}
    assert (found["transform"], shown(found)["pixel_size"]) == (None, "not said")


def test_an_ome_zarr_as_zarr_has_it(tmp_path):
    """Levels, axes, channels, times and planes of an OME-Zarr are those of its arrays and
    attributes.
    """
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    for k in range(2):
        array = group.create_array(
            str(k), shape=(3, 2, 4, 24 >> k, 30 >> k), dtype="u2", chunks=(1, 1, 4, 24, 30)
        )
        array[:] = 1
    axes = [
        {"name": name, "type": kind}
        for name, kind in zip("tczyx", ("time", "channel", *["space"] * 3), strict=True)
    ]
    levels = [
        {
            "path": str(k),
            "coordinateTransformations": [{"type": "scale", "scale": [1, 1, 2, 1 << k, 1 << k]}],
        }
        for k in range(2)
    ]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": levels}]
    group.attrs["omero"] = {"channels": [{"label": "DAPI"}, {"label": "GFP"}]}
    found = info(tmp_path / "a.zarr", "time=1", "channels=[GFP]")
    assert (found["format"], found["axes"], found["stored"]) == (
        "OME-Zarr 0.4",
        "tczyx",
        [3, 2, 4, 24, 30],
    )
    assert (found["levels"], found["times"], found["time"], found["planes"]) == (
        [[4, 24, 30], [4, 12, 15]],
        3,
        1,
        4,
    )
    assert (found["channels"], found["bands"]) == (["DAPI", "GFP"], ["GFP"])


@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
def test_a_volume_as_nibabel_has_it(ending, tmp_path):
    """Axes, times, planes, slope, sizes and orientation of NIfTI are nibabel's; what the header
    leaves out is said.
    """
    nibabel = pytest.importorskip("nibabel", reason="needs nibabel: the extra volumes")
    image = nibabel.Nifti1Image(np.ones((6, 5, 4, 3), np.int16), np.diag([-0.5, 0.25, 2, 1]))
    image.header.set_xyzt_units("mm")
    image.header.set_slope_inter(0.5, 3)
    nibabel.save(image, tmp_path / f"a.{ending}")
    found = info(tmp_path / f"a.{ending}", "time=2")
    loaded = nibabel.load(tmp_path / f"a.{ending}")
    assert (found["stored"], found["times"], found["time"], found["planes"]) == (
        [6, 5, 4, 3],
        3,
        2,
        4,
    )
    assert (found["scale"], found["offset"]) == ([loaded.dataobj.slope], [loaded.dataobj.inter])
    assert found["orientation"] == "".join(nibabel.aff2axcodes(loaded.affine)) == "LAS"
    assert found["sizes"] == {"x": "0.5 millimeter", "y": "0.25 millimeter", "z": "2 millimeter"}
    assert any("scaled: true" in doubt for doubt in found["not_understood"])
    image.header.set_xyzt_units("unknown")
    nibabel.save(image, tmp_path / "b.nii")
    assert any(
        "names no unit of length" in doubt
        for doubt in info(tmp_path / "b.nii", "time=0")["not_understood"]
    )


def test_what_is_damaged_besides_the_pixels(tmp_path):
    """Metadata that no use is made of, and that is damaged, does not keep the image from being
    told.
    """
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    group.create_array("0", shape=(24, 30), dtype="u1", chunks=(24, 30))[:] = 1
    group.attrs["multiscales"] = [
        {
            "version": "0.4",
            "axes": [{"name": "y"}, {"name": "x"}],
            "datasets": [{"path": "0"}, {"path": "gone"}],
        }
    ]
    assert info(tmp_path / "a.zarr/0")["shape"] == [24, 30]
