"""The feature that is segmented: one number per pixel, computed from bands and smoothed.

It is in this room because every family of segmenters starts with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from pipeline.errors import JobError, nearest
from pipeline.image.bands import MEAN, numbered
from pipeline.imageops.colours import CHANNELS, COLOURS, SPELT, channel
from pipeline.imageops.filters import gaussian_radius, smooth, usable


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """One number per pixel: a band, their mean or weighted sum, an index or a colour channel.

    The feature is smoothed if ``sigma`` is given. A segmenter that works on one number per pixel
    inherits from this class and its options.

    Examples
    --------
    >>> import numpy as np
    >>> block = np.array([[[1.0]], [[3.0]]])
    >>> Feature(index=(2, 1)).feature(block, np.ones((1, 1), bool))
    array([[0.5]])
    """

    band: int | str = 1
    """The band to use, by number from 1 in the order of the source, or by name; or ``mean`` of all
    bands.
    """

    index: tuple[int | str, int | str] | None = None
    """Two bands (a, b), by number from 1 or by name, for the normalised difference (a - b) / (a +
    b) in place of ``band``. NaN where a + b is 0.
    """

    weights: tuple[float, ...] | Mapping[str, float] | None = None
    """Weights for a sum of bands in place of ``band``: one number for each band, or ``{band:
    number}`` for some. Bands of weight 0 are not read.
    """

    channel: str | None = None
    """A colour channel in place of ``band``: hue, saturation, value; lightness, a, b; haematoxylin
    (or hematoxylin), eosin, dab.
    """

    sigma: float = 0.0
    """Standard deviation of the Gaussian smoothing, in pixels; 0: no smoothing."""

    of_bands: ClassVar[tuple[str, ...]] = ("band", "index", "weights")

    def __post_init__(self) -> None:
        if not _is_band(self.band):
            raise JobError(
                f"band: {self.band!r}; allowed: a band's number, from 1, its name, or 'mean'"
            )
        if self.index is not None and not (len(self.index) == 2 and all(map(_is_band, self.index))):
            raise JobError(
                f"index: {self.index!r}; allowed: two bands' numbers, from 1, or names, such as "
                f"[4, 3] or [nir, red]"
            )
        if self.weights is not None:
            _refuse_weights(self.weights)
        if self.channel in SPELT:
            object.__setattr__(self, "channel", SPELT[self.channel])
        if self.channel is not None and self.channel not in CHANNELS:
            raise JobError(f"channel: {self.channel!r}; {nearest(self.channel, CHANNELS)}")
        given = [
            name for name in ("index", "weights", "channel") if getattr(self, name) is not None
        ]
        if len(given) > 1:
            raise JobError(f"{' and '.join(given)} are both given; allowed: one of them")
        if not 0 <= self.sigma < 1000:
            raise JobError(f"sigma: {self.sigma!r}; allowed: 0 to 1000 pixels")

    @property
    def radius(self) -> int:
        """The radius of the smoothing, in pixels."""
        return gaussian_radius(self.sigma)

    def reads(self, number: int) -> tuple[int, ...]:
        """List the bands that the feature uses.

        Parameters
        ----------
        number : int
            How many bands the image has.

        Returns
        -------
        tuple of int
            Indices of bands, from 0.
        """
        if self.channel is not None:
            return COLOURS
        asked: Any = numbered(self, [str(k + 1) for k in range(number)])
        if asked.weights is not None:
            return tuple(k for k, weight in enumerate(asked.weights) if weight)
        if asked.index is None and asked.band == MEAN:
            return tuple(range(number))
        return tuple(dict.fromkeys(int(band) - 1 for band in asked.index or (asked.band,)))

    def feature(self, block: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
        """Compute the feature.

        Parameters
        ----------
        block : ndarray, (band, row, column) or (band, plane, row, column)
            The pixels of one window.
        valid : bool ndarray of the shape ``block.shape[1:]``
            True where a pixel was measured.

        Returns
        -------
        ndarray of the shape of ``valid``
            The feature: in the band's own dtype, or float64 where it is computed.

        Raises
        ------
        JobError
            The image lacks a band.
        """
        value = self._value(block)
        return smooth(value, valid, self.sigma) if self.sigma else value

    def _value(self, block: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if self.channel is not None:
            return channel(block, self.channel)
        asked: Any = numbered(self, [str(k + 1) for k in range(len(block))])
        if asked.weights is not None:
            if len(asked.weights) != len(block):
                raise JobError(
                    f"weights: {len(asked.weights)} numbers for an image of {len(block)} bands; "
                    f"allowed: one for each"
                )
            # Band after band, since a matrix product may add in another order for another size of
            # window. A band of weight 0 is not read, since 0 times NaN would be NaN.
            return np.asarray(
                sum(
                    weight * block[k].astype(np.float64)
                    for k, weight in enumerate(asked.weights)
                    if weight
                )
            )
        if asked.index is None and asked.band == MEAN:
            return np.asarray(block.mean(axis=0, dtype=np.float64))
        wanted = [int(band) for band in asked.index or (asked.band,)]
        if max(wanted) > len(block):
            raise JobError(
                f"band {max(wanted)} is asked for, and the image has {len(block)}; allowed: 1 to "
                f"{len(block)}"
            )
        bands = [block[number - 1] for number in wanted]
        return _normalised_difference(*bands) if self.index else bands[0]


def measured(feature: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
    """Collect the finite values of a feature at valid pixels.

    Parameters
    ----------
    feature : ndarray
        The feature.
    valid : bool ndarray of the shape of ``feature``
        True where a pixel was measured.

    Returns
    -------
    ndarray, (pixel,)
        The values in raster order.
    """
    good = usable(feature, valid)
    return feature.reshape(-1) if good.all() else feature[good]


def _normalised_difference(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    first = a.astype(np.float64)
    second = b.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(
            np.where(first + second == 0, np.nan, (first - second) / (first + second))
        )


def _is_band(band: object) -> bool:
    return (
        bool(band)
        if isinstance(band, str)
        else isinstance(band, int) and not isinstance(band, bool) and band >= 1
    )


def _refuse_weights(given: Any) -> None:
    """Raise JobError unless the weights are finite numbers, at least one of them not 0."""
    numbers = list(given.values() if isinstance(given, Mapping) else given)
    if not numbers or not np.isfinite(numbers).all() or not np.any(numbers):
        raise JobError(
            f"weights: {given!r}; allowed: one finite number for each band, such as [0.3, 0.6, "
            f"0.1], or {{red: 0.3, nir: 0.7}}; not all 0"
        )
