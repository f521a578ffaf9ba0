"""Coordinates of annotation files as rows and columns of an image.

A file with a coordinate reference system (CRS) is reprojected into the image's. GeoJSON without one
is in longitude and latitude (RFC 7946), or in pixels for an image without georeference, as QuPath
writes it. If a file does not say, or says something impossible, the user must: ``crs: pixels``,
``crs: image`` for the image's own CRS, or any other CRS.

References
----------
.. [1] RFC 7946 (GeoJSON), section 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import JobError
from pipeline.image.frame import Frame

Coordinates = npt.NDArray[np.float64]
PIXELS = "pixels"
IMAGE = "image"
"""Words in place of a CRS: rows and columns; the image's own CRS."""
DEGREES = (180.0, 90.0)
"""The greatest longitude and latitude."""
FAR = 0.01
"""Pixels by which the corners of two rasters may differ on the same grid."""


@dataclass(frozen=True, slots=True)
class Said:
    """What is known of the CRS of coordinates."""

    what: str
    """The file's name in messages."""

    crs: str | None
    """The file's CRS; None: it does not say."""

    stated: bool = True
    """Whether the file says so itself, not a standard's default."""

    asked: str | None = None
    """The user's choice, which overrides the file: ``pixels``, ``image`` or a CRS."""


def in_pixels(places: Coordinates, said: Said, frame: Frame) -> Coordinates:
    """Convert coordinates to pixels from the upper left corner of the image's first pixel.

    Parameters
    ----------
    places : float ndarray, (n, 2)
        Pairs of x and y.
    said : Said
        What is known of their CRS.
    frame : Frame
        The image.

    Returns
    -------
    float64 ndarray, (n, 2)
        Pairs of x along columns and y along rows.

    Raises
    ------
    JobError
        The CRS is unknown or impossible; the message says what to state.
    """
    system = _system(places, said, frame)
    if system == PIXELS or not len(places):
        return places
    if system != IMAGE:
        places = _reprojected(places, system, said, frame)
    row, column = frame.pixels_at(*places.T)
    return np.stack([column, row], axis=1)


def refuse_grid(other: Frame, frame: Frame, what: str) -> None:
    """Raise JobError if a raster is not on the image's grid, as far as both are georeferenced."""
    if other.shape != frame.shape:
        raise JobError(
            f"{what}: a raster of {_by(other.shape)} pixels; allowed: the image's "
            f"{_by(frame.shape)}"
        )
    if (
        other.crs is not None
        and frame.crs is not None
        and (theirs := _crs(other.crs, what)) != (mine := _crs(frame.crs, "the image"))
    ):
        raise JobError(
            f"{what}: in the CRS {_short(theirs)}; allowed: the image's, {_short(mine)}; warp it "
            f"to the image's grid (gdalwarp)"
        )
    if other.transform is not None and frame.transform is not None:
        rows, columns = np.array([[0, 0], [0, other.shape[-1]], [other.shape[-2], 0]], np.float64).T
        found = np.stack(frame.pixels_at(*other.place(rows, columns)))
        if (off := float(np.abs(found - np.stack([rows, columns])).max())) > FAR:
            raise JobError(
                f"{what}: its corners lie up to {off:.4g} pixels off the image's, at "
                f"{other.transform} and {frame.transform}; "
                "allowed: a raster of the image's grid; warp it (gdalwarp -te -ts)"
            )


def refuse_outside(
    low: npt.NDArray[Any], high: npt.NDArray[Any], frame: Frame, hint: str = ""
) -> None:
    """Raise JobError if a range of (row, column) lies outside the image."""
    outside = ((high < 0) | (low >= np.array(frame.shape))).any(axis=1) | (
        (low < 0) & (high <= 0)
    ).any(axis=1)
    if outside.any():
        first = tuple(low[outside][0].astype(int).tolist())
        raise JobError(
            f"{int(outside.sum())} of {len(low)} lie outside the image, the first at pixel "
            f"{first}; "
            f"allowed: 0 up to {_by(frame.shape)}{hint}"
        )


def read_as(places: Coordinates, said: Said, frame: Frame) -> str:
    """Describe how coordinates were interpreted: the end of a message that they lie outside."""
    system = _system(places, said, frame)
    if said.asked is not None:
        return ""
    if system == PIXELS and len(places) and (places[:, 1] <= 0).all():
        return (
            "; rows are counted down from 0, and these are negative, as QGIS has them: write "
            "y without the sign"
        )
    words = {PIXELS: "pixels", IMAGE: "the image's coordinates"}.get(
        system
    ) or f"coordinates in {_short(_crs(system, said.what))}"
    usual = "" if said.stated else ", as GeoJSON is that names no CRS"
    return f"; they are taken for {words}{usual}; if they are others, say so: crs"


def _system(places: Coordinates, said: Said, frame: Frame) -> str:
    """``pixels``, ``image`` or a CRS; JobError if it is unknown."""
    if said.asked is not None:
        return _asked(said, frame)
    crs = said.crs if said.crs is not None and _is_of_the_earth(said) else None
    placed = frame.transform is not None
    if crs is not None and said.stated:
        if frame.crs is None or not placed:
            named = _short(_crs(crs, said.what))
            raise JobError(
                f"{said.what}: in the CRS {named}, and the image has none; allowed: pixels; "
                f"where they are, crs: pixels"
            )
        return crs
    if not placed:
        return PIXELS
    if frame.crs is None:
        return _told_by_extent(places, said, frame)
    if crs is not None and (np.abs(places) <= DEGREES).all():
        return crs
    raise JobError(f"{said.what}: {_doubt(places, crs)}; {_choices(frame)}")


def _asked(said: Said, frame: Frame) -> str:
    asked = str(said.asked)
    if asked == PIXELS:
        return PIXELS
    if frame.transform is None or (frame.crs is None and asked != IMAGE):
        raise JobError(
            f"crs: {asked!r}; the image has no place that is known; allowed: "
            f"pixels{', image' if frame.transform else ''}"
        )
    if asked != IMAGE:
        _crs(asked, "crs")
    return asked


def _told_by_extent(places: Coordinates, said: Said, frame: Frame) -> str:
    """For an image without a known CRS: pixels or the image's coordinates, whichever fit it.

    JobError if both do.
    """
    rows, columns = frame.shape[-2:]
    row, column = frame.pixels_at(*places.T)
    fits = {
        PIXELS: _lies(places[:, 1], places[:, 0], rows, columns),
        IMAGE: _lies(row, column, rows, columns),
    }
    found = [system for system, fit in fits.items() if fit]
    if len(found) == 1:
        return found[0]
    both = "both do lie" if found else "neither lie"
    raise JobError(
        f"{said.what} does not say whether it is in pixels or in the image's coordinates, and "
        f"{both} on it; {_choices(frame)}"
    )


def _lies(row: Coordinates, column: Coordinates, rows: int, columns: int) -> bool:
    """Whether all positions lie in an image or on its edge."""
    return bool(((row >= -1) & (row <= rows + 1) & (column >= -1) & (column <= columns + 1)).all())


def _doubt(places: Coordinates, crs: str | None) -> str:
    first = tuple(places[np.abs(places).max(axis=1).argmax()].tolist())
    if crs is None:
        return "it does not say what its coordinates are in"
    return f"it names no CRS, and {first} is no longitude and latitude, which GeoJSON then is in"


def _choices(frame: Frame) -> str:
    mine = f" ({_short(_crs(frame.crs, 'the image'))})" if frame.crs else ""
    return f"say it: crs: pixels, crs: image, for the image's own{mine}" + (
        ", or another, such as crs: EPSG:4326" if frame.crs else ""
    )


def _reprojected(places: Coordinates, system: str, said: Said, frame: Frame) -> Coordinates:
    from rasterio.warp import transform

    theirs = _crs(system, said.what)
    mine = _crs(frame.crs or "", "the image")
    if theirs == mine:
        return places
    moved = np.array(transform(theirs, mine, *places.T.tolist()), np.float64).T
    if not np.isfinite(moved).all():
        first = tuple(places[~np.isfinite(moved).all(axis=1)][0].tolist())
        raise JobError(
            f"{said.what}: {first} in {_short(theirs)} has no place in the image's CRS, "
            f"{_short(mine)}"
        )
    return moved


def _is_of_the_earth(said: Said) -> bool:
    """Whether a CRS refers to the earth; GeoPackage calls those that do not undefined."""
    found = _crs(str(said.crs), said.what)
    return bool(found.is_geographic or found.is_projected)


def _crs(given: str, what: str) -> Any:
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    try:
        return CRS.from_user_input(given)
    except CRSError as error:
        raise JobError(f"{what}: {given!r} is no CRS: {error}") from error


def _short(crs: Any) -> str:
    return str(crs.to_string())[:60]


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
