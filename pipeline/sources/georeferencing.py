"""Where a raster lies: by its own transform, by a world file, or by ground control points where one
transform fits them all.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import SourceError
from pipeline.image.frame import Pins
from pipeline.image.transform import determinant, pixel_size, resized
from pipeline.sources import sidecars

FIT = 0.5
"""Pixels by which an affine transform may miss a ground control point and still stand for all of
them.
"""
LARGEST = 1 << 16
"""Bytes of a file that names a coordinate reference system."""


def place(path: str, file: Any, shape: tuple[int, ...]) -> dict[str, Any]:
    """What a frame says of where an image lies.

    Parameters
    ----------
    path
        The file's.
    file
        It, as rasterio opens it at full resolution. What rasterio says of an overview's place is
        not asked for: of a file without a transform it is memory that nobody has written to.
    shape
        (row, column) of the level that is read, which covers the same ground.

    Returns
    -------
    dict
        CRS, transform, pixel size and unit; nothing where the file has no transform, or has the
        identity, which stands for none.

    Raises
    ------
    SourceError
        If the file with the CRS beside it cannot be understood, or contradicts the transform.
    """
    crs = file.crs
    transform = file.transform
    if transform is None or transform.is_identity:
        crs, transform = _fitted(*file.gcps) if file.gcps[0] else (None, None)
    if transform is None:
        return {}
    crs = crs or _beside(path, file)
    down = file.height / shape[0]
    across = file.width / shape[1]
    level = resized(tuple(transform)[:6], down, across)
    unit = (
        "unknown"
        if crs is None
        else "degree"
        if crs.is_geographic
        else str(crs.linear_units).lower()
    )
    return {
        "transform": level,
        "crs": crs.to_wkt() if crs else None,
        "pixel_size": pixel_size(level),
        "unit": unit,
    }


def pins(file: Any) -> Pins | None:
    """What places a file, at the level that it is opened at, where no transform does; None where
    there is no such thing.
    """
    points, crs = file.gcps
    model = file.rpcs
    if not points and model is None:
        return None
    found = tuple((p.row, p.col, p.x, p.y, p.z or 0.0) for p in points)
    return Pins(
        found,
        crs.to_wkt() if crs else None,
        tuple(sorted(model.to_gdal().items())) if model else (),
    )


def _fitted(points: Any, crs: Any) -> tuple[Any, Any]:
    """The CRS and affine transform that ground control points give, by least squares; (None, None)
    where it misses one by more than FIT.
    """
    known = np.array([(p.col, p.row, 1.0) for p in points])
    places = np.array([(p.x, p.y) for p in points])
    if len(points) < 3 or np.linalg.matrix_rank(known) < 3:
        return None, None
    solved = np.linalg.lstsq(known, places, rcond=None)[0]
    transform = (*solved[:, 0].tolist(), *solved[:, 1].tolist())
    if determinant(transform) == 0:
        return None, None
    missed = np.linalg.solve(solved[:2].T, (places - known @ solved).T)
    return (crs, transform) if np.abs(missed).max() <= FIT else (None, None)


def _beside(path: str, file: Any) -> Any:
    """The CRS that a file beside names, of one that has a transform and names none; None where
    there is no such file.
    """
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    name = sidecars.system(path, file)
    if name is None:
        return None
    try:
        text = Path(name).read_bytes()[: LARGEST + 1]
        crs = CRS.from_wkt(text.decode("utf-8-sig"), morph_from_esri_dialect=True)
    except (CRSError, UnicodeDecodeError, OSError) as error:
        raise SourceError(
            f"{name} names no coordinate reference system: {error}; mend it, or take it away"
        ) from error
    reached = (
        max(abs(file.bounds.top), abs(file.bounds.bottom)) * crs.units_factor[1]
        if crs.is_geographic
        else 0.0
    )
    if reached > np.pi / 2 + 1e-3:
        where = ", ".join(f"{edge:.10g}" for edge in file.bounds)
        raise SourceError(
            f"{name} names degrees, and {path} lies at {where}; allowed: the image's own CRS; "
            f"mend one of the two"
        )
    return crs
