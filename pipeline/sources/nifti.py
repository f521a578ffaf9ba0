"""Read NIfTI volumes, plain or gzipped, through nibabel.

References
----------
NIfTI-1 and NIfTI-2, https://nifti.nimh.nih.gov.
"""

from __future__ import annotations

import functools
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import JobError, SourceError, TilewiseError
from pipeline.image.frame import Frame
from pipeline.image.grid import Box
from pipeline.sources import checked_numbers
from pipeline.sources.axes import Choice, Layout, native
from pipeline.sources.declared_sizes import check_fits
from pipeline.sources.fingerprints import of_file, stamp
from pipeline.sources.nodata_rules import together

AXES = "xyztc"
"""NIfTI's order of axes: columns (i), rows (j), planes (k), times, values of a voxel."""
UNITS = {"meter": "meter", "mm": "millimeter", "micron": "micrometer"}
DENSEST = 1040
"""The most bytes that one byte of deflate can become."""
INSTALL = "pip install 'tilewise[volumes]'"


@dataclass(frozen=True)
class NiftiImage:
    """A NIfTI volume in its stored orientation: index i is the column, j the row, k the plane."""

    path: str
    """The file: .nii or .nii.gz. A gzipped file is decompressed from its start for each read, so
    large files should be unpacked.
    """

    bands: tuple[int | str, ...] | None = None
    """Values of a voxel to read (the fifth axis), by number from 1, in any order; None: all."""

    time: int | None = None
    """The index along the time axis; required if there are several times."""

    planes: int | str | None = None
    """"all" for a volume, or one plane's index from 0; None: all, if there are several."""

    scaled: bool = False
    """Whether values are multiplied by the header's slope and its intercept is added. They become
    floats.
    """

    nodata: float | None = None
    """The value that means "not measured"."""

    nodata_by: str | None = None
    """``band``: each band is measured or missing on its own. ``pixel``: a pixel is missing, in all
    bands, if all bands have nodata. None: by band.
    """

    @functools.cached_property
    def frame(self) -> Frame:
        """The image's frame; SourceError if the file cannot be opened, JobError if an option does
        not fit.
        """
        opened = self._opened
        how, names = self._layout
        if self.scaled and (opened.slope, opened.intercept) == (1.0, 0.0):
            raise JobError(
                f"scaled: True; {self.path} has no slope or intercept, so there is nothing to "
                f"scale; allowed: False"
            )
        stored = np.dtype(checked_numbers(opened.dtype, self.path))
        sizes = dict(zip(AXES, opened.sizes, strict=False))
        known = all(sizes[letter] > 0 for letter in how.space)
        return Frame(
            shape=how.shape(opened.shape),
            bands=names,
            dtype=np.result_type(stored, np.float32).name if self.scaled else stored.name,
            nodata=self.nodata,
            together=together(self.nodata_by, len(names)),
            pixel_size=tuple(sizes[letter] for letter in how.space) if known else (),
            unit=(opened.unit or "unknown") if known else "pixel",
            chunks=tuple(
                1 if letter == "z" else n
                for letter, n in zip(how.space, how.shape(opened.shape), strict=True)
            ),
        )

    def read(self, box: Box) -> npt.NDArray[Any]:
        """The pixels in a box, (band, row, column) or (band, plane, row, column); SourceError if
        they cannot be read.
        """
        return self.glance(box, 1)

    def glance(self, box: Box, step: int) -> npt.NDArray[Any]:
        """Every ``step``-th pixel."""
        try:
            block = native(np.asarray(self._layout[0].take(self._opened.stored, box, step)))
        except _faults() as error:
            raise SourceError(
                f"{self.path}: {box} cannot be read: {type(error).__name__}: {error}"
            ) from error
        if not self.scaled:
            return block
        dtype = np.result_type(block.dtype, np.float32).type
        return np.asarray(
            block.astype(dtype) * dtype(self._opened.slope) + dtype(self._opened.intercept)
        )

    @property
    def files(self) -> tuple[str, ...]:
        """The file."""
        return (self.path,)

    @property
    def facts(self) -> dict[str, Any]:
        """Facts about the image besides its frame."""
        opened = self._opened
        how, _ = self._layout
        bands = dict(zip(AXES, opened.shape, strict=False)).get("c", 1)
        unscaled = (opened.slope, opened.intercept) == (1.0, 0.0)
        doubts = []
        if opened.unit is None:
            doubts.append(
                "its header names no unit of length: how large a voxel is in micrometres or "
                "millimetres is not known"
            )
        if not unscaled and not self.scaled:
            doubts.append(
                f"its header scales values by {opened.slope:g} and adds {opened.intercept:g}; "
                f"scaled: true does so"
            )
        return {
            "format": opened.format,
            "axes": AXES[: len(opened.shape)],
            "stored": list(opened.shape),
            **how.facts(opened.shape),
            "channels": [str(k + 1) for k in range(bands)],
            "scale": None if unscaled else [opened.slope],
            "offset": None if unscaled else [opened.intercept],
            "sizes": {
                letter: f"{size:g} {opened.unit or 'unknown'}"
                for letter, size in zip(AXES[:3], opened.sizes, strict=False)
            },
            "orientation": opened.orientation,
            "compression": "gzip" if self.path.lower().endswith(".gz") else "none",
            "not_understood": doubts,
        }

    def fingerprint(self) -> dict[str, Any]:
        """Size and checksum of the file, and the options that choose what is read."""
        return {
            "kind": "nifti",
            **of_file(Path(self.path)),
            "time": self.time,
            "planes": self.planes,
            "scaled": self.scaled,
        }

    @property
    def _opened(self) -> _Opened:
        return _open(self.path, stamp(self.path))

    @functools.cached_property
    def _layout(self) -> tuple[Layout, tuple[str, ...]]:
        shape = self._opened.shape
        chosen = Choice.of(self.bands, self.time, self.planes)
        return chosen.layout(AXES[: len(shape)], shape)


@dataclass(frozen=True)
class _Opened:
    """What this process knows about a file. nibabel opens the file for each read; if it stayed
    open, several threads would open it several times.
    """

    stored: Any
    """Reads the stored values when it is indexed."""
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    sizes: tuple[float, ...]
    unit: str | None
    slope: float
    intercept: float
    format: str
    orientation: str
    """The directions in which columns, rows and planes go: R, L, A, P, S or I."""


@functools.lru_cache(maxsize=8)
def _open(path: str, _stamp: object) -> _Opened:
    try:
        import nibabel
        from nibabel.arrayproxy import ArrayProxy
    except ImportError as error:
        raise JobError(f"kind: nifti needs nibabel: {INSTALL}") from error
    try:
        loaded: Any = nibabel.load(path)
        kinds: Any = (nibabel.Nifti1Image, nibabel.Nifti2Image)
        if not isinstance(loaded, kinds):
            raise SourceError(f"{path} is no NIfTI, but {type(loaded).__name__}")
        header = loaded.header
        # the proxy keeps offset and slope; nibabel resets them in the header when it loads a file
        data = loaded.dataobj
        shape = tuple(map(int, header.get_data_shape()))
        dtype = header.get_data_dtype()
        offset = int(data.offset)
        if not 2 <= len(shape) <= len(AXES) or min(shape) < 1:
            raise SourceError(
                f"{path} has the shape {shape}; allowed: 2 to {len(AXES)} axes of at least one "
                f"voxel"
            )
        _refuse(path, shape, dtype, offset)
        unit = _unit(header)
        proxy: Any = ArrayProxy
        # without the slope, which nibabel would apply
        stored = proxy(path, (shape, dtype, offset), keep_file_open=False)
        sizes = tuple(map(float, header.get_zooms()))
        told = "NIfTI-2" if isinstance(loaded, nibabel.Nifti2Image) else "NIfTI-1"
        orientation = "".join(map(str, nibabel.aff2axcodes(loaded.affine)))
        return _Opened(
            stored,
            shape,
            dtype,
            sizes,
            unit,
            float(data.slope),
            float(data.inter),
            told,
            orientation,
        )
    except TilewiseError:
        raise
    except _faults() as error:
        raise SourceError(
            f"{path} cannot be opened as NIfTI: {type(error).__name__}: {error}"
        ) from error


def _unit(header: Any) -> str | None:
    try:
        return UNITS.get(header.get_xyzt_units()[0])
    except KeyError:  # not the number of a unit
        return None


def _refuse(path: str, shape: tuple[int, ...], dtype: np.dtype[Any], offset: int) -> None:
    """Refuse a file that is too short for the size that it declares."""
    size = Path(path).stat().st_size
    most = size * DENSEST if path.lower().endswith(".gz") else size
    needed = offset + math.prod(shape) * dtype.itemsize if offset >= 0 else most + 1
    voxels = " x ".join(map(str, shape))
    check_fits(f"{path} declares {voxels} voxels of {dtype}", needed, size, most)


def _faults() -> tuple[type[Exception], ...]:
    """The errors that nibabel raises for damaged files."""
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    plain = (
        ValueError,
        TypeError,
        LookupError,
        ArithmeticError,
        OSError,
        EOFError,
        MemoryError,
        zlib.error,
    )
    return ImageFileError, HeaderDataError, WrapStructError, *plain
