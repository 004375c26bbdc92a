"""One round, from the updates that were accepted to the next model and what each update was worth.

Evaluators, auditors and the simulator run exactly this: the same inputs give the same decisions, models and
scores. Integers are summed, the server's step is elementwise float64, and what floats decide (the gate's
reference step, the values' gradient) is quantised before it is used. Knows neither chain nor store; the
hidden test set arrives as arrays.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from galaxylearning.contribution import (
    MAX_PLAYERS,
    FixedPointUtility,
    GradientBlocks,
    PathScorer,
    PathValue,
    SentUpdates,
)
from galaxylearning.contribution.sketch import SKETCH_SIZE, sketch_rows
from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.errors import GalaxyError, QuorumMissing, UpdateRefused
from galaxylearning.graph.model import Model
from galaxylearning.learning import Quantizer, UpdateMatrix, aggregate, gate
from galaxylearning.learning.exact import Spread, exact_squares, one_by_one
from galaxylearning.learning.gate import REASONS
from galaxylearning.learning.quantise import row_type
from galaxylearning.messages.terms import CLASS_LOSSES, Terms
from galaxylearning.protocol.hidden_set import MIN_TEST_ROWS, SCORE_BLOCKS, HiddenSet, Rows
from galaxylearning.protocol.outcomes import (
    STATUSES,
    Decision,
    Measured,
    ModelState,
    RoundHistory,
    RoundOutcome,
    Status,
)
from galaxylearning.protocol.updates import (
    BUFFER_BITS,
    BUFFER_RANGE,
    body_limit,
    decode_body,
    encode_body,
    local_plan,
    quantizer,
    server_optimizer,
    train_update,
    training_seed,
)
from galaxylearning.units import Address, Digest

__all__ = [
    "BUFFER_BITS",
    "BUFFER_RANGE",
    "F32",
    "F64",
    "I32",
    "MIN_TEST_ROWS",
    "SCORE_BLOCKS",
    "STATUSES",
    "Decision",
    "HiddenSet",
    "History",
    "JobComputation",
    "Measured",
    "ModelState",
    "RoundHistory",
    "RoundOutcome",
    "Rows",
    "Status",
    "body_limit",
    "decode_body",
    "encode_body",
    "local_plan",
    "quantizer",
    "server_optimizer",
    "train_update",
    "training_seed",
]

F32: TypeAlias = NDArray[np.float32]
F64: TypeAlias = NDArray[np.float64]
I32: TypeAlias = NDArray[np.int32]
I64: TypeAlias = NDArray[np.int64]

History: TypeAlias = Literal["full", "twins", "none"]
"""What is kept of past rounds beside decisions, values and measures: models and updates, only what the search
for twins needs, or nothing (then no twins are found)."""

BUFFER_EXCESS = 4
"""The gate rejects buffers that moved this many times further than usual: no gradient speaks of them."""

BUFFERS_TOO_FAR = "buffers moved too far above the median"
_TOO_FAR = len(REASONS)


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
        self._keeps, self._spread = history, spread
        params, buffers = model.initial()
        self.state = ModelState(params, buffers, server_optimizer(terms.plan).init(params.size), None)
        self.sizes = (params.size, buffers.size)
        self.outcomes: list[RoundOutcome] = []

    @property
    def round_index(self) -> int:
        """The round whose updates come next."""
        return len(self.outcomes)

    def model_bytes(self) -> bytes:
        """The current model as it travels."""
        return self.model.state_bytes(self.state.params, self.state.buffers)

    def model_digest(self) -> Digest:
        """BLAKE3 of ``model_bytes``."""
        return self.outcomes[-1].model_digest if self.outcomes else blake3_digest(self.model_bytes())

    def advance(self, bodies: Mapping[Address, bytes | GalaxyError | None]) -> RoundOutcome:
        """Take one round's opened updates of the whole cohort: bytes, why they could not be opened, or None.

        A round in which nothing is accepted leaves the model as it was.
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
        return self.advance_updates(updates, absent=absent, malformed=malformed)

    def advance_updates(
        self,
        updates: UpdateMatrix,
        *,
        absent: Collection[Address] = (),
        malformed: Mapping[Address, str] | None = None,
    ) -> RoundOutcome:
        """Take one round's updates as integers; ``absent`` sent none, ``malformed`` ones could not be read.

        Raises:
            UpdateRefused: a matrix of another width or number of bits, or a data owner who is named twice.
        """
        self._check(updates, absent, malformed or {})
        refused = dict(malformed or {}) | self._broken_buffers(updates)
        updates = updates.only([who for who in updates.owners if who not in refused])
        weights, cosines, found = self._gate(updates, self.state)
        before = self.state
        after = self._step(before, updates, weights) if bool(weights.any()) else before
        worth = self._score(before, after, updates, weights)
        outcome = self._outcome(updates, absent, refused, (weights, cosines, found), worth, after)
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
            buffers = _moved(self.state.buffers, change, 1)
            losses = self.model.per_sample_loss(self.state.params, buffers, (rows.inputs,), rows.labels)
            if not bool(np.isfinite(losses).all()):
                broken[who] = str(UpdateRefused("make the model's loss infinite or NaN", where="buffers"))
        return broken

    def _gate(self, updates: UpdateMatrix, state: ModelState) -> tuple[I64, F64, NDArray[np.int8]]:
        """Weights int64[m], cosines f64[m] and reasons int8[m] of the updates."""
        plan, count = self.terms.plan, len(updates)
        if not plan.gate or not count:
            return np.full(count, plan.max_weight), np.zeros(count), np.zeros(count, np.int8)
        rng = np.random.default_rng([self.terms.seed, self.round_index, 0x6A7E])
        try:
            reference, buffers = train_update(
                self.model, self.terms, (state.params, state.buffers), self.hidden.gating, rng=rng
            )
        except UpdateRefused as refused:
            raise QuorumMissing(f"the hidden-set step diverged: {refused}") from refused
        table = gate(
            updates.parameters,
            reference.astype(np.int64),
            max_weight=plan.max_weight,
            spread=self._spread,
        )
        too_far = _moved_too_far(updates.buffers, table.accepted, buffers)
        weights, reasons = table.weights.copy(), table.reasons.copy()
        weights[too_far], reasons[too_far] = 0, _TOO_FAR
        return weights, table.cosines, reasons

    def _step(self, before: ModelState, updates: UpdateMatrix, weights: I64) -> ModelState:
        total, weight = aggregate(updates.parameters, weights, spread=self._spread)
        mean = quantizer(self.terms.plan).dequantize(total, weight)
        server, params = server_optimizer(self.terms.plan).apply(before.server, before.params, mean)
        buffers = before.buffers
        if buffers.size:
            change, weight = aggregate(updates.buffers, weights, spread=self._spread)
            buffers = _moved(buffers, change, weight)
        return ModelState(params, buffers, server, params.astype(np.float64) - before.params)

    def _score(
        self, before: ModelState, after: ModelState, updates: UpdateMatrix, weights: I64
    ) -> PathValue | None:
        """Value of every update, with its standard error, in nats per hidden sample; None without a step."""
        if after is before or after.previous_step is None:
            return None
        plan = self.terms.plan
        scorer = PathScorer(
            self.gradient_blocks(before.buffers),
            before.params.astype(np.float64),
            after.previous_step,
            update_bits=plan.bits,
            midpoints=plan.midpoints,
            previous_step=before.previous_step if plan.novelty else None,
        )
        return scorer.values(
            [updates.parameters],
            weights / int(weights.sum()),
            unit=plan.server_learning_rate / quantizer(plan).scale,
            spread=self._spread,
        )

    def _outcome(
        self,
        updates: UpdateMatrix,
        absent: Collection[Address],
        refused: Mapping[Address, str],
        gated: tuple[I64, F64, NDArray[np.int8]],
        worth: PathValue | None,
        after: ModelState,
    ) -> RoundOutcome:
        weights, cosines, found = gated
        names = [*updates.owners, *absent, *refused]
        keys = [int(who, 16) for who in names]
        order = np.array(sorted(range(len(names)), key=keys.__getitem__), np.int64)
        codes = np.full(len(names), 3, np.int8)
        codes[: len(updates)] = found != 0
        codes[len(updates) : len(updates) + len(absent)] = 2
        texts = (*REASONS, BUFFERS_TOO_FAR)
        reasons = {updates.owners[i]: texts[found[i]] for i in np.flatnonzero(found).tolist()}

        def arranged(values: F64) -> F64:
            return np.concatenate([values, np.zeros(len(names) - values.size)])[order]

        nothing = np.zeros(len(updates))
        accepted = weights > 0
        last = self.outcomes[-1] if self.outcomes else None
        was = last.measured_after if last else self.measured(self.state)
        is_moved = after is not self.state
        return RoundOutcome(
            round_index=self.round_index,
            data_owners=tuple(names[i] for i in order.tolist()),
            codes=codes[order],
            weights=np.concatenate([weights, np.zeros(len(names) - weights.size, np.int64)])[order],
            cosines=arranged(cosines),
            values=arranged(np.where(accepted, worth.values, 0.0) if worth else nothing),
            errors=arranged(np.where(accepted, worth.standard_errors, 0.0) if worth else nothing),
            reasons=reasons | dict(refused),
            model_digest=blake3_digest(self.model.state_bytes(after.params, after.buffers))
            if is_moved or last is None
            else last.model_digest,
            measured_before=was,
            measured_after=self.measured(after) if is_moved else was,
            history=RoundHistory(self.state, after, updates) if self._keeps == "full" else None,
            sent=self._sent(updates, len(names)),
        )

    def _sent(self, updates: UpdateMatrix, cohort: int) -> SentUpdates[Address] | None:
        """What the search for twins needs of a round; too large a cohort is not searched."""
        if self._keeps == "none" or cohort > MAX_PLAYERS:
            return None
        rows = updates.parameters
        if rows.shape[1] > SKETCH_SIZE:
            return SentUpdates(updates.owners, sketch_rows(rows, SKETCH_SIZE, seed=self.terms.seed))
        return SentUpdates(updates.owners, rows)

    def measured(self, state: ModelState) -> Measured:
        """Utility and accuracy of a model of the job."""
        paying, rows = self.hidden.paying, self.hidden.everything
        losses = self.model.per_sample_loss(state.params, state.buffers, (paying.inputs,), paying.labels)
        clip = self.terms.plan.loss_clip
        utility = FixedPointUtility().utility(np.nan_to_num(losses, nan=clip, posinf=clip), clip)
        if self.terms.loss not in CLASS_LOSSES:
            return Measured(utility, 0)
        found = self.model.predict(state.params, state.buffers, (rows.inputs,))
        return Measured(utility, int((np.argmax(found, axis=-1) == rows.labels).sum()))

    def gradient_blocks(self, buffers: F32) -> GradientBlocks:
        """Mean gradient per sample of each block of the paying half, f64[blocks, P], at any parameters."""
        rows = self.hidden.paying
        blocks = [
            rows.take(part) for part in np.array_split(np.arange(len(rows), dtype=np.int64), SCORE_BLOCKS)
        ]
        rows_per_block = len(rows) / SCORE_BLOCKS

        def gradients(params: F64) -> F64:
            point, clip = params.astype(np.float32), self.terms.plan.loss_clip
            found = np.empty((SCORE_BLOCKS, params.size))
            for row, block in zip(found, blocks, strict=True):
                row[:] = self.model.gradient_eval(point, buffers, (block.inputs,), block.labels, clip=clip)
            found /= rows_per_block
            return found

        return gradients

    def utility(self, params: F64, buffers: F32) -> float:
        """Minus the mean clipped loss on the paying half, in nats per sample."""
        rows = self.hidden.paying
        losses = self.model.per_sample_loss(params.astype(np.float32), buffers, (rows.inputs,), rows.labels)
        return -float(np.minimum(losses, self.terms.plan.loss_clip).mean())


def _moved_too_far(changes: I32, accepted: NDArray[np.bool_], reference: I32) -> NDArray[np.bool_]:
    """Whose buffers moved ``BUFFER_EXCESS`` times further than both the accepted ones' median and the hidden
    set's, bool[m]."""
    kept = np.flatnonzero(accepted)
    result = np.zeros(len(changes), np.bool_)
    if not reference.size or not kept.size:
        return result
    squares = exact_squares(changes[kept])
    median = int(np.sort(squares)[(kept.size - 1) // 2])
    allowed = BUFFER_EXCESS**2 * max(median, int(exact_squares(reference[None])[0]))
    result[kept] = squares > allowed
    return result


def _moved(buffers: F32, change: NDArray[np.int32] | NDArray[np.int64], weight: int) -> F32:
    """Buffers after a (summed) change."""
    step = Quantizer(BUFFER_BITS, BUFFER_RANGE).dequantize(change, weight)
    return (buffers.astype(np.float64) + step).astype(np.float32)
