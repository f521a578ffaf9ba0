"""ONNX networks, run by onnxruntime; networks with bands as the last axis get them so."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from pipeline.errors import JobError
from pipeline.networks.architectures import INSTALL
from pipeline.networks.card import Bundle

Floats = npt.NDArray[np.float32]


def session(bundle: Bundle, device: str, threads: int) -> Callable[[Floats], Floats]:
    """Load a bundle's ONNX network.

    Parameters
    ----------
    bundle : Bundle
        The network.
    device : str
        ``cpu`` or ``cuda``.
    threads : int
        Threads to compute with.

    Returns
    -------
    callable
        From (patch, band, row, column) to (patch, channel, row, column), float32.

    Raises
    ------
    JobError
        onnxruntime is not installed, or the file is not a network.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise JobError(f"onnx needs the package onnxruntime; install it with: {INSTALL}") from error

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    there = onnxruntime.get_available_providers()
    wanted = ["CUDAExecutionProvider"] if device.startswith("cuda") else []
    try:
        network = onnxruntime.InferenceSession(
            str(bundle.path), options, [p for p in wanted if p in there] + ["CPUExecutionProvider"]
        )
    except Exception as error:
        raise JobError(f"{bundle.path.name} cannot be read as onnx: {error}") from error
    name = network.get_inputs()[0].name
    shape = network.get_inputs()[0].shape
    last = shape[-1] == len(bundle.card.bands) and shape[1] != len(bundle.card.bands)

    def forward(patches: Floats) -> Floats:
        given = np.ascontiguousarray(np.moveaxis(patches, 1, -1) if last else patches)
        answer = network.run(None, {name: given})[0]
        return np.ascontiguousarray(np.moveaxis(answer, -1, 1) if last else answer, np.float32)

    return forward
