"""Networks as segmenters.

A bundle says what the network is, and a decoder makes labels of what the network gives. A window
is predicted once, by `predict`; the pipeline then asks ``decoder`` for its classes, its support
and its labels as it would ask any segmenter. The network itself stays on its worker; what travels
is the path of its bundle and the checksum of its weights.

If the answer at a pixel depends on at most ``reach`` pixels around it, the result is exact to the
precision of floats: the same network on a window of another size adds in another order, and where
two classes are equally likely to the sixth digit, another may win.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from pipeline.errors import JobError, SegmenterError, nearest
from pipeline.image.frame import Frame, valid_or_all
from pipeline.image.pixel_area import in_unit
from pipeline.imageops.histograms import Histogram
from pipeline.networks import card as cards
from pipeline.networks.architectures import channels, refuse
from pipeline.networks.card import Bundle, Card
from pipeline.networks.loaded import PIXELS, PRECISIONS, Resident, Way, available, resident
from pipeline.networks.patches import Patches, cut
from pipeline.networks.resampling import Zoom
from pipeline.networks.shipped import PACKAGES, packaged
from pipeline.segmenters import Footprint, Identity, Origin, draw, fitted_to, label
from pipeline.segmenters.decoders.affinities import Decoder, Panoptic, decoder_of

Pixels = npt.NDArray[Any]
Flags = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]
SLACK = 0.02
"""Relative tolerance between the image's pixel size and the card's."""
DECODING = 8.0
"""Bytes that a decoder takes for each pixel of a window, besides its channels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A network from a bundle; see the kinds for which."""

    weights: str
    """The bundle: a folder with ``card.yaml``, a safetensors file that holds its card, or the name
    of one that comes with a package, such as ``ukis-csmask/6b-l1c``.
    """

    sha256: str | None = None
    """The SHA-256 checksum that the weights must have, in hexadecimal digits; None: it is not
    checked.
    """

    bands: tuple[int | str, ...] | None = None
    """The image's bands in the network's order, by number from 1 or by name, as many as the network
    takes. None: those with the names in the card, else all if there are as many.
    """

    decoder_options: Mapping[str, Any] | None = None
    """Options of the decoder, by name; they take the place of those in the card."""

    window: int | None = None
    """The width of a patch in pixels, from 1: rows and columns that the network is given at once.
    None: the card's width, and at least four times the reach.
    """

    margin: int | None = None
    """Pixels, 0 or more, that are read around the kept part of each patch. None: the reach. With
    less, patches are blended and nothing is proved.
    """

    pixel_size: Literal["same", "resample", "any"] = "same"
    """What happens to an image with another pixel size than the card's (more than 2 % off).
    ``same``: it is refused. ``resample``: the network sees it at the card's pixel size. ``any``: it
    is taken as it is.
    """

    device: str = "auto"
    """``auto``, ``cpu``, ``gpu``, ``cuda:0``, ``mps``. ``gpu`` and ``cuda``: only on workers that
    offer the resource GPU.
    """

    precision: str = "float32"
    """The type of float in which the network multiplies: ``float32``, ``bfloat16`` or ``float16``.
    The last two are faster on a GPU; results then differ from those of float32.
    """

    compiled: bool = False
    """Whether `torch.compile` makes the network faster; it takes a minute on each worker first."""

    flips: bool = False
    """Whether answers are the mean of those for a patch and its three mirror images."""

    unsafe: bool = False
    """Whether weights may be read that can run code: pickles, TorchScript."""

    min_area: int = 0
    """Objects of fewer pixels are removed."""

    scale: tuple[tuple[float, float], ...] | None = None
    """By band, the values that become 0 and 1, in units of the image, where the card wants the
    image's percentiles; None: they are found.
    """

    zoom: float = 1.0
    """Pixels of the image for each pixel of the network, above 0; it is found from the image where
    that is resampled.
    """

    of_bands: ClassVar[tuple[str, ...]] = ("bands",)
    KIND: ClassVar[str] = ""
    PASSING: ClassVar[float] = 1000.0
    """Bytes for a pixel on its way through the network: about what a U-Net on a small encoder takes
    on a processor.
    """

    def __post_init__(self) -> None:
        bundle = self._bundle
        if bundle.card.kind != self.KIND:
            raise JobError(
                f"weights: {self.weights} is a bundle of kind {bundle.card.kind!r}; allowed: "
                f"kind: {bundle.card.kind}"
            )
        refuse(bundle, unsafe=self.unsafe)
        found = bundle.checksum()
        for stated, where in ((self.sha256, "sha256"), (bundle.card.sha256, "the card's sha256")):
            if stated is not None and stated != found:
                raise JobError(
                    f"{where}: {stated}; the weights in {bundle.path.name} have {found}, so they "
                    f"are others"
                )
        object.__setattr__(self, "sha256", found)
        if self.bands is not None:
            bundle.card.refuse_number(self.bands)
        if self.precision not in PRECISIONS:
            raise JobError(f"precision: {self.precision!r}; {nearest(self.precision, PRECISIONS)}")
        if self.device.split(":")[0] not in ("auto", "cpu", "gpu", "cuda", "mps"):
            raise JobError(f"device: {self.device!r}; allowed: auto, cpu, gpu, cuda, cuda:N, mps")
        for name, least in (("window", 1), ("margin", 0)):
            number = getattr(self, name)
            if number is not None and number < least:
                raise JobError(f"{name}: {number!r}; allowed: a number of pixels, from {least}")
        self.patches  # noqa: B018  refuses what cannot be
        self.decoder  # noqa: B018

    @property
    def card(self) -> Card:
        """What the bundle says of the network.

        Returns
        -------
        Card
            Its bands, classes, scaling, pixel size, reach and more.
        """
        return self._bundle.card

    @property
    def decoder(self) -> Decoder:
        """What makes labels of the network's channels."""
        made = decoder_of({**self.card.decoder, **(self.decoder_options or {})})
        if isinstance(made, Panoptic) and max(made.things) > len(self.card.classes):
            raise JobError(
                f"decoder.things: {made.things}; the network's classes are 1 to "
                f"{len(self.card.classes)}"
            )
        return made

    @property
    def patches(self) -> Patches:
        """How a window is cut for the network.

        Returns
        -------
        Patches
            The extent and the overlap of patches in pixels, and whether they are blended.
        """
        return cut(self.card, self.window, self.margin)

    @property
    def proved(self) -> bool:
        """Whether objects can be ``proved``.

        Returns
        -------
        bool
            False where patches are blended; certificates are then ``agreed`` at best.
        """
        return not self.patches.blended

    @property
    def identity(self) -> Identity:
        """What makes pixels one object: the decoder's identity.

        Returns
        -------
        str
            ``connected``, ``object`` or ``keyed``.
        """
        return self.decoder.identity

    @property
    def things(self) -> tuple[int, ...] | None:
        """The classes that are things, for a decoder that draws things and stuff.

        Returns
        -------
        tuple of int or None
            Classes from 1; None for any other decoder.
        """
        return self.decoder.things if isinstance(self.decoder, Panoptic) else None

    @property
    def result(self) -> str:
        """What is wanted of the network where the job does not say.

        Returns
        -------
        str
            ``semantic`` where the decoder gives classes, ``instance`` where it gives objects.
        """
        return "semantic" if self.decoder.identity == "connected" else "instance"

    @property
    def reach(self) -> int:
        """How far the network and its decoder look, in pixels."""
        halo = self.patches.halo if self.zoom == 1 else Zoom(self.zoom).reach(self.patches.halo)
        return halo + self.decoder.reach

    @property
    def footprint(self) -> Footprint:
        """A batch of patches on its way through the network, its channels, and what the decoder
        takes.
        """
        extent = self.patches.extent
        return Footprint(
            pixel=DECODING + 8 * channels(self.card),
            band=4.0,
            passing=self.PASSING,
            batch=max(PIXELS, extent * extent),
        )

    @property
    def legend(self) -> dict[int, Any]:
        """The names of the classes, and their colours where the card gives them.

        Returns
        -------
        dict
            By class, from 1: a mapping with ``name``, and ``colour`` if there is one.
        """
        colours = self.card.colours or (None,) * len(self.card.classes)
        entries = [
            {"name": name} | ({"colour": colour} if colour else {})
            for name, colour in zip(self.card.classes, colours, strict=True)
        ]
        return dict(enumerate(entries, start=1))

    @property
    def unfitted(self) -> bool:
        """Whether the image's percentiles are still to be found."""
        return self.card.value_scaling["type"] == "percentiles" and self.scale is None

    def suited(self, frame: Frame) -> Network:
        """Fit the network to an image: find its bands by number and its zoom.

        Parameters
        ----------
        frame
            The image as the steps leave it.

        Returns
        -------
        Network
            The same network with ``bands`` and ``zoom`` set.

        Raises
        ------
        JobError
            If the bands, the dtype or the pixel size of the image do not suit the network.
        """
        card = self.card
        numbers = card.numbers(self.bands, frame.bands)
        trained = np.dtype(card.data_type)
        given = np.dtype(frame.dtype)
        scaled = card.value_scaling["type"] == "percentiles"
        unsigned = trained.kind == given.kind == "u"
        if unsigned and not scaled and trained.itemsize < given.itemsize:
            raise JobError(
                f"the network was trained on {card.data_type}, and the image is {frame.dtype}; "
                f"allowed: steps that scale it"
            )
        return replace(self, bands=numbers, zoom=self._zoom_of(frame))

    bandwise: ClassVar[bool] = True

    def reads(self, number: int) -> tuple[int, ...]:
        """Tell which bands the network takes.

        Parameters
        ----------
        number
            How many bands the image has.

        Returns
        -------
        tuple of int
            Indices of bands, from 0, in the network's order.
        """
        return (
            tuple(range(number))
            if self.bands is None
            else tuple(int(band) - 1 for band in self.bands)
        )

    def feature(self, block: Pixels) -> Pixels:
        """Take the bands that the network sees, in its order.

        Parameters
        ----------
        block
            Pixels, (band, row, column).

        Returns
        -------
        ndarray
            (band, row, column), of the same dtype, not scaled.

        Raises
        ------
        JobError
            If the number of bands is not the network's.
        """
        if self.bands is None and len(block) != len(self.card.bands):
            raise JobError(
                f"bands: the image has {len(block)}, and the network takes "
                f"{len(self.card.bands)}: {', '.join(self.card.bands)}"
            )
        return block if self.bands is None else block[[int(number) - 1 for number in self.bands]]

    def fit(self, histograms: list[Histogram]) -> Network:
        """Set the percentiles of the image's bands.

        Parameters
        ----------
        histograms
            One for each band that the network takes, over the whole image.

        Returns
        -------
        Network
            The same network with ``scale`` set.
        """
        return replace(self, scale=self.card.spans(histograms))

    def predict(self, block: Pixels, valid: Flags, origin: Origin = None) -> Floats:
        """Run the network on a window, in patches.

        Parameters
        ----------
        block
            Pixels of the window, (band, row, column), after all steps.
        valid
            Bool, (row, column): where they were measured.
        origin
            The (row, column) of the window's first pixel in the image; None: (0, 0).

        Returns
        -------
        ndarray
            Float32, (channel, row, column).

        Raises
        ------
        SegmenterError
            If values are not of the range that it was trained for, or the answer is not finite.
        JobError
            If a band, a package, or what can read the weights is missing.
        """
        given = self._given(block, valid)
        start = origin or (0, 0)
        network = self.resident
        extent = min(self.patches.extent, max(valid.shape))
        batch = network.size(extent, extent)
        if self.zoom == 1:
            return self.patches.run(given, start, network, batch)
        zoom = Zoom(self.zoom)
        corner = zoom.cover(start, valid.shape)[0]
        answer = self.patches.run(zoom.shrink(given, start), corner, network, batch)
        return zoom.grow(answer, start, valid.shape)

    def __call__(
        self, block: Pixels, valid: Flags | None = None, origin: Origin = None
    ) -> npt.NDArray[np.int32]:
        """Label one block as if it were the whole image.

        Parameters
        ----------
        block
            Pixels, (band, row, column).
        valid
            Bool, (row, column): where they were measured; None: everywhere.
        origin
            The (row, column) of the block's first pixel in the image; None: (0, 0).

        Returns
        -------
        ndarray
            Int32, (row, column): labels, 0 for background.

        Raises
        ------
        SegmenterError
            If values are not of the range that the network was trained for.
        JobError
            If a band, a package, or what can read the weights is missing.
        """
        block = np.asarray(block)
        valid = valid_or_all(valid, block)
        channels = fitted_to(self, block, valid).predict(block, valid, origin)
        return (
            label(self.decoder, channels, valid)
            if self.identity == "connected"
            else draw(self.decoder, channels, valid, origin)
        )

    @property
    def resident(self) -> Resident:  # numpydoc ignore=RT01
        """The network, loaded in this process."""
        way = Way(available(self.device), self.precision, self.compiled, self.flips, self.unsafe)
        return resident(self._bundle, str(self.sha256), way)

    @property
    def moved(self) -> bool:  # numpydoc ignore=RT01
        """Whether another device computes in this process than was asked for."""
        return self.resident.moved

    @property
    def told(self) -> list[str]:
        """What was done otherwise than asked in this process.

        Returns
        -------
        list of str
            A sentence each, for example where memory did not suffice.
        """
        return self.resident.told

    @property
    def _bundle(self) -> Bundle:
        named = self.weights.split("/")[0] in PACKAGES
        return packaged(self.weights) if named else cards.read(self.weights)

    def _zoom_of(self, frame: Frame) -> float:
        """Pixels of an image to one of the network's; JobError where they differ and nobody said
        what to do.
        """
        card = self.card
        given = frame.pixel_size[-1] if frame.unit not in ("pixel", "unknown") else None
        if self.pixel_size == "any" or not card.pixel_size or not given:
            return 1.0
        size = in_unit(given, frame.unit, card.unit)
        if size and abs(size - card.pixel_size) <= SLACK * card.pixel_size:
            return 1.0
        if self.pixel_size == "same" or not size:
            raise JobError(
                f"the network was trained on pixels of {card.pixel_size:g} {card.unit}, and the "
                f"image's are {given:g} {frame.unit}; "
                "let it be resampled (pixel_size: resample, where both are lengths), or take it "
                "as it is (pixel_size: any)"
            )
        return card.pixel_size / size

    def _given(self, block: Pixels, valid: Flags) -> Floats:
        """What the network is given of a window: float32, 0 where nothing was measured."""
        if valid.ndim != len(("row", "column")):
            raise JobError(
                "a network for images of two dimensions, in a volume; allowed: images of rows "
                "and columns"
            )
        card = self.card
        values = self.feature(block)
        good = valid & np.isfinite(values).all(axis=0) if values.dtype.kind == "f" else valid
        if card.value_range is not None and good.any():
            low = float(values[:, good].min())
            high = float(values[:, good].max())
            if low < card.value_range[0] or high > card.value_range[1]:
                raise SegmenterError(
                    f"the network was trained on values from {card.value_range[0]:g} to "
                    f"{card.value_range[1]:g}, and these are "
                    f"{low:g} to {high:g}; scale the image, by steps in the job"
                )
        return card.scaled(values, good, self.scale)
