"""How large a JPEG or a JPEG 2000 says it is: asked before it is decoded, for decoders take as much memory as it says."""

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
    """Rows and columns of a JPEG or a JPEG 2000, by its header; None of anything else, or where there is no such header."""
    if data[:2] == b"\xff\xd8":
        return _of_jpeg(data)
    at = data.find(SIZE, 0, 1 << 12)
    if at < 0 or len(data) < at + 24:
        return None
    right, bottom, left, top = (int.from_bytes(data[at + k : at + k + 4], "big") for k in (8, 12, 16, 20))
    return bottom - top, right - left


def _of_jpeg(data: bytes) -> tuple[int, int] | None:
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        if data[at + 1] in FRAMES:
            return int.from_bytes(data[at + 5 : at + 7], "big"), int.from_bytes(data[at + 7 : at + 9], "big")
        filled = data[at + 1] == 0xFF  # any number of them may stand before a marker
        at += 1 if filled else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None
