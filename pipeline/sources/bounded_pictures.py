"""Read the size that an encoded picture inside a TIFF declares, before it is decoded: decoders
allocate as much memory as the picture declares.

Headers of JPEG, JPEG 2000, JPEG XL, JPEG XR, PNG, WebP and LERC are read. Compressions that are not
picture formats decode into a buffer of the tile's size. Their data may contain any bytes, also
those with which a picture begins, so they are not checked.

Pillow cannot replace this: it allocates the canvas of a WebP when it opens one, and it does not
support 12-bit or lossless JPEG, which imagecodecs decodes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

ROOM = 2
"""A picture may have this many times the rows or columns of its tile: some writers pad it."""
PLAIN = frozenset({1, 2, 3, 4, 5, 8, 32773, 32946, 34925, 34926, 50000, 50013})
"""TIFF's numbers of compressions that are not picture formats: none, CCITT, LZW, deflate, PackBits,
LZMA, Zstandard.
"""
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""JPEG's markers of the segments that hold the size."""
XR = b"WMPHOTO\0"
"""The start of a JPEG XR codestream."""
RATIOS = ((1, 1), (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
"""JPEG XL's ratios of columns to rows that make a second size unnecessary."""
STREAMS = {b"jxlc": 8, b"jxlp": 12}
"""JPEG XL's boxes that hold a codestream or a part of it, and the offset at which that begins."""
SIZE = b"\xff\x4f\xff\x51"
"""The start of a JPEG 2000 codestream, which is followed by its size."""


def bounded(decode: Callable[..., Any], rows: int, columns: int) -> Callable[..., Any]:
    """Wrap a decoder of tiles so that it raises ValueError for a picture that declares to be much
    larger than a tile.

    Parameters
    ----------
    decode
        The decoder; its first argument is the data.
    rows, columns
        The size of a tile.
    """

    def decoded(data: bytes | None, *others: Any, **more: Any) -> Any:
        said = extent(data or b"")
        if said and (said[0] > ROOM * rows or said[1] > ROOM * columns):
            raise ValueError(
                f"a tile of {rows} x {columns} pixels holds a picture that says it is {said[0]} "
                f"x {said[1]}"
            )
        return decode(data, *others, **more)

    return decoded


def extent(data: bytes) -> tuple[int, int] | None:
    """Rows and columns from a picture's header; None if the data is not a picture, or its header is
    incomplete.
    """
    for at, head, said in PICTURES:
        if data[at : at + len(head)] == head:
            return said(data)
    return None


def _of_jpeg(data: bytes) -> tuple[int, int] | None:
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        if data[at + 1] in FRAMES:
            return _two(data, at + 5, 2)
        filled = data[at + 1] == 0xFF  # any number of fill bytes may stand before a marker
        at += 1 if filled else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _of_jpeg_2000(data: bytes) -> tuple[int, int] | None:
    at = data.find(SIZE)
    if at < 0 or len(data) < at + 24:
        return None
    (right, bottom), (left, top) = (_two(data, at + k, 4) for k in (8, 16))
    return bottom - top, right - left


def _of_jpeg_xl(data: bytes) -> tuple[int, int] | None:
    """Rows and columns from the SizeHeader of ISO/IEC 18181-1, in a codestream or in the first box
    with one.
    """
    at = 0
    while data[at : at + 2] != b"\xff\x0a":
        size = int.from_bytes(data[at : at + 4], "big")
        kind = data[at + 4 : at + 8]
        if kind not in STREAMS and size < 8:
            return None
        at += STREAMS.get(kind, size)
    bits = int.from_bytes(data[at + 2 : at + 12], "little")

    def take(number: int) -> int:
        nonlocal bits
        found = bits & (1 << number) - 1
        bits = bits >> number
        return found

    small = take(1)

    def side() -> int:
        return 8 * (take(5) + 1) if small else take((9, 13, 18, 30)[take(2)]) + 1

    rows = side()
    ratio = take(3)
    across, down = RATIOS[ratio]
    return rows, rows * across // down if ratio else side()


def _of_jpeg_xr(data: bytes) -> tuple[int, int] | None:
    """Rows and columns, by ITU-T T.832, 8.3."""
    if (at := data.find(XR)) < 0:
        return None
    columns, rows = _two(data, at + 12, 2 if data[at + 10 : at + 11] >= b"\x80" else 4)
    return rows + 1, columns + 1


def _of_png(data: bytes) -> tuple[int, int]:
    return _two(data, 16, 4)[::-1]


def _of_webp(data: bytes) -> tuple[int, int]:
    """Rows and columns, by RFC 9649, of an extended, a lossless or a lossy picture."""
    if data[12:16] == b"VP8X":
        columns, rows = _two(data, 24, 3, "little")
        return rows + 1, columns + 1
    if data[12:16] == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    columns, rows = _two(data, 26, 2, "little")
    return rows & 0x3FFF, columns & 0x3FFF


def _of_lerc(data: bytes) -> tuple[int, int]:
    # from version 3 on, a checksum comes first
    return _two(data, 10 if int.from_bytes(data[6:10], "little") < 3 else 14, 4, "little")


def _two(
    data: bytes, at: int, width: int, order: Literal["big", "little"] = "big"
) -> tuple[int, int]:
    """Two integers of ``width`` bytes each."""
    return int.from_bytes(data[at : at + width], order), int.from_bytes(
        data[at + width : at + 2 * width], order
    )


PICTURES: tuple[tuple[int, bytes, Callable[[bytes], tuple[int, int] | None]], ...] = (
    (0, b"\xff\xd8", _of_jpeg),
    (0, SIZE, _of_jpeg_2000),
    (4, b"jP  ", _of_jpeg_2000),
    (0, b"\xff\x0a", _of_jpeg_xl),
    (4, b"JXL ", _of_jpeg_xl),
    (0, b"II\xbc", _of_jpeg_xr),
    (0, XR, _of_jpeg_xr),
    (0, b"\x89PNG\r\n\x1a\n", _of_png),
    (8, b"WEBP", _of_webp),
    (0, b"Lerc2 ", _of_lerc),
)
"""Offset in the data, the bytes there that mark a picture format, and the function that reads its
size.
"""
