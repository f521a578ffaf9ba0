"""Layers of a panoptic result: things, which are counted, and stuff, which is not.

Layers have an order: at each pixel, the first layer that has something there is taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import SkipValidation

from pipeline.config.parts import Described, Part
from pipeline.errors import JobError
from pipeline.image.legend import MOST
from pipeline.jobs.routing import Rule, When


@dataclass(frozen=True, slots=True)
class Layer(Described):
    """What one segmenter draws, as a layer of the result.

    Exactly one of ``things`` and ``stuff`` is given.

    Examples
    --------
    >>> Layer(things="trees", classes=5).final(1), Layer(stuff="cover", classes={2: 0}).final(2)
    (5, 0)
    """

    things: str | None = None
    """A segmenter's name: each of its objects is one thing."""

    stuff: str | None = None
    """A segmenter's name: all its pixels of one class are one segment, which has no id."""

    classes: SkipValidation[int | Mapping[int, int] | None] = None
    """The class in the result, from 1 to 65534: a number for everything in the layer, or a mapping
    from the segmenter's class to that in the result, for those that differ; 0 leaves these pixels
    to the layers below. None: things and stuff keep the segmenter's classes.
    """

    when: When = field(default_factory=dict)
    """The traits of the tiles that the segmenter is asked for, each with its range, as in a rule of
    the route; all tiles where there are none.
    """

    def __post_init__(self) -> None:
        if (self.things is None) == (self.stuff is None):
            raise JobError(
                f"things: {self.things!r}, stuff: {self.stuff!r}; allowed: one of them, a "
                f"segmenter's name"
            )
        mapped = isinstance(self.classes, Mapping)
        numbers = (
            dict(self.classes)
            if isinstance(self.classes, Mapping)
            else {1: 1 if self.classes is None else self.classes}
        )
        if not all(
            _class(own, least=1) and _class(final, least=0 if mapped else 1)
            for own, final in numbers.items()
        ):
            raise JobError(
                f"classes: {self.classes!r}; allowed: a class from 1 to {MOST}, or {{class: "
                f"class in the result}}, 0 for none"
            )
        self.rule  # noqa: B018  refuses unknown traits

    @property
    def use(self) -> str:
        """The name of the segmenter that draws the layer.

        Returns
        -------
        str
            What ``things`` or ``stuff`` names.
        """
        return self.things or self.stuff or ""

    @property
    def role(self) -> Literal["things", "stuff"]:
        """Whether the layer is of things or of stuff.

        Returns
        -------
        str
            ``things``: each object is counted and has an id; ``stuff``: only its class matters.
        """
        return "things" if self.things is not None else "stuff"

    @property
    def rule(self) -> Rule:
        """The rule that says which tiles the segmenter is asked for.

        Returns
        -------
        Rule
            With the name of the segmenter and the ranges of ``when``.
        """
        return Rule(self.use, self.when)

    def final(self, own: int) -> int:
        """Map a class of the segmenter to a class of the result.

        Parameters
        ----------
        own
            The segmenter's class, from 0 for background.

        Returns
        -------
        int
            The class in the result; 0: the pixel is left to the layers below.
        """
        if isinstance(self.classes, Mapping):
            return self.classes.get(own, own)
        return own if self.classes is None or own == 0 else self.classes


WrittenLayer = Annotated[Layer, Part(Layer, "a layer such as {things: NAME} or {stuff: NAME}")]
"""A layer as a job writes it."""


def refuse(
    layers: Sequence[Layer],
    things: Mapping[str, Sequence[int] | None],
    highest: Mapping[str, int] | None = None,
) -> None:
    """Refuse layers that contradict each other or the segmenters.

    Parameters
    ----------
    layers
        From the uppermost down.
    things
        By segmenter, which of its classes are things; None for a segmenter that does not draw both
        things and stuff. One that draws both may be in a layer of each.
    highest
        By segmenter, its highest class, once that is known; before that, only classes that are
        named are compared.

    Raises
    ------
    JobError
        If a segmenter is in no layer or in too many, or a class is that of things and of stuff.
    """
    for name in things:
        _refuse_places(
            name, [each for each in layers if each.use == name], both=things[name] is not None
        )
    roles: dict[int, Layer] = {}
    for each in layers:
        for number in _finals(
            each, _owns(each, things[each.use], (highest or {}).get(each.use, 0))
        ) - {0}:
            if roles.setdefault(number, each).role != each.role:
                other = roles[number].use
                raise JobError(
                    f"layers: class {number} is that of things and of stuff ({other}, {each.use}); "
                    "give one of them other classes in the result: classes: {1: 7}"
                )


def _refuse_places(name: str, mine: Sequence[Layer], *, both: bool) -> None:
    """JobError if a segmenter cannot be in the layers that it is in."""
    if not mine:
        raise JobError(f"layers: {name} is in none; allowed: each segmenter in one layer")
    if len(mine) > 1 and not (both and sorted(each.role for each in mine) == ["stuff", "things"]):
        some = (
            "one that draws both, in one of things and one of stuff"
            if both
            else "each segmenter in one"
        )
        raise JobError(f"layers: {name} is in two layers; allowed: {some}")
    if any(each.when != mine[0].when for each in mine):
        raise JobError(
            f"layers: {name} draws things and stuff at once, of the same tiles; allowed: the "
            f"same `when` in both layers"
        )


def _owns(each: Layer, things: Sequence[int] | None, highest: int) -> set[int]:
    """The segmenter's own classes that a layer shows, as far as they are known."""
    if things is None:
        return set(range(1, highest + 1))
    return set(things) if each.role == "things" else set(range(1, highest + 1)) - set(things)


def _finals(each: Layer, owns: set[int]) -> set[int]:
    """The classes that a layer may have in the result."""
    if isinstance(each.classes, int):
        return {each.classes}
    named = set(each.classes.values()) if each.classes else set()
    return named | {each.final(own) for own in owns}


def _class(number: object, least: int) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and least <= number <= MOST
