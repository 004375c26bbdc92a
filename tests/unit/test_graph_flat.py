"""The bridge to numpy: flat vectors in, gradients, losses and whole states out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.errors import DataRefused, GraphRefused
from galaxylearning.graph import FlatModel, compile_model, weights_from_bytes, weights_size

ROWS = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
LABELS = np.arange(40) % 3


def build(
    module: nn.Module, loss: str = "cross_entropy", federate: dict[str, str] | None = None
) -> FlatModel:
    graph, weights = compile_model(module, (torch.from_numpy(ROWS[:4]),), loss=loss, federate=federate)
    return FlatModel(graph, weights)


@pytest.fixture(scope="module")
def plain() -> FlatModel:
    torch.manual_seed(1)
    return build(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)))


@pytest.fixture
def normed() -> FlatModel:
    torch.manual_seed(1)
    return build(nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)))


def test_vectors_are_laid_out_by_name(plain: FlatModel) -> None:
    params, buffers = plain.initial()
    assert [entry.name for entry in plain.graph.state] == ["0.bias", "0.weight", "2.bias", "2.weight"]
    assert params.dtype == np.float32
    assert (params.size, buffers.size) == (53, 0)
    weights = weights_from_bytes(plain.graph, plain.state_bytes(params, buffers), max_bytes=10_000)
    np.testing.assert_array_equal(params[:5], weights["0.bias"].detach().numpy())
    np.testing.assert_array_equal(params[5:35], weights["0.weight"].detach().numpy().ravel())


def test_the_gradient_is_that_of_finite_differences(plain: FlatModel) -> None:
    params, buffers = plain.initial()
    _, gradient, _ = plain.gradient(params, buffers, (ROWS,), LABELS)
    for index in (0, 7, 36, 50):
        step = np.zeros_like(params)
        step[index] = 1e-2
        above = plain.per_sample_loss(params + step, buffers, (ROWS,), LABELS).mean()
        below = plain.per_sample_loss(params - step, buffers, (ROWS,), LABELS).mean()
        assert gradient[index] == pytest.approx((above - below) / 2e-2, abs=2e-3)


def test_nothing_given_is_changed_and_nothing_returned_is_shared(normed: FlatModel) -> None:
    params, buffers = normed.initial()
    kept = params.copy(), buffers.copy()
    _, first, after = normed.gradient(params, buffers, (ROWS,), LABELS)
    copy = first.copy(), after.copy()
    normed.gradient(params + 1, after, (ROWS[:7],), LABELS[:7])
    np.testing.assert_array_equal(params, kept[0])
    np.testing.assert_array_equal(buffers, kept[1])
    np.testing.assert_array_equal(first, copy[0])
    np.testing.assert_array_equal(after, copy[1])


def test_read_only_and_strided_arrays_are_taken(plain: FlatModel) -> None:
    params, buffers = plain.initial()
    expected = plain.gradient(params, buffers, (ROWS,), LABELS)
    params.setflags(write=False)
    wide = np.asfortranarray(ROWS)
    wide.setflags(write=False)
    labels = np.repeat(LABELS, 2)[::2]
    got = plain.gradient(params, buffers, (wide,), labels)
    assert got[0] == expected[0]
    np.testing.assert_array_equal(got[1], expected[1])


def test_evaluation_in_batches_equals_evaluation_at_once(
    plain: FlatModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    params, buffers = plain.initial()
    losses = plain.per_sample_loss(params, buffers, (ROWS,), LABELS)
    total = plain.gradient_eval(params, buffers, (ROWS,), LABELS, clip=None)
    outputs: Any = plain.predict(params, buffers, (ROWS,))
    monkeypatch.setattr(plain, "_rows", 7)
    np.testing.assert_allclose(plain.per_sample_loss(params, buffers, (ROWS,), LABELS), losses, rtol=1e-6)
    np.testing.assert_allclose(
        plain.gradient_eval(params, buffers, (ROWS,), LABELS, clip=None), total, rtol=1e-4, atol=1e-5
    )
    again: Any = plain.predict(params, buffers, (ROWS,))
    np.testing.assert_allclose(again, outputs, rtol=1e-5)
    assert losses.dtype == total.dtype == np.float64
    assert (losses.size, total.size) == (40, 53)


def test_evaluation_gradient_is_forty_times_the_mean_gradient(plain: FlatModel) -> None:
    params, buffers = plain.initial()
    _, mean, _ = plain.gradient(params, buffers, (ROWS,), LABELS)
    total = plain.gradient_eval(params, buffers, (ROWS,), LABELS, clip=None)
    np.testing.assert_allclose(total, 40 * mean.astype(np.float64), rtol=1e-4, atol=1e-5)


def test_a_clipped_sample_contributes_nothing(plain: FlatModel) -> None:
    params, buffers = plain.initial()
    losses = plain.per_sample_loss(params, buffers, (ROWS,), LABELS)
    clip = float(np.median(losses))
    below = losses < clip
    assert 0 < below.sum() < 40
    clipped = plain.gradient_eval(params, buffers, (ROWS,), LABELS, clip=clip)
    only = plain.gradient_eval(params, buffers, (ROWS[below],), LABELS[below], clip=None)
    np.testing.assert_allclose(clipped, only, rtol=1e-4, atol=1e-5)
    none = plain.gradient_eval(params, buffers, (ROWS,), LABELS, clip=float(losses.min()) / 2)
    assert not none.any()
    with pytest.raises(ValueError, match="clip must be above 0"):
        plain.gradient_eval(params, buffers, (ROWS,), LABELS, clip=0.0)


def test_buffers_move_in_training_and_decide_evaluation(normed: FlatModel) -> None:
    params, buffers = normed.initial()
    assert buffers.tolist() == [0.0] * 5 + [1.0] * 5
    _, _, after = normed.gradient(params, buffers, (ROWS,), LABELS)
    hidden = normed.predict  # evaluation reads the buffers it is given
    assert not np.array_equal(hidden(params, buffers, (ROWS,)), hidden(params, after, (ROWS,)))
    weights = weights_from_bytes(normed.graph, normed.state_bytes(params, after), max_bytes=10_000)
    np.testing.assert_array_equal(weights["1.running_mean"].numpy(), after[:5])
    assert int(weights["1.num_batches_tracked"]) == 0


def test_local_buffers_stay_in_the_object() -> None:
    module = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    model = build(module, federate={"1.running_*": "keep_local"})
    params, buffers = model.initial()
    assert buffers.shape == (0,)
    before, digest = model.predict(params, buffers, (ROWS,)), model.digest(params, buffers)
    model.gradient(params, buffers, (ROWS,), LABELS)
    assert not np.array_equal(model.predict(params, buffers, (ROWS,)), before)
    assert model.digest(params, buffers) == digest


def test_states_travel_and_frozen_state_may_not_change() -> None:
    module = nn.Sequential(nn.Linear(6, 5).requires_grad_(False), nn.Linear(5, 3))
    model = build(module)
    params, buffers = model.initial()
    data = model.state_bytes(params + 1, buffers)
    assert len(data) == weights_size(model.graph)
    back, none = model.from_state_bytes(data)
    np.testing.assert_array_equal(back, params + 1)
    assert none.shape == (0,)
    assert model.digest(params + 1, buffers) == blake3_digest(data) != model.digest(params, buffers)
    start = data.index(b"}}") + 2
    start += -start % 8
    changed = data[:start] + bytes([data[start] ^ 1]) + data[start + 1 :]
    with pytest.raises(GraphRefused, match=r"0\.bias: must be the job's initial value"):
        model.from_state_bytes(changed)
    with pytest.raises(GraphRefused):
        model.from_state_bytes(data[:-1])
    with pytest.raises(GraphRefused, match="finite"):
        model.state_bytes(params * np.float32("nan"), buffers)


def test_equal_generators_give_equal_gradients() -> None:
    model = build(nn.Sequential(nn.Linear(6, 50), nn.Dropout(0.5), nn.Linear(50, 3)))
    params, buffers = model.initial()

    def gradient(seed: int) -> np.ndarray:
        return model.gradient(params, buffers, (ROWS,), LABELS, rng=np.random.default_rng(seed))[1]

    np.testing.assert_array_equal(gradient(1), gradient(1))
    assert not np.array_equal(gradient(1), gradient(2))
    with pytest.raises(ValueError, match="needs rng"):
        model.gradient(params, buffers, (ROWS,), LABELS)


def test_bad_data_is_refused_by_field(plain: FlatModel) -> None:
    params, buffers = plain.initial()
    bad: list[tuple[tuple[np.ndarray, ...], np.ndarray, str]] = [
        ((ROWS, ROWS), LABELS, "takes 1 inputs, not 2"),
        ((ROWS.astype(np.float64),), LABELS, "must be float32, not float64"),
        ((ROWS[:, :5],), LABELS, r"must have shape \[n, 6\]"),
        ((ROWS[0],), LABELS, r"must have shape \[n, 6\]"),
        ((np.array(1, dtype=np.float32),), LABELS, r"must have shape \[n, 6\]"),
        ((ROWS[:0],), LABELS[:0], "n >= 1"),
        ((ROWS,), LABELS[:39], "one entry for each of 40 rows"),
        ((ROWS,), LABELS.astype(np.float32), "integer class numbers"),
        ((ROWS,), LABELS - 1, r"must be in \[0, 2\]"),
        ((ROWS,), LABELS + 1, r"must be in \[0, 2\]"),
        ((ROWS,), LABELS[:, None], r"shape must be \[40\]"),
    ]
    for inputs, labels, message in bad:
        with pytest.raises(DataRefused, match=message):
            plain.gradient(params, buffers, inputs, labels)
        with pytest.raises(DataRefused, match=message):
            plain.per_sample_loss(params, buffers, inputs, labels)
        with pytest.raises(DataRefused, match=message):
            plain.gradient_eval(params, buffers, inputs, labels, clip=1.0)


def test_wrong_vectors_are_programmer_mistakes(plain: FlatModel) -> None:
    params, buffers = plain.initial()
    wrong: list[Any] = [params[:-1], params.astype(np.float64), params[None]]
    for vector in wrong:
        with pytest.raises(ValueError, match=r"params must be float32 \[53\]"):
            plain.gradient(vector, buffers, (ROWS,), LABELS)
        with pytest.raises(ValueError, match=r"params must be float32 \[53\]"):
            plain.state_bytes(vector, buffers)
    with pytest.raises(ValueError, match=r"buffers must be float32 \[0\]"):
        plain.gradient(params, params, (ROWS,), LABELS)


def test_weights_must_be_the_graphs(plain: FlatModel) -> None:
    params, buffers = plain.initial()
    weights = weights_from_bytes(plain.graph, plain.state_bytes(params, buffers), max_bytes=10_000)
    with pytest.raises(GraphRefused, match=r"0\.bias: is missing"):
        FlatModel(plain.graph, {name: tensor for name, tensor in weights.items() if name != "0.bias"})
    with pytest.raises(GraphRefused, match="not in the graph's state"):
        FlatModel(plain.graph, weights | {"extra": torch.ones(1)})
    with pytest.raises(GraphRefused, match="must have shape"):
        FlatModel(plain.graph, weights | {"0.bias": torch.ones(6)})
    with pytest.raises(GraphRefused, match="must be float32"):
        FlatModel(plain.graph, weights | {"0.bias": torch.ones(5).double()})
    with pytest.raises(GraphRefused, match="finite"):
        FlatModel(plain.graph, weights | {"0.bias": torch.full((5,), float("inf"))})


@pytest.mark.parametrize(
    ("loss", "labels"),
    [
        ("mse", ROWS[:, :1]),
        ("l1", ROWS[:, 0]),
        ("huber", ROWS[:, 0].astype(np.float64)),
        ("bce_with_logits", (ROWS[:, 0] > 0).astype(np.int64)),
    ],
)
def test_real_targets(loss: str, labels: np.ndarray) -> None:
    model = build(nn.Linear(6, 1), loss=loss)
    params, buffers = model.initial()
    value, _, _ = model.gradient(params, buffers, (ROWS,), labels)
    assert value == pytest.approx(model.per_sample_loss(params, buffers, (ROWS,), labels).mean(), rel=1e-5)
    with pytest.raises(DataRefused, match="shape must be"):
        model.gradient(params, buffers, (ROWS,), np.stack([labels, labels], 1))
    with pytest.raises(DataRefused, match="takes numbers"):
        model.gradient(params, buffers, (ROWS,), np.array(["a"] * 40))
