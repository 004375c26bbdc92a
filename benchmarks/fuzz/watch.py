"""Running groups of parsers in processes of their own: a crash or a hang is a finding, not the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.fuzz.child import Board
from benchmarks.fuzz.target import SECONDS

HANG_CPU_S: Final = 4 * SECONDS
"""Processor time on one input after which a process is killed: whatever runs does not hear the alarm."""
HANG_WALL_S: Final = 180.0
POLL_S: Final = 0.25
MAX_RESTARTS: Final = 40

_TICK: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Tried:
    """One parser: inputs tried and accepted, different refusals, processor time."""

    name: str
    count: int
    accepted: int
    ways: int
    seconds: float


@dataclass
class Running:
    """A group at work; ``findings`` are crashes and hangs, by the input that did it."""

    group: str
    seed: int
    budget_s: float
    folder: Path
    findings: list[tuple[str, str]] = field(default_factory=list)
    said: dict[str, Any] = field(default_factory=dict)
    restarts: int = 0
    is_done: bool = False
    _process: subprocess.Popen[str] | None = None
    _seen: tuple[int, float, float] = (-1, 0.0, 0.0)

    def start(self) -> None:
        """Start the process, or start it again after an input that ended it."""
        command = [sys.executable, "-X", "faulthandler", "-m", "benchmarks.fuzz.child"]
        command += [self.group, str(self.seed), str(self.budget_s), str(self.folder)]
        with (self.folder / f"{self.group}.errors").open("a", encoding="utf-8") as errors:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        self._seen = (-1, 0.0, time.monotonic())

    def poll(self) -> None:
        """Look after it: note how it ended, start it again, or end it where it hangs."""
        assert self._process is not None  # noqa: S101
        status = self._process.poll()
        if status is None:
            if self._hangs():
                self.stop()
                self._found("took so long that the process had to be killed")
            return
        if status == 0:
            self.said = json.loads(self._process.communicate()[0])
            self.is_done = True
        else:
            self._process.communicate()
            self._found(f"ended the process (status {status})")

    def _found(self, what: str) -> None:
        board = self._board()
        if board is None or board.current < 0:
            raise RuntimeError(
                f"{self.group} {what} before its first input: see {self.folder}/{self.group}.errors"
            )
        number = board.current
        row = board.row(number)
        self.findings.append((f"{self.group}/{self._names()[number]}:{self.seed}:{row[0]}", what))
        board.write(number, [row[0] + 1, row[1] + 1, *row[2:]])
        self.restarts += 1
        if self.restarts > MAX_RESTARTS:
            self.is_done = True
        else:
            self.start()

    def _hangs(self) -> bool:
        board = self._board()
        if board is None or self._process is None:
            return False
        done = sum(board.row(number)[0] for number in range(len(self._names())))
        used, now = _processor_s(self._process.pid), time.monotonic()
        if done != self._seen[0]:
            self._seen = (done, used, now)
        return used - self._seen[1] > HANG_CPU_S or now - self._seen[2] > HANG_WALL_S

    def _names(self) -> list[str]:
        names: list[str] = json.loads((self.folder / f"{self.group}.names").read_text(encoding="utf-8"))
        return names

    def _board(self) -> Board | None:
        path = self.folder / f"{self.group}.board"
        return Board(path, len(self._names())) if path.exists() else None

    def tried(self) -> list[Tried]:
        """What was done, parser by parser."""
        board, names = self._board(), self._names()
        if board is None:
            return []
        ways = self.said.get("ways", [0] * len(names))
        rows = [board.row(number) for number in range(len(names))]
        return [
            Tried(name, row[1], row[2], seen, row[3] / 1e9)
            for name, row, seen in zip(names, rows, ways, strict=True)
        ]

    def stop(self) -> None:
        """End the process, where there is one."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.communicate()


def _processor_s(pid: int) -> float:
    """Processor time that a process has used."""
    try:
        fields = (
            Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        )
    except FileNotFoundError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICK


def run_groups(
    shares: dict[str, float], seed: int, budget_s: float, folder: Path, jobs: int
) -> list[Running]:
    """Every group for its share of ``budget_s`` seconds of processor time, ``jobs`` at a time."""
    waiting = [Running(group, seed, budget_s * share, folder) for group, share in shares.items()]
    all_groups, at_work = list(waiting), list[Running]()
    try:
        while waiting or at_work:
            while waiting and len(at_work) < jobs:
                at_work.append(waiting.pop(0))
                at_work[-1].start()
            time.sleep(POLL_S)
            for running in at_work:
                running.poll()
            at_work = [running for running in at_work if not running.is_done]
    finally:
        for running in at_work:
            running.stop()
    return all_groups
