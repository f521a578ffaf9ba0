"""What the metadata of Zarr arrays and OME-Zarr images say.

References
----------
OME-Zarr 0.4 and 0.5, https://ngff.openmicroscopy.org. The Zarr conventions proj and spatial,
https://github.com/zarr-conventions.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.errors import JobError, SourceError, TilewiseError, nearest
from pipeline.image.transform import Transform
from pipeline.sources import checked_numbers
from pipeline.sources.axes import LETTERS
from pipeline.sources.cf_packing import Packed, unused
from pipeline.sources.coordinates import Place, letters, names_of_bands, placed
from pipeline.sources.declared_sizes import check_block, check_shard
from pipeline.sources.grid_mappings import Coordinate
from pipeline.sources.zarr_groups import beside, dims_of, known, only, parent
from pipeline.storage.locations import asking, joined, zarr_store
from pipeline.storage.ome_image import moved

FAULTS = (
    *(
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        ArithmeticError,
        RuntimeError,
        MemoryError,
        AssertionError,
    ),
    SystemError,  # of numcodecs, where a chunk says that it is of negative size
)
"""What zarr and its codecs raise of damaged metadata and chunks, besides zarr's own errors."""


@dataclass(frozen=True, slots=True)
class ZarrDescription:
    """What the metadata say of an array."""

    path: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: str
    packed: Packed
    """What its numbers stand for."""
    axes: str | None = None
    dims: tuple[str, ...] = ()
    """The names of the axes of a single array, as they are stored."""
    image: str = ""
    """The group of the OME-Zarr image that it is a level of; of a single array, none."""
    channels: tuple[str, ...] = ()
    scale: tuple[float, ...] = ()
    """The extent of a pixel along each axis."""
    translation: tuple[float, ...] = ()
    """Where the centre of the first pixel lies along each, where there is a scale."""
    units: tuple[str | None, ...] = ()
    """Of each axis, where there is a scale."""
    crs: str | None = None
    transform: Transform | None = None
    policy: str = "nodata"
    """What chunks are that were never written, as far as the array says."""
    remarks: tuple[str, ...] = ()
    """What was not understood, or not applied."""


def describe(path: str, level: int | str) -> ZarrDescription:
    """What lies at a path; SourceError if it cannot be opened, JobError if it has no such level."""
    import zarr

    with _opening(path):
        return _found(path, zarr.open(zarr_store(path), mode="r", use_consolidated=False), level)


def _found(path: str, node: Any, level: int | str) -> ZarrDescription:
    import zarr

    if isinstance(node, zarr.Array):
        if level != 0:
            raise JobError(
                f"level: {level!r}; {path} is a single array, which has no levels; allowed: 0"
            )
        return _plain(path, node)
    attributes: dict[str, Any] = dict(node.attrs)
    if not (scales := known(attributes).get("multiscales")):
        name = only(path, node)
        return _found(joined(path, name), node[name], level)
    return _multiscale(path, node, attributes, scales, level)


def _plain(path: str, array: Any) -> ZarrDescription:
    _refuse(path, array)
    attributes = dict(array.attrs)
    dims = dims_of(array)
    group = parent(path) if dims else None
    of_image = group is not None and "multiscales" in known(group.attrs)
    # In format 2, xarray has no other place for a fill value; elsewhere it is but what a chunk
    # holds that nobody wrote.
    fill = (
        array.fill_value
        if "_ARRAY_DIMENSIONS" in attributes and array.metadata.zarr_format == 2 and not of_image
        else None
    )
    return ZarrDescription(
        path,
        array.shape,
        array.shards or array.chunks,
        array.dtype.str,
        _packed(path, array, attributes, fill),
        dims=dims,
        policy=_said(attributes),
        remarks=tuple(unused(attributes)),
    )


@dataclass(frozen=True, slots=True)
class Around:
    """What lies around a single array."""

    axes: str | None
    """A letter for each axis, if they are given or have names."""

    bands: tuple[str, ...]
    """What bands are called."""

    beside: Mapping[str, Coordinate]
    attributes: Mapping[str, Any]
    remarks: tuple[str, ...]

    def place(self, axes: str, dims: Sequence[str], space: str) -> Place:
        """Where the array lies, whose axes and their names are given; ``space`` are those that a
        box has.
        """
        names = dict(zip(axes, dims or axes, strict=True))
        found = placed(names, space, self.beside, self.attributes)
        return replace(found, remarks=(*self.remarks, *found.remarks))


def around(stored: ZarrDescription, axes: str | None) -> Around:
    """Look around an array, whose axes may be given; JobError if one has a name that says
    nothing.
    """
    import zarr

    with _opening(stored.path):
        array = zarr.open_array(zarr_store(stored.path), mode="r")
        near, odd = beside(parent(stored.path) if stored.dims else None, array)
        axes = axes or (letters(stored.dims, near) if stored.dims else None)
        about = dict(array.attrs)
        about["transform"] = about.get("spatial:transform") or about.get("transform")
        return Around(axes, names_of_bands(axes or "", stored.dims, near, about), near, about, odd)


@contextlib.contextmanager
def _opening(path: str) -> Iterator[None]:
    """Whatever goes wrong within as a SourceError that names the path."""
    from zarr.errors import BaseZarrError

    try:
        with asking(path, SourceError):
            yield
    except TilewiseError:
        raise
    except (BaseZarrError, *FAULTS) as error:
        raise SourceError(
            f"{path} cannot be opened as Zarr: {type(error).__name__}: {error}"
        ) from error


def _packed(path: str, array: Any, attributes: Mapping[str, Any], fill: Any = None) -> Packed:
    dtype = np.dtype(checked_numbers(array.dtype, path))
    try:
        return Packed.of(dtype, attributes, fill)
    except ValueError as error:
        raise SourceError(f"{path} cannot be read: {error}") from error


def _multiscale(
    path: str, group: Any, attributes: Mapping[str, Any], scales: Sequence[Any], level: int | str
) -> ZarrDescription:
    scale = scales[0]
    paths = [dataset["path"] for dataset in scale["datasets"]]
    if level not in paths and not (
        isinstance(level, int) and not isinstance(level, bool) and 0 <= level < len(paths)
    ):
        raise JobError(
            f"level: {level!r}; allowed: 0 to {len(paths) - 1}, or a path; "
            f"{nearest(str(level), paths)}"
        )
    name = level if isinstance(level, str) else paths[level]
    array = group[name]
    _refuse(f"{path}/{name}", array)
    said = (
        scale.get("axes") or "tczyx"[-array.ndim :]
    )  # versions before 0.3 have those and no others
    axes = [axis if isinstance(axis, Mapping) else {"name": axis} for axis in said]
    extent, start = moved(scale, scale["datasets"][paths.index(name)], len(axes))
    channels = tuple(
        str(channel.get("label", k + 1))
        for k, channel in enumerate((known(attributes).get("omero") or {}).get("channels", []))
    )
    others = [str(each.get("name", k)) for k, each in enumerate(scales[1:], start=1)]
    own = dict(array.attrs)
    return ZarrDescription(
        joined(path, name),
        array.shape,
        array.shards or array.chunks,
        array.dtype.str,
        _packed(f"{path}/{name}", array, own),
        "".join(LETTERS.get(str(axis["name"]).lower(), str(axis["name"])) for axis in axes),
        image=path,
        channels=channels,
        scale=extent,
        translation=start,
        units=tuple(axis.get("unit") for axis in axes),
        policy=_said(attributes, own),
        remarks=(
            *unused(own),
            *(
                (f"further images of {path} that are not read: {', '.join(others)}",)
                if others
                else ()
            ),
        ),
        **_place(own),
    )


def _said(*attributes: Mapping[str, Any]) -> str:
    """What chunks are that were never written, as far as the attributes of an array, or of an image
    and its level, say.
    """
    meant = any(
        "image-label" in (each.get("ome") or each) or each.get("missing_chunks") == "fill"
        for each in attributes
    )
    return "fill" if meant else "nodata"


def _refuse(path: str, array: Any) -> None:
    """Refuse chunks that are none, or that would take more memory than a task has, before one is
    read.
    """
    from pipeline.sources.bounded_codecs import chunks_in_file  # which takes Zarr along

    chunk = " x ".join(map(str, array.chunks))
    if min(array.shape, default=0) < 1 or min(array.chunks) < 1:
        raise SourceError(
            f"{path} has the shape {array.shape} in chunks of {chunk}; allowed: at least one "
            f"pixel along each axis"
        )
    nbytes = math.prod(array.chunks) * array.dtype.itemsize
    check_block(f"{path} is stored in chunks of {chunk}", nbytes, "; write it anew")
    check_shard(path, chunks_in_file(array))


def _place(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """CRS and transform of a level of an image, by the conventions proj and spatial."""
    crs = attributes.get("proj:wkt2")
    transform = attributes.get("spatial:transform")
    return {"crs": crs, "transform": tuple(map(float, transform)) if transform else None}
