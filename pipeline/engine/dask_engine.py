"""The engine on a Dask cluster; :meth:`OnDask.run` tells the life of a batch of items.

Dask restricts a task that needs a GPU to the workers that offer one, but it does not keep other
tasks away from them. So if resources are reserved, a batch without needs is sent with the addresses
of the workers without these resources, strictly. Dask's other ways fail: with
``allow_other_workers`` an idle GPU worker steals such a task, and a resource of the plain workers'
own could not be added to a running cluster before tasks wait for it.

Strict addresses have a price. A worker restarted by its nanny gets another address, so a task may
wait for workers that never return. Such a task is called back here, and its items count as
suspects, because they may have caused the death. Dask also assigns such tasks at once, so tasks
that wait on a dying worker become suspects too; they are tried again like any others.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import queue
import threading
import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
from typing import Any, Self

from pipeline.engine.batches import Batch, Done, Lost, Queue
from pipeline.engine.contract import C, Needs, Outcome, T
from pipeline.engine.in_process import Closing, graceful, interrupted, machine_memory, root_cause
from pipeline.engine.worker_plugin import Errand, ask, gone, lent, perform
from pipeline.errors import ClusterError

TICK = 0.2  # seconds between two looks at what is not an answer: Ctrl-C, a scheduler that is gone
REFRESH = 2.0  # seconds for which what is known of the workers holds


class OnDask(Closing):
    """See :func:`on` and :func:`cluster`."""

    apart = True

    def __init__(
        self,
        client: Any,
        held: contextlib.ExitStack,
        *,
        deadline: float | None,
        wait: float = 30.0,
        complete: bool = False,
    ) -> None:
        self._client = client
        self._held = held
        self._deadline = deadline
        self._wait = wait
        self._complete = complete

    @property
    def workers(self) -> int:
        """The threads of all workers."""
        return self._workers().slots({})

    @property
    def memory(self) -> int:
        """The memory limit per thread of the smallest worker."""
        return self._workers().memory()

    def _workers(self, reserved: Collection[str] = ()) -> Workers:
        return Workers(self._client, self._wait, frozenset(reserved), complete=self._complete)

    def offers(self, needs: Needs) -> bool:
        """See :meth:`Engine.offers`."""
        return self._workers().offers(needs)

    def require(self, needs: Needs) -> None:
        """See :meth:`Engine.require`."""
        workers = self._workers()
        while not workers.slots(needs):
            threading.Event().wait(TICK)

    def close(self) -> None:
        """Close what this engine opened."""
        self._held.close()

    def run(
        self,
        function: Callable[[C, int], T],
        context: C,
        items: Iterable[int],
        *,
        needs: Callable[[int], Needs] | None = None,
        reserved: Collection[str] = (),
        label: str = "",
    ) -> Generator[Outcome[T], None, None]:
        """See :meth:`Engine.run`."""
        errand = Errand(function, context, self._deadline)
        workers = self._workers(reserved)
        waiting = Queue(items, needs)
        workers.muster()
        with (
            graceful() as stop,
            lent(self._client, errand) as token,
            Flights(self._client, token, label) as flights,
        ):
            while True:
                if not stop.is_set():
                    for batch in waiting.ready(workers.slots):
                        flights.send(batch, workers.places(batch.lane.needs))
                elif not flights.recalled:
                    flights.recall()
                if not flights.aloft and (waiting.empty or flights.recalled):
                    break
                for batch, answer in itertools.chain(
                    flights.landed(), flights.stranded(workers.there())
                ):
                    if isinstance(answer, Done):
                        yield from waiting.done(batch, answer)
                    elif not flights.recalled:
                        workers.ask_anew()
                        yield from waiting.suspect(batch, answer)
            if stop.is_set():
                raise interrupted()


class Flights:
    """The tasks in flight. Finished tasks are released here, and so by the scheduler."""

    def __init__(self, client: Any, token: str, label: str) -> None:
        self._client = client
        self._token = token
        self._group = f"{label or 'tiles'}-{token}"
        self._sent = 0
        self._landings: queue.SimpleQueue[tuple[Any, Batch, Done | Lost]] = queue.SimpleQueue()
        self.aloft: dict[Any, tuple[Batch, Collection[str]]] = {}
        """By future: its batch, and the addresses that it is kept to, if any."""
        self.recalled = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.aloft:
            # a scheduler that is gone has nothing to cancel
            with contextlib.suppress(ClusterError):
                ask(self._client, lambda: self._client.cancel(list(self.aloft)))

    def send(self, batch: Batch, places: Collection[str]) -> None:
        """Submit a batch, to certain addresses if given; scarce resources have priority."""
        self._sent += 1
        needs = batch.lane.needs
        key = (self._group, self._sent)
        where = {"workers": list(places)} if places else {"resources": needs or None}
        future = self._client.submit(
            perform,
            self._token,
            batch.items,
            key=key,
            pure=False,
            priority=1 if needs else 0,
            **where,
        )
        self.aloft[future] = (batch, places)
        self._client.loop.add_callback(self._follow, future, batch)

    async def _follow(self, future: Any, batch: Batch) -> None:
        from distributed import CancelledError, KilledWorker

        answer: Done | Lost
        try:
            answer = await future
        except KilledWorker:
            answer = Lost(
                "its worker died (a signal, the limit of memory or the deadline)", killed=True
            )
        except (Exception, CancelledError) as error:  # noqa: BLE001 - an item's own failure is an outcome: this is Dask's
            answer = Lost(f"Dask lost it ({root_cause(error)})", killed=False)
        self._landings.put((future, batch, answer))

    def landed(self) -> Iterator[tuple[Batch, Done | Lost]]:
        """Yield the batches that finished since the last call, with their answers.

        Returns without any if none finishes within a moment.
        """
        with contextlib.suppress(queue.Empty):
            landing = self._landings.get(timeout=TICK)
            while self._client.status == "running":
                future, batch, answer = landing
                if self.aloft.pop(future, None):
                    yield batch, answer
                landing = self._landings.get_nowait()
        if self._client.status != "running":
            raise gone(f"the connection is {self._client.status}")

    def stranded(self, there: Collection[str]) -> Iterator[tuple[Batch, Lost]]:
        """Yield the batches restricted to workers that are all gone: Dask would wait for ever."""
        for future, (batch, places) in list(self.aloft.items()):
            if places and not any(address in there for address in places):
                del self.aloft[future]
                ask(self._client, lambda future=future: self._client.cancel([future]))  # type: ignore[misc]
                yield batch, Lost("its workers are gone", killed=True)

    def recall(self) -> None:
        """Let tasks end after their current item; tasks that have not begun find no function and
        end at once.
        """
        self.recalled = True
        ask(self._client, lambda: self._client.unregister_worker_plugin(self._token))


class Workers:
    """The workers and their resources, queried again from time to time."""

    def __init__(
        self, client: Any, wait: float, reserved: frozenset[str], *, complete: bool
    ) -> None:
        self._client = client
        self._wait = wait
        self._reserved = reserved
        self._complete = complete
        # If all workers are there from the start, a missing resource will not appear later.
        self._begun = -math.inf if complete else time.monotonic()
        self._asked = -math.inf
        self._workers = dict[str, Mapping[str, Any]]()
        self._last: dict[tuple[tuple[str, float], ...], float] = {}
        self._apart = -math.inf
        """When a worker was last there that offers nothing reserved."""

    def slots(self, needs: Needs) -> int:
        """Count the tasks with these needs that can run at once.

        Parameters
        ----------
        needs : mapping of str to float
            Resources.

        Returns
        -------
        int
            The number; 0 only while waiting for a worker to come back.

        Raises
        ------
        ClusterError
            No worker has offered this for too long.
        """
        self.muster()
        count = sum(_slots(worker, needs) for worker in self._able(needs).values())
        kind = tuple(sorted(needs.items()))
        now = time.monotonic()
        if count:
            self._last[kind] = now
        elif now - self._last.get(kind, self._begun) > self._wait:
            raise ClusterError(
                f"no worker offers {dict(needs) or 'anything'}; start one with: "
                f"{self._remedy(needs)}"
            )
        return count

    def offers(self, needs: Needs) -> bool:
        """Whether a worker offers this now."""
        return any(_slots(worker, needs) for worker in self.there().values())

    def places(self, needs: Needs) -> Collection[str]:
        """The addresses to restrict tasks with these needs to; empty: Dask decides."""
        return () if needs or not self._reserved else self._able(needs)

    def there(self) -> Mapping[str, Mapping[str, Any]]:
        """The workers by address."""
        self.muster()
        return self._workers

    def ask_anew(self) -> None:
        """Drop what is known of the workers, because one died."""
        self._asked = -math.inf

    def _able(self, needs: Needs) -> Mapping[str, Mapping[str, Any]]:
        """The workers to which tasks with these needs may go.

        Tasks without needs wait for a worker without reserved resources, if there was one, as long
        as for any other worker that left; afterwards, or if there never was one, all workers will
        do.
        """
        if needs or not self._reserved:
            return self._workers
        apart = {
            at: worker
            for at, worker in self._workers.items()
            if not any(worker["resources"].get(name) for name in self._reserved)
        }
        now = time.monotonic()
        if apart:
            self._apart = now
        return apart if now - self._apart < self._wait else self._workers

    def memory(self) -> int:
        """The least memory per worker thread, in bytes."""
        self.muster()
        return min(
            int(worker["memory_limit"] or machine_memory()) // int(worker["nthreads"])
            for worker in self._workers.values()
        )

    def muster(self) -> None:
        """Query the workers; the first time, wait for one."""
        patience = time.monotonic() + self._wait
        while time.monotonic() - self._asked > REFRESH or not (self._workers or self._last):
            identity = ask(self._client, lambda: self._client.scheduler.identity(n_workers=-1))
            self._workers = dict(identity["workers"])
            self._asked = time.monotonic()
            if not self._workers and not self._last:
                if time.monotonic() > patience:
                    raise ClusterError(
                        f"no worker came within {self._wait:g} s; start one with: "
                        f"{self._remedy({})}"
                    )
                threading.Event().wait(TICK)

    def _remedy(self, needs: Needs) -> str:
        offer = ",".join(f"{name}={amount:g}" for name, amount in needs.items())
        if self._complete and needs:
            return f"cluster(resources=[{dict(needs)}, ...]), on the command line --gpus 1"
        return f"dask worker {self._client.scheduler.address}" + (
            f' --resources "{offer}"' if offer else ""
        )


def _slots(worker: Mapping[str, Any], needs: Needs) -> int:
    """The number of tasks with these needs that a worker can run at once."""
    return min(
        [
            int(worker["nthreads"]),
            *(int(worker["resources"].get(name, 0) // amount) for name, amount in needs.items()),
        ]
    )
