"""Detectors: networks that find objects one by one, each with a box, a class, a score and a mask.

The network is run on patches of one size that lie on a lattice over the image;
`decoders.detections` says what counts of what it finds there. It is not what the network would find
if it were shown the whole image at once, so nothing is called proved; tiles agree, and always do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from pipeline.errors import JobError
from pipeline.image.frame import Frame
from pipeline.networks.lattice import Lattice
from pipeline.networks.patches import Patches
from pipeline.segmenters import Identity, Origin, fitted_to
from pipeline.segmenters.decoders.detections import AXIS, RANK, ByKey, Choice, lattice
from pipeline.segmenters.network_base import Network

Pixels = npt.NDArray[Any]
Flags = npt.NDArray[np.bool_]
STEPS = 2
"""What is left of an object depends on those that may hide it, and these on those that may be in
the place of them.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskRCNN(Network):
    """Torchvision's Mask R-CNN: objects of several classes, which may lie close together or hide
    each other in part.

    Use it for things of about one size and of a known outline: buildings, vehicles, crowns, cells.
    An object as long or as broad as twice the margin is not found: let ``margin`` be more than half
    the extent of the largest, and ``window`` about four times that. Scores are not kept.

    It is slower than other networks: each tile looks at patches up to `reach` beyond it. Large
    tiles pay.

    Between patches, of two objects whose masks overlap by more than ``overlap`` the one of the
    lower score goes, though it be to one that goes itself: the usual way, one after the other by
    falling score, has chains without end, whose outcome would depend on the tiles. What remains of
    an object beneath others is its largest piece.

    References
    ----------
    K. He, G. Gkioxari, P. Dollar, R. Girshick (2017), "Mask R-CNN", ICCV, 2961-2969. D. Bolya, C.
    Zhou, F. Xiao, Y. J. Lee (2019), "YOLACT: real-time instance segmentation", ICCV, 9157-9166,
    section 3.2, for suppression that has no chains (Fast NMS).
    """

    margin: int | None = None
    """Pixels of a patch around its cell, more than half the extent of the largest object; None: a
    quarter of the window.
    """

    score: float = 0.5
    """The least score of an object, from 0 to 1."""

    mask: float = 0.5
    """The least probability of a pixel of an object, above 0 and up to 1."""

    overlap: float = 0.5
    """The largest intersection over union of two objects, from 0 to 1."""

    most: int = 100
    """The most objects whose centres lie in one cell, those of the highest scores; up to 16383."""

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
        """The same for an image. JobError where it is none for this network, or has more cells
        along an axis than keys can tell apart.
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
        """Where the network is run."""
        return lattice(self.card, self.window, self.margin)

    @property
    def decoder(self) -> ByKey:  # type: ignore[override]
        """What hands on the keys; a detector has no choice of decoders."""
        return ByKey()

    @property
    def reach(self) -> int:
        """How far what decides about a pixel may lie: five margins and a window, as
        `pipeline.networks.lattice.Lattice.sight` derives.
        """
        return self.lattice.sight(STEPS)

    def predict(self, block: Pixels, valid: Flags, origin: Origin = None) -> npt.NDArray[Any]:
        """Keys and classes, (2, row, column) int64, 0 for background, of a window that begins at
        ``origin``.

        Raises
        ------
        SegmenterError
            Values are not of the range that it was trained for, or the network's answer is no
            finite number.
        JobError
            The image is a volume; a band, a package, or what can read the weights is missing.
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
        """The key of the object of each pixel, int64, of a block whose first pixel lies at
        ``origin``; 0 for background.
        """
        block = np.asarray(block)
        valid = np.ones(block.shape[1:], bool) if valid is None else valid
        keys: npt.NDArray[Any] = fitted_to(self, block, valid).predict(block, valid, origin)[0]
        return np.where(valid, keys, 0)
