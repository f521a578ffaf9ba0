"""Results between stages: what a run resumes from.

A scratch store is a folder of small files, each written whole under another name and then renamed, so that a file that is there is
complete; each part of it carries a checksum, so that a torn or altered one is found. Nothing is ever changed in place, and doing a
piece of work again writes the same bytes. What has no file is not done: absence never reads as "no objects".
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import uuid
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import OutputError, ScratchError

MAGIC = b"TWS1"
WORTH_PACKING = 4096
Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Scratch:
    """A scratch store in a folder that every worker can reach. Keys are relative paths."""

    root: str
    """The folder."""

    def save(self, key: str, meta: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]] | None = None) -> None:
        """Write a record: plain facts that JSON can hold, and arrays; OutputError where the disk refuses."""
        commit(self._path(key), _pack(meta, arrays or {}))

    def load(self, key: str, *names: str) -> tuple[dict[str, Any], Arrays]:
        """Read a record's facts and, of its arrays, those named; ScratchError if it is absent or damaged."""
        try:
            with self._path(key).open("rb") as file:
                head = file.read(8)
                if head[:4] != MAGIC:
                    raise ScratchError(f"{self._path(key)} is damaged: it does not begin as a record of Tilewise")
                header = json.loads(_checked(file.read(int.from_bytes(head[4:], "little")), None, key))
                return header["meta"], {name: _unpack(file, header["arrays"][name], f"{self._path(key)} ({name})") for name in names}
        except FileNotFoundError as error:
            raise ScratchError(f"the record {self._path(key)} is missing") from error

    def has(self, key: str) -> bool:
        """Whether a record is there, hence complete."""
        return self._path(key).exists()

    def sound(self, key: str) -> bool:
        """Whether a record is there and every part of it agrees with its checksum."""
        try:
            names = self.load(key)[1] if not self.has(key) else self.names(key)
            self.load(key, *names)
        except ScratchError:
            return False
        return True

    def names(self, key: str) -> list[str]:
        """The arrays in a record."""
        with self._path(key).open("rb") as file:
            head = file.read(8)
            if head[:4] != MAGIC:
                raise ScratchError(f"{self._path(key)} is damaged: it does not begin as a record of Tilewise")
            return list(json.loads(_checked(file.read(int.from_bytes(head[4:], "little")), None, key))["arrays"])

    def forget(self, *keys: str) -> None:
        """Remove records or whole folders of them, where they are there."""
        for key in keys:
            path = Path(self.root, key)
            shutil.rmtree(path) if path.is_dir() else self._path(key).unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return Path(self.root, key + ".rec")


def commit(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all; OutputError, and nothing left behind, where the disk refuses."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        part.write_bytes(data)
        os.replace(part, path)  # noqa: PTH105  the one commit point, named as tests name it
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OutputError(f"{path} cannot be written: {error.strerror}; make room or choose another place, then run the same command") from error


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold a lock file while a run writes; OutputError if another process holds it. A process that dies lets go of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise OutputError(f"another run is writing {what} ({file.read().strip()}); wait for it to end, or choose another output") from error
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

    return bytes(blosc.compress(np.ascontiguousarray(array), b"lz4", 5, blosc.SHUFFLE))


def _unpack(file: Any, entry: Mapping[str, Any], name: str) -> npt.NDArray[Any]:
    file.seek(0)
    start = 8 + int.from_bytes(file.read(8)[4:], "little")
    file.seek(start + entry["at"])
    data = _checked(file.read(entry["bytes"]), entry["crc"], name)
    shape, dtype = tuple(entry["shape"]), np.dtype(entry["dtype"])
    if np.prod(shape, dtype=np.int64) * dtype.itemsize >= WORTH_PACKING:
        from numcodecs import blosc

        data = blosc.decompress(data)
    return np.frombuffer(data, dtype).reshape(shape)


def _checked(data: bytes, crc: int | None, name: str) -> bytes:
    """The data, if they agree with their checksum, which stands before them where it is not given."""
    expected, rest = (int.from_bytes(data[:4], "little"), data[4:]) if crc is None else (crc, data)
    if zlib.crc32(rest) != expected:
        raise ScratchError(f"{name} is damaged: its checksum does not agree")
    return rest
