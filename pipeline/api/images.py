"""What is known of an image: `info`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.api.facts import Facts
from pipeline.errors import JobError
from pipeline.sources import open_source
from pipeline.sources.inspection import inspected, shown


class ImageFacts(Facts):
    """What `info` knows of an image, by name: ``shape``, ``bands``, ``dtype``, ``crs``, …."""

    def shown(self) -> dict[str, Any]:
        """Give the facts as people read them: sizes in words, the CRS by its name.

        Returns
        -------
        dict
            From names to what YAML can hold.
        """
        return shown(self)


def info(
    image: Any,
    *,
    axes: str | None = None,
    planes: int | str | None = None,
    time: int | None = None,
    bands: Sequence[int | str] | None = None,
    nodata: float | None = None,
) -> ImageFacts:
    """Say what an image is, as it is read with these options.

    Parameters
    ----------
    image
        A path or an address, a NumPy or Dask array, an xarray DataArray, or a mapping with ``path``
        and the reader's options (``kind``, ``level``, …).
    axes
        The axes of an array, one letter each, such as ``"zyx"`` or ``"cyx"``.
    planes
        The plane that is taken, from 0, or ``"all"`` for a volume.
    time
        The time that is taken, from 0.
    bands
        The bands that are taken, by number from 1 or by name; None: all.
    nodata
        The value of pixels that were not measured; None: what the file says.

    Returns
    -------
    ImageFacts
        A mapping: shape (plane, row, column), bands, dtype, place, levels, what was not measured,
        and more. It prints as ``tilewise info`` does.

    Raises
    ------
    SourceError
        There is no such image, or it cannot be read.
    JobError
        An option is unknown or does not fit the image.

    Examples
    --------
    >>> import numpy as np
    >>> facts = info(np.zeros((40, 60), np.uint8))
    >>> facts["shape"], facts["dtype"]
    ((40, 60), 'uint8')
    """
    asked = with_reader(image, axes=axes, planes=planes, time=time, bands=bands, nodata=nodata)
    options = dict(asked) if isinstance(asked, Mapping) else {"path": asked}
    if "path" not in options:
        raise JobError("image: the mapping has no path; allowed: {path: …} and reader's options")
    given = options.pop("path")
    return ImageFacts(inspected(_name_of(given), open_source(given, **options)))


def with_reader(image: Any, **options: Any) -> Any:
    """Join an image and the options of its reader.

    Parameters
    ----------
    image
        A path or an address, an array, or a mapping with ``path`` and options of the reader.
    **options
        More options of the reader. Those that are None count as not given; the others take the
        place of options in the mapping.

    Returns
    -------
    object
        ``image`` itself where no option is given; otherwise a mapping with ``path`` and the
        options, as a job's ``source`` is written.
    """
    given = {key: value for key, value in options.items() if value is not None}
    if not given:
        return image
    return {**(image if isinstance(image, Mapping) else {"path": image}), **given}


def _name_of(image: Any) -> str:
    if isinstance(image, (str, os.PathLike)):
        return os.fspath(image)
    if isinstance(image, (list, tuple)):
        return ", ".join(map(_name_of, image))
    return f"{type(image).__module__}.{type(image).__name__}"
