"""What ``galaxy job collect --harden`` does with a model that came home."""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from galaxylearning.cli.job_file import mean_loss
from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.errors import ConfigRefused
from galaxylearning.graph import FlatModel, ModelGraph, weights_from_bytes
from galaxylearning.graph.cost import meter
from galaxylearning.graph.labels import CLASS_LOSSES
from galaxylearning.graph.model import F32
from galaxylearning.learning.painting import Painter
from galaxylearning.messages.terms import Terms
from galaxylearning.protocol.hardening import BATCH, SHOWN, STAGES, check_hardenable, hardening
from galaxylearning.protocol.hidden_set import Rows
from galaxylearning.protocol.job import CompiledJob
from galaxylearning.protocol.rows import rows_to_bytes
from galaxylearning.protocol.updates import local_plan

MOST_BYTES = 2 << 30
"""Of activations in a step."""


def check_job_file(terms: Terms, compiled: CompiledJob, job_file: str) -> None:
    """Whether a job file is a job's, with the test rows that it was posted with, and can harden its model.

    Raises:
        ConfigRefused: it describes another one, or its rows are others.
        JobRefused: models of this kind cannot be hardened.
        DataRefused: the rows' inputs cannot be painted over.
    """
    for what, given, wanted in (
        ("its model is", compiled.graph.digest.hex(), terms.graph),
        ("its schema is", compiled.job.schema, terms.schema),
        ("its test rows are", blake3_digest(rows_to_bytes(compiled.test)).hex(), terms.test_set_digest),
    ):
        if given != wanted:
            raise ConfigRefused(f"{what} not this job's", where=job_file)
    check_hardenable(compiled.graph)
    Painter.of(compiled.test.inputs)


def hardened(model: bytes, terms: Terms, compiled: CompiledJob) -> tuple[bytes, dict[str, Any]]:
    """The weights trained on with the job file's test rows, as safetensors, and what became of those rows.

    The job's seed decides every draw: the same model, rows and machine give the same bytes.

    Raises:
        JobRefused, DataRefused: as ``check_job_file``.
        GraphRefused: the weights are not this model's.
        UpdateRefused: training diverges.
    """
    graph, rows = compiled.graph, compiled.test
    net = FlatModel(graph, weights_from_bytes(graph, model, max_bytes=len(model)))
    state = net.initial()
    clip = terms.plan.loss_clip
    before = _measured(net, state, rows, clip)
    rng = np.random.default_rng([terms.seed, 0x4A2D])
    stages = hardening(net, state, rows, local_plan(terms.plan), rng=rng, batch=_batch(graph))
    console = Console(stderr=True)
    is_quiet = not console.is_terminal
    for stage in track(stages, "hardening", STAGES, console=console, transient=True, disable=is_quiet):
        state = stage
    after = _measured(net, state, rows, clip)
    return net.state_bytes(*state), {"test_rows": len(rows), "before": before, "after": after}


def told(tested: dict[str, Any] | None) -> str:
    """What ``hardened`` tells, for people."""
    if tested is None:
        return "no; see --harden"
    changes = ", ".join(
        f"{name} {value:.4f} before, {tested['after'][name]:.4f} after"
        for name, value in tested["before"].items()
    )
    return (
        f"with {tested['test_rows']} test rows. On these, which no more tell how good it is now: {changes}. "
        "Measure it on rows of your own"
    )


def _batch(graph: ModelGraph) -> int:
    """As many rows a step as leave its activations within ``MOST_BYTES``, two at least."""
    each = meter(graph, SHOWN).activation_bytes
    return max(2, min(BATCH, MOST_BYTES // max(1, each)))


def _measured(model: FlatModel, state: tuple[F32, F32], rows: Rows, clip: float) -> dict[str, float]:
    """Mean loss, each sample's at most ``clip``, and of classes the part that is right."""
    found = {"loss": mean_loss(model, rows, state, clip)}
    if model.graph.loss in CLASS_LOSSES:
        answers = np.argmax(model.predict(*state, (rows.inputs,)), axis=1)
        found["accuracy"] = float((answers == rows.labels).mean())
    return found
