"""The workers engine: the reference's bytes from any number of processes, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from galaxylearning.engines import workers as workers_module
from galaxylearning.engines.cohort import Cohort
from galaxylearning.engines.engine import Engine, Training
from galaxylearning.engines.reference import ReferenceEngine
from galaxylearning.engines.workers import WorkerEngine
from galaxylearning.errors import ConfigRefused, DataRefused, GraphRefused, UpdateRefused
from galaxylearning.graph import ModelGraph, compile_model, weights_to_bytes
from galaxylearning.learning.local import LocalResult, train_local
from galaxylearning.learning.plan import LocalPlan
from galaxylearning.protocol.hidden_set import Rows
from worker_cases import PLAN, Net, cohort, compiled_net, everything, model, numbers


@pytest.fixture(scope="module")
def made() -> tuple[ModelGraph, bytes]:
    return compiled_net()


def rounds(engine: Engine, start: tuple[np.ndarray, np.ndarray], owners: list[int]) -> list[object]:
    params, buffers = start
    found = []
    for round_index in range(2):
        found.append(everything(engine.train(params, buffers, np.array(owners), round_index)))
        params = params + np.float32(0.01)
    return list(found)


# ---- the same bytes


@pytest.mark.parametrize(
    ("plan", "sizes"),
    [
        (PLAN, [(1, 64), (2, 2)]),
        (
            LocalPlan(
                optimizer="adam", learning_rate=0.01, steps=5, batch_size=3, prox_mu=0.1, weight_decay=0.1
            ),
            [(3, 2)],
        ),
        (LocalPlan(learning_rate=0.2, epochs=1, batch_size=4, order="stored"), [(2, 64)]),
    ],
    ids=["momentum", "adam", "stored"],
)
def test_bytes_are_the_references_for_any_number_of_workers(
    made: tuple[ModelGraph, bytes],
    plan: LocalPlan,
    sizes: list[tuple[int, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    training = Training(plan, 2**200 + 5)
    flat = model(made)
    expected = rounds(ReferenceEngine(flat, cohort(), training), flat.initial(), [4, 0, 2, 5, 1, 3])
    for workers, chunk in sizes:
        monkeypatch.setattr(workers_module, "MAX_CHUNK", chunk)
        with WorkerEngine(*made, cohort(), training, workers=workers) as engine:
            assert rounds(engine, flat.initial(), [4, 0, 2, 5, 1, 3]) == expected
            assert engine.ready() == workers
            assert everything(engine.train(*flat.initial(), numbers(), 0)) == []


def test_a_bound_gradient_is_the_gradient_of_those_rows(made: tuple[ModelGraph, bytes]) -> None:
    flat = model(made)
    rows, params, buffers = cohort().rows(2), *flat.initial()
    chosen, labels = numbers(5, 0, 11), rows.labels.copy()
    part = rows.take(chosen)
    expected = flat.gradient(params, buffers, (part.inputs,), part.labels, rng=np.random.default_rng(1))
    labels[7] = 3  # never used
    rows.inputs.setflags(write=False)
    for held in (rows.labels, labels):
        bound = flat.bind((rows.inputs,), held)
        for _ in range(2):
            loss, gradient, after = bound(params, buffers, chosen, np.random.default_rng(1))
            assert loss == expected[0]
            assert gradient.tobytes() == expected[1].tobytes()
            assert after.tobytes() == expected[2].tobytes()
    for outside in (12, -1):
        with pytest.raises(IndexError):
            bound(params, buffers, numbers(outside), np.random.default_rng(1))
    with pytest.raises(DataRefused, match=r"must be in \[0, 2\]"):
        bound(params, buffers, numbers(0, 7), np.random.default_rng(1))
    with pytest.raises(DataRefused, match="one entry for each of 12 rows"):
        flat.bind((rows.inputs,), rows.labels[:-1])


def test_a_gradient_that_is_large_but_finite_is_taken() -> None:
    huge = np.full(3, 1e30, np.float32)  # the sum of its squares is not finite
    plan, none = LocalPlan(learning_rate=0.5, steps=1), np.zeros(0, np.float32)

    def train() -> LocalResult:
        start, rng = np.zeros(3, np.float32), np.random.default_rng(0)
        return train_local(lambda *_: (0.0, huge, none), start, none, 4, plan, rng=rng)

    assert train().update.tolist() == (np.float32(-0.5) * huge).tolist()
    huge[2] = np.inf
    with pytest.raises(UpdateRefused, match="gradient at step 1: must be finite"):
        train()


def test_an_abandoned_round_leaves_no_trace(
    made: tuple[ModelGraph, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers_module, "MAX_CHUNK", 1)
    flat, training = model(made), Training(PLAN, 1)
    params, buffers = flat.initial()
    with WorkerEngine(*made, cohort(), training, workers=2) as engine:
        abandoned = engine.train(params + 1, buffers, numbers(0, 1, 2, 3, 4), 0)
        next(abandoned)
        got = everything(engine.train(params, buffers, numbers(3, 4), 1))
        with pytest.raises(ValueError, match="another round has begun"):
            next(abandoned)
    reference = ReferenceEngine(flat, cohort(), training)
    assert got == everything(reference.train(params, buffers, numbers(3, 4), 1))


# ---- what is refused


def test_wrong_vectors_and_owners_are_programmer_mistakes(made: tuple[ModelGraph, bytes]) -> None:
    params, buffers = model(made).initial()
    with WorkerEngine(*made, cohort(), Training(PLAN, 1), workers=1) as engine:
        wrongs: list[Any] = [params[:-1], params.astype(np.float64), params[None]]
        for wrong in wrongs:
            with pytest.raises(ValueError, match="params must be a float32 array"):
                engine.train(wrong, buffers, numbers(0), 0)
        with pytest.raises(ValueError, match="buffers must be a float32 array"):
            engine.train(params, buffers[1:], numbers(0), 0)
        for owners in (numbers(6), numbers(-1)):
            with pytest.raises(ValueError, match=r"owners must lie in 0\.\.5"):
                engine.train(params, buffers, owners, 0)
        with pytest.raises(ValueError, match="once"):
            engine.train(params, buffers, numbers(2, 2), 0)
        with pytest.raises(ValueError, match="int64"):
            engine.train(params, buffers, np.array([0.0]), 0)
    with pytest.raises(ValueError, match="the engine is closed"):
        next(engine.train(params, buffers, numbers(0), 0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"workers": 0}, "workers must be from 1 to 1024"),
        ({"workers": True}, "workers must be an integer"),
        ({"budget_mib": 0}, r"budget_mib must be in \[1"),
        (
            {"budget_mib": 100},
            r"memory budget: 1 worker of this model would need \d+ MiB, the budget is 100 MiB",
        ),
        ({"workers": 6, "budget_mib": 300}, r"6 workers of this model would need 3\d\d MiB"),
        ({"stall_s": 0}, "stall_s must be in"),
    ],
)
def test_settings_are_refused_by_name(
    made: tuple[ModelGraph, bytes], settings: dict[str, float], message: str
) -> None:
    with pytest.raises(ConfigRefused, match=message):
        WorkerEngine(*made, cohort(), Training(PLAN, 1), **settings)  # type: ignore[arg-type]


def test_state_that_stays_with_an_owner_is_refused_by_name() -> None:
    sample = torch.randn(4, 1, 6, 6)
    graph, weights = compile_model(
        Net(), (sample,), loss="cross_entropy", federate={"norm.running_mean": "keep_local"}
    )
    with pytest.raises(ConfigRefused, match=r"buffer norm\.running_mean stays with its data owner"):
        WorkerEngine(graph, weights_to_bytes(graph, weights), cohort(), Training(PLAN, 1))


def test_rows_that_are_no_numbers_are_refused(made: tuple[ModelGraph, bytes]) -> None:
    pool = Rows(np.array([["a"], ["b"]]), np.array([0, 1]))
    strings = Cohort(pool, numbers(0, 1), numbers(0, 2))
    with pytest.raises(DataRefused, match="inputs: must be numbers"):
        WorkerEngine(*made, strings, Training(PLAN, 1))


def test_activations_are_metered_before_the_model_is_built() -> None:
    wide = nn.Sequential(nn.Conv2d(1, 64, 1), nn.Tanh(), nn.Flatten(), nn.Linear(64 * 36, 3))
    graph, weights = compile_model(wide, (torch.randn(4, 1, 6, 6),), loss="cross_entropy")
    many = cohort((20_000,))
    whole = Training(replace(PLAN, batch_size=20_000), 1)
    with WorkerEngine(graph, weights_to_bytes(graph, weights), many, whole, workers=1) as engine:
        with pytest.raises(ConfigRefused, match=r"1 worker of this model would need 1\d\d\d MiB"):
            engine.ready()
        assert engine.pids[1:] == ()


def test_weights_of_another_graph_are_refused_when_the_model_is_built(made: tuple[ModelGraph, bytes]) -> None:
    graph, data = made
    with (
        WorkerEngine(graph, data[:-1], cohort(), Training(PLAN, 1)) as engine,
        pytest.raises(GraphRefused, match="weights: "),
    ):
        engine.ready()


def test_without_the_tensor_library_it_says_so(
    made: tuple[ModelGraph, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('not here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with (
        WorkerEngine(*made, cohort(), Training(PLAN, 1)) as engine,
        pytest.raises(ConfigRefused, match="needs PyTorch, which cannot be loaded: not here"),
    ):
        engine.ready()


def test_errors_in_training_are_the_references(made: tuple[ModelGraph, bytes]) -> None:
    flat, owners = model(made), numbers(1, 0, 2)
    params, buffers = flat.initial()
    wild = Training(replace(PLAN, learning_rate=1e3, epochs=40), 1)
    with WorkerEngine(*made, cohort(), wild, workers=2) as engine:
        got = everything(engine.train(params * np.float32(1e30), buffers, owners, 0))
    expected = everything(
        ReferenceEngine(flat, cohort(), wild).train(params * np.float32(1e30), buffers, owners, 0)
    )
    assert got == expected
    assert all(failure is not None and "step" in failure for *_, failure in got)
    pool = cohort().pool
    labels = pool.labels.copy()
    labels[9] = 3
    bad = replace(cohort(), pool=Rows(pool.inputs, labels))
    with WorkerEngine(*made, bad, Training(PLAN, 1), workers=2) as engine:
        with pytest.raises(DataRefused, match=r"class numbers must be in \[0, 2\]"):
            list(engine.train(params, buffers, owners, 0))
        assert len(everything(engine.train(params, buffers, numbers(1, 0), 0))) == 2
