"""What the metadata of Zarr arrays and OME-Zarr images say.

References
----------
OME-Zarr 0.4 and 0.5, https://ngff.openmicroscopy.org. The Zarr conventions proj and spatial, https://github.com/zarr-conventions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from pipeline.errors import JobError, SourceError, TilewiseError, nearest
from pipeline.places import asking, joined, zarr_store
from pipeline.sources.axes import LETTERS

LARGEST_CHUNK = 1 << 30
"""Bytes of one chunk, which is decoded whole."""
MOST_IN_SHARD = 1 << 22
"""Chunks in one shard, whose index is read whole."""
FAULTS = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError, MemoryError, AssertionError),
    SystemError,  # of numcodecs, where a chunk says that it is of negative size
)
"""What zarr and its codecs raise of damaged metadata and chunks, besides zarr's own errors."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What the metadata say of an array."""

    path: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: str
    axes: str | None = None
    channels: tuple[str, ...] = ()
    scale: tuple[float, ...] = ()
    """The extent of a pixel along each axis."""
    units: tuple[str | None, ...] = ()
    """Of each axis, where there is a scale."""
    crs: str | None = None
    transform: tuple[float, float, float, float, float, float] | None = None
    policy: str = "nodata"
    """What chunks are that were never written, as far as the array says."""


def describe(path: str, level: int | str) -> Stored:
    """What lies at a path; SourceError if it cannot be opened, JobError if it has no such level."""
    import zarr
    from zarr.errors import BaseZarrError

    try:
        with asking(path, SourceError):
            return _found(path, zarr.open(zarr_store(path), mode="r"), level)
    except TilewiseError:
        raise
    except (BaseZarrError, *FAULTS) as error:
        raise SourceError(f"{path} cannot be opened as Zarr: {type(error).__name__}: {error}") from error


def _found(path: str, node: Any, level: int | str) -> Stored:
    import zarr

    if isinstance(node, zarr.Array):
        if level != 0:
            raise JobError(f"level: {level!r}; {path} is a single array, which has no levels; allowed: 0")
        return _plain(path, node, dict(node.attrs))
    attributes: dict[str, Any] = dict(node.attrs)
    scales = (attributes.get("ome") or attributes).get("multiscales")
    if not scales:
        raise JobError(
            f"path: {path} is a group and no OME-Zarr image; name an array in it: {', '.join(sorted(node.array_keys())) or 'it has none'}"
        )
    return _multiscale(path, node, attributes, scales[0], level)


def _plain(path: str, array: Any, attributes: Mapping[str, Any]) -> Stored:
    _refuse(path, array)
    names = getattr(array.metadata, "dimension_names", None) or attributes.get("_ARRAY_DIMENSIONS")
    letters = [LETTERS.get(str(name).lower(), str(name).lower()) for name in cast("list[str]", names or [])]
    axes = "".join(letters) if len(letters) == array.ndim and all(len(letter) == 1 for letter in letters) else None
    return Stored(path, array.shape, array.shards or array.chunks, array.dtype.str, axes, policy=_said(attributes), **_place(attributes))


def _multiscale(path: str, group: Any, attributes: Mapping[str, Any], scale: Mapping[str, Any], level: int | str) -> Stored:
    paths = [dataset["path"] for dataset in scale["datasets"]]
    if level not in paths and not (isinstance(level, int) and not isinstance(level, bool) and 0 <= level < len(paths)):
        raise JobError(f"level: {level!r}; allowed: 0 to {len(paths) - 1}, or a path; {nearest(str(level), paths)}")
    name = level if isinstance(level, str) else paths[level]
    array = group[name]
    _refuse(f"{path}/{name}", array)
    axes = [axis if isinstance(axis, Mapping) else {"name": axis} for axis in scale["axes"]]
    extent = _scale(scale, scale["datasets"][paths.index(name)], len(axes))
    omero = (attributes.get("ome") or attributes).get("omero") or {}
    channels = tuple(str(channel.get("label", k + 1)) for k, channel in enumerate(omero.get("channels", [])))
    return Stored(
        joined(path, name),
        array.shape,
        array.shards or array.chunks,
        array.dtype.str,
        "".join(LETTERS.get(str(axis["name"]), str(axis["name"])) for axis in axes),
        channels,
        extent,
        tuple(axis.get("unit") for axis in axes),
        policy=_said(attributes, dict(array.attrs)),
        **_place(dict(array.attrs)),
    )


def _said(*attributes: Mapping[str, Any]) -> str:
    """What chunks are that were never written, as far as the attributes of an array, or of an image and its level, say."""
    meant = any("image-label" in (each.get("ome") or each) or each.get("missing_chunks") == "fill" for each in attributes)
    return "fill" if meant else "nodata"


def _refuse(path: str, array: Any) -> None:
    """Refuse chunks that are none, or that would take more memory than a task has, before one is read."""
    from pipeline.sources.unpacking import chunks_in_file  # which takes Zarr along

    chunk = " x ".join(map(str, array.chunks))
    if min(array.shape, default=0) < 1 or min(array.chunks) < 1:
        raise SourceError(f"{path} has the shape {array.shape} in chunks of {chunk}; allowed: at least one pixel along each axis")
    if (size := math.prod(array.chunks) * array.dtype.itemsize) > LARGEST_CHUNK:
        raise SourceError(
            f"{path} is stored in chunks of {chunk}, {size / 2**30:.3g} GiB each; allowed: up to {LARGEST_CHUNK >> 30} GiB; write it anew"
        )
    if (number := chunks_in_file(array)) > MOST_IN_SHARD:
        raise SourceError(f"{path} is stored in shards of {number} chunks; allowed: up to {MOST_IN_SHARD}; write it anew")


def _scale(image: Mapping[str, Any], dataset: Mapping[str, Any], number: int) -> tuple[float, ...]:
    """The product of the level's scale and the image's."""
    size = np.ones(number)
    for part in (*dataset.get("coordinateTransformations", ()), *image.get("coordinateTransformations", ())):
        if part.get("type") == "scale":
            size = size * np.array(part["scale"], float)
    return tuple(size.tolist())


def _place(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """CRS and transform, by the conventions proj and spatial or as rioxarray writes them."""
    crs, transform = attributes.get("proj:wkt2"), attributes.get("spatial:transform")
    if reference := attributes.get("spatial_ref"):
        reference = reference if isinstance(reference, Mapping) else {}
        crs = crs or reference.get("crs_wkt")
        if not transform and "GeoTransform" in reference:
            c, a, b, f, d, e = map(float, str(reference["GeoTransform"]).split())
            transform = (a, b, c, d, e, f)
    return {"crs": crs, "transform": tuple(map(float, transform)) if transform else None}
