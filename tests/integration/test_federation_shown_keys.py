"""Keys of updates that come one by one: however often an evaluator shows new ones, all of them are heard."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import msgspec
from benchmarks.things import PLAN as FEW

from galaxylearning.crypto.seal import seal
from galaxylearning.nodes import assembly
from galaxylearning.nodes.ballots import Ballots
from galaxylearning.nodes.update_keys import UpdateKeys
from galaxylearning.simulation.stage import sealing_key, signer

if TYPE_CHECKING:
    from tests.integration.conftest import Stage, Town


PLAN = msgspec.structs.replace(FEW, maximum_owners=40)


async def keys_of(stage: Stage, name: str) -> UpdateKeys:
    return UpdateKeys(stage.site(name), stage.board(), await stage.terms(), stage.job_id, sealing_key(name))


def test_who_holds_back_many_updates_has_no_key_of_another_crowded_out(town: Town, tmp_path: Path) -> None:
    async def main() -> None:
        async with town.stage(tmp_path / "stage", plan=PLAN) as stage:
            site, terms = stage.site("evaluator-1"), await stage.terms()
            job = await assembly.open_job(site, terms, stage.job_id, sealing_key("evaluator-1"))
            teller, ballots = await keys_of(stage, "evaluator-1"), Ballots(site, stage.board())
            sent = []
            for number in range(40):
                who = signer(f"owner {number}").address
                context = assembly.round_context(site, stage.job_id, 0, "update", who)
                sealed = seal(
                    b"%d" % number, [sealing_key("evaluator-1").public], context, entropy=site.entropy
                )
                digest = await stage.blobs.put(sealed, topic="updates")
                await teller.open(job, 0, who, digest)
                await teller.show(0, [digest], ballots)
                sent.append((who, digest))
            hearer = await keys_of(stage, "evaluator-3")
            for number, (who, digest) in enumerate(sent):
                assert await hearer.open(job, 0, who, digest) == b"%d" % number

    anyio.run(main)
