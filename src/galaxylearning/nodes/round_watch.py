"""When a round may be closed, and who is missing from it meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from galaxylearning.messages.terms import Terms
from galaxylearning.nodes.board import Board
from galaxylearning.nodes.presence import Missing, PresenceBoard
from galaxylearning.nodes.site import Site
from galaxylearning.protocol.cohort import AcceptedUpdates, Cohort
from galaxylearning.protocol.machine import JobState, due
from galaxylearning.protocol.outcomes import RoundOutcome
from galaxylearning.protocol.quorum import mass_share, patience_s
from galaxylearning.units import Address


class RoundWatch:
    """Decides for one evaluator whether to vote for closing a round; ``report`` hears who is missing."""

    def __init__(
        self,
        site: Site,
        board: Board,
        terms: Terms,
        job_id: int,
        report: Callable[[str, dict[str, Any]], None],
    ) -> None:
        self._terms, self._report = terms, report
        self._presence = PresenceBoard(site, board, terms, job_id)
        self._told: tuple[int, frozenset[Address]] | None = None
        """The round, and who was there, when it was told last who is missing."""

    async def may_close(
        self,
        state: JobState,
        outcomes: Sequence[RoundOutcome],
        cohort: Cohort,
        accepted: AcceptedUpdates,
        *,
        now: int,
    ) -> bool:
        """Whether the round is complete, or is not worth waiting for any longer at chain time ``now``.

        A round with too few updates, or without enough of the mass of earlier rounds, stays open until the
        anchor window ends: whoever comes late is still in. Then anybody may end the job.
        """
        present = frozenset(one.update.data_owner for one in accepted.updates)
        commands = due(state, now, candidates=accepted.count)
        is_due = any(command.function == "anchorRound" for command in commands)
        is_late = state.deadline is not None and now >= state.deadline
        if len(present) == cohort.size or not (is_due or is_late):
            return is_due
        is_heavy = mass_share(outcomes, cohort.data_owners, present) >= self._terms.plan.minimum_mass
        patience = patience_s(self._terms.windows)
        is_patient = state.deadline is not None and now < state.deadline + patience
        may_wait = is_due and is_heavy and is_patient
        told = state.round_index, present
        if not may_wait and self._told == told:
            return is_due and is_heavy  # Nothing depends on signs of life.
        missing = await self._presence.missing(state.round_index, cohort.data_owners, present, now=now)
        if self._told != told:
            self._told = told
            self._tell(state.round_index, missing)
        return is_due and is_heavy and not (is_patient and any(map(self._presence.is_alive, missing)))

    def _tell(self, round_index: int, missing: Sequence[Missing]) -> None:
        facts: dict[str, Any] = {"round_index": round_index}
        facts.update((one.account, one.reason) for one in missing)
        self._report("updates are missing", facts)
