"""What is drawn in a tile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.int32]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Drawn:
    """A tile's labels, 1 to n, and what is known of each; flags are by label, 0 included."""

    labels: Labels
    """Of the core and the rim around it that neighbours also label."""

    whole: Flags
    """Proved, as far as this tile goes; of 0: it is sure that there is nothing."""

    hole: Flags
    """Background that may turn out to be enclosed."""

    outside: Flags
    """A hole that is none: it reaches the image's edge or a pixel that is not valid."""

    beside: npt.NDArray[np.int64]
    """(n, 2) each hole that goes on in a neighbour, and may be one, with each object that touches
    it.
    """

    kind: npt.NDArray[np.int64] | None = None
    """By label, without 0: its class. None: 1."""

    key: npt.NDArray[np.int64] | None = None
    """By label, without 0: what it is called wherever it lies, from 1. None: it has no such name.
    """

    disputed: Flags | None = None
    """By label: it is not proved, since something else that it depends on is disputed. None:
    nothing is.
    """

    nodes: Flags | None = None
    """By label: it may be one object with a label of another tile though no seam shows that. None:
    nothing is.
    """

    votes: npt.NDArray[Any] | None = None
    """Of the labels' shape: the class that a pixel is for, 0 for none; an object is of the class of
    most. None: as ``kind`` says.
    """

    seeds: Flags | None = None
    """Of the labels' shape: pixels of which an object needs one; None: it needs none."""

    doubted: Flags | None = None
    """By label: it was drawn in one piece with something that lies beside what cannot be read.
    None: nothing was.
    """

    enlarged: int = 0
    """Pieces of support for which a larger window was read."""
