"""TIFFs of microscopes and slide scanners: stacks, OME-TIFF, SVS and others with pyramids, through
tifffile and imagecodecs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import SourceError, TilewiseError
from pipeline.image.frame import Frame, marked
from pipeline.image.grid import Box
from pipeline.image.pixel_area import unclear
from pipeline.sources import checked_numbers
from pipeline.sources.axes import Choice, Layout, named, native
from pipeline.sources.contract import everywhere
from pipeline.sources.fingerprints import of_file
from pipeline.sources.nodata_rules import (
    by_colour,
    check_missing_chunks,
    colour_of,
    is_partly_read,
    needed,
    together,
    told_of_missing,
)
from pipeline.sources.overviews import around, coarsest
from pipeline.sources.tiff_pages import FAULTS, Description, Opened, describe, opened

FORMATS = {
    "ome": "OME-TIFF",
    "imagej": "ImageJ TIFF",
    "bif": "Ventana BIF",
    "qpi": "PerkinElmer QPTIFF",
    "philips": "Philips TIFF",
}
FORMATS |= {kind: kind.upper() for kind in ("svs", "scn", "ndpi", "lsm", "stk")}
"""What kinds of files are called, by tifffile's names."""


@dataclass(frozen=True)
class TiffImage:
    """One image of a TIFF: its pages as planes, times or channels, at one level of its pyramid."""

    path: str
    """The file."""

    level: int = 0
    """0: full resolution; k: the k-th level of the pyramid."""

    series: int = 0
    """Which image of the file, from 0. In a slide 0 is the slide; others are label and thumbnail.
    """

    channels: tuple[int | str, ...] | None = None
    """Channels to read, by number from 1 or by OME name, in any order; None: all."""

    bands: tuple[int | str, ...] | None = None
    """Another word for ``channels``."""

    time: int | None = None
    """The index along the time axis; needed where there is more than one."""

    planes: int | str | None = None
    """"all" for a volume, or one plane's index from 0; None: all, where there are several."""

    axes: str | None = None
    """A letter of t, c, z, y, x for each axis, in place of the file's own: ``cyx``."""

    nodata: float | None = None
    """The value that means "not measured", in place of the one in GDAL's tag, which also fills
    tiles that hold no bytes.
    """

    nodata_by: str | None = None
    """``band``: what was measured is a fact of each band. ``pixel``: a pixel is missing, in all
    bands, where all bands have nodata. None: by band, and by pixel for red, green and blue of one
    colour, in which nodata may be a colour.
    """

    missing_chunks: str | None = None
    """What to make of tiles, strips and pages that were never written. ``nodata``: not measured.
    ``fill``: zeros, or the nodata of GDAL's tag. ``error``: refuse to read them. None: ``nodata``.
    """

    def __post_init__(self) -> None:
        check_missing_chunks(self.missing_chunks)

    @functools.cached_property
    def _about(self) -> Description:
        return describe(self.path, self.series, self.level)

    @functools.cached_property
    def _layout(self) -> tuple[Layout, tuple[str, ...]]:
        about = self._about
        chosen = Choice.of(self.bands, self.time, self.planes, channels=self.channels)
        axes = self.axes or about.axes
        number = (
            about.shape[axes.index("c")] if "c" in axes and len(axes) == len(about.shape) else 1
        )
        if chosen.bands is None and number == len(about.samples):
            but_alpha = tuple(k + 1 for k in range(number) if about.samples[k] != "alpha")
            chosen = replace(chosen, bands=but_alpha or None)
        return chosen.layout(axes, about.shape, about.said.channels)

    @functools.cached_property
    def _alpha(self) -> Layout | None:
        """How to take the alpha of each band that is read; None if there is no alpha, or it is read
        as a band.
        """
        how = self._layout[0]
        samples = self._about.samples
        alphas = [k for k, what in enumerate(samples) if what == "alpha"]
        if (
            not alphas
            or "c" not in how.axes
            or len(samples) != self._about.shape[how.axes.index("c")]
            or set(alphas) & set(how.bands)
        ):
            return None
        return replace(
            how,
            bands=tuple(next((k for k in alphas if k > band), alphas[-1]) for band in how.bands),
        )

    @property
    def _nodata(self) -> float | None:
        return self._about.nodata if self.nodata is None else self.nodata

    @functools.cached_property
    def _colour(self) -> tuple[int, ...]:
        """The bands of the file that are one colour, where only some of them are read, and all are
        needed to tell nodata from a colour.
        """
        if self.nodata_by is not None or self._nodata is None or np.isnan(self._nodata):
            return ()
        colour = colour_of(self._about.samples)
        return colour if is_partly_read(colour, self._layout[0].bands) else ()

    @functools.cached_property
    def _together(self) -> tuple[int, ...]:
        """`Frame.together`: red, green and blue of one colour."""
        samples = self._about.samples
        bands = self._layout[0].bands
        what = [samples[k] if len(samples) > k else "" for k in bands]
        return together(self.nodata_by, len(bands), colour_of(what))

    @property
    def _policy(self) -> str:
        return self.missing_chunks or "nodata"

    @functools.cached_property
    def _lost(self) -> bool:
        """Whether blocks that count as not measured are missing, at this level or at one from which
        glances come.
        """
        if self._policy != "nodata" or self._about.missing[0]:
            return self._policy == "nodata"
        return any(self._is_lost(level) for level in range(self.level + 1, len(self._about.levels)))

    def _is_lost(self, level: int) -> bool:
        try:
            return describe(self.path, self.series, level).missing[0] > 0
        except TilewiseError:  # raised again when that level is read
            return False

    @functools.cached_property
    def frame(self) -> Frame:
        """What the image is; SourceError if it cannot be opened, JobError if an option does not
        fit.
        """
        how, names = self._layout
        about = self._about
        known = [letter in about.microns for letter in how.space]
        return Frame(
            shape=how.shape(about.shape),
            bands=names,
            dtype=checked_numbers(np.dtype(about.dtype), self.path),
            nodata=None if self._colour else self._nodata,
            pixel_size=tuple(about.microns.get(letter, 1.0) for letter in how.space),
            unit="micrometer" if any(known) else "pixel",
            unlike=tuple(k for k, there in enumerate(known) if not there) if any(known) else (),
            chunks=how.shape(about.chunks),
            masked=self._alpha is not None or self._lost or bool(self._colour),
            together=self._together,
        )

    def read(self, box: Box) -> npt.NDArray[Any]:
        """The pixels in a box, (band, row, column) or (band, plane, row, column); SourceError if a
        block cannot be decoded.
        """
        return self._taken(self.level, self._layout[0], box, 1)

    def glance(self, box: Box, step: int) -> npt.NDArray[Any]:
        """About every ``step``-th pixel, from the coarsest level of the pyramid that has
        as many.
        """
        return native(self._seen(box, step, self._layout[0], self._taken))

    def mask(self, box: Box, step: int = 1) -> npt.NDArray[np.bool_]:
        """Where each band of a box was measured: its blocks were written, its alpha is not 0, and
        it has no nodata of a colour; with the shape of a glance.
        """
        good = everywhere(box, step)
        if self._lost:
            good = good & self._written(self.level, self._layout[0], box, step)
            good = good & self._seen(box, step, self._layout[0], self._written)
        if self._alpha is not None:
            good = good & (self._seen(box, step, self._alpha, self._taken) > 0)
        if self._colour and self._nodata is not None:
            good = good & self._by_nodata(box, step, self._nodata)
        if len(good) > 1 and self._together:
            one = list(self._together)
            good[one] = good[one].all(axis=0)  # what was never written is no colour
        return good

    def _by_nodata(self, box: Box, step: int, nodata: float) -> npt.NDArray[np.bool_]:
        """Where each band was measured, if a colour is read in part."""
        how = self._layout[0]
        all_of_it = replace(how, bands=needed(how.bands, self._colour))
        values = self._seen(box, step, all_of_it, self._taken)
        return by_colour(~marked(values, nodata), how.bands, self._colour)

    @property
    def masked_by(self) -> str:
        """What the mask stands for."""
        return " or ".join(why for why, held in self._masks if held)

    @property
    def _masks(self) -> tuple[tuple[str, bool], ...]:
        return (
            ("missing chunks", self._lost),
            ("alpha", self._alpha is not None),
            ("nodata", bool(self._colour)),
        )

    def fingerprint(self) -> dict[str, Any]:
        """Size and checksum of the file and of those that it refers to, and what is read of it."""
        choice = {
            "series": self.series,
            "level": self.level,
            "time": self.time,
            "planes": self.planes,
            "axes": self.axes,
        }
        policy = {"missing_chunks": self._policy} if self._about.missing[0] else {}
        return {
            "kind": "tiff",
            **of_file(Path(self.path)),
            "with": [of_file(Path(name)) for name in self._about.others],
            **choice,
            **policy,
        }

    @property
    def files(self) -> tuple[str, ...]:
        """The file."""
        return (self.path,)

    @property
    def facts(self) -> Mapping[str, Any]:
        """What is known of the image besides its frame."""
        how, _ = self._layout
        about = self._about
        bands = dict(zip(how.axes, about.shape, strict=True)).get("c", 1)
        alpha = about.samples.index("alpha") + 1 if self._alpha else None
        space = {letter: unit for letter, (_, unit) in about.said.sizes.items() if letter != "t"}
        doubts = [
            *about.unclear,
            *about.said.unclear,
            *unclear(tuple(space), tuple(space.values())),
        ]
        if not self.axes and about.guessed:
            doubts.append(
                f"nothing says what its pages are; they are taken for planes; axes: "
                f"{about.axes.replace('z', 'c')} would be bands"
            )
        return {
            "format": FORMATS.get(about.kind, "TIFF"),
            "series": self.series,
            "images": [f"{name}: {' x '.join(map(str, shape))}" for name, shape in about.images],
            "level": self.level,
            "levels": [list(how.shape(shape)) for shape in about.levels],
            "pages": about.pages,
            "axes": how.axes,
            "stored": list(about.shape),
            **how.facts(about.shape),
            "channels": list(named(about.said.channels, bands)),
            "colours": list(about.samples),
            "alpha": alpha,
            "mask": "alpha" if alpha else None,
            "sizes": {
                letter: f"{size:g} {unit}" for letter, (size, unit) in about.said.sizes.items()
            },
            "compression": about.compression,
            "files": list(about.others),
            "missing_chunks": told_of_missing(*about.missing, self._policy),
            "not_understood": doubts,
        }

    def _seen(
        self, box: Box, step: int, how: Layout, take: Callable[..., npt.NDArray[Any]]
    ) -> npt.NDArray[Any]:
        """What ``take`` reads for a glance, from the level that suits the step."""
        shapes = [how.shape(shape) for shape in self._about.levels]
        level = coarsest(shapes, self.level, step) if step > 1 else self.level
        if level == self.level:
            return take(level, how, box, step)
        held, places = around(box, step, shapes[self.level], shapes[level])
        return take(level, how, held, 1)[:, *places]

    def _written(self, level: int, how: Layout, box: Box, step: int) -> npt.NDArray[np.bool_]:
        return np.asarray(how.take(self._file().presence(self.series, level), box, step), bool)

    def _file(self) -> Opened:
        try:
            return opened(self.path)
        except FAULTS as error:
            raise SourceError(
                f"{self.path} cannot be opened as TIFF: {type(error).__name__}: {error}"
            ) from error

    def _taken(self, level: int, how: Layout, box: Box, step: int) -> npt.NDArray[Any]:
        file = self._file()  # held while it is read: what is dropped is closed
        try:
            absent = self._policy == "error" and not self._written(level, how, box, step).all()
            block = native(np.asarray(how.take(file.array(self.series, level), box, step)))
        except FAULTS as error:
            file.settle()
            raise SourceError(
                f"{self.path}: {box} cannot be read: {type(error).__name__}: {error}"
            ) from error
        if absent:
            raise SourceError(
                f"{self.path}: a block in {box} was never written; missing_chunks: nodata or "
                f"fill accepts that"
            )
        return block
