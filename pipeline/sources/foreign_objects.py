"""Refuse objects that look like an image but are not supported, and say what to write instead."""

from __future__ import annotations

import io
import os
from typing import Any, Protocol, runtime_checkable

import numpy as np

from pipeline.errors import JobError

ALLOWED = "a path, a NumPy or Dask array or an xarray DataArray"
ARRAY = "write numpy.asarray(image)"
PATH = "give the path of the file"
INSTEAD = {
    "torch": "write image.numpy(force=True)",
    "tensorflow": "write image.numpy()",
    "jax": ARRAY,
    "jaxlib": ARRAY,
    "cupy": "write image.get()",
    "PIL": f"{ARRAY} with axes: yxc, or its path",
    "imageio": f"{ARRAY}, or its path",
    "zarr": "give its path, or dask.array.from_zarr(image)",
    "h5py": "write dask.array.from_array(image), or image[:]",
    "netCDF4": "open the file with xarray, and choose a variable",
    "rasterio": PATH,
    "osgeo": PATH,
    "tifffile": PATH,
    "openslide": PATH,
    "wsidicom": PATH,
    "nibabel": f"{PATH}, or numpy.asarray(image.dataobj) with axes: xyz",
    "SimpleITK": "write SimpleITK.GetArrayFromImage(image)",
    "itk": "write itk.array_from_image(image)",
    "bioio": "write image.dask_image_data",
    "aicsimageio": "write image.dask_image_data",
    "spatialdata": "choose one of its images, and a scale of it",
    "anndata": "give the path of its image",
    "pystac": "write its item to a file (item.save_object), and give its path",
    "odc": "load it as an xarray object, and choose a variable",
    "ee": "export it as a GeoTIFF",
}
"""What to write, by the package of the object's type."""


@runtime_checkable
class LabelledArray(Protocol):
    """The attributes of an xarray DataArray."""

    dims: Any
    coords: Any


@runtime_checkable
class LazyArray(Protocol):
    """The attributes of a Dask array."""

    dask: Any
    chunksize: tuple[int, ...]
    _meta: Any


@runtime_checkable
class Dataset(Protocol):
    """The attributes of an xarray Dataset."""

    data_vars: Any


def is_labelled(image: Any) -> bool:
    """Whether an image is an xarray DataArray."""
    return isinstance(image, LabelledArray)


def refuse(image: Any) -> None:
    """Raise JobError for an object that is not an image here, with what to write instead. Unknown
    objects are left to the reader of arrays.
    """
    packages = {kind.__module__.partition(".")[0] for kind in type(image).__mro__}
    if isinstance(image, Dataset):
        names = [str(name) for name in image.data_vars]
        raise JobError(
            f"an xarray Dataset is several images: choose a variable, "
            f"dataset[{(names or ['name'])[0]!r}]; it has {', '.join(names)}"
        )
    if isinstance(image, list | tuple):
        _say_list(image)
    if packages & {"pandas", "geopandas", "polars", "pyarrow", "shapely"}:
        _say(
            image,
            "a table, or shapes, are no image; as seeds, markers or truth they are given in a "
            "file, such as GeoJSON or GeoPackage",
        )
    if isinstance(image, bytes | bytearray | memoryview | io.IOBase):
        _say(image, "write it to a file, and give its path")
    if instead := next((INSTEAD[name] for name in packages if name in INSTEAD), None):
        _say(image, instead)
    if (
        isinstance(image, np.generic | int | float | complex)
        or image is None
        or isinstance(image, dict | set)
    ):
        _say(image, "")


def _say_list(image: Any) -> None:
    if not image:
        raise JobError(f"an empty {type(image).__name__} holds no image; allowed: {ALLOWED}")
    if all(isinstance(each, str | os.PathLike) for each in image):
        return
    if all(isinstance(each, np.ndarray | LazyArray) for each in image):
        shapes = sorted({each.shape for each in image})
        how = (
            "numpy.stack(image) with axes: zyx for planes, cyx for bands, tyx for times"
            if len(shapes) == 1
            else "one job for each"
        )
        _say(image, f"of {len(image)} arrays of {', '.join(map(str, shapes))}; write {how}")
    _say(image, "write numpy.asarray(image), or a list of paths, which are read as one image")


def _say(image: Any, instead: str) -> None:
    name = f"{type(image).__module__}.{type(image).__qualname__}".removeprefix("builtins.")
    raise JobError(f"an image is {ALLOWED}, not {name}" + (f": {instead}" if instead else ""))
