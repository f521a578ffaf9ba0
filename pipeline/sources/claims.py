"""How large a compressed chunk says that it becomes: asked before it is decoded, for decoders take as much memory as it says."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOM = 8
"""So many times a chunk's bytes may its file hold when it is unpacked: filters may have widened its numbers."""
LITTLE = 1 << 16
"""Bytes that any chunk may become."""
ZSTD = b"\x28\xb5\x2f\xfd"


def refuse(file: Path, codecs: Sequence[Any], expected: int) -> None:
    """ValueError where the file of a chunk says that it becomes much more than the ``expected`` bytes. What says nothing passes."""
    names = [type(codec).__name__.lower() for codec in codecs]
    packed = next((name for name in reversed(names) if "crc32" not in name), "")
    summed = bool(names) and "crc32" in names[-1]
    try:
        with file.open("rb") as stream:
            head, size = stream.read(18), os.fstat(stream.fileno()).st_size
            stream.seek(max(0, size - (8 if summed else 4)))
            tail = stream.read(4)
    except FileNotFoundError:  # it was never written
        return
    said = _said(packed, head, tail)
    if said > max(ROOM * expected, LITTLE):
        raise ValueError(f"{file.name} says that it becomes {said} bytes, and a chunk has {expected}")


def _said(packed: str, head: bytes, tail: bytes) -> int:
    """The bytes that a compressed chunk becomes by its own account; 0 where it gives none.

    References
    ----------
    RFC 8878, 3.1.1.1 (Zstandard's frame header); RFC 1952, 2.3.1 (gzip's ISIZE); Blosc 1's header, README_CHUNK_FORMAT.rst.
    """
    if "zstd" in packed and head[:4] == ZSTD and len(head) > 5:
        flags = head[4]
        single, width = flags >> 5 & 1, (1 if flags >> 5 & 1 else 0, 2, 4, 8)[flags >> 6]
        at = 6 - single + (0, 1, 2, 4)[flags & 3]
        return int.from_bytes(head[at : at + width], "little") + (256 if width == 2 else 0)
    if "gzip" in packed:
        return int.from_bytes(tail, "little")
    if "blosc" in packed:
        return int.from_bytes(head[4:8], "little")
    return int.from_bytes(head[:4], "little") if packed == "lz4" else 0
