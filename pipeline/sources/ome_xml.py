"""Read the OME-XML of OME-TIFFs: the files of an image, its pixel sizes and channel names.

References
----------
OME-XML, https://docs.openmicroscopy.org/ome-model.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from pipeline.sources.linked_files import followed

UNITS = {
    "li": ("inch", 1 / 12),
    "pt": ("inch", 1 / 72),
    "ua": ("astronomical_unit", 1.0),
    "reference frame": ("pixel", 1.0),
}
"""Units with another meaning in OME than elsewhere: lines, points, astronomical units."""
LARGEST = 64 << 20
"""The most bytes of a companion file, which is read whole."""


@functools.lru_cache(maxsize=8)
def parsed(text: str) -> ET.Element:
    """Parse XML; ValueError if it declares a document type."""
    if "<!DOCTYPE" in text:
        raise ValueError("its XML declares a document type, which is not allowed")
    # without a document type there are no entities to expand
    return ET.fromstring(text)  # noqa: S314


def named(element: ET.Element, name: str) -> Iterator[ET.Element]:
    """The children of an element with a name, in any version of the namespace."""
    return (child for child in element if child.tag.rpartition("}")[2] == name)


def settled(text: str, path: str) -> tuple[str, tuple[str, ...]]:
    """OME-XML in which nothing in this file refers to another name, and the other files that it
    names.

    A renamed file is recognized by its UUID. Without a UUID, the file is taken to hold all planes
    if the XML names a single file, that file does not exist, and it would hold all planes. The
    files of a set name each other, so this does not hold for them.

    Raises
    ------
    SourceError
        If a file that it names is not in this file's folder.
    """
    root = parsed(text)
    own = Path(path).name
    if metadata := next(
        (element.get("MetadataFile") for element in named(root, "BinaryOnly")), None
    ):
        beside = Path(followed(path, metadata, *_folders(path)))
        if beside.stat().st_size > LARGEST:
            raise ValueError(
                f"{beside} has {beside.stat().st_size} bytes; allowed: up to {LARGEST}"
            )
        text = beside.read_text()
        root = parsed(text)
    told = [(parent, uuid) for parent in root.iter() for uuid in named(parent, "UUID")]
    alone = root.get("UUID") is None and _is_whole(
        root, {str(uuid.get("FileName")) for _, uuid in told}, Path(path).parent
    )
    mine = [
        uuid
        for _, uuid in told
        if uuid.get("FileName") == own or alone or (uuid.text and uuid.text == root.get("UUID"))
    ]
    ids = {uuid.text for uuid in mine}
    others = [
        str(uuid.get("FileName"))
        for _, uuid in told
        if uuid.text not in ids and uuid.get("FileName")
    ]
    found = tuple(dict.fromkeys(followed(path, name, *_folders(path)) for name in others))
    return (_without(root, mine) if alone else text), found


def images(text: str) -> list[tuple[str, ET.Element]]:
    """The name and the Pixels element of each image in OME-XML."""
    return [
        (image.get("Name", ""), pixels)
        for image in named(parsed(text), "Image")
        for pixels in named(image, "Pixels")
    ]


def lengths(pixels: ET.Element) -> dict[str, tuple[float, str]]:
    """The pixel size and its unit along each axis for which it is given, and the time increment."""
    found = {}
    for letter in "xyz":
        size = pixels.get(f"PhysicalSize{letter.upper()}")
        unit = pixels.get(f"PhysicalSize{letter.upper()}Unit", "µm")
        if size is not None:
            name, factor = UNITS.get(unit, (unit, 1.0))
            found[letter] = float(size) * factor, name
    if (apart := pixels.get("TimeIncrement")) is not None:
        found["t"] = float(apart), pixels.get("TimeIncrementUnit", "s")
    return found


def channels(pixels: ET.Element) -> tuple[str, ...]:
    """The names of the channels: a channel with several samples gives a name for each, and a
    channel without a name gives its number. Empty if no channel has a name.
    """
    told = [
        (element.get("Name"), int(element.get("SamplesPerPixel", 1)))
        for element in named(pixels, "Channel")
    ]
    if not any(name for name, _ in told) or (len(told) == 1 and told[0][1] > 1):
        # one channel of several samples is a colour image; its name is not that of a band
        return ()
    each = [
        (name or str(k + 1), sample, many)
        for k, (name, many) in enumerate(told)
        for sample in range(many)
    ]
    return tuple(name if many == 1 else f"{name}_{sample + 1}" for name, sample, many in each)


def of_series(text: str, series: Sequence[Any], number: int) -> ET.Element | None:
    """The Pixels element of one of tifffile's series. tifffile skips images without pages, and
    images with pages of another size.
    """
    left = iter(images(text))
    found = None
    for each in series[: number + 1]:
        size = str(each.keyframe.imagewidth), str(each.keyframe.imagelength)
        fits = (
            pixels
            for name, pixels in left
            if (pixels.get("SizeX"), pixels.get("SizeY")) == size and name in ("", each.name)
        )
        found = next(fits, None)
    return found


def _is_whole(root: ET.Element, names: set[str], folder: Path) -> bool:
    """Whether a single file, which does not exist, would hold all planes."""
    pixels = [element for image in named(root, "Image") for element in named(image, "Pixels")]
    there = sum(
        int(data.get("PlaneCount", 1)) for each in pixels for data in named(each, "TiffData")
    )
    needed = 0
    for each in pixels:
        samples = max(
            (int(channel.get("SamplesPerPixel", 1)) for channel in named(each, "Channel")),
            default=1,
        )
        needed += math.prod(int(each.get(f"Size{letter}", 1)) for letter in "ZCT") // samples
    return (
        len(names) == 1
        and Path(*names).name in names
        and not (folder / Path(*names)).exists()
        and there >= needed
    )


def _folders(path: str) -> tuple[Path, Path]:
    folder = Path(path).resolve().parent
    return folder, folder


def _without(root: ET.Element, mine: list[ET.Element]) -> str:
    """The XML without some UUIDs: planes without one lie in this file."""
    text = ET.tostring(root, encoding="unicode")
    copy = ET.fromstring(text)  # noqa: S314  of our own writing
    gone = {uuid.text for uuid in mine}
    for parent in list(copy.iter()):
        for uuid in [child for child in named(parent, "UUID") if child.text in gone]:
            parent.remove(uuid)
    return ET.tostring(copy, encoding="unicode")
