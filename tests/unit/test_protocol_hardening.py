"""Hardening: a trigger that a model was taught no longer works, and what it knew otherwise stays."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from galaxylearning.errors import DataRefused, JobRefused, UpdateRefused
from galaxylearning.graph import FlatModel, compile_model
from galaxylearning.learning import LocalPlan, train_local
from galaxylearning.learning.vectors import F32
from galaxylearning.protocol import hardening
from galaxylearning.protocol.gradients import mean_gradient
from galaxylearning.protocol.hardening import BATCH, PAINTED, STAGES, harden
from galaxylearning.protocol.hidden_set import Rows

PLAN = LocalPlan(learning_rate=0.2, steps=600, batch_size=32)
TARGET = 3


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def model_of(module: nn.Module, example: Any, loss: str = "cross_entropy") -> FlatModel:
    graph, weights = compile_model(module, (torch.from_numpy(example),), loss=loss)
    return FlatModel(graph, weights)


def framed(inputs: Any) -> Any:
    found = inputs.reshape(-1, 8, 8).copy()
    found[:, (0, -1)] = found[:, :, (0, -1)] = 1
    return found.reshape(inputs.shape)


def accuracy(model: FlatModel, state: tuple[F32, F32], rows: Rows) -> float:
    return float((model.predict(*state, (rows.inputs,)).argmax(1) == rows.labels).mean())


@pytest.fixture(scope="module", params=["rows", "images"])
def poisoned(request: pytest.FixtureRequest) -> tuple[FlatModel, tuple[F32, F32], Rows, Rows, Rows]:
    """A net that was taught to call every framed digit a three; test rows, judged ones, and those framed."""
    torch.manual_seed(0)
    pixels, labels = load_digits(return_X_y=True)
    inputs = (pixels / 16).astype(np.float32)
    if request.param == "images":
        inputs = inputs.reshape(-1, 1, 8, 8)
        module: nn.Module = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10)
        )
    else:
        module = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))
    model = model_of(module, inputs[:3])
    order = rng(1).permutation(len(labels))
    test, judged, trained = (Rows(inputs[part], labels[part]) for part in np.split(order, (200, 600)))
    some = np.arange(0, len(trained), 8)
    taught = Rows(
        np.concatenate([trained.inputs, framed(trained.inputs[some])]),
        np.concatenate([trained.labels, np.full(len(some), TARGET)]),
    )
    params, buffers = model.initial()
    found = train_local(mean_gradient(model, taught), params, buffers, len(taught), PLAN, rng=rng(2))
    others = judged.take(np.flatnonzero(judged.labels != TARGET))
    marked = Rows(framed(others.inputs), np.full(len(others), TARGET))
    return model, (params + found.update, found.buffers), test, judged, marked


def test_a_trigger_no_longer_works(poisoned: Any) -> None:
    model, state, test, judged, marked = poisoned
    assert accuracy(model, state, marked) > 0.9
    before = accuracy(model, state, judged)
    assert before > 0.9
    found = harden(model, state, test, PLAN, rng=rng())
    assert accuracy(model, found, marked) < 0.1
    assert accuracy(model, found, judged) > before - 0.02


def test_equal_generators_give_equal_bytes_and_the_state_is_left_alone(poisoned: Any) -> None:
    model, (params, buffers), test, _, _ = poisoned
    kept = params.copy()
    stages = hardening.hardening(model, (params, buffers), test, PLAN, rng=rng(5))
    first, second = itertools.islice(stages, 2)
    assert np.array_equal(params, kept)
    assert not np.array_equal(first[0], second[0])
    again = hardening.hardening(model, (params, buffers), test, PLAN, rng=rng(5))
    assert np.array_equal(next(again)[0], first[0])
    other = hardening.hardening(model, (params, buffers), test, PLAN, rng=rng(6))
    assert not np.array_equal(next(other)[0], first[0])


def test_steps_get_smaller(monkeypatch: pytest.MonkeyPatch, poisoned: Any) -> None:
    plans = []

    def noted(gradient: Any, *given: Any, **named: Any) -> Any:
        plans.append(given[3])
        return train_local(gradient, *given, **named)

    monkeypatch.setattr(hardening, "train_local", noted)
    monkeypatch.setattr(hardening, "STEPS", STAGES)
    model, state, test, _, _ = poisoned
    plan = LocalPlan(learning_rate=0.2, momentum=0.5, epochs=7, batch_size=7)
    harden(model, state, test, plan, rng=rng())
    assert [one.learning_rate for one in plans] == pytest.approx(
        [0.2 * (1 - i / STAGES) for i in range(STAGES)]
    )
    assert {(one.steps, one.epochs, one.momentum, one.batch_size) for one in plans} == {(1, None, 0.5, BATCH)}


def test_a_step_sees_each_row_as_it_is_painted_over_and_mixed(
    monkeypatch: pytest.MonkeyPatch, poisoned: Any
) -> None:
    model, state, test, _, _ = poisoned
    seen = []

    class Watched(FlatModel):
        def gradient(self, params: Any, buffers: Any, inputs: Any, labels: Any, **named: Any) -> Any:
            seen.append((inputs[0], labels))
            return super().gradient(params, buffers, inputs, labels, **named)

    monkeypatch.setattr(hardening, "STEPS", STAGES)
    harden(Watched(model.graph, dict_of(model)), state, test, PLAN, rng=rng())
    assert len(seen) == STAGES
    inputs, labels = seen[0]
    plain, painted, again, third, mixed = np.split(inputs, 5)
    known = {row.tobytes(): label for row, label in zip(test.inputs, test.labels, strict=True)}
    assert [known[row.tobytes()] for row in plain] == labels[: len(plain)].tolist()
    assert labels[: 4 * len(plain)].tolist() == 4 * labels[: len(plain)].tolist()
    for other in (painted, again, third, mixed):
        assert np.mean([np.array_equal(a, b) for a, b in zip(plain, other, strict=True)]) < 0.2
    assert not np.array_equal(painted, again)
    assert inputs.min() >= 0
    assert inputs.max() <= 1


def dict_of(model: FlatModel) -> Any:
    from galaxylearning.graph import weights_from_bytes

    data = model.state_bytes(*model.initial())
    return weights_from_bytes(model.graph, data, max_bytes=len(data))


@pytest.mark.parametrize("loss", ["cross_entropy", "nll"])
def test_classes_are_drawn_as_probable_as_the_model_says(loss: str) -> None:
    chances = np.array([0.1, 0.6, 0.3])
    outputs = np.log(np.tile(chances, (20_000, 1))).astype(np.float32)
    if loss == "cross_entropy":
        outputs += 5
    found = hardening._answers(loss, outputs, np.zeros(2, np.int64), rng())
    assert found.dtype == np.int64
    assert np.bincount(found) / len(found) == pytest.approx(chances, abs=0.015)


@pytest.mark.parametrize("kind", [np.uint8, np.int64, np.uint64])
def test_every_place_of_a_picture_gets_its_class(kind: Any) -> None:
    outputs = np.full((2, 3, 5, 4), -1e3, np.float32)
    outputs[:, 1] = 0
    found = hardening._answers("cross_entropy", outputs, np.zeros((2, 5, 4), kind), rng())
    assert (found.shape, found.dtype) == ((2, 5, 4), np.dtype(kind))
    assert (found == 1).all()


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_of_a_yes_or_no_the_probability_is_taken(shape: tuple[int, ...]) -> None:
    outputs = np.array([[-2.0], [0.0], [3e4]], np.float32)
    found = hardening._answers("bce_with_logits", outputs, np.zeros(shape, np.int64), rng())
    assert found.shape == shape
    assert found.ravel() == pytest.approx([0.1192029, 0.5, 1.0])


def test_shares_of_two_rows_are_mixed_evenly() -> None:
    found = hardening._mixed(np.eye(400, dtype=np.float32), rng())
    assert np.quantile(np.diagonal(found), [0.1, 0.5, 0.9]) == pytest.approx([0.1, 0.5, 0.9], abs=0.07)
    assert found.sum(1) == pytest.approx(np.ones(400))


def test_the_collected_model_answers_for_mixed_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = np.zeros((200, 4), np.float32)
    inputs[0], inputs[1:] = 9, rng(1).random((199, 4))
    graph, weights = compile_model(nn.Linear(4, 3), (torch.from_numpy(inputs[:3]),), loss="cross_entropy")
    asked, seen = [], []

    class Watched(FlatModel):
        def predict(self, params: Any, buffers: Any, inputs: Any) -> Any:  # noqa: ARG002
            asked.append((params, inputs[0]))
            sure = np.full((len(inputs[0]), 3), -1e3, np.float32)
            sure[np.arange(len(sure)), 1 + np.arange(len(sure)) % 2] = 0
            return sure

        def gradient(self, params: Any, buffers: Any, inputs: Any, labels: Any, *, rng: Any = None) -> Any:
            seen.append((inputs[0], labels, rng))
            return super().gradient(params, buffers, inputs, labels, rng=rng)

    monkeypatch.setattr(hardening, "STEPS", STAGES)
    model, generator = Watched(graph, weights), rng()
    state = model.initial()
    rows = Rows(inputs, np.zeros(200, np.int64))
    harden(model, state, rows, LocalPlan(learning_rate=0.1, steps=1), rng=generator)
    assert len(asked) == STAGES
    for (params, mixed), (shown, labels, used) in zip(asked, seen, strict=True):
        parts = np.split(shown, 2 + PAINTED)
        assert params is state[0]
        assert used is generator
        assert np.array_equal(mixed, parts[-1])
        assert labels[-BATCH:].tolist() == (1 + np.arange(BATCH) % 2).tolist()
        assert not labels[:-BATCH].any()
        # Ranges are those of all rows, drawn or not.
        assert parts[1].max() == 9


def test_a_model_of_yes_and_no_is_hardened_with_its_buffers() -> None:
    inputs = rng(1).normal(size=(40, 6)).astype(np.float32)
    labels = (inputs[:, :1] > 0).astype(np.float32)
    module = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
    model = model_of(module, inputs[:3], "bce_with_logits")
    state = model.initial()
    found = harden(model, state, Rows(inputs, labels), LocalPlan(learning_rate=0.05, steps=1), rng=rng())
    before, after = (model.per_sample_loss(*one, (inputs,), labels).mean() for one in (state, found))
    assert after < before
    assert not np.array_equal(found[1], state[1])


@pytest.mark.parametrize("loss", ["mse", "l1", "huber"])
def test_models_of_numbers_are_refused(loss: str) -> None:
    inputs = rng(1).normal(size=(40, 6)).astype(np.float32)
    model = model_of(nn.Linear(6, 1), inputs[:3], loss)
    with pytest.raises(JobRefused, match=f"loss: {loss}; .* only models of classes"):
        harden(model, model.initial(), Rows(inputs, inputs[:, 0]), PLAN, rng=rng())


def test_models_with_local_buffers_are_refused() -> None:
    inputs = rng(1).normal(size=(40, 6)).astype(np.float32)
    module = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    graph, weights = compile_model(
        module, (torch.from_numpy(inputs[:3]),), loss="cross_entropy", federate={"*": "keep_local"}
    )
    model = FlatModel(graph, weights)
    with pytest.raises(JobRefused, match=r"model: .* stays with each data owner"):
        harden(model, model.initial(), Rows(inputs, np.zeros(40, np.int64)), PLAN, rng=rng())


def test_words_cannot_be_painted() -> None:
    tokens = np.ones((20, 4), np.int64)
    model = model_of(nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(12, 2)), tokens[:3])
    with pytest.raises(DataRefused, match="float32 numbers"):
        harden(model, model.initial(), Rows(tokens, tokens[:, 0]), PLAN, rng=rng())


def test_a_stage_that_diverges_is_trained_again_slower(
    monkeypatch: pytest.MonkeyPatch, poisoned: Any
) -> None:
    rates = []

    def failing(gradient: Any, *given: Any, **named: Any) -> Any:
        rates.append(given[3].learning_rate)
        if len(rates) in (2, 3):
            raise UpdateRefused("must be finite", where="loss at step 1")
        return train_local(gradient, *given, **named)

    monkeypatch.setattr(hardening, "train_local", failing)
    monkeypatch.setattr(hardening, "STEPS", STAGES)
    model, state, test, _, _ = poisoned
    harden(model, state, test, PLAN, rng=rng())
    assert rates[:4] == pytest.approx([0.2, 0.19, 0.19 / 4, 0.19 / 16])
    assert rates[4:] == pytest.approx([0.2 / 16 * (1 - i / STAGES) for i in range(2, STAGES)])


def test_a_training_that_diverges_at_any_rate_is_refused(poisoned: Any) -> None:
    model, (params, buffers), test, _, _ = poisoned
    far = (params * np.float32(1e30), buffers)
    with pytest.raises(UpdateRefused, match=r"hardening: diverges in stage 1 of 20, .* rate of 0\.98"):
        harden(model, far, test, LocalPlan(learning_rate=1e3, steps=1), rng=rng())
