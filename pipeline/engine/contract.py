"""What an engine is, and what it yields."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

C = TypeVar("C")
T = TypeVar("T")
Needs = Mapping[str, float]

GPU: Needs = {"GPU": 1}
"""What one tile of a segmenter on a GPU takes of the worker that computes it."""


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """What became of one item."""

    item: int
    """The item."""

    value: T | None = None
    """What the function returned; None where it failed."""

    error: str | None = None
    """Why there is no value, in one line: an exception's type and message, or a TilewiseError's own
    text.
    """

    unread: bool = False
    """Whether it was the image that could not be read: no fault of the function's."""

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

    @property
    def apart(self) -> bool:
        """Whether tasks run in other processes, to which all that they need is sent."""
        ...

    def offers(self, needs: Needs) -> bool:
        """Whether a worker that is there now offers this: ``{"GPU": 1}``."""
        ...

    def require(self, needs: Needs) -> None:
        """Return when a worker offers this; ClusterError, with what would start one, if none does
        for too long.
        """
        ...

    def run(
        self,
        function: Callable[[C, int], T],
        context: C,
        items: Iterable[int],
        *,
        needs: Callable[[int], Needs] | None = None,
        reserved: Collection[str] = (),
        label: str = "",
    ) -> Iterator[Outcome[T]]:
        """Call ``function(context, item)`` for every item.

        Parameters
        ----------
        function
            What to do with an item; it may be called twice for one (after a death), and in any
            order. What it returns is small.
        context
            Handed to each call as it is; it travels to each worker once.
        items
            Numbers without repetition. They may come from a generator: they are read as they are
            needed.
        needs
            The resources that an item takes while it runs, as Dask names them: ``{"GPU": 1}``.
        reserved
            Resources whose workers are kept for items that need something: the others go to workers
            that offer none of these, unless there is no such worker.
        label
            What the work is called on Dask's dashboard.

        Yields
        ------
        Outcome
            One for each item, as they complete. An item that fails is an outcome, and stops
            nothing.

        Raises
        ------
        ClusterError
            No worker has what an item needs, there is none at all, they cannot load the function,
            or the scheduler is gone.
        Interrupted
            After Ctrl-C: once, and what was running has been yielded; twice, at once.
        """
        ...

    def close(self) -> None:
        """Give back what the engine holds; a cluster of its own ends with it."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...
