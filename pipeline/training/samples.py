"""Pairs of images and truth, and crops of them. Large images are read by window; small ones are
kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.annotations import panoptic
from pipeline.annotations.files import Drawings
from pipeline.annotations.outlines import layers
from pipeline.annotations.panoptic import VOID
from pipeline.annotations.rasters_and_shapes import Companion
from pipeline.errors import JobError, TilewiseError, nearest
from pipeline.evaluation import against_truth
from pipeline.image.frame import Frame
from pipeline.image.grid import Box, Grid
from pipeline.image.legend import CLASS
from pipeline.imageops.histograms import Bins
from pipeline.networks.card import Card
from pipeline.segmenters.decoders.affinities import Decoder, Panoptic, Semantic
from pipeline.segmenters.decoders.detections import ByKey
from pipeline.sources import Source, open_source, where_measured
from pipeline.training.augmentation import Augment, Place, varied
from pipeline.training.recipe import Recipe

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
KEPT = 1 << 26
"""Values (pixels times bands) of all images that are kept in memory."""
SEEN = 2048
"""Rows and columns of the middle part of an image that is evaluated."""
MARGIN = 48
"""Pixels read around a crop, so that distances and flows in objects that it cuts are those of whole
objects.
"""
TRIALS = 10
"""Positions that are tried to find one with an object."""
WITH = 0.9
"""The fraction of crops that should contain an object."""


@dataclass(frozen=True, slots=True)
class Example:
    """An image and its truth."""

    name: str
    """The image's file name."""

    image: Source
    truth: Companion
    card: Card
    missing: tuple[int, ...] = ()
    """Numbers of the truth that mean unknown."""

    scale: tuple[tuple[float, float], ...] | None = None
    """By band, the values that become 0 and 1, if the card wants the image's percentiles."""

    kinds: tuple[int, ...] = ()
    """The class of each object by number, from 1; empty: class 1."""

    part: Box | None = None
    """The part of the image to use, in pixels; None: all."""

    kept: tuple[Floats, Labels, Flags] | None = None
    """The whole pair in memory, if it is small."""

    @property
    def coded(self) -> bool:
        """Whether the truth has segment numbers of things and stuff, as in
        `pipeline.annotations.panoptic`.
        """
        return isinstance(self.truth, panoptic.LabelsAndClasses | panoptic.Coco)

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and columns."""
        return (self.part or self.image.frame).shape

    def read(self, box: Box) -> tuple[Floats, Labels, Flags]:
        """Read a box: bands for the network, the truth (-1 where unknown), and measured pixels.

        With several classes, an object's number modulo the number of classes is its class minus 1.
        JobError if the truth has a class that the card lacks.
        """
        if self.kept is not None:
            rows, columns = box.slices
            return (
                self.kept[0][:, rows, columns],
                self.kept[1][rows, columns],
                self.kept[2][rows, columns],
            )
        if self.part is not None:
            box = Box(
                *(
                    tuple(a + o for a, o in zip(side, self.part.start, strict=True))
                    for side in (box.start, box.stop)
                )
            )
        block = self.image.read(box)
        valid = np.asarray(where_measured(self.image, box, block).all(axis=0))
        labels, known = against_truth.numbers(self.truth, box)
        if self.kinds:
            labels = np.where(
                labels > 0,
                labels * len(self.card.classes) + np.array((0, *self.kinds))[labels] - 1,
                labels,
            )
        labels = np.where(labels >= VOID * CLASS, -1, labels)
        labels = np.where(
            valid & known & (labels >= 0) & ~np.isin(labels, self.missing), labels, -1
        )
        most = int(labels.max(initial=0)) // (CLASS if self.coded else 1)
        by_class = self.coded or (
            self.card.kind != "maskrcnn" and self.card.decoder.get("kind", "semantic") == "semantic"
        )
        if by_class and most > len(self.card.classes):
            raise JobError(
                f"{self.name}: the truth has class {most}, and the card "
                f"{len(self.card.classes)}: {', '.join(self.card.classes)}"
            )
        return self.card.scaled(block, valid, self.scale), labels, valid

    def parted(self, share: float) -> tuple[Example, Example]:
        """Split into two: all but a fraction of the longer side, and the rest."""
        rows, columns = self.shape
        if columns >= rows:
            cut = round((1 - share) * columns)
            boxes = (Box((0, 0), (rows, cut)), Box((0, cut), (rows, columns)))
            what = f"columns from {cut}"
        else:
            cut = round((1 - share) * rows)
            boxes = (Box((0, 0), (cut, columns)), Box((cut, 0), (rows, columns)))
            what = f"rows from {cut}"
        return replace(self, part=boxes[0]), replace(
            self, part=boxes[1], name=f"{self.name} ({what})"
        )

    def middle(self) -> Box:
        """The part that is evaluated."""
        start = tuple(max(0, (n - SEEN) // 2) for n in self.shape)
        return Box(start, tuple(min(a + SEEN, n) for a, n in zip(start, self.shape, strict=True)))


def gathered(recipe: Recipe) -> tuple[list[Example], list[Example]]:
    """Open pairs to train on and pairs that are held out.

    Parameters
    ----------
    recipe : Recipe
        The recipe.

    Returns
    -------
    training : list of Pair
        Pairs to train on.
    held : list of Pair
        Pairs to evaluate on.

    Raises
    ------
    JobError
        A truth is missing, has another shape, or has no object, or a band is missing; the message
        names the image.
    """
    train: list[Example] = []
    held: list[Example] = []
    opened = []
    left = KEPT
    for image, truth, entry in recipe.pairs():
        with _naming(image.name):
            opened.append(_opened(recipe, image, truth, entry))
    if len(opened) == 1 and isinstance(recipe.train.held_out, float):
        opened = list(opened[0].parted(recipe.train.held_out))
        names = {opened[1].name}
    else:
        names = recipe.held([pair.name for pair in opened])
    for pair in opened:
        size = int(np.prod(pair.shape)) * len(recipe.card.bands)
        kept = None
        if size <= left:
            left -= size
            with _naming(pair.name):
                kept = pair.read(Box.whole(pair.shape))
        (held if pair.name in names else train).append(replace(pair, kept=kept))
    if not any(_has_objects(pair) for pair in train):
        raise JobError(
            f"train.data: the truth of the {len(train)} images to train on "
            f"({', '.join(pair.name for pair in train[:3])}, …) has no object "
            "at all; allowed: numbers above 0 for objects or classes"
        )
    return train, held


def _opened(recipe: Recipe, image: Path, truth: Path, entry: Mapping[str, Any]) -> Example:
    card = recipe.card
    asked = entry.get("bands") or recipe.train.bands
    source = open_source(str(image))
    source = open_source(str(image), bands=card.numbers(asked, source.frame.bands))
    if source.frame.ndim != len(("row", "column")):
        raise JobError(f"{image.name} is a volume; allowed: images of rows and columns")
    said = {key: entry[key] for key in ("attribute", "crs") if entry.get(key)} | (
        {"classes": card.classes} if entry.get("attribute") else {}
    )
    named = {"path": str(truth), **said} if said else str(truth)
    missing = entry.get("missing")
    numbers = (
        () if missing is None else tuple(missing) if isinstance(missing, list) else (int(missing),)
    )
    if isinstance(recipe.decoder, Panoptic):
        both = panoptic.open_truth(str(truth), source.frame, ignore=numbers)
        return Example(image.name, source, both, card, scale=_percentiles(source, card))
    drawings = (
        against_truth.drawings(named, source.frame, image.name) if card.kind == "maskrcnn" else None
    )
    known, kinds = (
        _drawn(card, drawings, truth.name)
        if drawings
        else (against_truth.known_truth(named, source.frame, image.name), ())
    )
    if isinstance(known, Drawings):
        raise JobError(
            f"{truth.name} holds boxes; allowed: labels, polygons or masks, which say which "
            f"pixels are of an object"
        )
    return Example(image.name, source, known, card, numbers, _percentiles(source, card), kinds)


def _drawn(card: Card, drawings: Drawings, name: str) -> tuple[Companion, tuple[int, ...]]:
    """Annotated objects, ellipses for boxes; with several classes, the class of each."""
    drawings = drawings if drawings.outlines is not None else drawings.outlined()
    assert drawings.outlines is not None  # noqa: S101
    if len(card.classes) == 1:
        return layers(drawings.outlines, drawings.crowd), ()
    crowd = drawings.crowd or (False,) * len(drawings.names)
    names = [kind for kind, many in zip(drawings.names, crowd, strict=True) if not many]
    if unknown := next((kind for kind in names if kind not in card.classes), None):
        raise JobError(f"{name}: there is a {unknown!r}; {nearest(unknown, card.classes)}")
    return layers(drawings.outlines, drawings.crowd), tuple(
        card.classes.index(kind) + 1 for kind in names
    )


@contextmanager
def _naming(image: str) -> Iterator[None]:
    """Convert errors to JobError that names the image."""
    try:
        yield
    except TilewiseError as error:
        raise JobError(str(error) if image in str(error) else f"{image}: {error}") from error


def _percentiles(source: Source, card: Card) -> tuple[tuple[float, float], ...] | None:
    """By band, the image's percentiles that the card wants, as in a run of the network."""
    if card.value_scaling["type"] != "percentiles":
        return None
    counted = []
    for band in range(len(card.bands)):
        low = np.inf
        high = -np.inf
        dtype = ""
        for values in _values(source, source.frame, band):
            low = min(low, values.min().item())
            high = max(high, values.max().item())
            dtype = str(values.dtype)
        if not dtype:
            raise JobError("the image has no valid pixel")
        bins = Bins(low, high, dtype)
        counted.append(
            bins.histogram(
                np.sum(
                    [bins.count(values) for values in _values(source, source.frame, band)], axis=0
                )
            )
        )
    return card.spans(counted)


def _values(source: Source, frame: Frame, band: int) -> Any:
    """Yield the measured values of a band, part after part."""
    for box in against_truth.parts_of(frame):
        block = source.read(box)
        values = block[band][where_measured(source, box, block)[band]]
        if values.size:
            yield values


def _has_objects(pair: Example) -> bool:
    grid = Grid(pair.shape, (SEEN, SEEN))
    return any(bool((pair.read(grid.core(k))[1] > 0).any()) for k in range(len(grid)))


def crop(
    pairs: Sequence[Example],
    decoder: Decoder | ByKey,
    size: int,
    augment: Augment,
    rng: np.random.Generator,
) -> tuple[Floats, Floats]:
    """Take a random crop of one of several pairs, larger pairs more often.

    Parameters
    ----------
    pairs : sequence of Pair
        The pairs.
    decoder : Decoder or ByKey
        It makes the targets.
    size : int
        Rows and columns of the crop.
    augment : Augment
        Variations.
    rng : numpy.random.Generator
        The source of randomness.

    Returns
    -------
    image : float32 ndarray, (band, row, column)
        The crop, scaled for the network; edge pixels are repeated beyond a smaller image.
    targets : float32 ndarray, (channel, row, column)
        The wanted answer; NaN where unknown, also beyond the image.
    """
    weight = np.sqrt([float(np.prod(pair.shape)) for pair in pairs])
    sought = rng.random() < WITH
    for _ in range(TRIALS):
        pair = pairs[int(rng.choice(len(pairs), p=weight / weight.sum()))]
        factor = float(np.exp(rng.uniform(-1, 1) * np.log(augment.zoom)))
        span = max(1, round(size / factor))
        start = tuple(int(rng.integers(min(0, n - span), max(0, n - span) + 1)) for n in pair.shape)
        box = Box(start, tuple(a + span for a in start)).grow(MARGIN) & Box.whole(pair.shape)
        image, labels, valid = pair.read(box)
        inside = Box(start, tuple(a + span for a in start)) & box
        if not sought or (labels[inside.within(box)] > 0).any():
            break
    place = Place(_zoomed(image, labels, valid, factor), _moved(start, box, factor)).turned(
        size, augment, rng
    )
    image, labels, valid = place.layers  # type: ignore[assignment]
    targets = decoder.targets(labels)
    # classes are not objects, and are not shaded
    objects = np.zeros_like(labels) if isinstance(decoder, Semantic | Panoptic) else labels
    picture, objects, measured = (
        _cut(layer, place.start, size, "edge") for layer in (image, objects, valid)
    )
    wanted = np.where(
        _cut(valid, place.start, size, "constant"),
        _cut(targets, place.start, size, "edge"),
        np.float32(np.nan),
    )
    return np.where(measured, varied(picture, objects, augment, rng), 0).astype(
        np.float32
    ), wanted.astype(np.float32)


def _moved(start: tuple[int, ...], box: Box, factor: float) -> tuple[int, int]:
    """The position of a crop in what was read for it, after zooming."""
    row, column = (round((a - b) * factor) for a, b in zip(start, box.start, strict=True))
    return row, column


def _zoomed(
    image: Floats, labels: Labels, valid: Flags, factor: float
) -> tuple[Floats, Labels, Flags]:
    """Zoom: values bilinearly; numbers by the nearest index, because floats cannot represent large
    numbers.
    """
    from scipy import ndimage

    if abs(factor - 1) < 1e-3:
        return image, labels, valid
    bands = np.stack(
        [ndimage.zoom(band, factor, order=1, mode="nearest", grid_mode=True) for band in image]
    )
    names, places = np.unique(labels, return_inverse=True)
    found, good = (
        ndimage.zoom(layer, factor, order=0, mode="nearest", grid_mode=True)
        for layer in (places.reshape(labels.shape), valid)
    )
    return bands, names[found], good


def _cut(
    layer: npt.NDArray[Any], start: tuple[int, int], size: int, beyond: str
) -> npt.NDArray[Any]:
    """Some rows and columns; beyond the layer, its edge pixels are repeated, or 0."""
    extent = layer.shape[-2:]
    box = Box(start, (start[0] + size, start[1] + size)) & Box.whole(extent)
    around = [(0, 0)] * (layer.ndim - 2) + [
        (low - a, a + size - high) for a, low, high in zip(start, box.start, box.stop, strict=True)
    ]
    rows, columns = box.slices
    part = layer[..., rows, columns]
    return np.pad(part, around, mode="edge" if beyond == "edge" else "constant")


def batch(pairs: Sequence[Example], recipe: Recipe, step: int) -> tuple[Floats, Floats]:
    """The crops of a step and their targets, determined by the seed and the step's number."""
    train = recipe.train
    decoder = recipe.decoder
    made = [
        crop(
            pairs, decoder, train.crop, train.augment, np.random.default_rng((train.seed, step, k))
        )
        for k in range(train.batch)
    ]
    return np.stack([one for one, _ in made]), np.stack([wanted for _, wanted in made])
