"""Connected components of an array of classes.

This is our own code, because it is the heart of tiling and the alternatives failed. cc3d 4.1.1 gave
wrong components, or crashed, on about one in a thousand small arrays with corners (a single row of
nine pixels was enough). SciPy does not know classes. On 2048 x 2048 pixels of blobs this takes 5
ms, cc3d 8, scikit-image 19 and SciPy 20; on noise 80, 40, 50 and 45.

Rows are read as runs of equal pixels. Runs that touch in neighbouring rows are united, with the
earlier one as the root. So components are numbered in raster order of their first pixel, as
`scipy.ndimage.label` numbers them.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt


def pieces(
    classes: npt.NDArray[Any],
    neighbours: int | None = None,
    surface: npt.NDArray[Any] | None = None,
    step: float = 0.0,
) -> tuple[npt.NDArray[np.int32], int]:
    """Label the connected components of equal, non-zero pixels.

    Parameters
    ----------
    classes : bool or int ndarray, (row, column) or (plane, row, column)
        Classes; 0 is background.
    neighbours : int, optional
        The connectivity: 4 or 8 in two dimensions, 6 or 26 in three. None: all pixels that share a
        face, an edge or a corner.
    surface : float ndarray, (value, …), optional
        Neighbours are connected only where none of these values differs by more than ``step``.
    step : float, optional
        The largest difference on the surface.

    Returns
    -------
    labels : int32 ndarray of the shape of ``classes``
        Labels from 1 to ``number`` in raster order of their first pixels.
    number : int
        How many components there are.

    References
    ----------
    .. [1] L. He, Y. Chao, K. Suzuki (2008), "A run-based two-scan labeling algorithm", IEEE Trans.
       Image Processing 17(5), 749-756.

    Examples
    --------
    >>> import numpy as np
    >>> pieces(np.array([[1, 0, 1], [0, 1, 2]]))
    (array([[1, 0, 1],
           [0, 1, 2]], dtype=int32), 2)
    """
    kinds = classes.view(np.uint8) if classes.dtype == bool else classes
    solid = np.ascontiguousarray(kinds).reshape((1,) * (3 - classes.ndim) + classes.shape)
    labels = np.zeros(solid.shape, np.int32)
    if surface is None:
        number = _label(solid, neighbours not in (4, 6), labels)
    else:
        values = np.ascontiguousarray(surface, np.float64).reshape(-1, *solid.shape)
        number = _zones(solid, neighbours not in (4, 6), values, float(step), labels)
    return labels.reshape(classes.shape), int(number)


def looked_up(table: npt.NDArray[Any], places: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Compute ``table[places]`` in the shape of ``places``.

    NumPy would convert the places to 64 bits first, which takes longer than the rest.
    """
    found = np.empty(places.shape, table.dtype)
    _look_up(table, np.ascontiguousarray(places).reshape(-1), found.reshape(-1))
    return found


def kinds_of(
    labels: npt.NDArray[np.int32], number: int, classes: npt.NDArray[Any]
) -> npt.NDArray[np.int64]:
    """The class of each label, (number,), if all pixels of a label have one class."""
    kinds = np.zeros(number + 1, np.int64)
    _assign(kinds, labels.reshape(-1), np.ascontiguousarray(classes).reshape(-1))
    return kinds[1:]


@numba.njit(cache=True, nogil=True)
def _look_up(table, places, found):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    for k in range(len(places)):
        found[k] = table[places[k]]


@numba.njit(cache=True, nogil=True)
def _assign(kinds, labels, classes):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    for k in range(len(labels)):
        kinds[labels[k]] = classes[k]


@numba.njit(cache=True, nogil=True)
def _label(classes, corners, labels):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202, C901
    planes, rows, _columns = classes.shape
    first, start, stop, kind = _runs(classes)
    root = np.arange(len(start))
    for p in range(planes):
        for r in range(rows):
            here = p * rows + r
            if r > 0:
                _unite(here, here - 1, corners, first, start, stop, kind, root)
            if p > 0:
                above = here - rows
                _unite(here, above, corners, first, start, stop, kind, root)
                if corners and r > 0:
                    _unite(here, above - 1, corners, first, start, stop, kind, root)
                if corners and r < rows - 1:
                    _unite(here, above + 1, corners, first, start, stop, kind, root)
    number = 0
    for run in range(len(root)):  # a root comes before all that it is the root of
        if root[run] == run:
            number += 1
            root[run] = -number
        else:
            root[run] = root[root[run]]
    for line in range(planes * rows):
        for run in range(first[line], first[line + 1]):
            labels[line // rows, line % rows, start[run] : stop[run]] = -root[run]
    return number


@numba.njit(cache=True, nogil=True)
def _runs(classes):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Start, stop and class of every run of equal, non-zero pixels; and each line's first run."""
    planes, rows, columns = classes.shape
    first = np.zeros(planes * rows + 1, np.int64)
    room = max(16, classes.size // 8)
    start = np.empty(room, np.int32)
    stop = np.empty(room, np.int32)
    kind = np.empty(room, classes.dtype)
    number = 0
    for line in range(planes * rows):
        row = classes[line // rows, line % rows]
        if number + columns > room:
            room = 2 * room + columns
            start = _longer(start, room)
            stop = _longer(stop, room)
            kind = _longer(kind, room)
        c = 0
        while c < columns:
            value = row[c]
            begin = c
            c += 1
            while c < columns and row[c] == value:
                c += 1
            if value != 0:
                start[number] = begin
                stop[number] = c
                kind[number] = value
                number += 1
        first[line + 1] = number
    return first, start[:number], stop[:number], kind[:number]


@numba.njit(cache=True, nogil=True)
def _longer(array, room):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    longer = np.empty(room, array.dtype)
    longer[: len(array)] = array
    return longer


@numba.njit(cache=True, nogil=True)
def _unite(line, other, corners, first, start, stop, kind, root):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Unite the runs of two neighbouring lines that touch and have one class."""
    wider = 1 if corners else 0
    b = first[other]
    for a in range(first[line], first[line + 1]):
        while b < first[other + 1] and stop[b] + wider <= start[a]:
            b += 1
        k = b
        while k < first[other + 1] and start[k] < stop[a] + wider:
            if kind[k] == kind[a]:
                i = root_of(root, a)
                j = root_of(root, k)
                root[max(i, j)] = min(i, j)
            k += 1


@numba.njit(cache=True, nogil=True)
def root_of(root, run):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """The root of a tree, with path compression (halving)."""
    while root[run] != run:
        root[run] = root[root[run]]
        run = root[run]
    return run


@numba.njit(cache=True, nogil=True)
def _zones(classes, corners, values, step, labels):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Label pixel by pixel, where neighbours must also have similar values."""
    _planes, rows, columns = classes.shape
    flat = classes.ravel()
    heights = values.reshape(len(values), -1)
    root = np.arange(flat.size)
    for i in range(flat.size):
        if flat[i] == 0:
            continue
        p = i // (rows * columns)
        r = i // columns % rows
        c = i % columns
        for back in range(1, 14):  # the neighbours that come before in raster order
            dp = (13 - back) // 9 - 1
            dr = (13 - back) // 3 % 3 - 1
            dc = (13 - back) % 3 - 1
            steps = abs(dp) + abs(dr) + abs(dc)
            if (
                (steps > 1 and not corners)
                or p + dp < 0
                or not 0 <= r + dr < rows
                or not 0 <= c + dc < columns
            ):
                continue
            j = i + (dp * rows + dr) * columns + dc
            alike = flat[j] == flat[i]
            for k in range(len(heights)):
                alike = alike and abs(heights[k, i] - heights[k, j]) <= step
            if alike:
                a = root_of(root, i)
                b = root_of(root, j)
                root[max(a, b)] = min(a, b)
    number = 0
    out = labels.ravel()
    for i in range(flat.size):
        if flat[i] != 0:
            if root[i] == i:
                number += 1
                out[i] = number
            else:
                out[i] = out[root[i]]  # it comes before
    return number
