"""Lines as a GeoPackage, which QGIS, GDAL and geopandas open directly.

Batches of a fixed size and a constant date make the same lines give the same bytes.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import OutputError
from pipeline.image.frame import Frame
from pipeline.image.pixel_area import scale, step_lengths

Integers = npt.NDArray[np.int64]
BATCH = 50_000
"""Lines that are written at once."""
DATE = "1980-01-01T00:00:00Z"


@dataclass(frozen=True, slots=True)
class Lines:
    """Lines along pixels, one after the other."""

    pixels: Integers
    """(n,) flat indices of pixels in the image; consecutive pixels of a line touch."""

    start: Integers
    """(m + 1,) where each line begins, and where the last ends."""

    label: Integers
    """(m,) the object of each line."""


def write_lines(path: str, frame: Frame, parts: Iterable[Lines]) -> int:
    """Write lines through pixels' centres, in the given order, atomically.

    Parameters
    ----------
    path : Path
        The file, a GeoPackage with one layer, ``lines``: ``id``, ``pixels`` (the length in pixels;
        a diagonal step is the root of two), and ``length_m``, ``length_mm`` or ``length_um`` if the
        pixel size is known, in a geographic CRS on its ellipsoid; or ``length`` in the unknown unit
        of a transform.
    frame : Frame
        The image, 2-D. Without a georeference, x is the column and y the row, from the upper left
        corner of the first pixel.
    parts : iterable of Lines
        The lines.

    Returns
    -------
    int
        The number of lines.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    partial = Path(path).with_suffix(".partial.gpkg")
    number = 0
    try:
        with _dated():
            for shapes, columns in _batches(_rows(frame, part) for part in parts):
                _append(partial, frame, shapes, columns, more=number > 0)
                number += len(shapes)
            if not number:
                _append(
                    partial,
                    frame,
                    *_rows(
                        frame,
                        Lines(np.zeros(0, np.int64), np.zeros(1, np.int64), np.zeros(0, np.int64)),
                    ),
                    more=False,
                )
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return number


@contextlib.contextmanager
def _dated() -> Iterator[None]:
    import pyogrio

    before = pyogrio.get_gdal_config_option("OGR_CURRENT_DATE")
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": DATE})
    try:
        yield
    finally:
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": before})


def _append(
    path: Path,
    frame: Frame,
    shapes: npt.NDArray[Any],
    columns: dict[str, npt.NDArray[Any]],
    *,
    more: bool,
) -> None:
    import pyogrio

    path.unlink(missing_ok=True) if not more else None
    try:
        with warnings.catch_warnings():
            # an image may have no CRS
            warnings.filterwarnings("ignore", "'crs' was not provided")
            pyogrio.raw.write(
                path,
                shapes,
                list(columns.values()),
                list(columns),
                layer="lines",
                driver="GPKG",
                geometry_type="LineString",
                crs=frame.crs,
                append=more,
            )
    except (
        pyogrio.errors.DataSourceError,
        pyogrio.errors.DataLayerError,
        pyogrio.errors.FeatureError,
    ) as error:
        raise OutputError(
            f"{path} cannot be written: {error}; make room or choose another place, then run the "
            f"same command"
        ) from error


def _batches(
    parts: Iterable[tuple[npt.NDArray[Any], dict[str, npt.NDArray[Any]]]],
) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The same rows in batches of BATCH."""
    held: list[tuple[npt.NDArray[Any], dict[str, npt.NDArray[Any]]]] = []
    for part in parts:
        held.append(part)
        while sum(len(shapes) for shapes, _ in held) >= BATCH:
            shapes, columns = _together(held)
            yield shapes[:BATCH], {name: values[:BATCH] for name, values in columns.items()}
            held = [(shapes[BATCH:], {name: values[BATCH:] for name, values in columns.items()})]
    if any(len(shapes) for shapes, _ in held):
        yield _together(held)


def _together(
    held: list[tuple[npt.NDArray[Any], dict[str, npt.NDArray[Any]]]],
) -> tuple[npt.NDArray[Any], dict[str, npt.NDArray[Any]]]:
    columns = {name: np.concatenate([each[name] for _, each in held]) for name in held[0][1]}
    return np.concatenate([shapes for shapes, _ in held]), columns


def _rows(frame: Frame, lines: Lines) -> tuple[npt.NDArray[Any], dict[str, npt.NDArray[Any]]]:
    """Geometries as WKB, without points in the middle of straight stretches; and columns."""
    import shapely

    which = np.repeat(np.arange(len(lines.label)), np.diff(lines.start))
    row, column = np.divmod(lines.pixels, frame.shape[1])
    down = np.diff(row)
    across = np.diff(column)
    inside = np.diff(which) == 0
    bend = np.ones(len(which), bool)
    bend[1:-1] = ~(inside[1:] & inside[:-1] & (down[1:] == down[:-1]) & (across[1:] == across[:-1]))
    x, y = frame.place(row[bend] + 0.5, column[bend] + 0.5)
    shapes = shapely.linestrings(x, y, indices=which[bend]) if len(which) else np.zeros(0, object)
    owner = which[1:][inside]
    pixels = Frame(frame.shape, pixel_size=(1.0, 1.0), unit="meter")
    columns = {"id": lines.label}
    for name, how in {"pixels": pixels, _length_column(frame): frame}.items():
        steps = step_lengths(
            how, row[:-1][inside], column[:-1][inside], down[inside], across[inside]
        )
        if steps is not None:
            # sum in the line's own order, however it was joined
            columns[name] = np.bincount(owner, steps, minlength=len(lines.label))
    return np.asarray(shapely.to_wkb(shapes), object), columns


def _length_column(frame: Frame) -> str:
    found = scale(frame)
    return "length" if found is None else f"length_{found.unit}"
