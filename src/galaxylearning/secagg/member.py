"""What a member of the committee does: answer from its shares what may be asked, each thing once.

:func:`step` is the law: which questions a member answers, in which order, and how many numbers they may open.
It keeps no share and computes nothing; what it refuses leaves the state as it was. That the questions follow
from the committed test set, the public model and public randomness is for the caller to recompute first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from galaxylearning.crypto.ring import DEGREE, F64, pack, unpack
from galaxylearning.errors import PhaseError, QuorumMissing, UpdateRefused
from galaxylearning.learning.vectors import I64
from galaxylearning.secagg.plan import MaskingPlan
from galaxylearning.secagg.questions import Questions
from galaxylearning.secagg.weights import check_carried
from galaxylearning.units import Digest, round_name

_WEIGHTS_LABEL: Final = "galaxylearning 2026 secagg v1 weights digest"


def read_share(plan: MaskingPlan, data: bytes) -> F64:
    """A member's share f64[2, N] of one owner's secret, from its wire form.

    Raises:
        UpdateRefused: another length, or a residue that is not below its prime.
    """
    if len(data) != plan.share_bytes:
        raise UpdateRefused(f"must be {plan.share_bytes} bytes, not {len(data)}", where="share")
    return unpack(plan.ring, data, width=DEGREE, where="share").reshape(2, DEGREE)


def check_questions(plan: MaskingPlan, questions: Questions) -> None:
    """Refuse questions that the plan has no room for, or that ask for one coordinate.

    A vector with one large coordinate would nearly show that coordinate of everybody's update. Members check
    before they answer, openers again.

    Raises:
        UpdateRefused: for updates of another length, more than the plan opens, a dense vector whose L2 norm
            exceeds the plan's, or one with more than half of its squared norm in one coordinate.
    """
    if questions.parameters != plan.parameters:
        raise UpdateRefused(
            f"must be about {plan.parameters} parameters, not {questions.parameters}", where="questions"
        )
    if questions.count > plan.scalars:
        raise UpdateRefused(
            f"must be at most {plan.scalars} numbers, not {questions.count}", where="questions"
        )
    if questions.dense_square > plan.functional_norm**2:
        raise UpdateRefused(
            f"vectors must have an L2 norm of at most {plan.functional_norm}", where="questions"
        )
    if questions.is_pointed:
        raise UpdateRefused(
            "a vector must not have more than half of its squared norm in one coordinate", where="questions"
        )


def answer_scalars(
    plan: MaskingPlan, polynomials: F64, shares: F64, *, held: npt.NDArray[np.bool_] | None = None
) -> bytes:
    """A member's answer to k questions about m owners: ``plan.scalars_bytes(m, k)`` bytes, owner by owner.

    Args:
        plan: the job's.
        polynomials: f64[k, 2, N], of :func:`galaxylearning.secagg.questions.question_polynomials`.
        shares: f64[m, 2, N], of the accepted owners in the order of their bodies.
        held: bool[m], whether there is a share at all; where not, the answer says so. Default: everywhere.

    Raises:
        UpdateRefused: shares of another shape.
    """
    _check_shares(plan, shares)
    found = np.empty((len(shares), 2, len(polynomials)))
    for index, field in enumerate(plan.ring.fields):
        products = field.product(shares[:, index], polynomials[:, index].T)
        found[:, index] = field.canonical(products)
    if held is not None:
        found[~held] = plan.ring.absent
    return pack(plan.ring, found)


def answer_sum(plan: MaskingPlan, shares: F64, weights: I64) -> bytes:
    """A member's answer to a weighted sum: its share of the sum of the owners' secrets, ``share_bytes`` long.

    A member without a share of an owner whose weight is not 0 has no answer.

    Raises:
        UpdateRefused: shares of another shape, or weights that are not the plan's.
        QuorumMissing: fewer owners than the plan's minimum.
    """
    check_weights(plan, weights, owners=len(shares))
    _check_shares(plan, shares)
    return pack(plan.ring, _weighted(plan, weights, shares))


def contradicts_itself(
    plan: MaskingPlan, polynomials: F64, weights: I64, scalars: bytes, total: bytes
) -> bool:
    """Whether no shares give both of a member's answers about one accepted set: then one of them is a lie.

    Both are linear in its shares: the scalars about all owners, weighted and added up, are the scalars about
    its answer to the sum. So they are of an honest member, whatever it was dealt.

    Args:
        plan: the job's.
        polynomials: f64[k, 2, N], of what is asked.
        weights: int64[m], of the sum.
        scalars: of :func:`answer_scalars`, about the m owners of the set.
        total: of :func:`answer_sum`, about the same.

    Raises:
        UpdateRefused: answers that cannot be read.
    """
    words = unpack(plan.ring, scalars, width=len(polynomials), where="scalars", is_absent_allowed=True)
    share = unpack(plan.ring, total, width=DEGREE, where="sum")
    return pack(plan.ring, _weighted(plan, weights, words)) != answer_scalars(plan, polynomials, share)


def _weighted(plan: MaskingPlan, weights: I64, rows: F64) -> F64:
    """The weighted sum, [1, 2, W], of residues [m, 2, W]."""
    found = np.empty((1, *rows.shape[1:]))
    chosen = np.flatnonzero(weights)
    factors = weights[chosen].astype(np.float64)[None]
    for index, field in enumerate(plan.ring.fields):
        found[:, index] = field.canonical(field.product(factors, rows[chosen, index]))
    return found


def _check_shares(plan: MaskingPlan, shares: F64) -> None:
    if shares.ndim != 3 or shares.shape[1:] != (2, DEGREE) or not 1 <= len(shares) <= plan.cohort:
        raise UpdateRefused(
            f"must have shape (1 to {plan.cohort}, 2, {DEGREE}), not {shares.shape}", where="shares"
        )


def check_weights(plan: MaskingPlan, weights: I64, *, owners: int) -> None:
    """Refuse weights that the plan does not allow to be summed with.

    Raises:
        UpdateRefused: not int64[owners], or a weight outside 0..max_weight.
        QuorumMissing: fewer owners with a weight above 0 than ``plan.minimum_sum``.
    """
    if not isinstance(weights, np.ndarray) or weights.dtype != np.int64 or weights.shape != (owners,):
        raise UpdateRefused(f"must be int64 of shape ({owners},)", where="weights")
    if owners > plan.cohort:
        raise UpdateRefused(f"must be of at most {plan.cohort} owners, not {owners}", where="weights")
    if owners and not 0 <= int(weights.min()) <= int(weights.max()) <= plan.max_weight:
        raise UpdateRefused(f"must be from 0 to {plan.max_weight}", where="weights")
    counted = int(np.count_nonzero(weights))
    if counted < plan.minimum_sum:
        raise QuorumMissing(
            f"a sum must be over at least {plan.minimum_sum} owners, not {counted}", where="weights"
        )


def weights_digest(weights: I64) -> Digest:
    """BLAKE3 of weights int64[m]: the name of a sum."""
    hasher = blake3(derive_key_context=_WEIGHTS_LABEL)
    hasher.update(len(weights).to_bytes(8, "big"))
    hasher.update(weights.astype("<i8").tobytes())
    return Digest(hasher.digest())


class Asking(Enum):
    """The last thing that was newly answered."""

    NOTHING = "nothing"
    GATE = "gate"
    SUM = "sum"
    VALUE = "value"
    TWINS = "twins"


@dataclass(frozen=True, slots=True)
class GateAsked:
    """The gate's products with every accepted owner of a round. ``accepted`` names the accepted set."""

    round_index: int
    accepted: Digest
    digest: Digest
    count: int


@dataclass(frozen=True, slots=True, eq=False)
class SumAsked:
    """One weighted sum of the round's accepted owners, in their order; ``weights`` int64[m]."""

    round_index: int
    accepted: Digest
    weights: I64

    @property
    def digest(self) -> Digest:
        """The name of this sum."""
        return weights_digest(self.weights)


@dataclass(frozen=True, slots=True)
class ValueAsked:
    """The product with the path gradient, of every accepted owner of a round."""

    round_index: int
    accepted: Digest
    digest: Digest
    count: int


@dataclass(frozen=True, slots=True)
class TwinsAsked:
    """Projections of every round's accepted owners, after the last round.

    ``round_index`` is the last round's; ``accepted`` names the accepted sets of all rounds together.
    """

    round_index: int
    accepted: Digest
    digest: Digest
    count: int


Question: TypeAlias = GateAsked | SumAsked | ValueAsked | TwinsAsked


@dataclass(frozen=True, slots=True)
class MemberState:
    """What a member has answered in one job of ``rounds`` rounds.

    ``answered`` maps kind and round to the names of what was answered: (accepted set, question).
    """

    plan: MaskingPlan
    rounds: int
    asking: Asking = Asking.NOTHING
    round_index: int = -1
    answered: tuple[tuple[type[Question], int, Digest, Digest], ...] = ()

    def answer_to(self, question: Question) -> tuple[Digest, Digest] | None:
        """The accepted set and question that this kind was answered for in this round, or None."""
        for kind, round_index, accepted, digest in self.answered:
            if kind is type(question) and round_index == question.round_index:
                return accepted, digest
        return None


def step(state: MemberState, question: Question) -> MemberState:
    """The state after ``question`` is answered; the same state if it was answered before, word for word.

    The caller keeps the new state before it gives the answer away.

    Raises:
        PhaseError: not this question's turn, another question or accepted set in the place of one that was
            answered, a round that does not exist, or more numbers than the plan opens.
        UpdateRefused: weights that are not the plan's.
        QuorumMissing: a sum over fewer owners than the plan's minimum, or a weight that fewer of them carry.
    """
    if (known := state.answer_to(question)) is not None:
        _require(known[0] == question.accepted, question, "was answered for another accepted set")
        _require(known[1] == question.digest, question, "another question was answered in its place")
        return state
    transition = TABLE.get((state.asking, type(question)))
    if transition is None:
        raise PhaseError(f"is not possible after {state.asking.value}", where=_name(question))
    transition.check(state, question)
    entry = (type(question), question.round_index, question.accepted, question.digest)
    return replace(
        state,
        asking=transition.target,
        round_index=question.round_index,
        answered=(*state.answered, entry),
    )


def _name(question: Question) -> str:
    return f"{type(question).__name__} of {round_name(question.round_index)}"


def _require(condition: bool, question: Question, what: str) -> None:
    if not condition:
        raise PhaseError(what, where=_name(question))


def _check_gate(state: MemberState, question: GateAsked) -> None:
    # A round that ended without a sum is passed over; none is gone back to.
    low, high = state.round_index + 1, state.rounds - 1
    _require(low <= question.round_index <= high, question, f"must be of {round_name(low)} to {high + 1}")
    _require_count(question, 1 + state.plan.projections)


def _check_sum(state: MemberState, question: SumAsked) -> None:
    _require_same_set(state, question)
    check_weights(state.plan, question.weights, owners=len(question.weights))
    check_carried(question.weights, state.plan.minimum_sum)


def _check_value(state: MemberState, question: ValueAsked) -> None:
    _require_same_set(state, question)
    _require_count(question, 1)


def _check_twins(state: MemberState, question: TwinsAsked) -> None:
    # Rounds without a gate may come after the last one with it.
    low, high = state.round_index, state.rounds - 1
    _require(low <= question.round_index <= high, question, f"must be of {round_name(low)} to {high + 1}")
    _require_count(question, state.plan.twin_projections)


def _require_same_set(state: MemberState, question: SumAsked | ValueAsked) -> None:
    _require(
        question.round_index == state.round_index, question, f"{round_name(state.round_index)} is under way"
    )
    accepted = next(row[2] for row in state.answered if row[:2] == (GateAsked, state.round_index))
    _require(question.accepted == accepted, question, "the accepted set is not the gate's")


def _require_count(question: GateAsked | ValueAsked | TwinsAsked, most: int) -> None:
    _require(1 <= question.count <= most, question, f"must ask 1 to {most} numbers, not {question.count}")


@dataclass(frozen=True, slots=True)
class Transition:
    """One row of the table: what must hold, and what was answered last then."""

    check: Callable[[MemberState, Any], None]
    target: Asking
    condition: str


_GATE = Transition(_check_gate, Asking.GATE, "a later round; at most 1 + projections numbers")
_TWINS = Transition(_check_twins, Asking.TWINS, "after the last round; at most twin_projections numbers")

TABLE: Final[Mapping[tuple[Asking, type[Question]], Transition]] = {
    (Asking.NOTHING, GateAsked): _GATE,
    (Asking.GATE, GateAsked): _GATE,
    (Asking.SUM, GateAsked): _GATE,
    (Asking.VALUE, GateAsked): _GATE,
    (Asking.GATE, SumAsked): Transition(
        _check_sum,
        Asking.SUM,
        "same round and accepted set; each weight the plan's, and that of at least minimum_sum owners",
    ),
    (Asking.SUM, ValueAsked): Transition(
        _check_value, Asking.VALUE, "same round and accepted set; one number"
    ),
    (Asking.GATE, TwinsAsked): _TWINS,
    (Asking.SUM, TwinsAsked): _TWINS,
    (Asking.VALUE, TwinsAsked): _TWINS,
}
"""Every pair of what was answered last and what may be answered next."""
