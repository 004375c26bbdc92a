"""A requester's job file, compiled, and a target gain suggested for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from galaxylearning.errors import JobRefused, UpdateRefused
from galaxylearning.graph import FlatModel
from galaxylearning.learning import clip_norm, train_local
from galaxylearning.learning.vectors import F32
from galaxylearning.messages.terms import Terms
from galaxylearning.protocol.gradients import mean_gradient
from galaxylearning.protocol.hidden_set import HiddenSet, Rows
from galaxylearning.protocol.job import CompiledJob, compile_job
from galaxylearning.protocol.rounds import JobComputation
from galaxylearning.protocol.updates import local_plan
from galaxylearning.storage.job_file import read_job_file

MAX_TRIAL_STEPS = 2_000


def compile_file(path: Path) -> CompiledJob:
    """Run a job file, read its test set and compile it.

    Raises:
        GalaxyError: as ``read_job_file`` and ``compile_job``.
    """
    found = read_job_file(path)
    return compile_job(found.job, found.test)


def require_step(compiled: CompiledJob, terms: Terms) -> None:
    """Refuse a job in which no update of the first round could count: its hidden set gives no step.

    Raises:
        JobRefused: training on the gating half of the test set diverges, or changes nothing.
    """
    hidden = HiddenSet.split(compiled.test, seed=terms.seed)
    job = JobComputation(terms, 1, compiled.model, hidden)
    if job.needs_step and not job.hidden_step()[0].any():
        raise JobRefused(
            f"{terms.plan.learning_rate:g} given; with it training on the hidden set diverges, or changes "
            "nothing: no data owner's update could be compared with it, and nobody would be paid. Take a "
            "smaller one",
            where="plan.learning_rate",
        )


@dataclass(frozen=True, slots=True)
class Trial:
    """A quick training on one half of the test set, measured on the other; losses per sample."""

    untrained_loss: float
    trained_loss: float
    steps: int

    @property
    def gain(self) -> float:
        """What such a training improves; a target gain to begin with."""
        return self.untrained_loss - self.trained_loss


def try_training(compiled: CompiledJob) -> Trial:
    """Train for the job's rounds on half of its test set as one data owner would, at most 2,000 steps.

    Data owners together hold more rows than half a test set, so the real gain is usually somewhat larger.

    Raises:
        JobRefused: training diverged.
    """
    job, model = compiled.job, compiled.model
    hidden = HiddenSet.split(compiled.test, seed=job.seed)
    rows = hidden.gating
    gradient = mean_gradient(model, rows)
    params, buffers = model.initial()
    untrained = trained = mean_loss(model, hidden.paying, (params, buffers), job.plan.loss_clip)
    steps = 0
    for round_index in range(job.plan.rounds):
        rng = np.random.default_rng([job.seed, round_index])
        try:
            result = train_local(gradient, params, buffers, len(rows), local_plan(job.plan), rng=rng)
        except UpdateRefused as error:
            raise JobRefused(
                f"{job.plan.learning_rate:g} given; a trial training diverged with it ({error}), and so may "
                "the step on the hidden set that updates are compared with: take a smaller one",
                where="plan.learning_rate",
            ) from error
        params = params + clip_norm(result.update, job.plan.clip_norm)
        buffers = result.buffers
        steps += result.steps
        trained = min(trained, mean_loss(model, hidden.paying, (params, buffers), job.plan.loss_clip))
        if steps >= MAX_TRIAL_STEPS:
            break
    return Trial(untrained, trained, steps)


def mean_loss(model: FlatModel, rows: Rows, state: tuple[F32, F32], clip: float) -> float:
    """Mean loss of a model with these parameters and buffers, each sample's at most ``clip``; finite."""
    losses = model.per_sample_loss(*state, (rows.inputs,), rows.labels)
    return float(np.minimum(np.nan_to_num(losses, nan=clip, posinf=clip), clip).mean())
