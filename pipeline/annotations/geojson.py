"""Copies of GeoJSON that no reader takes for another format, and that make no reader fetch
anything.

References
----------
.. [1] RFC 7946. Its forerunner of 2008 names a CRS, and many files do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from pipeline.errors import JobError, SourceError, nearest

LARGEST = 1 << 29
"""Largest file in bytes: it is read into memory, and takes several times as much there."""
CODES = re.compile(r"(urn:ogc:def:crs:)?(EPSG|OGC):[\w.]*:?\w+", re.IGNORECASE)
"""Names of a CRS that are neither a file nor an address."""
GEOMETRIES = {
    "Point",
    "MultiPoint",
    "LineString",
    "MultiLineString",
    "Polygon",
    "MultiPolygon",
    "GeometryCollection",
}


def copied(path: str, columns: Sequence[str]) -> bytes:
    """Copy the features of GeoJSON, the requested attributes, and its CRS if that is a name.

    Raises
    ------
    SourceError
        The file is not GeoJSON.
    JobError
        An attribute is missing.
    """
    if (size := Path(path).stat().st_size) > LARGEST:
        raise SourceError(
            f"{path} has {size} bytes; allowed for GeoJSON: {LARGEST}; write it as FlatGeobuf or "
            f"GeoPackage"
        )
    try:
        found = _parsed(Path(path).read_text("utf-8-sig"))
        features = list(_features(found))
        names = {name for feature in features for name in feature["properties"]}
        whole = {"type": "FeatureCollection", "name": str(found.get("name") or Path(path).stem)}
        whole |= {"crs": crs} if (crs := _named_crs(found.get("crs"))) else {}
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise SourceError(
            f"{path} is no GeoJSON that can be read: {type(error).__name__}: {error}"
        ) from error
    if features and (missing := next((name for name in columns if name not in names), None)):
        raise JobError(f"{path} has no attribute {missing!r}; {nearest(missing, names)}")
    kept = [
        {**one, "properties": {name: one["properties"].get(name) for name in columns}}
        for one in features
    ]
    # escaped, so that nothing in it looks like another format to GDAL
    return json.dumps({**whole, "features": kept}).replace("<", "\\u003c").encode()


def names_crs(copy: bytes) -> bool:
    """Whether a copy names a CRS, which it does before its features."""
    return b'"crs": {"type": "name"' in copy.partition(b'"features"')[0]


def _parsed(text: str) -> dict[str, Any]:
    """Parse a collection of features; a feature, a list, or features on lines are one too."""

    def refuse(word: str) -> NoReturn:
        raise ValueError(f"{word} is no number of JSON")

    try:
        found = json.loads(text, parse_constant=refuse)
    except json.JSONDecodeError as error:
        lines = [line for line in (line.strip("\x1e \t\r") for line in text.split("\n")) if line]
        if len(lines) < 2 or not all(line.endswith("}") for line in lines):
            raise
        try:
            found = [json.loads(line, parse_constant=refuse) for line in lines]
        except json.JSONDecodeError:
            raise error from None
    return (
        {"type": "FeatureCollection", "features": found} if isinstance(found, list) else dict(found)
    )


def _features(found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The features, each with what is copied of it."""
    if found["type"] == "FeatureCollection":
        if "coordRefSys" in found:
            raise ValueError(
                "it names a CRS as JSON-FG does (coordRefSys), which is not understood; write it "
                "as GeoJSON"
            )
        for feature in found["features"]:
            if feature["type"] != "Feature":
                raise ValueError(f"a feature of type {feature['type']!r}; allowed: Feature")
            yield from _features(feature)
    elif found["type"] == "Feature":
        shape = found["geometry"]
        if shape is not None and shape["type"] not in GEOMETRIES:
            raise ValueError(
                f"a geometry of type {shape['type']!r}; {nearest(shape['type'], GEOMETRIES)}"
            )
        yield {
            "type": "Feature",
            "geometry": shape,
            "properties": dict(found.get("properties") or {}),
        }
    elif found["type"] in GEOMETRIES:
        yield {"type": "Feature", "geometry": found, "properties": {}}
    else:
        raise ValueError(f"it is of type {found['type']!r}; allowed: FeatureCollection")


def _named_crs(found: Any) -> Any:
    """The CRS that GeoJSON names (not in RFC 7946, but common); ValueError for an address."""
    if found is None:
        return None
    name = found["properties"].get("name") if found["type"] == "name" else None
    if name is None or not CODES.fullmatch(str(name)):
        raise ValueError(
            f"its CRS is {str(found)[:200]}; allowed: a name, such as urn:ogc:def:crs:EPSG::32633"
        )
    return {"type": "name", "properties": {"name": str(name)}}
