"""Federations in which data owners are kept out, misbehave, or stay away; and a board full of rubbish."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.crypto.seal import SealingKey
from galaxylearning.crypto.sign import recover_signer
from galaxylearning.messages import records, typed
from galaxylearning.messages.records import (
    CohortList,
    ModelRelease,
    PayoutRow,
    PayoutTable,
    RoundList,
    SignedCohortAnchor,
    SignedEnrolment,
    SignedOpening,
    SignedRecord,
    SignedUpdate,
)
from galaxylearning.nodes import assembly, requester
from galaxylearning.nodes.board import Board
from galaxylearning.nodes.data_owner import DataOwnerNode
from galaxylearning.nodes.evaluator import EvaluatorNode
from galaxylearning.nodes.site import Progress, Site
from galaxylearning.ports import BlobStore
from galaxylearning.protocol import calls
from galaxylearning.protocol import events as ev
from galaxylearning.protocol.consent import OwnerPolicy
from galaxylearning.protocol.machine import JobState, Phase
from galaxylearning.storage.datasets import DatasetCatalog
from galaxylearning.units import Address, Digest

if TYPE_CHECKING:
    from tests.integration.conftest import Outcome, Stage, Town

EVALUATORS = ("evaluator-1", "evaluator-2", "evaluator-3")
OWNERS = ("east", "north", "south", "west")
ROUNDS = 2


# ---- an owner that is being left out


class CensoringStore:
    """A store as an evaluator sees it that will not see one data owner's records."""

    def __init__(self, blobs: BlobStore, victim: Address) -> None:
        self._blobs, self._victim = blobs, victim.encode()

    async def put(self, data: bytes, *, topic: str) -> Digest:
        return await self._blobs.put(data, topic=topic)

    async def get(self, digest: Digest, *, max_bytes: int) -> bytes:
        return await self._blobs.get(digest, max_bytes=max_bytes)

    async def list(self, topic: str) -> Sequence[Digest]:
        found = await self._blobs.list(topic)
        if not topic.endswith(("/enrolments", "/updates")):
            return found
        return [d for d in found if self._victim not in await self._blobs.get(d, max_bytes=1 << 20)]


async def _censored(stage: Stage, victim: str) -> None:
    account = stage.account(victim)
    for name in EVALUATORS:
        blobs = CensoringStore(stage.blobs, account)
        stage.add_evaluator(name, site=partial(stage.site, name, blobs=blobs))


def test_an_owner_that_evaluators_leave_out_takes_the_direct_path_without_a_transaction_of_its_own(
    town: Town, undisturbed: Outcome, tmp_path: Path
) -> None:
    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            await _censored(stage, "east")
            east, done = stage.account("east"), set[str]()

            async def help_out() -> None:
                """Anybody may relay what was signed to the chain itself."""
                state = await stage.state()
                topic, kind, call = (
                    ("enrolments", SignedEnrolment, calls.enrol_directly)
                    if state.phase is Phase.ENROLLING
                    else (f"round/{state.round_index}/updates", SignedUpdate, calls.submit_update_directly)
                )
                for record in (await stage.board().read(topic, kind)).values():
                    if record.signer == east and topic not in done:
                        done.add(topic)
                        if isinstance(record, SignedEnrolment):
                            await stage.blobs.put(record.sealing_key, topic="keys")
                        await stage.site("relayer").submit(call(record.message, record.signature))

            await stage.play(between=help_out)
            found = await stage.outcome()
            assert done == {"enrolments", "round/0/updates", "round/1/updates"}
            assert found.transactions["east"] == 0
            assert found.paid == undisturbed.paid
            assert found.model == undisturbed.model
            assert found.audit.verdict == found.public_audit.verdict == "ok"

    anyio.run(main)


def test_without_the_direct_path_a_left_out_owner_is_left_out(town: Town, tmp_path: Path) -> None:
    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            await _censored(stage, "east")
            await stage.play()
            found = await stage.outcome()
            assert found.state.cohort_size == 3
            assert set(found.paid) == {"north", "south", "west"}

    anyio.run(main)


# ---- owners that say two things


class TwoFacedTrainer(DataOwnerNode):
    """Signs a second, different update in the first round."""

    async def turn(self) -> bool:
        done = await super().turn()
        for job_id, round_index in self._sent:
            if round_index == 0:
                await _second_update(self, job_id)
        return done


async def _second_update(node: DataOwnerNode, job_id: int) -> None:
    board = Board(node.site, job_id)
    own = [
        record
        for record in (await board.read("round/0/updates", SignedUpdate)).values()
        if record.signer == node.site.address
    ]
    if len(own) == 1:
        other = await board.put("round/0/bodies", b"another update")
        message = typed.Update(
            job_id, 0, Digest(own[0].terms_digest), node.site.address, Digest(own[0].model_digest), other
        )
        await board.post("round/0/updates", _signed(node.site, SignedUpdate, message, node.site.domain()))


class TwoFacedEnrolment(DataOwnerNode):
    """Enrols with two sealing keys."""

    async def turn(self) -> bool:
        done = await super().turn()
        for job_id in self._docket.only or ():
            board = Board(self.site, job_id)
            for record in (await board.read("enrolments", SignedEnrolment)).values():
                if record.signer == self.site.address and record.sealing_key == self.key.public:
                    other = SealingKey(bytes(96))
                    message = dataclasses.replace(record.message, sealing_key_digest=other.digest)
                    second = _signed(
                        self.site,
                        SignedEnrolment,
                        message,
                        self.site.domain(),
                        sealing_key=other.public,
                        credential=None,
                    )
                    await board.post("enrolments", second)
        return done


class KeyOfNobody(SealingKey):
    """A key whose public half ends in a point of small order: nothing can be sealed to it."""

    @property
    def public(self) -> bytes:
        return super().public[:-32] + bytes(32)

    @property
    def digest(self) -> Digest:
        return blake3_digest(self.public)


class Spoiler(DataOwnerNode):
    """Enrols with such a key, which would spoil every envelope that names it."""

    def __init__(self, site: Site, sealing_key: SealingKey, **rest: Any) -> None:
        super().__init__(site, KeyOfNobody(sealing_key.seed), **rest)


def _signed(site: Any, kind: type[SignedRecord], message: Any, domain: typed.Domain, **rest: Any) -> Any:
    return kind.from_message(message, signature=site.signer.sign_digest(message.digest(domain)), **rest)


def test_an_owner_that_sends_two_updates_in_a_round_has_none_in_it(
    town: Town, undisturbed: Outcome, tmp_path: Path
) -> None:
    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            stage.add_owner("east", kind=TwoFacedTrainer)
            await stage.play()
            found = await stage.outcome()
            first, second = next(iter((await stage.tables()).values())).rounds
            by_round = [
                {stage.name_of(score.data_owner): score.status for score in scores.owners}
                for scores in (first, second)
            ]
            assert by_round[0] == dict.fromkeys(OWNERS, "accepted") | {"east": "absent"}
            assert by_round[1] == dict.fromkeys(OWNERS, "accepted")
            assert found.model != undisturbed.model
            assert found.audit.verdict == "ok"
            anchors = [e for e in (await stage.view()).events_of(1) if isinstance(e, ev.RoundAnchored)]
            assert [anchor.count for anchor in anchors] == [3, 4]

    anyio.run(main)


@pytest.mark.parametrize("kind", [TwoFacedEnrolment, Spoiler], ids=["enrols twice", "no key to seal to"])
def test_an_owner_that_cannot_be_of_the_cohort_stops_nobody(
    town: Town, tmp_path: Path, kind: type[DataOwnerNode]
) -> None:
    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            stage.add_owner("east", kind=kind)
            await stage.play()
            found = await stage.outcome()
            assert found.state.cohort_size == 3
            assert set(found.paid) == {"north", "south", "west"}
            assert found.audit.verdict == "ok"

    anyio.run(main)


# ---- owners that never consented, or whose data do not match


def test_nobody_enrols_without_consent_or_with_other_data_and_each_is_told_why(
    town: Town, undisturbed: Outcome, tmp_path: Path
) -> None:
    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            stage.add_owner("cautious", policy=OwnerPolicy())
            stage.add_owner("inches", columns=("height", "breadth"))
            await stage.play()
            found = await stage.outcome()
            assert found.paid == undisturbed.paid
            assert found.transactions["cautious"] == 0
            reasons = set(stage.told("not enrolled"))
            assert reasons == {
                "things: the policy does not name this requester, and the job was not accepted by hand",
                "things: the data set does not match the schema: width: the column is missing",
            }
            assert len(stage.told("enrolled")) == 4
            used = [name for name in ("cautious", "inches") if stage.journals[name].steps("job/")]
            assert used == []

    anyio.run(main)


def test_consent_given_by_hand_takes_effect_at_once(town: Town, tmp_path: Path) -> None:
    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            terms = await stage.terms()
            stage.add_owner("east", policy=OwnerPolicy())
            await stage.play(until=lambda _: len(stage.told("enrolled")) == 3)
            assert stage.told("not enrolled")
            stage.add_owner("east", policy=OwnerPolicy(accepted=(terms.digest.hex(),)))
            await stage.play()
            assert set((await stage.outcome()).paid) == set(OWNERS)

    anyio.run(main)


# ---- a board that anybody may write to


class Vandal:
    """Posts everything that does not count, everywhere, in every turn."""

    def __init__(self, stage: Stage) -> None:
        self._stage, self._done = stage, set[tuple[Phase, int]]()
        self.posted = 0

    async def turn(self) -> bool:
        state = await self._stage.state()
        if (state.phase, state.round_index) not in self._done:
            self._done.add((state.phase, state.round_index))
            await self._vandalise(state)
        return True

    async def _vandalise(self, state: JobState) -> None:
        stage, board = self._stage, self._stage.board()
        topics = ["enrolments", "cohort", "cohort/votes", "payouts", "release", "settlement/votes", "scores"]
        for index in range(ROUNDS + 1):
            topics += [
                f"round/{index}/{part}" for part in ("updates", "openings", "votes", "lists", "bodies")
            ]
        for topic in topics:
            for junk in (b"", b"\xc1", bytes(100_000), b"\x81" * 5_000, topic.encode()):
                await board.put(topic, junk)
                self.posted += 1
        terms = await stage.terms()
        stranger = stage.site("vandal")
        owner = stage.site("east")
        here = owner.domain()
        elsewhere = dataclasses.replace(here, chain_id=here.chain_id + 1)
        body = await board.put(f"round/{state.round_index}/bodies", b"a body")
        model = state.model_digest
        for index in range(ROUNDS):
            for job_id, named, round_index, terms_digest, model_digest in (
                (1, index, index, terms.digest, blake3_digest(b"another model")),
                (1, index, index + 1, terms.digest, model),
                (2, index, index, terms.digest, model),
                (1, index, index, blake3_digest(b"other terms"), model),
            ):
                message = typed.Update(job_id, round_index, terms_digest, owner.address, model_digest, body)
                await board.post(f"round/{named}/updates", _signed(owner, SignedUpdate, message, here))
            true = typed.Update(1, index, terms.digest, owner.address, model, body)
            await board.post(f"round/{index}/updates", _signed(owner, SignedUpdate, true, elsewhere))
            await board.post(f"round/{index}/updates", _signed(stranger, SignedUpdate, true, here))
            opening = typed.RoundOpening(1, index, model, body)
            forged = _signed(stranger, SignedOpening, opening, here, evaluator=stage.account("evaluator-1"))
            own = _signed(stranger, SignedOpening, opening, here, evaluator=stranger.address)
            for record in (forged, own, RoundList(1, index, ()), RoundList(1, index, (bytes(body),))):
                topic = "lists" if isinstance(record, RoundList) else "openings"
                await board.post(f"round/{index}/{topic}", record)
            # What was said in one round, said again in the next.
            for record in (await board.read(f"round/{index}/updates", SignedUpdate)).values():
                await board.post(f"round/{index + 1}/updates", record)
            if index < state.round_index:
                late = typed.Update(1, index, terms.digest, owner.address, model, Digest(body))
                await board.post(f"round/{index}/updates", _signed(owner, SignedUpdate, late, here))
        anchor = typed.CohortAnchor(1, body, 2, state.direct_head)
        await board.post(
            "cohort/votes", _signed(stranger, SignedCohortAnchor, anchor, here, evaluator=stranger.address)
        )
        await board.post("cohort", CohortList(1, ()))
        all_mine = PayoutRow(0, stranger.address, str(10**21), 1, "because")
        await board.post("payouts", PayoutTable(1, (), (all_mine,), str(10**21)))
        for name in EVALUATORS:
            await board.post("release", ModelRelease(1, bytes(model), bytes(body), stage.account(name)))


def test_rubbish_late_replayed_and_foreign_records_change_nothing(
    town: Town, undisturbed: Outcome, tmp_path: Path
) -> None:
    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            vandal = Vandal(stage)
            owners_last = dict(stage.nodes)
            stage.nodes.clear()
            stage.cast("vandal", lambda: vandal)
            stage.nodes.update(owners_last)
            await stage.play()
            found = await stage.outcome()
            assert vandal.posted > 400
            assert found.paid == undisturbed.paid
            assert found.model == undisturbed.model
            assert found.audit.verdict == found.public_audit.verdict == "ok"
            # Every settled seat has released the model, whatever was said in its name before.
            trained = await requester.collect(
                stage.site("requester"), stage.job_id, stage.sealing_key("requester")
            )
            assert blake3_digest(trained) == found.state.model_digest

    anyio.run(main)


def test_a_job_that_is_not_there_is_told_once_and_how_a_job_ended_too(town: Town, tmp_path: Path) -> None:
    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            told: list[Progress] = []
            site = dataclasses.replace(stage.site("passer-by"), report=told.append)
            node = EvaluatorNode(site, SealingKey.generate(entropy=site.entropy), jobs=(77, stage.job_id))
            assert not await node.turn()
            assert not await node.turn()
            assert [(one.job_id, one.step) for one in told] == [(77, "no such job yet")]
            await stage.play()
            assert len(stage.told("job settled")) == len(OWNERS)
            assert all(f"galaxy receipt {stage.job_id}" in one for one in stage.told("job settled"))

    anyio.run(main)


def test_updates_of_a_round_are_verified_once_by_each_evaluator(
    town: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            await stage.play(
                until=lambda _: len(stage.told("update sent")) == 3,
                is_on=lambda name, state: name != "west" or state.phase is Phase.ENROLLING,
            )
            board, recovered = stage.board(), []

            def counting(digest: bytes, signature: bytes) -> Address:
                recovered.append(signature)
                return recover_signer(digest, signature)

            monkeypatch.setattr(records, "recover_signer", counting)
            state, view, terms = await stage.state(), await stage.view(), await stage.terms()
            site = stage.site("auditor")
            for _ in range(3):
                cohort = await assembly.current_cohort(site, board, view, terms, state)
                sent = (await board.read("round/0/updates", SignedUpdate)).values()
                model = Digest(next(iter(sent)).model_digest)
                found = await assembly.current_updates(site, board, view, terms, state, cohort, model)
                assert (cohort.size, found.count) == (4, 3)
            assert len(recovered) == 4 + 3

    anyio.run(main)


class Lasting(DataOwnerNode):
    """Serves every job there is, and never stops."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options | {"jobs": None})


def test_a_node_that_goes_on_tells_what_it_was_paid_once_it_was(town: Town, tmp_path: Path) -> None:
    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            stage.add_owner("east", kind=Lasting)
            await stage.play(until=lambda state: state.phase is Phase.TRAINING)
            relayer = stage.nodes.pop("relayer")
            await stage.play(until=lambda _: len(stage.told("job settled")) == len(OWNERS))
            assert all(said.startswith("not paid yet; proof: ") for said in stage.told("job settled"))
            assert stage.told("payment") == []
            stage.nodes["relayer"] = relayer
            await stage.play(until=lambda state: 0 < state.paid == state.total)
            for _ in range(2):
                await stage.nodes["east"].turn()
            (payment,) = stage.told("payment")
            assert payment.endswith(" tokens paid")

    anyio.run(main)


def test_why_a_job_is_not_joined_is_told_of_the_data_that_could(town: Town, tmp_path: Path) -> None:
    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            stage.add_owner("cautious", policy=OwnerPolicy())
            folder = stage.folder / "cautious"
            (folder / "zoo.csv").write_text("legs,kind\n4,round\n2,square\n")
            catalogue = DatasetCatalog(folder / "data.sqlite")
            catalogue.add("zoo", folder / "zoo.csv", "kind", entropy=os.urandom)
            catalogue.close()
            await stage.play(until=lambda _: bool(stage.told("not enrolled")))
            assert set(stage.told("not enrolled")) == {
                "things: the policy does not name this requester, and the job was not accepted by hand"
            }

    anyio.run(main)
