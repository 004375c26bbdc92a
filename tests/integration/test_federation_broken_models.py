"""Jobs that work when they are posted and not later, or take too much: they cost no evaluator its stake."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
import pytest
import torch
from benchmarks.things import MASKED_HIDDEN, compiled_job
from torch import nn

from galaxylearning.errors import JobRefused
from galaxylearning.nodes.evaluator import EvaluatorNode
from galaxylearning.nodes.posting import BEARABLE, Bearable, require_bearable
from galaxylearning.nodes.seating import Seating
from galaxylearning.protocol.machine import JobState, Phase
from galaxylearning.simulation.stage import STAKE
from stage_acts import expiring

if TYPE_CHECKING:
    from tests.integration.conftest import Town


def is_over(state: JobState) -> bool:
    return state.phase in (Phase.SETTLED, Phase.ABORTED)


class Trapped(nn.Module):
    """Looks up a row of a table by how far a parameter has moved: beyond the table after one round."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, MASKED_HIDDEN), nn.ReLU(), nn.Linear(MASKED_HIDDEN, 2))
        self.offset = nn.Parameter(torch.zeros(2))
        self.table = nn.Embedding(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        row = self.offset.detach().to(torch.int64).abs()
        found: torch.Tensor = self.layers(x) + self.offset + 0 * self.table(row).sum()
        return found


@pytest.mark.parametrize("mode", ["town", "masked_town"])
def test_a_graph_that_stops_running_once_the_model_has_moved_costs_no_evaluator_its_stake(
    request: pytest.FixtureRequest, tmp_path: Path, mode: str
) -> None:
    town: Town = request.getfixturevalue(mode)
    job = town.compiled.job
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = Trapped()
    # Of one small step each, of which the server makes a large one: in the next round nothing runs.
    plan = msgspec.structs.replace(job.plan, steps=1, server_learning_rate=1000.0)
    compiled = compiled_job(model=model, plan=plan, privacy=job.privacy, masking=job.masking)

    async def main() -> None:
        async with replace(town, compiled=compiled).full_stage(tmp_path / "stage") as stage:
            state = await stage.play(until=is_over, between=expiring(stage))
            assert (state.phase, state.round_index, state.faulty_seats) == (Phase.SETTLED, 1, 0)
            assert [await stage.staked(name) for name in stage.evaluators] == [STAKE] * len(stage.evaluators)
            assert "index out of range" in str(stage.told("given up"))  # Of the data owners, in round 1.
            # Nothing follows from such a model: no gradient, so no value.
            assert state.total == 0
            for key in (None, stage.sealing_key("evaluator-1")):
                assert (await stage.audit(key)).problems == ()

    anyio.run(main)


class Busy(EvaluatorNode):
    """Has time for nothing."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named | {"seating": Seating(60, bearable=Bearable(flops=1_000_000))})


def test_no_seat_is_taken_for_a_job_that_takes_too_long_to_compute(town: Town, tmp_path: Path) -> None:
    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            stage.add_evaluator("evaluator-1", Busy)
            state = await stage.play(until=lambda state: len(state.seats) == 2)
            assert stage.account("evaluator-1") not in state.seats
            assert any("a round would take some" in one for one in stage.told("given up"))

    anyio.run(main)


@pytest.mark.parametrize(
    ("plan", "rows", "reason"),
    [
        ({"steps": 1_000_000}, 160, None),
        ({"steps": 1_000_000, "batch_size": 1 << 20}, 100_000_000, "a round would take some .* FLOPs"),
        ({}, 100_000_000, None),
        ({"midpoints": 100, "batch_size": 1 << 20}, 100_000_000, None),
        ({"steps": None, "epochs": 10_000, "batch_size": 1}, 200, None),
        ({"steps": None, "epochs": 10_000, "batch_size": 1}, 202, "1010000 steps .* at most 1000000"),
    ],
)
def test_what_a_round_takes_follows_from_its_terms(
    town: Town, tmp_path: Path, plan: dict[str, Any], rows: int, reason: str | None
) -> None:
    async def main() -> None:
        async with town.stage(tmp_path / "stage") as stage:
            terms = await stage.terms()
            terms = msgspec.structs.replace(
                terms, plan=msgspec.structs.replace(terms.plan, **plan), test_rows=rows
            )
            graph = town.compiled.graph
            if reason is None:
                require_bearable(terms, graph, BEARABLE)
                with pytest.raises(JobRefused, match=r"the job would take some .* bytes of memory"):
                    require_bearable(terms, graph, Bearable(memory_bytes=1 << 20))
            else:
                with pytest.raises(JobRefused, match=reason):
                    require_bearable(terms, graph, BEARABLE)

    anyio.run(main)


def test_the_step_on_the_hidden_set_is_counted_as_long_as_it_is(town: Town, tmp_path: Path) -> None:
    async def main() -> None:
        async with town.stage(tmp_path / "stage") as stage:
            terms = await stage.terms()

            def refusal(**plan: Any) -> str:
                changed = msgspec.structs.replace(terms.plan, **plan)
                with pytest.raises(JobRefused, match="FLOPs") as refused:
                    require_bearable(
                        msgspec.structs.replace(terms, plan=changed, test_rows=1_000_000),
                        town.compiled.graph,
                        Bearable(flops=1),
                    )
                return str(refused.value)

            assert refusal(steps=1000) == refusal(steps=4000, gate=False) != refusal(steps=1000, gate=False)

    anyio.run(main)
