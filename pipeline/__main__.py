"""The command ``tilewise``."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.cli import commands, runs
from pipeline.cli.console import app
from pipeline.config.logs import redact_all
from pipeline.version import __version__

app.command("run")(runs.run_job)
for command in (
    runs.segment,
    runs.plan,
    commands.info,
    commands.methods,
    commands.workflows,
    commands.evaluate,
    commands.verify,
    commands.train,
    commands.schema,
):
    app.command()(command)


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


if __name__ == "__main__":
    main()
