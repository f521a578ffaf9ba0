"""The command line. Everything heavy is imported when a command needs it."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from pipeline import __version__
from pipeline.errors import Interrupted, JobError, TilewiseError

if TYPE_CHECKING:
    from pipeline.engine import Engine
    from pipeline.job import Job

app = typer.Typer(
    help="Segment images too large to hold: the same labels, however the image is tiled.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Scheduler = Annotated[
    str | None, typer.Option("--scheduler", metavar="ADDRESS", help="The Dask scheduler to run on, such as tcp://host:8786.")
]
Workers = Annotated[
    int | None, typer.Option("--workers", min=0, help="Processes of a local cluster; 0: in this process. Default: one for each processor.")
]
Gpus = Annotated[
    int,
    typer.Option(
        "--gpus", min=0, help="How many of these processes have a GPU of this machine, one each; segmenters that ask for it go there."
    ),
]
Fresh = Annotated[bool, typer.Option("--fresh", "--overwrite", help="Start anew, whatever the output holds.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object per line, for programs.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@app.command("run")
def run_job(
    job: Annotated[Path, typer.Argument(help="The job file (YAML).", show_default=False)],
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the job: tiles.size=512.")
    ] = None,
    scheduler: Scheduler = None,
    workers: Workers = None,
    gpus: Gpus = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    fresh: Fresh = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Run a job file. The same command again goes on where it was, or says that it is complete."""
    from pipeline.job import from_yaml

    with _errors(debug=debug):
        what = from_yaml(job, dict(_assignment(change, "--set") for change in changes or []))
        where = _place(scheduler, workers, gpus)
        _carry_out(what, where, dry_run=dry_run, fresh=fresh, quiet=quiet, as_json=as_json)


@app.command()
def segment(
    image: Annotated[str, typer.Argument(help="The image.", show_default=False)],
    out: Annotated[str, typer.Argument(help="The folder for the result.", show_default=False)],
    kind: Annotated[str, typer.Option("--with", metavar="KIND", help="The kind of segmenter; see `tilewise methods`.")],
    options: Annotated[list[str] | None, typer.Option("--option", metavar="KEY=VALUE", help="An option of the segmenter.")] = None,
    source: Annotated[
        list[str] | None, typer.Option("--source", metavar="KEY=VALUE", help="An option of the reader: bands=[4,3,2].")
    ] = None,
    tile: Annotated[int | None, typer.Option("--tile", help="The size of a tile in pixels. Default: auto.")] = None,
    halo: Annotated[
        int | None, typer.Option("--halo", help="Pixels on either side of a seam by which tiles are compared. Default: auto.")
    ] = None,
    cog: Annotated[bool, typer.Option("--cog", help="Write the labels as a cloud-optimised GeoTIFF too.")] = False,
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
    from pipeline.job import Job

    with _errors(debug=debug):
        chosen = {"kind": kind, **dict(_assignment(option, "--option") for option in options or [])}
        reader = dict(_assignment(option, "--source") for option in source or [])
        tiles = {key: value for key, value in (("size", tile), ("halo", halo)) if value is not None}
        output = {"path": out, "labels": ["zarr", "cog"] if cog else ["zarr"], "picture": picture}
        what = Job(source={"path": image, **reader}, tiles=tiles, segmenters={kind: chosen}, output=output)
        _carry_out(what, _place(scheduler, workers, gpus), dry_run=False, fresh=fresh, quiet=quiet, as_json=as_json)


@app.command()
def plan(
    job: Annotated[Path, typer.Argument(help="The job file (YAML).", show_default=False)],
    changes: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the job.")] = None,
    scheduler: Scheduler = None,
    workers: Workers = None,
    gpus: Gpus = 0,
    debug: Debug = False,
) -> None:
    """Say what running a job file would do."""
    run_job(job, changes, scheduler, workers, gpus, dry_run=True, debug=debug)


@app.command()
def methods(markdown: Annotated[bool, typer.Option("--markdown", help="Without options, as a table for documents.")] = False) -> None:
    """List the kinds of segmenters: what they find, how far they are exact, and their options with defaults."""
    from pipeline import plugins
    from pipeline.segmenters import exactness

    if markdown:
        typer.echo("| kind | what it finds | identity | exact under tiling |\n|---|---|---|---|")
    for name in plugins.kinds():
        kind = plugins.load(name)
        what, identity = (kind.__doc__ or "").strip().splitlines()[0], getattr(kind, "identity", "object")
        identity = "its decoder's" if isinstance(identity, property) else identity
        if markdown:
            typer.echo(f"| `{name}` | {what} | {identity} | {exactness(kind)} |")
            continue
        typer.echo(f"{name}: {what}\n  identity {identity}, exact {exactness(kind)}")
        for option, parameter in plugins.options(kind).items():
            typer.echo(f"  {option} = {parameter.default!r}")


@app.command()
def evaluate(
    labels: Annotated[Path, typer.Argument(help="A result's folder, or labels as a raster or Zarr.", show_default=False)],
    truth: Annotated[
        str, typer.Argument(help="A raster, Zarr, vector file, COCO JSON (panoptic too), Pascal XML or CSV of boxes.", show_default=False)
    ],
    kind: Annotated[
        str, typer.Option("--kind", help="instance, semantic or panoptic: whether numbers are objects, classes, or both.")
    ] = "instance",
    attribute: Annotated[str | None, typer.Option("--attribute", help="The attribute of a vector file that holds classes.")] = None,
    image: Annotated[str | None, typer.Option("--image", help="Which image of a COCO file.")] = None,
    tolerance: Annotated[int, typer.Option("--tolerance", min=0, help="Pixels between borders that are still the same.")] = 2,
    ignore: Annotated[list[int] | None, typer.Option("--ignore", help="A number of the truth where nothing is asked.")] = None,
    to_json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write all measures there too.")] = None,
    to_picture: Annotated[
        Path | None, typer.Option("--picture", metavar="FILE", help="Write a PNG of what was missed, invented, …")
    ] = None,
    debug: Debug = False,
) -> None:
    """Compare a result with truth."""
    import json

    from pipeline import auditing, fates

    with _errors(debug=debug):
        known: Any = {"path": truth, "attribute": attribute} if attribute else truth
        found = auditing.evaluate(labels, known, kind=kind, tolerance=tolerance, image=image, ignore=ignore or ())  # type: ignore[arg-type]
        if to_json:
            to_json.write_text(json.dumps(found.measures, indent=2) + "\n")
        if to_picture:
            fates.picture(labels, known, found, to_picture, image=image)
        typer.echo("\n".join(auditing.lines(found)))


@app.command()
def verify(
    result: Annotated[Path, typer.Argument(help="The folder of a result.", show_default=False)],
    tiles: Annotated[int, typer.Option("--tiles", min=1, help="How many parts, each of four tiles of another size.")] = 8,
    debug: Debug = False,
) -> None:
    """Segment parts of a result again in other tiles, and compare; exit code 1 where something differs that is called proved."""
    from pipeline.verifying import verify as compare

    with _errors(debug=debug):
        found = compare(result, tiles)
        typer.echo("\n".join(found.lines()))
        if found.wrong:
            sys.exit(1)


@app.command()
def train(
    card: Annotated[Path, typer.Argument(help="The card of a network, with a section `train` (YAML).", show_default=False)],
    out: Annotated[
        Path | None, typer.Argument(help="The folder for the bundle. Default: the card's name, where the command runs.", show_default=False)
    ] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the card: train.steps=500.")
    ] = None,
    fresh: Fresh = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Train a network on images and truth, and leave a bundle. The same command again goes on where it was."""
    from pipeline.progress import watching
    from pipeline.training import loop, recipe

    with _errors(debug=debug):
        what = recipe.from_yaml(card, dict(_assignment(change, "--set") for change in changes or []))
        say: Any = (lambda _line: None) if quiet or as_json else typer.echo
        with watching(quiet=quiet, as_json=as_json) as watch:
            loop.train(what, out or Path(what.card.name), fresh=fresh, watch=watch, say=say)


@app.callback(invoke_without_command=True)
def front(version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False) -> None:
    """Segment images too large to hold: the same labels, however the image is tiled."""
    if version:
        typer.echo(f"tilewise {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line."""
    app()


def _carry_out(job: Job, place: Callable[[], Engine], *, dry_run: bool, fresh: bool, quiet: bool, as_json: bool) -> None:
    import yaml

    from pipeline.planning import plan as make_plan
    from pipeline.progress import watching
    from pipeline.workflow import finished, run

    result, state = None if dry_run or fresh else finished(job), "complete already"
    if result is None:
        with place() as engine, watching(quiet=quiet, as_json=as_json) as watch:
            if dry_run:
                facts = make_plan(job, workers=engine.workers, memory=engine.memory, engine=engine).facts()
                typer.echo(yaml.safe_dump(facts, sort_keys=False, default_flow_style=None))
                return
            result, state = run(job, engine, fresh=fresh, watch=watch), "complete"
    if not quiet and not as_json:
        typer.echo(f"{result.path}: {state}\n" + "\n".join(result.lines()))


def _place(scheduler: str | None, workers: int | None, gpus: int) -> Callable[[], Engine]:
    """Where the work is to be done, ready to be started; JobError if the options exclude each other."""
    from pipeline import engine

    if scheduler is not None and workers is not None:
        raise JobError("--scheduler and --workers are both given; allowed: one of them")
    if scheduler is not None and gpus:
        raise JobError(f"--scheduler and --gpus are both given; its workers say what they have: dask worker {scheduler} --resources GPU=1")
    if workers is not None and gpus > max(workers, 1):
        raise JobError(f"--gpus {gpus} with --workers {workers}; allowed: one for each process at most")
    if scheduler is not None:
        return partial(engine.on, scheduler)
    return partial(engine.local, {"GPU": gpus}) if workers == 0 else partial(engine.cluster, workers, gpus=gpus)


def _assignment(text: str, option: str) -> tuple[str, Any]:
    """``key=value``, the value as YAML reads it."""
    import yaml

    key, equals, value = text.partition("=")
    if not equals or not key:
        raise JobError(f"{option} {text!r}; allowed: key=value")
    try:
        return key.strip(), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise JobError(f"{option} {text!r}: the value is no YAML: {' '.join(str(error).split())}") from error


@contextlib.contextmanager
def _errors(*, debug: bool) -> Iterator[None]:
    """End the command with one message and the exit code of the error."""
    try:
        yield
    except TilewiseError as error:
        if debug:
            raise
        _end(str(error), error.exit_code)
    except KeyboardInterrupt:
        _end("interrupted; the same command goes on from what is recorded", Interrupted.exit_code)


def _end(message: str, code: int) -> NoReturn:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C would end the ending, with a traceback
    typer.echo(f"tilewise: {message}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
