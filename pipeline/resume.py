"""What lies in the output already: nothing, a finished result, or a run to go on with. Between planning and the workflow.

A finished result is known by its ``run.json``, an unfinished run by the record ``begun`` in its scratch store. Each holds the identity of
its run: all that its labels depend on. Another identity is refused, with what is different, unless the user asks to start anew.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import OutputError, ResumeError
from pipeline.job import Job
from pipeline.planning import Plan, scratch
from pipeline.scratch import differences, locked
from pipeline.stages import finish

AFTER_SEGMENTING = ("repairs", "grouped", "ids", "slabs", "objects", "lines")
"""Records that a change of ``stitch``, ``layers`` or ``output`` makes stale; the links do not depend on them."""


def begun(job: Job) -> dict[str, Any]:
    """What the result or run that lies in the output settled of its tiles and devices; empty where there is none."""
    record = finish.read_record(Path(job.output.path).absolute())
    if record and record["complete"]:
        return _settled(record["identity"])
    store = scratch(job)
    return _settled(store.load("begun")[0]["identity"]) if store.has("begun") else {}


def _settled(identity: Mapping[str, Any]) -> dict[str, Any]:
    return {**identity["tiles"], "devices": identity.get("devices", {})}


def finished(draft: Plan) -> bool:
    """Whether the output is the result of this very job; OutputError if it is another's, or nobody's."""
    record = finish.read_record(draft.folder)
    if record and record["complete"]:
        changed = changes({key: record.get(key) for key in draft.terms()}, draft.terms())
        if changed and not _kept(draft):
            raise OutputError(
                f"{draft.folder} holds the result of another job ({'; '.join(changed)}); "
                "choose another output, or replace it (--fresh, --overwrite)"
            )
        if not changed:
            _tidy_up_after_another(draft)
        return not changed
    there = [name for name in finish.PUBLISHED if (draft.folder / name).exists()]
    if not record and not draft.run.scratch.has("begun") and there:
        raise OutputError(f"{draft.folder} holds {there[0]} without the record of a run; choose another output, or replace it (--fresh)")
    return False


@contextlib.contextmanager
def opened(draft: Plan, *, fresh: bool) -> Iterator[None]:
    """Hold the output while a run is begun or gone on with; ResumeError where it was begun otherwise. Cleared when all is published."""
    if draft.job.output.scratch is not None:
        _refuse_unwritable(Path(draft.run.scratch.root))
    refuse_taken(draft, fresh=fresh)
    with _held(draft):
        if fresh:
            _clear(draft)
        _begin(draft)
        yield
        _tidy_up(draft)


def refuse_taken(draft: Plan, *, fresh: bool = False) -> None:
    """JobError if the labels are to go into the image, and another's are there. That the run was begun otherwise is said first."""
    if draft.nest is not None:
        if not fresh:
            going_on(draft)
        draft.nest.refuse()


def same_image(draft: Plan) -> None:
    """ResumeError if the image is no longer the one that the run began with."""
    before, now = dict(draft.fingerprint), draft.source.fingerprint()
    if changed := differences(before, now):
        raise ResumeError(f"the image changed while it was read ({'; '.join(changed)}); nothing is published; start anew (--fresh)")


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two runs' terms, by the keys of a job."""
    return [_of_code(line.removeprefix("identity.")) for line in differences(_by_number(before), _by_number(now))]


def _by_number(terms: Mapping[str, Any]) -> dict[str, Any]:
    """Terms in which the steps are a mapping, so that what differs in one of them is told, and not all of them."""
    identity = terms.get("identity")
    if not isinstance(identity, Mapping) or not isinstance(identity.get("steps"), list):
        return dict(terms)
    return {**terms, "identity": {**identity, "steps": {str(k): step for k, step in enumerate(identity["steps"], start=1)}}}


def _of_code(line: str) -> str:
    """A difference; that of a checksum of code says whose code changed."""
    found = re.fullmatch(r"((?:segmenters\.|steps\b).*?)\.code\.([^:]+): (.*) before, (.*) now", line)
    if found is None:
        return line
    where, name, before, now = found.groups()
    whose = "its code or values" if name == "itself" else f"the code of {name}"
    return f"{where}: {whose} {'is new' if before == 'null' else 'is gone' if now == 'null' else 'changed'}"


def going_on(draft: Plan) -> bool:
    """Whether a run of this very job was begun and can go on; ResumeError where it was begun otherwise."""
    if not draft.run.scratch.has("begun"):
        return False
    if changed := changes({"identity": draft.run.scratch.load("begun")[0]["identity"]}, {"identity": draft.terms()["identity"]}):
        raise ResumeError(
            f"{draft.folder} holds a run that was begun otherwise, and cannot go on: {'; '.join(changed)}; "
            "give the job as it was, or start anew (--fresh)"
        )
    return True


def _kept(draft: Plan) -> bool:
    """Whether all that was segmented for this result lies in the scratch store still: it can be joined by another rule."""
    store = draft.run.scratch
    return store.has("begun") and store.load("begun")[0]["identity"] == draft.identity()


def _begin(draft: Plan) -> None:
    store, terms = draft.run.scratch, draft.terms()
    if going_on(draft):
        before = store.load("begun")[0]
        late = _after_segmenting(draft)
        if before == terms and not store.damaged(*late):
            return
        store.forget(*late, "overlay")
        finish.discard(draft.staging)
    store.save("begun", terms)


def _after_segmenting(draft: Plan) -> list[str]:
    """The same records of the run, or of each layer and of what is laid over each other."""
    folders = [f"layers/{layer.use}/" for layer in draft.job.layers] + ["overlay/"] if draft.job.layers else [""]
    return [f"{folder}{key}" for folder in folders for key in AFTER_SEGMENTING]


def _refuse_unwritable(root: Path) -> None:
    """OutputError, before anything is written, if the scratch store's folder cannot be made."""
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"output.scratch: {root} cannot be written: {error.strerror}; choose another folder") from error


def _held(draft: Plan) -> contextlib.AbstractContextManager[None]:
    return locked(_hidden(draft) / "lock", str(draft.folder))


def _hidden(draft: Plan) -> Path:
    return draft.folder / ".tilewise"


def _tidy_up(draft: Plan) -> None:
    """Leave nothing but the result, unless the user wants to keep the scratch store."""
    if not draft.job.output.keep_scratch:
        finish.discard(Path(draft.run.scratch.root))
        finish.discard(_hidden(draft))


def _tidy_up_after_another(draft: Plan) -> None:
    """Remove what a run left that was killed when its result was complete; one that is still at it does so itself."""
    if _hidden(draft).exists():
        with contextlib.suppress(OutputError), _held(draft):
            _tidy_up(draft)


def _clear(draft: Plan) -> None:
    """Remove everything of a run but the lock."""
    finish.discard(draft.staging)
    store = Path(draft.run.scratch.root)
    for path in store.iterdir() if store.exists() else ():
        if path.name != "lock":
            finish.discard(path)
