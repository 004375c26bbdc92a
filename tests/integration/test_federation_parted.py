"""Sealed mode: data owners that seal their updates to some evaluators only, so that these part."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from galaxylearning.nodes.data_owner import DataOwnerNode
from galaxylearning.protocol import events as ev
from galaxylearning.protocol.machine import Phase
from galaxylearning.simulation.stage import STAKE

if TYPE_CHECKING:
    from tests.integration.conftest import Town

SEATS = 3


def leaving_out(*seats: int | None) -> type[DataOwnerNode]:
    """Seals its update of each round to all evaluators but the one in this seat, and twice to another."""

    class Parting(DataOwnerNode):
        async def _sealed_update(self, *given: Any) -> bytes:
            *rest, keys = given
            left_out = seats[rest[2]]
            if left_out is not None:
                keys = [keys[left_out - 1] if seat == left_out else key for seat, key in enumerate(keys)]
            changed = (*rest, keys)
            return await super()._sealed_update(*changed)

    return Parting


@pytest.mark.parametrize(
    "owners",
    [
        {"west": (2, 2)},
        {"west": (2, 1)},
        {"west": (None, 2), "east": (None, 1)},
    ],
    ids=["one evaluator", "another in each round", "two data owners in the last round"],
)
def test_an_update_that_opens_for_some_evaluators_opens_for_all(
    town: Town, tmp_path: Path, owners: dict[str, tuple[int | None, ...]]
) -> None:
    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            for name, seats in owners.items():
                stage.add_owner(name, kind=leaving_out(*seats))
            state = await stage.play()
            assert (state.phase, state.faulty) == (Phase.SETTLED, frozenset())
            assert [await stage.staked(name) for name in stage.evaluators] == [STAKE] * SEATS
            events = (await stage.view()).events_of(stage.job_id)
            assert [event.count for event in events if isinstance(event, ev.RoundAnchored)] == [4, 4]
            for name in stage.evaluators:
                assert (await stage.audit(stage.sealing_key(name))).problems == ()

    anyio.run(main)
