"""Trace NaN through a PyTorch network: everything that depends on a NaN becomes NaN.

While a `Taint` is entered, every operation is intercepted. Element-wise operations return NaN
wherever they get NaN, even those that would swallow it, such as ``nan_to_num``, ``where`` and
``fmax``. Other operations are known by name to pass NaN on. Comparisons with NaN, sorting, and
operations that are not known by name cannot be followed, and are recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_PASS_ON = frozenset(
    """
    _adaptive_avg_pool2d _convolution _log_softmax _native_batch_norm_legit
    _native_batch_norm_legit_no_training _reshape_alias
    _scaled_dot_product_flash_attention_for_cpu _softmax _to_copy _unsafe_view
    adaptive_avg_pool2d addbmm addmm amax amin avg_pool1d avg_pool2d avg_pool3d baddbmm
    batch_norm bmm cat clone col2im constant_pad_nd contiguous conv1d conv2d conv3d
    conv_transpose2d convolution convolution_overrideable copy copy_ cudnn_batch_norm
    cudnn_convolution cudnn_convolution_transpose cumsum detach dropout einsum empty_like
    feature_dropout flip full_like gelu group_norm im2col instance_norm layer_norm linear
    log_softmax logsumexp matmul max max_pool2d max_pool2d_with_indices max_pool3d_with_indices
    mean min miopen_batch_norm mkldnn_convolution mm native_batch_norm native_dropout
    native_group_norm native_layer_norm new_empty new_zeros norm ones_like pad pixel_shuffle
    pixel_unshuffle prod reflection_pad1d reflection_pad2d repeat replication_pad1d
    replication_pad2d resize_ roll scaled_dot_product_attention softmax split_with_sizes_copy
    stack std std_mean sum upsample_bicubic2d upsample_bilinear2d upsample_nearest1d
    upsample_nearest2d upsample_nearest3d upsample_trilinear3d var var_mean zeros_like
    _upsample_bicubic2d_aa _upsample_bilinear2d_aa
    """.split()  # noqa: SIM905  a list of quoted names would be a page
)
"""Operations that make NaN of NaN, or move it, or ignore values."""
_EACH = frozenset(
    [
        "celu",
        "elu",
        "hardsigmoid",
        "hardswish",
        "hardtanh",
        "leaky_relu",
        "mish",
        "prelu",
        "relu",
        "relu6",
        "selu",
        "silu",
        "softplus",
        "threshold",
    ]
)
"""Element-wise operations that PyTorch does not mark as such."""


class Taint(TorchDispatchMode):  # type: ignore[misc, no-untyped-call, unused-ignore]
    """Makes NaN pass through every operation."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.met = False
        """Whether an operation was given NaN: of a network that is not of PyTorch, none is."""
        self.lost: str | None = None
        """An operation behind which NaN could not be followed."""
        self._hidden: dict[int, torch.Tensor] = {}
        """Integers and booleans that were made of NaN."""

    def __torch_dispatch__(
        self,
        function: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run an operation and restore its NaN."""
        options = dict(kwargs or {})
        given = [leaf for leaf in tree_leaves((args, options)) if isinstance(leaf, torch.Tensor)]
        name = function.overloadpacket.__name__
        each = torch.Tag.pointwise in function.tags or name.removesuffix("_") in _EACH
        passes = each or function.is_view or name in _PASS_ON
        if not passes:
            with self:
                parts = function.decompose(*args, **options)
            if parts is not NotImplemented:
                return parts
        tainted = [(leaf, leaf.isnan()) for leaf in given if leaf.is_floating_point()]
        tainted = [(leaf, unknown) for leaf, unknown in tainted if unknown.any()]
        made = function(*args, **options)
        if any(id(leaf) in self._hidden for leaf in given):
            self.lost = self.lost or name
        if tainted:
            self.met = True
            self._follow(
                name,
                tree_leaves(made),
                [unknown for _, unknown in tainted],
                known=passes,
                each=each,
            )
        return made

    def _follow(
        self, name: str, made: list[Any], unknown: list[torch.Tensor], *, known: bool, each: bool
    ) -> None:
        if not known:
            self.lost = self.lost or name
        for one in made:
            if not isinstance(one, torch.Tensor):  # a tensor was converted to a Python number
                self.lost = self.lost or name
            elif not one.is_floating_point():
                self._hidden[id(one)] = one
            elif each:
                for mask in unknown:
                    one.masked_fill_(
                        mask.expand(one.shape) if mask.shape != one.shape else mask, float("nan")
                    )


def through(forward: Callable[[Any], Any], image: Any) -> tuple[Any, bool, str | None]:
    """Run a network so that NaN passes through everything.

    Returns the answer, whether any operation of PyTorch met NaN, and the operation where one was
    lost.
    """
    with Taint() as taint:
        answer = forward(image)
    return answer, taint.met, taint.lost
