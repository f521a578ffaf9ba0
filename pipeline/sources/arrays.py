"""NumPy arrays, Dask arrays and xarray DataArrays. A lazy array is computed box by box, inside the
task that reads it.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import JobError, SourceError
from pipeline.image.frame import Frame
from pipeline.image.grid import Box
from pipeline.sources import checked_numbers
from pipeline.sources.axes import Choice, Layout, native
from pipeline.sources.cf_packing import UNUSED, Packed
from pipeline.sources.coordinates import PLANE, Place, letters, names_of_bands, placed
from pipeline.sources.fingerprints import of_bytes
from pipeline.sources.foreign_objects import LazyArray, is_labelled
from pipeline.sources.grid_mappings import Beside, Coordinate
from pipeline.sources.nodata_rules import together


@dataclass(frozen=True, eq=False)
class ArrayImage:
    """An array in memory, or a lazy one."""

    array: Any
    """(row, column), (band, row, column) or (band, plane, row, column), unless ``axes`` or the
    DataArray's dims say otherwise.
    """

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
    """``band``: what was measured is a fact of each band. ``pixel``: a pixel is missing, in all
    bands, where all bands have nodata. None: by band.
    """

    @functools.cached_property
    def _data(self) -> Any:
        """The array itself, NumPy's or Dask's."""
        data = self.array.data if is_labelled(self.array) else self.array
        if not isinstance(data, np.ndarray | LazyArray):
            raise JobError(
                f"an image is a path, a NumPy or Dask array or an xarray DataArray, not "
                f"{type(self.array).__name__}"
            )
        # Dask has no public name for an empty array of the kind that a computation gives.
        meta = data._meta if isinstance(data, LazyArray) else None  # noqa: SLF001
        if isinstance(meta, np.ma.MaskedArray):
            raise JobError(
                "a Dask array of masked arrays; fill what is masked, dask.array.ma.filled(array, "
                "value), and say so: nodata"
            )
        return data

    @property
    def _masked(self) -> bool:
        """Whether it is a masked array of NumPy with at least one masked element."""
        return isinstance(self._data, np.ma.MaskedArray) and self._data.mask is not np.ma.nomask

    @functools.cached_property
    def _beside(self) -> Beside:
        """The coordinates of a DataArray, by name."""
        if not is_labelled(self.array):
            return {}
        return {
            str(name): Coordinate(tuple(map(str, each.dims)), each, each.attrs)
            for name, each in self.array.coords.items()
            if each.ndim < 2 or name in PLANE
        }

    @property
    def _dims(self) -> tuple[str, ...]:
        return tuple(map(str, self.array.dims)) if is_labelled(self.array) else ()

    @functools.cached_property
    def _layout(self) -> tuple[Layout, tuple[str, ...]]:
        axes = self.axes or (letters(self._dims, self._beside) if self._dims else None)
        chosen = Choice.of(self.bands, self.time, self.planes)
        axes = axes or chosen.guess(self._data.shape, "the array")
        names = (
            names_of_bands(axes, self._dims, self._beside, self.array.attrs) if self._dims else ()
        )
        return chosen.layout(axes, self._data.shape, names)

    @functools.cached_property
    def _place(self) -> Place:
        how = self._layout[0]
        if not self._dims:
            return Place()
        return placed(
            dict(zip(how.axes, self._dims, strict=True)),
            how.space,
            self._beside,
            {**self._mapped, **self.array.attrs},
        )

    @property
    def _mapped(self) -> dict[str, Any]:
        """The name of the grid mapping, which xarray moves into the encoding."""
        return {
            key: self.array.encoding[key] for key in ("grid_mapping",) if key in self.array.encoding
        }

    @functools.cached_property
    def _packed(self) -> Packed:
        """What the attributes of a DataArray say of its values. Its encoding does not count: that
        concerns files.
        """
        dtype = np.dtype(checked_numbers(self._data.dtype, "the array"))
        attributes = self.array.attrs if self._dims else {}
        if self.nodata is not None:
            return Packed(dtype.name)
        about = {
            key: value
            for key, value in attributes.items()
            if key in ("_FillValue", "missing_value")
        }
        try:
            return Packed.of(dtype, about, attributes.get("nodata"))
        except ValueError as error:
            raise SourceError(
                f"the array cannot be read: {error}; change it, or give nodata"
            ) from error

    @functools.cached_property
    def frame(self) -> Frame:
        """What the image is; JobError where axes or bands do not fit."""
        how, names = self._layout
        chunks = self._data.chunksize if isinstance(self._data, LazyArray) else self._data.shape
        place = self._place
        packed = self._packed
        return Frame(
            how.shape(self._data.shape),
            names,
            packed.dtype,
            self.nodata if self.nodata is not None else packed.nodata,
            transform=place.transform,
            crs=place.crs,
            pixel_size=place.pixel_size,
            unit=place.unit,
            unlike=place.unlike,
            translation=place.translation,
            masked=self._masked,
            together=together(self.nodata_by, len(names)),
            chunks=how.shape(chunks),
        )

    @property
    def facts(self) -> dict[str, Any]:
        """What is known of the image besides its frame."""
        attributes = self.array.attrs if self._dims else {}
        unused = [
            f"{key} is not applied: {attributes[key]}"
            for key in ("scale_factor", "add_offset", *UNUSED)
            if key in attributes
        ]
        stored = list(map(int, self.array.shape))
        return {
            "format": type(self.array).__name__,
            "stored": dict(zip(self._dims, stored, strict=True)) if self._dims else stored,
            "axes": self._layout[0].axes,
            "not_understood": [*self._place.remarks, *unused],
        }

    @property
    def held(self) -> int:
        """Bytes that stay in memory: those of the whole array, 0 for a lazy one."""
        return self.frame.nbytes if isinstance(self._data, np.ndarray) else 0

    def read(self, box: Box) -> npt.NDArray[Any]:
        """The pixels in a box, (band, row, column) or (band, plane, row, column); a lazy array is
        computed here, in this thread.
        """
        return self._read(box, 1)

    def glance(self, box: Box, step: int) -> npt.NDArray[Any]:
        """Every ``step``-th pixel. Of a lazy array, only these and the current chunks are in
        memory.
        """
        return self._read(box, step)

    def mask(self, box: Box, step: int = 1) -> npt.NDArray[np.bool_]:
        """Where a masked array is not masked: (band, row, column) or (band, plane, row, column)."""
        return ~np.ascontiguousarray(self._layout[0].take(np.ma.getmask(self._data), box, step))

    def fingerprint(self) -> dict[str, Any]:
        """Shape, type and a checksum of the bytes; of a Dask array its name, which identifies its
        graph.
        """
        data = self._data
        known = {
            "kind": "array",
            "shape": list(data.shape),
            "dtype": str(data.dtype),
            "axes": self._layout[0].axes,
        }
        if not isinstance(data, np.ndarray):
            return {**known, "name": str(data.name)}
        hidden = {"mask": _crc(np.ma.getmaskarray(data))} if self._masked else {}
        return {**known, "crc32": _crc(np.ma.getdata(data)), **hidden}

    def _read(self, box: Box, step: int) -> npt.NDArray[Any]:
        block = self._layout[0].take(self._data, box, step)
        if isinstance(block, np.ndarray):
            return self._packed.one(native(np.ma.getdata(block)))
        try:
            return self._packed.one(native(np.asarray(block.compute(scheduler="synchronous"))))
        except (
            ValueError,
            TypeError,
            OSError,
            RuntimeError,
            ArithmeticError,
            LookupError,
        ) as error:
            raise SourceError(
                f"the lazy array cannot be computed in {box}: {type(error).__name__}: {error}"
            ) from error


def _crc(data: npt.NDArray[Any]) -> int:
    return of_bytes(np.ascontiguousarray(data).reshape(-1).view(np.uint8).data)
