"""The OME-Zarr image that labels are written into, and must agree with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from pipeline.errors import JobError

Version = Literal["0.4", "0.5"]
"""Version of OME-Zarr."""


@dataclass(frozen=True, slots=True)
class Space:
    """Axes of labels and positions of their pixels: the centre of pixel i is at scale · i +
    translation.
    """

    axes: tuple[Mapping[str, Any], ...]
    """As OME-Zarr describes each axis: ``name``, ``type`` and, if known, ``unit``."""

    scale: tuple[float, ...]
    """Pixel size along each axis."""

    translation: tuple[float, ...]
    """Centre of the first pixel along each axis."""


@dataclass(frozen=True, slots=True)
class Home:
    """An image into which its labels are written."""

    path: str
    """The folder of its group."""

    version: Version
    space: Space
    """The space of the level that was read, for the axes of the labels."""

    levels: int
    """Levels of its pyramid; by the specification, labels have as many."""


def home(path: str, attributes: Mapping[str, Any], level: str, letters: str) -> Home:
    """Read the image that a group's attributes describe.

    Parameters
    ----------
    path : Path
        The group's folder.
    attributes : mapping
        The group's attributes.
    level : str
        The path of the level that was read.
    letters : str
        The axes of the labels: ``yx`` or ``zyx``.

    Returns
    -------
    Home
        The image.

    Raises
    ------
    JobError
        Its version is not 0.4 or 0.5.
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
    """Scale and translation of a level of an image along its last axes.

    Parameters
    ----------
    image, dataset : mapping
        The image and the level, as OME-Zarr describes both.
    number : int
        How many axes.

    Returns
    -------
    scale : tuple of float
        The pixel size along each axis.
    translation : tuple of float
        The centre of the first pixel along each axis.

    Examples
    --------
    >>> twice = {"type": "scale", "scale": [2.0]}
    >>> on = {"type": "translation", "translation": [5.0]}
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
    """Scale and translation after one more transformation."""
    if move["type"] == "scale":
        return [a * b for a, b in zip(scale, move["scale"], strict=True)], [
            a * b for a, b in zip(translation, move["scale"], strict=True)
        ]
    if move["type"] == "translation":
        return list(scale), [a + b for a, b in zip(translation, move["translation"], strict=True)]
    return list(scale), list(translation)
