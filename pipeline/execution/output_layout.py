"""How labels are laid out in files, in chunks and shards. What a file cannot hold is refused before
any work is done.
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
    """JobError if a file that the job asks for cannot hold the labels of such an image."""
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
    """The type that ids must fit into: the job's, or the largest that its files hold. None: any."""
    return output.dtype or (SMALL if "ome-tiff" in output.labels else None)


def whole(output: Output, tile: Sequence[int], shape: Sequence[int]) -> tuple[int, ...]:
    """The largest tile within this one that is a whole number of shards, or chunks, where the job
    gives these; at least one of them.

    Parameters
    ----------
    output
        What the job says.
    tile, shape
        The extent of a tile and of the image along each axis, in pixels.
    """
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
    """The extent of a chunk, and of a shard if there are any, along each axis in pixels.

    A shard, or where there are none a chunk, is written whole by one task. So a tile is a whole
    number of them along each axis, unless it holds the whole image along that axis.

    Parameters
    ----------
    output
        What the job says.
    tile, shape
        The extent of a tile and of the image along each axis, in pixels.

    Raises
    ------
    JobError
        If a tile is no whole number of shards or chunks, or a shard no whole number of chunks.
    """
    chunk = _chunk(output, tile, shape)
    shard = _shard(output, chunk, tile, shape)
    if shard is not None:
        if any(extent % unit for extent, unit in zip(shard, chunk, strict=True)):
            raise JobError(
                f"output.shard: {_by(shard)} with chunks of {_by(chunk)}; allowed: whole chunks"
            )
        _refuse_shared("shard", shard, tile, shape)
    _refuse_shared("chunk", chunk, tile, shape)
    return chunk, shard


def _chunk(output: Output, tile: Sequence[int], shape: Sequence[int]) -> tuple[int, ...]:
    """The extent of a chunk: as the job says, or one that divides a shard or a tile."""
    ndim = len(shape)
    longest = CHUNK[ndim]
    if output.chunk != "auto":
        return _each("output.chunk", output.chunk, ndim)
    if output.shard not in (None, "auto"):
        shard = _each("output.shard", output.shard, ndim)
        return tuple(_divisor(size, longest) for size in shard)
    return tuple(
        min(size, longest) if size >= n else _divisor(size, longest)
        for size, n in zip(tile, shape, strict=True)
    )


def _shard(
    output: Output, chunk: Sequence[int], tile: Sequence[int], shape: Sequence[int]
) -> tuple[int, ...] | None:
    """The extent of a shard, if there are any: as the job says, or that of a tile, in whole chunks;
    see `layout`.
    """
    if output.shard is None:
        return None
    if output.shard != "auto":
        return _each("output.shard", output.shard, len(shape))
    # a tile that holds the image along an axis may be no whole number of chunks; a shard must be
    return tuple(
        -(-size // unit) * unit if size >= n else size
        for size, unit, n in zip(tile, chunk, shape, strict=True)
    )


def _refuse_shared(
    key: str, unit: Sequence[int], tile: Sequence[int], shape: Sequence[int]
) -> None:
    """JobError if two tiles would write to one chunk or shard.

    Parameters
    ----------
    key
        ``chunk`` or ``shard``.
    unit, tile, shape
        The extent of a chunk or shard, of a tile and of the image along each axis, in pixels.
    """
    if any(size < n and size % u for size, u, n in zip(tile, unit, shape, strict=True)):
        raise JobError(
            f"output.{key}: {_by(unit)} with tiles of {_by(tile)}, so that two tiles would "
            f"write one {key}; allowed: an extent that divides a tile's"
        )


def _each(key: str, given: Any, ndim: int) -> tuple[int, ...]:
    if isinstance(given, int):
        return (given,) * ndim
    if len(given) != ndim:
        raise JobError(
            f"{key}: {given}; allowed: one number, or {ndim} for an image of {ndim} axes"
        )
    return tuple(given)


def _divisor(extent: int, most: int) -> int:
    """The largest divisor of an extent that is at most ``most``; the extent itself where that
    divisor is less than a quarter of what is possible.
    """
    best = max(d for d in range(1, min(extent, most) + 1) if extent % d == 0)
    return best if 4 * best >= min(extent, most) else extent


def _by(extent: Sequence[int]) -> str:
    return " x ".join(map(str, extent))
