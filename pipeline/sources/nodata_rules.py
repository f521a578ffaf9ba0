"""What counts as measured, by the options ``nodata_by`` and ``missing_chunks``.

Nodata in one band of a colour is a colour: black has no red. So red, green and blue of one colour
are missing only where all three have nodata, also where some of the three are not read.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipeline.errors import JobError, nearest

NODATA_BY = ("band", "pixel")
COLOURS = ("red", "green", "blue")
MISSING_CHUNKS = {
    "nodata": "count as not measured; missing_chunks: fill reads the fill value there",
    "fill": "hold their fill value",
    "error": "end a run",
}
"""What the option ``missing_chunks`` makes of chunks that were never written."""


def check_missing_chunks(given: str | None) -> None:
    """JobError where the option ``missing_chunks`` of a source is none of `MISSING_CHUNKS`."""
    if given not in (None, *MISSING_CHUNKS):
        raise JobError(f"missing_chunks: {given!r}; {nearest(str(given), MISSING_CHUNKS)}")


def told_of_missing(lost: int, number: int, policy: str) -> str:
    """A sentence on chunks that were never written; empty where all were."""
    if lost <= 0:
        return ""
    return f"{lost} of {number} were never written, and {MISSING_CHUNKS[policy]}"


def together(nodata_by: str | None, number: int, colour: Sequence[int] = ()) -> tuple[int, ...]:
    """The bands that share one fact of where they were measured, as `Frame.together` has them.

    Parameters
    ----------
    nodata_by
        The option of the source. ``band``: no bands share it; ``pixel``: all do; None: those of one
        colour do.
    number
        How many bands are read.
    colour
        Which of them, by index from 0, are red, green and blue of one colour.

    Raises
    ------
    JobError
        For any other ``nodata_by``.
    """
    if nodata_by not in (None, *NODATA_BY):
        raise JobError(
            f"nodata_by: {nodata_by!r}; allowed: {' or '.join(NODATA_BY)}, or nothing: by band, "
            f"but by pixel of one colour"
        )
    if nodata_by == "pixel":
        return tuple(range(number))
    return tuple(colour) if nodata_by is None else ()


def colour_of(kinds: Sequence[str]) -> tuple[int, ...]:
    """The indices of red, green and blue among the kinds of bands; none unless each occurs once.

    >>> colour_of(["alpha", "blue", "green", "red"]), colour_of(["red", "green", "red", "blue"])
    ((3, 2, 1), ())
    """
    if any(kinds.count(each) != 1 for each in COLOURS):
        return ()
    return tuple(kinds.index(each) for each in COLOURS)


def is_partly_read(colour: Sequence[int], chosen: Sequence[int]) -> bool:
    """Whether some bands of a colour are read, and others are not."""
    return 0 < len(set(colour) & set(chosen)) < len(colour)


def needed(chosen: Sequence[int], colour: Sequence[int]) -> tuple[int, ...]:
    """The bands that `by_colour` looks at."""
    return tuple(sorted({*chosen, *colour}))


def by_colour(
    good: npt.NDArray[np.bool_], chosen: Sequence[int], colour: Sequence[int]
) -> npt.NDArray[np.bool_]:
    """Where each band was measured, if a band of a colour is missing only where all of it are.

    Parameters
    ----------
    good
        (band, ...) where each of the bands that are `needed` has a value other than nodata.
    chosen
        The bands that are read, by their index in the file.
    colour
        The bands of the file that are one colour; may be empty.

    Returns
    -------
    array of bool, (band, ...), in the order of ``chosen``
    """
    found = dict(zip(needed(chosen, colour), good, strict=True))
    if colour:
        whole = np.any([found[band] for band in colour], axis=0)
        found |= dict.fromkeys(colour, whole)
    return np.stack([found[band] for band in chosen])
