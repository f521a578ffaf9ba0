"""What a run will do, decided before anything is read: the grid, the halo, the methods; and what
will be refused.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
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
from pipeline.image.grid import Grid
from pipeline.jobs.binding import bound
from pipeline.jobs.job import Job
from pipeline.jobs.plugins import kind_of
from pipeline.segmenters import Contract, call
from pipeline.sinks.labels_group import Nest
from pipeline.sources import Source, open_source
from pipeline.sources.facts import told
from pipeline.stages import ALGORITHMS, FIRST, Method, Run, depth_of
from pipeline.stages.products import HIDDEN, PUBLISHED
from pipeline.storage.locations import joined, lies_in
from pipeline.storage.records import Scratch
from pipeline.version import __version__

HALO = {2: 64, 3: 16}
STAGING = "staging-"
MAX_HALO = {2: 1024, 3: 128}


@dataclass(frozen=True, slots=True)
class Plan:
    """A run as it will be, before routes and statistics are known."""

    job: Job
    source: Source
    run: Run
    layout: tuple[tuple[int, ...], tuple[int, ...] | None]
    """The chunk of the labels along each axis, and the shard, if there are any; a core is a whole
    number of them.
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
        """What the image is called: its file's name, or what it is in memory."""
        source = self.job.plain()["source"]
        path = source["path"] if isinstance(source, Mapping) else source
        if isinstance(path, (list, tuple)) and path:
            return f"{Path(str(path[0])).name} and {len(path) - 1} more"
        return Path(str(path)).name

    @property
    def hidden(self) -> Path:
        """Where in the result's folder that lies which is no product."""
        return self.folder / HIDDEN

    @property
    def staging(self) -> Path:
        """Where the result lies until it is whole: that of this run, and of this way of joining its
        tiles.
        """
        return self.hidden / f"{STAGING}{self.run.scratch.join}"

    def of(self, run: str, join: str) -> Plan:
        """The same, of one run: with its own records."""
        return replace(self, run=replace(self.run, scratch=scratch(self.job).of(run, join)))

    @property
    def nest(self) -> Nest | None:
        """Where labels go in the image itself, if that is asked for; JobError if it has no place
        for them.
        """
        if self.job.output.into_source is None:
            return None
        if not hasattr(self.source, "home"):
            raise JobError(
                "output.into_source: labels lie in OME-Zarr images only; allowed: none of "
                "another image"
            )
        same = {
            key: what for key, what in self.identity().items() if key not in ("tiles", "devices")
        }  # and memory: as workers have it
        mark = hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()
        try:
            home = self.source.home()
        except JobError as error:
            raise JobError(f"output.into_source: {error}") from error
        return Nest(home, self.job.output.into_source, mark, self.job.output.replace_in_source)

    def identity(self) -> dict[str, Any]:
        """All that the labels of tiles depend on: a run begun with another identity is
        not resumed.
        """
        job, frame = self.job.plain(), self.source.frame
        devices = chosen(
            self.job.segmenters, {method.name: method.contract for method in self.run.methods}
        )
        return {
            "algorithms": ALGORITHMS,
            "source": {
                "fingerprint": dict(self.fingerprint),
                "shape": list(frame.shape),
                "bands": list(frame.bands),
                "nodata": frame.nodata
                if frame.nodata is None or math.isfinite(frame.nodata)
                else str(frame.nodata),  # NaN is not itself
            },
            "tiles": {
                "size": list(self.run.grid.tile),
                "depth": self.run.depth,
                "max_halo": self.run.max_halo,
                "memory": self.run.memory,
            },
            "steps": job["steps"],
            "segmenters": job["segmenters"],
            "identities": {method.name: method.contract.identity for method in self.run.methods},
            "companions": {
                method.name: fingerprints(method.segmenter) for method in self.run.methods
            },
            "route": job["route"]
            or sorted(({**layer, "classes": None} for layer in job["layers"]), key=str),
            **({"devices": devices} if devices else {}),
        }

    def terms(self) -> dict[str, Any]:
        """The identity, and what only the stages after segmenting depend on."""
        output = self.job.output.model_dump(exclude={"path", "scratch", "keep_scratch"})
        layers = {"layers": self.job.plain()["layers"]} if self.job.layers else {}
        terms = {
            "identity": self.identity(),
            **layers,
            "stitch": self.job.stitch.model_dump(),
            "output": output,
        }
        return dict(
            json.loads(json.dumps(terms))
        )  # as a record gives it back: numbers of classes are keys of mappings

    def _halo(self, method: Method) -> dict[str, int]:
        """A halo, and what it is made of."""
        steps = self.run.reach_of_steps()
        return {
            "pixels": method.halo,
            "reach": method.contract.reach,
            "steps": steps,
            "compared": self.run.depth,
        }

    def facts(self) -> dict[str, Any]:
        """The plan in plain words and numbers."""
        run, frame = self.run, self.source.frame
        takes = {method.name: tile_size.takes(run, method, run.grid.tile) for method in run.methods}
        return {
            "tilewise": __version__,
            "frame": asdict(frame),
            **(
                {"not_understood": doubts}
                if (doubts := told(self.source).get("not_understood"))
                else {}
            ),
            "tiles": {
                "number": len(run.grid),
                "grid": list(run.grid.counts),
                "size": list(run.grid.tile),
                "chunk": list(self.layout[0]),
            }
            | ({} if self.layout[1] is None else {"shard": list(self.layout[1])}),
            "devices": {method.name: method.contract.device for method in run.methods},
            "halo": {method.name: self._halo(method) for method in run.methods},
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
    """Open the source and settle what is left to choose.

    Parameters
    ----------
    job
        What to do.
    workers
        How many tasks run at once.
    memory
        Bytes that one task may use.
    begun
        The ``tiles`` and ``devices`` of the identity of a run that is being resumed: what depended
        on its workers then is not chosen anew.
    engine
        Where it will run, to be asked for the devices that segmenters want; None: nowhere yet.
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
    job, begun = _named(job), begun or {}
    memory = begun.get("memory", memory)
    source = opened(job) if source is None else source
    suited = bound(job, source.frame)
    job, pixel = suited.job, suited.pixel
    job.refuse_misfit(len(source.frame.bands))
    output_layout.refuse(job.output, source.frame)
    shape = source.frame.shape
    given = {
        name: accompanied(segmenter, suited.frame, f"segmenters.{name}")
        for name, segmenter in job.segmenters.items()
    }
    segmenters, contracts = settled(given, engine, begun.get("devices", {}))
    wanted, stuff = results(job, contracts, len(shape)), {layer.stuff for layer in job.layers}
    for name, contract in contracts.items():
        _refuse_misfit(f"segmenters.{name}", segmenters[name], contract, pixel)
        if contract.lines and (job.layers or "instance" not in wanted or len(shape) != 2):
            raise JobError(
                f"segmenters.{name}: lines without objects, in layers, or in a volume; allowed: "
                f"results: [instance], in two dimensions"
            )
    classes_only = {
        name for name in contracts if name in stuff or not (job.layers or "instance" in wanted)
    }
    if not job.layers and not all(contract.plain for contract in contracts.values()):
        # an object of a route that decides by whole objects may go on in any other, which must draw
        # objects too
        classes_only = set()
    contracts = {
        name: replace(c, identity="class") if name in classes_only and c.plain else c
        for name, c in contracts.items()
    }
    asked = HALO[len(shape)] if job.tiles.halo == "auto" else job.tiles.halo
    depth = depth_of(list(contracts.values()), asked)
    steps = tuple(job.steps)
    far = depth + sum(step.reach for step in steps)
    methods = tuple(
        Method(name, segmenters[name], c, c.reach + far) for name, c in contracts.items()
    )
    most = MAX_HALO[len(shape)] if job.tiles.max_halo == "auto" else job.tiles.max_halo
    none = np.zeros(0, np.int16)
    tile_size.refuse_far_sight(methods, steps, most)
    most = max(most, *(method.halo for method in methods))  # every window reads so far
    draft = Run(
        source,
        Grid(shape, shape),
        methods,
        none,
        depth,
        most,
        memory,
        scratch(job),
        job.stitch.iou,
        steps,
    )
    tile = (
        tuple(begun["size"])
        if job.tiles.size == "auto" and len(begun.get("size", ())) == len(shape)
        else tile_size.tile(job.tiles.size, draft, workers)
    )
    if job.tiles.size == "auto" and "size" not in begun:
        tile = output_layout.whole(job.output, tile, shape)
    grid = Grid(shape, tile)
    tile_size.refuse_too_many(grid)
    run = replace(draft, grid=grid, routes=np.full(len(grid), FIRST, np.int16))
    tile_size.refuse_too_large(run)
    made = Plan(
        job,
        source,
        run,
        output_layout.layout(job.output, tile, shape),
        source.fingerprint(),
        wanted,
    )
    _ = made.nest  # refused now where the image has no place for it
    _refuse_own_image(made)
    return made


def _refuse_own_image(draft: Plan) -> None:
    """JobError where the result would take the place of the image, or of a file that
    belongs to it.
    """
    image: Any = getattr(draft.source, "files", getattr(draft.source, "path", ()))
    for file in (image,) if isinstance(image, (str, os.PathLike)) else image:
        if any(lies_in(os.fspath(file), joined(draft.job.output.path, name)) for name in PUBLISHED):
            raise JobError(
                f"output.path: {draft.job.output.path}; a result there may take the place of "
                f"{file}; choose another folder"
            )


def results(job: Job, contracts: Mapping[str, Contract], ndim: int) -> tuple[str, ...]:
    """What is wanted: what the job says, or what its segmenters are for; JobError if there is no
    such result of a volume.
    """
    wanted = tuple(job.output.results or ())
    if "panoptic" in wanted and ndim == 3:
        raise JobError(
            "output.results: panoptic of a volume; allowed: instance and semantic, which are the "
            "pair of its rasters"
        )
    both = bool(job.layers) or all(contract.things is not None for contract in contracts.values())
    if "panoptic" in wanted or (both and not wanted):
        return ("instance", "semantic", "panoptic") if ndim == 2 else ("instance", "semantic")
    return wanted or (
        ("semantic",)
        if all(contract.result == "semantic" for contract in contracts.values())
        else ("instance",)
    )


def _named(job: Job) -> Job:
    """The job with the names of classes that its segmenters bring, where it does not give them."""
    brought = {name: getattr(what, "legend", {}) for name, what in job.segmenters.items()}
    known = {number: entry for entries in brought.values() for number, entry in entries.items()}
    if job.layers:  # a class of several keeps its name where it stays alone
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


def _refuse_misfit(where: str, segmenter: Any, contract: Contract, pixel: Any) -> None:
    """JobError if the segmenter is for images of other dimensions or bands than a pixel's."""
    try:
        contract.neighbours(pixel.ndim - 1)
        for name in ("feature", "features"):
            if hasattr(segmenter, name):
                call(getattr(segmenter, name), pixel, np.ones(pixel.shape[1:], bool))
    except JobError as error:
        raise JobError(f"{where}: {error}") from error
