"""What segmenters are given besides the image (seeds, markers): opened before a run, and told apart
by checksums.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pipeline.annotations.rasters_and_shapes import Companion, open_companion
from pipeline.errors import JobError, SourceError
from pipeline.image.frame import Frame
from pipeline.segmenters import Segmenter
from pipeline.segmenters.protocols import BringsFiles, SuitedToFrame


def accompanied(segmenter: Segmenter, frame: Frame, where: str) -> Segmenter:
    """The segmenter with its files opened, and suited to the image.

    Parameters
    ----------
    segmenter
        As the job gives it.
    frame
        The image as the segmenter sees it, after all steps.
    where
        The segmenter's key in the job, for errors.

    Raises
    ------
    JobError
        If a file cannot be read or does not fit the image, or the segmenter does not.
    """
    what: Any = segmenter
    for name in segmenter.companions if isinstance(segmenter, BringsFiles) else ():
        given = getattr(what, name)
        if given is not None and not isinstance(given, Companion):
            try:
                what = replace(what, **{name: open_companion(given, frame)})
            except (JobError, SourceError) as error:
                raise JobError(f"{where}.{name}: {error}") from error
    if isinstance(what, SuitedToFrame):
        try:
            what = what.suited(frame)
        except JobError as error:
            raise JobError(f"{where}: {error}") from error
    return what  # type: ignore[no-any-return]


def fingerprints(segmenter: Segmenter) -> dict[str, Any]:
    """What tells each file that a segmenter was given from any other, by the option's name."""
    names = segmenter.companions if isinstance(segmenter, BringsFiles) else ()
    given = {name: getattr(segmenter, name) for name in names}
    return {
        name: companion.fingerprint()
        for name, companion in given.items()
        if isinstance(companion, Companion)
    }
