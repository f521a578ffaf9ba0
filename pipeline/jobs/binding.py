"""Bind a job to its image: replace band names by numbers, and find out the bands and dtype after
all steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.errors import JobError
from pipeline.image import bands
from pipeline.image.frame import Frame
from pipeline.jobs import routing
from pipeline.jobs.job import Job
from pipeline.segmenters import stepped
from pipeline.segmenters.protocols import NamesBands, RenamesBands, Unfitted


@dataclass(frozen=True, slots=True)
class Bound:
    """A job with its image as the segmenters see it."""

    job: Job
    """The job with bands by number."""

    frame: Frame
    """The image after all steps."""

    pixel: Any
    """One pixel of the image after all steps: (band, 1, 1) or (band, 1, 1, 1)."""


def bound(job: Job, frame: Frame) -> Bound:
    """Bind a job to an image: bands by number, and the image as the steps leave it. JobError names
    the key of a band that does not exist.
    """
    after = _stepped(job, frame)
    segmenters = {
        name: _numbered(what, after.frame.bands, f"segmenters.{name}")
        for name, what in job.segmenters.items()
    }
    parts: Mapping[str, Any] = {
        "segmenters": segmenters,
        "route": [
            replace(r, when=routing.numbered(r.when, frame.bands, f"route[{k}].when"))
            for k, r in enumerate(job.route)
        ],
        "layers": [
            replace(r, when=routing.numbered(r.when, frame.bands, f"layers[{k}].when"))
            for k, r in enumerate(job.layers)
        ],
    }
    return replace(after, job=after.job.model_copy(update=parts))


def _stepped(job: Job, frame: Frame) -> Bound:
    """The job with the bands of its steps by number. JobError if a step does not fit the image's
    bands.
    """
    pixel: Any = np.zeros((len(frame.bands), *(1,) * frame.ndim), frame.dtype)
    steps: list[Any] = []
    names = frame.bands
    for number, given in enumerate(job.steps):
        step = _numbered(given, names, f"steps[{number}]")
        try:
            made = _made(step, pixel)
        except JobError as error:
            raise JobError(f"steps[{number}]: {error}") from error
        names = _named(step, names, made)
        pixel = made
        steps.append(step)
    dtype = pixel.dtype.name if pixel.dtype.kind in "biuf" else frame.dtype
    return Bound(
        job.model_copy(update={"steps": steps}),
        replace(frame, bands=names, dtype=dtype, together=()),
        pixel,
    )


def _made(step: Any, pixel: Any) -> Any:
    """The result of a step for a pixel. A step that is not fitted yet cannot run: it is taken to
    keep the bands and to return floats.
    """
    if isinstance(step, Unfitted):
        return pixel.astype(np.float64)
    return stepped(step, pixel, np.ones(pixel.shape, bool))[0]


def _numbered(what: Any, names: tuple[str, ...], where: str) -> Any:
    if not isinstance(what, NamesBands):
        return what
    try:
        return bands.numbered(what, names)
    except JobError as error:
        raise JobError(f"{where}.{error}") from error


def _named(step: Any, names: tuple[str, ...], made: Any) -> tuple[str, ...]:
    """The names of the bands after a step. If the step does not say, the names stay while the
    number of bands stays; else they are numbers.
    """
    if isinstance(step, RenamesBands):
        return tuple(step.named(names))
    return names if len(made) == len(names) else tuple(str(k + 1) for k in range(len(made)))
