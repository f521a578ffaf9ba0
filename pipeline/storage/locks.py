"""Locks between processes, possibly on several machines: one writer per output or list of labels.

These are the system's (`flock`), which releases those of dead processes. If a file system does not
support them (some NFS and Lustre mounts), a mark file beside the lock names the writer. The mark of
a dead process of this machine is taken over. Whether a process of another machine lives is unknown
here, so the message names the file to remove.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import OutputError

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)
"""Errors of file systems without locks."""
MARK = ".owner"
"""Suffix of the mark file that replaces a lock."""


@contextlib.contextmanager
def locked(path: Path, what: str, *, wait: float = 0, stays: bool = True) -> Iterator[None]:
    """Hold a lock file while a run writes.

    Parameters
    ----------
    path : Path
        The lock file.
    what : str
        What is written, for messages.
    wait : float
        Seconds to wait for another holder.
    stays : bool
        Whether the file stays afterwards.

    Raises
    ------
    OutputError
        Another process holds it, or the file cannot be created.
    """
    import filelock

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # filelock does not fall back to a mark file
        lock: filelock.BaseFileLock = filelock.FileLock(path, timeout=wait, on_acquired=_sign)
        try:
            lock.acquire()
        except OSError as error:
            if isinstance(error, TimeoutError) or error.errno not in NO_LOCKS:
                raise
            lock = filelock.SoftFileLock(path.with_name(path.name + MARK), timeout=wait)
            lock.acquire()
    except filelock.Timeout as error:
        raise OutputError(_taken(Path(lock.lock_file), path, what)) from error
    except OSError as error:
        raise OutputError(
            f"{what} cannot be written: {error.strerror}; choose another output"
        ) from error
    try:
        yield
    finally:
        if not stays:
            # a holder notices that its file has lost its name, and creates another
            path.unlink(missing_ok=True)
        lock.release()


def _sign(handle: int) -> None:
    """Write the holder into a lock file, for others to read."""
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"process {os.getpid()} on {os.uname().nodename}".encode(), 0)


def _taken(mark: Path, path: Path, what: str) -> str:
    """Message about a lock's holder and what to do."""
    try:
        told = mark.read_text(errors="replace").split()
    except OSError:
        told = []
    if mark == path:
        return (
            f"another run is writing {what} ({' '.join(told)}); wait for it to end, or choose "
            f"another output"
        )
    owner = f"process {told[0]} on {told[1]}" if len(told) > 1 else "somebody"
    return (
        f"another run is writing {what} ({owner}, as {mark} says: there are no locks in this "
        f"file system); wait for it to end, or choose "
        f"another output. If that process is dead, remove that file and give the same command"
    )
