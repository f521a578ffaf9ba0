"""Runs of jobs: `run`, `segment` and `plan`."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeAlias, TypeVar

from pipeline import workflow
from pipeline.api.facts import Facts
from pipeline.api.images import with_reader
from pipeline.config.option_errors import elsewhere, kinds_in
from pipeline.engine.given import EngineLike, starter
from pipeline.errors import JobError, TilewiseError, like
from pipeline.execution.dry_run import Foresight, foresee
from pipeline.execution.result import Result, Watch, silent
from pipeline.jobs.job import Job, from_yaml
from pipeline.segmenters import name_of

P = ParamSpec("P")
R = TypeVar("R")
JobLike: TypeAlias = "Job | Mapping[str, Any] | str | os.PathLike[str]"
Extent: TypeAlias = "int | Sequence[int] | Literal['auto']"


class PlannedRun(Facts):
    """What a run would do, by name: ``state``, ``frame``, ``tiles``, ``routes``, ``disk``, ….

    It prints as ``tilewise plan`` does. `plan` makes it.

    Parameters
    ----------
    found
        What was found out about the run.
    """

    def __init__(self, found: Foresight) -> None:
        super().__init__(found.facts)
        self._found = found

    @property
    def refused(self) -> TilewiseError | None:
        """Why `run` would refuse the job.

        Returns
        -------
        TilewiseError or None
            The error that `run` would raise; None where it would run the job.
        """
        return self._found.refused

    def picture(self, path: str | os.PathLike[str]) -> None:
        """Write a picture of the plan as a PNG.

        It shows the image in grey and each tile in the colour of its route. Tiles that are done
        already are dark.

        Parameters
        ----------
        path
            The PNG file to write.
        """
        self._found.picture(Path(path))


def run(
    job: JobLike,
    engine: EngineLike = None,
    *,
    changes: Mapping[str, Any] | None = None,
    fresh: bool = False,
    watch: Watch | None = None,
) -> Result:
    """Segment an image, tile by tile, into one set of labels.

    The same call again goes on where the run was, or returns the result that is complete.

    Parameters
    ----------
    job
        What to segment, how, and where the result goes: a `Job`, a mapping of its keys, or the path
        of a job file (YAML).
    engine
        Where it is computed: an engine (`local`, `cluster`, `on`), a ``distributed.Client``, a
        cluster such as ``LocalCluster``, or a scheduler's address. None: a local cluster with one
        process for each processor. What is given stays open.
    changes
        Values by dotted key, such as ``{"tiles.size": 512}``, that take the place of the job
        file's.
    fresh
        Start anew, whatever lies in the output: a finished result is replaced when the new one is
        complete.
    watch
        Called with an `Event` whenever there is progress; None: nobody is told.

    Returns
    -------
    Result
        The labels, the table of objects and the record. Where the output holds the result of this
        very job, it is that, and nothing is started.

    Raises
    ------
    TilesError
        Some tiles failed. Nothing is published but ``run.json``, which lists them; the same call
        tries them again.
    ResumeError
        The output holds a run of another job, or the image has changed.
    TilewiseError
        Anything else that is refused; see `pipeline.errors`.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> import pipeline
    >>> image = np.array([[9, 9, 0, 9], [9, 0, 0, 9]], np.uint8)
    >>> with tempfile.TemporaryDirectory() as out:
    ...     job = Job(
    ...         source=image,
    ...         segmenters={"bright": {"kind": "threshold", "value": 5}},
    ...         output={"path": out},
    ...     )
    ...     run(job, engine=pipeline.local()).labels.values
    array([[1, 1, 0, 2],
           [1, 0, 0, 2]], dtype=uint32)
    """
    return workflow.run(job_of(job, changes), engine, fresh=fresh, watch=watch or silent)


def hinted(function: Callable[P, R]) -> Callable[P, R]:
    """Wrap a function so that a wrong argument's error says where an option of this name belongs.

    Parameters
    ----------
    function
        A function with keyword arguments; an argument ``segmenter``, or its second one, names the
        kinds whose options are searched.

    Returns
    -------
    Callable
        A function with the same signature. It raises TypeError for an argument that ``function``
        does not have, and names the place where the option belongs or the nearest spelling.
    """
    allowed = inspect.signature(function).parameters

    @functools.wraps(function)
    def checked(*given: P.args, **options: P.kwargs) -> R:
        for key in options:
            if key not in allowed:
                segmenter = options.get("segmenter", given[1] if len(given) > 1 else None)
                hint = elsewhere(key, "", kinds_in({"": segmenter})) or like(key, allowed)
                raise TypeError(f"{function.__name__}() has no argument {key!r}{hint}")
        return function(*given, **options)

    return checked


@hinted
def segment(
    image: Any,
    segmenter: str | Mapping[str, Any] | Callable[..., Any],
    out: str | os.PathLike[str],
    *,
    tile: Extent = "auto",
    halo: int | Literal["auto"] = "auto",
    max_halo: int | Literal["auto"] = "auto",
    steps: Sequence[Any] = (),
    axes: str | None = None,
    planes: int | str | None = None,
    time: int | None = None,
    bands: Sequence[int | str] | None = None,
    nodata: float | None = None,
    iou: float = 0.5,
    repair: int = 0,
    on_bad_tile: Literal["fail", "skip"] = "fail",
    results: Sequence[Literal["instance", "semantic", "panoptic"]] | None = None,
    labels: Sequence[Literal["zarr", "cog", "ome-tiff"]] = ("zarr",),
    ome_zarr: Literal["0.5", "0.4"] = "0.5",
    chunk: Extent = "auto",
    shard: Extent | None = None,
    into_source: str | None = None,
    replace_in_source: bool = False,
    legend: Mapping[int, Any] | None = None,
    table: Literal["parquet"] = "parquet",
    picture: bool = False,
    dtype: Literal["uint32", "uint64"] | None = None,
    scratch: str | os.PathLike[str] | None = None,
    keep_scratch: bool = False,
    engine: EngineLike = None,
    fresh: bool = False,
    watch: Watch | None = None,
) -> Result:
    """Segment an image with one segmenter: `run` for a job that needs no file.

    Parameters
    ----------
    image
        A path or an address, a NumPy or Dask array, an xarray DataArray, or a mapping with ``path``
        and the reader's options. An array has the axes (row, column), or (band, row, column) with
        up to four bands; for any other, ``axes`` says what they are.
    segmenter
        A kind's name (``"threshold"``), a mapping with ``kind`` and its options, one of our
        segmenters (``Threshold(value=5)``), or any callable from a block (band, row, column) to
        labels (row, column).
    out
        The folder for the result.
    tile
        The size of a tile without its halo, in pixels: a number, or one for each axis (row, column)
        or (plane, row, column).
    halo
        Pixels on either side of a seam by which neighbours are compared; auto: 64 (16 in 3-D).
    max_halo
        Pixels beyond a tile that may be read to hold an object whole; auto: 1024 (128 in 3-D).
    steps
        What is made of the image before segmenting, in order: mappings with ``kind`` and options,
        or callables from a block to a block.
    axes
        The axes of an array, one letter each, such as ``"zyx"`` or ``"cyx"``.
    planes
        The plane that is taken, from 0, or ``"all"`` for a volume.
    time
        The time that is taken, from 0.
    bands
        The bands that are taken, by number from 1 or by name; None: all.
    nodata
        The value of pixels that were not measured; None: what the file says.
    iou
        The least intersection over union, above 0 and up to 1, by which parts of an object are
        joined where nothing is proved.
    repair
        How many times, 0 to 8, tiles with disputed seams are segmented again in larger windows.
    on_bad_tile
        What becomes of tiles that cannot be read. ``fail``: nothing is published; ``skip``: the
        rest is, and the result is not complete.
    results
        ``instance``: each object has its id; ``semantic``: each pixel has its class; ``panoptic``:
        both. None: what the segmenter is for.
    labels
        The formats: ``zarr`` (always written), ``cog``, ``ome-tiff``.
    ome_zarr
        The version of OME-Zarr.
    chunk
        The extent of the labels' chunks in pixels; auto: up to 1024 (128 in 3-D).
    shard
        The extent of shards in pixels, ``auto``: a tile, None: no shards.
    into_source
        A name: the labels are also written into the image, an OME-Zarr, as labels/NAME.
    replace_in_source
        Whether other labels of that name may be replaced there.
    legend
        By class: its name, or ``{"name": "water", "colour": "#0040ff"}``.
    table
        The format of the table of objects.
    picture
        Whether to write overview.png, in which each object has its own colour.
    dtype
        The type of the labels; None: the smaller that fits.
    scratch
        A folder, which all workers reach, for what lies between stages; None: inside ``out``.
    keep_scratch
        Whether to keep it, so that ``iou`` can be changed without segmenting again.
    engine
        Where it is computed; see `run`.
    fresh
        Start anew, whatever lies in the output.
    watch
        Called with an `Event` whenever there is progress.

    Returns
    -------
    Result
        The labels, the table of objects and the record.

    Raises
    ------
    TypeError
        There is no such argument; the message says where an option of this name belongs.
    TilewiseError
        See `run`.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> import pipeline
    >>> image = np.array([[9, 9, 0, 9], [9, 0, 0, 9]], np.uint8)
    >>> bright = {"kind": "threshold", "value": 5}
    >>> with tempfile.TemporaryDirectory() as out:
    ...     result = segment(image, bright, out, engine=pipeline.local())
    ...     list(result.objects["area"])
    [3, 2]
    """
    job = Job(
        source=with_reader(image, axes=axes, planes=planes, time=time, bands=bands, nodata=nodata),
        tiles={"size": tile, "halo": halo, "max_halo": max_halo},
        steps=list(steps),
        segmenters={_called(segmenter): segmenter},
        stitch={"iou": iou, "repair": repair},
        on_bad_tile=on_bad_tile,
        output={
            "path": os.fspath(out),
            "results": results,
            "labels": labels,
            "ome_zarr": ome_zarr,
            "chunk": chunk,
            "shard": shard,
            "into_source": into_source,
            "replace_in_source": replace_in_source,
            "legend": {} if legend is None else legend,
            "table": table,
            "picture": picture,
            "dtype": dtype,
            "scratch": scratch,
            "keep_scratch": keep_scratch,
        },
    )
    return run(job, engine, fresh=fresh, watch=watch)


def plan(
    job: JobLike,
    engine: EngineLike = None,
    *,
    changes: Mapping[str, Any] | None = None,
    sample: int = 0,
    watch: Watch | None = None,
) -> PlannedRun:
    """Say what `run` would do, and do nothing.

    Parameters
    ----------
    job
        A `Job`, a mapping of its keys, or the path of a job file (YAML).
    engine
        Where it would be computed; see `run`.
    changes
        Values by dotted key that take the place of the job file's.
    sample
        How many tiles to segment, 0 or more, to tell the seconds and the disk that all would take.
    watch
        Called with an `Event` whenever there is progress.

    Returns
    -------
    PlannedRun
        A mapping: tiles, routes, memory and disk in bytes, what is done already. ``refused`` is the
        error that `run` would raise. It prints as ``tilewise plan`` does.

    Raises
    ------
    TilewiseError
        The job cannot be planned: its image cannot be read, or something does not fit it.

    Examples
    --------
    >>> import numpy as np
    >>> import pipeline
    >>> job = Job(
    ...     source=np.zeros((64, 64), np.uint8),
    ...     tiles={"size": 32},
    ...     segmenters={"land": {"kind": "threshold", "value": 5}},
    ...     output={"path": "out"},
    ... )
    >>> plan(job, engine=pipeline.local())["tiles"]["number"]
    4
    """
    if isinstance(sample, bool) or not isinstance(sample, int) or sample < 0:
        raise JobError(f"sample: {sample!r}; allowed: a number of tiles, 0 or more")
    start = starter(engine)
    asked = job_of(job, changes)
    with start() as started:
        return PlannedRun(foresee(asked, started, sample=sample, watch=watch or silent))


def job_of(given: JobLike, changes: Mapping[str, Any] | None = None) -> Job:
    """Turn what `run` and `plan` accept into a job.

    Parameters
    ----------
    given
        A `Job`, which is returned as it is; a mapping of its keys; or the path of a job file
        (YAML).
    changes
        Values by dotted key, such as ``{"tiles.size": 512}``, that take the place of the job
        file's. They are allowed only with a file.

    Returns
    -------
    Job
        The job, validated.

    Raises
    ------
    JobError
        If ``given`` is nothing of this kind, the file or a key is wrong, or ``changes`` come with
        a job that is not in a file.
    """
    if isinstance(given, (str, os.PathLike)):
        try:
            return from_yaml(given, changes)
        except JobError as error:
            raise JobError(f"{error}{_meant(str(error), changes or {})}") from error
    if changes:
        raise JobError("changes: given with a job that is no file; change the job itself")
    if isinstance(given, Job):
        return given
    if isinstance(given, Mapping):
        return Job(**given)
    raise JobError(f"job: {given!r}; allowed: a Job, a mapping of its keys, or a job file's path")


def _meant(error: str, changes: Mapping[str, Any]) -> str:
    """Where a changed key belongs that the job has not: ``land.min_area`` below ``segmenters``."""
    for key in changes:
        first, _, rest = key.partition(".")
        of_segmenter = "option of" in elsewhere(key.rpartition(".")[2], "segmenters")
        if rest and of_segmenter and error.startswith(f"{first}: there is no such key"):
            return f"; did you mean segmenters.{key}?"
        if of_segmenter and error.startswith(f"{key}: ") and first == "segmenters":
            return f"; an option stands below a segmenter's name: segmenters.NAME.{rest}"
    return ""


def _called(segmenter: Any) -> str:
    """The name of the only segmenter in its job."""
    if isinstance(segmenter, Mapping):
        return str(segmenter.get("kind", "segmenter"))
    return segmenter if isinstance(segmenter, str) else name_of(segmenter).lower()
