"""Images and results at addresses: which are allowed, and what opens them.

Credentials come from the environment, under the names that the libraries use (AWS_ACCESS_KEY_ID,
AWS_ENDPOINT_URL and so on, GOOGLE_APPLICATION_CREDENTIALS), and stay there: an address with
credentials is refused, or shown without its query. Workers get the address. Failed requests are
repeated a bounded number of times, after growing, randomized delays.
"""

from __future__ import annotations

import functools
import json
import os
import random
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pipeline.errors import JobError, OutputError, SourceError, TilewiseError
from pipeline.redaction import is_owned

SCHEMES = ("s3", "gs", "https")
LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""The only hosts that are reached without TLS."""
TRIES = 5
PATIENCE = 30
"""Seconds for one request."""
AT_ONCE = 16
"""Files that are uploaded at the same time."""
PREFIX = {"s3": "/vsis3/", "gs": "/vsigs/", "https": "/vsicurl/", "http": "/vsicurl/"}
"""GDAL's prefixes of addresses."""
GDAL = {
    "GDAL_HTTP_MAX_RETRY": str(TRIES - 1),
    "GDAL_HTTP_RETRY_DELAY": "0.5",
    "GDAL_HTTP_TIMEOUT": str(PATIENCE),
    "GDAL_HTTP_CONNECTTIMEOUT": str(PATIENCE),
}


def remote(path: object) -> bool:
    """Whether this is an address, not a path on this machine."""
    return isinstance(path, str) and "://" in path


def checked(address: str) -> str:
    """Return an address; JobError if its scheme is not allowed, or it holds a user name or
    password.
    """
    if is_owned(address):
        raise JobError(f"{address} holds credentials; allowed: in the environment only")
    try:
        parts = urlsplit(address)
        parts.port  # noqa: B018  refuses what is no port
    except ValueError as error:
        raise JobError(
            f"{address} is no address: {error}; allowed: s3://bucket/path, gs://bucket/path, "
            f"https://host/path"
        ) from error
    if parts.scheme not in SCHEMES and not (parts.scheme == "http" and parts.hostname in LOOPBACK):
        raise JobError(
            f"{address}: {parts.scheme}:// is not read; allowed: "
            f"{', '.join(f'{name}://' for name in SCHEMES)}"
        )
    if not parts.netloc or not parts.path.strip("/"):
        raise JobError(
            f"{address} names no file; allowed: s3://bucket/path, gs://bucket/path, "
            f"https://host/path"
        )
    return address


def joined(place: str, name: str) -> str:
    """Join a name to a folder or an address."""
    # a text, as in all messages
    return f"{place.rstrip('/')}/{name}" if remote(place) else os.path.join(place, name)  # noqa: PTH118


def lies_in(path: str, place: str) -> bool:
    """Whether something is a location, or lies in it, after following links."""
    file, folder = (
        each.rstrip("/") if remote(each) else os.path.realpath(each) for each in (path, place)
    )
    return f"{file}/".startswith(f"{folder}/")


def settings() -> dict[str, str]:
    """GDAL's options for requests, unless the environment sets them."""
    return {
        name: value for name, value in {**GDAL, **_endpoint()}.items() if name not in os.environ
    }


def gdal(address: str) -> str:
    """GDAL's name of an address."""
    parts = urlsplit(address)
    return PREFIX[parts.scheme] + (
        address if parts.scheme.startswith("http") else parts.netloc + parts.path
    )


@contextmanager
def asking(place: str, kind: type[TilewiseError]) -> Iterator[None]:
    """Re-raise any obstore error but FileNotFoundError as ``kind``."""
    if not remote(place):
        yield
        return
    errors = _obstore(place).exceptions
    try:
        yield
    except errors.BaseError as error:
        raise kind(f"{place} cannot be reached: {str(error).splitlines()[0]}") from error


def about(address: str) -> dict[str, Any]:
    """Size of a file, and its entity tag if its server gives one; SourceError without the file."""
    if urlsplit(address).scheme.startswith("http"):
        answer = _asked(address, 1)
        assert answer is not None  # noqa: S101  nothing is said to be missing
        headers, _ = answer
        size = headers.get("Content-Range", "").rpartition("/")[2] or headers["Content-Length"]
        return {"bytes": int(size), "tag": headers.get("ETag")}
    place, _, name = address.rpartition("/")
    try:
        with asking(address, SourceError):
            found = store(place).head(name)
    except FileNotFoundError as error:
        raise SourceError(f"there is no image at {address}") from error
    return {"bytes": found["size"], "tag": found["e_tag"]}


def listing(address: str) -> dict[str, dict[str, Any]] | None:
    """Sizes and entity tags of a folder's files by relative path; None if there is no listing."""
    if urlsplit(address).scheme.startswith("http"):
        return None
    with asking(address, SourceError):
        found = [each for batch in store(address).list() for each in batch]
    return {each["path"]: {"bytes": each["size"], "tag": each["e_tag"]} for each in found}


def there(place: str, name: str) -> bool:
    """Whether a folder contains a file, or a Zarr array or group, of this name."""
    if not remote(place):
        return Path(place, name).exists()
    if name.endswith(".zarr"):  # of which a store knows the files only
        return any(there(place, f"{name}/{file}") for file in ("zarr.json", ".zgroup", ".zarray"))
    try:
        with asking(joined(place, name), SourceError):
            store(place).head(name)
    except FileNotFoundError:
        return False
    return True


def read(place: str, name: str) -> bytes | None:
    """Read a file of a folder; None without one."""
    try:
        with asking(joined(place, name), SourceError):
            return bytes(store(place).get(name).bytes())
    except FileNotFoundError:
        return None


def begins(place: str, name: str, count: int) -> bytes | None:
    """Read the first bytes of a file of a folder; None if it is missing or forbidden."""
    if urlsplit(place).scheme.startswith("http"):
        answer = _asked(joined(place, name), count, missing=(401, 403, 404, 410))
        return None if answer is None else answer[1]
    errors = _obstore(place).exceptions
    try:
        with asking(joined(place, name), SourceError):
            try:
                return bytes(store(place).get_range(name, start=0, length=count))
            except (
                errors.PermissionDeniedError,
                errors.UnauthenticatedError,
            ):  # S3's answer where there is none, if it may not be listed
                return None
    except FileNotFoundError:
        return None


def create(place: str, name: str, data: bytes) -> bool:
    """Create a file of a folder unless it exists, and tell whether it was created.

    Some stores cannot do both at once; there it takes two steps.
    """
    errors = _obstore(place).exceptions
    with asking(joined(place, name), OutputError):
        try:
            store(place).put(name, data, mode="create")
        except errors.AlreadyExistsError:
            return False
        except (errors.NotSupportedError, NotImplementedError):
            if there(place, name):
                return False
            store(place).put(name, data)
    return True


def write(place: str, name: str, data: bytes) -> None:
    """Write a file of a folder, and replace an existing one."""
    with asking(joined(place, name), OutputError):
        store(place).put(name, data)


def move(place: str, name: str, new: str) -> None:
    """Rename a file of a folder."""
    with asking(joined(place, name), OutputError):
        store(place).rename(name, new)


def remove(place: str, name: str) -> None:
    """Remove a file of a folder, if it exists."""
    with suppress(FileNotFoundError), asking(joined(place, name), OutputError):
        store(place).delete(name)


def send(place: str, files: Mapping[str, Path]) -> Iterator[str]:
    """Upload files into a folder under these names, several at once; yield names as they arrive.

    OutputError names a file that fails.
    """

    def put(name: str) -> str:
        with asking(joined(place, name), OutputError):
            store(place).put(name, files[name])
        return name

    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield from pool.map(put, files)


@functools.lru_cache(maxsize=64)
def store(address: str) -> Any:
    """Open a folder with obstore."""
    backoff = {
        "init_backoff": timedelta(seconds=0.2),
        "max_backoff": timedelta(seconds=5),
        "base": 2,
    }
    how: Any = {
        "max_retries": TRIES - 1,
        "retry_timeout": timedelta(seconds=4 * PATIENCE),
        "backoff": backoff,
    }
    scheme = urlsplit(address).scheme
    server = {"s3": os.environ.get("AWS_ENDPOINT_URL", ""), "gs": _emulator()}.get(scheme, address)
    client: Any = {"timeout": f"{PATIENCE}s", "allow_http": urlsplit(server).scheme == "http"}
    key = {
        "gcs_base_url": server,
        "disable_oauth": True,
        "client_email": "",
        "private_key": "",
        "private_key_id": "",
    }
    more: Any = {"service_account_key": json.dumps(key)} if scheme == "gs" and server else {}
    return _obstore(address).store.from_url(
        address, client_options=client, retry_config=how, **more
    )


def _obstore(address: str) -> Any:
    """Import the library; JobError if it is not installed."""
    try:
        import obstore.exceptions
        import obstore.store
    except ModuleNotFoundError as error:
        raise JobError(
            f"{address} takes obstore; install it with: pip install 'tilewise[remote]'"
        ) from error
    return obstore


def zarr_store(path: str) -> Any:
    """The store that Zarr opens: a folder of this machine, or a read-only store."""
    if not remote(path):
        return path
    from zarr.storage import ObjectStore

    return ObjectStore(store(path), read_only=True)


def _endpoint() -> dict[str, str]:
    """GDAL's options for AWS_ENDPOINT_URL and STORAGE_EMULATOR_HOST, which it does not know."""
    parts = urlsplit(os.environ.get("AWS_ENDPOINT_URL", ""))
    emulator = _emulator()
    found = {"CPL_GS_ENDPOINT": f"{emulator}/", "GS_NO_SIGN_REQUEST": "YES"} if emulator else {}
    if parts.netloc:
        found |= {
            "AWS_S3_ENDPOINT": parts.netloc,
            "AWS_HTTPS": "YES" if parts.scheme == "https" else "NO",
            "AWS_VIRTUAL_HOSTING": "FALSE",
        }
    return found


def _emulator() -> str:
    """The server for gs:// in place of Google's, by the variable of Google's own libraries."""
    host = os.environ.get("STORAGE_EMULATOR_HOST", "").rstrip("/")
    return host if not host or "://" in host else f"http://{host}"


def _asked(address: str, count: int, missing: tuple[int, ...] = ()) -> tuple[Message, bytes] | None:
    """Request a file's headers and first bytes: a URL signed for reading may forbid HEAD.

    None if the status is one of ``missing``.
    """
    # its scheme was checked
    request = urllib.request.Request(address, headers={"Range": f"bytes=0-{count - 1}"})  # noqa: S310
    for attempt in range(1, TRIES + 1):
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:  # noqa: S310
                return answer.headers, answer.read(count)
        except urllib.error.HTTPError as error:
            error.close()  # it holds the connection
            if error.code in missing:
                return None
            if error.code < 500 or attempt == TRIES:
                raise SourceError(
                    f"{address} cannot be reached: its server answers {error.code} {error.reason}"
                ) from error
        except OSError as error:
            if attempt == TRIES:
                raise SourceError(f"{address} cannot be reached: {error}") from error
        time.sleep(random.uniform(0.5, 1) * 0.1 * 2**attempt)  # noqa: S311  no secret
    raise AssertionError
