"""What all commands share: the application, options, and the message that an error ends with.

A command imports heavy libraries when it runs.
"""

from __future__ import annotations

import contextlib
import re
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from pipeline.errors import Interrupted, JobError, OutputError, TilewiseError
from pipeline.redaction import redacted

if TYPE_CHECKING:
    from pipeline.api.facts import Facts

LISTED = re.compile(r"({0})(,({0}))+".format(r"\s*(?:[\w -]+|-?\d*\.?\d+)\s*"))
"""Words or numbers with commas between them."""

app = typer.Typer(
    help="Segment images too large to hold: the same labels, however the image is tiled.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Scheduler = Annotated[
    str | None,
    typer.Option(
        "--scheduler",
        metavar="ADDRESS",
        help="The Dask scheduler to run on, such as tcp://host:8786.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=0,
        help="Processes of a local cluster; 0: in this process. Default: one for each processor.",
    ),
]
Gpus = Annotated[
    int,
    typer.Option(
        "--gpus",
        min=0,
        help="How many of these processes have a GPU of this machine, one each; segmenters that "
        "ask for it go there.",
    ),
]
Fresh = Annotated[
    bool, typer.Option("--fresh", "--overwrite", help="Start anew, whatever the output holds.")
]
Reader = Annotated[
    list[str] | None,
    typer.Option(
        "--source",
        metavar="KEY=VALUE",
        help="An option of the reader: bands=4,3,2 or bands=nir,red.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the file: tiles.size=512."),
]
FactsAsJson = Annotated[bool, typer.Option("--json", help="As JSON.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object per line, for programs.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def assignments(given: Sequence[str] | None, option: str) -> dict[str, Any]:
    """The values by key of an option that is given once or more, each ``key=value``."""
    return dict(_assignment(text, option) for text in given or ())


def options_of(given: Sequence[str] | None, option: str) -> dict[str, Any]:
    """The options by key of a method or a reader, each given as ``key=value``.

    A dot in a key stands for a mapping (``weights.nir=0.5``), and words or numbers with commas
    between them are a list (``index=nir,red``).
    """
    from pipeline.config.yaml_files import change

    found: dict[str, Any] = {}
    change(found, assignments([_bracketed(text) for text in given or ()], option))
    return found


def image_of(image: str, given: Sequence[str] | None) -> dict[str, Any]:
    """The path of an image with the options of its reader; JobError if these name another path."""
    reader = options_of(given, "--source")
    if "path" in reader:
        raise JobError(
            f"--source path={reader['path']}: given beside the image, {image}; allowed: one of them"
        )
    return {"path": image, **reader}


def _bracketed(text: str) -> str:
    """``key=a,b`` as ``key=[a,b]``; anything else, such as a path with a comma, as it is."""
    key, equals, value = text.partition("=")
    return f"{key}{equals}[{value}]" if LISTED.fullmatch(value) else text


def _assignment(text: str, option: str) -> tuple[str, Any]:
    """``key=value``, the value as YAML reads it."""
    from pipeline.config.yaml_files import parse

    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise JobError(f"{option} {text!r}; allowed: key=value")
    return key.strip(), parse(value, f"{option} {text!r}: the value")


@contextlib.contextmanager
def errors(*, debug: bool) -> Iterator[None]:
    """End the command with one message and the exit code of the error; with ``debug``, the
    traceback comes first.
    """
    try:
        yield
    except TilewiseError as error:
        if debug:
            typer.echo(redacted(traceback.format_exc()), err=True)
        _end(str(error), error.exit_code)
    except KeyboardInterrupt:
        _end("interrupted; the same command goes on from what is recorded", Interrupted.exit_code)


def echo_facts(facts: Facts, *, as_json: bool) -> None:
    """Print facts as YAML, for people, or as JSON."""
    typer.echo(facts.json() if as_json else f"{facts}\n")


def writable(*files: Path | None) -> None:
    """Raise OutputError, before any work, if a file cannot be written that the command writes at
    its end.
    """
    for file in files:
        if file is None or file.exists():
            continue
        try:
            file.touch()
        except OSError as error:
            raise OutputError(
                f"{file} cannot be written: {error.strerror}; choose another file"
            ) from error
        file.unlink()


def _end(message: str, code: int) -> NoReturn:
    if code == Interrupted.exit_code:
        # a second Ctrl-C would interrupt the exit, with a traceback
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    typer.echo(f"tilewise: {message}", err=True)
    sys.exit(code)
