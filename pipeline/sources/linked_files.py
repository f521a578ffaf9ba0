"""Follow the references from one file to another: only to local files in a given folder."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pipeline.errors import SourceError


def followed(path: str, name: str, folder: Path, base: Path) -> str:
    """The file that another one refers to, with links resolved.

    Parameters
    ----------
    path
        The file with the reference.
    name
        The reference.
    folder
        Where the file must lie, once links are resolved.
    base
        The folder from which a relative reference starts.

    Raises
    ------
    SourceError
        If the reference is an address or one of GDAL's virtual files, or if the file lies outside
        the folder (also through a link) or does not exist.
    """
    if "://" in name or name.startswith("/vsi"):
        raise SourceError(
            f"{path} refers to {name}, which is not local; allowed: files in {folder}"
        )
    try:
        file = (base / name).resolve()
        there = file.is_file()
    except (OSError, ValueError) as error:  # too long, or with characters that no name has
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
    """The file name in a URI, or in a text that escapes characters as a URI does. The text itself,
    if a file has that name.

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
