"""What a dense program does not take: refused where it contradicts itself, else declined with a reason."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from galaxylearning.errors import GraphRefused
from galaxylearning.graph import DEFAULT_LIMITS, FlatModel, weights_from_bytes, weights_to_bytes
from galaxylearning.graph.dense import (
    DenseModel,
    DenseProgram,
    dense_weights_from_bytes,
    dense_weights_to_bytes,
)
from galaxylearning.graph.document import (
    VERSION,
    Argument,
    ElementType,
    Input,
    ModelGraph,
    Node,
    Ref,
    StateEntry,
)
from galaxylearning.graph.infer import PROBE_BATCH, infer

X, W, B, V, S, F = (Ref("input", "x"), *(Ref("state", name) for name in ("w", "b", "v", "s", "f")))
SHAPES = {"b": (3,), "f": (4, 3), "s": (), "v": (4,), "w": (3, 4)}


def graph_of(*nodes: Node, loss: str = "cross_entropy", shape: tuple[int, ...] = (4,)) -> ModelGraph:
    """A graph over rows of four; the last node is the output. Only ``f`` is frozen."""
    state = tuple(
        StateEntry(name, "parameter", name != "f", "skip" if name == "f" else "mean", "float32", size)
        for name, size in SHAPES.items()
    )
    output = Ref("node", nodes[-1].name) if nodes else X
    return ModelGraph(VERSION, (Input("x", "float32", (None, *shape)),), state, nodes, (output,), loss)


def node(op: str, *args: Argument, name: str = "", **kwargs: Argument) -> Node:
    return Node(name or op.replace(".", "_"), f"aten.{op}", args, tuple(sorted(kwargs.items())))


LINEAR = node("linear.default", X, W, B, name="h")
H = Ref("node", "h")

CONTRADICTIONS: dict[str, tuple[tuple[Node, ...], str]] = {
    "a reference to nothing": ((node("relu.default", Ref("node", "gone")),), "node gone is not there"),
    "a reference ahead": ((node("relu.default", H), LINEAR), "node h is not there, or comes later"),
    "an input that is none": ((node("relu.default", Ref("input", "y")),), "input y is not there"),
    "a name used twice": ((LINEAR, LINEAR), "used twice"),
    "too few arguments": ((node("linear.default", X),), "argument weight is missing"),
    "too many arguments": ((node("relu.default", X, 1),), "takes at most 1 arguments"),
    "an unknown argument": ((node("relu.default", X, inplace=True),), "has no argument 'inplace'"),
    "an argument given twice": ((node("linear.default", X, W, weight=W),), "weight is given twice"),
    "a number for a tensor": ((node("relu.default", 1.0),), "must be a reference"),
    "features that do not fit": ((node("linear.default", X, F),), "4 features meet a weight that takes 3"),
    "a product that does not fit": ((node("matmul.default", X, W),), "4 features meet a weight that takes 3"),
    "a weight of one dimension": ((node("linear.default", X, V),), "two dimensions"),
    "a bias that does not fit": ((node("linear.default", X, W, S),), r"bias must have shape \[3\]"),
    "a norm of another shape": ((node("layer_norm.default", X, (3,)),), r"normalized_shape must be \[4\]"),
    "a norm's weight": ((node("layer_norm.default", X, (4,), S),), r"weight must have shape \[4\]"),
    "an unknown gelu": ((node("gelu.default", X, approximate="erf"),), "none or tanh"),
    "a clamp of nothing": ((node("clamp.default", X),), "needs min or max"),
    "a dimension beyond": ((node("flatten.using_ints", X, 2),), r"start_dim 2 is not in \[-2, 1\]"),
    "dimensions reversed": ((node("flatten.using_ints", X, 1, 0),), "start_dim comes after end_dim"),
    "a dimension that is text": ((node("flatten.using_ints", X, "1"),), "start_dim must be an integer"),
    "a view that is no list": ((node("view.default", X, 4),), "must be a list"),
    "a view of size 0": ((node("view.default", X, (-1, 0)),), "at least 1"),
    "a view with two unknowns": ((node("view.default", X, (-1, -1)),), "at most one"),
    "a view of other features": (
        (node("sym_size.int", X, 0, name="n"), node("view.default", X, (Ref("node", "n"), 5))),
        r"4 features do not fit \[5\]",
    ),
    "a view that does not divide": (
        (node("sym_size.int", X, 0, name="n"), node("view.default", X, (Ref("node", "n"), -1, 3))),
        "do not fit",
    ),
    "a transposition by text": ((node("permute.default", W, "10"),), "dims must name both"),
    "a transposition onto itself": ((node("permute.default", W, (1, 1)),), "named twice"),
    "a batch size out of range": ((node("sym_size.int", X, 5),), "dim 5 is not in"),
    "one class": (
        (node("sym_size.int", X, 0, name="n"), node("linear.default", X, Ref("state", "one"))),
        "state one is not there",
    ),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_contradictions_are_refused_and_the_node_is_named(name: str) -> None:
    nodes, message = CONTRADICTIONS[name]
    for read in (DenseProgram.of, DenseProgram.why_not):
        with pytest.raises(GraphRefused, match=message) as caught:
            read(graph_of(*nodes))
        assert str(caught.value.where).startswith("nodes[")


def test_a_class_loss_needs_two_classes() -> None:
    narrow = (node("matmul.default", X, Ref("node", "t")),)
    state = StateEntry("u", "parameter", True, "mean", "float32", (1, 4))
    nodes = (node("t.default", Ref("state", "u"), name="t"), *narrow)
    made = ModelGraph(
        VERSION,
        (Input("x", "float32", (None, 4)),),
        (state,),
        nodes,
        (Ref("node", nodes[-1].name),),
        "cross_entropy",
    )
    with pytest.raises(GraphRefused, match="classes >= 2"):
        DenseProgram.of(made)


REASONS: dict[str, tuple[tuple[Node, ...], str]] = {
    "another operation": ((node("conv2d.default", X, W),), r"aten.conv2d.default.*not a dense operation"),
    "no tensor operation": ((Node("n", "int.add", (1, 2)), LINEAR), "not a dense operation"),
    "no known operation": ((node("no_such.thing", X),), "not a dense operation"),
    "state updated": ((Node("u", "state.update", (F, F)), LINEAR), "not a dense operation"),
    "weights multiplied": ((node("mul.Tensor", W, W),), "arithmetic on weights"),
    "weights scaled": ((node("mul.Tensor", W, 2.0),), "arithmetic on weights"),
    "a factor of one dimension": ((node("matmul.default", X, V),), "not a matrix"),
    "a value as a weight": ((node("matmul.default", X, X),), "not a float32 weight"),
    "values of two shapes": ((LINEAR, node("add.Tensor", X, H)), "shapes"),
    "a vector of another size": ((node("add.Tensor", X, B),), r"b of shape \[3\] meets values of \[4\]"),
    "a division by what trains": ((node("div.Tensor", X, V),), "division by a trainable vector"),
    "a division by 0": ((node("div.Tensor", X, 0.0),), "next to 0"),
    "a scaled product": ((node("addmm.default", B, X, F, alpha=2),), "alpha or beta"),
    "a scaled elu": ((node("elu.default", X, 1.0, 1.5),), "scaled elu"),
    "softmax of rows": ((node("softmax.int", X, 0),), "not over the features"),
    "rows flattened": ((node("flatten.using_ints", X),), "rows are flattened"),
    "rows cut": ((node("view.default", X, (-1, 2)),), "rows are cut or joined"),
    "a fixed batch": ((node("view.default", X, (7, 4)),), "rows do not come first"),
    "a value transposed": ((node("t.default", X),), "a value is transposed"),
    "a number beyond float32": ((node("mul.Tensor", X, 1e300),), "beyond float32"),
    "not a number": ((node("add.Tensor", X, math.nan),), "beyond float32"),
    "a flag as a number": ((node("mul.Tensor", X, True),), "not a number"),
    "a weight detached": ((node("detach.default", W),), "trainable weight is detached"),
    "an output of state": ((LINEAR, node("contiguous.default", V)), r"output is not \[rows, features\]"),
}


@pytest.mark.parametrize("name", REASONS)
def test_what_is_not_dense_has_a_reason(name: str) -> None:
    nodes, message = REASONS[name]
    made = graph_of(*nodes)
    assert DenseProgram.of(made) is None
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(DenseProgram.why_not(made))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((Input("x", "int64", (None, 4)),), "input x is not rows of float32"),
        ((Input("x", "float32", (None,)),), "input x is not rows of float32"),
        ((Input("x", "float32", (None, 4)), Input("y", "float32", (None, 4))), "takes 2 inputs"),
    ],
)
def test_inputs_must_be_one_matrix_of_float32(inputs: tuple[Input, ...], message: str) -> None:
    plain = graph_of(LINEAR)
    made = ModelGraph(VERSION, inputs, plain.state, plain.nodes, plain.outputs, plain.loss)
    assert DenseProgram.of(made) is None
    assert message in str(DenseProgram.why_not(made))
    assert DenseProgram.why_not(plain) is None


# ---- anything at all: never more than the interpreter takes, and then the same

_CURVES = ("relu", "tanh", "elu", "gelu", "silu", "hardtanh", "softplus", "neg")
_ODD: list[Argument] = [
    0,
    1,
    -1,
    0.5,
    True,
    None,
    "tanh",
    (4,),
    (-1, 4),
    (1, 0),
    ElementType("int64"),
    X,
    W,
    V,
]


@st.composite
def graphs(draw: st.DrawFn) -> ModelGraph:
    """Graphs of dense operations that mostly fit; now and then an argument is replaced by anything."""
    widths: dict[Ref, int] = {X: 4}
    nodes: list[Node] = []

    def add(op: str, *args: Argument, **kwargs: Argument) -> Ref:
        given = list(args)
        if draw(st.integers(0, 14)) == 0:
            given[draw(st.integers(0, len(given) - 1))] = draw(st.sampled_from([*_ODD, *widths]))
        nodes.append(Node(f"n{len(nodes)}", f"aten.{op}", tuple(given), tuple(sorted(kwargs.items()))))
        return Ref("node", f"n{len(nodes) - 1}")

    def product(x: Ref, width: int) -> None:
        kind = draw(st.sampled_from(["linear", "matmul", "addmm", "transposed"]))
        near, far, bias = (W, F, B) if width == 4 else (F, W, V)
        if kind == "linear":
            y = add("linear.default", x, near, draw(st.sampled_from([None, bias])))
        elif kind == "matmul":
            y = add("matmul.default", x, far)
        elif kind == "addmm":
            y = add("addmm.default", draw(st.sampled_from([bias, S])), x, far)
        else:
            turns: dict[str, tuple[Argument, ...]] = {
                "t.default": (),
                "transpose.int": (0, 1),
                "permute.default": ((1, 0),),
            }
            turn = draw(st.sampled_from(list(turns)))
            y = add("mm.default", x, add(turn, near, *turns[turn]))
        widths[y] = 7 - width

    def arithmetic(x: Ref, width: int) -> None:
        same = [other for other, size in widths.items() if size == width]
        vector = V if width == 4 else B
        op = draw(st.sampled_from(["add.Tensor", "sub.Tensor", "mul.Tensor", "div.Tensor"]))
        operands: list[Argument] = [*same, 0.5] if op == "div.Tensor" else [*same, vector, S, 2, -0.5]
        sides: list[Argument] = [x, draw(st.sampled_from(operands))]
        if isinstance(sides[1], Ref) and draw(st.booleans()):
            sides.reverse()
        scaled = {"alpha": 2} if op[:3] in ("add", "sub") and draw(st.booleans()) else {}
        widths[add(op, *sides, **scaled)] = width

    def shaped(x: Ref, width: int) -> None:
        kind = draw(st.sampled_from(["view", "flatten", "detach", "norm", "softmax", "rsub"]))
        if kind == "view":
            starts: list[Argument] = [-1, add("sym_size.int", x, 0)]
            rows = draw(st.sampled_from(starts))
            y = add("view.default", add("view.default", x, (rows, width, 1)), (-1, width))
        elif kind == "flatten":
            y = add("flatten.using_ints", x, 1)
        elif kind == "detach":
            y = add("detach.default", x)
        elif kind == "norm":
            y = add("layer_norm.default", x, (width,), draw(st.sampled_from([None, V if width == 4 else B])))
        elif kind == "softmax":
            y = add(
                draw(st.sampled_from(["softmax.int", "log_softmax.int"])), x, draw(st.sampled_from([1, -1]))
            )
        else:
            y = add("rsub.Scalar", x, 1.5)
        widths[y] = width

    for _ in range(draw(st.integers(1, 6))):
        x = draw(st.sampled_from([*widths, *[list(widths)[-1]] * 4]))
        kind = draw(st.sampled_from(["product", "product", "curve", "arithmetic", "shape"]))
        if kind == "product":
            product(x, widths[x])
        elif kind == "curve":
            widths[add(f"{draw(st.sampled_from(_CURVES))}.default", x)] = widths[x]
        elif kind == "arithmetic":
            arithmetic(x, widths[x])
        else:
            shaped(x, widths[x])
    return graph_of(*nodes, loss="mse")


@settings(max_examples=500, deadline=None, derandomize=True)
@given(made=graphs())
def test_nothing_is_taken_that_the_interpreter_refuses(made: ModelGraph) -> None:
    try:
        program = DenseProgram.of(made)
    except GraphRefused:
        with pytest.raises(GraphRefused):
            infer(made, PROBE_BATCH, DEFAULT_LIMITS)
        return
    if program is None:
        return
    infer(made, PROBE_BATCH, DEFAULT_LIMITS)
    rng = np.random.default_rng(0)
    arrays = {name: np.asarray(rng.random(size) + 0.5, np.float32) for name, size in SHAPES.items()}
    dense = DenseModel(made, arrays)
    flat = FlatModel(made, {name: torch.from_numpy(array) for name, array in arrays.items()})
    rows = (rng.normal(size=(5, *program.input_shape)).astype(np.float32),)
    labels = rng.random((5, program.outputs_count)).astype(np.float32)
    state = flat.initial()
    wanted, mine = (model.gradient(*state, rows, labels) for model in (flat, dense))
    assert mine[0] == pytest.approx(wanted[0], rel=1e-4)
    np.testing.assert_allclose(mine[1], wanted[1], rtol=1e-3, atol=1e-5 * max(1.0, np.abs(wanted[1]).max()))


# ---- weights


def stored() -> tuple[ModelGraph, bytes, dict[str, np.ndarray[Any, Any]]]:
    """A graph with state of many types, its weights as bytes and as arrays."""
    kinds = ["float32", "bfloat16", "bool", "int64", "float16", "uint8"]
    entries = [StateEntry("a", "parameter", True, "mean", "float32", (2, 3))]
    entries += [StateEntry(f"c{i}", "constant", False, "skip", kind, (4,)) for i, kind in enumerate(kinds)]
    entries.append(StateEntry("d", "buffer", False, "mean", "float32", ()))
    made = ModelGraph(VERSION, (Input("x", "float32", (None, 3)),), tuple(entries), (), (X,), "mse")
    tensors = {
        e.name: (torch.arange(e.elements) % 2).reshape(e.shape).to(getattr(torch, e.dtype)) for e in entries
    }
    data = weights_to_bytes(made, tensors)
    return made, data, dense_weights_from_bytes(made, data)


def test_arrays_are_the_tensors_and_give_the_same_bytes() -> None:
    made, data, arrays = stored()
    assert list(arrays) == [entry.name for entry in made.state]
    assert dense_weights_to_bytes(made, arrays) == data
    for name, tensor in weights_from_bytes(made, data, max_bytes=len(data)).items():
        if tensor.dtype == torch.bfloat16:
            np.testing.assert_array_equal(arrays[name], tensor.view(torch.uint16).numpy())
        else:
            np.testing.assert_array_equal(arrays[name], tensor.detach().numpy())
        assert arrays[name].flags.writeable


def spoilt() -> dict[str, bytes]:
    made, data, _ = stored()
    length = 8 + int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8:length]), data[length:]

    def with_header(**changes: Any) -> bytes:
        text = json.dumps({**header, **changes}, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text + body

    starts = {entry.name: header[entry.name]["data_offsets"][0] for entry in made.state}

    def with_bytes(name: str, new: bytes) -> bytes:
        at = length + starts[name]
        return data[:at] + new + data[at + len(new) :]

    return {
        "empty": b"",
        "cut": data[:-1],
        "longer": data + b"\0",
        "a huge header": (1 << 40).to_bytes(8, "little") + data[8:],
        "metadata": with_header(__metadata__={"a": "b"}),
        "an unknown tensor": with_header(z=header["a"]),
        "another type": with_header(a={**header["a"], "dtype": "F16"}),
        "another shape": with_header(a={**header["a"], "shape": [3, 2]}),
        "other offsets": with_header(a={**header["a"], "data_offsets": [0, 28]}),
        "not canonical": data[:8] + data[8:length].replace(b",", b" ,", 1)[:-1] + body,
        "a bool of 2": with_bytes("c2", b"\2"),
        "a float32 that is not finite": with_bytes("a", np.float32(np.nan).tobytes()),
        "a float16 that is not finite": with_bytes("c4", np.float16(np.inf).tobytes()),
        "a bfloat16 that is not finite": with_bytes("c1", b"\x80\xff"),
    }


@pytest.mark.parametrize("name", spoilt())
def test_spoilt_weights_are_refused_as_they_are_for_tensors(name: str) -> None:
    made, _, _ = stored()
    data = spoilt()[name]
    with pytest.raises(GraphRefused) as wanted:
        weights_from_bytes(made, data, max_bytes=1 << 20)
    with pytest.raises(GraphRefused) as caught:
        dense_weights_from_bytes(made, data)
    assert str(caught.value) == str(wanted.value)


def test_more_bytes_than_allowed_are_refused() -> None:
    made, data, _ = stored()
    with pytest.raises(GraphRefused, match="allowed are"):
        dense_weights_from_bytes(made, data, max_bytes=len(data) - 1)
    dense_weights_from_bytes(made, data, max_bytes=len(data))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"z": np.zeros(1, np.float32)}, "not in the graph's state"),
        ({"a": None}, "is missing"),
        ({"a": np.zeros((2, 3))}, "must be float32, not float64"),
        ({"a": np.zeros((3, 2), np.float32)}, r"must have shape \[2, 3\]"),
        ({"a": np.full((2, 3), np.inf, np.float32)}, "must be finite"),
        ({"c1": np.full(4, 0x7F80, np.uint16)}, "must be finite"),
    ],
)
def test_arrays_that_do_not_match_are_refused(change: dict[str, Any], message: str) -> None:
    made, _, arrays = stored()
    changed = {name: array for name, array in {**arrays, **change}.items() if array is not None}
    with pytest.raises(GraphRefused, match=message):
        dense_weights_to_bytes(made, changed)
