"""Labels as a tiled OME-TIFF with a pyramid in SubIFDs, which QuPath, Fiji, napari and tifffile
read; without a place in the world.

The levels are those of the labels' own pyramid, so that nothing is resampled here, and are written
one after the other, a few tiles at a time. A TIFF has no mask: labels are 0 where nothing was
measured, and classes have a value for it.

References
----------
OME-TIFF and its sub-resolutions,
https://ome-model.readthedocs.io/en/stable/ome-tiff/specification.html.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import numpy.typing as npt

from pipeline.errors import OutputError
from pipeline.image.frame import Frame
from pipeline.image.grid import Grid
from pipeline.image.pixel_area import Scale, scale
from pipeline.sinks.cog import CLASSIC, Palette
from pipeline.sinks.pyramid import Pyramid

DTYPES = ("uint8", "uint16", "uint32")
"""What OME's model knows of the types that labels have."""
TILE = 512
ACROSS = 4096
"""Columns that are read at once."""
NODATA = 42113
"""GDAL's tag for the value of what was not measured."""
_NAMESPACE = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
_SYMBOLS = {"um": "µm", "mm": "mm", "m": "m"}
_MICRONS = {"um": 1.0, "mm": 1e3, "m": 1e6}


def write_ome_tiff(path: str, pyramid: Pyramid, palette: Palette | None = None) -> None:
    """Write the levels of a pyramid, which is whole, as an OME-TIFF. The file appears when it is
    complete; nothing else is left behind.

    Parameters
    ----------
    path
        The file to be written, in a folder that exists.
    pyramid
        The labels or classes, 2-D or 3-D, of a type of DTYPES.
    palette
        For classes of a byte or two: their colours go into the file, and the value that means "not
        measured".

    Raises
    ------
    ValueError
        Where the type is another.
    OutputError
        Where the file cannot be written.
    """
    import tifffile

    if pyramid.dtype not in DTYPES:
        raise ValueError(
            f"{path}: an OME-TIFF cannot hold {pyramid.dtype}; allowed: {', '.join(DTYPES)}"
        )
    levels = range(pyramid.levels)
    with tempfile.TemporaryDirectory(prefix=".tiff-", dir=Path(path).parent) as folder:
        partial = Path(folder, "labels.ome.tif")
        try:
            with tifffile.TiffWriter(
                partial, bigtiff=_is_big(pyramid), ome=False, shaped=False
            ) as file:
                for level in levels:
                    how: dict[str, Any] = {
                        "shape": pyramid.shape(level),
                        "dtype": pyramid.dtype,
                        "tile": (TILE, TILE),
                        "software": "tilewise",
                    }
                    how |= {
                        "compression": "zlib",
                        "predictor": True,
                        "metadata": None,
                        "maxworkers": 1,
                    }
                    how |= (
                        {"subifds": len(levels) - 1, "description": _ome_xml(pyramid)}
                        if level == 0
                        else {"subfiletype": 1}
                    )
                    file.write(
                        _tiles(pyramid, level),
                        **how,
                        **_resolution(pyramid.frame, level),
                        **_colours(palette, pyramid),
                    )
        except OSError as error:
            raise OutputError(f"{path} cannot be written ({error}); is the disk full?") from error
        partial.replace(path)


def _tiles(pyramid: Pyramid, level: int) -> Iterator[npt.NDArray[Any]]:
    """The tiles of a level in the file's order, each whole: what lies beyond the image is 0."""
    shape = pyramid.shape(level)
    strips = Grid(shape, (*(1 for _ in shape[:-2]), TILE, ACROSS))
    for strip in map(strips.core, range(len(strips))):
        values = pyramid.read(strip, level)
        for left in range(0, strip.shape[-1], TILE):
            part = values[..., left : left + TILE].reshape(strip.shape[-2], -1)
            yield np.pad(part, [(0, TILE - n) for n in part.shape])


def _colours(palette: Palette | None, pyramid: Pyramid) -> dict[str, Any]:
    """What makes numbers colours, for readers that know it."""
    if palette is None:
        return {"photometric": "minisblack"}
    table = np.zeros((3, np.iinfo(pyramid.dtype).max + 1), np.uint16)
    for number, entry in palette.legend.items():
        table[:, number] = np.array(entry.colour) * 257
    return {
        "photometric": "palette",
        "colormap": table,
        "extratags": [(NODATA, "s", 0, str(palette.nodata), True)],
    }


def _scale(frame: Frame) -> Scale | None:
    """The unit of the axes of which it is known."""
    return scale(replace(frame, unlike=()))


def _resolution(frame: Frame, level: int) -> dict[str, Any]:
    """Pixels per centimetre, where the image says how large they are."""
    found = _scale(frame)
    if found is None or {frame.ndim - 2, frame.ndim - 1} & set(frame.unlike):
        return {}
    down, across = (
        1e4 / (size * found.factor * _MICRONS[found.unit] * 2**level)
        for size in frame.pixel_size[-2:]
    )
    return {"resolution": (across, down), "resolutionunit": "CENTIMETER"}


def _ome_xml(pyramid: Pyramid) -> str:
    """One image of one channel, with the size of its pixels. (That of tifffile has a random number,
    and is other bytes each time.)
    """
    frame = pyramid.frame
    found = _scale(pyramid.frame)
    planes, rows, columns = (1, *frame.shape)[-3:]
    root = ET.Element("OME", {"xmlns": _NAMESPACE, "Creator": "tilewise"})
    image = ET.SubElement(root, "Image", ID="Image:0", Name=Path(pyramid.path).stem)
    extent = {"SizeX": columns, "SizeY": rows, "SizeC": 1, "SizeZ": planes, "SizeT": 1}
    about = {"ID": "Pixels:0", "DimensionOrder": "XYZCT", "Type": pyramid.dtype} | {
        key: str(n) for key, n in extent.items()
    }
    if found is not None:
        for axis, size in enumerate(frame.pixel_size):
            if axis in frame.unlike:
                continue
            letter = "ZYX"[axis - frame.ndim]
            about |= {
                f"PhysicalSize{letter}": repr(size * found.factor),
                f"PhysicalSize{letter}Unit": _SYMBOLS[found.unit],
            }
    pixels = ET.SubElement(image, "Pixels", about)
    ET.SubElement(pixels, "Channel", ID="Channel:0:0", SamplesPerPixel="1")
    ET.SubElement(pixels, "TiffData", IFD="0", PlaneCount=str(planes))
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        + ET.tostring(root, encoding="unicode").encode("ascii", "xmlcharrefreplace").decode()
    )


def _is_big(pyramid: Pyramid) -> bool:
    """Whether the file needs 64-bit offsets, counted as if nothing could be compressed."""
    pixels = (
        sum(
            len(Grid(shape, (*(1 for _ in shape[:-2]), TILE, TILE)))
            for shape in map(pyramid.shape, range(pyramid.levels))
        )
        * TILE**2
    )
    return pixels * np.dtype(pyramid.dtype).itemsize > CLASSIC
