"""Results between stages: what a run resumes from.

A scratch store is a folder of small files, each written whole under another name and then renamed, so that a file that is there is
complete; each part of it carries a checksum, so that a torn or altered one is found. Nothing is ever changed in place, and doing a
piece of work again writes the same bytes. What has no file is not done: absence never reads as "no objects".
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import shutil
import uuid
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from pipeline.errors import OutputError, ScratchError

MAGIC = b"TWS1"
WORTH_PACKING = 4096
LABEL = 4
"""Bytes of a label."""
Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Scratch:
    """A scratch store in a folder that every worker can reach. Keys are relative paths."""

    root: str
    """The folder."""

    def within(self, name: str) -> Scratch:
        """A store of its own in a folder of this one."""
        return Scratch(str(Path(self.root, name)))

    def save(self, key: str, meta: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]] | None = None) -> None:
        """Write a record: plain facts that JSON can hold, and arrays; OutputError where the disk refuses."""
        commit(self._path(key), _pack(meta, arrays or {}))

    def load(self, key: str, *names: str, whole: bool = False) -> tuple[dict[str, Any], Arrays]:
        """Read a record's facts and, of its arrays, those named, or all; ScratchError if it is absent or damaged."""
        path = self._path(key)
        try:
            with path.open("rb") as file:
                header, start = _header(file, path)
                entries = header["arrays"]
                return header["meta"], {name: _unpack(file, start, entries[name], path) for name in (entries if whole else names)}
        except FileNotFoundError as error:
            raise ScratchError(f"the record {path} is missing") from error

    def has(self, key: str) -> bool:
        """Whether a record is there, hence complete."""
        return self._path(key).exists()

    def keys(self, folder: str) -> tuple[str, ...]:
        """The records in a folder, in order of their names."""
        return tuple(f"{folder}/{path.stem}" for path in sorted(Path(self.root, folder).glob("*.rec")))

    def sound(self, key: str) -> bool:
        """Whether a record is there and every part of it agrees with its checksum."""
        try:
            self.load(key, whole=True)
        except ScratchError:
            return False
        return True

    def damaged(self, *keys: str) -> bool:
        """Whether any record of these names, or in folders of these names, is damaged."""
        root = Path(self.root)
        paths = (path for key in keys for path in [self._path(key), *Path(root, key).rglob("*.rec")] if path.exists())
        return not all(self.sound(str(path.relative_to(root).with_suffix(""))) for path in paths)

    def forget(self, *keys: str) -> None:
        """Remove records or whole folders of them, where they are there."""
        for key in keys:
            path = Path(self.root, key)
            shutil.rmtree(path) if path.is_dir() else self._path(key).unlink(missing_ok=True)

    def forget_all_but(self, *keys: str) -> None:
        """Remove all records but some; what is not a record stays."""
        kept = {self._path(key) for key in keys}
        for path in sorted(Path(self.root).rglob("*.rec")):
            if path not in kept:
                path.unlink()

    def _path(self, key: str) -> Path:
        return Path(self.root, key + ".rec")


def differences(before: Mapping[str, Any], now: Mapping[str, Any], path: str = "") -> list[str]:
    """What is not the same in two nested mappings: a line for each key.

    >>> differences({"tiles": {"size": 512}, "route": []}, {"tiles": {"size": 256}, "route": []})
    ['tiles.size: 512 before, 256 now']
    """
    lines = []
    for key in sorted({*before, *now}):
        a, b, name = before.get(key), now.get(key), f"{path}{key}"
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            lines += differences(a, b, f"{name}.")
        elif a != b:
            lines.append(f"{name}: {_short(a)} before, {_short(b)} now")
    return lines


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def commit(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all; OutputError, and nothing left behind, where the disk refuses."""
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(data)
        os.replace(part, path)  # noqa: PTH105  the one commit point, named as tests name it
    except OSError as error:
        with suppress(OSError):  # what cannot be written need not be there
            part.unlink(missing_ok=True)
        raise OutputError(
            f"{path} cannot be written: {error.strerror}; make room or choose another place, then run the same command"
        ) from error


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold a lock file while a run writes; OutputError if another process holds it. A process that dies lets go of it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    except OSError as error:
        raise OutputError(f"{what} cannot be written: {error.strerror}; choose another output") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise OutputError(
                f"another run is writing {what} ({file.read().strip()}); wait for it to end, or choose another output"
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {os.uname().nodename}")
        file.flush()
        yield


def _pack(meta: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    entries, payload, at = {}, [], 0
    for name, array in arrays.items():
        data = _squeezed(array)
        entries[name] = {"dtype": array.dtype.str, "shape": array.shape, "at": at, "bytes": len(data), "crc": zlib.crc32(data)}
        payload.append(data)
        at += len(data)
    text = json.dumps({"meta": dict(meta), "arrays": entries}, sort_keys=True).encode()
    header = zlib.crc32(text).to_bytes(4, "little") + text
    return b"".join([MAGIC, len(header).to_bytes(4, "little"), header, *payload])


def _squeezed(array: npt.NDArray[Any]) -> bytes:
    if array.nbytes < WORTH_PACKING:
        return array.tobytes()
    from numcodecs import blosc

    # Labels repeat as whole numbers: apart, their bytes take twice as long and more room. Sums and ids differ in their last bytes only.
    how = blosc.SHUFFLE if array.dtype.itemsize > LABEL else blosc.NOSHUFFLE
    return bytes(blosc.compress(np.ascontiguousarray(array), b"lz4", 5, how))


def _header(file: BinaryIO, path: Path) -> tuple[dict[str, Any], int]:
    """A record's table of contents, and where its arrays begin."""
    head = file.read(8)
    length = int.from_bytes(head[4:], "little")
    text = file.read(length)
    if head[:4] != MAGIC or not 4 < length == len(text) or zlib.crc32(text[4:]) != int.from_bytes(text[:4], "little"):
        raise ScratchError(f"the record {path} is damaged: its header does not agree with its checksum")
    return json.loads(text[4:]), 8 + length


def _unpack(file: BinaryIO, start: int, entry: Mapping[str, Any], path: Path) -> npt.NDArray[Any]:
    file.seek(start + entry["at"])
    data = file.read(entry["bytes"])
    if zlib.crc32(data) != entry["crc"]:
        raise ScratchError(f"the record {path} is damaged: a part does not agree with its checksum")
    shape, dtype = tuple(entry["shape"]), np.dtype(entry["dtype"])
    if math.prod(shape) * dtype.itemsize >= WORTH_PACKING:
        from numcodecs import blosc

        data = blosc.decompress(data)
    return np.frombuffer(data, dtype).reshape(shape)
