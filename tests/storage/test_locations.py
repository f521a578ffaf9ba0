"""Images and results that lie elsewhere: at an S3 server and a web server on this machine, which
are real, and at faulty ones.
"""

from __future__ import annotations

import contextlib
import gzip
import http.server
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numcodecs
import numpy as np
import pytest
import rasterio
import zarr
from obstore.store import S3Store
from typer.testing import CliRunner
from zarr.codecs import GzipCodec

import pipeline
from pipeline.__main__ import app
from pipeline.errors import JobError, OutputError, ResumeError, SourceError, TilesError
from pipeline.execution import upload
from pipeline.execution.result import Result
from pipeline.image.grid import Box
from pipeline.redaction import redacted
from pipeline.sources import gdal, open_source, where_measured
from pipeline.storage import locations
from tests.faults.staging import blobs, products

SECRET = "s3cr3tvalue"
PLACE = rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)
WHOLE = Box.whole((128, 128))


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """A folder with an image as Zarr and as GeoTIFF."""
    folder, image = tmp_path_factory.mktemp("images"), blobs(128)
    zarr.create_array(
        folder / "image.zarr", data=image, chunks=(32, 32), config={"write_empty_chunks": True}
    )
    how = {
        "tiled": True,
        "blockxsize": 32,
        "blockysize": 32,
        "compress": "deflate",
        "crs": "EPSG:32633",
        "transform": PLACE,
    }
    with rasterio.open(
        folder / "scene.tif",
        "w",
        driver="GTiff",
        count=1,
        height=128,
        width=128,
        dtype="uint8",
        **how,
    ) as file:
        file.write(image, 1)
    return folder


@pytest.fixture(scope="module")
def s3(images) -> Iterator[str]:
    """The address of an S3 server that holds the images in the bucket ``data``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = os.environ.get("TILEWISE_MOTO") or shutil.which(
        "moto_server", path=Path(__file__).parents[2] / ".venv-servers/bin"
    )
    if not command:
        pytest.skip(
            "needs moto_server, of an environment of its own: `make .venv-servers/ready`, or "
            "TILEWISE_MOTO names it"
        )
    server = subprocess.Popen(
        [command, "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        _made(server, urllib.request.Request(f"{address}/data", method="PUT"))
        how = {
            "endpoint": address,
            "access_key_id": "key",
            "secret_access_key": SECRET,
            "region": "us-east-1",
        }
        store = S3Store("data", **how, client_options={"allow_http": True})
        for path in (path for path in images.rglob("*") if path.is_file()):
            store.put(str(path.relative_to(images)), path)
        yield address
    finally:
        server.terminate()
        server.wait()


def _made(server: subprocess.Popen, request: urllib.request.Request) -> None:
    """Ask until the server is up."""
    while server.poll() is None:
        with contextlib.suppress(urllib.error.URLError):
            urllib.request.urlopen(request)
            return
    raise AssertionError(f"the server ended with {server.returncode}")


@pytest.fixture
def endpoint(monkeypatch) -> Iterator[Callable[[str], None]]:
    """Sets the environment to an S3 server; nothing of it is left afterwards."""

    def at(address: str) -> None:
        for name, value in (
            ("ACCESS_KEY_ID", "key"),
            ("SECRET_ACCESS_KEY", SECRET),
            ("DEFAULT_REGION", "us-east-1"),
        ):
            monkeypatch.setenv(f"AWS_{name}", value)
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        monkeypatch.setenv("GDAL_HTTP_RETRY_DELAY", "0.05")
        for (
            name,
            value,
        ) in (
            locations.settings().items()
        ):  # what rasterio opens in a test, as the user's own program would
            monkeypatch.setenv(name, value)
        locations.store.cache_clear()

    yield at
    locations.store.cache_clear()


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder with ranges, as web servers do; ``faults`` says, by request, what it answers
    in its place: a status, or None.
    """

    def __init__(self, folder: Path, faults: Callable[[str, int], int | None]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.faults, self.asked = folder, faults, dict[str, int]()
        self.lock = threading.Lock()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """A file, or a range of it."""
        name = self.path.partition("?")[0].lstrip("/")
        with self.server.lock:
            self.server.asked[name] = number = self.server.asked.get(name, 0) + 1
        path = self.server.folder / name
        status = self.server.faults(name, number) or (200 if path.is_file() else 404)
        data = path.read_bytes() if status == 200 else b""
        start, stop, spans = 0, len(data), self.headers.get("Range")
        if spans and status == 200:
            first, _, last = spans.removeprefix("bytes=").partition("-")
            start, stop, status = (
                int(first or stop - int(last)),
                min(int(last) + 1 if first and last else stop, stop),
                206,
            )
        self.send_response(status)
        self.send_header("Content-Length", str(stop - start))
        self.send_header("Accept-Ranges", "bytes")
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[start:stop])

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextlib.contextmanager
def served(
    folder: Path, faults: Callable[[str, int], int | None] = lambda _name, _number: None
) -> Iterator[tuple[str, Server]]:
    """A web server for a folder: its address, and itself."""
    with Server(folder, faults) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", server
        finally:
            server.shutdown()
            thread.join()


def job(source: object, out: object, **output: object) -> pipeline.Job:
    """A small job."""
    segmenters = {"it": pipeline.Threshold(value=90)}
    return pipeline.Job(
        source=source,
        segmenters=segmenters,
        tiles={"size": 32},
        output={"path": str(out), "labels": ["zarr", "cog"], **output},
    )


def same(ours: Result, known: Result) -> None:
    """Two results hold the same."""
    np.testing.assert_array_equal(ours.labels, known.labels)
    assert ours.objects.equals(known.objects)
    assert ours.record["certificates"] == known.record["certificates"]


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("name", ["image.zarr", "scene.tif"])
def test_a_run_from_s3_to_s3(images, s3, endpoint, tmp_path, name):
    """Read at S3 and written to S3 by two processes, a result is that of files; its record is
    there, and nothing stays on this machine.
    """
    endpoint(s3)
    known = pipeline.run(job(str(images / name), tmp_path / "known"), pipeline.local())
    out = f"s3://data/out/{name}"
    with pipeline.cluster(2) as engine:
        ours = pipeline.run(
            job(f"s3://data/{name}", out, scratch=str(tmp_path / "scratch")), engine
        )
    same(ours, known)
    assert ours.files.keys() == known.files.keys()
    assert not list((tmp_path / "scratch").iterdir())
    with rasterio.open(locations.gdal(f"{out}/labels.tif")) as file:
        np.testing.assert_array_equal(file.read(1), known.labels)
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    assert set(locations.listing(out)) == set(products(tmp_path / "known"))
    again = pipeline.run(job(f"s3://data/{name}", out, scratch=str(tmp_path / "scratch")))
    same(again, known)
    with pytest.raises(ResumeError, match="holds the result of another job"):
        pipeline.run(job(f"s3://data/{name}", out, scratch=str(tmp_path / "scratch"), chunk=16))


def test_what_lies_at_an_address_is_looked_at(images, s3, endpoint, tmp_path):
    """`evaluate` and `verify` take a result at an address, and truth; a vector file they read of
    this machine only.
    """
    endpoint(s3)
    out = "s3://data/looked-at"
    asked = job(
        "s3://data/image.zarr",
        out,
        scratch=str(tmp_path / "scratch"),
        results=["instance", "semantic"],
    )
    pipeline.run(asked, pipeline.local())
    for kind, truth in (
        ("instance", f"{out}/labels.zarr"),
        ("semantic", f"{out}/classes.zarr"),
        ("panoptic", out),
    ):
        picture = tmp_path / f"{kind}.png"
        told = CliRunner().invoke(
            app, ["evaluate", out, truth, "--kind", kind, "--picture", str(picture)]
        )
        assert told.exit_code == 0, told.output
        assert re.search(r"boundary_f1 +1\.0000", told.output), told.output
        assert picture.exists()
    told = CliRunner().invoke(app, ["verify", out, "--tiles", "2"])
    assert told.exit_code == 0, told.output
    assert re.search(r"0 of [1-9]\d* near seams, 0 of [1-9]\d* inside", told.output), told.output
    for words, message in (
        (["evaluate", "s3://data/nothing", out], "kind: nothing does not tell what it is"),
        (
            ["verify", "s3://data/nothing"],
            "s3://data/nothing holds no complete result: there is no run.json",
        ),
        (["evaluate", out, "s3://data/truth.geojson"], "s3://data/truth.geojson"),
    ):
        told = CliRunner().invoke(app, words)
        assert told.exit_code == 2
        assert message in told.output


@pytest.mark.parametrize("name", ["image.zarr", "scene.tif"])
def test_a_web_server_with_ranges(images, tmp_path, name):
    """Over HTTP, which is taken from this machine only, an image is what it is in a file."""
    with served(images) as (address, server):
        source = open_source(f"{address}/{name}")
        np.testing.assert_array_equal(source.read(WHOLE), open_source(images / name).read(WHOLE))
        assert source.fingerprint() == open_source(f"{address}/{name}").fingerprint()
        if name == "image.zarr":
            known = pipeline.run(job(str(images / name), tmp_path / "known"), pipeline.local())
            same(pipeline.run(job(f"{address}/{name}", tmp_path / "ours"), pipeline.local()), known)
            assert server.asked["image.zarr/c/0/0"]


def test_a_bomb_on_a_server(tmp_path):
    """A chunk that becomes more than a chunk is an error wherever it lies."""
    array = zarr.create_array(
        tmp_path / "a.zarr",
        data=np.ones((64, 64), np.uint8),
        chunks=(64, 64),
        compressors=GzipCodec(),
    )
    (tmp_path / "a.zarr" / array.metadata.encode_chunk_key((0, 0))).write_bytes(
        2 * gzip.compress(bytes(4096))
    )
    with (
        served(tmp_path) as (address, _),
        pytest.raises(
            SourceError, match="a chunk becomes 4097 bytes or more, and 4096 are allowed"
        ),
    ):
        open_source(f"{address}/a.zarr").read(Box.whole((64, 64)))


@pytest.mark.parametrize("shards", [None, (64, 64)])
def test_files_on_a_server_that_are_too_large(tmp_path, shards):
    """A file of four megabytes that no chunk of 2 kB can have made is refused by its size, and so
    is what a shard's index says.
    """
    array = zarr.create_array(
        tmp_path / "a.zarr",
        data=np.ones((64, 64), np.uint8),
        chunks=(32, 64),
        shards=shards,
        compressors=None,
    )
    file = tmp_path / "a.zarr" / array.metadata.encode_chunk_key((0, 0))
    index = np.array([0, 1 << 22, 1 << 22, 100], "<u8").tobytes() if shards else b""
    file.write_bytes(
        bytes(1 << 22) + bytes(numcodecs.CRC32C(location="end").encode(index) if shards else b"")
    )
    with (
        served(tmp_path) as (address, _),
        pytest.raises(
            SourceError, match=r"0 has 4194304 bytes, and a file of this array has at most"
        ),
    ):
        open_source(f"{address}/a.zarr").read(Box((0, 0), (20, 64)))


def test_servers_that_are_overloaded_are_asked_again(images, endpoint, s3):
    """A server that answers each first request with 503 serves all the same."""
    endpoint(s3)
    with served(images, lambda _name, number: 503 if number % 3 == 1 else None) as (address, _):
        for name in ("image.zarr", "scene.tif"):
            np.testing.assert_array_equal(
                open_source(f"{address}/{name}").read(WHOLE), open_source(images / name).read(WHOLE)
            )


def test_servers_that_stay_overloaded_are_given_up(images, endpoint, s3, tmp_path):
    """A chunk that nobody serves is asked for a bounded number of times; then its tiles fail, and
    are named.
    """
    endpoint(s3)
    with served(images, lambda name, _number: 503 if name == "image.zarr/c/0/0" else None) as (
        address,
        server,
    ):
        source = {"path": f"{address}/image.zarr", "missing_chunks": "fill"}
        with pytest.raises(
            TilesError,
            match=r"4 of 16 tiles failed.*: tile \(0, 0\): http://127.*/image.zarr cannot be "
            r"reached: .*503",
        ):
            pipeline.run(job(source, tmp_path / "out"), pipeline.local())
        assert server.asked["image.zarr/c/0/0"] == 4 * 2 * locations.TRIES


@pytest.mark.parametrize("name", ["scene.tif"])
def test_a_signed_address_expires(images, endpoint, s3, tmp_path, name):
    """What signs an address is in no message, record, log or scratch file, whether it holds or
    expires while a run reads.
    """
    endpoint(s3)
    left = [10_000]

    def expired(_name: str, _number: int) -> int | None:
        left[0] -= 1
        return 403 if left[0] < 0 else None

    with served(images, expired) as (address, _):
        signed = f"{address}/{name}?X-Signature={SECRET}"
        text = (
            f"source: {{path: '{signed}'}}\ntiles: {{size: 32}}\nsegmenters: {{it: {{kind: "
            f"threshold, value: 90}}}}\noutput: {{path: %s}}\n"
        )
        (tmp_path / "good.yaml").write_text(text % (tmp_path / "good"))
        (tmp_path / "bad.yaml").write_text(text % (tmp_path / "bad"))
        done = CliRunner().invoke(app, ["run", str(tmp_path / "good.yaml"), "--workers", "1"])
        assert done.exit_code == 0, done.output
        assert (
            json.loads((tmp_path / "good/run.json").read_text())["job"]["source"]["path"]
            == f"{address}/{name}?…"
        )
        left[0] = 0
        failed = CliRunner().invoke(app, ["run", str(tmp_path / "bad.yaml"), "--workers", "0"])
        assert failed.exit_code == 2
        assert "403" in failed.output
    written = b"".join(
        path.read_bytes()
        for out in ("good", "bad")
        for path in (tmp_path / out).rglob("*")
        if path.is_file()
    )
    for told in (done.output, failed.output, written.decode("latin-1")):
        assert SECRET not in told


def test_credentials_stay_in_the_environment(s3, endpoint, tmp_path):
    """A run that fails with credentials in the environment shows them nowhere."""
    endpoint(s3)
    done = CliRunner().invoke(
        app,
        [
            "segment",
            "s3://data/nothing.tif",
            str(tmp_path / "out"),
            "--with",
            "threshold",
            "--debug",
        ],
    )
    assert done.exit_code != 0
    assert SECRET not in done.output
    assert SECRET not in str(done.exception)


class Forgetful(http.server.ThreadingHTTPServer):
    """Passes everything on to an S3 server, but loses or cuts what is written to some names; signs
    what was asked of Google.
    """

    def __init__(
        self, behind: str, lost: Callable[[str], bool], *, torn: bool = False, google: bool = False
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Proxy)
        self.behind, self.lost, self.torn, self.google = behind, lost, torn, google

    @contextlib.contextmanager
    def running(self) -> Iterator[str]:
        """Its address, while it runs."""
        with self:
            thread = threading.Thread(target=self.serve_forever)
            thread.start()
            try:
                yield f"http://127.0.0.1:{self.server_port}"
            finally:
                self.shutdown()
                thread.join()


class _Proxy(http.server.BaseHTTPRequestHandler):
    server: Forgetful
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Pass on."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.command == "PUT" and self.server.lost(self.path):
            body = body[: len(body) // 2] if self.server.torn else b""
        sent = {
            key: value
            for key, value in self.headers.items()
            if key.lower() not in ("host", "content-length", "content-md5")
        }
        sent["Content-Type"] = "application/octet-stream"
        if self.server.google:
            sent["Authorization"] = (
                "AWS4-HMAC-SHA256 Credential=key/20260101/us-east-1/s3/aws4_request, "
                "SignedHeaders=host, Signature=0"
            )
        request = urllib.request.Request(
            self.server.behind + self.path, data=body or None, headers=sent, method=self.command
        )
        if self.command == "PUT" and self.server.lost(self.path) and not self.server.torn:
            status, headers, data = 200, {"ETag": '"lost"'}, b""
        else:
            try:
                with urllib.request.urlopen(request) as answer:
                    status, headers, data = answer.status, dict(answer.headers), answer.read()
            except urllib.error.HTTPError as error:
                status, headers, data = error.code, dict(error.headers), error.read()
        self.send_response(status)
        for key, value in headers.items():
            if key.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(key, value)
        self.send_header(
            "Content-Length",
            headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(data)),
        )
        self.end_headers()
        self.wfile.write(data)

    do_PUT = do_HEAD = do_POST = do_DELETE = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.mark.parametrize("torn", [False, True], ids=["lost", "torn"])
def test_what_a_store_loses_is_found(images, s3, endpoint, tmp_path, torn):
    """A write that is lost or cut short is found before the record says that the result is
    complete; the same command completes it.
    """
    out, losing = f"s3://data/forgotten/{torn}", [True]
    with Forgetful(
        s3, lambda path: losing[0] and path.endswith("objects.parquet"), torn=torn
    ).running() as address:
        endpoint(address)
        asked = job(str(images / "scene.tif"), out, scratch=str(tmp_path / "scratch"))
        with pytest.raises(OutputError, match=r"does not hold objects\.parquet as it was sent"):
            pipeline.run(asked, pipeline.local())
        assert locations.read(out, "run.json") is None
        losing[0] = False
        known = pipeline.run(job(str(images / "scene.tif"), tmp_path / "known"), pipeline.local())
        same(pipeline.run(asked, pipeline.local()), known)


def test_runs_on_two_machines_are_kept_apart(images, s3, endpoint, tmp_path, monkeypatch):
    """An address that a run has claimed is refused to others until that has ended; one that lost it
    completes nothing.
    """
    endpoint(s3)
    out, source = "s3://data/claimed", str(images / "scene.tif")
    mine, other = (job(source, out, scratch=str(tmp_path / name)) for name in ("mine", "other"))
    known = pipeline.run(job(source, tmp_path / "known"), pipeline.local())
    sent = upload.deliver

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(upload, "deliver", killed)
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(mine, pipeline.local())
    monkeypatch.setattr(upload, "deliver", sent)
    with pytest.raises(
        OutputError, match=r"s3://data/claimed is claimed by a run with another folder for scratch"
    ):
        pipeline.run(other, pipeline.local())
    same(pipeline.run(other, pipeline.local(), fresh=True), known)
    locations.remove(out, "run.json")
    upload._claim(other, fresh=False)
    made = pipeline.run(upload.made_here(mine), pipeline.local())
    with pytest.raises(
        OutputError,
        match=r"was claimed by another run meanwhile; nothing of this one is complete there",
    ):
        upload.deliver(made, mine, lambda _: None)
    assert locations.read(out, "run.json") is None
    with pytest.raises(
        OutputError,
        match=r"s3://data/claimed holds labels.zarr/.*, which no run has left there; .*replace "
        r"it \(--fresh\)",
    ):
        pipeline.run(other, pipeline.local())
    same(pipeline.run(other, pipeline.local(), fresh=True), known)
    assert locations.read(out, upload.CLAIM) is None
    with pytest.raises(SourceError, match="there is no image"):
        pipeline.run(
            job(str(tmp_path / "nowhere.tif"), out, scratch=str(tmp_path / "third")),
            pipeline.local(),
            fresh=True,
        )
    assert not (tmp_path / "third" / upload.MARK).exists()
    made = set(products(tmp_path / "known"))
    aside = {
        name.replace(top := name.partition("/")[0], f"{top}.before-1", 1)
        for name in made - {"run.json"}
    }
    assert set(locations.listing(out)) == made | aside


def test_a_result_that_another_machine_sent_meanwhile(images, s3, endpoint, tmp_path, monkeypatch):
    """A result that is sent to an address between the look there and the claim is taken if it is
    the job's, and is not replaced if it is another's; either way nothing is made.
    """
    endpoint(s3)
    source = str(images / "scene.tif")
    claim = upload._claim

    def late(asked: pipeline.Job, *, fresh: bool) -> None:
        monkeypatch.setattr(upload, "_claim", claim)
        pipeline.run(others[asked.output.path], pipeline.local())
        claim(asked, fresh=fresh)

    mine, other = (
        [
            job(source, f"s3://data/meanwhile/{k}", scratch=str(tmp_path / name / str(k)))
            for k in range(2)
        ]
        for name in ("mine", "other")
    )
    tiles = {"tiles": other[1].tiles.model_copy(update={"size": 64})}
    others = {
        mine[0].output.path: other[0],
        mine[1].output.path: other[1].model_copy(update=tiles),
    }
    monkeypatch.setattr(upload, "_claim", late)
    known = pipeline.run(job(source, tmp_path / "known"), pipeline.local())
    same(pipeline.run(mine[0], pipeline.local()), known)
    monkeypatch.setattr(upload, "_claim", late)
    with pytest.raises(ResumeError, match=r"meanwhile/1 holds the result of another job"):
        pipeline.run(mine[1], pipeline.local())
    for asked in mine:
        assert locations.read(asked.output.path, upload.CLAIM) is None
        assert not list(Path(asked.output.scratch).iterdir())


def test_an_address_holds_the_products_of_one_run(images, s3, endpoint, tmp_path):
    """What a run replaces at an address is gone, what is the user's stays, and a record that is
    damaged is told by all who read it.
    """
    endpoint(s3)
    out, source = "s3://data/replaced", str(images / "scene.tif")
    asked, other = (
        job(source, out, scratch=str(tmp_path / "scratch"), labels=labels)
        for labels in (["zarr", "cog"], ["zarr"])
    )
    pipeline.run(asked, pipeline.local())
    locations.write(out, "notes.txt", b"mine")
    pipeline.run(other, pipeline.local(), fresh=True)
    made = set(
        products(
            Path(
                pipeline.run(
                    job(source, tmp_path / "known", labels=["zarr"]), pipeline.local()
                ).path
            )
        )
    )
    assert set(locations.listing(out)) == made | {"notes.txt"}
    locations.write(out, "labels.tif", b"mine")
    locations.write(out, "run.json", b'{"complete": tr')
    for words in (["verify", out], ["evaluate", out, f"{out}/labels.zarr"]):
        told = CliRunner().invoke(app, words)
        assert told.exit_code == 2, told.output
        assert "run.json is damaged, or not of tilewise: it is no JSON" in told.output.replace(
            "\n", " "
        )
    with pytest.raises(OutputError, match=r"s3://data/replaced/run\.json is damaged"):
        pipeline.run(other, pipeline.local())
    pipeline.run(other, pipeline.local(), fresh=True)
    assert locations.read(out, "labels.tif.before-1") == b"mine"
    assert made | {"notes.txt"} < set(locations.listing(out))
    assert not locations.there(out, "labels.tif")
    locations.remove(out, "objects.parquet")
    with pytest.raises(
        ResumeError, match=r"but no objects\.parquet any more; make it again \(--fresh\)"
    ):
        pipeline.run(other, pipeline.local())


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("name", ["image.zarr", "scene.tif"])
def test_a_run_from_gs_to_gs(images, s3, tmp_path, monkeypatch, name):
    """At gs:// a run is that of files, as far as a server of S3 can stand for Google's, whose XML
    API has the same requests.
    """
    known = pipeline.run(job(str(images / name), tmp_path / "known"), pipeline.local())
    with Forgetful(s3, lambda _path: False, google=True).running() as address:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
        for variable, value in locations._endpoint().items():
            monkeypatch.setenv(variable, value)
        locations.store.cache_clear()
        out = f"gs://data/out-gs/{name}"
        ours = pipeline.run(
            job(f"gs://data/{name}", out, scratch=str(tmp_path / "scratch")), pipeline.local()
        )
        same(ours, known)
        assert set(locations.listing(out)) == set(products(tmp_path / "known"))
        with rasterio.open(locations.gdal(f"{out}/labels.tif")) as file:
            np.testing.assert_array_equal(file.read(1), known.labels)
        with pytest.raises(ResumeError, match="holds the result of another job"):
            pipeline.run(job(f"gs://data/{name}", out, scratch=str(tmp_path / "scratch"), chunk=16))
        with pytest.raises(
            SourceError, match=r"gs://data/nothing\.tif cannot be opened: HTTP response code: 404"
        ):
            open_source("gs://data/nothing.tif").fingerprint()
    locations.store.cache_clear()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"source": "ftp://host/scene.tif"},
            (r"ftp://host/scene.tif: ftp:// is not read; allowed: s3://, gs://, https://"),
        ),
        ({"source": "http://example.org/scene.tif"}, r"http:// is not read"),
        ({"source": "file:///etc/passwd"}, r"file:// is not read"),
        (
            {"source": f"https://me:{SECRET}@host/scene.tif"},
            (r"https://…@host/scene.tif holds credentials; allowed: in the environment"),
        ),
        ({"source": "s3://bucket"}, r"s3://bucket names no file"),
        (
            {"source": "s3://bucket/slide.svs"},
            (r"kind: slide.svs does not tell what it is; name its kind; allowed at an address"),
        ),
        (
            {"source": {"path": "s3://bucket/slide.svs", "kind": "tiff"}},
            (r"a source of kind tiff is read of this machine only"),
        ),
        (
            {"output": {"path": "https://host/out", "scratch": "s"}},
            (r"output.path: https://host/out; allowed: a folder, s3://"),
        ),
        (
            {"output": {"path": "s3://bucket/out"}},
            (r"output.scratch is missing; a result that goes to an address"),
        ),
    ],
    ids=lambda value: "" if isinstance(value, str) else str(value),
)
def test_addresses_that_are_refused(tmp_path, given, message):
    """What cannot be an image or a result is refused before any work, and shows no password."""
    parts = {
        "source": blobs(32),
        "segmenters": {"it": pipeline.Threshold(value=1)},
        "output": {"path": str(tmp_path / "out")},
        **given,
    }
    with pytest.raises((JobError, SourceError), match=message) as raised:
        pipeline.run(pipeline.Job(**parts), pipeline.local())
    assert SECRET not in str(raised.value)


def test_errors_hold_no_signature():
    """Whatever raises an error with an address in it, the message has neither its query nor its
    user.
    """
    text = (
        f"https://me:{SECRET}@host/a.tif and 's3://bucket/b?sig={SECRET}&x=1', "
        f"(/vsicurl/https://host/c.tif?token={SECRET})"
    )
    for told in (redacted(text), str(SourceError(text)), str(OutputError(text))):
        assert SECRET not in told
        assert "host/a.tif" in told
        assert "s3://bucket/b?…" in told


@pytest.mark.parametrize("name", ["image.zarr", "scene.tif"])
def test_the_library_is_asked_for_by_name(monkeypatch, name):
    """Without the extra an address is refused with what installs it."""
    for module in ("obstore", "obstore.store", "obstore.exceptions"):
        monkeypatch.setitem(sys.modules, module, None)
    locations.store.cache_clear()
    with pytest.raises(
        JobError, match=r"s3://.* takes obstore; install it with: pip install 'tilewise\[remote\]'"
    ):
        locations.about(f"s3://data/{name}")
    if name == "image.zarr":
        with pytest.raises(JobError, match="takes obstore"):
            open_source(f"s3://data/{name}")


def test_what_is_not_there(s3, endpoint):
    """A name at which there is nothing is an error that says so."""
    endpoint(s3)
    for name in ("nothing.tif", "nothing.zarr"):
        with pytest.raises(SourceError, match=f"s3://data/{name}"):
            open_source(f"s3://data/{name}")
    with pytest.raises(SourceError, match=r"there is no image at s3://data/nothing\.tif"):
        locations.about("s3://data/nothing.tif")


@pytest.fixture(scope="module")
def apart(tmp_path_factory) -> Iterator[tuple[str, Path]]:
    """A web server in a process of its own, and its folder: rasterio lets no other thread run while
    GDAL looks for a mask.
    """
    code = (
        "import sys; from pathlib import Path; from tests.storage.test_locations import served\n"
        "with served(Path(sys.argv[1])) as (address, _):\n    print(address, flush=True)\n    "
        "sys.stdin.read()\n"
    )
    folder, root = tmp_path_factory.mktemp("served"), Path(__file__).parents[2]
    command = [sys.executable, "-c", code, str(folder)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root
    ) as server:
        yield server.stdout.readline().strip(), folder
        server.stdin.close()


def beside(folder: Path, what: str) -> Path:
    """An image with something beside it; and nothing in the image itself of what that says."""
    folder.mkdir()
    path = folder / "scene.tif"
    how = {
        "tiled": True,
        "blockxsize": 32,
        "blockysize": 32,
        "crs": "EPSG:32633",
        "transform": PLACE,
    }
    with rasterio.open(
        path, "w", driver="GTiff", count=1, height=128, width=128, dtype="uint8", **how
    ) as file:
        file.write(blobs(128), 1)
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False, TIFF_USE_OVR=True),
        rasterio.open(path, "r+") as file,
    ):
        if what in (".msk", ".msk.ovr"):
            file.write_mask(np.random.default_rng(0).random((128, 128)) < 0.5)
        if what in (".ovr", ".msk.ovr"):
            file.build_overviews([2, 4], rasterio.enums.Resampling.average)
    if what == ".aux.xml":
        band = "<Description>near infrared</Description><NoDataValue>0</NoDataValue>"
        Path(f"{path}.aux.xml").write_text(
            f'<PAMDataset><PAMRasterBand band="1">{band}</PAMRasterBand></PAMDataset>'
        )
    return path


@pytest.mark.parametrize("what", [".msk", ".ovr", ".msk.ovr", ".aux.xml", "nothing"])
@pytest.mark.parametrize("scheme", ["http", "s3"])
def test_what_lies_beside_an_image_counts_at_an_address_too(
    request, monkeypatch, apart, what, scheme
):
    """A mask, overviews and metadata beside an image say at an address what they say on this
    machine, at every level, in every thread, and are part of what tells it from others; nothing of
    how servers are asked stays in the environment or in GDAL.
    """
    server, root = apart
    path = beside(root / f"{scheme}{what}", what)
    known = [open_source(path, level=level) for level in range(1 + 2 * what.endswith(".ovr"))]
    address = (
        f"{server}/{path.parent.name}"
        if scheme == "http"
        else _at_s3(request, monkeypatch, path.parent)
    )
    before = dict(os.environ)
    for level, local in enumerate(known):
        source = open_source(f"{address}/scene.tif", level=level)
        assert source.frame == local.frame
        with ThreadPoolExecutor(2) as pool:
            for step in (1, 3):
                for thread in (pool.submit, lambda f, *a: _now(f(*a))):
                    box = Box.whole(local.frame.shape)
                    values = thread(source.glance, box, step).result()
                    np.testing.assert_array_equal(values, local.glance(box, step))
                    good = thread(where_measured, source, box, values, step).result()
                    np.testing.assert_array_equal(good, where_measured(local, box, values, step))
    found = source.fingerprint()
    assert set(found.get("with", ())) == {
        ending
        for ending in (".msk", ".ovr", ".msk.ovr", ".aux.xml")
        if Path(f"{path}{ending}").exists()
    }
    assert dict(os.environ) == before
    with pytest.raises(rasterio.errors.EnvError):
        rasterio.env.getenv()


def _now(value: object) -> Future:
    done: Future = Future()
    done.set_result(value)
    return done


def _at_s3(request, monkeypatch, folder: Path) -> str:
    """Put a folder's files into the bucket; AWS_ENDPOINT_URL alone says where it is, as users say
    it.
    """
    server = request.getfixturevalue("s3")
    for name, value in (
        ("ACCESS_KEY_ID", "key"),
        ("SECRET_ACCESS_KEY", SECRET),
        ("DEFAULT_REGION", "us-east-1"),
        ("ENDPOINT_URL", server),
    ):
        monkeypatch.setenv(f"AWS_{name}", value)
    locations.store.cache_clear()
    place = f"s3://data/{folder.name}"
    for path in folder.iterdir():
        locations.store(place).put(path.name, path)
    request.addfinalizer(locations.store.cache_clear)
    return place


def test_what_the_user_says_of_servers_wins(monkeypatch, tmp_path):
    """An own setting, in the environment or of rasterio, is not overruled."""
    beside(tmp_path / "images", "nothing")
    monkeypatch.setenv("GDAL_HTTP_TIMEOUT", "7")
    with served(tmp_path / "images") as (address, _):
        source = open_source(f"{address}/scene.tif")
        with rasterio.Env(GDAL_HTTP_MAX_RETRY="9"), gdal.settings(source.path):
            assert rasterio.env.getenv()["GDAL_HTTP_MAX_RETRY"] == "9"
            assert "GDAL_HTTP_TIMEOUT" not in rasterio.env.getenv()
            assert rasterio.env.getenv()["GDAL_HTTP_CONNECTTIMEOUT"] == str(locations.PATIENCE)


@pytest.mark.parametrize(
    ("ending", "content", "message"),
    [
        (
            ".msk",
            b'<VRTDataset rasterXSize="4" rasterYSize="4"/>',
            r"scene\.tif\.msk is no TIFF: it begins with b'<VRT'",
        ),
        (".ovr", b"\x89PNG", r"scene\.tif\.ovr is no TIFF"),
        (
            ".aux.xml",
            (
                b'<PAMDataset><Metadata domain="OVERVIEWS"><MDI '
                b'key="OVERVIEW_FILE">/etc/passwd</MDI></Metadata></PAMDataset>'
            ),
            r"scene\.tif\.aux\.xml refers to other files; allowed at an address",
        ),
        (".msk", b"<!DOCTYPE html><title>Not here</title>", None),
        (".aux.xml", b"<html>Not here</html>", None),
    ],
    ids=[
        "a VRT for a mask",
        "a PNG for overviews",
        "metadata that lead elsewhere",
        "a page for a mask",
        "a page for metadata",
    ],
)
def test_what_may_lie_beside_an_image(request, ending, content, message, apart):
    """Masks and overviews are TIFFs, metadata lead nowhere else; a page that a server sends for
    what it has not is nothing.
    """
    server, root = apart
    path = beside(root / re.sub(r"\W+", "-", request.node.name), "nothing")
    Path(f"{path}{ending}").write_bytes(content)
    address = f"{server}/{path.parent.name}/scene.tif"
    if message is None:
        assert open_source(address).fingerprint().get("with") is None
        return
    with pytest.raises(SourceError, match=message):
        open_source(address)
    if ending != ".aux.xml":  # of which a folder's rule is that what it leads to lies in the folder
        with pytest.raises(SourceError, match=message):
            open_source(path)
