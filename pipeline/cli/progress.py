"""Progress for people: a bar on a terminal, a line per event in a log, a JSON object per line for
programs.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Any

from pipeline.execution.result import Event, Watch, as_json

EVERY = 10.0
"""Seconds between lines of one stage in a log."""


@contextlib.contextmanager
def watching(*, quiet: bool, as_json: bool) -> Iterator[Watch]:
    """Yield what shows progress: bars on a terminal, lines elsewhere, JSON or nothing if asked."""
    if quiet or as_json or not sys.stderr.isatty():
        yield _Lines(quiet=quiet, json=as_json)
        return
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:10}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[note]}"),
    )
    from rich.console import Console

    with Progress(
        *columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True)
    ) as bars:
        yield _Bars(bars)


class Heard:
    """Passes events on, and counts them: a run that was complete before tells of none."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self.events = 0

    def __call__(self, event: Event) -> None:
        """Count an event, and pass it on."""
        self.events += 1
        self._watch(event)


class _Bars:
    def __init__(self, bars: Any) -> None:
        self._bars = bars
        self._rows: dict[str, Any] = {}
        self._starts: dict[str, float] = {}

    def __call__(self, event: Event) -> None:
        if event.stage not in self._rows:
            self._rows[event.stage] = self._bars.add_task(event.stage, total=event.total, note="")
            self._starts[event.stage] = event.at
        note = _note(event, self._starts[event.stage])
        self._bars.update(
            self._rows[event.stage], completed=event.done, total=event.total, note=note
        )
        if event.fault:
            self._bars.console.print(f"[red]failed[/red] {event.fault}")


class _Lines:
    def __init__(self, *, quiet: bool, json: bool) -> None:
        self._quiet = quiet
        self._json = json
        self._starts: dict[str, float] = {}
        self._said = -EVERY

    def __call__(self, event: Event) -> None:
        first = event.stage not in self._starts
        start = self._starts.setdefault(event.stage, event.at)
        if self._json:
            print(as_json(event), flush=True)  # noqa: T201  it is what the user asked for
        elif not self._quiet and (
            first or event.fault or event.done == event.total or event.at - self._said >= EVERY
        ):
            self._said = event.at
            parts = [
                part
                for part in (
                    _note(event, start),
                    _left(event, start),
                    event.fault and f"FAILED {event.fault}",
                )
                if part
            ]
            stamp = time.strftime("%H:%M:%S")
            print(  # noqa: T201  the progress of a batch job is its log
                f"{stamp} {event.stage} {event.done}/{event.total} {', '.join(parts)}".rstrip(),
                file=sys.stderr,
                flush=True,
            )


def _left(event: Event, start: float) -> str:
    """The seconds that a stage still takes at its present speed, in words."""
    seconds = (event.at - start) / event.done * (event.total - event.done) if event.done else 0.0
    return f"{seconds:.0f} s left" if seconds >= 1 else ""


def _note(event: Event, start: float) -> str:
    """Objects, speed and failed tiles, if a stage counts them."""
    parts = []
    if event.empty:
        parts.append(f"{event.empty:,} empty")
    if event.failed:
        parts.append(f"{event.failed:,} failed")
    if event.pixels:
        parts.append(f"{event.objects:,} objects")
        if event.at > start:
            parts.append(f"{event.pixels / 1e6 / (event.at - start):.1f} Mpx/s")
    return ", ".join(parts)
