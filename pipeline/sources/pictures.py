"""PNG and JPEG, through rasterio."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import SourceError
from pipeline.image.frame import Frame, Pins
from pipeline.image.grid import Box
from pipeline.sources.axes import native
from pipeline.sources.contract import every
from pipeline.sources.declared_sizes import LARGEST_PICTURE
from pipeline.sources.fingerprints import stamp
from pipeline.sources.gdal import dataset
from pipeline.sources.raster import RasterFile


@dataclass(frozen=True)
class Picture:
    """A PNG or JPEG. It has no parts that could be read alone, so a process that reads it decodes
    it whole, once.

    A world file beside it says where it lies.
    """

    path: str
    """The file."""

    bands: tuple[int | str, ...] | None = None
    """Bands to read, by number from 1, in any order; None: all but alpha, which then says what was
    measured.
    """

    nodata: float | None = None
    """The value that means "not measured"."""

    nodata_by: str | None = None
    """``band``: what was measured is a fact of each band. ``pixel``: a pixel is missing, in all
    bands, where all bands have nodata. None: by band, and by pixel for red, green and blue of one
    colour, in which nodata may be a colour.
    """

    colours: bool = False
    """Whether numbers of a colour table are read as red, green and blue."""

    @functools.cached_property
    def frame(self) -> Frame:
        """What the image is; SourceError if the file cannot be opened or is too large to be decoded
        whole.
        """
        file = dataset(self.path)
        if file.width * file.height * file.count > LARGEST_PICTURE:
            raise SourceError(
                f"{self.path} has {file.width} x {file.height} pixels; a PNG or JPEG may have "
                f"2^30 values; convert it to GeoTIFF"
            )
        return replace(self._raster.frame, chunks=())

    def read(self, box: Box) -> npt.NDArray[Any]:
        """The pixels in a box, (band, row, column)."""
        return native(self._decoded[0][(slice(None), *box.slices)])

    def glance(self, box: Box, step: int) -> npt.NDArray[Any]:
        """Every ``step``-th pixel."""
        return every(self.read(box), step)

    def mask(self, box: Box, step: int = 1) -> npt.NDArray[np.bool_]:
        """Where a box was measured by the file's alpha: of one band for all, or of each, as a
        glance at it.
        """
        return every(self._decoded[1][(slice(None), *box.slices)], step)

    @property
    def masked_by(self) -> str:
        """What the mask stands for."""
        return self._raster.masked_by

    @property
    def held(self) -> int:
        """The bytes that a process holds of the image as soon as it has read any of it."""
        return self.frame.nbytes + self.frame.pixels * (1 if self.frame.masked else 0)

    @property
    def pins(self) -> Pins | None:
        """What places the image where no transform does."""
        return self._raster.pins

    @property
    def facts(self) -> dict[str, Any]:
        """What is known of the image besides its frame."""
        whole = f"whole, {self.held / 1e6:.0f} MB: a PNG or JPEG has no parts"
        return {**self._raster.facts, "decoded": whole}

    @property
    def files(self) -> tuple[str, ...]:
        """The file, and those that belong to it."""
        return self._raster.files

    def fingerprint(self) -> dict[str, Any]:
        """Size and checksum of the file."""
        return {**self._raster.fingerprint(), "kind": "picture"}

    @property
    def _raster(self) -> RasterFile:
        return RasterFile(
            self.path,
            self.bands,
            nodata=self.nodata,
            nodata_by=self.nodata_by,
            colours=self.colours,
        )

    @property
    def _decoded(self) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        return _decoded(self._raster, stamp(self.path))


@functools.lru_cache(maxsize=2)
def _decoded(raster: RasterFile, _stamp: object) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """All pixels, and which of them were measured by alpha."""
    whole = Box.whole(raster.frame.shape)
    pixels = raster.read(whole)
    return pixels, raster.mask(whole) if raster.frame.masked else np.broadcast_to(
        np.True_, (1, *whole.shape)
    )
