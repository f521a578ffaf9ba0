"""What all commands of the command line share: the application, options, and how an error ends it.
Everything heavy is imported when a command needs it.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from pipeline.errors import Interrupted, JobError, OutputError, TilewiseError
from pipeline.redaction import redacted

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
    typer.Option("--source", metavar="KEY=VALUE", help="An option of the reader: bands=[4,3,2]."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object per line, for programs.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def assignments(given: Sequence[str] | None, option: str) -> dict[str, Any]:
    """What ``key=value`` says, by key, however often an option is given."""
    return dict(_assignment(text, option) for text in given or ())


def _assignment(text: str, option: str) -> tuple[str, Any]:
    """``key=value``, the value as YAML reads it."""
    from pipeline.config.yaml_files import parse

    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise JobError(f"{option} {text!r}; allowed: key=value")
    return key.strip(), parse(value, f"{option} {text!r}: the value")


@contextlib.contextmanager
def errors(*, debug: bool) -> Iterator[None]:
    """End the command with one message and the exit code of the error; with ``debug``, after where
    it was raised.
    """
    try:
        yield
    except TilewiseError as error:
        if debug:
            typer.echo(redacted(traceback.format_exc()), err=True)
        _end(str(error), error.exit_code)
    except KeyboardInterrupt:
        _end("interrupted; the same command goes on from what is recorded", Interrupted.exit_code)


def writable(*files: Path | None) -> None:
    """OutputError, before any work, where a file that is to be written at its end cannot be."""
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


def whole(facts: Any, *, as_json: bool) -> str:
    """Facts as a text for people, which is YAML, or for programs."""
    import json

    import yaml

    plain = json.dumps(facts, indent=1)
    return (
        plain
        if as_json
        else yaml.safe_dump(
            json.loads(plain), sort_keys=False, default_flow_style=None, allow_unicode=True
        )
    )


def _end(message: str, code: int) -> NoReturn:
    if code == Interrupted.exit_code:
        signal.signal(
            signal.SIGINT, signal.SIG_IGN
        )  # a second Ctrl-C would end the ending, with a traceback
    typer.echo(f"tilewise: {message}", err=True)
    sys.exit(code)
