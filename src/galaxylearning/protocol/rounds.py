"""One round, from the updates that were accepted to the next model and what each update was worth.

Evaluators, auditors and the simulator run exactly this: the same inputs give the same decisions, models and
scores. Integers are summed, the server's step is elementwise float64, and what floats decide (the gate's
reference step, the values' gradient) is quantised before it is used. Knows neither chain nor store; the
hidden test set arrives as arrays.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from galaxylearning.contribution import (
    MAX_PLAYERS,
    PathScorer,
    PathValue,
    SentUpdates,
)
from galaxylearning.contribution.sketch import SKETCH_SIZE, sketch_rows
from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.errors import GalaxyError, GraphRefused, JobRefused, UpdateRefused
from galaxylearning.graph.model import Model
from galaxylearning.learning import (
    GateTable,
    Standings,
    UpdateMatrix,
    aggregate,
    gate,
    gate_scalars,
    projected_squares,
)
from galaxylearning.learning.exact import Spread, exact_products, one_by_one
from galaxylearning.learning.gate import REASONS, STANDS_BADLY
from galaxylearning.learning.quantise import row_type
from galaxylearning.learning.rules import rule_named
from galaxylearning.learning.vectors import F64, I32, I64, exact_dot
from galaxylearning.messages.fields import address_key
from galaxylearning.messages.plan import MIN_SUM
from galaxylearning.messages.terms import Terms
from galaxylearning.protocol.buffers import buffers_after, moved_too_far
from galaxylearning.protocol.hidden_set import HiddenSet
from galaxylearning.protocol.judge import Judge
from galaxylearning.protocol.masked_round import Gated, MaskedRound, carried
from galaxylearning.protocol.masking import masking_plan, question_seed, simulated_beacon
from galaxylearning.protocol.outcomes import (
    STANDS_ALONE,
    STATUSES,
    ModelState,
    RoundHistory,
    RoundOutcome,
)
from galaxylearning.protocol.ruling import RULING_REASONS, rule_round
from galaxylearning.protocol.updates import (
    decode_body,
    quantizer,
    server_optimizer,
    train_hidden,
)
from galaxylearning.secagg.plan import MaskingPlan
from galaxylearning.secagg.questions import Signs
from galaxylearning.units import Address, Digest

History: TypeAlias = Literal["full", "twins", "none"]
"""What is kept of past rounds beside decisions, values and measures: models and updates, only what the search
for twins needs, or nothing (then no twins are found)."""

BUFFERS_TOO_FAR = "buffers moved too far above what is usual"
OUT_OF_RANGE = "outside the range that the masking allows"
_TOO_FAR = len(REASONS)
BAD_SHARES = "its shares are not those of one secret"
NO_SUM = "the sum of its round could not be opened"
_ALL_REASONS = (*REASONS, BUFFERS_TOO_FAR, OUT_OF_RANGE, BAD_SHARES, STANDS_ALONE, NO_SUM, *RULING_REASONS)

BUFFERS_IN_MASKED = (
    "has federated buffers, such as BatchNorm's means, which masked mode does not carry; allowed: privacy "
    "'sealed', buffers that are skipped, or another normalisation"
)


class JobComputation:
    """The job's arithmetic, round by round, for an evaluator that lives it and an auditor who replays it."""

    def __init__(
        self,
        terms: Terms,
        job_id: int,
        model: Model,
        hidden: HiddenSet,
        *,
        history: History = "full",
        spread: Spread = one_by_one,
    ) -> None:
        """Begin at the initial model; ``spread`` may work off integer products on several threads."""
        self.terms, self.job_id, self.model, self.hidden = terms, job_id, model, hidden
        self.judge = Judge(terms, model, hidden)
        self._keeps, self._spread = history, spread
        params, buffers = model.initial()
        self.state = ModelState(params, buffers, server_optimizer(terms.plan).init(params.size), None)
        self.sizes = (params.size, buffers.size)
        self.masking = masking_plan(terms, params.size) if terms.privacy == "masked" else None
        if self.masking is not None and buffers.size:
            raise JobRefused(BUFFERS_IN_MASKED, where="model")
        self.outcomes: list[RoundOutcome] = []
        self._stood = (0, Standings())
        self._hashed: tuple[ModelState, Digest] | None = None
        self._hidden: tuple[ModelState, int, tuple[I32, I32]] | None = None
        self._prepared = -1

    @property
    def round_index(self) -> int:
        """The round whose updates come next."""
        return len(self.outcomes)

    def model_bytes(self) -> bytes:
        """The current model as it travels."""
        return self.model.state_bytes(self.state.params, self.state.buffers)

    def model_digest(self) -> Digest:
        """BLAKE3 of ``model_bytes``."""
        if self.outcomes:
            return self.outcomes[-1].model_digest
        if self._hashed is None or self._hashed[0] is not self.state:
            # Evaluators ask at every look, for as long as the first round takes.
            self._hashed = self.state, blake3_digest(self.model_bytes())
        return self._hashed[1]

    def advance(
        self, bodies: Mapping[Address, bytes | GalaxyError | None], *, beacon: bytes | None = None
    ) -> RoundOutcome:
        """Take one round's opened updates of the whole cohort: bytes, why they could not be opened, or None.

        A round in which nothing is accepted leaves the model as it was. ``beacon`` as in ``advance_updates``.
        """
        owners: list[Address] = []
        malformed: dict[Address, str] = {}
        kind = row_type(self.terms.plan.bits)
        count = sum(1 for body in bodies.values() if isinstance(body, bytes))
        parameters = np.empty((count, self.sizes[0]), kind)
        buffers = np.empty((count, self.sizes[1]), np.int32)
        for who, body in bodies.items():
            if body is None:
                continue
            try:
                if isinstance(body, GalaxyError):
                    raise body
                update = decode_body(
                    body,
                    job_id=self.job_id,
                    round_index=self.round_index,
                    data_owner=who,
                    sizes=self.sizes,
                    bits=self.terms.plan.bits,
                )
            except GalaxyError as refused:
                malformed[who] = str(refused)[:200]
            else:
                parameters[len(owners)], buffers[len(owners)] = update
                owners.append(who)
        updates = UpdateMatrix(
            tuple(owners), parameters[: len(owners)], buffers[: len(owners)], self.terms.plan.bits
        )
        absent = [who for who, body in bodies.items() if body is None]
        return self.advance_updates(updates, absent=absent, malformed=malformed, beacon=beacon)

    def advance_updates(
        self,
        updates: UpdateMatrix,
        *,
        absent: Collection[Address] = (),
        malformed: Mapping[Address, str] | None = None,
        beacon: bytes | None = None,
    ) -> RoundOutcome:
        """Take one round's updates as integers; ``absent`` sent none, ``malformed`` ones could not be read.

        ``beacon`` is the randomness of the block that anchored them, of which the projections of the gate are
        drawn; made up from the terms where there is no chain. A masked job asks the updates what it would ask
        masked ones, and nothing else.

        Raises:
            UpdateRefused: a matrix of another width or number of bits, or a data owner who is named twice.
        """
        self._check(updates, absent, malformed or {})
        refused = dict(malformed or {}) | self._broken_buffers(updates)
        updates = updates.only([who for who in updates.owners if who not in refused])
        beacon = simulated_beacon(self.terms.seed) if beacon is None else beacon
        if self.masking is not None:
            return self._answered_in_the_clear(self.masking, updates, beacon, absent, refused)
        if self.terms.plan.rule != "gate":
            return self._ruled_round(updates, absent, refused)
        weights, cosines, found = self._gate(updates, beacon)
        before = self.state
        after = self._step(before, updates, weights) if bool(weights.any()) else before
        worth = None if after is before else self._score(after, updates, weights)
        outcome = self._outcome(
            updates.owners, absent, refused, (weights, cosines, found), worth, after, updates
        )
        return self._moved_on(outcome, after)

    def _ruled_round(
        self, updates: UpdateMatrix, absent: Collection[Address], refused: Mapping[Address, str]
    ) -> RoundOutcome:
        """A round by another rule than the gate, which sees every update."""
        is_needed = rule_named(self.terms.plan.rule).needs_reference and len(updates) > 0
        reference = self.hidden_step()[0].astype(np.int64) if is_needed else None
        ruling = rule_round(self.terms, self.round_index, updates, reference, spread=self._spread)
        after, worth = self.state, None
        if ruling.ruled is not None and ruling.is_step:
            after = self.moved(ruling.ruled.total, ruling.ruled.divisor)
            if ruling.buffers is not None:
                after = replace(after, buffers=buffers_after(after.buffers, *ruling.buffers))
            worth = self._score(after, updates, ruling.weights, ruling.ruled.stretch)
        code = _ALL_REASONS.index(ruling.reason)
        found = np.where(ruling.weights > 0, 0, code).astype(np.int8)
        decided = (ruling.weights, np.zeros(len(updates)), found)
        outcome = self._outcome(updates.owners, absent, refused, decided, worth, after, updates)
        return self._moved_on(outcome, after)

    def begin_masked(self, owners: tuple[Address, ...], beacon: bytes) -> MaskedRound:
        """The next round of a masked job, of the updates of ``owners``; it ends with ``finished``."""
        return MaskedRound(self, owners, beacon)

    def _answered_in_the_clear(
        self,
        masking: MaskingPlan,
        updates: UpdateMatrix,
        beacon: bytes,
        absent: Collection[Address],
        refused: Mapping[Address, str],
    ) -> RoundOutcome:
        """A masked round whose questions are answered from the updates themselves."""
        opening = self.begin_masked(updates.owners, beacon)
        opening.clear = updates
        rows, spread = updates.parameters, self._spread
        shown = masking.shown
        gated = opening.take_gate(shown(opening.gate_questions().products(rows, spread=spread)))
        if opening.is_summed:
            opening.take_sum(aggregate(rows, gated.weights, spread=spread)[0])
        question = opening.value_questions()
        values = None if question is None else shown(question.products(rows, spread=spread))
        return opening.finish(values, absent=absent, malformed=refused)

    def finished(
        self,
        opened: MaskedRound,
        gated: Gated,
        worth: PathValue | None,
        after: ModelState | None,
        absent: Collection[Address],
        malformed: Mapping[Address, str],
    ) -> RoundOutcome:
        """Take the end of a masked round; for ``MaskedRound.finish``."""
        after = self.state if after is None else after
        decided = (gated.weights, gated.cosines, gated.reasons)
        outcome = self._outcome(opened.owners, absent, malformed, decided, worth, after, opened.clear)
        return self._moved_on(outcome, after)

    def _moved_on(self, outcome: RoundOutcome, after: ModelState) -> RoundOutcome:
        self.outcomes.append(outcome)
        self.state = after
        return outcome

    def _check(
        self, updates: UpdateMatrix, absent: Collection[Address], malformed: Mapping[Address, str]
    ) -> None:
        widths = (updates.parameters.shape[1], updates.buffers.shape[1])
        if widths != self.sizes or updates.bits != self.terms.plan.bits:
            raise UpdateRefused(
                f"must hold {self.sizes} parameters and buffers of {self.terms.plan.bits} bits, "
                f"not {widths} of {updates.bits}",
                where="updates",
            )
        count = len(updates) + len(absent) + len(malformed)
        if len({*updates.owners, *absent, *malformed}) != count:
            raise UpdateRefused("must name every data owner once", where="updates")

    def _broken_buffers(self, updates: UpdateMatrix) -> dict[Address, str]:
        """Whose buffers make the model of this round infinite or NaN on the gating rows, with the reason."""
        if not self.sizes[1]:
            return {}
        rows, broken = self.hidden.gating, {}
        for who, change in zip(updates.owners, updates.buffers, strict=True):
            buffers = buffers_after(self.state.buffers, change, 1)
            losses = self.judge.losses(self.state.params, buffers, rows)
            if not bool(np.isfinite(losses).all()):
                broken[who] = str(UpdateRefused("make the model's loss infinite or NaN", where="buffers"))
        return broken

    @property
    def needs_step(self) -> bool:
        """Whether updates are held against what the hidden set itself would send."""
        plan = self.terms.plan
        return plan.gate if plan.rule == "gate" else rule_named(plan.rule).needs_reference

    def hidden_step(self) -> tuple[I32, I32]:
        """What training on the gating half of the hidden set would send, int32[P] and buffers int32[B].

        Zeros where that diverges or the graph does not run: then no update counts. A requester whose hidden
        set nobody can train on wastes its own rounds, and no evaluator's stake.
        """
        known = self._hidden
        if known is not None and known[0] is self.state and known[1] == self.round_index:
            return known[2]
        rng = np.random.default_rng([self.terms.seed, self.round_index, 0x6A7E])
        state = (self.state.params, self.state.buffers)
        try:
            found = train_hidden(self.model, self.terms, state, self.hidden.gating, rng=rng)
        except (UpdateRefused, GraphRefused):
            found = np.zeros(self.sizes[0], np.int32), np.zeros(self.sizes[1], np.int32)
        self._hidden = self.state, self.round_index, found
        return found

    def prepare(self) -> None:
        """Compute ahead what the round needs whatever its updates will be."""
        if self._prepared == self.round_index:
            return
        self._prepared = self.round_index
        if self.needs_step:
            self.hidden_step()

    def _gate(self, updates: UpdateMatrix, beacon: bytes) -> tuple[I64, F64, NDArray[np.int8]]:
        """Weights int64[m], cosines f64[m] and reasons int8[m] of the updates."""
        plan, count, rows = self.terms.plan, len(updates), updates.parameters
        if not plan.gate or not count:
            return np.full(count, plan.max_weight), np.zeros(count), np.zeros(count, np.int8)
        reference, buffers = self.hidden_step()
        step = reference.astype(np.int64)
        if plan.projections:
            signs = Signs(plan.projections, step.size, self.question_seed(beacon, "projections"))
            table = gate_scalars(
                exact_products(rows, step[None], spread=self._spread)[:, 0],
                projected_squares(signs.products(rows, spread=self._spread)),
                reference_square=exact_dot(step, step),
                max_weight=plan.max_weight,
                copies=plan.projections,
            )
        else:
            table = gate(rows, step, max_weight=plan.max_weight, spread=self._spread)
        too_far = moved_too_far(updates.buffers, table.accepted, buffers)
        weights, reasons = self.stood(updates.owners, table)
        weights[too_far], reasons[too_far] = 0, _TOO_FAR
        if plan.projections:
            # As in masked mode, so that one job has one course in both.
            weights, reasons = carried(weights, reasons, MIN_SUM)
        return weights, table.cosines, reasons

    def stood(self, owners: Sequence[Address], table: GateTable) -> tuple[I64, NDArray[np.int8]]:
        """The gate's weights int64[m], lowered by what past rounds say of everybody, and reasons int8[m]."""
        weights, reasons = table.weights.copy(), table.reasons.copy()
        if self.terms.plan.standing:
            weights = self._standings().lowered(owners, table.cosines, weights)
            reasons[(table.weights > 0) & (weights == 0)] = REASONS.index(STANDS_BADLY)
        return weights, reasons

    def _standings(self) -> Standings:
        """Everybody's record, of all rounds that are over; anew where a round was taken back."""
        noted, standings = self._stood
        if noted > len(self.outcomes):
            noted, standings = 0, Standings()
        for outcome in self.outcomes[noted:]:
            read = np.flatnonzero(outcome.codes < STATUSES.index("absent"))
            standings.add([outcome.data_owners[i] for i in read.tolist()], outcome.cosines[read])
        self._stood = (len(self.outcomes), standings)
        return standings

    def _step(self, before: ModelState, updates: UpdateMatrix, weights: I64) -> ModelState:
        after = self.moved(*aggregate(updates.parameters, weights, spread=self._spread))
        if not before.buffers.size:
            return after
        change, weight = aggregate(updates.buffers, weights, spread=self._spread)
        return replace(after, buffers=buffers_after(before.buffers, change, weight))

    def moved(self, total: I64, weight: int) -> ModelState:
        """The model after the server's step with a weighted sum of updates int64[P] and its whole weight."""
        before = self.state
        mean = quantizer(self.terms.plan, self.sizes[0]).dequantize(total, weight)
        server, params = server_optimizer(self.terms.plan).apply(before.server, before.params, mean)
        return ModelState(params, before.buffers, server, params.astype(np.float64) - before.params)

    def _score(
        self, after: ModelState, updates: UpdateMatrix, weights: I64, stretch: float = 1.0
    ) -> PathValue:
        """Value of every update, with its standard error, in units of the loss per hidden sample.

        The step is ``stretch`` times the mean of the updates by their weights int64[m].
        """
        return self.scorer(after).values(
            [updates.parameters],
            weights / int(weights.sum()),
            unit=stretch * self.parameter_unit,
            spread=self._spread,
        )

    def scorer(self, after: ModelState) -> PathScorer:
        """The gradient of the paying half, integrated along the step to ``after``."""
        plan, before = self.terms.plan, self.state
        if after.previous_step is None:
            raise ValueError("a model that has not moved has no step")
        return PathScorer(
            self.judge.gradient_blocks(before.buffers),
            before.params.astype(np.float64),
            after.previous_step,
            update_bits=plan.bits,
            midpoints=plan.midpoints,
            previous_step=before.previous_step if plan.novelty else None,
        )

    @property
    def parameter_unit(self) -> float:
        """By how much an integer of the mean update moves a parameter."""
        return self.terms.plan.server_learning_rate / quantizer(self.terms.plan, self.sizes[0]).scale

    def question_seed(self, beacon: bytes, purpose: str) -> bytes:
        """32 bytes for this round's questions of one purpose."""
        return question_seed(beacon, purpose, job_id=self.job_id, round_index=self.round_index)

    def _outcome(
        self,
        owners: tuple[Address, ...],
        absent: Collection[Address],
        refused: Mapping[Address, str],
        gated: tuple[I64, F64, NDArray[np.int8]],
        worth: PathValue | None,
        after: ModelState,
        updates: UpdateMatrix | None,
    ) -> RoundOutcome:
        weights, cosines, found = gated
        names = [*owners, *absent, *refused]
        keys = [address_key(who) for who in names]
        order = np.array(sorted(range(len(names)), key=keys.__getitem__), np.int64)
        codes = np.full(len(names), 3, np.int8)
        codes[: len(owners)] = found != 0
        codes[len(owners) : len(owners) + len(absent)] = 2
        reasons = {owners[i]: _ALL_REASONS[found[i]] for i in np.flatnonzero(found).tolist()}

        def arranged(values: F64) -> F64:
            return np.concatenate([values, np.zeros(len(names) - values.size)])[order]

        nothing = np.zeros(len(owners))
        accepted = weights > 0
        last = self.outcomes[-1] if self.outcomes else None
        was = last.measured_after if last else self.judge.measured(self.state)
        is_moved = after is not self.state
        return RoundOutcome(
            round_index=self.round_index,
            data_owners=tuple(names[i] for i in order.tolist()),
            codes=codes[order],
            weights=np.concatenate([weights, np.zeros(len(names) - weights.size, np.int64)])[order],
            cosines=arranged(cosines),
            values=arranged(np.where(accepted, worth.values, 0.0) if worth else nothing),
            errors=arranged(np.where(accepted, worth.standard_errors, 0.0) if worth else nothing),
            gain=worth.gain_estimate if worth else 0.0,
            reasons=reasons | dict(refused),
            model_digest=blake3_digest(self.model.state_bytes(after.params, after.buffers))
            if is_moved or last is None
            else last.model_digest,
            measured_before=was,
            measured_after=self.judge.measured(after) if is_moved else was,
            history=RoundHistory(self.state, after, updates)
            if self._keeps == "full" and updates is not None
            else None,
            sent=None if updates is None else self._sent(updates, len(names)),
        )

    def _sent(self, updates: UpdateMatrix, cohort: int) -> SentUpdates[Address] | None:
        """What the search for twins needs of a round; too large a cohort is not searched."""
        if self._keeps == "none" or cohort > MAX_PLAYERS:
            return None
        rows = updates.parameters
        if self.terms.masking is not None:
            if not self.terms.masking.twin_projections:
                return None
            beacon = simulated_beacon(self.terms.seed)
            answers = self.twin_questions(beacon).products(rows, spread=self._spread)
            return SentUpdates(updates.owners, answers.astype(np.float64))
        if rows.shape[1] > SKETCH_SIZE:
            return SentUpdates(updates.owners, sketch_rows(rows, SKETCH_SIZE, seed=self.terms.seed))
        return SentUpdates(updates.owners, rows)

    def twin_questions(self, beacon: bytes) -> Signs:
        """The projections of each round's updates by which twins are searched for, once all rounds are over.

        ``beacon`` is the randomness of the block that anchored the last round.
        """
        masking = self.terms.masking
        if masking is None:
            raise ValueError("this job is not masked")
        seed = question_seed(beacon, "twins", job_id=self.job_id, round_index=0)
        return Signs(masking.twin_projections, self.sizes[0], seed)

    def take_twins(self, round_index: int, owners: tuple[Address, ...], opened: I64) -> None:
        """Keep the opened answers int64[m, k] to a round's ``twin_questions``."""
        sent = SentUpdates(owners, opened.astype(np.float64))
        self.outcomes[round_index] = replace(self.outcomes[round_index], sent=sent)
