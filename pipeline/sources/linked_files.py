"""What one file says of another: only local files in a folder are followed."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pipeline.errors import SourceError


def followed(path: str, name: str, folder: Path, base: Path) -> str:
    """The file that another refers to, without links.

    Parameters
    ----------
    path
        The file that refers to it.
    name
        What it says, taken from ``base`` if it is relative.
    folder
        Where the file must lie, without links.

    Raises
    ------
    SourceError
        If it is an address, one of GDAL's virtual files, outside the folder (also by a link), or
        not there.
    """
    if "://" in name or name.startswith("/vsi"):
        raise SourceError(
            f"{path} refers to {name}, which is not local; allowed: files in {folder}"
        )
    try:
        file = (base / name).resolve()
        there = file.is_file()
    except (OSError, ValueError) as error:  # too long, or with signs that no name has
        raise SourceError(f"{path} refers to {name[:200]!r}, which is no name of a file") from error
    if not file.is_relative_to(folder):
        raise SourceError(
            f"{path} refers to {name}, which lies outside {folder}; name a folder that holds "
            f"both: root"
        )
    if not there:
        raise SourceError(f"{path} refers to {name}, and there is no such file")
    return str(file)


def of_uri(text: str, base: Path) -> str:
    """The name of a file that a URI stands for, or a text that is one in all but its spaces and
    signs: as it is where there is such a file.

    >>> of_uri("file:///data/red%20band.tif", Path("/")), of_uri("./100%25.tif", Path("/"))
    ('/data/red band.tif', './100%.tif')
    """
    parts = urlsplit(text)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return unquote(parts.path)
    if parts.scheme and "://" in text:
        return text
    with suppress(OSError, ValueError):
        if (base / text).is_file():
            return text
    return unquote(text)
