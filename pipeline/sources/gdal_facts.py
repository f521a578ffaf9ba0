"""What GDAL says of a file besides its frame, by the names in `pipeline.sources.facts`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.sources.facts import if_undamaged
from pipeline.sources.gdal import dataset
from pipeline.storage.locations import remote


@if_undamaged
def gdal_facts(
    path: str,
    bands: Sequence[str],
    *,
    level: int = 0,
    root: str | None = None,
    scaled: bool = False,
) -> dict[str, Any]:
    """The facts of a raster file.

    Parameters
    ----------
    path
        The file, which GDAL can open.
    bands
        The names of the bands that are read.
    level
        0: full resolution; k: the k-th overview.
    root
        The folder in which all lies that a VRT refers to.
    scaled
        Whether scale and offset are applied.
    """
    full = dataset(path, 0, root)
    file = dataset(path, level, root)
    names = [name or str(k + 1) for k, name in enumerate(full.descriptions)]
    read = [index for k, name in enumerate(bands) if (index := _index(name, names, k)) < full.count]
    colours = [colour.name for colour in full.colorinterp]
    nodata = [full.nodatavals[k] for k in read]
    scales = [full.scales[k] for k in read]
    offsets = [full.offsets[k] for k in read]
    units = [full.units[k] or "" for k in read]
    return {
        "format": full.driver,
        "level": level,
        "levels": [[-(-n // factor) for n in full.shape] for factor in (1, *full.overviews(1))],
        "pages": len(full.subdatasets) or None,
        "channels": names,
        "colours": colours if set(colours) - {"undefined"} else None,
        "alpha": colours.index("alpha") + 1 if "alpha" in colours else None,
        "mask": _mask(full),
        "nodata": nodata if len(set(map(str, nodata))) > 1 else None,
        "scale": scales if any(scale != 1 for scale in scales) else None,
        "offset": offsets if any(offset != 0 for offset in offsets) else None,
        "units": units if any(units) else None,
        "places": _places(full),
        "compression": full.compression.name.lower() if full.compression else None,
        "files": [name for name in full.files if name != path and not remote(path)],
        "not_understood": _doubts(full, file, read, scaled=scaled),
    }


def _index(name: str, names: Sequence[str], position: int) -> int:
    """The index of a band by its name, its number, or its position among those that are read."""
    if name in names:
        return names.index(name)
    return int(name) - 1 if name.isdigit() else position


def _mask(file: Any) -> str | None:
    """What GDAL goes by where it says which pixels were measured."""
    from rasterio.enums import MaskFlags

    flags = {flag for each in file.mask_flag_enums for flag in each}
    if MaskFlags.alpha in flags:
        return "alpha"
    if MaskFlags.per_dataset in flags:
        beside = any(name.endswith(".msk") for name in file.files)
        return "one beside the file (.msk)" if beside else "one in the file"
    return "nodata" if MaskFlags.nodata in flags else None


def _places(file: Any) -> dict[str, Any]:
    """Ground control points and a camera model, where there are any."""
    points, crs = file.gcps
    found: dict[str, Any] = {}
    if points:
        found["control_points"] = len(points)
        found["crs"] = crs.to_string() if crs else None
    if file.rpcs:
        found["rpc"] = "rational polynomials of a camera"
    return found


def _doubts(full: Any, file: Any, read: Sequence[int], *, scaled: bool) -> list[str]:
    """Sentences on what the file says and the reader does not use."""
    told = []
    if not scaled and any(full.scales[k] != 1 or full.offsets[k] != 0 for k in read):
        told.append(
            "the file has a scale or an offset, and numbers are read as they are stored; scaled: "
            "true applies them"
        )
    if file.shape != full.shape and np.any(np.array(full.shape) % np.array(file.shape)):
        told.append("this level's pixels are no whole number of those of full resolution")
    return told
