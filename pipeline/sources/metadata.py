"""What a microscope's or scanner's TIFF says of itself: how large its pixels are, what its channels are called, which files belong to it.

References
----------
OME-XML, https://docs.openmicroscopy.org/ome-model. Aperio's SVS writes microns per pixel (MPP) into a page's description.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from pipeline.sources.references import followed

MICRONS = {"m": 1e6, "cm": 1e4, "mm": 1e3, "µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "\\u00B5m": 1.0, "nm": 1e-3}
CENTIMETRE = 3
"""TIFF's number for a resolution in pixels per centimetre. One per inch is a printer's, and says nothing about a microscope."""


def companions(file: Any, path: str) -> tuple[str, ...]:
    """The other files that an OME-TIFF's metadata name, looked at before tifffile opens them; SourceError if one is not in its folder."""
    if not file.is_ome:
        return ()
    folder, found = Path(path).resolve().parent, []
    for element in ome_xml(file.ome_metadata).iter():
        name = element.get("FileName")
        if name and name != Path(path).name:
            found.append(followed(path, name, folder, folder))
    return tuple(dict.fromkeys(found))


def sizes(file: Any, series: Any, number: int) -> tuple[dict[str, float], tuple[str, ...]]:
    """How many microns a pixel of full resolution is along each axis, as far as the file says, and what OME calls its channels."""
    page = series.keyframe
    if file.is_ome:
        pixels = [element for element in ome_xml(file.ome_metadata).iter() if element.tag.endswith("}Pixels")]
        return _ome(pixels[number]) if number < len(pixels) else ({}, ())
    if number == 0 and (found := re.search(r"\bMPP\s*=\s*([0-9.]+)", page.description or "")):
        return dict.fromkeys("yx", float(found[1])), ()
    across, down = (float(value) for value in page.resolution)
    if min(across, down) <= 0:
        return {}, ()
    if file.is_imagej:
        about = file.imagej_metadata or {}
        unit = MICRONS.get(str(about.get("unit")), 0.0)
        found_z = {"z": float(about["spacing"]) * unit} if "spacing" in about else {}
        return ({"y": unit / down, "x": unit / across, **found_z} if unit else {}), ()
    return ({"y": 1e4 / down, "x": 1e4 / across} if int(page.resolutionunit) == CENTIMETRE else {}), ()


def _ome(pixels: ET.Element) -> tuple[dict[str, float], tuple[str, ...]]:
    """The sizes and channels' names of one image of OME-XML."""
    sizes = {}
    for letter in "xyz":
        unit = MICRONS.get(pixels.get(f"PhysicalSize{letter.upper()}Unit", "µm"), 0.0)
        if (size := float(pixels.get(f"PhysicalSize{letter.upper()}", 0)) * unit) > 0:
            sizes[letter] = size
    named = [element.get("Name") for element in pixels if element.tag.endswith("}Channel")]
    names = tuple(str(name or k + 1) for k, name in enumerate(named))
    return sizes, names if len(set(names)) == len(names) else ()


@functools.lru_cache(maxsize=8)
def ome_xml(text: str) -> ET.Element:
    """OME-XML; ValueError where it declares a document type."""
    if "<!DOCTYPE" in text:
        raise ValueError("its OME-XML declares a document type, which is not allowed")
    return ET.fromstring(text)  # noqa: S314  without a document type there are no entities to expand
