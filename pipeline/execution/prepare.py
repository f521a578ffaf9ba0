"""Find what must be known of the whole image before any tile is segmented: the statistics that
steps and segmenters ask for, and the segmenter that each tile goes to. Both are found once and kept
in the scratch store.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.engine import Engine
from pipeline.errors import SegmenterError, SourceError
from pipeline.execution.dispatch import Dispatcher
from pipeline.execution.planning import Plan
from pipeline.image.grid import Box
from pipeline.imageops.sampling import Sample, collect, merge
from pipeline.jobs.routing import Rule
from pipeline.segmenters import sample_size
from pipeline.sources.spooled import stowed
from pipeline.stages import Run, terrain, unreadable_tiles
from pipeline.stages import fit as fitting
from pipeline.stages import route as routing


@contextlib.contextmanager
def reachable(draft: Plan, engine: Engine) -> Iterator[Plan]:
    """The plan with an image that workers read from a file, where the whole image would otherwise
    travel to each of them. The file is removed at the end.
    """
    if not getattr(engine, "apart", True):
        yield draft
        return
    with stowed(draft.source, Path(draft.run.scratch.root, "image")) as source:
        yield replace(draft, run=replace(draft.run, source=source))


def unreadable(run: Run, policy: str, dispatcher: Dispatcher) -> dict[int, str]:
    """Find the tiles that cannot be read, if the job skips such tiles.

    Parameters
    ----------
    run
        The run, before it is routed.
    policy
        The job's ``on_bad_tile``; with anything but ``skip`` nothing is read.
    dispatcher
        Who reads.

    Returns
    -------
    dict
        By tile why it cannot be read.

    Raises
    ------
    SourceError
        If no tile can be read.
    """
    if policy != "skip":
        return {}
    read = dispatcher.each("read", unreadable_tiles.unreadable, run, range(len(run.grid)))
    lost = {tile: why for tile, why in read if why}
    if len(lost) == len(run.grid):
        raise SourceError(f"no tile can be read: {run.grid.name(0)}: {lost[0]}")
    return lost


def fit(run: Run, dispatcher: Dispatcher) -> Run:
    """Find the statistics of the whole image that steps and segmenters ask for, and the area of
    pixels on the ground where it varies.

    What is found in one round may be asked for on in the next: a segmenter is fitted to what fitted
    steps make of the image.
    """
    terrain.find(run)
    for number in range(fitting.MOST_ROUNDS):
        wanted = fitting.subjects(run)
        if not wanted:
            return run
        if not run.scratch.sound(fitting.key(number)):
            _find_statistics(run, number, wanted, dispatcher)
        run = fitting.fitted(run, number, wanted)
    raise SegmenterError(
        f"{', '.join(subject.name for subject in wanted)}: still unfitted after "
        f"{fitting.MOST_ROUNDS} rounds of fitting"
    )


def _find_statistics(
    run: Run, number: int, wanted: Sequence[fitting.Subject], dispatcher: Dispatcher
) -> None:
    """Find and save what is asked for in one round.

    Parameters
    ----------
    run
        The run, with what was found in earlier rounds.
    number
        The round's number.
    wanted
        The steps and segmenters that ask, each for a sample of pixels or for a histogram.
    dispatcher
        Who reads the image.
    """
    samples = {
        subject.name: _sample(run, subject, dispatcher)
        for subject in wanted
        if sample_size(subject.what)
    }
    counted = tuple(subject for subject in wanted if not sample_size(subject.what))
    batches = fitting.batches(run, dispatcher.engine.workers) if counted else ()
    survey = fitting.Survey(run, counted, batches)
    numbers = range(len(batches))
    ranges = dispatcher.each("survey", fitting.ranges, survey, numbers)
    bins = fitting.common_bins(found for _, found in ranges)
    counts = dispatcher.each("fit", fitting.counts, replace(survey, bins=bins), numbers)
    added = fitting.added(bins, (found for _, found in counts))
    fitting.save(run, number, bins, added, samples)


def _sample(run: Run, subject: fitting.Subject, dispatcher: Dispatcher) -> Sample:
    """The sample of the image's pixels that a step or a segmenter asks for."""
    size = sample_size(subject.what)

    def gather(boxes: list[Box]) -> Sample:
        survey = fitting.Survey(run, (subject,), boxes=tuple(boxes))
        items = range(-(-len(boxes) // fitting.PER_ITEM))
        found = dispatcher.each("sample", fitting.sample, survey, items)
        return merge((sample for _, sample in found), size)

    return collect(run.grid.shape, size, gather)


def route(run: Run, rules: Sequence[Rule], dispatcher: Dispatcher) -> Run:
    """Decide which segmenter each tile goes to, by a job's or a layer's rules."""
    if not run.scratch.sound(routing.KEY):
        work = routing.routing(run, rules, fitting.batches(run, dispatcher.engine.workers))
        if routing.needed(run, rules):
            found = dispatcher.all("route", routing.routes, work, range(len(work.batches)))
            routed = [one for batch in found.values() for one in batch]
        else:
            routed = routing.all_alike(work)
        routing.save(run, routed)
    return replace(run, routes=run.scratch.load(routing.KEY, "routes")[1]["routes"])
