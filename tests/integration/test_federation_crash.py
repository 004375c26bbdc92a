"""What each actor does after ``kill -9`` at the places where two answers would be possible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from galaxylearning import bootstrap
from galaxylearning.chain.transport import Transport
from galaxylearning.config import Home
from galaxylearning.errors import (
    BlobDamaged,
    BlobMissing,
    GalaxyError,
    LedgerUnreachable,
    PhaseError,
    StorageError,
    WorkerRefused,
)
from galaxylearning.messages.records import SignedAnswerSet
from galaxylearning.nodes import requester
from galaxylearning.nodes.asked import Asked
from galaxylearning.nodes.asked import Phase as AskedPhase
from galaxylearning.nodes.data_owner import DataOwnerNode
from galaxylearning.nodes.member import Member
from galaxylearning.ports import Block, Call, ChainLog, Ledger, Receipt, Signer
from galaxylearning.protocol import events as ev
from galaxylearning.protocol.consent import OwnerPolicy
from galaxylearning.protocol.machine import JobState, Phase
from galaxylearning.protocol.masking import masking_plan
from galaxylearning.protocol.updates import training_name
from galaxylearning.sandbox import ThreadTrainer
from galaxylearning.secagg.member import GateAsked
from galaxylearning.simulation.stage import sealing_key, signer
from galaxylearning.storage.checkpoints import CheckpointFolder, FileCheckpoint
from galaxylearning.storage.datasets import DatasetCatalog
from galaxylearning.storage.journal import MemoryJournal, SqliteJournal
from galaxylearning.storage.shelf import CatalogueShelf
from galaxylearning.units import Address, Digest

if TYPE_CHECKING:
    from tests.integration.conftest import Outcome, Stage, Town


class Killed(BaseException):
    """``kill -9``: nothing of ours may catch it."""


# ---- two copies of a node


def test_two_copies_of_one_node_refuse_each_other(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with bootstrap.open_journal(home, "owner-alice"), bootstrap.open_outbox(home, "owner-alice"):
        with pytest.raises(StorageError, match="another process has this journal open"):
            bootstrap.open_journal(home, "owner-alice")
        with pytest.raises(StorageError, match="another process has this outbox open"):
            bootstrap.open_outbox(home, "owner-alice")
        bootstrap.open_journal(home, "owner-bob").close()
        bootstrap.open_outbox(home, "owner-bob").close()
    bootstrap.open_outbox(home, "owner-alice").close()


# ---- the data owner


class MortalCheckpoint(FileCheckpoint):
    """Its writer dies once it has written."""

    def save(self, state: bytes) -> None:
        super().save(state)
        raise Killed


class MortalCheckpoints(CheckpointFolder):
    """Checkpoints due at every pass; whose writer dies as often as told, and counts what it finds again."""

    def __init__(self, folder: Path, *, deaths: int) -> None:
        super().__init__(folder, monotonic_s=lambda: 0.0, every_s=0.0)
        self.deaths, self.found = deaths, 0

    def of(self, name: str) -> FileCheckpoint:
        kind = MortalCheckpoint if self.deaths else FileCheckpoint
        one = kind(self._path(name), monotonic_s=lambda: 0.0, every_s=0.0, max_bytes=1 << 20)
        self.deaths -= self.deaths > 0
        self.found += one.load() is not None
        return one


class CappedTrainer(ThreadTrainer):
    """Saves how far it is, and hits a cap."""

    def __init__(self, kept: CheckpointFolder) -> None:
        super().__init__()
        self._kept = kept

    async def train(self, *given: Any, round_index: int, data_owner: Address) -> Any:
        _, _, terms, _ = given
        self._kept.of(training_name(terms, round_index, data_owner)).save(b"parameters")
        raise WorkerRefused("took too long", cap="maximum_training_s")


@pytest.mark.parametrize("is_broken", [False, True])
def test_nothing_is_left_of_the_training_of_a_job_that_was_given_up(
    is_broken: bool, town: Town, tmp_path: Path
) -> None:
    class Broken(CheckpointFolder):
        def discard(self, name: str) -> None:
            raise StorageError("cannot be removed", where=name[:4])

    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            kind = Broken if is_broken else CheckpointFolder
            kept, told = kind(tmp_path / "checkpoints", monotonic_s=lambda: 0.0), list[str]()
            site = replace(stage.site("east"), report=lambda progress: told.append(progress.step))
            node = DataOwnerNode(
                site,
                sealing_key("east"),
                shelf=CatalogueShelf(DatasetCatalog(stage.folder / "east" / "data.sqlite")),
                trainer=CappedTrainer(kept),
                policy=lambda: OwnerPolicy(requesters=("*",), datasets=("*",)),
                jobs=frozenset([stage.job_id]),
                checkpoints=kept,
            )
            stage.cast("east", lambda: node)
            await stage.play()
            assert "given up" in told
            assert ("a checkpoint is left" in told) == is_broken
            assert bool(list((tmp_path / "checkpoints").iterdir())) == is_broken

    anyio.run(main)


class BusyTrainer(ThreadTrainer):
    """Finds no memory the first two times."""

    tries = 0

    async def train(self, *given: Any, **named: Any) -> Any:
        self.tries += 1
        if self.tries <= 2:
            raise WorkerRefused("no more memory", cap="maximum_memory_bytes")
        return await super().train(*given, **named)


def test_a_job_given_up_at_a_cap_is_taken_again_and_ends_as_if_nothing_had_happened(
    town: Town, undisturbed: Outcome, tmp_path: Path
) -> None:
    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            trainer = BusyTrainer()
            stage.add_owner("east", trainer=lambda: trainer)
            await stage.play()
            found = await stage.outcome()
            assert trainer.tries == 2 + found.state.rounds
            assert len(stage.told("taken again")) == 2
            pauses = [told.partition("taken again in ")[2] for told in stage.told("given up")]
            assert pauses == ["60 s", "120 s"]
            assert (found.model, found.paid) == (undisturbed.model, undisturbed.paid)

    anyio.run(main)


def test_a_data_owner_killed_while_it_trains_goes_on_from_its_checkpoint(
    town: Town, undisturbed: Outcome, tmp_path: Path
) -> None:
    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            stage.killed = Killed
            kept = MortalCheckpoints(tmp_path / "checkpoints", deaths=1)
            allowed = OwnerPolicy(requesters=(signer("requester").address,), datasets=("things",))
            journal = MemoryJournal()

            def make() -> DataOwnerNode:
                return DataOwnerNode(
                    stage.site("east", journal=journal),
                    sealing_key("east"),
                    shelf=CatalogueShelf(DatasetCatalog(stage.folder / "east" / "data.sqlite")),
                    trainer=ThreadTrainer(checkpoints=kept),
                    policy=lambda: allowed,
                    jobs=frozenset([stage.job_id]),
                    checkpoints=kept,
                )

            stage.cast("east", make)
            await stage.play()
            found = await stage.outcome()
            assert (stage.deaths, kept.found) == (1, 1)
            assert (found.model, found.paid) == (undisturbed.model, undisturbed.paid)
            assert list((tmp_path / "checkpoints").iterdir()) == []

    anyio.run(main)


class DiesAfter:
    """A journal whose holder dies once, after a record whose name ends so."""

    def __init__(self, journal: MemoryJournal, end: str) -> None:
        self._journal, self._end = journal, end

    def record(self, step: str, payload: bytes) -> bytes:
        found = self._journal.record(step, payload)
        if self._end and step.endswith(self._end):
            self._end = ""
            raise Killed
        return found

    def lookup(self, step: str) -> bytes | None:
        return self._journal.lookup(step)

    def steps(self, prefix: str = "") -> Sequence[str]:
        return self._journal.steps(prefix)


@pytest.mark.parametrize("is_allowed_after", [True, False])
def test_the_data_set_that_was_chosen_stays_chosen(
    town: Town, tmp_path: Path, is_allowed_after: bool
) -> None:
    """Killed between choosing and signing; meanwhile the owner allows another data set."""

    async def main() -> None:
        async with town.stage(tmp_path / "stage") as stage:
            stage.killed = Killed
            stage.add_owner("east")
            catalogue = DatasetCatalog(stage.folder / "east" / "data.sqlite")
            (stage.folder / "east" / "copy.csv").write_text(
                (stage.folder / "east" / "things.csv").read_text().replace("round", "square", 1)
            )
            catalogue.add(
                "a-copy",
                stage.folder / "east" / "copy.csv",
                "kind",
                kinds={"height": "number", "width": "number"},
                units={"height": "mm", "width": "mm"},
                entropy=bytes,
            )
            journal = DiesAfter(MemoryJournal(), "/consent")
            allowed = ["things"]

            def make() -> DataOwnerNode:
                policy = OwnerPolicy(requesters=(signer("requester").address,), datasets=tuple(allowed))
                return DataOwnerNode(
                    stage.site("east", journal=journal),
                    sealing_key("east"),
                    shelf=CatalogueShelf(DatasetCatalog(stage.folder / "east" / "data.sqlite")),
                    trainer=ThreadTrainer(),
                    policy=lambda: policy,
                    jobs=frozenset([stage.job_id]),
                )

            stage.cast("east", make)
            stage.add_relayer()
            for turn in range(8):
                if stage.deaths and turn:
                    allowed[:] = ["a-copy", "things"] if is_allowed_after else ["a-copy"]
                    stage.nodes["east"] = make()
                await stage.play(until=lambda _: True)
                stage.time_s += 20
            assert stage.deaths == 1
            assert journal.lookup("job/1/consent") == b"things"
            enrolled = await stage.blobs.list(stage.board().topic("enrolments"))
            assert len(enrolled) == (1 if is_allowed_after else 0)

    anyio.run(main)


# ---- the member


def test_a_restarted_member_never_votes_for_another_set_of_answers(masked_town: Town, tmp_path: Path) -> None:
    async def main() -> None:
        async with masked_town.stage(tmp_path / "stage") as stage:
            journal, terms, board = MemoryJournal(), await stage.terms(), stage.board()
            plan = masking_plan(terms, masked_town.compiled.model.parameter_count)
            one, two, three = (Digest(bytes([number]) * 32) for number in (1, 2, 3))

            async def votes(question: Digest, answers: tuple[Digest, ...]) -> set[tuple[bytes, ...]]:
                site = stage.site("evaluator-1", journal=journal)
                key = sealing_key("evaluator-1")
                member = Member(site, board, terms, stage.job_id, key, plan, stagger_s=20)
                asked = Asked(AskedPhase.GATE, GateAsked(0, one, question, 17), ((8, 1),))
                await member._sign_set(asked, answers, {})
                found = await board.read(f"{asked.topic}/sets", SignedAnswerSet)
                return {record.answers for record in found.values()}

            assert await votes(two, (one, two)) == {(one, two)}
            assert await votes(two, (one, two, three)) == {(one, two)}
            with pytest.raises(PhaseError, match="another question"):
                await votes(three, (one, two, three))
            assert await votes(two, (three,)) == {(one, two)}

    anyio.run(main)


# ---- the requester


async def _posted(stage: Stage, town: Town, journal: Any, **more: int) -> int:
    posted = await requester.post(
        stage.site("requester", journal=journal),
        replace(town.compiled, job=replace(town.compiled.job, title="Another")),
        evaluators=[signer(name).address for name in stage.evaluators],
        sealing_key=sealing_key("requester"),
        **more,
    )
    return posted.job_id


class Forgetful:
    """A ledger that posts, and whose caller dies before it is told."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    async def submit(self, call: Call, by: Signer) -> Receipt:
        receipt = await self._ledger.submit(call, by)
        if call.function == "postJob":
            raise Killed
        return receipt


class Lagging(Forgetful):
    """A ledger on which nothing of the last ``looks`` readings is final, nor ever irrevocable."""

    is_irrevocable = False

    def __init__(self, ledger: Ledger, looks: int) -> None:
        super().__init__(ledger)
        self._looks, self._since, self.posted = looks, 0, 0

    async def submit(self, call: Call, by: Signer) -> Receipt:
        self.posted += call.function == "postJob"
        return await self._ledger.submit(call, by)

    async def follow(self, since_block: int) -> ChainLog:
        found = await self._ledger.follow(since_block)
        self._looks -= 1
        if self._looks < 0:
            return found
        last = found.final_block.number - 1
        return replace(
            found,
            final=[event for event in found.final if event.block.number <= last],
            provisional=[event for event in found.final if event.block.number > last],
            final_block=Block(last, b""),
        )


def test_a_posting_that_was_cut_off_is_found_again_until_its_job_is_over(town: Town, tmp_path: Path) -> None:
    async def main() -> None:
        async with town.stage(tmp_path / "stage") as stage:
            escrowed = (await stage.state()).escrow
            before = await stage.balance(signer("requester").address)
            ledger, path = stage.ledger, tmp_path / "requester.journal"
            stage.ledger = Forgetful(ledger)
            with SqliteJournal(path) as journal, pytest.raises(Killed):
                await _posted(stage, town, journal)
            stage.ledger = ledger
            with SqliteJournal(path) as journal:
                assert [await _posted(stage, town, journal) for _ in range(3)] == [2, 2, 2]
            assert await stage.balance(signer("requester").address) == before - escrowed
            await stage.site("requester").submit(("cancel", (2,)))
            with SqliteJournal(path) as journal:
                assert await _posted(stage, town, journal) == 3

    anyio.run(main)


def test_a_posting_is_found_without_a_journal_and_posted_beside_itself_where_that_is_said(
    town: Town, tmp_path: Path
) -> None:
    async def main() -> None:
        async with town.stage(tmp_path / "stage") as stage:
            escrowed = (await stage.state()).escrow
            before = await stage.balance(signer("requester").address)
            ledger = stage.ledger
            stage.ledger = Forgetful(ledger)
            with pytest.raises(Killed):
                await _posted(stage, town, MemoryJournal())
            stage.ledger = ledger
            assert [await _posted(stage, town, MemoryJournal()) for _ in range(2)] == [2, 2]
            journal = MemoryJournal()
            assert [await _posted(stage, town, journal, copy=2) for _ in range(2)] == [3, 3]
            assert await _posted(stage, town, MemoryJournal(), copy=2) == 3
            assert await _posted(stage, town, journal) == 2
            assert await stage.balance(signer("requester").address) == before - 2 * escrowed
            await stage.site("requester").submit(("cancel", (2,)))
            assert await _posted(stage, town, journal) == 3
            assert await _posted(stage, town, journal, copy=2) == 4

    anyio.run(main)


def test_a_posting_that_is_not_final_yet_is_waited_for_and_not_made_again(town: Town, tmp_path: Path) -> None:
    async def main() -> None:
        async with town.stage(tmp_path / "stage") as stage:
            ledger, journal = stage.ledger, MemoryJournal()
            stage.ledger = Forgetful(ledger)
            with pytest.raises(Killed):
                await _posted(stage, town, journal)
            stage.ledger = lagging = Lagging(ledger, looks=1)
            assert await _posted(stage, town, journal) == 2
            assert lagging.posted == 0

    anyio.run(main)


@pytest.mark.parametrize(("found", "error"), [(None, BlobMissing), (b"torn", BlobDamaged)])
def test_a_job_is_not_posted_while_it_cannot_be_told_whether_it_is_there(
    town: Town, tmp_path: Path, found: bytes | None, error: type[GalaxyError]
) -> None:
    async def main() -> None:
        async with town.stage(tmp_path / "stage") as stage:
            journal = MemoryJournal()
            assert await _posted(stage, town, journal) == 2
            terms = await (await stage.view()).terms(2)
            del stage.blobs._blobs[terms.digest]
            if found is not None:
                stage.blobs._blobs[terms.digest] = found
            for kept in journal, MemoryJournal():
                with pytest.raises(error):
                    await _posted(stage, town, kept)
            # Of a job that is over nothing need be had.
            await stage.site("requester").submit(("cancel", (2,)))
            assert await _posted(stage, town, MemoryJournal()) == 3

    anyio.run(main)


# ---- the coordinator is whoever is there


class Idle:
    """A ledger through which nothing that one of the committee may do for all gets out."""

    SHARED = ("anchorCohort", "anchorRound", "settle", "expire")

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    async def submit(self, call: Call, by: Signer) -> Receipt:
        if call.function in self.SHARED:
            raise LedgerUnreachable("no answer", where=call.function)
        return await self._ledger.submit(call, by)


@pytest.mark.parametrize("coordinator", ["evaluator-1", "evaluator-3"])
def test_any_evaluator_can_anchor_and_settle_alone_and_is_waited_for_a_bounded_time(
    town: Town, undisturbed: Outcome, tmp_path: Path, coordinator: str
) -> None:
    """The other two vote and do nothing for the committee; the one is made again between any two turns of the
    first half, so that no waiting of its own survives for longer than three turns.
    """

    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            for name in town.evaluators:
                if name != coordinator:
                    stage.add_evaluator(name, site=partial(stage.site, name, ledger=Idle(stage.ledger)))
            turns = 0

            async def restart() -> None:
                nonlocal turns
                turns += 1
                if turns % 4 == 0:
                    stage.nodes[coordinator] = stage.makers[coordinator]()

            state: JobState = await stage.play(between=restart, most=60)
            found = await stage.outcome()
            assert (found.model, found.paid) == (undisturbed.model, undisturbed.paid)
            anchors = (ev.CohortAnchored.__name__, ev.RoundAnchored.__name__, ev.JobSettled.__name__)
            node = Transport(stage.chain)
            senders = set()
            for event in (await stage.view()).log:
                if event.name in anchors:
                    sent: Any = await node.request(
                        "eth_getTransactionByHash", "0x" + event.transaction_hash.hex()
                    )
                    senders.add(sent["from"].lower())
            assert senders == {signer(coordinator).address.lower()}
            assert state.phase is Phase.SETTLED

    anyio.run(main)
