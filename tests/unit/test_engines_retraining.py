"""Retraining all coalitions in stacks gives what retraining each of them gives."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from galaxylearning.contribution.games import banzhaf_from_worths
from galaxylearning.engines import retraining
from galaxylearning.engines.coalitions import CoalitionEvaluator
from galaxylearning.engines.cohort import Cohort, owner_rng
from galaxylearning.engines.engine import Training
from galaxylearning.engines.reference import ReferenceEngine
from galaxylearning.engines.retraining import retraining_worths
from galaxylearning.errors import ConfigRefused, DataRefused
from galaxylearning.graph import FlatModel, compile_model
from galaxylearning.learning import LocalPlan, train_local
from galaxylearning.learning.vectors import F32, F64, I64
from galaxylearning.protocol.hidden_set import Rows

RNG = np.random.default_rng(0)
HIDDEN = Rows(RNG.normal(size=(40, 6)).astype(np.float32), RNG.integers(0, 3, 40))
PLAN = LocalPlan(learning_rate=0.3, epochs=2, batch_size=4)


def owners(sizes: tuple[int, ...] = (5, 9, 12)) -> Cohort:
    rng = np.random.default_rng(7)
    return Cohort.of(
        [Rows(rng.normal(size=(n, 6)).astype(np.float32), rng.integers(0, 3, n)) for n in sizes],
        identities=[11 * (i + 1) for i in range(len(sizes))],
    )


def build(module: nn.Module, loss: str = "cross_entropy") -> FlatModel:
    torch.manual_seed(5)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.4)
    graph, weights = compile_model(module, (torch.zeros(4, 6),), loss=loss)
    return FlatModel(graph, weights)


def layered() -> FlatModel:
    return build(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)))


def by_hand(model: FlatModel, cohort: Cohort, plan: LocalPlan, members: list[int], rounds: int) -> F32:
    """Federated averaging of some owners, written out."""
    params, buffers = model.initial()
    for round_index in range(rounds):
        moved: F64 = np.zeros(params.size)
        for owner in members:
            rows = cohort.rows(owner)

            def gradient(
                current: F32, state: F32, batch: I64, _rng: np.random.Generator, rows: Rows = rows
            ) -> tuple[float, F32, F32]:
                part = rows.take(batch)
                return model.gradient(current, state, (part.inputs,), part.labels)

            rng = owner_rng(9, round_index, cohort.identities[owner])
            found = train_local(gradient, params, buffers, len(rows), plan, rng=rng)
            moved += found.update.astype(np.float64) * len(rows)
        params = (params + moved / sum(len(cohort.rows(i)) for i in members)).astype(np.float32)
    return params


def utility(model: FlatModel, params: F32) -> float:
    losses = model.per_sample_loss(params, model.initial()[1], (HIDDEN.inputs,), HIDDEN.labels)
    return -float(np.minimum(losses, 3.0).mean())


@pytest.mark.parametrize(
    "plan",
    [
        PLAN,
        LocalPlan(learning_rate=0.3, epochs=1, batch_size=4, order="stored"),
        LocalPlan(learning_rate=0.1, steps=7, batch_size=8, momentum=0.9),
        LocalPlan(learning_rate=0.3, epochs=1, batch_size=64, weight_decay=0.1, prox_mu=0.5),
        LocalPlan(learning_rate=0.3, epochs=2, batch_size=5, prox_mu=2.0, momentum=0.5),
        LocalPlan(optimizer="adam", learning_rate=0.05, epochs=2, batch_size=4, weight_decay=0.01),
    ],
)
def test_every_coalition_is_worth_what_it_reaches_alone(plan: LocalPlan) -> None:
    model, cohort = layered(), owners()
    found = retraining_worths(model, cohort, Training(plan, 9), HIDDEN, rounds=3, loss_clip=3.0)
    for mask in range(8):
        members = [i for i in range(3) if mask >> i & 1]
        params = by_hand(model, cohort, plan, members, 3) if members else model.initial()[0]
        assert found[mask] == pytest.approx(utility(model, params), abs=2e-5)


@pytest.mark.parametrize(
    ("module", "loss"),
    [
        (nn.Linear(6, 3), "cross_entropy"),
        (
            nn.Sequential(nn.Linear(6, 5, bias=False), nn.Sigmoid(), nn.Linear(5, 3, bias=False)),
            "cross_entropy",
        ),
        (nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3), nn.LogSoftmax(1)), "nll"),
        (nn.Sequential(nn.Linear(6, 5), nn.GELU(approximate="tanh"), nn.Linear(5, 3)), "cross_entropy"),
        (nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)), "cross_entropy"),
    ],
)
@pytest.mark.parametrize("weights", ["rows", "equal"])
def test_stacks_agree_with_an_engine(module: nn.Module, loss: str, weights: Any) -> None:
    model, cohort, training = build(module, loss), owners(), Training(PLAN, 9)
    stacked, one = (
        retraining_worths(
            model,
            cohort,
            training,
            HIDDEN,
            rounds=3,
            loss_clip=3.0,
            weights=weights,
            utility="both",
            engine=e,
        )
        for e in (None, ReferenceEngine(model, cohort, training))
    )
    np.testing.assert_allclose(stacked, one, atol=2e-5)
    assert len(set(one[0].tolist())) == 8


@pytest.mark.parametrize("loss", ["mse", "l1", "huber", "bce_with_logits"])
def test_losses_of_real_targets(loss: str) -> None:
    rng = np.random.default_rng(2)
    model = build(nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2)), loss)
    parts = [Rows(rng.normal(size=(n, 6)).astype(np.float32), rng.random((n, 2))) for n in (4, 7)]
    cohort = Cohort.of([Rows(part.inputs, part.labels.astype(np.float32)) for part in parts])
    hidden = Rows(HIDDEN.inputs, rng.random((40, 2)).astype(np.float32))
    training = Training(PLAN, 9)
    stacked, one = (
        retraining_worths(model, cohort, training, hidden, rounds=2, loss_clip=3.0, engine=engine)
        for engine in (None, ReferenceEngine(model, cohort, training))
    )
    np.testing.assert_allclose(stacked, one, atol=2e-5)


def test_one_round_is_the_re_averaging_game_of_its_updates() -> None:
    model, cohort, training = layered(), owners(), Training(PLAN, 9)
    params, buffers = model.initial()
    trained = list(ReferenceEngine(model, cohort, training).train(params, buffers, np.arange(3), 0))
    updates = np.concatenate([one.updates for one in trained])
    game = CoalitionEvaluator(model, HIDDEN, loss_clip=3.0).worths(
        params, updates, sizes=cohort.counts.tolist(), game="re-averaging"
    )
    found = retraining_worths(model, cohort, training, HIDDEN, rounds=1, loss_clip=3.0)
    np.testing.assert_allclose(found, game, atol=1e-6)


def test_an_owner_whose_data_is_anothers_has_the_same_value() -> None:
    rows = owners().rows(2)
    cohort = Cohort.of([rows, owners().rows(0), rows], identities=[1, 2, 1])
    worths = retraining_worths(layered(), cohort, Training(PLAN, 9), HIDDEN, rounds=2, loss_clip=3.0)
    values = banzhaf_from_worths(worths)
    assert values[0] == pytest.approx(values[2], abs=1e-6)
    assert values[0] != pytest.approx(values[1], abs=1e-3)


def test_threads_and_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, cohort, training = layered(), owners((5, 9, 12, 3)), Training(PLAN, 9)
    whole = retraining_worths(model, cohort, training, HIDDEN, rounds=2, loss_clip=3.0)
    monkeypatch.setattr(retraining, "BLOCK", 3)
    monkeypatch.setattr(retraining, "TILE", 7)
    one, three = (
        retraining_worths(model, cohort, training, HIDDEN, rounds=2, loss_clip=3.0, threads=threads)
        for threads in (1, 3)
    )
    assert one.tobytes() == three.tobytes()
    np.testing.assert_allclose(one, whole, atol=2e-6)


def test_the_budget_is_kept() -> None:
    model = build(nn.Sequential(nn.Linear(6, 200), nn.ReLU(), nn.Linear(200, 3)))
    cohort, training = owners((4, 4, 4, 4, 4, 4)), Training(LocalPlan(epochs=1, batch_size=4), 9)
    peaks = []
    for budget in (16.0, 1.0):
        tracemalloc.start()
        retraining_worths(
            model, cohort, training, HIDDEN, rounds=2, loss_clip=3.0, budget_mib=budget, threads=4
        )
        peaks.append(tracemalloc.get_traced_memory()[1] / (1 << 20))
        tracemalloc.stop()
    assert peaks[1] < 1.0 < peaks[0] < 16.0
    with pytest.raises(ConfigRefused, match=r"budget_mib: .* 6 data owners needs 0\.\d MiB; 0\.1 allowed"):
        retraining_worths(model, cohort, training, HIDDEN, rounds=2, loss_clip=3.0, budget_mib=0.1)
    with pytest.raises(ConfigRefused, match=r"budget_mib: .* 6 data owners needs 0\.\d MiB; 0\.1 allowed"):
        retraining_worths(
            model,
            cohort,
            training,
            HIDDEN,
            rounds=2,
            loss_clip=3.0,
            budget_mib=0.1,
            engine=ReferenceEngine(model, cohort, training),
        )


@pytest.mark.parametrize("stacked", [True, False])
def test_progress_is_told(stacked: bool) -> None:
    model, cohort, training = layered(), owners(), Training(PLAN, 9)
    told: list[tuple[int, int]] = []
    retraining_worths(
        model,
        cohort,
        training,
        HIDDEN,
        rounds=2,
        loss_clip=3.0,
        engine=None if stacked else ReferenceEngine(model, cohort, training),
        report=lambda done, total: told.append((done, total)),
    )
    assert told == sorted(told)
    assert told[-1] == (8, 8)


@pytest.mark.parametrize("threads", [1, 2])
def test_an_interrupt_is_passed_on(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retraining, "BLOCK", 1)
    done = []

    def report(finished: int, _total: int) -> None:
        done.append(finished)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        retraining_worths(
            layered(),
            owners(),
            Training(PLAN, 9),
            HIDDEN,
            rounds=2,
            loss_clip=3.0,
            threads=threads,
            report=report,
        )
    assert done == [2]


@pytest.mark.parametrize("stacked", [True, False])
@pytest.mark.parametrize(("round_index", "name"), [(0, "round 1, owner 1"), (1, r"\[1\], round 2, owner 1")])
def test_training_that_diverges_is_named(stacked: bool, round_index: int, name: str) -> None:
    """Owner 1 has rows that make any model explode, in the first round or in the second."""
    model = build(nn.Linear(6, 3), "mse")
    size = 1e25 if round_index == 0 else 1e6
    parts = [
        Rows(np.full((4, 6), value, np.float32), np.zeros((4, 3), np.float32)) for value in (0.1, size, 0.2)
    ]
    cohort, training = Cohort.of(parts), Training(LocalPlan(learning_rate=0.1, epochs=1, batch_size=2), 9)
    hidden = Rows(HIDDEN.inputs, np.zeros((40, 3), np.float32))
    with pytest.raises(DataRefused, match=name):
        retraining_worths(
            model,
            cohort,
            training,
            hidden,
            rounds=3,
            loss_clip=3.0,
            engine=None if stacked else ReferenceEngine(model, cohort, training),
        )


def test_a_utility_that_is_not_finite_is_an_error() -> None:
    hidden = Rows(np.where(np.arange(40)[:, None] == 3, np.nan, HIDDEN.inputs), HIDDEN.labels)
    with pytest.raises(DataRefused, match=r"utility of coalition \[\]"):
        retraining_worths(layered(), owners(), Training(PLAN, 9), hidden, rounds=1, loss_clip=3.0)


@pytest.mark.parametrize(
    ("options", "error", "field"),
    [
        ({"rounds": 0}, ConfigRefused, "rounds"),
        ({"rounds": 1.5}, ConfigRefused, "rounds"),
        ({"loss_clip": -1.0}, ConfigRefused, "loss_clip"),
        ({"weights": "loss"}, ConfigRefused, "weights: must be one of rows, equal"),
        ({"utility": "auc"}, ConfigRefused, "utility: must be one of"),
        ({"threads": 0}, ConfigRefused, "threads"),
        ({"budget_mib": -1}, ConfigRefused, "budget_mib"),
        ({"training": Training(LocalPlan(epochs=1_000_000, batch_size=4), 9)}, ConfigRefused, "epochs: must"),
        ({"cohort": owners((1,) * 21)}, ConfigRefused, "owners: .* at most 20"),
        (
            {"cohort": Cohort.of([Rows(np.ones((2, 6), np.float32), np.array([0, 3]))])},
            DataRefused,
            "labels: class numbers",
        ),
        ({"cohort": Cohort.of([Rows(np.ones((2, 5), np.float32), np.array([0, 1]))])}, DataRefused, "input"),
        ({"rows": Rows(HIDDEN.inputs, HIDDEN.labels[:7])}, DataRefused, "labels: must be 40"),
        ({"rows": Rows(HIDDEN.inputs[:0], HIDDEN.labels[:0])}, DataRefused, "rows: at least one"),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, Any], error: type[Exception], field: str) -> None:
    given: dict[str, Any] = {
        "cohort": owners(),
        "training": Training(PLAN, 9),
        "rows": HIDDEN,
        "rounds": 2,
        "loss_clip": 3.0,
    }
    with pytest.raises(error, match=field):
        retraining_worths(layered(), **{**given, **options})
