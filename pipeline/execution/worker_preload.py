"""What a worker process of our own loads as soon as it is there, beside its work: otherwise its
first tile would wait for it.

Dask calls `dask_setup` in each worker that `pipeline.engine.cluster` starts, which knows this
module by its name alone. Importing the stages takes 0.4 s, numba's own start 0.4 s more, Zarr and
Arrow 0.2 s; meanwhile the process that asks opens the image and plans.
"""

from __future__ import annotations

import pkgutil
import threading
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distributed import Worker

NAME = "tilewise-readiness"
"""Of the thread that loads."""
LIBRARIES = ("numcodecs.blosc", "zarr", "pyarrow.parquet")
"""What the stages import when they first need it."""


def dask_setup(_worker: Worker) -> None:
    """Begin to load, in a thread that ends by itself; tasks wait for it."""
    from pipeline.engine.worker_plugin import LOADING

    thread = threading.Thread(target=load, name=NAME, daemon=True)
    LOADING.append(thread)
    thread.start()


def load() -> None:
    """Import the stages and what they use, and let numba start."""
    import numpy as np

    import pipeline.stages
    from pipeline.imageops.components import pieces

    stages = (
        f"pipeline.stages.{module.name}"
        for module in pkgutil.iter_modules(pipeline.stages.__path__)
    )
    for name in (*stages, *LIBRARIES):
        import_module(name)
    pieces(np.ones((1, 1), bool))
