"""What a data owner's node joins: the jobs it consented to, and no other of the same number."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import anyio
import msgspec
import pytest
import torch
from benchmarks.things import PLAN, compiled_job
from torch import nn

from galaxylearning.errors import BlobMissing, ConfigRefused, JobRefused
from galaxylearning.messages.records import SignedUpdate
from galaxylearning.nodes import consenting
from galaxylearning.nodes.chain_view import ChainView
from galaxylearning.nodes.consenting import kept_enrolment, require_feasible
from galaxylearning.ports import BlobStore, GraphFacts, Ledger
from galaxylearning.protocol.consent import OwnerPolicy
from galaxylearning.protocol.machine import Phase
from galaxylearning.sandbox import ThreadTrainer
from galaxylearning.sandbox.facts import facts_of
from galaxylearning.simulation.stage import EVALUATORS
from galaxylearning.storage.journal import MemoryJournal
from galaxylearning.units import Digest

if TYPE_CHECKING:
    from tests.integration.conftest import Stage, Town

OTHER_JOB = "the journal holds a consent to another job of this number"


class ElsewhereLedger:
    """The same chain, seen by somebody whose contracts stand elsewhere."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    def address_of(self, contract: Any) -> str:
        return self._ledger.address_of("registry" if contract == "jobs" else contract)


class Recording:
    """A store that remembers what was read from it, and withholds some of it."""

    def __init__(self, blobs: BlobStore, *, without: bytes = b"") -> None:
        self._blobs, self.without = blobs, without
        self.got: list[bytes] = []

    async def put(self, data: bytes, *, topic: str) -> Digest:
        return await self._blobs.put(data, topic=topic)

    async def list(self, topic: str) -> Sequence[Digest]:
        return await self._blobs.list(topic)

    async def get(self, digest: Digest, *, max_bytes: int) -> bytes:
        if digest == self.without:
            raise BlobMissing("is not in this store")
        self.got.append(bytes(digest))
        return await self._blobs.get(digest, max_bytes=max_bytes)


async def _enrolled(town: Town, folder: Path) -> MemoryJournal:
    """The journal of an owner that has enrolled in job 1 of another chain."""
    async with town.stage(folder, title="An earlier job") as stage:
        stage.add_owner("east")
        stage.add_relayer()
        await stage.play(until=lambda _: bool(stage.told("enrolled")))
        journal = stage.journals["east"]
        assert isinstance(journal, MemoryJournal)
        return journal


async def _updates(stage: Stage, name: str) -> int:
    found = await stage.board().read("round/0/updates", SignedUpdate)
    return sum(record.signer == stage.account(name) for record in found.values())


@pytest.mark.parametrize("phase", [Phase.ENROLLING, Phase.TRAINING])
def test_a_consent_to_another_job_of_the_same_number_is_none(
    town: Town, tmp_path: Path, phase: Phase
) -> None:
    async def main() -> None:
        earlier = await _enrolled(town, tmp_path / "earlier")
        async with town.full_stage(tmp_path / "stage") as stage:
            if phase is Phase.TRAINING:
                # Enrolled by another program with the same account, so that the round's model opens for it.
                await stage.play(until=lambda state: state.phase is Phase.TRAINING)
            stage.journals["east"] = earlier
            stage.add_owner("east", policy=OwnerPolicy())
            await stage.play()
            assert await _updates(stage, "east") == 0
            assert await _updates(stage, "north") == 1
            (told,) = stage.told("given up")
            assert told.startswith(f"job 1: {OTHER_JOB}")
            assert "a home of its own" in told

    anyio.run(main)


def test_an_enrolment_is_held_against_chain_contract_and_terms(town: Town, tmp_path: Path) -> None:
    async def main() -> None:
        async with town.stage(tmp_path / "stage") as stage:
            stage.add_owner("east")
            stage.add_relayer()
            await stage.play(until=lambda _: bool(stage.told("enrolled")))
            state, site = await stage.state(), stage.site("east")
            assert kept_enrolment(site, state) == site.journal.lookup("job/1/enrolment")
            assert kept_enrolment(stage.site("north"), state) is None
            with pytest.raises(JobRefused, match=OTHER_JOB):
                kept_enrolment(stage.site("east", ledger=ElsewhereLedger(stage.ledger)), state)

    anyio.run(main)


def test_a_choice_that_was_never_signed_trains_nothing(town: Town, tmp_path: Path) -> None:
    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            journal = MemoryJournal()
            journal.record("job/1/consent", b"things")
            stage.journals["east"] = journal
            stage.add_owner("east", policy=OwnerPolicy())
            state = await stage.play()
            assert state.cohort_size == 3
            assert stage.told("given up") == []
            assert await _updates(stage, "east") == 0

    anyio.run(main)


# ---- what leaves beside the clipped parameters


class Keeper(nn.Module):
    """A linear model, and a queue of the rows it saw."""

    seen: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.register_buffer("seen", torch.zeros(8, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.copy_(torch.cat([self.seen[1:], x[:1]]))
        found: torch.Tensor = self.linear(x)
        return found


def test_a_model_with_federated_buffers_is_joined_only_where_the_owner_says_so(
    town: Town, tmp_path: Path
) -> None:
    compiled = compiled_job(model=Keeper(), plan=msgspec.structs.replace(PLAN, rounds=1))
    anyone: dict[str, Any] = {"requesters": ("*",), "datasets": ("*",)}

    async def main() -> None:
        async with town.stage(tmp_path / "stage") as stage:
            await stage.post(compiled)
            by_hand = ((await stage.terms()).digest.hex(),)
            stage.add_owner("north", policy=OwnerPolicy(**anyone))
            stage.add_owner("east", policy=OwnerPolicy(**anyone, allows_buffers=True))
            stage.add_owner("south", policy=OwnerPolicy(accepted=by_hand))
            for name in EVALUATORS:
                stage.add_evaluator(name)
            stage.add_relayer()
            state = await stage.play()
            assert state.phase is Phase.SETTLED
            joined = {name for name in ("north", "east", "south") if await _updates(stage, name)}
            assert joined == {"east", "south"}
            assert set(stage.told("not enrolled")) == {
                "16 federated buffers would leave unclipped; the policy does not allow buffers"
            }

    anyio.run(main)


# ---- what could not be kept


@pytest.mark.parametrize("mode", ["sealed", "masked"])
def test_no_update_is_larger_than_was_foreseen(
    town: Town, masked_town: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    here = {"sealed": town, "masked": masked_town}[mode]

    async def main() -> None:
        async with here.full_stage(tmp_path / "stage") as stage:
            await stage.play(until=lambda state: state.round_index == 1)
            kept = stage.journals["east"].lookup("job/1/round/0/update")
            assert kept is not None
            terms = await stage.terms()
            facts = facts_of(here.compiled.graph, terms.plan.batch_size)
            require_feasible(terms, facts)
            monkeypatch.setattr(consenting, "MAX_STEP_BYTES", len(kept) - 1)
            with pytest.raises(JobRefused, match=f"a journal keeps {len(kept) - 1 - 32}"):
                require_feasible(terms, facts)

    anyio.run(main)


def test_a_job_whose_updates_could_not_be_kept_is_not_joined(
    town: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consenting, "MAX_STEP_BYTES", 1_000)

    async def main() -> None:
        async with town.stage(tmp_path / "stage") as stage:
            stage.add_owner("east")
            await stage.play()
            (told,) = stage.told("given up")
            assert told.startswith("model: an update would have ")
            assert told.endswith(" bytes; a journal keeps 968")
            assert stage.journals["east"].steps("job/") == []

    anyio.run(main)


# ---- strangers


class Measuring(ThreadTrainer):
    """Counts the graphs it is given to measure."""

    def __init__(self) -> None:
        super().__init__()
        self.measured = 0

    async def measure(self, graph: bytes, *, batch_size: int) -> GraphFacts:
        self.measured += 1
        return await super().measure(graph, batch_size=batch_size)


@pytest.mark.parametrize(
    ("policy", "measured"),
    [
        (OwnerPolicy(), 0),
        (OwnerPolicy(requesters=("*",), datasets=("others",)), 0),
        (OwnerPolicy(requesters=("*",), datasets=("*",), max_epsilon=1.0), 0),
        (OwnerPolicy(requesters=("*",), datasets=("*",), maximum_flops=0), 1),
        (OwnerPolicy(requesters=("*",), datasets=("*",)), 1),
    ],
)
def test_a_graph_is_fetched_and_measured_only_where_all_else_allows_its_job(
    town: Town, tmp_path: Path, policy: OwnerPolicy, measured: int
) -> None:
    async def main() -> None:
        async with town.stage(tmp_path / "stage") as stage:
            trainer, graph = Measuring(), bytes.fromhex((await stage.terms()).graph)
            blobs = Recording(stage.blobs)
            stage.add_owner(
                "east", policy=policy, trainer=lambda: trainer, site=lambda: stage.site("east", blobs=blobs)
            )
            for _ in range(3):
                await stage.play(until=lambda _: True)
            assert trainer.measured == blobs.got.count(graph) == measured

    anyio.run(main)


class Counting(ThreadTrainer):
    """Counts its trainings."""

    def __init__(self) -> None:
        super().__init__()
        self.trained = 0

    async def train(self, *arguments: Any, **named: Any) -> Any:
        self.trained += 1
        return await super().train(*arguments, **named)


@pytest.mark.parametrize("mode", ["sealed", "masked"])
def test_nothing_is_trained_while_a_store_withholds_a_key_to_seal_to(
    town: Town, masked_town: Town, tmp_path: Path, mode: str
) -> None:
    here = {"sealed": town, "masked": masked_town}[mode]

    async def main() -> None:
        async with here.full_stage(tmp_path / "stage") as stage:
            trainer = Counting()
            blobs = Recording(stage.blobs)
            stage.add_owner("east", trainer=lambda: trainer, site=lambda: stage.site("east", blobs=blobs))
            await stage.play(until=lambda state: state.cohort_size > 0)
            blobs.without = stage.sealing_key("evaluator-1").digest
            await stage.play(until=lambda state: state.round_index == 1)
            assert trainer.trained == await _updates(stage, "east") == 0
            assert await _updates(stage, "north") == 1
            blobs.without = b""
            await stage.play()
            assert trainer.trained == 1
            assert stage.told("given up") == []

    anyio.run(main)


def test_a_journal_serves_one_deployment(town: Town, tmp_path: Path) -> None:
    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            await stage.play(until=lambda state: state.phase is Phase.TRAINING)
            site = stage.site("evaluator-1")
            view = ChainView(cast("Ledger", ElsewhereLedger(site.ledger)), site.blobs, site.journal)
            with pytest.raises(ConfigRefused, match="journal is of the contracts"):
                await view.refresh()
            await ChainView(site.ledger, site.blobs, site.journal).refresh()

    anyio.run(main)
