"""What is segmented: one number per pixel, made from bands and smoothed.

Below the segmenters (a floor that DESIGN does not draw), because every family of them begins with
it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from pipeline.errors import JobError, nearest
from pipeline.image.bands import MEAN, numbered
from pipeline.imageops.colours import CHANNELS, COLOURS, channel
from pipeline.imageops.filters import gaussian_radius, smooth, usable


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """One number per pixel of a block: a band, the mean or a weighted sum of all, a normalised
    difference or a channel; smoothed if asked.

    A segmenter that works on one number inherits from this, and so has these options.
    """

    band: int | str = 1
    """The band, by number from 1 in the order in which the source gives them, or by name; or
    ``mean`` of all.
    """

    index: tuple[int | str, int | str] | None = None
    """Bands (a, b), by number from 1 or by name: (a - b) / (a + b), in place of ``band``. NaN where
    a + b is 0.
    """

    weights: tuple[float, ...] | Mapping[str, float] | None = None
    """One number for each band, or ``{band: number}`` for those that count: the sum of the bands
    times these, in place of ``band``. A band whose number is 0 is not looked at.
    """

    channel: str | None = None
    """A channel of the colour, in place of ``band``: hue, saturation, value; lightness, a, b;
    haematoxylin, eosin, dab.
    """

    sigma: float = 0.0
    """The standard deviation of Gaussian smoothing, in pixels; 0: none."""

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
        """How many pixels away the smoothing looks."""
        return gaussian_radius(self.sigma)

    def reads(self, number: int) -> tuple[int, ...]:
        """The indices, from 0, of those of ``number`` bands that the feature is made of."""
        if self.channel is not None:
            return COLOURS
        asked: Any = numbered(self, [str(k + 1) for k in range(number)])
        if asked.weights is not None:
            return tuple(k for k, weight in enumerate(asked.weights) if weight)
        if asked.index is None and asked.band == MEAN:
            return tuple(range(number))
        return tuple(dict.fromkeys(int(band) - 1 for band in asked.index or (asked.band,)))

    def feature(self, block: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
        """The number of each pixel, of the shape of ``valid``: the band's own type, or float64
        where it is computed.

        JobError if a band is missing.
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
    """The feature's values at valid pixels, one-dimensional, without those that are no finite
    number.
    """
    good = usable(feature, valid)
    return feature.reshape(-1) if good.all() else feature[good]


def _normalised_difference(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    first, second = a.astype(np.float64), b.astype(np.float64)
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
    """JobError where these are no numbers of bands, or all are 0."""
    numbers = list(given.values() if isinstance(given, Mapping) else given)
    if not numbers or not np.isfinite(numbers).all() or not np.any(numbers):
        raise JobError(
            f"weights: {given!r}; allowed: one finite number for each band, such as [0.3, 0.6, "
            f"0.1], or {{red: 0.3, nir: 0.7}}; not all 0"
        )
