"""Markers for the watershed: h-maxima, peaks with a minimum distance, deterministic ties."""

from __future__ import annotations

import itertools

import numba
import numpy as np
import numpy.typing as npt

from pipeline.imageops.components import pieces


def levelled(
    height: npt.NDArray[np.float64], support: npt.NDArray[np.bool_], depth: float
) -> npt.NDArray[np.float64]:
    """Remove maxima that rise less than a depth above their pass (h-maxima).

    Parameters
    ----------
    height : float64 ndarray
        The heights.
    support : bool ndarray of the shape of ``height``
        The pieces within which maxima are compared.
    depth : float
        The least height above the pass to a higher maximum; 0 keeps all.

    Returns
    -------
    float64 ndarray of the shape of ``height``
        The levelled heights.
    """
    if not depth or not support.any():
        return height
    floor = height[support & np.isfinite(height)].min(initial=0) - depth
    ground = np.where(support & np.isfinite(height), height, floor)
    return reconstructed(np.maximum(ground - depth, floor), ground)


def reconstructed(
    seed: npt.NDArray[np.float64], mask: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Reconstruct by dilation: grow the seed under the mask until nothing changes.

    Neighbours share sides or corners. The values equal those of
    `skimage.morphology.reconstruction`, which sorts all pixels first and takes ten times as long.

    Parameters
    ----------
    seed : float64 ndarray
        The seed, nowhere above the mask.
    mask : float64 ndarray of the shape of ``seed``
        The upper limit.

    Returns
    -------
    float64 ndarray of the shape of ``seed``
        The reconstruction.

    References
    ----------
    .. [1] L. Vincent (1993), "Morphological grayscale reconstruction in image analysis:
       applications and efficient algorithms", IEEE Trans. Image Processing 2(2), 176-201: the
       hybrid algorithm.
    """
    low, high = (np.pad(values, 1, constant_values=-np.inf) for values in (seed, mask))
    strides = np.array(low.strides) // low.itemsize
    steps = (
        np.array(
            [
                step
                for step in itertools.product((-1, 0, 1), repeat=seed.ndim)
                if step > (0,) * seed.ndim
            ]
        )
        @ strides
    )
    _reconstruct(low.ravel(), high.ravel(), steps)
    return low[(slice(1, -1),) * seed.ndim].copy()


@numba.njit(cache=True, nogil=True)
def _reconstruct(value, mask, steps):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Scan forwards, then backwards, then spread from a queue that holds each pixel at most once.

    The border is -inf.
    """
    number = len(value)
    before = -steps
    _scan(value, mask, before, range(number))
    _scan(value, mask, steps, range(number - 1, -1, -1))
    queue = np.empty(number, np.int64)
    many = 0
    waits = np.zeros(number, np.bool_)
    for i in range(number):
        if mask[i] > -np.inf:
            for step in steps:
                waits[i] |= value[i + step] < min(value[i], mask[i + step])
            if waits[i]:
                queue[many] = i
                many += 1
    _spread(value, mask, np.concatenate((before, steps)), queue, many, waits)


@numba.njit(cache=True, nogil=True)
def _scan(value, mask, steps, order):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Raise each pixel, in the given order, to its highest earlier neighbour, under the mask."""
    for i in order:
        if mask[i] > -np.inf:
            best = value[i]
            for step in steps:
                best = max(best, value[i + step])
            value[i] = min(best, mask[i])


@numba.njit(cache=True, nogil=True)
def _spread(value, mask, steps, queue, many, waits):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Let the first ``many`` pixels of a queue raise their neighbours, which join the queue."""
    number = len(queue)
    first = 0
    while many:
        i = queue[first]
        first = (first + 1) % number
        many = many - 1
        waits[i] = False
        for step in steps:
            j = i + step
            if value[j] < min(value[i], mask[j]):
                value[j] = min(value[i], mask[j])
                if not waits[j]:
                    queue[(first + many) % number] = j
                    waits[j] = True
                    many += 1


def summits(
    height: npt.NDArray[np.float64],
    support: npt.NDArray[np.bool_],
    piece: npt.NDArray[np.int32],
    min_distance: int,
) -> npt.NDArray[np.intp]:
    """Find maxima that are more than a distance apart within their piece of support.

    A maximum is a connected set of equal pixels without a higher neighbour, represented by its
    first pixel. Of two maxima of one piece that are not further apart than ``min_distance``, the
    higher stays; of equal ones the first in raster order.

    Parameters
    ----------
    height : float64 ndarray
        The heights.
    support : bool ndarray of the shape of ``height``
        The foreground.
    piece : int32 ndarray of the shape of ``height``
        The connected pieces of the support, numbered.
    min_distance : int
        The distance in pixels.

    Returns
    -------
    intp ndarray, (marker,)
        Flat indices, ascending.
    """
    from scipy import ndimage, spatial

    tops = support & (height == ndimage.maximum_filter(height, size=3, mode="nearest"))
    slopes = ndimage.maximum_filter(
        np.where(support & ~tops, height, -np.inf), size=3, mode="nearest"
    )
    plateau = pieces(tops)[0].ravel()
    flat = np.flatnonzero(tops)
    summit = np.ones(int(plateau.max(initial=0)) + 1, bool)
    summit[plateau[flat[(slopes == height).ravel()[flat]]]] = False  # a pixel beside it is higher
    flat = flat[summit[plateau[flat]]]
    first = flat[np.unique(plateau[flat], return_index=True)[1]]
    ranked = first[np.lexsort((first, -height.ravel()[first]))]
    if not len(ranked):
        return ranked
    places = np.stack(np.unravel_index(ranked, support.shape), axis=1)
    near = spatial.KDTree(places).query_pairs(min_distance, output_type="ndarray")
    own = piece.ravel()[ranked]
    return np.sort(ranked[_greedy(len(ranked), near[own[near[:, 0]] == own[near[:, 1]]])])


def without_ties(
    surface: npt.NDArray[np.float64], markers: npt.NDArray[np.intp], piece: npt.NDArray[np.int32]
) -> npt.NDArray[np.float64]:
    """Lower markers of one piece with equal values by a few units in the last place.

    The first is then flooded first. scikit-image takes equal markers in an order that depends on
    all others in the image, and so on the tiling.

    Parameters
    ----------
    surface : float64 ndarray
        The surface to flood.
    markers : intp ndarray, (marker,)
        Flat indices of the markers.
    piece : int32 ndarray of the shape of ``surface``
        The connected pieces of the support, numbered.

    Returns
    -------
    float64 ndarray of the shape of ``surface``
        The surface without ties.
    """
    if not len(markers):
        return surface
    flat = surface.copy().ravel()
    value = flat[markers]
    own = piece.ravel()[markers]
    order = np.lexsort((markers, value, own))
    new = (np.diff(value[order], prepend=np.nan) != 0) | (np.diff(own[order], prepend=-1) != 0)
    ends = np.append(np.flatnonzero(new)[1:], len(order))
    after = np.repeat(ends, np.diff(np.append(np.flatnonzero(new), len(order)))) - np.arange(
        len(order)
    )
    bits = value[order].view(np.int64)
    # away from, or towards, zero: the integers order floats by magnitude
    steps = np.where(bits < 0, bits + after, bits - after)
    flat[markers[order]] = np.where(
        value[order] == 0, -np.finfo(np.float64).tiny * after, steps.view(np.float64)
    )
    return flat.reshape(surface.shape)


def _greedy(number: int, rivals: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_]:
    """Greedy selection, best first: each candidate that stays removes its later rivals, pairs (n,
    2).
    """
    kept = np.ones(number, bool)
    pairs = np.sort(rivals, axis=1)
    for better, worse in pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))].tolist():
        if kept[better]:
            kept[worse] = False
    return kept
