"""Statistics of the image, once for the whole of it: the histograms from which segmenters find their thresholds.

Counts of tiles add up to those of the image, so the tiling changes nothing. A first pass finds the range of each feature, a second
counts in bins that are fixed by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipeline.errors import SegmenterError
from pipeline.features import measured
from pipeline.histograms import Bins
from pipeline.segmenters import Segmenter
from pipeline.stages import Method, Run


@dataclass(frozen=True, slots=True)
class Survey:
    """A pass over the whole image: the run, the methods that want it, and the bins once they are known."""

    run: Run
    batches: tuple[range, ...]
    """The tiles of each piece of work: many tiles' counts are added up where they are made."""

    bins: Mapping[str, Bins] | None = None


def unfitted(methods: Sequence[Method]) -> list[Method]:
    """The methods whose segmenters ask for a histogram."""
    return [method for method in methods if getattr(method.segmenter, "unfitted", False)]


def batches(run: Run, workers: int) -> tuple[range, ...]:
    """The image's tiles in batches of up to 32."""
    number = len(run.grid)
    step = max(1, min(32, number // (4 * workers)))
    return tuple(range(first, min(first + step, number)) for first in range(0, number, step))


def ranges(survey: Survey, batch: int) -> dict[str, tuple[float, float, str]]:
    """The least and largest value of each feature in a batch of tiles, and its type; nothing where no pixel is valid."""
    found: dict[str, tuple[float, float, str]] = {}
    for tile in survey.batches[batch]:
        for name, values in _features(survey.run, tile):
            if values.size:
                low, high = values.min().item(), values.max().item()
                before = found.get(name, (low, high, ""))
                found[name] = (min(low, before[0]), max(high, before[1]), str(values.dtype))
    return found


def counts(survey: Survey, batch: int) -> dict[str, tuple[Any, Any]]:
    """The bins that are not empty in a batch of tiles, and their counts, for each feature."""
    bins = survey.bins or {}
    total = {name: np.zeros(span.number, np.int64) for name, span in bins.items()}
    for tile in survey.batches[batch]:
        for name, values in _features(survey.run, tile):
            if name in bins and values.size:
                total[name] += bins[name].count(values)
    return {name: (np.flatnonzero(count), count[count > 0]) for name, count in total.items()}


def common_bins(found: Iterable[Mapping[str, tuple[float, float, str]]]) -> dict[str, Bins]:
    """The bins of each feature, from the ranges of all batches."""
    spans: dict[str, Bins] = {}
    for batch in found:
        for name, (low, high, dtype) in batch.items():
            before = spans.get(name, Bins(low, high, dtype))
            spans[name] = Bins(min(low, before.low), max(high, before.high), dtype)
    return spans


def save(run: Run, bins: Mapping[str, Bins], counted: Iterable[Mapping[str, tuple[Any, Any]]]) -> None:
    """Add up the counts of all batches, and keep the histograms."""
    total = {name: np.zeros(span.number, np.int64) for name, span in bins.items()}
    for batch in counted:
        for name, (where, count) in batch.items():
            total[name][where] += count
    run.scratch.save("fitted", {name: asdict(span) for name, span in bins.items()}, total)


def load(run: Run) -> dict[str, Segmenter]:
    """The fitted segmenters by name; SegmenterError where the image has nothing to fit to."""
    bins, total = run.scratch.load("fitted", whole=True)
    fitted: dict[str, Segmenter] = {}
    for method in unfitted(run.methods):
        if method.name not in bins:
            raise SegmenterError(f"{method.name}: no statistics can be fitted, since the image has no valid pixel")
        fitted[method.name] = method.segmenter.fit(Bins(**bins[method.name]).histogram(total[method.name]))  # type: ignore[attr-defined]
    return fitted


def _features(run: Run, tile: int) -> Iterable[tuple[str, Any]]:
    """The values of each feature at the valid pixels of a core."""
    core = run.grid.core(tile)
    wanted = unfitted(run.methods)
    window = run.grid.window(tile, max(method.contract.reach for method in wanted))
    block, valid = run.read(window)
    inside = core.within(window)
    for method in wanted:
        yield method.name, measured(method.segmenter.feature(block, valid)[inside], valid[inside])  # type: ignore[attr-defined]
