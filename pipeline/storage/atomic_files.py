"""Files that are there whole or not at all, and are still there when the power fails: the one way
in which results and records are written.

What a worker writes lies in a folder that only the driver makes. A task that was given up and goes
on all the same, when its run has ended or was started anew, finds that folder gone and makes
nothing in its place.
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
"""How the name ends of what is not yet whole; Zarr's writers end theirs so too."""
UNKNOWN = (errno.EINVAL, errno.EBADF, errno.ENOSYS, errno.ENOTSUP)
"""What a file system answers that does not do what it is asked for."""


def commit(
    path: Path, data: bytes | memoryview, *, root: Path | None = None, lasting: bool = False
) -> None:
    """Write a file so that it is there whole or not at all; OutputError, and nothing left behind,
    where the disk refuses.

    Parameters
    ----------
    path
        The file.
    data
        What it will hold.
    root
        A folder above it that must be there: only what is missing below it is made. None: all that
        is missing.
    lasting
        Whether to return only when the file and its name are on the disk.

    Raises
    ------
    OutputError
        Where it cannot be written, or the root is gone.
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
    """Whatever the system refuses, as an OutputError."""
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
    """Make a folder, and below a root what is missing between them, but never the root;
    FileNotFoundError where that is gone.
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
    """Return when the names in a folder are on the disk, where its file system knows such a thing
    of folders.
    """
    with _opened(folder) as handle:
        try:
            os.fsync(handle)
        except OSError as error:
            if error.errno not in UNKNOWN:
                raise


def keep(folder: Path) -> None:
    """Return when all that was written in a folder is on the disk, by whichever process of this
    machine; OutputError where it is not.

    One call for the file system, where there is such a call: a result may be a million files.
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
    """Remove a file or a folder, if it is there. A folder leaves in one move first, so that who
    still writes into it finds it gone.

    ``by_way_of``: where it goes to until all of it is removed; None: it stays where it is, under
    another name.
    """
    if path.is_dir() and not path.is_symlink():
        gone = (by_way_of or path.parent) / f".{path.name}.{uuid.uuid4().hex}"
        path.rename(gone)
        shutil.rmtree(gone)
    else:
        path.unlink(missing_ok=True)
