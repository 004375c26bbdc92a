"""``kill -9`` at every kind of step of every actor: the job ends as if nothing had happened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio

from galaxylearning.ports import BlobStore, Call, Journal, Ledger, Receipt, Signer
from galaxylearning.storage.journal import SqliteJournal
from galaxylearning.units import Digest

if TYPE_CHECKING:
    from tests.integration.conftest import Outcome, Stage, Town

OWNERS = ("east", "north", "south", "west")
EVALUATORS = ("evaluator-1", "evaluator-2", "evaluator-3")


class Killed(BaseException):
    """``kill -9`` in the middle of a step: nothing of ours may catch it."""


class Fate:
    """Kills an actor once before and once after every kind of effect it has."""

    def __init__(self) -> None:
        self.struck: list[str] = []

    def strike(self, effect: str) -> None:
        """Die here, unless this has happened before."""
        if effect not in self.struck:
            self.struck.append(effect)
            raise Killed(effect)


class MortalJournal:
    """A journal whose holder may die around a record; the file stays."""

    def __init__(self, journal: Journal, fate: Fate) -> None:
        self._journal, self._fate = journal, fate

    def record(self, step: str, payload: bytes) -> bytes:
        self._fate.strike(f"before journal {step}")
        kept = self._journal.record(step, payload)
        self._fate.strike(f"after journal {step}")
        return kept

    def lookup(self, step: str) -> bytes | None:
        return self._journal.lookup(step)

    def steps(self, prefix: str = "") -> Sequence[str]:
        return self._journal.steps(prefix)


class MortalStore:
    """A store whose user may die around a write."""

    def __init__(self, blobs: BlobStore, fate: Fate) -> None:
        self._blobs, self._fate = blobs, fate

    async def put(self, data: bytes, *, topic: str) -> Digest:
        self._fate.strike(f"before put {topic}")
        digest = await self._blobs.put(data, topic=topic)
        self._fate.strike(f"after put {topic}")
        return digest

    async def get(self, digest: Digest, *, max_bytes: int) -> bytes:
        return await self._blobs.get(digest, max_bytes=max_bytes)

    async def list(self, topic: str) -> Sequence[Digest]:
        return await self._blobs.list(topic)


class MortalLedger:
    """A ledger whose user may die around a transaction: unsent, or sent and never heard of again."""

    def __init__(self, ledger: Ledger, fate: Fate) -> None:
        self._ledger, self._fate = ledger, fate

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    async def submit(self, call: Call, signer: Signer) -> Receipt:
        self._fate.strike(f"before {call.function}")
        receipt = await self._ledger.submit(call, signer)
        self._fate.strike(f"after {call.function}")
        return receipt


def mortal_site(stage: Stage, name: str, fate: Fate, open_journals: dict[str, SqliteJournal]) -> Any:
    """An actor's ports after a restart: the journal is read from its file again."""
    if name in open_journals:
        open_journals[name].close()
    open_journals[name] = SqliteJournal(stage.folder / f"{name}.journal")
    return stage.site(
        name,
        journal=MortalJournal(open_journals[name], fate),
        blobs=MortalStore(stage.blobs, fate),
        ledger=MortalLedger(stage.ledger, fate),
    )


def dying(town: Town, folder: Path, victims: Sequence[str], check: Callable[[Outcome, Fate], None]) -> None:
    """A federation in which ``victims`` die at every kind of step."""

    async def main() -> None:
        journals: dict[str, SqliteJournal] = {}
        fates = {name: Fate() for name in victims}
        async with town.full_stage(folder) as stage:
            stage.killed = Killed
            for name, fate in fates.items():
                site = partial(mortal_site, stage, name, fate, journals)
                if name in town.evaluators:
                    stage.add_evaluator(name, site=site)
                elif name == "relayer":
                    stage.add_relayer(site=site)
                else:
                    stage.add_owner(name, site=site)
            await stage.play()
            found = await stage.outcome()
            assert stage.deaths == sum(len(fate.struck) for fate in fates.values())
            for fate in fates.values():
                check(found, fate)
        for journal in journals.values():
            journal.close()

    anyio.run(main)


def test_a_data_owner_killed_at_every_step_is_paid_the_same(
    town: Town, undisturbed: Outcome, tmp_path: Path
) -> None:
    def check(found: Outcome, fate: Fate) -> None:
        assert {effect.split("/")[-1] for effect in fate.struck if "journal" in effect} == {
            "consent",
            "deployment",
            "enrolment",
            "update",
        }
        # registration, enrolment; in each of two rounds a sign of life, a body and an update
        assert sum(effect.startswith("after put") for effect in fate.struck) == 2 + 2 * 3
        assert (found.model, found.paid) == (undisturbed.model, undisturbed.paid)
        assert found.transactions["east"] == 0
        assert found.audit.verdict == "ok"

    dying(town, tmp_path / "stage", ["east"], check)


def test_an_evaluator_killed_at_every_step_settles_the_same_and_sends_each_transaction_once(
    town: Town, undisturbed: Outcome, tmp_path: Path
) -> None:
    def check(found: Outcome, fate: Fate) -> None:
        for function in ("takeSeat", "commitScores", "revealScores"):
            assert f"after {function}" in fate.struck
        assert (found.model, found.paid) == (undisturbed.model, undisturbed.paid)
        assert found.state.payout_root == undisturbed.state.payout_root
        assert found.faulty == set()
        assert found.stakes == undisturbed.stakes
        sent, expected = (
            sum(each.transactions[name] for name in EVALUATORS) for each in (found, undisturbed)
        )
        assert sent == expected
        assert found.audit.verdict == "ok"

    dying(town, tmp_path / "stage", ["evaluator-1"], check)


def test_a_relayer_killed_at_every_step_pays_everybody_once(
    town: Town, undisturbed: Outcome, tmp_path: Path
) -> None:
    def check(found: Outcome, fate: Fate) -> None:
        assert {"after registerDataset", "after pay", "after payFees", "after refund"} <= set(fate.struck)
        assert found.balances == undisturbed.balances
        assert found.transactions["relayer"] == undisturbed.transactions["relayer"]

    dying(town, tmp_path / "stage", ["relayer"], check)


def test_a_member_killed_at_every_step_of_the_openings_changes_nothing(
    masked_town: Town, masked: Outcome, tmp_path: Path
) -> None:
    def check(found: Outcome, fate: Fate) -> None:
        # While it is away the others may go on without it; each kind of step is met in some round.
        answered = {effect.split("/")[-2] for effect in fate.struck if effect.endswith("/answer")}
        assert answered == {"gate", "sum", "value", "twins"}
        assert (found.model, found.paid, found.totals) == (masked.model, masked.paid, masked.totals)
        assert (found.faulty, found.stakes) == (set(), masked.stakes)
        assert found.audit.verdict == "ok"

    dying(masked_town, tmp_path / "stage", ["evaluator-1"], check)
