"""Laws of the model graph: damage is refused or harmless, documents are canonical, gradients add up."""

from __future__ import annotations

import contextlib
import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from galaxylearning.errors import GraphRefused
from galaxylearning.graph import (
    FlatModel,
    GraphLimits,
    ModelGraph,
    Node,
    Program,
    Ref,
    StateEntry,
    compile_model,
    meter,
    weights_from_bytes,
    weights_to_bytes,
)
from galaxylearning.graph.document import Input
from galaxylearning.graph.tensors import DTYPES

TIGHT = GraphLimits(max_tensor_elements=1 << 20, max_activation_bytes=1 << 26, max_state_bytes=1 << 20)


class Model(nn.Module):
    """A bit of everything: convolution, running statistics, attention, views, integers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv1d(2, 8, 3), nn.BatchNorm1d(8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 8, dropout=0.1, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.norm(self.conv(x))).transpose(1, 2)
        out: torch.Tensor = self.head(self.layer(hidden).reshape(x.shape[0], -1, 8).mean(1))
        return out


@pytest.fixture(scope="module")
def document() -> bytes:
    torch.manual_seed(5)
    return compile_model(Model(), (torch.randn(3, 2, 9),), loss="cross_entropy")[0].to_bytes()


@pytest.fixture(scope="module")
def small() -> tuple[ModelGraph, bytes]:
    torch.manual_seed(5)
    graph, weights = compile_model(nn.Linear(4, 3), (torch.randn(3, 4),), loss="cross_entropy")
    return graph, weights_to_bytes(graph, weights)


def read(data: bytes) -> ModelGraph | None:
    """The graph, or None where it is refused; nothing else may be raised."""
    try:
        return ModelGraph.from_bytes(data, TIGHT)
    except GraphRefused:
        return None


def check(graph: ModelGraph | None, data: bytes) -> None:
    """A graph that was accepted is canonical, within the limits, and runs or is refused while running."""
    if graph is None:
        return
    assert graph.to_bytes() == data
    program = Program(graph, TIGHT)
    state = {e.name: torch.zeros(e.shape, dtype=DTYPES[e.dtype]) for e in graph.state}
    inputs = [torch.zeros(2, *x.shape[1:], dtype=DTYPES[x.dtype]) for x in graph.inputs]  # type: ignore[arg-type]
    for train in (False, True):
        with contextlib.suppress(GraphRefused):
            assert meter(graph, 2, TIGHT).state_bytes <= TIGHT.max_state_bytes
            outputs, _ = program(state, *inputs, train=train, rng=np.random.default_rng(0))
            assert outputs.shape[0] == 2


positions = st.floats(0, 1, exclude_max=True)
edits = st.lists(st.tuples(positions, st.integers(0, 255)), min_size=1, max_size=4)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=edits)
def test_flipped_bytes_are_refused_or_give_another_sound_graph(
    document: bytes, changes: list[tuple[float, int]]
) -> None:
    damaged = bytearray(document)
    for where, value in changes:
        damaged[int(where * len(damaged))] = value
    check(read(bytes(damaged)), bytes(damaged))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=positions, length=st.integers(1, 200), text=st.binary(max_size=50))
def test_spliced_bytes_are_refused_or_give_another_sound_graph(
    document: bytes, start: float, length: int, text: bytes
) -> None:
    at = int(start * len(document))
    damaged = document[:at] + text + document[at + length :]
    check(read(damaged), damaged)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), value=json_values)
def test_any_value_in_any_field_is_refused_or_sound(
    document: bytes, data: st.DataObject, value: object
) -> None:
    parsed = json.loads(document)
    target = parsed
    while True:
        keys = list(target) if isinstance(target, dict) else list(range(len(target)))
        key = data.draw(st.sampled_from(keys))
        inner = target[key]
        if not isinstance(inner, (dict, list)) or not inner or data.draw(st.integers(0, 5)) == 0:
            break
        target = inner
    target[key] = value
    damaged = json.dumps(parsed, sort_keys=True, separators=(",", ":")).encode()
    check(read(damaged), damaged)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=edits)
def test_flipped_weights_are_refused_or_other_finite_weights(
    small: tuple[ModelGraph, bytes], changes: list[tuple[float, int]]
) -> None:
    graph, data = small
    damaged = bytearray(data)
    for where, value in changes:
        damaged[int(where * len(damaged))] = value
    with contextlib.suppress(GraphRefused):
        tensors = weights_from_bytes(graph, bytes(damaged), max_bytes=len(data))
        assert all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())
        assert weights_to_bytes(graph, tensors) == bytes(damaged)


@settings(max_examples=60, deadline=None)
@given(
    widths=st.lists(st.integers(1, 9), min_size=2, max_size=5),
    activations=st.lists(st.sampled_from(["relu", "tanh", "sigmoid", "silu"]), min_size=4, max_size=4),
    batch=st.integers(1, 9),
)
def test_random_networks_travel_and_compute_what_torch_computes(
    widths: list[int], activations: list[str], batch: int
) -> None:
    state, nodes, last = [], [], Ref("input", "x")
    for layer, (inputs, outputs) in enumerate(pairwise(widths)):
        state.append(StateEntry(f"w{layer}", "parameter", True, "mean", "float32", (outputs, inputs)))
        nodes.append(Node(f"lin{layer}", "aten.linear.default", (last, Ref("state", f"w{layer}"))))
        nodes.append(Node(f"act{layer}", f"aten.{activations[layer]}.default", (Ref("node", f"lin{layer}"),)))
        last = Ref("node", f"act{layer}")
    graph = ModelGraph(
        1, (Input("x", "float32", (None, widths[0])),), tuple(state), tuple(nodes), (last,), "mse"
    )
    assert ModelGraph.from_bytes(graph.to_bytes()) == graph
    generator = torch.Generator().manual_seed(batch)
    weights = {e.name: torch.randn(e.shape, generator=generator) for e in state}
    x = torch.randn(batch, widths[0], generator=generator)
    expected = x
    for layer in range(len(widths) - 1):
        act = {"relu": torch.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid, "silu": nn.functional.silu}
        expected = act[activations[layer]](nn.functional.linear(expected, weights[f"w{layer}"]))
    assert torch.equal(Program(graph)(weights, x, train=False)[0], expected)
    cost = meter(graph, batch)
    pairs = list(pairwise(widths))
    assert cost.parameters == sum(a * b for a, b in pairs)
    assert cost.flops_forward == sum(batch * (2 * a * b + b) for a, b in pairs)
    assert cost.activation_bytes == sum(8 * batch * b for _, b in pairs)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(1, 29), clip=st.one_of(st.none(), st.floats(0.2, 3.0)))
def test_evaluation_gradients_of_parts_add_to_that_of_the_whole(
    small: tuple[ModelGraph, bytes], cut: int, clip: float | None
) -> None:
    graph, data = small
    model = FlatModel(graph, weights_from_bytes(graph, data, max_bytes=len(data)))
    params, buffers = model.initial()
    rows = np.random.default_rng(3).normal(size=(30, 4)).astype(np.float32)
    labels = np.arange(30) % 3
    whole = model.gradient_eval(params, buffers, (rows,), labels, clip=clip)
    parts = model.gradient_eval(params, buffers, (rows[:cut],), labels[:cut], clip=clip)
    parts = parts + model.gradient_eval(params, buffers, (rows[cut:],), labels[cut:], clip=clip)
    np.testing.assert_allclose(parts, whole, rtol=1e-4, atol=1e-5)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(scale=st.floats(-3, 3, width=32))
def test_vectors_to_state_and_back_are_the_same(small: tuple[ModelGraph, bytes], scale: float) -> None:
    graph, data = small
    model = FlatModel(graph, weights_from_bytes(graph, data, max_bytes=len(data)))
    params, buffers = model.initial()
    moved = params * np.float32(scale)
    back, _ = model.from_state_bytes(model.state_bytes(moved, buffers))
    np.testing.assert_array_equal(back, moved)
    if not np.array_equal(moved, params):
        assert model.digest(moved, buffers) != model.digest(params, buffers)
