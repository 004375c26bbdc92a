"""Keys of updates that come one by one: however often an evaluator shows new ones, all of them are heard."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import msgspec
from benchmarks.things import PLAN as FEW

from galaxylearning.crypto.seal import seal
from galaxylearning.messages import typed
from galaxylearning.nodes import assembly
from galaxylearning.nodes.ballots import Ballots
from galaxylearning.nodes.update_keys import UpdateKeys
from galaxylearning.protocol.cohort import AcceptedUpdate
from galaxylearning.simulation.stage import sealing_key, signer
from galaxylearning.storage.blobs import MemoryBlobStore
from galaxylearning.units import ZERO_DIGEST, Digest

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


class Counting(MemoryBlobStore):
    """Counts how often each blob is read."""

    def __init__(self) -> None:
        super().__init__()
        self.read: Counter[Digest] = Counter()

    async def get(self, digest: Digest, *, max_bytes: int) -> bytes:
        self.read[digest] += 1
        return await super().get(digest, max_bytes=max_bytes)


def test_an_update_that_is_closed_is_fetched_once_until_somebody_shows_a_key(
    town: Town, tmp_path: Path
) -> None:
    async def main() -> None:
        async with town.stage(tmp_path / "stage", plan=PLAN) as stage:
            site, terms = stage.site("evaluator-1"), await stage.terms()
            job = await assembly.open_job(site, terms, stage.job_id, sealing_key("evaluator-1"))
            who = signer("owner").address
            context = assembly.round_context(site, stage.job_id, 0, "update", who)
            sealed = seal(b"update", [sealing_key("evaluator-1").public], context, entropy=site.entropy)
            digest = await stage.blobs.put(sealed, topic="updates")
            seen = Counting()
            for topic in stage.blobs.topics():
                for one in await stage.blobs.list(topic):
                    await seen.put(await stage.blobs.get(one, max_bytes=1 << 24), topic=topic)
            message = typed.Update(stage.job_id, 0, terms.digest, who, ZERO_DIGEST, digest)
            update = AcceptedUpdate(message, digest)
            stage.blobs = seen
            hearer = await keys_of(stage, "evaluator-3")
            for _ in range(5):
                assert await hearer.closed(job, 0, [update]) == {digest}
            assert seen.read[digest] == 1
            teller = await keys_of(stage, "evaluator-1")
            ballots = Ballots(stage.site("evaluator-1"), stage.board())
            await teller.open(job, 0, who, digest)
            await teller.show(0, [digest], ballots)
            assert await hearer.closed(job, 0, [update]) == frozenset()

    anyio.run(main)
