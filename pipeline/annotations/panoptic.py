"""Panoptic results and truth as rasters of segment numbers that encode the class, for comparison by
counts.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.annotations.rasters_and_shapes import CompanionRaster
from pipeline.config.yaml_files import read_json
from pipeline.errors import JobError, SourceError
from pipeline.image.frame import Frame
from pipeline.image.grid import Box
from pipeline.image.legend import CLASS
from pipeline.sinks.panoptic import numbers
from pipeline.sources import Source, open_source
from pipeline.sources.linked_files import followed
from pipeline.storage.locations import joined, remote, there

VOID = 65535
"""The class of truth that is ignored; no result has it."""

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class LabelsAndClasses:
    """A result's labels and classes: things have a label and a class, stuff only a class."""

    labels: CompanionRaster
    classes: CompanionRaster
    ignore: tuple[int, ...] = ()
    """Classes that are ignored."""

    @property
    def source(self) -> Source:
        """One of the two rasters, for what both share."""
        return self.labels.source

    def read(self, box: Box) -> Numbers:
        """The segment numbers in a box."""
        kinds = self.classes.read(box)
        return np.where(
            np.isin(kinds, self.ignore), VOID * CLASS, kinds * CLASS + self.labels.read(box)
        )

    def fingerprint(self) -> Any:
        """The fingerprints of both rasters."""
        return [self.labels.fingerprint(), self.classes.fingerprint()]


@dataclass(frozen=True, slots=True)
class Coco:
    """Truth in COCO's panoptic format: a PNG of segment numbers, and a JSON with the class of each.

    Crowds and pixels without a number are void.
    """

    source: Source
    kinds: Mapping[int, int]
    """The class of each number; VOID for crowds."""
    things: frozenset[int]
    """The classes of things."""

    def read(self, box: Box) -> Numbers:
        """The segment numbers in a box; SourceError if the JSON lacks a number of the PNG."""
        found = numbers(self.source.read(box))
        own, where = np.unique(found, return_inverse=True)
        if unknown := [n for n in own.tolist() if n not in self.kinds]:
            raise SourceError(
                f"segment {unknown[0]} of the panoptic PNG is not in the JSON's segments_info; "
                f"is it another image's?"
            )
        coded = [
            VOID * CLASS if self.kinds[n] == VOID else self.kinds[n] * CLASS + n
            for n in own.tolist()
        ]
        return np.array(coded, np.int64)[where].reshape(box.shape)

    def fingerprint(self) -> Any:
        """The PNG's fingerprint."""
        return self.source.fingerprint()


def kinds_of(segments: Numbers) -> dict[int, int]:
    """The class of each segment."""
    return {int(number): int(number) // CLASS for number in segments if number}


def open_pair(path: str, ignore: tuple[int, ...] = ()) -> LabelsAndClasses:
    """Open a result's labels and classes; SourceError for a folder without a result."""
    for name in ("labels.zarr", "classes.zarr"):
        if not there(path, name):
            raise SourceError(
                f"{path} holds no {name}; allowed: the folder of a result of layers, or of "
                f"instance and semantic results"
            )
    return LabelsAndClasses(
        CompanionRaster(open_source(joined(path, "labels.zarr"))),
        CompanionRaster(open_classes(joined(path, "classes.zarr"))),
        ignore,
    )


def open_classes(path: str) -> Source:
    """Open a result's classes; the highest value of their type means not measured."""
    return open_source(path, nodata=float(np.iinfo(open_source(path).frame.dtype).max))


def open_truth(
    path: str, frame: Frame, image: str | None = None, ignore: tuple[int, ...] = ()
) -> LabelsAndClasses | Coco:
    """Open panoptic truth: a COCO JSON with its PNG, or the folder of another result.

    The PNG lies beside the JSON or in a folder of its name.

    Raises
    ------
    JobError
        Its shape differs from the frame's.
    SourceError
        It cannot be read.
    """
    truth: LabelsAndClasses | Coco = (
        open_pair(path, (0, *ignore))
        if remote(path) or Path(path).is_dir()
        else _coco(Path(path), image, ignore)
    )
    if truth.source.frame.shape != frame.shape:
        given, mine = (
            " x ".join(map(str, shape)) for shape in (truth.source.frame.shape, frame.shape)
        )
        raise JobError(f"truth of {given} pixels; allowed: {mine}")
    return truth


def _coco(path: Path, image: str | None, ignore: Container[int]) -> Coco:
    try:
        data = read_json(path, "the truth")
        drawn = {entry["file_name"]: entry["segments_info"] for entry in data["annotations"]}
        images = {entry["id"]: entry["file_name"] for entry in data.get("images", [])}
        wanted = [
            a["file_name"]
            for a in data["annotations"]
            if image in (None, a["file_name"], images.get(a["image_id"]))
        ]
        things = frozenset(kind["id"] for kind in data["categories"] if kind.get("isthing", 1))
    except (LookupError, ValueError, TypeError, AttributeError) as error:
        raise SourceError(
            f"{path} is no panoptic JSON of COCO's: {type(error).__name__}: {error}"
        ) from error
    if len(wanted) != 1:
        raise SourceError(
            f"{path} describes {len(drawn)} images ({', '.join(list(drawn)[:5])}); name one of "
            f"them (--image)"
        )
    folders = [
        folder for folder in (path.parent, path.with_suffix("")) if Path(folder, wanted[0]).exists()
    ]
    if not folders:
        raise SourceError(f"there is no {wanted[0]} beside {path}, nor in {path.with_suffix('')}")
    png = followed(str(path), str(wanted[0]), path.parent.resolve(), folders[0])
    kinds = {0: VOID}
    for segment in drawn[wanted[0]]:
        kind = segment["category_id"]
        kinds[segment["id"]] = VOID if segment.get("iscrowd") or kind in ignore else kind
    return Coco(open_source(png), kinds, things)
