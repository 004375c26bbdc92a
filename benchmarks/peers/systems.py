"""Which programs are measured, in which environment, on which work."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
HERE = Path(sys.executable)


@dataclass(frozen=True, slots=True)
class System:
    """One measured program: ``python -m benchmarks.peers.<module> <work>`` in an environment of its own."""

    name: str
    module: str
    works: tuple[str, ...]
    python: Path
    is_comparable: bool = True
    """Whether its final weights must be those of the others."""

    def command(self, work: str) -> list[str]:
        """The command line for one piece of work."""
        return [str(self.python), "-m", f"benchmarks.peers.{self.module}", work]


def _other(folder: str) -> Path:
    return ROOT / "benchmarks" / folder / "bin" / "python"


SYSTEMS = (
    System("galaxy", "galaxy_run", ("W1", "W2"), HERE),
    System("galaxy-paid", "galaxy_paid", ("W1",), HERE, is_comparable=False),
    System("bare", "bare_dense", ("W1",), HERE),
    System("bare", "bare_torch", ("W2",), HERE),
    System("torch-loop", "torch_loop", ("W1", "W2"), HERE),
    System("pfl", "pfl_run", ("W1", "W2"), _other(".venv-pfl")),
    System("flower", "flower_run", ("W1", "W2"), _other(".venv-flower")),
)


def environment() -> dict[str, str]:
    """What every measured program finds in its environment: one thread each, nothing reported anywhere."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LANG") if name in os.environ}
    return kept | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
