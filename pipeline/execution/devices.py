"""On which device each segmenter runs, settled before anything is done.

A run stays on the devices that it began with. A network may draw other labels on a GPU than on a
CPU, in the last places of its numbers: a result drawn partly on each would be that of neither.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.engine import GPU, Engine
from pipeline.errors import ClusterError
from pipeline.segmenters import Contract, Segmenter
from pipeline.segmenters.protocols import HasDevice
from pipeline.stages import Method


def settled(
    segmenters: Mapping[str, Segmenter], engine: Engine | None, begun: Mapping[str, str]
) -> tuple[Method, ...]:
    """The methods of a run, on ``cpu`` or ``gpu`` where they say ``auto``, as far as that is known.

    Parameters
    ----------
    segmenters
        By name.
    engine
        Where they will run. None: nowhere yet; then nothing is refused, and ``auto`` stays where no
        run was begun.
    begun
        By name, the devices that were found for ``auto`` when the run began.

    Raises
    ------
    ClusterError
        If a segmenter is to run on a GPU and no worker offers one.
    """
    return tuple(
        _on_its_device(name, segmenter, engine, begun.get(name))
        for name, segmenter in segmenters.items()
    )


def chosen(segmenters: Mapping[str, Segmenter], methods: Sequence[Method]) -> dict[str, str]:
    """The device that was found for each segmenter that says ``auto``, by name.

    Parameters
    ----------
    segmenters
        By name, as the job gives them.
    methods
        The same, as the run uses them.
    """
    return {
        method.name: method.contract.device
        for method in methods
        if _on_any_device(segmenters[method.name])
    }


def _on_any_device(segmenter: Segmenter) -> bool:
    """Whether a segmenter leaves its device to the run."""
    return isinstance(segmenter, HasDevice) and segmenter.device == "auto"


def _on_its_device(
    name: str, segmenter: Segmenter, engine: Engine | None, begun: str | None
) -> Method:
    """The method with a device that is settled as far as it is known.

    Parameters
    ----------
    name
        The segmenter's name in the job.
    segmenter
        As the job gives it, with its files opened.
    engine
        Where it will run; None: nowhere yet.
    begun
        The device that was found for ``auto`` when the run began, if it was begun.
    """
    contract = Contract.of(segmenter)
    device = contract.device
    if device == "auto":
        device = begun or _found(engine)
        segmenter = _told(segmenter, device)
    if device == "gpu" and engine is not None:
        _require(name, engine, contract)
    return Method(name, segmenter, dataclasses.replace(contract, device=device))


def _found(engine: Engine | None) -> str:
    """What ``auto`` is on the workers of an engine."""
    if engine is None:
        return "auto"
    return "gpu" if engine.offers(GPU) else "cpu"


def _require(name: str, engine: Engine, contract: Contract) -> None:
    try:
        engine.require(GPU)
    except ClusterError as error:
        where = f"segmenters.{name}.device: {contract.device}"
        if contract.device == "auto":
            raise ClusterError(
                f"{where}, and the run was begun on a GPU; {error}; or start anew (--fresh), on "
                f"the CPU"
            ) from error
        raise ClusterError(
            f"{where}; {error}; or let it run on the CPU: device: cpu, or auto"
        ) from error


def _told(segmenter: Segmenter, device: str) -> Segmenter:
    """The segmenter with its field ``device`` set, if it is a dataclass that has one."""
    what: Any = segmenter
    fields = dataclasses.fields(what) if dataclasses.is_dataclass(what) else ()
    if not any(field.name == "device" and field.init for field in fields):
        return segmenter
    return dataclasses.replace(what, device=device)  # type: ignore[no-any-return]
