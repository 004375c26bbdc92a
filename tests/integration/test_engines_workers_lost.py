"""The workers engine whose processes die or cannot start: the same bytes or a named error, nothing left."""

from __future__ import annotations

import gc
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import galaxylearning
from galaxylearning.engines import workers as workers_module
from galaxylearning.engines.engine import Training
from galaxylearning.engines.reference import ReferenceEngine
from galaxylearning.engines.workers import WorkerEngine
from galaxylearning.errors import ConfigRefused, StorageError
from galaxylearning.graph import ModelGraph
from galaxylearning.learning.plan import LocalPlan
from worker_cases import PLAN, cohort, compiled_net, everything, model, numbers

ENDLESS = LocalPlan(learning_rate=1e-6, epochs=500_000, batch_size=4)


@pytest.fixture(scope="module")
def made() -> tuple[ModelGraph, bytes]:
    return compiled_net()


def wait_for_end(processes: list[int]) -> bool:
    """Whether each of these, given as process descriptors, ended within a minute."""
    return all(bool(select.select([fd], [], [], 60.0)[0]) for fd in processes)


# ---- processes that die


@pytest.fixture
def long_plan() -> LocalPlan:
    return LocalPlan(learning_rate=0.01, steps=60, batch_size=8)


def test_a_worker_killed_in_mid_round_is_replaced(
    made: tuple[ModelGraph, bytes], long_plan: LocalPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers_module, "MAX_CHUNK", 1)
    flat, training, owners = model(made), Training(long_plan, 1), numbers(0, 2, 4, 3, 5)
    expected = everything(ReferenceEngine(flat, cohort(), training).train(*flat.initial(), owners, 0))
    with WorkerEngine(*made, cohort(), training, workers=2) as engine:
        results = engine.train(*flat.initial(), owners, 0)
        got = everything(iter([next(results)]))
        victims = engine.pids[1:]
        assert victims
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
        got += everything(results)
        assert got == expected
        assert not set(victims) & set(engine.pids)


def test_nobody_is_blamed_for_workers_that_end_between_rounds(made: tuple[ModelGraph, bytes]) -> None:
    flat, training = model(made), Training(PLAN, 1)
    expected = everything(ReferenceEngine(flat, cohort(), training).train(*flat.initial(), numbers(2), 0))
    with WorkerEngine(*made, cohort(), training, workers=3) as engine:
        list(engine.train(*flat.initial(), numbers(0, 1, 2, 3), 0))
        idle = engine.pids[1:]
        assert len(idle) == 3
        processes = [os.pidfd_open(pid) for pid in idle]
        for pid in idle:
            os.kill(pid, signal.SIGKILL)
        assert wait_for_end(processes)
        for process in processes:
            os.close(process)
        assert everything(engine.train(*flat.initial(), numbers(2), 0)) == expected
        assert not set(idle) & set(engine.pids)


def test_the_zygote_is_started_again(
    made: tuple[ModelGraph, bytes], long_plan: LocalPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers_module, "MAX_CHUNK", 1)
    flat, training, owners = model(made), Training(long_plan, 1), numbers(0, 2, 4, 3, 5)
    expected = everything(ReferenceEngine(flat, cohort(), training).train(*flat.initial(), owners, 0))
    with WorkerEngine(*made, cohort(), training, workers=2) as engine:
        for _ in range(2):
            results = engine.train(*flat.initial(), owners, 0)
            got = everything(iter([next(results)]))
            before = engine.pids
            os.kill(before[0], signal.SIGKILL)
            got += everything(results)
            assert got == expected
            assert not set(before) & set(engine.pids)


@contextmanager
def killing(pids: Callable[[], tuple[int, ...]]) -> Iterator[None]:
    """Kill every process that turns up in ``pids``."""
    done = threading.Event()

    def work() -> None:
        seen: set[int] = set()
        while not done.wait(0.002):
            for pid in pids():
                if pid not in seen:
                    seen.add(pid)
                    os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=work)
    killer.start()
    try:
        yield
    finally:
        done.set()
        killer.join()


def test_a_zygote_that_dies_twice_in_a_round_is_an_error(made: tuple[ModelGraph, bytes]) -> None:
    with WorkerEngine(*made, cohort(), Training(PLAN, 1), workers=1) as engine:
        engine.ready()
        with (
            killing(lambda: engine.pids[:1]),
            pytest.raises(StorageError, match=r"worker processes: .* was killed by SIGKILL twice"),
        ):
            list(engine.train(*model(made).initial(), numbers(0, 1), 0))
        with pytest.raises(ValueError, match="the engine is closed"):
            engine.ready()


def test_an_owner_that_costs_three_workers_has_failed(made: tuple[ModelGraph, bytes]) -> None:
    with WorkerEngine(*made, cohort((4, 2)), Training(ENDLESS, 1), workers=1) as engine:
        engine.ready()
        with killing(lambda: engine.pids[1:]):
            (found,) = engine.train(*model(made).initial(), numbers(0, 1), 0)
    assert found.owners.tolist() == [0, 1]
    assert not found.updates.any()
    assert not found.buffers.any()
    assert np.isnan(found.losses).all()
    for owner in (0, 1):
        assert found.failures[owner] == (
            "the worker process was killed by SIGKILL; 3 were lost over this data owner"
        )


def test_a_silent_worker_is_killed_and_its_owner_fails(made: tuple[ModelGraph, bytes]) -> None:
    flat = model(made)
    with WorkerEngine(*made, cohort((4, 2)), Training(ENDLESS, 1), workers=1) as engine:
        engine.ready()
        engine._crew._stall_s = 0.2
        (found,) = engine.train(*flat.initial(), numbers(1), 0)
    assert found.failures == {
        1: "the worker process gave no answer for 0.2 s; 3 were lost over this data owner"
    }


# ---- nothing stays behind


def test_closing_leaves_no_process_and_no_descriptor(made: tuple[ModelGraph, bytes]) -> None:
    gc.collect()
    before = sorted(os.listdir("/proc/self/fd"))
    engine = WorkerEngine(*made, cohort(), Training(PLAN, 1), workers=2)
    list(engine.train(*model(made).initial(), numbers(0, 1), 0))
    processes = [os.pidfd_open(pid) for pid in engine.pids]
    assert len(processes) == 3
    engine.close()
    engine.close()
    assert wait_for_end(processes)
    for process in processes:
        os.close(process)
    forgotten = WorkerEngine(*made, cohort(), Training(PLAN, 1), workers=2)
    process = os.pidfd_open(forgotten.pids[0])
    del engine, forgotten
    gc.collect()
    assert wait_for_end([process])
    os.close(process)
    assert sorted(os.listdir("/proc/self/fd")) == before


SCRIPT = """
import sys
import numpy as np
from galaxylearning.engines.cohort import Cohort
from galaxylearning.engines.engine import Training
from galaxylearning.engines.workers import WorkerEngine
from galaxylearning.graph.decode import read_graph
from galaxylearning.graph.document import DEFAULT_LIMITS
from galaxylearning.learning.local import LocalResult, train_local
from galaxylearning.learning.plan import LocalPlan
from galaxylearning.protocol.hidden_set import Rows

graph = read_graph(open(sys.argv[1], "rb").read(), DEFAULT_LIMITS)
rows = Rows(np.zeros((8, 1, 6, 6), np.float32), np.zeros(8, np.int64))
plan = LocalPlan(learning_rate=1e-6, epochs=100_000, batch_size=8)
weights, cohort = open(sys.argv[2], "rb").read(), Cohort.of([rows] * 2)
with WorkerEngine(graph, weights, cohort, Training(plan, 1), workers=2) as engine:
    engine.ready()
    engine._crew.begin()
    engine._crew.submit(engine._jobs(np.array([0, 1]), 0, 0))
    assert "torch" not in sys.modules
    try:
        print(*engine.pids, flush=True)  # whoever reads it may interrupt at once
        engine._crew.finished()
    except KeyboardInterrupt:
        print("stopped", flush=True)
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["interrupted", "killed"])
def test_workers_end_with_their_caller(
    made: tuple[ModelGraph, bytes], tmp_path: Path, how: signal.Signals
) -> None:
    graph, weights = made
    (tmp_path / "graph").write_bytes(graph.to_bytes())
    (tmp_path / "weights").write_bytes(weights)
    home = str(Path(galaxylearning.__file__).parents[1])
    caller = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "graph"), str(tmp_path / "weights")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": home},
        start_new_session=True,
    )
    assert caller.stdout is not None
    line = caller.stdout.readline()
    processes = [os.pidfd_open(int(pid)) for pid in line.split()]
    assert len(processes) == 3
    os.killpg(caller.pid, how)
    rest, errors = caller.communicate(timeout=60)
    assert wait_for_end(processes)
    for process in processes:
        os.close(process)
    assert errors == ""
    assert (rest, caller.returncode) == (("stopped\n", 0) if how == signal.SIGINT else ("", -9))


def test_a_program_that_cannot_be_started_is_said_plainly(
    made: tuple[ModelGraph, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(StorageError, match="worker processes: could not be started"):
        WorkerEngine(*made, cohort(), Training(PLAN, 1))
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(ConfigRefused, match=r"sys\.executable is empty"):
        WorkerEngine(*made, cohort(), Training(PLAN, 1))
    monkeypatch.setattr(sys, "executable", "/bin/true")
    with (
        WorkerEngine(*made, cohort(), Training(PLAN, 1)) as engine,
        pytest.raises(StorageError, match="ended with exit code 0 twice"),
    ):
        engine.ready()
