"""Networks that stay in their worker: loaded once per process, never sent through the graph.

Patches go to the device in batches. Their size is found from the device's free memory, and halved
when memory runs out; in the end the processor computes them. Such changes are recorded. One thread
computes at a time: a worker with two threads (and GPU=2) reads and decodes one window while it
computes another.

GPU code (its memory, pinning, autocast of halves) was written against PyTorch's documentation and
never run on a GPU.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import JobError, SegmenterError
from pipeline.networks import architectures
from pipeline.networks.card import Bundle
from pipeline.networks.onnx import session
from pipeline.networks.precision import autocast, full_precision

if TYPE_CHECKING:
    import torch

Floats = npt.NDArray[np.float32]
PRECISIONS = ("float32", "bfloat16", "float16")
SHARE = 0.7
"""The fraction of a device's free memory that a batch may take."""
MOST = 64
"""Patches in a batch, at most."""
PIXELS = 1 << 19
"""Pixels of a batch on the processor; larger ones only flush its caches."""


@dataclass(frozen=True, slots=True)
class Way:
    """How a network is run; together with its weights, the key of a loaded network."""

    device: str = "cpu"
    """``cpu``, ``cuda``, ``cuda:1``, ``mps``."""

    precision: str = "float32"
    """``bfloat16`` and ``float16`` multiply by autocast; results then differ from float32."""

    compiled: bool = False
    """Whether to use `torch.compile`."""

    flips: bool = False
    """Whether answers are means over the patch and its mirror images."""

    unsafe: bool = False
    """Whether to read weights that can run code."""


@dataclass(frozen=True, slots=True)
class Detections:
    """The detections in a patch."""

    scores: Floats
    """(detection,) confidence, 0 to 1."""

    kinds: npt.NDArray[np.int64]
    """(detection,) class, from 1."""

    masks: Floats
    """(detection, row, column) the probability, 0 to 1, that a pixel belongs to the object."""


@dataclass(slots=True)
class Resident:
    """A loaded network."""

    forward: Callable[[Floats], Any]
    """From (patch, band, row, column) to (patch, channel, row, column), or to a list of
    `Detections`.
    """

    way: Way
    batch: int | None = None
    """Patches that the device holds at once; None: not known yet."""

    told: list[str] = field(default_factory=list)
    """Deviations from what was requested, once each: smaller batches, the processor in place of the
    device.
    """

    lock: threading.Lock = field(default_factory=threading.Lock)
    """One thread computes; others read and decode meanwhile."""

    fallback: Callable[[], Callable[[Floats], Any]] | None = None
    """Builds the same network for the processor."""

    moved: bool = False
    """Whether the processor replaced the device: labels may differ from those of the run's other
    workers.
    """

    room: Callable[[Floats], int] | None = None
    """Finds how many patches like one fit in the device's free memory, by trying that one. None:
    not needed.
    """

    def __call__(self, patches: Floats) -> Floats:
        """Run the network on patches of one shape; SegmenterError if the answer is not finite."""
        with self.lock:
            answer = self._flipped(patches) if self.way.flips else self._in_batches(patches)
        architectures.refuse_nothing(answer)
        return answer

    def detect(self, patch: Floats) -> Detections:
        """Detect objects in one patch, (band, row, column); SegmenterError if scores are not
        finite.

        Patches run one by one: in batches, libraries add in another order, and scores near the
        threshold would flip.
        """
        with self.lock:
            answers: list[list[Detections]] = self._parts(patch[None])
        ((found,),) = answers
        architectures.refuse_nothing(found.scores)
        architectures.refuse_nothing(found.masks)
        return found

    def size(self, rows: int, columns: int) -> int:
        """The number of patches of an extent to run at once."""
        if self.way.device == "cpu":
            return max(1, min(MOST, PIXELS // (rows * columns)))
        return self.batch or MOST

    def _flipped(self, patches: Floats) -> Floats:
        total = self._in_batches(patches)
        for axes in ((-1,), (-2,), (-2, -1)):
            total = total + np.flip(
                self._in_batches(np.ascontiguousarray(np.flip(patches, axes))), axes
            )
        return total / np.float32(4)

    def _in_batches(self, patches: Floats) -> Floats:
        found = self._parts(patches)
        return np.concatenate(found) if len(found) != 1 else found[0]

    def _parts(self, patches: Floats) -> list[Any]:
        """The answers for patches, batch by batch."""
        if self.batch is None and self.room is not None and len(patches) > 1:
            self.batch = self.room(patches[:1])
        size = self.batch or len(patches)
        done = 0
        found = []
        while done < len(patches):
            try:
                found.append(self.forward(patches[done : done + size]))
                done += size
            except Exception as error:
                if not _out_of_memory(error):
                    raise
                size = self._smaller(size, error)
        self.batch = size if size < len(patches) else self.batch
        return found

    def _smaller(self, size: int, error: Exception) -> int:
        """Halve the batch, or move to the processor if one patch is too large."""
        if size > 1:
            self._tell(f"batches of {size} did not fit on {self.way.device}; {size // 2} since")
            return size // 2
        if self.fallback is None:
            raise SegmenterError(
                f"one patch does not fit into the memory of {self.way.device} ({error}); use a "
                f"smaller window"
            ) from error
        self._tell(
            f"one patch did not fit on {self.way.device}; computed on the cpu since, and not "
            f"called proved"
        )
        self.forward = self.fallback()
        self.fallback = None
        self.moved = True
        return 1

    def _tell(self, what: str) -> None:
        if what not in self.told:
            self.told.append(what)


_LOADED: dict[tuple[str, Way], Resident] = {}
_LOADING = threading.Lock()


def resident(bundle: Bundle, checksum: str, way: Way) -> Resident:
    """Return a bundle's network, loaded at its first use in this process.

    Parameters
    ----------
    bundle : Bundle
        The network.
    checksum : str
        SHA-256 of its weights.
    way : Way
        How to run it.

    Returns
    -------
    Resident
        The loaded network.

    Raises
    ------
    JobError
        Weights do not fit or may not be read, or a package or the device is missing.
    """
    with _LOADING:
        if (checksum, way) not in _LOADED:
            _LOADED[checksum, way] = _load(bundle, way)
        return _LOADED[checksum, way]


def loaded() -> list[tuple[str, Way]]:
    """The networks loaded in this process: checksums of weights, and ways."""
    return list(_LOADED)


def available(device: str) -> str:
    """Resolve a device's name on this machine (``auto``, ``gpu``); JobError if the device is
    missing.
    """
    import torch

    gpu = (
        "cuda"
        if torch.cuda.is_available()
        else "mps"
        if torch.backends.mps.is_available()
        else None
    )
    # a worker that offers the resource GPU claims to have one; in tests it has none
    if device in (
        "auto",
        "gpu",
    ):
        return gpu or "cpu"
    if (device.startswith("cuda") and not torch.cuda.is_available()) or (
        device == "mps" and gpu != "mps"
    ):
        raise JobError(
            f"device: {device!r} is not on this machine; allowed here: "
            f"{'cpu' if gpu is None else f'cpu, {gpu}'}, or auto"
        )
    return device


def _load(bundle: Bundle, way: Way) -> Resident:
    if bundle.card.kind == "onnx":
        return Resident(session(bundle, way.device, threads()), way)
    import torch

    torch.set_num_threads(threads())
    network = architectures.load(bundle, unsafe=way.unsafe)
    # it drops values that are not finite, and would detect nothing
    if bundle.card.kind == "maskrcnn":
        for weights in network.parameters():
            architectures.refuse_nothing(weights.detach().numpy())
    forward = _torch(network, way)
    if way.device == "cpu":
        return Resident(forward, way)
    on_cpu = functools.partial(_torch, network, Way(precision=way.precision))
    room = functools.partial(_room, forward, way.device) if way.device.startswith("cuda") else None
    return Resident(forward, way, fallback=on_cpu, room=room)


def _room(forward: Callable[[Floats], Any], device: str, patch: Floats) -> int:
    """How many patches at once fit in a GPU's free memory, from the memory that one takes."""
    import torch

    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    try:
        forward(patch)
    except torch.OutOfMemoryError:
        return 1
    used = torch.cuda.max_memory_allocated(device) - before
    return max(1, min(MOST, int(SHARE * torch.cuda.mem_get_info(device)[0] / max(1, used))))


def _torch(network: torch.nn.Module, way: Way) -> Callable[[Floats], Any]:
    """Wrap a PyTorch network as a function of arrays."""
    import torch

    device = torch.device(way.device)
    network = network.to(device)
    if way.device != "cpu":
        network = network.to(memory_format=torch.channels_last)
    run = torch.compile(network) if way.compiled else network

    def forward(patches: Floats) -> Any:
        batch = torch.from_numpy(np.ascontiguousarray(patches))
        if device.type == "cuda":
            batch = batch.pin_memory().to(
                device, non_blocking=True, memory_format=torch.channels_last
            )
        else:
            batch = batch.to(device)
        with (
            torch.inference_mode(),
            full_precision(way.precision),
            autocast(device.type, way.precision),
        ):
            answer = run(batch)
        return (
            _array(answer)
            if isinstance(answer, torch.Tensor)
            else [detections(one) for one in answer]
        )

    return forward


def _array(answer: torch.Tensor) -> Floats:
    return np.asarray(answer.float().cpu().numpy())


def detections(answer: Mapping[str, torch.Tensor]) -> Detections:
    """Convert the answer of torchvision's detectors for one image."""
    return Detections(
        _array(answer["scores"]), answer["labels"].cpu().numpy(), _array(answer["masks"][:, 0])
    )


def threads() -> int:
    """The number of threads given to this process.

    Dask's nannies set OMP_NUM_THREADS, to 1 if there are as many workers as processors.
    """
    return int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))


def _out_of_memory(error: Exception) -> bool:
    import torch

    return (
        isinstance(error, (torch.OutOfMemoryError, MemoryError))
        or "out of memory" in str(error).lower()
    )
