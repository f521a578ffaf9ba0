"""With how many bits a network multiplies."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def autocast(device: str, precision: str) -> torch.autocast:
    """Lets what is multiplied on a type of device be of a precision, one of PRECISIONS."""
    import torch

    halves = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(precision)
    return torch.autocast(device, halves, enabled=halves is not None)


@contextlib.contextmanager
def full_precision(precision: str) -> Iterator[None]:
    """Lets what is said to be float32 be multiplied as such, where PyTorch may take TF32 (ten bits)
    or less; as it was, afterwards.
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
    """How floats are multiplied: for each setting what changes it, what it is, and what leaves them
    all their bits.
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
