"""Cellpose, StarDist and InstanSeg, where they are installed.

Each looks at the whole window and joins its own tiles inside it in its own way. So nothing is
proved; objects that neighbouring windows draw alike are joined by evidence. Values are scaled to
percentiles of the whole image here. The package's own normalisation, which would differ from window
to window, is turned off.

These were tested with stand-ins of the same interface (of cellpose 4.2, stardist 0.9 and
instanseg-torch 0.1), never with their models.
"""

from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from pipeline.errors import JobError
from pipeline.image.bands import indices
from pipeline.image.frame import valid_or_all
from pipeline.imageops.histograms import Histogram
from pipeline.networks import archives
from pipeline.networks.architectures import UNSAFE
from pipeline.segmenters import Identity, fitted_to

Pixels = npt.NDArray[Any]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """A package's network over windows."""

    model: str = ""
    """The name of the package's weights, or their path."""

    bands: tuple[int | str, ...] | None = None
    """The bands that the network gets, in this order, by number from 1 or by name; None: all."""

    low: float = 1.0
    """The percentile of the image's pixels that becomes 0, band by band; 0 to 100."""

    high: float = 99.8
    """The percentile of the image's pixels that becomes 1, band by band; above ``low``, to 100."""

    scale: tuple[tuple[float, float], ...] | None = None
    """For each band, the values that become 0 and 1; None: they are found in the image."""

    device: str = "auto"
    """Where the network runs: ``auto``, ``cpu`` or ``gpu``."""

    min_area: int = 0
    """Objects of fewer pixels are removed."""

    unsafe: bool = False
    """Whether to read a file of weights that can run code."""

    identity: ClassVar[Identity] = "object"
    windowed: ClassVar[bool] = True
    of_bands: ClassVar[tuple[str, ...]] = ("bands",)
    PACKAGE: ClassVar[str] = ""
    INSTALL: ClassVar[str] = ""

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 100:
            raise JobError(
                f"low, high: {self.low!r}, {self.high!r}; allowed: percentiles from 0 to 100, "
                f"the lower first"
            )
        if self.bands is not None and not (
            self.bands and all(isinstance(band, str) or band >= 1 for band in self.bands)
        ):
            raise JobError(
                f"bands: {self.bands!r}; allowed: numbers of bands, from 1, or their names"
            )
        if self.device not in ("auto", "cpu", "gpu"):
            raise JobError(f"device: {self.device!r}; allowed: auto, cpu, gpu")

    @property
    def unfitted(self) -> bool:
        """Whether the image's percentiles must still be found."""
        return self.scale is None

    bandwise: ClassVar[bool] = True

    def reads(self, number: int) -> tuple[int, ...]:
        """List the bands that the network gets.

        Parameters
        ----------
        number : int
            How many bands the image has.

        Returns
        -------
        tuple of int
            Indices of bands, from 0.
        """
        return indices(self.bands or range(1, number + 1), number)

    def feature(self, block: Pixels) -> Pixels:
        """Select the bands.

        Parameters
        ----------
        block : ndarray, (band, row, column)
            The pixels of one window.

        Returns
        -------
        ndarray, (band, row, column)
            The bands that the network gets.

        Raises
        ------
        JobError
            The image lacks a band.
        """
        if self.bands is None:
            return block
        wanted = self.reads(len(block))
        if max(wanted) >= len(block):
            raise JobError(f"bands: {max(wanted) + 1}; the image has {len(block)}, counted from 1")
        return block[list(wanted)]

    def fit(self, histograms: list[Histogram]) -> Adapter:
        """Return a copy with the percentiles of the image's bands.

        Parameters
        ----------
        histograms : list of Histogram
            One for each band that is read, over the whole image.

        Returns
        -------
        Adapter
            A fitted copy.
        """
        return replace(self, scale=tuple(h.span(self.low, self.high) for h in histograms))

    def __call__(self, block: Pixels, valid: Flags | None = None) -> npt.NDArray[np.int32]:
        """Label one block.

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

        Raises
        ------
        JobError
            The package is not installed.
        """
        block = np.asarray(block)
        valid = valid_or_all(valid, block)
        fitted = fitted_to(self, block, valid)
        ends = np.array(fitted.scale)[:, :, None, None]
        scaled = np.where(
            valid, (self.feature(block) - ends[:, 0]) / (ends[:, 1] - ends[:, 0]), 0
        ).astype(np.float32)
        if not self.unsafe:
            self._refuse(Path(self.model).expanduser())
        network = _resident(type(self), self.model, self.device)  # type: ignore[arg-type]
        return np.asarray(self._labels(network, scaled), np.int32)

    def _load(self, _package: Any) -> Any:
        raise NotImplementedError

    def _refuse(self, _path: Path) -> None:
        """Raise JobError if reading a file of weights can run code."""

    def _labels(self, network: Any, scaled: npt.NDArray[np.float32]) -> Any:
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class Cellpose(Adapter):
    """Cells and nuclei by Cellpose, where it is installed.

    Notes
    -----
    Labels are at best ``agreed``, because the package looks at a whole window. Tested with
    stand-ins of the package's interface, never with its models.

    References
    ----------
    .. [1] C. Stringer et al. (2021), "Cellpose: a generalist algorithm for cellular segmentation",
       Nature Methods 18, 100-106.

    Examples
    --------
    >>> Cellpose(diameter=30).model
    'cpsam_v2'
    """

    model: str = "cpsam_v2"
    """The name of a Cellpose model, or its path."""

    diameter: float | None = None
    """The approximate width of objects in pixels; None: as the model was trained."""

    flow_threshold: float = 0.4
    """The largest error of an object's flows."""

    cellprob_threshold: float = 0.0
    """Pixels with a cell probability (logit) above this are foreground."""

    PACKAGE: ClassVar[str] = "cellpose.models"
    INSTALL: ClassVar[str] = "pip install cellpose"

    def _load(self, package: Any) -> Any:
        return package.CellposeModel(gpu=self.device != "cpu", pretrained_model=self.model)

    def _refuse(self, path: Path) -> None:
        if path.is_file():
            _looked_at(path, path.stat().st_mtime_ns)

    def _labels(self, network: Any, scaled: npt.NDArray[np.float32]) -> Any:
        image = np.moveaxis(
            np.concatenate(
                [scaled[:3], np.zeros((max(0, 3 - len(scaled)), *scaled.shape[1:]), np.float32)]
            ),
            0,
            -1,
        )
        options = {
            "diameter": self.diameter,
            "flow_threshold": self.flow_threshold,
            "cellprob_threshold": self.cellprob_threshold,
        }
        return network.eval(image, channel_axis=-1, normalize=False, **options)[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class StarDist(Adapter):
    """Round nuclei as star-convex polygons by StarDist, where it is installed.

    Notes
    -----
    Labels are at best ``agreed``, because the package looks at a whole window. Tested with
    stand-ins of the package's interface, never with its models.

    References
    ----------
    .. [1] U. Schmidt et al. (2018), "Cell detection with star-convex polygons", MICCAI, LNCS 11071,
       265-273.

    Examples
    --------
    >>> StarDist(prob_thresh=0.5).model
    '2D_versatile_fluo'
    """

    model: str = "2D_versatile_fluo"
    """The name of a StarDist model, or its folder."""

    prob_thresh: float | None = None
    """The least probability of an object, 0 to 1; None: the model's."""

    nms_thresh: float | None = None
    """The largest overlap of two objects, 0 to 1; None: the model's."""

    PACKAGE: ClassVar[str] = "stardist.models"
    INSTALL: ClassVar[str] = "pip install stardist tensorflow"

    def _load(self, package: Any) -> Any:
        folder = Path(self.model)
        if folder.is_dir():
            return package.StarDist2D(None, name=folder.name, basedir=str(folder.parent))
        return package.StarDist2D.from_pretrained(self.model)

    def _labels(self, network: Any, scaled: npt.NDArray[np.float32]) -> Any:
        image, axes = (scaled[0], "YX") if len(scaled) == 1 else (np.moveaxis(scaled, 0, -1), "YXC")
        return network.predict_instances(
            image, axes=axes, prob_thresh=self.prob_thresh, nms_thresh=self.nms_thresh
        )[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanSeg(Adapter):
    """Nuclei or cells by InstanSeg, where it is installed.

    Notes
    -----
    Labels are at best ``agreed``, because the package looks at a whole window. Tested with
    stand-ins of the package's interface, never with its models.

    References
    ----------
    .. [1] T. Goldsborough et al. (2024), "InstanSeg: an embedding-based instance segmentation
       algorithm optimized for accurate, efficient and portable cell segmentation",
       arXiv:2408.15954.

    Examples
    --------
    >>> InstanSeg(target="cells").model
    'fluorescence_nuclei_and_cells'
    """

    model: str = "fluorescence_nuclei_and_cells"
    """The name of an InstanSeg model."""

    target: str = "nuclei"
    """The objects to find: ``nuclei`` or ``cells``."""

    microns: float = 0.5
    """The pixel size of the image in micrometres."""

    PACKAGE: ClassVar[str] = "instanseg"
    INSTALL: ClassVar[str] = "pip install instanseg-torch"

    def _load(self, package: Any) -> Any:
        return package.InstanSeg(
            self.model, device="cpu" if self.device == "cpu" else None, verbosity=0
        )

    def _refuse(self, path: Path) -> None:
        if path.exists():
            raise JobError(
                f"model: {path} is TorchScript, which can run code when it is read, so it is "
                f"refused; allowed: the name of a model of "
                f"InstanSeg's. {UNSAFE}"
            )

    def _labels(self, network: Any, scaled: npt.NDArray[np.float32]) -> Any:
        import torch

        options = {
            "pixel_size": self.microns,
            "normalise": False,
            "return_image_tensor": False,
            "target": self.target,
        }
        return np.asarray(network.eval_small_image(torch.from_numpy(scaled), **options)).reshape(
            scaled.shape[1:]
        )


@functools.lru_cache(maxsize=16)
def _looked_at(path: Path, _written: int) -> None:
    """Raise JobError unless a file is a pickle of tensors only."""
    try:
        archives.tensors(path, f"model: {path.name}")
    except JobError as error:
        raise JobError(f"{error}. {UNSAFE}") from error


@functools.cache
def _resident(kind: type[Adapter], model: str, device: str) -> Any:
    """Load a package's network once per process; JobError says how to install a missing package."""
    try:
        package = importlib.import_module(kind.PACKAGE)
    except ImportError as error:
        raise JobError(
            f"{kind.__name__.lower()} needs a package that is not installed ({error.name}); "
            f"install it with: {kind.INSTALL}"
        ) from error
    return kind(model=model, device=device)._load(package)  # noqa: SLF001  it is this class's own
