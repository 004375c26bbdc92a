"""The auditor: recomputes a job from the chain's log and the blobs, and says what does not hold.

Anybody can check signatures, roots, tables against themselves and the anchors, medians, payouts and money.
With the sealing key of one evaluator the sealed updates and the hidden test set open too, and every model and
score is computed again; what a masked job's committee opened is held against that evaluator's shares.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from galaxylearning.crypto.seal import SealingKey, is_sealed_to, sealed_bytes
from galaxylearning.errors import AuditFailed, BlobMissing, BlobRefused, GalaxyError
from galaxylearning.graph import weights_size
from galaxylearning.messages.records import (
    MAX_LIST_BYTES,
    ModelRelease,
    ScoreTable,
    SignedOpening,
    encode,
)
from galaxylearning.messages.terms import Terms
from galaxylearning.nodes import assembly
from galaxylearning.nodes.board import Board
from galaxylearning.nodes.chain_view import ChainView
from galaxylearning.nodes.dealt import DealtShares, Witness
from galaxylearning.nodes.openings import Openings
from galaxylearning.nodes.posting import require_posted
from galaxylearning.nodes.settled import anchored_rounds, settled_tables
from galaxylearning.nodes.site import Site
from galaxylearning.nodes.tables import (
    RevealedTables,
    faulty_seats,
    published_tree,
    revealed_tables,
)
from galaxylearning.nodes.update_keys import UpdateKeys
from galaxylearning.protocol import events as ev
from galaxylearning.protocol import scoring
from galaxylearning.protocol.cohort import AcceptedUpdates, Cohort
from galaxylearning.protocol.consistency import contradiction, difference, fees_of
from galaxylearning.protocol.machine import JobState, Phase
from galaxylearning.protocol.quorum import mass_share
from galaxylearning.protocol.rounds import NO_SUM, JobComputation
from galaxylearning.protocol.settlement import PayoutTree
from galaxylearning.units import Address, Digest, how_many, in_tokens, round_name

REVEALED: Final = "scores revealed"
CONSISTENT: Final = "scores consistent"
RECOMPUTED: Final = "scores recomputed"
"""Checks of score tables: against the commitments; each against itself and the anchors; against our own."""
_SEALED: Final = {
    "models": "each round's model and decisions, from its updates",
    RECOMPUTED: "what every update was worth, and who is owed a fee",
    "own shares": "what was opened of masked updates, against the shares of the key's evaluator",
}
"""What takes an evaluator's key to check, by name."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was checked: ``problem`` is None where it holds, or where it ``is_skipped``."""

    check: str
    detail: str
    problem: str | None = None
    is_skipped: bool = False


@dataclass(frozen=True, slots=True)
class AuditReport:
    """All findings. ``is_full``: sealed data were opened and everything was computed again."""

    job_id: int
    is_full: bool
    findings: tuple[Finding, ...]

    @property
    def problems(self) -> tuple[Finding, ...]:
        """What does not hold."""
        return tuple(finding for finding in self.findings if finding.problem is not None)

    @property
    def verdict(self) -> str:
        """``ok`` or ``failed``."""
        return "failed" if self.problems else "ok"


class Auditor:
    """One audit of one job."""

    def __init__(self, site: Site, job_id: int, *, key: SealingKey | None = None) -> None:
        self.site, self.job_id, self.key = site, job_id, key
        self.board = Board(site, job_id)
        self.view = ChainView(site.ledger, site.blobs, drand=site.drand, only=job_id)
        self.computation: JobComputation | None = None
        self.cohort: Cohort | None = None
        self.openings: Openings | None = None
        self._witness: Witness | None = None
        self._senders: dict[int, Collection[Address]] = {}
        """By round: whose updates were anchored."""
        self._findings: list[Finding] = []

    async def run(self) -> AuditReport:
        """Check everything that can be; a failed check does not hide the ones after it."""
        await self.view.refresh()
        try:
            terms = await self.view.terms(self.job_id)
            state = await self.view.state(self.job_id)
        except GalaxyError as error:
            self._problem("job", "terms and chain log", error)
            return self._report()
        self._holds(
            "chain log",
            f"{how_many(len(self.view.events_of(self.job_id)), 'event')}, as the state table allows",
        )
        if self.view.hold is not None:
            self._findings.append(Finding("chain log", "endpoints", self.view.hold))
        await self._posting(terms)
        await self._cohort_and_rounds(terms, state)
        if self._witness is not None:
            self._own_shares(self._witness)
        if state.phase is Phase.SETTLED and self.cohort is not None:
            await self._settlement(terms, state, self.cohort)
        await self._release(terms, state)
        self._money(state)
        await self._bonds(state)
        return self._report()

    @property
    def has_problems(self) -> bool:
        """Whether something did not hold already."""
        return any(finding.problem is not None for finding in self._findings)

    def _report(self) -> AuditReport:
        return AuditReport(self.job_id, self.computation is not None, tuple(self._findings))

    # ---- what was posted

    async def _posting(self, terms: Terms) -> None:
        try:
            await require_posted(self.site.ledger, terms, self.job_id)
        except GalaxyError as error:
            self._problem("posting", "windows, stake, token and evaluators", error)
            return
        self._holds("posting", "windows, stake, token and evaluators on chain are those of the terms")

    # ---- cohort, rounds, models

    async def _cohort_and_rounds(self, terms: Terms, state: JobState) -> None:
        if state.cohort_size == 0:
            self._holds("cohort", "none was anchored")
            return
        try:
            self.cohort = await assembly.anchored_cohort(self.site, self.board, self.view, terms, state)
        except GalaxyError as error:
            self._problem("cohort", "anchored root", error)
            return
        self._holds(
            "cohort",
            f"the anchored root is that of {how_many(self.cohort.size, 'enrolment')}, signed and admitted",
        )
        if self.key is None:
            self._skip(terms, "it takes an evaluator's key")
        elif self.key.digest.hex() not in {seat.sealing_key_digest for seat in terms.evaluators}:
            self._skip(terms, "the key is none of this job's evaluators'")
        else:
            try:
                self.computation = await assembly.open_job(self.site, terms, self.job_id, self.key)
                self.openings = self._openings(terms, self.computation, self.key)
            except GalaxyError as error:
                self._problem("sealed job", "initial model and test set", error)
        for anchor in self.view.anchors_of(self.job_id):
            await self._round(terms, state, anchor, self.cohort)
        if self.openings is not None and state.phase is Phase.SETTLED and not self.has_problems:
            await self._twins(self.openings, state)

    def _openings(self, terms: Terms, computation: JobComputation, key: SealingKey) -> Openings | None:
        """What follows a masked job's openings, and holds them against what the key's seat was dealt."""
        plan = computation.masking
        if plan is None:
            return None
        seat = [each.sealing_key_digest for each in terms.evaluators].index(key.digest.hex())
        self._witness = Witness(DealtShares(self.site, self.job_id, key, seat, plan))
        return Openings(self.site, self.board, self.view, terms, computation, key, witness=self._witness)

    async def _twins(self, openings: Openings, state: JobState) -> None:
        try:
            if not await openings.take_twins(state):
                raise AuditFailed("no quorum agreed on which answers were opened", where="answers")
        except GalaxyError as error:
            self._problem("twins", "projections", error)

    def _own_shares(self, witness: Witness) -> None:
        """What was opened, held against the shares of the seat whose key this is."""
        self._findings += [Finding("own shares", "answers", one) for one in witness.contradictions]
        for doubt in witness.doubts:
            self._holds("own shares", doubt)
        if not witness.contradictions and not witness.doubts:
            self._holds("own shares", "all that was opened follows from what this evaluator was dealt")

    async def _liars(self, openings: Openings, tables: RevealedTables) -> Collection[Address]:
        """Who lied about updates; whose fault wrong answers were is shown by a share, or by showing none."""
        try:
            verdicts, liars = await openings.verdicts(tables), await openings.liars(tables)
        except GalaxyError as error:
            self._problem("answers", "shown shares", error)
            return ()
        for verdict in verdicts:
            about = f"{verdict.where}: the answer of {verdict.evaluator} about {verdict.data_owner} was wrong"
            fault = "the data owner dealt it a share that does not belong to the others', or these lied"
            if verdict.fault == "member":
                fault = "it has shown no share from which that follows"
            self._holds("answers", f"{about}: {fault}")
        for who, where in openings.contradictory.items():
            self._holds("answers", f"{where}: the answer of {who} contradicts its own answer to the sum")
        return liars

    async def _round(self, terms: Terms, state: JobState, anchor: ev.RoundAnchored, cohort: Cohort) -> None:
        name = round_name(anchor.round_index)
        try:
            accepted = await assembly.anchored_updates(
                self.site, self.board, self.view, terms, anchor, cohort
            )
            self._senders[anchor.round_index] = accepted.by_data_owner.keys()
            late = await assembly.updates_left_out(
                self.site, self.board, self.view, terms, anchor, cohort, accepted
            )
            if late:
                self._holds(name, f"signed and posted, but late or not counted: {', '.join(late)}")
            votes = await self.board.votes(f"round/{anchor.round_index}/openings", SignedOpening, state.seats)
            signers = {
                who
                for group in votes.values()
                for who, opening in group.items()
                if opening.model_digest == anchor.model_digest
            }
            if len(signers) < state.quorum:
                self._findings.append(Finding(name, "openings", "no quorum opened this round's model"))
            if self.computation is None:
                self._holds(name, f"the anchored root is that of {how_many(accepted.count, 'signed update')}")
                return
            found = self.computation.model_digest()
            if found != anchor.model_digest:
                self._findings.append(
                    Finding(name, "model", f"computed {found.hex()}, anchored {anchor.model_digest.hex()}")
                )
            present = [one.update.data_owner for one in accepted.updates]
            share = mass_share(self.computation.outcomes, cohort.data_owners, present)
            if share < terms.plan.minimum_mass:
                few = f"{share:.0%} of the mass of earlier rounds; {terms.plan.minimum_mass:.0%} is agreed"
                self._findings.append(Finding(name, "quorum", few))
            done = await self._advanced(self.computation, anchor, accepted, cohort, state)
        except GalaxyError as error:
            self._problem(name, "updates", error)
            self.computation = self.openings = None  # Later rounds follow from this one.
            return
        if done is None:
            # Without answers there is no model to go on from; what was signed is checked all the same.
            self.computation = self.openings = None
            is_over = state.phase is Phase.ABORTED
            why = "the job was aborted before they were opened" if is_over else "they are still to be opened"
            self._holds(name, f"{how_many(accepted.count, 'signed update')}; {why}")
        else:
            self._holds(name, f"{how_many(accepted.count, 'update')} {done}: same model")

    async def _advanced(
        self,
        computation: JobComputation,
        anchor: ev.RoundAnchored,
        accepted: AcceptedUpdates,
        cohort: Cohort,
        state: JobState,
    ) -> str | None:
        """Compute a round again; how it was done, or None where an aborted job did not, or is still to."""
        if self.openings is None:
            beacon = await self.view.beacon(self.job_id, anchor.round_index)
            keys = UpdateKeys(self.site, self.board, computation.terms, self.job_id, self.key_of())
            bodies = await assembly.open_bodies(keys, computation, cohort, accepted)
            computation.advance(bodies, beacon=beacon)
            return "opened, gated and summed again"
        outcome = await self.openings.follow(anchor, accepted, cohort, state)
        if outcome is None:
            is_awaited = state.phase in (Phase.TRAINING, Phase.COMMITTING)
            if state.phase is Phase.ABORTED or (is_awaited and anchor.round_index + 1 == state.round_index):
                return None
            raise AuditFailed("no quorum agreed on which answers were opened", where="answers")
        if NO_SUM in outcome.reasons.values():
            return "gated again; their sum could not be opened, so none of them counts"
        if outcome.model_digest == anchor.model_digest:
            return "gated again; too few passed for a sum"
        return "gated, summed and valued again from the committee's answers, none of them seen"

    def key_of(self) -> SealingKey:
        """The evaluator's key this audit has."""
        if self.key is None:
            raise ValueError("this audit has no key")
        return self.key

    # ---- scores, payouts

    async def _settlement(self, terms: Terms, state: JobState, cohort: Cohort) -> None:
        tables = await revealed_tables(self.site, terms, state, cohort.data_owners)
        missing = [seat for seat, _ in state.revealed if seat not in tables and seat not in state.faulty]
        if missing or not tables:
            self._findings.append(
                Finding(REVEALED, "tables", f"missing or unusable: {', '.join(missing) or 'all'}")
            )
            return
        self._holds(REVEALED, f"{len(tables)} tables are the ones that were committed and revealed")
        anchored = anchored_rounds(self.view, state, self._senders)
        wrong = self._tables(CONSISTENT, state, tables, lambda table: contradiction(table, terms, anchored))
        if not wrong:
            self._holds(CONSISTENT, "totals follow from rounds, and rounds fit what was anchored")
        if self.computation is not None:
            await self._recomputed_scores(terms, state, tables, self.computation, cohort)
        try:
            chosen, tree = settled_tables(self.site, terms, state, tables)
            for seat in sorted(tables.keys() - chosen.keys()):
                self._holds("payouts", f"settled without the table of {seat}: it was late, or was left out")
            paid = in_tokens(tree.total)
            self._holds("payouts", f"medians and price give the settled root, {paid} tokens in all")
        except GalaxyError as error:
            self._problem("payouts", "root", error)
        try:
            self._payments(await published_tree(self.site, state))
        except GalaxyError as error:
            self._problem("payouts", "payout table", error)

    def _tables(
        self,
        check: str,
        state: JobState,
        tables: RevealedTables,
        fault: Callable[[ScoreTable], str | None],
    ) -> bool:
        """Find fault with the tables of seats that were not settled as faulty; whether there was any.

        What less than half of them say decides nothing that was settled: it is told, and no problem.
        """
        found = {seat: fault(table) for seat, (_, table) in tables.items() if seat not in state.faulty}
        wrong = {f"table of {seat}": said for seat, said in found.items() if said}
        for name, said in wrong.items():
            if 2 * len(wrong) < len(found):
                self._holds(check, f"{name}: {said}; the others' do not say so")
            else:
                self._findings.append(Finding(check, name, said))
        return bool(wrong)

    async def _recomputed_scores(
        self,
        terms: Terms,
        state: JobState,
        tables: RevealedTables,
        computation: JobComputation,
        cohort: Cohort,
    ) -> None:
        own = scoring.score_table(computation, cohort.data_owners)
        if own.final_model_digest != state.model_digest:
            self._findings.append(Finding("model", "final", "the settled model is not the one computed"))
        else:
            self._holds("model", f"the settled model is {state.model_digest.hex()[:16]}…")
        liars = await self._liars(self.openings, tables) if self.openings is not None else ()
        faulty = faulty_seats(state, tables, own, liars)
        for index, seat in enumerate(state.evaluators):
            if faulty >> index & 1 and seat not in state.faulty:
                self._findings.append(
                    Finding(RECOMPUTED, f"seat of {seat}", "is faulty, and was not settled as that")
                )
            elif seat in state.faulty and not faulty >> index & 1:
                what = "was settled as faulty, and is not: a lie, or its table was published too late"
                self._findings.append(Finding(RECOMPUTED, f"seat of {seat}", what))
        revealed = [table for _, table in tables.values()]
        if scoring.is_faulty(own, scoring.Consensus.of(revealed), own):
            # More than half of the seats agreed on it: the contract cannot know, whoever recomputes does.
            self._findings.append(
                Finding(RECOMPUTED, "medians", "what was settled is not what the updates were worth")
            )
        if fees_of(terms, revealed) != fees_of(terms, [own]):
            fees = "who took part, and is owed the fee for it, are others than those computed"
            self._findings.append(Finding(RECOMPUTED, "fees", fees))
        self._tables(RECOMPUTED, state, tables, lambda table: difference(table, own))
        # What an evaluator shows of the shares it was dealt stands in its own table only.
        same = sum(encode(msgspec.structs.replace(table, shown=())) == encode(own) for table in revealed)
        self._holds(RECOMPUTED, f"{same} of {len(tables)} tables are byte for byte the recomputed one")

    def _payments(self, tree: PayoutTree) -> None:
        rows = {row.index: row for row in tree.rows}
        for event in self.view.events_of(self.job_id):
            if isinstance(event, ev.Paid):
                row = rows.get(event.index)
                if row is None or (row.account, row.amount) != (event.account, event.amount):
                    self._findings.append(Finding("payments", f"leaf {event.index}", "not of this table"))
                    return
        self._holds("payments", "every payment is a leaf of the settled tree")

    async def _release(self, terms: Terms, state: JobState) -> None:
        if state.phase is not Phase.SETTLED:
            return
        try:
            is_released = await self._is_released(terms, state)
        except GalaxyError as error:
            self._problem("release", "model", error)
            return
        if is_released:
            self._holds("release", "a model was sealed to the requester, who alone can tell which it is")
        elif self.view.now < state.phase_start + terms.windows.settle_s:
            self._holds("release", "the trained model is still to be released")
        else:
            self._findings.append(Finding("release", "model", "the trained model was not released"))

    async def _is_released(self, terms: Terms, state: JobState) -> bool:
        """Whether an envelope for the requester's key lies where a record has the settled model."""
        limit = weights_size(await assembly.load_graph(self.site, terms))
        recipient = Digest(bytes.fromhex(terms.requester_key))
        released = await self.board.read("release", ModelRelease, max_bytes=MAX_LIST_BYTES)
        for record in released.values():
            if record.model_digest != state.model_digest:
                continue
            try:
                blob = await self.site.blobs.get(Digest(record.sealed), max_bytes=sealed_bytes(limit, 1))
            except (BlobMissing, BlobRefused):
                continue
            context = assembly.round_context(self.site, self.job_id, 0, "release", Address(record.evaluator))
            if is_sealed_to(blob, recipient, context, max_bytes=limit):
                return True
        return False

    # ---- money

    def _money(self, state: JobState) -> None:
        spent = state.paid + state.fees_paid + state.refunded
        escrow, left = in_tokens(state.escrow), in_tokens(max(0, state.escrow - spent))
        if spent > state.escrow or state.total > state.bounty:
            self._findings.append(
                Finding("money", "escrow", f"{in_tokens(spent)} tokens left an escrow of {escrow}")
            )
        elif state.phase in (Phase.SETTLED, Phase.ABORTED) and spent < state.escrow:
            self._holds("money", f"{left} of {escrow} tokens are still to be claimed")
        else:
            self._holds("money", f"escrow of {escrow} tokens = paid + fees + refunded, or still held")

    async def _bonds(self, state: JobState) -> None:
        """Whose bond was burned, and who could still lose one: each is proved by its own signatures."""
        if not state.bond_per_identity:
            return
        proved: set[Address] = set()
        for round_index in range(min(state.round_index + 1, state.rounds)):
            found = await assembly.round_equivocations(self.site, self.board, self.view, state, round_index)
            proved |= {each.update.data_owner for each in found}
        for who in sorted(state.forfeited):
            where = "on the board" if who in proved else "no longer on the board"
            self._holds("bonds", f"{who} lost its bond for two updates of a round ({where})")
        for who in sorted(proved & state.bonds):
            self._holds("bonds", f"{who} made two updates of a round: anybody may have its bond burned")
        held, burned, each = len(state.bonds), len(state.forfeited), in_tokens(state.bond_per_identity)
        self._holds("bonds", f"{held} of {each} tokens each held, {burned} burned")

    def _holds(self, check: str, detail: str) -> None:
        self._findings.append(Finding(check, detail))

    def _skip(self, terms: Terms, why: str) -> None:
        for check, detail in _SEALED.items():
            if check != "own shares" or terms.privacy == "masked":
                self._findings.append(Finding(check, f"{detail}: {why}", is_skipped=True))

    def _problem(self, check: str, detail: str, error: GalaxyError) -> None:
        self._findings.append(Finding(check, detail, str(error)))


def with_storage_problems(report: AuditReport, problems: Sequence[str] | None) -> AuditReport:
    """The report with what a check of the whole blob store found, each blob by name (None: not checked)."""
    if problems is None:
        findings: tuple[Finding, ...] = (Finding("blobs", "only the blobs that were needed were verified"),)
    else:
        findings = tuple(Finding("blobs", "store", problem) for problem in problems) or (
            Finding("blobs", "every stored blob is what its name says, and every listed one is there"),
        )
    return AuditReport(report.job_id, report.is_full, findings + report.findings)
