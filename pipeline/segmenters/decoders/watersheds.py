"""Decoders that separate touching objects by a watershed: on a distance and a boundary, or on the
ends of flows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from pipeline.errors import JobError
from pipeline.imageops.components import pieces
from pipeline.imageops.markers import levelled, summits, without_ties
from pipeline.segmenters import Identity
from pipeline.segmenters.decoders.channels import (
    Channels,
    Flags,
    Floats,
    Labels,
    Targets,
    above,
    check_probability,
    check_whole,
    checked,
    truth,
    with_gaps,
)
from pipeline.segmenters.decoders.flow_loops import ends, heat, in_raster_order


@dataclass(frozen=True, slots=True, kw_only=True)
class Boundary:
    """Objects around the maxima of a distance, lowered where two objects touch.

    Use it for nuclei, cells, grains, buildings or fields. The channels are the logits of the
    foreground and of the boundary, and the distance to the object's edge: 1 in its middle, towards
    0 at its rim. The foreground is flooded from the maxima of the distance minus the boundary's
    probability.

    References
    ----------
    .. [1] H. Chen et al. (2016), "DCAN: deep contour-aware networks for accurate gland
       segmentation", CVPR, 2487-2496.
    .. [2] P. Naylor et al. (2019), "Segmentation of nuclei in histopathology images by deep
       regression of the distance map", IEEE Trans. Medical Imaging 38(2), 448-459.

    Examples
    --------
    >>> import numpy as np
    >>> truth = np.array([[1, 1, 1, 2, 2, 2, 0]])
    >>> ideal = Boundary().targets(truth)
    >>> ideal[:2] = 12 * ideal[:2] - 6
    >>> Boundary()(ideal, truth >= 0)
    array([[1, 1, 1, 2, 2, 2, 0]], dtype=int32)
    """

    threshold: float = 0.5
    """The least probability of foreground, above 0 and below 1."""

    boundary: float = 1.0
    """The weight of the boundary's probability against the distance, 0 or more."""

    min_distance: int = 2
    """Two maxima in one piece of foreground are more than this many pixels apart, 1 or more; of two
    that are closer, the higher stays.
    """

    min_depth: float = 0.3
    """The least height of a maximum above the pass to a higher one, 0 or more; distances within an
    object go from 0 to 1.
    """

    channels: ClassVar[int | None] = 3
    identity: ClassVar[Identity] = "object"
    reach: ClassVar[int] = 0

    def __post_init__(self) -> None:
        check_probability("threshold", self.threshold)
        for name in ("boundary", "min_depth"):
            if not 0 <= getattr(self, name) < math.inf:
                raise JobError(f"{name}: {getattr(self, name)!r}; allowed: 0 or more")
        check_whole("min_distance", self.min_distance, 1, "a whole number of pixels, from 1")

    def foreground(self, channels: Channels, valid: Flags) -> Flags:
        """Compute the support, the pixels of the foreground.

        Parameters
        ----------
        channels : float ndarray, (channel, row, column) or (channel, plane, row, column)
            The network's answer.
        valid : bool ndarray of the shape ``channels.shape[1:]``
            True where a pixel was measured.

        Returns
        -------
        bool ndarray of the shape of ``valid``
            True for foreground.
        """
        return above(checked(self, channels, valid)[0], self.threshold, valid)

    def __call__(
        self, channels: Channels, valid: Flags, part: Flags | None = None
    ) -> npt.NDArray[np.int32]:
        """Separate the objects of the foreground.

        Parameters
        ----------
        channels : float ndarray, (channel, row, column) or (channel, plane, row, column)
            The network's answer.
        valid : bool ndarray of the shape ``channels.shape[1:]``
            True where a pixel was measured.
        part : bool ndarray of the shape of ``valid``, optional
            The pieces of foreground to label; None: all.

        Returns
        -------
        int32 ndarray of the shape of ``valid``
            Objects from 1 in raster order of their first pixels; 0 is background.

        Raises
        ------
        SegmenterError
            The number of channels or dimensions is wrong.
        """
        from scipy.special import expit

        support = self.foreground(channels, valid)
        support = support if part is None else support & part
        height = np.nan_to_num(
            channels[2].astype(np.float64) - self.boundary * expit(channels[1].astype(np.float64))
        )
        return _basins(
            np.where(support, height, -np.inf), support, self.min_depth, self.min_distance
        )

    def targets(self, labels: Labels) -> Targets:
        """Compute the channels that a network should give for labels.

        Parameters
        ----------
        labels : int ndarray, (row, column)
            Objects; 0 for background, -1 where the truth is unknown.

        Returns
        -------
        float32 ndarray, (3, row, column)
            1 in objects; 1 at pixels beside another object, corners included; and the distance to
            the nearest pixel outside the object, divided by the object's greatest. The image's
            border is not an edge.
        """
        from scipy import ndimage

        labels = truth(labels)
        objects = pieces(np.maximum(labels, 0))[0]
        highest = ndimage.maximum_filter(objects, size=3, mode="nearest")
        lowest = ndimage.minimum_filter(
            np.where(objects > 0, objects, objects.max(initial=0) + 1), size=3, mode="nearest"
        )
        distance = np.zeros(labels.shape)
        for box, mask in _each(objects):
            far = ndimage.distance_transform_edt(mask) if not mask.all() else np.ones(mask.shape)
            distance[box] += np.where(mask, far / far.max(), 0)
        return with_gaps(
            labels,
            objects > 0,
            (objects > 0) & ((highest != objects) | (lowest != objects)),
            distance,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Flows:
    """Objects of any shape, by flows to their middle, in two dimensions.

    The channels are the logit of the foreground and the flow along rows and columns, of about unit
    length, which points along the object to its middle. Each pixel of the foreground follows the
    flow within its connected piece. Pixels that end near each other are one object.

    Notes
    -----
    Unlike the paper, ends are grouped by a watershed on their density, so that every pixel of the
    foreground gets an object.

    References
    ----------
    .. [1] C. Stringer, T. Wang, M. Michaelos, M. Pachitariu (2021), "Cellpose: a generalist
       algorithm for cellular segmentation", Nature Methods 18, 100-106.
    """

    threshold: float = 0.5
    """The least probability of foreground, above 0 and below 1."""

    steps: int = 200
    """The largest number of steps of a pixel's length: more than the path from an object's edge to
    its middle.
    """

    min_distance: int = 3
    """The middles of two objects in one piece of foreground are more than this many pixels apart, 1
    or more.
    """

    min_depth: float = 4.0
    """By how many more ends in 3 x 3 pixels a middle exceeds the pass to a greater one, 0 or more;
    with fewer it is not a middle of its own.
    """

    channels: ClassVar[int | None] = 3
    identity: ClassVar[Identity] = "object"
    reach: ClassVar[int] = 0

    def __post_init__(self) -> None:
        check_probability("threshold", self.threshold)
        check_whole("steps", self.steps, 1, "a whole number, from 1")
        check_whole("min_distance", self.min_distance, 1, "a whole number of pixels, from 1")
        if not 0 <= self.min_depth < math.inf:
            raise JobError(f"min_depth: {self.min_depth!r}; allowed: 0 or more")

    def foreground(self, channels: Channels, valid: Flags) -> Flags:
        """Compute the support, the pixels of the foreground.

        Parameters
        ----------
        channels : float ndarray, (channel, row, column)
            The network's answer.
        valid : bool ndarray of the shape ``channels.shape[1:]``
            True where a pixel was measured.

        Returns
        -------
        bool ndarray of the shape of ``valid``
            True for foreground.
        """
        return above(checked(self, channels, valid, dimensions=2)[0], self.threshold, valid)

    def __call__(
        self, channels: Channels, valid: Flags, part: Flags | None = None
    ) -> npt.NDArray[np.int32]:
        """Separate the objects of the foreground.

        Parameters
        ----------
        channels : float ndarray, (channel, row, column)
            The network's answer.
        valid : bool ndarray of the shape ``channels.shape[1:]``
            True where a pixel was measured.
        part : bool ndarray of the shape of ``valid``, optional
            The pieces of foreground to label; None: all.

        Returns
        -------
        int32 ndarray of the shape of ``valid``
            Objects from 1 in raster order of their first pixels; 0 is background.

        Raises
        ------
        SegmenterError
            The number of channels or dimensions is wrong.
        """
        from scipy import ndimage

        support = self.foreground(channels, valid)
        support = support if part is None else support & part
        end = ends(channels[1:], support, self.steps)
        many = np.bincount(end[support], minlength=support.size).reshape(support.shape)
        near = ndimage.correlate(many, np.ones((3, 3), np.int64), mode="constant")
        basins = _basins(
            np.where(support, near, -np.inf), support, self.min_depth, self.min_distance
        )
        return in_raster_order(np.where(support, basins.reshape(-1)[end], 0))

    def targets(self, labels: Labels) -> Targets:
        """Compute the channels that a network should give for labels.

        Parameters
        ----------
        labels : int ndarray, (row, column)
            Objects; 0 for background, -1 where the truth is unknown.

        Returns
        -------
        float32 ndarray, (3, row, column)
            1 in objects; and the unit vector to the middle, 0 outside objects: the gradient of heat
            that diffuses from the pixel nearest to the object's median position.
        """
        labels = truth(labels, 2)
        objects = pieces(np.maximum(labels, 0))[0]
        flow = np.zeros((2, *labels.shape))
        for box, mask in _each(objects):
            flow[:, *box] += _flow_to_middle(mask)
        return with_gaps(labels, objects > 0, *flow)


def _flow_to_middle(mask: Flags) -> Floats:
    """The unit vectors, (2, row, column), up the heat from an object's middle; 0 outside."""
    places = np.argwhere(mask)
    middle = places[((places - np.median(places, axis=0)) ** 2).sum(axis=1).argmin()]
    warmth = np.log1p(np.pad(heat(mask, (int(middle[0]), int(middle[1]))), 1))
    slope = np.stack([warmth[2:, 1:-1] - warmth[:-2, 1:-1], warmth[1:-1, 2:] - warmth[1:-1, :-2]])
    steepness = np.hypot(*slope)
    return np.where(mask & (steepness > 0), slope / np.where(steepness > 0, steepness, 1), 0)


def _basins(
    height: Floats, support: Flags, depth: float, min_distance: int
) -> npt.NDArray[np.int32]:
    """Flood the support from the maxima of a height.

    Parameters
    ----------
    height : float64 ndarray
        Heights, finite in the support.
    support : bool ndarray of the shape of ``height``
        The foreground.
    depth : float
        The least height of a maximum above the pass to a higher one.
    min_distance : int
        The least distance of two maxima of one piece, in pixels.

    Returns
    -------
    int32 ndarray of the shape of ``height``
        Labels from 1 in raster order of their first pixels.
    """
    from skimage.segmentation import watershed

    piece = pieces(support)[0]
    level = levelled(height, support, depth)
    tops = summits(level, support, piece, min_distance)
    markers = np.zeros(support.shape, np.int32)
    markers.reshape(-1)[tops] = np.arange(1, len(tops) + 1)
    return in_raster_order(
        watershed(
            without_ties(-level, tops, piece), markers, mask=support, connectivity=support.ndim
        )
    )


def _each(objects: npt.NDArray[np.int32]) -> Iterator[tuple[tuple[slice, ...], Flags]]:
    """Yield each object's box, one pixel wider where the image allows, and its mask in the box."""
    from scipy import ndimage

    for number, found in enumerate(ndimage.find_objects(objects), 1):
        box = tuple(slice(max(span.start - 1, 0), span.stop + 1) for span in found)
        yield box, objects[box] == number
