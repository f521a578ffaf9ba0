"""What a reader tells of its image besides the frame, for those that do not tell it themselves:
what GDAL, Zarr or an array knows.

`told` is what `tilewise info` asks. A reader with a property ``facts`` (see
`pipeline.sources.facts`) speaks for itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from functools import singledispatch
from typing import Any

import numpy as np

from pipeline.errors import TilewiseError
from pipeline.sources import facts
from pipeline.sources.arrays import ArrayImage
from pipeline.sources.gdal import dataset
from pipeline.sources.mosaic import Mosaic
from pipeline.sources.pictures import Picture
from pipeline.sources.raster import Raster
from pipeline.sources.stac import Item
from pipeline.sources.zarrs import ZarrImage
from pipeline.storage.locations import remote, zarr_store

SHOWN = 8
"""Files of a mosaic, or levels and images of a group, that are told one by one."""


def told(source: Any) -> dict[str, Any]:
    """All facts of a source, in the order of `FACTS`: those that its reader tells, and those that
    are known of its kind.
    """
    if isinstance(source, facts.Telling):
        return facts.told(source)
    remarks = facts.told(source)
    with contextlib.suppress(
        TilewiseError, OSError, KeyError, ValueError
    ):  # the image can be read; what else it says may be damaged
        known = particulars(source)
        doubts = [*_listed(known.get("not_understood")), *_listed(remarks.get("not_understood"))]
        more = {name: value for name, value in remarks.items() if known.get(name) is None}
        return facts.ordered({**known, **more, "not_understood": [each for each in doubts if each]})
    return remarks


@singledispatch
def particulars(_source: Any) -> Mapping[str, Any]:
    """What is known of an image of some kind."""
    return {}


@particulars.register
def _(source: Raster) -> Mapping[str, Any]:
    return _of_gdal(
        source.path, source.level, source.root, source.frame.bands, scaled=source.scaled
    )


@particulars.register
def _(source: Picture) -> Mapping[str, Any]:
    return _of_gdal(source.path, 0, None, source.frame.bands, scaled=False)


@particulars.register
def _(source: Mosaic) -> Mapping[str, Any]:
    first = _of_gdal(source.path[0], source.level, None, source.frame.bands, scaled=source.scaled)
    names = [
        *source.path[:SHOWN],
        *([f"and {len(source.path) - SHOWN} more"] if len(source.path) > SHOWN else []),
    ]
    what = f"mosaic of {len(source.path)} files, of which the first is {first['format']}"
    return {**first, "format": what, "files": names, "levels": None}


@particulars.register
def _(source: Item) -> Mapping[str, Any]:
    parts = dict(zip(source.frame.bands, source.files[1:], strict=False))
    return {
        "format": "STAC item",
        "channels": list(source.frame.bands),
        "files": [f"{name}: {file}" for name, file in parts.items()],
    }


@particulars.register
def _(source: ZarrImage) -> Mapping[str, Any]:
    import zarr

    node: Any = zarr.open(zarr_store(source.image), mode="r", use_consolidated=False)
    about: dict[str, Any] = dict(node.attrs)
    if isinstance(node, zarr.Array):
        return {"format": f"Zarr {node.metadata.zarr_format}", **_of_array(node), "levels": None}
    ome = about.get("ome") or about
    scales: Sequence[Mapping[str, Any]] = ome.get("multiscales") or [{}]
    paths = [level["path"] for level in scales[0].get("datasets", ())]
    arrays = [node[path] for path in paths]
    channels = [
        str(each.get("label", k + 1))
        for k, each in enumerate((ome.get("omero") or {}).get("channels", ()))
    ]
    names = [axis if isinstance(axis, str) else axis["name"] for axis in scales[0].get("axes", ())]
    length = dict(zip(names, arrays[0].shape, strict=False)) if arrays else {}
    return {
        "format": f"OME-Zarr {ome.get('version') or scales[0].get('version') or ''}".strip(),
        "images": [str(each.get("name") or k) for k, each in enumerate(scales)]
        if len(scales) > 1
        else None,
        "level": source.level,
        "levels": [list(array.shape[-source.frame.ndim :]) for array in arrays],
        "times": length.get("t"),
        "time": source.time,
        "planes": length.get("z"),
        "plane": source.planes if isinstance(source.planes, int) else None,
        "channels": channels,
        **(_of_array(arrays[0]) if arrays else {}),
        "axes": "".join(names) if all(len(name) == 1 for name in names) else None,
    }


@particulars.register
def _(source: ArrayImage) -> Mapping[str, Any]:
    array = source.array
    stored = list(map(int, array.shape))
    dims = [str(dim) for dim in getattr(array, "dims", ())]
    return {
        "format": type(array).__name__,
        "stored": dict(zip(dims, stored, strict=True)) if dims else stored,
    }


def _of_array(array: Any) -> dict[str, Any]:
    """What a Zarr array says of how it is stored."""
    names = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS")
    letters = (
        "".join(map(str, names)) if names and all(len(str(name)) == 1 for name in names) else None
    )
    packed = [
        type(each).__name__.removesuffix("Codec") for each in getattr(array, "compressors", ())
    ]
    shards = f", in shards of {' x '.join(map(str, array.shards))}" if array.shards else ""
    return {
        "axes": letters,
        "stored": list(array.shape),
        "compression": f"{', '.join(packed) or 'none'}{shards}",
    }


def _of_gdal(
    path: str, level: int, root: str | None, bands: Sequence[str], *, scaled: bool
) -> dict[str, Any]:
    """What GDAL says of a file."""
    full, file = dataset(path, 0, root), dataset(path, level, root)
    names = [name or str(k + 1) for k, name in enumerate(full.descriptions)]
    read = [
        names.index(name) if name in names else int(name) - 1 if name.isdigit() else k
        for k, name in enumerate(bands)
    ]
    read = [k for k in read if k < full.count]
    colours = [colour.name for colour in full.colorinterp]
    return {
        "format": full.driver,
        "level": level,
        "levels": [[-(-n // factor) for n in full.shape] for factor in (1, *full.overviews(1))],
        "pages": len(full.subdatasets) or None,
        "channels": names,
        "colours": colours if set(colours) - {"undefined"} else None,
        "alpha": colours.index("alpha") + 1 if "alpha" in colours else None,
        "mask": _mask(full),
        "nodata": [full.nodatavals[k] for k in read]
        if len({str(full.nodatavals[k]) for k in read}) > 1
        else None,
        "scale": [full.scales[k] for k in read] if any(full.scales[k] != 1 for k in read) else None,
        "offset": [full.offsets[k] for k in read]
        if any(full.offsets[k] != 0 for k in read)
        else None,
        "units": [full.units[k] or "" for k in read] if any(full.units[k] for k in read) else None,
        "places": _places(full),
        "compression": full.compression.name.lower() if full.compression else None,
        "files": [name for name in full.files if name != path and not remote(path)],
        "not_understood": _doubts(full, file, read, scaled=scaled),
    }


def _mask(file: Any) -> str | None:
    """What GDAL goes by where it says which pixels were measured."""
    from rasterio.enums import MaskFlags

    flags = {flag for each in file.mask_flag_enums for flag in each}
    if MaskFlags.alpha in flags:
        return "alpha"
    if MaskFlags.per_dataset in flags:
        return (
            "one beside the file (.msk)"
            if any(name.endswith(".msk") for name in file.files)
            else "one in the file"
        )
    return "nodata" if MaskFlags.nodata in flags else None


def _places(file: Any) -> dict[str, Any]:
    """Ground control points and a camera's model, where there are any."""
    points, crs = file.gcps
    found: dict[str, Any] = (
        {"control_points": len(points), "crs": crs.to_string() if crs else None} if points else {}
    )
    return found | ({"rpc": "rational polynomials of a camera"} if file.rpcs else {})


def _doubts(full: Any, file: Any, read: Sequence[int], *, scaled: bool) -> list[str]:
    told = []
    if not scaled and any(full.scales[k] != 1 or full.offsets[k] != 0 for k in read):
        told.append(
            "the file has a scale or an offset, and numbers are read as they are stored; scaled: "
            "true applies them"
        )
    if file.shape != full.shape and np.any(np.array(full.shape) % np.array(file.shape)):
        told.append("this level's pixels are no whole number of those of full resolution")
    return told


def _listed(given: Any) -> list[Any]:
    return list(given) if isinstance(given, list | tuple) else [given] if given else []
