"""What must hold of every job once it is over, as a passer-by sees it whom no faults happen to."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil

from benchmarks.soak import cast
from benchmarks.soak.town import STAKE, Town, sealing_key, signer

from galaxylearning.errors import GalaxyError
from galaxylearning.messages.records import MAX_TABLE_BYTES, ScoreTable, decode
from galaxylearning.nodes import requester
from galaxylearning.nodes.auditor import Auditor
from galaxylearning.nodes.chain_view import ChainView
from galaxylearning.ports import Call
from galaxylearning.protocol import events as ev
from galaxylearning.protocol.machine import JobState, Phase

AUDITED_WITH_A_KEY_EVERY = 10
MOST_UNPAID = 0.01
"""Of honest data owners in a job: its gate judges by chance too, and leaves out who has a weight like nobody
else's (ADR 0018). Of two rounds both may go against one."""
MOST_PAID_TWICE = 0.02
"""Of those that sent two updates: faults may keep one of them from a quorum until the round is anchored."""
MOST_PAID_FOR_NOTHING = 0.05
"""Of what honest data owners are paid on average over all jobs: so much may be earned by chance."""


@dataclass
class Count:
    """How often something was looked at, and what did not hold, in words."""

    count: int = 0
    found: list[str] = field(default_factory=list)
    most: float = 0.0
    """So large a share of the looks may not hold."""

    def check(self, holds: bool, what: str) -> None:
        """Count one look."""
        self.count += 1
        if not holds:
            self.found.append(what)

    @property
    def allowed(self) -> int:
        """So many looks may not hold."""
        return ceil(self.most * self.count)

    @property
    def problems(self) -> list[str]:
        """What did not hold, where that is too much."""
        return self.found if len(self.found) > self.allowed else []


SETTLED = "jobs settled"
MONEY = "payouts + fees + refund = escrow, to the smallest unit"
PAID = "honest data owners paid in a job"
UNPAID = "data owners whose updates are none, paid nothing in a job"
UNPAID_TWICE = "data owners that sent two updates, paid nothing in a job"
FOR_NOTHING = "misbehaving data owners paid as good as nothing over all jobs"
FAULTY = "liars named faulty, and nobody else"
STAKES = "honest evaluators that keep their stake"
COLLECTED = "models collected by the requester"
AUDITED = "audits ok"
AUDITED_FULLY = "audits with an evaluator's key ok"
GIVEN_UP = "jobs that no node gave up"
CHECKS = (
    SETTLED,
    MONEY,
    PAID,
    UNPAID,
    UNPAID_TWICE,
    FOR_NOTHING,
    FAULTY,
    STAKES,
    COLLECTED,
    AUDITED,
    AUDITED_FULLY,
    GIVEN_UP,
)


class Judge:
    """Looks at one job after the other; keeps counts, and nothing of a job."""

    def __init__(self, town: Town) -> None:
        self.town, self.site = town, town.passer_by()
        self.view = ChainView(town.ledger, town.blobs)
        self.counts = {row: Count() for row in CHECKS}
        self.counts[PAID].most, self.counts[UNPAID_TWICE].most = MOST_UNPAID, MOST_PAID_TWICE
        self.paid = dict.fromkeys(cast.OWNERS, 0)
        """Of each data owner over all jobs, in smallest units."""

    async def state(self, job_id: int) -> JobState:
        """Where a job stands."""
        await self.view.refresh()
        return await self.view.state(job_id)

    @staticmethod
    def is_over(state: JobState) -> bool:
        """Whether a job has ended and everybody has what it is owed."""
        spent = state.paid + state.fees_paid + state.refunded
        return state.phase in (Phase.SETTLED, Phase.ABORTED) and spent == state.escrow

    async def take(self, job_id: int) -> list[str]:
        """Look at a job that is over, or should be; what does not hold."""
        before = {row: len(count.found) for row, count in self.counts.items()}
        state = await self.state(job_id)
        self._check(SETTLED, state.phase is Phase.SETTLED, f"job {job_id} is {state.phase.name.lower()}")
        spent = state.paid + state.fees_paid + state.refunded
        self._check(MONEY, spent == state.escrow, f"job {job_id}: {spent} of {state.escrow} left the escrow")
        await self._payments(job_id, state)
        self._faulty(job_id, state)
        await self._stakes(job_id)
        await self._collected(job_id)
        await self._audited(job_id)
        given_up, self.town.given_up = self.town.given_up, []
        self._check(GIVEN_UP, not given_up, f"job {job_id}: {'; '.join(given_up)[:500]}")
        self.view.forget(job_id)
        return [what for row, count in self.counts.items() for what in count.found[before[row] :]]

    def sum_up(self) -> None:
        """Look at all jobs together, once they are over."""
        average = sum(self.paid[name] for name in cast.HONEST_OWNERS) / len(cast.HONEST_OWNERS)
        for name in cast.MISBEHAVING_OWNERS:
            share = self.paid[name] / max(1.0, average)
            self._check(
                FOR_NOTHING, share <= MOST_PAID_FOR_NOTHING, f"{name} was paid {share:.4f} of the average"
            )

    def _check(self, row: str, holds: bool, what: str) -> None:
        self.counts[row].check(holds, what)

    async def _payments(self, job_id: int, state: JobState) -> None:
        paid = {e.account: e.amount for e in self.view.events_of(job_id) if isinstance(e, ev.Paid)}
        for name in cast.OWNERS:
            amount = paid.get(signer(name).address, 0)
            self.paid[name] += amount
            if name in cast.HONEST_OWNERS:
                why = await self._why(name, state) if not amount else ""
                self._check(PAID, amount > 0, f"job {job_id}: {name} was paid nothing: {why}")
            elif name in (cast.SPOILER, cast.TWO_FACED):
                row = UNPAID if name == cast.SPOILER else UNPAID_TWICE
                self._check(row, amount == 0, f"job {job_id}: {name} was paid {amount}")

    async def _why(self, name: str, state: JobState) -> str:
        """What an honest evaluator's scores say of a data owner in each round."""
        revealed = dict(state.revealed)
        for seat in (signer(evaluator).address for evaluator in cast.HONEST_EVALUATORS):
            if seat in revealed:
                data = await self.town.blobs.get(revealed[seat], max_bytes=MAX_TABLE_BYTES)
                table = decode(data, ScoreTable, max_bytes=MAX_TABLE_BYTES)
                own = [
                    score
                    for scores in table.rounds
                    for score in scores.owners
                    if score.data_owner == signer(name).address
                ]
                return "; ".join(f"{score.status} {score.reason} {score.value}" for score in own)
        return "no scores"

    def _faulty(self, job_id: int, state: JobState) -> None:
        names = {signer(name).address: name for name in cast.EVALUATORS}
        found = {names[who] for place, who in enumerate(state.evaluators) if state.faulty_seats >> place & 1}
        self._check(FAULTY, found == {cast.LIAR}, f"job {job_id}: {sorted(found)} were named faulty")

    async def _stakes(self, job_id: int) -> None:
        for name in cast.HONEST_EVALUATORS:
            known = await self.town.ledger.read(Call("registry", "evaluator", (signer(name).address,)))
            staked = int(known["staked"])
            self._check(STAKES, staked == STAKE, f"job {job_id}: {name} has a stake of {staked} of {STAKE}")

    async def _collected(self, job_id: int) -> None:
        try:
            await requester.collect(self.site, job_id, sealing_key("requester"))
        except GalaxyError as error:
            self._check(COLLECTED, False, f"job {job_id}: {error}")
        else:
            self._check(COLLECTED, True, "")

    async def _audited(self, job_id: int) -> None:
        report = await Auditor(self.site, job_id).run()
        self._check(AUDITED, report.verdict == "ok", f"job {job_id}: {report.problems}")
        if job_id % AUDITED_WITH_A_KEY_EVERY == 0:
            key = sealing_key(cast.HONEST_EVALUATORS[0])
            report = await Auditor(self.site, job_id, key=key).run()
            self._check(
                AUDITED_FULLY, report.is_full and report.verdict == "ok", f"job {job_id}: {report.problems}"
            )
