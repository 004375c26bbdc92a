"""Dense programs compute in numpy what the interpreter computes with tensors."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from architectures import BUILDERS
from galaxylearning.errors import DataRefused, GraphRefused
from galaxylearning.graph import FlatModel, compile_model
from galaxylearning.graph.dense import DenseModel, DenseProgram
from galaxylearning.graph.document import LOSS_NAMES, ModelGraph
from galaxylearning.graph.labels import CLASS_LOSSES

ROWS = np.random.default_rng(0).normal(size=(13, 8)).astype(np.float32)
DENSE = ("mlp", "low-rank-adapter")

Curve = Callable[[torch.Tensor], torch.Tensor]


class Everything(nn.Module):
    """Every dense operation but curves, which are given: used twice, beside each other and in each other's
    way. ``idle`` is used where no derivative comes from.
    """

    mean: torch.Tensor
    spread: torch.Tensor

    def __init__(self, curve: Curve) -> None:
        super().__init__()
        self.curve = curve
        self.register_buffer("mean", torch.randn(8))
        self.register_buffer("spread", torch.rand(8) + 0.5)
        self.gain = nn.Parameter(torch.tensor([1.3]))
        self.shift = nn.Parameter(torch.tensor(0.7))
        self.norm = nn.LayerNorm(8)
        self.shared = nn.Parameter(torch.randn(8, 8) / 3)
        self.each = nn.Parameter(torch.randn(8))
        self.idle = nn.Parameter(torch.randn(3))
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = (x - self.mean) / self.spread
        x = self.norm(self.curve(x) * self.gain + self.shift)
        x = x + 1 - (x @ self.shared) * 2 + x / 3
        x = self.curve(x) * self.each - self.each
        x = torch.addmm(self.each, x, self.shared) * torch.sigmoid(x)
        x = torch.flatten(x, 1).view(x.shape[0], -1).view(-1, 2, 4).flatten(1)
        x = 2 - x
        x = (-x).reshape(-1, 8).contiguous()
        x = x + torch.softmax(x, 1) * x.detach()
        out: torch.Tensor = self.head(torch.sub(x, self.curve(x), alpha=0.5))
        return out + (out * self.idle).detach()


CURVES: dict[str, Curve] = {
    "relu": nn.ReLU(),
    "relu in place": nn.ReLU(inplace=True),
    "tanh": nn.Tanh(),
    "sigmoid": nn.Sigmoid(),
    "silu": nn.SiLU(),
    "leaky_relu": nn.LeakyReLU(0.1),
    "elu": nn.ELU(0.7),
    "softplus": nn.Softplus(2.0, 3.0),
    "gelu": nn.GELU(),
    "gelu tanh": nn.GELU(approximate="tanh"),
    "hardtanh": nn.Hardtanh(-0.5, 0.7),
    "relu6": nn.ReLU6(),
    "clamp": lambda x: x.clamp(-0.3, 0.4),
    "clamp below": lambda x: x.clamp_min(-0.2),
    "clamp above": lambda x: x.clamp(max=0.2),
}


@dataclass(frozen=True)
class Pair:
    """The same model twice, and a state away from the initial one."""

    flat: FlatModel
    dense: DenseModel
    params: npt.NDArray[np.float32]
    buffers: npt.NDArray[np.float32]

    def labels(self, rows: int = len(ROWS)) -> npt.NDArray[Any]:
        rng = np.random.default_rng(5)
        if self.flat.graph.loss in CLASS_LOSSES:
            return rng.integers(0, 3, rows)
        return rng.random((rows, 3)).astype(np.float32)


def pair(module: nn.Module, loss: str = "cross_entropy", federate: dict[str, str] | None = None) -> Pair:
    graph, weights = compile_model(module, (torch.from_numpy(ROWS[:4]),), loss=loss, federate=federate)
    arrays = {name: tensor.detach().numpy() for name, tensor in weights.items()}
    flat, dense = FlatModel(graph, weights), DenseModel(graph, arrays)
    params, buffers = flat.initial()
    moved = params + 0.1 * np.random.default_rng(1).normal(size=params.size).astype(np.float32)
    return Pair(flat, dense, moved.astype(np.float32), buffers)


def close(left: Any, right: Any) -> None:
    size = max(1e-3, float(np.abs(right).max()))
    np.testing.assert_allclose(left, right, rtol=2e-5, atol=5e-6 * size)


def agree(both: Pair) -> None:
    """Everything a model does."""
    state, rows, labels = (both.params, both.buffers), (ROWS,), both.labels()
    loss, gradient, buffers = both.dense.gradient(*state, rows, labels)
    wanted, slope, unchanged = both.flat.gradient(*state, rows, labels)
    close(loss, wanted)
    close(gradient, slope)
    np.testing.assert_array_equal(buffers, unchanged)
    close(both.dense.predict(*state, rows), both.flat.predict(*state, rows))
    each = both.dense.per_sample_loss(*state, rows, labels)
    close(each, both.flat.per_sample_loss(*state, rows, labels))
    assert each.dtype == np.float64
    # Between two samples' losses, so that rounding decides nothing.
    middle = np.sort(each)[6:8].mean()
    for clip in (None, float(middle) if middle > 0 else None):
        total = both.dense.gradient_eval(*state, rows, labels, clip=clip)
        close(total, both.flat.gradient_eval(*state, rows, labels, clip=clip))
        assert total.dtype == np.float64
    assert both.dense.state_bytes(*state) == both.flat.state_bytes(*state)
    for mine, theirs in zip(both.dense.initial(), both.flat.initial(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("curve", CURVES)
def test_every_operation_agrees_with_the_interpreter(curve: str) -> None:
    torch.manual_seed(3)
    agree(pair(Everything(CURVES[curve])))


@pytest.mark.parametrize("loss", LOSS_NAMES)
@pytest.mark.parametrize("name", DENSE)
def test_every_loss_agrees_with_the_interpreter(name: str, loss: str) -> None:
    torch.manual_seed(4)
    module = BUILDERS[name][0]()
    agree(pair(nn.Sequential(module, nn.LogSoftmax(-1)) if loss == "nll" else module, loss))


@pytest.mark.parametrize("name", BUILDERS)
def test_which_architectures_are_dense(name: str) -> None:
    build, inputs = BUILDERS[name]
    graph, weights = compile_model(build(), (inputs(4),), loss="cross_entropy")
    reason = DenseProgram.why_not(graph)
    if name in DENSE:
        assert reason is None
        assert DenseProgram.of(graph) is not None
    else:
        assert reason is not None
        assert DenseProgram.of(graph) is None
        with pytest.raises(GraphRefused, match="is not dense"):
            DenseModel(graph, {k: v.detach().numpy() for k, v in weights.items()})


def test_a_model_that_flattens_images_is_dense() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    images = torch.randn(5, 3, 2, 2)
    graph, weights = compile_model(module, (images,), loss="cross_entropy")
    dense = DenseModel(graph, {k: v.detach().numpy() for k, v in weights.items()})
    with torch.no_grad():
        close(dense.predict(*dense.initial(), (images.numpy(),)), module(images).numpy())


def test_dropout_is_not_dense() -> None:
    module = nn.Sequential(nn.Linear(8, 3), nn.Dropout(0.5))
    graph, _ = compile_model(module, (torch.from_numpy(ROWS[:4]),), loss="cross_entropy")
    assert "dropout" in str(DenseProgram.why_not(graph))


def test_federated_buffers_that_training_leaves_alone_are_read_from_their_vector() -> None:
    both = pair(Everything(torch.tanh), federate={"mean": "mean", "spread": "sum"})
    assert both.dense.buffer_count == 16
    agree(Pair(both.flat, both.dense, both.params, both.buffers + np.float32(0.25)))


def test_many_rows_are_evaluated_in_parts() -> None:
    both = pair(nn.Linear(8, 3))
    rows = (np.tile(ROWS, (200, 1)),)
    state, labels = (both.params, both.buffers), np.tile(both.labels(), 200)
    for name in ("per_sample_loss", "gradient_eval"):
        options: dict[str, Any] = {"clip": None} if name == "gradient_eval" else {}
        mine = getattr(both.dense, name)(*state, rows, labels, **options)
        close(mine, getattr(both.flat, name)(*state, rows, labels, **options))


def test_the_gradient_is_that_of_finite_differences() -> None:
    both = pair(nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3)))
    state, labels = both.params, both.labels()
    _, gradient, _ = both.dense.gradient(state, both.buffers, (ROWS,), labels)
    for index in range(0, state.size, 5):
        step = np.zeros_like(state)
        step[index] = 1e-2
        above, below = (
            both.dense.per_sample_loss(moved, both.buffers, (ROWS,), labels).mean()
            for moved in (state + step, state - step)
        )
        assert gradient[index] == pytest.approx((above - below) / 2e-2, abs=1e-3)


# ---- many models at once


@pytest.mark.parametrize("loss", ["cross_entropy", "huber"])
@pytest.mark.parametrize("module", [BUILDERS["mlp"][0], lambda: Everything(torch.tanh)], ids=["mlp", "all"])
def test_a_stack_of_models_is_each_of_them(module: Callable[[], nn.Module], loss: str) -> None:
    torch.manual_seed(6)
    both = pair(module(), loss)
    scales = np.linspace(0.5, 1.5, 5, dtype=np.float32)[:, None]
    stack, program = both.params * scales, both.dense.program
    weights = {k: v.numpy() for k, v in both.flat._initial.items()}
    frozen, labels = program.frozen(weights), both.labels()
    outputs = program.outputs(stack, ROWS, frozen=frozen)
    gradients = program.gradients(stack, ROWS, labels, frozen=frozen)
    assert outputs.shape == (5, 13, 3)
    for i, params in enumerate(stack):
        close(outputs[i], both.flat.predict(params, both.buffers, (ROWS,)))
        close(gradients[i], both.flat.gradient(params, both.buffers, (ROWS,), labels)[1])
    given = np.full_like(stack, np.nan)
    assert program.gradients(stack, ROWS, labels, out=given, frozen=frozen) is given
    np.testing.assert_array_equal(given, gradients)


def test_large_stacks_go_in_blocks() -> None:
    both = pair(BUILDERS["mlp"][0]())
    rows, program = np.tile(ROWS, (400, 1)), both.dense.program
    stack = np.tile(both.params, (9, 1))
    outputs = program.outputs(stack, rows)
    for found in outputs:
        close(found, both.flat.predict(both.params, both.buffers, (rows,)))


def test_stacks_of_another_shape_are_refused() -> None:
    both = pair(BUILDERS["low-rank-adapter"][0]())
    program, stack, labels = both.dense.program, both.params[None], both.labels()
    frozen = program.frozen({k: v.numpy() for k, v in both.flat._initial.items()})
    with pytest.raises(ValueError, match=r"frozen must hold base\.bias, base\.weight"):
        program.outputs(stack, ROWS)
    with pytest.raises(ValueError, match="stack must be float32"):
        program.outputs(both.params, ROWS, frozen=frozen)
    with pytest.raises(ValueError, match="inputs must be float32"):
        program.outputs(stack, ROWS[:, 1:], frozen=frozen)
    with pytest.raises(ValueError, match="out must be contiguous"):
        program.gradients(stack, ROWS, labels, out=np.empty((2, 3), np.float32), frozen=frozen)
    with pytest.raises(DataRefused, match="class numbers"):
        program.gradients(stack, ROWS, labels + 9, frozen=frozen)


# ---- bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: {**a, "inputs": ()}, "takes 1 input, not 0"),
        (lambda a: {**a, "inputs": (ROWS.astype(np.float64),)}, "must be float32"),
        (lambda a: {**a, "inputs": (ROWS[:, :7],)}, r"must have shape \[n, 8\]"),
        (lambda a: {**a, "inputs": (ROWS[:0],), "labels": a["labels"][:0]}, "n >= 1"),
        (lambda a: {**a, "inputs": (np.float32(1),)}, "n >= 1"),
        (lambda a: {**a, "labels": a["labels"][1:]}, "one entry for each of 13 rows"),
        (lambda a: {**a, "labels": a["labels"] + 2}, r"class numbers must be in \[0, 2\]"),
    ],
)
def test_rows_and_labels_are_checked(
    change: Callable[[dict[str, Any]], dict[str, Any]], message: str
) -> None:
    both = pair(nn.Linear(8, 3))
    given = change({"inputs": (ROWS,), "labels": both.labels()})
    for model in (both.dense, both.flat):
        with pytest.raises(DataRefused, match=message if model is both.dense else None):
            model.gradient(both.params, both.buffers, given["inputs"], given["labels"])


def test_vectors_and_clips_are_checked() -> None:
    both = pair(nn.Linear(8, 3))
    rows, labels = (ROWS,), both.labels()
    with pytest.raises(ValueError, match=r"params must be float32 \[27\]"):
        both.dense.predict(both.params[1:], both.buffers, rows)
    with pytest.raises(ValueError, match=r"buffers must be float32 \[0\]"):
        both.dense.state_bytes(both.params, both.params)
    with pytest.raises(ValueError, match="clip must be above 0"):
        both.dense.gradient_eval(both.params, both.buffers, rows, labels, clip=0.0)
    with pytest.raises(GraphRefused, match="finite"):
        both.dense.state_bytes(np.full_like(both.params, np.nan), both.buffers)


def test_a_dense_model_needs_no_tensor_library() -> None:
    graph, weights = compile_model(nn.Linear(2, 2), (torch.zeros(3, 2),), loss="mse")
    program = f"""
import sys
import numpy as np
from galaxylearning.engines.cohort import Cohort
from galaxylearning.engines.engine import Training
from galaxylearning.engines.stacked import StackedEngine
from galaxylearning.graph.decode import read_graph
from galaxylearning.graph.dense import DenseModel
from galaxylearning.graph.document import DEFAULT_LIMITS
from galaxylearning.learning.plan import LocalPlan
from galaxylearning.protocol.hidden_set import Rows
graph = read_graph({graph.to_bytes()!r}, DEFAULT_LIMITS)
weights = {{e.name: np.ones(e.shape, np.float32) for e in graph.state}}
model = DenseModel(graph, weights)
rows = Rows(np.ones((3, 2), np.float32), np.ones((3, 2), np.float32))
engine = StackedEngine(model.program, weights, Cohort.of([rows]), Training(LocalPlan(steps=2), 0))
(found,) = engine.train(*model.initial(), np.arange(1), 0)
assert not found.failures and found.updates.any()
assert "torch" not in sys.modules
"""
    assert ModelGraph.from_bytes(graph.to_bytes()) == graph
    assert set(weights) == {"bias", "weight"}
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
