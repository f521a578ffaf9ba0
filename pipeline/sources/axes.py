"""Which axis of a stored array is which: t time, c channel (band), z plane, y row, x column."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import JobError
from pipeline.image.grid import Box

LETTERS = {letter: letter for letter in "tczyx"} | {
    "time": "t",
    "band": "c",
    "channel": "c",
    "plane": "z",
    "row": "y",
    "column": "x",
}
LETTERS |= {"lat": "y", "latitude": "y", "lon": "x", "longitude": "x"}
LETTERS |= {
    "bands": "c",
    "channels": "c",
    "variable": "c",
    "wavelength": "c",
    "planes": "z",
    "depth": "z",
    "times": "t",
}
LETTERS |= {
    "rows": "y",
    "columns": "x",
    "northing": "y",
    "easting": "x",
    "line": "y",
    "sample": "x",
}
LETTERS |= {
    "projection_y_coordinate": "y",
    "projection_x_coordinate": "x",
    "grid_latitude": "y",
    "grid_longitude": "x",
}
LETTERS |= {"rlat": "y", "rlon": "x", "yc": "y", "xc": "x", "south_north": "y", "west_east": "x"}
"""The letter of an axis by the names that it goes by, in lower case."""
UNNAMED = re.compile(r"dim_\d+")
"""What xarray calls an axis that has no name."""
COLOURS = 4
"""A first axis of up to so many is taken for bands: red, green, blue and one more."""
MOST_BANDS = 64
"""A first axis longer than this is never taken for bands unless it is named."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How to take blocks (band, row, column) or (band, plane, row, column) out of a
    stored array.
    """

    axes: str
    """A letter for each axis of the array, such as ``tczyx``."""

    bands: tuple[int, ...] = (0,)
    """Indices along c, in the order wanted."""

    fixed: tuple[tuple[str, int], ...] = ()
    """The index along each axis that is not read as a whole: t, and z where one plane is chosen."""

    @property
    def space(self) -> str:
        """The letters of the axes that a box has: ``yx`` or ``zyx``."""
        chosen = dict(self.fixed)
        return "".join(letter for letter in "zyx" if letter in self.axes and letter not in chosen)

    def index(self, box: Box, step: int = 1) -> tuple[int | slice, ...]:
        """What of an array is looked at for a box: of bands all from the first to the last of those
        that are wanted.
        """
        spans = dict(zip(self.space, box.slices, strict=True))
        known: dict[str, int | slice] = {
            letter: slice(span.start, span.stop, step) for letter, span in spans.items()
        }
        known |= {"c": slice(min(self.bands), max(self.bands) + 1), **dict(self.fixed)}
        return tuple(known[letter] for letter in self.axes)

    def take(self, array: Any, box: Box, step: int = 1) -> Any:
        """The box of the bands, every ``step``-th pixel along the space axes; of the array's own
        kind (lazy stays lazy).
        """
        fixed = dict(self.fixed)
        low = min(self.bands)
        high = max(self.bands) + 1
        block = array[self.index(box, step)]
        left = [letter for letter in self.axes if letter not in fixed]
        wanted = [letter for letter in ("c", *self.space) if letter in left]
        block = block.transpose([left.index(letter) for letter in wanted])
        if "c" not in left:
            return block[None]
        picked = [band - low for band in self.bands]
        return block if picked == list(range(high - low)) else block[picked]

    def shape(self, stored: Sequence[int]) -> tuple[int, ...]:
        """What belongs to the space axes of something that has an entry for each axis of
        the array.
        """
        return tuple(int(stored[self.axes.index(letter)]) for letter in self.space)

    def facts(self, stored: Sequence[int]) -> dict[str, int | None]:
        """How many times and planes there are, and which of them is read; None where there is no
        such axis, or all are read.
        """
        length = dict(zip(self.axes, stored, strict=True))
        chosen = dict(self.fixed)
        return {
            "times": length.get("t"),
            "time": chosen.get("t"),
            "planes": length.get("z"),
            "plane": chosen.get("z"),
        }


@dataclass(frozen=True, slots=True)
class Choice:
    """What is to be read along the axes of an array, by the options of its source."""

    bands: Sequence[int | str] | None = None
    """Numbers from 1, or names; None: all."""

    time: int | None = None
    """The index along t; None: the only one."""

    planes: int | str | None = None
    """"all", or the index of one plane; None: all, where there are several."""

    @classmethod
    def of(
        cls,
        bands: Sequence[int | str] | None,
        time: int | None,
        planes: int | str | None,
        *,
        channels: Sequence[int | str] | None = None,
    ) -> Choice:
        """The choice of a source that knows bands by two words; JobError where both are given."""
        if channels is not None and bands is not None:
            raise JobError("channels and bands are both given; they are one and the same")
        return cls(bands if channels is None else channels, time, planes)

    def guess(self, shape: Sequence[int], what: str) -> str:
        """The axes of an array that does not name them, as `guessed` finds them."""
        return guessed(shape, what, bands=self.bands, planes=self.planes)

    def layout(
        self, axes: str, shape: Sequence[int], names: Sequence[str] = ()
    ) -> tuple[Layout, tuple[str, ...]]:
        """How to take what was chosen out of an array, and the names of the bands.

        Parameters
        ----------
        axes
            A letter of t, c, z, y, x for each axis of the array.
        shape
            The shape of the array.
        names
            The names of all its bands, where it has any.

        Raises
        ------
        JobError
            If the axes do not fit the shape, or a choice does not fit an axis.
        """
        letters = set(axes)
        fits = len(axes) == len(shape) and len(letters) == len(axes)
        if not fits or not {"y", "x"} <= letters <= set("tczyx"):
            raise JobError(
                f"axes: {axes!r} for the shape {tuple(shape)}; allowed: one letter of t, c, z, y, "
                f"x for each axis, y and x among them"
            )
        length = dict(zip(axes, shape, strict=True))
        fixed = _time(length, self.time) | _plane(length, self.planes)
        known = named(names, length.get("c", 1))
        chosen = choose_bands(self.bands, known)
        return Layout(axes, chosen, tuple(fixed.items())), tuple(known[band] for band in chosen)


def named(names: Sequence[str | None], number: int) -> tuple[str, ...]:
    """What bands are called, no two alike: of names that repeat the second is ``DAPI_2``. Numbers
    from 1 where there is no name.

    >>> named(["DAPI", "DAPI", None, "DAPI_2"], 4), named(["DAPI"], 2)
    (('DAPI', 'DAPI_3', '3', 'DAPI_2'), ('1', '2'))
    """
    given = (
        [(name or "").strip() or str(k + 1) for k, name in enumerate(names)]
        if len(names) == number
        else []
    )
    given = given or [str(k + 1) for k in range(number)]
    taken = set(given)
    found = list[str]()
    for name in given:
        if name not in found:
            found.append(name)
            continue
        other = next(each for k in itertools.count(2) if (each := f"{name}_{k}") not in taken)
        taken.add(other)
        found.append(other)
    return tuple(found)


def choose_bands(bands: Sequence[int | str] | None, names: Sequence[str]) -> tuple[int, ...]:
    """Indices from 0 of bands given by number from 1 or by name; all if none are given."""
    if bands is None:
        return tuple(range(len(names)))
    chosen = []
    for band in [bands] if isinstance(bands, (int, str)) else bands:
        if isinstance(band, str) and band in names:
            chosen.append(list(names).index(band))
        elif isinstance(band, int) and not isinstance(band, bool) and 1 <= band <= len(names):
            chosen.append(band - 1)
        else:
            raise JobError(
                f"bands: {band!r}; allowed: 1 to {len(names)}, or a name: {', '.join(names)}"
            )
    if not chosen:
        raise JobError(f"bands: none; allowed: 1 to {len(names)}, or a name: {', '.join(names)}")
    return tuple(chosen)


def guessed(shape: Sequence[int], what: str, *, bands: object = None, planes: object = None) -> str:
    """The axes of an array that does not name them, where its shape or an option says what they
    are; JobError asks where nothing does.

    Two axes are (row, column). Three are (plane, row, column) where ``planes`` are chosen; and
    (band, row, column) where the first is no longer than COLOURS, or ``bands`` are chosen, and it
    is the shorter end: a stack, or bands that come last, are never taken for bands. Four are (band,
    plane, row, column) where ``planes`` are chosen and there is one of the others.

    >>> guessed((3, 200, 220), "it"), guessed((10, 200, 220), "it", planes="all")
    ('cyx', 'zyx')
    >>> guessed((10, 200, 220), "it", bands=[4, 3, 2])
    'cyx'
    """
    if len(shape) == 2:
        return "yx"
    if len(shape) == 3 and planes is not None:
        return "zyx"
    if len(shape) == 4 and planes is not None and shape[0] == 1:
        return "czyx"
    if (
        len(shape) == 3
        and shape[-1] > max(COLOURS, shape[0])
        and shape[0] <= (COLOURS if bands is None else MOST_BANDS)
    ):
        return "cyx"
    if len(shape) < 2:
        raise JobError(f"{what} has the shape {tuple(shape)}; allowed: at least rows and columns")
    raise JobError(
        f"axes: {what} has the shape {tuple(shape)}, which does not say what its axes are; "
        f"{_ways(shape)}"
    )


def _ways(shape: Sequence[int]) -> str:
    """How the axes of an array of more than two are named."""
    if len(shape) > 3:
        return (
            f"name them, a letter of t, c, z, y, x for each: axes: "
            f"{'czyx' if len(shape) == 4 else 'tczyx'}"
        )
    ways = (
        "axes: cyx where the first are bands",
        "axes: zyx planes",
        "axes: tyx times",
        "axes: yxc where bands come last",
    )
    return f"name them: {', '.join(ways if shape[-1] > COLOURS else (*ways[-1:], *ways[:-1]))}"


def native(block: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The block in C order and the machine's byte order; bool as 0 and 1."""
    if block.dtype.kind == "b":
        return np.ascontiguousarray(block).view(np.uint8)
    return np.ascontiguousarray(block, block.dtype.newbyteorder("="))


def _time(length: Mapping[str, int], time: int | None) -> dict[str, int]:
    if "t" not in length:
        if time is not None:
            raise JobError(f"time: {time!r}; the image has no time axis; allowed: none")
        return {}
    if time is None and length["t"] > 1:
        raise JobError(
            f"time: missing; the image has {length['t']} times; allowed: 0 to {length['t'] - 1}"
        )
    if time is not None and not 0 <= time < length["t"]:
        raise JobError(f"time: {time}; allowed: 0 to {length['t'] - 1}")
    return {"t": time or 0}


def _plane(length: Mapping[str, int], planes: int | str | None) -> dict[str, int]:
    if "z" not in length:
        if planes is not None:
            raise JobError(f"planes: {planes!r}; the image has no planes; allowed: none")
        return {}
    if planes is None:
        return {"z": 0} if length["z"] == 1 else {}
    if planes == "all":
        return {}
    if isinstance(planes, bool) or not isinstance(planes, int) or not 0 <= planes < length["z"]:
        raise JobError(
            f"planes: {planes!r}; allowed: all, or one plane's index from 0 to {length['z'] - 1}"
        )
    return {"z": planes}
