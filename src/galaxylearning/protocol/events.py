"""What GalaxyJobs logs, as values. ``at`` is the block's timestamp, Unix seconds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TypeAlias

from galaxylearning.errors import MessageRefused
from galaxylearning.messages import typed
from galaxylearning.messages.fields import check_address, check_bytes, check_uint
from galaxylearning.units import Address, Digest


class Phase(IntEnum):
    """Where a job stands; the numbers are the contract's."""

    NONE = 0
    ENROLLING = 1
    TRAINING = 2
    COMMITTING = 3
    REVEALING = 4
    SETTLED = 5
    ABORTED = 6


@dataclass(frozen=True, slots=True)
class JobEvent:
    """Base of the events of one job."""

    job_id: int
    at: int


@dataclass(frozen=True, slots=True)
class JobPosted(JobEvent):
    """A requester posted a job and escrowed its bounty and fees."""

    requester: Address
    terms_digest: Digest
    bounty: int
    fees: int


@dataclass(frozen=True, slots=True)
class SeatTaken(JobEvent):
    """A named evaluator took its seat and locked its stake."""

    evaluator: Address


@dataclass(frozen=True, slots=True)
class BondDeposited(JobEvent):
    """Somebody posted the bond of an identity."""

    data_owner: Address


@dataclass(frozen=True, slots=True)
class BondReturned(JobEvent):
    """The bond of an identity went back to its payer."""

    data_owner: Address


@dataclass(frozen=True, slots=True)
class BondForfeited(JobEvent):
    """The bond of an identity was burned: it made two different updates of this round."""

    data_owner: Address
    round_index: int


@dataclass(frozen=True, slots=True)
class EnrolledDirectly(JobEvent):
    """A data owner enrolled on chain; the anchored cohort must include it."""

    enrolment: typed.Enrolment
    signature: bytes
    direct_head: Digest


@dataclass(frozen=True, slots=True)
class CohortAnchored(JobEvent):
    """A quorum fixed the cohort."""

    root: Digest
    size: int
    direct_head: Digest


@dataclass(frozen=True, slots=True)
class UpdateSubmittedDirectly(JobEvent):
    """A data owner submitted an update on chain; the anchored round must include it."""

    update: typed.Update
    signature: bytes
    direct_head: Digest


@dataclass(frozen=True, slots=True)
class RoundAnchored(JobEvent):
    """A quorum fixed a round's updates and the model they gave."""

    round_index: int
    root: Digest
    count: int
    direct_head: Digest
    model_digest: Digest
    history: Digest


@dataclass(frozen=True, slots=True)
class StoodBy(JobEvent):
    """An evaluator said that it is there and cannot score yet."""

    evaluator: Address


@dataclass(frozen=True, slots=True)
class ScoresCommitted(JobEvent):
    """An evaluator committed to its score table."""

    evaluator: Address
    commitment: Digest


@dataclass(frozen=True, slots=True)
class ScoresRevealed(JobEvent):
    """An evaluator revealed the digest it had committed to."""

    evaluator: Address
    scores_digest: Digest


@dataclass(frozen=True, slots=True)
class JobSettled(JobEvent):
    """A quorum fixed who is paid what."""

    payout_root: Digest
    total: int
    payees: int
    model_digest: Digest
    faulty_seats: int


@dataclass(frozen=True, slots=True)
class Paid(JobEvent):
    """A leaf of the payout tree was paid."""

    index: int
    account: Address
    amount: int


@dataclass(frozen=True, slots=True)
class FeePaid(JobEvent):
    """A seat's fee was paid; ``index`` is the seat's among the evaluators of the job."""

    index: int
    account: Address
    amount: int


@dataclass(frozen=True, slots=True)
class Refunded(JobEvent):
    """What was not spent went back to the requester."""

    amount: int


@dataclass(frozen=True, slots=True)
class ClaimsExpired(JobEvent):
    """Whatever nobody claimed became refundable: ``amount`` of payouts, fees and bonds."""

    amount: int


@dataclass(frozen=True, slots=True)
class PhaseChanged(JobEvent):
    """The job entered its committing or its revealing phase, by completion or by expiry."""

    from_phase: Phase
    to_phase: Phase


@dataclass(frozen=True, slots=True)
class JobAborted(JobEvent):
    """The job ended without settlement; ``from_phase`` is where it stood."""

    from_phase: Phase


_Builder: TypeAlias = Callable[[Mapping[str, Any], int, int], JobEvent]


def _uint(arguments: Mapping[str, Any], name: str) -> int:
    return check_uint(arguments.get(name), name, 256)


def _bytes32(arguments: Mapping[str, Any], name: str) -> Digest:
    return Digest(check_bytes(arguments.get(name), name, 32))


def _address(arguments: Mapping[str, Any], name: str) -> Address:
    return check_address(arguments.get(name), name)


def _phase(arguments: Mapping[str, Any], name: str) -> Phase:
    number = _uint(arguments, name)
    if number > Phase.ABORTED:
        raise MessageRefused(f"{number}; 0 to {int(Phase.ABORTED)} allowed", where=name)
    return Phase(number)


def _struct(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    structs = [value for value in arguments.values() if isinstance(value, Mapping)]
    if len(structs) != 1:
        raise MessageRefused(f"{len(structs)} structs; exactly one allowed", where="event")
    return structs[0]


def _signature(arguments: Mapping[str, Any]) -> bytes:
    value = arguments.get("signature")
    if not isinstance(value, bytes) or len(value) not in (0, 65):
        raise MessageRefused("0 or 65 bytes allowed", where="signature")
    return value


def event_from_log(name: str, arguments: Mapping[str, Any], at: int) -> JobEvent | None:
    """The job event a decoded GalaxyJobs log says, or None for a log that moves no job (a failed payment).

    Raises:
        MessageRefused: an argument is missing or malformed.
    """
    build = _BUILDERS.get(name)
    if build is None:
        return None
    return build(arguments, _uint(arguments, "jobId"), at)


def _bond_event(kind: type[BondDeposited] | type[BondReturned]) -> _Builder:
    return lambda a, job, at: kind(job, at, _address(a, "dataOwner"))


_BUILDERS: Mapping[str, _Builder] = {
    "JobPosted": lambda a, job, at: JobPosted(
        job, at, _address(a, "requester"), _bytes32(a, "termsDigest"), _uint(a, "bounty"), _uint(a, "fees")
    ),
    "SeatTaken": lambda a, job, at: SeatTaken(job, at, _address(a, "evaluator")),
    "StoodBy": lambda a, job, at: StoodBy(job, at, _address(a, "evaluator")),
    "ScoresCommitted": lambda a, job, at: ScoresCommitted(
        job, at, _address(a, "evaluator"), _bytes32(a, "commitment")
    ),
    "BondDeposited": _bond_event(BondDeposited),
    "BondReturned": _bond_event(BondReturned),
    "BondForfeited": lambda a, job, at: BondForfeited(
        job, at, _address(a, "dataOwner"), _uint(a, "roundIndex")
    ),
    "EnrolledDirectly": lambda a, job, at: EnrolledDirectly(
        job, at, typed.Enrolment.from_abi(_struct(a)), _signature(a), _bytes32(a, "directHead")
    ),
    "CohortAnchored": lambda a, job, at: CohortAnchored(
        job, at, _bytes32(a, "root"), _uint(a, "size"), _bytes32(a, "directHead")
    ),
    "UpdateSubmittedDirectly": lambda a, job, at: UpdateSubmittedDirectly(
        job, at, typed.Update.from_abi(_struct(a)), _signature(a), _bytes32(a, "directHead")
    ),
    "RoundAnchored": lambda a, job, at: RoundAnchored(
        job,
        at,
        _uint(a, "roundIndex"),
        _bytes32(a, "root"),
        _uint(a, "count"),
        _bytes32(a, "directHead"),
        _bytes32(a, "modelDigest"),
        _bytes32(a, "history"),
    ),
    "ScoresRevealed": lambda a, job, at: ScoresRevealed(
        job, at, _address(a, "evaluator"), _bytes32(a, "scoresDigest")
    ),
    "JobSettled": lambda a, job, at: JobSettled(
        job,
        at,
        _bytes32(a, "payoutRoot"),
        _uint(a, "total"),
        _uint(a, "payees"),
        _bytes32(a, "modelDigest"),
        _uint(a, "faultySeats"),
    ),
    "Paid": lambda a, job, at: Paid(job, at, _uint(a, "index"), _address(a, "account"), _uint(a, "amount")),
    "FeePaid": lambda a, job, at: FeePaid(
        job, at, _uint(a, "index"), _address(a, "account"), _uint(a, "amount")
    ),
    "Refunded": lambda a, job, at: Refunded(job, at, _uint(a, "amount")),
    "ClaimsExpired": lambda a, job, at: ClaimsExpired(job, at, _uint(a, "amount")),
    "PhaseChanged": lambda a, job, at: PhaseChanged(job, at, _phase(a, "from"), _phase(a, "to")),
    "JobAborted": lambda a, job, at: JobAborted(job, at, _phase(a, "from")),
}
