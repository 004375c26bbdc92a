"""The stacked engine gives what the reference gives, within its budget, whatever is computed together."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from galaxylearning.engines import stacked
from galaxylearning.engines.cohort import Cohort
from galaxylearning.engines.engine import TOLERANCE_LEVELS, Training
from galaxylearning.engines.reference import ReferenceEngine
from galaxylearning.engines.stacked import StackedEngine, needed_mib
from galaxylearning.engines.stacked_layout import PADDING, Schedule, grouped
from galaxylearning.errors import ConfigRefused, DataRefused, GraphRefused
from galaxylearning.graph.dense import DenseModel, DenseProgram
from galaxylearning.graph.document import LOSS_NAMES, VERSION, Input, ModelGraph, Node, Ref, StateEntry
from galaxylearning.graph.flat import FlatModel
from galaxylearning.graph.labels import CLASS_LOSSES
from galaxylearning.learning.local import batches
from galaxylearning.learning.plan import LocalPlan
from galaxylearning.learning.quantise import Quantizer, quantise_rows
from galaxylearning.protocol.hidden_set import Rows

Weights = dict[str, npt.NDArray[np.float32]]
Result = dict[str, npt.NDArray[Any]]
CURVES = ("relu", "tanh", "sigmoid", "silu", "gelu", "softplus")
NO_BUFFERS = np.empty(0, np.float32)


def perceptron(widths: Sequence[int], curve: str = "relu", loss: str = "cross_entropy") -> ModelGraph:
    """A graph of linear layers with a curve between them."""
    state, nodes, last = [], [], Ref("input", "x")
    for i, (inputs, outputs) in enumerate(pairwise(widths)):
        names = (f"{i}.bias", f"{i}.weight")
        for name, shape in zip(names, ((outputs,), (outputs, inputs)), strict=True):
            state.append(StateEntry(name, "parameter", True, "mean", "float32", shape))
        args = (last, Ref("state", names[1]), Ref("state", names[0]))
        nodes.append(Node(f"linear{i}", "aten.linear.default", args))
        last = Ref("node", f"linear{i}")
        if i < len(widths) - 2:
            nodes.append(Node(f"curve{i}", f"aten.{curve}.default", (last,)))
            last = Ref("node", f"curve{i}")
    return ModelGraph(
        VERSION, (Input("x", "float32", (None, widths[0])),), tuple(state), tuple(nodes), (last,), loss
    )


def weights_of(graph: ModelGraph, seed: int = 0) -> Weights:
    rng = np.random.default_rng(seed)
    return {
        e.name: (rng.normal(size=e.shape) / np.sqrt(max(1, e.shape[-1]))).astype(np.float32)
        for e in graph.state
    }


def owners_of(graph: ModelGraph, sizes: Sequence[int], seed: int = 1) -> Cohort:
    program = DenseProgram.of(graph)
    assert program is not None
    rng = np.random.default_rng(seed)
    rows = []
    for size in sizes:
        inputs = rng.normal(size=(size, *program.input_shape)).astype(np.float32)
        if graph.loss in CLASS_LOSSES:
            rows.append(Rows(inputs, rng.integers(0, program.outputs_count, size)))
        else:
            rows.append(Rows(inputs, rng.random((size, program.outputs_count)).astype(np.float32)))
    return Cohort.of(rows)


def engine_of(
    graph: ModelGraph, cohort: Cohort, plan: LocalPlan, *, budget_mib: float = 256, threads: int = 1
) -> StackedEngine:
    program = DenseProgram.of(graph)
    assert program is not None
    return StackedEngine(
        program, weights_of(graph), cohort, Training(plan, 3), budget_mib=budget_mib, threads=threads
    )


def reference_of(graph: ModelGraph, cohort: Cohort, plan: LocalPlan) -> ReferenceEngine:
    tensors = {name: torch.from_numpy(array) for name, array in weights_of(graph).items()}
    return ReferenceEngine(FlatModel(graph, tensors), cohort, Training(plan, 3))


def start_of(graph: ModelGraph) -> npt.NDArray[np.float32]:
    return DenseModel(graph, weights_of(graph)).initial()[0]


def trained(
    engine: StackedEngine | ReferenceEngine,
    graph: ModelGraph,
    owners: npt.NDArray[np.int64],
    round_index: int = 0,
    start: npt.NDArray[np.float32] | None = None,
) -> Result:
    """Everything an engine gives for some owners, joined."""
    parts: dict[str, list[npt.NDArray[Any]]] = {}
    failures: dict[int, str] = {}
    begin = start_of(graph) if start is None else start
    for found in engine.train(begin, NO_BUFFERS, owners, round_index):
        for field in ("owners", "updates", "buffers", "steps", "losses"):
            parts.setdefault(field, []).append(getattr(found, field).copy())
        failures.update(found.failures)
    joined = {field: np.concatenate(arrays) for field, arrays in parts.items()}
    return {**joined, "failures": np.array(sorted(failures.items()), dtype=object)}


def assert_agree(left: Result, right: Result) -> None:
    quantizer = Quantizer(16, 0.5)
    one, two = (quantise_rows(r["updates"], quantizer, 1.0).astype(np.int64) for r in (left, right))
    assert int(np.abs(one - two).max()) <= TOLERANCE_LEVELS
    np.testing.assert_array_equal(left["owners"], right["owners"])
    np.testing.assert_array_equal(left["steps"], right["steps"])
    np.testing.assert_allclose(left["losses"], right["losses"], rtol=2e-4, atol=2e-5)
    assert left["buffers"].shape == right["buffers"].shape


def plans() -> st.SearchStrategy[LocalPlan]:
    def build(
        optimizer: str, is_counted: bool, length: int, batch: int, order: str, extras: tuple[float, ...]
    ) -> LocalPlan:
        decay, prox, momentum = extras
        is_adam = optimizer == "adam"
        return LocalPlan(
            optimizer="adam" if is_adam else "sgd",
            learning_rate=0.01 if is_adam else 0.2,
            momentum=0.0 if is_adam else momentum,
            weight_decay=decay,
            prox_mu=prox,
            epsilon=1e-3,
            steps=length if is_counted else None,
            epochs=None if is_counted else length,
            batch_size=batch,
            order="stored" if order == "stored" else "shuffled",
        )

    return st.builds(
        build,
        st.sampled_from(["sgd", "adam"]),
        st.booleans(),
        st.integers(1, 3),
        st.integers(1, 9),
        st.sampled_from(["stored", "shuffled"]),
        st.tuples(st.sampled_from([0.0, 0.1]), st.sampled_from([0.0, 0.3]), st.sampled_from([0.0, 0.9])),
    )


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    widths=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    last=st.integers(1, 4),
    curve=st.sampled_from(CURVES),
    loss=st.sampled_from(LOSS_NAMES),
    plan=plans(),
    sizes=st.lists(st.integers(1, 20), min_size=1, max_size=8),
)
def test_agrees_with_the_reference(
    widths: list[int], last: int, curve: str, loss: str, plan: LocalPlan, sizes: list[int]
) -> None:
    graph = perceptron([*widths, last + (loss in CLASS_LOSSES)], curve, loss)
    cohort = owners_of(graph, sizes)
    owners = np.random.default_rng(len(sizes)).permutation(len(sizes)).astype(np.int64)
    engine, reference = engine_of(graph, cohort, plan), reference_of(graph, cohort, plan)
    for round_index in (0, 1, 2):
        assert_agree(
            trained(engine, graph, owners, round_index), trained(reference, graph, owners, round_index)
        )


def test_rows_kept_between_rounds_are_those_of_every_round() -> None:
    graph = perceptron((5, 4, 3))
    cohort, plan = owners_of(graph, [3, 11, 7, 2]), LocalPlan(epochs=2, batch_size=4, order="stored")
    engine, reference = engine_of(graph, cohort, plan), reference_of(graph, cohort, plan)
    everyone, start = np.arange(4), start_of(graph)
    for round_index in range(5):
        found = trained(engine, graph, everyone, round_index, start)
        assert_agree(found, trained(reference, graph, everyone, round_index, start))
        start = start + found["updates"].mean(0)
    assert [len(kept.passes.schedule.steps) for kept in engine._kept.values()] == [4]
    # Others in between take no notice of what was kept, and the kept rows stay right.
    some = np.array([2, 0])
    assert_agree(trained(engine, graph, some, 9), trained(reference, graph, some, 9))
    assert_agree(trained(engine, graph, everyone, 10), trained(reference, graph, everyone, 10))


def test_rows_kept_for_others_make_room() -> None:
    graph = perceptron((200, 3))
    cohort, plan = owners_of(graph, [8] * 120), LocalPlan(steps=1, batch_size=8)
    engine = engine_of(graph, cohort, plan, budget_mib=2)
    whole, fresh = engine._spare, engine_of(graph, cohort, plan, budget_mib=2)
    some, others = np.arange(60), np.arange(60, 120)
    for owners in (some, others):
        for round_index in range(4):
            found = trained(engine, graph, owners, round_index)
        kept = np.concatenate([np.frombuffer(key, np.int64) for key in engine._kept])
        assert set(kept.tolist()) <= set(owners.tolist())
        assert len(kept) > 30
        assert engine._spare == pytest.approx(whole - sum(held.bytes for held in engine._kept.values()))
        assert_agree(found, trained(fresh, graph, owners, 3))


def test_shuffled_rows_are_never_kept_unless_one_batch_holds_them() -> None:
    graph, sizes = perceptron((5, 3)), [3, 9, 5]
    for batch_size, kept in ((4, 0), (9, 1)):
        engine = engine_of(graph, owners_of(graph, sizes), LocalPlan(epochs=2, batch_size=batch_size))
        for round_index in range(3):
            trained(engine, graph, np.arange(3), round_index)
        assert len(engine._kept) == kept


def test_the_budget_cuts_chunks_and_changes_nothing_else() -> None:
    graph = perceptron((20, 30, 3))
    cohort, plan = owners_of(graph, [1 + i % 9 for i in range(40)]), LocalPlan(epochs=2, batch_size=4)
    program = DenseProgram.of(graph)
    assert program is not None
    least = needed_mib(program, cohort, plan)
    owners = np.arange(40)[::-1].copy()
    whole = trained(engine_of(graph, cohort, plan), graph, owners)
    for budget in (least, 6 * least, 20 * least):
        engine = engine_of(graph, cohort, plan, budget_mib=budget)
        sizes = [len(found.owners) for found in engine.train(start_of(graph), NO_BUFFERS, owners, 0)]
        assert max(sizes) < 40
        assert (max(sizes) == 1) == (budget == least)
        assert_agree(trained(engine, graph, owners), whole)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize(("widths", "sizes"), [((200, 3), [9, 40] * 20), ((3, 300, 3), [1, 2, 40] * 20)])
def test_what_is_allocated_stays_within_the_budget(
    optimizer: Literal["sgd", "adam"], widths: tuple[int, ...], sizes: list[int]
) -> None:
    graph = perceptron(widths, "gelu")
    cohort = owners_of(graph, sizes)
    plan = LocalPlan(optimizer=optimizer, epochs=2, batch_size=16, order="stored")
    program, start, budget_mib = DenseProgram.of(graph), start_of(graph), 1.0
    assert program is not None
    weights = weights_of(graph)
    for threads in (1, 2):
        trained(engine_of(graph, cohort, plan), graph, np.arange(2))
        tracemalloc.start()
        engine = StackedEngine(
            program, weights, cohort, Training(plan, 3), budget_mib=budget_mib, threads=threads
        )
        for round_index in range(3):
            for _ in engine.train(start, NO_BUFFERS, np.arange(len(sizes)), round_index):
                pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak <= budget_mib * (1 << 20)


def test_results_do_not_depend_on_threads_by_a_single_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacked, "_CHUNK_BYTES", 1 << 16)
    graph = perceptron((20, 30, 3))
    cohort, plan = owners_of(graph, [1 + i % 13 for i in range(60)]), LocalPlan(epochs=2, batch_size=5)
    single = engine_of(graph, cohort, plan)
    for threads in (2, 3):
        engine = engine_of(graph, cohort, plan, threads=threads)
        assert engine._slots == threads + 1
        for round_index in range(3):
            alone = trained(single, graph, np.arange(60), round_index)
            found = trained(engine, graph, np.arange(60), round_index)
            for field in ("owners", "updates", "steps", "losses"):
                assert found[field].tobytes() == alone[field].tobytes()
        engine.close()
        engine.close()


def test_an_abandoned_round_does_not_disturb_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacked, "_CHUNK_BYTES", 1 << 16)
    graph = perceptron((20, 30, 3))
    cohort, plan = owners_of(graph, [5] * 60), LocalPlan(epochs=2, batch_size=2)
    engine = engine_of(graph, cohort, plan, threads=2)
    abandoned = engine.train(start_of(graph), NO_BUFFERS, np.arange(60), 0)
    next(abandoned)
    found = trained(engine, graph, np.arange(60), 1)
    assert_agree(found, trained(engine_of(graph, cohort, plan), graph, np.arange(60), 1))
    engine.close()


def test_an_owner_that_diverges_fails_alone_and_the_step_is_named() -> None:
    graph = perceptron((4, 3), loss="mse")
    cohort = owners_of(graph, [6, 6, 6])
    cohort.pool.inputs[6:12] = 1e19
    plan = LocalPlan(learning_rate=0.1, epochs=2, batch_size=3)
    engine, reference = engine_of(graph, cohort, plan), reference_of(graph, cohort, plan)
    found = trained(engine, graph, np.arange(3))
    (owner, message), *others = found["failures"].tolist()
    assert (owner, others) == (1, [])
    assert "at step 1" in message
    assert "finite" in message
    assert not found["updates"][1].any()
    assert found["steps"].tolist() == [4, 0, 4]
    assert np.isnan(found["losses"][1]).all()
    assert_agree(
        {k: v[[0, 2]] for k, v in found.items() if k != "failures"},
        {k: v[[0, 2]] for k, v in trained(reference, graph, np.arange(3)).items() if k != "failures"},
    )


def test_no_owner_gives_nothing_and_one_is_enough() -> None:
    graph = perceptron((4, 3))
    engine = engine_of(graph, owners_of(graph, [2, 3]), LocalPlan(steps=1))
    assert list(engine.train(start_of(graph), NO_BUFFERS, np.empty(0, np.int64), 0)) == []
    assert trained(engine, graph, np.array([1]))["owners"].tolist() == [1]


# ---- what is refused


def test_a_budget_below_one_owner_is_refused_with_the_figure() -> None:
    graph = perceptron((20, 30, 3))
    cohort, plan = owners_of(graph, [4, 30]), LocalPlan(epochs=1, batch_size=16)
    program = DenseProgram.of(graph)
    assert program is not None
    least = needed_mib(program, cohort, plan)
    engine_of(graph, cohort, plan, budget_mib=least)
    with pytest.raises(ConfigRefused, match=rf"takes {least:.2f} MiB, the budget is"):
        engine_of(graph, cohort, plan, budget_mib=least * 0.99)


@pytest.mark.parametrize(
    ("loss", "spoil", "message"),
    [
        ("cross_entropy", lambda rows: rows.labels.__setitem__(1, 3), r"owner 2: .*\[0, 2\]"),
        ("cross_entropy", lambda rows: rows.labels.__setitem__(0, -1), r"owner 2: .*\[0, 2\]"),
        ("bce_with_logits", lambda rows: rows.labels.__setitem__((0, 1), 1.5), r"owner 2: .*\[0, 1\]"),
    ],
)
def test_labels_out_of_range_name_the_owner(loss: str, spoil: Callable[[Rows], None], message: str) -> None:
    graph = perceptron((4, 3), loss=loss)
    owners = [owners_of(graph, [3], seed).rows(0) for seed in range(4)]
    spoil(owners[2])
    with pytest.raises(DataRefused, match=message):
        engine_of(graph, Cohort.of(owners), LocalPlan(steps=1))


def test_rows_nobody_has_may_hold_anything() -> None:
    graph = perceptron((4, 3))
    pool = owners_of(graph, [6]).pool
    pool.labels[5] = 99
    cohort = Cohort(pool, np.array([0, 1, 4]), np.array([0, 2, 3]))
    plan = LocalPlan(steps=2)
    assert_agree(
        trained(engine_of(graph, cohort, plan), graph, np.arange(2)),
        trained(reference_of(graph, cohort, plan), graph, np.arange(2)),
    )


@pytest.mark.parametrize(
    "rows",
    [
        Rows(np.zeros((3, 5), np.float32), np.zeros(3, np.int64)),
        Rows(np.zeros((3, 4)), np.zeros(3, np.int64)),
        Rows(np.zeros((3, 4), np.float32), np.zeros((3, 1), np.int64)),
        Rows(np.zeros((3, 4), np.float32), np.zeros(3, np.float32)),
    ],
    ids=["features", "type", "label shape", "label type"],
)
def test_rows_of_another_shape_or_type_are_refused(rows: Rows) -> None:
    with pytest.raises(DataRefused, match="owner 0"):
        engine_of(perceptron((4, 3)), Cohort.of([rows]), LocalPlan(steps=1))


def test_weights_and_vectors_must_match_the_graph() -> None:
    graph = perceptron((4, 3))
    cohort, plan = owners_of(graph, [3]), LocalPlan(steps=1)
    program = DenseProgram.of(graph)
    assert program is not None
    with pytest.raises(GraphRefused, match="is missing"):
        StackedEngine(program, {}, cohort, Training(plan, 0))
    engine = engine_of(graph, cohort, plan)
    start = start_of(graph)
    with pytest.raises(ValueError, match="params must be a float32"):
        engine.train(start[1:], NO_BUFFERS, np.arange(1), 0)
    with pytest.raises(ValueError, match="buffers must be a float32"):
        engine.train(start, start, np.arange(1), 0)
    with pytest.raises(ValueError, match="owners must lie in"):
        engine.train(start, NO_BUFFERS, np.array([1]), 0)
    with pytest.raises(ValueError, match="owners must be an int64"):
        engine.train(start, NO_BUFFERS, np.array([0.0]), 0)


@pytest.mark.parametrize(
    ("owners", "message"),
    [
        (np.array([1]), r"owners must lie in 0\.\.0"),
        (np.array([-1]), r"owners must lie in 0\.\.0"),
        (np.array([[0]]), "owners must be an int64 array of one dimension"),
        (np.array([0.0]), "owners must be an int64 array of one dimension"),
    ],
)
def test_the_reference_trains_nobody_who_is_not_in_the_cohort(owners: npt.NDArray[Any], message: str) -> None:
    graph = perceptron((4, 3))
    engine = reference_of(graph, owners_of(graph, [3]), LocalPlan(steps=1))
    with pytest.raises(ValueError, match=message):
        next(engine.train(start_of(graph), NO_BUFFERS, owners, 0))


# ---- layouts


@settings(max_examples=200, deadline=None, derandomize=True)
@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=60), merge=st.integers(0, 50))
def test_groups_cover_everyone_and_padding_is_bounded(sizes: list[int], merge: int) -> None:
    array = np.array(sizes, np.int64)
    groups = grouped(array, merge)
    assert [g.first for g in groups] == [0, *(g.last for g in groups[:-1])]
    assert groups[-1].last == len(sizes)
    start = 0
    for group in groups:
        mine = array[group.first : group.last]
        assert group.start == start
        assert group.width == mine.max()
        assert group.width * len(mine) <= (1 + PADDING) * mine.sum()
        start += group.width * len(mine)
    if merge == 0:
        assert all(len(set(sizes[g.first : g.last])) == 1 for g in groups)


@pytest.mark.parametrize(
    "plan",
    [
        LocalPlan(epochs=2, batch_size=4, order="stored"),
        LocalPlan(steps=7, batch_size=4, order="stored"),
        LocalPlan(epochs=2, batch_size=4),
        LocalPlan(steps=7, batch_size=4),
    ],
)
def test_batches_are_those_of_local_training(plan: LocalPlan) -> None:
    graph = perceptron((1, 2))
    cohort = owners_of(graph, [2, 4, 5, 8, 11, 11])
    schedule = Schedule(cohort, plan, 3, 5, np.arange(6), cohort.counts, merge=100)
    wanted = [
        list(batches(int(n), plan, np.random.default_rng([3, 5, i]))) for i, n in enumerate(cohort.counts)
    ]
    assert schedule.steps.tolist() == [len(each) for each in wanted]
    for step in range(int(schedule.steps[-1])):
        layout = schedule.layout(step)
        for group in layout.groups:
            for i in range(group.first, group.last):
                at = group.start + (i - group.first) * group.width
                size = int(layout.sizes[i])
                owner = layout.first + i
                rows = layout.index[at : at + size] - cohort.offsets[owner]
                expected = wanted[owner][step]
                if cohort.counts[owner] <= plan.batch_size:
                    expected = np.sort(expected)
                np.testing.assert_array_equal(rows, expected)
                weights = layout.weights[at : at + group.width]
                np.testing.assert_allclose(weights[:size], 1 / size)
                assert not weights[size:].any()
