"""What an image is: its shape, bands, type and place in the world. Knows nothing of tiles
or files.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.image.transform import IDENTITY, Transform, to_coordinates, to_pixels


@dataclass(frozen=True, slots=True)
class Pins:
    """What places an image that no affine transform places: points on the ground, or a model of the
    camera.
    """

    points: tuple[tuple[float, float, float, float, float], ...] = ()
    """Ground control points: row, column, x, y, z."""

    crs: str | None = None
    """The coordinate reference system of the points, as WKT."""

    model: tuple[tuple[str, str], ...] = ()
    """Rational polynomial coefficients, by GDAL's names."""


@dataclass(frozen=True, slots=True)
class Frame:
    """The description of an image, without its pixels."""

    shape: tuple[int, ...]
    """(row, column), or (plane, row, column)."""

    bands: tuple[str, ...] = ("1",)
    """A name for each band, in the order in which they are read."""

    dtype: str = "uint8"
    """NumPy's name of the pixels' type."""

    nodata: float | None = None
    """The value that means "not measured", besides NaN and infinity."""

    transform: Transform | None = None
    """(a, b, c, d, e, f): x = a·column + b·row + c, y = d·column + e·row + f, at the upper left
    corner of a pixel; see `pipeline.image.transform`.
    """

    crs: str | None = None
    """The coordinate reference system, as WKT."""

    pixel_size: tuple[float, ...] = ()
    """The extent of a pixel along each axis, in ``unit``; ones where the image does not say."""

    unit: str = "pixel"
    """The unit of ``pixel_size``: metre, degree, micrometer, …; pixel where the image says nothing
    of its size, and unknown where it says a size in a system that it does not name.
    """

    masked: bool = False
    """Whether something besides the pixels' values says where they were measured: a mask, an alpha
    band, gaps between files.
    """

    together: tuple[int, ...] = ()
    """Bands, by index from 0, that share one fact of where they were measured, as red, green and
    blue of one colour do: nodata in one of them is a colour, and such a pixel is missing only where
    all of them have it. Any other band was measured or not by itself.
    """

    translation: tuple[float, ...] = ()
    """Where the centre of the first pixel lies along each axis, in ``unit``, of an image without a
    transform; empty where it does not say.
    """

    chunks: tuple[int, ...] = field(default=(), compare=False)
    """The blocks in which the image is stored, along each axis of ``shape``; the shape itself where
    it is not blocked.
    """

    unlike: tuple[int, ...] = ()
    """Axes along which ``pixel_size`` is in no unit that is known, or not known at all, where along
    others it is in ``unit``.
    """

    def __post_init__(self) -> None:
        if len(self.shape) not in (2, 3) or min(self.shape) < 1:
            raise ValueError(
                f"an image has 2 or 3 axes of at least one pixel, not the shape {self.shape}"
            )
        if not self.bands:
            raise ValueError("an image has at least one band")
        if np.dtype(self.dtype).kind not in "biuf":
            raise ValueError(f"pixels are integers or floats, not {self.dtype}")
        object.__setattr__(self, "pixel_size", self.pixel_size or (1.0,) * len(self.shape))
        object.__setattr__(self, "chunks", self.chunks or self.shape)

    @property
    def ndim(self) -> int:
        """The number of axes of ``shape``: 2 or 3."""
        return len(self.shape)

    @property
    def pixels(self) -> int:
        """The number of pixels of one band."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """What all bands take in memory."""
        return self.pixels * len(self.bands) * np.dtype(self.dtype).itemsize

    def measured(
        self, block: npt.NDArray[np.generic], known: npt.NDArray[np.bool_] | None = None
    ) -> npt.NDArray[np.bool_]:
        """Where each band of a block was measured, as far as its values and what else is known say.

        A value is missing where it has the nodata value (see `marked`), or is NaN or infinite.
        Bands that go ``together`` are missing where all of them have nodata or lie outside of what
        is known, or where any of them is NaN or infinite.

        Parameters
        ----------
        block
            Pixels (band, row, column) or (band, plane, row, column).
        known
            What a mask says, of the same shape, or of one band for all.

        Returns
        -------
        array of bool, of the block's shape; not to be written to
        """
        group = list(self.together)
        missing = None if known is None else ~known
        if self.nodata is not None and not math.isnan(self.nodata):
            nodata = marked(block, self.nodata)
            missing = nodata if missing is None else missing | nodata
        if missing is not None and group:
            missing = np.broadcast_to(missing, block.shape).copy()
            missing[group] = missing[group].all(axis=0)
        if block.dtype.kind == "f":
            lost = ~np.isfinite(block)
            if group:
                lost[group] = lost[group].any(axis=0)
            missing = lost if missing is None else missing | lost
        # One plane for all bands, not one flag for all pixels: what is broadcast along rows is
        # passed over fifty times slower.
        return np.broadcast_to(
            np.ones((1, *block.shape[1:]), bool) if missing is None else ~missing, block.shape
        )

    def place(
        self, row: npt.ArrayLike, column: npt.ArrayLike
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Pixel positions as coordinates x, y of the CRS; (0, 0) is the upper left corner of the
        first pixel.

        >>> Frame((4, 4), transform=(2.0, 0.0, 10.0, 0.0, -2.0, 50.0)).place(1, 3)
        (array(16.), array(48.))
        """
        return to_coordinates(self.transform or IDENTITY, row, column)

    def pixels_at(
        self, x: npt.ArrayLike, y: npt.ArrayLike
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """The inverse of `place`: rows and columns of coordinates x, y of the CRS."""
        return to_pixels(self.transform or IDENTITY, x, y)


def valid_or_all(
    valid: npt.NDArray[np.bool_] | None, block: npt.NDArray[Any]
) -> npt.NDArray[np.bool_]:
    """Which pixels of a block count: those of the mask that was given, or all.

    Parameters
    ----------
    valid
        (row, column) or (plane, row, column), or None.
    block
        (band, row, column) or (band, plane, row, column).
    """
    return np.ones(block.shape[1:], bool) if valid is None else valid


STEP = float(np.finfo(np.float32).eps)
"""The precision to which GDAL compares floats of any width with nodata."""
SINGLE = (3.39e38, 3.41e38)
"""Between these lies, whatever it was rounded to, a nodata value that stands for the largest 32-bit
float.
"""


def marked(block: npt.NDArray[Any], nodata: float) -> npt.NDArray[np.bool_]:
    """Where values are a nodata value, as GDAL sees it: files hold it as a text, rounded to few
    digits, or of another type than pixels.

    Integers are compared without the nodata value's fraction, and none is one that their type
    cannot hold. Floats are compared to within four steps of a 32-bit float's precision, in
    arithmetic that overflows where values are as large as can be, so that a rounded largest or
    lowest float is one, too. Beyond GDAL: an infinite nodata value, which is a largest float
    rounded up, is that; and among 64-bit floats the largest 32-bit one is itself however it was
    rounded.

    >>> marked(np.array([-3.4028235e38, -9999.0, 0.0], np.float32), -3.4e38)
    array([ True, False, False])
    >>> marked(np.array([0, 255], np.uint8), -9999.0)
    array([False, False])
    """
    if block.dtype.kind in "iu":
        bounds = np.iinfo(block.dtype)
        return (
            np.asarray(block == int(nodata))
            if bounds.min <= nodata <= bounds.max
            else np.zeros(block.shape, bool)
        )
    if block.dtype.kind != "f" or nodata == 0:
        return np.asarray(block == nodata)
    limits = np.finfo(block.dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        if block.dtype.itemsize > 4 and SINGLE[0] < abs(nodata) < SINGLE[1]:
            return np.asarray(
                (np.abs(block) > SINGLE[0])
                & (np.abs(block) < SINGLE[1])
                & (np.sign(block) == np.sign(nodata))
            )
        known = block.dtype.type(min(max(nodata, limits.min), limits.max))
        return np.asarray(
            (block == known)
            | (np.abs(block - known) < block.dtype.type(STEP) * np.abs(block + known) * 2)
        )
