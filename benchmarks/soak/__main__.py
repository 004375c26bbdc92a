"""One set of long-lived nodes serves many jobs under mild faults: ``python -m benchmarks.soak``.

Exits with 1 where something did not hold or memory grew. Time is virtual; contracts, sealing and training
are real. Faults, order and data follow from ``--seed``; envelopes do not, so two runs of a seed are alike and
not the same.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Final

from benchmarks.rows import RESULTS
from benchmarks.soak import cast
from benchmarks.soak.play import LONGEST_DRIFT_PERCENT, Soaked, soak

JOBS, QUICK_JOBS = 100, 5
OUTPUT: Final = RESULTS / "soak.json"


def main(arguments: list[str] | None = None) -> int:
    """Run it; the exit status."""
    options = _options(arguments)
    misbehaving = len(cast.MISBEHAVING_OWNERS) + 2
    nodes = len(cast.EVALUATORS) + len(cast.OWNERS) + 1
    print(f"{options.jobs} jobs from seed {options.seed}, {nodes} nodes, {misbehaving} of them misbehave")
    with tempfile.TemporaryDirectory(prefix="galaxy-soak-") as folder:
        found = soak(Path(folder), jobs=options.jobs, seed=options.seed, tell=_tell)
    return _verdict(options, found)


def _tell(line: str) -> None:
    print(line, flush=True)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--jobs", type=int, help=f"how many jobs (default {JOBS})")
    parser.add_argument("--seed", type=int, default=1, help="of faults, order and data")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_JOBS} jobs, and nothing written")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args(arguments)
    options.jobs = options.jobs if options.jobs is not None else QUICK_JOBS if options.quick else JOBS
    if options.jobs < 1:
        parser.error("--jobs is at least 1")
    return options


def _verdict(options: argparse.Namespace, found: Soaked) -> int:
    rows = found.rows(options.seed)
    print(f"\n{'':<58}{'count':>8}{'violations':>12}{'target':>8}")
    for row in rows:
        print(f"{row['row']:<58}{row['count']:>8,}{row['violations']:>12,.4g}{row['target']:>8}")
    print(", ".join(f"{count:,} {kind}" for kind, count in sorted(found.faults.items())))
    print("bytes per job: " + ", ".join(f"{name} {size:,}" for name, size in found.bytes_per_job.items()))
    is_short = options.jobs < JOBS
    is_good = not found.problems and (is_short or found.drift_percent < LONGEST_DRIFT_PERCENT)
    drift = "too few jobs to tell of drift" if is_short else f"memory drift {found.drift_percent:.2f} %"
    print(f"{'ok' if is_good else 'FAILED'}: {options.jobs} jobs, {len(found.problems)} violations, {drift}")
    if not options.quick:
        options.output.write_text(json.dumps(rows, indent=1) + "\n")
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
