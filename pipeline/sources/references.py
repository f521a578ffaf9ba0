"""What one file says of another: only local files in a folder are followed."""

from __future__ import annotations

from pathlib import Path

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
        If it is an address, one of GDAL's virtual files, outside the folder (also by a link), or not there.
    """
    if "://" in name or name.startswith("/vsi"):
        raise SourceError(f"{path} refers to {name}, which is not local; allowed: files in {folder}")
    file = (base / name).resolve()
    if not file.is_relative_to(folder):
        raise SourceError(f"{path} refers to {name}, which lies outside {folder}; name a folder that holds both: root")
    if not file.is_file():
        raise SourceError(f"{path} refers to {name}, and there is no such file")
    return str(file)
