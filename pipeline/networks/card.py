"""Bundles: a network's weights and a card that describes them.

A bundle is a folder with ``card.yaml`` and the file of weights that it names, or one
``.safetensors`` file with the card in its metadata. Where STAC's machine learning model extension
has a field, the card's field has the same meaning: ``name``, ``architecture``, ``bands``,
``value_scaling``, ``classes``, ``pixel_size`` and others are on one flat page here, because people
write it by hand.

References
----------
.. [1] The STAC machine learning model extension (MLM) 1.4, https://github.com/stac-extensions/mlm.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.config import yaml_files
from pipeline.config.extras import require
from pipeline.errors import JobError, nearest
from pipeline.imageops.histograms import Histogram

CARD = "card.yaml"
SAFE = ".safetensors"
SCALINGS: dict[str, tuple[str, ...]] = {
    "none": (),
    "z-score": ("mean", "stddev"),
    "min-max": ("minimum", "maximum"),
    "percentiles": ("low", "high"),
}
"""The numbers of each type of ``value_scaling``: one for each band, or one for all."""
LONGEST = 1 << 20
"""Characters of the longest card that is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """The description of a network."""

    name: str
    """Name of the network."""

    kind: str
    """The kind of segmenter that runs it: unet, fcn, maskrcnn, torchscript, pt2, onnx."""

    bands: tuple[str, ...]
    """Names of the bands that it takes, in this order."""

    classes: tuple[str, ...]
    """Names of its classes, from number 1; for a decoder to instances, of its objects."""

    architecture: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Options of the library's constructor."""

    decoder: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"kind": "semantic"})
    """How its channels become labels: ``kind`` and options."""

    value_scaling: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"type": "none"})
    """Scaling of the values before the network. ``z-score``: (value - mean) / stddev. ``min-max``:
    minimum to 0 and maximum to 1. ``percentiles``: those of the whole image, band by band, to 0 and
    1.
    """

    data_type: str = "float32"
    """Type of the values that it was trained on; integers are converted to float32 unscaled."""

    value_range: tuple[float, float] | None = None
    """The least and the greatest value that it was trained for; others are refused. None: any."""

    pixel_size: float | None = None
    """The pixel size that it was trained at, in ``unit``; None: any."""

    unit: str = "metre"
    """The unit of ``pixel_size``."""

    window: int = 512
    """Width in pixels of its input, if it must see windows of one size."""

    stride: int = 1
    """Total stride in pixels: windows begin at its multiples."""

    reach: int | None = None
    """Measured receptive field, in pixels to each side; None: unbounded (a norm over the window, a
    pooled value, attention), so that nothing can be proved.
    """

    colours: tuple[str, ...] = ()
    """Colours of the classes as #rrggbb; None: they are chosen."""

    weights: str = "weights.safetensors"
    """The file of weights beside the card."""

    sha256: str | None = None
    """Checksum of that file."""

    license: str = ""
    """License of the weights."""

    training: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What it was trained on, and how."""

    metrics: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Its quality, and on which data."""

    def __post_init__(self) -> None:
        for name in ("bands", "classes", "colours"):
            object.__setattr__(self, name, tuple(map(str, getattr(self, name))))
        if self.value_range is not None:
            object.__setattr__(self, "value_range", tuple(map(float, self.value_range)))
        if not self.bands:
            raise JobError(
                "bands: none; allowed: the names of the bands that the network takes, in its order"
            )
        if not self.classes:
            raise JobError("classes: none; allowed: at least one name, that of class 1 first")
        if self.colours and len(self.colours) != len(self.classes):
            raise JobError(
                f"colours: {len(self.colours)} for {len(self.classes)} classes; allowed: one for "
                f"each, or none"
            )
        _refuse_scaling(self.value_scaling, len(self.bands))
        for name, least in (("window", 1), ("stride", 1), ("reach", 0)):
            number = getattr(self, name)
            if number is not None and not (isinstance(number, int) and number >= least):
                raise JobError(
                    f"{name}: {number!r}; allowed: a whole number of pixels, from {least}"
                )

    def numbers(self, asked: Sequence[int | str] | None, names: Sequence[str]) -> tuple[int, ...]:
        """Map an image's bands to the network's order.

        Parameters
        ----------
        asked : sequence of int or str, or None
            Bands by number from 1 or by name; None: those with the card's names, else all if as
            many.
        names : sequence of str
            Names of the image's bands.

        Returns
        -------
        tuple of int
            Band numbers from 1, in the network's order.

        Raises
        ------
        JobError
            The image lacks a band, or their number is wrong.
        """
        wanted = asked or (
            self.bands if set(self.bands) <= set(names) else range(1, len(names) + 1)
        )
        if not asked and len(wanted) != len(self.bands):
            missing = next((band for band in self.bands if band not in names), self.bands[0])
            raise JobError(
                f"bands: the network takes {', '.join(self.bands)}, and the image has "
                f"{', '.join(names)}; "
                f"say which is {missing!r}: bands: [...], by number from 1 or by name"
            )
        self.refuse_number(wanted)
        for band in wanted:
            if band not in names if isinstance(band, str) else not 1 <= band <= len(names):
                raise JobError(
                    f"bands: the image has no band {band!r}; {nearest(str(band), names)}, or "
                    f"numbers from 1 to {len(names)}"
                )
        return tuple(
            list(names).index(band) + 1 if isinstance(band, str) else int(band) for band in wanted
        )

    def refuse_number(self, asked: Sequence[Any]) -> None:
        """Raise JobError unless there are as many bands as the network takes."""
        if len(asked) != len(self.bands):
            raise JobError(
                f"bands: {len(asked)} bands; the network takes {len(self.bands)}: "
                f"{', '.join(self.bands)}"
            )

    def spans(self, histograms: Sequence[Histogram]) -> tuple[tuple[float, float], ...]:
        """By band, the values that become 0 and 1, if the card wants the image's percentiles."""
        low, high = (
            np.broadcast_to(self.value_scaling[name], len(histograms)).tolist()
            for name in SCALINGS["percentiles"]
        )
        return tuple(h.span(a, b) for h, a, b in zip(histograms, low, high, strict=True))

    def scaled(
        self,
        values: npt.NDArray[Any],
        good: npt.NDArray[np.bool_],
        scale: Sequence[tuple[float, float]] | None,
    ) -> npt.NDArray[np.float32]:
        """Scale the bands of a window for the network.

        Parameters
        ----------
        values : ndarray, (band, row, column)
            The bands, in the network's order.
        good : bool ndarray, (row, column)
            The pixels to use; the others become 0.
        scale : sequence of (float, float), or None
            By band, the values that become 0 and 1, if the card wants the image's percentiles.

        Returns
        -------
        float32 ndarray, (band, row, column)
            The scaled values.
        """
        how = self.value_scaling
        numbers = [np.zeros(1), np.ones(1)]
        if scale is not None:
            numbers = [np.array([pair[k] for pair in scale]) for k in (0, 1)]
        elif how["type"] != "none":
            numbers = [
                np.atleast_1d(np.array(how[name], np.float64)) for name in SCALINGS[how["type"]]
            ]
        shift = numbers[0]
        by = numbers[1] if how["type"] == "z-score" else numbers[1] - numbers[0]
        column = (slice(None), None, None)
        scaled = ((values - shift[column]) / by[column]).astype(np.float32)
        return scaled if good.all() else np.where(good, scaled, np.float32(0))

    def plain(self) -> dict[str, Any]:
        """The card as YAML and JSON hold it, without defaults."""
        blank = Card(name="", kind="", bands=("-",), classes=("-",))
        every = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        plain = {name: value for name, value in every.items() if value != getattr(blank, name)}
        return dict(json.loads(json.dumps(plain, default=dict)))


def _refuse_scaling(scaling: Mapping[str, Any], bands: int) -> None:
    """Raise JobError unless the scaling is complete for every band."""
    kind = str(scaling.get("type"))
    if kind not in SCALINGS:
        raise JobError(f"value_scaling.type: {kind!r}; {nearest(kind, SCALINGS)}")
    for name in SCALINGS[kind]:
        numbers = scaling.get(name)
        count = len(numbers) if isinstance(numbers, list | tuple) else 1
        if numbers is None or count not in (1, bands):
            raise JobError(
                f"value_scaling.{name}: {numbers!r}; allowed: one number, or one for each of "
                f"{bands} bands"
            )


@dataclass(frozen=True, slots=True)
class Bundle:
    """A card and its file of weights."""

    card: Card
    path: Path
    """The file of weights."""

    def checksum(self) -> str:
        """SHA-256 of the file of weights."""
        return _checksum(self.path, _stamp(self.path))


def read(path: str) -> Bundle:
    """Read the bundle in a folder or a safetensors file; JobError names the file and the key."""
    place = Path(path)
    folder = place.is_dir()
    if folder:
        _refuse_link(place, CARD)
    bundle = _read(path, _stamp(place / CARD if folder else place))
    if folder:
        _refuse_link(place, str(bundle.path.relative_to(place)))
    return bundle


def _stamp(path: Path) -> tuple[int, int, int]:
    """Changes when a file is rewritten; the key of what was read from it."""
    try:
        about = path.stat()
    except OSError:
        return 0, 0, 0
    return about.st_ino, about.st_mtime_ns, about.st_size


@functools.lru_cache(maxsize=64)
def _checksum(path: Path, _stamp: tuple[int, int, int]) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.lru_cache(maxsize=64)
def _read(path: str, _stamp: tuple[int, int, int]) -> Bundle:
    place = Path(path)
    if place.is_dir():
        where = place / CARD
        if not where.is_file():
            raise JobError(
                f"weights: {path} is a folder without {CARD}; allowed: a bundle, as `tilewise "
                f"train` leaves one"
            )
        with where.open(encoding="utf-8", errors="replace") as file:
            card = parse(file.read(LONGEST + 1), str(where))
        return Bundle(card, _within(place, card.weights))
    if place.suffix == SAFE and place.is_file():
        text = metadata(place).get("card")
        if text is None:
            raise JobError(
                f"weights: {path} has no card in its metadata; allowed: a bundle, or a folder "
                f"with {CARD} beside the weights"
            )
        return Bundle(parse(text, path), place)
    what = (
        "there is no such file"
        if not place.exists()
        else "a bare file of weights says nothing of bands, classes and scaling"
    )
    raise JobError(
        f"weights: {path}: {what}; allowed: a bundle, which is a folder with {CARD} or a {SAFE} "
        f"file that holds its card"
    )


def parse(text: str, where: str) -> Card:
    """Parse a card from YAML; JobError names its place, ``where``, and the key."""
    found = yaml_files.parse(text, where) if len(text) <= LONGEST else None
    if not isinstance(found, Mapping):
        raise JobError(
            f"{where}: this is no card; allowed: a mapping of keys such as name, kind, bands and "
            f"classes"
        )
    names = [field.name for field in dataclasses.fields(Card)]
    for key in found:
        if key not in names:
            raise JobError(f"{where}: {key}: there is no such key; {nearest(str(key), names)}")
    for key in ("name", "kind", "bands", "classes"):
        if not found.get(key):
            raise JobError(f"{where}: {key} is missing; a card says name, kind, bands and classes")
    try:
        return Card(**found)
    except (JobError, TypeError, ValueError) as error:
        raise JobError(f"{where}: {error}") from error


def metadata(path: Path) -> dict[str, str]:
    """Read the metadata of a safetensors file; JobError if it is something else."""
    require("safetensors", path.name)
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), "np") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise JobError(
            f"weights: {path} is no safetensors file ({error}); a pickle under this name is refused"
        ) from error


def _within(folder: Path, name: str) -> Path:
    """The path of a folder's file of weights, which must not lead out of the folder."""
    path = folder / name
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise JobError(
            f"{folder / CARD}: weights: {name!r} leads out of the bundle; allowed: a file beside "
            f"the card"
        )
    if not path.is_file():
        raise JobError(f"{folder / CARD}: weights: there is no {name} beside the card")
    return path


def _refuse_link(folder: Path, name: str) -> None:
    """Raise JobError if a file of a folder is, or lies in, a link to elsewhere."""
    if not (folder / name).resolve().is_relative_to(folder.resolve()):
        raise JobError(
            f"{folder}: {name} is a link that leads out of the bundle; allowed: files in it; "
            f"copy what it leads to (cp -L)"
        )
