"""On which device each segmenter runs, settled before anything is done.

A run stays on the devices that it began with: what a network draws on them may differ in the last
places, and a result of which a part was drawn on either would be what neither draws.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from pipeline.engine import GPU, Engine
from pipeline.errors import ClusterError
from pipeline.segmenters import Contract, Segmenter


def settled(
    segmenters: Mapping[str, Segmenter], engine: Engine | None, begun: Mapping[str, str]
) -> tuple[dict[str, Segmenter], dict[str, Contract]]:
    """The segmenters and their contracts, by name, with ``cpu`` or ``gpu`` for ``auto``, as far as
    that is known.

    Parameters
    ----------
    segmenters
        By name.
    engine
        Where they will run; None: nowhere yet, so that nothing is refused, and ``auto`` stays where
        no run was begun.
    begun
        By name, the devices that were found for ``auto`` when the run began.

    Raises
    ------
    ClusterError
        If a segmenter is to run on a GPU and no worker offers one.
    """
    found: dict[str, Segmenter] = {}
    contracts: dict[str, Contract] = {}
    for name, segmenter in segmenters.items():
        contract = Contract.of(segmenter)
        device = contract.device
        if device == "auto":
            device = begun.get(name) or (
                device if engine is None else "gpu" if engine.offers(GPU) else "cpu"
            )
        if device == "gpu" and engine is not None:
            _require(name, engine, contract)
        found[name] = _told(segmenter, device) if contract.device == "auto" else segmenter
        contracts[name] = dataclasses.replace(contract, device=device)
    return found, contracts


def chosen(
    segmenters: Mapping[str, Segmenter], contracts: Mapping[str, Contract]
) -> dict[str, str]:
    """By name, the device that was found for each segmenter whose own is ``auto``."""
    return {
        name: contracts[name].device
        for name, segmenter in segmenters.items()
        if getattr(segmenter, "device", "cpu") == "auto"
    }


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
    """A dataclass with a field for its device, with what was found there."""
    what: Any = segmenter
    fields = dataclasses.fields(what) if dataclasses.is_dataclass(what) else ()
    return (
        dataclasses.replace(what, device=device)
        if any(field.name == "device" and field.init for field in fields)
        else segmenter
    )
