"""A small sealed job file with six simulated data owners, two of them useless; and how it is run and read."""

from __future__ import annotations

import json
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from galaxylearning.cli import main as galaxy
from galaxylearning.simulation.result import SimulationResult

BOUNTY = 1000 * 10**18
JOB_FILE = """
import torch
from torch import nn
import galaxylearning as gl
schema = gl.schema_of("test.csv", label="kind")
torch.manual_seed(0)
job = gl.Job(
    title="Kinds of things",
    model=nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 2)),
    loss="cross_entropy", schema=schema, test_data="test.csv", privacy="sealed",
    plan=gl.Plan(rounds=4, learning_rate=0.3, steps=4, batch_size=16, clip_norm=2.0, minimum_owners=2),
    price=gl.Price(bounty="1000", target_gain=0.6),
)
simulation = gl.Simulation(data="rows.csv", owners=6, behaviours=["zero@0", "sign-flip@1"])
"""


def write_rows(path: Path, rows: int, *, seed: int) -> None:
    """Points of two kinds that overlap."""
    rng = np.random.default_rng(seed)
    kinds = np.arange(rows) % 2
    points = np.where(kinds, 1.2, -1.2)[:, None] + rng.normal(0, 1.4, (rows, 2))
    lines = [f"{a:.4f},{b:.4f},{'square' if k else 'round'}" for (a, b), k in zip(points, kinds, strict=True)]
    path.write_text("height,width,kind\n" + "\n".join(lines) + "\n")


def write_job_file(folder: Path) -> Path:
    """A job file with a hidden test set and rows for its data owners."""
    write_rows(folder / "test.csv", 160, seed=1)
    write_rows(folder / "rows.csv", 240, seed=2)
    path = folder / "job.py"
    path.write_text(JOB_FILE)
    return path


def run(path: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit code and document of ``galaxy simulate``."""
    output = StringIO()
    with redirect_stdout(output), pytest.raises(SystemExit) as ended:
        galaxy(["simulate", str(path), "--format", "json", "--no-plot", *arguments])
    code = ended.value.code
    assert isinstance(code, int)
    return code, json.loads(output.getvalue()) if output.getvalue() else {}


def pays(result: SimulationResult) -> dict[str, int]:
    """Who is paid what, by name."""
    return {row.name: row.pay for row in result.report.owners}
