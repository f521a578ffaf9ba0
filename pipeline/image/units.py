"""Units of length in images' metadata: their standard name and their length in metres.

Pint looks names up: it knows plurals, prefixes and symbols. It takes a third of a second to load,
so the most common units are listed here, and Pint is loaded only for others.
"""

from __future__ import annotations

import functools
import unicodedata
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

COMMON = {"meter": 0, "metre": 0, "m": 0, "millimeter": -3, "mm": -3, "nanometer": -9, "nm": -9}
COMMON |= dict.fromkeys(("micrometer", "micron", "um", "μm"), -6)
"""Common units, as a power of ten in metres."""
PREFIXES = ("", "deca", "hecto", "kilo", "deci", "centi", "milli", "micro", "nano", "pico", "femto")
POWERS = (0, 1, 2, 3, -1, -2, -3, -6, -9, -12, -15)
NO_LENGTHS = frozenset(
    {"pixel", "pixels", "px", "css_pixel", "unknown", "degree", "degrees", "radian", "pt", "li"}
)
"""Names that are not looked up. Some of them Pint takes for a length but image metadata do not:
pixels, points, lines.
"""
LONGEST = 40
"""The longest name that is looked up, in characters."""


@dataclass(frozen=True, slots=True)
class Length:
    """A unit of length."""

    name: str
    """The name that OME-Zarr uses, if it has one: ``micrometer``."""

    metres: Fraction
    """Its length in metres."""


@functools.lru_cache(maxsize=256)
def length(name: str) -> Length | None:
    """The unit of length with this name, in any case, in singular or plural, with any sign for
    micro; None if the name is not a length.

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
    """Look a name up with Pint; None if there is no such unit, or it is not a length."""
    registry = _registry()
    # parse_unit_name takes a single name: no expression is ever evaluated
    found = [unit for _, unit, _ in registry.parse_unit_name(name)]
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
