"""One round of masked mode: what is asked of the updates, in order, and what follows from the answers.

Nobody sees an update. Known are a few products of each with public vectors, and one weighted sum::

    gate_questions -> take_gate -> take_sum -> value_questions -> finish

Whoever holds the updates in the clear (a simulation) and whoever opens masked ones gives the same integers
here, so both get the same model and the same values. Each step is taken once, in this order.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from galaxylearning.contribution import PathValue, UnitErrors, values_of_scalars
from galaxylearning.errors import PhaseError, UpdateRefused
from galaxylearning.learning import gate_scalars, projected_squares
from galaxylearning.learning.gate import REASONS
from galaxylearning.learning.vectors import exact_dot
from galaxylearning.protocol.masking import rng_of
from galaxylearning.secagg.questions import Dense, Joined, Questions, Signs, quantise_functional
from galaxylearning.secagg.weights import shared_weights
from galaxylearning.units import Address, round_name

if TYPE_CHECKING:
    from galaxylearning.learning import UpdateMatrix
    from galaxylearning.protocol.outcomes import ModelState, RoundOutcome
    from galaxylearning.protocol.rounds import JobComputation

OUT_OF_RANGE, BAD_SHARES, STANDS_ALONE, NO_SUM = (len(REASONS) + place for place in (1, 2, 3, 4))
"""Beside the gate's own reasons, why a masked update does not count (``protocol.rounds`` has the texts)."""

POINT: Final = 0.9
"""The largest coordinate of a question, as a part of the L2 norm of all others."""

I64 = NDArray[np.int64]
F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Gated:
    """What the gate decided: weights int64[m], cosines f64[m], reasons int8[m] as in ``learning.gate``.

    ``squares`` f64[m] are the squared norms of the updates, estimated, in squared quantisation levels.
    """

    weights: I64
    cosines: F64
    reasons: NDArray[np.int8]
    squares: F64


class MaskedRound:
    """A round between its anchor and its outcome. ``owners`` are those whose update is read, in any order."""

    def __init__(self, job: JobComputation, owners: tuple[Address, ...], beacon: bytes) -> None:
        self._job, self.owners, self._beacon = job, owners, beacon
        self._gate_questions: Questions | None = None
        self._reference: F64 = np.zeros(0)
        self._reference_square = 0
        self.gated: Gated | None = None
        self.clear: UpdateMatrix | None = None
        """The updates themselves, where a simulation has them; nothing here looks at them."""
        self._after: ModelState | None = None
        self._value: _ValueQuestion | None = None

    def _seed(self, purpose: str) -> bytes:
        return self._job.question_seed(self._beacon, purpose)

    @property
    def _functional_norm(self) -> float:
        if self._job.masking is None:
            raise ValueError("this job is not masked")
        return self._job.masking.functional_norm

    def _quantised(self, vector: F64, purpose: str) -> tuple[I64, float]:
        """As integers that a member may answer: zeros, which tell nothing, where there are none."""
        found, scale = quantise_functional(
            blunted(vector), norm=self._functional_norm, rng=rng_of(self._seed(purpose))
        )
        return (np.zeros_like(found), 0.0) if Dense(found[None]).is_pointed else (found, scale)

    # ---- gate

    def gate_questions(self) -> Questions:
        """The product with the step on the hidden set, and the projections that tell the norm."""
        if self._gate_questions is None:
            job = self._job
            self._reference = job.hidden_step()[0].astype(np.float64)
            vector, _ = self._quantised(self._reference, "gate")
            self._reference_square = exact_dot(vector, vector)
            signs = Signs(job.terms.plan.projections, vector.size, self._seed("projections"))
            self._gate_questions = Joined((Dense(vector[None]), signs))
        return self._gate_questions

    def take_gate(self, opened: I64, faults: NDArray[np.int8] | None = None) -> Gated:
        """Decide by the products int64[m, 1 + projections].

        ``faults`` int8[m] say which updates do not count whatever was opened of them: ``OUT_OF_RANGE``,
        ``BAD_SHARES``, or 0.

        Raises:
            PhaseError: the gate was taken before.
            UpdateRefused: products of another shape.
        """
        count = self.gate_questions().count
        if self.gated is not None:
            raise PhaseError("the gate has decided already", where=round_name(self._job.round_index))
        faulty = np.zeros(len(self.owners), np.int8) if faults is None else faults
        if opened.shape != (len(self.owners), count) or faulty.shape != (len(self.owners),):
            raise UpdateRefused(f"must be {len(self.owners)} by {count}, not {opened.shape}", where="opened")
        usable = faulty == 0
        squares = projected_squares(opened[:, 1:])
        table = gate_scalars(
            np.where(usable, opened[:, 0], 0),
            np.where(usable, squares, 0),
            reference_square=self._reference_square,
            max_weight=self._job.terms.plan.max_weight,
            copies=count - 1,
        )
        weights, reasons = self._job.stood(self.owners, table)
        weights, reasons = carried(weights, np.where(usable, reasons, faulty), self._minimum_sum)
        self.gated = Gated(
            weights,
            table.cosines,
            reasons,
            table.norms * table.norms,
        )
        return self.gated

    # ---- sum

    @property
    def is_summed(self) -> bool:
        """Whether enough updates count for their sum to be opened; raises PhaseError before the gate."""
        return int((self._decided().weights > 0).sum()) >= self._minimum_sum

    @property
    def _minimum_sum(self) -> int:
        if self._job.masking is None:
            raise ValueError("this job is not masked")
        return self._job.masking.minimum_sum

    @property
    def has_sum(self) -> bool:
        """Whether the sum was taken."""
        return self._after is not None

    def take_sum(self, total: I64) -> None:
        """Move the model by the opened weighted sum int64[P].

        Raises:
            PhaseError: before the gate, a second time, or where too few updates count for a sum.
        """
        weights = self._decided().weights
        if self._after is not None or not self.is_summed:
            raise PhaseError("no sum is to be opened", where=round_name(self._job.round_index))
        weight = int(weights.sum())
        self._after = self._job.moved(total, weight)

    def drop_sum(self) -> None:
        """End the round where it began: its sum cannot be opened, so no update counts, and none is charged.

        Raises:
            PhaseError: before the gate, after a sum, or where none was to be opened.
        """
        gated = self._decided()
        if self._after is not None or not self.is_summed:
            raise PhaseError("no sum is to be opened", where=round_name(self._job.round_index))
        reasons = np.where(gated.weights > 0, NO_SUM, gated.reasons).astype(np.int8)
        self.gated = replace(gated, weights=np.zeros_like(gated.weights), reasons=reasons)

    # ---- value

    def value_questions(self) -> Questions | None:
        """The product with the gradient along the round's step; None where the model did not move.

        Raises:
            PhaseError: the sum is still to be taken.
        """
        if self._after is None:
            if self.is_summed:
                raise PhaseError("the sum comes first", where=round_name(self._job.round_index))
            return None
        if self._value is None:
            self._value = self._made_value_question(self._after)
        return self._value.questions

    def _made_value_question(self, after: ModelState) -> _ValueQuestion:
        job = self._job
        scorer = job.scorer(after)
        vector, scale = self._quantised(scorer.mean_gradient, "value")
        errors = UnitErrors.of(scorer, self._reference, job.judge.gating_gradients(job.state))
        return _ValueQuestion(Dense(vector[None]), scale, errors, scorer.gain_estimate)

    def finish(
        self,
        opened: I64 | None,
        *,
        absent: Collection[Address] = (),
        malformed: Mapping[Address, str] | None = None,
    ) -> RoundOutcome:
        """Value every accepted update by its product, int64[m, 1] (None where nothing is asked), and go on.

        Raises:
            PhaseError: a step before this one is missing.
            UpdateRefused: products of another shape, or none where there must be some.
        """
        gated, question = self._decided(), self.value_questions()
        if (opened is None) != (question is None) or (
            opened is not None and opened.shape != (len(self.owners), 1)
        ):
            raise UpdateRefused("must be one product an update, where asked for", where="opened")
        worth = None if opened is None else self._worth(opened[:, 0], gated)
        return self._job.finished(self, gated, worth, self._after, absent, malformed or {})

    def _worth(self, scalars: I64, gated: Gated) -> PathValue:
        question, unit = self._value, self._job.parameter_unit
        if question is None:
            raise PhaseError("no value was asked for")
        return values_of_scalars(
            scalars,
            gated.weights / int(gated.weights.sum()),
            unit=question.scale * unit,
            errors=question.errors.errors(np.sqrt(gated.squares) * unit, gated.cosines),
            gain_estimate=question.gain_estimate,
        )

    def _decided(self) -> Gated:
        if self.gated is None:
            raise PhaseError("the gate comes first", where=round_name(self._job.round_index))
        return self.gated


@dataclass(frozen=True, slots=True, eq=False)
class _ValueQuestion:
    questions: Questions
    scale: float
    errors: UnitErrors
    gain_estimate: float


def carried(weights: I64, reasons: NDArray[np.integer], minimum: int) -> tuple[I64, NDArray[np.int8]]:
    """Weights int64[m] and reasons int8[m] after every weight is that of at least ``minimum`` updates.

    Where fewer count at all there will be no sum, and both stay as they are.
    """
    codes = reasons.astype(np.int8)
    if int((weights > 0).sum()) < minimum:
        return weights, codes
    shared = shared_weights(weights, minimum)
    codes[(weights > 0) & (shared == 0)] = STANDS_ALONE
    return shared, codes


def blunted(vector: F64) -> F64:
    """``vector`` f64[P] with no coordinate larger than all others together, in L2 norm, by a margin.

    A question with one large coordinate would show that coordinate of everybody's update, and no member
    answers it. Gradients that have one are rare; it is lowered to ``POINT`` times the norm of the others, and
    the second with it where that would leave the second too large. With fewer than three coordinates there
    is nothing to hide among: zeros, which ask nothing.
    """
    if vector.size < 3:
        return np.zeros_like(vector)
    sizes = np.abs(vector)
    first, second = np.argpartition(sizes, (-2, -1))[[-1, -2]]
    rest = float(np.sum(np.square(np.delete(sizes, (first, second)))))
    allowed = POINT * math.sqrt(rest + float(sizes[second]) ** 2)
    if sizes[first] <= allowed:
        return vector
    if allowed < sizes[second]:
        allowed = POINT * math.sqrt(rest / (1 - POINT**2))
    return np.clip(vector, -allowed, allowed)
