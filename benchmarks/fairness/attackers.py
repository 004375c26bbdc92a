"""Those who do not play fair and that a simulation does not know: they need what only a bench shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

import numpy as np

from galaxylearning.learning.vectors import F32, F64
from galaxylearning.protocol.hidden_set import Rows
from galaxylearning.simulation.behaviours import Acts, AttackView, Behaviour, Plain

Past: TypeAlias = list[F32]
"""The models of all rounds so far, the current one last; a bench fills it as it goes."""

STALE_ROUNDS = 3


@dataclass(frozen=True, slots=True, eq=False)
class Stage:
    """What an attacker is shown when it is made: the models as they come, and rows anybody could have."""

    past: Past
    public: Rows
    labels: F64
    """How frequent every class is in public, f64[C]."""


Maker: TypeAlias = Callable[[Stage], Behaviour]


@dataclass(frozen=True, slots=True, eq=False)
class FromPast(Plain):
    """Free rider: sends what the models so far say.

    ``mean`` of all past global steps; the ``step`` of some rounds ago; the ``model`` of some rounds ago, as
    one who never downloads the newer ones.
    """

    name: ClassVar[str] = "from-past"
    stage: Stage
    kind: Literal["mean", "step", "model"]

    @property
    def trains(self) -> bool:
        """No."""
        return False

    @property
    def acts(self) -> Acts:
        """Each for itself."""
        return "alone"

    def update(self, view: AttackView, *, rng: np.random.Generator) -> F32:  # noqa: ARG002
        """The same for each of its identities."""
        past = self.stage.past
        if len(past) < 2:
            return np.zeros_like(view.own)
        if self.kind == "mean":
            step = (past[-1] - past[0]) / np.float32(len(past) - 1)
        elif self.kind == "step":
            at = max(1, len(past) - STALE_ROUNDS)
            step = past[at] - past[at - 1]
        else:
            step = past[max(0, len(past) - 1 - STALE_ROUNDS)] - past[-1]
        return view.everybody(step)


@dataclass(frozen=True, slots=True, eq=False)
class StaleTraining(Plain):
    """Trains once, and sends that first update in every round."""

    name: ClassVar[str] = "stale-training"
    first: list[F32]

    @property
    def acts(self) -> Acts:
        """All its identities at once."""
        return "together"

    def update(self, view: AttackView, *, rng: np.random.Generator) -> F32:  # noqa: ARG002
        """The first round's."""
        if not self.first:
            self.first.append(view.own.copy())
        return self.first[0].copy()


@dataclass(frozen=True, slots=True, eq=False)
class Aligned(Plain):
    """Trains on what the public knows of the hidden set's distribution.

    ``labels``: its own rows, drawn again so that every class is as frequent as in public (where it has any);
    ``more``: its own rows and the public ones; ``only``: the public rows alone, none of its own.
    """

    name: ClassVar[str] = "aligned"
    stage: Stage
    kind: Literal["labels", "more", "only"]

    def data(self, rows: Rows, *, classes: int, rng: np.random.Generator) -> Rows:
        """Other rows than it has."""
        public = self.stage.public
        if self.kind == "only":
            return public
        if self.kind == "more":
            return Rows(
                np.concatenate([rows.inputs, public.inputs]), np.concatenate([rows.labels, public.labels])
            )
        counts = np.bincount(rows.labels, minlength=classes)
        weight = (self.stage.labels / np.maximum(counts, 1))[rows.labels]
        chosen = rng.choice(len(rows), len(rows), p=weight / weight.sum())
        return rows.take(np.sort(chosen).astype(np.int64))


@dataclass(frozen=True, slots=True, eq=False)
class Deflate(Plain):
    """Knows all updates and wants ``rival`` to earn less: adds what makes the rival's one superfluous.

    Sends its own update and, of the same length, what the rival's has beside the mean of the others.
    """

    name: ClassVar[str] = "deflate"
    rival: int

    @property
    def acts(self) -> Acts:
        """In concert."""
        return "together"

    @property
    def needs_honest(self) -> bool:
        """The rival's above all."""
        return True

    def update(self, view: AttackView, *, rng: np.random.Generator) -> F32:  # noqa: ARG002
        """Own and the rival's peculiarity."""
        if view.honest is None or not len(view.honest):
            return view.own
        at = int(np.searchsorted(view.honest_owners, self.rival)) % len(view.honest)
        apart = view.honest[at] - view.honest.mean(axis=0)
        length = float(np.linalg.norm(apart)) or 1.0
        own = np.linalg.norm(view.own, axis=1, keepdims=True)
        sent: F32 = (view.own + apart[None] * (own / length)).astype(np.float32)
        return sent


@dataclass(frozen=True, slots=True, eq=False)
class Disguised(Plain):
    """One data set under several names, each hidden under a vector of its own, the same one in every round.

    The vector's norm is ``size`` times that of the update; it is random, so next to worthless and harmless.
    """

    name: ClassVar[str] = "disguised"
    copies: int
    size: float

    @property
    def acts(self) -> Acts:
        """All its identities at once."""
        return "together"

    def split(self, n_rows: int, *, rng: np.random.Generator) -> list[np.ndarray]:  # noqa: ARG002
        """All rows, every time."""
        return [np.arange(n_rows, dtype=np.int64)] * self.copies

    def update(self, view: AttackView, *, rng: np.random.Generator) -> F32:  # noqa: ARG002
        """With the identity's own vector."""
        sent = view.own.copy()
        for row, who in zip(sent, view.owners.tolist(), strict=True):
            mask = np.random.default_rng([who, 0xD15]).standard_normal(row.size).astype(np.float32)
            row += mask * np.float32(self.size * np.linalg.norm(row) / np.linalg.norm(mask))
        return sent
