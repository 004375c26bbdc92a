"""The debug engine names owner, step, rows and node of the first failure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from engine_cases import cohort_of, compiled, everyone, flat_model
from galaxylearning.engines.cohort import Cohort
from galaxylearning.engines.debug import DebugEngine, TrainingFailed, described, first_fault
from galaxylearning.engines.engine import Training
from galaxylearning.engines.reference import ReferenceEngine
from galaxylearning.graph import FlatModel, compile_model
from galaxylearning.learning import LocalPlan
from galaxylearning.protocol.hidden_set import Rows

STORED = LocalPlan(epochs=2, batch_size=3, order="stored", learning_rate=0.1)


def poisoned(name: str, owner: int, row: int, value: float) -> Cohort:
    """Data owners with five rows each, one element of one row replaced."""
    cohort = cohort_of(name, [5, 5, 5])
    place = cohort.index[cohort.offsets[owner] + row]
    cohort.pool.inputs[place].reshape(-1)[3] = value
    return cohort


def failure(engine: DebugEngine) -> TrainingFailed:
    """What the engine raises over the whole cohort of three."""
    params, buffers = engine._model.initial()
    with pytest.raises(TrainingFailed) as caught:
        list(engine.train(params, buffers, np.arange(3, dtype=np.int64), 0))
    return caught.value


def test_a_nan_input_is_traced_to_the_first_node_that_saw_it() -> None:
    cohort = poisoned("mlp", owner=1, row=4, value=np.nan)
    report = failure(DebugEngine(flat_model("mlp"), cohort, Training(STORED, 3))).report
    assert (report.owner, report.step, report.rows) == (1, 2, (3, 4))
    assert report.reason == "the loss is nan"
    assert report.node is not None
    assert report.node.startswith("node linear_0 (aten.linear.default): float32 [2, 16]")
    assert report.inputs.endswith("not finite: 1 of 16, at [1, 3]")
    assert report.labels.startswith("int64 [2] from ")
    assert report.parameters_norm > 0
    assert report.dump is None


def test_sound_rows_are_trained_to_the_end() -> None:
    cohort = poisoned("mlp", owner=1, row=4, value=0.5)
    engine = DebugEngine(flat_model("mlp"), cohort, Training(STORED, 3))
    params, buffers = flat_model("mlp").initial()
    found = list(engine.train(params, buffers, everyone(cohort), 0))
    assert [part.owners.tolist() for part in found] == [[0], [1], [2]]
    assert all(not part.failures for part in found)


def test_the_reference_goes_on_where_the_debug_engine_stops() -> None:
    cohort = poisoned("mlp", owner=1, row=4, value=np.nan)
    params, buffers = flat_model("mlp").initial()
    engine = ReferenceEngine(flat_model("mlp"), cohort, Training(STORED, 3))
    failures = {
        o: r for part in engine.train(params, buffers, everyone(cohort), 0) for o, r in part.failures.items()
    }
    assert failures == {1: "loss at step 2: must be finite, not nan"}


def test_batch_statistics_are_followed_in_training_mode() -> None:
    cohort = poisoned("batch-norm-cnn", owner=0, row=0, value=np.inf)
    report = failure(DebugEngine(flat_model("batch-norm-cnn"), cohort, Training(STORED, 3))).report
    assert (report.owner, report.step) == (0, 1)
    assert report.node is not None
    assert "(aten.conv2d.default)" in report.node


def test_labels_out_of_range_are_reported_with_their_rows() -> None:
    cohort = cohort_of("mlp", [5, 5, 5])
    cohort.pool.labels[cohort.index[cohort.offsets[2] + 1]] = 7
    report = failure(DebugEngine(flat_model("mlp"), cohort, Training(STORED, 3))).report
    assert (report.owner, report.step, report.rows) == (2, 1, (0, 1, 2))
    assert report.reason == "DataRefused: labels: class numbers must be in [0, 2]"
    assert report.node == "the loss (labels: class numbers must be in [0, 2])"
    assert "to 7" in report.labels


def test_parameters_that_overflow_at_the_last_step_are_reported() -> None:
    torch.manual_seed(1)
    graph, weights = compile_model(nn.Linear(4, 3), (torch.randn(4, 4),), loss="cross_entropy")
    model = FlatModel(graph, weights)
    plan = LocalPlan(steps=1, batch_size=5, learning_rate=1e3, weight_decay=1e3)
    rows = Rows(np.ones((3, 4), np.float32), np.zeros(3, np.int64))
    params, buffers = model.initial()
    engine = DebugEngine(model, Cohort.of([rows]), Training(plan, 3))
    with pytest.raises(TrainingFailed, match="parameters are not finite after step 1") as caught:
        list(engine.train(params * np.float32(1e34), buffers, np.zeros(1, np.int64), 0))
    assert caught.value.report.step == 1
    assert caught.value.report.node is None


class Rooted(nn.Module):
    """Its gradient is not finite where a parameter is zero, though its outputs are."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.scale = nn.Parameter(torch.zeros(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.linear(x) + torch.sqrt(self.scale * self.scale)
        return out


def test_a_gradient_that_is_not_finite_is_traced_backwards() -> None:
    torch.manual_seed(1)
    graph, weights = compile_model(Rooted(), (torch.randn(4, 4),), loss="cross_entropy")
    rng = np.random.default_rng(0)
    rows = [Rows(rng.standard_normal((3, 4)).astype(np.float32), rng.integers(0, 3, 3)) for _ in range(3)]
    report = failure(DebugEngine(FlatModel(graph, weights), Cohort.of(rows), Training(STORED, 0))).report
    assert "the gradient is not finite (3 of 18, at " in report.reason
    assert report.node is not None
    assert "(aten.mul.Tensor), which comes from node" in report.node
    assert report.node.endswith("(aten.sqrt.default)")


def test_a_sound_pass_has_no_fault() -> None:
    graph, weights = compiled("transformer")
    rows = cohort_of("transformer", [4]).rows(0)
    assert first_fault(graph, weights, rows, rng=np.random.default_rng(0)) is None


def test_dropout_is_drawn_again_as_it_was() -> None:
    """The mask decides which rows see the huge weight, so only the same mask finds the same fault."""
    torch.manual_seed(1)
    module = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 3))
    graph, weights = compile_model(module, (torch.randn(4, 4),), loss="cross_entropy")
    rng = np.random.default_rng(0)
    rows = [Rows(np.full((2, 4), 3e38, np.float32), rng.integers(0, 3, 2)) for _ in range(3)]
    report = failure(DebugEngine(FlatModel(graph, weights), Cohort.of(rows), Training(STORED, 0))).report
    assert report.node is not None
    assert report.node.startswith("node ")


def test_the_batch_is_written_for_reproduction(tmp_path: Path) -> None:
    cohort = poisoned("mlp", owner=1, row=4, value=np.nan)
    path = tmp_path / "deep" / "failure.npz"
    model = flat_model("mlp")
    caught = failure(DebugEngine(model, cohort, Training(STORED, 3), dump=path))
    assert caught.report.dump == str(path)
    assert f"dump: {path}" in str(caught)
    with np.load(path, allow_pickle=False) as held:
        assert held["graph"].tobytes() == model.graph.to_bytes()
        assert (int(held["owner"]), int(held["step"]), held["rows"].tolist()) == (1, 2, [3, 4])
        loss, _, _ = model.gradient(held["params"], held["buffers"], (held["inputs"],), held["labels"])
    assert np.isnan(loss)


def test_a_dump_that_cannot_be_written_hides_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    cohort = poisoned("mlp", owner=0, row=0, value=np.nan)
    path = tmp_path / "file" / "failure.npz"
    caught = failure(DebugEngine(flat_model("mlp"), cohort, Training(STORED, 3), dump=path))
    assert caught.report.owner == 0
    assert caught.report.dump is not None
    assert caught.report.dump.startswith("not written to ")


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.array([[1, 2], [3, 9]]), "int64 [2, 2] from 1 to 9, first 1, 2, 3, 9"),
        (np.array([0.5, -1.5], np.float32), "float32 [2] from -1.5 to 0.5, first 0.5, -1.5"),
        (np.array([np.nan, 1.0]), "float64 [2] from 1 to 1, first nan, 1, not finite: 1 of 2, at 0"),
        (np.array([np.inf]), "float64 [1] without a finite value, first inf, not finite: 1 of 1, at 0"),
        (np.empty((0, 3), np.float32), "float32 [0, 3]"),
    ],
)
def test_arrays_are_described_in_a_line(array: np.ndarray, text: str) -> None:
    assert described(array) == text
