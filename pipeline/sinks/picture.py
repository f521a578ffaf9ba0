"""Labels as a picture, with the same colour for an id in every picture."""

from __future__ import annotations

import colorsys
import functools
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

RGB = npt.NDArray[np.uint8]

DARK = (16, 18, 24)
"""The colour of background."""

_HUES = 1024
_SHADES = ((0.50, 0.85), (0.62, 0.75), (0.72, 0.90), (0.58, 0.55))
"""Lightness and saturation; all well above DARK."""


def colours(labels: npt.NDArray[Any]) -> RGB:
    """Colour pixels by their id.

    Parameters
    ----------
    labels : int ndarray
        Ids, 0 or more; 0 = background.

    Returns
    -------
    uint8 ndarray of the shape of ``labels`` with a last axis of 3
        Red, green and blue.

    Examples
    --------
    >>> colours(np.array([0, 7, 7])).tolist()[0]
    [16, 18, 24]
    """
    ids = np.asarray(labels).astype(np.uint64)
    # Multiplied by the golden ratio (of 2^64), ids that follow each other are 0.38 of the circle of
    # hues apart, and any few of them are spread over it (D. Knuth, The Art of Computer Programming,
    # vol. 3, section 6.4). The shade comes from other bits.
    hue = (ids * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(54)
    shade = (ids * np.uint64(0xD6E8FEB86659FD93)) >> np.uint64(62)
    painted = _palette()[(shade * np.uint64(_HUES) + hue).astype(np.intp)]
    painted[ids == 0] = DARK
    return painted


def painted(classes: npt.NDArray[Any], colours: Mapping[int, tuple[int, int, int]]) -> RGB:
    """Colour pixels by their class; DARK for classes without a colour.

    >>> painted(np.array([[1, 9]]), {1: (255, 0, 0)}).tolist()
    [[[255, 0, 0], [16, 18, 24]]]
    """
    palette = np.full((int(classes.max(initial=0)) + 1, 3), DARK, np.uint8)
    for number, colour in colours.items():
        if number < len(palette):
            palette[number] = colour
    return np.asarray(palette[classes])


def outlined(picture: RGB, labels: npt.NDArray[Any]) -> RGB:
    """Draw the outlines of labels (row, column), 0 = background, onto a picture."""
    return np.where(((labels != 0) & _border(labels))[..., None], np.uint8(255), picture)


def overview(
    path: str, labels: npt.NDArray[Any], background: RGB | None = None, *, outline: bool = False
) -> None:
    """Write labels as a PNG.

    Parameters
    ----------
    path : Path
        The file.
    labels : int ndarray, (row, column)
        Ids; 0 = background.
    background : uint8 ndarray, (row, column, 3), optional
        The image of the labels; it shows, faded, where there is no object. None: dark.
    outline : bool, optional
        Paint only pixels of objects that touch another id; the image shows unfaded inside.

    Raises
    ------
    ValueError
        ``labels`` are not 2-D, or ``background`` does not match in shape or dtype.
    """
    if labels.ndim != 2:
        raise ValueError(
            f"{path}: a picture shows labels (row, column), not of the shape {labels.shape}; "
            f"give one plane"
        )
    painted = colours(labels)
    shown = labels != 0
    if background is not None:
        if background.shape != painted.shape or background.dtype != np.uint8:
            raise ValueError(
                f"{path}: the background is {background.dtype} {background.shape}; allowed: "
                f"uint8 {painted.shape}"
            )
        ground = background if outline else _faded(background)
        painted = np.where(
            (shown & _border(labels) if outline else shown)[..., None], painted, ground
        )
    elif outline:
        painted[shown & ~_border(labels)] = DARK
    Path(path).write_bytes(to_png(painted))


def to_png(rgb: RGB) -> bytes:
    """Encode a picture as PNG; the same picture gives the same bytes.

    Parameters
    ----------
    rgb : uint8 ndarray, (row, column, 3)
        The picture.

    Returns
    -------
    bytes
        The file.

    Raises
    ------
    ValueError
        ``rgb`` has another shape or dtype.
    """
    from PIL import Image

    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ValueError(f"a picture is uint8 (row, column, 3), not {rgb.dtype} {rgb.shape}")
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, "png")
    return file.getvalue()


@functools.cache
def _palette() -> RGB:
    """The colours, (shade · hue, 3)."""
    floats = [
        colorsys.hls_to_rgb(hue / _HUES, lightness, saturation)
        for lightness, saturation in _SHADES
        for hue in range(_HUES)
    ]
    return (np.array(floats) * 255).round().astype(np.uint8)


def _faded(image: RGB) -> RGB:
    """The image in dim grey, distinct from the colours of ids."""
    return np.repeat((image.mean(axis=2, keepdims=True) * 0.5).astype(np.uint8), 3, axis=2)


def _border(labels: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which pixels have another id above, below, left or right."""
    border = np.zeros(labels.shape, bool)
    for axis in (0, 1):
        one, other = (
            tuple(part if a == axis else slice(None) for a in (0, 1))
            for part in (slice(1, None), slice(None, -1))
        )
        differ = labels[one] != labels[other]
        border[one] |= differ
        border[other] |= differ
    return border
