"""Every shape rule against what the operation really gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from galaxylearning.errors import GraphRefused
from galaxylearning.graph import infer  # noqa: F401  registers the rules
from galaxylearning.graph.operations import OPERATIONS
from galaxylearning.graph.specs import RULES, Bound, Outcome, TensorSpec, full_name

F = torch.float32


def t(*shape: int, dtype: torch.dtype = F) -> torch.Tensor:
    if dtype == torch.bool:
        return torch.arange(max(1, torch.Size(shape).numel())).remainder(2).bool().reshape(shape)
    return torch.linspace(0.1, 0.9, max(1, torch.Size(shape).numel())).reshape(shape).to(dtype)


def i(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.int64)


def weights(
    gates: int, inputs: int, hidden: int, layers: int, directions: int, biases: bool
) -> list[torch.Tensor]:
    found = []
    for layer in range(layers):
        for _ in range(directions):
            size = inputs if layer == 0 else hidden * directions
            found += [t(gates * hidden, size), t(gates * hidden, hidden)]
            found += [t(gates * hidden)] * (2 if biases else 0)
    return found


Case = tuple[str, tuple[Any, ...], dict[str, Any]]


def case(name: str, *args: Any, **kwargs: Any) -> Case:
    return full_name(name), args, kwargs


UNARY = (
    "relu silu elu selu celu softplus hardtanh hardswish hardsigmoid mish log_sigmoid "
    "relu6 leaky_relu gelu glu"
)
MATHS = (
    "neg exp expm1 log log1p sqrt rsqrt abs sin cos erf reciprocal square sign floor ceil round sigmoid tanh "
    "contiguous clone detach alias tril triu zeros_like ones_like logical_not sum mean t squeeze"
)
COMPARE = "eq ne lt gt le ge"

CASES: list[Case] = [
    *(case(name, t(3, 4)) for name in (*UNARY.split(), *MATHS.split())),
    *(
        case(name, t(3, 4, dtype=torch.int64))
        for name in ("exp", "sqrt", "neg", "abs", "relu", "logical_not")
    ),
    case("sum", t(3, 4, dtype=torch.bool)),
    case("sum", t(3, 4, dtype=torch.int64)),
    *(case(f"{name}.Tensor", t(3, 1), t(4)) for name in COMPARE.split()),
    *(case(f"{name}.Scalar", t(3, 4), 2) for name in COMPARE.split()),
    case("threshold", t(3, 4), 0.5, 0.0),
    case("prelu", t(3, 4, 2), t(4)),
    case("softmax.int", t(3, 4), -1),
    case("softmax.int", t(3, 4), -1, dtype=torch.float64),
    case("log_softmax.int", t(3, 4), 1),
    case("clamp", t(3, 4), 0.0, None),
    case("clamp", t(3, dtype=torch.int64), 0.5, 2.0),
    case("clamp_min", t(3, 4), 0.0),
    case("clamp_max", t(3, 4), 1),
    case("dropout", t(3, 4), 0.5, False),
    case("feature_dropout", t(3, 4, 2), 0.5, False),
    case("full_like", t(3, 4), 2.0),
    case("zeros_like", t(3, 4), dtype=torch.int64),
    case("cumsum", t(3, 4), 1),
    case("cumsum", t(3, 4, dtype=torch.bool), 1),
    case("flip", t(3, 4), [0, -1]),
    case("roll", t(3, 4), [1], [0]),
    case("masked_fill.Scalar", t(3, 4), t(4, dtype=torch.bool), float("-inf")),
    *(case(f"{name}.Tensor", t(3, 1, 4), t(2, 1)) for name in ("add", "sub", "mul", "div")),
    *(case(f"{name}.Tensor", t(3, 4), 2) for name in ("add", "sub", "mul", "div")),
    *(case(f"{name}.Tensor", t(3, dtype=torch.int64), 0.5) for name in ("add", "sub", "mul", "div")),
    *(case(f"{name}.Tensor", t(3, dtype=torch.int64), 2) for name in ("add", "sub", "mul", "div")),
    case("add.Tensor", t(3, dtype=torch.float16), t(dtype=torch.float64)),
    case("add.Tensor", t(3, dtype=torch.int32), t(dtype=torch.float32)),
    case("add.Tensor", t(3, dtype=torch.bool), 1),
    case("mul.Tensor", t(3, dtype=torch.bfloat16), t(3, dtype=torch.float16)),
    case("mul.Tensor", t(3, dtype=torch.uint8), t(3, dtype=torch.int8)),
    case("add.Tensor", t(3), t(3), alpha=2),
    case("div.Tensor_mode", t(3, dtype=torch.int64), t(3) + 1, rounding_mode="floor"),
    case("div.Tensor_mode", t(3, dtype=torch.int64), torch.tensor([1, 2, 3]), rounding_mode="trunc"),
    case("div.Tensor_mode", t(3, dtype=torch.int64), torch.tensor([1, 2, 3]), rounding_mode=None),
    *(case(f"{name}.Scalar", t(3, 4), 2) for name in ("add", "sub", "mul", "div", "rsub")),
    case("pow.Tensor_Scalar", t(3, 4), 2),
    case("pow.Tensor_Scalar", t(3, dtype=torch.int64), 0.5),
    case("pow.Tensor_Tensor", t(3, 4), t(4)),
    case("maximum", t(3, 1), t(4)),
    case("minimum", t(3, 1), t(4, dtype=torch.int64)),
    case("where.self", t(3, 1, dtype=torch.bool), t(4), t(3, 4)),
    case("where.ScalarSelf", t(3, 1, dtype=torch.bool), 1.0, t(4)),
    case("where.ScalarOther", t(3, 1, dtype=torch.bool), t(4), 0),
    case("where.Scalar", t(3, 1, dtype=torch.bool), 1, 0.5),
    case("logical_and", t(3, 1), t(4)),
    case("logical_or", t(3, 1), t(4)),
    case("sum.dim_IntList", t(3, 4, 5), [1], True),
    case("sum.dim_IntList", t(3, 4, 5), None),
    case("sum.dim_IntList", t(3, 4, dtype=torch.int32), [-1]),
    case("mean.dim", t(3, 4, 5), [-1, 0]),
    case("amax", t(3, 4), [1]),
    case("amin", t(3, 4), [], True),
    case("var.correction", t(3, 4), [1], correction=0, keepdim=True),
    case("var.dim", t(3, 4), [1]),
    case("std.correction", t(3, 4), [1], correction=1),
    case("std.dim", t(3, 4), [0]),
    case("logsumexp", t(3, 4), [1]),
    case("max.dim", t(3, 4), 1),
    case("min.dim", t(3, 4), 0, True),
    case("argmax", t(3, 4), 1),
    case("argmin", t(3, 4)),
    case("linalg_vector_norm", t(3, 4), 2, [1], True),
    case("norm.ScalarOpt_dim", t(3, 4), 2, [1], True),
    case("linear", t(2, 3, 4), t(5, 4), t(5)),
    case("linear", t(4), t(5, 4)),
    case("matmul", t(3, 4), t(4)),
    case("matmul", t(4), t(4)),
    case("matmul", t(4), t(2, 4, 5)),
    case("matmul", t(2, 1, 3, 4), t(5, 4, 6)),
    case("mm", t(3, 4), t(4, 5)),
    case("bmm", t(2, 3, 4), t(2, 4, 5)),
    case("mv", t(3, 4), t(4)),
    case("dot", t(4), t(4)),
    case("addmm", t(5), t(3, 4), t(4, 5)),
    case("baddbmm", t(2, 1, 5), t(2, 3, 4), t(2, 4, 5), beta=1, alpha=0.5),
    case("einsum", "bhqd,bhkd->bhqk", [t(2, 3, 4, 5), t(2, 3, 6, 5)]),
    case("einsum", "ij->ji", [t(2, 3)]),
    case("einsum", "ij,jk->", [t(2, 3), t(3, 4)]),
    case("conv1d", t(2, 4, 9), t(6, 2, 3), t(6), [2], [1], [2], 2),
    case("conv1d", t(4, 9), t(6, 4, 3)),
    case("conv2d", t(2, 3, 8, 9), t(4, 3, 3, 2), None, [1, 2], [0, 1]),
    case("conv3d", t(2, 1, 5, 6, 7), t(4, 1, 2, 2, 2)),
    case("conv1d.padding", t(2, 4, 9), t(6, 4, 3), None, [1], "same"),
    case("conv2d.padding", t(2, 3, 8, 9), t(4, 3, 3, 3), None, [1, 1], "same", [2, 2]),
    case("conv3d.padding", t(2, 1, 5, 6, 7), t(4, 1, 2, 2, 2), None, [1, 1, 1], "valid"),
    case("conv_transpose1d", t(2, 4, 9), t(4, 3, 3), t(3), [2], [1], [1]),
    case("conv_transpose2d.input", t(2, 4, 5, 6), t(4, 2, 3, 3), None, [2, 2], [1, 1], [1, 1], 2),
    case("conv_transpose3d.input", t(1, 2, 3, 4, 5), t(2, 2, 2, 2, 2)),
    case("max_pool1d", t(2, 3, 9), [2], [2], [1], [1], True),
    case("max_pool2d", t(2, 3, 9, 8), [3, 2], [2, 2], [1, 1], [1, 1], True),
    case("max_pool2d", t(2, 3, 9, 8), [2, 2]),
    case("max_pool3d", t(2, 3, 5, 6, 7), [2, 2, 2], [1, 2, 2]),
    case("avg_pool1d", t(2, 3, 9), [2]),
    case("avg_pool2d", t(2, 3, 9, 8), [3, 3], [2, 2], [1, 1], True),
    case("avg_pool3d", t(2, 3, 5, 6, 7), [2, 2, 2]),
    case("adaptive_avg_pool1d", t(2, 3, 9), [4]),
    case("adaptive_avg_pool2d", t(2, 3, 9, 8), [1, 2]),
    case("adaptive_avg_pool3d", t(2, 3, 5, 6, 7), [1, 1, 1]),
    case("batch_norm", t(4, 3, 2), t(3), t(3), None, None, True, 0.1, 1e-5, False),
    case("instance_norm", t(4, 3, 2), None, None, None, None, True, 0.1, 1e-5, False),
    case("layer_norm", t(4, 3, 2), [3, 2], t(3, 2), None),
    case("group_norm", t(4, 6, 2), 3, t(6), t(6)),
    case("rms_norm", t(4, 6), [6], t(6)),
    case("embedding", t(7, 4), i(2, 3)),
    case("index_select", t(3, 4), 1, i(6)),
    case("gather", t(3, 4), 1, i(2, 6)),
    case("index.Tensor", t(3, 4, 5), [None, i(2, 6)]),
    case("index.Tensor", t(3, 4, 5), [i(2), None, i(2)]),
    case("index.Tensor", t(3, 4, 5), [i(2), i(2)]),
    case(
        "lstm.input",
        t(5, 2, 3),
        [t(2, 2, 4), t(2, 2, 4)],
        weights(4, 3, 4, 2, 1, True),
        True,
        2,
        0.0,
        False,
        False,
        False,
    ),
    case(
        "lstm.input",
        t(2, 5, 3),
        [t(4, 2, 4), t(4, 2, 4)],
        weights(4, 3, 4, 2, 2, False),
        False,
        2,
        0.0,
        False,
        True,
        True,
    ),
    case("gru.input", t(2, 5, 3), t(1, 2, 4), weights(3, 3, 4, 1, 1, True), True, 1, 0.0, False, False, True),
    case(
        "rnn_tanh.input",
        t(2, 5, 3),
        t(1, 2, 4),
        weights(1, 3, 4, 1, 1, True),
        True,
        1,
        0.0,
        False,
        False,
        True,
    ),
    case(
        "rnn_relu.input",
        t(2, 5, 3),
        t(2, 2, 4),
        weights(1, 3, 4, 1, 2, True),
        True,
        1,
        0.0,
        False,
        True,
        True,
    ),
    case("scaled_dot_product_attention", t(2, 3, 4, 8), t(2, 3, 5, 8), t(2, 3, 5, 6)),
    case("scaled_dot_product_attention", t(2, 4, 8), t(2, 4, 8), t(2, 4, 8), t(4, 4, dtype=torch.bool)),
    case("view", t(3, 4), [2, -1]),
    case("reshape", t(3, 4), [12]),
    case("flatten.using_ints", t(2, 3, 4, 5), 1, 2),
    case("unflatten.int", t(2, 12), 1, [3, -1]),
    case("squeeze.dim", t(2, 1, 3), 1),
    case("squeeze.dim", t(2, 1, 3), 0),
    case("squeeze.dims", t(2, 1, 1), [1, 2]),
    case("unsqueeze", t(2, 3), -1),
    case("transpose.int", t(2, 3, 4), 0, -1),
    case("permute", t(2, 3, 4), [2, 0, 1]),
    case("movedim.int", t(2, 3, 4), 0, 2),
    case("expand", t(3, 1), [2, -1, 4]),
    case("expand_as", t(3, 1), t(2, 3, 4)),
    case("view_as", t(3, 4), t(2, 6)),
    case("repeat", t(3, 4), [2, 1, 3]),
    case("repeat_interleave.self_int", t(3, 4), 2, 1),
    case("repeat_interleave.self_int", t(3, 4), 2),
    case("cat", [t(2, 3), t(2, 4, dtype=torch.float64)], 1),
    case("stack", [t(2, 3), t(2, 3)], -1),
    case("chunk", t(7, 2), 3),
    case("chunk", t(4, 2), 3),
    case("split.Tensor", t(7, 2), 3),
    case("split_with_sizes", t(7, 2), [3, 4]),
    case("unbind.int", t(3, 2)),
    case("slice.Tensor", t(5, 6), 1, 1, (1 << 63) - 1, 2),
    case("slice.Tensor", t(5, 6), 1, -3, -1),
    case("select.int", t(5, 6), 1, -1),
    case("narrow", t(5, 6), 1, -4, 2),
    case("pixel_shuffle", t(2, 8, 3, 4), 2),
    case("pad", t(2, 3, 4), [1, 2], "constant", 0.5),
    case("pad", t(2, 3, 4), [1, 2], "reflect"),
    case("pad", t(2, 3, 4), [1, 2], "replicate"),
    case("pad", t(2, 3, 4), [-1, 2]),
    case("constant_pad_nd", t(2, 3, 4), [1, 2, 0, 1]),
    case("upsample_nearest1d.vec", t(2, 3, 4), [8], None),
    case("upsample_nearest2d.vec", t(2, 3, 4, 5), None, [2.0, 1.5]),
    case("upsample_bilinear2d.vec", t(2, 3, 4, 5), [7, 9], False, None),
    case("zeros", [2, 3]),
    case("ones", [2], dtype=torch.int64),
    case("full", [2, 3], 1.5),
    case("full", [2, 3], 1),
    case("full", [2, 3], True),
    case("arange", 5),
    case("arange.start", 1, 5, dtype=torch.float32),
    case("arange.start_step", 1, 8, 3),
    case("arange.start_step", 0.0, 1.0, 0.3),
    case("arange.start_step", 5, 0, -2),
    case("to.dtype", t(2, 3), torch.float64),
    case("_to_copy", t(2, 3), dtype=torch.int64),
    case("type_as", t(2, 3), i(1)),
    case("sym_size.int", t(2, 3), -1),
    case("int.add", 5, 3),
    case("int.sub", 5, 8),
    case("int.mul", 5, 3),
    case("int.floordiv", -5, 3),
    case("int.mod", -5, 3),
    case("tuple.item", (t(2), t(3)), 1),
    case("state.update", t(2, 3), t(3, dtype=torch.float64)),
]


def spec(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return TensorSpec(value.dtype, tuple(value.shape))
    if isinstance(value, (list, tuple)):
        return tuple(spec(item) for item in value)
    return value


def bind(op: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Bound:
    values = {p.name: p.default for p in OPERATIONS[op].parameters if p.is_offered}
    values.update(zip((p.name for p in OPERATIONS[op].parameters), map(spec, args), strict=False))
    values.update({key: spec(value) for key, value in kwargs.items()})
    return Bound(op, values)


@pytest.mark.parametrize(("op", "args", "kwargs"), CASES, ids=[f"{n}-{c[0]}" for n, c in enumerate(CASES)])
def test_rule_gives_the_shape_and_type_of_the_real_result(
    op: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    outcome: Outcome = RULES[op](bind(op, args, kwargs))
    assert outcome == spec(OPERATIONS[op].call(*args, **kwargs))


def test_every_operation_has_a_rule_and_a_case() -> None:
    assert set(RULES) == set(OPERATIONS)
    assert {op for op, _, _ in CASES} == set(OPERATIONS)


REFUSED: list[Case] = [
    case("add.Tensor", t(3, 4), t(3)),
    case("linear", t(2, 3), t(5, 4)),
    case("linear", t(2, 4), t(5, 4), t(4)),
    case("linear", t(2, 4), t(5, 4, dtype=torch.float64)),
    case("matmul", t(3, 4), t(3)),
    case("bmm", t(2, 3, 4), t(3, 4, 5)),
    case("addmm", t(6), t(3, 4), t(4, 5)),
    case("conv2d", t(2, 3, 8, 8), t(4, 2, 3, 3)),
    case("conv2d", t(2, 3, 2, 2), t(4, 3, 3, 3)),
    case("max_pool2d", t(2, 3, 2, 2), [3, 3]),
    case("max_pool2d", t(2, 3, 8, 8), [2, 2], [2, 2], [2, 2]),
    case("batch_norm", t(4, 3, 2), t(4), None, None, None, True, 0.1, 1e-5, False),
    case("layer_norm", t(4, 3, 2), [3]),
    case("group_norm", t(4, 6, 2), 4),
    case("embedding", t(7, 4), t(2)),
    case("gather", t(3, 4), 1, i(5, 6)),
    case("view", t(3, 4), [5, -1]),
    case("view", t(3, 4), [-1, -1]),
    case("expand", t(3, 2), [3, 4]),
    case("cat", [t(2, 3), t(3, 4)], 1),
    case("stack", [t(2, 3), t(2, 4)], 0),
    case("permute", t(2, 3), [0, 0]),
    case("permute", t(2, 3), [0]),
    case("squeeze.dim", t(2, 3), 2),
    case("select.int", t(2, 3), 0, 2),
    case("narrow", t(5, 6), 1, 4, 3),
    case("split_with_sizes", t(7, 2), [3, 3]),
    case("softmax.int", t(3), 1),
    case("masked_fill.Scalar", t(3), t(3), 0.0),
    case("mean", i(3)),
    case("scaled_dot_product_attention", t(2, 4, 8), t(2, 5, 8), t(2, 4, 8)),
    case("scaled_dot_product_attention", t(2, 4, 8), t(2, 4, 7), t(2, 4, 8)),
    case("tuple.item", (t(2), t(3)), 2),
    case("int.floordiv", 1, 0),
    case("state.update", t(2, 3), t(4)),
    case("pow.Tensor_Scalar", i(3), -1),
]


@pytest.mark.parametrize(
    ("op", "args", "kwargs"), REFUSED, ids=[f"{n}-{c[0]}" for n, c in enumerate(REFUSED)]
)
def test_rule_refuses_what_the_operation_refuses(
    op: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    with pytest.raises(GraphRefused):
        RULES[op](bind(op, args, kwargs))
    with pytest.raises((RuntimeError, IndexError, ValueError, ZeroDivisionError)):
        OPERATIONS[op].call(*args, **kwargs)


def test_recurrent_weights_are_checked_where_the_operation_itself_does_not() -> None:
    arguments = (
        t(5, 2, 3),
        [t(1, 2, 4), t(1, 2, 4)],
        weights(4, 5, 4, 1, 1, True),
        True,
        1,
        0.0,
        False,
        False,
        False,
    )
    with pytest.raises(GraphRefused, match="layer 0"):
        RULES["aten.lstm.input"](bind("aten.lstm.input", arguments, {}))
