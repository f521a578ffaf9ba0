"""What a run will do, decided before any pixel is segmented: read `plan` from top to bottom.

A `Plan` is also what records say of a run: ``facts`` in plain words, ``identity`` (all that the
labels of its tiles depend on) and ``terms`` (what the result depends on).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config.option_errors import placed, refuse_misplaced
from pipeline.engine import Engine
from pipeline.errors import JobError
from pipeline.execution import output_layout, tile_size
from pipeline.execution.devices import chosen, settled
from pipeline.execution.inputs import accompanied, fingerprints
from pipeline.image.frame import Frame
from pipeline.image.grid import Grid
from pipeline.jobs.binding import Bound, bound
from pipeline.jobs.job import Job
from pipeline.jobs.plugins import kind_of
from pipeline.segmenters import Segmenter, call
from pipeline.segmenters.protocols import HasLegend
from pipeline.sinks.labels_group import Nest
from pipeline.sources import Source, open_source
from pipeline.sources.contract import HoldsLabels, OfFiles
from pipeline.sources.facts import told
from pipeline.stages import ALGORITHMS, FIRST, Method, Run
from pipeline.stages.halo import COMPARED, MAX_HALO, depth_of, furthest
from pipeline.stages.products import HIDDEN, PUBLISHED
from pipeline.storage.locations import joined, lies_in
from pipeline.storage.records import Scratch
from pipeline.version import __version__

STAGING = "staging-"


@dataclass(frozen=True, slots=True)
class Plan:
    """A run as it will be, before the routes of its tiles and the image's statistics are known."""

    job: Job
    """With bands by number, and the names of classes that its segmenters bring."""

    source: Source
    """The image as it was opened; `run` may read a copy of it that lies nearer to the workers."""

    run: Run
    """What tasks need: every tile is routed to the first method."""

    layout: tuple[tuple[int, ...], tuple[int, ...] | None]
    """The extent in pixels, along each axis, of a chunk of the labels, and of a shard if there are
    any. A core is a whole number of them.
    """

    fingerprint: Mapping[str, Any]
    """What tells the image from any other."""

    results: tuple[str, ...] = ("instance",)
    """What is wanted: instance, semantic, panoptic."""

    @property
    def folder(self) -> Path:
        """Where the result goes."""
        return Path(self.job.output.path).absolute()

    @property
    def image(self) -> str:
        """What messages and files call the image: its file's name, or its type if in memory."""
        source = self.job.plain()["source"]
        path = source["path"] if isinstance(source, Mapping) else source
        if isinstance(path, (list, tuple)) and path:
            return f"{Path(str(path[0])).name} and {len(path) - 1} more"
        return Path(str(path)).name

    @property
    def hidden(self) -> Path:
        """The folder, inside that of the result, of all that is no product."""
        return self.folder / HIDDEN

    @property
    def staging(self) -> Path:
        """Where the result is written until it is whole. Each run has a folder of its own, and so
        has each way of joining its tiles.
        """
        return self.hidden / f"{STAGING}{self.run.scratch.join}"

    def of(self, run: str, join: str) -> Plan:
        """The same plan with the records of the run, and of the way of joining its tiles, that have
        these names.
        """
        return replace(self, run=replace(self.run, scratch=scratch(self.job).of(run, join)))

    @property
    def nest(self) -> Nest | None:
        """Where labels go in the image itself, if the job asks for that. JobError if the image has
        no place for them.
        """
        if self.job.output.into_source is None:
            return None
        if not isinstance(self.source, HoldsLabels):
            raise JobError(
                "output.into_source: labels lie in OME-Zarr images only; allowed: none of "
                "another image"
            )
        # neither the tiles, which depend on the workers' memory, nor the devices alter the labels
        same = {
            key: what for key, what in self.identity().items() if key not in ("tiles", "devices")
        }
        mark = hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()
        try:
            home = self.source.home()
        except JobError as error:
            raise JobError(f"output.into_source: {error}") from error
        return Nest(home, self.job.output.into_source, mark, self.job.output.replace_in_source)

    def identity(self) -> dict[str, Any]:
        """All that the labels of tiles depend on: a run begun with another identity is not
        resumed.
        """
        job = self.job.plain()
        methods = self.run.methods
        devices = chosen(self.job.segmenters, methods)
        return {
            "algorithms": ALGORITHMS,
            "source": self._image_identity(),
            "tiles": {
                "size": list(self.run.grid.tile),
                "depth": self.run.depth,
                "max_halo": self.run.max_halo,
                "memory": self.run.memory,
            },
            "steps": job["steps"],
            "segmenters": job["segmenters"],
            "identities": {method.name: method.contract.identity for method in methods},
            "companions": {method.name: fingerprints(method.segmenter) for method in methods},
            "route": job["route"]
            or sorted(({**layer, "classes": None} for layer in job["layers"]), key=str),
            **({"devices": devices} if devices else {}),
        }

    def _image_identity(self) -> dict[str, Any]:
        frame = self.source.frame
        finite = frame.nodata is None or math.isfinite(frame.nodata)
        return {
            "fingerprint": dict(self.fingerprint),
            "shape": list(frame.shape),
            "bands": list(frame.bands),
            "nodata": frame.nodata if finite else str(frame.nodata),  # NaN is not equal to itself
        }

    def terms(self) -> dict[str, Any]:
        """The identity, and what only the stages after segmenting depend on."""
        layers = {"layers": self.job.plain()["layers"]} if self.job.layers else {}
        terms = {
            "identity": self.identity(),
            **layers,
            "stitch": self.job.stitch.model_dump(),
            "output": self.job.output.model_dump(exclude={"path", "scratch", "keep_scratch"}),
        }
        # as it is read back from a record, where all keys are text
        return dict(json.loads(json.dumps(terms)))

    def facts(self) -> dict[str, Any]:
        """The plan in plain words and numbers."""
        run = self.run
        takes = {method.name: tile_size.takes(run, method, run.grid.tile) for method in run.methods}
        doubts = told(self.source).get("not_understood")
        chunk, shard = self.layout
        return {
            "tilewise": __version__,
            "frame": asdict(self.source.frame),
            **({"not_understood": doubts} if doubts else {}),
            "tiles": {
                "number": len(run.grid),
                "grid": list(run.grid.counts),
                "size": list(run.grid.tile),
                "chunk": list(chunk),
                **({"shard": list(shard)} if shard is not None else {}),
            },
            "devices": {method.name: method.contract.device for method in run.methods},
            "halo": {method.name: run.halo_of(method).facts() for method in run.methods},
            "max_halo": run.max_halo,
            "bytes": takes,
            "bytes_per_task": max(sum(terms.values()) for terms in takes.values()),
            "bytes_allowed": run.memory,
        }


def plan(
    job: Job,
    *,
    workers: int,
    memory: int,
    begun: Mapping[str, Any] | None = None,
    engine: Engine | None = None,
    source: Source | None = None,
) -> Plan:
    """Open the image and settle everything that a run needs to know before it starts.

    Parameters
    ----------
    job
        What to do.
    workers
        How many tasks run at once.
    memory
        Bytes that one task may use.
    begun
        The ``tiles`` and ``devices`` of the identity of a run that is resumed: what was chosen by
        the workers that it had is kept.
    engine
        Where it will run, to be asked for the devices that segmenters need; None: nowhere yet.
    source
        The job's image, where it is open already; None: it is opened here.

    Raises
    ------
    SourceError
        If the image cannot be opened.
    JobError
        If a tile cannot fit into the memory, or keys do not fit the image.
    ClusterError
        If a segmenter is to run on a GPU and no worker offers one.
    """
    begun = begun or {}
    job = _with_legend(job)
    source = opened(job) if source is None else source
    suited = bound(job, source.frame)
    job = suited.job
    _refuse_keys(job, source.frame)
    methods = settled(_with_inputs(suited), engine, begun.get("devices", {}))
    wanted = results(job, methods, source.frame.ndim)
    _refuse_misfits(job, methods, wanted, suited.pixel)
    methods = _as_wanted(job, methods, wanted)
    run = _uncut(job, source, methods, begun.get("memory", memory))
    run = _cut(job, run, workers, begun.get("size", ()))
    layout = output_layout.layout(job.output, run.grid.tile, run.grid.shape)
    made = Plan(job, source, run, layout, source.fingerprint(), wanted)
    _ = made.nest  # refuses an image that has no place for labels
    refuse_own_image(made.job, made.source)
    return made


def _with_legend(job: Job) -> Job:
    """The job with the names of classes that its segmenters bring, where it does not give them."""
    brought = {
        name: what.legend if isinstance(what, HasLegend) else {}
        for name, what in job.segmenters.items()
    }
    known = {number: entry for entries in brought.values() for number, entry in entries.items()}
    if job.layers:  # a class keeps its name unless its layer makes one class of several
        each = [layer for layer in job.layers if not isinstance(layer.classes, int)]
        known = {
            layer.final(number): entry
            for layer in each
            for number, entry in brought[layer.use].items()
            if layer.final(number)
        }
    output = job.output.model_copy(update={"legend": {**known, **job.output.legend}})
    return job.model_copy(update={"output": output}) if known else job


def opened(job: Job) -> Source:
    """The image of a job; JobError names the option of its source that does not fit."""
    if not isinstance(job.source, Mapping):
        return job.source if hasattr(job.source, "fingerprint") else open_source(job.source)
    options = {str(key): value for key, value in job.source.items()}
    try:
        refuse_misplaced(options, map(kind_of, job.segmenters.values()))
        return open_source(options.pop("path"), **options)
    except JobError as error:
        raise JobError(placed(str(error), "source", options)) from error


def scratch(job: Job) -> Scratch:
    """Where the run's records lie: inside the output, or in a folder of its own name elsewhere."""
    folder = Path(job.output.path).absolute()
    if job.output.scratch is None:
        return Scratch(str(folder / HIDDEN))
    return Scratch(str(Path(job.output.scratch).absolute() / "__".join(folder.parts[1:])))


def _with_inputs(suited: Bound) -> dict[str, Segmenter]:
    """The segmenters by name, with the files that they are given opened."""
    return {
        name: accompanied(segmenter, suited.frame, f"segmenters.{name}")
        for name, segmenter in suited.job.segmenters.items()
    }


def results(job: Job, methods: Sequence[Method], ndim: int) -> tuple[str, ...]:
    """What is wanted: what the job says, or what its segmenters are for.

    Parameters
    ----------
    job
        What to do.
    methods
        Its segmenters with their contracts.
    ndim
        2 or 3: the number of the image's dimensions.

    Raises
    ------
    JobError
        If a panoptic result is wanted of a volume.
    """
    wanted = tuple(job.output.results or ())
    if "panoptic" in wanted and ndim == 3:
        raise JobError(
            "output.results: panoptic of a volume; allowed: instance and semantic, which are the "
            "pair of its rasters"
        )
    contracts = [method.contract for method in methods]
    both = bool(job.layers) or all(contract.things is not None for contract in contracts)
    if "panoptic" in wanted or (both and not wanted):
        return ("instance", "semantic", "panoptic") if ndim == 2 else ("instance", "semantic")
    if wanted:
        return wanted
    semantic = all(contract.result == "semantic" for contract in contracts)
    return ("semantic",) if semantic else ("instance",)


def _as_wanted(job: Job, methods: Sequence[Method], wanted: Sequence[str]) -> tuple[Method, ...]:
    """The methods, with the identity ``class`` where only the classes of pixels are wanted.

    Parameters
    ----------
    job
        What to do.
    methods
        Its segmenters with their contracts.
    wanted
        The results that are wanted.
    """
    if not job.layers and not all(method.contract.plain for method in methods):
        # An object of a method that decides by whole objects may go on in a tile of another
        # method, which must draw objects too.
        return tuple(methods)
    objects = bool(job.layers) or "instance" in wanted
    stuff = {layer.stuff for layer in job.layers}
    return tuple(
        replace(method, contract=replace(method.contract, identity="class"))
        if method.contract.plain and (method.name in stuff or not objects)
        else method
        for method in methods
    )


def _uncut(job: Job, source: Source, methods: tuple[Method, ...], memory: int) -> Run:
    """The run before the image is cut into tiles. JobError if a segmenter looks further than a tile
    may read.

    Parameters
    ----------
    job
        What to do.
    source
        The image.
    methods
        The job's segmenters with their contracts, as the run uses them.
    memory
        Bytes that one task may use.
    """
    ndim = source.frame.ndim
    asked = COMPARED[ndim] if job.tiles.halo == "auto" else job.tiles.halo
    most = MAX_HALO[ndim] if job.tiles.max_halo == "auto" else job.tiles.max_halo
    run = Run(
        source=source,
        grid=Grid(source.frame.shape, source.frame.shape),
        methods=methods,
        routes=np.zeros(0, np.int16),
        depth=depth_of([method.contract for method in methods], asked),
        max_halo=most,
        memory=memory,
        scratch=scratch(job),
        least_iou=job.stitch.iou,
        steps=tuple(job.steps),
    )
    halos = {method.name: run.halo_of(method) for method in methods}
    return replace(run, max_halo=furthest(halos, most))


def _cut(job: Job, run: Run, workers: int, before: Sequence[int]) -> Run:
    """The run with the image cut into tiles, each routed to the first method. JobError if a tile
    takes too much memory, or there are too many.

    Parameters
    ----------
    job
        What to do.
    run
        The run before.
    workers
        How many tasks run at once.
    before
        The extent of a tile of the run that is resumed, which is kept where the job says ``auto``;
        empty: none is resumed.
    """
    shape = run.grid.shape
    if job.tiles.size == "auto" and len(before) == len(shape):
        tile = tuple(before)
    else:
        tile = tile_size.tile(job.tiles.size, run, workers)
        if job.tiles.size == "auto":
            tile = output_layout.whole(job.output, tile, shape)
    grid = Grid(shape, tile)
    tile_size.refuse_too_many(grid)
    run = replace(run, grid=grid, routes=np.full(len(grid), FIRST, np.int16))
    tile_size.refuse_too_large(run)
    return run


def _refuse_keys(job: Job, frame: Frame) -> None:
    """JobError if rules or files that the job names do not fit the image."""
    job.refuse_misfit(len(frame.bands))
    output_layout.refuse(job.output, frame)


def _refuse_misfits(job: Job, methods: Sequence[Method], wanted: Sequence[str], pixel: Any) -> None:
    """JobError if a segmenter does not fit the image, or what is wanted of it.

    Parameters
    ----------
    job
        What to do.
    methods
        Its segmenters with their contracts.
    wanted
        The results that are wanted.
    pixel
        One pixel of the image after all steps, (band, 1, 1) or (band, 1, 1, 1).
    """
    ndim = pixel.ndim - 1
    lines_allowed = not job.layers and "instance" in wanted and ndim == 2
    for method in methods:
        try:
            _refuse_misfit(method, pixel)
        except JobError as error:
            raise JobError(f"segmenters.{method.name}: {error}") from error
        if method.contract.lines and not lines_allowed:
            raise JobError(
                f"segmenters.{method.name}: lines without objects, in layers, or in a volume; "
                f"allowed: results: [instance], in two dimensions"
            )


def _refuse_misfit(method: Method, pixel: Any) -> None:
    """JobError if a segmenter is for images of other dimensions or bands than a pixel's."""
    method.contract.neighbours(pixel.ndim - 1)
    for name in ("feature", "features"):
        if hasattr(method.segmenter, name):
            call(getattr(method.segmenter, name), pixel, np.ones(pixel.shape[1:], bool))


def refuse_own_image(job: Job, source: Source) -> None:
    """JobError where the result of a job would take the place of its image, or of a file that
    belongs to it.
    """
    for file in source.files if isinstance(source, OfFiles) else ():
        if any(lies_in(file, joined(job.output.path, name)) for name in PUBLISHED):
            raise JobError(
                f"output.path: {job.output.path}; a result there may take the place of "
                f"{file}; choose another folder"
            )
