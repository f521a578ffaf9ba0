"""Colour channels: hue and saturation, CIE L*a*b*, and the stains of histology.

They are computed pixel by pixel where scikit-image multiplies matrices, because a matrix product
may round differently in another window. Logarithms, powers and roots are not those of libraries,
which differ between processors in the last bit. For integers of up to 16 bits, functions of one
band are looked up in a table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import JobError
from pipeline.imageops.components import looked_up
from pipeline.numerics.elementary import logarithm, root

Floats = npt.NDArray[np.float64]

HSV = ("hue", "saturation", "value")
LAB = ("lightness", "a", "b")
STAINS = ("haematoxylin", "eosin", "dab")
CHANNELS = (*HSV, *LAB, *STAINS)
SPELT = {"hematoxylin": "haematoxylin"}
"""Other spellings of channels, by what is written; a job's record has the one in CHANNELS."""
COLOURS = (0, 1, 2)
"""Indices of the bands that are red, green and blue."""
XYZ_OF_RGB = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
"""From linear sRGB to XYZ, for D65 (ITU-R BT.709)."""
WHITE = (0.95047, 1.0, 1.08883)
BLACK = 1e-6
SMALL = 2
"""Bytes per value up to which a lookup table is used."""


def channel(block: npt.NDArray[Any], name: str) -> Floats:
    """Compute a colour channel from red, green and blue.

    Parameters
    ----------
    block : ndarray, (band, row, column) or (band, plane, row, column)
        The first three bands are red, green and blue: integers over the whole range of their type,
        or floats from 0 to 1.
    name : str
        ``hue``, ``saturation``, ``value``, each from 0 to 1; ``lightness`` from 0 to 100, ``a``
        (green to red) and ``b`` (blue to yellow) of CIE L*a*b* for D65; ``haematoxylin``, ``eosin``
        or ``dab``, the amount of the stain, 0 or more.

    Returns
    -------
    float64 ndarray of the shape ``block.shape[1:]``
        The channel; NaN where a band is NaN.

    Raises
    ------
    JobError
        The image has fewer than three bands.

    References
    ----------
    .. [1] A. C. Ruifrok, D. A. Johnston (2001), "Quantification of histochemical staining by color
       deconvolution", Analytical and Quantitative Cytology and Histology 23(4), 291-299.
    .. [2] ISO/CIE 11664-4, "Colorimetry - Part 4: CIE 1976 L*a*b* colour space".
    """
    if len(block) < 3:
        raise JobError(
            f"channel {name!r} is made of red, green and blue, and the image has {len(block)} "
            f"band(s)"
        )
    if name in HSV:
        return np.asarray(_hsv(*(_share(band) for band in block[:3]))[HSV.index(name)])
    return _stain(block, STAINS.index(name)) if name in STAINS else _lab(block, LAB.index(name))


def _share(band: npt.NDArray[Any]) -> Floats:
    """A band's values divided by the largest value of its type."""
    return np.asarray(
        band.astype(np.float64)
        / (1.0 if band.dtype.kind == "f" else float(np.iinfo(band.dtype).max))
    )


def _made(curve: Callable[[npt.NDArray[Any]], Floats], band: npt.NDArray[Any]) -> Floats:
    """Apply a function to each value of a band, by a lookup table for small integers."""
    if (
        band.dtype.kind != "u"
        or band.dtype.itemsize > SMALL
        or band.size < 1 << 8 * band.dtype.itemsize
    ):
        return curve(band)
    return looked_up(_table(curve, band.dtype), band)


@cache
def _table(curve: Callable[[npt.NDArray[Any]], Floats], dtype: np.dtype[Any]) -> Floats:
    return curve(np.arange(1 << 8 * dtype.itemsize).astype(dtype))


def _hsv(red: Floats, green: Floats, blue: Floats) -> Floats:
    from skimage.color import rgb2hsv

    return np.asarray(rgb2hsv(np.stack([red, green, blue]), channel_axis=0))


def _stain(block: npt.NDArray[Any], stain: int) -> Floats:
    from skimage.color import hed_from_rgb

    depths = [_made(_depth, band) for band in block[:3]]
    return np.maximum(_mixed(depths, hed_from_rgb[:, stain].tolist()), 0.0)


def _depth(band: npt.NDArray[Any]) -> Floats:
    """Optical density of a band, 1 for black as in scikit-image."""
    return logarithm(np.maximum(_share(band), BLACK)) / logarithm(BLACK)


def _lab(block: npt.NDArray[Any], axis: int) -> Floats:
    linear = [_made(_linear, band) for band in block[:3]]
    wanted = {0: (1,), 1: (0, 1), 2: (1, 2)}[axis]
    first, *second = (_bent(_mixed(linear, XYZ_OF_RGB[k]) / WHITE[k]) for k in wanted)
    return (
        116.0 * first - 16.0 if axis == 0 else (500.0 if axis == 1 else 200.0) * (first - second[0])
    )


def _linear(band: npt.NDArray[Any]) -> Floats:
    """Linear light of a band of sRGB: a power of 2.4, and a straight line near black."""
    share = _share(band)
    lifted = np.maximum((share + 0.055) / 1.055, 0.05)  # below that, the line is taken
    curved = root(lifted, 5)
    return np.where(share > 0.04045, lifted * lifted * (curved * curved), share / 12.92)


def _bent(share: Floats) -> Floats:
    """The cube root, and a straight line near black."""
    return np.where(
        share > 0.008856, root(np.maximum(share, 0.008), 3), 7.787 * share + 16.0 / 116.0
    )


def _mixed(bands: list[Floats], weights: Sequence[float]) -> Floats:
    first, second, third = (band * weight for band, weight in zip(bands, weights, strict=True))
    return np.asarray(first + second + third)
