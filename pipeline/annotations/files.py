"""Annotated objects: COCO JSON, Pascal VOC XML and tables of boxes."""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from pipeline.annotations.rle import RunLengths, runs
from pipeline.config.yaml_files import LARGEST, read_json
from pipeline.errors import SourceError

Rings: TypeAlias = tuple[tuple[tuple[float, float], ...], ...]
CORNERS = ("ymin", "xmin", "ymax", "xmax")
CORNERS_OF_ELLIPSE = 32
"""Corners of the polygon that approximates an ellipse."""


@dataclass(frozen=True, slots=True)
class Drawings:
    """The annotations of one image, in pixels from its upper left corner."""

    boxes: npt.NDArray[np.float64]
    """(n, 4) low row, low column, high row, high column; the high ones are excluded."""

    names: tuple[str, ...]
    """(n,) the class name of each object."""

    outlines: tuple[Rings | RunLengths, ...] | None = None
    """(n,) the polygons (column, row) or the mask of each object; None: boxes only."""

    shape: tuple[int, int] | None = None
    """The image's rows and columns, if the file says."""

    crowd: tuple[bool, ...] = ()
    """(n,) whether it is a crowd, which is ignored; empty: no crowds."""

    def outlined(self) -> Drawings:
        """A copy with an ellipse in each box as its outline, the largest first, so that small ones
        are on top.
        """
        order = np.argsort(
            -np.prod(self.boxes[:, 2:] - self.boxes[:, :2], axis=1), kind="stable"
        ).tolist()
        turn = np.linspace(0, 2 * np.pi, CORNERS_OF_ELLIPSE, endpoint=False)
        circle = np.stack([np.sin(turn), np.cos(turn)], axis=1)
        outlines = []
        for number in order:
            low = self.boxes[number, :2]
            high = self.boxes[number, 2:]
            ring = (low + high) / 2 + circle * (high - low) / 2
            outlines.append((tuple((float(x), float(y)) for y, x in ring),))
        crowd = tuple(self.crowd[number] for number in order) if self.crowd else ()
        return replace(
            self,
            boxes=self.boxes[order],
            names=tuple(self.names[n] for n in order),
            outlines=tuple(outlines),
            crowd=crowd,
        )


def read_drawings(path: Path, image: str | None = None) -> Drawings:
    """Read COCO JSON (polygons, run-length masks, boxes), Pascal VOC XML, or a table of boxes.

    A table (CSV) has the columns xmin, ymin, xmax and ymax.

    Parameters
    ----------
    path : Path
        The file.
    image : str, optional
        The file name of the image in a COCO file; None: there is only one.

    Returns
    -------
    Drawings
        The annotations of the image.

    Raises
    ------
    SourceError
        The file has none of these formats, or describes several images.
    """
    readers = {".json": _coco, ".xml": _pascal, ".csv": _table}
    try:
        if (size := path.stat().st_size) > LARGEST:
            raise SourceError(f"{path} has {size} bytes; allowed for drawings: {LARGEST}")
        return readers[path.suffix.lower()](path, image)
    except (
        LookupError,
        ValueError,
        TypeError,
        AttributeError,
        SyntaxError,
        RecursionError,
        csv.Error,
    ) as error:
        raise SourceError(
            f"{path} holds no drawings that can be read: {type(error).__name__}: {error}"
        ) from error


def is_coco(path: Path) -> bool:
    """Whether a JSON file is COCO, not GeoJSON."""
    with path.open("rb") as file:
        return path.suffix.lower() == ".json" and b'"annotations"' in file.read(LARGEST)


def _coco(path: Path, image: str | None) -> Drawings:
    data = read_json(path, "the drawings")
    images = {entry["id"]: entry for entry in data["images"] if image in (None, entry["file_name"])}
    if len(images) != 1:
        several = ", ".join(str(entry["file_name"]) for entry in data["images"][:5])
        raise SourceError(
            f"{path} describes {len(data['images'])} images ({several}); name one of them"
        )
    ((number, entry),) = images.items()
    kinds = {kind["id"]: kind["name"] for kind in data.get("categories", [])}
    mine = [a for a in data["annotations"] if a["image_id"] == number]
    shape = (entry["height"], entry["width"])
    boxes = np.array(
        [[y, x, y + h, x + w] for x, y, w, h in (a["bbox"] for a in mine)], np.float64
    ).reshape(-1, 4)
    drawn = [a.get("segmentation") for a in mine]
    outlines = tuple(
        _outline(one, shape, f"{path}: annotation {a.get('id')}")
        for one, a in zip(drawn, mine, strict=True)
        if one
    )
    names = tuple(str(kinds.get(a.get("category_id"), "")) for a in mine)
    crowd = tuple(bool(a.get("iscrowd")) for a in mine)
    return Drawings(boxes, names, outlines if len(outlines) == len(mine) else None, shape, crowd)


def _outline(drawn: Any, shape: tuple[int, int], where: str) -> Rings | RunLengths:
    if not isinstance(drawn, dict):
        return tuple(
            tuple((float(x), float(y)) for x, y in zip(ring[::2], ring[1::2], strict=True))
            for ring in drawn
        )
    if tuple(drawn["size"]) != shape:
        raise SourceError(
            f"{where}: a mask of {drawn['size']} pixels; allowed: the image's {list(shape)} rows "
            f"and columns"
        )
    try:
        return runs(drawn["counts"], shape)
    except ValueError as error:
        raise SourceError(f"{where}: {error}") from error


def _pascal(path: Path, _image: str | None) -> Drawings:
    from xml.etree import ElementTree as ET

    data = path.read_bytes()
    if b"<!DOCTYPE" in data.replace(b"\0", b""):  # in UTF-16 too
        raise SourceError(f"{path} declares a document type, which is not allowed in drawings")
    # without a document type there are no entities to expand
    root = ET.fromstring(data)  # noqa: S314
    size = {name: root.findtext(f"size/{name}") for name in ("height", "width")}
    rows = [
        [float(drawn.findtext(f"bndbox/{corner}") or "nan") for corner in CORNERS]
        for drawn in root.iter("object")
    ]
    names = tuple(drawn.findtext("name") or "" for drawn in root.iter("object"))
    shape = (int(size["height"]), int(size["width"])) if size["height"] and size["width"] else None
    return Drawings(_finite(rows), names, shape=shape)


def _table(path: Path, _image: str | None) -> Drawings:
    with path.open(newline="") as file:
        table: list[dict[str, Any]] = list(csv.DictReader(file))
    return Drawings(
        _finite([[float(row[c]) for c in CORNERS] for row in table]),
        tuple(str(row.get("label", "")) for row in table),
    )


def _finite(rows: list[list[float]]) -> npt.NDArray[np.float64]:
    found = np.array(rows, np.float64).reshape(-1, 4)
    if not np.isfinite(found).all():
        raise ValueError("a box lacks one of xmin, ymin, xmax, ymax")
    return found
