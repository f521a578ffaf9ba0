"""How far a network looks and what its total stride is, measured on the network itself.

Half of an image is filled with NaN, which everything that looks at it becomes too: where the answer
is a number, the network looks at nothing beyond. So the reach is a bound for any weights and any
image. (The gradient of one pixel of the answer, the usual way, tells the reach of one position
within the stride, and less than it where units do not fire.) Every position within the stride is
tried, on all four sides.

An operation may swallow NaN, beside others that pass it on. Those of PyTorch are therefore followed
one by one (`tainted`): each gives NaN where it is given NaN, and where one cannot be followed, the
network is taken to look at everything. Of a network that cannot be followed so, as one of
onnxruntime, the half is also changed, in several ways; where more of the answer changes than NaN
tells, it swallows NaN, and it is taken to look at everything as well: a change that is seen is no
bound.
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
"""Of the values that a half is changed to."""
LONGEST = 4096
"""Pixels of the longest image that is tried; what looks further is taken to look at everything."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What a network sees."""

    stride: int
    """What its windows begin at multiples of."""

    reach: int | None
    """How many pixels away it looks, along each axis; None: at the whole window."""


def probe(forward: Callable[[Floats], Floats], bands: int, stride: int) -> Sight:
    """Measure a network that answers (1, band, row, column) by (1, channel, row, column).

    Parameters
    ----------
    forward
        The network.
    bands
        How many it takes.
    stride
        Its total stride as far as known: extents are multiples of it. The smallest under which its
        answer moves with the image is found.
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
    """Whether what is at one end of an image leaves the other end as it is."""
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
    """How far beyond what is not known the answer is not known, from a border at a position within
    the stride; None: everywhere.
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
    lines = np.flatnonzero(altered.any(axis=(0, 1, 3 if axis == 0 else 2)))
    if mirrored:
        far = extent - border - int(lines[0]) if len(lines) else 0
        return None if len(lines) and lines[0] == 0 else max(0, far)
    far = int(lines[-1]) + 1 - border if len(lines) else 0
    return None if len(lines) and lines[-1] == extent - 1 else max(0, far)


def _altered(
    forward: Callable[[Floats], Floats], hidden: Floats, image: Floats, known: Floats
) -> npt.NDArray[np.bool_] | None:
    """Where an answer depends on pixels that are NaN in ``hidden``; None where that
    cannot be told.
    """
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
