"""Units of length, by whichever of their names an image's metadata have: what they are called here,
and how long they are.

Names are looked up with Pint, which knows plurals, prefixes and symbols. It takes a third of a
second to load, so that those which most images have are known here, and it is loaded for another
only.
"""

from __future__ import annotations

import functools
import unicodedata
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

COMMON = {"meter": 0, "metre": 0, "m": 0, "millimeter": -3, "mm": -3, "nanometer": -9, "nm": -9}
COMMON |= dict.fromkeys(("micrometer", "micron", "um", "μm"), -6)
"""The power of ten that a unit is in metres."""
PREFIXES = ("", "deca", "hecto", "kilo", "deci", "centi", "milli", "micro", "nano", "pico", "femto")
POWERS = (0, 1, 2, 3, -1, -2, -3, -6, -9, -12, -15)
NO_LENGTHS = frozenset(
    {"pixel", "pixels", "px", "css_pixel", "unknown", "degree", "degrees", "radian", "pt", "li"}
)
"""What need not be looked up, and what Pint takes for a length and images mean otherwise: pixels,
points, lines.
"""
LONGEST = 40
"""Letters of a name that is looked up."""


@dataclass(frozen=True, slots=True)
class Length:
    """A unit of length."""

    name: str
    """As OME-Zarr calls it, where that has a name for it: micrometer."""

    metres: Fraction
    """How long it is."""


@functools.lru_cache(maxsize=256)
def length(name: str) -> Length | None:
    """The unit of length that a name stands for, whichever case, plural or sign for micro it has;
    None where it is none.

    >>> length("µm") == length("Microns") == Length("micrometer", Fraction(1, 1000000))
    True
    >>> length("pixel") is None
    True
    """
    plain = unicodedata.normalize("NFKC", name).strip().replace(" ", "_").replace("-", "_")
    if plain in COMMON:
        return _named(plain, Fraction(10) ** COMMON[plain])
    if not plain.isidentifier() or len(plain) > LONGEST or plain in NO_LENGTHS:
        return None
    return _looked_up(plain) or _looked_up(plain.lower())


_SI = {
    Fraction(10) ** power: f"{prefix}meter" for prefix, power in zip(PREFIXES, POWERS, strict=True)
}


def _named(name: str, metres: Fraction) -> Length:
    return Length(_SI.get(metres, name), metres)


def _looked_up(name: str) -> Length | None:
    """By Pint; None where it has no such unit, or one that is no length."""
    registry = _registry()
    found = [
        unit for _, unit, _ in registry.parse_unit_name(name)
    ]  # of a name alone: no expression is ever evaluated
    if not found or found[0] in NO_LENGTHS:
        return None
    unit = registry.Unit(name)
    if unit.dimensionality != {"[length]": 1}:
        return None
    return _named(str(unit), Fraction(registry.Quantity(Fraction(1), unit).to("meter").magnitude))


@functools.cache
def _registry() -> Any:
    import pint

    return pint.UnitRegistry(non_int_type=Fraction)  # exact: an inch is 127/5000 of a metre
