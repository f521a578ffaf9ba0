"""What lies in an output before a run: nothing, a finished result of the job, a run of it that was
begun, or something that the run must not replace.

A finished result is known by its ``run.json``, an unfinished run by the record ``begun`` in its
scratch store. Each holds the terms of its run: all that its labels and files depend on. `look`
reads both records. `Existing.compared` says what they are to a job, when its plan is known.
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import OutputError, ResumeError, ScratchError, TilewiseError
from pipeline.execution.planning import Plan, scratch
from pipeline.jobs.job import Job
from pipeline.stages import products
from pipeline.storage.records import Scratch, differences
from pipeline.storage.run_record import read_record

BEGUN = "begun"
"""The key of the record of a run that was begun."""


class State(enum.Enum):
    """What an output holds for a job."""

    EMPTY = "new"
    FINISHED = "complete"
    """The result of this very job."""
    BEGUN = "begun"
    """A run of this very job, or one whose tiles this job can use."""
    ANOTHER = "another job's"
    """Another job's run or result, or this job's without some of its files."""
    STRANGER = "a stranger's"
    """Files under the names of products that no run has written."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A run that was begun."""

    run: str
    """Its name, which no other run has."""
    join: str
    """The name of the way in which its tiles are joined."""
    lost: Sequence[int]
    """The tiles that could not be read."""
    terms: Mapping[str, Any]
    """`Plan.terms` of its plan."""

    @classmethod
    def read(cls, store: Scratch) -> Begun | None:
        """Read it from a scratch store; None if none was begun there. ResumeError if the record is
        damaged.
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
        """Write it into a scratch store."""
        facts = {
            "run": self.run,
            "join": self.join,
            "lost": list(self.lost),
            "terms": dict(self.terms),
        }
        store.save(BEGUN, facts)


@dataclass(frozen=True, slots=True)
class Found:
    """What an output holds for a job, by the job's plan."""

    state: State
    begun: Begun | None = None
    """The run that goes on; beside a finished result, the run that made it, where its scratch store
    is still there.
    """
    refusal: TilewiseError | None = None
    """Why a run may not write there."""

    def accepted(self) -> Found:
        """The same, where a run may go on; raises the refusal otherwise."""
        if self.refusal is not None:
            raise self.refusal
        return self


@dataclass(frozen=True, slots=True)
class Existing:
    """The records in an output, as `look` has read them."""

    folder: Path
    """The output."""
    record: Mapping[str, Any] | None = None
    """``run.json``; None if it is not there, or is damaged while a run that was begun will write it
    anew.
    """
    begun: Begun | None = None
    was_begun: bool = False
    """Whether a run was begun there; its record may be damaged if a complete result lies there."""
    disregarded: bool = False
    """Whether a run starts anew, whatever lies there."""

    @classmethod
    def nothing(cls, job: Job) -> Existing:
        """What a run that starts anew finds in any output."""
        return cls(Path(job.output.path).absolute(), disregarded=True)

    @property
    def complete(self) -> bool:
        """Whether some job's complete result lies there."""
        return self.record is not None and bool(self.record["complete"])

    def settled(self, job: Job) -> dict[str, Any]:
        """The tiles and devices that the run there was planned with, for `planning.plan`; empty
        where there is no run.

        Of a run that was begun and a complete result beside it, the one with the job's segmenters
        and steps counts.
        """
        identities = list(self._identities())
        if not identities:
            return {}
        asked = json.loads(json.dumps(job.plain()))
        alike = [
            identity
            for identity in identities
            if all(identity.get(key) == asked[key] for key in ("segmenters", "steps"))
        ]
        return settled((alike or identities)[0])

    def _identities(self) -> Iterator[Mapping[str, Any]]:
        if self.begun is not None:
            yield self.begun.terms["identity"]
        if self.record is not None and self.complete:
            yield self.record["identity"]

    def compared(self, draft: Plan) -> Found:
        """What the output holds for a planned job."""
        terms = draft.terms()
        mine = self.begun
        if mine is not None and mine.terms["identity"] != terms["identity"]:
            mine = None
        if self.record is not None and self.complete:
            refusal = _not_its_result(self.folder, self.record, terms)
            if refusal is None:
                return Found(State.FINISHED, mine)
            if mine is None:
                return Found(State.ANOTHER, refusal=refusal)
        if stranger := self.stranger():
            return Found(State.STRANGER, refusal=stranger)
        if self.begun is None:
            return Found(State.EMPTY)
        before = {"identity": self.begun.terms["identity"]}
        if changed := changes(before, {"identity": terms["identity"]}):
            return Found(State.ANOTHER, refusal=_begun_otherwise(self.folder, changed))
        return Found(State.BEGUN, self.begun)

    def stranger(self) -> OutputError | None:
        """The error that names a file in the way that no run has written; None if there is none."""
        if self.disregarded or (self.record is None and self.was_begun):
            return None
        strangers = products.strangers(self.folder)
        if not strangers:
            return None
        how = "without the record of a run" if self.record is None else "as no run has left it"
        return OutputError(
            f"{self.folder} holds {strangers[0]} {how}; choose another output, or replace it "
            f"(--fresh)"
        )


def look(job: Job) -> Existing:
    """Read the records in a job's output.

    Raises
    ------
    OutputError
        If ``run.json`` is damaged, and no run was begun that will write it anew.
    ResumeError
        If the record of a run that was begun is damaged, and no complete result lies there.
    """
    folder = Path(job.output.path).absolute()
    store = scratch(job)
    # The record of the run is read first: a run that ends writes run.json before it removes that.
    was_begun = store.has(BEGUN)
    begun = damage = None
    try:
        begun = Begun.read(store)
    except ResumeError as error:
        damage = error
    try:
        record = read_record(folder)
    except OutputError:
        if not was_begun:
            raise
        record = None
    if damage is not None and not (record and record["complete"]):
        raise damage
    return Existing(folder, record, begun, was_begun)


def settled(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The tiles and devices of a run, by its identity."""
    return {**identity["tiles"], "devices": identity.get("devices", {})}


def _not_its_result(
    folder: Path, record: Mapping[str, Any], terms: Mapping[str, Any]
) -> ResumeError | None:
    """Why a complete result is not that of a job with these terms; None if it is."""
    if changed := changes({key: record.get(key) for key in terms}, terms):
        return another_result(str(folder), changed)
    if gone := products.gone(folder, record):
        return files_gone(str(folder), gone)
    return None


def another_result(where: str, changed: Sequence[str]) -> ResumeError:
    """The error that refuses another job's result; ``where``: its folder or address."""
    return ResumeError(
        f"{where} holds the result of another job ({'; '.join(changed)}); "
        "choose another output, or replace it (--fresh, --overwrite)"
    )


def files_gone(where: str, gone: Sequence[str]) -> ResumeError:
    """The error that names products that are no longer there; ``where``: the folder or address."""
    return ResumeError(
        f"{where} holds the result of this job, but no {', '.join(gone)} any "
        f"more; make it again (--fresh)"
    )


def _begun_otherwise(folder: Path, changed: Sequence[str]) -> ResumeError:
    return ResumeError(
        f"{folder} holds a run that was begun otherwise, and cannot go on: "
        f"{'; '.join(changed)}; "
        f"give the job as it was, or start anew (--fresh){products.kept(folder)}"
    )


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two runs' terms, by the keys of a job."""
    return [
        _of_code(line.removeprefix("identity."))
        for line in differences(_by_number(before), _by_number(now))
    ]


def _by_number(terms: Mapping[str, Any]) -> dict[str, Any]:
    """Terms with the steps as a mapping by number, so that a difference names one step."""
    identity = terms.get("identity")
    if not isinstance(identity, Mapping) or not isinstance(identity.get("steps"), list):
        return dict(terms)
    steps = {str(number): step for number, step in enumerate(identity["steps"], start=1)}
    return {**terms, "identity": {**identity, "steps": steps}}


def _of_code(line: str) -> str:
    """A difference as users read it: one in the checksum of code says which code changed."""
    found = re.fullmatch(
        r"((?:segmenters\.|steps\b).*?)\.code\.([^:]+): (.*) before, (.*) now", line
    )
    if found is None:
        return line
    where, name, before, now = found.groups()
    whose = "its code or values" if name == "itself" else f"the code of {name}"
    what = "is new" if before == "null" else "is gone" if now == "null" else "changed"
    return f"{where}: {whose} {what}"
