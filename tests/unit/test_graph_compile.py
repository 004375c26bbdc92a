"""What the compiler makes of modules, and what it refuses, with the line and the way out."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from galaxylearning.errors import UnsupportedModel
from galaxylearning.graph import ModelGraph, Program, compile_model

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


class Wrapped(nn.Module):
    """A linear layer followed by a function of (module, x, linear(x))."""

    def __init__(self, tail: Callable[[Wrapped, torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)
        self.register_buffer("shift", torch.zeros(3))
        self.shift: torch.Tensor
        self.tail = tail

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.tail(self, x, self.linear(x))


def compiled(tail: Callable[[Wrapped, torch.Tensor, torch.Tensor], torch.Tensor]) -> ModelGraph:
    return compile_model(Wrapped(tail), (X,), loss="mse")[0]


@torch.library.custom_op("galaxytest::twice", mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    return x * 2


@twice.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


def branch(m: Wrapped, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return y if x.sum() > 0 else -y


def into_slice(m: Wrapped, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    y[:, 0] = 0
    return y


def writes_weight(m: Wrapped, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    m.linear.weight.data.mul_(0.5)
    return y


def writes_weight_without_grad(m: Wrapped, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        m.linear.weight.mul_(0.5)
    out: torch.Tensor = m.linear(x)
    return out


def writes_input(m: Wrapped, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    x.mul_(2)
    out: torch.Tensor = m.linear(x)
    return out


def writes_part_of_buffer(m: Wrapped, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    m.shift[0].add_(1)
    return y + m.shift


def conditional(m: Wrapped, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    out: torch.Tensor = torch.cond(x.sum() > 0, lambda v: v * 2, lambda v: v * 3, (y,))
    return out


def trains_only(m: Wrapped, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return y * 2 if m.training else y


def item(m: Wrapped, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    out: torch.Tensor = y * x.sum().item()
    return out


def mask_of_unknown_size(m: Wrapped, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    out: torch.Tensor = y[x[:, 0] > 0]
    return out


def custom(m: Wrapped, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    out: torch.Tensor = twice(y)
    return out


def complex_numbers(m: Wrapped, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    out: torch.Tensor = torch.fft.rfft(y).abs()
    return out


def random_numbers(m: Wrapped, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    out: torch.Tensor = y + torch.rand_like(y)
    return out


def always_dropped(m: Wrapped, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    out: torch.Tensor = F.dropout(y, 0.5, True)
    return out


def fixed_batch(m: Wrapped, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    out: torch.Tensor = y.view(4, 3) + torch.zeros(4, 3)
    return out


def no_batch(m: Wrapped, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    out: torch.Tensor = y.sum(0)
    return out


def unknown_operation(m: Wrapped, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    out: torch.Tensor = y @ torch.linalg.matrix_exp(y.t() @ y)
    return out


def sorting(m: Wrapped, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    out: torch.Tensor = y.sort(1).values
    return out


def two_outputs(m: Wrapped, x: torch.Tensor, y: torch.Tensor) -> Any:
    return y, y


REFUSED: dict[str, tuple[Callable[[Wrapped, torch.Tensor, torch.Tensor], torch.Tensor], str, str]] = {
    "branch on data": (branch, "depends on data", "torch.where"),
    "item": (item, "item", "torch.where"),
    "mask of unknown size": (mask_of_unknown_size, "aten.index.Tensor", "torch.where"),
    "write into a slice": (into_slice, "aten.fill_", "torch.where or torch.cat"),
    "write to a parameter": (writes_weight, "writes to a parameter", "registered buffer"),
    "write without grad": (writes_weight_without_grad, "higher-order operation", "detach"),
    "write to an input": (writes_input, "writes to an input", "new tensor"),
    "write to part of a buffer": (writes_part_of_buffer, "into part of a tensor", "torch.where"),
    "custom operation": (custom, "custom operation galaxytest.twice", "PyTorch's own"),
    "torch.cond": (conditional, "higher-order operation", "torch.where"),
    "complex numbers": (complex_numbers, "complex64", "two real channels"),
    "random numbers": (random_numbers, "aten.rand_like", "nn.Dropout"),
    "dropout that is always on": (always_dropped, "eval mode", "nn.Dropout"),
    "branch on training": (trains_only, "eval mode", "nn.Dropout"),
    "fixed batch": (fixed_batch, "batch", "x.shape[0]"),
    "two outputs": (two_outputs, "exactly one tensor", "logits"),
    "no batch in the output": (no_batch, "must be the batch", "outputs"),
    "unknown operation": (unknown_operation, "linalg_matrix_exp", "docs/model-graph.md"),
    "sorting": (sorting, "aten.sort", "torch.max"),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_a_graph_cannot_say_is_refused_with_a_way_out(name: str) -> None:
    tail, what, instead = REFUSED[name]
    with pytest.raises(UnsupportedModel) as caught:
        compiled(tail)
    assert what in str(caught.value)
    assert instead in str(caught.value)


@pytest.mark.parametrize("name", ["write into a slice", "complex numbers", "sorting"])
def test_a_refusal_names_the_line_of_the_users_model(name: str) -> None:
    tail = REFUSED[name][0]
    with pytest.raises(UnsupportedModel) as caught:
        compiled(tail)
    line = Wrapped.forward.__code__.co_firstlineno + 1
    assert f"at {__file__}:{line}" in str(caught.value)


def test_other_refusals_name_their_field() -> None:
    linear = nn.Linear(6, 3)
    with pytest.raises(UnsupportedModel, match="loss: must be one of"):
        compile_model(linear, (X,), loss="hinge")
    with pytest.raises(UnsupportedModel, match="example_inputs: must be a tuple"):
        compile_model(linear, (), loss="mse")
    with pytest.raises(UnsupportedModel, match=r"example_inputs\[0\]: must be a tensor"):
        compile_model(linear, (torch.tensor(1.0),), loss="mse")
    with pytest.raises(UnsupportedModel, match=r"example_inputs\[0\]: element type"):
        compile_model(linear, (X.to(torch.complex64),), loss="mse")
    with pytest.raises(UnsupportedModel, match=r"example_inputs\[1\]: all inputs must have the same batch"):
        compile_model(linear, (X, X[:2]), loss="mse")
    with pytest.raises(UnsupportedModel, match="no trainable parameter"):
        compile_model(nn.Linear(6, 3).requires_grad_(False), (X,), loss="mse")
    with pytest.raises(UnsupportedModel, match="must be float32"):
        compile_model(nn.Linear(6, 3).double(), (X.double(),), loss="mse")
    with pytest.raises(UnsupportedModel, match="classes >= 2"):
        compile_model(nn.Linear(6, 1), (X,), loss="cross_entropy")


def moving_mean(m: Wrapped, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    if m.training:
        m.shift.mul_(0.9).add_(0.1 * y.detach().mean(0))
    return y - m.shift


def replaced_mean(m: Wrapped, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    if m.training:
        m.shift.copy_(0.9 * m.shift + 0.1 * y.detach().mean(0))
    return y - m.shift


@pytest.mark.parametrize("tail", [moving_mean, replaced_mean])
def test_a_buffer_written_in_place_becomes_an_update(
    tail: Callable[[Wrapped, torch.Tensor, torch.Tensor], torch.Tensor],
) -> None:
    module = Wrapped(tail)
    graph, weights = compile_model(module, (X,), loss="mse")
    assert graph.entry("shift").federate == "mean"
    outputs, buffers = Program(graph)(weights, X, train=True)
    expected = module.train()(X)
    torch.testing.assert_close(outputs, expected)
    torch.testing.assert_close(buffers["shift"], module.shift)
    assert torch.equal(weights["shift"], torch.zeros(3))


def test_writes_in_place_on_fresh_tensors_are_made_functional() -> None:
    def tail(m: Wrapped, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        y = F.relu(y, inplace=True)
        y += 1
        return y.mul_(x.shape[0]).view(x.shape[0], -1)

    module = Wrapped(tail)
    graph, weights = compile_model(module, (X,), loss="mse")
    assert not any(node.op.split(".")[1].endswith("_") for node in graph.nodes)
    assert torch.equal(Program(graph)(weights, X, train=True)[0], module(X))


def test_federate_overrides_by_name_and_glob_and_refuses_what_matches_nothing() -> None:
    module = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.BatchNorm1d(4))
    choices = {"1.*": "keep_local", "3.running_var": "sum"}
    graph, _ = compile_model(module, (X,), loss="mse", federate=choices)
    assert {e.name: e.federate for e in graph.state if e.kind == "buffer"} == {
        "1.num_batches_tracked": "keep_local",
        "1.running_mean": "keep_local",
        "1.running_var": "keep_local",
        "3.num_batches_tracked": "skip",
        "3.running_mean": "mean",
        "3.running_var": "sum",
    }
    with pytest.raises(UnsupportedModel, match="matches none"):
        compile_model(module, (X,), loss="mse", federate={"2.weight": "mean"})
    with pytest.raises(UnsupportedModel, match="must be one of"):
        compile_model(module, (X,), loss="mse", federate={"1.*": "average"})
    with pytest.raises(UnsupportedModel, match="must be float32"):
        compile_model(module, (X,), loss="mse", federate={"*.num_batches_tracked": "mean"})


def test_constants_tied_and_unused_parameters() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.unused = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(2, 2)
            self.second.weight = self.first.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.second(self.first(x)) + torch.tensor([1.0, 2, 3, 4, 5, 6])
            return out

    graph, weights = compile_model(Tied(), (X,), loss="mse")
    names = [entry.name for entry in graph.state]
    assert sum(name.endswith("weight") for name in names) == 1
    assert not any(name.startswith("unused") for name in names)
    constant = next(entry for entry in graph.state if entry.kind == "constant")
    assert (constant.trainable, constant.federate) == (False, "skip")
    assert weights[constant.name].tolist() == [1, 2, 3, 4, 5, 6]


def test_a_single_example_still_leaves_the_batch_open() -> None:
    graph, weights = compile_model(nn.Linear(6, 3), (X[:1],), loss="mse")
    assert graph.inputs[0].shape == (None, 6)
    assert Program(graph)(weights, X, train=False)[0].shape == (4, 3)


def test_the_module_is_left_alone() -> None:
    module = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)).eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    compile_model(module, (X,), loss="mse")
    assert not module.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_a_frozen_batch_norm_stays_frozen() -> None:
    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.norm = nn.Linear(6, 4), nn.BatchNorm1d(4)

        def train(self, mode: bool = True) -> Frozen:
            super().train(mode)
            self.norm.eval()
            return self

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.norm(self.linear(x))
            return out

    graph, weights = compile_model(Frozen(), (X,), loss="mse")
    program = Program(graph)
    outputs, buffers = program(weights, X, train=True)
    assert buffers == {}
    assert torch.equal(outputs, program(weights, X, train=False)[0])
    assert not program.has_batch_statistics


def test_two_inputs_and_a_mask() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 3)

        def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.linear(torch.where(mask, x, torch.zeros_like(x)))
            return out

    mask = X > 0
    module = Two()
    graph, weights = compile_model(module, (X, mask), loss="mse")
    assert [(i.name, i.dtype) for i in graph.inputs] == [("x", "float32"), ("mask", "bool")]
    assert torch.equal(Program(graph)(weights, X, mask, train=False)[0], module(X, mask))


def test_importing_the_package_does_not_import_the_front_end() -> None:
    code = (
        "import sys, galaxylearning.graph; "
        "sys.exit(any(m in sys.modules for m in ('torch._dynamo', 'sympy', 'galaxylearning.graph.lower')))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], check=False, env={"PYTHONPATH": "src"}).returncode == 0
    )
