"""A training recipe: a network's card with a section ``train``, as YAML."""

from __future__ import annotations

import dataclasses
import fnmatch
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pipeline.config import yaml_files
from pipeline.errors import JobError, nearest
from pipeline.networks import card as cards
from pipeline.networks.architectures import channels
from pipeline.networks.card import Card
from pipeline.networks.loaded import PRECISIONS
from pipeline.segmenters.decoders.affinities import Decoder, Panoptic, decoder_of
from pipeline.segmenters.decoders.detections import ByKey
from pipeline.training.augmentation import Augment

TRAINABLE = ("unet", "fcn", "maskrcnn")
"""Kinds that are built here, not loaded as exported."""
DATA = ("image", "truth", "bands", "missing", "attribute", "crs")
"""Keys of an entry of ``data``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Train:
    """The section ``train``."""

    data: tuple[Mapping[str, Any], ...]
    """Pairs of images and truth. ``image`` and ``truth`` are paths, or patterns where ``*`` stands
    for the same in both. ``bands``: the image's bands in the network's order, by number from 1 or
    by name. ``missing``: numbers of the truth that mean unknown. ``attribute``: the attribute of a
    vector file with classes, by number or by the card's names. ``crs``: for a vector file that does
    not state it: ``pixels``, ``image`` or a CRS. For the decoder ``panoptic``, the truth is COCO's
    panoptic JSON or the folder of a result, and ``missing`` are classes.
    """

    folder: str = ""
    """Base of the paths in ``data``; by default, and if relative, from the card's folder."""

    bands: tuple[int | str, ...] | None = None
    """Bands of images that do not state theirs; None: those with the card's names, else all if as
    many.
    """

    held_out: float | tuple[str, ...] = 0.2
    """Images to evaluate on, not to train on: patterns of file names, or a fraction of all images,
    chosen by their names and the seed.
    """

    steps: int = 2000
    """Number of batches to train on."""

    minutes: float | None = None
    """Time limit; with it, two runs may give different weights."""

    batch: int = 8
    """Crops in a batch."""

    crop: int = 192
    """Rows and columns of a crop, a multiple of the network's stride."""

    learning_rate: float = 0.003
    """The highest learning rate; it rises over the first steps, then falls to 0."""

    decay: float = 0.01
    """Weight decay (AdamW)."""

    every: int = 200
    """Steps between evaluations on held-out images."""

    patience: int | None = None
    """Training ends after this many evaluations without improvement; None: it runs to the end."""

    seed: int = 0
    """Seed of the first weights, the crops and their variations."""

    augment: Augment = field(default_factory=Augment)
    """Variations of crops."""

    precision: str = "float32"
    """``float32``; ``bfloat16`` and ``float16`` multiply by autocast."""

    device: str = "auto"
    """``auto``, ``cpu``, ``gpu``, ``cuda:0``, ``mps``."""

    half: bool = True
    """Whether to write the weights with 16 bits; the measures are then of these."""

    def __post_init__(self) -> None:
        for name, least in (
            ("steps", 1),
            ("batch", 1),
            ("crop", 1),
            ("every", 1),
            ("seed", 0),
            ("patience", 1),
        ):
            number = getattr(self, name)
            if not (
                isinstance(number, int) and not isinstance(number, bool) and number >= least
            ) and not (name == "patience" and not number):
                raise JobError(f"{name}: {number!r}; allowed: a whole number, from {least}")
        for name in ("learning_rate", "decay", "minutes"):
            number = getattr(self, name)
            if number is not None and not (isinstance(number, int | float) and number >= 0):
                raise JobError(
                    f"{name}: {number!r}; allowed: a number, from 0"
                    + ("; YAML wants 1.0e-3" if isinstance(number, str) else "")
                )
        if self.minutes == 0:
            raise JobError("minutes: 0; allowed: a number above 0, or none")
        if self.precision not in PRECISIONS:
            raise JobError(
                f"precision: {self.precision!r}; {nearest(str(self.precision), PRECISIONS)}"
            )
        if isinstance(self.held_out, float) and not 0 < self.held_out < 1:
            raise JobError(
                f"held_out: {self.held_out!r}; allowed: a share above 0 and below 1, or a list "
                f"of names"
            )


@dataclass(frozen=True, slots=True)
class Recipe:
    """A card and the options of its training."""

    card: Card
    train: Train
    folder: Path
    """Base of relative paths."""

    @property
    def decoder(self) -> Decoder | ByKey:
        """The network's decoder; JobError for a wrong option."""
        if self.card.kind == "maskrcnn":
            return ByKey()
        return decoder_of(self.card.decoder)

    @property
    def file(self) -> str:
        """Name of the bundle."""
        return re.sub(r"[^\w.-]+", "_", self.card.name) + cards.SAFE

    def fingerprint(self) -> str:
        """Changes with everything that changes the weights; not with the location of data or the
        device.
        """
        train = {
            key: value
            for key, value in dataclasses.asdict(self.train).items()
            if key not in ("folder", "device")
        }
        return hashlib.sha256(
            json.dumps([self.card.plain(), train], sort_keys=True, default=str).encode()
        ).hexdigest()

    def pairs(self) -> list[tuple[Path, Path, Mapping[str, Any]]]:
        """Images, their truths and their entries; JobError if there are none, or a truth is
        missing.
        """
        found = {
            image: (truth, entry)
            for entry in self.train.data
            for image, truth in _matched(self.folder, entry)
        }
        truths = {truth for truth, _ in found.values()}
        # a truth may match as well
        paired = [
            (image, truth, entry) for image, (truth, entry) in found.items() if image not in truths
        ]
        for image, truth, _ in paired:
            if not truth.exists():
                raise JobError(f"train.data: {image.name} has no truth: there is no {truth}")
        return paired

    def held(self, names: Sequence[str]) -> set[str]:
        """The file names that are held out; JobError if none is left to train on, or a pattern
        matches none.
        """
        if isinstance(self.train.held_out, float):
            number = max(1, round(self.train.held_out * len(names)))
            order = sorted(
                names,
                key=lambda name: hashlib.sha256(f"{self.train.seed}:{name}".encode()).digest(),
            )
            chosen = set(order[:number])
        else:
            chosen = {
                name
                for name in names
                if any(fnmatch.fnmatchcase(name, pattern) for pattern in self.train.held_out)
            }
            for pattern in self.train.held_out:
                if not fnmatch.filter(chosen, pattern):
                    raise JobError(
                        f"train.held_out: {pattern!r} is none of the images; "
                        f"{nearest(pattern, names)}"
                    )
        if len(chosen) == len(set(names)):
            raise JobError(
                f"train.held_out: all {len(chosen)} images; allowed: some, so that others are "
                f"left to train on"
            )
        return chosen


def from_yaml(path: Path, changes: Mapping[str, Any] | None = None) -> Recipe:
    """Read a card with a section ``train``.

    Parameters
    ----------
    path : Path
        The file.
    changes : mapping, optional
        Values that replace those of the file, by dotted key, such as ``{"train.steps": 500}``.

    Returns
    -------
    Recipe
        The recipe.

    Raises
    ------
    JobError
        The file is missing or not YAML, or a key is unknown or wrong; the message names it.
    """
    parts = yaml_files.read(path, "the card")
    if not isinstance(parts, dict):
        raise JobError(
            f"{path}: this is no card; allowed: a mapping of keys such as name, kind, bands, "
            f"classes and train"
        )
    if "segmenters" in parts:
        raise JobError(
            f"{path}: this is no card but a job file, which is run by: tilewise run {path}"
        )
    yaml_files.change(parts, changes or {})
    return read(parts, path.absolute().parent, str(path))


def read(parts: Mapping[str, Any], folder: Path, where: str = "card") -> Recipe:
    """Build a recipe from a mapping.

    Parameters
    ----------
    parts : mapping
        The card with its section ``train``.
    folder : Path
        Base of relative paths.
    where : str, optional
        Name of the mapping in messages.

    Returns
    -------
    Recipe
        The recipe.
    """
    fields = [one.name for one in dataclasses.fields(Card)]
    for key in parts:
        if key not in [*fields, "train"]:
            raise JobError(
                f"{where}: {key}: there is no such key; {nearest(str(key), [*fields, 'train'])}"
            )
    given = parts.get("train")
    if not isinstance(given, Mapping):
        raise JobError(
            f"{where}: train: {given!r}; allowed: a mapping with data (pairs of image and "
            f"truth), and how to train"
        )
    card = cards.parse(
        yaml.safe_dump({key: value for key, value in parts.items() if key != "train"}), where
    )
    if card.kind not in TRAINABLE:
        raise JobError(
            f"{where}: kind: {card.kind!r} cannot be trained here; {nearest(card.kind, TRAINABLE)}"
        )
    options = {
        key: tuple(value) if isinstance(value, list) else value for key, value in given.items()
    }
    if isinstance(options.get("held_out"), str):
        options["held_out"] = (options["held_out"],)
    options["augment"] = yaml_files.made(
        Augment, given.get("augment") or {}, f"{where}: train.augment"
    )
    options["data"] = _entries(given.get("data"), f"{where}: train.data")
    train = yaml_files.made(Train, options, f"{where}: train")
    if train.bands is not None:
        card.refuse_number(train.bands)
    recipe = Recipe(card, train, folder / Path(train.folder).expanduser())
    if isinstance(recipe.decoder, Panoptic) and max(recipe.decoder.things) > len(card.classes):
        raise JobError(
            f"{where}: decoder.things: {recipe.decoder.things}; the classes are 1 to "
            f"{len(card.classes)}"
        )
    if (
        isinstance(recipe.decoder, Panoptic)
        and len(recipe.decoder.things) == channels(card) - recipe.decoder.more
    ):
        raise JobError(
            f"{where}: decoder.things: {recipe.decoder.things}; allowed: not all that there is, "
            f"or decoder.kind: boundary"
        )
    return recipe


def _entries(given: Any, where: str) -> tuple[Mapping[str, Any], ...]:
    """The entries of a card, each with an image and a truth."""
    entries = [given] if isinstance(given, Mapping) else given
    if not isinstance(entries, list) or not entries:
        raise JobError(f"{where}: {given!r}; allowed: a list of {{image: …, truth: …}}")
    for number, entry in enumerate(entries):
        for key in entry if isinstance(entry, Mapping) else [str(entry)]:
            if key not in DATA:
                raise JobError(
                    f"{where}[{number}].{key}: there is no such key; {nearest(key, DATA)}"
                )
        for key in ("image", "truth"):
            if not isinstance(entry.get(key), str):
                raise JobError(
                    f"{where}[{number}].{key}: {entry.get(key)!r}; allowed: a path, or a pattern "
                    f"such as images/*.png"
                )
    return tuple(entries)


def _matched(folder: Path, entry: Mapping[str, Any]) -> list[tuple[Path, Path]]:
    """Images of an entry with their truths, found by putting the stars' matches in its pattern."""
    pattern, truth = (
        str(Path(folder, Path(entry[key]).expanduser())) for key in ("image", "truth")
    )
    if truth.count("*") > pattern.count("*"):
        raise JobError(
            f"train.data: truth: {entry['truth']!r} has more stars than {entry['image']!r}; "
            f"allowed: the same or fewer"
        )
    if "*" not in pattern:
        return [(Path(pattern), Path(truth))]
    first = min(k for k, part in enumerate(Path(pattern).parts) if "*" in part)
    images = sorted(Path(*Path(pattern).parts[:first]).glob("/".join(Path(pattern).parts[first:])))
    if not images:
        raise JobError(
            f"train.data: no image at {pattern}; give the folder of the data by train.folder"
        )
    expression = re.compile("([^/]*)".join(map(re.escape, pattern.split("*"))))
    stars = [
        found.groups() for image in images if (found := expression.fullmatch(image.as_posix()))
    ]
    pieces = truth.split("*")
    return [
        (
            image,
            Path(
                "".join(a + b for a, b in zip(pieces, [*star[: len(pieces) - 1], ""], strict=True))
            ),
        )
        for image, star in zip(images, stars, strict=True)
    ]
