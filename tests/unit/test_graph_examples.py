"""Gradients of single samples, for every architecture: each is what that sample alone would give."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from architectures import BUILDERS, CLASSES
from galaxylearning.errors import DataRefused, GraphRefused
from galaxylearning.graph import FlatModel, compile_model

ROWS = 5
LABELS = np.arange(ROWS, dtype=np.int64) % CLASSES


def build(name: str) -> tuple[FlatModel, np.ndarray]:
    make, inputs = BUILDERS[name]
    torch.manual_seed(7)
    rows = inputs(ROWS)
    graph, weights = compile_model(make(), (rows[:4],), loss="cross_entropy")
    return FlatModel(graph, weights), rows.numpy()


def alone(model: FlatModel, rows: np.ndarray, row: int) -> np.ndarray:
    params, buffers = model.initial()
    here = slice(row, row + 1)
    rng = np.random.default_rng(3)
    return model.gradient(params, buffers, (rows[here],), LABELS[here], rng=rng)[1]


@pytest.mark.parametrize("name", [name for name in BUILDERS if "batch" not in name.lower()])
def test_each_sample_has_the_gradient_it_has_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = build(name)
    params, buffers = model.initial()
    expected = np.stack([alone(model, rows, row) for row in range(ROWS)])

    def found() -> np.ndarray:
        rng = np.random.default_rng(3)
        return model.example_gradients(params, buffers, (rows,), LABELS, rng=rng)

    scale = np.abs(expected).max()
    assert found().dtype == np.float32
    assert np.abs(found() - expected).max() < 1e-5 * scale
    if model.program.has_dropout:
        return
    # Worked off in parts, and sample by sample where nothing can be vectorised, it is the same.
    monkeypatch.setattr(model, "_rows", 2)
    assert np.abs(found() - expected).max() < 1e-5 * scale

    def refusing(*_args: object, **_named: object) -> object:
        raise RuntimeError("cannot be vectorised")

    monkeypatch.setattr("galaxylearning.graph.examples.vmap", refusing)
    assert np.abs(found() - expected).max() < 1e-5 * scale


@pytest.mark.parametrize("name", [name for name in BUILDERS if "batch" in name.lower()])
def test_batch_statistics_leave_no_sample_a_gradient_of_its_own(name: str) -> None:
    model, rows = build(name)
    params, buffers = model.initial()
    with pytest.raises(GraphRefused, match="GroupNorm or LayerNorm"):
        model.example_gradients(params, buffers, (rows,), LABELS, rng=np.random.default_rng(0))


def test_rows_and_labels_that_do_not_fit_are_refused() -> None:
    model, rows = build(next(iter(BUILDERS)))
    params, buffers = model.initial()
    rng = np.random.default_rng(0)
    for inputs, labels in ((rows[:0], LABELS[:0]), (rows, LABELS[:-1]), (rows, LABELS + CLASSES)):
        with pytest.raises(DataRefused):
            model.example_gradients(params, buffers, (inputs,), labels, rng=rng)
    with pytest.raises(ValueError, match="params must be float32"):
        model.example_gradients(params[:-1], buffers, (rows,), LABELS, rng=rng)
