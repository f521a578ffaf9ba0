"""Measure a network's receptive field (reach) and total stride.

Half of an image is filled with NaN, and everything that depends on it becomes NaN. Where the answer
is a number, the network does not depend on that half. So the reach is a bound for any weights and
any image. (The usual way, the gradient of one pixel of the answer, gives the reach at one position
within the stride, and less where units are inactive.) Every position within the stride is tried, on
all four sides.

An operation may swallow NaN while others pass it on. So PyTorch's operations are followed one by
one (`pipeline.networks.nan_tracing`), and if one cannot be followed, the reach counts as unbounded.
A network that cannot be followed, such as one of onnxruntime, is also run with several other values
in the half. If more of the answer changes than NaN shows, it swallows NaN, and its reach counts as
unbounded too: an observed change is not a bound.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.errors import JobError

Floats = npt.NDArray[np.float32]
STRIDES = (1, 2, 4, 8, 16, 32, 64)
SIZES = (0.0, 3.0, -3.0, 1e3, 1e6)
"""Magnitudes of the values that the half is changed to."""
LONGEST = 4096
"""Pixels of the longest image that is tried; a larger reach counts as unbounded."""


@dataclass(frozen=True, slots=True)
class Sight:
    """A network's stride and reach."""

    stride: int
    """Windows begin at multiples of this."""

    reach: int | None
    """The reach in pixels along each axis; None: unbounded."""


def probe(forward: Callable[[Floats], Floats], bands: int, stride: int) -> Sight:
    """Measure a network.

    Parameters
    ----------
    forward : callable
        From (1, band, row, column) to (1, channel, row, column), float32.
    bands : int
        The number of bands.
    stride : int
        Its total stride as far as known: extents are multiples of it. The smallest stride with
        which the answer moves along with the image is found.

    Returns
    -------
    Sight
        The stride and the reach.
    """
    reach = 0
    extent = max(256, 8 * stride)
    if not _looks_near(forward, bands, stride, extent):
        extent = LONGEST
        if not _looks_near(forward, bands, stride, extent):
            return Sight(stride, None)
    for axis in (0, 1):
        for phase in range(stride):
            for mirrored in (False, True):
                found = _reach(
                    forward, bands, stride, axis, phase, mirrored=mirrored, extent=extent
                )
                while found is None and extent < LONGEST:
                    extent *= 2
                    found = _reach(
                        forward, bands, stride, axis, phase, mirrored=mirrored, extent=extent
                    )
                if found is None:
                    return Sight(stride, None)
                reach = max(reach, found)
    return Sight(stride, reach)


def _looks_near(forward: Callable[[Floats], Floats], bands: int, stride: int, extent: int) -> bool:
    """Whether a change at one end of an image leaves the other end unchanged."""
    return _reach(forward, bands, stride, 1, 0, mirrored=False, extent=extent) is not None


def _reach(
    forward: Callable[[Floats], Floats],
    bands: int,
    stride: int,
    axis: int,
    phase: int,
    *,
    mirrored: bool,
    extent: int,
) -> int | None:
    """Measure the reach from a border at one position within the stride.

    Parameters
    ----------
    forward : callable
        The network.
    bands, stride : int
        Its bands and total stride.
    axis : int
        0 for rows, 1 for columns.
    phase : int
        The position of the border within the stride.
    mirrored : bool
        Whether the other half is unknown.
    extent : int
        The width of the image.

    Returns
    -------
    int or None
        The reach in pixels; None: unbounded.
    """
    across = max(2 * stride, 32)
    across = -(-across // stride) * stride
    shape = (extent, across) if axis == 0 else (across, extent)
    image = np.random.default_rng(0).standard_normal((1, bands, *shape)).astype(np.float32)
    known = forward(image)
    if known.shape[2:] != shape:
        raise JobError(
            f"the network returned {known.shape} for {image.shape}; allowed: as many rows and "
            f"columns"
        )
    border = extent // 4 // stride * stride + phase
    lost = slice(extent - border, None) if mirrored else slice(None, border)
    hidden = image.copy()
    hidden[(slice(None), slice(None), lost) if axis == 0 else (..., lost)] = np.nan
    altered = _altered(forward, hidden, image, known)
    if altered is None:
        return None
    lines = np.asarray(altered.any(axis=(0, 1, 3 if axis == 0 else 2)))
    return _beyond(lines[::-1] if mirrored else lines, border)


def _beyond(lines: npt.NDArray[np.bool_], border: int) -> int | None:
    """How many lines beyond a border, (line,), are altered; None: all of them."""
    altered = np.flatnonzero(lines)
    if not len(altered):
        return 0
    return None if altered[-1] == len(lines) - 1 else max(0, int(altered[-1]) + 1 - border)


def _altered(
    forward: Callable[[Floats], Floats], hidden: Floats, image: Floats, known: Floats
) -> npt.NDArray[np.bool_] | None:
    """Where an answer depends on pixels that are NaN in ``hidden``; None if that is undecidable."""
    from pipeline.networks.nan_tracing import through  # which imports PyTorch

    seen, followed, lost = through(forward, hidden)
    if followed:
        return None if lost else np.asarray(np.isnan(seen), bool)
    altered: npt.NDArray[np.bool_] = np.isnan(seen)
    rng = np.random.default_rng(1)
    for size in SIZES:
        other = np.where(np.isnan(hidden), size * rng.standard_normal(image.shape), image).astype(
            np.float32
        )
        if ((forward(other) != known) & ~altered).any():
            return None
    return np.asarray(altered)
