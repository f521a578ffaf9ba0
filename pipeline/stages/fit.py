"""Statistics of the whole image, to which steps and segmenters are fitted.

Counts of tiles add up to those of the image, so the tiling changes nothing. For a histogram, a
first pass finds the range of each feature, and a second counts in bins fixed by the range. A sample
of pixels is taken from squares that do not depend on the tiles.

Fitting goes in rounds: a step is fitted to the result of the steps before it, and segmenters to
that of all steps.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import JobError, SegmenterError
from pipeline.image.grid import Box
from pipeline.imageops.features import measured
from pipeline.imageops.histograms import Bins
from pipeline.imageops.sampling import Sample, pick, picked
from pipeline.segmenters import call, float_bins, reads, sample_size, valid_for
from pipeline.segmenters.protocols import (
    Bandwise,
    BringsFiles,
    KnowsEmptyBoxes,
    KnowsReach,
    Unfitted,
)
from pipeline.stages import Run
from pipeline.stages.halo import Halo

MOST_ROUNDS = 100
"""A step or segmenter that asks for more rounds would never end."""
PER_ITEM = 16
"""Squares per task of sampling."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A step or a segmenter to fit."""

    name: str
    what: Any
    """The step or the segmenter."""
    steps: int
    """The number of steps before it."""


@dataclass(frozen=True, slots=True)
class Survey:
    """A pass over the whole image."""

    run: Run
    subjects: tuple[Subject, ...]
    batches: tuple[range, ...] = ()
    """The tiles of each piece of work: counts of many tiles are added up where they are made."""

    bins: Mapping[str, Bins] | None = None
    """The bins, once they are known."""

    boxes: tuple[Box, ...] = ()
    """The squares to sample."""


def key(number: int) -> str:
    """Key of the statistics of a round."""
    return f"fitted/{number}"


def subjects(run: Run) -> tuple[Subject, ...]:
    """What to fit next: one step, or all segmenters; empty if everything is fitted."""
    for number, step in enumerate(run.steps):
        if isinstance(step, Unfitted):
            return (Subject(f"step {number + 1}", step, number),)
    return tuple(
        Subject(m.name, m.segmenter, len(run.steps))
        for m in run.methods
        if isinstance(m.segmenter, Unfitted)
    )


def batches(run: Run, workers: int) -> tuple[range, ...]:
    """The image's tiles in batches of up to 32."""
    number = len(run.grid)
    step = max(1, min(32, number // (4 * workers)))
    return tuple(range(first, min(first + step, number)) for first in range(0, number, step))


def ranges(survey: Survey, batch: int) -> dict[str, tuple[float, float, str, int]]:
    """Minimum, maximum, dtype and bins for floats of each feature in a batch of tiles.

    Empty if no pixel is valid.
    """
    found: dict[str, tuple[float, float, str, int]] = {}
    for tile in survey.batches[batch]:
        for name, values, bins in _features(survey, survey.run.grid.core(tile)):
            if values.size:
                low = values.min().item()
                high = values.max().item()
                before = found.get(name, (low, high, "", 0))
                found[name] = (min(low, before[0]), max(high, before[1]), str(values.dtype), bins)
    return found


def counts(survey: Survey, batch: int) -> dict[str, tuple[Any, Any]]:
    """The indices of bins that are not empty in a batch of tiles, and their counts, by feature."""
    bins = survey.bins or {}
    total = {name: np.zeros(span.number, np.int64) for name, span in bins.items()}
    for tile in survey.batches[batch]:
        for name, values, _ in _features(survey, survey.run.grid.core(tile)):
            if name in bins and values.size:
                total[name] += bins[name].count(values)
    return {name: (np.flatnonzero(count), count[count > 0]) for name, count in total.items()}


def sample(survey: Survey, item: int) -> Sample:
    """The first subject's sample of some squares."""
    boxes = survey.boxes[item * PER_ITEM : (item + 1) * PER_ITEM]
    what = survey.subjects[0].what
    if isinstance(what, KnowsEmptyBoxes):  # most squares hold no seed, and need not be read
        boxes = tuple(box for box in boxes if not what.absent(box))
    return picked([partial(_picked, survey, box) for box in boxes], sample_size(what))


def _picked(survey: Survey, box: Box, highest: int) -> Sample:
    subject = survey.subjects[0]
    run = survey.run
    block, known, inside = _around(run, box, subject.steps, subject.what)
    valid = valid_for(subject.what, known)
    origin = tuple(first - cut.start for first, cut in zip(box.start, inside, strict=True))
    features = call(subject.what.features, block, valid, origin)[(slice(None), *inside)]
    return pick(features, valid[inside], box, run.grid.shape, sample_size(subject.what), highest)


def common_bins(found: Iterable[Mapping[str, tuple[float, float, str, int]]]) -> dict[str, Bins]:
    """The bins of each feature, from the ranges of all batches."""
    spans: dict[str, Bins] = {}
    for batch in found:
        for name, (low, high, dtype, floats) in batch.items():
            before = spans.get(name, Bins(low, high, dtype, floats))
            spans[name] = replace(before, low=min(low, before.low), high=max(high, before.high))
    return spans


def added(
    bins: Mapping[str, Bins], counted: Iterable[Mapping[str, tuple[Any, Any]]]
) -> dict[str, npt.NDArray[np.int64]]:
    """The sum of the counts of all batches."""
    total = {name: np.zeros(span.number, np.int64) for name, span in bins.items()}
    for batch in counted:
        for name, (where, count) in batch.items():
            total[name][where] += count
    return total


def save(
    run: Run,
    number: int,
    bins: Mapping[str, Bins],
    counted: Mapping[str, Any],
    samples: Mapping[str, Sample],
) -> None:
    """Save the statistics of a round."""
    facts = {name: asdict(span) for name, span in bins.items()}
    run.scratch.save(
        key(number), facts, {**counted, **{name: found.rows for name, found in samples.items()}}
    )


def settled_key(number: int) -> str:
    """Key of a round's findings.

    A run that continues elsewhere takes them, because processors may fit differently.
    """
    return f"settled/{number}"


def fitted(run: Run, number: int, wanted: Sequence[Subject]) -> Run:
    """The run with a round's subjects fitted; SegmenterError if the image has no valid pixel."""
    bins, found = run.scratch.load(key(number), whole=True)
    before = (
        run.scratch.load(settled_key(number))[0] if run.scratch.sound(settled_key(number)) else {}
    )
    new: dict[str, Any] = {}
    for subject in wanted:
        name = subject.name
        if sample_size(subject.what):
            statistics: Any = found[name] if len(found[name]) else None
        elif name in bins:
            statistics = Bins(**bins[name]).histogram(found[name])
        else:
            several = [f"{name}#{k}" for k in range(len(bins)) if f"{name}#{k}" in bins]
            statistics = [Bins(**bins[one]).histogram(found[one]) for one in several] or None
        if statistics is None:
            where = " under its seeds" if _has_files(subject.what) else ""
            raise SegmenterError(
                f"{name}: no statistics can be fitted, since the image has no valid pixel{where}"
            )
        new[name] = (
            replace(subject.what, **_tuples(before[name]))
            if name in before
            else subject.what.fit(statistics)
        )
    if not before:
        kept = {subject.name: _kept(subject.what, new[subject.name]) for subject in wanted}
        run.scratch.save(
            settled_key(number), {name: options for name, options in kept.items() if options}
        )
    steps = (
        tuple(new.get(f"step {k + 1}", step) for k, step in enumerate(run.steps))
        if wanted[0].steps < len(run.steps)
        else run.steps
    )
    return replace(run, steps=steps) if steps != run.steps else run.fitted(new)


def found(before: Run, after: Run) -> dict[str, dict[str, Any]]:
    """The options found by fitting, by step and by segmenter."""
    pairs: list[tuple[str, Any, Any]] = [
        (f"step {k + 1}", *pair)
        for k, pair in enumerate(zip(before.steps, after.steps, strict=True))
    ]
    known = {method.name: method.segmenter for method in before.methods}
    pairs += [(new.name, known[new.name], new.segmenter) for new in after.methods]
    return {
        name: changed
        for name, old, new in pairs
        if old is not new and (changed := _changed(old, new))
    }


def _has_files(what: Any) -> bool:
    """Whether it is given more than the image."""
    return isinstance(what, BringsFiles) and any(
        getattr(what, option) is not None for option in what.companions
    )


def _kept(old: Any, new: Any) -> dict[str, Any]:
    """The options found by fitting, if JSON represents them exactly; otherwise empty."""
    options = _changed(old, new)
    try:
        again = replace(old, **_tuples(json.loads(json.dumps(options)))) if options else None
    except (TypeError, ValueError, JobError):
        return {}
    return options if again == new else {}


def _tuples(what: Any) -> Any:
    """Convert JSON's lists to tuples, also within mappings."""
    if isinstance(what, Mapping):
        return {key: _tuples(value) for key, value in what.items()}
    return tuple(map(_tuples, what)) if isinstance(what, list) else what


def _changed(old: Any, new: Any) -> dict[str, Any]:
    if not is_dataclass(new):
        return {}
    values = {
        field.name: (getattr(old, field.name, None), getattr(new, field.name))
        for field in fields(new)
    }
    return {
        name: value
        for name, (before, value) in values.items()
        if before is not value and before != value
    }


def _features(survey: Survey, core: Box) -> Iterator[tuple[str, Any, int]]:
    """The values of each feature at the valid pixels of a core, and the bins for floats."""
    for subject in survey.subjects:
        block, known, inside = _around(survey.run, core, subject.steps, subject.what)
        valid = valid_for(subject.what, known)
        bins = float_bins(subject.what)
        feature = call(subject.what.feature, block, valid)
        if feature.ndim == valid.ndim:
            yield subject.name, measured(feature[inside], valid[inside]), bins
            continue
        own = (
            known[reads(subject.what, len(known))]
            if isinstance(subject.what, Bandwise)
            else [valid] * len(feature)
        )
        pairs = enumerate(zip(feature, own, strict=True))
        yield from (
            (f"{subject.name}#{k}", measured(one[inside], good[inside]), bins)
            for k, (one, good) in pairs
        )


def _around(
    run: Run, box: Box, steps: int, what: Any
) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_], tuple[slice, ...]]:
    """A box after some steps, with its surroundings; where its bands were measured; the box's place
    in it.
    """
    reach = int(what.reach) if isinstance(what, KnowsReach) else 0
    around = Halo(reach, run.reach_of_steps(steps))
    window = box.grow(around.sight) & run.grid.whole
    return *run.prepared(*run.read(window), steps), box.within(window)
