"""Files beside a raster that belong to it (masks, overviews, auxiliary metadata, world files),
local or at an address.

GDAL finds them by name, and would open a mask or overviews in any format. Here they are checked
first.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pipeline.errors import SourceError
from pipeline.storage import locations

TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
RASTERS = (".msk", ".ovr", ".msk.ovr")
"""Endings after a file's full name: a mask, overviews, and the mask's overviews."""
METADATA = ".aux.xml"
PAGE = (b"<!do", b"<!DO", b"<htm", b"<HTM")
"""The start of the HTML page that some servers send for a file that does not exist."""
SYSTEM = ".prj"
"""The ending, instead of the file's own, of a file that names the CRS."""
LARGEST = 16 << 20
"""The most bytes of auxiliary metadata."""


def names(path: str) -> list[str]:
    """The names of files that may belong to a local file. The ending of a world file is made of the
    first and last letter of the file's own.
    """
    stem, dot, ending = path.rpartition(".")
    worlds = [f"{ending[:1]}{ending[-1:]}w", f"{ending}w", "wld", SYSTEM[1:]]
    worlds = [name.upper() for name in worlds] if ending.isupper() else worlds
    return [
        *(path + each for each in (*RASTERS, METADATA)),
        *(f"{stem}{dot}{name}" for name in worlds if dot),
    ]


def system(path: str, file: Any) -> str | None:
    """The file that names the CRS of a raster with a transform, as from a world file, but without a
    CRS; None if there is none.
    """
    if locations.remote(path) or file.crs is not None or file.transform.is_identity:
        return None
    candidates = (str(Path(path).with_suffix(ending)) for ending in (SYSTEM, SYSTEM.upper()))
    return next((name for name in candidates if Path(name).is_file()), None)


def refuse(path: str) -> None:
    """Raise SourceError if a mask or overviews beside a local file are not TIFFs."""
    for ending in RASTERS:
        if (file := Path(path + ending)).is_file():
            with file.open("rb") as opened:
                _refuse(str(file), opened.read(len(TIFF[0])))


@functools.lru_cache(maxsize=256)
def found(address: str) -> tuple[str, ...]:
    """The endings of the files beside a file at an address, once they are checked. Empty if the
    address is signed, since the signature is valid for one file only.

    Raises
    ------
    SourceError
        If a mask or overviews are not TIFFs, or metadata refer to other files.
    """
    if urlsplit(address).query:
        return ()
    place, _, name = address.rpartition("/")
    present = []
    for ending in RASTERS:
        head = (
            locations.begins(place, name + ending, len(TIFF[0]))
            if ending != ".msk.ovr" or ".msk" in present
            else None
        )
        if head is not None and head not in PAGE:
            _refuse(address + ending, head)
            present.append(ending)
    text = locations.begins(place, name + METADATA, LARGEST)
    if text is not None and b"<PAMDataset" in text:
        if re.search(rb"OVERVIEW_FILE|MASK_FILE", text):
            raise SourceError(
                f"{address}{METADATA} refers to other files; allowed at an address: overviews in "
                f"the image, or in {name}.ovr"
            )
        present.append(METADATA)
    return tuple(present)


def settings(address: str) -> dict[str, str]:
    """GDAL's settings for files beside a file at an address. If there are none, GDAL must not look
    for them, since each look is a request.
    """
    present = found(address)
    ending = Path(urlsplit(address).path).suffix
    if not present or not ending:
        return {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR"}
    allowed = ",".join((ending, *(ending + each for each in present)))
    return {"GDAL_DISABLE_READDIR_ON_OPEN": "TRUE", "CPL_VSIL_CURL_ALLOWED_EXTENSIONS": allowed}


def _refuse(name: str, head: bytes) -> None:
    if not head.startswith(TIFF):
        raise SourceError(
            f"{name} is no TIFF: it begins with {head!r}; allowed for masks and overviews: TIFF"
        )
