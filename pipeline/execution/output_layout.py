"""How labels are laid out in files, and whether the files that a job asks for can hold what is made
of an image; said before any work.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.errors import JobError
from pipeline.image.frame import Frame
from pipeline.jobs.job import Output

CHUNK = {2: 1024, 3: 128}
"""The longest extent of a chunk, unless the job says otherwise."""
SMALL = "uint32"
"""The largest type of labels that an OME-TIFF holds."""


def refuse(output: Output, frame: Frame) -> None:
    """JobError if a file that is asked for is of no use for such an image."""
    if "cog" in output.labels and frame.ndim != 2:
        raise JobError(
            "output.labels: cog of a volume; allowed: zarr, which holds volumes, and ome-tiff"
        )
    if "ome-tiff" in output.labels and frame.transform is not None:
        raise JobError(
            "output.labels: ome-tiff, in which the image's place in the world would be lost; "
            "allowed: zarr, cog"
        )
    if "ome-tiff" in output.labels and output.dtype == "uint64":
        raise JobError(
            "output.dtype: uint64 with ome-tiff, which has no such type; allowed: uint32"
        )
    if output.shard is not None and output.ome_zarr == "0.4":
        raise JobError(
            f"output.shard: {output.shard!r} with ome_zarr: 0.4, which has no shards; allowed: "
            f"0.5, or no shard"
        )


def dtype(output: Output) -> str | None:
    """The type that labels must fit into, if there is one: the job's, or the largest that its files
    hold.
    """
    return output.dtype or (SMALL if "ome-tiff" in output.labels else None)


def whole(output: Output, tile: Sequence[int], shape: Sequence[int]) -> tuple[int, ...]:
    """About the same tile, of whole shards, or chunks, where the job gives these."""
    asked = output.chunk if output.shard in (None, "auto") else output.shard
    if asked == "auto":
        return tuple(tile)
    units = _each("output.chunk", asked, len(shape))
    return tuple(
        min(n, max(size // unit, 1) * unit)
        for size, unit, n in zip(tile, units, shape, strict=True)
    )


def layout(
    output: Output, tile: Sequence[int], shape: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """The extent of a chunk and of a shard along each axis.

    A shard, or where there are none a chunk, is written whole by one task: a tile that does not
    hold the image along an axis is a whole number of them.

    Parameters
    ----------
    output
        What the job says.
    tile, shape
        The extent of a tile and of the image along each axis, in pixels.

    Raises
    ------
    JobError
        Where a tile is no whole number of shards or chunks, or a shard none of chunks.
    """
    ndim, most = len(shape), CHUNK[len(shape)]
    shard = None if output.shard in (None, "auto") else _each("output.shard", output.shard, ndim)
    if output.chunk != "auto":
        chunk = _each("output.chunk", output.chunk, ndim)
    elif shard is not None:
        chunk = tuple(_divisor(size, most) for size in shard)
    else:
        chunk = tuple(
            min(size, most) if size >= n else _divisor(size, most)
            for size, n in zip(tile, shape, strict=True)
        )
    if (
        output.shard == "auto"
    ):  # a tile that holds the image need be no whole number of chunks, and its shard is
        shard = tuple(
            -(-size // c) * c if size >= n else size
            for size, c, n in zip(tile, chunk, shape, strict=True)
        )
    if shard is not None and any(s % c for s, c in zip(shard, chunk, strict=True)):
        raise JobError(
            f"output.shard: {_by(shard)} with chunks of {_by(chunk)}; allowed: whole chunks"
        )
    for key, unit in (("shard", shard), ("chunk", chunk)):
        if unit is not None and any(
            size < n and size % u for size, u, n in zip(tile, unit, shape, strict=True)
        ):
            raise JobError(
                f"output.{key}: {_by(unit)} with tiles of {_by(tile)}, so that two tiles would "
                f"write one {key}; "
                f"allowed: an extent that divides a tile's"
            )
    return chunk, shard


def _each(key: str, given: Any, ndim: int) -> tuple[int, ...]:
    if isinstance(given, int):
        return (given,) * ndim
    if len(given) != ndim:
        raise JobError(
            f"{key}: {given}; allowed: one number, or {ndim} for an image of {ndim} axes"
        )
    return tuple(given)


def _divisor(extent: int, most: int) -> int:
    """The largest divisor of an extent that is no more than ``most``; the extent itself where that
    is less than a quarter of it.
    """
    best = max(d for d in range(1, min(extent, most) + 1) if extent % d == 0)
    return best if 4 * best >= min(extent, most) else extent


def _by(extent: Sequence[int]) -> str:
    return " x ".join(map(str, extent))
