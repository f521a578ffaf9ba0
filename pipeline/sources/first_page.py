"""Choose the reader of a TIFF from its first page and its georeferencing, not from its name."""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple

from pipeline.errors import JobError, SourceError
from pipeline.sources.gdal import dataset, guarded, is_paged
from pipeline.sources.tiff_pages import FAULTS, INSTALL, decodable

KINDS = (
    *(
        "ome",
        "imagej",
        "svs",
        "scn",
        "ndpi",
        "bif",
        "qpi",
        "philips",
        "avs",
        "indica",
        "lsm",
        "stk",
        "fluoview",
        "micromanager",
    ),
    *(
        "mmstack",
        "ndtiff",
        "metaseries",
        "scanimage",
        "fei",
        "sem",
        "sis",
        "nih",
        "eer",
        "tvips",
        "mdgel",
        "andor",
        "vista",
        "volumetric",
    ),
)
"""tifffile's names for the formats of microscopes and scanners. GDAL would read only the first page
of such a file, and not its metadata.
"""
PLACES = (33550, 33922, 34264, 34735)
"""TIFF's georeferencing tags: scale, tie points, transformation, keys."""
UNITS = (4, 5)
"""TIFF's units of resolution that GDAL does not know: millimetre and micrometre."""
COUNTS = (
    r'\bSizeZ="(\d{1,9})"',
    r'\bSizeC="(\d{1,9})"',
    r'\bSizeT="(\d{1,9})"',
    r"^images=(\d{1,9})",
)
"""Patterns for the numbers of planes in descriptions of OME-XML and ImageJ. The number of planes is
the product of all that match.
"""


class _Told(NamedTuple):
    placed: bool
    """Whether its tags georeference the image."""
    microscopic: bool
    """Whether it is one of `KINDS`."""
    hidden: bool
    """Whether it holds more than the single page that GDAL reads."""
    decodable: bool
    """Whether the decoder that tifffile needs is installed."""


def kind_of(path: str, otherwise: str) -> str:
    """The kind of source that reads a TIFF: ``geotiff`` through GDAL, ``tiff`` through tifffile.

    Parameters
    ----------
    path
        A local file.
    otherwise
        The kind that the name suggests. It is used for a damaged file, and for one plain page
        without georeferencing.
    """
    told = _told(path)
    if told is None:
        return otherwise
    placed = told.placed
    try:
        with guarded(path, " cannot be opened"):
            file = dataset(path)
            placed = (
                placed
                or file.crs is not None
                or not file.transform.is_identity
                or bool(file.gcps[0])
            )
            paged = is_paged(path)
    except SourceError as error:
        if "missing codec" not in str(error):
            return otherwise
        if placed:
            raise SourceError(
                f"{error}; kind: tiff reads its pixels, without their place in the world: {INSTALL}"
            ) from error
        return "tiff"
    if placed or (otherwise == "geotiff" and not (told.decodable or told.hidden or paged)):
        return "geotiff"
    return "tiff" if told.microscopic or told.hidden or paged else otherwise


def check_remote(address: str) -> None:
    """Raise JobError if GDAL would silently read only a part of a TIFF at an address."""
    with guarded(address, " cannot be opened"):
        file = dataset(address)
        text = file.tags().get("TIFFTAG_IMAGEDESCRIPTION", "")
        placed = file.crs is not None or not file.transform.is_identity
        if not placed and (is_paged(address) or _planes(text) > file.count):
            raise JobError(
                f"{address} is a stack, or another TIFF of several pages; those are read of this "
                f"machine only; "
                "copy it, or read its first page as it is: kind: geotiff"
            )


def _told(path: str) -> _Told | None:
    """What the first page says; None if it is damaged."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            page: Any = file.pages.first
            placed = any(tag in page.tags for tag in PLACES)
            microscopic = any(getattr(file, f"is_{kind}", False) for kind in KINDS)
            shape = (
                file.shaped_metadata[0].get("shape", ())
                if page.is_shaped and file.shaped_metadata
                else ()
            )
            hidden = math.prod(shape) > math.prod(page.shape) or page.resolutionunit in UNITS
            hidden = hidden or (microscopic and _planes(page.description) > page.samplesperpixel)
            return _Told(placed, microscopic, hidden, decodable(page))

    except (*FAULTS, tifffile.TiffFileError):
        return None


def _planes(text: str) -> int:
    """The number of planes in a description; 1 if it names none."""
    found = (re.search(count, text, re.MULTILINE) for count in COUNTS)
    return math.prod(int(each[1]) for each in found if each)
