"""GalaxyJobs of a ``LightLedger``, function by function.

Named and ordered as in Solidity. Every function checks all before it changes anything, so that a refused call
leaves nothing behind; a job's state moves by the events, through the very table the nodes follow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from galaxylearning.crypto.digest import keccak
from galaxylearning.crypto.merkle import leaf_hash, verify_multiproof, verify_proof
from galaxylearning.messages import typed
from galaxylearning.messages.fields import address_key
from galaxylearning.messages.terms import Windows
from galaxylearning.protocol.calls import JOB_PARAMETERS
from galaxylearning.protocol.events import event_from_log
from galaxylearning.protocol.machine import JobState, Phase, step
from galaxylearning.protocol.settlement import LEAF_TYPES
from galaxylearning.simulation.light_registry import BURN, Registry, Token, require, revert, struct_of
from galaxylearning.units import ZERO_DIGEST, Address, Digest

if TYPE_CHECKING:
    from galaxylearning.simulation.light_ledger import LightLedger

MAX_SEATS: Final = 15
MAX_PAYOUTS: Final = 256
MAX_WINDOW_S: Final = 365 * 86_400
SIGNATURE_BYTES: Final = 65


@dataclass
class PostedJob:
    """One job: its state as the table has it, and what only the contract remembers."""

    state: JobState
    seat_stake: int
    bond_payers: dict[Address, Address] = field(default_factory=dict)
    enrolled: set[Address] = field(default_factory=set)
    last_direct: dict[Address, tuple[int, bytes]] = field(default_factory=dict)
    """Round and struct hash of a data owner's last direct update."""
    commitments: dict[Address, bytes] = field(default_factory=dict)


class Jobs:
    """GalaxyJobs, without permits."""

    def __init__(self, ledger: LightLedger, token: Token, registry: Registry) -> None:
        self._ledger, self._token, self._registry = ledger, token, registry
        self.jobs: dict[int, PostedJob] = {}
        self._parameters: dict[int, tuple[Any, ...]] = {}

    @property
    def _address(self) -> Address:
        return self._ledger.address_of("jobs")

    def _emit(self, job_id: int, name: str, **arguments: Any) -> None:
        """Log an event and move the job by it."""
        found = {"jobId": job_id, **arguments}
        self._ledger.emit("jobs", name, **found)
        event = event_from_log(name, found, self._ledger.timestamp)
        if event is not None:
            self.jobs[job_id].state = step(self.jobs[job_id].state, event)

    def _job_in(self, job_id: int, phase: Phase) -> PostedJob:
        job = self.jobs.get(job_id)
        if job is None or job.state.phase is not phase:
            revert("WrongPhase")
        return job

    def _check_before(self, at: int) -> None:
        require(self._ledger.timestamp < at, "TooLate")

    def _check_since(self, at: int) -> None:
        require(self._ledger.timestamp >= at, "TooEarly")

    # ---- enrolling

    def postJob(self, sender: Address, p: tuple[Any, ...]) -> None:  # noqa: N802
        """Post a job and escrow its bounty and fees."""
        _, terms_digest, bounty, fee, bond, seat_stake, rounds, least, most = p[:9]
        windows, evaluators = p[9:16], p[16]
        is_sound = any(terms_digest) and bounty > 0 and 0 < rounds <= 10_000 and 0 < least <= most <= 100_000
        require(is_sound and all(0 < window <= MAX_WINDOW_S for window in windows), "InvalidParameter")
        keys = [address_key(evaluator) for evaluator in evaluators]
        is_sound = 0 < len(keys) <= MAX_SEATS and keys == sorted(set(keys)) and keys[0] > 0
        require(is_sound, "InvalidParameter")
        for evaluator in evaluators:
            require(any(self._registry.view_evaluator(evaluator)["sealingKeyDigest"]), "NotRegistered")
        fees = fee * len(evaluators)
        self._token.check_take(sender, self._address, bounty + fees)
        job_id = len(self.jobs) + 1
        state = JobState(
            job_id=job_id,
            requester=sender,
            terms_digest=Digest(terms_digest),
            evaluators=tuple(Address(evaluator) for evaluator in evaluators),
            rounds=rounds,
            minimum_owners=least,
            maximum_owners=most,
            windows=Windows(*windows),
            bounty=bounty,
            fee_per_seat=fee,
            bond_per_identity=bond,
            phase_start=self._ledger.timestamp,
        )
        self.jobs[job_id] = PostedJob(state, seat_stake)
        self._parameters[job_id] = p
        arguments = {"requester": sender, "termsDigest": terms_digest, "bounty": bounty, "fees": fees}
        self._ledger.emit("jobs", "JobPosted", jobId=job_id, **arguments)
        self._token.take(sender, self._address, bounty + fees)

    def view_job(self, job_id: int) -> Mapping[str, Any]:
        """What the job was posted with."""
        return dict(zip(JOB_PARAMETERS, self._parameters[job_id], strict=True))

    def takeSeat(self, sender: Address, job_id: int) -> None:  # noqa: N802
        """Take the caller's seat and lock its stake."""
        job = self._job_in(job_id, Phase.ENROLLING)
        require(sender in job.state.evaluators, "NotNamedEvaluator")
        require(sender not in job.state.seats, "SeatAlreadyTaken")
        self._registry.check_lock(sender, job.seat_stake)
        self._emit(job_id, "SeatTaken", evaluator=sender)
        self._registry.lock(sender, job.seat_stake)

    def depositBond(self, sender: Address, job_id: int, data_owner: Address) -> None:  # noqa: N802
        """Post the bond of an identity."""
        job = self._job_in(job_id, Phase.ENROLLING)
        amount = job.state.bond_per_identity
        require(amount > 0, "NoBondAsked")
        require(data_owner not in job.bond_payers, "AlreadyBonded")
        self._token.check_take(sender, self._address, amount)
        job.bond_payers[data_owner] = sender
        self._emit(job_id, "BondDeposited", dataOwner=data_owner, payer=sender, amount=amount)
        self._token.take(sender, self._address, amount)

    def enrolDirectly(self, sender: Address, values: tuple[Any, ...], signature: bytes) -> None:  # noqa: N802
        """Enrol a data owner on chain."""
        message = typed.Enrolment(*values)
        job = self._job_in(message.job_id, Phase.ENROLLING)
        state = job.state
        self._check_before(state.phase_start + state.windows.enrol_s)
        require(message.terms_digest == state.terms_digest, "WrongTerms")
        self._ledger.check_data_owner("jobs", sender, message.data_owner, message, signature)
        require(message.data_owner not in job.enrolled, "AlreadyEnrolled")
        is_bonded = state.bond_per_identity == 0 or message.data_owner in job.bond_payers
        require(is_bonded, "BondMissing")
        require(self._registry.is_active(message.dataset_id, message.data_owner), "DatasetNotUsable")
        job.enrolled.add(message.data_owner)
        self._direct("EnrolledDirectly", "e", message, state, signature)

    def _direct(
        self, name: str, struct: str, message: Any, state: JobState, signature: bytes, **more: Any
    ) -> None:
        head = typed.direct_head_after(state.direct_head, message)
        arguments = {"dataOwner": message.data_owner, struct: struct_of(message), **more}
        self._emit(message.job_id, name, **arguments, signature=signature, directHead=head)

    def anchorCohort(self, _sender: Address, values: tuple[Any, ...], signatures: bytes) -> None:  # noqa: N802
        """Fix the cohort."""
        message = typed.CohortAnchor(*values)
        state = self._job_in(message.job_id, Phase.ENROLLING).state
        require(state.minimum_owners <= message.size <= state.maximum_owners, "SizeOutOfRange")
        if message.size != state.maximum_owners:
            self._check_since(state.phase_start + state.windows.enrol_s)
        require(message.direct_head == state.direct_head, "DirectEntriesMissing")
        self._check_anchor(state, message, signatures)
        arguments = {"root": message.root, "size": message.size, "directHead": message.direct_head}
        self._emit(message.job_id, "CohortAnchored", **arguments)

    # ---- training

    def submitUpdateDirectly(self, sender: Address, values: tuple[Any, ...], signature: bytes) -> None:  # noqa: N802
        """Submit an update on chain."""
        message = typed.Update(*values)
        job = self._job_in(message.job_id, Phase.TRAINING)
        state, index = job.state, message.round_index
        require(index == state.round_index, "WrongRound")
        self._check_before(state.phase_start + state.windows.round_s)
        require(message.terms_digest == state.terms_digest, "WrongTerms")
        self._ledger.check_data_owner("jobs", sender, message.data_owner, message, signature)
        last = job.last_direct.get(message.data_owner)
        require(last is None or last[0] != index, "AlreadySubmitted")
        job.last_direct[message.data_owner] = index, message.struct_hash()
        self._direct("UpdateSubmittedDirectly", "u", message, state, signature, roundIndex=index)

    def anchorRound(self, _sender: Address, values: tuple[Any, ...], signatures: bytes) -> None:  # noqa: N802
        """Fix a round's updates."""
        message = typed.RoundAnchor(*values)
        state = self._job_in(message.job_id, Phase.TRAINING).state
        require(message.round_index == state.round_index, "WrongRound")
        require(state.minimum_owners <= message.count <= state.cohort_size, "SizeOutOfRange")
        if message.count != state.cohort_size:
            self._check_since(state.phase_start + state.windows.round_s)
        require(message.direct_head == state.direct_head, "DirectEntriesMissing")
        self._check_anchor(state, message, signatures)
        before = ZERO_DIGEST if message.round_index == 0 else state.history
        self._emit(
            message.job_id,
            "RoundAnchored",
            roundIndex=message.round_index,
            root=message.root,
            count=message.count,
            directHead=message.direct_head,
            modelDigest=message.model_digest,
            history=keccak(before + message.struct_hash()),
        )
        if message.round_index + 1 >= state.rounds:
            self._enter(message.job_id, Phase.COMMITTING)

    def _enter(self, job_id: int, phase: Phase) -> None:
        arguments = {"from": int(self.jobs[job_id].state.phase), "to": int(phase)}
        self._emit(job_id, "PhaseChanged", **arguments)

    # ---- scores

    def standBy(self, sender: Address, job_id: int) -> None:  # noqa: N802
        """Say that a seat is there and cannot score yet."""
        job = self._job_in(job_id, Phase.COMMITTING)
        self._check_before(job.state.phase_start + job.state.windows.commit_s)
        require(sender in job.state.seats, "NotSeated")
        require(sender not in job.state.committed, "AlreadyCommitted")
        require(sender not in job.state.standing_by, "AlreadyStandingBy")
        self._emit(job_id, "StoodBy", evaluator=sender)

    def commitScores(self, sender: Address, job_id: int, commitment: bytes) -> None:  # noqa: N802
        """Commit a seat to its scores."""
        job = self._job_in(job_id, Phase.COMMITTING)
        self._check_before(job.state.phase_start + job.state.windows.commit_s)
        require(sender in job.state.seats, "NotSeated")
        require(any(commitment), "ZeroDigest")
        require(sender not in job.state.committed, "AlreadyCommitted")
        job.commitments[sender] = commitment
        self._emit(job_id, "ScoresCommitted", evaluator=sender, commitment=commitment)
        if len(job.state.committed) == len(job.state.seats):
            self._enter(job_id, Phase.REVEALING)

    def revealScores(self, sender: Address, job_id: int, digest: bytes, salt: bytes) -> None:  # noqa: N802
        """Reveal what was committed."""
        job = self._job_in(job_id, Phase.REVEALING)
        self._check_before(job.state.phase_start + job.state.windows.reveal_s)
        require(sender in job.commitments, "NotCommitted")
        require(any(digest), "ZeroDigest")
        require(sender not in dict(job.state.revealed), "AlreadyRevealed")
        commitment = typed.score_commitment(
            chain_id=self._ledger.chain_id,
            contract=self._address,
            job_id=job_id,
            evaluator=sender,
            scores_digest=Digest(digest),
            salt=salt,
        )
        require(job.commitments[sender] == commitment, "CommitmentMismatch")
        self._emit(job_id, "ScoresRevealed", evaluator=sender, scoresDigest=digest)

    # ---- settlement

    def settle(self, _sender: Address, values: tuple[Any, ...], signatures: bytes) -> None:
        """Fix who is paid what."""
        message = typed.Settlement(*values)
        job = self._job_in(message.job_id, Phase.REVEALING)
        state = job.state
        if len(state.revealed) != len(state.committed):
            self._check_since(state.phase_start + state.windows.reveal_s)
        is_sound = (
            message.total <= state.bounty
            and message.payees <= state.cohort_size
            and (message.payees > 0 or message.total == 0)
            and not message.faulty_seats >> len(state.evaluators)
        )
        require(is_sound, "InvalidSettlement")
        good = {
            who
            for index, who in enumerate(state.evaluators)
            if who in dict(state.revealed) and not message.faulty_seats >> index & 1
        }
        for signer in self._signers(state.quorum, message, signatures):
            require(signer in good, "SeatNotEligible")
        self._emit(
            message.job_id,
            "JobSettled",
            payoutRoot=message.payout_root,
            total=message.total,
            payees=message.payees,
            modelDigest=message.model_digest,
            faultySeats=message.faulty_seats,
        )
        self._free_seats(job, good)

    def pay(
        self,
        _sender: Address,
        job_id: int,
        payouts: Sequence[tuple[int, Address, int]],
        proof: Sequence[bytes],
        flags: Sequence[bool],
    ) -> None:
        """Push payouts; those that were paid before are passed over."""
        state = self._payable(job_id)
        require(0 < len(payouts) <= MAX_PAYOUTS, "InvalidPayouts")
        leaves = [self._leaf(job_id, *payout) for payout in payouts]
        require(verify_multiproof(state.payout_root, leaves, proof, flags), "InvalidProof")
        rest, fresh = state.total - state.paid, []
        for index, account, amount in payouts:
            if state.paid_indices >> index & 1:
                continue
            require(amount <= rest and index < state.payees, "ExceedsTotal")
            rest -= amount
            fresh.append((index, account, amount))
        for payout in reversed(fresh):
            self._paid(job_id, *payout)

    def claim(
        self, _sender: Address, job_id: int, index: int, account: Address, amount: int, proof: Sequence[bytes]
    ) -> None:
        """Pay one account."""
        state = self._payable(job_id)
        leaf = self._leaf(job_id, index, account, amount)
        require(verify_proof(state.payout_root, leaf, proof), "InvalidProof")
        require(not state.paid_indices >> index & 1, "AlreadyPaid")
        require(index < state.payees and amount <= state.total - state.paid, "ExceedsTotal")
        self._paid(job_id, index, account, amount)

    def _leaf(self, job_id: int, index: int, account: Address, amount: int) -> bytes:
        return leaf_hash(LEAF_TYPES, (self._ledger.chain_id, self._address, job_id, index, account, amount))

    def _paid(self, job_id: int, index: int, account: Address, amount: int) -> None:
        self._token.send(self._address, account, amount)
        self._emit(job_id, "Paid", index=index, account=account, amount=amount)

    def payFees(self, _sender: Address, job_id: int) -> None:  # noqa: N802
        """Push the evaluators' fees."""
        state = self._payable(job_id)
        pending = state.fee_seats & ~state.fees_paid_to if state.fee_per_seat else 0
        require(pending != 0, "NothingToPay")
        for index, evaluator in enumerate(state.evaluators):
            if pending >> index & 1:
                self._token.send(self._address, evaluator, state.fee_per_seat)
                self._emit(job_id, "FeePaid", index=index, account=evaluator, amount=state.fee_per_seat)

    def refund(self, _sender: Address, job_id: int) -> None:
        """Send the requester what was not spent."""
        job = self.jobs.get(job_id)
        amount = job.state.refundable if job is not None else 0
        if job is None or amount == 0:
            revert("NothingToRefund")
        self._emit(job_id, "Refunded", requester=job.state.requester, amount=amount)
        self._token.send(self._address, job.state.requester, amount)

    def returnBond(self, _sender: Address, job_id: int, data_owner: Address) -> None:  # noqa: N802
        """Send a bond back to who paid it."""
        job = self.jobs.get(job_id)
        if job is None or job.state.phase not in (Phase.SETTLED, Phase.ABORTED):
            revert("NotTerminal")
        payer, amount = self._take_bond(job, data_owner)
        self._emit(job_id, "BondReturned", dataOwner=data_owner, payer=payer, amount=amount)
        self._token.send(self._address, payer, amount)

    def forfeitBond(  # noqa: N802
        self,
        _sender: Address,
        values: tuple[Any, ...],
        signature: bytes,
        other_digest: bytes,
        other_signature: bytes,
    ) -> None:
        """Burn the bond of a data owner that made two different updates of a round."""
        said = typed.Update(*values)
        job = self.jobs.get(said.job_id)
        if job is None or job.state.phase < Phase.TRAINING:
            revert("WrongPhase")
        require(said.terms_digest == job.state.terms_digest, "WrongTerms")
        require(said.update_digest != other_digest, "NotEquivocation")
        self._check_said(job, said, signature)
        self._check_said(job, replace(said, update_digest=Digest(other_digest)), other_signature)
        _, amount = self._take_bond(job, said.data_owner)
        arguments = {"dataOwner": said.data_owner, "roundIndex": said.round_index, "amount": amount}
        self._emit(said.job_id, "BondForfeited", **arguments)
        self._token.send(self._address, BURN, amount)

    def _check_said(self, job: PostedJob, said: typed.Update, signature: bytes) -> None:
        """The data owner signed this update, or entered it on chain last."""
        if signature:
            require(self._ledger.signer_of("jobs", said, signature) == said.data_owner, "InvalidSignature")
        else:
            entry = said.round_index, said.struct_hash()
            require(job.last_direct.get(said.data_owner) == entry, "InvalidSignature")

    def _take_bond(self, job: PostedJob, data_owner: Address) -> tuple[Address, int]:
        """Strike a bond off the books, once; it must leave next."""
        require(job.state.claims_expired_amount is None, "ClaimsAreOver")
        require(data_owner in job.bond_payers, "BondMissing")
        return job.bond_payers.pop(data_owner), job.state.bond_per_identity

    def _payable(self, job_id: int) -> JobState:
        state = self._job_in(job_id, Phase.SETTLED).state
        require(state.claims_expired_amount is None, "ClaimsAreOver")
        return state

    # ---- the ways out

    def cancel(self, sender: Address, job_id: int) -> None:
        """Take a job back while data owners enrol."""
        job = self._job_in(job_id, Phase.ENROLLING)
        require(sender == job.state.requester, "NotRequester")
        self._abort(job)

    def expire(self, _sender: Address, job_id: int) -> None:
        """Move a job on that has outlived its deadline."""
        job = self.jobs.get(job_id)
        if job is None or job.state.expires_at is None or self._ledger.timestamp < job.state.expires_at:
            revert("NothingToExpire")
        state = job.state
        if state.phase is Phase.SETTLED:
            self._emit(job_id, "ClaimsExpired", amount=state.unclaimed)
        elif state.phase is Phase.TRAINING and state.round_index:
            self._enter(job_id, Phase.COMMITTING)
        elif state.phase is Phase.COMMITTING and len(state.committed) >= state.quorum:
            self._enter(job_id, Phase.REVEALING)
        else:
            self._abort(job)

    def _abort(self, job: PostedJob) -> None:
        state = job.state
        kept = set(state.evaluators)
        if state.phase in (Phase.COMMITTING, Phase.REVEALING):
            is_early = state.phase is Phase.COMMITTING
            kept = set(state.committed if is_early else dict(state.revealed))
            kept |= state.standing_by - state.committed
        self._emit(state.job_id, "JobAborted", **{"from": int(state.phase)})
        self._free_seats(job, kept)

    def _free_seats(self, job: PostedJob, kept: set[Address]) -> None:
        for evaluator in job.state.evaluators:
            if evaluator in job.state.seats:
                free = self._registry.release if evaluator in kept else self._registry.slash
                free(evaluator, job.seat_stake)

    # ---- signatures

    def _signers(self, quorum: int, message: typed.TypedMessage, signatures: bytes) -> list[Address]:
        count, rest = divmod(len(signatures), SIGNATURE_BYTES)
        require(rest == 0 and count <= MAX_SEATS, "InvalidSignature")
        require(count >= quorum, "QuorumMissing")
        parts = (signatures[i * SIGNATURE_BYTES : (i + 1) * SIGNATURE_BYTES] for i in range(count))
        signers = [self._ledger.signer_of("jobs", message, part) for part in parts]
        keys = [address_key(signer) for signer in signers]
        require(keys == sorted(set(keys)), "SignersNotAscending")
        return signers

    def _check_anchor(self, state: JobState, message: typed.TypedMessage, signatures: bytes) -> None:
        for signer in self._signers(state.quorum, message, signatures):
            require(signer in state.seats, "NotSeated")
