"""The local optimisers over the stacked updates of many data owners, in place.

What ``learning.local.train_local`` does for one: the same steps up to rounding. Updates (trained minus
received parameters) are what is kept, not parameters.
"""

from __future__ import annotations

import numpy as np

from galaxylearning.learning.plan import LocalPlan
from galaxylearning.learning.vectors import F32


def is_plain(plan: LocalPlan) -> bool:
    """Whether a step is the learning rate times the gradient and nothing else."""
    return plan.optimizer == "sgd" and not (plan.momentum or plan.weight_decay or plan.prox_mu)


def memories(plan: LocalPlan) -> int:
    """How many vectors besides its update the optimiser keeps for a data owner."""
    return 2 if plan.optimizer == "adam" else int(plan.momentum > 0)


def take_step(
    plan: LocalPlan, step: int, start: F32, updates: F32, gradients: F32, spare: F32, kept: list[F32]
) -> None:
    """Step number ``step``, counted from 0: change ``updates`` ``[m, P]`` by ``gradients`` ``[m, P]``.

    ``start`` ``[P]`` are the received parameters. ``gradients`` and ``spare`` ``[m, P]`` are overwritten;
    before the first step neither ``updates`` nor ``kept`` (as many as :func:`memories` says) hold anything.
    """
    if plan.weight_decay:
        np.add(gradients, np.float32(plan.weight_decay) * start, out=gradients)
    pull = plan.weight_decay + plan.prox_mu
    if pull and step:
        np.multiply(updates, np.float32(pull), out=spare)
        np.add(gradients, spare, out=gradients)
    if plan.optimizer == "adam":
        _adam(plan, step, gradients, spare, kept)
        move = gradients
    elif plan.momentum:
        velocity = kept[0]
        if step:
            np.multiply(velocity, np.float32(plan.momentum), out=velocity)
            np.add(velocity, gradients, out=velocity)
        else:
            velocity[...] = gradients
        move = np.multiply(velocity, np.float32(plan.learning_rate), out=gradients)
    else:
        move = np.multiply(gradients, np.float32(plan.learning_rate), out=gradients)
    if step:
        np.subtract(updates, move, out=updates)
    else:
        np.negative(move, out=updates)


def _adam(plan: LocalPlan, step: int, gradients: F32, spare: F32, kept: list[F32]) -> None:
    """The move in place of ``gradients``. Source: Kingma & Ba 2014 (arXiv 1412.6980), algorithm 1."""
    first, second = kept
    one = np.float32(1)
    beta1, beta2 = np.float32(plan.beta1), np.float32(plan.beta2)
    if step:
        np.multiply(first, beta1, out=first)
        np.multiply(second, beta2, out=second)
    else:
        first[...] = 0
        second[...] = 0
    np.multiply(gradients, one - beta1, out=spare)
    np.add(first, spare, out=first)
    np.multiply(gradients, gradients, out=gradients)
    np.multiply(gradients, one - beta2, out=gradients)
    np.add(second, gradients, out=second)
    np.divide(second, np.float32(1.0 - plan.beta2 ** (step + 1)), out=spare)
    np.sqrt(spare, out=spare)
    np.add(spare, np.float32(plan.epsilon), out=spare)
    np.multiply(first, np.float32(plan.learning_rate / (1.0 - plan.beta1 ** (step + 1))), out=gradients)
    np.divide(gradients, spare, out=gradients)
