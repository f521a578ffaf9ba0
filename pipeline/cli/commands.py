"""Commands that look at things, and train: kinds of segmenters, images, results, networks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.cli.console import (
    AsJson,
    Debug,
    Fresh,
    Quiet,
    Reader,
    assignments,
    errors,
    whole,
    writable,
)


def info(
    image: Annotated[str, typer.Argument(help="The image.", show_default=False)],
    source: Reader = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    debug: Debug = False,
) -> None:
    """Say what an image is, as it is read with these options: its shape, bands, type, place,
    levels, what was not measured, and more.
    """
    from pipeline.sources import open_source
    from pipeline.sources.inspection import inspected, shown

    with errors(debug=debug):
        found = inspected(image, open_source(image, **assignments(source, "--source")))
        typer.echo(whole(found if as_json else shown(found), as_json=as_json))


def schema() -> None:
    """Print the JSON schema of job files, by which editors complete and check them."""
    from pipeline.jobs.schema import schema as known

    typer.echo(whole(known(), as_json=True))


def methods(
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Without options, as a table for documents.")
    ] = False,
) -> None:
    """List the kinds of segmenters: what they find, how far they are exact, and their options with
    defaults.
    """
    from pipeline.jobs import plugins
    from pipeline.segmenters import exactness

    if markdown:
        typer.echo("| kind | what it finds | identity | exact under tiling |\n|---|---|---|---|")
    for name in plugins.kinds():
        kind = plugins.load(name)
        what, identity = (
            (kind.__doc__ or "").strip().splitlines()[0],
            getattr(kind, "identity", "object"),
        )
        identity = "its decoder's" if isinstance(identity, property) else identity
        if markdown:
            typer.echo(f"| `{name}` | {what} | {identity} | {exactness(kind)} |")
            continue
        where = (
            "on any processor"
            if getattr(kind, "portable", False)
            else "on processors that are alike"
        )
        typer.echo(f"{name}: {what}\n  identity {identity}, exact {exactness(kind)}, {where}")
        for option, parameter in plugins.options(kind).items():
            typer.echo(f"  {option} = {parameter.default!r}")


def evaluate(
    labels: Annotated[
        str,
        typer.Argument(
            help="A result's folder, labels as a raster or Zarr, or the address.",
            show_default=False,
        ),
    ],
    truth: Annotated[
        str,
        typer.Argument(
            help="A raster, Zarr, vector file, COCO JSON (panoptic too), Pascal XML or CSV of "
            "boxes.",
            show_default=False,
        ),
    ],
    kind: Annotated[
        str,
        typer.Option(
            "--kind",
            help="instance, semantic or panoptic: whether numbers are objects, classes, or both.",
        ),
    ] = "instance",
    attribute: Annotated[
        str | None,
        typer.Option("--attribute", help="The attribute of a vector file that holds classes."),
    ] = None,
    crs: Annotated[
        str | None,
        typer.Option(
            "--crs", help="What a vector file is in that does not say it: pixels, image, or a CRS."
        ),
    ] = None,
    classes: Annotated[
        list[str] | None,
        typer.Option(
            "--class", help="A name that the attribute holds; the first is class 1, and so on."
        ),
    ] = None,
    image: Annotated[
        str | None, typer.Option("--image", help="Which image of a COCO file.")
    ] = None,
    tolerance: Annotated[
        int,
        typer.Option("--tolerance", min=0, help="Pixels between borders that are still the same."),
    ] = 2,
    ignore: Annotated[
        list[int] | None,
        typer.Option("--ignore", help="A number of the truth where nothing is asked."),
    ] = None,
    to_json: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write all measures there too.")
    ] = None,
    to_picture: Annotated[
        Path | None,
        typer.Option(
            "--picture", metavar="FILE", help="Write a PNG of what was missed, invented, …"
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Compare a result with truth."""
    import json

    from pipeline.evaluation import against_truth, error_map
    from pipeline.storage.atomic_files import commit

    with errors(debug=debug):
        writable(to_json, to_picture)
        said = {
            key: value
            for key, value in (("attribute", attribute), ("crs", crs), ("classes", classes))
            if value
        }
        known: Any = {"path": truth, **said} if said else truth
        found = against_truth.evaluate(
            labels,
            known,
            kind=kind,  # type: ignore[arg-type]
            tolerance=tolerance,
            image=image,
            ignore=ignore or (),
        )
        if to_json:
            commit(to_json, f"{json.dumps(found.measures, indent=2)}\n".encode())
        if to_picture:
            error_map.picture(labels, known, found, to_picture, image=image)
        typer.echo("\n".join(against_truth.lines(found)))


def verify(
    result: Annotated[
        str, typer.Argument(help="The folder of a result, or its address.", show_default=False)
    ],
    tiles: Annotated[
        int,
        typer.Option("--tiles", min=1, help="How many parts, each of four tiles of another size."),
    ] = 8,
    debug: Debug = False,
) -> None:
    """Segment parts of a result again in other tiles, and compare; exit code 1 where something
    differs that is called proved.
    """
    from pipeline.evaluation.verify import verify as compare

    with errors(debug=debug):
        found = compare(result, tiles)
        typer.echo("\n".join(found.lines()))
        if found.wrong:
            sys.exit(1)


def train(
    card: Annotated[
        Path,
        typer.Argument(
            help="The card of a network, with a section `train` (YAML).", show_default=False
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Argument(
            help="The folder for the bundle. Default: the card's name, where the command runs.",
            show_default=False,
        ),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Change a key of the card: train.steps=500."
        ),
    ] = None,
    fresh: Fresh = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Train a network on images and truth, and leave a bundle. The same command again goes on where
    it was.
    """
    from pipeline.cli.progress import watching
    from pipeline.training import loop, recipe

    with errors(debug=debug):
        what = recipe.from_yaml(card, assignments(changes, "--set"))
        say: Any = (lambda _line: None) if quiet or as_json else typer.echo
        with watching(quiet=quiet, as_json=as_json) as watch:
            loop.train(what, out or Path(what.card.name), fresh=fresh, watch=watch, say=say)
