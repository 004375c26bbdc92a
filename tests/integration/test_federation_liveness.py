"""Who is waited for, how long, and what becomes of a round that never has enough."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
import pytest

from galaxylearning.chain.transport import NodeRefused
from galaxylearning.errors import BlobMissing, GalaxyError, MessageRefused
from galaxylearning.messages.records import ACTIVITIES
from galaxylearning.messages.terms import Terms
from galaxylearning.nodes import round_watch
from galaxylearning.nodes.evaluator import EvaluatorNode, SeatedJob
from galaxylearning.nodes.parties import parties
from galaxylearning.nodes.presence import PresenceBoard
from galaxylearning.protocol import events as ev
from galaxylearning.protocol.machine import JobState, Phase
from galaxylearning.protocol.quorum import patience_s
from galaxylearning.simulation.stage import STAKE

if TYPE_CHECKING:
    from tests.integration.conftest import Stage, Town

OWNERS = ("north", "east", "south", "west")


def round_of(state: JobState) -> int:
    """The round under way, -1 where there is none."""
    return state.round_index if state.phase is Phase.TRAINING else -1


def away(
    stage: Stage, names: tuple[str, ...], *, until_s: int | None = None
) -> Callable[[str, JobState], bool]:
    """All but ``names`` are there, who are gone in round 1 (until some seconds after its deadline)."""

    def is_on(name: str, state: JobState) -> bool:
        if name not in names or round_of(state) != 1:
            return True
        deadline = state.deadline
        return until_s is not None and deadline is not None and stage.time_s >= deadline + until_s

    return is_on


def test_a_round_below_its_quorum_stays_open_for_whoever_comes_back(town: Town, tmp_path: Path) -> None:
    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            await stage.play(is_on=away(stage, ("north", "east", "south"), until_s=200))
            found = await stage.outcome()
            assert found.state.round_index == 2
            counts = [
                event.count
                for event in (await stage.view()).events_of(stage.job_id)
                if isinstance(event, ev.RoundAnchored)
            ]
            assert counts == [4, 4]
            told = "\n".join(stage.told("updates are missing"))
            for name in ("north", "east", "south"):
                assert stage.account(name) in told
            assert stage.account("west") not in told
            assert "gave no sign" in told
            assert found.audit.verdict == "ok"

    anyio.run(main)


def test_a_round_that_never_has_enough_ends_the_job_and_the_rest_is_refunded(
    town: Town, tmp_path: Path
) -> None:
    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            await stage.play(is_on=away(stage, ("north", "east", "south")))
            found = await stage.outcome()
            assert found.state.round_index == 1
            paid = sum(found.paid.values())
            assert found.state.escrow == paid + found.state.fees_paid + found.state.refunded
            assert 0 < paid < found.state.escrow
            assert found.balances["jobs"] == 0

    anyio.run(main)


def test_a_round_without_the_mass_of_the_earlier_ones_is_not_anchored(town: Town, tmp_path: Path) -> None:
    async def main() -> None:
        plan = msgspec.structs.replace(town.compiled.job.plan, minimum_mass=0.9)
        async with town.full_stage(tmp_path / "stage", plan=plan) as stage:
            await stage.play(is_on=away(stage, ("north",)))
            assert (await stage.outcome()).state.round_index == 1
        async with town.full_stage(tmp_path / "other", plan=plan) as stage:
            await stage.play(is_on=away(stage, ("north",), until_s=100))
            assert (await stage.outcome()).state.round_index == 2

    anyio.run(main)


def test_evaluators_that_do_not_mind_the_mass_are_found_out(
    town: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(round_watch, "mass_share", lambda *_given: 1.0)

    async def main() -> None:
        plan = msgspec.structs.replace(town.compiled.job.plan, minimum_mass=0.9)
        async with town.full_stage(tmp_path / "stage", plan=plan) as stage:
            await stage.play(is_on=away(stage, ("north",)))
            found = await stage.outcome()
            assert found.state.round_index == 2
            assert [problem.check for problem in found.audit.problems] == ["round 2"]
            assert "of the mass of earlier rounds; 90% is agreed" in str(found.audit.problems[0])

    anyio.run(main)


def anchored_after_s(stage: Stage, events: tuple[ev.JobEvent, ...]) -> int:
    """Seconds of chain time from the first round's anchor to the second's."""
    first, second = (event.at for event in events if isinstance(event, ev.RoundAnchored))
    return second - first


def test_a_slow_owner_that_gives_signs_of_life_is_waited_for_and_a_silent_one_is_not(
    town: Town, tmp_path: Path
) -> None:
    async def run(folder: Path, *, is_alive: bool, comes_after_s: int) -> tuple[list[int], str]:
        async with town.full_stage(folder) as stage:
            terms = await stage.terms()
            assert 0 < comes_after_s < patience_s(terms.windows)
            presence = PresenceBoard(stage.site("north"), stage.board(), terms, stage.job_id)

            async def tell() -> None:
                if is_alive and round_of(await stage.state()) == 1:
                    await presence.tell(1, "training")

            await stage.play(is_on=away(stage, ("north",), until_s=comes_after_s), between=tell)
            events = (await stage.view()).events_of(stage.job_id)
            counts = [event.count for event in events if isinstance(event, ev.RoundAnchored)]
            return counts, "\n".join(stage.told("updates are missing"))

    async def main() -> None:
        counts, told = await run(tmp_path / "alive", is_alive=True, comes_after_s=40)
        assert counts == [4, 4]
        assert "training" in told
        counts, told = await run(tmp_path / "silent", is_alive=False, comes_after_s=40)
        assert counts == [4, 3]
        assert "gave no sign" in told

    anyio.run(main)


def test_whoever_is_waited_for_can_be_looked_up_in_every_phase(town: Town, tmp_path: Path) -> None:
    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            seen: dict[Phase, list[set[str]]] = {}

            async def look() -> None:
                view = await stage.view()
                state = await view.state(stage.job_id)
                rows = await parties(stage.site("passer-by"), view, await stage.terms(), state)
                awaited = {f"{stage.name_of(one.account)}: {one.awaited}" for one in rows if one.awaited}
                seen.setdefault(state.phase, []).append(awaited)

            await stage.play(
                is_on=lambda name, state: (
                    away(stage, ("north",))(name, state)
                    and (name != "evaluator-3" or len(seen.get(Phase.ENROLLING, ())) > 2)
                ),
                between=look,
                until=lambda state: state.phase is Phase.SETTLED,
            )
            assert {"evaluator-3: its seat, by a transaction of its own"} in seen[Phase.ENROLLING]
            assert {"north: its update of round 2"} in seen[Phase.TRAINING]
            assert all(not any("evaluator-3" in one for one in found) for found in seen[Phase.SETTLED])

    anyio.run(main)


def test_signs_of_life_that_others_made_or_that_are_of_another_round_do_not_count(
    town: Town, tmp_path: Path
) -> None:
    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            terms, board = await stage.terms(), stage.board()
            north = PresenceBoard(stage.site("north"), board, terms, stage.job_id)
            await north.tell(0, "training")
            topic = "round/0/presence"
            signs = await north.latest(0)
            assert set(signs) == {stage.account("north")}
            sign = signs[stage.account("north")]
            assert ACTIVITIES[sign.activity] == "training"
            forged = msgspec.structs.replace(sign, account=stage.account("east"))
            older = msgspec.structs.replace(sign, seen_at=sign.seen_at + 10**9)
            for record in (forged, older):
                await board.post(topic, record)
            await board.post("round/1/presence", sign)
            await board.put(topic, b"rubbish")
            reader = PresenceBoard(stage.site("passer-by"), stage.board(), terms, stage.job_id)
            assert await reader.latest(0) == {stage.account("north"): sign}
            assert await reader.latest(1) == {}
            (missing,) = await reader.missing(0, [stage.account("north")], [], now=sign.seen_at + 7)
            assert missing.reason == "training 7 s ago"
            assert reader.is_alive(missing)
            (late,) = await reader.missing(0, [stage.account("north")], [], now=sign.seen_at + 10_000)
            assert not reader.is_alive(late)

    anyio.run(main)


def unable(error: GalaxyError, phase: Phase) -> type[EvaluatorNode]:
    """Cannot compute any more once the job is in ``phase``."""

    class Unable(SeatedJob):
        async def _up_to_date(self, state: JobState) -> Any:
            if state.phase is phase:
                raise error
            return await super()._up_to_date(state)

    class UnableEvaluator(EvaluatorNode):
        def seat(self, job_id: int, terms: Terms) -> SeatedJob:
            return Unable(self, self._view, job_id, terms)

    return UnableEvaluator


GONE, UNREADABLE = BlobMissing("is gone", where="update"), MessageRefused("unreadable", where="update")


@pytest.mark.parametrize(
    ("error", "phase"),
    [(GONE, Phase.COMMITTING), (UNREADABLE, Phase.COMMITTING), (UNREADABLE, Phase.TRAINING)],
    ids=["for now", "for good", "for good, and long before"],
)
def test_evaluators_that_nobody_lets_score_stand_by_and_keep_their_stakes(
    town: Town, tmp_path: Path, error: GalaxyError, phase: Phase
) -> None:
    """One of them cannot for this reason, the other for another; the third is too few to reveal alone."""

    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            stage.add_evaluator(stage.evaluators[1], unable(error, phase))
            stage.add_evaluator(stage.evaluators[2], unable(GONE, Phase.COMMITTING))
            await stage.play(until=lambda state: state.phase is Phase.ABORTED)
            state = await stage.state()
            assert state.standing_by == {stage.account(name) for name in stage.evaluators[1:]}
            assert state.committed == {stage.account(stage.evaluators[0])}
            assert {await stage.staked(name) for name in stage.evaluators} == {STAKE}

    anyio.run(main)


def test_an_evaluator_that_a_node_takes_no_transaction_of_for_a_while_keeps_its_job(
    town: Town, tmp_path: Path
) -> None:
    """Its account has no coins when scores are due, and gets some."""
    refusals = [NodeRefused("insufficient funds for gas", code=-32000)] * 2

    class Poor(SeatedJob):
        async def _up_to_date(self, state: JobState) -> Any:
            if state.phase is Phase.COMMITTING and refusals:
                raise refusals.pop()
            return await super()._up_to_date(state)

    class PoorEvaluator(EvaluatorNode):
        def seat(self, job_id: int, terms: Terms) -> SeatedJob:
            return Poor(self, self._view, job_id, terms)

    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            name = stage.evaluators[1]
            stage.add_evaluator(name, PoorEvaluator)
            await stage.play(until=lambda state: state.phase is Phase.SETTLED)
            assert (refusals, stage.told("given up")) == ([], [])
            assert stage.account(name) in (await stage.state()).committed

    anyio.run(main)
