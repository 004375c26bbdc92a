"""Arguments of every contract function, built from checked messages: ``(function, arguments)``.

Structs are tuples in Solidity order, bytes are bytes, addresses checksummed: what the ABI codec takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from galaxylearning.messages import typed
from galaxylearning.messages.fields import address_key
from galaxylearning.messages.terms import Terms
from galaxylearning.protocol.evidence import Equivocation
from galaxylearning.protocol.settlement import PayoutChunk, PayoutTree
from galaxylearning.units import Address, Digest

FunctionCall: TypeAlias = tuple[str, tuple[Any, ...]]


def join_signatures(signatures: Mapping[Address, bytes]) -> bytes:
    """Signatures of 65 bytes by signer, concatenated as the contract wants them: ascending by signer."""
    return b"".join(signatures[signer] for signer in sorted(signatures, key=address_key))


JOB_PARAMETERS: Final = (
    *("token", "termsDigest", "bounty", "feePerSeat", "bondPerIdentity", "seatStake"),
    *("rounds", "minOwners", "maxOwners"),
    *("enrolWindow", "roundWindow", "anchorWindow", "commitWindow", "revealWindow", "settleWindow"),
    *("claimWindow", "evaluators"),
)
"""What ``job_parameters`` gives, by the names that the contract's ``job`` answers with."""


def job_parameters(terms: Terms) -> tuple[Any, ...]:
    """The contract's ``JobParameters`` of these terms."""
    price, plan, windows = terms.price, terms.plan, terms.windows
    return (
        price.token,
        bytes(terms.digest),
        int(price.bounty),
        int(price.fee_per_seat),
        int(price.bond),
        int(price.seat_stake),
        plan.rounds,
        plan.minimum_owners,
        plan.maximum_owners,
        windows.enrol_s,
        windows.round_s,
        windows.anchor_s,
        windows.commit_s,
        windows.reveal_s,
        windows.settle_s,
        windows.claim_s,
        tuple(seat.address for seat in terms.evaluators),
    )


def escrow(terms: Terms) -> int:
    """What posting the job deposits: the bounty and a fee for every seat, smallest units."""
    return int(terms.price.bounty) + int(terms.price.fee_per_seat) * len(terms.evaluators)


def register_evaluator(sealing_key_digest: Digest) -> FunctionCall:
    """GalaxyRegistry: become an evaluator, or change the sealing key."""
    return "registerEvaluator", (bytes(sealing_key_digest),)


def deposit_stake(amount: int) -> FunctionCall:
    """GalaxyRegistry: add to the caller's stake, approved before."""
    return "depositStake", (amount,)


def deposit_stake_with_permit(amount: int, deadline: int, v: int, r: bytes, s: bytes) -> FunctionCall:
    """GalaxyRegistry: add to the caller's stake with an EIP-2612 permit."""
    return "depositStakeWithPermit", (amount, deadline, v, r, s)


def request_withdrawal(amount: int) -> FunctionCall:
    """GalaxyRegistry: start unbonding stake that is not locked."""
    return "requestWithdrawal", (amount,)


def withdraw() -> FunctionCall:
    """GalaxyRegistry: take out what has finished unbonding."""
    return "withdraw", ()


def register_dataset(registration: typed.DatasetRegistration, signature: bytes = b"") -> FunctionCall:
    """GalaxyRegistry: register a data set; no signature where the data owner calls."""
    return "registerDataset", (registration.abi_tuple(), signature)


def revoke_dataset(revocation: typed.DatasetRevocation, signature: bytes = b"") -> FunctionCall:
    """GalaxyRegistry: revoke a data set for good; no signature where the data owner calls."""
    return "revokeDataset", (revocation.abi_tuple(), signature)


def post_job(terms: Terms) -> FunctionCall:
    """GalaxyJobs: post a job; its escrow was approved before."""
    return "postJob", (job_parameters(terms),)


def post_job_with_permit(terms: Terms, deadline: int, v: int, r: bytes, s: bytes) -> FunctionCall:
    """GalaxyJobs: post a job with an EIP-2612 permit for its escrow."""
    return "postJobWithPermit", (job_parameters(terms), deadline, v, r, s)


def take_seat(job_id: int) -> FunctionCall:
    """GalaxyJobs: take the caller's seat."""
    return "takeSeat", (job_id,)


def deposit_bond(job_id: int, data_owner: Address) -> FunctionCall:
    """GalaxyJobs: post the bond of an identity."""
    return "depositBond", (job_id, data_owner)


def return_bond(job_id: int, data_owner: Address) -> FunctionCall:
    """GalaxyJobs: send a bond back to who paid it."""
    return "returnBond", (job_id, data_owner)


def forfeit_bond(evidence: Equivocation) -> FunctionCall:
    """GalaxyJobs: burn the bond of a data owner that made two different updates of one round."""
    arguments = (evidence.update.abi_tuple(), evidence.signature)
    return "forfeitBond", (*arguments, bytes(evidence.other_digest), evidence.other_signature)


def enrol_directly(enrolment: typed.Enrolment, signature: bytes = b"") -> FunctionCall:
    """GalaxyJobs: enrol on chain; no signature where the data owner calls."""
    return "enrolDirectly", (enrolment.abi_tuple(), signature)


def anchor_cohort(anchor: typed.CohortAnchor, signatures: Mapping[Address, bytes]) -> FunctionCall:
    """GalaxyJobs: fix the cohort."""
    return "anchorCohort", (anchor.abi_tuple(), join_signatures(signatures))


def submit_update_directly(update: typed.Update, signature: bytes = b"") -> FunctionCall:
    """GalaxyJobs: submit an update on chain; no signature where the data owner calls."""
    return "submitUpdateDirectly", (update.abi_tuple(), signature)


def anchor_round(anchor: typed.RoundAnchor, signatures: Mapping[Address, bytes]) -> FunctionCall:
    """GalaxyJobs: fix a round."""
    return "anchorRound", (anchor.abi_tuple(), join_signatures(signatures))


def stand_by(job_id: int) -> FunctionCall:
    """GalaxyJobs: say that we are there and cannot score yet, which saves our stake if the job is aborted."""
    return "standBy", (job_id,)


def commit_scores(job_id: int, commitment: Digest) -> FunctionCall:
    """GalaxyJobs: commit to a score table; see ``typed.score_commitment``."""
    return "commitScores", (job_id, bytes(commitment))


def reveal_scores(job_id: int, scores_digest: Digest, salt: bytes) -> FunctionCall:
    """GalaxyJobs: reveal the digest that was committed to."""
    return "revealScores", (job_id, bytes(scores_digest), salt)


def settle(settlement: typed.Settlement, signatures: Mapping[Address, bytes]) -> FunctionCall:
    """GalaxyJobs: fix the payouts."""
    return "settle", (settlement.abi_tuple(), join_signatures(signatures))


def pay(job_id: int, chunk: PayoutChunk) -> FunctionCall:
    """GalaxyJobs: push one chunk of payouts."""
    payouts = tuple(payout.abi_tuple() for payout in chunk.payouts)
    return "pay", (job_id, payouts, chunk.proof, chunk.proof_flags)


def claim(tree: PayoutTree, account: Address) -> FunctionCall:
    """GalaxyJobs: pay one account; anybody may call.

    Raises:
        ValueError: the tree pays this account nothing.
    """
    for row in tree.rows:
        if row.account == account:
            proof = tuple(tree.tree.proof(row.index))
            return "claim", (tree.job_id, row.index, row.account, row.amount, proof)
    raise ValueError(f"{account} is not paid by job {tree.job_id}")


def pay_fees(job_id: int) -> FunctionCall:
    """GalaxyJobs: push the evaluators' fees."""
    return "payFees", (job_id,)


def refund(job_id: int) -> FunctionCall:
    """GalaxyJobs: send the requester what was not spent."""
    return "refund", (job_id,)


def cancel(job_id: int) -> FunctionCall:
    """GalaxyJobs: take a job back while data owners enrol; the requester only."""
    return "cancel", (job_id,)


def expire(job_id: int) -> FunctionCall:
    """GalaxyJobs: move a job on whose deadline has passed."""
    return "expire", (job_id,)
