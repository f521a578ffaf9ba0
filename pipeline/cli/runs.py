"""Commands that run jobs: `run`, `segment` and `plan`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pipeline.cli.console import (
    AsJson,
    Changes,
    Debug,
    FactsAsJson,
    Fresh,
    Gpus,
    Quiet,
    Reader,
    Scheduler,
    Workers,
    assignments,
    echo_facts,
    errors,
    image_of,
    options_of,
    writable,
)
from pipeline.errors import JobError, TilesError

if TYPE_CHECKING:
    from pipeline.api.runs import PlannedRun
    from pipeline.engine import Engine
    from pipeline.execution.result import Result

JobFile = Annotated[Path, typer.Argument(help="The job file (YAML).", show_default=False)]


def run_job(
    job: JobFile,
    changes: Changes = None,
    scheduler: Scheduler = None,
    workers: Workers = None,
    gpus: Gpus = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")
    ] = False,
    fresh: Fresh = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Run a job file. The same command again goes on where it was, or says that it is complete."""
    from pipeline.api import runs

    with errors(debug=debug):
        what = runs.job_of(job, assignments(changes, "--set"))
        where = _place(scheduler, workers, gpus)
        if dry_run:
            _report(runs.plan(what, where), as_json=as_json)
        else:
            work = partial(runs.run, what, where, fresh=fresh)
            _carry_out(work, quiet=quiet, as_json=as_json)


def segment(
    image: Annotated[str, typer.Argument(help="The image.", show_default=False)],
    out: Annotated[str, typer.Argument(help="The folder for the result.", show_default=False)],
    kind: Annotated[
        str,
        typer.Option(
            "--with", metavar="KIND", help="The kind of segmenter; see `tilewise methods`."
        ),
    ],
    options: Annotated[
        list[str] | None,
        typer.Option(
            "--option",
            "--set",
            metavar="KEY=VALUE",
            help="An option of the segmenter: band=nir, index=nir,red, weights.nir=0.5. See "
            "`tilewise methods KIND`.",
        ),
    ] = None,
    source: Reader = None,
    tile: Annotated[
        int | None, typer.Option("--tile", help="The size of a tile in pixels. Default: auto.")
    ] = None,
    halo: Annotated[
        int | None,
        typer.Option(
            "--halo",
            help="Pixels on either side of a seam by which tiles are compared. Default: auto.",
        ),
    ] = None,
    cog: Annotated[
        bool, typer.Option("--cog", help="Write the labels as a cloud-optimised GeoTIFF too.")
    ] = False,
    ome_tiff: Annotated[
        bool,
        typer.Option("--ome-tiff", help="Write the labels as an OME-TIFF too, for microscopy."),
    ] = False,
    picture: Annotated[bool, typer.Option("--picture", help="Write overview.png too.")] = False,
    scheduler: Scheduler = None,
    workers: Workers = None,
    gpus: Gpus = 0,
    fresh: Fresh = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Segment one image with one method: a job without a file."""
    from pipeline.api import runs

    with errors(debug=debug):
        read_as = image_of(image, source)
        formats: list[Literal["zarr", "cog", "ome-tiff"]] = ["zarr"]
        formats += ["cog"] if cog else []
        formats += ["ome-tiff"] if ome_tiff else []
        work = partial(
            runs.segment,
            read_as,
            {"kind": kind, **options_of(options, "--option")},
            out,
            tile="auto" if tile is None else tile,
            halo="auto" if halo is None else halo,
            labels=formats,
            picture=picture,
            engine=_place(scheduler, workers, gpus),
            fresh=fresh,
        )
        _carry_out(work, quiet=quiet, as_json=as_json)


def plan(
    job: JobFile,
    changes: Changes = None,
    sample: Annotated[
        int,
        typer.Option(
            "--sample", min=0, help="Segment so many tiles to tell how long all would take."
        ),
    ] = 0,
    picture: Annotated[
        Path | None,
        typer.Option(
            "--picture", metavar="FILE", help="Write a PNG of the tiles and their routes."
        ),
    ] = None,
    scheduler: Scheduler = None,
    workers: Workers = None,
    gpus: Gpus = 0,
    as_json: FactsAsJson = False,
    debug: Debug = False,
) -> None:
    """Say what running a job file would do: tiles, routes, memory, disk, what is done already and
    what would be refused.
    """
    from pipeline.api import runs

    with errors(debug=debug):
        writable(picture)
        what = runs.job_of(job, assignments(changes, "--set"))
        planned = runs.plan(what, _place(scheduler, workers, gpus), sample=sample)
        _report(planned, picture=picture, as_json=as_json)


def _report(planned: PlannedRun, *, picture: Path | None = None, as_json: bool) -> None:
    """Print what a run would do; raise why it would be refused."""
    echo_facts(planned, as_json=as_json)
    if picture:
        planned.picture(picture)
    if planned.refused:
        raise planned.refused


def _carry_out(work: Callable[..., Result], *, quiet: bool, as_json: bool) -> None:
    """Run a job with progress, and print what it left; TilesError where it is not complete."""
    from pipeline.cli.progress import Heard, watching

    with watching(quiet=quiet, as_json=as_json) as watch:
        listener = Heard(watch)
        result = work(watch=listener)
    missing = result.missing()
    if not quiet and not as_json:
        done = "complete" if listener.events else "complete already"
        typer.echo(f"{result.path}: {'NOT complete' if missing else done}")
        typer.echo("\n".join(result.lines()))
    if missing:
        raise TilesError(missing)


def _place(scheduler: str | None, workers: int | None, gpus: int) -> Callable[[], Engine]:
    """Return a function that starts the engine; JobError if the options exclude each other."""
    from pipeline import engine

    if scheduler is not None and workers is not None:
        raise JobError("--scheduler and --workers are both given; allowed: one of them")
    if scheduler is not None and gpus:
        raise JobError(
            f"--scheduler and --gpus are both given; its workers say what they have: dask worker "
            f"{scheduler} --resources GPU=1"
        )
    if workers is not None and gpus > max(workers, 1):
        raise JobError(
            f"--gpus {gpus} with --workers {workers}; allowed: one for each process at most"
        )
    if scheduler is not None:
        return partial(engine.on, scheduler)
    if workers == 0:
        return partial(engine.local, {"GPU": gpus})
    return partial(engine.cluster, workers, gpus=gpus)
