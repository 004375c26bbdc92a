"""Shape rules of elementwise operations and reductions."""

from __future__ import annotations

import torch

from galaxylearning.graph.specs import (
    Bound,
    Outcome,
    TensorSpec,
    axes,
    axis,
    broadcast,
    floating,
    promote,
    require,
    resized,
    rule,
)


@rule(
    "relu hardtanh relu6 threshold contiguous clone detach alias tril triu neg abs square sign floor "
    "ceil round flip roll dropout feature_dropout"
)
def _same(a: Bound) -> Outcome:
    spec = a.tensor("input" if "input" in a.values else "self")
    if a.op in ("aten.tril.default", "aten.triu.default"):
        require(len(spec.shape) >= 2, "needs at least two dimensions")
    if a.op in ("aten.flip.default", "aten.roll.default"):
        axes(a.integers("dims"), len(spec.shape))
    if "dropout" in a.op:
        require(0.0 <= float(a.values["p"]) < 1.0, "p must be in [0, 1)")
        floating(spec, "input")
    if "feature_dropout" in a.op:
        require(len(spec.shape) >= 2, "needs at least two dimensions")
    return spec


@rule("leaky_relu elu gelu silu selu celu softplus hardswish hardsigmoid mish log_sigmoid")
def _same_float(a: Bound) -> Outcome:
    return floating(a.tensor("self"), "input")


@rule("sigmoid tanh exp expm1 log log1p sqrt rsqrt sin cos erf reciprocal")
def _to_float(a: Bound) -> Outcome:
    spec = a.tensor("self")
    return spec if spec.dtype.is_floating_point else TensorSpec(torch.float32, spec.shape)


@rule("clamp clamp_min clamp_max")
def _clamp(a: Bound) -> Outcome:
    spec = a.tensor("self")
    bounds = [a.values[key] for key in ("min", "max") if a.values.get(key) is not None]
    require(bool(bounds), "needs a bound")
    return TensorSpec(promote(spec, *bounds), spec.shape)


@rule("prelu")
def _prelu(a: Bound) -> Outcome:
    spec, weight = floating(a.tensor("self"), "input"), a.tensor("weight")
    require(weight.dtype == spec.dtype, "weight must have the input's type")
    channels = spec.shape[1] if len(spec.shape) >= 2 else 1
    require(weight.shape in ((), (1,), (channels,)), f"weight must have 1 or {channels} elements")
    return spec


@rule("glu")
def _glu(a: Bound) -> Outcome:
    spec = floating(a.tensor("self"), "input")
    require(bool(spec.shape), "needs at least one dimension")
    dim = axis(a.integer("dim"), len(spec.shape))
    require(spec.shape[dim] % 2 == 0, "the halved dimension must be even")
    return TensorSpec(spec.dtype, resized(spec.shape, dim, spec.shape[dim] // 2))


@rule("softmax.int log_softmax.int")
def _softmax(a: Bound) -> Outcome:
    spec = a.tensor("self")
    axis(a.integer("dim"), len(spec.shape))
    dtype = a.dtype("dtype") or spec.dtype
    return floating(TensorSpec(dtype, spec.shape), "input")


@rule("cumsum")
def _cumsum(a: Bound) -> Outcome:
    spec = a.tensor("self")
    axis(a.integer("dim"), len(spec.shape))
    return TensorSpec(a.dtype("dtype") or _summed(spec.dtype), spec.shape)


@rule("zeros_like ones_like full_like to.dtype _to_copy")
def _retyped(a: Bound) -> Outcome:
    spec = a.tensor("self")
    return TensorSpec(a.dtype("dtype") or spec.dtype, spec.shape)


@rule("type_as")
def _type_as(a: Bound) -> Outcome:
    return TensorSpec(a.tensor("other").dtype, a.tensor("self").shape)


@rule("logical_not")
def _logical_not(a: Bound) -> Outcome:
    return TensorSpec(torch.bool, a.tensor("self").shape)


@rule(
    "add.Tensor sub.Tensor mul.Tensor maximum minimum pow.Tensor_Tensor add.Scalar sub.Scalar mul.Scalar "
    "rsub.Scalar"
)
def _binary(a: Bound) -> Outcome:
    left, right = a.tensor("self"), a.values["exponent" if "exponent" in a.values else "other"]
    return TensorSpec(promote(left, right), _joined(left, right))


@rule("pow.Tensor_Scalar")
def _power(a: Bound) -> Outcome:
    spec, exponent = a.tensor("self"), a.values["exponent"]
    if isinstance(exponent, int) and not spec.dtype.is_floating_point:
        require(exponent >= 0, "an integer tensor cannot be raised to a negative power")
    return TensorSpec(promote(spec, exponent), spec.shape)


@rule("div.Tensor div.Scalar div.Tensor_mode")
def _divide(a: Bound) -> Outcome:
    left, right = a.tensor("self"), a.values["other"]
    dtype = promote(left, right)
    if not dtype.is_floating_point and a.values.get("rounding_mode") is None:
        dtype = torch.float32
    return TensorSpec(dtype, _joined(left, right))


@rule(
    "eq.Scalar ne.Scalar lt.Scalar gt.Scalar le.Scalar ge.Scalar eq.Tensor ne.Tensor lt.Tensor gt.Tensor "
    "le.Tensor "
    "ge.Tensor logical_and logical_or"
)
def _compare(a: Bound) -> Outcome:
    left, right = a.tensor("self"), a.values["other"]
    return TensorSpec(torch.bool, _joined(left, right))


@rule("where.self where.ScalarSelf where.ScalarOther where.Scalar")
def _where(a: Bound) -> Outcome:
    condition, left, right = a.tensor("condition"), a.values["self"], a.values["other"]
    require(condition.dtype == torch.bool, "condition must be bool")
    shapes = [v.shape for v in (condition, left, right) if isinstance(v, TensorSpec)]
    if any(isinstance(v, TensorSpec) for v in (left, right)):
        return TensorSpec(promote(left, right), broadcast(*shapes))
    both = TensorSpec(torch.bool, ())
    return TensorSpec(promote(both, left, right), condition.shape)


@rule("masked_fill.Scalar")
def _masked_fill(a: Bound) -> Outcome:
    spec, mask = a.tensor("self"), a.tensor("mask")
    require(mask.dtype == torch.bool, "mask must be bool")
    return TensorSpec(spec.dtype, broadcast(spec.shape, mask.shape))


# ---- reductions


@rule("sum mean")
def _reduce_all(a: Bound) -> Outcome:
    return TensorSpec(_reduced(a), ())


@rule("sum.dim_IntList mean.dim amax amin var.correction var.dim std.correction std.dim logsumexp")
def _reduce(a: Bound) -> Outcome:
    return TensorSpec(_reduced(a), _without(a, a.tensor("self").shape))


@rule("linalg_vector_norm norm.ScalarOpt_dim")
def _norm(a: Bound) -> Outcome:
    spec = floating(a.tensor("self"), "input")
    return TensorSpec(a.dtype("dtype") or spec.dtype, _without(a, spec.shape))


@rule("max.dim min.dim")
def _extreme(a: Bound) -> Outcome:
    spec = a.tensor("self")
    shape = _without(a, spec.shape)
    return TensorSpec(spec.dtype, shape), TensorSpec(torch.int64, shape)


@rule("argmax argmin")
def _argument(a: Bound) -> Outcome:
    return TensorSpec(torch.int64, _without(a, a.tensor("self").shape))


def _reduced(a: Bound) -> torch.dtype:
    spec, dtype = a.tensor("self"), a.dtype("dtype")
    if a.op.startswith("aten.sum"):
        return dtype or _summed(spec.dtype)
    if a.op.startswith(("aten.amax", "aten.amin")):
        return spec.dtype
    return floating(TensorSpec(dtype or spec.dtype, ()), "input").dtype


def _summed(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype.is_floating_point else torch.int64


def _without(a: Bound, shape: tuple[int, ...]) -> tuple[int, ...]:
    dims = axes(a.integers("dim"), len(shape)) or tuple(range(len(shape)))
    if a.flag("keepdim"):
        return tuple(1 if index in dims else size for index, size in enumerate(shape))
    return tuple(size for index, size in enumerate(shape) if index not in dims)


def _joined(left: TensorSpec, right: object) -> tuple[int, ...]:
    return broadcast(left.shape, right.shape) if isinstance(right, TensorSpec) else left.shape
