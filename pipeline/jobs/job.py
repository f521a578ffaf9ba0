"""A job: what is segmented, how, and where the result goes. The same in YAML and in Python; where
it runs is not part of it.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from pipeline.config import yaml_files
from pipeline.config.messages import PLAIN, explained, refusal
from pipeline.config.option_errors import elsewhere, kinds_in
from pipeline.errors import JobError, like, nearest
from pipeline.image import legend
from pipeline.jobs import layers, plugins
from pipeline.jobs.routing import SKIP, Rule, refuse_misfit, refuse_unreached, rule
from pipeline.redaction import redacted, shown
from pipeline.segmenters import Contract, Segmenter
from pipeline.storage.locations import lies_in

Pixels = Annotated[int, Field(ge=1, strict=True)]
Size = Pixels | list[Pixels] | Literal["auto"]
Version = Annotated[
    Literal["0.5", "0.4"],
    BeforeValidator(lambda given: str(given) if isinstance(given, float) else given),
]
"""YAML reads 0.4 as a number."""
MOST_REPAIRS = 8
"""Windows doubled more often are larger than any image."""


class _Part(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", arbitrary_types_allowed=True, use_attribute_docstrings=True
    )


class Tiles(_Part):
    """How the image is cut."""

    size: Size = "auto"
    """The core of a tile along each axis, in pixels: a number, a list (row, column) or (plane, row,
    column), or ``auto``.
    """

    halo: Annotated[int, Field(ge=0, strict=True)] | Literal["auto"] = "auto"
    """Pixels on either side of a seam by which neighbours are compared; auto: 64 (16 in 3-D). What
    a segmenter's reach needs comes on top. Connected pixels are joined exactly by one.
    """

    max_halo: Annotated[int, Field(ge=0, strict=True)] | Literal["auto"] = "auto"
    """How far beyond its core a tile may read to hold an object whole; auto: 1024 (128 in 3-D)."""


class Stitch(_Part):
    """How objects are joined where nothing is proved."""

    iou: Annotated[float, Field(gt=0, le=1, strict=True)] = 0.5
    """The least intersection over union that is evidence."""

    repair: Annotated[int, Field(ge=0, le=MOST_REPAIRS, strict=True)] = 0
    """How many times tiles with disputed seams are segmented again, each time in windows twice as
    large (beyond max_halo).
    """


class Output(_Part):
    """Where the result goes, and as what."""

    path: Annotated[str, Field(min_length=1)]
    """A folder."""

    results: list[Literal["instance", "semantic", "panoptic"]] | None = None
    """``instance``: each object has its number (``labels``). ``semantic``: each pixel has its class
    (``classes``). ``panoptic``: both, and COCO's panoptic PNG and JSON (2-D, of layers, or of
    segmenters that draw things and stuff). None: what the segmenters are for; of layers, all.
    """

    labels: list[Literal["zarr", "cog", "ome-tiff"]] = ["zarr"]
    """OME-Zarr is always written; ``cog`` adds a cloud-optimised GeoTIFF (2-D only), ``ome-tiff`` a
    tiled OME-TIFF with a pyramid (only of images that have no place in the world). The same for
    classes.
    """

    ome_zarr: Version = "0.5"
    """The version of OME-Zarr: 0.5 is of Zarr 3; 0.4 of Zarr 2, for readers that know no other."""

    chunk: Size = "auto"
    """The extent of the labels' chunks along each axis, in pixels; a tile is a whole number of
    them. auto: up to 1024 (128 in 3-D).
    """

    shard: Size | None = None
    """The extent of shards, files that hold many chunks each (0.5 only); a tile is a whole number
    of them. auto: a tile; None: none.
    """

    into_source: Annotated[str, Field(min_length=1)] | None = None
    """A name: the labels (or where there are only classes, these) are also written into the image
    itself, an OME-Zarr, as labels/NAME.
    """

    replace_in_source: Annotated[bool, Field(strict=True)] = False
    """Whether other labels of that name may be replaced there."""

    legend: dict[Annotated[int, Field(ge=0)], Any] = {}
    """By class: its name, or ``{name: water, colour: "#0040ff"}``."""

    table: Literal["parquet"] = "parquet"
    """The table of objects."""

    picture: Annotated[bool, Field(strict=True)] = False
    """Whether to write overview.png, in which each object has its own colour."""

    dtype: Literal["uint32", "uint64"] | None = None
    """The type of the labels; None: the smaller that fits."""

    scratch: Annotated[str, Field(min_length=1)] | None = None
    """A folder for what lies between stages, which all workers reach; None: inside ``path``."""

    keep_scratch: Annotated[bool, Field(strict=True)] = False
    """Whether to keep it, so that `stitch` can be changed without segmenting again."""

    @field_validator("legend")
    @classmethod
    def _legend(cls, given: dict[int, Any]) -> dict[int, Any]:
        try:
            legend.refuse(given)
        except JobError as error:
            raise JobError(f"output.{error}") from error
        return given

    @field_validator("results")
    @classmethod
    def _results(cls, given: list[str] | None) -> list[str] | None:
        if given is not None and (not given or len(set(given)) < len(given)):
            raise JobError(
                f"output.results: {given!r}; allowed: instance, semantic, panoptic, each once"
            )
        return given

    @field_validator("path", "scratch", mode="before")
    @classmethod
    def _path(cls, path: object) -> object:
        return os.fspath(path) if isinstance(path, os.PathLike) else path


class Job(_Part):
    """What is segmented, how, and where the result goes.

    ``source`` is a path, an array, or a mapping: ``kind``, ``path`` and the reader's options.
    ``steps`` is what is made of the image before segmenting, in order: mappings (``kind`` and
    options), or any callables from a block to a block. ``segmenters`` maps names to mappings or to
    any callable. ``route`` may be left out where there is one segmenter. With ``layers`` in its
    place every segmenter sees every tile, and the first layer that has something at a pixel has it.
    ``on_bad_tile`` says what becomes of tiles that cannot be read: ``fail``: nothing is published;
    ``skip``: they are not valid, the rest is published, and the result is not complete. To know
    them, every tile is read once beforehand.
    """

    source: Any
    tiles: Tiles = Tiles()
    steps: list[Any] = []
    segmenters: dict[str, Any]
    route: list[Any] = []
    layers: list[Any] = []
    stitch: Stitch = Stitch()
    on_bad_tile: Literal["fail", "skip"] = "fail"
    output: Output

    def __init__(self, **parts: Any) -> None:
        try:
            super().__init__(**parts)
        except ValidationError as error:
            keys: dict[str, type[BaseModel]] = {
                "": Job,
                "tiles": Tiles,
                "stitch": Stitch,
                "output": Output,
            }
            told = partial(elsewhere, used=kinds_in(parts.get("segmenters")))
            raise JobError(
                "\n".join(
                    explained(
                        error.errors(),
                        {path: part.model_fields for path, part in keys.items()},
                        told,
                    )
                )
            ) from None

    @field_validator("source")
    @classmethod
    def _source(cls, given: Any) -> Any:
        if isinstance(given, (bool, int, float, NoneType)) or (
            isinstance(given, str) and "\0" in given
        ):
            raise JobError(
                refusal("source", given, "a path, or {path: …} with the reader's options")
            )
        if isinstance(given, Mapping) and "path" not in given:
            close = next(
                (f"; was it meant by {key!r}?" for key in given if like(key, ["path"])), ""
            )
            raise JobError(f"source.path is missing; it names the image{close}")
        return given

    @field_validator("steps")
    @classmethod
    def _steps(cls, given: list[Any]) -> list[Any]:
        return [_step(what, f"steps[{number}]") for number, what in enumerate(given)]

    @field_validator("segmenters")
    @classmethod
    def _segmenters(cls, given: dict[str, Any]) -> dict[str, Segmenter]:
        if not given:
            raise JobError(
                "segmenters: none given; name at least one, such as {land: {kind: threshold}}"
            )
        if SKIP in given:
            raise JobError(
                f"segmenters.{SKIP}: this name means that a tile is left out; choose another"
            )
        for name, what in given.items():
            hint = like(
                name,
                [other for other in given if other != name],
                asked="or did you mean the segmenter",
            )
            if (
                isinstance(what, Mapping) and "kind" not in what and hint
            ):  # also what `--set` makes of a misspelt name
                raise JobError(
                    f"segmenters.{name}.kind is missing; {nearest('', plugins.kinds())}{hint}"
                )
        return {name: _segmenter(name, what) for name, what in given.items()}

    @model_validator(mode="after")
    def _routes(self) -> Job:
        names = list(self.segmenters)
        if self.layers and self.route:
            raise JobError(
                "route: given with layers; allowed: `when` in a layer, which says for which "
                "tiles its segmenter is asked"
            )
        things = {name: getattr(what, "things", None) for name, what in self.segmenters.items()}
        if (
            not self.layers
            and "panoptic" in (self.output.results or ())
            and None in things.values()
        ):
            raise JobError(
                "output.results: panoptic; allowed with layers, which say what is a thing and "
                "what is stuff, "
                "or where every segmenter draws both"
            )
        if not self.route and not self.layers and len(names) > 1:
            raise JobError(
                f"route: missing; with several segmenters ({', '.join(names)}) it says which "
                f"tile goes where, or layers do"
            )
        rules = [rule(given, f"route[{number}]", names) for number, given in enumerate(self.route)]
        refuse_unreached(rules)
        object.__setattr__(self, "route", rules if rules or self.layers else [Rule(names[0])])
        stack = [
            layers.layer(given, f"layers[{number}]", names)
            for number, given in enumerate(self.layers)
        ]
        if stack:
            layers.refuse(stack, things)
        object.__setattr__(self, "layers", stack)
        return self

    @model_validator(mode="after")
    def _places(self) -> Job:
        """The result, and what lies between stages, must not be written into the image."""
        given = self.source.get("path") if isinstance(self.source, Mapping) else self.source
        images = [
            image
            for image in (given if isinstance(given, (list, tuple)) else [given])
            if isinstance(image, (str, os.PathLike))
        ]
        for image, key in itertools.product(images, ("path", "scratch")):
            place = getattr(self.output, key)
            if place and lies_in(place, os.fspath(image)):
                raise JobError(
                    f"output.{key}: {place!r} lies in the image ({os.fspath(image)}); allowed: a "
                    f"folder outside of it"
                )
        return self

    def refuse_misfit(self, bands: int) -> None:
        """JobError where a rule or a layer asks for a trait of a band that the image has not."""
        for key, parts in (("route", self.route), ("layers", self.layers)):
            for number, part in enumerate(parts):
                refuse_misfit(part.when, bands, f"{key}[{number}].when")

    def plain(self) -> dict[str, Any]:
        """The job as JSON and YAML can hold it; an array or a function is named by what it is."""
        source = self.source
        return {
            "source": {key: _named(part) for key, part in source.items()}
            if isinstance(source, Mapping)
            else _named(source),
            "tiles": self.tiles.model_dump(),
            "steps": [plugins.describe(step) for step in self.steps],
            "segmenters": {
                name: plugins.describe(segmenter) for name, segmenter in self.segmenters.items()
            },
            "route": [rule.plain() for rule in self.route],
            "layers": [layer.plain() for layer in self.layers],
            "stitch": self.stitch.model_dump(),
            "on_bad_tile": self.on_bad_tile,
            "output": shown(self.output.model_dump()),
        }


def _named(what: Any) -> Any:
    """A path or an option as it is; an image in memory by its type."""
    if isinstance(what, os.PathLike):
        return os.fspath(what)
    if isinstance(what, (list, tuple)):
        return [_named(part) for part in what]
    if isinstance(what, str):
        return redacted(what)
    return (
        what
        if isinstance(what, (int, float, NoneType))
        else f"{type(what).__module__}.{type(what).__name__}"
    )


def from_yaml(path: str | os.PathLike[str], changes: Mapping[str, Any] | None = None) -> Job:
    """Read a job file.

    Parameters
    ----------
    path
        The file. Paths in it are taken from the folder in which the command runs.
    changes
        Values by dotted key, such as ``{"tiles.size": 512}``, that take the place of the file's.

    Raises
    ------
    JobError
        If the file is missing, is no YAML, or describes no job; the message names the key.
    """
    file = Path(path)
    parts = yaml_files.read(file, "the job file")
    if not isinstance(parts, dict):
        what = PLAIN.get(type(parts), "one value").partition(",")[0]
        raise JobError(
            f"the job file {file} holds {what}, not the keys of a job; "
            f"{nearest('', Job.model_fields)}"
        )
    if "train" in parts and "segmenters" not in parts:
        raise JobError(
            f"the job file {file} is a card by which a network is trained, by: tilewise train "
            f"{file}"
        )
    yaml_files.change(parts, changes or {})
    return Job(**{str(key): value for key, value in parts.items()})


def _segmenter(name: str, what: Any) -> Any:
    where = f"segmenters.{name}"
    if isinstance(what, Mapping):
        return plugins.build(what, where)
    if isinstance(what, str):
        return plugins.build({"kind": what}, where)
    if not callable(what):
        raise JobError(
            f"{where}: {what!r}; allowed: a kind with its options, such as {{kind: threshold}}, "
            f"or in Python any callable"
        )
    Contract.of(what)
    return what


def _step(what: Any, where: str) -> Any:
    if isinstance(what, (Mapping, str)):
        return plugins.build(
            {"kind": what} if isinstance(what, str) else what, where, plugins.STEPS
        )
    reach = getattr(what, "reach", None)
    if not callable(what) or isinstance(reach, bool) or not isinstance(reach, int) or reach < 0:
        raise JobError(
            f"{where}: {what!r}; allowed: a kind with its options, such as {{kind: smooth, "
            f"sigma: 2}}, "
            "or in Python any callable that states its reach in pixels"
        )
    return what
