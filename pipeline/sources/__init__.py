"""Readers of images.

A reader is a class with the members that `pipeline.sources.contract` lists. Its constructor takes
the keys of a job's ``source``. `open_source` finds the reader of an image. What several readers
need lies beside them: `axes` (which axis is which, the options that choose along axes),
`fingerprints` (what tells one file from another), `facts` (what people are told of an image),
`declared_sizes` (what a file may declare before memory is taken).
"""

from __future__ import annotations

import glob
import os
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from pipeline.config.option_errors import taken
from pipeline.errors import JobError, SourceError, nearest
from pipeline.sources.contract import Masked, Source, every, where_measured
from pipeline.storage.locations import checked, remote

__all__ = ["KINDS", "Masked", "Source", "checked_numbers", "every", "open_source", "where_measured"]

KINDS = {
    "geotiff": "pipeline.sources.raster:RasterFile",
    "raster": "pipeline.sources.raster:RasterFile",
    "image": "pipeline.sources.pictures:Picture",
    "mosaic": "pipeline.sources.mosaic:Mosaic",
    "dicom": "pipeline.sources.dicom:DicomSlide",
    "nifti": "pipeline.sources.nifti:NiftiImage",
    "tiff": "pipeline.sources.tiffs:TiffImage",
    "stac": "pipeline.sources.stac:Item",
    "zarr": "pipeline.sources.zarrs:ZarrImage",
}
ENDINGS = {
    ".tif": "geotiff",
    ".tiff": "geotiff",
    ".png": "image",
    ".jpg": "image",
    ".jpeg": "image",
}
ENDINGS |= {".jp2": "raster", ".j2k": "raster", ".img": "raster", ".vrt": "raster", ".json": "stac"}
ENDINGS |= dict.fromkeys(
    (".svs", ".ndpi", ".scn", ".bif", ".qptiff", ".zif", ".lsm", ".stk", ".tf2", ".tf8", ".btf"),
    "tiff",
)
ENDINGS |= {
    ".ome.tif": "tiff",
    ".ome.tiff": "tiff",
    ".ptif": "geotiff",
    ".ptiff": "geotiff",
    ".gtiff": "geotiff",
}
ENDINGS |= {".nii": "nifti", ".nii.gz": "nifti", ".dcm": "dicom"}


ELSEWHERE = ("geotiff", "raster", "zarr")
"""Kinds that are read from servers too."""


def open_source(image: Any, /, *, kind: str | None = None, **options: Any) -> Source:
    """Open an image.

    Parameters
    ----------
    image
        A path or an address, a NumPy or Dask array, or an xarray DataArray. A list of paths, or a
        pattern such as ``tiles/*.tif``, is a mosaic: the first path, or the first by name, is on
        top.
    kind
        The kind of file: geotiff or raster (GeoTIFF, COG, JPEG 2000, Erdas Imagine, VRT), image
        (PNG, JPEG), mosaic (several rasters), stac (an item's assets), tiff (stacks, OME-TIFF,
        whole slides), dicom (whole slides), nifti, or zarr (arrays and OME-Zarr). None: found from
        the name and the first bytes.
    **options
        Options of the reader, which are the fields of its class.

    Returns
    -------
    Source
        A reader whose frame was looked at once, so that a wrong option fails here.

    Raises
    ------
    SourceError
        If there is no such file, or it cannot be opened.
    JobError
        If the kind or an option is not known, or does not fit the image.

    Examples
    --------
    >>> source = open_source(np.zeros((3, 40, 60), np.uint8), bands=[3, 1])
    >>> source.frame.shape, source.frame.bands
    ((40, 60), ('3', '1'))
    """
    if kind is not None and not (isinstance(kind, str) and kind in KINDS):
        raise JobError(f"kind: there is no kind of source {kind!r}; {nearest(kind, KINDS)}")
    if paths := _several(image):
        if kind not in (None, "mosaic"):
            raise JobError(f"kind: {kind!r} of several files; allowed: mosaic")
        return _made(KINDS["mosaic"], "mosaic", {"path": paths, **options})
    if twice := next((key for key in ("path", "array") if key in options), None):
        raise JobError(f"{twice}: given beside the image; allowed: one of them")
    if not isinstance(image, (str, os.PathLike)):
        import_module("pipeline.sources.foreign_objects").refuse(image)
        return _made("pipeline.sources.arrays:ArrayImage", "array", {"array": image, **options})
    path = _there(image)
    kind = kind or _guessed(path)
    if remote(path) and kind not in ELSEWHERE:
        raise JobError(
            f"{path}: a source of kind {kind} is read of this machine only; allowed at an "
            f"address: {', '.join(ELSEWHERE)}"
        )
    return _made(KINDS[kind], kind, {"path": path, **options})


def _several(image: Any) -> tuple[str, ...]:
    """The paths of a list or a pattern; none if ``image`` is a single image."""
    if (
        isinstance(image, (list, tuple))
        and image
        and all(isinstance(path, (str, os.PathLike)) for path in image)
    ):
        return tuple(path for each in image for path in _several(each) or (_there(each),))
    if remote(image) or not isinstance(image, (str, os.PathLike)):
        return ()
    path = _local(image)
    # os.path.exists is False, and raises nothing, for a text that cannot be a path
    if not glob.has_magic(os.fspath(image)) or os.path.exists(path):  # noqa: PTH110
        return ()
    found = tuple(sorted(glob.glob(str(path))))  # noqa: PTH207  the pattern may begin anywhere
    if not found:
        raise SourceError(f"there is no image that the pattern {image} fits")
    return found


def _there(image: str | os.PathLike[str]) -> str:
    """The address, or the absolute path; SourceError if nothing is there."""
    if remote(image):
        return checked(str(image))
    path = _local(image)
    if not os.path.exists(path):  # noqa: PTH110
        raise SourceError(f"there is no image at {path}")
    return str(path)


def _local(image: str | os.PathLike[str]) -> Path:
    """An absolute path, in which ``~`` and ``~user`` are expanded unless a file has that name."""
    path = Path(image)
    if not os.fspath(image).startswith("~/") and os.path.exists(path):  # noqa: PTH110
        return path.absolute()
    with suppress(RuntimeError):  # there is no such user
        path = path.expanduser()
    return path.absolute()


def _guessed(where: str) -> str:
    """The kind of an image by its name and its first bytes."""
    path = Path(urlsplit(where).path if remote(where) else where)
    if remote(where):
        kind = {".tif": "geotiff", ".tiff": "geotiff", ".zarr": "zarr"}.get(path.suffix.lower())
        if kind is None:
            what = _unread(where) or f"{path.name} does not tell what it is; name its kind"
            raise JobError(f"kind: {what}; allowed at an address: {', '.join(ELSEWHERE)}")
        if kind == "geotiff":
            import_module("pipeline.sources.first_page").check_remote(where)
        return kind
    if path.is_dir() and any(
        (path / name).exists() for name in ("zarr.json", ".zarray", ".zgroup")
    ):
        return "zarr"
    if path.is_dir() and any(path.glob("*.dcm")):
        return "dicom"
    if path.is_dir():
        if unread := _unread(where):
            raise SourceError(unread)
        raise SourceError(
            f"{path} is a folder, and no Zarr array or group: it holds neither zarr.json nor "
            f".zarray nor .zgroup"
        )
    ending = next(
        (
            ending
            for ending in sorted(ENDINGS, key=len, reverse=True)
            if path.name.lower().endswith(ending)
        ),
        None,
    )
    if ending is None:
        if unread := _unread(where):
            raise JobError(f"kind: {unread}; {nearest('', KINDS)}")
        raise JobError(
            f"kind: {path.name} does not tell what it is; name its kind; {nearest('', KINDS)}"
        )
    kind = ENDINGS[ending]
    found: str = (
        import_module("pipeline.sources.first_page").kind_of(str(path), kind)
        if kind in ("geotiff", "tiff")
        else kind
    )
    return found


def _unread(where: str) -> str | None:
    """A sentence on a kind of file that is known but not read; None for an unknown kind."""
    what = import_module("pipeline.sources.unsupported").told(where)
    return None if what is None else f"{where if remote(where) else Path(where)} is {what}"


def _made(where: str, kind: str, options: dict[str, Any]) -> Source:
    """A reader, opened once so that errors in the file or the options are raised now.

    Parameters
    ----------
    where
        The module and the class of the reader, ``module:class``.
    kind
        What messages call it.
    options
        Its fields.
    """
    module, name = where.split(":")
    made = getattr(import_module(module), name)
    given = taken(
        made, options, None, unknown=f"a source of kind {kind} has no such option", stated=True
    )
    source: Source = made(**given)
    try:
        source.frame  # noqa: B018  opens the file
    except JobError as error:
        if "channels" in options and str(error).startswith("bands:"):
            # The message names the option that was written.
            raise JobError(str(error).replace("bands", "channels", 1)) from error
        raise
    return source


def checked_numbers(dtype: np.dtype[Any], what: str) -> str:
    """Check that a pixel type is a number, and give its name.

    Parameters
    ----------
    dtype
        The pixel type, of any byte order.
    what
        What the error calls the image.

    Returns
    -------
    str
        Such as ``uint16`` or ``float32``; bool counts as ``uint8``.

    Raises
    ------
    SourceError
        If it is not bool, an integer or a float.
    """
    if dtype.kind not in "biuf":
        raise SourceError(f"{what} holds {dtype}; allowed: integers and floats")
    return "uint8" if dtype.kind == "b" else dtype.newbyteorder("=").name
