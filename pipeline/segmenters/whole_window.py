"""Methods that look at a whole window at once: what they draw anywhere may depend on anything in
it.

Nothing here can be proved unless the image fits into one window. Objects that neighbouring windows
drew alike are joined by evidence, and say so in their certificates (``agreed``, ``disputed``). Use
larger tiles, or halos, for fewer disputes; and ``region_graph`` for merging that is exact.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from pipeline.annotations.seeds import given_in
from pipeline.errors import JobError
from pipeline.imageops.components import pieces
from pipeline.imageops.features import Feature
from pipeline.imageops.histograms import Histogram
from pipeline.segmenters import Footprint, Identity, Origin, fitted_to
from pipeline.segmenters.pixel_features import CONTRAST, Contrast
from pipeline.segmenters.superpixel import Superpixels

ALIKE = 1000.0
"""The square of the contrast over which likeness falls to 1/e. With less, covers hang together by
so little that no cut is found.
"""
Pixels = npt.NDArray[Any]
Flags = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Felzenszwalb(Contrast):
    """Regions that differ more from each other than pixels do within them, merged pixel by pixel.

    Use it on images of a window's size, or where small regions matter; ``region_graph`` with ``cut:
    felzenszwalb`` merges superpixels in the same way over the whole image. It is for two
    dimensions.

    References
    ----------
    P. F. Felzenszwalb, D. P. Huttenlocher (2004), "Efficient graph-based image segmentation", Int.
    J. Computer Vision 59(2), 167-181. scikit-image's.
    """

    scale: float = 100.0
    """The greater, the larger are regions."""

    sigma: float = 0.8
    """The standard deviation of Gaussian smoothing, in pixels; 0: none."""

    min_size: int = 20
    """Regions of fewer pixels join a neighbour, within the window."""

    min_area: int = 0
    """Regions of fewer pixels are removed."""

    identity: ClassVar[Identity] = "object"
    footprint: ClassVar[Footprint] = Footprint(330.0, 26.0)
    windowed: ClassVar[bool] = True

    def __post_init__(self) -> None:
        Contrast.__post_init__(self)  # super() does not work in a class with slots
        if not self.scale > 0:
            raise JobError(f"scale: {self.scale!r}; allowed: more than 0")
        if self.min_size < 0:
            raise JobError(f"min_size: {self.min_size!r}; allowed: a number of pixels, 0 or more")

    @property
    def reach(self) -> int:
        """The smoothing's radius."""
        return self.radius

    def __call__(self, block: Pixels, valid: Flags | None = None) -> Labels:
        """Label one block: int32, in raster order."""
        from skimage.segmentation import felzenszwalb

        values, known = _values(self, block, valid)
        apart = np.where(known, values / CONTRAST, -2.0)  # what is not known is far from everything
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "Got image with third dimension"
            )  # any number of bands will do
            found = felzenszwalb(
                np.moveaxis(apart, 0, -1),
                scale=self.scale,
                sigma=0,
                min_size=self.min_size,
                channel_axis=-1,
            )
        return pieces(np.where(known, found + 1, 0))[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomWalker(Feature):
    """Each pixel goes to the seeds that a walker from there, who shuns steep steps, most likely
    meets first.

    Use it where borders are weak or noisy and seeds are good. Seeds are given, or are the darkest
    and the brightest pixels: then objects are what goes to the bright ones. It solves an equation
    of as many unknowns as a window has pixels, so it wants small tiles.

    References
    ----------
    L. Grady (2006), "Random walks for image segmentation", IEEE Trans. PAMI 28(11), 1768-1783.
    scikit-image's.
    """

    seeds: Any = None
    """As for ``region_growing``; class 1 is the background. None: the darkest and the brightest
    pixels.
    """

    dark: float = 50.0
    """Without seeds: this many per cent of the image's pixels, the darkest, are seeds of the
    background.
    """

    bright: float = 10.0
    """Without seeds: this many per cent, the brightest, are seeds of objects."""

    beta: float = 1000.0
    """How much a walker shuns steep steps."""

    limits: tuple[float, float] | None = None
    """The values below and above which pixels are seeds; None: they are found in the image's
    histogram.
    """

    min_area: int = 0
    """Objects of fewer pixels are removed."""

    identity: ClassVar[Identity] = "object"
    footprint: ClassVar[Footprint] = Footprint(400.0, 8.0)
    windowed: ClassVar[bool] = True
    companions: ClassVar[tuple[str, ...]] = ("seeds",)

    def __post_init__(self) -> None:
        Feature.__post_init__(self)  # super() does not work in a class with slots
        if not (self.dark > 0 and self.bright > 0 and self.dark + self.bright <= 100):
            raise JobError(
                f"dark and bright: {self.dark!r} and {self.bright!r}; allowed: more than 0 per "
                f"cent, together up to 100"
            )
        if not self.beta > 0:
            raise JobError(f"beta: {self.beta!r}; allowed: more than 0")
        if self.limits is not None and not self.limits[0] < self.limits[1]:
            raise JobError(f"limits: {self.limits!r}; allowed: two values that ascend")

    @property
    def reach(self) -> int:
        """The smoothing's radius."""
        return self.radius

    @property
    def unfitted(self) -> bool:
        """Whether the image's histogram is needed first."""
        return self.limits is None

    def fit(self, histogram: Histogram) -> RandomWalker:
        """The same with the values below and above which pixels are dark and bright."""
        low, high = histogram.percentile(self.dark), histogram.percentile(100 - self.bright)
        return replace(self, limits=(low, high if high > low else low + 1.0))

    def __call__(self, block: Pixels, valid: Flags | None = None, origin: Origin = None) -> Labels:
        """Label one block: int32, in raster order."""
        from skimage.segmentation import random_walker

        block = np.asarray(block)
        valid = np.ones(block.shape[1:], bool) if valid is None else valid
        low, high = fitted_to(self, block, valid).limits
        value = self.feature(block, valid).astype(np.float64)
        known = valid & np.isfinite(value)
        if self.seeds is None:
            seeds = np.where(value <= low, 1, 0) + np.where(value >= high, 2, 0)
        else:
            seeds = given_in(self.seeds, valid.shape, origin)
        seeds = np.where(known, seeds, -1)
        numbers = np.unique(seeds[seeds > 0])
        if len(numbers) < 2:  # a walker has nowhere else to go
            return pieces(np.where(known & (numbers.max(initial=0) > 1), 1, 0))[0]
        small = np.where(seeds > 0, np.searchsorted(numbers, seeds) + 1, np.minimum(seeds, 0))
        found = random_walker(
            np.where(known, value, low) / (high - low), small, beta=self.beta, mode="bf"
        )
        kinds = np.concatenate([[0], numbers])[np.maximum(found, 0)]
        return pieces(np.where(kinds > 1, kinds, 0))[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class NormalizedCut(Superpixels):
    """Superpixels, parted again and again where the cut costs least compared with what it parts.

    Use it for few large regions in small images; it is slow. ``region_graph`` merges superpixels
    over the whole image, exactly.

    References
    ----------
    J. Shi, J. Malik (2000), "Normalized cuts and image segmentation", IEEE Trans. PAMI 22(8),
    888-905. scikit-image's.
    """

    most: float = 0.2
    """A region is parted where the normalised cut costs less than this."""

    min_area: int = 0
    """Regions of fewer pixels are removed."""

    identity: ClassVar[Identity] = "object"
    portable: ClassVar[bool] = False
    footprint: ClassVar[Footprint] = Footprint(62.0, 8.0)
    windowed: ClassVar[bool] = True

    def __post_init__(self) -> None:
        Superpixels.__post_init__(self)  # super() does not work in a class with slots
        if not 0 < self.most <= 2:
            raise JobError(f"most: {self.most!r}; allowed: more than 0, up to 2")

    def __call__(self, block: Pixels, valid: Flags | None = None, origin: Origin = None) -> Labels:
        """Label one block: int32, in raster order."""
        from skimage.graph import RAG, cut_normalized

        block = np.asarray(block)
        valid = np.ones(block.shape[1:], bool) if valid is None else valid
        fitted = fitted_to(self, block, valid)
        keys = Superpixels.__call__(fitted, block, valid, origin)
        known = keys > 0
        if not known.any():
            return np.zeros(valid.shape, np.int32)
        _, patch = np.unique(keys, return_inverse=True)
        patch = patch.reshape(keys.shape)
        values = np.where(known, fitted.scaled(block, valid), 0.0)
        size = np.bincount(patch.ravel())
        means = np.stack(
            [np.bincount(patch.ravel(), value.ravel()) / size for value in values], axis=1
        )
        graph = RAG(patch, connectivity=2)
        for node in graph:
            graph.nodes[node]["labels"] = [node]
        for a, b, edge in graph.edges(data=True):
            edge["weight"] = float(np.exp(-((means[a] - means[b]) ** 2).sum() / ALIKE))
        if not known.all():
            graph.remove_node(0)
        found = (
            cut_normalized(patch, graph, thresh=self.most, rng=0)
            if graph.number_of_nodes() > 2
            else np.ones_like(patch)
        )
        return pieces(np.where(known, found + 1, 0))[0]


def _values(what: Any, block: Pixels, valid: Flags | None) -> tuple[npt.NDArray[np.float64], Flags]:
    """Features in their common scale, and where they are known."""
    block = np.asarray(block)
    valid = np.ones(block.shape[1:], bool) if valid is None else valid
    if valid.ndim != 2:
        raise JobError("felzenszwalb in a volume; allowed: images of two dimensions")
    values = fitted_to(what, block, valid).scaled(block, valid)
    return values, valid & np.isfinite(values).all(axis=0)
