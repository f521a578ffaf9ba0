"""Atomic, durable files: results and records are there wholly or not at all, also after a power
cut.

Workers write only into folders that the driver creates. A task that outlives its run, because the
run ended or was restarted, finds its folder gone and creates nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from pipeline.errors import OutputError, TilewiseError

PARTIAL = ".partial"
"""Suffix of incomplete files; Zarr's writers use the same."""
UNKNOWN = (errno.EINVAL, errno.EBADF, errno.ENOSYS, errno.ENOTSUP)
"""Errors of file systems that do not support an operation."""


def commit(
    path: Path, data: bytes | memoryview, *, root: Path | None = None, lasting: bool = False
) -> None:
    """Write a file atomically; nothing stays behind if that fails.

    Parameters
    ----------
    path : Path
        The file.
    data : bytes
        The contents.
    root : Path, optional
        A folder above it that must exist; missing folders below it are created. None: all missing
        folders are created.
    lasting : bool, optional
        Whether to return only when the file and its name are on the disk.

    Raises
    ------
    OutputError
        The file cannot be written, or the root is gone.
    """
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}{PARTIAL}")
    try:
        make(path.parent, root)
        with part.open("wb") as file:
            file.write(data)
            if lasting:
                file.flush()
                os.fsync(file.fileno())
        os.replace(part, path)  # noqa: PTH105  the one commit point, named as tests name it
        if lasting:
            keep_names(path.parent)
    except OSError as error:
        with suppress(OSError):  # what cannot be written need not be there
            part.unlink(missing_ok=True)
        if root is not None and not root.exists():
            raise OutputError(
                f"{path} is not written: its run has ended, or was started anew"
            ) from error
        raise OutputError(
            f"{path} cannot be written: {error.strerror}; make room or choose another place, "
            f"then run the same command"
        ) from error


@contextlib.contextmanager
def writing(what: Path) -> Iterator[None]:
    """Convert system errors to OutputError."""
    try:
        yield
    except OSError as error:
        if isinstance(error, TilewiseError):
            raise
        raise OutputError(
            f"{what} cannot be written: {error.strerror or error}; make room, then run the same "
            f"command"
        ) from error


def make(folder: Path, root: Path | None = None) -> None:
    """Create a folder and missing folders between it and ``root``; FileNotFoundError if the root is
    gone.
    """
    if root is None:
        folder.mkdir(parents=True, exist_ok=True)
        return
    here = root
    for part in folder.relative_to(root).parts:
        here /= part
        with suppress(FileExistsError):
            here.mkdir()


def keep_names(folder: Path) -> None:
    """Sync the names in a folder to the disk, if its file system supports that for folders."""
    with _opened(folder) as handle:
        try:
            os.fsync(handle)
        except OSError as error:
            if error.errno not in UNKNOWN:
                raise


def keep(folder: Path) -> None:
    """Sync everything written in a folder to the disk, by any process of this machine; OutputError
    if it fails.

    One call for the file system, where the system has it: a result may be a million files.
    """
    library = ctypes.CDLL(None, use_errno=True)
    with _opened(folder) as handle:
        if not hasattr(library, "syncfs"):
            os.sync()
        elif library.syncfs(handle):
            raise OutputError(
                f"{folder} cannot be written: {os.strerror(ctypes.get_errno())}; run the same "
                f"command again"
            )


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[int]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        yield handle
    finally:
        os.close(handle)


def discard(path: Path, by_way_of: Path | None = None) -> None:
    """Remove a file or a folder, if it exists.

    A folder is renamed first, so that late writers find it gone: into ``by_way_of`` until it is
    removed, or beside itself.
    """
    if path.is_dir() and not path.is_symlink():
        gone = (by_way_of or path.parent) / f".{path.name}.{uuid.uuid4().hex}"
        path.rename(gone)
        shutil.rmtree(gone)
    else:
        path.unlink(missing_ok=True)
