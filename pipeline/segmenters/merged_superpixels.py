"""Regions by merging superpixels on the region adjacency graph of the whole image.

Superpixels are the same for every tiling. Their features are added up as integers, so the sums of
tiles give exactly those of the image. Regions are merged once, on the graph of the whole image. So
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
"""Integer steps per unit of contrast; 100 units are the contrast of the image."""
CUTS = ("hierarchical", "felzenszwalb", "threshold")


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionGraph(Superpixels):
    """Regions of similar colour, merged from superpixels.

    Use it for land cover, tissue and other regions that are even inside but have no common colour:
    the contrast to neighbouring regions decides. Details smaller than a superpixel are lost.

    Notes
    -----
    Labels equal those of the untiled image for regions of any size, so their certificate is
    ``proved``.

    References
    ----------
    .. [1] P. F. Felzenszwalb, D. P. Huttenlocher (2004), "Efficient graph-based image
       segmentation", Int. J. Computer Vision 59(2), 167-181.
    .. [2] A. Trémeau, P. Colantoni (2000), "Regions adjacency graph applied to color image
       segmentation", IEEE Trans. IP 9(4), 735-744.

    Examples
    --------
    >>> import numpy as np
    >>> graph = RegionGraph(spacing=4, cut="felzenszwalb")
    >>> graph.cut, graph.reach
    ('felzenszwalb', 68)
    """

    cut: Literal["hierarchical", "felzenszwalb", "threshold"] = "hierarchical"
    """``hierarchical``: the two most similar neighbours are merged, again and again, until none are
    similar. ``felzenszwalb``: regions are merged where the contrast between them is no greater than
    within. ``threshold``: all similar neighbours are merged at once, along chains of any length.
    """

    threshold: float = 10.0
    """For hierarchical and threshold: regions are similar if their means differ by less than this,
    0 or more; the contrast of the image is 100.
    """

    scale: float = 5000.0
    """For felzenszwalb: higher values give larger regions, 0 or more; in pixels times contrast."""

    connectivity: int | None = None
    """Number of neighbours of a pixel; only superpixels that share a side are merged."""

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
        """Compute the integers that are added up over a superpixel.

        Parameters
        ----------
        block : ndarray, (band, row, column) or (band, plane, row, column)
            The pixels of one window.
        valid : bool ndarray of the shape ``block.shape[1:]``
            True where a pixel was measured.

        Returns
        -------
        int64 ndarray, (feature, row, column) or (feature, plane, row, column)
            The features, in steps of the contrast.
        """
        scaled = self.scaled(block, valid)
        return np.asarray(np.rint(np.where(np.isfinite(scaled), scaled, 0.0) * FINE), np.int64)

    def merge(self, graph: Graph) -> npt.NDArray[np.int64]:
        """Merge the superpixels of a graph.

        Parameters
        ----------
        graph : Graph
            The superpixels of the whole image, their sums and their neighbours.

        Returns
        -------
        int64 ndarray, (superpixel,)
            The number of each superpixel's region.
        """
        if self.cut == "felzenszwalb":
            return region_graphs.felzenszwalb(graph, self.scale * FINE)
        return (region_graphs.below if self.cut == "threshold" else region_graphs.hierarchical)(
            graph, self.threshold * FINE
        )
