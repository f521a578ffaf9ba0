"""A job bound to its image: the bands that it names by number, and what the image is once all steps
are done.
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
    """What segmenters of a job see of its image."""

    job: Job
    """With bands by number."""

    frame: Frame
    """After all steps."""

    pixel: Any
    """One pixel of it, (band, 1, 1) or (band, 1, 1, 1)."""


def bound(job: Job, frame: Frame) -> Bound:
    """The job with bands by number, and the image as its steps leave it; JobError names the key
    where a band is not there.
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
    """The job with the bands of its steps by number. JobError if a step is for images of other
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
    """What a step makes of a pixel. A step that is not fitted yet cannot be run: it keeps the
    bands, and makes floats.
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
    """What the bands are called after a step. One that does not say keeps names where it keeps the
    number of bands.
    """
    if isinstance(step, RenamesBands):
        return tuple(step.named(names))
    return names if len(made) == len(names) else tuple(str(k + 1) for k in range(len(made)))
