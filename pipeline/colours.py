"""Colours as other numbers: hue and saturation, CIE L*a*b*, and the stains of histology.

Written out pixel by pixel where scikit-image multiplies matrices, since a matrix product may round in another way in another window.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import JobError

Floats = npt.NDArray[np.float64]

HSV = ("hue", "saturation", "value")
LAB = ("lightness", "a", "b")
STAINS = ("haematoxylin", "eosin", "dab")
CHANNELS = (*HSV, *LAB, *STAINS)
COLOURS = (0, 1, 2)
"""The bands, by index, that channels are made of."""
XYZ_OF_RGB = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
"""Of linear sRGB, for D65 (ITU-R BT.709)."""


def channel(block: npt.NDArray[Any], name: str) -> Floats:
    """One number for each pixel, from its red, green and blue.

    Parameters
    ----------
    block
        (band, row, column) or (band, plane, row, column), of which the first three bands are red, green and blue: integers over the whole
        range of their type, or floats from 0 to 1.
    name
        ``hue``, ``saturation``, ``value``, each from 0 to 1; ``lightness`` from 0 to 100, ``a`` (green to red) and ``b`` (blue to
        yellow) of CIE L*a*b* for D65; ``haematoxylin``, ``eosin`` or ``dab``, the amount of the stain, 0 or more.

    Returns
    -------
    array of float64, of the block's shape without its first axis; NaN where a band is.

    Raises
    ------
    JobError
        Where the image has fewer than three bands.

    References
    ----------
    A. C. Ruifrok, D. A. Johnston (2001), "Quantification of histochemical staining by color deconvolution", Analytical and Quantitative
    Cytology and Histology 23(4), 291-299; ISO/CIE 11664-4 for L*a*b*.
    """
    if len(block) < 3:
        raise JobError(f"channel {name!r} is made of red, green and blue, and the image has {len(block)} band(s)")
    top = 1.0 if block.dtype.kind == "f" else float(np.iinfo(block.dtype).max)
    red, green, blue = (band.astype(np.float64) / top for band in block[:3])
    if name in HSV:
        return np.asarray(_hsv(red, green, blue)[HSV.index(name)])
    return _stain(red, green, blue, STAINS.index(name)) if name in STAINS else _lab(red, green, blue, LAB.index(name))


def _hsv(red: Floats, green: Floats, blue: Floats) -> Floats:
    from skimage.color import rgb2hsv

    return np.asarray(rgb2hsv(np.stack([red, green, blue]), channel_axis=0))


def _stain(red: Floats, green: Floats, blue: Floats, stain: int) -> Floats:
    from skimage.color import hed_from_rgb

    floor = 1e-6  # as in scikit-image: a pixel may be black
    depths = [np.log(np.maximum(band, floor)) / np.log(floor) for band in (red, green, blue)]
    return np.maximum(_mixed(depths, hed_from_rgb[:, stain].tolist()), 0.0)


def _lab(red: Floats, green: Floats, blue: Floats, axis: int) -> Floats:
    linear = [np.where(band > 0.04045, ((band + 0.055) / 1.055) ** 2.4, band / 12.92) for band in (red, green, blue)]
    x, y, z = (_bent(_mixed(linear, weights) / white) for weights, white in zip(XYZ_OF_RGB, (0.95047, 1.0, 1.08883), strict=True))
    return np.asarray((116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z))[axis])


def _bent(share: Floats) -> Floats:
    """The cube root, and a straight line near black."""
    return np.where(share > 0.008856, np.cbrt(share), 7.787 * share + 16.0 / 116.0)


def _mixed(bands: list[Floats], weights: Sequence[float]) -> Floats:
    first, second, third = (band * weight for band, weight in zip(bands, weights, strict=True))
    return np.asarray(first + second + third)
