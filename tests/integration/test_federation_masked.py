"""Masked federations: nobody sees an update, everybody is paid as if all were seen, and few can spoil it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
import pytest
from benchmarks.things import LyingMember, evaluator_with

from galaxylearning.crypto.seal import open_sealed
from galaxylearning.errors import BlobRefused, MessageRefused
from galaxylearning.messages.plan import Masking
from galaxylearning.messages.records import (
    MaskedBody,
    ScoreTable,
    SignedAnswer,
    UpdateBody,
    decode,
    encode,
)
from galaxylearning.nodes import assembly
from galaxylearning.nodes.data_owner import DataOwnerNode
from galaxylearning.protocol.machine import JobState, Phase
from galaxylearning.protocol.masking import masking_plan
from galaxylearning.protocol.rounds import BAD_SHARES
from galaxylearning.simulation.stage import STAKE, sealing_key, signer

if TYPE_CHECKING:
    from tests.integration.conftest import Outcome, Stage, Town

EVALUATORS = tuple(f"evaluator-{number}" for number in range(1, 6))
OWNERS = ("east", "north", "south", "west")
LOW: bytes = bytes(byte & 0x0F for byte in range(256))
"""Makes bytes small, so that residues stay below their primes."""
WITHIN = 1e-3
"""Of the sum of all values: what rounding the questions to integers moves one."""


Liar = evaluator_with(LyingMember)
"""An evaluator that lies about masked updates only."""


def spoiling(spoil: Callable[[MaskedBody], MaskedBody]) -> type[DataOwnerNode]:
    """A data owner whose masked updates are changed before they leave."""

    class Spoiler(DataOwnerNode):
        async def _sealed_update(self, *given: Any) -> bytes:
            body = await super()._sealed_update(*given)
            return encode(spoil(decode(body, MaskedBody, max_bytes=len(body))))

    return Spoiler


def is_over(state: JobState) -> bool:
    """Whether all that was to be paid is paid."""
    done = state.paid == state.total and state.fees_paid == state.fees_owed and not state.refundable
    return state.phase is Phase.SETTLED and done


def play(
    town: Town,
    folder: Path,
    change: Callable[[Stage], None] = lambda _stage: None,
    *,
    is_on: Callable[[str, JobState], bool] | None = None,
    look: Callable[[Stage], Any] | None = None,
    **changes: Any,
) -> Outcome:
    """A masked federation to its end; ``look`` is awaited on the stage before it closes."""

    async def main() -> Outcome:
        async with town.full_stage(folder, **changes) as stage:
            change(stage)
            await stage.play(is_on=is_on, until=None if is_on is None else is_over)
            if look is not None:
                await look(stage)
            return await stage.outcome()

    return anyio.run(main)


def test_nobody_saw_an_update_and_all_was_recomputed(masked: Outcome) -> None:
    state = masked.state
    assert state.escrow == state.paid + state.fees_paid + state.refunded
    assert sum(masked.paid.values()) == state.paid > 0
    assert [masked.transactions[name] for name in OWNERS] == [0, 0, 0, 0]
    assert masked.stakes == dict.fromkeys(EVALUATORS, STAKE)
    assert state.standing_by == frozenset()
    assert (masked.audit.verdict, masked.audit.problems) == ("ok", ())
    assert (masked.public_audit.verdict, masked.public_audit.problems) == ("ok", ())
    said = [finding.detail for finding in masked.audit.findings]
    assert sum("none of them seen: same model" in detail for detail in said) == state.rounds
    assert "5 of 5 tables are byte for byte the recomputed one" in said


def test_sealed_and_masked_agree_within_rounding(masked_town: Town, masked: Outcome, tmp_path: Path) -> None:
    sealed = play(masked_town, tmp_path / "sealed", privacy="sealed", masking=None)
    assert sealed.model == masked.model
    everything = sum(abs(value) for value in sealed.totals.values())
    for name in OWNERS:
        assert abs(sealed.totals[name] - masked.totals[name]) <= WITHIN * everything


def test_no_key_opens_an_update(masked_town: Town, tmp_path: Path) -> None:
    async def look(stage: Stage) -> None:
        terms = await stage.terms()
        plan = masking_plan(terms, masked_town.compiled.model.parameter_count)
        found = await stage.blobs.list(stage.board().topic("round/0/bodies"))
        assert len(found) == len(OWNERS)
        for digest in found:
            data = await stage.blobs.get(digest, max_bytes=1 << 20)
            with pytest.raises(MessageRefused):
                decode(data, UpdateBody, max_bytes=len(data))
            body = decode(data, MaskedBody, max_bytes=len(data))
            assert len(body.masked) == plan.body_bytes
            # A share opens for the member it is for, and for no other.
            context = assembly.round_context(
                stage.site("passer-by"), stage.job_id, 0, assembly.share_kind(0), signer("east").address
            )
            if body.data_owner == signer("east").address:
                first = sorted(EVALUATORS, key=lambda name: int(signer(name).address, 16))
                open_sealed(body.shares[0], sealing_key(first[0]), context, max_bytes=plan.share_bytes)
                with pytest.raises(BlobRefused):
                    open_sealed(body.shares[0], sealing_key(first[1]), context, max_bytes=plan.share_bytes)

    play(masked_town, tmp_path / "stage", look=look)


def test_a_member_that_lies_changes_nothing_and_loses_its_stake(
    masked_town: Town, masked: Outcome, tmp_path: Path
) -> None:
    found = play(masked_town, tmp_path / "stage", lambda stage: stage.add_evaluator("evaluator-3", Liar))
    assert (found.model, found.totals, found.paid) == (masked.model, masked.totals, masked.paid)
    assert found.faulty == {"evaluator-3"}
    assert found.stakes == {name: 0 if name == "evaluator-3" else STAKE for name in EVALUATORS}
    assert (found.audit.verdict, found.audit.problems) == ("ok", ())


def gone_from(phase: str, gone: tuple[str, ...]) -> tuple[Callable[[str, JobState], bool], list[Stage]]:
    """Whether an actor is still there, where ``gone`` vanish once a phase of round 0 has an answer."""
    stages: list[Stage] = []

    def is_on(name: str, _state: JobState) -> bool:
        topic = stages[0].board().topic(f"round/0/{phase}/answers")
        return name not in gone or topic not in stages[0].blobs.topics()

    return is_on, stages


@pytest.mark.parametrize("phase", ["gate", "sum", "value"])
def test_members_may_vanish_in_any_phase(
    masked_town: Town, masked: Outcome, tmp_path: Path, phase: str
) -> None:
    gone = ("evaluator-2", "evaluator-5")
    is_on, stages = gone_from(phase, gone)
    found = play(masked_town, tmp_path / "stage", stages.append, is_on=is_on)
    assert (found.model, found.totals, found.paid) == (masked.model, masked.totals, masked.paid)
    assert found.stakes == {name: 0 if name in gone else STAKE for name in EVALUATORS}
    assert (found.audit.verdict, found.audit.problems) == ("ok", ())


def test_who_stays_keeps_its_stake_where_too_many_vanish(masked_town: Town, tmp_path: Path) -> None:
    gone = ("evaluator-1", "evaluator-2", "evaluator-3")

    async def main() -> None:
        is_on, stages = gone_from("value", gone)
        async with masked_town.full_stage(tmp_path / "stage") as stage:
            stages.append(stage)
            await stage.play(is_on=is_on, until=lambda state: state.phase is Phase.ABORTED)
            state = await stage.state()
            assert state.standing_by == {stage.account(name) for name in EVALUATORS if name not in gone}
            assert {name: await stage.staked(name) for name in EVALUATORS} == {
                name: 0 if name in gone else STAKE for name in EVALUATORS
            }
            assert state.refundable + state.refunded == state.escrow
            assert (await stage.audit()).verdict == "ok"

    anyio.run(main)


def reason_of(stage: Stage, table: ScoreTable, name: str) -> tuple[str, str]:
    scores = {score.data_owner: score for score in table.rounds[0].owners}
    found = scores[stage.account(name)]
    return found.status, found.reason


@pytest.mark.parametrize(
    ("spoil", "status", "reason"),
    [
        (lambda body: msgspec.structs.replace(body, masked=body.masked[:-5]), "malformed", "allowed"),
        (lambda body: msgspec.structs.replace(body, masked=b"\xff" * len(body.masked)), "malformed", "below"),
        (lambda body: msgspec.structs.replace(body, shares=body.shares[:-1]), "malformed", "shares"),
        (lambda body: msgspec.structs.replace(body, round_index=7), "malformed", "round_index"),
        (lambda body: msgspec.structs.replace(body, shares=body.shares[::-1]), "rejected", BAD_SHARES),
        (
            lambda body: msgspec.structs.replace(body, masked=body.masked[::-1].translate(LOW)),
            "rejected",
            "outside the range",
        ),
    ],
)
def test_what_cannot_be_opened_costs_only_its_sender(
    masked_town: Town,
    tmp_path: Path,
    spoil: Callable[[MaskedBody], MaskedBody],
    status: str,
    reason: str,
) -> None:
    async def look(stage: Stage) -> None:
        for table in (await stage.tables()).values():
            found = reason_of(stage, table, "north")
            assert found[0] == status
            assert reason in found[1]
            assert all(reason_of(stage, table, name)[0] == "accepted" for name in OWNERS if name != "north")

    found = play(
        masked_town,
        tmp_path / "stage",
        lambda stage: stage.add_owner("north", kind=spoiling(spoil)),
        look=look,
    )
    assert "north" not in found.paid
    assert (found.audit.verdict, found.audit.problems) == ("ok", ())


def test_one_bad_share_is_no_harm(masked_town: Town, masked: Outcome, tmp_path: Path) -> None:
    def spoil(body: MaskedBody) -> MaskedBody:
        return msgspec.structs.replace(body, shares=(body.shares[1], *body.shares[1:]))

    found = play(
        masked_town, tmp_path / "stage", lambda stage: stage.add_owner("north", kind=spoiling(spoil))
    )
    assert (found.model, found.totals) == (masked.model, masked.totals)
    assert found.faulty == set()


def test_no_sum_is_opened_over_too_few(masked_town: Town, tmp_path: Path) -> None:
    plan = msgspec.structs.replace(masked_town.compiled.job.plan, minimum_owners=4, rounds=1)

    async def look(stage: Stage) -> None:
        board = stage.board()
        assert await board.read("round/0/gate/answers", SignedAnswer)
        assert not await board.read("round/0/sum/answers", SignedAnswer)
        assert not await board.read("round/0/value/answers", SignedAnswer)

    found = play(
        masked_town,
        tmp_path / "stage",
        lambda stage: stage.add_owner(
            "north", kind=spoiling(lambda body: msgspec.structs.replace(body, shares=body.shares[::-1]))
        ),
        look=look,
        plan=plan,
        masking=Masking(threshold=2, faulty=1, minimum_sum=4, twin_projections=0),
    )
    assert found.state.phase is Phase.SETTLED
    assert found.paid == {}
    assert found.audit.verdict == "ok"
