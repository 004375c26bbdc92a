"""One job from its posting to the last payment, turn by turn, in a storm or not; and what came of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

import anyio
from benchmarks.reorgs.anvil import Chain
from benchmarks.reorgs.storm import Storm
from benchmarks.reorgs.town import JOB_ID, OWNERS, Cast

from galaxylearning.chain.deployment import Deployment
from galaxylearning.chain.evm import Following
from galaxylearning.errors import FinalityBroken, GalaxyError, LedgerUnreachable
from galaxylearning.nodes import requester
from galaxylearning.nodes.auditor import Auditor
from galaxylearning.nodes.chain_view import ChainView
from galaxylearning.nodes.site import is_passing
from galaxylearning.ports import Call
from galaxylearning.protocol import events as ev
from galaxylearning.protocol.events import Phase
from galaxylearning.protocol.job import CompiledJob
from galaxylearning.simulation.stage import sealing_key, signer

FINALITY_BLOCKS: Final = 32
MOST_TURNS: Final = 900
BLOCKS_A_TURN: Final = 8
SPOKEN_ONCE: Final = ("updates", "openings", "gate/answers", "sum/answers", "value/answers", "twins/answers")
"""Topics under which everybody may ever put one thing, in each round."""


@dataclass(frozen=True)
class Ending:
    """How a job ended: what must be the same with and without reorganisations, and what was wrong."""

    facts: dict[str, Any]
    struck: dict[tuple[str, int], int]
    turns: int
    problems: tuple[str, ...] = ()


@dataclass
class Play:
    """One play of one job, from a snapshot of the chain on which nothing is posted yet."""

    chain: Chain
    deployment: Deployment
    compiled: CompiledJob
    seats: tuple[str, ...]
    seed: int
    often: float = 0.0
    finality_blocks: int = FINALITY_BLOCKS
    problems: list[str] = field(default_factory=list)

    async def run(self) -> Ending:
        """Play to the end."""
        async with AsyncExitStack() as stack:
            cast = await self._cast(stack)
            async with anyio.create_task_group() as group:
                group.start_soon(self._post, cast)
                turns = await self._turns(cast, MOST_TURNS)
                group.cancel_scope.cancel()
            facts = await self._facts(cast)
            self._check_spoken_once(cast)
            return Ending(facts, dict(cast.storm.struck), turns, tuple(self.problems))

    async def run_until(self, turn: int, then: Callable[[Cast], Awaitable[None]]) -> None:
        """Play that many turns, and then go on with the cast as it is."""
        async with AsyncExitStack() as stack:
            cast = await self._cast(stack)
            async with anyio.create_task_group() as group:
                group.start_soon(self._post, cast)
                await self._turns(cast, turn)
                group.cancel_scope.cancel()
            await then(cast)

    async def _cast(self, stack: AsyncExitStack) -> Cast:
        rng = Random(self.seed)  # noqa: S311 - when blocks go is no secret
        storm = Storm(self.chain, rng, self.often, floor=await self.chain.height())
        following = Following(finality_blocks=self.finality_blocks)
        cast = Cast(self.chain, self.deployment, following, self.seats, storm, stack)
        for name in self.seats:
            await cast.blobs.put(sealing_key(name).public, topic="keys")
        for name in (*OWNERS, *self.seats, "relayer"):
            await cast.enter(name)
        storm.is_on = True
        return cast

    async def _post(self, cast: Cast) -> None:
        """The requester posts the job, and waits until that is final."""
        posted = await requester.post(
            await cast.site("requester"),
            self.compiled,
            evaluators=[signer(name).address for name in self.seats],
            sealing_key=sealing_key("requester"),
        )
        if posted.job_id != JOB_ID:
            self.problems.append(f"the job got the number {posted.job_id}")

    async def _turns(self, cast: Cast, most: int) -> int:
        """Turn after turn until all are done; how many there were."""
        reader, rng = await cast.ledger(), cast.storm.rng
        done: set[str] = set()
        for turn in range(most):
            try:
                phase = Phase(int((await reader.read(Call("jobs", "job", (JOB_ID,))))["phase"]))
                cast.storm.phase = "posting" if phase is Phase.NONE else phase.name.lower()
            except LedgerUnreachable:
                pass  # Blocks went at this very moment: it is the phase of the last turn.
            for name, node in cast.nodes.items():
                if name in done:
                    continue
                try:
                    if await node.turn():
                        done.add(name)
                except GalaxyError as error:
                    if not is_passing(error):
                        self.problems.append(f"{name}: {error}")
                        return turn
            await cast.storm.maybe()
            if done == set(cast.nodes):
                return turn
            await self.chain.mine(rng.randint(1, 2 * BLOCKS_A_TURN - 1))
            cast.clock.time_s += 1
            await anyio.sleep(0)
        return most

    # ---- what came of it

    async def _facts(self, cast: Cast) -> dict[str, Any]:
        """The final state: roots, digests, balances."""
        cast.storm.is_on = False
        await self.chain.mine(2 * self.finality_blocks)
        site = await cast.site("auditor")
        view = ChainView(site.ledger, site.blobs)
        await view.refresh()
        given_up = [one for one in cast.progress if one.step == "given up"]
        self.problems += [f"{one.actor} gave up: {one.facts}" for one in given_up]
        if JOB_ID not in view.job_ids:
            self.problems.append("the job is not posted")
            return {}
        state = await view.state(JOB_ID)
        if state.phase is not Phase.SETTLED:
            self.problems.append(f"the job is {state.phase.name.lower()}")
            return {}
        accounts = [signer(name).address for name in (*OWNERS, *self.seats, "requester", "relayer")]
        accounts.append(site.ledger.address_of("jobs"))
        balances = [int(await site.ledger.read(Call("token", "balanceOf", (who,)))) for who in accounts]
        report = await Auditor(site, JOB_ID, key=sealing_key(self.seats[0])).run()
        self.problems += [f"audit: {found.check}: {found.problem}" for found in report.problems]
        model = await requester.collect(await cast.site("requester"), JOB_ID, sealing_key("requester"))
        rounds = [e for e in view.events_of(JOB_ID) if isinstance(e, ev.RoundAnchored)]
        return {
            "cohort_root": state.cohort_root.hex(),
            "round_roots": [anchor.root.hex() for anchor in rounds],
            "history": state.history.hex(),
            "models": [anchor.model_digest.hex() for anchor in rounds] + [state.model_digest.hex()],
            "accepted": [anchor.count for anchor in rounds],
            "payout_root": state.payout_root.hex(),
            "paid": [state.total, state.paid, state.fees_paid, state.refunded, state.faulty_seats],
            "balances": balances,
            "collected_bytes": len(model),
        }

    def _check_spoken_once(self, cast: Cast) -> None:
        """Nobody may have said two different things where one is for good."""
        for name, watched in cast.watched.items():
            for topic, digests in watched.put_under.items():
                if topic.endswith(SPOKEN_ONCE) and len(digests) > 1:
                    self.problems.append(f"{name} said {len(digests)} things under {topic}")


async def deeper_than_final(play: Play, turn: int, extra: int) -> tuple[int, int, list[str]]:
    """Take back blocks that are final to every node; how many halted, in the run and after a restart.

    What must not happen is told in the list: a node that goes on, or one that signs anything afterwards. A
    node that is started again refuses where a block has gone whose events it had acted on.
    """
    problems: list[str] = []
    halted = [0, 0]

    async def then(cast: Cast) -> None:
        cast.storm.is_on = False
        for name, node in cast.nodes.items():
            try:
                await node.turn()
            except GalaxyError as error:
                problems.append(f"{name} before: {error}")
        finals = {name: node._view.final_block.number for name, node in cast.nodes.items()}
        lowest = min(finals.values())
        height = await play.chain.height()
        depth = min(height - lowest + 1 + extra, height - cast.storm.floor)
        if height - depth >= lowest:
            problems.append("the play is too short to take back what is final")
            return
        await play.chain.reorganise(depth)
        for attempt in (0, 1):
            for name in cast.nodes:
                before = cast.signers[name].count
                acted_on = [int(one.rsplit("/", 1)[1]) for one in cast.journals[name].steps("chain/final/")]
                must_halt = attempt == 0 or max(acted_on, default=0) > height - depth
                try:
                    if attempt == 1:
                        await cast.enter(name)
                    for _ in range(3):
                        await cast.nodes[name].turn()
                        await play.chain.mine(1)
                except FinalityBroken:
                    halted[attempt] += 1
                except GalaxyError as error:
                    problems.append(f"{name}: {error}")
                else:
                    if must_halt:
                        problems.append(f"{name} went on")
                if must_halt and cast.signers[name].count != before:
                    problems.append(f"{name} signed something after the halt")

    await play.run_until(turn, then)
    return halted[0], halted[1], problems
