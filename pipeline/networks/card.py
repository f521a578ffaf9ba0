"""Bundles: a network's weights and a card that says what they are.

A bundle is a folder with ``card.yaml`` and the file of weights that it names, or one
``.safetensors`` file whose metadata hold the card. Where the machine-learning-model extension of
STAC has a field, the card's is of the same meaning: ``name``, ``architecture``, ``bands``,
``value_scaling``, ``classes``, ``pixel_size`` and the rest are gathered here in one flat page,
since people write it by hand.

References
----------
The STAC machine learning model extension (MLM) 1.4, https://github.com/stac-extensions/mlm.
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
"""By type of ``value_scaling``, its numbers: one for each band, or one for all."""
LONGEST = 1 << 20
"""Characters of a card; a longer file is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What is known of a network."""

    name: str
    """What it is called."""

    kind: str
    """The kind of segmenter that runs it: unet, fcn, maskrcnn, torchscript, pt2, onnx."""

    bands: tuple[str, ...]
    """The bands that it takes, in this order."""

    classes: tuple[str, ...]
    """What its classes are called, that of number 1 first; of a decoder to instances, what an
    object is.
    """

    architecture: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """How it is built: options of the library's constructor."""

    decoder: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"kind": "semantic"})
    """How its channels become labels: ``kind`` and options."""

    value_scaling: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"type": "none"})
    """What is done to values first. ``z-score``: (value - mean) / stddev. ``min-max``: minimum to 0
    and maximum to 1. ``percentiles``: those of the whole image, found band by band, to 0 and 1.
    """

    data_type: str = "float32"
    """The type of the values that it was trained on; integers are converted to float32 as they are.
    """

    value_range: tuple[float, float] | None = None
    """The least and the largest value that it was trained for; others are refused. None: any."""

    pixel_size: float | None = None
    """The extent of a pixel that it was trained at, in ``unit``; None: it does not matter."""

    unit: str = "metre"
    """Of ``pixel_size``."""

    window: int = 512
    """The extent in pixels of what it is run on at once, where it must see a window of one size."""

    stride: int = 1
    """Its total stride: windows begin at multiples of it."""

    reach: int | None = None
    """How many pixels away it looks, as measured; None: it looks at the whole window (a norm over
    it, a pooled value, attention), so that nothing can be proved.
    """

    colours: tuple[str, ...] = ()
    """Of the classes, as #rrggbb; of none, they are chosen."""

    weights: str = "weights.safetensors"
    """The file of weights beside the card."""

    sha256: str | None = None
    """The checksum of that file."""

    license: str = ""
    """Under which terms it may be used."""

    training: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What it was trained on, and how."""

    metrics: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """How good it is, and on what."""

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
        """An image's bands in the network's order, by number from 1.

        ``asked`` are numbers or names; None: the bands of the card's names, else all if they are as
        many. JobError where the image, whose bands have these ``names``, has none such.
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
        """JobError unless there are as many as the network takes."""
        if len(asked) != len(self.bands):
            raise JobError(
                f"bands: {len(asked)} bands; the network takes {len(self.bands)}: "
                f"{', '.join(self.bands)}"
            )

    def spans(self, histograms: Sequence[Histogram]) -> tuple[tuple[float, float], ...]:
        """By band, the values that become 0 and 1, where the card wants the image's percentiles."""
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
        """What the network is given of its bands, (band, row, column): 0 where a pixel is not good.

        ``scale`` are, by band, the values that become 0 and 1, where the card wants the image's
        percentiles.
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
        """The card as YAML and JSON hold it, without what is as it is by default."""
        blank = Card(name="", kind="", bands=("-",), classes=("-",))
        every = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        plain = {name: value for name, value in every.items() if value != getattr(blank, name)}
        return dict(json.loads(json.dumps(plain, default=dict)))


def _refuse_scaling(scaling: Mapping[str, Any], bands: int) -> None:
    """JobError where what is done to values is not said, or not for each band."""
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
    """A card, and where its weights lie."""

    card: Card
    path: Path
    """The file of weights."""

    def checksum(self) -> str:
        """SHA-256 of the file of weights."""
        return _checksum(self.path, _stamp(self.path))


def read(path: str) -> Bundle:
    """The bundle in a folder or a safetensors file; JobError, naming the file and the key, where
    there is none or it does not hold.
    """
    place = Path(path)
    folder = place.is_dir()
    if folder:
        _refuse_link(place, CARD)
    bundle = _read(path, _stamp(place / CARD if folder else place))
    if folder:
        _refuse_link(place, str(bundle.path.relative_to(place)))
    return bundle


def _stamp(path: Path) -> tuple[int, int, int]:
    """What changes when a file is written anew; what was read of one before is kept by it."""
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
    """A card from YAML; JobError, naming ``where`` it stands and the key, if it is none."""
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
    """What a safetensors file says of itself; JobError if it is none."""
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
    """The file of weights of a folder, which must not lead out of it."""
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
    """JobError where a file of a folder is a link to what lies elsewhere, or lies in a folder that
    is.
    """
    if not (folder / name).resolve().is_relative_to(folder.resolve()):
        raise JobError(
            f"{folder}: {name} is a link that leads out of the bundle; allowed: files in it; "
            f"copy what it leads to (cp -L)"
        )
