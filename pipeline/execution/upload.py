"""Results that go to an address: they are made in the folder for scratch, as any other result, and
copied when they are complete.

So locks, resumes and commit points are those of a file system, and a store need only keep what it
is sent. That is checked: before the record is sent, which says that the result is complete, the
store must list what was sent. If a run ends while its result is copied, the same call copies it
again. Before any work a run claims the address by a mark that lies in its folder for scratch, so
that runs on two machines do not mix. A run whose claim another took (--fresh) notices that before
it sends anything, and again before it sends the record.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import JobError, OutputError
from pipeline.execution.existing_output import another_result, changes, files_gone, settled
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
"""The folder in that for scratch in which a result is made."""
MARK = "mark"
"""The file beside it with the mark of this folder for scratch."""
CLAIM = ".tilewise/claim"
"""The file at the address with the mark of the run that makes its result."""
JOURNAL = ".tilewise/published.json"
"""The file at the address that lists what a run sends before its record."""

logger = logging.getLogger("pipeline")


def made_here(job: Job) -> Job:
    """The same job with its result in the folder for scratch; JobError if the job names none."""
    address = checked(job.output.path)
    scratch = job.output.scratch
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
    """The result of this very job, if its address holds it.

    Raises
    ------
    ResumeError
        If the address holds another job's result, or this job's without some of its files.
    OutputError
        If files lie in the way that no run has sent.
    """
    made_here(job)  # refuses a job that cannot be delivered
    address = job.output.path
    record = read_at(address)
    if record and record["complete"]:
        return _its_result(job, record)
    if strange := _sorted_out(address, listing(address) or {}, record)[1]:
        raise OutputError(
            f"{address} holds {strange[0]}, which no run has left there; choose another "
            f"output, or replace it (--fresh)"
        )
    return None


def _its_result(job: Job, record: Mapping[str, Any]) -> Result:
    """The complete result at a job's address; ResumeError if it is not the job's."""
    address = job.output.path
    before = settled(record["identity"])
    draft = plan(made_here(job), workers=1, memory=before["memory"], begun=before)
    terms = draft.terms()
    if changed := changes({key: record.get(key) for key in terms}, terms):
        raise another_result(address, changed)
    listed = products.listed(record) if "products" in record else ()
    if gone := [name for name in listed if not there(address, name)]:
        raise files_gone(address, gone)
    return Result(address)


@contextlib.contextmanager
def claimed(job: Job, *, fresh: bool) -> Iterator[Result | None]:
    """Say at the address that this run makes its result.

    A run that ends before it has begun (a job that is refused) takes the claim back. A run that
    ends otherwise can go on.

    Parameters
    ----------
    job
        The job, whose output is an address.
    fresh
        Whether to take the place of another run, and of a result.

    Yields
    ------
    Result or None
        The job's result, if another run has completed it since the address was looked at.

    Raises
    ------
    OutputError
        If another run makes the address's result.
    ResumeError
        If another job's result has been completed there since the address was looked at.
    """
    _claim(job, fresh=fresh)
    try:
        record = None if fresh else read_at(job.output.path)
        result = _its_result(job, record) if record and record["complete"] else None
        yield result
    except BaseException:
        with contextlib.suppress(OutputError):  # the error that ended the run is the one to raise
            _take_back(job)
        raise
    if result is not None:
        _take_back(job)


def _take_back(job: Job) -> None:
    """Remove the claim of a run that has made nothing yet."""
    scratch = Path(job.output.scratch or "")
    if not (scratch / MADE).exists():
        remove(job.output.path, CLAIM)
        (scratch / MARK).unlink(missing_ok=True)


def _claim(job: Job, *, fresh: bool) -> None:
    """Write the mark of this run to the address. OutputError if another run's lies there."""
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
    """The mark of a folder for scratch, which no other folder has; made if it is missing."""
    file = Path(job.output.scratch or "", MARK)
    if not file.exists():
        mark = uuid.uuid4().hex.encode()
        part = file.with_name(f".{MARK}.{uuid.uuid4().hex}")
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
    """OutputError if another run has taken this run's place at the address."""
    if read(job.output.path, CLAIM) != _mark(job):
        raise OutputError(
            f"{job.output.path} was claimed by another run meanwhile; nothing of this one is "
            f"complete there"
        )


def deliver(made: Result, job: Job, watch: Watch) -> Result:
    """Copy a result to its address, its record last.

    Parameters
    ----------
    made
        The result in the folder for scratch.
    job
        The job, whose output is the address.
    watch
        Called with an `Event` for every file.

    Raises
    ------
    OutputError
        If another run has taken the place of this one, or the store does not keep what it was sent.
    """
    folder = Path(made.path)
    address = job.output.path
    _refuse_taken(job)
    names = _files(folder)
    _make_room(address, names)
    for number, _ in enumerate(send(address, {name: folder / name for name in names}), start=1):
        watch(Event("deliver", number, len(names)))
    _refuse_lost(folder, address, names)
    _refuse_taken(job)
    record = {**made.record, "job": {**made.record["job"], "output": job.plain()["output"]}}
    write(address, RECORD, (json.dumps(record, indent=2) + "\n").encode())
    for done in (JOURNAL, CLAIM):
        remove(address, done)
    if not job.output.keep_scratch:
        discard(folder)
        (folder.parent / MARK).unlink()
    return Result(address)


def _files(folder: Path) -> list[str]:
    """The files of a result but its record, by their paths in the folder."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != RECORD]
    names = sorted(str(path.relative_to(folder)) for path in paths)
    return [name for name in names if not name.startswith(".")]


def _refuse_lost(folder: Path, address: str, names: Sequence[str]) -> None:
    """OutputError if a file does not lie at the address with all its bytes."""
    kept = listing(address) or {}
    lost = [
        name for name in names if kept.get(name, {}).get("bytes") != (folder / name).stat().st_size
    ]
    if lost:
        raise OutputError(
            f"{address} does not hold {lost[0]} as it was sent, nor {len(lost) - 1} others; run "
            f"the same command again"
        )


def _make_room(address: str, names: Sequence[str]) -> None:
    """Remove what an earlier run left at an address, its record first, and rename what no run has
    sent.

    The journal is written before anything is removed or sent: files that lie there when the copying
    ends early are known as a run's.
    """
    there = listing(address) or {}
    record = None
    with contextlib.suppress(OutputError):  # a damaged record is no run's
        record = read_at(address)
    own, strange = _sorted_out(address, there, record)
    taken = {_top(name) for name in there}
    for top in dict.fromkeys(_top(name) for name in strange):
        new = _free_name(top, taken)
        for name in (each for each in strange if _top(each) == top):
            move(address, name, new + name.removeprefix(top))
        logger.warning(
            "%s was not as a run has left it; it is kept as %s", joined(address, top), new
        )
    write(address, JOURNAL, json.dumps(sorted({_top(name) for name in (*own, *names)})).encode())
    for stale in [RECORD, *(name for name in own if name not in names)]:
        remove(address, stale)


def _free_name(top: str, taken: Collection[str]) -> str:
    """A name for what is in the way, which nothing there has."""
    names = (f"{top}.before-{number}" for number in itertools.count(1))
    return next(name for name in names if name not in taken)


def _sorted_out(
    address: str, files: Mapping[str, Mapping[str, Any]], record: Mapping[str, Any] | None
) -> tuple[list[str], list[str]]:
    """Of the files under names of products those that runs have sent, and all others.

    Parameters
    ----------
    address
        Where they lie.
    files
        By name the facts of every file there, as `listing` gives them.
    record
        The record there; None if there is none, or it is damaged.
    """
    sent = _sent(address)
    told = products.listed(record) if record else {}
    own: list[str] = []
    strange = [] if record or RECORD not in files else [RECORD]
    for top in products.NAMES:
        mine = [name for name in files if _top(name) == top]
        is_own = top in sent or (top in told and _same(files, mine, told[top]))
        (own if is_own else strange).extend(mine)
    return own, strange


def _same(
    files: Mapping[str, Mapping[str, Any]], names: Sequence[str], listed: Mapping[str, Any] | None
) -> bool:
    """Whether a product's files have the sizes that a record lists; a listing has no checksums."""
    known = {"bytes": sum(files[name]["bytes"] for name in names), "files": len(names)}
    return all(known[key] == value for key, value in (listed or {}).items() if key in known)


def _sent(address: str) -> set[str]:
    """The products that a run began to send, and whose record it has not sent."""
    try:
        return set(json.loads(read(address, JOURNAL) or "[]"))
    except ValueError:
        return set()


def _top(name: str) -> str:
    """The product that a file belongs to."""
    return name.partition("/")[0]
