"""What lies beside a raster file and belongs to it: masks, overviews, auxiliary metadata, world
files; on this machine or at an address.

GDAL finds these by their names, and would open a mask or overviews of any kind. Here they are
looked at first.
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
"""Endings after a file's whole name: a mask, overviews, and those of the mask."""
METADATA = ".aux.xml"
PAGE = (b"<!do", b"<!DO", b"<htm", b"<HTM")
"""How a page begins that some servers send for whatever they have not."""
SYSTEM = ".prj"
"""The ending, in place of a file's own, of one that names the CRS of what lies beside it."""
LARGEST = 16 << 20
"""Bytes of auxiliary metadata."""


def names(path: str) -> list[str]:
    """What may belong to a file of this machine: world files are named by the first and the last
    letter of its ending.
    """
    stem, dot, ending = path.rpartition(".")
    worlds = [f"{ending[:1]}{ending[-1:]}w", f"{ending}w", "wld", SYSTEM[1:]]
    worlds = [name.upper() for name in worlds] if ending.isupper() else worlds
    return [
        *(path + each for each in (*RASTERS, METADATA)),
        *(f"{stem}{dot}{name}" for name in worlds if dot),
    ]


def system(path: str, file: Any) -> str | None:
    """The file that names the CRS of one that has a transform, as from a world file, and says
    nothing of its CRS; None where none does.
    """
    if locations.remote(path) or file.crs is not None or file.transform.is_identity:
        return None
    candidates = (str(Path(path).with_suffix(ending)) for ending in (SYSTEM, SYSTEM.upper()))
    return next((name for name in candidates if Path(name).is_file()), None)


def refuse(path: str) -> None:
    """SourceError where a mask or overviews beside a file of this machine are no TIFF."""
    for ending in RASTERS:
        if (file := Path(path + ending)).is_file():
            with file.open("rb") as opened:
                _refuse(str(file), opened.read(len(TIFF[0])))


@functools.lru_cache(maxsize=256)
def found(address: str) -> tuple[str, ...]:
    """The endings of what lies beside a file at an address, looked at; none where its address is a
    signed one, which is good for it alone.

    SourceError where a mask or overviews are no TIFF, or metadata lead elsewhere.
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
    """How GDAL is to look for what lies beside a file at an address: not at all where nothing does,
    for each look is a request.
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
