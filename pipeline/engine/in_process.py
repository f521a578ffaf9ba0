"""The engine in this process, which is the specification; and what all engines share."""

from __future__ import annotations

import contextlib
import signal
import threading
import traceback
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from types import FrameType
from typing import Self

from pipeline.config import logs
from pipeline.engine.contract import C, Needs, Outcome, T
from pipeline.errors import ClusterError, Interrupted, SourceError, TilewiseError
from pipeline.redaction import redacted

logger = logs.logger()


class Closing:
    """Makes an engine a context manager."""

    def close(self) -> None:
        """Do nothing; there is nothing to release."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Local(Closing):
    """See :func:`local`."""

    workers = 1
    apart = False

    def __init__(self, resources: Needs) -> None:
        self._resources = resources

    @property
    def memory(self) -> int:
        """Half of the free memory: the rest is for other work of this process and its machine."""
        import psutil  # type: ignore[import-untyped]

        return min(int(psutil.virtual_memory().available), machine_memory()) // 2

    def offers(self, needs: Needs) -> bool:
        """See :meth:`Engine.offers`."""
        return all(self._resources.get(name, 0) >= amount for name, amount in needs.items())

    def require(self, needs: Needs) -> None:
        """See :meth:`Engine.require`."""
        if not self.offers(needs):
            raise ClusterError(
                f"this process does not offer {dict(needs)}; say so if it has it: "
                f"local({dict(needs)}), --gpus 1"
            )

    def run(
        self,
        function: Callable[[C, int], T],
        context: C,
        items: Iterable[int],
        *,
        needs: Callable[[int], Needs] | None = None,  # noqa: ARG002 - one item at a time takes what it needs
        reserved: Collection[str] = (),  # noqa: ARG002
        label: str = "",  # noqa: ARG002
    ) -> Generator[Outcome[T], None, None]:
        """See :meth:`Engine.run`."""
        with graceful() as stop:
            for item in items:
                if stop.is_set():
                    raise interrupted()
                yield attempt(function, context, item)
            if stop.is_set():
                raise interrupted()


@contextlib.contextmanager
def graceful() -> Iterator[threading.Event]:
    """Yield an event that the first Ctrl-C sets; the second raises Interrupted."""
    stop = threading.Event()

    def heard(_signal: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            # unlike Interrupted, no function catches it as an error of its own
            raise KeyboardInterrupt
        stop.set()

    # Keep a handler that somebody else set; other threads cannot set one.
    ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if ours:
        signal.signal(signal.SIGINT, heard)
    try:
        yield stop
    except KeyboardInterrupt:
        raise Interrupted(
            "stopped at once; what was running is lost, what is recorded is not: the same "
            "command goes on from there"
        ) from None
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def interrupted() -> Interrupted:
    """The error of a run that was asked to stop and has stopped."""
    return Interrupted(
        "stopped after the work in hand, which is recorded; the same command goes on from there"
    )


def attempt(function: Callable[[C, int], T], context: C, item: int) -> Outcome[T]:
    """Call the function for one item."""
    try:
        return Outcome(item, function(context, item))
    except (Exception, SystemExit) as error:  # any exception of an item is its outcome
        text = str(error) if isinstance(error, TilewiseError) else root_cause(error)
        logger.debug("item %d failed: %s", item, text, exc_info=True)
        return Outcome(
            item,
            error=text,
            unread=isinstance(error, SourceError),
            traceback=redacted(traceback.format_exc()),
        )


def root_cause(error: BaseException) -> str:
    """The original cause of an error, in one line."""
    while error.__cause__:
        error = error.__cause__
    return redacted(f"{type(error).__name__}: {' '.join(str(error).split())}")


def machine_memory() -> int:
    """Bytes that this process and its children may use, by the machine, the control group and user
    limits.
    """
    from distributed.system import MEMORY_LIMIT

    return int(MEMORY_LIMIT)
