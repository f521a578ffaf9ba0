"""Copy an image that every worker process would hold whole into a file from which all read boxes.

That is an image in memory, or one that can only be unpacked in one piece. It is written once into
the run's scratch store, which every worker reaches, and only the file's name travels to the
workers. They open the file for each read: so a worker holds only the box in memory, and the file
can be removed at any time.
"""

from __future__ import annotations

import contextlib
import functools
import math
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import OutputError, SourceError
from pipeline.image.frame import Frame
from pipeline.image.grid import Box
from pipeline.sources.contract import MASK, HeldWhole, Source, everywhere, known_mask, mask_name

LEAST = 1 << 20
"""Images of at most this many bytes are sent to the workers as they are."""
AT_ONCE = 1 << 26
"""How many bytes are copied at once."""


@dataclass(frozen=True, slots=True)
class NpyFile:
    """An array in a .npy file."""

    path: str
    shape: tuple[int, ...]
    dtype: str

    def part(self, box: Box, step: int) -> npt.NDArray[Any]:
        """Every ``step``-th element of a box, which spans all axes but the first; SourceError if
        the file does not exist or holds another array.
        """
        try:
            there = np.load(self.path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise SourceError(
                f"the image, which was written to {self.path}, cannot be read: {error}; every "
                f"worker has to reach the folder of the run"
            ) from error
        if (there.shape, there.dtype.name) != (self.shape, self.dtype):
            raise SourceError(
                f"{self.path} holds {there.dtype} of {there.shape}, and not the image, "
                f"{self.dtype} of {self.shape}"
            )
        return np.array(
            there[
                (
                    slice(None),
                    *(slice(a, b, step) for a, b in zip(box.start, box.stop, strict=True)),
                )
            ]
        )


@dataclass(frozen=True)
class StowedImage:
    """An image in a file that belongs to the run."""

    frame: Frame
    """The image's frame."""

    pixels: NpyFile
    """(band, row, column) or (band, plane, row, column)."""

    known: NpyFile | None
    """The mask, bool: the same axes, with one band if all bands share it; None: no mask."""

    facts: dict[str, Any]
    """The fingerprint of the original image."""

    masked_by: str = MASK
    """What the mask is derived from."""

    def read(self, box: Box) -> npt.NDArray[Any]:
        """The pixels in a box."""
        return self.pixels.part(box, 1)

    def glance(self, box: Box, step: int) -> npt.NDArray[Any]:
        """Every ``step``-th pixel."""
        return self.pixels.part(box, step)

    def mask(self, box: Box, step: int = 1) -> npt.NDArray[np.bool_]:
        """The mask of a box, besides what the values say."""
        return everywhere(box, step) if self.known is None else self.known.part(box, step)

    def fingerprint(self) -> dict[str, Any]:
        """The fingerprint of the original image."""
        return dict(self.facts)


@contextlib.contextmanager
def stowed(source: Source, folder: Path) -> Iterator[Source]:
    """Give the image that workers read: the image itself, or a copy in ``folder`` if each worker
    would hold it whole. The copy is removed at the end.

    Whether a source is held whole, and how many bytes that takes, it says by ``source.held``.

    Raises
    ------
    OutputError
        If the copy cannot be written.
    """
    held = source.held if isinstance(source, HeldWhole) else 0
    if held <= LEAST:
        yield source
        return
    shutil.rmtree(folder, ignore_errors=True)  # left by a run that died
    try:
        yield _copied(source, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _copied(source: Source, folder: Path) -> StowedImage:
    frame = source.frame
    try:
        folder.mkdir(parents=True)
        pixels = _written(folder, (len(frame.bands), *frame.shape), frame.dtype, source.read)
        known = None
        first = known_mask(source, Box((0,) * frame.ndim, (1,) * frame.ndim))
        if first is not None:
            read_mask = functools.partial(known_mask, source)
            known = _written(folder, (len(first), *frame.shape), "bool", read_mask)
    except OSError as error:
        if isinstance(error, SourceError):
            raise
        raise OutputError(
            f"{folder} cannot be written: {error.strerror or error}; make room for a copy of the "
            f"image, {frame.nbytes >> 20} MiB, "
            "or choose another folder: output.scratch"
        ) from error
    return StowedImage(
        replace(frame, chunks=frame.shape),
        pixels,
        known,
        source.fingerprint(),
        mask_name(source),
    )


def _written(folder: Path, shape: tuple[int, ...], dtype: str, read: Any) -> NpyFile:
    """Write a file in slabs along the first axis of space.

    Parameters
    ----------
    folder
        Where the file goes, with a random name.
    shape
        The shape of the array: its first axis is the bands.
    dtype
        The dtype of the array.
    read
        Reads a box.
    """
    path = folder / f"{uuid.uuid4().hex}.npy"
    line = math.prod(shape[2:]) * np.dtype(dtype).itemsize
    thick = max(1, AT_ONCE // (line * shape[0]))
    with path.open("xb") as file:
        about = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_2_0(file, about)
        begin = file.tell()
        for first in range(0, shape[1], thick):
            last = min(first + thick, shape[1])
            block = read(Box((first, *(0 for _ in shape[2:])), (last, *shape[2:])))
            for band, values in enumerate(block):
                file.seek(begin + (band * shape[1] + first) * line)
                file.write(np.ascontiguousarray(values, dtype).data)
    return NpyFile(str(path), shape, dtype)
