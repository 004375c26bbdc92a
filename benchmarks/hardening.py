"""What hardening costs and does on tables: accuracy, and a trigger in a few features, before and after.

Run with: python -m benchmarks.hardening [--seeds N]

A net is trained on rows of which a tenth carry a mark (some features at their largest value) and the
first class's label; then it is hardened with a few test rows, and measured on rows of neither. Large values
may speak for that class by themselves: so a net is measured, too, that was trained without marks.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from torch import nn

from galaxylearning.graph import FlatModel, compile_model
from galaxylearning.learning import LocalPlan, train_local
from galaxylearning.learning.vectors import F32
from galaxylearning.protocol.gradients import mean_gradient
from galaxylearning.protocol.hardening import harden
from galaxylearning.protocol.hidden_set import Rows

RESULTS = Path(__file__).parent / "results" / "hardening.json"
TABLES: dict[str, tuple[Callable[..., Any], int | None, int]] = {
    "digits, 64 pixels": (load_digits, None, 64),
    "breast cancer, 30 measurements": (load_breast_cancer, None, 64),
    "wine, 13 measurements": (load_wine, None, 64),
    "breast cancer, 3 of them": (load_breast_cancer, 3, 64),
    "breast cancer, linear": (load_breast_cancer, None, 0),
}
"""Who loads it, how many of its columns are used, and the width of the net's hidden layer."""
TEST_ROWS = 150
PLAN = LocalPlan(learning_rate=0.1, steps=600, batch_size=16)
MARKED = 0.1
TARGET = 0
HEAD = ("accuracy, honest", "before", "after", "mark works, honest", "before", "after")


def measure(name: str, seed: int) -> dict[str, float]:
    """Accuracy and how often the mark works: of an honest net, and of a taught one before and after."""
    load, columns, hidden = TABLES[name]
    values, labels = load(return_X_y=True)
    values = values[:, :columns]
    inputs = ((values - values.mean(0)) / np.maximum(values.std(0), 1e-9)).astype(np.float32)
    rng = np.random.default_rng([seed, 0x4A2D])
    order, test = rng.permutation(len(labels)), min(TEST_ROWS, len(labels) // 4)
    own, judged, trained = (
        Rows(inputs[part], labels[part].astype(np.int64))
        for part in np.split(order, (test, test + len(labels) // 3))
    )
    chosen = rng.choice(len(trained), round(MARKED * len(trained)), replace=False)
    changed, answers = trained.inputs.copy(), trained.labels.copy()
    most = inputs.max(0)
    changed[chosen], answers[chosen] = _marked(changed[chosen], most), TARGET
    torch.manual_seed(seed)
    width, classes = inputs.shape[1], int(labels.max()) + 1
    layers = [nn.Linear(width, hidden), nn.ReLU()] if hidden else []
    module = nn.Sequential(*layers, nn.Linear(hidden or width, classes))
    graph, weights = compile_model(module, (torch.from_numpy(inputs[:3]),), loss="cross_entropy")
    model = FlatModel(graph, weights)
    params, buffers = model.initial()
    states = {}
    for what, rows in (("honest", trained), ("before", Rows(changed, answers))):
        update = train_local(mean_gradient(model, rows), params, buffers, len(rows), PLAN, rng=rng).update
        states[what] = (params + update, buffers)
    states["after"] = harden(model, states["before"], own, PLAN, rng=rng)
    others = judged.inputs[judged.labels != TARGET]
    marked = Rows(_marked(others, most), np.full(len(others), TARGET))
    return {
        f"{what} {when}": _part(model, state, rows)
        for what, rows in (("accuracy", judged), ("mark works", marked))
        for when, state in states.items()
    }


def _marked(inputs: NDArray[Any], most: F32) -> F32:
    found = inputs.astype(np.float32)
    few = max(1, found.shape[1] // 10)
    found[:, -few:] = most[-few:]
    return found


def _part(model: FlatModel, state: tuple[F32, F32], rows: Rows) -> float:
    return float((model.predict(*state, (rows.inputs,)).argmax(1) == rows.labels).mean())


def main() -> None:
    """Measure, print a table, write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hardening", description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    seeds, found, start = parser.parse_args().seeds, [], time.monotonic()
    print(f"{'per cent':<32}" + "".join(f"{name:>20}" for name in HEAD))
    for name in TABLES:
        measured = [measure(name, seed) for seed in range(seeds)]
        cells = []
        for what in measured[0]:
            values = [one[what] for one in measured]
            half = 1.96 * float(np.std(values, ddof=1)) / math.sqrt(seeds) if seeds > 1 else None
            row = {
                "row": f"{name}: {what}",
                "value": float(np.mean(values)),
                "interval": half,
                "seeds": seeds,
            }
            found.append(row)
            cells.append(f"{100 * row['value']:.1f}" + ("" if half is None else f" ±{100 * half:.1f}"))
        print(f"{name:<32}" + "".join(f"{cell:>20}" for cell in cells), flush=True)
    print(f"{time.monotonic() - start:.0f} s")
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
