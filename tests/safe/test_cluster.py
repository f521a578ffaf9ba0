"""Other users of a machine, who can connect to what listens on its loopback, learn nothing of our
own clusters and run nothing there.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import stat
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from distributed import Client
from distributed.core import connect

from pipeline.engine import cluster
from pipeline.engine.certificates import security

PAGES = (
    "",
    "status",
    "health",
    "metrics",
    "info/main/workers.html",
    "json/counts.json",
    "proxy/80/127.0.0.1/",
    "sysmon",
)
REFUSED = (OSError, ValueError, EOFError, asyncio.IncompleteReadError)


@dataclass
class Own:
    """A running cluster of our own, and all that listens for it."""

    engine: Any
    processes: list[psutil.Process]
    addresses: list[Any]
    pages: list[int] = field(default_factory=list)
    """The ports of servers for browsers."""
    tasks: list[int] = field(default_factory=list)
    """All others: of the scheduler, the nannies and the workers."""


def listening(processes: list[psutil.Process]) -> list[Any]:
    return [
        each.laddr
        for process in processes
        for each in process.net_connections("tcp")
        if each.status == psutil.CONN_LISTEN
    ]


def speaks_http(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port), 5) as plain:
        plain.sendall(b"GET /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        try:
            return plain.recv(5) == b"HTTP/"
        except ConnectionError:
            return False


@pytest.fixture(scope="module")
def own() -> Iterator[Own]:
    """A cluster of two workers."""
    others = psutil.Process().children(recursive=True)  # of a cluster that other tests share
    before = set(listening([psutil.Process(), *others]))
    with cluster(2) as engine:
        assert [outcome.value for outcome in engine.run(divmod, 17, [5])] == [(3, 2)]
        processes = [
            psutil.Process(),
            *(one for one in psutil.Process().children(recursive=True) if one not in others),
        ]
        found = Own(
            engine, processes, [each for each in listening(processes) if each not in before]
        )
        for address in found.addresses:
            (found.pages if speaks_http(address.port) else found.tasks).append(address.port)
        yield found
        assert [outcome.value for outcome in engine.run(divmod, 17, [5])] == [(3, 2)]


def test_all_listen_on_the_loopback(own: Own) -> None:
    """Scheduler, two nannies and two workers listen for tasks, on the loopback alone; there are
    workers in other processes.
    """
    assert {address.ip for address in own.addresses} == {"127.0.0.1"}
    assert len(own.tasks) == 5
    assert len(own.processes) >= 3


@pytest.mark.parametrize("how", ["plain", "another's certificate"])
def test_a_client_without_the_certificate_is_refused(own: Own, how: str) -> None:
    """Who does not hold the certificate of this very cluster gets no connection: not to the
    scheduler, a nanny or a worker.
    """
    given: dict[str, Any] = {} if how == "plain" else {"security": security()}
    scheme = "tls" if given else "tcp"
    scheduler = int(own.engine._client.scheduler.address.rpartition(":")[2])
    assert scheduler in own.tasks
    with pytest.raises(REFUSED):
        Client(f"{scheme}://127.0.0.1:{scheduler}", timeout=1, set_as_default=False, **given)

    async def asked(port: int) -> Any:
        more = given["security"].get_connection_args("client") if given else {}
        comm = await connect(f"{scheme}://127.0.0.1:{port}", timeout=1, **more)
        try:
            await comm.write({"op": "identity", "reply": True})
            return await asyncio.wait_for(comm.read(), 1)
        finally:
            comm.abort()

    for port in own.tasks:
        with pytest.raises(REFUSED):
            asyncio.run(asked(port))


def test_who_has_the_certificate_is_let_in(own: Own) -> None:
    """The same question by a client that holds the certificate is answered: the tests above ask
    rightly.
    """

    async def asked(port: int) -> Any:
        comm = await connect(
            f"tls://127.0.0.1:{port}",
            timeout=5,
            **own.engine._client.security.get_connection_args("client"),
        )
        try:
            await comm.write({"op": "identity", "reply": True})
            return await comm.read()
        finally:
            await comm.close()

    kinds = sorted(asyncio.run(asked(port))["type"] for port in own.tasks if port)
    assert kinds == ["Nanny", "Nanny", "Scheduler", "Worker", "Worker"]


def test_no_word_is_said_without_a_certificate(own: Own) -> None:
    """Whoever speaks TLS and shows no certificate is told nothing: no byte comes after the
    handshake.
    """
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    for port in own.tasks:
        with socket.create_connection(("127.0.0.1", port), 5) as plain:
            try:
                with context.wrap_socket(plain) as secure:
                    told = secure.recv(1)
            except (ssl.SSLError, ConnectionError):
                told = b""
        assert told == b""


def test_nothing_is_served_to_browsers(own: Own) -> None:
    """No dashboard, and no page of Dask's that tells of tasks, workers and files, or asks other
    servers.
    """
    assert len(own.pages) == 3  # Dask opens these ports whatever it is told
    for port in own.pages:
        for page in PAGES:
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/{page}", timeout=5)


def test_files_and_commands_show_nothing(own: Own) -> None:
    """The folder of temporary files is the user's alone, and no key is in a command line, which all
    users see.
    """
    folders = {
        Path(name).resolve()
        for name in own.engine._client.run(lambda dask_worker: dask_worker.local_directory).values()
    }
    tops = {
        next(part for part in folder.parents if part.name.startswith("tilewise-"))
        for folder in folders
    }
    assert len(tops) == 1
    assert stat.S_IMODE(next(iter(tops)).stat().st_mode) == 0o700
    for process in own.processes[1:]:
        assert "PRIVATE KEY" not in " ".join(process.cmdline())


def test_a_certificate_is_of_one_cluster() -> None:
    """Each cluster has another key, and shows it to nobody who prints it."""
    one, other = security(), security()
    assert one.tls_client_key != other.tls_client_key
    assert "PRIVATE" not in repr(one)
    assert one.require_encryption
