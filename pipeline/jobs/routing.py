"""Which segmenter a tile goes to: rules on traits of its pixels, tried in order.

The first rule that holds wins. Its answer is a segmenter's name, or ``skip``. Traits are measured
on a glance at the core (every n-th pixel, or an overview). So they cost little, and they are the
same wherever they are measured.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, Field, Strict

from pipeline.config.parts import Described, Part
from pipeline.errors import JobError, nearest
from pipeline.image.bands import is_name, numbered_trait
from pipeline.numerics.elementary import LN2, logarithm

SKIP = "skip"
COLOURS = 3
SHARES = {"valid": "were measured", "tissue": "are tissue"}
"""Traits that are shares, and of what."""
GLANCE = 256
"""Pixels along the longer side of what traits are measured on."""

Pixels = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
"""Where each band was measured, of the pixels' shape."""


def _grey(block: Pixels, measured: Flags) -> Pixels:
    """The mean of the bands that were measured at each pixel; 0 where none was."""
    if measured.all():
        return np.asarray(block.mean(axis=0))
    number = measured.sum(axis=0)
    total = np.where(measured, block, 0).sum(axis=0)
    return np.asarray(np.divide(total, number, out=np.zeros(total.shape), where=number > 0))


def _spread(block: Pixels, measured: Flags) -> float:
    """The standard deviation of grey over pixels of which any band was measured."""
    known = measured.any(axis=0)
    return float(_grey(block, measured)[known].std()) if known.any() else 0.0


def _entropy(block: Pixels, measured: Flags) -> float:
    """Shannon's entropy of 64 grey levels between the tile's least and largest value, in bits."""
    known = measured.any(axis=0)
    if not known.any():
        return 0.0
    counts = np.histogram(_grey(block, measured)[known], 64)[0]
    share = counts[counts > 0] / max(1, counts.sum())
    return float(-(share * logarithm(share)).sum() / LN2)


def _edges(block: Pixels, measured: Flags) -> float:
    """The mean difference of neighbouring measured pixels, over the spread of all: 0 for a flat
    tile, about 1 for noise.
    """
    grey = _grey(block, measured)
    known = measured.any(axis=0)
    spread = _spread(block, measured)
    steps = []
    for axis in range(grey.ndim):
        both = np.delete(known, 0, axis) & np.delete(known, -1, axis)
        steps.append(np.abs(np.diff(grey, axis=axis))[both])
    change = np.concatenate(steps)
    return float(change.mean() / spread) if change.size and spread else 0.0


def _index(block: Pixels, measured: Flags, a: int, b: int) -> float:
    """The mean of (a - b) / (a + b) over pixels of which both bands were measured."""
    both = measured[a - 1] & measured[b - 1]
    one = block[a - 1][both]
    two = block[b - 1][both]
    total = one + two
    return (
        float(((one - two)[total != 0] / total[total != 0]).mean()) if (total != 0).any() else 0.0
    )


TRAITS: dict[str, Callable[[Pixels, Flags], float]] = {
    "valid": lambda _block, measured: float(measured.any(axis=0).mean()),
    "mean": lambda block, measured: float(block[measured].mean()) if measured.any() else 0.0,
    "spread": _spread,
    "entropy": _entropy,
    "edges": _edges,
}
_OF_BAND = re.compile(r"mean_([1-9]\d*)$")
_OF_BANDS = re.compile(r"index_([1-9]\d*)_([1-9]\d*)$")
GIVEN = ("tissue",)
"""Traits that are not measured on the tile alone."""
FORMS = (*TRAITS, *GIVEN, "mean_BAND", "index_BAND_BAND")


Number = Annotated[
    Annotated[int, Strict()] | Annotated[float, Strict()],
    Field(json_schema_extra=lambda schema: schema.pop("default", None)),  # JSON has no infinity
]


@dataclass(frozen=True, slots=True)
class Range(Described):
    """The values of a trait for which a rule holds, both ends included."""

    min: Number = -np.inf
    """The least value; without it there is no limit."""

    max: Number = np.inf
    """The largest value; without it there is no limit."""

    def __post_init__(self) -> None:
        if not self.min <= self.max:
            raise JobError(
                f"{{min: {self.min}, max: {self.max}}}; allowed: two numbers, max no less than min"
            )


def _with_traits(schema: dict[str, Any]) -> None:
    """Name the traits in a JSON schema, so that editors complete them."""
    span = schema["additionalProperties"]
    schema["properties"] = dict.fromkeys((*TRAITS, *GIVEN), span)
    schema["description"] = f"Traits: {', '.join(FORMS)}."


When = Annotated[
    Mapping[
        str, Annotated[Range, Part(Range, "{min: number}, {max: number} or both", empty=False)]
    ],
    Part(None, "traits with their ranges, such as {valid: {min: 0.5}}"),
    BeforeValidator(lambda given: {} if given is None else given),
    Field(json_schema_extra=_with_traits),
]
"""Ranges by trait, as a job writes them."""


@dataclass(frozen=True, slots=True)
class Rule(Described):
    """Use a segmenter for the tiles whose traits lie in ranges; without ranges, for every tile."""

    use: str
    """A segmenter's name in the job, or ``skip``."""

    when: When = field(default_factory=dict)
    """By trait: valid (share of pixels of which all that a segmenter reads was measured), mean,
    spread (standard deviation), entropy (bits), edges (0 flat, about 1 noise), tissue (share of
    pixels on a slide that are tissue), mean_2 (of the second band), index_4_3 (the mean normalised
    difference of two), or with the bands' names, mean_nir, index_nir_red.
    """

    def __post_init__(self) -> None:
        for trait, span in self.when.items():
            if trait not in (*TRAITS, *GIVEN) and not _bands(trait) and not _of_named(trait):
                raise JobError(f"when.{trait}: there is no such trait; {nearest(trait, FORMS)}")
            ends = [end for end in (span.min, span.max) if abs(end) < np.inf]
            if trait in SHARES and not all(0 <= end <= 1 for end in ends):
                raise JobError(
                    f"when.{trait}: {ends[-1]}; allowed: from 0 to 1, the share of pixels that "
                    f"{SHARES[trait]}"
                )

    def holds(self, block: Pixels, measured: Flags, given: Mapping[str, float]) -> bool:
        """Tell whether the rule holds for a block: every trait lies in its range.

        Parameters
        ----------
        block
            Pixels, float64, (band, row, column) or (band, plane, row, column); those that were not
            measured are 0.
        measured
            Bool, of the block's shape: where each band was measured.
        given
            By name, the traits that are not measured on the block, such as ``tissue``.

        Returns
        -------
        bool
            True also for a rule without ranges.

        Raises
        ------
        JobError
            If a trait names a band that the block does not have.
        """
        found = {
            name: given[name] if name in given else trait(name, block, measured)
            for name in self.when
        }
        return all(span.min <= found[name] <= span.max for name, span in self.when.items())


WrittenRule = Annotated[
    Rule,
    Part(Rule, "a rule such as {use: NAME, when: {valid: {min: 0.5}}}, or a segmenter's name"),
    BeforeValidator(
        lambda given: {"use": given} if isinstance(given, str) else given,
        json_schema_input_type=str | Rule,
    ),
]
"""A rule as a job writes it; the bare name of a segmenter stands for a rule without ranges."""


def refuse_unreached(rules: Sequence[Rule]) -> None:
    """Refuse rules that no tile can reach.

    Parameters
    ----------
    rules
        In the order in which they are tried.

    Raises
    ------
    JobError
        If a rule without ranges, which holds for every tile, stands before others.
    """
    always = next((number for number, rule in enumerate(rules) if not rule.when), len(rules))
    if always < len(rules) - 1:
        raise JobError(
            f"route[{always + 1}]: no tile comes to it, since route[{always}] "
            f"({rules[always].use}) holds for all; "
            f"allowed: `when` in route[{always}], or what holds for all as the last"
        )


def refuse_misfit(when: Mapping[str, Range], bands: int, where: str) -> None:
    """Refuse traits of bands that the image does not have.

    Parameters
    ----------
    when
        Ranges by trait.
    bands
        How many bands the image has, from 1.
    where
        What the error calls the place in the job, such as ``route[0].when``.

    Raises
    ------
    JobError
        If a trait is of a band beyond ``bands``, or is ``tissue`` and there are fewer than three.
    """
    for name in when:
        if name == "tissue" and bands < COLOURS:
            raise JobError(
                f"{where}.tissue: the image has {bands} {'band' if bands == 1 else 'bands'}; "
                f"allowed: red, green and blue first"
            )
        if max(_bands(name), default=0) > bands:
            raise JobError(
                f"{where}.{name}: the image has {bands} {'band' if bands == 1 else 'bands'}; "
                f"allowed: 1 to {bands}"
            )


def _bands(trait: str) -> list[int]:
    """The bands that a trait is of, from 1; none where it is of all, or no trait."""
    found = _OF_BAND.match(trait) or _OF_BANDS.match(trait)
    return [int(number) for number in found.groups()] if found else []


def _of_named(trait: str) -> bool:
    """Whether a trait is of bands that go by their names, which only an image knows: mean_nir,
    index_nir_red.
    """
    kind, _, rest = trait.partition("_")
    return kind in ("mean", "index") and is_name(rest)


def numbered(when: Mapping[str, Range], names: Sequence[str], where: str) -> dict[str, Range]:
    """Replace names of bands in traits by numbers.

    Parameters
    ----------
    when
        Ranges by trait, such as ``mean_nir``.
    names
        The names of the image's bands, in their order.
    where
        What the error calls the place in the job, such as ``route[0].when``.

    Returns
    -------
    dict
        The same ranges by traits with numbers from 1, such as ``mean_4``.

    Raises
    ------
    JobError
        If the image has no band of a name.
    """
    return {numbered_trait(trait, names, where): span for trait, span in when.items()}


def trait(name: str, block: Pixels, measured: Flags) -> float:
    """Measure a trait of a block of pixels.

    Parameters
    ----------
    name
        The name of the trait, with bands by number, such as ``entropy``, ``mean_2`` or
        ``index_4_3``.
    block
        Pixels, float64, (band, row, column) or (band, plane, row, column).
    measured
        Bool, of the block's shape: where each band was measured.

    Returns
    -------
    float
        In the unit of the trait, which `Rule.when` says; 0 where nothing was measured.

    Raises
    ------
    JobError
        If there is no such trait, or it names a band that the block does not have.
    """
    if name in TRAITS:
        return TRAITS[name](block, measured)
    bands = _bands(name)
    if not bands or max(bands) > len(block):
        raise JobError(
            f"the trait {name!r} of an image with {len(block)} bands; bands are counted from 1"
        )
    if len(bands) == 1:
        own = slice(bands[0] - 1, bands[0])
        return TRAITS["mean"](block[own], measured[own])
    return _index(block, measured, *bands)


def choose(
    rules: Sequence[Rule],
    block: npt.NDArray[Any],
    measured: Flags,
    given: Mapping[str, float] | None = None,
) -> str:
    """Choose the segmenter for a tile: the answer of the first rule that holds.

    Parameters
    ----------
    rules
        In the order in which they are tried, with bands by number.
    block
        Pixels of a glance at the tile, (band, row, column) or (band, plane, row, column), of any
        dtype.
    measured
        Bool, of the block's shape: where each band was measured.
    given
        By name, the traits that are not measured on the block, such as ``tissue``; None: there are
        none.

    Returns
    -------
    str
        A segmenter's name; ``skip`` where a rule says so or none holds.

    Raises
    ------
    JobError
        If a trait names a band that the block does not have.
    """
    pixels = np.where(measured, block, 0).astype(np.float64)
    return next((rule.use for rule in rules if rule.holds(pixels, measured, given or {})), SKIP)
