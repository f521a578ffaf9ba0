"""Scheduler and workers of our own, as processes on this machine; connections to any scheduler."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import signal
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

from pipeline.config.logs import redact_all
from pipeline.engine.certificates import security
from pipeline.engine.contract import Needs
from pipeline.engine.in_process import machine_memory
from pipeline.errors import ClusterError

if TYPE_CHECKING:
    from distributed import Worker

CONNECT = 20.0  # seconds to connect to a scheduler
SILENCE = 60.0  # seconds after which a worker of our own clusters that shows no life is restarted

# Tasks leave nothing on a worker, so spilling would free nothing, and one that pauses would be
# waited for in vain.
NO_SPILLING = {"target": False, "spill": False, "pause": False}

# Each worker has a server for browsers, whatever it is told: it shall serve nothing.
NO_PAGES: dict[str, Any] = {"http": {"routes": []}}

# Dask lets workers give back every freed block at once, so that each large array is paged in anew,
# which costs as much as the work on it. These hold what one tile frees for the next; blocks of up
# to MMAP bytes come from the heap, which may keep TRIM bytes at its end. One heap is enough where
# one thread works at a time: others, of the threads that Zarr reads with and of Arrow, would keep
# as much once more.
ALLOCATION = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 28),
    "MALLOC_ARENA_MAX": "1",
    "ARROW_DEFAULT_MEMORY_POOL": "system",
}

# the loggers to which Dask gives a level
CHATTY = (
    "distributed",
    "distributed.client",
    "distributed.gc",
)


def offered(workers: int | None, resources: Sequence[Needs] | None, gpus: int) -> list[Needs]:
    """List the resources of each worker to start.

    Parameters
    ----------
    workers : int, optional
        How many workers.
    resources : sequence of mapping, optional
        The resources of each.
    gpus : int
        How many of the workers offer a GPU.

    Returns
    -------
    list of mapping
        One for each worker.
    """
    from dask.system import CPU_COUNT

    if gpus:
        count = workers if workers is not None else max(int(CPU_COUNT), gpus + 1)
        if resources is not None or not 0 < gpus <= count:
            raise ClusterError(
                f"gpus: {gpus}, of {count} workers, resources={resources}; allowed: up to one "
                f"for each worker, or resources"
            )
        return [{"GPU": 1} if n < gpus else {} for n in range(count)]
    count = (
        workers
        if workers is not None
        else len(resources)
        if resources is not None
        else int(CPU_COUNT)
    )
    offers = list(resources) if resources is not None else [{}] * count
    if count < 1 or len(offers) != count:
        raise ClusterError(
            f"a cluster has at least one worker, and resources for each or none; got "
            f"workers={workers}, resources={resources}"
        )
    return offers


def devices(offers: Sequence[Needs]) -> list[dict[str, str]]:
    """The environment of each worker's process: GPU workers see different GPUs.

    GPUs are counted within CUDA_VISIBLE_DEVICES if it is set, as by a batch system that assigned
    some of a machine's GPUs to this process.
    """
    lent = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = sum(int(offer.get("GPU", 0)) for offer in offers)
    names = (
        list(map(str, range(count))) if lent is None else [name for name in lent.split(",") if name]
    )
    if len(names) < count:
        raise ClusterError(
            f"{count} GPUs are asked for, and CUDA_VISIBLE_DEVICES={lent} shows {len(names)}; "
            f"allowed: no more than these"
        )
    each = iter(names)
    seen = [",".join(itertools.islice(each, int(offer.get("GPU", 0)))) for offer in offers]
    return [{"CUDA_VISIBLE_DEVICES": mine} if mine else {} for mine in seen]


def connect(address: str, security: Any) -> Any:
    """Create a client of our own."""
    import dask
    from distributed import Client

    if (
        address.startswith("tls://")
        and security is None
        and not dask.config.get("distributed.comm.tls.ca-file", None)
    ):
        raise ClusterError(
            f"{address} wants certificates; name them in Dask's configuration (DASK_CONFIG, "
            f"distributed.comm.tls)"
        )
    try:
        return Client(address, security=security, timeout=CONNECT, set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, ValueError, TypeError) as error:
        raise ClusterError(
            f"no scheduler answers at {address} ({type(error).__name__}: {error}); start one "
            f"with: dask scheduler"
        ) from error


def start(offers: Sequence[Needs], folder: str) -> Any:
    """Start a scheduler and a worker process for each offer, with temporary files in ``folder``.

    Other users of this machine can connect to them, but have no certificate. Nothing is served to
    browsers.
    """
    import dask
    from distributed import Nanny, Scheduler, SpecCluster

    secure = security()
    worker = {
        "host": "127.0.0.1",
        "protocol": "tls://",
        "security": secure,
        "nthreads": 1,
        "memory_limit": int(0.9 * machine_memory() / len(offers)),
        "local_directory": folder,
        "preload": [__name__, "pipeline.execution.worker_preload"],
        "silence_logs": logging.CRITICAL,
        "config": dask.config.merge(
            dask.config.config, {"distributed": {"worker": {"memory": NO_SPILLING, **NO_PAGES}}}
        ),
    }
    # A task that dies comes back to us at once, and alone: no other waits on the same worker
    # (saturation 1).
    scheduler = {
        "host": "127.0.0.1",
        "port": 0,
        "protocol": "tls://",
        "security": secure,
        "dashboard": False,
        "dashboard_address": "127.0.0.1:0",
        "allowed_failures": 0,
        "worker_ttl": SILENCE,
    }
    settings = {
        "distributed.scheduler.worker-saturation": 1.0,
        "distributed.scheduler.http.routes": [],
        "temporary-directory": folder,
    }
    settings |= {
        f"distributed.nanny.pre-spawn-environ.{name}": value for name, value in ALLOCATION.items()
    }
    with dask.config.set(settings):
        own = [
            {"resources": dict(offer), "env": env}
            for offer, env in zip(offers, devices(offers), strict=True)
        ]
        return SpecCluster(  # type: ignore[no-untyped-call]
            scheduler={"cls": Scheduler, "options": scheduler},
            workers={
                n: {"cls": Nanny, "options": {**worker, **options}} for n, options in enumerate(own)
            },
            security=secure,
        )


def patience() -> contextlib.AbstractContextManager[Any]:
    """Keep Dask from giving up, after 15 s, a worker that restarts slowly on a busy machine."""
    import dask

    return cast(
        contextlib.AbstractContextManager[Any],
        dask.config.set({"distributed.deploy.lost-worker-timeout": "1 hour"}),
    )


async def stop_workers(own: Any) -> None:
    """End the workers without waiting long for what they do: Dask would give each five seconds.

    A process that was killed may linger on a busy machine: Dask raises that it does, and the
    cluster ends it when it closes.
    """
    await asyncio.gather(
        *(nanny.close(timeout=1) for nanny in own.workers.values()), return_exceptions=True
    )


def dask_setup(_worker: Worker) -> None:
    """Let a worker of our own clusters ignore Ctrl-C, which a terminal sends to it too, and log
    nothing.

    Dask calls this in the worker's process before the worker starts.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    redact_all()
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.CRITICAL)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep Dask's messages off the terminal; this module's logger reports what matters."""
    import distributed  # noqa: F401 - it sets its loggers up when it is imported

    loggers = [logging.getLogger(name) for name in CHATTY]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)


@contextlib.contextmanager
def same_environment() -> Iterator[None]:
    """Restore the variables that Dask's nannies set in this process for their children."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
