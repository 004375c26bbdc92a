"""A small kill matrix: SIGKILL at drawn steps and moments changes nothing, unless memory is lost with it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def matrix(*options: str) -> subprocess.CompletedProcess[str]:
    """Run the kill matrix in a process of its own: it forks, and no thread of ours may be around then."""
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.kills", "--quick", *options],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": f"{REPOSITORY / 'src'}:{REPOSITORY}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_twenty_kills_change_nothing() -> None:
    done = matrix("--kills", "20", "--at-once", "10", "--seed", "4")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    last = done.stdout.splitlines()[-1]
    assert last.startswith("ok: 20 kills")
    assert "0 violations" in last


def test_victims_that_lose_their_memory_are_noticed() -> None:
    done = matrix("--kills", "8", "--at-once", "8", "--seed", "4", "--forgetful")
    assert done.returncode == 1, done.stdout[-3000:] + done.stderr[-3000:]
    assert "VIOLATION sealed seed 4" in done.stdout
