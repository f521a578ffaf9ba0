"""The precision in which a network multiplies."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def autocast(device: str, precision: str) -> torch.autocast:
    """The autocast context of a device and a precision, one of PRECISIONS."""
    import torch

    halves = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(precision)
    return torch.autocast(device, halves, enabled=halves is not None)


@contextlib.contextmanager
def full_precision(precision: str) -> Iterator[None]:
    """Multiply float32 in full precision, where PyTorch may use TF32 (ten bits) or less.

    The settings are restored afterwards.
    """
    before = _multiplied() if precision == "float32" else []
    try:
        for put, _, exact in before:
            put(exact)
        yield
    finally:
        for put, value, _ in before:
            put(value)


def _multiplied() -> list[tuple[Callable[[Any], None], Any, Any]]:
    """The settings of PyTorch's precision: a setter, the current value, and the value for full
    precision.
    """
    import torch

    backends: Any = torch.backends
    found: list[tuple[Callable[[Any], None], Any, Any]] = []
    # by the switches of all versions, which refuse to be read where those of PyTorch 2.9 have been
    # set
    try:
        found.append(
            (torch.set_float32_matmul_precision, torch.get_float32_matmul_precision(), "highest")
        )
        found.append(
            (
                functools.partial(setattr, backends.cudnn, "allow_tf32"),
                backends.cudnn.allow_tf32,
                False,
            )
        )
        parts = []
    except RuntimeError:
        found = []
        parts = [
            backends.cuda.matmul,
            backends.cudnn.conv,
            backends.cudnn.rnn,
            backends.mkldnn.matmul,
        ]
    parts += [backends.mkldnn.conv] if hasattr(backends.mkldnn, "conv") else []
    return found + [
        (functools.partial(setattr, part, "fp32_precision"), part.fp32_precision, "ieee")
        for part in parts
    ]
