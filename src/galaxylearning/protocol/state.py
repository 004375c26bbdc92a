"""What the chain knows of a job, and what follows from it: quorum, escrow, what is owed, deadlines."""

from __future__ import annotations

from dataclasses import dataclass

from galaxylearning.errors import PhaseError
from galaxylearning.messages.terms import Terms, Windows
from galaxylearning.protocol.events import JobPosted, Phase
from galaxylearning.units import ZERO_DIGEST, Address, Digest


@dataclass(frozen=True, slots=True)
class JobState:
    """All that the chain knows of a job. Money in the token's smallest unit.

    ``phase_start``: when the phase, or in training the round, began. ``round_index``: the round under way,
    which is also how many were anchored. ``bonds`` are held for these identities; those of ``forfeited`` were
    burned. ``paid_indices``: bitmap of the payout leaves that were paid;
    ``fees_paid_to``: bitmap of the seats whose fee was paid.
    """

    job_id: int
    requester: Address
    terms_digest: Digest
    evaluators: tuple[Address, ...]
    rounds: int
    minimum_owners: int
    maximum_owners: int
    windows: Windows
    bounty: int
    fee_per_seat: int
    bond_per_identity: int
    phase_start: int
    phase: Phase = Phase.ENROLLING
    round_index: int = 0
    seats: frozenset[Address] = frozenset()
    bonds: frozenset[Address] = frozenset()
    forfeited: frozenset[Address] = frozenset()
    direct_head: Digest = ZERO_DIGEST
    cohort_root: Digest = ZERO_DIGEST
    cohort_size: int = 0
    history: Digest = ZERO_DIGEST
    model_digest: Digest = ZERO_DIGEST
    standing_by: frozenset[Address] = frozenset()
    committed: frozenset[Address] = frozenset()
    revealed: tuple[tuple[Address, Digest], ...] = ()
    payout_root: Digest = ZERO_DIGEST
    total: int = 0
    payees: int = 0
    faulty_seats: int = 0
    paid: int = 0
    paid_indices: int = 0
    fees_paid: int = 0
    fees_paid_to: int = 0
    refunded: int = 0
    claims_expired_amount: int | None = None

    @property
    def quorum(self) -> int:
        """How many seats must agree."""
        return len(self.evaluators) // 2 + 1

    @property
    def fewest_seats(self) -> int:
        """How many seats must be taken before a cohort is anchored: of fewer, half could lie."""
        return 2 * ((len(self.evaluators) - 1) // 2) + 1

    @property
    def faulty(self) -> frozenset[Address]:
        """The evaluators that were settled as faulty."""
        return frozenset(who for i, who in enumerate(self.evaluators) if self.faulty_seats >> i & 1)

    @property
    def escrow(self) -> int:
        """What the requester deposited: bounty and a fee for every seat."""
        return self.bounty + self.fee_per_seat * len(self.evaluators)

    @property
    def fee_seats(self) -> int:
        """Bitmap of the seats that earned their fee: revealed and not faulty, once settled."""
        if self.phase is not Phase.SETTLED:
            return 0
        revealed = {evaluator for evaluator, _ in self.revealed}
        bits = sum(1 << i for i, evaluator in enumerate(self.evaluators) if evaluator in revealed)
        return bits & ~self.faulty_seats

    @property
    def fees_owed(self) -> int:
        """All fees earned, paid or not."""
        return self.fee_seats.bit_count() * self.fee_per_seat

    @property
    def unclaimed(self) -> int:
        """Payouts, fees and bonds that nobody has fetched; what expires with the claim window."""
        if self.claims_expired_amount is not None:
            return 0
        bonds = self.bond_per_identity * len(self.bonds)
        return self.total - self.paid + self.fees_owed - self.fees_paid + bonds

    @property
    def refundable(self) -> int:
        """What the requester can fetch now."""
        if self.phase is Phase.ABORTED:
            return self.escrow - self.refunded
        if self.phase is not Phase.SETTLED:
            return 0
        return self.escrow - self.total - self.fees_owed + (self.claims_expired_amount or 0) - self.refunded

    @property
    def deadline(self) -> int | None:
        """The end of the phase's window; None where there is none."""
        return None if (end := self._window_s()) is None else self.phase_start + end

    @property
    def expires_at(self) -> int | None:
        """From when anybody may call ``expire``; None where nothing expires."""
        deadline = self.deadline
        if deadline is None:
            return None
        grace = {
            Phase.ENROLLING: self.windows.anchor_s,
            Phase.TRAINING: self.windows.anchor_s,
            Phase.REVEALING: self.windows.settle_s,
        }
        return deadline + grace.get(self.phase, 0)

    def _window_s(self) -> int | None:
        windows = {
            Phase.ENROLLING: self.windows.enrol_s,
            Phase.TRAINING: self.windows.round_s,
            Phase.COMMITTING: self.windows.commit_s,
            Phase.REVEALING: self.windows.reveal_s,
        }
        if self.phase is Phase.SETTLED and self.claims_expired_amount is None:
            return self.windows.claim_s
        return windows.get(self.phase)


def posted(event: JobPosted, terms: Terms) -> JobState:
    """The state of a job that was just posted under ``terms``.

    Raises:
        PhaseError: the event is about other terms, or its amounts or requester are not those of the terms.
    """
    bounty, fee = int(terms.price.bounty), int(terms.price.fee_per_seat)
    facts = (
        ("terms digest", event.terms_digest, terms.digest),
        ("requester", event.requester, terms.requester),
        ("bounty", event.bounty, bounty),
        ("fees", event.fees, fee * len(terms.evaluators)),
    )
    for name, said, expected in facts:
        if said != expected:
            raise PhaseError(f"the chain's {name} is not that of the terms", where=f"job {event.job_id}")
    return JobState(
        job_id=event.job_id,
        requester=event.requester,
        terms_digest=event.terms_digest,
        evaluators=tuple(Address(seat.address) for seat in terms.evaluators),
        rounds=terms.plan.rounds,
        minimum_owners=terms.plan.minimum_owners,
        maximum_owners=terms.plan.maximum_owners,
        windows=terms.windows,
        bounty=bounty,
        fee_per_seat=fee,
        bond_per_identity=int(terms.price.bond),
        phase_start=event.at,
    )
