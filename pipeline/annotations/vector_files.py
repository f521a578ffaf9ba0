"""Vector files: their format is told by the first bytes, and files with links to others are
refused.

GDAL opens a file of any name as whatever it resembles: a VRT, which reads other files; a pipeline
of its tools, which writes them; or an address. So the format is detected here, from the first bytes
and a short list, and GDAL must agree. GeoJSON, which may name a CRS at an address, is passed to
GDAL as a reduced copy. GeoParquet, which not every GDAL reads, is read by Arrow.

References
----------
.. [1] RFC 7946 (GeoJSON); OGC GeoPackage 1.4; https://flatgeobuf.org; GeoParquet 1.1; ESRI
   Shapefile Technical Description (1998).
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
"""Formats by their first bytes; for GeoJSON, after spaces."""
NAMES = "GeoJSON, GeoPackage, FlatGeobuf, Shapefile, GeoParquet"
LARGEST = 1 << 31
"""Largest file in bytes."""
MOST = 20_000_000
"""Largest number of features."""
MOST_VERTICES = 200_000_000
BESIDE = (".shx", ".dbf", ".prj", ".cpg", ".sbn", ".sbx", ".qix")
"""Suffixes of the files of a Shapefile."""
LONGITUDE_LATITUDE = "EPSG:4326"
"""GDAL's name for the CRS of GeoJSON, with coordinates in this order."""


@dataclass(frozen=True, slots=True)
class Vectors:
    """The features of a layer."""

    wkb: npt.NDArray[np.object_]
    """(n,) geometries as well-known binary; None for a feature without one."""

    columns: Mapping[str, npt.NDArray[Any]]
    """(n,) the requested attributes by name."""

    crs: str | None
    """The CRS as WKT or code; None: the file does not say."""

    stated: bool = True
    """Whether the file states its CRS; GeoJSON without one is in longitude and latitude."""


def read(path: str, layer: str | None = None, columns: Sequence[str] = ()) -> Vectors:
    """Read the features of a vector file.

    Parameters
    ----------
    path : Path
        A file on this machine: GeoJSON, GeoPackage, FlatGeobuf, Shapefile or GeoParquet, with any
        name.
    layer : str, optional
        The layer; None: there is only one.
    columns : sequence of str, optional
        The attributes to read.

    Returns
    -------
    Vectors
        The features.

    Raises
    ------
    SourceError
        The file has another format, is damaged, too large, or refers to other files.
    JobError
        A layer or an attribute is missing, or there are several layers and none is named.
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
    """The format of a file by its first bytes; SourceError for any other format."""
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
    """Read features by GDAL, with the only driver allowed."""
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
    """Choose the layer."""
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
    """Raise SourceError for a GeoPackage with more than tables and their indices.

    Others could compute, or read other files.
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
    """Raise SourceError if a file of a Shapefile leads out of its folder, or geometries overlap in
    the file.
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
"""Checks by format, before GDAL opens a file."""


def _parquet(path: str, layer: str | None, columns: Sequence[str]) -> Vectors:
    """Read GeoParquet with well-known binary geometries."""
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
    """The geometry column and its metadata."""
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
    """Decode a column of bytes; its size is limited, because a file may hold a value once for many
    rows.
    """
    import pyarrow.compute as pc

    total = sum(
        pc.sum(pc.take(pc.binary_length(part.dictionary), part.indices)).as_py() or 0
        for part in shapes.chunks
    )
    if total > LARGEST:
        raise SourceError(f"{path} holds shapes of {total} bytes; allowed: {LARGEST}")
    return np.array(shapes.to_pylist(), dtype=object)


def _crs_of(path: str, shapes: Mapping[str, Any]) -> str | None:
    """The CRS of GeoParquet's geometries: longitude and latitude by default; null means none."""
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
