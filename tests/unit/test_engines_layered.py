"""Which graphs are layers in a row, what their stacks compute, and how blocks of work are run."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from galaxylearning.engines.blocks import Budget, run_blocks
from galaxylearning.engines.layered import LayeredNet
from galaxylearning.engines.stack_losses import correct_predictions, sample_losses
from galaxylearning.errors import ConfigRefused, DataRefused
from galaxylearning.graph.dense import DenseModel
from galaxylearning.graph.document import Input, ModelGraph, Node, Ref, StateEntry

X, HIDDEN, BENT = Ref("input", "x"), Ref("node", "hidden"), Ref("node", "bent")


def entry(name: str, *shape: int, trainable: bool = True) -> StateEntry:
    return StateEntry(name, "parameter", trainable, "mean" if trainable else "skip", "float32", shape)


def linear(name: str, rows: Ref, *names: str) -> Node:
    return Node(name, "aten.linear.default", (rows, *(Ref("state", n) for n in names)))


GRAPH = ModelGraph(
    1,
    (Input("x", "float32", (None, 3)),),
    (entry("a", 4), entry("b", 4, 3), entry("c", 2, 4)),
    (linear("hidden", X, "b", "a"), Node("bent", "aten.relu.default", (HIDDEN,)), linear("out", BENT, "c")),
    (Ref("node", "out"),),
    "cross_entropy",
)


def net_of(graph: ModelGraph = GRAPH) -> LayeredNet:
    net = LayeredNet.of(graph)
    assert net is not None
    return net


def test_where_the_parameters_lie() -> None:
    net = net_of()
    assert [(layer.weight, layer.bias, layer.inputs, layer.outputs) for layer in net.layers] == [
        (4, 0, 3, 4),
        (16, None, 4, 2),
    ]
    stack = net.load(np.arange(48, dtype=np.float32).reshape(2, 24))
    first, second = stack.parts
    assert first[1, 0].tolist() == [28, 29, 30, 24]  # the first row of b, then of a
    assert second[0].tolist() == [[16, 17, 18, 19], [20, 21, 22, 23]]


@pytest.mark.parametrize(
    "change",
    [
        {"state": (entry("a", 4), entry("b", 4, 3), entry("c", 2, 4, trainable=False))},
        {"state": (entry("a", 4), entry("b", 4, 3), entry("c", 2, 4), entry("d", 1))},
        {"state": (entry("a", 4), entry("b", 4, 5), entry("c", 2, 4))},
        {"state": (entry("a", 3), entry("b", 4, 3), entry("c", 2, 4))},
        {"inputs": (Input("x", "float64", (None, 3)),)},
        {"inputs": (Input("x", "float32", (None, 3)), Input("y", "float32", (None, 3)))},
        {"inputs": (Input("x", "float32", (None, 1, 3)),)},
        {"outputs": (BENT,)},
        {"loss": "nll"},
        {"nodes": (*GRAPH.nodes[:2], linear("out", BENT, "c", "c"))},
        {"nodes": (*GRAPH.nodes[:2], linear("out", HIDDEN, "c"))},
        {"nodes": (GRAPH.nodes[0], Node("bent", "aten.gelu.default", (HIDDEN,)), GRAPH.nodes[2])},
        {"nodes": (*GRAPH.nodes, Node("last", "aten.relu.default", (Ref("node", "out"),)))},
    ],
)
def test_other_graphs_are_not_layers_in_a_row(change: dict[str, Any]) -> None:
    assert LayeredNet.of(GRAPH) is not None
    assert LayeredNet.of(replace(GRAPH, **change)) is None


def test_gradients_of_a_stack_are_those_of_each_model() -> None:
    rng, net = np.random.default_rng(0), net_of()
    params = rng.normal(size=(5, 24)).astype(np.float32)
    rows, labels = rng.normal(size=(7, 3)).astype(np.float32), rng.integers(0, 2, 7)
    shapes = {"a": (4,), "b": (4, 3), "c": (2, 4)}
    model = DenseModel(GRAPH, {name: np.zeros(shape, np.float32) for name, shape in shapes.items()})
    none = np.empty(0, np.float32)
    expected = np.stack([model.gradient(one, none, (rows,), labels)[1] for one in params])
    out = net.load(np.zeros_like(params))
    net.work(6, 9).gradient(net.load(params), net.rows(rows), net.targets(labels), -2.0, out)
    np.testing.assert_allclose(out.flat, -2.0 * net.load(expected).flat, atol=1e-6)


def test_no_slope_where_a_bend_begins() -> None:
    """A rectified zero passes nothing back, as in the reference: from zero weights nothing is learnt."""
    net = net_of()
    out = net.load(np.ones((1, 24), np.float32))
    net.work(1, 2).gradient(
        net.load(np.zeros((1, 24), np.float32)),
        net.rows(np.ones((2, 3), np.float32)),
        net.targets(np.array([0, 1])),
        1.0,
        out,
    )
    assert not out.flat.any()


def test_losses_are_as_precise_as_the_outputs() -> None:
    outputs = np.array([[[30.0]], [[0.0]]], np.float32)
    found = sample_losses("cross_entropy", outputs, np.array([0]))
    assert found[0, 0] == pytest.approx(np.exp(-30.0), rel=1e-2)
    assert sample_losses("cross_entropy", outputs, np.array([1]))[0, 0] == pytest.approx(30.0)
    assert sample_losses("nll", outputs, np.array([0])).tolist() == [[-30.0]]
    assert sample_losses("mse", outputs, np.array([[28.0, 1.0]])).tolist() == [[2.5]]


def test_a_tie_goes_to_the_lower_class() -> None:
    outputs = np.zeros((3, 1, 3), np.float32)
    assert correct_predictions(outputs, np.array([0, 1, 0])).tolist() == [2]


@pytest.mark.parametrize(
    "inputs", [np.zeros((2, 4), np.float32), np.zeros((0, 3), np.float32), np.zeros((2, 3))]
)
def test_rows_of_another_shape_are_refused(inputs: Any) -> None:
    with pytest.raises(DataRefused, match="input x: must"):
        net_of().rows(inputs)


@pytest.mark.parametrize("threads", [1, 3])
def test_blocks_are_finished_in_order(threads: int) -> None:
    finished: list[int] = []
    results: dict[int, int] = {}

    def work(block: int, space: list[int]) -> None:
        space.append(block)
        results[block] = block * block

    spaces: list[list[int]] = [[] for _ in range(threads)]
    run_blocks(range(40), work, spaces, stop=threading.Event(), done=finished.append)
    assert finished == list(range(40))
    assert results == {i: i * i for i in range(40)}
    assert sorted(block for space in spaces for block in space) == list(range(40))


def test_what_a_block_raises_ends_all() -> None:
    stop, begun = threading.Event(), []

    def work(block: int, _space: int) -> None:
        begun.append(block)
        if block == 2:
            raise DataRefused("two", where="block")
        if block > 2:
            stop.wait(timeout=30)

    with pytest.raises(DataRefused, match="block: two"):
        run_blocks(range(1000), work, [0, 1], stop=stop, done=lambda _block: None)
    assert stop.is_set()
    assert len(begun) < 20


def test_a_budget_counts_threads_that_fit() -> None:
    budget = Budget(8, 4)
    assert budget.workers(0, 1 << 20) == 4
    assert budget.workers(5 << 20, 1 << 20) == 3
    assert budget.workers(20 << 20, 1 << 20) == 1
    budget.require(8 << 20, "all")
    with pytest.raises(ConfigRefused, match=r"budget_mib: all needs 9\.0 MiB; 8 allowed"):
        budget.require(9 << 20, "all")
