"""A simulated job through the whole protocol in virtual time: contracts, sealing, nodes, settlement, audit.

What the data owners send comes from the same ``Players`` as without a chain, so both give the same model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from galaxylearning.chain.embedded import EmbeddedChain
from galaxylearning.chain.evm import connect
from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.engines.cohort import Cohort
from galaxylearning.errors import AuditFailed, ConfigRefused, UpdateRefused
from galaxylearning.graph import FlatModel
from galaxylearning.learning.vectors import F32, I32, I64
from galaxylearning.messages.records import ScoreTable
from galaxylearning.messages.terms import Schema, Terms, Windows
from galaxylearning.nodes import requester
from galaxylearning.nodes.auditor import AuditReport
from galaxylearning.nodes.data_owner import DataOwnerNode
from galaxylearning.nodes.site import Progress
from galaxylearning.ports import Block, GraphFacts, Ledger, OfferedDataset
from galaxylearning.protocol.consent import OwnerPolicy
from galaxylearning.protocol.hidden_set import Rows
from galaxylearning.protocol.job import CompiledJob
from galaxylearning.protocol.machine import JobState, Phase
from galaxylearning.protocol.masking import simulated_beacon
from galaxylearning.protocol.matching import DatasetArray, DatasetColumn
from galaxylearning.sandbox.facts import facts_of
from galaxylearning.simulation.players import Players
from galaxylearning.simulation.stage import (
    EVALUATORS,
    GENESIS_S,
    Node,
    Stage,
    found_town,
    publish_keys,
    sealing_key,
    signer,
)
from galaxylearning.storage.blobs import MemoryBlobStore
from galaxylearning.units import Address, Entropy, round_name

WINDOW_S: Final = 600
CLAIM_S: Final = 30 * 86_400
TURNS_PER_ROUND: Final = 60
MOST_OWNERS: Final = 1_000
DATASET: Final = "simulated"
WINDOWS: Final = Windows(WINDOW_S, WINDOW_S, WINDOW_S, WINDOW_S, WINDOW_S, WINDOW_S, CLAIM_S)


@dataclass(frozen=True, slots=True, eq=False)
class ChainRun:
    """What came of it. ``accounts`` and ``payouts`` (smallest units) are those of the cast, by position.

    ``model_bytes`` is the model that the requester collected, ``model`` the same as parameters f32[P] and
    buffers f32[B]. ``transactions`` counts those that data owners sent: the protocol needs none.
    """

    state: JobState
    terms: Terms
    table: ScoreTable
    accounts: tuple[Address, ...]
    payouts: tuple[int, ...]
    model: tuple[F32, F32]
    model_bytes: bytes
    transactions: int
    audit: AuditReport


class _Foreseen:
    """A ledger with the randomness that a simulation without a chain has, so that both ask the same."""

    def __init__(self, ledger: Ledger, seed: int) -> None:
        self._ledger, self._beacon = ledger, simulated_beacon(seed)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    async def randomness(self, block: Block) -> bytes:
        """The same for every block."""
        del block
        return self._beacon


class _Shelf:
    """A data owner's shelf with one data set, described as the job's schema wants it."""

    def __init__(self, schema: Schema, rows: Rows, name: str, columns: Mapping[str, NDArray[Any]]) -> None:
        self._columns = columns
        wanted = [*schema.features, schema.label]
        self._offer = OfferedDataset(
            name=DATASET,
            commitment=blake3_digest(f"{name} {len(rows)}".encode()),
            schema_digest=blake3_digest(" ".join(column.name for column in wanted).encode()),
            n_rows=len(rows),
            columns=tuple(
                DatasetColumn(c.name, c.kind, c.unit, c.minimum, c.maximum, c.classes) for c in wanted
            ),
            arrays=tuple(DatasetArray(a.name, a.shape, a.dtype) for a in schema.arrays),
        )

    def offered(self) -> Sequence[OfferedDataset]:
        """The one data set."""
        return (self._offer,)

    def columns(self, name: str) -> Mapping[str, NDArray[Any]]:
        """Its columns."""
        if name != DATASET:
            raise ConfigRefused(f"{name!r} is not on this shelf", where="dataset")
        return self._columns

    def record_use(self, name: str, job_id: int, round_index: int) -> None:
        """Nobody counts the uses of simulated data."""


class _Rounds:
    """What all players send in the round at hand, worked out once, when the first of them asks."""

    def __init__(self, players: Players, senders: Callable[[int], I64]) -> None:
        self._players, self._senders = players, senders
        self._round = -1
        self._params: F32 | None = None
        self._last_step: NDArray[np.float64] | None = None
        self._sent: dict[int, tuple[I32, I32]] = {}
        self._malformed: Mapping[int, str] = {}

    def update(self, owner: int, params: F32, buffers: F32, round_index: int) -> tuple[I32, I32]:
        """The integers that one player sends.

        Raises:
            UpdateRefused: it has nothing to send.
        """
        if round_index != self._round:
            if self._params is not None and round_index == self._round + 1:
                self._last_step = params.astype(np.float64) - self._params
            played = self._players.play(
                params, buffers, self._senders(round_index), round_index, self._last_step
            )
            self._sent = {
                int(who): (played.parameters[row].astype(np.int32), played.buffers[row])
                for row, who in enumerate(played.owners)
            }
            self._malformed, self._round, self._params = played.malformed, round_index, params
        if owner in self._malformed:
            return np.zeros(1, np.int32), np.zeros(buffers.size, np.int32)
        if owner not in self._sent:
            raise UpdateRefused(f"takes no part in {round_name(round_index)}", where=f"owner {owner}")
        return self._sent[owner]


class _Trainer:
    """Implements ``ports.Trainer`` for one player."""

    def __init__(self, rounds: _Rounds, owner: int, model: FlatModel) -> None:
        self._rounds, self._owner, self._model = rounds, owner, model

    async def measure(self, graph: bytes, *, batch_size: int) -> GraphFacts:
        """Of the model that everybody here has."""
        del graph
        return facts_of(self._model.graph, batch_size)

    async def train(
        self, graph: bytes, state: bytes, terms: Terms, rows: Rows, *, round_index: int, data_owner: Address
    ) -> tuple[I32, I32]:
        """What the player sends; an update nobody can read is one of a single number."""
        del graph, terms, rows, data_owner
        params, buffers = self._model.from_state_bytes(state)
        return self._rounds.update(self._owner, params, buffers, round_index)


async def run_on_chain(
    compiled: CompiledJob,
    players: Players,
    names: Sequence[str],
    columns: Callable[[int], Mapping[str, NDArray[Any]]],
    *,
    senders: Callable[[int], I64],
    delays: Callable[[int], NDArray[np.float64]],
    window: float,
    folder: Path,
    entropy: Entropy,
    report: Callable[[Progress], None],
) -> ChainRun:
    """Play a job from its posting to its settlement and audit it.

    ``columns(i)`` are the raw columns of player ``i``, ``senders(round)`` whose update comes in time in a
    round, ``delays`` how long each takes in multiples of the normal duration: the round's window is
    ``window`` of them.

    Raises:
        ConfigRefused: more players than a chain simulation takes.
        GalaxyError: the job did not end.
    """
    if len(names) > MOST_OWNERS:
        raise ConfigRefused(f"{len(names)} given; allowed with a chain: 1 to {MOST_OWNERS}", where="owners")
    cohort: Cohort = players.cast.cohort
    clock: list[Stage] = []
    job = replace(compiled.job, windows=WINDOWS)
    with EmbeddedChain(folder / "chain.sqlite", now=lambda: clock[0].time_s if clock else GENESIS_S) as chain:
        deployment = await found_town(chain, folder, entropy=entropy)
        ledger, blobs = await connect(chain, deployment), MemoryBlobStore()
        await publish_keys(blobs)
        foreseen = cast("Ledger", _Foreseen(ledger, job.seed))
        stage = Stage(folder, chain, foreseen, blobs, GENESIS_S + 100, entropy)
        clock.append(stage)
        told = stage.progress

        async def tell() -> None:
            for progress in told:
                report(progress)
            told.clear()

        await stage.post(replace(compiled, job=job))
        rounds = _Rounds(players, senders)
        # As if each had accepted by hand: all are one party, which wants this job.
        policy = OwnerPolicy(accepted=((await stage.terms()).digest.hex(),))
        for position, name in enumerate(names):
            _add_owner(stage, name, cohort, position, compiled, rounds, columns(position), policy)
        for name in EVALUATORS:
            stage.add_evaluator(name)
        stage.add_relayer()
        places = {name: position for position, name in enumerate(names)}
        begun: dict[int, int] = {}

        def is_on(name: str, state: JobState) -> bool:
            """Whether an actor acts now: data owners in the rounds they send something, slow ones late."""
            if name not in places or state.phase is not Phase.TRAINING:
                return True
            place, index = places[name], state.round_index
            start = begun.setdefault(index, stage.time_s)
            if place not in senders(index):
                return False
            late = float(delays(index)[place]) - 1.0
            return stage.time_s - start >= late * WINDOW_S / window

        most = TURNS_PER_ROUND * (job.plan.rounds + 4)
        state = await stage.play(is_on=is_on, between=tell, most=most)
        await tell()
        if state.phase is not Phase.SETTLED:
            raise AuditFailed(f"the job ended {state.phase.name.lower()}", where=f"job {stage.job_id}")
        return await _ended(stage, state, names, compiled.model)


def _add_owner(
    stage: Stage,
    name: str,
    cohort: Cohort,
    position: int,
    compiled: CompiledJob,
    rounds: _Rounds,
    columns: Mapping[str, NDArray[Any]],
    policy: OwnerPolicy,
) -> None:
    shelf = _Shelf(compiled.job.schema, cohort.rows(position), name, columns)

    def make() -> Node:
        return DataOwnerNode(
            stage.site(name),
            sealing_key(name),
            shelf=shelf,
            trainer=_Trainer(rounds, position, compiled.model),
            policy=lambda: policy,
            jobs=frozenset([stage.job_id]),
        )

    stage.cast(name, make)


async def _ended(stage: Stage, state: JobState, names: Sequence[str], model: FlatModel) -> ChainRun:
    tables = await stage.tables()
    faulty = {
        name for name in EVALUATORS if state.faulty_seats >> state.evaluators.index(signer(name).address) & 1
    }
    paid = await stage.paid()
    collected = await requester.collect(stage.site("requester"), stage.job_id, sealing_key("requester"))
    return ChainRun(
        state=state,
        terms=await stage.terms(),
        table=next(table for name, table in tables.items() if name not in faulty),
        accounts=tuple(signer(name).address for name in names),
        payouts=tuple(paid.get(name, 0) for name in names),
        model=model.from_state_bytes(collected),
        model_bytes=collected,
        transactions=sum([await stage.transactions(name) for name in names]),
        audit=await stage.audit(sealing_key(EVALUATORS[0])),
    )
