"""Steps before segmenting: each turns the image into another one.

A step is a callable from a block, (band, row, column) or (band, plane, row, column), and the mask
of its valid pixels to a block of the same extent. It states its ``reach`` in pixels, and may be
fitted to the whole image as a segmenter may. Values at pixels that are not valid do not matter. A
``bandwise`` step computes each band from the same band alone, and gets a mask for each band. A step
that changes the bands names them: ``named(names) -> names``; ``of_bands`` is as for a segmenter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from pipeline.errors import JobError, SegmenterError
from pipeline.image.bands import indices, unlike
from pipeline.imageops.features import Feature
from pipeline.imageops.filters import gaussian_radius, local_median, opening, smooth
from pipeline.imageops.histograms import MOST_BINS, Histogram

Pixels = npt.NDArray[Any]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Smooth:
    """Gaussian mean of the valid pixels.

    Notes
    -----
    The result does not depend on the tiling.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.array([[[0.0, 0.0, 9.0, 0.0, 0.0]]])
    >>> Smooth(sigma=1)(image, np.ones(image.shape, bool)).round(1)
    array([[[0.5, 2.2, 3.6, 2.2, 0.5]]])
    """

    sigma: float = 1.0
    """Standard deviation of the Gaussian, in pixels; above 0, below 1000."""

    portable: ClassVar[bool] = True
    bandwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.sigma < 1000:
            raise JobError(f"sigma: {self.sigma!r}; allowed: more than 0, less than 1000 pixels")

    @property
    def reach(self) -> int:
        """The radius of the Gaussian, in pixels."""
        return gaussian_radius(self.sigma)

    def __call__(self, block: Pixels, valid: Flags) -> Pixels:
        """Smooth each band.

        Parameters
        ----------
        block : ndarray, (band, row, column) or (band, plane, row, column)
            The pixels of one window.
        valid : bool ndarray of the shape of ``block``, or of one band
            True where a pixel was measured.

        Returns
        -------
        float64 ndarray of the shape of ``block``
            The smoothed bands.
        """
        return np.stack([smooth(band, good, self.sigma) for band, good in _bands(block, valid)])


@dataclass(frozen=True, slots=True)
class Denoise:
    """Median of the valid pixels in a square (a cube): removes specks and keeps edges.

    Notes
    -----
    The result does not depend on the tiling.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.array([[[0.0, 0.0, 9.0, 0.0, 0.0]] * 3])
    >>> Denoise()(image, np.ones(image.shape, bool)).max()
    np.float64(0.0)
    """

    radius: int = 1
    """Radius of the square, in pixels, 1 to 999."""

    portable: ClassVar[bool] = True
    bandwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _refuse_radius(self.radius)

    @property
    def reach(self) -> int:
        """The radius, in pixels."""
        return self.radius

    def __call__(self, block: Pixels, valid: Flags) -> Pixels:
        """Filter each band.

        Parameters
        ----------
        block : ndarray, (band, row, column) or (band, plane, row, column)
            The pixels of one window.
        valid : bool ndarray of the shape of ``block``, or of one band
            True where a pixel was measured.

        Returns
        -------
        float64 ndarray of the shape of ``block``
            The local medians.
        """
        return np.stack(
            [local_median(band, good, self.radius) for band, good in _bands(block, valid)]
        )


@dataclass(frozen=True, slots=True)
class Background:
    """The image minus its background, which is everything wider than the objects.

    Notes
    -----
    The result does not depend on the tiling.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.array([[[5.0, 5.0, 9.0, 5.0, 5.0]] * 5])
    >>> Background(radius=1)(image, np.ones(image.shape, bool))[0, 0]
    array([0., 0., 4., 0., 0.])
    """

    radius: int = 50
    """For ``opening``: half the width of the square; for ``gaussian``: twice the standard
    deviation. In pixels, 1 to 999; larger than the objects.
    """

    method: Literal["opening", "gaussian"] = "opening"
    """``opening``: for bright objects on a darker background (white top-hat). ``gaussian``: for
    bright or dark objects on a background that changes slowly.
    """

    portable: ClassVar[bool] = True
    bandwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _refuse_radius(self.radius)
        if self.method not in ("opening", "gaussian"):
            raise JobError(f"method: {self.method!r}; allowed: 'opening' or 'gaussian'")

    @property
    def reach(self) -> int:
        """Twice the radius, in pixels."""
        return 2 * self.radius

    def __call__(self, block: Pixels, valid: Flags) -> Pixels:
        """Subtract the background of each band.

        Parameters
        ----------
        block : ndarray, (band, row, column) or (band, plane, row, column)
            The pixels of one window.
        valid : bool ndarray of the shape of ``block``, or of one band
            True where a pixel was measured.

        Returns
        -------
        float64 ndarray of the shape of ``block``
            The differences.
        """
        if self.method == "gaussian":
            return np.stack(
                [band - smooth(band, good, self.radius / 2) for band, good in _bands(block, valid)]
            )
        return np.stack(
            [band - opening(band, good, self.radius) for band, good in _bands(block, valid)]
        )


@dataclass(frozen=True, slots=True)
class Stretch:
    """Linear stretch of each band between two percentiles of the whole image, to 0 and 1.

    Values beyond the percentiles are clipped.

    Notes
    -----
    The result does not depend on the tiling.

    Examples
    --------
    >>> import numpy as np
    >>> Stretch(limits=((0.0, 10.0),))(np.array([[[0.0, 5.0, 20.0]]]))
    array([[[0. , 0.5, 1. ]]])
    """

    low: float = 1.0
    """The percentile of a band's values that becomes 0; 0 to 100."""

    high: float = 99.0
    """The percentile of a band's values that becomes 1; above ``low``, to 100."""

    limits: tuple[tuple[float, float], ...] | None = None
    """For each band, the values that become 0 and 1; None: they are found in the image's histogram.
    """

    portable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 100:
            raise JobError(
                f"low, high: {self.low!r}, {self.high!r}; allowed: percentiles from 0 to 100, "
                f"the lower first"
            )
        if self.limits is not None and not all(
            len(pair) == 2 and pair[0] <= pair[1] for pair in self.limits
        ):
            raise JobError(
                f"limits: {self.limits!r}; allowed: two numbers for each band, the lower first"
            )

    reach = 0
    bandwise: ClassVar[bool] = True
    bins = MOST_BINS

    @property
    def unfitted(self) -> bool:
        """Whether the limits must still be found in the image."""
        return self.limits is None

    def feature(self, block: Pixels) -> Pixels:
        """Return all bands, for histograms.

        Parameters
        ----------
        block : ndarray, (band, row, column) or (band, plane, row, column)
            The pixels of one window.

        Returns
        -------
        ndarray of the shape of ``block``
            The same block.
        """
        return block

    def fit(self, histograms: list[Histogram]) -> Stretch:
        """Return a copy with the limits found in histograms.

        Parameters
        ----------
        histograms : list of Histogram
            One for each band that is read, over the whole image.

        Returns
        -------
        Stretch
            A fitted copy.

        Raises
        ------
        SegmenterError
            The image has no valid pixel.
        """
        if not all(histogram.counts.size for histogram in histograms):
            raise SegmenterError("no percentiles can be found: the image has no valid pixel")
        return replace(
            self,
            limits=tuple((h.percentile(self.low), h.percentile(self.high)) for h in histograms),
        )

    def __call__(self, block: Pixels) -> Pixels:
        """Stretch each band.

        Parameters
        ----------
        block : ndarray, (band, row, column) or (band, plane, row, column)
            The pixels of one window.

        Returns
        -------
        float64 ndarray of the shape of ``block``
            Values from 0 to 1; 0 where a band has a single value.

        Raises
        ------
        JobError
            The number of bands is not that of the limits.
        """
        limits = self.limits or ()
        if len(limits) != len(block):
            raise JobError(
                f"limits: {len(limits)} for an image of {len(block)} bands; allowed: two numbers "
                f"for each"
            )
        return np.stack(
            [
                ((b - low) / ((high - low) or 1.0)).clip(0, 1)
                for b, (low, high) in zip(block, limits, strict=True)
            ]
        )


@dataclass(frozen=True, slots=True)
class Scale:
    """Every value times a factor plus an offset, as from digital numbers to reflectance.

    Notes
    -----
    The result does not depend on the tiling.

    Examples
    --------
    >>> import numpy as np
    >>> Scale(factor=0.5, offset=1)(np.array([[[2, 4]]]))
    array([[[2., 3.]]])
    """

    factor: float = 1.0
    """Factor, not 0; 0.0001 for reflectance of Sentinel-2."""

    offset: float = 0.0
    """Value added after multiplying; -0.1 for Sentinel-2 since processing baseline 04.00."""

    portable: ClassVar[bool] = True
    reach = 0
    bandwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not (np.isfinite([self.factor, self.offset]).all() and self.factor != 0):
            raise JobError(
                f"factor and offset: {self.factor!r} and {self.offset!r}; allowed: finite "
                f"numbers, and a factor that is not 0"
            )

    def __call__(self, block: Pixels) -> Pixels:
        """Scale each band.

        Parameters
        ----------
        block : ndarray, (band, row, column) or (band, plane, row, column)
            The pixels of one window.

        Returns
        -------
        float64 ndarray of the shape of ``block``
            The scaled values.
        """
        return np.asarray(block * np.float64(self.factor) + np.float64(self.offset))


@dataclass(frozen=True, slots=True)
class Index:
    """Normalised difference of two bands, (a - b) / (a + b), alone or as an additional band.

    It is NaN where a + b is 0.

    Notes
    -----
    The result does not depend on the tiling.

    Examples
    --------
    >>> import numpy as np
    >>> block = np.array([[[1.0]], [[3.0]]])
    >>> Index(bands=(2, 1))(block, np.ones((1, 1), bool))
    array([[[0.5]]])
    """

    bands: tuple[int | str, int | str]
    """The bands (a, b), by number from 1 or by name: near infrared and red give the NDVI, green and
    near infrared the NDWI.
    """

    append: bool = False
    """Whether the image keeps its bands and gets the index as the last."""

    name: str | None = None
    """Name of the new band; None: index_A_B with the names of the two bands, such as index_nir_red,
    or with their numbers (index_4_3).
    """

    portable: ClassVar[bool] = True
    reach = 0
    of_bands: ClassVar[tuple[str, ...]] = ("bands",)

    def __post_init__(self) -> None:
        try:
            Feature(index=self.bands)
        except JobError as error:
            raise JobError(str(error).replace("index:", "bands:", 1)) from error
        if self.name == "":
            raise JobError("name: ''; allowed: what the band is called, or nothing for index_A_B")

    def named(self, names: Sequence[str]) -> tuple[str, ...]:
        """Name the bands after this step.

        Parameters
        ----------
        names : sequence of str
            Names of the bands before it; ``bands`` are numbers by now.

        Returns
        -------
        tuple of str
            Names of the bands after it.
        """
        a, b = (names[int(band) - 1] for band in self.bands)
        name = self.name or f"index_{a}_{b}"
        return (*names, unlike(name, names)) if self.append else (name,)

    def reads(self, number: int) -> tuple[int, ...]:
        """List the two bands.

        Parameters
        ----------
        number : int
            How many bands the image has.

        Returns
        -------
        tuple of int
            Indices of bands, from 0.
        """
        return indices(self.bands, number)

    def measured(self, measured: Flags) -> Flags:
        """Tell where the bands after this step were measured.

        Parameters
        ----------
        measured : bool ndarray, (band, row, column) or (band, plane, row, column)
            True where each band was measured before it.

        Returns
        -------
        bool ndarray
            As many bands as the step makes; the index was measured where both of its bands were.
        """
        both = np.asarray(
            measured[[min(k, len(measured) - 1) for k in self.reads(len(measured))]].all(axis=0)
        )[None]
        return np.concatenate([measured, both]) if self.append else both

    def __call__(self, block: Pixels, valid: Flags) -> Pixels:
        """Compute the index.

        Parameters
        ----------
        block : ndarray, (band, row, column) or (band, plane, row, column)
            The pixels of one window.
        valid : bool ndarray of the shape ``block.shape[1:]``
            True where a pixel was measured.

        Returns
        -------
        float64 ndarray, (band, row, column) or (band, plane, row, column)
            The index, after the image's bands with ``append``.

        Raises
        ------
        JobError
            The image lacks a band.
        """
        index = Feature(index=self.bands).feature(block, valid)[None]
        return np.concatenate([block.astype(np.float64), index]) if self.append else index


def _bands(block: Pixels, valid: Flags) -> Iterator[tuple[Pixels, Flags]]:
    """Pairs of a band and its mask; a mask of one band serves all."""
    return zip(block, np.broadcast_to(valid, block.shape), strict=True)


def _refuse_radius(radius: object) -> None:
    if isinstance(radius, bool) or not isinstance(radius, int) or not 1 <= radius < 1000:
        raise JobError(f"radius: {radius!r}; allowed: a whole number of pixels, from 1 to 999")
