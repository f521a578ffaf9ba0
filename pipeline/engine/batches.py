"""Queue of items: batches and their sizes, and retries of items near a worker's death. Knows
nothing of Dask.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass, field
from typing import Any

from pipeline.config import logs
from pipeline.engine.contract import Needs, Outcome

ALOFT = 3  # batches in flight for each task that can run at once: one runs, two wait for it
AIM = (
    0.5  # seconds a batch is meant to take; one that has taken twice as long comes back unfinished
)
LARGEST = 256  # items in a batch
STEP = 4  # times as many items as the batch before has a batch at most
# items read before they are sent, so that one kind of item does not keep another waiting
AHEAD = 16_384
# times an item that was near a death is tried by itself among others, before it is tried alone
SINGLY = 1

logger = logs.logger()


@dataclass(frozen=True, slots=True)
class Done:
    """The answer of a task."""

    outcomes: list[Outcome[Any]]
    """Outcomes of the first items of its batch; of all unless it took too long or was recalled."""

    seconds: float
    """Duration of the task."""


@dataclass(frozen=True, slots=True)
class Lost:
    """A task that did not answer."""

    reason: str
    """The reason, for people."""

    killed: bool
    """Whether the worker died; otherwise the scheduler or the connection lost the task."""


@dataclass(slots=True, eq=False)
class Lane:
    """Items that wait for the same resources, in a queue of their own."""

    needs: dict[str, float]
    fresh: deque[int] = field(default_factory=deque)
    suspects: deque[int] = field(default_factory=deque)
    size: int = 1
    """The number of items that take about AIM seconds, as far as known."""
    aloft: int = 0
    """Batches in flight."""

    @property
    def idle(self) -> bool:
        """Whether no item waits and no batch is in flight."""
        return not (self.fresh or self.suspects or self.aloft)

    def take(self, most: int) -> tuple[int, ...]:
        """Take the items of the next batch; a suspect goes by itself."""
        if self.suspects:
            return (self.suspects.popleft(),)
        return tuple(self.fresh.popleft() for _ in range(min(most, len(self.fresh))))

    def learn(self, done: Done) -> None:
        """Adapt the size to the duration of a batch, upwards in steps.

        The first items of an image may be its empty border.
        """
        fitting = AIM * len(done.outcomes) / max(done.seconds, 1e-9)
        self.size = max(1, int(min(fitting, STEP * self.size, LARGEST)))


@dataclass(frozen=True, slots=True)
class Batch:
    """The items of one task."""

    lane: Lane
    items: tuple[int, ...]
    alone: bool = False
    """Whether it is sent only when nothing else is in flight."""


class Queue:
    """Decides which items go next.

    If a worker dies, all items of its batch are suspects: each is tried again by itself, in the end
    alone.
    """

    def __init__(self, items: Iterable[int], needs: Callable[[int], Needs] | None) -> None:
        self._items = iter(items)
        self._needs = needs
        self._unread: float = len(items) if isinstance(items, Sized) else math.inf
        self._lanes: dict[tuple[tuple[str, float], ...], Lane] = {(): Lane({})}
        self._alone: deque[tuple[Lane, int]] = deque()
        self._deaths: dict[int, int] = {}

    @property
    def empty(self) -> bool:
        """Whether every item has been read and answered."""
        return not (self._unread or self._alone) and all(lane.idle for lane in self._lanes.values())

    def ready(self, slots: Callable[[Needs], int]) -> Iterator[Batch]:
        """Yield the batches to send now: for each kind of needs a few more than its ``slots``."""
        wanted = 1
        while wanted:
            self._read(wanted)
            wanted = 0
            for lane in self._lanes.values():
                count = slots(lane.needs) if not (lane.needs and lane.idle) else 0
                while lane.aloft < ALOFT * count:
                    # The last items are shared out, so that no worker is left with a long batch
                    # while the others have nothing.
                    most = int(
                        min(lane.size, max(1, (len(lane.fresh) + self._unread) / (2 * count)))
                    )
                    if (
                        not lane.suspects
                        and len(lane.fresh) < most
                        and self._unread
                        and self._held < AHEAD
                    ):
                        wanted = max(wanted, most)
                        break
                    if not (items := lane.take(most)):
                        break
                    yield self._launch(Batch(lane, items))
        if (
            self._alone
            and not self._unread
            and all(lane.idle for lane in self._lanes.values())
            and slots(self._alone[0][0].needs)
        ):
            lane, item = self._alone.popleft()
            yield self._launch(Batch(lane, (item,), alone=True))

    def done(self, batch: Batch, done: Done) -> Iterator[Outcome[Any]]:
        """Process a task's answer; items that it did not reach go back to the front."""
        batch.lane.aloft -= 1
        batch.lane.fresh.extendleft(reversed(batch.items[len(done.outcomes) :]))
        batch.lane.learn(done)
        for outcome in done.outcomes:
            self._deaths.pop(outcome.item, None)
            yield outcome

    def suspect(self, batch: Batch, lost: Lost) -> Iterator[Outcome[Any]]:
        """Process a lost task: its items are tried again, unless it was alone."""
        batch.lane.aloft -= 1
        verdict = "given up" if batch.alone else "tried again"
        logger.warning(
            "%s; %d item(s) from %d on: %s", lost.reason, len(batch.items), batch.items[0], verdict
        )
        for item in batch.items:
            deaths = self._deaths[item] = self._deaths.get(item, 0) + 1
            if batch.alone:
                del self._deaths[item]
                yield Outcome(
                    item,
                    error=f"{lost.reason}, {deaths} times, the last with nothing else running",
                    quarantined=lost.killed,
                )
            elif deaths <= SINGLY:
                batch.lane.suspects.append(item)
            else:
                self._alone.append((batch.lane, item))

    def _launch(self, batch: Batch) -> Batch:
        batch.lane.aloft += 1
        return batch

    @property
    def _held(self) -> int:
        return sum(len(lane.fresh) for lane in self._lanes.values())

    def _read(self, count: int) -> None:
        """Read some more items into the lanes of their needs."""
        for _ in range(count):
            item = next(self._items, None)
            if item is None:
                self._unread = 0
                return
            needs = {
                name: amount
                for name, amount in (self._needs(item) if self._needs else {}).items()
                if amount
            }
            self._lanes.setdefault(tuple(sorted(needs.items())), Lane(needs)).fresh.append(item)
            self._unread -= 1
