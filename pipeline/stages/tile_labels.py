"""The labels drawn in a tile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.int32]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Drawn:
    """A tile's labels, 1 to n, and facts about each; flags are by label, 0 included."""

    labels: Labels
    """Labels of the core and the rim that neighbours also label."""

    whole: Flags
    """Proved as far as this tile can tell; entry 0: it is certain that there is nothing."""

    hole: Flags
    """Background that may be enclosed by an object."""

    outside: Flags
    """Background that is not enclosed: it reaches the image's edge or an unmeasured pixel."""

    beside: npt.NDArray[np.int64]
    """(n, 2) pairs of a possible hole that continues in a neighbour, and an object that touches it.
    """

    kind: npt.NDArray[np.int64] | None = None
    """The class by label, without 0. None: 1."""

    key: npt.NDArray[np.int64] | None = None
    """The key by label, without 0, equal in every tile, from 1. None: no keys."""

    disputed: Flags | None = None
    """Not proved, because something that it depends on is disputed. None: nothing is."""

    nodes: Flags | None = None
    """May be one object with a label of another tile although no seam shows it. None: nothing is.
    """

    votes: npt.NDArray[Any] | None = None
    """Of the labels' shape: the class that a pixel votes for, 0 for none. None: as ``kind`` says.
    """

    seeds: Flags | None = None
    """Of the labels' shape: pixels; an object needs at least one. None: it needs none."""

    doubted: Flags | None = None
    """Drawn in one piece with something beside unreadable pixels. None: nothing was."""

    enlarged: int = 0
    """Pieces of support with a window of their own."""
