"""What a VRT may be: bands put together from local files in one folder. GDAL's own reader would open anything that a VRT names.

Refused are warped, derived, pansharpened, processed and raw bands, which run code or read files by other ways, and every name that is no
file in the folder: addresses, GDAL's virtual file systems, links that lead out of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

from pipeline.errors import SourceError
from pipeline.sources.references import followed

LARGEST = 64 << 20
"""Bytes of a VRT."""
ELEMENTS = {
    "VRTDataset", "SRS", "GeoTransform", "GCPList", "GCP", "Metadata", "MDI", "VRTRasterBand", "MaskBand", "OverviewList", "Overview",
    "Description", "UnitType", "Offset", "Scale", "NoDataValue", "HideNoDataValue", "ColorInterp", "ColorTable", "Entry", "CategoryNames",
    "Category", "SimpleSource", "ComplexSource", "SourceFilename", "SourceBand", "SourceProperties", "SrcRect", "DstRect", "NODATA",
    "UseMaskBand", "ScaleOffset", "ScaleRatio", "SrcMin", "SrcMax", "DstMin", "DstMax", "Exponent", "Clamp", "LUT", "ColorTableComponent",
    "BlockXSize", "BlockYSize",
}  # fmt: skip


def sources_of(path: str, folder: Path) -> tuple[str, ...]:
    """The files that a VRT refers to, in its order, each once; SourceError if one is not local and in the folder, or something else is."""
    root = _parsed(path)
    for element in _elements(root):
        if element.tag not in ELEMENTS or "subClass" in element.attrib:
            what = f"{element.tag} of {element.attrib['subClass']}" if "subClass" in element.attrib else element.tag
            raise SourceError(f"{path}: {what} is not allowed in a VRT; allowed: bands put together from files (gdalbuildvrt makes such)")
    found = [_checked(path, element, folder) for element in root.iter("SourceFilename")]
    return tuple(dict.fromkeys(found))


def _elements(element: ET.Element) -> Iterator[ET.Element]:
    """An element and those within it, but for what metadata hold."""
    yield element
    if element.tag != "Metadata":
        for child in element:
            yield from _elements(child)


def _parsed(path: str) -> ET.Element:
    if (size := Path(path).stat().st_size) > LARGEST:
        raise SourceError(f"{path} has {size} bytes; allowed for a VRT: {LARGEST}")
    try:
        text = Path(path).read_text("utf-8")
        if "<!DOCTYPE" in text:
            raise SourceError(f"{path} declares a document type, which is not allowed in a VRT")
        return ET.fromstring(text)  # noqa: S314  without a document type there are no entities to expand
    except (ET.ParseError, ValueError) as error:
        raise SourceError(f"{path} is no VRT: {error}") from error


def _checked(path: str, element: ET.Element, folder: Path) -> str:
    relative = element.get("relativeToVRT", element.get("relativetoVRT", "0")) == "1"
    return followed(path, (element.text or "").strip(), folder, Path(path).parent if relative else Path.cwd())
