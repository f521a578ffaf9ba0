"""Whether the files that a job asks for can hold what is made of an image; said before any work."""

from __future__ import annotations

from pipeline.errors import JobError
from pipeline.frame import Frame
from pipeline.job import Output

SMALL = "uint32"
"""The largest type of labels that an OME-TIFF holds."""


def refuse(output: Output, frame: Frame) -> None:
    """JobError if a file that is asked for is of no use for such an image."""
    if "cog" in output.labels and frame.ndim != 2:
        raise JobError("output.labels: cog of a volume; allowed: zarr, which holds volumes, and ome-tiff")
    if "ome-tiff" in output.labels and frame.transform is not None:
        raise JobError("output.labels: ome-tiff, in which the image's place in the world would be lost; allowed: zarr, cog")


def dtype(output: Output) -> str | None:
    """The type that labels must fit into, if there is one: the job's, or the largest that its files hold."""
    return output.dtype or (SMALL if "ome-tiff" in output.labels else None)
