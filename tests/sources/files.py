"""Write raster files for tests, and read them under a memory limit."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import rasterio

from pipeline.image.grid import Box
from pipeline.sources import Source

PLACE = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 5e5, 0, -20, 5e6)}


def tiff(path: Path, pixels: np.ndarray, **options: object) -> Path:
    """Write (band, row, column) as a georeferenced GeoTIFF."""
    bands, rows, columns = pixels.shape
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=bands,
        height=rows,
        width=columns,
        dtype=pixels.dtype,
        **PLACE | options,
    ) as file:
        file.write(pixels)
    return path


def whole(source: Source) -> np.ndarray:
    """All pixels of a source."""
    return source.read(Box.whole(source.frame.shape))


def declared(path: Path, tags: dict[int, int | tuple[int, ...]]) -> Path:
    """Write a TIFF of tags only. Their numbers need not be true; a list of numbers is written after
    the tags.
    """
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


_READ = """
import json, resource, sys
from pipeline.errors import SourceError
from pipeline.image.grid import Box
from pipeline.sources import open_source

paths, (start, stop), more = map(json.loads, sys.argv[1:])
sources = [open_source(path) for path in paths]
for source in sources:
    source.read(Box(tuple(start), tuple(stop)))
taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + more, taken + more))
told = {path: [] for path in paths}
for path, source in zip(paths, sources):
    for read in (source.read, lambda box: source.glance(box, 3)):
        try:
            read(Box.whole(source.frame.shape))
        except SourceError as error:
            told[path].append(str(error))
print(json.dumps(told))
"""


def under_a_limit(paths: list[str], sound: Box, more: int) -> dict[str, list[str]]:
    """The errors of reading and of glancing at whole images, both of which must fail, in a process
    that may take `more` bytes of memory than reading a sound part of each took.
    """
    command = [
        sys.executable,
        "-c",
        _READ,
        *map(json.dumps, (paths, (sound.start, sound.stop), more)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    told: dict[str, list[str]] = json.loads(done.stdout)
    assert list(told) == paths
    assert all(len(errors) == 2 for errors in told.values()), told
    return told


def one_for_all(flags: np.ndarray) -> np.ndarray:
    """The mask, (row, column), which all bands must share."""
    assert (flags == flags[:1]).all()
    return flags[0]
