"""What an engine is, and what it yields."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

C = TypeVar("C")
T = TypeVar("T")
Needs = Mapping[str, float]

GPU: Needs = {"GPU": 1}
"""The resource that one tile of a GPU segmenter takes of its worker."""


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """The result of one item."""

    item: int
    """The number of the item."""

    value: T | None = None
    """The function's return value; None if it failed."""

    error: str | None = None
    """The error in one line: an exception's type and message, or a TilewiseError's text; None
    without one.
    """

    unread: bool = False
    """Whether the image could not be read, which is no fault of the function's."""

    quarantined: bool = False
    """Whether the item killed every worker that tried it."""

    traceback: str = ""
    """The traceback of the function, if it failed."""


class Engine(Protocol):
    """Runs one function over many items; a context manager that closes itself."""

    @property
    def workers(self) -> int:
        """The number of tasks that run at once, at least 1."""
        ...

    @property
    def memory(self) -> int:
        """Bytes that one task may use."""
        ...

    @property
    def apart(self) -> bool:
        """Whether tasks run in other processes, which get everything that they need by
        serialization.
        """
        ...

    def offers(self, needs: Needs) -> bool:
        """Tell whether a worker that is connected now offers resources.

        Parameters
        ----------
        needs : mapping of str to float
            Resources such as ``{"GPU": 1}``.

        Returns
        -------
        bool
            True if one worker offers all of them.
        """
        ...

    def require(self, needs: Needs) -> None:
        """Wait until a worker offers resources.

        Parameters
        ----------
        needs : mapping of str to float
            Resources such as ``{"GPU": 1}``.

        Raises
        ------
        ClusterError
            No worker has offered them for too long; the message says what would start one.
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
    ) -> Generator[Outcome[T], None, None]:
        """Call ``function(context, item)`` for every item.

        Parameters
        ----------
        function : callable
            The work on an item. It may be called twice for one (after a worker died), and in any
            order; it returns something small.
        context : object
            Passed to each call; it travels to each worker once.
        items : iterable of int
            Numbers without repetition, read as they are needed.
        needs : callable, optional
            From an item to the resources that it takes, as Dask names them: ``{"GPU": 1}``.
        reserved : collection of str, optional
            Resources with workers kept for items that need something. Other items go to workers
            without these resources, unless there is no such worker.
        label : str, optional
            Name of the work on Dask's dashboard.

        Yields
        ------
        Outcome
            One for each item, as they complete. A failed item is an outcome, and stops nothing.

        Raises
        ------
        ClusterError
            No worker has what an item needs, there is no worker, none can load the function, or the
            scheduler is gone.
        Interrupted
            After Ctrl-C: once, when everything running has been yielded; twice, at once.
        """
        ...

    def close(self) -> None:
        """Release what the engine holds; its own cluster ends."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...
