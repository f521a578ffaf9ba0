"""Raster files made by tests."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import rasterio

from pipeline.grid import Box
from pipeline.sources import Source

PLACE = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 5e5, 0, -20, 5e6)}


def tiff(path: Path, pixels: np.ndarray, **options: object) -> Path:
    """Write (band, row, column) as a GeoTIFF with a place."""
    bands, rows, columns = pixels.shape
    with rasterio.open(path, "w", driver="GTiff", count=bands, height=rows, width=columns, dtype=pixels.dtype, **PLACE | options) as file:
        file.write(pixels)
    return path


def whole(source: Source) -> np.ndarray:
    """All pixels of a source."""
    return source.read(Box.whole(source.frame.shape))


def declared(path: Path, tags: dict[int, int | tuple[int, ...]]) -> Path:
    """Write a TIFF of nothing but tags and their numbers, which need not be true; lists of numbers lie behind the directory."""
    entries, behind, at = b"", b"", 8 + 2 + 12 * len(tags) + 4
    for tag, value in sorted(tags.items()):
        values = (value,) if isinstance(value, int) else value
        if len(values) == 1:
            entries += struct.pack("<HHII", tag, 4, 1, values[0])
        else:
            entries += struct.pack("<HHII", tag, 4, len(values), at + len(behind))
            behind += struct.pack(f"<{len(values)}I", *values)
    path.write_bytes(b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + behind)
    return path
