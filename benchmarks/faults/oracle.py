"""The oracle: data owners whose update in a round is one known number at one known place of their own.

The federated model then shows by itself whose update is in it, from which round, with what weight, and
whether one was counted twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Final

import numpy as np
from anyio import sleep
from benchmarks.things import SCHEMA, MemoryShelf, clouds, compiled_job, windows
from numpy.typing import NDArray
from torch import nn

from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.messages.plan import Plan
from galaxylearning.messages.terms import Terms
from galaxylearning.ports import GraphFacts
from galaxylearning.protocol.hidden_set import HiddenSet, Rows
from galaxylearning.protocol.job import CompiledJob
from galaxylearning.protocol.updates import train_hidden
from galaxylearning.sandbox.facts import facts_of
from galaxylearning.units import Address, Digest

I32 = NDArray[np.int32]

LEVEL: Final = 1_024
"""Magnitude of every update, in quantisation levels."""
WINDOW_S: Final = 900
HIDDEN_UNITS: Final[Mapping[str, int]] = {"sealed": 6, "masked": 80}
TEST_ROWS: Final = 64
MOST_OWNERS: Final = 4


@cache
def compiled(privacy: str, rounds: int, owners: int) -> CompiledJob:
    """A small job of this many rounds for at most this many data owners."""
    plan = Plan(
        rounds=rounds,
        learning_rate=0.5,
        steps=1,
        batch_size=16,
        clip_norm=2.0,
        midpoints=1,
        minimum_owners=3 if privacy == "masked" else 2,
        maximum_owners=owners,
    )
    return compiled_job(
        HIDDEN_UNITS[privacy],
        activation=nn.Tanh,
        test_rows=TEST_ROWS,
        plan=plan,
        windows=windows(WINDOW_S),
        privacy=privacy,
    )


def shelf(name: str) -> MemoryShelf:
    """A data owner's one data set, which the oracle does not train on."""
    return MemoryShelf(name, SCHEMA, clouds(4, seed=1))


_STEPS: dict[tuple[str, int, Digest], I32] = {}


def hidden_step(job: CompiledJob, terms: Terms, state: bytes, round_index: int) -> I32:
    """The step on the hidden set that a round's gate compares with, int32[P]; of an oracle's knowledge."""
    key = terms.privacy, round_index, blake3_digest(state)
    if key not in _STEPS:
        hidden = HiddenSet.split(job.test, seed=terms.seed)
        rng = np.random.default_rng([terms.seed, round_index, 0x6A7E])
        _STEPS[key] = train_hidden(
            job.model, terms, job.model.from_state_bytes(state), hidden.gating, rng=rng
        )[0]
    return _STEPS[key]


@dataclass(frozen=True, slots=True)
class OneHot:
    """An update that is ``value`` at ``place`` and zero elsewhere."""

    place: int
    value: int


def one_hot(step: I32, position: int, round_index: int) -> OneHot:
    """What the data owner at ``position`` sends in a round: at a place of its own, the way of ``step``.

    Places of another position or of the round before or after are other ones.
    """
    places = np.arange(step.size)
    own = places[(places % MOST_OWNERS == position) & (places // MOST_OWNERS % 2 == round_index % 2)]
    place = int(own[np.argmax(np.abs(step[own]))])
    return OneHot(place, LEVEL if step[place] > 0 else -LEVEL)


@dataclass
class Made:
    """What data owners really made, by round and account: the oracle's record of it."""

    made: dict[tuple[int, Address], OneHot] = field(default_factory=dict)
    conflicts: list[str] = field(default_factory=list)

    def note(self, round_index: int, data_owner: Address, update: OneHot) -> None:
        """Record what was made; making it again after a crash must give the same."""
        known = self.made.setdefault((round_index, data_owner), update)
        if known != update:
            self.conflicts.append(f"{data_owner} made {known} and {update} in round {round_index}")


TRAINING_S: Final = 0.1


class OneHotTrainer:
    """Implements ``ports.Trainer`` for the data owner at one position."""

    def __init__(self, job: CompiledJob, position: int, book: Made) -> None:
        self._job, self._position, self._book = job, position, book

    async def measure(self, graph: bytes, *, batch_size: int) -> GraphFacts:
        """Of the model that everybody here has."""
        del graph
        return facts_of(self._job.graph, batch_size)

    async def train(
        self, graph: bytes, state: bytes, terms: Terms, rows: Rows, *, round_index: int, data_owner: Address
    ) -> tuple[I32, I32]:
        """The one known number."""
        del graph, rows
        await sleep(TRAINING_S)
        step = hidden_step(self._job, terms, state, round_index)
        update = one_hot(step, self._position, round_index)
        self._book.note(round_index, data_owner, update)
        found = np.zeros(step.size, np.int32)
        found[update.place] = update.value
        return found, np.zeros(0, np.int32)
