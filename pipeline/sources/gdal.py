"""Files that GDAL opens: by which drivers, within which limits, and once per thread."""

from __future__ import annotations

import functools
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import JobError, SourceError
from pipeline.sources import sidecars
from pipeline.sources.declared_sizes import LEAST_PER_BLOCK, check_bands, check_block, check_fits
from pipeline.sources.fingerprints import of_file, stamp
from pipeline.sources.unsupported import told
from pipeline.sources.vrt import HEAD, MARK, is_vrt, sources_of
from pipeline.storage.locations import about, gdal, remote
from pipeline.storage.locations import settings as gdal_settings

MARKS = {
    b"II*\0": "GTiff",
    b"MM\0*": "GTiff",
    b"II+\0": "GTiff",
    b"MM\0+": "GTiff",
    b"\x89PNG": "PNG",
    b"\xff\xd8": "JPEG",
    b"\0\0\0\x0cjP  \r\n": "JP2OpenJPEG",
    b"\xff\x4f\xff\x51": "JP2OpenJPEG",
    b"EHFA_HEADER_TAG": "HFA",
}
"""GDAL's driver by a file's first bytes. No other driver is ever tried, whatever a file is called.
"""
NAMES = {
    "GTiff": "TIFF",
    "PNG": "PNG",
    "JPEG": "JPEG",
    "JP2OpenJPEG": "JPEG 2000",
    "HFA": "Erdas Imagine",
    "VRT": "VRT",
}
"""What the drivers read."""


def dataset(path: str, level: int = 0, root: str | None = None) -> Any:
    """A file as rasterio opens it, once per thread, and kept open: GDAL's handles are not safe to
    share.

    Parameters
    ----------
    path
        A file of one of the kinds in `NAMES`.
    level
        0: full resolution; k: the k-th overview.
    root
        The folder in which everything that the file refers to must lie; None: its own.

    Raises
    ------
    SourceError
        If it is of another kind, is damaged, declares more than can be, or refers to what lies
        elsewhere.
    JobError
        If there is no such level.
    """
    others = [] if remote(path) else [name for name in sidecars.names(path) if Path(name).exists()]
    stamps = tuple(map(stamp, (path, *others)))
    return _opened(path, level, root, stamps, threading.get_ident())


@contextmanager
def settings(path: str) -> Iterator[None]:
    """What GDAL must know to reach a file at an address, as long as this lasts: it stays neither in
    the environment nor in GDAL.
    """
    if not remote(path):
        yield
        return
    import rasterio
    from rasterio.env import getenv, hasenv

    theirs = getenv() if hasenv() else {}
    with rasterio.Env(
        **{
            name: value
            for name, value in {**gdal_settings(), **sidecars.settings(path)}.items()
            if name not in theirs
        }
    ):
        yield


@contextmanager
def guarded(path: str, what: str) -> Iterator[None]:
    """Whatever rasterio raises of a damaged file, in opening or reading it or in its attributes, as
    a SourceError that says ``what``.

    Within it, GDAL knows how to reach the file.
    """
    # rasterio lets GDAL's own errors through, and exports no name for them
    from rasterio._err import CPLE_BaseError
    from rasterio.errors import CRSError, RasterioError

    try:
        with settings(path):
            yield
    except (RasterioError, CRSError, CPLE_BaseError, UnicodeDecodeError) as error:
        raise SourceError(f"{path}{what}: {error.__cause__ or error}") from error


def is_paged(path: str) -> bool:
    """Whether a TIFF has several pages and no place: a stack, or a slide, of which GDAL would read
    the first page and say nothing.
    """
    with guarded(path, " cannot be opened"):
        file = dataset(path)
        return bool(len(file.subdatasets) > 1 and file.crs is None and file.transform.is_identity)


def files(path: str, root: str | None = None) -> tuple[str, ...]:
    """A file, and all that belong to it or that it refers to."""
    with guarded(path, " cannot be read"):
        file = dataset(path, root=root)
        system = sidecars.system(path, file)
        theirs = sources_of(path, _folder(path, root)) if not remote(path) and is_vrt(path) else ()
        return tuple(dict.fromkeys((*file.files, *theirs, *([system] if system else []))))


def fingerprint(path: str, root: str | None = None) -> dict[str, Any]:
    """Size and checksum of a file, and of each that belongs to it or that it refers to, by name."""
    if remote(path):
        there = {ending: about(path + ending) for ending in sidecars.found(path)}
        return {**about(path), **({"with": there} if there else {})}
    others = sorted(str(Path(name).resolve()) for name in files(path, root))
    theirs = [name for name in others if name != str(Path(path).resolve()) and Path(name).is_file()]
    folder = Path(path).resolve().parent
    return {
        **of_file(Path(path)),
        **(
            {"with": {_relative(Path(name), folder): of_file(Path(name)) for name in theirs}}
            if theirs
            else {}
        ),
    }


def _folder(path: str, root: str | None) -> Path:
    """The folder in which everything lies that a file refers to."""
    return Path(root or Path(path).parent).resolve()


def _relative(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else path.name


@functools.lru_cache(maxsize=128)
def _opened(path: str, level: int, root: str | None, _stamps: object, _thread: int) -> Any:
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    if remote(path):
        return _reached(path, level)
    driver = driver_of(path)
    sidecars.refuse(path)
    folder = _folder(path, root)
    if driver == "VRT":
        for name in sources_of(path, folder):
            driver_of(name)
            sidecars.refuse(name)
    with warnings.catch_warnings(), guarded(path, " cannot be opened"):
        # a picture without a georeference is no fault
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        file = rasterio.open(path, driver=driver)
        _refuse(file, path, Path(path).stat().st_size)
        _refuse_others(file, path, folder)
        return _at(file, path, driver, level)


def _reached(address: str, level: int) -> Any:
    """A GeoTIFF somewhere else; no other driver is tried."""
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    name = gdal(address)
    with warnings.catch_warnings(), guarded(address, " cannot be opened"):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        file = rasterio.open(name, driver="GTiff")
        _refuse(file, address, about(address)["bytes"])
        return _at(file, name, "GTiff", level)


def _at(file: Any, path: str, driver: str, level: int) -> Any:
    """The file at a level; JobError if it has no such level."""
    import rasterio

    number = len(file.overviews(1))
    if not 0 <= level <= number:
        there = f"overviews 1 to {number}" if number else "no overviews"
        raise JobError(
            f"level: {level}; {path} has {there}; allowed: 0, full "
            f"resolution{f', to {number}' if number else ''}"
        )
    return rasterio.open(path, driver=driver, overview_level=level - 1) if level else file


def driver_of(path: str) -> str:
    """GDAL's driver for a file, by its first bytes; SourceError where it is of no kind that is
    read.
    """
    try:
        with Path(path).open("rb") as file:
            head = file.read(HEAD)
    except OSError as error:
        raise SourceError(f"{path} cannot be opened: {error.strerror or error}") from error
    if MARK in head:
        return "VRT"
    found = next((driver for mark, driver in MARKS.items() if head.startswith(mark)), None)
    if found is None:
        if what := told(path):
            raise SourceError(f"{path} is {what}; allowed: {_allowed(set(NAMES))}")
        raise SourceError(
            f"{path} is no image that is read: it begins with {head[:8]!r}; allowed: "
            f"{_allowed(set(NAMES))}"
        )
    return found


def _allowed(drivers: set[str]) -> str:
    return ", ".join(name for driver, name in NAMES.items() if driver in drivers)


def _refuse(file: Any, path: str, length: int) -> None:
    """Refuse what a file declares and cannot hold, or what would take more memory than a task has,
    before a pixel is read.
    """
    check_bands(path, file.count)
    size = f"{path} declares {file.width} x {file.height} pixels"
    rows, columns = file.block_shapes[0]
    by_pixel = file.interleaving is not None and file.interleaving.name == "pixel"
    together = file.count if by_pixel else 1
    dtypes = [np.dtype(name.replace("complex_int16", "int32")) for name in file.dtypes]
    nbytes = rows * columns * together * max(dtype.itemsize for dtype in dtypes)
    hint = "; write it anew with tiles: gdal_translate -co TILED=YES"
    check_block(f"{size} in blocks of {rows} x {columns}", nbytes, hint)
    number = -(-file.height // rows) * -(-file.width // columns) * (file.count // together)
    if file.driver == "GTiff":
        check_fits(f"{size} in {number} blocks", number * LEAST_PER_BLOCK, length)


def _refuse_others(file: Any, path: str, folder: Path) -> None:
    """Refuse what refers to files outside of a folder."""
    for other in file.files:
        if (
            not Path(other).resolve().is_relative_to(folder)
            and Path(other).resolve() != Path(path).resolve()
        ):
            raise SourceError(
                f"{path} refers to {other}, which lies outside {folder}; name a folder that "
                f"holds both: root"
            )
