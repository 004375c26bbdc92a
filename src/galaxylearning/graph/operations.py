"""The allow-list: which operations a graph may name, with the parameters each takes.

A document's operation is looked up here by its whole name and never resolved from text. Signatures come from
the library's own schemas; parameters that would choose a device, a layout or a generator are not offered.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

_ATEN = """
relu gelu silu sigmoid tanh leaky_relu elu selu celu softplus hardtanh hardswish hardsigmoid mish log_sigmoid
relu6 threshold prelu glu softmax.int log_softmax.int
neg exp expm1 log log1p sqrt rsqrt abs sin cos erf reciprocal square sign floor ceil round clamp clamp_min
clamp_max dropout feature_dropout contiguous clone detach alias tril triu zeros_like ones_like full_like
logical_not cumsum flip roll masked_fill.Scalar
add.Tensor sub.Tensor mul.Tensor div.Tensor div.Tensor_mode add.Scalar sub.Scalar mul.Scalar div.Scalar
rsub.Scalar pow.Tensor_Scalar pow.Tensor_Tensor maximum minimum where.self where.ScalarSelf where.ScalarOther
where.Scalar eq.Scalar ne.Scalar lt.Scalar gt.Scalar le.Scalar ge.Scalar eq.Tensor ne.Tensor lt.Tensor
gt.Tensor le.Tensor ge.Tensor logical_and logical_or
sum sum.dim_IntList mean mean.dim amax amin var.correction var.dim std.correction std.dim logsumexp max.dim
min.dim argmax argmin linalg_vector_norm norm.ScalarOpt_dim
linear matmul mm bmm mv dot addmm baddbmm einsum
conv1d conv2d conv3d conv1d.padding conv2d.padding conv3d.padding
conv_transpose1d conv_transpose2d.input conv_transpose3d.input
max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d
adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
batch_norm instance_norm layer_norm group_norm rms_norm
embedding index_select gather index.Tensor
lstm.input gru.input rnn_tanh.input rnn_relu.input scaled_dot_product_attention
view reshape flatten.using_ints unflatten.int squeeze squeeze.dim squeeze.dims unsqueeze transpose.int
permute t movedim.int expand expand_as view_as repeat repeat_interleave.self_int cat stack chunk split.Tensor
split_with_sizes unbind.int slice.Tensor select.int narrow pixel_shuffle pad constant_pad_nd
upsample_nearest1d.vec upsample_nearest2d.vec upsample_bilinear2d.vec
zeros ones full arange arange.start arange.start_step
to.dtype _to_copy type_as sym_size.int
"""

_VIEWS = """
detach.default alias.default view.default view_as.default unflatten.int squeeze.default squeeze.dim
squeeze.dims unsqueeze.default transpose.int permute.default t.default movedim.int expand.default
expand_as.default chunk.default split.Tensor split_with_sizes.default unbind.int slice.Tensor select.int
narrow.default
"""
VIEWS = frozenset(f"aten.{name}" for name in _VIEWS.split())
"""Operations whose result shares its argument's memory."""

_KINDS = {
    "Tensor": "tensor",
    "Optional[Tensor]": "tensor?",
    "List[Tensor]": "tensors",
    "List[Optional[Tensor]]": "tensors?",
    "int": "int",
    "Optional[int]": "int?",
    "List[int]": "ints",
    "Optional[List[int]]": "ints?",
    "float": "float",
    "Optional[float]": "float?",
    "Optional[List[float]]": "floats?",
    "number": "number",
    "Optional[number]": "number?",
    "bool": "bool",
    "str": "str",
    "Optional[str]": "str?",
    "ScalarType": "dtype",
    "Optional[ScalarType]": "dtype?",
}
_NEVER = frozenset(
    {"device", "layout", "pin_memory", "memory_format", "generator", "non_blocking", "path", "sparse"}
    | {"scale_grad_by_freq", "sparse_grad"}
)


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter: its name, its kind (``?`` marks an optional one) and its default where it has one."""

    name: str
    kind: str
    is_required: bool
    is_keyword_only: bool
    is_offered: bool
    default: Any


@dataclass(frozen=True, slots=True)
class Operation:
    """An allowed operation. ``call`` takes tensors where the document has references."""

    name: str
    call: Callable[..., Any]
    parameters: tuple[Parameter, ...]

    def parameter_index(self, name: str) -> int:
        """Position of the parameter in a call.

        Raises:
            KeyError: there is none of that name.
        """
        for index, parameter in enumerate(self.parameters):
            if parameter.name == name:
                return index
        raise KeyError(name)


def _from_schema(name: str, overload: Any) -> Operation:
    parameters = []
    for argument in overload._schema.arguments:
        kind = _KINDS.get(str(argument.real_type))
        parameters.append(
            Parameter(
                name=argument.name,
                kind=kind or "none",
                is_required=not argument.has_default_value(),
                is_keyword_only=argument.kwarg_only,
                is_offered=kind is not None and argument.name not in _NEVER,
                default=argument.default_value if argument.has_default_value() else None,
            )
        )
    return Operation(name, overload, tuple(parameters))


def _ours(name: str, call: Callable[..., Any], **kinds: str) -> Operation:
    return Operation(
        name,
        call,
        tuple(Parameter(key, kind, True, False, True, None) for key, kind in kinds.items()),
    )


def _update(buffer: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    return value.to(buffer.dtype).expand_as(buffer)


def _collect() -> dict[str, Operation]:
    operations = {}
    for entry in _ATEN.split():
        packet, _, overload = entry.partition(".")
        name = f"aten.{packet}.{overload or 'default'}"
        operations[name] = _from_schema(name, getattr(getattr(torch.ops.aten, packet), overload or "default"))
    for own in (
        _ours("int.add", operator.add, a="int", b="int"),
        _ours("int.sub", operator.sub, a="int", b="int"),
        _ours("int.mul", operator.mul, a="int", b="int"),
        _ours("int.floordiv", operator.floordiv, a="int", b="int"),
        _ours("int.mod", operator.mod, a="int", b="int"),
        _ours("tuple.item", operator.getitem, values="tuple", index="int"),
        _ours("state.update", _update, buffer="tensor", value="tensor"),
    ):
        operations[own.name] = own
    return operations


OPERATIONS: dict[str, Operation] = _collect()
"""Every operation a graph may name, by its whole name."""

STRINGS: dict[tuple[str, str], frozenset[str]] = {
    ("aten.gelu.default", "approximate"): frozenset({"none", "tanh"}),
    ("aten.pad.default", "mode"): frozenset({"constant", "reflect", "replicate", "circular"}),
    ("aten.div.Tensor_mode", "rounding_mode"): frozenset({"floor", "trunc"}),
    **{(f"aten.conv{n}d.padding", "padding"): frozenset({"same", "valid"}) for n in (1, 2, 3)},
}
"""The strings a parameter may hold. An einsum equation is checked by its own rule."""

DROPOUTS = frozenset({"aten.dropout.default", "aten.feature_dropout.default"})
RECURRENT = frozenset({"aten.lstm.input", "aten.gru.input", "aten.rnn_tanh.input", "aten.rnn_relu.input"})
ATTENTION = "aten.scaled_dot_product_attention.default"
BATCH_STATISTICS: dict[str, str] = {
    "aten.batch_norm.default": "training",
    "aten.instance_norm.default": "use_input_stats",
}
"""Operations that keep running statistics, with the flag that says whether to use the batch's own."""

FACTORIES = frozenset(
    {"aten.zeros.default", "aten.ones.default", "aten.full.default", "aten.arange.default"}
    | {"aten.arange.start", "aten.arange.start_step"}
)
"""Operations that make a tensor from nothing."""
