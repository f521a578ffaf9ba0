"""Processors and libraries that drew a result: results that depend on them are not proved if they
differ.

Most methods give the same result to the last bit on every processor (see
`pipeline.numerics.elementary`), and state it: ``portable``. Methods that multiply matrices, solve
equations or run a network do not, because libraries choose the order of additions by the processor.
So each process that draws a method's labels leaves a note in the scratch store with everything
about its processor and libraries that floats may depend on. If the notes of a method differ, in
this run or in one that it continues, affected objects are at most `agreed`. With other versions of
the libraries, or on processors of another family, that is every object.

Fitted values travel with the run, so fitting does not count here.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pipeline.storage.records import Scratch

FOLDER = "processors"
"""Folder of the notes, by the number of what was drawn."""
FOR_ALL = ("tilewise", "numpy", "scipy", "scikit-image", "scikit-learn", "numba")
"""Packages that may change any result with another version."""
FOR_NETWORKS = ("torch", "torchvision", "onnxruntime")
SETTINGS = (
    *(
        "ATEN_CPU_CAPABILITY",
        "DNNL_MAX_CPU_ISA",
        "ONEDNN_MAX_CPU_ISA",
        "MKL_CBWR",
        "MKL_ENABLE_INSTRUCTIONS",
        "GLIBC_TUNABLES",
    ),
    *(
        "NUMBA_CPU_NAME",
        "NUMBA_CPU_FEATURES",
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
    ),
)
"""Environment variables that make libraries compute differently."""


def own() -> dict[str, Any]:
    """The facts about this process that floats may depend on; equal for equal surroundings."""
    cards = sys.modules.get("torch")
    on_card = cards is not None and cards.cuda.is_initialized()
    return {**_own(), **({"gpu": cards.cuda.get_device_name()} if cards and on_card else {})}


@cache
def _own() -> dict[str, Any]:
    import llvmlite.binding as llvm  # numba's
    import numpy as np
    from threadpoolctl import threadpool_info

    found: Mapping[str, Any] = np.show_config(mode="dicts")
    # NumPy's own, which every process has loaded: SciPy brings another one, which is there only
    # once it was used.
    pools = sorted(
        (p for p in threadpool_info() if p["user_api"] == "blas"),
        key=lambda p: ("numpy" not in p["filepath"], p["filepath"]),
    )
    blas: Mapping[str, Any] = pools[0] if pools else {}
    features = llvm.get_host_cpu_features()
    return {
        "machine": platform.machine(),
        "processor": llvm.get_host_cpu_name(),
        "features": _short("".join(sorted(name for name, there in features.items() if there))),
        "numpy": sorted(found.get("SIMD Extensions", {}).get("found", [])),
        "blas": " ".join(str(blas.get(key)) for key in ("internal_api", "version", "architecture")),
        "libc": " ".join(platform.libc_ver()),
        "settings": {name: os.environ[name] for name in SETTINGS if name in os.environ},
        "libraries": _versions(FOR_ALL),
        "networks": _versions(FOR_NETWORKS),
    }


def name_of(facts: Mapping[str, Any]) -> str:
    """A note's name, derived from its facts: names are compared, not contents."""
    return f"{_short([facts['machine'], facts['libraries']])}-{_short(facts)}"


def note(store: Scratch, number: int) -> None:
    """Leave a note that this process draws what has this number, unless there is one."""
    facts = own()
    key = f"{FOLDER}/{number}/{name_of(facts)}"
    if not store.sound(key):
        store.save(key, facts)


def notes(store: Scratch, number: int) -> tuple[str, ...]:
    """The notes of what has this number, by name."""
    return store.keys(f"{FOLDER}/{number}")


def differ(names: Sequence[str], *, portable: bool) -> bool:
    """Whether processes with notes of these names may have drawn differently."""
    return len(set(names)) > 1 and not (
        portable and len({name.split("/")[-1].split("-")[0] for name in names}) == 1
    )


def strangers(record: Mapping[str, Any], portable: Mapping[str, bool]) -> frozenset[str]:
    """Routes of a run, by its record, that this process may draw differently.

    Only routes that the record knows as portable or not.
    """
    known = [
        ({key: what for key, what in one.items() if key != "routes"}, one["routes"])
        for one in record.get("processors", ())
    ]
    here = name_of(own())
    drawn = {
        route: [here, *(name_of(facts) for facts, routes in known if route in routes)]
        for route in portable
    }
    return frozenset(
        route for route, names in drawn.items() if differ(names, portable=portable[route])
    )


def told(drawn: Iterable[tuple[str, Scratch, int]]) -> list[dict[str, Any]]:
    """The notes under a number in a store, each once, with the names as ``routes``; damaged ones
    are skipped.
    """
    found: dict[str, dict[str, Any]] = {}
    for route, store, number in drawn:
        for name in notes(store, number):
            if store.sound(name):
                found.setdefault(name.split("/")[-1], {**store.load(name)[0], "routes": []})[
                    "routes"
                ].append(route)
    return [found[name] for name in sorted(found)]


def _versions(packages: Sequence[str]) -> dict[str, str]:
    found = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _short(what: Any) -> str:
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:12]
