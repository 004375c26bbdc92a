"""The local optimisers over many data owners' parameters at once, each with a first dimension of owners.

The same arithmetic in the same order as :func:`galaxylearning.learning.local.train_local`, in float32.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import torch

from galaxylearning.learning.plan import LocalPlan

Tensors: TypeAlias = dict[str, torch.Tensor]


class Optimiser:
    """Moves ``current`` (name -> [m, ...]) in place from ``start`` (name -> [...])."""

    def __init__(self, plan: LocalPlan, start: Tensors, current: Tensors) -> None:
        self._plan, self._start, self._current = plan, start, current
        self._first: Tensors = {}
        self._second: Tensors = {}
        if self.vectors(plan):
            self._first = {name: torch.zeros_like(tensor) for name, tensor in current.items()}
        if plan.optimizer == "adam":
            self._second = {name: torch.zeros_like(tensor) for name, tensor in current.items()}

    @staticmethod
    def vectors(plan: LocalPlan) -> int:
        """How many vectors of a data owner's parameters the optimiser remembers."""
        return 2 if plan.optimizer == "adam" else int(plan.momentum > 0)

    def step(self, slopes: Tensors, active: int, step: int) -> None:
        """The first ``active`` data owners take their step number ``step``, counted from 1."""
        plan = self._plan
        for name, slope in slopes.items():
            held = self._current[name][:active]
            if plan.weight_decay:
                slope = slope + _f32(plan.weight_decay) * held
            if plan.prox_mu:
                slope = slope + _f32(plan.prox_mu) * (held - self._start[name])
            if plan.optimizer == "adam":
                self._adam(name, held, slope, step)
                continue
            if plan.momentum:
                slope = self._first[name][:active].mul_(_f32(plan.momentum)).add_(slope)
            held.sub_(_f32(plan.learning_rate) * slope)

    def _adam(self, name: str, held: torch.Tensor, slope: torch.Tensor, step: int) -> None:
        """Adam with bias correction. Source: Kingma & Ba 2014 (arXiv 1412.6980), algorithm 1."""
        plan, active = self._plan, len(held)
        first, second = self._first[name][:active], self._second[name][:active]
        one = np.float32(1)
        first.mul_(_f32(plan.beta1)).add_(float(one - np.float32(plan.beta1)) * slope)
        second.mul_(_f32(plan.beta2)).add_(float(one - np.float32(plan.beta2)) * (slope * slope))
        rate = _f32(plan.learning_rate / (1.0 - plan.beta1**step))
        root = (second / _f32(1.0 - plan.beta2**step)).sqrt_()
        held.sub_(rate * first / root.add_(_f32(plan.epsilon)))


def _f32(value: float) -> float:
    """The number as float32 rounds it, so that no arithmetic happens in more digits than the reference's."""
    return float(np.float32(value))
