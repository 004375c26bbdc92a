"""All coalitions at once are worth what each is worth alone."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from galaxylearning.contribution import coalition_game, exact_shapley
from galaxylearning.contribution.games import shapley_from_worths
from galaxylearning.engines import coalitions
from galaxylearning.engines.coalitions import CoalitionEvaluator
from galaxylearning.engines.dense_stacks import DenseStacks
from galaxylearning.engines.layered import LayeredNet
from galaxylearning.engines.stack_nets import stack_net
from galaxylearning.errors import ConfigRefused, DataRefused
from galaxylearning.graph import FlatModel, compile_model
from galaxylearning.learning.vectors import F32, F64
from galaxylearning.protocol.hidden_set import Rows

CLASS_ROWS = Rows(
    np.random.default_rng(0).normal(size=(60, 6)).astype(np.float32),
    np.random.default_rng(1).integers(0, 3, 60),
)
REAL_ROWS = Rows(CLASS_ROWS.inputs, np.random.default_rng(2).random((60, 3)).astype(np.float32))


class Adapter(nn.Module):
    """A frozen layer with a trained correction of low rank: dense, but no layers in a row."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(6, 8).requires_grad_(False)
        self.down, self.up = nn.Linear(6, 2, bias=False), nn.Linear(2, 8, bias=False)
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(torch.relu(self.base(x) + self.up(self.down(x))))
        return out


def build(module: nn.Module, loss: str = "cross_entropy", rows: Rows = CLASS_ROWS) -> FlatModel:
    torch.manual_seed(3)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    graph, weights = compile_model(module, (torch.from_numpy(np.asarray(rows.inputs[:4])),), loss=loss)
    return FlatModel(graph, weights)


def small() -> FlatModel:
    return build(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)))


def updates_for(model: FlatModel, n: int, scale: float = 0.3) -> F32:
    return (np.random.default_rng(4).normal(size=(n, model.parameter_count)) * scale).astype(np.float32)


def alone(model: FlatModel, rows: Rows, params: F64, clip: float) -> float:
    """Minus the mean clipped loss, as the protocol's utility."""
    losses = model.per_sample_loss(
        params.astype(np.float32), model.initial()[1], (rows.inputs,), np.asarray(rows.labels)
    )
    return -float(np.minimum(losses, clip).mean())


def in_order(model: FlatModel, rows: Rows, updates: F32, shares: list[float], clip: float) -> list[float]:
    game = coalition_game(
        model.initial()[0].astype(np.float64),
        [update.astype(np.float64) for update in updates],
        lambda params: alone(model, rows, params, clip),
        shares=shares,
    )
    n = len(updates)
    return [game.worth(frozenset(i for i in range(n) if mask >> i & 1)) for mask in range(1 << n)]


def test_worths_by_hand() -> None:
    """One weight, no bias: the model's output is the weight times the input."""
    model = build(nn.Linear(1, 1, bias=False), "mse", Rows(np.ones((4, 1), np.float32), np.ones((4, 1))))
    rows = Rows(np.array([[1.0], [2.0]], np.float32), np.array([[1.0], [1.0]], np.float32))
    evaluator = CoalitionEvaluator(model, rows, loss_clip=5.0)
    start, updates = np.array([1.0]), np.array([[1.0], [2.0]])
    # weights 1, 1.5, 2, 2.5: errors 0 and 1; 0.5 and 2; 1 and 3 (clipped: 9 to 5); 1.5 and 4 (16 to 5)
    found = evaluator.worths(start, updates)
    assert found.tolist() == pytest.approx([-0.5, -2.125, -3.0, -3.625])
    # re-averaged: the weights are 1, 2, 3 and 1 + 1.5
    found = evaluator.worths(start, updates, game="re-averaging")
    assert found.tolist() == pytest.approx([-0.5, -3.0, -4.5, -3.625])
    # sizes 1 and 3: 1, 1.25, 2.5 and 1 + 0.25 + 1.5 (errors 1.75 and 4.5)
    found = evaluator.worths(start, updates, sizes=[1, 3])
    assert found.tolist() == pytest.approx([-0.5, -(0.0625 + 2.25) / 2, -3.625, -(1.75**2 + 5) / 2])


@pytest.mark.parametrize(
    "module",
    [
        nn.Linear(6, 3),
        nn.Sequential(nn.Linear(6, 5, bias=False), nn.Tanh(), nn.Linear(5, 3)),
        nn.Sequential(nn.Linear(6, 5), nn.Sigmoid(), nn.Linear(5, 4, bias=False), nn.ReLU(), nn.Linear(4, 3)),
        nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.Linear(5, 3)),
    ],
)
def test_layers_in_a_row_are_worth_what_each_coalition_is_worth_alone(module: nn.Module) -> None:
    model = build(module)
    assert isinstance(stack_net(model, model.initial()[1]), LayeredNet)
    updates, shares = updates_for(model, 4), [0.1, 0.5, 0.3, 0.7]
    expected = in_order(model, CLASS_ROWS, updates, shares, 2.0)
    found = CoalitionEvaluator(model, CLASS_ROWS, loss_clip=2.0).worths(
        model.initial()[0], updates, shares=shares
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    "module",
    [
        Adapter(),
        nn.Sequential(nn.Linear(6, 5), nn.SiLU(), nn.Linear(5, 3)),
        nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3).requires_grad_(False)),
    ],
)
def test_other_dense_graphs_too(module: nn.Module) -> None:
    model = build(module)
    assert isinstance(stack_net(model, model.initial()[1]), DenseStacks)
    updates, shares = updates_for(model, 3), [0.1, 0.5, 0.4]
    expected = in_order(model, CLASS_ROWS, updates, shares, 2.0)
    found = CoalitionEvaluator(model, CLASS_ROWS, loss_clip=2.0).worths(
        model.initial()[0], updates, shares=shares
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_graph_that_is_not_dense_is_evaluated_with_the_rounds_buffers() -> None:
    model = build(nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)))
    params, buffers = model.initial()
    assert stack_net(model, buffers) is None
    updates = updates_for(model, 3)
    plain = CoalitionEvaluator(model, CLASS_ROWS, loss_clip=4.0).worths(params, updates)
    assert plain.tolist() == in_order(model, CLASS_ROWS, updates, [1 / 3] * 3, 4.0)
    moved = CoalitionEvaluator(model, CLASS_ROWS, loss_clip=4.0, buffers=buffers * 2 + 1)
    losses = model.per_sample_loss(
        params, buffers * 2 + 1, (CLASS_ROWS.inputs,), np.asarray(CLASS_ROWS.labels)
    )
    assert moved.worths(params, updates)[0] == -np.minimum(losses, 4.0).mean()


@pytest.mark.parametrize(
    ("module", "loss"),
    [
        (nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3), nn.LogSoftmax(1)), "nll"),
        (nn.Sequential(nn.Linear(6, 3), nn.Tanh(), nn.Linear(3, 3)), "nll"),
        (nn.Sequential(nn.Linear(6, 3), nn.Sigmoid()), "mse"),
        (nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)), "mse"),
        (nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)), "l1"),
        (nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)), "huber"),
        (nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)), "bce_with_logits"),
    ],
)
def test_every_named_loss(module: nn.Module, loss: str) -> None:
    rows = CLASS_ROWS if loss == "nll" else REAL_ROWS
    model = build(module, loss)
    updates = updates_for(model, 3)
    expected = in_order(model, rows, updates, [1 / 3] * 3, 1.5)
    found = CoalitionEvaluator(model, rows, loss_clip=1.5).worths(model.initial()[0], updates)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_re_averaging_is_the_mean_over_the_coalition() -> None:
    model, sizes = small(), [3, 1, 4]
    updates = updates_for(model, 3)
    found = CoalitionEvaluator(model, CLASS_ROWS, loss_clip=9.0).worths(
        model.initial()[0], updates, sizes=sizes, game="re-averaging"
    )
    for mask in range(8):
        inside = [i for i in range(3) if mask >> i & 1]
        params = model.initial()[0].astype(np.float64)
        if inside:
            params += np.average(
                updates[inside].astype(np.float64), axis=0, weights=[sizes[i] for i in inside]
            )
        assert found[mask] == pytest.approx(alone(model, CLASS_ROWS, params, 9.0), abs=1e-5)


@pytest.mark.parametrize("dense", [True, False])
def test_accuracy_counts_right_classes(dense: bool) -> None:
    middle = nn.ReLU() if dense else nn.BatchNorm1d(5)
    model = build(nn.Sequential(nn.Linear(6, 5), middle, nn.Linear(5, 3)))
    params, buffers = model.initial()
    updates = updates_for(model, 3)
    evaluator = CoalitionEvaluator(model, CLASS_ROWS, loss_clip=9.0)
    both = evaluator.worths(params, updates, utility="both")
    right = [
        np.mean(
            np.argmax(model.predict(point.astype(np.float32), buffers, (CLASS_ROWS.inputs,)), axis=1)
            == CLASS_ROWS.labels
        )
        for point in (
            params + sum((updates[i] / 3 for i in range(3) if m >> i & 1), start=0) for m in range(8)
        )
    ]
    assert both.shape == (2, 8)
    assert both[1].tolist() == right
    assert both[0].tolist() == evaluator.worths(params, updates).tolist()
    assert both[1].tolist() == evaluator.worths(params, updates, utility="accuracy").tolist()


def test_values_of_the_worths_are_those_of_the_game() -> None:
    model = small()
    updates = updates_for(model, 4)
    start = model.initial()[0].astype(np.float64)
    worths = CoalitionEvaluator(model, CLASS_ROWS, loss_clip=9.0).worths(start, updates)
    game = coalition_game(start, list(updates.astype(np.float64)), lambda p: alone(model, CLASS_ROWS, p, 9.0))
    np.testing.assert_allclose(shapley_from_worths(worths), exact_shapley(game).values, atol=1e-6)


def test_threads_and_pieces_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small()
    updates, start = updates_for(model, 7), model.initial()[0]
    monkeypatch.setattr(coalitions, "CHUNK", 8)
    monkeypatch.setattr(coalitions, "TILE", 25)
    one = CoalitionEvaluator(model, CLASS_ROWS, loss_clip=9.0).worths(start, updates, utility="both")
    three = CoalitionEvaluator(model, CLASS_ROWS, loss_clip=9.0, threads=3).worths(
        start, updates, utility="both"
    )
    assert one.tobytes() == three.tobytes()
    monkeypatch.undo()
    whole = CoalitionEvaluator(model, CLASS_ROWS, loss_clip=9.0).worths(start, updates, utility="both")
    np.testing.assert_allclose(one, whole, atol=1e-6)


def test_the_budget_is_kept() -> None:
    rows = Rows(np.ones((800, 6), np.float32), np.zeros(800, np.int64))
    model = build(nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 3)))
    updates, start = updates_for(model, 7), model.initial()[0]
    peaks = []
    for budget in (64.0, 0.5):
        evaluator = CoalitionEvaluator(model, rows, loss_clip=9.0, budget_mib=budget, threads=4)
        tracemalloc.start()
        found = evaluator.worths(start, updates)
        peaks.append(tracemalloc.get_traced_memory()[1] / (1 << 20))
        tracemalloc.stop()
        assert found.shape == (128,)
    assert peaks[1] < 0.5 < peaks[0] < 64.0
    with pytest.raises(ConfigRefused, match=r"budget_mib: .* needs \d+\.\d MiB; 0\.1 allowed"):
        CoalitionEvaluator(model, rows, loss_clip=9.0, budget_mib=0.1).worths(start, updates)


def test_the_budget_of_one_coalition_at_a_time() -> None:
    model = build(nn.Sequential(nn.Linear(6, 5000), nn.BatchNorm1d(5000), nn.Linear(5000, 3)))
    evaluator = CoalitionEvaluator(model, CLASS_ROWS, loss_clip=9.0, budget_mib=0.5)
    with pytest.raises(ConfigRefused, match=r"needs 1\.1 MiB"):
        evaluator.worths(model.initial()[0], updates_for(model, 1))


@pytest.mark.parametrize("dense", [True, False])
def test_progress_is_told(dense: bool) -> None:
    model = build(nn.Sequential(nn.Linear(6, 5), nn.ReLU() if dense else nn.BatchNorm1d(5), nn.Linear(5, 3)))
    told: list[tuple[int, int]] = []
    evaluator = CoalitionEvaluator(
        model, CLASS_ROWS, loss_clip=9.0, threads=2, report=lambda done, total: told.append((done, total))
    )
    evaluator.worths(model.initial()[0], updates_for(model, 6))
    assert told == sorted(told)
    assert told[-1] == (64, 64)


def test_an_interrupt_is_passed_on_and_leaves_the_evaluator_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coalitions, "CHUNK", 4)
    model, interrupts = small(), [True]

    def report(_done: int, _total: int) -> None:
        if interrupts:
            interrupts.pop()
            raise KeyboardInterrupt

    evaluator = CoalitionEvaluator(model, CLASS_ROWS, loss_clip=9.0, threads=2, report=report)
    updates, start = updates_for(model, 6), model.initial()[0]
    with pytest.raises(KeyboardInterrupt):
        evaluator.worths(start, updates)
    again = evaluator.worths(start, updates)
    assert (
        again.tolist() == CoalitionEvaluator(model, CLASS_ROWS, loss_clip=9.0).worths(start, updates).tolist()
    )


def test_a_model_beyond_float32_is_refused_by_name() -> None:
    model = small()
    updates = updates_for(model, 3).astype(np.float64)
    updates[1] = 1e38
    evaluator = CoalitionEvaluator(model, CLASS_ROWS, loss_clip=9.0)
    with pytest.raises(DataRefused, match=r"utility of coalition \[1\].* not finite"):
        evaluator.worths(model.initial()[0], updates)
    with pytest.raises(DataRefused, match=r"utility of coalition \[1\].* not finite"):
        evaluator.worths(model.initial()[0], updates, utility="accuracy")


def test_a_huge_update_that_counts_for_nothing_harms_no_coalition() -> None:
    model = small()
    updates = updates_for(model, 3).astype(np.float64)
    updates[1] = 1e38
    evaluator = CoalitionEvaluator(model, CLASS_ROWS, loss_clip=9.0)
    found = evaluator.worths(model.initial()[0], updates, shares=[0.5, 0.0, 0.5])
    without = evaluator.worths(model.initial()[0], updates[[0, 2]], shares=[0.5, 0.5])
    np.testing.assert_allclose(found, without[[0, 1, 0, 1, 2, 3, 2, 3]], atol=1e-6)


ONE = np.zeros((1, 53), np.float32)


@pytest.mark.parametrize(
    ("start", "updates", "options", "error", "field"),
    [
        (ONE[0], ONE[:0], {}, DataRefused, "updates: at least one"),
        (ONE[0], np.zeros((21, 53), np.float32), {}, ConfigRefused, "updates: .* at most 20"),
        (ONE[0], ONE[0], {}, DataRefused, r"shape \[n, 53\], not \[53\]"),
        (ONE[0], np.float32(1.0), {}, DataRefused, "updates: must be a numpy array"),
        (ONE[0], [[0.0] * 53], {}, DataRefused, "updates: must be a numpy array"),
        (ONE[0], ONE[:, :52], {}, DataRefused, r"updates: must have shape \[n, 53\]"),
        (ONE[0], np.full((2, 53), np.nan), {}, DataRefused, r"updates\[0\]: must be finite"),
        (ONE[0, :52], ONE, {}, DataRefused, "start: must have 53"),
        (np.full(53, np.inf), ONE, {}, DataRefused, "start: must be finite"),
        (ONE[0].astype(np.int64), ONE, {}, DataRefused, "start: must have type float32"),
        (ONE[0], ONE, {"shares": [0.5, 0.5]}, ConfigRefused, "shares: must be 1"),
        (ONE[0], ONE, {"shares": [1.5]}, ConfigRefused, r"shares\[0\]"),
        (ONE[0], ONE, {"shares": [0.0], "game": "re-averaging"}, ConfigRefused, r"shares\[0\]"),
        (ONE[0], ONE, {"sizes": [0]}, ConfigRefused, r"sizes\[0\]"),
        (ONE[0], ONE, {"sizes": [1], "shares": [1.0]}, ConfigRefused, "together with sizes"),
        (ONE[0], ONE, {"game": "other"}, ConfigRefused, "game: must be one of fixed-share, re-averaging"),
        (ONE[0], ONE, {"utility": "f1"}, ConfigRefused, "utility: must be one of loss, accuracy, both"),
    ],
)
def test_a_bad_round_is_refused(
    start: Any, updates: Any, options: dict[str, Any], error: type[Exception], field: str
) -> None:
    evaluator = CoalitionEvaluator(small(), CLASS_ROWS, loss_clip=9.0)
    with pytest.raises(error, match=field):
        evaluator.worths(start, updates, **options)


def test_accuracy_needs_classes() -> None:
    model = build(nn.Linear(6, 3), "mse")
    evaluator = CoalitionEvaluator(model, REAL_ROWS, loss_clip=9.0)
    with pytest.raises(ConfigRefused, match="utility: must be loss for a model trained by mse"):
        evaluator.worths(model.initial()[0], updates_for(model, 2), utility="accuracy")


@pytest.mark.parametrize(
    ("rows", "options", "error", "field"),
    [
        (Rows(CLASS_ROWS.inputs[:0], CLASS_ROWS.labels[:0]), {}, DataRefused, "rows: at least one"),
        (Rows(CLASS_ROWS.inputs[:, :5], CLASS_ROWS.labels), {}, DataRefused, r"shape \[n, 6\]"),
        (Rows(np.ones((2, 6)), np.zeros(2, np.int64)), {}, DataRefused, "must be float32"),
        (Rows(CLASS_ROWS.inputs, np.full(60, 3)), {}, DataRefused, r"labels: class numbers"),
        (Rows(CLASS_ROWS.inputs[:59], CLASS_ROWS.labels), {}, DataRefused, "labels: must be 59"),
        (CLASS_ROWS, {"loss_clip": 0.0}, ConfigRefused, "loss_clip"),
        (CLASS_ROWS, {"loss_clip": float("nan")}, ConfigRefused, "loss_clip"),
        (CLASS_ROWS, {"budget_mib": 0}, ConfigRefused, "budget_mib"),
        (CLASS_ROWS, {"threads": 0}, ConfigRefused, "threads"),
    ],
)
@pytest.mark.parametrize("module", [nn.Linear(6, 3), nn.Sequential(nn.Linear(6, 3), nn.Hardtanh())])
def test_bad_hidden_rows_and_settings_are_refused(
    rows: Rows, options: dict[str, Any], error: type[Exception], field: str, module: nn.Module
) -> None:
    with pytest.raises(error, match=field):
        CoalitionEvaluator(build(module), rows, **{"loss_clip": 9.0, **options})
