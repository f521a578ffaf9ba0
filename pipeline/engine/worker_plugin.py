"""The function and its context travel to each worker once, as a worker plugin, also to late
workers.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cloudpickle

from pipeline.engine.batches import AIM, Done
from pipeline.engine.contract import Outcome, T
from pipeline.engine.in_process import attempt, root_cause
from pipeline.errors import ClusterError

ANSWER = 30.0  # seconds within which the scheduler answers
LOADING: list[threading.Thread] = []
"""Threads of this process that import what tasks need. An errand waits for them: if two threads
import a package from two ends, Python lets one continue with half of it, to avoid a deadlock.
"""


@dataclass(frozen=True, slots=True)
class Errand:
    """The function and its context, sent to each worker once."""

    function: Callable[[Any, int], Any]
    context: Any
    deadline: float | None

    def __reduce__(self) -> tuple[Callable[[bytes], Errand], tuple[bytes]]:
        """Travel as bytes, which a worker unpacks when it has loaded what it loads at its start."""
        return _received, (cloudpickle.dumps((self.function, self.context, self.deadline)),)

    def attempt(self, item: int) -> Outcome[Any]:
        """Call the function for one item; the process ends if it takes too long.

        Nothing gentler stops a thread.
        """
        if self.deadline is None:
            return attempt(self.function, self.context, item)
        watch = threading.Timer(self.deadline, os._exit, (os.EX_TEMPFAIL,))
        watch.daemon = True
        watch.start()
        try:
            return attempt(self.function, self.context, item)
        finally:
            watch.cancel()


def _received(packed: bytes) -> Errand:
    for thread in LOADING:
        thread.join()
    return Errand(*cloudpickle.loads(packed))


@contextlib.contextmanager
def lent(client: Any, errand: Errand) -> Iterator[str]:
    """Register the errand with all workers, present and future, and yield its name."""
    from distributed import WorkerPlugin

    token = f"tilewise-{uuid.uuid4().hex}"
    plugin = WorkerPlugin()
    vars(plugin)["errand"] = (
        errand  # a class of our own would have to be defined where distributed is already imported
    )
    try:
        _hand_out(client, plugin, token)
        yield token
    finally:
        # The scheduler may be what failed, and its workers forget with it; a recall has
        # unregistered the errand already; a worker that could not load the errand does not have it.
        # But a scheduler that kept it would give it to each worker that comes.
        with contextlib.suppress(ClusterError, LookupError, ValueError):
            ask(client, lambda: client.unregister_worker_plugin(token))


def _hand_out(client: Any, plugin: Any, token: str) -> None:
    """Register a plugin, again if a worker dies meanwhile.

    The scheduler would try for 30 s to reach a worker that it does not yet know to be dead.
    """
    for within in (ANSWER / 6, ANSWER / 3, ANSWER):
        try:
            ask(client, lambda: client.register_plugin(plugin, name=token), within)
        except ClusterError:
            if within == ANSWER or client.status != "running":
                raise
        except Exception as error:  # pickling runs users' code, here and on the workers
            hint = "what is not part of tilewise must be installed there too"
            raise ClusterError(
                f"the function or its context cannot be sent to the workers "
                f"({root_cause(error)}); {hint}"
            ) from error
        else:
            return


def perform(token: str, items: Sequence[int]) -> Done:
    """Run a batch: the task that Dask sees."""
    from distributed import get_worker

    plugins = get_worker().plugins
    errand = vars(plugins[token])["errand"]
    outcomes = []
    began = time.monotonic()
    for item in items:
        outcomes.append(errand.attempt(item))
        if token not in plugins or time.monotonic() - began > 2 * AIM:
            break
    return Done(outcomes, time.monotonic() - began)


def ask(client: Any, question: Callable[[], Awaitable[T]], within: float | None = None) -> T:
    """Ask the scheduler something within a bounded time."""

    async def ask() -> T:
        return await question()

    try:
        if client.status == "running":
            answer: T = client.sync(ask, callback_timeout=within or ANSWER)
            return answer
    except (OSError, TimeoutError) as error:
        raise gone(f"{type(error).__name__}: {error}") from error
    raise gone(f"the connection is {client.status}")


def gone(why: str) -> ClusterError:
    """The error of a run with a scheduler that does not answer."""
    return ClusterError(
        f"the scheduler cannot be reached any more ({why}); what is recorded stays: start the "
        f"cluster again, and give the same command"
    )
