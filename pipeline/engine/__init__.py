"""Run ``function(context, item)`` for many items, in this process or on any Dask cluster.

This is the only package that imports ``distributed``. :func:`local` runs one item after the other
in this process and is the specification; :func:`on` and :func:`cluster` yield the same outcomes in
another order. The modules: `contract` (what an engine is), `in_process`, `batches` (which items go
next), `worker_plugin` (what travels to workers), `dask_engine` (sending and receiving batches) and
`own_cluster` (workers of our own).

The function and its context travel to each worker once; a task carries only their name and the
items' numbers.
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
    """Create an engine that runs in this process, one item after the other, in the given order.

    Parameters
    ----------
    resources : mapping of str to float, optional
        The resources that this process offers, such as ``{"GPU": 1}``; None: none.

    Returns
    -------
    Engine
        The engine.

    Examples
    --------
    >>> with local() as engine:
    ...     [outcome.value for outcome in engine.run(divmod, 17, [5, 3])]
    [(3, 2), (5, 2)]
    """
    return Local(resources or {})


def on(
    client: Client | str, *, security: Any = None, deadline: float | None = None, wait: float = 30.0
) -> Engine:
    """Create an engine that runs on a Dask cluster.

    Parameters
    ----------
    client : distributed.Client or str
        A client, which stays open, or a scheduler's address, such as ``"tcp://host:8786"``.
    security : distributed.Security, optional
        Certificates for an address ``"tls://…"``.
    deadline : float, optional
        Seconds that an item may take; None: no limit. An item that takes longer ends its worker
        process, and counts as having killed it. Workers without a nanny do not come back.
    wait : float, optional
        Seconds to wait for a worker that has what an item needs: the first one, or another when all
        have gone.

    Returns
    -------
    Engine
        The engine.

    Raises
    ------
    ClusterError
        No scheduler answers at the address, or the client is asynchronous.

    Examples
    --------
    >>> with on("tcp://scheduler:8786") as engine:  # doctest: +SKIP
    ...     pipeline.run(job, engine)
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
    """Create an engine with worker processes of its own on this machine.

    Each worker has one thread and its share of the memory. Workers and scheduler listen on the
    loopback interface only and accept this process alone (by TLS, with a certificate that is
    created now and never written to a file). They serve no dashboard, and end with the engine.

    Parameters
    ----------
    workers : int, optional
        How many workers; None: one for each processor.
    resources : sequence of mapping, optional
        The resources of each worker, such as ``[{"GPU": 1}, {}]``; None: none.
    gpus : int, optional
        How many of the workers offer a GPU, in place of ``resources``; each of these sees a GPU of
        its own (``CUDA_VISIBLE_DEVICES``). Without ``workers``, there is at least one worker
        besides.
    deadline : float, optional
        Seconds that an item may take; None: no limit. A worker that takes longer is restarted.

    Returns
    -------
    Engine
        The engine.

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
