"""Locks: one holder at a time, also where the file system has none, and whatever becomes of the
holder.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest

import pipeline
from pipeline.errors import OutputError
from pipeline.storage.locks import locked
from tests.faults.staging import blobs, contents, run, write


def hold(path, ready, done):
    with locked(Path(path), "the output"):
        ready.set()
        done.wait()


def test_lock(tmp_path):
    """A lock has one holder, who is named to others; it is free when its holder is done,
    or dead.
    """
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=hold, args=(str(tmp_path / "lock"), ready, done))
    other.start()
    ready.wait()
    with (
        pytest.raises(
            OutputError, match=rf"another run is writing the output \(process {other.pid} on "
        ),
        locked(tmp_path / "lock", "the output"),
    ):
        pass
    other.kill()
    other.join()
    with locked(tmp_path / "lock", "the output"):
        assert (tmp_path / "lock").read_text().startswith(f"process {os.getpid()} ")
    with locked(tmp_path / "lock", "the output"):
        pass


def test_unwritable_place(tmp_path):
    """A place that cannot be written is an error that says what to do."""
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(OutputError, match=r"the output cannot be written: .*; choose another"),
        locked(tmp_path / "file" / "lock", "the output"),
    ):
        pass


WITHOUT = """
import ctypes, os, sys

class Step(ctypes.Structure):
    _fields_ = [("code", ctypes.c_ushort), ("yes", ctypes.c_ubyte), ("no", ctypes.c_ubyte), ("k", ctypes.c_uint)]

class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("steps", ctypes.POINTER(Step))]

number = {"x86_64": 73, "aarch64": 32}[os.uname().machine]
steps = (Step * 4)(Step(0x20, 0, 0, 0), Step(0x15, 0, 1, number), Step(6, 0, 0, 0x50000 | int(sys.argv[1])), Step(6, 0, 0, 0x7FFF0000))
library = ctypes.CDLL(None, use_errno=True)
assert library.prctl(38, 1, 0, 0, 0) == 0
assert library.prctl(22, 2, ctypes.byref(Program(4, steps)), 0, 0) == 0, os.strerror(ctypes.get_errno())
"""  # noqa: E501
"""The kernel answers `flock` with an error in this process, as it does for a file system that has
no locks: a filter of system calls.
"""
HOLDS = f"""{WITHOUT}
from pathlib import Path
from pipeline.storage.locks import locked
with locked(Path(sys.argv[2], "lock"), "the output"):
    print("held", flush=True)
    sys.stdin.readline()
"""
SEGMENTS = f"""{WITHOUT}
sys.argv = ["tilewise", *sys.argv[2:]]
from pipeline.__main__ import main
main()
"""
REFUSALS = [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
LINUX = pytest.mark.skipif(
    sys.platform != "linux" or os.uname().machine not in ("x86_64", "aarch64"),
    reason="filters system calls as Linux does on two machines",
)


def holder(folder: Path, refusal: int) -> subprocess.Popen[str]:
    """A process that holds a lock, or has said why not, without the system's locks."""
    command = [sys.executable, "-c", HOLDS, str(refusal), str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, text=True, env=ENVIRONMENT, **pipes)
    process.said = process.stdout.readline()
    return process


@LINUX
@pytest.mark.parametrize("refusal", REFUSALS, ids=errno.errorcode.get)
def test_where_there_are_no_locks(refusal, tmp_path):
    """Where a file system refuses locks, a mark stands in: the second is refused by name; a dead
    holder of this machine is taken over.
    """
    first = holder(tmp_path, refusal)
    assert first.said == "held\n", first.communicate()[1]
    second = holder(tmp_path, refusal)
    told = second.communicate()[1]
    assert (
        f"another run is writing the output (process {first.pid} on {os.uname().nodename}, as "
        f"{tmp_path}/lock.owner says" in told
    )
    assert "If that process is dead, remove that file and give the same command" in told
    first.kill()
    first.communicate()
    assert (tmp_path / "lock.owner").exists()
    third = holder(tmp_path, refusal)
    assert third.said == "held\n", third.communicate()[1]
    third.communicate("\n")
    assert not (tmp_path / "lock.owner").exists()
    (tmp_path / "lock.owner").write_text(f"{first.pid}\nanother-machine\n")
    assert (
        f"(process {first.pid} on another-machine, as" in holder(tmp_path, refusal).communicate()[1]
    )


@LINUX
def test_a_run_where_there_are_no_locks(tmp_path):
    """A command whose output lies where there are no locks makes what it makes elsewhere, and
    leaves nothing; other refusals are told.
    """
    image = write(tmp_path / "image.tif", blobs(32))
    words = [
        "segment",
        str(image),
        "--with",
        "threshold",
        "--option",
        "value=100",
        "--tile",
        "16",
        "--workers",
        "0",
        "--cog",
        "--picture",
    ]
    for refusal, code in ((errno.ENOLCK, 0), (errno.EIO, 2)):
        out = tmp_path / str(code)
        command = [sys.executable, "-c", SEGMENTS, str(refusal), *words[:2], str(out), *words[2:]]
        done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        if code:
            assert "out cannot be written: Input/output error" in done.stderr.replace(
                str(out), "out"
            )
    run(image, pipeline.Threshold(value=100), tmp_path / "known")
    ours, known = contents(tmp_path / "0"), contents(tmp_path / "known")
    assert {name: what for name, what in ours.items() if name != "run.json"} == {
        k: v for k, v in known.items() if k != "run.json"
    }


def test_a_lock_that_goes(tmp_path):
    """A lock whose file is removed afterwards holds all the same: of many that add to a file in
    turn none loses what others wrote.
    """
    context = multiprocessing.get_context("fork")
    adders = [context.Process(target=add, args=(tmp_path,)) for _ in range(4)]
    for adder in adders:
        adder.start()
    for adder in adders:
        adder.join()
    assert (tmp_path / "sum").read_text() == "80"
    assert {path.name for path in tmp_path.iterdir()} == {"sum"}


def add(folder: Path) -> None:
    """Add 1 to a number in a file, twenty times."""
    for _ in range(20):
        with locked(folder / "lock", "the sum", wait=60, stays=False):
            file = folder / "sum"
            number = int(file.read_text()) if file.exists() else 0
            file.write_text(str(number + 1))
