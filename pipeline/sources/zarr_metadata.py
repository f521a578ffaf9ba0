"""Read the metadata of Zarr arrays and OME-Zarr images.

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
    SystemError,  # numcodecs, if a chunk declares a negative size
)
"""The errors, besides zarr's own, that zarr and its codecs raise for damaged metadata and
chunks.
"""


@dataclass(frozen=True, slots=True)
class ZarrDescription:
    """The metadata of an array."""

    path: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: str
    packed: Packed
    """What its stored numbers mean."""
    axes: str | None = None
    dims: tuple[str, ...] = ()
    """The stored names of the axes of a single array."""
    image: str = ""
    """The path of the OME-Zarr image that the array is a level of; empty for a single array."""
    channels: tuple[str, ...] = ()
    scale: tuple[float, ...] = ()
    """The pixel size along each axis."""
    translation: tuple[float, ...] = ()
    """The centre of the first pixel along each axis, if there is a scale."""
    units: tuple[str | None, ...] = ()
    """The unit of each axis, if there is a scale."""
    crs: str | None = None
    transform: Transform | None = None
    policy: str = "nodata"
    """The meaning of chunks that were never written, as far as the array says: ``nodata`` or
    ``fill``.
    """
    remarks: tuple[str, ...] = ()
    """Warnings about what was not understood or not applied."""


def describe(path: str, level: int | str) -> ZarrDescription:
    """The metadata of the array or image at a path; SourceError if it cannot be opened, JobError if
    it has no such level.
    """
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
    # In format 2, xarray has no other place for the value that means "not measured". Elsewhere the
    # fill value only says what unwritten chunks hold.
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
    """The axes of a single array, and the arrays beside it."""

    axes: str | None
    """A letter for each axis, if letters are given or the axes have names."""

    bands: tuple[str, ...]
    """The names of the bands."""

    beside: Mapping[str, Coordinate]
    attributes: Mapping[str, Any]
    remarks: tuple[str, ...]

    def place(self, axes: str, dims: Sequence[str], space: str) -> Place:
        """The place of the array.

        Parameters
        ----------
        axes
            A letter for each axis.
        dims
            The names of the axes, if they have any.
        space
            The axes of a box: ``yx`` or ``zyx``.
        """
        names = dict(zip(axes, dims or axes, strict=True))
        found = placed(names, space, self.beside, self.attributes)
        return replace(found, remarks=(*self.remarks, *found.remarks))


def around(stored: ZarrDescription, axes: str | None) -> Around:
    """What lies beside an array; JobError if no axes are given and an axis has a name that is not
    known.
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
    """Raise any error inside as a SourceError that names the path."""
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
    # versions before 0.3 name no axes: they always have these
    said = scale.get("axes") or "tczyx"[-array.ndim :]
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
    """The meaning of chunks that were never written, as far as the attributes of an array, or of an
    image and its level, say: ``fill`` or ``nodata``.
    """
    meant = any(
        "image-label" in (each.get("ome") or each) or each.get("missing_chunks") == "fill"
        for each in attributes
    )
    return "fill" if meant else "nodata"


def _refuse(path: str, array: Any) -> None:
    """Refuse, before any chunk is read, empty chunks and chunks that need more memory than a task
    has.
    """
    from pipeline.sources.bounded_codecs import chunks_in_file  # imports Zarr

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
    """The CRS and transform of a level, by the conventions proj and spatial."""
    crs = attributes.get("proj:wkt2")
    transform = attributes.get("spatial:transform")
    return {"crs": crs, "transform": tuple(map(float, transform)) if transform else None}
