"""One round, from the updates that were accepted to the next model and what each update was worth.

Evaluators and auditors run exactly this: the same inputs give the same decisions, models and scores. Integers
are summed, the server's step is elementwise float64, and what floats decide (the gate's reference step) is
quantised before it is used. Knows neither chain nor store; the hidden test set arrives as arrays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from galaxylearning.contribution import GradientBlocks, PathValue, path_value
from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.errors import GalaxyError, MessageRefused, QuorumMissing, UpdateRefused
from galaxylearning.graph.model import Model
from galaxylearning.learning import (
    LocalPlan,
    Quantizer,
    ServerOptimizer,
    ServerState,
    aggregate,
    check_range,
    clip_norm,
    decode_update,
    encode_update,
    gate,
    train_local,
)
from galaxylearning.learning.vectors import exact_dot
from galaxylearning.messages.records import UpdateBody, decode, encode
from galaxylearning.messages.terms import Plan, Terms
from galaxylearning.units import Address, Digest

F32: TypeAlias = NDArray[np.float32]
F64: TypeAlias = NDArray[np.float64]
I32: TypeAlias = NDArray[np.int32]

Status: TypeAlias = Literal["accepted", "rejected", "absent", "malformed"]

BUFFER_BITS = 32
BUFFER_RANGE = 1024.0
"""Buffers (BatchNorm means and variances) travel as 32-bit integers of changes within ±1024."""

BUFFER_EXCESS = 4
"""The gate rejects buffers that moved this many times further than usual: no gradient speaks of them."""

BUFFERS_TOO_FAR = "buffers moved too far above the median"

SCORE_BLOCKS = 8
"""The paying half of the hidden set is cut into this many blocks, whose spread gives the standard errors."""

MIN_TEST_ROWS = 8 * SCORE_BLOCKS


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Rows as a model takes them: one input array ``[n, ...]`` and the labels ``[n, ...]``."""

    inputs: NDArray[np.generic]
    labels: NDArray[np.generic]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: NDArray[np.int64]) -> Rows:
        """The rows with these indices."""
        return Rows(self.inputs[rows], self.labels[rows])


@dataclass(frozen=True, slots=True, eq=False)
class HiddenSet:
    """The requester's hidden test set: one half gates updates, the other half pays for them."""

    gating: Rows
    paying: Rows
    everything: Rows

    @classmethod
    def split(cls, rows: Rows, *, seed: int) -> HiddenSet:
        """Cut ``rows`` in two halves by ``seed``, which the terms fix.

        Raises:
            UpdateRefused: fewer than ``MIN_TEST_ROWS`` rows.
        """
        if len(rows) < MIN_TEST_ROWS:
            raise UpdateRefused(
                f"{len(rows)} rows; at least {MIN_TEST_ROWS} are needed to gate and to pay", where="test set"
            )
        order = np.random.default_rng([seed, 0x5EED]).permutation(len(rows)).astype(np.int64)
        half = len(rows) // 2
        return cls(rows.take(np.sort(order[:half])), rows.take(np.sort(order[half:])), rows)


@dataclass(frozen=True, slots=True, eq=False)
class ModelState:
    """The model between rounds: trainable parameters, federated buffers, the server optimiser's memory."""

    params: F32
    buffers: F32
    server: ServerState
    previous_step: F64 | None


@dataclass(frozen=True, slots=True)
class Decision:
    """What became of one data owner's part in a round."""

    data_owner: Address
    status: Status
    """``rejected`` is the gate's word, ``malformed`` that of whoever tried to read the update."""
    reason: str
    weight: int
    cosine: float


@dataclass(frozen=True, slots=True, eq=False)
class RoundOutcome:
    """Everything a round decided; ``updates`` are those that were well-formed, dequantised."""

    round_index: int
    before: ModelState
    after: ModelState
    decisions: tuple[Decision, ...]
    updates: Mapping[Address, F64]
    scores: Mapping[Address, tuple[float, float]]
    """Value and standard error in nats per hidden sample, of the accepted."""


def local_plan(plan: Plan) -> LocalPlan:
    """The training part of a plan."""
    return LocalPlan(
        optimizer=plan.optimizer,
        learning_rate=plan.learning_rate,
        momentum=plan.momentum,
        weight_decay=plan.weight_decay,
        prox_mu=plan.prox_mu,
        epochs=plan.epochs,
        steps=plan.steps,
        batch_size=plan.batch_size,
    )


def server_optimizer(plan: Plan) -> ServerOptimizer:
    """The server optimiser of a plan."""
    return ServerOptimizer(
        plan.server_optimizer,
        learning_rate=plan.server_learning_rate,
        momentum=plan.server_momentum,
        beta2=plan.beta2,
        tau=plan.tau,
    )


def quantizer(plan: Plan) -> Quantizer:
    """How parameters become integers: no coordinate can exceed the norm the update is clipped to.

    Raises:
        ConfigRefused: the sum over the largest cohort could leave the accumulator.
    """
    check_range(plan.bits, plan.maximum_owners, plan.max_weight)
    return Quantizer(plan.bits, plan.clip_norm)


def training_seed(terms: Terms, round_index: int, data_owner: Address) -> np.random.Generator:
    """The generator of one data owner's round: the same on every machine, different for every identity."""
    return np.random.default_rng([terms.seed, round_index, int(data_owner, 16)])


def train_update(
    model: Model, terms: Terms, state: tuple[F32, F32], rows: Rows, *, rng: np.random.Generator
) -> tuple[I32, I32]:
    """Train at home: ``(parameters int32[P], buffers int32[B])``, clipped and quantised, all that may leave.

    Raises:
        UpdateRefused: training diverged; the step is named.
    """
    params, buffers = state

    def gradient(
        current: F32, memory: F32, batch: NDArray[np.int64], chance: np.random.Generator
    ) -> tuple[float, F32, F32]:
        part = rows.take(batch)
        return model.gradient(current, memory, (part.inputs,), part.labels, rng=chance)

    result = train_local(gradient, params, buffers, len(rows), local_plan(terms.plan), rng=rng)
    ints = quantizer(terms.plan).quantize(clip_norm(result.update, terms.plan.clip_norm))
    return ints, Quantizer(BUFFER_BITS, BUFFER_RANGE).quantize(result.buffers - buffers)


def encode_body(
    job_id: int, round_index: int, data_owner: Address, update: tuple[I32, I32], bits: int
) -> bytes:
    """The update as it is sealed."""
    parameters, buffers = update
    return encode(
        UpdateBody(
            job_id=job_id,
            round_index=round_index,
            data_owner=data_owner,
            parameters=encode_update(parameters, bits),
            buffers=encode_update(buffers, BUFFER_BITS),
        )
    )


def decode_body(
    data: bytes, *, job_id: int, round_index: int, data_owner: Address, sizes: tuple[int, int], bits: int
) -> tuple[I32, I32]:
    """Read an update back, checking that it is this owner's, for this round, and of the model's shape.

    Raises:
        MessageRefused, UpdateRefused: naming what is wrong.
    """
    body = decode(data, UpdateBody, max_bytes=body_limit(sizes, bits))
    for field, given, wanted in (
        ("job_id", body.job_id, job_id),
        ("round_index", body.round_index, round_index),
        ("data_owner", body.data_owner, data_owner),
    ):
        if given != wanted:
            raise MessageRefused(f"{given}; {wanted} allowed", where=f"UpdateBody.{field}")
    return decode_update(body.parameters, sizes[0], bits), decode_update(body.buffers, sizes[1], BUFFER_BITS)


def body_limit(sizes: tuple[int, int], bits: int) -> int:
    """The most bytes an encoded update of this model can have."""
    return sizes[0] * (2 if bits <= 16 else 4) + sizes[1] * 4 + 1024


class JobComputation:
    """The job's arithmetic, round by round, for an evaluator that lives it and an auditor who replays it."""

    def __init__(self, terms: Terms, job_id: int, model: Model, hidden: HiddenSet) -> None:
        """Begin at the initial model."""
        self.terms, self.job_id, self.model, self.hidden = terms, job_id, model, hidden
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
        return blake3_digest(self.model_bytes())

    def advance(self, bodies: Mapping[Address, bytes | GalaxyError | None]) -> RoundOutcome:
        """Take one round's opened updates of the whole cohort: bytes, why they could not be opened, or None.

        A round in which nothing is accepted leaves the model as it was.
        """
        round_index, before = self.round_index, self.state
        updates, decisions = self._read(bodies, round_index)
        decisions |= self._gate(updates, before, round_index)
        weights = {who: decisions[who].weight for who in updates if decisions[who].status == "accepted"}
        after = self._step(before, updates, weights) if weights else before
        scale = quantizer(self.terms.plan)
        vectors = {who: scale.dequantize(update[0], 1) for who, update in updates.items()}
        outcome = RoundOutcome(
            round_index,
            before,
            after,
            tuple(decisions[who] for who in sorted(decisions, key=lambda who: int(who, 16))),
            vectors,
            self._score(before, after, {who: vectors[who] for who in weights}, weights),
        )
        self.outcomes.append(outcome)
        self.state = after
        return outcome

    def _read(
        self, bodies: Mapping[Address, bytes | GalaxyError | None], round_index: int
    ) -> tuple[dict[Address, tuple[I32, I32]], dict[Address, Decision]]:
        updates: dict[Address, tuple[I32, I32]] = {}
        decisions: dict[Address, Decision] = {}
        for who in sorted(bodies, key=lambda who: int(who, 16)):
            body = bodies[who]
            if body is None:
                decisions[who] = Decision(who, "absent", "no update", 0, 0.0)
                continue
            try:
                if isinstance(body, GalaxyError):
                    raise body
                update = decode_body(
                    body,
                    job_id=self.job_id,
                    round_index=round_index,
                    data_owner=who,
                    sizes=self.sizes,
                    bits=self.terms.plan.bits,
                )
                self._check_buffers(update[1])
            except GalaxyError as refused:
                decisions[who] = Decision(who, "malformed", str(refused)[:200], 0, 0.0)
            else:
                updates[who] = update
        return updates, decisions

    def _check_buffers(self, change: I32) -> None:
        """Refuse buffers under which the model of this round is not finite on the gating rows."""
        if not change.size:
            return
        buffers = _moved(self.state.buffers, change, 1)
        rows = self.hidden.gating
        losses = self.model.per_sample_loss(self.state.params, buffers, (rows.inputs,), rows.labels)
        if not bool(np.isfinite(losses).all()):
            raise UpdateRefused("make the model's loss infinite or NaN", where="buffers")

    def _gate(
        self, updates: Mapping[Address, tuple[I32, I32]], state: ModelState, round_index: int
    ) -> dict[Address, Decision]:
        plan = self.terms.plan
        order = list(updates)
        if not order:
            return {}
        if not plan.gate:
            return {who: Decision(who, "accepted", "", plan.max_weight, 0.0) for who in order}
        rng = np.random.default_rng([self.terms.seed, round_index, 0x6A7E])
        try:
            reference, buffers = train_update(
                self.model, self.terms, (state.params, state.buffers), self.hidden.gating, rng=rng
            )
        except UpdateRefused as refused:
            raise QuorumMissing(f"the hidden-set step diverged: {refused}") from refused
        found = gate(
            [updates[who][0] for who in order], reference.astype(np.int64), max_weight=plan.max_weight
        )
        kept = [who for who, one in zip(order, found, strict=True) if one.accepted]
        too_far = _moved_too_far({who: updates[who][1] for who in kept}, buffers)
        return {
            who: Decision(who, "rejected", one.reason or BUFFERS_TOO_FAR, 0, one.cosine)
            if not one.accepted or who in too_far
            else Decision(who, "accepted", "", one.weight, one.cosine)
            for who, one in zip(order, found, strict=True)
        }

    def _step(
        self, before: ModelState, updates: Mapping[Address, tuple[I32, I32]], weights: Mapping[Address, int]
    ) -> ModelState:
        total, weight = aggregate((w, updates[who][0]) for who, w in weights.items())
        mean = quantizer(self.terms.plan).dequantize(total, weight)
        server, params = server_optimizer(self.terms.plan).apply(before.server, before.params, mean)
        buffers = before.buffers
        if buffers.size:
            change, weight = aggregate((w, updates[who][1]) for who, w in weights.items())
            buffers = _moved(buffers, change, weight)
        return ModelState(params, buffers, server, params.astype(np.float64) - before.params)

    def _score(
        self,
        before: ModelState,
        after: ModelState,
        updates: Mapping[Address, F64],
        weights: Mapping[Address, int],
    ) -> dict[Address, tuple[float, float]]:
        """Value of every accepted update, with its standard error, in nats per hidden sample."""
        if not updates or after.previous_step is None:
            return {}
        plan = self.terms.plan
        total = sum(weights.values())
        scored: PathValue = path_value(
            self.gradient_blocks(before.buffers),
            before.params.astype(np.float64),
            after.previous_step,
            [update * plan.server_learning_rate for update in updates.values()],
            [weights[who] / total for who in updates],
            midpoints=plan.midpoints,
            previous_step=before.previous_step if plan.novelty else None,
        )
        return {
            who: (float(value), float(error))
            for who, value, error in zip(updates, scored.values, scored.standard_errors, strict=True)
        }

    def gradient_blocks(self, buffers: F32) -> GradientBlocks:
        """Mean gradient per sample of each block of the paying half, f64[blocks, P], at any parameters."""
        rows = self.hidden.paying
        blocks = [
            rows.take(part) for part in np.array_split(np.arange(len(rows), dtype=np.int64), SCORE_BLOCKS)
        ]
        rows_per_block = len(rows) / SCORE_BLOCKS

        def gradients(params: F64) -> F64:
            point = params.astype(np.float32)
            clip = self.terms.plan.loss_clip
            summed = [
                self.model.gradient_eval(point, buffers, (block.inputs,), block.labels, clip=clip)
                for block in blocks
            ]
            return np.stack(summed) / rows_per_block

        return gradients

    def utility(self, params: F64, buffers: F32) -> float:
        """Minus the mean clipped loss on the paying half, in nats per sample."""
        rows = self.hidden.paying
        losses = self.model.per_sample_loss(params.astype(np.float32), buffers, (rows.inputs,), rows.labels)
        return -float(np.minimum(losses, self.terms.plan.loss_clip).mean())


def _moved_too_far(changes: Mapping[Address, I32], reference: I32) -> frozenset[Address]:
    """Whose buffers moved ``BUFFER_EXCESS`` times further than both the median's and the hidden set's."""
    squares = {who: exact_dot(change, change) for who, change in changes.items()}
    if not reference.size or not squares:
        return frozenset()
    median = sorted(squares.values())[(len(squares) - 1) // 2]
    allowed = BUFFER_EXCESS**2 * max(median, exact_dot(reference, reference))
    return frozenset(who for who, square in squares.items() if square > allowed)


def _moved(buffers: F32, change: NDArray[np.int32] | NDArray[np.int64], weight: int) -> F32:
    """Buffers after a (summed) change."""
    step = Quantizer(BUFFER_BITS, BUFFER_RANGE).dequantize(change, weight)
    return (buffers.astype(np.float64) + step).astype(np.float32)
