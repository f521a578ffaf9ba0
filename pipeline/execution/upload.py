"""Results that go to an address: made on this machine as any other, in the folder for scratch, and
copied when they are whole.

So locks, resumes and commit points are those of a file system, and need nothing of a store but that
it keeps what it was given. That is looked at: what a store lists must be what was sent before the
run's record, which says that a result is complete, goes last. Called again, a run that ended while
it was copied is copied again. Before any work an address is claimed by a mark in the folder for
scratch, so that runs on two machines do not mix; one whose place another took (--fresh) looks
before it sends anything, and before it is complete.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import JobError, OutputError, ResumeError
from pipeline.execution import resume
from pipeline.execution.planning import plan
from pipeline.execution.result import Event, Result, Watch
from pipeline.jobs.job import Job
from pipeline.stages import products
from pipeline.storage.atomic_files import commit, discard
from pipeline.storage.locations import (
    checked,
    create,
    joined,
    listing,
    move,
    read,
    remove,
    send,
    there,
    write,
)
from pipeline.storage.run_record import RECORD, read_at

MADE = "result"
"""The folder within that for scratch in which a result is made."""
MARK = "mark"
"""The file beside it that says whose it is."""
CLAIM = ".tilewise/claim"
"""The file at the address that says who makes its result."""
JOURNAL = ".tilewise/published.json"
"""The file at the address that lists what a run has put there whose record is not."""

logger = logging.getLogger("pipeline")


def made_here(job: Job) -> Job:
    """The same job with its result on this machine; JobError where it does not say in
    which folder.
    """
    address, scratch = checked(job.output.path), job.output.scratch
    if address.startswith("http"):
        raise JobError(
            f"output.path: {address}; allowed: a folder, s3://bucket/path or gs://bucket/path"
        )
    if scratch is None:
        raise JobError(
            "output.scratch is missing; a result that goes to an address is made in this folder "
            "first, which all workers reach"
        )
    here = job.output.model_copy(update={"path": str(Path(scratch, MADE)), "scratch": None})
    return job.model_copy(update={"output": here})


def delivered(job: Job) -> Result | None:
    """The result of this very job, if its address holds it; ResumeError if it is another's,
    OutputError if it is nobody's.
    """
    here, record = made_here(job), read_at(job.output.path)
    if record and record["complete"]:
        known = resume.settled(record["identity"])
        terms = plan(here, workers=1, memory=known["memory"], begun=known).terms()
        if changed := resume.changes({key: record.get(key) for key in terms}, terms):
            raise ResumeError(
                f"{job.output.path} holds the result of another job ({'; '.join(changed)}); "
                "choose another output, or replace it (--fresh, --overwrite)"
            )
        gone = [
            name
            for name in products.listed(record)
            if "products" in record and not there(job.output.path, name)
        ]
        if gone:
            raise ResumeError(
                f"{job.output.path} holds the result of this job, but no {', '.join(gone)} any "
                f"more; make it again (--fresh)"
            )
        return Result(job.output.path)
    if strange := _sorted_out(job.output.path, listing(job.output.path) or {})[1]:
        raise OutputError(
            f"{job.output.path} holds {strange[0]}, which no run has left there; choose another "
            f"output, or replace it (--fresh)"
        )
    return None


@contextlib.contextmanager
def claimed(job: Job, *, fresh: bool) -> Iterator[None]:
    """Say at the address that this run makes its result; OutputError where another does, unless it
    is to start anew. What ends before it has begun (a job that is refused) claims nothing; what
    ends otherwise can go on.
    """
    _claim(job, fresh=fresh)
    try:
        yield
    except BaseException:
        if not Path(job.output.scratch or "", MADE).exists():
            with contextlib.suppress(OutputError):  # what ended the run is what is told
                remove(job.output.path, CLAIM)
                Path(job.output.scratch or "", MARK).unlink(missing_ok=True)
        raise


def _claim(job: Job, *, fresh: bool) -> None:
    mark = _mark(job)
    if fresh:
        remove(job.output.path, CLAIM)
    if not create(job.output.path, CLAIM, mark) and read(job.output.path, CLAIM) != mark:
        raise OutputError(
            f"{job.output.path} is claimed by a run with another folder for scratch, which has "
            f"not ended, or was killed; "
            "go on there with the same job, or take its place (--fresh)"
        )


def _mark(job: Job) -> bytes:
    """What tells the run of a folder for scratch from others."""
    file = Path(job.output.scratch or "", MARK)
    if not file.exists():
        part, mark = file.with_name(f".{MARK}.{uuid.uuid4().hex}"), uuid.uuid4().hex.encode()
        commit(part, mark)
        try:
            os.link(part, file)  # of two that begin at once only one makes it
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            commit(file, mark)
        part.unlink()
    return file.read_bytes()


def _refuse_taken(job: Job) -> None:
    if read(job.output.path, CLAIM) != _mark(job):
        raise OutputError(
            f"{job.output.path} was claimed by another run meanwhile; nothing of this one is "
            f"complete there"
        )


def deliver(made: Result, job: Job, watch: Watch) -> Result:
    """Copy a result to its address, its record last; OutputError if the store does not keep what it
    was given.
    """
    folder, address = Path(made.path), job.output.path
    _refuse_taken(job)
    record = {**made.record, "job": {**made.record["job"], "output": job.plain()["output"]}}
    names = sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and path.name != RECORD
    )
    names = [name for name in names if not name.startswith(".")]
    _make_room(address, names)
    for number, _ in enumerate(send(address, {name: folder / name for name in names}), start=1):
        watch(Event("deliver", number, len(names)))
    kept = listing(address) or {}
    lost = [
        name for name in names if kept.get(name, {}).get("bytes") != (folder / name).stat().st_size
    ]
    if lost:
        raise OutputError(
            f"{address} does not hold {lost[0]} as it was sent, nor {len(lost) - 1} others; run "
            f"the same command again"
        )
    _refuse_taken(job)
    write(address, RECORD, (json.dumps(record, indent=2) + "\n").encode())
    for done in (JOURNAL, CLAIM):
        remove(address, done)
    if not job.output.keep_scratch:
        discard(folder)
        (folder.parent / MARK).unlink()
    return Result(address)


def _make_room(address: str, names: Sequence[str]) -> None:
    """Remove what an earlier run left at an address, its record first, and give another name to
    what is nobody's.

    The journal goes there before, so that what is copied is known as a run's where the copying ends
    early.
    """
    there = listing(address) or {}
    own, strange = _sorted_out(address, there)
    taken = set(map(_top, there))
    for top in dict.fromkeys(map(_top, strange)):
        new = next(
            f"{top}.before-{n}" for n in itertools.count(1) if f"{top}.before-{n}" not in taken
        )
        for name in (each for each in strange if _top(each) == top):
            move(address, name, new + name.removeprefix(top))
        logger.warning(
            "%s was not as a run has left it; it is kept as %s", joined(address, top), new
        )
    write(address, JOURNAL, json.dumps(sorted({_top(name) for name in (*own, *names)})).encode())
    for stale in [RECORD, *(name for name in own if name not in names)]:
        remove(address, stale)


def _sorted_out(
    address: str, files: Mapping[str, Mapping[str, Any]]
) -> tuple[list[str], list[str]]:
    """Of the files at an address those under names of products: what runs have left, and what is
    nobody's.
    """
    ours, told, record = _sent(address), dict[str, Any](), None
    with contextlib.suppress(OutputError):
        if record := read_at(address):
            told = dict(products.listed(record))
    own: list[str] = []
    strange = [] if record or RECORD not in files else [RECORD]
    for top in products.NAMES:
        mine = [name for name in files if _top(name) == top]
        known = {
            "bytes": sum(files[name]["bytes"] for name in mine),
            "files": len(mine),
            "sha256": "",
        }
        what = told.get(top, {"bytes": -1}) or {}
        (own if top in ours or {**known, **what, "sha256": ""} == known else strange).extend(mine)
    return own, strange


def _sent(address: str) -> set[str]:
    """The names of what a run began to put there, whose record is not."""
    try:
        return set(json.loads(read(address, JOURNAL) or "[]"))
    except ValueError:
        return set()


def _top(name: str) -> str:
    """The product that a file is, or is of."""
    return name.partition("/")[0]
