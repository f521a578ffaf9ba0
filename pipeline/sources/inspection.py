"""What `tilewise info` reports: the image's frame, facts from its reader, and what was not
measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pipeline.image.frame import Frame
from pipeline.redaction import redacted
from pipeline.sources import Source
from pipeline.sources.facts import told
from pipeline.sources.unmeasured import sampled

UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def inspected(image: str, source: Source) -> dict[str, Any]:
    """All that is known about an image, by name."""
    frame = source.frame
    known = {
        "image": redacted(image),
        "reader": type(source).__name__,
        "bytes": frame.nbytes,
        **asdict(frame),
    }
    known["nodata_by"] = _together(known.pop("together"), frame)
    facts = told(source)
    if (number := facts.pop("image", None)) is not None:
        facts = {"image_read": number, **facts}
    if isinstance(doubt := facts.pop("crs", None), str):  # a reader's remark, not a CRS
        facts["not_understood"] = [*facts.get("not_understood", ()), f"crs: {doubt}"]
    return {**known, **facts, "unmeasured": sampled(source)}


def shown(found: Mapping[str, Any]) -> dict[str, Any]:
    """The same for people: sizes in words, the CRS by name, empty values left out."""
    words = {
        **found,
        "bytes": f"{found['bytes']} ({_size(found['bytes'])})",
        "crs": _crs(found.get("crs")),
    }
    words["unmeasured"] = _by_bands(found["unmeasured"].get("bands") or {}) or "nothing"
    if words["pixel_size"] and set(words["pixel_size"]) == {1.0} and words["unit"] == "pixel":
        words["pixel_size"] = "not said"
        del words["unit"]
    return {key: value for key, value in words.items() if value not in (None, [], (), {}, "")}


def _by_bands(bands: Mapping[str, Any]) -> dict[str, str]:
    """What was not measured, in one line for all bands that agree."""
    words: dict[str, list[str]] = {}
    for name, band in bands.items():
        words.setdefault(
            f"{band['pixels']} pixels, {100 * band['share']:.3g} %: {', '.join(band['why'])}", []
        ).append(name)
    return {", ".join(names): text for text, names in words.items()}


def _together(bands: tuple[int, ...], frame: Frame) -> str:
    """The rule that decides where bands with nodata were measured."""
    if not bands:
        return "band"
    if len(bands) == len(frame.bands):
        return "pixel: a pixel is missing where all bands are"
    return f"band, and {', '.join(frame.bands[k] for k in bands)} as one colour"


def _size(number: float) -> str:
    power = min(len(UNITS) - 1, int(math.log(max(1, number), 1000)))
    return f"{number / 1000**power:.3g} {UNITS[power]}"


def _crs(wkt: str | None) -> str | None:
    """A CRS by its code and its name."""
    if wkt is None:
        return None
    from rasterio.crs import CRS

    found = CRS.from_wkt(wkt)
    name = wkt.partition('"')[2].partition('"')[0]
    code = found.to_authority(confidence_threshold=100)
    return f"{':'.join(code)}, {name}" if code else name
