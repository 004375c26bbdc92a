"""Engines are chosen by what they can run; measured only where there is a choice."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from engine_cases import cohort_of, compiled, everyone, flat_model, trained
from galaxylearning.engines import choose
from galaxylearning.engines.choose import NAMES, choose_engine, initial_vectors, seconds_per_owner
from galaxylearning.engines.cohort import Cohort
from galaxylearning.engines.debug import DebugEngine, TrainingFailed
from galaxylearning.engines.engine import Engine, Training
from galaxylearning.engines.memory import (
    available_mib,
    process_peak_mib,
    process_rss_mib,
    require_budget,
)
from galaxylearning.errors import ConfigRefused, GraphRefused
from galaxylearning.graph import compile_model, weights_to_bytes
from galaxylearning.learning import LocalPlan
from galaxylearning.protocol.hidden_set import Rows

TRAINING = Training(LocalPlan(epochs=1, batch_size=3), 5)
PLENTY = 1 << 20


def chosen(
    name: str, wanted: str = "auto", *, workers: int | None = 1, budget_mib: float = PLENTY
) -> tuple[Engine, str]:
    """The engine for an architecture, and what was reported."""
    graph, weights = compiled(name)
    lines: list[str] = []
    engine = choose_engine(
        graph,
        weights,
        cohort_of(name, [4, 2, 7]),
        TRAINING,
        wanted=wanted,
        workers=workers,
        budget_mib=budget_mib,
        report=lines.append,
    )
    assert len(lines) == 1
    return engine, lines[0]


@pytest.mark.parametrize("name", ["mlp", "low-rank-adapter"])
@pytest.mark.parametrize("workers", [1, 2, None])
def test_small_dense_graphs_are_stacked_unmeasured(name: str, workers: int | None) -> None:
    engine, report = chosen(name, workers=workers)
    assert engine.name == "stacked"
    assert report == "engine stacked"
    engine.close()


_NO_TORCH = """
import sys
from pathlib import Path
import numpy as np
from galaxylearning.engines.choose import choose_engine
from galaxylearning.engines.cohort import Cohort
from galaxylearning.engines.engine import Training
from galaxylearning.graph.decode import read_graph
from galaxylearning.graph.document import DEFAULT_LIMITS
from galaxylearning.learning.plan import LocalPlan
from galaxylearning.protocol.hidden_set import Rows

graph = read_graph(Path(sys.argv[1]).read_bytes(), DEFAULT_LIMITS)
rows = Rows(np.ones((4, 8), np.float32), np.zeros(4, np.int64))
engine = choose_engine(
    graph, Path(sys.argv[2]).read_bytes(), Cohort.of([rows] * 3), Training(LocalPlan(epochs=1), 0),
    wanted=sys.argv[3], budget_mib=4096, report=print,
)
for _ in engine.train(np.zeros(307, np.float32), np.zeros(0, np.float32), np.arange(3), 0):
    pass
engine.close()
print("torch" in sys.modules)
"""


@pytest.mark.parametrize(("wanted", "imports"), [("auto", "False"), ("reference", "True")])
def test_dense_graphs_are_chosen_for_and_trained_without_torch(
    tmp_path: Path, wanted: str, imports: str
) -> None:
    graph, weights = compiled("mlp")
    (tmp_path / "graph").write_bytes(graph.to_bytes())
    (tmp_path / "weights").write_bytes(weights)
    arguments = [sys.executable, "-c", _NO_TORCH, str(tmp_path / "graph"), str(tmp_path / "weights"), wanted]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.splitlines()[-1] == imports


def test_other_graphs_go_to_workers_where_there_are_cores() -> None:
    engine, report = chosen("group-norm-cnn", workers=2)
    assert (engine.name, report) == ("workers", "engine workers")
    engine.close()


def test_other_graphs_go_to_the_reference_on_a_single_core() -> None:
    engine, report = chosen("group-norm-cnn", workers=1)
    assert (engine.name, report) == ("reference", "engine reference")


def test_an_engine_that_cannot_falls_to_the_reference() -> None:
    torch.manual_seed(1)
    module = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    graph, weights = compile_model(
        module, (torch.randn(4, 8),), loss="cross_entropy", federate={"1.running_mean": "keep_local"}
    )
    lines: list[str] = []
    engine = choose_engine(
        graph,
        weights_to_bytes(graph, weights),
        cohort_of("mlp", [4]),
        TRAINING,
        budget_mib=PLENTY,
        workers=2,
        report=lines.append,
    )
    assert engine.name == "reference"
    assert lines[0].startswith("engine reference; workers cannot: engine workers: buffer 1.running_mean")


def test_a_heavy_dense_graph_is_measured_and_the_faster_engine_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "_HEAVY_FLOPS", 0.0)
    engine, report = chosen("mlp", workers=2)
    engine.close()
    measured = {name: float(ms) for name, ms in re.findall(r"(\w+) ([\d.e+-]+) ms an owner", report)}
    assert set(measured) == {"stacked", "workers"}
    assert engine.name == min(measured, key=lambda name: measured[name])
    assert report.startswith(f"engine {engine.name}; stacked ")


def test_a_measurement_ends_with_the_cohort() -> None:
    graph, weights = compiled("mlp")
    engine, _ = chosen("mlp", "reference")
    assert 0 < seconds_per_owner(engine, graph, weights, cohort_of("mlp", [4, 2, 7])) < 60
    alone = cohort_of("mlp", [4])
    assert seconds_per_owner(engine, graph, weights, alone) > 0


@pytest.mark.parametrize("wanted", [name for name in NAMES if name != "ray"])
def test_every_engine_can_be_asked_for_and_trains(wanted: str) -> None:
    engine, report = chosen("mlp", wanted)
    assert engine.name == wanted
    assert report.startswith(f"engine {wanted}, as asked")
    found = trained(engine, "mlp", np.arange(3, dtype=np.int64))
    assert found.steps.tolist() == [2, 1, 3]
    engine.close()
    engine.close()


def test_the_vmapped_engine_says_where_it_runs() -> None:
    _, report = chosen("mlp", "vmapped")
    where = "cuda" if torch.cuda.is_available() else "cpu"
    assert report.startswith(f"engine vmapped, as asked (vmapped on {where}")


def test_the_debug_engine_is_told_where_to_write(tmp_path: Path) -> None:
    graph, weights = compiled("mlp")
    rows = Rows(np.full((2, 8), np.nan, np.float32), np.zeros(2, np.int64))
    path = tmp_path / "failure.npz"
    lines: list[str] = []
    engine = choose_engine(
        graph,
        weights,
        Cohort.of([rows]),
        TRAINING,
        wanted="debug",
        budget_mib=PLENTY,
        report=lines.append,
        dump=path,
    )
    assert isinstance(engine, DebugEngine)
    with pytest.raises(TrainingFailed, match="owner 0, step 1"):
        trained(engine, "mlp", np.zeros(1, np.int64))
    assert path.exists()


def test_graphs_that_are_not_dense_cannot_be_stacked() -> None:
    with pytest.raises(ConfigRefused, match=r"engine stacked: cannot train this graph: .*conv2d"):
        chosen("group-norm-cnn", "stacked")


@pytest.mark.parametrize("wanted", ["", "gpu", "Stacked", "auto "])
def test_unknown_engines_are_refused(wanted: str) -> None:
    with pytest.raises(ConfigRefused, match=r"engine: .* given; allowed: auto, reference, stacked, workers"):
        chosen("mlp", wanted)


@pytest.mark.parametrize("workers", [0, -3, 1025, True])
def test_numbers_of_workers_out_of_range_are_refused(workers: int) -> None:
    with pytest.raises(ConfigRefused, match="workers must be"):
        chosen("mlp", workers=workers)


@pytest.mark.parametrize("wanted", [*NAMES, "auto"])
def test_a_budget_that_holds_nothing_is_refused(wanted: str) -> None:
    with pytest.raises(ConfigRefused, match="budget"):
        chosen("mlp", wanted, budget_mib=1e-3)


@pytest.mark.parametrize("wanted", ["reference", "vmapped", "debug"])
def test_what_an_engine_imports_counts(wanted: str, tmp_path: Path) -> None:
    graph, weights = compiled("mlp")
    (tmp_path / "graph").write_bytes(graph.to_bytes())
    (tmp_path / "weights").write_bytes(weights)
    program = _NO_TORCH.replace("budget_mib=4096", "budget_mib=32")
    arguments = [sys.executable, "-c", program, str(tmp_path / "graph"), str(tmp_path / "weights"), wanted]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False)
    assert "budget_mib: is 32 MiB; the engine's libraries alone take" in done.stderr


@pytest.mark.parametrize("budget_mib", [0.0, -5.0, float("nan")])
def test_budgets_that_are_none_are_refused(budget_mib: float) -> None:
    with pytest.raises(ConfigRefused, match="budget_mib: must be above 0 MiB"):
        available_mib(budget_mib)


def test_a_budget_leaves_what_the_process_has_not_used() -> None:
    used = process_rss_mib()
    assert 10 < used <= process_peak_mib()
    held = np.ones(64 << 20, np.uint8)
    assert process_rss_mib() >= used + 32
    assert held.all()
    assert 0 < available_mib(used + 4096) < 4096
    assert available_mib(1e-3) == 0


def test_what_does_not_fit_is_refused_with_both_figures() -> None:
    require_budget(8.0, 8.0, "a round")
    with pytest.raises(ConfigRefused, match=r"a round needs 8\.5 MiB, the budget leaves 8\.0 MiB"):
        require_budget(8.5, 8.0, "a round")
    with pytest.raises(ConfigRefused):
        require_budget(float("nan"), 8.0, "a round")


@pytest.mark.parametrize("name", ["mlp", "batch-norm-cnn", "embedding-lstm", "low-rank-adapter"])
def test_initial_vectors_need_no_tensor_library(name: str) -> None:
    graph, weights = compiled(name)
    expected = flat_model(name).initial()
    for one, other in zip(initial_vectors(graph, weights), expected, strict=True):
        assert one.dtype == np.float32
        assert np.array_equal(one, other)
    with pytest.raises(GraphRefused):
        initial_vectors(graph, weights[:-1])


def test_a_choice_covers_everyone() -> None:
    engine, _ = chosen("mlp")
    cohort = cohort_of("mlp", [4, 2, 7])
    assert trained(engine, "mlp", everyone(cohort)).owners.tolist() == [0, 1, 2]
    engine.close()
