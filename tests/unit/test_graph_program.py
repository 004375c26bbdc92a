"""The interpreter: functional in both modes, under transforms, with dropout and with running statistics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from galaxylearning.errors import GraphRefused
from galaxylearning.graph import ModelGraph, Node, Program, Ref, StateEntry, batch_loss, compile_model
from galaxylearning.graph.document import Input
from galaxylearning.graph.infer import PROBE_BATCH


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def scaled(*nodes: Node, output: str) -> ModelGraph:
    """A hand-written graph over x [n, 4] and one parameter w [4]."""
    state = (StateEntry("w", "parameter", True, "mean", "float32", (4,)),)
    return ModelGraph(1, (Input("x", "float32", (None, 4)),), state, nodes, (Ref("node", output),), "mse")


X, W = Ref("input", "x"), Ref("state", "w")
MUL = Node("mul", "aten.mul.Tensor", (X, W))


def test_a_hand_written_graph_computes_what_it_says() -> None:
    program = Program(scaled(MUL, Node("add", "aten.add.Tensor", (Ref("node", "mul"), 1)), output="add"))
    outputs, buffers = program({"w": torch.tensor([1.0, 2, 3, 4])}, torch.ones(2, 4), train=True)
    assert outputs.tolist() == [[2, 3, 4, 5]] * 2
    assert buffers == {}


def test_wrong_arguments_are_programmer_mistakes() -> None:
    program = Program(scaled(MUL, output="mul"))
    state = {"w": torch.ones(4)}
    with pytest.raises(ValueError, match="takes 1 inputs, not 2"):
        program(state, torch.ones(2, 4), torch.ones(2, 4), train=False)
    with pytest.raises(ValueError, match="state must hold w"):
        program({}, torch.ones(2, 4), train=False)
    with pytest.raises(ValueError, match="state must hold w"):
        program({"w": torch.ones(5)}, torch.ones(2, 4), train=False)
    with pytest.raises(ValueError, match="state must hold w"):
        program({"w": torch.ones(4).double()}, torch.ones(2, 4), train=False)
    with pytest.raises(ValueError, match="input x must be"):
        program(state, torch.ones(2, 5), train=False)
    with pytest.raises(ValueError, match="input x must be"):
        program(state, torch.ones(2, 4).double(), train=False)


def test_a_graph_written_for_one_batch_size_is_refused_at_another() -> None:
    fixed = Node("ones", "aten.ones.default", ((PROBE_BATCH, 4),))
    add = Node("add", "aten.add.Tensor", (Ref("node", "mul"), Ref("node", "ones")))
    program = Program(scaled(MUL, fixed, add, output="add"))
    assert program({"w": torch.ones(4)}, torch.ones(PROBE_BATCH, 4), train=False)[0].shape == (PROBE_BATCH, 4)
    with pytest.raises(GraphRefused, match="do not broadcast"):
        program({"w": torch.ones(4)}, torch.ones(5, 4), train=False)


def test_an_index_outside_the_table_names_the_node() -> None:
    graph, weights = compile_model(
        nn.Sequential(nn.Embedding(5, 4)), (torch.zeros(2, 3, dtype=torch.int64),), loss="mse"
    )
    program = Program(graph)
    assert program(weights, torch.full((2, 3), 4), train=False)[0].shape == (2, 3, 4)
    with pytest.raises(GraphRefused, match="node embedding_0"):
        program(weights, torch.full((2, 3), 5), train=False)


def test_per_example_gradients_by_vmap_sum_to_the_batch_gradient() -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.GroupNorm(1, 2), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3))
    x, labels = torch.randn(6, 1, 6, 6), torch.tensor([0, 1, 2, 0, 1, 2])
    graph, weights = compile_model(module, (x,), loss="cross_entropy")
    program = Program(graph)
    state = {name: tensor.detach() for name, tensor in weights.items()}

    def loss(parameters: dict[str, torch.Tensor], one: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        outputs, _ = program(parameters, one.unsqueeze(0), train=True)
        return batch_loss("cross_entropy", outputs, label.unsqueeze(0))

    per_example = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(state, x, labels)
    outputs, _ = program(weights, x, train=True)
    whole = torch.autograd.grad(batch_loss("cross_entropy", outputs, labels), list(weights.values()))
    for (name, gradient), expected in zip(per_example.items(), whole, strict=True):
        assert gradient.shape == (6, *graph.entry(name).shape)
        torch.testing.assert_close(gradient.mean(0), expected, rtol=1e-4, atol=1e-6)
    norms = torch.stack([g.flatten(1).norm(dim=1) for g in per_example.values()]).norm(dim=0)
    scale = (1.0 / norms).clamp(max=1.0)
    clipped = {name: torch.einsum("n...,n->n...", g, scale) for name, g in per_example.items()}
    bounded = torch.stack([g.flatten(1).norm(dim=1) for g in clipped.values()]).norm(dim=0)
    assert bool((bounded <= 1.0 + 1e-5).all())


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_per_example_gradients_of_attention() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
            self.head = nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.head(self.layer(x).mean(1))
            return out

    x = torch.randn(3, 5, 8)
    graph, weights = compile_model(Attention(), (x,), loss="mse")
    program = Program(graph)
    state = {name: tensor.detach() for name, tensor in weights.items()}

    def total(parameters: dict[str, torch.Tensor], one: torch.Tensor) -> torch.Tensor:
        return program(parameters, one.unsqueeze(0), train=True)[0].sum()

    gradients = torch.func.vmap(torch.func.grad(total), in_dims=(None, 0))(state, x)
    whole = torch.autograd.grad(program(weights, x, train=True)[0].sum(), list(weights.values()))
    for gradient, expected in zip(gradients.values(), whole, strict=True):
        torch.testing.assert_close(gradient.sum(0), expected, rtol=1e-3, atol=1e-4)


def test_batch_norm_returns_new_statistics_and_keeps_the_old() -> None:
    module = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, momentum=0.25))
    x = torch.randn(8, 4)
    graph, weights = compile_model(module, (x,), loss="mse")
    program = Program(graph)
    assert program.has_batch_statistics
    _, buffers = program(weights, x, train=True)
    hidden = module[0](x)
    torch.testing.assert_close(buffers["1.running_mean"], 0.25 * hidden.mean(0))
    torch.testing.assert_close(buffers["1.running_var"], 0.75 + 0.25 * hidden.var(0))
    assert int(buffers["1.num_batches_tracked"]) == 1
    assert weights["1.running_mean"].tolist() == [0, 0, 0]
    assert int(weights["1.num_batches_tracked"]) == 0
    assert not any(buffer.requires_grad for buffer in buffers.values())
    assert program(weights, x, train=False)[1] == {}


def test_a_norm_used_twice_moves_its_statistics_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.norm(self.linear(self.norm(x)))
            return out

    module, x = Twice(), torch.randn(8, 4)
    graph, weights = compile_model(module, (x,), loss="mse")
    _, buffers = Program(graph)(weights, x, train=True)
    module.train()(x)
    for name, buffer in module.named_buffers():
        torch.testing.assert_close(buffers[name], buffer)


def test_a_norm_without_running_statistics_uses_the_batch_in_both_modes() -> None:
    module = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, track_running_stats=False))
    x = torch.randn(8, 4)
    graph, weights = compile_model(module, (x,), loss="mse")
    program = Program(graph)
    assert torch.equal(program(weights, x, train=False)[0], module.eval()(x))
    torch.testing.assert_close(program(weights, x, train=True)[0], module.train()(x))


class Dropped(nn.Module):
    def __init__(self, p: float) -> None:
        super().__init__()
        self.linear, self.drop = nn.Linear(4, 1000), nn.Dropout(p)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.drop(self.linear(x))
        return out


def test_dropout_is_a_function_of_the_generator() -> None:
    x = torch.randn(4, 4)
    graph, weights = compile_model(Dropped(0.25), (x,), loss="mse")
    program = Program(graph)
    assert program.has_dropout
    before = torch.random.get_rng_state()
    first, _ = program(weights, x, train=True, rng=generator(1))
    again, _ = program(weights, x, train=True, rng=generator(1))
    other, _ = program(weights, x, train=True, rng=generator(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), before)
    kept = first != 0
    assert 0.70 < kept.float().mean().item() < 0.80
    plain, _ = program(weights, x, train=False)
    torch.testing.assert_close(first[kept], plain[kept] / 0.75)
    with pytest.raises(ValueError, match="needs rng"):
        program(weights, x, train=True)


def test_dropout_of_probability_zero_needs_no_generator() -> None:
    graph, _ = compile_model(Dropped(0.0), (torch.randn(4, 4),), loss="mse")
    assert not Program(graph).has_dropout


def test_dropout_inside_attention_and_between_recurrent_layers_is_drawn_here() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.3, batch_first=True)
            self.gru = nn.GRU(8, 6, num_layers=3, dropout=0.4, batch_first=True)
            self.lstm = nn.LSTM(6, 5, num_layers=2, dropout=0.4, batch_first=True, bidirectional=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.lstm(self.gru(self.layer(x))[0])[0][:, -1]
            return out

    x = torch.randn(3, 5, 8)
    graph, weights = compile_model(Both(), (x,), loss="mse")
    program = Program(graph)
    before = torch.random.get_rng_state()
    first, _ = program(weights, x, train=True, rng=generator(1))
    assert torch.equal(first, program(weights, x, train=True, rng=generator(1))[0])
    assert not torch.equal(first, program(weights, x, train=True, rng=generator(2))[0])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_layered_recurrence_without_dropped_values_equals_the_native_one() -> None:
    """With a probability near zero no value is dropped, so going layer by layer must change nothing."""
    torch.manual_seed(3)
    module = nn.LSTM(4, 5, num_layers=3, dropout=1e-9, batch_first=True, bidirectional=True)

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = module

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            states, (hidden, cell) = self.lstm(x)
            return torch.cat(
                [states[:, -1], hidden.transpose(0, 1).flatten(1), cell.transpose(0, 1).flatten(1)], 1
            )

    x = torch.randn(3, 6, 4)
    graph, weights = compile_model(Last(), (x,), loss="mse")
    program = Program(graph)
    torch.testing.assert_close(
        program(weights, x, train=True, rng=generator())[0], program(weights, x, train=False)[0]
    )


def test_attention_with_dropout_keeps_masks() -> None:
    class Causal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 24)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q, k, v = self.linear(x).chunk(3, -1)
            return nn.functional.scaled_dot_product_attention(
                q, k, v, dropout_p=1e-9 * self.training, is_causal=True
            )

    x = torch.randn(3, 5, 8)
    graph, weights = compile_model(Causal(), (x,), loss="mse")
    program = Program(graph)
    assert program.has_dropout
    torch.testing.assert_close(
        program(weights, x, train=True, rng=generator())[0], program(weights, x, train=False)[0]
    )


def test_feature_dropout_drops_whole_channels() -> None:
    module = nn.Sequential(nn.Conv2d(1, 64, 1), nn.Dropout2d(0.5))
    x = torch.rand(2, 1, 3, 3) + 1
    graph, weights = compile_model(module, (x,), loss="mse")
    outputs, _ = Program(graph)(weights, x, train=True, rng=generator())
    whole = (outputs == 0).flatten(2)
    assert bool((whole.all(2) == whole.any(2)).all())
    assert 0 < int(whole.all(2).sum()) < whole.shape[0] * whole.shape[1]
