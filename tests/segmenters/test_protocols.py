"""The Protocols of `pipeline.segmenters.protocols`: what an attribute says is what is done, on
whatever kind of callable it lies.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
from scipy import ndimage

import pipeline
from pipeline.annotations.rasters_and_shapes import Companion
from pipeline.execution.inputs import accompanied, fingerprints
from pipeline.image.frame import Frame
from pipeline.segmenters import Keyed, fitted_to, protocols, stepped, valid_for
from tests.tiling import in_raster_order

LEVEL = 120
HIGH = 190


@pytest.fixture(scope="module")
def image():
    """Blobs in three bands; uint8 (band, row, column)."""
    noise = ndimage.gaussian_filter(np.random.default_rng(5).random((3, 70, 80)), (0, 2, 2))
    low, high = noise.min(), noise.max()
    return (255 * (noise - low) / (high - low)).astype(np.uint8)


def segmented(image, segmenter, folder, **more):
    """What the whole pipeline makes of a segmenter in tiles of 32 pixels, and its certificates."""
    result = pipeline.segment(
        image, segmenter, folder, tile=32, halo=8, axes="cyx", engine=pipeline.local(), **more
    )
    return np.asarray(result.labels), result.record


def bright(block):
    """Where the mean of the square around a pixel is high: a mask."""
    return ndimage.uniform_filter(block[0].astype(float), 3, mode="nearest") > LEVEL


bright.identity = "connected"
bright.reach = 1


def bright_above(level, block):
    """The same with an option."""
    return ndimage.uniform_filter(block[0].astype(float), 3, mode="nearest") > level


class Plain:
    """A class with attributes of its instances."""

    def __init__(self) -> None:
        self.identity = "connected"
        self.reach = 1

    def __call__(self, block):
        return bright(block)


class Slotted:
    """A class without a dictionary."""

    __slots__ = ("identity", "reach")

    def __init__(self) -> None:
        self.identity = "connected"
        self.reach = 1

    def __call__(self, block):
        return bright(block)


@dataclass(frozen=True)
class Frozen:
    """A frozen dataclass."""

    level: float = LEVEL
    identity: ClassVar[str] = "connected"
    reach: ClassVar[int] = 1

    def __call__(self, block):
        return bright_above(self.level, block)


@dataclass(frozen=True, slots=True)
class Inheriting(protocols.Classifies):
    """A dataclass that inherits from a Protocol."""

    identity: ClassVar[str] = "connected"
    reach: ClassVar[int] = 1

    def __call__(self, block):
        raise AssertionError("it classifies")

    def classify(self, block, valid):
        return bright(block) & valid


class HandingOn:
    """A wrapper that hands on what it does not have itself."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        if name in ("inner", "__setstate__"):
            raise AttributeError(name)
        return getattr(self.inner, name)

    def __call__(self, block):
        return self.inner(block)


class Holder:
    """A class whose method is the segmenter."""

    def method(self, block):
        return bright(block)

    method.identity = "connected"  # type: ignore[attr-defined]
    method.reach = 1  # type: ignore[attr-defined]


def with_attributes(function, **attributes):
    """A function, a lambda or a partial that states something."""
    vars(function).update(attributes)
    return function


STATED = {"identity": "connected", "reach": 1}
CALLABLES = {
    "function": bright,
    "lambda": with_attributes(lambda block: bright(block), **STATED),  # noqa: PLW0108
    "partial": with_attributes(functools.partial(bright_above, LEVEL), **STATED),
    "class": Plain(),
    "slots": Slotted(),
    "frozen dataclass": Frozen(),
    "inherits from a Protocol": Inheriting(),
    "bound method": Holder().method,
    "wrapper": HandingOn(Inheriting()),
}


@pytest.mark.parametrize("name", CALLABLES)
def test_attributes_count_on_any_callable(image, name, tmp_path):
    """A callable of any kind that states its identity and reach is tiled as the untiled image is
    labelled by SciPy, and all that it draws is proved.
    """
    labels, record = segmented(image, CALLABLES[name], tmp_path)
    expected = ndimage.label(bright(image))[0]
    np.testing.assert_array_equal(in_raster_order(labels), in_raster_order(expected))
    assert record["certificates"] == {"proved": expected.max(), "agreed": 0, "disputed": 0}


SILENT = {
    "lambda": lambda block: ndimage.label(block[0] > LEVEL)[0],
    "partial": functools.partial(lambda level, block: ndimage.label(block[0] > level)[0], LEVEL),
    "class": type(
        "Silent", (), {"__call__": lambda _, block: ndimage.label(block[0] > LEVEL)[0]}
    )(),
}


@pytest.mark.parametrize("name", SILENT)
def test_what_states_nothing_is_on_probation(image, name, tmp_path):
    """A callable without any attribute draws objects, as untiled, and none of them is proved."""
    labels, record = segmented(image, SILENT[name], tmp_path)
    expected = SILENT[name](image)
    np.testing.assert_array_equal(in_raster_order(labels), in_raster_order(expected))
    assert record["certificates"]["proved"] == 0


class Base:
    """Objects above a level, by their reach alone."""

    reach = 0

    def __call__(self, block):
        return ndimage.label(block[0] > LEVEL)[0]


class Refusing(Base):
    """It is not to be called: what it offers is used in its place."""

    def __call__(self, block):
        raise AssertionError("it offers something else")


class Classifying(Refusing):
    identity = "connected"

    def classify(self, block):
        return 1 + (block[0] > LEVEL)


class WithForeground(Base):
    """It draws nothing in some pieces of its support."""

    partial = True

    def __call__(self, block):
        labels, number = ndimage.label(self.foreground(block))
        high = ndimage.maximum(block[0], labels, np.arange(number + 1))
        return np.where(high[labels] > HIGH, labels, 0)

    def foreground(self, block):
        return block[0] > LEVEL


class InParts(WithForeground):
    def __call__(self, block, part=None):
        labels = WithForeground.__call__(self, block)
        return labels if part is None else np.where(part, labels, 0)


class WithThings(Base):
    things = (2,)

    def classify(self, block):
        return 1 + (block[0] > LEVEL)


class Predicting(Base):
    """It draws from what it predicts itself."""

    def predict(self, block):
        return 255 - block[:1]


class Decoded(Refusing):
    """Another segmenter draws, from the pixels."""

    @property
    def decoder(self):
        return Base()


class PredictingForDecoder(Decoded):
    def predict(self, block):
        return 255 - block[:1]


@dataclass(frozen=True)
class ByHistogram(Base):
    """Above the median of the image."""

    level: float | None = None
    reach: ClassVar[int] = 0

    @property
    def unfitted(self):
        return self.level is None

    def feature(self, block):
        return block[0]

    def fit(self, histogram):
        return replace(self, level=histogram.percentile(50))

    def __call__(self, block):
        return ndimage.label(block[0] > self.level)[0]


@dataclass(frozen=True)
class InFewBins(ByHistogram):
    bins: ClassVar[int] = 7

    def feature(self, block):
        return block[0].astype(float)


@dataclass(frozen=True)
class BySample(Base):
    """Above the median of a sample of the image."""

    level: float | None = None
    reach: ClassVar[int] = 0
    sample: ClassVar[int] = 200

    @property
    def unfitted(self):
        return self.level is None

    def features(self, block):
        return block[:1]

    def fit(self, rows):
        return replace(self, level=float(np.median(rows)))

    def __call__(self, block):
        return ndimage.label(block[0] > self.level)[0]


@dataclass(frozen=True)
class Suited(Base):
    """It takes its level from the number of the image's bands."""

    level: float = 0.0
    reach: ClassVar[int] = 0

    def suited(self, frame):
        return replace(self, level=40.0 * len(frame.bands))

    def __call__(self, block):
        return ndimage.label(block[0] > self.level)[0]


@dataclass(frozen=True)
class Named(Base):
    """It names the band that it draws from."""

    band: int | str = "3"
    reach: ClassVar[int] = 0
    of_bands: ClassVar[tuple[str, ...]] = ("band",)

    def __call__(self, block):
        return ndimage.label(block[self.band - 1] > LEVEL)[0]


class Merging(Base):
    """Squares of eight pixels, merged where they are brighter than a level in the mean."""

    identity = "keyed"

    def __call__(self, block, origin):
        rows, columns = np.indices(block.shape[1:]) + np.reshape(origin, (2, 1, 1))
        return Keyed(1 + rows // 8 * 1000 + columns // 8)

    def nodes(self, block):
        return block[:1].astype(np.int64)

    def merge(self, graph):
        bright = graph.sums[:, 0] > LEVEL * graph.area
        return np.where(bright, 0, 1 + np.arange(len(bright)))


def merged(image):
    """The same squares of the whole image, whose means SciPy takes."""
    keys = Merging()(image, (0, 0)).keys
    names, squares = np.unique(keys, return_inverse=True)
    means = ndimage.mean(image[0], squares.reshape(keys.shape), np.arange(len(names)))
    return np.where(means[squares.reshape(keys.shape)] > LEVEL, 1, 1 + keys)


class Telling(Base):
    told = ("it did otherwise",)


class Moved(Base):
    moved = True


class OnAnyDevice(Base):
    device = "auto"


class ReadingOne(Base):
    def reads(self, number):
        return [0]


def above(image, band=0, level=LEVEL):
    """Objects of SciPy's in the whole image."""
    return ndimage.label(image[band] > level)[0]


def drawn(segmenter):
    """What a segmenter draws of the whole image at once, after fitting."""
    return lambda image: fitted_to(segmenter, image, np.ones(image.shape[1:], bool))(image)


P = protocols
OFFERS = [
    (Base(), {P.KnowsReach}, above),
    (
        Classifying(),
        {P.KnowsReach, P.Classifies},
        lambda image: np.where(
            image[0] > LEVEL, above(image), 9999 + above(-image.astype(int), level=-LEVEL - 1)
        ),
    ),
    (WithForeground(), {P.KnowsReach, P.HasForeground}, WithForeground()),
    (InParts(), {P.KnowsReach, P.HasForeground}, WithForeground()),
    (WithThings(), {P.KnowsReach, P.DrawsThings, P.Classifies}, above),
    (Predicting(), {P.KnowsReach, P.Predicts}, lambda image: above(255 - image)),
    (Decoded(), {P.KnowsReach, P.HasDecoder}, above),
    (
        PredictingForDecoder(),
        {P.KnowsReach, P.Predicts, P.HasDecoder},
        lambda image: above(255 - image),
    ),
    (ByHistogram(), {P.KnowsReach, P.Unfitted, P.FittedByHistograms}, drawn(ByHistogram())),
    (ByHistogram(LEVEL), {P.KnowsReach, P.FittedByHistograms}, above),
    (
        InFewBins(),
        {P.KnowsReach, P.Unfitted, P.FittedByHistograms, P.HasBins},
        drawn(InFewBins()),
    ),
    (BySample(), {P.KnowsReach, P.Unfitted, P.FittedBySample}, drawn(BySample())),
    (Suited(), {P.KnowsReach, P.SuitedToFrame}, above),
    (Named(), {P.KnowsReach, P.NamesBands}, lambda image: above(image, band=2)),
    (Merging(), {P.KnowsReach, P.Merges}, merged),
    (Telling(), {P.KnowsReach, P.Remarks}, above),
    (Moved(), {P.KnowsReach, P.MovesDevice}, above),
    (OnAnyDevice(), {P.KnowsReach, P.HasDevice}, above),
    (ReadingOne(), {P.KnowsReach, P.ReadsBands}, above),
]
"""A segmenter, the Protocols that it has, and what it draws of the whole image."""

ALL = {
    each
    for name, each in vars(protocols).items()
    if isinstance(each, type) and "_told" in vars(each)
}


@pytest.mark.parametrize(
    ("segmenter", "expected", "whole"), OFFERS, ids=[type(each[0]).__name__ for each in OFFERS]
)
def test_each_offer_by_itself(image, segmenter, expected, whole, tmp_path):
    """A segmenter with one offer has that Protocol and no other, and its tiles give the untiled
    result; nothing is proved of one that moved to another device.
    """
    assert {each for each in ALL if isinstance(segmenter, each)} == expected
    labels, record = segmented(image, segmenter, tmp_path)
    np.testing.assert_array_equal(in_raster_order(labels), in_raster_order(whole(image)))
    certificates = record["certificates"]
    proved = 0 if isinstance(segmenter, Moved) else record["objects"]
    assert (certificates["proved"], certificates["disputed"]) == (proved, 0)


def test_what_was_told_is_reported(image, tmp_path):
    """What a segmenter says that it did otherwise stands in the record of the run."""
    _, record = segmented(image, Telling(), tmp_path)
    assert "it did otherwise" in str(record)


@dataclass(frozen=True)
class Seeded(Base):
    """It draws where seeds are given."""

    seeds: Any = ((10, 20), (50, 60), (31, 32))
    reach: ClassVar[int] = 0
    companions: ClassVar[tuple[str, ...]] = ("seeds",)


def test_files_are_opened_before_the_run():
    """Of a segmenter that brings files, options that hold some are opened, and those without stay
    as they are.
    """
    frame = Frame((70, 80))
    given = accompanied(Seeded(), frame, "segmenters.a")
    assert isinstance(given.seeds, Companion)
    assert set(fingerprints(given)) == {"seeds"}
    assert accompanied(Seeded(None), frame, "segmenters.a") == Seeded(None)
    assert fingerprints(Base()) == {}


def test_boxes_without_a_sample_are_not_read(image, tmp_path):
    """A segmenter that knows where there is nothing to sample is fitted to the rest."""

    class InTopRows(BySample):
        def absent(self, box):
            return box.start[0] >= 35

        def features(self, block, valid):
            return np.where(valid, block[0], 0)[None]

    top = np.zeros(image.shape[1:], bool)
    top[:64] = True
    labels, _ = segmented(image, InTopRows(), tmp_path)
    assert isinstance(InTopRows(), P.KnowsEmptyBoxes)
    assert labels.any()


def test_valid_pixels_are_those_of_the_bands_that_are_read():
    """Of bands that it reads, all must be measured; of one that says where it is valid, that
    holds; of any other, all bands.
    """
    measured = np.random.default_rng(0).random((4, 5, 6)) > 0.3

    class Two:
        def reads(self, number):
            return [0, number - 1]

    class Said:
        def valid_in(self, measured):
            return measured.any(axis=0)

    np.testing.assert_array_equal(valid_for(Two(), measured), measured[0] & measured[3])
    np.testing.assert_array_equal(valid_for(Said(), measured), np.logical_or.reduce(measured))
    np.testing.assert_array_equal(valid_for(len, measured), np.logical_and.reduce(measured))


def doubling(block):
    """A step that offers nothing."""
    return 2.0 * block


def test_steps_say_where_their_bands_are_valid():
    """A step's bands are valid where it says so, of a bandwise step each where the same band is,
    and else where all that it reads are.
    """
    measured = np.random.default_rng(1).random((3, 5, 6)) > 0.3
    block = np.ones((3, 5, 6))
    seen = []

    class Bandwise:
        bandwise = True

        def __call__(self, block, valid):
            seen.append(valid.shape)
            return block

    class First:
        def __call__(self, block, valid):
            seen.append(valid.shape)
            return block[:1]

        def measured(self, measured):
            return measured[:1]

    every = np.broadcast_to(np.logical_and.reduce(measured), measured.shape)
    for step, expected in ((doubling, every), (Bandwise(), measured), (First(), measured[:1])):
        np.testing.assert_array_equal(stepped(step, block, measured)[1], expected)
    assert seen == [measured.shape, measured.shape[1:]]


def test_steps_rename_bands(image, tmp_path):
    """A segmenter calls bands as the step before it names them."""

    class Last:
        reach = 0

        def __call__(self, block):
            return block[::-1]

        def named(self, names):
            return [f"of {name}" for name in reversed(names)]

    labels, record = segmented(image, Named("of 1"), tmp_path, steps=[Last()])
    np.testing.assert_array_equal(in_raster_order(labels), in_raster_order(above(image)))
    assert record["certificates"]["proved"] == record["objects"]
