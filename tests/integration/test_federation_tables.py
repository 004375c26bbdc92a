"""Score tables that are hard to make, hard to find or false: nobody honest loses stake or pay by them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import msgspec
import pytest
import torch
from benchmarks.things import MASKED_HIDDEN, compiled_job
from torch import nn

from galaxylearning.contribution import saturated
from galaxylearning.simulation.stage import STAKE

if TYPE_CHECKING:
    from tests.integration.conftest import Town


class Steep(nn.Module):
    """Gradients so large that what an update is worth fits no table."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, MASKED_HIDDEN), nn.ReLU(), nn.Linear(MASKED_HIDDEN, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(1e9 * self.layers(x))


def steep(town: Town) -> Town:
    """The town with a job about such a model."""
    job = town.compiled.job
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = Steep()
    plan = msgspec.structs.replace(job.plan, steps=1)
    compiled = compiled_job(model=model, plan=plan, privacy=job.privacy, masking=job.masking)
    return replace(town, compiled=compiled)


@pytest.mark.parametrize("mode", ["town", "masked_town"])
def test_a_model_too_steep_to_be_valued_costs_no_evaluator_its_stake(
    request: pytest.FixtureRequest, tmp_path: Path, mode: str
) -> None:
    where = steep(request.getfixturevalue(mode))

    async def main() -> None:
        async with where.full_stage(tmp_path / "stage") as stage:
            await stage.play()
            found = await stage.outcome()
            table = next(iter((await stage.tables()).values()))
            values = [score.value for scores in table.rounds for score in scores.owners]
            assert saturated(2**64) in map(abs, values)
            assert found.faulty == set()
            assert set(found.stakes.values()) == {STAKE}
            assert (found.audit.verdict, found.audit.problems) == ("ok", ())

    anyio.run(main)
