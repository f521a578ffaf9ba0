"""What tells one file from another, at a bounded cost. No fingerprint holds a time: clocks differ,
and copies are the same image.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

from pipeline.storage.locations import remote

WHOLE = 64 << 20
"""Files of up to this many bytes are read whole."""
BLOCK = 1 << 16
BLOCKS = 64


def of_bytes(data: memoryview) -> int:
    """CRC-32 of the data, or of BLOCKS blocks spread evenly over them where they are longer than
    WHOLE.
    """
    crc = 0
    for start, stop in _spans(data.nbytes):
        crc = zlib.crc32(data[start:stop], crc)
    return crc


def of_file(path: Path) -> dict[str, Any]:
    """A file's size, and the CRC-32 of it or of an even sample of it, head and tail included."""
    size = path.stat().st_size
    crc = 0
    with path.open("rb") as file:
        for start, stop in _spans(size):
            file.seek(start)
            crc = zlib.crc32(file.read(stop - start), crc)
    return {"bytes": size, "crc32": crc}


def stamp(path: str) -> tuple[int, int, int]:
    """What changes when a file is written anew: what is kept open, or decoded, of the one before
    must not be taken for it.
    """
    if remote(
        path
    ):  # taken to stay as it is while a process reads it; a run looks at its fingerprint once more
        return 0, 0, 0
    about = Path(path).stat()
    return about.st_ino, about.st_mtime_ns, about.st_size


def _spans(size: int) -> list[tuple[int, int]]:
    if size <= WHOLE:
        return [(at, min(at + (1 << 22), size)) for at in range(0, size, 1 << 22)]
    return [(at, at + BLOCK) for at in (k * (size - BLOCK) // (BLOCKS - 1) for k in range(BLOCKS))]
