"""Where the money is when a job does not run to its end, or nobody fetches what is owed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest

from galaxylearning.cli.job_actions import close_job
from galaxylearning.errors import BlobMissing, ConfigRefused, PhaseError, TransactionReverted
from galaxylearning.nodes.evaluator import register
from galaxylearning.nodes.tables import settled_tree
from galaxylearning.protocol import calls
from galaxylearning.protocol.job import Price
from galaxylearning.protocol.machine import Phase
from galaxylearning.simulation.stage import STAKE, SUPPLY, sealing_key

if TYPE_CHECKING:
    from tests.integration.conftest import Stage, Town


async def _holds(stage: Stage, *, requester: int, jobs: int = 0) -> None:
    assert await stage.balance(stage.account("requester")) == requester
    assert await stage.balance(stage.ledger.address_of("jobs")) == jobs


def test_the_requester_may_cancel_while_data_owners_enrol_and_nobody_else_may(
    town: Town, tmp_path: Path
) -> None:
    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            escrow = (await stage.state()).escrow
            await stage.play(until=lambda state: len(state.seats) == 3)
            await _holds(stage, requester=SUPPLY - escrow, jobs=escrow)
            with pytest.raises(TransactionReverted):
                await stage.site("relayer").submit(calls.cancel(stage.job_id))
            await stage.site("requester").submit(calls.cancel(stage.job_id))
            state = await stage.play()
            assert (state.phase, state.refunded) == (Phase.ABORTED, escrow)
            await _holds(stage, requester=SUPPLY)

    anyio.run(main)


def test_once_the_cohort_is_anchored_the_requester_cannot_take_the_job_back(
    town: Town, tmp_path: Path
) -> None:
    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            await stage.play(until=lambda state: state.phase is Phase.TRAINING)
            with pytest.raises(TransactionReverted):
                await stage.site("requester").submit(calls.cancel(stage.job_id))
            with pytest.raises(TransactionReverted):
                await stage.site("relayer").submit(calls.expire(stage.job_id))
            assert (await stage.play()).phase is Phase.SETTLED

    anyio.run(main)


def test_data_owners_that_stop_after_a_round_are_paid_for_it(town: Town, tmp_path: Path) -> None:
    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            await stage.play(until=lambda state: state.round_index == 1)
            for name in ("east", "north", "south", "west"):
                del stage.nodes[name]
            state = await stage.play()
            assert (state.phase, state.round_index) == (Phase.SETTLED, 1)
            assert state.paid > 0
            assert state.escrow == state.paid + state.fees_paid + state.refunded
            assert (await stage.audit(stage.sealing_key("evaluator-1"))).verdict == "ok"

    anyio.run(main)


def test_without_a_relayer_anybody_claims_alone_and_what_nobody_fetches_goes_back(
    town: Town, tmp_path: Path
) -> None:
    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            # It relays the registrations; it is gone when there is something to pay.
            await stage.play(until=lambda state: state.phase is Phase.TRAINING)
            del stage.nodes["relayer"]
            state = await stage.play()
            assert (state.phase, state.paid) == (Phase.SETTLED, 0)
            tree, anybody = await settled_tree(stage.site("relayer"), state), stage.site("evaluator-3")
            east = stage.account("east")
            owed = next(row.amount for row in tree.rows if row.account == east)
            await anybody.submit(calls.claim(tree, east))
            assert await stage.balance(east) == owed
            with pytest.raises(TransactionReverted):
                await anybody.submit(calls.claim(tree, east))
            with pytest.raises(TransactionReverted):
                await anybody.submit(calls.expire(stage.job_id))
            stage.time_s += 31 * 86_400
            await anybody.submit(calls.expire(stage.job_id))
            with pytest.raises(TransactionReverted):
                await anybody.submit(calls.claim(tree, stage.account("west")))
            await anybody.submit(calls.refund(stage.job_id))
            state = await stage.state()
            assert state.paid == owed
            assert state.escrow == state.paid + state.fees_paid + state.refunded
            await _holds(stage, requester=SUPPLY - owed)

    anyio.run(main)


def test_an_evaluator_that_cannot_make_up_for_lost_stake_keeps_the_seats_it_has(
    town: Town, tmp_path: Path
) -> None:
    """Slashed for one job, and without a token more, it is started again in the middle of another."""

    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            await stage.play(until=lambda state: state.phase is Phase.TRAINING)
            site, key = stage.site("evaluator-1"), sealing_key("evaluator-1")
            owned, elsewhere = await stage.balance(site.address), stage.account("relayer")
            await site.submit(("transfer", (elsewhere, owned)), "token")
            with pytest.raises(ConfigRefused, match="the tokens still to be staked are 1"):
                await register(site, key, STAKE + 10**18)
            await register(site, key, STAKE + 10**18, is_serving=True)
            assert "the tokens still to be staked are 1" in str(stage.told("stake not raised"))
            assert await stage.staked("evaluator-1") == STAKE
            # One that never was an evaluator has nothing to keep.
            with pytest.raises(ConfigRefused, match="still to be staked"):
                await register(stage.site("north"), sealing_key("north"), STAKE, is_serving=True)

    anyio.run(main)


BOND = 5 * 10**18
BONDED = Price(bounty="1000", target_gain=0.8, bond="5", fee_per_seat="10")


async def _closed(stage: Stage) -> dict[str, object]:
    """Close the job with an account that has no part in it, and money for gas."""
    return await close_job(stage.site("relayer"), stage.job_id)


async def _settled_unpaid(stage: Stage) -> None:
    """Play a job with a bond up to its settlement; nobody pushes payments."""
    sponsor = stage.site("requester")
    await sponsor.submit_spending(BOND, calls.deposit_bond(stage.job_id, stage.account("north")))
    for name in ("east", "south", "west"):
        await sponsor.submit_spending(BOND, calls.deposit_bond(stage.job_id, stage.account(name)))
    await stage.play(until=lambda state: state.phase is Phase.TRAINING)
    del stage.nodes["relayer"]
    assert (await stage.play()).phase is Phase.SETTLED


def test_anybody_closes_a_settled_job_and_everybody_is_paid_once(town: Town, tmp_path: Path) -> None:
    async def main() -> None:
        async with town.full_stage(tmp_path / "stage", price=BONDED) as stage:
            with pytest.raises(PhaseError, match="the job is enrolling; allowed once it is over, or in 1"):
                await _closed(stage)
            await _settled_unpaid(stage)
            before = await stage.state()
            found = await _closed(stage)
            assert found == {
                "job": str(stage.job_id),
                "phase": "settled",
                "paid": str(before.total),
                "fees_paid": str(before.fees_owed),
                "refunded": str(before.escrow - before.total - before.fees_owed),
                "bonds_returned": 4,
                "unclaimed": "0",
                "expires_at": before.expires_at,
            }
            assert before.fees_owed > 0
            await _holds(stage, requester=SUPPLY - before.total - before.fees_owed)
            again = await _closed(stage)
            assert {again[name] for name in ("paid", "fees_paid", "refunded")} == {"0"}
            assert again["bonds_returned"] == 0

    anyio.run(main)


def test_without_the_tables_all_but_the_payouts_is_paid_and_they_go_back_when_claims_are_over(
    town: Town, tmp_path: Path
) -> None:
    async def main() -> None:
        async with town.full_stage(tmp_path / "stage", price=BONDED) as stage:
            await _settled_unpaid(stage)
            state = await stage.state()
            fees, total = state.fees_owed, state.total
            terms = (await stage.terms()).digest
            stage.blobs._blobs = {terms: stage.blobs._blobs[terms]}
            with pytest.raises(BlobMissing):
                await _closed(stage)
            state = await stage.state()
            assert (state.paid, state.fees_paid, state.bonds) == (0, fees, frozenset())
            await _holds(stage, requester=SUPPLY - total - fees, jobs=total)
            stage.time_s = state.expires_at or 0
            found = await _closed(stage)
            assert (found["refunded"], found["unclaimed"], found["expires_at"]) == (str(total), "0", None)
            await _holds(stage, requester=SUPPLY - fees)

    anyio.run(main)


def test_who_can_be_paid_when_the_claim_window_is_over_still_is(town: Town, tmp_path: Path) -> None:
    async def main() -> None:
        async with town.full_stage(tmp_path / "stage", price=BONDED) as stage:
            await _settled_unpaid(stage)
            state = await stage.state()
            stage.time_s = state.expires_at or 0
            found = await _closed(stage)
            assert (found["paid"], found["bonds_returned"]) == (str(state.total), 4)
            assert (await stage.state()).claims_expired_amount == 0
            await _holds(stage, requester=SUPPLY - state.total - state.fees_owed)

    anyio.run(main)


def test_a_job_that_everybody_left_is_moved_on_until_its_escrow_is_back(town: Town, tmp_path: Path) -> None:
    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            await stage.play(until=lambda state: state.round_index == 1)
            stage.nodes.clear()
            escrow = (await stage.state()).escrow
            phases = []
            for _ in range(2):
                stage.time_s = (await stage.state()).expires_at or 0
                found = await _closed(stage)
                phases.append((found["phase"], found["refunded"]))
            assert phases == [("committing", "0"), ("aborted", str(escrow))]
            await _holds(stage, requester=SUPPLY)

    anyio.run(main)
