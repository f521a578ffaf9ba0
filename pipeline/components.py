"""Connected pieces of an array of classes. The only home of cc3d."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def pieces(classes: npt.NDArray[Any], neighbours: int | None = None) -> tuple[npt.NDArray[np.uint32], int]:
    """Number the connected sets of equal, non-zero pixels.

    Parameters
    ----------
    classes
        Booleans or integers in 2 or 3 dimensions; 0 is background.
    neighbours
        Which pixels touch: 4 or 8 in two dimensions, 6 or 26 in three. None: all that share a face, an edge or a corner.

    Returns
    -------
    labels
        uint32, of the same shape, C order, 1 to ``number`` in no particular order.
    number
        How many there are.

    References
    ----------
    W. Silversmith, cc3d (connected-components-3d): a 3-D variant of K. Wu, E. Otoo, K. Suzuki (2005), two-pass labelling with a decision tree.
    """
    import cc3d

    if classes.size == 0:
        return np.zeros(classes.shape, np.uint32), 0
    full = 8 if classes.ndim == 2 else 26
    labels, number = cc3d.connected_components(  # type: ignore[call-overload]
        np.ascontiguousarray(classes), connectivity=neighbours or full, return_N=True, out_dtype=np.uint32
    )
    return np.ascontiguousarray(labels, np.uint32), int(number)
