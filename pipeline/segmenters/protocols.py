"""All that a segmenter or a step may offer besides being called: one small Protocol each.

A segmenter is any callable from a block of pixels to labels. Everything on this page is optional,
and a class need not inherit from any of it: an attribute of the right name is enough, on a
function, an instance or a class. `Contract` lists what a segmenter may state about itself, with the
defaults.

Arrays have the axes (band, row, column) for blocks and (row, column) for masks and labels; in a
volume (band, plane, row, column) and (plane, row, column). ``valid`` is bool, True where every band
that is read was measured. A function that has no parameter ``valid``, ``origin`` or ``part`` is
called without it.

========================  ====================  ================================================
Protocol                  told by               what the pipeline does with it
========================  ====================  ================================================
`Classifies`              ``classify``          labels connected pixels of one class itself
`HasForeground`           ``foreground``        finds the window that holds a piece of it whole
`DrawsThings`             ``things``            tells objects (things) from mere classes (stuff)
`Predicts`                ``predict``           calls it once a window
`HasDecoder`              ``decoder``           lets the decoder draw from what was predicted
`Merges`                  ``merge``             merges labels on the graph of the whole image
`Unfitted`                ``unfitted`` is true  fits it to the whole image before the first tile
`FittedByHistograms`      ``feature``           counts the feature's values over the image
`HasBins`                 ``bins``              counts floats in so many bins
`FittedBySample`          ``sample`` is not 0   draws a sample of pixels over the image
`KnowsEmptyBoxes`         ``absent``            does not read those boxes for the sample
`KnowsReach`              ``reach``             reads so many pixels more around each tile
`HasDevice`               ``device``            sends its tiles to workers with that device
`SuitedToFrame`           ``suited``            asks for the segmenter that suits the image
`BringsFiles`             ``companions``        opens the files that these options name
`NamesBands`              ``of_bands``          turns names of bands in these options to numbers
`ReadsBands`              ``reads``             ignores gaps in bands that are not read
`KnowsValidPixels`        ``valid_in``          asks it where the image is valid
`HasLegend`               ``legend``            names the classes in the result
`Remarks`                 ``told``              reports what was done otherwise than asked
`MovesDevice`             ``moved`` is true     proves nothing of what it draws
`Bandwise`                ``bandwise`` is true  tells it where each single band was measured
`MeasuresBands`           ``measured``          asks it where the bands that it makes are valid
`RenamesBands`            ``named``             asks it what the bands that it makes are called
`Portable`                ``portable`` is true  trusts it on processors that differ
========================  ====================  ================================================

The last four, and `Unfitted`, `NamesBands` and `ReadsBands`, are for steps, which make another
image before it is segmented: see `Step`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from pipeline.segmenters.contract import Classes, Flags, Origin, Pixels

if TYPE_CHECKING:
    from abc import ABCMeta as _ProtocolMeta

    from pipeline.image.frame import Frame
    from pipeline.image.grid import Box
    from pipeline.imageops.histograms import Histogram
    from pipeline.imageops.region_graphs import Graph
else:
    _ProtocolMeta = type(Protocol)


class _ToldByAttribute(_ProtocolMeta):
    """Lets ``isinstance(what, Merges)`` ask for the one attribute that tells the Protocol.

    `typing` would look for every member, slowly, and since Python 3.12 past ``__getattr__``, so
    that a wrapper that hands on attributes would not count as what it wraps.
    """

    def __instancecheck__(self, instance: object) -> bool:
        told = self.__dict__.get("_told")  # a class that inherits from a Protocol has none
        return super().__instancecheck__(instance) if told is None else bool(told(instance))


class _Part(Protocol, metaclass=_ToldByAttribute):
    """A part of the contract, told by an attribute that is there (``has``), or that is there and
    true (``states``).
    """

    def __init_subclass__(cls, *, has: str = "", states: str = "") -> None:
        super().__init_subclass__()
        if has:
            cls._told = staticmethod(lambda what: hasattr(what, has))  # type: ignore[attr-defined]
        elif states:
            cls._told = staticmethod(lambda what: getattr(what, states, False))  # type: ignore[attr-defined]


@runtime_checkable
class Classifies(_Part, Protocol, has="classify"):
    """A segmenter that knows the class of every pixel by itself.

    With ``identity = "connected"``, the pipeline cuts off the pixels that the window's edge may
    have altered and labels connected pixels of one class. Without `Classifies`, what the segmenter
    returns when called are the classes. With ``identity = "object"`` and `DrawsThings`, an object
    has the class of most of its pixels.
    """

    def classify(self, block: Pixels, valid: Flags) -> npt.NDArray[Any] | Classes:
        """Classify each pixel.

        Parameters
        ----------
        block, valid
            Pixels, (band, row, column), and bool, (row, column): where they were measured.

        Returns
        -------
        ndarray or Classes
            Integers or bool, (row, column): the class, 0 for background, at most 65534. `Classes`
            also says which pixels are seeds, or where neighbours of one class are parted.
        """
        ...


@runtime_checkable
class HasForeground(_Part, Protocol, has="foreground"):
    """A segmenter with ``identity = "object"`` that knows cheaply where it will draw (the support).

    The pipeline enlarges the window until it holds a connected piece of the support whole, and only
    then has its objects drawn. If the segmenter's ``__call__`` has a parameter ``part``, it
    receives the pixels of the pieces that are wanted, bool (row, column), or None for all. What it
    draws in those must not depend on ``part``; elsewhere it may draw nothing.
    """

    def foreground(self, block: Pixels, valid: Flags) -> npt.NDArray[Any]:
        """Find the support.

        Parameters
        ----------
        block, valid
            Pixels, (band, row, column), and bool, (row, column): where they were measured.

        Returns
        -------
        ndarray
            Bool, or integers from 0, (row, column): where there will be labels.
        """
        ...


@runtime_checkable
class DrawsThings(_Part, Protocol, has="things"):
    """A segmenter with ``identity = "object"`` and ``classify`` that tells things from stuff."""

    things: tuple[int, ...] | None
    """The classes that are divided into objects, from 1. All other classes are stuff. None: every
    class is.
    """


@runtime_checkable
class Predicts(_Part, Protocol, has="predict"):
    """A segmenter with a costly first half, such as a network, that is run once a window.

    What it predicts is handed to its `HasDecoder.decoder`, in place of the pixels.
    """

    def predict(self, block: Pixels, valid: Flags, origin: Origin = None) -> npt.NDArray[Any]:
        """Predict a window.

        Parameters
        ----------
        block, valid
            Pixels, (band, row, column), and bool, (row, column): where they were measured.
        origin
            The (row, column) of the block's first pixel in the image.

        Returns
        -------
        ndarray
            Channels, (channel, row, column), of any dtype.
        """
        ...


@runtime_checkable
class HasDecoder(_Part, Protocol, has="decoder"):
    """A segmenter that leaves classes, support and labels to another one, its decoder."""

    @property
    def decoder(self) -> Callable[..., Any]:
        """A segmenter of what is predicted: its blocks are (channel, row, column)."""
        ...


@runtime_checkable
class Merges(_Part, Protocol, has="merge"):
    """A segmenter with ``identity = "keyed"`` that merges its labels on the image's region graph.

    The graph has a node for every label of the image and an edge for every two that touch. Sums of
    whole numbers add up over tiles exactly, so that regions of any size equal the untiled ones.
    """

    def nodes(self, block: Pixels, valid: Flags) -> npt.NDArray[np.int64]:
        """Return what is added up over each label.

        Parameters
        ----------
        block, valid
            Pixels, (band, row, column), and bool, (row, column): where they were measured.

        Returns
        -------
        ndarray
            Int64, (feature, row, column).
        """
        ...

    def merge(self, graph: Graph) -> npt.NDArray[np.int64]:
        """Return the number, from 0, of the region that each label of the image is merged into,
        int64 (label,), for the graph: areas, sums of the features, and which labels touch.
        """
        ...


@runtime_checkable
class Unfitted(_Part, Protocol, states="unfitted"):
    """A segmenter or a step that needs statistics of the whole image before it can run.

    It is `FittedBySample` or, otherwise, `FittedByHistograms`. While ``unfitted`` is true of what
    ``fit`` returns, that is fitted again.
    """

    @property
    def unfitted(self) -> bool:
        """Whether statistics are still to be taken."""
        ...

    def fit(self, statistics: Any, /) -> Any:
        """Return the segmenter or step to run, for the statistics that it asks for."""
        ...


@runtime_checkable
class FittedByHistograms(_Part, Protocol, has="feature"):
    """What is fitted to the histogram of a feature over the whole image.

    Integers are counted one by one, floats in 256 bins, or as many as it wants: see `HasBins`.
    """

    def feature(self, block: Pixels, valid: Flags) -> npt.NDArray[Any]:
        """Return the values that are counted.

        Parameters
        ----------
        block, valid
            Pixels, (band, row, column), and bool, (row, column): where they were measured.

        Returns
        -------
        ndarray
            (row, column), or several features as (feature, row, column); integers or floats. Of
            what is also `Bandwise`, each feature is of one band that it reads, in their order, and
            is counted where that band was measured.
        """
        ...

    def fit(self, statistics: Histogram | list[Histogram], /) -> Any:
        """Return the segmenter or step to run, for the histogram; for a list of histograms where
        there are several features.
        """
        ...


@runtime_checkable
class HasBins(_Part, Protocol, has="bins"):
    """What is fitted by histograms of another number of bins."""

    @property
    def bins(self) -> int:
        """How many bins floats are counted in, from the image's least value to its largest."""
        ...


@runtime_checkable
class FittedBySample(_Part, Protocol, states="sample"):
    """What is fitted to a sample of pixels, chosen over the image independently of the tiles."""

    @property
    def sample(self) -> int:
        """How many pixels are wanted; 0: none, but histograms."""
        ...

    def features(self, block: Pixels, valid: Flags, origin: Origin = None) -> npt.NDArray[Any]:
        """Return the values that are sampled.

        Parameters
        ----------
        block, valid
            Pixels, (band, row, column), and bool, (row, column): where they were measured.
        origin
            The (row, column) of the block's first pixel in the image.

        Returns
        -------
        ndarray
            (feature, row, column), numbers.
        """
        ...

    def fit(self, statistics: npt.NDArray[np.float64], /) -> Any:
        """Return the segmenter or step to run, for the sample: float64, (pixel, feature), at most
        `sample` rows.
        """
        ...


@runtime_checkable
class KnowsEmptyBoxes(_Part, Protocol, has="absent"):
    """What is fitted by a sample and knows where the image holds nothing to sample."""

    def absent(self, box: Box) -> bool:
        """Whether a box of the image holds nothing to sample and need not be read."""
        ...


@runtime_checkable
class KnowsReach(_Part, Protocol, has="reach"):
    """A segmenter that is not on probation: what it draws can be proved."""

    @property
    def reach(self) -> int:
        """Pixels along each axis, from 0: how far away a pixel can be and still change the class or
        the support of a pixel.
        """
        ...


@runtime_checkable
class HasDevice(_Part, Protocol, has="device"):
    """A segmenter that may run on a GPU."""

    @property
    def device(self) -> str:
        """``cpu``, ``gpu`` or ``auto``; ``cuda…`` and ``mps…`` count as ``gpu``. A dataclass with a
        field of this name and the value ``auto`` is handed what was found.
        """
        ...


@runtime_checkable
class SuitedToFrame(_Part, Protocol, has="suited"):
    """A segmenter that depends on what the image is: its bands, dtype, pixel size."""

    def suited(self, frame: Frame) -> Any:
        """Return the same segmenter for an image, as the steps leave that, before any pixel is
        read. Raise `pipeline.errors.JobError` if the image does not fit.
        """
        ...


@runtime_checkable
class BringsFiles(_Part, Protocol, states="companions"):
    """A dataclass that is given more than the image: seeds, masks, shapes."""

    @property
    def companions(self) -> Sequence[str]:
        """The names of its options that are files, or coordinates, or None. Each is replaced by a
        `pipeline.annotations.rasters_and_shapes.Companion` before the run.
        """
        ...


@runtime_checkable
class NamesBands(_Part, Protocol, states="of_bands"):
    """A dataclass with options that name bands of the image."""

    @property
    def of_bands(self) -> Sequence[str]:
        """The names of those options. Their values are a band, pairs or lists of bands, or weights
        by band; each name is replaced by the band's number, from 1.
        """
        ...


@runtime_checkable
class ReadsBands(_Part, Protocol, has="reads"):
    """A segmenter or a step that depends on some of the bands only.

    It is then valid where those were measured, whatever is missing in others.
    """

    def reads(self, number: int) -> Sequence[int]:
        """Return the indices, from 0, of those of ``number`` bands that it depends on."""
        ...


@runtime_checkable
class KnowsValidPixels(_Part, Protocol, has="valid_in"):
    """What is laid of several segmenters' labels, and valid where any of them is."""

    def valid_in(self, measured: Flags) -> Flags:
        """Return where the image is valid, bool (row, column), for where its bands were measured,
        bool (band, row, column).
        """
        ...


@runtime_checkable
class HasLegend(_Part, Protocol, has="legend"):
    """A segmenter that knows what its classes are called."""

    @property
    def legend(self) -> Mapping[int, Any]:
        """By class, from 1: a mapping with its ``name``, and a ``colour`` if it has one."""
        ...


@runtime_checkable
class Remarks(_Part, Protocol, has="told"):
    """A segmenter that may do otherwise than asked, and says so in the result."""

    @property
    def told(self) -> Sequence[str]:
        """What it did otherwise in this process so far, a sentence each."""
        ...


@runtime_checkable
class MovesDevice(_Part, Protocol, states="moved"):
    """A segmenter that may fall back to another device, as where a GPU's memory is exhausted."""

    @property
    def moved(self) -> bool:
        """Whether another device computes in this process than was asked for."""
        ...


@runtime_checkable
class Step(Protocol):
    """Something that makes another image of the image before it is segmented.

    Its ``__call__`` may also take ``valid``: bool, (row, column), or of what is `Bandwise`, (band,
    row, column). What it makes of pixels that are not valid does not matter.
    """

    reach: int
    """Pixels along each axis, from 0: how far away a pixel can be and still change a pixel."""

    def __call__(self, block: npt.NDArray[Any], /) -> npt.NDArray[Any]:
        """Return a block of the same extent, (band, row, column), with any number of bands."""
        ...


@runtime_checkable
class Bandwise(_Part, Protocol, states="bandwise"):
    """A step that makes each band of the same band alone; or what is fitted by such features."""

    @property
    def bandwise(self) -> bool:
        """Whether it does."""
        ...


@runtime_checkable
class MeasuresBands(_Part, Protocol, has="measured"):
    """A step that knows where the bands that it makes are valid.

    Without it, all are valid where every band that it reads was measured.
    """

    def measured(self, measured: Flags) -> Flags:
        """Return where each band that it makes is valid, bool (band, row, column), for where each
        band before was measured, bool (band, row, column).
        """
        ...


@runtime_checkable
class RenamesBands(_Part, Protocol, has="named"):
    """A step that makes other bands.

    Without it, bands keep their names if their number stays the same, and have none otherwise.
    """

    def named(self, names: Sequence[str]) -> Sequence[str]:
        """Return the names of the bands that it makes, for those of the bands before."""
        ...


@runtime_checkable
class Portable(_Part, Protocol, states="portable"):
    """A step that gives the same bits on every processor of a family."""

    @property
    def portable(self) -> bool:
        """Whether it does."""
        ...
