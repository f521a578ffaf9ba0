"""NumPy arrays, Dask arrays and xarray DataArrays. What is lazy is computed inside the task that reads it."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import JobError, SourceError
from pipeline.frame import Frame
from pipeline.grid import Box
from pipeline.sources import checked_numbers
from pipeline.sources.axes import LETTERS, Layout, guessed, layout, native, together
from pipeline.sources.checksum import of_bytes


@dataclass(frozen=True, eq=False)
class ArrayImage:
    """An array in memory, or a lazy one."""

    array: Any
    """(row, column), (band, row, column) or (band, plane, row, column), unless ``axes`` or the DataArray's dims say otherwise."""

    axes: str | None = None
    """A letter of t, c, z, y, x for each axis: ``yxc``."""

    bands: tuple[int | str, ...] | None = None
    """Bands to read, by number from 1 or by name, in any order; None: all."""

    time: int | None = None
    """The index along the time axis."""

    planes: int | str | None = None
    """"all", or one plane's index from 0."""

    nodata: float | None = None
    """The value that means "not measured"; None: what a DataArray's attributes say."""

    nodata_by: str | None = None
    """``band``: what was measured is a fact of each band. ``pixel``: a pixel is missing, in all bands, where all bands have nodata.
    None: by band."""

    @functools.cached_property
    def _data(self) -> Any:
        """The array itself, NumPy's or Dask's."""
        data = self.array.data if _is_xarray(self.array) else self.array
        if not hasattr(data, "dask") and not isinstance(data, np.ndarray):
            raise JobError(f"an image is a path, a NumPy or Dask array or an xarray DataArray, not {type(self.array).__name__}")
        return data

    @functools.cached_property
    def _layout(self) -> tuple[Layout, tuple[str, ...]]:
        axes = self.axes
        if axes is None and _is_xarray(self.array):
            unknown = [dim for dim in self.array.dims if str(dim).lower() not in LETTERS]
            if unknown:
                raise JobError(
                    f"axes: the dimension {unknown[0]!r} is not known; allowed: {', '.join(LETTERS)}, or name the axes: axes: cyx"
                )
            axes = "".join(LETTERS[str(dim).lower()] for dim in self.array.dims)
        axes = axes or guessed(self._data.shape, "the array", bands=self.bands, planes=self.planes)
        return layout(axes, self._data.shape, bands=self.bands, names=_names(self.array), time=self.time, planes=self.planes)

    @functools.cached_property
    def frame(self) -> Frame:
        """What the image is; JobError where axes or bands do not fit."""
        how, names = self._layout
        chunks = getattr(self._data, "chunksize", self._data.shape)
        place = _place(self.array) if _is_xarray(self.array) else {}
        nodata = self.nodata if self.nodata is not None else place.pop("nodata", None)
        place.pop("nodata", None)
        return Frame(
            how.shape(self._data.shape),
            names,
            checked_numbers(self._data.dtype, "the array"),
            nodata,
            **place,
            together=together(self.nodata_by, len(names)),
            chunks=how.shape(chunks),
        )

    def read(self, box: Box) -> npt.NDArray[Any]:
        """The pixels in a box, (band, row, column) or (band, plane, row, column); a lazy array is computed here, in this thread."""
        return self._read(box, 1)

    def glance(self, box: Box, step: int) -> npt.NDArray[Any]:
        """Every ``step``-th pixel; of a lazy array no more than that is held at once, besides the chunks at hand."""
        return self._read(box, step)

    def fingerprint(self) -> dict[str, Any]:
        """Shape, type and a checksum of the bytes; of a Dask array its name, which tells what is computed."""
        data = self._data
        known = {"kind": "array", "shape": list(data.shape), "dtype": str(data.dtype), "axes": self._layout[0].axes}
        if not isinstance(data, np.ndarray):
            return {**known, "name": str(data.name)}
        return {**known, "crc32": of_bytes(np.ascontiguousarray(data).reshape(-1).view(np.uint8).data)}

    def _read(self, box: Box, step: int) -> npt.NDArray[Any]:
        block = self._layout[0].take(self._data, box, step)
        if isinstance(block, np.ndarray):
            return native(block)
        try:
            return native(np.asarray(block.compute(scheduler="synchronous")))
        except (ValueError, TypeError, OSError, RuntimeError, ArithmeticError, LookupError) as error:
            raise SourceError(f"the lazy array cannot be computed in {box}: {type(error).__name__}: {error}") from error


def _is_xarray(array: Any) -> bool:
    return hasattr(array, "dims") and hasattr(array, "coords")


def _names(array: Any) -> tuple[str, ...]:
    """The bands' names where a DataArray has them as coordinates."""
    if not _is_xarray(array):
        return ()
    dim = next((d for d in array.dims if LETTERS.get(str(d).lower()) == "c"), None)
    return tuple(map(str, array.coords[dim].values.tolist())) if dim in array.coords else ()


def _place(array: Any) -> dict[str, Any]:
    """CRS, transform, unit and nodata of a DataArray, as rioxarray keeps them or from evenly spaced coordinates."""
    reference = array.coords["spatial_ref"].attrs if "spatial_ref" in array.coords else {}
    found: dict[str, Any] = {"crs": reference.get("crs_wkt") or reference.get("spatial_ref")}
    if "GeoTransform" in reference:
        c, a, b, f, d, e = map(float, str(reference["GeoTransform"]).split())
        found["transform"] = (a, b, c, d, e, f)
    elif (transform := _spaced(array)) is not None:
        found["transform"] = transform
    if found.get("transform"):
        a, b, _, d, e, _ = found["transform"]
        flat = (float(np.hypot(b, e)), float(np.hypot(a, d)))
        found["pixel_size"] = (1.0, *flat) if "z" in (LETTERS.get(str(d).lower()) for d in array.dims) else flat
    found["nodata"] = next(
        (float(where[key]) for where in (array.attrs, array.encoding) for key in ("_FillValue", "nodata") if key in where), None
    )
    return found


def _spaced(array: Any) -> tuple[float, float, float, float, float, float] | None:
    """The transform of evenly spaced coordinates of pixel centres; None where there are none, or of one pixel only."""
    edges = {}
    for dim in array.dims:
        letter = LETTERS.get(str(dim).lower())
        if letter in ("y", "x") and dim in array.coords and array.sizes[dim] > 1:
            values = np.asarray(array.coords[dim].values, np.float64)
            step = (values[-1] - values[0]) / (len(values) - 1)
            if step and np.allclose(np.diff(values), step, rtol=1e-6, atol=0):
                edges[letter] = (step, values[0] - step / 2)
    if set(edges) != {"y", "x"}:
        return None
    return (edges["x"][0], 0.0, edges["x"][1], 0.0, edges["y"][0], edges["y"][1])
