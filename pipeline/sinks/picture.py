"""Labels as a picture: a colour for every id, the same in every picture."""

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
    """A colour for every pixel, which depends on its id alone.

    Parameters
    ----------
    labels
        Integers of any shape, 0 = background, none negative.

    Returns
    -------
    array of uint8, of the shape of ``labels`` and a last axis of red, green, blue

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
    """The colour of every pixel's class; DARK where it has none.

    >>> painted(np.array([[1, 9]]), {1: (255, 0, 0)}).tolist()
    [[[255, 0, 0], [16, 18, 24]]]
    """
    palette = np.full((int(classes.max(initial=0)) + 1, 3), DARK, np.uint8)
    for number, colour in colours.items():
        if number < len(palette):
            palette[number] = colour
    return np.asarray(palette[classes])


def outlined(picture: RGB, labels: npt.NDArray[Any]) -> RGB:
    """A picture with the outlines of objects on it: labels (row, column), 0 = background."""
    return np.where(((labels != 0) & _border(labels))[..., None], np.uint8(255), picture)


def overview(
    path: str, labels: npt.NDArray[Any], background: RGB | None = None, *, outline: bool = False
) -> None:
    """Write labels as a PNG.

    Parameters
    ----------
    path
        The file to be written.
    labels
        (row, column), 0 = background.
    background
        (row, column, 3), the image that the labels are of. It shows, faded, where there is no
        object; None: dark.
    outline
        Paint only the pixels of objects that touch another id; within them the image shows unfaded.

    Raises
    ------
    ValueError
        Where ``labels`` are not 2-D, or ``background`` is not of their shape, in uint8.
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
    """A picture as the bytes of a PNG, the same for the same picture.

    Parameters
    ----------
    rgb
        (row, column, 3), uint8.

    Raises
    ------
    ValueError
        Where ``rgb`` is of another shape or type.
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
    """The image in dim grey, so that no colour of it is taken for an id's."""
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
