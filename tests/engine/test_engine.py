"""Where work runs: every engine yields what the local one does, whatever dies."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.engine import Engine, Outcome, batches, cluster, local, on, own_cluster, worker_plugin
from pipeline.errors import ClusterError, SegmenterError
from pipeline.execution import worker_preload

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
LOST = "its worker died"


def multiply(factor: int, item: int) -> int:
    return factor * item


def fussy(modulus: int, item: int) -> int:
    if item % modulus == 1:
        raise ValueError(f"{item} is\nodd here")
    if item % modulus == 2:
        raise SegmenterError(f"tile {item}: two\nlines")
    return item % modulus


def whereabouts(seconds: float, _item: int) -> int:
    time.sleep(seconds)
    return os.getpid()


def poisonous(poison: int, item: int) -> int:
    if item == poison:
        os.kill(os.getpid(), signal.SIGSEGV)
    time.sleep(0.005)
    return item


def endless(poison: int, item: int) -> int:
    if item == poison:
        threading.Event().wait()
    return item


def dask_name(_context: None, _item: int) -> str:
    from distributed import get_worker

    time.sleep(0.02)
    return str(get_worker().name)


def whose(poison: int | None, item: int) -> tuple[str, int]:
    """The worker's name and process, for any item but one, which ends it."""
    if item == poison:
        os.kill(os.getpid(), signal.SIGKILL)
    return dask_name(None, item), os.getpid()


def every_third(item: int) -> dict[str, float]:
    return {"GPU": 1} if item % 3 == 0 else {}


class Counted:
    """A context that knows how often it was unpickled in its process."""

    arrivals = 0

    def __setstate__(self, _state: object) -> None:
        type(self).arrivals += 1

    def __getstate__(self) -> int:
        return 1


def arrivals(context: Counted, _item: int) -> tuple[int, int]:
    return os.getpid(), type(context).arrivals


def address(pool: Engine) -> str:
    return str(pool._client.scheduler.address)


@pytest.fixture(scope="module")
def pool() -> Iterator[Engine]:
    with cluster(resources=[{"disk": 2}, {}]) as started:
        yield started


@pytest.fixture
def lone_scheduler() -> Iterator[str]:
    """The address of a scheduler without workers."""
    from distributed import Scheduler, SpecCluster

    options = {
        "host": "127.0.0.1",
        "port": 0,
        "dashboard": False,
        "dashboard_address": "127.0.0.1:0",
    }
    with SpecCluster(scheduler={"cls": Scheduler, "options": options}) as lone:
        yield lone.scheduler_address


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"tcp://127.0.0.1:{server.getsockname()[1]}"


class Daemons:
    """A scheduler and workers as a user starts them by hand."""

    def __init__(self, *workers: tuple[str, ...]) -> None:
        self.address = free_address()
        port = self.address.rpartition(":")[2]
        self.processes: list[subprocess.Popen[bytes]] = []
        self.scheduler = self.start(
            "scheduler", "--host", "127.0.0.1", "--port", port, "--dashboard-address", "127.0.0.1:0"
        )
        for options in workers:
            self.start(
                "worker",
                self.address,
                "--host",
                "127.0.0.1",
                "--nthreads",
                "1",
                "--dashboard-address",
                "127.0.0.1:0",
                *options,
            )

    def start(self, role: str, *options: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.dask_{role}", *options]
        self.processes.append(subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.DEVNULL))
        return self.processes[-1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            if process.poll() is None:
                nannied = psutil.Process(process.pid).children(recursive=True)
                process.kill()
                psutil.wait_procs(nannied, timeout=10)
            process.wait()


@pytest.fixture(scope="module")
def daemons() -> Iterator[Daemons]:
    with Daemons(("--name", "plain"), ("--name", "gpu", "--resources", "GPU=1")) as started:
        yield started


def by_item(outcomes: Iterable[Outcome[Any]]) -> list[tuple[object, ...]]:
    return sorted(
        (each.item, each.value, each.error, each.quarantined, bool(each.traceback))
        for each in outcomes
    )


# What an outcome is


def test_local_keeps_the_order() -> None:
    """The local engine yields one outcome for each item, in the order given."""
    assert list(local().run(multiply, 3, [2, 0, 1])) == [
        Outcome(2, 6),
        Outcome(0, 0),
        Outcome(1, 3),
    ]


def test_errors_are_outcomes() -> None:
    """A failing item stops nothing; its error is one line, except that our own errors keep their
    text; the traceback is kept.
    """
    first, second, third = local().run(fussy, 3, range(3))
    assert first == Outcome(0, 0)
    assert (second.error, second.value) == ("ValueError: 1 is odd here", None)
    assert third.error == "tile 2: two\nlines"
    assert "in fussy" in third.traceback


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.integers(0, 10_000), unique=True, max_size=60), st.integers(3, 9), st.booleans())
def test_same_outcomes_as_local(pool: Engine, items: list[int], modulus: int, lazily: bool) -> None:
    """A cluster yields the outcomes of the local engine, in some order, whether it can count the
    items or not.
    """
    there = pool.run(fussy, modulus, iter(items) if lazily else items)
    assert by_item(there) == by_item(local().run(fussy, modulus, items))


def test_lambdas_travel(pool: Engine) -> None:
    """What is defined in a function or a notebook runs on workers, and so do contexts
    that hold it.
    """
    outcomes = pool.run(
        lambda context, item: context["add"](item), {"add": lambda item: item + 1}, range(5)
    )
    assert sorted(outcome.value for outcome in outcomes) == [1, 2, 3, 4, 5]


def test_unsendable_results(pool: Engine) -> None:
    """A result that cannot be pickled is the failure of its item, not of the others in
    its batch.
    """
    outcomes = {
        each.item: each
        for each in pool.run(
            lambda _, item: threading.Lock() if item == 7 else item, None, range(20)
        )
    }
    assert sorted(outcomes) == list(range(20))
    assert [item for item, each in outcomes.items() if each.error] == [7]
    assert "pickle" in str(outcomes[7].error)


def test_context_travels_once(pool: Engine) -> None:
    """Each worker gets the context once, however many batches it runs."""
    seen = {outcome.value for outcome in pool.run(arrivals, Counted(), range(3000))}
    assert {count for _, count in seen} == {1}


def test_tasks_wait_for_what_is_being_loaded() -> None:
    """The first task of a new worker begins when the thread that imports what it needs has ended:
    half a package is no package.
    """
    with cluster(2) as engine:
        for outcome in engine.run(
            lambda *_: [thread.name for thread in threading.enumerate()], None, range(8)
        ):
            assert worker_preload.NAME not in outcome.value
            assert outcome.value


def test_nothing_stays_on_workers(pool: Engine) -> None:
    """When a run ends, even an abandoned one, its workers have forgotten it."""
    run = pool.run(whereabouts, 0.01, range(10_000))
    next(run)
    run.close()
    plugins = pool._client.run(
        lambda dask_worker: [name for name in dask_worker.plugins if name.startswith("tilewise")]
    )
    assert list(plugins.values()) == [[], []]


# How much is in flight


def test_million_items_are_not_held(pool: Engine) -> None:
    """A generator is read as its items are needed, and a cheap item costs the driver less than a
    millisecond.
    """
    read = done = most = 0

    def items() -> Iterator[int]:
        nonlocal read
        for item in range(100_000):
            read += 1
            yield item

    began = time.process_time()  # what else the machine does is not the driver's
    for outcome in pool.run(multiply, 2, items()):
        done, most = done + 1, max(most, read - done)
        assert outcome.value == 2 * outcome.item
    each = (time.process_time() - began) / done
    print(f"{each * 1e6:.0f} µs an item, at most {most} read and not done")
    assert done == 100_000
    assert most <= 2 * batches.ALOFT * batches.LARGEST + batches.LARGEST
    assert each < 1e-3


def simulate(
    needed: Mapping[int, str], poison: set[int], crew: Mapping[str, int], data: st.DataObject
) -> list[Outcome[int]]:
    """Run a queue against workers of which each dies of poison; check what is in flight."""
    waiting = batches.Queue(iter(needed), lambda item: {needed[item]: 1.0} if needed[item] else {})
    aloft: list[batches.Batch] = []
    outcomes: list[Outcome[int]] = []
    while not waiting.empty:
        aloft += waiting.ready(lambda needs: crew["".join(needs)])
        if not aloft:
            continue
        counts = Counter(needed[batch.items[0]] for batch in aloft)
        assert all(counts[kind] <= batches.ALOFT * crew[kind] for kind in counts)
        assert all(len({needed[item] for item in batch.items}) == 1 for batch in aloft)
        assert len(aloft) == 1 or not any(batch.alone for batch in aloft)
        batch = aloft.pop(data.draw(st.integers(0, len(aloft) - 1)))
        if poison & set(batch.items):
            outcomes += waiting.suspect(batch, batches.Lost(LOST, killed=True))
        else:
            reached = batch.items[: data.draw(st.integers(1, len(batch.items)))]
            outcomes += waiting.done(
                batch, batches.Done([Outcome(item, item) for item in reached], 1e-4)
            )
    return outcomes


@given(
    st.lists(st.sampled_from(["", "", "GPU", "disk"]), max_size=80),
    st.sets(st.integers(0, 79), max_size=5),
    st.data(),
)
def test_queue_loses_nobody(kinds: list[str], poison: set[int], data: st.DataObject) -> None:
    """Whatever dies in whatever order, each item has one outcome, and exactly the poisonous ones
    are quarantined.
    """
    outcomes = simulate(dict(enumerate(kinds)), poison, {"": 3, "GPU": 1, "disk": 2}, data)
    assert sorted(outcome.item for outcome in outcomes) == list(range(len(kinds)))
    assert {outcome.item for outcome in outcomes if outcome.quarantined} == {
        item for item in poison if item < len(kinds)
    }


def test_scarce_resources_do_not_block() -> None:
    """A long row of items for the only GPU does not keep the others from being sent."""
    waiting = batches.Queue(range(2000), lambda item: {"GPU": 1.0} if item < 1000 else {})
    sent = list(waiting.ready(lambda needs: 1 if needs else 4))
    assert Counter(bool(batch.lane.needs) for batch in sent) == {
        True: batches.ALOFT,
        False: 4 * batches.ALOFT,
    }


def test_last_items_are_shared_out() -> None:
    """Where the number of items is known, the last batches are small, so that no worker goes
    without.
    """
    waiting = batches.Queue(range(40), None)
    (lane,) = waiting._lanes.values()
    lane.size = batches.LARGEST
    assert max(len(batch.items) for batch in waiting.ready(lambda _: 4)) <= 5


# Deaths


def test_killed_worker(pool: Engine) -> None:
    """A worker that is killed in mid-run costs no item."""
    run = pool.run(whereabouts, 0.02, range(80))
    first = next(run)
    os.kill(first.value, signal.SIGKILL)
    outcomes = [first, *run]
    assert sorted(outcome.item for outcome in outcomes) == list(range(80))
    assert not [outcome for outcome in outcomes if outcome.error]
    assert len({outcome.value for outcome in outcomes}) > 1


def test_begun_while_a_worker_dies(pool: Engine) -> None:
    """A run that begins when a worker has just been killed is complete all the same."""
    victim = next(pool.run(whereabouts, 0.0, range(1))).value
    os.kill(victim, signal.SIGKILL)
    assert by_item(pool.run(multiply, 3, range(50))) == by_item(local().run(multiply, 3, range(50)))


def test_poison_is_the_only_one_lost(pool: Engine, caplog: pytest.LogCaptureFixture) -> None:
    """An item that kills each worker that tries it is quarantined, and only that one; the log tells
    of each death.
    """
    with caplog.at_level(logging.WARNING, "pipeline"):
        outcomes = list(pool.run(poisonous, 17, range(40)))
    assert sorted(outcome.item for outcome in outcomes) == list(range(40))
    (lost,) = (outcome for outcome in outcomes if outcome.error)
    assert (lost.item, lost.quarantined) == (17, True)
    assert lost.error.startswith(LOST)
    assert len(caplog.records) >= batches.SINGLY + 2


def test_deadline(pool: Engine) -> None:
    """An item that takes longer than its deadline is quarantined; the others are not."""
    with on(address(pool), security=pool._client.security, deadline=1.0) as hurried:
        outcomes = list(hurried.run(endless, 3, range(10)))
    assert sorted(outcome.item for outcome in outcomes) == list(range(10))
    assert [outcome.item for outcome in outcomes if outcome.quarantined] == [3]


@pytest.mark.heavy
def test_stopped_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker process that stops answering is restarted, and its items are done by others; closing
    does not wait for it.
    """
    monkeypatch.setattr(own_cluster, "SILENCE", 5.0)
    with cluster(2) as own:
        run = own.run(whereabouts, 0.05, range(100))
        first = next(run)
        os.kill(first.value, signal.SIGSTOP)
        outcomes = [first, *run]
    assert sorted(outcome.item for outcome in outcomes) == list(range(100))
    assert not [outcome for outcome in outcomes if outcome.error]


# Resources, and what is not there


def test_resources(daemons: Daemons) -> None:
    """Items that need a GPU run on the worker that offers it and nowhere else, and the other worker
    is not idle.
    """
    with on(daemons.address) as engine:
        outcomes = list(
            engine.run(
                dask_name, None, range(60), needs=lambda item: {"GPU": 1} if item % 3 == 0 else {}
            )
        )
        assert engine.memory > 0
    names = defaultdict(set)
    for outcome in outcomes:
        names[outcome.item % 3 == 0].add(outcome.value)
    assert len(outcomes) == 60
    assert names[True] == {"gpu"}
    assert "plain" in names[False]


def test_missing_resource(pool: Engine, daemons: Daemons) -> None:
    """A resource that no worker offers is refused before anything is sent, with what would start
    such a worker.
    """
    with pytest.raises(
        ClusterError,
        match=r"no worker offers \{'GPU': 1\}; start one with: cluster\(resources=.*--gpus 1",
    ):
        next(pool.run(multiply, 1, range(4), needs=lambda _: {"GPU": 1}))
    with on(daemons.address, wait=0.3) as theirs:
        for ask in (
            theirs.require,
            lambda needs: next(theirs.run(multiply, 1, range(4), needs=lambda _: needs)),
        ):
            with pytest.raises(
                ClusterError,
                match=r"no worker offers .*'disk': 1.* dask worker tcp://\S+ --resources "
                r"\"(disk=1,)?GPU=1",
            ):
                ask({"disk": 1, "GPU": 1})
    with pytest.raises(
        ClusterError, match=r"does not offer \{'GPU': 1\}; .*local\(\{'GPU': 1\}\), --gpus 1"
    ):
        local().require({"GPU": 1})


def test_offers(pool: Engine, daemons: Daemons) -> None:
    """An engine tells what its workers offer, and returns at once where something is required that
    is there.
    """
    with on(daemons.address) as theirs:
        theirs.require({"GPU": 1})
        assert theirs.offers({"GPU": 1})
        assert not theirs.offers({"GPU": 2})
    assert pool.offers({"disk": 2})
    assert not pool.offers({"GPU": 1})
    assert local().offers({})
    assert not local().offers({"GPU": 1})
    local({"GPU": 1}).require({"GPU": 1})


@pytest.fixture
def mixed() -> Iterator[Engine]:
    """A worker with a GPU, as it says, and one without; each is called by its number."""
    with cluster(2, gpus=1) as started:
        yield started


@pytest.mark.parametrize("poison", [None, 40], ids=["killed", "poisoned"])
@pytest.mark.parametrize("where", ["own", "theirs"])
def test_reserved(request: pytest.FixtureRequest, where: str, poison: int | None) -> None:
    """Items that need nothing stay away from a worker with what is reserved, also when the only
    other one dies and comes back elsewhere.
    """
    if where == "own":
        engine, names = request.getfixturevalue("mixed"), {True: "0", False: "1"}
    else:
        engine, names = (
            on(request.getfixturevalue("daemons").address),
            {True: "gpu", False: "plain"},
        )
        engine._client.wait_for_workers(2)
    with engine:
        run = engine.run(whose, poison, range(90), needs=every_third, reserved=["GPU"])
        outcomes = []
        for outcome in run:
            outcomes.append(outcome)
            if poison is None and outcome.item == 7:
                os.kill(outcome.value[1], signal.SIGKILL)
    assert sorted(outcome.item for outcome in outcomes) == list(range(90))
    assert [outcome.item for outcome in outcomes if outcome.error] == (
        [] if poison is None else [poison]
    )
    done = [outcome for outcome in outcomes if not outcome.error]
    assert {outcome.item: outcome.value[0] for outcome in done} == {
        outcome.item: names[outcome.item % 3 == 0] for outcome in done
    }
    assert len({outcome.value[1] for outcome in done if outcome.item % 3}) >= 2


def test_reserved_and_no_other(pool: Engine) -> None:
    """Where every worker offers what is reserved, items that need nothing go to them."""
    with cluster(1, gpus=1) as own:
        outcomes = list(own.run(whose, None, range(12), needs=every_third, reserved=["GPU"]))
    assert sorted(outcome.item for outcome in outcomes) == list(range(12))
    assert {outcome.value[0] for outcome in outcomes} == {"0"}


def visible(_context: None, _item: int) -> str | None:
    return os.environ.get("CUDA_VISIBLE_DEVICES")


@pytest.mark.parametrize("lent", [None, "5,7,8"])
def test_gpus_of_workers(monkeypatch: pytest.MonkeyPatch, lent: str | None) -> None:
    """Each worker with a GPU sees one of its own, of those that this process sees."""
    if lent is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", lent)
    with cluster(gpus=2) as own:
        assert own.workers >= 3
        seen = {
            outcome.value
            for outcome in own.run(visible, None, range(40), needs=lambda _: {"GPU": 1})
        }
        assert seen <= {"0", "1"} if lent is None else seen <= {"5", "7"}
        on_each = own._client.run(lambda: os.environ.get("CUDA_VISIBLE_DEVICES"))
    assert Counter(on_each.values()) == Counter(
        ["0", "1"] if lent is None else ["5", "7"]
    ) + Counter({lent: len(on_each) - 2})


def test_too_many_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """More workers with GPUs than workers, or than GPUs that this process may use, are refused."""
    with pytest.raises(
        ClusterError, match=r"gpus: 3, of 2 workers.*; allowed: up to one for each worker"
    ):
        cluster(2, gpus=3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4")
    with pytest.raises(
        ClusterError, match="2 GPUs are asked for, and CUDA_VISIBLE_DEVICES=4 shows 1"
    ):
        cluster(2, gpus=2)


def test_own_resources(pool: Engine) -> None:
    """The workers of one's own cluster offer what they are told to, each its own."""
    assert pool.workers == 2
    pids = {
        outcome.value
        for outcome in pool.run(whereabouts, 0.01, range(20), needs=lambda _: {"disk": 2})
    }
    assert len(pids) == 1


def test_no_worker(lone_scheduler: str) -> None:
    """A cluster without workers is an error after a while, and says how to start one."""
    with (
        on(lone_scheduler, wait=0.3) as engine,
        pytest.raises(ClusterError, match=r"no worker came within 0.3 s; .* dask worker tcp://"),
    ):
        next(engine.run(multiply, 1, range(4)))


def test_no_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address at which nothing listens is an error after a while."""
    monkeypatch.setattr(own_cluster, "CONNECT", 0.5)
    with pytest.raises(ClusterError, match=r"no scheduler answers at tcp://127\.0\.0\.1:"):
        on(free_address())


def test_code_missing_on_workers(
    pool: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A function of a module that the workers lack is an error that names the module."""
    (tmp_path / "only_here.py").write_text("def function(context, item): return item\n")
    monkeypatch.syspath_prepend(tmp_path)
    from only_here import function

    with pytest.raises(ClusterError, match="No module named 'only_here'"):
        next(pool.run(function, None, range(4)))


@pytest.mark.parametrize(
    ("workers", "resources"),
    [
        pytest.param(0, None, id="none"),
        pytest.param(2, [{}], id="too few"),
        pytest.param(None, [], id="no offers"),
    ],
)
def test_wrong_numbers(workers: int | None, resources: list[dict[str, float]] | None) -> None:
    """A cluster of no workers, or with resources for others than it has, is refused."""
    with pytest.raises(ClusterError, match="at least one worker, and resources for each"):
        cluster(workers, resources=resources)


# Ends


def test_scheduler_gone(daemons: Daemons, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run whose scheduler does not answer, or is gone, ends with an error in a bounded time."""
    # The last test that uses these processes: it leaves no scheduler.
    for how in (signal.SIGSTOP, signal.SIGKILL):
        with on(daemons.address) as mine, monkeypatch.context() as hurry:
            run = mine.run(whereabouts, 0.05, range(100_000))
            next(run)
            hurry.setattr(worker_plugin, "ANSWER", 1.0)
            daemons.scheduler.send_signal(how)
            began = time.monotonic()
            with pytest.raises(ClusterError, match="scheduler cannot be reached"):
                list(run)
            assert time.monotonic() - began < 20
            daemons.scheduler.send_signal(signal.SIGCONT)


def test_clients_stay_open(lone_scheduler: str) -> None:
    """An engine does not close a client that it was given."""
    from distributed import Client

    with Client(lone_scheduler, set_as_default=False) as client:
        on(client).close()
        assert client.status == "running"


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A closed cluster leaves no process, no file, no variable and no changed logger."""
    import distributed  # noqa: F401  it sets its loggers when it is first imported

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    family = set(psutil.Process().children(recursive=True))
    before = dict(os.environ), logging.getLogger("distributed").level
    with cluster(1) as own:
        assert [outcome.value for outcome in own.run(multiply, 3, [4])] == [12]
    assert (dict(os.environ), logging.getLogger("distributed").level) == before
    commands = [
        " ".join(process.cmdline())
        for process in set(psutil.Process().children(recursive=True)) - family
    ]
    assert [
        command for command in commands if "resource_tracker" not in command
    ] == []  # Python's own, kept until exit
    assert list(tmp_path.iterdir()) == []


SCRIPT = """
import sys, time
from pipeline import engine
from pipeline.errors import Interrupted

def slow(seconds, item):
    print("at", item, flush=True)
    time.sleep(seconds if item else 0)
    return item

def main():
    with getattr(engine, sys.argv[1])(*map(int, sys.argv[3:])) as mine:
        try:
            for outcome in mine.run(slow, float(sys.argv[2]), range(1000)):
                print("done", outcome.item, outcome.error, flush=True)
        except Interrupted as error:
            print("interrupted", error, flush=True)
            return error.exit_code

if __name__ == "__main__":
    sys.exit(main())
"""


def begin(folder: Path, *arguments: str, text: str = SCRIPT) -> subprocess.Popen[str]:
    """A script in a process group of its own, as a terminal has it."""
    (folder / "script.py").write_text(textwrap.dedent(text))
    command = [sys.executable, str(folder / "script.py"), *arguments]
    environment = {**ENVIRONMENT, "TMPDIR": str(folder)}
    return subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def family_at_work(script: subprocess.Popen[str]) -> list[psutil.Process]:
    """The script's children, once it has said that an item is done and another begun."""
    done = begun = False
    while not (done and begun):
        line = script.stdout.readline()
        assert line, script.stderr.read()
        done, begun = (
            done or line.startswith("done"),
            begun or (line.startswith("at") and line != "at 0\n"),
        )
    return psutil.Process(script.pid).children(recursive=True)


@pytest.mark.parametrize(
    "arguments", [("local", "0.5"), ("cluster", "0.5", "2")], ids=["local", "cluster"]
)
def test_interrupted_once(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """The first Ctrl-C lets the items in hand finish and yields them, then says so; no process and
    no file is left.
    """
    script = begin(tmp_path, *arguments)
    family = family_at_work(script)
    os.killpg(script.pid, signal.SIGINT)
    rest, complaints = script.communicate(timeout=30)
    lines = rest.splitlines()
    assert script.returncode == 130
    assert lines[-1].startswith("interrupted stopped after the work in hand")
    assert 1 <= sum(line.startswith("done") for line in lines) < 10
    assert all(line.endswith("None") for line in lines if line.startswith("done"))
    assert complaints == ""
    assert not psutil.wait_procs(family, timeout=10)[1]
    assert [path.name for path in tmp_path.iterdir()] == ["script.py"]


@pytest.mark.parametrize(
    "arguments", [("local", "100"), ("cluster", "100", "2")], ids=["local", "cluster"]
)
def test_interrupted_twice(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """A second Ctrl-C ends at once what the first one waits for; no process is left."""
    script = begin(tmp_path, *arguments)
    family = family_at_work(script)
    os.killpg(script.pid, signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        script.wait(1)
    os.killpg(script.pid, signal.SIGINT)
    rest, complaints = script.communicate(timeout=30)
    assert script.returncode == 130
    assert rest.splitlines()[-1].startswith("interrupted stopped at once")
    assert complaints == ""
    assert not psutil.wait_procs(family, timeout=10)[1]


def test_script_without_guard(tmp_path: Path) -> None:
    """A script that starts a cluster when it is imported ends with advice, neither hanging nor
    multiplying.
    """
    script = begin(tmp_path, text="from pipeline.engine import cluster\ncluster(2)\n")
    _, complaints = script.communicate(timeout=60)
    assert script.returncode != 0
    assert "ClusterError" in complaints.splitlines()[-1]
    assert "if __name__ == '__main__':" in complaints.splitlines()[-1]
