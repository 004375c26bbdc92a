"""The benchmarks' own arithmetic: rows, statistics, targets, the page, and what is counted of a program."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT))  # benchmarks is no installed package: it lies beside the tests

from benchmarks import data, measuring, render, rows, targets  # noqa: E402
from benchmarks.measuring import PREFIX, Run, RunError  # noqa: E402
from benchmarks.rows import Row  # noqa: E402
from benchmarks.scale.cases import PARAMETERS, cases, rows_printed  # noqa: E402
from benchmarks.scale.parameters import first_weights, network, width  # noqa: E402
from benchmarks.workloads import W1, W2, Workload  # noqa: E402

FLAT = {
    "work": "W1",
    "system": "galaxy",
    "version": "1.0",
    "round_seconds_best": 0.5,
    "round_seconds_median": 1.0,
    "process_seconds": 2.0,
    "peak_mb": 100.0,
    "checksum": 10.0,
    "load": 0.25,
}


def row(work: str = "W1", system: str = "galaxy", **changes: Any) -> Row:
    return Row.from_json(FLAT | {"work": work, "system": system} | changes)


def one_run(rounds: list[float], *, wall: float = 2.0, checksum: float = 10.0, placed: float = 1.0) -> Run:
    result = {"version": "1.0", "rounds": rounds, "checksum": checksum, "checksum_placed": placed}
    return Run(result, wall, 90.0 + wall, 120.0, 3, load=0.5, busy=0.1)


# ---- rows


def test_a_row_is_one_flat_object_and_comes_back_from_the_file(tmp_path: Path) -> None:
    written = [row(), row(system="flower", repeats=5)]
    rows.write_rows(tmp_path / "results" / "peers.json", written)
    listed = json.loads((tmp_path / "results" / "peers.json").read_text())
    assert listed[0] == FLAT
    assert listed[1] == FLAT | {"system": "flower", "repeats": 5}
    assert rows.read_rows(tmp_path / "results" / "peers.json") == written
    assert rows.read_rows(tmp_path / "nothing.json") == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"round_seconds_best": math.nan}, "round_seconds_best"),
        ({"peak_mb": -1.0}, "peak_mb"),
        ({"load": 1}, "load"),
        ({"system": ""}, "named"),
    ],
)
def test_a_row_of_something_else_than_figures_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Row.from_json(FLAT | changes)


def test_a_missing_field_and_a_file_of_something_else_are_refused(tmp_path: Path) -> None:
    short = {name: value for name, value in FLAT.items() if name != "load"}
    with pytest.raises(ValueError, match="load is missing"):
        Row.from_json(short)
    (tmp_path / "rows.json").write_text('{"work": "W1"}')
    with pytest.raises(ValueError, match="list of rows"):
        rows.read_rows(tmp_path / "rows.json")


def test_best_is_the_best_of_all_and_median_the_median_of_medians() -> None:
    runs = [one_run([9.0, 3.0, 5.0], wall=4.0), one_run([8.0, 2.0, 7.0], wall=1.0), one_run([6.0], wall=2.0)]
    found = rows.summarise("W1", "galaxy", runs, machine={"cpu": "x"})
    assert found.round_seconds_best == 2.0
    assert found.round_seconds_median == 6.0  # of 5, 7 and 6
    assert found.process_seconds == 2.0
    assert found.peak_mb == 92.0
    assert found.extra["process_seconds_best"] == 1.0
    assert found.extra["repeats"] == 3
    assert found.extra["machine"] == {"cpu": "x"}


def test_no_runs_and_runs_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one run"):
        rows.summarise("W1", "galaxy", [])
    with pytest.raises(ValueError, match="different weights"):
        rows.summarise("W1", "galaxy", [one_run([1.0]), one_run([1.0], checksum=11.0)])


@pytest.mark.parametrize(
    ("checksum", "placed", "is_same"),
    [
        (1000.9, 0.0, True),
        (1001.1, 0.0, False),
        (1000.0, 0.499, True),
        (1000.0, 0.501, False),
        (math.nan, 0.0, False),
        (1000.0, math.nan, False),
    ],
)
def test_the_same_work_is_the_same_weights_up_to_rounding(
    checksum: float, placed: float, is_same: bool
) -> None:
    one = {"checksum": 1000.0, "checksum_placed": 0.0}
    other = {"checksum": checksum, "checksum_placed": placed}
    assert rows.same_work(one, other, parameters=100) is is_same


def test_seconds_are_told_in_the_unit_that_suits() -> None:
    told = [rows.seconds(value) for value in (0.00034, 0.0123, 1.5, 44.04, 1234.4)]
    assert told == ["340 us", "12.3 ms", "1.5 s", "44 s", "1234 s"]


# ---- workloads


def test_the_workloads_have_the_sizes_they_say() -> None:
    assert W1.parameters == 2_410
    assert W2.parameters == 62_006
    assert [len(part) for part in data.schedule(W2)] == [20] * 5
    assert all(len(set(part.tolist())) == 20 for part in data.schedule(W2))


def test_the_digits_are_dealt_out_whole_and_come_back_from_their_files(tmp_path: Path) -> None:
    data.prepare(W1, tmp_path)
    found = data.load(W1, tmp_path)
    assert found.counts.sum() == 1_437
    assert found.counts.min() >= 1
    assert len(found.test_labels) == 360
    inputs, labels = data.digits()
    everything = np.concatenate([found.inputs, found.test_inputs])
    assert sorted(map(bytes, everything)) == sorted(map(bytes, inputs))
    assert (
        np.bincount(np.concatenate([found.labels, found.test_labels])).tolist()
        == np.bincount(labels).tolist()
    )
    assert found.owner(1)[1].tolist() == found.labels[found.offsets[1] : found.offsets[2]].tolist()


def test_flat_weights_come_back_under_their_names_and_a_swap_is_noticed() -> None:
    weights = data.initial_weights(W1)
    back = data.named_weights(W1, data.flat_weights(weights))
    assert all(np.array_equal(back[name], weights[name]) for name in weights)
    magnitude, placed = data.checksums(weights)
    swapped = weights | {"fc2.weight": weights["fc2.weight"][::-1]}
    assert data.checksums(swapped)[0] == pytest.approx(magnitude)
    one = {"checksum": magnitude, "checksum_placed": placed}
    other = dict(zip(("checksum", "checksum_placed"), data.checksums(swapped), strict=True))
    assert not rows.same_work(one, other, parameters=W1.parameters)


def test_everybody_has_rows_however_small_the_shares() -> None:
    labels = np.repeat(np.arange(3), 20)
    parts = data.dirichlet(labels, 10, alpha=0.2, rng=np.random.default_rng(0))
    assert min(part.size for part in parts) >= 1
    assert sorted(np.concatenate(parts).tolist()) == list(range(60))


def test_the_growing_network_has_about_the_parameters_asked_for() -> None:
    for parameters in PARAMETERS[:3]:
        graph = network(width(parameters))
        found = sum(entry.elements for entry in graph.state)
        assert abs(found - parameters) <= 0.02 * parameters
        assert [entry.name for entry in graph.state] == sorted(entry.name for entry in graph.state)
    assert first_weights(network(3))["fc2.weight"].shape == (3, 3)


# ---- targets and page


def test_targets_compare_ratios_and_what_was_not_measured_is_neither_met_nor_missed() -> None:
    measured = [
        row(round_seconds_best=0.001),
        row(system="flower", round_seconds_best=0.2),
        row(system="pfl", round_seconds_best=0.05),
    ]
    found = {verdict.name: verdict for verdict in targets.peer_verdicts(measured)}
    missed = found["W1 best round, times faster than flower"]
    assert missed.found == pytest.approx(200)
    assert missed.met is False
    assert found["W1 best round, times faster than pfl"].met is True
    assert found["W1 peak memory"].met is True
    absent = found["W2 best round, times faster than flower"]
    assert absent.met is None
    assert "not measured" in absent.line()


def test_a_budget_is_held_against_the_peak() -> None:
    measured = [
        row(work="budget-128", whole_budget_mib=128, peak_rss_mb=134.0),
        row(work="budget-64", whole_budget_mib=64, peak_rss_mb=70.0),
        row(work="path-values-1000x999985", round_seconds_best=1.0),
    ]
    found = {verdict.name: verdict.met for verdict in targets.scale_verdicts(measured)}
    assert found["peak under a budget of 128 MiB"] is True
    assert found["peak under a budget of 64 MiB"] is False
    assert found["path values of 1,000 owners, 1e6 parameters, one round"] is True


def machined(**changes: Any) -> Row:
    machine = {"cpu": "C", "cores": 2, "memory_gib": 23.5, "system": "S", "python": "3", "date": "2026-11-22"}
    return row(machine=machine, **changes)


def test_the_page_holds_exactly_what_the_results_files_say() -> None:
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    peers, scale = (rows.read_rows(rows.RESULTS / name) for name in ("peers.json", "scale.json"))
    overhead = render.overhead_rows(rows.RESULTS / "overhead.json")
    assert render.render(page, peers, scale, overhead) == page, "stale: run `python -m benchmarks.render`"


def test_a_page_is_renewed_from_rows_and_one_without_marks_is_refused() -> None:
    page = f"before\n{render.BEGIN}\nold\n{render.END}\nafter\n"
    found = render.render(page, [machined(), machined(system="flower", round_seconds_best=150.0)], [])
    assert found.startswith("before\n")
    assert found.endswith(f"{render.END}\nafter\n")
    assert "old" not in found
    assert "| Flower | 1.0 | 150 s | 1 s | 2 s | 100 MB | 300x | 1x | 1x | 0.25 |" in found
    assert "Measured on 2026-11-22: C, 2 cores, 23.5 GiB" in found
    assert "Not measured yet." in found
    assert render.render(found, [machined()], []) == render.render(page, [machined()], [])
    with pytest.raises(ValueError, match="begin figures"):
        render.render("no marks", [], [])
    with pytest.raises(ValueError, match="machine is missing"):
        render.render(page, [row()], [])


def test_what_the_protocol_costs_is_told_with_its_targets() -> None:
    machine = machined().extra["machine"]
    costs = [
        {"row": "time", "count": 2, "violations": 8.25, "target": 15.0, "unit": "%", "machine": machine},
        {"row": "bytes", "count": 24, "violations": 1.2, "target": 1.1, "unit": "x"},
        {"row": "more bytes", "count": 24, "violations": 12345.6, "target": None, "unit": "bytes"},
    ]
    found = render.figures([], [], costs)
    assert "| time | 8.25 % | <= 15 % | met |" in found
    assert "| bytes | 1.2 x | <= 1.1 x | missed |" in found
    assert "| more bytes | 12,346 bytes |  |  |" in found
    assert "What the protocol costs" not in render.figures([], [])


# ---- cases and programs


def test_cases_are_those_of_the_groups_and_fewer_when_quick() -> None:
    everything = [case.name for case in cases(("owners", "values", "coalitions"), quick=False)]
    quick = [case.name for case in cases(("owners",), quick=True)]
    assert everything[-2:] == ["path values", "coalitions"]
    assert everything[:5] == [f"owners-{10**power}" for power in range(1, 6)]
    assert quick == everything[:3]


def test_a_scripts_rows_are_read_and_anything_else_is_refused() -> None:
    assert rows_printed(json.dumps([FLAT, FLAT])) == {"rows": [FLAT, FLAT]}
    assert rows_printed(json.dumps(FLAT)) == {"rows": [FLAT]}
    for text in ("[]", "[1]", "3", "not JSON"):
        with pytest.raises(ValueError):
            rows_printed(text)


def program(text: str, **limits: Any) -> Run:
    return measuring.run([sys.executable, "-c", text], env=dict(os.environ), cwd=ROOT, **limits)


HOLDER = "import signal; held = bytearray(b'1') * 40_000_000; print('up', flush=True); signal.pause()"
PARENT = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {HOLDER!r}], stdout=subprocess.PIPE, start_new_session=True)
child.stdout.readline()
{{}}
"""


def test_the_memory_of_a_program_is_that_of_all_its_processes() -> None:
    measuring.adopt_orphans()
    others = frozenset(measuring.family())
    command = [sys.executable, "-c", PARENT.format(HOLDER)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        members = measuring.family(others)
        pss, rss, count = measuring.memory(members)
        assert members[0] == process.pid
        assert count == len(members) == 2
        assert 80_000_000 < pss < rss < 200_000_000
        process.kill()
        process.wait()
        assert measuring.memory([process.pid]) == (0, 0, 0)
    assert measuring.family(others) == members[1:]
    measuring.end_family(others)
    assert measuring.family(others) == []


def test_what_a_program_leaves_running_is_ended() -> None:
    told = f"import json; print({PREFIX!r} + json.dumps({{'child': child.pid}}))"
    found = program(PARENT.format(told))
    assert found.wall_s > 0
    assert found.peak_mb > 5
    with pytest.raises(ProcessLookupError):
        os.kill(found.result["child"], 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("raise SystemExit('broken here')", r"exit status 1\n.*broken here"),
        ("print('nothing')", "no result line"),
        (f"print({PREFIX!r} + '[]')", "not an object"),
    ],
)
def test_a_program_without_a_result_is_an_error(text: str, message: str) -> None:
    with pytest.raises(RunError, match=message):
        program(text)


def test_a_program_that_takes_too_long_is_ended() -> None:
    before = measuring.family()
    with pytest.raises(RunError, match="stopped after"):
        program("import time; time.sleep(600)", limit_s=0.2)
    assert measuring.family() == before


def test_weights_lie_in_order_of_name() -> None:
    tiny = Workload("tiny", 1, 1, 1, 1, 0.1, (("b", (2,)), ("a", (2, 3))))
    flat = np.arange(8, dtype=np.float32)
    back = data.named_weights(tiny, flat)
    assert back["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert back["b"].tolist() == [6, 7]
