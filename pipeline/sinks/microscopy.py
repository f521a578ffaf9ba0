"""Labels as a tiled OME-TIFF with a pyramid in SubIFDs, for QuPath, Fiji, napari and tifffile.

It has no georeference. Levels are those of the labels' own pyramid, without resampling, written one
after the other, a few tiles at a time. A TIFF has no mask: labels are 0 where nothing was measured,
and classes have a value for it.

References
----------
.. [1] OME-TIFF and its sub-resolutions,
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
from pipeline.image.pixel_area import PixelSize, scale
from pipeline.sinks.cog import CLASSIC, Palette
from pipeline.sinks.pyramid import Pyramid

DTYPES = ("uint8", "uint16", "uint32")
"""Dtypes of labels in OME's model."""
TILE = 512
ACROSS = 4096
"""Columns that are read at once."""
NODATA = 42113
"""GDAL's tag for the nodata value."""
_NAMESPACE = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
_SYMBOLS = {"um": "µm", "mm": "mm", "m": "m"}
_MICRONS = {"um": 1.0, "mm": 1e3, "m": 1e6}


def write_ome_tiff(path: str, pyramid: Pyramid, palette: Palette | None = None) -> None:
    """Write the levels of a complete pyramid as an OME-TIFF, atomically.

    Parameters
    ----------
    path : Path
        The file, in an existing folder.
    pyramid : Pyramid
        The labels or classes, 2-D or 3-D, with a dtype of DTYPES.
    palette : Palette, optional
        For classes of one or two bytes: colours, and the value for "not measured".

    Raises
    ------
    ValueError
        The dtype is another.
    OutputError
        The file cannot be written.
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
    """Yield the tiles of a level in file order, padded with 0 beyond the image."""
    shape = pyramid.shape(level)
    strips = Grid(shape, (*(1 for _ in shape[:-2]), TILE, ACROSS))
    for strip in map(strips.core, range(len(strips))):
        values = pyramid.read(strip, level)
        for left in range(0, strip.shape[-1], TILE):
            part = values[..., left : left + TILE].reshape(strip.shape[-2], -1)
            yield np.pad(part, [(0, TILE - n) for n in part.shape])


def _colours(palette: Palette | None, pyramid: Pyramid) -> dict[str, Any]:
    """The colour map, for readers that support it."""
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


def _scale(frame: Frame) -> PixelSize | None:
    """The unit of the axes with a known unit."""
    return scale(replace(frame, unlike=()))


def _resolution(frame: Frame, level: int) -> dict[str, Any]:
    """Pixels per centimetre, if the pixel size is known."""
    found = _scale(frame)
    if found is None or {frame.ndim - 2, frame.ndim - 1} & set(frame.unlike):
        return {}
    down, across = (
        1e4 / (size * found.factor * _MICRONS[found.unit] * 2**level)
        for size in frame.pixel_size[-2:]
    )
    return {"resolution": (across, down), "resolutionunit": "CENTIMETER"}


def _ome_xml(pyramid: Pyramid) -> str:
    """OME-XML for one image of one channel with its pixel size.

    tifffile's contains a random number, so its bytes differ each time.
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
    """Whether the file needs 64-bit offsets, if nothing could be compressed."""
    pixels = (
        sum(
            len(Grid(shape, (*(1 for _ in shape[:-2]), TILE, TILE)))
            for shape in map(pyramid.shape, range(pyramid.levels))
        )
        * TILE**2
    )
    return pixels * np.dtype(pyramid.dtype).itemsize > CLASSIC
