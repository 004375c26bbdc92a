"""Hostile graph documents and weights: each is refused, quickly and in little memory, with a reason.

Run as a program, the file tries every case under a cap on memory and prints what each took.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from galaxylearning.errors import GraphRefused
from galaxylearning.graph import GraphLimits, ModelGraph, Program, meter, weights_from_bytes
from galaxylearning.graph.infer import infer
from hostile_graph_bombs import BOMBS
from hostile_graphs import ACT, DOCUMENTS, Cases, base, dump, node
from hostile_weights import WEIGHTS, valid_weights, weights_graph

SECONDS = 2.0
GROWTH_BYTES = 512 << 20
ADDRESS_SPACE_BYTES = 2 << 30
GRAPHS: Cases = DOCUMENTS | BOMBS


def truncations() -> Iterator[tuple[str, bytes]]:
    for kind, data in (("graph", dump(base())), ("weights", valid_weights())):
        for length in sorted({*range(0, len(data), 7), *range(len(data) - 20, len(data))}):
            yield kind, data[:length]


def try_graph(data: bytes) -> ModelGraph:
    return ModelGraph.from_bytes(data)


def try_weights(data: bytes) -> object:
    return weights_from_bytes(weights_graph(), data, max_bytes=len(valid_weights()) + 4096)


def test_the_base_of_all_cases_is_itself_good() -> None:
    graph = try_graph(dump(base()))
    assert meter(graph, 8).parameters == 15
    assert Program(graph).graph == graph
    assert try_weights(valid_weights())
    assert len(GRAPHS) == len(DOCUMENTS) + len(BOMBS) >= 140
    assert len(WEIGHTS) >= 35


@pytest.mark.parametrize("name", list(GRAPHS))
def test_hostile_graphs_are_refused_with_the_reason(name: str) -> None:
    build, reason = GRAPHS[name]
    with pytest.raises(GraphRefused, match=reason) as caught:
        try_graph(build())
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("name", list(WEIGHTS))
def test_hostile_weights_are_refused_with_the_reason(name: str) -> None:
    build, reason = WEIGHTS[name]
    with pytest.raises(GraphRefused, match=reason) as caught:
        try_weights(build())
    assert len(str(caught.value)) < 500


def test_every_truncation_is_refused() -> None:
    for kind, data in truncations():
        with pytest.raises(GraphRefused):
            (try_graph if kind == "graph" else try_weights)(data)


def test_what_a_graph_may_cost_is_checked_at_the_batch_size_that_runs() -> None:
    document = base()
    document["nodes"].append(node("sq", "aten.einsum.default", "ia,jb->ij", [ACT, ACT]))
    document["nodes"].append(node("sum", "aten.sum.dim_IntList", {"node": "sq"}, [1], True))
    document["nodes"].append(node("out", "aten.add.Tensor", ACT, {"node": "sum"}))
    document["outputs"] = [{"node": "out"}]
    graph = try_graph(dump(document))
    assert meter(graph, 100).largest_tensor_bytes == 40_000
    with pytest.raises(GraphRefused, match="elements"):
        meter(graph, 1 << 20)
    with pytest.raises(GraphRefused, match="elements"):
        infer(graph, 100, GraphLimits(max_tensor_elements=5_000))


def test_all_cases_together_stay_within_time_and_memory() -> None:
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(("src", "tests/shared")),
    }
    done = subprocess.run(
        [sys.executable, __file__], env=environment, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    report = json.loads(done.stdout)
    assert report["accepted"] == []
    assert len(report["seconds"]) == len(GRAPHS) + len(WEIGHTS)
    slow = {name: spent for name, spent in report["seconds"].items() if spent > SECONDS}
    assert slow == {}
    assert report["growth_bytes"] < GROWTH_BYTES


def _too_long(_signal: int, _frame: object) -> None:
    raise TimeoutError


def _memory(field: str) -> int:
    """One of the process's own figures, in bytes."""
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


def main() -> None:
    """Try every case under a cap on memory and a hard timeout; print what each took as JSON."""
    signal.signal(signal.SIGALRM, _too_long)
    try_graph(dump(base()))
    try_weights(valid_weights())
    prepared = [(f"graph: {name}", try_graph, build()) for name, (build, _) in GRAPHS.items()]
    prepared += [(f"weights: {name}", try_weights, build()) for name, (build, _) in WEIGHTS.items()]  # type: ignore[misc]
    used = _memory("VmSize")
    resource.setrlimit(resource.RLIMIT_AS, (used + ADDRESS_SPACE_BYTES, resource.RLIM_INFINITY))
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak starts again from what is held now
    before = _memory("VmRSS")
    accepted: list[str] = []
    seconds: dict[str, float] = {}
    for name, attempt, data in prepared:
        signal.alarm(20)
        start = time.process_time()
        try:
            attempt(data)
            accepted.append(name)
        except GraphRefused:
            seconds[name] = time.process_time() - start
        finally:
            signal.alarm(0)
    growth = _memory("VmHWM") - before
    sys.stdout.write(json.dumps({"accepted": accepted, "seconds": seconds, "growth_bytes": growth}))


if __name__ == "__main__":
    main()
