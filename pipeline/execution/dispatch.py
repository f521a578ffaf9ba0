"""Who does the work of a stage: an engine, and somebody who watches it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pipeline.engine import Engine
from pipeline.errors import TilesError
from pipeline.execution.result import Event, Watch
from pipeline.execution.timings import Clock

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Crew:
    """An engine, and somebody who watches."""

    engine: Engine
    watch: Watch
    layer: str = ""
    """What is being drawn, where that is not all."""
    clock: Clock = field(default_factory=Clock)
    """What tiles take."""

    def named(self, stage: str) -> str:
        """A stage as it is told of."""
        return f"{self.layer} {stage}".strip()

    def each(
        self, stage: str, function: Callable[[Any, int], T], context: Any, items: Iterable[int]
    ) -> Iterator[tuple[int, T]]:
        """Each item with the function's value; the first that fails ends the stage."""
        work, stage = list(items), self.named(stage)
        for done, outcome in enumerate(
            self.engine.run(function, context, work, label=stage), start=1
        ):
            if outcome.error is not None:
                raise TilesError(f"{stage} {outcome.item}: {outcome.error}")
            self.watch(Event(stage, done, len(work)))
            yield outcome.item, outcome.value  # type: ignore[misc]

    def all(
        self, stage: str, function: Callable[[Any, int], T], context: Any, items: Iterable[int]
    ) -> dict[int, T]:
        """The function's value by item, in order of the items."""
        return dict(sorted(self.each(stage, function, context, items)))
