"""Jobs that a requester posts to have a model for nothing: nobody locks a stake or a data set for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
import numpy as np
import pytest
from benchmarks.things import MASKING, windows

from galaxylearning.chain.deployment import deploy
from galaxylearning.chain.evm import EvmLedger, connect
from galaxylearning.crypto import seal as seals
from galaxylearning.errors import JobRefused
from galaxylearning.graph import FlatModel, weights_from_bytes
from galaxylearning.messages.records import SignedEnrolment
from galaxylearning.messages.terms import Terms
from galaxylearning.nodes import posting, requester
from galaxylearning.nodes.evaluator import EvaluatorNode
from galaxylearning.nodes.seating import ANY_SEAT, Seating
from galaxylearning.ports import Call
from galaxylearning.protocol import calls
from galaxylearning.protocol import job as jobs_of
from galaxylearning.protocol.hidden_set import HiddenSet, Rows
from galaxylearning.protocol.job import CompiledJob
from galaxylearning.protocol.machine import JobState, Phase
from galaxylearning.simulation.stage import STAKE, SUPPLY, sealing_key, signer
from stage_acts import expiring

if TYPE_CHECKING:
    from tests.integration.conftest import Stage, Town

REQUESTER = "galaxylearning.nodes.requester"
OWNERS = ("north", "east", "south", "west")


def is_over(state: JobState) -> bool:
    return state.phase in (Phase.SETTLED, Phase.ABORTED)


async def nobody_joins(stage: Stage, reason: str) -> None:
    """The job ends where it began: no seat, no enrolment, all stakes free; the evaluators said why."""
    state = await stage.play(until=is_over, between=expiring(stage))
    assert (state.phase, state.seats, state.cohort_size) == (Phase.ABORTED, frozenset(), 0)
    assert [await stage.staked(name) for name in stage.evaluators] == [STAKE] * len(stage.evaluators)
    assert await stage.board().read("enrolments", SignedEnrolment) == {}
    told = [str(one.facts) for one in stage.progress if one.step == "given up" and "evaluator" in one.actor]
    assert len(told) == len(stage.evaluators)
    assert all(reason in one for one in told), told


@pytest.mark.parametrize("name", ["claimWindow", "commitWindow", "seatStake", "rounds", "minOwners"])
def test_what_is_posted_is_what_the_terms_say(
    town: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    honest = calls.job_parameters

    def otherwise(terms: Terms) -> tuple[Any, ...]:
        said = dict(zip(calls.JOB_PARAMETERS, honest(terms), strict=True))
        return tuple({**said, name: 1 if said[name] != 1 else 2}.values())

    async def main() -> None:
        monkeypatch.setattr(calls, "job_parameters", otherwise)
        async with town.full_stage(tmp_path / "stage") as stage:
            await nobody_joins(stage, f"was posted with another {name} than its terms say")

    anyio.run(main)


@pytest.mark.parametrize("is_said", [True, False])
def test_a_token_that_the_requester_made_is_no_money(
    town: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_said: bool
) -> None:
    honest_terms, honest = jobs_of.terms_of, calls.job_parameters

    async def main() -> None:
        async with town.stage(tmp_path / "stage") as stage:
            other = await connect(stage.chain, await deploy(stage.chain, signer("requester"), unbonding_s=1))
            made, jobs, me = other.address_of("token"), stage.ledger.address_of("jobs"), signer("requester")
            await other.submit(Call("token", "mint", (me.address, SUPPLY)), me)
            await other.submit(Call("token", "approve", (jobs, SUPPLY)), me)
            if is_said:
                monkeypatch.setattr(
                    f"{REQUESTER}.terms_of",
                    lambda *given, **named: honest_terms(*given, **(named | {"token": made})),
                )
            else:
                monkeypatch.setattr(calls, "job_parameters", lambda terms: (made, *honest(terms)[1:]))
            await stage.post(replace(town.compiled, job=replace(town.compiled.job, title="For nothing")))
            for name in OWNERS:
                stage.add_owner(name)
            for name in stage.evaluators:
                stage.add_evaluator(name)
            stage.add_relayer()
            await nobody_joins(stage, "pays in token" if is_said else "another token than")

    anyio.run(main)


def test_nothing_is_sealed_to_a_key_that_its_evaluator_has_not_registered(
    town: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = jobs_of.terms_of

    def terms_of(*given: Any, **named: Any) -> Terms:
        terms = honest(*given, **named)
        seat, *others = terms.evaluators
        own = sealing_key("requester").digest.hex()
        seat = msgspec.structs.replace(seat, sealing_key_digest=own, sealing_key_blob=own)
        return msgspec.structs.replace(terms, evaluators=(seat, *others))

    monkeypatch.setattr(f"{REQUESTER}.terms_of", terms_of)

    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            await stage.blobs.put(sealing_key("requester").public, topic="keys/requester")
            await nobody_joins(stage, "names a sealing key of evaluator")

    anyio.run(main)


def mislabelled(compiled: CompiledJob) -> CompiledJob:
    """One label of the half that pays is none of the two classes."""
    test = compiled.test
    places = Rows(np.arange(len(test), dtype=np.float32)[:, None], test.labels)
    paying = HiddenSet.split(places, seed=compiled.job.seed).paying.inputs[:, 0].astype(np.int64)
    labels = test.labels.copy()
    labels[paying[0]] = 7
    return replace(compiled, test=Rows(test.inputs, labels))


def overflowing(compiled: CompiledJob) -> CompiledJob:
    """The model's outputs are beyond float32."""
    weights = weights_from_bytes(compiled.graph, compiled.model_bytes, max_bytes=1 << 20)
    large = {name: (1e30 * tensor).detach() for name, tensor in weights.items()}
    return replace(compiled, model=FlatModel(compiled.graph, large))


@pytest.mark.parametrize(
    ("spoilt", "reason"), [(mislabelled, "labels"), (overflowing, "loss on a row of the test set")]
)
def test_a_hidden_set_that_nobody_can_score_with_costs_no_stake(
    town: Town, tmp_path: Path, spoilt: Callable[[CompiledJob], CompiledJob], reason: str
) -> None:
    async def main() -> None:
        async with replace(town, compiled=spoilt(town.compiled)).full_stage(tmp_path / "stage") as stage:
            state = await stage.play(until=is_over, between=expiring(stage))
            assert (state.phase, state.seats) == (Phase.ABORTED, frozenset())
            assert [await stage.staked(name) for name in stage.evaluators] == [STAKE] * 3
            assert any(reason in one for one in stage.told("given up"))

    anyio.run(main)


def test_a_hidden_set_that_one_evaluator_cannot_open_starts_no_training(
    town: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, left_out = seals.seal, sealing_key("evaluator-3").public

    def seal(data: bytes, keys: list[bytes], context: Any, **named: Any) -> bytes:
        if context.kind == "test-set":
            keys = [sealing_key("requester").public if key == left_out else key for key in keys]
        return honest(data, keys, context, **named)

    monkeypatch.setattr(f"{REQUESTER}.seal", seal)

    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            state = await stage.play(until=is_over, between=expiring(stage))
            assert (state.phase, state.cohort_size) == (Phase.ABORTED, 0)
            assert state.seats == {stage.account("evaluator-1"), stage.account("evaluator-2")}
            assert [await stage.staked(name) for name in stage.evaluators] == [STAKE] * 3

    anyio.run(main)


@pytest.mark.parametrize("name", ["commit_s", "reveal_s", "settle_s"])
def test_no_seat_is_taken_where_time_is_too_short_to_keep_it(town: Town, tmp_path: Path, name: str) -> None:
    short = msgspec.structs.replace(windows(600), **{name: 59})

    async def main() -> None:
        async with town.full_stage(tmp_path / "stage", windows=short) as stage:
            state = await stage.play(until=is_over, between=expiring(stage))
            assert (state.phase, state.seats) == (Phase.ABORTED, frozenset())
            assert any(f"windows.{name}: 59 given; at least 60" in one for one in stage.told("given up"))

    anyio.run(main)


class Unadvised(EvaluatorNode):
    """Its operator has not said which windows are enough."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named | {"seating": ANY_SEAT})


@pytest.mark.parametrize(("commit_s", "is_enough"), [(1059, False), (1060, True)])
def test_no_seat_is_taken_where_openings_may_outlast_the_window(
    masked_town: Town, tmp_path: Path, commit_s: int, is_enough: bool
) -> None:
    """12 staggers of 20 s in each of 4 phases, and a line of 5: one second less than 1,060 is too short."""
    chosen = msgspec.structs.replace(windows(600), commit_s=commit_s)

    def is_begun(state: JobState) -> bool:
        return is_over(state) or state.phase is Phase.TRAINING

    async def main() -> None:
        async with masked_town.full_stage(tmp_path / "stage", windows=chosen) as stage:
            for name in stage.evaluators:
                stage.add_evaluator(name, Unadvised)
            state = await stage.play(until=is_begun, between=expiring(stage))
            assert (state.phase is Phase.TRAINING) == is_enough
            told = stage.told("given up")
            assert any("windows.commit_s: 1059 given; at least 1060" in one for one in told) != is_enough

    anyio.run(main)


@pytest.mark.parametrize("commit_s", [1211, 1212])
def test_windows_that_were_long_enough_when_posted_are_so_when_looked_at(
    town: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commit_s: int
) -> None:
    """On Ethereum the newest final block is 64 to 95 slots of 12 s old: 768 s at best, half more at most."""
    ages = iter([64 * 12])

    async def finality_s(_ledger: EvmLedger) -> int:
        return next(ages, 95 * 12)

    chosen = msgspec.structs.replace(windows(5000), commit_s=commit_s)
    compiled = replace(town.compiled, job=replace(town.compiled.job, windows=chosen))

    async def main() -> None:
        async with town.stage(tmp_path / "stage") as stage:
            monkeypatch.setattr(EvmLedger, "finality_s", finality_s)
            # The stage's own job was posted before: that excuses nothing.
            posting_it = requester.post(
                stage.site("requester"),
                compiled,
                evaluators=[signer(name).address for name in stage.evaluators],
                sealing_key=sealing_key("requester"),
                stagger_s=20,
            )
            if commit_s < 1152 + 60:
                with pytest.raises(JobRefused, match=r"commit_s: 1211 given; allowed: at least 1212"):
                    await posting_it
                return
            stage.job_id = (await posting_it).job_id
            for name in stage.evaluators:
                stage.add_evaluator(name, Unadvised)
            await stage.play(until=lambda state: len(state.seats) == 3, most=5)

    anyio.run(main)


def test_no_seat_is_taken_where_one_silent_evaluator_could_stop_the_openings(
    masked_town: Town, tmp_path: Path
) -> None:
    masking = msgspec.structs.replace(MASKING, threshold=4, faulty=0)

    async def main() -> None:
        async with masked_town.full_stage(tmp_path / "stage", masking=masking) as stage:
            state = await stage.play(until=is_over, between=expiring(stage))
            assert (state.phase, state.seats) == (Phase.ABORTED, frozenset())
            assert any("masking.threshold: 4 given; at most 3" in one for one in stage.told("given up"))

    anyio.run(main)


def test_without_its_third_evaluator_a_job_of_three_does_not_begin_and_costs_nobody_anything(
    town: Town, tmp_path: Path
) -> None:
    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            del stage.nodes["evaluator-3"]
            state = await stage.play(until=is_over, between=expiring(stage))
            assert (state.phase, len(state.seats), state.cohort_size) == (Phase.ABORTED, 2, 0)
            await stage.site("requester").submit_if_first(calls.refund(stage.job_id))
            assert await stage.balance(stage.account("requester")) == SUPPLY
            assert [await stage.staked(name) for name in stage.evaluators] == [STAKE] * 3
            assert not [one for one in stage.progress if one.step == "update sent"]

    anyio.run(main)


def test_no_seat_is_taken_for_a_model_that_no_journal_keeps(
    town: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(posting, "MAX_STEP_BYTES", 5_000)

    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            state = await stage.play(until=is_over, between=expiring(stage))
            assert (state.phase, state.seats) == (Phase.ABORTED, frozenset())
            assert any("a journal keeps 5000" in one for one in stage.told("given up"))

    anyio.run(main)


def test_no_job_has_more_data_owners_than_a_model_can_be_sealed_to(
    town: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = town.compiled.job
    large = replace(
        town.compiled, job=replace(job, plan=msgspec.structs.replace(job.plan, maximum_owners=9_998))
    )

    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            with pytest.raises(JobRefused, match=r"plan\.maximum_owners: 9998 given; allowed: 9997"):
                await stage.post(large)
            # A requester that posts it nevertheless finds nobody who takes a seat.
            monkeypatch.setattr(posting, "MAX_RECIPIENTS", len(OWNERS) + len(stage.evaluators) - 1)
            state = await stage.play(until=is_over, between=expiring(stage))
            assert (state.phase, state.seats) == (Phase.ABORTED, frozenset())
            assert any("all that a model can be sealed to" in one for one in stage.told("given up"))

    anyio.run(main)


class Choosy(EvaluatorNode):
    """Serves the relayer alone, which posts nothing."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named | {"seating": Seating(60, [signer("relayer").address])})


def test_an_evaluator_serves_whom_its_operator_names(town: Town, tmp_path: Path) -> None:
    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            stage.add_evaluator("evaluator-1", Choosy)
            state = await stage.play(until=lambda state: len(state.seats) == 2)
            assert stage.account("evaluator-1") not in state.seats
            assert any("is not served here" in one for one in stage.told("given up"))

    anyio.run(main)


def test_nothing_is_escrowed_for_an_evaluator_whose_stake_is_not_free(town: Town, tmp_path: Path) -> None:
    async def main() -> None:
        async with town.stage(tmp_path / "stage") as stage:
            await stage.site("evaluator-2").submit(calls.request_withdrawal(1), "registry")
            owned = await stage.balance(stage.account("requester"))
            with pytest.raises(JobRefused, match="tokens of free stake") as refused:
                await stage.post(replace(town.compiled, job=replace(town.compiled.job, title="Another")))
            assert stage.account("evaluator-2") in str(refused.value)
            assert await stage.balance(stage.account("requester")) == owned

    anyio.run(main)


def test_an_evaluator_without_free_stake_says_so_once_and_sits_down_when_it_has_some(
    town: Town, tmp_path: Path
) -> None:
    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            poor = stage.site("evaluator-3")
            await poor.submit(calls.request_withdrawal(1), "registry")
            await stage.play(until=lambda state: bool(stage.told("no seat taken")) and len(state.seats) == 2)
            sent = await stage.transactions("evaluator-3")
            turns = iter(range(3))
            state = await stage.play(until=lambda _: next(turns) == 2)
            assert (state.phase, len(state.seats)) == (Phase.ENROLLING, 2)
            assert await stage.transactions("evaluator-3") == sent
            (said,) = stage.told("no seat taken")
            assert "tokens of stake are free, a seat takes 50" in said
            await poor.submit_spending(1, calls.deposit_stake(1), "registry")
            await stage.play(until=lambda state: len(state.seats) == 3)

    anyio.run(main)
