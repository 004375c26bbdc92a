"""Cohorts as one batch of models: batches, precision, memory, refusals and failures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from engine_cases import cohort_of, compiled, everyone, flat_model, reference, trained
from galaxylearning.engines.batching import padded_batches, shape_of, shapes_of
from galaxylearning.engines.cohort import Cohort, owner_rng
from galaxylearning.engines.engine import TOLERANCE_LEVELS, Training
from galaxylearning.engines.lowering import Lowering, lowered
from galaxylearning.engines.measures import levels_apart
from galaxylearning.engines.reference import ReferenceEngine
from galaxylearning.engines.vmapped import VmappedEngine
from galaxylearning.errors import ConfigRefused, DataRefused, GraphRefused
from galaxylearning.graph import FlatModel, ModelGraph, compile_model, weights_to_bytes
from galaxylearning.learning import LocalPlan
from galaxylearning.learning.local import batches
from galaxylearning.protocol.hidden_set import Rows

TRAINING = Training(LocalPlan(epochs=2, batch_size=3, learning_rate=0.1), 5)


def engine_of(name: str, cohort: Cohort, training: Training = TRAINING, **options: Any) -> VmappedEngine:
    graph, weights = compiled(name)
    return VmappedEngine(graph, weights, cohort, training, device="cpu", **options)


def built(module: nn.Module, *inputs: torch.Tensor, **options: Any) -> tuple[ModelGraph, bytes]:
    graph, weights = compile_model(module, inputs, loss=options.pop("loss", "cross_entropy"), **options)
    return graph, weights_to_bytes(graph, weights)


# ---- batches


@pytest.mark.parametrize(
    "plan",
    [
        LocalPlan(epochs=2, batch_size=4),
        LocalPlan(epochs=2, batch_size=4, order="stored"),
        LocalPlan(steps=5, batch_size=4),
        LocalPlan(steps=5, batch_size=4, order="stored"),
    ],
)
def test_padded_batches_are_the_references_batches(plan: LocalPlan) -> None:
    counts = [9, 6, 5, 9, 2, 1]
    cohort = cohort_of("mlp", counts)
    steps, widths = shapes_of(cohort.counts, plan)
    order = np.argsort(-steps, kind="stable")
    expected = []
    for owner in order.tolist():
        rng = owner_rng(7, 3, cohort.identities[owner])
        start = cohort.offsets[owner]
        expected.append([cohort.index[start + rows] for rows in batches(counts[owner], plan, rng)])
        assert len(expected[-1]) == steps[owner]
        assert max(map(len, expected[-1])) == widths[owner]
    found = list(padded_batches(cohort, Training(plan, 7), order.tolist(), 3, int(widths.max())))
    assert len(found) == steps.max()
    for step, (rows, weights) in enumerate(found):
        active = [run for run in expected if len(run) > step]
        assert len(rows) == len(weights) == len(active)
        for place, run in enumerate(active):
            size = len(run[step])
            assert np.array_equal(rows[place, :size], run[step])
            assert (rows[place, size:] == run[step][0]).all()
            assert weights[place].tolist() == [np.float32(1) / np.float32(size)] * size + [0.0] * (
                rows.shape[1] - size
            )


def test_a_training_of_too_many_steps_is_refused() -> None:
    plan = LocalPlan(epochs=1_000_000, batch_size=4)
    assert shape_of(4, plan).steps == 1_000_000
    with pytest.raises(ValueError, match="at most 1000000 steps over 5 rows"):
        shape_of(5, plan)


# ---- precision


def test_bfloat16_is_taken_where_integers_do_not_notice() -> None:
    plan = LocalPlan(epochs=1, batch_size=3, learning_rate=1e-3)
    cohort, training = cohort_of("mlp", [4, 9, 2]), Training(plan, 5)
    engine = engine_of("mlp", cohort, training, precision="auto")
    assert engine.precision == "bfloat16"
    assert engine.chosen.startswith("vmapped on cpu; bfloat16 (bfloat16 moves integers by up to ")
    found = trained(engine, "mlp", everyone(cohort))
    expected = trained(reference("mlp", cohort, training), "mlp", everyone(cohort))
    assert found.updates.tobytes() != expected.updates.tobytes()
    for one, other in zip(found.updates, expected.updates, strict=True):
        assert levels_apart(one, other, 1.0) <= TOLERANCE_LEVELS


def test_float32_is_kept_where_integers_would_move() -> None:
    cohort = cohort_of("mlp", [4, 9, 2])
    engine = engine_of("mlp", cohort, precision="auto")
    assert engine.precision == "float32"
    assert "float32 (bfloat16 moves integers by up to " in engine.chosen
    asked = engine_of("mlp", cohort, precision="bfloat16")
    assert (asked.precision, asked.chosen) == ("bfloat16", "vmapped on cpu; bfloat16 as asked")


def test_only_products_lose_precision_and_settings_come_back() -> None:
    torch.manual_seed(1)
    left, right = torch.randn(6, 6), torch.randn(6, 6)
    add, matmul = torch.ops.aten.add.Tensor, torch.ops.aten.matmul.default
    exact = matmul(left, right)
    before = torch.backends.mkldnn.enabled
    with lowered("bfloat16", "grouped", is_recurrent=True) as mode:
        assert isinstance(mode, Lowering)
        assert not torch.backends.mkldnn.enabled
        product = matmul(left, right)
        assert torch.equal(add(left, right), left + right)
    assert torch.backends.mkldnn.enabled == before
    assert product.dtype == torch.float32
    assert torch.equal(product, (left.bfloat16() @ right.bfloat16()).float())
    assert torch.equal(matmul(left, right), exact)
    with lowered("float32", "grouped", is_recurrent=False) as mode:
        assert mode is None
        assert torch.equal(matmul(left, right), exact)


@pytest.mark.parametrize(
    "options", [(1, 0, 1, 1), (2, 1, 1, 1), (1, 2, 2, 1), ([2, 1], [0, 1], [1, 2], 1), (1, 1, 1, 2)]
)
def test_unfolded_convolutions_are_convolutions(options: tuple[Any, Any, Any, int]) -> None:
    torch.manual_seed(1)
    stride, padding, dilation, groups = options
    x, weight, bias = torch.randn(3, 4, 9, 8), torch.randn(6, 4 // groups, 3, 2), torch.randn(6)
    pairs = [[value, value] if isinstance(value, int) else value for value in (stride, padding, dilation)]
    convolve = torch.ops.aten.conv2d.default
    for offset in (bias, None):
        expected = convolve(x, weight, offset, *pairs, groups)
        with lowered("float32", "unfolded", is_recurrent=False) as mode:
            found = convolve(x, weight, offset, *pairs, groups)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        assert mode is not None
        assert (mode.patch_bytes > 0) == (groups == 1)


# ---- memory


def test_a_budget_too_small_for_one_owner_is_refused_with_the_figure() -> None:
    with pytest.raises(
        ConfigRefused, match=r"training one data owner needs \d+\.\d MiB, the budget leaves 0\.0 MiB"
    ):
        engine_of("transformer", cohort_of("transformer", [4]), budget_mib=0.01)


def test_chunks_and_windows_grow_with_the_budget() -> None:
    cohort = cohort_of("transformer", [3] * 40)
    sizes = [
        (engine._chunk, engine._window)
        for engine in (engine_of("transformer", cohort, budget_mib=mib) for mib in (1.0, 4.0, 1000.0))
    ]
    assert sizes == sorted(sizes)
    assert sizes[0][0] < 40
    assert sizes[2] == (40, 40)


class Tight(VmappedEngine):
    """A device on which more than two data owners do not fit."""

    def _train_chunk(self, *arguments: Any) -> None:
        if len(arguments[2]) > 2:
            raise torch.OutOfMemoryError("no more")
        super()._train_chunk(*arguments)


def test_a_device_that_runs_out_of_memory_gets_fewer_owners_at_once() -> None:
    graph, weights = compiled("mlp")
    cohort = cohort_of("mlp", [4, 2, 7, 1, 3, 5, 6])
    engine = Tight(graph, weights, cohort, TRAINING, device="cpu")
    assert engine._chunk == 7
    found = trained(engine, "mlp", everyone(cohort))
    assert engine._chunk == 1
    expected = trained(reference("mlp", cohort, TRAINING), "mlp", everyone(cohort))
    np.testing.assert_allclose(found.updates, expected.updates, rtol=1e-4, atol=1e-6)


class Full(VmappedEngine):
    """A device on which nothing fits."""

    def _train_chunk(self, *_: Any) -> None:
        raise torch.OutOfMemoryError("no more")


def test_a_device_that_holds_nobody_is_refused() -> None:
    graph, weights = compiled("mlp")
    cohort = cohort_of("mlp", [4, 2, 7])
    engine = Full(graph, weights, cohort, TRAINING, device="cpu")
    with pytest.raises(ConfigRefused, match="the device cannot hold the training of one data owner"):
        trained(engine, "mlp", everyone(cohort))


# ---- failures


def test_a_diverging_owner_fails_with_the_references_words_and_alone() -> None:
    cohort = cohort_of("mlp", [4, 9, 2])
    cohort.pool.inputs[cohort.index[cohort.offsets[1] + 2]] = np.nan
    found = trained(engine_of("mlp", cohort), "mlp", everyone(cohort))
    expected = trained(reference("mlp", cohort, TRAINING), "mlp", everyone(cohort))
    assert found.failures == expected.failures
    assert list(found.failures) == [1]
    assert not found.updates[1].any()
    assert np.isnan(found.losses[1]).all()
    assert found.steps.tolist() == expected.steps.tolist() == [4, 0, 2]
    assert found.updates[0].any()


def test_parameters_that_overflow_fail_as_at_the_reference() -> None:
    training = Training(LocalPlan(steps=60, batch_size=4, learning_rate=1e3, weight_decay=1e3), 0)
    cohort = cohort_of("mlp", [4, 2])
    found = trained(engine_of("mlp", cohort, training), "mlp", everyone(cohort))
    expected = trained(reference("mlp", cohort, training), "mlp", everyone(cohort))
    assert set(found.failures) == set(expected.failures) == {0, 1}


# ---- losses and state


@pytest.mark.parametrize("loss", ["mse", "l1", "huber", "bce_with_logits"])
@pytest.mark.parametrize("width", [1, 3])
def test_real_targets_are_taken_as_the_reference_takes_them(loss: str, width: int) -> None:
    torch.manual_seed(1)
    graph, weights = built(
        nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, width)), torch.randn(3, 5), loss=loss
    )
    rng = np.random.default_rng(0)
    rows = [
        Rows(rng.standard_normal((n, 5)).astype(np.float32), rng.random((n, width) if width > 1 else n))
        for n in (3, 7)
    ]
    cohort = Cohort.of(rows)
    engine = VmappedEngine(graph, weights, cohort, TRAINING, device="cpu")
    model = _flat(graph, weights)
    params, buffers = model.initial()
    (found,) = engine.train(params, buffers, everyone(cohort), 0)
    expected = list(ReferenceEngine(model, cohort, TRAINING).train(params, buffers, everyone(cohort), 0))
    for place, one in enumerate(expected):
        assert levels_apart(found.updates[place], one.updates[0], 1.0) <= TOLERANCE_LEVELS


def _flat(graph: ModelGraph, weights: bytes) -> FlatModel:
    from galaxylearning.graph import weights_from_bytes

    return FlatModel(graph, weights_from_bytes(graph, weights, max_bytes=len(weights)))


class Shifted(nn.Module):
    """Reads a buffer that training never changes."""

    shift: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 3)
        self.register_buffer("shift", torch.full((5,), 2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.linear(x * self.shift)
        return out


def test_buffers_that_a_round_brings_are_read_and_given_back() -> None:
    torch.manual_seed(1)
    graph, weights = built(Shifted(), torch.randn(3, 5), federate={"shift": "mean"})
    rng = np.random.default_rng(0)
    cohort = Cohort.of([Rows(rng.standard_normal((4, 5)).astype(np.float32), np.array([0, 1, 2, 0]))] * 2)
    model = _flat(graph, weights)
    params, buffers = model.initial()
    assert buffers.tolist() == [2.0] * 5
    other = buffers - np.float32(1.5)
    (found,) = VmappedEngine(graph, weights, cohort, TRAINING, device="cpu").train(
        params, other, everyone(cohort), 0
    )
    (one, _) = ReferenceEngine(model, cohort, TRAINING).train(params, other, everyone(cohort), 0)
    np.testing.assert_allclose(found.updates[0], one.updates[0], rtol=1e-4, atol=1e-7)
    assert np.array_equal(found.buffers[0], other)


# ---- refusals


class Centred(nn.Module):
    """Every row's output depends on the whole batch, without any statistics kept."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.linear(x)
        return out - out.mean(0, keepdim=True)


class Paired(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 3)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.linear(x + y)
        return out


@pytest.mark.parametrize(
    ("module", "inputs", "options", "reason"),
    [
        (nn.Sequential(nn.Linear(5, 3), nn.Dropout(0.5)), 1, {}, "draws dropout"),
        (Centred(), 1, {}, "rows of a batch influence each other"),
        (Paired(), 2, {}, "the graph takes 2 inputs"),
        (
            nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3, track_running_stats=False)),
            1,
            {},
            "influence each other",
        ),
        (Shifted(), 1, {"federate": {"shift": "keep_local"}}, "buffer shift stays with its data owner"),
    ],
)
def test_graphs_that_no_batch_of_models_can_train_are_refused(
    module: nn.Module, inputs: int, options: dict[str, Any], reason: str
) -> None:
    graph, weights = built(module, *[torch.randn(4, 5)] * inputs, **options)
    rng = np.random.default_rng(0)
    cohort = Cohort.of([Rows(rng.standard_normal((4, 5)).astype(np.float32), np.array([0, 1, 2, 0]))])
    with pytest.raises(
        ConfigRefused, match=f"engine vmapped: cannot train all data owners at once: .*{reason}"
    ):
        VmappedEngine(graph, weights, cohort, TRAINING, device="cpu")


def test_labels_out_of_range_name_the_owner() -> None:
    cohort = cohort_of("mlp", [4, 9, 2])
    cohort.pool.labels[cohort.index[cohort.offsets[1] + 2]] = 3
    with pytest.raises(DataRefused, match=r"owner 1: labels: class numbers must be in \[0, 2\]"):
        engine_of("mlp", cohort)


def test_rows_that_no_owner_has_may_be_anything() -> None:
    pool = cohort_of("mlp", [6]).pool
    pool.labels[5] = 99
    cohort = Cohort(pool, np.arange(5, dtype=np.int64), np.array([0, 3, 5], np.int64))
    assert not trained(engine_of("mlp", cohort), "mlp", everyone(cohort)).failures


def test_rows_of_another_shape_or_type_are_refused() -> None:
    for inputs in (np.zeros((4, 7), np.float32), np.zeros((4, 8))):
        cohort = Cohort.of([Rows(inputs, np.zeros(4, np.int64))])
        with pytest.raises(DataRefused, match=r"rows must be float32 \[n, 8\]"):
            engine_of("mlp", cohort)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "float16"}, "precision: must be float32, bfloat16 or auto"),
        ({"convolutions": "direct"}, "convolutions: must be grouped or unfolded"),
        ({"clip_norm": 0.0}, "clip_norm"),
        ({"budget_mib": float("nan")}, "budget_mib"),
    ],
)
def test_settings_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigRefused, match=message):
        engine_of("mlp", cohort_of("mlp", [4]), **options)


@pytest.mark.parametrize("device", ["cuda:99", "toaster", ""])
def test_devices_that_are_not_there_are_refused(device: str) -> None:
    graph, weights = compiled("mlp")
    with pytest.raises(ConfigRefused, match=r"device: .* cannot be used"):
        VmappedEngine(graph, weights, cohort_of("mlp", [4]), TRAINING, device=device)


def test_foreign_weights_are_refused() -> None:
    graph, weights = compiled("mlp")
    with pytest.raises(GraphRefused, match="weights"):
        VmappedEngine(graph, weights[:-1], cohort_of("mlp", [4]), TRAINING, device="cpu")


def test_vectors_of_a_wrong_size_or_type_are_refused() -> None:
    cohort = cohort_of("mlp", [4, 2])
    engine = engine_of("mlp", cohort)
    params, buffers = flat_model("mlp").initial()
    owners = everyone(cohort)
    wrongs: list[tuple[Any, Any, Any]] = [
        (params[1:], buffers, owners),
        (params.astype(np.float64), buffers, owners),
        (params, np.zeros(1, np.float32), owners),
        (params, buffers, owners + 1),
        (params, buffers, owners - 1),
        (params, buffers, owners.astype(np.int32)),
    ]
    for vectors in wrongs:
        with pytest.raises(ValueError, match="must"):
            list(engine.train(*vectors, 0))


# ---- measures


def test_levels_are_those_of_a_clipped_quantised_update() -> None:
    one = np.array([0.5, -0.25, 0.0], np.float32)
    assert levels_apart(one, one, 1.0) == 0
    assert levels_apart(one, one + np.array([0, 0, 3 / 32767], np.float32), 1.0) == 3
    # Both are clipped to the same vector: only the direction is left.
    assert levels_apart(one * 10, one * 20, 0.1) <= 1
