"""A requester's job file: run (it is the user's own code), compiled, and a target gain suggested for it."""

from __future__ import annotations

import contextlib
import runpy
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from galaxylearning.errors import GalaxyError, JobRefused, UpdateRefused
from galaxylearning.learning import clip_norm, train_local
from galaxylearning.protocol.job import CompiledJob, Job, compile_job
from galaxylearning.protocol.rounds import F32, HiddenSet, Rows, local_plan
from galaxylearning.protocol.rows import encode_rows
from galaxylearning.storage.datasets import load_table
from galaxylearning.storage.tables import ReadOptions

MAX_TRIAL_STEPS = 2_000


def compile_file(path: Path) -> CompiledJob:
    """Run a job file, read its test set and compile it. Names of files in it are relative to its folder.

    Raises:
        JobRefused: no such file, an error in it (with its line), or no ``job`` in it.
        GalaxyError: as ``load_table``, ``encode_rows`` and ``compile_job``.
    """
    if not path.is_file():
        raise JobRefused("there is no such file", where=str(path))
    with _inside(path.resolve().parent):
        job = _run(path)
        schema = job.schema
        names = [column.name for column in schema.features] + [field.name for field in schema.arrays]
        table = load_table(Path(job.test_data), ReadOptions(only=(*names, schema.label.name)))
        return compile_job(job, encode_rows(schema, table.columns))


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """Work in ``folder``, whose modules can be imported."""
    sys.path.insert(0, str(folder))
    try:
        with contextlib.chdir(folder):
            yield
    finally:
        sys.path.remove(str(folder))


def _run(path: Path) -> Job:
    try:
        names = runpy.run_path(path.name)
    except GalaxyError:
        raise
    except Exception as error:  # whatever the user's file raises is told with its line
        raise JobRefused(f"{type(error).__name__}: {error}", where=_place(path, error)) from error
    job = names.get("job")
    if not isinstance(job, Job):
        raise JobRefused("must set 'job' to a galaxylearning.Job", where=str(path))
    return job


def _place(path: Path, error: Exception) -> str:
    """File and line of the job file where ``error`` came from."""
    if isinstance(error, SyntaxError) and error.lineno is not None:
        return f"{path}, line {error.lineno}"
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path.name
    ]
    return f"{path}, line {lines[-1]}" if lines else str(path)


@dataclass(frozen=True, slots=True)
class Trial:
    """A quick training on one half of the test set, measured on the other; losses in nats per sample."""

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

    def gradient(
        params: F32, buffers: F32, batch: NDArray[np.int64], chance: np.random.Generator
    ) -> tuple[float, F32, F32]:
        part = rows.take(batch)
        return model.gradient(params, buffers, (part.inputs,), part.labels, rng=chance)

    params, buffers = model.initial()
    untrained = trained = _loss(compiled, hidden.paying, params, buffers)
    steps = 0
    for round_index in range(job.plan.rounds):
        rng = np.random.default_rng([job.seed, round_index])
        try:
            result = train_local(gradient, params, buffers, len(rows), local_plan(job.plan), rng=rng)
        except UpdateRefused as error:
            raise JobRefused(f"a trial training diverged: {error}", where="plan.learning_rate") from error
        params = params + clip_norm(result.update, job.plan.clip_norm)
        buffers = result.buffers
        steps += result.steps
        trained = min(trained, _loss(compiled, hidden.paying, params, buffers))
        if steps >= MAX_TRIAL_STEPS:
            break
    return Trial(untrained, trained, steps)


def _loss(compiled: CompiledJob, rows: Rows, params: F32, buffers: F32) -> float:
    """Mean loss of a model, each sample's clipped as in the utility."""
    losses = compiled.model.per_sample_loss(params, buffers, (rows.inputs,), rows.labels)
    clip = compiled.job.plan.loss_clip
    return float(np.minimum(np.nan_to_num(losses, nan=clip, posinf=clip), clip).mean())
