"""Results between stages: what a run resumes from.

A scratch store is a folder of small files, each written whole under another name and then renamed,
so that a file that is there is complete; each part of it carries a checksum, so that a torn or
altered one is found. Nothing is ever changed in place, and doing a piece of work again writes the
same bytes. What has no file is not done: absence never reads as "no objects".

Each run has a folder of its own in it, and its records name it: a task of a run that was given up,
which may go on for as long as its process lives, writes where nobody looks any more, or nowhere. So
have the records that depend on how the labels of tiles are joined, for each way of joining them.
"""

from __future__ import annotations

import json
import math
import uuid
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from pipeline.errors import ScratchError
from pipeline.storage.atomic_files import commit, discard, make

MAGIC = b"TWS2"
WORTH_PACKING = 4096
LABEL = 4
"""Bytes of a label."""
RUNS = "runs"
JOINED = "joined"
"""The folders of runs, and in a run of the ways of joining its tiles."""
Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Scratch:
    """A scratch store in a folder that every worker can reach. Keys are relative paths."""

    root: str
    """The folder. Where it is not there, nothing is written: only `begin` makes it."""

    run: str = ""
    """What its records are of, which each of them says; records of anything else are not there."""

    join: str = ""
    """What tells one way of joining the labels of its tiles from any other."""

    part: str = ""
    """The folder in it, or none, in which this store's records lie."""

    def of(self, run: str, join: str) -> Scratch:
        """The store of one run."""
        return Scratch(str(Path(self.root, RUNS, run)), run, join)

    def within(self, name: str) -> Scratch:
        """A store of its own in a folder of this one."""
        return replace(self, part=f"{self.part}{name}/")

    @property
    def joined(self) -> Scratch:
        """The store of what depends on how the labels of tiles are joined."""
        return (
            replace(
                self,
                run=f"{self.run}/{self.join}",
                part=f"{JOINED}/{self.join}/{self.part}",
                join="",
            )
            if self.join
            else self
        )

    def begin(self) -> Scratch:
        """The same store, whose folder is there."""
        Path(self.root).mkdir(parents=True, exist_ok=True)
        return self

    def end_others(self) -> None:
        """Remove all runs but this one, and all ways but this one of joining its tiles."""
        for mine in (Path(self.root), Path(self.root, JOINED, self.join)):
            for path in mine.parent.iterdir() if mine.parent.exists() else ():
                if path != mine:
                    discard(path)

    def save(
        self,
        key: str,
        meta: Mapping[str, Any],
        arrays: Mapping[str, npt.NDArray[Any]] | None = None,
    ) -> None:
        """Write a record: plain facts that JSON can hold, and arrays; OutputError where the disk
        refuses, or the run has ended.
        """
        commit(self._path(key), _pack(self.run, meta, arrays or {}), root=Path(self.root))

    def load(self, key: str, *names: str, whole: bool = False) -> tuple[dict[str, Any], Arrays]:
        """Read a record's facts and, of its arrays, those named, or all; ScratchError if it is
        absent, damaged or of another run.
        """
        path = self._path(key)
        try:
            with path.open("rb") as file:
                header, start = _header(file, path)
                if header["run"] != self.run:
                    raise ScratchError(f"the record {path} is of another run")
                entries = header["arrays"]
                return header["meta"], {
                    name: _unpack(file, start, entries[name], path)
                    for name in (entries if whole else names)
                }
        except FileNotFoundError as error:
            raise ScratchError(f"the record {path} is missing") from error
        except OSError as error:
            if isinstance(error, ScratchError):
                raise
            raise ScratchError(f"the record {path} cannot be read: {error.strerror}") from error

    def has(self, key: str) -> bool:
        """Whether a record of this run is there, hence complete. A damaged one is there, and an
        error when it is loaded.
        """
        path = self._path(key)
        try:
            with path.open("rb") as file:
                return bool(_header(file, path)[0]["run"] == self.run)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            return True

    def keys(self, folder: str) -> tuple[str, ...]:
        """The records in a folder, in order of their names."""
        return tuple(
            f"{folder}/{path.stem}"
            for path in sorted(Path(self.root, self.part, folder).glob("*.rec"))
        )

    def sound(self, key: str) -> bool:
        """Whether a record is there and every part of it agrees with its checksum."""
        try:
            self.load(key, whole=True)
        except ScratchError:
            return False
        return True

    def damaged(self, *keys: str) -> bool:
        """Whether any record of these names, or in folders of these names, is damaged."""
        root = Path(self.root, self.part)
        paths = (
            path
            for key in keys
            for path in [self._path(key), *Path(root, key).rglob("*.rec")]
            if path.exists()
        )
        return not all(
            self.sound(path.relative_to(root).with_suffix("").as_posix()) for path in paths
        )

    def forget(self, *keys: str) -> None:
        """Remove records or whole folders of them, where they are there."""
        for key in keys:
            path = Path(self.root, self.part, key)
            discard(path if path.is_dir() else self._path(key))

    def file(self, name: str) -> Path:
        """Where a file that is no record lies, in a folder that is there; FileNotFoundError where
        the run has ended.
        """
        path = Path(self.root, self.part, name)
        make(path.parent, Path(self.root))
        return path

    def _path(self, key: str) -> Path:
        return Path(self.root, f"{self.part}{key}.rec")


def new_name() -> str:
    """A name for a run, or a way of joining, that no other has."""
    return uuid.uuid4().hex[:16]


def differences(before: Mapping[str, Any], now: Mapping[str, Any], path: str = "") -> list[str]:
    """What is not the same in two nested mappings: a line for each key.

    >>> differences({"tiles": {"size": 512}, "route": []}, {"tiles": {"size": 256}, "route": []})
    ['tiles.size: 512 before, 256 now']
    """
    lines = []
    for key in sorted({*before, *now}):
        a = before.get(key)
        b = now.get(key)
        name = f"{path}{key}"
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            lines += differences(a, b, f"{name}.")
        elif a != b:
            lines.append(f"{name}: {_short(a)} before, {_short(b)} now")
    return lines


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _pack(run: str, meta: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    entries = {}
    payload = []
    at = 0
    for name, array in arrays.items():
        data = _squeezed(array)
        entries[name] = {
            "dtype": array.dtype.str,
            "shape": array.shape,
            "at": at,
            "bytes": len(data),
            "crc": zlib.crc32(data),
        }
        payload.append(data)
        at += len(data)
    text = json.dumps({"run": run, "meta": dict(meta), "arrays": entries}, sort_keys=True).encode()
    header = zlib.crc32(text).to_bytes(4, "little") + text
    return b"".join([MAGIC, len(header).to_bytes(4, "little"), header, *payload])


def _squeezed(array: npt.NDArray[Any]) -> bytes:
    if array.nbytes < WORTH_PACKING:
        return array.tobytes()
    from numcodecs import blosc

    # Labels repeat as whole numbers: apart, their bytes take twice as long and more room. Sums and
    # ids differ in their last bytes only.
    how = blosc.SHUFFLE if array.dtype.itemsize > LABEL else blosc.NOSHUFFLE
    return bytes(blosc.compress(np.ascontiguousarray(array), b"lz4", 5, how))


def _header(file: BinaryIO, path: Path) -> tuple[dict[str, Any], int]:
    """A record's table of contents, and where its arrays begin."""
    head = file.read(8)
    length = int.from_bytes(head[4:], "little")
    text = file.read(length)
    if (
        head[:4] != MAGIC
        or not 4 < length == len(text)
        or zlib.crc32(text[4:]) != int.from_bytes(text[:4], "little")
    ):
        raise ScratchError(
            f"the record {path} is damaged: its header does not agree with its checksum"
        )
    return json.loads(text[4:]), 8 + length


def _unpack(file: BinaryIO, start: int, entry: Mapping[str, Any], path: Path) -> npt.NDArray[Any]:
    file.seek(start + entry["at"])
    data = file.read(entry["bytes"])
    if zlib.crc32(data) != entry["crc"]:
        raise ScratchError(f"the record {path} is damaged: a part does not agree with its checksum")
    shape = tuple(entry["shape"])
    dtype = np.dtype(entry["dtype"])
    if math.prod(shape) * dtype.itemsize >= WORTH_PACKING:
        from numcodecs import blosc

        data = blosc.decompress(data)
    return np.frombuffer(data, dtype).reshape(shape)
