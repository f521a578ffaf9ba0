"""GeoTIFF, COG, JPEG 2000, Erdas Imagine and VRTs of such files, through rasterio."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import JobError, SourceError
from pipeline.image.frame import Frame, Pins, marked
from pipeline.image.grid import Box, Grid
from pipeline.sources import checked_numbers
from pipeline.sources.axes import choose_bands, native
from pipeline.sources.contract import everywhere, thinned
from pipeline.sources.facts import combined
from pipeline.sources.fingerprints import stamp
from pipeline.sources.gdal import dataset, files, fingerprint, guarded
from pipeline.sources.gdal_facts import gdal_facts
from pipeline.sources.georeferencing import pins, place
from pipeline.sources.nodata_rules import COLOURS, by_colour, is_partly_read, needed, together
from pipeline.sources.raster_bands import alpha, band_names, colour, is_masked, measured_bands
from pipeline.sources.tiff_metadata import sized
from pipeline.sources.vrt import is_vrt, resamples
from pipeline.storage.locations import remote

CELL = 128
"""Rows and columns of what is read at once of a VRT that resamples: GDAL's own blocks of a VRT."""


@dataclass(frozen=True)
class RasterFile:
    """A raster file. Its bands are read as they are stored, except with ``scaled`` or ``colours``.

    The mask, the alpha band or the nodata value of the file says what was measured, whichever GDAL
    uses. An alpha band is read as a band only if it is chosen, and does not mask then.
    """

    path: str
    """The file."""

    bands: tuple[int | str, ...] | None = None
    """Bands to read, by number from 1 or by description, in any order; None: all but alpha."""

    level: int = 0
    """0: full resolution; k: the k-th overview."""

    nodata: float | None = None
    """The value that means "not measured", in place of the file's own."""

    nodata_by: str | None = None
    """``band``: what was measured is a fact of each band. ``pixel``: a pixel is missing, in all
    bands, where all bands have nodata. None: by band, and by pixel for red, green and blue of one
    colour, in which nodata may be a colour.
    """

    scaled: bool = False
    """Whether values are multiplied by the scale of the file, and its offset is added. They become
    floats, NaN where not measured.
    """

    colours: bool = False
    """Whether entries of a colour table are read as red, green and blue."""

    root: str | None = None
    """The folder to which the references of a VRT are confined; None: the VRT's own."""

    @functools.cached_property
    def frame(self) -> Frame:
        """What the image is; SourceError if the file cannot be opened, JobError if there is no such
        band or level.
        """
        with guarded(self.path, " cannot be opened"):
            return self._described(self._file)

    def read(self, box: Box) -> npt.NDArray[Any]:
        """The pixels in a box, (band, row, column); SourceError names file and box if they cannot
        be read.
        """
        return self._values(box, box.shape)

    def glance(self, box: Box, step: int) -> npt.NDArray[Any]:
        """About every ``step``-th pixel, from an overview where there is one."""
        return self._values(box, thinned(box.shape, step))

    def mask(self, box: Box, step: int = 1) -> npt.NDArray[np.bool_]:
        """Where a box was measured, by mask, alpha, or nodata that differs between bands: one band
        for all, or one for each, with the shape of a glance.
        """
        shape = thinned(box.shape, step)
        good = everywhere(box, step)
        if self._alpha is not None:
            good = self._called(self._file.read, box, shape, [self._alpha]) > 0
        elif self._masked:
            good = (
                self._called(
                    self._file.read_masks,
                    box,
                    shape,
                    self._chosen[:1] if self._shared else self._chosen,
                )
                > 0
            )
        if self._apart:
            good = good & self._by_nodata(box, shape)
        if self.colours:
            stored = self._called(self._file.read, box, shape)
            good = (
                good
                & Frame(shape, nodata=self._nodata).measured(stored)
                & (self._table[stored[0], 3] > 0)
            )
        return good

    @property
    def masked_by(self) -> str:
        """What the mask stands for."""
        own = "alpha" if self._alpha is not None else "mask" if self._masked or self.colours else ""
        return " or ".join(filter(None, (own, "nodata" if self._apart else "")))

    @property
    def files(self) -> tuple[str, ...]:
        """The file, and those that belong to it."""
        return files(self.path, self.root)

    @property
    def pins(self) -> Pins | None:
        """What places the image where no transform does."""
        return None if self.frame.transform else pins(self._file)

    @property
    def facts(self) -> dict[str, Any]:
        """What is known of the image besides its frame."""
        said = gdal_facts(
            self.path, self.frame.bands, level=self.level, root=self.root, scaled=self.scaled
        )
        return combined(said, self.own_facts)

    @property
    def own_facts(self) -> dict[str, Any]:
        """What this reader finds besides what GDAL says: pins, a CRS or pages that go unused."""
        found = self.pins
        told = dict[str, Any]()
        if found and found.points:
            told["control_points"] = (
                f"{len(found.points)}, which no affine transform fits; labels.tif has them too"
            )
        if found and found.model:
            told["rpc"] = "a camera's model, and no transform; labels.tif has it too"
        doubts = []
        if self._file.crs and not self.frame.transform:
            doubts.append(
                f"it has the CRS {self._file.crs}, and no transform: nothing says where in it "
                f"the image lies"
            )
        if self._file.driver == "GTiff" and (pages := len(self._file.subdatasets)) > 1:
            told["pages"] = pages
            doubts.append(
                f"of its {pages} pages the first is read; kind: tiff reads all, without a place"
            )
        if not self.frame.transform and (
            doubt := sized(dataset(self.path, root=self.root), self.frame.shape)[1]
        ):
            doubts.append(doubt)
        return told | ({"not_understood": doubts} if doubts else {})

    def fingerprint(self) -> dict[str, Any]:
        """Size and checksum of the file and of those that belong to it, and which level is read."""
        made = {name: True for name in ("scaled", "colours") if getattr(self, name)}
        return {"kind": "raster", "level": self.level, **made, **fingerprint(self.path, self.root)}

    def _described(self, file: Any) -> Frame:
        if self.root is not None and file.driver != "VRT":
            raise JobError(
                f"root: {self.root!r}; {self.path} is no VRT, and refers to nothing; allowed: none"
            )
        chosen = self._chosen
        names = band_names(file)
        kinds = {file.dtypes[k] for k in chosen}
        if len(kinds) > 1:
            raise SourceError(
                f"{self.path} has bands of different types, {', '.join(sorted(kinds))}; choose "
                f"bands of one: bands"
            )
        dtype = np.dtype(checked_numbers(_dtype(kinds.pop()), self.path))
        if self.colours:
            _ = self._table  # refused now where there is none
        if self.scaled:
            self._refuse_unscaled()
        whole = dataset(self.path, root=self.root)
        return Frame(
            shape=(file.height, file.width),
            bands=COLOURS if self.colours else tuple(names[k] for k in chosen),
            dtype="uint8"
            if self.colours
            else np.result_type(dtype, np.float32).name
            if self.scaled
            else dtype.name,
            nodata=None if self.scaled or self.colours else self._nodata,
            masked=self._masked or self._alpha is not None or self._apart or self.colours,
            together=() if self.colours else self._together,
            chunks=tuple(min(n, m) for n, m in zip(file.block_shapes[0], file.shape, strict=True)),
            **(place(self.path, whole, file.shape) or sized(whole, file.shape)[0]),
        )

    @property
    def _file(self) -> Any:
        return dataset(self.path, self.level, self.root)

    @functools.cached_property
    def _chosen(self) -> tuple[int, ...]:
        """The indices from 0 of the bands to read. This and the properties that follow are cached:
        they are sent to the workers with the reader.
        """
        return (
            choose_bands(self.bands, band_names(self._file))
            if self.bands is not None
            else measured_bands(self._file)
        )

    @functools.cached_property
    def _masked(self) -> bool:
        """Whether a mask says what was measured."""
        return is_masked(self._file, self._chosen)

    @functools.cached_property
    def _alpha(self) -> int | None:
        """The index of the alpha band, if it says what was measured: no mask does, and it is not
        read as a band.
        """
        found = alpha(self._file)
        return None if self._masked or found in self._chosen else found

    @functools.cached_property
    def _shared(self) -> bool:
        """Whether the mask is the same for all bands."""
        from rasterio.enums import MaskFlags

        return all(MaskFlags.per_dataset in self._file.mask_flag_enums[k] for k in self._chosen)

    @functools.cached_property
    def _colour(self) -> tuple[int, ...]:
        """The indices of red, green and blue in the file, if they count as measured together."""
        return colour(self._file) if self.nodata_by is None else ()

    @functools.cached_property
    def _together(self) -> tuple[int, ...]:
        """`Frame.together`."""
        return together(
            self.nodata_by,
            len(self._chosen),
            [at for at, k in enumerate(self._chosen) if k in self._colour],
        )

    @functools.cached_property
    def _apart(self) -> bool:
        """Whether nodata is looked up band by band: it differs between bands, a colour is read in
        part, or a float cannot hold it.
        """
        if self._masked:
            return False
        given = [self._nodata_of(k) for k in self._chosen]
        partly = is_partly_read(self._colour, self._chosen)
        return (
            len(set(map(str, given))) > 1
            or (partly and any(each is not None for each in given))
            or self._exact
        )

    @functools.cached_property
    def _exact(self) -> bool:
        """Whether nodata of the file is an integer of 64 bits, which a float may not hold."""
        from rasterio.enums import MaskFlags

        flags = (self._file.mask_flag_enums[k] for k in self._chosen)
        whole = np.dtype(_dtype(self._file.dtypes[self._chosen[0]])).name in ("int64", "uint64")
        return whole and self.nodata is None and any(MaskFlags.nodata in each for each in flags)

    @functools.cached_property
    def _nodata(self) -> float | None:
        """The value that means "not measured" in all bands; None if there is none, or a mask."""
        return (
            None
            if self._apart or (self._masked and self.nodata is None)
            else self._nodata_of(self._chosen[0])
        )

    def _nodata_of(self, band: int) -> float | None:
        return self.nodata if self.nodata is not None else self._file.nodatavals[band]

    def _by_nodata(self, box: Box, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
        """Where each band was measured by its own nodata."""
        colour = self._colour if self._together else ()
        bands = needed(self._chosen, colour)
        if self._exact:
            good = self._called(self._file.read_masks, box, shape, bands) > 0
        else:
            values = self._called(self._file.read, box, shape, bands)
            known = [math.nan if (one := self._nodata_of(k)) is None else one for k in bands]
            good = np.stack(
                [~marked(each, nodata) for each, nodata in zip(values, known, strict=True)]
            )
        return by_colour(good, self._chosen, colour)

    @property
    def _table(self) -> npt.NDArray[np.uint8]:
        return _table(self.path, self.level, self.root, stamp(self.path))

    @functools.cached_property
    def _scaling(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """The scales and offsets of the bands to read."""
        file = self._file
        return tuple(file.scales[k] for k in self._chosen), tuple(
            file.offsets[k] for k in self._chosen
        )

    def _refuse_unscaled(self) -> None:
        """JobError where nothing says how values are to be scaled."""
        if self.unscaled:
            raise JobError(
                f"scaled: {self.scaled}; {self.path} has neither scale nor offset; allowed: False"
            )

    @property
    def unscaled(self) -> bool:
        """Whether none of the chosen bands has a scale or an offset."""
        return set(self._scaling[0]) == {1.0} and set(self._scaling[1]) == {0.0}

    def _values(self, box: Box, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        block = self._called(self._file.read, box, shape)
        if self.colours:
            return native(np.moveaxis(self._table[block[0], :3], -1, 0))
        if not self.scaled:
            return native(block)
        good = Frame(shape, nodata=self._nodata, together=self._together).measured(block)
        dtype = np.result_type(block.dtype, np.float32)
        scale, offset = (np.array(values, dtype)[:, None, None] for values in self._scaling)
        return np.where(good, block.astype(dtype) * scale + offset, np.array(np.nan, dtype))

    def _called(
        self, reader: Any, box: Box, shape: tuple[int, ...], bands: Sequence[int] | None = None
    ) -> npt.NDArray[Any]:
        """What a method of rasterio reads.

        Parameters
        ----------
        reader
            ``read`` or ``read_masks`` of the open file.
        box
            The region.
        shape
            The number of rows and columns to which it is thinned.
        bands
            By index from 0; None: those that were chosen.
        """
        from rasterio.windows import Window

        if self._resampled and shape == box.shape and not _is_cell(box, self._file.shape):
            return self._by_cells(reader, box, bands)
        top, left = box.start
        height, width = box.shape
        with guarded(
            self.path,
            f": rows {top} to {top + height}, columns {left} to {left + width} cannot be read",
        ):
            numbers = [k + 1 for k in (self._chosen if bands is None else bands)]
            return np.asarray(
                reader(
                    numbers,
                    window=Window(left, top, width, height),
                    out_shape=(len(numbers), *shape),
                )
            )

    @functools.cached_property
    def _resampled(self) -> bool:
        return not remote(self.path) and is_vrt(self.path) and resamples(self.path)

    def _by_cells(self, reader: Any, box: Box, bands: Sequence[int] | None) -> npt.NDArray[Any]:
        """The same, read cell by cell of a fixed lattice.

        Two pixels of a source may be equally near to a pixel of a VRT. GDAL chooses between them
        differently in different windows, and so would tiles.
        """
        grid = Grid(self._file.shape, (CELL, CELL))
        found = None
        spans = (range(a // CELL, -(-b // CELL)) for a, b in zip(box.start, box.stop, strict=True))
        for position in itertools.product(*spans):
            cell = grid.core(grid.number(position))
            values = self._called(reader, cell, cell.shape, bands)
            found = np.empty((len(values), *box.shape), values.dtype) if found is None else found
            shared = cell & box
            found[(slice(None), *shared.within(box))] = values[(slice(None), *shared.within(cell))]
        return np.asarray(found)


def _is_cell(box: Box, shape: tuple[int, ...]) -> bool:
    """Whether a box is a cell of the lattice, clipped to the image."""
    sides = zip(box.start, box.stop, shape, strict=True)
    return all(a % CELL == 0 and b == min(a + CELL, n) for a, b, n in sides)


@functools.lru_cache(maxsize=8)
def _table(path: str, level: int, root: str | None, _stamp: object) -> npt.NDArray[np.uint8]:
    """The colour table of a file with one band, (number, 4), 0 for numbers without an entry;
    JobError if there is none.
    """
    file = dataset(path, level, root)
    if (
        file.count != 1
        or np.dtype(_dtype(file.dtypes[0])).kind != "u"
        or np.dtype(_dtype(file.dtypes[0])).itemsize > 2
    ):
        raise JobError(f"colours: True; {path} has no colour table; allowed: False")
    try:
        given = file.colormap(1)
    except ValueError as error:
        raise JobError(f"colours: True; {path} has no colour table; allowed: False") from error
    found = np.zeros((np.iinfo(file.dtypes[0]).max + 1, 4), np.uint8)
    for number, entry in given.items():
        found[number] = entry
    return found


def _dtype(name: str) -> np.dtype[Any]:
    return np.dtype(name.replace("complex_int16", "complex64"))
