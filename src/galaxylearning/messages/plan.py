"""How a job's model is trained, federated, valued and kept private: the parts of the terms that say so."""

from __future__ import annotations

import math
from typing import Final, Literal, TypeAlias

from galaxylearning.messages.parts import Part, require, within

MAX_EVALUATORS: Final = 15
MAX_ROUNDS: Final = 10_000
MAX_DATA_OWNERS: Final = 100_000
MAX_PROJECTIONS: Final = 1_024
MIN_SUM: Final = 3

RuleName: TypeAlias = Literal[
    "gate",
    "mean",
    "trimmed-mean",
    "median",
    "krum",
    "multi-krum",
    "bulyan",
    "geometric-median",
    "centred-clipping",
    "nnm+trimmed-mean",
    "bucketing+geometric-median",
    "fltrust",
]
"""How updates are federated where evaluators see them: the names of ``learning.rules``."""


class Noise(Part, frozen=True, forbid_unknown_fields=True):
    """Differential privacy of what a data owner sends.

    ``local``: every step of its training clips each example's gradient to ``example_clip`` and adds noise
    with a standard deviation of ``multiplier * example_clip``; each row is protected, whatever is made of
    the update. ``central``: every data owner adds a share of noise to its whole update, such that the sum
    over ``minimum_owners`` has one of ``multiplier * clip_norm``. ``delta`` is the one at which the job
    speaks of epsilon; a data owner counts at its own.
    """

    kind: Literal["local", "central"]
    multiplier: float
    example_clip: float | None = None
    delta: float = 1e-5

    def path(self, name: str) -> str:
        return f"plan.noise.{name}"

    def check(self) -> None:
        within(self.multiplier, "plan.noise.multiplier", 0.05, 1e3)
        within(self.delta, "plan.noise.delta", 0, 0.01, above=True)
        if self.kind == "local":
            require(
                self.example_clip is not None and 0 < self.example_clip <= 1e6,
                "plan.noise.example_clip",
                self.example_clip,
                "above 0 to 1e+06 with kind 'local'",
            )
        else:
            require(
                self.example_clip is None,
                "plan.noise.example_clip",
                self.example_clip,
                "none with kind 'central', which clips whole updates to plan.clip_norm",
            )


class Plan(Part, frozen=True, forbid_unknown_fields=True):
    """How the model is trained, federated and valued.

    Exactly one of ``epochs`` and ``steps``. ``clip_norm`` bounds an update's norm before it is quantised to
    ``bits`` bits; ``loss_clip`` bounds a sample's loss in the utility; ``midpoints`` are the
    path integral's. The gate takes norms from products with ``projections`` random vectors of +-1 that are
    drawn once the round's updates are in; 0 means from the updates themselves, which masked mode cannot.
    With ``standing`` the gate also lowers the weight of who went the hidden set's way too little in the
    rounds so far.
    ``noise`` is for differential privacy; without it there is none.
    ``rule`` is the gate or, in sealed mode, another robust rule; of a round's updates ``faulty_fraction``
    may be bad as the other rules reckon.
    A round counts with updates of ``minimum_owners``, who made ``minimum_mass`` of the weight of the rounds
    before (what they say they have counts for nothing).
    """

    rounds: int
    optimizer: Literal["sgd", "adam"] = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.0
    weight_decay: float = 0.0
    prox_mu: float = 0.0
    epochs: int | None = None
    steps: int | None = None
    batch_size: int = 32
    clip_norm: float = 1.0
    bits: int = 16
    server_optimizer: Literal["fedavg", "fedavgm", "fedadam", "fedyogi"] = "fedavg"
    server_learning_rate: float = 1.0
    server_momentum: float = 0.0
    beta2: float = 0.99
    tau: float = 1e-3
    gate: bool = True
    max_weight: int = 15
    projections: int = 0
    standing: bool = True
    rule: RuleName = "gate"
    faulty_fraction: float = 0.2
    novelty: bool = True
    loss_clip: float = 10.0
    midpoints: int = 5
    minimum_owners: int = 1
    maximum_owners: int = 100
    minimum_mass: float = 0.0
    noise: Noise | None = None

    def check(self) -> None:
        within(self.rounds, "plan.rounds", 1, MAX_ROUNDS)
        within(self.learning_rate, "plan.learning_rate", 0, 1e3, above=True)
        for name in ("momentum", "server_momentum", "beta2"):
            value = getattr(self, name)
            require(math.isfinite(value) and 0 <= value < 1, f"plan.{name}", value, "from 0 to below 1")
        within(self.weight_decay, "plan.weight_decay", 0, 1e3)
        within(self.prox_mu, "plan.prox_mu", 0, 1e3)
        require(
            self.optimizer == "sgd" or self.momentum == 0,
            "plan.momentum",
            self.momentum,
            "0 with optimizer 'adam', which has moments of its own",
        )
        require(
            (self.epochs is None) != (self.steps is None),
            "plan.epochs",
            self.epochs,
            "exactly one of epochs and steps",
        )
        if self.epochs is not None:
            within(self.epochs, "plan.epochs", 1, 10_000)
        if self.steps is not None:
            within(self.steps, "plan.steps", 1, 1_000_000)
        within(self.batch_size, "plan.batch_size", 1, 1 << 20)
        within(self.clip_norm, "plan.clip_norm", 0, 1e6, above=True)
        within(self.bits, "plan.bits", 8, 24)
        within(self.server_learning_rate, "plan.server_learning_rate", 0, 1e3, above=True)
        # Smaller, and a server's step could leave float32 however short the updates are.
        within(self.tau, "plan.tau", 1e-9, 1e3)
        within(self.max_weight, "plan.max_weight", 1, 1 << 16)
        within(self.projections, "plan.projections", 0, MAX_PROJECTIONS)
        within(self.faulty_fraction, "plan.faulty_fraction", 0, 0.49)
        require(
            self.gate or self.rule == "gate", "plan.gate", self.gate, "true with another rule than 'gate'"
        )
        within(self.loss_clip, "plan.loss_clip", 0, 1e3, above=True)
        within(self.midpoints, "plan.midpoints", 1, 100)
        within(self.maximum_owners, "plan.maximum_owners", 1, MAX_DATA_OWNERS)
        within(self.minimum_owners, "plan.minimum_owners", 1, self.maximum_owners)
        within(self.minimum_mass, "plan.minimum_mass", 0, 1)


class Masking(Part, frozen=True, forbid_unknown_fields=True):
    """How masked mode hides every update: ``threshold + 1`` evaluators open what the terms name.

    ``threshold`` of them together learn nothing more. Wrong answers of up to ``faulty`` evaluators are
    corrected. A sum is opened over at least ``minimum_sum`` updates. ``twin_projections`` products of every
    update with random vectors of +-1 are opened after the last round, to find one data set under two names.
    """

    threshold: int
    faulty: int = 0
    minimum_sum: int = 3
    twin_projections: int = 0

    def check(self) -> None:
        within(self.threshold, "masking.threshold", 1, MAX_EVALUATORS - 1)
        within(self.faulty, "masking.faulty", 0, MAX_EVALUATORS)
        within(self.minimum_sum, "masking.minimum_sum", MIN_SUM, MAX_DATA_OWNERS)
        within(self.twin_projections, "masking.twin_projections", 0, MAX_PROJECTIONS)
