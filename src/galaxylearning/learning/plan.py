"""What a data owner does with the model at home: the local training plan, validated once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from galaxylearning.learning.vectors import require_integer, require_number

OPTIMIZERS = ("sgd", "adam")
MAX_STEPS = 1_000_000
MAX_BATCH_SIZE = 1 << 20


@dataclass(frozen=True, slots=True)
class LocalPlan:
    """Local training, as the job's terms fix it for every data owner.

    Exactly one of ``epochs`` (passes over the rows) and ``steps`` (optimiser steps) is given. ``prox_mu``
    adds ``prox_mu * (w - w_start)`` to the gradient (FedProx, Li et al. 2018, eq. 2); ``weight_decay`` adds
    ``weight_decay * w`` for both optimisers. ``momentum`` belongs to SGD, ``beta1``, ``beta2`` and
    ``epsilon`` to Adam. With ``order="stored"`` every pass takes the rows as they lie, in batches of
    ``batch_size`` and a last one of the rest, as comparisons with other systems need it; jobs shuffle.

    Raises:
        ValueError: naming the field and what is allowed.
    """

    optimizer: Literal["sgd", "adam"] = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.0
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    prox_mu: float = 0.0
    epochs: int | None = None
    steps: int | None = None
    batch_size: int = 32
    order: Literal["shuffled", "stored"] = "shuffled"

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, not {self.optimizer!r}")
        if self.order not in ("shuffled", "stored"):
            raise ValueError(f"order must be shuffled or stored, not {self.order!r}")
        require_number(self.learning_rate, "learning_rate", low=0, high=1e3, low_open=True, error=ValueError)
        require_number(self.momentum, "momentum", low=0, high=1, high_open=True, error=ValueError)
        require_number(self.weight_decay, "weight_decay", low=0, high=1e3, error=ValueError)
        require_number(self.beta1, "beta1", low=0, high=1, high_open=True, error=ValueError)
        require_number(self.beta2, "beta2", low=0, high=1, high_open=True, error=ValueError)
        require_number(self.epsilon, "epsilon", low=0, high=1, low_open=True, error=ValueError)
        require_number(self.prox_mu, "prox_mu", low=0, high=1e3, error=ValueError)
        require_integer(self.batch_size, "batch_size", low=1, high=MAX_BATCH_SIZE, error=ValueError)
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("exactly one of epochs and steps must be given")
        if self.epochs is not None:
            require_integer(self.epochs, "epochs", low=1, high=MAX_STEPS, error=ValueError)
        if self.steps is not None:
            require_integer(self.steps, "steps", low=1, high=MAX_STEPS, error=ValueError)
        if self.optimizer == "adam" and self.momentum != 0.0:
            raise ValueError("momentum must be 0 with optimizer adam; set beta1 instead")
