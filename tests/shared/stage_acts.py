"""Parts that are played on a stage: who lies about scores, and who ends a job as soon as it may."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeAlias

from galaxylearning.messages.records import ScoreTable
from galaxylearning.messages.terms import Terms
from galaxylearning.nodes.evaluator import EvaluatorNode, SeatedJob
from galaxylearning.protocol import calls
from galaxylearning.protocol.machine import JobState
from galaxylearning.simulation.stage import STEP_S

if TYPE_CHECKING:
    from tests.integration.conftest import Stage

Lie: TypeAlias = Callable[[ScoreTable], ScoreTable]


def lying(lie: Lie) -> type[EvaluatorNode]:
    """An evaluator that reveals another table than the honest one."""

    class LyingSeat(SeatedJob):
        async def score_table(self, state: JobState) -> ScoreTable:
            return lie(await super().score_table(state))

    class Liar(EvaluatorNode):
        def seat(self, job_id: int, terms: Terms) -> SeatedJob:
            return LyingSeat(self, self._view, job_id, terms)

    return Liar


def expiring(stage: Stage) -> Callable[[], Awaitable[None]]:
    """The requester ends its job as soon as it may: for ``play(between=...)``."""

    async def between() -> None:
        state = await stage.state()
        if state.expires_at is not None and stage.time_s >= state.expires_at + 2 * STEP_S:
            await stage.site("requester").submit_if_first(calls.expire(stage.job_id))

    return between
