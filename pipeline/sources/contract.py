"""What a reader of images must have, and what it may have besides.

`Source` is required. Each other protocol is one optional capability: a reader that has its
members has the capability, and the pipeline asks with ``isinstance``. No reader inherits from
these classes, and neither need yours.

=============  ================  ==============================================================
protocol       member            without it
=============  ================  ==============================================================
`Source`       frame, read,      it is no source
               glance,
               fingerprint
`Masked`       mask              only pixel values (nodata, NaN) say what was measured
`NamesMask`    masked_by         reports call the reason "mask"
`Described`    facts             ``tilewise info`` shows the frame only
`HeldWhole`    held              the image takes no memory between reads
`OfFiles`      files             any output folder is allowed
`Pinned`       pins              the results carry no ground control points
`HoldsLabels`  home              ``output.into_source`` is refused
=============  ================  ==============================================================

A source is opened once, pickled, and sent to every worker, so that it should be small, hold no open
file, and open what it needs where it reads. It knows nothing of tiles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from pipeline.image.frame import Frame, Pins
from pipeline.image.grid import Box
from pipeline.storage.ome_image import Home

MASK = "mask"
"""What a mask is called that has no name of its own."""


@runtime_checkable
class Source(Protocol):
    """An image that can be read box by box.

    Examples
    --------
    >>> class Ramp:
    ...     frame = Frame((4, 6))
    ...     def read(self, box):
    ...         return np.mgrid[box.slices][1][None].astype("uint8")
    ...     def glance(self, box, step):
    ...         return every(self.read(box), step)
    ...     def fingerprint(self):
    ...         return {"kind": "ramp"}
    >>> isinstance(Ramp(), Source), isinstance(Ramp(), Masked)
    (True, False)
    >>> Ramp().read(Box((0, 2), (1, 5))).tolist()
    [[[2, 3, 4]]]
    """

    @property
    def frame(self) -> Frame:
        """The description of the image, after the choice of bands, level, time and planes.

        Returns
        -------
        Frame
            Its ``shape`` is (row, column) or (plane, row, column). ``chunks`` is how the image is
            stored, which tiles are fitted to.

        Raises
        ------
        SourceError
            If the file cannot be opened.
        JobError
            If an option does not fit the image.
        """
        ...

    def read(self, box: Box) -> npt.NDArray[Any]:
        """Read the pixels of a box.

        Parameters
        ----------
        box
            A region inside the image, in pixels, with one axis for each axis of ``frame.shape``.

        Returns
        -------
        array
            (band, row, column) or (band, plane, row, column), with the dtype of the frame, in C
            order. Two reads that share a pixel give it the same value.

        Raises
        ------
        SourceError
            If it cannot be read. The message names the file and the box.
        """
        ...

    def glance(self, box: Box, step: int) -> npt.NDArray[Any]:
        """Read about every ``step``-th pixel of a box, as cheaply as possible.

        Parameters
        ----------
        box
            A region inside the image.
        step
            The distance in pixels along each axis, at least 1. `every` serves readers that know no
            cheaper way.

        Returns
        -------
        array
            (band, row, column) or (band, plane, row, column); along each axis of n pixels
            ``ceil(n / step)`` of them, from an overview if the image has a suitable one.

        Raises
        ------
        SourceError
            If it cannot be read.
        """
        ...

    def fingerprint(self) -> dict[str, Any]:
        """Values that are equal exactly when the image is the same.

        Returns
        -------
        dict
            What JSON can hold, found at a bounded cost: sizes and checksums of files, and options
            that change pixels. No times and no paths, because copies are the same image.
        """
        ...


@runtime_checkable
class Masked(Source, Protocol):
    """A source that can say where pixels were measured, besides what their values say.

    It is asked only where ``frame.masked`` is True.
    """

    def mask(self, box: Box, step: int = 1) -> npt.NDArray[np.bool_]:
        """Where the pixels of a box were measured.

        Parameters
        ----------
        box
            A region inside the image.
        step
            As for `Source.glance`, of which the mask has the shape.

        Returns
        -------
        array of bool
            (band, row, column) or (band, plane, row, column); one band stands for all bands.
        """
        ...


@runtime_checkable
class NamesMask(Protocol):
    """A source that says what its mask stands for."""

    @property
    def masked_by(self) -> str:
        """A few words for reports: alpha, missing chunks, nodata."""
        ...


@runtime_checkable
class Described(Protocol):
    """A source that knows more than its frame holds."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the file says of itself, for people.

        Returns
        -------
        mapping
            From names, preferably those in `pipeline.sources.facts.FACTS`, to what JSON can hold.
            Empty values are not shown. ``not_understood`` lists sentences on what was not used.
        """
        ...


@runtime_checkable
class HeldWhole(Protocol):
    """A source of which each process keeps pixels in memory."""

    @property
    def held(self) -> int:
        """Bytes that stay in memory once anything was read; 0 for none."""
        ...


@runtime_checkable
class OfFiles(Protocol):
    """A source that is read from files, which no result may overwrite."""

    @property
    def files(self) -> Sequence[str]:
        """Paths or addresses of the files or folders that are read."""
        ...


@runtime_checkable
class Pinned(Protocol):
    """A source that ground control points or a camera model may place."""

    @property
    def pins(self) -> Pins | None:
        """What places an image without a transform; None if nothing does."""
        ...


@runtime_checkable
class HoldsLabels(Protocol):
    """A source in whose own file labels may be written."""

    def home(self) -> Home:
        """Where labels of this image go inside it.

        Raises
        ------
        JobError
            If this image has no place for them.
        """
        ...


def known_mask(source: Source, box: Box, step: int = 1) -> npt.NDArray[np.bool_] | None:
    """Read the mask of a box, if the source has one.

    Parameters
    ----------
    source
        The image.
    box
        A region inside the image, in pixels.
    step
        As for `Source.glance`, in pixels, from 1.

    Returns
    -------
    array of bool or None
        As from `Masked.mask`; None where nothing but values says what was measured.
    """
    if source.frame.masked and isinstance(source, Masked):
        return source.mask(box, step)
    return None


def everywhere(box: Box, step: int = 1) -> npt.NDArray[np.bool_]:
    """Make the mask of a box that was measured everywhere.

    Parameters
    ----------
    box
        A region inside the image, in pixels.
    step
        As for `Source.glance`, in pixels, from 1.

    Returns
    -------
    array of bool
        True, (1, row, column) or (1, plane, row, column); it may be written to.
    """
    return np.ones((1, *thinned(box.shape, step)), bool)


def where_measured(
    source: Source, box: Box, block: npt.NDArray[Any], step: int = 1
) -> npt.NDArray[np.bool_]:
    """Where each band of a block was measured, by its values and by the mask of its source.

    Parameters
    ----------
    source
        The image.
    box
        The region that was read.
    block
        What ``source.read(box)`` or ``source.glance(box, step)`` gave.
    step
        That of the glance.

    Returns
    -------
    array of bool
        Of the block's shape; not to be written to.
    """
    return source.frame.measured(block, known_mask(source, box, step))


def mask_name(source: Source) -> str:
    """Give the name by which reports call the mask of a source.

    Parameters
    ----------
    source
        The image.

    Returns
    -------
    str
        A few words; ``mask`` where the source does not name it.
    """
    return str(source.masked_by) if isinstance(source, NamesMask) else MASK


def every(block: npt.NDArray[Any], step: int) -> npt.NDArray[Any]:
    """Take every ``step``-th pixel of a block, along all axes but the first.

    Parameters
    ----------
    block
        (band, row, column) or (band, plane, row, column).
    step
        The distance in pixels along each axis, from 1.

    Returns
    -------
    array
        A view of the block.
    """
    spatial = (slice(None, None, step),) * (block.ndim - 1)
    return block[(slice(None), *spatial)]


def thinned(shape: Sequence[int], step: int) -> tuple[int, ...]:
    """Compute the shape of a glance.

    Parameters
    ----------
    shape
        Pixels along each axis of a box.
    step
        The distance in pixels along each axis, from 1.

    Returns
    -------
    tuple of int
        ``ceil(n / step)`` for each axis.

    Examples
    --------
    >>> thinned((10, 7), 4)
    (3, 2)
    """
    return tuple(-(-n // step) for n in shape)
