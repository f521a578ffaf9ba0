"""Names and colours of class numbers."""

from __future__ import annotations

import colorsys
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.errors import JobError, nearest

MOST = 65534
"""The highest class number that is allowed."""
CLASS = 1 << 47
"""The ids of segments with a class are this times the class, plus the segment's number within its
class; 0 is no segment.
"""

RGB = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Entry:
    """Name and colour of a class."""

    name: str
    colour: RGB
    """Red, green and blue, each 0 to 255."""

    def plain(self) -> dict[str, str]:
        """The entry as a job writes it."""
        return {"name": self.name, "colour": "#" + "".join(f"{part:02x}" for part in self.colour)}


def entry(number: int, given: Any = None) -> Entry:
    """A class from what a job says about it: a name or ``{name, colour}``. What is missing is made
    from the number.

    Raises
    ------
    JobError
        If ``given`` is anything else.

    Examples
    --------
    >>> entry(3, {"name": "water", "colour": "#0040ff"})
    Entry(name='water', colour=(0, 64, 255))
    >>> entry(0).name, entry(2).name
    ('background', 'class 2')
    """
    known = given if isinstance(given, Mapping) else {} if given is None else {"name": given}
    name = known.get("name", f"class {number}" if number else "background")
    colour = known.get("colour")
    if unknown := next((key for key in known if key not in ("name", "colour")), None):
        raise JobError(
            f"legend.{number}.{unknown}: there is no such key; "
            f"{nearest(unknown, ('name', 'colour'))}"
        )
    if not isinstance(name, str):
        raise JobError(
            f"legend.{number}: {given!r}; allowed: a name, in quotes if it is a number, yes or "
            f"no, or {{name: …, colour: …}}"
        )
    if "colour" in known and not (
        isinstance(colour, str) and re.fullmatch("#[0-9a-fA-F]{6}", colour)
    ):
        raise JobError(
            f"legend.{number}.colour: {colour!r}; allowed: '#0040ff' or the like, in quotes: "
            f"without them, YAML leaves out what follows #"
        )
    return Entry(
        name,
        _made_up(number)
        if colour is None
        else (int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)),
    )


def legend(highest: int, given: Mapping[int, Any]) -> dict[int, Entry]:
    """The entries of classes 0 to ``highest`` and of all given ones, by number."""
    return {
        number: entry(number, given.get(number)) for number in sorted({*range(highest + 1), *given})
    }


def refuse(given: Mapping[int, Any]) -> None:
    """Raise JobError if a legend is not valid."""
    for number, what in given.items():
        if not 0 <= number <= MOST:
            raise JobError(f"legend.{number}: class {number}; allowed: 0 to {MOST}")
        entry(number, what)


def _made_up(number: int) -> RGB:
    """A colour for a class. Successive numbers get distant hues (by the golden ratio); 0 is
    grey.
    """
    if number == 0:
        return (40, 42, 48)
    red, green, blue = colorsys.hls_to_rgb(
        number * 0.6180339887 % 1, (0.45, 0.62, 0.75)[number % 3], 0.7
    )
    return (round(255 * red), round(255 * green), round(255 * blue))
