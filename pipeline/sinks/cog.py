"""Labels as a cloud-optimised GeoTIFF (COG).

It has tiles of 512, nearest-neighbour overviews, and a mask of unmeasured pixels. Labels go window
by window into a temporary tiled GeoTIFF, from which GDAL's COG driver builds the file with its
overviews. So memory is bounded by a window and GDAL's cache (``GDAL_CACHEMAX``) for images of any
size, and the disk holds the labels twice.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import JobError, OutputError
from pipeline.image.frame import Frame, Pins
from pipeline.image.grid import Box, Grid
from pipeline.image.legend import Entry

DTYPES = ("uint8", "uint16", "uint32", "uint64")
TILE = 512
WINDOW = 2048
"""Rows and columns in memory at once; a multiple of TILE, so that no compressed tile is written
twice.
"""
CLASSIC = 4_000_000_000
"""File size from which a TIFF uses 64-bit offsets; below 2^32, because compression can make noise
longer.
"""

Read = Callable[[Box], npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Palette:
    """The meaning of class values."""

    legend: Mapping[int, Entry]
    nodata: int
    """The value of pixels that were not measured."""


def write_cog(
    path: str,
    frame: Frame,
    dtype: str,
    read_labels: Read,
    read_valid: Read | None = None,
    palette: Palette | None = None,
    pins: Pins | None = None,
) -> None:
    """Write labels as a cloud-optimised GeoTIFF, atomically.

    Parameters
    ----------
    path : Path
        The file, in an existing folder.
    frame : Frame
        The image of the labels, 2-D; its CRS and transform are written if it has them.
    dtype : str
        ``uint32`` or ``uint64`` for ids, ``uint8`` or ``uint16`` for classes.
    read_labels : callable
        Called with boxes in raster order; returns the labels, (row, column), 0 = background, of a
        type that ``dtype`` represents.
    read_valid : callable, optional
        Likewise; returns bool, False where the pixel is masked as nodata. None: every pixel is
        valid.
    palette : Palette, optional
        For classes: colours go into the file, names into ``.aux.xml`` beside it, where GDAL and
        QGIS look for them.
    pins : optional
        Georeference of an image without a transform: ground control points, and a camera's model.

    Raises
    ------
    JobError
        The image is 3-D, or the dtype is another.
    ValueError
        A callable returns another shape or type.
    OutputError
        The file cannot be written.
    """
    if frame.ndim != 2:
        raise JobError(
            f"{path}: a GeoTIFF holds labels of 2 axes, not of the shape {frame.shape}; write "
            f"3-D labels as zarr"
        )
    if dtype not in DTYPES:
        raise JobError(f"{path}: labels cannot be written as {dtype}; allowed: {', '.join(DTYPES)}")
    target = Path(path)
    if not target.parent.is_dir():
        raise OutputError(f"{path}: the folder {target.parent} is not there; make it first")
    # GDAL lays its own temporary files beside what it writes: all go with the folder.
    with tempfile.TemporaryDirectory(prefix=".cog-", dir=target.parent) as folder:
        tiled = Path(folder, "tiled.tif")
        cloud = Path(folder, "cloud.tif")
        _write_tiled(tiled, frame, dtype, read_labels, read_valid, palette, pins)
        _verify(tiled)
        _convert(tiled, cloud, frame, dtype)
        _verify(cloud)
        if palette:
            Path(folder, "names").write_text(_names(palette), encoding="utf-8")
            Path(folder, "names").replace(f"{target}.aux.xml")
        cloud.replace(target)


def _names(palette: Palette) -> str:
    """Names and colours as GDAL's auxiliary metadata: category names, and an attribute table for
    QGIS.
    """
    from xml.etree import ElementTree as ET

    root = ET.Element("PAMDataset")
    band = ET.SubElement(root, "PAMRasterBand", band="1")
    names = ET.SubElement(band, "CategoryNames")
    for number in range(max(palette.legend) + 1):
        ET.SubElement(names, "Category").text = (
            palette.legend[number].name if number in palette.legend else ""
        )
    table = ET.SubElement(band, "GDALRasterAttributeTable", tableType="thematic")
    for index, (name, kind, usage) in enumerate(
        (("Value", 0, 5), ("Class", 2, 2), ("Red", 0, 6), ("Green", 0, 7), ("Blue", 0, 8))
    ):
        field = ET.SubElement(table, "FieldDefn", index=str(index))
        for tag, text in (("Name", name), ("Type", kind), ("Usage", usage)):
            ET.SubElement(field, tag).text = str(text)
    for index, (number, entry) in enumerate(palette.legend.items()):
        row = ET.SubElement(table, "Row", index=str(index))
        for value in (number, entry.name, *entry.colour):
            ET.SubElement(row, "F").text = str(value)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode") + "\n"


def _write_tiled(
    path: Path,
    frame: Frame,
    dtype: str,
    read_labels: Read,
    read_valid: Read | None,
    palette: Palette | None,
    pins: Pins | None,
) -> None:
    import rasterio
    from rasterio.errors import RasterioError

    windows = Grid(frame.shape, (WINDOW, WINDOW))
    try:
        with (
            rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
            _create(path, frame, dtype, palette) as file,
        ):
            _pin(file, pins)
            for box in map(windows.core, range(len(windows))):
                window = rasterio.windows.Window.from_slices(*box.slices)
                file.write(_checked(read_labels(box), box, dtype), 1, window=window)
                if read_valid is not None:
                    file.write_mask(_checked(read_valid(box), box, "bool"), window=window)
    except RasterioError as error:
        raise OutputError(
            f"{path}: the labels cannot be written ({error.__cause__ or error}); is the disk full?"
        ) from error


def _create(path: Path, frame: Frame, dtype: str, palette: Palette | None) -> Any:
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    height, width = frame.shape
    options = {
        "driver": "GTiff",
        "width": width,
        "height": height,
        "count": 1,
        "dtype": dtype,
        "crs": frame.crs,
    }
    layout = {
        "tiled": True,
        "blockxsize": TILE,
        "blockysize": TILE,
        "compress": "ZSTD",
        "zstd_level": 1,
        "predictor": 2,
    }
    transform = None if frame.transform is None else rasterio.Affine(*frame.transform)
    with warnings.catch_warnings():
        # An image need not be georeferenced.
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        file = rasterio.open(
            path,
            "w",
            transform=transform,
            bigtiff=_bigtiff(frame.shape, dtype),
            **options,
            **layout,
        )
    if palette:
        file.nodata = palette.nodata
        file.write_colormap(
            1, {number: (*entry.colour, 255) for number, entry in palette.legend.items()}
        )
    return file


def _pin(file: Any, pins: Pins | None) -> None:
    """Add ground control points and the camera's model to a file."""
    from rasterio.control import GroundControlPoint
    from rasterio.crs import CRS
    from rasterio.rpc import RPC

    if pins and pins.points:
        points = [GroundControlPoint(row, column, x, y, z) for row, column, x, y, z in pins.points]
        file.gcps = points, CRS.from_wkt(pins.crs) if pins.crs else CRS()
    if pins and pins.model:
        file.rpcs = RPC.from_gdal(dict(pins.model))


def _convert(source: Path, target: Path, frame: Frame, dtype: str) -> None:
    import rasterio
    import rasterio.shutil

    count = _overviews(frame.shape)
    nearest = {"overview_resampling": "NEAREST"} | (
        {"overview_count": count} if count else {"overviews": "NONE"}
    )
    packing = {
        "compress": "DEFLATE",
        "predictor": "YES",
        "blocksize": TILE,
        "bigtiff": _bigtiff(frame.shape, dtype),
    }
    try:
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
            rasterio.shutil.copy(
                source, target, driver="COG", num_threads="ALL_CPUS", **nearest, **packing
            )
    except Exception as error:
        # All that runs here is GDAL, and what rasterio raises for its errors has no public type.
        raise OutputError(
            f"{target}: GDAL cannot write the cloud-optimised GeoTIFF ({error}); is the disk full?"
        ) from error


def _verify(path: Path) -> None:
    """Decode every tile of every directory of the file: labels, overviews and masks.

    GDAL's threads lose write errors, and rasterio loses those raised when the copy is closed: on a
    full disk, both ended without an error in a truncated file.
    """
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning, RasterioError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path) as file:
                number = (1 + len(file.overviews(1))) * (
                    1 + (rasterio.enums.MaskFlags.per_dataset in file.mask_flag_enums[0])
                )
            for directory in range(1, number + 1):
                with rasterio.open(f"GTIFF_DIR:{directory}:{path}") as file:
                    _decode(file)
    except RasterioError as error:
        raise OutputError(
            f"{path}: the file is not whole ({error.__cause__ or error}); is the disk full?"
        ) from error


def _decode(file: Any) -> None:
    for (row, column), window in file.block_windows(1):
        if file.get_tag_item(f"BLOCK_OFFSET_{column}_{row}", "TIFF", bidx=1) is None:
            raise OutputError(
                f"{file.name}: the tile ({row}, {column}) was not written; is the disk full?"
            )
        file.read(1, window=window)


def _checked(values: npt.NDArray[Any], box: Box, dtype: str) -> npt.NDArray[Any]:
    """Return the values if they fill the box exactly.

    rasterio would stretch another shape, and wrap larger ids.
    """
    if values.shape != box.shape or not np.can_cast(values.dtype, dtype, "safe"):
        raise ValueError(
            f"{values.dtype} of shape {values.shape} was read for {box}; allowed: {dtype} of "
            f"shape {box.shape}"
        )
    return values


def _overviews(shape: tuple[int, ...]) -> int:
    """Number of overviews: until one fits in a tile, and no side of one pixel is halved.

    >>> shapes = (512, 512), (1025, 100), (1026, 100), (3, 9000), (1, 9000)
    >>> [_overviews(shape) for shape in shapes]
    [0, 1, 2, 1, 0]
    """
    short, long = sorted(shape)
    return min((long // (TILE + 1)).bit_length(), short.bit_length() - 1)


def _bigtiff(shape: tuple[int, ...], dtype: str) -> str:
    """Whether the file needs 64-bit offsets, if nothing could be compressed.

    GDAL cannot foresee this for compressed files.

    >>> _bigtiff((10_000, 10_000), "uint32"), _bigtiff((30_000, 30_000), "uint32")
    ('NO', 'YES')
    """
    pixels = len(Grid(shape, (TILE, TILE))) * TILE**2
    return "YES" if pixels * (np.dtype(dtype).itemsize + 1) * 4 / 3 > CLASSIC else "NO"
