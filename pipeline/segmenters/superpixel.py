"""Superpixels (SLIC): small patches of similar pixels, one for each cell of a lattice.

This is k-means in colour and position, in which a pixel may only join the 9 cells around its own
(27 in volumes). So a patch depends on a bounded neighbourhood. Its key is the position of its cell
in the lattice, and the lattice starts at the image's first pixel, so patches are the same for every
tiling. Sums run in raster order over the pixels of a patch, an order that every window shares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numba
import numpy as np
import numpy.typing as npt

from pipeline.errors import JobError
from pipeline.image.frame import Frame, valid_or_all
from pipeline.imageops.components import pieces
from pipeline.segmenters import Footprint, Identity, Origin, fitted_to
from pipeline.segmenters.pixel_features import Contrast

Pixels = npt.NDArray[Any]
Flags = npt.NDArray[np.bool_]
BITS = {2: (0, 31, 31), 3: (18, 22, 22)}
"""Bits of a key for each axis (plane, row, column), by the image's dimensions. One more bit marks
patches without a cell of their own.
"""
APART = np.int64(1 << 62)
FACES = 6
"""Connectivity within a patch: pixels that share a side, also in two dimensions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Superpixels(Contrast):
    """Patches of about equal size that follow the borders in the image.

    Use them where the pixels of an object vary too much to be classified one by one: as units to
    measure, classify or merge (``region_graph``). They are not objects themselves.

    Notes
    -----
    Two things differ from SLIC [1]_. A pixel may join only the cells next to its own [2]_. And a
    part that is not connected to the largest piece of its patch goes to the patch beside it
    that is nearest in colour and position; a part that is enclosed by pixels that were not measured
    becomes a patch of its own. Patches equal those of the untiled image, so their certificate is
    ``proved``.

    References
    ----------
    .. [1] R. Achanta et al. (2012), "SLIC superpixels compared to state-of-the-art superpixel
       methods", IEEE Trans. PAMI 34(11), 2274-2282.
    .. [2] C. Y. Ren, V. A. Prisacariu, I. D. Reid (2015), "gSLICr: SLIC superpixels at over 250
       Hz", arXiv:1509.04232.

    Examples
    --------
    >>> import numpy as np
    >>> keys = Superpixels(spacing=4)(np.array([[[9.0] * 4 + [0.0] * 4] * 4]))
    >>> np.unique(keys, return_counts=True)
    (array([1, 2]), array([16, 16]))
    """

    spacing: int = 16
    """The width of a lattice cell in pixels, 2 to 1000."""

    compactness: float = 10.0
    """The weight of position against colour, more than 0, where the colours of the whole image have
    the contrast 100. Higher values give squarer patches.
    """

    iterations: int = 5
    """How often the centres are updated, 0 to 50. Each update adds twice the spacing to the reach.
    """

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
        """The radius of smoothing, updates and unconnected parts together, in pixels."""
        return self.radius + (2 * self.iterations + 7) * self.spacing

    def suited(self, frame: Frame) -> Superpixels:
        """Return the segmenter if keys can address every cell of an image.

        Parameters
        ----------
        frame : Frame
            The size and the bands of the image.

        Returns
        -------
        Superpixels
            This segmenter.

        Raises
        ------
        JobError
            The image has too many pixels along an axis.
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
        """Compute the key of each pixel's patch.

        Parameters
        ----------
        block : ndarray, (band, row, column) or (band, plane, row, column)
            The pixels of one window.
        valid : bool ndarray of the shape ``block.shape[1:]``, optional
            True where a pixel was measured; None: everywhere.
        origin : tuple of int, optional
            The position in the image of the block's first pixel; None: 0 along every axis.

        Returns
        -------
        int64 ndarray of the shape ``block.shape[1:]``
            Keys; 0 where a pixel was not measured.
        """
        block = np.asarray(block)
        valid = valid_or_all(valid, block)
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
    """Compute the keys of patches; an image of two dimensions is treated as one plane of a volume.

    Parameters
    ----------
    values : float64 ndarray, (band, …)
        Features in the common scale.
    valid : bool ndarray
        True where a pixel was measured.
    origin : tuple of int
        Position of the first pixel in the image.
    spacing, compactness, iterations
        As for `Superpixels`.

    Returns
    -------
    int64 ndarray of the shape of ``valid``
        Keys; 0 where a pixel was not measured.
    """
    flat = (1,) * (3 - valid.ndim)
    start = np.array((0,) * len(flat) + origin)
    known = (valid & np.isfinite(values).all(axis=0)).reshape(flat + valid.shape)
    solid = values.reshape(values.shape[:1] + known.shape)
    first = start // spacing
    cells = (start + known.shape - 1) // spacing - first + 1
    owner = _cell_of_pixels(known, start, first, cells, spacing)
    weight = (compactness / spacing) ** 2
    for _ in range(iterations + 1):
        centres = _centres(solid, owner, start, int(np.prod(cells)))
        _assign(solid, start, spacing, cells, centres, weight, owner)
    orphan = _orphans(owner)
    _adopt(solid, owner, orphan, start, centres, weight, spacing)
    bits = BITS[valid.ndim]
    key = _named(np.unravel_index(np.arange(len(centres)), tuple(cells)), first, bits) + 1
    keys = np.where(known, key[owner], 0)
    if orphan.any():
        keys[orphan] = _keys_of_orphans(owner, orphan, start, bits)
    return keys.reshape(valid.shape)


def _cell_of_pixels(
    known: Flags,
    start: npt.NDArray[np.int64],
    first: npt.NDArray[np.int64],
    cells: npt.NDArray[np.int64],
    spacing: int,
) -> npt.NDArray[np.int32]:
    """Number the lattice cell of each pixel; -1 where a pixel is not known.

    Parameters
    ----------
    known : bool ndarray, (plane, row, column)
        The pixels with features.
    start : int64 ndarray, (3,)
        Position of the first pixel in the image.
    first, cells : int64 ndarray, (3,)
        The first cell along each axis, and the number of cells.
    spacing : int
        The width of a cell in pixels.
    """
    number = np.arange(np.prod(cells)).reshape(cells)
    places = [
        (np.arange(extent) + begin) // spacing - low
        for extent, begin, low in zip(known.shape, start, first, strict=True)
    ]
    owner = np.full(known.shape, -1, np.int32)
    owner[known] = number[np.ix_(*places)][known]
    return owner


def _keys_of_orphans(
    owner: npt.NDArray[np.int32],
    orphan: Flags,
    start: npt.NDArray[np.int64],
    bits: tuple[int, int, int],
) -> npt.NDArray[np.int64]:
    """Name each connected piece of orphans, a patch of its own, by its first pixel.

    Parameters
    ----------
    owner : int32 ndarray, (plane, row, column)
        The cell of each pixel.
    orphan : bool ndarray, (plane, row, column)
        Pixels that are not connected to their cell's patch, nor to another.
    start : int64 ndarray, (3,)
        Position of the first pixel in the image.
    bits : tuple of int
        Bits of a key for each axis.

    Returns
    -------
    int64 ndarray, (orphan,)
        The key of each orphan.
    """
    labels, many = pieces(np.where(orphan, owner + 1, 0), FACES)
    begins = np.unravel_index(np.unique(labels, return_index=True)[1][-many:], labels.shape)
    keys = _named(begins, start, bits) | APART
    return np.asarray(keys[labels[orphan] - 1], np.int64)


def _named(
    places: Sequence[npt.NDArray[np.intp]], first: npt.NDArray[np.int64], bits: tuple[int, int, int]
) -> npt.NDArray[np.int64]:
    """Encode positions (plane, row, column) as one integer each."""
    z, y, x = (axis.astype(np.int64) + begin for axis, begin in zip(places, first, strict=True))
    return np.asarray((z << bits[1] + bits[2]) | (y << bits[2]) | x)


@numba.njit(cache=True, nogil=True)
def _centres(values, owner, start, number):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """For each cell, the number of its pixels, their mean position and their mean features, (cell,
    4 + band).
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
    """Assign each pixel to the nearest centre of the cells around its own.

    Of centres that are equally near, the first wins. Works on one row of cells at a time.
    """
    planes, rows, columns = owner.shape
    pixels_of_cell = spacing * spacing
    distance = np.empty(pixels_of_cell)
    least = np.empty(pixels_of_cell)
    winner = np.empty(pixels_of_cell, np.int32)
    pixels = np.empty((values.shape[0], pixels_of_cell))
    for p in range(planes):
        z = (p + start[0]) // spacing - start[0] // spacing
        for y in range(cells[1]):
            top = max((start[1] // spacing + y) * spacing - start[1], 0)
            height = min((start[1] // spacing + y + 1) * spacing - start[1], rows) - top
            for x in range(cells[2]):
                low = max((start[2] // spacing + x) * spacing - start[2], 0)
                width = min((start[2] // spacing + x + 1) * spacing - start[2], columns) - low
                cell = (p, top, low, height, width)
                _fetch(values, cell, pixels)
                least[:] = np.inf
                for dz in range(max(z - 1, 0), min(z + 2, cells[0])):
                    for dy in range(max(y - 1, 0), min(y + 2, cells[1])):
                        for dx in range(max(x - 1, 0), min(x + 2, cells[2])):
                            k = (dz * cells[1] + dy) * cells[2] + dx
                            if centres[k, 0] > 0.0:
                                _compete(
                                    pixels,
                                    cell,
                                    start,
                                    centres[k],
                                    k,
                                    weight,
                                    distance,
                                    least,
                                    winner,
                                )
                _settle(owner, cell, winner)


@numba.njit(cache=True, nogil=True)
def _settle(owner, cell, winner):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Write the owners of a cell's pixels; pixels that were not measured keep -1."""
    p, top, low, height, width = cell
    for r in range(height):
        for c in range(width):
            if owner[p, top + r, low + c] >= 0:
                owner[p, top + r, low + c] = winner[r * width + c]


@numba.njit(cache=True, nogil=True)
def _fetch(values, cell, pixels):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Copy the pixels of a cell into one contiguous row per band.

    Loops over short rows would cost more than the arithmetic on them.
    """
    p, top, low, height, width = cell
    for b in range(values.shape[0]):
        for r in range(height):
            for c in range(width):
                pixels[b, r * width + c] = values[b, p, top + r, low + c]


@numba.njit(cache=True, nogil=True)
def _compete(pixels, cell, start, centre, k, weight, distance, least, winner):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Give a centre those pixels of a cell to which it is nearer than all centres before it.

    The compiler vectorizes these loops.
    """
    p, top, low, height, width = cell
    down = p + start[0] - centre[1]
    number = height * width
    for r in range(height):
        across = top + r + start[1] - centre[2]
        beside = weight * (down * down + across * across)
        for c in range(width):
            along = low + c + start[2] - centre[3]
            distance[r * width + c] = beside + weight * along * along
    for b in range(pixels.shape[0]):
        mean = centre[4 + b]
        band = pixels[b]
        for i in range(number):
            step = band[i] - mean
            distance[i] += step * step
    for i in range(number):
        closer = distance[i] < least[i]
        least[i] = distance[i] if closer else least[i]
        winner[i] = k if closer else winner[i]


def _orphans(owner: npt.NDArray[np.int32]) -> Flags:
    """Pixels that are not connected to the largest (first of equal) piece of their patch."""
    labels, number = pieces(owner + 1, FACES)
    size = np.bincount(labels.ravel(), minlength=number + 1)
    cell_of = np.zeros(number + 1, np.int64)
    cell_of[labels] = owner + 1
    size[0] = 0
    order = np.lexsort((np.arange(number + 1), -size, cell_of))
    largest = np.zeros(number + 1, bool)
    largest[order[np.diff(cell_of[order], prepend=-1) != 0]] = True
    largest[0] = True
    return np.asarray(~largest[labels])


@numba.njit(cache=True, nogil=True)
def _distance(values, p, r, c, start, centre, weight):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    total = 0.0
    for b in range(values.shape[0]):
        step = values[b, p, r, c] - centre[4 + b]
        total += step * step
    z = p + start[0] - centre[1]
    y = r + start[1] - centre[2]
    x = c + start[2] - centre[3]
    return total + weight * (z * z + y * y + x * x)


@numba.njit(cache=True, nogil=True)
def _adopt(values, owner, orphan, start, centres, weight, rounds):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Give orphans to the patch beside them that is nearest in colour and position.

    One layer of pixels per round.
    """
    planes, rows, columns = owner.shape
    places = np.argwhere(orphan)
    for _ in range(rounds):
        new = np.full(len(places), -1, np.int32)
        for i in range(len(places)):
            p, r, c = places[i]
            best = np.inf
            for axis in range(6):
                step = 1 if axis % 2 else -1
                q = p + (step if axis < 2 else 0)
                s = r + (step if axis // 2 == 1 else 0)
                t = c + (step if axis > 3 else 0)
                if (
                    0 <= q < planes
                    and 0 <= s < rows
                    and 0 <= t < columns
                    and owner[q, s, t] >= 0
                    and not orphan[q, s, t]
                ):
                    distance = _distance(values, p, r, c, start, centres[owner[q, s, t]], weight)
                    if distance < best or (distance == best and owner[q, s, t] < new[i]):
                        best = distance
                        new[i] = owner[q, s, t]
        for i in range(len(places)):
            if new[i] >= 0:
                p, r, c = places[i]
                owner[p, r, c] = new[i]
                orphan[p, r, c] = False
        if (new < 0).all():
            return
        places = places[new < 0]
