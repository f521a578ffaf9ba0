"""What a file may declare of its size: checked before any memory is taken for it.

A header of a few bytes may declare any number of pixels. Decoders take as much memory as a block
declares, so that every reader asks here first.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import SourceError

MOST_BANDS = 4096
LARGEST_BLOCK = 1 << 30
"""Bytes of what is decoded whole: a tile, a strip, a chunk, a page in one piece."""
LARGEST_PICTURE = 1 << 30
"""Values (pixels times bands) of a picture, which is decoded whole."""
LEAST_PER_BLOCK = 4
"""Bytes that each block of a TIFF takes in the file, whatever it holds: those of its offset."""
MOST_IN_SHARD = 1 << 22
"""Chunks in one shard, whose index is read whole."""


def check_bands(path: str, number: int) -> None:
    """SourceError where a file declares too many bands, or none."""
    if number > MOST_BANDS:
        raise SourceError(f"{path} declares {number} bands; allowed: up to {MOST_BANDS}")
    if number == 0:
        raise SourceError(f"{path} has no bands")


def check_block(declared: str, nbytes: int, hint: str = "") -> None:
    """SourceError where a block takes too much memory.

    Parameters
    ----------
    declared
        The begin of the message: the file and its blocks.
    nbytes
        What a decoded block takes.
    hint
        The end of the message: what to do.
    """
    if nbytes > LARGEST_BLOCK:
        raise SourceError(
            f"{declared}, {nbytes / 2**30:.3g} GiB each; allowed: up to {LARGEST_BLOCK >> 30} GiB"
            f"{hint}"
        )


def check_shard(path: str, number: int) -> None:
    """SourceError where a shard of a Zarr array holds too many chunks."""
    if number > MOST_IN_SHARD:
        raise SourceError(
            f"{path} is stored in shards of {number} chunks; allowed: up to {MOST_IN_SHARD}; "
            f"write it anew"
        )


def check_fits(declared: str, needed: int, stored: int, most: int | None = None) -> None:
    """SourceError where a file declares more than it can hold.

    Parameters
    ----------
    declared
        The begin of the message: the file and what it declares.
    needed
        The bytes of the file that this takes at least.
    stored
        The bytes of the file.
    most
        The bytes that these can stand for, where they are packed; None: as many.
    """
    if needed > (stored if most is None else most):
        raise SourceError(f"{declared}, more than a file of {stored} bytes can hold")


def check_text(path: str, what: str, most: int) -> None:
    """SourceError where a file of text, which is read whole, has too many bytes."""
    if (size := Path(path).stat().st_size) > most:
        raise SourceError(f"{path} has {size} bytes; allowed for {what}: {most}")
