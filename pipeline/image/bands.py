"""Bands by name: replace names such as ``nir`` by band numbers, from 1, once the image is known.

A segmenter or a step lists the options that name bands in its attribute ``of_bands``. Their values
are a band, pairs or lists of bands, or a mapping from bands to weights. Records, comparisons and
computations use numbers only, so a run does not depend on how its bands are named.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from pipeline.errors import JobError, like

T = TypeVar("T")
MEAN = "mean"
"""An option may say this instead of a band: the mean of all bands. A band with this name is
selected by its number.
"""
SHOWN = 24
"""How many names a message lists."""


def numbered(what: T, names: Sequence[str]) -> T:
    """Replace names of bands by numbers in the options of a segmenter or a step.

    Parameters
    ----------
    what
        A dataclass. Its attribute ``of_bands`` lists the options that name bands.
    names
        The names of the image's bands, in order.

    Returns
    -------
    dataclass
        A copy with band numbers, from 1.

    Raises
    ------
    JobError
        If the image has no such band. The message names the option and what is allowed.
    """
    held: Any = what
    for option in held.of_bands:
        given = getattr(held, option)
        found = (
            _weights(given, names, option)
            if isinstance(given, Mapping)
            else _numbers(given, names, option)
        )
        if found != given:
            held = replace(held, **{option: found})
    return held  # type: ignore[no-any-return]


def number(band: int | str, names: Sequence[str], option: str) -> int:
    """The number, from 1, of a band given by name or number.

    Parameters
    ----------
    band
        The name, or the number, which is returned unchecked.
    names
        The names of the image's bands, in order.
    option
        The option that holds it, for the message.

    Raises
    ------
    JobError
        If no band has this name.
    """
    if not isinstance(band, str):
        return band
    if band not in names:
        raise JobError(f"{option}: the image has no band {band!r}; {_allowed(band, names)}")
    return list(names).index(band) + 1


def indices(bands: Iterable[int | str], count: int, option: str = "bands") -> tuple[int, ...]:
    """The indices, from 0, of some of ``count`` bands that have no names; JobError if one is given
    by name.
    """
    names = [str(k + 1) for k in range(count)]
    return tuple(number(band, names, option) - 1 for band in bands)


def numbered_trait(trait: str, names: Sequence[str], where: str) -> str:
    """Replace the band names in a trait by numbers: ``mean_nir`` becomes ``mean_4``,
    ``index_nir_red`` becomes ``index_4_3``. Any other trait is returned unchanged.

    Parameters
    ----------
    trait
        The trait's name.
    names
        The names of the image's bands, in order.
    where
        The key that holds the trait, for the message.

    Raises
    ------
    JobError
        If the image has no such bands, or the name can be read in two ways.
    """
    kind, _, rest = trait.partition("_")
    if kind not in ("mean", "index") or not is_name(rest):
        return trait
    known = {str(k + 1): k + 1 for k in range(len(names))} | {
        name: k + 1 for k, name in enumerate(names) if is_name(name)
    }
    ways = [(a,) for a in known] if kind == "mean" else itertools.product(known, known)
    found = [tuple(known[name] for name in way) for way in ways if "_".join(way) == rest]
    if not found:
        raise JobError(f"{where}.{trait}: the image has no such band; {_allowed(rest, names)}")
    if len(found) > 1:
        raise JobError(
            f"{where}.{trait}: this may be the bands {' or '.join(map(str, found))}; allowed: "
            f"their numbers, index_A_B"
        )
    return "_".join((kind, *map(str, found[0])))


def is_name(text: str) -> bool:
    """Whether the rest of a trait's name is a band's name rather than one or more numbers.

    >>> is_name("nir"), is_name("nir_2"), is_name("4_3")
    (True, True, False)
    """
    return bool(text) and not text.replace("_", "").isdigit()


def unlike(name: str, names: Iterable[str]) -> str:
    """A name that is not taken: the given one, or that with the first free number from 2.

    >>> unlike("ndvi", ["red", "ndvi"])
    'ndvi_2'
    """
    taken = set(names)
    return next(
        each
        for each in itertools.chain([name], (f"{name}_{k}" for k in itertools.count(2)))
        if each not in taken
    )


def _numbers(given: Any, names: Sequence[str], option: str) -> Any:
    if isinstance(given, (tuple, list)):
        return tuple(_numbers(each, names, option) for each in given)
    if option == "band" and given == MEAN:
        return given
    return number(given, names, option) if isinstance(given, str) else given


def _weights(given: Mapping[Any, float], names: Sequence[str], option: str) -> tuple[float, ...]:
    """One weight for each band, 0 for those not named. A band's number may be text, as in the keys
    of JSON.
    """
    found = [0.0] * len(names)
    for band, weight in given.items():
        text = str(band)
        places = {list(names).index(text)} if text in names else set()
        places |= {int(text) - 1} if text.isdigit() and 1 <= int(text) <= len(names) else set()
        if len(places) > 1:
            raise JobError(
                f"{option}: {band} is the number of one band and the name of another; allowed: a "
                f"list, one number for each band"
            )
        if not places:
            raise JobError(f"{option}: the image has no band {band!r}; {_allowed(band, names)}")
        found[places.pop()] += weight
    return tuple(found)


def _allowed(band: object, names: Sequence[str]) -> str:
    """The allowed names of bands in words: at most `SHOWN`, and the one nearest to what was
    written.
    """
    numbers = f"numbers from 1 to {len(names)}"
    if all(name.isdigit() for name in names):
        return f"allowed: {numbers}, since its bands have no names"
    shown = ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
    return f"allowed: {shown}, or {numbers}{like(band, names)}"
