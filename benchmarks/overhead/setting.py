"""The job that is measured: twelve data owners with much data, a network of 300,000 parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from benchmarks.things import windows
from numpy.typing import NDArray
from torch import nn

from galaxylearning.messages.plan import Plan
from galaxylearning.messages.terms import Column, Schema
from galaxylearning.protocol.job import CompiledJob, Job, Price, compile_job
from galaxylearning.protocol.rows import encode_rows

FEATURES: Final = tuple(f"x{number:02d}" for number in range(64))
CLASSES: Final = tuple("abcdefghij")
WINDOW_S: Final = 3_600
SCHEMA: Final = Schema(
    features=tuple(Column(name, "number") for name in FEATURES),
    label=Column("kind", "category", classes=CLASSES),
)
SEATS: Final[Mapping[str, int]] = {"sealed": 3, "masked": 5}


@dataclass(frozen=True, slots=True)
class Setting:
    """How much there is of everything; ``epochs`` decides how long a round trains."""

    owners: int = 12
    rows: int = 2_000
    test_rows: int = 600
    hidden_units: int = 512
    rounds: int = 4
    epochs: int = 1
    poll_s: float = 0.5
    stagger_s: float = 2.0


def table(rows: int, *, seed: int) -> dict[str, NDArray[Any]]:
    """Rows of 64 numbers whose class is the largest of ten fixed directions, with some noise."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(rows, len(FEATURES)))
    teacher = np.random.default_rng(0).normal(size=(len(FEATURES), len(CLASSES)))
    kinds = np.argmax(values @ teacher + rng.normal(0, 2, (rows, len(CLASSES))), axis=1)
    found: dict[str, NDArray[Any]] = {name: values[:, place] for place, name in enumerate(FEATURES)}
    found["kind"] = np.array(CLASSES, dtype=object)[kinds]
    return found


def compiled(setting: Setting, privacy: str) -> CompiledJob:
    """The requester's job."""
    torch.set_num_threads(1)
    width = setting.hidden_units
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = nn.Sequential(
            nn.Linear(len(FEATURES), width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, len(CLASSES)),
        )
    plan = Plan(
        rounds=setting.rounds,
        learning_rate=0.02,
        epochs=setting.epochs,
        batch_size=32,
        clip_norm=4.0,
        minimum_owners=3,
        maximum_owners=setting.owners,
    )
    job = Job(
        title="Ten kinds",
        model=model,
        loss="cross_entropy",
        schema=SCHEMA,
        plan=plan,
        price=Price(bounty="1000", target_gain=2.0),
        test_data="",
        windows=windows(WINDOW_S),
        seed=1,
        privacy=privacy,
    )
    return compile_job(job, encode_rows(SCHEMA, table(setting.test_rows, seed=1_000)))
