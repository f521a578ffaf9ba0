"""Run a stage's function over many items on an engine, and report progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pipeline.engine import Engine
from pipeline.errors import TilesError
from pipeline.execution.result import Event, Watch
from pipeline.execution.timings import Clock

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Dispatcher:
    """The engine that a run's stages use, and whom they tell of progress."""

    engine: Engine
    watch: Watch
    """Called with each `Event`."""
    layer: str = ""
    """The layer that is being drawn; empty where a job has none."""
    clock: Clock = field(default_factory=Clock)
    """The seconds that tiles take."""
    started: float = field(default_factory=time.monotonic)
    """When the run began, by `time.monotonic`."""

    def named(self, stage: str) -> str:
        """A stage's name in events, with its layer."""
        return f"{self.layer} {stage}".strip()

    def each(
        self, stage: str, function: Callable[[Any, int], T], context: Any, items: Iterable[int]
    ) -> Iterator[tuple[int, T]]:
        """Call a function for each item.

        Parameters
        ----------
        stage
            The stage's name in events.
        function
            Called with the context and an item, on any worker.
        context
            What all calls share.
        items
            The numbers of tiles, slabs or batches.

        Yields
        ------
        tuple
            An item and the function's value, in the order in which they end.

        Raises
        ------
        TilesError
            If an item fails; the stage ends there.
        """
        work = list(items)
        stage = self.named(stage)
        with closing(self.engine.run(function, context, work, label=stage)) as outcomes:
            for done, outcome in enumerate(outcomes, start=1):
                if outcome.error is not None:
                    raise TilesError(f"{stage} {outcome.item}: {outcome.error}")
                self.watch(Event(stage, done, len(work)))
                yield outcome.item, outcome.value  # type: ignore[misc]

    def all(
        self, stage: str, function: Callable[[Any, int], T], context: Any, items: Iterable[int]
    ) -> dict[int, T]:
        """Call a function for each item, as `each` does; its values by item, in order of items."""
        return dict(sorted(self.each(stage, function, context, items)))
