"""A job: what is segmented, how, and where the result goes.

It says the same in YAML and in Python. Where it runs is not part of it.
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
from pipeline.config.messages import PLAIN, explained
from pipeline.config.option_errors import elsewhere, kinds_in
from pipeline.config.parts import Described
from pipeline.errors import JobError, like, nearest
from pipeline.image import legend
from pipeline.jobs import layers, plugins
from pipeline.jobs.kinds import OfKind, OfSource, in_yaml
from pipeline.jobs.layers import WrittenLayer
from pipeline.jobs.plugins import SEGMENTERS, STEPS
from pipeline.jobs.routing import SKIP, Rule, WrittenRule, refuse_misfit, refuse_unreached
from pipeline.redaction import redacted, shown
from pipeline.segmenters.protocols import DrawsThings
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


class _Part(Described, BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


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
            raise JobError(str(error).removeprefix("legend")) from error
        return given

    @field_validator("results")
    @classmethod
    def _results(cls, given: list[str] | None) -> list[str] | None:
        if given is not None and (not given or len(set(given)) < len(given)):
            raise JobError(f": {given!r}; allowed: instance, semantic, panoptic, each once")
        return given

    @field_validator("path", "scratch", mode="before")
    @classmethod
    def _path(cls, path: object) -> object:
        return os.fspath(path) if isinstance(path, os.PathLike) else path


# The JSON schema shows the class's docstring, so what the constructor takes is told below.
class Job(_Part):  # numpydoc ignore=PR01
    """What is segmented, how, and where the result goes."""

    source: Annotated[Any, OfSource()]
    """A path, an array, or a mapping: ``kind``, ``path`` and the reader's options."""

    tiles: Tiles = Tiles()
    """How the image is cut."""

    steps: list[Annotated[Any, OfKind(STEPS)]] = []
    """What is made of the image before segmenting, in order: mappings (``kind`` and options), or
    any callables from a block to a block.
    """

    segmenters: Annotated[
        dict[str, Annotated[Any, OfKind(SEGMENTERS)]],
        Field(json_schema_extra={"minProperties": 1}),
    ]
    """By name, mappings (``kind`` and options), or any callable."""

    route: list[WrittenRule] = []
    """Which segmenter a tile goes to: the first rule that holds. It may be left out where there is
    one segmenter.
    """

    layers: list[WrittenLayer] = []
    """In place of the route: every segmenter sees every tile, and the first layer that has
    something at a pixel has it.
    """

    stitch: Stitch = Stitch()
    """How objects are joined where nothing is proved."""

    on_bad_tile: Literal["fail", "skip"] = "fail"
    """What becomes of tiles that cannot be read. ``fail``: nothing is published. ``skip``: they are
    not valid, the rest is published, and the result is not complete. To know them, every tile is
    read once beforehand.
    """

    output: Output
    """Where the result goes, and as what."""

    def __init__(self, **parts: Any) -> None:
        """Validate a job; it cannot be changed afterwards.

        Parameters
        ----------
        **parts
            The keys of a job file. ``source``, ``segmenters`` and ``output`` are required; all
            others have defaults.

        Raises
        ------
        JobError
            If a key is missing or unknown, or a value is not allowed. The message names the key,
            the value and what is allowed.

        Examples
        --------
        >>> job = Job(
        ...     source="a.tif",
        ...     tiles={"size": 512},
        ...     segmenters={"land": {"kind": "threshold", "value": 5}},
        ...     output={"path": "out"},
        ... )
        >>> job.tiles.size, job.stitch.iou
        (512, 0.5)
        """
        try:
            super().__init__(**parts)
        except ValidationError as error:
            keys: dict[str, type[BaseModel]] = {
                "": Job,
                "tiles": Tiles,
                "stitch": Stitch,
                "output": Output,
            }
            written = parts.get("segmenters")
            lines = explained(
                error.errors(),
                {path: part.model_fields for path, part in keys.items()},
                partial(elsewhere, used=kinds_in(written)),
                [*map(str, written), SKIP] if isinstance(written, Mapping) else [SKIP],
            )
            raise JobError("\n".join(lines)) from None

    @field_validator("segmenters", mode="before")
    @classmethod
    def _segmenters(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        if not given:
            raise JobError(": none given; name at least one, such as {land: {kind: threshold}}")
        if SKIP in given:
            raise JobError(f".{SKIP}: this name means that a tile is left out; choose another")
        for name, what in given.items():
            others = [other for other in given if other != name]
            hint = like(name, others, asked="or did you mean the segmenter")
            if (
                isinstance(what, Mapping) and "kind" not in what and hint
            ):  # also what `--set` makes of a misspelt name
                raise JobError(f".{name}.kind is missing; {nearest('', plugins.kinds())}{hint}")
        return given

    @model_validator(mode="after")
    def _routes(self) -> Job:
        names = list(self.segmenters)
        if self.layers and self.route:
            raise JobError(
                "route: given with layers; allowed: `when` in a layer, which says for which "
                "tiles its segmenter is asked"
            )
        things = {
            name: what.things if isinstance(what, DrawsThings) else None
            for name, what in self.segmenters.items()
        }
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
        for number, rule in enumerate(self.route):
            _refuse_unnamed(f"route[{number}].use", rule.use, [*names, SKIP])
        for number, layer in enumerate(self.layers):
            _refuse_unnamed(f"layers[{number}].{layer.role}", layer.use, names)
        refuse_unreached(self.route)
        if self.layers:
            layers.refuse(self.layers, things)
        elif not self.route:
            object.__setattr__(self, "route", [Rule(names[0])])
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
        """Refuse an image that lacks bands which the route or the layers ask for.

        Parameters
        ----------
        bands
            How many bands the image has, from 1.

        Raises
        ------
        JobError
            If a rule or a layer asks for a trait of a band that the image does not have.
        """
        for number, rule in enumerate(self.route):
            refuse_misfit(rule.when, bands, f"route[{number}].when")
        for number, layer in enumerate(self.layers):
            refuse_misfit(layer.when, bands, f"layers[{number}].when")

    @classmethod
    def from_yaml(
        cls, written: str | os.PathLike[str], changes: Mapping[str, Any] | None = None
    ) -> Job:
        """Read a job file.

        Parameters
        ----------
        written
            The file; or its text, which has more than one line. Paths in it are taken from the
            folder in which the command runs.
        changes
            Values by dotted key, such as ``{"tiles.size": 512}``, that take the place of the
            file's.

        Returns
        -------
        Job
            The job, validated.

        Raises
        ------
        JobError
            If the file is missing, is no YAML, or describes no job; the message names the key.
        """
        if isinstance(written, str) and "\n" in written:
            what = "the job"
            parts = yaml_files.parse(written, what)
        else:
            what = f"the job file {Path(written)}"
            parts = yaml_files.read(Path(written), "the job file")
        if not isinstance(parts, dict):
            found = PLAIN.get(type(parts), "one value").partition(",")[0]
            raise JobError(
                f"{what} holds {found}, not the keys of a job; {nearest('', cls.model_fields)}"
            )
        if "train" in parts and "segmenters" not in parts:
            raise JobError(
                f"{what} is a card by which a network is trained, by: tilewise train {written}"
            )
        yaml_files.change(parts, changes or {})
        return cls(**{str(key): value for key, value in parts.items()})

    def to_yaml(self) -> str:
        """The job as the text of a job file, without keys that have their default.

        It is the same job when it is read again: addresses are written with the passwords that
        were given in them.

        Returns
        -------
        str
            YAML, for `Job.from_yaml`.

        Raises
        ------
        JobError
            If the job holds what YAML cannot: an array, a function.

        Examples
        --------
        >>> job = Job(source="a.tif", segmenters={"land": "quasi_flat"}, output={"path": "out"})
        >>> print(job.to_yaml())
        source: a.tif
        segmenters:
          land: {kind: quasi_flat}
        route:
        - {use: land}
        output: {path: out}
        <BLANKLINE>
        >>> Job.from_yaml(job.to_yaml()) == job
        True
        """
        return yaml_files.written(in_yaml(self.model_dump(exclude_defaults=True)))

    def plain(self) -> dict[str, Any]:
        """Give the job as JSON and YAML can hold it, for records and reports.

        Returns
        -------
        dict
            By key. Passwords in addresses are hidden, and an array or a function is replaced by its
            name, so that a job cannot always be made from it; `to_yaml` writes what can be read.
        """
        source = self.source
        rules = self.model_dump(include={"route", "layers"}, exclude_defaults=True)
        return {
            "source": {key: _named(part) for key, part in source.items()}
            if isinstance(source, Mapping)
            else _named(source),
            "tiles": self.tiles.model_dump(),
            "steps": [plugins.describe(step) for step in self.steps],
            "segmenters": {
                name: plugins.describe(segmenter) for name, segmenter in self.segmenters.items()
            },
            "route": rules.get("route", []),
            "layers": rules.get("layers", []),
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


def _refuse_unnamed(where: str, name: str, allowed: list[str]) -> None:
    if name not in allowed:
        raise JobError(f"{where}: {name!r}; {nearest(name, allowed)}")


from_yaml = Job.from_yaml
