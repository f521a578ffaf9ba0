"""The meaning of stored numbers by the CF conventions: which mean "not measured", and how the
others are scaled.

References
----------
The CF conventions (https://cfconventions.org), sections 2.5.1 and 8.1; ``_Unsigned`` is netCDF's.
xarray packs the ``_FillValue`` of floats in Zarr's format 3 as base64 of eight bytes.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

MISSING = ("_FillValue", "missing_value")
UNUSED = ("valid_min", "valid_max", "valid_range")
"""Attributes that do not mark values as missing here, nor in xarray."""


@dataclass(frozen=True, slots=True)
class Packed:
    """The meaning of stored numbers."""

    dtype: str
    """NumPy's name of the stored dtype in the machine's byte order; unsigned if signed numbers
    stand for unsigned ones.
    """

    fills: tuple[float, ...] = ()
    """The values that mean "not measured"."""

    scale: float = 1.0
    offset: float = 0.0

    @classmethod
    def of(cls, stored: np.dtype[Any], attributes: Mapping[str, Any], fill: Any = None) -> Packed:
        """The meaning by an array's attributes.

        Parameters
        ----------
        stored
            The dtype of the array.
        attributes
            The attributes of the array.
        fill
            One more value that means "not measured", or None.

        Raises
        ------
        ValueError
            If an attribute is not a number.
        """
        dtype = _signed(stored.newbyteorder("="), attributes.get("_Unsigned"))
        given = [(key, each) for key in MISSING for each in _several(attributes.get(key))]
        given += [("fill_value", each) for each in _several(fill)]
        fills = dict.fromkeys(_number(key, each, dtype) for key, each in given)
        scale, offset = (
            float(_number(key, attributes.get(key, usual)))
            for key, usual in (("scale_factor", 1), ("add_offset", 0))
        )
        # NaN is missing anyway
        return cls(
            dtype.name, tuple(value for value in fills if not math.isnan(value)), scale, offset
        )

    @property
    def scaled(self) -> bool:
        """Whether there is a scale or an offset."""
        return (self.scale, self.offset) != (1.0, 0.0)

    @property
    def nodata(self) -> float | None:
        """The value that means "not measured" in the result of `one`."""
        return self.fills[0] if self.fills else None

    def one(self, block: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Stored numbers with a single value that means "not measured". The block must be in the
        machine's byte order.
        """
        block = block.view(self.dtype)
        for other in self.fills[1:]:
            block = np.where(block == other, np.asarray(self.fills[0], block.dtype), block)
        return block

    def unpacked(
        self, block: npt.NDArray[Any], measured: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.float64]:
        """The numbers that stored ones stand for; NaN where nothing was measured."""
        return np.where(
            measured, self.one(block).astype(np.float64) * self.scale + self.offset, np.nan
        )


def unused(attributes: Mapping[str, Any]) -> list[str]:
    """The attributes that limit values but have no effect here."""
    return [f"{key}: {attributes[key]}" for key in UNUSED if key in attributes]


def _signed(stored: np.dtype[Any], said: Any) -> np.dtype[Any]:
    kind = {"true": "u", "false": "i"}.get(str(said).lower())
    return np.dtype(f"{kind}{stored.itemsize}") if kind and stored.kind in "iu" else stored


def _several(given: Any) -> list[Any]:
    """A number, or several, as a list."""
    if given is None:
        return []
    return [given] if isinstance(given, str) else np.ravel(np.asarray(given, object)).tolist()


def _number(key: str, given: Any, dtype: np.dtype[Any] | None = None) -> float:
    """A number from an attribute: an int of the dtype's range for integers, else a float;
    ValueError if it is not a number.
    """
    value: Any = given.item() if isinstance(given, np.generic | np.ndarray) else given
    try:
        if isinstance(value, str):
            value = _text(value)
        if dtype is None or dtype.kind == "f" or not float(value).is_integer():
            return float(
                np.asarray(float(value), dtype if dtype is not None and dtype.kind == "f" else None)
            )
        whole = int(value)
    except (TypeError, ValueError, OverflowError, struct.error, binascii.Error) as error:
        raise ValueError(f"its attribute {key} is {given!r}; allowed: a number") from error
    return (
        whole % (1 << 8 * dtype.itemsize)
        if dtype.kind == "u" and -(1 << 8 * dtype.itemsize - 1) <= whole < 0
        else whole
    )


def _text(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        return float(struct.unpack("<d", base64.b64decode(value, validate=True))[0])
