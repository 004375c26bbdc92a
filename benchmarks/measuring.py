"""One run of a program: its result, its wall time, and the memory of all its processes.

Memory is read from /proc, so this needs Linux. The PSS of a process counts a page that n processes share as
1/n, so that the sum over a program's processes counts every page once; the sum of RSS counts it n times. What
runs this must load no library that the measured program loads, or it would share those pages with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

PROC = Path("/proc")
MEGABYTE = 1_000_000

PREFIX = "RESULT "
"""Begins the one line of JSON that a measured program says at its end."""

SHORTEST_PAUSE_S = 0.02
PAUSES_PER_SAMPLE = 25
"""Between two samples lies at least this many times what one takes: the measured program keeps its cores."""

QUIET_S = 0.3
_PR_SET_CHILD_SUBREAPER = 36


class RunError(Exception):
    """A measured program ended without a result; the message holds the end of what it printed."""


@dataclass(frozen=True, slots=True)
class Run:
    """What one run gave.

    ``result`` is the program's own JSON line. ``peak_mb`` is the largest sum of PSS seen over all its
    processes, never less than the RSS of its first, and ``peak_rss_mb`` that of RSS, in megabytes of 10^6
    bytes. ``load`` is the machine's load
    average and ``busy`` the busy part of all cores, 0..1, both just before the start.
    """

    result: dict[str, Any]
    wall_s: float
    peak_mb: float
    peak_rss_mb: float
    processes: int
    load: float
    busy: float


def last_result(text: str) -> dict[str, Any]:
    """The last result line in what a program printed.

    Raises:
        ValueError: there is none.
    """
    lines = [line for line in text.splitlines() if line.startswith(PREFIX)]
    if not lines:
        raise ValueError("no result line")
    result = json.loads(lines[-1].removeprefix(PREFIX))
    if not isinstance(result, dict):
        raise ValueError("the result is not an object")
    return result


def run(
    command: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path,
    limit_s: float = 900,
    read: Callable[[str], dict[str, Any]] = last_result,
) -> Run:
    """Run ``command`` in a session of its own and wait for it; what it leaves running is ended.

    ``read`` finds the result in what the program wrote to its standard output.

    Raises:
        RunError: exit status other than 0, no result, or more than ``limit_s`` seconds.
    """
    adopt_orphans()
    others = frozenset(family())
    load, busy = os.getloadavg()[0], busy_share(QUIET_S)
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as messages:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, env=dict(env), cwd=cwd, stdout=output, stderr=messages, start_new_session=True
        )
        try:
            pss, rss, most, wall_s = _watch(process, start, limit_s, others)
        except BaseException:
            process.kill()
            process.wait()
            raise
        finally:
            end_family(others)
        text, said = _text(output), _text(messages)
    name = " ".join(command)
    if process.returncode != 0:
        raise RunError(f"{name}: exit status {process.returncode}\n{text[-1500:]}{said[-3000:]}")
    try:
        result = read(text)
    except ValueError as error:
        raise RunError(f"{name}: {error}\n{text[-1500:]}{said[-3000:]}") from None
    return Run(result, wall_s, pss / MEGABYTE, rss / MEGABYTE, most, load, busy)


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode("utf-8", errors="replace")


def _watch(
    process: subprocess.Popen[bytes], start: float, limit_s: float, others: frozenset[int]
) -> tuple[int, int, int, float]:
    """Sample until the process has ended: peak PSS and RSS in bytes, most processes at once, wall seconds."""
    peak_pss = peak_rss = most = 0
    ending = select.poll()
    descriptor = os.pidfd_open(process.pid)
    ending.register(descriptor, select.POLLIN)
    try:
        while True:
            before = time.perf_counter()
            pss, rss, count = memory(family(others))
            peak_pss, peak_rss, most = max(peak_pss, pss), max(peak_rss, rss), max(most, count)
            now = time.perf_counter()
            if now - start > limit_s:
                raise RunError(f"process {process.pid} stopped after {limit_s:.0f} s")
            if ending.poll(1e3 * max(SHORTEST_PAUSE_S, PAUSES_PER_SAMPLE * (now - before))):
                break
    finally:
        os.close(descriptor)
    wall_s = time.perf_counter() - start
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    # What the kernel counted for the first process bounds both sums from below, between samples too.
    alone = 1024 * usage.ru_maxrss
    return max(peak_pss, alone), max(peak_rss, alone), most, wall_s


def adopt_orphans() -> None:
    """Make this process the parent of descendants that lose theirs, so that daemons are counted and ended.

    Raises:
        OSError: the system refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def family(others: frozenset[int] = frozenset()) -> list[int]:
    """Process ids of all descendants of this process but ``others`` and theirs."""
    found: list[int] = []
    waiting = [os.getpid()]
    while waiting:
        for file in (PROC / str(waiting.pop()) / "task").glob("*/children"):
            try:
                born = [int(child) for child in file.read_text(encoding="ascii").split()]
            except OSError:
                continue  # it has ended in the meantime
            fresh = [pid for pid in born if pid not in others]
            found += fresh
            waiting += fresh
    return found


def memory(pids: Sequence[int]) -> tuple[int, int, int]:
    """Sums of PSS and of RSS in bytes over the processes, and how many of them could be read."""
    pss = rss = count = 0
    for pid in pids:
        try:
            rollup = (PROC / str(pid) / "smaps_rollup").read_text(encoding="ascii")
        except OSError:
            continue  # it has ended in the meantime
        sizes = dict(line.split()[:2] for line in rollup.splitlines()[1:])
        pss += 1024 * int(sizes.get("Pss:", 0))
        rss += 1024 * int(sizes.get("Rss:", 0))
        count += 1
    return pss, rss, count


def end_family(others: frozenset[int]) -> None:
    """Kill and reap every descendant of this process but ``others`` and theirs."""
    while born := family(others):
        for pid in born:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in born:
            # Those whose parent is another descendant are reaped in the next turn, as orphans.
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def busy_share(seconds: float) -> float:
    """Which part of all cores was busy during the next ``seconds``, 0..1: this program only waits."""
    before = _cpu_times()
    time.sleep(seconds)
    spent = [now - then for now, then in zip(_cpu_times(), before, strict=True)]
    idle = spent[3] + spent[4]
    return 1.0 - idle / max(sum(spent), 1)


def _cpu_times() -> list[int]:
    first = (PROC / "stat").read_text(encoding="ascii").partition("\n")[0]
    return [int(field) for field in first.split()[1:9]]
