"""Data owners that train in a locked worker: one is paid as ever, one whose cap is hit lives on without."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest

from galaxylearning.sandbox import Caps, LockedTrainer

if TYPE_CHECKING:
    from tests.integration.conftest import Outcome, Town

OWNERS = {"north", "east", "south", "west"}

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the worker is locked on Linux")


def test_a_locked_owner_is_paid_and_one_whose_cap_is_hit_gives_up_that_job(
    town: Town, undisturbed: Outcome, tmp_path: Path
) -> None:
    async def main() -> None:
        async with (
            town.full_stage(tmp_path / "stage") as stage,
            LockedTrainer(Caps) as plenty,
            LockedTrainer(lambda: Caps(output_bytes=8)) as short,
        ):
            stage.add_owner("north", trainer=lambda: plenty)
            stage.add_owner("east", trainer=lambda: short)
            await stage.play()
            found = await stage.outcome()
            assert set(found.paid) == OWNERS - {"east"}
            assert set(undisturbed.paid) == OWNERS
            reasons = stage.told("given up")
            assert len(reasons) == len(stage.told("taken again")) + 1 > 1
            assert all("hit the cap maximum_output_bytes" in reason for reason in reasons)
            assert all("8 allowed" in reason for reason in reasons)
            assert found.audit.verdict == "ok"

    anyio.run(main)
