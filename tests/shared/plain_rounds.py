"""A job in plain rounds, small: terms, models, and data owners with two clouds of points."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from galaxylearning.errors import GalaxyError
from galaxylearning.graph import FlatModel, compile_model
from galaxylearning.learning.vectors import I32
from galaxylearning.messages.plan import Plan
from galaxylearning.messages.terms import Terms
from galaxylearning.protocol.hidden_set import HiddenSet, Rows
from galaxylearning.protocol.rounds import JobComputation
from galaxylearning.protocol.updates import encode_body, train_update, training_seed
from galaxylearning.units import Address
from plain_terms import terms_of

JOB_ID = 7
OWNERS = tuple(Address(f"0x{n:040d}") for n in (1, 2, 3, 4))
PLAN = Plan(
    rounds=3, learning_rate=0.3, steps=4, batch_size=16, clip_norm=2.0, minimum_owners=1, maximum_owners=8
)
Bodies = Mapping[Address, bytes | GalaxyError | None]


def make_terms(plan: Plan = PLAN, *, seed: int = 3) -> Terms:
    """Plain terms with the plan of these rounds."""
    return terms_of(plan, seed=seed)


def clouds(rows: int, *, seed: int) -> Rows:
    """Two classes in the plane, mostly apart."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, rows)
    centres = np.where(labels[:, None] == 1, 1.0, -1.0)
    return Rows((centres + rng.normal(0, 0.8, (rows, 2))).astype(np.float32), labels.astype(np.int64))


HIDDEN = clouds(128, seed=100)


def build(module: nn.Module) -> FlatModel:
    """A module as a flat model."""
    graph, weights = compile_model(module, (torch.from_numpy(HIDDEN.inputs[:3]),), loss="cross_entropy")
    return FlatModel(graph, weights)


def plain_model() -> FlatModel:
    """Two layers."""
    torch.manual_seed(1)
    return build(nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2)))


def normed_model() -> FlatModel:
    """The same with batch norm between them."""
    torch.manual_seed(1)
    return build(nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)))


def start(model: FlatModel, plan: Plan = PLAN, *, seed: int = 3) -> JobComputation:
    """The job before its first round."""
    terms = make_terms(plan, seed=seed)
    return JobComputation(terms, JOB_ID, model, HiddenSet.split(HIDDEN, seed=terms.seed))


def trained(job: JobComputation, who: Address) -> tuple[I32, I32]:
    """What an honest data owner makes of the round under way."""
    return train_update(
        job.model,
        job.terms,
        (job.state.params, job.state.buffers),
        clouds(48, seed=int(who, 16)),
        rng=training_seed(job.terms, job.round_index, who),
    )


def honest(job: JobComputation, *owners: Address) -> dict[Address, bytes | GalaxyError | None]:
    """Bodies of honest data owners (all, where none is named)."""
    return {who: sealed(job, who, trained(job, who)) for who in owners or OWNERS}


def sealed(job: JobComputation, who: Address, update: tuple[I32, I32], **changes: Any) -> bytes:
    """The body of an update, with ``changes`` in what it says of itself."""
    facts: dict[str, Any] = {"job_id": JOB_ID, "round_index": job.round_index, "data_owner": who} | changes
    return encode_body(
        facts["job_id"], facts["round_index"], facts["data_owner"], update, job.terms.plan.bits
    )


def statuses(job: JobComputation, bodies: Bodies) -> dict[Address, str]:
    """What becomes of each data owner in the next round."""
    return {decision.data_owner: decision.status for decision in job.advance(bodies).decisions}
