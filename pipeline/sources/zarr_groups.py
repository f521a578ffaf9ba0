"""Find the images in a Zarr group, and the arrays beside an array.

References
----------
OME-Zarr 0.4 and 0.5, https://ngff.openmicroscopy.org: bioformats2raw.layout, plate, well, labels.
How xarray writes a Dataset: https://docs.xarray.dev/en/stable/internals/zarr-encoding-spec.html.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from pipeline.errors import JobError
from pipeline.sources.coordinates import PLANE
from pipeline.sources.grid_mappings import Coordinate
from pipeline.storage.locations import joined, remote, zarr_store

LISTED = 12
"""How many images a message names."""
LAYOUT = "bioformats2raw.layout"
CLOSED = ("PermissionDeniedError", "UnauthenticatedError")
"""obstore's errors if a server grants access to an array but not to its group."""


def only(path: str, group: Any) -> str:
    """The name of the only image in a group. If there are several, or none, JobError says so and
    names them.
    """
    group = _listing(path, group)
    found = list(itertools.islice(images(group), LISTED + 1))
    if len(found) == 1:
        return found[0]
    if not found:
        raise JobError(
            f"path: {path} is a Zarr group in which no image was found; allowed: an array, or an "
            f"OME-Zarr image"
        )
    named = ", ".join(found[:LISTED]) + (", and more" if len(found) > LISTED else "")
    what = (
        "a Dataset of several variables"
        if all(_array_in(group, each) is not None for each in found)
        else "a group of several images"
    )
    raise JobError(
        f"path: {path} is {what}; choose one, path: {joined(path, found[0])}; it has {named}"
    )


def _listing(path: str, group: Any) -> Any:
    """The group, opened so that its members can be listed; JobError if neither its server nor
    consolidated metadata list them.
    """
    if not path.startswith("http") or {"plate", "well", "labels", LAYOUT} & set(known(group.attrs)):
        return group
    try:
        import zarr

        return zarr.open_group(zarr_store(path), mode="r", use_consolidated=True)
    except ValueError as error:
        raise JobError(
            f"path: {path} is a Zarr group, and its server does not list what lies in it; name "
            f"an image in it"
        ) from error


def images(group: Any) -> Iterator[str]:
    """The paths of the images in a group, from its OME-Zarr metadata, or else from its members."""
    about = known(group.attrs)
    if "plate" in about:
        for well in about["plate"]["wells"]:
            yield from (f"{well['path']}/{name}" for name in images(group[well["path"]]))
    elif "well" in about:
        yield from (str(image["path"]) for image in about["well"]["images"])
    elif LAYOUT in about:
        yield from _series(group)
    elif "labels" in about:
        yield from map(str, about["labels"])
    else:
        yield from _variables(group)
        yield from (
            f"{name}/{inner}".rstrip("/")
            for name, each in sorted(_quietly(group.groups))
            for inner in _within(each)
        )


def known(attributes: Mapping[str, Any]) -> Mapping[str, Any]:
    """The OME-Zarr metadata of a group, which version 0.5 moved into ``ome``."""
    return attributes.get("ome") or attributes


def _within(group: Any) -> Iterator[str]:
    """The paths of the images in a member group, which may itself be an image ("")."""
    return iter([""]) if "multiscales" in known(group.attrs) else images(group)


def _series(group: Any) -> Iterator[str]:
    """The images that bioformats2raw wrote: those listed in the group OME, or else those with
    numbers as names.
    """
    listed = known(group["OME"].attrs).get("series") if "OME" in group else None
    yield from (
        map(str, listed)
        if listed
        else itertools.takewhile(lambda name: name in group, map(str, itertools.count()))
    )


def _quietly(members: Callable[[], Any]) -> list[tuple[str, Any]]:
    """The members of a group by name, without Zarr's warnings about unknown files."""
    from zarr.errors import ZarrUserWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ZarrUserWarning)
        return list(members())


def _variables(group: Any) -> list[str]:
    """The arrays in a group that are not coordinates of others."""
    arrays = {str(name): array for name, array in _quietly(group.arrays)}
    beside = {
        name for array in arrays.values() for name in (*dims_of(array), *_named(array.attrs))
    } | set(_named(group.attrs))
    return sorted(name for name, array in arrays.items() if array.ndim > 1 and name not in beside)


def _named(attributes: Mapping[str, Any]) -> list[str]:
    """The names of coordinates, grid mappings and bounds in an array's attributes."""
    said = (
        f"{attributes.get('coordinates') or ''} {attributes.get('grid_mapping') or ''} "
        f"{attributes.get('bounds') or ''}"
    )
    return [name.rstrip(":") for name in said.split()]


def dims_of(array: Any) -> tuple[str, ...]:
    """The names of an array's axes; empty if they have none."""
    names = array.metadata.dimension_names if array.metadata.zarr_format == 3 else None
    names = names or array.attrs.get("_ARRAY_DIMENSIONS")
    if (
        not isinstance(names, (list, tuple))
        or len(names) != array.ndim
        or all(name is None for name in names)
    ):
        return ()
    return tuple(map(str, names))


def parent(path: str) -> Any | None:
    """The group that contains an array; None if nothing contains it, or access is denied."""
    import zarr
    from zarr.errors import BaseZarrError

    above = path.rstrip("/").rpartition("/")[0]
    if not above or (remote(above) and above.count("/") < 3):
        return None
    try:
        return zarr.open_group(zarr_store(above), mode="r", use_consolidated=False)
    except (BaseZarrError, FileNotFoundError, ValueError, KeyError):
        return None
    except Exception as error:
        if type(error).__name__ in CLOSED:
            return None
        raise


def beside(group: Any | None, array: Any) -> tuple[dict[str, Coordinate], tuple[str, ...]]:
    """The coordinates and grid mappings beside an array in its group, and warnings about
    coordinates that do not fit it.
    """
    dims = dims_of(array)
    attributes = dict(array.attrs)
    inside = attributes.get("spatial_ref")
    found = (
        {"spatial_ref": Coordinate((), np.zeros(()), inside)} if isinstance(inside, dict) else {}
    )
    if group is None or not dims:
        return found, ()
    odd = []
    length = dict(zip(dims, array.shape, strict=True))
    for name in dict.fromkeys(
        (*dims, *_named(attributes), *_named(group.attrs), "spatial_ref", "crs")
    ):
        other = _array_in(group, name)
        if other is None or name in found:
            continue
        along = dims_of(other)
        if other.ndim == 1 and not along and name in dims:
            along = (name,)
        if any(length.get(dim, n) != n for dim, n in zip(along, other.shape, strict=False)):
            odd.append(f"the coordinates {name} are {other.shape}, which does not fit the image")
        elif other.ndim == 0 or (along and (other.ndim == 1 or name in PLANE)):
            found[name] = Coordinate(along, other, dict(other.attrs))
    return found, tuple(odd)


def _array_in(group: Any, name: str) -> Any | None:
    import zarr

    try:
        found = group[name]
    except (KeyError, ValueError):
        return None
    return found if isinstance(found, zarr.Array) else None
