"""Training hidden triggers out of a model that came home, on rows of one's own.

A trigger works because honest rows say nothing about inputs that carry it. Rows that are painted over in many
ways, with their right labels, say it; what the model knows besides is kept by its own answers to mixed rows.

Sources: Borgnia et al. 2021 (arXiv 2011.09527), strong augmentation against backdoors; Zhang et al. 2018
(arXiv 1710.09412), mixing rows; Hinton et al. 2015 (arXiv 1503.02531), a model taught by another's answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from galaxylearning.errors import JobRefused, UpdateRefused
from galaxylearning.graph.document import ModelGraph
from galaxylearning.graph.labels import CLASS_LOSSES
from galaxylearning.graph.model import Model
from galaxylearning.learning import LocalPlan, train_local
from galaxylearning.learning.painting import Painter
from galaxylearning.learning.vectors import F32, I64
from galaxylearning.protocol.hidden_set import Rows

STEPS: Final = 2_000
STAGES: Final = 20
"""The learning rate falls from stage to stage, evenly, to a twentieth; an optimiser's memory begins anew."""

BATCH: Final = 32
PAINTED: Final = 3
SHOWN: Final = 2 + PAINTED
"""Rows drawn for a step, painted copies of each, and all that a step sees for each."""

TRIES: Final = 6
"""A stage that diverges is trained again, it and all after it at a quarter of the rate, so many times."""


def hardening(
    model: Model,
    state: tuple[F32, F32],
    rows: Rows,
    plan: LocalPlan,
    *,
    rng: np.random.Generator,
    batch: int = BATCH,
) -> Iterator[tuple[F32, F32]]:
    """Train on from ``state`` with ``plan``'s optimiser; after each of ``STAGES`` stages, give (parameters
    f32[P], buffers f32[B]). The last are the hardened ones.

    A step sees, of each of ``batch`` rows drawn, the row itself, copies of it painted over, and a mixture of
    it and another with an answer that is drawn as the model that came home gives it.

    Raises:
        JobRefused: the model's answers are no classes, or it keeps buffers at each data owner's.
        DataRefused: the rows' inputs cannot be painted over.
        UpdateRefused: a stage diverges at every rate tried.
    """
    check_hardenable(model.graph)
    painter, taught, loss = Painter.of(rows.inputs), state, model.graph.loss

    def gradient(params: F32, buffers: F32, chosen: I64, rng: np.random.Generator) -> tuple[float, F32, F32]:
        part = rows.take(chosen)
        plain = np.asarray(part.inputs, np.float32)
        mixed = _mixed(plain, rng)
        answers = _answers(loss, model.predict(*taught, (mixed,)), part.labels, rng)
        inputs = [plain, *(painter(plain, rng) for _ in range(PAINTED)), mixed]
        labels = [part.labels] * (1 + PAINTED) + [answers]
        return model.gradient(params, buffers, (np.concatenate(inputs),), np.concatenate(labels), rng=rng)

    steps, rate = replace(plan, epochs=None, steps=STEPS // STAGES, batch_size=batch), plan.learning_rate
    for stage in range(STAGES):
        for _ in range(TRIES):
            slower = replace(steps, learning_rate=rate * (1 - stage / STAGES))
            try:
                found = train_local(gradient, *state, len(rows), slower, rng=rng)
                break
            except UpdateRefused:
                rate /= 4
        else:
            raise UpdateRefused(
                f"diverges in stage {stage + 1} of {STAGES}, also with a learning rate of {4 * rate:.2g}",
                where="hardening",
            )
        state = (state[0] + found.update, found.buffers)
        yield state


def check_hardenable(graph: ModelGraph) -> None:
    """Whether models of this graph can be hardened.

    Raises:
        JobRefused: saying why not.
    """
    if graph.loss not in CLASS_LOSSES | {"bce_with_logits"}:
        raise JobRefused(
            f"{graph.loss}; a number is not the same where the row is painted over, only models of classes "
            "can be hardened",
            where="loss",
        )
    if kept := [entry.name for entry in graph.state if entry.federate == "keep_local"]:
        raise JobRefused(
            f"{kept[0]} stays with each data owner; only models without such buffers can be hardened",
            where="model",
        )


def harden(
    model: Model, state: tuple[F32, F32], rows: Rows, plan: LocalPlan, *, rng: np.random.Generator
) -> tuple[F32, F32]:
    """What :func:`hardening` comes to.

    Raises:
        JobRefused, DataRefused, UpdateRefused: as it says.
    """
    *_, last = hardening(model, state, rows, plan, rng=rng)
    return last


def _mixed(inputs: F32, rng: np.random.Generator) -> F32:
    """Each row f32[n, ...] with another one's share, any from none to all, added in place of its own."""
    share = rng.random((len(inputs),) + (1,) * (inputs.ndim - 1))
    other = inputs[rng.permutation(len(inputs))]
    found: F32 = (inputs + share * (other - inputs)).astype(np.float32)
    return found


def _answers(loss: str, outputs: NDArray[Any], like: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """Labels for ``outputs``, of the shape of ``like``: classes are drawn as probable as they are there,
    whose mean gradient is that of the probabilities themselves; of a yes or no, the probability.
    """
    if loss in CLASS_LOSSES:
        # The largest of log probabilities with Gumbel noise is a draw by the probabilities.
        classes: NDArray[Any] = np.argmax(outputs + rng.gumbel(size=outputs.shape), axis=1)
        return classes.astype(like.dtype)
    found = 0.5 + 0.5 * np.tanh(0.5 * outputs)
    return found.reshape(like.shape).astype(np.float32)
