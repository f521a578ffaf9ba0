"""Find the CRS of an array, from a grid mapping beside it or from its attributes.

References
----------
The CF conventions (https://cfconventions.org), chapter 5 and appendix F. The attributes
``spatial_ref`` and ``GeoTransform`` of a grid mapping are GDAL's, ``_CRS`` is that of GDAL's Zarr
driver, ``proj:…`` are those of STAC and of the Zarr convention proj.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.image.transform import Transform, from_gdal

EAST = ("degrees_east", "degree_east")
NORTH = ("degrees_north", "degree_north")
UNITS = {
    "m": "metre",
    "meter": "metre",
    "meters": "metre",
    "metres": "metre",
    "um": "micrometer",
    "µm": "micrometer",
    "μm": "micrometer",
}
UNITS |= dict.fromkeys((*EAST, *NORTH, "degrees", "deg"), "degree")


@dataclass(frozen=True, slots=True)
class Coordinate:
    """An array beside an image: coordinates along axes, or a grid mapping, which has only
    attributes.
    """

    dims: tuple[str, ...]
    values: Any
    """Anything that NumPy converts to an array; converted only when it is needed."""

    attributes: Mapping[str, Any]

    @property
    def unit(self) -> str | None:
        """The unit of the numbers, if it is given."""
        said = str(self.attributes.get("units", "")).strip()
        return UNITS.get(said, said) or None


Beside = Mapping[str, Coordinate]


def reference(
    beside: Beside, attributes: Mapping[str, Any]
) -> tuple[str | None, Transform | None, tuple[str, ...]]:
    """The CRS, the transform that is stated with it, and warnings about what was not understood."""
    named = str(attributes.get("grid_mapping") or "").partition(":")[0].split()
    about = next(iter(_mappings(beside, named[0] if named else "")), {})
    said = (
        (f"the grid mapping {named[0]} is not there: nothing says in which CRS the image lies",)
        if named and not about
        else ()
    )
    text = about.get("crs_wkt") or about.get("spatial_ref") or _crs_of(attributes, beside)
    if text:
        crs = _wkt(text)
        why = f"the CRS {str(text)[:40]!r} is not understood"
    else:
        crs, why = _of_words(about)
    given = about.get("GeoTransform") or attributes.get("transform")
    stated = _stated(given)
    wrong = f"the transform {str(given)[:60]!r} is not understood"
    return (
        crs,
        stated,
        (
            *said,
            *((why,) if why and crs is None else ()),
            *((wrong,) if given is not None and stated is None else ()),
        ),
    )


def _mappings(beside: Beside, named: str) -> list[Mapping[str, Any]]:
    """The attributes of grid mappings: that with this name; or without a name all, ``spatial_ref``
    first.
    """
    known = ("crs_wkt", "spatial_ref", "grid_mapping_name", "GeoTransform")
    found = {
        name: each.attributes
        for name, each in beside.items()
        if any(key in each.attributes for key in known)
    }
    if named:
        return [found[named]] if named in found else []
    return [found[name] for name in sorted(found, key=lambda name: name != "spatial_ref")]


def _crs_of(attributes: Mapping[str, Any], beside: Beside) -> Any:
    """The CRS as other writers store it, among the attributes or as a coordinate."""
    stored = attributes.get("_CRS")
    stored = stored.get("wkt") or stored.get("url") if isinstance(stored, Mapping) else stored
    for key in ("epsg", "proj:epsg", "proj:code"):
        if (
            not stored
            and key in beside
            and beside[key].dims == ()
            and str(code := np.asarray(beside[key].values)[()]).strip()
        ):
            stored = f"EPSG:{code}" if str(code).isdigit() else str(code)
    return (
        stored
        or attributes.get("proj:wkt2")
        or attributes.get("proj:code")
        or attributes.get("crs_wkt")
        or attributes.get("crs")
    )


def _wkt(text: Any) -> str | None:
    """A CRS as WKT, unchanged if it is WKT already; None if it is not understood."""
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    said = re.sub(r"^\+?init=", "", str(text).strip(), flags=re.IGNORECASE)
    try:
        CRS.from_wkt(said)
    except CRSError:
        try:
            return str(CRS.from_user_input(said).to_wkt())
        except (CRSError, ValueError):
            return None
    return said


def _of_words(about: Mapping[str, Any]) -> tuple[str | None, str]:
    """The CRS of a grid mapping with CF's parameters; or None, and the reason."""
    if not (name := about.get("grid_mapping_name")):
        return None, ""
    try:
        from pyproj import CRS
        from pyproj.exceptions import ProjError
    except ImportError:
        return (
            None,
            (
                f"the grid mapping {name} has no crs_wkt; pip install pyproj understands it by its "
                f"other attributes"
            ),
        )
    try:
        return str(CRS.from_cf(dict(about)).to_wkt()), ""
    except (ProjError, KeyError, ValueError, TypeError) as error:
        return (
            None,
            f"the grid mapping {name} is not understood: {' '.join(str(error).split())[:80]}",
        )


def _stated(given: Any) -> Transform | None:
    """A transform from GDAL's six numbers in a text, or from the first six of an affine matrix;
    None if they are not numbers.
    """
    try:
        numbers = [
            float(part)
            for part in (given.split() if isinstance(given, str) else itertools.islice(given, 6))
        ]
        if isinstance(given, str):
            return from_gdal(*numbers)
        a, b, c, d, e, f = numbers
    except (TypeError, ValueError):
        return None
    return (a, b, c, d, e, f)


def unit_of(crs: str) -> str:
    """The unit of a CRS."""
    from rasterio.crs import CRS

    known = CRS.from_wkt(crs)
    return "degree" if known.is_geographic else str(known.linear_units).lower()
