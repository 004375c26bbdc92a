"""One evaluator that leaves a data owner out of a round, and a store that refuses one evaluator once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import anyio
import msgspec
import pytest

from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.errors import StorageError
from galaxylearning.messages.records import ACTIVITIES, LOCKED_OUT
from galaxylearning.messages.terms import Terms
from galaxylearning.nodes.board import Board
from galaxylearning.nodes.data_owner import DataOwnerNode
from galaxylearning.nodes.evaluator import EvaluatorNode, SeatedJob
from galaxylearning.nodes.parcels import Parcels, Turn
from galaxylearning.nodes.presence import PresenceBoard
from galaxylearning.nodes.round_models import MOST_SIGNED
from galaxylearning.protocol import events as ev
from galaxylearning.protocol.cohort import Cohort
from galaxylearning.protocol.machine import JobState, Phase
from galaxylearning.protocol.rounds import JobComputation
from galaxylearning.simulation.stage import STAKE
from galaxylearning.storage.blob_names import AccessRefused
from galaxylearning.storage.blobs import MemoryBlobStore
from galaxylearning.units import Address, Digest

if TYPE_CHECKING:
    from tests.integration.conftest import Town

VICTIM = "east"


class Excluding(Parcels):
    """Seals first, whoever's turn it is, and to itself in the victim's place."""

    victim: ClassVar[Address]

    async def open_round(
        self, state: JobState, job: JobComputation, cohort: Cohort, model: Digest, *, is_our_turn: Turn
    ) -> None:
        del is_our_turn
        members = tuple(
            replace(one, sealing_key=self._key.public) if one.data_owner == self.victim else one
            for one in cohort.members
        )
        others = replace(cohort, members=members)
        await super().open_round(state, job, others, model, is_our_turn=lambda _state, _what: True)

    async def open_again(self, *_given: Any, **_named: Any) -> None:
        """It does not."""


class Muffling(Excluding):
    """Signs for a parcel that nobody has, too, so that whoever is left out might wait for it."""

    async def open_round(
        self, state: JobState, job: JobComputation, cohort: Cohort, model: Digest, *, is_our_turn: Turn
    ) -> None:
        await super().open_round(state, job, cohort, model, is_our_turn=is_our_turn)
        await self._sign(state, model, blake3_digest(b"nothing %d" % state.round_index))


def handing_out(kind: type[Parcels]) -> type[EvaluatorNode]:
    """An evaluator that hands out models like this and is honest otherwise."""

    class Evaluator(EvaluatorNode):
        def seat(self, job_id: int, terms: Terms) -> SeatedJob:
            found = super().seat(job_id, terms)
            found._parcels = kind(self.site, found.board, terms, job_id, found.key, found._ballots)
            return found

    return Evaluator


@pytest.mark.parametrize("kind", [Excluding, Muffling])
def test_an_evaluator_that_seals_no_model_to_a_data_owner_does_not_keep_it_out(
    town: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Parcels]
) -> None:
    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            monkeypatch.setattr(Excluding, "victim", stage.account(VICTIM), raising=False)
            stage.add_evaluator("evaluator-1", handing_out(kind))
            stage.nodes = {"evaluator-1": stage.nodes["evaluator-1"], **stage.nodes}
            state = await stage.play()
            assert state.phase is Phase.SETTLED
            events = (await stage.view()).events_of(stage.job_id)
            assert [event.count for event in events if isinstance(event, ev.RoundAnchored)] == [4, 4]
            parcels = await stage.blobs.list(stage.board().topic("round/0/parcels"))
            assert len(parcels) == 2
            assert (await stage.audit(stage.sealing_key("evaluator-2"))).verdict == "ok"

    anyio.run(main)


JUNK = 40


class Flooding(Parcels):
    """Signs for parcels that carry nothing, at every look for others, and for as many that nobody has."""

    signed: ClassVar[set[Digest]] = set()

    async def open_round(self, state: JobState, *given: Any, **named: Any) -> None:
        await super().open_round(state, *given, **named)
        model = given[2]
        for number in range(JUNK):
            junk = b"junk %d %d" % (len(self.signed), number)
            self.signed.add(await self._board.put(f"round/{state.round_index}/parcels", junk))
            self.signed.add(blake3_digest(junk + b" that nobody has"))
            await self._sign(state, model, blake3_digest(junk))
            await self._sign(state, model, blake3_digest(junk + b" that nobody has"))


class Fetched(MemoryBlobStore):
    """Counts how often which blobs are fetched, and how often signs of life are listed."""

    def __init__(self, store: MemoryBlobStore) -> None:
        self.__dict__.update(store.__dict__)
        self.fetched: Counter[Digest] = Counter()
        self.listened = 0

    async def get(self, digest: Digest, *, max_bytes: int) -> bytes:
        self.fetched[digest] += 1
        return await super().get(digest, max_bytes=max_bytes)

    async def list(self, topic: str) -> Sequence[Digest]:
        self.listened += topic.endswith("/presence")
        return await super().list(topic)


def test_parcels_that_carry_nothing_are_fetched_once_and_few_of_each_evaluator(
    town: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            monkeypatch.setattr(Flooding, "signed", set())
            store = Fetched(stage.blobs)
            for name in ("north", "south"):
                stage.add_owner(name, site=partial(stage.site, name, blobs=store))
            stage.add_evaluator("evaluator-1", handing_out(Flooding))
            stage.add_evaluator("evaluator-2", site=lambda: stage.site("evaluator-2", blobs=store))
            await stage.play()
            events = (await stage.view()).events_of(stage.job_id)
            assert [event.count for event in events if isinstance(event, ev.RoundAnchored)] == [4, 4]
            assert len(Flooding.signed) > 2 * JUNK
            fetched = {digest: store.fetched[digest] for digest in Flooding.signed if store.fetched[digest]}
            # In each of two rounds three readers look at two parcels of hers at most.
            assert len(fetched) <= 2 * 3 * MOST_SIGNED
            # What is there is fetched once by each; what nobody has, at every look again.
            assert all(count <= 3 for digest, count in fetched.items() if digest in stage.blobs._blobs)

    anyio.run(main)


def test_openings_of_another_round_lock_nobody_out(town: Town, tmp_path: Path) -> None:
    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            board = stage.board()

            async def repeated() -> None:
                for round_index in range(1, (await stage.state()).rounds):
                    for digest in await stage.blobs.list(board.topic("round/0/openings")):
                        opening = await stage.blobs.get(digest, max_bytes=1 << 20)
                        await board.put(f"round/{round_index}/openings", opening)

            await stage.play(between=repeated)
            signs = await PresenceBoard(stage.site("auditor"), board, await stage.terms(), 1).latest(1)
            assert {ACTIVITIES[sign.activity] for sign in signs.values()} == {"training"}
            events = (await stage.view()).events_of(stage.job_id)
            assert [event.count for event in events if isinstance(event, ev.RoundAnchored)] == [4, 4]

    anyio.run(main)


def test_signs_of_life_are_read_when_something_may_depend_on_them(town: Town, tmp_path: Path) -> None:
    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            stage.add_owner("west", kind=Crier)
            # Who sealed the round's parcel has no second one: the others listen for who is left out.
            stores = [Fetched(stage.blobs) for _ in stage.evaluators]
            for name, store in zip(stage.evaluators, stores, strict=True):
                stage.add_evaluator(name, site=partial(stage.site, name, blobs=store))
            await stage.play(until=lambda state: state.phase is Phase.TRAINING)
            for _ in range(20):
                for name in stage.evaluators:
                    await stage.nodes[name].turn()
            assert sorted(store.listened for store in stores) == [0, 1, 1]
            stage.time_s += 15
            for _ in range(20):
                for name in stage.evaluators:
                    await stage.nodes[name].turn()
            assert sorted(store.listened for store in stores) == [0, 2, 2]

    anyio.run(main)


def test_signs_of_life_are_not_read_while_a_round_waits_for_mass(town: Town, tmp_path: Path) -> None:
    plan = msgspec.structs.replace(town.compiled.job.plan, minimum_mass=1.0)

    async def main() -> None:
        async with town.full_stage(tmp_path / "stage", plan=plan) as stage:
            stores = [Fetched(stage.blobs) for _ in stage.evaluators]
            for name, store in zip(stage.evaluators, stores, strict=True):
                stage.add_evaluator(name, site=partial(stage.site, name, blobs=store))
            await stage.play(until=lambda state: state.round_index == 1)
            deadline = (await stage.state()).deadline
            assert deadline is not None
            del stage.nodes["west"]
            await stage.play(until=lambda _: stage.time_s > deadline)
            heard = [store.listened for store in stores]
            for _ in range(20):
                for name in stage.evaluators:
                    await stage.nodes[name].turn()
            more = [store.listened - before for store, before in zip(stores, heard, strict=True)]
            assert (await stage.state()).round_index == 1
            assert max(more) <= 1

    anyio.run(main)


class Crier(DataOwnerNode):
    """Says that no parcel opens for it, and trains nothing."""

    async def _training(self, state: JobState, board: Board, dataset: str) -> None:
        del dataset
        terms = await self._view.terms(state.job_id)
        await PresenceBoard(self.site, board, terms, state.job_id).tell(state.round_index, LOCKED_OUT)


class Counting(MemoryBlobStore):
    """Counts the parcels of round 0 that are stored, and lists no signs of life where it ``is_mute``."""

    def __init__(self, store: MemoryBlobStore, *, is_mute: bool) -> None:
        self.__dict__.update(store.__dict__)
        self.parcels, self._is_mute = 0, is_mute

    async def put(self, data: bytes, *, topic: str) -> Digest:
        self.parcels += topic.endswith("round/0/parcels")
        return await super().put(data, topic=topic)

    async def list(self, topic: str) -> Sequence[Digest]:
        if self._is_mute and topic.endswith("/presence"):
            raise StorageError("no such list", where="s3")
        return await super().list(topic)


@pytest.mark.parametrize("is_mute", [False, True])
def test_a_cry_costs_one_parcel_of_each_evaluator_and_stops_no_round(
    town: Town, tmp_path: Path, is_mute: bool
) -> None:
    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            stage.add_owner("west", kind=Crier)
            stores = {name: Counting(stage.blobs, is_mute=is_mute) for name in stage.evaluators}
            for name, store in stores.items():
                stage.add_evaluator(name, site=partial(stage.site, name, blobs=store))
            await stage.play(until=lambda state: state.round_index == 1)
            assert max(store.parcels for store in stores.values()) <= 2
            assert sum(store.parcels for store in stores.values()) <= (1 if is_mute else 4)

    anyio.run(main)


class Hiccup(MemoryBlobStore):
    """Refuses one score table and is well ever after."""

    def __init__(self, store: MemoryBlobStore, error: StorageError) -> None:
        self.__dict__.update(store.__dict__)
        self._error: StorageError | None = error

    async def put(self, data: bytes, *, topic: str) -> Digest:
        if self._error is not None and topic.endswith("/scores"):
            error, self._error = self._error, None
            raise error
        return await super().put(data, topic=topic)


@pytest.mark.parametrize(
    "error",
    [
        StorageError("the service failed: 400 ExpiredToken", where="s3"),
        AccessRefused("the store refused it: expired signature", where="put"),
    ],
)
def test_a_store_that_refuses_once_costs_no_stake(town: Town, tmp_path: Path, error: StorageError) -> None:
    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            store = Hiccup(stage.blobs, error)
            stage.add_evaluator("evaluator-3", site=lambda: stage.site("evaluator-3", blobs=store))
            state = await stage.play()
            assert (state.phase, len(state.revealed)) == (Phase.SETTLED, 3)
            assert [await stage.staked(name) for name in stage.evaluators] == [STAKE] * 3
            assert store._error is None

    anyio.run(main)
