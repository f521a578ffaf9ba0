"""What ``engine=`` may be: an engine, a Dask client or cluster, an address, or nothing."""

from __future__ import annotations

import contextlib
import reprlib
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

from pipeline import engine as engines
from pipeline.engine import Engine
from pipeline.errors import ClusterError, JobError

if TYPE_CHECKING:
    from distributed import Client
    from distributed.deploy.cluster import Cluster

EngineLike: TypeAlias = "Engine | Client | Cluster | str | Callable[[], Engine] | None"
Start: TypeAlias = Callable[[], AbstractContextManager[Engine]]
ALLOWED = (
    "an engine of pipeline.local, pipeline.cluster or pipeline.on, a distributed.Client, a cluster "
    "such as LocalCluster, or a scheduler's address such as 'tcp://host:8786'"
)
NEEDED = ("run", "offers", "require", "close")
"""Methods by which an engine is known."""


def starter(given: EngineLike) -> Start:
    """Return a function that starts the engine that is meant, as a context manager.

    The context manager closes what it started, and leaves open what was given.

    Parameters
    ----------
    given
        An engine, a ``distributed.Client``, a cluster (an object with a ``scheduler_address``), the
        address of a scheduler, a function that starts an engine (called only if there is something
        to compute), or None: a local cluster of processes.

    Returns
    -------
    callable
        Called without arguments; it returns a context manager that yields the engine.

    Raises
    ------
    JobError
        It is something else.
    """
    if given is None:
        return engines.cluster
    if _is_engine(given):
        return partial(_lent, given)
    if isinstance(given, str) and ":" in given:
        return partial(engines.on, given)
    if _is_client(given):
        return partial(_on_client, given)
    if hasattr(given, "scheduler_address") and not isinstance(given, type):
        return partial(_on_cluster, given)
    if callable(given) and not isinstance(given, type):
        return given
    raise JobError(f"engine: {reprlib.repr(given)}; allowed: {ALLOWED}{_hint(given)}")


def _is_engine(given: object) -> TypeGuard[Engine]:
    """Whether something is an engine itself, and not what an engine is made from."""
    known = all(callable(getattr(given, name, None)) for name in NEEDED)
    return known and not isinstance(given, type)


def _is_client(given: object) -> bool:
    """Whether something is a Dask client. There is none before ``distributed`` is imported."""
    distributed = sys.modules.get("distributed")
    return distributed is not None and isinstance(given, distributed.Client)


@contextlib.contextmanager
def _lent(engine: Engine) -> Iterator[Engine]:
    """An engine of the user's, which stays open."""
    yield engine


def _on_client(client: Any) -> AbstractContextManager[Engine]:
    if client.status in ("closed", "closing"):
        raise ClusterError("engine: the client is closed; give one that is open")
    return engines.on(client)


@contextlib.contextmanager
def _on_cluster(cluster: Any) -> Iterator[Engine]:
    """Run on a cluster of the user's by a client of our own, which is closed at the end."""
    if getattr(cluster, "asynchronous", False):
        raise ClusterError(
            "engine: the cluster is asynchronous; give one made without asynchronous=True, or its "
            "scheduler_address"
        )
    address = str(cluster.scheduler_address)
    status = getattr(cluster, "status", None)
    if "://" not in address or getattr(status, "name", status) in ("closed", "closing"):
        raise ClusterError("engine: the cluster is closed; give one that is running")
    if _has_its_own_clients(cluster):
        with cluster.get_client() as client, engines.on(client) as engine:
            yield engine
    else:
        with engines.on(address, security=getattr(cluster, "security", None)) as engine:
            yield engine


def _has_its_own_clients(cluster: Any) -> bool:
    """Whether only the cluster itself can make a client, as Dask Gateway's.

    Dask's own clusters return the client that is current, which is the user's and must stay open.
    """
    distributed = sys.modules.get("distributed")
    dasks = distributed is not None and isinstance(cluster, distributed.deploy.Cluster)
    return not dasks and callable(getattr(cluster, "get_client", None))


def _hint(given: object) -> str:
    if isinstance(given, int) and not isinstance(given, bool):
        return f"; did you mean pipeline.cluster({given})?"
    if given in ("local", "cluster"):
        return f"; did you mean pipeline.{given}()?"
    return "; give an instance, not the class" if isinstance(given, type) else ""
