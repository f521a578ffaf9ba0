"""A result compared with itself in other tiles, or with truth: `verify` and `evaluate`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pipeline.errors import JobError
from pipeline.evaluation import against_truth, error_map
from pipeline.evaluation import verify as verifying
from pipeline.evaluation.against_truth import Evaluation
from pipeline.evaluation.differences import Verification
from pipeline.execution.result import Result
from pipeline.jobs.job import Job


def verify(
    result: Result | str | os.PathLike[str], *, parts: int = 8, job: Job | None = None
) -> Verification:
    """Segment parts of a result again, in other tiles, and compare.

    Parameters
    ----------
    result
        A complete result, its folder, or its address.
    parts
        How many parts, 1 or more, spread over the image; each is four tiles of another size.
    job
        What was run. Needed only where the record does not hold it: functions, and images in
        memory.

    Returns
    -------
    Verification
        ``wrong`` lists what differs though the result calls it proved (empty where the result
        holds), ``differ`` all that differs. It prints as ``tilewise verify`` does.

    Raises
    ------
    OutputError
        There is no complete result, or its image, seeds or methods have changed or cannot be had
        again.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> import pipeline
    >>> image = np.eye(64, dtype=np.uint8)
    >>> job = pipeline.Job(
    ...     source=image,
    ...     tiles={"size": 32},
    ...     segmenters={"bright": {"kind": "threshold", "value": 0}},
    ...     output={"path": tempfile.mkdtemp()},
    ... )
    >>> verify(pipeline.run(job, engine=pipeline.local()), job=job).wrong
    []
    """
    if isinstance(parts, bool) or not isinstance(parts, int) or parts < 1:
        raise JobError(f"parts: {parts!r}; allowed: a whole number, 1 or more")
    return verifying.verify(_path(result), parts, job=job)


def evaluate(
    labels: Any,
    truth: Any,
    *,
    kind: Literal["instance", "semantic", "panoptic"] = "instance",
    attribute: str | None = None,
    crs: str | None = None,
    classes: Sequence[str] | None = None,
    image: str | None = None,
    tolerance: int = 2,
    ignore: Sequence[int] = (),
    picture: str | os.PathLike[str] | None = None,
) -> Evaluation:
    """Compare a result with truth.

    Parameters
    ----------
    labels
        A result, its folder, a raster or a Zarr array of labels or classes, the address of one, or
        an array (row, column) or (plane, row, column) of integers.
    truth
        A raster, Zarr or array of the same grid; a vector file (each shape an object); COCO JSON
        (polygons, run-length masks or boxes); boxes as Pascal VOC XML or CSV. For ``panoptic``:
        COCO's panoptic JSON with its PNG, or the folder of another result.
    kind
        ``instance``: numbers are objects. ``semantic``: numbers are classes. ``panoptic``: both.
    attribute
        The attribute of a vector file that holds classes.
    crs
        What a vector file is in that does not say it: ``pixels``, ``image``, or a CRS.
    classes
        The names that the attribute holds: the first is class 1, and so on.
    image
        Which image of a COCO file.
    tolerance
        Pixels between borders that still count as the same, 0 or more, for the boundary F1.
    ignore
        Numbers of the truth where nothing is asked.
    picture
        A file: a PNG is written there of what was matched, missed, invented, split and merged.

    Returns
    -------
    Evaluation
        ``measures`` by name, such as ``f1`` and ``pq``, from 0 to 1. It prints as
        ``tilewise evaluate`` does.

    Raises
    ------
    JobError
        Truth has another shape, grid or CRS, or an option does not fit it.
    SourceError
        Something cannot be read.

    Examples
    --------
    >>> import numpy as np
    >>> drawn = np.array([[1, 1, 0, 2], [1, 1, 0, 0]], np.uint8)
    >>> truth = np.array([[1, 1, 0, 0], [1, 1, 0, 0]], np.uint8)
    >>> evaluate(drawn, truth).measures["precision"]
    0.5
    """
    said = {"attribute": attribute, "crs": crs, "classes": classes}
    given = {key: value for key, value in said.items() if value}
    known = {**(truth if isinstance(truth, Mapping) else {"path": truth}), **given}
    asked = known if given else truth
    ours = _path(labels)
    found = against_truth.evaluate(
        ours, _path(asked), kind=kind, tolerance=tolerance, image=image, ignore=ignore
    )
    if picture is not None:
        error_map.picture(ours, _path(asked), found, Path(picture), image=image)
    return found


def _path(what: Any) -> Any:
    """The folder of a result; anything else as it is."""
    return what.path if isinstance(what, Result) else what
