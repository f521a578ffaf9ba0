"""The halo: how far beyond its core a tile is read, what that is made of, and how far it may be.

Everything that wants to know how far a tile reads, or how near to a window's edge labels can be
trusted, asks a `Halo`; `Run.halo_of` and `Run.halo` make them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.errors import JobError
from pipeline.segmenters import Contract

COMPARED = {2: 64, 3: 16}
"""By the number of dimensions, what ``tiles.halo: auto`` is."""
MAX_HALO = {2: 1024, 3: 128}
"""By the number of dimensions, what ``tiles.max_halo: auto`` is."""


@dataclass(frozen=True, slots=True)
class Halo:
    """How far beyond its core a tile is read, in pixels along each axis.

    >>> Halo(reach=5, steps=3, compared=64).pixels
    72
    """

    reach: int
    """How far the segmenter looks."""

    steps: int
    """How far the steps before it look, all together."""

    compared: int = 0
    """The depth to which neighbouring tiles are compared: both label so many pixels on either side
    of their seam.
    """

    doublings: int = 0
    """How often it was doubled to settle a dispute."""

    @property
    def sight(self) -> int:
        """How many pixels away a pixel can be and still change a label. Labels that are as near to
        an edge of the window where the image goes on cannot be trusted.
        """
        return self.reach + self.steps

    @property
    def pixels(self) -> int:
        """How far beyond its core a tile is read."""
        return (self.sight + self.compared) << self.doublings

    def facts(self) -> dict[str, int]:
        """The halo and its parts, as a record says them."""
        return {
            "pixels": self.pixels,
            "reach": self.reach,
            "steps": self.steps,
            "compared": self.compared,
        }


def depth_of(contracts: Sequence[Contract], asked: int) -> int:
    """The depth in pixels to which neighbouring tiles are compared, on either side of a seam.

    One shared pixel proves all that there is to prove of connected pixels and of classes. Evidence
    of overlapping objects needs as many as are asked for, and so does a segmenter on probation.

    Parameters
    ----------
    contracts
        Of all segmenters of a run.
    asked
        What the job says, ``tiles.halo``, in pixels.
    """
    identities = {contract.identity for contract in contracts}
    shallow = identities == {"class"} or (
        len(contracts) == 1 and identities <= {"connected", "keyed"}
    )
    return 1 if shallow and not any(contract.probation for contract in contracts) else max(1, asked)


def furthest(halos: Mapping[str, Halo], asked: int) -> int:
    """How far beyond its core a tile may read to hold an object whole, in pixels: as far as is
    asked for, or as the largest halo, because every window reads as far as that.

    Parameters
    ----------
    halos
        By the name of their segmenter.
    asked
        What the job says, ``tiles.max_halo``, in pixels.

    Raises
    ------
    JobError
        If a segmenter, after the steps, looks further than that.
    """
    for name, halo in halos.items():
        if halo.sight > asked:
            raise JobError(
                f"segmenters.{name}: with the steps before it, it looks {halo.sight} pixels "
                f"far, and a tile may read {asked} beyond its "
                "core; allowed: smaller windows, sigmas and radii, or a larger tiles.max_halo"
            )
    return max(asked, *(halo.pixels for halo in halos.values()))
