"""Regions that are merged on the graph of the whole image: superpixels are its nodes, and an edge
joins two that touch.

Superpixels are the same however the image is tiled; of their features whole numbers are added up,
so those of tiles give exactly those of the image; and merging is done once, for all of it. So
regions of any size are exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from pipeline.errors import JobError, nearest
from pipeline.imageops import region_graphs
from pipeline.imageops.region_graphs import Graph
from pipeline.segmenters import Footprint
from pipeline.segmenters.superpixel import Superpixels

FINE = 1024
"""Steps to one unit of contrast, a hundredth of the image's, when features are made whole numbers.
"""
CUTS = ("hierarchical", "felzenszwalb", "threshold")


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionGraph(Superpixels):
    """Superpixels merged into regions of like colour.

    Use it for land cover, tissue or anything that is even in itself but has no common colour: what
    counts is the contrast to what is beside it. Things finer than a superpixel are lost.

    References
    ----------
    P. F. Felzenszwalb, D. P. Huttenlocher (2004), "Efficient graph-based image segmentation", Int.
    J. Computer Vision 59(2), 167-181. A. Trémeau, P. Colantoni (2000), "Regions adjacency graph
    applied to color image segmentation", IEEE Trans. IP 9(4), 735-744.
    """

    cut: Literal["hierarchical", "felzenszwalb", "threshold"] = "hierarchical"
    """``hierarchical``: the two most alike are merged, again and again, until none are alike.
    ``felzenszwalb``: regions are merged where the contrast between them is no greater than within.
    ``threshold``: all at once, along any chain of superpixels that are alike.
    """

    threshold: float = 10.0
    """For hierarchical and threshold: means less than this apart are alike; the contrast of the
    image is 100.
    """

    scale: float = 5000.0
    """For felzenszwalb: the greater, the larger are regions; in pixels times contrast."""

    connectivity: int | None = None
    """Which superpixels touch; only those that share a side do."""

    min_area: int = 0
    """Regions of fewer pixels are removed."""

    portable: ClassVar[bool] = True
    footprint: ClassVar[Footprint] = Footprint(20.0, 26.0)

    def __post_init__(self) -> None:
        Superpixels.__post_init__(self)  # super() does not work in a class with slots
        if self.cut not in CUTS:
            raise JobError(f"cut: {self.cut!r}; {nearest(self.cut, CUTS)}")
        for name in ("threshold", "scale"):
            if not getattr(self, name) >= 0:
                raise JobError(f"{name}: {getattr(self, name)!r}; allowed: 0 or more")

    def nodes(self, block: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        """(feature, …): what is added up over a superpixel; whole numbers."""
        scaled = self.scaled(block, valid)
        return np.asarray(np.rint(np.where(np.isfinite(scaled), scaled, 0.0) * FINE), np.int64)

    def merge(self, graph: Graph) -> npt.NDArray[np.int64]:
        """The number of the region of each superpixel."""
        if self.cut == "felzenszwalb":
            return region_graphs.felzenszwalb(graph, self.scale * FINE)
        return (region_graphs.below if self.cut == "threshold" else region_graphs.hierarchical)(
            graph, self.threshold * FINE
        )
