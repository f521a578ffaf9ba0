"""An OME-Zarr image as labels that are to lie in it must agree with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from pipeline.errors import JobError

Version = Literal["0.4", "0.5"]
"""Of OME-Zarr."""


@dataclass(frozen=True, slots=True)
class Space:
    """Which axes labels have, and where their pixels lie: the centre of pixel i at scale · i +
    translation.
    """

    axes: tuple[Mapping[str, Any], ...]
    """As OME-Zarr describes each: ``name``, ``type`` and, where it is known, ``unit``."""

    scale: tuple[float, ...]
    """The extent of a pixel along each."""

    translation: tuple[float, ...]
    """Where the centre of the first pixel lies."""


@dataclass(frozen=True, slots=True)
class Home:
    """An image that labels are of, and lie in."""

    path: str
    """The folder of its group."""

    version: Version
    space: Space
    """Of the level that was read, along the axes of the labels."""

    levels: int
    """How many levels its pyramid has; as many have labels in it, by the specification."""


def home(path: str, attributes: Mapping[str, Any], level: str, letters: str) -> Home:
    """The image that a group's attributes describe.

    Parameters
    ----------
    path
        The group's folder.
    attributes
        The group's.
    level
        The path of the level that was read.
    letters
        The axes that labels have: ``yx`` or ``zyx``.

    Raises
    ------
    JobError
        If it is of another version than 0.4 and 0.5.
    """
    known = attributes.get("ome") or attributes
    [image, *_] = known["multiscales"]
    version = known.get("version") or image.get("version")
    if version not in ("0.4", "0.5"):
        raise JobError(f"{path} is OME-Zarr of version {version}; allowed: 0.4 and 0.5")
    names = [axis["name"] for axis in image["axes"]]
    kept = [names.index(letter) for letter in letters]
    dataset = next(each for each in image["datasets"] if each["path"] == level)
    scale, translation = moved(image, dataset, len(names))
    space = Space(
        tuple(dict(image["axes"][k]) for k in kept),
        tuple(scale[k] for k in kept),
        tuple(translation[k] for k in kept),
    )
    return Home(path, cast("Version", version), space, len(image["datasets"]))


def moved(
    image: Mapping[str, Any], dataset: Mapping[str, Any], number: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Scale and translation of a level of an image, given as OME-Zarr describes both, along so many
    axes.

    >>> twice, on = {"type": "scale", "scale": [2.0]}, {"type": "translation", "translation": [5.0]}
    >>> moved({"coordinateTransformations": [twice]}, {"coordinateTransformations": [twice, on]}, 1)
    ((4.0,), (10.0,))
    """
    scale = [1.0] * number
    translation = [0.0] * number
    # Those of a level come first, and then those of all levels.
    for move in (
        *dataset.get("coordinateTransformations", ()),
        *image.get("coordinateTransformations", ()),
    ):
        scale, translation = _moved(move, scale, translation)
    return tuple(map(float, scale)), tuple(map(float, translation))


def _moved(
    move: Mapping[str, Any], scale: Sequence[float], translation: Sequence[float]
) -> tuple[list[float], list[float]]:
    """A scale and a translation after one more transformation."""
    if move["type"] == "scale":
        return [a * b for a, b in zip(scale, move["scale"], strict=True)], [
            a * b for a, b in zip(translation, move["scale"], strict=True)
        ]
    if move["type"] == "translation":
        return list(scale), [a + b for a, b in zip(translation, move["translation"], strict=True)]
    return list(scale), list(translation)
