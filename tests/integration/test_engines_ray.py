"""The Ray engine on a local cluster of several workers, some of whom die."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from engine_cases import cohort_of, compiled, everyone, flat_model, reference, same_bytes, trained
from galaxylearning.engines.cohort import Cohort
from galaxylearning.engines.engine import Training
from galaxylearning.engines.ray_cluster import RayEngine, Recipe, Trainer, ray_map
from galaxylearning.engines.ray_crew import Lost, RayCrew, resolve
from galaxylearning.errors import ConfigRefused, DataRefused
from galaxylearning.graph import compile_model, weights_to_bytes
from galaxylearning.learning import LocalPlan
from galaxylearning.learning.vectors import I64

DENSE = "mlp"
"""Its workers need no tensor library, so they start quickly."""
CNN = "group-norm-cnn"
TRAINING = Training(LocalPlan(epochs=6, batch_size=3, momentum=0.9), 11)
COUNTS = [1 + (7 * i) % 9 for i in range(24)]


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[RayCrew]:
    """A crew that stays, so that all tests share one local cluster."""
    crew = RayCrew("galaxylearning.engines.ray_cluster:resolve", ("operator:pow",), workers=2)
    yield crew
    crew.close()


def recipe(name: str = DENSE) -> Recipe:
    graph, weights = compiled(name)
    return Recipe.of(graph, weights, budget_mib=64.0)


def engine_of(cohort: Cohort, workers: int, name: str = DENSE) -> RayEngine:
    return RayEngine(recipe(name), cohort, TRAINING, workers=workers, owners_per_chunk=3)


@pytest.mark.parametrize(("name", "numbers"), [(DENSE, (1, 2, 3)), (CNN, (1, 2))])
def test_results_do_not_depend_on_the_number_of_workers(name: str, numbers: tuple[int, ...]) -> None:
    cohort = cohort_of(name, COUNTS)
    found = []
    for workers in numbers:
        engine = engine_of(cohort, workers, name)
        found.append(trained(engine, name, everyone(cohort)[::-1].copy(), 2))
        engine.close()
    assert all(same_bytes(found[0], other) for other in found[1:])
    assert found[0].owners.tolist() == list(range(len(COUNTS)))[::-1]
    if name == CNN:
        alone = reference(CNN, cohort, TRAINING)
        assert same_bytes(found[0], trained(alone, CNN, everyone(cohort)[::-1].copy(), 2))


@pytest.mark.parametrize("killer", ["system", "ray"])
def test_workers_killed_in_mid_round_change_nothing(killer: str) -> None:
    import ray

    cohort = cohort_of(DENSE, COUNTS)
    engine = engine_of(cohort, workers=2)
    expected = trained(engine, DENSE, everyone(cohort), 1)
    params, buffers = flat_model(DENSE).initial()
    processes = engine.processes
    updates = []
    for place, part in enumerate(engine.train(params, buffers, everyone(cohort), 1)):
        updates.append(np.array(part.updates))
        if place == 1 and killer == "system":
            for process in processes:
                os.kill(process, signal.SIGKILL)
        elif place == 1:
            for actor in (*engine._crew._idle, *(actor for actor, _, _ in engine._crew._busy.values())):
                ray.kill(actor, no_restart=True)
    assert np.concatenate(updates).tobytes() == expected.updates.tobytes()
    assert len(engine.processes) == 2
    assert not set(processes) & set(engine.processes)
    engine.close()


def test_workers_killed_between_rounds_count_against_nobody() -> None:
    cohort = cohort_of(DENSE, COUNTS)
    engine = engine_of(cohort, workers=4)
    expected = trained(engine, DENSE, everyone(cohort), 1)
    for process in engine.processes:
        os.kill(process, signal.SIGKILL)
    assert same_bytes(trained(engine, DENSE, everyone(cohort), 1), expected)
    assert not expected.failures
    engine.close()


def test_a_round_that_nobody_finished_does_not_disturb_the_next() -> None:
    cohort = cohort_of(DENSE, COUNTS)
    engine = engine_of(cohort, workers=2)
    expected = trained(engine, DENSE, everyone(cohort), 1)
    params, buffers = flat_model(DENSE).initial()
    next(iter(engine.train(params, buffers, everyone(cohort), 0)))
    assert same_bytes(trained(engine, DENSE, everyone(cohort), 1), expected)
    engine.close()


def test_diverging_owners_are_failures_and_the_others_are_trained() -> None:
    cohort = cohort_of(DENSE, COUNTS)
    cohort.pool.inputs[cohort.index[cohort.offsets[4]]] = np.nan
    engine = engine_of(cohort, workers=2)
    found = trained(engine, DENSE, everyone(cohort))
    engine.close()
    assert list(found.failures) == [4]
    assert "loss at step" in found.failures[4]
    assert not found.updates[4].any()
    assert all(found.updates[owner].any() for owner in range(len(COUNTS)) if owner != 4)


def test_what_is_wrong_with_the_rows_is_said_as_by_the_engine_inside() -> None:
    cohort = cohort_of(DENSE, COUNTS)
    cohort.pool.labels[cohort.index[0]] = 99
    engine = engine_of(cohort, workers=2)
    with pytest.raises(DataRefused, match=r"class numbers must be in \[0, 2\]"):
        trained(engine, DENSE, everyone(cohort))
    engine.close()


class Deadly:
    """A crew in which training a certain owner ends the worker; what the cluster does, without one."""

    def __init__(self, cohort: Cohort, owner: int) -> None:
        pool = cohort.pool
        rows = (pool.inputs, pool.labels, cohort.index, cohort.offsets, tuple(cohort.identities))
        self._trainer, self._owner = Trainer(recipe(), TRAINING, *rows), owner

    def run(self, state: Any, items: Sequence[I64]) -> Iterator[Any]:
        for owners in items:
            yield Lost("signal 11") if self._owner in owners.tolist() else self._trainer(state, owners)

    def close(self) -> None:
        """Nothing is held."""


@pytest.mark.parametrize("size", [1, 3])
def test_an_owner_that_ends_its_workers_is_alone_in_failing(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort = cohort_of(DENSE, COUNTS)
    engine = RayEngine(recipe(), cohort, TRAINING, workers=1, owners_per_chunk=size)
    engine.close()
    monkeypatch.setattr(engine, "_crew", Deadly(cohort, 7))
    found = trained(engine, DENSE, everyone(cohort))
    assert found.failures == {7: "ended its worker 3 times (signal 11)"}
    assert not found.updates[7].any()
    local = recipe().build(cohort, TRAINING)
    expected = trained(local, DENSE, everyone(cohort))
    others = np.arange(len(COUNTS)) != 7
    assert np.array_equal(found.owners, expected.owners)
    np.testing.assert_allclose(found.updates[others], expected.updates[others], rtol=1e-4, atol=1e-6)


def test_two_crews_share_a_cluster(session: RayCrew) -> None:
    assert list(ray_map("operator:pow", 2, range(20), workers=2)) == [2**item for item in range(20)]
    assert list(session.run(3, [1, 2])) == [3, 9]


def test_what_a_mapped_function_raises_is_raised() -> None:
    answers = ray_map("operator:truediv", 1.0, [4, 0, 2], workers=2)
    assert next(answers) == 0.25
    with pytest.raises(ZeroDivisionError):
        next(answers)


def test_an_item_that_ends_every_worker_is_given_up() -> None:
    """Reading at address 8 ends a process, reading nothing there does not."""
    answers = ray_map("ctypes:string_at", 8, [0, 1, 0], workers=2)
    assert next(answers) == b""
    with pytest.raises(ConfigRefused, match="item 1: ended its worker 3 times"):
        next(answers)


def test_an_item_that_never_ends_is_given_up() -> None:
    """A power of as many digits takes longer than anybody waits."""
    answers = ray_map("operator:pow", 7, [2, 10**9], workers=1, stall_s=2.0)
    assert next(answers) == 49
    with pytest.raises(ConfigRefused, match="item 1: ended its worker 3 times"):
        next(answers)


@pytest.mark.parametrize("target", ["nowhere:it", "os:nothing", "os", "", ":"])
def test_functions_that_do_not_exist_are_refused(target: str) -> None:
    with pytest.raises(ConfigRefused, match=r"must be package\.module:name"):
        resolve(target)
    with pytest.raises(ConfigRefused, match=r"must be package\.module:name"):
        next(ray_map(target, 0, [1], workers=1))


@pytest.mark.parametrize("workers", [0, -1, 5000, True])
def test_numbers_of_workers_out_of_range_are_refused(workers: int) -> None:
    with pytest.raises(ConfigRefused, match="workers must be"):
        RayEngine(recipe(), cohort_of(DENSE, [1]), TRAINING, workers=workers)


@pytest.mark.parametrize("options", [{"budget_mib": 0.0}, {"owners_per_chunk": 0}, {"stall_s": -1.0}])
def test_other_settings_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigRefused, match=f"{next(iter(options))} must be"):
        RayEngine(recipe(), cohort_of(DENSE, [1]), TRAINING, workers=1, **options)


def test_results_larger_than_the_budget_are_refused() -> None:
    with pytest.raises(ConfigRefused, match=r"one data owner's result needs 0\.0 MiB"):
        RayEngine(recipe(), cohort_of(DENSE, [1]), TRAINING, workers=1, budget_mib=1e-4)


def test_owners_outside_the_cohort_are_refused() -> None:
    cohort = cohort_of(DENSE, [1, 2])
    engine = engine_of(cohort, workers=1)
    params, buffers = flat_model(DENSE).initial()
    with pytest.raises(ValueError, match=r"owners must lie in 0\.\.1"):
        next(engine.train(params, buffers, np.array([2], np.int64), 0))
    engine.close()


def test_buffers_that_stay_with_their_owner_are_refused() -> None:
    torch.manual_seed(1)
    module = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    graph, weights = compile_model(
        module, (torch.randn(4, 4),), loss="cross_entropy", federate={"1.running_mean": "keep_local"}
    )
    local = Recipe("reference", graph.to_bytes(), weights_to_bytes(graph, weights), 64.0)
    with pytest.raises(ConfigRefused, match=r"buffer 1\.running_mean stays with its data owner"):
        RayEngine(local, cohort_of("mlp", [1]), TRAINING, workers=1)


def test_addresses_without_a_cluster_are_refused() -> None:
    """In a process of its own: this one is connected already."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = server.getsockname()[1]
    for address in (f"127.0.0.1:{free}", "nonsense"):
        arguments = [sys.executable, "-c", _ELSEWHERE, address]
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=True)
        assert done.stdout.startswith(f"address: no Ray cluster at {address} (")


_ELSEWHERE = """
import sys
from galaxylearning.engines.ray_cluster import ray_map
from galaxylearning.errors import ConfigRefused

try:
    list(ray_map("operator:pow", 2, [1], workers=1, address=sys.argv[1]))
except ConfigRefused as refused:
    print(refused)
"""


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigRefused, match=r"pip install -e '\.\[ray\]'"):
        RayEngine(recipe(), cohort_of(DENSE, [1]), TRAINING, workers=1)
