"""The evaluator: one of K staked members who open, federate, score, attest, and release the model.

Driven by the state on chain: each turn does what is due now, so a restart goes on where the last one stopped.
Irreversible choices (a score table and its salt) are journalled before they are committed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from galaxylearning.contribution import FixedPointUtility
from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.crypto.seal import SealingKey, seal
from galaxylearning.errors import ConfigRefused, GalaxyError, QuorumMissing
from galaxylearning.messages import typed
from galaxylearning.messages.records import (
    MAX_TABLE_BYTES,
    SEALING_KEY_BYTES,
    CohortList,
    ModelRelease,
    RoundList,
    ScoreTable,
    SignedCohortAnchor,
    SignedRoundAnchor,
    SignedSettlement,
    decode,
    encode,
)
from galaxylearning.messages.terms import Terms, loss_unit
from galaxylearning.nodes import assembly
from galaxylearning.nodes.ballots import Ballots
from galaxylearning.nodes.board import Board
from galaxylearning.nodes.chain_view import ChainView, ChainWatch
from galaxylearning.nodes.member import Member
from galaxylearning.nodes.openings import Openings
from galaxylearning.nodes.parcels import Parcels
from galaxylearning.nodes.relayer import show_evidence
from galaxylearning.nodes.round_watch import RoundWatch
from galaxylearning.nodes.seating import ANY_SEAT, Seating
from galaxylearning.nodes.site import Docket, Progress, Site, is_fatal, keep_going
from galaxylearning.nodes.stake import read_stake
from galaxylearning.nodes.tables import faulty_seats, payouts_of, revealed_tables
from galaxylearning.nodes.update_keys import UpdateKeys
from galaxylearning.ports import Call
from galaxylearning.protocol import calls, scoring
from galaxylearning.protocol import events as ev
from galaxylearning.protocol.cohort import AcceptedUpdates, Cohort
from galaxylearning.protocol.machine import JobState, Phase, due
from galaxylearning.protocol.outcomes import RoundOutcome
from galaxylearning.protocol.rounds import JobComputation
from galaxylearning.secagg.plan import MaskingPlan
from galaxylearning.units import Digest, in_tokens

SALT_BYTES = 32
STAGGER_S = 2.0
"""Whoever's turn it is acts at once; the next in line after this many seconds, and so on."""


class EvaluatorNode:
    """Serves every job that names this account, until ``jobs`` (where given) are finished."""

    def __init__(
        self,
        site: Site,
        sealing_key: SealingKey,
        *,
        jobs: Sequence[int] | None = None,
        stagger_s: float = STAGGER_S,
        seating: Seating = ANY_SEAT,
    ) -> None:
        """``seating`` is what this evaluator wants of a job before it locks stake for it."""
        self.site, self.sealing_key, self.stagger_s, self.seating = site, sealing_key, stagger_s, seating
        self._view = ChainView(site.ledger, site.blobs, site.journal, site.drand)
        self._watch = ChainWatch(site)
        self._serving: dict[int, SeatedJob] = {}
        self._docket = Docket(site, jobs, serve=self._serve, give_up=self._give_up, finish=self._finish)

    async def run(self) -> None:
        """Serve; returns once all of ``jobs`` are finished, never without them."""
        await keep_going(self.site, self.turn)

    async def turn(self) -> bool:
        """One look around; whether everything asked for is finished."""
        await self._view.refresh()
        self._watch.tell(self._view, self._docket.only)
        self._view.require_agreement()
        return await self._docket.turn(self._view.job_ids)

    async def _serve(self, job_id: int) -> bool:
        state = await self._view.state(job_id)
        if self.site.address not in state.evaluators:
            return True
        if job_id not in self._serving:
            terms = await self._view.terms(job_id)
            self._serving[job_id] = self.seat(job_id, terms)
        return await self._serving[job_id].turn(state)

    def _give_up(self, job_id: int, error: GalaxyError) -> bool:
        """Whether nothing is left to do in a job that fails; one with a seat in it may have to stand by."""
        self.site.report(Progress(job_id, "evaluator", "given up", {"error": str(error)}))
        seated = self._serving.get(job_id)
        if seated is None or seated.is_given_up:
            return True
        seated.is_given_up = True
        return False

    def _finish(self, job_id: int) -> None:
        """Keep no more of a job than that it is over: a node lives for many of them."""
        self._serving.pop(job_id, None)
        self._view.forget(job_id)

    def seat(self, job_id: int, terms: Terms) -> SeatedJob:
        """The work on one job."""
        return SeatedJob(self, self._view, job_id, terms)


class SeatedJob:
    """One evaluator's work on one job."""

    def __init__(self, node: EvaluatorNode, view: ChainView, job_id: int, terms: Terms) -> None:
        self.site, self.key, self.view = node.site, node.sealing_key, view
        self.job_id, self.terms, self.stagger_s = job_id, terms, node.stagger_s
        self._seating = node.seating
        self.board = Board(node.site, job_id)
        self._head: JobState
        self._computation: JobComputation | None = None
        self._cohort: Cohort | None = None
        self._openings: Openings | None = None
        self._watch = RoundWatch(node.site, self.board, terms, job_id, self._report)
        self._accepted: dict[int, AcceptedUpdates] = {}
        self._since: dict[str, float] = {}
        self._ballots = Ballots(node.site, self.board)
        self._keys = UpdateKeys(node.site, self.board, terms, job_id, self.key)
        self._parcels = Parcels(node.site, self.board, terms, job_id, self.key, self._ballots)
        self.is_given_up = False
        """Nothing is done for this job any more but to say that we are there, which keeps our stake."""

    async def turn(self, state: JobState) -> bool:
        """Do what is due; whether nothing more will be.

        ``state`` is final: whatever is signed, posted, opened or revealed follows from it. The head says
        which transactions are under way, so that they are not sent again.
        """
        self._head = await self.view.head_state(self.job_id)
        is_expired = self._is_expired(state) and self._is_expired(self._head)
        if is_expired and self._my_turn(state, "expire"):
            await self.site.submit_if_first(calls.expire(self.job_id))
            return False
        if self.is_given_up:
            return await self._is_excused(state)
        match state.phase:
            case Phase.ENROLLING:
                await self._enrolling(state)
            case Phase.TRAINING:
                await self._training(state)
            case Phase.COMMITTING:
                await self._committing(state)
            case Phase.REVEALING:
                await self._revealing(state)
            case Phase.SETTLED:
                return await self._settled(state)
            case _:
                return True
        return False

    def _is_expired(self, state: JobState) -> bool:
        return state.expires_at is not None and self.view.now >= state.expires_at

    # ---- enrolling

    async def _enrolling(self, state: JobState) -> None:
        if self.site.address not in state.seats:
            if self.site.address not in self._head.seats:
                if self._computation is None:
                    self._computation = await self._seating.look(
                        self.site, self.terms, self.job_id, self.key, stagger_s=self.stagger_s
                    )
                if await self._has_stake():
                    await self.site.submit_if_first(calls.take_seat(self.job_id))
            return
        cohort = await assembly.current_cohort(self.site, self.board, self.view, self.terms, state)
        if not _is_due(state, self.view.now, "anchorCohort", cohort.size):
            return
        is_closed = state.deadline is not None and self.view.now >= state.deadline
        if not is_closed and not state.seats.issuperset(state.evaluators):
            return  # A full cohort waits for the seats to be final: else one that is rolled back is lost.
        if len(state.seats) < state.fewest_seats:
            return  # Nobody has trained yet: better no job than one that half of its judges can spoil.
        anchor = typed.CohortAnchor(self.job_id, cohort.root, cohort.size, state.direct_head)
        await self._ballots.post_once(
            "cohort", CohortList(job_id=self.job_id, enrolments=cohort.relayed, direct=cohort.direct)
        )
        votes = await self._ballots.vote("cohort/votes", SignedCohortAnchor, anchor, state)
        is_open = self._head.phase is Phase.ENROLLING
        if len(votes) >= state.quorum and is_open and self._my_turn(state, "cohort"):
            await self.site.submit_if_first(calls.anchor_cohort(anchor, votes))

    async def _has_stake(self) -> bool:
        """Whether a seat can be paid for now; that it cannot is told once, for stake may come free."""
        free = (await read_stake(self.site.ledger, self.site.address)).free
        needed = int(self.terms.price.seat_stake)
        if free < needed and "stake" not in self._since:
            self._since["stake"] = self.site.clock.monotonic_s()
            detail = f"{in_tokens(free)} tokens of stake are free, a seat takes {in_tokens(needed)}"
            self._report("no seat taken", {"detail": detail})
        return free >= needed

    # ---- training

    async def _training(self, state: JobState) -> None:
        if self.site.address not in state.seats:
            return  # Too late to take it: nothing that is said without a seat counts.
        computed = await self._up_to_date(state)
        if computed is None:
            return
        job, cohort = computed
        model = job.model_digest()
        await self._parcels.open_round(state, job, cohort, model, is_our_turn=self._my_turn)
        accepted = await assembly.current_updates(
            self.site, self.board, self.view, self.terms, state, cohort, model
        )
        if job.masking is None:
            closed = await self._keys.closed(job, state.round_index, accepted.updates)
            if closed:
                accepted = await assembly.current_updates(
                    self.site, self.board, self.view, self.terms, state, cohort, model, closed
                )
        if accepted.count < cohort.size:
            await self._parcels.open_again(state, job, cohort, accepted, is_our_turn=self._my_turn)
        # Before the round is voted for: a bond goes back only after more votes and their transactions.
        pay = self.site.submit_if_first
        await show_evidence(self.site, self.board, self.view, self._head, state.round_index, pay)
        if not await self._watch.may_close(state, job.outcomes, cohort, accepted, now=self.view.now):
            if self.site.pace.is_quiet:
                await self.site.aside(job.prepare)
            return
        name = f"round/{state.round_index}"
        if job.masking is None:
            opened = [Digest(one.update.update_digest) for one in accepted.updates]
            await self._keys.show(state.round_index, opened, self._ballots)
        anchor = typed.RoundAnchor(
            self.job_id, state.round_index, accepted.root, accepted.count, state.direct_head, model
        )
        await self._ballots.post_once(
            f"{name}/lists",
            RoundList(
                job_id=self.job_id,
                round_index=state.round_index,
                updates=accepted.relayed,
                direct=accepted.direct,
            ),
        )
        votes = await self._ballots.vote(f"{name}/votes", SignedRoundAnchor, anchor, state)
        is_open = self._head.round_index == state.round_index
        if len(votes) >= state.quorum and is_open and self._my_turn(state, name):
            receipt = await self.site.submit_if_first(calls.anchor_round(anchor, votes))
            if receipt is not None:
                facts = {"round_index": state.round_index, "updates": accepted.count, "gas": receipt.gas_used}
                self._report("round anchored", facts)

    async def _up_to_date(self, state: JobState) -> tuple[JobComputation, Cohort] | None:
        """The computation, advanced through every round that was anchored; None while answers are awaited."""
        if self._cohort is None:
            self._cohort = await assembly.anchored_cohort(self.site, self.board, self.view, self.terms, state)
        if self._computation is None:
            self._computation = await assembly.open_job(self.site, self.terms, self.job_id, self.key)
        job, cohort = self._computation, self._cohort
        for anchor in self.view.anchors_of(self.job_id)[job.round_index :]:
            # Its answers may be awaited turn after turn; what was anchored is looked up once.
            if anchor.round_index not in self._accepted:
                self._accepted[anchor.round_index] = await assembly.anchored_updates(
                    self.site, self.board, self.view, self.terms, anchor, cohort
                )
            accepted = self._accepted[anchor.round_index]
            outcome = await self._advanced(anchor, accepted, job, cohort, state)
            if outcome is None:
                return None
            del self._accepted[anchor.round_index]
            measured = outcome.measured_after
            utility = FixedPointUtility().to_loss(measured.utility) / self.terms.paying_rows
            facts = {
                "round_index": outcome.round_index,
                "utility": f"{utility:.4f} {loss_unit(self.terms.loss)} per sample",
                "correct": measured.correct,
                "rows": self.terms.test_rows,
                "accepted": sum(1 for decision in outcome.decisions if decision.status == "accepted"),
            }
            self._report("round federated", facts)
        is_over = state.phase is not Phase.TRAINING
        if is_over and self._openings is not None and not await self._openings.take_twins(state):
            return None
        return job, cohort

    async def _advanced(
        self,
        anchor: ev.RoundAnchored,
        accepted: AcceptedUpdates,
        job: JobComputation,
        cohort: Cohort,
        state: JobState,
    ) -> RoundOutcome | None:
        beacon = await self.view.beacon(self.job_id, anchor.round_index)
        if job.masking is None:
            bodies = await assembly.open_bodies(self._keys, job, cohort, accepted)
            return job.advance(bodies, beacon=beacon)
        if self._openings is None:
            member = self.member(job.masking)
            self._openings = Openings(self.site, self.board, self.view, self.terms, job, self.key, member)
        return await self._openings.follow(anchor, accepted, cohort, state)

    def member(self, plan: MaskingPlan) -> Member:
        """Our part in opening a masked job."""
        return Member(
            self.site, self.board, self.terms, self.job_id, self.key, plan, stagger_s=self.stagger_s
        )

    async def _computed(self, state: JobState) -> tuple[JobComputation, Cohort]:
        found = await self._up_to_date(state)
        if found is None:
            raise QuorumMissing("answers of the committee are awaited", where=f"job {self.job_id}")
        return found

    # ---- scoring

    async def score_table(self, state: JobState) -> ScoreTable:
        """This evaluator's scores of the whole job.

        Raises:
            QuorumMissing: answers that they follow from are still awaited.
        """
        job, cohort = await self._computed(state)
        member = None if self._openings is None else self._openings.member
        return scoring.score_table(job, cohort.data_owners, () if member is None else member.shown)

    async def _committing(self, state: JobState) -> None:
        me = self.site.address
        if me not in state.seats or me in state.committed or me in self._head.committed:
            return
        try:
            if await self._up_to_date(state) is None:
                await self._stand_by(state)
                return
            table, salt = await self._journalled_table(state)
        except GalaxyError as error:
            if not is_fatal(error):
                await self._stand_by(state)
            raise
        commitment = typed.score_commitment(
            chain_id=self.site.ledger.chain_id,
            contract=self.site.ledger.address_of("jobs"),
            job_id=self.job_id,
            evaluator=self.site.address,
            scores_digest=blake3_digest(table),
            salt=salt,
        )
        await self.site.submit_if_first(calls.commit_scores(self.job_id, commitment))

    async def _is_excused(self, state: JobState) -> bool:
        """Stand by in a job that was given up, once it is time; whether no more can be lost by it."""
        is_bound = self.site.address in (state.seats | self._head.seats) - state.committed
        if is_bound and state.phase is Phase.COMMITTING:
            await self._stand_by(state)
        return not is_bound or state.phase not in (Phase.ENROLLING, Phase.TRAINING, Phase.COMMITTING)

    async def _stand_by(self, state: JobState) -> None:
        """Half of the window is over and we cannot score yet: say that it is not for our absence."""
        is_late = self.view.now >= state.phase_start + self.terms.windows.commit_s // 2
        if is_late and self.site.address not in state.standing_by | self._head.standing_by:
            await self.site.submit_if_first(calls.stand_by(self.job_id))

    async def _journalled_table(self, state: JobState) -> tuple[bytes, bytes]:
        step = f"job/{self.job_id}/scores"
        kept = self.site.journal.lookup(step)
        if kept is None:
            table = encode(await self.score_table(state))
            kept = self.site.journal.record(step, self.site.entropy(SALT_BYTES) + table)
        return kept[SALT_BYTES:], kept[:SALT_BYTES]

    async def _revealing(self, state: JobState) -> None:
        revealed = dict(state.revealed)
        me = self.site.address
        if me in state.committed and me not in revealed:
            if me in dict(self._head.revealed):
                return
            table, salt = await self._journalled_table(state)
            await self.board.put("scores", table)
            await self.site.submit_if_first(calls.reveal_scores(self.job_id, blake3_digest(table), salt))
            return
        if not _is_due(state, self.view.now, "settle", 0) or me not in revealed:
            return
        settlement = await self._settlement(state)
        votes = await self._ballots.vote("settlement/votes", SignedSettlement, settlement, state)
        is_open = self._head.phase is Phase.REVEALING
        if len(votes) >= state.quorum and is_open and self._my_turn(state, "settle"):
            await self.site.submit_if_first(calls.settle(settlement, votes))

    async def _settlement(self, state: JobState) -> typed.Settlement:
        """The settlement that follows from the revealed tables."""
        _, cohort = await self._computed(state)
        own = decode((await self._journalled_table(state))[0], ScoreTable, max_bytes=MAX_TABLE_BYTES)
        # A table that is late is no lie. Only when half of the settle window is over it is done without.
        patience = self.terms.windows.reveal_s + self.terms.windows.settle_s // 2
        is_waiting = self.view.now < state.phase_start + patience
        owners = cohort.data_owners
        tables = await revealed_tables(self.site, self.terms, state, owners, is_waiting=is_waiting)
        liars = await self._openings.liars(tables) if self._openings is not None else ()
        faulty = faulty_seats(state, tables, own, liars)
        tree, table = payouts_of(self.site, self.terms, state, tables)
        await self._ballots.post_once("payouts", table)
        model = Digest(own.final_model_digest)
        return typed.Settlement(self.job_id, Digest(tree.root), tree.total, len(tree.rows), model, faulty)

    # ---- settled

    async def _settled(self, state: JobState) -> bool:
        """Release the trained model to the requester.

        Every seat does: only the requester can tell a true release from a false one on the board.
        """
        if self.site.address not in state.seats:
            return True
        job, _ = await self._computed(state)
        if job.model_digest() != state.model_digest:
            return True
        key = await self.site.blobs.get(
            Digest(bytes.fromhex(self.terms.requester_key)), max_bytes=SEALING_KEY_BYTES
        )
        context = assembly.round_context(self.site, self.job_id, 0, "release", self.site.address)
        step = f"job/{self.job_id}/release"
        sealed = self.site.journal.lookup(step) or self.site.journal.record(
            step, seal(job.model_bytes(), [key], context, entropy=self.site.entropy)
        )
        await self.board.post(
            "release",
            ModelRelease(
                job_id=self.job_id,
                model_digest=state.model_digest,
                sealed=await self.board.put("release/models", sealed),
                evaluator=self.site.address,
            ),
        )
        self._report("model released", {})
        return True

    # ---- turns

    def _my_turn(self, state: JobState, what: str) -> bool:
        """Whether we are first in line for ``what``, or those before us have had their time.

        The line starts at another seat in every round, so the work goes round.
        """
        now = self.site.clock.monotonic_s()
        since = self._since.setdefault(what, now)
        seats = len(state.evaluators)
        place = (state.evaluators.index(self.site.address) - state.round_index) % seats
        return now - since >= place * self.stagger_s

    def _report(self, step: str, facts: dict[str, Any]) -> None:
        self.site.report(Progress(self.job_id, f"evaluator {self.site.address}", step, facts))


def _is_due(state: JobState, now: int, function: str, candidates: int) -> bool:
    return any(command.function == function for command in due(state, now, candidates=candidates))


async def register(site: Site, sealing_key: SealingKey, stake: int, *, is_serving: bool = False) -> None:
    """Register this account as an evaluator and stake ``stake`` smallest units, where not done before.

    With ``is_serving`` one that is registered and cannot pay goes on with less: it may have seats to keep.

    Raises:
        ConfigRefused: the account does not own what is missing of the stake.
    """
    await site.blobs.put(sealing_key.public, topic=f"keys/{site.address.lower()}")
    known = await site.ledger.read(Call("registry", "evaluator", (site.address,)))
    is_known = bytes(known["sealingKeyDigest"]) == sealing_key.digest
    missing = stake - (int(known["staked"]) - int(known["withdrawing"]))
    try:
        await site.require_tokens(max(0, missing), "stake", "the tokens still to be staked")
    except ConfigRefused as refused:
        if not (is_serving and is_known):
            raise
        told = {"detail": str(refused)}
        site.report(Progress(0, f"evaluator {site.address}", "stake not raised", told))
        return
    if not is_known:
        await site.submit(calls.register_evaluator(sealing_key.digest), "registry")
    if missing > 0:
        await site.submit_spending(missing, calls.deposit_stake(missing), "registry")
