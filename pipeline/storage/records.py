"""Results between stages, from which a run resumes.

A scratch store is a folder of small files. Each is written under another name and then renamed, so
an existing file is complete. Each part of a file has a checksum, so damage is detected. Nothing is
changed in place, and repeating a piece of work writes the same bytes. Work without a file is not
done: absence never means "no objects".

Each run has a folder of its own, and its records name the run. A task of an abandoned run, which
may continue as long as its process lives, writes where nobody looks, or nowhere. The same holds for
records that depend on how the labels of tiles are joined, for each way of joining them.
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
"""Folders of runs, and within a run of the ways of joining its tiles."""
Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Scratch:
    """A scratch store in a folder that every worker can reach. Keys are relative paths."""

    root: str
    """The folder. If it does not exist, nothing is written: only `begin` creates it."""

    run: str = ""
    """The run, named in each of its records; records of other runs count as absent."""

    join: str = ""
    """Identifies one way of joining the labels of its tiles."""

    part: str = ""
    """The subfolder of this store's records, if any."""

    def of(self, run: str, join: str) -> Scratch:
        """The store of one run."""
        return Scratch(str(Path(self.root, RUNS, run)), run, join)

    def within(self, name: str) -> Scratch:
        """A store in a subfolder of this one."""
        return replace(self, part=f"{self.part}{name}/")

    @property
    def joined(self) -> Scratch:
        """The store of records that depend on how the labels of tiles are joined."""
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
        """Create the folder, and return the store."""
        Path(self.root).mkdir(parents=True, exist_ok=True)
        return self

    def end_others(self) -> None:
        """Remove all other runs, and all other ways of joining this run's tiles."""
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
        """Write a record of JSON facts and arrays; OutputError if writing fails or the run has
        ended.
        """
        commit(self._path(key), _pack(self.run, meta, arrays or {}), root=Path(self.root))

    def load(self, key: str, *names: str, whole: bool = False) -> tuple[dict[str, Any], Arrays]:
        """Read a record's facts and its arrays, all or those named.

        ScratchError if it is absent, damaged or of another run.
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
        """Whether a record of this run exists, and so is complete.

        A damaged one exists, and raises an error when loaded.
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
        """The records in a folder, sorted by name."""
        return tuple(
            f"{folder}/{path.stem}"
            for path in sorted(Path(self.root, self.part, folder).glob("*.rec"))
        )

    def sound(self, key: str) -> bool:
        """Whether a record exists and all of its checksums agree."""
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
        """Remove records or whole folders of them, if they exist."""
        for key in keys:
            path = Path(self.root, self.part, key)
            discard(path if path.is_dir() else self._path(key))

    def file(self, name: str) -> Path:
        """The path of a file that is not a record, in an existing folder.

        FileNotFoundError if the run has ended.
        """
        path = Path(self.root, self.part, name)
        make(path.parent, Path(self.root))
        return path

    def _path(self, key: str) -> Path:
        return Path(self.root, f"{self.part}{key}.rec")


def new_name() -> str:
    """A unique name for a run, or a way of joining."""
    return uuid.uuid4().hex[:16]


def differences(before: Mapping[str, Any], now: Mapping[str, Any], path: str = "") -> list[str]:
    """List the differences of two nested mappings, a line for each key.

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

    # Labels repeat as whole integers: shuffled, they take twice as long and more space. Sums and
    # ids differ in their last bytes only.
    how = blosc.SHUFFLE if array.dtype.itemsize > LABEL else blosc.NOSHUFFLE
    return bytes(blosc.compress(np.ascontiguousarray(array), b"lz4", 5, how))


def _header(file: BinaryIO, path: Path) -> tuple[dict[str, Any], int]:
    """A record's table of contents, and the offset of its arrays."""
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
