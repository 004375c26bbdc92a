"""Sealing keys that are not there, or are none: who would need them finds that out before it joins."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
import pytest

from galaxylearning.crypto import seal as seals
from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.messages.records import SignedEnrolment
from galaxylearning.messages.terms import Terms
from galaxylearning.protocol import calls
from galaxylearning.protocol import job as jobs_of
from galaxylearning.protocol.machine import Phase
from stage_acts import expiring

if TYPE_CHECKING:
    from tests.integration.conftest import Stage, Town

REQUESTER = "galaxylearning.nodes.requester"
JUNK = bytes(seals.PUBLIC_KEY_BYTES)


async def nobody_joins(stage: Stage) -> None:
    ends = (Phase.ABORTED, Phase.SETTLED)
    await stage.play(until=lambda state: state.phase in ends, between=expiring(stage))
    state = await stage.play()  # Nobody goes on looking at it.
    assert (state.phase, state.seats) == (Phase.ABORTED, frozenset())
    assert await stage.board().read("enrolments", SignedEnrolment) == {}


@pytest.mark.parametrize("key", [None, JUNK], ids=["missing", "junk"])
def test_nobody_trains_for_a_requester_to_whom_no_model_can_be_released(
    town: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: bytes | None
) -> None:
    honest = jobs_of.terms_of

    def terms_of(*given: Any, **named: Any) -> Terms:
        return msgspec.structs.replace(
            honest(*given, **named), requester_key=blake3_digest(key or b"nowhere").hex()
        )

    monkeypatch.setattr(f"{REQUESTER}.terms_of", terms_of)

    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            if key is not None:
                await stage.blobs.put(key, topic="keys/requester")
            await nobody_joins(stage)

    anyio.run(main)


def test_nobody_joins_where_one_evaluator_has_registered_what_is_no_key(
    town: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = seals.seal

    def seal(data: bytes, keys: list[bytes], *given: Any, **named: Any) -> bytes:
        return honest(data, [key for key in keys if key != JUNK], *given, **named)

    monkeypatch.setattr(f"{REQUESTER}.seal", seal)

    async def main() -> None:
        async with town.stage(tmp_path / "stage") as stage:
            await stage.blobs.put(JUNK, topic="keys/evaluator-3")
            await stage.site("evaluator-3").submit(calls.register_evaluator(blake3_digest(JUNK)), "registry")
            await stage.post(town.compiled)
            for name in ("evaluator-1", "evaluator-2"):
                stage.add_evaluator(name)
            stage.add_owner("north")
            await nobody_joins(stage)
            told = stage.told("given up")
            assert told
            assert all("nothing can be sealed to the key" in one for one in told)

    anyio.run(main)
