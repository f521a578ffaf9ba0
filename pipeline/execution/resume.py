"""What lies in the output already: nothing, a finished result, or a run to go on with. Between
planning and the workflow.

A finished result is known by its ``run.json``, an unfinished run by the record ``begun`` in its
scratch store. Each holds the identity of its run: all that its labels depend on. Another identity
is refused, with what is different, unless the user asks to start anew.

A run that is begun gets a name that no other has, and so does each way of joining its tiles:
records and what is staged lie under these. The same job goes on under the same names. Whatever is
still written under others, by tasks that nobody waits for, is nobody's.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import OutputError, ResumeError, ScratchError
from pipeline.execution.planning import STAGING, Plan, scratch
from pipeline.jobs.job import Job
from pipeline.stages import products
from pipeline.storage.atomic_files import discard, writing
from pipeline.storage.locks import MARK, locked
from pipeline.storage.records import Scratch, differences, new_name
from pipeline.storage.run_record import read_record

BEGUN, LOCK, REPAIRS = "begun", "lock", "repairs"
STAYS = (LOCK, LOCK + MARK, products.BEFORE, products.JOURNAL)
"""What a run that is begun anew leaves where it is."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A run that was begun."""

    run: str
    join: str
    lost: Sequence[int]
    """The tiles that could not be read."""
    terms: Mapping[str, Any]

    @classmethod
    def read(cls, store: Scratch) -> Begun | None:
        """What a scratch store says of it; None where it holds none. ResumeError where that cannot
        be read.
        """
        if not store.has(BEGUN):
            return None
        try:
            facts = store.load(BEGUN)[0]
            return cls(facts["run"], facts["join"], facts["lost"], facts["terms"])
        except (ScratchError, LookupError) as error:
            raise ResumeError(
                f"what {store.root} says of the run that was begun is damaged, or of another "
                f"version; start anew (--fresh)"
            ) from error

    def write(self, store: Scratch) -> None:
        """Say so in a scratch store."""
        store.save(
            BEGUN,
            {
                "run": self.run,
                "join": self.join,
                "lost": list(self.lost),
                "terms": dict(self.terms),
            },
        )


def begun(job: Job) -> dict[str, Any]:
    """What the run or result of this job that lies in the output settled of its tiles and devices;
    empty where there is none.
    """
    run, record = None, _record(job)
    with (
        contextlib.suppress(ResumeError)
        if record and record["complete"]
        else contextlib.nullcontext()
    ):
        run = Begun.read(scratch(job))
    there = [run.terms["identity"]] if run else []
    there += [record["identity"]] if record and record["complete"] else []
    plain = json.loads(json.dumps(job.plain()))
    alike = [
        each
        for each in there
        if all(each.get(key) == plain[key] for key in ("segmenters", "steps"))
    ]
    return settled((alike or there)[0]) if there else {}


def settled(identity: Mapping[str, Any]) -> dict[str, Any]:
    """What was chosen for a run's tiles, and its devices."""
    return {**identity["tiles"], "devices": identity.get("devices", {})}


def finished(draft: Plan) -> bool:
    """Whether the output is the result of this very job; ResumeError if it is another's,
    OutputError if it is nobody's.
    """
    record = _record(draft.job)
    if record and record["complete"]:
        changed = changes({key: record.get(key) for key in draft.terms()}, draft.terms())
        if changed and not _kept(draft):
            raise ResumeError(
                f"{draft.folder} holds the result of another job ({'; '.join(changed)}); "
                "choose another output, or replace it (--fresh, --overwrite)"
            )
        gone = products.gone(draft.folder, record)
        if not changed and gone and not _kept(draft):
            raise ResumeError(
                f"{draft.folder} holds the result of this job, but no {', '.join(gone)} any "
                f"more; make it again (--fresh)"
            )
        if not changed and not gone:
            _tidy_up_after_another(draft)
            return True
    if there := products.strangers(draft.folder):
        how = "as no run has left it" if record else "without the record of a run"
        if record or not draft.run.scratch.has(BEGUN):
            raise OutputError(
                f"{draft.folder} holds {there[0]} {how}; choose another output, or replace it "
                f"(--fresh)"
            )
    return False


@contextlib.contextmanager
def opened(draft: Plan, *, fresh: bool) -> Iterator[None]:
    """Hold the output while a run is begun or gone on with; ResumeError where it was begun
    otherwise. Cleared when all is published.
    """
    if draft.job.output.scratch is not None:
        _refuse_unwritable(Path(scratch(draft.job).root))
    refuse_taken(draft, fresh=fresh)
    with _held(draft):
        if fresh:
            _clear(draft)
        yield
        _tidy_up(draft)


def begin(draft: Plan, lost: Sequence[int] = ()) -> Plan:
    """The run under its name, begun or gone on with. What others left that were given up is
    removed; ResumeError where it was begun otherwise.

    ``lost``: the tiles that cannot be read, and are left out; where they are others than before,
    nothing of the run can be used.
    """
    store, terms, before = scratch(draft.job).begin(), draft.terms(), going_on(draft)
    if before is None or list(before.lost) != list(lost):
        held = draft.of(new_name(), new_name())
    else:
        held = draft.of(before.run, before.join)
        if (
            before.terms != terms
            or held.run.scratch.damaged(*_repairs(draft))
            or held.run.joined.damaged("")
        ):
            held.run.scratch.forget(*_repairs(draft))
            held = draft.of(before.run, new_name())
    mine = held.run.scratch.begin()
    Begun(mine.run, mine.join, lost, terms).write(store)
    with writing(draft.folder):
        mine.end_others()
        for path in draft.hidden.glob(f"{STAGING}*"):
            if path != held.staging:
                discard(path)
    return held


def refuse_taken(draft: Plan, *, fresh: bool = False) -> None:
    """JobError if the labels are to go into the image, and another's are there. That the run was
    begun otherwise is said first.
    """
    if draft.nest is not None:
        if not fresh:
            going_on(draft)
        draft.nest.refuse()


def same_image(draft: Plan) -> None:
    """ResumeError if the image is no longer the one that the run began with."""
    before, now = dict(draft.fingerprint), draft.source.fingerprint()
    if changed := differences(before, now):
        raise ResumeError(
            f"the image changed while it was read ({'; '.join(changed)}); nothing is published; "
            f"start anew (--fresh)"
        )


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two runs' terms, by the keys of a job."""
    return [
        _of_code(line.removeprefix("identity."))
        for line in differences(_by_number(before), _by_number(now))
    ]


def _by_number(terms: Mapping[str, Any]) -> dict[str, Any]:
    """Terms in which the steps are a mapping, so that what differs in one of them is told, and not
    all of them.
    """
    identity = terms.get("identity")
    if not isinstance(identity, Mapping) or not isinstance(identity.get("steps"), list):
        return dict(terms)
    return {
        **terms,
        "identity": {
            **identity,
            "steps": {str(k): step for k, step in enumerate(identity["steps"], start=1)},
        },
    }


def _of_code(line: str) -> str:
    """A difference; that of a checksum of code says whose code changed."""
    found = re.fullmatch(
        r"((?:segmenters\.|steps\b).*?)\.code\.([^:]+): (.*) before, (.*) now", line
    )
    if found is None:
        return line
    where, name, before, now = found.groups()
    whose = "its code or values" if name == "itself" else f"the code of {name}"
    return (
        f"{where}: {whose} "
        f"{'is new' if before == 'null' else 'is gone' if now == 'null' else 'changed'}"
    )


def going_on(draft: Plan) -> Begun | None:
    """The run of this very job that was begun and can go on, if there is one; ResumeError where it
    was begun otherwise.
    """
    found = Begun.read(scratch(draft.job))
    if found is None:
        return None
    if changed := changes(
        {"identity": found.terms["identity"]}, {"identity": draft.terms()["identity"]}
    ):
        raise ResumeError(
            f"{draft.folder} holds a run that was begun otherwise, and cannot go on: "
            f"{'; '.join(changed)}; "
            f"give the job as it was, or start anew (--fresh){products.kept(draft.folder)}"
        )
    return found


def _record(job: Job) -> dict[str, Any] | None:
    """What run.json says. Where it is damaged, and a run goes on that will write it again, that is
    no matter.
    """
    try:
        return read_record(Path(job.output.path).absolute())
    except OutputError:
        if scratch(job).has(BEGUN):
            return None
        raise


def _kept(draft: Plan) -> bool:
    """Whether a run of what this one would segment lies in the scratch store: it can go on, or be
    joined by another rule.
    """
    with contextlib.suppress(ResumeError):
        found = Begun.read(scratch(draft.job))
        return found is not None and found.terms["identity"] == draft.terms()["identity"]
    return False


def _repairs(draft: Plan) -> list[str]:
    """The records of repairs, of the run or of each layer: tiles are drawn again as they say, and
    how depends on how tiles are joined.
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


def _held(draft: Plan) -> contextlib.AbstractContextManager[None]:
    return locked(draft.hidden / LOCK, str(draft.folder))


def _tidy_up(draft: Plan) -> None:
    """Leave nothing but the result, unless the user wants to keep the scratch store."""
    with writing(draft.folder):
        if not draft.job.output.keep_scratch:
            _remove(Path(scratch(draft.job).root))
            _remove(draft.hidden)


def _tidy_up_after_another(draft: Plan) -> None:
    """Remove what a run left that was killed when its result was complete; one that is still at it
    does so itself, and one of another job that was begun since can go on.
    """
    if draft.hidden.exists() and (_kept(draft) or not scratch(draft.job).has(BEGUN)):
        with contextlib.suppress(OutputError), _held(draft):
            products.settled(draft.folder)
            _tidy_up(draft)


def _clear(draft: Plan) -> None:
    """Remove everything of a run but the lock, and the result that is to be replaced."""
    with writing(draft.folder):
        for folder in {Path(scratch(draft.job).root), draft.hidden}:
            for path in folder.iterdir() if folder.exists() else ():
                if path.name not in STAYS:
                    discard(path)


def _remove(folder: Path) -> None:
    """Remove a folder whose own folders others may still write in: each of these is gone in one
    move.
    """
    for path in folder.iterdir() if folder.exists() else ():
        if path.is_dir():
            discard(path)
    if folder.exists():
        shutil.rmtree(folder)
