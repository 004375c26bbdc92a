"""What hardening a collected model gives, tells, and refuses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from galaxylearning.cli import job_hardened
from galaxylearning.cli.job_file import mean_loss
from galaxylearning.cli.job_hardened import check_job_file, hardened, told
from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.errors import ConfigRefused, DataRefused, JobRefused
from galaxylearning.graph import FlatModel, compile_model, weights_from_bytes
from galaxylearning.messages.plan import Plan
from galaxylearning.protocol import hardening
from galaxylearning.protocol.hardening import harden
from galaxylearning.protocol.hidden_set import Rows
from galaxylearning.protocol.rows import rows_to_bytes
from galaxylearning.protocol.updates import local_plan


def case(*, loss: str = "cross_entropy", seed: int = 0, words: bool = False) -> tuple[bytes, Any, Any]:
    """A model, its job's terms, and its job file compiled."""
    torch.manual_seed(0)
    inputs: Any = np.random.default_rng(0).normal(size=(80, 4)).astype(np.float32)
    first: nn.Module = nn.Linear(4, 8)
    if words:
        inputs = np.ones((80, 4), np.int64)
        first = nn.Sequential(nn.Embedding(3, 2), nn.Flatten(), nn.Linear(8, 8))
    labels = (inputs[:, 0] > 0).astype(np.int64)
    last = nn.Linear(8, 2 if loss == "cross_entropy" else 1)
    module = nn.Sequential(first, nn.BatchNorm1d(8), nn.ReLU(), last)
    graph, weights = compile_model(module, (torch.from_numpy(inputs[:3]),), loss=loss)
    model, rows = FlatModel(graph, weights), Rows(inputs, labels)
    terms = SimpleNamespace(
        graph=graph.digest.hex(),
        schema="schema",
        test_set_digest=blake3_digest(rows_to_bytes(rows)).hex(),
        seed=seed,
        plan=Plan(rounds=1, steps=1),
    )
    compiled = SimpleNamespace(graph=graph, test=rows, job=SimpleNamespace(schema="schema"))
    return model.state_bytes(*model.initial()), terms, compiled


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardening, "STEPS", hardening.STAGES)


def test_what_is_told_is_of_the_file() -> None:
    data, terms, compiled = case()
    found, facts = hardened(data, terms, compiled)
    assert found != data
    for name, written in (("before", data), ("after", found)):
        weights = weights_from_bytes(compiled.graph, written, max_bytes=len(written))
        model, rows = FlatModel(compiled.graph, weights), compiled.test
        losses = model.per_sample_loss(*model.initial(), (rows.inputs,), rows.labels)
        right = model.predict(*model.initial(), (rows.inputs,)).argmax(1) == rows.labels
        assert facts[name] == {"loss": pytest.approx(losses.mean()), "accuracy": right.mean()}
    assert facts["test_rows"] == 80
    shown = told(facts)
    assert f"loss {facts['before']['loss']:.4f} before, {facts['after']['loss']:.4f} after" in shown
    assert f"accuracy {facts['before']['accuracy']:.4f} before" in shown
    assert told(None) == "no; see --harden"


def test_the_jobs_seed_decides() -> None:
    first, again, other = (hardened(*case(seed=seed))[0] for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_it_is_trained_to_the_last_stage() -> None:
    data, terms, compiled = case()
    model = FlatModel(compiled.graph, weights_from_bytes(compiled.graph, data, max_bytes=len(data)))
    rng = np.random.default_rng([terms.seed, 0x4A2D])
    last = harden(model, model.initial(), compiled.test, local_plan(terms.plan), rng=rng)
    assert hardened(data, terms, compiled)[0] == model.state_bytes(*last)


def test_nothing_is_said_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    hardened(*case())
    assert capsys.readouterr() == ("", "")


def test_losses_that_are_told_are_finite() -> None:
    losses = np.array([1, np.nan, np.inf, 30])
    model: Any = SimpleNamespace(per_sample_loss=lambda *_: losses)
    nothing = np.zeros(0, np.float32)
    assert mean_loss(model, Rows(losses, losses), (nothing, nothing), 8.0) == 25 / 4


def test_no_accuracy_without_classes() -> None:
    assert hardened(*case(loss="bce_with_logits"))[1]["after"].keys() == {"loss"}


def test_large_models_get_smaller_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    data, terms, compiled = case()
    sizes = set()

    class Watched(FlatModel):
        def gradient(self, params: Any, buffers: Any, inputs: Any, *given: Any, **named: Any) -> Any:
            sizes.add(len(inputs[0]))
            return super().gradient(params, buffers, inputs, *given, **named)

    monkeypatch.setattr(job_hardened, "FlatModel", Watched)
    hardened(data, terms, compiled)
    assert sizes == {160}
    monkeypatch.setattr(job_hardened, "MOST_BYTES", 1)
    sizes.clear()
    hardened(data, terms, compiled)
    assert sizes == {10}


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("graph", "00" * 32, "its model is not this job's"),
        ("schema", "another", "its schema is not this job's"),
        ("test_set_digest", "00" * 32, "its test rows are not this job's"),
    ],
)
def test_another_jobs_file_is_refused(field: str, value: str, said: str) -> None:
    _, terms, compiled = case()
    check_job_file(terms, compiled, "job.py")
    setattr(terms, field, value)
    with pytest.raises(ConfigRefused, match=f"job.py: {said}"):
        check_job_file(terms, compiled, "job.py")


def test_what_cannot_be_hardened_is_refused_before_anything_is_trained() -> None:
    _, terms, compiled = case(loss="mse")
    with pytest.raises(JobRefused, match="only models of classes"):
        check_job_file(terms, compiled, "job.py")
    _, terms, compiled = case(words=True)
    with pytest.raises(DataRefused, match="float32 numbers"):
        check_job_file(terms, compiled, "job.py")
