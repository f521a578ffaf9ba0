"""Run ``function(context, item)`` for many items, in this process or on any Dask cluster.

This is the only package that imports ``distributed``. :func:`local` runs one item after the other
in this process and is the specification; :func:`on` and :func:`cluster` yield the same outcomes in
another order. `contract` says what an engine is; `in_process` is `local`, `dask_engine` the others;
`batches` says which items go next, `worker_plugin` what travels to workers, `own_cluster` starts
workers of our own, `given` says what ``engine=`` may be.

The function and its context travel to each worker once; a task carries the items' numbers.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipeline.engine.contract import GPU, Engine, Needs, Outcome
from pipeline.engine.dask_engine import OnDask
from pipeline.engine.in_process import Local, root_cause
from pipeline.engine.own_cluster import (
    connect,
    offered,
    patience,
    quiet,
    same_environment,
    start,
    stop_workers,
)
from pipeline.errors import ClusterError

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["GPU", "Engine", "Needs", "Outcome", "cluster", "local", "on"]


def local(resources: Needs | None = None) -> Engine:
    """Make the engine that runs in this process, one item after the other, in the order given.

    It starts nothing, and is the specification of the other engines.

    Parameters
    ----------
    resources
        What this process offers: ``{"GPU": 1}``; None: nothing.

    Returns
    -------
    Engine
        A context manager.

    Raises
    ------
    ClusterError
        Raised later, by a run that needs a resource that is not offered.

    Examples
    --------
    >>> with local() as engine:
    ...     [outcome.value for outcome in engine.run(divmod, 17, [5, 4])]
    [(3, 2), (4, 1)]
    """
    return Local(resources or {})


def on(
    client: Client | str, *, security: Any = None, deadline: float | None = None, wait: float = 30.0
) -> Engine:
    """Make the engine that runs on a Dask cluster that is running.

    Parameters
    ----------
    client
        A ``distributed.Client``, which stays open, or a scheduler's address: ``"tcp://host:8786"``.
    security
        A ``distributed.Security`` for an address ``"tls://…"``.
    deadline
        Seconds that an item may take. One that takes longer ends its worker process, and counts as
        having killed it. Workers without a nanny do not come back. None: any time.
    wait
        Seconds to wait for a worker that has what an item needs: the first one, or another when all
        have gone.

    Returns
    -------
    Engine
        A context manager. It closes the client that it made for an address, and leaves the cluster
        running.

    Raises
    ------
    ClusterError
        No scheduler answers at the address, or the client is asynchronous.

    Examples
    --------
    >>> with on("tcp://host:8786") as engine:  # doctest: +SKIP
    ...     pipeline.run("job.yaml", engine)
    """
    with contextlib.ExitStack() as stack:
        if isinstance(client, str):
            stack.enter_context(quiet())
            client = stack.enter_context(connect(client, security))
        elif client.asynchronous:
            raise ClusterError(
                "the client is asynchronous; give one made with Client(address), or the "
                "scheduler's address"
            )
        return OnDask(client, stack.pop_all(), deadline=deadline, wait=wait)


def cluster(
    workers: int | None = None,
    *,
    resources: Sequence[Needs] | None = None,
    gpus: int = 0,
    deadline: float | None = None,
) -> Engine:
    """Make the engine that starts its own worker processes on this machine.

    Each has one thread and its share of the memory. They listen on the loopback only, talk to this
    process only (by TLS, with a certificate that is made now and lies in no file), serve no
    dashboard, and end with the engine.

    Parameters
    ----------
    workers
        How many, 1 or more; None: one for each processor.
    resources
        What each worker offers, one mapping per worker: ``[{"GPU": 1}, {}]``.
    gpus
        How many of the workers offer a GPU, in place of ``resources``; each of these sees one GPU
        of this machine, another for each (``CUDA_VISIBLE_DEVICES``). Where ``workers`` is not
        given, there is at least one worker besides.
    deadline
        Seconds that an item may take; one that takes longer ends its worker, which is restarted.
        None: any time.

    Returns
    -------
    Engine
        A context manager; the processes end with it.

    Raises
    ------
    ClusterError
        The numbers do not fit, or the workers do not start.

    Examples
    --------
    >>> with cluster(1) as engine:
    ...     [outcome.value for outcome in engine.run(divmod, 17, [5])]
    [(3, 2)]
    """
    offers = offered(workers, resources, gpus)
    if multiprocessing.current_process().name.startswith("Dask Worker"):
        raise ClusterError(
            "a worker process imports this script and would start a cluster of its own; begin it "
            "with: if __name__ == '__main__':"
        )
    with contextlib.ExitStack() as stack:
        stack.enter_context(quiet())
        stack.enter_context(same_environment())
        stack.enter_context(patience())
        folder = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="tilewise-", ignore_cleanup_errors=True)
        )
        try:
            own = stack.enter_context(start(offers, folder))
            stack.callback(own.sync, stop_workers, own)
        except ClusterError:
            raise
        except Exception as error:
            hint = "in a script, start a cluster under: if __name__ == '__main__':"
            raise ClusterError(
                f"{len(offers)} worker(s) did not start: {root_cause(error)}; {hint}"
            ) from error
        client = stack.enter_context(connect(own.scheduler_address, own.security))
        return OnDask(client, stack.pop_all(), deadline=deadline, complete=True)
