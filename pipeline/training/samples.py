"""Pairs of images and truth, and crops of them. What is large is read window by window; what is
small is kept.
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
"""Values (pixels times bands) of all images together that are kept in memory."""
SEEN = 2048
"""Rows and columns of the part of an image, its middle, by which the network is judged."""
MARGIN = 48
"""Pixels around a crop that are read besides, so that distances and flows in objects that it cuts
are those of whole ones.
"""
TRIALS = 10
"""Places that are looked at for one with an object."""
WITH = 0.9
"""The share of crops for which one with an object is looked for."""


@dataclass(frozen=True, slots=True)
class Pair:
    """An image and its truth."""

    name: str
    """The image's file name."""

    image: Source
    truth: Companion
    card: Card
    missing: tuple[int, ...] = ()
    """Numbers of the truth where it is not known."""

    scale: tuple[tuple[float, float], ...] | None = None
    """By band, the values that become 0 and 1, where the card wants the image's percentiles."""

    kinds: tuple[int, ...] = ()
    """By number of an object, from 1, its class; none: all are of class 1."""

    part: Box | None = None
    """What of the image it is, in pixels; None: all."""

    kept: tuple[Floats, Labels, Flags] | None = None
    """All of it, where it is small."""

    @property
    def coded(self) -> bool:
        """Whether numbers of the truth are those of things and stuff, as
        `pipeline.annotations.panoptic` has them.
        """
        return isinstance(self.truth, panoptic.Pair | panoptic.Coco)

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and columns."""
        return (self.part or self.image.frame).shape

    def read(self, box: Box) -> tuple[Floats, Labels, Flags]:
        """What lies in a box: the bands as the network wants them, the truth, -1 where it is not
        known, and where the image was measured.

        Of objects of several classes, a number modulo the number of classes is the class less 1.
        JobError where the truth has a class that the card has not.
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

    def parted(self, share: float) -> tuple[Pair, Pair]:
        """Two of it: all but a share of its longer side, and the rest."""
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
        """The part by which the network is judged."""
        start = tuple(max(0, (n - SEEN) // 2) for n in self.shape)
        return Box(start, tuple(min(a + SEEN, n) for a, n in zip(start, self.shape, strict=True)))


def gathered(recipe: Recipe) -> tuple[list[Pair], list[Pair]]:
    """Pairs to train on and pairs that are held out.

    Raises
    ------
    JobError
        There is no truth, it is of another shape, none of it has an object, or a band is missing;
        the message names the image.
    """
    train: list[Pair] = []
    held: list[Pair] = []
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


def _opened(recipe: Recipe, image: Path, truth: Path, entry: Mapping[str, Any]) -> Pair:
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
        return Pair(image.name, source, both, card, scale=_percentiles(source, card))
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
    return Pair(image.name, source, known, card, numbers, _percentiles(source, card), kinds)


def _drawn(card: Card, drawings: Drawings, name: str) -> tuple[Companion, tuple[int, ...]]:
    """Objects as they were drawn, of boxes the ellipse in each, and, of several classes, that of
    each.
    """
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
    """Errors as JobError, which name the image."""
    try:
        yield
    except TilewiseError as error:
        raise JobError(str(error) if image in str(error) else f"{image}: {error}") from error


def _percentiles(source: Source, card: Card) -> tuple[tuple[float, float], ...] | None:
    """By band, the image's percentiles that the card wants: the same that a run of the network
    finds.
    """
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
    """The measured values of a band, part after part."""
    for box in against_truth.parts_of(frame):
        block = source.read(box)
        values = block[band][where_measured(source, box, block)[band]]
        if values.size:
            yield values


def _has_objects(pair: Pair) -> bool:
    grid = Grid(pair.shape, (SEEN, SEEN))
    return any(bool((pair.read(grid.core(k))[1] > 0).any()) for k in range(len(grid)))


def crop(
    pairs: Sequence[Pair],
    decoder: Decoder | ByKey,
    size: int,
    augment: Augment,
    rng: np.random.Generator,
) -> tuple[Floats, Floats]:
    """A crop of one of some pairs, larger ones oftener: (band, row, column) as the network wants
    it, and (channel, row, column) what it should answer, NaN where that is not known. Of images
    that are smaller, what lies beyond is not known, and their edge pixels go on.
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
    objects = (
        np.zeros_like(labels) if isinstance(decoder, Semantic | Panoptic) else labels
    )  # classes are no objects to be shaded
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
    """Where a crop begins in what was read for it, after zooming."""
    row, column = (round((a - b) * factor) for a, b in zip(start, box.start, strict=True))
    return row, column


def _zoomed(
    image: Floats, labels: Labels, valid: Flags, factor: float
) -> tuple[Floats, Labels, Flags]:
    """Enlarged or shrunk: values between pixels, numbers from the nearest one, by their places,
    since large ones are no floats.
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
    """Some rows and columns; beyond the layer's edge its pixels go on, or all is 0."""
    extent = layer.shape[-2:]
    box = Box(start, (start[0] + size, start[1] + size)) & Box.whole(extent)
    around = [(0, 0)] * (layer.ndim - 2) + [
        (low - a, a + size - high) for a, low, high in zip(start, box.start, box.stop, strict=True)
    ]
    rows, columns = box.slices
    part = layer[..., rows, columns]
    return np.pad(part, around, mode="edge" if beyond == "edge" else "constant")


def batch(pairs: Sequence[Pair], recipe: Recipe, step: int) -> tuple[Floats, Floats]:
    """The crops of a step, told by the seed and the step's number alone: (crop, band, row, column),
    and what is wanted of them.
    """
    train = recipe.train
    decoder = recipe.decoder
    made = [
        crop(
            pairs, decoder, train.crop, train.augment, np.random.default_rng((train.seed, step, k))
        )
        for k in range(train.batch)
    ]
    return np.stack([one for one, _ in made]), np.stack([wanted for _, wanted in made])
