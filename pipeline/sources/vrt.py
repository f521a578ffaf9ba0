"""Check VRTs: only bands assembled from local files in one folder are allowed. GDAL itself would
open anything that a VRT names.

Refused are: warped, derived, pansharpened, processed and raw bands, filters and arrays, because
they run code, read files in other ways, or are work for steps; open options that are not known to
be harmless; resampling with a result that depends on the window; and every name that is not a file
in the folder (addresses, GDAL's virtual file systems, links that lead out). VRTs inside the folder
are checked in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

from pipeline.errors import SourceError
from pipeline.sources.declared_sizes import check_text
from pipeline.sources.linked_files import followed

MARK = b"<VRTDataset"
"""The root element, by which a VRT is recognized."""
HEAD = 1024
"""The root element must stand in this many first bytes."""
LARGEST = 64 << 20
"""The most bytes of a VRT."""
DEEPEST = 8
"""The deepest nesting of VRTs."""
MOST = 1000
"""The most VRTs that one VRT may lead to."""
ELEMENTS = {
    "VRTDataset",
    "SRS",
    "GeoTransform",
    "GCPList",
    "GCP",
    "Metadata",
    "VRTRasterBand",
    "MaskBand",
    "OverviewList",
    "Overview",
    "Description",
    "UnitType",
    "Offset",
    "Scale",
    "NoDataValue",
    "NodataValue",
    "HideNoDataValue",
    "ColorInterp",
    "ColorTable",
    "Entry",
    "CategoryNames",
    "Category",
    "GDALRasterAttributeTable",
    "Histograms",
    "SimpleSource",
    "ComplexSource",
    "NoDataFromMaskSource",
    "SourceFilename",
    "SourceBand",
    "SourceProperties",
    "SrcRect",
    "DstRect",
    "NODATA",
    "UseMaskBand",
    "MaskValueThreshold",
    "RemappedValue",
    "ScaleOffset",
    "ScaleRatio",
    "SrcMin",
    "SrcMax",
    "DstMin",
    "DstMax",
    "Exponent",
    "Clamp",
    "LUT",
    "ColorTableComponent",
    "BlockXSize",
    "BlockYSize",
    "OpenOptions",
    "OOI",
}
"""The elements that are allowed, from GDAL's schema of November 2026."""
UNREAD = {"Metadata", "Histograms", "GDALRasterAttributeTable", "CategoryNames"}
"""Elements that change no pixel; their contents are not checked."""
PLAIN = "VRTSourcedRasterBand"
"""The only class of bands that is allowed: assembled from files."""
OPTIONS = {
    "NUM_THREADS",
    "GEOREF_SOURCES",
    "SPARSE_OK",
    "OVERVIEW_LEVEL",
    "USE_TILE_AS_BLOCK",
    "1BIT_ALPHA_PROMOTION",
    "USE_INTERNAL_OVERVIEWS",
    "APPLY_ORIENTATION",
}
"""Open options that lead to no other file."""
NEAREST = {"nearest", "near"}
"""Resampling methods that give a pixel the same value in every window. For other methods GDAL uses
weights that depend on the window.
"""
UNUSED = {"bilinear", "cubic", "cubicspline", "lanczos", "mode"}
"""Resampling methods that have no effect if the source's pixels coincide with the VRT's."""


def is_vrt(path: str) -> bool:
    """Whether a file is a VRT, whatever its name."""
    with Path(path).open("rb") as file:
        return MARK in file.read(HEAD)


def sources_of(path: str, folder: Path) -> tuple[str, ...]:
    """The files that a VRT refers to, directly or through other VRTs, in order and each once.

    Raises
    ------
    SourceError
        If a file is not local or not in the folder, if VRTs refer to each other in a circle or are
        nested too deeply, or if a VRT holds what is not allowed.
    """
    found: dict[str, None] = {}
    _follow(path, folder, (), found, [MOST])
    return tuple(found)


def _follow(
    path: str, folder: Path, above: tuple[str, ...], found: dict[str, None], left: list[int]
) -> None:
    """Add the files that a VRT refers to.

    Parameters
    ----------
    path
        The VRT.
    folder
        Where all files must lie.
    above
        The VRTs that led to this one.
    found
        What is added to.
    left
        One number: how many VRTs may still be opened.
    """
    left[0] -= 1
    if len(above) >= DEEPEST or left[0] < 0:
        raise SourceError(
            f"{path} is a VRT within {len(above)} others, of {MOST - left[0]}; allowed: "
            f"{DEEPEST} deep, and {MOST} in all"
        )
    for name in _references(path, folder):
        if name in (*above, str(Path(path).resolve())):
            raise SourceError(f"{path} refers to {name}, which refers to it")
        if name not in found:
            found[name] = None
            if is_vrt(name):
                _follow(name, folder, (*above, str(Path(path).resolve())), found, left)


def _references(path: str, folder: Path) -> tuple[str, ...]:
    """The files that one VRT refers to directly."""
    root = _parsed(path)
    for element in _elements(root):
        _refuse(path, element)
    return tuple(
        dict.fromkeys(_checked(path, element, folder) for element in root.iter("SourceFilename"))
    )


def _refuse(path: str, element: ET.Element) -> None:
    kind = element.get("subClass", PLAIN)
    if element.tag not in ELEMENTS or kind != PLAIN:
        what = f"{element.tag} of {kind}" if kind != PLAIN else element.tag
        raise SourceError(
            f"{path}: {what} is not allowed in a VRT; allowed: bands put together from files "
            f"(gdalbuildvrt makes such)"
        )
    if element.tag == "OOI" and (option := element.get("key", "").upper()) not in OPTIONS:
        raise SourceError(
            f"{path}: the option {option} of opening a file is not allowed in a VRT; allowed: "
            f"{', '.join(sorted(OPTIONS))}"
        )
    way = element.get("resampling", "nearest").lower()
    if (
        element.tag.endswith("Source")
        and way not in NEAREST
        and not (way in UNUSED and _fits(element))
    ):
        raise SourceError(
            f"{path}: resampling by {way} gives a pixel other values in other windows; allowed: "
            f"nearest, or the VRT's own pixels; "
            "else make a file of it: gdal_translate"
        )


def resamples(path: str) -> bool:
    """Whether a VRT, or one that it refers to, resamples a source to other pixels."""
    root = _parsed(path)
    sources = [element for element in root.iter() if element.tag.endswith("Source")]
    names = (
        str(Path(path).parent / (element.text or "").strip())
        for element in root.iter("SourceFilename")
    )
    return not all(map(_fits, sources)) or any(name.lower().endswith(".vrt") for name in names)


def _fits(element: ET.Element) -> bool:
    """Whether each pixel of a source coincides with one of the VRT."""
    source, target = (element.find(name) for name in ("SrcRect", "DstRect"))
    if source is None or target is None:
        return source is target
    try:
        taken, put = (
            [float(rect.get(key, "nan")) for key in ("xOff", "yOff", "xSize", "ySize")]
            for rect in (source, target)
        )
    except ValueError:
        return False
    return taken[2:] == put[2:] and all(number.is_integer() for number in (*taken, *put))


def _elements(element: ET.Element) -> Iterator[ET.Element]:
    """An element and all elements inside it, except those that change no pixel."""
    yield element
    if element.tag not in UNREAD:
        for child in element:
            yield from _elements(child)


def _parsed(path: str) -> ET.Element:
    check_text(path, "a VRT", LARGEST)
    try:
        text = Path(path).read_text("utf-8")
        if "<!DOCTYPE" in text:
            raise SourceError(f"{path} declares a document type, which is not allowed in a VRT")
        # without a document type there are no entities to expand
        return ET.fromstring(text)  # noqa: S314
    except (ET.ParseError, ValueError) as error:
        raise SourceError(f"{path} is no VRT: {error}") from error


def _checked(path: str, element: ET.Element, folder: Path) -> str:
    relative = element.get("relativeToVRT", element.get("relativetoVRT", "0")) == "1"
    return followed(
        path, (element.text or "").strip(), folder, Path(path).parent if relative else Path.cwd()
    )
