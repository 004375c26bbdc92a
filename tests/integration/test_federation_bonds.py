"""Bonds: burned where two updates of a round are shown, returned to who paid them otherwise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from galaxylearning.errors import TransactionReverted
from galaxylearning.messages import typed
from galaxylearning.messages.records import SignedUpdate
from galaxylearning.nodes.board import Board
from galaxylearning.nodes.data_owner import DataOwnerNode
from galaxylearning.protocol import calls
from galaxylearning.protocol.job import Price
from galaxylearning.protocol.machine import JobState, Phase
from galaxylearning.simulation.stage import SUPPLY
from galaxylearning.units import Address, Digest

if TYPE_CHECKING:
    from tests.integration.conftest import Stage, Town

BURN = Address("0x000000000000000000000000000000000000dEaD")
OWNERS = ("north", "east", "south", "west")
PRICE = Price(bounty="1000", target_gain=0.8, bond="5")
BOND = 5 * 10**18


def two_faced(round_index: int, has_body: bool, *, is_late: bool = False) -> type[DataOwnerNode]:
    """A data owner that signs a second update of a round; late: once the round is anchored."""

    class TwoFaced(DataOwnerNode):
        async def turn(self) -> bool:
            done = await super().turn()
            for job_id, sent in sorted(self._sent):
                is_past = (await self._view.state(job_id)).round_index > round_index
                if sent == round_index and is_past == is_late:
                    await _second_update(self, job_id, round_index, has_body)
            return done

    return TwoFaced


async def _second_update(node: DataOwnerNode, job_id: int, round_index: int, has_body: bool) -> None:
    board, name = Board(node.site, job_id), f"round/{round_index}"
    records = (await board.read(f"{name}/updates", SignedUpdate)).values()
    own = [record for record in records if record.signer == node.site.address]
    if len(own) != 1:
        return
    first: typed.Update = own[0].message
    other = await board.put(f"{name}/bodies", b"another") if has_body else Digest(b"\7" * 32)
    message = typed.Update(
        job_id, round_index, first.terms_digest, first.data_owner, first.model_digest, other
    )
    signature = node.site.signer.sign_digest(message.digest(node.site.domain()))
    await board.post(f"{name}/updates", SignedUpdate.from_message(message, signature=signature))


async def _post_bonds(stage: Stage) -> None:
    sponsor = stage.site("requester")
    await sponsor.submit(("approve", (stage.ledger.address_of("jobs"), 4 * BOND)), "token")
    for name in OWNERS:
        await sponsor.submit(calls.deposit_bond(stage.job_id, stage.account(name)))


def bonded(town: Town, folder: Path, script: Callable[[Stage], Any]) -> None:
    """Play a script on a stage whose job asks for bonds, all of them posted."""

    async def main() -> None:
        async with town.full_stage(folder, price=PRICE) as stage:
            await _post_bonds(stage)
            await script(stage)

    anyio.run(main)


async def _money_is_where_it_should(stage: Stage, state: JobState, burned: int) -> None:
    assert state.escrow == state.paid + state.fees_paid + state.refunded
    assert await stage.balance(stage.ledger.address_of("jobs")) == 0
    assert await stage.balance(BURN) == burned
    paid_out = state.paid + state.fees_paid
    assert await stage.balance(stage.account("requester")) == SUPPLY - paid_out - burned


@pytest.mark.parametrize("has_body", [True, False])
def test_two_updates_of_a_round_cost_the_bond(town: Town, tmp_path: Path, has_body: bool) -> None:
    async def script(stage: Stage) -> None:
        stage.add_owner("east", kind=two_faced(0, has_body))
        first = await stage.play(until=lambda state: state.round_index == 1)
        # The evaluators showed it before they anchored the round.
        assert first.forfeited == {stage.account("east")}
        state = await stage.play()
        assert (state.phase, state.bonds) == (Phase.SETTLED, frozenset())
        await _money_is_where_it_should(stage, state, BOND)
        found = await stage.outcome()
        assert (found.audit.verdict, found.public_audit.verdict) == ("ok", "ok")
        said = [finding.detail for finding in found.public_audit.findings if finding.check == "bonds"]
        assert any("lost its bond for two updates of a round (on the board)" in one for one in said)
        with pytest.raises(TransactionReverted):
            await stage.site("requester").submit(calls.return_bond(stage.job_id, stage.account("east")))

    bonded(town, tmp_path / "stage", script)


def test_a_second_update_after_the_anchor_changes_no_round_and_costs_the_bond_all_the_same(
    town: Town, tmp_path: Path
) -> None:
    async def script(stage: Stage) -> None:
        stage.add_owner("east", kind=two_faced(0, has_body=True, is_late=True))
        state = await stage.play()
        assert state.forfeited == {stage.account("east")}
        await _money_is_where_it_should(stage, state, BOND)
        found = await stage.outcome()
        scores = next(iter((await stage.tables()).values())).rounds[0].owners
        assert {score.status for score in scores} == {"accepted"}
        assert found.audit.verdict == "ok"

    bonded(town, tmp_path / "stage", script)


def test_whoever_said_one_thing_gets_its_bond_back(town: Town, tmp_path: Path) -> None:
    async def script(stage: Stage) -> None:
        state = await stage.play()
        assert (state.phase, state.forfeited, state.bonds) == (Phase.SETTLED, frozenset(), frozenset())
        await _money_is_where_it_should(stage, state, 0)
        assert sorted(await stage.paid()) == sorted(OWNERS)
        assert (await stage.audit()).verdict == "ok"

    bonded(town, tmp_path / "stage", script)
