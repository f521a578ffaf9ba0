"""Superpixels: small patches of like pixels, one for each cell of a lattice over the image.

k-means in colour and place (SLIC), in which a pixel may only join the nine (in volumes 27) cells
around its own. So a patch depends on a bounded neighbourhood, its name is the place of its cell in
the lattice, and the lattice begins at the image's first pixel: patches are the same however the
image is tiled. Sums are made in raster order of the pixels of a patch, which is the same in every
window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numba
import numpy as np
import numpy.typing as npt

from pipeline.errors import JobError
from pipeline.image.frame import Frame
from pipeline.imageops.components import pieces
from pipeline.segmenters import Footprint, Identity, Origin, fitted_to
from pipeline.segmenters.pixel_features import Contrast

Pixels = npt.NDArray[Any]
Flags = npt.NDArray[np.bool_]
BITS = {2: (0, 31, 31), 3: (18, 22, 22)}
"""Of a key, for each axis (plane, row, column), by the image's dimensions; one bit more tells
patches that have no cell of their own.
"""
APART = np.int64(1 << 62)
FACES = 6
"""Pixels of a patch touch by a side, in two dimensions too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Superpixels(Contrast):
    """Patches of about equal size that keep to the borders in the image.

    Use them where objects are too many-coloured to be told pixel by pixel: as units to be measured,
    classed or merged (``region_graph``). They are not objects themselves.

    It differs from SLIC in two things: a pixel may join only the cells beside its own, and a part
    of a patch that does not hang together with it goes to the nearest of the patches that it
    touches. (What pixels that are not valid cut off is a patch of its own.)

    References
    ----------
    R. Achanta et al. (2012), "SLIC superpixels compared to state-of-the-art superpixel methods",
    IEEE Trans. PAMI 34(11), 2274-2282. C. Y. Ren, V. A. Prisacariu, I. D. Reid (2015), "gSLICr:
    SLIC superpixels at over 250 Hz", arXiv:1509.04232, for the nine cells.
    """

    spacing: int = 16
    """The extent of a cell in pixels."""

    compactness: float = 10.0
    """How much place counts beside colour, whose contrast over the image is 100; the higher, the
    squarer.
    """

    iterations: int = 5
    """How often centres are moved. Each adds twice the spacing to the reach."""

    identity: ClassVar[Identity] = "keyed"
    portable: ClassVar[bool] = True
    footprint: ClassVar[Footprint] = Footprint(27.0, 8.5)

    def __post_init__(self) -> None:
        Contrast.__post_init__(self)  # super() does not work in a class with slots
        for name, least, most in (("spacing", 2, 1000), ("iterations", 0, 50)):
            given = getattr(self, name)
            if isinstance(given, bool) or not isinstance(given, int) or not least <= given <= most:
                raise JobError(f"{name}: {given!r}; allowed: {least} to {most}")
        if not self.compactness > 0:
            raise JobError(f"compactness: {self.compactness!r}; allowed: more than 0")

    @property
    def reach(self) -> int:
        """The smoothing's radius; two cells for each move of the centres, and seven for what does
        not hang together.
        """
        return self.radius + (2 * self.iterations + 7) * self.spacing

    def suited(self, frame: Frame) -> Superpixels:
        """The same; JobError where the image has more pixels along an axis than keys can tell
        apart.
        """
        most = [1 << bits for bits in BITS[frame.ndim][-frame.ndim :]]
        if any(extent > number for extent, number in zip(frame.shape, most, strict=True)):
            raise JobError(
                f"superpixels of an image of {' x '.join(map(str, frame.shape))}; allowed: up to "
                f"{' x '.join(map(str, most))}"
            )
        return self

    def __call__(
        self, block: Pixels, valid: Flags | None = None, origin: Origin = None
    ) -> npt.NDArray[Any]:
        """The key of the patch of each pixel, int64, of a block whose first pixel lies at
        ``origin``; 0 where it is not valid.
        """
        block = np.asarray(block)
        valid = np.ones(block.shape[1:], bool) if valid is None else valid
        values = fitted_to(self, block, valid).scaled(block, valid)
        return _patches(
            values,
            valid,
            origin or (0,) * valid.ndim,
            self.spacing,
            self.compactness,
            self.iterations,
        )


def _patches(
    values: npt.NDArray[np.float64],
    valid: Flags,
    origin: tuple[int, ...],
    spacing: int,
    compactness: float,
    iterations: int,
) -> npt.NDArray[np.int64]:
    """Keys of patches. Two dimensions are one plane of a volume."""
    flat = (1,) * (3 - valid.ndim)
    start = np.array((0,) * len(flat) + origin)
    known = (valid & np.isfinite(values).all(axis=0)).reshape(flat + valid.shape)
    solid = values.reshape(values.shape[:1] + known.shape)
    first = start // spacing
    cells = (start + known.shape - 1) // spacing - first + 1
    number = np.arange(np.prod(cells)).reshape(cells)
    owner = np.full(known.shape, -1, np.int32)
    edges = [np.arange(n) for n in known.shape]
    places = [
        (at + begin) // spacing - low for at, begin, low in zip(edges, start, first, strict=True)
    ]
    owner[known] = number[np.ix_(*places)][known]
    weight = (compactness / spacing) ** 2
    for _ in range(iterations + 1):
        centres = _centres(solid, owner, start, number.size)
        _assign(solid, start, spacing, cells, centres, weight, owner)
    orphan = _orphans(owner)
    _adopt(solid, owner, orphan, start, centres, weight, spacing)
    bits = BITS[valid.ndim]
    key = _named(np.unravel_index(np.arange(number.size), tuple(cells)), first, bits) + 1
    keys = np.where(known, key[owner], 0)
    if orphan.any():  # each piece of them is a patch of its own, named by its first pixel
        labels, many = pieces(np.where(orphan, owner + 1, 0), FACES)
        begins = np.unravel_index(np.unique(labels, return_index=True)[1][-many:], labels.shape)
        keys[orphan] = (_named(begins, start, bits) | APART)[labels[orphan] - 1]
    return keys.reshape(valid.shape)


def _named(
    places: Sequence[npt.NDArray[np.intp]], first: npt.NDArray[np.int64], bits: tuple[int, int, int]
) -> npt.NDArray[np.int64]:
    """Places (plane, row, column) in one number each."""
    z, y, x = (axis.astype(np.int64) + begin for axis, begin in zip(places, first, strict=True))
    return np.asarray((z << bits[1] + bits[2]) | (y << bits[2]) | x)


@numba.njit(cache=True, nogil=True)
def _centres(values, owner, start, number):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """(cell, 4 + band): how many pixels a cell has, their mean place in the image, and their mean
    features.
    """
    bands, planes, rows, columns = values.shape
    sums = np.zeros((number, 4 + bands))
    for p in range(planes):
        for r in range(rows):
            for c in range(columns):
                k = owner[p, r, c]
                if k >= 0:
                    sums[k, 0] += 1.0
                    sums[k, 1] += p + start[0]
                    sums[k, 2] += r + start[1]
                    sums[k, 3] += c + start[2]
                    for b in range(bands):
                        sums[k, 4 + b] += values[b, p, r, c]
    for k in range(number):
        if sums[k, 0] > 0.0:
            for b in range(1, 4 + bands):
                sums[k, b] /= sums[k, 0]
    return sums


@numba.njit(cache=True, nogil=True)
def _assign(values, start, spacing, cells, centres, weight, owner):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Give each pixel to the nearest centre of the cells around its own; of equally near ones the
    first. A row of cells at a time.
    """
    planes, rows, columns = owner.shape
    room = spacing * spacing
    far, nearest, which, pixels = (
        np.empty(room),
        np.empty(room),
        np.empty(room, np.int32),
        np.empty((values.shape[0], room)),
    )
    for p in range(planes):
        z = (p + start[0]) // spacing - start[0] // spacing
        for y in range(cells[1]):
            top = max((start[1] // spacing + y) * spacing - start[1], 0)
            high = min((start[1] // spacing + y + 1) * spacing - start[1], rows) - top
            for x in range(cells[2]):
                low = max((start[2] // spacing + x) * spacing - start[2], 0)
                wide = min((start[2] // spacing + x + 1) * spacing - start[2], columns) - low
                cell = (p, top, low, high, wide)
                _fetch(values, cell, pixels)
                nearest[:] = np.inf
                for dz in range(max(z - 1, 0), min(z + 2, cells[0])):
                    for dy in range(max(y - 1, 0), min(y + 2, cells[1])):
                        for dx in range(max(x - 1, 0), min(x + 2, cells[2])):
                            k = (dz * cells[1] + dy) * cells[2] + dx
                            if centres[k, 0] > 0.0:
                                _compete(
                                    pixels, cell, start, centres[k], k, weight, far, nearest, which
                                )
                _settle(owner, cell, which)


@numba.njit(cache=True, nogil=True)
def _settle(owner, cell, which):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Write down who has the pixels of a cell; those that are not known belong to nobody."""
    p, top, low, high, wide = cell
    for r in range(high):
        for c in range(wide):
            if owner[p, top + r, low + c] >= 0:
                owner[p, top + r, low + c] = which[r * wide + c]


@numba.njit(cache=True, nogil=True)
def _fetch(values, cell, pixels):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Lay the pixels of a cell next to each other, band by band: short rows would cost more than
    what is worked out on them.
    """
    p, top, low, high, wide = cell
    for b in range(values.shape[0]):
        for r in range(high):
            for c in range(wide):
                pixels[b, r * wide + c] = values[b, p, top + r, low + c]


@numba.njit(cache=True, nogil=True)
def _compete(pixels, cell, start, centre, k, weight, far, nearest, which):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Let a centre have the pixels of a cell that no centre before it is as near to; loops that the
    compiler turns into vectors.
    """
    p, top, low, high, wide = cell
    down, number = p + start[0] - centre[1], high * wide
    for r in range(high):
        across = top + r + start[1] - centre[2]
        beside = weight * (down * down + across * across)
        for c in range(wide):
            along = low + c + start[2] - centre[3]
            far[r * wide + c] = beside + weight * along * along
    for b in range(pixels.shape[0]):
        mean, band = centre[4 + b], pixels[b]
        for i in range(number):
            step = band[i] - mean
            far[i] += step * step
    for i in range(number):
        closer = far[i] < nearest[i]
        nearest[i] = far[i] if closer else nearest[i]
        which[i] = k if closer else which[i]


def _orphans(owner: npt.NDArray[np.int32]) -> Flags:
    """Pixels that do not hang together with the largest piece of their patch; of equally large ones
    the first.
    """
    labels, many = pieces(owner + 1, FACES)
    size = np.bincount(labels.ravel(), minlength=many + 1)
    of = np.zeros(many + 1, np.int64)
    of[labels] = owner + 1
    size[0] = 0
    order = np.lexsort((np.arange(many + 1), -size, of))
    largest = np.zeros(many + 1, bool)
    largest[order[np.diff(of[order], prepend=-1) != 0]] = True
    largest[0] = True
    return np.asarray(~largest[labels])


@numba.njit(cache=True, nogil=True)
def _distance(values, p, r, c, start, centre, weight):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    total = 0.0
    for b in range(values.shape[0]):
        step = values[b, p, r, c] - centre[4 + b]
        total += step * step
    z, y, x = p + start[0] - centre[1], r + start[1] - centre[2], c + start[2] - centre[3]
    return total + weight * (z * z + y * y + x * x)


@numba.njit(cache=True, nogil=True)
def _adopt(values, owner, orphan, start, centres, weight, rounds):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Give the orphans beside a pixel that is none to the nearest of the patches beside them, round
    by round while there is one.
    """
    planes, rows, columns = owner.shape
    found = np.argwhere(orphan)
    for _ in range(rounds):
        new = np.full(len(found), -1, np.int32)
        for i in range(len(found)):
            p, r, c = found[i]
            best = np.inf
            for axis in range(6):
                step = 1 if axis % 2 else -1
                q, s, t = (
                    p + (step if axis < 2 else 0),
                    r + (step if axis // 2 == 1 else 0),
                    c + (step if axis > 3 else 0),
                )
                if (
                    0 <= q < planes
                    and 0 <= s < rows
                    and 0 <= t < columns
                    and owner[q, s, t] >= 0
                    and not orphan[q, s, t]
                ):
                    far = _distance(values, p, r, c, start, centres[owner[q, s, t]], weight)
                    if far < best or (far == best and owner[q, s, t] < new[i]):
                        best = far
                        new[i] = owner[q, s, t]
        for i in range(len(found)):
            if new[i] >= 0:
                p, r, c = found[i]
                owner[p, r, c], orphan[p, r, c] = new[i], False
        if (new < 0).all():
            return
        found = found[new < 0]
