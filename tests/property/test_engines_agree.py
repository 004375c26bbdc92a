"""Every engine gives what the reference gives: integers within the tolerance, or the same bytes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from architectures import BUILDERS
from engine_cases import cohort_of, compiled, everyone, flat_model, reference, same_bytes, trained
from galaxylearning.engines.cohort import Cohort
from galaxylearning.engines.debug import DebugEngine
from galaxylearning.engines.engine import TOLERANCE_LEVELS, Engine, Trained, Training
from galaxylearning.engines.measures import levels_apart
from galaxylearning.engines.ray_cluster import RayEngine, Recipe
from galaxylearning.engines.ray_crew import RayCrew
from galaxylearning.engines.stacked import StackedEngine
from galaxylearning.engines.vmapped import VmappedEngine
from galaxylearning.engines.workers import WorkerEngine
from galaxylearning.errors import ConfigRefused
from galaxylearning.graph.dense import DenseProgram, dense_weights_from_bytes
from galaxylearning.learning import LocalPlan

DENSE = ("mlp", "low-rank-adapter")
STACKABLE = tuple(name for name in BUILDERS if name != "batch-norm-cnn")
CLIP = 1.0
"""The norm that a job clips updates to unless it says otherwise."""

# The examples are always the same: where a ReLU's or a maximum's decision lies within the last bit, engines
# differ by as much as the reference does from itself when its start is moved by that bit.
same_examples = settings(deadline=None, derandomize=True)


@st.composite
def plans(draw: st.DrawFn) -> LocalPlan:
    """Local plans of every kind that end soon. Adam divides by the gradient's size: with a tiny epsilon it
    turns rounding into steps, in any engine, so it is drawn as jobs would set it for small models.
    """
    is_adam = draw(st.booleans())
    length = draw(st.sampled_from([{"epochs": 1}, {"epochs": 2}, {"steps": 1}, {"steps": 4}]))
    return LocalPlan(
        optimizer="adam" if is_adam else "sgd",
        learning_rate=draw(st.sampled_from([0.003, 0.01] if is_adam else [0.05, 0.2])),
        momentum=0.0 if is_adam else draw(st.sampled_from([0.0, 0.9])),
        epsilon=1e-3 if is_adam else 1e-8,
        weight_decay=draw(st.sampled_from([0.0, 0.01])),
        prox_mu=draw(st.sampled_from([0.0, 0.5])),
        batch_size=draw(st.integers(1, 6)),
        order=draw(st.sampled_from(["shuffled", "stored"])),
        **length,
    )


@st.composite
def trainings(draw: st.DrawFn) -> tuple[list[int], Training]:
    counts = draw(st.lists(st.integers(1, 9), min_size=1, max_size=5))
    return counts, Training(draw(plans()), draw(st.integers(0, 1000)))


def assert_agrees(found: Trained, expected: Trained) -> None:
    assert np.array_equal(found.owners, expected.owners)
    assert np.array_equal(found.steps, expected.steps)
    assert found.failures == expected.failures
    np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.buffers, expected.buffers, rtol=1e-4, atol=1e-5)
    for one, other in zip(found.updates, expected.updates, strict=True):
        assert levels_apart(one, other, CLIP) <= TOLERANCE_LEVELS


def stacked(name: str, cohort: Cohort, training: Training) -> StackedEngine:
    graph, weights = compiled(name)
    program = DenseProgram.of(graph)
    assert program is not None
    return StackedEngine(program, dense_weights_from_bytes(graph, weights), cohort, training)


@pytest.mark.parametrize("name", DENSE)
@given(drawn=trainings(), round_index=st.integers(0, 3))
@settings(same_examples, max_examples=40)
def test_stacked_owners_agree_with_the_reference(
    name: str, drawn: tuple[list[int], Training], round_index: int
) -> None:
    counts, training = drawn
    cohort = cohort_of(name, counts)
    owners = everyone(cohort)[::-1].copy()
    found = trained(stacked(name, cohort, training), name, owners, round_index)
    assert_agrees(found, trained(reference(name, cohort, training), name, owners, round_index))


@pytest.mark.parametrize("name", sorted(set(BUILDERS) - set(DENSE)))
def test_no_other_architecture_can_be_stacked(name: str) -> None:
    assert DenseProgram.of(compiled(name)[0]) is None


@pytest.mark.parametrize("name", STACKABLE)
@given(
    drawn=trainings(),
    round_index=st.integers(0, 3),
    convolutions=st.sampled_from(["grouped", "unfolded"]),
)
@settings(same_examples, max_examples=12)
def test_vmapped_owners_agree_with_the_reference(
    name: str, drawn: tuple[list[int], Training], round_index: int, convolutions: str
) -> None:
    counts, training = drawn
    cohort = cohort_of(name, counts)
    graph, weights = compiled(name)
    engine = VmappedEngine(
        graph,
        weights,
        cohort,
        training,
        device="cpu",
        convolutions="grouped" if convolutions == "grouped" else "unfolded",
    )
    owners = everyone(cohort)[::-1].copy()
    found = trained(engine, name, owners, round_index)
    assert_agrees(found, trained(reference(name, cohort, training), name, owners, round_index))


def test_batch_statistics_cannot_be_vmapped() -> None:
    graph, weights = compiled("batch-norm-cnn")
    cohort = cohort_of("batch-norm-cnn", [4])
    with pytest.raises(ConfigRefused, match="node update_2 changes a buffer"):
        VmappedEngine(graph, weights, cohort, Training(LocalPlan(steps=1), 0), device="cpu")


@pytest.mark.parametrize("budget_mib", [0.3, 1024.0])
def test_the_memory_budget_of_vmapped_owners_shows_only_in_rounding(budget_mib: float) -> None:
    name, training = "mlp", Training(LocalPlan(epochs=2, batch_size=4, momentum=0.5), 5)
    cohort = cohort_of(name, [1 + i % 9 for i in range(150)])
    graph, weights = compiled(name)
    engine = VmappedEngine(graph, weights, cohort, training, device="cpu", budget_mib=budget_mib)
    params, buffers = flat_model(name).initial()
    windows = [len(found.owners) for found in engine.train(params, buffers, everyone(cohort), 0)]
    assert (len(windows) > 1) == (budget_mib < 1)
    found = trained(engine, name, everyone(cohort))
    assert_agrees(found, trained(reference(name, cohort, training), name, everyone(cohort)))


# One fixed training an architecture, for engines that take seconds to start.

COUNTS = [5, 1, 8, 3, 6, 2]
PLAN = LocalPlan(epochs=2, batch_size=3, learning_rate=0.05, momentum=0.9, weight_decay=0.01, prox_mu=0.1)


@pytest.mark.parametrize("name", list(BUILDERS))
def test_the_debug_engine_gives_the_references_bytes(name: str) -> None:
    cohort, training = cohort_of(name, COUNTS), Training(PLAN, 3)
    found = trained(DebugEngine(flat_model(name), cohort, training), name, everyone(cohort), 1)
    assert same_bytes(found, trained(reference(name, cohort, training), name, everyone(cohort), 1))


@pytest.mark.parametrize("name", list(BUILDERS))
def test_workers_give_the_references_bytes(name: str) -> None:
    cohort, training = cohort_of(name, COUNTS), Training(PLAN, 3)
    graph, weights = compiled(name)
    with WorkerEngine(graph, weights, cohort, training, workers=2) as engine:
        found = trained(engine, name, everyone(cohort), 1)
    assert same_bytes(found, trained(reference(name, cohort, training), name, everyone(cohort), 1))


@pytest.fixture(scope="module")
def ray_session() -> Iterator[None]:
    """A crew that stays, so that every engine of this module shares its local cluster."""
    crew = RayCrew("galaxylearning.engines.ray_cluster:resolve", ("os:getenv",), workers=1)
    yield
    crew.close()


def ray_engine(name: str, cohort: Cohort, training: Training) -> Engine:
    graph, weights = compiled(name)
    recipe = Recipe.of(graph, weights)
    assert recipe.inner == ("stacked" if name in DENSE else "reference")
    return RayEngine(recipe, cohort, training, workers=1, owners_per_chunk=2)


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("name", list(BUILDERS))
def test_ray_gives_the_inner_engines_bytes(name: str) -> None:
    cohort, training = cohort_of(name, COUNTS), Training(PLAN, 3)
    engine = ray_engine(name, cohort, training)
    found = trained(engine, name, everyone(cohort), 1)
    engine.close()
    expected = trained(reference(name, cohort, training), name, everyone(cohort), 1)
    assert_agrees(found, expected)
    if name not in DENSE:
        assert same_bytes(found, expected)
