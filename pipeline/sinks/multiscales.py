"""Metadata of OME-Zarr label pyramids: axes, scales, colours and georeference.

References
----------
.. [1] OME-Zarr 0.4 and 0.5, https://ngff.openmicroscopy.org.
.. [2] The Zarr conventions proj and spatial (v0.1), https://github.com/zarr-conventions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pipeline.image.frame import Frame
from pipeline.image.legend import Entry
from pipeline.image.transform import every_nth
from pipeline.image.units import length
from pipeline.storage.ome_image import Space, Version

FORMATS: dict[Version, Literal[2, 3]] = {"0.4": 2, "0.5": 3}
"""Zarr's format by version of OME-Zarr."""
AXES = ("z", "y", "x")
_PREFIXES = (
    *("yocto", "zepto", "atto", "femto", "pico", "nano", "micro", "milli", "centi", "deci", ""),
    *("hecto", "kilo", "mega", "giga", "tera", "peta", "exa", "zetta", "yotta"),
)
_UNITS = frozenset(
    {f"{prefix}meter" for prefix in _PREFIXES}
    | {"angstrom", "foot", "inch", "mile", "parsec", "yard"}
)
_CONVENTIONS = (
    (
        "proj",
        "f17cb550-5864-4468-aeb7-f3180cfb622f",
        "Coordinate reference system information for geospatial data",
    ),
    ("spatial", "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4", "Spatial coordinate information"),
)


def space_of(frame: Frame) -> Space:
    """The axes of an image that only its frame describes."""
    found = length(frame.unit)
    known = {"unit": found.name} if found and found.name in _UNITS else {}
    names = AXES[-frame.ndim :]
    axes = tuple(
        {"name": name, "type": "space", **({} if k in frame.unlike else known)}
        for k, name in enumerate(names)
    )
    return Space(axes, frame.pixel_size, frame.translation or (0.0,) * frame.ndim)


def described(
    space: Space,
    levels: int,
    version: Version,
    legend: Mapping[int, Entry] | None,
    source: str | None = None,
) -> dict[str, Any]:
    """A group's attributes for a label image, with colours and names for classes.

    ``source`` is the relative path to the image, if the labels lie in it.
    """
    image = {
        "name": "labels" if legend is None else "classes",
        "type": "nearest",
        "axes": [dict(axis) for axis in space.axes],
        "datasets": [_dataset(space, level) for level in range(levels)],
    }
    label: dict[str, Any] = {"version": version} | ({"source": {"image": source}} if source else {})
    if legend is not None:
        label["colors"] = [
            {"label-value": number, "rgba": [*entry.colour, 255]}
            for number, entry in legend.items()
        ]
        label["properties"] = [
            {"label-value": number, "name": entry.name} for number, entry in legend.items()
        ]
    if version == "0.4":
        return {"multiscales": [{"version": version, **image}], "image-label": label}
    return {"ome": {"version": version, "multiscales": [image], "image-label": label}}


def _dataset(space: Space, level: int) -> dict[str, Any]:
    factors = (*(1 for _ in space.scale[:-2]), 2**level, 2**level)
    scale = [size * factor for size, factor in zip(space.scale, factors, strict=True)]
    # OME-Zarr's coordinates are those of pixels' centres. Pixel i of a level is pixel 2^level · i
    # of the image, so its centre is there: nothing is shifted. (A mean of 2 × 2 pixels would lie
    # half a pixel further.)
    moves = [
        {"type": "scale", "scale": scale},
        {"type": "translation", "translation": list(space.translation)},
    ]
    return {"path": str(level), "coordinateTransformations": moves}


def spatial(frame: Frame, level: int) -> dict[str, Any]:
    """The georeference of a level, by the Zarr conventions proj and spatial; empty without one."""
    if frame.transform is None:
        return {}
    factor = 2**level
    attributes: dict[str, Any] = {
        "spatial:dimensions": ["y", "x"],
        "spatial:transform": list(every_nth(frame.transform, factor)),
        "spatial:shape": [(n + factor - 1) // factor for n in frame.shape[-2:]],
    }
    if frame.crs is not None:
        attributes["proj:wkt2"] = _wkt2(frame.crs)
    named = [
        _convention(*one)
        for one in _CONVENTIONS
        if any(key.startswith(f"{one[0]}:") for key in attributes)
    ]
    return {"zarr_conventions": named, **attributes}


def _convention(name: str, uuid: str, description: str) -> dict[str, str]:
    schema = f"https://raw.githubusercontent.com/zarr-conventions/{name}/refs/tags/v0.1/schema.json"
    spec = f"https://github.com/zarr-conventions/{name}/blob/v0.1/README.md"
    return {
        "schema_url": schema,
        "spec_url": spec,
        "uuid": uuid,
        "name": name,
        "description": description,
    }


def _wkt2(wkt: str) -> str:
    """The reference system as WKT 2."""
    from rasterio.crs import CRS

    return str(CRS.from_wkt(wkt).to_wkt(version="WKT2_2019"))
