"""What a round decided about every data owner, and what is kept of it. Knows no arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from galaxylearning.contribution import SentUpdates
from galaxylearning.learning import ServerState, UpdateMatrix
from galaxylearning.units import Address, Digest

F32: TypeAlias = NDArray[np.float32]
F64: TypeAlias = NDArray[np.float64]
I64: TypeAlias = NDArray[np.int64]

Status: TypeAlias = Literal["accepted", "rejected", "absent", "malformed"]

STATUSES: tuple[Status, ...] = ("accepted", "rejected", "absent", "malformed")
"""A status as a small integer: its position here."""

NO_UPDATE = "no update"
STANDS_ALONE = "no others have a weight like its own"
"""Why an update is left out of a sum that would show it; nobody is charged for that."""


@dataclass(frozen=True, slots=True, eq=False)
class ModelState:
    """The model between rounds: trainable parameters, federated buffers, the server optimiser's memory."""

    params: F32
    buffers: F32
    server: ServerState
    previous_step: F64 | None


@dataclass(frozen=True, slots=True)
class Decision:
    """What became of one data owner's part in a round."""

    data_owner: Address
    status: Status
    """``rejected`` is the gate's word, ``malformed`` that of whoever tried to read the update."""
    reason: str
    weight: int
    cosine: float


@dataclass(frozen=True, slots=True)
class Measured:
    """Utility (2^-20 units of the loss over the paying half) and correct predictions (whole hidden set)."""

    utility: int
    correct: int


@dataclass(frozen=True, slots=True, eq=False)
class RoundHistory:
    """The heavy part of a round: the model before and after, and every well-formed update."""

    before: ModelState
    after: ModelState
    updates: UpdateMatrix


@dataclass(frozen=True, slots=True, eq=False)
class RoundOutcome:
    """Everything a round decided, over all its data owners in ascending order of address.

    ``codes`` int8[K] are positions in ``STATUSES``; ``weights`` int64[K], ``cosines``, ``values`` and
    ``errors`` f64[K] are 0 unless the update was accepted (a rejected one keeps its cosine); values and their
    standard errors are units of the loss per hidden sample. So is ``gain``, what the round took off the loss
    along its step, of which values with novelty hold a part. ``reasons`` say why an update was rejected or
    malformed. ``history`` is None where a computation keeps none; ``sent`` is what is left for the search for
    twins.
    """

    round_index: int
    data_owners: tuple[Address, ...]
    codes: NDArray[np.int8]
    weights: I64
    cosines: F64
    values: F64
    errors: F64
    gain: float
    reasons: Mapping[Address, str]
    model_digest: Digest
    measured_before: Measured
    measured_after: Measured
    history: RoundHistory | None
    sent: SentUpdates[Address] | None

    @property
    def before(self) -> ModelState:
        """The model that the round began with; ValueError where no history is kept."""
        return self._history().before

    @property
    def after(self) -> ModelState:
        """The model that the round gave; ValueError where no history is kept."""
        return self._history().after

    @property
    def updates(self) -> UpdateMatrix:
        """The well-formed updates; ValueError where no history is kept."""
        return self._history().updates

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """What became of every data owner, in ascending order of address."""
        return tuple(
            Decision(
                who, STATUSES[code], self.reasons.get(who, NO_UPDATE if code == 2 else ""), weight, cosine
            )
            for who, code, weight, cosine in zip(
                self.data_owners,
                self.codes.tolist(),
                self.weights.tolist(),
                self.cosines.tolist(),
                strict=True,
            )
        )

    @property
    def scores(self) -> dict[Address, tuple[float, float]]:
        """Value and standard error of the accepted, in units of the loss per hidden sample."""
        return {
            self.data_owners[i]: (float(self.values[i]), float(self.errors[i]))
            for i in np.flatnonzero(self.codes == 0).tolist()
        }

    def _history(self) -> RoundHistory:
        if self.history is None:
            raise ValueError("this computation keeps no models and updates of past rounds")
        return self.history
