"""Where work runs: ``function(context, item)`` for many items, here or on any Dask cluster. The
only package that knows ``distributed``.

:func:`local` runs one item after the other in this process and is the specification; :func:`on` and
:func:`cluster` yield the same outcomes in another order. Where DESIGN has one module there are
rooms, each short enough to be read at once: `contract` (what an engine is), `inprocess`, `batches`
(which items go next), `errands` (what travels to workers), `distribution` (the way of a batch) and
`processes` (workers of our own).

The function and its context travel to each worker once; a task carries nothing but the errand's
name and the items' numbers.
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
    """The engine that runs in this process, one item after the other, in the order given: what the
    others are held against.

    Parameters
    ----------
    resources
        What this process offers: ``{"GPU": 1}``; nothing if not given.
    """
    return Local(resources or {})


def on(
    client: Client | str, *, security: Any = None, deadline: float | None = None, wait: float = 30.0
) -> Engine:
    """The engine that runs on a Dask cluster.

    Parameters
    ----------
    client
        A ``distributed.Client``, which stays open, or a scheduler's address: ``"tcp://host:8786"``.
    security
        A ``distributed.Security`` for an address ``"tls://…"``.
    deadline
        Seconds that an item may take. One that takes longer ends its worker process, and counts as
        having killed it. Workers without a nanny do not come back.
    wait
        Seconds to wait for a worker that has what an item needs: the first one, or another when all
        have gone.

    Raises
    ------
    ClusterError
        No scheduler answers at the address, or the client is asynchronous.
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
    """The engine that starts its own worker processes on this machine, each with one thread and its
    share of the memory.

    They listen on the loopback only, where they talk to nobody but this process (by TLS, with a
    certificate that is made now and lies in no file), serve no dashboard, and end with the engine.

    Parameters
    ----------
    workers
        How many; one for each processor if not given.
    resources
        What each worker offers, one mapping per worker: ``[{"GPU": 1}, {}]``.
    gpus
        How many of the workers offer a GPU, in place of ``resources``; each of these sees another
        GPU of this machine, and no more (``CUDA_VISIBLE_DEVICES``). Where their number is not
        given, there is at least one worker besides.
    deadline
        Seconds that an item may take; one that takes longer ends its worker, which is restarted.

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
