"""The table of objects as Parquet: parts written by many tasks, joined into one file in order.

The same input gives the same bytes. Every page has a checksum, verified when parts are joined.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import OutputError, ScratchError
from pipeline.image.frame import Frame
from pipeline.image.pixel_area import plane_column, scale, size_column, vary

if TYPE_CHECKING:
    import pyarrow as pa

CERTIFICATES = ("proved", "agreed", "disputed")
_AXES = ("plane", "row", "column")
_STATISTICS = {
    "mean": "mean",
    "min": "smallest",
    "max": "largest",
    "std": "population standard deviation of the",
}


def schema(frame: Frame) -> pa.Schema:
    """The columns of the table of objects, with the CRS and a note on every column in the metadata.

    In this order: ``id``; ``area`` in pixels; if the pixel size is known, ``area_m2``, ``area_um2``
    or ``area_mm2``, for a volume ``volume_um3`` and so on; if areas in the plane of the CRS are not
    true, so that ``area_m2`` is on the ground, ``area_plane_m2``; for each axis (plane,) row,
    column, the box as ``row_min`` … and then ``row_max`` …, one past the last pixel; the centroid
    ``row``, ``column`` in pixels, where whole numbers are pixels' centres; with a georeference, the
    centroid ``x``, ``y`` and the box ``x_min``, ``y_min``, ``x_max``, ``y_max`` by pixels' outer
    edges, in the CRS; for each band ``mean_``, ``min_``, ``max_``, ``std_`` and its name, over the
    object's measured pixels of the band, null without any; ``class``, ``route``, ``certificate``,
    ``tiles``.
    """
    import pyarrow as pa

    text = pa.dictionary(pa.int32(), pa.string())
    types = {
        "id": pa.uint64(),
        "route": text,
        "certificate": text,
        "tiles": pa.int32(),
        "class": pa.int32(),
    }
    notes = _notes(frame)
    missing = {f"{short}_{name}" for short in _STATISTICS for name in names(frame.bands)}
    fields = [
        pa.field(
            name,
            types.get(name, pa.int64() if _counted(name) else pa.float64()),
            nullable=name in missing,
        )
        for name in notes
    ]
    metadata = {"tilewise:columns": json.dumps(notes, ensure_ascii=False)}
    if frame.crs is not None and frame.transform is not None:
        metadata["tilewise:crs"] = frame.crs
    return pa.schema(fields, metadata)


def write_part(path: str, frame: Frame, columns: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write some objects as a file of their own, in the order given.

    Parameters
    ----------
    path
        The file to be written.
    frame
        The image.
    columns
        One array per column of ``schema(frame)`` but those in the CRS, which are made here; (n,),
        of types that the columns hold.

    Raises
    ------
    ValueError
        Where a column is missing, unknown, of another length, or holds what the table cannot.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    layout = schema(frame)
    _refuse(path, set(columns), set(layout.names) - set(_placed(frame)), columns)
    values = {**columns, **_in_crs(frame, columns)}
    arrays = [
        _words(values[field.name])
        if pa.types.is_dictionary(field.type)
        else _numbers(values[field.name], field.type)
        for field in layout
    ]
    pq.write_table(pa.table(arrays, layout), path, compression="zstd", write_page_checksum=True)


def join_parts(parts: Iterable[str], target: str, frame: Frame) -> int:
    """Write one file with the rows of all parts, in the order of the parts, a row group for each
    part that has rows.

    Only one part is held at a time, and the file appears when it is complete.

    Parameters
    ----------
    parts
        Files that ``write_part`` wrote for the same image.
    target
        The file to be written.
    frame
        The image.

    Returns
    -------
    int
        The number of rows.

    Raises
    ------
    ScratchError
        Where a part is missing or damaged.
    OutputError
        Where a part is of another image's columns.
    """
    # A table of some parts only reads like a whole one, so it must not lie at its place.
    partial = Path(f"{target}.partial")
    try:
        rows = _append(parts, partial, schema(frame))
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return rows


def rows(path: str, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield some columns of a table, a row at a time."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=list(columns)):
            yield from batch.to_pylist()


def names(bands: Iterable[str]) -> list[str]:
    """Names of the bands in column names: ASCII letters, digits and underscores, unique without
    case.

    >>> names(["NIR (832 nm)", "red", "Red", "%"])
    ['NIR_832_nm', 'red', 'Red_3', '4']
    """
    taken: set[str] = set()
    result = []
    for number, band in enumerate(bands, 1):
        name = re.sub(r"\W+", "_", band, flags=re.ASCII).strip("_") or str(number)
        while name.casefold() in taken:
            name = f"{name}_{number}"
        taken.add(name.casefold())
        result.append(name)
    return result


def _append(parts: Iterable[str], path: Path, layout: pa.Schema) -> int:
    import pyarrow.parquet as pq

    rows = 0
    with pq.ParquetWriter(path, layout, compression="zstd", write_page_checksum=True) as writer:
        for part in parts:
            table = _read(part)
            if not table.schema.equals(layout, check_metadata=True):
                raise OutputError(
                    f"{part} has the columns of another image, {table.schema.names}; allowed: "
                    f"{layout.names}; write it again"
                )
            if table.num_rows:
                writer.write_table(table, row_group_size=table.num_rows)
            rows += table.num_rows
    return rows


def _read(part: str) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(
            part, page_checksum_verification=True
        ) as file:  # pq.read_table would import pandas
            return file.read(use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise ScratchError(f"{part}: the table cannot be read ({error}); write it again") from error


def _numbers(values: npt.NDArray[Any], kind: pa.DataType) -> pa.Array:
    """A column as an Arrow array.

    ``pa.array`` would import pandas if it is installed, which takes longer than the table.
    """
    import pyarrow as pa

    own = pa.from_numpy_dtype(values.dtype)
    known = ~np.isnan(values) if values.dtype.kind == "f" else np.ones(0, bool)
    # a bit for each value: null where it is not set
    bits = None if known.all() else pa.py_buffer(np.packbits(known, bitorder="little"))
    array = pa.Array.from_buffers(
        own, len(values), [bits, pa.py_buffer(np.ascontiguousarray(values))]
    )
    return array if own == kind else array.cast(kind)


def _words(values: npt.NDArray[Any]) -> pa.Array:
    """A dictionary-encoded column of few different words."""
    import pyarrow as pa

    words, places = np.unique(values, return_inverse=True)
    encoded = [word.encode() for word in words.tolist()]
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
    texts = pa.StringArray.from_buffers(
        len(encoded), pa.py_buffer(ends), pa.py_buffer(b"".join(encoded))
    )
    numbers = pa.Array.from_buffers(
        pa.int32(), len(places), [None, pa.py_buffer(places.astype(np.int32))]
    )
    return pa.DictionaryArray.from_arrays(numbers, texts)


def _notes(frame: Frame) -> dict[str, str]:
    """Every column and its meaning, in the table's order."""
    axes = _AXES[-frame.ndim :]
    notes = {"id": "the object's number in the labels", "area": "pixels", **_sized(frame)}
    notes |= {f"{axis}_min": f"first {axis} of its box" for axis in axes}
    notes |= {f"{axis}_max": f"one past the last {axis} of its box" for axis in axes}
    notes |= {axis: f"centroid in pixels; whole numbers are centres of a {axis}" for axis in axes}
    notes |= _placed(frame)
    for band, name in zip(frame.bands, names(frame.bands), strict=True):
        notes |= {
            f"{short}_{name}": f"{long} value of band {band} over its measured pixels"
            for short, long in _STATISTICS.items()
        }
    return notes | {
        "class": "the class of its pixels, from 1",
        "route": "the segmenter that drew it",
        "certificate": "proved: as on the whole image; agreed: two windows drew the same; "
        "disputed: neither",
        "tiles": "how many tiles it lies in",
    }


def _sized(frame: Frame) -> dict[str, str]:
    """The column of areas or volumes in physical units; none if the pixel size is unknown."""
    name = size_column(frame)
    found = scale(frame)
    if name is None or found is None:
        return {}
    what = {"m": "metres", "mm": "millimetres", "um": "micrometres"}[found.unit]
    if frame.ndim == 3:
        return {name: f"cubic {what}"}
    plane = f"square {what} in the plane of the CRS, as its projection has them"
    if vary(frame):
        beside = plane_column(frame)
        return {name: f"square {what} on the CRS's ellipsoid"} | ({beside: plane} if beside else {})
    return {name: plane if frame.crs and frame.transform else f"square {what}"}


def _placed(frame: Frame) -> dict[str, str]:
    """The columns in coordinates of the CRS; none without a georeference."""
    if frame.transform is None:
        return {}
    edges = {
        f"{axis}_{side}": f"{side}imum {axis} of its box's outer edges in the CRS"
        for side in ("min", "max")
        for axis in "xy"
    }
    return {"x": "centroid in the CRS", "y": "centroid in the CRS", **edges}


def _counted(name: str) -> bool:
    """Whether a column holds whole pixels."""
    return name == "area" or name in {f"{axis}_{side}" for axis in _AXES for side in ("min", "max")}


def _refuse(
    path: str, got: set[str], wanted: set[str], columns: Mapping[str, npt.NDArray[Any]]
) -> None:
    if got != wanted:
        raise ValueError(
            f"{path}: the columns missing are {sorted(wanted - got)}, those unknown "
            f"{sorted(got - wanted)}"
        )
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{path}: the columns are of different lengths, {lengths}")
    odd = set(np.unique(columns["certificate"]).tolist()) - set(CERTIFICATES)
    if odd:
        raise ValueError(f"{path}: certificates {sorted(odd)}; allowed: {', '.join(CERTIFICATES)}")


def _in_crs(
    frame: Frame, columns: Mapping[str, npt.NDArray[Any]]
) -> dict[str, npt.NDArray[np.float64]]:
    """The columns in the CRS, computed from those in pixels."""
    if frame.transform is None:
        return {}
    # Whole pixel numbers are centres in the table, and corners in the affine transform.
    x, y = frame.place(np.asarray(columns["row"]) + 0.5, np.asarray(columns["column"]) + 0.5)
    # In a rotated image any of the four corners can be the outermost one.
    corners = [
        frame.place(columns[f"row_{r}"], columns[f"column_{c}"])
        for r in ("min", "max")
        for c in ("min", "max")
    ]
    low = np.min(corners, axis=0)
    high = np.max(corners, axis=0)
    return {"x": x, "y": y, "x_min": low[0], "y_min": low[1], "x_max": high[0], "y_max": high[1]}
