"""Vector files: what they are, their first bytes say, and nothing is opened that refers to other
files or addresses.

GDAL takes a file of any name for whatever it looks like: a VRT, which reads other files, a pipeline
of its own tools, which writes them, or an address. So the form is told from the first bytes here,
out of few, and GDAL must come to the same. GeoJSON, whose reader fetches a CRS from an address, is
handed to GDAL as a copy of what matters in it; GeoParquet, which GDAL reads only where it was built
with it, is read by Arrow.

References
----------
RFC 7946 (GeoJSON); OGC GeoPackage 1.4; https://flatgeobuf.org; GeoParquet 1.1; ESRI Shapefile
Technical Description (1998).
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.annotations import geojson
from pipeline.config.extras import require
from pipeline.errors import JobError, SourceError, nearest

MARKS = {
    b"SQLite format 3\0": "GPKG",
    b"fgb\x03fgb": "FlatGeobuf",
    b"\0\0\x27\x0a": "ESRI Shapefile",
    b"PAR1": "Parquet",
    b"{": "GeoJSON",
    b"[": "GeoJSON",
}
"""The form of a file by its first bytes; of GeoJSON, those after spaces."""
NAMES = "GeoJSON, GeoPackage, FlatGeobuf, Shapefile, GeoParquet"
LARGEST = 1 << 31
"""Bytes of a file."""
MOST = 20_000_000
"""Features."""
MOST_VERTICES = 200_000_000
BESIDE = (".shx", ".dbf", ".prj", ".cpg", ".sbn", ".sbx", ".qix")
"""What belongs to a Shapefile."""
LONGITUDE_LATITUDE = "EPSG:4326"
"""What GDAL calls the CRS of GeoJSON, whose coordinates are in this order."""


@dataclass(frozen=True, slots=True)
class Vectors:
    """The features of a layer."""

    wkb: npt.NDArray[np.object_]
    """(n,) their shapes, as well-known binary; None where a feature has none."""

    columns: Mapping[str, npt.NDArray[Any]]
    """(n,) by name, the attributes that were asked for."""

    crs: str | None
    """What their coordinates are in, as WKT or by code; None: the file does not say."""

    stated: bool = True
    """Whether the file says so itself: GeoJSON that does not is in longitude and latitude."""


def read(path: str, layer: str | None = None, columns: Sequence[str] = ()) -> Vectors:
    """The features of a vector file.

    Parameters
    ----------
    path
        A file on this machine: GeoJSON, GeoPackage, FlatGeobuf, a Shapefile or GeoParquet, whatever
        its name.
    layer
        Which layer; None: there is only one.
    columns
        The attributes that are wanted.

    Raises
    ------
    SourceError
        If it is of another kind, is damaged, holds more than can be, or refers to what lies
        elsewhere.
    JobError
        If it has no such layer or attribute, or several layers of which none is named.
    """
    form = form_of(path)
    for library in ("pyogrio", "shapely"):
        require(library, path)
    found = (
        _parquet(path, layer, columns)
        if form == "Parquet"
        else _by_gdal(path, form, layer, columns)
    )
    import shapely

    number = int(np.asarray(shapely.get_num_coordinates(shapely.from_wkb(found.wkb))).sum())
    if number > MOST_VERTICES:
        raise SourceError(f"{path} holds {number} vertices; allowed: {MOST_VERTICES}")
    return found


def form_of(path: str) -> str:
    """What a file is, by its first bytes; SourceError where it is none of the forms that
    are read.
    """
    try:
        size = Path(path).stat().st_size
        with Path(path).open("rb") as file:
            head = file.read(1 << 10)
    except OSError as error:
        raise SourceError(f"{path} cannot be opened: {error.strerror or error}") from error
    if size > LARGEST:
        raise SourceError(f"{path} has {size} bytes; allowed for a vector file: {LARGEST}")
    head = head.removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n\x1e")
    found = next((form for mark, form in MARKS.items() if head.startswith(mark)), None)
    if found is None:
        raise SourceError(
            f"{path} is no vector file that is read: it begins with {head[:8]!r}; allowed: {NAMES}"
        )
    return found


def _by_gdal(path: str, form: str, layer: str | None, columns: Sequence[str]) -> Vectors:
    """The features of a file of a form of which GDAL must be, too."""
    import pyogrio

    what = geojson.copied(path, columns) if form == "GeoJSON" else str(Path(path).absolute())
    if form in REFUSE:
        REFUSE[form](path)
    try:
        name = _layer(
            path, [str(name) for name, kind in pyogrio.list_layers(what) if kind is not None], layer
        )
        known = pyogrio.read_info(what, layer=name, force_feature_count=True)
        if known["driver"] != form:
            raise SourceError(f"{path} begins as {form} and is {known['driver']}; allowed: {NAMES}")
        if known["features"] > MOST:
            raise SourceError(f"{path} holds {known['features']} features; allowed: {MOST}")
        _refuse_columns(path, columns, list(known["fields"]))
        meta, _, wkb, values = pyogrio.raw.read(what, layer=name, columns=list(columns))
    except (
        pyogrio.errors.DataSourceError,
        pyogrio.errors.DataLayerError,
        pyogrio.errors.FeatureError,
        UnicodeDecodeError,
    ) as error:
        raise SourceError(f"{path}: {error}") from error
    stated = form != "GeoJSON" or (isinstance(what, bytes) and geojson.names_crs(what))
    return Vectors(
        wkb, dict(zip(meta["fields"].tolist(), values, strict=True)), meta["crs"], stated
    )


def _layer(path: str, there: Sequence[str], layer: str | None) -> str:
    """The layer that is meant."""
    if layer is not None and layer not in there:
        raise JobError(f"layer: {path} has no layer {layer!r}; {nearest(layer, there)}")
    if layer is None and len(there) != 1:
        raise JobError(
            f"layer: {path} has {len(there)} layers with shapes; "
            f"{'name one' if there else 'it must have one'}; {nearest('', there)}"
        )
    return layer or there[0]


def _refuse_columns(path: str, wanted: Sequence[str], there: Sequence[str]) -> None:
    for name in wanted:
        if name not in there:
            raise JobError(f"{path} has no attribute {name!r}; {nearest(name, there)}")


def _refuse_geopackage(path: str) -> None:
    """SourceError where a GeoPackage has what computes, or reads other files: tables only, and
    their indices.
    """
    try:
        with closing(
            sqlite3.connect(f"{Path(path).absolute().as_uri()}?mode=ro&immutable=1", uri=True)
        ) as file:
            rows = file.execute(
                "SELECT type, name, coalesce(sql, '') FROM sqlite_master"
            ).fetchall()
    except sqlite3.Error as error:
        raise SourceError(f"{path} is no GeoPackage: {error}") from error
    for kind, name, sql in rows:
        words = " ".join(str(sql).lower().split())
        index = words.startswith("create virtual table") and " using rtree" in words
        if (
            kind == "view"
            or (words.startswith("create virtual") and not index)
            or (kind == "table" and "generated always" in words)
        ):
            raise SourceError(
                f"{path}: {name!r} is computed when it is read; allowed: tables; write it anew: "
                f"ogr2ogr -f GPKG new.gpkg {Path(path).name}"
            )
    if not any(name == "gpkg_contents" for _, name, _ in rows):
        raise SourceError(f"{path} is a database of SQLite, and no GeoPackage; allowed: {NAMES}")


def _refuse_shapefile(path: str) -> None:
    """SourceError where a file of a Shapefile leads out of its folder, or shapes lie on one
    another.
    """
    for other in Path(path).parent.glob(f"{escape(Path(path).stem)}.*"):
        if other.suffix.lower() in BESIDE and other.resolve().parent not in (
            Path(path).parent.resolve(),
            Path(path).resolve().parent,
        ):
            raise SourceError(
                f"{path}: {other.name} beside it leads to {other.resolve()}; allowed: the files "
                f"of one folder"
            )
    index = next(
        (
            path
            for path in (Path(path).with_suffix(ending) for ending in (".shx", ".SHX"))
            if path.exists()
        ),
        None,
    )
    if index is None:
        raise SourceError(
            f"{path}: there is no {Path(path).stem}.shx beside it; a Shapefile is .shp, .shx, "
            f".dbf and, for its CRS, .prj"
        )
    starts, lengths = (
        np.frombuffer(index.read_bytes()[100:][: (index.stat().st_size - 100) // 8 * 8], ">i4")
        .reshape(-1, 2)
        .T.astype(np.int64)
    )
    if (
        (starts < 50).any()
        or (np.diff(np.sort(starts)) < 4).any()
        or int(lengths.sum()) * 2 > Path(path).stat().st_size
    ):
        raise SourceError(
            f"{path}: its index {index.name} names shapes that lie on one another; write it "
            f"anew: ogr2ogr"
        )


REFUSE = {"GPKG": _refuse_geopackage, "ESRI Shapefile": _refuse_shapefile}
"""By form, what refuses a file before GDAL opens it."""


def _parquet(path: str, layer: str | None, columns: Sequence[str]) -> Vectors:
    """The features of GeoParquet whose shapes are well-known binary."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if layer is not None:
        raise JobError(f"layer: {layer!r}; GeoParquet has one layer, without a name")
    try:
        file = pq.ParquetFile(path)
        name, shapes = _primary(
            path, json.loads((file.schema_arrow.metadata or {}).get(b"geo", b"null"))
        )
        _refuse_columns(
            path, columns, [other for other in file.schema_arrow.names if other != name]
        )
        _refuse_size(path, file.metadata)
        table = pq.ParquetFile(path, read_dictionary=[name]).read([name, *columns])
        return Vectors(
            _unpacked(path, table[name]),
            {one: table[one].to_numpy() for one in columns},
            _crs_of(path, shapes),
        )
    except (JobError, SourceError):
        raise
    except (
        pa.ArrowException,
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        raise SourceError(
            f"{path} is no GeoParquet that can be read: {type(error).__name__}: {error}"
        ) from error


def _primary(path: str, about: Any) -> tuple[str, Mapping[str, Any]]:
    """The column of shapes, and what is said of it."""
    if about is None:
        raise SourceError(
            f"{path} is a table without shapes; allowed: GeoParquet, which says in its metadata "
            f"where they are"
        )
    name = about["primary_column"]
    if about["columns"][name]["encoding"] != "WKB":
        raise SourceError(
            f"{path}: its shapes are encoded as {about['columns'][name]['encoding']}; allowed: WKB"
        )
    return name, about["columns"][name]


def _refuse_size(path: str, about: Any) -> None:
    unpacked = sum(about.row_group(k).total_byte_size for k in range(about.num_row_groups))
    if about.num_rows > MOST or unpacked > LARGEST:
        raise SourceError(
            f"{path} holds {about.num_rows} features in {unpacked} bytes; allowed: {MOST}, and "
            f"{LARGEST}"
        )


def _unpacked(path: str, shapes: Any) -> npt.NDArray[np.object_]:
    """A column of bytes, which a file may hold once for many rows."""
    import pyarrow.compute as pc

    total = sum(
        pc.sum(pc.take(pc.binary_length(part.dictionary), part.indices)).as_py() or 0
        for part in shapes.chunks
    )
    if total > LARGEST:
        raise SourceError(f"{path} holds shapes of {total} bytes; allowed: {LARGEST}")
    return np.array(shapes.to_pylist(), dtype=object)


def _crs_of(path: str, shapes: Mapping[str, Any]) -> str | None:
    """The CRS of GeoParquet's shapes: where it is not said, longitude and latitude; null
    is none.
    """
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    said = shapes.get("crs", LONGITUDE_LATITUDE)
    if said is None:
        return None
    if isinstance(said, dict) and said.get("id") == {"authority": "OGC", "code": "CRS84"}:
        return LONGITUDE_LATITUDE
    if not isinstance(said, dict):
        raise SourceError(f"{path}: its CRS is {str(said)[:200]!r}; allowed: PROJJSON")
    try:
        return str(CRS.from_user_input(said).to_wkt())
    except (CRSError, ValueError) as error:
        raise SourceError(f"{path}: its CRS is not understood: {error}") from error
