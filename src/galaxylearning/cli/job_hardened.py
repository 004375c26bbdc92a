"""What ``galaxy job collect --harden`` does with a model that came home."""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from galaxylearning.errors import ConfigRefused
from galaxylearning.graph import FlatModel, weights_from_bytes
from galaxylearning.graph.labels import CLASS_LOSSES
from galaxylearning.graph.model import F32
from galaxylearning.messages.terms import Terms
from galaxylearning.protocol.hardening import STAGES, hardening
from galaxylearning.protocol.hidden_set import Rows
from galaxylearning.protocol.job import CompiledJob
from galaxylearning.protocol.updates import local_plan


def hardened(
    model: bytes, terms: Terms, compiled: CompiledJob, *, job_file: str
) -> tuple[bytes, dict[str, Any]]:
    """The weights trained on with the job file's test rows, as safetensors, and what became of those rows.

    The job's seed decides every draw: the same model, rows and machine give the same bytes.

    Raises:
        ConfigRefused: the job file describes another model than the job.
        DataRefused: the model takes no real numbers.
        UpdateRefused: training diverges.
    """
    if compiled.graph.digest.hex() != terms.graph:
        raise ConfigRefused("its model is not this job's", where=job_file)
    graph, rows = compiled.graph, compiled.test
    net = FlatModel(graph, weights_from_bytes(graph, model, max_bytes=len(model)))
    state = net.initial()
    before = _measured(net, state, rows)
    rng = np.random.default_rng([terms.seed, 0x4A2D])
    stages = hardening(net, state, rows, local_plan(terms.plan), rng=rng)
    for stage in track(stages, "hardening", STAGES, console=Console(stderr=True), transient=True):
        state = stage
    after = _measured(net, state, rows)
    return net.state_bytes(*state), {"test_rows": len(rows), "before": before, "after": after}


def _measured(model: FlatModel, state: tuple[F32, F32], rows: Rows) -> dict[str, float]:
    """Mean loss, and of classes the part that is right."""
    found = {"loss": float(model.per_sample_loss(*state, (rows.inputs,), rows.labels).mean())}
    if model.graph.loss in CLASS_LOSSES:
        answers = np.argmax(model.predict(*state, (rows.inputs,)), axis=1)
        found["accuracy"] = float((answers == rows.labels).mean())
    return found
