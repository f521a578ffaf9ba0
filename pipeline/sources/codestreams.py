"""How large a picture within a TIFF says it is: asked before it is decoded, for decoders take as much memory as it says.

Looked into are JPEG, JPEG 2000, PNG, WebP and LERC. JPEG XL and JPEG XR are not, and fail for want of memory when they lie. What is no
picture (deflate, LZW, Zstandard, …) is decoded into the room of a tile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

ROOM = 2
"""So many times as many rows or columns as a tile may a picture in it have: some writers fill it up."""
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""JPEG's markers of what holds the size."""
SIZE = b"\xff\x4f\xff\x51"
"""How a JPEG 2000 codestream begins: with its size."""


def bounded(decode: Callable[..., Any], rows: int, columns: int) -> Callable[..., Any]:
    """A decoder of tiles that raises ValueError where what it is given says that it is much larger than a tile."""

    def decoded(data: bytes | None, *others: Any, **more: Any) -> Any:
        said = extent(data or b"")
        if said and (said[0] > ROOM * rows or said[1] > ROOM * columns):
            raise ValueError(f"a tile of {rows} x {columns} pixels holds a picture that says it is {said[0]} x {said[1]}")
        return decode(data, *others, **more)

    return decoded


def extent(data: bytes) -> tuple[int, int] | None:
    """Rows and columns of a picture, by its header; None of anything else, or where there is no such header."""
    if data[:2] == b"\xff\xd8":
        return _of_jpeg(data)
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big")
    if data[:6] == b"Lerc2 ":
        at = 10 if int.from_bytes(data[6:10], "little") < 3 else 14  # after a checksum
        return int.from_bytes(data[at : at + 4], "little"), int.from_bytes(data[at + 4 : at + 8], "little")
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _of_webp(data)
    at = data.find(SIZE, 0, 1 << 12)
    if at < 0 or len(data) < at + 24:
        return None
    right, bottom, left, top = (int.from_bytes(data[at + k : at + k + 4], "big") for k in (8, 12, 16, 20))
    return bottom - top, right - left


def _of_webp(data: bytes) -> tuple[int, int] | None:
    """By RFC 9649: an extended file, a lossless or a lossy picture."""
    if data[12:16] == b"VP8X":
        return int.from_bytes(data[27:30], "little") + 1, int.from_bytes(data[24:27], "little") + 1
    if data[12:16] == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    return int.from_bytes(data[28:30], "little") & 0x3FFF, int.from_bytes(data[26:28], "little") & 0x3FFF


def _of_jpeg(data: bytes) -> tuple[int, int] | None:
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        if data[at + 1] in FRAMES:
            return int.from_bytes(data[at + 5 : at + 7], "big"), int.from_bytes(data[at + 7 : at + 9], "big")
        filled = data[at + 1] == 0xFF  # any number of them may stand before a marker
        at += 1 if filled else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None
