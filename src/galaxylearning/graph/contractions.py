"""Shape and cost rules of products, convolutions, pools, normalisations, recurrences and attention.

A cost counts a multiplication and an addition as two operations.
"""

from __future__ import annotations

import math
import re

import torch

from galaxylearning.errors import GraphRefused
from galaxylearning.graph.specs import (
    Bound,
    Outcome,
    TensorSpec,
    broadcast,
    floating,
    flops,
    require,
    rule,
)

MAX_WORKSPACE_BYTES = 4 << 30
"""Largest hidden buffer (attention scores, unfolded patches) one operation may need."""


def _same_types(*specs: TensorSpec | None) -> torch.dtype:
    present = [spec for spec in specs if spec is not None]
    require(all(spec.dtype == present[0].dtype for spec in present), "the tensors differ in type")
    return floating(present[0], "input").dtype


def _out(outcome: Outcome) -> TensorSpec:
    if isinstance(outcome, TensorSpec):
        return outcome
    if isinstance(outcome, tuple) and outcome:
        return outcome[0]
    raise GraphRefused("gives no tensor")


# ---- products


@rule("linear")
def _linear(a: Bound) -> Outcome:
    x, weight, bias = a.tensor("input"), a.tensor("weight"), a.maybe("bias")
    dtype = _same_types(x, weight, bias)
    require(len(weight.shape) == 2 and bool(x.shape), "weight must have two dimensions, input at least one")
    require(
        x.shape[-1] == weight.shape[1], f"input has {x.shape[-1]} features, weight takes {weight.shape[1]}"
    )
    require(bias is None or bias.shape == weight.shape[:1], f"bias must have shape [{weight.shape[0]}]")
    return TensorSpec(dtype, (*x.shape[:-1], weight.shape[0]))


@rule("matmul mm bmm mv dot")
def _matmul(a: Bound) -> Outcome:
    left = a.tensor("self")
    right = a.tensor(next(key for key in ("other", "mat2", "vec", "tensor") if key in a.values))
    ranks = {
        "aten.mm.default": (2, 2),
        "aten.bmm.default": (3, 3),
        "aten.mv.default": (2, 1),
        "aten.dot.default": (1, 1),
    }
    require(
        (len(left.shape), len(right.shape)) == ranks.get(a.op, (len(left.shape), len(right.shape))),
        "wrong ranks",
    )
    require(bool(left.shape) and bool(right.shape), "needs at least one dimension")
    dtype = _same_types(left, right)
    inner = right.shape[-2] if len(right.shape) >= 2 else right.shape[0]
    require(left.shape[-1] == inner, f"inner sizes {left.shape[-1]} and {inner} differ")
    if a.op == "aten.bmm.default":
        require(left.shape[0] == right.shape[0], "batch sizes differ")
    batch = broadcast(left.shape[:-2], right.shape[:-2])
    rows, columns = left.shape[-2:-1], right.shape[-1:] if len(right.shape) >= 2 else ()
    return TensorSpec(dtype, (*batch, *rows, *columns))


@rule("addmm baddbmm")
def _addmm(a: Bound) -> Outcome:
    left = a.tensor("mat1" if "mat1" in a.values else "batch1")
    right = a.tensor("mat2" if "mat2" in a.values else "batch2")
    rank = 2 if "mat1" in a.values else 3
    require(len(left.shape) == len(right.shape) == rank, f"the factors must have {rank} dimensions")
    require(
        left.shape[-1] == right.shape[-2] and left.shape[:-2] == right.shape[:-2], "the factors do not fit"
    )
    shape = (*left.shape[:-1], right.shape[-1])
    require(broadcast(a.tensor("self").shape, shape) == shape, "the added tensor does not fit the product")
    return TensorSpec(_same_types(a.tensor("self"), left, right), shape)


@flops("linear matmul mm bmm mv dot addmm baddbmm")
def _product_flops(a: Bound, outcome: Outcome) -> int:
    keys = ("input", "mat1", "batch1", "self")
    left = a.tensor(next(key for key in keys if key in a.values))
    return 2 * _out(outcome).elements * left.shape[-1]


_EQUATION = re.compile(r"([a-zA-Z]{1,8})(?:,([a-zA-Z]{1,8}))?->([a-zA-Z]{0,8})")


def _einsum_sizes(a: Bound) -> tuple[dict[str, int], str]:
    parts = a.tensors("tensors")
    match = _EQUATION.fullmatch(str(a.values["equation"]).replace(" ", ""))
    if match is None:
        raise GraphRefused(
            "equation must be like 'bij,bjk->bik': one or two factors of letters and an output"
        )
    terms, output = [term for term in match.groups()[:2] if term is not None], match.group(3)
    require(len(terms) == len(parts), "equation and tensors differ in number")
    sizes: dict[str, int] = {}
    for term, part in zip(terms, parts, strict=True):
        require(
            len(term) == len(part.shape) == len(set(term)),
            "each factor needs one distinct letter a dimension",
        )
        for letter, size in zip(term, part.shape, strict=True):
            require(sizes.setdefault(letter, size) == size, f"letter {letter} has two sizes")
    require(
        len(set(output)) == len(output) and set(output) <= set(sizes),
        "output must use the factors' letters once",
    )
    return sizes, output


@rule("einsum")
def _einsum(a: Bound) -> Outcome:
    sizes, output = _einsum_sizes(a)
    return TensorSpec(_same_types(*a.tensors("tensors")), tuple(sizes[letter] for letter in output))


@flops("einsum")
def _einsum_flops(a: Bound, _: Outcome) -> int:
    return 2 * math.prod(_einsum_sizes(a)[0].values())


# ---- convolutions and pools


def _spatial(x: TensorSpec, count: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Leading (batch, channel) and spatial sizes of an image-like input with or without a batch."""
    require(len(x.shape) in (count + 1, count + 2), f"input must have {count + 1} or {count + 2} dimensions")
    return x.shape[:-count], x.shape[-count:]


def _positive(values: tuple[int, ...], name: str, least: int = 1) -> tuple[int, ...]:
    require(all(value >= least for value in values), f"{name} must be at least {least}")
    return values


@rule("conv1d conv2d conv3d conv1d.padding conv2d.padding conv3d.padding")
def _convolution(a: Bound) -> Outcome:
    x, weight, bias = a.tensor("input"), a.tensor("weight"), a.maybe("bias")
    count = int(a.op[len("aten.conv")])
    dtype = _same_types(x, weight, bias)
    lead, size = _spatial(x, count)
    groups = a.integer("groups")
    require(len(weight.shape) == count + 2 and groups >= 1, "weight has a wrong rank or groups is below 1")
    require(
        lead[-1] == weight.shape[1] * groups,
        f"input has {lead[-1]} channels, weight {weight.shape[1]} x {groups}",
    )
    require(weight.shape[0] % groups == 0, "output channels must divide by groups")
    require(bias is None or bias.shape == weight.shape[:1], f"bias must have shape [{weight.shape[0]}]")
    stride = _positive(a.integers("stride", count), "stride")
    dilation = _positive(a.integers("dilation", count), "dilation")
    reach = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
    mode = a.values["padding"]
    if isinstance(mode, str):
        require(mode == "valid" or all(step == 1 for step in stride), "padding 'same' needs stride 1")
        total = reach if mode == "same" else [0] * count
    else:
        total = [2 * p for p in _positive(a.integers("padding", count), "padding", 0)]
    padded = [s + p for s, p in zip(size, total, strict=True)]
    require(
        all(p > r for p, r in zip(padded, reach, strict=True)), "the kernel is larger than the padded input"
    )
    out = tuple((p - r - 1) // s + 1 for p, r, s in zip(padded, reach, stride, strict=True))
    unfolded = math.prod(out) * weight.shape[1] * groups * math.prod(weight.shape[2:])
    largest = max(unfolded, lead[-1] * math.prod(padded)) * dtype.itemsize
    require(
        largest <= MAX_WORKSPACE_BYTES,
        f"needs {largest} bytes of workspace, allowed are {MAX_WORKSPACE_BYTES}",
    )
    return TensorSpec(dtype, (*lead[:-1], weight.shape[0], *out))


@flops("conv1d conv2d conv3d conv1d.padding conv2d.padding conv3d.padding")
def _convolution_flops(a: Bound, outcome: Outcome) -> int:
    return 2 * _out(outcome).elements * math.prod(a.tensor("weight").shape[1:])


@rule("conv_transpose1d conv_transpose2d.input conv_transpose3d.input")
def _deconvolution(a: Bound) -> Outcome:
    x, weight, bias = a.tensor("input"), a.tensor("weight"), a.maybe("bias")
    count = int(a.op[len("aten.conv_transpose")])
    dtype = _same_types(x, weight, bias)
    lead, size = _spatial(x, count)
    groups = a.integer("groups")
    require(len(weight.shape) == count + 2 and groups >= 1, "weight has a wrong rank or groups is below 1")
    require(
        lead[-1] == weight.shape[0] and lead[-1] % groups == 0,
        f"input has {lead[-1]} channels, weight {weight.shape[0]}",
    )
    channels = weight.shape[1] * groups
    require(bias is None or bias.shape == (channels,), f"bias must have shape [{channels}]")
    stride = _positive(a.integers("stride", count), "stride")
    dilation = _positive(a.integers("dilation", count), "dilation")
    padding = _positive(a.integers("padding", count), "padding", 0)
    extra = _positive(a.integers("output_padding", count), "output_padding", 0)
    require(
        all(e < max(s, d) for e, s, d in zip(extra, stride, dilation, strict=True)),
        "output_padding is too large",
    )
    full = [
        (n - 1) * s + d * (k - 1) + e + 1
        for n, s, d, k, e in zip(size, stride, dilation, weight.shape[2:], extra, strict=True)
    ]
    out = tuple(f - 2 * p for f, p in zip(full, padding, strict=True))
    unfolded = math.prod(size) * channels * math.prod(weight.shape[2:])
    largest = max(unfolded, channels * math.prod(full)) * dtype.itemsize
    require(
        largest <= MAX_WORKSPACE_BYTES,
        f"needs {largest} bytes of workspace, allowed are {MAX_WORKSPACE_BYTES}",
    )
    return TensorSpec(dtype, (*lead[:-1], channels, *out))


@flops("conv_transpose1d conv_transpose2d.input conv_transpose3d.input")
def _deconvolution_flops(a: Bound, _: Outcome) -> int:
    return 2 * a.tensor("input").elements * math.prod(a.tensor("weight").shape[1:])


_POOLS = "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d"


@rule(_POOLS)
def _pool(a: Bound) -> Outcome:
    x, count = a.tensor("self"), int(a.op[len("aten.max_pool")])
    floating(x, "input")
    lead, size = _spatial(x, count)
    kernel = _positive(a.integers("kernel_size", count), "kernel_size")
    stride = _positive(a.integers("stride", count) if a.integers("stride") else kernel, "stride")
    padding = _positive(a.integers("padding", count), "padding", 0)
    dilation = (
        _positive(a.integers("dilation", count), "dilation") if "dilation" in a.values else (1,) * count
    )
    require(
        all(2 * p <= k for p, k in zip(padding, kernel, strict=True)),
        "padding must be at most half the kernel",
    )
    out = []
    for n, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True):
        span = n + 2 * p - d * (k - 1) - 1
        require(span >= 0, "the kernel is larger than the padded input")
        length = (-(-span // s) if a.flag("ceil_mode") else span // s) + 1
        out.append(length - 1 if a.flag("ceil_mode") and (length - 1) * s >= n + p else length)
    return TensorSpec(x.dtype, (*lead, *out))


@flops(_POOLS)
def _pool_flops(a: Bound, outcome: Outcome) -> int:
    count = int(a.op[len("aten.max_pool")])
    return _out(outcome).elements * math.prod(a.integers("kernel_size", count))


@rule("adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d")
def _adaptive_pool(a: Bound) -> Outcome:
    x, count = floating(a.tensor("self"), "input"), int(a.op[len("aten.adaptive_avg_pool")])
    lead, _ = _spatial(x, count)
    sizes = _positive(a.integers("output_size"), "output_size")
    require(len(sizes) == count, f"output_size must have {count} entries")
    return TensorSpec(x.dtype, (*lead, *sizes))


@rule("upsample_nearest1d.vec upsample_nearest2d.vec upsample_bilinear2d.vec")
def _upsample(a: Bound) -> Outcome:
    x = floating(a.tensor("input"), "input")
    count = 1 if "1d" in a.op else 2
    require(len(x.shape) == count + 2, f"input must have {count + 2} dimensions")
    sizes, scales = a.integers("output_size"), a.values.get("scale_factors")
    require(bool(sizes) != bool(scales), "needs either output_size or scale_factors")
    if scales:
        require(all(0.0 < scale <= 1024.0 for scale in scales), "scale_factors must be in (0, 1024]")
        sizes = tuple(int(n * scale) for n, scale in zip(x.shape[2:], scales, strict=False))
    require(len(sizes) == count, f"needs {count} sizes")
    return TensorSpec(x.dtype, (*x.shape[:2], *_positive(sizes, "output_size")))


@rule("pad constant_pad_nd")
def _pad(a: Bound) -> Outcome:
    x, amounts = a.tensor("self"), a.integers("pad")
    require(
        len(amounts) % 2 == 0 and 0 < len(amounts) <= 2 * len(x.shape),
        "pad must hold two entries a dimension",
    )
    shape = list(x.shape)
    for index in range(len(amounts) // 2):
        before, after = amounts[2 * index], amounts[2 * index + 1]
        position = len(shape) - 1 - index
        if a.values.get("mode", "constant") in ("reflect", "circular"):
            require(max(before, after) <= shape[position], "pad reaches beyond the tensor")
        shape[position] += before + after
    return TensorSpec(x.dtype, tuple(shape))


@rule("pixel_shuffle")
def _pixel_shuffle(a: Bound) -> Outcome:
    x, factor = a.tensor("self"), a.integer("upscale_factor")
    require(len(x.shape) >= 3 and 1 <= factor <= 64, "needs three dimensions and a factor in [1, 64]")
    require(x.shape[-3] % factor**2 == 0, "channels must divide by the squared factor")
    channels, height, width = x.shape[-3] // factor**2, x.shape[-2] * factor, x.shape[-1] * factor
    return TensorSpec(x.dtype, (*x.shape[:-3], channels, height, width))


# ---- normalisations


@rule("batch_norm instance_norm group_norm")
def _channel_norm(a: Bound) -> Outcome:
    x = floating(a.tensor("input"), "input")
    require(len(x.shape) >= (3 if "instance" in a.op else 2), "input has too few dimensions")
    channels = x.shape[1]
    for name in ("weight", "bias", "running_mean", "running_var"):
        spec = a.maybe(name)
        require(spec is None or spec.shape == (channels,), f"{name} must have shape [{channels}]")
        require(spec is None or spec.dtype == x.dtype, f"{name} must have the input's type")
    if "group" in a.op:
        groups = a.integer("num_groups")
        require(groups >= 1 and channels % groups == 0, f"num_groups must divide {channels}")
    return x


@rule("layer_norm rms_norm")
def _layer_norm(a: Bound) -> Outcome:
    x = floating(a.tensor("input"), "input")
    shape = a.integers("normalized_shape")
    require(
        bool(shape) and x.shape[-len(shape) :] == shape,
        "normalized_shape must be the input's last dimensions",
    )
    for name in ("weight", "bias"):
        spec = a.maybe(name)
        require(spec is None or spec.shape == shape, f"{name} must have shape {list(shape)}")
        require(spec is None or spec.dtype == x.dtype, f"{name} must have the input's type")
    return x


@flops("batch_norm instance_norm group_norm layer_norm rms_norm softmax.int log_softmax.int")
def _norm_flops(_: Bound, outcome: Outcome) -> int:
    return 5 * _out(outcome).elements


# ---- look-ups


def _indices(spec: TensorSpec, name: str, *dtypes: torch.dtype) -> TensorSpec:
    require(spec.dtype in dtypes, f"{name} must be an integer tensor; for a mask use torch.where")
    return spec


@rule("embedding")
def _embedding(a: Bound) -> Outcome:
    weight, index = a.tensor("weight"), _indices(a.tensor("indices"), "indices", torch.int64, torch.int32)
    require(len(weight.shape) == 2, "weight must have two dimensions")
    require(-1 <= a.integer("padding_idx") < weight.shape[0], "padding_idx is outside the table")
    return TensorSpec(weight.dtype, (*index.shape, weight.shape[1]))


@rule("index_select")
def _index_select(a: Bound) -> Outcome:
    x, index = a.tensor("self"), _indices(a.tensor("index"), "index", torch.int64, torch.int32)
    require(bool(x.shape) and len(index.shape) == 1, "index must have one dimension, input at least one")
    dim = a.integer("dim")
    require(-len(x.shape) <= dim < len(x.shape), "dim is outside the input")
    dim %= len(x.shape)
    return TensorSpec(x.dtype, (*x.shape[:dim], index.shape[0], *x.shape[dim + 1 :]))


@rule("gather")
def _gather(a: Bound) -> Outcome:
    x, index = a.tensor("self"), _indices(a.tensor("index"), "index", torch.int64)
    require(len(x.shape) == len(index.shape), "index must have as many dimensions as input")
    dim = a.integer("dim")
    require(-len(x.shape) <= dim < len(x.shape), "dim is outside the input")
    fits = all(
        i <= n for d, (i, n) in enumerate(zip(index.shape, x.shape, strict=True)) if d != dim % len(x.shape)
    )
    require(fits, "index is larger than input")
    return TensorSpec(x.dtype, index.shape)


@rule("index.Tensor")
def _index(a: Bound) -> Outcome:
    x, picks = a.tensor("self"), a.values["indices"]
    require(0 < len(picks) <= len(x.shape), "more indices than dimensions")
    used = [position for position, pick in enumerate(picks) if pick is not None]
    require(bool(used), "needs an index")
    shape = broadcast(*(_indices(picks[p], "indices", torch.int64, torch.int32).shape for p in used))
    rest = [n for d, n in enumerate(x.shape) if d not in used]
    adjacent = used == list(range(used[0], used[-1] + 1))
    at = used[0] if adjacent else 0
    return TensorSpec(x.dtype, (*rest[:at], *shape, *rest[at:]))


# ---- recurrences and attention


_GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
_RECURRENT = "lstm.input gru.input rnn_tanh.input rnn_relu.input"


def _recurrence(a: Bound) -> tuple[int, int, int, int, int, int]:
    """(steps, batch, features, hidden, layers, directions) of a recurrent node, all its shapes checked."""
    x, parameters = a.tensor("input"), a.tensors("params")
    gates = _GATES[a.op.split(".")[1]]
    require(len(x.shape) == 3, "input must have three dimensions")
    batch, steps = (x.shape[0], x.shape[1]) if a.flag("batch_first") else (x.shape[1], x.shape[0])
    layers, directions, per_layer = (
        a.integer("num_layers"),
        1 + a.flag("bidirectional"),
        2 + 2 * a.flag("has_biases"),
    )
    require(1 <= layers <= 64, "num_layers must be in [1, 64]")
    require(0.0 <= float(a.values["dropout"]) < 1.0, "dropout must be in [0, 1)")
    require(
        len(parameters) == layers * directions * per_layer, f"needs {layers * directions * per_layer} weights"
    )
    require(len(parameters[1].shape) == 2, "hidden weights must have two dimensions")
    hidden = parameters[1].shape[1]
    _same_types(x, *parameters)
    for index in range(layers * directions):
        features = x.shape[2] if index < directions else hidden * directions
        wanted = [(gates * hidden, features), (gates * hidden, hidden)] + [(gates * hidden,)] * (
            per_layer - 2
        )
        have = [p.shape for p in parameters[index * per_layer : (index + 1) * per_layer]]
        require(have == wanted, f"the weights of layer {index // directions} have wrong shapes")
    states = a.tensors("hx") if a.op == "aten.lstm.input" else (a.tensor("hx"),)
    require(len(states) == (2 if a.op == "aten.lstm.input" else 1), "needs a hidden and a cell state")
    for state in states:
        require(
            state == TensorSpec(x.dtype, (layers * directions, batch, hidden)),
            "the initial state has a wrong shape",
        )
    return steps, batch, x.shape[2], hidden, layers, directions


@rule(_RECURRENT)
def _recurrent(a: Bound) -> Outcome:
    steps, batch, _, hidden, layers, directions = _recurrence(a)
    dtype = a.tensor("input").dtype
    lead = (batch, steps) if a.flag("batch_first") else (steps, batch)
    last = TensorSpec(dtype, (layers * directions, batch, hidden))
    out = TensorSpec(dtype, (*lead, hidden * directions))
    return (out, last, last) if a.op == "aten.lstm.input" else (out, last)


@flops(_RECURRENT)
def _recurrent_flops(a: Bound, _: Outcome) -> int:
    steps, batch, features, hidden, layers, directions = _recurrence(a)
    gates = _GATES[a.op.split(".")[1]]
    inputs = features + (layers - 1) * hidden * directions
    return 2 * steps * batch * directions * gates * hidden * (inputs + layers * hidden)


@rule("scaled_dot_product_attention")
def _attention(a: Bound) -> Outcome:
    query, key, value, mask = a.tensor("query"), a.tensor("key"), a.tensor("value"), a.maybe("attn_mask")
    dtype = _same_types(query, key, value)
    require(min(len(query.shape), len(key.shape), len(value.shape)) >= 2, "needs at least two dimensions")
    require(query.shape[-1] == key.shape[-1], "query and key differ in features")
    require(key.shape[-2] == value.shape[-2], "key and value differ in length")
    require(not a.flag("enable_gqa"), "grouped queries are not offered; repeat keys and values")
    require(0.0 <= float(a.values["dropout_p"]) < 1.0, "dropout_p must be in [0, 1)")
    require(not (a.flag("is_causal") and mask is not None), "takes a mask or is_causal, not both")
    batch = broadcast(query.shape[:-2], key.shape[:-2], value.shape[:-2])
    scores = (*batch, query.shape[-2], key.shape[-2])
    if mask is not None:
        require(mask.dtype in (torch.bool, dtype), "the mask must be bool or of the query's type")
        require(broadcast(mask.shape, scores) == scores, "the mask does not fit")
    size = math.prod(scores) * dtype.itemsize
    require(size <= MAX_WORKSPACE_BYTES, f"needs {size} bytes of scores, allowed are {MAX_WORKSPACE_BYTES}")
    return TensorSpec(dtype, (*batch, query.shape[-2], value.shape[-1]))


@flops("scaled_dot_product_attention")
def _attention_flops(a: Bound, outcome: Outcome) -> int:
    query, value, out = a.tensor("query"), a.tensor("value"), _out(outcome)
    return 2 * (out.elements // out.shape[-1]) * value.shape[-2] * (query.shape[-1] + out.shape[-1])
