"""The object table, slab by slab: sums, route and certificate of objects that begin in a slab."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from pipeline.image.pixel_area import (
    EXPONENT,
    pixel_extent,
    plane_column,
    plane_extent,
    size_column,
)
from pipeline.imageops.region_sums import Sums, concatenate, grounds, means
from pipeline.sinks.table import names, write_part
from pipeline.sources.unmeasured import Counts, added
from pipeline.stages import EMPTY, FIRST, Run, load_sums, record_key, table_key
from pipeline.stages.object_ids import slab_key
from pipeline.stages.overlay import LAYER, sheets_of
from pipeline.stages.route import lost
from pipeline.stages.stitching import CERTIFICATES, Integers


def part_path(run: Run, slab: int) -> Path:
    """Path of a slab's part of the table, until all parts are joined."""
    return run.joined.file(f"objects/{slab}.parquet")


class _LookedAt(TypedDict):
    pixels: int
    """Pixels of the tiles that were read."""
    unmeasured: Counts


class Measured(_LookedAt):
    """Summary of a slab."""

    certificates: list[int]
    """The number of objects with each certificate."""


def measure(run: Run, slab: int) -> Measured:
    """Write a slab's part of the object table, and return its summary."""
    sums, about = gather(run, slab)
    order = np.argsort(about["id"])
    sums = sums.take(order)
    about = {name: column[order] for name, column in about.items()}
    columns = _columns(run, sums) | {
        "id": about["id"].astype(np.uint64),
        "class": sums.kind.astype(np.int32),
        "route": _routes(run, about),
        "certificate": np.array(CERTIFICATES)[about["status"]],
        "tiles": about["tiles"].astype(np.int32),
    }
    write_part(str(part_path(run, slab)), run.source.frame, columns)
    counted = np.bincount(about["status"], minlength=len(CERTIFICATES)).tolist()
    return {"certificates": counted, **_looked_at(run, list(run.grid.slabs())[slab])}


def _looked_at(run: Run, tiles: Sequence[int]) -> _LookedAt:
    """How many pixels of some tiles were read, and how many were not measured."""
    seen = [tile for tile in tiles if run.routes[tile] >= FIRST]
    empty = [tile for tile in tiles if run.routes[tile] == EMPTY]
    pixels = sum(run.grid.core(tile).size for tile in (*seen, *empty))
    layers = sheets_of(run)
    parts = [run.scratch.load(record_key(tile))[0]["unmeasured"] for tile in seen]
    if empty:
        parts.append(lost(layers[0].run if layers else run, empty))
    return {"pixels": pixels, "unmeasured": added(parts)}


def gather(run: Run, slab: int) -> tuple[Sums, dict[str, Integers]]:
    """The objects that begin in a slab: those that meet a seam, then the others of each tile."""
    met = run.joined.load(slab_key(slab), "ids", "status", "tiles", "home", "key")[1]
    sums = [load_sums(run.joined, slab_key(slab))]
    about = [
        {
            "id": met["ids"],
            "status": met["status"],
            "tiles": met["tiles"],
            "home": met["home"],
            "key": met["key"],
        }
    ]
    for tile in (tile for tile in list(run.grid.slabs())[slab] if run.routes[tile] >= FIRST):
        table = run.joined.load(table_key(tile), "ids", "status", "alone")[1]
        labels = table["alone"]
        sums.append(load_sums(run.scratch, record_key(tile)).take(labels - 1))
        own = {"id": table["ids"][labels], "status": table["status"][labels].astype(np.int64)}
        own |= {"tiles": np.ones(len(labels), np.int64), "home": np.full(len(labels), tile)}
        about.append(own | {"key": run.scratch.load(record_key(tile), "key")[1]["key"][labels - 1]})
    return concatenate(sums), {
        name: np.concatenate([part[name] for part in about]) for name in about[0]
    }


def _routes(run: Run, about: dict[str, Integers]) -> npt.NDArray[np.str_]:
    """What drew each object: its layer, or the route of the tile where it begins."""
    if layers := sheets_of(run):
        return np.array([sheet.layer.use for sheet in layers])[about["key"] // LAYER - 1]
    return np.array(["empty", "skip", *(method.name for method in run.methods)])[
        run.routes[about["home"]]
    ]


def _columns(run: Run, sums: Sums) -> dict[str, np.ndarray[tuple[int], np.dtype[np.generic]]]:
    axes = ("plane", "row", "column")[-len(run.grid.shape) :]
    columns: dict[str, np.ndarray[tuple[int], np.dtype[np.generic]]] = {"area": sums.area}
    if name := size_column(run.source.frame):
        alike = pixel_extent(run.source.frame)
        columns[name] = grounds(sums, EXPONENT) if alike is None else sums.area * alike
    if name := plane_column(run.source.frame):
        columns[name] = sums.area * (plane_extent(run.source.frame) or 0.0)
    (mean, deviation), known = means(sums), sums.count > 0
    for k, axis in enumerate(axes):
        columns |= {
            f"{axis}_min": sums.low[:, k],
            f"{axis}_max": sums.high[:, k],
            axis: sums.place[:, k] / sums.area,
        }
    for k, band in enumerate(names(run.source.frame.bands)):
        columns |= {
            f"mean_{band}": mean[:, k],
            f"min_{band}": np.where(known[:, k], sums.minimum[:, k], np.nan),
            f"max_{band}": np.where(known[:, k], sums.maximum[:, k], np.nan),
            f"std_{band}": deviation[:, k],
        }
    return columns
