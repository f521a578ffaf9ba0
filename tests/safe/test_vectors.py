"""A vector file is what its first bytes say, of few forms, and nothing that it names is opened or
asked.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyogrio
import pytest
import rasterio
import shapely
from pyproj import CRS

import pipeline
from pipeline.annotations import geojson, vector_files
from pipeline.annotations.rasters_and_shapes import VECTORS
from pipeline.errors import JobError, SourceError
from pipeline.evaluation.against_truth import evaluate

POINTS = shapely.points([(3.5, 4.5), (10.5, 12.5), (20.5, 8.5)])
NUMBERS = np.array([2, 1, 1], np.int32)
FORMS = {
    ".gpkg": "GPKG",
    ".shp": "ESRI Shapefile",
    ".fgb": "FlatGeobuf",
    ".geojson": "GeoJSON",
    ".json": "GeoJSON",
}
WKT = (
    'GEOGCS["x",DATUM["WGS_1984",SPHEROID["WGS '
    '84",6378137,298.257223563]],PRIMEM["Greenwich",0],UNIT["degree",0.0174532925199433]]'
)


def feature(x: float = 3.5, **more: Any) -> dict[str, Any]:
    return {
        "type": "Feature",
        "properties": {"cover": 1},
        "geometry": {"type": "Point", "coordinates": [x, 4.5]},
        **more,
    }


def collection(**more: Any) -> dict[str, Any]:
    return {"type": "FeatureCollection", "features": [feature()], **more}


def parquet(path: Path, crs: Any = None, **more: Any) -> None:
    table = pa.table({"cover": NUMBERS, "geometry": shapely.to_wkb(POINTS)})
    about = {
        "version": "1.1.0",
        "primary_column": "geometry",
        "columns": {"geometry": {"encoding": "WKB", "crs": crs, **more}},
    }
    pq.write_table(table.replace_schema_metadata({"geo": json.dumps(about)}), path)


def written(path: Path, driver: str) -> Path:
    pyogrio.raw.write(
        path,
        shapely.to_wkb(POINTS),
        [NUMBERS],
        ["cover"],
        geometry_type="Point",
        crs="EPSG:32633" if driver != "GeoJSON" else "EPSG:4326",
        driver=driver,
    )
    return path


class Asked(BaseHTTPRequestHandler):
    """A server that keeps what it is asked."""

    seen: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.seen.append(self.path)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(WKT.encode())

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    """Of a server of this machine."""
    Asked.seen.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Asked) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("suffix", FORMS)
def test_each_form_is_read_as_ogr_reads_it(suffix: str, tmp_path: Path) -> None:
    """GeoPackage, Shapefile, FlatGeobuf and GeoJSON: shapes, attributes and CRS are those
    of OGR.
    """
    path = written(tmp_path / f"seeds{suffix}", FORMS[suffix])
    meta, _, wkb, (cover,) = pyogrio.raw.read(path, columns=["cover"])
    found = vector_files.read(str(path), None, ["cover"])
    assert shapely.equals(shapely.from_wkb(found.wkb), shapely.from_wkb(wkb)).all()
    np.testing.assert_array_equal(found.columns["cover"], cover)
    assert found.crs == meta["crs"]
    assert vector_files.read(str(path), "seeds").columns == {}


@pytest.mark.parametrize("suffix", [".parquet", ".geoparquet"])
def test_geoparquet_is_read(suffix: str, tmp_path: Path) -> None:
    """Shapes, attributes and the CRS of GeoParquet, which not every GDAL reads: as PROJJSON, by
    default, or none.
    """
    path = tmp_path / f"seeds{suffix}"
    parquet(path, CRS.from_epsg(32633).to_json_dict())
    found = vector_files.read(str(path), None, ["cover"])
    assert shapely.equals(shapely.from_wkb(found.wkb), POINTS).all()
    np.testing.assert_array_equal(found.columns["cover"], NUMBERS)
    assert CRS.from_user_input(found.crs) == CRS.from_epsg(32633)
    parquet(path)
    assert vector_files.read(str(path)).crs is None
    parquet(path, CRS.from_user_input("OGC:CRS84").to_json_dict())
    assert vector_files.read(str(path)).crs == "EPSG:4326"
    for crs in ("/etc/hostname", "http://127.0.0.1:9/crs"):
        parquet(path, crs)
        with pytest.raises(SourceError, match=r"its CRS is .*; allowed: PROJJSON"):
            vector_files.read(str(path))


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(collection()),
        "\ufeff \n" + json.dumps(collection()),
        json.dumps(feature()),
        json.dumps(feature()["geometry"]),
        json.dumps([feature()]),
        json.dumps(feature()) + "\n" + json.dumps(feature()) + "\n",
        "\x1e" + json.dumps(feature()) + "\n\x1e" + json.dumps(feature()),
        json.dumps(collection(features=[{**feature(), "properties": None}])),
        json.dumps(collection(note="<OGRVRTDataSource> is a text here")),
        json.dumps(collection(features=[])),
    ],
    ids=[
        "collection",
        "mark",
        "feature",
        "geometry",
        "list",
        "lines",
        "sequence",
        "no properties",
        "text",
        "empty",
    ],
)
def test_geojson_in_all_its_forms(text: str, tmp_path: Path) -> None:
    """A collection, a feature, a geometry, lists and lines of features give the points that they
    hold.
    """
    (tmp_path / "seeds.geojson").write_text(text, "utf-8")
    shapes = shapely.from_wkb(vector_files.read(str(tmp_path / "seeds.geojson")).wkb)
    assert len(shapes) == text.count('"coordinates"')
    assert shapely.equals(shapes, shapely.points(3.5, 4.5)).all()


def test_geojson_names_its_crs(tmp_path: Path) -> None:
    """A CRS by name, as before RFC 7946, is that of OGR; without one it is longitude and
    latitude.
    """
    path = tmp_path / "seeds.geojson"
    for name in (
        "urn:ogc:def:crs:EPSG::32633",
        "EPSG:32633",
        "urn:ogc:def:crs:OGC:1.3:CRS84",
        None,
    ):
        path.write_text(
            json.dumps(
                collection(
                    **({"crs": {"type": "name", "properties": {"name": name}}} if name else {})
                )
            )
        )
        assert vector_files.read(str(path)).crs == pyogrio.read_info(path)["crs"]


def vrt(secret: Path) -> str:
    layer = f"<OGRVRTLayer name='secret'><SrcDataSource>{secret}</SrcDataSource></OGRVRTLayer>"
    return f"<OGRVRTDataSource>{layer}</OGRVRTDataSource>"


POLYGLOTS: dict[str, Callable[[Path], str]] = {
    "VRT": vrt,
    "VRT after spaces": lambda secret: f"  \n{vrt(secret)}",
    "VRT after a mark": lambda secret: f"\ufeff{vrt(secret)}",
    "VRT in JSON": lambda secret: json.dumps({"a": vrt(secret)}),
    "VRT in GeoJSON": lambda secret: json.dumps(
        {"type": "FeatureCollection", "features": [], "a": vrt(secret)}
    ),
    "pipeline of GDAL": lambda secret: json.dumps(
        {"type": "gdal_streamed_alg", "command_line": f"gdal vector pipeline ! read {secret}"}
    ),
    "GML": lambda secret: (
        '<?xml version="1.0"?><gml:FeatureCollection xmlns:gml="http://www.opengis.net/gml" '
        'xmlns:xlink="http://www.w3.org/1999/xlink">'
        f'<gml:featureMember xlink:href="file://{secret}"/></gml:FeatureCollection>'
    ),
    "GML with an entity": lambda secret: (
        f"<!DOCTYPE x [<!ENTITY e SYSTEM "
        f'"file://{secret}">]><gml:FeatureCollection>&e;</gml:FeatureCollection>'
    ),
    "KML with a link": lambda secret: (
        f'<kml xmlns="http://www.opengis.net/kml/2.2"><NetworkLink><Link><href>{secret}</href></Link></NetworkLink></kml>'
    ),
    "WFS": lambda _: "<OGRWFSDataSource><URL>http://127.0.0.1:9/wfs</URL></OGRWFSDataSource>",
    "CSV": lambda _: "WKT,cover\nPOINT (3 4),1\n",
    "database": lambda secret: f"PG:dbname={secret}",
    "nothing": lambda _: "",
}


@pytest.mark.parametrize("suffix", VECTORS)
@pytest.mark.parametrize("form", POLYGLOTS)
def test_a_file_that_refers_to_another_is_refused(form: str, suffix: str, tmp_path: Path) -> None:
    """Whatever form of OGR's a file is of, under each name that vector files have: what it names is
    not read.
    """
    secret = tmp_path / "secret.geojson"
    secret.write_text(json.dumps(collection()))
    path = tmp_path / f"seeds{suffix}"
    path.write_text(POLYGLOTS[form](secret), "utf-8")
    if form == "VRT in GeoJSON":  # it is that, and empty
        assert len(vector_files.read(str(path)).wkb) == 0
        return
    with pytest.raises(
        SourceError, match=r"is no vector file that is read: it begins with|is no GeoJSON"
    ):
        vector_files.read(str(path))


def test_what_is_refused_would_have_been_read(tmp_path: Path) -> None:
    """OGR itself takes these files for the one that they name: the test above would see it."""
    secret = tmp_path / "secret.geojson"
    secret.write_text(json.dumps(collection()))
    for form in ("VRT", "VRT in JSON", "VRT in GeoJSON"):
        (tmp_path / "seeds.geojson").write_text(POLYGLOTS[form](secret))
        assert pyogrio.read_info(tmp_path / "seeds.geojson")["features"] == 1


@pytest.mark.parametrize("kind", ["link", "url", "name"])
def test_no_address_is_asked_for_a_crs(kind: str, address: str, tmp_path: Path) -> None:
    """A CRS at an address, which OGR fetches, or in another file, is refused, and nobody
    is asked.
    """
    path = tmp_path / "seeds.geojson"
    for where in (f"{address}/crs", "/etc/hostname", "PROJ:+proj=longlat"):
        path.write_text(
            json.dumps(
                collection(
                    crs={"type": kind, "properties": {"href": where, "url": where, "name": where}}
                )
            )
        )
        with pytest.raises(
            SourceError, match=r"is no GeoJSON that can be read: .*its CRS is .*allowed: a name"
        ):
            vector_files.read(str(path))
    path.write_text(json.dumps(collection(links=[{"rel": "next", "href": f"{address}/next"}])))
    assert len(vector_files.read(str(path)).wkb) == 1
    assert Asked.seen == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no GeoJSON that can be read"),
        (
            '{"type": "Topology", "objects": {}, "arcs": []}',
            "it is of type 'Topology'; allowed: FeatureCollection",
        ),
        ('{"type": "FeatureCollection"}', "KeyError: 'features'"),
        (json.dumps(collection(features=[{"type": "Feature"}])), "KeyError: 'geometry'"),
        (
            json.dumps(collection(features=[feature(geometry={"type": "Circle"})])),
            "a geometry of type 'Circle'",
        ),
        (json.dumps(collection(coordRefSys="EPSG:32633")), "coordRefSys"),
        (json.dumps(feature(float("nan"))), "NaN is no number of JSON"),
        ("[" * 100_000 + "]" * 100_000, "RecursionError"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "RecursionError"),
        ("[1, 2]", "is no GeoJSON"),
        ("{}\udcff", "is no GeoJSON"),
    ],
    ids=[
        "cut",
        "TopoJSON",
        "no features",
        "no geometry",
        "circle",
        "JSON-FG",
        "NaN",
        "deep",
        "deep objects",
        "numbers",
        "bytes",
    ],
)
def test_json_that_is_no_geojson(text: str, message: str, tmp_path: Path) -> None:
    """What is damaged, of another form, or nested without end is refused in one line."""
    (tmp_path / "seeds.json").write_text(text, "utf-8", errors="surrogateescape")
    with pytest.raises(SourceError, match=message):
        vector_files.read(str(tmp_path / "seeds.json"))


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE VIEW more AS SELECT fid, geom, cover FROM seeds",
        (
            "CREATE VIEW more AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
            "SELECT i FROM n"
        ),
        (
            "CREATE TABLE more (fid INTEGER PRIMARY KEY, geom POINT, cover INTEGER GENERATED "
            "ALWAYS "
            "AS (abs(fid)))"
        ),
        "CREATE VIRTUAL TABLE more USING fts5(cover)",
    ],
    ids=["view", "endless", "generated", "virtual"],
)
def test_a_geopackage_holds_tables(statement: str, tmp_path: Path) -> None:
    """Views, generated columns and virtual tables, which run code of the file's when they are read,
    are refused.
    """
    path = written(tmp_path / "seeds.gpkg", "GPKG")
    with closing(sqlite3.connect(path)) as file:
        file.execute(statement)
        file.commit()
    with pytest.raises(SourceError, match=r"'more.*' is computed when it is read; allowed: tables"):
        vector_files.read(str(path))


def test_a_database_is_no_geopackage(tmp_path: Path) -> None:
    """SQLite without the tables of a GeoPackage, and what is damaged, is refused."""
    with closing(sqlite3.connect(tmp_path / "a.gpkg")) as file:
        file.execute("CREATE TABLE a (b)")
    with pytest.raises(SourceError, match="is a database of SQLite, and no GeoPackage"):
        vector_files.read(str(tmp_path / "a.gpkg"))
    whole = written(tmp_path / "b.gpkg", "GPKG").read_bytes()
    (tmp_path / "b.gpkg").write_bytes(whole[:5000])
    with pytest.raises(SourceError, match=r"b\.gpkg"):
        vector_files.read(str(tmp_path / "b.gpkg"))


def test_layers_are_named(tmp_path: Path) -> None:
    """Of several layers one must be named; one that is not there is refused with those that are."""
    path = written(tmp_path / "seeds.gpkg", "GPKG")
    pyogrio.raw.write(
        path,
        shapely.to_wkb(POINTS[:1]),
        [],
        [],
        geometry_type="Point",
        crs="EPSG:32633",
        layer="other",
        append=True,
    )
    with pytest.raises(
        JobError, match=r"has 2 layers with shapes; name one; allowed: other, seeds"
    ):
        vector_files.read(str(path))
    assert len(vector_files.read(str(path), "other").wkb) == 1
    with pytest.raises(
        JobError, match=r"has no layer 'sed'; allowed: other, seeds; did you mean 'seeds'"
    ):
        vector_files.read(str(path), "sed")
    with pytest.raises(
        JobError, match=r"has no attribute 'cove'; allowed: cover; did you mean 'cover'"
    ):
        vector_files.read(str(path), "seeds", ["cove"])


def test_the_files_of_a_shapefile_lie_in_one_folder(tmp_path: Path) -> None:
    """A link beside a Shapefile that leads out of its folder is refused; a folder that is a link
    itself is not.
    """
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    path = written(tmp_path / "a" / "seeds.shp", "ESRI Shapefile")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert len(vector_files.read(str(tmp_path / "link" / "seeds.shp")).wkb) == 3
    shutil.move(path.with_suffix(".dbf"), tmp_path / "b" / "other.dbf")
    path.with_suffix(".dbf").symlink_to(tmp_path / "b" / "other.dbf")
    with pytest.raises(
        SourceError,
        match=r"seeds\.dbf beside it leads to .*other\.dbf; allowed: the files of one folder",
    ):
        vector_files.read(str(path))
    path.with_suffix(".dbf").unlink()
    path.with_suffix(".shx").unlink()
    with pytest.raises(SourceError, match=r"there is no seeds\.shx beside it"):
        vector_files.read(str(path))


def test_a_shapefile_holds_each_shape_once(tmp_path: Path) -> None:
    """An index that names one shape many times, which would unpack without bound, is refused."""
    path = written(tmp_path / "seeds.shp", "ESRI Shapefile")
    index = path.with_suffix(".shx").read_bytes()
    path.with_suffix(".shx").write_bytes(index[:100] + index[100:108] * 1000)
    with pytest.raises(
        SourceError, match=r"its index seeds\.shx names shapes that lie on one another"
    ):
        vector_files.read(str(path))
    path.with_suffix(".shx").write_bytes(index[:100] + struct.pack(">ii", 50, 1 << 30))
    with pytest.raises(SourceError, match="lie on one another"):
        vector_files.read(str(path))


@pytest.mark.parametrize("suffix", [*FORMS, ".parquet"])
def test_bounds(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of more bytes, features or vertices than are foreseen are refused before they
    are held.
    """
    path = tmp_path / f"seeds{suffix}"
    if suffix == ".parquet":
        parquet(path)
    else:
        written(path, FORMS[suffix])
    assert len(vector_files.read(str(path)).wkb) == 3
    monkeypatch.setattr(vector_files, "MOST_VERTICES", 2)
    with pytest.raises(SourceError, match="holds 3 vertices; allowed: 2"):
        vector_files.read(str(path))
    monkeypatch.setattr(vector_files, "MOST", 2)
    with pytest.raises(SourceError, match="holds 3 features"):
        vector_files.read(str(path))
    for module in (vector_files, geojson):
        monkeypatch.setattr(module, "LARGEST", 10)
        with pytest.raises(
            SourceError, match=r"has \d+ bytes; allowed for (a vector file|GeoJSON): 10"
        ):
            vector_files.read(str(path))
        if not suffix.endswith("json"):
            return
        monkeypatch.setattr(vector_files, "LARGEST", 1 << 20)


def test_geoparquet_is_no_larger_than_it_unpacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shape that is stored once for many rows is counted for each of them."""
    line = shapely.to_wkb(shapely.linestrings(np.random.default_rng(0).random((1000, 2))))
    about = {"primary_column": "geometry", "columns": {"geometry": {"encoding": "WKB"}}}
    table = pa.table({"geometry": [line] * 1000}).replace_schema_metadata(
        {"geo": json.dumps(about)}
    )
    pq.write_table(table, tmp_path / "lines.parquet")
    assert (tmp_path / "lines.parquet").stat().st_size < 100_000
    monkeypatch.setattr(vector_files, "LARGEST", 1 << 20)
    with pytest.raises(SourceError, match=r"holds shapes of 16\d+ bytes; allowed: 1048576"):
        vector_files.read(str(tmp_path / "lines.parquet"))
    pq.write_table(pa.table({"a": [1]}), tmp_path / "table.parquet")
    with pytest.raises(SourceError, match="is a table without shapes"):
        vector_files.read(str(tmp_path / "table.parquet"))


def test_seeds_and_truth_come_in_by_this_door(tmp_path: Path) -> None:
    """Seeds of a segmenter and truth of `evaluate` that are a VRT of OGR's are refused, and both
    take a genuine file.
    """
    image = np.zeros((32, 32), np.uint8)
    image[24:30, 2:8], image[10:20, 8:24] = 90, 120
    profile = {
        "driver": "GTiff",
        "height": 32,
        "width": 32,
        "count": 1,
        "dtype": "uint8",
        "crs": "EPSG:4326",
    }
    with rasterio.open(
        tmp_path / "image.tif", "w", transform=rasterio.Affine(1, 0, 0, 0, -1, 32), **profile
    ) as file:
        file.write(image, 1)
    secret, path = tmp_path / "secret.geojson", tmp_path / "seeds.geojson"
    secret.write_text(json.dumps(collection()))
    path.write_text(vrt(secret))
    grow = {"kind": "region_growing", "tolerance": 5}
    with pytest.raises(
        JobError, match=r"seeds\.geojson is no vector file that is read: it begins with b'<OGRVRTD'"
    ):
        pipeline.segment(
            tmp_path / "image.tif",
            {**grow, "seeds": str(path)},
            tmp_path / "out",
            engine=pipeline.local(),
        )
    result = pipeline.segment(
        tmp_path / "image.tif",
        {**grow, "seeds": str(secret)},
        tmp_path / "out",
        engine=pipeline.local(),
    )
    assert (np.asarray(result.labels) > 0).sum() == 36
    with pytest.raises(SourceError, match=r"seeds\.geojson is no vector file that is read"):
        evaluate(result.path, path)
    assert evaluate(result.path, secret).measures["truth"] == 1
