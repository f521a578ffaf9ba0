"""Hold an output while a run writes there, and go on with a run that was begun.

A run that is begun gets a name that no other run has, and so does each way of joining its tiles:
records and staged files lie under these names. The same job goes on under the same names. Tasks of
a run that was given up may still write under other names; nobody reads that.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from pipeline.engine import Engine
from pipeline.errors import OutputError, ResumeError
from pipeline.execution.existing_output import Begun, Existing, Found, State, look
from pipeline.execution.planning import STAGING, Plan, opened, plan, refuse_own_image, scratch
from pipeline.jobs.job import Job
from pipeline.sources import Source
from pipeline.stages import products
from pipeline.storage.atomic_files import discard, writing
from pipeline.storage.locks import MARK, locked
from pipeline.storage.records import differences, new_name

LOCK = "lock"
REPAIRS = "repairs"
STAYS = (LOCK, LOCK + MARK, products.BEFORE, products.JOURNAL)
"""What a run that starts anew leaves where it is."""


def finished(job: Job, there: Existing, source: Source | None = None) -> bool:
    """Whether an output holds the result of this very job. No cluster is needed to tell, and the
    image is opened only where a complete result lies there.

    Parameters
    ----------
    job
        What to do; its output is a folder.
    there
        What `look` has found in its output.
    source
        The job's image, where it is open already.

    Raises
    ------
    ResumeError
        If the result is another job's, or lacks files.
    OutputError
        If files lie in the way that no run has written.
    """
    if not there.complete:
        if stranger := there.stranger():
            refuse_own_image(job, source or opened(job))  # it must not be told to start anew
            raise stranger
        return False
    before = there.settled(job)
    draft = plan(job, workers=1, memory=before["memory"], begun=before, source=source)
    found = there.compared(draft).accepted()
    if found.state is not State.FINISHED:
        return False
    if draft.hidden.exists() and (found.begun is not None or not there.was_begun):
        _tidy_up_after_another(draft, there)
    return True


@contextlib.contextmanager
def plan_and_hold(
    job: Job, engine: Engine, there: Existing, source: Source, *, fresh: bool
) -> Iterator[tuple[Plan, Found]]:
    """Plan a run, and hold its output while it writes there. What is hidden in the output is
    removed when the run ends well.

    The records there are read again when the output is held: another process may have written
    there since, and the run is then planned by what it left.

    Parameters
    ----------
    job
        What to do.
    engine
        Where it will run.
    there
        What `look` has found in the output, or `Existing.nothing`.
    source
        The job's image.
    fresh
        Whether to remove what was begun there, and to replace a result.

    Yields
    ------
    tuple
        The plan, and what the output holds for it: nothing, a run that goes on, or a result that
        another process has finished.

    Raises
    ------
    OutputError
        If another run holds the output, or it cannot be written.
    ResumeError
        If the output holds another job's run or result.
    TilewiseError
        What `plan` refuses, and labels of another run in the image where those of this one are to
        go.
    """
    planned = partial(
        plan, job, workers=engine.workers, memory=engine.memory, engine=engine, source=source
    )
    draft = planned(begun=there.settled(job))
    _refuse_places(draft, there)
    with _locked(draft):
        if fresh:
            _clear(draft)
        else:
            now = look(job)
            draft = draft if now == there else planned(begun=now.settled(job))
            there = now
        yield draft, there.compared(draft).accepted()
        _tidy_up(draft)


def _refuse_places(draft: Plan, there: Existing) -> None:
    """Refuse, before anything is written, a scratch store that cannot be made, and labels of
    another run in the image. That the output is another job's is said first.
    """
    if draft.job.output.scratch is not None:
        _refuse_unwritable(Path(scratch(draft.job).root))
    nest = draft.nest
    if nest is not None:
        there.compared(draft).accepted()
        nest.refuse()


def begin(draft: Plan, before: Begun | None, lost: Sequence[int] = ()) -> Plan:
    """Name the run and record that it was begun; the plan with the run's own records.

    Records of other runs, and what they staged, are removed.

    Parameters
    ----------
    draft
        The run's plan, whose output is held.
    before
        The run that goes on; None: a new one is begun.
    lost
        The tiles that cannot be read, and are left out. Where they are others than before, nothing
        of that run can be used.
    """
    store = scratch(draft.job).begin()
    terms = draft.terms()
    if before is None or list(before.lost) != list(lost):
        named = draft.of(new_name(), new_name())
    else:
        named = draft.of(before.run, before.join)
        records = named.run.scratch
        repairs = _repairs(draft)
        if before.terms != terms or records.damaged(*repairs) or named.run.joined.damaged(""):
            records.forget(*repairs)
            named = draft.of(before.run, new_name())
    mine = named.run.scratch.begin()
    Begun(mine.run, mine.join, lost, terms).write(store)
    with writing(draft.folder):
        mine.end_others()
        for path in draft.hidden.glob(f"{STAGING}*"):
            if path != named.staging:
                discard(path)
    return named


def same_image(draft: Plan) -> None:
    """ResumeError if the image is no longer the one that the run began with."""
    if changed := differences(dict(draft.fingerprint), draft.source.fingerprint()):
        raise ResumeError(
            f"the image changed while it was read ({'; '.join(changed)}); nothing is published; "
            f"start anew (--fresh)"
        )


def _repairs(draft: Plan) -> list[str]:
    """The records of repairs, of the run or of each layer: they say which tiles are segmented
    again, which depends on how tiles are joined.
    """
    return [f"layers/{layer.use}/{REPAIRS}" for layer in draft.job.layers] or [REPAIRS]


def _refuse_unwritable(root: Path) -> None:
    """OutputError, before anything is written, if the scratch store's folder cannot be made."""
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"output.scratch: {root} cannot be written: {error.strerror}; choose another folder"
        ) from error


def _locked(draft: Plan) -> contextlib.AbstractContextManager[None]:
    return locked(draft.hidden / LOCK, str(draft.folder))


def _tidy_up(draft: Plan) -> None:
    """Leave nothing but the complete result, unless the user wants to keep the scratch store."""
    with writing(draft.folder):
        products.settled(draft.folder)
        if not draft.job.output.keep_scratch:
            _remove(Path(scratch(draft.job).root))
            _remove(draft.hidden)


def _tidy_up_after_another(draft: Plan, there: Existing) -> None:
    """Remove what a run left that was killed when its result was complete. A run that is still
    there holds the lock and does so itself.
    """
    with contextlib.suppress(OutputError, ResumeError), _locked(draft):
        if look(draft.job) == there:  # no other run was begun since
            _tidy_up(draft)


def _clear(draft: Plan) -> None:
    """Remove everything of a run but the lock, and the result that is to be replaced."""
    with writing(draft.folder):
        for folder in {Path(scratch(draft.job).root), draft.hidden}:
            for path in folder.iterdir() if folder.exists() else ():
                if path.name not in STAYS:
                    discard(path)


def _remove(folder: Path) -> None:
    """Remove a folder in which others may still write: each of its folders goes in one move."""
    for path in folder.iterdir() if folder.exists() else ():
        if path.is_dir():
            discard(path)
    if folder.exists():
        shutil.rmtree(folder)
