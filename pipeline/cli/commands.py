"""Commands that look at things, and train: kinds of segmenters, images, results, networks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.cli.console import (
    AsJson,
    Changes,
    Debug,
    FactsAsJson,
    Fresh,
    Quiet,
    Reader,
    assignments,
    echo_facts,
    errors,
    image_of,
    writable,
)


def info(
    image: Annotated[str, typer.Argument(help="The image.", show_default=False)],
    source: Reader = None,
    as_json: FactsAsJson = False,
    debug: Debug = False,
) -> None:
    """Say what an image is, as it is read with these options: its shape, bands, type, place,
    levels, what was not measured, and more.
    """
    from pipeline.api import images

    with errors(debug=debug):
        facts = images.info(image_of(image, source))
        echo_facts(facts, as_json=as_json)


def schema() -> None:
    """Print the JSON schema of job files, by which editors complete and check them."""
    import json

    from pipeline.jobs.schema import schema as known

    typer.echo(json.dumps(known(), indent=1))


def workflows() -> None:
    """List the example jobs that come with Tilewise: what each finds, and where its file lies."""
    from pipeline.jobs.examples import examples, summary

    for name, path in examples().items():
        typer.echo(f"{name}\n    {summary(path)}\n    {path}")


def methods(
    kind: Annotated[
        str | None,
        typer.Argument(
            metavar="[KIND]",
            help="A kind of segmenter, or of step: what it is for, and what its options mean.",
            show_default=False,
        ),
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Without options, as a table for documents.")
    ] = False,
    debug: Debug = False,
) -> None:
    """List the kinds of segmenters: what they find, how far they are exact, and their options with
    defaults. With a KIND, describe that one.
    """
    from pipeline.cli import methods as texts

    with errors(debug=debug):
        if kind is not None:
            typer.echo(texts.described(kind))
        else:
            typer.echo(texts.table() if markdown else texts.listed())


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
        typer.Option(
            "--tolerance", min=0, help="Pixels between borders that still count as the same."
        ),
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
            "--picture",
            metavar="FILE",
            help="Write a PNG of what was missed, invented, split and merged.",
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Compare a result with truth."""
    import json

    from pipeline.api import results
    from pipeline.storage.atomic_files import commit

    with errors(debug=debug):
        writable(to_json, to_picture)
        found = results.evaluate(
            labels,
            truth,
            kind=kind,  # type: ignore[arg-type]
            attribute=attribute,
            crs=crs,
            classes=classes,
            image=image,
            tolerance=tolerance,
            ignore=ignore or (),
            picture=to_picture,
        )
        if to_json:
            commit(to_json, f"{json.dumps(found.measures, indent=2)}\n".encode())
        typer.echo(str(found))


def verify(
    result: Annotated[
        str, typer.Argument(help="The folder of a result, or its address.", show_default=False)
    ],
    parts: Annotated[
        int,
        typer.Option(
            "--tiles",
            "--parts",
            min=1,
            help="How many parts, each of four tiles of another size.",
        ),
    ] = 8,
    debug: Debug = False,
) -> None:
    """Segment parts of a result again in other tiles, and compare; exit code 1 where something
    differs that is called proved.
    """
    from pipeline.api import results

    with errors(debug=debug):
        found = results.verify(result, parts=parts)
        typer.echo(str(found))
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
    changes: Changes = None,
    fresh: Fresh = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Train a network on images and truth, and leave a bundle. The same command again goes on where
    it was.
    """
    from pipeline.api import networks
    from pipeline.cli.progress import watching

    with errors(debug=debug):
        changed = assignments(changes, "--set")
        say: Any = None if quiet or as_json else typer.echo
        with watching(quiet=quiet, as_json=as_json) as watch:
            networks.train(card, out, changes=changed, fresh=fresh, watch=watch, say=say)
