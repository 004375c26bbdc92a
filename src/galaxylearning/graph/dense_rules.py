"""What each dense operation of a graph becomes, with every argument and shape checked.

What a dense program has no operation for is a reason (``NotDenseError``); what contradicts itself is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np

from galaxylearning.errors import GraphRefused
from galaxylearning.graph import dense_curves as curves
from galaxylearning.graph.dense_curves import Curve
from galaxylearning.graph.dense_ops import Combine, Detach, Matrix, Multiply, Normalise, Softmax
from galaxylearning.graph.dense_reader import Activation, Batch, NotDenseError, Reader, Value, Weight
from galaxylearning.graph.document import Argument, Node, Ref

# name -> its parameters; one with a default is (name, default).
_REQUIRED = object()
_UNARY = (("self", _REQUIRED),)
_BINARY = (("self", _REQUIRED), ("other", _REQUIRED))
_ALPHA = (*_BINARY, ("alpha", 1))
_Signature: TypeAlias = "tuple[tuple[str, Any], ...]"

_SIGNATURES: Mapping[str, _Signature] = MappingProxyType(
    {
        "linear.default": (("input", _REQUIRED), ("weight", _REQUIRED), ("bias", None)),
        "addmm.default": (*_UNARY, ("mat1", _REQUIRED), ("mat2", _REQUIRED), ("beta", 1), ("alpha", 1)),
        "matmul.default": _BINARY,
        "mm.default": (*_UNARY, ("mat2", _REQUIRED)),
        "add.Tensor": _ALPHA,
        "sub.Tensor": _ALPHA,
        "add.Scalar": _ALPHA,
        "sub.Scalar": _ALPHA,
        "rsub.Scalar": _ALPHA,
        "mul.Tensor": _BINARY,
        "mul.Scalar": _BINARY,
        "div.Tensor": _BINARY,
        "div.Scalar": _BINARY,
        "neg.default": _UNARY,
        "relu.default": _UNARY,
        "relu6.default": _UNARY,
        "tanh.default": _UNARY,
        "sigmoid.default": _UNARY,
        "silu.default": _UNARY,
        "leaky_relu.default": (*_UNARY, ("negative_slope", 0.01)),
        "elu.default": (*_UNARY, ("alpha", 1), ("scale", 1), ("input_scale", 1)),
        "softplus.default": (*_UNARY, ("beta", 1), ("threshold", 20)),
        "gelu.default": (*_UNARY, ("approximate", "none")),
        "hardtanh.default": (*_UNARY, ("min_val", -1), ("max_val", 1)),
        "clamp.default": (*_UNARY, ("min", None), ("max", None)),
        "clamp_min.default": (*_UNARY, ("min", _REQUIRED)),
        "clamp_max.default": (*_UNARY, ("max", _REQUIRED)),
        "softmax.int": (*_UNARY, ("dim", _REQUIRED), ("dtype", None)),
        "log_softmax.int": (*_UNARY, ("dim", _REQUIRED), ("dtype", None)),
        "layer_norm.default": (
            ("input", _REQUIRED),
            ("normalized_shape", _REQUIRED),
            ("weight", None),
            ("bias", None),
            ("eps", 1e-5),
            ("cudnn_enable", True),
        ),
        "flatten.using_ints": (*_UNARY, ("start_dim", 0), ("end_dim", -1)),
        "view.default": (*_UNARY, ("size", _REQUIRED)),
        "reshape.default": (*_UNARY, ("shape", _REQUIRED)),
        "contiguous.default": _UNARY,
        "clone.default": _UNARY,
        "alias.default": _UNARY,
        "detach.default": _UNARY,
        "t.default": _UNARY,
        "transpose.int": (*_UNARY, ("dim0", _REQUIRED), ("dim1", _REQUIRED)),
        "permute.default": (*_UNARY, ("dims", _REQUIRED)),
        "sym_size.int": (*_UNARY, ("dim", _REQUIRED)),
    }
)


# ---- arguments


def _bind(node: Node, signature: _Signature) -> dict[str, Any]:
    if len(node.args) > len(signature):
        raise GraphRefused(f"takes at most {len(signature)} arguments, not {len(node.args)}")
    bound: dict[str, Any] = dict(signature)
    given = {name: value for (name, _), value in zip(signature, node.args, strict=False)}
    for key, value in node.kwargs:
        if key in given:
            raise GraphRefused(f"argument {key} is given twice")
        if key not in bound:
            raise GraphRefused(f"has no argument {key[:80]!r}")
        given[key] = value
    bound.update(given)
    for key, value in bound.items():
        if value is _REQUIRED:
            raise GraphRefused(f"argument {key} is missing")
    return bound


def _number(argument: Argument) -> float:
    if isinstance(argument, bool) or not isinstance(argument, (int, float)):
        raise NotDenseError("an argument is not a number")
    if argument != argument or (
        abs(argument) > float(np.finfo(np.float32).max) and not _is_infinite(argument)
    ):
        raise NotDenseError("a number is beyond float32")
    return float(argument)


def _is_infinite(argument: float) -> bool:
    return isinstance(argument, float) and math.isinf(argument)


def _integer(argument: Argument, name: str) -> int:
    if isinstance(argument, bool) or not isinstance(argument, int):
        raise GraphRefused(f"argument {name} must be an integer")
    return argument


def _is_number(argument: Argument) -> bool:
    return isinstance(argument, (bool, int, float))


# ---- rules: the reader, the operation's name, its arguments -> what it gives

_Rule: TypeAlias = Callable[[Reader, str, "dict[str, Any]"], Value]


def _linear(reader: Reader, _: str, given: dict[str, Any]) -> Value:
    x = reader.activation(given["input"])
    found = reader.resolve(given["weight"])
    if not isinstance(found, Weight):
        raise NotDenseError("the weight is not state")
    if len(found.entry.shape) != 2:
        raise GraphRefused(f"the weight must have two dimensions, not shape {list(found.entry.shape)}")
    stored = reader.matrix(given["weight"])
    # Linear takes x @ weight^T.
    y = reader.product(
        x, Matrix(stored.name, stored.columns, stored.rows, not stored.is_transposed, stored.start)
    )
    return y if given["bias"] is None else _biased(reader, y, given["bias"])


def _biased(reader: Reader, y: Activation, argument: Argument) -> Activation:
    held = reader.vector(reader.resolve(argument), y.shape)
    if held.size != y.shape[0]:
        raise GraphRefused(f"bias must have shape {list(y.shape)}")
    return reader.add_vector(y, held)


def _addmm(reader: Reader, _: str, given: dict[str, Any]) -> Value:
    if any(isinstance(given[key], bool) or given[key] != 1 for key in ("alpha", "beta")):
        raise NotDenseError("alpha or beta is not 1")
    y = reader.product(reader.activation(given["mat1"]), reader.matrix(given["mat2"]))
    return reader.add_vector(y, reader.vector(reader.resolve(given["self"]), y.shape))


def _matmul(reader: Reader, _: str, given: dict[str, Any]) -> Value:
    right = given["other"] if "other" in given else given["mat2"]
    return reader.product(reader.activation(given["self"]), reader.matrix(right))


def _add(reader: Reader, name: str, given: dict[str, Any]) -> Value:
    """add, sub and rsub: ``a + factor * b``, the other way round for rsub."""
    factor = _number(given["alpha"]) * (1.0 if name.startswith("add") else -1.0)
    if not math.isfinite(factor):
        raise NotDenseError("alpha is not finite")
    left = reader.resolve(given["self"])
    if _is_number(given["other"]):
        if not isinstance(left, Activation):
            raise NotDenseError("arithmetic on weights")
        number = _number(given["other"])
        if name == "rsub.Scalar":
            return reader.scale(left, factor, number)
        return reader.scale(left, 1.0, factor * number)
    right = reader.resolve(given["other"])
    if isinstance(left, Activation) and isinstance(right, Activation):
        _require_same(left, right)
        y = reader.new(left.shape)
        reader.operations.append(Combine(left.value, right.value, y.value, factor))
        return y
    if isinstance(left, Activation):
        return reader.add_vector(left, reader.vector(right, left.shape), factor)
    if isinstance(right, Activation):
        scaled = right if factor == 1.0 else reader.scale(right, factor)
        return reader.add_vector(scaled, reader.vector(left, right.shape))
    raise NotDenseError("arithmetic on weights")


def _multiply(reader: Reader, _: str, given: dict[str, Any]) -> Value:
    left = reader.resolve(given["self"])
    if _is_number(given["other"]):
        if not isinstance(left, Activation):
            raise NotDenseError("arithmetic on weights")
        return reader.scale(left, _number(given["other"]))
    right = reader.resolve(given["other"])
    if isinstance(left, Activation) and isinstance(right, Activation):
        _require_same(left, right)
        y = reader.new(left.shape)
        reader.operations.append(Multiply(left.value, right.value, y.value))
        return y
    if isinstance(left, Activation):
        return reader.multiply_vector(left, reader.vector(right, left.shape))
    if isinstance(right, Activation):
        return reader.multiply_vector(right, reader.vector(left, right.shape))
    raise NotDenseError("arithmetic on weights")


def _divide(reader: Reader, _: str, given: dict[str, Any]) -> Value:
    left = reader.activation(given["self"])
    if _is_number(given["other"]):
        number = _number(given["other"])
        if abs(number) < 1e-30:
            raise NotDenseError("a division by a number next to 0")
        return reader.scale(left, 1.0 / number)
    right = reader.resolve(given["other"])
    return reader.multiply_vector(left, reader.vector(right, left.shape, is_reciprocal=True))


def _require_same(left: Activation, right: Activation) -> None:
    if left.shape != right.shape:
        raise NotDenseError(f"values of shapes {list(left.shape)} and {list(right.shape)} meet")


def _negate(reader: Reader, _: str, given: dict[str, Any]) -> Value:
    return reader.scale(reader.activation(given["self"]), -1.0)


def _curved(reader: Reader, name: str, given: dict[str, Any]) -> Value:
    return reader.curve(reader.activation(given["self"]), _CURVES[name](given))


def _elu(given: dict[str, Any]) -> Curve:
    if _number(given["scale"]) != 1.0 or _number(given["input_scale"]) != 1.0:
        raise NotDenseError("a scaled elu")
    return curves.elu(_number(given["alpha"]))


def _softplus(given: dict[str, Any]) -> Curve:
    beta = _number(given["beta"])
    if not 1e-6 <= abs(beta) <= 1e6:
        raise NotDenseError("beta is beyond what float32 carries")
    return curves.softplus(beta, _number(given["threshold"]))


def _gelu(given: dict[str, Any]) -> Curve:
    kinds = {"none": curves.gelu, "tanh": curves.gelu_tanh}
    if given["approximate"] not in kinds:
        raise GraphRefused("argument approximate must be none or tanh")
    return kinds[given["approximate"]]()


def _clamp(given: dict[str, Any]) -> Curve:
    low, high = given.get("min"), given.get("max")
    if low is None and high is None:
        raise GraphRefused("needs min or max")
    return curves.clip(
        -math.inf if low is None else _number(low), math.inf if high is None else _number(high), is_open=False
    )


_CURVES: Mapping[str, Callable[[dict[str, Any]], Curve]] = MappingProxyType(
    {
        "relu.default": lambda _: curves.relu(),
        "relu6.default": lambda _: curves.clip(0.0, 6.0, is_open=True),
        "tanh.default": lambda _: curves.tanh(),
        "sigmoid.default": lambda _: curves.sigmoid(),
        "silu.default": lambda _: curves.silu(),
        "leaky_relu.default": lambda given: curves.leaky_relu(_number(given["negative_slope"])),
        "elu.default": _elu,
        "softplus.default": _softplus,
        "gelu.default": _gelu,
        "hardtanh.default": lambda given: curves.clip(
            _number(given["min_val"]), _number(given["max_val"]), is_open=True
        ),
        "clamp.default": _clamp,
        "clamp_min.default": _clamp,
        "clamp_max.default": _clamp,
    }
)


def _softmax(reader: Reader, name: str, given: dict[str, Any]) -> Value:
    x = reader.activation(given["self"], 1)
    if given["dtype"] is not None or _integer(given["dim"], "dim") not in (1, -1):
        raise NotDenseError("is not over the features of float32 rows")
    y = reader.new(x.shape)
    reader.operations.append(Softmax(x.value, y.value, name.startswith("log")))
    return y


def _layer_norm(reader: Reader, _: str, given: dict[str, Any]) -> Value:
    x = reader.activation(given["input"], 1)
    if given["normalized_shape"] != x.shape:
        raise GraphRefused(f"normalized_shape must be {list(x.shape)}")
    epsilon = _number(given["eps"])
    if not 0.0 <= epsilon <= 1e6:
        raise NotDenseError("eps is out of range")
    y, spread = reader.new(x.shape), reader.new((1,))
    reader.operations.append(Normalise(x.value, y.value, spread.value, epsilon))
    for key in ("weight", "bias"):
        if given[key] is None:
            continue
        held = reader.vector(reader.resolve(given[key]), x.shape)
        if held.size != x.shape[0]:
            raise GraphRefused(f"{key} must have shape {list(x.shape)}")
        y = reader.multiply_vector(y, held) if key == "weight" else reader.add_vector(y, held)
    return y


def _same(reader: Reader, name: str, given: dict[str, Any]) -> Value:
    found = reader.resolve(given["self"])
    if isinstance(found, Activation) and name == "detach.default":
        y = reader.new(found.shape)
        reader.operations.append(Detach(found.value, y.value))
        return y
    if isinstance(found, Weight) and name == "detach.default" and found.entry.trainable:
        raise NotDenseError("a trainable weight is detached")
    return found


def _flatten(reader: Reader, _: str, given: dict[str, Any]) -> Value:
    x = reader.activation(given["self"])
    rank = len(x.shape) + 1
    start, end = (_dimension(given[key], key, rank) for key in ("start_dim", "end_dim"))
    if start > end:
        raise GraphRefused("start_dim comes after end_dim")
    if start == 0 and end > 0:
        raise NotDenseError("rows are flattened into one another")
    if start == 0:
        return x
    merged = math.prod(x.shape[start - 1 : end])
    return Activation(x.value, (*x.shape[: start - 1], merged, *x.shape[end:]))


def _view(reader: Reader, _: str, given: dict[str, Any]) -> Value:
    x = reader.activation(given["self"])
    raw = given["size"] if "size" in given else given["shape"]
    if not isinstance(raw, tuple) or not raw:
        raise GraphRefused("the sizes must be a list")
    sizes = [reader.resolve(item) if isinstance(item, Ref) else _integer(item, "size") for item in raw]
    rest = [size for size in sizes[1:] if isinstance(size, int)]
    if len(rest) != len(sizes) - 1 or not rest:
        raise NotDenseError("the rows do not come first")
    if any(size < 1 and size != -1 for size in rest) or sizes.count(-1) > 1:
        raise GraphRefused("sizes must be at least 1, and at most one may be -1")
    elements, known = math.prod(x.shape), math.prod(size for size in rest if size != -1)
    if isinstance(sizes[0], Batch) and -1 in rest:
        if elements % known:
            raise GraphRefused(f"{elements} features do not fit {rest}")
        rest[rest.index(-1)] = elements // known
    elif not (isinstance(sizes[0], Batch) or sizes[0] == -1):
        raise NotDenseError("the rows do not come first")
    if math.prod(rest) != elements:
        if isinstance(sizes[0], Batch):
            raise GraphRefused(f"{elements} features do not fit {rest}")
        raise NotDenseError("rows are cut or joined")
    return Activation(x.value, tuple(rest))


def _transpose(reader: Reader, name: str, given: dict[str, Any]) -> Value:
    found = reader.resolve(given["self"])
    if not isinstance(found, Weight):
        raise NotDenseError("a value is transposed")
    rank = len(found.entry.shape)
    if rank != 2:
        raise NotDenseError("a weight that is no matrix is transposed")
    if name == "t.default":
        return Weight(found.entry, not found.is_transposed)
    if name == "permute.default":
        if not isinstance(given["dims"], tuple) or len(given["dims"]) != 2:
            raise GraphRefused("dims must name both dimensions")
        first, second = (_dimension(item, "dims", rank) for item in given["dims"])
        if first == second:
            raise GraphRefused("a dimension is named twice")
        return Weight(found.entry, found.is_transposed != (first == 1))
    first, second = (_dimension(given[key], key, rank) for key in ("dim0", "dim1"))
    return Weight(found.entry, found.is_transposed != (first != second))


def _size(reader: Reader, _: str, given: dict[str, Any]) -> Value:
    x = reader.activation(given["self"])
    dim = _dimension(given["dim"], "dim", len(x.shape) + 1)
    return Batch() if dim == 0 else x.shape[dim - 1]


def _dimension(argument: Argument, name: str, rank: int) -> int:
    dim = _integer(argument, name)
    if not -rank <= dim < rank:
        raise GraphRefused(f"{name} {dim} is not in [{-rank}, {rank - 1}]")
    return dim % rank


_RULES: Mapping[str, _Rule] = MappingProxyType(
    {
        **dict.fromkeys(_CURVES, _curved),
        "linear.default": _linear,
        "addmm.default": _addmm,
        **dict.fromkeys(("matmul.default", "mm.default"), _matmul),
        **dict.fromkeys(("add.Tensor", "sub.Tensor", "add.Scalar", "sub.Scalar", "rsub.Scalar"), _add),
        **dict.fromkeys(("mul.Tensor", "mul.Scalar"), _multiply),
        **dict.fromkeys(("div.Tensor", "div.Scalar"), _divide),
        "neg.default": _negate,
        **dict.fromkeys(("softmax.int", "log_softmax.int"), _softmax),
        "layer_norm.default": _layer_norm,
        **dict.fromkeys(("contiguous.default", "clone.default", "alias.default", "detach.default"), _same),
        "flatten.using_ints": _flatten,
        **dict.fromkeys(("view.default", "reshape.default"), _view),
        **dict.fromkeys(("t.default", "transpose.int", "permute.default"), _transpose),
        "sym_size.int": _size,
    }
)


def follow(reader: Reader, node: Node) -> Value:
    """What a node gives; its operations are noted with the reader.

    Raises:
        NotDenseError: the node is not dense.
        GraphRefused: an argument or a shape is wrong.
    """
    name = node.op.removeprefix("aten.")
    signature = _SIGNATURES.get(name)
    if signature is None or name == node.op:
        raise NotDenseError("is not a dense operation")
    return _RULES[name](reader, name, _bind(node, signature))
