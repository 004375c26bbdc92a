"""``galaxy simulate`` on what ``galaxy new`` writes: seconds to the first line, to the first round, in all.

Run as: python -m benchmarks.scale.simulate
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from itertools import pairwise

from benchmarks.measuring import PREFIX

from galaxylearning import __version__

GALAXY = (sys.executable, "-m", "galaxylearning.cli")


def main() -> None:
    """Make the job in an empty folder, simulate it, and say when its lines came."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([*GALAXY, "new", "my-job"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        begun = time.perf_counter()
        with subprocess.Popen(
            [*GALAXY, "simulate", "my-job/job.py"], cwd=folder, stdout=subprocess.PIPE, text=True
        ) as process:
            lines = process.stdout or ()
            told = [(time.perf_counter() - begun, line) for line in lines]
        whole = time.perf_counter() - begun
        if process.returncode != 0:
            raise SystemExit(f"galaxy simulate ended with status {process.returncode}")
    rounds = [moment for moment, line in told if line.startswith("round ")]
    if len(rounds) < 2:
        raise SystemExit("galaxy simulate told of fewer than two rounds")
    result = {
        "version": __version__,
        "rounds": [after - before for before, after in pairwise(rounds)],
        "checksum": 0.0,
        "checksum_placed": 0.0,
        "first_line_seconds": told[0][0],
        "first_round_seconds": rounds[0],
        "whole_seconds": whole,
    }
    print(PREFIX + json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
