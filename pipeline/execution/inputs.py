"""What segmenters are given besides the image (seeds, markers), opened before a run and told apart
by checksums.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pipeline.annotations.rasters_and_shapes import Companion, open_companion
from pipeline.errors import JobError, SourceError
from pipeline.image.frame import Frame
from pipeline.segmenters import Segmenter


def accompanied(segmenter: Segmenter, frame: Frame, where: str) -> Segmenter:
    """The segmenter with what it is given opened, suited to the image; JobError names ``where`` and
    what does not fit.
    """
    what: Any = segmenter
    for name in getattr(segmenter, "companions", ()):
        given = getattr(what, name)
        if given is not None and not isinstance(given, Companion):
            try:
                what = replace(what, **{name: open_companion(given, frame)})
            except (JobError, SourceError) as error:
                raise JobError(f"{where}.{name}: {error}") from error
    if hasattr(what, "suited"):
        try:
            what = what.suited(frame)
        except JobError as error:
            raise JobError(f"{where}: {error}") from error
    return what  # type: ignore[no-any-return]


def fingerprints(segmenter: Segmenter) -> dict[str, Any]:
    """By option, what tells apart what the segmenter was given."""
    held = {name: getattr(segmenter, name) for name in getattr(segmenter, "companions", ())}
    return {
        name: companion.fingerprint()
        for name, companion in held.items()
        if isinstance(companion, Companion)
    }
