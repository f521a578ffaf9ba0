"""What is said of options that are refused: of a wrong value what is allowed, of an unknown option
where it belongs.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib import import_module
from typing import Any

from pydantic import ValidationError

from pipeline.config.messages import explained
from pipeline.config.options import SEGMENTERS, STEPS, kinds, names, validated
from pipeline.errors import JobError, nearest

SECTIONS = ("tiles", "stitch", "output")


def taken(
    kind: type[Any],
    given: Mapping[Any, Any],
    where: str | None,
    *,
    unknown: str,
    stated: bool = False,
) -> dict[str, Any]:
    """Options of the types that a class's annotations say.

    Parameters
    ----------
    kind
        The class.
    given
        What was written, by option.
    where
        The path of the options in the job, such as ``segmenters.land``; None: they are a reader's,
        and named alone.
    unknown
        What is said of an option that the class has not: ``there is no such option``.
    stated
        Whether numbers are as files state them: see `pipeline.config.options.Typed`.

    Raises
    ------
    JobError
        Names the option, its value and what is allowed, and of an unknown one what else has an
        option of that name.
    """
    above = "" if where is None else f"{where}."
    section = "source" if where is None else where
    allowed = names(kind)
    for key in given:
        if key not in allowed:
            hint = f"{nearest(str(key), allowed)}{elsewhere(key, section)}"
            raise JobError(f"{above}{key}: {unknown}; {hint}")
    try:
        return validated(kind, given, stated=stated)
    except ValidationError as error:
        lines = explained(error.errors(), {}, elsewhere)
        raise JobError("\n".join(f"{above}{line}" for line in lines)) from error


def placed(text: str, where: str, allowed: Iterable[str]) -> str:
    """A message with the path of what it is about: ``land.value: …`` where it begins with an
    option's name, or else ``land: …``.
    """
    begins = re.match(r"\w+(?=[:,.\[])", text)
    return f"{where}{'.' if begins and begins[0] in allowed else ': '}{text}"


def elsewhere(key: object, here: str, used: Iterable[str] = ()) -> str:
    """What else has an option of a name that is not known ``here``, a path in the job; nothing
    where nothing has.

    ``used`` are the kinds of segmenters that are meant: where one of them has it, only those are
    named.
    """
    wanted = set(used)
    section = re.split(r"[.\[]", here)[0]
    homes = _homes(str(key))
    meant = [kind for kind in homes["segmenters"] if kind in wanted]
    told = (
        [f"{key} is an option of {_listed(meant or homes['segmenters'])}"]
        if homes["segmenters"]
        else []
    )
    if not meant and homes["steps"]:
        told.append(
            f"{key} is an option of the {'step' if len(homes['steps']) == 1 else 'steps'} "
            f"{_listed(homes['steps'])}"
        )
    if not meant and homes["source"]:
        kinds_of_source = (
            f" where its kind is {_listed(homes['source'], 'or')}" if section == "source" else ""
        )
        told.append(f"{key} is an option of the source{kinds_of_source}")
    told += [f"{key} is a key of {name}" for name in homes["job"] if name != section]
    return "".join(f"; {each}" for each in told)


def kinds_in(segmenters: Any) -> list[str]:
    """The kinds that a job's segmenters name, as they were written."""
    written = segmenters.values() if isinstance(segmenters, Mapping) else ()
    return [str(each.get("kind")) if isinstance(each, Mapping) else str(each) for each in written]


def refuse_misplaced(given: Iterable[str], used: Iterable[str]) -> None:
    """JobError where no reader has an option that a source was given, and one of the segmenters in
    use has.
    """
    for key in given:
        if not _readers(key) and (told := elsewhere(key, "source", used)):
            raise JobError(f"{key}: no source has such an option{told}")


def _listed(found: list[str], last: str = "and") -> str:
    return found[0] if len(found) == 1 else f"{', '.join(found[:-1])} {last} {found[-1]}"


@functools.lru_cache(maxsize=64)
def _homes(key: str) -> dict[str, list[str]]:
    """What has an option of a name. Looked up only where something is wrong: what has options lies
    on floors above, and loads slowly.
    """
    found: dict[str, list[str]] = {
        "segmenters": [],
        "steps": [],
        "source": _readers(key),
        "job": [],
    }
    for part, group in (("segmenters", SEGMENTERS), ("steps", STEPS)):
        for name, point in kinds(group).items():
            with suppress(ImportError):
                found[part] += [name] if key in names(point.load()) else []
    job = import_module("pipeline.jobs.job")
    found["job"] += [
        name for name in SECTIONS if key in job.Job.model_fields[name].annotation.model_fields
    ]
    found["job"] += ["the job"] if key in job.Job.model_fields else []
    return found


@functools.lru_cache(maxsize=64)
def _readers(key: str) -> list[str]:
    """The kinds of source that have an option of a name."""
    found = []
    for name, address in sorted(import_module("pipeline.sources").KINDS.items()):
        module, kind = address.split(":")
        found += [name] if key in (*names(getattr(import_module(module), kind)), "kind") else []
    return found
