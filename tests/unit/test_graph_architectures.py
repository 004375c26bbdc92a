"""Six architectures compile, travel, agree with the module bit for bit, and train."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from architectures import BUILDERS
from galaxylearning.errors import GraphRefused
from galaxylearning.graph import (
    FlatModel,
    ModelGraph,
    Program,
    batch_loss,
    compile_model,
    meter,
    weights_from_bytes,
    weights_to_bytes,
)


@dataclass(frozen=True)
class Case:
    name: str
    module: nn.Module
    inputs: Callable[[int], torch.Tensor]
    graph: ModelGraph
    weights: dict[str, torch.Tensor]


@pytest.fixture(scope="module", params=list(BUILDERS))
def case(request: pytest.FixtureRequest) -> Case:
    build, inputs = BUILDERS[request.param]
    torch.manual_seed(7)
    module = build()
    graph, weights = compile_model(module, (inputs(4),), loss="cross_entropy")
    return Case(request.param, module, inputs, graph, weights)


@pytest.fixture(autouse=True)
def plain_attention() -> Iterator[None]:
    """The module's fused inference path rounds differently; compare the path that also trains."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(enabled)


def test_the_document_survives_travel(case: Case) -> None:
    data = case.graph.to_bytes()
    back = ModelGraph.from_bytes(data)
    assert back == case.graph
    assert back.to_bytes() == data
    assert back.digest == case.graph.digest


def test_compiling_again_gives_the_same_digest(case: Case) -> None:
    graph, weights = compile_model(case.module, (case.inputs(6),), loss="cross_entropy")
    assert graph.digest == case.graph.digest
    assert all(torch.equal(weights[name], tensor) for name, tensor in case.weights.items())


def test_weights_survive_travel_and_a_flipped_header_does_not(case: Case) -> None:
    data = weights_to_bytes(case.graph, case.weights)
    back = weights_from_bytes(case.graph, data, max_bytes=len(data))
    assert list(back) == [entry.name for entry in case.graph.state]
    assert all(torch.equal(back[name], case.weights[name]) for name in back)
    with pytest.raises(GraphRefused):
        weights_from_bytes(case.graph, data[:20] + b"?" + data[21:], max_bytes=len(data))


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 32])
def test_evaluation_equals_the_module_bit_for_bit(case: Case, batch: int) -> None:
    x = case.inputs(batch)
    graph = ModelGraph.from_bytes(case.graph.to_bytes())
    data = weights_to_bytes(case.graph, case.weights)
    weights = weights_from_bytes(graph, data, max_bytes=len(data))
    case.module.eval()
    with torch.no_grad():
        expected = case.module(x)
        outputs, buffers = Program(graph)(weights, x, train=False)
    assert torch.equal(outputs, expected)
    assert buffers == {}


def test_flat_predictions_equal_the_module_bit_for_bit(case: Case) -> None:
    model = FlatModel(case.graph, case.weights)
    x = case.inputs(9)
    case.module.eval()
    with torch.no_grad():
        expected = case.module(x).numpy()
    assert np.array_equal(model.predict(*model.initial(), (x.numpy(),)), expected)


def test_a_training_step_equals_autograd_on_the_module(case: Case) -> None:
    module = copy.deepcopy(case.module).train()
    x, labels = case.inputs(6), torch.tensor([0, 1, 2, 0, 1, 2])
    loss = nn.functional.cross_entropy(module(x), labels)
    named = {name: p for name, p in module.named_parameters() if p.requires_grad}
    gradients = dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))
    model = FlatModel(case.graph, case.weights)
    value, gradient, buffers = model.gradient(*model.initial(), (x.numpy(),), labels.numpy())
    expected = np.concatenate([gradients[name].reshape(-1).numpy() for name in sorted(gradients)])
    assert value == pytest.approx(loss.item(), rel=1e-6)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-7)
    moved = [
        b.reshape(-1).numpy() for name, b in sorted(module.named_buffers()) if not name.endswith("tracked")
    ]
    np.testing.assert_allclose(buffers, np.concatenate([*moved, np.empty(0)]), rtol=1e-6)


def test_state_is_never_written(case: Case) -> None:
    before = {name: tensor.detach().clone() for name, tensor in case.weights.items()}
    outputs, _ = Program(case.graph)(case.weights, case.inputs(4), train=True)
    loss = batch_loss("cross_entropy", outputs, torch.tensor([0, 1, 2, 0]))
    torch.autograd.grad(loss, [t for t in case.weights.values() if t.requires_grad])
    assert all(torch.equal(case.weights[name], before[name]) for name in before)


def labels_of(x: torch.Tensor) -> np.ndarray:
    """Three classes that the inputs determine."""
    score = x.float().flatten(1).mean(1)
    return torch.bucketize(score, score.quantile(torch.tensor([1 / 3, 2 / 3]))).numpy()


def test_training_reduces_the_loss(case: Case) -> None:
    model = FlatModel(case.graph, case.weights)
    params, buffers = model.initial()
    inputs = (case.inputs(24).numpy(),)
    labels = labels_of(case.inputs(24))
    first, velocity = float("nan"), np.zeros_like(params)
    for step in range(80):
        loss, gradient, buffers = model.gradient(params, buffers, inputs, labels)
        first = loss if step == 0 else first
        velocity = 0.9 * velocity + gradient
        params = params - np.float32(0.05) * velocity
    assert loss < 0.8 * first


def test_state_kinds_and_cost_match_the_module(case: Case) -> None:
    trainable = {name for name, p in case.module.named_parameters() if p.requires_grad}
    frozen = {name for name, p in case.module.named_parameters() if not p.requires_grad}
    kinds = {entry.name: entry for entry in case.graph.state}
    assert {name for name, entry in kinds.items() if entry.trainable} == trainable
    assert all(kinds[name].federate == "skip" for name in frozen)
    for name, _ in case.module.named_buffers():
        assert kinds[name].federate == ("skip" if name.endswith("num_batches_tracked") else "mean")
    cost = meter(case.graph, 4)
    assert cost.parameters == sum(p.numel() for p in case.module.parameters() if p.requires_grad)
    assert cost.state_bytes == sum(t.numel() * t.element_size() for t in case.module.state_dict().values())
    assert cost.flops_forward > 0
