"""Methods that depend on the whole window: any pixel may change any label.

Their labels can be proved only if the image fits in one window. Otherwise objects that neighbouring
windows draw alike are joined by evidence, and their certificates say so (``agreed``, ``disputed``).
Larger tiles or halos give fewer disputes; ``region_graph`` merges regions exactly.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from pipeline.annotations.seeds import given_in
from pipeline.errors import JobError
from pipeline.image.frame import valid_or_all
from pipeline.imageops.components import pieces
from pipeline.imageops.features import Feature
from pipeline.imageops.histograms import Histogram
from pipeline.segmenters import Footprint, Identity, Origin, fitted_to
from pipeline.segmenters.pixel_features import CONTRAST, Contrast
from pipeline.segmenters.superpixel import Superpixels

ALIKE = 1000.0
"""Squared contrast at which the similarity of two superpixels falls to 1/e. With a smaller one,
similarities are so weak that no cut is found.
"""
Pixels = npt.NDArray[Any]
Flags = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Felzenszwalb(Contrast):
    """Regions that differ more from each other than within, merged pixel by pixel.

    Use it on images that fit in a window, or where small regions matter. ``region_graph`` with
    ``cut: felzenszwalb`` merges superpixels in the same way over the whole image. Images have two
    dimensions.

    Notes
    -----
    Labels are ``proved`` only if the image fits in one window. Otherwise they are ``agreed`` where
    windows agree, else ``disputed``.

    References
    ----------
    .. [1] P. F. Felzenszwalb, D. P. Huttenlocher (2004), "Efficient graph-based image
       segmentation", Int. J. Computer Vision 59(2), 167-181. The implementation is that of
       scikit-image.

    Examples
    --------
    >>> import numpy as np
    >>> Felzenszwalb(sigma=0, min_size=2)(np.array([[[0.0, 0.0, 0.0, 9.0, 9.0, 9.0]] * 3]))[0]
    array([1, 1, 1, 2, 2, 2], dtype=int32)
    """

    scale: float = 100.0
    """Higher values give larger regions; more than 0."""

    sigma: float = 0.8
    """Standard deviation of the Gaussian smoothing, in pixels; 0: no smoothing."""

    min_size: int = 20
    """Regions of fewer pixels are merged with a neighbour, within the window."""

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
        """The radius of the smoothing, in pixels."""
        return self.radius

    def __call__(self, block: Pixels, valid: Flags | None = None) -> Labels:
        """Label one block as if it were the whole image.

        Labels are numbered in raster order. ``min_area`` is not applied.

        Parameters
        ----------
        block : ndarray, (band, row, column)
            The pixels of one window.
        valid : bool ndarray of the shape ``block.shape[1:]``, optional
            True where a pixel was measured; None: everywhere.

        Returns
        -------
        int32 ndarray of the shape ``block.shape[1:]``
            Labels from 1; 0 is background.
        """
        from skimage.segmentation import felzenszwalb

        values, known = _values(self, block, valid)
        apart = np.where(known, values / CONTRAST, -2.0)  # unknown pixels differ from all others
        with warnings.catch_warnings():
            # any number of bands is allowed
            warnings.filterwarnings("ignore", "Got image with third dimension")
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
    """Objects grown from seeds by random walks that avoid steep steps.

    Each pixel goes to the seeds that a walker starting there most likely meets first. Use it where
    borders are weak or noisy and seeds are good. Seeds are given; or the darkest and the brightest
    pixels are seeds, and objects are what goes to the bright ones. It solves a linear system with
    one unknown per pixel of the window, so use small tiles.

    Notes
    -----
    Labels are ``proved`` only if the image fits in one window. Otherwise they are ``agreed`` where
    windows agree, else ``disputed``.

    References
    ----------
    .. [1] L. Grady (2006), "Random walks for image segmentation", IEEE Trans. PAMI 28(11),
       1768-1783. The implementation is that of scikit-image.

    Examples
    --------
    >>> import numpy as np
    >>> RandomWalker(dark=40, bright=30)(np.array([[[0.0, 0.0, 1.0, 8.0, 9.0, 9.0]] * 3]))[0]
    array([0, 0, 0, 1, 1, 1], dtype=int32)
    """

    seeds: Any = None
    """Seeds, as for ``region_growing``; class 1 is the background. None: the darkest and the
    brightest pixels.
    """

    dark: float = 50.0
    """Without given seeds: the percentage of the image's pixels, the darkest, that are seeds of the
    background; more than 0.
    """

    bright: float = 10.0
    """Without given seeds: the percentage of the image's pixels, the brightest, that are seeds of
    objects; more than 0, at most 100 together with ``dark``.
    """

    beta: float = 1000.0
    """How strongly walkers avoid steep steps; more than 0."""

    limits: tuple[float, float] | None = None
    """The values below and above which pixels are seeds, in units of the feature; None: they are
    found in the image's histogram.
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
        """The radius of the smoothing, in pixels."""
        return self.radius

    @property
    def unfitted(self) -> bool:
        """Whether the image's histogram is needed first."""
        return self.limits is None

    def fit(self, histogram: Histogram) -> RandomWalker:
        """Return a copy with the limits of dark and bright pixels.

        Parameters
        ----------
        histogram : Histogram
            The histogram of the feature over the whole image.

        Returns
        -------
        RandomWalker
            A fitted copy.
        """
        low = histogram.percentile(self.dark)
        high = histogram.percentile(100 - self.bright)
        return replace(self, limits=(low, high if high > low else low + 1.0))

    def __call__(self, block: Pixels, valid: Flags | None = None, origin: Origin = None) -> Labels:
        """Label one block as if it were the whole image.

        Labels are numbered in raster order. ``min_area`` is not applied.

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
        int32 ndarray of the shape ``block.shape[1:]``
            Labels from 1; 0 is background.
        """
        block = np.asarray(block)
        valid = valid_or_all(valid, block)
        low, high = fitted_to(self, block, valid).limits
        value = self.feature(block, valid).astype(np.float64)
        known = valid & np.isfinite(value)
        if self.seeds is None:
            seeds = np.where(value <= low, 1, 0) + np.where(value >= high, 2, 0)
        else:
            seeds = given_in(self.seeds, valid.shape, origin)
        seeds = np.where(known, seeds, -1)
        numbers = np.unique(seeds[seeds > 0])
        if len(numbers) < 2:  # all walkers arrive at the same seeds
            return pieces(np.where(known & (numbers.max(initial=0) > 1), 1, 0))[0]
        scaled = np.where(known, value, low) / (high - low)
        kinds = self._walked(scaled, seeds, numbers)
        return pieces(np.where(kinds > 1, kinds, 0))[0]

    def _walked(
        self,
        scaled: npt.NDArray[np.float64],
        seeds: npt.NDArray[np.int64],
        numbers: npt.NDArray[np.int64],
    ) -> npt.NDArray[np.int64]:
        """The seed number that each pixel goes to; 0 outside.

        Parameters
        ----------
        scaled : float64 ndarray
            The feature, where the contrast of dark and bright is 1.
        seeds : int64 ndarray of the shape of ``scaled``
            Seed numbers, 0 elsewhere, -1 where the feature is unknown.
        numbers : int64 ndarray
            The different seed numbers, ascending.
        """
        from skimage.segmentation import random_walker

        small = np.where(seeds > 0, np.searchsorted(numbers, seeds) + 1, np.minimum(seeds, 0))
        found = random_walker(scaled, small, beta=self.beta, mode="bf")
        return np.asarray(np.concatenate([[0], numbers])[np.maximum(found, 0)], np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class NormalizedCut(Superpixels):
    """Large regions by repeated normalised cuts through a graph of superpixels.

    Use it for few large regions in small images; it is slow. ``region_graph`` merges superpixels
    over the whole image, exactly.

    Notes
    -----
    Labels are ``proved`` only if the image fits in one window. Otherwise they are ``agreed`` where
    windows agree, else ``disputed``.

    References
    ----------
    .. [1] J. Shi, J. Malik (2000), "Normalized cuts and image segmentation", IEEE Trans. PAMI
       22(8), 888-905. The implementation is that of scikit-image.

    Examples
    --------
    >>> import numpy as np
    >>> NormalizedCut(spacing=4)(np.array([[[9.0] * 8 + [0.0] * 8] * 8])).max()
    np.int32(2)
    """

    most: float = 0.2
    """A region is split if the normalised cut costs less than this, above 0 and up to 2."""

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
        """Label one block as if it were the whole image.

        Labels are numbered in raster order. ``min_area`` is not applied.

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
        int32 ndarray of the shape ``block.shape[1:]``
            Labels from 1; 0 is background.
        """
        from skimage.graph import cut_normalized

        block = np.asarray(block)
        valid = valid_or_all(valid, block)
        fitted = fitted_to(self, block, valid)
        keys = Superpixels.__call__(fitted, block, valid, origin)
        known = keys > 0
        if not known.any():
            return np.zeros(valid.shape, np.int32)
        _, patch = np.unique(keys, return_inverse=True)
        patch = patch.reshape(keys.shape)
        graph = _similarities(patch, np.where(known, fitted.scaled(block, valid), 0.0))
        if not known.all():
            graph.remove_node(0)
        found = (
            cut_normalized(patch, graph, thresh=self.most, rng=0)
            if graph.number_of_nodes() > 2
            else np.ones_like(patch)
        )
        return pieces(np.where(known, found + 1, 0))[0]


def _similarities(patch: npt.NDArray[np.intp], values: npt.NDArray[np.float64]) -> Any:
    """The graph of neighbouring superpixels, weighted by the similarity of their means.

    Parameters
    ----------
    patch : intp ndarray
        The number of each pixel's superpixel, from 0.
    values : float64 ndarray, (band, …)
        Features in the common scale.
    """
    from skimage.graph import RAG

    size = np.bincount(patch.ravel())
    means = np.stack([np.bincount(patch.ravel(), value.ravel()) / size for value in values], axis=1)
    graph = RAG(patch, connectivity=2)
    for node in graph:
        graph.nodes[node]["labels"] = [node]
    for a, b, edge in graph.edges(data=True):
        edge["weight"] = float(np.exp(-((means[a] - means[b]) ** 2).sum() / ALIKE))
    return graph


def _values(
    segmenter: Any, block: Pixels, valid: Flags | None
) -> tuple[npt.NDArray[np.float64], Flags]:
    """Features in the common scale, and where they are known."""
    block = np.asarray(block)
    valid = valid_or_all(valid, block)
    if valid.ndim != 2:
        raise JobError("felzenszwalb in a volume; allowed: images of two dimensions")
    values = fitted_to(segmenter, block, valid).scaled(block, valid)
    return values, valid & np.isfinite(values).all(axis=0)
