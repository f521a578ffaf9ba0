"""Where work runs: ``function(context, item)`` for many items, here or on any Dask cluster. The only module that knows ``distributed``.

:func:`local` runs one item after the other in this process and is the specification; :func:`on` and :func:`cluster` yield the same
outcomes in another order. The life of a batch of items is :meth:`_Dask.run`; its parts are

* :class:`_Queue`: which items go next, in batches of what size, and what becomes of those that were near a death (no Dask in it);
* :class:`_Crew`: what the workers offer;
* :class:`_Flights`: the tasks in flight.

The function and its context travel to each worker once, as a worker plugin, which the scheduler also gives to workers that join or
restart; a task carries nothing but the plugin's name and the items' numbers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import multiprocessing
import os
import queue
import signal
import tempfile
import threading
import time
import traceback
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar, cast

from pipeline.errors import ClusterError, Interrupted, TilewiseError

if TYPE_CHECKING:
    from distributed import Client, Worker

C = TypeVar("C")
T = TypeVar("T")
Needs = Mapping[str, float]

ALOFT = 3  # batches in flight for each task that can run at once: one runs, two wait for it
AIM = 0.5  # seconds a batch is meant to take; one that has taken twice as long comes back unfinished
LARGEST = 256  # items in a batch
AHEAD = 16_384  # items read before they are sent, so that one kind of item does not keep another waiting
SINGLY = 1  # times an item that was near a death is tried by itself among others, before it is tried alone
TICK = 0.2  # seconds between two looks at what is not an answer: Ctrl-C, a scheduler that is gone
REFRESH = 2.0  # seconds for which what is known of the workers holds
CONNECT = 20.0  # seconds to connect to a scheduler
ANSWER = 30.0  # seconds within which the scheduler answers
SILENCE = 60.0  # seconds after which a worker of our own clusters that shows no life is restarted

# Tasks leave nothing on a worker, so spilling would free nothing, and one that pauses would be waited for in vain.
NO_SPILLING = {"target": False, "spill": False, "pause": False}

CHATTY = ("distributed", "distributed.client", "distributed.gc")  # the loggers to which Dask gives a level
logger = logging.getLogger("pipeline")


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """What became of one item."""

    item: int
    """The item."""

    value: T | None = None
    """What the function returned; None where it failed."""

    error: str | None = None
    """Why there is no value, in one line: an exception's type and message, or a TilewiseError's own text."""

    quarantined: bool = False
    """Whether the item killed every worker that tried it."""

    traceback: str = ""
    """Where the function failed."""


class Engine(Protocol):
    """Runs one function over many items; a context manager that closes itself."""

    @property
    def workers(self) -> int:
        """The number of tasks that run at once, at least 1."""
        ...

    @property
    def memory(self) -> int:
        """The bytes that one task may use."""
        ...

    def run(
        self,
        function: Callable[[C, int], T],
        context: C,
        items: Iterable[int],
        *,
        needs: Callable[[int], Needs] | None = None,
        label: str = "",
    ) -> Iterator[Outcome[T]]:
        """Call ``function(context, item)`` for every item.

        Parameters
        ----------
        function
            What to do with an item; it may be called twice for one (after a death), and in any order. What it returns is small.
        context
            Handed to each call as it is; it travels to each worker once.
        items
            Numbers without repetition. They may come from a generator: they are read as they are needed.
        needs
            The resources that an item takes while it runs, as Dask names them: ``{"GPU": 1}``.
        label
            What the work is called on Dask's dashboard.

        Yields
        ------
        Outcome
            One for each item, as they complete. An item that fails is an outcome, and stops nothing.

        Raises
        ------
        ClusterError
            No worker has what an item needs, there is none at all, they cannot load the function, or the scheduler is gone.
        Interrupted
            After Ctrl-C: once, and what was running has been yielded; twice, at once.
        """
        ...

    def close(self) -> None:
        """Give back what the engine holds; a cluster of its own ends with it."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


def local() -> Engine:
    """The engine that runs in this process, one item after the other, in the order given: what the others are held against."""
    return _Local()


def on(client: Client | str, *, security: Any = None, deadline: float | None = None, wait: float = 30.0) -> Engine:
    """The engine that runs on a Dask cluster.

    Parameters
    ----------
    client
        A ``distributed.Client``, which stays open, or a scheduler's address: ``"tcp://host:8786"``.
    security
        A ``distributed.Security`` for an address ``"tls://…"``.
    deadline
        Seconds that an item may take. One that takes longer ends its worker process, and counts as having killed it. Workers without a
        nanny do not come back.
    wait
        Seconds to wait for a worker that has what an item needs: the first one, or another when all have gone.

    Raises
    ------
    ClusterError
        No scheduler answers at the address, or the client is asynchronous.
    """
    with contextlib.ExitStack() as stack:
        if isinstance(client, str):
            stack.enter_context(_quiet())
            client = stack.enter_context(_connect(client, security))
        elif client.asynchronous:
            raise ClusterError("the client is asynchronous; give one made with Client(address), or the scheduler's address")
        return _Dask(client, stack.pop_all(), deadline=deadline, wait=wait)


def cluster(workers: int | None = None, *, resources: Sequence[Needs] | None = None, deadline: float | None = None) -> Engine:
    """The engine that starts its own worker processes on this machine, each with one thread and its share of the memory.

    They listen on the loopback only, have no dashboard, and end with the engine.

    Parameters
    ----------
    workers
        How many; one for each processor if not given.
    resources
        What each worker offers, one mapping per worker: ``[{"GPU": 1}, {}]``.
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
    offers = _offers(workers, resources)
    if multiprocessing.current_process().name.startswith("Dask Worker"):
        raise ClusterError(
            "a worker process imports this script and would start a cluster of its own; begin it with: if __name__ == '__main__':"
        )
    with contextlib.ExitStack() as stack:
        stack.enter_context(_quiet())
        stack.enter_context(_same_environment())
        stack.enter_context(_patience())
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="tilewise-", ignore_cleanup_errors=True))
        try:
            own = stack.enter_context(_start(offers, folder))
            stack.callback(own.sync, _stop, own)
        except Exception as error:
            hint = "in a script, start a cluster under: if __name__ == '__main__':"
            raise ClusterError(f"{len(offers)} worker(s) did not start: {_root(error)}; {hint}") from error
        client = stack.enter_context(_connect(own.scheduler_address, own.security))
        return _Dask(client, stack.pop_all(), deadline=deadline, complete=True)


def _offers(workers: int | None, resources: Sequence[Needs] | None) -> list[Needs]:
    """What each worker that is to be started offers."""
    from dask.system import CPU_COUNT

    count = workers if workers is not None else len(resources) if resources is not None else int(CPU_COUNT)
    offers = list(resources) if resources is not None else [{}] * count
    if count < 1 or len(offers) != count:
        raise ClusterError(
            f"a cluster has at least one worker, and resources for each or none; got workers={workers}, resources={resources}"
        )
    return offers


def _root(error: BaseException) -> str:
    """The error that led to this one, in one line."""
    while error.__cause__:
        error = error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _connect(address: str, security: Any) -> Any:
    """A client of our own."""
    from distributed import Client

    try:
        return Client(address, security=security, timeout=CONNECT, set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, ValueError, TypeError) as error:
        raise ClusterError(
            f"no scheduler answers at {address} ({type(error).__name__}: {error}); start one with: dask scheduler"
        ) from error


def _start(offers: Sequence[Needs], folder: str) -> Any:
    """Start a scheduler and a worker process for each offer; ``folder`` takes their temporary files."""
    import dask
    from distributed import Nanny, Scheduler, SpecCluster

    worker = {
        "host": "127.0.0.1",
        "nthreads": 1,
        "memory_limit": int(0.9 * _machine_memory() / len(offers)),
        "local_directory": folder,
        "preload": [__name__],
        "silence_logs": logging.CRITICAL,
        "config": dask.config.merge(dask.config.config, {"distributed": {"worker": {"memory": NO_SPILLING}}}),
    }
    # A task that dies comes back to us at once, and alone: no other waits on the same worker (saturation 1).
    scheduler = {
        "host": "127.0.0.1",
        "port": 0,
        "dashboard": False,
        "dashboard_address": "127.0.0.1:0",
        "allowed_failures": 0,
        "worker_ttl": SILENCE,
    }
    with dask.config.set({"distributed.scheduler.worker-saturation": 1.0, "temporary-directory": folder}):
        return SpecCluster(  # type: ignore[no-untyped-call]
            scheduler={"cls": Scheduler, "options": scheduler},
            workers={n: {"cls": Nanny, "options": {**worker, "resources": dict(offer)}} for n, offer in enumerate(offers)},
        )


def _patience() -> contextlib.AbstractContextManager[Any]:
    """Do not let Dask give up, after 15 s, a worker that is slow to come back on a busy machine: it would not start another."""
    import dask

    return cast(contextlib.AbstractContextManager[Any], dask.config.set({"distributed.deploy.lost-worker-timeout": "1 hour"}))


async def _stop(own: Any) -> None:
    """End the workers without waiting long for what they do: Dask would give each five seconds."""
    await asyncio.gather(*(nanny.close(timeout=1) for nanny in own.workers.values()))


def dask_setup(_worker: Worker) -> None:
    """Let a worker of our own clusters outlive Ctrl-C, which a terminal sends to it too, and say nothing of its own.

    Dask calls this in the worker's process before the worker starts.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _machine_memory() -> int:
    """The bytes that this process and its children may use, as the machine, the control group or the user's limits say."""
    from distributed.system import MEMORY_LIMIT

    return int(MEMORY_LIMIT)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Dask's own messages off the terminal; what matters of them is said by this module's logger."""
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
def _same_environment() -> Iterator[None]:
    """Take back the variables that Dask's nannies set in this process for their children (threads of BLAS, seed of hashes)."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]


@contextlib.contextmanager
def _graceful() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets; the second ends what happens within, with Interrupted."""
    stop = threading.Event()

    def heard(_signal: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt  # which, unlike Interrupted, nobody's function takes for an error of its own
        stop.set()

    # Another handler is somebody's wish, and other threads cannot have any.
    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, heard)
    try:
        yield stop
    except KeyboardInterrupt:
        raise Interrupted(
            "stopped at once; what was running is lost, what is recorded is not: the same command goes on from there"
        ) from None
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _interrupted() -> Interrupted:
    return Interrupted("stopped after the work in hand, which is recorded; the same command goes on from there")


def _attempt(function: Callable[[C, int], T], context: C, item: int) -> Outcome[T]:
    """Call the function for one item."""
    try:
        return Outcome(item, function(context, item))
    except (Exception, SystemExit) as error:  # whatever an item raises is its outcome
        text = str(error) if isinstance(error, TilewiseError) else _root(error)
        logger.debug("item %d failed: %s", item, text, exc_info=True)
        return Outcome(item, error=text, traceback=traceback.format_exc())


class _Closing:
    """What makes an engine a context manager."""

    def close(self) -> None:
        """Nothing to give back."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Local(_Closing):
    """See :func:`local`."""

    workers = 1

    @property
    def memory(self) -> int:
        """Half of what is free: the other half is for what else this process and its machine do."""
        import psutil  # type: ignore[import-untyped]

        return min(int(psutil.virtual_memory().available), _machine_memory()) // 2

    def run(
        self,
        function: Callable[[C, int], T],
        context: C,
        items: Iterable[int],
        *,
        needs: Callable[[int], Needs] | None = None,  # noqa: ARG002 - this process has whatever it has
        label: str = "",  # noqa: ARG002
    ) -> Iterator[Outcome[T]]:
        """See :meth:`Engine.run`."""
        with _graceful() as stop:
            for item in items:
                if stop.is_set():
                    raise _interrupted()
                yield _attempt(function, context, item)
            if stop.is_set():
                raise _interrupted()


class _Dask(_Closing):
    """See :func:`on` and :func:`cluster`."""

    def __init__(
        self, client: Any, held: contextlib.ExitStack, *, deadline: float | None, wait: float = 30.0, complete: bool = False
    ) -> None:
        self._client, self._held, self._deadline, self._wait = client, held, deadline, wait
        self._complete = complete

    @property
    def workers(self) -> int:
        """The threads of all workers."""
        return self._crew().slots({})

    @property
    def memory(self) -> int:
        """The memory limit of the smallest worker, for each of its threads."""
        return self._crew().memory()

    def _crew(self) -> _Crew:
        return _Crew(self._client, self._wait, complete=self._complete)

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
        label: str = "",
    ) -> Iterator[Outcome[T]]:
        """See :meth:`Engine.run`."""
        errand = _Errand(function, context, self._deadline)
        crew, waiting = self._crew(), _Queue(items, needs)
        crew.muster()
        with _graceful() as stop, _lent(self._client, errand) as token, _Flights(self._client, token, label) as flights:
            while True:
                if not stop.is_set():
                    for batch in waiting.ready(crew.slots):
                        flights.send(batch)
                elif not flights.recalled:
                    flights.recall()
                if not flights.aloft and (waiting.empty or flights.recalled):
                    break
                for batch, answer in flights.landed():
                    if isinstance(answer, _Done):
                        yield from waiting.done(batch, answer)
                    elif not flights.recalled:
                        yield from waiting.suspect(batch, answer)
            if stop.is_set():
                raise _interrupted()


@dataclass(frozen=True, slots=True)
class _Errand:
    """What travels to each worker once."""

    function: Callable[[Any, int], Any]
    context: Any
    deadline: float | None

    def attempt(self, item: int) -> Outcome[Any]:
        """Call the function for one item, in a process that ends if it takes too long: nothing gentler stops a thread."""
        if self.deadline is None:
            return _attempt(self.function, self.context, item)
        watch = threading.Timer(self.deadline, os._exit, (os.EX_TEMPFAIL,))
        watch.daemon = True
        watch.start()
        try:
            return _attempt(self.function, self.context, item)
        finally:
            watch.cancel()


def _hand_out(client: Any, plugin: Any, token: str) -> None:
    """Register a plugin, again where a worker dies of something else meanwhile: that one gets it when it comes back.

    The scheduler would try for 30 s to reach a worker that it does not yet know to be dead.
    """
    for within in (ANSWER / 6, ANSWER / 3, ANSWER):
        try:
            _ask(client, lambda: client.register_plugin(plugin, name=token), within)
        except ClusterError:
            if within == ANSWER or client.status != "running":
                raise
        except Exception as error:  # pickling runs anybody's code, here and on the workers
            hint = "what is not part of tilewise must be installed there too"
            raise ClusterError(f"the function or its context cannot be sent to the workers ({_root(error)}); {hint}") from error
        else:
            return


@contextlib.contextmanager
def _lent(client: Any, errand: _Errand) -> Iterator[str]:
    """Give the errand to all workers, those to come included, for as long as this lasts; they know it by the name yielded."""
    from distributed import WorkerPlugin

    token = f"tilewise-{uuid.uuid4().hex}"
    plugin = WorkerPlugin()
    vars(plugin)["errand"] = errand  # a class of our own would have to be defined where distributed is already imported
    try:
        _hand_out(client, plugin, token)
        yield token
    finally:
        # The scheduler may be what failed, and its workers forget with it; a recall has unregistered the errand already; a worker
        # that could not load the errand does not have it. But a scheduler that kept it would give it to each worker that comes.
        with contextlib.suppress(ClusterError, LookupError, ValueError):
            _ask(client, lambda: client.unregister_worker_plugin(token))


@dataclass(frozen=True, slots=True)
class _Done:
    """What a task answers."""

    outcomes: list[Outcome[Any]]
    """Of the first items of its batch; of all of them unless it took too long or was recalled."""

    seconds: float
    """How long it took."""


@dataclass(frozen=True, slots=True)
class _Lost:
    """What is known of a task that did not answer."""

    reason: str
    """For people."""

    killed: bool
    """Whether the worker died; else the scheduler or the connection lost it."""


def _perform(token: str, items: Sequence[int]) -> _Done:
    """Run a batch: the task that Dask sees."""
    from distributed import get_worker

    plugins = get_worker().plugins
    errand, outcomes, began = vars(plugins[token])["errand"], [], time.monotonic()
    for item in items:
        outcomes.append(errand.attempt(item))
        if token not in plugins or time.monotonic() - began > 2 * AIM:
            break
    return _Done(outcomes, time.monotonic() - began)


def _ask(client: Any, question: Callable[[], Awaitable[T]], within: float | None = None) -> T:
    """What the scheduler answers within a bounded time, whatever became of it."""

    async def ask() -> T:
        return await question()

    try:
        if client.status == "running":
            answer: T = client.sync(ask, callback_timeout=within or ANSWER)
            return answer
    except (OSError, TimeoutError) as error:
        raise _gone(f"{type(error).__name__}: {error}") from error
    raise _gone(f"the connection is {client.status}")


class _Flights:
    """The tasks in flight. What has landed is forgotten here, and so by the scheduler."""

    def __init__(self, client: Any, token: str, label: str) -> None:
        self._client, self._token = client, token
        self._group = f"{label or 'tiles'}-{token}"
        self._sent = 0
        self._landings: queue.SimpleQueue[tuple[Any, _Batch, _Done | _Lost]] = queue.SimpleQueue()
        self.aloft: set[Any] = set()
        self.recalled = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.aloft:
            with contextlib.suppress(ClusterError):  # a scheduler that is gone has nothing to cancel
                _ask(self._client, lambda: self._client.cancel(list(self.aloft)))

    def send(self, batch: _Batch) -> None:
        """Submit a batch; those that need something rare go first on the workers that have it."""
        self._sent += 1
        needs = batch.lane.needs
        key = (self._group, self._sent)
        future = self._client.submit(
            _perform, self._token, batch.items, key=key, pure=False, resources=needs or None, priority=1 if needs else 0
        )
        self.aloft.add(future)
        self._client.loop.add_callback(self._follow, future, batch)

    async def _follow(self, future: Any, batch: _Batch) -> None:
        from distributed import CancelledError, KilledWorker

        answer: _Done | _Lost
        try:
            answer = await future
        except KilledWorker:
            answer = _Lost("its worker died (a signal, the limit of memory or the deadline)", killed=True)
        except (Exception, CancelledError) as error:  # noqa: BLE001 - an item's own failure is an outcome: this is Dask's
            answer = _Lost(f"Dask lost it ({_root(error)})", killed=False)
        self._landings.put((future, batch, answer))

    def landed(self) -> Iterator[tuple[_Batch, _Done | _Lost]]:
        """The batches that have landed since the last call, with what they brought; none if none did within a moment."""
        with contextlib.suppress(queue.Empty):
            landing = self._landings.get(timeout=TICK)
            while self._client.status == "running":
                future, batch, answer = landing
                self.aloft.discard(future)
                yield batch, answer
                landing = self._landings.get_nowait()
        if self._client.status != "running":
            raise _gone(f"the connection is {self._client.status}")

    def recall(self) -> None:
        """Let tasks end after the item that they are at: without the errand the others end as soon as they begin."""
        self.recalled = True
        _ask(self._client, lambda: self._client.unregister_worker_plugin(self._token))


class _Crew:
    """What the workers offer, asked again from time to time."""

    def __init__(self, client: Any, wait: float, *, complete: bool) -> None:
        self._client, self._wait = client, wait
        # What nobody offers when everybody is there from the start, will not be offered.
        self._begun = -math.inf if complete else time.monotonic()
        self._asked, self._workers = -math.inf, list[Mapping[str, Any]]()
        self._last: dict[tuple[tuple[str, float], ...], float] = {}

    def slots(self, needs: Needs) -> int:
        """The number of tasks with these needs that can run at once; 0 only for as long as one waits for a worker to come back.

        Raises
        ------
        ClusterError
            No worker has offered this for too long.
        """
        self.muster()
        count = sum(_slots(worker, needs) for worker in self._workers)
        kind, now = tuple(sorted(needs.items())), time.monotonic()
        if count:
            self._last[kind] = now
        elif now - self._last.get(kind, self._begun) > self._wait:
            raise ClusterError(f"no worker offers {dict(needs) or 'anything'}; start one with: {self._remedy(needs)}")
        return count

    def memory(self) -> int:
        """The least memory of a worker's thread, in bytes."""
        self.muster()
        return min(int(worker["memory_limit"] or _machine_memory()) // int(worker["nthreads"]) for worker in self._workers)

    def muster(self) -> None:
        """Ask who is there; the first time, wait until somebody is."""
        patience = time.monotonic() + self._wait
        while time.monotonic() - self._asked > REFRESH or not (self._workers or self._last):
            identity = _ask(self._client, lambda: self._client.scheduler.identity(n_workers=-1))
            self._workers, self._asked = list(identity["workers"].values()), time.monotonic()
            if not self._workers and not self._last:
                if time.monotonic() > patience:
                    raise ClusterError(f"no worker came within {self._wait:g} s; start one with: {self._remedy({})}")
                threading.Event().wait(TICK)

    def _remedy(self, needs: Needs) -> str:
        offer = " ".join(f"{name}={amount:g}" for name, amount in needs.items())
        return f"dask worker {self._client.scheduler.address}" + (f' --resources "{offer}"' if offer else "")


def _slots(worker: Mapping[str, Any], needs: Needs) -> int:
    """The number of tasks with these needs that a worker can run at once."""
    return min([int(worker["nthreads"]), *(int(worker["resources"].get(name, 0) // amount) for name, amount in needs.items())])


@dataclass(slots=True, eq=False)
class _Lane:
    """The items that wait for the same resources: they are never behind those that wait for others."""

    needs: dict[str, float]
    fresh: deque[int] = field(default_factory=deque)
    suspects: deque[int] = field(default_factory=deque)
    size: int = 1
    """The number of items that take about AIM seconds, as far as known."""
    aloft: int = 0
    """Its batches in flight."""

    @property
    def idle(self) -> bool:
        """Whether nothing of it waits or flies."""
        return not (self.fresh or self.suspects or self.aloft)

    def take(self, most: int) -> tuple[int, ...]:
        """The items of its next batch; a suspect goes by itself."""
        if self.suspects:
            return (self.suspects.popleft(),)
        return tuple(self.fresh.popleft() for _ in range(min(most, len(self.fresh))))

    def learn(self, done: _Done) -> None:
        """Fit the size to what a batch took, slowly upwards: the first items of an image may be its empty border."""
        fitting = AIM * len(done.outcomes) / max(done.seconds, 1e-9)
        self.size = max(1, int(min(fitting, 2 * self.size, LARGEST)))


@dataclass(frozen=True, slots=True)
class _Batch:
    """Items that one task takes."""

    lane: _Lane
    items: tuple[int, ...]
    alone: bool = False
    """Whether it is sent when nothing else is in flight."""


class _Queue:
    """Which items go next. An item of a batch whose worker died is a suspect: it is tried again by itself, in the end alone."""

    def __init__(self, items: Iterable[int], needs: Callable[[int], Needs] | None) -> None:
        self._items, self._needs = iter(items), needs
        self._unread: float = len(items) if isinstance(items, Sized) else math.inf
        self._lanes: dict[tuple[tuple[str, float], ...], _Lane] = {(): _Lane({})}
        self._alone: deque[tuple[_Lane, int]] = deque()
        self._deaths: dict[int, int] = {}

    @property
    def empty(self) -> bool:
        """Whether no item waits, flies or is still to be read."""
        return not (self._unread or self._alone) and all(lane.idle for lane in self._lanes.values())

    def ready(self, slots: Callable[[Needs], int]) -> Iterator[_Batch]:
        """The batches to send now: for each kind of needs a few more than the ``slots`` that can run at once."""
        wanted = 1
        while wanted:
            self._read(wanted)
            wanted = 0
            for lane in self._lanes.values():
                count = slots(lane.needs) if not (lane.needs and lane.idle) else 0
                while lane.aloft < ALOFT * count:
                    # The last items are shared out, so that no worker is left with a long batch while the others have nothing.
                    most = int(min(lane.size, max(1, (len(lane.fresh) + self._unread) / (2 * count))))
                    if not lane.suspects and len(lane.fresh) < most and self._unread and self._held < AHEAD:
                        wanted = max(wanted, most)
                        break
                    if not (items := lane.take(most)):
                        break
                    yield self._launch(_Batch(lane, items))
        if self._alone and not self._unread and all(lane.idle for lane in self._lanes.values()):
            lane, item = self._alone.popleft()
            yield self._launch(_Batch(lane, (item,), alone=True))

    def done(self, batch: _Batch, done: _Done) -> Iterator[Outcome[Any]]:
        """Take in what a task answered; the items that it did not reach go back to the front."""
        batch.lane.aloft -= 1
        batch.lane.fresh.extendleft(reversed(batch.items[len(done.outcomes) :]))
        batch.lane.learn(done)
        for outcome in done.outcomes:
            self._deaths.pop(outcome.item, None)
            yield outcome

    def suspect(self, batch: _Batch, lost: _Lost) -> Iterator[Outcome[Any]]:
        """Take in that a task was lost: its items are tried again, unless it was alone."""
        batch.lane.aloft -= 1
        verdict = "given up" if batch.alone else "tried again"
        logger.warning("%s; %d item(s) from %d on: %s", lost.reason, len(batch.items), batch.items[0], verdict)
        for item in batch.items:
            deaths = self._deaths[item] = self._deaths.get(item, 0) + 1
            if batch.alone:
                del self._deaths[item]
                yield Outcome(item, error=f"{lost.reason}, {deaths} times, the last with nothing else running", quarantined=lost.killed)
            elif deaths <= SINGLY:
                batch.lane.suspects.append(item)
            else:
                self._alone.append((batch.lane, item))

    def _launch(self, batch: _Batch) -> _Batch:
        batch.lane.aloft += 1
        return batch

    @property
    def _held(self) -> int:
        return sum(len(lane.fresh) for lane in self._lanes.values())

    def _read(self, count: int) -> None:
        """Read some more items, into the lanes of their needs."""
        for _ in range(count):
            item = next(self._items, None)
            if item is None:
                self._unread = 0
                return
            needs = {name: amount for name, amount in (self._needs(item) if self._needs else {}).items() if amount}
            self._lanes.setdefault(tuple(sorted(needs.items())), _Lane(needs)).fresh.append(item)
            self._unread -= 1


def _gone(why: str) -> ClusterError:
    return ClusterError(
        f"the scheduler cannot be reached any more ({why}); what is recorded stays: start the cluster again, and give the same command"
    )
