"""The description of an image: shape, bands, type and place. Nothing here knows tiles or files."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.image.transform import IDENTITY, Transform, to_coordinates, to_pixels


@dataclass(frozen=True, slots=True)
class Pins:
    """The place of an image that no affine transform describes: ground control points, or the model
    of a camera.
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
    """The unit of ``pixel_size``: metre, degree, micrometer, …; "pixel" if the image has no size,
    "unknown" if it has one without a unit.
    """

    masked: bool = False
    """Whether a mask says where pixels were measured, besides their values: one in the file, an
    alpha band, gaps between files.
    """

    together: tuple[int, ...] = ()
    """Bands, by index from 0, that count as measured together, such as red, green and blue: nodata
    in one of them is a colour, so that a pixel is missing only where all of them have nodata. Every
    other band counts alone.
    """

    translation: tuple[float, ...] = ()
    """For an image without a transform: where the centre of the first pixel lies along each axis,
    in ``unit``. Empty if unknown.
    """

    chunks: tuple[int, ...] = field(default=(), compare=False)
    """The blocks in which the image is stored, along each axis of ``shape``; the shape itself where
    it is not blocked.
    """

    unlike: tuple[int, ...] = ()
    """Axes along which ``pixel_size`` is unknown or has an unknown unit, although along other axes
    it is in ``unit``.
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
        """Where each band of a block was measured, by its values and by a mask.

        A pixel of a band is missing if it has the nodata value (see `marked`), is NaN or infinite,
        or lies outside the mask. Bands that go ``together`` are missing where each of them has
        nodata or lies outside the mask, and where any of them is NaN or infinite.

        Parameters
        ----------
        block
            Pixels (band, row, column) or (band, plane, row, column).
        known
            A mask of the same shape, or of one band for all; True where measured. None: no mask.

        Returns
        -------
        array of bool
            Of the block's shape; not to be written to.
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
        # One plane for all bands rather than one flag for all pixels: NumPy is fifty times slower
        # on an array that is broadcast along rows.
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
"""The precision with which GDAL compares floats of any width with nodata."""
SINGLE = (3.39e38, 3.41e38)
"""A nodata value between these is the largest 32-bit float, however it was rounded."""


def marked(block: npt.NDArray[Any], nodata: float) -> npt.NDArray[np.bool_]:
    """Where values equal a nodata value, by the rules of GDAL. Files hold nodata as a text, rounded
    to few digits, or in another type than the pixels.

    Integers are compared with the whole part of nodata; nothing equals a value outside the range of
    their type. Floats may differ by four steps of 32-bit precision. This is computed so that it
    overflows at the largest floats, which makes a rounded largest float equal to itself. Two rules
    go beyond GDAL: infinity stands for the largest float, from which it was rounded up; and in
    64-bit floats the largest 32-bit float is found however it was rounded.

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
