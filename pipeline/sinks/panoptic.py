"""COCO's panoptic format: a PNG with segment numbers as colours, and a JSON that describes the
segments.

The PNG goes window by window into a temporary TIFF, from which GDAL writes it row by row, so memory
is bounded.

References
----------
.. [1] COCO's panoptic format, https://cocodataset.org/#format-data, section 4.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Callable, Container, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import OutputError
from pipeline.image.frame import Frame
from pipeline.image.grid import Box, Grid
from pipeline.image.legend import Entry

MOST = (1 << 24) - 1
"""The highest number that a colour can encode; 0 is no segment."""
WINDOW = 2048
_END = b"IEND\xaeB`\x82"
"""The last bytes of every PNG."""


def colours(numbers: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Encode segment numbers as colours, (red, green, blue) first; red is the lowest byte.

    >>> colours(np.array([[1, 256 + 2]])).tolist()
    [[[1, 2]], [[0, 1]], [[0, 0]]]
    """
    return np.stack([(numbers >> shift & 255).astype(np.uint8) for shift in (0, 8, 16)])


def numbers(colours: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Decode colours to segment numbers; a fourth band is ignored."""
    red, green, blue = (band.astype(np.int64) for band in colours[:3])
    return np.asarray(red | green << 8 | blue << 16)


def write_png(path: str, frame: Frame, read: Callable[[Box], npt.NDArray[Any]]) -> None:
    """Write segment numbers as a PNG.

    Parameters
    ----------
    path : Path
        The file, in an existing folder.
    frame : Frame
        The image, 2-D.
    read : callable
        Called with boxes in raster order; returns the numbers, (row, column), integers from 0 to
        MOST.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    import rasterio
    import rasterio.shutil
    from rasterio.errors import NotGeoreferencedWarning, RasterioError

    windows = Grid(frame.shape, (WINDOW, WINDOW))
    height, width = frame.shape
    layout = {
        "tiled": True,
        "blockxsize": 512,
        "blockysize": 512,
        "compress": "ZSTD",
        "zstd_level": 1,
        "bigtiff": "IF_SAFER",
    }
    with (
        tempfile.TemporaryDirectory(prefix=".png-", dir=Path(path).parent) as folder,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        tiled = Path(folder, "tiled.tif")
        png = Path(folder, "whole.png")
        try:
            with rasterio.open(
                tiled,
                "w",
                driver="GTiff",
                width=width,
                height=height,
                count=3,
                dtype="uint8",
                **layout,
            ) as file:
                for box in map(windows.core, range(len(windows))):
                    file.write(
                        colours(read(box)), window=rasterio.windows.Window.from_slices(*box.slices)
                    )
            rasterio.shutil.copy(tiled, png, driver="PNG")
        except RasterioError as error:
            raise OutputError(
                f"{path} cannot be written ({error.__cause__ or error}); is the disk full?"
            ) from error
        with png.open("rb") as file:
            file.seek(-len(_END), 2)
            whole = file.read() == _END
        if not whole:  # GDAL loses errors of the last bytes
            raise OutputError(f"{path}: the file is not whole; is the disk full?")
        png.replace(path)


def write_json(
    path: str,
    frame: Frame,
    names: tuple[str, str],
    legend: Mapping[int, Entry],
    stuff: Container[int],
    segments: Iterable[Mapping[str, Any]],
) -> None:
    """Write what the segments of a PNG are.

    Parameters
    ----------
    path
        The file to be written.
    frame
        The image, 2-D.
    names
        Those of the image's file and of the PNG.
    legend
        By class: its name and colour.
    stuff
        The classes that are not those of things.
    segments
        One at a time, as COCO has them: ``id``, ``category_id``, ``area``, ``bbox`` (x, y, width,
        height), ``iscrowd``.
    """
    images = [{"id": 1, "file_name": names[0], "height": frame.shape[0], "width": frame.shape[1]}]
    seen = set()
    with Path(path).open("w", encoding="utf-8") as file:  # there may be millions
        file.write(
            f'{{"images": {json.dumps(images)},\n "annotations": [{{"image_id": 1, "file_name": '
            f"{json.dumps(names[1])},"
        )
        file.write(' "segments_info": [')
        for number, segment in enumerate(segments):
            file.write(("\n" if number == 0 else ",\n") + json.dumps(segment))
            seen.add(segment["category_id"])
        kinds = [
            {
                "id": kind,
                "name": entry.name,
                "supercategory": entry.name,
                "isthing": int(kind not in stuff),
                "color": list(entry.colour),
            }
            for kind, entry in legend.items()
            if kind in seen
        ]
        file.write(f'\n]}}],\n "categories": {json.dumps(kinds)}}}\n')
