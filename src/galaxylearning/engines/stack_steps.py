"""Optimiser steps on a whole stack of models at once, as ``train_local`` takes them on one."""

from __future__ import annotations

import numpy as np

from galaxylearning.learning.plan import LocalPlan
from galaxylearning.learning.vectors import F32


class StackSteps:
    """Steps of one plan on up to ``size`` numbers; holds the optimiser's memory and scratch.

    SGD adds what it is given, so its gradients come multiplied by ``scale`` = -learning_rate; Adam's come as
    they are.
    """

    def __init__(self, plan: LocalPlan, size: int) -> None:
        self._plan = plan
        self._scratch = np.empty(size if _needs_scratch(plan) else 0, np.float32)
        self._start = np.empty(size if plan.prox_mu else 0, np.float32)
        self._moments = [np.empty(size, np.float32) for _ in range(_moments(plan))]
        self.scale = 1.0 if plan.optimizer == "adam" else -plan.learning_rate

    @staticmethod
    def arrays(plan: LocalPlan) -> int:
        """How many arrays of the given size are held."""
        return _moments(plan) + _needs_scratch(plan) + (plan.prox_mu > 0)

    def begin(self, start: F32) -> None:
        """Forget the last training; the next begins at ``start`` f32[m]."""
        for moment in self._moments:
            moment[: start.size] = 0.0
        if self._plan.prox_mu:
            self._start[: start.size] = start

    def apply(self, current: F32, slope: F32, step: int) -> None:
        """Take step number ``step`` (from 1): ``current`` f32[m] is changed, ``slope`` f32[m] is used up."""
        plan, scale = self._plan, np.float32(self.scale)
        scratch = self._scratch[: current.size]
        if plan.weight_decay:
            np.multiply(current, scale * np.float32(plan.weight_decay), out=scratch)
            slope += scratch
        if plan.prox_mu:
            np.subtract(current, self._start[: current.size], out=scratch)
            scratch *= scale * np.float32(plan.prox_mu)
            slope += scratch
        if plan.optimizer == "adam":
            self._adam(current, slope, step)
        elif plan.momentum:
            velocity = self._moments[0][: current.size]
            velocity *= np.float32(plan.momentum)
            velocity += slope
            current += velocity
        else:
            current += slope

    def _adam(self, current: F32, slope: F32, step: int) -> None:
        plan, scratch = self._plan, self._scratch[: current.size]
        first, second = (moment[: current.size] for moment in self._moments)
        first *= np.float32(plan.beta1)
        np.multiply(slope, np.float32(1) - np.float32(plan.beta1), out=scratch)
        first += scratch
        second *= np.float32(plan.beta2)
        slope *= slope
        slope *= np.float32(1) - np.float32(plan.beta2)
        second += slope
        np.divide(second, np.float32(1.0 - plan.beta2**step), out=scratch)
        np.sqrt(scratch, out=scratch)
        scratch += np.float32(plan.epsilon)
        np.divide(first, scratch, out=scratch)
        scratch *= np.float32(plan.learning_rate / (1.0 - plan.beta1**step))
        current -= scratch


def _needs_scratch(plan: LocalPlan) -> bool:
    return plan.optimizer == "adam" or plan.weight_decay > 0 or plan.prox_mu > 0


def _moments(plan: LocalPlan) -> int:
    if plan.optimizer == "adam":
        return 2
    return 1 if plan.momentum else 0
