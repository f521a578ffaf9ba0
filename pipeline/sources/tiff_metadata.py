"""Read the pixel sizes and channel names from the metadata of microscopes' and scanners' TIFFs.

References
----------
ImageJ, https://imagej.net/ij/source/ij/io/TiffDecoder.java: sizes are those of the resolution tags
in the unit of its description. Aperio's SVS writes microns per pixel (MPP) into a page's
description. OME-XML: see `ome_xml`. All other formats as tifffile parses them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.image.units import length
from pipeline.sources import ome_xml

RESOLUTIONS = {
    2: ("inch", 25400.0),
    3: ("centimeter", 10000.0),
    4: ("millimeter", 1000.0),
    5: ("micrometer", 1.0),
}
"""TIFF's units of resolution: the number, the name, and the micrometres in one."""
PRINTERS = (2, 3)
"""The units inch and centimetre, which not only microscopes write."""
PRINTED = (
    72,
    96,
    100,
    120,
    144,
    150,
    180,
    200,
    240,
    300,
    350,
    360,
    400,
    600,
    720,
    1200,
    1440,
    2400,
)
"""Usual resolutions of cameras, screens and printers in pixels per inch: any program writes them
into its files, so they say nothing about the pixel size.
"""
COARSE = 2400
"""A resolution in inches of at most this many pixels per inch is taken as a printer's."""
Sizes = dict[str, tuple[float, str]]


@dataclass(frozen=True, slots=True)
class Said:
    """What a file's metadata say about one image."""

    sizes: Mapping[str, tuple[float, str]] = field(default_factory=dict)
    """The size of a pixel at full resolution and its unit, along the axes for which it is known."""

    channels: tuple[str, ...] = ()
    """The names of the channels."""

    unclear: tuple[str, ...] = ()
    """Warnings about metadata that were not used."""

    @property
    def microns(self) -> dict[str, float]:
        """The sizes that are lengths, in micrometres."""
        known = ((letter, size, length(unit)) for letter, (size, unit) in self.sizes.items())
        return {letter: size * float(unit.metres * 10**6) for letter, size, unit in known if unit}


def said(file: Any, number: int) -> Said:
    """What the metadata say about one series of a file opened by tifffile: first the format's own
    metadata, then the resolution tags of its pages.
    """
    page = file.series[number].keyframe
    told = []
    sizes = Sizes()
    channels = tuple[str, ...]()
    for name, reader in KINDS.items():
        if not getattr(file, f"is_{name}", False) or (number and name not in SERIES):
            continue
        try:
            found, names = reader(file, number)
        except (
            ValueError,
            TypeError,
            LookupError,
            AttributeError,
            ArithmeticError,
            SyntaxError,
        ) as error:
            told.append(
                f"its metadata of the kind {name} cannot be read: {type(error).__name__}: {error}"
            )
            continue
        sizes = found | sizes
        channels = channels or tuple(names)
    if not {"x", "y"} & set(sizes) and not (file.is_imagej and not number):
        found, remark = resolution(*_resolution(page))
        sizes |= found
        told += [remark] if remark else []
    odd = [letter for letter, (size, _) in sizes.items() if not 0 < size < math.inf]
    told += [
        f"the extent of a pixel along {letter} is {sizes[letter][0]:g}, which is none"
        for letter in odd
    ]
    return Said(
        {letter: each for letter, each in sizes.items() if letter not in odd}, channels, tuple(told)
    )


def resolution(across: float, down: float, unit: int) -> tuple[Sizes, str | None]:
    """The pixel size from TIFF's resolution tags; or a warning why they do not give one, since a
    printer's resolution says nothing about the image.

    >>> resolution(20000.0, 10000.0, 3), resolution(72.0, 72.0, 2)[0]
    (({'y': (1.0, 'µm'), 'x': (0.5, 'µm')}, None), {})
    """
    if unit not in RESOLUTIONS or min(across, down) <= 0 or across == down == 1:
        return {}, None
    name, microns = RESOLUTIONS[unit]
    inches = [value * 25400 / microns for value in (across, down)]
    printed = unit in PRINTERS and all(
        any(abs(value - each) <= 0.005 * each for each in PRINTED) for value in inches
    )
    if printed or (name == "inch" and min(inches) <= COARSE):
        return (
            {},
            (
                f"a resolution of {across:g} x {down:g} pixels per {name} is as a printer or "
                f"camera "
                f"has it; no size is taken from it"
            ),
        )
    return {"y": (microns / down, "µm"), "x": (microns / across, "µm")}, None


def sized(file: Any, shape: tuple[int, ...]) -> tuple[dict[str, Any], str | None]:
    """The pixel size from the resolution tags of a TIFF opened by rasterio, and a warning if they
    do not give one.

    Parameters
    ----------
    file
        The file, opened at its finest level.
    shape
        (row, column) of the level that is read, to which the size applies.
    """
    tags = file.tags()
    across, down = (float(tags.get(f"TIFFTAG_{axis}RESOLUTION", "0")) for axis in "XY")
    sizes, doubt = resolution(across, down, int(tags.get("TIFFTAG_RESOLUTIONUNIT", "1").split()[0]))
    if not sizes:
        return {}, doubt
    pixel = tuple(
        sizes[letter][0] * full / n for letter, full, n in zip("yx", file.shape, shape, strict=True)
    )
    return {"pixel_size": pixel, "unit": "micrometer"}, doubt


def _resolution(page: Any) -> tuple[float, float, int]:
    tags = page.tags
    if not {"XResolution", "YResolution"} <= {tag.name for tag in tags}:
        return 0.0, 0.0, 1
    across, down = page.resolution
    return float(across), float(down), int(page.resolutionunit)


def _ome(file: Any, number: int) -> tuple[Sizes, tuple[str, ...]]:
    pixels = ome_xml.of_series(file.ome_metadata, file.series, number)
    if pixels is None:
        raise ValueError("no image of its OME-XML is as large as its pages")
    return ome_xml.lengths(pixels), ome_xml.channels(pixels)


def _imagej(file: Any, _number: int) -> tuple[Sizes, tuple[str, ...]]:
    about = file.imagej_metadata or {}
    across, down, _ = _resolution(file.series[0].keyframe)
    unit = _unescaped(about.get("unit", ""))
    found = Sizes()
    if (
        unit not in ("", "pixel", "pixels")
        and min(across, down) > 0
        and not (unit == "inch" and across == down == 72)
    ):
        found = {"y": (1 / down, _unescaped(about.get("yunit", unit))), "x": (1 / across, unit)}
    if found and (apart := abs(float(about.get("spacing", 0)))):
        found["z"] = apart, _unescaped(about.get("zunit", unit))
    if interval := float(about.get("finterval", 0)):
        found["t"] = interval, str(about.get("tunit", "s"))
    labels = about.get("Labels", ())
    many = int(about.get("channels", 1))
    names = (
        [str(label).strip() for label in labels[:many]] if many > 1 and len(labels) == many else []
    )
    return found, tuple(names) if all(names) else ()


def _unescaped(text: object) -> str:
    r"""Replace the escapes of Java properties, such as ``\u00B5m``, by letters."""
    return re.sub(r"\\u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), str(text)).strip()


def _svs(file: Any, _number: int) -> tuple[Sizes, tuple[str, ...]]:
    found = re.search(r"\bMPP\s*=\s*([0-9.]+)", file.series[0].keyframe.description)
    size = float(found[1]) if found else 0.0
    return (dict.fromkeys("yx", (size, "µm")) if size else {}), ()


def _scn(file: Any, number: int) -> tuple[Sizes, tuple[str, ...]]:
    """The pixel size: nanometres of the whole view divided by its pixels."""
    collections = ome_xml.named(ome_xml.parsed(file.scn_metadata), "collection")
    images = [
        (image, next(ome_xml.named(image, "pixels")))
        for each in collections
        for image in ome_xml.named(each, "image")
    ]
    image, pixels = images[number]
    view = next(ome_xml.named(image, "view"))
    sides = (("y", "sizeY"), ("x", "sizeX"))
    return {
        letter: (float(view.attrib[side]) / float(pixels.attrib[side]), "nm")
        for letter, side in sides
    }, ()


def _philips(file: Any, _number: int) -> tuple[Sizes, tuple[str, ...]]:
    """The pixel size from DICOM's pixel spacing: millimetres between rows and between columns. The
    first entry belongs to the finest level.
    """
    spacing = (
        './/*/DataObject[@ObjectType="PixelDataRepresentation"]'
        '/Attribute[@Name="DICOM_PIXEL_SPACING"]'
    )
    first = next(
        element
        for element in ome_xml.parsed(file.philips_metadata).iterfind(spacing)
        if element.text
    )
    down, across = map(float, str(first.text).replace('"', "").split())
    return {"y": (down, "mm"), "x": (across, "mm")}, ()


def _bif(file: Any, _number: int) -> tuple[Sizes, tuple[str, ...]]:
    pages = (page.tags.valueof(700) for page in file.pages if 700 in page.tags)
    found = next(
        (
            match
            for match in (re.search(rb'ScanRes="([0-9.]+)"', bytes(xmp)) for xmp in pages)
            if match
        ),
        None,
    )
    return (dict.fromkeys("yx", (float(found[1]), "µm")) if found else {}), ()


def _qpi(file: Any, number: int) -> tuple[Sizes, tuple[str, ...]]:
    series = file.series[number]
    names = (
        [
            ome_xml.parsed(page.description).findtext("Name") if page.description else None
            for page in series
        ]
        if "C" in series.axes
        else []
    )
    return {}, tuple(str(name or k + 1) for k, name in enumerate(names)) if any(names) else ()


def _lsm(file: Any, _number: int) -> tuple[Sizes, tuple[str, ...]]:
    about = file.lsm_metadata
    sizes = {letter: (float(about[f"VoxelSize{letter.upper()}"]), "m") for letter in "zyx"}
    names = (about.get("ChannelColors") or {}).get("ColorNames") or ()
    return {letter: each for letter, each in sizes.items() if each[0] > 0}, tuple(map(str, names))


def _stk(file: Any, _number: int) -> tuple[Sizes, tuple[str, ...]]:
    about = file.stk_metadata
    unit = str(about.get("CalibrationUnits", ""))
    apart = [float(step) for step in about.get("ZDistance", ())]
    known = unit and length(unit) and about.get("XCalibrated", True)
    found = (
        {letter: (float(about[f"{letter.upper()}Calibration"]), unit) for letter in "yx"}
        if known
        else {}
    )
    return found | ({"z": (apart[0], unit)} if known and apart and apart[0] > 0 else {}), ()


def _micromanager(file: Any, _number: int) -> tuple[Sizes, tuple[str, ...]]:
    about = (file.micromanager_metadata or {}).get("Summary") or {}
    given = {
        "y": about.get("PixelSize_um"),
        "x": about.get("PixelSize_um"),
        "z": about.get("z-step_um"),
    }
    names = about.get("ChNames")
    sizes = {letter: (abs(float(size)), "µm") for letter, size in given.items() if size}
    return sizes, tuple(map(str, names)) if isinstance(names, list) else ()


def _fei(file: Any, _number: int) -> tuple[Sizes, tuple[str, ...]]:
    about = file.fei_metadata.get("Scan") or file.fei_metadata.get("EScan") or {}
    return {
        letter: (float(about[key]), "m")
        for letter, key in (("y", "PixelHeight"), ("x", "PixelWidth"))
        if about.get(key)
    }, ()


def _sem(file: Any, _number: int) -> tuple[Sizes, tuple[str, ...]]:
    about = file.sem_metadata
    found = about.get("ap_image_pixel_size") or about.get("ap_pixel_size")
    return (
        dict.fromkeys("yx", (float(found[1]), str(found[2]))) if found and len(found) > 2 else {}
    ), ()


def _metaseries(file: Any, _number: int) -> tuple[Sizes, tuple[str, ...]]:
    about = file.metaseries_metadata["PlaneInfo"]
    unit = str(about.get("spatial-calibration-units", ""))
    if not about.get("spatial-calibration-state", True):
        return {}, ()
    return {letter: (float(about[f"spatial-calibration-{letter}"]), unit) for letter in "yx"}, ()


KINDS: dict[str, Callable[[Any, int], tuple[Sizes, tuple[str, ...]]]] = {
    "ome": _ome,
    "imagej": _imagej,
    "svs": _svs,
    "scn": _scn,
    "philips": _philips,
    "bif": _bif,
    "qpi": _qpi,
    "lsm": _lsm,
    "stk": _stk,
    "micromanager": _micromanager,
    "fei": _fei,
    "sem": _sem,
    "metaseries": _metaseries,
}
"""The readers of pixel sizes and channel names, by tifffile's name of the format. If several
formats fit a file, the first that gives a value counts.
"""
SERIES = frozenset({"ome", "scn", "qpi"})
"""Formats with metadata for every image of a file. Those of the others describe the first image."""
