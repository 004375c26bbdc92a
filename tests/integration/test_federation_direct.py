"""The direct path on chain: what it is for, and that a hollow entry costs nobody but its sender."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio

from galaxylearning.chain.deployment import fund
from galaxylearning.messages import typed
from galaxylearning.protocol import calls
from galaxylearning.protocol import events as ev
from galaxylearning.protocol.machine import Phase
from galaxylearning.units import Digest

EVALUATORS = ("evaluator-1", "evaluator-2", "evaluator-3")


def test_a_direct_update_without_its_blob_neither_stalls_the_job_nor_slashes_anybody(
    town: Any, tmp_path: Path
) -> None:
    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            await stage.play(until=lambda state: state.phase is Phase.TRAINING)
            del stage.nodes["west"]
            await fund(stage.chain, stage.account("west"), 10**19)
            stakes = {name: await stage.staked(name) for name in EVALUATORS}
            terms = await stage.terms()
            update = typed.Update(
                stage.job_id,
                0,
                terms.digest,
                stage.account("west"),
                Digest(bytes.fromhex(terms.model_digest)),
                Digest(b"\x07" * 32),
            )
            site = stage.site("west")
            signature = site.signer.sign_digest(update.digest(site.domain()))
            await site.submit(calls.submit_update_directly(update, signature))
            await stage.play()
            state = await stage.state()
            assert state.phase is Phase.SETTLED
            assert state.round_index == terms.plan.rounds
            assert state.total > 0
            assert {name: await stage.staked(name) for name in EVALUATORS} == stakes

    anyio.run(main)


def test_a_node_told_to_go_direct_says_everything_on_chain_and_is_paid(town: Any, tmp_path: Path) -> None:
    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            west = stage.account("west")
            await fund(stage.chain, west, 10**19)
            stage.nodes["west"].is_direct = True
            await stage.play()
            state = await stage.state()
            assert state.phase is Phase.SETTLED
            view = await stage.view()
            events = view.events_of(stage.job_id)
            enrolled = [e.enrolment.data_owner for e in events if isinstance(e, ev.EnrolledDirectly)]
            rounds = [e.update.round_index for e in events if isinstance(e, ev.UpdateSubmittedDirectly)]
            assert enrolled == [west]
            assert rounds == list(range(state.rounds))
            assert west in {e.account for e in events if isinstance(e, ev.Paid)}

    anyio.run(main)
