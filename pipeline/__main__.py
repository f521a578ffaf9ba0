"""The command line: `run`, `segment` and `plan`; the other commands are in
`pipeline.cli.commands`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli import commands
from pipeline.cli.console import (
    AsJson,
    Debug,
    Fresh,
    Gpus,
    Quiet,
    Reader,
    Scheduler,
    Workers,
    app,
    assignments,
    errors,
    whole,
    writable,
)
from pipeline.config.logs import redact_all
from pipeline.errors import JobError, TilesError
from pipeline.version import __version__

if TYPE_CHECKING:
    from pipeline.engine import Engine
    from pipeline.jobs.job import Job


@app.command("run")
def run_job(
    job: Annotated[Path, typer.Argument(help="The job file (YAML).", show_default=False)],
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the job: tiles.size=512."),
    ] = None,
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
    from pipeline.jobs.job import from_yaml

    with errors(debug=debug):
        what = from_yaml(job, assignments(changes, "--set"))
        where = _place(scheduler, workers, gpus)
        if dry_run:
            _foretell(what, where, as_json=as_json)
        else:
            _carry_out(what, where, fresh=fresh, quiet=quiet, as_json=as_json)


@app.command()
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
        typer.Option("--option", metavar="KEY=VALUE", help="An option of the segmenter."),
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
    from pipeline.jobs.job import Job

    with errors(debug=debug):
        chosen = {"kind": kind, **assignments(options, "--option")}
        reader = assignments(source, "--source")
        if "path" in reader:
            raise JobError(
                f"--source path={reader['path']}: given beside the image, {image}; allowed: one "
                f"of them"
            )
        tiles = {key: value for key, value in (("size", tile), ("halo", halo)) if value is not None}
        labels = [
            "zarr",
            *(name for name, asked in (("cog", cog), ("ome-tiff", ome_tiff)) if asked),
        ]
        output = {"path": out, "labels": labels, "picture": picture}
        what = Job(
            source={"path": image, **reader}, tiles=tiles, segmenters={kind: chosen}, output=output
        )
        _carry_out(
            what, _place(scheduler, workers, gpus), fresh=fresh, quiet=quiet, as_json=as_json
        )


@app.command()
def plan(
    job: Annotated[Path, typer.Argument(help="The job file (YAML).", show_default=False)],
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the job."),
    ] = None,
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
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    debug: Debug = False,
) -> None:
    """Say what running a job file would do: tiles, routes, memory, disk, what is done already and
    what would be refused.
    """
    from pipeline.jobs.job import from_yaml

    with errors(debug=debug):
        writable(picture)
        what = from_yaml(job, assignments(changes, "--set"))
        _foretell(
            what, _place(scheduler, workers, gpus), sample=sample, picture=picture, as_json=as_json
        )


for looking in (
    commands.info,
    commands.methods,
    commands.evaluate,
    commands.verify,
    commands.train,
    commands.schema,
):
    app.command()(looking)


@app.callback(invoke_without_command=True)
def front(
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    """Segment images too large to hold: the same labels, however the image is tiled."""
    if version:
        typer.echo(f"tilewise {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line."""
    redact_all()
    app()


def _foretell(
    job: Job,
    place: Callable[[], Engine],
    *,
    sample: int = 0,
    picture: Path | None = None,
    as_json: bool,
) -> None:
    from pipeline.execution.dry_run import foresee

    with place() as engine:
        found = foresee(job, engine, sample=sample)
    typer.echo(whole(found.facts, as_json=as_json))
    if picture:
        found.picture(picture)
    if found.refused:
        raise found.refused


def _carry_out(
    job: Job, place: Callable[[], Engine], *, fresh: bool, quiet: bool, as_json: bool
) -> None:
    from pipeline.cli.progress import watching
    from pipeline.workflow import finished, run

    result, state = None if fresh else finished(job), "complete already"
    if result is None:
        with place() as engine, watching(quiet=quiet, as_json=as_json) as watch:
            result, state = run(job, engine, fresh=fresh, watch=watch), "complete"
    missing = result.missing()
    if not quiet and not as_json:
        typer.echo(
            f"{result.path}: {'NOT complete' if missing else state}\n" + "\n".join(result.lines())
        )
    if missing:
        raise TilesError(missing)


def _place(scheduler: str | None, workers: int | None, gpus: int) -> Callable[[], Engine]:
    """Where the work is to be done, ready to be started; JobError if the options exclude each
    other.
    """
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
    return (
        partial(engine.local, {"GPU": gpus})
        if workers == 0
        else partial(engine.cluster, workers, gpus=gpus)
    )


if __name__ == "__main__":
    main()
