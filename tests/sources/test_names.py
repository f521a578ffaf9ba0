"""What bands are called: by every reader the same names, of which no two are alike."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import rasterio
import tifffile
import xarray as xr
import zarr
from hypothesis import given
from hypothesis import strategies as st

from pipeline.sources import open_source
from pipeline.sources.axes import named
from tests.sources.files import tiff, whole

NAMES = ("DAPI", "GFP", "DAPI", "DAPI_2", "DAPI")
EXPECTED = ("DAPI", "GFP", "DAPI_3", "DAPI_2", "DAPI_4")


@given(
    st.lists(
        st.sampled_from(["DAPI", "DAPI_2", "DAPI_2_2", "GFP", "1", "3", "", " ", None]), max_size=8
    )
)
def test_names(names):
    """No two names are alike, each begins with what was given, and what was given alone, or first,
    is left as it is.
    """
    found = named(names, len(names))
    assert len(set(found)) == len(found) == len(names)
    wanted = [(name or "").strip() or str(k + 1) for k, name in enumerate(names)]
    for k, (name, each) in enumerate(zip(wanted, found, strict=True)):
        assert each == name if name not in wanted[:k] else each.startswith(f"{name}_")
    assert named(names, len(names) + 1) == tuple(str(k + 1) for k in range(len(names) + 1))


def geotiff(folder, pixels):
    path = tiff(folder / "a.tif", pixels)
    with rasterio.open(path, "r+") as file:
        file.descriptions = NAMES
    return path


def ome_tiff(folder, pixels):
    tifffile.imwrite(
        folder / "a.ome.tif",
        pixels,
        metadata={"axes": "CYX", "Channel": {"Name": list(NAMES)}},
        photometric="minisblack",
    )
    return folder / "a.ome.tif"


def ome_zarr(folder, pixels):
    group = zarr.open_group(folder / "a.zarr", mode="w", zarr_format=3)
    group.create_array("0", data=pixels, chunks=pixels.shape)
    axes = [
        {"name": "c", "type": "channel"},
        {"name": "y", "type": "space"},
        {"name": "x", "type": "space"},
    ]
    scales = [
        {
            "axes": axes,
            "datasets": [
                {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1, 1, 1]}]}
            ],
        }
    ]
    group.attrs["ome"] = {
        "version": "0.5",
        "multiscales": scales,
        "omero": {"channels": [{"label": name} for name in NAMES]},
    }
    return folder / "a.zarr"


def labelled(_folder, pixels):
    return xr.DataArray(
        da.from_array(pixels), dims=("band", "y", "x"), coords={"band": list(NAMES)}
    )


@pytest.mark.parametrize("written", [geotiff, ome_tiff, ome_zarr, labelled])
def test_every_reader(written, tmp_path):
    """Names that repeat are told apart in the same way by every reader, and choose their bands."""
    pixels = np.random.default_rng(0).integers(0, 200, (5, 20, 30)).astype(np.uint8)
    image = written(tmp_path, pixels)
    assert open_source(image).frame.bands == EXPECTED
    chosen = open_source(image, bands=["DAPI_4", "DAPI", 3])
    assert chosen.frame.bands == ("DAPI_4", "DAPI", "DAPI_3")
    np.testing.assert_array_equal(whole(chosen), pixels[[4, 0, 2]])
