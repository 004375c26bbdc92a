"""One group of parsers in a process of its own, under limits of memory and time: ``child.py GROUP ...``.

What is done is written to a shared file after every input, so that a process that is killed has told on
which input it was.
"""

from __future__ import annotations

import json
import mmap
import resource
import struct
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.fuzz import groups
from benchmarks.fuzz.target import (
    MAX_RSS_BYTES,
    MAX_WAYS,
    Target,
    check_seeds,
    judge,
    peak_rss_bytes,
    quick_peak_bytes,
    stopwatch,
    way,
)

ROW: Final = struct.Struct("<QQQQ")
"""Per target: the next input's index, inputs tried, inputs accepted, nanoseconds of processor time."""
HEAD: Final = struct.Struct("<q")
"""Number of the target at work, -1 before the first and after the last."""
SLICE: Final = 64
"""Inputs of one parser before the next parser's turn."""
EXIT_MEMORY: Final = 77


class Board:
    """The shared file."""

    def __init__(self, path: Path, count: int) -> None:
        size = HEAD.size + ROW.size * count
        if not path.exists():
            path.write_bytes(HEAD.pack(-1) + bytes(size - HEAD.size))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), size)

    @property
    def current(self) -> int:
        """The target at work."""
        return int(HEAD.unpack_from(self._map)[0])

    @current.setter
    def current(self, number: int) -> None:
        HEAD.pack_into(self._map, 0, number)

    def row(self, number: int) -> list[int]:
        """Counts of a target."""
        return list(ROW.unpack_from(self._map, HEAD.size + ROW.size * number))

    def write(self, number: int, row: Sequence[int]) -> None:
        """Set the counts of a target."""
        ROW.pack_into(self._map, HEAD.size + ROW.size * number, *row)


def limit_memory() -> None:
    """Whatever an input asks for beyond what is held now: at most ``MAX_RSS_BYTES`` of address space."""
    with open("/proc/self/statm", encoding="ascii") as file:
        held = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MAX_RSS_BYTES, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def save_violation(folder: Path, target: Target, seed: int, index: int, why: str) -> None:
    """The input and what it did, under a name that replays it."""
    name = f"{target.name.replace(' ', '_')}-{seed}-{index}"
    (folder / f"{name}.bin").write_bytes(target.input(seed, index))
    (folder / f"{name}.json").write_text(
        json.dumps({"input": f"{target.name}:{seed}:{index}", "why": why}), encoding="utf-8"
    )


def work(targets: Sequence[Target], board: Board, seed: int, budget_s: float, folder: Path) -> list[set[str]]:
    """Try inputs until the time is used up, parsers in turns by their shares of it; the refusals of each."""
    ways: list[set[str]] = [set() for _ in targets]
    suspicious = max(MAX_RSS_BYTES, quick_peak_bytes())
    while True:
        rows = [board.row(number) for number in range(len(targets))]
        if sum(row[3] for row in rows) >= budget_s * 1e9:
            break
        number = min(range(len(targets)), key=lambda n: rows[n][3] / targets[n].share)
        target, row = targets[number], rows[number]
        board.current = number
        # The clock of the thread: that of the process stands still for moments while its alarm is set.
        started = time.thread_time_ns()
        for _ in range(SLICE):
            index = row[0]
            outcome = judge(target, target.input(seed, index))
            row[0], row[1] = index + 1, row[1] + 1
            row[2] += outcome.verdict == "accepted"
            board.write(number, row)
            if outcome.verdict == "violation":
                save_violation(folder, target, seed, index, outcome.why)
            elif outcome.verdict == "refused" and len(ways[number]) < MAX_WAYS:
                ways[number].add(way(outcome))
            if quick_peak_bytes() > suspicious and peak_rss_bytes() > MAX_RSS_BYTES:
                why = f"the process holds {peak_rss_bytes()} bytes; at most {MAX_RSS_BYTES} are allowed"
                save_violation(folder, target, seed, index, why)
                sys.exit(EXIT_MEMORY)
        row[3] += time.thread_time_ns() - started
        board.write(number, row)
        if peak_rss_bytes() > MAX_RSS_BYTES:  # less than what the starting process held: seen only here
            save_violation(folder, target, seed, row[0] - 1, f"one of the last {SLICE} took too much memory")
            sys.exit(EXIT_MEMORY)
    board.current = -1
    return ways


def main() -> None:
    """Arguments: group, seed, seconds of processor time, folder. Prints what was seen as JSON."""
    group, seed, budget_s, folder = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), Path(sys.argv[4])
    targets = groups.load(group)
    names = [target.name for target in targets]
    if not (folder / f"{group}.names").exists():  # else somebody may be reading it
        (folder / f"{group}.names").write_text(json.dumps(names), encoding="utf-8")
    board = Board(folder / f"{group}.board", len(targets))
    limit_memory()
    with stopwatch():
        for target in targets:
            check_seeds(target)
        ways = work(targets, board, seed, budget_s, folder)
    found = {"ways": [len(some) for some in ways], "peak_bytes": peak_rss_bytes()}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
