"""A small run of ``benchmarks.fuzz``, and that it finds what it is there to find."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT))  # benchmarks is no installed package: it lies beside the tests

from benchmarks.fuzz import __main__ as fuzz  # noqa: E402
from benchmarks.fuzz import groups  # noqa: E402
from benchmarks.fuzz.child import Board  # noqa: E402
from benchmarks.fuzz.target import (  # noqa: E402
    Target,
    check_seeds,
    judge,
    peak_rss_bytes,
    quick_peak_bytes,
    stopwatch,
    try_inputs,
)
from benchmarks.fuzz.watch import Running  # noqa: E402

from galaxylearning.errors import DataRefused, MessageRefused  # noqa: E402
from galaxylearning.messages import records  # noqa: E402

SEED = 11
INPUTS = {"messages": 400, "sealed": 250, "tables": 250, "chain": 450}
"""Inputs for each parser of a group; the groups that load torch or listen are left to ``make fuzz``."""


@pytest.fixture(autouse=True)
def _recursion_limit_kept() -> Iterator[None]:
    before = sys.getrecursionlimit()
    yield
    sys.setrecursionlimit(before)


@pytest.mark.parametrize("group", list(INPUTS))
def test_thousands_of_bad_inputs_are_answered_by_a_value_or_a_refusal(group: str) -> None:
    targets = groups.load(group)
    with stopwatch():
        for target in targets:
            check_seeds(target)
            tally = try_inputs(target, SEED, range(INPUTS[group]))
            assert tally.violations == [], f"{group}/{target.name}:{SEED}:{tally.violations[0][0]}"
            assert tally.count == INPUTS[group]


def test_there_are_twenty_thousand_of_them_and_many_are_told_apart() -> None:
    loaded = {group: groups.load(group) for group in INPUTS}
    assert sum(INPUTS[group] * len(targets) for group, targets in loaded.items()) >= 17_500
    terms = next(target for target in loaded["messages"] if target.name == "terms")
    with stopwatch():
        tally = try_inputs(terms, SEED, range(400))
    assert len(tally.ways) > 100
    assert 0 < tally.accepted < 200


def test_every_kind_of_record_is_among_them() -> None:
    kinds = {name for name, kind in vars(records).items() if isinstance(kind, type) and is_kind(kind)}
    names = {target.name.removeprefix("record ") for target in groups.load("messages")}
    assert kinds <= names
    assert len(kinds) >= 20


def is_kind(kind: type) -> bool:
    """Whether a record is one that travels: it has a tag of its own."""
    return issubclass(kind, records.Record) and kind not in (records.Record, records.SignedRecord)


def test_an_input_is_the_same_whenever_it_is_asked_for() -> None:
    for target in groups.load("tables"):
        assert [target.input(3, i) for i in range(20)] == [target.input(3, i) for i in range(20)]
        assert len({target.input(3, i) for i in range(20)}) > 10
        assert target.input(4, 7) != target.input(3, 7)


def _wrong(data: bytes) -> object:
    return dict[bytes, object]()[data]


def _other_refusal(_: bytes) -> object:
    raise DataRefused("but a message was promised to be refused as one")


def _endless(_: bytes) -> object:
    raise MessageRefused("x" * 2_000)


def _greedy(_: bytes) -> object:
    raise MemoryError


@pytest.mark.parametrize(
    ("attempt", "part"),
    [
        (_wrong, "KeyError"),
        (_other_refusal, "DataRefused"),
        (_endless, "a message of 2016 characters"),
        (_greedy, "MemoryError"),
    ],
)
def test_what_is_neither_is_a_violation(attempt: object, part: str) -> None:
    target = Target("planted", [b"seed"], attempt, (MessageRefused,))  # type: ignore[arg-type]
    with stopwatch():
        outcome = judge(target, b"data")
    assert outcome.verdict == "violation"
    assert part in outcome.why


def test_a_hang_is_a_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(_: bytes) -> object:
        while True:
            pass

    monkeypatch.setattr("benchmarks.fuzz.target.SECONDS", 0.05)
    with stopwatch():
        outcome = judge(Target("planted", [b"seed"], hang, ()), b"data")
    assert outcome.verdict == "violation"
    assert outcome.why == "took more than 0.05 s"


def test_a_refused_seed_is_an_error_of_the_benchmark() -> None:
    with stopwatch(), pytest.raises(ValueError, match=r"planted, seed 0: .*DataRefused"):
        check_seeds(Target("planted", [b"seed"], _other_refusal, (DataRefused,)))


class Ended:
    """A process that is over."""

    def __init__(self, status: int) -> None:
        self._status = status

    def poll(self) -> int:
        return self._status

    def communicate(self) -> tuple[str, str]:
        return "", ""


def test_an_input_that_ends_the_process_is_told_of_and_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "messages.names").write_text(json.dumps(["terms", "event"]))
    board = Board(tmp_path / "messages.board", 2)
    board.current = 1
    board.write(1, [41, 41, 3, 10**9])
    started: list[str] = []
    running = Running("messages", 5, 1.0, tmp_path)
    monkeypatch.setattr(Running, "start", lambda self: started.append(self.group))
    running._process = Ended(-signal.SIGSEGV)  # type: ignore[assignment]
    running.poll()
    assert running.findings == [("messages/event:5:41", "ended the process (status -11)")]
    assert started == ["messages"]
    assert board.row(1) == [42, 42, 3, 10**9]
    found = fuzz.violations([running], tmp_path)
    rows = fuzz.result_rows([running], found, 5)
    assert [row["violations"] for row in rows] == [1, 0, 1]
    assert rows[0]["count"] == 42
    assert all(row["target"] == 0 for row in rows)


def test_one_group_runs_in_a_process_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    environment = {"PYTHONPATH": os.pathsep.join((str(ROOT / "src"), str(ROOT)))}
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        words: Sequence[str] = ("--quick", "--group", "sealed", "--budget-minutes", "0.003", "--jobs", "1")
        assert fuzz.main(words) == 0
    finally:
        os.environ.clear()
        os.environ.update(before)
    said = capsys.readouterr().out
    assert "sealed envelope" in said
    assert "0 violations" in said
    assert said.endswith("verdict: ok\n")


def test_memory_is_that_of_the_process_alone() -> None:
    """What getrusage tells begins with the memory of whoever started the process."""
    assert peak_rss_bytes() <= quick_peak_bytes() + (1 << 20)
    held = bytearray(64 << 20)
    assert peak_rss_bytes() > len(held)


def test_an_input_is_replayed(capsys: pytest.CaptureFixture[str]) -> None:
    assert fuzz.main(["--replay", "messages/terms:1:3"]) == 0
    said = capsys.readouterr().out
    assert "bytes: b'" in said
    assert "refused JobRefused" in said or "accepted" in said
    with pytest.raises(ValueError, match="no parser 'nothing'"):
        fuzz.main(["--replay", "messages/nothing:1:3"])
