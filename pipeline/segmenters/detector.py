"""Detectors: networks that find objects one by one, with a box, a class, a score and a mask.

The network runs on patches of one size on a lattice over the image;
`pipeline.segmenters.decoders.detections` decides which detections count. The network shown the
whole image at once would answer differently, so no object is ``proved``. But all tiles give the
same answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from pipeline.errors import JobError
from pipeline.image.frame import Frame, valid_or_all
from pipeline.networks.lattice import Lattice
from pipeline.networks.patches import Patches
from pipeline.segmenters import Identity, Origin, fitted_to
from pipeline.segmenters.decoders.detections import AXIS, RANK, ByKey, Choice, lattice
from pipeline.segmenters.network_base import Network

Pixels = npt.NDArray[Any]
Flags = npt.NDArray[np.bool_]
STEPS = 2
"""Steps of dependence: an object depends on those that may hide it, and these on those that may
suppress them.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskRCNN(Network):
    """Objects of several classes, also close or overlapping, by Mask R-CNN.

    Use it for objects of about one size and a known outline: buildings, vehicles, tree crowns,
    cells. An object as long as twice the margin is not found: choose a ``margin`` of more than half
    the extent of the largest object, and a ``window`` of about four times the margin. Scores are
    not kept. It is slower than other networks, because each tile runs patches up to `reach` pixels
    beyond it; large tiles pay.

    Notes
    -----
    If the masks of two objects of different patches overlap by more than ``overlap``, the one with
    the lower score is removed, even if the other is removed too (Fast NMS [2]_). The usual greedy
    suppression depends on chains of any length, and so on the tiling. An object that is partly
    covered by others keeps its largest piece. The network is torchvision's. Every tiling gives the
    same labels; their certificate is at best ``agreed``.

    References
    ----------
    .. [1] K. He, G. Gkioxari, P. Dollar, R. Girshick (2017), "Mask R-CNN", ICCV, 2961-2969.
    .. [2] D. Bolya, C. Zhou, F. Xiao, Y. J. Lee (2019), "YOLACT: real-time instance segmentation",
       ICCV, 9157-9166, section 3.2.

    Examples
    --------
    >>> MaskRCNN(weights="bundles/crowns", score=0.7)  # doctest: +SKIP
    """

    margin: int | None = None
    """Pixels of a patch around its cell, more than half the extent of the largest object; None: a
    quarter of the window.
    """

    score: float = 0.5
    """The least score of an object, 0 to 1."""

    mask: float = 0.5
    """The least probability of an object's pixels, above 0 and up to 1."""

    overlap: float = 0.5
    """The largest intersection over union of two objects, 0 to 1."""

    most: int = 100
    """The largest number of objects with their centre in one cell, 1 to 16383; those with the
    highest scores are kept.
    """

    KIND: ClassVar[str] = "maskrcnn"
    identity: ClassVar[Identity] = "keyed"
    proved: ClassVar[bool] = False
    exactness: ClassVar[str] = "all that it finds, though none is called proved"

    def __post_init__(self) -> None:
        Network.__post_init__(self)  # super() does not work in a class with slots
        for name, what in (
            ("score", "0 to 1"),
            ("mask", "more than 0, to 1"),
            ("overlap", "0 to 1"),
        ):
            given = getattr(self, name)
            if not 0 <= given <= 1 or (name == "mask" and given == 0):
                raise JobError(f"{name}: {given!r}; allowed: {what}")
        if (
            isinstance(self.most, bool)
            or not isinstance(self.most, int)
            or not 1 <= self.most < 1 << RANK
        ):
            raise JobError(
                f"most: {self.most!r}; allowed: a number of objects, 1 to {(1 << RANK) - 1}"
            )
        for name in ("decoder_options", "flips", "compiled"):
            if getattr(self, name):
                raise JobError(
                    f"{name}: {getattr(self, name)!r}; a detector has none; leave it out"
                )
        if self.pixel_size == "resample":
            raise JobError(
                "pixel_size: 'resample'; a detector sees the image's own pixels; allowed: same, "
                "any; resample the image first"
            )

    def suited(self, frame: Frame) -> Network:
        """Return a copy for an image.

        Parameters
        ----------
        frame : Frame
            The size, bands and pixel size of the image.

        Returns
        -------
        Network
            A copy with the bands by number.

        Raises
        ------
        JobError
            The network cannot take the image, or the image has more cells along an axis than keys
            can address.
        """
        cell = self.lattice.extent - 2 * self.lattice.margin
        if max(frame.shape) // cell >= 1 << AXIS:
            raise JobError(
                f"cells of {cell} pixels in an image of {' x '.join(map(str, frame.shape))}; "
                f"choose a smaller margin"
            )
        return Network.suited(self, frame)

    @property
    def patches(self) -> Patches:
        """The patches of the lattice."""
        lattice = self.lattice
        return Patches(lattice.extent, 1, lattice.margin, blended=True)

    @property
    def lattice(self) -> Lattice:
        """The lattice on which the network runs."""
        return lattice(self.card, self.window, self.margin)

    @property
    def decoder(self) -> ByKey:  # type: ignore[override]
        """The decoder that passes on the keys; a detector has no other."""
        return ByKey()

    @property
    def reach(self) -> int:
        """Five margins and a window, in pixels.

        Derived in `pipeline.networks.lattice.Lattice.sight`.
        """
        return self.lattice.sight(STEPS)

    def predict(self, block: Pixels, valid: Flags, origin: Origin = None) -> npt.NDArray[Any]:
        """Detect the objects of a window.

        Parameters
        ----------
        block : ndarray, (band, row, column)
            The pixels of one window.
        valid : bool ndarray of the shape ``block.shape[1:]``
            True where a pixel was measured.
        origin : tuple of int, optional
            The position in the image of the block's first pixel; None: 0 along every axis.

        Returns
        -------
        int64 ndarray, (2, row, column)
            Keys and classes; 0 for background.

        Raises
        ------
        SegmenterError
            Values lie outside the range that the network was trained for, or its answer is not
            finite.
        JobError
            The image is a volume; or a band, a package or a reader of the weights is missing.
        """
        choice = Choice(
            lattice=self.lattice,
            score=self.score,
            mask=self.mask,
            overlap=self.overlap,
            most=self.most,
        )
        return choice.draw(self._given(block, valid), valid, origin or (0, 0), self.resident.detect)

    def __call__(
        self, block: Pixels, valid: Flags | None = None, origin: Origin = None
    ) -> npt.NDArray[Any]:
        """Compute the key of each pixel's object.

        Parameters
        ----------
        block : ndarray, (band, row, column)
            The pixels of one window.
        valid : bool ndarray of the shape ``block.shape[1:]``, optional
            True where a pixel was measured; None: everywhere.
        origin : tuple of int, optional
            The position in the image of the block's first pixel; None: 0 along every axis.

        Returns
        -------
        int64 ndarray, (row, column)
            Keys; 0 for background.
        """
        block = np.asarray(block)
        valid = valid_or_all(valid, block)
        keys: npt.NDArray[Any] = fitted_to(self, block, valid).predict(block, valid, origin)[0]
        return np.where(valid, keys, 0)
