"""What a call takes in a process and all that it started: seconds, processor seconds, memory."""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

Figures = dict[str, float]


def measured(call: Callable[[], Any]) -> Figures:
    """Seconds, processor seconds of all processes, and MB: the sum of every process's own peak
    since it started.

    That sum is no less than the peak of the sum, and counts pages that processes share, such as
    libraries, once for each of them.
    """
    began, used = time.perf_counter(), processor_seconds()
    call()
    return {
        "seconds": time.perf_counter() - began,
        "cpu": processor_seconds() - used,
        "mb": megabytes(),
    }


def settled(quiet: float = 0.1, patience: float = 10.0) -> None:
    """Return when the whole family does next to nothing, or after ``patience`` seconds."""
    begun, used = time.monotonic(), processor_seconds()
    while time.monotonic() - begun < patience:
        time.sleep(0.5)
        used, before = processor_seconds(), used
        if used - before < 0.5 * quiet:
            return


def family() -> list[psutil.Process]:
    """This process and all that it started and that still run."""
    here = psutil.Process()
    return [here, *here.children(recursive=True)]


def processor_seconds() -> float:
    """Those of the whole family so far."""
    return sum(used.user + used.system for used in (each.cpu_times() for each in family()))


def megabytes() -> float:
    """The sum of every process's own peak so far, of those that still run."""
    return sum(map(peak, family()))


def peak(process: psutil.Process | None = None) -> float:
    """The most memory that a process has held so far, in MB."""
    status = Path(f"/proc/{(process or psutil.Process()).pid}/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024


def apart(script: str, *arguments: object) -> Any:
    """What a script prints last, as JSON, when it is run in a process of its own."""
    done = subprocess.run(
        [sys.executable, script, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def medians(runs: Sequence[Figures]) -> Figures:
    """The median of each figure."""
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def spread(runs: Sequence[Figures], name: str) -> str:
    """The least and the greatest of a figure."""
    values = [run[name] for run in runs]
    return f"{min(values):.1f}–{max(values):.1f}"
